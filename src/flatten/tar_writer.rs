//! Writes the files of an image as a `.tar.gz`, with the same bytes on every machine and run.
//!
//! The archive is in PAX form (pax(1) of POSIX.1-2017), which GNU tar, libarchive and Go read alike. A header that needs
//! no extension is a plain ustar header. The archive is stored, not compressed: it goes over loopback only, and no version
//! of a compressor can change the bytes.

use std::io::{self, Read, Write};
use std::ops::Range;

use flate2::Crc;

use super::change::NodeKind;
use super::tree::Node;
use crate::tar::{Attributes, BLOCK, Header, Time};

/// Largest number in twelve bytes of a header.
const MAX_NUMBER: u64 = 0o77_777_777_777;
/// Largest block that gzip can store, and the size of its head: whether it is the last one, and twice its length.
const STORED: usize = 0xffff;
const BLOCK_HEAD: usize = 5;

/// An archive being written.
pub struct Archive<W> {
    out: Stored<W>,
}

impl<W: Write> Archive<W> {
    pub fn new(out: W) -> io::Result<Self> {
        let out = Stored::new(out)?;
        Ok(Self { out })
    }

    /// Adds a file. `earlier`: a name of it that was added before. `bytes`: its contents, if it has no earlier name.
    pub fn add(
        &mut self,
        path: &[u8],
        node: Node<'_>,
        earlier: Option<&[u8]>,
        bytes: impl Read,
    ) -> io::Result<()> {
        self.out.write_all(&header(path, node, earlier))?;
        let size = match (node.kind, earlier) {
            (NodeKind::File(content), None) => content.size,
            _ => return Ok(()),
        };
        self.out.copy(bytes, size)?;
        let padding = size.wrapping_neg() % BLOCK as u64;
        self.out.write_all(&[0; BLOCK][..padding as usize])
    }

    pub fn finish(mut self) -> io::Result<()> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.finish()
    }
}

/// The header of a file, after an extended header if it needs one.
fn header(path: &[u8], node: Node<'_>, earlier: Option<&[u8]>) -> Vec<u8> {
    let Attributes {
        mode,
        uid,
        gid,
        modified,
        xattrs,
    } = node.attributes;
    let mut records = Records::default();
    let mut block = Block::default();
    let (kind, link, size) = match (node.kind, earlier) {
        (_, Some(earlier)) => (b'1', earlier, 0),
        (NodeKind::File(content), _) => (b'0', &b""[..], content.size),
        (NodeKind::Symlink(target), _) => (b'2', &**target, 0),
        (NodeKind::CharacterDevice(major, minor), _) => {
            block.device(*major, *minor);
            (b'3', &b""[..], 0)
        }
        (NodeKind::BlockDevice(major, minor), _) => {
            block.device(*major, *minor);
            (b'4', &b""[..], 0)
        }
        (NodeKind::Directory, _) => (b'5', &b""[..], 0),
        (NodeKind::Fifo, _) => (b'6', &b""[..], 0),
    };
    match (node.kind, path) {
        (NodeKind::Directory, b"") => block.path(b"./", &mut records),
        (NodeKind::Directory, path) => block.path(&[path, b"/"].concat(), &mut records),
        (_, path) => block.path(path, &mut records),
    }
    block.octal(Header::MODE, u64::from(*mode));
    block.octal(
        Header::UID,
        records.fit("uid", u64::from(*uid), 0o7_777_777),
    );
    block.octal(
        Header::GID,
        records.fit("gid", u64::from(*gid), 0o7_777_777),
    );
    block.octal(Header::SIZE, records.fit("size", size, MAX_NUMBER));
    block.octal(Header::MODIFIED, records.time(*modified));
    block.link(link, &mut records);
    // Programs that unpack a hard link give the file another name, and ignore the rest of its entry.
    for (name, value) in xattrs.iter().filter(|_| earlier.is_none()) {
        records.add(&[b"SCHILY.xattr.", name].concat(), value);
    }
    let mut bytes = records.header();
    bytes.extend(block.finish(kind));
    bytes
}

/// A header being written.
struct Block([u8; BLOCK]);

impl Default for Block {
    fn default() -> Self {
        Self([0; BLOCK])
    }
}

impl Block {
    /// Writes to the start of a field.
    fn put(&mut self, field: Range<usize>, bytes: &[u8]) {
        self.0[field][..bytes.len()].copy_from_slice(bytes);
    }

