//! What was promised: a repository's listing and where its files come from, kept for a while.
//!
//! A name in a listing that was given out delivers what that listing promised, though the tag may
//! have moved since. So a file is looked up in the newest listing given out, whatever its age (up to
//! [`PROMISE`]), and a listing is made anew when it is older than `listing-ttl-sec`. A name that is
//! not in it causes one new listing.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use log::info;

use crate::architecture::Architecture;
use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::listing::{File, LeftOut, Listing, Naming};
use crate::lock::lock;
use crate::name::{FileName, RepositoryAddress};
use crate::resolve::Resolver;
use crate::settings::{Blobs, Place, RepositorySettings, Settings};
use crate::source::layout::Layout;
use crate::source::{Source, Upstream};

/// How long a listing binds. An update of several large files may take so long between the two.
const PROMISE: Duration = Duration::from_secs(60 * 60);
/// Repositories remembered at once; beyond that those that nobody waits for are forgotten.
const MAX_REPOSITORIES: usize = 256;

/// A repository at one moment.
pub struct Snapshot {
    /// Its files.
    pub listing: Listing,
    /// Where their bytes come from.
    pub source: Box<dyn Source>,
    /// How clients get them.
    pub blobs: Blobs,
    begun: Instant,
}

/// The newest snapshot of each repository.
pub struct Snapshots {
    settings: Settings,
    architectures: Vec<Architecture>,
    cache: Cache,
    upstream: Arc<Upstream>,
    repositories: Mutex<HashMap<RepositoryAddress, Arc<Mutex<Slot>>>>,
}

/// A repository's newest result. It is locked while a new one is made, so that many who ask at once
/// are answered by one listing.
#[derive(Default)]
struct Slot {
    newest: Option<(Instant, Result<Arc<Snapshot>>)>,
    /// The newest one that was given out as a listing.
    promised: Option<Arc<Snapshot>>,
}

impl Snapshots {
    /// Nothing is asked or read yet.
    pub fn new(settings: Settings, upstream: Arc<Upstream>, cache: Option<PathBuf>) -> Self {
        Self {
            upstream,
            architectures: Architecture::of_this_machine().into_iter().collect(),
            cache: Cache::new(cache),
            settings,
            repositories: Mutex::default(),
        }
    }

    /// The repository's listing, which from then on is promised.
    pub fn listing(&self, repository: &RepositoryAddress) -> Result<Arc<Snapshot>> {
        let asked = Instant::now();
        let (place, settings) = self.settings.locate(repository)?;
        let slot = self.slot(repository);
        let mut slot = lock(&slot);
        let ttl = self.settings.listing_ttl;
        let snapshot = self.refresh(
            &mut slot,
            repository,
            &place,
            &settings,
            |begun, is_good| begun >= asked || (is_good && begun.elapsed() < ttl),
        )?;
        slot.promised = Some(snapshot.clone());
        Ok(snapshot)
    }

    /// A file and the snapshot it is in.
    pub fn find(
        &self,
        repository: &RepositoryAddress,
        name: &FileName,
    ) -> Result<(Arc<Snapshot>, File)> {
        let asked = Instant::now();
        let (place, settings) = self.settings.locate(repository)?;
        let slot = self.slot(repository);
        let mut slot = lock(&slot);
        let find = |snapshot: &Arc<Snapshot>| {
            snapshot
                .listing
                .files
                .get(name)
                .map(|file| (snapshot.clone(), file.clone()))
        };
        let promised = slot
            .promised
            .as_ref()
            .filter(|snapshot| snapshot.begun.elapsed() < PROMISE);
        if let Some(found) = promised.and_then(find) {
            return Ok(found);
        }
        let ttl = self.settings.listing_ttl;
        let has_it = match &slot.newest {
            Some((begun, Ok(snapshot))) => begun.elapsed() < ttl && find(snapshot).is_some(),
            _ => false,
        };
        let snapshot = self.refresh(&mut slot, repository, &place, &settings, |begun, _| {
            has_it || begun >= asked
        })?;
        find(&snapshot).ok_or_else(|| Error::NotOffered {
            what: format!("{repository}/{name}"),
            why: match snapshot.listing.files.len() {
                0 => "the repository offers no file at all".into(),
                n => format!("it is none of the {n} files in {repository}/SHA256SUMS"),
            },
        })
    }

    fn slot(&self, repository: &RepositoryAddress) -> Arc<Mutex<Slot>> {
        let mut repositories = lock(&self.repositories);
        if repositories.len() >= MAX_REPOSITORIES {
            repositories.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        repositories.entry(repository.clone()).or_default().clone()
    }

    /// The newest result if it will do (by when it was begun, and whether it is good), else a new one.
    fn refresh(
        &self,
        slot: &mut Slot,
        repository: &RepositoryAddress,
        place: &Place,
        settings: &RepositorySettings,
        will_do: impl Fn(Instant, bool) -> bool,
    ) -> Result<Arc<Snapshot>> {
        if let Some((begun, newest)) = &slot.newest
            && will_do(*begun, newest.is_ok())
        {
            return newest.clone();
        }
        let begun = Instant::now();
        let result = self.take(repository, place, settings, begun).map(Arc::new);
        if let Ok(snapshot) = &result {
            let before = slot
                .newest
                .as_ref()
                .and_then(|(_, newest)| newest.as_ref().ok());
            log_listing(
                repository,
                snapshot,
                before.map(|before| before.listing.left_out.as_slice()),
            );
        }
        slot.newest = Some((begun, result.clone()));
        result
    }

    fn take(
        &self,
        repository: &RepositoryAddress,
        place: &Place,
        settings: &RepositorySettings,
        begun: Instant,
    ) -> Result<Snapshot> {
        let (source, cache): (Box<dyn Source>, _) = match place {
            Place::Layout(path) => (Box::new(Layout::open(path)?), None),
            Place::Registry { host, repository } => {
                (self.upstream.open(host, repository)?, Some(&self.cache))
            }
        };
        let resolver = Resolver {
            source: source.as_ref(),
            cache,
            naming: Naming {
                base: repository.repository.base(),
                template: settings.names.as_ref(),
            },
            architectures: settings
                .architectures
                .as_deref()
                .unwrap_or(&self.architectures),
            immutable_tags: settings.immutable_tags,
            parallel: self.settings.parallel.get(),
        };
        let listing = resolver.list()?;
        Ok(Snapshot {
            listing,
            source,
            blobs: settings.blobs,
            begun,
        })
    }
}

/// One line for the listing, and one for everything left out that was not so in the listing before.
fn log_listing(repository: &RepositoryAddress, snapshot: &Snapshot, before: Option<&[LeftOut]>) {
    let Listing { files, left_out } = &snapshot.listing;
    let known: HashSet<_> = before.unwrap_or_default().iter().collect();
    for one in left_out.iter().filter(|one| !known.contains(one)) {
        info!("{repository}: tag {} left out: {}", one.tag, one.reason);
    }
    let took = snapshot.begun.elapsed().as_millis();
    info!(
        "{repository}: {} files listed in {took} ms from {}",
        files.len(),
        snapshot.source.name()
    );
}
