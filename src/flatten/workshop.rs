//! Files that have to be made before they can be sent.
//!
//! What a file is once made is remembered, so it can be listed when it is long gone; then it is made
//! again when somebody asks for it. Work goes on when nobody waits any more, and the service stays for it.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::ErrorKind;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use log::{info, warn};

use super::queue::{self, Claim};
use super::{
    Budget, LARGE, Layers, Memory, READER, SMALL, Verdict, flatten, look, most_in_memory, too_large,
};
use crate::artifact::Recipe;
use crate::blob::Positioned;
use crate::cache::{Cache, Made, Sum, Unfinished};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::parallel::in_parallel;
use crate::pool::WORK;
use crate::semaphore::Semaphore;
use crate::source::Source;
use crate::task;

/// Images at once whose layers are applied, in little memory.
const SMALL_AT_ONCE: usize = 2;
/// The same of images that need more of it.
const LARGE_AT_ONCE: usize = 1;
/// An image whose layers have more bytes is taken for a large one without a try.
const SMALL_LAYERS: u64 = 64 << 20;
/// Layers that a source is asked for at once, before what was made of them is served from the cache.
const SHOWN_AT_ONCE: usize = 4;
/// How long a failure of our own disk stands: all layers are fetched for each try.
const SETTLED: Duration = Duration::from_secs(600);
/// One for want of room stands no longer than until there is room for all that was written, and for so much more.
const MORE_ROOM: u64 = 1 << 20;
/// What a client is told to wait for a file that is not ready.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// A file that was made. It stays readable when the cache has removed it.
pub type MadeFile = Positioned<Arc<File>>;

/// Where files are made.
#[derive(Clone)]
pub struct Workshop {
    /// Shared with every thread that works, so that they outlive nothing they use.
    shared: Arc<Shared>,
}

/// What a job is known by. A failure of one source is none of another's, so each source has a job of its own.
type Key = (Digest, String);

struct Shared {
    cache: Arc<Cache>,
    /// How many bytes the files of one image may have in all.
    limit: u64,
    jobs: Mutex<HashMap<Key, Arc<Job>>>,
    queue: Mutex<Queue>,
    small: Semaphore,
    large: Semaphore,
}

impl Shared {
    fn budget(&self, memory: Memory) -> Budget {
        let budget = Budget::new(self.limit, memory);
        if self.cache.is_in_memory() {
            budget.in_memory()
        } else {
            budget
        }
    }
}

/// What waits, and what is in work.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Work>,
    active: Vec<Claim>,
}

/// A file in the making.
#[derive(Default)]
pub struct Job {
    result: Mutex<Option<Finished>>,
    is_done: Condvar,
}

/// How it ended.
struct Finished {
    result: Result<Product>,
    /// Why it is of no use to begin anew.
    standing: Option<Standing>,
}

/// A file that was made just now. Whoever waited for it has it open, so nothing can remove it before it is read.
#[derive(Clone)]
pub struct Product {
    /// What it is.
    pub made: Made,
    /// Nothing where it is a layer as it is in its source.
    file: Option<Arc<File>>,
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
    /// Waits for the result; `None` if it is not there at this thread's deadline.
    pub fn wait(&self) -> Option<Result<Product>> {
        let finished = |result: &mut Option<Finished>| Some(result.as_ref()?.result.clone());
        match task::wait_for(&self.result, &self.is_done, String::new, finished) {
            Err(Error::TooSlow { .. }) => None,
            waited => Some(waited.flatten()),
        }
    }

