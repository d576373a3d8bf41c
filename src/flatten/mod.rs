//! Flattens the layers of a container image into one `.tar.gz`.
//!
//! ```text
//! fetch ─▶ layer ─▶ apply: whiteouts, tree ─▶ tar_writer
//!            └─▶ spool ────────────────────────────┘
//! ```
//!
//! First, all layers that the cache lacks are fetched to disk and verified. This may take long, and needs no memory. Then
//! each layer is read once, several at a time: entries go into memory, the bytes of files into a spool on disk. Then the
//! entries are applied in order, and the remaining files are written. So memory grows with the number of entries, not
//! with the size of files, and it is held only while nothing waits for the network. Nothing in an image decides where on
//! this machine something is written.

mod apply;
mod budget;
mod change;
mod fetch;
mod flattener;
#[cfg(any(test, fuzzing))]
#[path = "../../tests/fuzz/properties/tar_layers.rs"]
pub mod fuzz;
#[cfg(any(test, feature = "instructions"))]
#[path = "../../tests/instructions/flatten.rs"]
pub mod instructions;
mod job;
mod layer;
mod low_speed;
mod queue;
mod scan;
mod scanning;
mod suffix_search;
mod tar_writer;
mod tree;
mod union_fs;
mod whiteouts;

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::thread;

use budget::{Budget, LARGE, Limits, Memory, SMALL};
use change::NodeKind;
use fetch::Begun;
pub use fetch::Layers;
pub use flattener::{FlattenedFile, Flattener};
pub use job::Product;
use layer::Layer;
pub use layer::scan_layer;
pub use scan::{Verdict, scan};
pub use scanning::ScanningReader;
use suffix_search::SuffixSearch;
use tar_writer::Archive;
use tree::{Node, Tree};

use crate::artifact::Recipe;
use crate::cache::{Cache, Flattened};
use crate::digest::Hasher;
use crate::error::{Error, Result};
use crate::parallel::in_parallel;

/// Version of the rules by which an image is refused. A program with other rules tries an image again that this one
/// refused. Whatever changes the bytes of flattened images changes [`Recipe::key`] instead.
pub const READER: u32 = 2;
/// Layers read at once.
const MAX_THREADS: usize = 4;
/// Bytes written to disk or copied at once.
const BUFFER: usize = 256 << 10;

/// Flattens the layers of a recipe into `out`.
pub fn flatten(
    fetched: &Layers<'_>,
    recipe: &Recipe,
    cache: &Cache,
    budget: &Budget,
    out: File,
) -> Result<Flattened> {
    let layers = read_layers(fetched, recipe, cache, budget)?;
    let refused = |n: usize, why| Error::CannotFlatten {
        layer: recipe.layers[n].0,
        why,
    };
    let mut tree = Tree::new(budget.memory.implied);
    for (n, layer) in layers.iter().enumerate() {
        let applied = apply::apply(&mut tree, n, &layer.changes);
        if tree.is_full() {
            budget.outgrow();
        }
        applied.map_err(|why| refused(n, why))?;
    }

    let mut out = Hashed::new(out, budget.limits.archive);
    // A reason that concerns the whole image names its uppermost layer.
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
    Ok(Flattened {
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
    // `None`: not begun, because another layer failed.
    for layer in read.into_iter().flatten() {
        match layer {
            Ok(layer) => layers.push(layer),
            Err(error @ Error::CannotFlatten { .. }) => refused = refused.or(Some(error)),
            // This layer had wrong bytes, and they may have used up the budget for which another was refused.
            Err(error) => return Err(error),
        }
    }
    refused.map_or(Ok(layers), Err)
}

/// The one file of an image whose name ends in this suffix.
fn wanted<'a>(tree: &'a Tree<'_>, suffix: &str) -> Result<Node<'a>, String> {
    let mut search = SuffixSearch::new(suffix);
    tree.visit(|path, node, earlier| -> Result<(), String> {
        // A hard link counts once.
        if let (NodeKind::File(_), None) = (node.kind, earlier) {
            search.see(path, node);
        }
        Ok(())
    })?;
    search.found()
}

/// Copies the first `size` bytes of a reader.
fn copy(bytes: impl Read, size: u64, out: &mut impl Write) -> io::Result<()> {
    let mut bytes = BufReader::with_capacity(BUFFER, bytes.take(size));
    if io::copy(&mut bytes, out)? < size {
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

/// Counts and hashes what is written. More than `most` bytes are an error.
struct Hashed<W> {
    out: W,
    hasher: Hasher,
    size: u64,
    most: u64,
    is_full: bool,
}

impl<W> Hashed<W> {
    fn new(out: W, most: u64) -> Self {
        Self {
            out,
            hasher: Hasher::default(),
            size: 0,
            most,
            is_full: false,
        }
    }
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
        let mut out = Hashed::new(Vec::new(), 5);
        out.write_all(b"abc").unwrap();
        out.write_all(b"de").unwrap();
        assert!(!out.is_full);
        out.write_all(b"f").unwrap_err();
        assert!(out.is_full);
        assert_eq!((out.size, out.out), (5, b"abcde".to_vec()));
    }
}
