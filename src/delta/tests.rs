//! Indexes that real programs made, and plans, carried out by a simple interpreter.

#![allow(
    clippy::single_range_in_vec_init,
    reason = "a plan may fetch a single range"
)]

use std::ops::Range;
use std::sync::Arc;

use super::caibx::{self, Chunks};
use super::index::{Chunk, Hashing, Index, MAX_CHUNK};
use super::plan::{MAX_MEMORY, MAX_SEEDS, Offers, Plan, Planner, Refused, Run};
use super::verity::{self, Superblock};
use crate::gpt::HashTree;

/// Numbers that look random and are the same in each run.
struct Random(u64);

impl Random {
    /// xorshift64, of Marsaglia
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| (self.next() >> 32) as u8).collect()
    }
}

/// The index of a file that is cut at these places.
fn chunks(file: &[u8], hashing: &Hashing, ends: &[usize]) -> Index {
    let (mut start, mut ids) = (0, Vec::new());
    for end in ends {
        ids.extend(hashing.id(&file[start..*end]));
        start = *end;
    }
    let ends = ends.iter().map(|end| *end as u64).collect();
    Index::of_chunks(hashing.clone(), ends, ids.into()).unwrap()
}

/// The index of the whole blocks in a part of a file.
fn blocks(file: &[u8], hashing: &Hashing, part: Range<usize>, len: usize) -> Index {
    let start = part.start as u64;
    let blocks: Vec<_> = file[part].chunks_exact(len).collect();
    let ids: Vec<u8> = blocks.iter().flat_map(|block| hashing.id(block)).collect();
    let len = u32::try_from(len).unwrap();
    let size = file.len() as u64;
    let (hashing, ids) = (hashing.clone(), (ids.into(), 0));
    Index::of_blocks(hashing, size, (start, len), blocks.len(), ids).unwrap()
}

/// Where a file of chunks by their content would be cut: behind each byte that is 0.
fn cuts(file: &[u8]) -> Vec<usize> {
    let (mut ends, mut start) = (Vec::new(), 0);
    for (at, byte) in file.iter().enumerate() {
        if (*byte == 0 && at - start > 100) || at - start == 2000 {
            start = at + 1;
            ends.push(start);
        }
    }
    if start < file.len() {
        ends.push(file.len());
    }
    ends
}

/// The file that comes of a plan. Checks that all of it is in order, and each chunk of a seed what its hash says.
fn carried_out(plan: &Plan, blob: &[u8], seeds: &[&[u8]]) -> Vec<u8> {
    let mut file: Vec<u8> = Vec::new();
    for run in &plan.runs {
        match run {
            Run::Blob(range) => {
                assert_eq!(range.start, file.len() as u64);
                assert!(range.start < range.end);
                file.extend(&blob[range.start as usize..range.end as usize]);
            }
            Run::Held { at, bytes } => {
                assert_eq!(*at, file.len() as u64);
                file.extend(&**bytes);
            }
            Run::Seed { seed, from, chunks } => {
                let mut from = *from as usize;
                for number in chunks.clone() {
                    let chunk = plan.index.chunk(number);
                    assert_eq!(chunk.start, file.len() as u64);
                    let bytes = &seeds[*seed][from..from + chunk.len as usize];
                    assert!(plan.index.has(number, bytes));
                    file.extend(bytes);
                    from += bytes.len();
                }
            }
        }
    }
    assert_eq!(file.len() as u64, plan.size);
    file
}

/// A file with some of its bytes changed, moved, removed and added.
fn changed(file: &[u8], random: &mut Random) -> Vec<u8> {
    let mut file = file.to_vec();
    for _ in 0..random.below(8) {
        let at = random.below(file.len());
        let end = at + random.below(file.len() - at).min(2000);
        let piece = file[at..end].to_vec();
        match random.below(4) {
            0 => file[at..end].fill(random.next() as u8),
            1 => drop(file.drain(at..end)),
            2 => drop(file.splice(at..at, random.bytes(300))),
            _ => {
                let to = random.below(file.len());
                file.splice(to..to, piece);
            }
        }
        if file.is_empty() {
            file.push(1);
        }
    }
    file
}

