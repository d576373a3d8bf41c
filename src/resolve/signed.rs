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
/// What is taken of its artifact beside the list: all that any systemd asks for.
const SIGNATURES: [&str; 4] = [
    "SHA256SUMS.sha256.asc",
    "SHA256SUMS.sha256.gpg",
    "SHA256SUMS.asc",
    "SHA256SUMS.gpg",
];

/// A publisher's list with its signatures, byte for byte. All are from one artifact. They are shared by
/// all who get them.
#[derive(Debug)]
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
        let titled: BTreeMap<_, _> = image
            .layers
            .iter()
            .filter_map(|layer| Some((layer.title()?, layer)))
            .collect();
        let fetch = |title: &str, what, limit| match titled.get(title) {
            Some(layer) if layer.size > limit => Err(Error::BadManifest {
                what: format!("tag {LISTING}"),
                why: format!(
                    "{title} has {} bytes, at most {limit} are taken",
                    layer.size
                ),
            }),
            Some(layer) => self.small_blob(what, layer).map(|bytes| Some(bytes.into())),
            None => Ok(None),
        };
        let list: Arc<[u8]> = fetch(LISTING, "signed list", MAX_SIGNED_LIST)?.unwrap_or_default();
        if list.is_empty() {
            return Ok(None);
        }
        let mut signatures = BTreeMap::new();
        for title in SIGNATURES {
            if let Some(bytes) = fetch(title, "signature", MAX_SIGNATURE)? {
                signatures.insert(title.to_owned(), bytes);
            }
        }
        if let Some(cache) = self.cache.filter(|_| before != Some(digest)) {
            cache.keep_tags(&self.source.name(), &BTreeMap::from([(tag, digest)]));
        }
        Ok(Some(Signed { list, signatures }))
    }
}
