//! The cost of a listing, how long it is kept, and that nothing spoils it. The expected listing for each
//! manifest is in `tests/cases/`.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::Connection;
use crate::content::{OCI_MANIFEST, OCI_TAR, Repository, empty_listing, line, sha256, versions};
use crate::registry::{Fault, Registry, count};
use crate::service::{ANEW, Folder, Service, Setup, X86, eventually, later};

#[test]
fn a_listing_names_every_version_of_a_registry() {
    let (registry, listing) = Registry::with_versions(12);
    let service = Service::of(&registry);
    let response = service.get("/hello/SHA256SUMS");
    assert_eq!((response.status, response.text()), (200, listing.as_str()));
    assert_eq!(
        response.header("content-length"),
        Some(listing.len().to_string().as_str())
    );
}

#[test]
fn a_listing_names_every_version_of_a_layout() {
    let (hello, listing) = versions(12);
    let folder = Folder::with_layout(&hello);
    let service = Service::start(folder.settings());
    assert_eq!(service.listing(), listing);
    assert_eq!(service.get("/hello/hello-v7.raw").body, b"image 7");
}

#[test]
fn a_layout_that_changes_is_listed_as_it_is_then() {
    let (hello, listing) = versions(1);
    let (more, longer) = versions(2);
    let folder = Folder::with_layout(&hello);
    let service = Service::start(ANEW.to_owned() + &folder.settings());
    assert_eq!(service.listing(), listing);
    more.write_layout(folder.path());
    later();
    assert_eq!(service.listing(), longer);
}

#[test]
fn a_layout_that_is_damaged_is_a_bad_gateway_and_one_that_is_missing_too() {
    let (hello, listing) = versions(1);
    let folder = Folder::with_layout(&hello);
    let source = folder.path().display();
    let service = Service::start(format!(
        "{ANEW}[repository.hello]\nsource = \"oci:{source}\"\n\
         [repository.gone]\nsource = \"oci:{source}/gone\"\n"
    ));
    assert_eq!(service.listing(), listing);
    fs::write(folder.path().join("index.json"), "{\"manifests\": [").unwrap();
    later();
    for target in ["/hello/SHA256SUMS", "/gone/SHA256SUMS"] {
        let response = service.get(target);
        assert_eq!((response.status, response.body.len()), (502, 0), "{target}");
    }
}

#[test]
fn a_damaged_manifest_of_a_layout_is_a_bad_tag() {
    let (mut hello, listing) = versions(2);
    hello.oras_push("v1-broken", "hello.raw", b"right");
    let folder = Folder::with_layout(&hello);
    let digest = hello.tags["v1-broken"].clone();
    let path = folder
        .path()
        .join("blobs/sha256")
        .join(&digest["sha256:".len()..]);
    // Still a manifest, but not the one that the layout's index names.
    let manifest = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        manifest.replace(&sha256(b"right"), &sha256(b"wrong")),
    )
    .unwrap();
    let service = Service::start(folder.settings());
    assert_eq!(service.listing(), listing);
    assert_eq!(service.log.with(&["v1-broken"]).len(), 1);
}

#[test]
fn a_repository_is_found_by_its_path_its_registry_and_its_name_in_the_settings() {
    let (hello, listing) = versions(1);
    let registry = Registry::start();
    registry.put("acme/hello", hello);
    let address = registry.address;
    let service = Service::start(
        registry.settings() + &format!("[repository.short]\nsource = \"{address}/acme/hello\"\n"),
    );
    for (target, base, why) in [
        (
            "/acme/hello/SHA256SUMS".to_owned(),
            "hello",
            "under the default registry",
        ),
        (
            format!("/{address}/acme/hello/SHA256SUMS"),
            "hello",
            "with the default registry's name",
        ),
        (
            format!(
                "/{}/acme/hello/SHA256SUMS",
                address.to_string().replace(':', "%3A")
            ),
            "hello",
            "encoded",
        ),
        (
            "/short/SHA256SUMS".to_owned(),
            "short",
            "by the settings; the URL's name is the base",
        ),
    ] {
        let response = service.get(&target);
        let expected = listing.replace("hello-", &format!("{base}-"));
        assert_eq!(
            (response.status, response.text()),
            (200, expected.as_str()),
            "{why}"
        );
    }
    assert_eq!(service.get("/short/short-v0.raw").body, b"image 0");
}

