//! A publisher's list and its signature: two requests, one snapshot. No I/O.
//!
//! systemd asks for `SHA256SUMS` and its signature at once, over two connections. Nothing in HTTP ties the two
//! together, so the time does. A list or signature that was answered is a *half*. It stands open until the other
//! half is answered, for [`OPEN`] at most. While it is open, the other half comes from the same snapshot, whatever
//! the registry has by then. A request that needs a newer snapshot waits until no half is open, so that
//! a signature that is asked for meanwhile has one list to belong to.

use std::time::{Duration, Instant};

/// Longest time that a half stands open, and that a request waits for open halves. systemd sends both requests
/// within milliseconds.
const OPEN: Duration = Duration::from_secs(1);
/// A signature that comes later than [`OPEN`] still belongs to the last list, if nothing newer was asked for.
/// systemd 262 asks for four names of signatures one after the other.
const LATE: Duration = Duration::from_secs(10);
/// Open halves of one directory. Clients that never ask for the other half open any number.
const MAX_OPEN: usize = 64;

/// One of the two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// `SHA256SUMS`
    List,
    /// `SHA256SUMS.gpg`, or another form.
    Signature,
}

/// The halves of one directory that were answered and wait for their other half. `S` is a snapshot.
#[derive(Debug)]
pub struct Pairs<S> {
    /// In the order of their answers.
    open: Vec<Open<S>>,
    /// The last list whose time is over, without a signature.
    late: Option<Open<S>>,
}

#[derive(Debug)]
struct Open<S> {
    half: Half,
    of: S,
    since: Instant,
}

/// The answer to a request for a half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<S> {
    /// Answer it from this snapshot.
    Answer(S),
    /// Decide again after this time, or when a half was answered.
    Wait(Duration),
    /// Take a new snapshot, then decide again.
    Renew,
}

impl<S> Default for Pairs<S> {
    fn default() -> Self {
        Self {
            open: Vec::new(),
            late: None,
        }
    }
}

impl<S: Clone + PartialEq> Pairs<S> {
    /// Decides about a request that came at `asked`. `current` is the snapshot that is new enough for it, if any.
    pub fn step(
        &mut self,
        half: Half,
        current: Option<&S>,
        asked: Instant,
        now: Instant,
    ) -> Step<S> {
        self.expire(now);
        if let Some(other) = self.open.iter().find(|open| open.half != half) {
            return Step::Answer(other.of.clone());
        }
        if let (Half::Signature, Some(late)) = (half, &self.late) {
            return Step::Answer(late.of.clone());
        }
        let is_another = |open: &Open<S>| Some(&open.of) != current;
        let patience = (asked + OPEN).saturating_duration_since(now);
        let newest = self.open.iter().filter(|open| is_another(open)).last();
        match (newest, current) {
            (Some(newest), _) if !patience.is_zero() => {
                let left = (newest.since + OPEN).saturating_duration_since(now);
                Step::Wait(left.min(patience))
            }
            (_, Some(current)) => Step::Answer(current.clone()),
            (_, None) => Step::Renew,
        }
    }

    /// Notes that a half of this snapshot is answered: it closes the other one, or stands open itself.
    pub fn answered(&mut self, half: Half, of: &S, now: Instant) {
        self.expire(now);
        let closes = |open: &Open<S>| open.half != half && open.of == *of;
        if let Some(other) = self.open.iter().position(closes) {
            self.open.remove(other);
            return;
        }
        // A list may be asked for at the same moment as a signature that is late.
        self.late = None;
        if self.open.len() >= MAX_OPEN {
            self.open.remove(0);
        }
        self.open.push(Open {
            half,
            of: of.clone(),
            since: now,
        });
    }

    /// Does a half stand open now?
    pub fn has_open(&mut self, now: Instant) -> bool {
        self.expire(now);
        !self.open.is_empty()
    }

    /// All snapshots that it holds.
    pub fn snapshots(&self) -> impl Iterator<Item = &S> {
        self.open.iter().chain(&self.late).map(|open| &open.of)
    }

    /// Forgets halves whose time is over, and with them their snapshots.
    pub fn expire(&mut self, now: Instant) {
        let is_over = |open: &Open<S>| now.saturating_duration_since(open.since) >= OPEN;
        while self.open.first().is_some_and(is_over) {
            let open = self.open.remove(0);
            if open.half == Half::List {
                self.late = Some(open);
            }
        }
        let is_too_late = |late: &Open<S>| now.saturating_duration_since(late.since) >= LATE;
        self.late = self.late.take().filter(|late| !is_too_late(late));
    }
}

#[cfg(test)]
mod tests {
    use super::Half::{List, Signature};
    use super::*;

