//! The directory that a transfer file installs to: there, writable when an update comes, with room, and without the rest
//! of an update that was broken off.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Update;
use super::mounts::{self, Mount};
use super::offered::Newest;
use crate::cli::check::machine::Machine;
use crate::cli::check::report::{Finding, Report, Step};
use crate::dir::Dir;
use crate::printable::human_size;
use crate::sysupdate::{SystemdVersion, pattern};
use crate::version;

/// The table of mounts of this process.
const MOUNTS: &str = "/proc/self/mountinfo";
/// The hierarchies that a merged extension makes read-only: systemd-sysext those of system extensions, systemd-confext
/// that of configuration extensions.
const COVERED: [&str; 3] = ["/usr", "/opt", "/etc"];
/// A place that no extension covers.
const FREE: &str = "/var/lib/extensions.d";
/// The bytes of a block of stat(2).
const BLOCK: u64 = 512;
/// Before the name of a file that systemd-sysupdate has not completed (systemd 262: src/sysupdate/sysupdate-transfer.c).
const PARTIAL: &str = ".sysupdate.partial.";

/// Looks at the target. `newest`: what would be installed.
pub fn check(
    report: &mut Report,
    machine: &Machine,
    systemd: SystemdVersion,
    update: &Update,
    newest: Option<&Newest>,
) {
    let target = &update.transfer.target;
    let Some(path) = target.directory() else {
        let text = "only a directory outside the boot partitions is checked";
        return report.push(Finding::skipped(Step::Target, text).of(&target.path_at));
    };
    let findings = [
        Some(directory(machine, path)),
        newest.and_then(|newest| space(machine, systemd, update, path, newest)),
        partial(machine, systemd, update, path, newest),
    ];
    for finding in findings.into_iter().flatten() {
        report.push(finding.of(&target.path_at));
    }
}

/// Whether the directory is one, or can be created, on a file system that can be written.
fn directory(machine: &Machine, path: &Path) -> Finding {
    let shown = path.display();
    let Resolved { whole, existing } = match resolve(machine, path) {
        Ok(found) => found,
        Err(why) => return Finding::unknown(Step::Target, why, "run this command as root"),
    };
    if !machine.path(&existing).is_dir() {
        let text = format!(
            "Path={shown}, and {} is not a directory",
            existing.display()
        );
        return Finding::failed(
            Step::Target,
            text,
            "name a directory, or move that file away",
        );
    }
    let table = match fs::read_to_string(machine.path(MOUNTS)) {
        Ok(table) => table,
        Err(error) => {
            let text = format!("{MOUNTS} cannot be read: {error}");
            return Finding::unknown(Step::Target, text, "mount /proc");
        }
    };
    let mount = mounts::covering(&table, &whole);
    let covered = COVERED.iter().find(|one| whole.starts_with(one));
    match (mount, covered) {
        (Some(mount), _) if mount.is_read_only => read_only(path, &mount),
        (Some(_), Some(covered)) => Finding::warning(
            Step::Target,
            format!(
                "as soon as an extension that has files in {covered} is merged, {shown} is read-only"
            ),
            format!("write Path={FREE} into [Target], and move what is in {shown} there"),
        ),
        (None, _) => Finding::unknown(
            Step::Target,
            format!("{MOUNTS} does not say where {shown} is"),
            "run this command outside a chroot",
        ),
        _ if whole == existing => Finding::ok(Step::Target, format!("{shown} is writable")),
        _ => Finding::ok(
            Step::Target,
            format!("{shown} is created by the first update"),
        ),
    }
}

fn read_only(path: &Path, mount: &Mount) -> Finding {
    let (path, mounted) = (path.display(), mount.at.display());
    match mount.extensions {
        Some(extensions) => Finding::failed(
            Step::Target,
            format!(
                "{path} is read-only, because merged extensions cover {mounted} ({})",
                extensions.program()
            ),
            format!(
                "write Path={FREE} into [Target], and move what is in {path} there while none is merged"
            ),
        ),
        None => Finding::failed(
            Step::Target,
            format!("{path} is read-only, because {mounted} is mounted read-only"),
            format!("name a directory that can be written, such as {FREE}"),
        ),
    }
}

/// A path without links, and what there is of it.
struct Resolved {
    whole: PathBuf,
    existing: PathBuf,
}

fn resolve(machine: &Machine, path: &Path) -> Result<Resolved, String> {
    for part in path.ancestors() {
        match machine.path(part).canonicalize() {
            Ok(found) => {
                let root = machine.root().canonicalize();
                let root = root.map_err(|error| error.to_string())?;
                let existing = Path::new("/").join(found.strip_prefix(root).unwrap_or(&found));
                let rest = path.strip_prefix(part).unwrap_or(path);
                let whole = existing.join(rest);
                return Ok(Resolved { whole, existing });
            }
            // A file in the place of a directory: the next one up is that file.
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(error) => return Err(format!("{} cannot be read: {error}", part.display())),
        }
    }
    Err("there is no root directory".into())
}

