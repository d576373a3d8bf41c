//! A reference → the image manifests that it leads to, by indexes and for the machines that files are offered for.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::Resolver;
use crate::artifact::index::{self, Choice, Chosen};
use crate::artifact::{self, Skipped};
use crate::blob;
use crate::cache::Cache;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::{self, Annotations, Descriptor, Entry, Image, Index, Manifest};
use crate::name::Tag;
use crate::platform::Architecture;
use crate::pool::Document;
use crate::printable::shortened;
use crate::rollout::{Annotated, Schedule};
use crate::source::{DOCUMENT_TIMEOUT, Reference, StoredManifest};
use crate::task;
use crate::trust::Accepted;

/// Indexes read for one tag. Publishers nest them once, if at all.
const MAX_INDEXES: usize = 16;
/// Artifacts read for one index. Garden Linux has some dozens.
const MAX_ENTRIES: usize = 256;

/// Blobs of at most so many bytes are documents: configs, and metadata that a publisher wrote.
const SMALL_BLOB: u64 = 1 << 20;

/// An image manifest that a reference leads to.
pub struct Resolved {
    /// Its digest.
    pub digest: Digest,
    /// The manifest.
    pub image: Image,
    /// The reference is its own, rather than that of an index.
    pub is_direct: bool,
    /// It is one of several in an index.
    pub is_of_index: bool,
    /// The annotation that tells it from others for its architecture.
    pub flavour: Option<String>,
    /// The architecture in its index.
    pub architecture: Option<Architecture>,
    /// The version that its index has.
    pub version: Option<String>,
    /// The schedule that its index has.
    pub schedule: Annotated,
    /// The annotations of its entry in the index.
    pub annotations: Annotations,
    /// The signatures by which it was accepted, if the settings ask for any.
    pub accepted: Option<Arc<Accepted>>,
}

/// Why a reference leads to no artifact.
pub enum Unlistable {
    /// It is not for this machine, or not in a form that can be offered.
    NotOffered(String),
    /// It is not signed as the settings ask.
    Refused(String),
    /// It could not be read.
    Failed(Error),
}

impl From<Error> for Unlistable {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Unlistable {
    /// The reason as a listing has it; an error if it could not be read.
    pub fn skipped(self) -> Result<Skipped> {
        match self {
            Self::NotOffered(why) => Ok(Skipped::whole(why)),
            Self::Refused(why) => Ok(Skipped::refused(why)),
            Self::Failed(error) => Err(error),
        }
    }
}

impl Resolved {
    /// An image that its own tag or digest led to.
    fn direct(digest: Digest, image: Image) -> Self {
        Self {
            digest,
            image,
            is_direct: true,
            is_of_index: false,
            flavour: None,
            architecture: None,
            version: None,
            schedule: None,
            annotations: Annotations::new(),
            accepted: None,
        }
    }
}

impl Resolver<'_> {
    /// The manifest or index that a client asks for.
    pub fn by_reference(&self, reference: Reference<'_>) -> Result<(Digest, Manifest)> {
        match reference {
            Reference::Tag(tag) => self.by_tag(tag, None),
            Reference::Digest(digest) => Ok((digest, self.by_digest(digest)?)),
        }
    }

    /// Visits each image manifest that a manifest or index leads to: one after the other, for together they may be
    /// large. Returns what the visits return, and a reason for each entry of an index that cannot be used.
    ///
    /// Only those are visited that are signed as the settings ask. `tag`: the one that was asked for.
    pub fn visit_images<T>(
        &self,
        digest: Digest,
        manifest: Manifest,
        tag: Option<&Tag>,
        mut visit: impl FnMut(Resolved) -> Result<T, Unlistable>,
    ) -> Result<(Vec<T>, Vec<Skipped>), Unlistable> {
        let index = match manifest {
            Manifest::Index(index) => index,
            Manifest::Image(image) => {
                let accepted = self.accept(None, tag, Resolved::direct(digest, image))?;
                return Ok((vec![visit(accepted)?], Vec::new()));
            }
        };
        let version = artifact::version(&index.annotations).map(str::to_owned);
        let schedule = Schedule::annotated(&index.annotations);
        let (chosen, is_single, mut skipped) = self.chosen(digest, index)?;
        let of_index = self.trust(digest, tag)?;
        let (mut visited, mut refused) = (Vec::new(), Vec::new());
        for Chosen {
            architecture,
            flavour,
            descriptor,
        } in chosen
        {
            let accepted = self.image(&descriptor).and_then(|image| {
                let resolved = Resolved {
                    is_direct: false,
                    is_of_index: !is_single,
                    flavour,
                    architecture,
                    version: version.clone(),
                    schedule: schedule.clone(),
                    annotations: descriptor.annotations,
                    ..Resolved::direct(descriptor.digest, image)
                };
                self.accept(Some(&of_index), tag, resolved)
            });
            let accepted = match accepted {
                // The others may be signed.
                Err(Unlistable::Refused(why)) => {
                    refused.push(why);
                    continue;
                }
                accepted => accepted,
            };
            match accepted.and_then(&mut visit) {
                Ok(one) => visited.push(one),
                // The others are there.
                Err(Unlistable::Failed(
                    error @ (Error::Missing { .. } | Error::BadLayout { .. }),
                )) if !is_single => skipped.push(gone(descriptor.digest, &error)),
                Err(error) => return Err(error),
            }
        }
        if visited.is_empty() {
            let unlistable = match refused.is_empty() {
                true => Unlistable::NotOffered,
                false => Unlistable::Refused,
            };
            refused.extend(skipped);
            return Err(unlistable(refused.join("; ")));
        }
        let skipped = skipped.into_iter().map(Skipped::whole);
        let refused = refused.into_iter().map(Skipped::refused);
        Ok((visited, skipped.chain(refused).collect()))
    }

