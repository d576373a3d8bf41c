//! A container image's layers → one `.tar.gz`.
//!
//! ```text
//! fetch ─▶ layer: tar_reader ─▶ apply: whiteouts, tree ─▶ tar_writer
//!            └─▶ spool ───────────────────────────────────┘
//! ```
//!
//! First all layers are fetched to disk and verified, which may take long and takes no memory. Then each is read
//! once, several at a time: its entries go into memory, the bytes of its files into a spool on disk. Then the
//! entries are applied in order, and the remaining files are written. So memory grows with the number of entries, not
//! with the size of files; it is held only while nothing waits for the network; and nothing that an image says decides
//! where on this machine something is written.

mod apply;
mod budget;
mod change;
mod fetch;
#[cfg(any(test, fuzzing))]
#[path = "../../tests/fuzz/properties/tar_layers.rs"]
pub mod fuzz;
mod job;
mod layer;
mod low_speed;
mod queue;
mod scan;
mod tar_writer;
mod tree;
mod union_fs;
mod wanted;
mod watched;
mod whiteouts;
mod workshop;

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::thread;

use budget::{Budget, LARGE, Limits, Memory, SMALL};
use change::NodeKind;
pub use fetch::Layers;
pub use job::Product;
use layer::Layer;
pub use layer::look;
pub use scan::{Verdict, scan};
use tar_writer::Archive;
use tree::{Node, Tree};
use wanted::Wanted;
pub use watched::Watched;
pub use workshop::{MadeFile, Workshop};

use crate::artifact::Recipe;
use crate::cache::{Cache, Made};
use crate::digest::Hasher;
use crate::error::{Error, Result};
use crate::parallel::in_parallel;

/// Counts the changes of what is refused: an image that an older program refused is tried again. A change of the
/// bytes that are made changes [`Recipe::key`] instead.
pub const READER: u32 = 2;
/// Layers read at once.
const MAX_THREADS: usize = 4;
/// Bytes held back from disk until so many are written.
const BUFFER: usize = 256 << 10;

/// Makes the file of a recipe.
pub fn flatten(
    fetched: &Layers<'_>,
    recipe: &Recipe,
    cache: &Cache,
    budget: &Budget,
    out: File,
) -> Result<Made> {
    let layers = read_layers(fetched, recipe, cache, budget)?;
    let refused = |n: usize, why| Error::CannotFlatten {
        layer: recipe.layers[n].0,
        why,
    };
    let mut tree = Tree::new(budget.memory.unspelled);
    for (n, layer) in layers.iter().enumerate() {
        let applied = apply::apply(&mut tree, n, &layer.changes);
        if tree.is_full() {
            budget.outgrow();
        }
        applied.map_err(|why| refused(n, why))?;
    }

    let mut out = Hashed {
        out: BufWriter::with_capacity(BUFFER, out),
        hasher: Hasher::default(),
        size: 0,
        most: budget.limits.archive,
        is_full: false,
    };
    // The uppermost layer stands for all of them in messages.
    let last = layers.len().saturating_sub(1);
    let written = match &recipe.file {
        None => pack(&tree, &layers, &mut out),
        Some(suffix) => {
            let node = wanted(&tree, suffix).map_err(|why| refused(last, why))?;
            copy(
                layers[node.layer].bytes(node),
                node.content().size,
                &mut out,
            )
        }
    };
    if out.is_full {
        let why = format!(
            "with it and those below the archive would have more than {} bytes",
            out.most
        );
        return Err(refused(last, why));
    }
    written.map_err(|cause| cache.cannot_write(cause))?;
    Ok(Made {
        digest: out.hasher.finish(),
        size: out.size,
    })
}

/// Reads the layers, several at a time.
fn read_layers(
    fetched: &Layers<'_>,
    recipe: &Recipe,
    cache: &Cache,
    budget: &Budget,
) -> Result<Vec<Layer>> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let numbers: Vec<_> = (0..recipe.layers.len()).collect();
    let read = |n: &usize| Layer::read(fetched.open(*n)?, recipe.layers[*n].0, budget, cache);
    let read = in_parallel(&numbers, threads.min(MAX_THREADS), read, Result::is_err);
    let (mut layers, mut refused) = (Vec::with_capacity(read.len()), None);
    // A layer that was not read comes with one that has an error.
    for layer in read.into_iter().flatten() {
        match layer {
            Ok(layer) => layers.push(layer),
            Err(error @ Error::CannotFlatten { .. }) => refused = refused.or(Some(error)),
            // The bytes that came instead of this layer may have taken what another was refused for.
            Err(error) => return Err(error),
        }
    }
    refused.map_or(Ok(layers), Err)
}

/// The one file of an image whose name ends in this suffix.
fn wanted<'a>(tree: &'a Tree<'_>, suffix: &str) -> Result<Node<'a>, String> {
    let mut wanted = Wanted::new(suffix);
    tree.visit(|path, node, earlier| -> Result<(), String> {
        // Another name of a file is no other file.
        if let (NodeKind::File(_), None) = (node.kind, earlier) {
            wanted.see(path, node);
        }
        Ok(())
    })?;
    wanted.found()
}

/// Writes the first bytes of a reader, as they are.
fn copy(bytes: impl Read, size: u64, out: &mut impl Write) -> io::Result<()> {
    if io::copy(&mut bytes.take(size), out)? < size {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    out.flush()
}

fn pack(tree: &Tree<'_>, layers: &[Layer], out: impl Write) -> io::Result<()> {
    let mut archive = Archive::new(out)?;
    tree.visit(|path, node, earlier| {
        archive.add(path, node, earlier, layers[node.layer].bytes(node))
    })?;
    archive.finish()
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