/// Whether there is room for the newest version, beside the versions that are there.
fn space(
    machine: &Machine,
    systemd: SystemdVersion,
    update: &Update,
    path: &Path,
    newest: &Newest,
) -> Option<Finding> {
    let size = newest.size?;
    let existing = resolve(machine, path).ok()?.existing;
    let free = Dir::open(&machine.path(existing)).ok()?.free()?;
    let target = &update.transfer.target;
    let entries = fs::read_dir(machine.path(path)).into_iter().flatten();
    let installed = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let version = pattern::version(&target.patterns, &name, systemd)?.to_owned();
        let found = entry.metadata().ok()?;
        let bytes = found.blocks().saturating_mul(BLOCK);
        // The contents of a directory are not counted.
        Some((version, found.is_file().then_some(bytes)))
    });
    let installed: Vec<_> = installed.collect();
    let is_newest = |(one, _): &(String, _)| version::compare(one, &newest.version).is_ge();
    if let Some((version, _)) = installed.iter().find(|one| is_newest(one)) {
        let text = format!("{version} is installed, so no more room is needed");
        return Some(Finding::skipped(Step::Space, text));
    }
    let freed = freed(installed, target.instances_max);
    Some(room(path, size, free, freed))
}

/// The bytes that systemd-sysupdate frees before it downloads: it removes the oldest versions, until with the new one
/// there are no more than `InstancesMax=` (systemd: `transfer_vacuum`). `None`: some, of unknown size.
fn freed(mut installed: Vec<(String, Option<u64>)>, most: u64) -> Option<u64> {
    installed.sort_by(|(one, _), (other, _)| version::compare(one, other));
    let kept = usize::try_from(most.saturating_sub(1)).unwrap_or(usize::MAX);
    let removed = installed.len().saturating_sub(kept);
    installed[..removed].iter().map(|(_, bytes)| *bytes).sum()
}

fn room(path: &Path, size: u64, free: u64, freed: Option<u64>) -> Finding {
    let (path, free_size, size_shown) = (path.display(), human_size(free), human_size(size));
    if size < free {
        let text = format!("{free_size} are free below {path}; the newest file has {size_shown}");
        return Finding::ok(Step::Space, text);
    }
    let text = format!(
        "{free_size} are free below {path}, and the newest file has {size_shown}, perhaps packed"
    );
    let remedy = "remove files, or lower InstancesMax= in [Target] to keep fewer versions";
    match freed {
        Some(freed) if size >= free.saturating_add(freed) => {
            Finding::failed(Step::Space, text, remedy)
        }
        _ => {
            let text = format!("{text}; systemd-sysupdate removes old versions first");
            Finding::warning(Step::Space, text, remedy)
        }
    }
}

/// The rest of an update. As of systemd 262 it is in the way of the next one to the same version.
fn partial(
    machine: &Machine,
    systemd: SystemdVersion,
    update: &Update,
    path: &Path,
    newest: Option<&Newest>,
) -> Option<Finding> {
    let entries = fs::read_dir(machine.path(path)).ok()?.flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut partial: Vec<_> = names.filter(|name| name.starts_with(PARTIAL)).collect();
    partial.sort();
    let version = |name: &str| {
        let name = name.strip_prefix(PARTIAL)?;
        pattern::version(&update.transfer.target.patterns, name, systemd).map(str::to_owned)
    };
    let of_newest = |name: &&String| {
        newest.is_some_and(|newest| version(name).as_ref() == Some(&newest.version))
    };
    let vacuum = format!("`{}` removes it", update.command(machine, "vacuum"));
    if let Some(name) = partial.iter().find(of_newest) {
        let text = format!(
            "{} is from an interrupted download; the next update to that version fails because of it",
            path.join(name).display()
        );
        return Some(Finding::failed(Step::Partial, text, vacuum));
    }
    let name = partial.first()?;
    let text = format!(
        "{} is from an interrupted download, and takes up space",
        path.join(name).display()
    );
    Some(Finding::warning(Step::Partial, text, vacuum))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::report::Status;

    #[test]
    fn there_has_to_be_room_for_all_of_the_newest_file() {
        for (size, free, freed, expected) in [
            (1, 2, Some(0), Status::Ok),
            (2, 2, Some(0), Status::Failed),
            (3, 2, Some(0), Status::Failed),
            (0, 0, Some(0), Status::Failed),
            (3, 2, Some(1), Status::Failed),
            (3, 2, Some(2), Status::Warning),
            (3, 2, None, Status::Warning),
            (3, 2, Some(u64::MAX), Status::Warning),
        ] {
            let finding = room(Path::new("/var/lib/extensions.d"), size, free, freed);
            assert_eq!(finding.status, expected, "{size} of {free} and {freed:?}");
        }
    }

    #[test]
    fn the_oldest_versions_make_room() {
        let installed = |sizes: &[(&str, Option<u64>)]| {
            let owned = |(version, size): &(&str, _)| ((*version).to_owned(), *size);
            sizes.iter().map(owned).collect::<Vec<_>>()
        };
        let three = installed(&[("10", Some(4)), ("9", Some(1)), ("8", Some(2))]);
        for (most, expected) in [(2, 3), (3, 2), (4, 0), (u64::MAX, 0)] {
            assert_eq!(freed(three.clone(), most), Some(expected), "{most}");
        }
        assert_eq!(freed(Vec::new(), 2), Some(0));
        let unknown = installed(&[("2", Some(1)), ("1", None)]);
        assert_eq!(freed(unknown.clone(), 2), None);
        assert_eq!(freed(unknown, 3), Some(0));
    }
}
