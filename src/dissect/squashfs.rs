//! squashfs: superblock → root inode → directory → … → file. The rest of an image is not read.
//!
//! Format: Documentation/filesystems/squashfs.rst and fs/squashfs/squashfs_fs.h of Linux; version 4.0, little-endian.
//! The crate backhand reads all inodes and directories before it finds one, as many as the superblock says. This reads
//! a handful of blocks, whatever the superblock says.

use std::ops::RangeInclusive;

use super::range_reader::{Failure, Region, bad};
use super::{Entry, FileSystem, MAX_FILE, is_release};
use crate::compression::BlockCompression;
use crate::fields::{u16_at, u32_at, u64_at};

/// The first bytes of an image.
pub const MAGIC: &[u8] = b"hsqs";
const SUPERBLOCK: usize = 96;
/// Most bytes of a block of metadata, packed or unpacked.
const METADATA: usize = 8 << 10;
/// Binary logarithms of the size of a block of data in bytes (SQUASHFS_FILE_MAX_LOG).
const BLOCK_LOGS: RangeInclusive<u16> = 12..=20;
/// Most bytes of metadata that are fetched in one piece. An image of twenty thousand files has fewer.
const MAX_PREPARED: u64 = 768 << 10;
/// Most blocks of metadata that are read for one inode or directory: tens of thousands of entries.
const MAX_BLOCKS: usize = 256;
/// A bit in the size of a block of metadata: it is not packed.
const PLAIN_METADATA: u16 = 1 << 15;
/// A bit in the size of a block of data: it is not packed.
const PLAIN_DATA: u32 = 1 << 24;
/// The fragment number of a file without a fragment.
const NO_FRAGMENT: u32 = u32::MAX;
/// Entries of the fragment table in one block of metadata, and the size of an entry.
const FRAGMENTS: u32 = 512;
const FRAGMENT: usize = 16;
/// The size of a directory counts "." and "..", which are not in its listing.
const UNLISTED: usize = 3;

/// Kinds of inodes, basic and extended (SQUASHFS_DIR_TYPE, …).
const DIRECTORY: u16 = 1;
const FILE: u16 = 2;
const EXTENDED_DIRECTORY: u16 = 8;
const EXTENDED_FILE: u16 = 9;

/// A squashfs image.
pub struct Squashfs<'b, 'a> {
    image: Region<'b, 'a>,
    superblock: Superblock,
}

/// The fields of the superblock that are used, checked.
#[derive(Clone, Copy)]
struct Superblock {
    compression: BlockCompression,
    block_size: usize,
    /// Number of fragments.
    fragments: u32,
    root: Reference,
    /// The end of the image.
    used: u64,
    inodes: u64,
    directories: u64,
    fragment_table: u64,
}

/// The place of an inode or a listing: its block in the table, and in the lower sixteen bits its offset in that block.
type Reference = u64;

fn reference(block: u32, offset: u16) -> Reference {
    u64::from(block) << 16 | u64::from(offset)
}

/// An inode.
#[derive(Debug)]
enum Inode {
    Directory(Listing),
    File(File),
    Other,
}

/// The entries of a directory.
#[derive(Clone, Copy, Debug)]
struct Listing {
    start: Reference,
    size: usize,
}

/// A small file.
#[derive(Debug)]
struct File {
    /// The offset of its first block.
    start: u64,
    size: usize,
    /// The fragment with the bytes after its blocks, and their offset in it.
    fragment: u32,
    offset: usize,
    /// The sizes of its blocks.
    blocks: Vec<u32>,
}

impl Superblock {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let version = (u16_at(bytes, 28), u16_at(bytes, 30));
        if version != (4, 0) {
            return Err(format!(
                "this is squashfs {}.{}, expected 4.0",
                version.0, version.1
            ));
        }
        let compression = match u16_at(bytes, 20) {
            1 => BlockCompression::Zlib,
            4 => BlockCompression::Xz,
            5 => BlockCompression::Lz4,
            6 => BlockCompression::Zstd,
            2 => return Err("it is packed with lzma, which is not supported".into()),
            3 => return Err("it is packed with lzo, which is not supported".into()),
            other => return Err(format!("its compression method {other} is unknown")),
        };
        let (block_size, block_log) = (u32_at(bytes, 12), u16_at(bytes, 22));
        if !BLOCK_LOGS.contains(&block_log) || block_size != 1 << block_log {
            return Err(format!(
                "its blocks have {block_size} bytes, said to be 2 to the power of {block_log}"
            ));
        }
        let found = Self {
            compression,
            block_size: block_size as usize,
            fragments: u32_at(bytes, 16),
            root: u64_at(bytes, 32),
            used: u64_at(bytes, 40),
            inodes: u64_at(bytes, 64),
            directories: u64_at(bytes, 72),
            fragment_table: u64_at(bytes, 80),
        };
        let places = [found.inodes, found.directories, found.used];
        if found.inodes < SUPERBLOCK as u64 || !places.is_sorted_by(|a, b| a < b) {
            return Err(format!(
                "its inodes are at {}, its directories at {}, its end at {}, \
                 expected one after the other",
                found.inodes, found.directories, found.used
            ));
        }
        Ok(found)
    }
}

