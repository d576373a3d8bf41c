//! `download-connections`: large files over several connections, in order, whole or visibly broken.

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use crate::client::Connection;
use crate::content::{Repository, noise};
use crate::registry::{Fault, Guard, LOGIN, Registry, one_image, ranges};
use crate::service::{Service, Setup, eventually, within};

const MIB: usize = 1 << 20;
/// Bytes of a window.
const WINDOW: usize = 2 * MIB;
const FILE: &str = "/hello/hello-v1.raw";

/// A connection of less than 2 MiB a second.
fn slow() -> Fault {
    Fault::Drip(64 << 10, Duration::from_millis(40))
}

fn settings(registry: &Registry, connections: usize) -> String {
    registry.settings() + &with_connections("hello", connections)
}

fn with_connections(repository: &str, connections: usize) -> String {
    format!("[repository.{repository}]\ndownload-connections = {connections}\n")
}

/// The windows of a file of this size, as its ranges are asked for.
fn windows(size: usize) -> Vec<String> {
    let starts = (0..size).step_by(WINDOW);
    let mut windows =
        Vec::from_iter(starts.map(|start| format!("{start}-{}", size.min(start + WINDOW) - 1)));
    windows.sort();
    windows
}

fn asked(registry: &Registry) -> Vec<String> {
    let mut asked = ranges(registry);
    asked.sort();
    asked
}

#[test]
fn four_connections_fetch_four_windows_at_once() {
    let image = noise(12 * WINDOW);
    let registry = one_image(&image);
    let service = Service::start(settings(&registry, 4));
    service.listing();
    // No window comes before four are asked for, so a connection that fetches them one after the other gets none.
    let four = Arc::new(Barrier::new(4));
    registry.fault("/blobs/", Fault::Together(four));
    let before = registry.connections();
    registry.take_heads();
    assert!(service.whole(FILE) == image);
    assert_eq!(asked(&registry), windows(image.len()));
    let opened = registry.connections() - before;
    assert!(opened <= 4, "{opened} connections for 12 windows");
}

#[test]
fn a_file_comes_whole_around_every_boundary_of_windows() {
    for (size, connections, is_plain, why) in [
        (4 * WINDOW - 1, 4, true, "a small file has one connection"),
        (4 * WINDOW, 4, false, "windows and no more"),
        (4 * WINDOW + 1, 3, false, "a last window of one byte"),
        (5 * WINDOW - 1, 8, false, "more connections than windows"),
        (12 * WINDOW + 7, 2, false, "windows are used again"),
        (4 * WINDOW, 1, true, "the default"),
    ] {
        let image = noise(size);
        let registry = one_image(&image);
        let service = Service::start(settings(&registry, connections));
        assert!(service.whole(FILE) == image, "{why}");
        let expected = if is_plain {
            vec!["all".to_owned()]
        } else {
            windows(size)
        };
        assert_eq!(asked(&registry), expected, "{why}");
        assert_eq!(service.log.trouble_so_far(), [""; 0], "{why}");
    }
}

#[test]
fn parallel_bounds_the_connections() {
    let image = noise(6 * WINDOW);
    let registry = one_image(&image);
    let two = Arc::new(Barrier::new(2));
    registry.fault("/blobs/", Fault::Together(two));
    let service = Service::start(format!("parallel = 2\n{}", settings(&registry, 8)));
    assert!(service.whole(FILE) == image);
    assert_eq!(registry.peak_in_flight(), 2);
}

#[test]
fn a_registry_without_ranges_is_asked_once() {
    let image = noise(5 * WINDOW);
    for (fault, expected, why) in [
        (Fault::NoRange, &["0-2097151"][..], "it ignores them"),
        (
            Fault::StatusOfARange(416),
            &["0-2097151", "all"],
            "it refuses them",
        ),
    ] {
        let registry = one_image(&image);
        registry.fault("/blobs/", fault);
        let service = Service::start(settings(&registry, 4));
        assert!(service.whole(FILE) == image, "{why}");
        assert_eq!(asked(&registry), expected, "{why}");
    }
}

