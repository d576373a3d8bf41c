//! Files that have to be made before they can be sent, each by one thread at a time.
//!
//! What a file is once made is remembered, so it can be listed when it is long gone; then it is made
//! again when somebody asks for it. Work goes on when nobody waits any more, and the service stays for it.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use log::{info, warn};

use super::flatten::{READER, flatten, too_large};
use crate::artifact::Recipe;
use crate::cache::{Cache, Made, Sum};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::source::Source;

/// Images that wait for their turn. Each has a thread, and whoever may ask could ask for any number.
const MAX_WAITING: usize = 16;
/// How long a failure of our own disk stands: all layers are fetched for each try.
const SETTLED: Duration = Duration::from_secs(600);
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

/// How it ended, and when.
struct Finished {
    result: Result<Made>,
    at: Instant,
}

impl Job {
    /// The result, once it is there; `None` if it is not by then.
    pub fn wait(&self, until: Instant) -> Option<Result<Made>> {
        let result = lock(&self.result);
        let left = until.saturating_duration_since(Instant::now());
        let (result, _) = self
            .is_done
            .wait_timeout_while(result, left, |result| result.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        result.as_ref().map(|finished| finished.result.clone())
    }

    fn finish(&self, result: Result<Made>) {
        let at = Instant::now();
        *lock(&self.result) = Some(Finished { result, at });
        self.is_done.notify_all();
    }

    /// Is it of no use to begin anew?
    fn stands(&self) -> bool {
        match &*lock(&self.result) {
            None => true,
            Some(Finished { result, at }) => {
                matches!(result, Err(Error::File { .. })) && at.elapsed() < SETTLED
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
        jobs.retain(|_, job| job.stands());
        if let Some(job) = jobs.get(&key) {
            return job.clone();
        }
        let job = Arc::new(Job::default());
        if self.bench.busy.load(Ordering::SeqCst) > MAX_WAITING {
            job.finish(Err(not_ready(what)));
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

impl Work {
    fn run(self) {
        let result = {
            let _place = lock(&self.bench.place);
            self.make()
        };
        self.job.finish(result);
    }

    fn make(&self) -> Result<Made> {
        let Self {
            what,
            source,
            recipe,
            cache,
            limit,
            ..
        } = self;
        // Another process may have been faster.
        if let Some(Sum::Made(made)) = cache.sum(recipe.key())
            && cache.made(made).is_some()
        {
            return Ok(made);
        }
        let (layers, mib) = (recipe.layers.len(), recipe.size() >> 20);
        info!("{what}: flattening {layers} layers of {mib} MiB into one .tar.gz");
        let started = Instant::now();
        let unfinished = cache.begin_made()?;
        match flatten(source, recipe, cache, *limit, unfinished.file()?) {
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
            self.job.finish(Err(not_ready(&self.what)));
        }
        self.bench.busy.fetch_sub(1, Ordering::SeqCst);
    }
}
