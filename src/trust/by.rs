//! Who must have signed.

use std::fmt;
use std::sync::Arc;

use super::key::Key;
use super::keyless::{Authority, Keyless, TrustedRoot};
use crate::digest::Digest;

/// A signer, by what proves a signature to be theirs.
#[derive(Clone, Debug, PartialEq)]
pub enum By {
    /// The owner of this key.
    Key(Key),
    /// The same, whose signatures one of these logs has taken up.
    LoggedKey(Key, Arc<TrustedRoot>),
    /// Somebody who logged in to sign.
    Keyless(Keyless),
    /// Somebody with a certificate of this authority.
    Authority(Authority),
}

impl By {
    /// Tells signers apart: a key counts once, however often it is named.
    pub fn id(&self) -> Digest {
        match self {
            Self::Key(key) | Self::LoggedKey(key, _) => key.id(),
            other => Digest::of(format!("{other:?}").as_bytes()),
        }
    }

    /// Whether a signature that counts now may not count later.
    pub fn looks_at_clock(&self) -> bool {
        matches!(self, Self::Authority(_))
    }

    /// The trusted root by which somebody without a key is known.
    pub fn trusted_root(&self) -> Option<&Arc<TrustedRoot>> {
        match self {
            Self::Keyless(Keyless { root, .. }) => Some(root),
            _ => None,
        }
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, "{key}"),
            Self::LoggedKey(key, _) => write!(f, "{key}"),
            Self::Keyless(keyless) => write!(f, "{keyless}"),
            Self::Authority(authority) => write!(f, "{authority}"),
        }
    }
}
