//! What is kept on disk between two runs: manifests and configs by digest, and what each tag was.
//!
//! Everything here can be lost without harm. A file is written to a temporary name and renamed, so a
//! kill at any moment leaves it whole or not there; what a crash of the machine leaves is found out
//! when it is read, for it is checked each time: a document against its digest, JSON against a checksum
//! before it, which is of the file's place too. Of all there is only so much: the last used stays.
//!
//! ```text
//! documents/<hex>     a manifest, index or config as a source delivered it, <hex> is the SHA-256 of
//!                     the source's name and the digest
//! releases/<hex>      what an image says of itself, <hex> is the SHA-256 of its source and digest
//! listings/<hex>      what was given out of a directory, <hex> is the SHA-256 of its name and what made it
//! tags/<hex>          {TAG: DIGEST}, <hex> is the SHA-256 of the source's name
//! sums/<hex>          what came of making a file, <hex> is the SHA-256 of its source and recipe
//! made/<hex>          a file that was made; up to 'cache-size' of them
//! tmp/                files being written, each locked by its process
//! format              the format of all that, and what its folders are: another one is set aside
//! ```

mod flattened;
mod format;
mod prune;
mod temp_file;

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

pub use flattened::{Made, Sum};
use log::{debug, info, warn};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
pub use temp_file::Unfinished;
use temp_file::{AtWork, sweep};

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
/// Held by whoever changes what a file has.
const LOCK: &str = "lock";

/// No file that is read into memory has more bytes: the largest are lists that publishers signed.
const LARGEST: u64 = 64 << 20;
/// So much may be written before files are counted again, which takes a look at each.
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
    /// It takes memory of the machine, so it is small.
    is_in_memory: bool,
    has_warned: AtomicBool,
    /// What no other process has that writes there: each container counts its processes from 1.
    own: u64,
    begun: AtomicU64,
    /// The files that are being written.
    at_work: AtWork,
    /// In bytes, of small files since they were trimmed.
    untrimmed: AtomicU64,
    /// In bytes, of all files that were made.
    size: u64,
    /// Why images could not be read, by the same key as what was read.
    unreadable: Mutex<HashMap<Digest, String>>,
    /// What came of making files, where it could not be written.
    unwritten: Mutex<HashMap<Digest, Sum>>,
    /// Files that were made, and how they were when this process found them to be right.
    checked: Mutex<HashMap<Digest, flattened::Stamp>>,
}

/// What an image says of itself.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Release {
    /// Its extension-release file.
    Text(String),
    /// It has none.
    None,
    /// It cannot be told, and why. Not written: another time its bytes may come undamaged.
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
    /// Is it still believed? Not if it is of a time to come: then a clock was wrong.
    fn is_of_use(&self, now: u64) -> bool {
        let age = now.checked_sub(self.since);
        self.reader == READER && age.is_some_and(|age| age < BELIEVED.as_secs())
    }
}

/// How long what was read of an image is believed: nothing checked it, so a mirror may have made it up.
const BELIEVED: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Images remembered that cannot be read. After so many all are forgotten.
const MAX_UNREADABLE: usize = 1024;

/// How long another writer of a file is waited for.
const LONGEST_TURN: Duration = Duration::from_secs(5);

/// Counts the changes of how images are read: what an older program found is looked for again.
const READER: u32 = 1;