#[test]
fn a_plan_makes_the_blob_of_any_older_files() {
    let mut random = Random(20_261_130);
    let (mut all, mut missing) = (0, 0);
    for round in 0..200 {
        let size = 8_000 + random.below(30_000);
        let old = random.bytes(size);
        let other = changed(&old, &mut random);
        let blob = changed(&other, &mut random);
        let salted = Hashing::Salted {
            salt: random.bytes(32),
        };
        let hashing = [Hashing::Sha256, Hashing::Sha512_256, salted][round % 3].clone();
        let of = |file: &[u8]| match round % 3 {
            2 => blocks(file, &hashing, 512..file.len() - 512, 512),
            _ => chunks(file, &hashing, &cuts(file)),
        };
        let mut planner = Planner::new(of(&blob), Vec::new(), 100).unwrap();
        for (seed, file) in [&old, &other].into_iter().enumerate() {
            // Its index may be that of a longer file.
            let mut longer = file.clone();
            let more = random.below(2) * 3000;
            longer.extend(random.bytes(more));
            let size = file.len() as u64;
            planner.seed(seed, size).index(&of(&longer));
        }
        let plan = planner.plan().unwrap();
        assert!(carried_out(&plan, &blob, &[&old, &other]) == blob);
        assert!(plan.ranges() > 0);
        all += plan.size;
        missing += plan.missing();
    }
    assert!(missing < all / 2, "{missing} of {all}");
}

/// Files that real programs made: `tests/deltas/make` makes them again.
mod fixtures {
    pub const OLD_CAIBX: &[u8] = include_bytes!("../../tests/deltas/old.caibx");
    pub const NEW_CAIBX: &[u8] = include_bytes!("../../tests/deltas/new.caibx");
    pub const NEW_SHA256: &[u8] = include_bytes!("../../tests/deltas/new.sha256.caibx");
    pub const OLD_VERITY: &[u8] = include_bytes!("../../tests/deltas/old.verity");
    pub const BLOCKS_VERITY: &[u8] = include_bytes!("../../tests/deltas/blocks.verity");
    pub const SMALL_VERITY: &[u8] = include_bytes!("../../tests/deltas/small.verity");
    pub const IMAGE_GPT: &[u8] = include_bytes!("../../tests/deltas/image.gpt");
    pub const IMAGE_VERITY: &[u8] = include_bytes!("../../tests/deltas/image.verity");
    pub const INFO: &str = include_str!("../../tests/deltas/info.json");

    /// The file that consists of these pieces, as `tests/deltas/make` has them.
    fn file(pieces: &[std::ops::Range<u32>]) -> Vec<u8> {
        let hash = |number: u32| super::Hashing::Sha256.id(number.to_string().as_bytes());
        pieces.iter().cloned().flatten().flat_map(hash).collect()
    }

    pub fn old() -> Vec<u8> {
        file(&[0..1, 1..12800])
    }

    pub fn new() -> Vec<u8> {
        file(&[0..3000, 20000..20300, 3000..8000, 30000..31000, 8500..12000])
    }

    pub fn blocks() -> Vec<u8> {
        file(&[0..1280, 40000..40384, 1664..11520, 50000..51280])
    }
}

fn caibx(bytes: &[u8], size: usize) -> Result<Index, String> {
    caibx::parse(bytes, bytes.len() as u64, size as u64)
}

/// The index by a tree of a whole file.
fn tree_index(tree: &[u8], file: &[u8]) -> Index {
    let superblock = Superblock::parse(tree).unwrap();
    assert_eq!(superblock.len(), tree.len());
    let size = file.len() as u64;
    superblock.index(size, &(0..size), tree.into()).unwrap()
}

#[test]
fn an_index_by_desync_is_of_its_file() {
    for (bytes, file, hashing) in [
        (fixtures::OLD_CAIBX, fixtures::old(), Hashing::Sha512_256),
        (fixtures::NEW_CAIBX, fixtures::new(), Hashing::Sha512_256),
        (fixtures::NEW_SHA256, fixtures::new(), Hashing::Sha256),
    ] {
        let index = caibx(bytes, file.len()).unwrap();
        assert_eq!(index.hashing(), &hashing);
        let ends: Vec<_> = index
            .chunks()
            .map(|chunk| chunk.bytes().end as usize)
            .collect();
        assert!(ends.len() > 100);
        assert_eq!(index, chunks(&file, &hashing, &ends));
    }
}

