//! Rate limit of requests to a host. There is none until the host answers 429 or 503; then its `Retry-After` is waited
//! for, and requests are sent more slowly.
//!
//! Registries limit requests by window or by second, and one listing sends hundreds from several threads. After a
//! complaint (429, 503) all threads wait as long as the host asks, and then leave a space between requests. It doubles
//! with each complaint and shrinks a little with each other response, so it settles at the rate that the host allows.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::lock::lock;
use crate::name::Host;
use crate::source::recent::Recent;
use crate::task;

/// Longest `Retry-After` that is waited for. A short one is, because sysupdate does not try again.
pub const MAX_WAIT: Duration = Duration::from_secs(10);
/// Space between two requests after the first complaint.
const FIRST_SPACE: Duration = Duration::from_millis(50);
/// Largest space between two requests.
const LARGEST_SPACE: Duration = Duration::from_millis(400);
/// Factor by which the space shrinks with each response that is no complaint.
const SHRINKS_TO: f64 = 0.98;
/// A smaller space counts as none.
const SMALLEST_SPACE: Duration = Duration::from_millis(2);

/// Longest time a request is queued, or retried at a busy host.
pub const MAX_QUEUE: Duration = Duration::from_secs(30);
/// Longest wait between two checks of the queue.
const LOOK: Duration = Duration::from_millis(200);

/// Most hosts whose complaints are remembered. A registry can redirect to any number of hosts.
const MAX_HOSTS: usize = 256;

/// The hosts that complained most recently.
#[derive(Default)]
pub struct Throttle {
    hosts: Mutex<Recent<Host, Complaints, MAX_HOSTS>>,
    tickets: AtomicU64,
}

struct Complaints {
    last: Instant,
    /// The end of the host's `Retry-After`.
    not_before: Instant,
    /// Between two requests.
    space: Duration,
    /// When the last request was sent.
    sent: Instant,
    /// The tickets of the requests that wait: first come, first served, also after another complaint.
    waiting: BTreeSet<u64>,
    /// Responses since the first complaint that were no complaints.
    answers: u64,
}

impl Complaints {
    /// How long this ticket has to wait for now. Zero: it is its turn.
    fn wait_for(&mut self, ticket: u64, now: Instant) -> Duration {
        self.waiting.insert(ticket);
        let before = u32::try_from(self.waiting.range(..ticket).count()).unwrap_or(u32::MAX);
        let first = self.not_before.max(self.sent + self.space);
        first.saturating_duration_since(now) + self.space * before
    }
}

impl Throttle {
    /// Waits until this host may be asked. Fails if the client has disconnected.
    pub fn wait(&self, host: &Host) -> Result<()> {
        let (begun, ticket) = (Instant::now(), self.tickets.fetch_add(1, Ordering::Relaxed));
        loop {
            let mut hosts = lock(&self.hosts);
            let Some(complaints) = hosts.get(host) else {
                return Ok(());
            };
            let now = Instant::now();
            let wait = complaints.wait_for(ticket, now);
            if wait.is_zero() || begun.elapsed() > MAX_QUEUE || task::passed_limit().is_some() {
                complaints.waiting.remove(&ticket);
                complaints.sent = now;
                return Ok(());
            }
            drop(hosts);
            if let Err(error) = task::sleep(wait.min(LOOK)) {
                if let Some(complaints) = lock(&self.hosts).get(host) {
                    complaints.waiting.remove(&ticket);
                }
                return Err(error);
            }
        }
    }

    /// Notes the answer to a request that was `sent` then: `wait` if it is a complaint.
    pub fn note(&self, host: &Host, sent: Instant, wait: Option<Duration>) {
        let now = Instant::now();
        let mut hosts = lock(&self.hosts);
        if wait.is_some() && hosts.get(host).is_none() {
            let complaints = Complaints {
                last: sent,
                not_before: now,
                space: FIRST_SPACE / 2,
                sent: now,
                waiting: BTreeSet::new(),
                answers: 0,
            };
            hosts.insert(host.clone(), complaints);
        }
        let Some(known) = hosts.get(host) else {
            return;
        };
        // Complaints about requests that were under way together count once.
        let is_later = sent >= known.last;
        match wait {
            Some(wait) => {
                if is_later {
                    known.last = now;
                    known.space = (known.space * 2).clamp(FIRST_SPACE, LARGEST_SPACE);
                }
                // A longer wait is not kept: the next request gets the host's own answer.
                if wait <= MAX_WAIT {
                    known.not_before = known.not_before.max(now + wait);
                }
            }
            None => {
                known.answers += 1;
                if is_later {
                    known.space = known.space.mul_f64(SHRINKS_TO);
                }
                if known.space < SMALLEST_SPACE {
                    hosts.remove(host);
                }
            }
        }
    }

    /// The number of answers of a complaining host that were no complaints. While it grows, a refused request may
    /// still succeed.
    pub fn answers(&self, host: &Host) -> u64 {
        lock(&self.hosts).get(host).map_or(0, |known| known.answers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        "registry.example.com".parse().unwrap()
    }

    /// How long a request waits.
    fn waits(throttle: &Throttle) -> Duration {
        let begin = Instant::now();
        throttle.wait(&host()).unwrap();
        begin.elapsed()
    }

    #[test]
    fn a_host_that_does_not_complain_is_asked_at_once() {
        let throttle = Throttle::default();
        throttle.note(&host(), Instant::now(), None);
        assert!(waits(&throttle) < Duration::from_millis(20));
    }

    #[test]
    fn after_a_complaint_all_wait_and_keep_their_distance() {
        let throttle = Throttle::default();
        let sent = Instant::now();
        for _ in 0..5 {
            throttle.note(&host(), sent, Some(Duration::from_millis(200)));
        }
        let first = waits(&throttle);
        assert!((190..300).contains(&first.as_millis()), "{first:?}");
        let second = waits(&throttle);
        assert!((30..150).contains(&second.as_millis()), "{second:?}");
        let other = "other.example.com".parse().unwrap();
        let begin = Instant::now();
        throttle.wait(&other).unwrap();
        assert!(begin.elapsed() < Duration::from_millis(20));
    }

    #[test]
    fn what_was_complained_of_is_forgotten_in_the_end() {
        let throttle = Throttle::default();
        throttle.note(&host(), Instant::now(), Some(Duration::ZERO));
        for _ in 0..200 {
            throttle.note(&host(), Instant::now(), None);
        }
        assert!(lock(&throttle.hosts).get(&host()).is_none());
    }

    #[test]
    fn who_came_first_is_served_first_also_after_another_complaint() {
        let throttle = Throttle::default();
        let sent = Instant::now();
        throttle.note(&host(), sent, Some(Duration::from_millis(500)));
        let served = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for n in 0..6 {
                let (throttle, served) = (&throttle, &served);
                scope.spawn(move || {
                    throttle.wait(&host()).unwrap();
                    lock(served).push(n);
                });
                // A busy machine may begin a thread late.
                while throttle.tickets.load(Ordering::Relaxed) <= n {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            throttle.note(&host(), Instant::now(), Some(Duration::from_millis(100)));
        });
        assert_eq!(lock(&served)[..], [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn nobody_is_held_by_a_wait_that_is_too_long() {
        let throttle = Throttle::default();
        throttle.note(&host(), Instant::now(), Some(Duration::from_secs(3600)));
        assert!(waits(&throttle) < Duration::from_millis(200));
    }
}
