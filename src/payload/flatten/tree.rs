//! The entries of layers, applied in order → the files of the image. No I/O.
//!
//! Rules: <https://github.com/opencontainers/image-spec/blob/main/layer.md> ("Applying Changesets"). Where
//! it is silent we do as umoci does (`oci/layer/tar_extract.go`): what a hard link's entry says of itself means
//! nothing, a directory takes the place of a symlink, symlinks in lower layers are followed on the way.
//! `tests/e2e/flatten` compares. Not as umoci:
//!
//! * A path that would lead out of the image is refused; umoci leads it back in.
//! * Whiteouts come first, as the rules want it; umoci takes them in the order of the archive, so that a
//!   directory with new files in it outlives a whiteout after them, and a hard link to what was hidden before
//!   it is an error.
//! * What directories are that no layer has an entry for is always the same; umoci's have the time of the day.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::entries::{Attributes, Entry, Kind, MAX_PATH, show};

/// Before the name of what a layer removes.
const WHITEOUT: &[u8] = b".wh.";
/// In a directory of which nothing in lower layers is to be seen.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// More of aufs's own, which mean nothing here.
const OF_AUFS: &[u8] = b".wh..wh.";

/// Symlinks on the way to one path, as in Linux (MAXSYMLINKS of namei.h).
const MAX_SYMLINKS: usize = 40;
/// Components looked at for all paths of an image together: some dozens for each of as many as it may have.
const MAX_STEPS: u64 = 20_000_000;
/// The mode of a directory that no layer has an entry for; its time is 1970, and root has it.
const IMPLIED_MODE: u32 = 0o755;
/// Memory for paths that no entry spells, in bytes: such directories, of which a single deep path can imply
/// thousands, and what symlinks on the way add to a path.
const MAX_UNSPELLED: usize = 64 << 20;
/// What an implied directory takes besides its path.
const IMPLIED: usize = 256;

/// A path and why it cannot be.
pub(super) type Refused = String;

/// A file of any kind, which may have several names.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) kind: NodeKind,
    pub(super) attributes: Attributes,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum NodeKind {
    File(Content),
    Directory,
    Symlink(Vec<u8>),
    CharacterDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// Where a file's bytes are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Content {
    /// The layer, counted from the lowest.
    pub(super) layer: usize,
    /// From where on, in what was kept of that layer.
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// The files of an image.
#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    /// By path; the root is the empty one, and is there if a layer has an entry for it.
    paths: BTreeMap<Vec<u8>, usize>,
    /// Nodes that have been given a second name: few of many.
    linked: HashSet<usize>,
    steps: u64,
    unspelled: usize,
}

/// What a layer's whiteouts have removed: its hard links may still mean that.
type Removed = HashMap<Vec<u8>, usize>;

impl Tree {
    /// Applies the next layer. `content_of` says where the bytes of its file with that number are.
    pub(super) fn apply(
        &mut self,
        entries: Vec<Entry>,
        content_of: impl Fn(usize) -> Content,
    ) -> Result<(), Refused> {
        // A whiteout hides what lower layers have, wherever in its layer it stands: so they come first.
        let removed = self.white_out_all(&entries)?;
        for (n, entry) in entries.into_iter().enumerate() {
            let Entry {
                path,
                kind,
                attributes,
            } = entry;
            if !is_whiteout(&path) {
                self.add(&path, kind, attributes, || content_of(n), &removed)
                    .map_err(|why| format!("{}: {why}", show(&path)))?;
            }
        }
        Ok(())
    }

    /// The files in the order of their paths' bytes, each with the path of an earlier name of it, if any.
    pub(super) fn files(&self) -> impl Iterator<Item = (&[u8], &Node, Option<&[u8]>)> {
        let mut first_names: HashMap<usize, &[u8]> = HashMap::new();
        self.paths.iter().map(move |(path, node)| {
            let earlier = first_names.get(node).copied();
            if earlier.is_none() && self.linked.contains(node) {
                first_names.insert(*node, path);
            }
            (path.as_slice(), &self.nodes[*node], earlier)
        })
    }

    fn white_out_all(&mut self, entries: &[Entry]) -> Result<Removed, Refused> {
        let mut removed = Removed::new();
        let is_whiteout = |entry: &&Entry| is_whiteout(&entry.path);
        if !entries.iter().any(|entry| is_whiteout(&entry)) {
            return Ok(removed);
        }
        let solid = entries
            .iter()
            .filter(|entry| !matches!(entry.kind, Kind::Symlink(_)))
            .map(|entry| entry.path.as_slice())
            .collect();
        for entry in entries.iter().filter(is_whiteout) {
            let at = |why| format!("{}: {why}", show(&entry.path));
            removed.extend(self.white_out(&entry.path, &solid).map_err(at)?);
        }
        Ok(removed)
    }

