//! Takes a snapshot: the sources of a directory → their listings by a resolver → one listing.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use jiff::Timestamp;

use super::{Found, Snapshot, Snapshots, TIME_LIMIT, freshness, newest};
use crate::address::{Directory, Located, Place, View};
use crate::error::{Error, Result};
use crate::listing::{Listing, Naming};
use crate::memory::Room;
use crate::name::Tag;
use crate::pool;
use crate::resolve::{Contents, ImmutableTags, Resolver, SignedBefore};
use crate::semaphore::{Semaphore, Share};
use crate::settings::Suffix;
use crate::source::layout::Layout;
use crate::source::{Reference, Source, mirror};
use crate::task;

/// Tags looked up at registries at once for all listings together, beside one for each listing. Each takes a
/// connection, and a process usually has 1024 descriptors: clients, downloads and idle connections need the others.
static REQUESTS: Semaphore = Semaphore::new(128);

impl Snapshots {
    /// Lists a directory.
    pub(super) fn take(&self, found: &Found<'_>, begun: Instant) -> Result<Snapshot> {
        let Found { located, .. } = found;
        let directory = &located.directory;
        let _making = pool::adopt(Some(Arc::new(pool::WORK.grant())));
        let sources = self.sources(located)?;
        let before = found.slot.signed_before();
        let resolver = |n: usize| Resolver {
            signed_before: before.clone(),
            ..self.resolver(located, n, &sources[n])
        };
        let (listing, signed, kubesolo) = match &directory.view {
            View::Tags | View::All if sources.len() > 1 => {
                let mut merged = Listing::default();
                for n in 0..sources.len() {
                    merged.merge(resolver(n).list()?);
                }
                (merged, None, None)
            }
            View::Tags | View::All => match resolver(0).contents()? {
                Contents::Files(listing) => {
                    // A mirror that stands in for the registry promises nothing for it.
                    if sources[0].tags_are_its_own() {
                        let (state, settings) = (&self.state, &self.settings);
                        newest::promise(state, settings, directory, &sources[0].name(), &listing)?;
                    }
                    (listing, None, None)
                }
                Contents::Signed(signed) => {
                    self.may_be_whole(located)?;
                    (Listing::default(), Some(signed), None)
                }
            },
            _ if sources.len() > 1 => return Err(merged(directory)),
            View::Tag(tag) => {
                let (listing, release) = resolver(0).view(Reference::Tag(tag), tag)?;
                (listing, None, release)
            }
            View::Digest(digest) => {
                let label = Tag::of_digest(digest);
                let (listing, release) = resolver(0).view(Reference::Digest(*digest), &label)?;
                (listing, None, release)
            }
        };
        let best_before = match signed {
            Some(_) => None,
            None => freshness::best_before(&self.state, located, &sources, Timestamp::now())?,
        };
        let machine_key = self.key_for(located, &listing, signed.as_ref());
        let held = self.hold(&format!("the listing of {directory}"), listing.weight())?;
        let mut snapshot = Snapshot {
            best_before,
            signed,
            machine_key,
            kubesolo,
            _held: Some(held),
            ..Snapshot::new(listing, sources, located.settings.blobs, begun)
        };
        snapshot.date_if_empty();
        Ok(snapshot)
    }

    /// Fails if a setting leaves out some versions: a list that a publisher signed is given out whole or not at all.
    fn may_be_whole(&self, located: &Located) -> Result<()> {
        let Located {
            directory,
            settings,
            ..
        } = located;
        let compatible_only = settings
            .compatible_only
            .unwrap_or(self.settings.compatible_only);
        let compatible_only = compatible_only.then_some("compatible-only");
        match settings.versions.setting().or(compatible_only) {
            Some(setting) if directory.view == View::Tags => Err(Error::SignedListNotWhole {
                directory: directory.to_string(),
                setting,
            }),
            _ => Ok(()),
        }
    }

    /// Does something with the manifests of a repository, by its settings.
    pub fn with_resolver<T>(
        &self,
        located: &Located,
        work: impl FnOnce(&Resolver<'_>) -> Result<T>,
    ) -> Result<T> {
        if located.places.len() > 1 {
            return Err(merged(&located.directory));
        }
        let source = self.open(&located.places[0].1)?;
        let _limit = task::within(TIME_LIMIT);
        work(&self.resolver(located, 0, &source))
    }

    pub(super) fn resolver<'a>(
        &'a self,
        located: &'a Located,
        n: usize,
        source: &'a Arc<dyn Source>,
    ) -> Resolver<'a> {
        let Located {
            directory,
            places,
            settings,
        } = located;
        Resolver {
            source,
            cache: matches!(places[n].1, Place::Registry { .. }).then_some(&*self.cache),
            state: &self.state,
            address: &directory.repository,
            flattener: &self.flattener,
            flatten: settings.flatten,
            naming: Naming {
                base: &places[n].0,
                template: settings.names.as_ref(),
                source: n,
                keeps_titles: !directory.view.is_of_tags(),
            },
            architectures: settings
                .architectures
                .as_deref()
                .unwrap_or(&self.architectures),
            suffix: settings.suffix.as_ref().map(Suffix::as_str),
            immutable_tags: settings
                .immutable_tags
                .then(|| ImmutableTags::new(&self.state, source.name())),
            wanted: (directory.view == View::Tags).then_some(&settings.versions),
            rollout: (directory.view == View::Tags).then_some(settings.rollout),
            signed_list: &settings.signed_list,
            parallel: self.settings.parallel.get(),
            requests: Share::new(&REQUESTS),
            unfinished: &self.unfinished,
            wrong_plans: &self.wrong_plans,
            compatible_only: settings
                .compatible_only
                .unwrap_or(self.settings.compatible_only),
            signed_before: SignedBefore::default(),
            room: self,
            requirement: located.requirement(&places[n].1, &self.settings),
            companions: OnceLock::new(),
        }
    }

    pub(super) fn sources(&self, located: &Located) -> Result<Vec<Arc<dyn Source>>> {
        let places = located.places.iter();
        places.map(|(_, place)| self.open(place)).collect()
    }

    fn open(&self, place: &Place) -> Result<Arc<dyn Source>> {
        match place {
            Place::Layout(path) => Ok(Arc::new(Layout::open(path)?)),
            Place::Registry { host, repository } => mirror::open(&self.upstream, host, repository),
        }
    }
}

fn merged(directory: &Directory) -> Error {
    Error::NotOffered {
        what: directory.to_string(),
        why: "a merged directory has no artifacts of its own; name one of its sources".to_owned(),
    }
}
