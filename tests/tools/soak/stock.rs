//! The content of the registry: files as `oras` pushes them, and container images of several layers.

use std::collections::BTreeMap;
use std::io::Write as _;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::json;

use crate::content::{OCI_MANIFEST, Repository, digest, sha256};
use crate::dice::Dice;

const GZIP_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// Of files that are offered as they are, in MiB.
const SIZES: [u64; 12] = [1, 1, 1, 2, 2, 3, 4, 5, 6, 8, 16, 31];
/// Of the files of an image that all its versions have.
const COMMON_FILES: u64 = 200;
const OWN_FILES: u64 = 120;

/// A repository and what must come out of it.
pub struct Stock {
    pub name: &'static str,
    pub content: Repository,
    pub files: BTreeMap<String, Offer>,
}

impl Stock {
    /// Are its files made, not stored?
    pub fn is_made(&self) -> bool {
        let mut offers = self.files.values();
        offers.any(|offer| matches!(offer, Offer::Flattened { .. }))
    }
}

/// A file that the service has to offer.
pub enum Offer {
    /// These bytes, by their SHA-256.
    Plain(String),
    /// An archive of these files (by name, the SHA-256 of each), made of several layers.
    Flattened {
        files: BTreeMap<String, String>,
        /// SHA-256 of the archive, once it was seen to be right.
        hex: Option<String>,
    },
}

impl Offer {
    pub fn hex(&self) -> Option<&str> {
        match self {
            Offer::Plain(hex) => Some(hex),
            Offer::Flattened { hex, .. } => hex.as_deref(),
        }
    }
}

/// An extension image, which says what it is in a file inside it.
const IMAGE: &[u8] = include_bytes!("../../images/xz.squashfs");
/// The side file of that image.
pub const SIDE_FILE: &str = "files-image.manifest.gz";

/// Files of 1 to 32 MiB, each a version, and a small image.
pub fn plain(name: &'static str, dice: &mut Dice) -> Stock {
    let (mut content, mut files) = (Repository::default(), BTreeMap::new());
    for (n, mib) in SIZES.into_iter().enumerate() {
        let size = usize::try_from((mib << 20) + dice.from(0..1 << 20)).unwrap();
        let bytes = dice.bytes(size);
        content.oras_push(&format!("v{n}"), &format!("{name}.raw"), &bytes);
        files.insert(format!("{name}-v{n}.raw"), Offer::Plain(sha256(&bytes)));
    }
    content.oras_push("image", "image.raw", IMAGE);
    files.insert(format!("{name}-image.raw"), Offer::Plain(sha256(IMAGE)));
    Stock {
        name,
        content,
        files,
    }
}

/// Container images of three layers: files, more of them, and one that removes and replaces some.
pub fn containers(name: &'static str, versions: usize, dice: &mut Dice) -> Stock {
    let (mut content, mut offers) = (Repository::default(), BTreeMap::new());
    let common = some_files("usr/share/common", COMMON_FILES, dice);
    let common_layer = layer(&common);
    for n in 1..=versions {
        let own = some_files("usr/lib/own", OWN_FILES, dice);
        let mut last = BTreeMap::new();
        let mut expected: BTreeMap<_, _> = common.iter().chain(&own).collect();
        for (number, path) in common.keys().enumerate() {
            match number % 20 {
                0 => {
                    let (directory, file) = path.rsplit_once('/').unwrap();
                    last.insert(format!("{directory}/.wh.{file}"), Vec::new());
                    expected.remove(path);
                }
                1 => {
                    last.insert(path.clone(), format!("replaced in v{n}").into_bytes());
                }
                _ => {}
            }
        }
        expected.extend(last.iter().filter(|(path, _)| !path.contains(".wh.")));
        let mut digests = Vec::new();
        let layers: Vec<_> = [common_layer.clone(), layer(&own), layer(&last)]
            .iter()
            .map(|tar| {
                digests.push(digest(tar));
                content.blob(GZIP_LAYER, &gzip(tar))
            })
            .collect();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": digests},
        });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": content.blob(CONFIG, config.to_string().as_bytes()),
            "layers": layers,
        });
        content.tag(&format!("v{n}"), manifest.to_string().as_bytes());
        let files = expected
            .iter()
            .map(|(path, bytes)| ((*path).clone(), sha256(bytes)))
            .collect();
        let offer = Offer::Flattened { files, hex: None };
        offers.insert(format!("{name}-v{n}.tar.gz"), offer);
    }
    Stock {
        name,
        content,
        files: offers,
    }
}

fn some_files(directory: &str, count: u64, dice: &mut Dice) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for n in 0..count {
        // Mostly small ones, some large.
        let size = 1 << dice.from(6..17);
        let size = usize::try_from(size + dice.from(0..size)).unwrap();
        files.insert(format!("{directory}/{}/{n}", n % 7), dice.bytes(size));
    }
    files
}

fn layer(files: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        header.set_uid(0);
        header.set_gid(0);
        tar.append_data(&mut header, path, bytes.as_slice())
            .unwrap();
    }
    tar.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// The files in an archive, the SHA-256 of each.
pub fn unpack(archive: &[u8]) -> std::io::Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(GzDecoder::new(archive)).entries()? {
        let mut entry = entry?;
        if entry.header().entry_type().is_file() {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes)?;
            let path = entry.path()?.to_string_lossy().into_owned();
            files.insert(path.trim_start_matches("./").to_owned(), sha256(&bytes));
        }
    }
    Ok(files)
}

/// The text in a gzip file.
pub fn gunzip(bytes: &[u8]) -> std::io::Result<String> {
    std::io::read_to_string(GzDecoder::new(bytes))
}
