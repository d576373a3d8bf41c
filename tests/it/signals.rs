//! SIGTERM, SIGINT and SIGHUP: how the service ends, or reads its settings again, when it is told to.

use std::fs;
use std::net::TcpStream;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::client::Connection;
use crate::content::{Repository, noise};
use crate::images::{layer, push};
use crate::registry::{Fault, Registry};
use crate::service::{Folder, Service, Setup, command, eventually, output};

pub fn send(service: &Service, signal: Signal) {
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
    let start = "warning: GET /hello/hello-v1.raw: answer cut short at ";
    let end = " %), for the service was told to stop";
    assert!(line.starts_with(start) && line.ends_with(end), "{line}");
    let sent: f64 = line[start.len()..]
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(sent > 0.0 && line.contains(" KiB of 512.0 KiB ("), "{line}");
}

#[test]
fn a_listing_and_a_download_are_both_finished_before_it_stops() {
    let (registry, mut service, image) = slow(|setup| setup);
    service.listing();
    registry.fault("/manifests/", Fault::Delay(Duration::from_millis(700)));
    thread::scope(|scope| {
        let download = scope.spawn(|| service.whole("/hello/hello-v1.raw"));
        let channel = scope.spawn(|| service.listing_of("hello:v1"));
        thread::sleep(Duration::from_millis(300));
        send(&service, Signal::TERM);
        assert!(download.join().unwrap() == image);
        assert!(channel.join().unwrap().ends_with("  hello.raw\n"));
    });
    let status = service.wait(SOON).expect("it stays");
    assert_eq!(status.code(), Some(0));
    assert_eq!(service.log.trouble_so_far(), Vec::<String>::new());
}

/// A service in the middle of flattening an image, with its cache here, and the client that waits for the listing.
fn flattening(folder: &Folder) -> (Registry, Service, Connection) {
    let mut hello = Repository::default();
    let (small, large) = (layer(&[("a", b"1")]), layer(&[("b", &noise(256 << 10))]));
    push(&mut hello, "v1", &[&small, &large]);
    let registry = Registry::with_hello(hello);
    registry.fault("/blobs/", Fault::Drip(1 << 10, Duration::from_millis(100)));
    let service = Setup::of(&registry).cache(folder).start();
    let mut client = Connection::open(service.address);
    client.ask("/hello/SHA256SUMS");
    eventually("it is being flattened", || unfinished(folder) > 0);
    (registry, service, client)
}

/// The temporary files in a cache.
fn unfinished(cache: &Folder) -> usize {
    fs::read_dir(cache.path().join("tmp")).map_or(0, Iterator::count)
}

#[test]
fn work_in_the_background_is_given_up_and_leaves_no_file() {
    let folder = Folder::new();
    let (_registry, mut service, client) = flattening(&folder);
    let unfinished = || unfinished(&folder);
    drop(client);
    thread::sleep(Duration::from_millis(500));
    assert!(service.is_running() && unfinished() > 0, "it goes on");
    send(&service, Signal::TERM);
    let status = service.wait(SOON).expect("it stays");
    assert_eq!((status.code(), unfinished()), (Some(0), 0));
}

