//! Files that have to be made before they can be sent, each by one thread at a time.
//!
//! What a file is once made is remembered, so it can be listed when it is long gone; then it is made
//! again when somebody asks for it. Work goes on when nobody waits any more, and the service stays for it.

use std::collections::HashMap;
use std::fs::File;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use log::{info, warn};

use super::flatten::{Budget, READER, flatten, too_large};
use crate::artifact::Recipe;
use crate::cache::{Cache, Made, Sum, Unfinished};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::hangup;
use crate::lock::lock;
use crate::source::Source;

/// Images that wait for their turn. Each has a thread, and whoever may ask could ask for any number.
const MAX_WAITING: usize = 16;
/// How long a failure of our own disk stands: all layers are fetched for each try.
const SETTLED: Duration = Duration::from_secs(600);
/// One for want of room stands no longer than until there is room for all that was written, and for so much more.
const MORE_ROOM: u64 = 1 << 20;
/// What a client is told to wait for a file that is not ready.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// Where files are made.
pub struct Workshop {
    cache: Arc<Cache>,
    /// How many bytes the files of one image may have in all.
    limit: u64,
    jobs: Mutex<HashMap<Digest, Arc<Job>>>,
    /// Shared with every thread that works, so that they outlive nothing they use.
    bench: Arc<Bench>,
}

/// A file in the making.
#[derive(Default)]
pub struct Job {
    result: Mutex<Option<Finished>>,
    is_done: Condvar,
}

/// How it ended.
struct Finished {
    result: Result<Made>,
    /// Why it is of no use to begin anew.
    standing: Option<Standing>,
}

/// A failure of our own disk, which cost all that was fetched.
struct Standing {
    since: Instant,
    /// Where it was for want of room: so many bytes it would do with.
    needed: Option<u64>,
}

impl Standing {
    /// `written`: how many bytes there were of it. How many are free says less: they are freed with the failure,
    /// or by somebody else meanwhile.
    fn of(error: &Error, written: u64) -> Option<Self> {
        let Error::File { cause, .. } = error else {
            return None;
        };
        let is_full = match cause.kind() {
            // Somebody removed it, as may be done with a cache at any time.
            ErrorKind::NotFound => return None,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => true,
            _ => false,
        };
        Some(Self {
            since: Instant::now(),
            needed: is_full.then(|| written.saturating_add(MORE_ROOM)),
        })
    }

    /// `free`: how many bytes are on our disk.
    fn is_over(&self, free: Option<u64>) -> bool {
        let has_room = match (self.needed, free) {
            (Some(needed), Some(free)) => free >= needed,
            _ => false,
        };
        has_room || self.since.elapsed() >= SETTLED
    }
}

