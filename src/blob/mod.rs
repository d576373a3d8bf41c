//! How bytes come to be: source → resumed → verified → socket, or into a file that is made of them.

mod positioned;
mod resume;
mod verify;

use std::io::Read;
use std::sync::Arc;

pub use positioned::Positioned;
pub use resume::{Origin, Resumed};
pub use verify::Verified;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::source::Source;

/// A blob as it lies in a source.
pub struct StoredBlob {
    /// Where it is.
    pub source: Arc<dyn Source>,
    /// What it is.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
}

impl Origin for StoredBlob {
    fn open(&self, from: u64) -> Result<Box<dyn Read + Send>> {
        self.source.blob(self.digest, self.size, from)
    }
}

/// A blob whose size is the word of the mirror that delivers it.
struct SizedByMirror(StoredBlob);

impl Origin for SizedByMirror {
    fn open(&self, from: u64) -> Result<Box<dyn Read + Send>> {
        let StoredBlob {
            source,
            digest,
            size: expected,
        } = &self.0;
        // It broke off. Is that because there is no more of it? The registry itself may tell.
        match source.blob_size(*digest) {
            Ok(found) if found != *expected => {
                source.note_wrong_bytes(*digest);
                Err(Error::WrongSize {
                    what: format!("blob {digest} of {}", source.name()),
                    expected: *expected,
                    found,
                })
            }
            Err(Error::ClientGone) => Err(Error::ClientGone),
            _ => self.0.open(from),
        }
    }
}

/// Opens a blob. `size`: as its manifest has it; where there is none it is as who delivers the blob says, who
/// may be wrong about it as about the bytes. `what` it is called in errors.
pub fn open(
    source: &Arc<dyn Source>,
    digest: Digest,
    size: Option<u64>,
    what: String,
) -> Result<(u64, Verified<Box<dyn Read + Send>>)> {
    open_through(source, digest, size, what, |bytes, _| bytes)
}

/// The same, where what comes goes through something else before it is verified, which is told the size.
pub fn open_through(
    source: &Arc<dyn Source>,
    digest: Digest,
    size: Option<u64>,
    what: String,
    through: impl FnOnce(Box<dyn Read + Send>, u64) -> Box<dyn Read + Send>,
) -> Result<(u64, Verified<Box<dyn Read + Send>>)> {
    let stored = |size| StoredBlob {
        source: source.clone(),
        digest,
        size,
    };
    let (size, inner): (_, Box<dyn Read + Send>) = match size {
        Some(size) => {
            let resumed = Resumed::open(stored(size), what.clone(), size)?;
            (size, Box::new(resumed))
        }
        None => {
            let (size, body) = source.whole_blob(digest)?;
            let origin = SizedByMirror(stored(size));
            let resumed = Resumed::begun(origin, body, what.clone(), size);
            (size, Box::new(resumed))
        }
    };
    let inner = through(inner, size);
    Ok((size, Verified::new(inner, what, digest, size)?.of(source)))
}

/// Does something with a blob that fails when its bytes are wrong, and again as long as that was a mirror's
/// fault, for that one is not asked again.
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