/// Two services in one process: the one before a reload leaves no file either.
#[test]
fn work_of_the_service_before_a_reload_leaves_no_file() {
    let folder = Folder::new();
    let (_registry, mut service, client) = flattening(&folder);
    let unfinished = || unfinished(&folder);
    send(&service, Signal::HUP);
    let reloaded = service.log.with(&["settings read again"]);
    assert_eq!(reloaded.len(), 1, "{reloaded:?}");
    drop(client);
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

#[test]
fn a_reload_loses_no_download_and_new_clients_get_the_new_settings_each_time() {
    let (registry, mut service, image) = slow(|setup| setup);
    registry.fault("/blobs/", Fault::Drip(8 << 10, Duration::from_millis(100)));
    service.listing();
    let source = format!("source = \"{}/hello\"\n", registry.address);
    let settings = registry.settings();
    thread::scope(|scope| {
        let downloads = [(); 2].map(|()| scope.spawn(|| service.whole("/hello/hello-v1.raw")));
        thread::sleep(Duration::from_millis(300));
        for name in ["first", "second"] {
            assert_eq!(service.get(&format!("/{name}/SHA256SUMS")).status, 404);
            service.write_settings(&format!("{settings}[repository.{name}]\n{source}"));
            send(&service, Signal::HUP);
            let line = format!("  {name}-v1.raw\n");
            assert!(service.listing_of(name).ends_with(&line), "at once");
        }
        assert_eq!(service.get("/first/SHA256SUMS").status, 404);
        let is_under_way = |download: &ScopedJoinHandle<'_, _>| !download.is_finished();
        assert!(downloads.iter().all(is_under_way), "in the middle of both");
        for download in downloads {
            assert!(download.join().unwrap() == image);
        }
    });
    let status = service.wait(SOON).expect("it stays");
    assert_eq!(status.code(), Some(0));
    assert_eq!(service.log.trouble_so_far(), Vec::<String>::new());
}

#[test]
fn settings_that_cannot_be_read_again_change_nothing_and_are_told() {
    let (registry, mut service, image) = slow(|setup| setup);
    service.listing();
    thread::scope(|scope| {
        let download = scope.spawn(|| service.whole("/hello/hello-v1.raw"));
        thread::sleep(Duration::from_millis(300));
        service.write_settings(&(registry.settings() + "no-such-key = 1\n"));
        send(&service, Signal::HUP);
        service.listing();
        assert!(download.join().unwrap() == image);
    });
    assert_eq!(service.wait(SOON).expect("it stays").code(), Some(0));
    let line = service.log.one_trouble();
    let start = "error: the settings from before are kept until no client is connected: settings ";
    assert!(
        line.starts_with(start) && line.contains("no-such-key"),
        "{line}"
    );
}

#[test]
fn a_client_that_keeps_its_connection_does_not_keep_the_process_after_sighup() {
    let (_registry, mut service, _image) = slow(|setup| setup);
    let mut client = Connection::open(service.address);
    client.ask("/hello/SHA256SUMS");
    assert_eq!(client.receive("GET").unwrap().header("connection"), None);
    send(&service, Signal::HUP);
    thread::sleep(Duration::from_millis(100));
    assert!(service.is_running(), "the client may ask again");
    client.ask("/hello/SHA256SUMS");
    let answer = client.receive("GET").unwrap();
    assert_eq!(
        (answer.status, answer.header("connection")),
        (200, Some("close"))
    );
    assert_eq!(service.wait(SOON).expect("it stays").code(), Some(0));
}

#[test]
fn a_stop_after_a_reload_finishes_what_is_under_way() {
    let (_registry, mut service, image) = slow(|setup| setup);
    service.listing();
    thread::scope(|scope| {
        let download = scope.spawn(|| service.whole("/hello/hello-v1.raw"));
        thread::sleep(Duration::from_millis(300));
        send(&service, Signal::HUP);
        thread::sleep(Duration::from_millis(100));
        send(&service, Signal::TERM);
        assert!(download.join().unwrap() == image);
    });
    assert_eq!(service.wait(SOON).expect("it stays").code(), Some(0));
    assert_eq!(service.log.trouble_so_far(), Vec::<String>::new());
}

/// systemd's job would fail if the process ended before the command of `ExecReload=` was seen to end.
#[test]
fn a_reload_without_a_client_is_done_before_the_process_leaves() {
    let (_registry, mut service, _) = slow(|setup| setup);
    service.listing();
    send(&service, Signal::HUP);
    thread::sleep(Duration::from_millis(500));
    assert!(service.is_running(), "it left at once");
    assert_eq!(service.wait(SOON).expect("it stays").code(), Some(0));
}

#[test]
fn the_command_of_the_unit_reloads() {
    let (_registry, mut service, image) = slow(|setup| setup);
    service.listing();
    thread::scope(|scope| {
        let download = scope.spawn(|| service.whole("/hello/hello-v1.raw"));
        thread::sleep(Duration::from_millis(300));
        let reloaded = output(command(&["reload", &service.pid().to_string()]));
        assert_eq!(
            (reloaded.status.code(), &reloaded.stderr[..]),
            (Some(0), &b""[..])
        );
        assert!(download.join().unwrap() == image);
    });
    assert_eq!(service.wait(SOON).expect("it stays").code(), Some(0));
    for process in ["0", "2147483647"] {
        let failed = output(command(&["reload", process]));
        assert_eq!(failed.status.code(), Some(69), "{failed:?}");
    }
}
