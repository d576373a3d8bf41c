//! Tests that take long: the limits for slow clients and slow registries. All of them wait
//! side by side in one test, because there are as many tests at once as there are cores; and tests begin
//! in the order of their names, so this one begins first.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::Connection;
use crate::content::{OCI_TAR, Repository, digest, noise, versions};
use crate::flatten::{self};
use crate::images::{layer, names, push};
use crate::registry::{self, Fault, Registry, count, ranges};
use crate::service::{Service, Setup, eventually};

#[test]
fn slow_clients_and_slow_registries_are_waited_for_so_long_and_no_longer() {
    thread::scope(|scope| {
        let waits = [
            scope.spawn(a_head_byte_by_byte_times_out_after_ten_seconds),
            scope.spawn(a_silent_client_is_let_go),
            scope.spawn(a_connection_that_is_kept_open_does_not_hold_the_service),
            scope.spawn(a_silent_registry_is_a_gateway_timeout),
            scope.spawn(a_registry_that_sends_byte_by_byte_holds_nobody),
            scope.spawn(a_download_that_stops_is_gone_on_with_by_range),
            scope.spawn(a_download_that_stops_for_good_is_given_up),
            scope.spawn(a_download_that_is_given_up_says_what_the_registry_said_last),
            scope.spawn(a_download_that_never_begins_is_an_error_in_time),
            scope.spawn(silent_mirrors_leave_time_for_the_registry),
            scope.spawn(an_image_that_takes_too_long_is_listed_when_it_is_done),
            scope.spawn(a_list_that_stalls_is_a_gateway_timeout),
            scope.spawn(a_list_that_trickles_is_a_gateway_timeout),
            scope.spawn(an_error_of_a_blob_that_trickles_is_told_without_its_end),
            scope.spawn(a_config_that_trickles_has_the_time_of_a_manifest),
        ];
        for wait in waits {
            if let Err(panic) = wait.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

fn hello(more: &str) -> (Registry, Service) {
    let registry = Registry::with_hello(versions(1).0);
    let service = Service::start(registry.settings() + more);
    (registry, service)
}

fn a_head_byte_by_byte_times_out_after_ten_seconds() {
    let (_registry, service) = hello("");
    let mut connection = Connection::open(service.address);
    let mut socket = connection.socket().try_clone().unwrap();
    let begin = Instant::now();
    thread::spawn(move || {
        let head = b"GET /hello/SHA256SUMS HTTP/1.1\r\nX: ";
        for byte in head.iter().chain(std::iter::repeat(&b'y')).take(100) {
            thread::sleep(Duration::from_millis(250));
            if socket.write_all(&[*byte]).is_err() {
                return;
            }
        }
    });
    assert_eq!(connection.receive("GET").unwrap().status, 408);
    let seconds = begin.elapsed().as_secs_f32();
    assert!((9.0..12.0).contains(&seconds), "408 after {seconds} s");
}

fn a_silent_client_is_let_go() {
    let (_registry, service) = hello("");
    let mut connection = Connection::open(service.address);
    let begin = Instant::now();
    let _ = connection.receive("GET");
    let seconds = begin.elapsed().as_secs_f32();
    assert!((9.0..12.0).contains(&seconds), "let go after {seconds} s");
}

fn a_connection_that_is_kept_open_does_not_hold_the_service() {
    let (_registry, mut service) = hello("idle-timeout-sec = 0.1\n");
    let mut connection = Connection::open(service.address);
    connection.ask("/hello/SHA256SUMS");
    assert_eq!(connection.receive("GET").unwrap().status, 200);
    let status = service.wait(Duration::from_secs(15)).expect("it stays");
    assert_eq!(status.code(), Some(0));
}

fn a_silent_registry_is_a_gateway_timeout() {
    let (registry, service) = hello("");
    registry.fault("/tags/list", Fault::Delay(Duration::from_secs(120)));
    let response = service.get("/hello/SHA256SUMS");
    assert_eq!(
        (response.status, response.body.len()),
        (504, 0),
        "{:?}",
        response.headers
    );
}

fn a_registry_that_sends_byte_by_byte_holds_nobody() {
    let (registry, service) = hello("listing-ttl-sec = 0\n");
    registry.put("other", versions(1).0);
    registry.fault("/v2/hello/", Fault::Drip(1, Duration::from_millis(1500)));
    let begin = Instant::now();
    let ask = || {
        let mut client = Connection::open_for(service.address, Duration::from_secs(100));
        client.ask("/hello/SHA256SUMS");
        client
    };
    let mut first = ask();
    eventually("it is asked", || {
        count(&registry.take_requests(), "/v2/hello/") > 0
    });
    // Those who wait for the same and leave are let go at once.
    let (second, mut third) = (ask(), ask());
    thread::sleep(Duration::from_secs(1));
    drop(second);
    eventually("nobody waits for who has left", || {
        service.log.with(&["client went away"]).len() == 1
    });
    assert_eq!(service.get("/other/SHA256SUMS").status, 200);
    // The others have one answer, and it comes before systemd's patience is over.
    for client in [&mut first, &mut third] {
        assert_eq!(client.receive("GET").unwrap().status, 504);
    }
    let seconds = begin.elapsed().as_secs_f32();
    assert!(seconds < 45.0, "answered after {seconds} s");
}

fn one_image(bytes: usize) -> (Registry, Service, Vec<u8>) {
    let image = noise(bytes);
    let (registry, service) = hello("");
    registry.change(|hello| hello.oras_push("v1", "hello.raw", &image));
    (registry, service, image)
}

fn a_download_that_stops_is_gone_on_with_by_range() {
    let (registry, service, image) = one_image(500_000);
    registry.fault_times(1, "/blobs/", Fault::StallAfter(200_000));
    let begin = Instant::now();
    assert!(service.whole("/hello/hello-v1.raw") == image);
    // Before systemd-pull gives up, which it does after 60 s without a byte.
    assert!(begin.elapsed() < Duration::from_secs(45));
    assert_eq!(ranges(&registry), ["all", "200000-499999"]);
}

fn a_download_that_stops_for_good_is_given_up() {
    let (registry, service, image) = one_image(500_000);
    // The first connection brings some bytes, and no later one any.
    registry.fault("/blobs/", Fault::StallAfter(0));
    registry.fault_times(1, "/blobs/", Fault::StallAfter(200_000));
    let begin = Instant::now();
    let mut connection = Connection::open_for(service.address, Duration::from_secs(100));
    connection.ask("/hello/hello-v1.raw");
    let response = connection.receive("GET").unwrap();
    assert_eq!((response.status, response.whole), (200, false));
    assert!(image.starts_with(&response.body));
    let seconds = begin.elapsed().as_secs_f32();
    assert!(
        (55.0..70.0).contains(&seconds),
        "given up after {seconds} s"
    );
    let line = &service.log.with(&["download cut short"])[0];
    let expected = "after 200000 of 500000 bytes: nothing arrived for";
    assert!(line.contains(expected), "{line}");
    assert!(line.ends_with("timeout: per read"), "{line}");
}

fn a_download_that_is_given_up_says_what_the_registry_said_last() {
    let (registry, service, _) = one_image(500_000);
    registry.fault_times(1, "/blobs/", Fault::CutAfter(200_000));
    registry.fault("/blobs/", Fault::StatusOfARange(502));
    let mut connection = Connection::open_for(service.address, Duration::from_secs(100));
    connection.ask("/hello/hello-v1.raw");
    assert!(!connection.receive("GET").unwrap().whole);
    let line = &service.log.with(&["download cut short"])[0];
    let expected = "nothing arrived for";
    assert!(line.contains(expected), "{line}");
    let expected = "registry error (status 502) at ";
    assert!(line.contains(expected), "{line}");
}

fn a_download_that_never_begins_is_an_error_in_time() {
    let (registry, service, _) = one_image(500_000);
    registry.fault("/blobs/", Fault::StallAfter(0));
    let begin = Instant::now();
    let mut connection = Connection::open_for(service.address, Duration::from_secs(100));
    connection.ask("/hello/hello-v1.raw");
    let response = connection.receive("GET").unwrap();
    let reason = response.header("x-reason").unwrap();
    assert_eq!((response.status, response.body.len()), (502, 0), "{reason}");
    assert!(
        reason.contains("after 0 of 500000 bytes: nothing arrived for "),
        "{reason}"
    );
    // systemd-pull would give up after 60 s.
    let seconds = begin.elapsed().as_secs_f32();
    assert!(
        (39.0..45.0).contains(&seconds),
        "answered after {seconds} s"
    );
}

fn silent_mirrors_leave_time_for_the_registry() {
    let image = noise(1000);
    let places: [Registry; 3] = std::array::from_fn(|_| registry::one_image(&image));
    let [registry, first, second] = &places;
    for mirror in [first, second] {
        mirror.fault("/blobs/", Fault::Delay(Duration::from_secs(100)));
    }
    let service = Setup::with_mirrors(registry, &[first, second]).start();
    service.listing();
    let begin = Instant::now();
    let mut connection = Connection::open_for(service.address, Duration::from_secs(100));
    connection.ask("/hello/hello-v1.raw");
    let response = connection.receive("GET").unwrap();
    assert_eq!((response.status, response.body == image), (200, true));
    let seconds = begin.elapsed().as_secs_f32();
    assert!(seconds < 39.0, "answered after {seconds} s");
    assert_eq!(service.log.with(&["fails, going on without it"]).len(), 2);
}

fn an_image_that_takes_too_long_is_listed_when_it_is_done() {
    let mut hello = Repository::default();
    let (large, small) = (
        layer(&[("large", &noise(100_000))]),
        layer(&[("small", b"")]),
    );
    push(&mut hello, "v1", &[&small, &small]);
    push(&mut hello, "v2", &[&large, &small]);
    let registry = Registry::with_hello(hello);
    let slow = digest(&large);
    registry.fault(
        slow.clone().leak(),
        Fault::Drip(2_000, Duration::from_secs(1)),
    );
    let settings = flatten::settings(&registry, "listing-ttl-sec = 0\n");
    let service = Setup::new(settings).own_cache().start();
    // Else it would wait for the other one, which is newer.
    assert_eq!(service.get("/hello:v1/SHA256SUMS").status, 200);
    let begin = Instant::now();
    assert_eq!(names(&service.listing()), ["hello-v1.tar.gz"]);
    let seconds = begin.elapsed().as_secs_f32();
    assert!((39.0..45.0).contains(&seconds), "listed after {seconds} s");
    assert_eq!(service.log.with(&["v2", "still being flattened"]).len(), 1);
    // The next one waits for the same work, which is done soon.
    assert_eq!(
        names(&service.listing()),
        ["hello-v1.tar.gz", "hello-v2.tar.gz"]
    );
    assert_eq!(count(&registry.take_requests(), &slow), 1);
}

/// A listing that the registry does not let end, and how long it took.
fn a_small_body_that_comes_slowly(path: &'static str, faults: &[Fault]) {
    let (registry, service) = hello("");
    for fault in faults {
        registry.fault(path, fault.clone());
    }
    let begin = Instant::now();
    let response = service.get("/hello/SHA256SUMS");
    let seconds = begin.elapsed().as_secs_f32();
    let reason = response.header("x-reason").unwrap();
    assert_eq!(response.status, 504, "{path}: {reason}");
    assert!(
        reason.starts_with("no complete response within 20 s"),
        "{reason}"
    );
    assert!((19.0..25.0).contains(&seconds), "{path}: after {seconds} s");
}

fn a_list_that_stalls_is_a_gateway_timeout() {
    a_small_body_that_comes_slowly("/tags/list", &[Fault::StallAfter(5)]);
}

fn a_list_that_trickles_is_a_gateway_timeout() {
    let drip = Fault::Drip(1, Duration::from_secs(1));
    a_small_body_that_comes_slowly("/tags/list", &[Fault::Body(vec![b' '; 100]), drip]);
}

fn an_error_of_a_blob_that_trickles_is_told_without_its_end() {
    let (registry, service, _) = one_image(1000);
    service.listing();
    registry.fault("/blobs/", Fault::Status(403));
    registry.fault("/blobs/", Fault::Drip(1, Duration::from_secs(1)));
    let begin = Instant::now();
    assert_eq!(service.get("/hello/hello-v1.raw").status, 403);
    let seconds = begin.elapsed().as_secs_f32();
    assert!((19.0..25.0).contains(&seconds), "told after {seconds} s");
}

fn a_config_that_trickles_has_the_time_of_a_manifest() {
    let mut hello = Repository::default();
    let mut slow = String::new();
    for tag in ["v1", "v2", "v3"] {
        let file = hello.file(OCI_TAR, "hello.raw", tag.as_bytes());
        let config = json!({"architecture": "amd64", "os": "linux", "of": tag}).to_string();
        let media_type = "application/vnd.oci.image.config.v1+json";
        let config = hello.blob(media_type, config.as_bytes());
        if tag == "v1" {
            slow = config["digest"].as_str().unwrap().to_owned();
        }
        let artifact = hello.artifact(&[file], json!({"config": config}));
        hello.point(tag, &artifact);
    }
    let registry = Registry::with_hello(hello);
    registry.fault(slow.leak(), Fault::Drip(1, Duration::from_secs(1)));
    let names = "[repository.hello]\nnames = \"{name}-{version}.{arch}\"\n";
    let service = Service::start(registry.settings() + names);
    let begin = Instant::now();
    let response = service.get("/hello/SHA256SUMS");
    let told = response.header("x-incomplete");
    assert_eq!(told, Some("1 of 3 tags were not answered"));
    let seconds = begin.elapsed().as_secs_f32();
    assert!((19.0..25.0).contains(&seconds), "listed after {seconds} s");
    let why = [
        "tag v1 skipped",
        "no complete response within 20 s from config",
    ];
    assert_eq!(service.log.with(&why).len(), 1);
}
