//! `$CACHE_DIRECTORY` saves requests, and a damaged or missing cache does no harm.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::content::versions;
use crate::disk::Disk;
use crate::registry::{IS_IT_SIGNED, Registry, count};
use crate::service::{ANEW, Folder, NO_CACHE, Setup, later};

#[test]
fn a_manifest_is_fetched_once_and_then_only_its_tag_is_asked() {
    let (registry, listing) = Registry::with_versions(10);
    let cache = Folder::new();
    let run = || {
        let service = Setup::of(&registry).cache(&cache).start();
        assert_eq!(service.listing(), listing);
        registry.take_requests()
    };
    let cold = run();
    assert_eq!(count(&cold, "GET /v2/hello/manifests/v"), 10, "{cold:#?}");
    let warm = run();
    assert_eq!(count(&warm, "GET /v2/hello/manifests/"), 0, "{warm:#?}");
    assert_eq!(count(&warm, "HEAD /v2/hello/manifests/"), 10, "{warm:#?}");
}

#[test]
fn a_tag_that_moved_is_seen_with_a_warm_cache() {
    let registry = Registry::with_hello(versions(2).0);
    let cache = Folder::new();
    let listing = || Setup::of(&registry).cache(&cache).start().listing();
    assert_eq!(listing(), versions(2).1);
    registry.change(|hello| hello.oras_push("v1", "hello.raw", b"moved"));
    assert_ne!(listing(), versions(2).1);
    registry.change(|hello| hello.oras_push("v1", "hello.raw", b"image 1"));
    assert_eq!(listing(), versions(2).1);
}

#[test]
fn without_directories_from_systemd_those_of_the_user_are_used() {
    let registry = Registry::with_hello(versions(2).0);
    let run = |variables: &[(&str, &Path)]| {
        let mut setup = Setup::of(&registry).env("STATE_DIRECTORY", "");
        for (name, path) in variables {
            setup = setup.env(name, path);
        }
        assert_eq!(setup.start().listing(), versions(2).1);
    };
    let folder = Folder::new();
    let home = folder.path().join("home");
    let (cache, state) = (folder.path().join("cache"), folder.path().join("state"));
    run(&[("TMPDIR", folder.path())]);
    assert_eq!(files(folder.path()), Vec::<PathBuf>::new());
    run(&[("HOME", &home)]);
    assert!(!files(&home.join(".cache/sysext-oci-proxy")).is_empty());
    assert!(home.join(".local/state/sysext-oci-proxy").is_dir());
    fs::remove_dir_all(&home).unwrap();
    run(&[
        ("HOME", &home),
        ("XDG_CACHE_HOME", &cache),
        ("XDG_STATE_HOME", &state),
    ]);
    assert!(!files(&cache.join("sysext-oci-proxy")).is_empty());
    assert!(state.join("sysext-oci-proxy").is_dir() && !home.exists());
    // Where nothing can be, there is none.
    let file = folder.file("a-file", "");
    run(&[("HOME", &file)]);
}

#[test]
fn a_service_without_a_cache_directory_says_so_once() {
    let (registry, listing) = Registry::with_versions(2);
    let cache = Folder::new();
    let setup = || Setup::new(registry.settings() + ANEW);
    for (setup, expected, why) in [
        (setup(), 1, "none"),
        (setup().env("CACHE_DIRECTORY", ""), 1, "an empty name"),
        (setup().cache(&cache), 0, "one"),
    ] {
        let service = setup.start();
        for _ in 0..3 {
            assert_eq!(service.listing(), listing, "{why}");
            later();
        }
        let mut said = service.log.lines();
        said.retain(|line| line.contains("cache directory"));
        assert_eq!(said.len(), expected, "{why}: {said:?}");
        for line in said {
            assert!(line.starts_with(NO_CACHE), "{line}");
            for text in ["flattened are not offered", "$CACHE_DIRECTORY"] {
                assert!(line.contains(text), "{line}");
            }
        }
    }
}

