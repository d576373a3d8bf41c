//! Snapshots of directories: a listing and the sources of its files at one moment, kept for a while.
//!
//! A file that was listed is served as it was listed, though its tag may have moved since. So a file is looked up
//! in the newest listing given out, then in older ones (`promised.rs`). A listing is made anew when it is older than
//! `listing-ttl-sec`. A name that is in none of them causes one new listing, at most once in `listing-ttl-sec`.
//!
//! A publisher's list and its signature come from one snapshot (`pairs.rs`). The state of a directory is in `slot.rs`.
//! `making.rs` makes a listing, `stored.rs` keeps promises for the next process, `forgetting.rs` makes room in memory, and
//! `files.rs` and `reuse.rs` have what is done with a single file.

mod changes;
mod files;
mod forgetting;
mod forms;
mod freshness;
mod health;
mod making;
mod newest;
mod pairs;
mod promised;
mod reuse;
mod signing;
mod slot;
mod stored;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::civil::Date;

use crate::address::{Directory, Located};
use crate::artifact::kubesolo::Release;
use crate::cache::Cache;
use crate::delta::seeds::Places;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::flatten::Flattener;
use crate::listing::{File, Listing};
use crate::lock::lock;
use crate::memory::{Held, KEPT, Memory};
use crate::name::FileName;
use crate::openpgp::MachineKey;
use crate::platform::Architecture;
use crate::resolve::{Signed, Unfinished, WrongPlans};
use crate::settings::{Blobs, Settings};
use crate::source::{Source, Upstream};
use crate::state::State;
use crate::sysupdate;
use crate::task;
use forms::Forms;
pub use health::Health;
use pairs::{Half, Step};
use slot::{Need, Slot, Taken};

/// Longest time for a listing, for a file to be made, and for the first bytes of a file. systemd-pull gives
/// up after 60 s without a byte.
pub const TIME_LIMIT: Duration = Duration::from_secs(40);
/// Directories remembered at once. Beyond that one that nobody is using is forgotten for each new one.
const MAX_DIRECTORIES: usize = 256;

/// Listings and pages are written one at a time, for the memory that takes.
static WRITING: Mutex<()> = Mutex::new(());

/// A directory at one moment.
pub struct Snapshot {
    /// Its files, unless a publisher signed a list of them, and the tags that are skipped.
    pub listing: Listing,
    /// The sources of its files; [`File::source`] is an index into them.
    pub sources: Vec<Arc<dyn Source>>,
    /// The list as its publisher wrote and signed it, if there is one.
    pub signed: Option<Signed>,
    /// The key of this machine, if it is to sign the list; or the reason why it cannot.
    machine_key: Option<Result<Arc<MachineKey>>>,
    /// The release of KubeSolo OS that the directory is, if it is one.
    pub kubesolo: Option<Release>,
    /// How clients get the files.
    pub blobs: Blobs,
    /// The moment of the next turn in a rollout. From then on it is out of date.
    next_turn: Option<Timestamp>,
    /// The date until which it is fresh, if the settings limit that.
    best_before: Option<Date>,
    /// Whether it is of an older listing: its repositories have to show again that they hold its files.
    is_older: bool,
    begun: Instant,
    /// The forms in which clients get it.
    forms: Forms,
    /// The memory that its files take.
    _held: Option<Held>,
}

/// Two snapshots are the same only if they are one.
impl PartialEq for Snapshot {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Snapshot {
    /// A file of an unsigned listing.
    fn new(listing: Listing, sources: Vec<Arc<dyn Source>>, blobs: Blobs, begun: Instant) -> Self {
        let turns = listing.left_out.iter().filter_map(|one| one.until);
        Self {
            next_turn: turns.min(),
            listing,
            sources,
            signed: None,
            machine_key: None,
            kubesolo: None,
            blobs,
            best_before: None,
            is_older: false,
            begun,
            forms: Forms::default(),
            _held: None,
        }
    }

    /// Whether it has a file of this name.
    pub fn has(&self, name: &FileName) -> bool {
        self.file(name).is_some()
    }

    /// The file of this name.
    pub fn file(&self, name: &FileName) -> Option<Cow<'_, File>> {
        match &self.signed {
            Some(Signed { list, accepted, .. }) => {
                list.get(name, accepted.as_ref()).map(Cow::Owned)
            }
            None => self.listing.files.get(name).map(Cow::Borrowed),
        }
    }

    /// The time since it was begun.
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Whether a turn in a rollout has come since it was taken.
    fn is_overtaken(&self) -> bool {
        self.next_turn.is_some_and(|turn| turn <= Timestamp::now())
    }

