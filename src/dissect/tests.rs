//! Images that tools made, and damaged ones.

use std::cell::RefCell;
use std::io::{Cursor, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::*;
use crate::fields::u64_at;
use crate::task;

/// An image in memory that notes what is asked for.
struct Memory {
    bytes: Vec<u8>,
    /// So many zeros lie before the byte with this number.
    hole: (u64, u64),
    knows_ranges: bool,
    requests: RefCell<Vec<u64>>,
}

impl Memory {
    fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            hole: (0, 0),
            knows_ranges: true,
            requests: RefCell::default(),
        }
    }

    fn release(&self, file: &str) -> Result<Option<String>, String> {
        let size = self.bytes.len() as u64 + self.hole.1;
        match release_in(self, size, file) {
            Ok(found) => Ok(found.map(|found| String::from_utf8_lossy(&found.text).into_owned())),
            Err(Failure::Image(why)) => Err(why),
            Err(Failure::Fetch(error)) => panic!("{}", error.line()),
        }
    }

    fn byte(&self, at: u64) -> u8 {
        let (start, length) = self.hole;
        match at {
            _ if at < start => self.bytes[at as usize],
            _ if at < start + length => 0,
            _ => self.bytes[(at - length) as usize],
        }
    }
}

impl Origin for Memory {
    fn name(&self) -> String {
        "memory".into()
    }

    fn source(&self) -> String {
        self.name()
    }

    fn part(&self, range: Range<u64>) -> Result<Part> {
        if !self.knows_ranges {
            return self.whole().map(Part::Whole);
        }
        self.requests.borrow_mut().push(range.end - range.start);
        if self.hole.1 == 0 {
            let bytes = self.bytes.iter().skip(range.start as usize);
            let length = (range.end - range.start) as usize;
            return Ok(Part::Range(bytes.take(length).copied().collect()));
        }
        Ok(Part::Range(range.map(|at| self.byte(at)).collect()))
    }

    fn whole(&self) -> Result<Box<dyn Read + Send>> {
        self.requests.borrow_mut().push(self.bytes.len() as u64);
        Ok(Box::new(Cursor::new(self.bytes.clone())))
    }
}

const HELLO: &str = "ID=fedora\nVERSION_ID=\"42\"\nSYSEXT_LEVEL=2.0\nARCHITECTURE=x86-64\n";

fn found() -> Result<Option<String>, String> {
    Ok(Some(HELLO.to_owned()))
}

fn unpacked(packed: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(packed)
        .read_to_end(&mut bytes)
        .unwrap();
    bytes
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

macro_rules! image {
    ($name:literal) => {
        include_bytes!(concat!("../../tests/images/", $name))
    };
}

const GZIP: &[u8] = image!("gzip.squashfs");

/// The images that tests/images/make has made.
fn images() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("squashfs, gzip", GZIP.to_vec()),
        ("squashfs, xz", image!("xz.squashfs").to_vec()),
        ("squashfs, xz, filtered", image!("bcj.squashfs").to_vec()),
        ("squashfs, lz4", image!("lz4.squashfs").to_vec()),
        ("squashfs, zstd", image!("zstd.squashfs").to_vec()),
        (
            "squashfs, not packed",
            unpacked(image!("plain.squashfs.gz")),
        ),
        ("squashfs, no tails", image!("blocks.squashfs").to_vec()),
        ("erofs, plain", unpacked(image!("plain.erofs.gz"))),
        ("erofs, lz4", unpacked(image!("lz4.erofs.gz"))),
        ("erofs, tails packed", unpacked(image!("tails.erofs.gz"))),
        ("erofs, in chunks", unpacked(image!("chunks.erofs.gz"))),
        ("erofs, zstd", unpacked(image!("zstd.erofs.gz"))),
        ("erofs, deflate", unpacked(image!("deflate.erofs.gz"))),
        ("erofs, lzma", unpacked(image!("lzma.erofs.gz"))),
        (
            "erofs, inodes packed",
            unpacked(image!("packed-inodes.erofs.gz")),
        ),
        ("erofs, long inodes", unpacked(image!("extended.erofs.gz"))),
    ]
}

