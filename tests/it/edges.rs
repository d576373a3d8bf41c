//! The contract of DESIGN's edges: which status, an empty body, the reason in a header.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::client::{Connection, Response};
use crate::content::{Repository, line, noise, versions};
use crate::registry::{Fault, Registry};
use crate::service::{Folder, Service, Setup, eventually};
use crate::tls::Authority;

fn hello() -> (Registry, Service) {
    let registry = Registry::with_hello(versions(2).0);
    let service = Service::of(&registry);
    (registry, service)
}

/// An error as every client but a browser gets it.
fn assert_error(response: &Response, status: u16, why: &str) {
    assert_eq!(
        (response.status, response.text(), response.whole),
        (status, "", true),
        "{why}: {response:?}"
    );
    assert_eq!(response.header("content-length"), Some("0"), "{why}");
    let reason = response
        .header("x-reason")
        .unwrap_or_else(|| panic!("{why}: no X-Reason"));
    assert!(reason.len() > 3, "{why}: {reason:?}");
}

#[test]
fn an_address_that_no_grammar_allows_is_a_bad_request() {
    let (registry, service) = hello();
    for (target, why) in [
        ("/HELLO/SHA256SUMS", "a repository has no upper case"),
        ("/hel%20lo/SHA256SUMS", "nor spaces"),
        ("/hello//SHA256SUMS", "nor empty components"),
        ("/../hello/SHA256SUMS", "nor dots alone"),
        ("/hello/../SHA256SUMS", "anywhere"),
        ("/hello/%2e%2e/SHA256SUMS", "nor in disguise"),
        (
            "/hello/..%2F..%2Fetc%2Fpasswd",
            "nor behind encoded slashes",
        ),
        ("/-hello/SHA256SUMS", "nor a dash in front"),
        ("/hello%00/SHA256SUMS", "nor NUL"),
        ("/hello/%00", "nor has a file"),
        ("/hello/SHA%0ASUMS", "nor line breaks"),
        ("/hello/SHA256SUMS%", "half an escape"),
        ("/hello/SHA256SUMS%zz", "no escape"),
        ("/hello/SHA256SUMS%ff", "not UTF-8"),
        (
            "/hello/hello%252dv1.raw",
            "decoded once, so there is a percent sign in it",
        ),
        ("/h\u{e9}llo/SHA256SUMS", "not ASCII"),
        ("hello/SHA256SUMS", "no slash in front"),
    ] {
        assert_error(&service.get(target), 400, why);
    }
    assert_eq!(registry.take_requests(), Vec::<String>::new());
}

#[test]
fn percent_encoding_is_decoded_and_a_query_ignored() {
    let (_registry, service) = hello();
    let listing = versions(2).1;
    for target in [
        "/hello/SHA256SUMS?x=1&y=/../..",
        "/hello/SHA256SUMS?",
        "/%68ello/SHA256SUMS",
        "/hello/%53HA256SUMS",
        "/hello%2FSHA256SUMS",
    ] {
        let response = service.get(target);
        assert_eq!(
            (response.status, response.text()),
            (200, listing.as_str()),
            "{target}"
        );
    }
    assert_eq!(
        service.get("/hello/hello%2Dv1%2eraw?download").body,
        b"image 1"
    );
}

/// Sends this head, and receives the answer.
fn send(service: &Service, head: &str) -> Response {
    let mut connection = Connection::open(service.address);
    connection.send(head.as_bytes()).unwrap();
    connection.receive("GET").unwrap()
}

