//! A repository's tags → their manifests → the files on offer, many at once.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use log::{debug, info, warn};
use serde::Deserialize;
use uapi_version::strverscmp;

use crate::address::LISTING;
use crate::architecture::Architecture;
use crate::artifact::index::{self, Choice};
use crate::artifact::kubesolo::Release;
use crate::artifact::{self, Content, Recognised};
use crate::cache::{Cache, Made};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::inside;
use crate::listing::{Artifact, File, Listing, Naming};
use crate::manifest::{Descriptor, Image, Index, Manifest};
use crate::metadata::{Metadata, is_document};
use crate::name::{FileName, Tag};
use crate::parallel::in_parallel;
use crate::payload::{Verified, Workshop};
use crate::source::{Reference, Source};

/// Indexes read for one tag. Publishers nest them once, if at all.
const MAX_INDEXES: usize = 16;
/// Artifacts read for one index. Garden Linux has some dozens.
const MAX_ENTRIES: usize = 256;
/// Attached artifacts read for one.
const MAX_ATTACHED: usize = 64;
/// Largest list that a publisher signed; sysupdate takes no larger one.
const MAX_SIGNED_LIST: u64 = 64 << 20;
/// Largest signature of one.
const MAX_SIGNATURE: u64 = 1 << 20;
/// The type of a config that is none.
const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// Largest config that is read for its architecture.
const MAX_CONFIG: u64 = 1 << 20;

/// One repository to be listed.
pub struct Resolver<'a> {
    /// Where its artifacts come from.
    pub source: &'a Arc<dyn Source>,
    /// Where documents are kept; `None` for a source that is on disk itself.
    pub cache: Option<&'a Cache>,
    /// How its files are called.
    pub naming: Naming<'a>,
    /// The architectures that an index offers.
    pub architectures: &'a [Architecture],
    /// What the settings say every layer is.
    pub suffix: Option<&'a str>,
    /// Where images are flattened.
    pub workshop: &'a Workshop,
    /// How many versions are, before anybody asks for them.
    pub flatten: usize,
    /// When an answer must be there.
    pub until: Instant,
    /// A tag that is known is not asked for again.
    pub immutable_tags: bool,
    /// Requests at once.
    pub parallel: usize,
}

/// What a repository has to list.
pub enum Contents {
    /// The files that its tags lead to.
    Files(Listing),
    /// A list that its publisher wrote and signed.
    Signed(Signed),
}

/// A publisher's list with its signatures, byte for byte. All are from one artifact.
#[derive(Debug, Default)]
pub struct Signed {
    /// `SHA256SUMS`
    pub list: Vec<u8>,
    /// By name: `SHA256SUMS.gpg`, …
    pub signatures: BTreeMap<String, Vec<u8>>,
}

/// A manifest at the end of the way from a reference.
struct Leaf {
    digest: Digest,
    image: Image,
    /// How it was chosen among several of an index.
    chosen: Option<index::Chosen>,
    /// What it runs on, as far as its index says.
    known: Option<Architecture>,
    /// The version that its index says it has.
    version: Option<String>,
}

/// Where a reference leads to.
struct Leaves {
    leaves: Vec<Leaf>,
    /// A reason for each entry of an index that cannot be used.
    left_out: Vec<String>,
}

/// What one tag led to: artifacts, or the reason why none is on offer.
struct Resolved {
    digest: Digest,
    outcome: Result<Vec<Artifact>, String>,
}

/// Why there are no artifacts.
enum Setback {
    /// They are not for this machine, or not in a form that can be offered.
    NotOffered(String),
    /// They could not be read.
    Failed(Error),
}

