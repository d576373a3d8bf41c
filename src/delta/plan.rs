//! Index of the blob, indexes of the seeds → where each run of the blob comes from.

use std::ops::Range;
use std::sync::Arc;

use super::index::{Chunk, Index};

/// Most memory that a plan takes, while it is made as well.
pub const MAX_MEMORY: usize = 16 << 20;
/// Most seeds of a plan.
pub const MAX_SEEDS: usize = NONE as usize;

/// Bytes that are fetched along, because they are between two ranges, and the index itself are together less than this
/// part of what is missing.
const FETCHED_ALONG: u64 = 10;
/// A plan that saves less than this part of the blob is none.
const LEAST_SAVED: u64 = 20;
/// Bytes that a run takes while a plan is made: while gaps are filled there are the runs twice, and the ranges with their
/// order.
const OF_A_RUN: usize =
    2 * size_of::<Run>() + size_of::<Range<u64>>() + size_of::<usize>() + size_of::<bool>();
/// Bytes that the planner takes for a chunk: the seed, and its place there.
const OF_A_FIND: usize = size_of::<u8>() + size_of::<u64>();
/// Most bytes that a chunk takes besides the index while a plan is made, if each is a run of its own.
pub const OF_A_CHUNK: usize = OF_A_RUN + OF_A_FIND;
/// A request costs as much time as these bytes. Registries answer within 30 ms or so: over four connections that is
/// the time of 90 KiB at 100 Mbit/s.
const REQUEST: u64 = 64 << 10;

/// Bytes of the blob that one place has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Run {
    /// A seed has them from the byte `from` on. `chunks`: their numbers in the index of the blob; they follow each
    /// other in the blob as in the seed.
    Seed {
        seed: usize,
        from: u64,
        chunks: Range<usize>,
    },
    /// Bytes of the blob that are fetched by a range request.
    Blob(Range<u64>),
    /// Bytes of the blob from `at` on that were fetched before, for its index.
    Held { at: u64, bytes: Arc<[u8]> },
}

/// Where each byte of a blob comes from.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// Bytes of the blob.
    pub size: u64,
    /// They cover `0..size` in order, without gaps. At least one is [`Run::Blob`].
    pub runs: Vec<Run>,
    /// The index of the blob: chunks from seeds are checked by its hashes.
    pub index: Index,
}

impl Plan {
    /// Bytes that are to be fetched by ranges.
    pub fn missing(&self) -> u64 {
        blob_ranges(&self.runs)
            .map(|range| range.end - range.start)
            .sum()
    }

    /// How many ranges are to be fetched.
    pub fn ranges(&self) -> usize {
        blob_ranges(&self.runs).count()
    }
}

fn blob_ranges(runs: &[Run]) -> impl Iterator<Item = &Range<u64>> {
    runs.iter().filter_map(|run| match run {
        Run::Blob(range) => Some(range),
        Run::Seed { .. } | Run::Held { .. } => None,
    })
}

/// Why a blob is fetched whole.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Bytes.
    #[error("a plan would take {0} bytes of memory, expected at most {MAX_MEMORY}")]
    TooLarge(usize),
    #[error(
        "the older versions lack {missing} of {size} bytes, in {ranges} ranges: the requests would take longer than the file"
    )]
    NotWorthIt {
        size: u64,
        missing: u64,
        ranges: usize,
    },
}

/// Collects what the seeds have of a blob.
///
/// Seeds are offered one after the other, chunk by chunk, so that the index of a seed needs no memory.
pub struct Planner {
    index: Index,
    held: Vec<(u64, Arc<[u8]>)>,
    /// Bytes that were fetched for the indexes.
    fetched: u64,
    /// The numbers of the chunks, sorted by hash and length: equal chunks are beside each other.
    order: Vec<u32>,
    /// The seed that has a chunk, by the number of the chunk.
    seeds: Vec<u8>,
    /// Where the seed has it.
    froms: Vec<u64>,
}

