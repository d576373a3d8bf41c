//! Runs `tests/cases/`: what each directory says a repository holds is listed as it says.
//! How a case is written is in `tests/cases/README.md`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::content::{Repository, digest, empty_listing};
use crate::registry::Registry;
use crate::service::{Folder, Setup};

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases");
/// The name of a directory of several repositories.
const MERGED: &str = "merged";

#[test]
fn every_case_is_listed_as_it_says() {
    let only = std::env::var("CASE").unwrap_or_default();
    let mut cases: Vec<_> = fs::read_dir(CASES)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir() && path.to_str().unwrap().ends_with(&only))
        .collect();
    cases.sort();
    assert!(!cases.is_empty(), "no case named {only:?}");
    let complaints: Vec<_> = cases
        .iter()
        .flat_map(|path| Case::read(path).run())
        .collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

struct Case {
    /// The directory's name.
    what: String,
    repository: String,
    settings: String,
    sources: Vec<&'static str>,
    content: Repository,
    /// More repositories, merged with it into one directory.
    also: Vec<(String, Repository)>,
    expected: String,
    log: Vec<String>,
}

impl Case {
    fn read(path: &Path) -> Self {
        let text = |name: &str| fs::read_to_string(path.join(name)).ok();
        let known = [
            "README.md",
            "also",
            "blobs",
            "expected",
            "log",
            "manifests",
            "repository",
            "settings.toml",
            "source",
            "tags",
        ];
        for name in names(path) {
            assert!(
                known.contains(&name.as_str()),
                "{}: what is {name}?",
                path.display()
            );
        }
        let mut settings = text("settings.toml").unwrap_or_default();
        if !settings.contains("architectures") {
            settings += "architectures = [\"x86-64\"]\n";
        }
        let sources = match text("source").as_deref().map(str::trim) {
            None => vec!["registry", "layout"],
            Some("registry") => vec!["registry"],
            Some("layout") => vec!["layout"],
            Some(other) => panic!("{}: {other:?} is no source", path.display()),
        };
        let mut files = Files {
            path,
            filled: BTreeMap::new(),
        };
        let content = files.repository("");
        let also = repositories(&path.join("also"))
            .into_iter()
            .map(|name| {
                let repository = files.repository(&format!("also/{name}/"));
                (name, repository)
            })
            .collect();
        let expected = String::from_utf8(files.filled("expected").to_vec()).unwrap();
        Case {
            what: path.file_name().unwrap().to_str().unwrap().to_owned(),
            repository: text("repository")
                .unwrap_or_else(|| "hello".to_owned())
                .trim()
                .to_owned(),
            settings,
            sources,
            content,
            also,
            expected,
            log: text("log")
                .unwrap_or_default()
                .lines()
                .map(str::to_owned)
                .collect(),
        }
    }

