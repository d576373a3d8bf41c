//! What no compiler checks: which file may use what, and what no file may say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Crates that only these files may use: elsewhere they are an edge that nobody expects.
const USERS: [(&str, &[&str]); 9] = [
    ("listenfd", &["src/server/listener.rs"]),
    ("signal_hook", &["src/server/signals.rs"]),
    ("sd_notify", &["src/server/clients.rs", "src/server/mod.rs"]),
    ("httparse", &["src/server/http.rs"]),
    ("tiny_http", &["src/server/http.rs"]),
    (
        "rustix",
        &[
            "src/dir.rs",
            "src/server/mod.rs",
            "src/source/registry/transport.rs",
            "src/task.rs",
        ],
    ),
    (
        "ureq",
        &[
            "src/source/registry/agent.rs",
            "src/source/registry/client.rs",
            "src/source/registry/error.rs",
            "src/source/registry/reply.rs",
            "src/source/registry/tls.rs",
            "src/source/registry/transport.rs",
        ],
    ),
    (
        "rustls",
        &[
            "src/source/registry/agent.rs",
            "src/source/registry/error.rs",
            "src/source/registry/tls.rs",
        ],
    ),
    ("rustls_native_certs", &["src/source/registry/agent.rs"]),
];

/// Files that decide and do nothing else: no network, no disk, no clock.
const PURE: [&str; 10] = [
    "src/name.rs",
    "src/digest.rs",
    "src/manifest.rs",
    "src/artifact/",
    "src/companions.rs",
    "src/listing.rs",
    "src/memory.rs",
    "src/snapshot/pairs.rs",
    "src/snapshot/promised.rs",
    "src/template.rs",
];
const IMPURE: [&str; 8] = [
    "std::fs",
    "TcpStream",
    "ToSocketAddrs",
    "std::process",
    "std::thread",
    "crate::source",
    "crate::cache",
    "::now()",
];

/// All text files below a directory of the project, with their paths from its root.
fn files(below: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![Path::new(ROOT).join(below)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            let name = entry.file_name().into_string().unwrap();
            if path.is_dir() {
                let is_found_by_fuzzing = path.ends_with("fuzz/artifacts");
                if ![".git", "target"].contains(&name.as_str()) && !is_found_by_fuzzing {
                    folders.push(path);
                }
            } else if let Ok(text) = fs::read_to_string(&path) {
                found.insert(
                    path.strip_prefix(ROOT)
                        .unwrap()
                        .to_str()
                        .unwrap()
                        .to_owned(),
                    text,
                );
            }
        }
    }
    assert!(!found.is_empty(), "nothing below {below}");
    found
}

/// The code of a file: without comments that are lines of their own, without its unit tests.
fn code(text: &str) -> String {
    let lines = text
        .lines()
        .take_while(|line| line.trim() != "#[cfg(test)]");
    lines
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn an_edge_crate_has_few_users() {
    for (file, text) in files("src") {
        for (edge, users) in USERS {
            let uses = code(&text).contains(&format!("{edge}::"));
            assert!(
                !uses || users.contains(&file.as_str()),
                "{file} uses {edge}; only {users:?} may"
            );
        }
    }
}

#[test]
fn decisions_do_no_io() {
    for (file, text) in files("src") {
        if PURE.iter().any(|pure| file.starts_with(pure)) {
            for word in IMPURE {
                assert!(
                    !code(&text).contains(word),
                    "{file} decides, so it must not use {word}"
                );
            }
        }
    }
}

#[test]
fn imports_never_turn_back() {
    // Which part (the first component below src/) names which.
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, text) in files("src") {
        let part = part_of(&file);
        let named = imports.entry(part.clone()).or_default();
        named.extend(
            parts_named(&code(&text))
                .into_iter()
                .filter(|other| *other != part),
        );
    }
    let parts: BTreeSet<_> = imports.keys().cloned().collect();
    assert!(parts.contains("lib") && parts.len() > 3, "{parts:?}");
    // Takes away what imports nothing that is left; what stays in the end goes round in a circle.
    while let Some(leaf) = imports
        .iter()
        .find(|(_, named)| named.iter().all(|name| !imports.contains_key(name)))
    {
        let leaf = leaf.0.clone();
        imports.remove(&leaf);
    }
    assert!(imports.is_empty(), "these import each other: {imports:#?}");
}

fn part_of(file: &str) -> String {
    let part = file
        .strip_prefix("src/")
        .unwrap()
        .split('/')
        .next()
        .unwrap();
    part.trim_end_matches(".rs").to_owned()
}

/// The words that follow `crate::`, also in braces.
fn parts_named(code: &str) -> BTreeSet<String> {
    let word = |text: &str| {
        text.split(|c: char| !c.is_alphanumeric() && c != '_')
            .next()
            .unwrap()
            .to_owned()
    };
    let mut named = BTreeSet::new();
    for (start, found) in code.match_indices("crate::") {
        let rest = &code[start + found.len()..];
        match rest.strip_prefix('{') {
            Some(list) => {
                let (mut depth, mut item) = (0, String::new());
                for letter in list.chars() {
                    match letter {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => {
                            named.insert(word(item.trim()));
                            item.clear();
                            continue;
                        }
                        _ => {}
                    }
                    item.push(letter);
                }
                named.insert(word(item.trim()));
            }
            None => {
                named.insert(word(rest));
            }
        }
    }
    named.remove("");
    named
}

#[test]
fn every_source_file_says_first_what_it_is() {
    for (file, text) in files("src")
        .into_iter()
        .chain(files("tests/it"))
        .chain(files("tests/tools"))
        .chain(files("tests/fuzz"))
    {
        assert!(
            !file.ends_with(".rs") || text.starts_with("//!"),
            "{file} does not start with //!"
        );
    }
}

#[test]
fn nothing_is_left_undone_or_points_outside() {
    // Spelled in two halves, for this file is read too.
    let words = [
        concat!("../", "shared"),
        concat!("/work/", "shared"),
        concat!("todo", "!("),
        concat!("dbg", "!("),
        concat!("unimplemented", "!("),
        concat!("FIX", "ME"),
    ];
    for (file, text) in files(".") {
        for word in words {
            assert!(!text.contains(word), "{file} says {word}");
        }
    }
}

#[test]
fn no_line_ends_in_space() {
    for (file, text) in files(".") {
        // What a publisher wrote stays as it is, and so does what a fuzzer found.
        let is_theirs = ["tests/cases/", "tests/it/corpus/", "tests/fuzz/corpus/"];
        if is_theirs.iter().any(|folder| file.starts_with(folder)) || file.ends_with("Cargo.lock") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            assert!(
                line.trim_end() == line,
                "{file}:{}: space at the end",
                number + 1
            );
        }
        assert!(
            text.is_empty() || text.ends_with('\n'),
            "{file}: the last line has no end"
        );
    }
}

/// The table in SECURITY.md that adds up the memory has no more than it says.
#[test]
fn the_bounds_of_memory_add_up() {
    let text = fs::read_to_string(Path::new(ROOT).join("SECURITY.md")).unwrap();
    let (_, table) = text.split_once("| in memory | at most |\n").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let sizes = table.lines().filter_map(|line| {
        let size = line.trim_end_matches(" |").rsplit("| ").next()?;
        size.strip_suffix(" MiB")?.parse::<usize>().ok()
    });
    let sizes: Vec<_> = sizes.collect();
    assert_eq!(sizes.len(), table.lines().count() - 1, "{table}");
    let sum: usize = sizes.iter().sum();
    assert!(sum <= 256, "{sum} MiB");
}
