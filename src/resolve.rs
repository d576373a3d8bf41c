//! A repository's tags → their manifests → the files on offer, many at once.

mod leaves;
mod promised;
mod said;
mod signed;

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use log::{debug, info};
use serde::Deserialize;
use uapi_version::strverscmp;

use crate::architecture::Architecture;
use crate::artifact::kubesolo::Release;
use crate::artifact::{self, Recognised};
use crate::cache::Cache;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::listing::{self, Artifact, Listing, Naming, Reasons};
use crate::manifest::{Annotations, Image, Manifest};
use crate::name::Tag;
use crate::parallel::in_parallel;
use crate::payload::{Product, Workshop};
use crate::places::{Place, Places};
use crate::settings::SignedListTag;
use crate::source::{Reference, Source};
use crate::state::State;

use leaves::{Leaf, Setback};
pub use promised::ImmutableTags;
pub use signed::Signed;

/// Attached artifacts read for one.
const MAX_ATTACHED: usize = 64;
/// The type of a config that is none.
const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// Largest config that is read for its architecture.
const MAX_CONFIG: u64 = 1 << 20;

/// Memory that one tag may take in a listing, in bytes: some twenty thousand files.
const MAX_OF_TAG: usize = 8 << 20;
/// Memory that all tags of a listing may take together.
const MAX_OF_LISTING: usize = 64 << 20;

/// One repository to be listed.
pub struct Resolver<'a> {
    /// Where its artifacts come from.
    pub source: &'a Arc<dyn Source>,
    /// Where documents are kept; `None` for a source that is on disk itself.
    pub cache: Option<&'a Cache>,
    /// What is remembered of it beyond the cache.
    pub state: &'a State,
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
    /// Where a tag stays what it was when it was first seen.
    pub immutable_tags: Option<ImmutableTags<'a>>,
    /// Where its publisher's own list is.
    pub signed_list: &'a SignedListTag,
    /// Requests at once.
    pub parallel: usize,
    /// The places for them and for those of all other listings.
    pub requests: &'a Places,
}

/// A manifest that a reference leads to.
pub struct Found {
    /// Its digest.
    pub digest: Digest,
    /// What it says.
    pub image: Image,
    /// What the entry of its index says of it, if it is in one.
    pub annotations: Annotations,
    /// The reference is its own, rather than that of an index.
    pub is_direct: bool,
}

/// What a repository has to list.
pub enum Contents {
    /// The files that its tags lead to.
    Files(Listing),
    /// A list that its publisher wrote and signed.
    Signed(Signed),
}

/// What one tag led to.
struct Resolved {
    digest: Digest,
    outcome: Outcome,
}

/// Artifacts, or the reason why none is on offer.
type Outcome = Result<Vec<Artifact>, String>;

