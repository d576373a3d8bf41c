//! Files that were wrong after they were put together of older ones: they are fetched whole from then on.
//!
//! The index of such a file lies. Its publisher may correct it, but the file can be fetched without it all the same.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::digest::Digest;
use crate::lock::lock;
use crate::state::State;

/// Most files that are remembered of one source, and in memory.
const MAX: usize = 64;

/// The wrong files of all sources.
pub struct WrongPlans {
    /// Has those of earlier processes, in the notes of their sources.
    state: Arc<State>,
    /// Those of this process, with their sources: there may be no state directory.
    files: Mutex<BTreeMap<(String, Digest), u64>>,
}

impl WrongPlans {
    pub fn new(state: Arc<State>) -> Self {
        Self {
            state,
            files: Mutex::default(),
        }
    }

    /// Whether a plan for this file of a source failed.
    pub fn has(&self, source: &str, file: Digest) -> bool {
        let is_noted = || self.state.notes(source).wrong_plans.contains_key(&file);
        let key = (source.to_owned(), file);
        lock(&self.files).contains_key(&key) || is_noted()
    }

    /// Remembers that a plan for this file failed.
    pub fn note(&self, source: &str, file: Digest) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = since.map_or(0, |since| since.as_secs());
        add(&mut lock(&self.files), (source.to_owned(), file), now);
        self.state
            .update_notes(source, |notes| add(&mut notes.wrong_plans, file, now));
    }
}

/// Adds a file; the one that was noted first makes room for it.
fn add<K: Ord + Clone>(files: &mut BTreeMap<K, u64>, file: K, now: u64) {
    files.insert(file.clone(), now);
    while files.len() > MAX {
        let others = files.iter().filter(|(other, _)| **other != file);
        let oldest = others.min_by_key(|(_, since)| **since);
        let Some(oldest) = oldest.map(|(one, _)| one.clone()) else {
            break;
        };
        files.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_wrong_plans_are_remembered_without_a_state_directory_too() {
        let wrong = WrongPlans::new(Arc::new(State::new(None)));
        let number = |n: usize| Digest::of(&n.to_le_bytes());
        assert!(!wrong.has("a", number(0)));
        for n in 0..2 * MAX {
            wrong.note("a", number(n));
            assert!(wrong.has("a", number(n)), "{n}");
            assert!(
                !wrong.has("b", number(n)),
                "the index of another repository"
            );
        }
        assert_eq!(lock(&wrong.files).len(), MAX);
        let mut files = BTreeMap::new();
        for n in 0..2 * MAX {
            add(&mut files, number(n), n as u64);
        }
        assert!((0..2 * MAX).all(|n| files.contains_key(&number(n)) == (n >= MAX)));
    }
}
