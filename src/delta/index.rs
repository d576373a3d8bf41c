//! The chunks that a file is made of.

use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest as _, Sha256, Sha512_256};

/// The hash of a chunk, by one of [`Hashing`].
pub type Id = [u8; 32];

/// Bytes of an [`Id`].
pub const ID: usize = size_of::<Id>();
/// Largest chunk: whoever carries out a plan has one in memory. The largest chunk of desync is 256 KiB, unless told
/// otherwise: four times the average of `--chunk-size`, of which this allows 256 KiB.
pub const MAX_CHUNK: u32 = 1 << 20;

/// How the hash of a chunk is made of its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hashing {
    /// casync and desync with `--digest=sha256`.
    Sha256,
    /// casync and desync, unless told otherwise.
    Sha512_256,
    /// dm-verity: the SHA-256 of the salt and the bytes.
    Salted { salt: Vec<u8> },
}

impl Hashing {
    /// The hash of the bytes of a chunk.
    pub fn id(&self, bytes: &[u8]) -> Id {
        match self {
            Hashing::Sha256 => Sha256::digest(bytes).into(),
            Hashing::Sha512_256 => Sha512_256::digest(bytes).into(),
            Hashing::Salted { salt } => {
                let salted = Sha256::new_with_prefix(salt);
                salted.chain_update(bytes).finalize().into()
            }
        }
    }
}

/// Some bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where it is in the file.
    pub start: u64,
    /// Its bytes: at least one, at most [`MAX_CHUNK`].
    pub len: u32,
    pub id: Id,
}

impl Chunk {
    /// Its bytes in the file.
    pub fn bytes(&self) -> Range<u64> {
        self.start..self.start + u64::from(self.len)
    }
}

/// The chunks of a file in their order. They do not overlap, and all are inside the file. They may leave parts of it
/// out, such as partitions without a hash tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    hashing: Hashing,
    /// The size of the whole file, in bytes.
    size: u64,
    lengths: Lengths,
    /// Has the hashes of all chunks, one after the other, from this byte on. The rest belongs to a hash tree, which is
    /// in memory only once.
    ids: Arc<[u8]>,
    first_id: usize,
}

/// Where the chunks of an index are. Nearly all of the memory of an index are its hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Lengths {
    /// `count` chunks of `len` bytes each, the first one at `start`.
    Equal { start: u64, len: u32, count: usize },
    /// Each chunk begins where the one before ends, the first with the file.
    Ends(Vec<u64>),
}

impl Index {
    /// Blocks of one length. `ids` has their hashes from its byte `first_id` on. Fails if the blocks are not inside the
    /// file, or if hashes are missing.
    pub fn of_blocks(
        hashing: Hashing,
        size: u64,
        (start, len): (u64, u32),
        count: usize,
        (ids, first_id): (Arc<[u8]>, usize),
    ) -> Result<Self, String> {
        check_length(len.into())?;
        let end = (count as u64)
            .checked_mul(len.into())
            .and_then(|bytes| bytes.checked_add(start));
        if end.is_none_or(|end| end > size) {
            return Err(format!(
                "{count} blocks of {len} bytes from byte {start} on do not fit into a file of {size} bytes"
            ));
        }
        let lengths = Lengths::Equal { start, len, count };
        Self::new(hashing, size, lengths, ids, first_id)
    }

    /// Chunks of any lengths that are the whole file. `ends`: the byte behind each. Fails if a chunk has no bytes or
    /// more than [`MAX_CHUNK`], or if hashes are missing.
    pub fn of_chunks(hashing: Hashing, ends: Vec<u64>, ids: Arc<[u8]>) -> Result<Self, String> {
        let mut size = 0;
        for end in &ends {
            check_length(end.saturating_sub(size))?;
            size = *end;
        }
        Self::new(hashing, size, Lengths::Ends(ends), ids, 0)
    }

    fn new(
        hashing: Hashing,
        size: u64,
        lengths: Lengths,
        ids: Arc<[u8]>,
        first_id: usize,
    ) -> Result<Self, String> {
        let index = Self {
            hashing,
            size,
            lengths,
            ids,
            first_id,
        };
        let (wanted, found) = (index.len(), index.ids.len().saturating_sub(first_id) / ID);
        if wanted > found {
            return Err(format!("the index has {found} hashes for {wanted} chunks"));
        }
        Ok(index)
    }

    /// How the hashes of its chunks are made.
    pub fn hashing(&self) -> &Hashing {
        &self.hashing
    }

    /// Bytes of the whole file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The number of chunks.
    pub fn len(&self) -> usize {
        match &self.lengths {
            Lengths::Equal { count, .. } => *count,
            Lengths::Ends(ends) => ends.len(),
        }
    }

    /// A chunk by its number, which must be less than [`Self::len`].
    pub fn chunk(&self, number: usize) -> Chunk {
        let (start, len) = match &self.lengths {
            Lengths::Equal { start, len, .. } => (start + u64::from(*len) * number as u64, *len),
            Lengths::Ends(ends) => {
                let start = number.checked_sub(1).map_or(0, |before| ends[before]);
                let len = u32::try_from(ends[number] - start);
                (start, len.expect("no chunk is longer than MAX_CHUNK"))
            }
        };
        let (ids, _) = self.ids[self.first_id..].as_chunks();
        let id = ids[number];
        Chunk { start, len, id }
    }

    /// All chunks in their order.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk> {
        (0..self.len()).map(|number| self.chunk(number))
    }

    /// Whether these are the bytes of the chunk with this number.
    pub fn has(&self, number: usize, bytes: &[u8]) -> bool {
        let chunk = self.chunk(number);
        bytes.len() == chunk.len as usize && self.hashing.id(bytes) == chunk.id
    }

    /// Whether these bytes are in memory as its hashes.
    pub fn shares(&self, bytes: &Arc<[u8]>) -> bool {
        Arc::ptr_eq(&self.ids, bytes)
    }

    /// Bytes that it takes in memory.
    pub fn memory(&self) -> usize {
        let lengths = match &self.lengths {
            Lengths::Equal { .. } => 0,
            Lengths::Ends(ends) => ends.capacity() * size_of::<u64>(),
        };
        lengths + self.ids.len()
    }
}

fn check_length(len: u64) -> Result<(), String> {
    if len == 0 || len > MAX_CHUNK.into() {
        return Err(format!(
            "a chunk has {len} bytes, expected 1 to {MAX_CHUNK}"
        ));
    }
    Ok(())
}
