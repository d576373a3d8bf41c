//! Layers are flattened as in [`super::flatten`], one after the other on this thread.

#![allow(clippy::unwrap_used, reason = "work that fails is a panic")]

use std::io::Write;

use super::{Budget, Hashed, LARGE, Layer, Limits, Tree, apply, pack};
use crate::cache::Cache;
use crate::digest::Digest;

/// Most bytes that an image may take.
const LIMIT: u64 = 1 << 30;

/// Flattens layers that are in memory.
pub fn flatten(layers: &[Vec<u8>], cache: &Cache, out: &mut impl Write) {
    let budget = Budget::new(Limits::new(LIMIT, false), LARGE);
    // The name of a layer is only for messages.
    let name = Digest::of(b"");
    let read = |bytes: &Vec<u8>| Layer::read(&bytes[..], name, &budget, cache).unwrap();
    let layers: Vec<_> = layers.iter().map(read).collect();
    let mut tree = Tree::new(budget.memory.implied);
    for (n, layer) in layers.iter().enumerate() {
        apply::apply(&mut tree, n, &layer.changes).unwrap();
    }
    let mut out = Hashed::new(out, budget.limits.archive);
    pack(&tree, &layers, &mut out).unwrap();
    std::hint::black_box(out.hasher.finish());
}
