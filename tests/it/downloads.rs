//! Files on their way: whole or visibly broken, in little memory, over hops and hang-ups.

use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::Connection;
use crate::content::{Repository, line, noise, sha256};
use crate::registry::{Fault, Guard, LOGIN, Registry, count, one_image, ranges};
use crate::service::{Folder, Service, Setup, eventually};

const MIB: usize = 1 << 20;

#[test]
fn a_file_comes_whole_with_its_length() {
    // On both sides of the sizes at which buffers end.
    for length in [
        0,
        1,
        4095,
        65_535,
        65_536,
        65_537,
        256 << 10,
        (256 << 10) + 1,
        3 * MIB + 5,
    ] {
        let image = noise(length);
        let registry = one_image(&image);
        let service = Service::of(&registry);
        let response = service.get("/hello/hello-v1.raw");
        assert_eq!(
            (response.status, response.whole),
            (200, true),
            "{length} bytes"
        );
        assert_eq!(
            response.header("content-length"),
            Some(length.to_string().as_str())
        );
        assert_eq!(response.header("transfer-encoding"), None);
        assert!(response.body == image, "{length} bytes: other bytes");
    }
}

#[test]
fn a_file_comes_whole_from_a_layout() {
    let image = noise(3 * MIB);
    let mut hello = Repository::default();
    hello.oras_push("v1", "hello.raw", &image);
    let folder = Folder::with_layout(&hello);
    let service = Service::start(folder.settings());
    assert!(service.whole("/hello/hello-v1.raw") == image);

    let blob = folder.path().join("blobs/sha256").join(sha256(&image));
    let mut wrong = image.clone();
    wrong[5] ^= 1;
    for (why, bytes) in [
        ("another byte", &wrong[..]),
        ("cut", &image[..MIB]),
        ("longer", &[&image[..], b"x"].concat()),
    ] {
        std::fs::write(&blob, bytes).unwrap();
        let response = service.get("/hello/hello-v1.raw");
        assert!(
            response.status != 200 || !response.whole,
            "{why}: arrived as if it were right"
        );
    }
}

#[test]
fn head_has_the_head_of_get_and_no_body() {
    let registry = one_image(&noise(70_000));
    let service = Service::of(&registry);
    for target in [
        "/hello/hello-v1.raw",
        "/hello/SHA256SUMS",
        "/hello/hello-v1.raw.sha256",
        "/hello/nothing.raw",
    ] {
        // One connection for both: what follows a HEAD is the next answer and no stray body.
        let mut connection = Connection::open(service.address);
        let get = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        connection
            .send(get.replace("GET", "HEAD").as_bytes())
            .unwrap();
        let mut of_head = connection.receive("HEAD").unwrap();
        connection.send(get.as_bytes()).unwrap();
        let mut of_get = connection.receive("GET").unwrap();
        assert_eq!(of_head.body, b"");
        of_get.body.clear();
        for response in [&mut of_head, &mut of_get] {
            response.headers.retain(|(name, _)| name != "date");
        }
        assert_eq!(of_head, of_get, "{target}");
    }
}

#[test]
fn a_wrong_file_never_arrives_complete() {
    for length in [1, 1000, 65_536, 2 * MIB + 7] {
        let image = noise(length);
        let registry = one_image(&image);
        registry.fault("/blobs/", Fault::WrongByte);
        let service = Service::of(&registry);
        assert_eq!(service.listing(), line(&image, "hello-v1.raw"));
        let response = service.get("/hello/hello-v1.raw");
        // A small one is found out before the head has gone.
        if length <= 65_536 {
            let reason = response.header("x-reason").unwrap();
            assert_eq!((response.status, response.body.len()), (502, 0));
            assert!(reason.contains("has the wrong bytes"), "{reason}");
        } else {
            assert_eq!((response.status, response.whole), (200, false));
            assert!(response.body.len() < length);
        }
        assert_eq!(
            service.log.with(&["hello-v1.raw"]).len(),
            1,
            "{:?}",
            service.log.lines()
        );
    }
}

