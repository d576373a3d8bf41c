//! Carries out a plan: older files on this machine have most bytes of a blob, its source has the others.
//!
//! Place in the chain: source → resumed → ranges, and seeds → **reuse** → verified → socket. Each chunk from a seed is
//! hashed before it is given out. At the first doubt the blob goes on as a plain download from the byte where it is: the
//! bytes before it are right, as far as the index says, and the digest of the blob decides at the end.

use std::fs::File;
use std::io::{self, Read};
use std::mem;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use log::debug;

use super::ranges::{Blob, Places, Ranges, WINDOW_OF_PLAN};
use crate::delta::plan::{Plan, Run};
use crate::error::{Error, Result};
use crate::memory::Held;
use crate::task;

/// Fewest requests under way at once, also with `download-connections = 1`. The ranges of a plan are small and many: an
/// image of 364 MiB after a month of security updates had 400 of 100 KiB. One after the other, at 20 ms for a round trip,
/// they take 8 s besides their bytes; at a registry that redirects each of them to another host 16 s; and 1,600 of them,
/// as without bytes that are fetched along, more than the whole image at 100 Mbit/s. Four at once are a quarter of that.
/// More would bring little, and clients may have no more than six connections to a host at many registries' front ends.
pub const REQUESTS: usize = 4;
/// Bytes of a seed that are read at once, unless a chunk has more.
const PIECE: usize = 256 << 10;

/// A plan with all that is needed to carry it out.
pub struct Planned {
    pub plan: Plan,
    /// By their numbers in the plan.
    pub seeds: Vec<Seed>,
    /// Bytes that were fetched to make the plan.
    pub fetched: u64,
    /// Most requests at once.
    pub connections: usize,
    /// The memory of the plan.
    pub held: Held,
    /// Notes that the blob was wrong, so that it is not fetched by a plan again.
    pub note_wrong: Box<dyn Fn() + Send + Sync>,
}

/// An older file on this machine.
pub struct Seed {
    /// Its name in messages.
    pub name: String,
    pub file: File,
}

/// How much a plan saved.
pub struct Reused {
    fetched: Arc<AtomicU64>,
    seeds: String,
    dropped: OnceLock<String>,
    /// The plan was never begun: all bytes come from the source.
    is_whole: bool,
    note_wrong: Box<dyn Fn() + Send + Sync>,
}

impl Reused {
    /// Bytes that were fetched, with those for making the plan.
    pub fn fetched(&self) -> u64 {
        self.fetched.load(Relaxed)
    }

    /// The names of the seeds, separated by commas.
    pub fn seeds(&self) -> &str {
        &self.seeds
    }

    /// Why the plan was given up on the way.
    pub fn dropped(&self) -> Option<&str> {
        self.dropped.get().map(String::as_str)
    }

    /// Whether all bytes come from the source, because the plan was never begun.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// The blob was wrong.
    pub fn note_wrong(&self) {
        (self.note_wrong)();
    }
}

/// Reads a blob by a plan.
pub struct Reuse {
    blob: Blob,
    reused: Arc<Reused>,
    now: Now,
    /// Bytes of the blob that were read.
    at: u64,
}

enum Now {
    Planned(Box<Carried>),
    /// One connection fetches the remaining bytes.
    Plain(Box<dyn Read + Send>),
}

/// A plan that is being carried out.
struct Carried {
    plan: Plan,
    seeds: Vec<Seed>,
    ranges: Ranges,
    /// The number of the run that is being read.
    run: usize,
    /// The number of the chunk of a seed that is read next.
    chunk: usize,
    /// Bytes of a seed that were checked, and how many of them were read.
    checked: Vec<u8>,
    taken: usize,
    /// The first chunk in the first window, until it was compared with the index.
    first: Option<usize>,
    /// Bytes of the first window up to the end of that chunk, and how many of them were read.
    ahead: Vec<u8>,
    given: usize,
    _held: Held,
}

/// Why a plan is not carried on.
enum Doubt {
    /// A plain download may have the remaining bytes.
    Plan(String),
    /// The download fails.
    Download(io::Error),
}

impl From<io::Error> for Doubt {
    fn from(error: io::Error) -> Self {
        Self::Download(error)
    }
}