    /// The entries of an index that are for the architectures on offer, whether its only platform is one, and why
    /// others are skipped.
    fn chosen(
        &self,
        digest: Digest,
        index: Index,
    ) -> Result<(Vec<Chosen>, bool, Vec<String>), Unlistable> {
        let (entries, mut skipped) = self.entries(digest, index)?;
        let Choice {
            chosen,
            is_single,
            twins,
        } = index::choose(&entries, self.architectures).map_err(|why| {
            let rest = skipped.iter().map(String::as_str);
            let all: Vec<_> = std::iter::once(why.as_str()).chain(rest).collect();
            Unlistable::NotOffered(all.join("; "))
        })?;
        skipped.extend(twins);
        if chosen.len() > MAX_ENTRIES {
            return Err(Unlistable::NotOffered(format!(
                "index of {} artifacts for this machine, at most {MAX_ENTRIES} are read",
                chosen.len()
            )));
        }
        Ok((chosen, is_single, skipped))
    }

    /// The manifest of a tag: under `immutable-tags` the one that it had when it was first seen.
    pub fn by_tag(&self, tag: &Tag, before: Option<Digest>) -> Result<(Digest, Manifest)> {
        let immutable = match &self.immutable_tags {
            // A publisher's list moves with every version, whatever other tags do.
            Some(immutable) if *tag != Tag::of_listing() => immutable,
            _ => return self.by_tag_now(tag, before),
        };
        if let Some(digest) = immutable.get(tag)? {
            // If the registry no longer has that manifest, the present one is no substitute.
            return Ok((digest, self.named(digest)?));
        }
        let found = self.by_tag_now(tag, before)?;
        // A mirror that stands in for the registry promises nothing for it.
        if self.source.tags_are_its_own() {
            immutable.note(tag, found.0);
        }
        Ok(found)
    }

    /// The manifest of a tag now. A tag that is known costs a HEAD, for its manifest is at hand. Only the 404 of a GET
    /// counts: proxies may have lost a manifest that they fetch again for a GET.
    pub fn by_tag_now(&self, tag: &Tag, before: Option<Digest>) -> Result<(Digest, Manifest)> {
        let now = match (before, self.cache) {
            // A source on disk tells digests for nothing.
            (_, None) => self.source.digest_of(tag)?,
            (Some(before), Some(cache)) if cache.has_document(&self.source.name(), before) => {
                match self.source.digest_of(tag) {
                    Err(Error::Missing { .. }) => None,
                    found => found?,
                }
            }
            _ => None,
        };
        if let Some(digest) = now {
            match self.named(digest) {
                // Some registries name a digest they then don't know (docker-registry 2.8 for sha512).
                Err(Error::Missing { .. }) => {}
                found => return Ok((digest, found?)),
            }
        }
        let stored = self.source.manifest(Reference::Tag(tag))?;
        let digest = Digest::of(&stored.bytes);
        let manifest = self.take(&format!("manifest of tag {tag}"), digest, stored)?;
        Ok((digest, manifest))
    }

    /// A manifest that a client names. One that is at hand is not served unless the repository still holds it.
    pub fn by_digest(&self, digest: Digest) -> Result<Manifest> {
        if let Some(cache) = self.cache
            && cache.has_document(&self.source.name(), digest)
            && !self.source.holds_manifest(digest)?
        {
            return Err(self.missing("manifest", digest));
        }
        self.named(digest)
    }

    /// A manifest that the repository itself names in this snapshot: by a tag, by an index or by its list of
    /// referrers. Where it also delivered it before, that is proof enough, and it is not asked again.
    pub fn named(&self, digest: Digest) -> Result<Manifest> {
        let what = format!("manifest {digest}");
        if let Some(bytes) = self.kept_manifest(digest) {
            return parse(&what, None, &bytes);
        }
        let stored = self.source.manifest(Reference::Digest(digest))?;
        self.take(&what, digest, stored)
    }

    /// Reads a manifest that the source delivered, and keeps it.
    pub fn take(&self, what: &str, digest: Digest, stored: StoredManifest) -> Result<Manifest> {
        let manifest = parse(what, stored.media_type.as_deref(), &stored.bytes)?;
        self.keep(digest, &stored.bytes);
        Ok(manifest)
    }

    /// A document that this source delivered before.
    fn kept(&self, digest: Digest, most: u64) -> Option<Vec<u8>> {
        self.cache?.document(&self.source.name(), digest, most)
    }

