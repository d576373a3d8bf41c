//! Container images of several layers, good ones and bad ones, and what is made of them.

use std::collections::BTreeMap;
use std::io::Read;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::content::{OCI_MANIFEST, OCI_TAR, Repository};

/// A layer with these files.
pub fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1);
        archive.append_data(&mut header, path, *bytes).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap()
}

/// A header as it stands, whatever its name is.
pub fn header(kind: tar::EntryType, name: &[u8], size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// An extended header with this record, and a file after it.
pub fn with_record(keyword: &str, value: &[u8]) -> Vec<u8> {
    let rest = keyword.len() + value.len() + 3;
    let length = (rest..)
        .find(|length| rest + length.to_string().len() == *length)
        .unwrap();
    let mut record = [format!("{length} {keyword}=").as_bytes(), value, b"\n"].concat();
    let size = record.len();
    record.resize(size.next_multiple_of(512), 0);
    let extended = header(tar::EntryType::XHeader, b"x", size as u64);
    [
        extended,
        record,
        header(tar::EntryType::Regular, b"file", 0),
    ]
    .concat()
}

/// Pushes an image of these layers as buildah does.
pub fn push(hello: &mut Repository, tag: &str, layers: &[&[u8]]) {
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| hello.blob(&format!("{OCI_TAR}+gzip"), layer))
        .collect();
    push_described(hello, tag, &layers);
}

/// The same, with layers as their descriptors tell of them.
pub fn push_described(hello: &mut Repository, tag: &str, layers: &[Value]) {
    let config = hello.blob("application/vnd.oci.image.config.v1+json", b"{}");
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers,
    });
    hello.tag(tag, manifest.to_string().as_bytes());
}

/// A zstd frame of these bytes and then so many times 128 KiB of zeros, in four bytes each (RFC 8878 §3.1.1).
pub fn zstd_of(bytes: &[u8], zeros: usize) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0x50];
    let block = |is_last: usize, kind: usize, size: usize| {
        let head = is_last | kind << 1 | size << 3;
        head.to_le_bytes()[..3].to_vec()
    };
    for piece in bytes.chunks(128 << 10) {
        frame.extend(block(0, 0, piece.len()));
        frame.extend(piece);
    }
    for _ in 0..zeros {
        frame.extend(block(0, 1, 128 << 10));
        frame.push(0);
    }
    frame.extend(block(1, 0, 0));
    frame
}

/// The digests in a listing, by name.
pub fn sums(listing: &str) -> BTreeMap<String, String> {
    let line = |line: &str| {
        let (sum, name) = line.split_once("  ").unwrap();
        (name.to_owned(), sum.to_owned())
    };
    let is_file = |line: &&str| line.contains("hello-");
    listing.lines().filter(is_file).map(line).collect()
}

pub fn names(listing: &str) -> Vec<String> {
    sums(listing).into_keys().collect()
}

/// The files in a `.tar.gz`.
pub fn unpacked(packed: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(GzDecoder::new(packed));
    let file = |entry: std::io::Result<tar::Entry<'_, _>>| {
        let mut entry = entry.unwrap();
        let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (path, bytes)
    };
    archive.entries().unwrap().map(file).collect()
}
