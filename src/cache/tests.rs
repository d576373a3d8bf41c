//! The cache while others empty, damage, fill or share it.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};

use super::*;

const SOURCE: &str = "localhost:5000/hello";

impl Cache {
    /// Where a file is.
    pub fn path(&self, folder: &str, key: Digest) -> Option<PathBuf> {
        Some(self.root.as_ref()?.join(folder).join(key.hex()))
    }
}

/// A directory that is removed when the test ends.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("sysext-oci-proxy-cache-{name}-{}", process::id()));
        fs::create_dir_all(&path).unwrap();
        // A file of this format is put there.
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
    if let Ok(unfinished) = cache.begin_flattened() {
        let made = Flattened {
            digest: Digest::of(b""),
            size: 0,
        };
        let _ = cache.keep_flattened(&unfinished, made);
    }
    let digest = Digest::of(b"[]");
    cache.flattened(Flattened { digest, size: 9 });
    cache.layer(digest, 8);
    if let Ok(unfinished) = cache.begin_large() {
        cache.keep_layer(&unfinished, digest);
    }
    cache.drop_layers(&[]);
    cache.sweep();
    cache.make_room(None);
    cache.close();
}

/// Lays a file into each folder, none of which is right.
fn lay_all(root: &Path) {
    for folder in [DOCUMENTS, RELEASES, LISTINGS, TAGS, SUMS, MADE, LAYERS, TMP] {
        fs::create_dir_all(root.join(folder)).unwrap();
        let name = Digest::of(b"[]").hex();
        fs::write(root.join(folder).join(name), "precious").unwrap();
    }
}

#[test]
fn what_a_folder_of_the_cache_links_to_is_left_alone() {
    let (directory, elsewhere) = (Directory::new("linked"), Directory::new("elsewhere"));
    lay_all(&elsewhere.0);
    for folder in [DOCUMENTS, RELEASES, LISTINGS, TAGS, SUMS, MADE, LAYERS, TMP] {
        let link = directory.0.join(folder);
        let _ = fs::remove_dir(&link); // some are there
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
        (Some("sysext-oci-proxy cache 1\ndocuments blobs\n"), "older"),
        (Some("sysext-oci-proxy cache 3\ndocuments blobs\n"), "newer"),
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
    for n in 0..MAX_REMEMBERED {
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
fn processes_that_start_at_once_on_a_new_cache_empty_none_of_it() {
    for _ in 0..30 {
        let directory = Directory::new("at-once");
        fs::remove_dir_all(&directory.0).unwrap();
        let bytes = |n: u32| n.to_string().into_bytes();
        thread::scope(|scope| {
            for n in 0..8 {
                let root = directory.0.clone();
                scope.spawn(move || {
                    let cache = Cache::new(Some(root), 0);
                    cache.keep_document(SOURCE, Digest::of(&bytes(n)), &bytes(n));
                    assert!(!cache.has_warned.load(Ordering::Relaxed));
                });
            }
        });
        let cache = Cache::new(Some(directory.0.clone()), 0);
        for n in 0..8 {
            assert!(cache.has_document(SOURCE, Digest::of(&bytes(n))), "{n}");
        }
    }
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
fn what_is_larger_than_its_quota_leaves_the_others_there() {
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
fn images_make_room_for_layers_up_to_half_of_the_cache() {
    let size = 10 << 20;
    // Each file by its folder and name, with its MiB and the days since it was used.
    for (files, newest, expected, why) in [
        (
            "made/a=4=2 made/b=4=1 layers/c=2=3",
            None,
            "layers/c made/a made/b",
            "all fit",
        ),
        (
            "made/a=4=2 made/b=4=1 layers/c=4=3",
            None,
            "layers/c made/b",
            "an image goes, though it was used after the layer",
        ),
        (
            "made/a=4=1 layers/b=3=3 layers/c=3=2 layers/d=2=4",
            None,
            "layers/c layers/d made/a",
            "layers have no more than half; a smaller one fills it",
        ),
        (
            "made/a=8=1 layers/b=1=3 layers/c=3=2",
            Some("a"),
            "layers/b made/a",
            "layers have no more than the newest image leaves",
        ),
        (
            "made/a=12=9 made/b=1=1 layers/c=1=2",
            Some("a"),
            "made/a",
            "the newest image stays whatever its size",
        ),
        (
            "made/a=1=1 layers/b=11=2",
            None,
            "made/a",
            "a layer larger than the cache",
        ),
    ] {
        let directory = Directory::new("images");
        for file in files.split(' ') {
            let mut parts = file.split('=');
            let path = directory.0.join(parts.next().unwrap());
            let mut number = || parts.next().unwrap().parse::<u64>().unwrap();
            lay(&path, number() << 20, number());
        }
        Cache::new(Some(directory.0.clone()), u64::MAX).make_room_of(size, newest);
        let folders = [LAYERS, MADE].map(|folder| directory.0.join(folder));
        let kept = folders.iter().flat_map(|folder| all(folder).into_keys());
        let mut kept: Vec<_> = kept
            .map(|path| path.strip_prefix(&directory.0).unwrap().to_owned())
            .collect();
        kept.sort();
        let expected: Vec<_> = expected.split(' ').map(PathBuf::from).collect();
        assert_eq!(kept, expected, "{why}");
    }
}

#[test]
fn a_layer_is_kept_where_there_is_room_for_it() {
    let directory = Directory::new("layers");
    let cache = |size| Cache::new(Some(directory.0.clone()), size);
    if cache(0).is_in_memory() {
        return;
    }
    for (size, layer, is_kept) in [(0, 1, false), (10, 5, true), (10, 6, false), (1, 0, true)] {
        assert_eq!(cache(size).keeps_layer(layer), is_kept, "{layer} of {size}");
    }
    assert!(!Cache::new(None, 10).keeps_layer(1));

    let (cache, digest) = (cache(1 << 20), Digest::of(b"layer"));
    let begun = cache.begin_large().unwrap();
    begun.write_all(b"layer").unwrap();
    cache.keep_layer(&begun, digest);
    let read = |file: File| io::read_to_string(file).unwrap();
    assert_eq!(cache.layer(digest, 5).map(read).as_deref(), Some("layer"));
    assert!(cache.layer(digest, 6).is_none(), "a manifest is wrong");
    assert!(cache.layer(digest, 5).is_some(), "and harms no other");
    assert!(!cache.drop_layers(&[(digest, 5)]));
    assert!(cache.drop_layers(&[(Digest::of(b"other"), 5)]));
    assert!(!cache.has_layer(digest, 5));
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