/// A disk with these partitions, by their type.
fn disk(sector: usize, partitions: &[(&str, &[u8])]) -> Vec<u8> {
    let mut disk = vec![0; 64 << 10];
    disk[sector..sector + 8].copy_from_slice(b"EFI PART");
    disk[sector + 72..sector + 80].copy_from_slice(&2_u64.to_le_bytes());
    disk[sector + 80..sector + 84].copy_from_slice(&128_u32.to_le_bytes());
    disk[sector + 84..sector + 88].copy_from_slice(&128_u32.to_le_bytes());
    for (n, (kind, bytes)) in partitions.iter().enumerate() {
        let at = 2 * sector + n * 128;
        disk[at..at + 16].copy_from_slice(&gpt::bytes_of(kind));
        let first = (disk.len() / sector) as u64;
        disk.extend_from_slice(bytes);
        disk.resize(disk.len().next_multiple_of(sector), 0);
        let last = (disk.len() / sector) as u64 - 1;
        disk[at + 32..at + 40].copy_from_slice(&first.to_le_bytes());
        disk[at + 40..at + 48].copy_from_slice(&last.to_le_bytes());
    }
    disk
}

/// A header as GNU tar writes it, with one for a long name before it.
fn header_of(path: &str, kind: u8, size: usize) -> Vec<u8> {
    let mut before = Vec::new();
    if path.len() > 100 {
        before = header_of("././@LongLink", b'L', path.len() + 1);
        before.extend_from_slice(path.as_bytes());
        before.resize((before.len() + 1).next_multiple_of(512), 0);
    }
    let mut record = vec![0; 512];
    let name = &path.as_bytes()[..path.len().min(100)];
    record[..name.len()].copy_from_slice(name);
    record[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    record[156] = kind;
    record[257..265].copy_from_slice(b"ustar  \0");
    seal(&mut record);
    [before, record].concat()
}

/// Writes the checksum of a header.
fn seal(record: &mut [u8]) {
    record[148..156].fill(b' ');
    let sum: u32 = record.iter().map(|byte| u32::from(*byte)).sum();
    record[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// A tar of these files, as GNU tar writes it.
fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (path, bytes) in files {
        tar.extend_from_slice(&header_of(path, b'0', bytes.len()));
        tar.extend_from_slice(bytes);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

const ROOT: &str = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709";
const USR: &str = "8484680c-9521-48c6-9c11-b0720656f69e";
const VERITY: &str = "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5";

#[test]
fn every_kind_of_image_tells_its_release() {
    for (what, bytes) in images() {
        let mut forms = vec![
            ("as it is", bytes.clone()),
            ("on a disk", disk(512, &[(VERITY, b"hash"), (ROOT, &bytes)])),
            ("on a disk of 4 KiB sectors", disk(4096, &[(ROOT, &bytes)])),
            ("packed", gzipped(&bytes)),
            ("on a packed disk", gzipped(&disk(512, &[(ROOT, &bytes)]))),
        ];
        forms.push(("packed with zstd", zstd::encode_all(&*bytes, 3).unwrap()));
        for (form, bytes) in forms {
            for knows_ranges in [true, false] {
                let image = Memory {
                    knows_ranges,
                    ..Memory::new(bytes.clone())
                };
                assert_eq!(image.release("hello-1.raw"), found(), "{what}, {form}");
            }
        }
    }
}

#[test]
fn a_partition_for_usr_has_it_without_usr() {
    let usr = Memory::new(disk(512, &[(USR, image!("usr.squashfs")), (ROOT, GZIP)]));
    assert_eq!(usr.release("hello.raw"), Ok(Some("ID=_any\n".to_owned())));
    let both = Memory::new(disk(512, &[(USR, GZIP), (ROOT, GZIP)]));
    assert_eq!(both.release("hello.raw"), found(), "it is in the other one");
}

#[test]
fn an_archive_tells_its_release() {
    let path = "usr/lib/extension-release.d/extension-release.hello";
    let long = [vec![b'x'; 200], b"/file".to_vec()].concat();
    let long = String::from_utf8(long).unwrap();
    let big = vec![7; 3 << 20];
    for (why, files) in [
        ("alone", vec![(path, HELLO.as_bytes())]),
        (
            "behind others",
            vec![("a", b"1".as_slice()), (path, HELLO.as_bytes())],
        ),
        (
            "as ./usr",
            vec![(
                "./usr/lib/extension-release.d/extension-release.a",
                HELLO.as_bytes(),
            )],
        ),
        (
            "as /etc",
            vec![(
                "/etc/extension-release.d/extension-release.a",
                HELLO.as_bytes(),
            )],
        ),
        (
            "behind a big one",
            vec![("big", &big), (path, HELLO.as_bytes())],
        ),
        (
            "behind a long name",
            vec![(&long, b"1"), (path, HELLO.as_bytes())],
        ),
    ] {
        let tar = tar_of(&files);
        let packed = [
            tar.clone(),
            gzipped(&tar),
            zstd::encode_all(&*tar, 3).unwrap(),
        ];
        for bytes in packed {
            assert_eq!(Memory::new(bytes).release("hello.raw"), found(), "{why}");
        }
    }
    let big = Memory::new(tar_of(&[("big", &big), (path, HELLO.as_bytes())]));
    assert_eq!(big.release("hello.raw"), found());
    let asked: u64 = big.requests.borrow().iter().sum();
    assert!(
        asked < 1 << 20,
        "{asked} bytes, though most is a file of no interest"
    );
}

#[test]
fn a_tar_may_end_without_its_two_records_of_zeros() {
    let path = "usr/lib/extension-release.d/extension-release.hello";
    for files in [vec![("a", b"1".as_slice())], vec![("a", b"1"), (path, b"")]] {
        let expected = files.get(1).map(|_| String::new());
        let mut tar = tar_of(&files);
        tar.truncate(tar.len() - 1024);
        for bytes in [gzipped(&tar), tar] {
            let found = Memory::new(bytes).release("hello.raw");
            assert_eq!(found, Ok(expected.clone()));
        }
    }
}

#[test]
fn what_is_said_of_a_sparse_file_counts_for_no_other() {
    let path = "usr/lib/extension-release.d/extension-release.hello";
    let long = "x".repeat(120);
    let mut sparse = header_of(&long, b'S', 512);
    // More pieces than its header has room for: two records of a map, then the bytes.
    let header = sparse.len() - 512;
    sparse[header + 482] = 1;
    seal(&mut sparse[header..]);
    let mut map = vec![0; 2 * 512];
    map[504] = 1;
    let tar = [
        sparse,
        map,
        vec![7; 512],
        tar_of(&[(path, HELLO.as_bytes())]),
    ]
    .concat();
    for bytes in [gzipped(&tar), tar] {
        assert_eq!(Memory::new(bytes).release("hello.raw"), found());
    }
}

#[test]
fn xz_is_unpacked_too() {
    let image = Memory::new(image!("plain.squashfs.xz").to_vec());
    assert_eq!(image.release("hello.raw"), found());
    let image = Memory::new(image!("plain.squashfs.bz2").to_vec());
    let why = "it is packed with bzip2, which is not supported";
    assert_eq!(image.release("hello.raw"), Err(why.to_owned()));
}

/// Where the data of an image ends, and metadata begins.
fn squashfs_data_of(image: &[u8]) -> u64 {
    u64_at(image, 64)
}

/// An image whose metadata comes so many bytes later.
fn moved_squashfs(image: &[u8], distance: u64) -> Vec<u8> {
    let mut moved = image.to_vec();
    let mut add = |at: usize| {
        let place = u64_at(image, at);
        if place != u64::MAX {
            moved[at..at + 8].copy_from_slice(&(place + distance).to_le_bytes());
        }
    };
    (40..96).step_by(8).for_each(&mut add);
    // The blocks that the fragment table points to are metadata, too.
    add(u64_at(image, 80) as usize);
    moved
}

#[test]
fn a_large_image_costs_no_more_than_a_small_one() {
    let (size, data) = (512 << 20, squashfs_data_of(GZIP));
    let image = Memory {
        hole: (data, size),
        ..Memory::new(moved_squashfs(GZIP, size))
    };
    assert_eq!(image.release("hello.raw"), found());
    let requests = image.requests.borrow();
    assert!(requests.len() <= 3, "{requests:?}");
    assert!(requests.iter().sum::<u64>() <= 256 << 10, "{requests:?}");
}

#[test]
fn no_number_is_too_large_for_an_images_size() {
    let path = "usr/lib/extension-release.d/extension-release.hello";
    let rest = tar_of(&[(path, HELLO.as_bytes())]);
    // All but its end is one file, of the largest size that Linux knows.
    let size = i64::MAX as u64 / 512 * 512;
    let mut header = header_of("large", b'0', 0);
    header[124..128].copy_from_slice(&[0x80, 0, 0, 0]);
    header[128..136].copy_from_slice(&size.to_be_bytes());
    seal(&mut header);
    let image = Memory {
        hole: (512, size),
        ..Memory::new([header, rest].concat())
    };
    assert_eq!(image.release("hello.raw"), found());
}

#[test]
fn small_images_cost_two_round_trips_at_most() {
    for (what, bytes) in images() {
        let image = Memory::new(bytes);
        assert_eq!(image.release("hello.raw"), found(), "{what}");
        assert!(image.requests.borrow().len() <= 2, "{what}");
    }
}

#[test]
fn what_says_nothing_and_what_cannot_say_it_are_told_apart() {
    let nothing = [
        tar_of(&[("usr/bin/hello", b"1")]),
        disk(512, &[(USR, GZIP)]),
    ];
    for bytes in nothing {
        assert_eq!(Memory::new(bytes).release("hello.raw"), Ok(None));
    }
    let long = vec![b'#'; MAX_FILE + 1];
    let path = "usr/lib/extension-release.d/extension-release.a";
    for (bytes, why) in [
        (
            vec![],
            "it is not squashfs, erofs, a disk with a GPT, or tar",
        ),
        (
            b"MZ".to_vec(),
            "it is not squashfs, erofs, a disk with a GPT, or tar",
        ),
        (
            vec![0; 1 << 20],
            "it is not squashfs, erofs, a disk with a GPT, or tar",
        ),
        (
            gzipped(&gzipped(GZIP)),
            "it is not squashfs, erofs, a disk with a GPT, or tar",
        ),
        (
            disk(512, &[(ROOT, b"ext4"), (VERITY, GZIP)]),
            "it is a disk without a partition for / or /usr with squashfs or erofs in it",
        ),
        (
            tar_of(&[(path, &long)]),
            "extension-release.a has 65537 bytes, at most 65536 are read",
        ),
    ] {
        assert_eq!(Memory::new(bytes).release("a.raw"), Err(why.to_owned()));
    }
}

#[test]
fn an_archive_has_so_much_of_releases_and_no_more() {
    let text = vec![b'#'; MAX_FILE];
    let names: Vec<_> = (0..100)
        .map(|n| format!("usr/lib/extension-release.d/extension-release.{n:02}"))
        .collect();
    let files: Vec<_> = names.iter().map(|name| (&**name, &*text)).collect();
    let image = |files: &[_]| Memory::new(gzipped(&tar_of(files)));
    let several = image(&files[..15]).release("a.raw");
    assert_eq!(several, Ok(Some("#".repeat(MAX_FILE))));
    let why = "its extension-releases have more than 1048576 bytes, which is the limit";
    assert_eq!(image(&files).release("a.raw"), Err(why.to_owned()));
    // Names alone take memory, too.
    let empty: Vec<_> = (0..5000)
        .map(|n| format!("usr/lib/extension-release.d/extension-release.{n:0230}"))
        .collect();
    let files: Vec<_> = empty.iter().map(|name| (&**name, &b""[..])).collect();
    assert_eq!(image(&files).release("a.raw"), Err(why.to_owned()));
}

#[test]
fn of_several_releases_the_one_by_the_images_name_is_meant() {
    let names = ["b", "hello", "hello-world", "z"];
    for (file, expected) in [
        ("hello-1.raw", "hello"),
        ("hello-world-1.raw", "hello-world"),
        ("hello.raw", "hello"),
        ("other.raw", "b"),
    ] {
        let names: Vec<_> = names
            .iter()
            .map(|name| format!("{RELEASE}{name}"))
            .collect();
        let chosen = choose(names, |name| name, file);
        assert_eq!(chosen, Some(format!("{RELEASE}{expected}")), "{file}");
    }
    assert_eq!(choose(Vec::<String>::new(), |name| name, "a"), None);
}

#[test]
fn damaged_images_are_a_reason_and_no_more() {
    for (what, bytes) in images() {
        // Every byte of a superblock, and of the rest some.
        let squashfs = (0..96).chain((96..bytes.len()).step_by(101));
        let erofs = (1024..1152).chain((1152..bytes.len()).step_by(499));
        let places: Vec<_> = if bytes.starts_with(squashfs::MAGIC) {
            squashfs.collect()
        } else {
            erofs.collect()
        };
        for at in places {
            for flip in [0x01, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                let image = Memory::new(damaged);
                let _ = image.release("hello.raw"); // it may well not matter
                let fetched: u64 = image.requests.borrow().iter().sum();
                assert!(fetched <= 16 << 20, "{what}, {at} ^ {flip}: {fetched}");
            }
        }
    }
}

#[test]
fn a_body_that_ends_early_is_no_fault_of_the_image() {
    let tar = tar_of(&[("a", &[7; 100_000]), ("b", b"1")]);
    for (why, bytes) in [
        ("as it is", tar.clone()),
        ("gzip", gzipped(&tar)),
        ("zstd", zstd::encode_all(&*tar, 3).unwrap()),
        ("xz", image!("plain.squashfs.xz").to_vec()),
    ] {
        for knows_ranges in [true, false] {
            let image = Memory {
                knows_ranges,
                ..Memory::new(bytes[..bytes.len() / 2].to_vec())
            };
            match release_in(&image, bytes.len() as u64, "hello.raw") {
                Err(Failure::Fetch(Error::Broken { .. } | Error::WrongSize { .. })) => {}
                other => panic!("{why}, ranges {knows_ranges}: {other:?}"),
            }
        }
    }
}

#[test]
fn the_time_is_over_for_what_is_kept_too() {
    /// Whose bytes come before the time is over.
    struct Late(Memory, RefCell<Option<task::Restore>>);

    impl Origin for Late {
        fn name(&self) -> String {
            self.0.name()
        }

        fn source(&self) -> String {
            self.name()
        }

        fn part(&self, range: Range<u64>) -> Result<Part> {
            let part = self.0.part(range);
            *self.1.borrow_mut() = Some(task::within(Duration::ZERO));
            part
        }

        fn whole(&self) -> Result<Box<dyn Read + Send>> {
            self.0.whole()
        }
    }

    for (what, bytes) in images() {
        let size = bytes.len() as u64;
        let image = Late(Memory::new(bytes), RefCell::default());
        let found = release_in(&image, size, "hello.raw");
        let is_late = matches!(found, Err(Failure::Fetch(Error::TooSlow { .. })));
        assert!(is_late, "{what}: {found:?}");
        assert_eq!(image.0.requests.borrow().len(), 1, "{what}");
    }
}

#[test]
fn erofs_is_given_no_more_time_than_others() {
    let bytes = unpacked(image!("lz4.erofs.gz"));
    let image = Memory::new(bytes);
    let mut reader = RangeReader::new(&image, image.bytes.len() as u64);
    let mut files = Erofs::open(Region::whole(&mut reader)).unwrap();
    assert!(!files.releases(FOLDERS[0]).unwrap().is_empty());
    let _limit = task::within(Duration::ZERO);
    let found = files.releases(FOLDERS[0]).map(|found| found.len());
    let is_late = matches!(found, Err(Failure::Fetch(Error::TooSlow { .. })));
    assert!(is_late, "{found:?}");
}

#[test]
fn few_images_are_looked_into_at_once() {
    /// Counts those who ask for it.
    #[derive(Default)]
    struct Counting {
        now: AtomicUsize,
        most: AtomicUsize,
    }

    impl Origin for Counting {
        fn name(&self) -> String {
            "counting".into()
        }

        fn source(&self) -> String {
            self.name()
        }

        fn part(&self, range: Range<u64>) -> Result<Part> {
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(20));
            self.now.fetch_sub(1, Ordering::SeqCst);
            Ok(Part::Range(vec![0; (range.end - range.start) as usize]))
        }

        fn whole(&self) -> Result<Box<dyn Read + Send>> {
            Ok(Box::new(Cursor::new(Vec::new())))
        }
    }

    let (image, name) = (Counting::default(), "a.raw".parse().unwrap());
    let look = || metadata(&image, Digest::of(b""), 100, None, &name);
    thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| assert!(matches!(look(), Err(Error::BadImage { .. }))));
        }
    });
    assert!(image.most.into_inner() <= 4);
}

#[test]
fn images_that_are_cut_off_are_a_reason_and_no_more() {
    for (what, bytes) in images() {
        let packed = gzipped(&bytes);
        for whole in [&bytes, &packed] {
            for length in (0..whole.len()).step_by(whole.len() / 50) {
                let image = Memory::new(whole[..length].to_vec());
                if let Ok(release) = image.release("hello.raw") {
                    // The missing bytes were not needed.
                    assert_eq!(release.as_deref(), Some(HELLO), "{what}, {length}");
                }
            }
        }
    }
}
