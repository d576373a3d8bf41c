//! The `ETag` of a file is its digest, and a client that has it gets no bytes, as long as it would get them.

use crate::client::Connection;
use crate::content::{Repository, digest, versions};
use crate::images::{layer, push};
use crate::registry::{Fault, Guard, Registry, count};
use crate::service::{ANEW, Folder, Service, Setup, later};

const FILE: &str = "/hello/hello-v0.raw";

fn tag_of(bytes: &[u8]) -> String {
    format!("\"{}\"", digest(bytes))
}

fn has(bytes: &[u8]) -> String {
    format!("If-None-Match: {}", tag_of(bytes))
}

#[test]
fn every_file_has_its_digest_as_a_tag_and_whoever_has_it_gets_none_of_its_bytes() {
    let mut hello = versions(1).0;
    let layers = [layer(&[("a", b"a")]), layer(&[("b", b"b")])];
    push(&mut hello, "made", &[&layers[0], &layers[1]]);
    let registry = Registry::with_hello(hello);
    let service = Setup::of(&registry).own_cache().start();
    let listing = service.listing();
    assert!(listing.contains("hello-made.tar.gz"), "{listing}");
    for name in ["hello-v0.raw", "hello-made.tar.gz", "hello-v0.raw.sha256"] {
        let target = format!("/hello/{name}");
        let first = service.get(&target);
        assert_eq!((first.status, first.whole), (200, true), "{name}");
        let tag = tag_of(&first.body);
        assert_eq!(first.header("etag"), Some(&*tag), "{name}");
        registry.take_requests();
        // One connection for all: a stray body would be the next answer.
        let mut connection = Connection::open(service.address);
        for method in ["GET", "HEAD", "GET"] {
            let request = format!(
                "{method} {target} HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: {tag}\r\n\r\n"
            );
            connection.send(request.as_bytes()).unwrap();
            let again = connection.receive(method).unwrap();
            assert_eq!(
                (again.status, &*again.body),
                (304, &b""[..]),
                "{method} {name}"
            );
            assert_eq!(again.header("etag"), Some(&*tag), "{method} {name}");
            assert_eq!(again.header("content-length"), None, "{method} {name}");
        }
        let requests = registry.take_requests();
        assert_eq!(count(&requests, "GET /v2/hello/blobs/"), 0, "{requests:?}");
        let other = service.request("GET", &target, &[&has(b"other")]);
        assert_eq!((other.status, other.body), (200, first.body), "{name}");
    }
}

#[test]
fn a_file_that_changed_is_sent_to_whoever_has_the_one_before() {
    let registry = Registry::with_hello(versions(1).0);
    let service = Service::start(registry.settings() + ANEW);
    service.listing();
    let ask = || service.request("GET", FILE, &[&has(b"image 0")]);
    assert_eq!(ask().status, 304);
    registry.change(|hello| hello.oras_push("v0", "hello.raw", b"newer"));
    assert_eq!(ask().status, 304, "as the listing promised");
    later();
    service.listing();
    let changed = ask();
    assert_eq!((changed.status, &*changed.body), (200, &b"newer"[..]));
}

#[test]
fn what_would_not_be_sent_is_not_said_to_be_unchanged() {
    let registry = Registry::with_hello(versions(1).0);
    let cache = Folder::new();
    let start = || Setup::new(registry.settings() + ANEW).cache(&cache).start();
    let service = start();
    service.listing();
    for target in [
        "/hello/nothing.raw",
        "/hello/hello-v0.raw.json",
        "/other/hello-v0.raw",
    ] {
        assert_eq!(
            service.request("GET", target, &["If-None-Match: *"]).status,
            404
        );
    }
    let status = |service: &Service| service.request("GET", FILE, &[&has(b"image 0")]).status;
    // The next process has only the promise of the first.
    drop(service);
    registry.guard(Guard::new(|_| false).status(403));
    assert_eq!(
        status(&start()),
        403,
        "to a login that may not read it any more"
    );
    registry.behave();
    registry.fault("/manifests/", Fault::Status(500));
    assert_eq!(
        status(&start()),
        502,
        "while the registry does not say that it has it"
    );
    registry.behave();
    assert_eq!(status(&start()), 304);
    registry.put("hello", Repository::default());
    assert_eq!(status(&start()), 404, "of a repository that has it no more");
}

#[test]
fn of_a_file_that_the_registry_sends_there_is_no_tag() {
    let registry = Registry::with_hello(versions(1).0);
    let settings = "[repository.hello]\nblobs = \"redirect\"\n";
    let service = Setup::of(&registry).settings(settings).start();
    let redirect = service.get(FILE);
    assert_eq!((redirect.status, redirect.header("etag")), (307, None));
    assert_eq!(
        service.request("GET", FILE, &[&has(b"image 0")]).status,
        304
    );
}
