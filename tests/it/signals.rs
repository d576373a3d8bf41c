//! SIGTERM, SIGINT and SIGHUP: how the service ends when it is told to.

use std::fs;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::client::Connection;
use crate::content::{Repository, noise};
use crate::images::{layer, push};
use crate::registry::{Fault, Registry};
use crate::service::{Folder, Service, Setup, eventually};

fn send(service: &Service, signal: Signal) {
    let pid = Pid::from_raw(service.pid().try_into().unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

const SOON: Duration = Duration::from_secs(2);

/// A service whose one image of half a megabyte takes some 1.6 s.
fn slow(setup: impl FnOnce(Setup) -> Setup) -> (Registry, Service, Vec<u8>) {
    let image = noise(512 << 10);
    let mut hello = Repository::default();
    hello.oras_push("v1", "hello.raw", &image);
    let registry = Registry::with_hello(hello);
    registry.fault("/blobs/", Fault::Drip(32 << 10, Duration::from_millis(100)));
    let service = setup(Setup::of(&registry)).start();
    (registry, service, image)
}

#[test]
fn answers_under_way_are_finished_and_nothing_else_is_waited_for() {
    for signal in [Signal::TERM, Signal::INT] {
        let (_registry, mut service, image) = slow(Setup::own_cache);
        service.listing();
        let mut silent = TcpStream::connect(service.address).unwrap();
        let mut download = Connection::open(service.address);
        download.ask("/hello/hello-v1.raw");
        let head = download.receive_head().unwrap();
        assert_eq!(head.status, 200);
        send(&service, signal);
        let end = std::io::Read::read(&mut silent, &mut [0]);
        assert_eq!(end.unwrap(), 0, "a silent connection is closed at once");
        assert!(service.is_running(), "a download is under way");
        let mut body = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = download.read(&mut buffer) {
            body.extend_from_slice(&buffer[..count]);
        }
        assert!(body == image, "{} of {} bytes", body.len(), image.len());
        let status = service.wait(SOON).expect("it stays");
        assert_eq!(status.code(), Some(0));
        let trouble = service.log.trouble_so_far();
        assert_eq!(trouble, Vec::<String>::new());
    }
}

#[test]
fn a_second_signal_cuts_short_what_is_under_way_and_says_so() {
    let (_registry, mut service, image) = slow(|setup| setup);
    service.listing();
    let mut download = Connection::open(service.address);
    download.ask("/hello/hello-v1.raw");
    assert_eq!(download.receive_head().unwrap().status, 200);
    send(&service, Signal::TERM);
    thread::sleep(Duration::from_millis(300));
    assert!(service.is_running());
    send(&service, Signal::TERM);
    let status = service.wait(SOON).expect("it stays");
    assert_eq!(status.code(), Some(0));
    let mut arrived = 0;
    while let Ok(count @ 1..) = download.read(&mut [0; 4096]) {
        arrived += count;
    }
    assert!(arrived < image.len());
    let line = service.log.one_trouble();
    let expected =
        "warning: GET /hello/hello-v1.raw: answer cut short, for the service was told to stop";
    assert_eq!(line, expected);
}

#[test]
fn work_in_the_background_is_given_up_and_leaves_no_file() {
    let folder = Folder::new();
    let mut hello = Repository::default();
    let (small, large) = (layer(&[("a", b"1")]), layer(&[("b", &noise(256 << 10))]));
    push(&mut hello, "v1", &[&small, &large]);
    let registry = Registry::with_hello(hello);
    registry.fault("/blobs/", Fault::Drip(1 << 10, Duration::from_millis(100)));
    let mut service = Setup::of(&registry).cache(&folder).start();
    let mut client = Connection::open(service.address);
    client.ask("/hello/SHA256SUMS");
    let unfinished = || fs::read_dir(folder.path().join("tmp")).map_or(0, Iterator::count);
    eventually("it is being flattened", || unfinished() > 0);
    drop(client);
    thread::sleep(Duration::from_millis(500));
    assert!(service.is_running() && unfinished() > 0, "it goes on");
    send(&service, Signal::TERM);
    let status = service.wait(SOON).expect("it stays");
    assert_eq!((status.code(), unfinished()), (Some(0), 0));
}

#[test]
fn after_sighup_it_leaves_as_soon_as_there_is_no_client() {
    let (_registry, mut service, image) = slow(|setup| setup);
    service.listing();
    thread::scope(|scope| {
        let download = scope.spawn(|| service.whole("/hello/hello-v1.raw"));
        thread::sleep(Duration::from_millis(300));
        send(&service, Signal::HUP);
        thread::sleep(Duration::from_millis(100));
        // It goes on accepting meanwhile.
        service.listing();
        assert!(download.join().unwrap() == image);
    });
    let begin = Instant::now();
    let status = service.wait(SOON).expect("it stays");
    assert_eq!(status.code(), Some(0));
    assert!(begin.elapsed() < SOON);
}
