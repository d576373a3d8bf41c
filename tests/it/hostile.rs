//! Requests that were made to break a server. One process takes them all, and is as before.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use serde_json::{Map, json};

use crate::client::Connection;
use crate::content::{OCI_TAR, Repository, digest, noise, sign, versions};
use crate::registry::{Fault, Registry, count};
use crate::service::{Service, eventually, within};
use crate::signals::send;

/// Sends bytes, then reads until the end of the connection. A reset ends it too.
fn exchange(service: &Service, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(service.address).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(3)))
        .unwrap();
    let _ = socket.write_all(bytes);
    let _ = socket.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = socket.read(&mut buffer) {
        answer.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn hostile_requests_leave_the_same_process_standing() {
    let (registry, listing) = Registry::with_versions(2);
    let mut service = Service::of(&registry);
    assert_eq!(service.listing(), listing);
    let (threads, descriptors) = (service.threads(), service.descriptors());

    let many_headers = |count: usize| {
        let headers: String = (0..count)
            .map(|number| format!("X-{number}: y\r\n"))
            .collect();
        format!("GET /hello/SHA256SUMS HTTP/1.1\r\n{headers}\r\n")
    };
    let long = |length: usize| {
        format!(
            "GET /hello/SHA256SUMS HTTP/1.1\r\nX: {}\r\n\r\n",
            "y".repeat(length)
        )
    };
    let long_target = |length: usize| {
        format!(
            "GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "y".repeat(length)
        )
    };
    for (status, request, why) in [
        (
            "413",
            "GET /hello/SHA256SUMS HTTP/1.1\r\nContent-Length: 1000000000000000\r\n\r\n".to_owned(),
            "a body without end",
        ),
        (
            "413",
            "GET / HTTP/1.1\r\nContent-Length: 99999999999999999999999999\r\n\r\n".to_owned(),
            "more than a number holds",
        ),
        (
            "413",
            "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n".to_owned(),
            "a chunk without end",
        ),
        (
            "413",
            "GET / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n".to_owned(),
            "a body that asks first",
        ),
        (
            "400",
            "GET / HTTP/2.0\r\nHost: localhost\r\n\r\n".to_owned(),
            "another protocol",
        ),
        (
            "400",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
            "the preface of another protocol",
        ),
        (
            "400",
            "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03\r\n\r\n".to_owned(),
            "TLS",
        ),
        ("400", "\0\0\0\0\r\n\r\n".to_owned(), "binary garbage"),
        (
            "400",
            "GET /hello/SHA256SUMS\r\n\r\n".to_owned(),
            "no version",
        ),
        (
            "400",
            "GET /hello/SHA256SUMS HTTP/1.1\r\nno colon\r\n\r\n".to_owned(),
            "a header without a colon",
        ),
        (
            "400",
            "GET /hello/SHA 256SUMS HTTP/1.1\r\n\r\n".to_owned(),
            "a space in the target",
        ),
        ("431", many_headers(65), "too many headers"),
        ("431", many_headers(500), "far too many headers"),
        ("431", long(17 << 10), "a head over the limit"),
        ("431", long_target(17 << 10), "a target over the limit"),
        ("200", many_headers(64), "as many headers as are allowed"),
        ("200", long(15 << 10), "a head under the limit"),
        (
            "200",
            "GET /hello/SHA256SUMS HTTP/1.1\nHost: localhost\n\n".to_owned(),
            "lines without carriage returns",
        ),
        (
            "200",
            "\r\n\r\nGET /hello/SHA256SUMS HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
            "empty lines in front",
        ),
        ("", String::new(), "nothing"),
        (
            "",
            "GET /hello/SHA256SUMS HTT".to_owned(),
            "an end in the middle of the head",
        ),
    ] {
        let answer = exchange(&service, request.as_bytes());
        let found = answer
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .unwrap_or_default();
        if status.is_empty() {
            assert!(["", "400", "408"].contains(&found), "{why}: {answer:?}");
        } else {
            assert_eq!(found, status, "{why}: {answer:?}");
        }
    }

    clients_that_leave_at_once(&service);
    an_endless_header_line(&service);
    // As many as are served at once may still be on their way out, and a new one be turned away.
    eventually("the rude clients are gone", || {
        service.get("/hello/SHA256SUMS").status == 200
    });
    twenty_thousand_requests_at_once(&service, &listing);

    eventually("no thread is left over", || service.threads() <= threads);
    eventually("no descriptor is left over", || {
        service.descriptors() <= descriptors + 2
    });
    assert!(service.is_running());
    assert!(service.peak_memory() <= 48, "{} MiB", service.peak_memory());
    assert_eq!(service.listing(), listing);
    let panics = service
        .log
        .lines()
        .into_iter()
        .filter(|line| line.contains("panicked"))
        .collect::<Vec<_>>();
    assert_eq!(panics, Vec::<String>::new());
}

fn clients_that_leave_at_once(service: &Service) {
    for request in [
        "GET / HTTP/2.0\r\n\r\n",
        "GET /hello/hello-v1.raw HTTP/1.1\r\n\r\n",
        "",
        "GET ",
    ] {
        for _ in 0..50 {
            let mut socket = TcpStream::connect(service.address).unwrap();
            let _ = socket.write_all(request.as_bytes());
        }
    }
}

fn an_endless_header_line(service: &Service) {
    let mut socket = TcpStream::connect(service.address).unwrap();
    socket
        .set_write_timeout(Some(Duration::from_secs(3)))
        .unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nX: ").unwrap();
    let megabyte = vec![b'y'; 1 << 20];
    let taken = (0..400)
        .take_while(|_| socket.write_all(&megabyte).is_ok())
        .count();
    assert!(taken < 32, "{taken} MiB of a header were taken");
}

fn twenty_thousand_requests_at_once(service: &Service, listing: &str) {
    const REQUESTS: usize = 20_000;
    let mut connection = Connection::open(service.address);
    let mut socket = connection.socket().try_clone().unwrap();
    let writer = thread::spawn(move || -> io::Result<()> {
        let request = "GET /hello/SHA256SUMS HTTP/1.1\r\nHost: localhost\r\n\r\n";
        (0..REQUESTS / 100).try_for_each(|_| socket.write_all(request.repeat(100).as_bytes()))
    });
    for number in 0..REQUESTS {
        let response = connection.receive("GET").unwrap();
        assert_eq!(
            (response.status, response.text()),
            (200, listing),
            "request {number}"
        );
    }
    writer.join().unwrap().unwrap();
    assert!(service.threads() < 16, "{} threads", service.threads());
}

/// A way to bring down an HTTP server.
struct Hazard<'a> {
    what: &'a str,
    /// Between two pieces of the download, of which there are 64: it has to outlast this.
    drip: Duration,
    /// Is there a place, and a descriptor, for a normal request meanwhile?
    leaves_room: bool,
    happen: Box<dyn Fn() + Sync + 'a>,
}

