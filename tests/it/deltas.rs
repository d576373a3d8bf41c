//! Only what has changed: older versions on this machine give most bytes of a file, its repository gives the others. The
//! bytes are right or the download breaks off, whatever lies or breaks.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use sha2::{Digest as _, Sha256, Sha512_256};

use crate::client::{Connection, Response};
use crate::content::{OCI_TAR, Repository, digest, noise, sha256};
use crate::registry::{Cuts, Fault, Registry, count, ranges};
use crate::service::{Folder, Service, Setup, eventually};

const MIB: usize = 1 << 20;
const CAIBX: &str = "application/vnd.casync.caibx";
const NEW: &str = "/hello/hello-v2.raw";
/// Average size of a chunk.
const CHUNK: usize = 64 << 10;

/// A file in chunks: each of them is made of one number.
#[derive(Clone)]
struct Image {
    bytes: Vec<u8>,
    numbers: Vec<u64>,
    ends: Vec<u64>,
}

impl Image {
    fn new(numbers: impl Iterator<Item = u64>) -> Self {
        let numbers = Vec::from_iter(numbers);
        let (noise, mut bytes, mut ends) = (noise(2 * CHUNK), Vec::new(), Vec::new());
        for number in &numbers {
            let start = bytes.len();
            let length = CHUNK / 2 + *number as usize * 7919 % CHUNK;
            bytes.extend_from_slice(&noise[..length]);
            for place in (start..start + length - 8).step_by(4096) {
                bytes[place..place + 8].copy_from_slice(&number.to_le_bytes());
            }
            ends.push(bytes.len() as u64);
        }
        Self {
            bytes,
            numbers,
            ends,
        }
    }

    /// About so many MiB; one chunk in `every` is of the version alone.
    fn version(mib: usize, every: usize, version: u64) -> Self {
        let numbers = (0..mib * MIB / CHUNK).map(|n| match n % every {
            1 => (version << 32) + n as u64,
            _ => n as u64,
        });
        // All that follows has another place in each version.
        Self::new(std::iter::once(version << 40).chain(numbers))
    }

    /// The index that `desync make` writes.
    fn index(&self) -> Vec<u8> {
        let mut index = Vec::new();
        let mut put = |numbers: &[u64]| {
            for number in numbers {
                index.extend_from_slice(&number.to_le_bytes());
            }
        };
        let flags = 0xa000_0000_0000_0000;
        put(&[
            0x30,
            0x9682_4d9c_7b12_9ff9,
            flags,
            16 << 10,
            64 << 10,
            256 << 10,
        ]);
        put(&[u64::MAX, 0xe75b_9e11_2f17_417d]);
        let mut start = 0;
        for end in &self.ends {
            let id = Sha512_256::digest(&self.bytes[start..*end as usize]);
            index.extend_from_slice(&end.to_le_bytes());
            index.extend_from_slice(&id);
            start = *end as usize;
        }
        let size = index.len() as u64 - 48 + 40;
        for number in [0, 0, 0x30, size, 0x4b4f_050e_5549_ecd1_u64] {
            index.extend_from_slice(&number.to_le_bytes());
        }
        index
    }

    /// Bytes of the chunks that another image lacks.
    fn missing_in(&self, other: &Image) -> usize {
        let known = BTreeSet::from_iter(&other.numbers);
        let (mut start, mut missing) = (0, 0);
        for (number, end) in self.numbers.iter().zip(&self.ends) {
            if !known.contains(number) {
                missing += (end - start) as usize;
            }
            start = *end;
        }
        missing
    }
}

/// Where the index of a version is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    /// A layer beside the file.
    Beside,
    Attached,
}

/// Pushes a version with an index.
fn push(hello: &mut Repository, tag: &str, image: &[u8], index: &[u8], place: Place) {
    let title = "hello.raw";
    let index_title = "hello.raw.caibx";
    let layer = hello.file(OCI_TAR, title, image);
    let index = hello.file(CAIBX, index_title, index);
    let created =
        json!({"annotations": {"org.opencontainers.image.created": "2026-01-02T03:04:05Z"}});
    match place {
        Place::Beside => {
            let artifact = hello.artifact(&[layer, index], created);
            hello.point(tag, &artifact);
        }
        Place::Attached => {
            let artifact = hello.artifact(&[layer], created);
            hello.point(tag, &artifact);
            let more = json!({"artifactType": CAIBX, "subject": artifact});
            hello.attach(&artifact, &[index], more);
        }
    }
}

/// Two versions, of which the first is on this machine.
struct World {
    old: Image,
    new: Image,
    registry: Registry,
    machine: Folder,
}

impl World {
    fn new() -> Self {
        Self::of(12, 8)
    }

    /// Versions of about so many MiB, of which a part is new.
    fn of(mib: usize, every: usize) -> Self {
        let (old, new) = (Image::version(mib, every, 1), Image::version(mib, every, 2));
        let index = new.index();
        Self::with(old, new, &index, Place::Beside, false)
    }

