//! Room: what was not used for longest goes.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use log::debug;

use super::{DOCUMENTS, RELEASES, SUMS, TAGS};

/// Folders that share so many bytes.
pub(super) struct Shelf {
    pub folders: &'static [&'static str],
    pub room: u64,
}

/// Each kind by itself: what a stranger's repository brings can be had again, but to make a file
/// again, only to know its sum, takes minutes.
pub(super) const SHELVES: [Shelf; 3] = [
    // A version takes some 4 KiB of manifests and configs: room for sixty thousand.
    Shelf {
        folders: &[DOCUMENTS, RELEASES],
        room: 256 << 20,
    },
    // One for each version of an image that is flattened: room for sixteen thousand.
    Shelf {
        folders: &[SUMS],
        room: 64 << 20,
    },
    // One for each repository, of some hundred bytes for each of its tags.
    Shelf {
        folders: &[TAGS],
        room: 16 << 20,
    },
];

/// What a file takes at least: a block, as most file systems have them.
pub(super) const BLOCK: u64 = 4 << 10;
/// Use is noted to the day: a listing reads all it needs each time, and would write as much.
const NOTED: Duration = Duration::from_secs(24 * 60 * 60);

/// How many bytes are free for us on the disk of a directory.
pub(super) fn free(directory: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(directory).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// A file that is kept.
pub(super) struct Kept {
    pub path: PathBuf,
    pub used: SystemTime,
    pub size: u64,
}

/// What is kept in these folders, in no order.
pub(super) fn kept(root: &Path, folders: &[&str]) -> Vec<Kept> {
    let entries = folders
        .iter()
        .filter_map(|folder| fs::read_dir(root.join(folder)).ok())
        .flatten()
        .flatten();
    let kept = entries.filter_map(|entry| {
        let metadata = entry.metadata().ok().filter(|found| found.is_file())?;
        Some(Kept {
            path: entry.path(),
            used: metadata.modified().ok()?,
            size: metadata.len().max(metadata.blocks() * 512).max(BLOCK),
        })
    });
    kept.collect()
}

/// Removes what was not used for longest until the rest has room on its shelf.
pub(super) fn trim(root: &Path, Shelf { folders, room }: &Shelf) {
    let mut kept = kept(root, folders);
    kept.sort_by_key(|one| std::cmp::Reverse(one.used));
    let mut sum = 0;
    for Kept { path, size, .. } in kept {
        sum += size;
        if sum > *room && fs::remove_file(&path).is_ok() {
            debug!("{} makes room", path.display());
            sum -= size;
        }
    }
}

/// Makes it one of the last to go. One whose time lies ahead was used before a clock was set.
pub(super) fn note_use(file: &File, path: &Path) {
    let now = SystemTime::now();
    let used = file.metadata().and_then(|metadata| metadata.modified());
    if used.is_ok_and(|used| now.duration_since(used).is_ok_and(|ago| ago < NOTED)) {
        return;
    }
    if let Err(error) = file.set_times(FileTimes::new().set_modified(now)) {
        debug!("{}: its use is not noted: {error}", path.display());
    }
}
