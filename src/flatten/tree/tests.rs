//! Layers, applied by the rules.

use super::resolve::MAX_STEPS;
use super::*;
use crate::flatten::apply::apply;
use crate::tar::{Entry, Kind};

/// An entry in short: `d/=1` a directory, `a=2` a file, `s->t` a symlink, `b==a` a hard link. The number
/// stands for all that an entry says of itself; without one it is 0.
pub fn entry(text: &str) -> Entry {
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

pub fn text(path: &[u8], kind: &NodeKind, number: u32, earlier: Option<&[u8]>) -> String {
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
pub fn kept(entries: impl IntoIterator<Item = Entry>) -> &'static [Change] {
    let change = |entry| Change::new(entry, Content::default());
    entries.into_iter().map(change).collect::<Vec<_>>().leak()
}

pub fn new_tree() -> Tree<'static> {
    Tree::new(64 << 20)
}

pub fn list(tree: &Tree<'_>) -> Vec<String> {
    let mut list = Vec::new();
    let visited: Result<(), ()> = tree.visit(|path, node, earlier| {
        list.push(text(path, node.kind, node.attributes.uid, earlier));
        Ok(())
    });
    visited.unwrap();
    list
}

/// The image that layers make, or the reason why they make none.
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
            "a hard link to s/a, which does not exist",
        ),
        (
            &["s->t t->s", "s/a=1"],
            "s/a",
            "too many symlinks on the way",
        ),
        (&[&chain, "s0/a=1"], "s0/a", "too many symlinks on the way"),
        (&["a=1", "a/b=2"], "a/b", "a is not a directory"),
        (
            &["d/=1 d/a=2 s->d/a", "s/b=3"],
            "s/b",
            "d/a is not a directory",
        ),
        (&["b==a"], "b", "a hard link to a, which does not exist"),
        (&["b==a a=1"], "b", "a hard link to a, which does not exist"),
        (
            &["a=1", ".wh.a", "b==a"],
            "b",
            "a hard link to a, which does not exist",
        ),
        (&["d/=1", "b==d"], "b", "a hard link to d, a directory"),
        (&[".wh."], ".wh.", "a whiteout that names no file"),
        (&[".wh.."], ".wh..", "a whiteout that names no file"),
        (
            &["d/=1", "d/.wh..."],
            "d/.wh...",
            "a whiteout that names no file",
        ),
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
        why.contains("paths without an entry take more than 64 MiB"),
        "{why}"
    );
    assert!(tree.is_full());
    // At the least what each directory is counted with.
    assert!(tree.inodes.len() <= (64 << 20) / IMPLIED_SIZE);
}

#[test]
fn what_symlinks_add_to_paths_is_bounded() {
    let long = vec!["d".repeat(255); 15].join("/");
    let mut tree = new_tree();
    let first = [entry(&format!("{long}/")), entry(&format!("s->{long}"))];
    apply(&mut tree, 0, kept(first)).unwrap();
    let end = (0..20_000).find_map(|n| apply(&mut tree, 1, kept([entry(&format!("s/{n}"))])).err());
    let why = end.expect("it goes on");
    assert!(
        why.ends_with("paths without an entry take more than 64 MiB"),
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
