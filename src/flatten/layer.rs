//! A layer → the changes that it makes, in memory, and the bytes of its files, in a spool on disk.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::mem;
use std::os::unix::fs::FileExt;

use super::budget::Budget;
use super::change::{Change, Content};
use super::fetch::Layers;
use super::scan::{Verdict, scan};
use super::{BUFFER, Node};
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
    spool: Option<File>,
}

impl Layer {
    /// Reads a layer, and with it its digest.
    pub fn read(
        mut bytes: impl Read,
        digest: Digest,
        budget: &Budget,
        cache: &Cache,
    ) -> Result<Self> {
        let read = Self::unpack(&mut bytes, budget, cache);
        believe(read, bytes, digest, cache)
    }

    fn unpack(blob: &mut impl Read, budget: &Budget, cache: &Cache) -> Result<Self, Failure> {
        let mut archive = Members::new(Bounded {
            inner: unpack(blob)?,
            budget,
        });
        let mut changes = Vec::new();
        let mut spool = Spool::new(cache);
        while let Some(mut entry) = archive.next_entry()? {
            budget.take_entry(&entry)?;
            let mut content = Content::default();
            if let Kind::File { size, pieces } = &mut entry.kind {
                budget.take_file(&entry.path, *size)?;
                content = spool.keep(*size, &mem::take(pieces), &mut archive)?;
            }
            changes.push(Change::new(entry, content));
        }
        archive.drain()?;
        Ok(Self {
            changes,
            spool: spool.finish()?,
        })
    }

    /// The bytes of a file from this layer, and after it whatever else the spool has.
    pub fn bytes(&self, node: Node<'_>) -> impl Read {
        SpoolReader {
            spool: self.spool.as_ref(),
            offset: node.content().offset,
        }
    }
}

/// Reads the one layer of an image, and says whether it is the file that the image is offered as.
pub fn look(fetched: &Layers<'_>, digest: Digest, cache: &Cache) -> Result<Verdict> {
    let mut bytes = fetched.open(0)?;
    let verdict = scan(&mut bytes);
    believe(verdict, bytes, digest, cache)
}

/// The result of reading a layer, once all of it was read. Nothing that a layer says, and no fault of it, is believed
/// before its digest was seen to be right. `rest`: the bytes that were not read yet.
fn believe<T>(
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

/// The archive in a layer: packed with gzip or zstd, or as it is.
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

/// Fails where all layers together have more bytes than they may: a few can unpack to any number of them.
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

/// Keeps the bytes of files in one file, one after the other.
struct Spool<'a> {
    cache: &'a Cache,
    /// Opened when there is something to keep.
    file: Option<BufWriter<SpoolFile<'a>>>,
    /// Where the file's next bytes would go.
    at: u64,
    /// Where the next file to be kept begins.
    end: u64,
}

impl<'a> Spool<'a> {
    fn new(cache: &'a Cache) -> Self {
        Self {
            cache,
            file: None,
            at: 0,
            end: 0,
        }
    }

    /// Keeps a file. The zeros between its pieces take no space.
    fn keep(
        &mut self,
        size: u64,
        pieces: &[Piece],
        archive: &mut impl Read,
    ) -> io::Result<Content> {
        let content = Content {
            offset: self.end,
            size,
        };
        for piece in pieces.iter().filter(|piece| piece.size > 0) {
            let file = match &mut self.file {
                Some(file) => file,
                None => {
                    let (cache, file) = (self.cache, self.cache.scratch());
                    let file = file.map_err(io::Error::other)?;
                    let file = BufWriter::with_capacity(BUFFER, SpoolFile { file, cache });
                    self.file.insert(file)
                }
            };
            let at = content.offset + piece.offset;
            if at != self.at {
                file.seek(SeekFrom::Start(at))?;
            }
            io::copy(&mut archive.take(piece.size), file)?;
            self.at = at + piece.size;
        }
        self.end += size;
        Ok(content)
    }

    fn finish(self) -> io::Result<Option<File>> {
        let Some(file) = self.file else {
            return Ok(None);
        };
        let SpoolFile { file, cache } = file.into_inner().map_err(|error| error.into_error())?;
        file.set_len(self.end)
            .map_err(|cause| io::Error::other(cache.cannot_write(cause)))?;
        Ok(Some(file))
    }
}

/// A file in the cache whose errors are told from those of the layer.
struct SpoolFile<'a> {
    file: File,
    cache: &'a Cache,
}

impl Write for SpoolFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let own = |cause| io::Error::other(self.cache.cannot_write(cause));
        self.file.write_all(bytes).map_err(own)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for SpoolFile<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let own = |cause| io::Error::other(self.cache.cannot_write(cause));
        self.file.seek(to).map_err(own)
    }
}

/// Reads a spool from some place on. Without a spool all bytes are zeros.
struct SpoolReader<'a> {
    spool: Option<&'a File>,
    offset: u64,
}

impl Read for SpoolReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = match self.spool {
            Some(spool) => spool.read_at(buffer, self.offset)?,
            None => {
                buffer.fill(0);
                buffer.len()
            }
        };
        self.offset += n as u64;
        Ok(n)
    }
}