impl Job {
    /// The result, once it is there; `None` if it is not by then. A client that leaves is waited for no longer.
    pub fn wait(&self, until: Instant) -> Option<Result<Made>> {
        let _watch = hangup::watch();
        let mut result = lock(&self.result);
        loop {
            if let Some(finished) = &*result {
                return Some(finished.result.clone());
            }
            if hangup::is_gone() {
                return Some(Err(Error::ClientGone));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let waited = self.is_done.wait_timeout(result, left.min(hangup::LOOK));
            result = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn finish(&self, result: Result<Made>, standing: Option<Standing>) {
        *lock(&self.result) = Some(Finished { result, standing });
        self.is_done.notify_all();
    }

    /// Is it of no use to begin anew? `free`: how many bytes are on our disk.
    fn stands(&self, free: Option<u64>) -> bool {
        match &*lock(&self.result) {
            None => true,
            Some(Finished { standing, .. }) => {
                standing.as_ref().is_some_and(|one| !one.is_over(free))
            }
        }
    }
}

/// Room for work: one image at once, for each takes memory for all its entries and several threads.
#[derive(Default)]
struct Bench {
    place: Mutex<()>,
    /// Threads that work or wait for the place.
    busy: AtomicUsize,
}

impl Workshop {
    /// A workshop that keeps what it makes there.
    pub fn new(cache: Arc<Cache>, limit: u64) -> Self {
        Self {
            cache,
            limit,
            jobs: Mutex::default(),
            bench: Arc::default(),
        }
    }

    /// Is something being made?
    pub fn is_busy(&self) -> bool {
        self.bench.busy.load(Ordering::SeqCst) > 0
    }

    /// What came out when this was made before, here or in an earlier run, or what is known without a try.
    pub fn known(&self, recipe: &Recipe) -> Option<Result<Made>> {
        // Only this manifest says so: the same layers in another may be smaller, so it is not kept.
        if let Some(error) = too_large(recipe, self.limit) {
            return Some(Err(error));
        }
        match self.cache.sum(recipe.key())? {
            Sum::Made(made) => Some(Ok(made)),
            // With more room it may go better, or with another program.
            Sum::Refused { limit, reader, .. } if (limit, reader) != (self.limit, READER) => None,
            Sum::Refused { layer, why, .. } => Some(Err(Error::CannotFlatten { layer, why })),
        }
    }

    /// Begins to make a file, unless that is going on already or has just failed here. `what`: how messages call it.
    pub fn begin(&self, what: &str, source: &Arc<dyn Source>, recipe: &Recipe) -> Arc<Job> {
        let key = recipe.key();
        let mut jobs = lock(&self.jobs);
        let free = self.cache.free();
        jobs.retain(|_, job| job.stands(free));
        if let Some(job) = jobs.get(&key) {
            return job.clone();
        }
        let job = Arc::new(Job::default());
        if self.bench.busy.load(Ordering::SeqCst) > MAX_WAITING {
            job.finish(Err(not_ready(what)), None);
            return job;
        }
        jobs.insert(key, job.clone());
        let work = Work {
            what: what.to_owned(),
            source: source.clone(),
            recipe: recipe.clone(),
            cache: self.cache.clone(),
            limit: self.limit,
            job: job.clone(),
            bench: self.bench.clone(),
        };
        self.bench.busy.fetch_add(1, Ordering::SeqCst);
        let thread = thread::Builder::new().name("flatten".into());
        // Where there is no thread for it, `work` is dropped, which ends the job.
        if let Err(error) = thread.spawn(move || work.run()) {
            warn!("{what}: no thread to flatten it: {error}");
        }
        job
    }

    /// A file that was made, made again if it is no longer there.
    pub fn open(
        &self,
        what: &str,
        source: &Arc<dyn Source>,
        recipe: &Recipe,
        made: Made,
        until: Instant,
    ) -> Result<File> {
        if let Some(file) = self.cache.made(made) {
            return Ok(file);
        }
        let not_ready = || not_ready(what);
        let again = self.begin(what, source, recipe).wait(until);
        let again = again.ok_or_else(not_ready)??;
        if again != made {
            return Err(Error::WrongBytes {
                what: format!("{what}, flattened again"),
                expected: made.digest,
                found: again.digest,
            });
        }
        self.cache.made(made).ok_or_else(not_ready)
    }
}

fn not_ready(what: &str) -> Error {
    Error::NotReady {
        what: what.to_owned(),
        retry_after: ASK_AGAIN,
    }
}

/// What one thread does.
struct Work {
    what: String,
    source: Arc<dyn Source>,
    recipe: Recipe,
    cache: Arc<Cache>,
    limit: u64,
    job: Arc<Job>,
    bench: Arc<Bench>,
}

/// What there is to begin with.
enum Begun {
    /// It was made before.
    Before(Made),
    /// A file for it.
    Now(Unfinished),
}

impl Work {
    fn run(self) {
        let (result, standing) = {
            let _place = lock(&self.bench.place);
            match self.begin() {
                Ok(Begun::Before(made)) => (Ok(made), None),
                Ok(Begun::Now(unfinished)) => {
                    let budget = Budget::new(self.limit);
                    let result = self.make(&unfinished, &budget);
                    let written = budget.taken().saturating_add(unfinished.size());
                    let error = result.as_ref().err();
                    let standing = error.and_then(|error| Standing::of(error, written));
                    (result, standing)
                }
                // Nothing was fetched, so each listing may try.
                Err(error) => (Err(error), None),
            }
        };
        self.job.finish(result, standing);
    }

    fn begin(&self) -> Result<Begun> {
        // Another process may have been faster.
        if let Some(Sum::Made(made)) = self.cache.sum(self.recipe.key())
            && self.cache.made(made).is_some()
        {
            return Ok(Begun::Before(made));
        }
        self.cache.begin_made().map(Begun::Now)
    }

    fn make(&self, unfinished: &Unfinished, budget: &Budget) -> Result<Made> {
        let Self {
            what,
            source,
            recipe,
            cache,
            limit,
            ..
        } = self;
        let (layers, mib) = (recipe.layers.len(), recipe.size() >> 20);
        info!("{what}: flattening {layers} layers of {mib} MiB into one .tar.gz");
        let started = Instant::now();
        match flatten(source, recipe, cache, budget, unfinished.file()?) {
            Ok(made) => {
                cache.keep_made(unfinished, made)?;
                cache.keep_sum(recipe.key(), &Sum::Made(made));
                let (mib, took) = (made.size >> 20, started.elapsed().as_secs_f64());
                info!("{what}: flattened to {mib} MiB in {took:.1} s");
                Ok(made)
            }
            Err(Error::CannotFlatten { layer, why }) => {
                let limit = *limit;
                let refused = Sum::Refused {
                    layer,
                    why: why.clone(),
                    limit,
                    reader: READER,
                };
                cache.keep_sum(recipe.key(), &refused);
                Err(Error::CannotFlatten { layer, why })
            }
            Err(error) => Err(error),
        }
    }
}

impl Drop for Work {
    /// Whatever ended the work, nobody waits for it in vain.
    fn drop(&mut self) {
        if lock(&self.job.result).is_none() {
            self.job.finish(Err(not_ready(&self.what)), None);
        }
        self.bench.busy.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_stands_until_there_is_room_for_all() {
        let of = |kind: ErrorKind, written| {
            let error = Cache::new(None, 0).cannot_write(kind.into());
            Standing::of(&error, written)
        };
        for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded] {
            let standing = of(kind, 5 << 20).unwrap();
            for (free, is_over) in [
                (None, false),
                (Some(0), false),
                (Some((6 << 20) - 1), false),
                (Some(6 << 20), true),
            ] {
                assert_eq!(standing.is_over(free), is_over, "{free:?}");
            }
        }
        let standing = of(ErrorKind::NotADirectory, 0).unwrap();
        assert!(!standing.is_over(Some(u64::MAX)));
        assert!(of(ErrorKind::NotFound, 0).is_none(), "it was removed");
        assert!(Standing::of(&not_ready("any"), 0).is_none());
    }
}