    /// A request for a half at some millisecond, with the snapshot that is new enough for it, and what is done.
    /// One that is answered is noted as such.
    type Request = (u64, Half, Option<u32>, Step<u32>);

    fn answer(snapshot: u32) -> Step<u32> {
        Step::Answer(snapshot)
    }

    fn wait(milliseconds: u64) -> Step<u32> {
        Step::Wait(Duration::from_millis(milliseconds))
    }

    #[test]
    fn both_halves_come_from_one_snapshot() {
        let cases: &[(&str, &[Request])] = &[
            (
                "the signature belongs to the list that was answered, whatever is newer",
                &[
                    (0, List, Some(1), answer(1)),
                    (5, Signature, Some(2), answer(1)),
                    (6, Signature, Some(2), answer(2)),
                ],
            ),
            (
                "so does the list to a signature that was answered first",
                &[
                    (0, Signature, Some(1), answer(1)),
                    (5, List, None, answer(1)),
                    (6, List, None, Step::Renew),
                ],
            ),
            (
                "nothing is new enough",
                &[
                    (0, Signature, None, Step::Renew),
                    (0, List, None, Step::Renew),
                ],
            ),
            (
                "a list that needs a newer snapshot waits for the signature of the one before",
                &[
                    (0, List, Some(1), answer(1)),
                    (200, List, None, wait(800)),
                    (300, Signature, None, answer(1)),
                    (300, List, None, Step::Renew),
                ],
            ),
            (
                "and for the snapshot that somebody else took, too",
                &[
                    (0, List, Some(1), answer(1)),
                    (200, List, Some(2), wait(800)),
                    (1000, List, Some(2), answer(2)),
                ],
            ),
            (
                "a half stands open for its time and no longer",
                &[
                    (0, Signature, Some(1), answer(1)),
                    (999, Signature, None, wait(1)),
                    (1000, List, None, Step::Renew),
                ],
            ),
            (
                "two clients of one snapshot wait for nothing",
                &[
                    (0, List, Some(1), answer(1)),
                    (0, List, Some(1), answer(1)),
                    (1, Signature, Some(1), answer(1)),
                    (2, List, None, wait(998)),
                    (3, Signature, None, answer(1)),
                    (3, List, None, Step::Renew),
                ],
            ),
            (
                "of two lists that are open the first one gets its signature first",
                &[
                    (0, List, Some(1), answer(1)),
                    (10, Signature, Some(1), answer(1)),
                    (10, Signature, Some(1), answer(1)),
                    (20, List, Some(1), answer(1)),
                    (21, Signature, Some(2), answer(2)),
                ],
            ),
            (
                "a late signature still belongs to its list",
                &[
                    (0, List, Some(1), answer(1)),
                    (9_999, Signature, None, answer(1)),
                    (9_999, List, None, answer(1)),
                ],
            ),
            (
                "but not after a newer list",
                &[
                    (0, List, Some(1), answer(1)),
                    (2_000, List, None, Step::Renew),
                    (2_001, List, Some(2), answer(2)),
                    (2_002, Signature, None, answer(2)),
                    (2_003, Signature, None, Step::Renew),
                ],
            ),
            (
                "nor for ever",
                &[
                    (0, List, Some(1), answer(1)),
                    (10_000, Signature, None, Step::Renew),
                ],
            ),
        ];
        for (why, requests) in cases {
            let start = Instant::now();
            let mut pairs = Pairs::default();
            for (at, half, current, expected) in *requests {
                let now = start + Duration::from_millis(*at);
                let found = pairs.step(*half, current.as_ref(), now, now);
                assert_eq!(found, *expected, "{why}: {half:?} at {at} ms");
                if let Step::Answer(snapshot) = found {
                    pairs.answered(*half, &snapshot, now);
                }
            }
        }
    }

    #[test]
    fn nobody_waits_for_longer_than_a_half_may_stand_open() {
        let asked = Instant::now();
        let at = |milliseconds| asked + Duration::from_millis(milliseconds);
        let mut pairs = Pairs::default();
        for (now, expected) in [(0, wait(1000)), (600, wait(400)), (1000, Step::Renew)] {
            // Others open one half after the other.
            pairs.answered(List, &1, at(now));
            assert_eq!(pairs.step(List, None, asked, at(now)), expected, "{now} ms");
        }
    }

    #[test]
    fn clients_that_want_no_signature_are_remembered_in_a_bounded_number() {
        let now = Instant::now();
        let mut pairs = Pairs::default();
        for n in 0..1000 {
            pairs.answered(List, &n, now);
        }
        assert_eq!(pairs.open.len(), MAX_OPEN);
        assert_eq!(
            pairs.step(Signature, None, now, now),
            answer(1000 - MAX_OPEN as u32)
        );
    }
}
