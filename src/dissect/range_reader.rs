//! The bytes of an image by their place, with as few of them fetched as will do.
//!
//! Place in the chain: source → **blocks** → partitions → squashfs, erofs or tar. Everything that is
//! read passes here, so here is where it is limited: what is fetched, what is unpacked, what is kept
//! and how long it takes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use log::info;

use super::unpack::{self, Packing};
use crate::deadline;
use crate::error::{Error, Result};
use crate::hangup;
use crate::places::Place;
use crate::pool::WINDOW;
use crate::source::Part;

/// Fetched by ranges for one image, at most.
const MAX_FETCHED: u64 = 16 << 20;
/// Streamed for one image, where it has to be read from its start.
const MAX_STREAMED: u64 = 512 << 20;
/// Unpacked while it streams: gzip can make a thousand bytes of one.
const MAX_UNPACKED: u64 = 2 << 30;
/// Kept of what was fetched; what was fetched first goes first.
const MAX_KEPT: usize = 2 << 20;
/// Read at once, at most. Larger than any block of a file system that is read here.
const MAX_READ: usize = 2 << 20;

/// Where pieces begin.
const ALIGNMENT: u64 = 4 << 10;
/// Smallest piece fetched: a round trip takes as long as these bytes do.
const PIECE: u64 = 64 << 10;
/// Largest piece fetched of what is read one piece after the other.
const MAX_PIECE: u64 = 1 << 20;

/// Where the bytes of an image come from.
pub trait Origin {
    /// How messages call it.
    fn name(&self) -> String;

    /// Whose word they are, for they are not checked; of a file of our own, which was, nobody's.
    fn source(&self) -> String;

    /// Some of them.
    fn part(&self, range: Range<u64>) -> Result<Part>;

    /// All of them, from the first on.
    fn whole(&self) -> Result<Box<dyn Read + Send>>;
}

/// Why something could not be read.
#[derive(Debug)]
pub enum Failure {
    /// The bytes did not come. Another time they may.
    Fetch(Error),
    /// The bytes make no sense, or too many of them would be needed. They will be the same next time.
    Image(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Fetch(error)
    }
}

/// The image is at fault.
pub fn bad<T>(why: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Image(why.into()))
}

/// The bytes of an image.
pub struct Blocks<'a> {
    origin: &'a dyn Origin,
    /// How many there are; not known of what is packed.
    size: Option<u64>,
    /// How many there are of what is packed.
    packed: Option<u64>,
    way: Way,
    /// What was fetched last, by the place of its first byte.
    pieces: VecDeque<Piece>,
    fetched: u64,
}

struct Piece {
    start: u64,
    bytes: Vec<u8>,
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

/// How bytes are got at.
enum Way {
    /// Any of them, by ranges. `ahead`: how many at least.
    Ranges { ahead: u64 },
    /// One after the other. To go back is to begin again.
    Stream(Stream),
}

struct Stream {
    packing: Option<Packing>,
    /// For the memory that unpacking takes.
    _window: Option<Place<'static>>,
    body: Box<dyn Read>,
    at: u64,
    unpacked: u64,
    tap: Rc<RefCell<Tap>>,
}

/// What came through a stream before it was unpacked.
#[derive(Default)]
struct Tap {
    streamed: u64,
    failure: Option<io::Error>,
}

impl<'a> Blocks<'a> {
    /// An image of `size` bytes; nothing is fetched yet.
    pub fn new(origin: &'a dyn Origin, size: u64) -> Self {
        Self {
            origin,
            size: Some(size),
            packed: None,
            way: Way::Ranges { ahead: PIECE },
            pieces: VecDeque::new(),
            fetched: 0,
        }
    }

    /// Goes on with what is packed in it, which has to be read from its start.
    pub fn unpack(&mut self, packing: Packing) -> Result<(), Failure> {
        let body = self.origin.whole()?;
        self.pieces.clear();
        self.packed = self.size.take();
        self.stream(body, Some(packing))
    }

