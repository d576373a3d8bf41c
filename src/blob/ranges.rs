//! Downloads a large blob over several connections.
//!
//! Place in the chain: source → resumed → **ranges** → verified → socket. The blob is cut into windows. Each connection
//! fetches the first window that no other one fetches, by a range, and resumes it when it breaks. The windows lie in
//! memory until they are read in their order. What cannot go on so goes on over one connection, from the same byte.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::mem;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use log::debug;

use super::resume::{PATIENCE, Resumed};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::memory::{Held, Memory};
use crate::source::{Body, Origins, Source};
use crate::task;

/// Size of a window. A connection waits a round trip for each.
const WINDOW: usize = 2 << 20;
/// Windows in memory for each connection: one that it fetches, and one that waits for slower connections.
const OF_A_CONNECTION: usize = 2;
/// A smaller blob is fetched over one connection.
const SMALLEST: u64 = 4 * WINDOW as u64;
/// Bytes of a window that are read at once.
const PIECE: usize = 64 << 10;

/// The windows of all downloads. A download that finds no place here has one connection.
static WINDOWS: Memory = Memory::new(32 << 20);

/// Reads a blob that several connections fetch.
pub struct Ranges(Now);

enum Now {
    /// Several connections fetch it, as long as `_reads` is there.
    Many {
        shared: Arc<Shared>,
        taken: u64,
        _reads: Arc<()>,
    },
    /// One connection fetches what is left.
    One(Box<dyn Read + Send>),
}

/// The place that a blob has among the windows, and the number of its connections.
pub struct Places {
    held: Held,
    connections: usize,
}

impl Places {
    /// Place for a blob of this size and at most so many connections, if there is place for two.
    pub fn take(size: u64, connections: usize) -> Option<Self> {
        if size < SMALLEST {
            return None;
        }
        let windows = usize::try_from(size.div_ceil(WINDOW as u64)).unwrap_or(usize::MAX);
        (2..=connections.min(windows))
            .rev()
            .find_map(|connections| {
                let held = WINDOWS.take(connections * OF_A_CONNECTION * WINDOW)?;
                Some(Self { held, connections })
            })
    }
}

/// A blob on its way over several connections.
struct Shared {
    source: Arc<dyn Source>,
    origins: Origins,
    digest: Digest,
    size: u64,
    /// The name of the blob in messages.
    what: String,
    /// Most windows in memory.
    depth: usize,
    state: Mutex<State>,
    changed: Condvar,
    _held: Held,
}

#[derive(Default)]
struct State {
    /// The windows that are fetched, or wait to be read.
    windows: VecDeque<Window>,
    /// The number of the first of them.
    first: u64,
    /// Buffers of windows that were read.
    spare: Vec<Vec<u8>>,
    /// Connections that still fetch.
    connections: usize,
    /// Why the rest is fetched over one connection.
    ends: Option<String>,
}

struct Window {
    bytes: Vec<u8>,
    /// How many of them were read.
    taken: usize,
    fetch: Fetch,
}

enum Fetch {
    /// A connection that was to fetch it has ended.
    Wanted,
    UnderWay,
    /// All that comes of it is there.
    Done,
    Failed(io::Error),
}

impl Ranges {
    /// The first window of a blob, by a range.
    pub fn first(size: u64) -> Range<u64> {
        0..size.min(WINDOW as u64)
    }

    /// Fetches the blob over several connections. `first`: the answer to the request for the first window.
    pub fn begin(
        places: Places,
        source: &Arc<dyn Source>,
        origins: &Origins,
        (digest, size): (Digest, u64),
        what: String,
        first: Body,
    ) -> Self {
        let Places { held, connections } = places;
        let shared = Arc::new(Shared {
            source: source.clone(),
            origins: origins.clone(),
            digest,
            size,
            what,
            depth: connections * OF_A_CONNECTION,
            state: Mutex::new(State {
                connections,
                ..State::default()
            }),
            changed: Condvar::new(),
            _held: held,
        });
        // The connection that has the answer to the first request fetches the first window.
        lock(&shared.state).add();
        let mut first = Some((0, first));
        let reads = Arc::new(());
        let task = task::helping(&reads);
        for _ in 0..connections {
            let (window, first) = first.take().unzip();
            let mut connection = Connection {
                shared: shared.clone(),
                window,
                why: "no thread could be started".to_owned(),
            };
            let task = task.clone();
            let thread = thread::Builder::new().name("range".into());
            let started = thread.spawn(move || {
                let _task = task::adopt(task);
                connection.fetch(first);
            });
            if let Err(error) = started {
                debug!("no thread for one more connection: {error}");
            }
        }
        Self(Now::Many {
            shared,
            taken: 0,
            _reads: reads,
        })
    }
}

