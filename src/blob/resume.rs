//! Blobs that outlive their connection.
//!
//! Place in the chain: source → **resumed** → verified → socket. When the connection breaks, or the
//! body comes short, the rest is asked for again, from another mirror if there is one. Bounded not by
//! a number of tries but by time without progress.

use std::io::{self, Read};
use std::mem;
use std::time::{Duration, Instant};

use log::warn;

use crate::error::{Error, Result};
use crate::source::Skipped;
use crate::task;

/// How long nothing may come before it is given up. systemd-pull waits about as long.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a body may end at the same place, as one that is whole does, or break off after all that is known was
/// read again: that is no accident.
const BARREN_ENDS: u32 = 3;
/// Between two tries; doubled up to the longest while nothing comes.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Where the bytes come from, from any of them on.
pub trait Origin: Send {
    /// The bytes from the one numbered `from` on.
    fn open(&self, from: u64) -> Result<Box<dyn Read + Send>>;
}

/// Reads a blob of known size.
pub struct Resumed<O> {
    origin: O,
    body: Box<dyn Read + Send>,
    /// How messages call it.
    what: String,
    size: u64,
    taken: u64,
    patience: Duration,
}

impl<O: Origin> Resumed<O> {
    /// Opens it; what fails now fails before a client has been promised anything.
    pub fn open(origin: O, what: String, size: u64) -> Result<Self> {
        let body = origin.open(0)?;
        Ok(Self::begun(origin, body, what, size))
    }

    /// One that is open, with all of its bytes to come.
    pub fn begun(origin: O, body: Box<dyn Read + Send>, what: String, size: u64) -> Self {
        Self {
            body,
            origin,
            what,
            size,
            taken: 0,
            patience: PATIENCE,
        }
    }

    /// Opens it again where it broke off, as often as it takes.
    fn reopen(&mut self, why: &str, wait: &mut Wait) -> io::Result<()> {
        if task::is_client_gone() {
            return Err(task::client_gone());
        }
        warn!(
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
            // Each of several mirrors may be silent.
            let limit = task::within(self.patience.saturating_sub(wait.begun.elapsed()));
            let opened = self.origin.open(self.taken);
            drop(limit);
            match opened {
                Ok(body) => {
                    self.body = body;
                    return Ok(());
                }
                // It was there: fronts say the same while they have nobody behind them.
                Err(error) if error.may_pass() || matches!(error, Error::Missing { .. }) => {
                    why = error.line()
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
}

impl<O: Origin> Read for Resumed<O> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.size - self.taken).unwrap_or(usize::MAX);
        let want = buffer.len().min(left);
        if want == 0 {
            return Ok(0);
        }
        let mut wait = Wait {
            begun: Instant::now(),
            pause: FIRST_PAUSE,
        };
        // How far the body was skipped forward, and how far the one before, which ended there.
        let (mut skipped, mut end, mut barren_ends) = (0, 0, 0);
        loop {
            let failure = match self.body.read(&mut buffer[..want]) {
                Ok(0) => None,
                Ok(n) => {
                    self.taken += n as u64;
                    return Ok(n);
                }
                // One that is being skipped forward says so after each piece.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    let piece = error.get_ref().and_then(|inner| inner.downcast_ref());
                    skipped += piece.map_or(0, |Skipped(bytes)| *bytes);
                    if wait.begun.elapsed() >= self.patience {
                        return Err(wait.given_up("what is known already comes too slowly"));
                    }
                    continue;
                }
                Err(error) => Some(error),
            };
            let ends_again = skipped == mem::replace(&mut end, skipped);
            barren_ends = if ends_again { barren_ends } else { 0 };
            if barren_ends == BARREN_ENDS {
                return match failure {
                    None => Ok(0),
                    Some(error) => Err(no_accident(end, &error)),
                };
            }
            // A connection that breaks before it brings anything may be of a registry that is being restarted.
            barren_ends += u32::from(failure.is_none() || skipped > 0);
            skipped = 0;
            let failure = failure.unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
            self.reopen(&failure.to_string(), &mut wait)?;
        }
    }
}

fn no_accident(end: u64, error: &io::Error) -> io::Error {
    let message = format!(
        "it breaks off at byte {end} each time, and ranges of it are not to be had: {error}"
    );
    io::Error::new(error.kind(), message)
}

/// A wait for the next byte. The time that a client takes over those before does not count.
struct Wait {
    begun: Instant,
    /// Before the next try.
    pause: Duration,
}

