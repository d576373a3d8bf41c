//! The state directory of the service, as root finds it.

use std::env;
use std::path::PathBuf;

use super::check_root;
use crate::dir::Dir;
use crate::error::{Error, Result};

/// `StateDirectory=` of the service.
const STATE_DIRECTORY: &str = "/var/lib/sysext-oci-proxy";

/// The state directory of the service, for root.
pub fn directory(command: &'static str) -> Result<Dir> {
    check_root(command)?;
    let named = env::var_os("STATE_DIRECTORY").filter(|named| !named.is_empty());
    let path = named.map_or_else(|| STATE_DIRECTORY.into(), PathBuf::from);
    Dir::open(&path).map_err(|error| Error::CannotDo {
        command,
        why: format!(
            "state directory {}: {error}; the service creates it when it starts, $STATE_DIRECTORY names another",
            path.display()
        ),
    })
}
