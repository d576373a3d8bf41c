//! Rules for documents: how long the README is, that links lead somewhere, that commands are run by a test or say why
//! not, that settings are valid, and that files and functions exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::service::{Folder, command, output};
use crate::sigstore::Sigstore;
use crate::tidy::{ROOT, files};

/// Two minutes to read.
const MAX_README_LINES: usize = 170;
const MAX_README_WORDS: usize = 1400;

/// Languages of fenced blocks that hold commands. An indented block holds commands, too.
const SHELLS: [&str; 4] = ["sh", "bash", "shell", "console"];

/// Begins the label of a block that no test types; the reason follows.
const NOT_RUN: &str = "not run: ";

/// A block of code, and what stands above it.
#[derive(Debug)]
struct Block {
    /// Where it is: `docs/settings.md:12`.
    place: String,
    /// The text of the comment in the line above.
    label: Option<String>,
    /// The text after the fence; empty if the block is indented.
    language: String,
    text: String,
}

impl Block {
    fn holds_commands(&self) -> bool {
        self.language.is_empty() || SHELLS.contains(&self.language.as_str())
    }

    fn not_run(&self) -> Option<&str> {
        self.label.as_deref()?.strip_prefix(NOT_RUN)
    }
}

/// The documents of the project; not those of other projects that tests read.
fn documents() -> BTreeMap<String, String> {
    let mut found = files(".");
    found.retain(|file, _| file.ends_with(".md"));
    found
}

/// README.md and the pages for users, whose examples are checked.
fn pages() -> BTreeMap<String, String> {
    let mut found = documents();
    found.retain(|file, _| file == "README.md" || file.starts_with("docs/"));
    assert!(found.len() > 5, "{:?}", found.keys());
    found
}

/// All blocks of code of a page, in their order.
fn blocks(file: &str, text: &str) -> Vec<Block> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    // In a list, the text of an item is indented; a block is indented by four more.
    let mut margin = 0;
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        let above = at.checked_sub(1).map_or("", |above| lines[above].trim());
        let label = above
            .strip_prefix("<!-- ")
            .and_then(|label| label.strip_suffix(" -->"));
        let begin = at;
        let block = |language: &str, lines: &[&str]| Block {
            place: format!("{file}:{}", begin + 1),
            label: label.map(str::to_owned),
            language: language.to_owned(),
            text: lines.join("\n") + "\n",
        };
        at += 1;
        if let Some(language) = line.trim_start().strip_prefix("```") {
            let indent = indent_of(line);
            let end = (at..lines.len())
                .find(|&line| lines[line].trim() == "```")
                .unwrap_or_else(|| panic!("{file}:{}: a fence without an end", begin + 1));
            let inner: Vec<&str> = lines[at..end]
                .iter()
                .map(|line| line.get(indent..).unwrap_or(""))
                .collect();
            let language = if language.is_empty() {
                "text"
            } else {
                language
            };
            found.push(block(language, &inner));
            at = end + 1;
        } else if indent_of(line) >= margin + 4 && (above.is_empty() || label.is_some()) {
            let is_inside = |line: &&str| line.trim().is_empty() || indent_of(line) >= margin + 4;
            at += lines[at..]
                .iter()
                .take_while(|line| is_inside(line))
                .count();
            found.push(block("", &lines[begin..at]));
        } else if indent_of(line) == 0 && !line.is_empty() {
            margin = list_margin(line);
        }
    }
    found
}

