//! Listings that their publisher signed: the artifact with the tag `SHA256SUMS`, byte for byte.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::content::{OCI_TAR, Repository, digest, line, sha256, sign, versions};
use crate::registry::{Fault, IS_IT_SIGNED, Link, Registry, TAGS, count};
use crate::request::Request;
use crate::service::{ANEW, Folder, Service, Setup, later};

/// The names that the two systemds ask for.
const SIGNATURES: [&str; 4] = [
    "SHA256SUMS.sha256.asc",
    "SHA256SUMS.sha256.gpg",
    "SHA256SUMS.gpg",
    "SHA256SUMS.asc",
];

/// A repository with a signed list of two names, of which one is in no manifest.
fn signed() -> (Repository, String) {
    let mut hello = versions(2).0;
    let list = line(b"image 1", "hello-v1.raw") + &line(b"image 9", "hello-9.raw");
    sign(
        &mut hello,
        list.as_bytes(),
        &[("SHA256SUMS.gpg", b"\x88\x00signature\xff")],
        &[b"image 9"],
    );
    (hello, list)
}

#[test]
fn list_and_signatures_are_their_publishers_byte_for_byte() {
    let odd_lists = [
        line(b"image 1", "hello-v1.raw"),
        // As sha256sum -b writes it, with what only systemd may judge: comments, CRs, no last newline.
        format!(
            "# mine\r\n{} *hello-v1.raw\n\n{}  z/../a%20b",
            sha256(b"image 1"),
            sha256(b"2")
        ),
        "\u{feff}no list at all".to_owned(),
    ];
    for list in odd_lists {
        let mut hello = versions(2).0;
        let signatures: [(&str, &[u8]); 4] = [
            (SIGNATURES[0], b"-----BEGIN PGP SIGNATURE-----\r\n"),
            (SIGNATURES[1], b"\0\xff\n"),
            (SIGNATURES[2], b"binary"),
            (SIGNATURES[3], b"text"),
        ];
        sign(&mut hello, list.as_bytes(), &signatures, &[]);
        let folder = Folder::with_layout(&hello);
        let registry = Registry::with_hello(hello);
        for settings in [registry.settings(), folder.settings()] {
            let service = Service::start(settings);
            assert_eq!(service.listing(), list);
            for (name, bytes) in signatures {
                let response = service.get(&format!("/hello/{name}"));
                assert_eq!(
                    (response.status, response.body.as_slice()),
                    (200, bytes),
                    "{name}"
                );
            }
        }
    }
}

#[test]
fn a_signature_that_is_not_there_is_404_with_nothing_in_it() {
    let (hello, _) = signed();
    let registry = Registry::with_hello(hello);
    registry.put("unsigned", versions(1).0);
    let service = Service::of(&registry);
    for name in SIGNATURES {
        for (repository, expected) in [("hello", name == "SHA256SUMS.gpg"), ("unsigned", false)] {
            let status = if expected { 200 } else { 404 };
            let response = service.get(&format!("/{repository}/{name}"));
            assert_eq!(response.status, status, "{repository} {name}");
            assert_eq!(response.body.is_empty(), !expected, "{repository} {name}");
        }
    }
}

#[test]
fn a_name_in_a_signed_list_is_fetched_by_its_digest_with_no_manifest_looked_up() {
    let (hello, list) = signed();
    let registry = Registry::with_hello(hello);
    let service = Service::of(&registry);
    assert_eq!(service.listing(), list);
    assert_eq!(service.get("/hello/SHA256SUMS.gpg").status, 200);
    let requests = registry.take_requests();
    assert_eq!(
        (
            requests.len(),
            count(&requests, "GET /v2/hello/manifests/SHA256SUMS$"),
            count(&requests, "GET /v2/hello/blobs/")
        ),
        (3, 1, 2),
        "{requests:?}"
    );
    for (name, bytes) in [("hello-v1.raw", "image 1"), ("hello-9.raw", "image 9")] {
        let response = service.get(&format!("/hello/{name}"));
        assert_eq!((response.status, response.text()), (200, bytes));
        let requests = registry.take_requests();
        let blob = format!(" /v2/hello/blobs/{}", digest(bytes.as_bytes()));
        assert!((1..=2).contains(&requests.len()), "{requests:?}");
        assert_eq!(count(&requests, &blob), requests.len(), "{requests:?}");
    }
}

