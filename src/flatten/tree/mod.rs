//! The files of an image, to which the changes of layers are made. No I/O.
//!
//! Rules: <https://github.com/opencontainers/image-spec/blob/main/layer.md> ("Applying Changesets"). Where they are
//! silent this does as umoci does (`oci/layer/tar_extract.go`): attributes in the entry of a hard link mean nothing, a
//! directory takes the place of a symlink, symlinks in lower layers are followed on the way to a path.
//! `tests/e2e/flatten` compares. Not as umoci:
//!
//! * A path that leads out of the image by `..` is refused; umoci leads it back in.
//! * Whiteouts come first, as the rules demand. umoci takes them in the order of the archive, so that a directory with
//!   new files in it outlives a whiteout that stands after them, and a hard link to a file that was hidden before it is
//!   an error.
//! * Directories that no layer has an entry for always have the same attributes; umoci gives them the time of the day.
//! * Hard links to files in a directory of aufs's own stay.

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;

use std::collections::btree_map::Range;
use std::collections::{BTreeMap, HashMap, HashSet};

use super::change::{Action, Change, Content, NodeKind};
use super::union_fs::{is_of_aufs, split};
use crate::tar::{Attributes, MAX_PATH, show, split_once};

/// Most symlinks on the way to one path, as in Linux (MAXSYMLINKS of namei.h).
const MAX_SYMLINKS: usize = 40;
/// Most components looked at for all paths of an image: some dozens for each of as many paths as it may have.
const MAX_STEPS: u64 = 20_000_000;
/// The mode of directories that no layer has an entry for. Their time is 1970, and root owns them.
const IMPLIED_MODE: u32 = 0o755;
/// Memory that an implied directory takes besides its path, which is written to the archive.
const IMPLIED_SIZE: usize = 256;

/// A path and why it cannot be.
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

/// A file in the tree.
type Number = u32;

/// A directory, and a name in it.
type Name<'a> = (Number, &'a [u8]);

const ROOT: Number = 0;

#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    /// The directory, and the name in it, that it was put at. A directory has no other name. Two fields, for they
    /// take less memory than a pair.
    parent: Number,
    name: &'a [u8],
    /// The change that puts it there; none for an implied directory.
    put: Option<&'a Change>,
    layer: u32,
}

/// The files of an image.
#[derive(Debug)]
pub struct Tree<'a> {
    places: Vec<Place<'a>>,
    /// Files by name. Those that were removed with their directory stay, where nothing leads to them.
    names: BTreeMap<Name<'a>, Number>,
    /// Files that have been given a second name: few of many.
    linked: HashSet<Number>,
    /// Files that whiteouts of the layer being applied have removed: its hard links may still mean those.
    removed: HashMap<Name<'a>, Number>,
    /// Directories that this layer has replaced by something else.
    replaced: HashMap<Name<'a>, Number>,
    /// The attributes of implied directories.
    implied: Attributes,
    steps: u64,
    unspelled: usize,
    max_unspelled: usize,
}

/// Where a path leads: its components, each with the file that is there.
#[derive(Debug, Default)]
pub struct Way<'a> {
    components: Vec<(&'a [u8], Option<Number>)>,
    /// The length of the path, with a slash after each component.
    length: usize,
}

impl<'a> Way<'a> {
    /// The file at its end.
    pub fn end(&self) -> Option<Number> {
        let last = self.components.last();
        last.map_or(Some(ROOT), |(_, number)| *number)
    }

    fn push(&mut self, component: &'a [u8], number: Option<Number>) {
        self.length += component.len() + 1;
        self.components.push((component, number));
    }

    /// Goes up. `None`: it was at the root.
    fn pop(&mut self) -> Option<()> {
        let (component, _) = self.components.pop()?;
        self.length -= component.len() + 1;
        Some(())
    }

    /// The path, with one component more.
    fn join(&self, name: &'a [u8]) -> Vec<u8> {
        let components = self.components.iter().map(|(component, _)| *component);
        components.chain([name]).collect::<Vec<_>>().join(&b'/')
    }
}

impl<'a> Tree<'a> {
    /// An empty tree. `max_unspelled`: bytes of memory for paths that no entry spells: implied directories, of which a
    /// single deep path can have thousands, and what symlinks on the way add to a path.
    pub fn new(max_unspelled: usize) -> Self {
        let root = Place {
            parent: ROOT,
            name: b"",
            put: None,
            layer: 0,
        };
        Self {
            places: vec![root],
            names: BTreeMap::new(),
            linked: HashSet::new(),
            removed: HashMap::new(),
            replaced: HashMap::new(),
            implied: Attributes {
                mode: IMPLIED_MODE,
                ..Attributes::default()
            },
            steps: 0,
            unspelled: 0,
            max_unspelled,
        }
    }

