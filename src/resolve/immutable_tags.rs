//! `immutable-tags`: a tag keeps the digest that it had when it was first seen.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use super::Resolver;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::name::Tag;
use crate::state::State;

/// The `Retry-After` when another process promised another digest at the same time.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The tags of one source that must not change.
pub struct ImmutableTags<'a> {
    state: &'a State,
    source: String,
    /// The promises of earlier listings, once they were read.
    known: OnceLock<Result<BTreeMap<Tag, Digest>>>,
    /// New digests, to be promised before a client gets them.
    new: Mutex<BTreeMap<Tag, Digest>>,
}

impl<'a> ImmutableTags<'a> {
    /// Those of a source. The promises are read when they are needed.
    pub fn new(state: &'a State, source: String) -> Self {
        Self {
            state,
            source,
            known: OnceLock::new(),
            new: Mutex::default(),
        }
    }

    /// The promised digest of each tag.
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

    /// The promised digest of a tag.
    pub fn get(&self, tag: &Tag) -> Result<Option<Digest>> {
        Ok(self.known()?.get(tag).copied())
    }

    /// Notes the digest of a tag without a promise.
    pub fn note(&self, tag: &Tag, digest: Digest) {
        lock(&self.new).insert(tag.clone(), digest);
    }

    /// Promises the digests that were noted.
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
    /// Promises the digests that `work` found, if tags are immutable, before its result is used; also if it failed
    /// in the end.
    pub fn promising<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(immutable) = &self.immutable_tags else {
            return work();
        };
        // If promises cannot be read or kept, the registry need not be asked.
        immutable.known()?;
        let result = work();
        immutable.keep().and(result)
    }
}
