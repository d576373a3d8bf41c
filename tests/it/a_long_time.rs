//! What takes long by its nature: the limits on slow clients and slow registries. All of them wait
//! side by side in one test, for there are as many tests at once as there are cores; and tests begin
//! in the order of their names, so this one begins first.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::Connection;
use crate::listings::{settings, versions};
use crate::registry::{Fault, Registry};
use crate::service::Service;

const LISTING: &[u8] = b"GET /hello/SHA256SUMS HTTP/1.1\r\nHost: x\r\n\r\n";

#[test]
fn slow_clients_and_slow_registries_are_waited_for_so_long_and_no_longer() {
    thread::scope(|scope| {
        let waits = [
            scope.spawn(a_head_byte_by_byte_times_out_after_ten_seconds),
            scope.spawn(a_silent_client_is_let_go),
            scope.spawn(a_connection_that_is_kept_open_does_not_hold_the_service),
            scope.spawn(a_silent_registry_is_a_gateway_timeout),
            scope.spawn(a_download_that_stops_ends_short),
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
    let service = Service::start(settings(&registry, more));
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
    connection.send(LISTING).unwrap();
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

/// systemd-pull gives up after 60 s without a byte, and says "timeout" to its user; we end before it.
fn a_download_that_stops_ends_short() {
    let image = vec![b'x'; 500_000];
    let (registry, service) = hello("");
    registry.change(|hello| hello.oras_push("v1", "hello.raw", &image));
    registry.fault("/blobs/", Fault::Drip(250_000, Duration::from_secs(50)));
    let begin = Instant::now();
    let response = service.request("GET", "/hello/hello-v1.raw", &[]);
    assert!(
        response.status == 504 || !response.whole,
        "{}",
        response.status
    );
    assert!(begin.elapsed() < Duration::from_secs(60));
}