#[test]
fn a_plan_by_indexes_of_desync_fetches_what_desync_says() {
    let (old, new) = (fixtures::old(), fixtures::new());
    let index = caibx(fixtures::NEW_CAIBX, new.len()).unwrap();
    let len = fixtures::OLD_CAIBX.len() as u64;
    // The index alone is more than a tenth of what is missing, so nothing is fetched along.
    let mut planner = Planner::new(index, Vec::new(), len).unwrap();
    let mut offers = planner.seed(0, old.len() as u64);
    for chunk in Chunks::new(fixtures::OLD_CAIBX, len, old.len() as u64).unwrap() {
        offers.chunk(&chunk.unwrap());
    }
    let plan = planner.plan().unwrap();
    assert!(carried_out(&plan, &new, &[&old]) == new);
    let info: serde_json::Value = serde_json::from_str(fixtures::INFO).unwrap();
    assert_eq!(info["dedup-size-not-in-seed"], plan.missing());
}

#[test]
fn a_tree_by_veritysetup_is_of_its_file() {
    let (old, blocks) = (fixtures::old(), fixtures::blocks());
    for (tree, file, len, salt) in [
        (fixtures::OLD_VERITY, &old, 4096, 32),
        (fixtures::BLOCKS_VERITY, &blocks, 4096, 32),
        (fixtures::SMALL_VERITY, &old, 512, 0),
    ] {
        let index = tree_index(tree, file);
        let salt = (0..salt).collect();
        let hashing = Hashing::Salted { salt };
        let expected = self::blocks(file, &hashing, 0..file.len(), len);
        assert_eq!(index.hashing(), &hashing);
        assert!(index.chunks().eq(expected.chunks()));
    }
}

#[test]
fn an_image_by_repart_has_a_tree_of_its_partition() {
    let trees = verity::hash_trees(fixtures::IMAGE_GPT).unwrap();
    let [HashTree { data, tree }] = &trees[..] else {
        panic!("{trees:?}")
    };
    let superblock = Superblock::parse(fixtures::IMAGE_VERITY).unwrap();
    let (mut image, old) = (vec![1; tree.end as usize + 20_480], fixtures::old());
    image[data.start as usize..data.end as usize].copy_from_slice(&old);
    image[tree.start as usize..][..superblock.len()].copy_from_slice(fixtures::IMAGE_VERITY);
    let bytes: Arc<[u8]> = fixtures::IMAGE_VERITY.into();
    let index = superblock.index(image.len() as u64, data, bytes.clone());
    let index = index.unwrap();
    for (number, chunk) in index.chunks().enumerate() {
        let bytes = chunk.start as usize..chunk.bytes().end as usize;
        assert!(index.has(number, &image[bytes]));
    }
    // The seed is the partition alone: it has no tree, so its blocks are hashed.
    let mut planner = Planner::new(index, vec![(tree.start, bytes)], 0).unwrap();
    let seed = blocks(
        &old,
        superblock.hashing(),
        0..old.len(),
        superblock.block() as usize,
    );
    planner.seed(0, old.len() as u64).index(&seed);
    let plan = planner.plan().unwrap();
    assert!(carried_out(&plan, &image, &[&old]) == image);
    assert_eq!(
        plan.missing(),
        image.len() as u64 - old.len() as u64 - superblock.len() as u64
    );
}

#[test]
fn a_tree_of_the_seed_saves_what_hashing_the_seed_saves() {
    let (old, new) = (fixtures::old(), fixtures::blocks());
    let superblock = Superblock::parse(fixtures::OLD_VERITY).unwrap();
    let size = old.len() as u64;
    let planned = |offer: &dyn Fn(&mut Offers<'_>)| {
        let index = tree_index(fixtures::BLOCKS_VERITY, &new);
        let mut planner = Planner::new(index, Vec::new(), 0).unwrap();
        offer(&mut planner.seed(0, size));
        planner.plan().unwrap()
    };
    let hashed = blocks(&old, superblock.hashing(), 0..old.len(), 4096);
    let by_hashing = planned(&|offers| offers.index(&hashed));
    let by_tree = planned(&|offers| {
        let leaves = superblock.leaves();
        let leaves = &fixtures::OLD_VERITY[leaves.start as usize..];
        for chunk in superblock.blocks(&(0..size), leaves).unwrap() {
            offers.chunk(&chunk.unwrap());
        }
    });
    let by_index = planned(&|offers| offers.index(&tree_index(fixtures::OLD_VERITY, &old)));
    assert!(carried_out(&by_hashing, &new, &[&old]) == new);
    assert_eq!(by_tree, by_hashing);
    assert_eq!(by_index, by_hashing);
    // Three blocks, and the last ten.
    assert_eq!(by_hashing.missing(), 13 * 4096);
    // Blocks that are hashed with another salt, or have another length, are none of this blob.
    let other = planned(&|offers| offers.index(&tree_index(fixtures::SMALL_VERITY, &old)));
    assert_eq!(other.missing(), size);
}

