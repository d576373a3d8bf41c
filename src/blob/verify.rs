//! Verifies a blob while it is streamed.
//!
//! Place in the chain: source → resumed → ranges → reuse → **verified** → socket. The last bytes are held back until the digest is known
//! to be right, so a corrupt download never completes.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Provenance, Reused};
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::source::{Origins, Source};
use crate::task;

/// Longest time to fill a buffer before its bytes are passed on: the client of a slow registry waits a minute for a
/// byte.
const FILLING: Duration = Duration::from_secs(1);

/// Reads a blob of known size and digest.
pub struct Verified<R> {
    inner: R,
    /// The name of the blob in messages.
    what: String,
    digest: Digest,
    size: u64,
    taken: u64,
    hasher: Hasher,
    source: Option<(Arc<dyn Source>, Origins)>,
    /// The plan by which it is fetched.
    reused: Option<Arc<Reused>>,
}

impl<R: Read> Verified<R> {
    /// The blob that `inner` should give. The digest of an empty blob is checked at once: it has no byte to hold back.
    pub fn new(inner: R, what: String, digest: Digest, size: u64) -> Result<Self> {
        let nothing = Digest::of(b"");
        if size == 0 && digest != nothing {
            return Err(Error::WrongBytes {
                what,
                expected: digest,
                found: nothing,
            });
        }
        Ok(Self {
            inner,
            what,
            digest,
            size,
            taken: 0,
            hasher: Hasher::default(),
            source: None,
            reused: None,
        })
    }

    /// The same; the source is told when the bytes are wrong, and where they came from.
    pub fn of(self, source: &Arc<dyn Source>, origins: Origins) -> Self {
        Self {
            source: Some((source.clone(), origins)),
            ..self
        }
    }

    /// The same by a plan: wrong bytes may be those of an index, so no mirror is blamed for them once it was begun.
    pub fn by_plan(self, reused: Arc<Reused>) -> Self {
        Self {
            reused: Some(reused),
            ..self
        }
    }

    /// Where its bytes come from; `None`: no source is asked for them.
    pub fn provenance(&self) -> Option<Provenance> {
        let (_, origins) = self.source.as_ref()?;
        Some(Provenance {
            origins: origins.clone(),
            reused: self.reused.clone(),
        })
    }

    /// Reads all of a blob that fits into memory.
    pub fn into_bytes(mut self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.size).unwrap_or(usize::MAX)];
        let mut filled = 0;
        loop {
            match self.fill(&mut bytes[filled..])? {
                0 => return Ok(bytes),
                n => filled += n,
            }
        }
    }

    /// Fills the buffer with the bytes that are left, or those that arrive within a moment. `Ok(0)` only at the end.
    ///
    /// The call that takes the last bytes fails when they are wrong.
    pub fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let left = self.size - self.taken;
        let want = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let (mut filled, started) = (0, Instant::now());
        while filled < want {
            match self.inner.read(&mut buffer[filled..want]) {
                Ok(0) => return Err(self.broken(filled, None)),
                Ok(n) => {
                    filled += n;
                    if started.elapsed() >= FILLING {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(filled, Some(error))),
            }
        }
        self.hasher.update(&buffer[..filled]);
        let taken = self.taken + filled as u64;
        if filled > 0 && taken == self.size {
            let found = std::mem::take(&mut self.hasher).finish();
            // The last bytes are not taken, so the next call fails as well.
            if found != self.digest {
                match (&self.reused, &self.source) {
                    (Some(reused), _) if !reused.is_whole() => reused.note_wrong(),
                    (_, Some((source, origins))) => source.note_wrong_bytes(self.digest, origins),
                    (_, None) => {}
                }
                return Err(Error::WrongBytes {
                    what: self.what.clone(),
                    expected: self.digest,
                    found,
                });
            }
        }
        self.taken = taken;
        Ok(filled)
    }

    fn broken(&self, filled: usize, cause: Option<io::Error>) -> Error {
        let found = self.taken + filled as u64;
        match cause {
            Some(_) if task::is_client_gone() => Error::ClientGone,
            Some(cause) => Error::Broken {
                url: format!("{} after {found} of {} bytes", self.what, self.size),
                cause: Arc::new(cause),
            },
            None => Error::WrongSize {
                what: self.what.clone(),
                expected: self.size,
                found,
            },
        }
    }
}

impl<R: Read> Read for Verified<R> {
    /// As [`Verified::fill`]; its error is inside the one that this returns.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.fill(buffer).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes in pieces of at most `piece`, and then perhaps an error.
    struct Pieces {
        bytes: io::Cursor<Vec<u8>>,
        piece: usize,
        error_at_end: bool,
    }

