//! A repository's tags → their manifests → the files on offer.
//!
//! ```text
//! signed_list              the publisher's own list, if there is one
//! tags                     asks for every tag; a tag is skipped by its name here
//! manifests                a tag or digest → a manifest, an index → the manifests in it
//! signatures               whether a manifest is signed as the settings ask
//! artifacts                a manifest → the files that it offers
//! schedules                leaves out what is not offered to this machine yet
//! make                     the files that have to be made first
//! compatible               leaves out what this machine would not merge
//! complete, unfinished     whether the listing may lack tags, and where the next one goes on
//! immutable_tags           the digests that tags keep
//! metadata                 the extension-release of one file
//! indexes                  the index of the chunks of one file
//! reuse, wrong_plans       the plan by which it is put together of older versions
//! ```

mod artifacts;
mod compatible;
mod complete;
mod immutable_tags;
mod indexes;
mod make;
mod manifests;
mod metadata;
mod reuse;
mod schedules;
mod signatures;
mod signed_list;
mod tags;
mod unfinished;
mod wrong_plans;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use log::debug;

use crate::artifact::kubesolo::Release;
use crate::artifact::{self, Recognised, Skipped};
use crate::cache::Cache;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::flatten::Flattener;
use crate::listing::{Artifact, Incomplete, LeftOut, Listing, Naming};
use crate::manifest::{Image, Manifest};
use crate::memory::Room;
use crate::name::{RepositoryAddress, Tag};
use crate::platform::Architecture;
use crate::pool;
use crate::rollout::RolloutSetting;
use crate::semaphore::{Permit, Share};
use crate::settings::SignedListTag;
use crate::source::{Expected, Reference, Source};
use crate::state::State;
use crate::trust::{self, Accepted, Requirement};
use crate::wanted::Wanted;

use complete::Unanswered;
pub use immutable_tags::ImmutableTags;
pub use manifests::Resolved;
pub use signatures::Trust;
pub use signed_list::{Signed, SignedBefore};
use tags::{MAX_OF_LISTING, Outcomes, TagOutcome, no_room};
pub use unfinished::Unfinished;
pub use wrong_plans::WrongPlans;

/// Attached artifacts read for one.
const MAX_ATTACHED: usize = 64;

/// One repository to be listed.
pub struct Resolver<'a> {
    /// Where its artifacts come from.
    pub source: &'a Arc<dyn Source>,
    /// The cache for documents; `None` for a source that is on disk itself.
    pub cache: Option<&'a Cache>,
    /// Promises and notes about it.
    pub state: &'a State,
    /// Its name in the URL and in the settings.
    pub address: &'a RepositoryAddress,
    /// The names of its files.
    pub naming: Naming<'a>,
    /// The architectures that an index offers.
    pub architectures: &'a [Architecture],
    /// The suffix that the settings give every layer.
    pub suffix: Option<&'a str>,
    /// The queue of images to be flattened.
    pub flattener: &'a Flattener,
    /// The number of versions that are flattened before anybody asks for them.
    pub flatten: usize,
    /// The digests of its tags, if they must not change.
    pub immutable_tags: Option<ImmutableTags<'a>>,
    /// The versions that are listed; `None`: all.
    pub wanted: Option<&'a Wanted>,
    /// Its part in rollouts; `None`: schedules do not count.
    pub rollout: Option<RolloutSetting>,
    /// The tag of its publisher's own list.
    pub signed_list: &'a SignedListTag,
    /// That list, if it was found before.
    pub signed_before: SignedBefore,
    /// Memory for the listing.
    pub room: &'a dyn Room,
    /// Requests at once.
    pub parallel: usize,
    /// The permits for them.
    pub requests: Share<'a>,
    /// The tags that were answered in listings that could not be finished.
    pub unfinished: &'a Unfinished,
    /// Only extensions that this machine's systemd would merge are listed.
    pub compatible_only: bool,
    /// The signatures that its manifests must have.
    pub requirement: Requirement,
    /// The files that are not put together of older ones.
    pub wrong_plans: &'a Arc<WrongPlans>,
    /// All its tags that belong to other manifests, once they are known.
    pub companions: OnceLock<BTreeSet<Tag>>,
}

/// The listing of a repository.
pub enum Contents {
    /// The files that its tags lead to.
    Files(Listing),
    /// A list that its publisher wrote and signed.
    Signed(Signed),
}

