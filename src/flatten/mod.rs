//! A container image's layers → one `.tar.gz`.
//!
//!     fetch ─▶ unpack ─▶ entries ─▶ tree ─▶ pack
//!                           └─▶ spool ──────▶┘
//!
//! First all layers are fetched to disk and verified, which may take long and takes no memory. Then each is read
//! once, several at a time: its entries go into memory, the bytes of its files into a spool on disk. Then the
//! entries are applied in order, and the remaining files are written. So memory grows with the number of entries,
//! no matter how large the files are, it is held only while nothing waits for the network, and nothing that an
//! image says decides where on this machine something is written.

mod entry;
mod fetch;
#[cfg(any(test, fuzzing))]
#[path = "../../tests/fuzz/properties/tar_layers.rs"]
pub mod fuzz;
mod low_speed;
mod queue;
mod scan;
mod tar_reader;
mod tar_writer;
mod tree;
mod wanted;
mod watched;
mod workshop;

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::mem;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use entry::{Entry, Kind, Piece};
pub use fetch::Layers;
pub use scan::{Verdict, scan};
use tar_reader::{Entries, Failure};
use tar_writer::Archive;
use tree::{Change, Content, NodeKind, Tree};
use wanted::Wanted;
pub use watched::Watched;
pub use workshop::{MadeFile, Product, Workshop};

use crate::artifact::Recipe;
use crate::cache::{Cache, Made};
use crate::compression::{self, Compression};
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::parallel::in_parallel;
use crate::tar_header::show;

/// Counts the changes of what is refused: what an older program refused is tried again. What changes the bytes
/// that are made changes [`Recipe::key`] instead.
pub const READER: u32 = 2;
/// What one image may take in memory, in all its layers together.
#[derive(Clone, Copy)]
pub struct Memory {
    /// How many entries there may be.
    entries: u64,
    /// All of them, in bytes.
    bytes: u64,
    /// Paths that no entry spells, in bytes.
    unspelled: usize,
}

impl Memory {
    /// All that it may take, in bytes.
    pub const fn size(&self) -> usize {
        self.bytes as usize + self.unspelled
    }
}

/// Enough for most images, and so little that some may be flattened while a large one is.
pub const SMALL: Memory = Memory {
    entries: 20_000,
    bytes: 6 << 20,
    unspelled: 2 << 20,
};
/// The most that any image may take: some 160,000 entries with names of usual length.
pub const LARGE: Memory = Memory {
    entries: 200_000,
    bytes: 36 << 20,
    unspelled: 4 << 20,
};
/// What an entry takes in memory besides what is of any length in it: as a change that its layer makes, as a place in
/// the tree and as a name there (measured).
const ENTRY: u64 = 176;
/// What an xattr takes in memory besides its name and value.
const XATTR: usize = 160;
/// Bytes of an archive that are no file's, a layer's or ours: headers and filling, for as many entries as there
/// may be.
const MAX_REST: u64 = 1 << 30;
/// The same, as a part of what the files may have, where all of it takes memory.
const REST_IN_MEMORY: u64 = 2;
/// Largest window of a layer of zstd, as a power of two: 32 MiB. docker buildx and buildah ask for that from level 10 on
/// (klauspost/compress, `zstd/encoder_options.go`); zstd itself for 8 MiB, without `--ultra` and `--long`.
const MAX_WINDOW_LOG: u32 = 25;
/// Layers read at once.
const MAX_THREADS: usize = 4;
/// Copied at once, and held back from disk as long as it takes to fill.
const BUFFER: usize = 256 << 10;

/// What one image may still take, of all its layers together.
pub struct Budget {
    /// How many bytes its files may have in all.
    limit: u64,
    /// How many the archive may have, or a layer unpacked.
    most: u64,
    memory: Memory,
    entries: AtomicU64,
    memory_left: AtomicU64,
    /// Bytes of files.
    bytes: AtomicU64,
    /// Bytes of archives, files and all the rest.
    unpacked: AtomicU64,
    /// Did it need more memory than it may take?
    is_outgrown: AtomicBool,
}

impl Budget {
    /// For an image whose files may have `limit` bytes in all.
    pub fn new(limit: u64, memory: Memory) -> Self {
        Self {
            limit,
            most: limit.saturating_add(MAX_REST),
            memory,
            entries: AtomicU64::new(memory.entries),
            memory_left: AtomicU64::new(memory.bytes),
            bytes: AtomicU64::new(limit),
            unpacked: AtomicU64::new(limit.saturating_add(MAX_REST)),
            is_outgrown: AtomicBool::new(false),
        }
    }

