//! Registries as they are: pages, missing and wrong headers, refusals, waits, nonsense.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::content::{OCI_MANIFEST, Repository};
use crate::listings::{ANEW, line, settings, versions};
use crate::registry::{Fault, Link, Registry, count, digest_header};
use crate::service::{Folder, Service, Setup};

#[test]
fn pages_are_followed_wherever_the_link_points_at_the_same_registry() {
    for link in [Link::Relative, Link::Absolute] {
        let (hello, listing) = versions(7);
        let registry = Registry::with_hello(hello);
        registry.fault("/tags/list", Fault::Pages(2, link.clone()));
        let service = Service::start(settings(&registry, ""));
        assert_eq!(service.listing(), listing, "{link:?}");
    }
}

#[test]
fn a_page_at_another_origin_is_not_asked_for() {
    let stranger = Registry::with_hello(versions(7).0);
    let registry = Registry::with_hello(versions(7).0);
    let origin = format!("http://{}", stranger.address);
    registry.fault("/tags/list", Fault::Pages(2, Link::Foreign(origin)));
    let service = Service::start(settings(&registry, ""));
    service.get("/hello/SHA256SUMS");
    assert_eq!(stranger.take_requests(), Vec::<String>::new());
}

#[test]
fn a_page_that_names_itself_as_the_next_ends_the_list() {
    let registry = Registry::with_hello(versions(4).0);
    registry.fault("/tags/list", Fault::Pages(2, Link::Itself));
    let service = Service::start(settings(&registry, ""));
    let begin = Instant::now();
    service.get("/hello/SHA256SUMS");
    assert!(begin.elapsed() < Duration::from_secs(5));
    let lists = count(&registry.take_requests(), "/tags/list");
    assert!(lists <= 3, "the same page was asked for {lists} times");
}

