//! tar: goes from member to member, and skips the data between them.

use std::io::{self, Read};

use super::range_reader::{Failure, Region, bad};
use super::{FOLDER_OF_CONFEXT, MAX_FILE, NamedText, is_release};
use crate::tar::{self, Header, Members};

/// Offset of [`MAGIC`] in a header.
pub const MAGIC_AT: usize = Header::MAGIC.start;
/// In the headers of POSIX and of GNU.
pub const MAGIC: &[u8] = b"ustar";
/// Most bytes of all releases of one archive, with their names: all are kept until one is chosen.
const MAX_RELEASES: usize = 1 << 20;

/// The releases in the first of these folders that has any. The archive is read to the end of that folder: programs
/// archive folder by folder.
pub fn releases(image: &mut Region<'_, '_>, folders: &[&str]) -> Result<Vec<NamedText>, Failure> {
    let mut archive = Members::with_skip(Archive { image, at: 0 }, |archive, bytes| {
        archive.at = archive.at.saturating_add(bytes);
        Ok(())
    });
    let mut found = Vec::new();
    let mut left = MAX_RELEASES;
    while let Some(member) = archive.next()? {
        if !member.is_file() {
            continue;
        }
        let path = member.path();
        let Some((folder, name)) = release_of(&path, folders) else {
            if found.is_empty() {
                continue;
            }
            break;
        };
        let size = archive.left();
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
        let mut text = vec![0; size as usize];
        archive.read_exact(&mut text).map_err(tar::Failure::Read)?;
        found.push(NamedText {
            name: name.to_owned(),
            text,
            is_confext: folder == FOLDER_OF_CONFEXT,
        });
    }
    Ok(found)
}

/// Reads a region from its start on.
struct Archive<'r, 'b, 'a> {
    image: &'r mut Region<'b, 'a>,
    at: u64,
}

impl Archive<'_, '_, '_> {
    fn next(&mut self, most: usize) -> Result<Vec<u8>, Failure> {
        // Not an error: some archives lack the two blocks of zeros at the end.
        if most == 0 || !self.image.has(self.at)? {
            return Ok(Vec::new());
        }
        self.image.read(self.at, most)
    }
}

impl Read for Archive<'_, '_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.next(buffer.len()).map_err(io::Error::other)?;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }
}

/// The folder and the name of the extension-release at this path, if it is one in these folders.
fn release_of<'n>(path: &'n [u8], folders: &[&'n str]) -> Option<(&'n str, &'n str)> {
    let path = path.strip_prefix(b".").unwrap_or(path);
    let path = path.strip_prefix(b"/").unwrap_or(path);
    folders.iter().find_map(|folder| {
        let name = path.strip_prefix(folder.as_bytes())?.strip_prefix(b"/")?;
        Some((*folder, is_release(name)?))
    })
}