    /// Fills a field with a number in octal digits, and a NUL.
    fn octal(&mut self, field: Range<usize>, number: u64) {
        let text = format!("{number:0width$o}\0", width = field.len() - 1);
        self.put(field, text.as_bytes());
    }

    fn device(&mut self, major: u32, minor: u32) {
        self.octal(Header::MAJOR, u64::from(major));
        self.octal(Header::MINOR, u64::from(minor));
    }

    /// Writes a path. One that does not fit is written as a record, too.
    fn path(&mut self, path: &[u8], records: &mut Records) {
        match split(path) {
            Some((prefix, name)) => {
                self.put(Header::PREFIX, prefix);
                self.put(Header::NAME, name);
            }
            None => {
                self.put(Header::NAME, &path[..100]);
                records.text("path", path);
            }
        }
    }

    fn link(&mut self, target: &[u8], records: &mut Records) {
        self.put(Header::LINK, &target[..target.len().min(100)]);
        if target.len() > 100 {
            records.text("linkpath", target);
        }
    }

    /// The header with its checksum: the sum of all bytes, where its own are blanks.
    fn finish(mut self, kind: u8) -> [u8; BLOCK] {
        self.0[Header::KIND] = kind;
        self.put(257..265, b"ustar\x0000");
        self.put(Header::CHECKSUM, &[b' '; 8]);
        let sum = self.0.iter().map(|byte| u64::from(*byte)).sum();
        self.octal(Header::CHECKSUM.start..Header::CHECKSUM.end - 1, sum);
        self.0
    }
}

/// Splits a path into the prefix and the name of a ustar header, at a slash. `None` if it does not fit.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= 100 {
        return Some((b"", path));
    }
    // A directory's last slash is a part of its name.
    let slashes = (1..path.len() - 1).filter(|at| path[*at] == b'/');
    slashes
        .map(|at| (&path[..at], &path[at + 1..]))
        .find(|(prefix, name)| prefix.len() <= 155 && name.len() <= 100)
}

/// The records of an extended header.
#[derive(Default)]
struct Records {
    bytes: Vec<u8>,
    is_binary: bool,
}

impl Records {
    /// `<length> <keyword>=<value>\n`, where the length counts itself.
    fn add(&mut self, keyword: &[u8], value: &[u8]) {
        let rest = keyword.len() + value.len() + 3;
        let mut length = rest;
        while rest + length.to_string().len() != length {
            length = rest + length.to_string().len();
        }
        let length = length.to_string();
        let record = [length.as_bytes(), b" ", keyword, b"=", value, b"\n"].concat();
        self.bytes.extend(record);
    }

    /// A path. One that is not UTF-8 must be announced, or libarchive takes it for UTF-8.
    fn text(&mut self, keyword: &str, value: &[u8]) {
        if std::str::from_utf8(value).is_err() && !self.is_binary {
            self.add(b"hdrcharset", b"BINARY");
            self.is_binary = true;
        }
        self.add(keyword.as_bytes(), value);
    }

    /// The number for the header. One that does not fit becomes a record, and zero in the header.
    fn fit(&mut self, keyword: &str, number: u64, largest: u64) -> u64 {
        if number <= largest {
            return number;
        }
        self.add(keyword.as_bytes(), number.to_string().as_bytes());
        0
    }

    /// The time for the header. One that the header cannot hold exactly becomes a record, too.
    fn time(&mut self, time: Time) -> u64 {
        let seconds = u64::try_from(time.seconds).ok();
        let seconds = seconds.filter(|seconds| *seconds <= MAX_NUMBER);
        if seconds.is_none() || time.nanoseconds > 0 {
            self.add(b"mtime", time.decimal().as_bytes());
        }
        seconds.unwrap_or(0)
    }

    /// The extended header, if there are records.
    fn header(self) -> Vec<u8> {
        if self.bytes.is_empty() {
            return Vec::new();
        }
        let mut block = Block::default();
        block.put(Header::NAME, b"././@PaxHeader");
        block.octal(Header::MODE, 0o644);
        for field in [Header::UID, Header::GID, Header::MODIFIED] {
            block.octal(field, 0);
        }
        block.octal(Header::SIZE, self.bytes.len() as u64);
        let mut bytes = [&block.finish(b'x')[..], &self.bytes].concat();
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }
}

/// gzip without compression (RFC 1952, RFC 1951 §3.2.4).
struct Stored<W> {
    out: W,
    crc: Crc,
    /// The head of a block, and its bytes.
    block: Vec<u8>,
    /// Where the next byte goes in it.
    end: usize,
}

