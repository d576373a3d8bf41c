//! Rules that no compiler checks: which file may import and use what, and what no file may contain.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Crates for the world outside, and the only files that may use them.
const USERS: [(&str, &[&str]); 14] = [
    ("systemd_journal_logger", &["src/journal.rs"]),
    ("env_logger", &["src/journal.rs"]),
    ("listenfd", &["src/server/listener.rs"]),
    ("signal_hook", &["src/server/signals.rs"]),
    ("sd_notify", &["src/server/clients.rs", "src/server/mod.rs"]),
    ("httparse", &["src/server/http/request.rs"]),
    ("tiny_http", &["src/server/http/response.rs"]),
    (
        "rustix",
        &[
            "src/cli/reload.rs",
            "src/dir.rs",
            "src/server/mod.rs",
            "src/source/registry/ahead.rs",
            // The name of the host and of its kernel.
            "src/sysupdate/specifiers.rs",
            "src/task.rs",
        ],
    ),
    (
        "ureq",
        &[
            "src/cli/service.rs",
            "src/source/registry/agent.rs",
            "src/source/registry/buffers.rs",
            "src/source/registry/client.rs",
            "src/source/registry/error.rs",
            "src/source/registry/reply.rs",
            "src/source/registry/tls.rs",
            "src/source/registry/transport.rs",
        ],
    ),
    (
        "rustls",
        &["src/source/registry/error.rs", "src/source/registry/tls.rs"],
    ),
    ("rustls_native_certs", &["src/source/registry/tls.rs"]),
    (
        "rustls_pki_types",
        &[
            "src/cli/check/expiry.rs",
            "src/trust/key.rs",
            "src/trust/keyless/authority.rs",
            "src/trust/keyless/legacy.rs",
            "src/trust/keyless/root.rs",
        ],
    ),
    (
        "sigstore_verify",
        &["src/trust/keyless/provider.rs", "src/trust/keyless/root.rs"],
    ),
    (
        "webpki",
        &["src/trust/key.rs", "src/trust/keyless/authority.rs"],
    ),
];

