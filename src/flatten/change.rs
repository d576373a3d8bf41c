//! The change that an entry of a layer makes to the image.

use super::union_fs::OverlayMarks;
use crate::tar::{Attributes, Entry, Kind};

/// A change that a layer makes at one path. Many are kept at once, so it is small.
#[derive(Debug)]
pub struct Change {
    pub path: Box<[u8]>,
    pub action: Action,
    pub attributes: Attributes,
}

#[derive(Debug)]
pub enum Action {
    /// Puts a file or directory there.
    Put(NodeKind),
    /// Puts a directory there, and removes all that lower layers have in it.
    PutOpaque,
    /// Gives the file at that path another name.
    Link(Box<[u8]>),
    /// Removes what lower layers have there.
    WhiteOut,
}

/// The kind of a file, and its contents.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeKind {
    File(Content),
    Directory,
    Symlink(Box<[u8]>),
    CharacterDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// The bytes of a file: where they are in the spool of its layer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Content {
    pub offset: u64,
    pub size: u64,
}

impl Change {
    /// `content`: the bytes of a file.
    pub fn new(entry: Entry, content: Content) -> Self {
        let mut attributes = entry.attributes;
        let marks = OverlayMarks::take_from(&mut attributes.xattrs);
        let action = match entry.kind {
            Kind::CharacterDevice(0, 0) => Action::WhiteOut,
            Kind::File { .. } if content.size == 0 && marks.is_whiteout => Action::WhiteOut,
            Kind::Directory if marks.is_opaque => Action::PutOpaque,
            Kind::HardLink(target) => Action::Link(target.into()),
            Kind::File { .. } => Action::Put(NodeKind::File(content)),
            Kind::Directory => Action::Put(NodeKind::Directory),
            Kind::Symlink(target) => Action::Put(NodeKind::Symlink(target.into())),
            Kind::CharacterDevice(major, minor) => {
                Action::Put(NodeKind::CharacterDevice(major, minor))
            }
            Kind::BlockDevice(major, minor) => Action::Put(NodeKind::BlockDevice(major, minor)),
            Kind::Fifo => Action::Put(NodeKind::Fifo),
        };
        Self {
            path: entry.path.into(),
            action,
            attributes,
        }
    }

    /// The kind of the file that it puts there.
    pub fn kind(&self) -> &NodeKind {
        match &self.action {
            Action::Put(kind) => kind,
            _ => &NodeKind::Directory,
        }
    }
}