impl Reuse {
    /// Asks for the first range, so the repository shows that it holds the blob before it gives out any byte. If it has no
    /// ranges, the answer is the whole blob.
    pub fn begin(blob: Blob, planned: Planned) -> Result<(Self, Arc<Reused>)> {
        let Planned {
            plan,
            seeds,
            fetched,
            connections,
            held,
            note_wrong,
        } = planned;
        blob.fetched.fetch_add(fetched, Relaxed);
        let (names, dropped) = (names(&plan, &seeds), OnceLock::new());
        let ranges: Vec<_> = plan.runs.iter().filter_map(blob_range).collect();
        let places = Places::of_plan(connections).filter(|_| !ranges.is_empty());
        let plain = |why: &str, body| {
            let _ = dropped.set(why.to_owned());
            Now::Plain(blob.resumed(body, 0))
        };
        let whole = || blob.open(0..blob.size);
        let now = match places {
            None => plain("too many downloads are under way", whole()?),
            Some(places) => {
                let first = places.first(&ranges);
                let limit = task::within(blob.patience_with_ranges());
                let opened = blob.open(first.clone());
                drop(limit);
                match opened {
                    Err(Error::TooSlow { .. }) if !task::is_over() => {
                        plain("the first range takes too long", whole()?)
                    }
                    Err(error) => return Err(error),
                    Ok(body) if (body.starts_at, body.ends_at) != (first.start, first.end) => {
                        plain("ranges are not supported", body)
                    }
                    Ok(body) => Now::Planned(Box::new(Carried {
                        first: first_chunk(&plan, &first),
                        ahead: Vec::new(),
                        given: 0,
                        ranges: Ranges::begin(places, blob.clone(), ranges, body),
                        plan,
                        seeds,
                        run: 0,
                        chunk: 0,
                        checked: Vec::new(),
                        taken: 0,
                        _held: held,
                    })),
                }
            }
        };
        let reused = Arc::new(Reused {
            fetched: blob.fetched.clone(),
            seeds: names,
            dropped,
            is_whole: matches!(now, Now::Plain(_)),
            note_wrong,
        });
        let reuse = Self {
            blob,
            reused: reused.clone(),
            now,
            at: 0,
        };
        Ok((reuse, reused))
    }

    /// Gives the plan up: one connection fetches the remaining bytes.
    fn fall_back(&mut self, why: String) {
        let (blob, at) = (&self.blob, self.at);
        debug!(
            "{}: fetched whole from byte {at} of {} on: {why}",
            blob.what, blob.size
        );
        let _ = self.reused.dropped.set(why);
        // The connections of the plan end, and its memory is free, before another one is opened.
        self.now = Now::Plain(Box::new(io::empty()));
        self.now = Now::Plain(match blob.open(at..blob.size) {
            Ok(body) => blob.resumed(body, at),
            Err(error) => blob.rest(at, error.line()),
        });
    }
}

impl Read for Reuse {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let carried = match &mut self.now {
            Now::Plain(rest) => return rest.read(buffer),
            Now::Planned(carried) => carried,
        };
        if buffer.is_empty() || self.at == self.blob.size {
            return Ok(0);
        }
        let begun = Instant::now();
        match carried.read(self.at, buffer) {
            Ok(n) => {
                self.at += n as u64;
                Ok(n)
            }
            Err(Doubt::Plan(why)) => {
                let _limit = self.blob.limit(begun);
                self.fall_back(why);
                self.read(buffer)
            }
            Err(Doubt::Download(error)) => Err(error),
        }
    }
}

impl Carried {
    /// The next bytes, which begin at byte `at` of the blob.
    fn read(&mut self, at: u64, buffer: &mut [u8]) -> Result<usize, Doubt> {
        if let Some(first) = self.first.take() {
            self.read_ahead(first)?;
        }
        loop {
            let checked = &self.checked[self.taken..];
            if !checked.is_empty() {
                let n = copy(checked, buffer);
                self.taken += n;
                return Ok(n);
            }
            let bytes = match self.plan.runs.get(self.run) {
                Some(run) => bytes_of(run, &self.plan),
                None => 0..0,
            };
            // Such a plan would be a mistake of this program.
            if !(bytes.start..=bytes.end).contains(&at) {
                return Err(Doubt::Plan(format!("the plan has nothing at byte {at}")));
            }
            if at == bytes.end {
                self.run += 1;
                self.chunk = 0;
                continue;
            }
            match &self.plan.runs[self.run] {
                Run::Blob(range) => {
                    let left = usize::try_from(range.end - at).unwrap_or(usize::MAX);
                    let want = buffer.len().min(left);
                    let ahead = &self.ahead[self.given..];
                    if !ahead.is_empty() {
                        let n = copy(ahead, &mut buffer[..want]);
                        self.given += n;
                        return Ok(n);
                    }
                    return self.ranges.read(&mut buffer[..want])?.map_err(Doubt::Plan);
                }
                Run::Held { at: start, bytes } => {
                    return Ok(copy(&bytes[(at - start) as usize..], buffer));
                }
                Run::Seed { seed, from, chunks } => {
                    let (seed, from) = (*seed, from + (at - bytes.start));
                    let chunks = self.chunk.max(chunks.start)..chunks.end;
                    self.check(seed, from, chunks)?;
                }
            }
        }
    }

