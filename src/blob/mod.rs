//! Downloads a blob: source → resumed → ranges → reuse → verified → socket or file.

mod positioned;
mod ranges;
mod resume;
mod reuse;
#[cfg(test)]
mod tests;
mod verify;

use std::io::Read;
use std::sync::Arc;

pub use positioned::Positioned;
pub use ranges::WINDOWS;
use ranges::{Blob, Places, Whole};
use resume::{PATIENCE, Resumed};
use reuse::Reuse;
pub use reuse::{Planned, REQUESTS, Reused, Seed, buffer_of};
pub use verify::Verified;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::source::{Body, Origins, Source};

/// Where the bytes of a blob came from.
#[derive(Clone)]
pub struct Provenance {
    pub origins: Origins,
    /// The savings of the plan; `None`: it was fetched whole.
    pub reused: Option<Arc<Reused>>,
}

/// Opens a blob. `size`: from the manifest; without it the registry or mirror that delivers the blob gives its size,
/// which may be as wrong as the bytes. `what`: the name of the blob in errors.
pub fn open(
    source: &Arc<dyn Source>,
    digest: Digest,
    size: Option<u64>,
    what: String,
) -> Result<(u64, Verified<Box<dyn Read + Send>>)> {
    open_through(source, digest, size, 1, what, |bytes, _| bytes)
}

/// The same over at most so many connections. Before the bytes are verified, they pass through the reader that `through`
/// returns for the bytes and their size.
pub fn open_through(
    source: &Arc<dyn Source>,
    digest: Digest,
    size: Option<u64>,
    connections: usize,
    what: String,
    through: impl FnOnce(Box<dyn Read + Send>, u64) -> Box<dyn Read + Send>,
) -> Result<(u64, Verified<Box<dyn Read + Send>>)> {
    let origins = Origins::default();
    let (size, inner) = match size {
        Some(size) => (
            size,
            of_known_size(source, &origins, digest, size, connections, &what)?,
        ),
        None => of_unknown_size(source, &origins, digest, &what)?,
    };
    let verified = Verified::new(through(inner, size), what, digest, size)?;
    Ok((size, verified.of(source, origins)))
}

/// Opens a blob of which older files on this machine have most bytes.
pub fn open_by_plan(
    source: &Arc<dyn Source>,
    digest: Digest,
    what: String,
    planned: Planned,
) -> Result<(u64, Verified<Box<dyn Read + Send>>)> {
    let origins = Origins::default();
    let size = planned.plan.size;
    let blob = Blob {
        source: source.clone(),
        origins: origins.clone(),
        digest,
        size,
        what: what.clone(),
        fetched: Arc::default(),
        patience: PATIENCE,
    };
    let (reuse, reused) = Reuse::begin(blob, planned)?;
    let verified = Verified::new(Box::new(reuse) as Box<dyn Read + Send>, what, digest, size)?;
    Ok((size, verified.of(source, origins).by_plan(reused)))
}

fn of_known_size(
    source: &Arc<dyn Source>,
    origins: &Origins,
    digest: Digest,
    size: u64,
    connections: usize,
    what: &str,
) -> Result<Box<dyn Read + Send>> {
    let places = match source.is_local() {
        true => None,
        false => Places::take(size, connections),
    };
    let blob = Blob {
        source: source.clone(),
        origins: origins.clone(),
        digest,
        size,
        what: what.to_owned(),
        fetched: Arc::default(),
        patience: PATIENCE,
    };
    let all = 0..size;
    let range = match &places {
        None => all,
        Some(places) => places.first(&[all]),
    };
    let body = blob.open(range.clone())?;
    // Without ranges the registry sends all of it.
    match places.filter(|_| body.ends_at == range.end) {
        Some(places) => Ok(Box::new(Whole::begin(places, blob, body))),
        None => Ok(blob.resumed(body, 0)),
    }
}

fn of_unknown_size(
    source: &Arc<dyn Source>,
    origins: &Origins,
    digest: Digest,
    what: &str,
) -> Result<(u64, Box<dyn Read + Send>)> {
    let (size, reader) = source.whole_blob(digest, origins)?;
    let body = Body {
        reader,
        starts_at: 0,
        ends_at: size,
    };
    let (source, origins) = (source.clone(), origins.clone());
    let reopen = move |from| {
        check_size(&*source, digest, size, &origins)?;
        source.blob(digest, size, from..size, &origins)
    };
    let resumed = Resumed::new(body, reopen, what.into(), 0..size, size);
    Ok((size, Box::new(resumed)))
}

/// Checks whether a blob broke off because its size is wrong: the registry itself may know the right one.
fn check_size(source: &dyn Source, digest: Digest, expected: u64, origins: &Origins) -> Result<()> {
    match source.blob_size(digest) {
        Ok(found) if found != expected => {
            source.note_wrong_bytes(digest, origins);
            Err(Error::WrongSize {
                what: format!("blob {digest} of {}", source.name()),
                expected,
                found,
            })
        }
        Err(Error::ClientGone) => Err(Error::ClientGone),
        _ => Ok(()),
    }
}

/// Repeats work on a blob that fails because of wrong bytes, as long as they came from a mirror: that mirror is not
/// asked again.
pub fn elsewhere_if_wrong<T>(
    source: &dyn Source,
    digest: Digest,
    mut work: impl FnMut() -> Result<T>,
) -> Result<T> {
    loop {
        let before = source.wrong_places(digest);
        match work() {
            Err(Error::WrongBytes { .. }) if source.wrong_places(digest) > before => {}
            result => return result,
        }
    }
}