impl Resolver<'_> {
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
    pub fn list(&self, tags: Vec<Tag>) -> Result<Listing> {
        self.promising(|| self.list_now(tags))
    }

    fn list_now(&self, mut tags: Vec<Tag>) -> Result<Listing> {
        let mut listing = Listing::default();
        tags.retain(|tag| match not_a_version(tag) {
            Some(reason) => {
                listing.leave_out(tag, reason.into());
                false
            }
            None => true,
        });
        let mut outcomes = self.outcomes(&tags)?;
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
        for (digest, reason) in self.source.untagged() {
            listing.leave_out(&Tag::of_digest(&digest), reason);
        }
        Ok(listing)
    }

    /// A place among the requests of all listings. What lies on this machine needs none.
    fn place(&self, what: impl FnOnce() -> String) -> Result<Option<Place<'_>>> {
        let is_remote = self.cache.is_some();
        is_remote.then(|| self.requests.take(what)).transpose()
    }

    /// What each tag leads to, or why to nothing. All are there, or the reason why the listing fails.
    fn outcomes<'t>(&self, tags: &'t [Tag]) -> Result<Vec<(&'t Tag, Outcome)>> {
        let name = self.source.name();
        let before = self
            .cache
            .map(|cache| cache.tags(&name))
            .unwrap_or_default();
        let started = Instant::now();
        let room = AtomicUsize::new(MAX_OF_LISTING);
        let results = in_parallel(tags, self.parallel, |tag, stop| {
            let place = self.place(|| format!("tag {tag} of {name}"));
            let mut result = place.map(|_place| self.resolve(tag, before.get(tag).copied()));
            if let Ok(Ok(resolved)) = &mut result {
                fit(&mut resolved.outcome, &room);
            }
            let is_of_all = match &result {
                Ok(result) => result.as_ref().is_err_and(Error::is_of_the_whole_registry),
                Err(_) => true,
            };
            if is_of_all || Instant::now() > self.until {
                stop.store(true, Relaxed);
            }
            result
        });
        let has_stopped = results.iter().any(Option::is_none);

        let mut now = BTreeMap::new();
        let mut outcomes = Vec::new();
        let mut may_pass = None;
        // Where work was stopped before a tag's turn, another tag has the error, or there was no time.
        for (tag, result) in tags
            .iter()
            .zip(results)
            .filter_map(|(tag, result)| Some((tag, result?)))
        {
            // That there was no place for it says nothing of a tag.
            match result? {
                Ok(Resolved { digest, outcome }) => {
                    now.insert(tag.clone(), digest);
                    outcomes.push((tag, outcome));
                }
                Err(error) if error.is_of_the_whole_registry() => return Err(error),
                Err(error) => {
                    outcomes.push((tag, Err(listing::shortened(error.line()))));
                    if !is_of_the_content(&error) {
                        may_pass = Some(error);
                    }
                }
            }
        }
        if let (true, Some(error)) = (now.is_empty(), may_pass) {
            return Err(error);
        }
        if has_stopped {
            let url = format!("{name} for all its tags");
            let limit = self.until.saturating_duration_since(started);
            return Err(Error::TooSlow { url, limit });
        }
        if let Some(cache) = self
            .cache
            .filter(|_| now != before && self.source.tags_are_its_own())
        {
            cache.keep_tags(&name, &now);
        }
        Ok(outcomes)
    }

    /// Turns what has to be made into files on offer, or into the reasons why they are not.
    ///
    /// What came out before stays known. Of the rest the newest versions are made now, as long as
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
                match self.workshop.known(self.source, &recipe) {
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
                Some(Ok(Product { made, .. })) => offers.push(recipe.offer(made.digest, made.size)),
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
        let (digest, manifest) = self.promising(|| self.by_reference(reference))?;
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
        let mut room = MAX_OF_LISTING;
        for subject in subjects {
            self.attached(subject, |manifest, attached| {
                let recognised = Recognised {
                    offers: artifact::titled(&attached),
                    ..Recognised::default()
                };
                let mut artifact = Artifact {
                    manifest,
                    entry: None,
                    flavour: None,
                    plain: None,
                    version: None,
                    recognised,
                };
                artifact.condense(&self.naming);
                match room.checked_sub(artifact.weight()) {
                    Some(left) => {
                        room = left;
                        listing.add(&self.naming, label, vec![artifact]);
                    }
                    None => listing.leave_out(label, format!("attached {manifest}: {}", no_room())),
                }
                Ok(())
            })?;
        }
        Ok((listing, release))
    }

    /// Does something with each manifest that is attached to one. That there are none is the rule.
    pub fn attached(
        &self,
        subject: Digest,
        mut visit: impl FnMut(Digest, Image) -> Result<()>,
    ) -> Result<()> {
        let name = self.source.name();
        let descriptors = self.source.referrers(subject)?;
        if descriptors.len() > MAX_ATTACHED {
            info!(
                "{name}: {} artifacts are attached to {subject}, at most {MAX_ATTACHED} are read",
                descriptors.len()
            );
        }
        for descriptor in descriptors.iter().take(MAX_ATTACHED) {
            match self.named(descriptor.digest) {
                // A list of them is anybody's word; the manifest's own is checked by its digest.
                Ok(Manifest::Image(image)) if image.subject == Some(subject) => {
                    visit(descriptor.digest, image)?;
                }
                Ok(_) => debug!("{} is not attached to {subject}", descriptor.digest),
                Err(error) if error.is_of_the_whole_registry() => return Err(error),
                Err(error) => info!(
                    "{name}: attached {} left out: {}",
                    descriptor.digest,
                    error.line()
                ),
            }
        }
        Ok(())
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
                outcome: Err(listing::shortened(reason)),
            }),
            Err(Setback::Failed(error)) => Err(error),
        }
    }

    fn artifacts(&self, digest: Digest, manifest: Manifest) -> Result<Vec<Artifact>, Setback> {
        let (mut room, mut reasons) = (MAX_OF_TAG, Reasons::default());
        let found = self.leaves(digest, manifest, |leaf| {
            let mut artifact = self.artifact(&leaf)?;
            reasons.add(mem::take(&mut artifact.recognised.left_out));
            artifact.condense(&self.naming);
            let left = room.checked_sub(artifact.weight()).ok_or_else(|| {
                let limit = MAX_OF_TAG >> 20;
                Setback::NotOffered(format!(
                    "it offers so many files that they take more than {limit} MiB of memory"
                ))
            })?;
            room = left;
            Ok(artifact)
        })?;
        reasons.add(found.left_out);
        let mut artifacts = found.found;
        // Some belong to no artifact: the first one is as good as any to tell of all.
        if let Some(first) = artifacts.first_mut() {
            first.recognised.left_out = reasons.told();
        }
        Ok(artifacts)
    }

    /// The manifests that a reference leads to, for the machines that files are offered for.
    pub fn images(&self, reference: Reference<'_>) -> Result<Vec<Found>> {
        let (digest, manifest) = self.promising(|| self.by_reference(reference))?;
        let found = self.leaves(digest, manifest, |leaf| {
            let is_direct = leaf.digest == digest;
            Ok(Found {
                digest: leaf.digest,
                image: leaf.image,
                annotations: match reference {
                    Reference::Tag(tag) if is_direct => self.source.annotations(tag),
                    _ => leaf.annotations,
                },
                is_direct,
            })
        });
        found
            .map(|leaves| leaves.found)
            .map_err(|setback| not_offered(reference, setback))
    }

    /// What one of them offers.
    pub fn offered(&self, reference: Reference<'_>, image: &Image) -> Result<Recognised> {
        let recognised = self.recognise(image);
        recognised.map_err(|setback| not_offered(reference, setback))
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
        let own = artifact::version(&leaf.image.annotations).map(str::to_owned);
        let version = own.or_else(|| leaf.version.clone());
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
}

