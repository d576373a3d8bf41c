//! The layers of an image → files on disk whose digests are right.
//!
//! A slow registry makes an image wait here, where it takes disk and a few threads. It takes memory for its entries only
//! after this.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use super::MAX_THREADS;
use super::low_speed::Steady;
use crate::artifact::Recipe;
use crate::blob::{self, Positioned, Verified};
use crate::cache::{Cache, Made, Unfinished};
use crate::digest::Digest;
use crate::error::Result;
use crate::parallel::in_parallel;
use crate::source::Source;
use crate::task;

/// Time for all layers of an image, besides that for their bytes at the slowest speed. An image that takes longer is
/// given up, because there are few permits for each registry.
const TIME: Duration = Duration::from_secs(10 * 60);
/// Slowest speed that is expected, in bytes a second.
const SLOWEST: u64 = 64 << 10;

/// Bytes copied at once, for each layer that is fetched.
const BUFFER: usize = 64 << 10;

/// The layers of an image, to be read.
pub enum Layers<'a> {
    /// Files of our own. Their bytes are right.
    Fetched(Vec<Unfinished>),
    /// Files on this machine, which others may change: they are verified as they are read.
    Local(&'a Arc<dyn Source>, &'a Recipe),
}

impl<'a> Layers<'a> {
    /// Fetches all layers, unless they are on this machine.
    pub fn fetch(source: &'a Arc<dyn Source>, recipe: &'a Recipe, cache: &Cache) -> Result<Self> {
        if source.is_local() {
            return Ok(Self::Local(source, recipe));
        }
        let _limit = task::within(time(recipe.size()));
        let fetch = |(digest, size): &_| fetch(source, *digest, *size, cache);
        let fetched = in_parallel(&recipe.layers, MAX_THREADS, fetch, Result::is_err);
        // A layer that was not fetched comes with one that has an error.
        let files: Result<Vec<_>> = fetched.into_iter().flatten().collect();
        files.map(Self::Fetched)
    }

    /// Keeps a layer in the cache, if it was fetched.
    pub fn keep(&self, n: usize, cache: &Cache, made: Made) -> Result<()> {
        match self {
            Self::Fetched(files) => cache.keep_made(&files[n], made),
            Self::Local(..) => Ok(()),
        }
    }

    /// The bytes of a layer, counted from the lowest.
    pub fn open(&self, n: usize) -> Result<Box<dyn Read + '_>> {
        match self {
            Self::Fetched(files) => Ok(Box::new(Positioned::new(files[n].file()?))),
            Self::Local(source, recipe) => {
                let (digest, size) = recipe.layers[n];
                Ok(Box::new(verified(source, digest, size, false)?))
            }
        }
    }
}

fn time(size: u64) -> Duration {
    TIME + Duration::from_secs(size / SLOWEST)
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
            what,
            |bytes, size| match is_timed {
                true => Box::new(Steady::new(bytes, size)),
                false => bytes,
            },
        )?;
    Ok(layer)
}
