//! The work whose instructions are counted: parts of the library that one thread does by itself, without a network.
//!
//! A scenario prepares its input, and returns the work. Only the instructions of [`counted`] count. Inputs are the same in
//! each run, and made by a formula, so they need no files.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "work that fails is a panic"
)]

use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use jiff::civil::date;
use serde_json::json;

use crate::address::Address;
use crate::artifact::{self, index};
use crate::blob;
use crate::cache::Cache;
use crate::digest::Digest;
use crate::flatten::instructions::flatten;
use crate::listing::{Artifact, Listing, Naming, PublisherList};
use crate::manifest::{Image, Manifest, OCI_INDEX, OCI_MANIFEST};
use crate::name::Tag;
use crate::rollout::Schedule;
use crate::server::http::instructions::answer;
use crate::server::http::{Blob, Body, Response};
use crate::server::json::{Overview, Row};
use crate::settings::Settings;
use crate::source::layout::Layout;
use crate::source::{Source, parse_tags};

/// The work of a scenario, once its input is there.
pub type Work = Box<dyn FnOnce()>;

/// A scenario's name, and the function that prepares it. It may write into a directory of its own.
type Scenario = (&'static str, fn(&Path) -> Work);

/// All of them. The table of figures has the same names.
pub const SCENARIOS: [Scenario; 12] = [
    ("parse-manifests", parse_manifests),
    ("parse-indexes", parse_indexes),
    ("parse-tags", parse_list_of_tags),
    ("parse-list", parse_publisher_list),
    ("parse-settings", parse_settings),
    ("recognise", recognise),
    ("list", list),
    ("list-text", list_text),
    ("list-json", list_json),
    ("requests", requests),
    ("copy", copy),
    ("flatten", flatten_layers),
];

/// Tags of a repository, and requests of clients.
const TAGS: usize = 1000;
/// Names in a list that a publisher signed.
const NAMES: usize = 15_000;
/// Times that a blob is sent. Its size, in bytes, is below the one from which the time that a piece takes decides about the
/// next. It is a file of zeros, with this digest.
const COPIES: u64 = 8;
const BLOB: u64 = 448 << 10;
const OF_ZEROS: &str = "sha256:183facbc37f3a18e7fbdd26d4963c44885692139b16d1da7a41da17e5770f9e1";

/// Does the work. The script counts what happens in this function.
#[inline(never)]
pub fn counted(work: Work) {
    work();
    // With something behind it, the call is a call and not a jump.
    black_box(());
}

/// A digest that no two numbers share.
fn digest(n: usize) -> String {
    format!("sha256:{n:064x}")
}

fn tag(n: usize) -> String {
    format!("v1.{}.{}-x86-64", n / 100, n % 100)
}

/// The manifest that `oras push` writes for one file.
fn manifest(n: usize) -> Vec<u8> {
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": "application/vnd.unknown.artifact.v1",
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": digest(0),
            "size": 2,
            "data": "e30=",
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": digest(n + 1),
            "size": 70_000_000 + n,
            "annotations": {"org.opencontainers.image.title": "kubernetes.raw"},
        }],
        "annotations": {"org.opencontainers.image.created": "2026-01-02T03:04:05Z"},
    });
    manifest.to_string().into_bytes()
}

fn parse_manifests(_: &Path) -> Work {
    let manifests: Vec<_> = (0..TAGS).map(manifest).collect();
    Box::new(move || {
        for manifest in &manifests {
            black_box(Manifest::parse(Some(OCI_MANIFEST), manifest)).unwrap();
        }
    })
}

/// An index of eight platforms and their attestations, as docker buildx writes it.
fn index_of(n: usize) -> Vec<u8> {
    let platforms = [
        "amd64", "arm64", "386", "ppc64le", "s390x", "riscv64", "loong64", "mips64le",
    ];
    let entries = platforms.iter().enumerate().flat_map(|(m, platform)| {
        let image = digest(16 * n + m);
        [
            json!({
                "mediaType": OCI_MANIFEST,
                "digest": image,
                "size": 481,
                "platform": {"architecture": platform, "os": "linux"},
            }),
            json!({
                "mediaType": OCI_MANIFEST,
                "digest": digest(16 * n + m + 8),
                "size": 566,
                "annotations": {
                    "vnd.docker.reference.digest": image,
                    "vnd.docker.reference.type": "attestation-manifest",
                },
                "platform": {"architecture": "unknown", "os": "unknown"},
            }),
        ]
    });
    let entries: Vec<_> = entries.collect();
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
    index.to_string().into_bytes()
}