    /// The same where the cache is in memory.
    pub fn in_memory(mut self) -> Self {
        self.most = most_in_memory(self.limit);
        self.unpacked = AtomicU64::new(self.most);
        self
    }

    /// Was it refused for want of memory that a larger budget may have?
    pub fn is_outgrown(&self) -> bool {
        self.is_outgrown.load(Ordering::Relaxed)
    }

    /// How many bytes its files have, as far as they were read.
    pub fn taken(&self) -> u64 {
        self.limit - self.bytes.load(Ordering::Relaxed)
    }

    fn take(what: &AtomicU64, n: u64) -> bool {
        what.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(n)
        })
        .is_ok()
    }

    fn take_entry(&self, entry: &Entry) -> Result<(), String> {
        let xattrs = entry.attributes.xattrs.iter();
        let xattrs: usize = xattrs
            .map(|(name, value)| name.len() + value.len() + XATTR)
            .sum();
        let link = match &entry.kind {
            Kind::Symlink(target) | Kind::HardLink(target) => target.len(),
            Kind::File { pieces, .. } => size_of_val(pieces.as_slice()),
            _ => 0,
        };
        let Memory { entries, bytes, .. } = self.memory;
        let size = ENTRY + (entry.path.len() + link + xattrs) as u64;
        let why = if !Self::take(&self.entries, 1) {
            format!("the image has more than {entries} entries")
        } else if !Self::take(&self.memory_left, size) {
            let mib = bytes >> 20;
            format!("the names and attributes in the image take more than {mib} MiB")
        } else {
            return Ok(());
        };
        self.is_outgrown.store(true, Ordering::Relaxed);
        Err(why)
    }
}

/// How many bytes the archive may have whose files may have `limit`, and all layers as they are fetched, where the
/// cache is in memory.
pub fn most_in_memory(limit: u64) -> u64 {
    limit.saturating_add(limit / REST_IN_MEMORY)
}

/// Why nothing of a recipe has to be read: a layer is said to be larger than all that is unpacked of one.
pub fn too_large(recipe: &Recipe, limit: u64) -> Option<Error> {
    let most = limit.saturating_add(MAX_REST);
    let (layer, size) = *recipe.layers.iter().find(|(_, size)| *size > most)?;
    Some(Error::CannotFlatten {
        layer,
        why: format!(
            "it has {size} bytes, at most {most} are read, {limit} of files as 'cache-size' allows"
        ),
    })
}

/// Makes the file.
pub fn flatten(
    fetched: &Layers<'_>,
    recipe: &Recipe,
    cache: &Cache,
    budget: &Budget,
    out: File,
) -> Result<Made> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let numbers: Vec<_> = (0..recipe.layers.len()).collect();
    let read = in_parallel(&numbers, threads.min(MAX_THREADS), |n, stop| {
        let digest = recipe.layers[*n].0;
        let read = (fetched.open(*n)).and_then(|bytes| Layer::read(bytes, digest, budget, cache));
        if read.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        read
    });
    let (mut layers, mut refused) = (Vec::with_capacity(read.len()), None);
    // Where one is missing, another has the error.
    for layer in read.into_iter().flatten() {
        match layer {
            Ok(layer) => layers.push(layer),
            Err(error @ Error::CannotFlatten { .. }) => refused = refused.or(Some(error)),
            // What came instead of this layer may have taken what another was refused for.
            Err(error) => return Err(error),
        }
    }
    if let Some(error) = refused {
        return Err(error);
    }

    let mut tree = Tree::new(budget.memory.unspelled);
    for (n, layer) in layers.iter().enumerate() {
        tree.apply(n, &layer.changes).map_err(|why| {
            if tree.is_full() {
                budget.is_outgrown.store(true, Ordering::Relaxed);
            }
            Error::CannotFlatten {
                layer: recipe.layers[n].0,
                why,
            }
        })?;
    }

    let most = budget.most;
    let mut out = Hashed {
        out: BufWriter::with_capacity(BUFFER, out),
        hasher: Hasher::default(),
        size: 0,
        most,
        is_full: false,
    };
    // What is wrong with all layers together is told of the uppermost one.
    let of_all = |why: String| Error::CannotFlatten {
        layer: recipe.layers[recipe.layers.len() - 1].0,
        why,
    };
    let packed = match &recipe.file {
        None => pack(&tree, &layers, &mut out),
        Some(suffix) => {
            let (layer, content) = wanted(&tree, suffix).map_err(of_all)?;
            let bytes = Part {
                spool: layers[layer].spool.as_ref(),
                offset: content.offset,
            };
            copy(bytes, content.size, &mut out)
        }
    };
    if out.is_full {
        return Err(of_all(format!(
            "with it and those below the archive would have more than {most} bytes"
        )));
    }
    packed.map_err(|cause| cache.cannot_write(cause))?;
    Ok(Made {
        digest: out.hasher.finish(),
        size: out.size,
    })
}