    /// The number of its files.
    pub fn len(&self) -> usize {
        match &self.signed {
            Some(signed) => signed.list.len(),
            None => self.listing.files.len(),
        }
    }

    /// All its files, sorted by name.
    pub fn files(&self) -> Box<dyn Iterator<Item = (Cow<'_, FileName>, Cow<'_, File>)> + '_> {
        match &self.signed {
            Some(Signed { list, accepted, .. }) => {
                let files = list.files(accepted.as_ref());
                Box::new(files.map(|(name, file)| (Cow::Owned(name), Cow::Owned(file))))
            }
            None => {
                let files = self.listing.files.iter();
                Box::new(files.map(|(name, file)| (Cow::Borrowed(name), Cow::Borrowed(file))))
            }
        }
    }

    /// The source of a file.
    pub fn source_of(&self, file: &File) -> &Arc<dyn Source> {
        &self.sources[file.source]
    }
}

/// A directory, and its state.
struct Found<'a> {
    located: &'a Located,
    slot: Arc<Slot>,
}

/// The snapshots of all directories.
pub struct Snapshots {
    settings: Settings,
    /// The digest of the settings: promises bind only under the same ones.
    made_by: Digest,
    architectures: Vec<Architecture>,
    cache: Arc<Cache>,
    state: Arc<State>,
    flattener: Flattener,
    upstream: Arc<Upstream>,
    memory: &'static Memory,
    seeds: Places,
    /// The key of this machine, if the settings ask for its signature anywhere; or the reason why it cannot sign.
    machine_key: Option<Result<Arc<MachineKey>>>,
    unfinished: Unfinished,
    wrong_plans: Arc<WrongPlans>,
    directories: Mutex<HashMap<Directory, Arc<Slot>>>,
    /// New clients are served by other settings.
    is_retired: AtomicBool,
}

impl Snapshots {
    /// Nothing is asked or read yet. `cache`: the directory to keep documents in.
    pub fn new(
        settings: Settings,
        upstream: Arc<Upstream>,
        cache: Option<PathBuf>,
        state: Arc<State>,
    ) -> Self {
        let cache = Arc::new(Cache::new(cache, settings.cache_size));
        Self {
            upstream,
            made_by: Digest::of(format!("{settings:?}").as_bytes()),
            architectures: Architecture::of_this_machine().into_iter().collect(),
            flattener: Flattener::new(cache.clone(), settings.cache_size),
            seeds: Places::of_service(&sysupdate::usual_name(), &settings.hosts),
            cache,
            wrong_plans: Arc::new(WrongPlans::new(state.clone())),
            state,
            settings,
            memory: &KEPT,
            machine_key: None,
            unfinished: Unfinished::default(),
            directories: Mutex::default(),
            is_retired: AtomicBool::new(false),
        }
    }

    /// The same for a service that listens at this address: its seeds are those of transfer files that name it.
    pub fn at(self, address: SocketAddr) -> Self {
        let service = sysupdate::name_of(address);
        let seeds = service.map(|service| Places::of_service(&service, &self.settings.hosts));
        Self {
            seeds: seeds.unwrap_or(self.seeds),
            ..self
        }
    }

    /// The same with the key of this machine, or with the reason why it cannot sign.
    pub fn signing(self, machine_key: Option<Result<Arc<MachineKey>>>) -> Self {
        Self {
            machine_key,
            ..self
        }
    }

    /// The directory's listing, which from then on is promised.
    pub fn listing(&self, located: &Located) -> Result<Arc<Snapshot>> {
        let found = self.find(located);
        let snapshot = self.refresh(&found, &Need::List)?;
        self.promise(&found, &snapshot)?;
        Ok(snapshot)
    }

    /// The same for `SHA256SUMS`. `is_sent`: the client gets the list itself, rather than only its head.
    pub fn list(&self, located: &Located, is_sent: bool) -> Result<Arc<Snapshot>> {
        let found = self.find(located);
        let snapshot = self.half(&found, Half::List, &Need::List, |_| is_sent)?;
        self.promise(&found, &snapshot)?;
        Ok(snapshot)
    }

    /// The snapshot whose list a signature belongs to. `has_it`: it has the signature in this form. `is_sent`: the
    /// client gets that itself, rather than only its head.
    pub fn of_signature(
        &self,
        located: &Located,
        has_it: impl Fn(&Snapshot) -> bool,
        is_sent: bool,
    ) -> Result<Arc<Snapshot>> {
        let is_sent = |snapshot: &Snapshot| is_sent && has_it(snapshot);
        let need = Need::Signature(&has_it);
        self.half(&self.find(located), Half::Signature, &need, is_sent)
    }