    fn finish(&self, result: Result<Product>, standing: Option<Standing>) {
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

impl Workshop {
    /// A workshop that keeps what it makes there.
    pub fn new(cache: Arc<Cache>, limit: u64) -> Self {
        let shared = Shared {
            limit: cache.most_of_one(limit),
            cache,
            jobs: Mutex::default(),
            queue: Mutex::default(),
            small: Semaphore::new(SMALL_AT_ONCE),
            large: Semaphore::new(LARGE_AT_ONCE),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Is something being made?
    pub fn is_busy(&self) -> bool {
        let queue = lock(&self.shared.queue);
        !queue.waiting.is_empty() || !queue.active.is_empty()
    }

    /// What came out when this was made of this source's layers before, here or in an earlier run, or what is known
    /// without a try.
    pub fn known(&self, source: &Arc<dyn Source>, recipe: &Recipe) -> Option<Result<Made>> {
        let limit = self.shared.limit;
        if let Some(error) = self.too_large(recipe) {
            return Some(Err(error));
        }
        match self.shared.cache.sum(&source.name(), recipe.key())? {
            Sum::Made(made) => Some(Ok(made)),
            // With more room it may go better, or with another program.
            Sum::Refused {
                limit: then,
                reader,
                ..
            } if (then, reader) != (limit, READER) => None,
            Sum::Refused { layer, why, .. } => Some(Err(Error::CannotFlatten { layer, why })),
        }
    }

    /// Is it being made, or has just failed here?
    pub fn is_begun(&self, source: &Arc<dyn Source>, recipe: &Recipe) -> bool {
        let key = (recipe.key(), source.name());
        let free = self.shared.cache.free();
        (lock(&self.shared.jobs).get(&key)).is_some_and(|job| job.stands(free))
    }

    /// Why nothing of it is fetched. Only its manifest says so: the same layers in another may be smaller, so it is
    /// not kept.
    pub fn too_large(&self, recipe: &Recipe) -> Option<Error> {
        let limit = self.shared.limit;
        if let Some(error) = too_large(recipe, limit) {
            return Some(error);
        }
        let layer = recipe.layers.last()?.0;
        (self.shared.cache.is_in_memory() && recipe.size() > most_in_memory(limit)).then(|| {
            let why = format!(
                "with those below it has {} bytes, and the cache is in memory, where at most {} are fetched",
                recipe.size(),
                most_in_memory(limit)
            );
            Error::CannotFlatten { layer, why }
        })
    }

    /// A layer that is offered as it is, if the cache has it.
    pub fn kept(&self, made: Made) -> Option<MadeFile> {
        let file = self.shared.cache.made(made)?;
        Some(Positioned::new(Arc::new(file)))
    }

    /// Begins to make a file, unless that is going on already or has just failed here. `what`: how messages call it.
    pub fn begin(&self, what: &str, source: &Arc<dyn Source>, recipe: &Recipe) -> Arc<Job> {
        let shared = &self.shared;
        let name = source.name();
        let claim = Claim {
            from: registry(&name).to_owned(),
            size: recipe.size(),
        };
        let key = (recipe.key(), name);
        let mut jobs = lock(&shared.jobs);
        let free = shared.cache.free();
        jobs.retain(|_, job| job.stands(free));
        if let Some(job) = jobs.get(&key) {
            return job.clone();
        }
        let job = Arc::new(Job::default());
        let mut queue = lock(&shared.queue);
        let waiting = queue.waiting.iter().map(|work| &work.claim);
        if !queue::has_room(&claim.from, waiting.chain(&queue.active)) {
            job.finish(Err(not_ready(what)), None);
            return job;
        }
        jobs.insert(key.clone(), job.clone());
        queue.waiting.push_back(Work {
            what: what.to_owned(),
            source: source.clone(),
            recipe: recipe.clone(),
            key,
            claim,
            job: job.clone(),
            shared: shared.clone(),
        });
        drop((jobs, queue));
        begin_waiting(shared);
        job
    }

    /// A file that was made, made again if it is no longer there.
    pub fn open(
        &self,
        what: &str,
        source: &Arc<dyn Source>,
        recipe: &Recipe,
        made: Made,
    ) -> Result<MadeFile> {
        if let Some(file) = self.shared.cache.made(made) {
            show(source, recipe)?;
            return Ok(Positioned::new(Arc::new(file)));
        }
        let again = self.begin(what, source, recipe).wait();
        let again = again.ok_or_else(|| not_ready(what))??;
        if again.made != made {
            return Err(Error::WrongBytes {
                what: format!("{what}, flattened again"),
                expected: made.digest,
                found: again.made.digest,
            });
        }
        again
            .file
            .map(Positioned::new)
            .ok_or_else(|| not_ready(what))
    }
}

/// Has a source show that it still holds all that a file was made of. That is asked once for a snapshot.
fn show(source: &Arc<dyn Source>, recipe: &Recipe) -> Result<()> {
    let show = |(layer, _): &(Digest, u64)| {
        let url = || format!("layer {layer} in {}", source.name());
        (source.holds(*layer)?)
            .then_some(())
            .ok_or_else(|| Error::Missing { url: url() })
    };
    let shown = in_parallel(&recipe.layers, SHOWN_AT_ONCE, show, Result::is_err);
    shown.into_iter().flatten().collect()
}

/// The registry that a source is in. A layout is one of its own.
fn registry(source: &str) -> &str {
    match source.split_once('/') {
        Some((registry, _)) if !registry.starts_with("oci:") => registry,
        _ => source,
    }
}

/// Begins what can be begun, each in a thread of its own.
fn begin_waiting(shared: &Arc<Shared>) {
    loop {
        let work = {
            let mut queue = lock(&shared.queue);
            // In memory there is room for what one takes.
            if shared.cache.is_in_memory() && !queue.active.is_empty() {
                return;
            }
            let waiting = queue.waiting.iter().map(|work| &work.claim);
            let next = queue::next(waiting, &queue.active, shared.limit);
            let Some(work) = next.and_then(|n| queue.waiting.remove(n)) else {
                return;
            };
            queue.active.push(work.claim.clone());
            Active(work)
        };
        let what = work.0.what.clone();
        let thread = thread::Builder::new().name("flatten".into());
        // Where there is no thread for it, `work` is dropped, which ends the job.
        if let Err(error) = thread.spawn(move || work.0.run()) {
            warn!("{what}: no thread to flatten it: {error}");
        }
    }
}

fn not_ready(what: &str) -> Error {
    Error::NotReady {
        what: what.to_owned(),
        retry_after: ASK_AGAIN,
    }
}

/// A file to be made.
struct Work {
    what: String,
    source: Arc<dyn Source>,
    recipe: Recipe,
    key: Key,
    claim: Claim,
    job: Arc<Job>,
    shared: Arc<Shared>,
}

impl Work {
    fn run(&self) {
        let (result, standing) = match self.begin() {
            Ok(Begun::Before(product)) => (Ok(product), None),
            Ok(Begun::Now(unfinished)) => {
                let mut written = self.recipe.size();
                let result = self.make(&unfinished, &mut written);
                written = written.saturating_add(unfinished.size());
                let error = result.as_ref().err();
                let standing = error.and_then(|error| Standing::of(error, written));
                (result, standing)
            }
            // Nothing was fetched, so each listing may try.
            Err(error) => (Err(error), None),
        };
        let is_over = standing.is_none();
        self.job.finish(result, standing);
        if is_over {
            let mut jobs = lock(&self.shared.jobs);
            // Another may have been begun in its place meanwhile.
            if jobs
                .get(&self.key)
                .is_some_and(|job| Arc::ptr_eq(job, &self.job))
            {
                jobs.remove(&self.key);
            }
        }
    }

    fn begin(&self) -> Result<Begun> {
        let cache = &self.shared.cache;
        // Another process may have been faster.
        if let Some(Sum::Made(made)) = cache.sum(&self.source.name(), self.recipe.key()) {
            let file = cache.made(made).map(Arc::new);
            if file.is_some() || self.recipe.is_layer(made.digest) {
                show(&self.source, &self.recipe)?;
                return Ok(Begun::Before(Product { made, file }));
            }
        }
        cache.begin_made().map(Begun::Now)
    }

    /// `written`: counts what it takes on disk.
    fn make(&self, unfinished: &Unfinished, written: &mut u64) -> Result<Product> {
        let (what, recipe) = (&self.what, &self.recipe);
        let Shared { cache, limit, .. } = &*self.shared;
        let (layers, mib) = (recipe.layers.len(), recipe.size() >> 20);
        match layers {
            1 => info!("{what}: reading its one layer of {mib} MiB"),
            _ => info!(
                "{what}: flattening {layers} layers of {mib} MiB into one {}",
                recipe.suffix()
            ),
        }
        let started = Instant::now();
        let fetched = Layers::fetch(&self.source, recipe, cache)?;
        let made = match self.clean_layer(&fetched) {
            Ok(Some(made)) => {
                fetched.keep(0, cache, made)?;
                cache.keep_sum(&self.source.name(), recipe.key(), &Sum::Made(made));
                info!("{what}: its one layer is a clean .tar.gz, offered as it is");
                return Ok(Product { made, file: None });
            }
            Ok(None) => self.flatten(&fetched, unfinished, written),
            Err(error) => Err(error),
        };
        match made {
            Ok(made) => {
                cache.keep_made(unfinished, made)?;
                cache.keep_sum(&self.source.name(), recipe.key(), &Sum::Made(made));
                let (mib, took) = (made.size >> 20, started.elapsed().as_secs_f64());
                info!("{what}: flattened to {mib} MiB in {took:.1} s");
                let file = Some(Arc::new(unfinished.file()?));
                Ok(Product { made, file })
            }
            Err(Error::CannotFlatten { layer, why }) => {
                let refused = Sum::Refused {
                    layer,
                    why: why.clone(),
                    limit: *limit,
                    reader: READER,
                };
                cache.keep_sum(&self.source.name(), recipe.key(), &refused);
                Err(Error::CannotFlatten { layer, why })
            }
            Err(error) => Err(error),
        }
    }

    /// The layer, if there is but one and it is the file as it is.
    fn clean_layer(&self, fetched: &Layers<'_>) -> Result<Option<Made>> {
        let (None, [(digest, size)]) = (&self.recipe.file, &self.recipe.layers[..]) else {
            return Ok(None);
        };
        let (digest, size) = (*digest, *size);
        let shared = &self.shared;
        let _permit = shared.small.acquire(|| self.what.clone())?;
        let verdict = look(fetched, digest, &shared.cache)?;
        Ok((verdict == Verdict::Clean).then_some(Made { digest, size }))
    }

    /// Applies the layers in little memory, or in more if that is not enough.
    fn flatten(&self, fetched: &Layers<'_>, out: &Unfinished, written: &mut u64) -> Result<Made> {
        let shared = &self.shared;
        let before = *written;
        if self.recipe.size() <= SMALL_LAYERS {
            let _permit = shared.small.acquire(|| self.what.clone())?;
            let memory = WORK.grant();
            memory.grow(SMALL.size(), || self.what.clone())?;
            let budget = shared.budget(SMALL);
            let made = flatten(fetched, &self.recipe, &shared.cache, &budget, out.file()?);
            *written = before.saturating_add(budget.taken());
            if !budget.is_outgrown() {
                return made;
            }
        }
        let _permit = shared.large.acquire(|| self.what.clone())?;
        let memory = WORK.grant();
        memory.grow(LARGE.size(), || self.what.clone())?;
        let budget = shared.budget(LARGE);
        let made = flatten(fetched, &self.recipe, &shared.cache, &budget, out.file()?);
        *written = before.saturating_add(budget.taken());
        made
    }
}

impl Drop for Work {
    /// Whatever ended the work, nobody waits for it in vain.
    fn drop(&mut self) {
        if lock(&self.job.result).is_none() {
            self.job.finish(Err(not_ready(&self.what)), None);
        }
    }
}

/// Work that has a place.
struct Active(Work);

impl Drop for Active {
    fn drop(&mut self) {
        let shared = &self.0.shared;
        {
            let active = &mut lock(&shared.queue).active;
            if let Some(n) = active.iter().position(|claim| *claim == self.0.claim) {
                active.swap_remove(n);
            }
        }
        begin_waiting(shared);
    }
}

/// What there is to begin with.
enum Begun {
    /// It was made before.
    Before(Product),
    /// A file for it.
    Now(Unfinished),
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
