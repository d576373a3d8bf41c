//! What is kept on disk between two runs: manifests and configs by digest, and what each tag was.
//!
//! Everything here can be lost without harm. A file is written to a temporary name and renamed, so a
//! kill at any moment leaves it whole or not there; what a crash of the machine leaves is found out
//! when it is read, for a document is checked against its digest each time.
//!
//!     documents/<hex>     a manifest, index or config, as the registry has it
//!     releases/<hex>      what the image with this digest says of itself, behind a checksum
//!     tags/<hex>          {"source": NAME, "tags": {TAG: DIGEST}}, <hex> is the SHA-256 of NAME
//!     sums/<hex>          what came of making a file, <hex> is the digest of its recipe
//!     made/<hex>          a file that was made; up to 'cache-size' of them, the last used stay
//!     tmp/                files being written, each locked by its process

mod made;
mod unfinished;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use log::{debug, warn};
pub use made::{Made, Sum};
use serde::{Deserialize, Serialize};
use unfinished::{Unfinished, sweep};

use crate::digest::Digest;
use crate::name::Tag;

/// The cache, or nothing where there is no directory for it.
pub struct Cache {
    root: Option<PathBuf>,
    has_warned: AtomicBool,
    /// What no other process has that writes there: each container counts its processes from 1.
    own: u64,
    begun: AtomicU64,
    /// In bytes, of all files that were made.
    size: u64,
    /// Files that were made, and found to be right by this process.
    checked: Mutex<HashSet<Digest>>,
}

/// What an image says of itself.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Release {
    /// Its extension-release file.
    Text(String),
    /// It has none.
    None,
    /// It cannot be told, and why.
    Unreadable(String),
}

/// `releases/<hex>`, behind the SHA-256 of itself and a line's end.
#[derive(Deserialize, Serialize)]
struct ReleaseFile {
    reader: u32,
    release: Release,
}

/// Counts the changes of how images are read: what an older program found is looked for again.
const READER: u32 = 1;

/// `tags/<hex>`
#[derive(Deserialize, Serialize)]
struct TagsFile {
    source: String,
    tags: BTreeMap<String, String>,
}

impl Cache {
    /// The cache in this directory, with at most so many bytes of files that were made; with `None`
    /// nothing is kept.
    pub fn new(root: Option<PathBuf>, size: u64) -> Self {
        let cache = Self {
            root,
            has_warned: AtomicBool::new(false),
            own: RandomState::new().hash_one(process::id()),
            begun: AtomicU64::new(0),
            size,
            checked: Mutex::default(),
        };
        // A process may have been killed before it did so.
        cache.sweep();
        cache.make_room(None);
        cache
    }

    /// A document, if it is there and undamaged.
    pub fn document(&self, digest: Digest) -> Option<Vec<u8>> {
        let path = self.document_path(digest)?;
        let bytes = fs::read(&path).ok()?;
        if Digest::of(&bytes) == digest {
            return Some(bytes);
        }
        warn!(
            "cache file {} is damaged, it is fetched again",
            path.display()
        );
        let _ = fs::remove_file(&path); // else it is replaced
        None
    }

    /// Is there a document by that digest, damaged perhaps?
    pub fn has_document(&self, digest: Digest) -> bool {
        self.document_path(digest)
            .is_some_and(|path| path.is_file())
    }

    /// Keeps a document whose digest was checked.
    pub fn keep_document(&self, digest: Digest, bytes: &[u8]) {
        if let Some(path) = self.document_path(digest) {
            self.write(&path, bytes);
        }
    }

    /// What an image was found to say of itself.
    pub fn release(&self, digest: Digest) -> Option<Release> {
        let path = self.release_path(digest)?;
        let bytes = fs::read(&path).ok()?;
        if let Some(file) = parse_release(&bytes) {
            return (file.reader == READER).then_some(file.release);
        }
        warn!("cache file {} is damaged, it is made again", path.display());
        let _ = fs::remove_file(&path); // else it is replaced
        None
    }

    /// Keeps what an image says of itself.
    pub fn keep_release(&self, digest: Digest, release: &Release) {
        let Some(path) = self.release_path(digest) else {
            return;
        };
        let file = ReleaseFile {
            reader: READER,
            release: release.clone(),
        };
        match serde_json::to_string(&file) {
            Ok(json) => {
                let sum = Digest::of(json.as_bytes()).hex();
                self.write(&path, format!("{sum}\n{json}").as_bytes());
            }
            Err(error) => debug!("what image {digest} says is not kept: {error}"),
        }
    }

    /// What each tag of a source was when it was last asked for. A hint: tags move.
    pub fn tags(&self, source: &str) -> BTreeMap<Tag, Digest> {
        let read = || -> Option<TagsFile> {
            let bytes = fs::read(self.tags_path(source)?).ok()?;
            serde_json::from_slice(&bytes)
                .ok()
                .filter(|file: &TagsFile| file.source == source)
        };
        let tags = read().map(|file| file.tags).unwrap_or_default();
        tags.into_iter()
            .filter_map(|(tag, digest)| Some((tag.parse().ok()?, digest.parse().ok()?)))
            .collect()
    }

    /// Keeps what each tag of a source is.
    pub fn keep_tags(&self, source: &str, tags: &BTreeMap<Tag, Digest>) {
        let Some(path) = self.tags_path(source) else {
            return;
        };
        let file = TagsFile {
            source: source.to_owned(),
            tags: tags
                .iter()
                .map(|(tag, digest)| (tag.to_string(), digest.to_string()))
                .collect(),
        };
        match serde_json::to_vec(&file) {
            Ok(json) => self.write(&path, &json),
            Err(error) => debug!("tags of {source} are not kept: {error}"),
        }
    }

