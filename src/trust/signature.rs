//! Signatures of a manifest in their forms: which blobs of a manifest are signatures, and what one says once a key has verified it.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::bundle::{self, Bundle, Signed};
use super::by::By;
use super::key::Key;
use super::keyless::{Artifact, Proof};
use super::{Subject, simple};
use crate::digest::Digest;
use crate::manifest::{Annotations, Descriptor, Image};
use crate::printable::{printable, shortened};

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
        proof: Proof,
    },
    /// A bundle, and its JSON.
    Bundle(Bundle, Vec<u8>),
    /// Why it cannot be read.
    Unread(String),
}

/// A signature that was verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// The reference that it names; `None`: its form names none.
    pub reference: Option<String>,
    /// Tells signers apart.
    pub signer: Digest,
    /// The signer, for people.
    pub told: String,
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.place, &self.content) {
            (Place::SigTag, _) => ".sig tag",
            (Place::Attached, Content::Bundle(..)) => "bundle",
            (Place::Attached, Content::Simple { .. }) => "attached payload",
            (Place::Attached, Content::Unread(_)) => "attached",
        })
    }
}

impl Signature {
    /// A payload with its signature in base64.
    pub fn simple(place: Place, payload: Vec<u8>, signature: &str) -> Self {
        // Line ends do not count, as in containers/image.
        let signature = signature.replace(['\r', '\n'], "");
        let content = match BASE64_STANDARD.decode(signature) {
            Ok(signature) => Content::Simple {
                payload,
                signature,
                proof: Proof::default(),
            },
            Err(error) => Content::Unread(format!("the base64 of a signature is damaged: {error}")),
        };
        Self { place, content }
    }

    /// The same with what lies beside it, which proves whose it is.
    pub fn proved_by(mut self, beside: &Annotations) -> Self {
        if let Content::Simple { proof, .. } = &mut self.content {
            *proof = Proof::of(beside);
        }
        self
    }

    /// A bundle.
    pub fn bundle(place: Place, json: &[u8]) -> Self {
        let content = match Bundle::parse(json) {
            Ok(bundle) => Content::Bundle(bundle, json.to_vec()),
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
        let Content::Bundle(bundle, _) = &self.content else {
            return false;
        };
        matches!(bundle.signed, Signed::Manifest { .. })
    }

    /// Who has signed a manifest, if it is who it should be. `bytes`: of the manifest, where they are needed.
    ///
    /// Nothing in a signature is read before it is verified.
    pub fn verify(
        &self,
        by: &By,
        subject: &Subject<'_>,
        bytes: Option<&[u8]>,
    ) -> Result<Verified, String> {
        let (signer, told) = match by {
            By::Key(key) => {
                if let Content::Bundle(bundle, _) = &self.content
                    && !bundle.certificates.is_empty()
                {
                    return Err(
                        "it is signed with a certificate (keyless), expected a key".to_owned()
                    );
                }
                self.verify_by(key, subject, bytes)?;
                (key.id(), key.to_string())
            }
            By::LoggedKey(key, logs) => {
                self.verify_by(key, subject, bytes)?;
                let (bundle, artifact) = self.logged(true, subject, bytes)?;
                logs.has_logged(&bundle, artifact, key)?;
                (key.id(), key.to_string())
            }
            By::Keyless(keyless) => {
                let (bundle, artifact) = self.logged(false, subject, bytes)?;
                let who = keyless.root.signer(&bundle, artifact)?;
                keyless.check(&who)?;
                let who = printable(&who.subject).into_owned();
                let told = format!("{who} (keyless, issuer {})", keyless.issuer);
                (Digest::of(told.as_bytes()), told)
            }
            By::Authority(authority) => {
                let certificates = match &self.content {
                    Content::Simple { proof, .. } => proof.certificates()?,
                    Content::Bundle(bundle, _) => bundle.certificates.clone(),
                    Content::Unread(why) => return Err(why.clone()),
                };
                let key = authority.key_of(&certificates, subject.now)?;
                self.verify_by(&key, subject, bytes)?;
                (key.id(), by.to_string())
            }
        };
        let reference = match &self.content {
            Content::Simple { payload, .. } => Some(simple::reference(payload, subject.manifest)?),
            Content::Bundle(bundle, _) => {
                if let Signed::Statement { payload, .. } = &bundle.signed {
                    bundle::check_statement(payload, subject.manifest)?;
                }
                None
            }
            Content::Unread(why) => return Err(why.clone()),
        };
        Ok(Verified {
            reference,
            signer,
            told,
        })
    }

    /// Whether a key has made it.
    fn verify_by(
        &self,
        key: &Key,
        subject: &Subject<'_>,
        bytes: Option<&[u8]>,
    ) -> Result<(), String> {
        match &self.content {
            Content::Simple {
                payload, signature, ..
            } => check(key, payload, signature),
            Content::Bundle(bundle, _) => match &bundle.signed {
                Signed::Statement { payload, signature } => {
                    check(key, &bundle::signed_bytes(payload), signature)
                }
                Signed::Manifest { signature } => {
                    check(key, manifest_bytes(subject, bytes)?, signature)
                }
            },
            Content::Unread(why) => Err(why.clone()),
        }
    }

    /// The bundle that it is or that says the same, and what that is of. `has_key`: a key made it.
    fn logged<'a>(
        &'a self,
        has_key: bool,
        subject: &Subject<'_>,
        bytes: Option<&'a [u8]>,
    ) -> Result<(Cow<'a, [u8]>, Artifact<'a>), String> {
        match &self.content {
            Content::Simple {
                payload,
                signature,
                proof,
            } => {
                let bundle = proof.bundle(payload, signature, has_key)?;
                Ok((bundle.into(), Artifact::Bytes(payload)))
            }
            Content::Bundle(bundle, json) => {
                if bundle.certificates.is_empty() && !has_key {
                    return Err(
                        "it is signed with a key, expected a certificate (keyless)".to_owned()
                    );
                }
                let artifact = match &bundle.signed {
                    Signed::Statement { payload, .. } => {
                        Artifact::Statement(subject.manifest, payload)
                    }
                    Signed::Manifest { .. } => Artifact::Bytes(manifest_bytes(subject, bytes)?),
                };
                Ok((json.into(), artifact))
            }
            Content::Unread(why) => Err(why.clone()),
        }
    }
}

fn manifest_bytes<'a>(subject: &Subject<'_>, bytes: Option<&'a [u8]>) -> Result<&'a [u8], String> {
    let bytes = bytes.filter(|bytes| Digest::of(bytes) == subject.manifest);
    bytes.ok_or_else(|| "the bytes of the manifest are not at hand".to_owned())
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