#[test]
fn a_default_registry_may_have_a_path() {
    let (hello, listing) = versions(1);
    let registry = Registry::start();
    registry.put("acme/sysexts/hello", hello);
    let service = Service::start(format!(
        "registry = \"{}/acme/sysexts\"\n",
        registry.address
    ));
    assert_eq!(service.listing(), listing);
}

#[test]
fn one_bad_tag_spoils_no_other_and_is_one_line_in_the_log() {
    // A way to be bad, and what the line has to name beside the tag.
    let ways: Vec<(&str, Vec<Fault>)> = vec![
        ("500", vec![Fault::Status(500)]),
        ("has no", vec![Fault::Status(404)]),
        (
            "",
            vec![
                Fault::Body(b"<html>who are you?</html>".to_vec()),
                Fault::Header("Docker-Content-Digest", None),
            ],
        ),
        (
            "",
            vec![
                Fault::Body(b"{}".to_vec()),
                Fault::Header("Docker-Content-Digest", None),
            ],
        ),
        ("", vec![Fault::CutAfter(20)]),
        (
            "",
            vec![Fault::Raw(
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
            )],
        ),
        (
            "",
            vec![
                Fault::Body(vec![b' '; 9 << 20]),
                Fault::Header("Docker-Content-Digest", None),
            ],
        ),
        (
            "",
            vec![
                Fault::Endless("{\"schemaVersion\":2,"),
                Fault::Header("Docker-Content-Digest", None),
            ],
        ),
        ("", vec![Fault::WrongByte]),
    ];
    for (reason, faults) in ways {
        let (mut hello, listing) = versions(3);
        hello.oras_push("v1-broken", "hello.raw", b"broken");
        let digest = hello.tags["v1-broken"].clone().leak();
        let registry = Registry::with_hello(hello);
        for fault in &faults {
            registry.fault("/manifests/v1-broken", fault.clone());
            registry.fault(digest, fault.clone());
        }
        let service = Service::of(&registry);
        assert_eq!(service.listing(), listing, "{faults:?}");
        let lines = service.log.with(&["v1-broken"]);
        assert_eq!(lines.len(), 1, "{faults:?}: {lines:?}");
        assert!(lines[0].contains(reason), "{reason} is not in {lines:?}");
        assert!(
            service.peak_memory() < 40,
            "{} MiB after {faults:?}",
            service.peak_memory()
        );
    }
}

#[test]
fn another_manifest_than_an_index_names_is_a_bad_tag() {
    let (mut hello, listing) = versions(2);
    hello.index("v1-broken", &[("amd64", "hello.raw", b"right")]);
    let index = &hello.manifests[&hello.tags["v1-broken"]].bytes;
    let index: serde_json::Value = serde_json::from_slice(index).unwrap();
    let child = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
    let other = hello.manifests[&hello.tags["v1"]].bytes.to_vec();
    let registry = Registry::with_hello(hello);
    registry.fault(child.leak(), Fault::Body(other));
    let service = Service::of(&registry);
    assert_eq!(service.listing(), listing);
    assert_eq!(service.log.with(&["v1-broken"]).len(), 1);
}

#[test]
fn things_in_a_tag_list_that_are_no_tags_are_dropped() {
    let (registry, listing) = Registry::with_versions(1);
    let sha512 = "0f".repeat(64);
    let tags = format!(
        r#"{{"name": 7, "child": [], "tags": [null, "-ot-beta", "sha512:{sha512}", "", 5, {{}}, "../v0", "v0", "v0"]}}"#
    );
    registry.fault("/tags/list", Fault::Body(tags.into_bytes()));
    let service = Service::of(&registry);
    assert_eq!(service.listing(), listing);
    let requests = registry.take_requests();
    assert_eq!(
        count(&requests, "/manifests/..") + count(&requests, "beta"),
        0,
        "{requests:?}"
    );
}

#[test]
fn a_repository_without_versions_is_a_listing_that_is_fresh_for_a_day() {
    // As registries spell it once the last tag is gone.
    for body in [
        r#"{"name":"hello","tags":null}"#,
        r#"{"name":"hello","tags":[]}"#,
        r#"{"name":"hello"}"#,
    ] {
        let registry = Registry::with_hello(Repository::default());
        registry.fault("/tags/list", Fault::Body(body.as_bytes().to_vec()));
        let service = Service::of(&registry);
        let before = empty_listing();
        let listing = service.listing();
        assert!(
            [before, empty_listing()].contains(&listing),
            "{body}: {listing}"
        );
    }
}

