//! Extension-release fields that are read out of an image: the cost, bad images, and that it is
//! read once. The images in `tests/images` are small extensions, by the tools that publishers use.

use std::fs;
use std::io::Read;

use flate2::read::GzDecoder;
use serde_json::{Value, json};

use crate::content::{OCI_TAR, Repository, line, sign};
use crate::registry::{Fault, Registry, one_image};
use crate::request::Request;
use crate::service::{Folder, Service, Setup};

const SQUASHFS: &[u8] = include_bytes!("../images/gzip.squashfs");
const EROFS: &[u8] = include_bytes!("../images/lz4.erofs.gz");

const MANIFEST: &str = "/hello/hello-v1.manifest.gz";
/// No ranges.
const NONE: [u64; 0] = [];
const BLOBS: &str = "GET /v2/hello/blobs/";

fn unpack(packed: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut bytes).unwrap();
    bytes
}

/// The fields that both images have, and the version of their tag.
fn hello() -> Value {
    json!({
        "ID": "fedora",
        "VERSION_ID": "42",
        "SYSEXT_LEVEL": "2.0",
        "ARCHITECTURE": "x86-64",
        "SYSEXT_VERSION_ID": "v1",
    })
}

/// The contents of a side file, or its status and the reason.
fn said(service: &Service, target: &str) -> Result<Value, (u16, String)> {
    let response = service.get(target);
    if response.status != 200 {
        assert_eq!(response.body, b"", "sysextmgr installs what is in an error");
        let reason = response.header("x-reason").unwrap_or_default().to_owned();
        return Err((response.status, reason));
    }
    let json: Value = serde_json::from_slice(&unpack(&response.body)).unwrap();
    Ok(json["extension"].clone())
}

/// A repository with an image as its tag `v1`.
fn with(title: &str, image: &[u8]) -> Repository {
    let mut hello = Repository::default();
    hello.oras_push("v1", title, image);
    hello
}

/// How many bytes of blobs were asked for by ranges, for each request.
fn ranges(registry: &Registry) -> Vec<u64> {
    let heads = registry.take_heads();
    let blobs = heads.iter().filter(|head| head.line().contains(BLOBS));
    blobs.map(length).collect()
}

fn length(head: &Request) -> u64 {
    let range = head.header("range").unwrap().strip_prefix("bytes=");
    let (first, last) = range.unwrap().split_once('-').unwrap();
    last.parse::<u64>().unwrap() + 1 - first.parse::<u64>().unwrap()
}

/// A squashfs image with so many bytes of nothing before its metadata.
fn large(size: u64) -> Vec<u8> {
    let number = |at: usize| u64::from_le_bytes(SQUASHFS[at..at + 8].try_into().unwrap());
    let mut image = SQUASHFS.to_vec();
    // The superblock's places, and that of the fragments, to which the fragment table points.
    for at in (40..96).step_by(8).chain([number(80) as usize]) {
        if number(at) != u64::MAX {
            image[at..at + 8].copy_from_slice(&(number(at) + size).to_le_bytes());
        }
    }
    let data = number(64) as usize;
    let mut large = image[..data].to_vec();
    large.resize(data + size as usize, 0);
    large.extend_from_slice(&image[data..]);
    large
}

#[test]
fn an_image_tells_what_its_publisher_does_not() {
    for (title, image) in [
        ("hello.raw", SQUASHFS.to_vec()),
        ("hello.raw", unpack(EROFS)),
        ("hello.img", SQUASHFS.to_vec()),
    ] {
        let registry = Registry::with_hello(with(title, &image));
        let service = Service::of(&registry);
        assert_eq!(said(&service, MANIFEST), Ok(hello()), "{title}");
        let ranges = ranges(&registry);
        assert!(ranges.len() <= 2, "{title}: {ranges:?}");
    }
}

#[test]
fn a_layout_tells_it_too() {
    let folder = Folder::with_layout(&with("hello.raw", SQUASHFS));
    let service = Service::start(folder.settings());
    assert_eq!(said(&service, MANIFEST), Ok(hello()));
}

