//! Container images of several layers: what is made of them, when, and how often.
//!
//! Which files come out is compared with another program's in `tests/e2e/flatten`.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use crate::client::Connection;
use crate::content::{OCI_TAR, Repository, digest, line, noise, sha256, versions};
use crate::disk::Disk;
use crate::images::{
    header, layer, names, push, push_described, sums, unpacked, with_record, zstd_of,
};
use crate::registry::{Fault, Registry, count};
use crate::service::{ANEW, Folder, Service, Setup, X86, command, eventually, later, output};

/// Images `v0`, `v1`, … of two layers each, the lower one the same in all.
fn images(count: usize) -> Repository {
    let mut hello = Repository::default();
    let lower = layer(&[("etc/lower", &noise(100_000)), ("version", b"none")]);
    for n in 0..count {
        let version = format!("version {n}");
        let upper = layer(&[("version", version.as_bytes())]);
        push(&mut hello, &format!("v{n}"), &[&lower, &upper]);
    }
    hello
}

pub fn settings(registry: &Registry, more: &str) -> String {
    registry.settings() + more + X86
}

/// The files in one part of a cache directory.
pub fn cached(cache: &Folder, part: &str) -> Vec<String> {
    let entries = fs::read_dir(cache.path().join(part));
    let mut names: Vec<_> = entries
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The name of each flattened file is its digest.
fn check_made(cache: &Folder) {
    for name in cached(cache, "made") {
        let bytes = fs::read(cache.path().join("made").join(&name)).unwrap();
        assert_eq!(sha256(&bytes), name);
    }
}

#[test]
fn a_listing_makes_the_newest_versions_of_an_image() {
    let registry = Registry::with_hello(images(12));
    for (flatten, expected) in [
        // By version: 10 comes after 9.
        ("", vec!["v10", "v11", "v9"]),
        ("flatten = 1\n", vec!["v11"]),
        ("flatten = 0\n", vec![]),
    ] {
        let settings = settings(&registry, "") + flatten;
        let service = Setup::new(settings).own_cache().start();
        let listing = service.listing();
        let expected: Vec<_> = (expected.iter())
            .map(|version| format!("hello-{version}.tar.gz"))
            .collect();
        assert_eq!(names(&listing), expected, "{flatten}");
        for (name, sum) in sums(&listing) {
            let packed = service.whole(&format!("/hello/{name}"));
            assert_eq!(sha256(&packed), sum, "{name}");
            let version = name.replace("hello-v", "version ").replace(".tar.gz", "");
            let files = unpacked(&packed);
            assert_eq!(files["version"], version.as_bytes(), "{name}");
            let paths: Vec<_> = files.keys().map(String::as_str).collect();
            assert_eq!(paths, ["etc/", "etc/lower", "version"]);
        }
        let left_out = service
            .log
            .with(&["v3 skipped: ", "has to be flattened", "'flatten'"]);
        assert_eq!(left_out.len(), 1, "{left_out:?}");
    }
}

#[test]
fn with_a_suffix_the_one_file_that_ends_so_is_taken_out_of_an_image() {
    let image = noise(300_000);
    let one = layer(&[("disk/os.IMG", &image), ("usr/b", b"else")]);
    let mut hello = Repository::default();
    push(&mut hello, "v1", &[&one]);
    // A later layer has the newer one; the lower one's is gone.
    push(
        &mut hello,
        "v2",
        &[&one, &layer(&[("disk/os.IMG", b"newer")])],
    );
    push(
        &mut hello,
        "v3",
        &[&layer(&[("a.raw", b"one"), (".img", b"no name")])],
    );
    push(
        &mut hello,
        "v4",
        &[&layer(&[("a.img", b"one"), ("b.img", b"two")])],
    );
    let registry = Registry::with_hello(hello);
    let cache = Folder::new();
    let settings = settings(
        &registry,
        "[repository.hello]\nsuffix = \".img\"\nflatten = 9\n",
    );
    let settings = settings.replace(X86, "architectures = [\"x86-64\"]\n");
    let service = Setup::new(&settings).cache(&cache).start();
    let expected = [line(&image, "hello-v1.img"), line(b"newer", "hello-v2.img")];
    assert_eq!(service.listing(), expected.concat());
    assert_eq!(service.whole("/hello/hello-v1.img"), image);
    assert_eq!(service.whole("/hello/hello-v2.img"), b"newer");
    assert_eq!(service.whole("/hello:v2/hello-v2.img"), b"newer");
    for (tag, reason) in [
        ("v3", "the image has no file whose name ends in .img"),
        (
            "v4",
            "2 files whose names end in .img, expected one: a.img, b.img",
        ),
    ] {
        let log = service.log.with(&[&format!("tag {tag} skipped"), reason]);
        assert_eq!(log.len(), 1, "{tag}: {:?}", service.log.lines());
    }
    check_made(&cache);
    drop(service);
    // The next process knows the flattened image. It only asks whether the layers exist.
    registry.take_requests();
    let service = Setup::new(&settings).cache(&cache).start();
    assert_eq!(service.listing(), expected.concat());
    let requests = registry.take_requests();
    assert_eq!(count(&requests, "GET /v2/hello/blobs"), 0, "{requests:?}");
}

#[test]
fn files_after_one_that_is_all_hole_keep_their_bytes() {
    // GNU tar made it: 12 KiB of hole, then text, then a hole with one byte in it, then text.
    let sparse = include_bytes!("../fuzz/corpus/tar_layers/sparse_first");
    let mut hello = Repository::default();
    push(&mut hello, "v1", &[sparse, &layer(&[("e", b"e")])]);
    let registry = Registry::with_hello(hello);
    let service = Setup::new(settings(&registry, "")).own_cache().start();
    let numbers = |last: u32| -> Vec<u8> {
        let lines: String = (1..=last).map(|n| format!("{n}\n")).collect();
        lines.into_bytes()
    };
    let mut one_byte = vec![0; 9000];
    one_byte[5000] = b'x';
    let expected = [
        ("a-hole", vec![0; 12 << 10]),
        ("b", numbers(300)),
        ("c", one_byte),
        ("d", numbers(7)),
        ("e", b"e".to_vec()),
    ];
    assert_eq!(names(&service.listing()), ["hello-v1.tar.gz"]);
    let mut found = unpacked(&service.get("/hello/hello-v1.tar.gz").body);
    for (path, bytes) in expected {
        assert!(found.remove(path) == Some(bytes), "{path}");
    }
    assert!(found.is_empty(), "{:?}", found.keys());
}

#[test]
fn whoever_makes_it_in_whatever_order_the_bytes_are_the_same() {
    let hello = images(3);
    let folder = Folder::with_layout(&hello);
    let registry = Registry::with_hello(hello);
    let layout = folder.settings() + "architectures = [\"x86-64\"]\n";
    let mut found = Vec::new();
    for settings in [settings(&registry, ""), layout.clone(), layout] {
        let service = Setup::new(settings).own_cache().start();
        found.push(service.listing());
    }
    // Each client has a view of its own, which makes what it is of; so nobody waits for the listing.
    for first in 0..3 {
        let service = Setup::new(settings(&registry, "")).own_cache().start();
        thread::scope(|scope| {
            for n in 0..6 {
                let (service, tag) = (&service, format!("v{}", (first + n) % 3));
                scope.spawn(move || {
                    let view = service.get(&format!("/hello:{tag}/SHA256SUMS"));
                    assert_eq!(
                        (view.status, view.text().lines().count()),
                        (200, 1),
                        "{}",
                        view.text()
                    );
                });
                thread::sleep(Duration::from_millis(2));
            }
        });
        found.push(service.listing());
    }
    assert_eq!(names(&found[0]).len(), 3);
    assert!(
        found.iter().all(|listing| *listing == found[0]),
        "{found:#?}"
    );
}

#[test]
fn two_clients_at_once_have_it_made_once() {
    let hello = images(1);
    let registry = Registry::with_hello(hello.clone());
    registry.fault("/blobs/", Fault::Delay(Duration::from_millis(200)));
    let service = Setup::new(settings(&registry, ANEW)).own_cache().start();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(names(&service.listing()), ["hello-v0.tar.gz"]));
            thread::sleep(Duration::from_millis(30));
        }
    });
    let requests = registry.take_requests();
    // The config is never read: both blobs that were are layers.
    assert_eq!(count(&requests, "GET /v2/hello/blobs/"), 2, "{requests:?}");
}