#[test]
fn tags_are_resolved_in_parallel_over_connections_that_are_kept() {
    let (registry, listing) = Registry::with_versions(40);
    registry.fault("/v2/", Fault::Delay(Duration::from_millis(20)));
    let service = Service::start(registry.settings() + "parallel = 4\n");
    assert_eq!(service.listing(), listing);
    let peak = registry.peak_in_flight();
    assert!((3..=4).contains(&peak), "{peak} requests at once");
    assert!(
        registry.connections() <= 5,
        "{} connections",
        registry.connections()
    );
}

#[test]
fn many_listings_at_once_ask_no_more_at_once_than_a_process_has_connections_for() {
    let (hello, _) = versions(16);
    let registry = Registry::start();
    let names: Vec<_> = (0..24).map(|n| format!("r{n}")).collect();
    for name in &names {
        registry.put(name, hello.clone());
    }
    registry.fault("/manifests/v", Fault::Delay(Duration::from_secs(1)));
    let service = Service::of(&registry);
    thread::scope(|scope| {
        for name in &names {
            let service = &service;
            scope.spawn(move || assert_eq!(service.listing_of(name).lines().count(), 16));
        }
    });
    // 384 at once without a limit. The registry counts a request a moment longer than who has the answer.
    let peak = registry.peak_in_flight();
    assert!((16..300).contains(&peak), "{peak}");
}

#[test]
fn silent_registries_hold_up_nothing_that_lies_on_this_machine() {
    let (hello, listing) = versions(16);
    let registry = Registry::start();
    let names: Vec<_> = (0..20).map(|n| format!("r{n}")).collect();
    for name in &names {
        registry.put(name, hello.clone());
    }
    registry.fault("/manifests/v", Fault::Delay(Duration::from_secs(100)));
    let layout = Folder::new();
    hello.write_layout(layout.path());
    let local = format!(
        "[repository.hello]\nsource = \"oci:{}\"\n",
        layout.path().display()
    );
    let service = Service::start(registry.settings() + &local);
    let waiting: Vec<_> = names
        .iter()
        .map(|name| {
            let mut client = Connection::open(service.address);
            client.ask(&format!("/{name}/SHA256SUMS"));
            client
        })
        .collect();
    // All that are shared, and one of each listing.
    let all = 128 + names.len();
    eventually("no request is left", || registry.peak_in_flight() >= all);
    let begin = Instant::now();
    assert_eq!(service.listing(), listing);
    assert!(begin.elapsed() < Duration::from_secs(1));
    drop(waiting);
}

#[test]
fn a_listing_is_asked_for_once_within_its_time() {
    let (registry, listing) = Registry::with_versions(5);
    let service = Service::start(registry.settings() + "listing-ttl-sec = 60\n");
    assert_eq!(service.listing(), listing);
    let first = registry.take_requests();
    assert_eq!(count(&first, "GET /v2/hello/tags/list"), 1, "{first:?}");
    for _ in 0..3 {
        assert_eq!(service.listing(), listing);
    }
    assert_eq!(
        service.get("/hello/hello-v3.raw.sha256").text(),
        line(b"image 3", "hello-v3.raw")
    );
    assert_eq!(registry.take_requests(), Vec::<String>::new());
}

#[test]
fn a_listing_is_made_anew_after_its_time() {
    let registry = Registry::with_hello(versions(1).0);
    let service = Service::start(registry.settings() + "listing-ttl-sec = 0.2\n");
    assert_eq!(service.listing(), line(b"image 0", "hello-v0.raw"));
    registry.change(|hello| hello.oras_push("v0", "hello.raw", b"moved"));
    thread::sleep(Duration::from_millis(250));
    assert_eq!(service.listing(), line(b"moved", "hello-v0.raw"));
}

#[test]
fn what_was_listed_is_delivered_though_the_tag_has_moved() {
    let registry = Registry::with_hello(versions(2).0);
    let service = Service::start(registry.settings() + "listing-ttl-sec = 60\n");
    let listing = service.listing();
    registry.change(|hello| hello.oras_push("v1", "hello.raw", b"moved"));
    let image = service.get("/hello/hello-v1.raw").body;
    assert_eq!(image, b"image 1");
    assert!(listing.contains(&line(&image, "hello-v1.raw")), "{listing}");
}