#[test]
fn of_a_large_image_little_is_fetched_over_one_connection() {
    let registry = Registry::with_hello(with("hello.raw", &large(32 << 20)));
    let service = Service::of(&registry);
    service.listing();
    let (connections, peak) = (registry.connections(), service.peak_memory());
    drop(registry.take_heads());
    assert_eq!(said(&service, MANIFEST), Ok(hello()));
    let heads = registry.take_heads();
    assert!(heads.len() <= 6, "all round trips: {heads:#?}");
    let bytes: u64 = heads
        .iter()
        .filter(|head| head.line().contains(BLOBS))
        .map(length)
        .sum();
    assert!(bytes <= 1 << 20, "{bytes}");
    assert_eq!(registry.connections(), connections, "kept alive");
    assert!(service.peak_memory() <= peak + 4, "{peak} MiB before");
}

#[test]
fn each_image_is_read_once() {
    let (folder, registry) = (
        Folder::new(),
        Registry::with_hello(with("hello.raw", SQUASHFS)),
    );
    let start = || Setup::of(&registry).cache(&folder).start();
    let service = start();
    assert_eq!(said(&service, MANIFEST), Ok(hello()));
    assert_ne!(ranges(&registry), NONE);
    assert_eq!(said(&service, MANIFEST), Ok(hello()));
    drop(service);
    assert_eq!(said(&start(), MANIFEST), Ok(hello()), "by the next one too");
    assert_eq!(ranges(&registry), NONE);

    // A damaged file is made again.
    let mut kept = fs::read_dir(folder.path().join("releases")).unwrap();
    let kept = kept.next().unwrap().unwrap().path();
    let good = fs::read(&kept).unwrap();
    for damage in [&b""[..], b"ID=other\n", &good[..good.len() / 2]] {
        fs::write(&kept, damage).unwrap();
        assert_eq!(said(&start(), MANIFEST), Ok(hello()));
        assert_ne!(ranges(&registry), NONE);
        // The new file says when it was made, so it is not compared with the old one.
        assert_eq!(said(&start(), MANIFEST), Ok(hello()));
        assert_eq!(ranges(&registry), NONE);
    }
}

#[test]
fn that_there_is_nothing_inside_is_remembered_until_the_next_run() {
    let registry = Registry::with_hello(with("hello.raw", b"no image at all"));
    let folder = Folder::new();
    let start = || Setup::of(&registry).cache(&folder).start();
    let mut service = start();
    // The next run looks again: what came may have been damaged on its way.
    for (expected, is_next) in [(1, false), (0, false), (1, true)] {
        if is_next {
            service = start();
        }
        let (status, reason) = said(&service, MANIFEST).unwrap_err();
        let why = "cannot be read: it is not squashfs, erofs";
        assert!(status == 404 && reason.contains(why), "{status} {reason}");
        assert_eq!(ranges(&registry).len(), expected);
    }
}

#[test]
fn a_publishers_word_comes_first_and_an_image_is_opened_only_if_it_is_not_enough() {
    for (annotations, image, expected, is_opened) in [
        (
            json!({"ID": "_any", "ARCHITECTURE": "arm64"}),
            SQUASHFS,
            json!({"ID": "_any", "ARCHITECTURE": "arm64", "SYSEXT_VERSION_ID": "v1"}),
            false,
        ),
        (
            json!({"ID": "debian", "VERSION_ID": "13", "ARCHITECTURE": "arm64"}),
            SQUASHFS,
            json!({"ID": "debian", "VERSION_ID": "13", "ARCHITECTURE": "arm64", "SYSEXT_VERSION_ID": "v1"}),
            false,
        ),
        (
            json!({"ID": "debian"}),
            SQUASHFS,
            json!({"ID": "debian", "VERSION_ID": "42", "SYSEXT_LEVEL": "2.0", "ARCHITECTURE": "x86-64", "SYSEXT_VERSION_ID": "v1"}),
            true,
        ),
        (
            json!({"ID": "debian", "ARCHITECTURE": "arm64"}),
            b"no image",
            json!({"ID": "debian", "ARCHITECTURE": "arm64", "SYSEXT_VERSION_ID": "v1"}),
            true,
        ),
    ] {
        let mut repository = Repository::default();
        let layer = repository.file(OCI_TAR, "hello.raw", image);
        let artifact = repository.artifact(&[layer], json!({"annotations": annotations}));
        repository.point("v1", &artifact);
        let registry = Registry::with_hello(repository);
        let service = Service::of(&registry);
        assert_eq!(said(&service, MANIFEST), Ok(expected), "{annotations}");
        assert_eq!(!ranges(&registry).is_empty(), is_opened, "{annotations}");
    }
}

