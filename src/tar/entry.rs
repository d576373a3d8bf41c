//! Reads a member of a tar archive as an entry: a file of an image.

use std::io::Read;
use std::ops::Range;

use super::attributes::{Attributes, Time};
use super::extended::{BAD_MAP, Piece, check_count, pairs};
use super::header::{BLOCK, Header, decimal, show, split_once};
use super::members::{Member, Members};
use super::{Failure, refused};

/// Longest path, as in Linux (PATH_MAX of limits.h).
pub const MAX_PATH: usize = 4096;
/// Longest component of a path (NAME_MAX of limits.h).
const MAX_NAME: usize = 255;
/// Largest parts of a device's number: Linux has twelve bits for one and twenty for the other.
const MAX_MAJOR: i64 = 0xfff;
const MAX_MINOR: i64 = 0xf_ffff;
/// Largest owner or group. Linux has 32 bits, all ones of which mean none (chown(2)).
const MAX_OWNER: u32 = 0xffff_fffe;

/// A file of an image, as an archive describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its components, joined by `/`; empty for the root.
    pub path: Vec<u8>,
    pub kind: Kind,
    pub attributes: Attributes,
}

/// The type of an entry, and its contents.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// `pieces`: its data, in the order of the archive. Bytes in none of them are zeros.
    File {
        size: u64,
        pieces: Vec<Piece>,
    },
    Directory,
    Symlink(Vec<u8>),
    /// Another name of the file at this path in the same image, which is spelled as [`Entry::path`] is.
    HardLink(Vec<u8>),
    CharacterDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

impl Member {
    /// Whether its path, or the target of a hard link, is absolute or has `..` in it. The path of its entry is below
    /// the root all the same.
    pub fn has_odd_paths(&self) -> bool {
        let is_odd = |path: &[u8]| {
            let mut components = path.split(|byte| *byte == b'/');
            path.starts_with(b"/") || components.any(|component| component == b"..")
        };
        is_odd(&self.path()) || self.header.kind() == b'1' && is_odd(&self.link())
    }

    fn attributes(self) -> Result<Attributes, String> {
        let Self { header, extended } = self;
        let modified = match extended.modified {
            Some(modified) => modified,
            None => Time {
                seconds: header.number(Header::MODIFIED)?,
                nanoseconds: 0,
            },
        };
        Ok(Attributes {
            mode: (header.number::<i64>(Header::MODE)? & 0o7777) as u32,
            uid: owner(extended.uid, &header, Header::UID)?,
            gid: owner(extended.gid, &header, Header::GID)?,
            modified,
            xattrs: extended.xattrs,
        })
    }
}

impl<R: Read> Members<R> {
    /// The next member as an entry; `None` at the end.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Failure> {
        let member = self.next()?;
        member.map(|member| self.entry(member)).transpose()
    }

    /// The last member as an entry. The data that are still to be read are those of its pieces, one after the other.
    pub fn entry(&mut self, member: Member) -> Result<Entry, Failure> {
        let name = member.path();
        let path = checked_path(&name)?;
        let kind = match member.is_file() && name.ends_with(b"/") {
            // Before POSIX a directory was a file whose name ends in a slash.
            true => Ok(Kind::Directory),
            false => self.kind(&member),
        };
        let kind = kind.map_err(|failure| failure.of(&path))?;
        let attributes = member.attributes();
        let attributes = attributes.map_err(|why| Failure::from(why).of(&path))?;
        Ok(Entry {
            path,
            kind,
            attributes,
        })
    }

    fn kind(&mut self, member: &Member) -> Result<Kind, Failure> {
        let header = &member.header;
        Ok(match header.kind() {
            0 | b'0' | b'7' | b'S' => self.file(member)?,
            b'1' => Kind::HardLink(checked_path(&member.link())?),
            b'2' => match member.link() {
                target if target.is_empty() || target.contains(&0) || target.len() > MAX_PATH => {
                    return refused("a symlink with an empty or too long target");
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
    fn file(&mut self, member: &Member) -> Result<Kind, Failure> {
        let sparse = &member.extended.sparse;
        let pieces = if member.is_file() && sparse.version == (1, 0) {
            self.map_in_data()?
        } else if !member.is_file() || !sparse.map.is_empty() {
            pairs(&sparse.map)?
        } else {
            let (offset, size) = (0, self.left());
            let pieces = vec![Piece { offset, size }];
            return Ok(Kind::File { size, pieces });
        };
        let size = sparse.size;
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
        if data != self.left() {
            return refused(format!(
                "its map of a sparse file has {data} bytes, the archive {}",
                self.left()
            ));
        }
        Ok(Kind::File { size, pieces })
    }

    /// The map in PAX form 1.0: decimal numbers, a line each, before the data, in whole blocks.
    fn map_in_data(&mut self) -> Result<Vec<Piece>, Failure> {
        let (mut text, mut numbers) = (Vec::new(), Vec::new());
        loop {
            while let Some((line, rest)) = split_once(&text, b'\n') {
                numbers.push(decimal(line)?);
                text = rest.to_vec();
                let count = usize::try_from(numbers[0]).unwrap_or(usize::MAX);
                check_count(count)?;
                if numbers.len() == 2 * count + 1 {
                    return Ok(pairs(&numbers[1..])?);
                }
            }
            if self.left() < BLOCK as u64 {
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
    Err(format!("device number {major}:{minor} is out of range"))
}

/// An owner or a group: that of an extended header, or else that in the field.
fn owner(extended: Option<u64>, header: &Header, field: Range<usize>) -> Result<u32, String> {
    let id = extended.map_or_else(|| header.number(field), Ok)?;
    let owner = u32::try_from(id).ok().filter(|id| *id <= MAX_OWNER);
    owner.ok_or_else(|| format!("owner or group {id} is out of range"))
}

/// A path in the form of [`Entry::path`], below the root of the image. One that leads out of it is refused.
pub fn checked_path(raw: &[u8]) -> Result<Vec<u8>, String> {
    let wrong = |why: &str| Err(format!("{}: {why}", show(raw)));
    if raw.is_empty() || raw.contains(&0) {
        return wrong("an empty path, or one with a NUL byte");
    }
    let mut components = Vec::new();
    for component in raw.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                if components.pop().is_none() {
                    return wrong("a path with .. in it, which leads out of the image");
                }
            }
            name if name.len() > MAX_NAME => return wrong("a name that is too long"),
            name => components.push(name),
        }
    }
    let path = components.join(&b'/');
    if path.len() > MAX_PATH {
        return wrong("a path that is too long");
    }
    Ok(path)
}
