//! How fast a host is asked: as fast as it goes until it complains (429, 503), then slower.
//!
//! Registries count requests, in windows or by the second, and one listing makes hundreds from
//! several threads. After a complaint all of them wait as long as the host wants, and then leave a
//! space between their requests: twice as much with each complaint, a little less with each answer
//! that is none. So it settles where the host lets us.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::hangup;
use crate::lock::lock;
use crate::name::Host;

/// Longest that a host's `Retry-After` is waited out. sysupdate does not ask again, so a short one is.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(10);
/// Between two requests, after the first complaint.
const FIRST_SPACE: Duration = Duration::from_millis(50);
/// And at most: 16 threads who wait for their turn are through before [`MAX_WAIT`].
const LARGEST_SPACE: Duration = Duration::from_millis(400);
/// What is left of the space after an answer that is no complaint.
const SHRINKS_TO: f64 = 0.98;
/// No space any more.
const SMALLEST_SPACE: Duration = Duration::from_millis(2);

/// What is known of all hosts that have complained.
#[derive(Default)]
pub(super) struct Pace {
    hosts: Mutex<HashMap<Host, Complaints>>,
    answers: AtomicUsize,
}

struct Complaints {
    last: Instant,
    /// The host wants nothing before.
    not_before: Instant,
    /// Between two requests.
    space: Duration,
    /// When the next request may leave, if the host has no objections then.
    next: Instant,
}

impl Complaints {
    /// The moment for one more request.
    fn turn(&mut self, now: Instant) -> Instant {
        let turn = now.max(self.next).max(self.not_before);
        self.next = turn + self.space;
        turn
    }
}

impl Pace {
    /// Waits until this host may be asked, but no longer than [`MAX_WAIT`]. False if the client has
    /// not had so much patience.
    pub(super) fn wait(&self, host: &Host) -> bool {
        let latest = Instant::now() + MAX_WAIT;
        loop {
            let turn = match lock(&self.hosts).get_mut(host) {
                Some(complaints) => complaints.turn(Instant::now()).min(latest),
                None => return true,
            };
            if !hangup::pause(turn.saturating_duration_since(Instant::now())) {
                return false;
            }
            // Another request may have been complained of meanwhile.
            let is_held = lock(&self.hosts)
                .get(host)
                .is_some_and(|complaints| complaints.not_before > Instant::now());
            if !is_held || Instant::now() >= latest {
                return true;
            }
        }
    }

    /// Notes how the host took a request that was `sent` then: well, or it wants us to `wait`.
    pub(super) fn note(&self, host: &Host, sent: Instant, wait: Option<Duration>) {
        let now = Instant::now();
        let mut hosts = lock(&self.hosts);
        match wait {
            Some(wait) => {
                let known = hosts.entry(host.clone()).or_insert_with(|| Complaints {
                    last: sent,
                    not_before: now,
                    space: FIRST_SPACE / 2,
                    next: now,
                });
                // Those that were under way together are one complaint.
                if sent >= known.last {
                    known.last = now;
                    known.space = (known.space * 2).clamp(FIRST_SPACE, LARGEST_SPACE);
                    known.next = now;
                }
                // For longer than that nobody waits: who asks again shall be told himself.
                if wait <= MAX_WAIT {
                    known.not_before = known.not_before.max(now + wait);
                }
            }
            None => {
                self.answers.fetch_add(1, Ordering::Relaxed);
                if let Some(known) = hosts.get_mut(host)
                    && sent >= known.last
                {
                    known.space = known.space.mul_f64(SHRINKS_TO);
                    if known.space < SMALLEST_SPACE {
                        hosts.remove(host);
                    }
                }
            }
        }
    }

    /// How many answers were no complaints. Who is refused while there are more of them is not
    /// refused for good.
    pub(super) fn answers(&self) -> usize {
        self.answers.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        "registry.example.com".parse().unwrap()
    }

    /// How long a request waits.
    fn waits(pace: &Pace) -> Duration {
        let begin = Instant::now();
        assert!(pace.wait(&host()));
        begin.elapsed()
    }

    #[test]
    fn a_host_that_does_not_complain_is_asked_at_once() {
        let pace = Pace::default();
        pace.note(&host(), Instant::now(), None);
        assert!(waits(&pace) < Duration::from_millis(20));
    }

    #[test]
    fn after_a_complaint_all_wait_and_keep_their_distance() {
        let pace = Pace::default();
        let sent = Instant::now();
        for _ in 0..5 {
            pace.note(&host(), sent, Some(Duration::from_millis(200)));
        }
        let first = waits(&pace);
        assert!((190..300).contains(&first.as_millis()), "{first:?}");
        let second = waits(&pace);
        assert!((30..150).contains(&second.as_millis()), "{second:?}");
        let other = "other.example.com".parse().unwrap();
        let begin = Instant::now();
        assert!(pace.wait(&other));
        assert!(begin.elapsed() < Duration::from_millis(20));
    }

    #[test]
    fn what_was_complained_of_is_forgotten_in_the_end() {
        let pace = Pace::default();
        pace.note(&host(), Instant::now(), Some(Duration::ZERO));
        for _ in 0..200 {
            pace.note(&host(), Instant::now(), None);
        }
        assert!(lock(&pace.hosts).is_empty());
    }

    #[test]
    fn nobody_is_held_by_a_wait_that_is_too_long() {
        let pace = Pace::default();
        pace.note(&host(), Instant::now(), Some(Duration::from_secs(3600)));
        assert!(waits(&pace) < Duration::from_millis(200));
    }
}