#[test]
fn no_more_images_wait_than_may() {
    let registry = Registry::with_hello(images(40));
    registry.fault("/blobs/", Fault::Delay(Duration::from_millis(300)));
    let settings = settings(&registry, ANEW) + "flatten = 40\n";
    let service = Setup::new(settings).own_cache().start();
    let first = names(&service.listing());
    // The newest were there first.
    assert_eq!(first.len(), 16, "{first:?}");
    let newest = (24..40).map(|n| format!("hello-v{n}.tar.gz"));
    assert_eq!(first, newest.collect::<Vec<_>>());
    let left_out = service.log.with(&["skipped: ", "still being flattened"]);
    assert_eq!(left_out.len(), 24, "{left_out:?}");
    registry.behave();
    eventually("all are listed", || names(&service.listing()).len() == 40);
}

#[test]
fn what_it_is_stays_known_when_the_file_is_gone() {
    let mut hello = Repository::default();
    for n in 0..3 {
        let (one, other) = (noise(400_000 + n), noise(300_000 + n));
        push(
            &mut hello,
            &format!("v{n}"),
            &[&layer(&[("one", &one)]), &layer(&[("other", &other)])],
        );
    }
    let registry = Registry::with_hello(hello);
    let cache = Folder::new();
    let settings = settings(&registry, "cache-size = \"1M\"\n");
    let start = || Setup::new(settings.clone()).cache(&cache).start();
    let service = start();
    let listing = service.listing();
    assert_eq!(names(&listing).len(), 3);
    assert_eq!(cached(&cache, "made").len(), 1, "there is room for one");
    drop(service);
    registry.take_requests();

    let service = start();
    assert_eq!(service.listing(), listing);
    assert_eq!(count(&registry.take_requests(), "/blobs/"), 0);
    for (name, sum) in sums(&listing) {
        let packed = service.whole(&format!("/hello/{name}"));
        assert_eq!(sha256(&packed), sum, "{name}");
        assert_eq!(cached(&cache, "made"), [sum]);
    }
    // The one that was made last is still there.
    let requests = registry.take_requests();
    assert!(
        (4..=6).contains(&count(&requests, "GET /v2/hello/blobs/")),
        "{requests:?}"
    );
}

#[test]
fn a_made_file_that_is_damaged_is_made_again() {
    let registry = Registry::with_hello(images(1));
    let cache = Folder::new();
    let start = || Setup::new(settings(&registry, "")).cache(&cache).start();
    let listing = start().listing();
    let (name, sum) = sums(&listing).pop_first().unwrap();
    let path = cache.path().join("made").join(&sum);
    let good = fs::read(&path).unwrap();
    let mut other = good.clone();
    other[5000] ^= 1;
    for damage in [&b""[..], &good[..good.len() - 1], &other] {
        fs::write(&path, damage).unwrap();
        let packed = start().whole(&format!("/hello/{name}"));
        assert!(packed == good, "{} bytes", damage.len());
    }
    // A damaged record of a digest is not used, either.
    let sums = cached(&cache, "sums");
    assert_eq!(sums.len(), 1);
    let path = cache.path().join("sums").join(&sums[0]);
    let text = fs::read_to_string(&path).unwrap();
    for damage in ["", "{}", &text[1..], &text.replace(&sum, &"0".repeat(64))] {
        fs::write(&path, damage).unwrap();
        assert_eq!(start().listing(), listing, "{damage:?}");
    }
}

