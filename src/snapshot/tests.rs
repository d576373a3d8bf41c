//! Promises and memory of snapshots, of layouts with publisher's lists.

use std::fs;
use std::path::Path;

use super::promised::Promised;
use super::*;
use crate::memory::Bytes;

#[test]
fn an_older_listing_takes_no_newer_promise_back() {
    let now = Instant::now();
    let begun = |begun| {
        let (listing, sources) = (Listing::default(), Vec::new());
        Arc::new(Snapshot::new(listing, sources, Blobs::Stream, begun))
    };
    let (older, newer) = (begun(now), begun(now + Duration::from_secs(1)));
    let mut promised = Promised::default();
    for given in [&older, &newer, &older] {
        promised.give(given, now);
    }
    let newest = promised.newest().map(|snapshot| snapshot.begun);
    assert_eq!(newest, Some(newer.begun));
}

/// A directory that goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    /// With the OCI layouts `0`, `1`, … in it, each with a list by its publisher of 300 KiB.
    fn with_lists(name: &str, number: usize) -> Self {
        let path = std::env::temp_dir();
        let path = path.join(format!("sysext-oci-proxy-{name}-{}", std::process::id()));
        for n in 0..number {
            let layout = path.join(n.to_string());
            write_list(&layout, n);
        }
        Self(path)
    }

    /// The listings of the layouts `r0`, `r1`, …, with so much memory, and with a cache.
    fn snapshots(&self, number: usize, memory: usize) -> Snapshots {
        let source = |n| {
            format!(
                "[repository.r{n}]\nsource = \"oci:{}/{n}\"\n",
                self.0.display()
            )
        };
        fs::write(
            self.0.join("config.toml"),
            (0..number).map(source).collect::<String>(),
        )
        .unwrap();
        let settings = Settings::load(Some(&self.0.join("config.toml")), &self.0).unwrap();
        let cache = Some(self.0.join("cache"));
        let state = Arc::new(State::new(None));
        let upstream = Upstream::new(&settings, &self.0, state.clone()).unwrap();
        Snapshots {
            memory: Box::leak(Box::new(Memory::new(memory))),
            ..Snapshots::new(settings, upstream, cache, state)
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn write_list(layout: &Path, n: usize) {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let keep = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        digest
    };
    let list = format!("{}  only-{n}.raw\n", Digest::of(b"").hex());
    let list = list + &"#".repeat(300 << 10);
    let digest = keep(list.as_bytes());
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": keep(b"{}").to_string(), "size": 2},
        "layers": [{
            "mediaType": "text/plain", "digest": digest.to_string(), "size": list.len(),
            "annotations": {"org.opencontainers.image.title": "SHA256SUMS"},
        }],
    })
    .to_string();
    let manifest_digest = keep(manifest.as_bytes());
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest_digest.to_string(), "size": manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": "SHA256SUMS"},
        }],
    });
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(
        layout.join("oci-layout"),
        "{\"imageLayoutVersion\": \"1.0.0\"}",
    )
    .unwrap();
}

fn located(snapshots: &Snapshots, directory: &str) -> Located {
    let directory: Directory = directory.parse().unwrap();
    directory.locate(&snapshots.settings).unwrap()
}

fn list_of(snapshots: &Snapshots, directory: &str) -> Result<Bytes> {
    let snapshot = snapshots.list(&located(snapshots, directory), false)?;
    snapshots.text(&snapshot)
}

/// Which of these directories are in memory.
fn remembered(snapshots: &Snapshots) -> Vec<String> {
    let directories = lock(&snapshots.directories);
    let has_newest = |slot: &Slot| lock(&slot.newest).taken.is_some();
    let named = directories
        .iter()
        .filter(|(_, slot)| has_newest(slot))
        .map(|(directory, _)| directory.to_string());
    let mut names: Vec<_> = named.collect();
    names.sort();
    names
}

#[test]
fn what_was_not_asked_for_longest_makes_room_for_other_lists() {
    let folder = Folder::with_lists("room", 3);
    let snapshots = folder.snapshots(3, 700 << 10);
    for (directory, expected) in [
        ("r0", vec!["r0"]),
        ("r1", vec!["r0", "r1"]),
        ("r0", vec!["r0", "r1"]),
        ("r2", vec!["r0", "r2"]),
        ("r1", vec!["r1", "r2"]),
    ] {
        let list = list_of(&snapshots, directory).unwrap();
        let list = String::from_utf8((*list).as_ref().to_vec()).unwrap();
        assert!(list.contains(&format!("only-{}.raw", &directory[1..])));
        assert_eq!(remembered(&snapshots), expected, "after {directory}");
    }
}

#[test]
fn a_list_that_a_client_is_getting_is_not_forgotten_and_counts() {
    let folder = Folder::with_lists("sent", 3);
    let snapshots = folder.snapshots(3, 700 << 10);
    let sent = [list_of(&snapshots, "r0"), list_of(&snapshots, "r1")];
    {
        let _limit = task::within(Duration::from_millis(10));
        let error = list_of(&snapshots, "r2").map(drop).unwrap_err();
        assert!(matches!(error, Error::NoMemory { .. }), "{error}");
    }
    assert_eq!(remembered(&snapshots)[..2], ["r0", "r1"]);
    drop(sent);
    assert!(list_of(&snapshots, "r2").is_ok());
}

#[test]
fn before_and_after_a_reload_it_is_one_memory_and_only_what_is_sent_is_kept_of_before() {
    let folder = Folder::with_lists("reload", 3);
    let before = folder.snapshots(3, 700 << 10);
    let after = Snapshots {
        memory: before.memory,
        ..folder.snapshots(3, 0)
    };
    let sent = list_of(&before, "r0").unwrap();
    list_of(&before, "r1").unwrap();
    before.retire();
    assert_eq!(remembered(&before), ["r0"]);
    for (directory, expected) in [("r1", ["r1"]), ("r2", ["r2"])] {
        list_of(&after, directory).unwrap();
        assert_eq!(remembered(&after), expected);
    }
    drop(sent);
    before.client_left();
    assert_eq!(remembered(&before), [""; 0]);
    list_of(&after, "r1").unwrap();
    assert_eq!(remembered(&after), ["r1", "r2"]);
}

#[test]
fn a_list_whose_signature_may_be_asked_for_is_not_forgotten() {
    let folder = Folder::with_lists("open", 3);
    let snapshots = folder.snapshots(3, 700 << 10);
    let directory = located(&snapshots, "r0");
    let digest = |snapshot: Arc<Snapshot>| snapshot.signed.as_ref().unwrap().list.digest();
    let list = digest(snapshots.list(&directory, true).unwrap());
    for other in ["r1", "r2", "r1"] {
        list_of(&snapshots, other).unwrap();
    }
    write_list(&folder.0.join("0"), 7);
    let of_signature = snapshots.of_signature(&directory, |_| true, true);
    assert_eq!(digest(of_signature.unwrap()), list);
}

#[test]
fn a_list_that_changes_takes_the_place_of_the_one_before() {
    let folder = Folder::with_lists("anew", 1);
    let snapshots = folder.snapshots(1, 400 << 10);
    let snapshots = Snapshots {
        settings: Settings {
            listing_ttl: Duration::ZERO,
            ..snapshots.settings.clone()
        },
        ..snapshots
    };
    for n in 0..3 {
        write_list(&folder.0.join("0"), n);
        let list = list_of(&snapshots, "r0").unwrap();
        let list = String::from_utf8((*list).as_ref().to_vec()).unwrap();
        assert!(list.contains(&format!("only-{n}.raw")), "list {n}");
    }
}