    /// What it removes. `solid`: paths that are something else than symlinks in its layer, as that spells them.
    fn white_out(
        &mut self,
        path: &[u8],
        solid: &HashSet<&[u8]>,
    ) -> Result<Vec<(Vec<u8>, usize)>, String> {
        let (parent, name) = split(path);
        let Some(parent) = self.lower_directory(parent, solid)? else {
            return Ok(Vec::new());
        };
        if name == OPAQUE {
            return Ok(self.remove_below(&parent));
        }
        if name.starts_with(OF_AUFS) {
            return Ok(Vec::new());
        }
        let hidden = match &name[WHITEOUT.len()..] {
            b"" | b"." | b".." => return Err("a whiteout of nothing".into()),
            hidden => join(&parent, hidden),
        };
        let mut removed = self.remove_below(&hidden);
        if let Some(node) = self.paths.remove(&hidden) {
            removed.push((hidden, node));
        }
        Ok(removed)
    }

    /// The directory of a whiteout in lower layers. `None`: there is none to remove something from.
    fn lower_directory(
        &mut self,
        path: &[u8],
        solid: &HashSet<&[u8]>,
    ) -> Result<Option<Vec<u8>>, String> {
        let Some(found) = self.follow(path, |spelled| solid.contains(spelled))? else {
            return Ok(None);
        };
        let is_directory = found.is_empty()
            || (self.paths.get(&found))
                .is_some_and(|node| self.nodes[*node].kind == NodeKind::Directory);
        Ok(is_directory.then_some(found))
    }

    fn add(
        &mut self,
        path: &[u8],
        kind: Kind,
        attributes: Attributes,
        content: impl Fn() -> Content,
        removed: &Removed,
    ) -> Result<(), String> {
        if path.is_empty() {
            return match kind {
                Kind::Directory => {
                    self.put(Vec::new(), NodeKind::Directory, attributes);
                    Ok(())
                }
                _ => Err("the root of an image must be a directory".into()),
            };
        }
        let (parent, name) = split(path);
        let place = join(&self.directory(parent)?, name);
        if place.len() > MAX_PATH {
            return Err(too_long(&place));
        }
        self.take(place.len().saturating_sub(path.len()))?;
        let kind = match kind {
            Kind::HardLink(target) => return self.link(place, &target, removed),
            Kind::File { .. } => NodeKind::File(content()),
            Kind::Directory => NodeKind::Directory,
            Kind::Symlink(target) => NodeKind::Symlink(target),
            Kind::CharacterDevice(major, minor) => NodeKind::CharacterDevice(major, minor),
            Kind::BlockDevice(major, minor) => NodeKind::BlockDevice(major, minor),
            Kind::Fifo => NodeKind::Fifo,
        };
        if kind != NodeKind::Directory {
            self.remove_below(&place);
        }
        self.put(place, kind, attributes);
        Ok(())
    }

    /// Gives a file one name more. What the path was before is replaced, other names of that are not.
    fn link(&mut self, place: Vec<u8>, target: &[u8], removed: &Removed) -> Result<(), String> {
        let missing = || format!("a hard link to {}, which is not there", show(target));
        let (parent, name) = split(target);
        let parent = self.follow(parent, |_| false)?.ok_or_else(missing)?;
        let found = join(&parent, name);
        let node = self.paths.get(&found).or_else(|| removed.get(&found));
        let node = *node.ok_or_else(missing)?;
        if self.nodes[node].kind == NodeKind::Directory {
            return Err(format!("a hard link to {}, a directory", show(target)));
        }
        if self.paths.get(&place) != Some(&node) {
            self.remove_below(&place);
            self.paths.insert(place, node);
            self.linked.insert(node);
        }
        Ok(())
    }

    /// Puts something new at a path. Other names of what was there keep what they are.
    fn put(&mut self, path: Vec<u8>, kind: NodeKind, attributes: Attributes) {
        self.nodes.push(Node { kind, attributes });
        self.paths.insert(path, self.nodes.len() - 1);
    }

    /// Accounts for memory that no entry spells.
    fn take(&mut self, bytes: usize) -> Result<(), String> {
        self.unspelled += bytes;
        match self.unspelled > MAX_UNSPELLED {
            true => Err(format!(
                "the paths that the image has no entries for take more than {} MiB",
                MAX_UNSPELLED >> 20
            )),
            false => Ok(()),
        }
    }