/// A block in the tests below.
const BLOCK: u64 = 4096;

/// An index of blocks, each of which has its number as its hash.
fn numbered(numbers: &[u32]) -> Index {
    let id = |number: &u32| {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_be_bytes());
        id
    };
    let ids: Vec<u8> = numbers.iter().flat_map(id).collect();
    let (size, place) = (numbers.len() as u64 * BLOCK, (0, BLOCK as u32));
    Index::of_blocks(Hashing::Sha256, size, place, numbers.len(), (ids.into(), 0)).unwrap()
}

/// The plan for a blob of these blocks with a seed of others. `fetched`: blocks fetched for the index.
fn planner(blob: &[u32], seed: &[u32], fetched: u64) -> Planner {
    let mut planner = Planner::new(numbered(blob), Vec::new(), fetched * BLOCK).unwrap();
    let seed = numbered(seed);
    planner.seed(0, seed.size()).index(&seed);
    planner
}

/// The ranges of a plan, in blocks.
fn ranges(plan: &Plan) -> Vec<Range<u64>> {
    let ranges = plan.runs.iter().filter_map(|run| match run {
        Run::Blob(range) => Some(range.start / BLOCK..range.end / BLOCK),
        _ => None,
    });
    ranges.collect()
}

#[test]
fn small_gaps_are_fetched_along_while_they_and_the_index_are_less_than_a_tenth() {
    let blob: Vec<u32> = (0..500).collect();
    // 100 blocks are missing, in four pieces; between them are 3, 2 and 8 blocks.
    let is_missing = |n: &u32| matches!(n, 0..50 | 53..90 | 92..95 | 103..113);
    let seed: Vec<u32> = blob.iter().copied().filter(|n| !is_missing(n)).collect();
    for (fetched, expected, why) in [
        (0, vec![0..95, 103..113], "5 of 100; with 8 more it were 13"),
        (4, vec![0..95, 103..113], "5 and 4 for the index"),
        (
            5,
            vec![0..50, 53..95, 103..113],
            "5 and 5 are not less than 10",
        ),
        (7, vec![0..50, 53..95, 103..113], "2 and 7 for the index"),
        (8, vec![0..50, 53..90, 92..95, 103..113], "no gap fits"),
        (
            900,
            vec![0..50, 53..90, 92..95, 103..113],
            "the index alone is more",
        ),
    ] {
        let plan = planner(&blob, &seed, fetched).plan().unwrap();
        assert_eq!(ranges(&plan), expected, "{fetched}: {why}");
        let mut by_parts = planner(&blob, &seed, 0);
        by_parts.add_fetched(fetched * BLOCK);
        assert_eq!(
            by_parts.plan().unwrap().runs,
            plan.runs,
            "{fetched} for the seed's index"
        );
    }
}

#[test]
fn a_range_is_fetched_even_if_a_seed_has_everything() {
    // Blocks that are there several times do not tear a run apart.
    let blob = [7, 7, 8, 7, 7, 9, 7, 7, 7, 8, 7, 7].repeat(20);
    let plan = planner(&blob, &blob, 0).finish().unwrap();
    let seed = Run::Seed {
        seed: 0,
        from: BLOCK,
        chunks: 1..240,
    };
    assert_eq!(plan.runs, [Run::Blob(0..BLOCK), seed]);
}

#[test]
fn a_run_goes_on_in_the_seed_where_it_began() {
    let old: Vec<u32> = (0..100).collect();
    let mut planner = planner(&[&[900], &old[..]].concat(), &old[10..40], 0);
    let newer = numbered(&old);
    planner.seed(1, newer.size()).index(&newer);
    let of = |seed, from, chunks| Run::Seed { seed, from, chunks };
    assert_eq!(
        planner.plan().unwrap().runs,
        [
            Run::Blob(0..BLOCK),
            // The first seed has some of them, too.
            of(1, 0, 1..101),
        ]
    );
}

