//! A tar archive → its entries, one after the other, whatever program wrote it: ustar, GNU, PAX.
//!
//! Formats: pax(1) in POSIX.1-2017 ("ustar Interchange Format", "pax Extended Header") and GNU tar's
//! manual ("Basic Tar Format", "Storing Sparse Files").
//!
//! No crate's reader, for those that there are take an extended header of any size into memory, end a
//! record's value at a newline, or know no sparse files in PAX form.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::mem;
use std::ops::Range;

/// What a tar archive is made of.
const BLOCK: u64 = 512;
/// Largest extended header or long name, and all of them before one entry. Linux allows 64 KiB for the names of
/// a file's xattrs and for the value of each (linux/limits.h).
const MAX_EXTENDED: u64 = 1 << 20;
/// Longest path, as in Linux (PATH_MAX of limits.h).
pub const MAX_PATH: usize = 4096;
/// Longest component of one (NAME_MAX of limits.h).
const MAX_NAME: usize = 255;
/// Largest parts of a device's number: Linux has twelve bits for one and twenty for the other.
const MAX_MAJOR: i64 = 0xfff;
const MAX_MINOR: i64 = 0xf_ffff;
/// Largest owner or group. Linux has 32 bits, all ones of which mean none (chown(2)).
const MAX_OWNER: u32 = 0xffff_fffe;
/// Pieces of data in one sparse file.
const MAX_PIECES: usize = 64 << 10;
/// The prefix of a record that is an xattr.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// What an archive says of one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its components, joined by `/`; empty for the root.
    pub path: Vec<u8>,
    pub kind: Kind,
    pub attributes: Attributes,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// `pieces`: its data, in the order of the archive; what is not in one is zeros.
    File {
        size: u64,
        pieces: Vec<Piece>,
    },
    Directory,
    Symlink(Vec<u8>),
    /// Another name of what this path is in the same image, as [`Entry::path`] spells it.
    HardLink(Vec<u8>),
    CharacterDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// Consecutive bytes of a file that the archive has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Piece {
    pub offset: u64,
    pub size: u64,
}

/// What is kept of an entry, besides what it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attributes {
    /// The lower twelve bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub modified: Time,
    pub xattrs: Xattrs,
}

/// Extended attributes by name.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(
    clippy::box_collection,
    reason = "most files have none, and there are many files"
)]
pub struct Xattrs(Option<Box<BTreeMap<Vec<u8>, Vec<u8>>>>);

impl Xattrs {
    pub fn insert(&mut self, name: Vec<u8>, value: Vec<u8>) {
        self.0.get_or_insert_default().insert(name, value);
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let all = self.0.iter().flat_map(|all| all.iter());
        all.map(|(name, value)| (name.as_slice(), value.as_slice()))
    }

    /// Removes those whose names are meant, and returns them.
    pub fn remove_if(&mut self, is_meant: impl Fn(&[u8]) -> bool) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut removed = Vec::new();
        if let Some(all) = &mut self.0 {
            all.retain(|name, value| {
                let is_meant = is_meant(name);
                if is_meant {
                    removed.push((name.clone(), mem::take(value)));
                }
                !is_meant
            });
            if all.is_empty() {
                self.0 = None;
            }
        }
        removed
    }
}

/// Seconds since 1970, rounded down, and nanoseconds after that.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Time {
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// Why reading ended.
#[derive(Debug)]
pub enum Failure {
    /// The archive could not be read.
    Read(io::Error),
    /// It is not one that can be used.
    Refused(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

fn refused<T>(why: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Refused(why.into()))
}

/// A header as it stands in the archive.
struct Header([u8; BLOCK as usize]);

/// A piece of a sparse file takes so much of a header of GNU's oldest form: twice twelve bytes.
const OLD_PIECE: usize = 24;

impl Header {
    const NAME: Range<usize> = 0..100;
    const MODE: Range<usize> = 100..108;
    const UID: Range<usize> = 108..116;
    const GID: Range<usize> = 116..124;
    const SIZE: Range<usize> = 124..136;
    const MODIFIED: Range<usize> = 136..148;
    const CHECKSUM: Range<usize> = 148..156;
    const LINK: Range<usize> = 157..257;
    const MAJOR: Range<usize> = 329..337;
    const MINOR: Range<usize> = 337..345;
    /// Of ustar only; GNU has something else there.
    const PREFIX: Range<usize> = 345..500;
    /// Of GNU's sparse files: four pieces, whether more of them follow, and the size of the file.
    const PIECES: Range<usize> = 386..482;
    const PIECES_GO_ON: usize = 482;
    const REAL_SIZE: Range<usize> = 483..495;

