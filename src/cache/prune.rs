//! Removes the files not used for longest when a quota is exceeded.

use std::cmp::Reverse;
use std::ffi::OsString;

use log::{Level, log, warn};

use super::{DOCUMENTS, LAYERS, LISTINGS, MADE, RELEASES, SUMS, TAGS, VERDICTS};
use crate::dir::{Dir, Entry};

/// Most bytes of these folders together.
pub struct Quota {
    pub folders: &'static [&'static str],
    pub size: u64,
}

/// Each kind of file has its own quota, so that many documents of one repository do not displace outcomes of
/// flattening: a document is fetched again in a moment, but to flatten an image again takes minutes.
pub const QUOTAS: [Quota; 4] = [
    // A version takes some 4 KiB of manifests and configs, a signed one thrice as much: room for sixty thousand.
    Quota {
        folders: &[DOCUMENTS, RELEASES, VERDICTS],
        size: 256 << 20,
    },
    // One for each version of a flattened image: room for sixteen thousand.
    Quota {
        folders: &[SUMS],
        size: 64 << 20,
    },
    // One for each directory that a client fetched in the last hour, of some 300 bytes for each file in it.
    Quota {
        folders: &[LISTINGS],
        size: 64 << 20,
    },
    // One for each repository, of some hundred bytes for each of its tags.
    Quota {
        folders: &[TAGS],
        size: 16 << 20,
    },
];

/// Least space that a file takes: a block of most file systems.
pub const BLOCK: u64 = 4 << 10;

/// Removes flattened images and layers until both together have at most `size` bytes. The image `newest` stays, whatever
/// its size.
///
/// A client needs a flattened image once, soon after it was made, and it can be made again from its layers without the
/// network. Each later version needs the layers. So the images make room for layers, as long as these have no more than
/// half: many small layers must not leave room for one image only, or two clients would have the other's image removed.
pub fn trim_images(root: &Dir, size: u64, newest: Option<&str>) {
    let newest_image = newest.and_then(|name| root.sub(MADE).ok()?.entry(name));
    let left = size.saturating_sub(newest_image.map_or(0, |image| taken(&image)));
    let layers = trim(root, &[LAYERS], left.min(size / 2), None);
    trim(root, &[MADE], size.saturating_sub(layers), newest);
}

/// Bytes that a file takes.
fn taken(file: &Entry) -> u64 {
    file.len.max(file.on_disk).max(BLOCK)
}

/// Removes files from these folders, those not used for longest first, until the others have at most `size` bytes.
/// The file with the name `newest` stays, whatever its size. Returns the bytes of the files that stay.
pub fn trim(root: &Dir, folders: &[&str], size: u64, newest: Option<&str>) -> u64 {
    let mut files = Vec::new();
    for folder in folders {
        let entries = root.sub(folder).and_then(|folder| folder.entries());
        let entries = entries.into_iter().flatten().filter(|entry| entry.is_file);
        files.extend(entries.map(|entry| (*folder, entry)));
    }
    let is_newest = |name: &OsString| newest.is_some_and(|newest| name == newest);
    files.sort_by_key(|(_, file)| Reverse((is_newest(&file.name), file.modified)));
    let mut sum = 0;
    for (folder, file) in files {
        let taken = taken(&file);
        sum += taken;
        if sum <= size {
            continue;
        }
        let path = root.path_of(folder).join(&file.name);
        let (path, mib) = (path.display(), taken >> 20);
        if is_newest(&file.name) {
            warn!(
                "{path} has {mib} MiB, more than 'cache-size' allows for all: the next flattened image replaces it"
            );
        } else if root
            .sub(folder)
            .and_then(|in_it| in_it.remove(&file.name))
            .is_ok()
        {
            let level = if folder == MADE {
                Level::Info
            } else {
                Level::Debug
            };
            log!(level, "cache: {mib} MiB make room: {path}");
            sum -= taken;
        }
    }
    sum
}