#[test]
fn a_plan_that_saves_little_is_none() {
    let blob: Vec<u32> = (0..2000).collect();
    let not = |missing: u64, ranges| {
        Err(Refused::NotWorthIt {
            size: 2000 * BLOCK,
            missing: missing * BLOCK,
            ranges,
        })
    };
    let planned = |seed: &[u32]| planner(&blob, seed, 900).finish().map(|plan| ranges(&plan));
    assert_eq!(planned(&[]), not(2000, 1));
    assert_eq!(planned(&blob[..99]), not(1901, 1));
    assert_eq!(planned(&blob[..100]), Ok(vec![100..2000]), "a twentieth");
    // A request is as long as 16 blocks.
    for (each, is_worth_it) in [(40, true), (20, true), (16, false), (2, false)] {
        let seed: Vec<u32> = blob.iter().copied().filter(|n| n % each != 0).collect();
        let ranges = 2000 / each as usize;
        let found = planner(&blob, &seed, 900).finish();
        assert_eq!(found.is_ok(), is_worth_it, "{ranges} ranges: {found:?}");
    }
    let nothing = Planner::new(numbered(&[]), Vec::new(), 0).unwrap();
    assert!(nothing.finish().is_err(), "no byte, no range");
}

#[test]
fn a_plan_has_bounds_in_memory() {
    let zeros = |count: usize| Arc::<[u8]>::from(vec![0; count * 32]);
    let of = |count: usize, ids: &Arc<[u8]>, held: Vec<(u64, Arc<[u8]>)>| {
        let (size, place) = (count as u64 * BLOCK, (0, BLOCK as u32));
        let index = Index::of_blocks(Hashing::Sha256, size, place, count, (ids.clone(), 0));
        Planner::new(index.unwrap(), held, 0).map(drop)
    };
    let fits = MAX_MEMORY / 45;
    let (ids, more) = (zeros(fits), zeros(fits + 1));
    assert!(
        of(fits, &ids, vec![(0, ids.clone())]).is_ok(),
        "in memory once"
    );
    assert!(matches!(
        of(fits + 1, &more, Vec::new()),
        Err(Refused::TooLarge(_))
    ));
    let other = of(fits, &ids, vec![(0, zeros(9))]);
    assert!(matches!(other, Err(Refused::TooLarge(_))));
    // Each second block is a run of its own.
    let blob: Vec<u32> = (0..130_000).collect();
    let seed: Vec<u32> = blob.iter().copied().filter(|n| n % 2 == 0).collect();
    let found = planner(&blob, &seed, 0).plan();
    assert!(matches!(found, Err(Refused::TooLarge(_))));
}

#[test]
fn blocks_that_are_all_equal_take_no_longer() {
    let zeros = [0].repeat(100_000);
    let plan = planner(&zeros, &zeros[1..], 0).finish().unwrap();
    assert_eq!(plan.missing(), BLOCK);
}

#[test]
fn a_chunk_is_another_one_if_its_length_is() {
    let file = |ends: &[u64]| {
        let ids = [7; 32].repeat(ends.len());
        Index::of_chunks(Hashing::Sha256, ends.to_vec(), ids.into()).unwrap()
    };
    // The same hash with three lengths: whoever made the index lies.
    let mut planner = Planner::new(file(&[10, 30, 60, 70]), Vec::new(), 0).unwrap();
    let seed = file(&[20, 30, 55]);
    planner.seed(0, 55).index(&seed);
    let of = |from, chunks| Run::Seed {
        seed: 0,
        from,
        chunks,
    };
    assert_eq!(
        planner.plan().unwrap().runs,
        [of(20, 0..1), of(0, 1..2), Run::Blob(30..60), of(20, 3..4)]
    );
}

#[test]
fn bytes_of_another_length_are_not_the_chunk_whatever_their_hash_is() {
    let hashing = Hashing::Sha256;
    let ids = hashing.id(b"12345").to_vec();
    let index = |len| Index::of_chunks(Hashing::Sha256, vec![len], ids.clone().into()).unwrap();
    assert!(index(5).has(0, b"12345"));
    assert!(!index(6).has(0, b"12345"));
    assert!(!index(5).has(0, b"123456"));
}

