//! The promises of a directory: a file that was listed is served for a while, though newer listings lack it. No I/O.
//!
//! A client may come for a file after the tag is gone, or after the service has left and was started again. So the
//! files that were given out are kept, in memory and in the form that the cache keeps: see [`Stored`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Signed, Snapshot};
use crate::artifact::{Content, Recipe};
use crate::digest::Digest;
use crate::listing::{File, PublisherList};
use crate::memory::{Held, Memory};
use crate::name::{FileName, Tag};
use crate::trust::Accepted;

/// How long a listing binds after it was given out last: an update may fetch several large files in between.
pub const PROMISE: Duration = Duration::from_secs(60 * 60);
/// A listing that did not change is written down again after this time. One that is read back binds so much longer.
pub const STAMPED: Duration = Duration::from_secs(5 * 60);
/// Memory for the older files of one directory, in bytes.
const MAX_OLDER: usize = 8 << 20;
/// Most older signed lists of one directory that are kept whole, because newer ones lack many of their names.
const MAX_LISTS: usize = 2;
/// Most names of an older signed list that are kept as files instead.
const MAX_AS_FILES: usize = 1000;

/// The files that were given out of one directory.
#[derive(Default)]
pub struct Promised {
    /// The newest listing, and when it was given out last.
    newest: Option<(Arc<Snapshot>, Instant)>,
    /// The files of older listings.
    older: Older,
    /// Whether the promises of earlier processes were read.
    is_loaded: bool,
    /// When all this was written down, if nothing has changed since.
    stored: Option<Instant>,
    /// The memory that the older files take.
    held: Option<Held>,
}

impl Promised {
    /// Notes that the listing of a snapshot is given out. Of two that are asked for at once the older one may come last.
    pub fn give(&mut self, snapshot: &Arc<Snapshot>, now: Instant) {
        match &mut self.newest {
            Some((newest, given)) if newest == snapshot => {
                *given = now;
                return;
            }
            Some((newest, _)) if snapshot.begun < newest.begun => {
                self.older.add(snapshot, now, newest);
                self.stored = None;
                return;
            }
            Some((newest, given)) => {
                if !lists_the_same(newest, snapshot) {
                    self.older.add(newest, *given, snapshot);
                    self.stored = None;
                }
            }
            None => self.stored = self.older.given(snapshot),
        }
        self.newest = Some((snapshot.clone(), now));
        self.older.forget(now, snapshot);
    }

    /// Adds the promises of earlier processes, which are older.
    pub fn load(&mut self, older: Older, memory: &'static Memory) {
        self.older = older;
        self.is_loaded = true;
        self.weigh(memory);
    }

    /// Whether the promises of earlier processes were read.
    pub fn is_loaded(&self) -> bool {
        self.is_loaded
    }

    /// Counts the memory that the older files take. Where there is none they are forgotten, and read again when
    /// they are needed.
    pub fn weigh(&mut self, memory: &'static Memory) {
        self.held = None;
        self.held = memory.take(self.older.weight());
        if self.held.is_none() {
            self.forget_older();
        }
    }

    /// Whether there are files of older listings.
    pub fn has_older(&self) -> bool {
        !self.older.files.is_empty() || !self.older.lists.is_empty()
    }

    /// Forgets the files of older listings until they are read again.
    pub fn forget_older(&mut self) {
        self.older = Older::default();
        self.held = None;
        self.is_loaded = false;
    }

    /// Forgets the newest listing. It is read again as an older one.
    pub fn forget_newest(&mut self) {
        self.newest = None;
        self.is_loaded = false;
    }

    /// The newest listing, as long as it binds.
    pub fn newest(&self) -> Option<Arc<Snapshot>> {
        let live = self.newest.as_ref();
        let live = live.filter(|(_, given)| given.elapsed() < PROMISE);
        live.map(|(snapshot, _)| snapshot.clone())
    }

