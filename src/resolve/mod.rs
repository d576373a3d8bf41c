//! A repository's tags → their manifests → the files on offer, many at once.

mod compatible;
mod complete;
mod make;
mod manifests;
mod metadata;
mod promised;
mod signed_list;
mod unfinished;

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use log::debug;
use serde::Deserialize;

use crate::artifact::kubesolo::Release;
use crate::artifact::{self, Recognised, Skipped};
use crate::cache::Cache;
use crate::digest::Digest;
use crate::error::{Error, Finding, Result};
use crate::flatten::Workshop;
use crate::listing::{self, Artifact, Incomplete, Listing, Naming, Reasons};
use crate::lock::lock;
use crate::manifest::{Image, Manifest};
use crate::memory::{Held, Room};
use crate::name::{RepositoryAddress, Tag};
use crate::parallel::in_parallel;
use crate::places::{Place, Places};
use crate::platform::{self, Architecture};
use crate::pool;
use crate::settings::SignedListTag;
use crate::source::{Reference, Source};
use crate::state::State;
use crate::task;

use complete::{Unanswered, Verdict, by_version, newest, newest_first};
pub use manifests::Resolved;
use manifests::Unlistable;
pub use promised::ImmutableTags;
pub use signed_list::{Signed, SignedBefore};
pub use unfinished::Unfinished;

/// Attached artifacts read for one.
const MAX_ATTACHED: usize = 64;
/// The type of a config that is none.
const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// Size of a config that is nothing but two braces.
const NO_CONFIG: u64 = 2;
/// Largest config that is read for its architecture.
const MAX_CONFIG: u64 = 1 << 20;

/// Memory that one tag may take in a listing, in bytes: some twenty thousand files.
const MAX_OF_TAG: usize = 8 << 20;
/// Memory that all tags of a listing may take together.
const MAX_OF_LISTING: usize = 32 << 20;

/// Requests in a row that the registry may turn away before it looks at them. After those it is left alone.
const MAX_TURNED_AWAY: usize = 20;
/// Tags without an answer that are noted: where there are more it is the registry that does not answer.
const MAX_NOTED: usize = 500;
/// Tags without an answer that are told one by one.
const MAX_UNANSWERED_TOLD: usize = 100;

/// One repository to be listed.
pub struct Resolver<'a> {
    /// Where its artifacts come from.
    pub source: &'a Arc<dyn Source>,
    /// Where documents are kept; `None` for a source that is on disk itself.
    pub cache: Option<&'a Cache>,
    /// What is remembered of it beyond the cache.
    pub state: &'a State,
    /// How the URL calls it, and the settings.
    pub address: &'a RepositoryAddress,
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
    /// Where a tag stays what it was when it was first seen.
    pub immutable_tags: Option<ImmutableTags<'a>>,
    /// Where its publisher's own list is.
    pub signed_list: &'a SignedListTag,
    /// The list that it was found to have before.
    pub signed_before: SignedBefore,
    /// Memory for what is kept.
    pub room: &'a dyn Room,
    /// Requests at once.
    pub parallel: usize,
    /// The places for them and for those of all other listings.
    pub requests: &'a Places,
    /// What listings learnt that could not be finished.
    pub unfinished: &'a Unfinished,
    /// Only extensions that this machine's systemd would merge are listed.
    pub compatible_only: bool,
}

/// What a repository has to list.
pub enum Contents {
    /// The files that its tags lead to.
    Files(Listing),
    /// A list that its publisher wrote and signed.
    Signed(Signed),
}

/// Artifacts, or the reason why none is on offer.
type Outcome = Result<Vec<Artifact>, String>;

/// What came of asking for one tag.
struct Asked {
    /// Of its manifest, if that was had, whatever came then.
    digest: Option<Digest>,
    result: Result<Outcome>,
}

