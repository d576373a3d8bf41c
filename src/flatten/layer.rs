//! Reads a layer: the changes that it makes into memory, the bytes of its files into a spool on disk.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::mem;

use super::budget::Budget;
use super::change::{Change, Content};
use super::fetch::Layers;
use super::scan::{Verdict, scan};
use super::{BUFFER, Node};
use crate::blob::Positioned;
use crate::cache::Cache;
use crate::compression::{self, Compression};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::tar::{Failure, Kind, Members, Piece};

/// Largest window of a layer of zstd, as a power of two: 32 MiB. docker buildx and buildah ask for that from level 10
/// on (klauspost/compress, `zstd/encoder_options.go`); zstd itself for 8 MiB, without `--ultra` and `--long`.
const MAX_WINDOW_LOG: u32 = 25;

/// A layer that was read.
pub struct Layer {
    pub changes: Vec<Change>,
    spool: File,
}

impl Layer {
    /// Reads a layer to its end. `bytes` fails at its end if their digest is wrong.
    pub fn read(
        mut bytes: impl Read,
        digest: Digest,
        budget: &Budget,
        cache: &Cache,
    ) -> Result<Self> {
        let read = Self::unpack(&mut bytes, budget, cache);
        once_verified(read, bytes, digest, cache)
    }

    fn unpack(blob: &mut impl Read, budget: &Budget, cache: &Cache) -> Result<Self, Failure> {
        let mut archive = Members::new(Bounded {
            inner: unpack(blob)?,
            budget,
        });
        let mut changes = Vec::new();
        let mut spool = Spool::new(cache)?;
        while let Some(mut entry) = archive.next_entry()? {
            budget.take_entry(&entry)?;
            let mut content = Content::default();
            if let Kind::File { size, pieces } = &mut entry.kind {
                budget.take_file(&entry.path, *size)?;
                content = spool.add(*size, &mem::take(pieces), &mut archive)?;
            }
            changes.push(Change::new(entry, content));
        }
        archive.drain()?;
        Ok(Self {
            changes,
            spool: spool.finish()?,
        })
    }

    /// The bytes of a file of this layer, followed by those of other files.
    pub fn bytes(&self, node: Node<'_>) -> impl Read {
        Positioned::at(&self.spool, node.content().offset)
    }
}

/// Reads the one layer of an image to its end, and scans it.
pub fn scan_layer(fetched: &Layers<'_>, digest: Digest, cache: &Cache) -> Result<Verdict> {
    let mut bytes = fetched.open(0)?;
    let verdict = scan(&mut bytes);
    once_verified(verdict, bytes, digest, cache)
}

/// The result of reading a layer, after the rest of it was read and verified: neither its contents nor an error in them
/// count before that. `rest`: the bytes that were not read yet.
fn once_verified<T>(
    read: Result<T, Failure>,
    mut rest: impl Read,
    layer: Digest,
    cache: &Cache,
) -> Result<T> {
    let refused = match read {
        Err(Failure::Read(error)) => match error.downcast() {
            Ok(error) => return Err(error),
            Err(error) => Err(format!("it cannot be unpacked: {error}")),
        },
        Err(Failure::Refused(why)) => Err(why),
        Ok(read) => Ok(read),
    };
    if let Err(error) = io::copy(&mut rest, &mut io::sink()) {
        let own = error.downcast::<Error>();
        return Err(own.unwrap_or_else(|error| cache.cannot_write(error)));
    }
    refused.map_err(|why| Error::CannotFlatten { layer, why })
}

/// The archive in a layer, which is packed with gzip or zstd, or not at all.
pub fn unpack<'a>(layer: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match Compression::detect(layer)? {
        (None, archive) => Box::new(archive),
        (Some(Compression::Gzip), packed) => Box::new(compression::gzip(packed)),
        (Some(Compression::Zstd), packed) => {
            let what = || "a layer of zstd".into();
            Box::new(compression::zstd(packed, MAX_WINDOW_LOG, what)?)
        }
        (Some(other), _) => {
            let name = other.name();
            let why = format!("it is packed with {name}; layers are gzip, zstd or plain tar");
            return Err(io::Error::other(why));
        }
    })
}

/// Fails where all layers together unpack to more bytes than the budget has.
struct Bounded<'a, R> {
    inner: R,
    budget: &'a Budget,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.budget.take_unpacked(n).map_err(io::Error::other)?;
        Ok(n)
    }
}

/// Writes the bytes of files into one file, one after the other.
struct Spool<'a> {
    out: BufWriter<SpoolFile<'a>>,
    /// The position of `out`.
    at: u64,
    /// The offset of the next file.
    end: u64,
}

impl<'a> Spool<'a> {
    fn new(cache: &'a Cache) -> io::Result<Self> {
        let file = cache.scratch().map_err(io::Error::other)?;
        Ok(Self {
            out: BufWriter::with_capacity(BUFFER, SpoolFile { file, cache }),
            at: 0,
            end: 0,
        })
    }

    /// Adds a file. The zeros between its pieces take no space.
    fn add(&mut self, size: u64, pieces: &[Piece], archive: &mut impl Read) -> io::Result<Content> {
        let content = Content {
            offset: self.end,
            size,
        };
        for piece in pieces.iter().filter(|piece| piece.size > 0) {
            let at = content.offset + piece.offset;
            if at != self.at {
                self.out.seek(SeekFrom::Start(at))?;
            }
            io::copy(&mut archive.take(piece.size), &mut self.out)?;
            self.at = at + piece.size;
        }
        self.end += size;
        Ok(content)
    }

    fn finish(self) -> io::Result<File> {
        let out = self.out.into_inner().map_err(|error| error.into_error())?;
        out.file.set_len(self.end).map_err(|cause| out.own(cause))?;
        Ok(out.file)
    }
}

/// A file in the cache. An [`Error`] is inside its errors, which tells them from errors of the layer.
struct SpoolFile<'a> {
    file: File,
    cache: &'a Cache,
}

impl SpoolFile<'_> {
    fn own(&self, cause: io::Error) -> io::Error {
        io::Error::other(self.cache.cannot_write(cause))
    }
}

impl Write for SpoolFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes).map_err(|cause| self.own(cause))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for SpoolFile<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to).map_err(|cause| self.own(cause))
    }
}
