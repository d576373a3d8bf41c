//! Limits for one image that is flattened: memory for its entries, bytes of its files and of archives. No I/O.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::artifact::Recipe;
use crate::error::Error;
use crate::tar::{Entry, Kind, show};

/// Most memory for the layers of one image together.
#[derive(Clone, Copy)]
pub struct Memory {
    /// Number of entries.
    entries: u64,
    /// Bytes of entries.
    bytes: u64,
    /// Bytes of paths without an entry.
    pub implied: usize,
}

impl Memory {
    /// The sum, in bytes.
    pub const fn size(&self) -> usize {
        self.bytes as usize + self.implied
    }
}

/// Enough for most images. Several may be flattened beside a large one.
pub const SMALL: Memory = Memory {
    entries: 20_000,
    bytes: 6 << 20,
    implied: 2 << 20,
};
/// The most for any image: some 160,000 entries with names of usual length.
pub const LARGE: Memory = Memory {
    entries: 200_000,
    bytes: 36 << 20,
    implied: 4 << 20,
};
/// Memory for an entry without its path, link, pieces and xattrs: as a change of its layer, an inode of the tree and a
/// name in it (measured).
const ENTRY: u64 = 176;
/// Memory for an xattr without its name and value.
const XATTR: usize = 160;
/// Most bytes of an archive for headers and padding, for as many entries as there may be.
const MAX_REST: u64 = 1 << 30;
/// The same where the cache is in memory, as a part of the bytes of the files.
const REST_IN_MEMORY: u64 = 2;

/// Most bytes on disk for one image.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Of its files.
    pub files: u64,
    /// Of the archive, and of its layers when they are unpacked.
    pub archive: u64,
    is_in_memory: bool,
}

impl Limits {
    /// For an image whose files may have so many bytes. `is_in_memory`: so is the cache.
    pub fn new(files: u64, is_in_memory: bool) -> Self {
        let rest = if is_in_memory {
            files / REST_IN_MEMORY
        } else {
            MAX_REST
        };
        Self {
            files,
            archive: files.saturating_add(rest),
            is_in_memory,
        }
    }

    /// The reason not to fetch an image, by the sizes in its manifest. A layer that is larger than it may be when it is
    /// unpacked is one; where the cache is in memory, so is the sum of all layers.
    pub fn too_large(&self, recipe: &Recipe) -> Option<Error> {
        let Self { files, archive, .. } = self;
        if self.is_in_memory {
            let size = recipe.size();
            let layer = recipe.layers.last().filter(|_| size > *archive)?.0;
            let why = format!(
                "with those below it has {size} bytes, and the cache is in memory, where at most {archive} are fetched"
            );
            return Some(Error::CannotFlatten { layer, why });
        }
        let (layer, size) = *recipe.layers.iter().find(|(_, size)| size > archive)?;
        let why = format!(
            "it has {size} bytes, at most {archive} are read, {files} of files as 'cache-size' allows"
        );
        Some(Error::CannotFlatten { layer, why })
    }
}

/// The rest of the limits of one image, for all its layers together.
pub struct Budget {
    pub limits: Limits,
    pub memory: Memory,
    entries_left: AtomicU64,
    memory_left: AtomicU64,
    files_left: AtomicU64,
    unpacked_left: AtomicU64,
    is_outgrown: AtomicBool,
}

impl Budget {
    pub fn new(limits: Limits, memory: Memory) -> Self {
        Self {
            limits,
            memory,
            entries_left: AtomicU64::new(memory.entries),
            memory_left: AtomicU64::new(memory.bytes),
            files_left: AtomicU64::new(limits.files),
            unpacked_left: AtomicU64::new(limits.archive),
            is_outgrown: AtomicBool::new(false),
        }
    }

    /// Whether the image was refused because it needs more memory. A larger budget may have that.
    pub fn is_outgrown(&self) -> bool {
        self.is_outgrown.load(Ordering::Relaxed)
    }

    /// Notes that the image needs more memory.
    pub fn outgrow(&self) {
        self.is_outgrown.store(true, Ordering::Relaxed);
    }

    /// The bytes of its files that were read so far.
    pub fn taken(&self) -> u64 {
        self.limits.files - self.files_left.load(Ordering::Relaxed)
    }

    pub fn take_entry(&self, entry: &Entry) -> Result<(), String> {
        let xattrs = entry.attributes.xattrs.iter();
        let xattrs: usize = xattrs
            .map(|(name, value)| name.len() + value.len() + XATTR)
            .sum();
        let link = match &entry.kind {
            Kind::Symlink(target) | Kind::HardLink(target) => target.len(),
            Kind::File { pieces, .. } => size_of_val(pieces.as_slice()),
            _ => 0,
        };
        let Memory { entries, bytes, .. } = self.memory;
        let size = ENTRY + (entry.path.len() + link + xattrs) as u64;
        let why = if !take(&self.entries_left, 1) {
            format!("the image has more than {entries} entries")
        } else if !take(&self.memory_left, size) {
            let mib = bytes >> 20;
            format!("the names and attributes in the image take more than {mib} MiB")
        } else {
            return Ok(());
        };
        self.outgrow();
        Err(why)
    }

    /// Takes the bytes of a file.
    pub fn take_file(&self, path: &[u8], size: u64) -> Result<(), String> {
        if take(&self.files_left, size) {
            return Ok(());
        }
        Err(format!(
            "{}: the files of the image take more than {} bytes, which is all that 'cache-size' allows",
            show(path),
            self.limits.files
        ))
    }

    /// Takes bytes of a layer that is unpacked.
    pub fn take_unpacked(&self, bytes: usize) -> Result<(), String> {
        if take(&self.unpacked_left, bytes as u64) {
            return Ok(());
        }
        let most = self.limits.archive;
        Err(format!(
            "with it the layers unpack to more than {most} bytes"
        ))
    }
}

fn take(left: &AtomicU64, n: u64) -> bool {
    let order = Ordering::Relaxed;
    left.fetch_update(order, order, |left| left.checked_sub(n))
        .is_ok()
}