#[test]
fn a_damaged_cache_is_fetched_again() {
    type Damage = fn(&[u8]) -> Vec<u8>;
    let damages: [(&str, Damage); 4] = [
        ("cut", |bytes| bytes[..bytes.len() / 2].to_vec()),
        ("empty", |_| Vec::new()),
        ("another byte", |bytes| {
            let mut bytes = bytes.to_vec();
            let middle = bytes.len() / 2;
            // A file that is locked has none.
            bytes
                .iter_mut()
                .skip(middle)
                .take(1)
                .for_each(|byte| *byte ^= 1);
            bytes
        }),
        ("longer", |bytes| [bytes, b"}"].concat()),
    ];
    for (why, damage) in damages {
        let (registry, listing) = Registry::with_versions(4);
        let cache = Folder::new();
        let service = || Setup::of(&registry).cache(&cache).start();
        assert_eq!(service().listing(), listing);
        let written = files(cache.path());
        assert!(written.len() >= 4, "{written:?}");
        for path in &written {
            fs::write(path, damage(&fs::read(path).unwrap())).unwrap();
        }
        registry.take_requests();
        assert_eq!(service().listing(), listing, "{why}");
        let mut requests = registry.take_requests();
        // The file of tags may be empty after the damage.
        requests.retain(|request| request != IS_IT_SIGNED);
        assert_eq!(count(&requests, "GET /v2/hello/manifests/"), 4, "{why}");
        // Mended, not only survived.
        assert_eq!(service().listing(), listing, "{why}");
        assert_eq!(
            count(&registry.take_requests(), "GET /v2/hello/manifests/"),
            0,
            "{why}"
        );
    }
}

#[test]
fn files_of_others_in_the_cache_directory_do_no_harm() {
    let (registry, listing) = Registry::with_versions(2);
    let cache = Folder::new();
    let service = || Setup::of(&registry).cache(&cache).start();
    assert_eq!(service().listing(), listing);
    // Where a manifest was there is a folder now.
    for path in files(cache.path()) {
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
    }
    assert_eq!(service().listing(), listing);
}

#[test]
fn a_kill_while_the_cache_is_written_loses_at_most_work() {
    let (registry, listing) = Registry::with_versions(30);
    let cache = Folder::new();
    let start = || Setup::of(&registry).cache(&cache).start();
    for milliseconds in [1, 4, 8, 12, 16, 20, 24, 30, 40, 60] {
        start().kill_while_listing(Duration::from_millis(milliseconds));
        assert_eq!(start().listing(), listing, "killed after {milliseconds} ms");
        if milliseconds % 8 == 0 {
            files(cache.path())
                .iter()
                .for_each(|path| fs::remove_file(path).unwrap());
        }
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_one_warning() {
    let folder = Folder::new();
    let file = folder.file("a-file", "");
    for unusable in [Path::new("/proc"), &file, &folder.path().join("missing/a")] {
        let (registry, listing) = Registry::with_versions(5);
        let service = Setup::new(registry.settings() + ANEW)
            .env("CACHE_DIRECTORY", unusable)
            .start();
        for _ in 0..3 {
            later();
            assert_eq!(service.listing(), listing);
        }
        let path = unusable.to_str().unwrap();
        let created = unusable.is_dir() && unusable != Path::new("/proc");
        if !created {
            let warnings = service.log.with(&[path]);
            assert_eq!(warnings.len(), 1, "{:?}", service.log.lines());
        }
    }
}

#[test]
fn a_full_disk_is_one_warning() {
    let Some(disk) = Disk::new(64) else { return };
    let left = vec![0; 64 << 10];
    fs::write(disk.path().join("filling"), left).unwrap();
    let (registry, listing) = Registry::with_versions(5);
    let service = Setup::new(registry.settings() + ANEW)
        .cache_in(disk.path())
        .start();
    for _ in 0..3 {
        assert_eq!(service.listing(), listing);
        assert_eq!(service.whole("/hello/hello-v1.raw"), b"image 1");
        later();
    }
    let warning = service.log.one_trouble();
    let path = disk.path().to_str().unwrap();
    for text in [path, "going on without it", "No space left on device"] {
        assert!(warning.contains(text), "{warning}");
    }
    drop(service);
    assert_eq!(files(&disk.path().join("tmp")), Vec::<PathBuf>::new());
}

#[test]
fn a_damaged_cache_that_is_read_only_is_one_warning() {
    let Some(disk) = Disk::new(1024) else { return };
    let (registry, listing) = Registry::with_versions(5);
    let setup = || Setup::new(registry.settings() + ANEW).cache_in(disk.path());
    assert_eq!(setup().start().listing(), listing);
    for path in files(disk.path()) {
        fs::write(path, "damaged").unwrap();
    }
    disk.make_read_only();
    let service = setup().start();
    for _ in 0..3 {
        assert_eq!(service.listing(), listing);
        later();
    }
    let warning = service.log.one_trouble();
    assert!(warning.contains("Read-only file system"), "{warning}");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files(&path)),
            path => found.push(path),
        }
    }
    found
}
