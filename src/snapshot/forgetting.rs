//! Room in memory for new listings: those that nobody is using are forgotten.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Snapshots;
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::memory::{Held, Room};
use crate::task;

/// Longest wait for some memory to be given back.
const MEMORY_WAIT: Duration = Duration::from_secs(10);

impl Snapshots {
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
