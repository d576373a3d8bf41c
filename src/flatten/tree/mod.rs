//! The tree of files of an image, to which layers make their changes. No I/O.
//!
//! Rules: <https://github.com/opencontainers/image-spec/blob/main/layer.md> ("Applying Changesets"). Where they are
//! silent, this does as umoci does (`oci/layer/tar_extract.go`): the attributes in the entry of a hard link are ignored,
//! a directory replaces a symlink, and symlinks in lower layers are followed on the way to a path. `tests/e2e/flatten`
//! compares both. These cases differ from umoci:
//!
//! * A path that leads out of the image by `..` is refused; umoci leads it back in.
//! * Whiteouts are applied first, as the rules demand. umoci applies them in the order of the archive: there a directory
//!   with new files outlives a whiteout that stands after them, and a hard link to a file that was hidden before it is
//!   an error.
//! * Directories without an entry in any layer always have the same attributes; umoci gives them the current time.
//! * Hard links to files in aufs's own directories stay.

#[cfg(test)]
mod model_tests;
mod resolve;
#[cfg(test)]
mod tests;

use std::collections::btree_map::Range;
use std::collections::{BTreeMap, HashMap, HashSet};

use resolve::{Resolved, too_long};

use super::change::{Action, Change, Content, NodeKind};
use super::union_fs::{is_of_aufs, split};
use crate::tar::{Attributes, MAX_PATH, show};

/// The mode of directories that no layer has an entry for. Their time is 1970, and root owns them.
const IMPLIED_MODE: u32 = 0o755;
/// Memory that an implied directory takes besides its path, which is written to the archive.
const IMPLIED_SIZE: usize = 256;

/// The reason why a layer cannot be applied, with the path of the entry.
pub type Refused = String;

/// A file of the image.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    pub kind: &'a NodeKind,
    pub attributes: &'a Attributes,
    /// The layer that its bytes are in, counted from the lowest.
    pub layer: usize,
}

impl Node<'_> {
    /// Its content. Only files have one.
    pub fn content(&self) -> Content {
        match self.kind {
            NodeKind::File(content) => *content,
            _ => Content::default(),
        }
    }
}

/// Number of a file in the tree: an index into [`Tree::inodes`].
type Ino = u32;

/// A directory, and a name in it.
type Name<'a> = (Ino, &'a [u8]);

const ROOT: Ino = 0;

#[derive(Clone, Copy, Debug)]
struct Inode<'a> {
    /// The directory of its first name, and that name. A directory has no other name. Two fields, for they take less
    /// memory than a pair.
    parent: Ino,
    name: &'a [u8],
    /// The change that made it; `None` for an implied directory.
    put: Option<&'a Change>,
    layer: u32,
}

/// The files of an image.
#[derive(Debug)]
pub struct Tree<'a> {
    inodes: Vec<Inode<'a>>,
    /// Files by name. The files of a directory that was removed stay here; no name leads to them.
    names: BTreeMap<Name<'a>, Ino>,
    /// Files that were given a second name: few of many.
    linked: HashSet<Ino>,
    /// Files that whiteouts of the current layer removed: its hard links may still mean them.
    removed: HashMap<Name<'a>, Ino>,
    /// Directories that the current layer replaced by other files.
    replaced: HashMap<Name<'a>, Ino>,
    /// The attributes of implied directories.
    implied_attributes: Attributes,
    /// Components of paths looked at so far.
    steps: u64,
    /// Memory for paths without an entry, in bytes.
    implied: usize,
    max_implied: usize,
}

impl<'a> Tree<'a> {
    /// An empty tree. `max_implied`: bytes of memory for paths without an entry: implied directories, of which a single
    /// deep path can have thousands, and paths that symlinks make longer.
    pub fn new(max_implied: usize) -> Self {
        let root = Inode {
            parent: ROOT,
            name: b"",
            put: None,
            layer: 0,
        };
        Self {
            inodes: vec![root],
            names: BTreeMap::new(),
            linked: HashSet::new(),
            removed: HashMap::new(),
            replaced: HashMap::new(),
            implied_attributes: Attributes {
                mode: IMPLIED_MODE,
                ..Attributes::default()
            },
            steps: 0,
            implied: 0,
            max_implied,
        }
    }

