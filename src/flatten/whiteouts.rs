//! Whiteouts and opaque directories: how a layer removes files of lower layers.
//!
//! They come in three forms. That of the OCI image specification is an empty file (`.wh.NAME`, `.wh..wh..opq`). Those of
//! overlayfs, device 0:0 and xattrs, are applied as well, because passed on they would hide files of the host. Files
//! that aufs keeps for itself are dropped, as Docker does (`pkg/archive/diff.go`).
//!
//! Rules: <https://github.com/opencontainers/image-spec/blob/main/layer.md> ("Whiteouts"),
//! <https://docs.kernel.org/filesystems/overlayfs.html> ("whiteouts and opaque directories").

use std::cell::LazyCell;
use std::collections::HashSet;

use super::entry::{Entry, Kind, Xattrs};
use super::tree::{Action, Change, NodeKind, Refused, Tree, split};
use crate::tar_header::show;

/// Before the name of a file that is removed.
const WHITEOUT: &[u8] = b".wh.";
/// In a directory, all of whose files in lower layers are removed.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Before the names of aufs's own files.
const OF_AUFS: &[u8] = b".wh..wh.";
/// Before the names of overlayfs's own xattrs: as root, in a user namespace, and fuse-overlayfs's.
const OF_OVERLAY: [&[u8]; 3] = [
    b"trusted.overlay.",
    b"user.overlay.",
    b"user.fuseoverlayfs.",
];

/// The whiteouts of one layer.
pub struct Whiteouts<'a> {
    changes: &'a [Change],
    /// The paths of those in overlayfs's form.
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

    /// Removes from the tree all that these whiteouts hide. The layer's own files are not in it yet.
    pub fn apply(&self, tree: &mut Tree<'a>) -> Result<(), Refused> {
        // Paths where this layer puts something else than a symlink.
        let solid = LazyCell::new(|| -> HashSet<&[u8]> {
            let is_symlink =
                |change: &Change| matches!(change.action, Action::Put(NodeKind::Symlink(_)));
            let solid = self.changes.iter().filter(|change| !is_symlink(change));
            solid.map(|change| &*change.path).collect()
        });
        for change in self.changes {
            if let Some((directory, name)) = self.hidden_by(change) {
                // A symlink that the layer replaces leads nowhere any more.
                tree.follow(directory, |symlink| solid.contains(symlink))
                    .and_then(|way| match way.and_then(|way| way.end()) {
                        Some(directory) => tree.white_out(directory, name),
                        None => Ok(()),
                    })
                    .map_err(|why| format!("{}: {why}", show(&change.path)))?;
            }
        }
        Ok(())
    }

    /// The directory in which a change hides files, and the one name that it hides; without a name it hides all.
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

    /// Whether a change is a whiteout and no file of the image.
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

/// Whether an entry means something in a layer that it does not mean in an archive: whiteouts do, and other files and
/// xattrs of overlayfs and aufs.
pub fn is_of_layers(entry: &Entry) -> bool {
    let mut xattrs = entry.attributes.xattrs.iter();
    split(&entry.path).1.starts_with(WHITEOUT)
        || is_of_aufs(&entry.path)
        || entry.kind == Kind::CharacterDevice(0, 0)
        || xattrs.any(|(name, _)| overlay_name(name).is_some())
}

/// Whether this is a file of aufs's own or in a directory of such. The mark of an opaque directory is none.
pub fn is_of_aufs(path: &[u8]) -> bool {
    let (directory, name) = split(path);
    directory
        .split(|byte| *byte == b'/')
        .any(|component| component.starts_with(OF_AUFS))
        || name.starts_with(OF_AUFS) && name != OPAQUE
}

/// The directory of aufs's own that a path is in, where that is in the root of the image.
pub fn directory_of_aufs(path: &[u8]) -> Option<&[u8]> {
    let first = path.split(|byte| *byte == b'/').next()?;
    (first.starts_with(OF_AUFS) && first != OPAQUE).then_some(first)
}

/// Whether a file's xattrs of overlayfs make it a whiteout, and a directory opaque.
#[derive(Default)]
pub struct OverlayMarks {
    pub is_whiteout: bool,
    pub is_opaque: bool,
}

impl OverlayMarks {
    /// Removes overlayfs's own from a file's xattrs.
    pub fn take_from(xattrs: &mut Xattrs) -> Self {
        let mut marks = Self::default();
        xattrs.retain(|name, value| {
            let overlay_name = overlay_name(name);
            match overlay_name {
                Some(b"whiteout") => marks.is_whiteout = true,
                Some(b"opaque") => marks.is_opaque |= value == b"y",
                _ => {}
            }
            overlay_name.is_none()
        });
        marks
    }
}

/// The name of one of overlayfs's own xattrs, behind its prefix.
fn overlay_name(name: &[u8]) -> Option<&[u8]> {
    OF_OVERLAY
        .iter()
        .find_map(|prefix| name.strip_prefix(*prefix))
}