impl Shared {
    fn range(&self, window: u64) -> Range<u64> {
        let start = window * WINDOW as u64;
        start..self.size.min(start + WINDOW as u64)
    }

    /// Requests a range. If the registry does not support ranges, the rest is fetched over one connection.
    fn open(&self, range: Range<u64>) -> Result<Body> {
        let start = range.start;
        let body = self
            .source
            .blob(self.digest, self.size, range, &self.origins)?;
        if body.starts_at == start {
            return Ok(body);
        }
        let why = "ranges are not supported any more".to_owned();
        self.change(|state| state.ends = Some(why.clone()));
        Err(Error::Nonsense {
            url: self.what.clone(),
            why,
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut lock(&self.state));
        self.changed.notify_all();
        changed
    }

    /// The next window to fetch, and its range. Waits until there is place for it. `None`: there is none, or the reader is
    /// gone.
    fn claim(&self) -> Option<(u64, Range<u64>)> {
        let claimed = task::wait_for(&self.state, &self.changed, String::new, |state| {
            if state.ends.is_some() {
                return Some(None);
            }
            let is_wanted = |one: &Window| matches!(one.fetch, Fetch::Wanted);
            let number = match state.windows.iter().position(is_wanted) {
                Some(n) => state.first + n as u64,
                None if self.range(state.next()).is_empty() => return Some(None),
                None if state.windows.len() == self.depth => return None,
                None => state.add(),
            };
            let window = state.window(number)?;
            window.fetch = Fetch::UnderWay;
            let mut range = self.range(number);
            range.start += window.bytes.len() as u64;
            Some(Some((number, range)))
        });
        claimed.ok().flatten()
    }

    /// The bytes that are left, over one connection.
    fn rest(&self, from: u64, why: String) -> Box<dyn Read + Send> {
        let (source, origins) = (self.source.clone(), self.origins.clone());
        let (digest, size) = (self.digest, self.size);
        let body = Body {
            reader: Box::new(Ended(why)),
            starts_at: from,
            ends_at: size,
        };
        let reopen = move |from| source.blob(digest, size, from..size, &origins);
        let what = self.what.clone();
        Box::new(Resumed::new(body, reopen, what, from..size, size))
    }
}

impl State {
    /// The number of the first window that was not begun.
    fn next(&self) -> u64 {
        self.first + self.windows.len() as u64
    }

    /// Begins the next window, and returns its number.
    fn add(&mut self) -> u64 {
        let (number, mut bytes) = (self.next(), self.spare.pop().unwrap_or_default());
        bytes.clear();
        bytes.reserve_exact(WINDOW);
        self.windows.push_back(Window {
            bytes,
            taken: 0,
            fetch: Fetch::UnderWay,
        });
        number
    }

    /// Notes the outcome of reading bytes of a window that lies before `end`. Whether that was the last of it.
    fn put(&mut self, number: u64, end: u64, read: io::Result<usize>, piece: &[u8]) -> bool {
        let Some(window) = self.window(number) else {
            return true;
        };
        match read {
            Ok(0) => window.fetch = Fetch::Done,
            Ok(n) => window.bytes.extend_from_slice(&piece[..n]),
            Err(error) => window.fetch = Fetch::Failed(error),
        }
        if number * WINDOW as u64 + window.bytes.len() as u64 == end {
            window.fetch = Fetch::Done;
        }
        !matches!(window.fetch, Fetch::UnderWay)
    }

