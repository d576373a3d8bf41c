//! A semaphore: bounds how much work of one kind is done at once. Other work waits.

use std::sync::{Condvar, Mutex};

use crate::error::Result;
use crate::lock::lock;
use crate::task;
use crate::wait_queue::WaitQueue;

/// A number of permits.
pub struct Semaphore {
    free: Mutex<usize>,
    is_free: Condvar,
}

/// A permit. It returns to its semaphore when this is dropped, also by a panic.
pub struct Permit<'a> {
    of: &'a Semaphore,
    /// The semaphore whose waiters may take it.
    awaited_at: &'a Semaphore,
}

impl Semaphore {
    /// A semaphore with `number` permits.
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
        self.take_for(free, self)
    }

    fn take_for<'a>(&'a self, free: &mut usize, awaited_at: &'a Self) -> Option<Permit<'a>> {
        *free = free.checked_sub(1)?;
        Some(Permit {
            of: self,
            awaited_at,
        })
    }
}

/// The permits for one of several pieces of work: one of its own, and those that all share. So it makes progress,
/// though slowly, while others hold all shared permits.
pub struct Share<'a> {
    own: Semaphore,
    shared: &'a Semaphore,
    /// The first thread in it may take the own permit.
    queue: WaitQueue,
}

impl<'a> Share<'a> {
    /// A share with one permit of its own.
    pub fn new(shared: &'a Semaphore) -> Self {
        Self {
            own: Semaphore::new(1),
            shared,
            queue: WaitQueue::new(),
        }
    }

    /// Waits for a permit to do `what`, until the client disconnects or the deadline.
    pub fn acquire(&self, what: impl Fn() -> String) -> Result<Permit<'_>> {
        let what = || format!("{}, which waits for others", what());
        let Semaphore { free, is_free } = self.shared;
        self.queue.wait_for(free, is_free, what, |free, is_first| {
            let own = is_first
                .then(|| (self.own).take_for(&mut lock(&self.own.free), self.shared))
                .flatten();
            own.or_else(|| self.shared.take(free))
        })
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *lock(&self.of.free) += 1;
        if std::ptr::eq(self.of, self.awaited_at) {
            self.of.is_free.notify_one();
        } else {
            // A thread holds this lock from its check until it waits, so none misses the notification.
            drop(lock(&self.awaited_at.free));
            self.awaited_at.is_free.notify_all();
        }
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
    fn the_own_permit_goes_to_whoever_waits_longest() {
        let shared = Semaphore::new(0);
        let share = Share::new(&shared);
        let order = Mutex::new(Vec::new());
        let taken = share.acquire(String::new).unwrap();
        thread::scope(|scope| {
            for n in 0..5 {
                let (share, order) = (&share, &order);
                scope.spawn(move || {
                    let permit = share.acquire(String::new).unwrap();
                    lock(order).push(n);
                    drop(permit);
                });
                while share.queue.len() <= n {
                    thread::yield_now();
                }
            }
            let begin = Instant::now();
            drop(taken);
            while lock(&order).len() < 5 {
                thread::yield_now();
            }
            assert!(begin.elapsed() < task::LOOK, "they are woken for it");
        });
        assert_eq!(*lock(&order), [0, 1, 2, 3, 4]);
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
