//! The cache: files kept on disk between runs, such as manifests and configs by digest, flattened images, the last
//! known digests of tags. It can be deleted at any time.
//!
//! A file is written under a temporary name and renamed, so a kill at any moment leaves a whole file or none. A crash
//! of the machine may leave a damaged one, so each file is verified when it is read: a document by its digest, JSON by
//! a checksum in front of it, which covers the name of the file. Each kind of file has a limit; the files used last
//! stay.
//!
//! ```text
//! documents/<hex>     a manifest, index or config as its source delivered it;
//!                     <hex> is the SHA-256 of the source's name and the digest
//! releases/<hex>      the extension-release of an image; <hex> is the SHA-256 of its source and digest
//! listings/<hex>      a listing that was given out; <hex> is the SHA-256 of its directory and of the settings for it
//! verdicts/<hex>      the signatures by which a manifest was accepted; <hex> is the SHA-256 of all that decided it
//! tags/<hex>          {TAG: DIGEST}; <hex> is the SHA-256 of the source's name
//! sums/<hex>          the outcome of flattening an image; <hex> is the SHA-256 of its source and recipe
//! made/<hex>          a flattened image; <hex> is its digest
//! layers/<hex>        a layer of a flattened image, as its source sent it; <hex> is its digest. Together with 'made' up
//!                     to 'cache-size'
//! tmp/                files being written, each locked by its process
//! format              the format of the cache and its folders: a cache of another format is emptied
//! ```

mod flattened;
mod format;
mod layers;
mod prune;
mod temp_file;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use flattened::{Flattened, Outcome};
use log::{debug, info, warn};
use prune::{QUOTAS, Quota};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
pub use temp_file::Unfinished;
use temp_file::{TempFiles, sweep};

use crate::digest::Digest;
use crate::dir::{Dir, Identity};
use crate::lock::lock;
use crate::name::Tag;

const DOCUMENTS: &str = "documents";
const RELEASES: &str = "releases";
const VERDICTS: &str = "verdicts";
const TAGS: &str = "tags";
const LISTINGS: &str = "listings";
const SUMS: &str = "sums";
const MADE: &str = "made";
const LAYERS: &str = "layers";
const TMP: &str = "tmp";
/// Locked while a file is read, changed and written.
const LOCK: &str = "lock";

/// Largest file that is read into memory: a list that a publisher signed.
const LARGEST: u64 = 64 << 20;
/// Bytes written before the sizes of all files are added up again.
const TRIMMED_AFTER: u64 = 16 << 20;

/// A cache on tmpfs takes at most 128 MiB: 25 MiB of small files, whose quotas are divided by this …
const PART_IN_MEMORY: u64 = 16;
/// … 88 MiB for one image being flattened, whose files may have so many bytes, and its layers and its archive half as
/// many more each …
const FILES_IN_MEMORY: u64 = 22 << 20;
/// … and flattened images that are kept meanwhile.
const MADE_WHILE_WRITING: u64 = 14 << 20;
/// Flattened images that are kept while no image is being flattened.
const MADE_IN_MEMORY: u64 = 64 << 20;

/// The cache. Without a directory it keeps nothing.
pub struct Cache {
    root: Option<PathBuf>,
    /// Whether it is on tmpfs. Then it is small.
    is_in_memory: bool,
    has_warned: AtomicBool,
    /// A number that no other process has. Process ids are not enough: each container counts from 1.
    process: u64,
    /// Files begun so far.
    begun: AtomicU64,
    /// The files that are being written.
    temp_files: TempFiles,
    /// Bytes of small files written since the last trim.
    untrimmed: AtomicU64,
    /// Most bytes of all flattened images and layers.
    size: u64,
    /// Why images could not be read, by the keys of their releases.
    unreadable: Mutex<HashMap<Digest, String>>,
    /// Outcomes of flattening that could not be written.
    unwritten: Mutex<HashMap<Digest, Outcome>>,
    /// Flattened images as they were when this process last verified them.
    checked: Mutex<HashMap<Digest, flattened::Stamp>>,
    /// Its folders that are held open.
    folders: Mutex<HashMap<&'static str, Opened>>,
}

/// A folder that is held open, and the directory of the cache that it is in.
struct Opened {
    root: Identity,
    folder: Arc<Dir>,
}

/// The extension-release(5) in an image.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Release {
    /// The text of the file.
    Text(String),
    /// The image has none.
    None,
    /// Why the image cannot be read. Not written to disk: the bytes may be intact another time.
    #[serde(skip)]
    Unreadable(String),
}

/// `releases/<hex>`
#[derive(Deserialize, Serialize)]
struct ReleaseFile {
    reader: u32,
    /// When the image was read, in seconds since 1970. Older programs did not write it.
    #[serde(default)]
    since: u64,
    release: Release,
}

