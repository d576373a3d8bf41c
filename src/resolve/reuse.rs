//! A file, and older versions of it on this machine → a plan: which bytes are fetched, and which older file has the rest.
//!
//! The index of the file says which chunks it has. Those of an older version are known by its own index of casync or
//! desync, which the manifest of that version has; or by its hash tree; or its blocks are hashed.

use std::io::Read;
use std::ops::Range;
use std::time::{Duration, Instant};

use log::debug;

use super::Resolver;
use super::indexes::{Found, MAX_INDEX};
use crate::blob::{self, Planned, Positioned};
use crate::delta::caibx;
use crate::delta::index::Chunk;
use crate::delta::plan::{MAX_SEEDS, Plan, Planner, Run};
use crate::delta::seeds::Seed;
use crate::delta::verity::{self, SUPERBLOCK, Superblock};
use crate::error::Error;
use crate::gpt;
use crate::listing::File;
use crate::memory::Held;
use crate::task;

/// Longest time to find the indexes and to make a plan. The client waits for its first byte meanwhile.
const TIME: Duration = Duration::from_secs(10);
/// Longest time to hash the blocks of an older version. What was not hashed then is fetched.
const HASHING: Duration = Duration::from_secs(5);
/// Bytes that are hashed between two looks at the time.
const PIECE: u64 = 1 << 20;

/// A plan, the bytes that were fetched to make it, and its memory.
type Made = (Plan, u64, Held);

impl Resolver<'_> {
    /// The plan for a file, or the reason why it is fetched whole.
    ///
    /// `older`: the file of this directory that a seed is, if it is still there. `connections`: most requests at once.
    pub fn plan(
        &self,
        file: &File,
        seeds: Vec<Seed>,
        older: impl Fn(&Seed) -> Option<File>,
        connections: usize,
    ) -> Result<Planned, String> {
        let source = self.source.name();
        let size = file.size.ok_or("its size is not known")?;
        if self.wrong_plans.has(&source, file.digest) {
            return Err(
                "its digest was wrong when it was reassembled from an older version".to_owned(),
            );
        }
        let _limit = task::within(TIME);
        let (plan, fetched, mut held) = match self.by_chunks(file, size, &seeds, older) {
            Err(why) if !task::is_over() => {
                let by_tree = self.by_tree(file, size, &seeds);
                by_tree.map_err(|other| format!("{why}; {other}"))?
            }
            made => made?,
        };
        held.shrink_to(memory(&plan));
        let (wrong_plans, digest) = (self.wrong_plans.clone(), file.digest);
        Ok(Planned {
            plan,
            seeds: seeds.into_iter().map(blob_seed).collect(),
            fetched,
            connections,
            held,
            note_wrong: Box::new(move || wrong_plans.note(&source, digest)),
        })
    }

    /// A plan by indexes of casync or desync.
    fn by_chunks(
        &self,
        file: &File,
        size: u64,
        seeds: &[Seed],
        older: impl Fn(&Seed) -> Option<File>,
    ) -> Result<Made, String> {
        let found = self.chunks(file, size).map_err(line)?;
        let Found {
            index,
            held,
            mut fetched,
            memory,
        } = found.ok_or("it has no .caibx")?;
        let most = MAX_INDEX.min(2 * index.memory() as u64);
        let planner = Planner::new(index, held, fetched);
        let mut planner = planner.map_err(|why| why.to_string())?;
        for (number, seed) in seeds.iter().enumerate().take(MAX_SEEDS) {
            let Some(file) = older(seed) else { continue };
            let found = self.caibx(&file);
            // A much longer one takes more memory than there is for the plan.
            let found = found.map(|found| found.filter(|found| found.size <= most));
            let found = found.and_then(|found| found.map(|one| self.caibx_bytes(&one)).transpose());
            let (bytes, more) = match found {
                Ok(Some(found)) => found,
                Ok(None) => continue,
                Err(error) if task::is_over() => return Err(line(error)),
                Err(error) => {
                    debug!("{}: {}", seed.path.display(), error.line());
                    continue;
                }
            };
            fetched += more;
            planner.add_fetched(more);
            let length = bytes.len() as u64;
            let chunks = caibx::Chunks::new(&bytes[..], length, seed.size);
            let chunks = chunks.and_then(|chunks| match chunks.hashing() {
                same if same == planner.index().hashing() => Ok(chunks),
                _ => Err(
                    "its .caibx has hashes of another kind than the one of the new version"
                        .to_owned(),
                ),
            });
            let mut offers = planner.seed(number, seed.size);
            let offered = chunks.and_then(|mut chunks| {
                chunks.try_for_each(|chunk| chunk.map(|chunk| offers.chunk(&chunk)))
            });
            if let Err(why) = offered {
                debug!("{}: {why}", seed.path.display());
            }
        }
        let plan = planner.finish().map_err(|why| why.to_string())?;
        Ok((plan, fetched, memory))
    }

    /// A plan by the hash tree of the file.
    fn by_tree(&self, file: &File, size: u64, seeds: &[Seed]) -> Result<Made, String> {
        let found = self.tree(file, size).map_err(line)?;
        let (superblock, found) = found.ok_or("it has no hash tree")?;
        let Found {
            index,
            held,
            fetched,
            memory,
        } = found;
        let planner = Planner::new(index, held, fetched);
        let mut planner = planner.map_err(|why| why.to_string())?;
        let until = Instant::now() + HASHING;
        for (number, seed) in seeds.iter().enumerate().take(MAX_SEEDS) {
            let mut offers = planner.seed(number, seed.size);
            let offered = offer(seed, &superblock, until, |chunk| offers.chunk(chunk));
            if let Err(why) = offered {
                debug!("{}: {why}", seed.path.display());
            }
        }
        let plan = planner.finish().map_err(|why| why.to_string())?;
        Ok((plan, fetched, memory))
    }
}

