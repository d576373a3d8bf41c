//! Files that are kept on disk between runs: manifests and configs by digest, flattened images, what each tag was.
//!
//! All of them can be lost without harm. A file is written to a temporary name and renamed, so it is whole or not there
//! after a kill at any moment. After a crash of the machine it may be damaged, so it is checked when it is read: a
//! document against its digest, JSON against a checksum before it, which is of the file's place too. Each kind of file
//! has a limit; the files used last stay.
//!
//! ```text
//! documents/<hex>     a manifest, index or config as a source delivered it, <hex> is the SHA-256 of
//!                     the source's name and the digest
//! releases/<hex>      what an image says of itself, <hex> is the SHA-256 of its source and digest
//! listings/<hex>      what was given out of a directory, <hex> is the SHA-256 of its name and what made it
//! tags/<hex>          {TAG: DIGEST}, <hex> is the SHA-256 of the source's name
//! sums/<hex>          the outcome of making a file, <hex> is the SHA-256 of its source and recipe
//! made/<hex>          a file that was made; up to 'cache-size' of them
//! tmp/                files being written, each locked by its process
//! format              the format of the cache and its folders: a cache of another format is emptied
//! ```

mod flattened;
mod format;
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
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
use crate::dir::Dir;
use crate::lock::lock;
use crate::name::Tag;

const DOCUMENTS: &str = "documents";
const RELEASES: &str = "releases";
const TAGS: &str = "tags";
const LISTINGS: &str = "listings";
const SUMS: &str = "sums";
const MADE: &str = "made";
const TMP: &str = "tmp";
/// Locked to change a file.
const LOCK: &str = "lock";

/// Largest file that is read into memory: a list that a publisher signed.
const LARGEST: u64 = 64 << 20;
/// Bytes written before files are counted again, which takes a look at each.
const TRIMMED_AFTER: u64 = 16 << 20;

/// A cache on tmpfs takes at most 128 MiB, in bytes: 25 MiB of small files, which have this part of what they have
/// elsewhere …
const PART_IN_MEMORY: u64 = 16;
/// … 88 MiB for one image that is flattened, whose files may have so many, and its layers and the archive half as many
/// more each …
const FILES_IN_MEMORY: u64 = 22 << 20;
/// … and made files that are kept meanwhile.
const MADE_WHILE_WRITING: u64 = 14 << 20;
/// While none is, more of them are kept.
const MADE_IN_MEMORY: u64 = 64 << 20;

/// The cache, or nothing where there is no directory for it.
pub struct Cache {
    root: Option<PathBuf>,
    /// Whether it takes memory of the machine. Then it is small.
    is_in_memory: bool,
    has_warned: AtomicBool,
    /// A number that no other process has that writes there. Process ids do not do: each container counts from 1.
    own: u64,
    begun: AtomicU64,
    /// The files that are being written.
    temp_files: TempFiles,
    /// Bytes of small files written since they were trimmed.
    untrimmed: AtomicU64,
    /// Most bytes of all files that were made.
    size: u64,
    /// Why images could not be read, by the same key as what was read.
    unreadable: Mutex<HashMap<Digest, String>>,
    /// The outcomes of making files that could not be written.
    unwritten: Mutex<HashMap<Digest, Outcome>>,
    /// Files that were made, as they were when this process found them to be right.
    checked: Mutex<HashMap<Digest, flattened::Stamp>>,
}

/// The extension-release(5) in an image.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Release {
    /// Its extension-release file.
    Text(String),
    /// It has none.
    None,
    /// Why it cannot be told. Not written: another time its bytes may come undamaged.
    #[serde(skip)]
    Unreadable(String),
}

/// `releases/<hex>`
#[derive(Deserialize, Serialize)]
struct ReleaseFile {
    reader: u32,
    /// When its image was looked into, in seconds since 1970. Older programs did not say.
    #[serde(default)]
    since: u64,
    release: Release,
}

impl ReleaseFile {
    /// Whether it is still believed. One from the future is not: a clock was wrong.
    fn is_of_use(&self, now: u64) -> bool {
        let age = now.checked_sub(self.since);
        self.reader == READER && age.is_some_and(|age| age < BELIEVED.as_secs())
    }
}

