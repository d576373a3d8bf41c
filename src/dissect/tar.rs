//! tar: from header to header, over the files between them.
//!
//! Format: pax of POSIX, <https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html>, and the
//! long names of GNU tar.

use super::range_reader::{Failure, Region, bad};
use super::{MAX_FILE, NamedText, is_release};

/// Where [`MAGIC`] is in a header.
pub const MAGIC_AT: usize = 257;
/// Of POSIX's headers, and of GNU's.
pub const MAGIC: &[u8] = b"ustar";
/// What follows it in POSIX's, which alone have a prefix of the name.
const POSIX: u8 = 0;
const RECORD: usize = 512;
/// Headers read. Large layers have some ten thousand files.
const MAX_HEADERS: usize = 1 << 20;
/// Headers of one file, or records of its map. Most have none or two; a map of so many has 20,000 pieces.
const MAX_LONG_HEADERS: usize = 1024;
/// In the header of a sparse file and in a record of its map: another record of it follows (GNU).
const SPARSE_GOES_ON: usize = 482;
const MAP_GOES_ON: usize = 504;
/// Longest header that tells a name or a size.
const MAX_LONG: u64 = 64 << 10;
/// Bytes in all releases of one archive, with their names: all are kept until it is known which one is meant.
const MAX_RELEASES: usize = 1 << 20;

/// The extension-releases of the first of these folders that has any. What comes after the folder is
/// not read: archives are made folder by folder.
pub fn releases(image: &mut Region<'_, '_>, folders: &[&str]) -> Result<Vec<NamedText>, Failure> {
    let mut found = Vec::new();
    let mut left = MAX_RELEASES;
    let mut at = 0;
    for _ in 0..MAX_HEADERS {
        let Some(member) = next(image, at)? else {
            return Ok(found);
        };
        at = member.end;
        if !member.is_file {
            continue;
        }
        match release_of(&member.name, folders) {
            Some(name) if member.size > MAX_FILE as u64 => {
                return bad(format!(
                    "{name} has {} bytes, at most {MAX_FILE} are read",
                    member.size
                ));
            }
            Some(name) => {
                left = match left.checked_sub(name.len() + member.size as usize) {
                    Some(left) => left,
                    None => {
                        return bad(format!(
                            "its extension-releases have more than {MAX_RELEASES} bytes, which is the limit"
                        ));
                    }
                };
                found.push(NamedText {
                    name: name.to_owned(),
                    text: image.read(member.data, member.size as usize)?,
                });
            }
            None if !found.is_empty() => return Ok(found),
            None => {}
        }
    }
    bad(format!(
        "its tar has more than {MAX_HEADERS} headers, which is the limit"
    ))
}

/// A member of an archive, in one piece with the headers that say more of it.
struct Member {
    name: Vec<u8>,
    /// Its bytes are those of a file, as they are.
    is_file: bool,
    data: u64,
    size: u64,
    /// Where the next one begins.
    end: u64,
}