impl From<Error> for Setback {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Resolver<'_> {
    /// What the repository has to list: its publisher's own list if there is one, else its files.
    ///
    /// A list that is signed has any number of versions for three requests, so it is asked for before the
    /// tags, which take a request for every thousand. Not so where the tags are known from before and it
    /// was not among them.
    pub fn contents(&self) -> Result<Contents> {
        let listing = Tag::of_listing();
        let name = self.source.name();
        let known = self
            .cache
            .map(|cache| cache.tags(&name))
            .unwrap_or_default();
        let before = known.get(&listing).copied();
        if known.is_empty() || before.is_some() {
            match self.signed(before) {
                Ok(Some(signed)) => return Ok(Contents::Signed(signed)),
                Ok(None) => {}
                // Some say no, or something odd, for what they have not: the tags will tell.
                Err(error)
                    if is_of_the_content(&error) || matches!(error, Error::Denied { .. }) =>
                {
                    debug!("{name}: no signed list: {}", error.line());
                }
                // The tags would fail for the same reason, after the same wait.
                Err(error) => return Err(error),
            }
        }
        let tags = self.tags()?;
        if tags.contains(&listing)
            && let Some(signed) = self.signed(None)?
        {
            return Ok(Contents::Signed(signed));
        }
        self.list(tags).map(Contents::Files)
    }

    /// Its tags, sorted.
    pub fn tags(&self) -> Result<Vec<Tag>> {
        let mut tags = self.source.tags()?;
        tags.sort();
        tags.dedup();
        Ok(tags)
    }

    /// Lists the files that these tags lead to now.
    ///
    /// A tag that fails is left out with its reason. But when the registry as a whole is in trouble,
    /// or not one tag could be read for a reason that may pass, the listing fails: an empty one would
    /// say that there are no versions.
    pub fn list(&self, mut tags: Vec<Tag>) -> Result<Listing> {
        let mut listing = Listing::default();
        tags.retain(|tag| {
            let reason = if tag.is_of_a_referrer() {
                "this is the tag of a signature or of referrers, not of a version"
            } else if *tag == Tag::of_listing() {
                "this is the tag of a list that its publisher signed, and there is none in it"
            } else {
                return true;
            };
            listing.leave_out(tag, reason.into());
            false
        });

        let name = self.source.name();
        let before = self
            .cache
            .map(|cache| cache.tags(&name))
            .unwrap_or_default();
        let (started, is_late) = (Instant::now(), AtomicBool::new(false));
        let results = in_parallel(&tags, self.parallel, |tag, stop| {
            let result = self.resolve(tag, before.get(tag).copied());
            if result.as_ref().is_err_and(Error::is_of_the_whole_registry) {
                stop.store(true, Ordering::Relaxed);
            }
            if Instant::now() > self.until {
                is_late.store(true, Ordering::Relaxed);
                stop.store(true, Ordering::Relaxed);
            }
            result
        });
        let has_stopped = results.iter().any(Option::is_none);

        let mut now = BTreeMap::new();
        let mut outcomes = Vec::new();
        let mut may_pass = None;
        for (tag, result) in tags.iter().zip(results) {
            match result {
                // Work was stopped before this tag's turn: another tag has the error.
                None => {}
                Some(Ok(Resolved { digest, outcome })) => {
                    now.insert(tag.clone(), digest);
                    outcomes.push((tag, outcome));
                }
                Some(Err(error)) if error.is_of_the_whole_registry() => return Err(error),
                Some(Err(error)) => {
                    outcomes.push((tag, Err(error.line())));
                    if !is_of_the_content(&error) {
                        may_pass = Some(error);
                    }
                }
            }
        }
        if let (true, Some(error)) = (now.is_empty(), may_pass) {
            return Err(error);
        }
        if has_stopped && is_late.into_inner() {
            let url = format!("{name} for all its tags");
            let limit = self.until.saturating_duration_since(started);
            return Err(Error::TooSlow { url, limit });
        }
        if let Some(cache) = self.cache.filter(|_| now != before) {
            cache.keep_tags(&name, &now);
        }
        let found = outcomes
            .iter_mut()
            .filter_map(|(tag, outcome)| Some((*tag, outcome.as_mut().ok()?)));
        self.make(found.collect(), self.flatten);
        for (tag, outcome) in outcomes {
            match outcome {
                Ok(artifacts) => listing.add(&self.naming, tag, artifacts),
                Err(reason) => listing.leave_out(tag, reason),
            }
        }
        Ok(listing)
    }

