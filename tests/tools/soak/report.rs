//! What was done, what was counted, and what was wrong.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The longest that any request may take. The service gives up on a registry long before.
pub const HANG: Duration = Duration::from_secs(90);

/// Defects printed one by one; beyond that they are counted.
const MAX_PRINTED: usize = 50;

#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    pub fn up(&self) {
        self.add(1);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[derive(Default)]
pub struct Report {
    pub requests: Counter,
    pub listings: Counter,
    pub short_listings: Counter,
    pub whole_bodies: Counter,
    pub bytes: Counter,
    pub left_by_client: Counter,
    pub failed_in_faults: Counter,
    pub failed_without: Counter,
    longest: Mutex<Duration>,
    defects: Mutex<Vec<String>>,
}

impl Report {
    pub fn took(&self, time: Duration) {
        let mut longest = self.longest.lock().unwrap();
        *longest = time.max(*longest);
    }

    pub fn defect(&self, what: String) {
        let mut defects = self.defects.lock().unwrap();
        if defects.len() < MAX_PRINTED {
            println!("DEFECT {what}");
        }
        defects.push(what);
    }

    pub fn defects(&self) -> usize {
        self.defects.lock().unwrap().len()
    }

    /// The rows about requests.
    pub fn print(&self) {
        row("requests", self.requests.get());
        row("listings, every line of each right", self.listings.get());
        row(
            "… of them without the versions that a fault kept from being made",
            self.short_listings.get(),
        );
        row(
            "files that arrived whole, all right",
            self.whole_bodies.get(),
        );
        row("… MiB", self.bytes.get() >> 20);
        row(
            "downloads that the client left halfway",
            self.left_by_client.get(),
        );
        row("failures during faults", self.failed_in_faults.get());
        row(
            "failures without one (must be 0)",
            self.failed_without.get(),
        );
        let longest = self.longest.lock().unwrap().as_secs_f64();
        row("longest request, s", format!("{longest:.1}"));
    }
}

pub fn row(what: &str, value: impl std::fmt::Display) {
    println!("{what:<66} {value:>12}");
}

/// When something was made to go wrong: requests that met such a time may fail.
pub struct Windows {
    /// Begin and end of each; one that goes on has no end.
    all: Mutex<Vec<(Instant, Option<Instant>)>>,
    grace: Duration,
}

/// A fault that goes on until this is dropped.
pub struct Window<'a> {
    windows: &'a Windows,
    number: usize,
}

impl Windows {
    /// Failures are forgiven so long after the end of a fault.
    pub fn new(grace: Duration) -> Self {
        Windows {
            all: Mutex::default(),
            grace,
        }
    }

    /// To be called before the fault.
    pub fn begin(&self) -> Window<'_> {
        let mut all = self.all.lock().unwrap();
        all.push((Instant::now(), None));
        Window {
            windows: self,
            number: all.len() - 1,
        }
    }

    pub fn met(&self, begun: Instant, ended: Instant) -> bool {
        let all = self.all.lock().unwrap();
        all.iter()
            .any(|(from, to)| *from <= ended && to.is_none_or(|to| begun <= to + self.grace))
    }
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        self.windows.all.lock().unwrap()[self.number].1 = Some(Instant::now());
    }
}