    /// Whether a document need not be fetched.
    pub fn is_kept(&self, digest: Digest) -> bool {
        let size = |cache: &Cache| cache.size_of_document(&self.source.name(), digest);
        self.cache.and_then(size).is_some()
    }

    /// The same of a manifest. Where there is no memory for it in time, it counts as not kept.
    pub fn kept_manifest(&self, digest: Digest) -> Option<Vec<u8>> {
        let size = self.cache?.size_of_document(&self.source.name(), digest)?;
        let size = Some(size).filter(|size| *size <= manifest::MAX_SIZE)?;
        let mut document = Document::new();
        document
            .reserve(size, || format!("manifest {digest}"))
            .ok()?;
        let bytes = self.kept(digest, size)?;
        document.keep(bytes.len());
        Some(bytes)
    }

    fn keep(&self, digest: Digest, bytes: &[u8]) {
        if let Some(cache) = self.cache {
            cache.keep_document(&self.source.name(), digest, bytes);
        }
    }

    pub fn missing(&self, what: &str, digest: Digest) -> Error {
        let url = format!("{what} {digest} in {}", self.source.name());
        Error::Missing { url }
    }

    /// The artifacts of an index and of the indexes inside it, and a reason for each entry that cannot be used.
    fn entries(
        &self,
        digest: Digest,
        index: Index,
    ) -> Result<(Vec<Entry>, Vec<String>), Unlistable> {
        let mut seen = HashSet::from([digest]);
        let (mut artifacts, mut skipped) = (Vec::new(), Vec::new());
        let mut indexes = VecDeque::from([index]);
        while let Some(mut index) = indexes.pop_front() {
            skipped.extend(index.unusable.drain(..).map(|one| one.why));
            let sorted = index::sort(index);
            if sorted.is_build_cache {
                return Err(Unlistable::NotOffered(index::IS_BUILD_CACHE.to_owned()));
            }
            artifacts.extend(sorted.artifacts);
            for nested in sorted.nested {
                if !seen.insert(nested.digest) {
                    continue;
                }
                if seen.len() > MAX_INDEXES {
                    let why = format!("index with {MAX_INDEXES} indexes in it or more");
                    return Err(Unlistable::NotOffered(why));
                }
                match self.named(nested.digest) {
                    Ok(Manifest::Index(index)) => indexes.push_back(index),
                    Ok(Manifest::Image(_)) => return Err(mislabelled(&nested)),
                    Err(error @ Error::Missing { .. }) => skipped.push(gone(nested.digest, &error)),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok((artifacts, skipped))
    }

    fn image(&self, descriptor: &Descriptor) -> Result<Image, Unlistable> {
        match self.named(descriptor.digest)? {
            Manifest::Image(image) => Ok(image),
            Manifest::Index(_) => Err(mislabelled(descriptor)),
        }
    }

    /// A blob of a size that fits into memory, which a manifest of this snapshot names. `what` names it in errors.
    pub fn small_blob(&self, what: &str, blob: &Descriptor) -> Result<Vec<u8>> {
        let Descriptor { digest, size, .. } = *blob;
        let what = format!("{what} {digest}");
        // The memory of a larger one is counted elsewhere.
        let mut document = Document::new();
        if size <= SMALL_BLOB {
            document.reserve(size, || what.clone())?;
        }
        let known = self.kept(digest, size);
        // If the size differs, the manifest is wrong about it, and the source will say so.
        if let Some(bytes) = known.filter(|bytes| bytes.len() as u64 == size) {
            document.keep(bytes.len());
            return Ok(bytes);
        }
        // A blob as small as a manifest has a manifest's time, however slowly it comes.
        let is_small = size <= manifest::MAX_SIZE;
        let limit = is_small.then(|| task::within(DOCUMENT_TIMEOUT));
        let read = blob::elsewhere_if_wrong(&**self.source, digest, || {
            let (_, blob) = blob::open(self.source, digest, Some(size), what.clone())?;
            blob.into_bytes()
        });
        let bytes = read.map_err(|error| match (error, task::passed_limit()) {
            (Error::Broken { url, .. }, Some(limit)) => Error::TooSlow { url, limit },
            (error, _) => error,
        })?;
        drop(limit);
        document.keep(bytes.len());
        self.keep(digest, &bytes);
        Ok(bytes)
    }
}

/// The reason for an entry of an index that the registry does not have.
fn gone(digest: Digest, error: &Error) -> String {
    format!("its index names {digest}: {}", error.line())
}

fn mislabelled(descriptor: &Descriptor) -> Unlistable {
    let Descriptor {
        digest, media_type, ..
    } = descriptor;
    Unlistable::NotOffered(format!(
        "{digest} is something else than its index calls it, {media_type}"
    ))
}

fn parse(what: &str, media_type: Option<&str>, bytes: &[u8]) -> Result<Manifest> {
    // The reason may quote a stranger's text as a whole.
    Manifest::parse(media_type, bytes).map_err(|why| Error::BadManifest {
        what: what.to_owned(),
        why: shortened(why),
    })
}