#[test]
fn without_a_cache_directory_the_reason_says_so() {
    let registry = Registry::with_hello(images(1));
    let service = Service::of(&registry);
    assert_eq!(names(&service.listing()), [""; 0]);
    let left_out = service.log.with(&["v0 skipped: ", "CacheDirectory="]);
    assert_eq!(left_out.len(), 1, "{:?}", service.log.lines());
}

/// The files of a listing that waited for nothing: a busy machine may need longer than one listing does.
fn settled(service: &Service) -> Vec<String> {
    let unready = || {
        let lines = service.log.lines();
        let is_one = |line: &&String| line.contains("still being flattened");
        lines.iter().filter(is_one).count()
    };
    for _ in 0..5 {
        let before = unready();
        let found = names(&service.listing());
        if unready() == before {
            return found;
        }
        later();
    }
    panic!("it never ends");
}

/// Each is left out with the digest of the layer and the path, at no great cost, and no other version suffers.
#[test]
fn a_layer_that_is_made_to_harm_is_refused_with_its_path() {
    use tar::EntryType::{Directory, Link, Regular, Symlink, XGlobalHeader, XHeader};
    let gzip = |bytes: &[u8]| {
        let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
        packer.write_all(bytes).unwrap();
        packer.finish().unwrap()
    };
    let to = |kind, name: &[u8], target: &[u8]| {
        let mut header = tar::Header::from_byte_slice(&header(kind, name, 0)).clone();
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target);
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    let gib = 1 << 13;
    let deep = with_record("path", "d/".repeat(2000).as_bytes());
    let deep: Vec<_> = (0..100)
        .flat_map(|n| {
            let path = format!("{n}/{}f", "d/".repeat(2000));
            with_record("path", path.as_bytes())
        })
        .chain(deep)
        .collect();
    // Small ones, which take much more in memory than in the archive.
    let xattrs: Vec<u8> = (0..40_000)
        .flat_map(|n| format!("24 SCHILY.xattr.{n:05}=x\n").into_bytes())
        .collect();
    let mut with_xattrs = header(XHeader, b"x", xattrs.len() as u64);
    with_xattrs.extend(xattrs);
    with_xattrs.resize(with_xattrs.len().next_multiple_of(512), 0);
    with_xattrs.extend(header(Regular, b"file", 0));
    let entries = header(Directory, b"dir", 0).repeat(200_001);
    let long_names = with_record("path", "name/".repeat(800).as_bytes()).repeat(24_000);
    for (bad, path, why) in [
        (header(Regular, b"../escape", 0), "../escape", ".. in it"),
        (
            header(Regular, b"/a/../../etc/passwd", 0),
            "/a/../../etc/passwd",
            ".. in it",
        ),
        (
            [to(Symlink, b"s", b"../.."), header(Regular, b"s/a", 0)].concat(),
            "s/a",
            "out of the image",
        ),
        (
            to(Link, b"l", b"/etc/passwd"),
            "l",
            "a hard link to etc/passwd, which does not exist",
        ),
        (to(Link, b"l", b"../x"), "l", ".. in it"),
        (with_record("path", &[b'n'; 1 << 19]), "nnnn", "too long"),
        (
            with_record("comment", &vec![b'x'; 2 << 20]),
            "",
            "an extended header of 20971",
        ),
        (
            header(XHeader, b"x", 1 << 30),
            "",
            "an extended header of 1073741824 bytes",
        ),
        (header(Regular, b"zeros", 10 << 30), "zeros", "'cache-size'"),
        (deep, "d/d/d", "paths without an entry"),
        (
            zstd_of(&with_xattrs.repeat(20), 0),
            "",
            "the names and attributes in the image",
        ),
        (
            zstd::encode_all(&*entries, 1).unwrap(),
            "",
            "more than 200000 entries",
        ),
        (
            zstd::encode_all(&*long_names, 1).unwrap(),
            "",
            "the names and attributes in the image",
        ),
        (
            zstd_of(&header(Regular, b"zeros", 10 << 30), 10 * gib),
            "zeros",
            "'cache-size'",
        ),
        (
            zstd_of(&header(XGlobalHeader, b"g", 10 << 30), 10 * gib),
            "",
            "the layers unpack to more than",
        ),
        (
            zstd_of(&[0; 1024], 10 * gib),
            "",
            "the layers unpack to more than",
        ),
        (
            zstd_of(&[header(Regular, b"a", 0), b"x".repeat(512)].concat(), 0),
            "",
            "checksum of a header is wrong",
        ),
        (b"no archive".to_vec(), "", "cannot be unpacked"),
        (b"\xfd7zXZ\0 and so on".to_vec(), "", "it is packed with xz"),
        (gzip(&[0; 2048])[..30].to_vec(), "", "cannot be unpacked"),
    ] {
        let mut hello = images(1);
        let good = layer(&[("a", b"a")]);
        push(&mut hello, "v9", &[&good, &bad]);
        let registry = Registry::with_hello(hello);
        let cache = Folder::new();
        let settings = settings(
            &registry,
            &format!("cache-size = \"64M\"\nidle-timeout-sec = 600\n{ANEW}"),
        );
        let start = || Setup::new(settings.clone()).cache(&cache).start();
        let service = start();
        assert_eq!(settled(&service), ["hello-v0.tar.gz"], "{why}");
        let left_out = service
            .log
            .with(&["v9 skipped: ", &digest(&bad), path, why]);
        assert_eq!(
            left_out.len(),
            1,
            "{path}: {why}: {:?}",
            service.log.lines()
        );
        let memory = service.peak_memory();
        assert!(memory < 150, "{memory} MiB for {why}");
        // Neither this run nor the next one tries again.
        registry.take_requests();
        later();
        assert_eq!(names(&service.listing()), ["hello-v0.tar.gz"], "{why}");
        drop(service);
        let service = start();
        assert_eq!(names(&service.listing()), ["hello-v0.tar.gz"], "{why}");
        assert_eq!(count(&registry.take_requests(), "/blobs/"), 0, "{why}");
        let left_out = service
            .log
            .with(&["v9 skipped: ", &digest(&bad), path, why]);
        assert_eq!(
            left_out.len(),
            1,
            "{path}: {why}: {:?}",
            service.log.lines()
        );
        check_made(&cache);
        assert_eq!(cached(&cache, "tmp"), [""; 0], "{why}");
    }
}