impl ReleaseFile {
    /// Whether the release is still valid. A release from the future is not: a clock was wrong.
    fn is_current(&self, now: u64) -> bool {
        let age = now.checked_sub(self.since);
        self.reader == READER && age.is_some_and(|age| age < MAX_AGE.as_secs())
    }
}

/// How long a release is valid: the image was not verified, so a mirror may have invented it.
const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Most entries of a map that is in memory alone. At this number all are forgotten.
const MAX_REMEMBERED: usize = 1024;

/// Longest wait for the lock.
const MAX_LOCK_WAIT: Duration = Duration::from_secs(5);

/// Version of the code that reads images: releases that an older program read are read again.
const READER: u32 = 3;

impl Cache {
    /// The cache in this directory, with at most `size` bytes of flattened images and layers. With `None` nothing is kept.
    pub fn new(root: Option<PathBuf>, size: u64) -> Self {
        let opened = root.as_deref().and_then(|root| Dir::create(root).ok());
        let is_in_memory = opened.is_some_and(|root| root.is_in_memory());
        let mut cache = Self {
            root,
            is_in_memory,
            has_warned: AtomicBool::new(false),
            process: RandomState::new().hash_one(process::id()),
            begun: AtomicU64::new(0),
            temp_files: TempFiles::default(),
            // Other processes may have written any number, so the first write trims.
            untrimmed: AtomicU64::new(TRIMMED_AFTER),
            size: if is_in_memory {
                size.min(MADE_IN_MEMORY)
            } else {
                size
            },
            unreadable: Mutex::default(),
            unwritten: Mutex::default(),
            checked: Mutex::default(),
            folders: Mutex::default(),
        };
        cache.empty_other_format();
        // An earlier process may have been killed before it did so.
        cache.sweep();
        cache.make_room(None);
        cache
    }

    /// A document of at most so many bytes that this source delivered, if it is there and undamaged.
    ///
    /// A repository serves only what it has shown to hold. A document that another one delivered may be private there,
    /// and a digest is no secret: so each source has only what came from itself.
    pub fn document(&self, source: &str, digest: Digest, most: u64) -> Option<Vec<u8>> {
        self.read(DOCUMENTS, key_of(source, digest), most, |bytes| {
            (Digest::of(&bytes) == digest).then_some(bytes)
        })
    }

    /// Whether there is a document of this source with that digest. It may be damaged.
    pub fn has_document(&self, source: &str, digest: Digest) -> bool {
        self.size_of_document(source, digest).is_some()
    }

    /// The size in bytes of a document of this source, if it is there.
    pub fn size_of_document(&self, source: &str, digest: Digest) -> Option<u64> {
        let entry = self
            .folder(DOCUMENTS)?
            .entry(key_of(source, digest).hex())?;
        (entry.is_file && entry.len <= LARGEST).then_some(entry.len)
    }

    /// Keeps a document that this source delivered and whose digest was checked.
    pub fn keep_document(&self, source: &str, digest: Digest, bytes: &[u8]) {
        self.write(DOCUMENTS, key_of(source, digest), bytes);
    }

    /// The extension-release that was read in an image of this source. The digest of the image was not verified, so
    /// the result is not used for another source's image with the same digest.
    pub fn release(&self, source: &str, digest: Digest) -> Option<Release> {
        let key = key_of(source, digest);
        if let Some(why) = lock(&self.unreadable).get(&key) {
            return Some(Release::Unreadable(why.clone()));
        }
        self.read_summed(RELEASES, key)
            .filter(|file: &ReleaseFile| file.is_current(now()))
            .map(|file| file.release)
    }

    /// Keeps the extension-release of an image, or that it has none.
    pub fn keep_release(&self, source: &str, digest: Digest, release: &Release) {
        let key = key_of(source, digest);
        if let Release::Unreadable(why) = release {
            return remember(&self.unreadable, key, why.clone());
        }
        let file = ReleaseFile {
            reader: READER,
            since: now(),
            release: release.clone(),
        };
        self.write_summed(RELEASES, key, &file);
    }

    /// The signatures by which a manifest was accepted, by the key that it was kept with.
    pub fn accepted_by(&self, key: Digest) -> Option<String> {
        self.read_summed(VERDICTS, key)
    }

    /// Keeps that a manifest was accepted. That one was refused is never kept: it may be signed later.
    pub fn keep_accepted(&self, key: Digest, by: &str) {
        self.write_summed(VERDICTS, key, &by);
    }

    /// The last known digest of each tag of a source. Tags move.
    pub fn tags(&self, source: &str) -> BTreeMap<Tag, Digest> {
        let tags = self.read_summed(TAGS, Digest::of(source.as_bytes()));
        tags.unwrap_or_default()
    }

