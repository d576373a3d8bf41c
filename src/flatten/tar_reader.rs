//! A tar archive → its entries, one after the other.
//!
//! No crate's reader: those that there are take an extended header of any size into memory, end a record's value at a
//! newline, or know no sparse files in PAX form.

use std::io::{self, ErrorKind, Read};
use std::mem;
use std::ops::Range;

use super::entry::{
    Attributes, Entry, Kind, MAX_NAME, MAX_PATH, Piece, Time, Xattrs, checked_path,
};
use crate::tar_header::{BLOCK, Header, decimal, number, records, show, split_once, until_nul};

/// Most bytes of extended headers and long names before one entry. Linux allows 64 KiB for the names of a file's xattrs
/// and for the value of each (linux/limits.h).
const MAX_EXTENDED: u64 = 1 << 20;
/// Largest parts of a device's number: Linux has twelve bits for one and twenty for the other.
const MAX_MAJOR: i64 = 0xfff;
const MAX_MINOR: i64 = 0xf_ffff;
/// Largest owner or group. Linux has 32 bits, all ones of which mean none (chown(2)).
const MAX_OWNER: u32 = 0xffff_fffe;
/// Most pieces of data in one sparse file.
const MAX_PIECES: usize = 64 << 10;
/// A piece of a sparse file takes so many bytes in a header of GNU's oldest form: twice twelve.
const OLD_PIECE: usize = 24;
const BAD_MAP: &str = "its map of a sparse file makes no sense";
/// The prefix of a record that is an xattr.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// Why reading ended.
#[derive(Debug)]
pub enum Failure {
    /// The archive could not be read.
    Read(io::Error),
    /// The archive cannot be used.
    Refused(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self::Refused(why)
    }
}

fn refused<T>(why: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Refused(why.into()))
}

/// Reads an archive. Its own bytes, as a [`Read`], are the data of the last entry, piece after piece.
pub struct Entries<R> {
    archive: R,
    /// Bytes of the last entry's data that are still to be read, and of the padding after them.
    left: u64,
    padding: u64,
    has_odd_paths: bool,
}

impl<R: Read> Read for Entries<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.archive.by_ref().take(self.left).read(buffer)?;
        if n == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.left -= n as u64;
        Ok(n)
    }
}

impl<R: Read> Entries<R> {
    pub fn new(archive: R) -> Self {
        Self {
            archive,
            left: 0,
            padding: 0,
            has_odd_paths: false,
        }
    }

    /// Whether a path, or the target of a hard link, was absolute or had `..` in it. [`Entry::path`] is below the root
    /// all the same.
    pub fn has_odd_paths(&self) -> bool {
        self.has_odd_paths
    }

    /// The next entry. Data of the last one that were not read are skipped.
    pub fn next(&mut self) -> Result<Option<Entry>, Failure> {
        let mut extended = Extended::default();
        let mut allowed = MAX_EXTENDED;
        loop {
            self.skip()?;
            let header = self.block()?.map(Header::parse).transpose()?.flatten();
            let Some(header) = header else {
                if allowed == MAX_EXTENDED {
                    return Ok(None);
                }
                return refused("it ends after an extended header, before what that is of");
            };
            self.expect(header.number(Header::SIZE)?)?;
            match header.kind() {
                b'x' => {
                    for record in records(&self.extension(&mut allowed)?) {
                        let (keyword, value) = record?;
                        extended.add(keyword, value)?;
                    }
                }
                // Records for all entries that follow. Nothing that matters here is written there.
                b'g' => {}
                b'L' => extended.path = Some(self.long_name(&mut allowed)?),
                b'K' => extended.link = Some(self.long_name(&mut allowed)?),
                _ => return self.entry(&header, extended).map(Some),
            }
        }
    }

    /// The rest of the archive.
    pub fn into_inner(self) -> R {
        self.archive
    }

    /// Reads all that follows the end of the archive, for the digest is of that, too.
    pub fn drain(&mut self) -> io::Result<()> {
        io::copy(&mut self.archive, &mut io::sink()).map(drop)
    }

    /// Expects so many bytes of data to follow.
    fn expect(&mut self, size: u64) -> Result<(), String> {
        if i64::try_from(size).is_err() {
            return Err(format!("a size of {size} bytes makes no sense"));
        }
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
        Ok(())
    }