    fn kind(&self) -> u8 {
        self.0[156]
    }

    fn text(&self, field: Range<usize>) -> Vec<u8> {
        without_nul(self.0[field].to_vec())
    }

    fn path(&self) -> Vec<u8> {
        let name = self.text(Self::NAME);
        let prefix = match &self.0[257..263] {
            b"ustar\0" => self.text(Self::PREFIX),
            _ => Vec::new(),
        };
        match prefix.as_slice() {
            b"" => name,
            prefix => [prefix, b"/", &name].concat(),
        }
    }

    fn number(&self, field: Range<usize>) -> Result<i64, Failure> {
        number(&self.0[field])
    }

    /// One that cannot be less than nothing.
    fn unsigned(&self, field: Range<usize>) -> Result<u64, Failure> {
        let number = self.number(field)?;
        u64::try_from(number).or_else(|_| refused(format!("{number} in a header makes no sense")))
    }

    /// The parts of a device's number.
    fn device(&self) -> Result<(u32, u32), Failure> {
        let (major, minor) = (self.number(Self::MAJOR)?, self.number(Self::MINOR)?);
        match (u32::try_from(major), u32::try_from(minor)) {
            (Ok(x), Ok(y)) if major <= MAX_MAJOR && minor <= MAX_MINOR => Ok((x, y)),
            _ => refused(format!("there is no device {major}:{minor}")),
        }
    }

    /// An owner or a group, in that field if not in an extended header.
    fn owner(&self, extended: Option<u64>, field: Range<usize>) -> Result<u32, Failure> {
        let id = extended.map_or_else(|| self.unsigned(field), Ok)?;
        match u32::try_from(id) {
            Ok(id) if id <= MAX_OWNER => Ok(id),
            _ => refused(format!("there is no owner or group {id}")),
        }
    }

    /// Is its checksum right? That is the sum of all bytes, with blanks in its own place.
    fn is_sound(&self) -> bool {
        let sum = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum + i64::from(*byte));
        let own = &self.0[Self::CHECKSUM];
        let sum = sum(&self.0) - sum(own) + sum(&[b' '; 8]);
        number(own).is_ok_and(|found| found == sum)
    }
}

/// Reads an archive.
pub struct Entries<R> {
    archive: R,
    /// Of the data of the last entry, what is still to be read, and the filling after it.
    left: u64,
    filling: u64,
    /// A path in it, or the target of a hard link, was not spelled as one below the root.
    has_odd_paths: bool,
}

impl<R: Read> Entries<R> {
    pub fn new(archive: R) -> Self {
        Self {
            archive,
            left: 0,
            filling: 0,
            has_odd_paths: false,
        }
    }

    /// Was a path, so far, absolute or one with `..` in it? [`Entry::path`] is below the root all the same.
    pub fn has_odd_paths(&self) -> bool {
        self.has_odd_paths
    }

    /// The next entry. The data of the one before it is skipped where it was not read.
    pub fn next(&mut self) -> Result<Option<Entry>, Failure> {
        let mut extended = Extended::default();
        let mut extension = MAX_EXTENDED;
        loop {
            self.skip(self.left + self.filling)?;
            let Some(header) = self.header()? else {
                return match extension {
                    MAX_EXTENDED => Ok(None),
                    _ => refused("it ends after an extended header, before what that is of"),
                };
            };
            let size = header.unsigned(Header::SIZE)?;
            self.expect(size);
            match header.kind() {
                b'x' => extended.take(&self.extension(size, &mut extension)?)?,
                // What it says holds for all that follow, and nobody says there what matters here.
                b'g' => {}
                b'L' => extended.path = Some(without_nul(self.extension(size, &mut extension)?)),
                b'K' => extended.link = Some(without_nul(self.extension(size, &mut extension)?)),
                _ => return self.entry(&header, extended).map(Some),
            }
        }
    }

