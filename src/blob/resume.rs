//! Resumes the download of a blob when the connection breaks.
//!
//! Place in the chain: source → **resumed** → ranges → reuse → verified → socket. When the connection breaks, or the body is too short,
//! the rest is requested, from another mirror if there is one. The time without progress is limited, not the number of
//! attempts.

use std::io::{self, Read};
use std::mem;
use std::ops::Range;
use std::time::{Duration, Instant};

use log::info;

use crate::error::{Error, Result};
use crate::journal;
use crate::source::Body;
use crate::task;

/// Longest time without a new byte. systemd-pull waits about as long.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often a body may end at the same byte, or break off after it repeated all known bytes, before the download is
/// given up.
const MAX_REPEATED_ENDS: u32 = 3;
/// Pause between two attempts. It doubles up to the longest while nothing arrives.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Known bytes that are read at once, and dropped.
const SKIPPED_AT_ONCE: usize = 16 << 10;

/// Reads a range of a blob of known size.
pub struct Resumed<F> {
    /// Opens the blob again at a position.
    reopen: F,
    reader: Box<dyn Read + Send>,
    /// The position of the reader's next byte. Bytes before `taken` are known already, and dropped.
    position: u64,
    taken: u64,
    /// The position behind the last byte of the range.
    end: u64,
    size: u64,
    /// The name of the blob in messages.
    what: String,
    patience: Duration,
}

impl<F: Fn(u64) -> Result<Body>> Resumed<F> {
    /// `body` begins at the first byte of the range, or before it. `reopen` opens the rest from a position on.
    pub fn new(body: Body, reopen: F, what: String, range: Range<u64>, size: u64) -> Self {
        Self {
            reopen,
            reader: body.reader,
            position: body.starts_at,
            taken: range.start,
            end: range.end,
            size,
            what,
            patience: PATIENCE,
        }
    }

