//! tar: from header to header, over the files between them. Headers: [`crate::tar_header`].

use super::fields::array_at;
use super::range_reader::{Failure, Region, bad};
use super::{MAX_FILE, NamedText, is_release};
use crate::tar_header::{BLOCK, Header, decimal, records, until_nul};

/// Where [`MAGIC`] is in a header.
pub const MAGIC_AT: usize = Header::MAGIC.start;
/// Of POSIX's headers, and of GNU's.
pub const MAGIC: &[u8] = b"ustar";
/// Most headers that are read. Large layers have some ten thousand files.
const MAX_HEADERS: usize = 1 << 20;
/// Most headers of one file, or blocks of its map. Most have none or two; a map of so many has 20,000 pieces.
const MAX_LONG_HEADERS: usize = 1024;
/// Largest header that tells a name or a size.
const MAX_LONG: u64 = 64 << 10;
/// Most bytes in all releases of one archive, with their names: all are kept until it is known which one is meant.
const MAX_RELEASES: usize = 1 << 20;

/// The extension-releases of the first of these folders that has any. The archive is not read after that folder:
/// archives are made folder by folder.
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
        let Some(name) = release_of(&member.name, folders) else {
            if found.is_empty() {
                continue;
            }
            return Ok(found);
        };
        let size = member.size;
        if size > MAX_FILE as u64 {
            return bad(format!(
                "{name} has {size} bytes, at most {MAX_FILE} are read"
            ));
        }
        let Some(rest) = left.checked_sub(name.len() + size as usize) else {
            return bad(format!(
                "its extension-releases have more than {MAX_RELEASES} bytes, which is the limit"
            ));
        };
        left = rest;
        found.push(NamedText {
            name: name.to_owned(),
            text: image.read(member.data, size as usize)?,
        });
    }
    bad(format!(
        "its tar has more than {MAX_HEADERS} headers, which is the limit"
    ))
}

/// A member of an archive, with what its extended headers say of it.
struct Member {
    name: Vec<u8>,
    /// Whether its data are those of a file, as they are.
    is_file: bool,
    data: u64,
    size: u64,
    /// Where the next member begins.
    end: u64,
}

/// The name and size in the extended headers of a member.
#[derive(Default)]
struct Long {
    name: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Long {
    fn add(&mut self, header: &[u8]) -> Result<(), String> {
        for record in records(header) {
            match record? {
                // An empty value takes back what was said.
                (b"path", b"") => self.name = None,
                (b"path", name) => self.name = Some(name.to_vec()),
                (b"size", b"") => self.size = None,
                (b"size", size) => self.size = Some(decimal(size)?),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The member whose first header is at this place; none at the end of the archive.
fn next(image: &mut Region<'_, '_>, mut at: u64) -> Result<Option<Member>, Failure> {
    let mut long = Long::default();
    for _ in 0..MAX_LONG_HEADERS {
        // Some archives lack the two blocks of zeros at the end.
        if !image.has(at)? {
            return Ok(None);
        }
        let Some(header) = Header::parse(array_at(&image.read(at, BLOCK)?, 0))? else {
            return Ok(None);
        };
        let kind = header.kind();
        let mut data = at.saturating_add(BLOCK as u64);
        if kind == b'S' {
            data = behind_map(image, &header, data)?;
        }
        let size: u64 = match (kind, long.size) {
            // Directories, links and devices have no data, whatever their size is.
            (b'1'..=b'6', _) => 0,
            (b'g' | b'x' | b'K' | b'L', _) | (_, None) => header.number(Header::SIZE)?,
            (_, Some(size)) => size,
        };
        let Some(padded) = size.checked_next_multiple_of(BLOCK as u64) else {
            return bad(format!("a file in its tar has {size} bytes"));
        };
        at = data.saturating_add(padded);
        match kind {
            b'x' | b'L' if size > MAX_LONG => {
                return bad(format!(
                    "a header in its tar has {size} bytes, at most {MAX_LONG} are read"
                ));
            }
            b'L' => long.name = Some(until_nul(&image.read(data, size as usize)?).to_vec()),
            b'x' => long.add(&image.read(data, size as usize)?)?,
            b'g' | b'K' => {}
            _ => {
                return Ok(Some(Member {
                    name: long.name.unwrap_or_else(|| header.path()),
                    is_file: matches!(kind, 0 | b'0' | b'7'),
                    data,
                    size,
                    end: at,
                }));
            }
        }
    }
    bad(format!(
        "a file in its tar has more than {MAX_LONG_HEADERS} headers, which is the limit"
    ))
}

/// Where the data of a GNU sparse file begin: blocks of its map may come before them.
fn behind_map(image: &mut Region<'_, '_>, header: &Header, mut at: u64) -> Result<u64, Failure> {
    let mut goes_on = header.has_more_pieces();
    for _ in 0..MAX_LONG_HEADERS {
        if !goes_on {
            return Ok(at);
        }
        goes_on = image.read(at, BLOCK)?[Header::HAS_EVEN_MORE_PIECES] != 0;
        at = at.saturating_add(BLOCK as u64);
    }
    bad(format!(
        "a file in its tar has a map of more than {MAX_LONG_HEADERS} blocks, which is the limit"
    ))
}

/// The name of the extension-release at this path, if it is one in these folders.
fn release_of<'n>(path: &'n [u8], folders: &[&str]) -> Option<&'n str> {
    let path = path.strip_prefix(b".").unwrap_or(path);
    let path = path.strip_prefix(b"/").unwrap_or(path);
    folders.iter().find_map(|folder| {
        let name = path.strip_prefix(folder.as_bytes())?.strip_prefix(b"/")?;
        is_release(name)
    })
}

/// A header as GNU tar writes it, with one for a long name before it.
#[cfg(test)]
pub fn header_of(path: &str, kind: u8, size: usize) -> Vec<u8> {
    let mut before = Vec::new();
    if path.len() > 100 {
        before = header_of("././@LongLink", b'L', path.len() + 1);
        before.extend_from_slice(path.as_bytes());
        before.resize((before.len() + 1).next_multiple_of(BLOCK), 0);
    }
    let mut record = vec![0; BLOCK];
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