#[test]
fn what_was_listed_is_delivered_though_the_listing_is_too_old_to_be_given_out_again() {
    let registry = Registry::with_hello(versions(2).0);
    let service = Service::start(registry.settings() + ANEW);
    let listing = service.listing();
    registry.change(|hello| hello.oras_push("v1", "hello.raw", b"moved"));
    later();
    assert_eq!(service.get("/hello/hello-v1.raw").body, b"image 1");
    let sum = service.get("/hello/hello-v1.raw.sha256");
    assert!(listing.contains(sum.text()), "{sum:?}");
    // A new listing is a new promise.
    assert!(service.listing().contains(&line(b"moved", "hello-v1.raw")));
    assert_eq!(service.get("/hello/hello-v1.raw").body, b"moved");
}

#[test]
fn a_promise_is_kept_whatever_else_is_asked_for() {
    let registry = Registry::with_hello(versions(2).0);
    let service = Service::of(&registry);
    service.listing();
    registry.change(|hello| hello.oras_push("v1", "hello.raw", b"moved"));
    for n in 0..300 {
        let forbidden = service.get(&format!("/evil.example/a{n}/SHA256SUMS"));
        assert_eq!(forbidden.status, 403);
        let missing = service.get(&format!("/missing{n}/SHA256SUMS"));
        assert_eq!(missing.status, 404);
    }
    assert_eq!(service.get("/hello/hello-v1.raw").body, b"image 1");
}

#[test]
fn of_very_many_promises_the_oldest_is_forgotten_first() {
    let registry = Registry::with_hello(versions(1).0);
    let moved = || {
        let mut moved = versions(1).0;
        moved.oras_push("v0", "hello.raw", b"moved");
        moved
    };
    let service = Service::of(&registry);
    service.listing();
    for n in 0..255 {
        registry.put(&format!("r{n}"), versions(1).0);
        service.listing_of(&format!("r{n}"));
    }
    registry.put("hello", moved());
    registry.put("r0", moved());
    assert_eq!(service.get("/hello/hello-v0.raw").body, b"image 0");
    registry.put("one-more", versions(1).0);
    service.listing_of("one-more");
    assert_eq!(service.get("/r0/r0-v0.raw").body, b"image 0");
    assert_eq!(service.get("/hello/hello-v0.raw").body, b"moved");
}

#[test]
fn a_name_that_the_listing_lacks_causes_one_refresh() {
    let registry = Registry::with_hello(versions(1).0);
    let service = Service::start(registry.settings() + "listing-ttl-sec = 60\n");
    service.listing();
    registry.change(|hello| hello.oras_push("v1", "hello.raw", b"image 1"));
    registry.take_requests();
    assert_eq!(service.get("/hello/hello-v1.raw").body, b"image 1");
    assert_eq!(count(&registry.take_requests(), "/tags/list"), 1);
    assert_eq!(service.get("/hello/hello-v2.raw").status, 404);
    assert!(count(&registry.take_requests(), "/tags/list") <= 1);
    assert_eq!(service.listing(), versions(2).1);
}

#[test]
fn a_file_is_delivered_without_a_listing_before_it() {
    let registry = Registry::with_hello(versions(2).0);
    let service = Service::of(&registry);
    assert_eq!(service.get("/hello/hello-v1.raw").body, b"image 1");
}

#[test]
fn a_registry_that_comes_back_is_listed_again() {
    let (registry, listing) = Registry::with_versions(1);
    registry.fault("/tags/list", Fault::Status(404));
    let service = Service::start(registry.settings() + ANEW);
    service.no_listing(404);
    registry.behave();
    assert_eq!(service.listing(), listing);
}

