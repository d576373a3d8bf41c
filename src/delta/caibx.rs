//! An index of casync or desync, `*.caibx`: chunks that were cut by their content. No I/O but the reader that it is given.
//!
//! ```text
//! header  48 bytes: 48, magic, flags, smallest, average, largest length of a chunk
//! table   16 bytes: all ones, magic
//!         40 bytes for each chunk: the byte behind its end in the file, its hash
//!         40 bytes: 0, 0, the offset of the table, bytes of the table, magic
//! ```
//!
//! All numbers have 64 bits, in little-endian. Format: casync, `src/caformat.h`; desync, `const.go`, `format.go` and
//! `index.go`.

use std::io::{BufReader, Read};
use std::sync::Arc;

use super::index::{Chunk, Hashing, ID, Index};
use super::plan::MAX_MEMORY;
use crate::fields::{array_at, u64_at};

/// `CA_FORMAT_INDEX`, `CA_FORMAT_TABLE` and `CA_FORMAT_TABLE_TAIL_MARKER`
const HEADER_MAGIC: u64 = 0x9682_4d9c_7b12_9ff9;
const TABLE_MAGIC: u64 = 0xe75b_9e11_2f17_417d;
const TAIL_MAGIC: u64 = 0x4b4f_050e_5549_ecd1;
/// `CA_FORMAT_SHA512_256`: without this flag the hashes are SHA-256. Other flags are about archives, `*.caidx`.
const SHA512_256: u64 = 1 << 61;

const HEADER: u64 = 48;
const TABLE_HEADER: u64 = 16;
/// Bytes of a chunk in the table, and of the tail.
const ITEM: usize = 8 + ID;
/// The size of a table is not said at its beginning.
const TABLE_SIZE: u64 = u64::MAX;

/// Bytes of the longest index: its chunks are as long in memory.
pub const MAX_BYTES: u64 = MAX_MEMORY as u64;

/// Reads an index of `len` bytes of a file of `size` bytes.
pub fn parse(reader: impl Read, len: u64, size: u64) -> Result<Index, String> {
    let chunks = Chunks::new(reader, len, size)?;
    let (hashing, count) = (chunks.hashing.clone(), chunks.count);
    let mut ends = Vec::with_capacity(count);
    // Allocated once: a vector would be copied.
    let mut ids: Arc<[u8]> = std::iter::repeat_n(0, count * ID).collect();
    let places = Arc::get_mut(&mut ids).expect("nobody else has them");
    for (number, chunk) in chunks.enumerate() {
        let chunk = chunk?;
        ends.push(chunk.bytes().end);
        places[number * ID..][..ID].copy_from_slice(&chunk.id);
    }
    Index::of_chunks(hashing, ends, ids)
}

/// The chunks of an index in their order, without any in memory. After an error there are no more.
pub struct Chunks<R> {
    reader: BufReader<R>,
    hashing: Hashing,
    /// Most bytes of a chunk.
    max: u64,
    /// Bytes of the file.
    size: u64,
    /// The end of the last chunk.
    end: u64,
    /// How many chunks there are.
    count: usize,
    /// How many were read; one more after the tail or an error.
    read: usize,
}

impl<R: Read> Chunks<R> {
    /// Reads the header of an index of `len` bytes, which is of a file of `size` bytes.
    pub fn new(reader: R, len: u64, size: u64) -> Result<Self, String> {
        let table = len.checked_sub(HEADER + TABLE_HEADER + ITEM as u64);
        let items = table.filter(|items| len <= MAX_BYTES && items % ITEM as u64 == 0);
        let Some(items) = items else {
            return Err(format!(
                "the index has {len} bytes, expected 104 and 40 for each chunk, at most {MAX_BYTES}"
            ));
        };
        let mut reader = BufReader::new(reader);
        let header: [u8; HEADER as usize] = read(&mut reader)?;
        check("the size of the header", u64_at(&header, 0), HEADER)?;
        check("the magic of the header", u64_at(&header, 8), HEADER_MAGIC)?;
        let [flags, min, average, max] = [16, 24, 32, 40].map(|at| u64_at(&header, at));
        if min == 0 || min > average || average > max {
            return Err(format!(
                "chunks have at least {min} bytes, {average} on average and at most {max}, expected rising numbers"
            ));
        }
        let table: [u8; TABLE_HEADER as usize] = read(&mut reader)?;
        check("the size of the table", u64_at(&table, 0), TABLE_SIZE)?;
        check("the magic of the table", u64_at(&table, 8), TABLE_MAGIC)?;
        Ok(Self {
            reader,
            hashing: match flags & SHA512_256 {
                0 => Hashing::Sha256,
                _ => Hashing::Sha512_256,
            },
            max,
            size,
            end: 0,
            count: usize::try_from(items).expect("at most MAX_BYTES") / ITEM,
            read: 0,
        })
    }

    /// How the hashes of its chunks are made.
    pub fn hashing(&self) -> &Hashing {
        &self.hashing
    }

    fn chunk(&mut self) -> Result<Chunk, String> {
        let item: [u8; ITEM] = read(&mut self.reader)?;
        let (start, end) = (self.end, u64_at(&item, 0));
        let len = end
            .checked_sub(start)
            .filter(|len| (1..=self.max).contains(len));
        let Some(len) = len.and_then(|len| u32::try_from(len).ok()) else {
            return Err(format!(
                "a chunk begins at byte {start} and ends at byte {end}, expected 1 to {} bytes",
                self.max
            ));
        };
        if end > self.size {
            return Err(format!(
                "a chunk ends at byte {end}, expected at most {}",
                self.size
            ));
        }
        self.end = end;
        let id = array_at(&item, 8);
        Ok(Chunk { start, len, id })
    }

    fn tail(&mut self) -> Result<(), String> {
        let tail: [u8; ITEM] = read(&mut self.reader)?;
        let table = TABLE_HEADER + (self.count as u64 + 1) * ITEM as u64;
        for (at, name, expected) in [
            (0, "the first number of the tail", 0),
            (8, "the second number of the tail", 0),
            (16, "the offset of the table", HEADER),
            (24, "the size of the table", table),
            (32, "the magic of the tail", TAIL_MAGIC),
        ] {
            check(name, u64_at(&tail, at), expected)?;
        }
        check("the size of the file", self.end, self.size)
    }
}

impl<R: Read> Iterator for Chunks<R> {
    type Item = Result<Chunk, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.read > self.count {
            return None;
        }
        let chunk = match self.read < self.count {
            true => Some(self.chunk()),
            false => self.tail().err().map(Err),
        };
        self.read = match chunk {
            Some(Ok(_)) => self.read + 1,
            Some(Err(_)) | None => usize::MAX,
        };
        chunk
    }
}

fn read<const N: usize>(reader: &mut impl Read) -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    let read = reader.read_exact(&mut bytes);
    read.map_err(|error| format!("reading the index: {error}"))?;
    Ok(bytes)
}

fn check(name: &str, found: u64, expected: u64) -> Result<(), String> {
    if found != expected {
        return Err(format!("{name} is {found:#x}, expected {expected:#x}"));
    }
    Ok(())
}