/// No seed has the chunk.
const NONE: u8 = u8::MAX;

/// The chunks of one seed on their way into a plan. See [`Planner::seed`].
pub struct Offers<'a> {
    planner: &'a mut Planner,
    seed: u8,
    size: u64,
    /// The chunk of the blob that the last one offered is, and where it ended in the seed.
    last: Option<(usize, u64)>,
}

impl Planner {
    /// `held`: bytes of the blob that were fetched for its index, and where they are in the blob. `fetched`: how many bytes
    /// were fetched for the index in all.
    pub fn new(index: Index, held: Vec<(u64, Arc<[u8]>)>, fetched: u64) -> Result<Self, Refused> {
        let count = index.len();
        let each = size_of::<u32>() + OF_A_FIND;
        let memory = index.memory() + held_bytes(&index, &held) + count * each;
        let (true, Ok(numbers)) = (memory <= MAX_MEMORY, u32::try_from(count)) else {
            return Err(Refused::TooLarge(memory));
        };
        let mut order: Vec<u32> = (0..numbers).collect();
        order.sort_unstable_by_key(|number| {
            let chunk = index.chunk(*number as usize);
            (chunk.id, chunk.len, *number)
        });
        Ok(Self {
            index,
            held,
            fetched,
            order,
            seeds: vec![NONE; count],
            froms: vec![0; count],
        })
    }

    /// How the hashes of the chunks that are offered must be made.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Counts bytes that were fetched for the index of a seed.
    pub fn add_fetched(&mut self, bytes: u64) {
        self.fetched += bytes;
    }

