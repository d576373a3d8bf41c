//! The answers of listings that ran out of time or of requests. The next listing goes on from there.
//!
//! A tag that was answered a moment ago is asked for last then, and counts as it was where there is no time for it.
//! Else a repository with more tags than can be asked for in one listing would never be listed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::digest::Digest;
use crate::lock::lock;
use crate::name::Tag;

/// The time that the answer for a tag counts in the next listings, as long as none of them is complete.
const GOOD_FOR: Duration = Duration::from_secs(10 * 60);
/// Tags that are remembered for all sources together: some MiB.
const MAX_TAGS: usize = 32_768;

/// The tags that were answered, by the name of their source.
#[derive(Default)]
pub struct Unfinished(Mutex<HashMap<String, Answered>>);

type Answered = BTreeMap<Tag, (Digest, Instant)>;

impl Unfinished {
    /// The tags that were answered lately.
    pub fn of(&self, source: &str) -> BTreeMap<Tag, Digest> {
        let sources = lock(&self.0);
        let tags = sources.get(source).into_iter().flatten();
        tags.filter(|(_, (_, when))| when.elapsed() < GOOD_FOR)
            .map(|(tag, (digest, _))| (tag.clone(), *digest))
            .collect()
    }

    /// Notes the tags that were answered now.
    pub fn note(&self, source: &str, digests: &BTreeMap<Tag, Digest>) {
        let mut sources = lock(&self.0);
        let mut tags = sources.remove(source).unwrap_or_default();
        let now = Instant::now();
        let answered = digests
            .iter()
            .map(|(tag, digest)| (tag.clone(), (*digest, now)));
        tags.extend(answered);
        tags.retain(|_, (_, when)| when.elapsed() < GOOD_FOR);
        while tags.len() > MAX_TAGS {
            tags.pop_first();
        }
        let others: usize = sources.values().map(BTreeMap::len).sum();
        if others + tags.len() > MAX_TAGS {
            sources.clear();
        }
        sources.insert(source.to_owned(), tags);
    }

    /// The listing is finished.
    pub fn forget(&self, source: &str) {
        lock(&self.0).remove(source);
    }

    /// Nobody needs the answers any more.
    pub fn forget_all(&self) {
        lock(&self.0).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_each_sources_own_and_bounded() {
        let unfinished = Unfinished::default();
        let digests = |count: usize| -> BTreeMap<Tag, Digest> {
            let tag = |n: usize| format!("v{n:05}").parse().unwrap();
            (0..count).map(|n| (tag(n), Digest::of(b"1"))).collect()
        };
        unfinished.note("a", &digests(3));
        unfinished.note("a", &digests(2));
        assert_eq!(unfinished.of("a"), digests(3));
        assert_eq!(unfinished.of("b"), BTreeMap::new());
        unfinished.note("b", &digests(MAX_TAGS + 7));
        assert_eq!(unfinished.of("b").len(), MAX_TAGS);
        assert_eq!(unfinished.of("a"), BTreeMap::new(), "there is no room");
        unfinished.forget("b");
        assert!(lock(&unfinished.0).is_empty());
    }
}
