//! The fields of extended headers and long names, which describe the member after them. No I/O.

use super::attributes::{Time, Xattrs};
use super::header::{Header, decimal, number, show};

/// Longest name of an xattr, as in Linux (XATTR_NAME_MAX of limits.h).
const MAX_XATTR_NAME: usize = 255;
/// Most pieces of data in one sparse file.
pub const MAX_PIECES: usize = 64 << 10;
/// The prefix of a record that is an xattr.
const XATTR: &[u8] = b"SCHILY.xattr.";
/// Size of the offset or the size of a piece in GNU's oldest form of sparse files.
const OLD_NUMBER: usize = 12;
pub const BAD_MAP: &str = "its map of a sparse file is not valid";

/// The fields of the extended headers before an entry. One that is missing is in the entry's own header.
#[derive(Debug, Default)]
pub struct Extended {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub modified: Option<Time>,
    pub xattrs: Xattrs,
    pub sparse: Sparse,
}

/// The map of a sparse file.
#[derive(Debug, Default)]
pub struct Sparse {
    /// The name of the file. Its path is then one for programs that do not know sparse files.
    pub name: Option<Vec<u8>>,
    /// The version of the PAX form, major and minor.
    pub version: (u64, u64),
    pub size: u64,
    /// Offsets and sizes by turns: of GNU's oldest form, and of PAX forms 0.0 and 0.1.
    pub map: Vec<u64>,
}

/// Consecutive bytes of a file that the archive has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Piece {
    pub offset: u64,
    pub size: u64,
}

impl Extended {
    /// Adds a record.
    pub fn add(&mut self, keyword: &[u8], value: &[u8]) -> Result<(), String> {
        // An empty value takes back an earlier record.
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
                    if name.is_empty() || name.len() > MAX_XATTR_NAME || name.contains(&0) {
                        return Err(format!("an xattr called {:?}", show(name)));
                    }
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                }
            }
        }
        check_count(sparse.map.len() / 2)
    }
}

impl Sparse {
    /// Begins a map in GNU's oldest form: up to four pieces are in the header.
    pub fn begin_old(&mut self, header: &Header) -> Result<(), String> {
        self.size = header.number(Header::REAL_SIZE)?;
        self.map.clear();
        self.add_old(header.bytes(Header::PIECES))
    }

    /// Adds pieces in that form, from a header or from a block after it.
    pub fn add_old(&mut self, fields: &[u8]) -> Result<(), String> {
        for piece in fields.chunks_exact(2 * OLD_NUMBER) {
            let fields = [&piece[..OLD_NUMBER], &piece[OLD_NUMBER..]];
            // An empty field ends the map.
            if fields.iter().all(|field| field[0] != 0) {
                for field in fields {
                    let number = u64::try_from(number(field)?).map_err(|_| BAD_MAP)?;
                    self.map.push(number);
                }
            }
        }
        check_count(self.map.len() / 2)
    }
}

/// Refuses a map of too many pieces.
pub fn check_count(pieces: usize) -> Result<(), String> {
    if pieces > MAX_PIECES {
        return Err(format!("a sparse file of more than {MAX_PIECES} pieces"));
    }
    Ok(())
}

/// Pieces, from their offsets and sizes by turns.
pub fn pairs(numbers: &[u64]) -> Result<Vec<Piece>, String> {
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
