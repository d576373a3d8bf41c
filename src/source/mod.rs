//! Sources of artifacts: a repository of a registry, or an OCI layout directory. The rest of the program does not
//! know which of them it reads.
//!
//! ```text
//! layout                            an OCI layout directory
//! mirror ─▶ registry ─▶ client      a registry and its mirrors, one of them, HTTP
//!              └─▶ auth ─▶ config, challenge, token
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

use std::collections::BTreeSet;
use std::io::Read;
use std::ops::Range;
use std::sync::{Arc, Mutex};

pub use config::certs_d::CertificateDirectories;
pub use registry::agent::DOCUMENT_TIMEOUT;
pub use registry::ahead::Expected;
#[cfg(any(test, feature = "instructions"))]
pub use registry::tags::parse_tags;
pub use upstream::Upstream;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::manifest::{Annotations, Descriptor};
use crate::name::Tag;

/// A repository, wherever it lies.
pub trait Source: Send + Sync {
    /// Its name in messages and in the cache: `localhost:5000/kubernetes`,
    /// `oci:/srv/updates`.
    fn name(&self) -> String;

    /// Whether it is on this machine, so that nothing is fetched over a network.
    fn is_local(&self) -> bool {
        false
    }

    /// Its tags, in no order. Names that break the grammar of tags are skipped.
    fn tags(&self) -> Result<Vec<Tag>>;

    /// Has connections opened while its tags are asked for, because so many requests are expected after that.
    fn expect(&self, _requests: usize) -> Option<Expected> {
        None
    }

    /// Manifests without a tag, and why they are skipped.
    fn untagged(&self) -> Vec<(Digest, String)> {
        Vec::new()
    }

    /// The digest of a tag, if a request can get it without the manifest.
    fn digest_of(&self, tag: &Tag) -> Result<Option<Digest>>;

    /// A manifest or index as it is stored. If it is asked for by digest, its digest is checked
    /// ([`Error::WrongBytes`]). Otherwise only its size is checked.
    fn manifest(&self, reference: Reference<'_>) -> Result<StoredManifest>;

    /// A range of a blob of `size` bytes, or all of them if the source has no ranges.
    fn blob(&self, digest: Digest, size: u64, range: Range<u64>, origins: &Origins)
    -> Result<Body>;

    /// The bytes of a blob whose size is not known, unchecked, and its size by the place that delivers them.
    fn whole_blob(&self, digest: Digest, origins: &Origins) -> Result<(u64, Box<dyn Read + Send>)>;

    /// A range of the bytes of a blob, unchecked. The range is not empty, the blob has `size` bytes.
    fn blob_range(&self, digest: Digest, size: u64, range: Range<u64>) -> Result<Part>;

    /// The size of a blob, in bytes.
    fn blob_size(&self, digest: Digest) -> Result<u64> {
        Ok(self.whole_blob(digest, &Origins::default())?.0)
    }

    /// Whether this repository holds the blob now. The answer is kept as long as this source is open, which is for one
    /// snapshot. A blob that was fetched meanwhile needs no request.
    ///
    /// A repository serves only content that it has shown to hold. So this is checked before bytes from the cache, or
    /// bytes made of another repository's layers, are served for it.
    fn holds(&self, blob: Digest) -> Result<bool>;

    /// The same of a manifest or index.
    fn holds_manifest(&self, manifest: Digest) -> Result<bool> {
        self.holds(manifest)
    }

    /// The manifests that are attached to one (referrers). Their descriptors are unchecked.
    fn referrers(&self, subject: Digest) -> Result<Vec<Descriptor>>;

    /// A manifest with a tag that is made from the digest of another one, if there is one: its signatures. That a
    /// mirror lacks it says nothing.
    fn companion(&self, tag: &Tag) -> Result<Option<StoredManifest>>;

    /// A blob that came from here, by way of these mirrors, had wrong bytes.
    fn note_wrong_bytes(&self, _digest: Digest, _origins: &Origins) {}

    /// The number of mirrors that are not asked for a blob any more, because they gave wrong bytes of it. If it has
    /// grown, another attempt gets the blob from elsewhere.
    fn wrong_places(&self, _digest: Digest) -> usize {
        0
    }

    /// Whether the tags come from the repository itself. If they come from a mirror, they may differ and must not be
    /// remembered for the repository.
    fn tags_are_its_own(&self) -> bool {
        true
    }

    /// The URL at which a client can fetch the blob by itself, without a login; `None` if there is none.
    fn blob_url(&self, digest: Digest) -> Result<Option<String>>;

    /// The request, with its login, that fetches the blob.
    fn blob_request(&self, digest: Digest) -> Result<Download>;

    /// The same for a manifest of this type.
    fn manifest_request(&self, reference: Reference<'_>, media_type: &str) -> Result<Download>;

    /// The annotations of a tag in an OCI layout's index.
    fn annotations(&self, _tag: &Tag) -> Annotations {
        Annotations::new()
    }
}

/// The mirrors that the bytes of one download come from, by their places. If the bytes are wrong, all of them are to
/// blame: which part was wrong is not known.
#[derive(Clone, Default)]
pub struct Origins(Arc<Mutex<BTreeSet<String>>>);

impl Origins {
    fn add(&self, place: &str) {
        lock(&self.0).insert(place.to_owned());
    }

    fn has(&self, place: &str) -> bool {
        lock(&self.0).contains(place)
    }

    /// The mirrors as `HOST/REPOSITORY`, separated by commas. `None`: all bytes come from the source itself.
    pub fn mirrors(&self) -> Option<String> {
        let places = lock(&self.0);
        let without_namespace =
            |place: &String| place.split('?').next().unwrap_or_default().to_owned();
        let mirrors: Vec<_> = places.iter().map(without_namespace).collect();
        (!mirrors.is_empty()).then(|| mirrors.join(", "))
    }
}

/// A part of the bytes of a blob, unchecked.
pub struct Body {
    pub reader: Box<dyn Read + Send>,
    /// The position of the first of them.
    pub starts_at: u64,
    /// The position behind the last of them.
    pub ends_at: u64,
}

/// The result of a request for a range.
pub enum Part {
    /// The bytes of the range, all of them.
    Range(Vec<u8>),
    /// The whole blob, from a registry without ranges.
    Whole(Box<dyn Read + Send>),
}

/// How to fetch a blob or a manifest. It may have a secret, so it has no `Debug`.
pub struct Download {
    /// Where it is.
    pub url: String,
    /// The value of the `Accept` header, where one is needed.
    pub accept: Option<String>,
    /// The value of the `Authorization` header, where one is needed.
    pub authorization: Option<String>,
}

/// A tag or a digest of a manifest.
#[derive(Clone, Copy, Debug)]
pub enum Reference<'a> {
    /// Its tag, which may move.
    Tag(&'a Tag),
    /// Its digest, which may not.
    Digest(Digest),
}

/// A manifest as it is stored.
#[derive(Debug)]
pub struct StoredManifest {
    /// The bytes that its digest is the checksum of.
    pub bytes: Vec<u8>,
    /// The `Content-Type` of a registry; a layout has none.
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
