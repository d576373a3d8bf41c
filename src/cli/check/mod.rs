//! The command `check`: walks the way that an update takes, and says what is missing.

use std::path::Path;

use super::asked::Whom;
use super::reference::Reference;
use crate::error::{Error, Result};

/// Prints a line for each step; of one repository, or of all that transfer files of this machine name. The result is
/// whether an update would happen.
pub fn check(
    _reference: Option<&Reference>,
    _is_json: bool,
    _whom: Whom,
    _config: Option<&Path>,
) -> Result<bool> {
    Err(Error::CannotDo {
        command: "check",
        why: "this version cannot".to_owned(),
    })
}