impl<'b, 'a> Squashfs<'b, 'a> {
    /// Reads the superblock, and all metadata in one piece if there is not much of it.
    pub fn open(mut image: Region<'b, 'a>) -> Result<Self, Failure> {
        let superblock = Superblock::parse(&image.read(0, SUPERBLOCK)?)?;
        if let Some(size) = image.size().filter(|size| *size < superblock.used) {
            return bad(format!(
                "its superblock says it has {} bytes, but there are {size}",
                superblock.used
            ));
        }
        let metadata = superblock.used - superblock.inodes;
        if metadata <= MAX_PREPARED {
            image.prepare(superblock.inodes, metadata)?;
        }
        Ok(Self { image, superblock })
    }

    fn inode(&mut self, place: Reference) -> Result<Inode, Failure> {
        let superblock = self.superblock;
        let (table, end) = (superblock.inodes, superblock.directories);
        let mut metadata = Metadata::at(self, table, end, place)?;
        let kind = u16_at(&metadata.read(16)?, 0);
        let length = match kind {
            DIRECTORY | FILE => 16,
            EXTENDED_DIRECTORY => 24,
            EXTENDED_FILE => 40,
            _ => return Ok(Inode::Other),
        };
        let body = metadata.read(length)?;
        let (u16, u32) = (|at| u16_at(&body, at), |at| u32_at(&body, at));
        let (start, size, fragment, offset) = match kind {
            DIRECTORY => {
                let (start, size) = (reference(u32(0), u16(10)), u16(8).into());
                return Ok(Inode::Directory(Listing { start, size }));
            }
            EXTENDED_DIRECTORY => {
                let (start, size) = (reference(u32(8), u16(18)), u32(4) as usize);
                return Ok(Inode::Directory(Listing { start, size }));
            }
            FILE => (u32(0).into(), u32(12).into(), u32(4), u32(8)),
            _ => (u64_at(&body, 0), u64_at(&body, 8), u32(28), u32(32)),
        };
        if size > MAX_FILE as u64 {
            return bad(format!(
                "its extension-release has {size} bytes, at most {MAX_FILE} are read"
            ));
        }
        let size = size as usize;
        let blocks = match fragment {
            NO_FRAGMENT => size.div_ceil(superblock.block_size),
            _ => size / superblock.block_size,
        };
        let sizes = metadata.read(4 * blocks)?;
        Ok(Inode::File(File {
            start,
            size,
            fragment,
            offset: offset as usize,
            blocks: (0..blocks).map(|n| u32_at(&sizes, 4 * n)).collect(),
        }))
    }

