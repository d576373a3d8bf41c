//! Files in `$STATE_DIRECTORY`. Unlike those of the cache they cannot be restored from elsewhere.
//!
//! ```text
//! promises/<hex>    facts about a source that must stay true: see [`Promises`]
//! notes/<hex>       hints for the next run: see [`Notes`]
//! signing.key       the seed of this machine's key: see `seed.rs`
//! signing.pub       its public key, where the seed is a credential
//! lock              locked while a file is written
//! ```
//!
//! Each file is of one source, in the format of [`record`]; `<hex>` is the SHA-256 of the source's name
//! (`ghcr.io/acme/app`, `oci:/srv/updates`). Promises are never evicted: it is an error if there is no room. Notes are evicted
//! by last use. Each change is made under the lock, to the current contents of the file, so that two processes do not
//! lose each other's changes.

mod notes;
mod promises;
mod record;
mod seed;

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;

use log::debug;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use notes::{Notes, Unanswered, WrongMirrors};
pub use promises::{Promises, SignedList};
pub use seed::read_seed;

use crate::digest::Digest;
use crate::dir::Dir;
use crate::error::{Error, Result};

const PROMISES: &str = "promises";
const NOTES: &str = "notes";
const LOCK: &str = "lock";
/// A file being written, beside the one that it replaces.
const NEW: &str = "new";

/// Largest file of promises, in bytes: some 200,000 tags of one source.
const MAX_PROMISES: u64 = 16 << 20;
/// All promises together, in bytes.
const MAX_ALL_PROMISES: u64 = 64 << 20;
/// Largest file of notes, in bytes. There is one for each source that was asked for.
const MAX_NOTES: u64 = 256 << 10;
/// All notes together, in bytes.
const MAX_ALL_NOTES: u64 = 16 << 20;

/// The state, or nothing where there is no directory for it.
#[derive(Debug)]
pub struct State {
    root: Option<Dir>,
}

/// The contents of a file.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Named<T> {
    source: String,
    kept: T,
}

impl State {
    /// The state in this directory; with `None` nothing is remembered.
    pub fn new(root: Option<Dir>) -> Self {
        Self { root }
    }

    /// Whether there is a state directory.
    pub fn is_there(&self) -> bool {
        self.root.is_some()
    }

    /// The promises of a source. A file that cannot be read is an error.
    pub fn promises(&self, source: &str) -> Result<Promises> {
        match &self.root {
            Some(root) => read_promises(root, source),
            None => Ok(Promises::default()),
        }
    }

    /// Changes the promises of a source, writes them to disk, and returns the result of `change`. Without a state
    /// directory nothing is kept.
    pub fn promise<T>(&self, source: &str, change: impl FnOnce(&mut Promises) -> T) -> Result<T> {
        let Some(root) = &self.root else {
            return Ok(change(&mut Promises::default()));
        };
        let cannot = |cause: io::Error| Error::File {
            path: root.path().to_owned(),
            cause: Arc::new(cause),
        };
        let _lock = lock(root).map_err(cannot)?;
        let before = read_promises(root, source)?;
        let mut promises = before.clone();
        let done = change(&mut promises);
        if promises == before {
            return Ok(done);
        }
        match write_promises(root, source, &promises).map_err(cannot)? {
            None => Ok(done),
            Some(limit) => Err(Error::StateFull {
                source: source.to_owned(),
                directory: root.path().to_owned(),
                limit,
            }),
        }
    }

    /// The notes of a source; none where they cannot be read.
    pub fn notes(&self, source: &str) -> Notes {
        let notes = self.root.as_ref().and_then(|root| read_notes(root, source));
        notes.unwrap_or_default()
    }

    /// Changes the notes of a source. If they cannot be written, they are lost.
    pub fn update_notes(&self, source: &str, change: impl FnOnce(&mut Notes)) {
        let Some(root) = &self.root else { return };
        if let Err(error) = write_notes(root, source, change) {
            debug!("{source}: notes are not kept: {error}");
        }
    }
}

fn key(source: &str) -> String {
    Digest::of(source.as_bytes()).hex()
}

/// Reads a file, or says why it cannot be read. `None`: it is not there.
fn read<T: DeserializeOwned>(
    root: &Dir,
    kind: &str,
    source: &str,
    most: u64,
) -> Result<Option<T>, String> {
    let read = || read_all(&root.sub(kind)?.file(key(source))?, most);
    let bytes = match read() {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot be read: {error}")),
    };
    let found: Named<T> = record::read(kind, &bytes)?;
    if found.source != source {
        return Err(format!("is of {}, not of {source}", found.source));
    }
    Ok(Some(found.kept))
}