    fn window(&mut self, number: u64) -> Option<&mut Window> {
        let n = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.windows.get_mut(n)
    }

    /// Copies bytes that are there in their order. `None`: they are not there yet.
    fn read(&mut self, buffer: &mut [u8]) -> Option<io::Result<usize>> {
        let is_ending = self.ends.is_some();
        let window = self.windows.front_mut()?;
        let there = &window.bytes[window.taken..];
        if !there.is_empty() {
            let n = buffer.len().min(there.len());
            buffer[..n].copy_from_slice(&there[..n]);
            window.taken += n;
            if window.taken == WINDOW {
                let read = self.windows.pop_front();
                self.spare.extend(read.map(|window| window.bytes));
                self.first += 1;
            }
            return Some(Ok(n));
        }
        match &mut window.fetch {
            // The registry gives no more of it.
            Fetch::Done => Some(Ok(0)),
            // One connection may fetch what several cannot.
            Fetch::Failed(_) if is_ending => None,
            Fetch::Failed(error) => {
                let kind = error.kind();
                Some(Err(mem::replace(error, kind.into())))
            }
            Fetch::Wanted | Fetch::UnderWay => None,
        }
    }
}

/// One of the connections of a blob. However it ends, others fetch the rest of its window.
struct Connection {
    shared: Arc<Shared>,
    /// The number of the window that it fetches.
    window: Option<u64>,
    /// Why it ends.
    why: String,
}

impl Connection {
    /// Fetches windows until there are no more. `first`: the answer to the request for the first one.
    fn fetch(&mut self, first: Option<Body>) {
        self.why = "its thread panicked".to_owned();
        let (shared, mut piece) = (self.shared.clone(), vec![0; PIECE]);
        let mut first = first.map(|body| (0, shared.range(0), Ok(body)));
        let claim = || {
            let (number, range) = shared.claim()?;
            // Several mirrors may be silent, one after the other.
            let limit = task::within(PATIENCE);
            let opened = shared.open(range.clone());
            drop(limit);
            Some((number, range, opened))
        };
        while let Some((number, range, opened)) = first.take().or_else(claim) {
            self.window = Some(number);
            let body = match opened {
                Ok(body) => body,
                Err(error) => {
                    self.why = error.line();
                    return;
                }
            };
            let end = range.end;
            let reopen = |from| shared.open(from..end);
            let (what, size) = (shared.what.clone(), shared.size);
            let mut bytes = Resumed::new(body, reopen, what, range, size);
            loop {
                let read = bytes.read(&mut piece);
                // The reader needs nothing more.
                if task::is_abandoned() {
                    return;
                }
                let is_over = shared.change(|state| state.put(number, end, read, &piece));
                if is_over {
                    break;
                }
            }
            self.window = None;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let (shared, number) = (self.shared.clone(), self.window);
        shared.change(|state| {
            state.connections -= 1;
            if let Some(window) = number.and_then(|number| state.window(number))
                && matches!(window.fetch, Fetch::UnderWay)
            {
                window.fetch = Fetch::Wanted;
                debug!("{}: one connection less: {}", shared.what, self.why);
            }
            let is_there = |one: &Window| matches!(one.fetch, Fetch::Done | Fetch::Failed(_));
            let is_all =
                shared.range(state.next()).is_empty() && state.windows.iter().all(is_there);
            if state.connections == 0 && !is_all && state.ends.is_none() {
                state.ends = Some(mem::take(&mut self.why));
            }
        });
    }
}

impl Read for Ranges {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (shared, taken) = match &mut self.0 {
            Now::Many { shared, taken, .. } => (shared, taken),
            Now::One(rest) => return rest.read(buffer),
        };
        if *taken == shared.size {
            return Ok(0);
        }
        let what = || shared.what.clone();
        let read = task::wait_for(&shared.state, &shared.changed, what, |state| {
            let read = state.read(buffer);
            read.map(Ok).or_else(|| state.ends.take().map(Err))
        });
        let why = match read {
            Ok(Ok(read)) => {
                // There may be place for another window.
                shared.changed.notify_all();
                *taken += *read.as_ref().unwrap_or(&0) as u64;
                return read;
            }
            Ok(Err(why)) => why,
            Err(Error::ClientGone) => return Err(task::client_gone()),
            Err(error) => return Err(io::Error::other(error)),
        };
        self.0 = Now::One(shared.rest(*taken, why));
        self.read(buffer)
    }
}

/// A body of which nothing comes any more, for this reason.
struct Ended(String);

impl Read for Ended {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other(self.0.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Descriptor;
    use crate::name::Tag;
    use crate::source::{Download, Part, Reference, StoredManifest};

    /// Bytes that a window has when the thread of its connection panics.
    const FETCHED: usize = 100_000;

    /// A source of one blob. The thread that fetches the second window panics.
    struct Panicking {
        bytes: Vec<u8>,
        asked: Mutex<Vec<Range<u64>>>,
    }

    struct Panic;

    impl Read for Panic {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            panic!("the test wants this")
        }
    }