    /// Opens the blob again where it broke off. Tries again as long as there is time.
    fn reopen(&mut self, why: &str, wait: &mut Wait) -> io::Result<()> {
        if task::is_client_gone() {
            return Err(task::client_gone());
        }
        info!(
            MESSAGE_ID = journal::RESUMED,
            BYTES = self.taken,
            REASON = why;
            "{}: broke off after {} of {} bytes, going on from there: {why}",
            self.what, self.taken, self.size
        );
        let mut why = why.to_owned();
        loop {
            if wait.begun.elapsed() + wait.pause >= self.patience || task::passed_limit().is_some()
            {
                return Err(wait.given_up(&why));
            }
            task::sleep(wait.pause).map_err(io::Error::other)?;
            wait.pause = (wait.pause * 2).min(LONGEST_PAUSE);
            // Several mirrors may be silent, one after the other.
            let limit = task::within(self.patience.saturating_sub(wait.begun.elapsed()));
            let opened = (self.reopen)(self.taken);
            drop(limit);
            match opened {
                Ok(body) => {
                    (self.reader, self.position) = (body.reader, body.starts_at);
                    return Ok(());
                }
                // The blob was there before: a proxy answers 404, too, while its registry is down.
                Err(error) if error.may_pass() || matches!(error, Error::Missing { .. }) => {
                    why = error.line()
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }

    /// Reads known bytes and drops them.
    fn skip(&mut self) -> io::Result<usize> {
        let mut known = [0; SKIPPED_AT_ONCE];
        let left = usize::try_from(self.taken - self.position).unwrap_or(usize::MAX);
        self.reader.read(&mut known[..left.min(SKIPPED_AT_ONCE)])
    }
}

impl<F: Fn(u64) -> Result<Body>> Read for Resumed<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.taken).unwrap_or(usize::MAX);
        let want = buffer.len().min(left);
        if want == 0 {
            return Ok(0);
        }
        let mut wait = Wait {
            begun: Instant::now(),
            pause: FIRST_PAUSE,
        };
        // The number of known bytes that this body repeated, and that the one before it repeated.
        let (mut skipped, mut end, mut repeated_ends) = (0, 0, 0);
        loop {
            let is_known = self.position < self.taken;
            let read = match is_known {
                true => self.skip(),
                false => self.reader.read(&mut buffer[..want]),
            };
            let failure = match read {
                Ok(0) => None,
                Ok(n) => {
                    self.position += n as u64;
                    if !is_known {
                        self.taken = self.position;
                        return Ok(n);
                    }
                    skipped += n as u64;
                    if wait.begun.elapsed() >= self.patience {
                        return Err(wait.given_up("bytes that are known already arrive too slowly"));
                    }
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Some(error),
            };
            let ends_again = skipped == mem::replace(&mut end, skipped);
            repeated_ends = if ends_again { repeated_ends } else { 0 };
            if repeated_ends == MAX_REPEATED_ENDS {
                return match failure {
                    None => Ok(0),
                    Some(error) => Err(no_accident(end, &error)),
                };
            }
            // A connection that breaks before its first byte does not count: the registry may be restarting.
            repeated_ends += u32::from(failure.is_none() || skipped > 0);
            skipped = 0;
            let failure = failure.unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
            self.reopen(&failure.to_string(), &mut wait)?;
        }
    }
}

fn no_accident(end: u64, error: &io::Error) -> io::Error {
    let message =
        format!("it breaks off at byte {end} each time, and ranges are not supported: {error}");
    io::Error::new(error.kind(), message)
}

/// A wait for the next byte. The time that a client takes over earlier bytes does not count.
struct Wait {
    begun: Instant,
    /// Before the next attempt.
    pause: Duration,
}

impl Wait {
    fn given_up(&self, why: &str) -> io::Error {
        let seconds = self.begun.elapsed().as_secs();
        let message = format!("nothing arrived for {seconds} s: {why}");
        io::Error::new(io::ErrorKind::TimedOut, message)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::error::Way;

    /// A blob that is opened with this.
    fn resumed<F: Fn(u64) -> Result<Body>>(open: F, size: u64) -> Resumed<F> {
        let first = open(0).unwrap();
        assert_eq!(first.starts_at, 0);
        Resumed::new(first, open, "blob".into(), 0..size, size)
    }

    fn body(starts_at: u64, reader: impl Read + Send + 'static) -> Result<Body> {
        Ok(Body {
            reader: Box::new(reader),
            starts_at,
            ends_at: u64::MAX,
        })
    }

    /// Gives `bytes`, but each connection only `piece` of them, with an error at its end or without.
    struct Breaking {
        bytes: Vec<u8>,
        piece: usize,
        with_error: bool,
        /// Tries that find nobody before each connection.
        refusals: usize,
        tries: Arc<AtomicUsize>,
    }

    impl Breaking {
        fn open(&self, from: u64) -> Result<Body> {
            let n = self.tries.fetch_add(1, Ordering::SeqCst);
            if !n.is_multiple_of(self.refusals + 1) {
                let cause = Arc::new(io::Error::from(io::ErrorKind::ConnectionRefused));
                return Err(Error::Unreachable {
                    url: "u".into(),
                    at: Way::Connection,
                    cause,
                });
            }
            let start = usize::try_from(from).unwrap();
            let end = (start + self.piece).min(self.bytes.len());
            let piece = io::Cursor::new(self.bytes[start..end].to_vec());
            if self.with_error {
                body(from, piece.chain(Broken))
            } else {
                body(from, piece)
            }
        }
    }

    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }

    #[test]
    fn one_whole_body_is_made_of_many_broken_ones() {
        let bytes: Vec<u8> = (0..=255).collect();
        for (piece, with_error, refusals, tries) in [
            (300, true, 0, 1),
            (100, true, 0, 3),
            (100, false, 0, 3),
            (128, true, 1, 3),
        ] {
            let counted = Arc::new(AtomicUsize::new(0));
            let origin = Breaking {
                bytes: bytes.clone(),
                piece,
                with_error,
                refusals,
                tries: counted.clone(),
            };
            let mut resumed = resumed(|from| origin.open(from), 256);
            let mut arrived = Vec::new();
            resumed.read_to_end(&mut arrived).unwrap();
            assert_eq!(arrived, bytes, "{piece} at a time");
            assert_eq!(counted.load(Ordering::SeqCst), tries, "{piece} at a time");
        }
    }

