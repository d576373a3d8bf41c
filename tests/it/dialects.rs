//! Repositories that nobody publishes on purpose: manifests too large to be a file in `tests/cases/`, and indexes
//! that contain themselves. Each is a reason in the log, and the rest of the listing is complete.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::content::{Manifest, OCI_INDEX, OCI_MANIFEST, OCI_TAR, Repository, line, sha256};
use crate::registry::Registry;
use crate::service::{Service, X86};

/// A repository with a good tag, `good`.
fn with_a_good_tag() -> Repository {
    let mut hello = Repository::default();
    hello.oras_push("good", "hello.raw", b"good");
    hello
}

/// Its listing if nothing else is on offer.
fn good() -> String {
    line(b"good", "hello-good.raw")
}

/// The listing, which may take no long time and no large memory, and all reasons in the log.
fn listed(hello: Repository, directory: &str) -> (String, Vec<String>) {
    let registry = Registry::with_hello(hello);
    let more = "[repository.hello]\narchitectures = [\"x86-64\", \"arm64\"]\n";
    let service = Service::start(registry.settings() + more);
    let begun = Instant::now();
    let response = service.get(&format!("/{directory}/SHA256SUMS"));
    let (took, peak) = (begun.elapsed(), service.peak_memory());
    assert_eq!(
        (response.status, response.whole),
        (200, true),
        "{response:?}"
    );
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(peak <= 64, "{peak} MiB");
    service.log.with(&[" listed in "]);
    let mut log = service.log.lines();
    log.retain(|line| line.contains("skipped"));
    (response.text().to_owned(), log)
}

/// Layers with a digest of their own each, whose blobs are nowhere.
fn layers(count: usize, title: impl Fn(usize) -> String) -> Vec<Value> {
    let layer = |n: usize| {
        json!({
            "mediaType": OCI_TAR,
            "digest": format!("sha256:{}", sha256(format!("layer {n}").as_bytes())),
            "size": 4096,
            "annotations": {"org.opencontainers.image.title": title(n)},
        })
    };
    (0..count).map(layer).collect()
}

#[test]
fn ten_thousand_layers_of_one_name_are_one_bad_tag() {
    let mut hello = with_a_good_tag();
    let artifact = hello.artifact(&layers(10_000, |_| "a.raw".to_owned()), json!({}));
    hello.point("many", &artifact);
    let (listing, log) = listed(hello, "hello");
    assert_eq!(listing, good());
    assert_eq!(log.len(), 1, "{} lines", log.len());
    assert!(
        log[0].contains("tag many skipped: two of its layers would both be called"),
        "{log:?}"
    );
}

#[test]
fn ten_thousand_layers_that_are_no_images_do_not_flood_the_log() {
    let mut hello = with_a_good_tag();
    let mut all = layers(10_000, |n| format!("{n}.txt"));
    all.push(hello.file(OCI_TAR, "image.raw", b"one of them is"));
    let artifact = hello.artifact(&all, json!({}));
    hello.point("many", &artifact);
    let (listing, log) = listed(hello, "hello");
    assert_eq!(listing, good() + &line(b"one of them is", "hello-many.raw"));
    let bytes: usize = log.iter().map(String::len).sum();
    assert!(
        (1..=100).contains(&log.len()) && bytes < 100_000,
        "{} lines, {bytes} bytes",
        log.len()
    );
}

#[test]
fn ten_thousand_files_are_a_directory_of_so_many() {
    let mut hello = with_a_good_tag();
    let artifact = hello.artifact(&layers(10_000, |n| format!("{n:05}.raw")), json!({}));
    hello.point("many", &artifact);
    let (listing, log) = listed(hello, "hello:many");
    let expected: String = (0..10_000)
        .map(|n| line(format!("layer {n}").as_bytes(), &format!("{n:05}.raw")))
        .collect();
    assert!(listing == expected, "{} lines", listing.lines().count());
    assert_eq!(log, [""; 0]);
}

#[test]
fn a_manifest_of_four_megabytes_is_read_and_one_of_nine_is_not() {
    for (megabytes, is_read) in [(4, true), (9, false)] {
        let mut hello = with_a_good_tag();
        let layer = hello.file(OCI_TAR, "image.raw", b"large");
        let text = "x".repeat(megabytes << 20);
        let artifact = hello.artifact(&[layer], json!({"annotations": {"text": text}}));
        hello.point("large", &artifact);
        let (listing, log) = listed(hello, "hello");
        let more = if is_read {
            line(b"large", "hello-large.raw")
        } else {
            String::new()
        };
        assert_eq!(listing, good() + &more);
        assert_eq!(log.len(), usize::from(!is_read), "{log:?}");
        assert!(
            log.iter()
                .all(|line| line.contains("tag large skipped: ") && line.len() < 500),
            "{log:?}"
        );
    }
}