impl Wait {
    fn given_up(&self, why: &str) -> io::Error {
        let seconds = self.begun.elapsed().as_secs();
        let message = format!("nothing more came for {seconds} s: {why}");
        io::Error::new(io::ErrorKind::TimedOut, message)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Gives `bytes`, but each connection only `piece` of them, with an error at its end or without.
    struct Breaking {
        bytes: Vec<u8>,
        piece: usize,
        with_error: bool,
        /// Tries that find nobody before each connection.
        refusals: usize,
        tries: Arc<AtomicUsize>,
    }

    impl Origin for Breaking {
        fn open(&self, from: u64) -> Result<Box<dyn Read + Send>> {
            let n = self.tries.fetch_add(1, Ordering::SeqCst);
            if !n.is_multiple_of(self.refusals + 1) {
                let cause = Arc::new(io::Error::from(io::ErrorKind::ConnectionRefused));
                return Err(Error::Unreachable {
                    url: "u".into(),
                    cause,
                });
            }
            let from = usize::try_from(from).unwrap();
            let end = (from + self.piece).min(self.bytes.len());
            let piece = io::Cursor::new(self.bytes[from..end].to_vec());
            if self.with_error {
                Ok(Box::new(piece.chain(Broken)))
            } else {
                Ok(Box::new(piece))
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
            let mut resumed = Resumed::open(origin, "blob".into(), 256).unwrap();
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
        let mut resumed = Resumed::open(origin, "blob".into(), 12).unwrap();
        let mut arrived = Vec::new();
        resumed.read_to_end(&mut arrived).unwrap();
        assert_eq!(arrived.len(), 10);
        assert_eq!(tries.load(Ordering::SeqCst), 1 + BARREN_ENDS as usize);
    }

    /// Gives so many bytes, then breaks; knows no ranges.
    struct WithoutRanges(Arc<AtomicUsize>);

    impl Origin for WithoutRanges {
        fn open(&self, from: u64) -> Result<Box<dyn Read + Send>> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Ok(match from {
                0 => Box::new((&[7; 5][..]).chain(Broken)),
                _ => Box::new(Known(from).chain(Broken)),
            })
        }
    }

    /// So many bytes that are skipped.
    struct Known(u64);

    impl Read for Known {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            match mem::take(&mut self.0) {
                0 => Ok(0),
                bytes => Err(io::Error::new(io::ErrorKind::Interrupted, Skipped(bytes))),
            }
        }
    }

    #[test]
    fn what_breaks_at_the_same_byte_without_ranges_is_given_up_soon() {
        let tries = Arc::new(AtomicUsize::new(0));
        let origin = WithoutRanges(tries.clone());
        let mut resumed = Resumed::open(origin, "blob".into(), 10).unwrap();
        let error = resumed.read_to_end(&mut Vec::new()).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("it breaks off at byte 5 each time"),
            "{error}"
        );
        assert_eq!(tries.load(Ordering::SeqCst), 2 + BARREN_ENDS as usize);
    }

    /// Gives a little, then breaks; from then on it only ever skips.
    struct Skipping;

    impl Origin for Skipping {
        fn open(&self, from: u64) -> Result<Box<dyn Read + Send>> {
            match from {
                0 => Ok(Box::new((&[7; 5][..]).chain(Broken))),
                _ => Ok(Box::new(Slow)),
            }
        }
    }

    struct Slow;

    impl Read for Slow {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            std::thread::sleep(Duration::from_millis(10));
            Err(io::ErrorKind::Interrupted.into())
        }
    }

    #[test]
    fn what_is_known_is_skipped_only_so_long() {
        let mut resumed = Resumed::open(Skipping, "blob".into(), 10).unwrap();
        resumed.patience = Duration::from_secs(1);
        let started = Instant::now();
        let error = resumed.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() < Duration::from_secs(2));
    }

    /// Gives a little, then breaks; from then on it is silent for as long as somebody waits.
    struct Silent;

    impl Origin for Silent {
        fn open(&self, from: u64) -> Result<Box<dyn Read + Send>> {
            if from > 0 {
                let limit = task::time_left().unwrap_or(Duration::from_secs(20));
                std::thread::sleep(limit);
                return Err(Error::TooSlow {
                    url: "u".into(),
                    limit,
                });
            }
            Ok(Box::new((&[7; 5][..]).chain(Broken)))
        }
    }

    #[test]
    fn a_silent_origin_is_waited_for_only_so_long() {
        let mut resumed = Resumed::open(Silent, "blob".into(), 10).unwrap();
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
        let mut resumed = Resumed::open(origin, "blob".into(), 10).unwrap();
        resumed.patience = Duration::from_secs(1);
        let started = Instant::now();
        let error = resumed.read_to_end(&mut Vec::new()).unwrap_err();
        let (error, last) = (
            error.to_string(),
            "is its address right?: connection refused",
        );
        assert!(
            error.starts_with("nothing more came for ") && error.ends_with(last),
            "{error}"
        );
        assert!(started.elapsed() < Duration::from_secs(2));
    }
}
