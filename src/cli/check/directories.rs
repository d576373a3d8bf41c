//! The directories of the service: its cache and its state.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::machine::Machine;
use super::report::{Finding, Report, Step};
use crate::dir::{self, Dir};
use crate::printable::human_size;
use crate::settings;

/// `CacheDirectory=` and `StateDirectory=` of the unit.
const CACHE: &str = "/var/cache/sysext-oci-proxy";
const STATE: &str = "/var/lib/sysext-oci-proxy";
/// Free bytes below which the state cannot be kept, and images cannot be flattened.
const LEAST_STATE: u64 = 1 << 20;
const LEAST_CACHE: u64 = 64 << 20;

/// Looks at the directories of the service, or at those of this command with `--config` and `--direct`.
pub fn check(report: &mut Report, machine: &Machine, is_direct: bool) {
    let places = match is_direct {
        true => [settings::cache_directory(), settings::state_directory()],
        false => [CACHE, STATE].map(|path| Some(machine.path(path))),
    };
    for (step, path) in [Step::Cache, Step::State].into_iter().zip(places) {
        report.push(match path {
            Some(path) => look(step, &path).of(path.display()),
            None => Finding::warning(
                step,
                "there is no directory: neither $HOME nor systemd's variables name one",
                "set $CACHE_DIRECTORY and $STATE_DIRECTORY",
            ),
        });
    }
}

fn look(step: Step, path: &Path) -> Finding {
    match fs::metadata(path) {
        Ok(found) if !found.is_dir() => {
            let remedy = "remove it: systemd creates the directory when the service starts";
            return Finding::failed(step, "this is a file, expected a directory", remedy);
        }
        // systemd sets the owner, but a mode of the administrator's is kept below it.
        Ok(found) if found.mode() & 0o200 == 0 => {
            let why = format!(
                "its owner may not write in it: its mode is {:o}",
                found.mode() & 0o7777
            );
            return Finding::failed(step, why, format!("chmod u+w {}", path.display()));
        }
        _ => {}
    }
    let (dir, is_it) = match nearest(path) {
        Ok(found) => found,
        Err(error) => {
            let remedy = "correct that, or run this command as root";
            return Finding::unknown(step, format!("it cannot be opened: {error}"), remedy);
        }
    };
    judge(step, dir.is_read_only(), dir.free(), is_it)
}

/// The directory, or the nearest above it that is there and may be opened, and whether it is the one. With
/// `DynamicUser=` only root may look below `private/`.
fn nearest(path: &Path) -> io::Result<(Dir, bool)> {
    let mut at: PathBuf = path.to_owned();
    loop {
        match Dir::open(&at) {
            Ok(dir) => return Ok((dir, at == path)),
            Err(error)
                if !matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::PermissionDenied
                ) =>
            {
                return Err(error);
            }
            Err(error) if !at.pop() => return Err(error),
            Err(_) => {}
        }
    }
}

fn judge(step: Step, is_read_only: bool, free: Option<u64>, is_there: bool) -> Finding {
    if is_read_only {
        let why = "its file system is mounted read-only";
        return Finding::failed(
            step,
            why,
            "mount it for writing; dmesg may say why it is not",
        );
    }
    let size = free.map_or_else(|| "an unknown size".to_owned(), human_size);
    match (step, free) {
        (Step::State, Some(free)) if free < LEAST_STATE => {
            let why = format!("its disk is full: {size} is free, and the state cannot be saved");
            return Finding::failed(step, why, "remove files from that disk");
        }
        (Step::Cache, Some(free)) if free < LEAST_CACHE => {
            let why = format!(
                "its disk is nearly full: {size} is free; images that must be flattened are not offered"
            );
            return Finding::warning(step, why, "remove files from that disk");
        }
        _ => {}
    }
    let place = match (is_there, dir::is_root()) {
        (true, _) => "",
        (false, true) => "; the directory is created when the service starts",
        (false, false) => "; only root can open the directory",
    };
    Finding::ok(step, format!("{size} is free{place}"))
}

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::*;

    #[test]
    fn a_disk_that_is_full_or_read_only_is_told() {
        for (step, is_read_only, free, status) in [
            (Step::Cache, false, Some(1 << 30), Status::Ok),
            (Step::State, false, Some(1 << 30), Status::Ok),
            (Step::State, false, None, Status::Ok),
            (Step::Cache, true, Some(1 << 30), Status::Failed),
            (Step::State, true, Some(1 << 30), Status::Failed),
            (Step::Cache, false, Some(0), Status::Warning),
            (Step::State, false, Some(0), Status::Failed),
            (Step::State, false, Some(2 << 20), Status::Ok),
        ] {
            let found = judge(step, is_read_only, free, true);
            assert_eq!(found.status, status, "{found}");
        }
    }
}
