//! The hash tree of dm-verity as an index: its leaves are the hashes of the blocks of a file system. No I/O but the
//! reader that it is given.
//!
//! ```text
//! superblock, padded to a block │ root block │ … │ level above the leaves │ leaves
//! ```
//!
//! A block of a level has the hashes of blocks of the next one; a file system of one block has no tree. Nothing
//! signed is looked at: the tree is as untrusted as any index. Format: cryptsetup, `lib/verity/verity.c` and
//! `verity_hash.c`, and <https://gitlab.com/cryptsetup/cryptsetup/-/wikis/DMVerity>.

use std::io::{self, BufReader, Read};
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use super::index::{Chunk, Hashing, ID, Id, Index};
use super::plan::MAX_MEMORY;
use crate::fields::{array_at, u16_at, u32_at, u64_at};
use crate::gpt::{self, HashTree};

/// Bytes of a superblock.
pub const SUPERBLOCK: usize = 512;

const MAGIC: &[u8; 8] = b"verity\0\0";
const VERSION: u32 = 1;
/// The salt precedes the data. Type 0, of Chrome OS, has it behind.
const HASH_TYPE: u32 = 1;
const ALGORITHM: &[u8; 32] = b"sha256\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
const MAX_SALT: usize = 256;
/// `VERITY_BLOCK_SIZE_OK`: a power of two among these.
const BLOCK_SIZES: RangeInclusive<u32> = 512..=512 << 10;

/// The partitions of an image that may have hash trees, the largest first; none if it is not a disk. `head`: the first
/// [`gpt::TABLE`] bytes of the image. They may be outside the image, or have no superblock.
pub fn hash_trees(head: &[u8]) -> Result<Vec<HashTree>, String> {
    match gpt::sector_size(head) {
        Some(sector) => gpt::hash_trees(head, sector),
        None => Ok(Vec::new()),
    }
}

/// Blocks that a tree covers: one block has none, and the hashes of more take more than the memory of a plan.
const DATA_BLOCKS: RangeInclusive<usize> = 2..=MAX_MEMORY / ID;

/// The numbers of a tree, checked: it fits into the memory of a plan.
#[derive(Debug, PartialEq, Eq)]
pub struct Superblock {
    hashing: Hashing,
    data_block: u32,
    data_blocks: usize,
    /// The hashes of the data blocks, from the beginning of the superblock. They are in whole blocks.
    leaves: Range<usize>,
}

impl Superblock {
    /// `bytes`: the first [`SUPERBLOCK`] of a partition or file that has a tree.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() < SUPERBLOCK || !bytes.starts_with(MAGIC) {
            return Err("it has no superblock of dm-verity".to_owned());
        }
        let [version, kind] = [8, 12].map(|at| u32_at(bytes, at));
        if (version, kind) != (VERSION, HASH_TYPE) {
            return Err(format!(
                "its hash tree is version {version}, type {kind}, expected version {VERSION}, type {HASH_TYPE}"
            ));
        }
        let algorithm: [u8; 32] = array_at(bytes, 32);
        if algorithm != *ALGORITHM {
            return Err(format!(
                "its hash tree uses {}, expected sha256",
                algorithm.escape_ascii()
            ));
        }
        let [data_block, hash_block] = [64, 68].map(|at| u32_at(bytes, at));
        for block in [data_block, hash_block] {
            if !BLOCK_SIZES.contains(&block) || !block.is_power_of_two() {
                return Err(format!(
                    "its hash tree has blocks of {block} bytes, expected a power of two from {} to {}",
                    BLOCK_SIZES.start(),
                    BLOCK_SIZES.end()
                ));
            }
        }
        let salt = usize::from(u16_at(bytes, 80));
        if salt > MAX_SALT {
            return Err(format!(
                "its hash tree has a salt of {salt} bytes, expected at most {MAX_SALT}"
            ));
        }
        let data_blocks = u64_at(bytes, 72);
        let blocks = usize::try_from(data_blocks).ok();
        let Some(blocks) = blocks.filter(|blocks| DATA_BLOCKS.contains(blocks)) else {
            return Err(format!(
                "its hash tree covers {data_blocks} blocks, expected {} to {}",
                DATA_BLOCKS.start(),
                DATA_BLOCKS.end()
            ));
        };
        Ok(Self {
            hashing: Hashing::Salted {
                salt: bytes[88..88 + salt].to_vec(),
            },
            data_block,
            data_blocks: blocks,
            leaves: leaves(blocks, hash_block as usize),
        })
    }

    /// How the leaves are made.
    pub fn hashing(&self) -> &Hashing {
        &self.hashing
    }

    /// Bytes of a data block.
    pub fn block(&self) -> u32 {
        self.data_block
    }

    /// Bytes of superblock and tree, from the first one of the superblock.
    pub fn len(&self) -> usize {
        self.leaves.end
    }

    /// The index of a file of `size` bytes. `data`: its bytes that the tree is of. `tree`: the superblock and all that
    /// follows, [`Self::len`] bytes.
    pub fn index(&self, size: u64, data: &Range<u64>, tree: Arc<[u8]>) -> Result<Index, String> {
        self.check(data)?;
        let place = (data.start, self.data_block);
        let ids = (tree, self.leaves.start);
        Index::of_blocks(self.hashing.clone(), size, place, self.data_blocks, ids)
    }

    /// The blocks of a file in their order, without any in memory. `data` as above; `leaves`: the bytes of
    /// [`Self::leaves`].
    pub fn blocks<R: Read>(
        &self,
        data: &Range<u64>,
        leaves: R,
    ) -> Result<impl Iterator<Item = io::Result<Chunk>> + use<R>, String> {
        self.check(data)?;
        let (start, len) = (data.start, self.data_block);
        let mut leaves = BufReader::new(leaves);
        Ok((0..self.data_blocks as u64).map(move |number| {
            let mut id: Id = [0; ID];
            leaves.read_exact(&mut id)?;
            let start = start + number * u64::from(len);
            Ok(Chunk { start, len, id })
        }))
    }

    /// Where the leaves are, from the first byte of the superblock.
    pub fn leaves(&self) -> Range<u64> {
        self.leaves.start as u64..self.leaves.end as u64
    }

    fn check(&self, data: &Range<u64>) -> Result<(), String> {
        let found = data.end.saturating_sub(data.start);
        let wanted = self.data_blocks as u64 * u64::from(self.data_block);
        if wanted > found {
            return Err(format!(
                "its hash tree covers {wanted} bytes, but its partition has {found}"
            ));
        }
        Ok(())
    }
}

/// Where the hashes of the data blocks are.
fn leaves(data_blocks: usize, hash_block: usize) -> Range<usize> {
    let hashes = hash_block / ID;
    let lowest = data_blocks.div_ceil(hashes);
    let (mut above, mut level) = (0, lowest);
    while level > 1 {
        level = level.div_ceil(hashes);
        above += level;
    }
    let start = SUPERBLOCK.next_multiple_of(hash_block) + above * hash_block;
    start..start + lowest * hash_block
}
