//! Plans, carried out by a simple interpreter.

use std::ops::Range;

use super::index::{Hashing, Index};
use super::plan::{Plan, Planner, Run};

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