/// systemd-pull takes a checksum file before the list, and checks the list's signature against it.
#[test]
fn beside_a_signature_there_is_no_checksum_file() {
    let (mut hello, _) = signed();
    let own = line(b"image 1", "hello-v1.raw");
    let list = own.clone() + &line(own.as_bytes(), "hello-v1.raw.sha256");
    for (signatures, status) in [(&[("SHA256SUMS.asc", &b"text"[..])][..], 404), (&[], 200)] {
        sign(&mut hello, list.as_bytes(), signatures, &[own.as_bytes()]);
        let registry = Registry::with_hello(hello.clone());
        let service = Service::of(&registry);
        assert_eq!(service.listing(), list);
        assert_eq!(service.get("/hello/hello-v1.raw.sha256").status, status);
        assert_eq!(service.get("/hello/hello-v1.raw").text(), "image 1");
        let reason = service.get("/hello/hello-v9.raw.sha256");
        assert_eq!(reason.status, 404, "it is none of the files");
    }
}

/// Nor where the file is known from a listing of the time before there was a signature.
#[test]
fn beside_a_signature_that_is_new_there_is_no_checksum_file() {
    let own = line(b"image 1", "hello-v1.raw");
    for restarts in [false, true] {
        let registry = Registry::with_hello(versions(2).0);
        let cache = Folder::new();
        let start = || {
            let setup = Setup::new(registry.settings() + ANEW);
            setup.cache(&cache).start()
        };
        let mut service = start();
        service.listing();
        assert_eq!(service.get("/hello/hello-v1.raw.sha256").text(), own);
        registry.change(|hello| sign(hello, own.as_bytes(), &[("SHA256SUMS.gpg", b"s")], &[]));
        later();
        if restarts {
            drop(service);
            service = start();
        } else {
            assert_eq!(service.get("/hello/hello-v9.raw").status, 404);
        }
        assert_eq!(service.get("/hello/hello-v1.raw.sha256").status, 404);
        assert_eq!(service.get("/hello/SHA256SUMS.gpg").body, b"s");
        assert_eq!(service.get("/hello/hello-v0.raw").body, b"image 0");
    }
}

#[test]
fn whatever_a_signed_list_names_is_delivered() {
    let files: Vec<(Vec<u8>, &str)> = [
        "hello-1.raw",
        "hello-1.raw.sha256",
        "hello-1.raw.json",
        "hello-1.manifest.gz",
        "latest.json",
        "with a space.raw",
        "umläut.raw",
    ]
    .map(|name| (format!("bytes of {name}").into_bytes(), name))
    .into();
    let list: String = files
        .iter()
        .map(|(bytes, name)| line(bytes, name))
        .collect();
    let mut hello = Repository::default();
    let blobs: Vec<&[u8]> = files.iter().map(|(bytes, _)| bytes.as_slice()).collect();
    sign(&mut hello, list.as_bytes(), &[], &blobs);
    let registry = Registry::with_hello(hello);
    let service = Service::of(&registry);
    assert_eq!(service.listing(), list);
    for (bytes, name) in &files {
        let response = service.get(&format!(
            "/hello/{}",
            name.replace(' ', "%20").replace('ä', "%C3%A4")
        ));
        assert_eq!(
            (response.status, response.text()),
            (200, std::str::from_utf8(bytes).unwrap()),
            "{name}"
        );
    }
}

#[test]
fn what_a_signed_list_does_not_name_is_not_offered() {
    let (hello, list) = signed();
    let registry = Registry::with_hello(hello);
    let service = Service::of(&registry);
    assert_eq!(service.listing(), list);
    for name in [
        "hello-v0.raw",
        "hello-v0.raw.sha256",
        "SHA256SUMS.raw",
        "hello-SHA256SUMS.raw",
    ] {
        let response = service.get(&format!("/hello/{name}"));
        assert_eq!(
            (response.status, response.body),
            (404, Vec::new()),
            "{name}"
        );
    }
}

#[test]
fn an_unsigned_repository_costs_one_request_more_once() {
    let (registry, listing) = Registry::with_versions(5);
    let cache = Folder::new();
    let requests_of_a_run = || {
        let service = Setup::of(&registry).cache(&cache).start();
        assert_eq!(service.listing(), listing);
        registry.take_requests()
    };
    let of_versions =
        |method: &'static str| (0..5).map(move |n| format!("{method} /v2/hello/manifests/v{n}"));
    let mut cold = vec![IS_IT_SIGNED.to_owned()];
    cold.extend(of_versions("GET").chain([TAGS.to_owned()]));
    assert_eq!(requests_of_a_run(), cold);
    let mut warm = vec![TAGS.to_owned()];
    warm.extend(of_versions("HEAD"));
    assert_eq!(requests_of_a_run(), warm);
}

#[test]
fn whether_a_repository_is_signed_is_asked_first() {
    let registry = Registry::with_hello(versions(1).0);
    let service = Service::of(&registry);
    service.listing();
    let heads = registry.take_heads();
    let lines: Vec<_> = heads.iter().map(Request::line).collect();
    assert_eq!(lines, [IS_IT_SIGNED, TAGS, "GET /v2/hello/manifests/v0"]);
}

