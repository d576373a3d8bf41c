//! The lines of the log. Its IDs are the same in the code, in `docs/journal.md` and in the catalog for
//! `journalctl -x`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::json;

use crate::content::{Repository, sha256, versions};
use crate::images::{layer, push, sums};
use crate::registry::Registry;
use crate::service::{Folder, Service, Setup, eventually};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

/// A kind of entry.
#[derive(Debug, PartialEq)]
pub struct Kind {
    pub id: String,
    pub level: String,
    pub fields: BTreeSet<String>,
}

/// The kinds by the names of their constants, as the code logs them: their IDs are in `src/journal.rs`.
pub fn in_code() -> BTreeMap<String, Kind> {
    let mut ids = BTreeMap::new();
    for line in read("src/journal.rs").lines() {
        if let Some(constant) = line.strip_prefix("pub const ")
            && let Some((name, id)) = constant.split_once(": &str = ")
        {
            ids.insert(name.to_owned(), id.trim_matches(['"', ';']).to_owned());
        }
    }
    let mut kinds = BTreeMap::new();
    for code in sources(&Path::new(ROOT).join("src")) {
        for (at, _) in code.match_indices("MESSAGE_ID = ") {
            let macros = ["error!(", "warn!(", "info!(", "debug!(", "log!("];
            let before = &code[..at];
            let begins = macros.map(|name| before.rfind(name).map(|begin| (begin, name)));
            let (begin, level) = begins.into_iter().flatten().max().unwrap();
            let (fields, _) = code[begin..].split_once(';').unwrap();
            let mut fields: BTreeSet<_> = fields.split(',').filter_map(name_of_field).collect();
            fields.remove("MESSAGE_ID");
            let name = &code[at..].split(|c: char| !(c.is_alphanumeric() || "_:= ".contains(c)));
            let name = name.clone().next().unwrap().rsplit("::").next().unwrap();
            let kind = Kind {
                id: ids
                    .get(name)
                    .unwrap_or_else(|| panic!("no ID of {name}"))
                    .clone(),
                level: match level {
                    "error!(" => "error",
                    "warn!(" | "log!(" => "warning",
                    "info!(" => "info",
                    _ => "debug",
                }
                .to_owned(),
                fields,
            };
            let other = kinds.insert(name.to_owned(), kind);
            assert!(
                other.is_none() || other.as_ref() == kinds.get(name),
                "{name} differs"
            );
        }
    }
    let unused: Vec<_> = ids
        .keys()
        .filter(|name| !kinds.contains_key(*name))
        .collect();
    assert!(unused.is_empty(), "nobody logs {unused:?}");
    kinds
}

/// `REPOSITORY` of `\n REPOSITORY = directory`.
fn name_of_field(element: &str) -> Option<String> {
    let element = element.rsplit("!(").next()?.trim();
    let (name, _) = element.split_once('=')?;
    let name = name.trim().trim_end_matches(":%");
    let is_name = |c: char| c.is_ascii_uppercase() || c == '_';
    name.chars().all(is_name).then(|| name.to_owned())
}

pub fn sources(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            found.extend(sources(&entry.path()));
        } else {
            found.extend(fs::read_to_string(entry.path()).ok());
        }
    }
    found
}

/// The words between backticks.
fn quoted(text: &str) -> impl Iterator<Item = String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned)
}

#[test]
fn the_catalogue_has_each_kind_of_entry_as_it_is_logged() {
    let documents = read("docs/journal.md");
    let (_, table) = documents.split_once("\n## Kinds\n").unwrap();
    let mut catalogue = BTreeMap::new();
    for line in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, name, id, level, fields, meaning, _remedy, _] = cells[..] else {
            panic!("{line}");
        };
        assert!(!meaning.is_empty(), "{line}");
        let kind = Kind {
            id: quoted(id).next().unwrap(),
            level: level.to_owned(),
            fields: quoted(fields).collect(),
        };
        catalogue.insert(quoted(name).next().unwrap(), kind);
    }
    assert_eq!(catalogue, in_code());
    let known = BTreeMap::from_iter(catalogue.values().map(|kind| (&kind.id, ())));
    assert_eq!(known.len(), catalogue.len(), "two kinds have one ID");
    let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    for id in known.keys() {
        assert!(id.len() == 32 && id.chars().all(is_hex), "{id}");
    }
    let described: BTreeSet<_> = documents
        .lines()
        .filter(|line| line.starts_with("| `"))
        .flat_map(|line| quoted(line.split('|').nth(1).unwrap()).collect::<Vec<_>>())
        .collect();
    for field in catalogue.values().flat_map(|kind| &kind.fields) {
        let is_count = field == "FILES";
        assert!(
            is_count || described.contains(field),
            "{field} is not described"
        );
    }
}

#[test]
fn journalctl_explains_each_kind_by_the_fields_that_it_has() {
    let catalog = read("units/sysext-oci-proxy.catalog");
    let mut kinds: BTreeMap<_, _> = in_code()
        .into_values()
        .map(|kind| (kind.id.clone(), kind))
        .collect();
    for entry in catalog.split("\n-- ").skip(1) {
        let (id, rest) = entry.split_once('\n').unwrap();
        let kind = kinds
            .remove(id)
            .unwrap_or_else(|| panic!("{id} is no kind, or is there twice"));
        let (head, text) = rest.split_once("\n\n").unwrap();
        let heads: Vec<_> = head
            .lines()
            .map(|line| line.split(':').next().unwrap())
            .collect();
        assert_eq!(heads, ["Subject", "Defined-By"], "{id}");
        assert!(text.trim().len() > 20, "{id}");
        for field in rest.split('@').skip(1).step_by(2) {
            assert!(kind.fields.contains(field), "{id} has no {field}");
        }
    }
    assert!(kinds.is_empty(), "not explained: {kinds:?}");
}

