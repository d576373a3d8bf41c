//! Flattens images in the background.
//!
//! The cache remembers the digest and size of a flattened image. So the image can be listed after its file was removed,
//! and is flattened again when a client asks for it. Work goes on when no client waits for it, and the service does not
//! exit before it is done.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use log::{info, warn};

use super::job::{Job, Product};
use super::queue::{self, Claim};
use super::{
    Begun, Budget, LARGE, Layers, Limits, Memory, READER, SMALL, Verdict, flatten, scan_layer,
};
use crate::artifact::Recipe;
use crate::blob::Positioned;
use crate::cache::{Cache, Flattened, Outcome, Unfinished};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::parallel::in_parallel;
use crate::pool::WORK;
use crate::semaphore::Semaphore;
use crate::source::Source;

/// Images whose layers are applied at once in little memory.
const SMALL_AT_ONCE: usize = 2;
/// The same for images that need more memory.
const LARGE_AT_ONCE: usize = 1;
/// Layers of more bytes are applied in more memory without a try in little.
const SMALL_LAYERS: u64 = 64 << 20;
/// Requests at once to a source that must prove that it holds the layers of an image in the cache.
const SHOWN_AT_ONCE: usize = 4;
/// `Retry-After` for an image that is not ready.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// A flattened image, open. It stays readable when the cache removes it.
pub type FlattenedFile = Positioned<Arc<File>>;

/// Flattens images, and knows the outcomes.
#[derive(Clone)]
pub struct Flattener {
    /// Shared with the threads that flatten.
    shared: Arc<Shared>,
}

/// The digest of a recipe, and the name of the source of its layers. One source may fail where another does not, so each
/// has a job of its own.
type Key = (Digest, String);

struct Shared {
    cache: Arc<Cache>,
    limits: Limits,
    jobs: Mutex<HashMap<Key, Arc<Job>>>,
    queue: Mutex<Queue>,
    /// The layers that are being fetched.
    begun: Begun,
    small: Semaphore,
    large: Semaphore,
}

impl Shared {
    /// The jobs that are in work or pause after an error of the disk.
    fn jobs(&self) -> MutexGuard<'_, HashMap<Key, Arc<Job>>> {
        let free = self.cache.free();
        let mut jobs = lock(&self.jobs);
        jobs.retain(|_, job| job.counts(free));
        jobs
    }
}

/// Images that wait, and those in work.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Work>,
    active: Vec<Claim>,
}

