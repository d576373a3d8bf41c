//! What a system image says of itself, read out of the image: its extension-release(5) file. Of an
//! image of gigabytes some hundred kilobytes are fetched, by ranges.
//!
//!     source ─▶ blocks ─▶ partitions ─▶ squashfs, erofs
//!                 └─▶ unpack └─▶ tar
//!
//! Nothing here is checked against the image's digest: that would take all of it. Whoever installs
//! the image checks that.

mod blocks;
mod erofs;
mod fields;
mod partitions;
mod squashfs;
mod tar;
mod unpack;

use std::io::Read;
use std::ops::Range;

use blocks::{Blocks, Failure, Image, Origin, bad};
use erofs::Erofs;
use partitions::Purpose;
use squashfs::Squashfs;
use unpack::Packing;

use crate::cache::{Cache, Release};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::metadata::Metadata;
use crate::name::FileName;
use crate::source::{Part, Source};

/// What the name of a release begins with; then comes the extension's own.
const RELEASE: &str = "extension-release.";
/// Where releases are in a whole system and in a system extension; in a configuration extension.
const FOLDERS: [&str; 2] = ["usr/lib/extension-release.d", "etc/extension-release.d"];
/// Where they are in a file system that is mounted at `/usr`.
const FOLDERS_OF_USR: [&str; 1] = ["lib/extension-release.d"];
/// Largest release that is read. They have some hundred bytes.
const MAX_FILE: usize = 64 << 10;
/// Partitions looked into.
const MAX_PARTITIONS: usize = 4;

/// A blob of a source.
pub struct Blob<'a> {
    pub source: &'a dyn Source,
    pub digest: Digest,
    pub size: u64,
}

impl Origin for Blob<'_> {
    fn name(&self) -> String {
        format!("image {} of {}", self.digest, self.source.name())
    }

    fn part(&self, range: Range<u64>) -> Result<Part> {
        self.source.blob_range(self.digest, self.size, range)
    }

    fn whole(&self) -> Result<Box<dyn Read + Send>> {
        self.source.blob(self.digest, self.size, 0)
    }
}

/// What an image says of itself; nothing if there is no release in it. Each image is read once.
///
/// `file`: its name. Where there are several releases it says which one is meant.
pub fn metadata(blob: &Blob<'_>, cache: Option<&Cache>, file: &FileName) -> Result<Metadata> {
    let release = match cache.and_then(|cache| cache.release(blob.digest)) {
        Some(known) => known,
        None => {
            let found = match release_in(blob, blob.size, file.as_str()) {
                Ok(Some(text)) => Release::Text(String::from_utf8_lossy(&text).into_owned()),
                Ok(None) => Release::None,
                Err(Failure::Image(why)) => Release::Unreadable(why),
                Err(Failure::Fetch(error)) => return Err(error),
            };
            if let Some(cache) = cache {
                cache.keep_release(blob.digest, &found);
            }
            found
        }
    };
    match release {
        Release::Text(text) => Ok(Metadata::of_extension_release(&text)),
        Release::None => Ok(Metadata::default()),
        Release::Unreadable(why) => Err(Error::BadImage {
            what: blob.name(),
            why,
        }),
    }
}

fn release_in(origin: &dyn Origin, size: u64, file: &str) -> Result<Option<Vec<u8>>, Failure> {
    let mut blocks = Blocks::new(origin, size);
    if let Some(packing) = Packing::of(&blocks.head(partitions::TABLE)?) {
        blocks.unpack(packing)?;
    }
    let mut image = Image::whole(&mut blocks);
    let head = image.head(partitions::TABLE)?;
    if let Some(sector) = partitions::sector_size(&head) {
        return in_partitions(&mut image, &head, sector, file);
    }
    if has_at(&head, tar::MAGIC_AT, tar::MAGIC) {
        let releases = tar::releases(&mut image, &FOLDERS)?;
        return Ok(choose(releases, |release| &release.name, file).map(|release| release.text));
    }
    match in_file_system(image, &head, &FOLDERS, file) {
        Some(result) => result,
        None => bad("it is no squashfs, no erofs, no disk with a GPT and no tar"),
    }
}

/// What the first partition says that has a release.
fn in_partitions(
    image: &mut Image<'_, '_>,
    head: &[u8],
    sector: usize,
    file: &str,
) -> Result<Option<Vec<u8>>, Failure> {
    let partitions = partitions::parse(head, sector).map_err(Failure::Image)?;
    let mut is_readable = false;
    for partition in partitions.into_iter().take(MAX_PARTITIONS) {
        let mut part = image.part(partition.bytes);
        let head = part.head(partitions::TABLE)?;
        let folders: &[&str] = match partition.purpose {
            Purpose::Usr => &FOLDERS_OF_USR,
            Purpose::Root => &FOLDERS,
        };
        let Some(result) = in_file_system(part, &head, folders, file) else {
            continue;
        };
        is_readable = true;
        if let Some(release) = result? {
            return Ok(Some(release));
        }
    }
    if is_readable {
        return Ok(None);
    }
    bad("it is a disk without a partition for / or /usr with squashfs or erofs in it")
}

/// What a file system says; `None` if it is no kind that is read here.
fn in_file_system<'b, 'a>(
    image: Image<'b, 'a>,
    head: &[u8],
    folders: &[&str],
    file: &str,
) -> Option<Result<Option<Vec<u8>>, Failure>> {
    if head.starts_with(squashfs::MAGIC) {
        let found = Squashfs::open(image);
        Some(found.and_then(|mut files| in_folders(&mut files, folders, file)))
    } else if has_at(head, erofs::MAGIC_AT, &erofs::MAGIC) {
        let found = Erofs::open(image);
        Some(found.and_then(|mut files| in_folders(&mut files, folders, file)))
    } else {
        None
    }
}

