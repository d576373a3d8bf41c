//! Whiteouts and opaque directories: how a layer removes files of lower layers.
//!
//! There are three forms. The OCI image specification has empty files (`.wh.NAME`, `.wh..wh..opq`). overlayfs has devices
//! 0:0 and xattrs; they are applied as well, because in the flattened image they would hide files of the host. aufs's own
//! files are dropped, as Docker does (`pkg/archive/diff.go`).
//!
//! Rules: <https://github.com/opencontainers/image-spec/blob/main/layer.md> ("Whiteouts"),
//! <https://docs.kernel.org/filesystems/overlayfs.html> ("whiteouts and opaque directories").

use std::cell::LazyCell;
use std::collections::HashSet;

use super::change::{Action, Change, NodeKind};
use super::tree::{Refused, Tree};
use super::union_fs::{OPAQUE, WHITEOUT, is_of_aufs, split};
use crate::tar::show;

/// The whiteouts of one layer.
pub struct Whiteouts<'a> {
    changes: &'a [Change],
    /// The paths of those in the form of overlayfs.
    of_overlay: HashSet<&'a [u8]>,
}

impl<'a> Whiteouts<'a> {
    pub fn of(changes: &'a [Change]) -> Self {
        let of_overlay = changes
            .iter()
            .filter(|change| matches!(change.action, Action::WhiteOut))
            .map(|change| &*change.path)
            .collect();
        Self {
            changes,
            of_overlay,
        }
    }

    /// Removes the hidden files from the tree. The layer's own files are not in it yet.
    pub fn apply(&self, tree: &mut Tree<'a>) -> Result<(), Refused> {
        // Paths where this layer puts a file that is not a symlink.
        let solid = LazyCell::new(|| -> HashSet<&[u8]> {
            let is_symlink =
                |change: &Change| matches!(change.action, Action::Put(NodeKind::Symlink(_)));
            let solid = self.changes.iter().filter(|change| !is_symlink(change));
            solid.map(|change| &*change.path).collect()
        });
        for change in self.changes {
            if let Some((directory, name)) = self.hidden_by(change) {
                // A symlink that this layer replaces is not followed.
                tree.resolve(directory, |symlink| solid.contains(symlink))
                    .and_then(
                        |resolved| match resolved.and_then(|resolved| resolved.end()) {
                            Some(directory) => tree.white_out(directory, name),
                            None => Ok(()),
                        },
                    )
                    .map_err(|why| format!("{}: {why}", show(&change.path)))?;
            }
        }
        Ok(())
    }

    /// The directory in which a change hides files, and the name that it hides; without a name it hides all files there.
    fn hidden_by(&self, change: &'a Change) -> Option<(&'a [u8], Option<&'a [u8]>)> {
        let (directory, name) = split(&change.path);
        if is_of_aufs(&change.path) {
            None
        } else if name == OPAQUE {
            Some((directory, None))
        } else if matches!(change.action, Action::PutOpaque) {
            Some((&change.path, None))
        } else if self.is_of_overlay(change) {
            Some((directory, Some(name)))
        } else {
            Some((directory, Some(name.strip_prefix(WHITEOUT)?)))
        }
    }

    /// Whether a change is a whiteout.
    pub fn has(&self, change: &Change) -> bool {
        self.is_of_overlay(change) || split(&change.path).1.starts_with(WHITEOUT)
    }

    fn is_of_overlay(&self, change: &Change) -> bool {
        match &change.action {
            Action::WhiteOut => true,
            // overlayfs links its whiteouts to one file.
            Action::Link(target) => self.of_overlay.contains(&**target),
            _ => false,
        }
    }
}
