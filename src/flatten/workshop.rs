//! Makes flattened images, in the background.
//!
//! Digest and size of a made file are remembered, so it can be listed when the file itself is long gone; then it is
//! made again when a client asks for it. Work goes on when nobody waits any more, and the service stays for it.

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

/// Images whose layers are applied at once in little memory.
const SMALL_AT_ONCE: usize = 2;
/// The same for images that need more memory.
const LARGE_AT_ONCE: usize = 1;
/// Layers of more bytes are applied in more memory without a try in little.
const SMALL_LAYERS: u64 = 64 << 20;
/// Layers that a source is asked for at once, before the file made from them is served from the cache.
const SHOWN_AT_ONCE: usize = 4;
/// Time without another try after our own disk failed: each try fetches all layers.
const COOLDOWN: Duration = Duration::from_secs(600);
/// After a full disk it ends as soon as there is room for all bytes that were written, and so many more.
const MORE_ROOM: u64 = 1 << 20;
/// `Retry-After` for a file that is not ready.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// An open file that was made. It stays readable when the cache removes it.
pub type MadeFile = Positioned<Arc<File>>;

/// Makes files.
#[derive(Clone)]
pub struct Workshop {
    /// Shared with every thread that works.
    shared: Arc<Shared>,
}

/// Recipe and source. A failure of one source is none of another's, so each has a job of its own.
type Key = (Digest, String);

struct Shared {
    cache: Arc<Cache>,
    /// Most bytes of all files of one image.
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

/// Images that wait, and those in work.
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

/// The end of a job.
struct Finished {
    result: Result<Product>,
    /// Until when it is not begun anew.
    cooldown: Option<Cooldown>,
}

/// A file that was made just now. It is open, so nothing can remove it before it is read.
#[derive(Clone)]
pub struct Product {
    /// Its digest and size.
    pub made: Made,
    /// `None` for a layer as it is in its source.
    file: Option<Arc<File>>,
}

/// A pause after a failure of our own disk.
struct Cooldown {
    since: Instant,
    /// Bytes that have to be free for another try, where the disk was full.
    needed: Option<u64>,
}

impl Cooldown {
    /// `written`: bytes written before the failure. The bytes that are free say less: they are freed with the failure,
    /// or by somebody else meanwhile.
    fn of(error: &Error, written: u64) -> Option<Self> {
        let Error::File { cause, .. } = error else {
            return None;
        };
        let is_full = match cause.kind() {
            // A cache may be emptied at any time.
            ErrorKind::NotFound => return None,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => true,
            _ => false,
        };
        Some(Self {
            since: Instant::now(),
            needed: is_full.then(|| written.saturating_add(MORE_ROOM)),
        })
    }

    /// `free`: bytes on our disk.
    fn is_over(&self, free: Option<u64>) -> bool {
        let has_room = match (self.needed, free) {
            (Some(needed), Some(free)) => free >= needed,
            _ => false,
        };
        has_room || self.since.elapsed() >= COOLDOWN
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

    fn finish(&self, result: Result<Product>, cooldown: Option<Cooldown>) {
        *lock(&self.result) = Some(Finished { result, cooldown });
        self.is_done.notify_all();
    }

    /// Whether it is in work or cools down. `free`: bytes on our disk.
    fn counts(&self, free: Option<u64>) -> bool {
        lock(&self.result).as_ref().is_none_or(|finished| {
            let cooldown = finished.cooldown.as_ref();
            cooldown.is_some_and(|cooldown| !cooldown.is_over(free))
        })
    }
}

impl Workshop {
    /// A workshop that keeps the files in this cache.
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

    /// Whether a file is being made.
    pub fn is_busy(&self) -> bool {
        let queue = lock(&self.shared.queue);
        !queue.waiting.is_empty() || !queue.active.is_empty()
    }

    /// The result of an earlier try with this source's layers, also of an earlier process, or what is known without one.
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

    /// Whether it is being made, or has just failed here.
    pub fn is_begun(&self, source: &Arc<dyn Source>, recipe: &Recipe) -> bool {
        let key = (recipe.key(), source.name());
        let free = self.shared.cache.free();
        (lock(&self.shared.jobs).get(&key)).is_some_and(|job| job.counts(free))
    }

