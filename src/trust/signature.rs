//! Signatures of a manifest in their forms: which blobs of a manifest are signatures, and what one says once a key has verified it.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::bundle::{self, Bundle};
use super::key::Key;
use super::simple;
use crate::digest::Digest;
use crate::manifest::{Descriptor, Image};
use crate::printable::shortened;

/// The layer that is a payload.
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The annotation of that layer that is its signature.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// The type of a manifest that is a Notation signature.
const NOTATION: &str = "application/vnd.cncf.notary.signature";
/// Length of an Ed25519 signature. None of those that are read is so short.
const ED25519: usize = 64;

/// Where a signature was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The manifest with the tag `sha256-<hex>.sig`.
    SigTag,
    /// A manifest that is attached to the one that is signed.
    Attached,
}

/// A part of such a manifest that is a signature.
#[derive(Debug, PartialEq)]
pub enum Part<'a> {
    /// A layer that is a payload, and its signature in base64.
    Payload(&'a Descriptor, &'a str),
    /// A layer that is a bundle.
    Bundle(&'a Descriptor),
    /// A signature in a form that is not read.
    Unread(&'static str),
}

/// The signatures that a manifest has, which was found where signatures are.
pub fn parts(image: &Image) -> Vec<Part<'_>> {
    let config = image.config.as_ref().map(|config| &config.media_type);
    let mut types = image.artifact_type.iter().chain(config);
    if types.any(|one| one == NOTATION) {
        return vec![Part::Unread("a Notation signature, which is not read")];
    }
    let layers = image.layers.iter();
    let parts = layers.filter_map(|layer| match layer.media_type.as_str() {
        PAYLOAD => match layer.annotations.get(SIGNATURE) {
            Some(signature) => Some(Part::Payload(layer, signature)),
            None => Some(Part::Unread("a payload without a signature")),
        },
        other => other
            .starts_with(bundle::MEDIA_TYPE)
            .then_some(Part::Bundle(layer)),
    });
    parts.collect()
}

/// A signature as it was found, unverified.
#[derive(Clone, Debug, PartialEq)]
pub struct Signature {
    place: Place,
    content: Content,
}

#[derive(Clone, Debug, PartialEq)]
enum Content {
    Simple {
        payload: Vec<u8>,
        signature: Vec<u8>,
    },
    Bundle(Bundle),
    /// Why it cannot be read.
    Unread(String),
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.place, &self.content) {
            (Place::SigTag, _) => ".sig tag",
            (Place::Attached, Content::Bundle(_)) => "bundle",
            (Place::Attached, Content::Simple { .. }) => "attached payload",
            (Place::Attached, Content::Unread(_)) => "attached",
        })
    }
}

impl Signature {
    /// A payload with its signature in base64.
    pub fn simple(place: Place, payload: Vec<u8>, signature: &str) -> Self {
        let content = match BASE64_STANDARD.decode(signature) {
            Ok(signature) => Content::Simple { payload, signature },
            Err(error) => Content::Unread(format!("the base64 of a signature is damaged: {error}")),
        };
        Self { place, content }
    }

    /// A bundle.
    pub fn bundle(place: Place, json: &[u8]) -> Self {
        let content = match Bundle::parse(json) {
            Ok(bundle) => Content::Bundle(bundle),
            Err(why) => Content::Unread(shortened(format!("a bundle: {why}"))),
        };
        Self { place, content }
    }

    /// One that cannot be read, for this reason.
    pub fn unread(place: Place, why: impl Into<String>) -> Self {
        Self {
            place,
            content: Content::Unread(shortened(why.into())),
        }
    }

    /// Whether the bytes of the manifest are needed to verify it.
    pub fn is_of_bytes(&self) -> bool {
        matches!(self.content, Content::Bundle(Bundle::Manifest { .. }))
    }

    /// The reference that this key has signed for a manifest; `None`: its form names none. `bytes`: of the manifest,
    /// where they are needed.
    ///
    /// Nothing in a signature is read before the key has verified it.
    pub fn verify(
        &self,
        key: &Key,
        manifest: Digest,
        bytes: Option<&[u8]>,
    ) -> Result<Option<String>, String> {
        match &self.content {
            Content::Simple { payload, signature } => {
                check(key, payload, signature)?;
                simple::reference(payload, manifest).map(Some)
            }
            Content::Bundle(Bundle::Statement { payload, signature }) => {
                check(key, &bundle::signed_bytes(payload), signature)?;
                bundle::check_statement(payload, manifest).map(|()| None)
            }
            Content::Bundle(Bundle::Manifest { signature }) => {
                let bytes = bytes.filter(|bytes| Digest::of(bytes) == manifest);
                let bytes = bytes.ok_or("the bytes of the manifest are not at hand")?;
                check(key, bytes, signature).map(|()| None)
            }
            Content::Unread(why) => Err(why.clone()),
        }
    }
}

fn check(key: &Key, message: &[u8], signature: &[u8]) -> Result<(), String> {
    if key.verifies(message, signature) {
        return Ok(());
    }
    Err(match signature.len() {
        ED25519 => "an Ed25519 signature, which is not read".to_owned(),
        0 => "the signature is empty".to_owned(),
        _ => "another key made it, or it was changed since".to_owned(),
    })
}