#[test]
fn a_file_that_stays_short_ends_short_and_at_once() {
    let image = noise(MIB);
    let registry = one_image(&image);
    // Without a length the end of the connection is the end of the file.
    registry.fault("/blobs/", Fault::NoLength);
    registry.fault("/blobs/", Fault::CutAfter(MIB / 2));
    registry.fault("/blobs/", Fault::NoRange);
    let service = Service::of(&registry);
    let begin = Instant::now();
    let response = service.get("/hello/hello-v1.raw");
    assert_eq!((response.status, response.whole), (200, false));
    assert!(
        begin.elapsed() < Duration::from_secs(10),
        "{:?}",
        begin.elapsed()
    );
    assert!(image.starts_with(&response.body));
}

#[test]
fn a_file_of_which_nothing_can_be_had_is_an_error_with_a_reason() {
    let registry = one_image(&noise(MIB));
    registry.fault("/blobs/", Fault::NoLength);
    registry.fault("/blobs/", Fault::CutAfter(100));
    registry.fault("/blobs/", Fault::NoRange);
    let service = Service::of(&registry);
    let response = service.get("/hello/hello-v1.raw");
    assert_eq!((response.status, response.body.len()), (502, 0));
    let reason = response.header("x-reason").unwrap();
    let expected = "has the wrong size: expected 1048576 bytes, found 100";
    assert!(reason.ends_with(expected), "{reason}");
    // HEAD is answered by the manifest.
    let head = service.request("HEAD", "/hello/hello-v1.raw", &[]);
    assert_eq!(head.status, 200);
}

#[test]
fn a_file_longer_than_its_manifest_says_never_arrives_complete() {
    let image = noise(100_000);
    let registry = one_image(&image);
    registry.fault("/blobs/", Fault::Body([&image[..], b"and more"].concat()));
    let service = Service::of(&registry);
    let response = service.get("/hello/hello-v1.raw");
    if response.status == 200 && response.whole {
        assert!(
            response.body == image,
            "the client got bytes that nobody promised"
        );
    }
}

#[test]
fn a_big_file_takes_little_memory_though_the_client_is_slow() {
    let image = noise(48 * MIB);
    let registry = one_image(&image);
    let service = Service::of(&registry);
    let mut connection = Connection::open(service.address);
    connection.ask("/hello/hello-v1.raw");
    thread::sleep(Duration::from_millis(300));
    let response = connection.receive("GET").unwrap();
    assert!(response.whole && response.body == image);
    assert!(service.peak_memory() <= 16, "{} MiB", service.peak_memory());
}

#[test]
fn a_redirect_to_another_server_is_followed() {
    let image = noise(100_000);
    let store = one_image(&image);
    let registry = one_image(&image);
    registry.fault("/blobs/", Fault::Redirect(store.origin()));
    let service = Service::of(&registry);
    assert!(service.whole("/hello/hello-v1.raw") == image);
    assert_eq!(count(&store.take_requests(), "GET /v2/hello/blobs/"), 1);
}

#[test]
fn clients_are_sent_to_the_registry_where_the_settings_say_so() {
    let image = noise(100_000);
    let store = one_image(&image);
    let registry = one_image(&image);
    let service =
        Service::start(registry.settings() + "[repository.hello]\nblobs = \"redirect\"\n");
    let blob = format!("/v2/hello/blobs/sha256:{}", sha256(&image));
    for method in ["GET", "HEAD"] {
        let response = service.request(method, "/hello/hello-v1.raw", &[]);
        assert_eq!((response.status, response.body.len()), (307, 0));
        let location = format!("http://{}{blob}", registry.address);
        assert_eq!(
            response.header("location"),
            Some(location.as_str()),
            "{method}"
        );
    }
    // Where the registry itself sends its clients elsewhere, ours go there at once.
    registry.fault("/blobs/", Fault::Redirect(store.origin()));
    let response = service.get("/hello/hello-v1.raw");
    let location = format!("http://{}{blob}", store.address);
    assert_eq!(
        (response.status, response.header("location")),
        (307, Some(location.as_str()))
    );
    // It was tried whether they get it there.
    assert_eq!(ranges(&store), ["0-0"]);
    // A missing file stays an error. All other files are served.
    registry.behave();
    registry.fault("/blobs/", Fault::Status(403));
    assert_eq!(service.get("/hello/hello-v1.raw").status, 403);
    assert_eq!(service.listing(), line(&image, "hello-v1.raw"));
    assert_eq!(
        service.get("/hello/hello-v1.raw.sha256").text(),
        line(&image, "hello-v1.raw")
    );
}