#[test]
fn a_web_page_that_reaches_us_is_forbidden_before_anything_is_asked() {
    let registry = Registry::with_hello(versions(2).0);
    let service = Service::start(registry.settings() + "hosts = [\"updates.lan\", \"box\"]\n");
    for (target, header, why) in [
        ("", "Host: evil.example:5001", "a name that leads here"),
        (
            "",
            "Host: localhost.evil.example",
            "one that looks like ours",
        ),
        ("", "Host: 0.0.0.0:5001", "an address that leads here"),
        ("", "Host: a b", "no name at all"),
        ("http://evil.example", "Host: localhost", "in the target"),
        ("http://localhost@evil.example", "X: y", "in disguise"),
        ("", "Sec-Fetch-Site: cross-site", "a page elsewhere"),
    ] {
        for file in ["/", "/hello/", "/hello/SHA256SUMS", "/hello/hello-v1.raw"] {
            let head = format!("GET {target}{file} HTTP/1.1\r\n{header}\r\n\r\n");
            assert_error(&send(&service, &head), 403, why);
        }
    }
    let reason = send(&service, "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    assert_eq!(
        reason.header("x-reason"),
        Some(
            "the request is for the host \"evil.example\", which is not a name of this service; \
             if it is one, add it to 'hosts' in /etc/sysext-oci-proxy/config.toml"
        )
    );
    assert_eq!(registry.take_requests(), Vec::<String>::new());
    for head in [
        "GET /hello/SHA256SUMS HTTP/1.0\r\n\r\n",
        "GET /hello/SHA256SUMS HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /hello/SHA256SUMS HTTP/1.1\r\nHost: [::1]:5001\r\n\r\n",
        "GET /hello/SHA256SUMS HTTP/1.1\r\nHost: hello.localhost:5001\r\n\r\n",
        "GET /hello/SHA256SUMS HTTP/1.1\r\nHost: Updates.LAN:8080\r\n\r\n",
        "GET /hello/SHA256SUMS HTTP/1.1\r\nHost: box\r\n\r\n",
        "GET http://localhost/hello/SHA256SUMS HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    ] {
        let response = send(&service, head);
        assert_eq!(
            (response.status, response.text()),
            (200, versions(2).1.as_str()),
            "{head:?}"
        );
    }
}

#[test]
fn a_registry_that_is_not_allowed_is_forbidden_and_not_asked() {
    let (registry, service) = hello();
    let stranger = Registry::with_hello(versions(1).0);
    let port = stranger.address.port();
    for host in [
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        "ghcr.io".into(),
        "localhost".into(),
    ] {
        assert_error(
            &service.get(&format!("/{host}/hello/SHA256SUMS")),
            403,
            &host,
        );
    }
    assert_eq!(stranger.take_requests(), Vec::<String>::new());
    assert_eq!(registry.take_requests(), Vec::<String>::new());
}

#[test]
fn an_allowed_registry_is_asked_within_its_path() {
    let stranger = Registry::start();
    for name in ["acme/hello", "acme/more/hello", "acmes/hello", "hello"] {
        stranger.put(name, versions(1).0);
    }
    let address = stranger.address;
    let registry = Registry::start();
    let service = Service::start(registry.settings() + &format!("allow = [\"{address}/acme\"]\n"));
    for (name, status) in [
        ("acme/hello", 200),
        ("acme/more/hello", 200),
        ("acmes/hello", 403),
        ("hello", 403),
    ] {
        assert_eq!(
            service.get(&format!("/{address}/{name}/SHA256SUMS")).status,
            status,
            "{name}"
        );
    }
    let service = Service::start(registry.settings() + &format!("allow = [\"{address}\"]\n"));
    for name in ["acme/hello", "hello"] {
        assert_eq!(
            service.get(&format!("/{address}/{name}/SHA256SUMS")).status,
            200,
            "{name}"
        );
    }
    assert_eq!(registry.take_requests(), Vec::<String>::new());
}

#[test]
fn a_source_in_the_settings_needs_no_other_permission() {
    let stranger = Registry::with_hello(versions(1).0);
    let registry = Registry::start();
    let source = format!(
        "[repository.hello]\nsource = \"{}/hello\"\n",
        stranger.address
    );
    let service = Service::start(registry.settings() + &source);
    assert_eq!(service.listing(), versions(1).1);
}