/// Whoever carries out a plan has a chunk in memory.
#[test]
fn a_chunk_has_some_bytes_and_not_too_many() {
    let most = u64::from(MAX_CHUNK);
    let ids: Arc<[u8]> = [7; 64].into();
    for (ends, is_index, why) in [
        (vec![1, 1 + most], true, "the least and the most"),
        (vec![1, 1], false, "none"),
        (vec![5, 3], false, "the end is before the beginning"),
        (vec![1, 2 + most], false, "one too many"),
        (vec![1, u64::MAX], false, "far too many"),
    ] {
        let index = Index::of_chunks(Hashing::Sha256, ends, ids.clone());
        assert_eq!(index.is_ok(), is_index, "{why}");
    }
    for (len, is_index) in [
        (0, false),
        (1, true),
        (MAX_CHUNK, true),
        (MAX_CHUNK + 1, false),
    ] {
        let blocks = Index::of_blocks(Hashing::Sha256, 4 * most, (0, len), 2, (ids.clone(), 0));
        assert_eq!(blocks.is_ok(), is_index, "{len}");
    }
}

#[test]
fn chunks_behind_the_end_of_a_seed_are_not_used() {
    let blob = numbered(&[1, 2, 3, 4]);
    let mut planner = Planner::new(blob.clone(), Vec::new(), 0).unwrap();
    planner.seed(0, 3 * BLOCK - 1).index(&blob);
    let wild = Chunk {
        start: u64::MAX - 5,
        ..blob.chunk(2)
    };
    planner.seed(1, u64::MAX).chunk(&wild);
    assert_eq!(ranges(&planner.plan().unwrap()), [2..4]);
    // There are no more numbers for seeds than that.
    let mut planner = Planner::new(blob.clone(), Vec::new(), 0).unwrap();
    planner.seed(MAX_SEEDS, blob.size()).index(&blob);
    assert_eq!(ranges(&planner.plan().unwrap()), [0..4]);
}

#[test]
fn bytes_that_are_held_are_given_where_no_chunk_is() {
    let ids: Arc<[u8]> = [1; 32].repeat(2).into();
    let index = Index::of_blocks(Hashing::Sha256, 500, (100, 50), 2, (ids, 0)).unwrap();
    let held = |at: u64, len: usize| (at, Arc::<[u8]>::from(vec![9; len]));
    let runs = |held: &[(u64, Arc<[u8]>)]| {
        let planner = Planner::new(index.clone(), held.to_vec(), 1000).unwrap();
        planner.plan().unwrap().runs
    };
    let of = |(at, bytes): (u64, Arc<[u8]>)| Run::Held { at, bytes };
    assert_eq!(
        runs(&[held(0, 10), held(200, 20), held(480, 20)]),
        [
            of(held(0, 10)),
            Run::Blob(10..200),
            of(held(200, 20)),
            Run::Blob(220..480),
            of(held(480, 20)),
        ]
    );
    let whole = [Run::Blob(0..500)];
    for (wrong, why) in [
        (held(90, 20), "overlaps a block"),
        (held(120, 20), "in a block"),
        (held(490, 20), "behind the end"),
        (held(u64::MAX, 20), "far behind the end"),
        (held(300, 0), "of no bytes"),
    ] {
        assert_eq!(runs(&[wrong]), whole, "{why}");
    }
    assert_eq!(
        runs(&[held(300, 100), held(350, 10)]),
        [Run::Blob(0..300), of(held(300, 100)), Run::Blob(400..500)],
        "the second is in the first"
    );
}