#[test]
fn clients_are_sent_nowhere_where_they_would_need_a_login() {
    let image = noise(100_000);
    let login = format!("svc:{}", "pa55");
    let (registry, store) = (one_image(&image), one_image(&image));
    store.guard(Guard::basic(&["svc:pa55"]));
    let blob = format!("/v2/hello/blobs/sha256:{}", sha256(&image));
    let here = format!("http://{}{blob}", registry.address);
    let with_login = format!("http://{login}@{}{blob}", store.address);
    let there = format!("http://{}{blob}", store.address);
    for (guard, target, is_streamed, why) in [
        (
            true,
            Some(here.clone()),
            true,
            "a path of the registry, which wants the login",
        ),
        (
            false,
            Some(here),
            false,
            "a path of the registry, which wants none",
        ),
        (true, None, true, "no redirect, and a login"),
        (
            false,
            Some(with_login),
            true,
            "a login in the URL, which is nobody else's",
        ),
    ] {
        registry.behave();
        if guard {
            registry.guard(Guard::basic(&[LOGIN]));
        }
        if let Some(target) = target {
            registry.fault_times(1, "/blobs/", Fault::Location(target));
        }
        let settings = registry.settings() + "[repository.hello]\nblobs = \"redirect\"\n";
        let service = Setup::new(settings).login(registry.address, LOGIN).start();
        let response = service.get("/hello/hello-v1.raw");
        assert_eq!(
            response.status == 200,
            is_streamed,
            "{why}: {:?}",
            response.headers
        );
        assert_eq!(response.header("location").is_some(), !is_streamed, "{why}");
    }
    registry.behave();
    registry.fault("/blobs/", Fault::Location(there));
    let settings = registry.settings() + "[repository.hello]\nblobs = \"redirect\"\n";
    let service = Service::start(settings);
    assert_eq!(
        service.get("/hello/hello-v1.raw").status,
        403,
        "nobody gets it"
    );
}

#[test]
fn a_login_in_a_redirect_is_sent_there() {
    let image = noise(100_000);
    let (registry, store) = (one_image(&image), one_image(&image));
    store.guard(Guard::basic(&["svc:p@ss"]));
    let blob = format!("/v2/hello/blobs/sha256:{}", sha256(&image));
    let target = format!("http://svc:p%40ss@{}{blob}", store.address);
    registry.fault("/blobs/", Fault::Location(target));
    let service = Service::of(&registry);
    assert!(service.whole("/hello/hello-v1.raw") == image);
}

#[test]
fn a_redirect_is_followed_as_browsers_follow_it() {
    let image = noise(1000);
    let store = one_image(&image);
    let host = store.address;
    for (location, target) in [
        (
            format!("HTTP://{host}/a b/ä?c d"),
            "GET /a%20b/%C3%A4?c%20d",
        ),
        (format!("http://{host}/a/../b/./c#d"), "GET /b/c"),
        (format!("//{host}/x"), "GET /x"),
        (format!("http://{host}?x"), "GET /?x"),
    ] {
        let registry = one_image(&image);
        registry.fault("/blobs/", Fault::Location(location.clone()));
        store.behave();
        store.fault("GET /", Fault::Status(200));
        store.fault("GET /", Fault::Body(image.clone()));
        let service = Service::of(&registry);
        assert!(service.whole("/hello/hello-v1.raw") == image, "{location}");
        assert_eq!(store.take_requests(), [target], "{location}");
    }
}

