//! Writes an OCI layout with versions of a small system extension, as `oras push` would push them.
//!
//! Usage: `make_extension DIRECTORY NAME VERSION…`. Each version is a tag; behind it is one real
//! extension: a squashfs image for any distribution with a file that tells the version.

#![allow(
    clippy::unwrap_used,
    reason = "a tool for tests ends where something is wrong"
)]

use std::io::Cursor;
use std::path::Path;
use std::process::ExitCode;

use backhand::compression::Compressor;
use backhand::{FilesystemCompressor, FilesystemWriter, NodeHeader};

#[path = "../it/content.rs"]
#[allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "shared with the integration tests, which use the rest"
)]
mod content;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, name, versions @ ..] = &arguments[..] else {
        eprintln!("usage: make_extension DIRECTORY NAME VERSION...");
        return ExitCode::FAILURE;
    };
    let mut repository = content::Repository::default();
    for version in versions {
        repository.oras_push(version, &format!("{name}.raw"), &extension(name, version));
    }
    repository.write_layout(Path::new(directory));
    ExitCode::SUCCESS
}

/// A system extension: what systemd-sysext wants to see, and one file to see it by.
fn extension(name: &str, version: &str) -> Vec<u8> {
    let release = format!("ID=_any\nSYSEXT_VERSION_ID={version}\n");
    let mut image = FilesystemWriter::default();
    // Times are those of the epoch, so that a version has the same digest in every run.
    let folder = NodeHeader {
        permissions: 0o755,
        ..NodeHeader::default()
    };
    let file = NodeHeader {
        permissions: 0o644,
        ..NodeHeader::default()
    };
    image.set_root_mode(0o755);
    image.set_compressor(FilesystemCompressor::new(Compressor::Gzip, None).unwrap());
    let release_folder = "usr/lib/extension-release.d";
    let share = format!("usr/share/{name}");
    image.push_dir_all(release_folder, folder).unwrap();
    image.push_dir_all(&share, folder).unwrap();
    image
        .push_file(
            Cursor::new(release),
            format!("{release_folder}/extension-release.{name}"),
            file,
        )
        .unwrap();
    image
        .push_file(
            Cursor::new(format!("{version}\n")),
            format!("{share}/version"),
            file,
        )
        .unwrap();
    let mut bytes = Cursor::new(Vec::new());
    image.write(&mut bytes).unwrap();
    bytes.into_inner()
}
