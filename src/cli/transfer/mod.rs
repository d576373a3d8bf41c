//! The command `transfer`: writes the transfer files of systemd-sysupdate for what a repository offers.

mod automatic;
mod component;

use super::asked::Asked;
use super::output;
use super::reference::Reference;
use super::systemd::SystemdVersion;
use crate::error::{Error, Result};
pub use component::Component;

/// The name of the command, for errors.
const COMMAND: &str = "transfer";

/// What is wanted besides the text of the files.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Install the file in /etc/sysupdate.NAME.d/ (as root). A file that is there and says something else is left as it is
    #[arg(long)]
    pub write: bool,
    /// Replace a file that is there
    #[arg(long, requires = "write")]
    pub force: bool,
    /// Update every night from now on
    #[arg(long, requires = "write", conflicts_with = "undo")]
    pub automatic: bool,
    /// Remove what --write and --automatic installed
    #[arg(long, conflicts_with_all = ["write", "force"])]
    pub undo: bool,
    /// Call the component so [default: the last part of the repository's name]
    #[arg(long, value_name = "NAME")]
    pub component: Option<Component>,
}

/// Prints or installs the files. The result is whether there is something to transfer.
pub fn transfer(_asked: &Asked, reference: &Reference, options: Options) -> Result<bool> {
    let component = match options.component {
        Some(component) => component,
        None => Component::of(&reference.directory.repository)?,
    };
    if options.undo {
        output::print(&automatic::undo(&component)?)?;
        return Ok(true);
    }
    let systemd = SystemdVersion::of_this_machine(COMMAND)?;
    if options.automatic {
        output::print(&automatic::enable(&component, systemd)?)?;
    }
    Err(Error::CannotDo {
        command: COMMAND,
        why: "this version cannot".to_owned(),
    })
}