    /// The newest listing, also when it binds no more.
    pub fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        self.newest.as_ref().map(|(snapshot, _)| snapshot)
    }

    /// When the newest listing was given out last.
    pub fn given(&self) -> Option<Instant> {
        self.newest.as_ref().map(|(_, given)| *given)
    }

    /// The files that older listings promised under these names.
    pub fn older(&self, names: &[&FileName], now: Instant) -> BTreeMap<FileName, File> {
        let file = |name: &&FileName| Some(((*name).clone(), self.older.get(name, now)?));
        names.iter().filter_map(file).collect()
    }

    /// Whether the promises have changed since they were written down, or that was too long ago.
    pub fn is_to_store(&self, now: Instant) -> bool {
        let is_new = |stored| now.saturating_duration_since(stored) < STAMPED;
        !self.stored.is_some_and(is_new)
    }

    /// All that binds now, in the form that is written down.
    pub fn store(&mut self, clock: Clock) -> Stored {
        self.stored = Some(clock.now);
        let mut stored = Stored::default();
        if let Some((newest, given)) = &self.newest {
            match &newest.signed {
                Some(Signed { list, accepted, .. }) => {
                    stored.add_list(list, accepted.as_deref(), *given, clock);
                }
                None => stored.add_files(newest.listing.files.iter(), *given, clock),
            }
        }
        stored.add_older(&self.older, clock);
        stored
    }
}

fn lists_the_same(one: &Snapshot, other: &Snapshot) -> bool {
    match (&one.signed, &other.signed) {
        (Some(one), Some(other)) => one.list.digest() == other.list.digest(),
        (None, None) => one.listing.files == other.listing.files,
        _ => false,
    }
}

/// Files of older listings of one directory.
#[derive(Debug, Default)]
pub struct Older {
    files: BTreeMap<FileName, (File, Instant)>,
    lists: Vec<(OlderList, Instant)>,
}

/// A list of a publisher, and the signatures by which its artifact was accepted.
#[derive(Clone, Debug)]
struct OlderList {
    pub list: Arc<PublisherList>,
    pub accepted: Option<Arc<Accepted>>,
}

impl Older {
    /// The file that was promised last under this name.
    pub fn get(&self, name: &FileName, now: Instant) -> Option<File> {
        let file = self.files.get(name).cloned();
        let lists = self.lists.iter();
        let listed = lists.filter_map(|(OlderList { list, accepted }, given)| {
            Some((list.get(name, accepted.as_ref())?, *given))
        });
        let found = file.into_iter().chain(listed);
        let found = found.filter(|(_, given)| is_live(*given, now));
        found.max_by_key(|(_, given)| *given).map(|(file, _)| file)
    }

    /// Adds the files of a snapshot that was given out last at `given`, as far as a newer one lacks them.
    fn add(&mut self, snapshot: &Snapshot, given: Instant, newer: &Snapshot) {
        let is_newer = |name: &FileName| newer.has(name);
        match &snapshot.signed {
            Some(Signed { list, accepted, .. }) => {
                self.add_list(list, accepted.as_ref(), given, is_newer);
            }
            None => self.add_files(&snapshot.listing.files, given, is_newer),
        }
    }

    fn add_files(
        &mut self,
        files: &BTreeMap<FileName, File>,
        given: Instant,
        is_newer: impl Fn(&FileName) -> bool,
    ) {
        for (name, file) in files.iter().filter(|(name, _)| !is_newer(name)) {
            self.add_file(name.clone(), file.clone(), given);
        }
        self.shrink();
    }

    fn add_list(
        &mut self,
        list: &Arc<PublisherList>,
        accepted: Option<&Arc<Accepted>>,
        given: Instant,
        is_newer: impl Fn(&FileName) -> bool,
    ) {
        let lacking = || list.files(accepted).filter(|(name, _)| !is_newer(name));
        if lacking().nth(MAX_AS_FILES).is_some() {
            let (list, accepted) = (list.clone(), accepted.cloned());
            self.lists.push((OlderList { list, accepted }, given));
            self.lists.sort_by_key(|(_, given)| *given);
            let surplus = self.lists.len().saturating_sub(MAX_LISTS);
            self.lists.drain(..surplus);
        } else {
            for (name, file) in lacking() {
                self.add_file(name, file, given);
            }
            self.shrink();
        }
    }

    fn add_file(&mut self, name: FileName, file: File, given: Instant) {
        let older = self.files.get(&name);
        if older.is_none_or(|(_, older)| *older <= given) {
            self.files.insert(name, (file, given));
        }
    }