    /// Begins to offer the chunks of a seed, in their order. `seed`: its number in the plan, less than [`MAX_SEEDS`].
    /// `size`: of the file itself; chunks behind its end are ignored.
    pub fn seed(&mut self, seed: usize, size: u64) -> Offers<'_> {
        Offers {
            planner: self,
            seed: u8::try_from(seed).unwrap_or(NONE),
            size,
            last: None,
        }
    }

    /// The plan, if it saves enough to be worth its requests.
    pub fn finish(self) -> Result<Plan, Refused> {
        let plan = self.plan()?;
        let (size, missing, ranges) = (plan.size, plan.missing(), plan.ranges());
        let least = size.div_ceil(LEAST_SAVED).max(ranges as u64 * REQUEST);
        // Without a range the repository would not show that it has the blob.
        if ranges == 0 || size.saturating_sub(missing) < least {
            return Err(Refused::NotWorthIt {
                size,
                missing,
                ranges,
            });
        }
        Ok(plan)
    }

    /// The plan, whatever it saves.
    pub(super) fn plan(mut self) -> Result<Plan, Refused> {
        self.share();
        self.order = Vec::new();
        let mut runs = self.runs()?;
        if blob_ranges(&runs).next().is_none()
            && let Some(Run::Seed { chunks, .. }) =
                runs.iter().find(|run| matches!(run, Run::Seed { .. }))
        {
            // At least one range is fetched, so that the repository shows that it has the blob.
            self.seeds[chunks.start] = NONE;
            runs = self.runs()?;
        }
        let missing: u64 = blob_ranges(&runs).map(length).sum();
        // Together with the index they must be less than the part.
        let along = missing.div_ceil(FETCHED_ALONG);
        let along = along.saturating_sub(1).saturating_sub(self.fetched);
        Ok(Plan {
            size: self.index.size(),
            runs: fill_gaps(runs, &self.index, along),
            index: self.index,
        })
    }

    /// A chunk that no seed offered at its place may be one that a seed offered at another place.
    fn share(&mut self) {
        let is_same = |one: &u32, other: &u32| {
            let (one, other) = (
                self.index.chunk(*one as usize),
                self.index.chunk(*other as usize),
            );
            (one.id, one.len) == (other.id, other.len)
        };
        for equal in self.order.chunk_by(is_same) {
            let mut numbers = equal.iter().map(|number| *number as usize);
            let Some(found) = numbers.find(|number| self.seeds[*number] != NONE) else {
                continue;
            };
            for number in equal.iter().map(|number| *number as usize) {
                if self.seeds[number] == NONE {
                    self.seeds[number] = self.seeds[found];
                    self.froms[number] = self.froms[found];
                }
            }
        }
    }

    /// The runs without any bytes that are fetched along.
    fn runs(&self) -> Result<Vec<Run>, Refused> {
        let mut count = 0;
        self.each_run(|_| count += 1);
        let held = held_bytes(&self.index, &self.held);
        let finds = self.index.len() * OF_A_FIND;
        let memory = self.index.memory() + held + finds + count * OF_A_RUN;
        if memory > MAX_MEMORY {
            return Err(Refused::TooLarge(memory));
        }
        let mut runs = Vec::with_capacity(count);
        self.each_run(|run| runs.push(run));
        Ok(runs)
    }

    fn each_run(&self, mut each: impl FnMut(Run)) {
        let mut last: Option<Run> = None;
        let mut next = |run: Run| {
            let joined = last
                .take()
                .and_then(|last| match joined(&last, &run, &self.index) {
                    None => {
                        each(last);
                        None
                    }
                    joined => joined,
                });
            last = Some(joined.unwrap_or(run));
        };
        let mut at = 0;
        let mut held = self.held.iter().peekable();
        let size = self.index.size();
        // Bytes that are in no chunk.
        let mut outside = |at: u64, end: u64, next: &mut dyn FnMut(Run)| {
            let mut at = at;
            while let Some((start, bytes)) = held.next_if(|(start, _)| *start < end) {
                let held_end = start.saturating_add(bytes.len() as u64);
                // It may overlap chunks.
                if *start < at || held_end > end || bytes.is_empty() {
                    continue;
                }
                if at < *start {
                    next(Run::Blob(at..*start));
                }
                let bytes = bytes.clone();
                next(Run::Held { at: *start, bytes });
                at = held_end;
            }
            if at < end {
                next(Run::Blob(at..end));
            }
        };
        for (number, chunk) in self.index.chunks().enumerate() {
            let bytes = chunk.bytes();
            outside(at, bytes.start, &mut next);
            at = bytes.end;
            next(match self.seeds[number] {
                NONE => Run::Blob(bytes),
                seed => Run::Seed {
                    seed: seed.into(),
                    from: self.froms[number],
                    chunks: number..number + 1,
                },
            });
        }
        outside(at, size, &mut next);
        if let Some(last) = last {
            each(last);
        }
    }
}

/// Bytes in memory that are not those of the index.
fn held_bytes(index: &Index, held: &[(u64, Arc<[u8]>)]) -> usize {
    let others = held.iter().filter(|(_, bytes)| !index.shares(bytes));
    others.map(|(_, bytes)| bytes.len()).sum()
}

/// Two runs that follow each other, as one.
fn joined(one: &Run, next: &Run, index: &Index) -> Option<Run> {
    match (one, next) {
        (Run::Blob(one), Run::Blob(next)) if one.end == next.start => {
            Some(Run::Blob(one.start..next.end))
        }
        (
            Run::Seed { seed, from, chunks },
            Run::Seed {
                seed: next_seed,
                from: next_from,
                chunks: next_chunks,
            },
        ) if seed == next_seed && chunks.end == next_chunks.start => {
            let start = index.chunk(chunks.start).start;
            let next_start = index.chunk(next_chunks.start).start;
            (next_from.checked_sub(*from) == next_start.checked_sub(start)).then_some(Run::Seed {
                seed: *seed,
                from: *from,
                chunks: chunks.start..next_chunks.end,
            })
        }
        _ => None,
    }
}