impl<'a> Hazard<'a> {
    fn new(what: &'a str, drip: u64, leaves_room: bool, happen: impl Fn() + Sync + 'a) -> Self {
        Self {
            what,
            drip: Duration::from_millis(drip),
            leaves_room,
            happen: Box::new(happen),
        }
    }
}

/// Requests that have crashed other HTTP servers, one after the other, each during a download.
#[test]
fn no_hazard_touches_a_download_beside_it() {
    let (mut hello, _) = versions(2);
    let image = noise(1 << 20);
    hello.oras_push("v9", "hello.raw", &image);
    let registry = Registry::with_hello(hello);
    let mut service = Service::of(&registry);
    let listing = service.listing();
    let hazards = [
        Hazard::new("a body without end", 20, true, || {
            let head = "GET / HTTP/1.1\r\nContent-Length: 1000000000000000\r\n\r\n";
            assert!(exchange(&service, head.as_bytes()).starts_with("HTTP/1.1 413"));
        }),
        Hazard::new("clients of another protocol", 20, false, || {
            clients_that_leave_at_once(&service);
        }),
        Hazard::new("many requests at once", 150, true, || {
            twenty_thousand_requests_at_once(&service, &listing);
        }),
        Hazard::new("a header without end", 20, true, || {
            an_endless_header_line(&service);
        }),
        Hazard::new("no descriptors left", 40, false, || {
            no_descriptors_left(&service);
        }),
        Hazard::new("heads byte by byte", 40, false, || {
            heads_byte_by_byte(&service);
        }),
        Hazard::new("lines without carriage returns", 20, true, || {
            let head = b"GET /hello/SHA256SUMS HTTP/1.1\nHost: localhost\n\n";
            assert!(exchange(&service, head).starts_with("HTTP/1.1 200"));
        }),
    ];
    for Hazard {
        what,
        drip,
        leaves_room,
        happen,
    } in hazards
    {
        registry.behave();
        registry.fault("/blobs/", Fault::Drip(16 << 10, drip));
        thread::scope(|scope| {
            let download = scope.spawn(|| service.get("/hello/hello-v9.raw"));
            thread::sleep(Duration::from_millis(200));
            let happening = scope.spawn(&happen);
            while !happening.is_finished() {
                if leaves_room {
                    let begin = Instant::now();
                    assert_eq!(service.get("/hello/SHA256SUMS").text(), listing, "{what}");
                    let took = begin.elapsed();
                    assert!(took < Duration::from_secs(1), "during {what}: {took:?}");
                }
                thread::sleep(Duration::from_millis(20));
            }
            happening.join().unwrap();
            assert!(!download.is_finished(), "{what}: the download is over");
            // Clients that have left may hold their places for a moment more.
            let begin = Instant::now();
            eventually("a normal request is answered", || {
                service.get("/hello/SHA256SUMS").text() == listing
            });
            let took = begin.elapsed();
            assert!(took < Duration::from_secs(1), "after {what}: {took:?}");
            let response = download.join().unwrap();
            assert_eq!((response.status, response.whole), (200, true), "{what}");
            assert!(response.body == image, "{what}: other bytes");
        });
    }
    assert!(service.is_running());
    assert!(service.peak_memory() <= 64, "{} MiB", service.peak_memory());
    let said = |text: &str| service.log.lines().iter().any(|line| line.contains(text));
    assert!(said("cannot accept a connection"), "no limit was reached");
    assert!(!said("panicked"));
}