    impl Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = buffer.len().min(self.piece);
            match self.bytes.read(&mut buffer[..n])? {
                0 if self.error_at_end => Err(io::ErrorKind::ConnectionReset.into()),
                n => Ok(n),
            }
        }
    }

    /// The bytes that arrive through a buffer of 8 bytes, and whether the end was reached without an error.
    fn read(
        sent: &[u8],
        expected: &[u8],
        piece: usize,
        error_at_end: bool,
    ) -> (Vec<u8>, Result<()>) {
        let inner = Pieces {
            bytes: io::Cursor::new(sent.to_vec()),
            piece,
            error_at_end,
        };
        let verified = Verified::new(
            inner,
            "blob".into(),
            Digest::of(expected),
            expected.len() as u64,
        );
        let mut verified = verified.unwrap();
        let (mut arrived, mut buffer) = (Vec::new(), [0; 8]);
        loop {
            match verified.fill(&mut buffer) {
                Ok(0) => return (arrived, Ok(())),
                Ok(n) => arrived.extend_from_slice(&buffer[..n]),
                Err(error) => return (arrived, Err(error)),
            }
        }
    }

    #[test]
    fn right_bytes_arrive_whole_around_every_boundary() {
        for size in [0, 1, 7, 8, 9, 15, 16, 17, 100] {
            for piece in [1, 3, 8, 1000] {
                let bytes: Vec<u8> = (0..size).collect();
                let (arrived, end) = read(&bytes, &bytes, piece, true);
                assert!(end.is_ok(), "{size} in pieces of {piece}: {end:?}");
                assert_eq!(arrived, bytes, "{size} in pieces of {piece}");
            }
        }
    }

    /// Gives a byte at a time, and takes a while for it.
    struct Slow(u8);

    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            std::thread::sleep(Duration::from_millis(400));
            buffer[0] = self.0;
            self.0 += 1;
            Ok(1)
        }
    }

    fn slow(bytes: &[u8]) -> Verified<Slow> {
        Verified::new(Slow(0), "blob".into(), Digest::of(bytes), 5).unwrap()
    }

    #[test]
    fn what_comes_slowly_goes_on_before_the_buffer_is_full() {
        let mut verified = slow(&[0, 1, 2, 3, 4]);
        let mut buffer = [0; 8];
        assert_eq!(verified.fill(&mut buffer).unwrap(), 3);
        assert_eq!(verified.fill(&mut buffer).unwrap(), 2);
        assert_eq!(verified.fill(&mut buffer).unwrap(), 0);
    }

    #[test]
    fn what_is_taken_whole_is_whole_and_right_however_slowly_it_comes() {
        assert_eq!(
            slow(&[0, 1, 2, 3, 4]).into_bytes().unwrap(),
            [0, 1, 2, 3, 4]
        );
        let wrong = slow(&[0, 1, 2, 3, 5]).into_bytes();
        assert!(matches!(wrong, Err(Error::WrongBytes { .. })), "{wrong:?}");
    }

    #[test]
    fn a_blob_is_not_of_no_bytes_because_somebody_says_so() {
        let digest = Digest::of(b"something");
        let nothing = Verified::new(io::empty(), "blob".into(), digest, 0);
        assert!(matches!(nothing, Err(Error::WrongBytes { .. })));
        let mut wrong = Verified::new(&[7][..], "blob".into(), digest, 1).unwrap();
        assert!(wrong.fill(&mut [0; 8]).is_err());
        assert!(
            wrong.fill(&mut [0; 8]).is_err(),
            "it does not get right later"
        );
    }

    #[test]
    fn wrong_bytes_never_arrive_complete() {
        for size in [1, 7, 8, 9, 16, 17] {
            let bytes: Vec<u8> = (0..size).collect();
            for n in 0..bytes.len() {
                let mut wrong = bytes.clone();
                wrong[n] ^= 1;
                let (arrived, end) = read(&wrong, &bytes, 3, false);
                assert!(
                    matches!(end, Err(Error::WrongBytes { .. })),
                    "{size}, byte {n}: {end:?}"
                );
                assert!(arrived.len() < bytes.len(), "{size}, byte {n}");
            }
        }
    }

    #[test]
    fn short_and_broken_bodies_are_told_apart() {
        let bytes: Vec<u8> = (0..20).collect();
        let (arrived, end) = read(&bytes[..19], &bytes, 3, false);
        assert_eq!(arrived, &bytes[..16]);
        assert!(
            matches!(
                end,
                Err(Error::WrongSize {
                    expected: 20,
                    found: 19,
                    ..
                })
            ),
            "{end:?}"
        );
        let (arrived, end) = read(&bytes[..5], &bytes, 3, true);
        assert_eq!(arrived, b"");
        assert!(
            end.unwrap_err()
                .line()
                .starts_with("connection lost at blob after 5 of 20 bytes")
        );
    }

    #[test]
    fn what_comes_after_the_announced_size_is_not_read() {
        let bytes: Vec<u8> = (0..20).collect();
        let (arrived, end) = read(&bytes, &bytes[..9], 100, false);
        assert!(end.is_ok(), "{end:?}");
        assert_eq!(arrived, &bytes[..9]);
    }
}