    /// The reason not to fetch it. It is not kept: only the manifest gives the sizes, and another may give smaller ones.
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

    /// A file that was made or scanned, if the cache has it and the source still holds its layers.
    pub fn kept(
        &self,
        source: &Arc<dyn Source>,
        recipe: &Recipe,
        made: Made,
    ) -> Result<Option<MadeFile>> {
        let Some(file) = self.shared.cache.made(made) else {
            return Ok(None);
        };
        show(source, recipe)?;
        Ok(Some(Positioned::new(Arc::new(file))))
    }

    /// Begins to make a file, unless that is going on already or has just failed here. `what` it is called in messages.
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
        jobs.retain(|_, job| job.counts(free));
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
        jobs.insert(key, job.clone());
        queue.waiting.push_back(Work {
            what: what.to_owned(),
            source: source.clone(),
            recipe: recipe.clone(),
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
        if let Some(kept) = self.kept(source, recipe, made)? {
            return Ok(kept);
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

/// Has a source show that it still holds all layers of a file. It is asked once for a snapshot.
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

/// Begins the images that can be begun, each in a thread of its own.
fn begin_waiting(shared: &Arc<Shared>) {
    loop {
        let work = {
            let mut queue = lock(&shared.queue);
            // A cache in memory has room for one image.
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
    claim: Claim,
    job: Arc<Job>,
    shared: Arc<Shared>,
}

impl Work {
    fn run(&self) {
        let (result, cooldown) = match self.begin() {
            Ok(Begun::Before(product)) => (Ok(product), None),
            Ok(Begun::Now(unfinished)) => {
                let mut written = self.recipe.size();
                let result = self.make(&unfinished, &mut written);
                written = written.saturating_add(unfinished.size());
                let error = result.as_ref().err();
                let cooldown = error.and_then(|error| Cooldown::of(error, written));
                (result, cooldown)
            }
            // Nothing was fetched, so each listing may try.
            Err(error) => (Err(error), None),
        };
        let is_over = cooldown.is_none();
        self.job.finish(result, cooldown);
        if is_over {
            // Another may have been begun in its place meanwhile.
            lock(&self.shared.jobs).retain(|_, job| !Arc::ptr_eq(job, &self.job));
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

    /// `written`: counts the bytes that it takes on disk.
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
        let mut apply = |semaphore: &Semaphore, memory: Memory| {
            let _permit = semaphore.acquire(|| self.what.clone())?;
            let grant = WORK.grant();
            grant.grow(memory.size(), || self.what.clone())?;
            let budget = shared.budget(memory);
            let made = flatten(fetched, &self.recipe, &shared.cache, &budget, out.file()?);
            *written = before.saturating_add(budget.taken());
            Ok::<_, Error>((made, budget.is_outgrown()))
        };
        if self.recipe.size() <= SMALL_LAYERS
            && let (made, false) = apply(&shared.small, SMALL)?
        {
            return made;
        }
        apply(&shared.large, LARGE)?.0
    }
}

impl Drop for Work {
    /// However the work ended, those who wait for it are told.
    fn drop(&mut self) {
        if lock(&self.job.result).is_none() {
            self.job.finish(Err(not_ready(&self.what)), None);
        }
    }
}

/// Work that was begun.
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

/// The beginning of a try.
enum Begun {
    /// The file was made before.
    Before(Product),
    /// A file to write to.
    Now(Unfinished),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_full_disk_nothing_is_tried_until_there_is_room_for_all() {
        let of = |kind: ErrorKind, written| {
            let error = Cache::new(None, 0).cannot_write(kind.into());
            Cooldown::of(&error, written)
        };
        for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded] {
            let cooldown = of(kind, 5 << 20).unwrap();
            for (free, is_over) in [
                (None, false),
                (Some(0), false),
                (Some((6 << 20) - 1), false),
                (Some(6 << 20), true),
            ] {
                assert_eq!(cooldown.is_over(free), is_over, "{free:?}");
            }
        }
        let cooldown = of(ErrorKind::NotADirectory, 0).unwrap();
        assert!(!cooldown.is_over(Some(u64::MAX)));
        assert!(of(ErrorKind::NotFound, 0).is_none(), "it was removed");
        assert!(Cooldown::of(&not_ready("any"), 0).is_none());
    }
}