/// As many as there are places but two: one for the download, one for a normal request.
fn heads_byte_by_byte(service: &Service) {
    let mut slow: Vec<_> = (0..62)
        .map(|_| TcpStream::connect(service.address).unwrap())
        .collect();
    for byte in b"GET / HTT" {
        for socket in &mut slow {
            socket.write_all(&[*byte]).unwrap();
        }
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(service.get("/hello/SHA256SUMS").status, 200);
}

/// At every number of descriptors that may be left: a limit can be hit at accept, at the registry's
/// connection, or in between.
fn no_descriptors_left(service: &Service) {
    let pid = Pid::from_raw(service.pid().try_into().unwrap());
    let usual = getrlimit(Resource::Nofile);
    for more in 0..6 {
        let used: Vec<_> = std::fs::read_dir(format!("/proc/{pid}/fd", pid = service.pid()))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        // The limit is on the numbers: so many of them are free below it.
        let free = (0..).filter(|number: &u64| !used.contains(&number.to_string()));
        let limit = Rlimit {
            current: free.take(more + 1).last(),
            maximum: usual.maximum,
        };
        prlimit(pid, Resource::Nofile, limit).unwrap();
        let crowd: Vec<_> = (0..20)
            .map(|_| {
                let mut socket = TcpStream::connect(service.address).unwrap();
                let _ = socket.write_all(b"GET /hello/SHA256SUMS HTTP/1.1\r\n\r\n");
                socket
            })
            .collect();
        thread::sleep(Duration::from_millis(150));
        drop(crowd);
    }
    prlimit(pid, Resource::Nofile, usual).unwrap();
}

/// A manifest that takes much more memory than it has bytes: many layers with many annotations.
fn swollen() -> Repository {
    let mut swollen = Repository::default();
    for tag in ["v1", "v2", "v3"] {
        let layer = |n: usize| {
            let notes: Map<_, _> = (0..8)
                .map(|note| (format!("{n:x}-{note}"), json!(format!("{tag} of {n:012}"))))
                .collect();
            json!({"mediaType": OCI_TAR, "digest": digest(b"x"), "size": 1, "annotations": notes})
        };
        let layers: Vec<_> = (0..16_000).map(layer).collect();
        let artifact = swollen.artifact(&layers, json!({}));
        swollen.point(tag, &artifact);
    }
    swollen
}

/// A list of 8 MiB.
fn long_list() -> Repository {
    let mut signed = Repository::default();
    sign(
        &mut signed,
        long_text().as_bytes(),
        &[("SHA256SUMS.gpg", b"signature")],
        &[],
    );
    signed
}

fn long_text() -> String {
    (0..100_000)
        .map(|n| format!("{n:064x}  hello-{n}.raw\n"))
        .collect()
}

/// More tags than anybody looks up, of signatures.
fn many_tags() -> Repository {
    let (mut many, _) = versions(1);
    let manifest = many.artifact(&[], json!({}));
    for n in 0..40_000 {
        many.point(&format!("sha256-{n:064x}.sig"), &manifest);
    }
    many
}

/// SECURITY.md adds up the bounds. The unit sets the same variable.
#[test]
fn hostile_repositories_together_take_no_more_memory_than_is_said() {
    let registry = Registry::start();
    let (hello, listing) = versions(2);
    registry.put("hello", hello);
    let mut names = Vec::new();
    for (kind, repository, number) in [
        ("swollen", swollen(), 8),
        ("long", long_list(), 10),
        ("many", many_tags(), 6),
    ] {
        for n in 0..number {
            let name = format!("{kind}-{n}");
            registry.put(&name, repository.clone());
            names.push(name);
        }
    }
    let mut large = Repository::default();
    large.oras_push("v1", "large.raw", &noise(48 << 20));
    registry.put("large", large);
    let service = Service::start(
        registry.settings() + "listing-ttl-sec = 0\n[repository.large]\ndownload-connections = 8\n",
    );
    // Its client reads nothing, so all windows stay full.
    let mut client = Connection::open(service.address);
    client.ask("/large/large-v1.raw");
    within(60, "the windows are full", || {
        service.own_memory() >= 32 << 10
    });
    let answered = |name: &String| {
        let status = service.get(&format!("/{name}/SHA256SUMS")).status;
        // Those that find no memory in time are told to come again.
        assert!([200, 503, 504].contains(&status), "{name}: {status}");
        status == 200
    };
    let number = thread::scope(|scope| {
        let clients: Vec<_> = names
            .iter()
            .map(|name| scope.spawn(move || answered(name)))
            .collect();
        let answered = clients.into_iter().map(|client| client.join().unwrap());
        answered.filter(|is_answered| *is_answered).count()
    });
    assert!(number > 0, "nobody had an answer");
    assert_eq!(service.listing(), listing, "all others as before");
    let peak = service.peak_memory_with_program();
    assert!(peak <= 288, "{peak} MiB");
    drop(client);
    println!("{number} of {} answered, {peak} MiB", names.len());
}

/// Each has a client that stays, and a list of 8 MiB.
#[test]
fn what_was_remembered_before_a_reload_is_forgotten_though_clients_stay() {
    let mut hello = Repository::default();
    hello.oras_push("v1", "hello.raw", &[7; 4 << 20]);
    let registry = Registry::with_hello(hello);
    registry.put("long", long_list());
    let slow = Fault::Drip(64 << 10, Duration::from_secs(4));
    registry.fault("/hello/blobs/", slow);
    let service = Service::of(&registry);
    let mut staying = Vec::new();
    for round in 1..=6 {
        service.listing();
        let mut client = Connection::open(service.address);
        client.ask("/hello/hello-v1.raw");
        staying.push(client);
        assert_eq!(service.get("/long/SHA256SUMS").status, 200);
        send(&service, Signal::HUP);
        eventually("it reloads", || {
            service.log.with(&["settings read again"]).len() == round
        });
    }
    // The allocator keeps some of what is free.
    eventually("no list is remembered but the last", || {
        service.own_memory() >> 10 < 32
    });
}

/// Each has a client whose listing of 8 MiB was being made during the reload, and who then takes a file slowly.
#[test]
fn a_listing_that_was_made_during_a_reload_is_forgotten_though_its_client_stays() {
    let registry = Registry::start();
    let mut long = Repository::default();
    let slow = long.blob("application/octet-stream", &[7; 4 << 20]);
    let slow = slow["digest"].as_str().unwrap();
    let list = format!("{}  slow.raw\n", slow.trim_start_matches("sha256:")) + &long_text();
    sign(&mut long, list.as_bytes(), &[], &[]);
    registry.put("long", long);
    let drip = Fault::Drip(64 << 10, Duration::from_secs(4));
    registry.fault(format!("/long/blobs/{slow}").leak(), drip);
    let wait = Fault::Delay(Duration::from_secs(1));
    registry.fault("/long/manifests/SHA256SUMS", wait);
    let service = Service::of(&registry);
    let mut staying = Vec::new();
    for round in 1..=6 {
        registry.take_requests();
        let mut client = Connection::open(service.address);
        client.ask("/long/slow.raw");
        eventually("it asks for the list", || {
            count(&registry.take_requests(), "/long/manifests/SHA256SUMS") > 0
        });
        send(&service, Signal::HUP);
        eventually("it reloads", || {
            service.log.with(&["settings read again"]).len() == round
        });
        assert_eq!(client.receive_head().unwrap().status, 200);
        staying.push(client);
    }
    // The allocator keeps some of what is free.
    eventually("no list is remembered", || service.own_memory() >> 10 < 32);
}
