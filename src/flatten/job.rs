//! One image being flattened: all who need it wait for the same job.

use std::fs::File;
use std::io::ErrorKind;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::cache::Flattened;
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::task;

/// Pause after an error of the disk: each try fetches all layers.
const COOLDOWN: Duration = Duration::from_secs(600);
/// After a full disk the pause ends early, once there is room for all bytes that were written and so many more.
const MORE_ROOM: u64 = 1 << 20;

/// An image being flattened.
#[derive(Default)]
pub struct Job {
    result: Mutex<Option<Finished>>,
    is_done: Condvar,
}

/// The end of a job.
struct Finished {
    result: Result<Product>,
    /// If set, it is not begun anew before this is over.
    cooldown: Option<Cooldown>,
}

/// A flattened image. Its file is open, so it stays readable when the cache removes it.
#[derive(Clone)]
pub struct Product {
    pub made: Flattened,
    /// `None` for a layer as it is in its source.
    pub file: Option<Arc<File>>,
}

/// A pause after an error of the disk.
struct Cooldown {
    since: Instant,
    /// Bytes that have to be free for another try, where the disk was full.
    needed: Option<u64>,
}

impl Cooldown {
    /// The pause after this error, if it is one of the disk. `written`: bytes written before it. How many are free now
    /// says less: the failed try has freed its own.
    fn of(error: &Error, written: u64) -> Option<Self> {
        let Error::File { cause, .. } = error else {
            return None;
        };
        // A cache may be emptied at any time.
        if cause.kind() == ErrorKind::NotFound {
            return None;
        }
        let needed = written.saturating_add(MORE_ROOM);
        Some(Self {
            since: Instant::now(),
            needed: error.is_disk_full().then_some(needed),
        })
    }

    /// `free`: bytes that are free on the disk, if known.
    fn is_over(&self, free: Option<u64>) -> bool {
        let has_room = match (self.needed, free) {
            (Some(needed), Some(free)) => free >= needed,
            _ => false,
        };
        has_room || self.since.elapsed() >= COOLDOWN
    }
}

impl Job {
    /// Waits for the result; `None` if it is not there by the deadline of this thread.
    pub fn wait(&self) -> Option<Result<Product>> {
        let finished = |result: &mut Option<Finished>| Some(result.as_ref()?.result.clone());
        match task::wait_for(&self.result, &self.is_done, String::new, finished) {
            Err(Error::TooSlow { .. }) => None,
            waited => Some(waited.flatten()),
        }
    }

    /// Gives the result to all who wait. `written`: bytes written to disk; `None` if nothing was fetched, so that another
    /// try may follow at once.
    pub fn finish(&self, result: Result<Product>, written: Option<u64>) {
        let error = result.as_ref().err();
        let cooldown = written.and_then(|written| Cooldown::of(error?, written));
        *lock(&self.result) = Some(Finished { result, cooldown });
        self.is_done.notify_all();
    }

    /// Whether there is a result.
    pub fn is_finished(&self) -> bool {
        lock(&self.result).is_some()
    }

    /// Whether it is in work or pauses. `free`: bytes that are free on the disk, if known.
    pub fn counts(&self, free: Option<u64>) -> bool {
        lock(&self.result).as_ref().is_none_or(|finished| {
            let cooldown = finished.cooldown.as_ref();
            cooldown.is_some_and(|cooldown| !cooldown.is_over(free))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;

    #[test]
    fn after_a_full_disk_nothing_is_tried_until_there_is_room_for_all() {
        let of = |kind: ErrorKind, written| {
            let error = Cache::new(None, 0).cannot_write(kind.into());
            Cooldown::of(&error, written)
        };
        for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded] {
            let cooldown = of(kind, 5 << 20).unwrap();
            for (free, is_over) in [
                (None, false),
                (Some(0), false),
                (Some((6 << 20) - 1), false),
                (Some(6 << 20), true),
            ] {
                assert_eq!(cooldown.is_over(free), is_over, "{free:?}");
            }
        }
        let cooldown = of(ErrorKind::NotADirectory, 0).unwrap();
        assert!(!cooldown.is_over(Some(u64::MAX)));
        assert!(of(ErrorKind::NotFound, 0).is_none(), "it was removed");
        assert!(Cooldown::of(&Error::NoCache, 0).is_none());
    }
}