/// The one file of an image whose name ends so: its layer, and where it is in that.
fn wanted(tree: &Tree<'_>, suffix: &str) -> Result<(usize, Content), String> {
    let mut wanted = Wanted::new(suffix);
    tree.visit(|path, node, earlier| -> Result<(), String> {
        // Another name of a file is no other file.
        if let (NodeKind::File(content), None) = (node.kind, earlier) {
            wanted.see(path, (node.layer, *content));
        }
        Ok(())
    })?;
    wanted.found()
}

/// Writes so many bytes, as they are.
fn copy(bytes: impl Read, size: u64, out: &mut impl Write) -> io::Result<()> {
    if io::copy(&mut bytes.take(size), out)? < size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    out.flush()
}

fn pack(tree: &Tree<'_>, layers: &[Layer], out: impl Write) -> io::Result<()> {
    let mut archive = Archive::new(out)?;
    tree.visit(|path, node, earlier| {
        let bytes = Part {
            spool: layers[node.layer].spool.as_ref(),
            offset: match node.kind {
                NodeKind::File(content) => content.offset,
                _ => 0,
            },
        };
        archive.add(path, node, earlier, bytes)
    })?;
    archive.finish()
}

/// Reads the one layer of an image: is it the file that the image is offered as?
pub fn look(fetched: &Layers<'_>, digest: Digest, cache: &Cache) -> Result<Verdict> {
    let mut bytes = fetched.open(0)?;
    let verdict = scan(&mut bytes);
    believe(verdict, bytes, digest, cache)
}

/// What was read of a layer, or why it cannot be flattened. Nothing that a layer says, and no fault of it, is believed
/// before all of it was seen to be right. `rest`: what was not read yet.
fn believe<T>(
    read: Result<T, Failure>,
    mut rest: impl Read,
    layer: Digest,
    cache: &Cache,
) -> Result<T> {
    if let Err(Failure::Read(error)) = &read
        && let Some(error) = own(error)
    {
        return Err(error);
    }
    if let Err(error) = io::copy(&mut rest, &mut io::sink()) {
        return Err(own(&error).unwrap_or_else(|| cache.cannot_write(error)));
    }
    read.map_err(|failure| Error::CannotFlatten {
        layer,
        why: match failure {
            Failure::Refused(why) => why,
            Failure::Read(error) => format!("it cannot be unpacked: {error}"),
        },
    })
}

/// A layer that was read.
struct Layer {
    changes: Vec<Change>,
    spool: Option<File>,
}

impl Layer {
    /// Reads a layer. Its bytes are known to be right when all of them were read without an error.
    fn read(mut bytes: impl Read, digest: Digest, budget: &Budget, cache: &Cache) -> Result<Self> {
        let read = Self::unpack(&mut bytes, budget, cache);
        believe(read, bytes, digest, cache)
    }

    fn unpack(blob: &mut impl Read, budget: &Budget, cache: &Cache) -> Result<Self, Failure> {
        let limit = budget.limit;
        let unpacked = Bounded {
            inner: unpack(blob)?,
            budget,
        };
        let mut archive = Entries::new(unpacked);
        let mut spool = Spool::new(cache);
        let mut layer = Self {
            changes: Vec::new(),
            spool: None,
        };
        while let Some(mut entry) = archive.next()? {
            budget.take_entry(&entry).map_err(Failure::Refused)?;
            let mut content = Content::default();
            if let Kind::File { size, pieces } = &mut entry.kind {
                if !Budget::take(&budget.bytes, *size) {
                    return Err(Failure::Refused(format!(
                        "{}: the files of the image take more than {limit} bytes, which is all that \
                         'cache-size' allows",
                        show(&entry.path)
                    )));
                }
                content = spool.keep(*size, &mem::take(pieces), &mut archive)?;
            }
            layer.changes.push(Change::new(entry, content));
        }
        archive.drain()?;
        layer.spool = spool.finish()?;
        Ok(layer)
    }
}

