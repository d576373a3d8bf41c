//! Faults of mirrors. A fault is remembered for a host, for one repository at a mirror, or for one blob of that
//! repository: a fault of one repository says nothing about another.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::recent::Recent;
use crate::digest::Digest;
use crate::lock::lock;
use crate::state::{State, WrongMirrors};

/// How long a mirror that failed is asked only after all others.
pub const REST: Duration = Duration::from_secs(30);
/// Most hosts and repositories of which a failure is remembered.
const MAX_RESTING: usize = 1024;

/// How long a mirror is not asked for a blob after it gave wrong bytes of it, in seconds. A mirror does not notice a
/// damaged file by itself: somebody has to remove it.
const BELIEVED: u64 = 7 * 24 * 60 * 60;
/// Most wrong blobs that are remembered of one source.
const MAX_WRONG: usize = 64;
/// Most sources whose wrong blobs are in memory. Others are read from the state again.
const MAX_SOURCES: usize = 256;

/// The hosts, and repositories at hosts, that failed within the last [`REST`].
#[derive(Default)]
pub struct Resting(Mutex<Recent<String, Instant, MAX_RESTING>>);

impl Resting {
    /// Notes a failure. The result is false if one was noted within the last [`REST`].
    pub fn note(&self, name: &str) -> bool {
        let before = lock(&self.0).insert(name.to_owned(), Instant::now());
        before.is_none_or(|since| since.elapsed() >= REST)
    }

    pub fn has(&self, name: &str) -> bool {
        lock(&self.0)
            .get(&name.to_owned())
            .is_some_and(|since| since.elapsed() < REST)
    }
}

/// The mirrors that gave wrong bytes, by source and blob. Kept in the state, too, for the next run.
#[derive(Default)]
pub struct Wrong(Mutex<Recent<String, WrongMirrors, MAX_SOURCES>>);

impl Wrong {
    /// Whether this place gave wrong bytes of the blob.
    pub fn has(&self, state: &State, source: &str, digest: Digest, place: &str) -> bool {
        self.with(state, source, |wrong| {
            let since = wrong.get(&digest).and_then(|places| places.get(place));
            since.is_some_and(|since| is_believed(*since, now()))
        })
    }

    /// The number of places that did.
    pub fn count(&self, state: &State, source: &str, digest: Digest) -> usize {
        self.with(state, source, |wrong| {
            let places = wrong.get(&digest).into_iter().flatten();
            places
                .filter(|(_, since)| is_believed(**since, now()))
                .count()
        })
    }

    pub fn note(&self, state: &State, source: &str, digest: Digest, place: &str) {
        let now = now();
        self.with(state, source, |wrong| add(wrong, digest, place, now));
        state.update_notes(source, |notes| {
            add(&mut notes.wrong_mirrors, digest, place, now);
        });
    }

    fn with<T>(&self, state: &State, source: &str, work: impl FnOnce(&mut WrongMirrors) -> T) -> T {
        let (mut sources, name) = (lock(&self.0), source.to_owned());
        if let Some(known) = sources.get(&name) {
            return work(known);
        }
        let mut noted = state.notes(source).wrong_mirrors;
        let done = work(&mut noted);
        sources.insert(name, noted);
        done
    }
}

/// Adds a place, and removes entries that are too old or for which there is no room.
fn add(wrong: &mut WrongMirrors, digest: Digest, place: &str, now: u64) {
    let places = wrong.entry(digest).or_default();
    places.insert(place.to_owned(), now);
    for places in wrong.values_mut() {
        places.retain(|_, since| is_believed(*since, now));
    }
    while wrong.values().map(|places| places.len()).sum::<usize>() > MAX_WRONG {
        let last = |places: &BTreeMap<String, u64>| places.values().max().copied();
        let oldest = wrong.iter().min_by_key(|(_, places)| last(places));
        let Some(oldest) = oldest.map(|(digest, _)| *digest) else {
            break;
        };
        wrong.remove(&oldest);
    }
    wrong.retain(|_, places| !places.is_empty());
}

/// Whether an entry counts. One from the future does not: a clock was wrong.
fn is_believed(since: u64, now: u64) -> bool {
    now.checked_sub(since).is_some_and(|age| age < BELIEVED)
}

/// In seconds since 1970.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(n: u64) -> Digest {
        Digest::of(&n.to_le_bytes())
    }

    #[test]
    fn wrong_bytes_are_remembered_of_one_source_at_one_place() {
        let (wrong, state) = (Wrong::default(), State::new(None));
        wrong.note(&state, "a/x", number(1), "m/x");
        for (source, digest, place, is_known) in [
            ("a/x", number(1), "m/x", true),
            ("a/y", number(1), "m/x", false),
            ("a/x", number(2), "m/x", false),
            ("a/x", number(1), "m/x?ns=a", false),
        ] {
            let found = wrong.has(&state, source, digest, place);
            assert_eq!(found, is_known, "{source} {place}");
        }
        assert_eq!(wrong.count(&state, "a/x", number(1)), 1);
        assert_eq!(wrong.count(&state, "a/y", number(1)), 0);
    }

    #[test]
    fn wrong_bytes_are_believed_for_a_week_and_not_from_the_future() {
        for (since, now, expected) in [
            (100, 100, true),
            (100, 99 + BELIEVED, true),
            (100, 100 + BELIEVED, false),
            (100, 99, false),
        ] {
            assert_eq!(is_believed(since, now), expected, "{since} at {now}");
        }
        let mut wrong = WrongMirrors::new();
        add(&mut wrong, number(1), "m", 100);
        add(&mut wrong, number(2), "m", 100 + BELIEVED);
        assert_eq!(Vec::from_iter(wrong.into_keys()), [number(2)]);
    }

    #[test]
    fn the_last_wrong_files_are_remembered() {
        let mut wrong = WrongMirrors::new();
        let count = 2 * MAX_WRONG as u64;
        for n in 0..count {
            add(&mut wrong, number(n), "m", 100 + n);
        }
        assert_eq!(wrong.len(), MAX_WRONG);
        for n in 0..count {
            let is_new = n >= count / 2;
            assert_eq!(wrong.contains_key(&number(n)), is_new, "{n}");
        }
    }

    #[test]
    fn one_repository_at_a_mirror_rests_alone() {
        let resting = Resting::default();
        assert!(resting.note("m/a") && !resting.note("m/a"));
        assert!(resting.has("m/a"));
        assert!(!resting.has("m/b") && !resting.has("m"));
    }
}
