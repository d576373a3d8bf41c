//! The tags of a source → the outcome of each, many at once.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::Resolver;
use super::complete::{self, newest, newest_first};
use crate::artifact::Skipped;
use crate::digest::Digest;
use crate::error::{Error, Finding, Result};
use crate::listing::{Artifact, LeftOut};
use crate::lock::lock;
use crate::manifest::Manifest;
use crate::memory::Held;
use crate::name::Tag;
use crate::parallel::in_parallel;
use crate::pool;
use crate::source::Reference;
use crate::task;

/// Memory that all tags of a listing may take together, in bytes.
pub const MAX_OF_LISTING: usize = 32 << 20;
/// Requests in a row that the registry may turn away before it looks at them. After those it is left alone.
const MAX_TURNED_AWAY: usize = 20;

/// The outcome of asking for one tag.
pub enum TagOutcome {
    /// The artifacts that its manifest leads to.
    Offered(Vec<Artifact>),
    /// There are none: the registry does not have the tag, or nothing in it can be offered.
    LeftOut(LeftOut),
    /// The registry denies it to this login, which is no answer as long as it denies everything.
    Refused(Error),
    /// There was no answer. `None`: it was not asked for, because the time was over or the registry refused everything
    /// before it.
    Unanswered(Option<Error>),
}

impl TagOutcome {
    /// The outcome of asking for a tag that failed. `manifest`: its digest, if that was learnt before.
    fn failed(tag: &Tag, manifest: Option<Digest>, error: Error) -> Self {
        match error.finding() {
            Finding::Answer => {
                let refused = LeftOut::new(tag, Skipped::refused(error.line()));
                Self::LeftOut(refused.of(manifest))
            }
            Finding::Refusal => Self::Refused(error),
            Finding::Passing | Finding::Lasting => Self::Unanswered(Some(error)),
        }
    }

    fn error(&self) -> Option<&Error> {
        match self {
            Self::Offered(_) | Self::LeftOut(_) | Self::Unanswered(None) => None,
            Self::Refused(error) | Self::Unanswered(Some(error)) => Some(error),
        }
    }
}

/// The outcome of each tag, and the memory that they take.
pub struct Outcomes<'t> {
    pub by_tag: BTreeMap<&'t Tag, TagOutcome>,
    pub held: Vec<Held>,
}

/// Why a tag is skipped by its name alone: it is no version.
pub fn skipped_by_name(tag: &Tag) -> Option<&'static str> {
    if tag.is_of_a_referrer() {
        Some("this is the tag of a signature or of referrers, not of a version")
    } else if *tag == Tag::of_listing() {
        Some("this is the tag of a list that its publisher signed, and there is none in it")
    } else {
        None
    }
}

/// One listing while its tags are asked for.
struct Inquiry<'a> {
    /// The digests of the tags at an earlier listing.
    before: &'a BTreeMap<Tag, Digest>,
    /// The digests of the tags whose manifests were had.
    digests: Mutex<BTreeMap<Tag, Digest>>,
    failures: Failures,
    /// The memory that is left, in bytes.
    room: AtomicUsize,
    held: Mutex<Vec<Held>>,
}

impl Inquiry<'_> {
    /// Whether it is useless to ask for anything else after this outcome.
    fn is_hopeless(&self, error: Option<&Error>) -> bool {
        // A password that is refused each time may lock an account.
        let is_of_login = error.is_some_and(is_of_login);
        self.failures.are_too_many(error) || is_of_login && lock(&self.digests).is_empty()
    }
}

fn is_of_login(error: &Error) -> bool {
    matches!(
        error,
        Error::NoLogin { .. } | Error::LoginRefused { .. } | Error::BadLogin { .. }
    )
}

