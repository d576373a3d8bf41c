//! Where artifacts come from: a repository of a registry or an OCI layout directory. Everything
//! after this is source-blind.
//!
//!     layout                            an OCI layout directory
//!     mirror ─▶ registry ─▶ client      a registry and its mirrors, one of them, HTTP
//!                  └─▶ auth ─▶ credentials, challenge

mod auth;
mod certs;
mod challenge;
mod client;
mod credentials;
pub mod layout;
mod mirror;
mod registries_conf;
mod registry;
mod upstream;
mod url;

use std::io::Read;

pub use upstream::Upstream;

use crate::digest::Digest;
use crate::error::Result;
use crate::name::Tag;

/// A repository, wherever it lies.
pub trait Source: Send + Sync {
    /// How it is called in messages, and what the cache knows it by: `localhost:5000/kubernetes`,
    /// `oci:/srv/updates`.
    fn name(&self) -> String;

    /// Its tags, in no order. What is no tag by the grammar is left out.
    fn tags(&self) -> Result<Vec<Tag>>;

    /// The digest a tag has now, if that can be had for less than the manifest.
    fn digest_of(&self, tag: &Tag) -> Result<Option<Digest>>;

    /// A manifest or index as it is stored. Nothing of it is checked but its size.
    fn manifest(&self, reference: Reference<'_>) -> Result<StoredManifest>;

    /// The bytes of a blob from the one numbered `from` on, unchecked, of which there are `size` in all.
    fn blob(&self, digest: Digest, size: u64, from: u64) -> Result<Box<dyn Read + Send>>;

    /// Where a client can fetch the blob without us, if it can.
    fn blob_url(&self, digest: Digest) -> Result<Option<String>>;
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