#[test]
fn a_redirect_that_leads_nowhere_is_a_bad_gateway() {
    for to in [
        "",
        "ftp://127.0.0.1",
        "http://127.0.0.1:1",
        "file://",
        "not a url",
    ] {
        let registry = one_image(b"image");
        registry.fault("/blobs/", Fault::Redirect(to.to_owned()));
        let service = Service::of(&registry);
        let response = service.get("/hello/hello-v1.raw");
        assert_eq!((response.status, response.body.len()), (502, 0), "{to:?}");
        let hops = count(&registry.take_requests(), "/blobs/");
        assert!(hops <= 31, "{hops} hops");
    }
}

#[test]
fn a_blob_that_the_registry_refuses_is_an_error_before_the_first_byte() {
    for (upstream, status) in [(401, 403), (403, 403), (404, 404), (500, 502)] {
        let registry = one_image(b"image");
        registry.fault("/blobs/", Fault::Status(upstream));
        let service = Service::of(&registry);
        let response = service.get("/hello/hello-v1.raw");
        assert_eq!(
            (response.status, response.body.len()),
            (status, 0),
            "for {upstream}"
        );
    }
}

#[test]
fn a_checksum_file_has_the_companions_of_its_image() {
    let mut hello = Repository::default();
    let files: Vec<_> = [
        "raw",
        "verity",
        "roothash",
        "roothash.p7s",
        "usrhash",
        "cmdline",
    ]
    .iter()
    .map(|suffix| {
        (
            format!("the {suffix}").into_bytes(),
            format!("hello.{suffix}"),
        )
    })
    .collect();
    let layers: Vec<_> = files
        .iter()
        .map(|(bytes, title)| hello.file("application/octet-stream", title, bytes))
        .collect();
    let manifest = hello.artifact(&layers, json!({}));
    hello.point("v1", &manifest);
    hello.oras_push("v10", "hello.verity", b"of another version");
    let registry = Registry::with_hello(hello);
    let service = Service::of(&registry);
    let sum = service.get("/hello/hello-v1.raw.sha256");
    let line = |n: usize| {
        let (bytes, title) = &files[n];
        line(bytes, &title.replace("hello", "hello-v1"))
    };
    // The image first, then what systemd-pull fetches beside it.
    assert_eq!(sum.text(), [0, 2, 3, 4, 1].map(line).concat());
    assert_eq!(
        service.get("/hello/hello-v1.cmdline.sha256").text(),
        line(5)
    );
}

#[test]
fn every_listed_file_has_its_digest_beside_it() {
    let (registry, listing) = Registry::with_versions(3);
    let service = Service::of(&registry);
    for sum in listing.lines() {
        let name = sum.split_once("  ").unwrap().1;
        let response = service.get(&format!("/hello/{name}.sha256"));
        assert_eq!(
            (response.status, response.text()),
            (200, format!("{sum}\n").as_str())
        );
    }
    assert_eq!(service.listing(), listing, "side files are not listed");
}

#[test]
fn a_client_that_goes_away_leaves_nothing_behind() {
    let registry = one_image(&noise(8 * MIB));
    registry.fault("/blobs/", Fault::Drip(4096, Duration::from_millis(5)));
    let service = Service::of(&registry);
    service.listing();
    let threads = service.threads();
    let upstream = registry.open_connections();
    for _ in 0..5 {
        let mut connection = Connection::open(service.address);
        connection.ask("/hello/hello-v1.raw");
        let mut some = [0; 1000];
        connection.receive_head().unwrap();
        (&mut connection.socket())
            .read_exact(&mut some)
            .unwrap_or_default();
        drop(connection);
    }
    eventually("the threads of the downloads are gone", || {
        service.threads() <= threads
    });
    eventually("the registry is let go", || {
        registry.open_connections() <= upstream.max(1)
    });
    registry.behave();
    assert!(service.get("/hello/hello-v1.raw").whole);
}

#[test]
fn downloads_run_side_by_side() {
    let image = noise(64 * 1024);
    let registry = one_image(&image);
    registry.fault("/blobs/", Fault::Delay(Duration::from_millis(300)));
    let service = Service::of(&registry);
    service.listing();
    let begin = Instant::now();
    thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| assert!(service.get("/hello/hello-v1.raw").body == image));
        }
    });
    assert!(
        begin.elapsed() < Duration::from_millis(1500),
        "{:?}",
        begin.elapsed()
    );
}