/// Makes one range of two if the bytes between them are few: smallest gaps first, at most `along` bytes in all.
fn fill_gaps(runs: Vec<Run>, index: &Index, mut along: u64) -> Vec<Run> {
    let ranges: Vec<_> = blob_ranges(&runs).cloned().collect();
    let gap = |number: &usize| ranges[number + 1].start - ranges[*number].end;
    let mut order: Vec<_> = (0..ranges.len().saturating_sub(1)).collect();
    order.sort_by_key(gap);
    let mut filled = vec![false; ranges.len()];
    for number in order {
        let Some(rest) = along.checked_sub(gap(&number)) else {
            break;
        };
        (along, filled[number]) = (rest, true);
    }
    let mut found = Vec::with_capacity(runs.len());
    let mut number = 0;
    for run in runs {
        let is_filled = number > 0 && filled[number - 1];
        let bytes = match run {
            Run::Blob(range) => {
                number += 1;
                range
            }
            run if is_filled => bytes_of(&run, index),
            run => {
                found.push(run);
                continue;
            }
        };
        match found.last_mut() {
            Some(Run::Blob(last)) if last.end == bytes.start => last.end = bytes.end,
            _ => found.push(Run::Blob(bytes)),
        }
    }
    found
}

/// The bytes of the blob that a run is.
fn bytes_of(run: &Run, index: &Index) -> Range<u64> {
    match run {
        Run::Blob(range) => range.clone(),
        Run::Held { at, bytes } => *at..at + bytes.len() as u64,
        Run::Seed { chunks, .. } => {
            let last = index.chunk(chunks.end - 1).bytes();
            index.chunk(chunks.start).start..last.end
        }
    }
}

fn length(range: &Range<u64>) -> u64 {
    range.end - range.start
}

impl Offers<'_> {
    /// The next chunk of the seed. Its hash must be made as those of the index of the blob are.
    pub fn chunk(&mut self, chunk: &Chunk) {
        let last = self.last.take();
        let end = chunk.start.checked_add(chunk.len.into());
        let Some(end) = end.filter(|end| *end <= self.size) else {
            return;
        };
        // It goes on where the last one ended, in the seed as in the blob.
        let next = last.and_then(|(number, end)| (end == chunk.start).then_some(number + 1));
        if let Some(next) = next.filter(|next| self.is(*next, chunk)) {
            if !self.planner.continues(next) {
                self.take(next, chunk);
            }
            self.last = Some((next, end));
        } else if let Some(first) = self.find(chunk) {
            if self.planner.seeds[first] == NONE {
                self.take(first, chunk);
            }
            self.last = Some((first, end));
        }
    }

    /// All chunks of a seed, if their hashes are made in the same way.
    #[cfg(test)]
    pub fn index(&mut self, index: &Index) {
        if index.hashing() == self.planner.index.hashing() {
            index.chunks().for_each(|chunk| self.chunk(&chunk));
        }
    }

    fn is(&self, number: usize, chunk: &Chunk) -> bool {
        let index = &self.planner.index;
        number < index.len() && {
            let found = index.chunk(number);
            (found.id, found.len) == (chunk.id, chunk.len)
        }
    }

    /// The first chunk of the blob that is this one.
    fn find(&self, chunk: &Chunk) -> Option<usize> {
        let Planner { index, order, .. } = &*self.planner;
        let at = order.partition_point(|number| {
            let found = index.chunk(*number as usize);
            (found.id, found.len) < (chunk.id, chunk.len)
        });
        let number = *order.get(at)? as usize;
        self.is(number, chunk).then_some(number)
    }

    fn take(&mut self, number: usize, chunk: &Chunk) {
        self.planner.seeds[number] = self.seed;
        self.planner.froms[number] = chunk.start;
    }
}

impl Planner {
    /// Whether a seed already has this chunk behind the one before it.
    fn continues(&self, number: usize) -> bool {
        let Some(before) = number.checked_sub(1) else {
            return false;
        };
        let len = u64::from(self.index.chunk(before).len);
        self.seeds[number] != NONE
            && self.seeds[before] == self.seeds[number]
            && self.froms[before] + len == self.froms[number]
    }
}