impl Flattener {
    /// Keeps the images in this cache. `limit`: most bytes of all files of one image.
    pub fn new(cache: Arc<Cache>, limit: u64) -> Self {
        let shared = Shared {
            limits: Limits::new(cache.most_of_one(limit), cache.is_in_memory()),
            cache,
            jobs: Mutex::default(),
            queue: Mutex::default(),
            begun: Begun::default(),
            small: Semaphore::new(SMALL_AT_ONCE),
            large: Semaphore::new(LARGE_AT_ONCE),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Whether an image is being flattened, or waits for that.
    pub fn is_busy(&self) -> bool {
        let queue = lock(&self.shared.queue);
        !queue.waiting.is_empty() || !queue.active.is_empty()
    }

    /// The outcome of an earlier try with the layers of this source, perhaps by an earlier process. An image that is too
    /// large needs no try.
    pub fn known(&self, source: &Arc<dyn Source>, recipe: &Recipe) -> Option<Result<Flattened>> {
        let limit = self.shared.limits.files;
        if let Some(error) = self.too_large(recipe) {
            return Some(Err(error));
        }
        match self.shared.cache.outcome(&source.name(), recipe.key())? {
            Outcome::Flattened(made) => Some(Ok(made)),
            // It may succeed with a larger limit, or by the rules of this program.
            Outcome::Refused {
                limit: then,
                reader,
                ..
            } if (then, reader) != (limit, READER) => None,
            Outcome::Refused { layer, why, .. } => Some(Err(Error::CannotFlatten { layer, why })),
        }
    }

    /// Whether the image is being flattened, or has just failed for a reason of this machine.
    pub fn is_begun(&self, source: &Arc<dyn Source>, recipe: &Recipe) -> bool {
        let key = (recipe.key(), source.name());
        self.shared.jobs().contains_key(&key)
    }

    /// The reason not to fetch an image. It is not kept in the cache: it depends on the sizes in a manifest, and another
    /// manifest may give smaller ones.
    pub fn too_large(&self, recipe: &Recipe) -> Option<Error> {
        self.shared.limits.too_large(recipe)
    }

    /// An image from the cache, if it is there and the source still holds its layers.
    pub fn kept(
        &self,
        source: &Arc<dyn Source>,
        recipe: &Recipe,
        made: Flattened,
    ) -> Result<Option<FlattenedFile>> {
        let Some(file) = self.shared.cache.flattened(made) else {
            return Ok(None);
        };
        show(source, recipe)?;
        Ok(Some(Positioned::new(Arc::new(file))))
    }

    /// Begins to flatten an image, unless [`Flattener::is_begun`]. `what`: its name in messages.
    pub fn begin(&self, what: &str, source: &Arc<dyn Source>, recipe: &Recipe) -> Arc<Job> {
        let shared = &self.shared;
        let name = source.name();
        let claim = Claim {
            from: registry(&name).to_owned(),
            size: recipe.size(),
        };
        let key = (recipe.key(), name);
        let mut jobs = shared.jobs();
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

    /// An image from the cache. One that was removed is flattened again.
    pub fn open(
        &self,
        what: &str,
        source: &Arc<dyn Source>,
        recipe: &Recipe,
        made: Flattened,
    ) -> Result<FlattenedFile> {
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

/// Fails unless a source proves that it still holds all layers of an image. It is asked once for a snapshot.
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

/// The registry of a source. Each layout counts as a registry.
fn registry(source: &str) -> &str {
    match source.split_once('/') {
        Some((registry, _)) if !registry.starts_with("oci:") => registry,
        _ => source,
    }
}

/// Begins as many waiting images as may be in work, each in a thread of its own.
fn begin_waiting(shared: &Arc<Shared>) {
    loop {
        let work = {
            let mut queue = lock(&shared.queue);
            // A cache in memory has room for one image at a time.
            if shared.cache.is_in_memory() && !queue.active.is_empty() {
                return;
            }
            let waiting = queue.waiting.iter().map(|work| &work.claim);
            let next = queue::next(waiting, &queue.active, shared.limits.files);
            let Some(work) = next.and_then(|n| queue.waiting.remove(n)) else {
                return;
            };
            queue.active.push(work.claim.clone());
            work
        };
        let what = work.what.clone();
        let thread = thread::Builder::new().name("flatten".into());
        // Without a thread `work` is dropped, which ends its job.
        if let Err(error) = thread.spawn(move || work.run()) {
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

/// An image that waits to be flattened, or is.
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
        let mut written = None;
        let result = self.product(&mut written);
        self.job.finish(result, written);
        // A finished job keeps its file open, so it is forgotten at once.
        drop(self.shared.jobs());
    }

    /// Flattens the image. `written`: bytes written to disk for it; `None` if it is not begun.
    fn product(&self, written: &mut Option<u64>) -> Result<Product> {
        let cache = &self.shared.cache;
        // Another process may have flattened it meanwhile.
        if let Some(Outcome::Flattened(made)) =
            cache.outcome(&self.source.name(), self.recipe.key())
        {
            let file = cache.flattened(made).map(Arc::new);
            if file.is_some() || self.recipe.is_layer(made.digest) {
                show(&self.source, &self.recipe)?;
                return Ok(Product { made, file });
            }
        }
        let result = self.attempt(written);
        // Kept layers save the network, but no image fails for them.
        if let Err(error) = &result
            && error.is_disk_full()
            && cache.drop_layers(&self.recipe.layers)
        {
            info!(
                "{}: trying again without the layers of other images, the disk is full",
                self.what
            );
            return self.attempt(written);
        }
        result
    }

    /// Flattens the image. `written`: as above. Layers that are kept are not counted: another attempt does not fetch them.
    fn attempt(&self, written: &mut Option<u64>) -> Result<Product> {
        let cache = &self.shared.cache;
        let unfinished = cache.begin_flattened()?;
        let written = written.insert(0);
        let result = self.make(&unfinished, written);
        if result.is_err() {
            // Its layers may have been kept.
            cache.make_room(None);
        }
        let missing = self
            .recipe
            .layers
            .iter()
            .filter(|(digest, size)| !cache.has_layer(*digest, *size));
        let missing = missing.fold(0, |sum: u64, (_, size)| sum.saturating_add(*size));
        *written = written
            .saturating_add(unfinished.size())
            .saturating_add(missing);
        result
    }

    /// `written`: counts the bytes that it takes on disk.
    fn make(&self, unfinished: &Unfinished, written: &mut u64) -> Result<Product> {
        let (what, recipe) = (&self.what, &self.recipe);
        let Shared {
            cache,
            limits,
            begun,
            ..
        } = &*self.shared;
        let (layers, mib) = (recipe.layers.len(), recipe.size() >> 20);
        match layers {
            1 => info!("{what}: reading its one layer of {mib} MiB"),
            _ => info!(
                "{what}: flattening {layers} layers of {mib} MiB into one {}",
                recipe.suffix()
            ),
        }
        let started = Instant::now();
        let fetched = Layers::fetch(&self.source, recipe, cache, begun)?;
        if fetched.reused() > 0 {
            info!(
                "{what}: {} of {layers} layers were in the cache",
                fetched.reused()
            );
        }
        let made = match self.clean_layer(&fetched) {
            Ok(Some(made)) => {
                fetched.keep(0, cache, made)?;
                cache.keep_outcome(&self.source.name(), recipe.key(), &Outcome::Flattened(made));
                info!("{what}: its one layer is a clean .tar.gz, offered as it is");
                return Ok(Product { made, file: None });
            }
            Ok(None) => self.flatten(&fetched, unfinished, written),
            Err(error) => Err(error),
        };
        match made {
            Ok(made) => {
                cache.keep_flattened(unfinished, made)?;
                cache.keep_outcome(&self.source.name(), recipe.key(), &Outcome::Flattened(made));
                let (mib, took) = (made.size >> 20, started.elapsed().as_secs_f64());
                info!("{what}: flattened to {mib} MiB in {took:.1} s");
                let file = Some(Arc::new(unfinished.file()?));
                Ok(Product { made, file })
            }
            Err(Error::CannotFlatten { layer, why }) => {
                let refused = Outcome::Refused {
                    layer,
                    why: why.clone(),
                    limit: limits.files,
                    reader: READER,
                };
                cache.keep_outcome(&self.source.name(), recipe.key(), &refused);
                Err(Error::CannotFlatten { layer, why })
            }
            Err(error) => Err(error),
        }
    }

    /// The one layer of an image, if it can be offered as it is.
    fn clean_layer(&self, fetched: &Layers<'_>) -> Result<Option<Flattened>> {
        let (None, [(digest, size)]) = (&self.recipe.file, &self.recipe.layers[..]) else {
            return Ok(None);
        };
        let (digest, size) = (*digest, *size);
        let shared = &self.shared;
        let _permit = shared.small.acquire(|| self.what.clone())?;
        let verdict = scan_layer(fetched, digest, &shared.cache)?;
        Ok((verdict == Verdict::Clean).then_some(Flattened { digest, size }))
    }

    /// Applies the layers in little memory, or in more if that is not enough.
    fn flatten(
        &self,
        fetched: &Layers<'_>,
        out: &Unfinished,
        written: &mut u64,
    ) -> Result<Flattened> {
        let shared = &self.shared;
        let before = *written;
        let mut apply = |semaphore: &Semaphore, memory: Memory| {
            let _permit = semaphore.acquire(|| self.what.clone())?;
            let grant = WORK.grant();
            grant.grow(memory.size(), || self.what.clone())?;
            let budget = Budget::new(shared.limits, memory);
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
    /// However the work ended, also by a panic: finishes its job, and begins others.
    fn drop(&mut self) {
        if !self.job.is_finished() {
            self.job.finish(Err(not_ready(&self.what)), None);
        }
        let mut queue = lock(&self.shared.queue);
        if let Some(n) = queue.active.iter().position(|other| *other == self.claim) {
            queue.active.swap_remove(n);
        }
        drop(queue);
        begin_waiting(&self.shared);
    }
}