/// `tags/<hex>`
type TagsFile = BTreeMap<String, String>;

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
            at_work: AtWork::default(),
            // What other processes wrote is not known, so the first write trims.
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
    /// A repository serves only what it has shown to hold. What another one delivered may be private there,
    /// and a digest is no secret: so each source has only what came from itself.
    pub fn document(&self, source: &str, digest: Digest, most: u64) -> Option<Vec<u8>> {
        self.read(DOCUMENTS, key_of(source, digest), most, |bytes| {
            (Digest::of(&bytes) == digest).then_some(bytes)
        })
    }

    /// Is there a document of this source by that digest, damaged perhaps?
    pub fn has_document(&self, source: &str, digest: Digest) -> bool {
        let name = key_of(source, digest).hex();
        let found = self.folder(DOCUMENTS).and_then(|folder| folder.entry(name));
        found.is_some_and(|entry| entry.is_file)
    }

    /// How many bytes a document of this source has, if it is there.
    pub fn size_of_document(&self, source: &str, digest: Digest) -> Option<u64> {
        let folder = self.folder(DOCUMENTS)?;
        let file = open(&folder, &key_of(source, digest).hex(), LARGEST)?;
        Some(file.metadata().ok()?.len())
    }

    /// Keeps a document that this source delivered and whose digest was checked.
    pub fn keep_document(&self, source: &str, digest: Digest, bytes: &[u8]) {
        self.write(DOCUMENTS, key_of(source, digest), bytes);
    }

    /// What an image of this source was found to say of itself. It was not checked against its digest, so
    /// what one source has under that says nothing of another's.
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
            let mut unreadable = lock(&self.unreadable);
            if unreadable.len() >= MAX_UNREADABLE {
                unreadable.clear();
            }
            unreadable.insert(key, why.clone());
            return;
        }
        let file = ReleaseFile {
            reader: READER,
            since: now(),
            release: release.clone(),
        };
        self.write_summed(RELEASES, key, &file);
    }

    /// What each tag of a source was when it was last asked for. A hint: tags move.
    pub fn tags(&self, source: &str) -> BTreeMap<Tag, Digest> {
        let tags: Option<TagsFile> = self.read_summed(TAGS, Digest::of(source.as_bytes()));
        tags.into_iter()
            .flatten()
            .filter_map(|(tag, digest)| Some((tag.parse().ok()?, digest.parse().ok()?)))
            .collect()
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
        tags.extend(learnt.iter().map(|(tag, digest)| (tag.clone(), *digest)));
        tags.retain(|tag, _| !is_gone(tag));
        if tags == before {
            return;
        }
        let tags: TagsFile = tags
            .iter()
            .map(|(tag, digest)| (tag.to_string(), digest.to_string()))
            .collect();
        self.write_summed(TAGS, Digest::of(source.as_bytes()), &tags);
    }

    /// Waits for others that change what a file has, but not for long: it is only a cache.
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

    /// What was given out of a directory, by the key that it was kept with.
    pub fn listing<T: DeserializeOwned>(&self, key: Digest) -> Option<T> {
        self.read_summed(LISTINGS, key)
    }

    /// Keeps what was given out of a directory.
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
        if let Err(error) = format::write(&root) {
            self.warn_once(&error);
        }
    }

    /// What `parse` makes of a file of at most so many bytes. One that it makes nothing of goes.
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

    /// Writes JSON, behind a line with its checksum: what damaged bytes say would be believed. Is it there?
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
            if let Some(unfinished) = self.at_work.create(name, root)? {
                return Ok(unfinished);
            }
        }
    }

    /// Writes a file whole or not at all. Is it there? Without a cache the service goes on, so one warning is all.
    fn write(&self, folder: &str, key: Digest, bytes: &[u8]) -> bool {
        let Some(root) = &self.root else {
            return false;
        };
        let write = || {
            let unfinished = self.begin(root)?;
            unfinished.write_all(bytes)?;
            let root = Dir::create(root)?;
            format::restore(&root);
            let folder = root.create_sub(folder)?;
            unfinished.keep_as(&folder, &key.hex())
        };
        let written = write();
        if let Err(error) = &written {
            self.warn_once(error);
        }
        let size = prune::BLOCK.max(bytes.len() as u64);
        let part = if self.is_in_memory { PART_IN_MEMORY } else { 1 };
        if self.untrimmed.fetch_add(size, Ordering::Relaxed) + size >= TRIMMED_AFTER / part {
            self.untrimmed.store(0, Ordering::Relaxed);
            if let Some(root) = self.root() {
                for shelf in &prune::SHELVES {
                    prune::trim(&root, shelf, part);
                }
            }
        }
        written.is_ok()
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

    /// How many bytes are free where the cache is.
    pub fn free(&self) -> Option<u64> {
        self.root()?.free()
    }

    /// Does it take memory of the machine?
    pub fn is_in_memory(&self) -> bool {
        self.is_in_memory
    }

    /// How many bytes the files of one image may have in all, where the settings say so many.
    pub fn most_of_one(&self, size: u64) -> u64 {
        if self.is_in_memory {
            size.min(FILES_IN_MEMORY)
        } else {
            size
        }
    }

    /// Removes what this process has not finished. From now on it begins nothing.
    pub fn close(&self) {
        self.at_work.close();
    }

    /// Removes what killed processes left.
    fn sweep(&self) {
        if let Some(tmp) = self.folder(TMP) {
            sweep(&tmp);
        }
    }
}

