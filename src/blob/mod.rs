//! Downloads a blob: source → resumed → verified → socket or file.

mod positioned;
mod resume;
mod verify;

use std::io::Read;
use std::sync::Arc;

pub use positioned::Positioned;
use resume::Resumed;
pub use verify::Verified;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::source::{Origins, Source};

/// Opens a blob. `size`: from the manifest; without it the registry or mirror that delivers the blob gives its size,
/// which may be as wrong as the bytes. `what`: the name of the blob in errors.
pub fn open(
    source: &Arc<dyn Source>,
    digest: Digest,
    size: Option<u64>,
    what: String,
) -> Result<(u64, Verified<Box<dyn Read + Send>>)> {
    open_through(source, digest, size, what, |bytes, _| bytes)
}

/// The same. Before the bytes are verified, they pass through the reader that `through` returns for the bytes and their
/// size.
pub fn open_through(
    source: &Arc<dyn Source>,
    digest: Digest,
    size: Option<u64>,
    what: String,
    through: impl FnOnce(Box<dyn Read + Send>, u64) -> Box<dyn Read + Send>,
) -> Result<(u64, Verified<Box<dyn Read + Send>>)> {
    let (is_size_known, origins) = (size.is_some(), Origins::default());
    let (size, reader) = match size {
        Some(size) => (size, source.blob(digest, size, 0, &origins)?.reader),
        None => source.whole_blob(digest, &origins)?,
    };
    let reopen = {
        let (source, origins) = (source.clone(), origins.clone());
        move |from| {
            if !is_size_known {
                check_size(&*source, digest, size, &origins)?;
            }
            source.blob(digest, size, from, &origins)
        }
    };
    let inner = Box::new(Resumed::new(reader, reopen, what.clone(), size));
    let verified = Verified::new(through(inner, size), what, digest, size)?;
    Ok((size, verified.of(source, origins)))
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
