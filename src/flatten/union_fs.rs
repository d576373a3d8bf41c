//! Names and xattrs with a meaning for OCI layers, overlayfs and aufs: whiteouts, and files of their own.

use crate::tar::{Entry, Kind, Xattrs};

/// The prefix of a whiteout: the name of the removed file follows.
pub const WHITEOUT: &[u8] = b".wh.";
/// The file that marks a directory as opaque: its files in lower layers are removed.
pub const OPAQUE: &[u8] = b".wh..wh..opq";
/// The prefix of aufs's own files.
const OF_AUFS: &[u8] = b".wh..wh.";
/// The prefixes of overlayfs's own xattrs: as root, in a user namespace, and of fuse-overlayfs.
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

/// Whether an entry has a meaning in a layer that it does not have in an ordinary archive: whiteouts, and files and xattrs
/// of overlayfs and aufs.
pub fn is_of_layers(entry: &Entry) -> bool {
    let mut xattrs = entry.attributes.xattrs.iter();
    split(&entry.path).1.starts_with(WHITEOUT)
        || is_of_aufs(&entry.path)
        || entry.kind == Kind::CharacterDevice(0, 0)
        || xattrs.any(|(name, _)| overlay_name(name).is_some())
}

/// Whether this is one of aufs's own files, or is in a directory of aufs. [`OPAQUE`] is not.
pub fn is_of_aufs(path: &[u8]) -> bool {
    let (directory, name) = split(path);
    directory
        .split(|byte| *byte == b'/')
        .any(|component| component.starts_with(OF_AUFS))
        || name.starts_with(OF_AUFS) && name != OPAQUE
}

/// aufs's own directory in the root of the image that a path is in.
pub fn directory_of_aufs(path: &[u8]) -> Option<&[u8]> {
    let first = path.split(|byte| *byte == b'/').next()?;
    (first.starts_with(OF_AUFS) && first != OPAQUE).then_some(first)
}

/// The meaning of the overlayfs xattrs of a file: a whiteout, or an opaque directory.
#[derive(Default)]
pub struct OverlayMarks {
    pub is_whiteout: bool,
    pub is_opaque: bool,
}

impl OverlayMarks {
    /// Removes the xattrs of overlayfs.
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

/// The name of an xattr of overlayfs without its prefix; `None` for other xattrs.
fn overlay_name(name: &[u8]) -> Option<&[u8]> {
    OF_OVERLAY
        .iter()
        .find_map(|prefix| name.strip_prefix(*prefix))
}