#[test]
fn however_a_registry_says_that_there_is_no_signed_list_the_tags_are_listed() {
    for (fault, why) in [
        (Fault::Status(400), "no name of a tag"),
        (Fault::Status(403), "no right to what is not there"),
        (Fault::Status(410), "gone"),
        (Fault::Body(b"<html>".to_vec()), "a page"),
    ] {
        let (registry, listing) = Registry::with_versions(2);
        registry.fault(IS_IT_SIGNED, Fault::Status(200));
        registry.fault(IS_IT_SIGNED, fault);
        let service = Service::of(&registry);
        assert_eq!(service.listing(), listing, "{why}");
        let requests = registry.take_requests();
        assert_eq!(count(&requests, "SHA256SUMS"), 1, "{why}: {requests:?}");
        // Messages about the listing come before this line.
        assert_eq!(service.log.with(&[" listed in "]).len(), 1, "{why}");
        assert_eq!(service.log.trouble_so_far(), [""; 0], "{why}");
    }
}

/// Neither is a list of ours put in the place of a signed one, nor is what fails waited for twice.
#[test]
fn a_signed_list_that_cannot_be_asked_for_now_is_an_error_and_no_tags_are_listed() {
    let (hello, list) = signed();
    for (fault, status, tries) in [
        (Fault::Status(500), 502, 3),
        (Fault::Raw(b"nonsense\r\n\r\n".to_vec()), 502, 3),
        (Fault::Status(503), 503, 1),
    ] {
        let registry = Registry::with_hello(hello.clone());
        registry.fault("SHA256SUMS", fault);
        let retry_after = Some("3600".to_owned());
        registry.fault("SHA256SUMS", Fault::Header("Retry-After", retry_after));
        let service = Service::of(&registry);
        assert_eq!(service.get("/hello/SHA256SUMS").status, status);
        assert_eq!(registry.take_requests(), vec![IS_IT_SIGNED; tries]);
        service.log.one_trouble();
        registry.behave();
        assert_eq!(service.listing(), list);
    }
}

#[test]
fn a_signed_list_that_is_known_costs_one_request() {
    let (hello, list) = signed();
    let registry = Registry::with_hello(hello);
    let cache = crate::service::Folder::new();
    let start = || Setup::of(&registry).cache(&cache).start();
    assert_eq!(start().listing(), list);
    registry.take_requests();
    let service = start();
    assert_eq!(service.listing(), list);
    assert_eq!(service.get("/hello/SHA256SUMS.gpg").status, 200);
    assert_eq!(
        registry.take_requests(),
        ["HEAD /v2/hello/manifests/SHA256SUMS"]
    );
}

#[test]
fn list_and_signature_are_of_one_artifact_though_the_tag_moves_in_between() {
    let newer = line(b"image 0", "hello-v0.raw");
    for cached in [false, true] {
        let (hello, list) = signed();
        let registry = Registry::with_hello(hello);
        let setup = Setup::new(registry.settings() + ANEW);
        let service = if cached { setup.own_cache() } else { setup }.start();
        let before = service.listing();
        registry.change(|hello| {
            sign(
                hello,
                newer.as_bytes(),
                &[("SHA256SUMS.gpg", b"newer")],
                &[],
            )
        });
        later();
        let signature = service.get("/hello/SHA256SUMS.gpg").body;
        assert_eq!(
            (before, signature.as_slice()),
            (list, b"\x88\x00signature\xff".as_slice())
        );
        assert_eq!(
            service.get("/hello/hello-9.raw").body,
            b"image 9",
            "what was listed"
        );
        assert_eq!(service.listing(), newer);
        assert_eq!(service.get("/hello/SHA256SUMS.gpg").body, b"newer");
        // The newest has no signature of the kind that the one before had.
        registry.change(|hello| sign(hello, newer.as_bytes(), &[("SHA256SUMS.asc", b"text")], &[]));
        later();
        assert_eq!(service.listing(), newer);
        assert_eq!(service.get("/hello/SHA256SUMS.gpg").status, 404);
        assert_eq!(service.get("/hello/SHA256SUMS.asc").body, b"text");
    }
}

/// Publishes list number `n`, with a signature that belongs to no other list.
fn publish(registry: &Registry, n: usize) {
    let list = line(format!("image {n}").as_bytes(), "hello-9.raw");
    registry.change(|hello| {
        let signature = sha256(list.as_bytes());
        sign(
            hello,
            list.as_bytes(),
            &[("SHA256SUMS.gpg", signature.as_bytes())],
            &[],
        );
    });
}

