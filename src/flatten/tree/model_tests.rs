//! Random images, compared with a model that is simple and slow: nested maps, and the rules word by word.

use std::collections::{BTreeMap, HashMap};

use super::tests::{entry, kept, list, new_tree, text};
use crate::flatten::apply::apply;
use crate::flatten::change::NodeKind;
use crate::tar::{Entry, Kind, show};

type Name = String;

/// The meaning of a name in the model: a directory with its number and files, or another file by its index in
/// a list, so that two names can be the same file.
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
                    // A file that a whiteout has hidden can still be the target.
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
                        Kind::Symlink(target) => NodeKind::Symlink(target.as_slice().into()),
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