/// Visits the blocks of an older version that has a hash tree, or may have one elsewhere.
fn offer(
    seed: &Seed,
    wanted: &Superblock,
    until: Instant,
    mut visit: impl FnMut(&Chunk),
) -> Result<(), String> {
    let cannot = |error: std::io::Error| format!("it cannot be read: {error}");
    let read = |at: u64, length: usize| -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        Positioned::new(&seed.file).read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    };
    let head = usize::try_from(seed.size)
        .unwrap_or(usize::MAX)
        .min(gpt::TABLE);
    let trees = verity::hash_trees(&read(0, head).map_err(cannot)?)?;
    let Some(found) = trees.first() else {
        return hash(seed, 0..seed.size, wanted, until, visit);
    };
    let own = read(found.tree.start, SUPERBLOCK).map_err(cannot)?;
    let own = Superblock::parse(&own)?;
    // The hashes are others, unless both versions have the same salt.
    if own.hashing() != wanted.hashing() || own.block() != wanted.block() {
        return hash(seed, found.data.clone(), wanted, until, visit);
    }
    let leaves = own.leaves();
    let start = found.tree.start.saturating_add(leaves.start);
    let leaves = Positioned::at(&seed.file, start).take(leaves.end - leaves.start);
    for chunk in own.blocks(&found.data, leaves)? {
        visit(&chunk.map_err(cannot)?);
    }
    Ok(())
}

/// Visits the blocks of a part of an older version, after they were hashed as those of the file.
fn hash(
    seed: &Seed,
    data: Range<u64>,
    wanted: &Superblock,
    until: Instant,
    mut visit: impl FnMut(&Chunk),
) -> Result<(), String> {
    let block = wanted.block();
    let mut bytes = vec![0; (PIECE as usize).max(block as usize)];
    let mut start = data.start;
    let end = data.end.min(seed.size);
    while start < end {
        if Instant::now() >= until || task::is_over() {
            return Err("hashing its blocks takes too long".to_owned());
        }
        let piece = (end - start).min(bytes.len() as u64) as usize;
        let read = Positioned::new(&seed.file).read_exact_at(&mut bytes[..piece], start);
        read.map_err(|error| format!("it cannot be read: {error}"))?;
        for bytes in bytes[..piece].chunks_exact(block as usize) {
            let id = wanted.hashing().id(bytes);
            let len = block;
            visit(&Chunk { start, len, id });
            start += u64::from(len);
        }
        if piece < block as usize {
            break;
        }
    }
    Ok(())
}

fn line(error: Error) -> String {
    error.line()
}

fn blob_seed(seed: Seed) -> blob::Seed {
    let name = seed.path.file_name().unwrap_or(seed.path.as_os_str());
    blob::Seed {
        name: name.to_string_lossy().into_owned(),
        file: seed.file,
    }
}

/// Bytes that a plan takes in memory while it is carried out.
fn memory(plan: &Plan) -> usize {
    let held = plan.runs.iter().map(|run| match run {
        Run::Held { bytes, .. } => bytes.len(),
        Run::Seed { .. } | Run::Blob(_) => 0,
    });
    let runs = plan.runs.capacity() * size_of::<Run>();
    plan.index.memory() + runs + held.sum::<usize>() + blob::buffer_of(plan)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The superblock of a tree of 100 blocks, by `tests/deltas/make`.
    const TREE: &[u8] = include_bytes!("../../tests/deltas/old.verity");

    #[test]
    fn an_older_version_is_hashed_for_a_while_and_up_to_its_end() {
        let path = std::env::temp_dir();
        let path = path.join(format!("sysext-oci-proxy-hashed-{}", std::process::id()));
        let wanted = Superblock::parse(TREE).unwrap();
        let block = u64::from(wanted.block());
        fs::write(&path, vec![7; 3 * block as usize + 100]).unwrap();
        let seed = Seed::open(&path, "1").unwrap();
        fs::remove_file(path).unwrap();
        let hashed = |data: Range<u64>, until: Instant| {
            let mut starts = Vec::new();
            let result = hash(&seed, data, &wanted, until, |chunk| {
                assert_eq!(chunk.id, wanted.hashing().id(&vec![7; block as usize]));
                starts.push(chunk.start);
            });
            (result.is_ok(), starts)
        };
        let later = Instant::now() + Duration::from_secs(1000);
        let (first, second) = (block, 2 * block);
        assert_eq!(hashed(0..seed.size, later), (true, vec![0, first, second]));
        // The table of partitions may lie.
        assert_eq!(hashed(first..u64::MAX, later), (true, vec![first, second]));
        assert_eq!(hashed(0..seed.size, Instant::now()), (false, vec![]));
    }
}
