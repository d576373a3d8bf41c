//! A semaphore: it bounds how much work of one kind is done at once. Whoever comes later waits.

use std::sync::{Condvar, Mutex};

use crate::error::Result;
use crate::lock::lock;
use crate::task;

/// A number of permits.
pub struct Semaphore {
    free: Mutex<usize>,
    is_free: Condvar,
}

/// A permit. It is free again when this is dropped, also by a panic.
pub struct Permit<'a>(&'a Semaphore);

impl Semaphore {
    /// A semaphore with so many permits.
    pub const fn new(number: usize) -> Self {
        Self {
            free: Mutex::new(number),
            is_free: Condvar::new(),
        }
    }

    /// Waits for a permit to do `what`, until the client disconnects or the deadline.
    pub fn acquire(&self, what: impl Fn() -> String) -> Result<Permit<'_>> {
        let what = || format!("{}, which waits for others", what());
        task::wait_for(&self.free, &self.is_free, what, |free| self.take(free))
    }

    fn take(&self, free: &mut usize) -> Option<Permit<'_>> {
        *free = free.checked_sub(1)?;
        Some(Permit(self))
    }
}

/// The permits for one piece of work of many: one of its own, and those that all share. So it goes on, though slowly,
/// when others hold all that are shared.
pub struct Share<'a> {
    own: Semaphore,
    shared: &'a Semaphore,
}

impl<'a> Share<'a> {
    /// A share with one permit of its own.
    pub const fn new(shared: &'a Semaphore) -> Self {
        let own = Semaphore::new(1);
        Self { own, shared }
    }

    /// Waits for a permit to do `what`, until the client disconnects or the deadline.
    pub fn acquire(&self, what: impl Fn() -> String) -> Result<Permit<'_>> {
        let what = || format!("{}, which waits for others", what());
        task::wait_for(&self.shared.free, &self.shared.is_free, what, |free| {
            // Whoever waits is not woken for the own one, but finds it at the next look.
            let own = self.own.take(&mut lock(&self.own.free));
            own.or_else(|| self.shared.take(free))
        })
    }
}

impl Drop for Permit<'_> {
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
    fn a_permit_is_waited_for_until_the_deadline() {
        let semaphore = Semaphore::new(2);
        let acquire = || semaphore.acquire(|| "the work".to_owned());
        let taken = [acquire().unwrap(), acquire().unwrap()];
        {
            let time = Duration::from_millis(20);
            let _limit = task::within(time);
            let late = acquire().map(drop).unwrap_err();
            assert!(matches!(late, Error::TooSlow { limit, .. } if limit == time));
        }
        thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| {
                    let _limit = task::within(Duration::from_secs(20));
                    assert!(acquire().is_ok());
                });
            }
            drop(taken);
        });
        assert!(acquire().is_ok(), "without a deadline too");
    }

    #[test]
    fn each_share_has_a_permit_of_its_own() {
        let shared = Semaphore::new(1);
        let (greedy, modest) = (Share::new(&shared), Share::new(&shared));
        let _limit = task::within(Duration::from_millis(10));
        let held = [greedy.acquire(String::new), greedy.acquire(String::new)];
        assert!(held.iter().all(Result::is_ok));
        assert!(greedy.acquire(String::new).is_err());
        for _ in 0..2 {
            assert!(modest.acquire(String::new).is_ok());
        }
    }

    #[test]
    fn nobody_waits_for_a_client_that_is_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let ours = Arc::new(listener.accept().unwrap().0);
        let semaphore = Semaphore::new(1);
        let _taken = semaphore.acquire(String::new).unwrap();
        task::work_for(&ours);
        drop(client);
        let begin = Instant::now();
        assert!(matches!(
            semaphore.acquire(String::new).map(drop),
            Err(Error::ClientGone)
        ));
        assert!(begin.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn a_panic_gives_its_permit_back() {
        let semaphore = Semaphore::new(1);
        let panicked = thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let _permit = semaphore.acquire(String::new).unwrap();
                panic!("this one fails");
            });
            worker.join()
        });
        assert!(panicked.is_err());
        assert!(semaphore.acquire(String::new).is_ok());
    }
}
