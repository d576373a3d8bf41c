//! What was promised: a repository's listing and where its files come from, kept for a while.
//!
//! A name in a listing that was given out delivers what that listing promised, though the tag may
//! have moved since. So a file is looked up in the newest listing given out, then in older ones (see [`Older`]), and a
//! listing is made anew when it is older than `listing-ttl-sec`. A name that is in none of them causes one new
//! listing, at most once in `listing-ttl-sec`.
//!
//! A publisher's list and its signature come from one snapshot: see [`Pairs`].

mod pairs;
mod promised;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Condvar, Mutex, TryLockError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jiff::civil::Date;
use log::{debug, info, warn};
use uapi_version::strverscmp;

use crate::address::{self, View};
use crate::artifact::Recipe;
use crate::artifact::kubesolo::Release;
use crate::cache::{Cache, Made};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::extension_release::Metadata;
use crate::flatten::{MadeFile, Workshop};
use crate::listing::{File, LeftOut, Listing, Naming, PublisherList};
use crate::lock::lock;
use crate::memory::{Bytes, Held, Kept, Memory, Room};
use crate::name::{FileName, RepositoryAddress, Tag};
use crate::platform::Architecture;
use crate::pool;
use crate::resolve::{Contents, ImmutableTags, Resolver, Signed, SignedBefore, Unfinished};
use crate::semaphore::Semaphore;
use crate::settings::{Blobs, Located, Place, Settings, Suffix};
use crate::source::layout::Layout;
use crate::source::{Reference, Source, Upstream, mirror};
use crate::state::{Promises, State};
use crate::task;
use crate::transfers;
use pairs::{Half, Pairs, Step};
use promised::{Clock, Older, PROMISE, STAMPED, Stored};

/// Longest time that a listing may take, or a file to be made, or its first bytes to come. systemd-pull gives
/// up after 60 s without a byte.
pub const TIME_LIMIT: Duration = Duration::from_secs(40);
/// Names that a snapshot lacks cause one listing in this time, where `listing-ttl-sec` is shorter: it may be 0.
const UNKNOWN_NAME: Duration = Duration::from_secs(1);
/// Directories remembered at once; beyond that one that nobody waits for is forgotten for each new one.
const MAX_DIRECTORIES: usize = 256;

/// Memory that all listings, signed lists, pages and promises take together, in bytes: those that are remembered and
/// those that a client is still getting.
const MEMORY: usize = 64 << 20;
/// Longest wait for others to give some of it back.
const MEMORY_WAIT: Duration = Duration::from_secs(10);

/// Files of one directory that are promised beyond the end of the process. Writing so many down takes some 6 MiB of
/// memory; only a publisher's list has more in practice, and its bytes are in the cache anyway.
const MAX_STORED: usize = 5_000;

/// Tags that are looked up at registries at once, for all listings together. Each has a connection, and a process
/// may have 1024 descriptors as a rule: the clients, downloads and connections that are kept need the others.
/// Many, for registries that are silent shall leave some to those that are not.
const MAX_REQUESTS: usize = 256;

/// A directory at one moment.
pub struct Snapshot {
    /// Its files, unless a publisher signed a list of them, and what is left out.
    pub listing: Listing,
    /// Where their bytes come from; [`File::source`] counts into it.
    pub sources: Vec<Arc<dyn Source>>,
    /// The list as its publisher wrote and signed it, if there is one.
    pub signed: Option<Signed>,
    /// What KubeSolo OS says of a release, in the directory of one.
    pub kubesolo: Option<Release>,
    /// How clients get the files.
    pub blobs: Blobs,
    /// It is of an older listing: that its repositories hold what is in it they have to show anew.
    is_older: bool,
    begun: Instant,
    /// The listing's text, once somebody has asked for it.
    text: Mutex<Option<Arc<Kept>>>,
    /// Its page, in the same way.
    page: Mutex<Option<Arc<Kept>>>,
    /// The memory that its files take.
    _held: Option<Held>,
}

impl Snapshot {
    /// Does a client get its text or its page?
    fn is_being_sent(&self) -> bool {
        let is_shared = |kept: &Mutex<Option<Arc<Kept>>>| match kept.try_lock() {
            Ok(kept) => kept
                .as_ref()
                .is_some_and(|kept| Arc::strong_count(kept) > 1),
            // It is being made.
            Err(TryLockError::WouldBlock) => true,
            Err(TryLockError::Poisoned(_)) => false,
        };
        is_shared(&self.text) || is_shared(&self.page)
    }

    /// Does it have a file of this name?
    pub fn has(&self, name: &FileName) -> bool {
        self.file(name).is_some()
    }

