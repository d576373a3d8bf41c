//! Clients that disconnect: what is done for them alone ends, and a listing is finished.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::Connection;
use crate::content::{OCI_TAR, Repository, digest, noise};
use crate::images::layer;
use crate::registry::{Fault, Registry, count, one_image};
use crate::service::{Service, Setup, eventually};
use crate::tls::Authority;

const LIMIT: Duration = Duration::from_secs(1);
/// The path of the extension-release in an image.
const RELEASE: &str = "usr/lib/extension-release.d/extension-release.hello";

/// Closes a client's connection and says how long the registry was still being asked.
fn hang_up(client: Connection, registry: &Registry, others: usize) -> Duration {
    drop(client);
    let begin = Instant::now();
    eventually("the registry is let go", || {
        registry.open_connections() <= others
    });
    begin.elapsed()
}

/// Asks for the image and waits until the registry has been asked for it.
fn ask(service: &Service, registry: &Registry) -> Connection {
    let mut client = Connection::open(service.address);
    client.ask("/hello/hello-v1.raw");
    eventually("the blob is asked for", || {
        count(&registry.take_requests(), "/blobs/") > 0
    });
    client
}

#[test]
fn a_client_that_goes_away_ends_the_request_to_a_silent_registry() {
    let image = noise(300_000);
    let authority = Authority::new();
    for (fault, why) in [
        (Fault::StallAfter(200_000), "in the middle of the blob"),
        (Fault::StallAfter(0), "after the head"),
        (Fault::Delay(Duration::from_secs(100)), "before the head"),
        (
            Fault::Drip(1, Duration::from_millis(100)),
            "while a byte comes now and then",
        ),
    ] {
        for with_tls in [false, true] {
            let tls = with_tls.then(|| authority.server(&["127.0.0.1"]));
            let registry = Registry::on("127.0.0.1:0", tls);
            registry.change(|hello| hello.oras_push("v1", "hello.raw", &image));
            let mut setup = Setup::of(&registry);
            if with_tls {
                setup = setup.certificate(registry.address, "ca.crt", &authority.pem());
            }
            let service = setup.start();
            service.listing();
            let others = registry.open_connections().saturating_sub(1);
            registry.fault("/blobs/", fault.clone());
            let client = ask(&service, &registry);
            let took = hang_up(client, &registry, others);
            assert!(took < LIMIT, "{why}, TLS: {with_tls}: {took:?}");
            // Long enough for a second try, if there were one.
            std::thread::sleep(Duration::from_millis(500));
            let again = count(&registry.take_requests(), "/blobs/");
            assert_eq!(again, 0, "{why}, TLS: {with_tls}: asked again");
            let lines = service.log.with(&["client went away"]);
            assert_eq!(lines.len(), 1, "{why}: {:?}", service.log.lines());
            assert!(lines[0].starts_with("GET /hello/hello-v1.raw: "));
            assert_eq!(service.log.trouble_so_far(), [""; 0], "{why}");
        }
    }
}

#[test]
fn a_client_that_goes_away_ends_the_waits_between_two_tries() {
    let registry = one_image(&noise(300_000));
    let service = Service::of(&registry);
    service.listing();
    // It is waited out before the head, …
    registry.fault("/blobs/", Fault::Status(503));
    registry.fault("/blobs/", Fault::header("Retry-After", "8"));
    let client = ask(&service, &registry);
    drop(client);
    assert_eq!(service.log.with(&["client went away"]).len(), 1);
    // … and in the middle, when nobody is there any more.
    registry.behave();
    registry.fault_times(1, "/blobs/", Fault::CutAfter(200_000));
    registry.fault("/blobs/", Fault::StatusOfARange(500));
    let service = Service::of(&registry);
    service.listing();
    let client = ask(&service, &registry);
    let mut tries = 0;
    eventually("it is tried again", || {
        tries += count(&registry.take_requests(), "/blobs/");
        tries > 2
    });
    drop(client);
    std::thread::sleep(LIMIT);
    registry.take_requests();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(count(&registry.take_requests(), "/blobs/"), 0);
    assert_eq!(service.log.with(&["client went away"]).len(), 1);
}