/// The lines that have this text, without their measured times.
fn lines(service: &Service, text: &str) -> Vec<String> {
    let without_time = |line: String| {
        let (before, rest) = line.split_once(" in ").unwrap();
        let (_, after) = rest.split_once("s").unwrap();
        format!("{before}{after}")
    };
    let lines = service.log.with(&[text]);
    lines.into_iter().map(without_time).collect()
}

#[test]
fn a_file_that_was_sent_is_told_with_its_origin() {
    let layer = layer(&[("usr/a", b"a")]);
    let images = || {
        let mut hello = Repository::default();
        hello.oras_push("v1", "hello.raw", b"image");
        push(&mut hello, "v2", &[&layer, &layer]);
        hello
    };
    let (registry, mirror) = (
        Registry::with_hello(images()),
        Registry::with_hello(images()),
    );
    let service = Setup::with_mirrors(&registry, &[&mirror])
        .own_cache()
        .start();
    let digest = sums(&service.listing())["hello-v2.tar.gz"].clone();
    assert_eq!(service.whole("/hello/hello-v1.raw"), b"image");
    let size = service.whole("/hello/hello-v2.tar.gz").len() as f64 / 1024.0;
    service.request("HEAD", "/hello/hello-v1.raw", &[]);
    let (of, by) = (registry.address, mirror.address);
    assert_eq!(
        lines(&service, "hello-v1.raw: "),
        [format!(
            "hello/hello-v1.raw: 5 B, tag v1 of {of}/hello from {by}/hello, sha256:{}, verified by digest",
            sha256(b"image")
        )]
    );
    assert_eq!(
        lines(&service, "hello-v2.tar.gz: "),
        [format!(
            "hello/hello-v2.tar.gz: {size:.1} KiB, tag v2 of {of}/hello from the cache, sha256:{digest}, verified by digest"
        )]
    );
    assert_eq!(service.log.trouble_so_far(), Vec::<String>::new());
}

#[test]
fn names_that_clients_try_as_a_matter_of_course_are_not_told() {
    let registry = Registry::with_hello(versions(1).0);
    let service = Setup::of(&registry).env("RUST_LOG", "info").start();
    service.listing();
    eventually("the listing is logged", || {
        !service.log.with(&["1 file listed"]).is_empty()
    });
    let before = service.log.lines().len();
    for name in [
        "SHA256SUMS.gpg",
        "SHA256SUMS.sha256.asc",
        "hello-v1.roothash",
        "hello-v1.verity",
        "hello-v9.raw.sha256",
        "hello-v9.manifest.gz",
    ] {
        assert_eq!(service.get(&format!("/hello/{name}")).status, 404, "{name}");
    }
    assert_eq!(service.get("/hello/hello-v9.raw").status, 404);
    assert_eq!(
        service.get("/registry.example.org/hello/SHA256SUMS").status,
        403
    );
    let told = service.log.with(&["GET /registry.example.org/"]);
    assert!(told[0].starts_with("error: "), "{told:?}");
    let told = service.log.lines().split_off(before);
    assert_eq!(told.len(), 2, "{told:?}");
    let start = "GET /hello/hello-v9.raw: 404: hello/hello-v9.raw is not offered: ";
    assert!(told[0].starts_with(start), "{told:?}");
}

#[test]
fn a_listing_is_told_if_its_files_have_changed_since_the_last_process_too() {
    let registry = Registry::with_hello(versions(1).0);
    let state = Folder::new();
    let told = |directory: &str| {
        let setup = Setup::of(&registry).state(&state);
        let service = setup.env("RUST_LOG", "info").start();
        service.listing_of(directory);
        // Logged after the listing.
        service.get("/hello/nothing");
        service.log.with(&["/hello/nothing"]);
        let mut lines = service.log.lines();
        lines.retain(|line| line.contains(" listed in "));
        lines.len()
    };
    let all = ["hello", "hello", "hello:v0", "hello:v0", "hello"].map(told);
    assert_eq!(all, [1, 0, 1, 0, 0]);
    registry.change(|hello| hello.oras_push("v2", "hello.raw", b"newer"));
    let all = ["hello", "hello", "hello:v0"].map(told);
    assert_eq!(all, [1, 0, 0]);
}

#[test]
fn a_tag_that_is_refused_is_a_warning_once_and_one_skipped_by_design_is_none() {
    let registry = Registry::with_hello(versions(1).0);
    let state = Folder::new();
    let told = || {
        let setup = Setup::of(&registry).state(&state);
        let service = setup.env("RUST_LOG", "info").start();
        service.listing();
        service.get("/hello/nothing");
        service.log.with(&["/hello/nothing"]);
        let mut lines = service.log.lines();
        lines.retain(|line| line.contains(" skipped: "));
        lines
    };
    let schema_1 = json!({"schemaVersion": 1});
    let both = json!({"schemaVersion": 2, "manifests": [], "layers": []});
    for manifest in [schema_1, both] {
        registry.change(|hello| {
            hello.tag("v9", manifest.to_string().as_bytes());
            hello.oras_push("sha256-0123", "a.sig", b"signature");
        });
        let lines = told();
        assert_eq!(lines.len(), 1, "{lines:?}");
        let start = "warning: hello: tag v9 skipped: manifest of tag v9 cannot be understood: ";
        assert!(lines[0].starts_with(start), "{lines:?}");
        assert_eq!(told(), [""; 0], "another process has told it");
    }
}