/// So that a few KiB are not answered with hundreds of MiB.
#[test]
fn hard_links_take_no_more_room_for_the_xattrs_of_their_file() {
    use tar::EntryType::Link;
    let mut bytes = with_record("SCHILY.xattr.user.large", &[b'x'; 60_000]);
    for n in 0..300 {
        let name = format!("link-{n}");
        let mut link = tar::Header::from_byte_slice(&header(Link, name.as_bytes(), 0)).clone();
        link.set_link_name("file").unwrap();
        link.set_cksum();
        bytes.extend(link.as_bytes());
    }
    let mut hello = Repository::default();
    push(&mut hello, "v1", &[&bytes, &layer(&[("a", b"a")])]);
    let registry = Registry::with_hello(hello);
    let service = Setup::new(settings(&registry, "")).own_cache().start();
    assert_eq!(names(&service.listing()), ["hello-v1.tar.gz"]);
    let packed = service.get("/hello/hello-v1.tar.gz").body;
    assert_eq!(unpacked(&packed).len(), 302);
    assert!(packed.len() < 300_000, "{} bytes", packed.len());
}

#[test]
fn with_more_room_it_is_tried_again() {
    let mut hello = images(1);
    push(
        &mut hello,
        "v9",
        &[&layer(&[("a", &noise(2 << 20))]), &layer(&[])],
    );
    let registry = Registry::with_hello(hello);
    let cache = Folder::new();
    for (size, expected) in [("1M", 1), ("1M", 1), ("16M", 2), ("1M", 2)] {
        let settings = settings(&registry, &format!("cache-size = \"{size}\"\n"));
        let service = Setup::new(settings).cache(&cache).start();
        assert_eq!(names(&service.listing()).len(), expected, "{size}");
    }
}

#[test]
fn a_layer_that_is_said_to_be_without_end_is_not_fetched() {
    let mut hello = Repository::default();
    let mut layers = ["a", "b"].map(|name| {
        let bytes = layer(&[(name, b"in it")]);
        hello.blob(&format!("{OCI_TAR}+gzip"), &bytes)
    });
    let honest = layers.clone();
    layers[1]["size"] = json!(1_u64 << 62);
    push_described(&mut hello, "v2", &layers);
    let registry = Registry::with_hello(hello);
    let settings = settings(&registry, &format!("cache-size = \"1M\"\n{ANEW}"));
    let service = Setup::new(settings).own_cache().start();
    assert_eq!(names(&service.listing()), [""; 0]);
    let layer = layers[1]["digest"].as_str().unwrap();
    let why = "it has 4611686018427387904 bytes, at most 1074790400 are read";
    let left_out = service.log.with(&["v2 skipped: ", layer, why]);
    assert_eq!(left_out.len(), 1, "{:?}", service.log.lines());
    assert_eq!(count(&registry.take_requests(), "/blobs/"), 0);
    // It is one manifest's word, and says nothing of the same layers in another.
    registry.change(|hello| push_described(hello, "v1", &honest));
    later();
    assert_eq!(names(&service.listing()), ["hello-v1.tar.gz"]);
}

#[test]
fn what_another_program_refused_is_tried_again() {
    let mut hello = Repository::default();
    let bad = header(tar::EntryType::Regular, b"../escape", 0);
    push(&mut hello, "v9", &[&layer(&[("a", b"a")]), &bad]);
    let registry = Registry::with_hello(hello);
    let cache = Folder::new();
    let fetched = || {
        let service = Setup::new(settings(&registry, "")).cache(&cache).start();
        assert_eq!(names(&service.listing()), [""; 0]);
        count(&registry.take_requests(), "/blobs/")
    };
    assert_eq!((fetched(), fetched()), (2, 0));
    let key = cached(&cache, "sums").remove(0);
    let path = cache.path().join("sums").join(&key);
    let text = fs::read_to_string(&path).unwrap();
    let (_, json) = text.split_once('\n').unwrap();
    let mut said: serde_json::Value = serde_json::from_str(json).unwrap();
    // As it is it is believed; by another reader, or by none, it is not.
    for (reader, expected) in [(said["reader"].clone(), 0), (json!(0), 2), (json!(null), 2)] {
        said["reader"] = reader;
        let json = said.to_string();
        // The checksum in the file covers its path as well as its contents.
        let sum = sha256(format!("sums/{key}\n{json}").as_bytes());
        fs::write(&path, format!("{sum}\n{json}")).unwrap();
        assert_eq!((fetched(), fetched()), (expected, 0), "{json}");
    }
}

#[test]
fn a_layer_with_wrong_bytes_is_not_used_and_not_held_against_it() {
    let mut hello = Repository::default();
    let (one, other) = (layer(&[("a", b"a")]), layer(&[("b", b"b")]));
    push(&mut hello, "v1", &[&one, &other]);
    let registry = Registry::with_hello(hello);
    let wrong = header(tar::EntryType::Regular, b"../evil", 0);
    let cache = Folder::new();
    let service = Setup::new(settings(&registry, ANEW)).cache(&cache).start();
    for fault in [
        Fault::WrongByte,
        Fault::Body(wrong),
        Fault::Body(vec![0x1f, 0x8b]),
        Fault::Status(404),
    ] {
        registry.behave();
        registry.fault("/blobs/", fault.clone());
        later();
        assert_eq!(names(&service.listing()), [""; 0], "{fault:?}");
    }
    assert_eq!(cached(&cache, "sums"), [""; 0]);
    registry.behave();
    later();
    assert_eq!(names(&service.listing()), ["hello-v1.tar.gz"]);
}

