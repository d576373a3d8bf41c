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

use std::collections::btree_map::Range;
use std::collections::{BTreeMap, HashMap, HashSet};

use super::change::{Action, Change, Content, NodeKind};
use super::entry::{Attributes, MAX_PATH};
use super::union_fs::{is_of_aufs, split};
use crate::tar_header::{show, split_once};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flatten::apply::apply;
    use crate::flatten::entry::{Entry, Kind};

    /// An entry in short: `d/=1` a directory, `a=2` a file, `s->t` a symlink, `b==a` a hard link. The number
    /// stands for all that an entry says of itself; without one it is 0.
    fn entry(text: &str) -> Entry {
        let (path, kind, number) = if let Some((path, target)) = text.split_once("->") {
            (path, Kind::Symlink(target.into()), "0")
        } else if let Some((path, target)) = text.split_once("==") {
            (path, Kind::HardLink(target.into()), "0")
        } else {
            let (path, number) = text.split_once('=').unwrap_or((text, "0"));
            match path.strip_suffix('/') {
                Some(path) => (
                    path.strip_prefix('.')
                        .filter(|rest| rest.is_empty())
                        .unwrap_or(path),
                    Kind::Directory,
                    number,
                ),
                None => {
                    let (size, pieces) = (0, Vec::new());
                    (path, Kind::File { size, pieces }, number)
                }
            }
        };
        Entry {
            path: path.into(),
            kind,
            attributes: Attributes {
                uid: number.parse().unwrap(),
                ..Attributes::default()
            },
        }
    }

    fn text(path: &[u8], kind: &NodeKind, number: u32, earlier: Option<&[u8]>) -> String {
        let path = match path {
            b"" => ".".into(),
            path => show(path),
        };
        match (kind, earlier) {
            (_, Some(earlier)) => format!("{path}=={}", show(earlier)),
            (NodeKind::Directory, _) => format!("{path}/={number}"),
            (NodeKind::Symlink(target), _) => format!("{path}->{}", show(target)),
            _ => format!("{path}={number}"),
        }
    }

    /// Changes that live as long as a test does.
    fn kept(entries: impl IntoIterator<Item = Entry>) -> &'static [Change] {
        let change = |entry| Change::new(entry, Content::default());
        entries.into_iter().map(change).collect::<Vec<_>>().leak()
    }

    fn new_tree() -> Tree<'static> {
        Tree::new(64 << 20)
    }

    fn list(tree: &Tree<'_>) -> Vec<String> {
        let mut list = Vec::new();
        let visited: Result<(), ()> = tree.visit(|path, node, earlier| {
            list.push(text(path, node.kind, node.attributes.uid, earlier));
            Ok(())
        });
        visited.unwrap();
        list
    }

    /// What comes of layers, or why nothing does.
    fn flattened(layers: &[&str]) -> Result<String, Refused> {
        let mut tree = new_tree();
        for (layer, entries) in layers.iter().enumerate() {
            apply(
                &mut tree,
                layer,
                kept(entries.split_whitespace().map(entry)),
            )?;
        }
        Ok(list(&tree).join(" "))
    }

    #[test]
    fn layers_are_applied_by_the_rules() {
        for (layers, expected, why) in [
            (
                &["d/=1 d/a=2", "b=3"][..],
                "b=3 d/=1 d/a=2",
                "sorted by path",
            ),
            (
                &["a/=1 a!=3 a/b=2 a0=4 a-/=5 a-/c=6"],
                "a/=1 a/b=2 a!=3 a-/=5 a-/c=6 a0=4",
                "what is in a directory at once after it",
            ),
            (&["./=1", "./=2 a=3"], "./=2 a=3", "the root's own entry"),
            (&["a=1", ""], "a=1", "a layer with nothing in it"),
            (&["a=1 a=2"], "a=2", "the last of two in a layer"),
            (
                &["x/y/z=1"],
                "x/=0 x/y/=0 x/y/z=1",
                "parents without entries",
            ),
            (
                &["x/y=1 x/=2"],
                "x/=2 x/y=1",
                "a parent's entry after its file's",
            ),
            // whiteouts
            (&["a=1 b=2", ".wh.a"], "b=2", "of a file"),
            (
                &["d/=1 d/a=2 d0=3 e=4", ".wh.d"],
                "d0=3 e=4",
                "of a directory",
            ),
            (&["a=1", ".wh.a a=2"], "a=2", "before the new file"),
            (&["a=1", "a=2 .wh.a"], "a=2", "after the new file"),
            (&["a=1 .wh.a"], "a=1", "of lower layers only"),
            (&["a=1", ".wh.b d/.wh.c"], "a=1", "of what is not there"),
            (&["a=1", ".wh.a/"], "", "whatever type it has"),
            (&["s->d d/=1 d/a=2", ".wh.s"], "d/=1 d/a=2", "of a symlink"),
            (
                &["s->d d/=1 d/a=2", "s/.wh.a"],
                "d/=1 s->d",
                "by way of a symlink",
            ),
            (
                &["s->d d/=1 d/a=2", "s/=3 s/.wh.a"],
                "d/=1 d/a=2 s/=3",
                "where a symlink was",
            ),
            (
                &["s->d d/=1 d/a=2", "s/.wh.a s/=3"],
                "d/=1 d/a=2 s/=3",
                "the same, in another order",
            ),
            (
                &["d/=1 d/a=2", ".wh.d d/b=3"],
                "d/=0 d/b=3",
                "and a file below, whose parent is new",
            ),
            // umoci goes by the order of entries, and takes this one's directory for the lower one.
            (
                &["d/=1 d/a=2", "d/b=3 .wh.d"],
                "d/=0 d/b=3",
                "the same, in another order",
            ),
            (&["a=1", "a/.wh.b"], "a=1", "below what is a file"),
            (
                &["a=1 b=2", ".wh..wh.plnk/ .wh..wh.aufs"],
                "a=1 b=2",
                "aufs's own",
            ),
            (
                &["d/=1 d/.wh..wh.orph/a=2 d/.wh..wh..tmp=3 .wh..wh..opq/b=4"],
                "d/=1",
                "the same, anywhere",
            ),
            (
                &[
                    ".wh..wh.plnk/ .wh..wh.plnk/1.2=3 a==.wh..wh.plnk/1.2 b==.wh..wh.plnk/1.2",
                    "c=1",
                ],
                "a=3 b==a c=1",
                "files that have names in aufs's directory, too",
            ),
            (
                &["a==.wh..wh.plnk/1.2 b==d/.wh..wh.orph/3 c=1"],
                "c=1",
                "names of aufs's own that are not there",
            ),
            // opaque directories
            (
                &["d/=1 d/a=2 d/e/=3 d/e/f=4", "d/.wh..wh..opq d/b=5"],
                "d/=1 d/b=5",
                "opaque first",
            ),
            (
                &["d/=1 d/a=2", "d/=3 d/a=4 d/b=5 d/.wh..wh..opq"],
                "d/=3 d/a=4 d/b=5",
                "opaque last",
            ),
            (&["a=1 d/=2", ".wh..wh..opq b=3"], "b=3", "an opaque root"),
            (
                &["./=1 a=2", ".wh..wh..opq"],
                "./=1",
                "an opaque root stays",
            ),
            (
                &["a=1", "d/=2 d/.wh..wh..opq"],
                "a=1 d/=2",
                "opaque and new",
            ),
            // one type over another
            (&["d/=1 d/a=2", "d=3"], "d=3", "a file over a directory"),
            (
                &["d/=1 d/a=2", "d=3", "d/=4"],
                "d/=4",
                "and back, with nothing in it",
            ),
            (
                &["d/=1 d/a=2", "d/=3"],
                "d/=3 d/a=2",
                "a directory over a directory",
            ),
            (
                &["d/=1 d/a=2 s->d", "s/=3 s/b=4"],
                "d/=1 d/a=2 s/=3 s/b=4",
                "a directory over a symlink",
            ),
            (
                &["d/=1 d/a=2", "d->x"],
                "d->x",
                "a symlink over a directory",
            ),
            (
                &["a=1 s->a", "s=2"],
                "a=1 s=2",
                "a file over a symlink, not through it",
            ),
            // hard links
            (
                &["b=1 a==b"],
                "a=1 b==a",
                "the first name by path has the content",
            ),
            (&["a=1", "b==a", "c==b"], "a=1 b==a c==a", "across layers"),
            (
                &["a=1", "b==a", "a=2"],
                "a=2 b=1",
                "the other name keeps its content",
            ),
            (
                &["a=1", "b==a", ".wh.a"],
                "b=1",
                "the other name outlives a whiteout",
            ),
            (
                &["d/=1 d/a=2", "b==d/a", ".wh.d"],
                "b=2",
                "and one of its directory",
            ),
            (
                &["a=1", ".wh.a b==a"],
                "b=1",
                "to what the same layer removes",
            ),
            (&["a=1", "b==a .wh.a"], "b=1", "the same, in another order"),
            (
                &["d/=1 d/a=2", ".wh.d b==d/a"],
                "b=2",
                "to what goes with its directory",
            ),
            (
                &["d/=1 d/a=2", "d/.wh..wh..opq d/b==d/a"],
                "d/=1 d/b=2",
                "or is made opaque",
            ),
            (
                &["a=1", "a=2 b==a"],
                "a=2 b==a",
                "to what the same layer has there now",
            ),
            (
                &["a=1", "b==a a=2"],
                "a=2 b=1",
                "to what the same layer replaces later",
            ),
            (
                &["a=1", ".wh.a a=2 b==a"],
                "a=2 b==a",
                "to the new one of a whiteout's name",
            ),
            (&["a=1 a==a"], "a=1", "to itself"),
            (&["a=1 b==a", "b==a"], "a=1 b==a", "what it was already"),
            (&["a=1 d/=2 d/x=3", "d==a"], "a=1 d==a", "over a directory"),
            (
                &["s->nowhere", "t==s"],
                "s->nowhere t==s",
                "to a symlink itself",
            ),
            (
                &["d/=1 d/a=2 s->d", "s/b==s/a"],
                "d/=1 d/a=2 d/b==d/a s->d",
                "by way of a symlink",
            ),
            // symlinks on the way
            (
                &["l->u/l", "l/a=1"],
                "l->u/l u/=0 u/l/=0 u/l/a=1",
                "to what is not there yet",
            ),
            (
                &["u/=1 l->u/../u/.", "l/a=2"],
                "l->u/../u/. u/=1 u/a=2",
                "with dots",
            ),
            (
                &["d/=1 d/s->../e e/=2", "d/s/a=3"],
                "d/=1 d/s->../e e/=2 e/a=3",
                "up and down",
            ),
            (
                &["s->t t->u", "s/a=1"],
                "s->t t->u u/=0 u/a=1",
                "one after the other",
            ),
            (
                &["s->/etc t->../.. u->u"],
                "s->/etc t->../.. u->u",
                "anywhere, with nothing below",
            ),
            (
                &["d/=1 d/s->/e e/=2", "d/s/a=3"],
                "d/=1 d/s->/e e/=2 e/a=3",
                "from the root of the image",
            ),
            (
                &["s->/etc", "s/a=1"],
                "etc/=0 etc/a=1 s->/etc",
                "the same, to what is not there yet",
            ),
            (&["a=1 s->/", "s/.wh.a"], "s->/", "a whiteout in the root"),
            (
                &["d/=1 d/a=1 s->/d", "b==s/a"],
                "b=1 d/=1 d/a==b s->/d",
                "a hard link by way of one",
            ),
        ] {
            assert_eq!(
                flattened(layers).as_deref(),
                Ok(expected),
                "{why}: {layers:?}"
            );
        }
    }

    #[test]
    fn what_cannot_be_applied_is_refused_by_its_path() {
        let chain: String = (0..50).map(|n| format!("s{n}->s{} ", n + 1)).collect();
        for (layers, path, why) in [
            (
                &["s->..", "s/a=1"][..],
                "s/a",
                "a symlink on the way leads out of the image",
            ),
            (
                &["d/s->../../x", "d/s/a=1"],
                "d/s/a",
                "a symlink on the way leads out of the image",
            ),
            (
                &["d/s->/../x", "d/s/a=1"],
                "d/s/a",
                "a symlink on the way leads out of the image",
            ),
            (
                &["a=1 s->/d", "b==s/a"],
                "b",
                "a hard link to s/a, which is not there",
            ),
            (
                &["s->t t->s", "s/a=1"],
                "s/a",
                "too many symlinks on the way",
            ),
            (&[&chain, "s0/a=1"], "s0/a", "too many symlinks on the way"),
            (&["a=1", "a/b=2"], "a/b", "a is no directory"),
            (
                &["d/=1 d/a=2 s->d/a", "s/b=3"],
                "s/b",
                "d/a is no directory",
            ),
            (&["b==a"], "b", "a hard link to a, which is not there"),
            (&["b==a a=1"], "b", "a hard link to a, which is not there"),
            (
                &["a=1", ".wh.a", "b==a"],
                "b",
                "a hard link to a, which is not there",
            ),
            (&["d/=1", "b==d"], "b", "a hard link to d, a directory"),
            (&[".wh."], ".wh.", "a whiteout of nothing"),
            (&[".wh.."], ".wh..", "a whiteout of nothing"),
            (&["d/=1", "d/.wh..."], "d/.wh...", "a whiteout of nothing"),
        ] {
            let found = flattened(layers);
            assert!(
                found
                    .as_ref()
                    .is_err_and(|found| found.starts_with(&format!("{path}: {why}"))),
                "{why}: {layers:?}: {found:?}"
            );
        }
        for root in ["=1", "->x", "==a"] {
            let found = flattened(&[&format!("a=1 {root}")]);
            assert!(found.is_err(), "{root}: {found:?}");
        }
    }

    #[test]
    fn marks_of_overlayfs_are_whiteouts_and_never_files() {
        let device = |path: &str, major, minor| Entry {
            kind: Kind::CharacterDevice(major, minor),
            ..entry(path)
        };
        let with = |text: &str, name: &str, value: &str| {
            let mut entry = entry(text);
            entry.attributes.xattrs.insert(name.into(), value.into());
            entry
        };
        let lower = || kept(["d/=1", "d/a=2", "e=3"].map(entry));
        for (upper, expected, why) in [
            (vec![device("d", 0, 0)], "e=3", "a whiteout of a directory"),
            (
                vec![device("d/a", 0, 0), entry("e==d/a")],
                "d/=1",
                "one whiteout that has two names",
            ),
            (vec![device("x", 0, 0)], "d/=1 d/a=2 e=3", "of nothing"),
            (vec![device("e", 0, 1)], "d/=1 d/a=2 e=0", "another device"),
            (
                vec![with("e=0", "trusted.overlay.whiteout", "")],
                "d/=1 d/a=2",
                "an empty file that is a whiteout",
            ),
            (
                vec![with("d/=4", "trusted.overlay.opaque", "y"), entry("d/b=5")],
                "d/=4 d/b=5 e=3",
                "an opaque directory",
            ),
            (
                vec![entry("d/b=5"), with("d/=4", "user.overlay.opaque", "y")],
                "d/=4 d/b=5 e=3",
                "the same of a user's, in another order",
            ),
            (
                vec![with("d/=4", "user.fuseoverlayfs.opaque", "y")],
                "d/=4 e=3",
                "the same of fuse-overlayfs",
            ),
            (
                vec![with("d/=4", "trusted.overlay.opaque", "x")],
                "d/=4 d/a=2 e=3",
                "one that may have whiteouts in it",
            ),
            (
                vec![with("d/=4", "user.opaque", "y")],
                "d/=4 d/a=2 e=3",
                "an xattr of somebody else's",
            ),
        ] {
            let mut tree = new_tree();
            apply(&mut tree, 0, lower()).unwrap();
            apply(&mut tree, 1, kept(upper)).unwrap();
            assert_eq!(list(&tree).join(" "), expected, "{why}");
        }
        let origin = with("d/=1", "trusted.overlay.origin", "x");
        let mut own = with("a=1", "user.overlay.metacopy", "");
        own.attributes.xattrs.insert(b"user.a".into(), b"b".into());
        let mut tree = new_tree();
        apply(&mut tree, 0, kept([origin, own])).unwrap();
        let mut found = Vec::new();
        let visited: Result<(), ()> = tree.visit(|path, node, _| {
            let names = node.attributes.xattrs.iter().map(|(name, _)| show(name));
            found.push((show(path), names.collect::<Vec<_>>().join(" ")));
            Ok(())
        });
        visited.unwrap();
        assert_eq!(
            found,
            [("a".into(), "user.a".into()), ("d".into(), String::new())]
        );
    }

    #[test]
    fn deep_paths_without_directories_take_bounded_memory() {
        let mut tree = new_tree();
        let deep = |n: usize| kept([entry(&format!("{n}/{}a", "d/".repeat(2040)))]);
        let end = (0..1000).find_map(|n| apply(&mut tree, 0, deep(n)).err());
        let why = end.expect("it goes on");
        assert!(
            why.contains("the paths that the image has no entries for take more than 64 MiB"),
            "{why}"
        );
        assert!(tree.is_full());
        // At the least what each directory is counted with.
        assert!(tree.places.len() <= (64 << 20) / IMPLIED_SIZE);
    }

    #[test]
    fn what_symlinks_add_to_paths_is_bounded() {
        let long = vec!["d".repeat(255); 15].join("/");
        let mut tree = new_tree();
        let first = [entry(&format!("{long}/")), entry(&format!("s->{long}"))];
        apply(&mut tree, 0, kept(first)).unwrap();
        let end =
            (0..20_000).find_map(|n| apply(&mut tree, 1, kept([entry(&format!("s/{n}"))])).err());
        let why = end.expect("it goes on");
        assert!(
            why.ends_with("the paths that the image has no entries for take more than 64 MiB"),
            "{why}"
        );
    }

    #[test]
    fn no_path_is_longer_than_linux_allows() {
        let name = "d".repeat(255);
        let half = [&*name; 10].join("/");
        let layers = |last: &str| {
            let mut tree = new_tree();
            let first = [entry(&format!("{half}/")), entry(&format!("s->{half}"))];
            apply(&mut tree, 0, kept(first)).unwrap();
            apply(&mut tree, 1, kept([entry(last)]))
        };
        let below = [&*name; 5].join("/");
        let fits = "f".repeat(MAX_PATH - half.len() - below.len() - 2);
        for (path, is_good, why) in [
            (format!("s/{below}/{fits}"), true, "as long as may be"),
            (format!("s/{below}/{fits}f"), false, "one more"),
            (format!("s/{half}/"), false, "a directory"),
            (format!("s/{half}/{half}/f"), false, "far more on the way"),
            (format!("l==s/{half}/f"), false, "a hard link's target"),
        ] {
            match layers(&path) {
                Ok(()) => assert!(is_good, "{why}"),
                Err(said) => assert!(!is_good && said.contains("bytes, at most"), "{why}: {said}"),
            }
        }
    }

    #[test]
    fn paths_take_bounded_time() {
        // Forty symlinks, each with a long way to go, on the way of every path.
        let long = "x/../".repeat(700);
        let mut first: Vec<_> = (0..39)
            .map(|n| entry(&format!("s{n}->{long}s{}", n + 1)))
            .collect();
        first.push(entry("s39/"));
        let mut tree = new_tree();
        apply(&mut tree, 0, kept(first)).unwrap();
        // Counted from the first path of the first layer on, but it would take seconds here.
        tree.steps += MAX_STEPS - 1_000_000;
        let more = kept((0..1000).map(|n| entry(&format!("s0/{n}"))));
        let why = apply(&mut tree, 1, more).unwrap_err();
        assert!(
            why.ends_with("the paths in the image take too long to follow"),
            "{why}"
        );
    }

    /// Images by chance against a model that is simple and slow: nested maps, and the rules word by word.
    mod by_chance {
        use super::*;

        type Name = String;

        /// What a name in the model is: a directory with its number and files, or another file by its place in
        /// a list, so that two names can mean the same.
        #[derive(Clone, Debug)]
        enum Model {
            Directory(u32, BTreeMap<Name, Model>),
            Other(usize),
        }

        #[derive(Clone, Default)]
        struct Image {
            root: BTreeMap<Name, Model>,
            others: Vec<(NodeKind, u32)>,
        }

        struct No;

        impl Image {
            fn at(&self, path: &[Name]) -> Option<&Model> {
                let (last, above) = path.split_last()?;
                let mut files = &self.root;
                for name in above {
                    match files.get(name)? {
                        Model::Directory(_, below) => files = below,
                        Model::Other(_) => return None,
                    }
                }
                files.get(last)
            }

            /// The files of a directory, which is made if it is not there.
            fn files(&mut self, path: &[Name]) -> Result<&mut BTreeMap<Name, Model>, No> {
                let mut files = &mut self.root;
                for name in path {
                    let new = || Model::Directory(0, BTreeMap::new());
                    match files.entry(name.clone()).or_insert_with(new) {
                        Model::Directory(_, below) => files = below,
                        Model::Other(_) => return Err(No),
                    }
                }
                Ok(files)
            }

            /// Where a path leads; `left` symlinks may be on the way.
            fn resolve(&self, base: &[Name], path: &[Name], left: u32) -> Result<Vec<Name>, No> {
                let Some((name, rest)) = path.split_first() else {
                    return Ok(base.to_vec());
                };
                if name == ".." {
                    let (_, above) = base.split_last().ok_or(No)?;
                    return self.resolve(above, rest, left);
                }
                let next = [base, std::slice::from_ref(name)].concat();
                if let Some(Model::Other(n)) = self.at(&next)
                    && let NodeKind::Symlink(target) = &self.others[*n].0
                {
                    let target = std::str::from_utf8(target).unwrap();
                    if left == 0 {
                        return Err(No);
                    }
                    let base = if target.starts_with('/') { &[] } else { base };
                    let path = [names(target), rest.to_vec()].concat();
                    return self.resolve(base, &path, left - 1);
                }
                self.resolve(&next, rest, left)
            }

            fn apply(&mut self, layer: &[Entry]) -> Result<(), No> {
                let before = self.clone();
                let is_new = |path: &[Name]| {
                    let has = |entry: &Entry| names(&show(&entry.path)) == path;
                    let is_symlink = |entry: &Entry| matches!(entry.kind, Kind::Symlink(_));
                    layer.iter().any(|entry| has(entry) && !is_symlink(entry))
                };
                for entry in layer {
                    let mut path = names(&show(&entry.path));
                    let name = path.pop().unwrap();
                    let Some(hidden) = name.strip_prefix(".wh.") else {
                        continue;
                    };
                    // A symlink that this layer replaces leads nowhere any more.
                    let mut goes_on = true;
                    for end in 1..=path.len() {
                        let (above, last) = (&path[..end - 1], &path[end - 1]);
                        let Ok(mut place) = self.resolve(&[], above, 40) else {
                            break;
                        };
                        place.push(last.clone());
                        if let Some(Model::Other(n)) = self.at(&place)
                            && matches!(self.others[*n].0, NodeKind::Symlink(_))
                            && is_new(&place)
                        {
                            goes_on = false;
                        }
                    }
                    if !goes_on {
                        continue;
                    }
                    let parent = self.resolve(&[], &path, 40)?;
                    let is_directory = matches!(self.at(&parent), Some(Model::Directory(..)));
                    if !is_directory && !parent.is_empty() {
                        continue;
                    }
                    match hidden {
                        ".wh..opq" => self.files(&parent)?.clear(),
                        hidden => drop(self.files(&parent)?.remove(hidden)),
                    }
                }
                let lower = self.clone();
                for entry in layer {
                    let mut path = names(&show(&entry.path));
                    let name = path.pop().unwrap();
                    if name.starts_with(".wh.") {
                        continue;
                    }
                    let parent = self.resolve(&[], &path, 40)?;
                    self.files(&parent)?;
                    let number = entry.attributes.uid;
                    let place = [&parent[..], std::slice::from_ref(&name)].concat();
                    let new = match &entry.kind {
                        Kind::Directory => {
                            let below = match self.at(&place) {
                                Some(Model::Directory(_, below)) => below.clone(),
                                _ => BTreeMap::new(),
                            };
                            Model::Directory(number, below)
                        }
                        Kind::HardLink(target) => {
                            let mut target = names(&show(target));
                            let last = target.pop().unwrap();
                            let mut target = self.resolve(&[], &target, 40)?;
                            target.push(last);
                            // What a whiteout has hidden can still be meant.
                            let is_hidden = lower.at(&target).is_none();
                            let hidden = before.at(&target).filter(|_| is_hidden);
                            let found = self.at(&target).or(hidden);
                            match found.ok_or(No)? {
                                Model::Other(n) => Model::Other(*n),
                                Model::Directory(..) => return Err(No),
                            }
                        }
                        kind => {
                            let kind = match kind {
                                Kind::Symlink(target) => {
                                    NodeKind::Symlink(target.as_slice().into())
                                }
                                _ => NodeKind::Fifo,
                            };
                            self.others.push((kind, number));
                            Model::Other(self.others.len() - 1)
                        }
                    };
                    self.files(&parent)?.insert(name, new);
                }
                Ok(())
            }

            fn list(&self) -> Vec<String> {
                fn below(
                    files: &BTreeMap<Name, Model>,
                    path: &[Name],
                    found: &mut BTreeMap<Vec<Name>, Model>,
                ) {
                    for (name, model) in files {
                        let path = [path, std::slice::from_ref(name)].concat();
                        found.insert(path.clone(), model.clone());
                        if let Model::Directory(_, files) = model {
                            below(files, &path, found);
                        }
                    }
                }
                let mut found = BTreeMap::new();
                below(&self.root, &[], &mut found);
                let mut first: HashMap<usize, String> = HashMap::new();
                let line = |(path, model): (&Vec<Name>, &Model)| {
                    let path = path.join("/");
                    let path_bytes = path.as_bytes();
                    match model {
                        Model::Directory(number, _) => {
                            text(path_bytes, &NodeKind::Directory, *number, None)
                        }
                        Model::Other(n) => {
                            let (kind, number) = &self.others[*n];
                            let earlier = first.get(n).map(|earlier| earlier.as_bytes());
                            let line = text(path_bytes, kind, *number, earlier);
                            first.entry(*n).or_insert_with(|| path.clone());
                            line
                        }
                    }
                };
                found.iter().map(line).collect()
            }
        }

        fn entries(layer: &str) -> Vec<Entry> {
            layer.split_whitespace().map(entry).collect()
        }

        fn names(path: &str) -> Vec<Name> {
            let names = path.split('/').filter(|name| !["", "."].contains(name));
            names.map(str::to_owned).collect()
        }

        /// Marsaglia's xorshift.
        struct Chance(u64);

        impl Chance {
            fn below(&mut self, end: u64) -> u64 {
                self.0 ^= self.0 << 13;
                self.0 ^= self.0 >> 7;
                self.0 ^= self.0 << 17;
                (self.0 >> 11) % end
            }

            fn one_of<'a>(&mut self, of: &[&'a str]) -> &'a str {
                of[self.below(of.len() as u64) as usize]
            }

            fn path(&mut self) -> String {
                let length = 1 + self.below(3);
                let names = (0..length).map(|_| self.one_of(&["a", "b", "c"]));
                names.collect::<Vec<_>>().join("/")
            }

            fn entry(&mut self, number: &mut u32, known: &[String]) -> String {
                let path = self.path();
                let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
                let parent = match parent {
                    "" => String::new(),
                    parent => format!("{parent}/"),
                };
                *number += 1;
                match self.below(14) {
                    0..5 => format!("{path}={number}"),
                    5..8 => format!("{path}/={number}"),
                    8 => {
                        let targets = [
                            "a", "b", "c", "a/b", "../a", "../b/c", "./c/.", "/a", "b/..",
                        ];
                        format!("{path}->{}", self.one_of(&targets))
                    }
                    9..11 if known.is_empty() => format!("{path}=={}", self.path()),
                    9..11 => format!("{path}=={}", known[self.below(known.len() as u64) as usize]),
                    11..13 => format!("{parent}.wh.{name}"),
                    _ => format!("{parent}.wh..wh..opq"),
                }
            }
        }

        #[test]
        fn stacks_of_layers_come_out_as_in_the_model() {
            let (mut whole, mut refused, mut links) = (0, 0, 0);
            for seed in 1..=1000 {
                let mut chance = Chance(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
                let mut number = 0;
                let (mut tree, mut model) = (new_tree(), Image::default());
                let mut stack = Vec::new();
                for _ in 0..2 + chance.below(4) {
                    let listed = model.list();
                    let is_file = |line: &&String| !line.contains("/=");
                    let path = |line: &String| line.split(['=', '-']).next().map(str::to_owned);
                    let known: Vec<_> = listed.iter().filter(is_file).filter_map(path).collect();
                    // Most of them ones that can be applied, or few images would be of many layers.
                    let layer = loop {
                        let length = chance.below(9);
                        let layer: Vec<_> = (0..length)
                            .map(|_| chance.entry(&mut number, &known))
                            .collect();
                        let layer = layer.join(" ");
                        let fits = model.clone().apply(&entries(&layer)).is_ok();
                        if fits || chance.below(20) == 0 {
                            break layer;
                        }
                    };
                    stack.push(layer.clone());
                    let entries = || entries(&layer);
                    let expected = model.apply(&entries());
                    let found = apply(&mut tree, stack.len(), kept(entries()));
                    assert_eq!(found.is_err(), expected.is_err(), "{stack:?}: {found:?}");
                    if found.is_err() {
                        refused += 1;
                        break;
                    }
                    let found = list(&tree);
                    assert_eq!(found, model.list(), "{stack:?}");
                    whole += 1;
                    links += usize::from(found.iter().any(|file| file.contains("==")));
                }
            }
            // Neither all of them refused nor all too simple.
            assert!(
                whole > 2000 && refused > 100 && links > 300,
                "{whole} {refused} {links}"
            );
        }
    }
}
