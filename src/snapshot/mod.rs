//! Snapshots of directories: a listing and the sources of its files at one moment, kept for a while.
//!
//! A file that was listed is served as it was listed, though its tag may have moved since. So a file is looked up
//! in the newest listing given out, then in older ones (`promised.rs`). A listing is made anew when it is older than
//! `listing-ttl-sec`. A name that is in none of them causes one new listing, at most once in `listing-ttl-sec`.
//!
//! A publisher's list and its signature come from one snapshot (`pairs.rs`). The state of a directory is in `slot.rs`.

mod changes;
mod forms;
mod freshness;
mod health;
mod newest;
mod pairs;
mod promised;
mod reuse;
mod signing;
mod slot;

use std::borrow::Cow;
use std::collections::HashMap;
use std::mem;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::civil::Date;
use log::debug;

use crate::address::{Directory, Located, Place, View};
use crate::artifact::Recipe;
use crate::artifact::kubesolo::Release;
use crate::cache::{Cache, Flattened};
use crate::delta::seeds::{LEAST_SIZE, Places, Seed, Wanted};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::extension_release::Metadata;
use crate::flatten::{FlattenedFile, Flattener};
use crate::listing::{File, Listing, Naming, PublisherList};
use crate::lock::lock;
use crate::memory::{Held, KEPT, Memory, Room};
use crate::name::{FileName, Tag};
use crate::openpgp::MachineKey;
use crate::platform::Architecture;
use crate::pool;
use crate::resolve::{
    Contents, ImmutableTags, Resolver, Signed, SignedBefore, Unfinished, WrongPlans,
};
use crate::semaphore::{Semaphore, Share};
use crate::settings::{Blobs, Settings, Suffix};
use crate::source::layout::Layout;
use crate::source::{Reference, Source, Upstream, mirror};
use crate::state::State;
use crate::sysupdate;
use crate::task;
use forms::Forms;
pub use health::Health;
use pairs::{Half, Step};
use promised::{Clock, Older, Promised, Stored};
use slot::{Need, Slot, Taken};

/// Longest time for a listing, for a file to be made, and for the first bytes of a file. systemd-pull gives
/// up after 60 s without a byte.
pub const TIME_LIMIT: Duration = Duration::from_secs(40);
/// Directories remembered at once. Beyond that one that nobody is using is forgotten for each new one.
const MAX_DIRECTORIES: usize = 256;

/// Longest wait for some memory to be given back.
const MEMORY_WAIT: Duration = Duration::from_secs(10);

/// Most files of one directory whose promise outlives the process. Writing so many down takes some 6 MiB of memory.
/// Only a publisher's list has more in practice, and its bytes are in the cache anyway.
const MAX_STORED: usize = 5_000;

/// Tags looked up at registries at once for all listings together, beside one for each listing. Each takes a
/// connection, and a process usually has 1024 descriptors: clients, downloads and idle connections need the others.
static REQUESTS: Semaphore = Semaphore::new(128);