    fn with(old: Image, new: Image, index: &[u8], place: Place, has_api: bool) -> Self {
        let mut hello = Repository {
            has_referrers_api: has_api,
            ..Repository::default()
        };
        push(&mut hello, "v1", &old.bytes, &old.index(), place);
        push(&mut hello, "v2", &new.bytes, index, place);
        let world = Self {
            old,
            new,
            registry: Registry::with_hello(hello),
            machine: Folder::new(),
        };
        fs::write(world.seed(), &world.old.bytes).unwrap();
        world
    }

    /// Versions that are these files. The second one has a hash tree beside it, perhaps.
    fn of_files(old: &[u8], new: &[u8], tree: Option<&[u8]>) -> Self {
        let image = |bytes: &[u8]| Image {
            bytes: bytes.to_vec(),
            numbers: Vec::new(),
            ends: Vec::new(),
        };
        let mut hello = Repository::default();
        let mut layers = vec![hello.file(OCI_TAR, "hello.raw", new)];
        layers.extend(tree.map(|tree| hello.file(OCI_TAR, "hello.verity", tree)));
        let artifact = hello.artifact(&layers, json!({}));
        hello.point("v2", &artifact);
        let world = Self {
            old: image(old),
            new: image(new),
            registry: Registry::with_hello(hello),
            machine: Folder::new(),
        };
        fs::write(world.seed(), old).unwrap();
        world
    }

    fn seed(&self) -> PathBuf {
        self.machine.path().join("hello-v1.raw")
    }

    /// The requests for the bytes of the new version.
    fn blob(&self) -> &'static str {
        format!("blobs/sha256:{}", sha256(&self.new.bytes)).leak()
    }

    fn settings_of(&self, repository: &str) -> String {
        let folder = self.machine.path().display();
        format!("[repository.{repository}]\nseeds = [\"{folder}\"]\n")
    }

    fn setup(&self) -> Setup {
        Setup::of(&self.registry).settings(&self.settings_of("hello"))
    }

    fn start(&self) -> Service {
        let service = self.setup().start();
        service.listing();
        self.registry.take_heads();
        service
    }

    /// Bytes of the new version that the old one lacks.
    fn missing(&self) -> usize {
        self.new.missing_in(&self.old)
    }

    /// Whether a response is the new version, whole. A wrong byte that completes it is a failure.
    fn is_whole(&self, response: &Response) -> bool {
        let is_right = response.body == self.new.bytes;
        assert!(
            !response.whole || response.status != 200 || is_right,
            "wrong bytes"
        );
        response.status == 200 && response.whole
    }
}

/// Bytes of the new version that were asked for by ranges.
fn asked_of_new(world: &World) -> usize {
    let heads = world.registry.take_heads();
    let of_new = heads
        .iter()
        .filter(|head| head.target.ends_with(world.blob()));
    let lengths = of_new.filter_map(|head| length(head.header("range")?));
    lengths.sum()
}

/// Of `bytes=0-9`.
fn length(range: &str) -> Option<usize> {
    let (first, last) = range.trim_start_matches("bytes=").split_once('-')?;
    Some(last.parse::<usize>().ok()? - first.parse::<usize>().ok()? + 1)
}

/// Bytes of the ranges that were asked for since the last call; `None`: a whole file was asked for.
fn asked(registry: &Registry) -> Option<usize> {
    ranges(registry).iter().map(|range| length(range)).sum()
}

/// The line about a download that has ended.
fn line(service: &Service) -> String {
    let mut found = Vec::new();
    eventually("the download is logged", || {
        found = service.log.with(&["hello-v2.raw", "tag v2 of "]);
        !found.is_empty()
    });
    found.pop().unwrap()
}

#[test]
fn only_what_has_changed_is_fetched_wherever_the_index_is() {
    for (place, has_api) in [
        (Place::Beside, false),
        (Place::Attached, false),
        (Place::Attached, true),
    ] {
        let (old, new) = (Image::version(12, 8, 1), Image::version(12, 8, 2));
        let index = new.index();
        let world = World::with(old, new, &index, place, has_api);
        let service = world.start();
        let before = world.registry.sent();
        assert!(service.whole(NEW) == world.new.bytes, "{place:?}");
        let missing = world.missing();
        assert!(missing > MIB && missing < 3 * MIB, "{missing}");
        let sent = world.registry.sent() - before;
        let indexes = 2 * index.len() + 8192;
        assert!(
            sent >= missing && sent <= missing * 115 / 100 + indexes,
            "{sent} of {missing}"
        );
        let line = line(&service);
        let part = " MiB of it fetched, the rest from hello-v1.raw, tag v2 of ";
        assert!(line.contains(part), "{line}");
        assert_eq!(service.log.trouble_so_far(), [""; 0]);
    }
}