    /// Calls `is_enough` with each entry of a directory until it is true: name, inode, kind of inode.
    fn each_entry(
        &mut self,
        listing: Listing,
        mut is_enough: impl FnMut(&[u8], Reference, u16) -> bool,
    ) -> Result<(), Failure> {
        let (start, end) = (self.superblock.directories, self.superblock.used);
        let mut left = listing.size.saturating_sub(UNLISTED);
        if left == 0 {
            return Ok(());
        }
        let mut metadata = Metadata::at(self, start, end, listing.start)?;
        while left > 0 {
            let head = metadata.read(12)?;
            let (count, block) = (u32_at(&head, 0), u32_at(&head, 4));
            left = left.saturating_sub(12);
            for _ in 0..=count {
                if left == 0 {
                    return bad("a directory in it is cut off");
                }
                let entry = metadata.read(8)?;
                let (offset, kind) = (u16_at(&entry, 0), u16_at(&entry, 4));
                let name = metadata.read(usize::from(u16_at(&entry, 6)) + 1)?;
                left = left.saturating_sub(8 + name.len());
                if is_enough(&name, reference(block, offset), kind) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The listing of a directory by its path.
    fn directory(&mut self, path: &str) -> Result<Option<Listing>, Failure> {
        let mut inode = self.inode(self.superblock.root)?;
        for name in path.split('/') {
            let Inode::Directory(listing) = inode else {
                return Ok(None);
            };
            let mut next = None;
            self.each_entry(listing, |found, inode, kind| {
                if found == name.as_bytes() && kind == DIRECTORY {
                    next = Some(inode);
                }
                // Entries are sorted by name.
                found >= name.as_bytes()
            })?;
            let Some(next) = next else {
                return Ok(None);
            };
            inode = self.inode(next)?;
        }
        match inode {
            Inode::Directory(listing) => Ok(Some(listing)),
            _ => Ok(None),
        }
    }

    /// A block of data, unpacked.
    fn data(&mut self, start: u64, size: u32) -> Result<Vec<u8>, Failure> {
        let limit = self.superblock.block_size;
        let packed = (size & !PLAIN_DATA) as usize;
        if packed > limit {
            return bad(format!(
                "a block of it has {packed} bytes, expected at most {limit}"
            ));
        }
        let bytes = self.image.read(start, packed)?;
        match size & PLAIN_DATA {
            0 => Ok(self.superblock.compression.unpack(&bytes, limit)?),
            _ => Ok(bytes),
        }
    }

    /// A fragment, unpacked.
    fn fragment(&mut self, number: u32) -> Result<Vec<u8>, Failure> {
        let superblock = self.superblock;
        let fragments = superblock.fragments;
        if number >= fragments {
            return bad(format!(
                "a file of it is in fragment {number}, but there are {fragments}"
            ));
        }
        let pointer = u64::from(number / FRAGMENTS) * 8;
        let pointer = superblock.fragment_table.saturating_add(pointer);
        let table = u64_at(&self.image.read(pointer, 8)?, 0);
        let place = reference(0, (number % FRAGMENTS) as u16 * FRAGMENT as u16);
        let entry = Metadata::at(self, table, superblock.used, place)?.read(FRAGMENT)?;
        self.data(u64_at(&entry, 0), u32_at(&entry, 8))
    }
}

impl FileSystem for Squashfs<'_, '_> {
    fn releases(&mut self, directory: &str) -> Result<Vec<Entry>, Failure> {
        let Some(listing) = self.directory(directory)? else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        self.each_entry(listing, |name, inode, kind| {
            if kind == FILE
                && let Some(name) = is_release(name)
            {
                let name = name.to_owned();
                found.push(Entry { name, inode });
            }
            false
        })?;
        Ok(found)
    }

    fn read(&mut self, entry: &Entry) -> Result<Vec<u8>, Failure> {
        let Inode::File(file) = self.inode(entry.inode)? else {
            return bad(format!("{} is not a file in it", entry.name));
        };
        let mut bytes = Vec::new();
        let mut start = file.start;
        for size in &file.blocks {
            let left = file.size - bytes.len();
            let mut block = match size {
                // A hole.
                0 => vec![0; left.min(self.superblock.block_size)],
                size => self.data(start, *size)?,
            };
            block.truncate(left);
            bytes.extend_from_slice(&block);
            start = start.saturating_add((size & !PLAIN_DATA).into());
        }
        let left = file.size - bytes.len();
        if left > 0 && file.fragment != NO_FRAGMENT {
            let fragment = self.fragment(file.fragment)?;
            let rest = fragment.get(file.offset..).unwrap_or_default();
            match rest.get(..left) {
                Some(tail) => bytes.extend_from_slice(tail),
                None => return bad(format!("{} ends behind its fragment", entry.name)),
            }
        }
        if bytes.len() < file.size {
            return bad(format!(
                "{} has {} bytes, expected {}",
                entry.name,
                bytes.len(),
                file.size
            ));
        }
        Ok(bytes)
    }
}

/// Reads metadata, which may go on in the next block.
struct Metadata<'s, 'b, 'a> {
    squashfs: &'s mut Squashfs<'b, 'a>,
    /// The offset of the next block.
    next: u64,
    /// The end of the table.
    end: u64,
    block: Vec<u8>,
    /// The offset of the next byte in the block.
    at: usize,
    blocks: usize,
}

impl<'s, 'b, 'a> Metadata<'s, 'b, 'a> {
    fn at(
        squashfs: &'s mut Squashfs<'b, 'a>,
        table: u64,
        end: u64,
        place: Reference,
    ) -> Result<Self, Failure> {
        let mut metadata = Self {
            squashfs,
            next: table.saturating_add(place >> 16),
            end,
            block: Vec::new(),
            at: 0,
            blocks: 0,
        };
        metadata.load()?;
        metadata.at = usize::from(place as u16);
        Ok(metadata)
    }

    fn load(&mut self) -> Result<(), Failure> {
        self.blocks += 1;
        if self.blocks > MAX_BLOCKS {
            return bad(format!(
                "a directory of it has more than {} bytes, which is the limit",
                MAX_BLOCKS * METADATA
            ));
        }
        let Squashfs { image, superblock } = &mut *self.squashfs;
        if self.next >= self.end {
            return bad(format!(
                "it refers to {}, behind the end of its table at {}",
                self.next, self.end
            ));
        }
        let head = u16_at(&image.read(self.next, 2)?, 0);
        let size = usize::from(head & !PLAIN_METADATA);
        if !(1..=METADATA).contains(&size) {
            return bad(format!(
                "a block of metadata at {} has {size} bytes, expected 1 to {METADATA}",
                self.next
            ));
        }
        let bytes = image.read(self.next + 2, size)?;
        self.next += 2 + size as u64;
        self.at = 0;
        self.block = match head & PLAIN_METADATA {
            0 => superblock.compression.unpack(&bytes, METADATA)?,
            _ => bytes,
        };
        Ok(())
    }

    fn read(&mut self, length: usize) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        loop {
            let rest = self.block.get(self.at..).unwrap_or_default();
            let n = rest.len().min(length - bytes.len());
            bytes.extend_from_slice(&rest[..n]);
            self.at += n;
            if bytes.len() == length {
                return Ok(bytes);
            }
            self.load()?;
        }
    }
}