#[test]
fn what_is_not_offered_is_not_found() {
    let (_registry, service) = hello();
    for target in [
        "/hello/SHA256SUMS.gpg",
        "/hello/SHA256SUMS.asc",
        "/hello/SHA256SUMS.sha256.asc",
        "/hello/SHA256SUMS.sha256.gpg",
        "/hello/hello-v1.verity",
        "/hello/hello-v1.roothash",
        "/hello/hello-v1.roothash.p7s",
        "/hello/hello-v1.raw.xz",
        "/hello/hello-v1.raw.sha256.sha256",
        "/hello/hello-v7.raw",
        "/hello/hello-v7.raw.sha256",
        "/hello/hello.raw",
        "/hello/v1",
        "/hello/sha256sums",
        "/missing/SHA256SUMS",
        "/missing/missing-v1.raw",
    ] {
        assert_error(&service.get(target), 404, target);
    }
}

#[test]
fn other_methods_are_told_which_are_allowed() {
    let (registry, service) = hello();
    for method in [
        "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW", "get",
    ] {
        let response = service.request(method, "/hello/SHA256SUMS", &[]);
        assert_error(&response, 405, method);
        let mut allowed: Vec<_> = response
            .header("allow")
            .expect("no Allow")
            .split(", ")
            .collect();
        allowed.sort_unstable();
        assert_eq!(allowed, ["GET", "HEAD"]);
    }
    assert_eq!(registry.take_requests(), Vec::<String>::new());
}

#[test]
fn a_request_with_a_body_is_too_large() {
    let (_registry, service) = hello();
    for header in [
        "Content-Length: 5",
        "Content-Length: 1000000000000000",
        "Transfer-Encoding: chunked",
    ] {
        assert_error(
            &service.request("GET", "/hello/SHA256SUMS", &[header]),
            413,
            header,
        );
    }
    assert_eq!(
        service
            .request("GET", "/hello/SHA256SUMS", &["Content-Length: 0"])
            .status,
        200
    );
}

#[test]
fn an_error_has_a_body_for_people_and_none_for_systemd() {
    let (_registry, service) = hello();
    let ask = |headers: &[&str]| service.request("GET", "/hello/nothing.raw", headers);
    for headers in [
        &["Accept: */*"][..],
        &["Accept: text/*"],
        &["X-Nothing: text/html"],
        &["User-Agent: systemd-pull/257 (257.9-1~deb13u1)"],
        &["User-Agent: systemd-pull/262 (262-1)", "Accept: */*"],
        &["User-Agent: Go-http-client/1.1"],
    ] {
        let response = ask(headers);
        assert_error(&response, 404, &format!("{headers:?}"));
        assert_eq!(response.header("vary"), Some("Accept, User-Agent"));
    }
    let line = ask(&[]).header("x-reason").unwrap().to_owned();
    let text = "text/plain; charset=utf-8";
    for (headers, media_type) in [
        (&["User-Agent: curl/8.14.1"][..], text),
        (&["User-Agent: Wget/1.25.0"], text),
        (&["User-Agent: HTTPie/3.2.4"], text),
        (&["Accept: text/plain"], text),
        (
            &["Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"],
            "text/html; charset=utf-8",
        ),
        (
            &["User-Agent: curl/8.14.1", "Accept: application/json"],
            "application/json",
        ),
    ] {
        let response = ask(headers);
        assert_eq!((response.status, response.whole), (404, true));
        assert_eq!(response.header("content-type"), Some(media_type));
        assert_eq!(response.header("vary"), Some("Accept, User-Agent"));
        match media_type {
            "application/json" => {
                let json: serde_json::Value = serde_json::from_str(response.text()).unwrap();
                let remedy = json["remedy"].as_str().unwrap();
                assert!(remedy.contains("MatchPattern="), "{remedy}");
                let expected = serde_json::json!({
                    "status": 404, "step": "request", "reason": line, "remedy": remedy
                });
                assert_eq!(json, expected);
            }
            "text/html; charset=utf-8" => {
                let page = response.text();
                assert!(
                    page.contains("404") && page.contains("nothing.raw"),
                    "{page}"
                );
            }
            _ => assert_eq!(response.text(), format!("{line}\n")),
        }
        let head = service.request("HEAD", "/hello/nothing.raw", headers);
        assert_eq!((head.status, head.text()), (404, ""));
    }
    // A successful answer is the same for all clients.
    let response = service.request("GET", "/hello/SHA256SUMS", &["Accept: text/html"]);
    assert_eq!(response.text(), versions(2).1);
}