    /// Turns what has to be made into files on offer, or into the reasons why they are not.
    ///
    /// What came out before is known for ever. Of the rest the newest versions are made now, as long as
    /// there is time; what is not ready by then is made all the same, for the next listing.
    fn make(&self, mut found: Vec<(&Tag, &mut Vec<Artifact>)>, newest: usize) {
        found.sort_by(|(one, _), (other, _)| {
            strverscmp(other.as_str(), one.as_str()).then(one.cmp(other))
        });
        let mut begun = Vec::new();
        let mut versions = 0;
        for (tag, artifacts) in found {
            let is_new = versions < newest;
            let is_made = |one: &Artifact| one.recognised.to_make.is_some();
            versions += usize::from(artifacts.iter().any(is_made));
            for Recognised {
                offers,
                to_make,
                left_out,
                ..
            } in artifacts.iter_mut().map(|one| &mut one.recognised)
            {
                let Some(recipe) = to_make.take() else {
                    continue;
                };
                match self.workshop.known(&recipe) {
                    Some(Ok(made)) => offers.push(recipe.offer(made.digest, made.size)),
                    Some(Err(error)) => left_out.push(error.line()),
                    None if is_new => {
                        let what = format!("{}:{tag}", self.source.name());
                        let job = self.workshop.begin(&what, self.source, &recipe);
                        begun.push((offers, left_out, recipe, job));
                    }
                    None => left_out.push(format!(
                        "it has to be flattened, and only the newest {newest} versions that do are; \
                         'flatten' in the settings says how many"
                    )),
                }
            }
        }
        for (offers, left_out, recipe, job) in begun {
            match job.wait(self.until) {
                Some(Ok(made)) => offers.push(recipe.offer(made.digest, made.size)),
                Some(Err(error)) => left_out.push(error.line()),
                None => left_out
                    .push("it is still being flattened; it is listed once that is done".to_owned()),
            }
        }
    }

    /// One artifact as a directory: its files, and those attached to it.
    ///
    /// `label` is what stands for its version where it says none: its tag, or a part of its digest.
    pub fn view(
        &self,
        reference: Reference<'_>,
        label: &Tag,
    ) -> Result<(Listing, Option<Release>)> {
        let (digest, manifest) = self.by_reference(reference)?;
        let (mut listing, mut release) = (Listing::default(), None);
        let mut subjects = vec![digest];
        match self.artifacts(digest, manifest) {
            Ok(mut artifacts) => {
                self.make(vec![(label, &mut artifacts)], 1);
                subjects.extend(
                    artifacts
                        .iter()
                        .map(|one| one.manifest)
                        .filter(|one| *one != digest),
                );
                release = artifacts
                    .iter()
                    .find_map(|one| one.recognised.kubesolo.clone());
                listing.add(&self.naming, label, artifacts);
            }
            Err(Setback::NotOffered(reason)) => listing.leave_out(label, reason),
            Err(Setback::Failed(error)) => return Err(error),
        }
        let attached = subjects.into_iter().map(|subject| self.attached(subject));
        for (manifest, attached) in attached.collect::<Result<Vec<_>>>()?.into_iter().flatten() {
            let recognised = Recognised {
                offers: artifact::titled(&attached),
                ..Recognised::default()
            };
            let artifact = Artifact {
                manifest,
                entry: None,
                flavour: None,
                plain: None,
                version: None,
                recognised,
            };
            listing.add(&self.naming, label, vec![artifact]);
        }
        Ok((listing, release))
    }