/// A reason belongs to its tag: who follows the journal is told once, whatever is asked how often.
#[test]
fn entries_of_an_index_that_cannot_be_used_are_told_with_its_tag_once_for_each_change() {
    let sha512 = |digit: &str| {
        let digest = format!("sha512:{}", digit.repeat(128));
        json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": 1})
    };
    let mut hello = Repository::default();
    let layer = hello.file(OCI_TAR, "hello.raw", b"image");
    let good = hello.artifact(&[layer], json!({}));
    let inner = hello.index_of(&[good.clone(), sha512("a")], json!({}));
    let index = hello.index_of(&[sha512("b"), inner], json!({}));
    hello.point("v1", &index);
    let registry = Registry::with_hello(hello);
    let service = Service::start(registry.settings() + ANEW);
    let why = "digest algorithm \"sha512\" cannot be listed in SHA256SUMS, only sha256 can";
    let reason = |n: usize| format!("hello: tag v1 skipped: index entry {n}: {why}");
    let reasons = || {
        let mut lines = service.log.lines();
        lines.retain(|line| line.contains("sha512"));
        lines
    };
    for _ in 0..3 {
        assert_eq!(service.listing(), line(b"image", "hello-v1.raw"));
        later();
    }
    eventually("all three are told of", || {
        let lines = service.log.lines().into_iter();
        lines
            .filter(|line| line.contains(": 1 file listed in "))
            .count()
            == 3
    });
    assert_eq!(reasons(), [reason(1), reason(2)]);
    registry.change(|hello| {
        let index = hello.index_of(&[good.clone(), good, sha512("b")], json!({}));
        hello.point("v1", &index);
    });
    later();
    service.get("/hello/SHA256SUMS");
    eventually("the change is told", || reasons().len() == 3);
}

#[test]
fn very_many_entries_that_cannot_be_used_do_not_flood_the_log() {
    let digest = format!("sha512:{}", "0".repeat(128));
    let bad = json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": 1});
    let mut hello = Repository::default();
    let layer = hello.file(OCI_TAR, "hello.raw", b"image");
    let mut entries = vec![bad; 10_000];
    let index = hello.index_of(&entries, json!({}));
    hello.point("none", &index);
    entries.push(hello.artifact(&[layer], json!({})));
    let index = hello.index_of(&entries, json!({}));
    hello.point("v1", &index);
    let registry = Registry::with_hello(hello);
    let service = Service::of(&registry);
    assert_eq!(service.listing(), line(b"image", "hello-v1.raw"));
    service.log.with(&[" listed in "]);
    let log = service.log.lines();
    let bytes: usize = log.iter().map(String::len).sum();
    assert!(
        log.len() < 50 && bytes < 20_000,
        "{} lines, {bytes} bytes",
        log.len()
    );
    let rest = "tag v1 skipped: 9981 more entries of the index cannot be used";
    assert_eq!(service.log.with(&[rest]).len(), 1);
}

/// An artifact of as many layers as are read, each with a digest of its own or all with the same.
fn of_very_many_layers(hello: &mut Repository, are_alike: bool) -> Value {
    let layers: Vec<_> = (0..16_384)
        .map(|n| {
            let digest = format!("sha256:{:064x}", if are_alike { 0 } else { n });
            json!({
                "mediaType": OCI_TAR,
                "digest": digest,
                "size": 1,
                "annotations": {"org.opencontainers.image.title": format!("{n}.raw")},
            })
        })
        .collect();
    hello.artifact(&layers, json!({}))
}

#[test]
fn however_much_tags_offer_a_listing_of_them_takes_little_memory() {
    // As many tags of other files each as there is memory for, then twice as many.
    for (are_alike, tags, megabytes) in [(true, 16, 48), (false, 9, 170), (false, 16, 170)] {
        let mut hello = Repository::default();
        let artifact = of_very_many_layers(&mut hello, are_alike);
        for n in 0..tags {
            hello.point(&format!("v{n}"), &artifact);
        }
        let registry = Registry::with_hello(hello);
        // One at a time, for what is being read takes memory, too.
        let service = Service::start(registry.settings() + "parallel = 1\n");
        let response = service.get("/hello/SHA256SUMS");
        let found = response.text().matches(".raw\n").count();
        let peak = service.peak_memory();
        assert!(
            peak <= megabytes,
            "{peak} MiB of {tags}, alike: {are_alike}"
        );
        let incomplete = response.header("x-incomplete");
        if are_alike {
            assert_eq!((response.status, found, incomplete), (200, tags, None));
        } else if tags == 9 {
            // Whole tags, the newest ones, and it is told that there are more.
            assert_eq!((response.status, found % 16_384), (200, 0));
            assert!(found > 0 && response.text().contains("hello-v8-0.raw"));
            assert!(incomplete.is_some_and(|text| text.contains("of 9 tags were not answered")));
        } else {
            assert_eq!((response.status, found), (503, 0));
            let why = response.header("x-reason").unwrap();
            assert!(why.contains("all that one listing may"), "{why}");
        }
    }
}

