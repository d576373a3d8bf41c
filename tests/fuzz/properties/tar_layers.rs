//! The layers of an image, flattened.

#![allow(
    clippy::unwrap_used,
    reason = "a property that does not hold is a panic"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use flate2::read::GzDecoder;

use super::layer::unpack;
use super::{Begun, Budget, LARGE, Layers as Fetched, Limits, flatten};
use crate::artifact::Recipe;
use crate::cache::Cache;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::fuzz::parts;
use crate::manifest::Descriptor;
use crate::name::Tag;
use crate::source::{Body, Download, Origins, Part, Reference, Source, StoredManifest};
use crate::tar::{Kind, Members};

const BLOCK: usize = 512;
/// Largest layers, and what the files of an image may take: a fuzzer learns nothing from more.
const LIMIT: u64 = 1 << 20;
/// The layer is as it is; one that begins otherwise is a tar archive whose checksums are put right,
/// without which no changed header would ever be read.
const AS_IT_IS: u8 = b'=';

/// A flattened image is the same every time, is an archive with no path outside, has the contents of files from one
/// layer or another, and is the same again when it is flattened itself. Each of up to three parts
/// is a layer.
pub fn tar_layers(data: &[u8]) {
    let layers: Vec<_> = parts(data).into_iter().take(3).map(layer).collect();
    let made = flattened(&layers);
    match (&made, flattened(&layers)) {
        (Ok(one), Ok(other)) => assert!(*one == other, "two runs, two archives"),
        (Err(_), Err(_)) => {}
        _ => panic!("one run of two failed"),
    }
    match made {
        Ok(packed) => {
            let files = assert_archive(&packed);
            let given: BTreeSet<_> = layers.iter().flat_map(|layer| files_of(layer)).collect();
            assert!(
                files.is_subset(&given),
                "a file has bytes that no layer gives it"
            );
            let again = flattened(std::slice::from_ref(&packed)).unwrap();
            assert!(again == packed, "flattened again it is another");
        }
        Err(Error::CannotFlatten { .. }) => {}
        Err(other) => panic!("not the layers' fault: {}", other.line()),
    }
}

fn layer(part: &[u8]) -> Vec<u8> {
    match part.split_first() {
        Some((&AS_IT_IS, rest)) => rest.to_vec(),
        _ => {
            let mut archive = part.to_vec();
            let (blocks, _) = archive.as_chunks_mut::<BLOCK>();
            blocks.iter_mut().for_each(put_right);
            archive
        }
    }
}

