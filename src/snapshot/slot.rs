//! The state of one directory: its newest listing, and what was given out of it.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::Snapshot;
use super::pairs::Pairs;
use super::promised::{PROMISE, Promised};
use crate::error::Result;
use crate::lock::lock;
use crate::resolve::SignedBefore;
use crate::semaphore::Semaphore;

/// Names that a snapshot lacks cause one listing in this time, where `listing-ttl-sec` is shorter: it may be 0.
const UNKNOWN_NAME: Duration = Duration::from_secs(1);

/// The state of a directory. One listing is made at a time, so that all who ask at once are answered by one.
pub struct Slot {
    /// The permit to make a listing.
    pub turn: Semaphore,
    pub newest: Mutex<Newest>,
    pub promised: Mutex<Promised>,
    pub pairs: Mutex<Pairs<Arc<Snapshot>>>,
    /// A half of a pair was answered.
    pub answered: Condvar,
    /// When somebody asked for it last.
    pub used: Mutex<Option<Instant>>,
}

/// The newest result.
#[derive(Default)]
pub struct Newest {
    pub taken: Option<Taken>,
    /// When it was last taken for a name that the one before lacked.
    pub looked: Option<Instant>,
    /// Whether another one is being taken. After a panic it stays so until the next one was taken.
    pub is_being_taken: bool,
}

/// A listing that was made, or the reason why there is none.
pub struct Taken {
    pub begun: Instant,
    /// A listing may take long, so clients that have waited for it get it.
    pub done: Instant,
    pub result: Result<Arc<Snapshot>>,
}

/// The part of a snapshot that a client asks for.
pub enum Need<'a> {
    /// The list.
    List,
    /// A signature of its list.
    Signature(&'a dyn Fn(&Snapshot) -> bool),
    /// A name.
    Name(&'a dyn Fn(&Snapshot) -> bool),
}

impl Newest {
    /// The newest listing.
    pub fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        self.taken.as_ref()?.result.as_ref().ok()
    }

    /// Whether the newest result will do for a client that asked at `asked`.
    fn will_do(&self, taken: &Taken, need: &Need<'_>, asked: Instant, ttl: Duration) -> bool {
        if taken.begun >= asked {
            return true;
        }
        let age = taken.done.elapsed();
        // A version that it holds back is to be listed now.
        let is_overtaken = matches!(&taken.result, Ok(snapshot) if snapshot.is_overtaken());
        // Clients that waited while the listing failed get the same error.
        let has_waited = taken.done >= asked;
        // After a listing that failed or lacks something, so long no other one is made.
        let patience = match &taken.result {
            Err(error) if !matches!(error.status(), 403 | 404) => UNKNOWN_NAME,
            _ => ttl.max(UNKNOWN_NAME),
        };
        match (need, &taken.result) {
            // A client that waited for a signed list gets the same list as others that wait for its signature.
            (Need::List, Ok(snapshot)) => {
                age < ttl && !is_overtaken || snapshot.has_pair() && has_waited
            }
            (Need::List, Err(_)) => has_waited,
            // A signature that is not there is no reason to look for a newer list.
            (Need::Signature(has_it), Ok(snapshot)) if !has_it(snapshot) => {
                age < PROMISE && !self.is_being_taken
            }
            (Need::Signature(_), Ok(_)) => age < ttl || has_waited,
            (Need::Signature(_), Err(_)) => has_waited || age < patience,
            (Need::Name(has_it), Ok(snapshot)) if age < ttl && has_it(snapshot) => true,
            (Need::Name(_), result) => {
                let has_looked = |looked: Instant| looked.elapsed() < patience;
                let has_looked = self.looked.is_some_and(has_looked) && !is_overtaken;
                result.is_err() && has_waited || has_looked
            }
        }
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            turn: Semaphore::new(1),
            newest: Mutex::default(),
            promised: Mutex::default(),
            pairs: Mutex::default(),
            answered: Condvar::new(),
            used: Mutex::default(),
        }
    }
}

impl Slot {
    /// The newest signed list.
    pub fn signed_before(&self) -> SignedBefore {
        let newest = lock(&self.newest);
        let signed = newest.snapshot().and_then(|newest| newest.signed.as_ref());
        signed
            .map(|signed| SignedBefore::new(&signed.list))
            .unwrap_or_default()
    }

    /// The newest result, if it will do for a client that asked at `asked`.
    pub fn newest_for(
        &self,
        need: &Need<'_>,
        asked: Instant,
        ttl: Duration,
    ) -> Option<Result<Arc<Snapshot>>> {
        let newest = lock(&self.newest);
        let taken = newest.taken.as_ref()?;
        newest
            .will_do(taken, need, asked, ttl)
            .then(|| taken.result.clone())
    }

    /// Whether a half of a pair waits for the other one.
    pub fn has_open_pair(&self) -> bool {
        lock(&self.pairs).has_open(Instant::now())
    }

    /// When a listing of it was given out last, since the process began.
    pub fn given(&self) -> Option<Instant> {
        lock(&self.promised).given()
    }

    /// Forgets something that nobody is using, to give its memory back. `false` if there is nothing.
    ///
    /// The promises in a cache still bind. Whoever holds one of the locks is using it. `also_open`: also a list whose
    /// signature may be asked for.
    pub fn forget(&self, also_open: bool) -> bool {
        let (Ok(mut pairs), Ok(mut promised), Ok(mut newest)) = (
            self.pairs.try_lock(),
            self.promised.try_lock(),
            self.newest.try_lock(),
        ) else {
            return false;
        };
        if promised.has_older() {
            promised.forget_older();
            return true;
        }
        // The signature of a list that is forgotten would be that of another list.
        if !also_open && pairs.has_open(Instant::now()) {
            return false;
        }
        let mut snapshots: Vec<_> = (pairs.snapshots())
            .chain(promised.snapshot())
            .chain(newest.snapshot())
            .collect();
        let is_used = snapshots.is_empty()
            || are_shared(&snapshots)
            || snapshots
                .iter()
                .any(|snapshot| snapshot.forms.are_being_sent());
        snapshots.sort_by_key(|snapshot| Arc::as_ptr(snapshot));
        snapshots.dedup_by_key(|snapshot| Arc::as_ptr(snapshot));
        let signed = snapshots.iter().filter_map(|one| one.signed.as_ref());
        let lists: Vec<_> = signed.map(|signed| &signed.list).collect();
        if is_used || are_shared(&lists) {
            return false;
        }
        *pairs = Pairs::default();
        promised.forget_newest();
        newest.taken = None;
        true
    }
}

/// Whether there are more references to one of these than are here.
fn are_shared<T>(references: &[&Arc<T>]) -> bool {
    references.iter().any(|one| {
        let here = references.iter().filter(|other| Arc::ptr_eq(one, other));
        Arc::strong_count(one) > here.count()
    })
}