    /// Forgets what binds no more, and the files that the newest listing promises anyway.
    fn forget(&mut self, now: Instant, newest: &Snapshot) {
        let is_in_newest =
            |name: &FileName, file: &File| newest.file(name).as_deref() == Some(file);
        self.files
            .retain(|name, (file, given)| is_live(*given, now) && !is_in_newest(name, file));
        let newest = newest.signed.as_ref().map(|signed| signed.list.digest());
        self.lists
            .retain(|(older, given)| is_live(*given, now) && Some(older.list.digest()) != newest);
    }

    /// When all that a snapshot lists was given out last, if it was.
    fn given(&self, snapshot: &Snapshot) -> Option<Instant> {
        if let Some(signed) = &snapshot.signed {
            let same = |(older, _): &&(OlderList, _)| older.list.digest() == signed.list.digest();
            return self.lists.iter().find(same).map(|(_, given)| *given);
        }
        let same = |(name, file)| self.files.get(name).is_some_and(|(older, _)| older == file);
        let last = self.files.values().map(|(_, given)| *given).max();
        snapshot
            .listing
            .files
            .iter()
            .all(same)
            .then_some(last)
            .flatten()
    }

    /// The memory that its files take, in bytes and roughly. Lists count by themselves.
    pub fn weight(&self) -> usize {
        self.files.iter().map(weight).sum()
    }

    /// Drops what was given out first until the rest has room.
    fn shrink(&mut self) {
        let mut weight = self.weight();
        while weight > MAX_OLDER {
            let Some(first) = self.files.values().map(|(_, given)| *given).min() else {
                break;
            };
            self.files.retain(|name, one| {
                let goes = one.1 == first && weight > MAX_OLDER;
                if goes {
                    weight -= self::weight((name, one));
                }
                !goes
            });
        }
    }
}

fn weight((name, (file, _)): (&FileName, &(File, Instant))) -> usize {
    name.as_str().len() + file.weight() + size_of::<Instant>()
}

fn is_live(given: Instant, now: Instant) -> bool {
    now.saturating_duration_since(given) < PROMISE
}

/// All that a directory's listings promise, as the cache keeps it.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Stored {
    files: BTreeMap<FileName, StoredFile>,
    /// The lists that their publisher signed. Their bytes are among the documents.
    lists: Vec<StoredList>,
}

/// A list that its publisher signed.
#[derive(Debug, Deserialize, Serialize)]
struct StoredList {
    /// In seconds since 1970.
    given: u64,
    digest: Digest,
    /// In bytes.
    size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    accepted: Option<Accepted>,
}

#[derive(Debug, Deserialize, Serialize)]
struct StoredFile {
    /// When it was given out last, in seconds since 1970.
    given: u64,
    digest: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    source: usize,
    tag: Tag,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    manifest: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    architecture: Option<String>,
    is_of_index: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layers: Option<Vec<(Digest, u64)>>,
    /// Of a file that is made: the ending of the one file in the image that is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    made_file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    accepted: Option<Accepted>,
}

/// The two clocks at one moment: only the one counts across restarts, only the other is never set.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// This process's.
    pub now: Instant,
    /// In seconds since 1970.
    pub seconds: u64,
}

impl Clock {
    fn to_seconds(self, given: Instant) -> u64 {
        let age = self.now.saturating_duration_since(given).as_secs();
        self.seconds.saturating_sub(age)
    }

    /// `None` if it is too long ago, or lies ahead: then a clock was wrong.
    fn to_instant(self, given: u64) -> Option<Instant> {
        let age = Duration::from_secs(self.seconds.checked_sub(given)?);
        // It may have been given out once more since it was written down.
        let age = age.saturating_sub(STAMPED);
        self.now.checked_sub(age).filter(|_| age < PROMISE)
    }
}