#[test]
fn files_of_a_signed_list_are_looked_into() {
    let mut hello = Repository::default();
    let list = line(SQUASHFS, "hello-1-x86-64.raw");
    sign(&mut hello, list.as_bytes(), &[], &[SQUASHFS]);
    let registry = Registry::with_hello(hello);
    let service = Service::of(&registry);
    assert_eq!(service.listing(), list);
    let expected = json!({
        "ID": "fedora", "VERSION_ID": "42", "SYSEXT_LEVEL": "2.0", "ARCHITECTURE": "x86-64",
    });
    let found = said(&service, "/hello/hello-1-x86-64.manifest.gz");
    assert_eq!(found, Ok(expected));
}

#[test]
fn a_registry_without_ranges_is_read_from_the_start_and_the_log_says_so() {
    for fault in [
        Fault::NoRange,
        Fault::StatusOfARange(416),
        Fault::StatusOfARange(400),
    ] {
        let registry = Registry::with_hello(with("hello.raw", &large(3 << 20)));
        registry.fault("/blobs/", fault.clone());
        let service = Service::of(&registry);
        assert_eq!(said(&service, MANIFEST), Ok(hello()), "{fault:?}");
        let lines = service.log.with(&["its registry does not support ranges"]);
        assert_eq!(lines.len(), 1, "{fault:?}: {lines:?}");
        let heads = registry.take_heads();
        let blobs = heads.iter().filter(|head| head.line().contains(BLOBS));
        let asked = blobs.count();
        // A config, one for the metadata at the end, one for the file before it; and ranges refused.
        assert!(asked <= 4, "{fault:?}: {heads:#?}");
    }
}

#[test]
fn a_registry_in_trouble_is_no_image_without_a_release() {
    for (fault, status) in [
        (Fault::Status(500), 502),
        (Fault::Status(404), 404),
        (Fault::CutAfter(100), 502),
    ] {
        let folder = Folder::new();
        let registry = Registry::with_hello(with("hello.raw", SQUASHFS));
        let service = Setup::of(&registry).cache(&folder).start();
        service.listing();
        registry.fault("/blobs/", fault.clone());
        let found = said(&service, MANIFEST);
        assert_eq!(
            found.map_err(|(status, _)| status),
            Err(status),
            "{fault:?}"
        );
        registry.behave();
        assert_eq!(said(&service, MANIFEST), Ok(hello()), "after {fault:?}");
    }
}

#[test]
fn redirects_and_mirrors_give_ranges_too() {
    let registry = one_image(SQUASHFS);
    let (storage, mirror) = (one_image(SQUASHFS), one_image(SQUASHFS));
    let by_mirror = Setup::with_mirrors(&registry, &[&mirror]).start();
    assert_eq!(said(&by_mirror, MANIFEST), Ok(hello()));
    assert_eq!(ranges(&registry), NONE);
    assert_ne!(ranges(&mirror), NONE);
    registry.fault("/blobs/", Fault::Redirect(storage.origin()));
    assert_eq!(said(&Service::of(&registry), MANIFEST), Ok(hello()));
    assert_ne!(ranges(&storage), NONE);
}

