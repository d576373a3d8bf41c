//! Reads an image by ranges. An image that is packed, or whose source does not support ranges, is read as a stream.
//!
//! Place in the chain: source → **range_reader** → gpt → squashfs, erofs or tar. All bytes pass through here, and so
//! the limits are here: of bytes fetched, unpacked and kept, and of time.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, BufReader, ErrorKind, Read};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use log::info;

use crate::compression::{self, Compression};
use crate::error::{Error, Result};
use crate::source::Part;
use crate::tar;
use crate::task;

/// Most bytes fetched by ranges for one image.
const MAX_FETCHED: u64 = 16 << 20;
/// Most bytes fetched of one image as a stream.
const MAX_STREAMED: u64 = 512 << 20;
/// Most bytes of a stream after it is unpacked: a byte of gzip can become a thousand bytes.
const MAX_UNPACKED: u64 = 2 << 30;
/// Most fetched bytes that are kept; the oldest go first.
const MAX_KEPT: usize = 2 << 20;
/// Most bytes read at once. No block of squashfs or erofs is larger.
const MAX_READ: u64 = 2 << 20;
/// Largest window to unpack a stream, as a power of two. `xz -9` and `zstd --ultra` need a larger one.
const MAX_WINDOW_LOG: u32 = 24;

/// Pieces begin at multiples of this.
const ALIGNMENT: u64 = 4 << 10;
/// Smallest piece to fetch: so many bytes take about as long as a round trip.
const PIECE: u64 = 64 << 10;
/// Largest piece that is fetched ahead when an image is read from one piece to the next.
const MAX_PIECE: u64 = 1 << 20;

/// Where the bytes of an image come from.
pub trait Origin {
    /// The image's name in messages.
    fn name(&self) -> String;

    /// The name of the source of the bytes, which are not verified.
    fn source(&self) -> String;

    /// A range of the bytes.
    fn part(&self, range: Range<u64>) -> Result<Part>;

    /// All bytes, from the first on.
    fn whole(&self) -> Result<Box<dyn Read + Send>>;
}

/// The reason why an image was not read.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The bytes could not be fetched. Another try may succeed.
    #[error("{0}")]
    Fetch(Error),
    /// The bytes are damaged or not supported, or a limit is reached. Another try will fail as well.
    #[error("{0}")]
    Image(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Fetch(error)
    }
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self::Image(why)
    }
}

impl From<tar::Failure> for Failure {
    fn from(failure: tar::Failure) -> Self {
        match failure {
            tar::Failure::Refused(why) => Self::Image(why),
            tar::Failure::Read(error) => error
                .downcast()
                .unwrap_or_else(|error| Self::Image(error.to_string())),
        }
    }
}

/// A [`Failure::Image`].
pub fn bad<T>(why: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Image(why.into()))
}

/// Reads an image, and keeps the pieces that were fetched last.
pub struct RangeReader<'a> {
    origin: &'a dyn Origin,
    /// Bytes of the image as its origin has it.
    size: u64,
    /// The compression of the image. Offsets and sizes are those in the unpacked image.
    compression: Option<Compression>,
    /// Set if the image is read as a stream.
    stream: Option<Stream>,
    /// Least size of the next piece.
    ahead: u64,
    pieces: VecDeque<Piece>,
    /// Bytes of streams after they were unpacked.
    unpacked: u64,
    /// Bytes fetched, by ranges and as streams, before they are unpacked.
    fetched: Rc<Cell<u64>>,
}

/// Bytes that were fetched.
struct Piece {
    start: u64,
    bytes: Vec<u8>,
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

/// An image read from its start. To go back means to begin again.
struct Stream {
    body: Box<dyn Read>,
    /// The offset of the next byte.
    at: u64,
}

impl<'a> RangeReader<'a> {
    /// A reader of an image of `size` bytes. Nothing is fetched yet.
    pub fn new(origin: &'a dyn Origin, size: u64) -> Self {
        Self {
            origin,
            size,
            compression: None,
            stream: None,
            ahead: PIECE,
            pieces: VecDeque::new(),
            unpacked: 0,
            fetched: Rc::default(),
        }
    }

    /// From now on the image is unpacked.
    pub fn unpack(&mut self, compression: Compression) -> Result<(), Failure> {
        let body = self.origin.whole()?;
        self.pieces.clear();
        self.compression = Some(compression);
        self.start_stream(body)
    }