/// Promises are read or written down one directory at a time, for the memory that takes.
static STORING: Mutex<()> = Mutex::new(());
/// Listings and pages are written one at a time, for the same reason.
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

    /// The older versions of a large file that are on this machine, opened. The newest comes first.
    pub fn seeds(&self, located: &Located, name: &FileName, file: &File) -> Vec<Seed> {
        if file.size.is_none_or(|size| size < LEAST_SIZE) {
            return Vec::new();
        }
        let found = self.seeds.look(&Wanted {
            repository: &located.directory.repository,
            name,
            base: located.base_of(name),
            directories: located.settings.seeds.as_deref(),
        });
        for one in &found.unread {
            debug!("{}: {}, so it is no seed", one.path.display(), one.why);
        }
        found.seeds
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

    /// Promises the files that a snapshot lists, and keeps the promise for the next process.
    fn promise(&self, found: &Found<'_>, snapshot: &Arc<Snapshot>) -> Result<()> {
        let mut promised = lock(&found.slot.promised);
        self.load(&mut promised, found, snapshot.signed.as_ref())?;
        let clock = clock();
        promised.give(snapshot, clock.now);
        if promised.is_to_store(clock.now) {
            let _one_at_a_time = lock(&STORING);
            let stored = promised.store(clock);
            if stored.len() <= MAX_STORED {
                self.cache.keep_listing(self.key(found.located), &stored);
            }
        }
        promised.weigh(self.memory);
        Ok(())
    }

    /// Reads the promises of earlier processes. The list that is `known` need not be read.
    fn load(
        &self,
        promised: &mut Promised,
        found: &Found<'_>,
        known: Option<&Signed>,
    ) -> Result<()> {
        if promised.is_loaded() {
            return Ok(());
        }
        let _one_at_a_time = lock(&STORING);
        let mut older = Older::default();
        if let Some(stored) = self.cache.listing::<Stored>(self.key(found.located)) {
            let sources = self.sources(found.located)?;
            let source = sources.first().map(|source| source.name());
            let list_of = |digest, size| {
                let known = known.map(|signed| &signed.list);
                if let Some(list) = known.filter(|list| list.digest() == digest) {
                    return Some(list.clone());
                }
                let held = self.memory.take(PublisherList::weight(size))?;
                let bytes = self.cache.document(source.as_deref()?, digest, size)?;
                Some(Arc::new(PublisherList::new(digest, bytes, Some(held))))
            };
            older = stored.restore(clock(), list_of);
        }
        promised.load(older, self.memory);
        Ok(())
    }

    /// The files that older listings promised under these names. The repository has to show again that it holds them,
    /// so the sources are opened anew; and whether their manifests are signed as the settings ask is judged again.
    fn older(&self, found: &Found<'_>, names: &[&FileName]) -> Result<Option<Snapshot>> {
        let now = Instant::now();
        let mut files = {
            let mut promised = lock(&found.slot.promised);
            self.load(&mut promised, found, None)?;
            promised.older(names, now)
        };
        if files.is_empty() {
            return Ok(None);
        }
        let sources = self.sources(found.located)?;
        let is_known = |file: &File| file.source < sources.len();
        if !files.values().all(is_known) {
            return Ok(None);
        }
        for (name, file) in mem::take(&mut files) {
            let source = &sources[file.source];
            let resolver = self.resolver(found.located, file.source, source);
            if resolver.still_accepts(&file)? {
                files.insert(name, file);
            }
        }
        let listing = Listing {
            files,
            ..Listing::default()
        };
        Ok(Some(Snapshot {
            is_older: true,
            ..Snapshot::new(listing, sources, found.located.settings.blobs, now)
        }))
    }

    /// The key of a directory's promises in the cache. Those made under other settings have another one.
    fn key(&self, located: &Located) -> Digest {
        Digest::of(format!("{located}\n{}\n", self.made_by).as_bytes())
    }

    fn sources(&self, located: &Located) -> Result<Vec<Arc<dyn Source>>> {
        let places = located.places.iter();
        places.map(|(_, place)| self.open(place)).collect()
    }

    /// Forgets the listing that was not used for longest, of those that nobody is using. `false` if there is none.
    fn forget(&self) -> bool {
        let mut slots: Vec<_> = lock(&self.directories).values().cloned().collect();
        slots.sort_by_key(|slot| *lock(&slot.used));
        // After a reload a new client asks for a signature elsewhere.
        let also_open = self.is_retired.load(Ordering::Relaxed);
        slots.iter().any(|slot| slot.forget(also_open))
    }

    /// New clients are served by other settings, so nothing is kept from now on that nobody is using.
    pub fn retire(&self) {
        self.is_retired.store(true, Ordering::Relaxed);
        self.client_left();
    }

    /// A client was answered, or has left.
    pub fn client_left(&self) {
        if self.is_retired.load(Ordering::Relaxed) {
            while self.forget() {}
            self.unfinished.forget_all();
            self.upstream.auth.forget();
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

    /// Lists a directory.
    fn take(&self, found: &Found<'_>, begun: Instant) -> Result<Snapshot> {
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

    /// The metadata of a file.
    pub fn metadata(
        &self,
        located: &Located,
        snapshot: &Snapshot,
        name: &FileName,
        file: &File,
    ) -> Result<Metadata> {
        self.with_resolver_of(located, snapshot, file, |resolver| {
            resolver.metadata(name, file, true)
        })
    }

    /// Has the source of a file show that it still holds it, for an answer that needs no bytes of it.
    pub fn show(&self, located: &Located, snapshot: &Snapshot, file: &File) -> Result<()> {
        self.with_resolver_of(located, snapshot, file, |resolver| resolver.show(file))
    }

    /// Does something with the source of a file, which has to show first that it holds a file of an older listing.
    fn with_resolver_of<T>(
        &self,
        located: &Located,
        snapshot: &Snapshot,
        file: &File,
        work: impl FnOnce(&Resolver<'_>) -> Result<T>,
    ) -> Result<T> {
        let _limit = task::within(TIME_LIMIT);
        let source = snapshot.source_of(file);
        let resolver = self.resolver(located, file.source, source);
        if snapshot.is_older {
            resolver.show(file)?;
        }
        work(&resolver)
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

    /// A file that was made or scanned, if the cache has it.
    pub fn kept(
        &self,
        snapshot: &Snapshot,
        file: &File,
        recipe: &Recipe,
        size: u64,
    ) -> Result<Option<FlattenedFile>> {
        let digest = file.digest;
        let made = Flattened { digest, size };
        self.flattener.kept(snapshot.source_of(file), recipe, made)
    }

    /// Whether the one layer of an image is known to be the file as it is.
    pub fn is_clean(&self, snapshot: &Snapshot, file: &File, recipe: &Recipe) -> bool {
        let known = self.flattener.known(snapshot.source_of(file), recipe);
        matches!(known, Some(Ok(made)) if recipe.is_layer(made.digest))
    }

    /// A function that has an image flattened, which was offered as its one layer.
    pub fn to_flatten(
        &self,
        snapshot: &Snapshot,
        file: &File,
        recipe: &Recipe,
    ) -> impl FnOnce() + Send + use<> {
        let (flattener, recipe) = (self.flattener.clone(), recipe.clone());
        let source = snapshot.source_of(file).clone();
        let what = format!("{}:{}", source.name(), file.tag);
        move || drop(flattener.begin(&what, &source, &recipe))
    }

    /// A file that was made from an image, made again if the cache lacks it.
    pub fn flattened(
        &self,
        snapshot: &Snapshot,
        file: &File,
        recipe: &Recipe,
        size: u64,
    ) -> Result<FlattenedFile> {
        let digest = file.digest;
        let made = Flattened { digest, size };
        let source = snapshot.source_of(file);
        let _limit = task::within(TIME_LIMIT);
        let what = format!("{}:{}", source.name(), file.tag);
        self.flattener.open(&what, source, recipe, made)
    }

    /// Most connections over which one file of a directory is fetched.
    pub fn download_connections(&self, located: &Located) -> usize {
        let parallel = self.settings.parallel.get();
        located.settings.download_connections.min(parallel)
    }

    /// The cache, to be closed when the process ends.
    pub fn cache(&self) -> Arc<Cache> {
        self.cache.clone()
    }

    /// Whether work goes on that nobody may be waiting for.
    pub fn is_busy(&self) -> bool {
        self.flattener.is_busy()
    }

    fn resolver<'a>(
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

    fn open(&self, place: &Place) -> Result<Arc<dyn Source>> {
        match place {
            Place::Layout(path) => Ok(Arc::new(Layout::open(path)?)),
            Place::Registry { host, repository } => mirror::open(&self.upstream, host, repository),
        }
    }
}

impl Room for Snapshots {
    fn hold(&self, what: &str, bytes: usize) -> Result<Held> {
        let _limit = task::within(MEMORY_WAIT);
        loop {
            if let Some(held) = self.memory.take(bytes) {
                return Ok(held);
            }
            if self.forget() {
                continue;
            }
            let limit = self.memory.limit();
            if bytes > limit || task::passed_limit().is_some() {
                let what = what.to_owned();
                return Err(Error::NoMemory { what, limit });
            }
            task::sleep(task::LOOK)?;
        }
    }
}

fn clock() -> Clock {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Clock {
        now: Instant::now(),
        seconds: since.map_or(0, |since| since.as_secs()),
    }
}

fn merged(directory: &Directory) -> Error {
    Error::NotOffered {
        what: directory.to_string(),
        why: "a merged directory has no artifacts of its own; name one of its sources".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::memory::Bytes;

    #[test]
    fn an_older_listing_takes_no_newer_promise_back() {
        let now = Instant::now();
        let begun = |begun| {
            let (listing, sources) = (Listing::default(), Vec::new());
            Arc::new(Snapshot::new(listing, sources, Blobs::Stream, begun))
        };
        let (older, newer) = (begun(now), begun(now + Duration::from_secs(1)));
        let mut promised = Promised::default();
        for given in [&older, &newer, &older] {
            promised.give(given, now);
        }
        let newest = promised.newest().map(|snapshot| snapshot.begun);
        assert_eq!(newest, Some(newer.begun));
    }

    /// A directory that goes when the test ends.
    struct Folder(PathBuf);

    impl Folder {
        /// With the OCI layouts `0`, `1`, … in it, each with a list by its publisher of 300 KiB.
        fn with_lists(name: &str, number: usize) -> Self {
            let path = std::env::temp_dir();
            let path = path.join(format!("sysext-oci-proxy-{name}-{}", std::process::id()));
            for n in 0..number {
                let layout = path.join(n.to_string());
                write_list(&layout, n);
            }
            Self(path)
        }

        /// The listings of the layouts `r0`, `r1`, …, with so much memory, and with a cache.
        fn snapshots(&self, number: usize, memory: usize) -> Snapshots {
            let source = |n| {
                format!(
                    "[repository.r{n}]\nsource = \"oci:{}/{n}\"\n",
                    self.0.display()
                )
            };
            fs::write(
                self.0.join("config.toml"),
                (0..number).map(source).collect::<String>(),
            )
            .unwrap();
            let settings = Settings::load(Some(&self.0.join("config.toml")), &self.0).unwrap();
            let cache = Some(self.0.join("cache"));
            let state = Arc::new(State::new(None));
            let upstream = Upstream::new(&settings, &self.0, state.clone()).unwrap();
            Snapshots {
                memory: Box::leak(Box::new(Memory::new(memory))),
                ..Snapshots::new(settings, upstream, cache, state)
            }
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn write_list(layout: &Path, n: usize) {
        let blobs = layout.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let keep = |bytes: &[u8]| {
            let digest = Digest::of(bytes);
            fs::write(blobs.join(digest.hex()), bytes).unwrap();
            digest
        };
        let list = format!("{}  only-{n}.raw\n", Digest::of(b"").hex());
        let list = list + &"#".repeat(300 << 10);
        let digest = keep(list.as_bytes());
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": keep(b"{}").to_string(), "size": 2},
            "layers": [{
                "mediaType": "text/plain", "digest": digest.to_string(), "size": list.len(),
                "annotations": {"org.opencontainers.image.title": "SHA256SUMS"},
            }],
        })
        .to_string();
        let manifest_digest = keep(manifest.as_bytes());
        let index = serde_json::json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": manifest_digest.to_string(), "size": manifest.len(),
                "annotations": {"org.opencontainers.image.ref.name": "SHA256SUMS"},
            }],
        });
        fs::write(layout.join("index.json"), index.to_string()).unwrap();
        fs::write(
            layout.join("oci-layout"),
            "{\"imageLayoutVersion\": \"1.0.0\"}",
        )
        .unwrap();
    }

    fn located(snapshots: &Snapshots, directory: &str) -> Located {
        let directory: Directory = directory.parse().unwrap();
        directory.locate(&snapshots.settings).unwrap()
    }

    fn list_of(snapshots: &Snapshots, directory: &str) -> Result<Bytes> {
        let snapshot = snapshots.list(&located(snapshots, directory), false)?;
        snapshots.text(&snapshot)
    }

    /// Which of these directories are in memory.
    fn remembered(snapshots: &Snapshots) -> Vec<String> {
        let directories = lock(&snapshots.directories);
        let has_newest = |slot: &Slot| lock(&slot.newest).taken.is_some();
        let named = directories
            .iter()
            .filter(|(_, slot)| has_newest(slot))
            .map(|(directory, _)| directory.to_string());
        let mut names: Vec<_> = named.collect();
        names.sort();
        names
    }

    #[test]
    fn what_was_not_asked_for_longest_makes_room_for_other_lists() {
        let folder = Folder::with_lists("room", 3);
        let snapshots = folder.snapshots(3, 700 << 10);
        for (directory, expected) in [
            ("r0", vec!["r0"]),
            ("r1", vec!["r0", "r1"]),
            ("r0", vec!["r0", "r1"]),
            ("r2", vec!["r0", "r2"]),
            ("r1", vec!["r1", "r2"]),
        ] {
            let list = list_of(&snapshots, directory).unwrap();
            let list = String::from_utf8((*list).as_ref().to_vec()).unwrap();
            assert!(list.contains(&format!("only-{}.raw", &directory[1..])));
            assert_eq!(remembered(&snapshots), expected, "after {directory}");
        }
    }

    #[test]
    fn a_list_that_a_client_is_getting_is_not_forgotten_and_counts() {
        let folder = Folder::with_lists("sent", 3);
        let snapshots = folder.snapshots(3, 700 << 10);
        let sent = [list_of(&snapshots, "r0"), list_of(&snapshots, "r1")];
        {
            let _limit = task::within(Duration::from_millis(10));
            let error = list_of(&snapshots, "r2").map(drop).unwrap_err();
            assert!(matches!(error, Error::NoMemory { .. }), "{error}");
        }
        assert_eq!(remembered(&snapshots)[..2], ["r0", "r1"]);
        drop(sent);
        assert!(list_of(&snapshots, "r2").is_ok());
    }

    #[test]
    fn before_and_after_a_reload_it_is_one_memory_and_only_what_is_sent_is_kept_of_before() {
        let folder = Folder::with_lists("reload", 3);
        let before = folder.snapshots(3, 700 << 10);
        let after = Snapshots {
            memory: before.memory,
            ..folder.snapshots(3, 0)
        };
        let sent = list_of(&before, "r0").unwrap();
        list_of(&before, "r1").unwrap();
        before.retire();
        assert_eq!(remembered(&before), ["r0"]);
        for (directory, expected) in [("r1", ["r1"]), ("r2", ["r2"])] {
            list_of(&after, directory).unwrap();
            assert_eq!(remembered(&after), expected);
        }
        drop(sent);
        before.client_left();
        assert_eq!(remembered(&before), [""; 0]);
        list_of(&after, "r1").unwrap();
        assert_eq!(remembered(&after), ["r1", "r2"]);
    }

    #[test]
    fn a_list_whose_signature_may_be_asked_for_is_not_forgotten() {
        let folder = Folder::with_lists("open", 3);
        let snapshots = folder.snapshots(3, 700 << 10);
        let directory = located(&snapshots, "r0");
        let digest = |snapshot: Arc<Snapshot>| snapshot.signed.as_ref().unwrap().list.digest();
        let list = digest(snapshots.list(&directory, true).unwrap());
        for other in ["r1", "r2", "r1"] {
            list_of(&snapshots, other).unwrap();
        }
        write_list(&folder.0.join("0"), 7);
        let of_signature = snapshots.of_signature(&directory, |_| true, true);
        assert_eq!(digest(of_signature.unwrap()), list);
    }

    #[test]
    fn a_list_that_changes_takes_the_place_of_the_one_before() {
        let folder = Folder::with_lists("anew", 1);
        let snapshots = folder.snapshots(1, 400 << 10);
        let snapshots = Snapshots {
            settings: Settings {
                listing_ttl: Duration::ZERO,
                ..snapshots.settings.clone()
            },
            ..snapshots
        };
        for n in 0..3 {
            write_list(&folder.0.join("0"), n);
            let list = list_of(&snapshots, "r0").unwrap();
            let list = String::from_utf8((*list).as_ref().to_vec()).unwrap();
            assert!(list.contains(&format!("only-{n}.raw")), "list {n}");
        }
    }
}
