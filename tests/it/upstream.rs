//! Registries in trouble: refusals, failures, nonsense.

use crate::content::{Repository, line, versions};
use crate::registry::{Fault, Registry, nowhere};
use crate::service::{ANEW, Service};

#[test]
fn a_tag_list_without_end_is_a_bad_gateway_and_costs_little_memory() {
    let registry = Registry::with_hello(versions(1).0);
    registry.fault(
        "/tags/list",
        Fault::Body(br#"{"name":"hello","tags":["v0""#.to_vec()),
    );
    registry.fault("/tags/list", Fault::Endless(r#","v0""#));
    let service = Service::of(&registry);
    service.no_listing(502);
    assert!(service.peak_memory() < 64, "{} MiB", service.peak_memory());
}

#[test]
fn a_registry_that_refuses_is_passed_on_as_what_it_is() {
    for (upstream, status, reason) in [
        (401, 403, "registry wants a login"),
        (403, 403, "status 403"),
        (404, 404, "registry has no"),
        (500, 502, "status 500"),
        (400, 502, "status 400"),
        (418, 502, "status 418"),
    ] {
        let registry = Registry::with_hello(versions(1).0);
        registry.fault("/tags/list", Fault::Status(upstream));
        let service = Service::of(&registry);
        let response = service.get("/hello/SHA256SUMS");
        assert_eq!(
            (response.status, response.body.len()),
            (status, 0),
            "for {upstream}"
        );
        let found = response.header("x-reason").unwrap();
        assert!(found.contains(reason), "for {upstream}: {found}");
    }
}

#[test]
fn a_registry_that_fails_once_is_asked_again() {
    let (registry, listing) = Registry::with_versions(3);
    registry.fault_times(1, "/tags/list", Fault::Status(500));
    let service = Service::of(&registry);
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
    let service = Service::start(registry.settings() + ANEW);
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
    let address = nowhere();
    let service = Service::start(format!("registry = \"{address}\"\n"));
    let response = service.no_listing(502);
    assert!(
        response.header("x-reason").unwrap().contains(&address),
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
    let service = Service::of(&registry);
    let (bytes, name): (&[u8], _) = match std::env::consts::ARCH {
        "x86_64" => (b"for a PC", "hello-v1-x86-64.raw"),
        "aarch64" => (b"for a phone", "hello-v1-arm64.raw"),
        other => panic!("name {other} here"),
    };
    assert_eq!(service.listing(), line(bytes, name));
    assert_eq!(service.get(&format!("/hello/{name}")).body, bytes);
}
