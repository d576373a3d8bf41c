//! Flattened images, and the outcomes of flattening.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{
    Cache, MADE, MADE_WHILE_WRITING, SUMS, Unfinished, discard, key_of, open, prune, remember,
};
use crate::digest::{Digest, Hasher};
use crate::dir::Dir;
use crate::error::{Error, Result};
use crate::lock::lock;

/// A flattened image.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
pub struct Flattened {
    /// The digest of the flattened image (`.tar.gz`).
    pub digest: Digest,
    /// Its size, in bytes.
    pub size: u64,
}

/// The outcome of flattening an image.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Outcome {
    Flattened(Flattened),
    /// The image cannot be flattened, as long as the limit and the rules stay the same. `limit`: most bytes of its files;
    /// `reader`: the version of the rules.
    Refused {
        layer: Digest,
        why: String,
        limit: u64,
        reader: u32,
    },
}

/// A file's inode and ctime: they change whenever the file does.
#[derive(Clone, Copy, PartialEq)]
pub struct Stamp {
    inode: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let found = file.metadata()?;
        Ok(Self {
            inode: found.ino(),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

impl Cache {
    /// The outcome of a recipe with the layers of this source, if it was tried. The outcome of another source does not
    /// count: this one may not have the layers.
    pub fn outcome(&self, source: &str, recipe: Digest) -> Option<Outcome> {
        let key = key_of(source, recipe);
        // One that could not be written is newer than the file.
        let unwritten = lock(&self.unwritten).get(&key).cloned();
        unwritten.or_else(|| self.read_summed(SUMS, key))
    }

    /// Keeps the outcome of a recipe, at least until the process ends: to learn it again takes all layers.
    pub fn keep_outcome(&self, source: &str, recipe: Digest, sum: &Outcome) {
        let key = key_of(source, recipe);
        if self.write_summed(SUMS, key, sum) {
            lock(&self.unwritten).remove(&key);
        } else {
            remember(&self.unwritten, key, sum.clone());
        }
    }

    /// The file of a flattened image, if it is there and undamaged. It counts as used now.
    ///
    /// A process verifies its digest once, and again after the file was changed.
    pub fn flattened(&self, made: Flattened) -> Option<File> {
        let (folder, name) = (self.folder(MADE)?, made.digest.hex());
        let file = open(&folder, &name, made.size)?;
        let found = Stamp::of(&file).ok()?;
        if lock(&self.checked).get(&made.digest) != Some(&found) && !is_right(&file, made) {
            discard_same(&folder, &name, &file);
            return None;
        }
        // To note its use changes the stamp. Of two threads the second must accept the stamp that the first left.
        let mut checked = lock(&self.checked);
        if Stamp::of(&file).is_ok_and(|now| now == found || checked.get(&made.digest) == Some(&now))
        {
            folder.set_used(&file, SystemTime::now());
            checked.extend(Stamp::of(&file).ok().map(|stamp| (made.digest, stamp)));
        }
        Some(file)
    }

    /// An empty file without a name. It is gone when it is closed.
    pub fn scratch(&self) -> Result<File> {
        self.begin_large()?.file()
    }

    /// Begins the file of a flattened image.
    pub fn begin_flattened(&self) -> Result<Unfinished> {
        // A killed process may have left a large file.
        self.sweep();
        if self.is_in_memory {
            self.make_room_of(MADE_WHILE_WRITING, None);
        }
        self.begin_large()
    }

    /// Begins a large temporary file, such as a layer.
    pub fn begin_large(&self) -> Result<Unfinished> {
        let root = self.root.as_ref().ok_or(Error::NoCache)?;
        self.begin(root).map_err(|cause| self.cannot_write(cause))
    }

    /// Keeps a finished file. Those not used for longest make room for it.
    pub fn keep_flattened(&self, unfinished: &Unfinished, made: Flattened) -> Result<()> {
        let (root, name) = (self.root.as_ref().ok_or(Error::NoCache)?, made.digest.hex());
        let keep = || unfinished.keep_as(&Dir::create(root)?.create_sub(MADE)?, &name);
        keep().map_err(|cause| self.cannot_write(cause))?;
        let file = unfinished.file().ok();
        let stamp = file.and_then(|file| Stamp::of(&file).ok());
        lock(&self.checked).extend(stamp.map(|stamp| (made.digest, stamp)));
        // Another process may have been killed meanwhile.
        self.sweep();
        self.make_room(Some(&name));
        Ok(())
    }

    /// The error of a failure to write into the cache.
    pub fn cannot_write(&self, cause: io::Error) -> Error {
        let root = self.root.as_deref();
        Error::File {
            path: root.unwrap_or(Path::new("cache")).to_owned(),
            cause: Arc::new(cause),
        }
    }

    /// Removes the flattened images and layers not used for longest until the others fit. The image `newest` stays.
    pub fn make_room(&self, newest: Option<&str>) {
        self.make_room_of(self.size, newest);
    }

    /// The same until the others have at most `size` bytes.
    pub fn make_room_of(&self, size: u64, newest: Option<&str>) {
        if let Some(root) = self.root() {
            prune::trim_images(&root, size, newest);
        }
    }
}

/// Removes a damaged file, unless another process replaced it meanwhile.
pub fn discard_same(folder: &Dir, name: &str, read: &File) {
    let place = |found: Metadata| (found.dev(), found.ino());
    let there = folder.file(name).and_then(|there| there.metadata());
    if let (Ok(there), Ok(read)) = (there, read.metadata())
        && place(there) == place(read)
    {
        discard(folder, name);
    }
}

/// Whether a file has the bytes of its digest. It is read to its end, and rewound.
pub fn is_right(file: &File, made: Flattened) -> bool {
    let has_size = file
        .metadata()
        .is_ok_and(|metadata| metadata.len() == made.size);
    let mut hasher = Hasher::default();
    has_size
        && io::copy(&mut &*file, &mut hasher).is_ok()
        && hasher.finish() == made.digest
        && io::Seek::rewind(&mut &*file).is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, FileTimes};
    use std::io::Write;
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::cache::MAX_REMEMBERED;

    const SOURCE: &str = "localhost:5000/hello";

    /// A cache in a directory that goes when the test ends.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let name = format!("sysext-oci-proxy-made-{name}-{}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn cache(&self, size: u64) -> Cache {
            Cache::new(Some(self.0.clone()), size)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn make(cache: &Cache, bytes: &[u8]) -> Flattened {
        let unfinished = cache.begin_flattened().unwrap();
        unfinished.file().unwrap().write_all(bytes).unwrap();
        let made = Flattened {
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
        };
        cache.keep_flattened(&unfinished, made).unwrap();
        made
    }

    fn read(file: Option<File>) -> Option<String> {
        file.map(|file| io::read_to_string(file).unwrap())
    }

    #[test]
    fn what_came_of_a_recipe_comes_back_as_it_was_or_not_at_all() {
        let scratch = Scratch::new("sums");
        let cache = scratch.cache(0);
        let (key, layer) = (Digest::of(b"recipe"), Digest::of(b"layer"));
        assert_eq!(cache.outcome(SOURCE, key), None);
        for sum in [
            Outcome::Flattened(Flattened {
                digest: layer,
                size: 7,
            }),
            Outcome::Refused {
                layer,
                why: "two\nlines".into(),
                limit: 1 << 30,
                reader: 1,
            },
        ] {
            cache.keep_outcome(SOURCE, key, &sum);
            assert_eq!(cache.outcome(SOURCE, key), Some(sum));
        }
        let path = cache.path(SUMS, key_of(SOURCE, key)).unwrap();
        let good = fs::read(&path).unwrap();
        for n in 0..good.len() {
            let mut bad = good.clone();
            bad[n] ^= 1;
            fs::write(&path, bad).unwrap();
            assert_eq!(cache.outcome(SOURCE, key), None, "byte {n} was wrong");
            assert!(!path.exists(), "byte {n} was wrong, and the file was kept");
        }
        let other = cache.path(SUMS, key_of(SOURCE, layer)).unwrap();
        fs::write(&other, good).unwrap();
        assert_eq!(cache.outcome(SOURCE, layer), None, "it is another recipe's");
        let elsewhere = "localhost:5000/other";
        assert_eq!(
            cache.outcome(elsewhere, key),
            None,
            "it is another source's"
        );
    }

    #[test]
    fn what_could_not_be_written_counts_more_than_what_was() {
        let scratch = Scratch::new("unwritten");
        let (cache, key) = (scratch.cache(0), Digest::of(b"recipe"));
        let made = |size| {
            Outcome::Flattened(Flattened {
                digest: Digest::of(b"made"),
                size,
            })
        };
        cache.keep_outcome(SOURCE, key, &made(1));
        let path = cache.path(SUMS, key_of(SOURCE, key)).unwrap();
        let tmp = scratch.0.join("tmp");
        fs::remove_dir(&tmp).unwrap();
        fs::write(&tmp, "no directory").unwrap();
        cache.keep_outcome(SOURCE, key, &made(2));
        assert_eq!(cache.outcome(SOURCE, key), Some(made(2)));
        assert_eq!(
            scratch.cache(0).outcome(SOURCE, key),
            Some(made(1)),
            "it was forgotten"
        );
        for n in 0..MAX_REMEMBERED {
            cache.keep_outcome(SOURCE, Digest::of(&n.to_le_bytes()), &made(3));
        }
        assert_eq!(lock(&cache.unwritten).len(), 1, "there were too many");
        fs::remove_file(&tmp).unwrap();
        cache.keep_outcome(SOURCE, key, &made(4));
        fs::remove_file(path).unwrap();
        assert_eq!(
            cache.outcome(SOURCE, key),
            None,
            "it was written, and is gone"
        );
    }

    #[test]
    fn a_damaged_file_is_not_given_out() {
        let scratch = Scratch::new("damaged");
        let made = make(&scratch.cache(1 << 20), b"right");
        let path = scratch.0.join("made").join(made.digest.hex());
        for wrong in [&b"wrong"[..], b"short", b"far too long", b""] {
            fs::write(&path, wrong).unwrap();
            assert_eq!(
                read(scratch.cache(1 << 20).flattened(made)),
                None,
                "{wrong:?}"
            );
            assert!(!path.exists());
        }
        make(&scratch.cache(1 << 20), b"right");
        let next_start = scratch.cache(1 << 20);
        assert_eq!(read(next_start.flattened(made)).as_deref(), Some("right"));
        assert_eq!(read(next_start.flattened(made)).as_deref(), Some("right"));
    }

    #[test]
    fn what_another_process_put_in_the_place_of_a_damaged_file_stays() {
        let scratch = Scratch::new("replaced");
        let cache = scratch.cache(1 << 20);
        let made = make(&cache, b"right");
        let path = cache.path(MADE, made.digest).unwrap();
        fs::write(&path, b"wrong").unwrap();
        let damaged = File::open(&path).unwrap();
        make(&scratch.cache(1 << 20), b"right");
        let (folder, name) = (cache.folder(MADE).unwrap(), made.digest.hex());
        discard_same(&folder, &name, &damaged);
        assert_eq!(read(cache.flattened(made)).as_deref(), Some("right"));
        discard_same(&folder, &name, &File::open(&path).unwrap());
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_was_changed_is_read_through_again() {
        let scratch = Scratch::new("changed");
        let cache = scratch.cache(1 << 20);
        let made = make(&cache, b"right");
        let path = scratch.0.join("made").join(made.digest.hex());
        let stamp = || lock(&cache.checked).get(&made.digest).copied();
        assert!(stamp() == Stamp::of(&File::open(&path).unwrap()).ok());
        assert_eq!(read(cache.flattened(made)).as_deref(), Some("right"));
        assert!(stamp() == Stamp::of(&File::open(&path).unwrap()).ok());
        // Longer than the clock that changes are stamped by takes from one tick to the next.
        std::thread::sleep(Duration::from_millis(50));
        fs::write(&path, b"wrong").unwrap();
        assert_eq!(read(cache.flattened(made)), None);
        assert!(!path.exists(), "else it would be given out each time");
        make(&cache, b"right");
        assert_eq!(read(cache.flattened(made)).as_deref(), Some("right"));
    }

    #[test]
    fn what_was_not_used_for_longest_makes_room() {
        let scratch = Scratch::new("room");
        let block = 64 << 10;
        let cache = scratch.cache(2 * block);
        let bytes = |n: u8| vec![n; usize::try_from(block).unwrap()];
        let long_ago = |made: Flattened, hours: u64| {
            let file = File::open(cache.path(MADE, made.digest).unwrap()).unwrap();
            let then = SystemTime::now() - Duration::from_secs(3600 * hours);
            file.set_times(FileTimes::new().set_modified(then)).unwrap();
        };
        let first = make(&cache, &bytes(1));
        let second = make(&cache, &bytes(2));
        long_ago(first, 2);
        long_ago(second, 1);
        assert!(
            cache.flattened(first).is_some(),
            "used, so it is the newest"
        );
        let third = make(&cache, &bytes(3));
        assert!(cache.flattened(second).is_none(), "not used for longest");
        assert!(cache.flattened(first).is_some() && cache.flattened(third).is_some());
        drop(scratch.cache(block));
        assert!(
            cache.flattened(first).is_none(),
            "the next start has less room"
        );
        assert!(cache.flattened(third).is_some(), "used last");
        let large = make(&cache, &[bytes(4), bytes(5), bytes(6)].concat());
        assert!(cache.flattened(large).is_some(), "the newest stays");
        assert!(cache.flattened(third).is_none());
    }

    #[test]
    fn a_cache_in_memory_keeps_little_and_less_while_more_is_made() {
        let name = format!("sysext-oci-proxy-made-{}", std::process::id());
        let scratch = Scratch(Path::new("/dev/shm").join(name));
        let cache = scratch.cache(1 << 30);
        if !cache.is_in_memory() {
            return;
        }
        let kept = || {
            let files = fs::read_dir(scratch.0.join(MADE)).unwrap().flatten();
            files
                .map(|file| file.metadata().unwrap().len())
                .sum::<u64>()
        };
        assert_eq!(cache.most_of_one(1 << 30), 22 << 20);
        assert_eq!(cache.most_of_one(1 << 20), 1 << 20);
        for n in 0..9_u8 {
            let unfinished = cache.begin_flattened().unwrap();
            // Of bytes that are nowhere, for it is their number that counts.
            unfinished.file().unwrap().set_len(10 << 20).unwrap();
            assert!(n == 0 || kept() <= 14 << 20, "{}", kept());
            let digest = Digest::of(&[n]);
            let size = 10 << 20;
            cache
                .keep_flattened(&unfinished, Flattened { digest, size })
                .unwrap();
        }
        for n in 0..9_u8 {
            let path = scratch.0.join(MADE).join(Digest::of(&[n]).hex());
            File::create(path).unwrap().set_len(10 << 20).unwrap();
        }
        drop(scratch.cache(1 << 30));
        assert_eq!(kept(), 60 << 20);
    }

    #[test]
    fn what_nobody_works_on_any_more_is_swept_away() {
        let scratch = Scratch::new("swept");
        let cache = scratch.cache(0);
        let at_work = cache.begin_flattened().unwrap();
        let tmp = scratch.0.join("tmp");
        let left = || -> Vec<_> {
            let names = ["1-2", "1-1.unfinished"].map(|name| tmp.join(name));
            for path in &names {
                fs::write(path, "as a killed process leaves it").unwrap();
            }
            names.into()
        };
        let is_swept = |left: &[PathBuf], at_work: usize| {
            assert!(left.iter().all(|path| !path.exists()));
            assert_eq!(fs::read_dir(&tmp).unwrap().count(), at_work);
        };
        let before = left();
        drop(scratch.cache(0));
        is_swept(&before, 1);
        let meanwhile = left();
        let another = cache.begin_flattened().unwrap();
        is_swept(&meanwhile, 2);
        let meanwhile = left();
        let made = Flattened {
            digest: Digest::of(b""),
            size: 0,
        };
        cache.keep_flattened(&another, made).unwrap();
        is_swept(&meanwhile, 1);
        drop(at_work);
    }

    #[test]
    fn without_a_directory_nothing_is_made() {
        let cache = Cache::new(None, 1 << 20);
        assert!(matches!(cache.scratch(), Err(Error::NoCache)));
        assert_eq!(cache.outcome(SOURCE, Digest::of(b"")), None);
    }
}