#[test]
fn connections_that_break_or_are_refused_change_no_byte() {
    let image = noise(8 * WINDOW + 5);
    for (times, fault, why) in [
        (1, Fault::CutAfter(MIB), "the first one breaks off"),
        (5, Fault::CutAfter(MIB + 1), "several break off"),
        (3, Fault::CutAfter(0), "several end at once"),
        (1, Fault::Status(429), "one is one too many"),
        (2, Fault::Status(503), "it is busy for a moment"),
        (usize::MAX, Fault::bucket(8.0, 2.0), "it limits the rate"),
    ] {
        let registry = one_image(&image);
        registry.fault_times(times, "/blobs/", fault);
        let service = Service::start(settings(&registry, 4));
        let response = service.get(FILE);
        assert!(response.whole && response.body == image, "{why}");
    }
}

#[test]
fn what_changes_on_the_way_changes_no_byte() {
    let image = noise(10 * WINDOW);
    for (fault, why) in [
        (Fault::NoRange, "ranges are ignored from now on"),
        (Fault::StatusOfARange(416), "ranges are refused from now on"),
        (Fault::EarlierRange(5), "other ranges come from now on"),
        (Fault::Redirect(String::new()), "a redirect for each range"),
    ] {
        let times = if matches!(fault, Fault::Redirect(_)) {
            4
        } else {
            usize::MAX
        };
        let registry = one_image(&image);
        registry.fault_times(2, "/blobs/", slow());
        let service = Service::start(settings(&registry, 2));
        let response = service.get_while(FILE, || registry.fault_times(times, "/blobs/", fault));
        assert!(response.whole && response.body == image, "{why}");
        // Two had their window, two find out, and one fetches the rest: by a range, and without.
        let asked = asked(&registry).len();
        assert!(times < usize::MAX || asked <= 8, "{why}: {asked} requests");
        assert_eq!(service.log.trouble_so_far(), [""; 0], "{why}");
    }
}

/// One connection goes on, and drops the bytes that are known.
#[test]
fn windows_that_break_off_where_there_are_no_ranges_any_more_change_no_byte() {
    let image = noise(8 * WINDOW);
    let registry = one_image(&image);
    registry.fault_times(2, "/blobs/", Fault::CutAfter(MIB));
    registry.fault_times(2, "/blobs/", slow());
    let service = Service::start(settings(&registry, 2));
    let response = service.get_while(FILE, || registry.fault("/blobs/", Fault::NoRange));
    assert!(response.whole && response.body == image);
    assert_eq!(service.log.trouble_so_far(), [""; 0]);
}

#[test]
fn every_connection_has_the_login_and_follows_the_redirect() {
    let image = noise(6 * WINDOW);
    let (registry, store) = (one_image(&image), one_image(&image));
    registry.guard(Guard::basic(&[LOGIN]));
    registry.fault("/blobs/", Fault::Redirect(store.origin()));
    let setup = Setup::new(settings(&registry, 3));
    let service = setup.login(registry.address, LOGIN).start();
    assert!(service.whole(FILE) == image);
    let heads = store.take_heads();
    assert_eq!(heads.len(), 6);
    assert!(
        heads
            .iter()
            .all(|head| head.header("authorization").is_none())
    );
}

#[test]
fn a_mirror_that_fails_on_the_way_is_taken_over_from() {
    let image = noise(8 * WINDOW);
    let (registry, mirror) = (one_image(&image), one_image(&image));
    mirror.fault_times(2, "/blobs/", slow());
    let setup = Setup::with_mirrors(&registry, &[&mirror]);
    let service = setup.settings(&with_connections("hello", 2)).start();
    let response = service.get_while(FILE, || mirror.fault("/blobs/", Fault::CutAfter(MIB)));
    assert!(response.whole && response.body == image);
    assert!(!asked(&registry).is_empty() && !asked(&mirror).is_empty());
}

#[test]
fn a_wrong_byte_of_any_window_completes_nothing() {
    let image = noise(5 * WINDOW);
    let registry = one_image(&image);
    let service = Service::start(settings(&registry, 4));
    service.listing();
    let mut wrong = image.clone();
    for place in [0, WINDOW + 1, image.len() - 1] {
        wrong[place] ^= 1;
        registry.behave();
        registry.change(|hello| {
            let blobs = hello.blobs.values_mut();
            let image = blobs.max_by_key(|blob| blob.len()).unwrap();
            *image = wrong.clone().into();
        });
        let response = service.get(FILE);
        assert_eq!((response.status, response.whole), (200, false), "{place}");
        assert!(response.body.len() < image.len(), "{place}");
        wrong[place] ^= 1;
    }
}

