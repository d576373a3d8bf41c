//! Locks that outlive a panic, and turns for work that takes long.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::deadline;
use crate::error::{Error, Result};
use crate::hangup;

/// Locks. A thread that panicked while it held the lock may have left a change half done. Nothing that our
/// locks guard is unusable then: at worst something is asked for, made or waited for once more.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Work that takes long, and that one does at a time. The others wait, as long as their clients stay and
/// their own time lasts.
#[derive(Default)]
pub struct Turns {
    is_taken: Mutex<bool>,
    is_over: Condvar,
}

/// Somebody's turn. It is over when this is dropped, also by a panic.
pub struct Turn<'a>(&'a Turns);

impl Turns {
    /// Waits for a turn at `what`.
    pub fn take(&self, what: impl FnOnce() -> String) -> Result<Turn<'_>> {
        let _watch = hangup::watch();
        let mut is_taken = lock(&self.is_taken);
        while *is_taken {
            if hangup::is_gone() {
                return Err(Error::ClientGone);
            }
            if let Some(limit) = deadline::passed() {
                return Err(Error::TooSlow { url: what(), limit });
            }
            let wait = deadline::left().unwrap_or(hangup::LOOK).min(hangup::LOOK);
            let waited = self.is_over.wait_timeout(is_taken, wait);
            is_taken = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *is_taken = true;
        Ok(Turn(self))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *lock(&self.0.is_taken) = false;
        self.0.is_over.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_has_a_turn_at_a_time_and_a_panic_ends_it() {
        let (turns, busy) = (Turns::default(), Mutex::new(()));
        thread::scope(|scope| {
            for n in 0..8 {
                let (turns, busy) = (&turns, &busy);
                let worker = scope.spawn(move || {
                    let _turn = turns.take(String::new).unwrap();
                    let alone = busy.try_lock();
                    assert!(alone.is_ok() || busy.is_poisoned());
                    thread::sleep(Duration::from_millis(5));
                    assert!(n != 3, "this one fails");
                });
                if n == 3 {
                    assert!(worker.join().is_err());
                }
            }
        });
    }

    #[test]
    fn a_turn_is_waited_for_as_long_as_there_is_time() {
        let turns = Turns::default();
        let turn = turns.take(String::new).unwrap();
        let time = Duration::from_millis(20);
        thread::scope(|scope| {
            scope.spawn(|| {
                let _limit = deadline::within(time);
                let late = turns.take(|| "the work".to_owned());
                let late = late.map(drop).unwrap_err();
                assert!(matches!(late, Error::TooSlow { limit, .. } if limit == time));
            });
        });
        drop(turn);
        assert!(turns.take(String::new).is_ok());
    }
}