    /// The file of this name.
    pub fn file(&self, name: &FileName) -> Option<Cow<'_, File>> {
        match &self.signed {
            Some(signed) => signed.list.get(name).map(Cow::Owned),
            None => self.listing.files.get(name).map(Cow::Borrowed),
        }
    }

    /// How many files it has.
    pub fn len(&self) -> usize {
        match &self.signed {
            Some(signed) => signed.list.len(),
            None => self.listing.files.len(),
        }
    }

    /// All its files, sorted by name.
    pub fn files(&self) -> Box<dyn Iterator<Item = (Cow<'_, FileName>, Cow<'_, File>)> + '_> {
        match &self.signed {
            Some(signed) => {
                let files = signed.list.files();
                Box::new(files.map(|(name, file)| (Cow::Owned(name), Cow::Owned(file))))
            }
            None => {
                let files = self.listing.files.iter();
                Box::new(files.map(|(name, file)| (Cow::Borrowed(name), Cow::Borrowed(file))))
            }
        }
    }

    /// The listing with the files of a signed list in it.
    pub fn whole_listing(&self) -> Cow<'_, Listing> {
        let Some(signed) = &self.signed else {
            return Cow::Borrowed(&self.listing);
        };
        Cow::Owned(Listing {
            files: signed.list.files().collect(),
            left_out: self.listing.left_out.clone(),
            incomplete: self.listing.incomplete,
        })
    }

    fn lists_the_same(&self, other: &Self) -> bool {
        match (&self.signed, &other.signed) {
            (Some(one), Some(other)) => one.list.digest() == other.list.digest(),
            (None, None) => self.listing.files == other.listing.files,
            _ => false,
        }
    }

    /// Adds what a newer snapshot lacks.
    fn add_to(&self, older: &mut Older, given: Instant, newer: &Self) {
        let is_newer = |name: &FileName| newer.has(name);
        match &self.signed {
            Some(signed) => older.add_list(&signed.list, given, is_newer),
            None => older.add_files(&self.listing.files, given, is_newer),
        }
    }

    /// When all that it lists was given out before, if it was.
    fn was_given(&self, older: &Older) -> Option<Instant> {
        match &self.signed {
            Some(signed) => older.has_list(&signed.list),
            None => older.has_all(self.listing.files.iter()),
        }
    }

    /// Where a file's bytes come from.
    pub fn source_of(&self, file: &File) -> &Arc<dyn Source> {
        &self.sources[file.source]
    }
}

/// A directory: a repository, or one artifact of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Directory {
    /// The repository as a URL names it.
    pub repository: RepositoryAddress,
    /// All its tags, or one artifact.
    pub view: View,
}

impl FromStr for Directory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (repository, view) = address::parse_directory(text)?;
        Ok(Self { repository, view })
    }
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.view {
            View::Tags => write!(f, "{}", self.repository),
            View::Tag(tag) => write!(f, "{}:{tag}", self.repository),
            View::Digest(digest) => write!(f, "{}@{digest}", self.repository),
        }
    }
}

/// The newest snapshot of each directory.
pub struct Snapshots {
    settings: Settings,
    /// Of what makes a listing: older ones bind only as long as this is the same.
    made_by: Digest,
    architectures: Vec<Architecture>,
    cache: Arc<Cache>,
    state: Arc<State>,
    workshop: Workshop,
    upstream: Arc<Upstream>,
    requests: Semaphore,
    memory: Arc<Memory>,
    unfinished: Unfinished,
    directories: Mutex<HashMap<Directory, Arc<Slot>>>,
    /// Promises are read or written down one directory at a time, for the memory that takes.
    storing: Mutex<()>,
    /// Listings and pages are written one at a time, for the same reason.
    writing: Mutex<()>,
}

/// A directory's newest result. One is made at a time, so that many who ask at once are answered by one
/// listing.
struct Slot {
    turn: Semaphore,
    newest: Mutex<Newest>,
    promised: Mutex<Promised>,
    pairs: Mutex<Pairs<Shared>>,
    /// When somebody asked for it last.
    used: Mutex<Option<Instant>>,
    /// A half was answered.
    answered: Condvar,
}

/// The newest result.
#[derive(Default)]
struct Newest {
    taken: Option<Taken>,
    /// When it was last taken for a name that the one before lacked.
    looked: Option<Instant>,
    is_being_taken: bool,
}

/// As long as it lives, a new result is being taken.
struct Taking<'a>(&'a Mutex<Newest>);

impl<'a> Taking<'a> {
    fn new(newest: &'a Mutex<Newest>) -> Self {
        lock(newest).is_being_taken = true;
        Self(newest)
    }
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        lock(self.0).is_being_taken = false;
    }
}

/// What was given out of a directory.
#[derive(Default)]
struct Promised {
    /// The newest listing, and when it was given out last.
    newest: Option<(Arc<Snapshot>, Instant)>,
    /// What older listings had.
    older: Older,
    /// What earlier processes gave out was read.
    is_loaded: bool,
    /// When all this was kept, if nothing changed since.
    stored: Option<Instant>,
    /// The memory that the older files take.
    held: Option<Held>,
}

