//! Room: what was not used for longest goes.

use std::ffi::OsString;
use std::time::SystemTime;

use log::debug;

use super::{DOCUMENTS, LISTINGS, RELEASES, SUMS, TAGS};
use crate::dir::Dir;

/// Folders that share so many bytes.
pub struct Shelf {
    pub folders: &'static [&'static str],
    pub room: u64,
}

/// Each kind by itself: what a stranger's repository brings can be had again, but to make a file
/// again, only to know its sum, takes minutes.
pub const SHELVES: [Shelf; 4] = [
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
    // One for each directory that a client had in the last hour, of some 300 bytes for each of its files.
    Shelf {
        folders: &[LISTINGS],
        room: 64 << 20,
    },
    // One for each repository, of some hundred bytes for each of its tags.
    Shelf {
        folders: &[TAGS],
        room: 16 << 20,
    },
];

/// What a file takes at least: a block, as most file systems have them.
pub const BLOCK: u64 = 4 << 10;

/// A file that is kept.
pub struct Kept {
    pub folder: &'static str,
    pub name: OsString,
    pub used: SystemTime,
    pub size: u64,
}

/// What is kept in these folders, in no order.
pub fn kept(root: &Dir, folders: &[&'static str]) -> Vec<Kept> {
    let mut kept = Vec::new();
    for folder in folders {
        let entries = root.sub(folder).and_then(|folder| folder.entries());
        let files = entries.into_iter().flatten().filter(|entry| entry.is_file);
        kept.extend(files.map(|file| Kept {
            folder,
            name: file.name,
            used: file.modified,
            size: file.len.max(file.on_disk).max(BLOCK),
        }));
    }
    kept
}

/// Removes a file that is kept. Is it gone?
pub fn remove(root: &Dir, Kept { folder, name, .. }: &Kept) -> bool {
    let removed = root.sub(folder).and_then(|folder| folder.remove(name));
    removed.is_ok()
}

/// Removes what was not used for longest until the rest has room on its shelf.
pub fn trim(root: &Dir, Shelf { folders, room }: &Shelf, part: u64) {
    let mut kept = kept(root, folders);
    kept.sort_by_key(|one| std::cmp::Reverse(one.used));
    let mut sum = 0;
    for one in kept {
        sum += one.size;
        if sum > *room / part && remove(root, &one) {
            debug!("{}/{} makes room", one.folder, one.name.display());
            sum -= one.size;
        }
    }
}
