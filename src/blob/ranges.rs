//! Downloads ranges of a blob over several connections: all of a large blob, or the parts of it that a plan wants.
//!
//! Place in the chain: source → resumed → **ranges** → reuse → verified → socket. The ranges are cut into windows. Each connection
//! fetches the first window that no other one fetches, by a range, and resumes it when it breaks. The windows lie in
//! memory until they are read in their order. What cannot go on so goes on over one connection, from the same byte.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::mem;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use log::debug;

use super::resume::Resumed;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::memory::{Held, Memory};
use crate::source::{Body, Origins, Source};
use crate::task;

/// Size of a window of a blob that is fetched whole. A connection waits a round trip for each.
pub const WINDOW: usize = 2 << 20;
/// Windows in memory for each connection: one that it fetches, and one that waits for slower connections.
pub const OF_A_CONNECTION: usize = 2;
/// A smaller blob is fetched over one connection.
const SMALLEST: u64 = 4 * WINDOW as u64;
/// Largest window of a plan, whose ranges are small: half the memory, and at 20 ms for a round trip still 50 MiB a second
/// for each connection.
pub const WINDOW_OF_PLAN: usize = 1 << 20;
/// Bytes of a window that are read at once.
const PIECE: usize = 64 << 10;

/// The windows of all downloads, and their plans. A download that finds no place here has one connection and no plan.
pub static WINDOWS: Memory = Memory::new(32 << 20);

/// Reads ranges of a blob, which several connections fetch, one after the other.
pub struct Ranges {
    shared: Arc<Shared>,
    /// Bytes of all ranges that were not read.
    left: u64,
    /// The connections end when this is gone.
    _reads: Arc<()>,
}

/// Reads a whole blob that several connections fetch.
pub struct Whole {
    now: Now,
    taken: u64,
}

enum Now {
    Many(Ranges),
    /// One connection fetches the remaining bytes.
    One(Box<dyn Read + Send>),
}

/// The blob that ranges are of.
#[derive(Clone)]
pub struct Blob {
    pub source: Arc<dyn Source>,
    pub origins: Origins,
    pub digest: Digest,
    pub size: u64,
    /// Its name in messages.
    pub what: String,
    /// Bytes that arrived of it.
    pub fetched: Arc<AtomicU64>,
    /// Longest time without a new byte: the client waits no longer.
    pub patience: Duration,
}

/// The place that a blob has among the windows, and the number of its connections.
pub struct Places {
    held: Held,
    connections: usize,
    /// Size of a window.
    window: usize,
    /// Bytes of windows in memory.
    room: usize,
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
            .find_map(|connections| Self::of(connections, WINDOW))
    }

    /// Place for the ranges of a plan. `connections`: the most that it may have.
    pub fn of_plan(connections: usize) -> Option<Self> {
        (1..=connections)
            .rev()
            .find_map(|connections| Self::of(connections, WINDOW_OF_PLAN))
    }

    fn of(connections: usize, window: usize) -> Option<Self> {
        let room = connections * OF_A_CONNECTION * window;
        Some(Self {
            held: WINDOWS.take(room)?,
            connections,
            window,
            room,
        })
    }

    /// The first window of these ranges.
    pub fn first(&self, ranges: &[Range<u64>]) -> Range<u64> {
        Cursor::default().next(ranges, self.window)
    }
}

/// Ranges of a blob on their way over several connections.
struct Shared {
    blob: Blob,
    /// In their order, none of them empty.
    ranges: Vec<Range<u64>>,
    window: usize,
    room: usize,
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
    /// Where the next window begins.
    next: Cursor,
    /// Buffers of whole windows that were read.
    spare: Vec<Vec<u8>>,
    /// Bytes of all buffers.
    reserved: usize,
    /// Connections that still fetch.
    connections: usize,
    /// Why the remaining bytes are fetched over one connection.
    ends: Option<String>,
}

/// A place in a list of ranges.
#[derive(Clone, Copy, Default)]
struct Cursor {
    /// The number of the range.
    range: usize,
    /// Bytes of it that lie before the place.
    into: u64,
}

impl Cursor {
    /// The bytes from here to the end of the range, but no more than a window. Empty at the end of the list.
    fn next(self, ranges: &[Range<u64>], window: usize) -> Range<u64> {
        let Some(range) = ranges.get(self.range) else {
            return 0..0;
        };
        let start = range.start + self.into;
        start..range.end.min(start + window as u64)
    }

    /// Moves on by `bytes` in the range.
    fn advance(&mut self, ranges: &[Range<u64>], bytes: u64) {
        self.into += bytes;
        let is_over = |range: &Range<u64>| range.start + self.into >= range.end;
        if ranges.get(self.range).is_some_and(is_over) {
            *self = Self {
                range: self.range + 1,
                into: 0,
            };
        }
    }
}

struct Window {
    /// Where it lies in the blob.
    range: Range<u64>,
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

impl Blob {
    /// Longest wait for a byte that ranges are to have. The rest of the time is for a plain download: some proxies
    /// never answer a request for a range.
    pub fn patience_with_ranges(&self) -> Duration {
        let left = task::time_left().unwrap_or(self.patience);
        left.min(self.patience) * 2 / 3
    }

