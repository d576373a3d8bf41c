//! Places for work that takes much memory: so many at once, and whoever comes later waits.

use std::sync::{Condvar, Mutex, PoisonError};

use crate::deadline;
use crate::lock::lock;

/// A number of places.
pub struct Places {
    free: Mutex<usize>,
    is_free: Condvar,
}

/// One of them, which is free again when this goes.
pub struct Place<'a>(&'a Places);

impl Places {
    /// So many.
    pub const fn new(number: usize) -> Self {
        Self {
            free: Mutex::new(number),
            is_free: Condvar::new(),
        }
    }

    /// Waits for a place; `None` if there is none by this thread's deadline.
    pub fn take(&self) -> Option<Place<'_>> {
        let free = lock(&self.free);
        let is_full = |free: &mut usize| *free == 0;
        let mut free = match deadline::left() {
            None => self.is_free.wait_while(free, is_full),
            Some(left) => match self.is_free.wait_timeout_while(free, left, is_full) {
                Ok((free, _)) => Ok(free),
                Err(poisoned) => Ok(poisoned.into_inner().0),
            },
        }
        .unwrap_or_else(PoisonError::into_inner);
        *free = free.checked_sub(1)?;
        Some(Place(self))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *lock(&self.0.free) += 1;
        self.0.is_free.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_place_is_waited_for_until_the_deadline() {
        let places = Places::new(2);
        let taken = [places.take().unwrap(), places.take().unwrap()];
        {
            let _limit = deadline::within(Duration::from_millis(20));
            assert!(places.take().is_none());
        }
        thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| {
                    let _limit = deadline::within(Duration::from_secs(20));
                    assert!(places.take().is_some());
                });
            }
            drop(taken);
        });
        assert!(places.take().is_some(), "without a deadline too");
    }
}
