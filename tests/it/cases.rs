//! Runs `tests/cases/`: what each directory says a repository holds is listed as it says.
//! How a case is written is in `tests/cases/README.md`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::content::{Repository, digest};
use crate::listings::empty_listing;
use crate::registry::Registry;
use crate::service::{Folder, Service};

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases");

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
    expected: String,
    log: Vec<String>,
}

impl Case {
    fn read(path: &Path) -> Self {
        let text = |name: &str| fs::read_to_string(path.join(name)).ok();
        let known = [
            "README.md",
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
        let mut content = Repository::default();
        for name in names(&path.join("blobs")) {
            content.blob("", files.filled(&format!("blobs/{name}")));
        }
        for name in names(&path.join("manifests")) {
            content.manifest(files.filled(&format!("manifests/{name}")));
        }
        for name in names(&path.join("tags")) {
            let tag = name
                .strip_suffix(".json")
                .expect("a tag is a file <tag>.json");
            content.tag(tag, files.filled(&format!("tags/{name}")));
        }
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
            expected,
            log: text("log")
                .unwrap_or_default()
                .lines()
                .map(str::to_owned)
                .collect(),
        }
    }

    /// What is not as the case says.
    fn run(&self) -> Vec<String> {
        let folder = Folder::new();
        let registry = Registry::start();
        registry.put(&self.repository, self.content.clone());
        self.content.write_layout(folder.path());
        let mut complaints = Vec::new();
        for &kind in &self.sources {
            let source = match kind {
                "registry" => format!("{}/{}", registry.address, self.repository),
                _ => format!("oci:{}", folder.path().display()),
            };
            let name = &self.repository;
            let service = Service::start(format!(
                "[repository.\"{name}\"]\nsource = \"{source}\"\n{}",
                self.settings
            ));
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
        }
        complaints
    }
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
