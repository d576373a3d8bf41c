//! How the bytes of a blob arrive: source → resumed → verified → socket, or into a file.

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

/// Opens a blob. `size` is the manifest's; without one, the size is what the place that delivers the blob
/// says, which may be as wrong as its bytes. `what`: how errors call the blob.
pub fn open(
    source: &Arc<dyn Source>,
    digest: Digest,
    size: Option<u64>,
    what: String,
) -> Result<(u64, Verified<Box<dyn Read + Send>>)> {
    open_through(source, digest, size, what, |bytes, _| bytes)
}

/// The same, with the bytes passing through a reader of the caller's before they are verified. `through` gets
/// the size, too.
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

/// Whether a blob that broke off did so because there is no more of it: the registry itself may say.
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

/// Repeats work on a blob that fails because of wrong bytes, as long as a mirror was to blame, for that mirror
/// is not asked again.
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