#[test]
fn bad_images_cost_little_and_spoil_no_other() {
    let mut lying = SQUASHFS.to_vec();
    // It is as long as can be, its tables are anywhere, its root is nowhere.
    lying[32..40].fill(0x7f);
    let mut endless = SQUASHFS.to_vec();
    endless[40..48].copy_from_slice(&u64::MAX.to_le_bytes());
    let bomb = {
        use std::io::Write;
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        for _ in 0..64 {
            packer.write_all(&vec![0; 1 << 20]).unwrap();
        }
        packer.finish().unwrap()
    };
    let mut hello_repository = Repository::default();
    let bad: [(&str, &[u8], &str); 4] = [
        ("cut", &SQUASHFS[..SQUASHFS.len() - 1000], "there are"),
        ("lying", &lying, "behind the end of its table"),
        ("endless", &endless, "its superblock says it has"),
        ("bomb", &bomb, "it is not squashfs"),
    ];
    hello_repository.oras_push("v1", "hello.raw", SQUASHFS);
    for (tag, image, _) in bad {
        hello_repository.oras_push(tag, "hello.raw", image);
    }
    let registry = Registry::with_hello(hello_repository);
    let service = Service::of(&registry);
    assert_eq!(service.listing().lines().count(), 5);
    for (tag, _, why) in bad {
        let (status, reason) =
            said(&service, &format!("/hello/hello-{tag}.manifest.gz")).unwrap_err();
        assert!(
            status == 404 && reason.contains(why),
            "{tag}: {status} {reason}"
        );
    }
    assert_eq!(said(&service, MANIFEST), Ok(hello()));
    assert!(service.peak_memory() <= 64, "{} MiB", service.peak_memory());
}

/// Pushes an image as a tag, with these annotations.
fn push(hello: &mut Repository, tag: &str, title: &str, image: &[u8], annotations: Value) {
    let layer = hello.file(OCI_TAR, title, image);
    let artifact = hello.artifact(&[layer], json!({"annotations": annotations}));
    hello.point(tag, &artifact);
}

#[test]
fn compatible_only_lists_what_this_machine_would_merge() {
    let mut hello = Repository::default();
    push(&mut hello, "any", "a.raw", b"1", json!({"ID": "_any"}));
    push(
        &mut hello,
        "other",
        "a.raw",
        b"2",
        json!({"ID": "nobodys-os", "VERSION_ID": "1"}),
    );
    push(
        &mut hello,
        "initrd",
        "a.raw",
        b"3",
        json!({"ID": "_any", "SYSEXT_SCOPE": "initrd"}),
    );
    push(&mut hello, "silent", "a.raw", b"no image", json!({}));
    push(&mut hello, "kernel", "a.efi", b"5", json!({}));
    // Its ID is inside it. The rest is that of no machine.
    let level = json!({"SYSEXT_LEVEL": "none", "VERSION_ID": "none", "ARCHITECTURE": "_any"});
    push(&mut hello, "inside", "a.raw", SQUASHFS, level);
    let registry = Registry::with_hello(hello);
    let everything = Service::of(&registry);
    assert_eq!(everything.listing().lines().count(), 6);

    let chosen = line(b"1", "hello-any.raw") + &line(b"5", "hello-kernel.efi");
    for more in [
        "compatible-only = true\n",
        "[repository.hello]\ncompatible-only = true\n",
    ] {
        let service = Setup::new(registry.settings() + more).own_cache().start();
        assert_eq!(service.listing(), chosen, "{more}");
        for (tag, why) in [
            ("other", "hello-other.raw: it is for nobodys-os"),
            ("initrd", "hello-initrd.raw: it is for the scope initrd"),
            ("silent", "hello-silent.raw: image"),
            ("inside", "hello-inside.raw: it is for "),
        ] {
            let reason = format!("tag {tag} skipped: {why}");
            assert_eq!(service.log.with(&[&reason]).len(), 1, "{reason}");
        }
    }
    let more = "compatible-only = true\n[repository.hello]\ncompatible-only = false\n";
    let service = Service::start(registry.settings() + more);
    assert_eq!(service.listing().lines().count(), 6);
}
