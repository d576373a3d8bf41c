//! The service leaves when nobody needs it, and nobody notices.

use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use crate::activator::Activator;
use crate::client::try_request;
use crate::content::{Repository, versions};
use crate::registry::{Fault, Registry};
use crate::service::{Folder, Service, Setup};

const SOON: Duration = Duration::from_secs(5);

#[test]
fn it_leaves_with_success_when_nobody_comes() {
    let registry = Registry::with_hello(versions(1).0);
    let mut service = Service::start(registry.settings() + "idle-timeout-sec = 0.3\n");
    let status = service.wait(SOON).expect("it stays");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn it_leaves_with_success_after_the_last_client() {
    let registry = Registry::with_hello(versions(1).0);
    let mut service = Service::start(registry.settings() + "idle-timeout-sec = 1\n");
    // All of them together take longer than that, and each much less, on a busy machine too.
    for _ in 0..5 {
        service.listing();
        thread::sleep(Duration::from_millis(300));
        assert!(service.is_running(), "left between two clients");
    }
    let begin = Instant::now();
    let status = service.wait(SOON).expect("it stays");
    assert_eq!(status.code(), Some(0));
    assert!(
        begin.elapsed() < Duration::from_secs(3),
        "{:?}",
        begin.elapsed()
    );
}

#[test]
fn it_stays_while_a_download_runs() {
    let image = vec![b'x'; 100_000];
    let mut hello = Repository::default();
    hello.oras_push("v1", "hello.raw", &image);
    let registry = Registry::with_hello(hello);
    registry.fault("/blobs/", Fault::Drip(10_000, Duration::from_millis(100)));
    let mut service = Service::start(registry.settings() + "idle-timeout-sec = 0.1\n");
    assert!(service.whole("/hello/hello-v1.raw") == image);
    assert_eq!(service.wait(SOON).expect("it stays").code(), Some(0));
}

#[test]
fn it_tells_systemd_when_it_is_ready_and_when_it_stops() {
    let folder = Folder::new();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let registry = Registry::with_hello(versions(1).0);
    let mut service = Setup::new(registry.settings() + "idle-timeout-sec = 0.2\n")
        .env("NOTIFY_SOCKET", &path)
        .start();
    service.listing();
    assert_eq!(service.wait(SOON).expect("it stays").code(), Some(0));
    socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 4096];
    let mut told = String::new();
    while let Ok(count) = socket.recv(&mut buffer) {
        told += std::str::from_utf8(&buffer[..count]).unwrap();
        told += "\n";
    }
    let ready = told
        .lines()
        .position(|line| line == "READY=1")
        .unwrap_or_else(|| panic!("not READY=1: {told}"));
    let stopping = told
        .lines()
        .position(|line| line == "STOPPING=1")
        .unwrap_or_else(|| panic!("no STOPPING=1: {told}"));
    assert!(ready < stopping && told.contains("STATUS="), "{told}");
}

/// The clients come when the service is about to leave. How many is up to `IDLE_CONNECTIONS`.
#[test]
fn no_connection_is_lost_at_the_idle_deadline() {
    let connections: usize =
        std::env::var("IDLE_CONNECTIONS").map_or(300, |count| count.parse().unwrap());
    // More of them side by side than this, and the machine is too busy to aim.
    let activators = connections.div_ceil(50).min(12);
    let (hello, listing) = versions(1);
    let folder = Folder::with_layout(&hello);
    let config = folder.file(
        "config.toml",
        &format!(
            "idle-timeout-sec = 0.05\n[repository.hello]\nsource = \"oci:{}\"\n",
            folder.path().display()
        ),
    );
    let (answered, starts) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for worker in 0..activators {
            let (config, listing, answered, starts) = (&config, &listing, &answered, &starts);
            scope.spawn(move || {
                let activator = Activator::start(config);
                let mine =
                    connections / activators + usize::from(worker < connections % activators);
                for number in 0..mine {
                    answered
                        .fetch_add(usize::from(is_answered(activator.address, listing)), SeqCst);
                    // 45 to 60 ms after the answer, in steps of a quarter of a millisecond.
                    thread::sleep(Duration::from_micros(
                        45_000 + 250 * (number * 7 % 61) as u64,
                    ));
                }
                let exits = activator.stop();
                assert!(
                    exits.iter().all(|status| status.code() == Some(0)),
                    "{exits:?}"
                );
                starts.fetch_add(exits.len(), SeqCst);
            });
        }
    });
    let (answered, starts) = (answered.into_inner(), starts.into_inner());
    println!("{answered} of {connections} connections answered, {starts} starts");
    assert_eq!(answered, connections);
    // Neither always before the deadline nor always after it: it was aimed at.
    assert!(
        starts > connections / 20,
        "{starts} starts for {connections} connections"
    );
}

fn is_answered(address: SocketAddr, listing: &str) -> bool {
    match try_request(address, "GET", "/hello/SHA256SUMS", &[]) {
        Ok(response) => response.status == 200 && response.whole && response.text() == listing,
        Err(_) => false,
    }
}