fn parse_indexes(_: &Path) -> Work {
    let indexes: Vec<_> = (0..TAGS / 10).map(index_of).collect();
    let offered = ["x86-64", "arm64"].map(|name| name.parse().unwrap());
    Box::new(move || {
        for bytes in &indexes {
            let Ok(Manifest::Index(found)) = Manifest::parse(Some(OCI_INDEX), bytes) else {
                panic!("not an index")
            };
            let choice = index::choose(&index::sort(found).artifacts, &offered).unwrap();
            assert_eq!(choice.chosen.len(), 2);
        }
    })
}

fn parse_list_of_tags(_: &Path) -> Work {
    let tags: Vec<_> = (0..10 * TAGS).map(tag).collect();
    let page = json!({"name": "acme/kubernetes", "tags": tags}).to_string();
    Box::new(move || {
        assert_eq!(parse_tags(page.as_bytes()).unwrap().tags.len(), 10 * TAGS);
    })
}

fn parse_publisher_list(_: &Path) -> Work {
    let mut list = String::new();
    for n in 0..NAMES {
        let digest: Digest = digest(n).parse().unwrap();
        writeln!(list, "{}  kubernetes-{}.raw", digest.hex(), tag(n)).unwrap();
    }
    let bytes = list.into_bytes();
    let digest = Digest::of(&bytes);
    Box::new(move || {
        let list = PublisherList::new(digest, bytes, None);
        assert_eq!(list.files(None).count(), NAMES);
    })
}

fn parse_settings(scratch: &Path) -> Work {
    let mut text = "registry = \"ghcr.io/acme/sysexts\"\nallow = [\"ghcr.io/flatcar\"]\n\
                    idle-timeout-sec = 30\ncache-size = \"2G\"\nparallel = 16\n"
        .to_owned();
    for n in 0..100 {
        write!(
            text,
            "[repository.kubernetes-{n}]\nsource = \"ghcr.io/acme/k8s-{n}\"\n\
             names = \"{{name}}-{{version}}-{{arch}}\"\narchitectures = [\"x86-64\", \"arm64\"]\n\
             versions = [\"1.{n}.*\"]\nhold = \"1.{n}.9\"\nflatten = 3\n"
        )
        .unwrap();
    }
    let file = scratch.join("config.toml");
    fs::write(&file, text).unwrap();
    let root = scratch.to_owned();
    Box::new(move || {
        let settings = Settings::load(Some(&file), &root).unwrap();
        assert_eq!(settings.repositories.len(), 100);
    })
}

const NAMING: Naming<'_> = Naming {
    base: "kubernetes",
    template: None,
    source: 0,
    keeps_titles: false,
};

fn images() -> Vec<Image> {
    let images = (0..TAGS).map(|n| match Manifest::parse(None, &manifest(n)) {
        Ok(Manifest::Image(image)) => image,
        other => panic!("{other:?}"),
    });
    images.collect()
}

/// The files that an image offers to a listing.
fn artifact((n, image): (usize, &Image)) -> Artifact {
    let mut artifact = Artifact {
        manifest: digest(n).parse().unwrap(),
        architecture: None,
        is_of_index: false,
        flavour: None,
        version: artifact::version(&image.annotations).map(str::to_owned),
        accepted: None,
        schedule: Schedule::annotated(&image.annotations),
        recognised: artifact::recognise(image, None),
    };
    artifact.condense(&NAMING);
    artifact
}

fn recognise(_: &Path) -> Work {
    let images = images();
    Box::new(move || {
        for image in images.iter().enumerate() {
            assert_eq!(black_box(artifact(image)).recognised.offers.len(), 1);
        }
    })
}

/// The artifacts of all tags, in the order of the tags.
fn tagged() -> Vec<(Tag, Artifact)> {
    let images = images();
    let tagged = images.iter().enumerate();
    let mut tagged: Vec<_> = tagged
        .map(|(n, image)| (tag(n).parse().unwrap(), artifact((n, image))))
        .collect();
    tagged.sort_by(|(one, _), (other, _): &(Tag, _)| one.cmp(other));
    tagged
}

fn listing_of(tagged: Vec<(Tag, Artifact)>) -> Listing {
    let mut listing = Listing::default();
    for (tag, artifact) in tagged {
        listing.add(&NAMING, &tag, vec![artifact]);
    }
    listing
}

fn list(_: &Path) -> Work {
    let tagged = tagged();
    Box::new(move || assert_eq!(black_box(listing_of(tagged)).files.len(), TAGS))
}