#[test]
fn a_tag_list_without_end_is_a_bad_gateway_and_costs_little_memory() {
    let registry = Registry::with_hello(versions(1).0);
    registry.fault(
        "/tags/list",
        Fault::Body(br#"{"name":"hello","tags":["v0""#.to_vec()),
    );
    registry.fault("/tags/list", Fault::Endless(r#","v0""#));
    let service = Service::start(settings(&registry, ""));
    let response = service.get("/hello/SHA256SUMS");
    assert_eq!((response.status, response.body.len()), (502, 0));
    assert!(service.peak_memory() < 64, "{} MiB", service.peak_memory());
}

#[test]
fn a_manifest_is_read_whatever_its_headers_say() {
    let wrong = || digest_header(b"something else");
    let ways: Vec<(&str, Vec<(&'static str, Fault)>)> = vec![
        ("no HEAD", vec![("HEAD ", Fault::Status(405))]),
        (
            "no digest",
            vec![("/manifests/", Fault::Header("Docker-Content-Digest", None))],
        ),
        (
            "a digest of another kind",
            vec![(
                "/manifests/v",
                Fault::Header(
                    "Docker-Content-Digest",
                    Some(format!("sha512:{}", "0f".repeat(64))),
                ),
            )],
        ),
        (
            "a wrong digest with the body",
            vec![(
                "GET /v2/hello/manifests/",
                Fault::Header("Docker-Content-Digest", wrong()),
            )],
        ),
        (
            "no type",
            vec![("/manifests/", Fault::Header("Content-Type", None))],
        ),
        (
            "a type with parameters",
            vec![(
                "/manifests/",
                Fault::Header(
                    "Content-Type",
                    Some(format!("{OCI_MANIFEST}; charset=utf-8")),
                ),
            )],
        ),
        (
            "a type of no meaning",
            vec![(
                "/manifests/",
                Fault::Header("Content-Type", Some("text/plain".to_owned())),
            )],
        ),
        (
            "another type",
            vec![(
                "/",
                Fault::Header("Content-Type", Some("application/octet-stream".to_owned())),
            )],
        ),
    ];
    for (why, faults) in ways {
        let (hello, listing) = versions(2);
        let registry = Registry::with_hello(hello);
        for (pattern, fault) in faults {
            registry.fault(pattern, fault);
        }
        // Without a cache, then with one that is cold, then with one that is warm.
        let cache = Folder::new();
        let setup = || Setup::new(settings(&registry, ""));
        for setup in [setup(), setup().cache(&cache), setup().cache(&cache)] {
            let service = setup.start();
            assert_eq!(service.listing(), listing, "{why}");
            assert_eq!(service.get("/hello/hello-v1.raw").body, b"image 1", "{why}");
        }
    }
}

#[test]
fn a_wrong_digest_in_a_head_never_makes_a_wrong_line() {
    let (hello, listing) = versions(3);
    let of_another = hello.manifests[&hello.tags["v0"]].bytes.clone();
    let registry = Registry::with_hello(hello);
    let cache = Folder::new();
    let start = || Setup::new(settings(&registry, "")).cache(&cache).start();
    assert_eq!(start().listing(), listing);
    let without = listing.replace(&line(b"image 1", "hello-v1.raw"), "");
    let wrong = digest_header(b"nothing that is there");
    registry.fault(
        "HEAD /v2/hello/manifests/v1",
        Fault::Header("Docker-Content-Digest", wrong),
    );
    let found = start().listing();
    assert!([&listing, &without].contains(&&found), "{found}");
    // Who lies consistently is believed: the digest is all that tells a tag's manifest.
    registry.behave();
    let other = digest_header(&of_another);
    registry.fault(
        "HEAD /v2/hello/manifests/v1",
        Fault::Header("Docker-Content-Digest", other),
    );
    assert_eq!(
        start().listing(),
        listing.replace(
            &line(b"image 1", "hello-v1.raw"),
            &line(b"image 0", "hello-v1.raw")
        )
    );
}

#[test]
fn a_registry_that_refuses_is_passed_on_as_what_it_is() {
    for (upstream, status) in [
        (401, 403),
        (403, 403),
        (404, 404),
        (500, 502),
        (400, 502),
        (418, 502),
    ] {
        let registry = Registry::with_hello(versions(1).0);
        registry.fault("/tags/list", Fault::Status(upstream));
        let service = Service::start(settings(&registry, ""));
        let response = service.get("/hello/SHA256SUMS");
        assert_eq!(
            (response.status, response.body.len()),
            (status, 0),
            "for {upstream}"
        );
        let reason = response
            .header("x-reason")
            .unwrap_or_else(|| panic!("no X-Reason for {upstream}"));
        assert!(
            upstream == 404 || reason.contains(&upstream.to_string()),
            "{upstream} is not in {reason:?}"
        );
    }
}

#[test]
fn a_busy_registry_is_waited_for_when_it_is_short() {
    let (hello, listing) = versions(2);
    let registry = Registry::with_hello(hello);
    registry.fault_times(1, "/tags/list", Fault::Status(429));
    registry.fault_times(
        1,
        "/tags/list",
        Fault::Header("Retry-After", Some("1".to_owned())),
    );
    registry.fault_times(1, "/manifests/v1", Fault::Status(503));
    registry.fault_times(
        1,
        "/manifests/v1",
        Fault::Header("Retry-After", Some("1".to_owned())),
    );
    let service = Service::start(settings(&registry, ""));
    let begin = Instant::now();
    assert_eq!(service.listing(), listing);
    assert!(
        begin.elapsed() >= Duration::from_secs(1),
        "it did not wait: {:?}",
        begin.elapsed()
    );
}

#[test]
fn a_registry_that_stays_busy_is_passed_on_with_its_retry_after() {
    let registry = Registry::with_hello(versions(1).0);
    registry.fault("/tags/list", Fault::Status(429));
    registry.fault(
        "/tags/list",
        Fault::Header("Retry-After", Some("3600".to_owned())),
    );
    let service = Service::start(settings(&registry, ""));
    let begin = Instant::now();
    let response = service.get("/hello/SHA256SUMS");
    assert_eq!((response.status, response.body.len()), (503, 0));
    let seconds: u64 = response
        .header("retry-after")
        .expect("no Retry-After")
        .parse()
        .unwrap();
    assert!(seconds > 0, "Retry-After: {seconds}");
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );
}

#[test]
fn a_registry_that_fails_once_is_asked_again() {
    let (hello, listing) = versions(3);
    let registry = Registry::with_hello(hello);
    registry.fault_times(1, "/tags/list", Fault::Status(500));
    let service = Service::start(settings(&registry, ""));
    let first = service.get("/hello/SHA256SUMS");
    // Asked again at once, or by the next client: not remembered as the truth.
    assert!([200, 502].contains(&first.status), "{}", first.status);
    assert_eq!(service.listing(), listing);
}

#[test]
fn nonsense_from_upstream_is_a_bad_gateway() {
    let ways = [
        Fault::Raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        Fault::Raw(Vec::new()),
        Fault::Raw(b"HTTP/1.1 200".to_vec()),
        Fault::Body(b"<html>Welcome to nginx!</html>".to_vec()),
        Fault::Body(br#"{"name":"hello","tags":["v0""#.to_vec()),
        Fault::Body(br#"["v0"]"#.to_vec()),
        Fault::CutAfter(5),
        Fault::Redirect(String::new()),
        Fault::Redirect("ftp://127.0.0.1".to_owned()),
    ];
    let registry = Registry::with_hello(versions(1).0);
    let service = Service::start(settings(&registry, ANEW));
    for way in ways {
        registry.behave();
        registry.fault("/tags/list", way.clone());
        let response = service.get("/hello/SHA256SUMS");
        assert_eq!((response.status, response.body.len()), (502, 0), "{way:?}");
        assert!(response.header("x-reason").is_some(), "{way:?}");
    }
    registry.behave();
    assert_eq!(service.listing(), versions(1).1);
}

#[test]
fn a_registry_that_is_not_there_is_a_bad_gateway() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let service = Service::start(format!("registry = \"{address}\"\n"));
    let response = service.get("/hello/SHA256SUMS");
    assert_eq!((response.status, response.body.len()), (502, 0));
    assert!(
        response
            .header("x-reason")
            .unwrap()
            .contains(&address.to_string()),
        "{response:?}"
    );
}

#[test]
fn an_index_is_followed_to_this_machines_architecture() {
    let mut hello = Repository::default();
    hello.index(
        "v1",
        &[
            ("amd64", "hello.raw", b"for a PC"),
            ("arm64", "hello.raw", b"for a phone"),
        ],
    );
    let registry = Registry::with_hello(hello);
    let service = Service::start(settings(&registry, ""));
    let (bytes, name): (&[u8], _) = match std::env::consts::ARCH {
        "x86_64" => (b"for a PC", "hello-v1-x86-64.raw"),
        "aarch64" => (b"for a phone", "hello-v1-arm64.raw"),
        other => panic!("name {other} here"),
    };
    assert_eq!(service.listing(), line(bytes, name));
    assert_eq!(service.get(&format!("/hello/{name}")).body, bytes);
}
