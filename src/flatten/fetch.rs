//! Fetches the layers of an image to disk, and verifies them. A layer that the cache has is not fetched: the source only
//! has to prove that it holds it.
//!
//! With a slow registry an image waits here. Meanwhile it takes disk and a few threads; the memory for its entries is
//! taken afterwards. A verified layer is kept at once, so an image that is given up, or the next process after a kill,
//! continues with the layers that are missing.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::MAX_THREADS;
use super::low_speed::MinSpeed;
use crate::artifact::Recipe;
use crate::blob::{self, Positioned, Verified};
use crate::cache::{Cache, Flattened, Unfinished};
use crate::digest::Digest;
use crate::error::Result;
use crate::lock::lock;
use crate::parallel::in_parallel;
use crate::source::Source;
use crate::task;

/// Longest time for all layers of an image, in addition to that for their bytes at [`MIN_SPEED`]. An image that takes
/// longer is given up, because few images of one registry are fetched at once.
const TIME: Duration = Duration::from_secs(10 * 60);
/// In bytes a second.
const MIN_SPEED: u64 = 64 << 10;

/// Bytes copied at once, for each layer that is fetched.
const BUFFER: usize = 64 << 10;

/// The layers of an image, to be read.
pub enum Layers<'a> {
    /// Files on disk, already verified.
    Fetched(Vec<Fetched>),
    /// Files of a layout on this machine. Others may change them, so they are verified while they are read.
    Local(&'a Arc<dyn Source>, &'a Recipe),
}

/// A layer on disk. Its file is open, so it stays readable when the cache removes it.
pub enum Fetched {
    /// From its source, just now.
    New(Unfinished),
    /// From the cache.
    Kept(File),
}

impl<'a> Layers<'a> {
    /// Fetches the layers that the cache lacks, unless all are on this machine. `begun`: the layers that are being
    /// fetched for other images.
    pub fn fetch(
        source: &'a Arc<dyn Source>,
        recipe: &'a Recipe,
        cache: &Cache,
        begun: &Begun,
    ) -> Result<Self> {
        if source.is_local() {
            return Ok(Self::Local(source, recipe));
        }
        let _limit = task::within(time(recipe.size()));
        // The only layer of an image is another one in each version.
        let is_kept = recipe.layers.len() > 1;
        let fetch = |(digest, size): &_| match is_kept && cache.keeps_layer(*size) {
            true => fetch_or_reuse(source, *digest, *size, cache, begun),
            false => fetch(source, *digest, *size, cache).map(Fetched::New),
        };
        let fetched = in_parallel(&recipe.layers, MAX_THREADS, fetch, Result::is_err);
        // `None`: not begun, because another layer failed.
        let files: Result<Vec<_>> = fetched.into_iter().flatten().collect();
        files.map(Self::Fetched)
    }

    /// The number of layers that the cache had.
    pub fn reused(&self) -> usize {
        match self {
            Self::Fetched(files) => {
                let kept = files.iter().filter(|file| matches!(file, Fetched::Kept(_)));
                kept.count()
            }
            Self::Local(..) => 0,
        }
    }

    /// Keeps a layer as a flattened image, if it was fetched.
    pub fn keep(&self, n: usize, cache: &Cache, made: Flattened) -> Result<()> {
        match self {
            Self::Fetched(files) => match &files[n] {
                Fetched::New(file) => cache.keep_flattened(file, made),
                Fetched::Kept(_) => Ok(()),
            },
            Self::Local(..) => Ok(()),
        }
    }

    /// The bytes of a layer, counted from the lowest.
    pub fn open(&self, n: usize) -> Result<Box<dyn Read + '_>> {
        match self {
            Self::Fetched(files) => Ok(match &files[n] {
                Fetched::New(file) => Box::new(Positioned::new(file.file()?)),
                Fetched::Kept(file) => Box::new(Positioned::new(file)),
            }),
            Self::Local(source, recipe) => {
                let (digest, size) = recipe.layers[n];
                Ok(Box::new(verified(source, digest, size, false)?))
            }
        }
    }
}

fn time(size: u64) -> Duration {
    TIME + Duration::from_secs(size / MIN_SPEED)
}

/// The layers that are being fetched, by the names of their sources. Images of one source share a layer that both need;
/// a slow source delays no other one that has the same layer.
#[derive(Default)]
pub struct Begun {
    layers: Mutex<HashSet<(String, Digest)>>,
    is_done: Condvar,
}

/// The right to fetch a layer, which no other image has meanwhile.
struct Turn<'a> {
    of: &'a Begun,
    layer: (String, Digest),
}

impl Begun {
    /// Waits until no other image fetches this layer, or until the deadline.
    fn turn(&self, layer: (String, Digest)) -> Result<Turn<'_>> {
        let what = || {
            format!(
                "layer {} of {}, fetched for another image",
                layer.1, layer.0
            )
        };
        task::wait_for(&self.layers, &self.is_done, what, |layers| {
            layers.insert(layer.clone()).then_some(())
        })?;
        Ok(Turn { of: self, layer })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.of.layers).remove(&self.layer);
        self.of.is_done.notify_all();
    }
}

/// Takes a layer from the cache, if its source proves that it holds it. Any other layer is fetched and kept.
fn fetch_or_reuse(
    source: &Arc<dyn Source>,
    digest: Digest,
    size: u64,
    cache: &Cache,
    begun: &Begun,
) -> Result<Fetched> {
    let _turn = begun.turn((source.name(), digest))?;
    if cache.has_layer(digest, size)
        && source.holds(digest)?
        && let Some(file) = cache.layer(digest, size)
    {
        return Ok(Fetched::Kept(file));
    }
    let layer = fetch(source, digest, size, cache)?;
    cache.keep_layer(&layer, digest);
    Ok(Fetched::New(layer))
}

fn fetch(source: &Arc<dyn Source>, digest: Digest, size: u64, cache: &Cache) -> Result<Unfinished> {
    blob::elsewhere_if_wrong(&**source, digest, || {
        let mut layer = verified(source, digest, size, true)?;
        let unfinished = cache.begin_large()?;
        let mut file = unfinished.file()?;
        let mut buffer = vec![0; BUFFER];
        loop {
            match layer.fill(&mut buffer)? {
                0 => break,
                n => (file.write_all(&buffer[..n])).map_err(|cause| cache.cannot_write(cause))?,
            }
        }
        Ok(unfinished)
    })
}

fn verified(
    source: &Arc<dyn Source>,
    digest: Digest,
    size: u64,
    is_timed: bool,
) -> Result<Verified<Box<dyn Read + Send>>> {
    let what = format!("layer {digest} of {}", source.name());
    let (_, layer) =
        blob::open_through(
            source,
            digest,
            Some(size),
            1,
            what,
            |bytes, size| match is_timed {
                true => Box::new(MinSpeed::new(bytes, size)),
                false => bytes,
            },
        )?;
    Ok(layer)
}