fn in_folders(
    files: &mut dyn FileSystem,
    folders: &[&str],
    file: &str,
) -> Result<Option<Vec<u8>>, Failure> {
    for folder in folders {
        let releases = files.releases(folder)?;
        if let Some(entry) = choose(releases, |entry| &entry.name, file) {
            return files.read(&entry).map(Some);
        }
    }
    Ok(None)
}

fn has_at(head: &[u8], at: usize, magic: &[u8]) -> bool {
    head.get(at..).is_some_and(|rest| rest.starts_with(magic))
}

/// A file system, as far as it is needed to find a release.
trait FileSystem {
    /// The releases in a directory; none if there is no such directory. Symbolic links are not followed.
    fn releases(&mut self, directory: &str) -> Result<Vec<Entry>, Failure>;

    /// A file's bytes.
    fn read(&mut self, entry: &Entry) -> Result<Vec<u8>, Failure>;
}

/// A file in a directory.
struct Entry {
    name: String,
    /// What its file system knows it by.
    inode: u64,
}

/// A file that was read.
struct NamedText {
    name: String,
    text: Vec<u8>,
}

/// The name of a release, if it is one.
fn is_release(name: &[u8]) -> Option<&str> {
    std::str::from_utf8(name)
        .ok()
        .filter(|name| name.starts_with(RELEASE) && !name.contains('/'))
}

/// The release whose name goes furthest along with the image's, else the first one by name.
///
/// systemd wants the image's name without its version there, or a single file that any name may have
/// (extension-release(5), `user.extension-release.strict`).
fn choose<T>(mut releases: Vec<T>, name: impl Fn(&T) -> &String, file: &str) -> Option<T> {
    releases.sort_by(|a, b| name(a).cmp(name(b)));
    let fit = |one: &T| {
        let extension = name(one).strip_prefix(RELEASE).unwrap_or_default();
        if file.starts_with(extension) {
            extension.len()
        } else {
            0
        }
    };
    let best = (0..releases.len())
        .rev()
        .max_by_key(|n| fit(&releases[*n]))?;
    Some(releases.swap_remove(best))
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::io::Cursor;

    use super::*;

    /// An image in memory that notes what is asked for.
    struct Memory {
        bytes: Vec<u8>,
        knows_ranges: bool,
        ranges: RefCell<Vec<Range<u64>>>,
        streams: Cell<usize>,
    }

    impl Memory {
        fn new(bytes: Vec<u8>) -> Self {
            Self {
                bytes,
                knows_ranges: true,
                ranges: RefCell::default(),
                streams: Cell::new(0),
            }
        }

        fn release(&self, file: &str) -> Result<Option<String>, String> {
            match release_in(self, self.bytes.len() as u64, file) {
                Ok(found) => Ok(found.map(|text| String::from_utf8(text).unwrap())),
                Err(Failure::Image(why)) => Err(why),
                Err(Failure::Fetch(error)) => panic!("{}", error.line()),
            }
        }
    }

    impl Origin for Memory {
        fn name(&self) -> String {
            "memory".into()
        }

        fn part(&self, range: Range<u64>) -> Result<Part> {
            if !self.knows_ranges {
                return self.whole().map(Part::Whole);
            }
            self.ranges.borrow_mut().push(range.clone());
            let bytes = &self.bytes[range.start as usize..range.end as usize];
            Ok(Part::Range(bytes.to_vec()))
        }

        fn whole(&self) -> Result<Box<dyn Read + Send>> {
            self.streams.set(self.streams.get() + 1);
            Ok(Box::new(Cursor::new(self.bytes.clone())))
        }
    }

    const HELLO: &str = "ID=fedora\nVERSION_ID=\"42\"\nSYSEXT_LEVEL=2.0\nARCHITECTURE=x86-64\n";

    fn unpacked(packed: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(packed)
            .read_to_end(&mut bytes)
            .unwrap();
        bytes
    }

    macro_rules! image {
        ($name:literal) => {
            include_bytes!(concat!("../../tests/images/", $name))
        };
    }

    /// What tests/images/make has made.
    fn images() -> Vec<(&'static str, Vec<u8>)> {
        vec![
            ("squashfs, gzip", image!("gzip.squashfs").to_vec()),
            ("squashfs, xz", image!("xz.squashfs").to_vec()),
            (
                "squashfs, xz with a filter",
                image!("bcj.squashfs").to_vec(),
            ),
            ("squashfs, lz4", image!("lz4.squashfs").to_vec()),
            ("squashfs, zstd", image!("zstd.squashfs").to_vec()),
            ("squashfs, not packed", image!("plain.squashfs").to_vec()),
            ("squashfs, no fragments", image!("blocks.squashfs").to_vec()),
            ("erofs, plain", unpacked(image!("plain.erofs.gz"))),
            ("erofs, lz4", unpacked(image!("lz4.erofs.gz"))),
            ("erofs, tails packed", unpacked(image!("tails.erofs.gz"))),
            ("erofs, in chunks", unpacked(image!("chunks.erofs.gz"))),
            ("erofs, long inodes", unpacked(image!("extended.erofs.gz"))),
        ]
    }

    #[test]
    fn every_file_system_tells_its_release() {
        for (what, bytes) in images() {
            let image = Memory::new(bytes);
            assert_eq!(
                image.release("hello-1.raw"),
                Ok(Some(HELLO.to_owned())),
                "{what}"
            );
        }
    }
}