#[test]
fn without_an_older_version_nothing_more_is_asked() {
    let world = World::new();
    let plain = Service::of(&world.registry);
    plain.listing();
    world.registry.take_heads();
    assert!(plain.whole(NEW) == world.new.bytes);
    assert_eq!(world.registry.take_requests().len(), 1);
    // A directory with none, and a file that is no version.
    fs::rename(world.seed(), world.machine.path().join("other-v1.raw")).unwrap();
    let service = world.start();
    assert!(service.whole(NEW) == world.new.bytes);
    assert_eq!(world.registry.take_requests().len(), 1);
    assert!(!line(&service).contains("the rest from"));
}

#[test]
fn a_head_a_redirect_and_an_unchanged_file_ask_for_no_index() {
    let world = World::new();
    let service = world.start();
    assert_eq!(service.request("HEAD", NEW, &[]).status, 200);
    let tag = format!("If-None-Match: \"sha256:{}\"", sha256(&world.new.bytes));
    assert_eq!(service.request("GET", NEW, &[&tag]).status, 304);
    let requests = world.registry.take_requests();
    assert_eq!(count(&requests, "GET "), 0, "{requests:?}");
    let redirects = world.setup().settings("blobs = \"redirect\"\n").start();
    redirects.listing();
    world.registry.take_heads();
    assert_eq!(redirects.get(NEW).status, 307);
    let requests = world.registry.take_requests();
    assert_eq!(
        count(&requests, "caibx") + count(&requests, "referrers"),
        0,
        "{requests:?}"
    );
}

#[test]
fn an_older_version_that_changes_while_it_is_read_changes_no_byte() {
    type Harm = fn(&World);
    let rows: [(Harm, &str); 4] = [
        (
            |world| {
                File::options()
                    .write(true)
                    .open(world.seed())
                    .unwrap()
                    .set_len(20_000_000)
                    .unwrap()
            },
            "it is cut",
        ),
        (
            |world| fs::write(world.seed(), "another file").unwrap(),
            "it is written anew",
        ),
        (
            |world| {
                let file = File::options().write(true).open(world.seed()).unwrap();
                for at in (20_000_000..world.old.bytes.len() as u64).step_by(1000) {
                    file.write_all_at(b"!", at).unwrap();
                }
            },
            "its bytes change",
        ),
        (
            |world| fs::remove_file(world.seed()).unwrap(),
            "it is removed, which changes nothing",
        ),
    ];
    let world = World::of(40, 8);
    for (harm, why) in rows {
        fs::write(world.seed(), &world.old.bytes).unwrap();
        let service = world.start();
        let response = service.get_while(NEW, || harm(&world));
        assert!(world.is_whole(&response), "{why}");
        let line = line(&service);
        let is_dropped = line.contains("reusing hello-v1.raw was given up: hello-v1.raw ");
        assert_eq!(is_dropped, !why.ends_with("nothing"), "{why}: {line}");
        assert_eq!(service.log.trouble_so_far(), [""; 0], "{why}");
    }
}

/// The second try of a file whose first try may have failed is whole. `told`: a part of the line about a first try that
/// did not.
fn is_right_at_the_second_try(world: &World, told: &str, why: &str) -> bool {
    let service = world.start();
    let first = world.is_whole(&service.get(NEW));
    if first {
        let line = line(&service);
        assert!(line.contains(told), "{why}: {line}");
    } else {
        eventually("it is logged", || {
            service.log.with(&["cut short", "wrong bytes"]).len() == 1
        });
        world.registry.take_heads();
        assert!(world.is_whole(&service.get(NEW)), "{why}");
        assert_eq!(
            asked(&world.registry),
            None,
            "{why}: the second try is a plain download"
        );
    }
    first
}

#[test]
fn an_index_that_is_wrong_in_any_field_changes_no_byte() {
    let (old, new) = (Image::version(12, 8, 1), Image::version(12, 8, 2));
    let good = new.index();
    let entry = |n: usize| 64 + n * 40;
    let last = entry(new.ends.len());
    let fields = (0..8).map(|n| n * 8).chain((0..5).map(|n| last + n * 8));
    let fields = fields.chain([
        entry(0),
        entry(0) + 8,
        entry(50),
        entry(50) + 8,
        entry(51) + 39,
    ]);
    let fields = fields.chain([last - 40, last - 32]);
    for at in fields {
        for change in [1, 0x80] {
            let mut index = good.clone();
            index[at] ^= change;
            let world = World::with(old.clone(), new.clone(), &index, Place::Beside, false);
            // What the index says is checked against the older version, so its chunks are right or not used.
            let why = format!("byte {at} ^ {change}");
            assert!(is_right_at_the_second_try(&world, "", &why), "{why}");
        }
    }
    for (index, why) in [
        (&good[..good.len() - 1], "short"),
        (&good[..100], "its beginning"),
        (&[][..], "empty"),
        (&[good.clone(), vec![0]].concat()[..], "long"),
    ] {
        let world = World::with(old.clone(), new.clone(), index, Place::Beside, false);
        assert!(is_right_at_the_second_try(&world, "", why));
    }
}