fn list_text(_: &Path) -> Work {
    let listing = listing_of(tagged());
    Box::new(move || {
        // Each file, and until when the list is fresh.
        let text = listing.text(Some(date(2030, 2, 3)));
        assert_eq!(text.lines().count(), TAGS + 1);
    })
}

fn list_json(_: &Path) -> Work {
    let listing = listing_of(tagged());
    Box::new(move || {
        let files = listing.files.iter();
        let rows =
            files.map(|(name, file)| Row::new(Cow::Borrowed(name), Cow::Borrowed(file), None));
        let overview = Overview::of(rows, listing.left_out.iter());
        assert_eq!(overview.files.len(), TAGS);
        black_box(overview.text());
    })
}

/// The bytes go nowhere, but the compiler does not know that.
#[derive(Default)]
pub struct Sink(u64);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += black_box(bytes).len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The head of a request, as systemd-pull sends it.
fn request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost:5001\r\nUser-Agent: systemd-pull/257\r\nAccept: */*\r\n\
         Accept-Encoding: deflate, gzip, br, zstd\r\n\r\n"
    )
}

fn requests(_: &Path) -> Work {
    let heads = (0..TAGS).map(|n| request(&format!("/kubernetes/kubernetes-{}.raw", tag(n))));
    let heads: Vec<_> = heads.collect();
    let digest: Digest = digest(1).parse().unwrap();
    Box::new(move || {
        let mut out = Sink::default();
        for head in &heads {
            answer(head.as_bytes(), &mut out, |request| {
                black_box(Address::parse(&request.target)).unwrap();
                Response::bytes("application/octet-stream", "x").tagged(digest)
            });
        }
    })
}

/// A blob of a layout: file → resumed → verified → response.
fn copy(scratch: &Path) -> Work {
    let digest: Digest = OF_ZEROS.parse().unwrap();
    let blobs = scratch.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(
        scratch.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
    fs::write(scratch.join("index.json"), r#"{"manifests":[]}"#).unwrap();
    let file = File::create(blobs.join(digest.hex())).unwrap();
    file.set_len(BLOB).unwrap();
    let source: Arc<dyn Source> = Arc::new(Layout::open(scratch).unwrap());
    let head = request("/kubernetes/kubernetes-v1.raw");
    Box::new(move || {
        let mut out = Sink::default();
        for _ in 0..COPIES {
            answer(head.as_bytes(), &mut out, |_| {
                let opened = blob::open(&source, digest, Some(BLOB), "blob".to_owned());
                let (size, bytes) = opened.unwrap();
                let blob = Blob::begin(bytes, size).unwrap();
                Response::new("application/octet-stream", Body::Blob(Box::new(blob)))
            });
        }
        assert!(out.0 > COPIES * BLOB, "{} bytes", out.0);
    })
}

/// Three layers of 200 small files each. Each layer replaces some files of the one below.
fn flatten_layers(scratch: &Path) -> Work {
    let layers = (0..3).map(|layer| {
        let mut archive = Vec::new();
        for n in 0..200 {
            let bytes: Vec<_> = (0..40 * n).map(|byte| (byte * (layer + 1)) as u8).collect();
            add_file(&mut archive, &format!("usr/{:04}", 150 * layer + n), &bytes);
        }
        archive.resize(archive.len() + 1024, 0);
        archive
    });
    let layers: Vec<_> = layers.collect();
    let cache = Cache::new(Some(scratch.to_owned()), 1 << 30);
    Box::new(move || {
        let mut out = Sink::default();
        flatten(&layers, &cache, &mut out);
        assert!(out.0 > 1 << 20, "{} bytes", out.0);
    })
}

/// Adds a file to an archive in the form of ustar.
fn add_file(archive: &mut Vec<u8>, name: &str, bytes: &[u8]) {
    let mut header = [0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..107].copy_from_slice(b"0000644");
    header[124..135].copy_from_slice(format!("{:011o}", bytes.len()).as_bytes());
    header[136..147].fill(b'0');
    header[148..156].fill(b' ');
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    archive.extend(header);
    archive.extend(bytes);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_does_its_work_and_has_a_figure() {
        let scratch = std::env::temp_dir().join(format!("instructions-{}", std::process::id()));
        for (name, prepare) in SCENARIOS {
            let place = scratch.join(name);
            fs::create_dir_all(&place).unwrap();
            counted(prepare(&place));
        }
        fs::remove_dir_all(scratch).unwrap();
        let table = include_str!("figures.txt").lines();
        let names = table.filter(|line| !line.starts_with('#'));
        let names: Vec<_> = names.filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(names, SCENARIOS.map(|(name, _)| name));
    }
}