#[test]
fn a_page_shows_text_from_outside_as_text() {
    let (_registry, service) = hello();
    let response = service.request(
        "GET",
        "/hello/%3Cscript%3Ealert(1)%3C%2Fscript%3E",
        &["Accept: text/html"],
    );
    assert_eq!(response.status, 400);
    assert!(
        !response.text().to_lowercase().contains("<script"),
        "{}",
        response.text()
    );
    let reason = response.header("x-reason").unwrap();
    assert!(reason.is_ascii(), "{reason:?}");
}

#[test]
fn two_requests_share_a_connection() {
    let (_registry, service) = hello();
    let mut connection = Connection::open(service.address);
    for (target, status, body) in [
        ("/hello/hello-v0.raw", 200, "image 0".to_owned()),
        ("/hello/nothing.raw", 404, String::new()),
        ("/hello/SHA256SUMS", 200, versions(2).1),
    ] {
        connection.ask(target);
        let response = connection.receive("GET").unwrap();
        assert_eq!((response.status, response.text()), (status, body.as_str()));
        assert_ne!(response.header("connection"), Some("close"), "{target}");
    }
}

#[test]
fn a_connection_ends_when_the_client_or_its_version_says_so() {
    let (_registry, service) = hello();
    for head in [
        "GET /hello/hello-v0.raw HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "GET /hello/hello-v0.raw HTTP/1.0\r\n\r\n",
    ] {
        let mut connection = Connection::open(service.address);
        connection.send(head.as_bytes()).unwrap();
        let response = connection.receive("GET").unwrap();
        assert_eq!(response.body, b"image 0");
        assert_eq!(
            response.header("connection"),
            Some("close"),
            "not announced: {head:?}"
        );
        let begin = Instant::now();
        assert_eq!(connection.read(&mut [0]).unwrap_or(0), 0, "more bytes");
        assert!(
            begin.elapsed() < Duration::from_secs(2),
            "still open: {head:?}"
        );
    }
}

/// A service whose places are all taken by requests that wait for the registry.
fn full() -> (Registry, Service, Vec<Connection>) {
    let (registry, service) = hello();
    registry.fault("/tags/list", Fault::Delay(Duration::from_secs(3)));
    let mut all: Vec<_> = (0..64).map(|_| Connection::open(service.address)).collect();
    for connection in &mut all {
        connection.ask("/hello/SHA256SUMS");
    }
    thread::sleep(Duration::from_millis(300));
    (registry, service, all)
}

#[test]
fn the_sixty_fifth_connection_is_told_at_once_to_come_again_while_all_others_are_answered() {
    let (_registry, service, all) = full();
    let begin = Instant::now();
    let response = service.get("/hello/SHA256SUMS");
    assert!(
        begin.elapsed() < Duration::from_secs(1),
        "{:?}",
        begin.elapsed()
    );
    assert_error(&response, 503, "full");
    let seconds: u32 = response
        .header("retry-after")
        .expect("no Retry-After")
        .parse()
        .unwrap();
    assert!((1..=10).contains(&seconds), "Retry-After: {seconds}");
    for mut connection in all {
        let response = connection.receive("GET").unwrap();
        assert_eq!((response.status, response.whole), (200, true));
    }
    eventually("there is room again", || {
        service.get("/hello/SHA256SUMS").status == 200
    });
}