    /// Whether a layer was refused for want of memory for paths that no entry spells.
    pub fn is_full(&self) -> bool {
        self.unspelled > self.max_unspelled
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
    pub fn white_out(&mut self, directory: Number, name: Option<&'a [u8]>) -> Result<(), String> {
        if !self.is_directory(directory) {
            return Ok(());
        }
        let names = match name {
            Some(b"" | b"." | b"..") => return Err("a whiteout of nothing".into()),
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
        if self.places[ROOT as usize].put.is_some() {
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
    fn below(&self, directory: Number) -> Range<'_, Name<'a>, Number> {
        let (first, end): (Name<'_>, Name<'_>) = ((directory, b""), (directory + 1, b""));
        self.names.range(first..end)
    }

    /// The path of a name in a directory.
    fn path(&self, (mut directory, name): Name<'a>) -> Vec<u8> {
        let mut names = vec![name];
        while directory != ROOT {
            let Place { parent, name, .. } = self.places[directory as usize];
            names.push(name);
            directory = parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    fn node(&self, number: Number) -> Node<'_> {
        let Place { put, layer, .. } = &self.places[number as usize];
        Node {
            kind: put.map_or(&NodeKind::Directory, Change::kind),
            attributes: put.map_or(&self.implied, |change| &change.attributes),
            layer: *layer as usize,
        }
    }

    fn is_directory(&self, number: Number) -> bool {
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
    fn replace(&mut self, directory: Number, layer: u32, change: &'a Change) {
        let place = &mut self.places[directory as usize];
        (place.put, place.layer) = (Some(change), layer);
    }

    /// Gives a file another name. A file that had this name is replaced, its other names are not.
    fn link(&mut self, new: Name<'a>, target: &'a [u8]) -> Result<(), String> {
        let (parent, name) = split(target);
        let way = self.follow(parent, |_| false)?.unwrap_or_default();
        let now = way.end().and_then(|parent| self.names.get(&(parent, name)));
        let number = now.copied().or_else(|| self.removed(&way, name));
        match number {
            // aufs's name for it may lie in another layer.
            None if is_of_aufs(target) => Ok(()),
            None => Err(format!(
                "a hard link to {}, which is not there",
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
    fn removed(&self, way: &Way<'a>, name: &'a [u8]) -> Option<Number> {
        let (mut at, mut is_removed) = (ROOT, false);
        let components = way.components.iter().map(|(component, _)| *component);
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
    fn name(&mut self, name: Name<'a>, number: Number) -> Option<Number> {
        let before = self.names.insert(name, number);
        if let Some(before) = before.filter(|before| self.is_directory(*before)) {
            self.replaced.entry(name).or_insert(before);
        }
        before
    }

    /// Puts a new file at a name. Other names of the file that had it keep that.
    fn put(&mut self, name: Name<'a>, put: Option<&'a Change>, layer: u32) -> Number {
        let number = Number::try_from(self.places.len()).unwrap_or(Number::MAX);
        let (parent, last) = name;
        self.places.push(Place {
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
        self.unspelled += bytes;
        if self.is_full() {
            return Err(format!(
                "the paths that the image has no entries for take more than {} MiB",
                self.max_unspelled >> 20
            ));
        }
        Ok(())
    }

    /// The directory that a path of a layer leads to, implied where there is none; and the length of its path with a
    /// slash.
    fn directory(&mut self, layer: u32, path: &'a [u8]) -> Result<(Number, usize), String> {
        let way = self.follow(path, |_| false)?.unwrap_or_default();
        let (mut at, mut length) = (ROOT, 0);
        for (name, number) in way.components {
            length += name.len() + 1;
            at = match number {
                Some(number) if self.is_directory(number) => number,
                Some(_) => {
                    let path = self.path((at, name));
                    return Err(format!("{} is no directory", show(&path)));
                }
                None => {
                    self.take(length - 1 + IMPLIED_SIZE)?;
                    self.put((at, name), None, layer)
                }
            };
        }
        Ok((at, length))
    }

    /// Follows a path by the symlinks on it, also at its end. A component that is not there is taken to be a directory.
    /// `None`: `stops` is true for a symlink on the way.
    pub fn follow(
        &mut self,
        path: &'a [u8],
        stops: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<Way<'a>>, String> {
        let mut way = Way::default();
        // Paths that are still to go, the next one last.
        let mut ahead = vec![path];
        let mut symlinks = 0;
        while let Some(path) = ahead.pop() {
            let (component, rest) = split_once(path, b'/').unwrap_or((path, b""));
            if !rest.is_empty() {
                ahead.push(rest);
            }
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return Err("the paths in the image take too long to follow".into());
            }
            if matches!(component, b"" | b".") {
                continue;
            }
            if component == b".." {
                way.pop()
                    .ok_or("a symlink on the way leads out of the image")?;
                continue;
            }
            let number = way
                .end()
                .and_then(|at| self.names.get(&(at, component)).copied());
            if let Some(target) = number.and_then(|number| self.target(number)) {
                if stops(&way.join(component)) {
                    return Ok(None);
                }
                symlinks += 1;
                if symlinks > MAX_SYMLINKS {
                    return Err("too many symlinks on the way".into());
                }
                // From the root of the image, as in a container.
                if target.starts_with(b"/") {
                    way = Way::default();
                }
                ahead.push(target);
            } else if way.length + component.len() > MAX_PATH {
                return Err(too_long(&way.join(component)));
            } else {
                way.push(component, number);
            }
        }
        Ok(Some(way))
    }

    /// The target of a symlink.
    fn target(&self, number: Number) -> Option<&'a [u8]> {
        match &self.places[number as usize].put?.action {
            Action::Put(NodeKind::Symlink(target)) => Some(target),
            _ => None,
        }
    }
}

fn too_long(place: &[u8]) -> String {
    let length = place.len();
    format!(
        "symlinks on the way lead to a path of {length} bytes, at most {MAX_PATH} can be: {}",
        show(place)
    )
}