/// What came of asking for all tags of a source.
#[derive(Default)]
struct Answers<'t> {
    answered: Vec<(&'t Tag, Outcome)>,
    unanswered: Vec<Unanswered>,
    /// Refused to this login, which is not an answer yet.
    refused: Vec<(&'t Tag, Error)>,
    /// What was had.
    digests: BTreeMap<Tag, Digest>,
    /// The memory that all this takes.
    held: Vec<Held>,
}

impl<'t> Answers<'t> {
    /// Sorts in what came of some tags. An error where nobody waits for it any more.
    fn add(&mut self, tags: &[&'t Tag], asked: Vec<Option<Asked>>) -> Result<()> {
        let mut is_over = Ok(());
        for (tag, asked) in tags.iter().zip(asked) {
            let Some(Asked { digest, result }) = asked else {
                self.unanswered.push(Unanswered::not_asked(tag));
                continue;
            };
            self.digests
                .extend(digest.map(|digest| ((*tag).clone(), digest)));
            let error = match result {
                Ok(outcome) => {
                    self.answered.push((tag, outcome));
                    continue;
                }
                Err(error) => error,
            };
            match error.finding() {
                _ if matches!(error, Error::ClientGone) => is_over = Err(error),
                Finding::Answer => {
                    let reason = listing::shortened(error.line());
                    self.answered.push((tag, Err(reason)));
                }
                Finding::Refusal => self.refused.push((tag, error)),
                Finding::Passing | Finding::Lasting => {
                    self.unanswered.push(Unanswered::new(tag, error));
                }
            }
        }
        is_over
    }
}

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
    /// A tag that is bad is left out with its reason. What becomes of a listing that lacks tags because they were
    /// not answered is in [`complete`].
    pub fn list(&self, tags: Vec<Tag>) -> Result<Listing> {
        self.promising(|| self.list_now(tags))
    }

    fn list_now(&self, mut tags: Vec<Tag>) -> Result<Listing> {
        let mut listing = Listing::default();
        tags.retain(|tag| match not_a_version(tag) {
            Some(reason) => {
                listing.leave_out(tag, Skipped::whole(reason));
                false
            }
            None => true,
        });
        let Answers {
            mut answered,
            mut unanswered,
            held: _held,
            ..
        } = self.answers(&tags)?;
        let found = answered
            .iter_mut()
            .filter_map(|(tag, outcome)| Some((*tag, outcome.as_mut().ok()?)));
        self.make(found.collect(), Some(self.flatten));
        for (tag, outcome) in answered {
            match outcome {
                Ok(artifacts) => listing.add(&self.naming, tag, artifacts),
                Err(reason) => listing.leave_out(tag, Skipped::whole(reason)),
            }
        }
        for (digest, reason) in self.source.untagged() {
            listing.leave_out(&Tag::of_digest(&digest), Skipped::whole(reason));
        }
        unanswered.extend(self.leave_out_incompatible(&mut listing)?);
        self.conclude(&tags, listing, unanswered)
    }

    /// The listing, if it may lack these tags.
    fn conclude(
        &self,
        tags: &[Tag],
        mut listing: Listing,
        mut unanswered: Vec<Unanswered>,
    ) -> Result<Listing> {
        let source = self.source.name();
        self.count_tries(&mut unanswered);
        if !unanswered.iter().any(Unanswered::has_run_out) {
            self.unfinished.forget(&source);
        }
        let listed = newest(listing.files.values().map(|file| &file.tag));
        let incomplete = match complete::judge(tags.len(), &unanswered, listed) {
            Verdict::Complete => return Ok(listing),
            Verdict::Incomplete(incomplete) => incomplete,
            Verdict::Error { why, retry_after } => {
                return Err(Error::Incomplete {
                    source,
                    unanswered: unanswered.len(),
                    tags: tags.len(),
                    why: listing::shortened(why),
                    retry_after,
                });
            }
        };
        unanswered.sort_by(|one, other| by_version(&other.tag, &one.tag));
        for (n, one) in unanswered.iter().take(MAX_UNANSWERED_TOLD).enumerate() {
            let more = unanswered.len() - MAX_UNANSWERED_TOLD.min(unanswered.len());
            let reason = match more {
                more if more > 0 && n + 1 == MAX_UNANSWERED_TOLD => {
                    format!("{}; and {more} older tags were not answered", one.reason())
                }
                _ => one.reason(),
            };
            listing.leave_unanswered(&one.tag, reason);
        }
        listing.incomplete = Some(incomplete);
        Ok(listing)
    }

    /// Notes that these tags were not answered once more, and which were not for so long that they count as refused.
    ///
    /// Another name of the source may have other settings, by which other things are asked for.
    fn count_tries(&self, unanswered: &mut [Unanswered]) {
        let source = &format!("{} as {}", self.source.name(), self.address);
        let before = self.state.notes(source).unanswered;
        if unanswered.is_empty() && before.is_empty() {
            return;
        }
        let now = now();
        let mut noted = BTreeMap::new();
        self.state.update_notes(source, |notes| {
            let open: BTreeSet<_> = unanswered.iter().map(|one| &one.tag).collect();
            notes.unanswered.retain(|tag, _| open.contains(tag));
            let tried = unanswered.iter().filter(|one| one.error.is_some());
            for Unanswered { tag, .. } in tried.take(MAX_NOTED) {
                let tries = notes.unanswered.entry(tag.clone()).or_default();
                *tries = complete::once_more(tries, now);
            }
            noted.clone_from(&notes.unanswered);
        });
        for one in unanswered {
            one.counts_as_refused = noted.get(&one.tag).is_some_and(complete::is_long);
        }
    }

    /// A place among the requests of all listings. What lies on this machine needs none.
    fn place(&self, what: impl Fn() -> String) -> Result<Option<Place<'_>>> {
        let is_remote = self.cache.is_some();
        is_remote.then(|| self.requests.take(what)).transpose()
    }

    /// What each tag leads to, or why to nothing, sorted by tag. An error if no manifest at all was had.
    ///
    /// What was learnt is kept, whatever comes of it: the next try asks only for the rest.
    fn answers<'t>(&self, tags: &'t [Tag]) -> Result<Answers<'t>> {
        let name = self.source.name();
        let before = self
            .cache
            .map(|cache| cache.tags(&name))
            .unwrap_or_default();
        let room = ListingRoom::default();
        let (has_any, failures) = (AtomicBool::new(false), Failures::default());
        let ask = |tag: &&Tag, stop: &AtomicBool| {
            let asked = self.ask(tag, before.get(*tag).copied(), &room);
            has_any.fetch_or(asked.digest.is_some(), Relaxed);
            let error = asked.result.as_ref().err();
            // A password that is refused each time may lock an account.
            let is_of_login = matches!(
                error,
                Some(Error::NoLogin { .. } | Error::LoginRefused { .. } | Error::BadLogin { .. })
            );
            let is_hopeless = failures.are_too_many(error);
            if is_hopeless
                || is_of_login && !has_any.load(Relaxed)
                || task::passed_limit().is_some()
            {
                stop.store(true, Relaxed);
            }
            asked
        };
        let mut answers = Answers::default();
        // Immutable tags are promised as they are learnt, and by one address of a source alone.
        let goes_on = self.cache.is_some() && self.immutable_tags.is_none();
        let known = if goes_on {
            self.unfinished.of(&name)
        } else {
            BTreeMap::new()
        };
        let mut order = newest_first(tags);
        order.sort_by_key(|tag| known.contains_key(*tag)); // stable: the newest first of either
        let mut added = answers.add(&order, in_parallel(&order, self.parallel, ask));
        let refused = if answers.digests.is_empty() {
            Vec::new()
        } else {
            mem::take(&mut answers.refused)
        };
        if added.is_ok() && !refused.is_empty() {
            // It may have been the login's fault, or the hour's, and not theirs.
            let refused: Vec<_> = refused.into_iter().map(|(tag, _)| tag).collect();
            let again = in_parallel(&refused, self.parallel, ask);
            added = answers.add(&refused, again);
        }
        let is_gone = |tag: &Tag| tags.binary_search(tag).is_err();
        let is_new = |(tag, digest): (&Tag, &Digest)| before.get(tag) != Some(digest);
        let is_news = answers.digests.iter().any(is_new) || before.keys().any(is_gone);
        if let Some(cache) = self.cache
            && is_news
            && self.source.tags_are_its_own()
        {
            cache.learn_tags(&name, &answers.digests, is_gone);
        }
        // A mirror that stands in for the registry answers nothing for it.
        if goes_on && self.source.tags_are_its_own() {
            self.unfinished.note(&name, &answers.digests);
        }
        added?;
        if answers.digests.is_empty() && !tags.is_empty() {
            return Err(self.nothing_had(tags.len(), answers));
        }
        self.go_on_from(&known, tags, &room, &mut answers);
        answers.held = mem::take(&mut lock(&room.held));
        self.believe_refusals(&mut answers)?;
        answers.answered.sort_by_key(|(tag, _)| *tag);
        Ok(answers)
    }

    /// Where there was no time for a tag, or no request, it is what it was in the listing that this one goes on from.
    fn go_on_from<'t>(
        &self,
        known: &BTreeMap<Tag, Digest>,
        tags: &'t [Tag],
        room: &ListingRoom,
        answers: &mut Answers<'t>,
    ) {
        let Some(cache) = self.cache.filter(|_| !known.is_empty()) else {
            return;
        };
        let name = self.source.name();
        for one in mem::take(&mut answers.unanswered) {
            let found = known
                .get(&one.tag)
                .filter(|digest| one.has_run_out() && cache.has_document(&name, **digest))
                .and_then(|digest| Some((*digest, self.named(*digest).ok()?)))
                .and_then(
                    |(digest, manifest)| match self.artifacts(digest, manifest) {
                        Ok(artifacts) => Some(Ok(artifacts)),
                        Err(Unlistable::NotOffered(reason)) => {
                            Some(Err(listing::shortened(reason)))
                        }
                        Err(Unlistable::Failed(_)) => None,
                    },
                );
            let found = found.filter(|outcome| self.fit(outcome, room).is_ok());
            match (found, tags.binary_search(&one.tag)) {
                (Some(outcome), Ok(n)) => answers.answered.push((&tags[n], outcome)),
                _ => answers.unanswered.push(one),
            }
        }
    }

    /// What is refused is refused for good, if another manifest is not, now that all was asked for.
    fn believe_refusals(&self, answers: &mut Answers<'_>) -> Result<()> {
        if answers.refused.is_empty() {
            return Ok(());
        }
        let another = newest(answers.digests.keys());
        let is_let_in = match another.map(|tag| self.source.manifest(Reference::Tag(tag))) {
            Some(Err(Error::ClientGone)) => return Err(Error::ClientGone),
            asked => asked.is_some_and(|asked| asked.is_ok()),
        };
        for (tag, error) in mem::take(&mut answers.refused) {
            if is_let_in {
                let reason = listing::shortened(error.line());
                answers.answered.push((tag, Err(reason)));
            } else {
                answers.unanswered.push(Unanswered::new(tag, error));
            }
        }
        Ok(())
    }

    /// Why no manifest was had, though there are tags: what the newest says of which there is no answer, else of
    /// which there is one.
    fn nothing_had(&self, tags: usize, answers: Answers<'_>) -> Error {
        let Answers {
            answered,
            unanswered,
            refused,
            ..
        } = answers;
        let source = self.source.name();
        let silent = unanswered.into_iter().find_map(|one| one.error);
        let refused = || refused.into_iter().next().map(|(_, error)| error);
        match silent.or_else(refused) {
            Some(error @ Error::TooSlow { .. }) => Error::Incomplete {
                source,
                unanswered: tags,
                tags,
                why: error.line(),
                retry_after: complete::RETRY_AFTER,
            },
            Some(error) => error,
            None => {
                let newest = answered.into_iter().next();
                let reason = newest.map(|(tag, outcome)| (tag, outcome.err().unwrap_or_default()));
                let why = match reason {
                    Some((tag, reason)) => format!("tag {tag}: {reason}"),
                    None => "there was no time for any".to_owned(),
                };
                Error::Nonsense {
                    url: source,
                    why: format!("{tags} tags, and no manifest of any of them can be had; {why}"),
                }
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
        let name = || format!("{label} of {}", self.source.name());
        let (digest, artifacts) = pool::with_documents(name, || {
            let found = self.promising(|| self.by_reference(reference));
            let found = found.map(|(digest, manifest)| (digest, self.artifacts(digest, manifest)));
            let artifacts = found
                .as_ref()
                .ok()
                .and_then(|(_, found)| found.as_ref().ok());
            let weight = artifacts.map(|all| all.iter().map(Artifact::weight).sum());
            (found, weight.unwrap_or_default())
        })??;
        let (mut listing, mut release) = (Listing::default(), None);
        let mut subjects = vec![digest];
        match artifacts {
            Ok(mut artifacts) => {
                self.make(vec![(label, &mut artifacts)], None);
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
            Err(Unlistable::NotOffered(reason)) => listing.leave_out(label, Skipped::whole(reason)),
            Err(Unlistable::Failed(error)) => return Err(error),
        }
        let mut room = MAX_OF_LISTING;
        let mut not_read = Vec::new();
        for subject in subjects {
            let attached = self.attached(subject, |manifest, attached| {
                let recognised = Recognised {
                    offers: artifact::titled(&attached),
                    ..Recognised::default()
                };
                let mut artifact = Artifact {
                    manifest,
                    architecture: None,
                    is_of_index: false,
                    flavour: None,
                    version: None,
                    recognised,
                };
                artifact.condense(&self.naming);
                match room.checked_sub(artifact.weight()) {
                    Some(left) => {
                        pool::for_listing(artifact.weight(), name)?;
                        room = left;
                        listing.add(&self.naming, label, vec![artifact]);
                    }
                    None => {
                        let why = format!("attached {manifest}: {}", no_room().line());
                        listing.leave_out(label, Skipped::whole(why));
                    }
                }
                Ok(())
            });
            match attached {
                Ok(reasons) => not_read.extend(reasons),
                // A mirror stands in for the registry. The files of the artifact itself are known.
                Err(error @ Error::NoneAttachedAtMirror { .. }) => {
                    listing.leave_unanswered(label, error.line());
                    listing.incomplete = Some(Incomplete {
                        unanswered: 0,
                        tags: 1,
                        lacks_attached: true,
                    });
                }
                Err(error) => return Err(error),
            }
        }
        for reason in not_read {
            listing.leave_out(label, Skipped::whole(reason));
        }
        // It is one artifact: without a part of it there is no directory.
        let unanswered = self.leave_out_incompatible(&mut listing)?;
        match unanswered.into_iter().find_map(|one| one.error) {
            Some(error) => Err(error),
            None => Ok((listing, release)),
        }
    }

    /// Does something with each manifest that is attached to one. That there are none is the rule. Returns why some
    /// of them are not read.
    pub fn attached(
        &self,
        subject: Digest,
        mut visit: impl FnMut(Digest, Image) -> Result<()>,
    ) -> Result<Vec<String>> {
        let mut not_read = Vec::new();
        let attached: Vec<_> = {
            let _documents = pool::documents();
            let descriptors = self.source.referrers(subject)?;
            if descriptors.len() > MAX_ATTACHED {
                not_read.push(format!(
                    "{} artifacts are attached to {subject}, at most {MAX_ATTACHED} are read",
                    descriptors.len()
                ));
            }
            let first = descriptors.iter().take(MAX_ATTACHED);
            first.map(|descriptor| descriptor.digest).collect()
        };
        for digest in attached {
            match self.named(digest) {
                // A list of them is anybody's word; the manifest's own is checked by its digest.
                Ok(Manifest::Image(image)) if image.subject == Some(subject) => {
                    visit(digest, image)?;
                }
                Ok(_) => debug!("{digest} is not attached to {subject}"),
                Err(error) if error.finding() == Finding::Answer => {
                    not_read.push(format!("attached {digest}: {}", error.line()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(not_read)
    }

    /// Asks for one tag, and takes room for what it leads to.
    fn ask(&self, tag: &Tag, before: Option<Digest>, room: &ListingRoom) -> Asked {
        let _documents = pool::documents();
        let found = self
            .place(|| format!("tag {tag} of {}", self.source.name()))
            .and_then(|place| Ok((self.by_tag(tag, before)?, place)));
        let ((digest, manifest), _place) = match found {
            Ok(found) => found,
            Err(error) => {
                return Asked {
                    digest: None,
                    result: Err(error),
                };
            }
        };
        let outcome = match self.artifacts(digest, manifest) {
            Ok(artifacts) => Ok(artifacts),
            Err(Unlistable::NotOffered(reason)) => Err(listing::shortened(reason)),
            Err(Unlistable::Failed(error)) => {
                return Asked {
                    digest: Some(digest),
                    result: Err(error),
                };
            }
        };
        let fits = self.fit(&outcome, room);
        Asked {
            digest: Some(digest),
            result: fits.map(|()| outcome),
        }
    }

    /// Takes room for what a tag leads to. An error where its listing has none, or all listings together.
    fn fit(&self, outcome: &Outcome, room: &ListingRoom) -> Result<()> {
        let weight = match outcome {
            Ok(artifacts) => artifacts.iter().map(Artifact::weight).sum(),
            Err(reason) => reason.len(),
        };
        let take = |left: usize| left.checked_sub(weight);
        if room.left.fetch_update(Relaxed, Relaxed, take).is_err() {
            return Err(no_room());
        }
        let held = self.room.hold("a listing", weight)?;
        lock(&room.held).push(held);
        Ok(())
    }

    fn artifacts(&self, digest: Digest, manifest: Manifest) -> Result<Vec<Artifact>, Unlistable> {
        let (mut room, mut reasons) = (MAX_OF_TAG, Reasons::default());
        let (mut artifacts, skipped) = self.visit_images(digest, manifest, |resolved| {
            let mut artifact = self.artifact(resolved)?;
            reasons.extend(mem::take(&mut artifact.recognised.skipped));
            artifact.condense(&self.naming);
            room = room.checked_sub(artifact.weight()).ok_or_else(|| {
                let limit = MAX_OF_TAG >> 20;
                Unlistable::NotOffered(format!(
                    "it offers so many files that they take more than {limit} MiB of memory"
                ))
            })?;
            Ok(artifact)
        })?;
        reasons.extend(skipped);
        // Some belong to no artifact: the first one has them all.
        if let Some(first) = artifacts.first_mut() {
            first.recognised.skipped = reasons.told();
        }
        Ok(artifacts)
    }

    /// The image manifests that a reference leads to, for the machines that files are offered for.
    pub fn images(&self, reference: Reference<'_>) -> Result<Vec<Resolved>> {
        let (digest, manifest) = self.promising(|| self.by_reference(reference))?;
        let found = self.visit_images(digest, manifest, |mut resolved| {
            if let (Reference::Tag(tag), true) = (reference, resolved.is_direct) {
                resolved.annotations = self.source.annotations(tag);
            }
            Ok(resolved)
        });
        found
            .map(|(images, _)| images)
            .map_err(|unlistable| not_offered(reference, unlistable))
    }

    /// What one of them offers.
    pub fn offered(&self, reference: Reference<'_>, image: &Image) -> Result<Recognised> {
        let recognised = self.recognise(image, None);
        recognised.map_err(|unlistable| not_offered(reference, unlistable))
    }

    /// What a manifest offers, if it is for a machine that files are offered for.
    ///
    /// `known`: what it is for, as far as its index says.
    fn recognise(
        &self,
        image: &Image,
        known: Option<Architecture>,
    ) -> Result<Recognised, Unlistable> {
        let config = match &image.config {
            Some(config) if artifact::needs_config(image) && config.size <= MAX_CONFIG => {
                Some(self.small_blob("config", config)?)
            }
            Some(config)
                if artifact::is_container(image)
                    && known.is_none()
                    && (NO_CONFIG + 1..=MAX_CONFIG).contains(&config.size) =>
            {
                match self.small_blob("config", config) {
                    Ok(config) => Some(config),
                    // It may say nothing of that.
                    Err(Error::Missing { .. } | Error::BadLayout { .. }) => None,
                    Err(error) => return Err(error.into()),
                }
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
                let offered = platform::join(self.architectures);
                let reason = format!("it says it is for {found}, offered is {offered}");
                Err(Unlistable::NotOffered(reason))
            }
            _ => Ok(recognised),
        }
    }

    /// The files that an image manifest offers.
    fn artifact(&self, resolved: Resolved) -> Result<Artifact, Unlistable> {
        let Resolved {
            image,
            architecture,
            ..
        } = &resolved;
        let recognised = self.recognise(image, *architecture)?;
        let template = self.naming.template;
        let known = match architecture {
            None if template.is_some_and(|template| template.wants_arch()) => {
                self.architecture_of(image)?
            }
            known => *known,
        };
        let version = artifact::version(&image.annotations).map(str::to_owned);
        Ok(Artifact {
            manifest: resolved.digest,
            architecture: known.or(recognised.only_for),
            is_of_index: resolved.is_of_index,
            flavour: resolved.flavour,
            version: version.or(resolved.version),
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

fn not_offered(reference: Reference<'_>, unlistable: Unlistable) -> Error {
    match unlistable {
        Unlistable::NotOffered(why) => Error::NotOffered {
            what: match reference {
                Reference::Tag(tag) => format!("tag {tag}"),
                Reference::Digest(digest) => format!("manifest {digest}"),
            },
            why,
        },
        Unlistable::Failed(error) => error,
    }
}

/// The memory of one listing while it is made.
struct ListingRoom {
    /// In bytes.
    left: AtomicUsize,
    held: Mutex<Vec<Held>>,
}

impl Default for ListingRoom {
    fn default() -> Self {
        Self {
            left: AtomicUsize::new(MAX_OF_LISTING),
            held: Mutex::default(),
        }
    }
}

fn no_room() -> Error {
    Error::ListingFull {
        limit: MAX_OF_LISTING,
    }
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

/// Counts the requests in a row that the registry turned away, whatever was asked for.
#[derive(Default)]
struct Failures(AtomicUsize);

impl Failures {
    /// After what came of one more request: is it of no use to ask for anything else?
    fn are_too_many(&self, error: Option<&Error>) -> bool {
        let is_turned_away = matches!(
            error,
            Some(
                Error::Unreachable { .. }
                    | Error::Busy { .. }
                    | Error::NoToken { .. }
                    | Error::NoLogin { .. }
                    | Error::LoginRefused { .. }
                    | Error::BadLogin { .. }
            )
        );
        if !is_turned_away {
            self.0.store(0, Relaxed);
            return matches!(error, Some(Error::ClientGone));
        }
        self.0.fetch_add(1, Relaxed) + 1 >= MAX_TURNED_AWAY
    }
}

/// In seconds since 1970.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}
