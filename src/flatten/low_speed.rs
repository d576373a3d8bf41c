//! Gives up a layer that arrives too slowly, or that is not complete at the deadline.
//!
//! Place in the chain: source → resumed → **low_speed** → verified → fetch. A byte now and then keeps a download going,
//! but few images are fetched at once, so that is not enough here.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use crate::task;

/// So many bytes, or the rest of the layer, must arrive in each span of time.
const LEAST: u64 = 64 << 10;
const SPAN: Duration = Duration::from_secs(60);

/// Reads a layer of known size.
pub struct MinSpeed<R> {
    inner: R,
    /// Bytes of the layer still to come.
    left: u64,
    span: Duration,
    /// Time spent waiting for bytes in this span. The time between reads does not count.
    waited: Duration,
    /// Bytes that arrived in this span.
    came: u64,
}

impl<R: Read> MinSpeed<R> {
    pub fn new(inner: R, size: u64) -> Self {
        Self {
            inner,
            left: size,
            span: SPAN,
            waited: Duration::ZERO,
            came: 0,
        }
    }
}

impl<R: Read> Read for MinSpeed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let started = Instant::now();
        let n = self.inner.read(buffer)?;
        self.waited += started.elapsed();
        self.came += n as u64;
        self.left = self.left.saturating_sub(n as u64);
        if self.left > 0 && task::passed_limit().is_some() {
            let message = "the time for all layers of the image is over";
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        if self.came >= LEAST {
            (self.waited, self.came) = (Duration::ZERO, 0);
        } else if self.waited >= self.span && self.left > 0 {
            let message = format!(
                "only {} bytes arrived in {} s, expected at least {LEAST}",
                self.came,
                self.waited.as_secs()
            );
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Gives so many bytes at once, after a pause.
    struct Slow(usize, Duration);

    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            thread::sleep(self.1);
            Ok(self.0.min(buffer.len()))
        }
    }

    #[test]
    fn a_layer_has_so_much_time_whatever_comes() {
        let _limit = task::within(Duration::from_millis(50));
        let mut layer = MinSpeed::new(Slow(1, Duration::from_millis(10)), 100);
        let error = layer.read_exact(&mut [0; 100]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // Its last byte is not too late.
        let mut layer = MinSpeed::new(Slow(1, Duration::from_millis(10)), 1);
        layer.read_exact(&mut [0]).unwrap();
    }

    #[test]
    fn a_layer_that_trickles_is_given_up() {
        let least = usize::try_from(LEAST).unwrap();
        let short = Duration::from_millis(10);
        // No sleep is shorter than was asked for: the span ends in the fifth read at the latest.
        for (piece, pause, size, is_good, why) in [
            (1, short, 1_000_000, false, "a byte now and then"),
            (least / 8, short, 1_000_000, false, "half of the least"),
            (least, 5 * short, 10 * LEAST, true, "the least in one read"),
            (1, 5 * short, 1, true, "the rest, which is less"),
            (
                1000,
                Duration::ZERO,
                1_000_000,
                true,
                "little at once, without a pause",
            ),
        ] {
            let mut layer = MinSpeed::new(Slow(piece, pause), size);
            layer.span = 4 * short;
            let mut left = usize::try_from(size).unwrap();
            let mut buffer = vec![0; least];
            let end = loop {
                let want = left.min(least);
                match layer.read(&mut buffer[..want]) {
                    Ok(n) if n == left => break Ok(()),
                    Ok(n) => left -= n,
                    Err(error) => break Err(error),
                }
            };
            assert_eq!(end.is_ok(), is_good, "{why}: {end:?}");
        }
    }

    #[test]
    fn what_is_done_between_reads_takes_no_time() {
        let mut layer = MinSpeed::new(Slow(1, Duration::ZERO), 100);
        layer.span = Duration::from_millis(100);
        for _ in 0..3 {
            layer.read_exact(&mut [0]).unwrap();
            thread::sleep(Duration::from_millis(60));
        }
    }
}
