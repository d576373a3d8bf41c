//! Signatures whose key nobody keeps: by a certificate that says who the signer is.
//!
//! ```text
//! root         the services of sigstore that are trusted, in trusted_root.json, and what they have signed
//! authority    a certificate authority by itself, without such services
//! certificate  the names in a certificate
//! subject      which signer a rule wants
//! legacy       such signatures in cosign's old form, made into bundles
//! provider     the cryptography, by ring
//! ```
//!
//! Without the feature `keyless`, `absent.rs` stands in for the first three: nothing is trusted, by name.

#[cfg(not(feature = "keyless"))]
mod absent;
#[cfg(feature = "keyless")]
mod authority;
#[cfg(feature = "keyless")]
mod certificate;
#[cfg(all(any(test, fuzzing), feature = "keyless"))]
#[path = "../../../tests/fuzz/properties/keyless.rs"]
pub mod fuzz;
mod legacy;
#[cfg(feature = "keyless")]
mod provider;
#[cfg(feature = "keyless")]
mod root;
mod subject;

#[cfg(not(feature = "keyless"))]
pub use absent::{Authority, TrustedRoot};
#[cfg(feature = "keyless")]
pub use authority::Authority;
pub use legacy::Proof;
#[cfg(feature = "keyless")]
pub use root::TrustedRoot;
pub use subject::Subject;

use std::fmt;
use std::sync::Arc;

use crate::digest::Digest;

/// Largest file with trusted roots or certificates, in bytes. sigstore's own has 7 KB.
#[cfg(feature = "keyless")]
pub const MAX_FILE: usize = 1 << 20;

/// The object that a bundle signs.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(feature = "keyless"),
    expect(dead_code, reason = "nothing is verified")
)]
pub enum Artifact<'a> {
    /// The manifest with this digest, which this statement names. It must be the one in the bundle.
    Statement(Digest, &'a [u8]),
    /// These bytes.
    Bytes(&'a [u8]),
}

/// The signer that a certificate names, once all that proves it is verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Who {
    /// The first email address or URI: a person, or the workflow of a build.
    pub subject: String,
    /// All email addresses.
    pub emails: Vec<String>,
    /// Who had the signer log in: a URL.
    pub issuer: Option<String>,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.issuer {
            Some(issuer) => write!(f, "{} (issuer {issuer})", self.subject),
            None => write!(f, "{} (without an issuer)", self.subject),
        }
    }
}

/// A signer that has to have logged in to sign.
#[derive(Clone, Debug, PartialEq)]
pub struct Keyless {
    pub root: Arc<TrustedRoot>,
    pub issuer: String,
    pub subject: Subject,
}

impl Keyless {
    /// Checks that this is the signer.
    pub fn check(&self, who: &Who) -> Result<(), String> {
        let is_it = who.issuer.as_ref() == Some(&self.issuer) && self.subject.matches(who);
        is_it
            .then_some(())
            .ok_or_else(|| format!("it is signed by {who}, expected {self}"))
    }
}

impl fmt::Display for Keyless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (keyless, issuer {})", self.subject, self.issuer)
    }
}

#[cfg(all(test, feature = "keyless"))]
mod conformance_tests;
