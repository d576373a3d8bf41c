//! Indexes of casync and desync.

use std::ops::Range;

use crate::delta::caibx::{self, Chunks};
use crate::delta::index::{Hashing, Index, MAX_CHUNK};
use crate::delta::plan::{Planner, Run};
use crate::fields::u64_at;

/// An index that is accepted has chunks that are its whole file, and is the same when it is written again. Each input
/// is of a file as long as its last chunk says.
pub fn caibx(data: &[u8]) {
    let (len, size) = (data.len() as u64, size(data));
    let parsed = caibx::parse(data, len, size);
    let by_chunks =
        Chunks::new(data, len, size).and_then(|chunks| chunks.collect::<Result<Vec<_>, _>>());
    let index = match parsed {
        Ok(index) => index,
        Err(_) => {
            // Only whoever has them all in memory minds how long they are.
            let lens = by_chunks.iter().flatten().map(|chunk| chunk.len);
            assert!(by_chunks.is_err() || lens.max() > Some(MAX_CHUNK));
            return;
        }
    };
    assert!(index.chunks().eq(by_chunks.unwrap()));
    let mut end = 0;
    for chunk in index.chunks() {
        assert!(chunk.start == end && (1..=MAX_CHUNK).contains(&chunk.len));
        end = chunk.bytes().end;
    }
    assert_eq!((end, index.size()), (size, size));
    assert!(written(&index, &data[16..48]) == data);
    let other = size.wrapping_add(1);
    assert!(caibx::parse(data, len, other).is_err(), "of another file");
    assert_planned(index);
}

/// The end of the last chunk.
fn size(data: &[u8]) -> u64 {
    match data.len().checked_sub(80) {
        Some(at) if at >= 64 => u64_at(data, at),
        _ => 0,
    }
}

/// The index as it is in a file. `header`: its flags and lengths.
fn written(index: &Index, header: &[u8]) -> Vec<u8> {
    let mut written = Vec::new();
    let mut numbers = |numbers: &[u64], bytes: &[u8]| {
        written.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        written.extend(bytes);
    };
    numbers(&[48, 0x9682_4d9c_7b12_9ff9], header);
    numbers(&[u64::MAX, 0xe75b_9e11_2f17_417d], &[]);
    for chunk in index.chunks() {
        numbers(&[chunk.bytes().end], &chunk.id);
    }
    let table = 56 + 40 * index.len() as u64;
    numbers(&[0, 0, 48, table, 0x4b4f_050e_5549_ecd1], &[]);
    let has_flag = header[7] & 0x20 != 0;
    assert_eq!(*index.hashing() == Hashing::Sha512_256, has_flag);
    written
}

/// With every second chunk in a seed, the runs of a plan are the whole file, and each chunk of the seed is where it says.
fn assert_planned(index: Index) {
    let seeds: Vec<_> = index.chunks().step_by(2).collect();
    let mut planner = Planner::new(index, Vec::new(), 0).unwrap();
    let mut offers = planner.seed(0, u64::MAX);
    seeds.iter().for_each(|chunk| offers.chunk(chunk));
    let Ok(plan) = planner.finish() else {
        return;
    };
    let mut end = 0;
    for run in &plan.runs {
        let bytes: Range<u64> = match run {
            Run::Blob(range) => range.clone(),
            Run::Held { .. } => unreachable!(),
            Run::Seed { seed, from, chunks } => {
                assert_eq!(*seed, 0);
                let [first, last] = [chunks.start, chunks.end - 1].map(|n| plan.index.chunk(n));
                let mut from = *from;
                for number in chunks.clone() {
                    let chunk = plan.index.chunk(number);
                    let is_there = |seed: &&crate::delta::index::Chunk| {
                        (seed.start, seed.len, seed.id) == (from, chunk.len, chunk.id)
                    };
                    assert!(seeds.iter().any(|seed| is_there(&seed)));
                    from += u64::from(chunk.len);
                }
                first.start..last.bytes().end
            }
        };
        assert!(bytes.start == end && bytes.start < bytes.end);
        end = bytes.end;
    }
    assert_eq!(end, plan.size);
    assert!(plan.ranges() > 0);
}
