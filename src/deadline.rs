//! When work has to be done, whoever waits for it.
//!
//! A listing is many requests, one after the other and side by side, each with limits of its own. What
//! bounds them all belongs to the thread that works, as its client does (`hangup.rs`), and to those that
//! work for it. It is kept where something is waited for: by connections and by pauses.

use std::cell::Cell;
use std::time::{Duration, Instant};

thread_local! {
    static DEADLINE: Cell<Option<Deadline>> = const { Cell::new(None) };
}

/// An end, and how long it is after the beginning.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    end: Instant,
    time: Duration,
}

/// As long as it lives, this thread's work has a deadline. After it the one before counts.
pub struct Within {
    before: Option<Deadline>,
}

/// From now on this thread's work has so much time, or what is left of the deadline before if that is less.
pub fn within(time: Duration) -> Within {
    let end = Instant::now() + time;
    let before = current().filter(|before| before.end < end);
    adopt(before.or(Some(Deadline { end, time })))
}

/// From now on this thread works for one that has this deadline.
pub fn adopt(deadline: Option<Deadline>) -> Within {
    Within {
        before: DEADLINE.replace(deadline),
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        DEADLINE.set(self.before);
    }
}

/// This thread's, if it has one.
pub fn current() -> Option<Deadline> {
    DEADLINE.get()
}

/// How much time there is.
pub fn left() -> Option<Duration> {
    current().map(|Deadline { end, .. }| end.saturating_duration_since(Instant::now()))
}

/// The time that there was, once it is over.
pub fn passed() -> Option<Duration> {
    current()
        .filter(|Deadline { end, .. }| *end <= Instant::now())
        .map(|Deadline { time, .. }| time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_its_threads_until_it_is_dropped() {
        assert!(left().is_none() && passed().is_none());
        let long = within(Duration::from_secs(1000));
        assert!(left() > Some(Duration::from_secs(900)));
        {
            let _short = within(Duration::ZERO);
            assert_eq!(
                (left(), passed()),
                (Some(Duration::ZERO), Some(Duration::ZERO))
            );
        }
        assert_eq!(passed(), None);
        {
            let _longer = within(Duration::from_secs(5000));
            assert!(left() <= Some(Duration::from_secs(1000)));
        }
        let deadline = current();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert!(left().is_none(), "another thread has its own");
                let _same = adopt(deadline);
                assert!(left() > Some(Duration::from_secs(900)));
            });
        });
        drop(long);
        assert!(left().is_none());
    }
}