    /// How many bytes there are, if that is known.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// The first bytes: `length` of them, or all if there are fewer.
    pub fn head(&mut self, length: usize) -> Result<Vec<u8>, Failure> {
        match self.size {
            Some(size) => self.read(0, length.min(usize::try_from(size).unwrap_or(usize::MAX))),
            None => {
                self.reach(0, length as u64)?;
                let found = self.pieces.back().filter(|piece| piece.start == 0);
                let bytes = found
                    .map(|piece| piece.bytes.as_slice())
                    .unwrap_or_default();
                Ok(bytes[..length.min(bytes.len())].to_vec())
            }
        }
    }

    /// These bytes, all of them.
    pub fn read(&mut self, start: u64, length: usize) -> Result<Vec<u8>, Failure> {
        self.reach(start, length as u64)?;
        match self.kept(start, length as u64) {
            Some(bytes) => Ok(bytes.to_vec()),
            None => bad("it is shorter than it says"),
        }
    }

    /// Is there a byte at this place? Where what is packed ends, only unpacking it tells.
    pub fn has(&mut self, at: u64) -> Result<bool, Failure> {
        if let Some(size) = self.size {
            return Ok(at < size);
        }
        self.reach(at, 1)?;
        Ok(self.kept(at, 1).is_some())
    }

    /// Gets these bytes in one round trip, so that reading them costs none any more.
    pub fn prepare(&mut self, start: u64, length: u64) -> Result<(), Failure> {
        match &self.way {
            // It would have to begin again.
            Way::Stream(stream) if start < stream.at => Ok(()),
            _ => self.reach(start, length),
        }
    }

    fn kept(&self, start: u64, length: u64) -> Option<&[u8]> {
        if length == 0 {
            return Some(&[]);
        }
        let end = start.checked_add(length)?;
        let piece = self
            .pieces
            .iter()
            .rfind(|piece| piece.start <= start && end <= piece.end())?;
        let from = usize::try_from(start - piece.start).ok()?;
        piece.bytes.get(from..from + usize::try_from(length).ok()?)
    }

    /// Sees to it that these bytes are among the pieces, or as many of them as a stream has.
    fn reach(&mut self, start: u64, length: u64) -> Result<(), Failure> {
        let size = self.size.unwrap_or(u64::MAX);
        let end = match start.checked_add(length) {
            Some(end) if end <= size => end,
            _ => {
                return bad(format!(
                    "it has {size} bytes, and something of it is said to be {length} bytes at {start}"
                ));
            }
        };
        if length > MAX_READ as u64 {
            return bad(format!(
                "a part of it has {length} bytes, at most {MAX_READ} are read at once"
            ));
        }
        self.check_time()?;
        if self.kept(start, length).is_some() {
            return Ok(());
        }
        match &mut self.way {
            Way::Ranges { ahead } => {
                // What is read one piece after the other comes in larger and larger ones.
                let is_next = |piece: &Piece| (piece.start..=piece.end()).contains(&start);
                *ahead = match self.pieces.back() {
                    Some(last) if is_next(last) => (*ahead * 2).min(MAX_PIECE),
                    _ => PIECE,
                };
                let first = start - start % ALIGNMENT;
                let range = first..end.max(first.saturating_add(*ahead)).min(size);
                self.fetch(range)?;
                match self.way {
                    // The source knows no ranges: on to the same place in the stream.
                    Way::Stream(_) => self.reach(start, length),
                    Way::Ranges { .. } => Ok(()),
                }
            }
            Way::Stream(stream) if start < stream.at => {
                let (packing, streamed) = (stream.packing, stream.tap.borrow().streamed);
                let body = self.origin.whole()?;
                self.fetched += streamed;
                self.stream(body, packing)?;
                self.advance(start, end)
            }
            Way::Stream(_) => self.advance(start, end),
        }
    }

