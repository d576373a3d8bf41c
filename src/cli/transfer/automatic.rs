//! Updates of a component every night, and how they are ended: `--automatic` and `--undo`.

use super::COMMAND;
use super::component::Component;
use crate::cli::systemd::SystemdVersion;
use crate::error::{Error, Result};

/// Has a component updated every night. Its transfer files are installed. The result says what was done, a line each.
pub fn enable(_component: &Component, _systemd: SystemdVersion) -> Result<String> {
    Err(not_yet("--automatic"))
}

/// Undoes what [`enable`] did. The result says what was done, a line each.
pub fn undo(_component: &Component) -> Result<String> {
    Err(not_yet("--undo"))
}

fn not_yet(option: &str) -> Error {
    Error::CannotDo {
        command: COMMAND,
        why: format!("this version has no {option}"),
    }
}