impl Promised {
    /// Notes that this snapshot's listing is given out. Of two that are asked for at once the older one may come last.
    fn give(&mut self, snapshot: &Arc<Snapshot>, now: Instant) {
        match &mut self.newest {
            Some((newest, given)) if Arc::ptr_eq(newest, snapshot) => {
                *given = now;
                return;
            }
            Some((newest, _)) if snapshot.begun < newest.begun => {
                snapshot.add_to(&mut self.older, now, newest);
                self.stored = None;
                return;
            }
            Some((newest, given)) => {
                if !newest.lists_the_same(snapshot) {
                    newest.add_to(&mut self.older, *given, snapshot);
                    self.stored = None;
                }
            }
            None => self.stored = snapshot.was_given(&self.older),
        }
        self.newest = Some((snapshot.clone(), now));
        let is_same = |name: &FileName, file: &File| snapshot.file(name).as_deref() == Some(file);
        self.older.forget(now, is_same);
        if let Some(signed) = &snapshot.signed {
            self.older.forget_list(&signed.list);
        }
    }

    /// Counts the memory that the older files take. Where there is none they go, and are read again when
    /// they are needed.
    fn weigh(&mut self, memory: &Arc<Memory>) {
        self.held = None;
        self.held = memory.take(self.older.weight());
        if self.held.is_none() {
            self.forget_older();
        }
    }

    fn forget_older(&mut self) {
        self.older = Older::default();
        self.held = None;
        self.is_loaded = false;
    }

    /// The newest listing, as long as it binds.
    fn newest(&self) -> Option<Arc<Snapshot>> {
        let live = self.newest.as_ref();
        let live = live.filter(|(_, given)| given.elapsed() < PROMISE);
        live.map(|(snapshot, _)| snapshot.clone())
    }

    /// All that binds now, in the form that is written down.
    fn to_store(&self, clock: Clock) -> Stored {
        let mut stored = Stored::default();
        if let Some((newest, given)) = &self.newest {
            match &newest.signed {
                Some(signed) => stored.add_list(&signed.list, *given, clock),
                None => stored.add_files(newest.listing.files.iter(), *given, clock),
            }
        }
        stored.add_older(&self.older, clock);
        stored
    }
}

/// A snapshot, which is the same as another one only if it is that one.
#[derive(Clone)]
struct Shared(Arc<Snapshot>);

impl PartialEq for Shared {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            turn: Semaphore::new(1),
            newest: Mutex::default(),
            promised: Mutex::default(),
            pairs: Mutex::default(),
            used: Mutex::default(),
            answered: Condvar::new(),
        }
    }
}

impl Slot {
    /// The newest signed list.
    fn signed_before(&self) -> SignedBefore {
        let newest = lock(&self.newest);
        let newest = newest.taken.as_ref();
        let newest = newest.and_then(|taken| taken.result.as_ref().ok());
        let signed = newest.and_then(|snapshot| snapshot.signed.as_ref());
        signed
            .map(|signed| SignedBefore::new(&signed.list))
            .unwrap_or_default()
    }

    /// The newest result, if it is what somebody needs who asked then.
    fn newest_for(
        &self,
        need: &Need<'_>,
        asked: Instant,
        ttl: Duration,
    ) -> Option<Result<Arc<Snapshot>>> {
        let newest = lock(&self.newest);
        let taken = newest.taken.as_ref()?;
        newest
            .will_do(need, asked, ttl)
            .then(|| taken.result.clone())
    }
}

impl Slot {
    /// Forgets something that nobody is using, to give its memory back. `false` if there is nothing.
    ///
    /// What a cache has of it still binds. Whoever holds one of the locks is using it.
    fn forget(&self) -> bool {
        let (Ok(mut pairs), Ok(mut promised), Ok(mut newest)) = (
            self.pairs.try_lock(),
            self.promised.try_lock(),
            self.newest.try_lock(),
        ) else {
            return false;
        };
        if !promised.older.is_empty() {
            promised.forget_older();
            return true;
        }
        // Its signature would be that of another list.
        if pairs.has_open(Instant::now()) {
            return false;
        }
        let of_pairs = pairs.snapshots().map(|shared| &shared.0);
        let of_promise = promised.newest.as_ref().map(|(snapshot, _)| snapshot);
        let of_newest = newest.taken.as_ref();
        let of_newest = of_newest.and_then(|taken| taken.result.as_ref().ok());
        // How often each of them is in this slot, and each signed list in them.
        let (mut snapshots, mut lists) = (HashMap::new(), HashMap::new());
        for snapshot in of_pairs.chain(of_promise).chain(of_newest) {
            snapshots
                .entry(Arc::as_ptr(snapshot))
                .or_insert((0, snapshot))
                .0 += 1;
        }
        for (_, snapshot) in snapshots.values() {
            if let Some(Signed { list, .. }) = &snapshot.signed {
                lists.entry(Arc::as_ptr(list)).or_insert((0, list)).0 += 1;
            }
        }
        let is_used = snapshots.values().any(|(number, snapshot)| {
            Arc::strong_count(snapshot) > *number || snapshot.is_being_sent()
        });
        let is_sent = lists
            .values()
            .any(|(number, list)| Arc::strong_count(list) > *number);
        if snapshots.is_empty() || is_used || is_sent {
            return false;
        }
        *pairs = Pairs::default();
        promised.newest = None;
        promised.is_loaded = false;
        newest.taken = None;
        true
    }
}