    /// The directory that a path of a layer means, made with those above it where there is none.
    fn directory(&mut self, path: &[u8]) -> Result<Vec<u8>, String> {
        let found = (self.follow(path, |_| false)?)
            .ok_or_else(|| format!("{} is no directory", show(path)))?;
        let mut end = 0;
        while end < found.len() {
            let next = found[end + 1..].iter().position(|byte| *byte == b'/');
            end = next.map_or(found.len(), |slash| end + 1 + slash);
            let above = &found[..end];
            match self.paths.get(above) {
                Some(node) if self.nodes[*node].kind == NodeKind::Directory => {}
                Some(_) => return Err(format!("{} is no directory", show(above))),
                None => {
                    let attributes = Attributes {
                        mode: IMPLIED_MODE,
                        ..Attributes::default()
                    };
                    self.take(above.len() + IMPLIED)?;
                    self.put(above.to_vec(), NodeKind::Directory, attributes);
                }
            }
        }
        Ok(found)
    }

    /// Where a path leads by the symlinks on it, the last component's too. What is not there is taken to be a
    /// directory. `None`: `stops` has stopped it at a symlink.
    fn follow(
        &mut self,
        path: &[u8],
        stops: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<Vec<u8>>, String> {
        let mut found: Vec<u8> = Vec::new();
        // What is still to go, the next component last.
        let mut ahead: Vec<Vec<u8>> = components(path).map(<[u8]>::to_vec).rev().collect();
        let mut symlinks = 0;
        while let Some(component) = ahead.pop() {
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return Err("the paths in the image take too long to follow".into());
            }
            if component == b".." {
                if found.is_empty() {
                    return Err("a symlink on the way leads out of the image".into());
                }
                found.truncate(split(&found).0.len());
                continue;
            }
            let next = join(&found, &component);
            match self.paths.get(&next).map(|node| &self.nodes[*node].kind) {
                Some(NodeKind::Symlink(_)) if stops(&next) => return Ok(None),
                Some(NodeKind::Symlink(target)) => {
                    symlinks += 1;
                    if symlinks > MAX_SYMLINKS {
                        return Err("too many symlinks on the way".into());
                    }
                    if target.starts_with(b"/") {
                        return Err(format!(
                            "the symlink {} on the way leads out of the image, to {}",
                            show(&next),
                            show(target)
                        ));
                    }
                    ahead.extend(components(target).map(<[u8]>::to_vec).rev());
                }
                _ if next.len() > MAX_PATH => return Err(too_long(&next)),
                _ => found = next,
            }
        }
        Ok(Some(found))
    }

    /// Removes everything in a directory, and returns it.
    fn remove_below(&mut self, path: &[u8]) -> Vec<(Vec<u8>, usize)> {
        let prefix = match path {
            b"" => Vec::new(),
            path => [path, b"/"].concat(),
        };
        let below = self.paths.range(prefix.clone()..);
        let below = below.take_while(|(path, _)| path.starts_with(&prefix));
        let below: Vec<_> = below
            .filter(|(path, _)| !path.is_empty())
            .map(|(path, node)| (path.clone(), *node))
            .collect();
        for (path, _) in &below {
            self.paths.remove(path);
        }
        below
    }
}

fn too_long(place: &[u8]) -> String {
    let length = place.len();
    format!(
        "symlinks on the way lead to a path of {length} bytes, at most {MAX_PATH} can be: {}",
        show(place)
    )
}

fn is_whiteout(path: &[u8]) -> bool {
    split(path).1.starts_with(WHITEOUT)
}

/// The components of a path or of a symlink's target.
fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|component| !matches!(*component, b"" | b"."))
}

