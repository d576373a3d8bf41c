//! How bytes come to be: source → resumed → verified → socket, or into a file that is made of them.

mod flatten;
mod positioned;
mod queue;
mod resumed;
mod verified;
mod workshop;

use std::io::Read;
use std::sync::Arc;

#[cfg(any(test, fuzzing))]
pub use flatten::fuzz;
pub use positioned::Positioned;
pub use resumed::{Origin, Resumed};
pub use verified::Verified;
pub use workshop::{MadeFile, Product, Workshop};

use crate::digest::Digest;
use crate::error::Result;
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