    /// The manifests attached to one. That there are none is the rule.
    pub fn attached(&self, subject: Digest) -> Result<Vec<(Digest, Image)>> {
        let mut attached = Vec::new();
        for descriptor in self.source.referrers(subject)?.iter().take(MAX_ATTACHED) {
            match self.by_digest(descriptor.digest) {
                // A list of them is anybody's word; the manifest's own is checked by its digest.
                Ok(Manifest::Image(image)) if image.subject == Some(subject) => {
                    attached.push((descriptor.digest, image));
                }
                Ok(_) => debug!("{} is not attached to {subject}", descriptor.digest),
                Err(error) if error.is_of_the_whole_registry() => return Err(error),
                Err(error) => info!(
                    "{}: attached {} left out: {}",
                    self.source.name(),
                    descriptor.digest,
                    error.line()
                ),
            }
        }
        Ok(attached)
    }

    /// What a file of this source says of itself: by its manifest and what is attached to it, and where
    /// that leaves open what it is for, by what is inside it.
    pub fn metadata(&self, name: &FileName, file: &File) -> Result<Metadata> {
        let image = match file.manifest {
            Some(manifest) => match self.by_digest(manifest)? {
                Manifest::Image(image) => Some((manifest, image)),
                Manifest::Index(_) => None,
            },
            None => None,
        };
        let mut found = Metadata::default();
        if let Some((manifest, image)) = &image {
            found = self.published(file, *manifest, image)?;
        }
        let is_known = found.has_id() && found.has_version();
        let is_text = matches!(file.content, Content::Text(_));
        if !is_known && !is_text {
            match self.inside(name, file) {
                Ok(inside) => found.merge(inside),
                Err(error @ Error::BadImage { .. }) if found.has_id() => warn!("{}", error.line()),
                Err(error) => return Err(error),
            }
        }
        let Some((_, image)) = image else {
            return Ok(found);
        };
        found.add(
            "SYSEXT_VERSION_ID",
            artifact::version(&image.annotations).unwrap_or(file.tag.as_str()),
        );
        // Its config is fetched only if nothing else says it.
        let architecture = match file.architecture {
            None if !found.has_architecture() => self.architecture_of(&image)?,
            known => known,
        };
        if let Some(architecture) = architecture {
            found.add("ARCHITECTURE", architecture.as_str());
        }
        Ok(found)
    }

    /// What a publisher says of a file: in documents, then in annotations.
    fn published(&self, file: &File, manifest: Digest, image: &Image) -> Result<Metadata> {
        let mut found = Metadata::default();
        let attached = self.attached(manifest)?;
        for layer in std::iter::once(image)
            .chain(attached.iter().map(|(_, image)| image))
            .flat_map(|image| &image.layers)
        {
            if is_document(layer) {
                found.merge(Metadata::of_document(&self.small_blob("document", layer)?));
            }
        }
        let own = image
            .layers
            .iter()
            .find(|layer| layer.digest == file.digest);
        if let Some(layer) = own {
            found.merge(Metadata::of_annotations(&layer.annotations));
        }
        found.merge(Metadata::of_annotations(&image.annotations));
        Ok(found)
    }

    fn inside(&self, name: &FileName, file: &File) -> Result<Metadata> {
        let size = match file.size {
            Some(size) => size,
            None => self.source.blob_size(file.digest)?,
        };
        let (digest, source) = (file.digest, self.source);
        match &file.content {
            Content::Made(recipe) => {
                let what = format!("{}:{}", source.name(), file.tag);
                let made = Made { digest, size };
                let open = || (self.workshop).open(&what, source, recipe, made, self.until);
                let origin = inside::Made {
                    name: format!("image {what}"),
                    open,
                };
                inside::metadata(&origin, digest, size, self.cache, name)
            }
            _ => {
                let source = &**source;
                let origin = inside::Blob {
                    source,
                    digest,
                    size,
                };
                inside::metadata(&origin, digest, size, self.cache, name)
            }
        }
    }