    fn kept(&self, start: u64, length: u64) -> Option<&[u8]> {
        if length == 0 {
            return Some(&[]);
        }
        let end = start.checked_add(length)?;
        let holds = |piece: &&Piece| piece.start <= start && end <= piece.end();
        let piece = self.pieces.iter().rfind(holds)?;
        let from = usize::try_from(start - piece.start).ok()?;
        piece.bytes.get(from..from + usize::try_from(length).ok()?)
    }

    /// Fetches these bytes unless they are kept already. A stream may have fewer.
    fn ensure(&mut self, start: u64, length: u64) -> Result<(), Failure> {
        if length > MAX_READ {
            return bad(format!(
                "a part of it has {length} bytes, at most {MAX_READ} are read at once"
            ));
        }
        self.check_time()?;
        if self.kept(start, length).is_some() {
            return Ok(());
        }
        let end = start.saturating_add(length);
        if self.stream.is_none() {
            // A reader that goes on from piece to piece gets larger and larger pieces.
            let is_next = |last: &Piece| (last.start..=last.end()).contains(&start);
            self.ahead = match self.pieces.back() {
                Some(last) if is_next(last) => (self.ahead * 2).min(MAX_PIECE),
                _ => PIECE,
            };
            let first = start - start % ALIGNMENT;
            let ahead = first.saturating_add(self.ahead);
            self.fetch(first..end.max(ahead).min(self.size))?;
        }
        match &self.stream {
            None => Ok(()),
            Some(stream) if start < stream.at => {
                let body = self.origin.whole()?;
                self.start_stream(body)?;
                self.advance(start, end)
            }
            Some(_) => self.advance(start, end),
        }
    }

    /// Fetches a range, or starts a stream if the source does not support ranges.
    fn fetch(&mut self, range: Range<u64>) -> Result<(), Failure> {
        let length = range.end - range.start;
        let fetched = self.fetched.get() + length;
        if fetched > MAX_FETCHED {
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
                self.fetched.set(fetched);
                self.keep(range.start, bytes);
                Ok(())
            }
            Part::Whole(body) => {
                info!(
                    "{}: its registry does not support ranges, so it is read from its start, {} MiB at most",
                    self.origin.name(),
                    MAX_STREAMED >> 20
                );
                self.start_stream(body)
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

    fn start_stream(&mut self, body: Box<dyn Read + Send>) -> Result<(), Failure> {
        let counted = Counted {
            body,
            name: self.origin.name(),
            left: self.size,
            fetched: self.fetched.clone(),
        };
        // A stream that begins again needs the permit that the old one holds.
        self.stream = None;
        let body =
            self.decoder(BufReader::new(counted))
                .map_err(|error| match error.downcast() {
                    Ok(error) => Failure::Fetch(error),
                    Err(error) => Failure::Image(error.to_string()),
                })?;
        self.stream = Some(Stream { body, at: 0 });
        Ok(())
    }

    fn decoder(&self, packed: BufReader<Counted>) -> io::Result<Box<dyn Read>> {
        let what = || format!("to unpack {}", self.origin.name());
        Ok(match self.compression {
            None => Box::new(packed),
            Some(Compression::Gzip) => Box::new(compression::gzip(packed)),
            Some(Compression::Zstd) => Box::new(compression::zstd(packed, MAX_WINDOW_LOG, what)?),
            Some(Compression::Xz) => Box::new(compression::xz(packed, MAX_WINDOW_LOG, what)?),
            Some(other) => {
                let why = format!("it is packed with {}, which is not supported", other.name());
                return Err(io::Error::other(why));
            }
        })
    }

    /// Reads the stream to `end`, at least one piece, and keeps the bytes from `start` on.
    fn advance(&mut self, start: u64, end: u64) -> Result<(), Failure> {
        let end = end.max(start.saturating_add(PIECE));
        let mut wanted = Vec::new();
        let mut buffer = vec![0; PIECE as usize];
        while let Some(stream) = &mut self.stream
            && stream.at < end
        {
            let want = (end - stream.at).min(PIECE) as usize;
            let n = match stream.body.read(&mut buffer[..want]) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Err(match error.downcast() {
                        Ok(error) => Failure::Fetch(error),
                        Err(error) => Failure::Image(format!("it cannot be unpacked: {error}")),
                    });
                }
            };
            let from = start.saturating_sub(stream.at).min(n as u64) as usize;
            wanted.extend_from_slice(&buffer[from..n]);
            stream.at += n as u64;
            self.unpacked += n as u64;
            let fetched = self.fetched.get();
            if fetched > MAX_STREAMED || self.unpacked > MAX_UNPACKED {
                return bad(format!(
                    "it has to be read from its start, and {} MiB were not enough",
                    fetched.min(self.unpacked) >> 20
                ));
            }
            self.check_time()?;
        }
        self.keep(start, wanted);
        Ok(())
    }