impl Resolver<'_> {
    /// Its tags, sorted.
    pub fn tags(&self) -> Result<Vec<Tag>> {
        let mut tags = self.source.tags()?;
        tags.sort();
        tags.dedup();
        Ok(tags)
    }

    /// The digests of the tags at an earlier listing.
    fn known_tags(&self) -> BTreeMap<Tag, Digest> {
        let known = self.cache.map(|cache| cache.tags(&self.source.name()));
        known.unwrap_or_default()
    }

    /// Lists the files that the tags lead to now.
    pub fn list(&self) -> Result<Listing> {
        let known = self.known_tags();
        let ahead = self.expect(&known);
        let tags = self.tags_with(ahead.as_ref())?;
        self.list_tags(tags, &known)
    }

    /// The connections for asking for each tag, as many as there were tags last time; at the first listing, all that may
    /// be used at once. Under `immutable-tags` tags that are known are not asked for.
    fn expect(&self, known: &BTreeMap<Tag, Digest>) -> Option<Expected> {
        let requests = match known.len() {
            0 => self.parallel,
            known => known.min(self.parallel),
        };
        let asks_for_each = known.is_empty() || self.immutable_tags.is_none();
        let is_worth_it = requests > 1 && asks_for_each;
        is_worth_it.then(|| self.source.expect(requests)).flatten()
    }

    /// Its tags. Later requests do not open connections ahead.
    fn tags_with(&self, ahead: Option<&Expected>) -> Result<Vec<Tag>> {
        let tags = self.tags()?;
        if let Some(ahead) = ahead {
            ahead.is_answered();
        }
        Ok(tags)
    }

    /// Lists the files that these tags lead to now. `before`: their digests at an earlier listing.
    ///
    /// A tag that is bad is left out with its reason. A listing that lacks tags because they were not answered may be
    /// an error: see [`complete`].
    fn list_tags(&self, mut tags: Vec<Tag>, before: &BTreeMap<Tag, Digest>) -> Result<Listing> {
        let mut listing = Listing::default();
        // A mirror's list may lack some.
        if self.source.tags_are_its_own() {
            let companions = tags.iter().filter(|tag| tag.is_of_a_referrer());
            let _ = self.companions.set(companions.cloned().collect());
        }
        tags.retain(|tag| {
            let by_name = || tags::skipped_by_name(tag).map(Skipped::whole);
            let unwanted = || self.wanted?.why_not(tag).map(Skipped::held);
            let skipped = by_name().or_else(unwanted);
            let skipped = skipped.map(|why| listing.leave_out(LeftOut::new(tag, why)));
            skipped.is_none()
        });
        self.promising(|| {
            let Outcomes {
                mut by_tag,
                held: _held,
            } = self.outcomes(&tags, before)?;
            self.hold_back(&mut by_tag, &mut listing);
            let offered = by_tag.iter_mut();
            let offered = offered.filter_map(|(tag, outcome)| match outcome {
                TagOutcome::Offered(artifacts) => Some((*tag, artifacts)),
                _ => None,
            });
            self.make(offered.collect(), Some(self.flatten));
            let mut unanswered = Vec::new();
            for (tag, outcome) in by_tag {
                match outcome {
                    TagOutcome::Offered(artifacts) => listing.add(&self.naming, tag, artifacts),
                    TagOutcome::LeftOut(left_out) => listing.leave_out(left_out),
                    TagOutcome::Refused(error) => {
                        unanswered.push(Unanswered::new(tag, Some(error)));
                    }
                    TagOutcome::Unanswered(error) => unanswered.push(Unanswered::new(tag, error)),
                }
            }
            for (digest, why) in self.source.untagged() {
                let skipped = LeftOut::new(&Tag::of_digest(&digest), Skipped::refused(why));
                listing.leave_out(skipped.of(digest));
            }
            unanswered.extend(self.leave_out_incompatible(&mut listing)?);
            self.conclude(tags.len(), listing, unanswered)
        })
    }

    /// A place among the requests of all listings. What lies on this machine needs none.
    fn place(&self, what: impl Fn() -> String) -> Result<Option<Permit<'_>>> {
        let is_remote = self.cache.is_some();
        is_remote.then(|| self.requests.acquire(what)).transpose()
    }

    /// One artifact as a directory: its files, and those attached to it.
    ///
    /// `label` stands for its version where it notes none: its tag, or a part of its digest.
    pub fn view(
        &self,
        reference: Reference<'_>,
        label: &Tag,
    ) -> Result<(Listing, Option<Release>)> {
        let name = || format!("{label} of {}", self.source.name());
        let tag = match reference {
            Reference::Tag(tag) => Some(tag),
            Reference::Digest(_) => None,
        };
        let (digest, artifacts) = pool::with_documents(name, || {
            let found = self.promising(|| self.by_reference(reference));
            let found = found.map(|(digest, manifest)| {
                let artifacts = self.artifacts(digest, manifest, tag);
                (digest, artifacts)
            });
            let weight = match &found {
                Ok((_, Ok(artifacts))) => artifacts.iter().map(Artifact::weight).sum(),
                _ => 0,
            };
            (found, weight)
        })??;
        let (mut listing, mut release) = (Listing::default(), None);
        let mut subjects = vec![digest];
        match artifacts {
            Ok(mut artifacts) => {
                self.make(vec![(label, &mut artifacts)], None);
                let manifests = artifacts.iter().map(|one| one.manifest);
                subjects.extend(manifests.filter(|one| *one != digest));
                let mut releases = artifacts.iter().map(|one| &one.recognised.kubesolo);
                release = releases.find_map(Clone::clone);
                listing.add(&self.naming, label, artifacts);
            }
            Err(why) => listing.leave_out(LeftOut::new(label, why.skipped()?).of(digest)),
        }
        let mut room = MAX_OF_LISTING;
        let mut not_read = Vec::new();
        for subject in subjects {
            let attached = self.attached(subject, |manifest, attached, accepted| {
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
                    accepted,
                    schedule: None,
                    recognised,
                };
                artifact.condense(&self.naming);
                let Some(left) = room.checked_sub(artifact.weight()) else {
                    let why = format!("attached {manifest}: {}", no_room().line());
                    listing.leave_out(LeftOut::new(label, Skipped::whole(why)).of(manifest));
                    return Ok(());
                };
                pool::for_listing(artifact.weight(), name)?;
                room = left;
                listing.add(&self.naming, label, vec![artifact]);
                Ok(())
            });
            match attached {
                Ok(reasons) => not_read.extend(reasons),
                // A mirror stands in for the registry. The files of the artifact itself are known.
                Err(error @ Error::NoneAttachedAtMirror { .. }) => {
                    let unanswered = Skipped::unanswered(error.line());
                    listing.leave_out(LeftOut::new(label, unanswered).of(digest));
                    listing.incomplete = Some(Incomplete {
                        unanswered: 0,
                        tags: 1,
                        lacks_attached: true,
                    });
                }
                Err(error) => return Err(error),
            }
        }
        for why in not_read {
            listing.leave_out(LeftOut::new(label, Skipped::refused(why)));
        }
        // It is one artifact: without a part of it there is no directory.
        let unanswered = self.leave_out_incompatible(&mut listing)?;
        match unanswered.into_iter().find_map(|one| one.error) {
            Some(error) => Err(error),
            None => Ok((listing, release)),
        }
    }

    /// Visits each manifest that is attached to one, with the signatures by which it was accepted; most have none.
    /// Returns a reason for each that is not read.
    pub fn attached(
        &self,
        subject: Digest,
        mut visit: impl FnMut(Digest, Image, Option<Arc<Accepted>>) -> Result<()>,
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
                // Anybody could have written the list of referrers; the manifest's own word has its digest.
                Ok(Manifest::Image(image)) if image.subject == Some(subject) => {
                    let is_signature = !trust::parts(&image).is_empty();
                    if is_signature {
                        continue;
                    }
                    match self.trust(digest, None) {
                        Ok(Trust::NotAsked) => visit(digest, image, None)?,
                        Ok(Trust::Accepted(accepted)) => visit(digest, image, Some(accepted))?,
                        Ok(Trust::Refused(why)) => {
                            not_read.push(format!("attached {digest}: {why}"))
                        }
                        Err(error) => return Err(error),
                    }
                }
                Ok(_) => debug!("{digest} is not attached to {subject}"),
                Err(error) if error.is_answer_about_a_part() => {
                    not_read.push(format!("attached {digest}: {}", error.line()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(not_read)
    }
}
