//! The report: work, counts and errors.

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
    pub side_files: Counter,
    pub bytes: Counter,
    pub left_by_client: Counter,
    pub slow: Counter,
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
            "answers to what an image says, all right",
            self.side_files.get(),
        );
        row(
            "downloads that the client left halfway",
            self.left_by_client.get(),
        );
        row("downloads by a slow client", self.slow.get());
        row("failures that a fault excuses", self.failed_in_faults.get());
        row(
            "failures that none does (must be 0)",
            self.failed_without.get(),
        );
        let longest = self.longest.lock().unwrap().as_secs_f64();
        row("longest request, s", format!("{longest:.1}"));
    }
}

pub fn row(what: &str, value: impl std::fmt::Display) {
    println!("{what:<66} {value:>12}");
}

/// The kinds of injected faults.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    RegistryRestarts,
    ConnectionsAreCut,
    Kill,
    KillAndDamage,
    DiskFills,
    ClockJumps,
}

/// How a request fails.
#[derive(Clone, Copy, Debug)]
pub enum Failure {
    /// Without an answer, or in the middle of one.
    Cut,
    /// With an answer that says why, or a listing that lacks something. `made`: of files that have to be made.
    Refused { made: bool },
}

impl Fault {
    /// May whoever meets it fail like that? Everything else is a defect: the network may break, and the registry
    /// be away for seconds, without any client seeing it that has begun to receive something.
    fn excuses(self, failure: Failure) -> bool {
        match self {
            Fault::RegistryRestarts | Fault::ConnectionsAreCut => {
                matches!(failure, Failure::Refused { .. })
            }
            Fault::Kill | Fault::KillAndDamage => matches!(failure, Failure::Cut),
            Fault::DiskFills => matches!(failure, Failure::Refused { made: true }),
            Fault::ClockJumps => false,
        }
    }
}

/// When something was made to go wrong, and what.
pub struct Windows {
    all: Mutex<Vec<Interval>>,
    grace: Duration,
}

struct Interval {
    faults: Vec<Fault>,
    begin: Instant,
    /// One that goes on has none.
    end: Option<Instant>,
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

    /// To be called before the faults.
    pub fn begin(&self, faults: &[Fault]) -> Window<'_> {
        let mut all = self.all.lock().unwrap();
        all.push(Interval {
            faults: faults.to_vec(),
            begin: Instant::now(),
            end: None,
        });
        Window {
            windows: self,
            number: all.len() - 1,
        }
    }

    /// Did a request meet a fault that excuses its failure?
    pub fn excuse(&self, begun: Instant, ended: Instant, failure: Failure) -> bool {
        let all = self.all.lock().unwrap();
        all.iter().any(|interval| {
            interval.begin <= ended
                && interval.end.is_none_or(|end| begun <= end + self.grace)
                && interval.faults.iter().any(|fault| fault.excuses(failure))
        })
    }
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        self.windows.all.lock().unwrap()[self.number].end = Some(Instant::now());
    }
}