    fn fetch(&mut self, range: Range<u64>) -> Result<(), Failure> {
        let length = range.end - range.start;
        if self.fetched + length > MAX_FETCHED {
            return bad(format!(
                "more than {} MiB of it would have to be fetched, which is the limit",
                MAX_FETCHED >> 20
            ));
        }
        match self.origin.part(range.clone())? {
            Part::Range(bytes) if bytes.len() as u64 != length => Err(Error::WrongSize {
                what: format!("{}, bytes {range:?}", self.origin.name()),
                expected: length,
                found: bytes.len() as u64,
            }
            .into()),
            Part::Range(bytes) => {
                self.fetched += length;
                self.keep(range.start, bytes);
                Ok(())
            }
            Part::Whole(body) => {
                info!(
                    "{}: its registry knows no ranges, so it is read from its start, {} MiB at most",
                    self.origin.name(),
                    MAX_STREAMED >> 20
                );
                self.stream(body, None)
            }
        }
    }

    fn keep(&mut self, start: u64, bytes: Vec<u8>) {
        self.pieces.push_back(Piece { start, bytes });
        let mut kept: usize = self.pieces.iter().map(|piece| piece.bytes.len()).sum();
        while kept > MAX_KEPT
            && self.pieces.len() > 1
            && let Some(oldest) = self.pieces.pop_front()
        {
            kept -= oldest.bytes.len();
        }
    }

    fn stream(
        &mut self,
        body: Box<dyn Read + Send>,
        packing: Option<Packing>,
    ) -> Result<(), Failure> {
        let tap = Rc::new(RefCell::new(Tap::default()));
        let tapped = Tapped {
            body,
            size: self.packed.or(self.size).unwrap_or_default(),
            tap: tap.clone(),
        };
        let unpacked = match &self.way {
            Way::Stream(before) => before.unpacked,
            Way::Ranges { .. } => 0,
        };
        // One that is begun again needs its window no more.
        self.way = Way::Ranges { ahead: PIECE };
        let has_window = matches!(packing, Some(Packing::Xz | Packing::Zstd));
        let what = || format!("to unpack {}", self.origin.name());
        let window = has_window.then(|| WINDOW.take(what)).transpose()?;
        self.way = Way::Stream(Stream {
            packing,
            _window: window,
            body: unpack::stream(packing, Box::new(tapped)).map_err(Failure::Image)?,
            at: 0,
            unpacked,
            tap,
        });
        Ok(())
    }

    /// Reads on in the stream up to `end`, and a bit further, and keeps what lies from `start` on.
    fn advance(&mut self, start: u64, end: u64) -> Result<(), Failure> {
        let end = end.max(start.saturating_add(PIECE));
        let mut wanted = Vec::new();
        let mut buffer = vec![0; PIECE as usize];
        loop {
            self.check_time()?;
            let Way::Stream(stream) = &mut self.way else {
                return Ok(());
            };
            if stream.at >= end {
                break;
            }
            let want = (end - stream.at).min(PIECE) as usize;
            let n = match stream.body.read(&mut buffer[..want]) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.broken(&error)),
            };
            let from = start.saturating_sub(stream.at).min(n as u64) as usize;
            wanted.extend_from_slice(&buffer[from..n]);
            stream.at += n as u64;
            stream.unpacked += n as u64;
            let streamed = self.fetched + stream.tap.borrow().streamed;
            if streamed > MAX_STREAMED || stream.unpacked > MAX_UNPACKED {
                return bad(format!(
                    "it has to be read from its start, and {} MiB were not enough",
                    streamed.min(stream.unpacked) >> 20
                ));
            }
        }
        self.keep(start, wanted);
        Ok(())
    }

    /// What broke: the connection, or what came over it.
    fn broken(&mut self, error: &io::Error) -> Failure {
        if let Way::Stream(stream) = &self.way
            && let Some(cause) = stream.tap.borrow_mut().failure.take()
        {
            if hangup::is_gone() {
                return Failure::Fetch(Error::ClientGone);
            }
            return Failure::Fetch(Error::Broken {
                url: self.origin.name(),
                cause: Arc::new(cause),
            });
        }
        Failure::Image(format!("it cannot be unpacked: {error}"))
    }

    /// Is there time left? What costs none of the registry's may cost much of ours.
    fn check_time(&self) -> Result<(), Failure> {
        match deadline::passed() {
            None => Ok(()),
            Some(limit) => Err(Failure::Fetch(Error::TooSlow {
                url: self.origin.name(),
                limit,
            })),
        }
    }
}