/// Opens a file that is kept. What is not a regular file, or larger than ours are, goes: of a named pipe even
/// the opening would wait.
fn open(folder: &Dir, name: &str, largest: u64) -> Option<File> {
    let found = folder.entry(name)?;
    if found.is_file && found.len <= largest {
        return folder.file(name).ok();
    }
    discard(folder, name);
    None
}

/// Removes what is not what we kept there, whatever it is.
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

/// In seconds since 1970.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// The name of what is kept of one source alone.
fn key_of(source: &str, digest: Digest) -> Digest {
    Digest::of(format!("{source} {digest}").as_bytes())
}

/// Of what is kept there: a file that comes from another place is not this one.
fn checksum(folder: &str, key: Digest, json: &str) -> String {
    Digest::of(format!("{folder}/{}\n{json}", key.hex()).as_bytes()).hex()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, chown};

    use super::*;

    const SOURCE: &str = "localhost:5000/hello";

    /// A directory that goes when the test ends.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir()
                .join(format!("sysext-oci-proxy-cache-{name}-{}", process::id()));
            fs::create_dir_all(&path).unwrap();
            // What is laid there has its format.
            drop(Cache::new(Some(path.clone()), 0));
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn documents_come_back_as_they_were_or_not_at_all() {
        let directory = Directory::new("documents");
        let digest = Digest::of(b"{}");
        let cache = Cache::new(Some(directory.0.clone()), 0);
        assert_eq!(cache.document(SOURCE, digest, LARGEST), None);
        cache.keep_document(SOURCE, digest, b"{}");
        assert!(cache.has_document(SOURCE, digest));
        assert_eq!(cache.document(SOURCE, digest, 1), None, "it is larger");
        assert_eq!(
            cache.document(SOURCE, digest, LARGEST).as_deref(),
            Some(&b"{}"[..])
        );
        let other = "localhost:5000/other";
        assert!(!cache.has_document(other, digest));
        assert_eq!(cache.document(other, digest, LARGEST), None, "another's");

        let path = directory
            .0
            .join("documents")
            .join(key_of(SOURCE, digest).hex());
        for damage in [&b""[..], b"{", b"{ }"] {
            fs::write(&path, damage).unwrap();
            assert_eq!(cache.document(SOURCE, digest, LARGEST), None, "{damage:?}");
            assert!(!path.exists(), "{damage:?} is still there");
        }
        assert_eq!(fs::read_dir(directory.0.join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_file_of_ours_makes_room_for_one() {
        let directory = Directory::new("foreign");
        let digest = Digest::of(b"{}");
        let cache = Cache::new(Some(directory.0.clone()), 0);
        let path = directory
            .0
            .join("documents")
            .join(key_of(SOURCE, digest).hex());
        fs::create_dir(directory.0.join("documents")).unwrap();
        type Lay<'a> = (&'a str, &'a dyn Fn());
        let foreign: [Lay<'_>; 4] = [
            ("a directory", &|| {
                fs::create_dir_all(path.join("with another in it")).unwrap()
            }),
            ("a symlink", &|| {
                std::os::unix::fs::symlink("/dev/zero", &path).unwrap()
            }),
            ("a file without end", &|| {
                let file = File::create(&path).unwrap();
                file.set_len(1 << 40).unwrap();
            }),
            ("a pipe, which nobody writes into", &|| {
                let status = process::Command::new("mkfifo").arg(&path).status();
                assert!(status.unwrap().success());
            }),
        ];
        for (what, lay) in foreign {
            lay();
            assert_eq!(cache.document(SOURCE, digest, LARGEST), None, "{what}");
            assert!(
                fs::symlink_metadata(&path).is_err(),
                "{what} is still there"
            );
            cache.keep_document(SOURCE, digest, b"{}");
            assert_eq!(
                cache.document(SOURCE, digest, LARGEST).as_deref(),
                Some(&b"{}"[..]),
                "{what}"
            );
            fs::remove_file(&path).unwrap();
        }
    }

    /// All that lies below, with its bytes.
    fn all(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(all(&path));
                found.insert(path, Vec::new());
            } else {
                found.insert(path.clone(), fs::read(&path).unwrap());
            }
        }
        found
    }

    /// Tries all that writes or removes.
    fn use_all(cache: &Cache) {
        for folder in [DOCUMENTS, RELEASES, LISTINGS, TAGS, SUMS] {
            cache.write(folder, Digest::of(b"{}"), b"{}");
            cache.read::<()>(folder, Digest::of(b"[]"), LARGEST, |_| None);
        }
        if let Ok(unfinished) = cache.begin_made() {
            let made = Made {
                digest: Digest::of(b""),
                size: 0,
            };
            let _ = cache.keep_made(&unfinished, made);
        }
        cache.made(Made {
            digest: Digest::of(b"[]"),
            size: 9,
        });
        cache.sweep();
        cache.make_room(None);
        cache.close();
    }

    /// Lays a file into each folder, none of which is right.
    fn lay_all(root: &Path) {
        for folder in [DOCUMENTS, RELEASES, LISTINGS, TAGS, SUMS, MADE, TMP] {
            fs::create_dir_all(root.join(folder)).unwrap();
            let name = Digest::of(b"[]").hex();
            fs::write(root.join(folder).join(name), "precious").unwrap();
        }
    }

    #[test]
    fn what_a_folder_of_the_cache_links_to_is_left_alone() {
        let (directory, elsewhere) = (Directory::new("linked"), Directory::new("elsewhere"));
        lay_all(&elsewhere.0);
        for folder in [DOCUMENTS, RELEASES, LISTINGS, TAGS, SUMS, MADE, TMP] {
            let link = directory.0.join(folder);
            std::os::unix::fs::symlink(elsewhere.0.join(folder), link).unwrap();
        }
        let before = all(&elsewhere.0);
        use_all(&Cache::new(Some(directory.0.clone()), 0));
        assert_eq!(all(&elsewhere.0), before);
        // Set aside, too, it is the link that goes.
        fs::remove_file(directory.0.join("format")).unwrap();
        use_all(&Cache::new(Some(directory.0.clone()), 0));
        assert_eq!(all(&elsewhere.0), before);
    }

    #[test]
    fn root_changes_nothing_in_the_cache_of_another_user() {
        let directory = Directory::new("root");
        if directory.0.metadata().unwrap().uid() != 0 {
            eprintln!("left out: needs root");
            return;
        }
        let digest = Digest::of(b"{}");
        let of_user = || Cache::new(Some(directory.0.clone()), 0);
        of_user().keep_document(SOURCE, digest, b"{}");
        lay_all(&directory.0);
        chown(&directory.0, Some(65_534), Some(65_533)).unwrap();
        let before = all(&directory.0);
        use_all(&of_user());
        assert_eq!(all(&directory.0), before);
        assert!(
            of_user().document(SOURCE, digest, LARGEST).is_some(),
            "read it can be"
        );
        fs::remove_file(directory.0.join("format")).unwrap();
        let before = all(&directory.0);
        use_all(&of_user());
        assert_eq!(all(&directory.0), before);
        assert_eq!(
            of_user().document(SOURCE, digest, LARGEST),
            None,
            "of another format"
        );
    }

    #[test]
    fn a_cache_of_another_format_is_emptied() {
        let directory = Directory::new("formats");
        let digest = Digest::of(b"{}");
        let cache = || Cache::new(Some(directory.0.clone()), 0);
        cache().keep_document(SOURCE, digest, b"{}");
        assert!(
            cache().document(SOURCE, digest, LARGEST).is_some(),
            "the same format"
        );
        let format = directory.0.join("format");
        let ours = fs::read_to_string(&format).unwrap();
        let kept = directory.0.join("not of ours");
        fs::write(&kept, "").unwrap();
        for (text, why) in [
            (None, "of a time before there were formats"),
            (Some("sysext-oci-proxy cache 0\ndocuments blobs\n"), "older"),
            (Some("sysext-oci-proxy cache 2\ndocuments blobs\n"), "newer"),
            (Some(""), "cut off"),
        ] {
            cache().keep_document(SOURCE, digest, b"{}");
            fs::create_dir_all(directory.0.join("blobs/deep")).unwrap();
            match text {
                Some(text) => fs::write(&format, text).unwrap(),
                None => fs::remove_file(&format).unwrap(),
            }
            let found = cache().document(SOURCE, digest, LARGEST);
            assert_eq!(found, None, "{why}");
            assert_eq!(fs::read_to_string(&format).unwrap(), ours, "{why}");
            let has_blobs = directory.0.join("blobs").exists();
            let names_blobs = text.is_some_and(|text| text.contains("blobs"));
            assert_eq!(has_blobs, !names_blobs, "{why}");
        }
        assert!(kept.exists());
    }

    #[test]
    fn releases_come_back_as_they_were_or_not_at_all() {
        let directory = Directory::new("releases");
        let digest = Digest::of(b"image");
        let cache = Cache::new(Some(directory.0.clone()), 0);
        assert_eq!(cache.release("a", digest), None);
        for release in [Release::Text("ID=_any\n".into()), Release::None] {
            cache.keep_release("a", digest, &release);
            assert_eq!(cache.release("a", digest), Some(release));
            assert_eq!(cache.release("b", digest), None, "another's word");
        }

        let path = cache.path(RELEASES, key_of("a", digest)).unwrap();
        let whole = fs::read(&path).unwrap();
        for n in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[n] ^= 1;
            for damaged in [flipped.as_slice(), &whole[..n]] {
                fs::write(&path, damaged).unwrap();
                assert_eq!(cache.release("a", digest), None, "damaged at {n}");
                assert!(!path.exists(), "damaged at {n}, and still there");
            }
        }
        cache.keep_release("a", digest, &Release::None);
        assert_eq!(
            cache.release("a", digest),
            Some(Release::None),
            "made again"
        );
    }

    #[test]
    fn why_an_image_cannot_be_read_is_forgotten_at_the_end() {
        let directory = Directory::new("unreadable");
        let digest = Digest::of(b"image");
        let why = Release::Unreadable("it is short".into());
        let cache = Cache::new(Some(directory.0.clone()), 0);
        cache.keep_release("a", digest, &why);
        assert_eq!(cache.release("a", digest), Some(why.clone()));
        assert_eq!(cache.release("b", digest), None);
        let next_start = Cache::new(Some(directory.0.clone()), 0);
        assert_eq!(next_start.release("a", digest), None);
        for n in 0..MAX_UNREADABLE {
            cache.keep_release(&n.to_string(), digest, &why);
        }
        assert_eq!(cache.release("a", digest), None, "there were too many");
        assert_eq!(lock(&cache.unreadable).len(), 1, "the last");
    }

    #[test]
    fn releases_of_another_reader_or_of_long_ago_are_read_again() {
        let directory = Directory::new("readers");
        let digest = Digest::of(b"image");
        let cache = Cache::new(Some(directory.0.clone()), 0);
        let day = 24 * 60 * 60;
        for (reader, since, is_known, why) in [
            (READER, now(), true, "just now"),
            (READER, now() - 6 * day, true, "some days ago"),
            (READER, now() - 7 * day, false, "long ago"),
            (READER, now() + day, false, "at a time to come"),
            (READER - 1, now(), false, "by another reader"),
        ] {
            let release = Release::None;
            let file = ReleaseFile {
                reader,
                since,
                release,
            };
            cache.write_summed(RELEASES, key_of("a", digest), &file);
            let expected = is_known.then_some(Release::None);
            assert_eq!(cache.release("a", digest), expected, "{why}");
        }
        let older = serde_json::json!({"reader": READER, "release": "none"});
        cache.write_summed(RELEASES, key_of("a", digest), &older);
        assert_eq!(cache.release("a", digest), None, "nobody knows when");
    }

    #[test]
    fn tags_are_kept_for_each_source() {
        let directory = Directory::new("tags");
        let cache = Cache::new(Some(directory.0.clone()), 0);
        let tags: BTreeMap<Tag, Digest> = [("v1".parse().unwrap(), Digest::of(b"1"))].into();
        cache.learn_tags("localhost:5000/a", &tags, |_| false);
        assert_eq!(cache.tags("localhost:5000/a"), tags);
        assert_eq!(cache.tags("localhost:5000/b"), BTreeMap::new());
        let key = |source: &str| Digest::of(source.as_bytes());
        let path = |source: &str| cache.path(TAGS, key(source)).unwrap();
        let whole = fs::read(path("localhost:5000/a")).unwrap();
        for damaged in [&whole[..whole.len() / 2], b"", b"\xff\n{}", b"{}"] {
            fs::write(path("localhost:5000/a"), damaged).unwrap();
            assert_eq!(cache.tags("localhost:5000/a"), BTreeMap::new());
            assert!(!path("localhost:5000/a").exists(), "{damaged:?} was left");
        }
        fs::write(path("localhost:5000/b"), &whole).unwrap();
        assert_eq!(cache.tags("localhost:5000/b"), BTreeMap::new());
        assert!(!path("localhost:5000/b").exists(), "it is another's");
    }

    #[test]
    fn what_several_learn_of_a_sources_tags_at_once_is_all_kept() {
        let directory = Directory::new("learnt");
        let tag = |name: String| -> Tag { name.parse().unwrap() };
        thread::scope(|scope| {
            for learner in 0..4 {
                // As processes would, each has its own.
                let cache = Cache::new(Some(directory.0.clone()), 0);
                scope.spawn(move || {
                    for n in 0..10 {
                        let learnt = (tag(format!("v{learner}.{n}")), Digest::of(b"1"));
                        cache.learn_tags("a", &[learnt].into(), |_| false);
                    }
                });
            }
        });
        let cache = Cache::new(Some(directory.0.clone()), 0);
        assert_eq!(cache.tags("a").len(), 40);
        let moved = (tag("v0.0".into()), Digest::of(b"2"));
        let is_gone = |tag: &Tag| tag.as_str().starts_with("v1.");
        cache.learn_tags("a", &[moved.clone()].into(), is_gone);
        let known = cache.tags("a");
        assert_eq!((known.len(), known[&moved.0]), (30, moved.1));
    }

    #[test]
    fn two_that_share_a_directory_never_write_the_same_file() {
        let directory = Directory::new("shared");
        let cache = || Cache::new(Some(directory.0.clone()), 0);
        let (one, other) = (cache(), cache());
        // As two processes with one number in two containers would.
        let begun = [&one, &other].map(|cache| cache.begin(&directory.0).unwrap());
        assert_eq!(fs::read_dir(directory.0.join("tmp")).unwrap().count(), 2);
        drop(begun);
    }

    /// A file that so many bytes are said to be in, last used so long ago.
    fn lay(path: &Path, size: u64, days: u64) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let file = File::create(path).unwrap();
        file.set_len(size).unwrap();
        let then = SystemTime::now() - Duration::from_secs(days * 24 * 60 * 60);
        file.set_modified(then).unwrap();
    }

    #[test]
    fn small_files_are_trimmed_by_their_last_use() {
        let directory = Directory::new("trimmed");
        for (folder, other, room) in [
            (DOCUMENTS, RELEASES, 256 << 20),
            (RELEASES, DOCUMENTS, 256 << 20),
            ("sums", "sums", 64 << 20),
            (TAGS, TAGS, 16 << 20),
        ] {
            let path = |folder: &str, name: &str| directory.0.join(folder).join(name);
            let is_in_memory = Cache::new(Some(directory.0.clone()), 0).is_in_memory;
            let room = room / if is_in_memory { PART_IN_MEMORY } else { 1 };
            let (old, older) = (path(folder, "old"), path(other, "older"));
            lay(&older, room / 2, 3);
            lay(&old, room / 2, 2);
            let cache = Cache::new(Some(directory.0.clone()), 0);
            cache.document(SOURCE, Digest::of(b"nothing"), LARGEST);
            assert!(older.exists(), "nothing was written");
            cache.write(folder, Digest::of(b"new"), b"new");
            assert!(!older.exists() && old.exists(), "{folder}");
            assert!(cache.path(folder, Digest::of(b"new")).unwrap().exists());

            // Not counted again each time, but after some megabytes.
            lay(&older, room / 2, 3);
            cache.write(folder, Digest::of(b"newer"), b"newer");
            assert!(older.exists());
            for _ in 0..TRIMMED_AFTER / (8 << 20) {
                cache.write(TAGS, Digest::of(b"large"), &vec![0; 8 << 20]);
            }
            assert!(!older.exists(), "{folder}");
            fs::remove_dir_all(directory.0.join(folder)).unwrap();
            fs::remove_dir_all(directory.0.join(TAGS)).ok();
        }
    }

    #[test]
    fn what_is_larger_than_its_shelf_leaves_the_others_there() {
        let directory = Directory::new("larger");
        let path = |name: &str| directory.0.join(TAGS).join(name);
        lay(&path("large"), 17 << 20, 1);
        lay(&path("old"), 10, 2);
        let cache = Cache::new(Some(directory.0.clone()), 0);
        cache.write(TAGS, Digest::of(b"new"), b"new");
        assert!(!path("large").exists() && path("old").exists());
        assert!(cache.path(TAGS, Digest::of(b"new")).unwrap().exists());
    }

    #[test]
    fn a_use_is_noted_once_a_day() {
        let directory = Directory::new("used");
        let (cache, digest) = (Cache::new(Some(directory.0.clone()), 0), Digest::of(b"{}"));
        cache.keep_document(SOURCE, digest, b"{}");
        let path = cache.path(DOCUMENTS, key_of(SOURCE, digest)).unwrap();
        let used = || path.metadata().unwrap().modified().unwrap();
        let hour = Duration::from_secs(60 * 60);
        let now = SystemTime::now();
        for (then, is_noted) in [
            (now - 25 * hour, true),
            (now - 23 * hour, false),
            (now + hour, true),
        ] {
            File::open(&path).unwrap().set_modified(then).unwrap();
            assert!(cache.document(SOURCE, digest, LARGEST).is_some());
            assert_eq!(used() != then, is_noted, "{then:?}");
        }
    }

    #[test]
    fn without_a_directory_nothing_is_kept() {
        let cache = Cache::new(None, 0);
        cache.keep_document(SOURCE, Digest::of(b"{}"), b"{}");
        assert_eq!(cache.document(SOURCE, Digest::of(b"{}"), LARGEST), None);
    }
}
