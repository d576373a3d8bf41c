//! The cost of listings and downloads for a registry, counted: requests, connections, bytes of bodies, and round trips that
//! follow one another ([`crate::rounds`]). It is the same on every machine, so the table that is kept beside this file
//! must be met exactly. A figure that got worse is a fault; one that got better is to be written down.

use std::fmt::Write;

use serde_json::json;

use crate::content::{Repository, noise, sign, versions};
use crate::cosign::{Form, Key};
use crate::images::{layer, names, push};
use crate::registry::{Fault, Registry};
use crate::service::{ANEW, Folder, Service, Setup, later};

/// The figures as they are to be.
const TABLE: &str = include_str!("costs.txt");
/// Tags of each repository. There are 16 connections.
const TAGS: usize = 40;

/// The lines of the table so far.
struct Ledger {
    lines: String,
}

impl Ledger {
    /// Adds a line about what a process asks of the registry for this work.
    fn count(&mut self, what: &str, registry: &Registry, service: &Service, work: impl FnOnce()) {
        registry.answer_in_rounds(service.pid());
        registry.take_requests();
        let (connections, sent) = (registry.connections(), registry.sent());
        work();
        let rounds = registry.rounds();
        let requests = registry.take_requests();
        let heads = requests
            .iter()
            .filter(|line| line.starts_with("HEAD "))
            .count();
        let gets = requests.len() - heads;
        let connections = registry.connections() - connections;
        let bytes = registry.sent() - sent;
        writeln!(
            self.lines,
            "{what:<44}{gets:>6}{heads:>6}{connections:>13}{rounds:>13}{bytes:>9}"
        )
        .unwrap();
    }

    /// Lists a repository with an empty cache, again when the listing's time is over, and by the next process.
    fn listings(&mut self, what: &str, hello: Repository, settings: &str) {
        self.listings_of(what, &Registry::with_hello(hello), settings);
    }

    fn listings_of(&mut self, what: &str, registry: &Registry, settings: &str) {
        let (cache, state) = (Folder::new(), Folder::new());
        let start = || {
            let setup = Setup::of(registry).settings(ANEW).settings(settings);
            setup.cache(&cache).state(&state).start()
        };
        let service = start();
        let mut first = String::new();
        self.count(&format!("{what}, cold"), registry, &service, || {
            first = service.listing();
        });
        let versions = first
            .lines()
            .filter(|line| line.contains("hello-v"))
            .count();
        assert_eq!(versions, TAGS, "{what}: {first}");
        later();
        self.count(&format!("{what}, settled"), registry, &service, || {
            assert_eq!(service.listing(), first, "{what}");
        });
        drop(service);
        let service = start();
        self.count(&format!("{what}, warm"), registry, &service, || {
            assert_eq!(service.listing(), first, "{what}");
        });
    }
}

fn indexes() -> Repository {
    let mut hello = Repository::default();
    for version in 0..TAGS {
        let bytes = format!("image {version}");
        hello.index(
            &format!("v{version}"),
            &[("amd64", "hello.raw", bytes.as_bytes())],
        );
    }
    hello
}

fn containers() -> Repository {
    let mut hello = Repository::default();
    for version in 0..TAGS {
        let bytes = format!("image {version}");
        push(
            &mut hello,
            &format!("v{version}"),
            &[&layer(&[("a", bytes.as_bytes())])],
        );
    }
    hello
}

/// Pushes an image of five layers, of which the upper one is another in each version.
fn push_layers(hello: &mut Repository, version: usize) {
    let lower = (0..4).map(|n| layer(&[(&format!("lower-{n}"), &noise(100_000 + n))]));
    let text = format!("version {version}");
    let upper = layer(&[("version", text.as_bytes())]);
    let layers: Vec<_> = lower.chain([upper]).collect();
    let layers: Vec<_> = layers.iter().map(Vec::as_slice).collect();
    push(hello, &format!("v{version}"), &layers);
}

fn signed(key: &Key) -> Repository {
    let mut hello = versions(TAGS).0;
    for digest in hello.tags.values().cloned().collect::<Vec<_>>() {
        let manifest = json!({"mediaType": "", "size": 1, "digest": digest});
        key.sign(
            &mut hello,
            Form::SigTag,
            "registry.example/hello",
            &manifest,
        );
    }
    hello
}

#[test]
fn listings_and_downloads_cost_what_the_table_says() {
    let mut ledger = Ledger {
        lines: format!(
            "{:<44}{:>6}{:>6}{:>13}{:>13}{:>9}\n",
            format!("{TAGS} tags"),
            "GET",
            "HEAD",
            "connections",
            "round trips",
            "bytes"
        ),
    };
    let x86 = "[repository.hello]\narchitectures = [\"x86-64\"]\n";
    ledger.listings("files", versions(TAGS).0, "");
    ledger.listings(
        "files, immutable-tags",
        versions(TAGS).0,
        "[repository.hello]\nimmutable-tags = true\n",
    );
    let registry = Registry::with_hello(versions(TAGS).0);
    registry.fault("HEAD /v2/", Fault::Header("Docker-Content-Digest", None));
    ledger.listings_of("files, no digest by HEAD", &registry, "");
    ledger.listings("indexes", indexes(), x86);
    ledger.listings(
        "container images, flatten = 0",
        containers(),
        &format!("{x86}flatten = 0\n"),
    );
    let (key, keys) = (Key::new(), Folder::new());
    let file = keys.file("acme.pub", &key.pem());
    let verify = format!(
        "[repository.hello]\nverify = [{{ key = {file:?}, identity = \"registry.example/hello\" }}]\n"
    );
    ledger.listings("files with .sig tags, verified", signed(&key), &verify);
    let (mut hello, list) = versions(TAGS);
    sign(
        &mut hello,
        list.as_bytes(),
        &[("SHA256SUMS.gpg", b"signature")],
        &[],
    );
    ledger.listings("a list that its publisher signed", hello, "");

    let image = noise(3 << 20);
    let mut hello = versions(1).0;
    hello.oras_push("v0", "hello.raw", &image);
    let registry = Registry::with_hello(hello);
    let service = Setup::of(&registry).own_cache().start();
    registry.answer_in_rounds(service.pid());
    service.listing();
    let get = |target| assert!(service.get(target).body == image);
    ledger.count(
        "a file of 3 MiB that was listed",
        &registry,
        &service,
        || get("/hello/hello-v0.raw"),
    );
    registry.fault_times(1, "/blobs/", Fault::CutAfter(1 << 20));
    ledger.count("the same, broken off once", &registry, &service, || {
        get("/hello/hello-v0.raw")
    });

    let mut hello = Repository::default();
    push_layers(&mut hello, 0);
    let registry = Registry::with_hello(hello);
    let service = Setup::of(&registry)
        .settings(&format!("{ANEW}{x86}"))
        .own_cache()
        .start();
    let list = |count: usize| assert_eq!(names(&service.listing()).len(), count);
    ledger.count("an image of 5 layers", &registry, &service, || list(1));
    registry.change(|hello| push_layers(hello, 1));
    later();
    let what = "the next one, with one new layer of 5";
    ledger.count(what, &registry, &service, || list(2));

    assert!(
        ledger.lines == TABLE,
        "The costs are not those of tests/it/costs.txt. If none is worse, or each that is worse has its reason in the \
         commit, write these there:\n{}",
        ledger.lines
    );
}