#[test]
fn a_manifest_that_is_nested_without_end_is_a_bad_tag() {
    let mut hello = with_a_good_tag();
    for (tag, open, close) in [("lists", "[", "]"), ("sets", "{\"a\":", "}")] {
        let deep = open.repeat(200_000) + "1" + &close.repeat(200_000);
        let text = format!("{{\"schemaVersion\":2,\"annotations\":{deep},\"layers\":[]}}");
        hello.tag(tag, text.as_bytes());
        let unknown = format!("{{\"schemaVersion\":2,\"unknown\":{deep},\"layers\":[]}}");
        hello.tag(&format!("{tag}-unknown"), unknown.as_bytes());
    }
    let (listing, log) = listed(hello, "hello");
    assert_eq!(listing, good());
    assert_eq!(log.len(), 4, "{log:?}");
}

#[test]
fn an_index_that_leads_to_itself_is_a_bad_tag() {
    // No honest registry can have one: so this one lies about the digest.
    let mut hello = with_a_good_tag();
    let lie = format!("sha256:{}", "a".repeat(64));
    let entry = json!({"mediaType": OCI_INDEX, "digest": lie, "size": 300});
    let index = hello.index_of(&[entry.clone(), entry], json!({}));
    hello.point("circle", &index);
    let bytes = hello.manifests[index["digest"].as_str().unwrap()]
        .bytes
        .clone();
    let media_type = OCI_INDEX.to_owned();
    hello
        .manifests
        .insert(lie.clone(), Manifest { media_type, bytes });
    let (listing, log) = listed(hello, "hello");
    assert_eq!(listing, good());
    assert!(
        log.len() == 1 && log[0].contains("tag circle skipped: ") && log[0].contains(&lie),
        "{log:?}"
    );
}

#[test]
fn indexes_in_indexes_are_followed_to_a_depth() {
    for (depth, is_followed) in [(5, true), (100, false)] {
        let mut hello = with_a_good_tag();
        let layer = hello.file(OCI_TAR, "image.raw", b"deep");
        let mut found = hello.artifact(&[layer], json!({}));
        for _ in 0..depth {
            found = hello.index_of(&[found], json!({}));
        }
        hello.point("deep", &found);
        let (listing, log) = listed(hello, "hello");
        let more = if is_followed {
            line(b"deep", "hello-deep.raw")
        } else {
            String::new()
        };
        assert_eq!(listing, more + &good());
        assert_eq!(log.len(), usize::from(!is_followed), "{log:?}");
        assert!(
            log.iter()
                .all(|line| line.contains("tag deep skipped: index with ")),
            "{log:?}"
        );
    }
}

#[test]
fn an_index_of_very_many_entries_is_read_for_those_that_are_offered() {
    let mut hello = with_a_good_tag();
    let layer = hello.file(OCI_TAR, "image.raw", b"wide");
    let child = hello.artifact(&[layer], json!({}));
    let entry = |n: usize| {
        let architecture = if n == 9_000 {
            "amd64".to_owned()
        } else {
            format!("cpu{n}")
        };
        json!({
            "mediaType": OCI_MANIFEST,
            "digest": if n == 9_000 { child["digest"].clone() } else { json!(format!("sha256:{}", sha256(&n.to_be_bytes()))) },
            "size": 500,
            "platform": {"os": "linux", "architecture": architecture},
        })
    };
    let entries: Vec<Value> = (0..10_000).map(entry).collect();
    let index = hello.index_of(&entries, json!({}));
    hello.point("wide", &index);
    let foreign = hello.index_of(&entries[..8_000], json!({}));
    hello.point("foreign", &foreign);
    let (listing, log) = listed(hello, "hello");
    assert_eq!(listing, good() + &line(b"wide", "hello-wide-x86-64.raw"));
    assert!(
        log.len() == 1 && log[0].contains("tag foreign skipped: its platforms are "),
        "{} lines",
        log.len()
    );
    assert!(log[0].len() < 10_000, "a reason of {} bytes", log[0].len());
}

#[test]
fn an_index_of_very_many_flavours_is_bounded() {
    let mut hello = with_a_good_tag();
    let layer = hello.file(OCI_TAR, "image.raw", b"flavour");
    let child = hello.artifact(&[layer], json!({}));
    let entry = |n: usize| {
        let mut entry = child.clone();
        entry["platform"] = json!({"os": "linux", "architecture": "amd64"});
        entry["annotations"] = json!({"cname": format!("flavour{n}")});
        entry
    };
    let entries: Vec<Value> = (0..10_000).map(entry).collect();
    let index = hello.index_of(&entries, json!({}));
    hello.point("wide", &index);
    let registry = Registry::with_hello(hello);
    let service = Service::start(registry.settings() + X86);
    let begun = Instant::now();
    assert!(service.listing().contains(&good()));
    let (took, requests) = (begun.elapsed(), registry.take_requests().len());
    assert!(
        took < Duration::from_secs(5) && requests < 1000,
        "{took:?}, {requests} requests"
    );
}