#[test]
fn a_mirror_is_not_blamed_for_a_client_that_went_away() {
    let image = noise(300_000);
    let (registry, mirror) = (one_image(&image), one_image(&image));
    mirror.fault_times(1, "/blobs/", Fault::StallAfter(200_000));
    let service = Setup::with_mirrors(&registry, &[&mirror]).start();
    service.listing();
    let client = ask(&service, &mirror);
    drop(client);
    assert_eq!(service.log.with(&["client went away"]).len(), 1);
    assert_eq!(count(&registry.take_requests(), "/blobs/"), 0);
    let response = service.get("/hello/hello-v1.raw");
    assert!(response.whole && response.body == image);
    assert_eq!(count(&mirror.take_requests(), "/blobs/"), 1);
}

#[test]
fn a_listing_is_made_to_its_end_for_whoever_waits_too() {
    let (registry, listing) = Registry::with_versions(3);
    registry.fault_times(1, "/tags/list", Fault::Delay(Duration::from_millis(1500)));
    let service = Service::of(&registry);
    let mut clients = [(); 2].map(|()| Connection::open(service.address));
    for client in &mut clients {
        client.ask("/hello/SHA256SUMS");
        eventually("the tags are asked for", || registry.connections() > 0);
        // The second one waits for the same.
        std::thread::sleep(Duration::from_millis(200));
    }
    let [first, mut second] = clients;
    drop(first);
    assert_eq!(second.receive("GET").unwrap().text(), listing);
    assert_eq!(count(&registry.take_requests(), "/tags/list"), 1);
    let lines = service.log.with(&[" listed in "]);
    assert_eq!(lines.len(), 1, "{:?}", service.log.lines());
}

/// A client asks for a listing and leaves while a request for it is late. The listing is finished, and the next
/// client gets it without a request.
#[track_caller]
fn what_was_begun_is_finished(registry: &Registry, settings: &str, late: &str, listing: &str) {
    let service = Setup::of(registry).settings(settings).start();
    registry.take_requests();
    let late: &'static str = late.to_owned().leak();
    registry.fault_times(1, late, Fault::Delay(Duration::from_millis(1500)));
    let mut client = Connection::open(service.address);
    client.ask("/hello/SHA256SUMS");
    eventually("the registry is asked", || {
        count(&registry.take_requests(), late) > 0
    });
    drop(client);
    assert_eq!(service.log.with(&[" listed in "]).len(), 1);
    let left = ["client went away before there was an answer"];
    eventually("it is given out to nobody", || {
        service.log.with(&left).len() == 1
    });
    registry.take_requests();
    assert_eq!(service.listing(), listing);
    assert_eq!(registry.take_requests(), [""; 0], "{late}: asked again");
    assert_eq!(service.log.with(&["skipped"]), [""; 0]);
    assert_eq!(service.log.trouble_so_far(), [""; 0]);
}

#[test]
fn a_listing_whose_client_leaves_is_finished_for_the_next_one() {
    let (registry, listing) = Registry::with_versions(40);
    for late in ["/tags/list", "/manifests/v7"] {
        what_was_begun_is_finished(&registry, "parallel = 4\n", late, &listing);
    }
}

