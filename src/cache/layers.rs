//! Layers of flattened images, as their sources sent them: an image that shares layers with an earlier one costs only the
//! others.

use std::fs::File;
use std::time::SystemTime;

use log::debug;

use super::flattened::{discard_same, is_right};
use super::{Cache, Flattened, LAYERS, Unfinished};
use crate::digest::Digest;
use crate::dir::Dir;

impl Cache {
    /// Whether a layer of this size may be kept. None is where the cache is in memory: there the room is for flattened
    /// images, and little is left of a cache when the next version appears.
    pub fn keeps_layer(&self, size: u64) -> bool {
        self.root.is_some() && !self.is_in_memory && size <= self.size / 2
    }

    /// Whether a layer of this size is there. It may be damaged.
    pub fn has_layer(&self, digest: Digest, size: u64) -> bool {
        let entry = self.folder(LAYERS).and_then(|it| it.entry(digest.hex()));
        entry.is_some_and(|entry| entry.is_file && entry.len == size)
    }

    /// The file of a layer, if it is there and undamaged. It counts as used now.
    ///
    /// A damaged one is removed. One of another size is not: `size` may be the mistake of one manifest.
    pub fn layer(&self, digest: Digest, size: u64) -> Option<File> {
        if !self.has_layer(digest, size) {
            return None;
        }
        let (folder, name) = (self.folder(LAYERS)?, digest.hex());
        let file = folder.file(&name).ok()?;
        if !is_right(&file, Flattened { digest, size }) {
            discard_same(&folder, &name, &file);
            return None;
        }
        folder.set_used(&file, SystemTime::now());
        Some(file)
    }

    /// Keeps a layer whose digest was checked. [`Cache::make_room`] has to follow. A layer that cannot be kept is still
    /// there to be read.
    pub fn keep_layer(&self, unfinished: &Unfinished, digest: Digest) {
        let Some(root) = &self.root else { return };
        let folder = Dir::create(root).and_then(|root| root.create_sub(LAYERS));
        if let Err(error) = folder.and_then(|it| unfinished.keep_as(&it, &digest.hex())) {
            debug!("layer {digest} is not kept: {error}");
        }
    }

    /// Removes all layers except these. Returns whether there were any.
    pub fn drop_layers(&self, except: &[(Digest, u64)]) -> bool {
        let Some(folder) = self.folder(LAYERS) else {
            return false;
        };
        let names: Vec<_> = except.iter().map(|(digest, _)| digest.hex()).collect();
        let entries = folder.entries().unwrap_or_default().into_iter();
        let others = entries.filter(|entry| !names.iter().any(|name| entry.name == **name));
        let removed = others.filter(|entry| folder.remove(&entry.name).is_ok());
        removed.count() > 0
    }
}