impl Stored {
    /// The number of its files, without those in signed lists.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Adds files that were given out last at `given`.
    pub fn add_files<'a>(
        &mut self,
        files: impl Iterator<Item = (&'a FileName, &'a File)>,
        given: Instant,
        clock: Clock,
    ) {
        let stored = |file| StoredFile::new(file, given, clock);
        self.files
            .extend(files.map(|(name, file)| (name.clone(), stored(file))));
    }

    /// Adds a list that was given out last at `given`.
    pub fn add_list(
        &mut self,
        list: &PublisherList,
        accepted: Option<&Accepted>,
        given: Instant,
        clock: Clock,
    ) {
        self.lists.push(StoredList {
            given: clock.to_seconds(given),
            digest: list.digest(),
            size: list.bytes().len() as u64,
            accepted: accepted.cloned(),
        });
    }

    /// Adds all older files.
    pub fn add_older(&mut self, older: &Older, clock: Clock) {
        for (name, (file, given)) in &older.files {
            self.files
                .entry(name.clone())
                .or_insert_with(|| StoredFile::new(file, *given, clock));
        }
        for (OlderList { list, accepted }, given) in &older.lists {
            self.add_list(list, accepted.as_deref(), *given, clock);
        }
    }

    /// The part of it that binds now. `list_of` has the lists.
    pub fn restore(
        self,
        clock: Clock,
        list_of: impl Fn(Digest, u64) -> Option<Arc<PublisherList>>,
    ) -> Older {
        let files = self.files.into_iter().filter_map(|(name, stored)| {
            let given = clock.to_instant(stored.given)?;
            Some((name, (stored.file()?, given)))
        });
        let lists = self.lists.into_iter().filter_map(|stored| {
            let given = clock.to_instant(stored.given)?;
            let list = list_of(stored.digest, stored.size)?;
            let accepted = stored.accepted.map(Arc::new);
            Some((OlderList { list, accepted }, given))
        });
        Older {
            files: files.collect(),
            lists: lists.collect(),
        }
    }
}

impl StoredFile {
    fn new(file: &File, given: Instant, clock: Clock) -> Self {
        let (text, recipe) = match &file.content {
            Content::Blob => (None, None),
            Content::Text(text) => (Some(text.to_string()), None),
            Content::Flattened { recipe, .. } => (None, Some(recipe)),
        };
        Self {
            given: clock.to_seconds(given),
            digest: file.digest,
            size: file.size,
            source: file.source,
            tag: file.tag.clone(),
            manifest: file.manifest,
            architecture: file.architecture.map(|found| found.to_string()),
            is_of_index: file.is_of_index,
            text,
            layers: recipe.map(|recipe| recipe.layers.clone()),
            made_file: recipe.and_then(|recipe| recipe.file.as_deref().map(str::to_owned)),
            accepted: file.accepted.as_deref().cloned(),
        }
    }