/// An archive that is complete, and is refused for what is in it, and is not the layer.
#[test]
fn a_refusal_of_wrong_bytes_is_not_remembered() {
    // More than is read at once, so that the fault shows before the last bytes, and with them the digest.
    let data = noise(300_000);
    let mut other = header(tar::EntryType::Regular, b"b", data.len() as u64);
    other.extend(&data);
    other.resize(other.len().next_multiple_of(512) + 1024, 0);
    let mut wrong = header(tar::EntryType::Regular, b"../evil", 0);
    wrong.resize(other.len(), 0);
    let mut hello = Repository::default();
    push(&mut hello, "v1", &[&layer(&[("a", b"a")]), &other]);
    let folder = Folder::with_layout(&hello);
    let registry = Registry::with_hello(hello);
    registry.fault(digest(&other).leak(), Fault::Body(wrong.clone()));
    let cache = Folder::new();
    let service = Setup::new(settings(&registry, ANEW)).cache(&cache).start();
    assert_eq!(names(&service.listing()), [""; 0]);
    let left_out = service.log.with(&["v1 skipped: ", "wrong bytes"]);
    assert_eq!(left_out.len(), 1, "{:?}", service.log.lines());
    assert_eq!(cached(&cache, "sums"), [""; 0]);
    registry.behave();
    later();
    assert_eq!(names(&service.listing()), ["hello-v1.tar.gz"]);

    // The same of a layout, whose files others may change.
    let blob = folder.path().join("blobs/sha256").join(sha256(&other));
    fs::write(&blob, wrong).unwrap();
    let cache = Folder::new();
    let settings = ANEW.to_owned() + &folder.settings() + "architectures = [\"x86-64\"]\n";
    let service = Setup::new(settings).cache(&cache).start();
    assert_eq!(names(&service.listing()), [""; 0]);
    assert_eq!(cached(&cache, "sums"), [""; 0]);
    fs::write(&blob, other).unwrap();
    later();
    assert_eq!(names(&service.listing()), ["hello-v1.tar.gz"]);
}

#[test]
fn a_registry_that_fails_spoils_no_other_that_has_the_same_layers() {
    let (good, bad) = (Registry::with_hello(images(1)), Registry::start());
    bad.put("same", images(1));
    bad.fault("/blobs/", Fault::Delay(Duration::from_millis(1500)));
    bad.fault("/blobs/", Fault::Status(404));
    let allow = format!("allow = [\"{}\"]\n", bad.address);
    let service = Setup::new(settings(&good, &allow)).own_cache().start();
    thread::scope(|scope| {
        scope.spawn(|| service.get(&format!("/{}/same/SHA256SUMS", bad.address)));
        eventually("it is begun", || count(&bad.take_requests(), "/blobs/") > 0);
        assert_eq!(names(&service.listing()), ["hello-v0.tar.gz"]);
    });
}

#[test]
fn a_slow_registry_holds_up_no_other() {
    let (good, slow) = (Registry::with_hello(images(1)), Registry::start());
    let mut many = Repository::default();
    for n in 0..4 {
        let upper = layer(&[("upper", &noise(100_000 + n))]);
        push(
            &mut many,
            &format!("v{n}"),
            &[&layer(&[("a", b"a")]), &upper],
        );
    }
    slow.put("slow", many);
    slow.fault("/blobs/", Fault::Drip(1000, Duration::from_millis(200)));
    let allow = format!("allow = [\"{}\"]\n", slow.address);
    let service = Setup::new(settings(&good, &allow)).own_cache().start();
    let mut client = Connection::open(service.address);
    client.ask(&format!("/{}/slow/SHA256SUMS", slow.address));
    // Two of them are fetched, and no more.
    eventually("two are begun", || {
        service.log.with(&["slow:v", "flattening"]).len() == 2
    });
    let started = Instant::now();
    assert_eq!(names(&service.listing()), ["hello-v0.tar.gz"]);
    let took = started.elapsed();
    // Each of the slow ones takes 20 s.
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(service.log.with(&["slow:v", "flattening"]).len(), 2);
}

/// There is room for one file, and each request has its own made again.
#[test]
fn a_file_just_made_is_there_for_who_waited_for_it() {
    let mut hello = Repository::default();
    for n in 0..4 {
        let (one, other) = (noise(400_000 + n), noise(300_000 + n));
        push(
            &mut hello,
            &format!("v{n}"),
            &[&layer(&[("one", &one)]), &layer(&[("other", &other)])],
        );
    }
    let registry = Registry::with_hello(hello);
    let settings = settings(&registry, "cache-size = \"1M\"\n") + "flatten = 4\n";
    let service = Setup::new(settings).own_cache().start();
    let listing = sums(&service.listing());
    assert_eq!(listing.len(), 4);
    let end = Instant::now() + Duration::from_secs(5);
    thread::scope(|scope| {
        for first in 0..8 {
            let (service, listing) = (&service, &listing);
            scope.spawn(move || {
                for (name, sum) in listing.iter().cycle().skip(first) {
                    if Instant::now() > end {
                        break;
                    }
                    let packed = service.get(&format!("/hello/{name}"));
                    assert_eq!((packed.status, &sha256(&packed.body)), (200, sum), "{name}");
                }
            });
        }
    });
}

#[test]
fn wrong_bytes_of_one_layer_are_not_held_against_another() {
    let mut hello = Repository::default();
    let (lower, upper) = (
        layer(&[("a", &noise(100_000))]),
        layer(&[("b", &noise(300_000))]),
    );
    push(&mut hello, "v1", &[&lower, &upper]);
    let registry = Registry::with_hello(hello);
    // The layer takes almost all bytes that the files of the image may have. Its error is at the end.
    let mut wrong = header(tar::EntryType::Regular, b"large", (1 << 20) - 1000);
    wrong.resize(upper.len(), 0);
    registry.fault(digest(&upper).leak(), Fault::Body(wrong));
    registry.fault(
        digest(&lower).leak(),
        Fault::Delay(Duration::from_millis(300)),
    );
    let cache = Folder::new();
    let settings = settings(&registry, &format!("cache-size = \"1M\"\n{ANEW}"));
    let service = Setup::new(settings).cache(&cache).start();
    assert_eq!(names(&service.listing()), [""; 0]);
    let left_out = service.log.with(&["v1 skipped: ", &digest(&upper)]);
    assert_eq!(left_out.len(), 1, "{:?}", service.log.lines());
    assert_eq!(cached(&cache, "sums"), [""; 0]);
    registry.behave();
    later();
    assert_eq!(names(&service.listing()), ["hello-v1.tar.gz"]);
}