fn read_promises(root: &Dir, source: &str) -> Result<Promises> {
    let found = read(root, PROMISES, source, MAX_PROMISES);
    found
        .map(Option::unwrap_or_default)
        .map_err(|why| Error::BadState {
            path: root.path_of(PROMISES).join(key(source)),
            why,
        })
}

/// Writes promises, or returns the limit that they exceed.
fn write_promises(root: &Dir, source: &str, promises: &Promises) -> io::Result<Option<u64>> {
    let folder = root.create_sub(PROMISES)?;
    let (name, text) = (key(source), to_text(PROMISES, source, promises)?);
    let size = text.len() as u64;
    let is_larger = folder.entry(&name).is_none_or(|before| before.len < size);
    let others = folder.entries()?.into_iter();
    let others: u64 = others
        .filter(|entry| *entry.name != *name && entry.name != NEW)
        .map(|entry| entry.len)
        .sum();
    if is_larger && size > MAX_PROMISES {
        return Ok(Some(MAX_PROMISES));
    }
    if is_larger && others + size > MAX_ALL_PROMISES {
        return Ok(Some(MAX_ALL_PROMISES));
    }
    replace(&folder, &name, text.as_bytes(), true)?;
    Ok(None)
}

fn read_notes(root: &Dir, source: &str) -> Option<Notes> {
    let notes = read(root, NOTES, source, MAX_NOTES).ok()??;
    let folder = root.sub(NOTES).ok()?;
    folder.note_use(&folder.file(key(source)).ok()?);
    Some(notes)
}

fn write_notes(root: &Dir, source: &str, change: impl FnOnce(&mut Notes)) -> io::Result<()> {
    let _lock = lock(root)?;
    let folder = root.create_sub(NOTES)?;
    let before = read_notes(root, source).unwrap_or_default();
    let mut notes = before.clone();
    change(&mut notes);
    if notes == before {
        return Ok(());
    }
    let mut text = to_text(NOTES, source, &notes)?;
    while text.len() as u64 > MAX_NOTES && notes != Notes::default() {
        notes.forget_some();
        text = to_text(NOTES, source, &notes)?;
    }
    replace(&folder, &key(source), text.as_bytes(), false)?;
    make_room(&folder, MAX_ALL_NOTES)
}

/// Removes the files not used for longest, until the others have room.
fn make_room(folder: &Dir, room: u64) -> io::Result<()> {
    let mut entries = folder.entries()?;
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.modified));
    let mut sum = 0;
    for entry in entries {
        let size = entry.len.max(entry.on_disk);
        if sum + size <= room {
            sum += size;
        } else {
            folder.remove_all(&entry.name)?;
        }
    }
    Ok(())
}

fn to_text<T: Serialize>(kind: &str, source: &str, kept: &T) -> io::Result<String> {
    let source = source.to_owned();
    Ok(record::write(kind, &Named { source, kept })?)
}

/// Keeps other processes and threads from writing until it is dropped.
fn lock(root: &Dir) -> io::Result<File> {
    let file = root.lock_file(LOCK)?;
    file.lock()?;
    Ok(file)
}

/// All bytes of a file that has no more than `most`.
fn read_all(file: &File, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(
            ErrorKind::FileTooLarge,
            format!("it has more than {most} bytes"),
        ));
    }
    Ok(bytes)
}