    /// Whether a layer was refused because too little memory was left for paths that no entry spells.
    pub fn is_full(&self) -> bool {
        self.implied > self.max_implied
    }

    /// Begins the next layer.
    pub fn begin_layer(&mut self) {
        self.removed.clear();
        self.replaced.clear();
    }

    /// Removes a name from the root.
    pub fn remove_from_root(&mut self, name: &'a [u8]) {
        self.names.remove(&(ROOT, name));
    }

    /// Removes a name from a directory, or without a name all that is in the directory.
    pub fn white_out(&mut self, directory: Ino, name: Option<&'a [u8]>) -> Result<(), String> {
        if !self.is_directory(directory) {
            return Ok(());
        }
        let names = match name {
            Some(b"" | b"." | b"..") => return Err("a whiteout that names no file".into()),
            Some(name) => vec![(directory, name)],
            None => self.below(directory).map(|(name, _)| *name).collect(),
        };
        for name in names {
            let number = self.names.remove(&name);
            self.removed.extend(number.map(|number| (name, number)));
        }
        Ok(())
    }

    /// Visits the files, in each directory by name, those in a directory right after it: `tar` sets the time of a
    /// directory when it sees the first path that is not in it. `visit` is told the path, the file, and the path of an
    /// earlier name of it, if any.
    pub fn visit<'s, E>(
        &'s self,
        mut visit: impl FnMut(&[u8], Node<'s>, Option<&[u8]>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut first_names = HashMap::new();
        if self.inodes[ROOT as usize].put.is_some() {
            visit(b"", self.node(ROOT), None)?;
        }
        let mut path = Vec::new();
        let mut ways = vec![(self.below(ROOT), 0)];
        while let Some((below, length)) = ways.last_mut() {
            let Some((name, number)) = below.next() else {
                ways.pop();
                continue;
            };
            path.truncate(*length);
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.1);
            let earlier = (self.linked.contains(number))
                .then(|| *first_names.entry(*number).or_insert(name))
                .filter(|first| *first != name)
                .map(|first| self.path(*first));
            visit(&path, self.node(*number), earlier.as_deref())?;
            if self.is_directory(*number) {
                ways.push((self.below(*number), path.len()));
            }
        }
        Ok(())
    }

    /// The files in a directory, by name.
    fn below(&self, directory: Ino) -> Range<'_, Name<'a>, Ino> {
        let (first, end): (Name<'_>, Name<'_>) = ((directory, b""), (directory + 1, b""));
        self.names.range(first..end)
    }

    /// The path of a name in a directory.
    fn path(&self, (mut directory, name): Name<'a>) -> Vec<u8> {
        let mut names = vec![name];
        while directory != ROOT {
            let Inode { parent, name, .. } = self.inodes[directory as usize];
            names.push(name);
            directory = parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    fn node(&self, number: Ino) -> Node<'_> {
        let Inode { put, layer, .. } = &self.inodes[number as usize];
        Node {
            kind: put.map_or(&NodeKind::Directory, Change::kind),
            attributes: put.map_or(&self.implied_attributes, |change| &change.attributes),
            layer: *layer as usize,
        }
    }

    fn is_directory(&self, number: Ino) -> bool {
        *self.node(number).kind == NodeKind::Directory
    }

    /// Makes a change, which is no whiteout, of a layer counted from the lowest.
    pub fn add(&mut self, layer: u32, change: &'a Change) -> Result<(), String> {
        let path = &*change.path;
        let is_link = matches!(change.action, Action::Link(_));
        let is_directory = !is_link && *change.kind() == NodeKind::Directory;
        if path.is_empty() {
            if !is_directory {
                return Err("the root of an image must be a directory".into());
            }
            self.replace(ROOT, layer, change);
            return Ok(());
        }
        let (parent, name) = split(path);
        let (parent, length) = self.directory(layer, parent)?;
        let name = (parent, name);
        let length = length + name.1.len();
        if length > MAX_PATH {
            return Err(too_long(&self.path(name)));
        }
        self.take(length.saturating_sub(path.len()))?;
        if let Action::Link(target) = &change.action {
            return self.link(name, target);
        }
        match self.names.get(&name).copied() {
            // The files in it stay.
            Some(number) if is_directory && self.is_directory(number) => {
                self.replace(number, layer, change);
            }
            _ => drop(self.put(name, Some(change), layer)),
        }
        Ok(())
    }

    /// Gives a directory other attributes.
    fn replace(&mut self, directory: Ino, layer: u32, change: &'a Change) {
        let inode = &mut self.inodes[directory as usize];
        (inode.put, inode.layer) = (Some(change), layer);
    }

    /// Gives a file another name. A file that had this name is replaced, its other names are not.
    fn link(&mut self, new: Name<'a>, target: &'a [u8]) -> Result<(), String> {
        let (parent, name) = split(target);
        let resolved = self.resolve(parent, |_| false)?.unwrap_or_default();
        let now = resolved
            .end()
            .and_then(|parent| self.names.get(&(parent, name)));
        let number = now.copied().or_else(|| self.removed(&resolved, name));
        match number {
            // aufs's name for it may lie in another layer.
            None if is_of_aufs(target) => Ok(()),
            None => Err(format!(
                "a hard link to {}, which does not exist",
                show(target)
            )),
            Some(number) if self.is_directory(number) => {
                Err(format!("a hard link to {}, a directory", show(target)))
            }
            Some(number) => {
                if self.name(new, number) != Some(number) {
                    self.linked.insert(number);
                }
                Ok(())
            }
        }
    }

    /// The file that was at that path in lower layers, if a whiteout has removed it or a directory above.
    fn removed(&self, resolved: &Resolved<'a>, name: &'a [u8]) -> Option<Ino> {
        let (mut at, mut is_removed) = (ROOT, false);
        let components = resolved.components.iter().map(|(component, _)| *component);
        for component in components.chain([name]) {
            let name = (at, component);
            let removed = self.removed.get(&name);
            is_removed |= removed.is_some();
            let lower = removed.or_else(|| self.replaced.get(&name));
            at = *lower.or_else(|| self.names.get(&name))?;
        }
        is_removed.then_some(at)
    }

    /// Gives a file a name, and returns the file that had it before.
    fn name(&mut self, name: Name<'a>, number: Ino) -> Option<Ino> {
        let before = self.names.insert(name, number);
        if let Some(before) = before.filter(|before| self.is_directory(*before)) {
            self.replaced.entry(name).or_insert(before);
        }
        before
    }

    /// Puts a new file at a name. Other names of the file that had it keep that.
    fn put(&mut self, name: Name<'a>, put: Option<&'a Change>, layer: u32) -> Ino {
        let number = Ino::try_from(self.inodes.len()).unwrap_or(Ino::MAX);
        let (parent, last) = name;
        self.inodes.push(Inode {
            parent,
            name: last,
            put,
            layer,
        });
        self.name(name, number);
        number
    }

    /// Accounts for memory that no entry spells.
    fn take(&mut self, bytes: usize) -> Result<(), String> {
        self.implied += bytes;
        if self.is_full() {
            return Err(format!(
                "paths without an entry take more than {} MiB",
                self.max_implied >> 20
            ));
        }
        Ok(())
    }

    /// The directory that a path of a layer leads to, implied where there is none; and the length of its path with a
    /// slash.
    fn directory(&mut self, layer: u32, path: &'a [u8]) -> Result<(Ino, usize), String> {
        let resolved = self.resolve(path, |_| false)?.unwrap_or_default();
        let (mut at, mut length) = (ROOT, 0);
        for (name, number) in resolved.components {
            length += name.len() + 1;
            at = match number {
                Some(number) if self.is_directory(number) => number,
                Some(_) => {
                    let path = self.path((at, name));
                    return Err(format!("{} is not a directory", show(&path)));
                }
                None => {
                    self.take(length - 1 + IMPLIED_SIZE)?;
                    self.put((at, name), None, layer)
                }
            };
        }
        Ok((at, length))
    }
}