impl<W: Write> Stored<W> {
    fn new(mut out: W) -> io::Result<Self> {
        // Deflate, no flags, no time, no level, an unknown system.
        out.write_all(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255])?;
        Ok(Self {
            out,
            crc: Crc::new(),
            block: vec![0; BLOCK_HEAD + STORED],
            end: BLOCK_HEAD,
        })
    }

    /// Writes the first `size` bytes of a reader.
    fn copy(&mut self, mut bytes: impl Read, size: u64) -> io::Result<()> {
        let mut left = size;
        while left > 0 {
            if self.end == self.block.len() {
                self.write_block(false)?;
            }
            let room = &mut self.block[self.end..];
            let most = room.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let n = bytes.read(&mut room[..most])?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.crc.update(&room[..n]);
            self.end += n;
            left -= n as u64;
        }
        Ok(())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.copy(bytes, bytes.len() as u64)
    }

    fn write_block(&mut self, is_last: bool) -> io::Result<()> {
        let length = u16::try_from(self.end - BLOCK_HEAD).unwrap_or(u16::MAX);
        self.block[0] = u8::from(is_last);
        self.block[1..3].copy_from_slice(&length.to_le_bytes());
        self.block[3..5].copy_from_slice(&(!length).to_le_bytes());
        self.out.write_all(&self.block[..self.end])?;
        self.end = BLOCK_HEAD;
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        self.write_block(true)?;
        self.out.write_all(&self.crc.sum().to_le_bytes())?;
        self.out.write_all(&self.crc.amount().to_le_bytes())?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use flate2::read::GzDecoder;

    use super::*;
    use crate::flatten::change::Content;
    use crate::tar::Members;
    use crate::tar::{Entry, Kind, Piece, Xattrs};

    /// A path, what is there, and an earlier name of it.
    type Named<'a> = (&'a [u8], &'a Owned, Option<&'a [u8]>);

    /// A file that nothing else has.
    struct Owned {
        kind: NodeKind,
        attributes: Attributes,
    }

    impl Owned {
        fn node(&self) -> Node<'_> {
            Node {
                kind: &self.kind,
                attributes: &self.attributes,
                layer: 0,
            }
        }
    }

    /// Packs files that all have these bytes.
    fn pack(files: &[Named<'_>], bytes: &[u8], out: impl Write) -> io::Result<()> {
        let mut archive = Archive::new(out)?;
        for (path, owned, earlier) in files {
            archive.add(path, owned.node(), *earlier, bytes)?;
        }
        archive.finish()
    }

    fn attributes() -> Attributes {
        Attributes {
            mode: 0o644,
            uid: 1,
            gid: 2,
            modified: Time {
                seconds: 3,
                nanoseconds: 0,
            },
            xattrs: Xattrs::default(),
        }
    }

    fn node(kind: NodeKind) -> Owned {
        Owned {
            kind,
            attributes: attributes(),
        }
    }

    fn file(size: u64) -> Owned {
        node(NodeKind::File(Content { offset: 0, size }))
    }

    /// Whether there is an extended header. The headers are read back the same either way.
    fn is_extended(path: &[u8], node: &Owned, earlier: Option<&[u8]>) -> bool {
        let header = header(path, (node).node(), earlier);
        let archive = [&header[..], &[0; 2 * BLOCK]].concat();
        let entry = Members::new(&*archive).next_entry().unwrap().unwrap();
        let kind = match (&node.kind, earlier) {
            (_, Some(earlier)) => Kind::HardLink(earlier.to_vec()),
            (NodeKind::File(Content { size, .. }), _) => {
                let (offset, size) = (0, *size);
                let pieces = vec![Piece { offset, size }];
                Kind::File { size, pieces }
            }
            (NodeKind::Directory, _) => Kind::Directory,
            (NodeKind::Symlink(target), _) => Kind::Symlink(target.to_vec()),
            (NodeKind::CharacterDevice(x, y), _) => Kind::CharacterDevice(*x, *y),
            (NodeKind::BlockDevice(x, y), _) => Kind::BlockDevice(*x, *y),
            (NodeKind::Fifo, _) => Kind::Fifo,
        };
        let expected = Entry {
            path: path.to_vec(),
            kind,
            attributes: node.attributes.clone(),
        };
        assert_eq!(entry, expected);
        header.len() > BLOCK
    }

    #[test]
    fn a_path_has_an_extended_header_if_it_fits_nowhere_else() {
        let name = |length: usize| "n".repeat(length);
        for (path, expected) in [
            (name(99), false),
            (name(100), false),
            (name(101), true),
            (format!("{}/{}", name(155), name(100)), false),
            (format!("{}/{}", name(156), name(100)), true),
            (format!("{}/{}", name(155), name(101)), true),
            (format!("{}/{}/{}", name(100), name(54), name(100)), false),
            (format!("{}/{}/{}", name(100), name(55), name(100)), true),
            (format!("a/{}", name(100)), false),
            (["a"; 129].join("/"), true),
            (["a"; 128].join("/"), false),
        ] {
            let is_so = is_extended(path.as_bytes(), &file(0), None);
            assert_eq!(is_so, expected, "{} bytes: {path}", path.len());
        }
        // A directory's name has a slash at its end.
        let directory = node(NodeKind::Directory);
        for (path, expected) in [
            (String::new(), false),
            (name(99), false),
            (name(100), true),
            (format!("{}/{}", name(155), name(99)), false),
            (format!("{}/{}", name(155), name(100)), true),
        ] {
            let is_so = is_extended(path.as_bytes(), &directory, None);
            assert_eq!(is_so, expected, "{} bytes: {path}", path.len());
        }
        for (length, expected) in [(100, false), (101, true), (4096, true)] {
            let target = name(length).into_bytes();
            let symlink = node(NodeKind::Symlink(target.clone().into()));
            assert_eq!(is_extended(b"s", &symlink, None), expected, "{length}");
            if length < 256 {
                assert_eq!(
                    is_extended(b"s", &file(0), Some(&target)),
                    expected,
                    "{length}"
                );
            }
        }
    }

    #[test]
    fn a_number_has_an_extended_header_if_its_field_is_too_short() {
        for (size, expected) in [
            (0, false),
            ((8 << 30) - 1, false),
            (8 << 30, true),
            (1 << 62, true),
        ] {
            assert_eq!(is_extended(b"f", &file(size), None), expected, "{size}");
        }
        for (id, expected) in [
            (0, false),
            (2_097_151, false),
            (2_097_152, true),
            (0xffff_fffe, true),
        ] {
            let (mut of_user, mut of_group) = (file(1), file(1));
            of_user.attributes.uid = id;
            of_group.attributes.gid = id;
            assert_eq!(is_extended(b"f", &of_user, None), expected, "{id}");
            assert_eq!(is_extended(b"f", &of_group, None), expected, "{id}");
        }
        for (seconds, nanoseconds, expected) in [
            (0, 0, false),
            (0o77_777_777_777, 0, false),
            (0o100_000_000_000, 0, true),
            (i64::MAX, 999_999_999, true),
            (0, 1, true),
            (1, 500_000_000, true),
            (-1, 0, true),
            (-1, 1, true),
            (-2, 750_000_000, true),
            (i64::MIN + 1, 0, true),
        ] {
            let mut node = file(1);
            node.attributes.modified = Time {
                seconds,
                nanoseconds,
            };
            let is_so = is_extended(b"f", &node, None);
            assert_eq!(is_so, expected, "{seconds} {nanoseconds}");
        }
        for kind in [
            NodeKind::CharacterDevice(4095, 1_048_575),
            NodeKind::BlockDevice(8, 0),
            NodeKind::Fifo,
        ] {
            assert!(!is_extended(b"d", &node(kind.clone()), None), "{kind:?}");
        }
    }

    #[test]
    fn xattrs_come_back_byte_for_byte() {
        let mut node = file(0);
        for (name, value) in [
            (&b"user.a"[..], &b""[..]),
            (b"user.b", b"1\n2=3\n"),
            (b"user.c", &[0, 255, 10, 61]),
            (b"security.capability", &[1; 20]),
            (b"user.\xff", b"name"),
            (b"user.large", &[b'x'; 65_536]),
        ] {
            node.attributes.xattrs.insert(name.to_vec(), value.to_vec());
        }
        assert!(is_extended(b"f", &node, None));
        // The length of a record counts its own digits: every length around where one is added.
        for length in (60..100).chain(950..1000).chain(9950..10_000) {
            let mut node = file(0);
            node.attributes
                .xattrs
                .insert(b"user.x".to_vec(), vec![b'v'; length]);
            assert!(is_extended(b"f", &node, None));
        }
    }

    #[test]
    fn names_that_are_no_utf_8_are_announced_once() {
        let (path, target) = ([0xff; 101], [0xfe; 101]);
        let symlink = node(NodeKind::Symlink(target.into()));
        assert!(is_extended(&path, &symlink, None));
        let header = header(&path, symlink.node(), None);
        let is_announced = |at: &[u8]| at == b"21 hdrcharset=BINARY\n";
        assert_eq!(header.windows(21).filter(|at| is_announced(at)).count(), 1);
        assert!(is_announced(&header[BLOCK..][..21]));
    }

    #[test]
    fn the_xattrs_of_a_file_stand_at_its_first_name_alone() {
        let mut node = file(0);
        node.attributes
            .xattrs
            .insert(b"user.large".to_vec(), vec![b'x'; 60_000]);
        assert!(header(b"a", node.node(), None).len() > 60_000);
        assert_eq!(header(b"b", node.node(), Some(b"a")).len(), BLOCK);
    }

    fn stored(bytes: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        let mut out = Stored::new(&mut packed).unwrap();
        out.write_all(bytes).unwrap();
        out.finish().unwrap();
        packed
    }

    #[test]
    fn stored_bytes_unpack_around_every_boundary() {
        for (length, blocks) in [
            (0, 1),
            (1, 1),
            (65_534, 1),
            (65_535, 1),
            (65_536, 2),
            (65_537, 2),
            (131_070, 2),
            (131_071, 3),
            (1_000_000, 16),
        ] {
            let bytes: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            let packed = stored(&bytes);
            assert_eq!(packed.len(), length + 18 + 5 * blocks, "{length}");
            let mut found = Vec::new();
            GzDecoder::new(&*packed).read_to_end(&mut found).unwrap();
            assert!(found == bytes, "{length}");
        }
        // However they come.
        let bytes: Vec<u8> = (0..200_000).map(|n| (n % 251) as u8).collect();
        for piece in [1000, 65_535, 65_536, 70_000] {
            let mut packed = Vec::new();
            let mut out = Stored::new(&mut packed).unwrap();
            for piece in bytes.chunks(piece) {
                out.write_all(piece).unwrap();
            }
            out.finish().unwrap();
            assert!(packed == stored(&bytes), "{piece}");
        }
    }

    #[test]
    fn the_bytes_are_what_they_always_were() {
        // Sums are remembered: bytes may only change together with the key of a recipe.
        let mut with_xattr = file(3);
        with_xattr
            .attributes
            .xattrs
            .insert(b"user.a".to_vec(), b"b".to_vec());
        let directory = node(NodeKind::Directory);
        let symlink = node(NodeKind::Symlink(b"d/f"[..].into()));
        let files: [Named<'_>; 4] = [
            (b"", &directory, None),
            (b"d", &directory, None),
            (b"d/f", &with_xattr, None),
            (b"s", &symlink, None),
        ];
        let mut packed = Vec::new();
        pack(&files, b"abc", &mut packed).unwrap();
        let digest = crate::digest::Digest::of(&packed).to_string();
        assert_eq!(
            digest,
            "sha256:974cf38f2abcfff1336aa201daf8657d086490984db6b2899e9bdb95b26544ac"
        );
    }

    #[test]
    fn a_file_that_is_shorter_than_it_was_is_an_error() {
        let file = file(4);
        let files: [Named<'_>; 1] = [(b"f", &file, None)];
        let end = pack(&files, b"abc", Vec::new());
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    /// Another program's eyes on it: the `tar` crate shares nothing with what wrote it.
    #[test]
    fn others_read_the_same() {
        let long = "n".repeat(300);
        let (first, hard) = (file(3), file(3));
        let symlink = node(NodeKind::Symlink(long.as_bytes().into()));
        let files: [Named<'_>; 3] = [
            (b"a", &first, None),
            (b"b", &hard, Some(b"a")),
            (long.as_bytes(), &symlink, None),
        ];
        let mut packed = Vec::new();
        pack(&files, b"abc", &mut packed).unwrap();
        let mut archive = tar::Archive::new(GzDecoder::new(&*packed));
        let mut found = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = String::new();
            entry.read_to_string(&mut bytes).unwrap();
            let link = entry.link_name_bytes().map(|name| name.len());
            let path = entry.path_bytes().len();
            found.push((entry.header().entry_type().as_byte(), path, link, bytes));
        }
        assert_eq!(
            found,
            [
                (b'0', 1, None, "abc".to_owned()),
                (b'1', 1, Some(1), String::new()),
                (b'2', 300, Some(300), String::new()),
            ]
        );
    }
}
