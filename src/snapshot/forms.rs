//! The forms in which clients get a snapshot: its list, its page, its JSON. Each is in memory once for all who ask.

use std::sync::{Arc, Mutex, TryLockError};
use std::time::SystemTime;

use jiff::Timestamp;

use super::signing::SIGNATURE;
use super::{Snapshot, Snapshots, TIME_LIMIT, WRITING, freshness};
use crate::address::Located;
use crate::error::Result;
use crate::listing::LeftOut;
use crate::lock::lock;
use crate::memory::{Bytes, Kept, Room};
use crate::pool;
use crate::semaphore::Semaphore;
use crate::task;

/// Bytes, from the first request for them on.
type Once = Mutex<Option<Arc<Kept>>>;

/// The forms of one snapshot.
pub struct Forms {
    text: Once,
    /// The signature of the text by the key of this machine.
    signature: Once,
    page: Once,
    json: Once,
    /// The permit to ask for the tags that a publisher's list lacks: all who come meanwhile wait for one answer.
    turn: Semaphore,
}

impl Default for Forms {
    fn default() -> Self {
        Self {
            text: Once::default(),
            signature: Once::default(),
            page: Once::default(),
            json: Once::default(),
            turn: Semaphore::new(1),
        }
    }
}

impl Forms {
    /// Whether a client is getting one of them.
    pub fn are_being_sent(&self) -> bool {
        let is_shared = |kept: &Once| match kept.try_lock() {
            Ok(kept) => kept
                .as_ref()
                .is_some_and(|kept| Arc::strong_count(kept) > 1),
            // It is being written.
            Err(TryLockError::WouldBlock) => true,
            Err(TryLockError::Poisoned(_)) => false,
        };
        [&self.text, &self.signature, &self.page, &self.json]
            .into_iter()
            .any(is_shared)
    }
}

impl Snapshots {
    /// The text of a snapshot's listing, in memory once for all who ask.
    pub fn text(&self, snapshot: &Snapshot) -> Result<Bytes> {
        let Snapshot {
            listing, signed, ..
        } = snapshot;
        match signed {
            Some(signed) => Ok(signed.list.clone()),
            // An empty one has a date in it: that of today, unless the settings limit its time. One that is signed is kept.
            None if listing.files.is_empty() && snapshot.machine_key.is_none() => {
                let of_empty = || freshness::of_empty(Timestamp::now());
                let best_before = snapshot.best_before.unwrap_or_else(of_empty);
                Ok(Arc::new(listing.text(Some(best_before)).into_bytes()))
            }
            None => self.kept_once(&snapshot.forms.text, "a listing", || {
                listing.text(snapshot.best_before)
            }),
        }
    }

    /// The signature of its list in the form of this name, if it has one.
    pub fn signature(&self, snapshot: &Snapshot, name: &str) -> Result<Option<Bytes>> {
        if let Some(signature) = snapshot.publishers_signature(name) {
            return Ok(Some(signature.clone()));
        }
        let Some(key) = snapshot.machine_key.as_ref().filter(|_| name == SIGNATURE) else {
            return Ok(None);
        };
        let (key, list) = (key.clone()?, self.text(snapshot)?);
        let sign = || key.sign((*list).as_ref(), SystemTime::now());
        self.kept_once(&snapshot.forms.signature, "a signature", sign)
            .map(Some)
    }

    /// Its page for people, in memory once for all who ask. `write` is for the first of them; it gets what a
    /// publisher's list lacks.
    pub fn page(
        &self,
        located: &Located,
        snapshot: &Snapshot,
        write: impl FnOnce(&[LeftOut]) -> String,
    ) -> Result<Bytes> {
        self.shown(located, snapshot, &snapshot.forms.page, "a page", write)
    }

    /// Its JSON for programs, in the same way.
    pub fn json(
        &self,
        located: &Located,
        snapshot: &Snapshot,
        write: impl FnOnce(&[LeftOut]) -> String,
    ) -> Result<Bytes> {
        self.shown(located, snapshot, &snapshot.forms.json, "JSON", write)
    }

    fn shown(
        &self,
        located: &Located,
        snapshot: &Snapshot,
        place: &Once,
        what: &str,
        write: impl FnOnce(&[LeftOut]) -> String,
    ) -> Result<Bytes> {
        let Some(signed) = &snapshot.signed else {
            return self.kept_once(place, what, || write(&[]));
        };
        let _limit = task::within(TIME_LIMIT);
        let tags = || format!("the tags of {located}");
        let _turn = snapshot.forms.turn.acquire(tags)?;
        if let Some(kept) = &*lock(place) {
            return Ok(kept.clone());
        }
        let not_in_list = self.with_resolver(located, |resolver| {
            let _listing = pool::adopt(Some(Arc::new(pool::WORK.grant())));
            Ok(resolver.not_in_list(&signed.list))
        })?;
        self.kept_once(place, what, || write(&not_in_list))
    }

    fn kept_once<T: Into<Vec<u8>>>(
        &self,
        place: &Once,
        what: &str,
        write: impl FnOnce() -> T,
    ) -> Result<Bytes> {
        let mut place = lock(place);
        if let Some(kept) = &*place {
            return Ok(kept.clone());
        }
        // One at a time, for the memory that takes until it is counted.
        let _one_at_a_time = lock(&WRITING);
        let mut bytes: Vec<u8> = write().into();
        bytes.shrink_to_fit();
        let held = self.hold(what, bytes.capacity())?;
        let kept = Arc::new(Kept::new(bytes, held));
        *place = Some(kept.clone());
        Ok(kept)
    }
}