/// Is the connection still open? Nothing is to come on it.
fn is_open(connection: &Connection) -> bool {
    let socket = connection.socket();
    socket.set_nonblocking(true).unwrap();
    let found = (&*socket).read(&mut [0]);
    socket.set_nonblocking(false).unwrap();
    matches!(found, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn silent_connections_turn_nobody_away() {
    let (_registry, service) = hello();
    let listing = service.listing();
    let head = b"GET /hello/hello-v0.raw HTTP/1.1\r\nHost: localhost\r\n\r\n";
    // Some have sent nothing, some one byte, some all but the last byte, …
    let sent = [0, 1, head.len() - 1];
    let silent = |n: usize| {
        let mut connection = Connection::open(service.address);
        connection.send(&head[..sent[n % 3]]).unwrap();
        connection
    };
    let mut all: Vec<_> = (0..62).map(silent).collect();
    // … and two came last, had an answer, and have not asked for more.
    for _ in 0..2 {
        let mut connection = Connection::open(service.address);
        connection.ask("/hello/hello-v0.raw");
        assert_eq!(connection.receive("GET").unwrap().status, 200);
        all.push(connection);
    }
    eventually("all are taken in", || service.threads() == 65);
    // Each that comes takes the place of one: of those that had their answer, then of the oldest.
    let mut come = Vec::new();
    for gone in [62, 63, 0, 1, 2] {
        assert!(is_open(&all[gone]), "{gone} went too early");
        come.push(Connection::open(service.address));
        eventually("there is a place", || !is_open(&all[gone]));
    }
    assert!(is_open(&all[3]), "more went than had to");
    assert_eq!(service.listing(), listing);
    assert!(!is_open(&all[3]));
    for (n, connection) in all.iter_mut().enumerate().take(62).skip(4) {
        connection.send(&head[sent[n % 3]..]).unwrap();
        let response = connection.receive("GET").unwrap();
        assert_eq!((response.status, response.text()), (200, "image 0"), "{n}");
    }
    let line = service.log.one_trouble();
    assert!(
        line.starts_with("warning: clients turned away: 1; "),
        "{line}"
    );
}

/// A client that reads the head of an answer and then nothing for a long time.
fn slow_client(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // So that the kernel takes little for it, and the service feels how slow it is.
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&address.into()).unwrap();
    let mut client = TcpStream::from(socket);
    client
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    client
        .write_all(b"GET /hello/hello-v1.raw HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    client.read_exact(&mut [0; 500]).unwrap();
    client
}

#[test]
fn slow_clients_slow_only_themselves_and_take_little_memory() {
    let image = noise(8 << 20);
    let authority = Authority::new();
    let tls = authority.server(&["127.0.0.1"]);
    let registry = Registry::on("127.0.0.1:0", Some(tls));
    registry.change(|hello| {
        hello.oras_push("v1", "hello.raw", &image);
        hello.oras_push("v2", "hello.raw", b"a small one");
    });
    let service = Setup::of(&registry)
        .certificate(registry.address, "ca.crt", &authority.pem())
        .start();
    service.listing();
    let before = service.own_memory();
    let mut clients: Vec<_> = (0..63).map(|_| slow_client(service.address)).collect();
    // All of them stand still in the middle. The last one to come is served as if it were alone, …
    let begin = Instant::now();
    assert_eq!(service.get("/hello/hello-v2.raw").body, b"a small one");
    assert!(
        begin.elapsed() < Duration::from_secs(1),
        "{:?}",
        begin.elapsed()
    );
    eventually("its place is free", || service.threads() <= 64);
    clients.push(slow_client(service.address));
    // … and one more is told at once to come again. The quickest of some counts: this machine may be
    // busy with other tests.
    let quickest = (0..5).map(|_| {
        let begin = Instant::now();
        let response = service.get("/hello/hello-v2.raw");
        assert_error(&response, 503, "full");
        assert_eq!(response.header("retry-after"), Some("1"));
        begin.elapsed()
    });
    let quickest = quickest.min().unwrap();
    assert!(quickest < Duration::from_millis(100), "{quickest:?}");
    // Buffers of 16 MiB, and the stacks of 64 threads, which are larger in a debug build.
    let more = (service.own_memory() - before) / 1024;
    assert!(more <= 26, "64 downloads take {more} MiB");
}

#[test]
fn a_reason_is_one_line_whatever_the_registry_says() {
    let registry = Registry::with_hello(Repository::default());
    let envelope = "{\"errors\":[{\"code\":\"DENIED\",\"message\":\"a\\r\\nX-Evil: 1\\r\\n\\r\\nb\\u0000\\u00e9\"}]}";
    registry.fault("/tags/list", Fault::Status(403));
    registry.fault("/tags/list", Fault::Body(envelope.as_bytes().to_vec()));
    let service = Setup::of(&registry).own_cache().start();
    let response = service.get("/hello/SHA256SUMS");
    assert_error(&response, 403, "denied");
    assert_eq!(response.header("x-evil"), None);
    let line = service.log.one_trouble();
    assert!(line.contains("X-Evil"), "{line}");
    assert_eq!(service.log.lines().len(), 2, "{:?}", service.log.lines());
}

#[test]
fn a_slow_registry_does_not_hold_up_other_repositories() {
    let (slow, fast) = (Registry::with_hello(versions(1).0), Folder::new());
    slow.fault("/tags/list", Fault::Delay(Duration::from_secs(2)));
    versions(1).0.write_layout(fast.path());
    let local = format!(
        "[repository.local]\nsource = \"oci:{}\"\n",
        fast.path().display()
    );
    let service = Service::start(slow.settings() + &local);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| service.listing());
        thread::sleep(Duration::from_millis(200));
        let begin = Instant::now();
        assert_eq!(
            service.get("/local/SHA256SUMS").text(),
            line(b"image 0", "local-v0.raw")
        );
        assert!(
            begin.elapsed() < Duration::from_secs(1),
            "{:?}",
            begin.elapsed()
        );
        assert_eq!(waiting.join().unwrap(), versions(1).1);
    });
}

