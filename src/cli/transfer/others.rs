//! Transfer files of others on this machine, which must not be for the same.

use std::path::{Path, PathBuf};

use super::COMMAND;
use super::component::Component;
use super::text::{self, TransferFile};
use crate::error::{Error, Result};
use crate::sysupdate::pattern::Pattern;
use crate::sysupdate::{
    self, Definition, Specifiers, SystemdVersion, Target, TargetKind, Transfer,
};

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

/// Files of others in the way of these transfer files, a phrase each: a file where a `CurrentSymlink=` would be, or
/// another transfer file with the same target whose pattern matches the same names.
pub fn in_the_way(
    root: &Path,
    component: &Component,
    files: &[TransferFile],
    systemd: SystemdVersion,
) -> Result<Vec<String>> {
    let name = component.to_string();
    let specifiers = Specifiers::read(root);
    let parse = |one: &Definition| Transfer::parse(one, &specifiers, systemd).ok();
    let all = definitions(root)?;
    let theirs: Vec<_> = all
        .iter()
        .filter(|one| one.component.as_ref() != Some(&name))
        .filter_map(parse)
        .collect();
    let mut found = Vec::new();
    for file in files {
        let path = Path::new("/")
            .join(text::directory(component))
            .join(&file.name);
        let Some(ours) = parse(&Definition::new(&path, &name, &file.text)) else {
            continue;
        };
        let link = ours.target.current_symlink.as_deref();
        let is_no_link = |link: &&Path| {
            below(root, link)
                .symlink_metadata()
                .is_ok_and(|at| !at.is_symlink())
        };
        found.extend(
            link.filter(is_no_link)
                .map(|link| format!("{} is no link and would be replaced by one", link.display())),
        );
        let same = theirs
            .iter()
            .filter(|one| is_same(&one.target, &ours.target, systemd));
        found.extend(same.map(|one| {
            format!(
                "{} has the target of {}, and each would remove the other's versions",
                one.file.display(),
                path.display()
            )
        }));
    }
    Ok(found)
}

/// Whether two targets are one place, and versions there could be of both.
fn is_same(one: &Target, other: &Target, systemd: SystemdVersion) -> bool {
    let place = |target: &Target| {
        let is_partition = target.kind == TargetKind::Partition;
        (is_partition, target.is_in_boot, target.path.clone())
    };
    let overlap = |one: &Pattern, other: &Pattern| one.version(&example(other), systemd).is_some();
    place(one) == place(other)
        && one.patterns.iter().any(|one| {
            let mut others = other.patterns.iter();
            others.any(|other| overlap(one, other) || overlap(other, one))
        })
}

/// A name that a pattern matches.
fn example(pattern: &Pattern) -> String {
    let fields = [("@v", "1"), ("@l", "1"), ("@d", "1"), ("@@", "@")];
    fields
        .iter()
        .fold(pattern.to_string(), |name, (field, value)| {
            name.replace(field, value)
        })
}

/// The paths below `root` that those of these transfer files name as targets that are still there.
pub fn needed(root: &Path, definitions: &[Definition]) -> Vec<PathBuf> {
    let specifiers = Specifiers::read(root);
    let is_there = |one: &&Definition| below(root, &one.path).exists();
    let there = definitions.iter().filter(is_there);
    there
        .flat_map(sysupdate::target_paths)
        .filter_map(|path| specifiers.expand(path).ok())
        .filter(|path| path.starts_with('/'))
        .map(|path| below(root, Path::new(&path)))
        .collect()
}

/// A path of the machine, below its root directory.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// The transfer files of this machine.
pub fn definitions(root: &Path) -> Result<Vec<Definition>> {
    sysupdate::find(root).map_err(|fault| Error::CannotDo {
        command: COMMAND,
        why: fault.to_string(),
    })
}