#[test]
fn an_index_of_more_than_6_mib_is_not_fetched() {
    let (old, new) = (Image::version(12, 8, 1), Image::version(12, 8, 2));
    let index = vec![7; (6 << 20) + 1];
    let world = World::with(old, new, &index, Place::Beside, false);
    let service = world.start();
    assert!(world.is_whole(&service.get(NEW)));
    let requests = world.registry.take_requests();
    assert_eq!(count(&requests, &sha256(&index)), 0, "{requests:?}");
}

/// Anybody could have written the list of what is attached: the fallback tag is a tag like any other.
#[test]
fn an_attached_index_is_used_if_its_own_manifest_says_so() {
    let (old, new) = (Image::version(12, 8, 1), Image::version(12, 8, 2));
    let index = new.index();
    let named = "hello.raw.caibx";
    for (subject, artifact_type, titles, before, is_used, why) in [
        (
            Some(true),
            CAIBX,
            &[named][..],
            0,
            true,
            "as oras attaches it",
        ),
        (
            Some(true),
            CAIBX,
            &["a.caibx"],
            0,
            true,
            "the only layer needs no title",
        ),
        (
            Some(true),
            CAIBX,
            &["notes.txt", named],
            0,
            true,
            "the title tells",
        ),
        (
            Some(true),
            CAIBX,
            &["a.caibx", "b.caibx"],
            0,
            false,
            "no title tells",
        ),
        (
            Some(false),
            CAIBX,
            &[named],
            0,
            false,
            "it is attached to another manifest",
        ),
        (None, CAIBX, &[named], 0, false, "it is attached to nothing"),
        (
            Some(true),
            "text/x-other",
            &[named],
            0,
            false,
            "it is something else",
        ),
        (Some(true), CAIBX, &[named], 7, true, "the eighth"),
        (
            Some(true),
            CAIBX,
            &[named],
            8,
            false,
            "the ninth: so many are not looked at",
        ),
    ] {
        let mut hello = Repository::default();
        push(&mut hello, "v1", &old.bytes, &old.index(), Place::Beside);
        let layer = hello.file(OCI_TAR, "hello.raw", &new.bytes);
        let artifact = hello.artifact(&[layer], json!({}));
        hello.point("v2", &artifact);
        for n in 0..before {
            let notes = ["1", "2"].map(|title| hello.file(CAIBX, title, b"notes"));
            let more = json!({"artifactType": CAIBX, "subject": artifact, "annotations": {"n": n.to_string()}});
            hello.attach(&artifact, &notes, more);
        }
        let layers = titles.iter().map(|title| hello.file(CAIBX, title, &index));
        let layers = Vec::from_iter(layers);
        let other = hello.artifact(&[], json!({}));
        let mut more = json!({"artifactType": artifact_type});
        if let Some(is_own) = subject {
            more["subject"] = if is_own { &artifact } else { &other }.clone();
        }
        hello.attach(&artifact, &layers, more);
        let world = World {
            old: old.clone(),
            new: new.clone(),
            registry: Registry::with_hello(hello),
            machine: Folder::new(),
        };
        fs::write(world.seed(), &world.old.bytes).unwrap();
        let service = world.start();
        assert!(world.is_whole(&service.get(NEW)), "{why}");
        let line = line(&service);
        assert_eq!(line.contains("the rest from"), is_used, "{why}: {line}");
    }
}

/// It has the size of the file, but other chunks, and the older version has all but the first of them.
#[test]
fn an_index_of_another_image_is_found_out_before_the_client_has_a_byte() {
    let new = Image::version(12, 8, 2);
    let mut other = new.clone();
    other.bytes.iter_mut().for_each(|byte| *byte ^= 0x55);
    let mut old = other.clone();
    old.bytes[..new.ends[0] as usize].fill(0);
    let world = World::with(old, new, &other.index(), Place::Beside, false);
    let told = "was given up: the index is of another file: the chunk at byte 0 has another hash";
    assert!(is_right_at_the_second_try(&world, told, "another image"));
}

/// Its first chunk is right, and the older version has one that is not.
#[test]
fn an_index_that_lies_later_breaks_the_download_and_the_second_try_is_whole() {
    let (old, new) = (Image::version(12, 8, 1), Image::version(12, 8, 2));
    let mut other = new.clone();
    // An older chunk has come back.
    let chunk = |image: &Image, n: usize| image.ends[n - 1] as usize..image.ends[n] as usize;
    let range = chunk(&new, 4);
    other.bytes[range.start] ^= 1;
    let mut old = old;
    let place = chunk(&old, 4);
    old.bytes[place].copy_from_slice(&other.bytes[range]);
    let world = World::with(old, new, &other.index(), Place::Attached, false);
    assert!(!is_right_at_the_second_try(&world, "", "another image"));
    // So it is for the next process with the same state, and the one without any.
    let state = Folder::new();
    let service = world.setup().state(&state).start();
    service.listing();
    assert!(!world.is_whole(&service.get(NEW)));
    eventually("it is noted", || {
        service.log.with(&["cut short"]).len() == 1
    });
    drop(service);
    let service = world.setup().state(&state).start();
    service.listing();
    world.registry.take_heads();
    assert!(world.is_whole(&service.get(NEW)));
    assert_eq!(asked(&world.registry), None);
}

