//! Reads the members of a tar archive, one after the other.

use std::io::{self, ErrorKind, Read};
use std::mem;

use super::extended::{Extended, Sparse};
use super::header::{BLOCK, Header, records, until_nul};
use super::{Failure, refused};

/// Most bytes of extended headers and long names before one member. Linux allows 64 KiB for the names of a file's
/// xattrs and for the value of each (linux/limits.h).
pub const MAX_EXTENDED: u64 = 1 << 20;

/// Reads an archive member by member. As a [`Read`] it gives the data of the last member.
pub struct Members<R> {
    archive: R,
    skip: fn(&mut R, u64) -> io::Result<()>,
    /// Bytes of the last member's data that are still to be read, and of the padding after them.
    left: u64,
    padding: u64,
}

/// A member: its header, with the fields of the extended headers before it.
pub struct Member {
    pub header: Header,
    pub extended: Extended,
}

impl Member {
    /// The path as the archive spells it.
    pub fn path(&self) -> Vec<u8> {
        let Extended { path, sparse, .. } = &self.extended;
        let path = sparse.name.as_ref().or(path.as_ref());
        path.cloned().unwrap_or_else(|| self.header.path())
    }

    /// The target of a link as the archive spells it.
    pub fn link(&self) -> Vec<u8> {
        let link = self.extended.link.clone();
        link.unwrap_or_else(|| self.header.text(Header::LINK).to_vec())
    }

    /// Whether it is a file that is not sparse.
    pub fn is_file(&self) -> bool {
        matches!(self.header.kind(), 0 | b'0' | b'7')
    }
}

impl<R: Read> Members<R> {
    /// Reads a stream.
    pub fn new(archive: R) -> Self {
        Self::with_skip(archive, |archive, bytes| {
            match io::copy(&mut archive.take(bytes), &mut io::sink())? < bytes {
                true => Err(ErrorKind::UnexpectedEof.into()),
                false => Ok(()),
            }
        })
    }

    /// Reads an archive in which `skip` goes forward by a number of bytes.
    pub fn with_skip(archive: R, skip: fn(&mut R, u64) -> io::Result<()>) -> Self {
        Self {
            archive,
            skip,
            left: 0,
            padding: 0,
        }
    }

    /// The next member; `None` at the end. Data of the last one that were not read are skipped.
    pub fn next(&mut self) -> Result<Option<Member>, Failure> {
        let mut extended = Extended::default();
        let mut allowed = MAX_EXTENDED;
        loop {
            let unread = mem::take(&mut self.left) + mem::take(&mut self.padding);
            (self.skip)(&mut self.archive, unread)?;
            let header = self.block()?.map(Header::parse).transpose()?.flatten();
            let Some(header) = header else {
                if allowed == MAX_EXTENDED {
                    return Ok(None);
                }
                return refused(
                    "it ends after an extended header, before the member that it describes",
                );
            };
            self.expect(header.number(Header::SIZE)?)?;
            match header.kind() {
                b'x' => {
                    for record in records(&self.extension(&mut allowed)?) {
                        let (keyword, value) = record?;
                        extended.add(keyword, value)?;
                    }
                }
                // Records for all members that follow. No program writes one there that matters here.
                b'g' => {}
                b'L' => extended.path = Some(self.long_name(&mut allowed)?),
                b'K' => extended.link = Some(self.long_name(&mut allowed)?),
                _ => return self.member(header, extended).map(Some),
            }
        }
    }

    /// Bytes of the last member's data that were not read.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// The rest of the archive.
    pub fn into_inner(self) -> R {
        self.archive
    }

    /// Reads all that follows the end of the archive, for the digest covers that, too.
    pub fn drain(&mut self) -> io::Result<()> {
        io::copy(&mut self.archive, &mut io::sink()).map(drop)
    }

    /// Expects so many bytes of data to follow.
    fn expect(&mut self, size: u64) -> Result<(), String> {
        if i64::try_from(size).is_err() {
            return Err(format!("{size} bytes are more than any file has"));
        }
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
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

    /// The data of an extended header. `allowed`: how many bytes of such data there may still be.
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

    fn member(&mut self, header: Header, extended: Extended) -> Result<Member, Failure> {
        let mut member = Member { header, extended };
        match (member.header.kind(), member.extended.size) {
            // Some programs write a size for links, devices and directories, which have no data.
            (b'1'..=b'6', _) => self.expect(0)?,
            (_, Some(size)) => self.expect(size)?,
            _ => {}
        }
        if member.header.kind() == b'S' {
            let read = self.old_map(&member.header, &mut member.extended.sparse);
            read.map_err(|failure| failure.of(&member.path()))?;
        }
        Ok(member)
    }

    /// The map of a sparse file in GNU's oldest form. It may go on in blocks before the data.
    fn old_map(&mut self, header: &Header, sparse: &mut Sparse) -> Result<(), Failure> {
        sparse.begin_old(header)?;
        let mut goes_on = header.has_more_pieces();
        while goes_on {
            let Some(block) = self.block()? else {
                return Err(io::Error::from(ErrorKind::UnexpectedEof).into());
            };
            sparse.add_old(&block[Header::MORE_PIECES])?;
            goes_on = block[Header::HAS_EVEN_MORE_PIECES] != 0;
        }
        Ok(())
    }
}

impl<R: Read> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.archive.by_ref().take(self.left).read(buffer)?;
        if n == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.left -= n as u64;
        Ok(n)
    }
}