/// Files that only decide: no network, no disk, no clock.
const PURE: &[&str] = &[
    "src/cli/transfer/named.rs",
    "src/cli/transfer/patterns.rs",
    "src/cli/transfer/shapes.rs",
    "src/cli/transfer/text.rs",
    "src/name/",
    "src/digest.rs",
    "src/manifest.rs",
    "src/artifact/",
    "src/companions.rs",
    "src/delta/caibx.rs",
    "src/delta/index.rs",
    "src/delta/plan.rs",
    "src/delta/verity.rs",
    "src/fields.rs",
    "src/gpt.rs",
    "src/listing/",
    "src/memory.rs",
    "src/openpgp/",
    "src/printable.rs",
    "src/rollout.rs",
    "src/snapshot/pairs.rs",
    "src/snapshot/promised.rs",
    "src/sysupdate/nearest.rs",
    "src/sysupdate/pattern.rs",
    "src/sysupdate/syntax.rs",
    "src/sysupdate/transfer.rs",
    "src/template.rs",
    "src/version.rs",
    "src/trust/",
    "src/wanted.rs",
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

/// Words that write to the disk, and the only files that may use them.
const WRITES: [&str; 6] = [
    "File::create",
    "OpenOptions",
    "fs::create",
    "fs::remove",
    "fs::rename",
    "fs::write",
];
const WRITERS: [&str; 5] = [
    "src/cache/",
    "src/cli/fetch.rs",
    "src/cli/key/keyring.rs",
    "src/cli/transfer/install.rs",
    "src/dir.rs",
];

/// Most lines of code in a file, without comments, blank lines and unit tests.
const MAX_LINES: usize = 700;

/// All text files below a directory of the project, with their paths from its root.
pub fn files(below: &str) -> BTreeMap<String, String> {
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

/// The files of the program, without those that have unit tests alone.
fn program() -> BTreeMap<String, String> {
    let mut found = files("src");
    found.retain(|file, _| !file.ends_with("tests.rs"));
    found
}

/// The code of a file: without comments that are lines of their own, without its unit tests.
fn code(text: &str) -> String {
    let (code, _) = text
        .split_once("#[cfg(test)]\nmod tests {")
        .unwrap_or((text, ""));
    let lines = code.lines();
    let lines = lines.filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn an_edge_crate_has_few_users() {
    for (file, text) in program() {
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
    for (file, text) in program() {
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
fn only_the_cache_and_directories_write_to_the_disk() {
    for (file, text) in program() {
        if !WRITERS.iter().any(|writer| file.starts_with(writer)) {
            for word in WRITES {
                assert!(!code(&text).contains(word), "{file} must not use {word}");
            }
        }
    }
}

#[test]
fn imports_never_turn_back() {
    // Which part (the first component below src/) names which.
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, text) in program() {
        let part = part_of(&file);
        let named = imports.entry(part.clone()).or_default();
        let others = words_after(&code(&text), "crate::");
        named.extend(others.into_iter().filter(|other| *other != part));
    }
    let parts: BTreeSet<_> = imports.keys().cloned().collect();
    assert!(parts.contains("lib") && parts.len() > 3, "{parts:?}");
    assert_no_circle(imports);
}

/// Inside a part the same holds for the files beside each other. `mod.rs` has what they share, so it imports them
/// and they import it.
#[test]
fn imports_between_the_files_of_a_part_never_turn_back() {
    let mut folders: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for (file, text) in program() {
        let (folder, name) = file.rsplit_once('/').unwrap();
        let name = name.trim_end_matches(".rs");
        if folder != "src" && name != "mod" {
            let mut named = words_after(&code(&text), "super::");
            named.remove(name);
            let files = folders.entry(folder.to_owned()).or_default();
            files.insert(name.to_owned(), named);
        }
    }
    assert!(folders.contains_key("src/server"), "{folders:?}");
    folders.into_values().for_each(assert_no_circle);
}

/// Takes away whatever imports nothing that is left; the rest imports each other in a circle.
fn assert_no_circle(mut imports: BTreeMap<String, BTreeSet<String>>) {
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

/// The words that follow `crate::` or `super::`, also in braces.
fn words_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let word = |text: &str| {
        text.split(|c: char| !c.is_alphanumeric() && c != '_')
            .next()
            .unwrap()
            .to_owned()
    };
    let mut named = BTreeSet::new();
    for (start, found) in code.match_indices(prefix) {
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
fn the_architecture_has_each_part() {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/architecture.md")).unwrap();
    let parts: BTreeSet<_> = program().into_keys().map(|file| part_of(&file)).collect();
    for part in parts {
        let names = ["/", ".rs`", "`"].map(|end| format!("`src/{part}{end}"));
        let is_named = names.iter().any(|name| page.contains(name));
        assert!(
            is_named || part == "lib",
            "{part} is not in the table of parts"
        );
    }
}

#[test]
fn no_file_is_too_long_to_read() {
    for (file, text) in program() {
        let code = code(&text);
        let lines = code.lines().filter(|line| !line.trim().is_empty()).count();
        assert!(lines <= MAX_LINES, "{file} has {lines} lines of code");
    }
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

/// An indented block is Rust code for `cargo doc`, which `make check` runs.
#[test]
fn diagrams_in_comments_are_fenced() {
    for (file, text) in files("src") {
        let has_block = ["//!\n//!     ", "///\n///     "]
            .iter()
            .any(|block| text.contains(block));
        assert!(!has_block, "{file}: put ```text around the indented block");
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
        // Files of publishers and of fuzzers are not changed.
        let is_theirs = [
            "tests/cases/",
            "tests/container-libs/",
            "tests/cosign/",
            "tests/it/corpus/",
            "tests/fuzz/corpus/",
        ];
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
    assert!(sum <= 288, "{sum} MiB");
}

/// The forge checks a change in jobs of their own, with the very commands of `make check`.
#[test]
fn the_workflow_runs_what_make_check_runs() {
    let read = |file: &str| fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
    let (makefile, workflow) = (read("Makefile"), read(".github/workflows/ci.yml"));
    let (_, recipe) = makefile.split_once("\ncheck:").unwrap();
    let recipe = recipe
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with('\t'));
    let commands: Vec<_> = recipe.filter(|line| line.contains("$(CARGO)")).collect();
    assert!(commands.len() > 3, "{commands:?}");
    for command in commands {
        let step = format!("- run: {}\n", command.trim().replace("$(CARGO)", "cargo"));
        assert!(workflow.contains(&step), "no job has {step}");
    }
    assert!(workflow.contains("\npermissions:\n  contents: read\n"));
    for line in workflow.lines() {
        let indent = line.len() - line.trim_start().len();
        assert!(indent % 2 == 0 && !line.contains('\t'), "{line}");
        if let Some((_, action)) = line.split_once("uses: ") {
            let (_, version) = action.split_once('@').unwrap();
            assert!(version.starts_with('v'), "{action} is not a release");
        }
    }
}

#[test]
fn the_spec_file_has_the_version_of_the_program() {
    let spec = Path::new(ROOT).join("docs/packaging/sysext-oci-proxy.spec");
    let spec = fs::read_to_string(spec).unwrap();
    let found = spec.lines().find_map(|line| line.strip_prefix("Version:"));
    assert_eq!(found.map(str::trim), Some(env!("CARGO_PKG_VERSION")));
}

#[test]
fn each_theme_of_the_checks_in_containers_is_run_by_default() {
    let scripts = ["tests/e2e/run", "tests/e2e/guest/run"];
    let text = scripts.map(|file| fs::read_to_string(Path::new(ROOT).join(file)).unwrap());
    let lists = text.join("");
    let lists = lists.split("THEMES:-").skip(1);
    let run: BTreeSet<&str> = lists
        .filter_map(|list| list.split('}').next())
        .flat_map(str::split_whitespace)
        .collect();
    let mut found = 0;
    for file in files("tests/e2e/guest").into_keys() {
        let name = file
            .rsplit('/')
            .next()
            .and_then(|name| name.strip_suffix(".sh"));
        // Sourced by the scripts that a container boots into
        let Some(name) = name.filter(|name| !["begin", "lib"].contains(name)) else {
            continue;
        };
        assert!(run.contains(name), "{file} is in none of {scripts:?}");
        found += 1;
    }
    assert!(found > 30, "{found}");
}

/// The themes of one container share a shell: a function with the name of a common one would replace it from then on.
#[test]
fn no_theme_replaces_a_function_that_all_have() {
    let names = |text: &str| {
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let begins = text.lines().filter_map(|line| line.split_once("() {"));
        let names = begins.map(|(name, _)| name.to_owned());
        names
            .filter(|name| name.chars().all(is_name))
            .collect::<BTreeSet<_>>()
    };
    let scripts = files("tests/e2e");
    let (lib, check) = ("tests/e2e/guest/lib.sh", "tests/e2e/check.sh");
    let common = &names(&scripts[lib]) | &names(&scripts[check]);
    assert!(common.len() > 30, "{common:?}");
    for (file, text) in scripts.iter().filter(|(file, _)| file.ends_with(".sh")) {
        if ![lib, check].contains(&file.as_str()) {
            let replaced: Vec<_> = names(text).intersection(&common).cloned().collect();
            assert_eq!(
                replaced, [""; 0],
                "{file} replaces functions of {lib} or {check}"
            );
        }
    }
}

/// Tests of oddities of registries have the number of a row in docs/registries.md in their names: `row_t4_…`,
/// `rows_c7_and_c8_…`.
#[test]
fn each_row_in_the_name_of_a_test_is_in_the_table() {
    let table = fs::read_to_string(Path::new(ROOT).join("docs/registries.md")).unwrap();
    let mut found = 0;
    for (file, text) in files("src").into_iter().chain(files("tests/it")) {
        let names = words_after(&text, "fn ");
        for name in names.iter().filter(|name| name.starts_with("row")) {
            for row in name.split('_').skip(1).filter(|word| is_row(word)) {
                let row = row.to_uppercase();
                assert!(
                    table.contains(&format!("\n| {row} |")),
                    "{file}: {name}: docs/registries.md has no row {row}"
                );
                found += 1;
            }
        }
    }
    assert!(found > 100, "{found}");
}

/// A letter and a number.
fn is_row(word: &str) -> bool {
    let number = word.strip_prefix(|c: char| c.is_ascii_lowercase());
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}