/// How long what was read of an image is believed: nothing checked it, so a mirror may have made it up.
const BELIEVED: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Most outcomes of one kind remembered in this process alone. After so many all are forgotten.
const MAX_REMEMBERED: usize = 1024;

/// Longest wait for another process that writes.
const LONGEST_TURN: Duration = Duration::from_secs(5);

/// Counts the changes of how images are read: what an older program found is looked for again.
const READER: u32 = 2;

impl Cache {
    /// The cache in this directory, with at most so many bytes of files that were made; with `None`
    /// nothing is kept.
    pub fn new(root: Option<PathBuf>, size: u64) -> Self {
        let opened = root.as_deref().and_then(|root| Dir::create(root).ok());
        let is_in_memory = opened.is_some_and(|root| root.is_in_memory());
        let mut cache = Self {
            root,
            is_in_memory,
            has_warned: AtomicBool::new(false),
            own: RandomState::new().hash_one(process::id()),
            begun: AtomicU64::new(0),
            temp_files: TempFiles::default(),
            // How much other processes wrote is not known, so the first write trims.
            untrimmed: AtomicU64::new(TRIMMED_AFTER),
            size: if is_in_memory {
                size.min(MADE_IN_MEMORY)
            } else {
                size
            },
            unreadable: Mutex::default(),
            unwritten: Mutex::default(),
            checked: Mutex::default(),
        };
        cache.set_aside_others();
        // A process may have been killed before it did so.
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
            .filter(|file: &ReleaseFile| file.is_of_use(now()))
            .map(|file| file.release)
    }

    /// Keeps what an image says of itself.
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

    /// The digest that each tag of a source had when it was last asked for. A hint: tags move.
    pub fn tags(&self, source: &str) -> BTreeMap<Tag, Digest> {
        let tags = self.read_summed(TAGS, Digest::of(source.as_bytes()));
        tags.unwrap_or_default()
    }

    /// Adds what tags of a source are found to be; what is known of its others stays, but for those that are gone.
    pub fn learn_tags(
        &self,
        source: &str,
        learnt: &BTreeMap<Tag, Digest>,
        is_gone: impl Fn(&Tag) -> bool,
    ) {
        // Another process may be about to write what it learnt.
        let _turn = self.turn();
        let before = self.tags(source);
        let mut tags = before.clone();
        tags.extend(learnt.clone());
        tags.retain(|tag, _| !is_gone(tag));
        if tags != before {
            self.write_summed(TAGS, Digest::of(source.as_bytes()), &tags);
        }
    }

    /// Locks the cache to change a file. It does not wait for long: it is only a cache.
    fn turn(&self) -> Option<File> {
        let lock = self.root()?.lock_file(LOCK).ok()?;
        let begun = Instant::now();
        while lock.try_lock().is_err() {
            if begun.elapsed() > LONGEST_TURN {
                return None;
            }
            thread::sleep(Duration::from_millis(2));
        }
        Some(lock)
    }

    /// A listing that was given out, by the key that it was kept with.
    pub fn listing<T: DeserializeOwned>(&self, key: Digest) -> Option<T> {
        self.read_summed(LISTINGS, key)
    }

    /// Keeps a listing that was given out.
    pub fn keep_listing(&self, key: Digest, listing: &impl Serialize) {
        self.write_summed(LISTINGS, key, listing);
    }

    /// Its directory, which may have been removed and created since.
    fn root(&self) -> Option<Dir> {
        Dir::open(self.root.as_ref()?).ok()
    }

    /// One of its folders, if it is there.
    fn folder(&self, folder: &str) -> Option<Dir> {
        self.root()?.sub(folder).ok()
    }

    #[cfg(test)]
    fn path(&self, folder: &str, key: Digest) -> Option<PathBuf> {
        Some(self.root.as_ref()?.join(folder).join(key.hex()))
    }