    /// The snapshot for a list or a signature: that of the other half if a client may be waiting for this one.
    fn half(
        &self,
        found: &Found<'_>,
        half: Half,
        need: &Need<'_>,
        is_sent: impl Fn(&Snapshot) -> bool,
    ) -> Result<Arc<Snapshot>> {
        let (asked, ttl) = (Instant::now(), self.settings.listing_ttl);
        let slot = &found.slot;
        let (mut taken, mut pairs) = (None, lock(&slot.pairs));
        loop {
            let current = match taken.clone() {
                None => slot.newest_for(need, asked, ttl).transpose()?,
                taken => taken,
            };
            let now = Instant::now();
            match pairs.step(half, current.as_ref(), asked, now) {
                Step::Answer(snapshot) => {
                    if snapshot.has_pair() && is_sent(&snapshot) {
                        pairs.answered(half, &snapshot, now);
                        slot.answered.notify_all();
                    }
                    return Ok(snapshot);
                }
                Step::Wait(time) => {
                    task::check(|| found.located.to_string())?;
                    pairs = task::wait_a_moment(&slot.answered, pairs, time);
                }
                Step::Renew => {
                    drop(pairs);
                    taken = Some(self.refresh(found, need)?);
                    pairs = lock(&slot.pairs);
                }
            }
        }
    }

    /// The newest snapshot that was promised and has one of these files. Where none has, a new one, whatever that has.
    /// `beside`: other files that are wanted of it.
    pub fn having(
        &self,
        located: &Located,
        names: &[&FileName],
        beside: &[FileName],
    ) -> Result<Arc<Snapshot>> {
        let found = self.find(located);
        let has_it = |snapshot: &Snapshot| names.iter().any(|name| snapshot.has(name));
        let promised = lock(&found.slot.promised).newest();
        if let Some(promised) = promised.filter(|promised| has_it(promised)) {
            return Ok(promised);
        }
        let all: Vec<_> = names.iter().copied().chain(beside).collect();
        match self.older(&found, &all)? {
            Some(older) if has_it(&older) => Ok(Arc::new(older)),
            _ => self.refresh(&found, &Need::Name(&has_it)),
        }
    }

    /// Finds the state of a directory.
    fn find<'a>(&self, located: &'a Located) -> Found<'a> {
        let directory = &located.directory;
        let mut directories = lock(&self.directories);
        if directories.len() >= MAX_DIRECTORIES && !directories.contains_key(directory) {
            let is_idle = |slot: &Arc<Slot>| Arc::strong_count(slot) == 1 && !slot.has_open_pair();
            let idle = directories.iter().filter(|(_, slot)| is_idle(slot));
            if let Some((oldest, _)) = idle.min_by_key(|(_, slot)| slot.given()) {
                let oldest = oldest.clone();
                directories.remove(&oldest);
            }
        }
        let slot = directories.entry(directory.clone()).or_default().clone();
        *lock(&slot.used) = Some(Instant::now());
        Found { located, slot }
    }

    /// The newest result if it will do, else a new one.
    fn refresh(&self, found: &Found<'_>, need: &Need<'_>) -> Result<Arc<Snapshot>> {
        let (located, slot) = (found.located, &found.slot);
        let (asked, ttl) = (Instant::now(), self.settings.listing_ttl);
        let known = || slot.newest_for(need, asked, ttl);
        if let Some(result) = known() {
            return result;
        }
        let _turn = slot.turn.acquire(|| format!("the listing of {located}"))?;
        if let Some(result) = known() {
            return result;
        }
        lock(&slot.newest).is_being_taken = true;
        let begun = Instant::now();
        let result = {
            // A listing that was begun is finished, whoever leaves: it is kept for the next client.
            let (_for_all, _limit) = (task::for_all(), task::within(TIME_LIMIT));
            self.take(found, begun).map(Arc::new)
        };
        let done = Instant::now();
        let mut newest = lock(&slot.newest);
        newest.is_being_taken = false;
        if matches!(need, Need::Name(_)) {
            newest.looked = Some(done);
        }
        let before = newest.taken.replace(Taken {
            begun,
            done,
            result: result.clone(),
        });
        drop(newest);
        if let Ok(snapshot) = &result {
            let before = before.and_then(|before| before.result.ok());
            changes::log(&self.state, &located.directory, snapshot, before.as_deref());
        }
        // The listing was finished for the next client, and is not sent to this one.
        if task::is_client_gone() {
            return Err(Error::ClientGone);
        }
        result
    }

    /// The cache, to be closed when the process ends.
    pub fn cache(&self) -> Arc<Cache> {
        self.cache.clone()
    }

    /// Whether work goes on that nobody may be waiting for.
    pub fn is_busy(&self) -> bool {
        self.flattener.is_busy()
    }
}