    /// Limits what is done for the next byte, for which the client waits since `begun`.
    pub fn limit(&self, begun: Instant) -> task::Restore {
        task::within(self.patience.saturating_sub(begun.elapsed()))
    }

    /// Requests a range.
    pub fn open(&self, range: Range<u64>) -> Result<Body> {
        (self.source).blob(self.digest, self.size, range, &self.origins)
    }

    /// The bytes from a position on, over one connection. `body` begins there, or before it.
    pub fn resumed(&self, body: Body, from: u64) -> Box<dyn Read + Send> {
        let blob = self.clone();
        let reopen = move |from| blob.open(from..blob.size);
        let range = from..self.size;
        Box::new(Counted {
            inner: Resumed::new(body, reopen, self.what.clone(), range, self.size),
            fetched: self.fetched.clone(),
        })
    }

    /// The same where several connections cannot go on. `why`: the reason, for the log.
    pub fn rest(&self, from: u64, why: String) -> Box<dyn Read + Send> {
        let body = Body {
            reader: Box::new(Ended(why)),
            starts_at: from,
            ends_at: self.size,
        };
        self.resumed(body, from)
    }

    fn count(&self, read: &io::Result<usize>) {
        if let Ok(n) = read {
            self.fetched.fetch_add(*n as u64, Relaxed);
        }
    }
}

impl Ranges {
    /// Fetches ranges of a blob over several connections. `ranges`: at least one, none of them empty, in their order.
    /// `first`: the answer to the request for the first window.
    pub fn begin(places: Places, blob: Blob, ranges: Vec<Range<u64>>, first: Body) -> Self {
        let Places {
            held,
            connections,
            window,
            room,
        } = places;
        let left = ranges.iter().map(|range| range.end - range.start).sum();
        let shared = Arc::new(Shared {
            blob,
            ranges,
            window,
            room,
            state: Mutex::new(State {
                connections,
                ..State::default()
            }),
            changed: Condvar::new(),
            _held: held,
        });
        // The connection that has the answer to the first request fetches the first window.
        let added = shared.add(&mut lock(&shared.state));
        let mut first = added.map(|(number, range)| (number, (range, first)));
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
        Self {
            shared,
            left,
            _reads: reads,
        }
    }

    /// Reads the next bytes of the ranges, in their order. `Err`: the reason why several connections cannot go on. One is
    /// that they take too long.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Result<usize, String>> {
        if self.left == 0 {
            return Ok(Ok(0));
        }
        let shared = &self.shared;
        let what = || shared.blob.what.clone();
        let patience = shared.blob.patience_with_ranges();
        let limit = task::within(patience);
        let read = task::wait_for(&shared.state, &shared.changed, what, |state| {
            let read = state.read(buffer, shared.window);
            read.map(Ok).or_else(|| state.ends.take().map(Err))
        });
        drop(limit);
        match read {
            Ok(Ok(read)) => {
                // There may be place for another window.
                shared.changed.notify_all();
                let read = read?;
                self.left -= read as u64;
                Ok(Ok(read))
            }
            Ok(Err(why)) => Ok(Err(why)),
            Err(Error::ClientGone) => Err(task::client_gone()),
            Err(Error::TooSlow { .. }) if task::passed_limit().is_none() => {
                let seconds = patience.as_secs();
                Ok(Err(format!("no range arrived for {seconds} s")))
            }
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// The blob that they are of.
    pub fn blob(&self) -> &Blob {
        &self.shared.blob
    }
}

impl Whole {
    /// Fetches a blob over several connections. `first`: the answer to the request for the first window.
    pub fn begin(places: Places, blob: Blob, first: Body) -> Self {
        let all = 0..blob.size;
        Self {
            now: Now::Many(Ranges::begin(places, blob, vec![all], first)),
            taken: 0,
        }
    }
}

impl Read for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let ranges = match &mut self.now {
            Now::Many(ranges) => ranges,
            Now::One(rest) => return rest.read(buffer),
        };
        let begun = Instant::now();
        match ranges.read(buffer)? {
            Ok(n) => {
                self.taken += n as u64;
                Ok(n)
            }
            Err(why) => {
                let _limit = ranges.blob().limit(begun);
                self.now = Now::One(ranges.blob().rest(self.taken, why));
                self.read(buffer)
            }
        }
    }
}

impl Shared {
    /// Requests a range. If the registry does not support ranges, one connection fetches the remaining bytes.
    fn open(&self, range: Range<u64>) -> Result<Body> {
        let start = range.start;
        let body = self.blob.open(range)?;
        if body.starts_at == start {
            return Ok(body);
        }
        let why = "ranges are not supported any more".to_owned();
        self.change(|state| state.ends = Some(why.clone()));
        Err(Error::Nonsense {
            url: self.blob.what.clone(),
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
            let Some(n) = state.windows.iter().position(is_wanted) else {
                return match self.has_begun_all(state) {
                    true => Some(None),
                    false => self.add(state).map(Some),
                };
            };
            let window = state.windows.get_mut(n)?;
            window.fetch = Fetch::UnderWay;
            let range = window.range.start + window.bytes.len() as u64..window.range.end;
            Some(Some((state.first + n as u64, range)))
        });
        claimed.ok().flatten()
    }