#[test]
fn a_registry_that_breaks_or_has_no_ranges_changes_no_byte() {
    let world = World::of(24, 3);
    for (times, fault, told, why) in [
        (20, Fault::CutAfter(10_000), None, "many bodies end soon"),
        (2, Fault::Status(503), None, "it is busy for a moment"),
        (
            usize::MAX,
            Fault::bucket(100.0, 4.0),
            None,
            "it limits the rate",
        ),
        (
            usize::MAX,
            Fault::NoRange,
            Some("ranges are not supported"),
            "ranges are ignored",
        ),
        (
            usize::MAX,
            Fault::StatusOfARange(416),
            Some("ranges are not supported"),
            "ranges are refused",
        ),
    ] {
        world.registry.behave();
        let service = world.start();
        world.registry.fault_times(times, world.blob(), fault);
        assert!(world.is_whole(&service.get(NEW)), "{why}");
        let line = line(&service);
        let dropped = line.split("was given up: ").nth(1);
        assert_eq!(dropped.is_some(), told.is_some(), "{why}: {line}");
        assert!(told.is_none_or(|told| line.contains(told)), "{why}: {line}");
    }
}

/// The ranges of a plan are shorter than what comes between two cuts, so most of them come whole.
#[test]
fn a_connection_that_ends_every_3_mib_changes_no_byte() {
    let world = World::of(40, 3);
    for connections in [1, 8] {
        world.registry.behave();
        let cuts = Cuts::every(3 * MIB);
        let setting = format!("download-connections = {connections}\n");
        let service = world.setup().settings(&setting).start();
        service.listing();
        let fault = Fault::CutEvery(cuts.clone());
        world.registry.fault(world.blob(), fault);
        assert!(world.is_whole(&service.get(NEW)), "{connections}");
        let cuts = cuts.count();
        let expected = world.missing() / (3 * MIB);
        assert!((3..=expected + 1).contains(&cuts), "{cuts} of {expected}");
        let line = line(&service);
        assert!(
            line.contains("the rest from") && !line.contains("given up"),
            "{line}"
        );
    }
}

#[test]
fn ranges_that_are_refused_on_the_way_end_the_plan_and_not_the_download() {
    let world = World::of(40, 3);
    for (fault, why) in [
        (Fault::NoRange, "ranges are ignored from now on"),
        (Fault::StatusOfARange(416), "ranges are refused from now on"),
        (Fault::EarlierRange(5), "other ranges come from now on"),
    ] {
        world.registry.behave();
        let service = world.start();
        let response = service.get_while(NEW, || world.registry.fault(world.blob(), fault));
        assert!(world.is_whole(&response), "{why}");
        let line = line(&service);
        assert!(
            line.contains("was given up: ranges are not supported any more"),
            "{why}: {line}"
        );
    }
}

/// The older version has nearly all of it.
#[test]
fn a_repository_that_does_not_give_the_file_gives_no_byte() {
    let world = World::of(12, 100);
    for (status, expected) in [(404, 404), (403, 403), (401, 403), (500, 502)] {
        world.registry.behave();
        let service = world.start();
        world.registry.fault(world.blob(), Fault::Status(status));
        let response = service.get(NEW);
        assert_eq!(
            (response.status, response.body.len()),
            (expected, 0),
            "{status}"
        );
    }
    // The index is still there, and so is the older version.
    world.registry.behave();
    let service = world.start();
    world.registry.change(|hello| {
        hello.blobs.remove(&digest(&world.new.bytes));
    });
    assert_eq!(service.get(NEW).status, 404);
}

#[test]
fn a_repository_that_loses_the_file_on_the_way_ends_the_download() {
    let world = World::of(40, 3);
    let service = world.start();
    let response = service.get_while(NEW, || {
        world.registry.fault(world.blob(), Fault::Status(403))
    });
    assert!(!response.whole && world.new.bytes.starts_with(&response.body));
    eventually("it is logged", || {
        service.log.with(&["cut short", "403"]).len() == 1
    });
}

