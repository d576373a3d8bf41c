//! Promises files to clients, for this process and the next one, and finds promised files again.

use std::mem;
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::promised::{Clock, Older, Promised, Stored};
use super::{Found, Snapshot, Snapshots};
use crate::address::Located;
use crate::digest::Digest;
use crate::error::Result;
use crate::listing::{File, Listing, PublisherList};
use crate::lock::lock;
use crate::name::FileName;
use crate::resolve::Signed;

/// Most files of one directory whose promise outlives the process. Writing so many down takes some 6 MiB of memory.
/// Only a publisher's list has more in practice, and its bytes are in the cache anyway.
const MAX_STORED: usize = 5_000;

/// Promises are read or written down one directory at a time, for the memory that takes.
static STORING: Mutex<()> = Mutex::new(());

impl Snapshots {
    /// Promises the files that a snapshot lists, and keeps the promise for the next process.
    pub(super) fn promise(&self, found: &Found<'_>, snapshot: &Arc<Snapshot>) -> Result<()> {
        let mut promised = lock(&found.slot.promised);
        self.load(&mut promised, found, snapshot.signed.as_ref())?;
        let clock = clock();
        promised.give(snapshot, clock.now);
        if promised.is_to_store(clock.now) {
            let _one_at_a_time = lock(&STORING);
            let stored = promised.store(clock);
            if stored.len() <= MAX_STORED {
                self.cache.keep_listing(self.key(found.located), &stored);
            }
        }
        promised.weigh(self.memory);
        Ok(())
    }

    /// Reads the promises of earlier processes. The list that is `known` need not be read.
    fn load(
        &self,
        promised: &mut Promised,
        found: &Found<'_>,
        known: Option<&Signed>,
    ) -> Result<()> {
        if promised.is_loaded() {
            return Ok(());
        }
        let _one_at_a_time = lock(&STORING);
        let mut older = Older::default();
        if let Some(stored) = self.cache.listing::<Stored>(self.key(found.located)) {
            let sources = self.sources(found.located)?;
            let source = sources.first().map(|source| source.name());
            let list_of = |digest, size| {
                let known = known.map(|signed| &signed.list);
                if let Some(list) = known.filter(|list| list.digest() == digest) {
                    return Some(list.clone());
                }
                let held = self.memory.take(PublisherList::weight(size))?;
                let bytes = self.cache.document(source.as_deref()?, digest, size)?;
                Some(Arc::new(PublisherList::new(digest, bytes, Some(held))))
            };
            older = stored.restore(clock(), list_of);
        }
        promised.load(older, self.memory);
        Ok(())
    }

    /// The files that older listings promised under these names. The repository has to show again that it holds them,
    /// so the sources are opened anew; and whether their manifests are signed as the settings ask is judged again.
    pub(super) fn older(&self, found: &Found<'_>, names: &[&FileName]) -> Result<Option<Snapshot>> {
        let now = Instant::now();
        let mut files = {
            let mut promised = lock(&found.slot.promised);
            self.load(&mut promised, found, None)?;
            promised.older(names, now)
        };
        if files.is_empty() {
            return Ok(None);
        }
        let sources = self.sources(found.located)?;
        let is_known = |file: &File| file.source < sources.len();
        if !files.values().all(is_known) {
            return Ok(None);
        }
        for (name, file) in mem::take(&mut files) {
            let source = &sources[file.source];
            let resolver = self.resolver(found.located, file.source, source);
            if resolver.still_accepts(&file)? {
                files.insert(name, file);
            }
        }
        let listing = Listing {
            files,
            ..Listing::default()
        };
        Ok(Some(Snapshot {
            is_older: true,
            ..Snapshot::new(listing, sources, found.located.settings.blobs, now)
        }))
    }

    /// The key of a directory's promises in the cache. Those made under other settings have another one.
    fn key(&self, located: &Located) -> Digest {
        Digest::of(format!("{located}\n{}\n", self.made_by).as_bytes())
    }
}

fn clock() -> Clock {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Clock {
        now: Instant::now(),
        seconds: since.map_or(0, |since| since.as_secs()),
    }
}
