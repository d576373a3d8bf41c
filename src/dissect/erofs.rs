//! erofs, read by the crate erofs-rs: it knows all compressions of mkfs.erofs, and limits the bytes that it unpacks.
//!
//! The crate expects an image that is all in memory, and borrows from it. Here pieces of the image are fetched when it
//! asks for them, and are kept as long as it may borrow them.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt::Display;
use std::io::Read;
use std::ops::{Bound, Range, RangeBounds};
use std::rc::Rc;

use erofs_rs::{EroFS, Error as ErofsError};

use super::range_reader::{Failure, Region, bad};
use super::{Entry, FileSystem, MAX_FILE, is_release};

/// The bytes at [`MAGIC_AT`].
pub const MAGIC: [u8; 4] = 0xE0F5_E1E2_u32.to_le_bytes();
/// The offset of the superblock (Linux, fs/erofs/erofs_fs.h: EROFS_SUPER_OFFSET).
pub const MAGIC_AT: usize = 1024;

/// Most pieces, and most bytes of all pieces. A file is found in some dozens of pieces.
const MAX_PIECES: usize = 1024;
const MAX_BYTES: usize = 2 << 20;
/// Most requests of the crate: a directory can be packed so that each request unpacks megabytes. A release is found
/// with some dozens of requests.
const MAX_REQUESTS: usize = 2 << 10;
/// Pieces begin and end at a multiple of this: inodes and names are small, and lie close together.
const ALIGNMENT: u64 = 4 << 10;
/// Most entries of one directory that are read.
const MAX_ENTRIES: usize = 1024;

/// An erofs image.
pub struct Erofs<'b, 'a> {
    files: EroFS<Pieces<'b, 'a>>,
    failure: Rc<Cell<Option<Failure>>>,
}

impl<'b, 'a> Erofs<'b, 'a> {
    /// Reads the superblock.
    pub fn open(image: Region<'b, 'a>) -> Result<Self, Failure> {
        let failure = Rc::<Cell<_>>::default();
        let pieces = Pieces {
            // The size of an image that is packed is not known.
            size: image.size().unwrap_or(u64::MAX),
            image: RefCell::new(image),
            pieces: (0..MAX_PIECES).map(|_| OnceCell::new()).collect(),
            bytes: Cell::new(0),
            requests: Cell::new(0),
            failure: failure.clone(),
        };
        match EroFS::new(pieces) {
            Ok(files) => Ok(Self { files, failure }),
            Err(error) => Err(cannot_read("its erofs", &failure, &error)),
        }
    }

    fn why(&self, error: &ErofsError) -> Failure {
        cannot_read("its erofs", &self.failure, error)
    }
}

/// The failure to fetch bytes, if the crate failed because of one, else the error of the crate.
fn cannot_read(what: &str, failure: &Cell<Option<Failure>>, error: &dyn Display) -> Failure {
    let why = || Failure::Image(format!("{what} cannot be read: {error}"));
    failure.take().unwrap_or_else(why)
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
        let (name, size) = (&entry.name, file.size());
        if size > MAX_FILE as u64 {
            return bad(format!(
                "{name} has {size} bytes, at most {MAX_FILE} are read"
            ));
        }
        let mut bytes = Vec::new();
        match file.take(size).read_to_end(&mut bytes) {
            Ok(found) if found as u64 == size => Ok(bytes),
            Ok(found) => bad(format!("{name} has {found} bytes, expected {size}")),
            Err(error) => Err(cannot_read(name, &self.failure, &error)),
        }
    }
}

/// The pieces of an image that were fetched. None is removed, so all can be borrowed.
struct Pieces<'b, 'a> {
    image: RefCell<Region<'b, 'a>>,
    size: u64,
    pieces: Vec<OnceCell<(u64, Vec<u8>)>>,
    bytes: Cell<usize>,
    requests: Cell<usize>,
    /// The failure of the last request.
    failure: Rc<Cell<Option<Failure>>>,
}

impl Pieces<'_, '_> {
    fn find(&self, range: Range<u64>) -> Result<&[u8], Failure> {
        self.image.borrow().check_time()?;
        self.requests.set(self.requests.get() + 1);
        if self.requests.get() > MAX_REQUESTS {
            return bad(format!(
                "more than {MAX_REQUESTS} reads are needed to find its files, which is the limit"
            ));
        }
        let within = |(start, bytes): &(u64, Vec<u8>)| {
            *start <= range.start && range.end <= start + bytes.len() as u64
        };
        let mut kept = self.pieces.iter().map_while(OnceCell::get);
        let (start, bytes) = match kept.find(|piece| within(piece)) {
            Some(piece) => piece,
            None => self.add(range.clone())?,
        };
        let (from, to) = (range.start - start, range.end - start);
        match bytes.get(from as usize..to as usize) {
            Some(found) => Ok(found),
            None => bad("a part of it lies beyond its end"),
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
                "more than {MAX_PIECES} pieces or {} MiB of it are needed to find its files, which is the limit",
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
        self.find(start..end)
            .map_err(|failure| self.failure.set(Some(failure)))
            .ok()
    }

    fn len(&self) -> u64 {
        self.size
    }
}
