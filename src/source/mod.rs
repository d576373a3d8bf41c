//! Where artifacts come from: a repository of a registry or an OCI layout directory. Everything
//! after this is source-blind.
//!
//! ```text
//! layout                            an OCI layout directory
//! mirror ─▶ registry ─▶ client      a registry and its mirrors, one of them, HTTP
//!              └─▶ auth ─▶ credentials, challenge
//! ```

mod config;
mod faults;
#[cfg(any(test, fuzzing))]
#[path = "../../tests/fuzz/properties/headers.rs"]
pub mod fuzz;
pub mod layout;
pub mod mirror;
mod recent;
mod registry;
mod upstream;

use std::io::Read;
use std::ops::Range;

pub use registry::agent::DOCUMENT_TIMEOUT;
pub use upstream::Upstream;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::{Annotations, Descriptor};
use crate::name::Tag;

/// A repository, wherever it lies.
pub trait Source: Send + Sync {
    /// How it is called in messages, and what the cache knows it by: `localhost:5000/kubernetes`,
    /// `oci:/srv/updates`.
    fn name(&self) -> String;

    /// Is it on this machine, so that nothing of it is fetched over a network?
    fn is_local(&self) -> bool {
        false
    }

    /// Its tags, in no order. What is no tag by the grammar is left out.
    fn tags(&self) -> Result<Vec<Tag>>;

    /// What it has besides, which no tag leads to, and why it is not on offer.
    fn untagged(&self) -> Vec<(Digest, String)> {
        Vec::new()
    }

    /// The digest a tag has now, if that can be had for less than the manifest.
    fn digest_of(&self, tag: &Tag) -> Result<Option<Digest>>;

    /// A manifest or index as it is stored. One by digest has that digest, else it is [`Error::WrongBytes`]; nothing
    /// else of it is checked but its size.
    fn manifest(&self, reference: Reference<'_>) -> Result<StoredManifest>;

    /// The bytes of a blob of `size` bytes from the position `from` on; from its start if ranges cannot be had.
    fn blob(&self, digest: Digest, size: u64, from: u64) -> Result<Body>;

    /// The bytes of a blob of which only the digest is known, unchecked, and how many there are by the word of
    /// whoever delivers them.
    fn whole_blob(&self, digest: Digest) -> Result<(u64, Box<dyn Read + Send>)>;

    /// Some of the bytes of a blob, unchecked: a range that is not empty, of a blob of `size` bytes.
    fn blob_range(&self, digest: Digest, size: u64, range: Range<u64>) -> Result<Part>;

    /// How many bytes a blob has of which only the digest is known.
    fn blob_size(&self, digest: Digest) -> Result<u64>;

    /// Does this repository hold the blob now? Asked once as long as this source is open, which is for one
    /// snapshot; a blob that it delivered meanwhile needs no request.
    ///
    /// A repository serves only what it has shown to hold. So this is asked before bytes that did not come
    /// from it in this snapshot are served for it: from the cache, or made of another repository's layers.
    fn holds(&self, blob: Digest) -> Result<bool>;

    /// The same of a manifest or index.
    fn holds_manifest(&self, manifest: Digest) -> Result<bool>;

    /// The manifests that are attached to one. What they say of themselves is unchecked.
    fn referrers(&self, subject: Digest) -> Result<Vec<Descriptor>>;

    /// A blob that came from here had other bytes than it should.
    fn note_wrong_bytes(&self, _digest: Digest) {}

    /// How many of the places that this source has, such as mirrors, are not asked for a blob any more, for they
    /// gave wrong bytes of it. If that is one more than before, another try comes from elsewhere.
    fn wrong_places(&self, _digest: Digest) -> usize {
        0
    }

    /// Does what it says of tags come from the repository itself? If not, a mirror stands in for it, which may
    /// know others, and nothing of that is to be remembered of the repository.
    fn tags_are_its_own(&self) -> bool {
        true
    }

    /// Where a client can fetch the blob without us and without a login, if it can.
    fn blob_url(&self, digest: Digest) -> Result<Option<String>>;

    /// What a client asks to fetch the blob itself, as we would.
    fn blob_request(&self, digest: Digest) -> Result<Download>;

    /// The same of a manifest, of this type.
    fn manifest_request(&self, reference: Reference<'_>, media_type: &str) -> Result<Download>;

    /// What an OCI layout's index says of a tag.
    fn annotations(&self, _tag: &Tag) -> Annotations {
        Annotations::new()
    }
}

/// The bytes of a blob, unchecked, to its end.
pub struct Body {
    pub reader: Box<dyn Read + Send>,
    /// The position of the first of them.
    pub starts_at: u64,
}

/// What comes of asking for a range.
pub enum Part {
    /// The bytes of the range, all of them.
    Range(Vec<u8>),
    /// There are no ranges to be had there: the whole blob, from its first byte on.
    Whole(Box<dyn Read + Send>),
}

/// How to fetch a blob or a manifest. There is a secret in it, so it has no `Debug`.
pub struct Download {
    /// Where it is.
    pub url: String,
    /// The value of the `Accept` header, where one is needed.
    pub accept: Option<String>,
    /// The value of the `Authorization` header, where one is needed.
    pub authorization: Option<String>,
}

/// What a manifest is asked for by.
#[derive(Clone, Copy, Debug)]
pub enum Reference<'a> {
    /// Its tag, which may move.
    Tag(&'a Tag),
    /// Its digest, which may not.
    Digest(Digest),
}

/// A manifest as it came.
#[derive(Debug)]
pub struct StoredManifest {
    /// Its bytes, which its digest is of.
    pub bytes: Vec<u8>,
    /// What the source says it is; a cache does not know any more.
    pub media_type: Option<String>,
}

impl StoredManifest {
    /// The same, if it has this digest. `what`: how errors call it.
    fn verified(self, expected: Digest, what: impl FnOnce() -> String) -> Result<Self> {
        match Digest::of(&self.bytes) {
            found if found == expected => Ok(self),
            found => Err(Error::WrongBytes {
                what: what(),
                expected,
                found,
            }),
        }
    }
}