    /// An error after the deadline. To read bytes that are kept takes time, too.
    fn check_time(&self) -> Result<(), Failure> {
        task::check(|| self.origin.name()).map_err(Failure::Fetch)
    }
}

/// Counts the bytes of a body. An [`Error`] is inside its errors, which tells them from errors of unpacking. A body
/// that ends too early is an error, too: that says nothing about the image.
struct Counted {
    body: Box<dyn Read + Send>,
    /// The image's name in messages.
    name: String,
    /// Bytes still to come.
    left: u64,
    fetched: Rc<Cell<u64>>,
}

impl Counted {
    fn broken(&self, cause: io::Error) -> io::Error {
        io::Error::other(match task::is_client_gone() {
            true => Error::ClientGone,
            false => Error::Broken {
                url: self.name.clone(),
                cause: Arc::new(cause),
            },
        })
    }
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = match self.body.read(buffer) {
            Ok(0) if self.left > 0 && !buffer.is_empty() => {
                return Err(self.broken(ErrorKind::UnexpectedEof.into()));
            }
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(self.broken(error)),
            read => read?,
        };
        self.left = self.left.saturating_sub(n as u64);
        self.fetched.update(|fetched| fetched + n as u64);
        Ok(n)
    }
}

/// A region of an image: all of it, or a partition. Offsets are counted from its start.
pub struct Region<'b, 'a> {
    reader: &'b mut RangeReader<'a>,
    start: u64,
    size: Option<u64>,
}

impl<'b, 'a> Region<'b, 'a> {
    /// The whole image.
    pub fn whole(reader: &'b mut RangeReader<'a>) -> Self {
        let size = reader.compression.is_none().then_some(reader.size);
        Self {
            reader,
            start: 0,
            size,
        }
    }

    /// A part of this region, cut off at its end.
    pub fn part(&mut self, range: Range<u64>) -> Region<'_, 'a> {
        let end = range.end.min(self.size.unwrap_or(u64::MAX));
        Region {
            start: self.start.saturating_add(range.start),
            size: Some(end.saturating_sub(range.start)),
            reader: &mut *self.reader,
        }
    }

    /// Its size in bytes; unknown if the image is packed.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// These bytes, all of them.
    pub fn read(&mut self, start: u64, length: usize) -> Result<Vec<u8>, Failure> {
        let start = self.place(start, length as u64)?;
        self.reader.ensure(start, length as u64)?;
        match self.reader.kept(start, length as u64) {
            Some(bytes) => Ok(bytes.to_vec()),
            None => bad("it is shorter than it says"),
        }
    }

    /// The first bytes: `length` of them, or all if there are fewer.
    pub fn head(&mut self, length: usize) -> Result<Vec<u8>, Failure> {
        if let Some(size) = self.size {
            return self.read(0, length.min(usize::try_from(size).unwrap_or(usize::MAX)));
        }
        self.reader.ensure(self.start, length as u64)?;
        let mut pieces = self.reader.pieces.iter();
        let found = pieces.rfind(|piece| piece.start == self.start);
        let bytes = found.map_or(&[][..], |piece| &piece.bytes);
        Ok(bytes[..length.min(bytes.len())].to_vec())
    }

    /// Whether there is a byte at this offset.
    pub fn has(&mut self, at: u64) -> Result<bool, Failure> {
        if let Some(size) = self.size {
            return Ok(at < size);
        }
        let at = self.start.saturating_add(at);
        self.reader.ensure(at, 1)?;
        Ok(self.reader.kept(at, 1).is_some())
    }

    /// Fetches these bytes in one range, so that to read them costs no further request.
    pub fn prepare(&mut self, start: u64, length: u64) -> Result<(), Failure> {
        let start = self.place(start, length)?;
        match &self.reader.stream {
            // The stream would begin again.
            Some(stream) if start < stream.at => Ok(()),
            _ => self.reader.ensure(start, length),
        }
    }

    /// An error after the deadline.
    pub fn check_time(&self) -> Result<(), Failure> {
        self.reader.check_time()
    }

    /// The offset in the image of bytes that must lie in this region.
    fn place(&self, start: u64, length: u64) -> Result<u64, Failure> {
        let size = self.size.unwrap_or(u64::MAX);
        let end = start.checked_add(length).filter(|end| *end <= size);
        match end.and_then(|_| self.start.checked_add(start)) {
            Some(start) => Ok(start),
            None => bad(format!(
                "it has {size} bytes, but refers to {length} bytes at {start}"
            )),
        }
    }
}