#[test]
fn a_mirror_with_another_index_or_other_bytes_completes_nothing_wrong() {
    let world = World::of(12, 8);
    let (mut lying, mut damaged) = (Repository::default(), Repository::default());
    let index = world.new.index();
    let other = Image::version(12, 8, 3).index();
    for (repository, image, index) in [
        (&mut lying, world.new.bytes.clone(), other),
        (&mut damaged, Image::version(12, 8, 3).bytes, index.clone()),
    ] {
        push(
            repository,
            "v1",
            &world.old.bytes,
            &world.old.index(),
            Place::Beside,
        );
        push(
            repository,
            "v2",
            &world.new.bytes,
            &world.new.index(),
            Place::Beside,
        );
        // By the digests of what it should have.
        repository
            .blobs
            .insert(digest(&world.new.bytes), image.into());
        repository
            .blobs
            .insert(digest(&world.new.index()), index.into());
    }
    for (repository, why) in [(lying, "another index"), (damaged, "other bytes")] {
        let mirror = Registry::with_hello(repository);
        let setup = Setup::with_mirrors(&world.registry, &[&mirror]);
        let service = setup.settings(&world.settings_of("hello")).start();
        service.listing();
        let mut tries = 0;
        while !world.is_whole(&service.get(NEW)) {
            tries += 1;
            assert!(tries < 3, "{why}");
        }
    }
}

#[test]
fn two_clients_and_two_repositories_share_an_older_version() {
    let world = World::of(12, 8);
    let mut hello = Repository::default();
    push(
        &mut hello,
        "v1",
        &world.old.bytes,
        &world.old.index(),
        Place::Beside,
    );
    push(
        &mut hello,
        "v2",
        &world.new.bytes,
        &world.new.index(),
        Place::Beside,
    );
    world.registry.put("other", hello);
    fs::copy(world.seed(), world.machine.path().join("other-v1.raw")).unwrap();
    let service = world.setup().settings(&world.settings_of("other")).start();
    for directory in ["hello", "other"] {
        service.listing_of(directory);
    }
    world.registry.take_heads();
    thread::scope(|scope| {
        for target in [NEW, NEW, "/other/other-v2.raw", "/other/other-v2.raw"] {
            let (service, world) = (&service, &world);
            scope.spawn(move || assert!(service.whole(target) == world.new.bytes, "{target}"));
        }
    });
    let asked = asked_of_new(&world);
    assert!(
        asked >= 4 * world.missing() && asked <= 5 * world.missing(),
        "{asked}"
    );
    eventually("all are logged", || {
        service.log.with(&["the rest from"]).len() == 4
    });
    assert!(service.peak_memory() <= 48, "{} MiB", service.peak_memory());
}

/// Plans and windows share their memory. Who finds none fetches the whole file.
#[test]
fn downloads_without_memory_for_a_plan_are_plain() {
    let world = World::of(24, 3);
    let windows = "[repository.other]\ndownload-connections = 8\n";
    let mut other = Repository::default();
    other.oras_push("v1", "other.raw", &world.new.bytes);
    world.registry.put("other", other);
    let service = world.setup().settings(windows).start();
    for directory in ["hello", "other"] {
        service.listing_of(directory);
    }
    let mut client = Connection::open(service.address);
    client.ask("/other/other-v1.raw");
    assert_eq!(client.receive_head().unwrap().status, 200);
    assert!(service.whole(NEW) == world.new.bytes);
    assert!(!line(&service).contains("the rest from"));
    drop(client);
    let mut lines = Vec::new();
    eventually("the memory is free again", || {
        assert!(service.whole(NEW) == world.new.bytes);
        lines = service.log.with(&["hello-v2.raw", "the rest from"]);
        !lines.is_empty()
    });
    assert!(service.peak_memory() <= 64, "{} MiB", service.peak_memory());
}

#[test]
fn sigterm_finishes_a_download_that_is_put_together() {
    let world = World::of(40, 8);
    let mut service = world.start();
    let pid = rustix::process::Pid::from_raw(service.pid() as i32).unwrap();
    let response = service.get_while(NEW, || {
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    });
    assert!(world.is_whole(&response));
    let status = service.wait(Duration::from_secs(20)).unwrap();
    assert!(status.success());
}

/// One after the other, hundreds of ranges may take longer than the whole file: a round trip each. Four are under way with
/// one connection for other downloads.
#[test]
fn many_ranges_are_asked_for_four_at_a_time_in_little_memory() {
    let world = World::of(24, 2);
    let service = world.start();
    world
        .registry
        .fault(world.blob(), Fault::Delay(Duration::from_millis(20)));
    assert!(service.whole(NEW) == world.new.bytes);
    let requests = ranges(&world.registry).len();
    assert!(requests > 150, "{requests}");
    assert_eq!(world.registry.peak_in_flight(), 4);
    assert!(service.peak_memory() <= 32, "{} MiB", service.peak_memory());
}

#[test]
fn parallel_bounds_the_ranges_at_once() {
    let world = World::of(12, 2);
    let setup = Setup::new(format!("parallel = 1\n{}", world.registry.settings()));
    let service = setup.settings(&world.settings_of("hello")).start();
    assert!(service.whole(NEW) == world.new.bytes);
    assert!(line(&service).contains("the rest from"));
    assert_eq!(world.registry.peak_in_flight(), 1);
}