    /// Compares the first chunk that comes from the repository with the index, before any byte is given out. In most cases
    /// an index of another file is found out by that, and the client gets a plain download instead of a broken one.
    fn read_ahead(&mut self, first: usize) -> Result<(), Doubt> {
        let index = &self.plan.index;
        let chunk = index.chunk(first);
        let mut ranges = self.plan.runs.iter().filter_map(blob_range);
        let start = ranges.next().map_or(chunk.start, |range| range.start);
        let mut bytes = vec![0; (chunk.bytes().end - start) as usize];
        let mut there = 0;
        while there < bytes.len() {
            let read = self.ranges.read(&mut bytes[there..])?;
            match read.map_err(Doubt::Plan)? {
                // The repository has no more of it, which ends the download at this byte.
                0 => break,
                n => there += n,
            }
        }
        let is_whole = there == bytes.len();
        if is_whole && !index.has(first, &bytes[(chunk.start - start) as usize..]) {
            return Err(Doubt::Plan(format!(
                "the index is of another file: the chunk at byte {} has another hash",
                chunk.start
            )));
        }
        bytes.truncate(there);
        self.ahead = bytes;
        Ok(())
    }

    /// Reads the next chunks of a run from the byte `from` of a seed on, and checks them.
    fn check(&mut self, seed: usize, from: u64, chunks: Range<usize>) -> Result<(), Doubt> {
        let index = &self.plan.index;
        let Some(Seed { name, file }) = self.seeds.get(seed) else {
            return Err(Doubt::Plan(format!("the plan has no seed {seed}")));
        };
        let mut end = chunks.start;
        let mut length = 0;
        while end < chunks.end {
            let more = index.chunk(end).len as usize;
            if end > chunks.start && length + more > PIECE {
                break;
            }
            (end, length) = (end + 1, length + more);
        }
        let mut bytes = mem::take(&mut self.checked);
        bytes.resize(length, 0);
        if let Err(error) = file.read_exact_at(&mut bytes, from) {
            let why = match error.kind() {
                io::ErrorKind::UnexpectedEof => "it is shorter than before".to_owned(),
                _ => error.to_string(),
            };
            return Err(Doubt::Plan(format!("{name} cannot be read: {why}")));
        }
        let mut good = 0;
        self.chunk = chunks.start;
        while self.chunk < end {
            let chunk = &bytes[good..good + index.chunk(self.chunk).len as usize];
            if !index.has(self.chunk, chunk) {
                break;
            }
            good += chunk.len();
            self.chunk += 1;
        }
        if good == 0 {
            let at = index.chunk(chunks.start).start;
            return Err(Doubt::Plan(format!(
                "{name} lacks the chunk for byte {at} that its index promises"
            )));
        }
        bytes.truncate(good);
        (self.checked, self.taken) = (bytes, 0);
        Ok(())
    }
}

/// The bytes of the blob that a run is.
fn bytes_of(run: &Run, plan: &Plan) -> Range<u64> {
    match run {
        Run::Blob(range) => range.clone(),
        Run::Held { at, bytes } => *at..at + bytes.len() as u64,
        Run::Seed { chunks, .. } => {
            let last = plan.index.chunk(chunks.end - 1);
            plan.index.chunk(chunks.start).start..last.bytes().end
        }
    }
}

/// The first chunk that lies in the first window.
fn first_chunk(plan: &Plan, window: &Range<u64>) -> Option<usize> {
    let mut chunks = plan.index.chunks();
    let first = chunks.position(|chunk| chunk.start >= window.start)?;
    (plan.index.chunk(first).bytes().end <= window.end).then_some(first)
}

/// Bytes in memory for those of a seed that were checked and not read yet, and for the window with the first chunk.
pub fn buffer_of(plan: &Plan) -> usize {
    let largest = plan.index.chunks().map(|chunk| chunk.len as usize).max();
    PIECE.max(largest.unwrap_or_default()) + WINDOW_OF_PLAN
}

fn blob_range(run: &Run) -> Option<Range<u64>> {
    match run {
        Run::Blob(range) => Some(range.clone()),
        Run::Seed { .. } | Run::Held { .. } => None,
    }
}

/// The seeds from which a plan takes bytes.
fn names(plan: &Plan, seeds: &[Seed]) -> String {
    let is_used = |number: usize| {
        let mut runs = plan.runs.iter();
        runs.any(|run| matches!(run, Run::Seed { seed, .. } if *seed == number))
    };
    let used = seeds.iter().enumerate();
    let names = used.filter_map(|(number, seed)| is_used(number).then_some(seed.name.as_str()));
    names.collect::<Vec<_>>().join(", ")
}

fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let n = from.len().min(to.len());
    to[..n].copy_from_slice(&from[..n]);
    n
}