    /// Adds digests of tags of a source. Its other tags stay, except those that are gone.
    pub fn learn_tags(
        &self,
        source: &str,
        learnt: &BTreeMap<Tag, Digest>,
        is_gone: impl Fn(&Tag) -> bool,
    ) {
        // Another process may add others at the same time.
        let _lock = self.lock();
        let before = self.tags(source);
        let mut tags = before.clone();
        tags.extend(learnt.clone());
        tags.retain(|tag, _| !is_gone(tag));
        if tags != before {
            self.write_summed(TAGS, Digest::of(source.as_bytes()), &tags);
        }
    }

    /// Locks the cache to change a file. After [`MAX_LOCK_WAIT`] it goes on without: it is only a cache.
    fn lock(&self) -> Option<File> {
        let lock = self.root()?.lock_file(LOCK).ok()?;
        let begun = Instant::now();
        while lock.try_lock().is_err() {
            if begun.elapsed() > MAX_LOCK_WAIT {
                return None;
            }
            thread::sleep(Duration::from_millis(2));
        }
        Some(lock)
    }

    /// A listing that was given out, by its key.
    pub fn listing<T: DeserializeOwned>(&self, key: Digest) -> Option<T> {
        self.read_summed(LISTINGS, key)
    }

    /// Keeps a listing that was given out.
    pub fn keep_listing(&self, key: Digest, listing: &impl Serialize) {
        self.write_summed(LISTINGS, key, listing);
    }

    /// The directory. It is opened anew each time: it may have been removed and created.
    fn root(&self) -> Option<Dir> {
        Dir::open(self.root.as_ref()?).ok()
    }

    /// One of its folders, if it is there. It is held open, and opened anew if it or the cache was removed or replaced.
    fn folder(&self, name: &'static str) -> Option<Arc<Dir>> {
        let root = Identity::of(self.root.as_ref()?)?;
        let held = lock(&self.folders).get(name).and_then(|opened| {
            let is_same = opened.root == root;
            is_same.then(|| opened.folder.clone())
        });
        // It is asked without the lock, which all threads take for each file.
        if let Some(folder) = held.filter(|folder| folder.is_linked()) {
            return Some(folder);
        }
        let folder = Arc::new(self.root()?.sub(name).ok()?);
        let opened = Opened {
            root,
            folder: folder.clone(),
        };
        lock(&self.folders).insert(name, opened);
        Some(folder)
    }

    /// Empties a cache of another format, or of a program that wrote no format. One that cannot be emptied is not used.
    fn empty_other_format(&mut self) {
        let Some(root) = self.root() else { return };
        if format::other(&root).is_none() {
            return;
        }
        // Another process may do the same.
        let _lock = self.lock();
        let Some(found) = format::other(&root) else {
            return;
        };
        match format::empty(&root) {
            Ok(0) => {}
            Ok(_) => info!("cache {} is {found}; it is emptied", root.path().display()),
            Err(error) => {
                self.warn_once(&error);
                self.root = None;
                return;
            }
        }
        if let Err(error) = self.write_format(&root) {
            self.warn_once(&error);
        }
    }

    /// Writes the file `format`.
    fn write_format(&self, root: &Dir) -> io::Result<()> {
        let unfinished = self.begin(root.path())?;
        unfinished.write_all(format::text().as_bytes())?;
        unfinished.keep_as(root, format::FORMAT)
    }