#[test]
fn a_tag_of_too_many_files_is_left_out_and_spoils_no_other() {
    let mut hello = versions(1).0;
    let artifact = of_very_many_layers(&mut hello, false);
    let entries: Vec<_> = ["amd64", "arm64", "riscv64"]
        .map(|architecture| {
            let mut entry = artifact.clone();
            entry["platform"] = json!({"os": "linux", "architecture": architecture});
            entry
        })
        .into();
    let index = hello.index_of(&entries, json!({}));
    hello.point("v1", &index);
    let registry = Registry::with_hello(hello);
    let all = "[repository.hello]\narchitectures = [\"x86-64\", \"arm64\", \"riscv64\"]\n";
    let service = Service::start(registry.settings() + all);
    assert_eq!(service.listing(), versions(1).1);
    let why = "tag v1 skipped: it offers so many files that they take more than 8 MiB of memory";
    assert_eq!(service.log.with(&[why]).len(), 1);
}

#[test]
fn what_a_publisher_writes_begins_no_line_of_the_log_and_steers_no_terminal() {
    let mut hello = Repository::default();
    let architecture = "evil\nerror: forged\r\u{1b}[31m\u{9b}2J";
    let files: [(&str, &str, &[u8]); 1] = [(architecture, "hello.raw", b"image")];
    hello.index("v1", &files);
    let layer = hello.blob("evil\n<3>forged", b"image");
    let config = json!({
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": layer["digest"],
        "size": 5,
    });
    let artifact = hello.artifact(&[layer], json!({"config": config}));
    hello.point("v2", &artifact);
    let registry = Registry::with_hello(hello);
    let service = Setup::new(registry.settings() + X86).own_cache().start();
    assert_eq!(service.listing(), empty_listing());
    service.log.with(&[" listed in "]);
    let log = service.log.lines();
    assert_eq!(log.len(), 4, "{log:?}");
    assert_eq!(
        log[1],
        "hello: tag v1 skipped: its one platform is linux/evil\\nerror: forged\\r\\u{1b}[31m\\u{9b}2J, \
         offered is x86-64"
    );
    assert!(log[2].contains("tag v2 skipped: ") && log[2].contains("evil\\n<3>forged"));
}

#[test]
fn a_name_beside_a_file_causes_one_refresh_too() {
    let registry = Registry::with_hello(versions(2).0);
    for name in [
        "nothing.raw",
        "nothing.raw.sha256",
        "nothing.raw.json",
        "nothing.manifest.gz",
        // Too long to have one beside it.
        &format!("{}.sha256", "n".repeat(250)),
    ] {
        let service = Service::of(&registry);
        service.listing();
        registry.take_requests();
        let response = service.get(&format!("/hello/{name}"));
        assert_eq!(response.status, 404, "{name}");
        let requests = registry.take_requests();
        assert_eq!(count(&requests, "/tags/list"), 1, "{name}: {requests:?}");
    }
}

/// The registry is not asked once for each name that somebody thinks up, however old a listing may be.
#[test]
fn any_number_of_names_that_are_not_offered_cause_one_refresh() {
    let registry = Registry::with_hello(versions(2).0);
    for (settings, is_cold) in [("", false), ("listing-ttl-sec = 0\n", false), ("", true)] {
        let service = Service::start(registry.settings() + settings);
        if !is_cold {
            service.listing();
        }
        registry.take_requests();
        let begin = Instant::now();
        thread::scope(|scope| {
            for thread in 0..4 {
                let service = &service;
                scope.spawn(move || {
                    for n in 0..25 {
                        let name = format!("/hello/nothing-{thread}.{n}.raw");
                        assert_eq!(service.get(&name).status, 404);
                    }
                });
            }
        });
        let requests = registry.take_requests();
        let most = 1 + begin.elapsed().as_secs() as usize;
        let found = count(&requests, "/tags/list");
        assert!(
            (1..=most).contains(&found),
            "{settings}: {found}, {requests:?}"
        );
    }
}

#[test]
fn any_number_of_names_in_a_repository_that_is_not_there_ask_for_it_once() {
    let registry = Registry::start();
    let service = Service::of(&registry);
    for n in 0..20 {
        assert_eq!(service.get(&format!("/hello/{n}.raw")).status, 404);
    }
    let requests = registry.take_requests();
    assert_eq!(count(&requests, "/tags/list"), 1, "{requests:?}");
    registry.put("hello", versions(2).0);
    assert_eq!(
        service.listing(),
        versions(2).1,
        "a listing is asked for anew"
    );
}