/// systemd 257 asks for both at once; which request comes first is a matter of luck.
#[test]
fn list_and_signature_that_are_asked_for_at_once_are_of_one_artifact() {
    let registry = Registry::start();
    registry.fault("/v2/", Fault::Delay(Duration::from_millis(20)));
    for settings in ["listing-ttl-sec = 0\n", "listing-ttl-sec = 0.2\n"] {
        let service = Service::start(registry.settings() + settings);
        let mut lists = BTreeSet::new();
        for n in 0..12 {
            publish(&registry, n);
            thread::sleep(Duration::from_millis(250));
            let (list, signature) = thread::scope(|scope| {
                let ask = |target, after: u64| {
                    let service = &service;
                    scope.spawn(move || {
                        thread::sleep(Duration::from_millis(after));
                        service.whole(target)
                    })
                };
                let (first, second) = if n % 2 == 0 { (0, 3) } else { (3, 0) };
                let list = ask("/hello/SHA256SUMS", first);
                let signature = ask("/hello/SHA256SUMS.gpg", second);
                // The list is signed anew while they are on their way.
                thread::sleep(Duration::from_millis(30));
                publish(&registry, 1000 + n);
                (list.join().unwrap(), signature.join().unwrap())
            });
            assert_eq!(sha256(&list).as_bytes(), signature, "{settings}, pair {n}");
            lists.insert(list);
        }
        assert_eq!(lists.len(), 12, "each pair is of a new list");
    }
}