fn indent_of(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

/// How far the text of a list item is indented; 0 if the line begins none.
fn list_margin(line: &str) -> usize {
    let marker = line.split(' ').next().unwrap_or("");
    let number = marker.strip_suffix('.').unwrap_or("");
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    if ["*", "-"].contains(&marker) || is_number {
        marker.len() + 1
    } else {
        0
    }
}

/// A page without its blocks of code and without what is in backticks.
fn prose(text: &str) -> String {
    let mut is_code = false;
    let lines = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    text.split('`').step_by(2).collect::<Vec<_>>().join("``")
}

/// The path from the root of the project of a link in a document.
fn resolved(document: &str, link: &str) -> String {
    let folder = document.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in link.split('/') {
        match part {
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// The anchors that a forge gives to the headings of a page.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut is_code = false;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        is_code ^= line.trim_start().starts_with("```");
        let title = line.trim_start_matches('#');
        if is_code || title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let letters = title.trim().to_lowercase();
        let letters = letters
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let anchor: String = letters.map(|c| if c == ' ' { '-' } else { c }).collect();
        // Of headings with one title the second gets a number.
        let numbered = (1..).map(|number| format!("{anchor}-{number}"));
        let mut names = std::iter::once(anchor.clone()).chain(numbered);
        let free = names.find(|name| !found.contains(name));
        found.extend(free);
    }
    found
}

#[test]
fn the_readme_is_read_in_two_minutes() {
    let text = fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let lines = text.lines().count();
    let words = text.split_whitespace().count();
    assert!(
        lines <= MAX_README_LINES && words <= MAX_README_WORDS,
        "README.md has {lines} lines and {words} words, at most {MAX_README_LINES} and {MAX_README_WORDS} are allowed: \
         move details to docs"
    );
}

#[test]
fn links_between_documents_lead_somewhere() {
    let documents = documents();
    let mut wrong = Vec::new();
    let mut links = 0;
    for (file, text) in &documents {
        for link in prose(text).split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            if link.contains(':') {
                continue;
            }
            links += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() {
                file.clone()
            } else {
                resolved(file, path)
            };
            if !Path::new(ROOT).join(&target).exists() {
                wrong.push(format!("{file}: no file for {link}"));
            } else if !anchor.is_empty()
                && !documents
                    .get(&target)
                    .is_some_and(|text| anchors(text).contains(anchor))
            {
                wrong.push(format!("{file}: no heading for {link}"));
            }
        }
    }
    assert!(links > 20, "only {links} links found");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn commands_in_documents_are_run_by_a_test_or_say_why_not() {
    let scripts: String = files("tests/e2e").into_values().collect();
    let is_typed = |label: &str| {
        scripts.contains(&format!("'{label}'")) || scripts.contains(&format!("\"{label}\""))
    };
    let mut wrong = Vec::new();
    let mut places = BTreeMap::new();
    for (file, text) in pages() {
        for block in blocks(&file, &text) {
            let Block { place, label, .. } = &block;
            let Some(label) = label else {
                if block.holds_commands() {
                    wrong.push(format!(
                        "{place}: no `<!-- LABEL -->` or `<!-- not run: REASON -->` above the commands"
                    ));
                }
                continue;
            };
            if let Some(reason) = block.not_run() {
                if reason.trim().len() < 10 {
                    wrong.push(format!("{place}: not run, but no reason"));
                }
            } else if !is_typed(label) {
                wrong.push(format!("{place}: no script in tests/e2e types \"{label}\""));
            } else if let Some(other) = places.insert(label.clone(), place.clone()) {
                wrong.push(format!("{place}: \"{label}\" is also at {other}"));
            }
        }
    }
    assert!(places.len() > 5, "{places:?}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A page may show the settings of this program, or those of container tools that it reads.
#[test]
fn settings_in_documents_are_valid() {
    let key = format!("{ROOT}/tests/cosign/p256.pub");
    let sigstore = Sigstore::new();
    let mut seen = 0;
    for (file, text) in pages() {
        for block in blocks(&file, &text) {
            if block.language != "toml" {
                continue;
            }
            seen += 1;
            let folder = Folder::new();
            // The keys in the examples are on no machine.
            let parts = block.text.split("\"/etc/pki/containers/");
            let mut parts = parts.map(|part| part.to_owned());
            let mut text = parts.next().unwrap();
            for part in parts {
                text += &format!("\"{key}\"{}", part.split_once('"').unwrap().1);
            }
            let (authority, _) = sigstore.pem();
            let authority = folder.file("ca.pem", &authority);
            text = text.replace("/etc/pki/acme-ca.pem", authority.to_str().unwrap());
            let root = folder.file("root.json", &sigstore.trusted_root(None).to_string());
            let usual = "/etc/sysext-oci-proxy/trusted_root.json";
            if text.contains(usual) {
                text = text.replace(usual, root.to_str().unwrap());
            } else if text.contains("keyless") {
                let (head, rest) = text.split_once("\nsource = ").unwrap();
                text = format!("{head}\ntrusted-root = {root:?}\nsource = {rest}");
            }
            // A layout: no registry is asked.
            let mut command = command(&["list", "oci:/nonexistent"]);
            if text.contains("[[registry]]") {
                let path = folder.file("registries.conf", &text);
                command.env("CONTAINERS_REGISTRIES_CONF", path);
                command.arg("--direct");
            } else {
                command.arg("--config");
                command.arg(folder.file("config.toml", &text));
            }
            let output = output(command);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.code() != Some(78) && said.contains("/nonexistent"),
                "{}: {said}",
                block.place
            );
        }
    }
    assert!(seen > 5, "only {seen} blocks of settings");
}

/// The path and the names in backticks that begin a row of a table, or any path in backticks elsewhere.
#[test]
fn documents_name_files_and_functions_that_exist() {
    let folders = [
        "src/", "tests/", "units/", "docs/", "man/", ".ci/", ".github/",
    ];
    for (file, text) in files(".") {
        if !file.ends_with(".md") || file.starts_with("tests/") {
            continue;
        }
        for line in text.lines() {
            let mut source = None;
            for quoted in line.split('`').skip(1).step_by(2) {
                let is_word = |c: char| c.is_alphanumeric() || "_-./".contains(c);
                if !quoted.chars().all(is_word) {
                    continue;
                }
                let path = Path::new(ROOT).join(quoted);
                if folders.iter().any(|folder| quoted.starts_with(folder)) {
                    assert!(path.exists(), "{file} names {quoted}");
                    source = fs::read_to_string(path).ok();
                } else if let Some(source) = source.as_ref().filter(|_| line.starts_with('|')) {
                    assert!(source.contains(quoted), "{file}: no {quoted}: {line}");
                }
            }
        }
    }
}

/// `rust-version` in Cargo.toml is the only place that decides; documents name the same one.
#[test]
fn documents_name_the_oldest_rust() {
    let manifest = fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).unwrap();
    let (_, rest) = manifest.split_once("\nrust-version = \"").unwrap();
    let (oldest, _) = rest.split_once('"').unwrap();
    for (file, text) in files(".") {
        if !file.ends_with(".md") {
            continue;
        }
        for (start, _) in text.match_indices("Rust 1.") {
            let number = &text[start + "Rust ".len()..];
            let number = number
                .split(|c: char| !c.is_ascii_digit() && c != '.')
                .next();
            let named = number.unwrap().trim_end_matches('.');
            assert_eq!(named, oldest, "{file}");
        }
    }
}
