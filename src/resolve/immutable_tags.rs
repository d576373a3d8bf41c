//! What `immutable-tags` holds on to: a tag is what it was when it was first seen.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use super::Resolver;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::name::Tag;
use crate::state::State;

/// What a client is told to wait when another process promised something else at the same time.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The tags of one source that must not change.
pub struct ImmutableTags<'a> {
    state: &'a State,
    source: String,
    /// What was promised before, once it was read.
    known: OnceLock<Result<BTreeMap<Tag, Digest>>>,
    /// What is new, and to be promised before anybody is told of it.
    new: Mutex<BTreeMap<Tag, Digest>>,
}

impl<'a> ImmutableTags<'a> {
    /// Those of a source. They are read when they are needed.
    pub fn new(state: &'a State, source: String) -> Self {
        Self {
            state,
            source,
            known: OnceLock::new(),
            new: Mutex::default(),
        }
    }

    /// What each tag was promised to be.
    fn known(&self) -> Result<&BTreeMap<Tag, Digest>> {
        let read = || {
            if !self.state.is_there() {
                let setting = "immutable-tags = true";
                return Err(Error::NoState { setting });
            }
            Ok(self.state.promises(&self.source)?.tags)
        };
        self.known.get_or_init(read).as_ref().map_err(Error::clone)
    }

    /// What a tag was promised to be.
    pub fn get(&self, tag: &Tag) -> Result<Option<Digest>> {
        Ok(self.known()?.get(tag).copied())
    }

    /// Notes what a tag is that was not promised to be anything.
    pub fn note(&self, tag: &Tag, digest: Digest) {
        lock(&self.new).insert(tag.clone(), digest);
    }

    /// Promises what was noted.
    fn keep(&self) -> Result<()> {
        let new = std::mem::take(&mut *lock(&self.new));
        if new.is_empty() {
            return Ok(());
        }
        let differing = self.state.promise(&self.source, |promises| {
            let mut differing = None;
            for (tag, digest) in new {
                if *promises.tags.entry(tag.clone()).or_insert(digest) != digest {
                    differing = Some(tag);
                }
            }
            differing
        })?;
        match differing {
            None => Ok(()),
            Some(tag) => Err(Error::Busy {
                url: format!(
                    "tag {tag} of {}, which moved while it was read",
                    self.source
                ),
                status: 409,
                retry_after: ASK_AGAIN,
            }),
        }
    }
}

impl Resolver<'_> {
    /// Promises what `work` found the tags to be, where they are immutable, before its result is used. What it
    /// learnt before it failed is promised, too.
    pub fn promising<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(immutable) = &self.immutable_tags else {
            return work();
        };
        // Where promises cannot be read or kept, nothing need be asked for.
        immutable.known()?;
        let result = work();
        immutable.keep().and(result)
    }
}
