//! Lists that publishers sign.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Resolver;
use crate::address::LISTING;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::name::Tag;

/// Largest list that a publisher signed; sysupdate takes no larger one.
const MAX_SIGNED_LIST: u64 = 64 << 20;
/// Largest signature of one.
const MAX_SIGNATURE: u64 = 1 << 20;

/// A publisher's list with its signatures, byte for byte. All are from one artifact. They are shared by
/// all who get them.
#[derive(Debug, Default)]
pub struct Signed {
    /// `SHA256SUMS`
    pub list: Arc<[u8]>,
    /// By name: `SHA256SUMS.gpg`, …
    pub signatures: BTreeMap<String, Arc<[u8]>>,
}

impl Resolver<'_> {
    /// The publisher's own list, if there is one in the artifact with the tag `SHA256SUMS`.
    pub(super) fn signed(&self, before: Option<Digest>) -> Result<Option<Signed>> {
        let tag = Tag::of_listing();
        let (digest, image) = match self.by_tag(&tag, before) {
            Ok((digest, Manifest::Image(image))) => (digest, image),
            Ok(_) | Err(Error::Missing { .. } | Error::NotOffered { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut signed = Signed::default();
        for layer in &image.layers {
            let Some(title) = layer.title().filter(|title| title.starts_with(LISTING)) else {
                continue;
            };
            let limit = if title == LISTING {
                MAX_SIGNED_LIST
            } else {
                MAX_SIGNATURE
            };
            if layer.size > limit {
                let why = format!(
                    "{title} has {} bytes, at most {limit} are taken",
                    layer.size
                );
                return Err(Error::BadManifest {
                    what: format!("tag {LISTING}"),
                    why,
                });
            }
            let what = if title == LISTING {
                "signed list"
            } else {
                "signature"
            };
            let bytes = self.small_blob(what, layer)?.into();
            if title == LISTING {
                signed.list = bytes
            } else {
                drop(signed.signatures.insert(title.to_owned(), bytes))
            }
        }
        if signed.list.is_empty() {
            return Ok(None);
        }
        if let Some(cache) = self.cache.filter(|_| before != Some(digest)) {
            cache.keep_tags(&self.source.name(), &BTreeMap::from([(tag, digest)]));
        }
        Ok(Some(signed))
    }
}