    fn has_begun_all(&self, state: &State) -> bool {
        state.next.range == self.ranges.len()
    }

    /// Begins the next window, if there is room for it.
    fn add(&self, state: &mut State) -> Option<(u64, Range<u64>)> {
        let range = state.next.next(&self.ranges, self.window);
        let bytes = state.buffer((range.end - range.start) as usize, self.window, self.room)?;
        let number = state.first + state.windows.len() as u64;
        state.next.advance(&self.ranges, range.end - range.start);
        state.windows.push_back(Window {
            range: range.clone(),
            bytes,
            taken: 0,
            fetch: Fetch::UnderWay,
        });
        Some((number, range))
    }
}

impl State {
    /// A buffer for a window of `length` bytes. Those of whole windows are used again.
    fn buffer(&mut self, length: usize, window: usize, room: usize) -> Option<Vec<u8>> {
        let is_whole = length == window;
        if let Some(spare) = self.spare.pop() {
            if is_whole {
                return Some(spare);
            }
            // Small windows would keep the room of large ones.
            self.reserved -= window;
            self.reserved -= window * mem::take(&mut self.spare).len();
        }
        if self.reserved + length > room {
            return None;
        }
        self.reserved += length;
        let mut bytes = Vec::new();
        bytes.reserve_exact(length);
        Some(bytes)
    }

    /// Notes the outcome of reading bytes of a window. Whether that was the last of it.
    fn put(&mut self, number: u64, read: io::Result<usize>, piece: &[u8]) -> bool {
        let Some(window) = self.window(number) else {
            return true;
        };
        match read {
            Ok(0) => window.fetch = Fetch::Done,
            Ok(n) => window.bytes.extend_from_slice(&piece[..n]),
            Err(error) => window.fetch = Fetch::Failed(error),
        }
        if window.range.start + window.bytes.len() as u64 == window.range.end {
            window.fetch = Fetch::Done;
        }
        !matches!(window.fetch, Fetch::UnderWay)
    }

    fn window(&mut self, number: u64) -> Option<&mut Window> {
        let n = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.windows.get_mut(n)
    }

    /// Copies bytes that are there in their order. `None`: they are not there yet.
    fn read(&mut self, buffer: &mut [u8], window_size: usize) -> Option<io::Result<usize>> {
        let is_ending = self.ends.is_some();
        let window = self.windows.front_mut()?;
        let there = &window.bytes[window.taken..];
        if !there.is_empty() {
            let n = buffer.len().min(there.len());
            buffer[..n].copy_from_slice(&there[..n]);
            window.taken += n;
            if window.range.start + window.taken as u64 == window.range.end {
                self.drop_first(window_size);
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

    /// Forgets the first window, all of which was read.
    fn drop_first(&mut self, window_size: usize) {
        let Some(Window { mut bytes, .. }) = self.windows.pop_front() else {
            return;
        };
        self.first += 1;
        if bytes.len() == window_size {
            bytes.clear();
            self.spare.push(bytes);
        } else {
            self.reserved -= bytes.len();
        }
    }
}

/// One of the connections of a blob. However it ends, others fetch the remaining bytes of its window.
struct Connection {
    shared: Arc<Shared>,
    /// The number of the window that it fetches.
    window: Option<u64>,
    /// Why it ends.
    why: String,
}

impl Connection {
    /// Fetches windows until there are no more. `first`: the first window, and the answer to the request for it.
    fn fetch(&mut self, first: Option<(Range<u64>, Body)>) {
        self.why = "its thread panicked".to_owned();
        let (shared, mut piece) = (self.shared.clone(), vec![0; PIECE]);
        let mut first = first.map(|(range, body)| (0, range, Ok(body)));
        let claim = || {
            let (number, range) = shared.claim()?;
            // Several mirrors may be silent, one after the other.
            let limit = task::within(shared.blob.patience);
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
            let (what, size) = (shared.blob.what.clone(), shared.blob.size);
            let mut bytes = Resumed::new(body, reopen, what, range, size);
            loop {
                let read = bytes.read(&mut piece);
                shared.blob.count(&read);
                // The reader needs nothing more.
                if task::is_abandoned() {
                    return;
                }
                let is_over = shared.change(|state| state.put(number, read, &piece));
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
                debug!("{}: one connection less: {}", shared.blob.what, self.why);
            }
            let is_there = |one: &Window| matches!(one.fetch, Fetch::Done | Fetch::Failed(_));
            let is_all = shared.has_begun_all(state) && state.windows.iter().all(is_there);
            if state.connections == 0 && !is_all && state.ends.is_none() {
                state.ends = Some(mem::take(&mut self.why));
            }
        });
    }
}

/// A body of which nothing comes any more, for this reason.
struct Ended(String);

impl Read for Ended {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other(self.0.clone()))
    }
}

/// Counts the bytes of a blob.
struct Counted<R> {
    inner: R,
    fetched: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.fetched.fetch_add(n as u64, Relaxed);
        Ok(n)
    }
}