/// Sends bytes that nobody wants, one by one over a while, and sees the connection end in good order.
#[track_caller]
fn talk_on(mut connection: Connection) {
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(20));
        connection
            .send(b"x")
            .expect("it is cut off while it speaks");
    }
    connection.socket().shutdown(Shutdown::Write).unwrap();
    assert_eq!(connection.read(&mut [0; 9]).expect("it is reset"), 0);
}

#[test]
fn a_client_that_is_refused_may_finish_what_it_is_saying() {
    let (_registry, service) = hello();
    let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(16 << 10));
    for (status, head) in [
        (
            405,
            "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n",
        ),
        (
            413,
            "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n",
        ),
        (431, &long),
    ] {
        let mut connection = Connection::open(service.address);
        connection.send(head.as_bytes()).unwrap();
        assert_eq!(connection.receive("GET").unwrap().status, status);
        talk_on(connection);
    }
}

#[test]
fn a_client_that_finds_no_place_may_ask_late() {
    let (registry, service, all) = full();
    let mut late = Connection::open(service.address);
    thread::sleep(Duration::from_millis(100));
    let head = b"GET /hello/SHA256SUMS HTTP/1.1\r\nHost: localhost\r\n\r\n";
    late.send(head).unwrap();
    assert_error(&late.receive("GET").unwrap(), 503, "full");
    talk_on(late);
    registry.behave();
    drop(all);
    eventually("nobody is left", || service.threads() == 1);
}

#[test]
fn many_refused_clients_are_one_line_in_the_log() {
    let (_registry, service, all) = full();
    for _ in 0..30 {
        assert_eq!(service.get("/hello/SHA256SUMS").status, 503);
    }
    drop(all);
    eventually("there is room again", || {
        service.get("/hello/SHA256SUMS").status == 200
    });
    let told = service.log.trouble();
    assert_eq!(
        told,
        ["warning: clients turned away: 1; at most 64 are connected at once"]
    );
}