    /// A file of at most `most` bytes, parsed. One that `parse` refuses is removed.
    fn read<T>(
        &self,
        folder: &'static str,
        key: Digest,
        most: u64,
        parse: impl FnOnce(Vec<u8>) -> Option<T>,
    ) -> Option<T> {
        let (folder, name) = (self.folder(folder)?, key.hex());
        let mut file = open(&folder, &name, LARGEST)?;
        if file.metadata().ok()?.len() > most {
            return None;
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        let found = parse(bytes);
        if found.is_some() {
            folder.note_use(&file);
        } else {
            discard(&folder, &name);
        }
        found
    }

    /// JSON as [`Cache::write_summed`] wrote it there.
    fn read_summed<T: DeserializeOwned>(&self, folder: &'static str, key: Digest) -> Option<T> {
        self.read(folder, key, LARGEST, |bytes| {
            let text = String::from_utf8(bytes).ok()?;
            let (sum, json) = text.split_once('\n')?;
            let is_right = sum == checksum(folder, key, json);
            serde_json::from_str(json).ok().filter(|_| is_right)
        })
    }

    /// Writes a line with the checksum, then the JSON. Returns whether it is written.
    fn write_summed(&self, folder: &str, key: Digest, file: &impl Serialize) -> bool {
        match serde_json::to_string(file) {
            Ok(json) => {
                let text = checksum(folder, key, &json) + "\n" + &json;
                self.write(folder, key, text.as_bytes())
            }
            Err(error) => {
                debug!("{folder}/{} is not kept: {error}", key.hex());
                false
            }
        }
    }

    /// Begins a temporary file. It is locked until it is finished.
    fn begin(&self, root: &Path) -> io::Result<Unfinished> {
        loop {
            let number = self.begun.fetch_add(1, Ordering::Relaxed);
            let name = format!("{}-{:016x}-{number}", process::id(), self.process);
            if let Some(unfinished) = self.temp_files.create(name, root)? {
                return Ok(unfinished);
            }
        }
    }

    /// Writes a file, whole or not at all. Returns whether it is written. The service works without a cache, so only
    /// the first error is a warning.
    fn write(&self, folder: &str, key: Digest, bytes: &[u8]) -> bool {
        let Some(root) = &self.root else {
            return false;
        };
        let write = || {
            let unfinished = self.begin(root)?;
            unfinished.write_all(bytes)?;
            let root = Dir::create(root)?;
            // An administrator may have emptied it. Without `format` the next process would empty it again.
            if root.entry(format::FORMAT).is_none() {
                self.write_format(&root)?;
            }
            let folder = root.create_sub(folder)?;
            unfinished.keep_as(&folder, &key.hex())
        };
        let written = write();
        if let Err(error) = &written {
            self.warn_once(error);
        }
        self.trim_after(bytes.len() as u64);
        written.is_ok()
    }

    /// Trims small files when enough bytes were written.
    fn trim_after(&self, written: u64) {
        let part = if self.is_in_memory { PART_IN_MEMORY } else { 1 };
        let written = prune::BLOCK.max(written);
        if self.untrimmed.fetch_add(written, Ordering::Relaxed) + written < TRIMMED_AFTER / part {
            return;
        }
        self.untrimmed.store(0, Ordering::Relaxed);
        if let Some(root) = self.root() {
            for Quota { folders, size } in &QUOTAS {
                prune::trim(&root, folders, size / part, None);
            }
        }
    }

    fn warn_once(&self, error: &io::Error) {
        if let Some(root) = &self.root
            && !self.has_warned.swap(true, Ordering::Relaxed)
        {
            warn!(
                "cache {} cannot be written, going on without it: {error}",
                root.display()
            );
        }
    }

    /// Free bytes on the file system of the cache.
    pub fn free(&self) -> Option<u64> {
        self.root()?.free()
    }

    /// Whether the cache is on tmpfs.
    pub fn is_in_memory(&self) -> bool {
        self.is_in_memory
    }

    /// Most bytes of the files of one image. `size`: the limit in the settings.
    pub fn most_of_one(&self, size: u64) -> u64 {
        if self.is_in_memory {
            size.min(FILES_IN_MEMORY)
        } else {
            size
        }
    }

    /// Removes the temporary files of this process. It can begin no other from now on.
    pub fn close(&self) {
        self.temp_files.close();
    }

    /// Removes the temporary files of killed processes.
    fn sweep(&self) {
        if let Some(tmp) = self.folder(TMP) {
            sweep(&tmp);
        }
    }
}

/// Opens a file. One that is not regular, or too large, is removed unopened: to open a named pipe would block.
fn open(folder: &Dir, name: &str, largest: u64) -> Option<File> {
    let found = folder.entry(name)?;
    if found.is_file && found.len <= largest {
        return folder.file(name).ok();
    }
    discard(folder, name);
    None
}

/// Removes a damaged file, or a directory in its place.
fn discard(folder: &Dir, name: &str) {
    let path = folder.path_of(name);
    match folder.remove_all(name) {
        Ok(()) => warn!("cache file {} is damaged, it is made again", path.display()),
        // The problem is found again each time, so it is not logged as a warning.
        Err(error) => debug!(
            "cache file {} is damaged, and stays: {error}",
            path.display()
        ),
    }
}

/// Keeps an entry until the process ends.
fn remember<T>(known: &Mutex<HashMap<Digest, T>>, key: Digest, outcome: T) {
    let mut known = lock(known);
    if known.len() >= MAX_REMEMBERED && !known.contains_key(&key) {
        known.clear();
    }
    known.insert(key, outcome);
}

/// Seconds since 1970.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// The key of a file that belongs to one source.
fn key_of(source: &str, digest: Digest) -> Digest {
    Digest::of(format!("{source} {digest}").as_bytes())
}

/// The checksum of a file and of its name: a file under another name does not match.
fn checksum(folder: &str, key: Digest, json: &str) -> String {
    Digest::of(format!("{folder}/{}\n{json}", key.hex()).as_bytes()).hex()
}