impl Resolver<'_> {
    /// Asks for all these tags, the newest first. An error if no manifest at all was had.
    ///
    /// The digests that were learnt are kept, even if the listing fails: the next try asks only for the rest.
    pub fn outcomes<'t>(
        &self,
        tags: &'t [Tag],
        before: &BTreeMap<Tag, Digest>,
    ) -> Result<Outcomes<'t>> {
        let name = self.source.name();
        let inquiry = Inquiry {
            before,
            digests: Mutex::default(),
            failures: Failures::default(),
            room: AtomicUsize::new(MAX_OF_LISTING),
            held: Mutex::default(),
        };
        let ask_for_all = |tags: &[&'t Tag]| {
            let is_last = |outcome: &TagOutcome| {
                inquiry.is_hopeless(outcome.error()) || task::passed_limit().is_some()
            };
            let ask = |tag: &&Tag| self.ask(tag, &inquiry);
            let outcomes = in_parallel(tags, self.parallel, ask, is_last);
            let outcomes = outcomes.into_iter();
            let outcomes = outcomes.map(|one| one.unwrap_or(TagOutcome::Unanswered(None)));
            tags.iter().copied().zip(outcomes).collect::<Vec<_>>()
        };
        // Immutable tags are promised as they are learnt, and by one address of a source alone.
        let goes_on = self.cache.is_some() && self.immutable_tags.is_none();
        let known = goes_on.then(|| self.unfinished.of(&name));
        let known = known.unwrap_or_default();
        let mut order = newest_first(tags);
        order.sort_by_key(|tag| known.contains_key(*tag)); // stable: the newest first of either
        let mut by_tag: BTreeMap<_, _> = ask_for_all(&order).into_iter().collect();
        if !lock(&inquiry.digests).is_empty() {
            // The refusal may have been the fault of the login, or of the moment. If it came before the first manifest,
            // it kept other tags from being asked for.
            let has_stopped = by_tag
                .values()
                .filter_map(TagOutcome::error)
                .any(is_of_login);
            let is_open = |tag: &&&Tag| match by_tag[**tag] {
                TagOutcome::Refused(_) => true,
                TagOutcome::Unanswered(None) => has_stopped,
                _ => false,
            };
            let open: Vec<_> = order.iter().filter(is_open).copied().collect();
            by_tag.extend(ask_for_all(&open));
        }
        let digests = mem::take(&mut *lock(&inquiry.digests));
        // A mirror that stands in for the registry answers nothing for it.
        if let Some(cache) = self.cache.filter(|_| self.source.tags_are_its_own()) {
            let is_gone = |tag: &Tag| tags.binary_search(tag).is_err();
            let is_new = |(tag, digest): (&Tag, &Digest)| before.get(tag) != Some(digest);
            if digests.iter().any(is_new) || before.keys().any(is_gone) {
                cache.learn_tags(&name, &digests, is_gone);
            }
            if goes_on {
                self.unfinished.note(&name, &digests);
            }
        }
        if digests.is_empty() && !tags.is_empty() {
            return Err(self.nothing_had(&order, &by_tag));
        }
        self.go_on_from(&known, &order, &inquiry, &mut by_tag);
        self.believe_refusals(&digests, &mut by_tag);
        let held = mem::take(&mut *lock(&inquiry.held));
        Ok(Outcomes { by_tag, held })
    }

    /// Asks for one tag, and takes room for its outcome.
    fn ask(&self, tag: &Tag, inquiry: &Inquiry<'_>) -> TagOutcome {
        let _documents = pool::documents();
        let before = inquiry.before.get(tag).copied();
        let mut learnt = None;
        let mut asked = || {
            let _place = self.place(|| format!("tag {tag} of {}", self.source.name()))?;
            let (digest, manifest) = self.by_tag(tag, before)?;
            lock(&inquiry.digests).insert(tag.clone(), digest);
            learnt = Some(digest);
            self.outcome(tag, digest, manifest, inquiry)
        };
        asked().unwrap_or_else(|error| TagOutcome::failed(tag, learnt, error))
    }

    /// The outcome of a tag that is this manifest. An error where the listing has no room for it, or all listings
    /// together.
    fn outcome(
        &self,
        tag: &Tag,
        digest: Digest,
        manifest: Manifest,
        inquiry: &Inquiry<'_>,
    ) -> Result<TagOutcome> {
        let (outcome, weight) = match self.artifacts(digest, manifest, Some(tag)) {
            Ok(artifacts) => {
                let weight = artifacts.iter().map(Artifact::weight).sum();
                (TagOutcome::Offered(artifacts), weight)
            }
            Err(why) => {
                let skipped = LeftOut::new(tag, why.skipped()?).of(digest);
                let weight = skipped.reason.len();
                (TagOutcome::LeftOut(skipped), weight)
            }
        };
        let take = |left: usize| left.checked_sub(weight);
        let room = inquiry.room.fetch_update(Relaxed, Relaxed, take);
        room.map_err(|_| no_room())?;
        let held = self.room.hold("a listing", weight)?;
        lock(&inquiry.held).push(held);
        Ok(outcome)
    }

    /// A tag for which there was no time, or no request, has the outcome of the listing that this one goes on from.
    fn go_on_from(
        &self,
        known: &BTreeMap<Tag, Digest>,
        newest_first: &[&Tag],
        inquiry: &Inquiry<'_>,
        by_tag: &mut BTreeMap<&Tag, TagOutcome>,
    ) {
        let Some(cache) = self.cache else { return };
        let name = self.source.name();
        let known = |tag| Some((tag, known.get(tag)?));
        for (tag, digest) in newest_first.iter().copied().filter_map(known) {
            let Some(outcome @ TagOutcome::Unanswered(_)) = by_tag.get_mut(tag) else {
                continue;
            };
            if complete::has_run_out(outcome.error())
                && cache.has_document(&name, *digest)
                && let Ok(manifest) = self.named(*digest)
                && let Ok(found) = self.outcome(tag, *digest, manifest, inquiry)
            {
                *outcome = found;
            }
        }
    }

    /// A refusal is an answer if the same login still gets another manifest, now that all was asked for.
    fn believe_refusals(
        &self,
        digests: &BTreeMap<Tag, Digest>,
        by_tag: &mut BTreeMap<&Tag, TagOutcome>,
    ) {
        let is_refused = |outcome: &TagOutcome| matches!(outcome, TagOutcome::Refused(_));
        if !by_tag.values().any(is_refused) {
            return;
        }
        let another = newest(digests.keys()).map(Reference::Tag);
        if another.is_none_or(|another| self.source.manifest(another).is_err()) {
            return;
        }
        for (tag, outcome) in by_tag {
            if let TagOutcome::Refused(error) = outcome {
                let refused = LeftOut::new(tag, Skipped::refused(error.line()));
                *outcome = TagOutcome::LeftOut(refused);
            }
        }
    }

    /// Why no manifest was had, though there are tags: the reason of the newest tag without an answer, else of the
    /// newest that was refused, else of the newest.
    fn nothing_had(&self, order: &[&Tag], by_tag: &BTreeMap<&Tag, TagOutcome>) -> Error {
        let source = self.source.name();
        let tags = order.len();
        let outcomes = || order.iter().map(|tag| &by_tag[*tag]);
        let silent = outcomes().filter(|one| matches!(one, TagOutcome::Unanswered(_)));
        match silent
            .chain(outcomes())
            .find_map(TagOutcome::error)
            .cloned()
        {
            Some(error @ Error::TooSlow { .. }) => Error::Incomplete {
                source,
                unanswered: tags,
                tags,
                why: error.line(),
                retry_after: complete::RETRY_AFTER,
            },
            Some(error) => error,
            None => {
                let skipped = order.iter().find_map(|tag| match &by_tag[*tag] {
                    TagOutcome::LeftOut(one) => Some(format!("tag {tag}: {}", one.reason)),
                    _ => None,
                });
                let why = skipped.unwrap_or_else(|| "there was no time for any".to_owned());
                Error::Nonsense {
                    url: source,
                    why: format!("{tags} tags, and no manifest of any of them can be had; {why}"),
                }
            }
        }
    }
}

/// The error for a part of a listing that has no room in it.
pub fn no_room() -> Error {
    Error::ListingFull {
        limit: MAX_OF_LISTING,
    }
}

/// The number of requests in a row that the registry turned away, whatever was asked for.
#[derive(Default)]
pub struct Failures(AtomicUsize);

impl Failures {
    /// Counts one more request. Whether it is useless to ask for anything else.
    pub fn are_too_many(&self, error: Option<&Error>) -> bool {
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
            return false;
        }
        self.0.fetch_add(1, Relaxed) + 1 >= MAX_TURNED_AWAY
    }
}
