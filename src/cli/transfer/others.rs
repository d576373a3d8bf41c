//! Transfer files of others on this machine, which must not be for the same.

use std::path::Path;

use super::COMMAND;
use super::component::Component;
use super::text;
use crate::error::{Error, Result};
use crate::sysupdate::{self, Definition};

/// The transfer files that others have for this component, outside the directory that files are written to; a line each.
/// One of them would be updated together with ours, or replaced by ours if it has the same name.
pub fn of_component(root: &Path, component: &Component) -> Result<Vec<String>> {
    let name = component.to_string();
    let ours = Path::new("/").join(text::directory(component));
    let is_theirs =
        |one: &&Definition| one.component.as_ref() == Some(&name) && !one.path.starts_with(&ours);
    let all = definitions(root)?;
    let theirs = all.iter().filter(is_theirs).map(|one| {
        format!(
            "{} is of the component {name}, too; --component gives another name",
            one.path.display()
        )
    });
    Ok(theirs.collect())
}

fn definitions(root: &Path) -> Result<Vec<Definition>> {
    sysupdate::find(root).map_err(|fault| Error::CannotDo {
        command: COMMAND,
        why: fault.to_string(),
    })
}
