//! Plans, carried out by a simple interpreter.

use std::ops::Range;
use std::sync::Arc;

use super::caibx::{self, Chunks};
use super::index::{Hashing, Index};
use super::plan::{Offers, Plan, Planner, Run};
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
    planner.seed(0, old.len() as u64).hash(&old[..]).unwrap();
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
    let by_hashing = planned(&|offers| offers.hash(&old[..]).unwrap());
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