/// What came of taking a snapshot.
struct Taken {
    begun: Instant,
    /// A snapshot may take long, and those who have waited for it are content with it.
    done: Instant,
    result: Result<Arc<Snapshot>>,
}

/// What somebody asks a snapshot for.
enum Need<'a> {
    /// Its list.
    List,
    /// A signature of its list.
    Signature(&'a dyn Fn(&Snapshot) -> bool),
    /// A name.
    Name(&'a dyn Fn(&Snapshot) -> bool),
}

impl Newest {
    /// Is this what somebody needs who asked then?
    fn will_do(&self, need: &Need<'_>, asked: Instant, ttl: Duration) -> bool {
        let Some(taken) = &self.taken else {
            return false;
        };
        // Long enough for a listing that failed, or that lacks something.
        let patience = match &taken.result {
            Err(error) if !matches!(error.status(), 403 | 404) => UNKNOWN_NAME,
            _ => ttl.max(UNKNOWN_NAME),
        };
        let age = taken.done.elapsed();
        // Whoever waited while it failed need not try the same.
        let has_waited = taken.done >= asked;
        taken.begun >= asked
            || match (need, &taken.result) {
                // Whoever waited for a signed list gets the same one as others who wait for its signature.
                (Need::List, Ok(snapshot)) => age < ttl || snapshot.signed.is_some() && has_waited,
                (Need::List, Err(_)) => has_waited,
                // A signature that is not there is no reason to look for a newer list.
                (Need::Signature(has_it), Ok(snapshot)) if !has_it(snapshot) => {
                    age < PROMISE && !self.is_being_taken
                }
                (Need::Signature(_), Ok(_)) => age < ttl || has_waited,
                (Need::Signature(_), Err(_)) => has_waited || age < patience,
                (Need::Name(has_it), Ok(snapshot)) if age < ttl && has_it(snapshot) => true,
                (Need::Name(_), result) => {
                    result.is_err() && has_waited
                        || self
                            .looked
                            .is_some_and(|looked| looked.elapsed() < patience)
                }
            }
    }
}

impl Snapshots {
    /// Nothing is asked or read yet.
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
            workshop: Workshop::new(cache.clone(), settings.cache_size),
            cache,
            state,
            settings,
            requests: Semaphore::new(MAX_REQUESTS),
            memory: Memory::new(MEMORY),
            unfinished: Unfinished::default(),
            directories: Mutex::default(),
            storing: Mutex::default(),
            writing: Mutex::default(),
        }
    }

    /// The directory's listing, which from then on is promised.
    pub fn listing(&self, directory: &Directory) -> Result<Arc<Snapshot>> {
        let slot = self.slot(directory)?;
        let snapshot = self.refresh(&slot, directory, &Need::List)?;
        self.promise(&slot, directory, &snapshot)?;
        Ok(snapshot)
    }

    /// The same for `SHA256SUMS`. `is_sent`: the client gets the list itself, rather than only its head.
    pub fn list(&self, directory: &Directory, is_sent: bool) -> Result<Arc<Snapshot>> {
        let slot = self.slot(directory)?;
        let snapshot = self.half(&slot, directory, &Need::List, |_| is_sent)?;
        self.promise(&slot, directory, &snapshot)?;
        Ok(snapshot)
    }

    /// The snapshot whose list a signature belongs to. `has_it`: it has the signature in this form. `is_sent`: the
    /// client gets that itself, rather than only its head.
    pub fn of_signature(
        &self,
        directory: &Directory,
        has_it: impl Fn(&Snapshot) -> bool,
        is_sent: bool,
    ) -> Result<Arc<Snapshot>> {
        let slot = self.slot(directory)?;
        let need = Need::Signature(&has_it);
        self.half(&slot, directory, &need, |snapshot| {
            is_sent && has_it(snapshot)
        })
    }

    /// The snapshot for a list or a signature: that of the other half if a client may be waiting for this one.
    fn half(
        &self,
        slot: &Slot,
        directory: &Directory,
        need: &Need<'_>,
        is_sent: impl Fn(&Snapshot) -> bool,
    ) -> Result<Arc<Snapshot>> {
        let half = match need {
            Need::Signature(_) => Half::Signature,
            Need::List | Need::Name(_) => Half::List,
        };
        let (asked, ttl) = (Instant::now(), self.settings.listing_ttl);
        let (mut taken, mut pairs) = (None, lock(&slot.pairs));
        loop {
            let current = match taken.clone() {
                None => slot.newest_for(need, asked, ttl).transpose()?,
                taken => taken,
            };
            let now = Instant::now();
            match pairs.step(half, current.map(Shared).as_ref(), asked, now) {
                Step::Answer(found) => {
                    if found.0.signed.is_some() && is_sent(&found.0) {
                        pairs.answered(half, &found, now);
                        slot.answered.notify_all();
                    }
                    return Ok(found.0);
                }
                Step::Wait(time) => {
                    task::check(|| directory.to_string())?;
                    pairs = task::wait_a_moment(&slot.answered, pairs, time);
                }
                Step::Renew => {
                    drop(pairs);
                    taken = Some(self.refresh(slot, directory, need)?);
                    pairs = lock(&slot.pairs);
                }
            }
        }
    }

    /// The newest snapshot that was promised and has one of these files. Where none has, a new one, whatever that has.
    /// `beside`: what else is of interest in it.
    pub fn having(
        &self,
        directory: &Directory,
        names: &[&FileName],
        beside: &[FileName],
    ) -> Result<Arc<Snapshot>> {
        let slot = self.slot(directory)?;
        let has_it = |snapshot: &Snapshot| names.iter().any(|name| snapshot.has(name));
        if let Some(promised) = lock(&slot.promised).newest()
            && has_it(&promised)
        {
            return Ok(promised);
        }
        let all: Vec<_> = names.iter().copied().chain(beside).collect();
        match self.older(&slot, directory, &all)? {
            Some(older) if has_it(&older) => Ok(Arc::new(older)),
            _ => self.refresh(&slot, directory, &Need::Name(&has_it)),
        }
    }

    /// Promises what a snapshot lists, and keeps that for the next process.
    fn promise(&self, slot: &Slot, directory: &Directory, snapshot: &Arc<Snapshot>) -> Result<()> {
        let mut promised = lock(&slot.promised);
        self.load(&mut promised, directory, snapshot.signed.as_ref())?;
        let clock = clock();
        promised.give(snapshot, clock.now);
        let is_new = |stored| clock.now.saturating_duration_since(stored) < STAMPED;
        if !promised.stored.is_some_and(is_new) {
            let _one_at_a_time = lock(&self.storing);
            let stored = promised.to_store(clock);
            if stored.len() <= MAX_STORED {
                self.cache.keep_listing(self.key(directory), &stored);
            }
            promised.stored = Some(clock.now);
        }
        promised.weigh(&self.memory);
        Ok(())
    }

    /// The text of a snapshot's listing, in memory once for all who ask.
    pub fn text(&self, snapshot: &Snapshot, tomorrow: Date) -> Result<Bytes> {
        match &snapshot.signed {
            Some(signed) => Ok(signed.list.clone()),
            // An empty one has a date in it.
            None if snapshot.listing.files.is_empty() => {
                Ok(Arc::new(snapshot.listing.text(tomorrow).into_bytes()))
            }
            None => self.kept_once(&snapshot.text, "a listing", || {
                snapshot.listing.text(tomorrow)
            }),
        }
    }

    /// Its page for people, in memory once for all who ask. `write` is for the first of them.
    pub fn page(&self, snapshot: &Snapshot, write: impl FnOnce() -> String) -> Result<Bytes> {
        self.kept_once(&snapshot.page, "a page", write)
    }

    fn kept_once(
        &self,
        place: &Mutex<Option<Arc<Kept>>>,
        what: &str,
        write: impl FnOnce() -> String,
    ) -> Result<Bytes> {
        let mut place = lock(place);
        if let Some(kept) = &*place {
            return Ok(kept.clone());
        }
        // One at a time, for the memory that takes until it is counted.
        let _one_at_a_time = lock(&self.writing);
        let mut bytes = write().into_bytes();
        bytes.shrink_to_fit();
        let held = self.hold(what, bytes.capacity())?;
        let kept = Arc::new(Kept::new(bytes, held));
        *place = Some(kept.clone());
        Ok(kept)
    }

    /// Reads what earlier processes promised. The list that is `known` need not be read.
    fn load(
        &self,
        promised: &mut Promised,
        directory: &Directory,
        known: Option<&Signed>,
    ) -> Result<()> {
        if promised.is_loaded {
            return Ok(());
        }
        let _one_at_a_time = lock(&self.storing);
        if let Some(stored) = self.cache.listing::<Stored>(self.key(directory)) {
            let source = self.sources(directory)?.first().map(|source| source.name());
            let list_of = |digest, size| {
                let known = known.map(|signed| &signed.list);
                if let Some(list) = known.filter(|list| list.digest() == digest) {
                    return Some(list.clone());
                }
                let held = self.memory.take(PublisherList::weight(size))?;
                let bytes = self.cache.document(source.as_deref()?, digest, size)?;
                Some(Arc::new(PublisherList::new(digest, bytes, Some(held))))
            };
            promised.older = stored.restore(clock(), list_of);
        }
        promised.is_loaded = true;
        promised.weigh(&self.memory);
        Ok(())
    }

    /// What older listings promised under these names. The repository has to show again that it holds it, so the
    /// sources are opened anew.
    fn older(
        &self,
        slot: &Slot,
        directory: &Directory,
        names: &[&FileName],
    ) -> Result<Option<Snapshot>> {
        let mut promised = lock(&slot.promised);
        self.load(&mut promised, directory, None)?;
        let now = Instant::now();
        let file = |name: &&FileName| Some(((*name).clone(), promised.older.get(name, now)?));
        let files: BTreeMap<_, _> = names.iter().filter_map(file).collect();
        drop(promised);
        if files.is_empty() {
            return Ok(None);
        }
        let located = self.settings.locate(&directory.repository)?;
        let sources = self.sources(directory)?;
        if files.values().any(|file| file.source >= sources.len()) {
            return Ok(None);
        }
        let listing = Listing {
            files,
            ..Listing::default()
        };
        Ok(Some(Snapshot {
            listing,
            sources,
            signed: None,
            kubesolo: None,
            blobs: located.settings.blobs,
            is_older: true,
            begun: now,
            text: Mutex::default(),
            page: Mutex::default(),
            _held: None,
        }))
    }

    /// Where the promises of a directory are kept. Those that other settings made are elsewhere.
    fn key(&self, directory: &Directory) -> Digest {
        Digest::of(format!("{directory}\n{}\n", self.made_by).as_bytes())
    }

    fn sources(&self, directory: &Directory) -> Result<Vec<Arc<dyn Source>>> {
        let located = self.settings.locate(&directory.repository)?;
        let places = located.places.iter();
        places.map(|(_, place)| self.open(place)).collect()
    }

    /// Forgets what was not asked for longest and nobody is using.
    fn forget(&self) -> bool {
        let mut slots: Vec<_> = lock(&self.directories).values().cloned().collect();
        slots.sort_by_key(|slot| *lock(&slot.used));
        slots.iter().any(|slot| slot.forget())
    }

    /// Where a directory is remembered: one that the settings allow, for others cost nothing to think up.
    fn slot(&self, directory: &Directory) -> Result<Arc<Slot>> {
        self.settings.locate(&directory.repository)?;
        let mut directories = lock(&self.directories);
        if directories.len() >= MAX_DIRECTORIES && !directories.contains_key(directory) {
            let idle = directories
                .iter()
                .filter(|(_, slot)| Arc::strong_count(slot) == 1)
                .filter(|(_, slot)| !lock(&slot.pairs).has_open(Instant::now()));
            let oldest = idle.min_by_key(|(_, slot)| {
                lock(&slot.promised)
                    .newest
                    .as_ref()
                    .map(|(_, given)| *given)
            });
            if let Some((oldest, _)) = oldest {
                let oldest = oldest.clone();
                directories.remove(&oldest);
            }
        }
        let slot = directories.entry(directory.clone()).or_default().clone();
        *lock(&slot.used) = Some(Instant::now());
        Ok(slot)
    }

    /// The newest result if it will do, else a new one.
    fn refresh(
        &self,
        slot: &Slot,
        directory: &Directory,
        need: &Need<'_>,
    ) -> Result<Arc<Snapshot>> {
        let (asked, ttl) = (Instant::now(), self.settings.listing_ttl);
        let located = self.settings.locate(&directory.repository)?;
        let known = || slot.newest_for(need, asked, ttl);
        if let Some(result) = known() {
            return result;
        }
        let _turn = slot
            .turn
            .acquire(|| format!("the listing of {directory}"))?;
        if let Some(result) = known() {
            return result;
        }
        let _taking = Taking::new(&slot.newest);
        let begun = Instant::now();
        // A listing that was begun is finished, whoever leaves: it is kept for the next client.
        let for_all = task::for_all();
        let before = slot.signed_before();
        let result = self.take(directory, &located, begun, &before).map(Arc::new);
        drop(for_all);
        let taken = Taken {
            begun,
            done: Instant::now(),
            result: result.clone(),
        };
        let mut newest = lock(&slot.newest);
        if matches!(need, Need::Name(_)) {
            newest.looked = Some(taken.done);
        }
        let before = newest.taken.replace(taken);
        drop(newest);
        let before = before.and_then(|before| before.result.ok());
        if let Ok(snapshot) = &result {
            let left_out = before.as_ref().map(|before| &before.listing.left_out[..]);
            log_listing(directory, snapshot, left_out);
        }
        result
    }

    fn take(
        &self,
        directory: &Directory,
        located: &Located,
        begun: Instant,
        before: &SignedBefore,
    ) -> Result<Snapshot> {
        let _limit = task::within(TIME_LIMIT);
        let _making = pool::adopt(Some(Arc::new(pool::WORK.grant())));
        let Located { places, settings } = located;
        let sources = places
            .iter()
            .map(|(_, place)| self.open(place))
            .collect::<Result<Vec<_>>>()?;
        let resolver = |n: usize| Resolver {
            signed_before: before.clone(),
            ..self.resolver(directory, located, n, &sources[n])
        };
        let is_merged = places.len() > 1;
        let (mut signed, mut kubesolo) = (None, None);
        let listing = match &directory.view {
            View::Tags if is_merged => {
                let mut merged = Listing::default();
                for n in 0..places.len() {
                    merged.merge(resolver(n).list()?);
                }
                merged
            }
            View::Tags => match resolver(0).contents()? {
                Contents::Files(listing) => {
                    // A mirror that stands in for the registry promises nothing for it.
                    if sources[0].tags_are_its_own() {
                        self.promise_newest(directory, &sources[0].name(), &listing)?;
                    }
                    listing
                }
                Contents::Signed(found) => {
                    signed = Some(found);
                    Listing::default()
                }
            },
            View::Tag(_) | View::Digest(_) if is_merged => return Err(merged(directory)),
            View::Tag(tag) => {
                let (listing, release) = resolver(0).view(Reference::Tag(tag), tag)?;
                kubesolo = release;
                listing
            }
            View::Digest(digest) => {
                let label = Tag::of_digest(digest);
                let (listing, release) = resolver(0).view(Reference::Digest(*digest), &label)?;
                kubesolo = release;
                listing
            }
        };
        let held = self.hold(&format!("the listing of {directory}"), listing.weight())?;
        Ok(Snapshot {
            listing,
            sources,
            signed,
            kubesolo,
            blobs: settings.blobs,
            is_older: false,
            begun,
            text: Mutex::default(),
            page: Mutex::default(),
            _held: Some(held),
        })
    }

    /// Promises which version is the newest ever offered, of a repository that the administrator named.
    fn promise_newest(&self, directory: &Directory, source: &str, listing: &Listing) -> Result<()> {
        let newer = |one: &&Tag, other: &&Tag| strverscmp(one.as_str(), other.as_str());
        let tags = listing.files.values().map(|file| &file.tag);
        let Some(newest) = tags.max_by(newer) else {
            return Ok(());
        };
        let repository = &directory.repository;
        let is_newer = |promises: &Promises| {
            let known = promises.newest.get(repository);
            known.is_none_or(|known| newer(&known, &newest).is_lt())
        };
        let is_named = || {
            self.settings.repositories.contains_key(repository)
                || transfers::name(Path::new("/"), &self.settings.hosts, repository)
        };
        if !self.state.is_there() || !is_newer(&self.state.promises(source)?) || !is_named() {
            return Ok(());
        }
        let promised = self.state.promise(source, |promises| {
            if is_newer(promises) {
                promises.newest.insert(repository.clone(), newest.clone());
            }
        });
        match promised {
            // Whoever only looks may not write there.
            Err(error @ Error::File { .. }) => {
                debug!(
                    "{directory}: its newest version is not remembered: {}",
                    error.line()
                );
                Ok(())
            }
            promised => promised,
        }
    }

    /// What a file says of itself.
    pub fn metadata(
        &self,
        directory: &Directory,
        snapshot: &Snapshot,
        name: &FileName,
        file: &File,
    ) -> Result<Metadata> {
        let located = self.settings.locate(&directory.repository)?;
        let _limit = task::within(TIME_LIMIT);
        let source = snapshot.source_of(file);
        let resolver = self.resolver(directory, &located, file.source, source);
        if snapshot.is_older {
            resolver.show(file)?;
        }
        resolver.metadata(name, file)
    }

    /// A file whose text was in its manifest.
    pub fn text_of(
        &self,
        directory: &Directory,
        snapshot: &Snapshot,
        file: &File,
        text: &Arc<str>,
    ) -> Result<Arc<str>> {
        if snapshot.is_older {
            let located = self.settings.locate(&directory.repository)?;
            let _limit = task::within(TIME_LIMIT);
            let source = snapshot.source_of(file);
            self.resolver(directory, &located, file.source, source)
                .show(file)?;
        }
        Ok(text.clone())
    }

    /// Does something with a repository's own manifests, by the settings for it.
    pub fn with_resolver<T>(
        &self,
        directory: &Directory,
        work: impl FnOnce(&Resolver<'_>) -> Result<T>,
    ) -> Result<T> {
        let located = self.settings.locate(&directory.repository)?;
        if located.places.len() > 1 {
            return Err(merged(directory));
        }
        let source = self.open(&located.places[0].1)?;
        let _limit = task::within(TIME_LIMIT);
        work(&self.resolver(directory, &located, 0, &source))
    }

    /// The one layer of an image, if it is known to be the file as it is and the cache has it.
    pub fn kept_layer(&self, snapshot: &Snapshot, file: &File) -> Result<Option<MadeFile>> {
        let size = file.size.unwrap_or_default();
        let digest = file.digest;
        let Some(kept) = self.workshop.kept(Made { digest, size }) else {
            return Ok(None);
        };
        let source = snapshot.source_of(file);
        if !source.holds(digest)? {
            let url = format!("layer {digest} in {}", source.name());
            return Err(Error::Missing { url });
        }
        Ok(Some(kept))
    }

    /// Is the one layer of an image known to be the file as it is?
    pub fn is_clean(&self, snapshot: &Snapshot, file: &File, recipe: &Recipe) -> bool {
        let known = self.workshop.known(snapshot.source_of(file), recipe);
        matches!(known, Some(Ok(made)) if recipe.is_layer(made.digest))
    }

    /// Has the file made that an image is to be offered as, rather than as its one layer.
    pub fn to_make(
        &self,
        snapshot: &Snapshot,
        file: &File,
        recipe: &Recipe,
    ) -> impl FnOnce() + Send + use<> {
        let (workshop, recipe) = (self.workshop.clone(), recipe.clone());
        let source = snapshot.source_of(file).clone();
        let what = format!("{}:{}", source.name(), file.tag);
        move || drop(workshop.begin(&what, &source, &recipe))
    }

    /// A file that was made from a snapshot's image, made again if need be.
    pub fn made(&self, snapshot: &Snapshot, file: &File, recipe: &Recipe) -> Result<MadeFile> {
        let source = snapshot.source_of(file);
        let made = Made {
            digest: file.digest,
            size: file.size.unwrap_or_default(),
        };
        let _limit = task::within(TIME_LIMIT);
        let what = format!("{}:{}", source.name(), file.tag);
        self.workshop.open(&what, source, recipe, made)
    }

    /// Leaves nothing unfinished behind in the cache: the process ends.
    pub fn close(&self) {
        self.cache.close();
    }

    /// Is something being done that nobody may wait for any more?
    pub fn is_busy(&self) -> bool {
        self.workshop.is_busy()
    }

    fn resolver<'a>(
        &'a self,
        directory: &'a Directory,
        located: &'a Located,
        n: usize,
        source: &'a Arc<dyn Source>,
    ) -> Resolver<'a> {
        let Located { places, settings } = located;
        Resolver {
            source,
            cache: matches!(places[n].1, Place::Registry { .. }).then_some(&*self.cache),
            state: &self.state,
            address: &directory.repository,
            workshop: &self.workshop,
            flatten: settings.flatten,
            naming: Naming {
                base: &places[n].0,
                template: settings.names.as_ref(),
                source: n,
                keeps_titles: directory.view != View::Tags,
            },
            architectures: settings
                .architectures
                .as_deref()
                .unwrap_or(&self.architectures),
            suffix: settings.suffix.as_ref().map(Suffix::as_str),
            immutable_tags: settings
                .immutable_tags
                .then(|| ImmutableTags::new(&self.state, source.name())),
            signed_list: &settings.signed_list,
            parallel: self.settings.parallel.get(),
            requests: &self.requests,
            unfinished: &self.unfinished,
            compatible_only: settings
                .compatible_only
                .unwrap_or(self.settings.compatible_only),
            signed_before: SignedBefore::default(),
            room: self,
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
        let end = Instant::now() + MEMORY_WAIT;
        loop {
            if let Some(held) = self.memory.take(bytes) {
                return Ok(held);
            }
            if self.forget() {
                continue;
            }
            let is_over = Instant::now() >= end || task::passed_limit().is_some();
            if is_over || bytes > self.memory.limit() {
                let (what, limit) = (what.to_owned(), self.memory.limit());
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

/// One line for the listing, and one for everything left out that was not so in the listing before.
fn log_listing(directory: &Directory, snapshot: &Snapshot, before: Option<&[LeftOut]>) {
    let Listing {
        left_out,
        incomplete,
        ..
    } = &snapshot.listing;
    let known: HashSet<_> = before.unwrap_or_default().iter().collect();
    for one in left_out.iter().filter(|one| !known.contains(one)) {
        let LeftOut { tag, reason, .. } = one;
        if one.is_unanswered {
            warn!("{directory}: tag {tag} left out, it was not answered: {reason}");
        } else {
            info!("{directory}: tag {tag} left out: {reason}");
        }
    }
    let took = snapshot.begun.elapsed().as_millis();
    let sources: Vec<_> = snapshot
        .sources
        .iter()
        .map(|source| source.name())
        .collect();
    let (n, sources) = (snapshot.len(), sources.join(", "));
    let signed = if snapshot.signed.is_some() {
        ", as their publisher lists them"
    } else {
        ""
    };
    let missing = incomplete.map_or_else(String::new, |incomplete| format!("; {incomplete}"));
    info!("{directory}: {n} files listed in {took} ms from {sources}{signed}{missing}");
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn an_older_listing_takes_no_newer_promise_back() {
        let now = Instant::now();
        let begun = |begun| {
            Arc::new(Snapshot {
                listing: Listing::default(),
                sources: Vec::new(),
                signed: None,
                kubesolo: None,
                blobs: Blobs::Stream,
                is_older: false,
                begun,
                text: Mutex::default(),
                page: Mutex::default(),
                _held: None,
            })
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

        /// What answers for the layouts `r0`, `r1`, …, with so much memory, and with a cache.
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
                memory: Memory::new(memory),
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

    fn list_of(snapshots: &Snapshots, directory: &str) -> Result<Bytes> {
        let snapshot = snapshots.list(&directory.parse().unwrap(), false)?;
        snapshots.text(&snapshot, Date::constant(2026, 1, 1))
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
    fn a_list_whose_signature_may_be_asked_for_is_not_forgotten() {
        let folder = Folder::with_lists("open", 3);
        let snapshots = folder.snapshots(3, 700 << 10);
        let directory: Directory = "r0".parse().unwrap();
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