#[test]
fn a_layer_whose_connection_breaks_is_gone_on_with() {
    let registry = Registry::with_hello(images(1));
    let start = || Setup::new(settings(&registry, "")).own_cache().start();
    let expected = start().listing();
    registry.fault_times(3, "/blobs/", Fault::CutAfter(50));
    let service = start();
    assert_eq!(service.listing(), expected);
    assert!(
        !service
            .log
            .with(&["layer sha256:", "going on from there"])
            .is_empty()
    );
}

#[test]
fn it_is_finished_when_nobody_waits_any_more_and_the_service_stays_for_it() {
    let registry = Registry::with_hello(images(1));
    registry.fault("/blobs/", Fault::Drip(10_000, Duration::from_millis(100)));
    let cache = Folder::new();
    let idle = settings(&registry, "idle-timeout-sec = 0.2\n");
    let mut service = Setup::new(idle).cache(&cache).start();
    let mut client = Connection::open(service.address);
    client.ask("/hello/SHA256SUMS");
    eventually("it is begun", || !cached(&cache, "tmp").is_empty());
    drop(client);
    thread::sleep(Duration::from_millis(500));
    assert!(service.is_running(), "it left with work to do");
    let status = service.wait(Duration::from_secs(10)).expect("it stays");
    assert_eq!(status.code(), Some(0));
    assert_eq!(cached(&cache, "made").len(), 1);
    check_made(&cache);
}

#[test]
fn who_leaves_while_a_file_is_made_again_holds_no_place() {
    let registry = Registry::with_hello(images(1));
    let cache = Folder::new();
    let settings = settings(&registry, "");
    let service = Setup::new(settings).cache(&cache).start();
    let name = names(&service.listing()).remove(0);
    for part in ["made", "layers"] {
        fs::remove_dir_all(cache.path().join(part)).unwrap();
    }
    registry.fault("/blobs/", Fault::Drip(10_000, Duration::from_millis(300)));
    let mut client = Connection::open(service.address);
    client.ask(&format!("/hello/{name}"));
    eventually("it is begun", || !cached(&cache, "tmp").is_empty());
    drop(client);
    let left = Instant::now();
    let lines = service.log.with(&["client went away"]);
    assert_eq!(lines.len(), 1, "{:?}", service.log.lines());
    let took = left.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(cached(&cache, "made").is_empty(), "it was made before");
}

#[test]
fn a_kill_while_it_is_made_leaves_nothing_wrong() {
    let registry = Registry::with_hello(images(2));
    let setup = || Setup::new(settings(&registry, ""));
    let expected = setup().own_cache().start().listing();
    registry.fault("/blobs/", Fault::Drip(20_000, Duration::from_millis(5)));
    let cache = Folder::new();
    let start = || setup().cache(&cache).start();
    for milliseconds in [5, 10, 15, 20, 25, 30, 40, 50, 60, 80] {
        start().kill_while_listing(Duration::from_millis(milliseconds));
        check_made(&cache);
        assert_eq!(
            start().listing(),
            expected,
            "killed after {milliseconds} ms"
        );
        check_made(&cache);
        if milliseconds % 10 == 0 {
            for part in ["made", "sums", "layers"] {
                fs::remove_dir_all(cache.path().join(part)).unwrap();
            }
        }
    }
}