    fn skip(&mut self) -> io::Result<()> {
        let bytes = mem::take(&mut self.left) + mem::take(&mut self.padding);
        let mut skipped = self.archive.by_ref().take(bytes);
        if io::copy(&mut skipped, &mut io::sink())? < bytes {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// The next block; `None` where the archive ends before it.
    fn block(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut block = Vec::with_capacity(BLOCK);
        let mut archive = self.archive.by_ref().take(BLOCK as u64);
        archive.read_to_end(&mut block)?;
        match block.try_into() {
            Ok(block) => Ok(Some(block)),
            Err(rest) if rest.is_empty() => Ok(None),
            Err(_) => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    /// The data of an extended header. `allowed`: how many bytes of such there may be still.
    fn extension(&mut self, allowed: &mut u64) -> Result<Vec<u8>, Failure> {
        let size = self.left;
        let Some(rest) = allowed.checked_sub(size) else {
            return refused(format!(
                "an extended header of {size} bytes, at most {MAX_EXTENDED} are read for one entry"
            ));
        };
        *allowed = rest;
        let mut bytes = vec![0; size as usize];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn long_name(&mut self, allowed: &mut u64) -> Result<Vec<u8>, Failure> {
        Ok(until_nul(&self.extension(allowed)?).to_vec())
    }

    fn entry(&mut self, header: &Header, mut extended: Extended) -> Result<Entry, Failure> {
        let name = extended.sparse.name.take().or(extended.path.take());
        let name = name.unwrap_or_else(|| header.path());
        let path = self.path(&name)?;
        if let Some(size) = extended.size {
            self.expect(size)?;
        }
        let of_path = |failure| match failure {
            Failure::Refused(why) => Failure::Refused(format!("{}: {why}", show(&path))),
            failure => failure,
        };
        let is_file = matches!(header.kind(), 0 | b'0' | b'7');
        let kind = match is_file && name.ends_with(b"/") {
            // Before POSIX a directory was a file whose name ends in a slash.
            true => Kind::Directory,
            false => self.kind(header, &extended).map_err(of_path)?,
        };
        // Some programs write a size for what has no data.
        if !is_file && !matches!(kind, Kind::File { .. }) {
            self.expect(0)?;
        }
        let attributes = extended
            .attributes(header)
            .map_err(|why| of_path(why.into()))?;
        Ok(Entry {
            path,
            kind,
            attributes,
        })
    }

    fn path(&mut self, raw: &[u8]) -> Result<Vec<u8>, String> {
        let mut components = raw.split(|byte| *byte == b'/');
        self.has_odd_paths |=
            raw.starts_with(b"/") || components.any(|component| component == b"..");
        checked_path(raw)
    }

    fn kind(&mut self, header: &Header, extended: &Extended) -> Result<Kind, Failure> {
        let link = || {
            let link = extended.link.clone();
            link.unwrap_or_else(|| header.text(Header::LINK).to_vec())
        };
        Ok(match header.kind() {
            0 | b'0' | b'7' | b'S' => self.file(header, &extended.sparse)?,
            b'1' => Kind::HardLink(self.path(&link())?),
            b'2' => match link() {
                target if target.is_empty() || target.contains(&0) || target.len() > MAX_PATH => {
                    return refused("a symlink to nowhere");
                }
                target => Kind::Symlink(target),
            },
            b'3' => {
                let (major, minor) = device(header)?;
                Kind::CharacterDevice(major, minor)
            }
            b'4' => {
                let (major, minor) = device(header)?;
                Kind::BlockDevice(major, minor)
            }
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return refused(format!("an entry of unknown type {}", show(&[other]))),
        })
    }

    /// A file, with its map if it is sparse.
    fn file(&mut self, header: &Header, sparse: &Sparse) -> Result<Kind, Failure> {
        let (size, pieces) = if header.kind() == b'S' {
            (header.number(Header::REAL_SIZE)?, self.old_map(header)?)
        } else if sparse.version == (1, 0) {
            (sparse.size, self.map_in_data()?)
        } else if !sparse.map.is_empty() {
            (sparse.size, pairs(&sparse.map)?)
        } else {
            let (offset, size) = (0, self.left);
            let pieces = vec![Piece { offset, size }];
            return Ok(Kind::File { size, pieces });
        };
        // Pieces come in order, lie in the file and have all the data there is.
        let (mut end, mut data) = (0, 0_u64);
        for piece in &pieces {
            let next = piece.offset.checked_add(piece.size);
            match next.filter(|next| piece.offset >= end && *next <= size) {
                Some(next) => end = next,
                None => return refused(BAD_MAP),
            }
            data += piece.size;
        }
        if data != self.left {
            return refused(format!(
                "its map of a sparse file has {data} bytes, the archive {}",
                self.left
            ));
        }
        Ok(Kind::File { size, pieces })
    }

    /// The map in GNU's oldest form: four pieces in the header, and more in blocks after it.
    fn old_map(&mut self, header: &Header) -> Result<Vec<Piece>, Failure> {
        let mut pieces = Vec::new();
        add_old_pieces(&mut pieces, header.bytes(Header::PIECES))?;
        let mut goes_on = header.has_more_pieces();
        while goes_on {
            let Some(block) = self.block()? else {
                return Err(Failure::Read(ErrorKind::UnexpectedEof.into()));
            };
            add_old_pieces(&mut pieces, &block[Header::MORE_PIECES])?;
            goes_on = block[Header::HAS_EVEN_MORE_PIECES] != 0;
        }
        Ok(pieces)
    }

    /// The map in PAX form 1.0: decimal numbers, a line each, before the data, in whole blocks.
    fn map_in_data(&mut self) -> Result<Vec<Piece>, Failure> {
        let (mut text, mut numbers) = (Vec::new(), Vec::new());
        loop {
            while let Some((line, rest)) = split_once(&text, b'\n') {
                numbers.push(decimal(line)?);
                text = rest.to_vec();
                let count = check_count(usize::try_from(numbers[0]).unwrap_or(usize::MAX))?;
                if numbers.len() == 2 * count + 1 {
                    return Ok(pairs(&numbers[1..])?);
                }
            }
            if self.left < BLOCK as u64 {
                return refused("its map of a sparse file ends too soon");
            }
            let mut block = [0; BLOCK];
            self.read_exact(&mut block)?;
            text.extend(block);
            // A number has twenty digits at most.
            if text.len() > 2 * BLOCK {
                return refused(BAD_MAP);
            }
        }
    }
}

/// The parts of a device's number.
fn device(header: &Header) -> Result<(u32, u32), String> {
    let (major, minor) = (header.number(Header::MAJOR)?, header.number(Header::MINOR)?);
    if (0..=MAX_MAJOR).contains(&major) && (0..=MAX_MINOR).contains(&minor) {
        return Ok((major as u32, minor as u32));
    }
    Err(format!("there is no device {major}:{minor}"))
}

/// An owner or a group: that of an extended header, or else that in the field.
fn owner(extended: Option<u64>, header: &Header, field: Range<usize>) -> Result<u32, String> {
    let id = extended.map_or_else(|| header.number(field), Ok)?;
    let owner = u32::try_from(id).ok().filter(|id| *id <= MAX_OWNER);
    owner.ok_or_else(|| format!("there is no owner or group {id}"))
}

fn add_old_pieces(pieces: &mut Vec<Piece>, fields: &[u8]) -> Result<(), String> {
    let unsigned = |field| u64::try_from(number(field)?).map_err(|_| BAD_MAP.to_owned());
    for piece in fields.chunks_exact(OLD_PIECE) {
        let (offset, size) = piece.split_at(OLD_PIECE / 2);
        // An empty field ends the map.
        if offset[0] != 0 && size[0] != 0 {
            let (offset, size) = (unsigned(offset)?, unsigned(size)?);
            pieces.push(Piece { offset, size });
        }
    }
    check_count(pieces.len()).map(drop)
}

/// A number of pieces, if there may be so many.
fn check_count(pieces: usize) -> Result<usize, String> {
    if pieces > MAX_PIECES {
        return Err(format!("a sparse file of more than {MAX_PIECES} pieces"));
    }
    Ok(pieces)
}

/// Pieces, from their offsets and sizes by turns.
fn pairs(numbers: &[u64]) -> Result<Vec<Piece>, String> {
    let (pairs, rest) = numbers.as_chunks();
    if !rest.is_empty() {
        return Err(BAD_MAP.into());
    }
    let piece = |[offset, size]: &[u64; 2]| Piece {
        offset: *offset,
        size: *size,
    };
    Ok(pairs.iter().map(piece).collect())
}

/// The extended headers and long names before an entry.
#[derive(Clone, Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    modified: Option<Time>,
    xattrs: Xattrs,
    sparse: Sparse,
}

/// The records of a sparse file in PAX form.
#[derive(Clone, Debug, Default)]
struct Sparse {
    /// The name of the file. Its path is then one for programs that know no sparse files.
    name: Option<Vec<u8>>,
    version: (u64, u64),
    size: u64,
    /// Offsets and sizes by turns, in form 0.0 and 0.1.
    map: Vec<u64>,
}

impl Extended {
    fn add(&mut self, keyword: &[u8], value: &[u8]) -> Result<(), String> {
        // An empty value takes back what was said.
        let is_empty = value.is_empty();
        let text = || (!is_empty).then(|| value.to_vec());
        let number = || (!is_empty).then(|| decimal(value)).transpose();
        let sparse = &mut self.sparse;
        match keyword {
            b"path" => self.path = text(),
            b"linkpath" => self.link = text(),
            b"size" => self.size = number()?,
            b"uid" => self.uid = number()?,
            b"gid" => self.gid = number()?,
            b"mtime" => self.modified = (!is_empty).then(|| Time::parse(value)).transpose()?,
            b"GNU.sparse.name" => sparse.name = text(),
            b"GNU.sparse.major" => sparse.version.0 = number()?.unwrap_or_default(),
            b"GNU.sparse.minor" => sparse.version.1 = number()?.unwrap_or_default(),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                sparse.size = number()?.unwrap_or_default();
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                sparse.map.push(number()?.unwrap_or_default());
            }
            b"GNU.sparse.map" => {
                let numbers = value.split(|byte| *byte == b',').map(decimal);
                sparse.map = numbers.collect::<Result<_, _>>()?;
            }
            keyword => {
                if let Some(name) = keyword.strip_prefix(XATTR) {
                    if name.is_empty() || name.len() > MAX_NAME || name.contains(&0) {
                        return Err(format!("an xattr called {:?}", show(name)));
                    }
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                }
            }
        }
        check_count(sparse.map.len() / 2).map(drop)
    }

    /// The attributes of an entry, from here or else from its own header.
    fn attributes(self, header: &Header) -> Result<Attributes, String> {
        let modified = match self.modified {
            Some(modified) => modified,
            None => Time {
                seconds: header.number(Header::MODIFIED)?,
                nanoseconds: 0,
            },
        };
        Ok(Attributes {
            mode: (header.number::<i64>(Header::MODE)? & 0o7777) as u32,
            uid: owner(self.uid, header, Header::UID)?,
            gid: owner(self.gid, header, Header::GID)?,
            modified,
            xattrs: self.xattrs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header as ustar has it, with these fields besides.
    fn header(kind: u8, name: &[u8], size: u64, fields: &[(Range<usize>, &[u8])]) -> Vec<u8> {
        let mut block = [0; BLOCK];
        let size = format!("{size:011o}\0");
        for (field, bytes) in [
            (Header::NAME, name),
            (Header::MODE, b"0000644\0"),
            (Header::UID, b"0000001\0"),
            (Header::GID, b"0000002\0"),
            (Header::SIZE, size.as_bytes()),
            (Header::MODIFIED, b"00000000003\0"),
            (156..157, &[kind]),
            (257..265, b"ustar\x0000"),
        ]
        .iter()
        .chain(fields)
        {
            block[field.clone()][..bytes.len()].copy_from_slice(bytes);
        }
        block[Header::CHECKSUM].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        let has_checksum = fields.iter().find(|(field, _)| *field == Header::CHECKSUM);
        let checksum = format!("{sum:06o}\0 ");
        let checksum = has_checksum.map_or(checksum.as_bytes(), |(_, bytes)| bytes);
        block[Header::CHECKSUM].copy_from_slice(checksum);
        block.to_vec()
    }

    /// Data in whole blocks.
    fn filled(data: &[u8]) -> Vec<u8> {
        let mut blocks = data.to_vec();
        blocks.resize(data.len().next_multiple_of(BLOCK), 0);
        blocks
    }

    /// A header of this type with its data: extended ones, and long names.
    fn with_data(kind: u8, data: &[u8]) -> Vec<u8> {
        let header = header(kind, b"extended", data.len() as u64, &[]);
        [header, filled(data)].concat()
    }

    fn record(keyword: &str, value: &[u8]) -> Vec<u8> {
        let rest = keyword.len() + value.len() + 3;
        let length = (rest..)
            .find(|length| rest + length.to_string().len() == *length)
            .unwrap();
        [format!("{length} {keyword}=").as_bytes(), value, b"\n"].concat()
    }

    /// An extended header with these records.
    fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
        let records = records
            .iter()
            .map(|(keyword, value)| record(keyword, value));
        with_data(b'x', &records.collect::<Vec<_>>().concat())
    }

    fn plain(name: &[u8]) -> Vec<u8> {
        header(b'0', name, 0, &[])
    }

    /// All entries with their files' bytes, or why not.
    fn read(archive: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, String> {
        let why = |failure| match failure {
            Failure::Refused(why) => why,
            Failure::Read(error) => error.kind().to_string(),
        };
        let mut entries = Entries::new(archive);
        let mut found = Vec::new();
        while let Some(entry) = entries.next().map_err(why)? {
            let mut bytes = Vec::new();
            if let Kind::File { size, pieces } = &entry.kind {
                bytes.resize(usize::try_from(*size).unwrap(), 0);
                for piece in pieces {
                    let start = usize::try_from(piece.offset).unwrap();
                    let mut place = &mut bytes[start..start + piece.size as usize];
                    while !place.is_empty() {
                        let n = entries
                            .read(place)
                            .map_err(|error| why(Failure::Read(error)))?;
                        place = &mut place[n..];
                    }
                }
            }
            found.push((entry, bytes));
        }
        entries.drain().map_err(|error| why(Failure::Read(error)))?;
        Ok(found)
    }

    fn one(archive: &[u8]) -> Entry {
        let mut found = read(archive).unwrap();
        assert_eq!(found.len(), 1);
        found.remove(0).0
    }

    fn refusal(archive: &[u8]) -> String {
        read(archive).map(|found| format!("{found:?}")).unwrap_err()
    }

    #[test]
    fn every_type_is_what_it_says_whatever_size_it_claims() {
        let link: (Range<usize>, &[u8]) = (Header::LINK, b"./a//b");
        let device: [(Range<usize>, &[u8]); 2] =
            [(Header::MAJOR, b"0007777\0"), (Header::MINOR, b"3777777\0")];
        for (kind, name, fields, expected) in [
            (0, "n", &[][..], None),
            (b'0', "n", &[], None),
            (b'7', "n", &[], None),
            (0, "n/", &[], Some(Kind::Directory)),
            (b'5', "n", &[], Some(Kind::Directory)),
            (b'5', "n/", &[], Some(Kind::Directory)),
            (b'6', "n", &[], Some(Kind::Fifo)),
            (
                b'1',
                "n",
                std::slice::from_ref(&link),
                Some(Kind::HardLink(b"a/b".into())),
            ),
            (
                b'2',
                "n",
                std::slice::from_ref(&link),
                Some(Kind::Symlink(b"./a//b".into())),
            ),
            (
                b'3',
                "n",
                &device,
                Some(Kind::CharacterDevice(0xfff, 0xf_ffff)),
            ),
            (b'4', "n", &device, Some(Kind::BlockDevice(0xfff, 0xf_ffff))),
        ] {
            // Only what may have data has any; the entry after it must be found in any case.
            let is_file = expected.is_none();
            let data: &[u8] = if is_file { b"data" } else { b"" };
            let size = if name == "n/" && kind == 0 { 0 } else { 4 };
            let archive = [
                header(kind, name.as_bytes(), size, fields),
                filled(data),
                plain(b"z"),
            ]
            .concat();
            let found = read(&archive).unwrap();
            assert_eq!(found.len(), 2, "{}", char::from(kind));
            let pieces = vec![Piece { offset: 0, size: 4 }];
            let expected = expected.unwrap_or(Kind::File { size: 4, pieces });
            assert_eq!(
                (
                    found[0].0.path.as_slice(),
                    &found[0].0.kind,
                    found[0].1.as_slice()
                ),
                (&b"n"[..], &expected, data)
            );
            assert_eq!(found[1].0.path, b"z");
        }
    }

    #[test]
    fn what_a_header_says_of_a_file_is_kept() {
        let fields: [(Range<usize>, &[u8]); 1] = [(Header::MODE, b"0104755\0")];
        assert_eq!(
            one(&header(b'0', b"./a/../b"[..4].into(), 0, &fields)).attributes,
            Attributes {
                mode: 0o4755,
                uid: 1,
                gid: 2,
                modified: Time {
                    seconds: 3,
                    nanoseconds: 0
                },
                xattrs: Xattrs::default(),
            }
        );
        let records: [(&str, &[u8]); 9] = [
            ("path", b"from/pax"),
            ("uid", b"4294967294"),
            ("gid", b"2097152"),
            ("mtime", b"-1.5"),
            ("SCHILY.xattr.user.a", b"1\n2=3\n\0\xff"),
            // GNU tar writes an empty xattr so; Go's reader, and umoci's with it, takes it for none.
            ("SCHILY.xattr.user.empty", b""),
            ("SCHILY.xattr.user.=", b"="),
            ("comment", b"nobody reads that"),
            ("uname", b"nobody"),
        ];
        let entry = one(&[pax(&records), plain(b"other")].concat());
        assert_eq!(entry.path, b"from/pax");
        let mut xattrs = Xattrs::default();
        for (name, value) in [
            // The keyword ends at the first =, as pax(1) has it.
            (&b"user."[..], &b"=="[..]),
            (b"user.a", b"1\n2=3\n\0\xff"),
            (b"user.empty", b""),
        ] {
            xattrs.insert(name.to_vec(), value.to_vec());
        }
        assert_eq!(
            entry.attributes,
            Attributes {
                mode: 0o644,
                uid: 4_294_967_294,
                gid: 2_097_152,
                modified: Time {
                    seconds: -2,
                    nanoseconds: 500_000_000
                },
                xattrs,
            }
        );
    }

    #[test]
    fn a_long_name_is_put_together_from_where_each_format_has_it() {
        let name = b"n".repeat(150);
        let path = [&b"d/".repeat(75)[..], b"n"].concat();
        let prefix: [(Range<usize>, &[u8]); 1] = [(Header::PREFIX, b"some/prefix")];
        let gnu: [(Range<usize>, &[u8]); 2] =
            [(Header::PREFIX, b"1234567"), (257..265, b"ustar  \0")];
        let full = b"f".repeat(100);
        for (archive, expected, why) in [
            (
                header(b'0', b"a", 0, &prefix),
                &b"some/prefix/a"[..],
                "ustar",
            ),
            (header(b'0', b"a", 0, &gnu), b"a", "GNU has times there"),
            (plain(&full), &full, "no NUL at the end"),
            (
                [with_data(b'L', &[&name[..], b"\0"].concat()), plain(b"a")].concat(),
                &name,
                "GNU",
            ),
            (
                [with_data(b'L', &name), plain(b"a")].concat(),
                &name,
                "GNU without a NUL",
            ),
            (
                [pax(&[("path", &path)]), plain(b"a")].concat(),
                &path,
                "PAX",
            ),
            (
                [pax(&[("path", b"x"), ("path", b"")]), plain(b"a")].concat(),
                b"a",
                "taken back",
            ),
            (
                [pax(&[("path", b"x"), ("path", b"y")]), plain(b"a")].concat(),
                b"y",
                "the last one",
            ),
            (
                [with_data(b'g', &record("path", b"x")), plain(b"a")].concat(),
                b"a",
                "for all",
            ),
        ] {
            assert_eq!(show(&one(&archive).path), show(expected), "{why}");
        }
        for kind in [b'1', b'2'] {
            let link = header(kind, b"a", 0, &[]);
            let target = match kind {
                b'1' => Kind::HardLink(name.clone()),
                _ => Kind::Symlink(name.clone()),
            };
            assert_eq!(
                one(&[with_data(b'K', &name), link.clone()].concat()).kind,
                target
            );
            assert_eq!(
                one(&[pax(&[("linkpath", &name)]), link].concat()).kind,
                target
            );
        }
    }

    #[test]
    fn a_path_is_its_components_and_none_leads_out() {
        for (raw, expected) in [
            (&b"./"[..], &b""[..]),
            (b".", b""),
            (b"./a", b"a"),
            (b"a//b/./c/", b"a/b/c"),
            (b"...", b"..."),
            (b"..a/a..", b"..a/a.."),
            (b"caf\xe9", b"caf\xe9"),
            (b"/", b""),
            (b"/etc/passwd", b"etc/passwd"),
            (b"//a", b"a"),
            (b"a/..", b""),
            (b"a/b/../c", b"a/c"),
            (b"a/../b", b"b"),
        ] {
            assert_eq!(checked_path(raw).unwrap(), expected, "{}", show(raw));
        }
        let long_name = b"n".repeat(256);
        let long_path = b"1234567/".repeat(513);
        for (raw, why) in [
            (&b".."[..], ".."),
            (b"../a", ".."),
            (b"/../a", ".."),
            (b"a/../../b", ".."),
            (b"./..", ".."),
            (b"", "no path"),
            (&long_name, "too long"),
            (&long_path, "too long"),
        ] {
            let mut archives =
                vec![[pax(&[("linkpath", raw)]), header(b'1', b"a", 0, &[])].concat()];
            if !raw.is_empty() {
                archives.push([pax(&[("path", raw)]), plain(b"a")].concat());
                archives.push([with_data(b'L', raw), plain(b"a")].concat());
            }
            for archive in archives {
                let found = refusal(&archive);
                assert!(found.contains(why), "{}: {found}", show(raw));
            }
        }
        let nul = [pax(&[("path", b"a\0b")]), plain(b"a")].concat();
        assert_eq!(refusal(&nul), "a\\0b: this is no path");
        assert_eq!(checked_path(&b"n".repeat(255)).unwrap().len(), 255);
        assert_eq!(checked_path(&long_path[..4096]).unwrap().len(), 4095);
    }

    #[test]
    fn what_cannot_be_of_a_file_is_refused_by_its_name() {
        let minus = [0xff; 12];
        let huge = *b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff";
        for (kind, field, bytes, why) in [
            (
                b'0',
                Header::UID,
                &minus[..8],
                "-1 in a header makes no sense",
            ),
            (b'0', Header::GID, &huge[4..], "in a header is no number"),
            (
                b'0',
                Header::UID,
                b"\x80\0\0\0\xff\xff\xff\xff",
                "no owner or group 4294967295",
            ),
            (
                b'0',
                Header::MODE,
                b"rwxr-xr-",
                "\"rwxr-xr-\" in a header is no number",
            ),
            (b'0', Header::MODIFIED, b"yesterday\0", "is no number"),
            (
                b'3',
                Header::MAJOR,
                b"0010000\0",
                "there is no device 4096:0",
            ),
            (
                b'4',
                Header::MINOR,
                b"4000000\0",
                "there is no device 0:1048576",
            ),
            (b'3', Header::MINOR, &minus[..8], "there is no device 0:-1"),
            (b'2', Header::LINK, b"\0", "a symlink to nowhere"),
            (b'1', Header::LINK, b"../b", "a path with .. in it"),
            (b'Z', Header::LINK, b"", "an entry of unknown type Z"),
            (0xff, Header::LINK, b"", "an entry of unknown type \\xff"),
        ] {
            let found = refusal(&header(kind, b"some/file", 0, &[(field, bytes)]));
            assert!(
                found.starts_with("some/file: ") && found.contains(why),
                "{why}: {found}"
            );
        }
        // The size is read before it is clear what it is of.
        for bytes in [&minus[..], b"size"] {
            let found = refusal(&header(b'0', b"a", 0, &[(Header::SIZE, bytes)]));
            assert!(found.contains(" in a header "), "{found}");
        }
        for (keyword, value, why) in [
            (
                "size",
                "9223372036854775808",
                "a size of 9223372036854775808 bytes makes no sense",
            ),
            ("size", "18446744073709551616", "is no number"),
            ("size", "-1", "is no number"),
            (
                "uid",
                "4294967295",
                "a: there is no owner or group 4294967295",
            ),
            ("gid", "1e3", "\"1e3\" in an extended header is no number"),
            ("mtime", "now", "\"now\" in an extended header is no number"),
            ("SCHILY.xattr.", "1", "an xattr called \"\""),
            ("SCHILY.xattr.a\0", "1", "an xattr called"),
        ] {
            let found = refusal(&[pax(&[(keyword, value.as_bytes())]), plain(b"a")].concat());
            assert!(found.contains(why), "{keyword}={value}: {found}");
        }
    }

    #[test]
    fn a_record_that_makes_no_sense_is_refused() {
        let found = refusal(&[with_data(b'x', b"11 path=a\n"), plain(b"a")].concat());
        assert_eq!(found, "an extended header makes no sense");
        // An empty extended header says nothing, which is no error.
        let archive = [with_data(b'x', b""), plain(b"a")].concat();
        assert_eq!(one(&archive).path, b"a");
    }

    #[test]
    fn extended_headers_take_no_more_memory_than_they_may() {
        let too_much = MAX_EXTENDED as usize + 1;
        for archive in [
            header(b'x', b"x", 1 << 30, &[]),
            header(b'L', b"x", MAX_EXTENDED + 1, &[]),
            header(b'K', b"x", u64::from(u32::MAX), &[]),
            // Many of them, each as large as it may be.
            [
                with_data(b'x', &record("comment", &vec![b'x'; too_much / 2])),
                with_data(b'x', &record("comment", &vec![b'x'; too_much / 2])),
            ]
            .concat(),
        ] {
            let found = refusal(&archive);
            assert!(
                found.starts_with("an extended header of ") && found.contains(" 1048576 "),
                "{found}"
            );
        }
        let most = [
            with_data(
                b'L',
                &[&vec![b'n'; 200][..], &vec![0; too_much - 201]].concat(),
            ),
            plain(b"a"),
        ];
        // What was before one entry does not count for the next.
        let found = read(&[most.concat(), most.concat()].concat()).unwrap();
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn a_wrong_checksum_is_no_archive() {
        let good = plain(b"name");
        assert_eq!(read(&good).unwrap().len(), 1);
        for n in 0..good.len() {
            let mut bad = good.clone();
            bad[n] ^= 1;
            let found = read(&bad);
            // The last two bytes of the checksum's field are a NUL and a blank; they may be anything.
            let may_be = [Header::CHECKSUM.end - 2, Header::CHECKSUM.end - 1].contains(&n);
            assert!(found.is_err() || may_be, "byte {n}: {found:?}");
        }
        for sum in [
            &b"        "[..],
            b"\0\0\0\0\0\0\0\0",
            b"\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert!(read(&header(b'0', b"a", 0, &[(Header::CHECKSUM, sum)])).is_err());
        }
        for text in [&b"no archive"[..], &[b'x'; 512], &[b'x'; 5000]] {
            assert!(read(text).is_err());
        }
    }

    #[test]
    fn an_archive_that_is_cut_off_is_noticed_wherever_that_is() {
        let archive = [
            pax(&[("path", b"a"), ("SCHILY.xattr.user.a", b"b")]),
            header(b'0', b"x", 700, &[]),
            filled(&[7; 700]),
            with_data(b'L', b"long"),
            header(b'0', b"x", 1, &[]),
            filled(b"1"),
            vec![0; 1024],
        ]
        .concat();
        let whole = read(&archive).unwrap();
        assert_eq!(whole.len(), 2);
        // Where an entry ends, an archive may too: not everybody writes the zeros at its end.
        let ends = [0, 5 * 512, 9 * 512];
        for length in 0..9 * 512 {
            let found = read(&archive[..length]);
            match ends.iter().position(|end| *end == length) {
                Some(n) => assert_eq!(found.unwrap(), whole[..n], "{length}"),
                None => assert!(found.is_err(), "{length}: {found:?}"),
            }
        }
        for length in 9 * 512..archive.len() {
            let found = read(&archive[..length]);
            let is_cut = (9 * 512 + 1..10 * 512).contains(&length);
            assert_eq!(found.is_err(), is_cut, "{length}: {found:?}");
        }
    }

    #[test]
    fn what_follows_the_end_is_read_and_means_nothing() {
        let archive = [plain(b"a"), vec![0; 512], plain(b"b"), b"junk".to_vec()].concat();
        let mut rest = &archive[..];
        let mut entries = Entries::new(&mut rest);
        assert_eq!(entries.next().unwrap().unwrap().path, b"a");
        assert!(entries.next().unwrap().is_none());
        entries.drain().unwrap();
        assert!(rest.is_empty());
        assert!(read(b"").unwrap().is_empty());
    }

    /// A file of 4000 bytes, of which the archive has two pieces, in every form that GNU tar writes or wrote.
    #[test]
    fn sparse_files_are_read_in_every_form() {
        let data = [&[1; 100][..], &[2; 50]].concat();
        let mut expected = vec![0; 4000];
        expected[1000..1100].fill(1);
        expected[3000..3050].fill(2);
        let old_piece =
            |offset: u64, size: u64| format!("{offset:011o}\0{size:011o}\0").into_bytes();
        let (first, second) = (old_piece(1000, 100), old_piece(3000, 50));
        let more = [&first[..], &second, &old_piece(4000, 0)].concat();
        let real: &[u8] = b"00000007640\0";
        let name: (&str, &[u8]) = ("GNU.sparse.name", b"real");
        let numbers = b"3\n1000\n100\n3000\n50\n4000\n0\n";
        let archives = [
            (
                "old GNU",
                vec![header(
                    b'S',
                    b"real",
                    150,
                    &[(386..482, &more), (Header::REAL_SIZE, real)],
                )],
            ),
            (
                "old GNU, the map goes on",
                vec![
                    header(
                        b'S',
                        b"real",
                        150,
                        &[
                            (386..482, &first),
                            (482..483, b"\x01"),
                            (Header::REAL_SIZE, real),
                        ],
                    ),
                    filled(&second),
                ],
            ),
            (
                "PAX 0.0",
                vec![
                    pax(&[
                        ("GNU.sparse.size", b"4000"),
                        ("GNU.sparse.numblocks", b"3"),
                        ("GNU.sparse.offset", b"1000"),
                        ("GNU.sparse.numbytes", b"100"),
                        ("GNU.sparse.offset", b"3000"),
                        ("GNU.sparse.numbytes", b"50"),
                        ("GNU.sparse.offset", b"4000"),
                        ("GNU.sparse.numbytes", b"0"),
                    ]),
                    header(b'0', b"real", 150, &[]),
                ],
            ),
            (
                "PAX 0.1",
                vec![
                    pax(&[
                        ("GNU.sparse.size", b"4000"),
                        ("GNU.sparse.map", b"1000,100,3000,50,4000,0"),
                        name,
                    ]),
                    header(b'0', b"GNUSparseFile.1/real", 150, &[]),
                ],
            ),
            (
                "PAX 1.0",
                vec![
                    pax(&[
                        ("GNU.sparse.major", b"1"),
                        ("GNU.sparse.minor", b"0"),
                        ("GNU.sparse.realsize", b"4000"),
                        name,
                    ]),
                    header(b'0', b"GNUSparseFile.1/real", 512 + 150, &[]),
                    filled(numbers),
                ],
            ),
        ];
        for (form, headers) in archives {
            let archive = [headers.concat(), filled(&data), plain(b"z")].concat();
            let found = read(&archive).unwrap_or_else(|why| panic!("{form}: {why}"));
            assert_eq!(found.len(), 2, "{form}");
            assert_eq!(found[0].0.path, b"real", "{form}");
            assert!(found[0].1 == expected, "{form}: {:?}", found[0].0);
        }
    }

    #[test]
    fn a_map_of_a_sparse_file_that_lies_is_refused() {
        for (map, size, data, why) in [
            ("0,10", "5", 10, "after the end of the file"),
            ("5,5,0,5", "10", 10, "backwards"),
            ("0,5,3,5", "10", 10, "one over another"),
            ("0,5", "10", 6, "less than there is"),
            ("0,5", "10", 4, "more than there is"),
            ("0,5,7", "10", 5, "half a piece"),
            ("0,x", "10", 5, "no number"),
            (
                "0,18446744073709551615,1,1",
                "10",
                5,
                "more than any number",
            ),
            ("", "10", 0, "nothing at all"),
        ] {
            let records = [
                ("GNU.sparse.size", size.as_bytes()),
                ("GNU.sparse.map", map.as_bytes()),
            ];
            let archive = [pax(&records), header(b'0', b"a", data, &[]), vec![0; 512]];
            let found = read(&archive.concat());
            assert!(found.is_err(), "{why}: {found:?}");
        }
        let form_1: [(&str, &[u8]); 2] =
            [("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"10")];
        let many = format!("{}\n", MAX_PIECES + 1);
        for (data, why) in [
            (&b"1\n0\n"[..], "it goes on in data that is not there"),
            (b"1\n0\n20\n", "after the end of the file"),
            (b"x\n", "no number"),
            (many.as_bytes(), "too many pieces"),
            (&[b'1'; 2000], "a number without an end"),
        ] {
            let size = data.len().next_multiple_of(512) as u64;
            let archive = [pax(&form_1), header(b'0', b"a", size, &[]), filled(data)];
            let found = read(&archive.concat());
            assert!(found.is_err(), "{why}: {found:?}");
        }
        let pieces = "0,0,".repeat(MAX_PIECES + 1);
        let map = pieces.trim_end_matches(',').as_bytes();
        let found = refusal(&[pax(&[("GNU.sparse.map", map)]), plain(b"a")].concat());
        assert!(found.contains("more than 65536 pieces"), "{found}");
        // Map blocks of the oldest form that never end.
        let piece = b"00000000001\x0000000000000\0";
        let block = [&piece.repeat(21)[..], &[1; 8]].concat();
        let start = header(
            b'S',
            b"a",
            0,
            &[(386..482, &piece.repeat(4)), (482..483, b"\x01")],
        );
        let found = refusal(&[start, block.repeat(MAX_PIECES / 21 + 1)].concat());
        assert!(found.contains("more than 65536 pieces"), "{found}");
    }
}