    fn document_path(&self, digest: Digest) -> Option<PathBuf> {
        Some(self.root.as_ref()?.join("documents").join(digest.hex()))
    }

    fn release_path(&self, digest: Digest) -> Option<PathBuf> {
        Some(self.root.as_ref()?.join("releases").join(digest.hex()))
    }

    fn tags_path(&self, source: &str) -> Option<PathBuf> {
        Some(
            self.root
                .as_ref()?
                .join("tags")
                .join(Digest::of(source.as_bytes()).hex()),
        )
    }

    /// Begins a file, which is locked as long as it is unfinished.
    fn begin(&self, root: &Path) -> io::Result<Unfinished> {
        loop {
            let number = self.begun.fetch_add(1, Ordering::Relaxed);
            let name = format!("{}-{:016x}-{number}", process::id(), self.own);
            if let Some(unfinished) = Unfinished::create(root.join("tmp").join(name))? {
                return Ok(unfinished);
            }
        }
    }

    /// Writes a file whole or not at all. Without a cache the service goes on, so one warning is all.
    fn write(&self, path: &Path, bytes: &[u8]) {
        let Some(root) = &self.root else {
            return;
        };
        let write = || {
            let unfinished = self.begin(root)?;
            unfinished.write_all(bytes)?;
            unfinished.keep_as(path)
        };
        if let Err(error) = write()
            && !self.has_warned.swap(true, Ordering::Relaxed)
        {
            warn!(
                "cache {} cannot be written, going on without it: {error}",
                root.display()
            );
        }
    }

    /// Removes what killed processes left.
    fn sweep(&self) {
        if let Some(root) = &self.root {
            sweep(&root.join("tmp"));
        }
    }
}

fn parse_release(bytes: &[u8]) -> Option<ReleaseFile> {
    let (sum, json) = std::str::from_utf8(bytes).ok()?.split_once('\n')?;
    let is_whole = Digest::of(json.as_bytes()).hex() == sum;
    serde_json::from_str(json).ok().filter(|_| is_whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that goes when the test ends.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir()
                .join(format!("sysext-oci-proxy-cache-{name}-{}", process::id()));
            fs::create_dir_all(&path).unwrap();
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
        assert_eq!(cache.document(digest), None);
        cache.keep_document(digest, b"{}");
        assert!(cache.has_document(digest));
        assert_eq!(cache.document(digest).as_deref(), Some(&b"{}"[..]));

        let path = directory.0.join("documents").join(digest.hex());
        for damage in [&b""[..], b"{", b"{ }"] {
            fs::write(&path, damage).unwrap();
            assert_eq!(cache.document(digest), None, "{damage:?}");
            assert!(!path.exists(), "{damage:?} is still there");
        }
        assert_eq!(fs::read_dir(directory.0.join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn releases_come_back_as_they_were_or_not_at_all() {
        let directory = Directory::new("releases");
        let digest = Digest::of(b"image");
        let cache = Cache::new(Some(directory.0.clone()), 0);
        assert_eq!(cache.release(digest), None);
        for release in [
            Release::Text("ID=_any\n".into()),
            Release::None,
            Release::Unreadable("it is short".into()),
        ] {
            cache.keep_release(digest, &release);
            assert_eq!(cache.release(digest), Some(release));
        }

        let path = directory.0.join("releases").join(digest.hex());
        let whole = fs::read(&path).unwrap();
        for n in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[n] ^= 1;
            for damaged in [flipped.as_slice(), &whole[..n]] {
                fs::write(&path, damaged).unwrap();
                assert_eq!(cache.release(digest), None, "damaged at {n}");
                assert!(!path.exists(), "damaged at {n}, and still there");
            }
        }
        cache.keep_release(digest, &Release::None);
        assert_eq!(cache.release(digest), Some(Release::None), "made again");
    }

    #[test]
    fn releases_of_another_reader_are_read_again() {
        let directory = Directory::new("readers");
        let digest = Digest::of(b"image");
        let cache = Cache::new(Some(directory.0.clone()), 0);
        cache.keep_release(digest, &Release::None);
        let json = r#"{"reader":0,"release":"none"}"#;
        let path = directory.0.join("releases").join(digest.hex());
        fs::write(
            &path,
            format!("{}\n{json}", Digest::of(json.as_bytes()).hex()),
        )
        .unwrap();
        assert_eq!(cache.release(digest), None);
    }

    #[test]
    fn tags_are_kept_for_each_source() {
        let directory = Directory::new("tags");
        let cache = Cache::new(Some(directory.0.clone()), 0);
        let tags: BTreeMap<Tag, Digest> = [("v1".parse().unwrap(), Digest::of(b"1"))].into();
        cache.keep_tags("localhost:5000/a", &tags);
        assert_eq!(cache.tags("localhost:5000/a"), tags);
        assert_eq!(cache.tags("localhost:5000/b"), BTreeMap::new());
        fs::write(cache.tags_path("localhost:5000/a").unwrap(), "{\"source\":").unwrap();
        assert_eq!(cache.tags("localhost:5000/a"), BTreeMap::new());
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

    #[test]
    fn without_a_directory_nothing_is_kept() {
        let cache = Cache::new(None, 0);
        cache.keep_document(Digest::of(b"{}"), b"{}");
        assert_eq!(cache.document(Digest::of(b"{}")), None);
    }
}
