//! A map bounded in entries and in bytes; the least recently used entry is removed first.

use std::collections::HashMap;
use std::hash::Hash;

/// A map of at most `MAX` values (LRU).
pub struct Recent<K, V, const MAX: usize> {
    max_bytes: usize,
    entries: HashMap<K, Entry<V>>,
    /// The bytes of all entries together, as the caller counts them.
    bytes: usize,
    /// The time, counted in uses.
    clock: u64,
}

impl<K, V, const MAX: usize> Default for Recent<K, V, MAX> {
    fn default() -> Self {
        Self::with_bytes(usize::MAX)
    }
}

impl<K, V, const MAX: usize> Recent<K, V, MAX> {
    /// At most so many bytes in all, too.
    pub fn with_bytes(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            entries: HashMap::new(),
            bytes: 0,
            clock: 0,
        }
    }
}

struct Entry<V> {
    value: V,
    bytes: usize,
    used: u64,
}

impl<K: Clone + Eq + Hash, V, const MAX: usize> Recent<K, V, MAX> {
    /// The value, which counts as used now.
    pub fn get(&mut self, key: &K) -> Option<&mut V> {
        self.clock += 1;
        let entry = self.entries.get_mut(key)?;
        entry.used = self.clock;
        Some(&mut entry.value)
    }

    /// Remembers a value that has no size worth counting. Gives the one before it.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.insert_sized(key, value, 0)
    }

    /// Remembers a value of so many bytes, unless it alone is too large. Gives the one before it.
    pub fn insert_sized(&mut self, key: K, value: V, bytes: usize) -> Option<V> {
        let before = self.remove(&key);
        if bytes > self.max_bytes {
            return before;
        }
        while self.entries.len() >= MAX || self.bytes > self.max_bytes - bytes {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else {
                break;
            };
            self.remove(&oldest);
        }
        self.clock += 1;
        self.bytes += bytes;
        let used = self.clock;
        self.entries.insert(key, Entry { value, bytes, used });
        before
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        let entry = self.entries.remove(key)?;
        self.bytes -= entry.bytes;
        Some(entry.value)
    }

    /// Forgets all values for which this is false.
    pub fn retain(&mut self, mut is_kept: impl FnMut(&V) -> bool) {
        self.entries.retain(|_, entry| {
            let is_kept = is_kept(&entry.value);
            self.bytes -= if is_kept { 0 } else { entry.bytes };
            is_kept
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys<const MAX: usize>(recent: &Recent<u32, (), MAX>) -> Vec<u32> {
        let mut keys: Vec<_> = recent.entries.keys().copied().collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let mut recent = Recent::<_, _, 3>::default();
        for key in 1..=3 {
            assert_eq!(recent.insert(key, ()), None);
        }
        assert!(recent.get(&1).is_some());
        recent.insert(4, ());
        assert_eq!(keys(&recent), [1, 3, 4]);
        assert_eq!(recent.insert(3, ()), Some(()), "the same key again");
        recent.insert(5, ());
        assert_eq!(keys(&recent), [3, 4, 5]);
    }

    #[test]
    fn sizes_are_counted_over_all() {
        let mut recent = Recent::<_, _, 10>::with_bytes(100);
        for (key, bytes, kept) in [
            (1, 40, vec![1]),
            (2, 60, vec![1, 2]),
            (3, 1, vec![2, 3]),
            (4, 101, vec![2, 3]), // too large
            (3, 40, vec![2, 3]),
            (5, 100, vec![5]),
            (6, 0, vec![5, 6]),
        ] {
            recent.insert_sized(key, (), bytes);
            assert_eq!(keys(&recent), kept, "{key}");
        }
        recent.retain(|()| false);
        assert_eq!((recent.bytes, recent.entries.len()), (0, 0));
    }
}