#[test]
fn a_newer_list_waits_for_the_signature_of_the_one_that_was_given_out() {
    let registry = Registry::start();
    publish(&registry, 1);
    let service = Service::start(registry.settings() + "listing-ttl-sec = 0\n");
    let first = service.listing();
    publish(&registry, 2);
    let (newer, signature) = thread::scope(|scope| {
        let newer = scope.spawn(|| service.listing());
        thread::sleep(Duration::from_millis(300));
        // It has no such signature, and that is no answer to wait for.
        assert_eq!(service.get("/hello/SHA256SUMS.asc").status, 404);
        assert_eq!(
            service.request("HEAD", "/hello/SHA256SUMS.gpg", &[]).status,
            200
        );
        thread::sleep(Duration::from_millis(100));
        assert!(!newer.is_finished());
        let signature = service.whole("/hello/SHA256SUMS.gpg");
        (newer.join().unwrap(), signature)
    });
    assert_eq!(sha256(first.as_bytes()).as_bytes(), signature);
    assert_eq!(newer, line(b"image 2", "hello-9.raw"));
    // Nobody comes for the signature of that one.
    publish(&registry, 3);
    let begun = Instant::now();
    assert_eq!(service.listing(), line(b"image 3", "hello-9.raw"));
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn names_of_signatures_that_are_not_there_ask_the_registry_nothing() {
    let (hello, _) = signed();
    let registry = Registry::with_hello(hello);
    registry.put("unsigned", versions(1).0);
    let service = Service::start(registry.settings() + ANEW);
    for repository in ["hello", "unsigned"] {
        service.listing_of(repository);
        registry.take_requests();
        for name in SIGNATURES.iter().filter(|name| **name != "SHA256SUMS.gpg") {
            later();
            let response = service.get(&format!("/{repository}/{name}"));
            assert_eq!(response.status, 404, "{name}");
        }
        assert_eq!(registry.take_requests(), [""; 0], "{repository}");
    }
}

#[test]
fn a_signature_that_is_asked_for_first_is_of_the_list_that_comes_after() {
    let (hello, list) = signed();
    let registry = Registry::with_hello(hello);
    let service = Service::start(registry.settings() + "listing-ttl-sec = 60\n");
    assert_eq!(
        service.get("/hello/SHA256SUMS.gpg").body,
        b"\x88\x00signature\xff"
    );
    registry.change(|hello| sign(hello, b"newer", &[("SHA256SUMS.gpg", b"newer")], &[]));
    assert_eq!(service.listing(), list);
}

#[test]
fn a_repository_that_is_signed_for_the_first_time_is_so_with_its_next_listing() {
    let (registry, listing) = Registry::with_versions(2);
    let service = Service::start(registry.settings() + ANEW);
    assert_eq!(service.listing(), listing);
    assert_eq!(service.get("/hello/SHA256SUMS.gpg").status, 404);
    let list = line(b"image 1", "hello-v1.raw");
    registry.change(|hello| sign(hello, list.as_bytes(), &[("SHA256SUMS.gpg", b"s")], &[]));
    later();
    assert_eq!(service.listing(), list);
    assert_eq!(service.get("/hello/SHA256SUMS.gpg").body, b"s");
}

#[test]
fn a_repository_that_is_known_as_unsigned_is_signed_with_its_next_listing() {
    let (registry, listing) = Registry::with_versions(2);
    let cache = Folder::new();
    let start = || Setup::of(&registry).cache(&cache).start();
    assert_eq!(start().listing(), listing);
    let list = line(b"image 1", "hello-v1.raw");
    registry.change(|hello| sign(hello, list.as_bytes(), &[("SHA256SUMS.gpg", b"s")], &[]));
    registry.take_requests();
    let service = start();
    assert_eq!(service.listing(), list);
    assert_eq!(service.get("/hello/SHA256SUMS.gpg").body, b"s");
    let requests = registry.take_requests();
    assert_eq!(
        (
            count(&requests, TAGS),
            count(&requests, IS_IT_SIGNED),
            requests.len()
        ),
        (1, 1, 4),
        "{requests:?}"
    );
    let service = start();
    assert_eq!(service.listing(), list);
    assert_eq!(
        registry.take_requests(),
        ["HEAD /v2/hello/manifests/SHA256SUMS"]
    );
}

#[test]
fn the_tag_of_a_list_moves_where_no_other_tag_does() {
    let mut hello = versions(1).0;
    hello.oras_push("SHA256SUMS", "notes.txt", b"to be signed one day");
    let registry = Registry::with_hello(hello);
    let more = format!("{ANEW}[repository.hello]\nimmutable-tags = true\n");
    let service = Setup::new(registry.settings() + &more).own_cache().start();
    assert_eq!(service.listing(), line(b"image 0", "hello-v0.raw"));
    for n in 1..3 {
        let list = line(format!("image {n}").as_bytes(), "hello-v1.raw");
        registry.change(|hello| sign(hello, list.as_bytes(), &[], &[]));
        later();
        assert_eq!(service.listing(), list);
    }
}

#[test]
fn the_size_of_a_blob_is_learnt_however_little_the_registry_tells() {
    const HEAD: &str = "HEAD /v2/hello/blobs/";
    const GET: &str = "GET /v2/hello/blobs/";
    let all = vec![b'x'; 300_000];
    for (faults, status, why) in [
        (vec![], 200, "HEAD with a length"),
        (vec![(HEAD, Fault::Status(405))], 200, "no HEAD: by a range"),
        (
            vec![(HEAD, Fault::Status(404))],
            200,
            "no HEAD, and a lie about it",
        ),
        (
            vec![(HEAD, Fault::NoLength)],
            200,
            "HEAD without a length: by a range",
        ),
        (
            vec![(HEAD, Fault::NoLength), (GET, Fault::NoRange)],
            200,
            "no ranges either: by the length of the whole",
        ),
        (
            vec![
                (HEAD, Fault::NoLength),
                (GET, Fault::NoRange),
                (GET, Fault::NoLength),
            ],
            502,
            "no way to tell",
        ),
        (
            vec![(HEAD, Fault::Status(404)), (GET, Fault::Status(404))],
            404,
            "it is not there",
        ),
    ] {
        let mut hello = Repository::default();
        let list = line(&all, "hello-1.raw");
        sign(&mut hello, list.as_bytes(), &[], &[&all]);
        let registry = Registry::with_hello(hello);
        let service = Service::of(&registry);
        assert_eq!(service.listing(), list);
        for (pattern, fault) in faults {
            registry.fault(pattern, fault);
        }
        let response = service.get("/hello/hello-1.raw");
        let expected = if status == 200 { all.as_slice() } else { b"" };
        assert!(
            (response.status, response.whole, response.body.as_slice()) == (status, true, expected),
            "{why}: {} {:?} and {} bytes",
            response.status,
            response.headers,
            response.body.len()
        );
        let head = service.request("HEAD", "/hello/hello-1.raw", &[]);
        assert_eq!(head.status, status, "{why}");
        if status == 200 {
            assert_eq!(head.header("content-length"), Some("300000"), "{why}");
        }
    }
}

#[test]
fn a_wrong_blob_is_never_complete() {
    let good = vec![b'x'; 300_000];
    let mut other = good.clone();
    other[7] = b'y';
    for (fault, why) in [
        (Fault::WrongByte, "the last byte"),
        (Fault::Body(other), "an early byte"),
        (Fault::Body(vec![b'x'; 299_999]), "too short"),
        (Fault::Body(vec![b'x'; 300_001]), "too long"),
    ] {
        let mut hello = Repository::default();
        let list = line(&good, "hello-1.raw");
        sign(&mut hello, list.as_bytes(), &[], &[&good]);
        let registry = Registry::with_hello(hello);
        let service = Service::of(&registry);
        assert_eq!(service.listing(), list);
        registry.fault(digest(&good).leak(), fault);
        let response = service.get("/hello/hello-1.raw");
        assert!(
            !response.whole || response.status != 200,
            "{why}: {} and {} bytes, whole",
            response.status,
            response.body.len()
        );
        assert_eq!(
            service.log.with(&["sha256:", "hello-1.raw"]).len(),
            1,
            "{why}"
        );
    }
}

#[test]
fn a_list_or_signature_that_is_not_what_its_manifest_says_is_given_to_nobody() {
    for (broken, called) in [
        ("SHA256SUMS", "signed list"),
        ("SHA256SUMS.gpg", "signature"),
    ] {
        let (hello, list) = signed();
        let bytes: &[u8] = match broken {
            "SHA256SUMS" => list.as_bytes(),
            _ => b"\x88\x00signature\xff",
        };
        let registry = Registry::with_hello(hello);
        registry.fault(digest(bytes).leak(), Fault::WrongByte);
        let service = Service::of(&registry);
        for name in ["SHA256SUMS", "SHA256SUMS.gpg"] {
            let response = service.get(&format!("/hello/{name}"));
            let reason = response.header("x-reason").unwrap_or_default().to_owned();
            assert_eq!(
                (response.status, response.body),
                (502, Vec::new()),
                "{broken}: {name}"
            );
            let why = format!("{called} {} has the wrong bytes: ", digest(bytes));
            assert!(reason.starts_with(&why), "{reason}");
        }
    }
}

#[test]
fn a_list_in_the_tag_index_that_cannot_be_had_is_no_reason_to_list_the_tags() {
    for (broken, fault, status) in [
        ("SHA256SUMS", Fault::Status(404), 404),
        ("SHA256SUMS", Fault::WrongByte, 502),
        ("SHA256SUMS.gpg", Fault::Status(404), 404),
        ("SHA256SUMS.gpg", Fault::WrongByte, 502),
    ] {
        let (mut hello, list) = signed();
        let artifact = hello.tags.remove("SHA256SUMS").unwrap();
        hello.tags.insert("index".to_owned(), artifact);
        let registry = Registry::with_hello(hello);
        let bytes: &[u8] = match broken {
            "SHA256SUMS" => list.as_bytes(),
            _ => b"\x88\x00signature\xff",
        };
        registry.fault(digest(bytes).leak(), fault.clone());
        let service = Service::start(registry.settings() + ANEW);
        let response = service.get("/hello/SHA256SUMS");
        assert_eq!(
            (response.status, response.text()),
            (status, ""),
            "{broken}: {fault:?}"
        );
        registry.behave();
        later();
        assert_eq!(service.listing(), list);
    }
}

/// A name for the way in which a list is pushed, and the function that pushes it.
type Way = (&'static str, fn(&mut Repository));

#[test]
fn what_is_under_the_tag_of_a_list_and_is_none_is_said_and_no_file() {
    let (plain, listing) = versions(2);
    let ways: [Way; 3] = [
        ("an index", |hello| {
            let files: [(&str, &str, &[u8]); 2] =
                [("amd64", "SHA256SUMS", b"x"), ("arm64", "SHA256SUMS", b"y")];
            hello.index("SHA256SUMS", &files);
        }),
        ("a list in a folder", |hello| {
            hello.oras_push("SHA256SUMS", "out/SHA256SUMS", b"list");
        }),
        ("an image", |hello| {
            hello.oras_push("SHA256SUMS", "hello.raw", b"a raw image");
        }),
    ];
    for (why, push) in ways {
        let mut hello = plain.clone();
        push(&mut hello);
        let registry = Registry::with_hello(hello);
        let service = Service::of(&registry);
        assert_eq!(service.listing(), listing, "{why}");
        let signature = service.get("/hello/SHA256SUMS.gpg");
        assert_eq!(
            (signature.status, signature.body),
            (404, Vec::new()),
            "{why}"
        );
        let said = service.log.with(&["tag SHA256SUMS "]);
        assert_eq!(said.len(), 1, "{why}: {said:?}");
    }
}

#[test]
fn a_signed_list_that_is_too_large_to_be_one_is_refused_without_being_read() {
    let (mut hello, _) = signed();
    let list = hello.file(OCI_TAR, "SHA256SUMS", b"list");
    let mut large = list.clone();
    large["size"] = json!((64u64 << 20) + 1);
    let artifact = hello.artifact(&[large], json!({}));
    hello.point("SHA256SUMS", &artifact);
    let registry = Registry::with_hello(hello);
    let service = Service::of(&registry);
    service.no_listing(502);
    let requests = registry.take_requests();
    assert_eq!(count(&requests, "/blobs/"), 0, "{requests:?}");
    assert_eq!(service.log.with(&["SHA256SUMS", "67108865 bytes"]).len(), 1);
}

#[test]
fn of_the_artifact_of_a_list_nothing_is_fetched_that_no_systemd_asks_for() {
    let (mut hello, list) = signed();
    let mut layers = vec![hello.file(OCI_TAR, "SHA256SUMS", list.as_bytes())];
    let names = (0..100)
        .map(|n| format!("SHA256SUMS.{n}"))
        .chain(SIGNATURES.map(str::to_owned));
    for name in names {
        layers.push(hello.file(OCI_TAR, &name, name.as_bytes()));
    }
    let artifact = hello.artifact(&layers, json!({}));
    hello.point("SHA256SUMS", &artifact);
    let registry = Registry::with_hello(hello);
    let service = Service::of(&registry);
    assert_eq!(service.listing(), list);
    let requests = registry.take_requests();
    assert_eq!(count(&requests, "/blobs/"), 5, "{requests:?}");
    for name in SIGNATURES {
        assert_eq!(service.get(&format!("/hello/{name}")).text(), name);
    }
    assert_eq!(service.get("/hello/SHA256SUMS.7").status, 404);
}

#[test]
fn a_list_is_as_long_as_its_manifest_says_though_it_is_at_hand() {
    let (hello, list) = signed();
    let registry = Registry::with_hello(hello);
    let service = Setup::new(registry.settings() + ANEW).own_cache().start();
    assert_eq!(service.listing(), list);
    registry.change(|hello| {
        let mut short = hello.file(OCI_TAR, "SHA256SUMS", list.as_bytes());
        short["size"] = json!(1);
        let artifact = hello.artifact(&[short], json!({}));
        hello.point("SHA256SUMS", &artifact);
    });
    later();
    let reason = service.why_no_listing(502);
    let expected = format!("expected 1 bytes, found {}", list.len());
    assert!(reason.ends_with(&expected), "{reason}");
}

#[test]
fn fifteen_thousand_names_cost_three_requests_fifty_milliseconds_and_little_memory() {
    let mut list = String::new();
    for n in 0..15_000 {
        list += &line(format!("image {n}").as_bytes(), &format!("hello-0.{n}.raw"));
    }
    let mut hello = Repository::default();
    sign(
        &mut hello,
        list.as_bytes(),
        &[("SHA256SUMS.gpg", b"signature")],
        &[b"image 7777"],
    );
    let registry = Registry::with_hello(hello);
    // The last request is answered so late that all before it is over.
    let late = Duration::from_millis(300);
    registry.fault(digest(b"signature").leak(), Fault::Delay(late));
    let service = Service::start(registry.settings() + "listing-ttl-sec = 60\n");
    let begun = Instant::now();
    assert!(service.listing() == list);
    let took = begun.elapsed() - late;
    assert_eq!(service.get("/hello/SHA256SUMS.gpg").body, b"signature");
    let requests = registry.take_requests();
    assert_eq!(requests.len(), 3, "{requests:?}");
    let response = service.get("/hello/hello-0.7777.raw");
    assert_eq!((response.status, response.text()), (200, "image 7777"));
    assert!(registry.take_requests().len() <= 2);
    let peak = service.peak_memory();
    assert!(peak <= 24, "{peak} MiB");
    // A debug build is several times slower than a release build.
    let limit = Duration::from_millis(if cfg!(debug_assertions) { 3000 } else { 50 });
    assert!(took <= limit, "{took:?}");
}

#[test]
fn fifteen_thousand_tags_in_pages_cost_a_signed_repository_three_requests() {
    let (mut hello, list) = signed();
    let version = hello.tags["v1"].clone();
    for n in 0..15_000 {
        hello.tags.insert(format!("v0.{n}"), version.clone());
    }
    let registry = Registry::with_hello(hello);
    registry.fault("/tags/list", Fault::Pages(1000, Link::Relative));
    let cache = Folder::new();
    let start = || Setup::of(&registry).cache(&cache).start();
    assert_eq!(start().listing(), list);
    let requests = registry.take_requests();
    assert_eq!(
        (
            requests.len(),
            count(&requests, IS_IT_SIGNED),
            count(&requests, "GET /v2/hello/blobs/")
        ),
        (3, 1, 2),
        "{requests:?}"
    );
    assert_eq!(start().listing(), list);
    assert_eq!(
        registry.take_requests(),
        ["HEAD /v2/hello/manifests/SHA256SUMS"]
    );
}

#[test]
fn a_list_that_comes_slowly_or_in_pieces_is_served_whole() {
    let (hello, list) = signed();
    let registry = Registry::with_hello(hello);
    let slow = Fault::Drip(70, Duration::from_millis(700));
    for (fault, why) in [(slow, "slow"), (Fault::CutAfter(70), "cut")] {
        registry.behave();
        registry.fault("/blobs/", fault);
        let service = Service::of(&registry);
        assert_eq!(service.listing(), list, "{why}");
    }
}

/// A client that reads the head of the answer and then nothing.
fn slow_client(address: SocketAddr, target: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // So that the kernel takes little for it, and the service feels how slow it is.
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&address.into()).unwrap();
    let mut client = TcpStream::from(socket);
    let head = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    client.write_all(head.as_bytes()).unwrap();
    client.read_exact(&mut [0; 100]).unwrap();
    client
}

/// Something that was sent once is in memory once, however many slow clients take it.
#[track_caller]
fn in_memory_once(service: &Service, target: &str) {
    let size = service.whole(target).len();
    assert!(size > 1 << 20, "{size} bytes");
    let before = service.own_memory();
    let clients: Vec<_> = (0..10)
        .map(|_| slow_client(service.address, target))
        .collect();
    for _ in 0..10 {
        let response = service.request("HEAD", target, &[]);
        let length = response.header("content-length").unwrap().to_owned();
        assert_eq!(length, size.to_string());
    }
    let more = service.own_memory().saturating_sub(before) / 1024;
    assert!(
        more <= 8 && more < (5 * size) >> 20,
        "10 clients of {size} bytes of {target} take {more} MiB"
    );
    drop(clients);
    assert_eq!(service.whole(target).len(), size);
}

#[test]
fn a_large_list_is_in_memory_once_however_many_take_it() {
    let mut list = line(b"image 1", "hello-v1.raw");
    list.extend(std::iter::repeat_n("# nothing\n", (17 << 20) / 10));
    let mut hello = versions(2).0;
    sign(&mut hello, list.as_bytes(), &[], &[]);
    let registry = Registry::with_hello(hello);
    let service = Service::of(&registry);
    assert!(service.listing() == list);
    in_memory_once(&service, "/hello/SHA256SUMS");
}

#[test]
fn a_large_page_is_in_memory_once_however_many_take_it() {
    let long = "x".repeat(200);
    let names = (0..30_000).map(|n| line(b"image", &format!("hello-{n}-{long}.raw")));
    let mut hello = Repository::default();
    sign(&mut hello, names.collect::<String>().as_bytes(), &[], &[]);
    let registry = Registry::with_hello(hello);
    let service = Service::start(registry.settings() + "listing-ttl-sec = 60\n");
    in_memory_once(&service, "/hello/");
}

#[test]
fn a_length_of_nothing_is_not_believed_of_a_file_in_a_signed_list() {
    let (hello, list) = signed();
    let registry = Registry::with_hello(hello);
    let nothing = Fault::header("Content-Length", "0");
    registry.fault("HEAD /v2/hello/blobs/", nothing);
    let service = Service::of(&registry);
    assert_eq!(service.listing(), list);
    assert_eq!(service.whole("/hello/hello-9.raw"), b"image 9");
}

#[test]
fn names_in_the_signed_index_of_frostyard_are_those_of_its_titles() {
    let name = "docker_29.1+1_debian_amd64.raw.zst";
    let mut docker = Repository::default();
    let layer = docker.file(
        "application/vnd.frostyard.sysext.layer.v1.raw+zstd",
        name,
        b"docker",
    );
    let sysext = json!({"artifactType": "application/vnd.frostyard.sysext.v1"});
    let artifact = docker.artifact(&[layer], sysext);
    docker.point("29.1_P1", &artifact);
    let list = line(b"docker", name);
    let layers = [
        docker.file("text/plain", "SHA256SUMS", list.as_bytes()),
        docker.file("application/pgp-signature", "SHA256SUMS.gpg", b"signature"),
    ];
    let index = json!({"artifactType": "application/vnd.frostyard.sysext.index.v1"});
    let index = docker.artifact(&layers, index);
    docker.point("index", &index);
    let registry = Registry::start();
    registry.put("frostyard/docker", docker);
    let more = "[repository.by-tags]\nsource = \"frostyard/docker\"\nsigned-list = \"\"\n";
    let service = Service::start(registry.settings() + more);
    let directory = "/frostyard/docker";
    let signed = service.get(&format!("{directory}/SHA256SUMS"));
    assert_eq!(signed.text(), list);
    let signature = service.get(&format!("{directory}/SHA256SUMS.gpg"));
    assert_eq!(signature.text(), "signature");
    let path = format!("{directory}/docker_29.1%2B1_debian_amd64.raw.zst");
    assert_eq!(service.whole(&path), b"docker");
    let by_tags = service.get("/by-tags/SHA256SUMS");
    assert_eq!(by_tags.text(), line(b"docker", "by-tags-29.1_P1.raw.zst"));
}