#[test]
fn a_registry_that_loses_the_file_on_the_way_ends_the_download() {
    let image = noise(8 * WINDOW);
    let registry = one_image(&image);
    registry.fault_times(
        2,
        "/blobs/",
        Fault::Drip(64 << 10, Duration::from_millis(5)),
    );
    let service = Service::start(settings(&registry, 2));
    let response = service.get_while(FILE, || registry.fault("/blobs/", Fault::Status(403)));
    assert!(!response.whole && image.starts_with(&response.body));
    eventually("it is logged", || {
        service.log.with(&["download cut short", "403"]).len() == 1
    });
}

#[test]
fn a_client_that_goes_away_ends_all_connections() {
    let image = noise(8 * WINDOW);
    for (fault, why) in [
        (Fault::StallAfter(MIB), "the registry is silent"),
        (slow(), "the registry is slow"),
        (Fault::Delay(Duration::from_secs(100)), "there is no head"),
    ] {
        let registry = one_image(&image);
        let service = Service::start(settings(&registry, 4));
        service.listing();
        let threads = service.threads();
        registry.fault_times(
            4,
            "/blobs/",
            Fault::Drip(64 << 10, Duration::from_millis(10)),
        );
        let mut client = Connection::open(service.address);
        client.ask(FILE);
        let mut asked = 0;
        let mut are_asked = |enough: usize| {
            asked += ranges(&registry).len();
            asked >= enough
        };
        eventually("four are asked", || are_asked(4));
        registry.fault("/blobs/", fault);
        eventually("one more is asked", || are_asked(5));
        drop(client);
        // It takes a quarter of a second. What is waited for would come after 20 s or not at all.
        eventually("they have ended", || service.threads() <= threads);
        assert_eq!(service.log.trouble_so_far(), [""; 0], "{why}");
    }
}

/// Its windows wait for it, and no more are fetched. They are free when it is gone.
#[test]
fn a_client_that_reads_nothing_holds_its_windows_and_no_more() {
    let image = noise(40 * WINDOW);
    let registry = one_image(&image);
    let service = Service::start(settings(&registry, 8));
    service.listing();
    registry.take_heads();
    let threads = service.threads();
    let mut client = Connection::open(service.address);
    client.ask(FILE);
    let mut fetched = 0;
    within(60, "the windows are full", || {
        fetched += ranges(&registry).len();
        fetched >= 16
    });
    thread::sleep(Duration::from_millis(500));
    fetched += ranges(&registry).len();
    // The sockets have room for 10 MiB at most.
    assert!(fetched <= 16 + 5, "{fetched} windows");
    assert!(service.peak_memory() <= 48, "{} MiB", service.peak_memory());
    drop(client);
    eventually("the connections have ended", || {
        service.threads() <= threads
    });
    assert!(service.whole(FILE) == image);
    assert_eq!(asked(&registry), windows(image.len()));
}

#[test]
fn all_downloads_share_the_memory_for_windows() {
    let image = noise(8 * WINDOW);
    let mut hello = Repository::default();
    hello.oras_push("v1", "hello.raw", &image);
    let registry = Registry::start();
    registry.put("hello", hello.clone());
    registry.put("other", hello);
    registry.fault("/blobs/", slow());
    let more = with_connections("other", 4);
    let service = Service::start(settings(&registry, 4) + &more);
    for directory in ["hello", "other"] {
        service.listing_of(directory);
    }
    let mut seen = Vec::new();
    thread::scope(|scope| {
        let get = |target| {
            let (service, image) = (&service, &image);
            scope.spawn(move || assert!(service.whole(target) == *image, "{target}"));
        };
        // They take all windows, and hold them while they read.
        get(FILE);
        get("/other/other-v1.raw");
        within(60, "both have their connections", || {
            seen.extend(ranges(&registry));
            seen.len() >= 8
        });
        get(FILE);
    });
    seen.extend(ranges(&registry));
    seen.sort();
    let mut expected = [
        windows(image.len()),
        windows(image.len()),
        vec!["all".into()],
    ]
    .concat();
    expected.sort();
    assert_eq!(seen, expected);
    assert!(service.peak_memory() <= 48, "{} MiB", service.peak_memory());
    // They are free again.
    assert!(service.whole(FILE) == image);
    assert_eq!(asked(&registry), windows(image.len()));
}