#[test]
fn a_lookup_that_is_slow_or_fails_ends_in_a_plain_download() {
    for (pattern, fault) in [
        ("/referrers/", Fault::Status(500)),
        ("/referrers/", Fault::Delay(Duration::from_secs(30))),
        ("/manifests/sha256-", Fault::Status(403)),
    ] {
        let (old, new) = (Image::version(12, 8, 1), Image::version(12, 8, 2));
        let index = new.index();
        let world = World::with(old, new, &index, Place::Attached, false);
        let service = world.start();
        world.registry.fault(pattern, fault);
        let started = Instant::now();
        assert!(world.is_whole(&service.get(NEW)), "{pattern}");
        // A single answer may take longer, if nothing else limits it.
        assert!(started.elapsed() < Duration::from_secs(17));
        assert!(!line(&service).contains("the rest from"));
        assert_eq!(service.log.trouble_so_far(), [""; 0]);
    }
}

/// Bytes of a block of dm-verity.
const BLOCK: usize = 4096;

/// Superblock and hash tree of a file system, as veritysetup writes them.
fn hash_tree(data: &[u8], salt: &[u8]) -> Vec<u8> {
    let hashes = |bytes: &[u8]| -> Vec<u8> {
        let hash = |block| Sha256::new_with_prefix(salt).chain_update(block).finalize();
        let hashes: Vec<_> = bytes.chunks(BLOCK).flat_map(hash).collect();
        let padded = hashes.len().next_multiple_of(BLOCK);
        [hashes, vec![0; padded]].concat()[..padded].to_vec()
    };
    let mut levels = vec![hashes(data)];
    while levels[0].len() > BLOCK {
        levels.insert(0, hashes(&levels[0]));
    }
    let mut superblock = vec![0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| superblock[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"verity\0\0");
    put(8, &[1, 0, 0, 0, 1]);
    put(32, b"sha256");
    put(64, &(BLOCK as u32).to_le_bytes());
    put(68, &(BLOCK as u32).to_le_bytes());
    put(72, &((data.len() / BLOCK) as u64).to_le_bytes());
    put(80, &(salt.len() as u16).to_le_bytes());
    put(88, salt);
    [superblock, levels.concat()].concat()
}

/// A disk with a partition for `/usr` of x86-64, and one with its hash tree.
fn disk(data: &[u8], salt: &[u8]) -> Vec<u8> {
    disk_with(data, &hash_tree(data, salt))
}

/// The same with any hash tree.
fn disk_with(data: &[u8], tree: &[u8]) -> Vec<u8> {
    const USR: u128 = 0x8484680c_9521_48c6_9c11_b0720656f69e;
    const USR_VERITY: u128 = 0x77ff5f63_e7b6_4633_acf4_1565b864c0e6;
    let mut disk = vec![0; MIB];
    disk[512..520].copy_from_slice(b"EFI PART");
    for (at, value) in [(72, 2_u64), (80, 128 | 128 << 32)] {
        disk[512 + at..512 + at + 8].copy_from_slice(&value.to_le_bytes());
    }
    for (n, (kind, bytes)) in [(USR, data), (USR_VERITY, tree)].into_iter().enumerate() {
        let entry = 1024 + n * 128;
        let kind = kind.to_be_bytes();
        for (to, from) in [3, 2, 1, 0, 5, 4, 7, 6]
            .into_iter()
            .chain(8..16)
            .enumerate()
        {
            disk[entry + to] = kind[from];
        }
        let first = disk.len() as u64 / 512;
        let last = first + bytes.len() as u64 / 512 - 1;
        disk[entry + 32..entry + 40].copy_from_slice(&first.to_le_bytes());
        disk[entry + 40..entry + 48].copy_from_slice(&last.to_le_bytes());
        disk.extend_from_slice(bytes);
    }
    disk.resize(disk.len() + 33 * 512, 0);
    disk
}

/// The file system of a version: 20 blocks of each 300 are its own.
fn system(version: u8) -> Vec<u8> {
    let mut bytes = noise(3000 * BLOCK);
    for at in (100 * BLOCK..bytes.len()).step_by(300 * BLOCK) {
        bytes[at..at + 20 * BLOCK].fill(version);
    }
    bytes
}

/// The hash tree is in the image or beside it; the older version has the same salt or another one.
#[test]
fn an_image_with_a_hash_tree_needs_no_other_index() {
    let (old, new) = (system(1), system(2));
    let missing = 10 * 20 * BLOCK;
    for (is_inside, old_salt, why) in [
        (true, b"salt", "in the image, with the same salt"),
        (true, b"tlas", "in the image, with another salt"),
        (false, b"salt", "in a layer beside it"),
    ] {
        let tree = hash_tree(&new, b"salt");
        let (old_file, new_file) = match is_inside {
            true => (disk(&old, old_salt), disk(&new, b"salt")),
            false => (old.clone(), new.clone()),
        };
        let beside = (!is_inside).then_some(&tree[..]);
        let world = World::of_files(&old_file, &new_file, beside);
        let service = world.start();
        let before = world.registry.sent();
        assert!(service.whole(NEW) == new_file, "{why}");
        let sent = world.registry.sent() - before;
        // The first MiB, before the partition, has no hashes.
        let index = tree.len() + MIB + (64 << 10);
        assert!(
            sent >= missing && sent <= missing * 115 / 100 + index,
            "{why}: {sent} of {missing}"
        );
        let line = line(&service);
        assert!(
            line.contains("of it fetched, the rest from hello-v1.raw"),
            "{why}: {line}"
        );
        assert_eq!(service.log.trouble_so_far(), [""; 0], "{why}");
    }
}

/// Where the hash of a block is, from the first byte of the superblock, in a tree of one block with hashes of the leaves.
fn leaf(block: usize) -> usize {
    2 * BLOCK + block * 32
}

/// The hash of the block in which the versions differ first is a lie.
#[test]
fn a_hash_tree_with_a_wrong_leaf_completes_nothing_wrong() {
    let (old, new) = (system(1), system(2));
    let (old_tree, new_tree) = (hash_tree(&old, b"salt"), hash_tree(&new, b"salt"));
    let changed = leaf(100)..leaf(101);
    assert_ne!(old_tree[changed.clone()], new_tree[changed.clone()]);
    let with_leaf = |tree: &[u8], leaf: &[u8]| {
        let mut tree = tree.to_vec();
        tree[changed.clone()].copy_from_slice(leaf);
        tree
    };
    let says_unchanged = with_leaf(&new_tree, &old_tree[changed.clone()]);
    let is_of_nothing = with_leaf(&new_tree, &[7; 32]);
    let says_new = with_leaf(&old_tree, &new_tree[changed.clone()]);
    let (old_disk, new_disk) = (disk(&old, b"salt"), disk(&new, b"salt"));
    let rows = [
        (
            old_disk.clone(),
            disk_with(&new, &says_unchanged),
            None,
            "",
            "a block that has changed is said to be the same",
        ),
        (
            old.clone(),
            new.clone(),
            Some(&says_unchanged),
            "",
            "the same beside the image",
        ),
        (
            old_disk,
            disk_with(&new, &is_of_nothing),
            None,
            "the rest from hello-v1.raw, tag",
            "a block is said to be another one",
        ),
        (
            disk_with(&old, &says_new),
            new_disk,
            None,
            "was given up: hello-v1.raw lacks the chunk for byte",
            "the older version says that it has a new block",
        ),
    ];
    for (old, new, beside, told, why) in rows {
        let world = World::of_files(&old, &new, beside.map(Vec::as_slice));
        let is_whole = is_right_at_the_second_try(&world, told, why);
        assert_eq!(is_whole, !told.is_empty(), "{why}");
    }
}

#[test]
fn a_hash_tree_of_another_image_completes_nothing_wrong() {
    let (old, new) = (system(1), system(2));
    let old_tree = hash_tree(&old, b"salt");
    // The service does not know the hash of the root, so it looks at the leaves alone.
    let mut wrong_root = hash_tree(&new, b"salt");
    wrong_root[BLOCK] ^= 1;
    let old_disk = disk(&old, b"salt");
    for (old, new, beside, told, why) in [
        (
            &old_disk,
            disk_with(&new, &old_tree),
            None,
            "",
            "the tree of the older version in the image",
        ),
        (
            &old,
            new.clone(),
            Some(&old_tree[..]),
            "",
            "the tree of the older version beside it",
        ),
        (
            &old_disk,
            disk_with(&new, &wrong_root),
            None,
            "the rest from hello-v1.raw, tag",
            "another root",
        ),
    ] {
        let world = World::of_files(old, &new, beside);
        let is_whole = is_right_at_the_second_try(&world, told, why);
        assert_eq!(is_whole, !told.is_empty(), "{why}");
    }
}

#[test]
fn a_superblock_that_is_wrong_in_any_field_changes_no_byte() {
    let (old, new) = (system(1), system(2));
    let old_disk = disk(&old, b"salt");
    let tree = hash_tree(&new, b"salt");
    let fields = [0, 8, 12, 16, 32, 64, 68, 72, 75, 80, 88];
    let changes = fields.into_iter().flat_map(|at| [(at, 1), (at, 0x80)]);
    // Blocks of 2 and of 8 KiB.
    let sizes = [(65, 0x18), (65, 0x30), (69, 0x18), (69, 0x30)];
    for (at, change) in changes.chain(sizes) {
        let mut tree = tree.clone();
        tree[at] ^= change;
        let why = format!("byte {at} ^ {change}");
        let world = World::of_files(&old_disk, &disk_with(&new, &tree), None);
        let is_whole = is_right_at_the_second_try(&world, "", &why);
        // If its own blocks have another size, the leaves begin elsewhere: a block has the hash of another one.
        assert!(is_whole || at == 69, "{why}");
    }
}