    /// What is left of the archive.
    pub fn into_inner(self) -> R {
        self.archive
    }

    /// Reads data of the last entry, piece after piece as they are in the archive.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.archive.read(&mut buffer[..want])?;
        if n == 0 && want > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= n as u64;
        Ok(n)
    }

    /// Everything after the end of the archive, for the digest is of all of it.
    pub fn drain(&mut self) -> io::Result<()> {
        io::copy(&mut self.archive, &mut io::sink()).map(drop)
    }

    fn expect(&mut self, size: u64) {
        self.left = size;
        self.filling = size.wrapping_neg() % BLOCK;
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let skipped = io::copy(&mut (&mut self.archive).take(bytes), &mut io::sink())?;
        (self.left, self.filling) = (0, 0);
        match skipped == bytes {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn block(&mut self) -> io::Result<Option<[u8; BLOCK as usize]>> {
        let mut block = [0; BLOCK as usize];
        let mut filled = 0;
        while filled < block.len() {
            match self.archive.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(block))
    }

    /// The next header; `None` at the end, which is a block of zeros or nothing at all.
    fn header(&mut self) -> Result<Option<Header>, Failure> {
        let Some(block) = self.block()? else {
            return Ok(None);
        };
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        match Header(block) {
            header if header.is_sound() => Ok(Some(header)),
            _ => refused("it is no tar archive, or a damaged one: a header's checksum is wrong"),
        }
    }

    /// What an extended header has, or a long name. `left`: how many bytes of such there may be still.
    fn extension(&mut self, size: u64, left: &mut u64) -> Result<Vec<u8>, Failure> {
        *left = match left.checked_sub(size) {
            Some(left) => left,
            None => {
                return refused(format!(
                    "an extended header of {size} bytes, at most {MAX_EXTENDED} are read for one entry"
                ));
            }
        };
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        let mut filled = 0;
        while filled < bytes.len() {
            filled += self.read(&mut bytes[filled..])?;
        }
        Ok(bytes)
    }

    fn entry(&mut self, header: &Header, extended: Extended) -> Result<Entry, Failure> {
        let raw = [&extended.sparse.name, &extended.path];
        let raw = raw.into_iter().find_map(Option::clone);
        let raw = raw.unwrap_or_else(|| header.path());
        let path = self.path(&raw)?;
        let called = |failure| match failure {
            Failure::Refused(why) => Failure::Refused(format!("{}: {why}", show(&path))),
            failure => failure,
        };
        if let Some(size) = extended.size {
            self.expect(size);
        }
        let kind = match header.kind() {
            // Before POSIX a directory was a file whose name ends in a slash.
            0 | b'0' | b'7' if raw.ends_with(b"/") => Kind::Directory,
            _ => self.kind(header, &extended).map_err(called)?,
        };
        // Only files have data; some write a size for others all the same, and none of it.
        if !matches!(kind, Kind::File { .. }) && !matches!(header.kind(), 0 | b'0' | b'7') {
            self.expect(0);
        }
        let attributes = extended.attributes(header).map_err(called)?;
        Ok(Entry {
            path,
            kind,
            attributes,
        })
    }

    fn path(&mut self, raw: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut components = raw.split(|byte| *byte == b'/');
        self.has_odd_paths |=
            raw.starts_with(b"/") || components.any(|component| component == b"..");
        checked_path(raw)
    }

    fn kind(&mut self, header: &Header, extended: &Extended) -> Result<Kind, Failure> {
        let link = || {
            let link = extended.link.clone();
            link.unwrap_or_else(|| header.text(Header::LINK))
        };
        Ok(match header.kind() {
            0 | b'0' | b'7' | b'S' => self.file(header, extended)?,
            b'1' => Kind::HardLink(self.path(&link())?),
            b'2' => match link() {
                target if target.is_empty() || target.contains(&0) || target.len() > MAX_PATH => {
                    return refused("a symlink to nowhere");
                }
                target => Kind::Symlink(target),
            },
            b'3' => {
                let (major, minor) = header.device()?;
                Kind::CharacterDevice(major, minor)
            }
            b'4' => {
                let (major, minor) = header.device()?;
                Kind::BlockDevice(major, minor)
            }
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return refused(format!("an entry of unknown type {}", show(&[other]))),
        })
    }

    /// A file, with its map where it is sparse.
    fn file(&mut self, header: &Header, extended: &Extended) -> Result<Kind, Failure> {
        let sparse = &extended.sparse;
        let (size, pieces) = if header.kind() == b'S' {
            self.old_map(header)?
        } else if sparse.version == (1, 0) {
            (sparse.size, self.map_in_data()?)
        } else if !sparse.map.is_empty() {
            (sparse.size, pairs(&sparse.map)?)
        } else {
            let size = self.left;
            let whole = Piece { offset: 0, size };
            return Ok(Kind::File {
                size,
                pieces: vec![whole],
            });
        };
        // Pieces come in order, lie in the file and have all the data there is.
        let (mut end, mut data) = (0, 0_u64);
        for piece in &pieces {
            let next = piece.offset.checked_add(piece.size);
            match next.filter(|next| piece.offset >= end && *next <= size) {
                Some(next) => end = next,
                None => return refused("its map of a sparse file makes no sense"),
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

    /// GNU's oldest form: four pieces in the header, and more in blocks of 21 after it.
    fn old_map(&mut self, header: &Header) -> Result<(u64, Vec<Piece>), Failure> {
        let mut pieces = Vec::new();
        let mut take = |fields: &[u8]| -> Result<(), Failure> {
            for piece in fields.chunks_exact(OLD_PIECE) {
                let (offset, size) = piece.split_at(OLD_PIECE / 2);
                // A field with nothing in it ends the map.
                if offset[0] != 0 && size[0] != 0 {
                    let [offset, size] = [number(offset)?, number(size)?].map(u64::try_from);
                    let (Ok(offset), Ok(size)) = (offset, size) else {
                        return refused("its map of a sparse file makes no sense");
                    };
                    pieces.push(Piece { offset, size });
                }
            }
            match pieces.len() > MAX_PIECES {
                true => refused(format!("a sparse file of more than {MAX_PIECES} pieces")),
                false => Ok(()),
            }
        };
        take(&header.0[Header::PIECES])?;
        let mut goes_on = header.0[Header::PIECES_GO_ON] != 0;
        while goes_on {
            let Some(block) = self.block()? else {
                return Err(Failure::Read(io::ErrorKind::UnexpectedEof.into()));
            };
            let end = 21 * OLD_PIECE;
            take(&block[..end])?;
            goes_on = block[end] != 0;
        }
        Ok((header.unsigned(Header::REAL_SIZE)?, pieces))
    }

    /// PAX form 1.0: decimal numbers, a line each, before the data, in whole blocks.
    fn map_in_data(&mut self) -> Result<Vec<Piece>, Failure> {
        let mut blocks: Vec<u8> = Vec::new();
        let (mut numbers, mut read) = (Vec::new(), 0);
        loop {
            while let Some(end) = blocks[read..].iter().position(|byte| *byte == b'\n') {
                numbers.push(decimal(&blocks[read..read + end])?);
                read += end + 1;
                let wanted = numbers[0].saturating_mul(2).saturating_add(1);
                if numbers[0] > MAX_PIECES as u64 {
                    return refused(format!("a sparse file of more than {MAX_PIECES} pieces"));
                }
                if numbers.len() as u64 == wanted {
                    return pairs(&numbers[1..]);
                }
            }
            let mut block = [0; BLOCK as usize];
            let mut filled = 0;
            while filled < block.len() {
                match self.read(&mut block[filled..])? {
                    0 => return refused("its map of a sparse file ends too soon"),
                    n => filled += n,
                }
            }
            blocks.drain(..read);
            read = 0;
            blocks.extend_from_slice(&block);
            // A number has twenty digits at most.
            if blocks.len() > 2 * block.len() {
                return refused("its map of a sparse file makes no sense");
            }
        }
    }
}

/// What the headers before an entry's own say of it.
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

/// What is said of a sparse file in PAX form.
#[derive(Clone, Debug, Default)]
struct Sparse {
    /// The file's; its path then is one that old programs see.
    name: Option<Vec<u8>>,
    version: (u64, u64),
    size: u64,
    /// Offsets and sizes by turns, in form 0.0 and 0.1.
    map: Vec<u64>,
}

impl Extended {
    /// Records as pax(1) writes them: `<length> <keyword>=<value>\n`, where the value may have newlines.
    fn take(&mut self, mut records: &[u8]) -> Result<(), Failure> {
        let wrong = || Failure::Refused("an extended header makes no sense".into());
        while !records.is_empty() {
            let blank = records
                .iter()
                .position(|byte| *byte == b' ')
                .ok_or_else(wrong)?;
            let length = usize::try_from(decimal(&records[..blank])?).map_err(|_| wrong())?;
            let record = records.get(blank + 1..length).ok_or_else(wrong)?;
            let record = record.strip_suffix(b"\n").ok_or_else(wrong)?;
            let equals = record
                .iter()
                .position(|byte| *byte == b'=')
                .ok_or_else(wrong)?;
            self.record(&record[..equals], &record[equals + 1..])?;
            records = &records[length..];
        }
        Ok(())
    }

    /// What is said of an entry, here or in its own header.
    fn attributes(self, header: &Header) -> Result<Attributes, Failure> {
        let modified = match self.modified {
            Some(modified) => modified,
            None => Time {
                seconds: header.number(Header::MODIFIED)?,
                nanoseconds: 0,
            },
        };
        Ok(Attributes {
            mode: (header.number(Header::MODE)? & 0o7777) as u32,
            uid: header.owner(self.uid, Header::UID)?,
            gid: header.owner(self.gid, Header::GID)?,
            modified,
            xattrs: self.xattrs,
        })
    }

    fn record(&mut self, keyword: &[u8], value: &[u8]) -> Result<(), Failure> {
        // An empty value takes back what was said.
        let text = Some(value.to_vec()).filter(|value| !value.is_empty());
        let number = || match value {
            b"" => Ok(None),
            value => decimal(value).map(Some),
        };
        match keyword {
            b"path" => self.path = text,
            b"linkpath" => self.link = text,
            b"size" => match number()? {
                Some(size) if i64::try_from(size).is_err() => {
                    return refused(format!("a size of {size} bytes makes no sense"));
                }
                size => self.size = size,
            },
            b"uid" => self.uid = number()?,
            b"gid" => self.gid = number()?,
            b"mtime" => self.modified = text.as_deref().map(time).transpose()?,
            b"GNU.sparse.name" => self.sparse.name = text,
            b"GNU.sparse.major" => self.sparse.version.0 = number()?.unwrap_or_default(),
            b"GNU.sparse.minor" => self.sparse.version.1 = number()?.unwrap_or_default(),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse.size = number()?.unwrap_or_default();
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                self.sparse.map.push(number()?.unwrap_or_default());
            }
            b"GNU.sparse.map" => {
                let numbers = value.split(|byte| *byte == b',').map(decimal);
                self.sparse.map = numbers.collect::<Result<_, _>>()?;
            }
            keyword => {
                if let Some(name) = keyword.strip_prefix(XATTR) {
                    if name.is_empty() || name.len() > MAX_NAME || name.contains(&0) {
                        return refused(format!("an xattr called {:?}", show(name)));
                    }
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                }
            }
        }
        if self.sparse.map.len() > 2 * MAX_PIECES {
            return refused(format!("a sparse file of more than {MAX_PIECES} pieces"));
        }
        Ok(())
    }
}

fn pairs(numbers: &[u64]) -> Result<Vec<Piece>, Failure> {
    if !numbers.len().is_multiple_of(2) {
        return refused("its map of a sparse file makes no sense");
    }
    let pair = |pair: &[u64]| Piece {
        offset: pair[0],
        size: pair[1],
    };
    Ok(numbers.chunks_exact(2).map(pair).collect())
}

/// A number of a header: octal digits between blanks and NULs, none at all for nothing; or, where GNU needs more,
/// in base 256 behind a bit that says so, with the sign in the next one.
fn number(field: &[u8]) -> Result<i64, Failure> {
    let number = match field {
        [first @ 0x80..=0xff, rest @ ..] => {
            let sign = i128::from(((first << 1) as i8) >> 1);
            let number = rest
                .iter()
                .fold(sign, |sum, byte| (sum << 8) | i128::from(*byte));
            i64::try_from(number).ok()
        }
        field => {
            let is_blank = |byte: &u8| matches!(byte, b' ' | 0);
            let start = field.iter().position(|byte| !is_blank(byte));
            let digits = &field[start.unwrap_or(field.len())..];
            let end = digits.iter().position(is_blank);
            let mut digits = digits[..end.unwrap_or(digits.len())].iter();
            digits.try_fold(0, |sum, digit| match digit {
                b'0'..=b'7' => Some(sum << 3 | i64::from(digit - b'0')),
                _ => None,
            })
        }
    };
    match number {
        Some(number) => Ok(number),
        None => refused(format!("{:?} in a header is no number", show(field))),
    }
}

fn decimal(digits: &[u8]) -> Result<u64, Failure> {
    let number = std::str::from_utf8(digits)
        .ok()
        .filter(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()));
    match number.and_then(|digits| digits.parse().ok()) {
        Some(number) => Ok(number),
        None => refused(format!(
            "{:?} in an extended header is no number",
            show(digits)
        )),
    }
}

/// Seconds as pax(1) writes them: `-12.5` is eleven and a half seconds before 1970, and one.
fn time(text: &[u8]) -> Result<Time, Failure> {
    let (is_negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (whole, fraction) = match digits.iter().position(|byte| *byte == b'.') {
        Some(point) => (&digits[..point], &digits[point + 1..]),
        None => (digits, &b""[..]),
    };
    let wrong = || Failure::Refused(format!("{:?} in an extended header is no time", show(text)));
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(wrong());
    }
    let digit = |n: usize| fraction.get(n).map_or(0, |digit| u32::from(digit - b'0'));
    let nanoseconds = (0..9).fold(0, |sum, n| sum * 10 + digit(n));
    let seconds = i64::try_from(decimal(whole)?).map_err(|_| wrong())?;
    Ok(match (is_negative, nanoseconds) {
        (false, nanoseconds) => Time {
            seconds,
            nanoseconds,
        },
        (true, 0) => Time {
            seconds: -seconds,
            nanoseconds: 0,
        },
        (true, nanoseconds) => Time {
            seconds: -seconds - 1,
            nanoseconds: 1_000_000_000 - nanoseconds,
        },
    })
}

fn without_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == 0);
    bytes.truncate(end.unwrap_or(bytes.len()));
    bytes
}