/// The archive in a layer: packed with gzip or zstd, or as it is.
fn unpack<'a>(layer: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    match Compression::detect(layer)? {
        (None, archive) => Ok(Box::new(archive)),
        (Some(Compression::Gzip), packed) => Ok(Box::new(compression::gzip(packed))),
        (Some(Compression::Zstd), packed) => {
            let what = || "a layer of zstd".into();
            Ok(Box::new(compression::zstd(packed, MAX_WINDOW_LOG, what)?))
        }
        (Some(other), _) => Err(io::Error::other(format!(
            "it is packed with {}; layers are gzip, zstd or plain tar",
            other.name()
        ))),
    }
}

/// Fails where there is more than there should be in all layers: a few bytes can unpack to any number of them.
struct Bounded<'a, R> {
    inner: R,
    budget: &'a Budget,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        if !Budget::take(&self.budget.unpacked, n as u64) {
            let most = self.budget.most;
            let why = format!("with it there are more than {most} bytes in the layers");
            return Err(io::Error::other(why));
        }
        Ok(n)
    }
}

/// What of our own went wrong, if that is what an error says.
fn own(error: &io::Error) -> Option<Error> {
    error.get_ref()?.downcast_ref::<Error>().cloned()
}

/// Keeps the bytes of files, one after the other.
struct Spool<'a> {
    cache: &'a Cache,
    file: Option<BufWriter<File>>,
    /// Where the file's next bytes would go; it may not have been opened yet.
    at: u64,
    /// Where what is kept next begins.
    end: u64,
    buffer: Vec<u8>,
}

impl<'a> Spool<'a> {
    /// A file is opened when there is something to keep.
    fn new(cache: &'a Cache) -> Self {
        Self {
            cache,
            file: None,
            at: 0,
            end: 0,
            buffer: Vec::new(),
        }
    }

    /// Keeps one. What is between its pieces takes no space.
    fn keep<R: Read>(
        &mut self,
        size: u64,
        pieces: &[Piece],
        archive: &mut Entries<R>,
    ) -> Result<Content, Failure> {
        let content = Content {
            offset: self.end,
            size,
        };
        let cache = self.cache;
        let own = |cause| Failure::Read(io::Error::other(cache.cannot_write(cause)));
        for piece in pieces.iter().filter(|piece| piece.size > 0) {
            let file = match &mut self.file {
                Some(file) => file,
                None => {
                    self.buffer = vec![0; BUFFER];
                    let file = (cache.scratch())
                        .map_err(|error| Failure::Read(io::Error::other(error)))?;
                    self.file.insert(BufWriter::with_capacity(BUFFER, file))
                }
            };
            let at = content.offset + piece.offset;
            if at != self.at {
                file.seek(SeekFrom::Start(at)).map_err(own)?;
            }
            let mut left = piece.size;
            while left > 0 {
                let want = BUFFER.min(usize::try_from(left).unwrap_or(usize::MAX));
                let n = archive.read(&mut self.buffer[..want])?;
                file.write_all(&self.buffer[..n]).map_err(own)?;
                left -= n as u64;
            }
            self.at = at + piece.size;
        }
        self.end += size;
        Ok(content)
    }

    fn finish(self) -> Result<Option<File>, Failure> {
        let cache = self.cache;
        let own = |cause| Failure::Read(io::Error::other(cache.cannot_write(cause)));
        match self.file {
            None => Ok(None),
            Some(file) => {
                let file = file.into_inner().map_err(|error| own(error.into_error()))?;
                file.set_len(self.end).map_err(own)?;
                Ok(Some(file))
            }
        }
    }
}

/// The bytes of one file in a spool. Without a spool all of them are zeros.
struct Part<'a> {
    spool: Option<&'a File>,
    offset: u64,
}

impl Read for Part<'_> {
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

/// Writes, counts and hashes, up to `most` bytes.
struct Hashed<W> {
    out: W,
    hasher: Hasher,
    size: u64,
    most: u64,
    is_full: bool,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.most - self.size {
            self.is_full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let n = self.out.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_written_than_may_be() {
        let mut out = Hashed {
            out: Vec::new(),
            hasher: Hasher::default(),
            size: 0,
            most: 5,
            is_full: false,
        };
        out.write_all(b"abc").unwrap();
        out.write_all(b"de").unwrap();
        assert!(!out.is_full);
        out.write_all(b"f").unwrap_err();
        assert!(out.is_full);
        assert_eq!((out.size, out.out), (5, b"abcde".to_vec()));
    }
}