/// A path's directory, empty for the root, and its last component.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory {
        b"" => name.to_vec(),
        directory => [directory, b"/", name].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    fn text(path: &[u8], kind: &NodeKind, number: u64, earlier: Option<&[u8]>) -> String {
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

    /// What comes of layers, or why nothing does.
    fn flattened(layers: &[&str]) -> Result<String, Refused> {
        let mut tree = Tree::default();
        for (layer, entries) in layers.iter().enumerate() {
            let entries = entries.split_whitespace().map(entry).collect();
            let content_of = |n| Content {
                layer,
                offset: n as u64,
                size: 1,
            };
            tree.apply(entries, content_of)?;
        }
        let files = tree
            .files()
            .map(|(path, node, earlier)| text(path, &node.kind, node.attributes.uid, earlier));
        Ok(files.collect::<Vec<_>>().join(" "))
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
                &["a/=1 a/b=2 a!=3 a0=4"],
                "a/=1 a!=3 a/b=2 a0=4",
                "by bytes, not by component",
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
                &["a=1 b=2", ".wh..wh.plnk .wh..wh.aufs"],
                "a=1 b=2",
                "aufs's own",
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
                &["s->/etc", "s/a=1"][..],
                "s/a",
                "the symlink s on the way leads out of the image, to /etc",
            ),
            (
                &["s->..", "s/a=1"],
                "s/a",
                "a symlink on the way leads out of the image",
            ),
            (
                &["d/s->../../x", "d/s/a=1"],
                "d/s/a",
                "a symlink on the way leads out of the image",
            ),
            (
                &["s->/", "s/.wh.a"],
                "s/.wh.a",
                "the symlink s on the way leads out",
            ),
            (
                &["a=1 s->/d", "b==s/a"],
                "b",
                "the symlink s on the way leads out",
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
    fn deep_paths_without_directories_take_bounded_memory() {
        let mut tree = Tree::default();
        let deep = |n: usize| entry(&format!("{n}/{}a", "d/".repeat(2040)));
        let end = (0..1000).find_map(|n| tree.apply(vec![deep(n)], |_| Content::default()).err());
        let why = end.expect("it goes on");
        assert!(
            why.contains("the paths that the image has no entries for take more than 64 MiB"),
            "{why}"
        );
        let bytes: usize = tree.paths.keys().map(Vec::len).sum();
        assert!(bytes <= 65 << 20, "{bytes}");
    }

    #[test]
    fn what_symlinks_add_to_paths_takes_bounded_memory() {
        let long = vec!["d".repeat(255); 15].join("/");
        let mut tree = Tree::default();
        let first = vec![entry(&format!("{long}/")), entry(&format!("s->{long}"))];
        tree.apply(first, |_| Content::default()).unwrap();
        let end = (0..20_000).find_map(|n| {
            let layer = vec![entry(&format!("s/{n}"))];
            tree.apply(layer, |_| Content::default()).err()
        });
        let why = end.expect("it goes on");
        assert!(
            why.ends_with("the paths that the image has no entries for take more than 64 MiB"),
            "{why}"
        );
        let bytes: usize = tree.paths.keys().map(Vec::len).sum();
        assert!(bytes <= 65 << 20, "{bytes}");
    }

    #[test]
    fn no_path_is_longer_than_linux_allows() {
        let name = "d".repeat(255);
        let half = [&*name; 10].join("/");
        let layers = |last: &str| {
            let mut tree = Tree::default();
            let first = vec![entry(&format!("{half}/")), entry(&format!("s->{half}"))];
            tree.apply(first, |_| Content::default()).unwrap();
            tree.apply(vec![entry(last)], |_| Content::default())
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
        let mut tree = Tree::default();
        tree.apply(first, |_| Content::default()).unwrap();
        // Counted from the first path of the first layer on, but it would take seconds here.
        tree.steps += MAX_STEPS - 1_000_000;
        let more = (0..1000).map(|n| entry(&format!("s0/{n}"))).collect();
        let why = tree.apply(more, |_| Content::default()).unwrap_err();
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
            Directory(u64, BTreeMap<Name, Model>),
            Other(usize),
        }

        #[derive(Clone, Default)]
        struct Image {
            root: BTreeMap<Name, Model>,
            others: Vec<(NodeKind, u64)>,
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
                    if target.starts_with('/') || left == 0 {
                        return Err(No);
                    }
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
                                Kind::Symlink(target) => NodeKind::Symlink(target.clone()),
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
                    path: &str,
                    found: &mut BTreeMap<String, Model>,
                ) {
                    for (name, model) in files {
                        let path = format!("{path}{name}");
                        found.insert(path.clone(), model.clone());
                        if let Model::Directory(_, files) = model {
                            below(files, &format!("{path}/"), found);
                        }
                    }
                }
                let mut found = BTreeMap::new();
                below(&self.root, "", &mut found);
                let mut first: HashMap<usize, String> = HashMap::new();
                let line = |(path, model): (&String, &Model)| {
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

            fn entry(&mut self, number: &mut u64, known: &[String]) -> String {
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
                let (mut tree, mut model) = (Tree::default(), Image::default());
                let mut stack = Vec::new();
                for _ in 0..2 + chance.below(4) {
                    let list = model.list();
                    let is_file = |line: &&String| !line.contains("/=");
                    let path = |line: &String| line.split(['=', '-']).next().map(str::to_owned);
                    let known: Vec<_> = list.iter().filter(is_file).filter_map(path).collect();
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
                    let found = tree.apply(entries(), |_| Content::default());
                    assert_eq!(found.is_err(), expected.is_err(), "{stack:?}: {found:?}");
                    if found.is_err() {
                        refused += 1;
                        break;
                    }
                    let found: Vec<_> = tree
                        .files()
                        .map(|(path, node, earlier)| {
                            text(path, &node.kind, node.attributes.uid, earlier)
                        })
                        .collect();
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