/// The member whose first header is there; none at the end.
fn next(image: &mut Region<'_, '_>, mut at: u64) -> Result<Option<Member>, Failure> {
    let mut long = Long::default();
    for _ in 0..MAX_LONG_HEADERS {
        // The two records of zeros at the end are missing now and then.
        if !image.has(at)? {
            return Ok(None);
        }
        let record = image.read(at, RECORD)?;
        if record.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let header = Header::parse(&record).map_err(Failure::Image)?;
        let mut data = at.saturating_add(RECORD as u64);
        let size = match header.kind {
            Kind::Empty => 0,
            Kind::File | Kind::Sparse | Kind::Other => long.size.unwrap_or(header.size),
            Kind::LongName | Kind::Pax | Kind::Aside => header.size,
        };
        if header.kind == Kind::Sparse {
            data = behind_map(image, &record, data)?;
        }
        let end = match size.checked_next_multiple_of(RECORD as u64) {
            Some(padded) => data.saturating_add(padded),
            None => return bad(format!("a file in its tar has {size} bytes")),
        };
        match header.kind {
            Kind::LongName | Kind::Pax if size > MAX_LONG => {
                return bad(format!(
                    "a header in its tar has {size} bytes, at most {MAX_LONG} are read"
                ));
            }
            Kind::LongName => long.name = Some(until_nul(&image.read(data, size as usize)?)),
            Kind::Pax => long.add(&image.read(data, size as usize)?),
            Kind::Aside => {}
            Kind::File | Kind::Sparse | Kind::Empty | Kind::Other => {
                return Ok(Some(Member {
                    name: long.name.unwrap_or(header.name),
                    is_file: header.kind == Kind::File,
                    data,
                    size,
                    end,
                }));
            }
        }
        at = end;
    }
    bad(format!(
        "a file in its tar has more than {MAX_LONG_HEADERS} headers, which is the limit"
    ))
}

/// Where the bytes of a sparse file begin: a map that its header has no room for comes before them.
fn behind_map(image: &mut Region<'_, '_>, header: &[u8], mut at: u64) -> Result<u64, Failure> {
    let mut goes_on = header.get(SPARSE_GOES_ON) == Some(&1);
    for _ in 0..MAX_LONG_HEADERS {
        if !goes_on {
            return Ok(at);
        }
        goes_on = image.read(at, RECORD)?.get(MAP_GOES_ON) == Some(&1);
        at = at.saturating_add(RECORD as u64);
    }
    bad(format!(
        "a file in its tar has a map of more than {MAX_LONG_HEADERS} records, which is the limit"
    ))
}

/// The extension-release that a path in an archive is, if it is one of these folders'.
fn release_of<'n>(path: &'n [u8], folders: &[&str]) -> Option<&'n str> {
    let path = path.strip_prefix(b".").unwrap_or(path);
    let path = path.strip_prefix(b"/").unwrap_or(path);
    folders.iter().find_map(|folder| {
        let name = path.strip_prefix(folder.as_bytes())?.strip_prefix(b"/")?;
        is_release(name)
    })
}

struct Header {
    kind: Kind,
    name: Vec<u8>,
    size: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    File,
    /// Its bytes are pieces of a file, and a map says which (GNU).
    Sparse,
    /// A directory, link or device: no bytes come with it, whatever its size.
    Empty,
    /// The name of the next one (GNU).
    LongName,
    /// What does not fit into the next one (POSIX).
    Pax,
    /// Something about the next one, or about all of them, that is of no interest.
    Aside,
    /// A kind that POSIX knows nothing of: it is passed over like a file.
    Other,
}

impl Header {
    fn parse(record: &[u8]) -> Result<Self, String> {
        let field = |from: usize, to: usize| record.get(from..to).unwrap_or_default();
        let expected = number(field(148, 156));
        let sum = record.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        // The checksum's own bytes count as spaces.
        let own = field(148, 156).iter().map(|byte| u64::from(*byte));
        let found = sum - own.sum::<u64>() + 8 * u64::from(b' ');
        if expected != Some(found) {
            return Err("a header in its tar has the wrong checksum".into());
        }
        let kind = match record.get(156) {
            Some(b'0' | b'7' | 0) => Kind::File,
            Some(b'1'..=b'6') => Kind::Empty,
            Some(b'L') => Kind::LongName,
            Some(b'x') => Kind::Pax,
            Some(b'S') => Kind::Sparse,
            // The target of a link (GNU), and what counts for all that follow (POSIX).
            Some(b'K' | b'g') => Kind::Aside,
            _ => Kind::Other,
        };
        let mut name = until_nul(field(0, 100));
        let prefix = until_nul(field(345, 500));
        if field(MAGIC_AT, MAGIC_AT + 6) == [MAGIC, &[POSIX]].concat() && !prefix.is_empty() {
            name = [prefix.as_slice(), b"/", &name].concat();
        }
        match number(field(124, 136)) {
            Some(size) => Ok(Self { kind, name, size }),
            None => Err("a file in its tar has a size that is no number".into()),
        }
    }
}