    #[test]
    fn a_body_that_is_short_for_good_ends_soon() {
        let tries = Arc::new(AtomicUsize::new(0));
        let origin = Breaking {
            bytes: vec![7; 10],
            piece: 20,
            with_error: false,
            refusals: 0,
            tries: tries.clone(),
        };
        let mut resumed = resumed(|from| origin.open(from), 12);
        let mut arrived = Vec::new();
        resumed.read_to_end(&mut arrived).unwrap();
        assert_eq!(arrived.len(), 10);
        assert_eq!(tries.load(Ordering::SeqCst), 1 + MAX_REPEATED_ENDS as usize);
    }

    #[test]
    fn what_breaks_at_the_same_byte_without_ranges_is_given_up_soon() {
        let tries = AtomicUsize::new(0);
        let without_ranges = |_| {
            tries.fetch_add(1, Ordering::SeqCst);
            body(0, (&[7; 5][..]).chain(Broken))
        };
        let mut resumed = resumed(without_ranges, 10);
        let error = resumed.read_to_end(&mut Vec::new()).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("it breaks off at byte 5 each time"),
            "{error}"
        );
        assert_eq!(tries.load(Ordering::SeqCst), 2 + MAX_REPEATED_ENDS as usize);
    }

    #[test]
    fn a_body_without_ranges_is_read_from_its_start_and_what_is_known_is_dropped() {
        let size = 3 * SKIPPED_AT_ONCE;
        let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        let tries = AtomicUsize::new(0);
        let ends = [1, SKIPPED_AT_ONCE, SKIPPED_AT_ONCE + 1, size - 1, size];
        let open = |_| {
            let end = ends[tries.fetch_add(1, Ordering::SeqCst)];
            body(0, io::Cursor::new(bytes[..end].to_vec()).chain(Broken))
        };
        let mut arrived = Vec::new();
        let mut resumed = resumed(open, size as u64);
        resumed.read_to_end(&mut arrived).unwrap();
        assert_eq!(arrived, bytes);
        assert_eq!(tries.load(Ordering::SeqCst), ends.len());
    }

    /// Gives one byte at a time, after a while.
    struct Slow;

    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            std::thread::sleep(Duration::from_millis(10));
            buffer[0] = 7;
            Ok(1)
        }
    }

    #[test]
    fn what_is_known_is_skipped_only_so_long() {
        let tries = AtomicUsize::new(0);
        let slow_at_last = |_| match tries.fetch_add(1, Ordering::SeqCst) {
            0 => body(0, (&[7; 1000][..]).chain(Broken)),
            _ => body(0, Slow),
        };
        let mut resumed = resumed(slow_at_last, 1001);
        resumed.patience = Duration::from_secs(1);
        let started = Instant::now();
        let error = resumed.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() < Duration::from_secs(2));
    }

    /// Gives a little, then breaks; from then on it is silent for as long as somebody waits.
    fn open_silent(from: u64) -> Result<Body> {
        if from > 0 {
            let limit = task::time_left().unwrap_or(Duration::from_secs(20));
            std::thread::sleep(limit);
            return Err(Error::TooSlow {
                url: "u".into(),
                limit,
            });
        }
        body(0, (&[7; 5][..]).chain(Broken))
    }

    #[test]
    fn a_silent_origin_is_waited_for_only_so_long() {
        let mut resumed = resumed(open_silent, 10);
        resumed.patience = Duration::from_secs(1);
        let started = Instant::now();
        let error = resumed.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() < Duration::from_secs(2));
        assert!(task::time_left().is_none(), "what comes then has its own");
    }

    #[test]
    fn without_progress_it_is_given_up_in_time() {
        let origin = Breaking {
            bytes: vec![7; 10],
            piece: 5,
            with_error: true,
            refusals: 1_000_000,
            tries: Arc::new(AtomicUsize::new(0)),
        };
        let mut resumed = resumed(|from| origin.open(from), 10);
        resumed.patience = Duration::from_secs(1);
        let started = Instant::now();
        let error = resumed.read_to_end(&mut Vec::new()).unwrap_err();
        let (error, last) = (
            error.to_string(),
            "is its address right?: connection refused",
        );
        assert!(
            error.starts_with("nothing arrived for ") && error.ends_with(last),
            "{error}"
        );
        assert!(started.elapsed() < Duration::from_secs(2));
    }
}