fn not_offered(reference: Reference<'_>, setback: Setback) -> Error {
    match setback {
        Setback::NotOffered(why) => Error::NotOffered {
            what: match reference {
                Reference::Tag(tag) => format!("tag {tag}"),
                Reference::Digest(digest) => format!("manifest {digest}"),
            },
            why,
        },
        Setback::Failed(error) => error,
    }
}

/// Takes room for what a tag leads to, or leaves it out where there is none.
fn fit(outcome: &mut Outcome, room: &AtomicUsize) {
    let weight = match outcome {
        Ok(artifacts) => artifacts.iter().map(Artifact::weight).sum(),
        Err(reason) => reason.len(),
    };
    let take = |left: usize| left.checked_sub(weight);
    if room.fetch_update(Relaxed, Relaxed, take).is_err() {
        *outcome = Err(no_room());
    }
}

fn no_room() -> String {
    let limit = MAX_OF_LISTING >> 20;
    format!("the listing is full: its files and reasons take {limit} MiB of memory")
}

/// The little of an image config that is of interest.
#[derive(Deserialize)]
struct Config {
    architecture: Option<String>,
}

/// Why a tag is none of a version, as far as its name says.
fn not_a_version(tag: &Tag) -> Option<&'static str> {
    if tag.is_of_a_referrer() {
        Some("this is the tag of a signature or of referrers, not of a version")
    } else if *tag == Tag::of_listing() {
        Some("this is the tag of a list that its publisher signed, and there is none in it")
    } else {
        None
    }
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
