//! Retries after a broken connection, an error of the registry, or a short `Retry-After`. The `Retry-After` itself is
//! waited for in `throttle`, together with all other requests to the host.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use log::debug;

use super::Registry;
use super::client::host_of;
use super::throttle::{MAX_QUEUE, MAX_WAIT};
use crate::error::{Error, Result};
use crate::task;

/// How often a request is sent before its error counts.
const ATTEMPTS: u32 = 3;
/// Pause before the second attempt. It doubles with each attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// No attempt begins later than this: systemd-pull gives up after 60 s without data, and one attempt may take most of
/// that.
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
                // `throttle` waits before the next attempt, and before all other requests to the host.
                Error::Busy {
                    url, retry_after, ..
                } => {
                    waited = waited.saturating_add(*retry_after);
                    // The complaint may come from another host, to which a redirect led.
                    let host = host_of(url)?;
                    let answers = throttle.answers(&host);
                    let now = Some((host, answers));
                    // If other requests succeeded since then, the host is not down: only the rate was too high.
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

/// Between half and the whole of it, so that clients that failed together do not retry together.
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
