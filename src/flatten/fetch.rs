//! Fetches the layers of an image to disk, and verifies them.
//!
//! With a slow registry an image waits here. Meanwhile it takes disk and a few threads; the memory for its entries is
//! taken afterwards.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use super::MAX_THREADS;
use super::low_speed::MinSpeed;
use crate::artifact::Recipe;
use crate::blob::{self, Positioned, Verified};
use crate::cache::{Cache, Flattened, Unfinished};
use crate::digest::Digest;
use crate::error::Result;
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
    /// Files in the cache, already verified.
    Fetched(Vec<Unfinished>),
    /// Files of a layout on this machine. Others may change them, so they are verified while they are read.
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
        // `None`: not begun, because another layer failed.
        let files: Result<Vec<_>> = fetched.into_iter().flatten().collect();
        files.map(Self::Fetched)
    }

    /// Keeps a layer in the cache, if it was fetched.
    pub fn keep(&self, n: usize, cache: &Cache, made: Flattened) -> Result<()> {
        match self {
            Self::Fetched(files) => cache.keep_flattened(&files[n], made),
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
    TIME + Duration::from_secs(size / MIN_SPEED)
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