/// Writes a file whole or not at all. One that is `lasting` is on disk before its name is.
fn replace(folder: &Dir, name: &str, bytes: &[u8], lasting: bool) -> io::Result<()> {
    // Its writer failed or was killed, for the lock is ours.
    if folder.entry(NEW).is_some() {
        folder.remove_all(NEW)?;
    }
    let mut file = folder.create_file(NEW)?;
    file.write_all(bytes)?;
    if lasting {
        file.sync_all()?;
    }
    folder.rename(NEW, folder, name)?;
    if lasting {
        folder.sync()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::thread;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::name::Tag;

    /// A directory that goes when the test ends.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let name = format!("sysext-oci-proxy-state-{name}-{}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn state(&self) -> State {
            State::new(Some(Dir::create(&self.0).unwrap()))
        }

        fn path(&self, folder: &str, source: &str) -> PathBuf {
            self.0.join(folder).join(key(source))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn tag(text: &str) -> Tag {
        text.parse().unwrap()
    }

    /// Notes that one tag had no answer.
    fn unanswered(name: &str) -> impl FnOnce(&mut Notes) {
        let noted = (tag(name), Unanswered::default());
        |notes| notes.unanswered.extend([noted])
    }

    #[test]
    fn two_that_promise_at_once_lose_nothing() {
        let scratch = Scratch::new("promises");
        scratch.state();
        let digest = Digest::of(b"1");
        thread::scope(|scope| {
            for writer in 0..4 {
                let state = scratch.state();
                scope.spawn(move || {
                    for n in 0..10 {
                        let tag = tag(&format!("v{writer}.{n}"));
                        state
                            .promise("a", |promises| promises.tags.insert(tag, digest))
                            .unwrap();
                    }
                });
            }
        });
        assert_eq!(scratch.state().promises("a").unwrap().tags.len(), 40);
        assert_eq!(scratch.state().promises("b").unwrap(), Promises::default());
    }

    #[test]
    fn promises_are_never_evicted_and_have_limits() {
        let scratch = Scratch::new("full");
        let state = scratch.state();
        let digest = Digest::of(b"1");
        let promise = |source: &str, tags: std::ops::Range<u32>| {
            state.promise(source, |promises| {
                let tags = tags.map(|n| (format!("v{n}").parse().unwrap(), digest));
                promises.tags.extend(tags);
            })
        };
        let is_full = |result: Result<()>, most: u64| match result {
            Err(Error::StateFull { limit, .. }) => limit == most,
            _ => false,
        };
        promise("a", 0..100).unwrap();
        assert!(is_full(promise("a", 0..250_000), MAX_PROMISES));
        assert_eq!(state.promises("a").unwrap().tags.len(), 100, "as before");
        // Others take nearly all.
        let others = File::create(scratch.0.join(PROMISES).join("others")).unwrap();
        others.set_len(MAX_ALL_PROMISES - (20 << 10)).unwrap();
        promise("a", 0..101).unwrap();
        assert!(is_full(promise("a", 0..1000), MAX_ALL_PROMISES));
        assert!(is_full(promise("b", 0..1000), MAX_ALL_PROMISES));
        promise("b", 0..1).unwrap();
        others.set_len(MAX_ALL_PROMISES).unwrap();
        promise("a", 0..1).unwrap();
        state
            .promise("a", |promises| promises.tags.clear())
            .unwrap();
        assert_eq!(state.promises("b").unwrap().tags.len(), 1);
    }

    #[test]
    fn promises_of_an_older_program_are_read_and_rewritten() {
        let scratch = Scratch::new("older");
        let state = scratch.state();
        let signed = SignedList {
            tag: tag("SHA256SUMS"),
            has_signature: true,
        };
        // It knew only of lists.
        let kept = serde_json::json!({"signed": {"tag": "SHA256SUMS", "has_signature": true}});
        let text = to_text(PROMISES, "a", &kept).unwrap();
        fs::create_dir(scratch.0.join(PROMISES)).unwrap();
        fs::write(scratch.path(PROMISES, "a"), text).unwrap();
        assert_eq!(state.promises("a").unwrap().signed, Some(signed.clone()));
        let digest = Digest::of(b"1");
        state
            .promise("a", |promises| promises.tags.insert(tag("v1"), digest))
            .unwrap();
        let expected = Promises {
            tags: [(tag("v1"), digest)].into(),
            signed: Some(signed),
            ..Promises::default()
        };
        assert_eq!(scratch.state().promises("a").unwrap(), expected);
    }

    #[test]
    fn what_a_folder_of_the_state_links_to_is_left_alone() {
        let (scratch, elsewhere) = (Scratch::new("linked"), Scratch::new("elsewhere"));
        for folder in [PROMISES, NOTES] {
            fs::create_dir_all(elsewhere.0.join(folder)).unwrap();
        }
        let state = scratch.state();
        for folder in [PROMISES, NOTES, LOCK] {
            std::os::unix::fs::symlink(elsewhere.0.join(folder), scratch.0.join(folder)).unwrap();
        }
        state.update_notes("a", unanswered("v1"));
        assert!(
            state
                .promise("a", |promises| promises.tags.clear())
                .is_err()
        );
        assert!(
            state.promises("a").is_err(),
            "it is not known that there are none"
        );
        let left = |folder: &str| fs::read_dir(elsewhere.0.join(folder)).unwrap().count();
        assert_eq!((left(PROMISES), left(NOTES)), (0, 0));
        assert!(!elsewhere.0.join(LOCK).exists());
    }

    #[test]
    fn notes_are_kept_for_each_source() {
        let scratch = Scratch::new("notes");
        scratch.state().update_notes("a", unanswered("v1"));
        scratch.state().update_notes("a", unanswered("v2"));
        let noted = |source| Vec::from_iter(scratch.state().notes(source).unanswered.into_keys());
        assert_eq!(noted("a"), [tag("v1"), tag("v2")]);
        assert_eq!(noted("b"), []);
        let text = fs::read(scratch.path(NOTES, "a")).unwrap();
        fs::write(scratch.path(NOTES, "b"), &text).unwrap();
        assert_eq!(noted("b"), [], "they are of another source");
        for damage in [&text[..text.len() - 1], b""] {
            fs::write(scratch.path(NOTES, "a"), damage).unwrap();
            assert_eq!(noted("a"), [], "{damage:?}");
        }
        scratch.state().update_notes("a", unanswered("v3"));
        assert_eq!(noted("a"), [tag("v3")], "damage does not last");
        let nowhere = State::new(None);
        nowhere.update_notes("a", unanswered("v1"));
        assert_eq!(nowhere.notes("a"), Notes::default());
    }

    #[test]
    fn fields_of_notes_that_are_missing_or_unknown_are_no_damage() {
        let scratch = Scratch::new("fields");
        scratch.state().update_notes("a", unanswered("v1"));
        let before = scratch.state().notes("a");
        let kept = serde_json::json!({"unanswered": {"v1": {"tries": 0}}, "of later": 1});
        let text = to_text(NOTES, "a", &kept).unwrap();
        fs::write(scratch.path(NOTES, "a"), text).unwrap();
        assert_eq!(scratch.state().notes("a"), before);
    }

    #[test]
    fn two_that_write_at_once_lose_nothing() {
        let scratch = Scratch::new("merge");
        scratch.state();
        thread::scope(|scope| {
            for writer in 0..4 {
                let state = scratch.state();
                scope.spawn(move || {
                    for n in 0..10 {
                        state.update_notes("a", unanswered(&format!("v{writer}.{n}")));
                    }
                });
            }
        });
        assert_eq!(scratch.state().notes("a").unanswered.len(), 40);
    }

    #[test]
    fn notes_that_are_too_large_are_forgotten_in_part() {
        let scratch = Scratch::new("large");
        let state = scratch.state();
        let digest = Digest::of(b"1");
        state.update_notes("a", |notes| {
            let tags = (0..3000).map(|n| (tag(&format!("v{n}")), digest));
            notes.warned.extend(tags);
        });
        state.update_notes("a", unanswered("v1"));
        assert_eq!(state.notes("a").warned.len(), 3000);
        state.update_notes("a", |notes| {
            let tags = (3000..4000).map(|n| (tag(&format!("v{n}")), digest));
            notes.warned.extend(tags);
        });
        let found = state.notes("a");
        assert_eq!((found.warned.len(), found.unanswered.len()), (0, 1));
        state.update_notes("a", |notes| {
            let tags = (0..10_000).map(|n| (tag(&format!("v{n}")), Unanswered::default()));
            notes.unanswered.extend(tags);
        });
        assert!(state.notes("a") == Notes::default());
    }

    #[test]
    fn notes_that_were_not_used_for_longest_make_room() {
        let scratch = Scratch::new("room");
        let state = scratch.state();
        for source in ["old", "older", "new"] {
            state.update_notes(source, unanswered("v1"));
        }
        let path = |source| scratch.path(NOTES, source);
        for (source, days) in [("old", 2), ("older", 3)] {
            let file = File::options().write(true).open(path(source)).unwrap();
            file.set_len(MAX_ALL_NOTES / 2).unwrap();
            let then = SystemTime::now() - Duration::from_secs(days * 24 * 60 * 60);
            file.set_modified(then).unwrap();
        }
        assert!(path("older").exists());
        state.update_notes("new", unanswered("v2"));
        assert!(path("old").exists() && !path("older").exists());
        assert_eq!(state.notes("new").unanswered.len(), 2);
    }
}
