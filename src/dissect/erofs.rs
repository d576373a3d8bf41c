//! erofs, by the crate erofs-rs: it knows the ways that mkfs.erofs packs, and limits what it unpacks.
//!
//! It borrows from an image that is all in memory. What it gets instead are pieces that are fetched
//! when it asks for them, and stay.

use std::cell::{Cell, OnceCell, RefCell};
use std::io::Read;
use std::ops::{Bound, Range, RangeBounds};
use std::rc::Rc;

use erofs_rs::{EroFS, Error as ErofsError};

use super::range_reader::{Failure, Region, bad};
use super::{Entry, FileSystem, MAX_FILE, is_release};

/// What is at [`MAGIC_AT`].
pub const MAGIC: [u8; 4] = 0xE0F5_E1E2_u32.to_le_bytes();
/// Where the superblock begins (Linux, fs/erofs/erofs_fs.h: EROFS_SUPER_OFFSET).
pub const MAGIC_AT: usize = 1024;

/// Pieces kept, and bytes in all of them. To find a file takes some dozens.
const MAX_PIECES: usize = 1024;
const MAX_BYTES: usize = 2 << 20;
/// How often something is asked for. A directory may be packed so that each look at it unpacks
/// megabytes. A release is found by some dozens.
const MAX_REQUESTS: usize = 2 << 10;
/// Where pieces begin and end: inodes and names are small, and lie close together.
const ALIGNMENT: u64 = 4 << 10;
/// Files of one directory that are looked at.
const MAX_ENTRIES: usize = 1024;

/// An erofs image.
pub struct Erofs<'b, 'a> {
    files: EroFS<Pieces<'b, 'a>>,
    failure: Rc<RefCell<Option<Failure>>>,
}

impl<'b, 'a> Erofs<'b, 'a> {
    /// Reads the superblock.
    pub fn open(image: Region<'b, 'a>) -> Result<Self, Failure> {
        let failure = Rc::new(RefCell::new(None));
        let pieces = Pieces {
            // One that ends nobody knows where may have any length.
            size: image.size().unwrap_or(u64::MAX),
            image: RefCell::new(image),
            pieces: (0..MAX_PIECES).map(|_| OnceCell::new()).collect(),
            bytes: Cell::new(0),
            requests: Cell::new(0),
            failure: failure.clone(),
        };
        match EroFS::new(pieces) {
            Ok(files) => Ok(Self { files, failure }),
            Err(error) => Err(why(&failure, &error)),
        }
    }

    fn why(&self, error: &ErofsError) -> Failure {
        why(&self.failure, error)
    }
}

/// What kept the crate from its bytes, or else what it says.
fn why(failure: &RefCell<Option<Failure>>, error: &ErofsError) -> Failure {
    let failure = failure.borrow_mut().take();
    failure.unwrap_or_else(|| Failure::Image(format!("its erofs cannot be read: {error}")))
}

impl FileSystem for Erofs<'_, '_> {
    fn releases(&mut self, directory: &str) -> Result<Vec<Entry>, Failure> {
        let entries = match self.files.read_dir(directory) {
            Ok(entries) => entries,
            Err(ErofsError::PathNotFound(_) | ErofsError::NotADirectory(_)) => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(self.why(&error)),
        };
        let mut found = Vec::new();
        for entry in entries.take(MAX_ENTRIES) {
            let entry = entry.map_err(|error| self.why(&error))?;
            if entry.inode.is_file()
                && let Some(name) = is_release(entry.dir_entry.file_name())
            {
                found.push(Entry {
                    name: name.to_owned(),
                    inode: entry.dir_entry.nid(),
                });
            }
        }
        Ok(found)
    }

    fn read(&mut self, entry: &Entry) -> Result<Vec<u8>, Failure> {
        let inode = self.files.get_inode(entry.inode);
        let file = inode.and_then(|inode| self.files.open_inode_file(inode));
        let file = file.map_err(|error| self.why(&error))?;
        if file.size() > MAX_FILE as u64 {
            return bad(format!(
                "{} has {} bytes, at most {MAX_FILE} are read",
                entry.name,
                file.size()
            ));
        }
        let (mut bytes, expected) = (Vec::new(), file.size());
        match file.take(expected).read_to_end(&mut bytes) {
            Ok(found) if found as u64 == expected => Ok(bytes),
            Ok(found) => bad(format!(
                "{} has {found} bytes, expected {expected}",
                entry.name
            )),
            Err(error) => {
                let failure = self.failure.borrow_mut().take();
                Err(failure.unwrap_or_else(|| {
                    Failure::Image(format!("{} cannot be read: {error}", entry.name))
                }))
            }
        }
    }
}

/// What was fetched of an image. Pieces are only added, so that all of them can be borrowed.
struct Pieces<'b, 'a> {
    image: RefCell<Region<'b, 'a>>,
    size: u64,
    pieces: Vec<OnceCell<(u64, Vec<u8>)>>,
    bytes: Cell<usize>,
    requests: Cell<usize>,
    /// Why the last request was not met.
    failure: Rc<RefCell<Option<Failure>>>,
}

impl Pieces<'_, '_> {
    fn find(&self, range: Range<u64>) -> Result<&[u8], Failure> {
        self.image.borrow().check_time()?;
        self.requests.set(self.requests.get() + 1);
        if self.requests.get() > MAX_REQUESTS {
            return bad(format!(
                "its files are not found by {MAX_REQUESTS} looks at it, which is the limit"
            ));
        }
        let within = |(start, bytes): &(u64, Vec<u8>)| {
            *start <= range.start && range.end <= start + bytes.len() as u64
        };
        let kept = self.pieces.iter().map_while(OnceCell::get);
        let piece = match kept.into_iter().find(|piece| within(piece)) {
            Some(piece) => piece,
            None => self.add(range.clone())?,
        };
        let (start, bytes) = piece;
        let (from, to) = (range.start - start, range.end - start);
        match bytes.get(from as usize..to as usize) {
            Some(found) => Ok(found),
            None => bad("a part of it lies behind its end"),
        }
    }

    fn add(&self, range: Range<u64>) -> Result<&(u64, Vec<u8>), Failure> {
        let start = range.start - range.start % ALIGNMENT;
        let end = range
            .end
            .checked_next_multiple_of(ALIGNMENT)
            .unwrap_or(u64::MAX)
            .min(self.size)
            .max(range.end);
        let length = usize::try_from(end - start).unwrap_or(usize::MAX);
        let bytes = self.bytes.get().saturating_add(length);
        let free = self.pieces.iter().find(|piece| piece.get().is_none());
        let Some(free) = free.filter(|_| bytes <= MAX_BYTES) else {
            return bad(format!(
                "its files are not found in {MAX_PIECES} pieces of it with {} MiB, which is the limit",
                MAX_BYTES >> 20
            ));
        };
        let found = self.image.borrow_mut().read(start, length)?;
        self.bytes.set(bytes);
        Ok(free.get_or_init(|| (start, found)))
    }
}

impl erofs_rs::backend::Image for Pieces<'_, '_> {
    fn get<R: RangeBounds<u64>>(&self, range: R) -> Option<&[u8]> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.checked_add(1)?,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.checked_add(1)?,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => self.size,
        };
        if start > end || end > self.size {
            return None;
        }
        let found = self.find(start..end);
        found
            .map_err(|failure| self.failure.replace(Some(failure)))
            .ok()
    }

    fn len(&self) -> u64 {
        self.size
    }
}