/// Gives a header its checksum. What has none, or is no header, stays as it is.
fn put_right(block: &mut [u8; BLOCK]) {
    let is_sum = |byte: &u8| matches!(byte, b'0'..=b'7' | b' ' | 0);
    if !block[148..156].iter().all(is_sum) || block[148..156] == [0; 8] {
        return;
    }
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

/// Where layers are spooled. Nothing stays in it but the directory itself.
pub fn scratch() -> PathBuf {
    std::env::temp_dir().join(format!("sysext-oci-proxy-fuzz-{}", std::process::id()))
}

fn flattened(layers: &[Vec<u8>]) -> Result<Vec<u8>> {
    static CACHE: OnceLock<Cache> = OnceLock::new();
    // Each image has other layers, so none is kept.
    let cache = CACHE.get_or_init(|| Cache::new(Some(scratch()), 0));
    let recipe = Recipe {
        layers: (layers.iter())
            .map(|layer| (Digest::of(layer), layer.len() as u64))
            .collect(),
        file: None,
    };
    let blobs = recipe.layers.iter().map(|(digest, _)| *digest);
    let source: Arc<dyn Source> = Arc::new(Layers(blobs.zip(layers.to_vec()).collect()));
    let out = cache.scratch()?;
    let mut written = out.try_clone().unwrap();
    let budget = Budget::new(Limits::new(LIMIT, false), LARGE);
    let fetched = Fetched::fetch(&source, &recipe, cache, &Begun::default())?;
    let made = flatten(&fetched, &recipe, cache, &budget, out)?;
    let packed = read_all(&mut written);
    assert_eq!(
        (made.digest, made.size),
        (Digest::of(&packed), packed.len() as u64)
    );
    Ok(packed)
}

fn read_all(file: &mut File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// A source that has layers and nothing else.
struct Layers(BTreeMap<Digest, Vec<u8>>);

impl Source for Layers {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn blob(&self, digest: Digest, size: u64, range: Range<u64>, _: &Origins) -> Result<Body> {
        let rest = &self.0[&digest][usize::try_from(range.start).unwrap()..];
        Ok(Body {
            reader: Box::new(Cursor::new(rest.to_vec())),
            starts_at: range.start,
            ends_at: size,
        })
    }

    fn whole_blob(&self, _digest: Digest, _: &Origins) -> Result<(u64, Box<dyn Read + Send>)> {
        unreachable!()
    }

    fn blob_range(&self, _digest: Digest, _size: u64, _range: Range<u64>) -> Result<Part> {
        unreachable!()
    }

    fn tags(&self) -> Result<Vec<Tag>> {
        unreachable!()
    }

    fn digest_of(&self, _tag: &Tag) -> Result<Option<Digest>> {
        unreachable!()
    }

    fn manifest(&self, _reference: Reference<'_>) -> Result<StoredManifest> {
        unreachable!()
    }

    fn holds(&self, blob: Digest) -> Result<bool> {
        Ok(self.0.contains_key(&blob))
    }

    fn companion(&self, _: &Tag) -> Result<Option<StoredManifest>> {
        unreachable!()
    }

    fn referrers(&self, _subject: Digest) -> Result<Vec<Descriptor>> {
        unreachable!()
    }

    fn blob_url(&self, _digest: Digest) -> Result<Option<String>> {
        unreachable!()
    }

    fn blob_request(&self, _digest: Digest) -> Result<Download> {
        unreachable!()
    }

    fn manifest_request(&self, _: Reference<'_>, _: &str) -> Result<Download> {
        unreachable!()
    }
}

/// The bytes of all files in a layer, each by itself in memory.
fn files_of(layer: &[u8]) -> Vec<Vec<u8>> {
    let mut archive = Members::new(unpack(layer).unwrap());
    let mut files = Vec::new();
    while let Some(entry) = archive.next_entry().unwrap() {
        if let Kind::File { size, pieces } = entry.kind {
            let mut file = vec![0; usize::try_from(size).unwrap()];
            for piece in pieces {
                let at = usize::try_from(piece.offset).unwrap();
                let mut bytes = &mut file[at..at + usize::try_from(piece.size).unwrap()];
                while !bytes.is_empty() {
                    let n = archive.read(bytes).unwrap();
                    bytes = &mut bytes[n..];
                }
            }
            files.push(file);
        }
    }
    files
}

/// As a program reads it that knows PAX and little else: names in order, each in a directory that came
/// before it and none that leads out; hard links only to files that came before them. Returns the bytes of
/// its files.
fn assert_archive(packed: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut archive = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut archive).unwrap();
    let (blocks, rest) = archive.as_chunks::<BLOCK>();
    assert!(rest.is_empty());
    // By components: is it a directory?
    let mut seen: BTreeMap<Vec<Vec<u8>>, bool> = BTreeMap::new();
    let mut records: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut files = BTreeSet::new();
    let mut at = 0;
    while blocks[at] != [0; BLOCK] {
        let block = &blocks[at];
        let kind = block[156];
        let size = match records.get(b"size".as_slice()) {
            Some(size) => std::str::from_utf8(size).unwrap().parse().unwrap(),
            None => octal(&block[124..136]),
        };
        at += 1;
        let data = &blocks[at..at + size.div_ceil(BLOCK)].as_flattened()[..size];
        at += size.div_ceil(BLOCK);
        if kind == b'x' {
            records = read_records(data);
            continue;
        }
        let mut text = |keyword: &[u8], own: Vec<u8>| records.remove(keyword).unwrap_or(own);
        let (name, prefix) = (until_nul(&block[..100]), until_nul(&block[345..500]));
        let own = match prefix.as_slice() {
            b"" => name,
            prefix => [prefix, b"/", &name].concat(),
        };
        let path = text(b"path", own);
        let link = text(b"linkpath", until_nul(&block[157..257]));
        records.clear();

        let is_directory = kind == b'5';
        let path = match path.strip_suffix(b"/") {
            Some(path) if is_directory => path.to_vec(),
            _ => path,
        };
        if path == b"." {
            assert!(is_directory && seen.is_empty(), "the root comes first");
            continue;
        }
        let components = |path: &[u8]| -> Vec<_> {
            path.split(|byte| *byte == b'/')
                .map(<[u8]>::to_vec)
                .collect()
        };
        let names = components(&path);
        assert!(
            seen.last_key_value().is_none_or(|(last, _)| *last < names),
            "names are in order"
        );
        assert!(
            names
                .iter()
                .all(|name| !matches!(name.as_slice(), b"" | b"." | b".."))
        );
        assert!(
            !names.iter().any(|name| name.starts_with(b".wh.")),
            "a whiteout"
        );
        assert!(!path.contains(&0));
        for n in 1..names.len() {
            assert_eq!(
                seen.get(&names[..n]),
                Some(&true),
                "a directory comes before what is in it"
            );
        }
        match kind {
            b'1' => assert_eq!(
                seen.get(&components(&link)),
                Some(&false),
                "a hard link to a file"
            ),
            b'2' => assert!(!link.is_empty()),
            b'0' => {
                files.insert(data.to_vec());
            }
            b'3'..=b'6' => {}
            other => panic!("type {other}"),
        }
        assert!(kind == b'0' || size == 0, "only files have data");
        seen.insert(names, is_directory);
    }
    assert!(records.is_empty() && blocks[at..] == [[0; BLOCK]; 2]);
    files
}

fn octal(field: &[u8]) -> usize {
    usize::from_str_radix(std::str::from_utf8(&until_nul(field)).unwrap(), 8).unwrap()
}

fn until_nul(field: &[u8]) -> Vec<u8> {
    let end = field.iter().position(|byte| *byte == 0);
    field[..end.unwrap_or(field.len())].to_vec()
}

fn read_records(mut data: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut records = BTreeMap::new();
    while !data.is_empty() {
        let blank = data.iter().position(|byte| *byte == b' ').unwrap();
        let length: usize = std::str::from_utf8(&data[..blank])
            .unwrap()
            .parse()
            .unwrap();
        let record = data[blank + 1..length].strip_suffix(b"\n").unwrap();
        let equals = record.iter().position(|byte| *byte == b'=').unwrap();
        let before = records.insert(record[..equals].to_vec(), record[equals + 1..].to_vec());
        assert!(before.is_none(), "a keyword that is there twice");
        data = &data[length..];
    }
    records
}