/// What headers before a file say of it.
#[derive(Default)]
struct Long {
    name: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Long {
    /// Takes pax records: `LENGTH KEY=VALUE\n`, the length that of all of it.
    fn add(&mut self, mut records: &[u8]) {
        while let Some(space) = records.iter().position(|byte| *byte == b' ') {
            let length = digits(&records[..space], 10).and_then(|n| usize::try_from(n).ok());
            let Some((record, rest)) = length.and_then(|n| records.split_at_checked(n)) else {
                return;
            };
            let record = record.get(space + 1..).unwrap_or_default();
            let record = record.strip_suffix(b"\n").unwrap_or(record);
            if let Some(path) = record.strip_prefix(b"path=") {
                self.name = Some(path.to_vec());
            } else if let Some(size) = record.strip_prefix(b"size=") {
                self.size = digits(size, 10);
            }
            records = rest;
        }
    }
}

/// A number in octal digits, or in base 256 where its first bit is set (GNU).
fn number(field: &[u8]) -> Option<u64> {
    if let Some(first) = field.first().filter(|first| **first & 0x80 != 0) {
        let mut rest = field[1..].iter();
        return rest.try_fold(u64::from(first & 0x7f), |number, byte| {
            number.checked_mul(256)?.checked_add((*byte).into())
        });
    }
    let is_digit = |byte: &u8| !matches!(byte, b' ' | 0);
    match field.iter().position(is_digit) {
        Some(first) => {
            let last = field.iter().rposition(is_digit)?;
            digits(&field[first..=last], 8)
        }
        None => Some(0),
    }
}

/// A number of digits alone: Rust's own reading allows a sign before them.
fn digits(text: &[u8], radix: u32) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let is_right = text.chars().all(|c| c.is_digit(radix));
    u64::from_str_radix(text, radix).ok().filter(|_| is_right)
}

fn until_nul(bytes: &[u8]) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == 0);
    bytes[..end.unwrap_or(bytes.len())].to_vec()
}

/// A header as GNU tar writes it, with one for a long name before it.
#[cfg(test)]
pub fn header_of(path: &str, kind: u8, size: usize) -> Vec<u8> {
    let mut before = Vec::new();
    if path.len() > 100 {
        before = header_of("././@LongLink", b'L', path.len() + 1);
        before.extend_from_slice(path.as_bytes());
        before.resize((before.len() + 1).next_multiple_of(RECORD), 0);
    }
    let mut record = vec![0; RECORD];
    let name = &path.as_bytes()[..path.len().min(100)];
    record[..name.len()].copy_from_slice(name);
    record[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    record[156] = kind;
    record[257..265].copy_from_slice(b"ustar  \0");
    seal(&mut record);
    [before, record].concat()
}

/// Writes the checksum of a header.
#[cfg(test)]
pub fn seal(record: &mut [u8]) {
    record[148..156].fill(b' ');
    let sum: u32 = record.iter().map(|byte| u32::from(*byte)).sum();
    record[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_digits_and_nothing_else() {
        for (field, expected) in [
            (&b"0000017\0"[..], Some(15)),
            (b"     17 \0", Some(15)),
            (b"\0\0\0", Some(0)),
            (b"\x80\0\x01\0", Some(256)),
            (b"+7\0", None),
            (b"-7\0", None),
            (b"8\0", None),
            (b"1 7\0", None),
        ] {
            assert_eq!(number(field), expected, "{field:?}");
        }
        let mut long = Long::default();
        long.add(b"+9 path=a\n");
        long.add(b"11 size=+1\n");
        assert_eq!((long.name, long.size), (None, None));
    }
}