/// Two services, as when one leaves and the next one starts, and a command that lists the same.
#[test]
fn processes_that_share_a_cache_do_each_other_no_harm() {
    let mut hello = Repository::default();
    let lower = layer(&[("etc/lower", &noise(100_000))]);
    for n in 0..3 {
        let upper = layer(&[("upper", &noise(300_000 + n))]);
        push(&mut hello, &format!("v{n}"), &[&lower, &upper]);
    }
    let registry = Registry::with_hello(hello);
    let settings = settings(&registry, &format!("cache-size = \"1M\"\n{ANEW}"));
    let expected = Setup::new(settings.clone()).own_cache().start().listing();
    assert_eq!(names(&expected).len(), 3);
    registry.fault("/blobs/", Fault::Drip(50_000, Duration::from_millis(10)));
    let (cache, folder) = (Folder::new(), Folder::new());
    let config = folder.file("config.toml", &settings);
    let list = || {
        let arguments = [
            "list",
            "--json",
            "--config",
            config.to_str().unwrap(),
            "hello",
        ];
        let mut command = command(&arguments);
        command.env("CACHE_DIRECTORY", cache.path());
        let output = output(command);
        String::from_utf8(output.stdout).unwrap()
    };
    // Before anything is there, and when there is not room for all.
    for round in 0..3 {
        let services = [0, 1].map(|_| Setup::new(settings.clone()).cache(&cache).start());
        thread::scope(|scope| {
            for service in &services {
                scope.spawn(|| {
                    assert_eq!(service.listing(), expected, "round {round}");
                    for (name, sum) in sums(&expected) {
                        let packed = service.whole(&format!("/hello/{name}"));
                        assert_eq!(sha256(&packed), sum, "round {round}: {name}");
                    }
                });
            }
            scope.spawn(|| {
                let listed = list();
                for (name, sum) in sums(&expected) {
                    let is_there = listed.contains(&name) && listed.contains(&sum);
                    assert!(is_there, "round {round}: {name}: {listed}");
                }
            });
        });
        assert_eq!(cached(&cache, "tmp"), [""; 0], "round {round}");
        check_made(&cache);
        let size = |part: &str| -> u64 {
            let path = |name: &String| cache.path().join(part).join(name);
            let files = cached(&cache, part);
            files
                .iter()
                .map(|name| path(name).metadata().unwrap().len())
                .sum()
        };
        let (made, layers) = (size("made"), size("layers"));
        assert!(
            made + layers <= 1 << 20,
            "round {round}: {made} and {layers} bytes"
        );
        for service in services {
            assert_eq!(service.log.trouble_so_far(), [""; 0], "round {round}");
        }
        if round == 0 {
            fs::remove_dir_all(cache.path().join("sums")).unwrap();
        }
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_the_reason() {
    let mut hello = images(1);
    hello.oras_push("v1", "hello.raw", b"image");
    let registry = Registry::with_hello(hello);
    for unusable in ["/proc", "/dev/null"] {
        let service = Setup::new(settings(&registry, ""))
            .env("CACHE_DIRECTORY", Path::new(unusable))
            .start();
        assert_eq!(names(&service.listing()), ["hello-v1.raw"]);
        let left_out = service.log.with(&["v0 skipped: ", unusable]);
        assert_eq!(left_out.len(), 1, "{:?}", service.log.lines());
    }
}

#[test]
fn a_failure_of_the_disk_is_not_repeated_with_every_listing() {
    let registry = Registry::with_hello(images(1));
    let cache = Folder::of_cache();
    // The flattened file cannot be stored. That shows at the end of the work.
    cache.file("made", "no directory");
    let start = || Setup::new(settings(&registry, ANEW)).cache(&cache).start();
    let service = start();
    for expected in [2, 0, 0] {
        assert_eq!(names(&service.listing()), [""; 0]);
        let requests = registry.take_requests();
        assert_eq!(count(&requests, "/blobs/"), expected, "{requests:?}");
        later();
    }
    let left_out = service
        .log
        .with(&["v0 skipped: ", "cannot be read or written"]);
    assert_eq!(left_out.len(), 1, "{:?}", service.log.lines());
    drop(service);
    fs::remove_file(cache.path().join("made")).unwrap();
    assert_eq!(names(&start().listing()), ["hello-v0.tar.gz"]);
}

#[test]
fn a_cache_in_memory_takes_no_large_image() {
    let Some(disk) = Disk::new(256 << 10) else {
        return;
    };
    let mut hello = images(1);
    let small = layer(&[("small", b"small")]);
    let large = header(tar::EntryType::Regular, b"large", 30 << 20);
    push(&mut hello, "v1", &[&small, &large]);
    let mut layers = [&small, &large].map(|bytes| hello.blob(&format!("{OCI_TAR}+gzip"), bytes));
    layers[0]["size"] = json!(40 << 20);
    push_described(&mut hello, "v2", &layers);
    let registry = Registry::with_hello(hello);
    let setup = || Setup::new(settings(&registry, ""));
    let service = setup().cache_in(disk.path()).start();
    assert_eq!(names(&service.listing()), ["hello-v0.tar.gz"]);
    for texts in [
        [
            "v1 skipped",
            "files of the image take more than 23068672 bytes",
        ],
        [
            "v2 skipped",
            "the cache is in memory, where at most 34603008 are fetched",
        ],
    ] {
        let left_out = service.log.with(&texts);
        assert_eq!(left_out.len(), 1, "{:?}", service.log.lines());
    }
}

#[test]
fn a_full_disk_is_tried_again_once_it_has_room() {
    let Some(disk) = Disk::new(64) else { return };
    let registry = Registry::with_hello(images(1));
    let service = Setup::new(settings(&registry, ANEW))
        .cache_in(disk.path())
        .start();
    for expected in [2, 0] {
        assert_eq!(names(&service.listing()), [""; 0]);
        let requests = registry.take_requests();
        assert_eq!(count(&requests, "/blobs/"), expected, "{requests:?}");
        later();
    }
    let left_out = service
        .log
        .with(&["v0 skipped: ", "No space left on device"]);
    assert_eq!(left_out.len(), 1, "{:?}", service.log.lines());
    disk.resize(16 << 10);
    assert_eq!(names(&service.listing()), ["hello-v0.tar.gz"]);
}

#[test]
fn a_cache_that_is_emptied_while_a_file_is_made_is_no_failure_for_long() {
    let registry = Registry::with_hello(images(1));
    let cache = Folder::new();
    registry.fault("/blobs/", Fault::Drip(10_000, Duration::from_millis(50)));
    let service = Setup::new(settings(&registry, ANEW)).cache(&cache).start();
    let mut client = Connection::open(service.address);
    client.ask("/hello/SHA256SUMS");
    // Before that, documents are written there.
    eventually("it is begun", || {
        !service.log.with(&["v0: flattening"]).is_empty() && !cached(&cache, "tmp").is_empty()
    });
    for entry in fs::read_dir(cache.path()).unwrap() {
        let path = entry.unwrap().path();
        let removed = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
        removed.unwrap();
    }
    let response = client.receive("GET").unwrap();
    assert_eq!(names(response.text()), [""; 0]);
    assert_eq!(service.log.with(&["v0 skipped: "]).len(), 1);
    registry.behave();
    later();
    assert_eq!(names(&service.listing()), ["hello-v0.tar.gz"]);
    check_made(&cache);
}

#[test]
fn a_cache_where_nothing_can_be_begun_is_tried_again_each_time() {
    let registry = Registry::with_hello(images(1));
    let cache = Folder::of_cache();
    let tmp = cache.file("tmp", "no directory");
    let service = Setup::new(settings(&registry, ANEW)).cache(&cache).start();
    assert_eq!(names(&service.listing()), [""; 0]);
    assert_eq!(count(&registry.take_requests(), "/blobs/"), 0);
    fs::remove_file(tmp).unwrap();
    later();
    assert_eq!(names(&service.listing()), ["hello-v0.tar.gz"]);
}

#[test]
fn what_was_made_stays_known_where_that_cannot_be_written() {
    let registry = Registry::with_hello(images(1));
    let cache = Folder::of_cache();
    cache.file("sums", "no directory");
    let service = Setup::new(settings(&registry, ANEW)).cache(&cache).start();
    let first = service.listing();
    for expected in [2, 0, 0] {
        assert_eq!(service.listing(), first);
        let requests = registry.take_requests();
        assert_eq!(count(&requests, "/blobs/"), expected, "{requests:?}");
        later();
    }
    let (name, sum) = sums(&first).pop_first().unwrap();
    assert_eq!(sha256(&service.whole(&format!("/hello/{name}"))), sum);
    let requests = registry.take_requests();
    assert_eq!(count(&requests, "GET /v2/hello/blobs/"), 0, "{requests:?}");
    let warning = service.log.one_trouble();
    assert!(warning.contains("cannot be written"), "{warning}");
}

/// Images of one gzip layer each: `v1`, `v2` and `v4` are clean, `v3` has a whiteout in it.
fn images_of_one_layer() -> Repository {
    let mut hello = Repository::default();
    for n in 1..=4 {
        let bytes = noise(100_000 + n);
        let mut files: Vec<(&str, &[u8])> = vec![("usr/tool", &bytes)];
        if n == 3 {
            files.push(("usr/.wh.old", b""));
        }
        push(&mut hello, &format!("v{n}"), &[&layer(&files)]);
    }
    hello
}

#[test]
fn the_newest_images_of_one_layer_are_read_before_they_are_listed() {
    let hello = images_of_one_layer();
    let folder = Folder::with_layout(&hello);
    let registry = Registry::with_hello(hello);
    let layout = folder.settings() + "architectures = [\"x86-64\"]\n";
    let cache = Folder::new();
    let start = || Setup::new(settings(&registry, "")).cache(&cache).start();
    let service = start();
    let listing = sums(&service.listing());
    assert_eq!(listing.len(), 4, "{listing:?}");
    // Three of them were read, none twice.
    assert_eq!(count(&registry.take_requests(), "GET /v2/hello/blobs/"), 3);
    let made = Setup::new(layout).own_cache().start().listing();
    assert_eq!(sums(&made), listing, "a layout has the same");
    for (name, sum) in &listing {
        let packed = service.whole(&format!("/hello/{name}"));
        assert_eq!(sha256(&packed), *sum, "{name}");
        let files = unpacked(&packed);
        let paths: Vec<_> = files.keys().filter(|path| *path != "usr/").collect();
        assert_eq!(paths, ["usr/tool"], "{name}");
        // Verdicts of layers are kept like flattened images.
        let expected = usize::from(name == "hello-v1.tar.gz");
        let requests = registry.take_requests();
        let found = count(&requests, "GET /v2/hello/blobs/");
        assert_eq!(found, expected, "{name}: {requests:?}");
    }
    drop(service);
    assert_eq!(sums(&start().listing()), listing, "the next run knows it");
    assert_eq!(count(&registry.take_requests(), "/blobs/"), 0);
}

#[test]
fn an_older_image_of_one_layer_is_read_while_it_is_sent() {
    let registry = Registry::with_hello(images_of_one_layer());
    let settings = settings(&registry, ANEW) + "flatten = 0\n";
    let service = Setup::new(settings).own_cache().start();
    let first = sums(&service.listing());
    assert_eq!(first.len(), 4, "{first:?}");
    assert_eq!(count(&registry.take_requests(), "/blobs/"), 0);
    for (name, sum) in &first {
        let response = service.get(&format!("/hello/{name}"));
        let is_right = response.status == 200 && response.whole && sha256(&response.body) == *sum;
        assert_eq!(is_right, name != "hello-v3.tar.gz", "{name}");
    }
    // The next listing has the file that is made of it.
    eventually("it is made", || {
        let now = sums(&service.listing());
        now.len() == 4 && now != first
    });
    let now = sums(&service.listing());
    for (name, sum) in &now {
        let packed = service.whole(&format!("/hello/{name}"));
        assert_eq!(sha256(&packed), *sum, "{name}");
        assert_eq!(
            now[name] != first[name],
            name == "hello-v3.tar.gz",
            "{name}"
        );
        assert!(!unpacked(&packed).contains_key("usr/.wh.old"), "{name}");
    }
}

#[test]
fn images_for_other_machines_take_no_place_of_those_that_are_flattened() {
    let mut hello = Repository::default();
    let lower = layer(&[("etc/lower", b"lower")]);
    for n in 1..=3 {
        for machine in ["amd64", "arm64"] {
            let upper = layer(&[("version", format!("{n} {machine}").as_bytes())]);
            push(&mut hello, &format!("v{n}-{machine}"), &[&lower, &upper]);
        }
    }
    let registry = Registry::with_hello(hello);
    let service = Setup::new(settings(&registry, "")).own_cache().start();
    let expected = ["hello-v1-amd64", "hello-v2-amd64", "hello-v3-amd64"];
    let expected = expected.map(|name| format!("{name}.tar.gz"));
    assert_eq!(names(&service.listing()), expected);
    let left_out = service.log.with(&["v3-arm64 skipped: ", "for arm64"]);
    assert_eq!(left_out.len(), 1, "{:?}", service.log.lines());
}

#[test]
fn other_repositories_are_listed_while_one_is_flattened() {
    let registry = Registry::with_hello(images(1));
    let (other, listing) = versions(1);
    registry.put("other", other);
    registry.fault(
        "GET /v2/hello/blobs/",
        Fault::Drip(10_000, Duration::from_millis(200)),
    );
    let service = Setup::new(settings(&registry, "")).own_cache().start();
    thread::scope(|scope| {
        let first = scope.spawn(|| service.listing());
        thread::sleep(Duration::from_millis(200));
        let started = Instant::now();
        let response = service.get("/other/SHA256SUMS");
        assert_eq!(response.text(), listing.replace("hello-", "other-"));
        // The layers take two seconds.
        let took = started.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert_eq!(names(&first.join().unwrap()), ["hello-v0.tar.gz"]);
    });
}