/// A body that is watched: what it gave, and whether it broke off. One that ends before it should has
/// broken off: that says nothing about the image.
struct Tapped {
    body: Box<dyn Read + Send>,
    /// How many bytes it should have.
    size: u64,
    tap: Rc<RefCell<Tap>>,
}

impl Read for Tapped {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut result = self.body.read(buffer);
        let mut tap = self.tap.borrow_mut();
        if matches!(result, Ok(0)) && !buffer.is_empty() && tap.streamed < self.size {
            result = Err(io::ErrorKind::UnexpectedEof.into());
        }
        match &result {
            Ok(n) => tap.streamed += *n as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tap.failure = Some(io::Error::new(error.kind(), error.to_string()));
            }
        }
        result
    }
}

/// A part of an image that is an image itself: a partition, or all of it.
pub struct Image<'b, 'a> {
    blocks: &'b mut Blocks<'a>,
    start: u64,
    /// `None` if it ends nobody knows where.
    size: Option<u64>,
}

impl<'b, 'a> Image<'b, 'a> {
    /// All of it.
    pub fn whole(blocks: &'b mut Blocks<'a>) -> Self {
        let size = blocks.size();
        Self {
            blocks,
            start: 0,
            size,
        }
    }

    /// A part of it, cut off where it ends itself.
    pub fn part(&mut self, range: Range<u64>) -> Image<'_, 'a> {
        let end = range.end.min(self.size.unwrap_or(u64::MAX));
        Image {
            start: self.start.saturating_add(range.start),
            size: Some(end.saturating_sub(range.start)),
            blocks: &mut *self.blocks,
        }
    }

    /// How many bytes it has, if that is known.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// These bytes, all of them.
    pub fn read(&mut self, start: u64, length: usize) -> Result<Vec<u8>, Failure> {
        let start = self.place(start, length as u64)?;
        self.blocks.read(start, length)
    }

    /// The first bytes: `length` of them, or all if there are fewer.
    pub fn head(&mut self, length: usize) -> Result<Vec<u8>, Failure> {
        match self.size {
            Some(size) => self.read(0, length.min(usize::try_from(size).unwrap_or(usize::MAX))),
            None => self.blocks.head(length),
        }
    }

    /// Is there a byte at this place?
    pub fn has(&mut self, at: u64) -> Result<bool, Failure> {
        match self.size {
            Some(size) => Ok(at < size),
            None => self.blocks.has(self.start.saturating_add(at)),
        }
    }

    /// Gets these bytes in one round trip, so that reading them costs none any more.
    pub fn prepare(&mut self, start: u64, length: u64) -> Result<(), Failure> {
        let start = self.place(start, length)?;
        self.blocks.prepare(start, length)
    }

    /// Is there time left to look at what is kept elsewhere?
    pub fn check_time(&self) -> Result<(), Failure> {
        self.blocks.check_time()
    }

    fn place(&self, start: u64, length: u64) -> Result<u64, Failure> {
        let size = self.size.unwrap_or(u64::MAX);
        let end = start.checked_add(length).filter(|end| *end <= size);
        match end.and_then(|_| self.start.checked_add(start)) {
            Some(start) => Ok(start),
            None => bad(format!(
                "it has {size} bytes, and something of it is said to be {length} bytes at {start}"
            )),
        }
    }
}
