//! Places for work that takes long, or much memory: so many at once, and whoever comes later waits.

use std::sync::{Condvar, Mutex};

use crate::error::Result;
use crate::lock::lock;
use crate::task;

/// A number of places.
pub struct Places {
    free: Mutex<usize>,
    is_free: Condvar,
}

/// One of them, which is free again when this goes, also by a panic.
pub struct Place<'a>(&'a Places);

impl Places {
    /// So many.
    pub const fn new(number: usize) -> Self {
        Self {
            free: Mutex::new(number),
            is_free: Condvar::new(),
        }
    }

    /// Waits for a place to do `what`, as long as this thread's client stays and there is time.
    pub fn take(&self, what: impl Fn() -> String) -> Result<Place<'_>> {
        let what = || format!("{}, which waits for others", what());
        task::wait_for(&self.free, &self.is_free, what, |free| {
            *free = free.checked_sub(1)?;
            Some(Place(self))
        })
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
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::error::Error;

    #[test]
    fn a_place_is_waited_for_until_the_deadline() {
        let places = Places::new(2);
        let take = || places.take(|| "the work".to_owned());
        let taken = [take().unwrap(), take().unwrap()];
        {
            let time = Duration::from_millis(20);
            let _limit = task::within(time);
            let late = take().map(drop).unwrap_err();
            assert!(matches!(late, Error::TooSlow { limit, .. } if limit == time));
        }
        thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| {
                    let _limit = task::within(Duration::from_secs(20));
                    assert!(take().is_ok());
                });
            }
            drop(taken);
        });
        assert!(take().is_ok(), "without a deadline too");
    }

    #[test]
    fn nobody_waits_for_a_client_that_is_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let ours = Arc::new(listener.accept().unwrap().0);
        let places = Places::new(1);
        let _taken = places.take(String::new).unwrap();
        task::work_for(&ours);
        drop(client);
        let begin = Instant::now();
        assert!(matches!(
            places.take(String::new).map(drop),
            Err(Error::ClientGone)
        ));
        assert!(begin.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn a_panic_gives_its_place_back() {
        let places = Places::new(1);
        let panicked = thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let _place = places.take(String::new).unwrap();
                panic!("this one fails");
            });
            worker.join()
        });
        assert!(panicked.is_err());
        assert!(places.take(String::new).is_ok());
    }
}