    fn file(self) -> Option<File> {
        let content = match (self.text, self.layers) {
            (None, None) => Content::Blob,
            (Some(text), None) => Content::Text(text.into()),
            (_, Some(layers)) => Content::Flattened {
                size: self.size?,
                recipe: Recipe {
                    layers,
                    file: self.made_file.map(Arc::from),
                },
            },
        };
        let architecture = self.architecture.map(|name| name.parse());
        Some(File {
            digest: self.digest,
            size: self.size,
            source: self.source,
            tag: self.tag,
            manifest: self.manifest,
            architecture: architecture.transpose().ok()?,
            is_of_index: self.is_of_index,
            content,
            accepted: self.accepted.map(Arc::new),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Tag;

    fn file(content: &str) -> File {
        File {
            digest: Digest::of(content.as_bytes()),
            size: Some(content.len() as u64),
            source: 0,
            tag: "v1".parse::<Tag>().unwrap(),
            manifest: Some(Digest::of(b"{}")),
            architecture: Some("x86-64".parse().unwrap()),
            is_of_index: true,
            content: Content::Blob,
            accepted: Some(Arc::new(Accepted {
                manifest: Digest::of(b"{}"),
                tag: "v1".parse().ok(),
                by: "key /a.pub (bundle)".to_owned(),
            })),
        }
    }

    fn files(names: &[(&str, &str)]) -> BTreeMap<FileName, File> {
        let one = |(name, content): &(&str, &str)| (name.parse().unwrap(), file(content));
        names.iter().map(one).collect()
    }

    fn list(names: &[(&str, &str)]) -> Arc<PublisherList> {
        let line = |(name, content): &(&str, &str)| {
            format!("{}  {name}\n", Digest::of(content.as_bytes()).hex())
        };
        let bytes = names.iter().map(line).collect::<String>().into_bytes();
        Arc::new(PublisherList::new(Digest::of(&bytes), bytes, None))
    }

    fn digest(older: &Older, name: &str, now: Instant) -> Option<Digest> {
        older
            .get(&name.parse().unwrap(), now)
            .map(|file| file.digest)
    }

    #[test]
    fn what_was_given_out_last_under_a_name_counts_for_an_hour() {
        let start = Instant::now();
        let at = |minutes: u64| start + Duration::from_secs(60 * minutes);
        let nothing = |_: &FileName| false;
        let mut older = Older::default();
        older.add_files(&files(&[("a", "a2"), ("b", "b2")]), at(20), nothing);
        older.add_files(&files(&[("a", "a1"), ("c", "c1")]), at(10), nothing);
        older.add_list(&list(&[("b", "b3"), ("a", "a0")]), None, at(30), |name| {
            name.as_str() == "a"
        });
        for (name, minutes, expected) in [
            ("a", 30, Some("a2")),
            ("b", 30, Some("b3")),
            ("c", 30, Some("c1")),
            ("d", 30, None),
            ("c", 69, Some("c1")),
            ("c", 70, None),
            ("a", 79, Some("a2")),
            ("a", 80, None),
        ] {
            let expected = expected.map(|content| Digest::of(content.as_bytes()));
            let found = digest(&older, name, at(minutes));
            assert_eq!(found, expected, "{name} after {minutes} minutes");
        }
    }

    #[test]
    fn a_signed_list_of_very_many_names_is_kept_whole_and_few_of_them() {
        let now = Instant::now();
        let names: Vec<_> = (0..=MAX_AS_FILES).map(|n| format!("{n}")).collect();
        let names: Vec<_> = names.iter().map(|name| (name.as_str(), "x")).collect();
        let mut older = Older::default();
        for n in 0..5 {
            let given = now + Duration::from_secs(n);
            older.add_list(&list(&names), None, given, |_| false);
        }
        assert_eq!((older.files.len(), older.lists.len()), (0, MAX_LISTS));
        assert_eq!(digest(&older, "7", now), Some(Digest::of(b"x")));
    }

    #[test]
    fn older_files_take_a_bounded_memory_and_the_first_go_first() {
        let now = Instant::now();
        let mut older = Older::default();
        for n in 0..300 {
            let names = (0..200).map(|m| (format!("{n}-{m}").parse().unwrap(), file("x")));
            let given = now + Duration::from_secs(n);
            older.add_files(&names.collect(), given, |_| false);
        }
        assert!(older.weight() <= MAX_OLDER, "{}", older.weight());
        assert_eq!(digest(&older, "0-0", now), None);
        assert!(digest(&older, "299-199", now).is_some());
    }

    #[test]
    fn what_is_kept_comes_back_as_it_was() {
        let clock = Clock {
            now: Instant::now() + Duration::from_secs(100_000),
            seconds: 1_000_000,
        };
        let ago = |seconds| clock.now - Duration::from_secs(seconds);
        let mut all = files(&[("a", "a"), ("b", "b")]);
        let text = File {
            content: Content::Text("text".into()),
            manifest: None,
            architecture: None,
            size: None,
            ..file("t")
        };
        all.insert("t".parse().unwrap(), text);
        let made = File {
            content: Content::Flattened {
                size: 1,
                recipe: Recipe {
                    layers: vec![(Digest::of(b"layer"), 7)],
                    file: Some(".raw".into()),
                },
            },
            ..file("m")
        };
        all.insert("m".parse().unwrap(), made);
        let signed = list(&[("s", "s")]);
        let mut stored = Stored::default();
        stored.add_files(all.iter(), ago(60), clock);
        stored.add_list(&signed, file("s").accepted.as_deref(), ago(60), clock);
        let mut older = Older::default();
        older.add_files(
            &files(&[("a", "older"), ("c", "c")]),
            ago(2 * 60 * 60),
            |_| false,
        );
        stored.add_older(&older, clock);
        let json = serde_json::to_string(&stored).unwrap();
        let restored = |clock| {
            let stored: Stored = serde_json::from_str(&json).unwrap();
            stored.restore(clock, |digest, _| {
                assert_eq!(digest, signed.digest());
                Some(signed.clone())
            })
        };
        let found = restored(clock);
        for (name, file) in &all {
            assert_eq!(found.get(name, clock.now).as_ref(), Some(file), "{name}");
        }
        assert_eq!(digest(&found, "s", clock.now), Some(Digest::of(b"s")));
        assert_eq!(
            digest(&found, "c", clock.now),
            None,
            "it was given out too long ago"
        );
        // As of a clock that was set back.
        let wrong = Clock {
            seconds: 1000,
            ..clock
        };
        assert_eq!(digest(&restored(wrong), "a", clock.now), None);
    }
}