/// A path in the form of [`Entry::path`], below the root of the image. One that leads out of it is refused.
fn checked_path(raw: &[u8]) -> Result<Vec<u8>, Failure> {
    let wrong = |why: &str| refused(format!("{}: {why}", show(raw)));
    if raw.is_empty() || raw.contains(&0) {
        return wrong("this is no path");
    }
    let mut path = Vec::with_capacity(raw.len());
    for component in raw.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => continue,
            b".." if path.is_empty() => {
                return wrong("a path with .. in it, which leads out of the image");
            }
            b".." => {
                let slash = path.iter().rposition(|byte| *byte == b'/');
                path.truncate(slash.unwrap_or(0));
            }
            component if component.len() > MAX_NAME => return wrong("a name that is too long"),
            component => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(component);
            }
        }
    }
    if path.len() > MAX_PATH {
        return wrong("a path that is too long");
    }
    Ok(path)
}

/// A path for people, cut where it is long.
pub fn show(path: &[u8]) -> String {
    let mut text: String = path
        .utf8_chunks()
        .flat_map(|chunk| {
            let valid = chunk.valid().escape_debug().collect::<String>();
            let invalid = chunk.invalid().escape_ascii().to_string();
            [valid, invalid]
        })
        .collect();
    if let Some((end, _)) = text.char_indices().nth(200) {
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header as ustar has it, with these fields besides.
    fn header(kind: u8, name: &[u8], size: u64, fields: &[(Range<usize>, &[u8])]) -> Vec<u8> {
        let mut block = [0; BLOCK as usize];
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
        blocks.resize(data.len().next_multiple_of(BLOCK as usize), 0);
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
        let xattr = |name: &[u8], value: &[u8]| (name.to_vec(), value.to_vec());
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
                // The keyword ends at the first =, as pax(1) has it.
                xattrs: Xattrs(Some(Box::new(
                    [
                        xattr(b"user.", b"=="),
                        xattr(b"user.a", b"1\n2=3\n\0\xff"),
                        xattr(b"user.empty", b""),
                    ]
                    .into(),
                ))),
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
    fn numbers_are_octal_or_in_base_256_and_fit() {
        for (field, expected) in [
            (&b"0000644\0"[..], 0o644),
            (b"   644 \0", 0o644),
            (b"644\0junk", 0o644),
            (b"77777777", 0o77_777_777),
            (b"", 0),
            (b"\0\0\0\0", 0),
            (b"       \0", 0),
            (b"\x80\0\0\0\0\0\x01\0", 256),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfb", -5),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", i64::MAX),
            (b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", i64::MIN),
        ] {
            assert_eq!(number(field).unwrap(), expected, "{field:x?}");
        }
        for field in [
            &b"0000648\0"[..],
            b"-1\0",
            b"+1\0",
            b"1x",
            b"\x80\0\0\0\x80\0\0\0\0\0\0\0",
            b"\x80\x01\0\0\0\0\0\0\0\0\0\0",
            b"\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert!(number(field).is_err(), "{field:x?}");
        }
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
    fn times_have_nanoseconds_and_may_be_before_1970() {
        for (text, seconds, nanoseconds) in [
            ("0", 0, 0),
            ("12", 12, 0),
            ("12.", 12, 0),
            ("12.5", 12, 500_000_000),
            ("12.000000001", 12, 1),
            ("12.0000000019", 12, 1),
            ("-1", -1, 0),
            ("-1.25", -2, 750_000_000),
            ("-0.5", -1, 500_000_000),
            ("-0", 0, 0),
            ("9223372036854775807.999999999", i64::MAX, 999_999_999),
            ("-9223372036854775807.5", i64::MIN, 500_000_000),
        ] {
            let expected = Time {
                seconds,
                nanoseconds,
            };
            assert_eq!(time(text.as_bytes()).unwrap(), expected, "{text}");
        }
        for text in [
            "-",
            ".",
            ".5",
            "1.5.5",
            "1.x",
            "--1",
            "+1",
            "1 ",
            "9223372036854775808",
        ] {
            assert!(time(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_record_that_makes_no_sense_is_refused() {
        for (records, why) in [
            (&b"x"[..], "no length"),
            (b"8 path=a", "no newline at its end"),
            (b"9 path=a\n9", "bytes after the last one"),
            (b"11 path=a\n", "too long"),
            (b"8 path=a\n", "too short"),
            (b"0 path=a\n", "a length of nothing"),
            (b"2 path=a\n", "shorter than itself"),
            (b" path=a\n", "no digits"),
            (b"-9 path=a\n", "a sign"),
            (b"7 patha\n", "no ="),
            (b"99999999999999999999 path=a\n", "more than any number"),
        ] {
            let found = read(&[with_data(b'x', records), plain(b"a")].concat());
            assert!(found.is_err(), "{why}: {found:?}");
        }
        // An empty extended header says nothing, which is no error.
        assert_eq!(
            one(&[with_data(b'x', b""), plain(b"a")].concat()).path,
            b"a"
        );
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

    #[test]
    fn what_is_shown_is_short_and_plain() {
        assert_eq!(show(b"caf\xe9\n\x1b[31m"), "caf\\xe9\\n\\u{1b}[31m");
        let long = show(&b"n".repeat(4096));
        assert_eq!(long.chars().count(), 201);
    }
}