    impl Source for Panicking {
        fn blob(&self, _: Digest, _: u64, range: Range<u64>, _: &Origins) -> Result<Body> {
            let [start, end] = [range.start, range.end].map(|n| usize::try_from(n).unwrap());
            lock(&self.asked).push(range.clone());
            let reader: Box<dyn Read + Send> = if start == WINDOW {
                let fetched = self.bytes[start..start + FETCHED].to_vec();
                Box::new(io::Cursor::new(fetched).chain(Panic))
            } else {
                Box::new(io::Cursor::new(self.bytes[start..end].to_vec()))
            };
            Ok(Body {
                reader,
                starts_at: range.start,
                ends_at: range.end,
            })
        }

        fn name(&self) -> String {
            unreachable!()
        }
        fn tags(&self) -> Result<Vec<Tag>> {
            unreachable!()
        }
        fn digest_of(&self, _: &Tag) -> Result<Option<Digest>> {
            unreachable!()
        }
        fn manifest(&self, _: Reference<'_>) -> Result<StoredManifest> {
            unreachable!()
        }
        fn whole_blob(&self, _: Digest, _: &Origins) -> Result<(u64, Box<dyn Read + Send>)> {
            unreachable!()
        }
        fn blob_range(&self, _: Digest, _: u64, _: Range<u64>) -> Result<Part> {
            unreachable!()
        }
        fn holds(&self, _: Digest) -> Result<bool> {
            unreachable!()
        }
        fn referrers(&self, _: Digest) -> Result<Vec<Descriptor>> {
            unreachable!()
        }
        fn companion(&self, _: &Tag) -> Result<Option<StoredManifest>> {
            unreachable!()
        }
        fn blob_url(&self, _: Digest) -> Result<Option<String>> {
            unreachable!()
        }
        fn blob_request(&self, _: Digest) -> Result<Download> {
            unreachable!()
        }
        fn manifest_request(&self, _: Reference<'_>, _: &str) -> Result<Download> {
            unreachable!()
        }
    }

    #[test]
    fn a_window_whose_thread_panics_goes_on_from_its_bytes() {
        // More than fit: the other connection does not end before that thread panics.
        let bytes: Vec<u8> = (0..8 * WINDOW + 3).map(|n| (n % 251) as u8).collect();
        let size = bytes.len() as u64;
        let panicking = Arc::new(Panicking {
            bytes: bytes.clone(),
            asked: Mutex::default(),
        });
        let source: Arc<dyn Source> = panicking.clone();
        let (origins, digest) = (Origins::default(), Digest::of(b"not checked here"));
        let first = source.blob(digest, size, Ranges::first(size), &origins);
        let mut ranges = Ranges::begin(
            Places::take(size, 2).unwrap(),
            &source,
            &origins,
            (digest, size),
            "blob".into(),
            first.unwrap(),
        );
        let mut arrived = Vec::new();
        ranges.read_to_end(&mut arrived).unwrap();
        assert!(arrived == bytes);
        let window = WINDOW as u64;
        let rest = window + FETCHED as u64..2 * window;
        let asked = lock(&panicking.asked);
        assert!(asked.contains(&rest), "{asked:?}");
    }
}