    /// The publisher's own list, if there is one in the artifact with the tag `SHA256SUMS`.
    fn signed(&self, before: Option<Digest>) -> Result<Option<Signed>> {
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
            let bytes = self.small_blob(what, layer)?;
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

    fn resolve(&self, tag: &Tag, before: Option<Digest>) -> Result<Resolved> {
        let (digest, manifest) = self.by_tag(tag, before)?;
        match self.artifacts(digest, manifest) {
            Ok(artifacts) => Ok(Resolved {
                digest,
                outcome: Ok(artifacts),
            }),
            Err(Setback::NotOffered(reason)) => Ok(Resolved {
                digest,
                outcome: Err(reason),
            }),
            Err(Setback::Failed(error)) => Err(error),
        }
    }

    fn artifacts(&self, digest: Digest, manifest: Manifest) -> Result<Vec<Artifact>, Setback> {
        let Leaves { leaves, left_out } = self.leaves(digest, manifest)?;
        let artifacts = leaves.iter().map(|leaf| self.artifact(leaf));
        let mut artifacts = artifacts.collect::<Result<Vec<_>, Setback>>()?;
        // They belong to no artifact: the first one is as good as any to tell of them.
        if let Some(first) = artifacts.first_mut() {
            first.recognised.left_out.extend(left_out);
        }
        Ok(artifacts)
    }

    /// The manifests that a reference leads to, for the machines that files are offered for.
    pub fn images(&self, reference: Reference<'_>) -> Result<Vec<(Digest, Image)>> {
        let (digest, manifest) = self.by_reference(reference)?;
        match self.leaves(digest, manifest) {
            Ok(found) => Ok(found
                .leaves
                .into_iter()
                .map(|leaf| (leaf.digest, leaf.image))
                .collect()),
            Err(Setback::NotOffered(why)) => Err(Error::NotOffered {
                what: match reference {
                    Reference::Tag(tag) => format!("tag {tag}"),
                    Reference::Digest(digest) => format!("manifest {digest}"),
                },
                why,
            }),
            Err(Setback::Failed(error)) => Err(error),
        }
    }

    fn by_reference(&self, reference: Reference<'_>) -> Result<(Digest, Manifest)> {
        match reference {
            Reference::Tag(tag) => self.by_tag(tag, None),
            Reference::Digest(digest) => Ok((digest, self.by_digest(digest)?)),
        }
    }

    fn leaves(&self, digest: Digest, manifest: Manifest) -> Result<Leaves, Setback> {
        match manifest {
            Manifest::Image(image) => {
                let leaf = Leaf {
                    digest,
                    image,
                    chosen: None,
                    known: None,
                    version: None,
                };
                Ok(Leaves {
                    leaves: vec![leaf],
                    left_out: Vec::new(),
                })
            }
            Manifest::Index(index) => self.in_index(digest, &index),
        }
    }

    /// What a tag is. A tag that is known costs a HEAD, for its manifest is at hand.
    fn by_tag(&self, tag: &Tag, before: Option<Digest>) -> Result<(Digest, Manifest)> {
        let now = match (before, self.cache) {
            // A source on disk tells digests for nothing.
            (_, None) => self.source.digest_of(tag)?,
            // A publisher's list moves with every version, whatever other tags do.
            (Some(before), _) if self.immutable_tags && *tag != Tag::of_listing() => Some(before),
            (Some(before), Some(cache)) if cache.has_document(before) => {
                self.source.digest_of(tag)?
            }
            _ => None,
        };
        if let Some(digest) = now {
            match self.by_digest(digest) {
                // Some registries name a digest they then don't know (docker-registry 2.8 for sha512).
                Err(Error::Missing { .. }) => {}
                found => return Ok((digest, found?)),
            }
        }
        let stored = self.source.manifest(Reference::Tag(tag))?;
        let digest = Digest::of(&stored.bytes);
        let manifest = parse(
            &format!("manifest of tag {tag}"),
            stored.media_type.as_deref(),
            &stored.bytes,
        )?;
        if let Some(cache) = self.cache {
            cache.keep_document(digest, &stored.bytes);
        }
        Ok((digest, manifest))
    }

    fn by_digest(&self, digest: Digest) -> Result<Manifest> {
        let what = format!("manifest {digest}");
        if let Some(bytes) = self.cache.and_then(|cache| cache.document(digest)) {
            return parse(&what, None, &bytes);
        }
        let stored = self.source.manifest(Reference::Digest(digest))?;
        let found = Digest::of(&stored.bytes);
        if found != digest {
            return Err(Error::WrongBytes {
                what,
                expected: digest,
                found,
            });
        }
        let manifest = parse(&what, stored.media_type.as_deref(), &stored.bytes)?;
        if let Some(cache) = self.cache {
            cache.keep_document(digest, &stored.bytes);
        }
        Ok(manifest)
    }

    /// The manifests that an index leads to, by indexes inside it too.
    fn in_index(&self, digest: Digest, index: &Index) -> Result<Leaves, Setback> {
        let mut seen = HashSet::from([digest]);
        let (mut artifacts, mut left_out) = (Vec::new(), Vec::new());
        let version = artifact::version(&index.annotations).map(str::to_owned);
        let mut indexes = VecDeque::from([index.clone()]);
        while let Some(index) = indexes.pop_front() {
            left_out.extend(index.unusable.iter().map(|one| one.why.clone()));
            let sorted = index::sort(index);
            artifacts.extend(sorted.artifacts);
            for nested in sorted.nested {
                if !seen.insert(nested.digest) {
                    continue;
                }
                if seen.len() > MAX_INDEXES {
                    let reason = format!("index with {MAX_INDEXES} indexes in it or more");
                    return Err(Setback::NotOffered(reason));
                }
                match self.by_digest(nested.digest)? {
                    Manifest::Index(index) => indexes.push_back(index),
                    Manifest::Image(_) => return Err(mislabelled(&nested)),
                }
            }
        }
        let choice = index::choose(artifacts, self.architectures).map_err(|why| {
            // Nothing else tells of them then.
            let all: Vec<_> = std::iter::once(why).chain(left_out.clone()).collect();
            Setback::NotOffered(all.join("; "))
        })?;
        let leaves = match choice {
            Choice::Single(descriptor, known) => {
                let image = self.image(&descriptor)?;
                vec![Leaf {
                    digest: descriptor.digest,
                    image,
                    chosen: None,
                    known,
                    version,
                }]
            }
            Choice::Several(several) if several.len() > MAX_ENTRIES => {
                let reason = format!(
                    "index of {} artifacts for this machine, at most {MAX_ENTRIES} are read",
                    several.len()
                );
                return Err(Setback::NotOffered(reason));
            }
            Choice::Several(several) => {
                let leaf = |chosen: index::Chosen| {
                    let digest = chosen.descriptor.digest;
                    let image = self.image(&chosen.descriptor)?;
                    let known = Some(chosen.architecture);
                    Ok(Leaf {
                        digest,
                        image,
                        chosen: Some(chosen),
                        known,
                        version: version.clone(),
                    })
                };
                let leaves: Result<_, Setback> = several.into_iter().map(leaf).collect();
                leaves?
            }
        };
        Ok(Leaves { leaves, left_out })
    }

    fn image(&self, descriptor: &Descriptor) -> Result<Image, Setback> {
        match self.by_digest(descriptor.digest)? {
            Manifest::Image(image) => Ok(image),
            Manifest::Index(_) => Err(mislabelled(descriptor)),
        }
    }

    /// What a manifest offers, if it is for a machine that files are offered for.
    fn recognise(&self, image: &Image) -> Result<Recognised, Setback> {
        let config = match &image.config {
            Some(config) if artifact::needs_config(image) && config.size <= MAX_CONFIG => {
                Some(self.small_blob("config", config)?)
            }
            _ => None,
        };
        let mut recognised = match self.suffix {
            Some(suffix) => artifact::recognise_as(image, suffix),
            None => artifact::recognise(image, config.as_deref()),
        };
        if self.naming.keeps_titles {
            recognised = artifact::as_directory(image, recognised);
        }
        match recognised.only_for {
            Some(found) if !self.architectures.contains(&found) => {
                let offered: Vec<_> = self.architectures.iter().map(|one| one.as_str()).collect();
                let reason = format!(
                    "it says it is for {found}, offered is {}",
                    offered.join(", ")
                );
                Err(Setback::NotOffered(reason))
            }
            _ => Ok(recognised),
        }
    }

    /// What a manifest offers.
    fn artifact(&self, leaf: &Leaf) -> Result<Artifact, Setback> {
        let recognised = self.recognise(&leaf.image)?;
        let is_wanted = self
            .naming
            .template
            .is_some_and(|template| template.wants_arch());
        let known = match leaf.known {
            None if is_wanted => self.architecture_of(&leaf.image)?,
            known => known,
        };
        // In its own directory an artifact has the version that it says it has, or else its index.
        let own = artifact::version(&leaf.image.annotations).map(str::to_owned);
        let version = own
            .or_else(|| leaf.version.clone())
            .filter(|_| self.naming.keeps_titles);
        Ok(Artifact {
            manifest: leaf.digest,
            entry: leaf.chosen.as_ref().map(|chosen| chosen.architecture),
            flavour: leaf
                .chosen
                .as_ref()
                .and_then(|chosen| chosen.flavour.clone()),
            plain: known.or(recognised.only_for),
            version,
            recognised,
        })
    }

    /// What a plain manifest says it is for: an annotation, else its config.
    fn architecture_of(&self, image: &Image) -> Result<Option<Architecture>> {
        let noted = image
            .annotations
            .iter()
            .filter(|(key, _)| *key == "architecture" || key.ends_with(".architecture"))
            .find_map(|(_, value)| Architecture::of_oci(value).or_else(|| value.parse().ok()));
        if noted.is_some() {
            return Ok(noted);
        }
        match &image.config {
            // What oras writes where there is no config: two braces, which need not be fetched.
            Some(config) if config.media_type == OCI_EMPTY => Ok(None),
            Some(config) if config.media_type.ends_with("json") && config.size <= MAX_CONFIG => {
                let bytes = self.small_blob("config", config)?;
                Ok(serde_json::from_slice(&bytes)
                    .ok()
                    .and_then(|Config { architecture }| Architecture::of_oci(&architecture?)))
            }
            _ => Ok(None),
        }
    }

    /// A blob that fits into memory: its size was looked at. `what` it is called in errors.
    pub fn small_blob(&self, what: &str, blob: &Descriptor) -> Result<Vec<u8>> {
        if let Some(bytes) = self.cache.and_then(|cache| cache.document(blob.digest)) {
            return Ok(bytes);
        }
        let inner = self.source.blob(blob.digest, blob.size, 0)?;
        let mut bytes = vec![0; usize::try_from(blob.size).unwrap_or(usize::MAX)];
        Verified::new(
            inner,
            format!("{what} {}", blob.digest),
            blob.digest,
            blob.size,
        )
        .fill(&mut bytes)?;
        if let Some(cache) = self.cache {
            cache.keep_document(blob.digest, &bytes);
        }
        Ok(bytes)
    }
}

fn mislabelled(descriptor: &Descriptor) -> Setback {
    let Descriptor {
        digest, media_type, ..
    } = descriptor;
    Setback::NotOffered(format!(
        "{digest} is something else than its index calls it, {media_type}"
    ))
}

/// The little of an image config that is of interest.
#[derive(Deserialize)]
struct Config {
    architecture: Option<String>,
}

fn parse(what: &str, media_type: Option<&str>, bytes: &[u8]) -> Result<Manifest> {
    Manifest::parse(media_type, bytes).map_err(|why| Error::BadManifest {
        what: what.to_owned(),
        why,
    })
}

/// Is the artifact itself at fault, so that asking again would find the same?
fn is_of_the_content(error: &Error) -> bool {
    matches!(
        error,
        Error::Missing { .. }
            | Error::Nonsense { .. }
            | Error::WrongBytes { .. }
            | Error::WrongSize { .. }
            | Error::BadManifest { .. }
            | Error::BadLayout { .. }
    )
}