    /// Empties a cache of another format, and one of a time before there were formats. One that cannot be emptied
    /// is not used.
    fn set_aside_others(&mut self) {
        let Some(root) = self.root() else { return };
        if format::other(&root).is_none() {
            return;
        }
        // Another process may be doing the same, and then write.
        let _turn = self.turn();
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

    /// Makes an empty cache one of this format.
    fn write_format(&self, root: &Dir) -> io::Result<()> {
        let unfinished = self.begin(root.path())?;
        unfinished.write_all(format::text().as_bytes())?;
        unfinished.keep_as(root, format::FORMAT)
    }

    /// A file of at most so many bytes, as `parse` reads it. One that it cannot read is removed.
    fn read<T>(
        &self,
        folder: &str,
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
    fn read_summed<T: DeserializeOwned>(&self, folder: &str, key: Digest) -> Option<T> {
        self.read(folder, key, LARGEST, |bytes| {
            let text = String::from_utf8(bytes).ok()?;
            let (sum, json) = text.split_once('\n')?;
            let is_right = sum == checksum(folder, key, json);
            serde_json::from_str(json).ok().filter(|_| is_right)
        })
    }

    /// Writes JSON, behind a line with its checksum, or damaged bytes would be believed. Returns whether it is written.
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

    /// Begins a file, which is locked as long as it is unfinished.
    fn begin(&self, root: &Path) -> io::Result<Unfinished> {
        loop {
            let number = self.begun.fetch_add(1, Ordering::Relaxed);
            let name = format!("{}-{:016x}-{number}", process::id(), self.own);
            if let Some(unfinished) = self.temp_files.create(name, root)? {
                return Ok(unfinished);
            }
        }
    }

    /// Writes a file whole or not at all, and returns whether it is written. Without a cache the service goes on, so
    /// it warns only once.
    fn write(&self, folder: &str, key: Digest, bytes: &[u8]) -> bool {
        let Some(root) = &self.root else {
            return false;
        };
        let write = || {
            let unfinished = self.begin(root)?;
            unfinished.write_all(bytes)?;
            let root = Dir::create(root)?;
            // Somebody may have emptied it. Without its format the next process would empty it once more.
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

    /// Trims small files after so many of them were written.
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

    /// Bytes that are free where the cache is.
    pub fn free(&self) -> Option<u64> {
        self.root()?.free()
    }

    /// Whether it takes memory of the machine.
    pub fn is_in_memory(&self) -> bool {
        self.is_in_memory
    }

    /// Most bytes of the files of one image, where the settings allow `size`.
    pub fn most_of_one(&self, size: u64) -> u64 {
        if self.is_in_memory {
            size.min(FILES_IN_MEMORY)
        } else {
            size
        }
    }

    /// Removes what this process has not finished. From now on it begins nothing.
    pub fn close(&self) {
        self.temp_files.close();
    }

    /// Removes what killed processes left.
    fn sweep(&self) {
        if let Some(tmp) = self.folder(TMP) {
            sweep(&tmp);
        }
    }
}

/// Opens a file that is kept. One that is not regular, or larger than ours are, is removed: to open a named pipe
/// would wait.
fn open(folder: &Dir, name: &str, largest: u64) -> Option<File> {
    let found = folder.entry(name)?;
    if found.is_file && found.len <= largest {
        return folder.file(name).ok();
    }
    discard(folder, name);
    None
}

/// Removes a damaged file, or whatever else is in its place.
fn discard(folder: &Dir, name: &str) {
    let path = folder.path_of(name);
    match folder.remove_all(name) {
        Ok(()) => warn!("cache file {} is damaged, it is made again", path.display()),
        // It is found each time, unless it is replaced.
        Err(error) => debug!(
            "cache file {} is damaged, and stays: {error}",
            path.display()
        ),
    }
}

/// Remembers an outcome as long as this process runs.
fn remember<T>(known: &Mutex<HashMap<Digest, T>>, key: Digest, outcome: T) {
    let mut known = lock(known);
    if known.len() >= MAX_REMEMBERED && !known.contains_key(&key) {
        known.clear();
    }
    known.insert(key, outcome);
}

/// In seconds since 1970.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// The name of a file that is kept of one source alone.
fn key_of(source: &str, digest: Digest) -> Digest {
    Digest::of(format!("{source} {digest}").as_bytes())
}

/// The checksum of a file and of its place: a file from another place is not believed.
fn checksum(folder: &str, key: Digest, json: &str) -> String {
    Digest::of(format!("{folder}/{}\n{json}", key.hex()).as_bytes()).hex()
}
