//! A queue of threads that wait for the same thing, in the order that they came in.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};

use crate::error::Result;
use crate::lock::lock;
use crate::task;

/// A queue of waiting threads.
#[derive(Default)]
pub struct WaitQueue(Mutex<Tickets>);

#[derive(Default)]
struct Tickets {
    waiting: VecDeque<u64>,
    next: u64,
}

impl WaitQueue {
    /// An empty queue.
    pub const fn new() -> Self {
        Self(Mutex::new(Tickets {
            waiting: VecDeque::new(),
            next: 0,
        }))
    }

    /// The number of threads that wait.
    pub fn len(&self) -> usize {
        lock(&self.0).waiting.len()
    }

    /// As [`task::wait_for`]. `ready` is also given whether this thread is the first in the queue.
    pub fn wait_for<T, R>(
        &self,
        mutex: &Mutex<T>,
        changed: &Condvar,
        what: impl Fn() -> String,
        mut ready: impl FnMut(&mut T, bool) -> Option<R>,
    ) -> Result<R> {
        // Where nobody waits, this thread is the first, and there is nobody to tell.
        if self.len() == 0
            && let Some(found) = ready(&mut lock(mutex), true)
        {
            return Ok(found);
        }
        let ticket = {
            let mut tickets = lock(&self.0);
            tickets.next += 1;
            let ticket = tickets.next;
            tickets.waiting.push_back(ticket);
            ticket
        };
        let waited = task::wait_for(mutex, changed, what, |state| {
            let is_first = lock(&self.0).waiting.front() == Some(&ticket);
            ready(state, is_first)
        });
        lock(&self.0).waiting.retain(|other| *other != ticket);
        // Another thread is the first now. It holds this lock from its check until it waits, so it does not miss the
        // notification.
        drop(lock(mutex));
        changed.notify_all();
        waited
    }
}
