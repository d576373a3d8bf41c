//! Requests that are made again: after a broken connection, a fault of the registry, or a short `Retry-After`.
//!
//! The time of a `Retry-After` itself is waited for in `throttle`, with all other requests to the host.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use log::debug;

use super::Registry;
use super::client::host_of;
use super::throttle::{MAX_QUEUE, MAX_WAIT};
use crate::error::{Error, Result};
use crate::task;

/// How often a request is made before its error counts.
const ATTEMPTS: u32 = 3;
/// Before the second attempt; doubled before each one after it.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// No attempt begins later than this: systemd gives up on us after 60 s of silence, and one may take
/// most of that.
const LAST_ATTEMPT: Duration = Duration::from_secs(15);

impl Registry {
    /// Tries again after an error that may pass. Only for GET and HEAD, which change nothing.
    pub fn with_retries<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let throttle = &self.upstream.client.throttle;
        let (begun, mut pause, mut failed) = (Instant::now(), FIRST_PAUSE, 0);
        let (mut waited, mut answers_before) = (Duration::ZERO, None);
        loop {
            let error = match attempt() {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let (wait, is_late) = match &error {
                Error::Broken { .. } | Error::Failing { .. } => {
                    failed += 1;
                    (jitter(pause), begun.elapsed() >= LAST_ATTEMPT)
                }
                // The wait itself is part of the next attempt, as of all other requests to the host.
                Error::Busy {
                    url, retry_after, ..
                } => {
                    waited = waited.saturating_add(*retry_after);
                    // The complaint may be of another host, where a redirect leads.
                    let host = host_of(url)?;
                    let answers = throttle.answers(&host);
                    let now = Some((host, answers));
                    // If others got through since the last time, it is only us who ask too fast.
                    failed += u32::from(answers_before.is_none() || answers_before == now);
                    answers_before = now;
                    let is_late = waited > MAX_WAIT || begun.elapsed() >= MAX_QUEUE;
                    (Duration::ZERO, is_late)
                }
                _ => return Err(error),
            };
            if failed >= ATTEMPTS || is_late {
                return Err(error);
            }
            debug!("trying again in {wait:?}: {}", error.line());
            task::sleep(wait)?;
            pause *= 2;
        }
    }
}

/// Between half and the whole of it, so that clients that failed together don't return together.
fn jitter(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    pause.mul_f64(0.5 + (random % 1000) as f64 / 2000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_jittered_within_bounds() {
        for _ in 0..1000 {
            let pause = jitter(FIRST_PAUSE);
            assert!(
                (FIRST_PAUSE / 2..=FIRST_PAUSE).contains(&pause),
                "{pause:?}"
            );
        }
    }
}
