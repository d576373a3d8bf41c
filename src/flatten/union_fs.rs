//! The names and xattrs by which OCI layers, overlayfs and aufs say that a file is removed, or is their own.

use crate::tar::{Entry, Kind, Xattrs};

/// Before the name of a file that is removed.
pub const WHITEOUT: &[u8] = b".wh.";
/// In a directory, all of whose files in lower layers are removed.
pub const OPAQUE: &[u8] = b".wh..wh..opq";
/// Before the names of aufs's own files.
const OF_AUFS: &[u8] = b".wh..wh.";
/// Before the names of overlayfs's own xattrs: as root, in a user namespace, and fuse-overlayfs's.
const OF_OVERLAY: [&[u8]; 3] = [
    b"trusted.overlay.",
    b"user.overlay.",
    b"user.fuseoverlayfs.",
];

/// The directory of a path, empty for the root, and its last component.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
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