#[test]
fn clients_that_leave_their_listings_keep_nobody_from_being_answered() {
    for (silent, at_least) in [("silent", 64), ("/manifests/late", 128)] {
        let (registry, listing) = Registry::with_versions(20);
        for n in 0..64 {
            let mut repository = Repository::default();
            for tag in 0..20 {
                repository.oras_push(&format!("late{tag}"), "hello.raw", b"an image");
            }
            registry.put(&format!("silent{n}"), repository);
        }
        registry.fault(silent, Fault::Delay(Duration::from_secs(100)));
        let service = Service::of(&registry);
        let mut asked = 0;
        let mut clients = [(); 64].map(|()| Connection::open(service.address));
        for (n, client) in clients.iter_mut().enumerate() {
            client.ask(&format!("/silent{n}/SHA256SUMS"));
        }
        eventually("the registry is asked", || {
            asked += count(&registry.take_requests(), silent);
            asked >= at_least
        });
        service.no_listing(503);
        drop(clients);
        let begun = Instant::now();
        assert_eq!(service.listing(), listing, "{silent}");
        assert!(
            begun.elapsed() < 5 * LIMIT,
            "{silent}: {:?}",
            begun.elapsed()
        );
    }
}

/// A client leaves while a blob that its listing needs is late: the next one gets all of it.
#[track_caller]
fn what_was_half_listed_is_listed_whole(hello: Repository, late: &[u8], settings: &str) {
    let registry = Registry::with_hello(hello);
    let service = Setup::of(&registry).settings(settings).start();
    let listing = service.listing();
    assert_eq!(listing.lines().count(), 3);
    drop(service);
    what_was_begun_is_finished(&registry, settings, &digest(late), &listing);
}

#[test]
fn a_listing_is_finished_with_the_config_that_a_client_did_not_wait_for() {
    let mut hello = Repository::default();
    let config = |tag: &str| json!({"architecture": "amd64", "os": "linux", "of": tag}).to_string();
    for tag in ["v1", "v2", "v3"] {
        let file = hello.file(OCI_TAR, "hello.raw", tag.as_bytes());
        let media_type = "application/vnd.oci.image.config.v1+json";
        let config = hello.blob(media_type, config(tag).as_bytes());
        let artifact = hello.artifact(&[file], json!({"config": config}));
        hello.point(tag, &artifact);
    }
    let names = "[repository.hello]\nnames = \"{name}-{version}.{arch}\"\n";
    what_was_half_listed_is_listed_whole(hello, config("v2").as_bytes(), names);
}

#[test]
fn a_listing_is_finished_with_the_image_that_a_client_did_not_wait_for() {
    let mut hello = Repository::default();
    let image = |tag: &str| {
        let noise = noise(300_000);
        layer(&[
            ("noise", &noise),
            ("tag", tag.as_bytes()),
            (RELEASE, b"ID=_any\n"),
        ])
    };
    for tag in ["v1", "v2", "v3"] {
        let file = hello.file(OCI_TAR, "hello.tar.gz", &image(tag));
        let artifact = hello.artifact(&[file], json!({}));
        hello.point(tag, &artifact);
    }
    what_was_half_listed_is_listed_whole(hello, &image("v2"), "compatible-only = true\n");
}

#[test]
fn a_client_that_leaves_a_side_file_is_no_error() {
    let image = layer(&[("noise", &noise(300_000)), (RELEASE, b"ID=_any\n")]);
    let mut hello = Repository::default();
    let file = hello.file(OCI_TAR, "hello.raw", &image);
    let artifact = hello.artifact(&[file], json!({}));
    hello.point("v1", &artifact);
    let registry = Registry::with_hello(hello);
    let service = Service::of(&registry);
    service.listing();
    registry.fault("/blobs/", Fault::NoRange);
    registry.fault("/blobs/", Fault::StallAfter(image.len() / 2));
    let mut client = Connection::open(service.address);
    client.ask("/hello/hello-v1.manifest.gz");
    eventually("the image is asked for", || {
        count(&registry.take_requests(), "/blobs/") > 0
    });
    std::thread::sleep(Duration::from_millis(300));
    drop(client);
    let lines = service.log.with(&["client went away"]);
    assert_eq!(lines.len(), 1, "{:?}", service.log.lines());
    assert!(lines[0].starts_with("GET /hello/hello-v1.manifest.gz: "));
    assert_eq!(service.log.trouble_so_far(), [""; 0]);
}
