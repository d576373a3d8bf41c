//! Hash trees of dm-verity, and the partitions that have them.

use std::sync::Arc;

use crate::delta::index::ID;
use crate::delta::plan::MAX_MEMORY;
use crate::delta::verity::{self, SUPERBLOCK, Superblock};
use crate::fields::{u32_at, u64_at};

/// A superblock that is accepted has its leaves where the kernel looks for them, and its index has the hashes that are
/// there. The input is also the beginning of a disk.
pub fn hash_trees(data: &[u8]) {
    if let Ok(trees) = verity::hash_trees(data) {
        let sizes: Vec<_> = trees
            .iter()
            .map(|pair| pair.data.end - pair.data.start)
            .collect();
        assert!(sizes.is_sorted_by(|one, next| one >= next));
        assert!(
            trees
                .iter()
                .all(|pair| !pair.data.is_empty() && !pair.tree.is_empty())
        );
    }
    let Ok(superblock) = Superblock::parse(data) else {
        return;
    };
    let (block, hash_block) = (u64::from(superblock.block()), u64::from(u32_at(data, 68)));
    let (blocks, leaves) = (u64_at(data, 72), superblock.leaves());
    assert!(blocks >= 2, "one block has no tree");
    assert_eq!(leaves, kernel(blocks, hash_block));
    assert_eq!(superblock.len() as u64, leaves.end);
    // The leaves, what is above them, and the ends of blocks.
    assert!(superblock.len() < 2 * MAX_MEMORY);
    let bytes: Arc<[u8]> = data.into();
    let size = 4096 + blocks * block;
    let index = superblock.index(size, &(4096..size), bytes);
    let has_leaves = data.len() as u64 >= leaves.start + blocks * ID as u64;
    assert_eq!(index.is_ok(), has_leaves);
    let Ok(index) = index else {
        return;
    };
    assert_eq!(index.len() as u64, blocks);
    for (number, chunk) in index.chunks().enumerate() {
        let at = leaves.start as usize + number * ID;
        assert_eq!(chunk.id, data[at..at + ID]);
        assert_eq!(
            chunk.bytes(),
            4096 + number as u64 * block..4096 + (number as u64 + 1) * block
        );
    }
    let rest = &data[(leaves.start as usize).min(data.len())..];
    let by_leaves = superblock.blocks(&(4096..size), rest).unwrap();
    assert!(index.chunks().eq(by_leaves.map(|chunk| chunk.unwrap())));
    let short = superblock.index(size - 1, &(4096..size - 1), data.into());
    assert!(short.is_err(), "the file is too short");
}

/// Where the leaves are, by the arithmetic of `verity_hash_at_level` in Linux, drivers/md/dm-verity-target.c.
fn kernel(blocks: u64, hash_block: u64) -> std::ops::Range<u64> {
    let bits = (hash_block / ID as u64).ilog2();
    let mut levels = 0;
    while bits * levels < 64 && (blocks - 1) >> (bits * levels) != 0 {
        levels += 1;
    }
    let mut position = (SUPERBLOCK as u64).div_ceil(hash_block);
    let mut leaves = position..position;
    for level in (0..levels).rev() {
        let shift = (level + 1) * bits;
        let count = (blocks + (1 << shift) - 1) >> shift;
        leaves = position..position + count;
        position += count;
    }
    leaves.start * hash_block..leaves.end * hash_block
}