#[test]
fn an_index_by_desync_that_lies_is_a_reason() {
    let good = fixtures::NEW_CAIBX;
    let size = fixtures::new().len();
    let tail = good.len() - 40;
    let lie = |at: usize, number: u64| {
        let mut bytes = good.to_vec();
        bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        caibx(&bytes, size)
    };
    for (at, number, why) in [
        (0, 47, "the size of the header"),
        (8, 0x96824d9c7b129ff8, "the magic of the header"),
        (24, 0, "chunks have at least 0 bytes"),
        (32, 1023, "chunks have at least 1024 bytes, 1023 on average"),
        (
            40,
            2047,
            "chunks have at least 1024 bytes, 2048 on average and at most 2047",
        ),
        (48, 16, "the size of the table"),
        (56, 1, "the magic of the table"),
        (64, 0, "a chunk begins at byte 0 and ends at byte 0"),
        (
            64,
            u64::MAX,
            "a chunk begins at byte 0 and ends at byte 18446744073709551615",
        ),
        (
            64,
            4097,
            "a chunk begins at byte 0 and ends at byte 4097, expected 1 to 4096",
        ),
        (64 + 40, 1, "a chunk begins at byte"),
        (tail - 40, size as u64 - 1, "the size of the file"),
        (tail - 40, size as u64 + 1, "a chunk ends at byte 409601"),
        (tail, 1, "the first number of the tail"),
        (tail + 8, 1, "the second number of the tail"),
        (tail + 16, 0, "the offset of the table"),
        (tail + 24, 16, "the size of the table"),
        (tail + 32, 0, "the magic of the tail"),
    ] {
        let found = lie(at, number).unwrap_err();
        assert!(found.starts_with(why), "{at}: {found}");
    }
    // Chunks may be as long as memory allows, whatever the header allows.
    let long = caibx(&with_max(good, 1 << 40), size);
    assert_eq!(
        long.map(|index| index.len()),
        caibx(good, size).map(|index| index.len())
    );
    for len in [0, 103, tail, good.len() - 1] {
        assert!(caibx(&good[..len], size).is_err(), "cut at {len}");
    }
    let longer = [good, &[0; 40]].concat();
    assert!(caibx(&longer, size).is_err(), "something follows");
    let cut = caibx::parse(&good[..tail], good.len() as u64, size as u64);
    assert!(cut.unwrap_err().starts_with("reading the index: "));
    let huge = caibx::parse(good, caibx::MAX_BYTES / 40 * 40 + 104, size as u64);
    assert!(
        huge.unwrap_err()
            .starts_with("the index has 16777304 bytes")
    );
}

/// The index with another longest chunk in its header.
fn with_max(index: &[u8], max: u64) -> Vec<u8> {
    let mut bytes = index.to_vec();
    bytes[40..48].copy_from_slice(&max.to_le_bytes());
    bytes
}

#[test]
fn a_superblock_that_lies_is_a_reason() {
    let lie = |at: usize, bytes: &[u8]| {
        let mut tree = fixtures::OLD_VERITY.to_vec();
        tree[at..at + bytes.len()].copy_from_slice(bytes);
        Superblock::parse(&tree).map(|superblock| superblock.len())
    };
    assert_eq!(lie(0, b"verity"), Ok(8192));
    let many = (MAX_MEMORY as u64 / 32 + 1).to_le_bytes();
    for (at, bytes, why) in [
        (0, &b"Verity"[..], "it has no superblock"),
        (8, &[2], "its hash tree is version 2, type 1"),
        (12, &[0], "its hash tree is version 1, type 0"),
        (32, b"sha512", "its hash tree uses sha512\\x00"),
        (32, b"sha256x", "its hash tree uses sha256x"),
        (64, &[0, 0], "its hash tree has blocks of 0 bytes"),
        (64, &[0, 1], "its hash tree has blocks of 256 bytes"),
        (68, &[0, 0x18], "its hash tree has blocks of 6144 bytes"),
        (
            68,
            &[0, 0, 0x10],
            "its hash tree has blocks of 1048576 bytes",
        ),
        (72, &[0], "its hash tree covers 0 blocks"),
        (72, &[1], "its hash tree covers 1 blocks"),
        (72, &many, "its hash tree covers 524289 blocks"),
        (
            72,
            &[0xff; 8],
            "its hash tree covers 18446744073709551615 blocks",
        ),
        (80, &[1, 1], "its hash tree has a salt of 257 bytes"),
    ] {
        let found = lie(at, bytes).unwrap_err();
        assert!(found.starts_with(why), "{at}: {found}");
    }
    assert!(Superblock::parse(&fixtures::OLD_VERITY[..511]).is_err());
    // The tree is not in the image, or of more than its partition.
    let superblock = Superblock::parse(fixtures::OLD_VERITY).unwrap();
    let index = |size, data: Range<u64>, tree: &[u8]| superblock.index(size, &data, tree.into());
    let (size, tree) = (fixtures::old().len() as u64, fixtures::OLD_VERITY);
    assert!(index(size, 0..size, tree).is_ok());
    for (size, data, tree) in [
        (size - 1, 0..size, tree),
        (size, 0..size - 1, tree),
        (size, 1..size + 1, tree),
        (size, size..0, tree),
        (size, 0..size, &tree[..4096 + 99 * 32]),
        (u64::MAX, u64::MAX - size..u64::MAX, &tree[..512]),
    ] {
        assert!(index(size, data.clone(), tree).is_err(), "{size} {data:?}");
    }
}