    /// The differences from the expected result of the case.
    fn run(&self) -> Vec<String> {
        let folder = Folder::new();
        let registry = Registry::start();
        let first = (self.repository.clone(), self.content.clone());
        let all: Vec<_> = std::iter::once(&first).chain(&self.also).collect();
        for (name, content) in &all {
            registry.put(name, content.clone());
            content.write_layout(&folder.path().join(name));
        }
        let mut complaints = Vec::new();
        for &kind in &self.sources {
            let source = |(name, _): &&(String, Repository)| match kind {
                "registry" => format!("\"{}/{name}\"", registry.address),
                _ => format!("\"oci:{}\"", folder.path().join(name).display()),
            };
            let sources: Vec<_> = all.iter().map(source).collect();
            let (name, source) = match sources.as_slice() {
                [one] => (self.repository.as_str(), one.clone()),
                several => (MERGED, format!("[{}]", several.join(", "))),
            };
            let settings = format!(
                "[repository.\"{name}\"]\nsource = {source}\n{}",
                self.settings
            );
            let service = Setup::new(settings).own_cache().start();
            let response = service.get(&format!("/{name}/SHA256SUMS"));
            let found = (response.status, response.text().to_owned());
            let mut complain = |text: String| {
                let log = service.log.lines().join("\n");
                complaints.push(format!(
                    "== {} from a {kind}: {text}\nthe log:\n{log}\n",
                    self.what
                ));
            };
            let today = found.1 == self.expected.replace("BEST-BEFORE\n", &empty_listing());
            if found.0 != 200 || !today {
                complain(format!(
                    "expected\n{}found {}\n{}",
                    self.expected, found.0, found.1
                ));
            }
            for wanted in &self.log {
                let parts: Vec<_> = wanted.split(" … ").collect();
                let lines = service.log.with(&parts);
                if lines.len() != 1 {
                    complain(format!("{} lines have {wanted:?}", lines.len()));
                }
            }
            let is_wanted = |line: &String| {
                let mut wanted = self.log.iter().map(|wanted| wanted.split(" … "));
                wanted.any(|mut parts| parts.all(|part| line.contains(part)))
            };
            service.log.with(&[" listed in "]); // and so all before it
            let mut others = service.log.lines();
            others.retain(|line| line.contains(" skipped: ") && !is_wanted(line));
            if !others.is_empty() {
                complain(format!("nobody expects {others:#?}"));
            }
        }
        complaints
    }
}

/// The repositories below a directory, by their paths in it, sorted.
fn repositories(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for name in names(folder) {
        let below = folder.join(&name);
        if below.join("tags").is_dir() {
            found.push(name);
        } else {
            found.extend(
                repositories(&below)
                    .iter()
                    .map(|rest| format!("{name}/{rest}")),
            );
        }
    }
    found
}

/// The names in a directory, sorted; none if there is no such directory.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The files of a case, with the places filled in where one names the digest or size of another.
struct Files<'a> {
    path: &'a Path,
    filled: BTreeMap<String, Vec<u8>>,
}

impl Files<'_> {
    /// The repository in the part of the case that these paths begin with.
    fn repository(&mut self, below: &str) -> Repository {
        let mut content = Repository::default();
        for name in names(&self.path.join(below).join("blobs")) {
            content.blob("", self.filled(&format!("{below}blobs/{name}")));
        }
        for name in names(&self.path.join(below).join("manifests")) {
            content.manifest(self.filled(&format!("{below}manifests/{name}")));
        }
        for name in names(&self.path.join(below).join("tags")) {
            let tag = name
                .strip_suffix(".json")
                .expect("a tag is a file <tag>.json");
            content.tag(tag, self.filled(&format!("{below}tags/{name}")));
        }
        content
    }

    fn filled(&mut self, name: &str) -> &[u8] {
        if !self.filled.contains_key(name) {
            let path: PathBuf = self.path.join(name);
            let bytes =
                fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let bytes = match String::from_utf8(bytes) {
                Ok(text) => self.fill(&text).into_bytes(),
                Err(binary) => binary.into_bytes(),
            };
            self.filled.insert(name.to_owned(), bytes);
        }
        &self.filled[name]
    }

    /// Replaces `<digest of FILE>` by the digest, `"<size of FILE>"` by the number and
    /// `<sum of FILE>` by the digest without its algorithm.
    fn fill(&mut self, text: &str) -> String {
        let mut filled = text.to_owned();
        for (open, close) in [
            ("\"<size of ", ">\""),
            ("<digest of ", ">"),
            ("<sum of ", ">"),
        ] {
            while let Some(start) = filled.find(open) {
                let length = filled[start..].find(close).expect("a place that ends");
                let file = filled[start + open.len()..start + length].to_owned();
                let bytes = self.filled(&file);
                let value = match open {
                    "\"<size of " => bytes.len().to_string(),
                    "<digest of " => digest(bytes),
                    _ => digest(bytes).replace("sha256:", ""),
                };
                filled.replace_range(start..start + length + close.len(), &value);
            }
        }
        filled
    }
}
