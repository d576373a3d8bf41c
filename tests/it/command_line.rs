//! The commands for people and their scripts, by themselves: `list`, `inspect` and `url`. `asked.rs` has those that ask the
//! service.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use serde_json::{Value, json};

use crate::content::{OCI_MANIFEST, OCI_TAR, Repository, digest, sha256};
use crate::registry::{Fault, Registry};
use crate::service::{Folder, Service, X86, command, output};
use crate::tokens::TokenServer;

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// The outcome of a command.
#[derive(Debug)]
struct Ended {
    status: Option<i32>,
    out: String,
    err: String,
}

impl Ended {
    /// Standard output, if standard error is empty.
    #[track_caller]
    fn good(self) -> String {
        assert_eq!((self.status, self.err.as_str()), (Some(0), ""), "{self:?}");
        self.out
    }

    /// The same, if it warns of tags that are broken, and of nothing else.
    #[track_caller]
    fn good_but_for_tags(self) -> String {
        let is_of_tag = |line: &str| line.starts_with("warning: hello: tag ");
        assert!(
            self.status == Some(0) && self.err.lines().all(is_of_tag),
            "{self:?}"
        );
        self.out
    }

    /// The one line that it failed with, and with this status.
    #[track_caller]
    fn failed(self, status: i32) -> String {
        let lines = self.err.lines().count();
        assert_eq!(
            (self.status, self.out.as_str(), lines),
            (Some(status), "", 1),
            "{self:?}"
        );
        self.err.trim_end().to_owned()
    }
}

/// Runs a command with a settings file.
fn run(settings: &str, arguments: &[&str]) -> Ended {
    let folder = Folder::new();
    run_in(&folder, settings, arguments)
}

/// The same, with the folder's `auth.json` if there is one.
fn run_in(folder: &Folder, settings: &str, arguments: &[&str]) -> Ended {
    let config = folder.file("config.toml", settings);
    let mut command = command(arguments);
    command.arg("--config").arg(config);
    let logins = folder.path().join("auth.json");
    if logins.exists() {
        command.env("REGISTRY_AUTH_FILE", logins);
    }
    let output = output(command);
    Ended {
        status: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn settings(registry: &Registry) -> String {
    registry.settings() + X86
}

/// A row of a table: version, file, bytes, architecture.
type Offered = (&'static str, &'static str, &'static [u8], &'static str);

/// A repository with a tag of every kind; what of it is offered, and what is not and why, where
/// `REGISTRY` stands for the registry's address.
fn of_every_kind() -> (Repository, Vec<Offered>, Vec<(String, String)>) {
    let mut hello = Repository::default();
    let mut left_out: Vec<(String, String)> = Vec::new();
    let mut no = |tag: &str, reason: &str| left_out.push((tag.to_owned(), reason.to_owned()));

    hello.oras_push("plain", "k8s.raw", b"plain");

    let config = hello.blob(CONFIG, br#"{"architecture":"amd64","os":"linux"}"#);
    let layer = hello.blob(GZIP, b"container");
    let container = hello.artifact(&[layer], json!({"config": config, "artifactType": null}));
    hello.point("container", &container);

    let both: [(&str, &str, &[u8]); 2] = [
        ("amd64", "k8s.raw", b"for this one"),
        ("arm64", "k8s.raw", b"for another one"),
    ];
    hello.index("index", &both);

    hello.index("other-machine", &both[1..]);
    no(
        "other-machine",
        "its one platform is linux/arm64, offered is x86-64",
    );

    let hex = "0f".repeat(32);
    for tag in [format!("sha256-{hex}"), format!("sha256-{hex}.sig")] {
        hello.oras_push(&tag, "k8s.raw", b"no version");
        let reason = "this is the tag of a signature or of referrers, not of a version";
        no(&tag, reason);
    }

    let layer = hello.file(&format!("{GZIP}+encrypted"), "k8s.raw", b"secret");
    let artifact = hello.artifact(&[layer], json!({}));
    hello.point("encrypted", &artifact);
    no("encrypted", "layer 1 (\"k8s.raw\"): it is encrypted");

    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let layer = hello.blob(foreign, b"elsewhere");
    let config = hello.blob(CONFIG, b"{}");
    let artifact = hello.artifact(&[layer], json!({"config": config}));
    hello.point("foreign", &artifact);
    no(
        "foreign",
        "layer 1: it is a foreign layer, whose bytes are not in the registry",
    );

    hello.tag(
        "schema1",
        br#"{"schemaVersion":1,"name":"hello","fsLayers":[]}"#,
    );
    no(
        "schema1",
        "manifest of tag schema1 cannot be understood: it is schema 1, which no client should \
         still use; push it again with a current tool",
    );

    let sha512 =
        json!({"mediaType": OCI_TAR, "digest": format!("sha512:{}", "0f".repeat(64)), "size": 1});
    let artifact = hello.artifact(std::slice::from_ref(&sha512), json!({}));
    hello.point("sha512", &artifact);
    let why = "digest algorithm \"sha512\" cannot be listed in SHA256SUMS, only sha256 can";
    no(
        "sha512",
        &format!("manifest of tag sha512 cannot be understood: layer 1: {why}"),
    );

    let child = pushed(&mut hello, b"beside it");
    let index = hello.index_of(&[child, sha512.clone()], json!({}));
    hello.point("sha512-entry", &index);
    no("sha512-entry", &format!("index entry 2: {why}"));
    let index = hello.index_of(&[sha512], json!({}));
    hello.point("sha512-index", &index);
    no(
        "sha512-index",
        &format!("index without a single artifact; index entry 1: {why}"),
    );

    let artifact = hello.artifact(&[], json!({}));
    hello.point("no-layers", &artifact);
    no("no-layers", "it has no layers");

    let layer = hello.file("application/spdx+json", "sbom.json", b"{}");
    let artifact = hello.artifact(&[layer], json!({}));
    hello.point("unusable", &artifact);
    no(
        "unusable",
        "layer 1 (\"sbom.json\"): neither its title nor its type \"application/spdx+json\" says \
         what image or archive it is",
    );

    // Of several for one architecture each has its `cname` in its name.
    let flavours = ["a/b", "good"].map(|cname| {
        let mut entry = pushed(&mut hello, cname.as_bytes());
        entry["platform"] = json!({"os": "linux", "architecture": "amd64"});
        entry["annotations"] = json!({ "cname": cname });
        entry
    });
    let index = hello.index_of(&flavours, json!({}));
    hello.point("no-name", &index);
    no(
        "no-name",
        "\"hello-no-name-a/b-x86-64.raw\" cannot be listed: it has a '/' or '%'",
    );

    hello.index("twice", &both);
    hello.oras_push("twice-x86-64", "k8s.raw", b"a plain one");
    no(
        "twice",
        "hello-twice-x86-64.raw is already the name of another file, which tag twice-x86-64 offers",
    );

    let mut attestation = pushed(&mut hello, b"provenance");
    attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    let index = hello.index_of(&[attestation], json!({}));
    hello.point("attestations", &index);
    no("attestations", "index without a single artifact");

    hello.tag("broken", br#"{"schemaVersion":2,"layers":["#);
    no(
        "broken",
        "manifest of tag broken cannot be understood: EOF while parsing a list at line 1 column 29",
    );

    let child = pushed(&mut hello, b"promised");
    let other = pushed(&mut hello, b"delivered");
    let [asked, found] = [&child, &other].map(|one| one["digest"].as_str().unwrap().to_owned());
    let index = hello.index_of(&[child], json!({}));
    hello.point("wrong-bytes", &index);
    let bytes = hello.manifests[&found].clone();
    hello.manifests.insert(asked.clone(), bytes);
    no(
        "wrong-bytes",
        &format!(
            "manifest {asked} at REGISTRY has the wrong bytes: expected {asked}, found {found}"
        ),
    );

    let gone = json!({"mediaType": OCI_MANIFEST, "digest": digest(b"gone"), "size": 7});
    let index = hello.index_of(&[gone], json!({}));
    hello.point("gone", &index);
    let url = format!("http://REGISTRY/v2/hello/manifests/{}", digest(b"gone"));
    no("gone", &format!("registry has no {url}"));

    let mut offered: Vec<Offered> = vec![
        (
            "container",
            "hello-container.tar.gz",
            b"container",
            "x86-64",
        ),
        ("index", "hello-index-x86-64.raw", b"for this one", "x86-64"),
        (
            "no-name",
            "hello-no-name-good-x86-64.raw",
            b"good",
            "x86-64",
        ),
        ("plain", "hello-plain.raw", b"plain", "-"),
        ("sha512-entry", "hello-sha512-entry.raw", b"beside it", "-"),
        (
            "twice-x86-64",
            "hello-twice-x86-64.raw",
            b"a plain one",
            "x86-64",
        ),
    ];
    offered.sort_by_key(|(_, file, ..)| *file);
    // Signatures are known by their tags alone, before anything is asked.
    left_out.sort_by_key(|(tag, _)| (!tag.starts_with("sha256-"), tag.clone()));
    (hello, offered, left_out)
}

/// An artifact without a tag.
fn pushed(hello: &mut Repository, bytes: &[u8]) -> Value {
    let layer = hello.file(OCI_TAR, "k8s.raw", bytes);
    hello.artifact(&[layer], json!({}))
}

/// The lines of a table, with one space between columns.
fn lines(table: &str) -> Vec<String> {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    table.lines().map(words).collect()
}

#[test]
fn a_tag_of_every_kind_is_listed_or_left_out_with_its_reason() {
    let (hello, offered, left_out) = of_every_kind();
    let tags: BTreeSet<_> = hello.tags.keys().cloned().collect();
    let told = offered.iter().map(|(tag, ..)| *tag);
    let told: BTreeSet<_> = told
        .chain(left_out.iter().map(|(tag, _)| tag.as_str()))
        .map(str::to_owned)
        .collect();
    assert_eq!(told, tags, "the test tells of every tag");

    let registry = Registry::with_hello(hello);
    let address = registry.address.to_string();
    let settings = settings(&registry);
    let json = run(&settings, &["list", "--json", "hello"]).good_but_for_tags();
    let json: Value = serde_json::from_str(&json).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let found = json["files"].as_array().unwrap().iter().map(|file| {
        let of = |key: &str| text(&file[key]);
        (
            of("tag"),
            of("name"),
            file["size"].as_u64(),
            of("digest"),
            of("architecture"),
        )
    });
    let found: BTreeSet<_> = found.collect();
    let expected = offered.iter().map(|(tag, file, bytes, architecture)| {
        let size = Some(bytes.len() as u64);
        let [tag, file, architecture] = [tag, file, architecture].map(|text| text.to_string());
        (tag, file, size, digest(bytes), architecture)
    });
    assert_eq!(found, expected.collect());
    let left = json["left_out"].as_array().unwrap().iter();
    let left: BTreeSet<_> = left
        .map(|one| (text(&one["tag"]), text(&one["reason"])))
        .collect();
    let expected = left_out
        .iter()
        .map(|(tag, why)| (tag.clone(), why.replace("REGISTRY", &address)));
    assert_eq!(left, expected.collect());

    // The table has the same in the same order.
    let rows = json["files"].as_array().unwrap().iter().map(|file| {
        let [version, name, architecture] =
            ["version", "name", "architecture"].map(|key| text(&file[key]));
        let digest = text(&file["digest"]);
        format!(
            "{version} {name} {} {architecture} {}",
            file["size"],
            &digest["sha256:".len()..]
        )
    });
    let head = [
        format!("hello: {} files from {address}/hello", offered.len()),
        "not signed".to_owned(),
        String::new(),
        "VERSION FILE SIZE ARCH SHA256".to_owned(),
    ];
    let mut expected: Vec<_> = head.into_iter().chain(rows).collect();
    assert_eq!(
        lines(&run(&settings, &["list", "hello"]).good_but_for_tags()),
        expected
    );
    let reasons = json["left_out"].as_array().unwrap().iter();
    let reasons = reasons.map(|one| format!("{} {}", text(&one["tag"]), text(&one["reason"])));
    expected.extend([String::new(), "NOT OFFERED REASON".to_owned()]);
    expected.extend(reasons);
    assert_eq!(
        lines(&run(&settings, &["list", "--all", "hello"]).good_but_for_tags()),
        expected
    );
}

#[test]
fn a_list_of_nothing_says_where_the_reasons_are() {
    let mut hello = Repository::default();
    hello.tag("v1", b"{}");
    hello.tag("v2", b"{}");
    let registry = Registry::with_hello(hello);
    let list = run(&settings(&registry), &["list", "hello"]);
    let from = format!(
        "hello: 0 files from {}/hello\nnot signed\n",
        registry.address
    );
    assert_eq!(list.out, from);
    let hint = "warning: hello: no file is offered, 2 skipped; --all shows why\n";
    assert_eq!((list.status, list.err.as_str()), (Some(1), hint));
}

#[test]
fn list_takes_what_a_url_takes_and_shows_what_it_serves() {
    let mut hello = Repository::default();
    hello.oras_push("v1", "title.raw", b"the first");
    hello.oras_push("v2", "title.raw", b"the second");
    let pinned = hello.tags["v1"].clone();
    let folder = Folder::with_layout(&hello);
    let registry = Registry::with_hello(hello.clone());
    registry.put("acme/tools/hello", hello);
    registry.put("other", Repository::default());
    let address = registry.address;
    let settings = format!(
        "registry = \"{address}\"\n\
         [repository.called]\nsource = \"{address}/acme/tools/hello\"\n\
         [repository.on-disk]\nsource = \"oci:{}\"\n\
         [repository.both]\nsource = [\"{address}/other\", \"{address}/acme/tools/hello\"]\n",
        folder.path().display()
    );
    let service = Service::start(&settings);
    let versions = |base: &str| {
        let names = ["v2", "v1"].map(|tag| format!("{base}-{tag}.raw"));
        names.to_vec()
    };
    let title = || vec!["title.raw".to_owned()];
    for (directory, names) in [
        ("hello".to_owned(), versions("hello")),
        ("acme/tools/hello".to_owned(), versions("hello")),
        (format!("{address}/hello"), versions("hello")),
        (format!("{address}/acme/tools/hello"), versions("hello")),
        ("called".to_owned(), versions("called")),
        ("on-disk".to_owned(), versions("on-disk")),
        ("both".to_owned(), versions("hello")),
        ("hello:v1".to_owned(), title()),
        (format!("hello@{pinned}"), title()),
        (format!("{address}/acme/tools/hello:v2"), title()),
        ("called:v2".to_owned(), title()),
        (format!("on-disk@{pinned}"), title()),
    ] {
        let out = run(&settings, &["list", "--json", &directory]).good();
        let files: Value = serde_json::from_str(&out).unwrap();
        let files = files["files"].as_array().unwrap();
        let text = |file: &Value, key: &str| file[key].as_str().unwrap().to_owned();
        let found: Vec<_> = files.iter().map(|file| text(file, "name")).collect();
        assert_eq!(found, names, "{directory}");
        let line =
            |file: &Value| format!("{}  {}\n", &text(file, "digest")[7..], text(file, "name"));
        let mut lines: Vec<_> = files.iter().map(line).collect();
        lines.sort_by_key(|line| line[64..].to_owned());
        let lines = lines.concat();
        let served = service.get(&format!("/{directory}/SHA256SUMS"));
        assert_eq!((served.status, served.text()), (200, lines.as_str()));
    }
}

/// The media type of a part of an image by ironcore.
fn ironcore(part: &str) -> String {
    format!("application/vnd.ironcore.image.{part}")
}

/// A repository with the tag `v1`, an index of an ironcore image for this machine and one for
/// another; and the descriptor and the manifest of the one for this machine.
fn of_ironcore() -> (Repository, Value, Value) {
    let mut hello = Repository::default();
    let mut child = |architecture: &str, line: &str| {
        let config = json!({ "commandLine": line }).to_string();
        let config = hello.blob(&ironcore("config.v1+json"), config.as_bytes());
        let layers = ["kernel", "initramfs", "rootfs", "squashfs", "uki", "iso"]
            .map(|part| hello.blob(&ironcore(part), format!("{part} {architecture}").as_bytes()));
        let more = json!({"config": config, "artifactType": null});
        let descriptor = hello.artifact(&layers, more);
        let digest = descriptor["digest"].as_str().unwrap();
        let manifest = serde_json::from_slice(&hello.manifests[digest].bytes).unwrap();
        (descriptor, manifest)
    };
    let (descriptor, manifest) = child("amd64", "quiet");
    let (other, _) = child("arm64", "debug");
    let entries = [(&descriptor, "amd64"), (&other, "arm64")].map(|(one, architecture)| {
        let mut entry = one.clone();
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entry
    });
    let index = hello.index_of(&entries, json!({}));
    hello.point("v1", &index);
    (hello, descriptor, manifest)
}

#[test]
fn inspect_shows_manifest_and_config_in_the_form_of_onmetal_image() {
    let (mut hello, descriptor, manifest) = of_ironcore();
    hello.oras_push("plain", "plain.raw", b"plain");
    let plain = hello.tags["plain"].clone();
    let plain_manifest = hello.manifests[&plain].bytes.clone();
    let config = hello.blob("application/octet-stream", b"{}");
    let layer = hello.file(OCI_TAR, "plain.raw", b"plain");
    let binary = hello.artifact(&[layer], json!({ "config": config }));
    hello.point("binary", &binary);
    let binary_manifest = hello.manifests[binary["digest"].as_str().unwrap()]
        .bytes
        .clone();
    let registry = Registry::with_hello(hello);
    let pinned = format!("hello@{}", descriptor["digest"].as_str().unwrap());
    let of_index = json!({
        "descriptor": descriptor,
        "manifest": manifest,
        "config": {"commandLine": "quiet"},
    });
    let of_plain = json!({
        "descriptor": {"mediaType": OCI_MANIFEST, "digest": plain, "size": plain_manifest.len()},
        "manifest": serde_json::from_slice::<Value>(&plain_manifest).unwrap(),
        "config": {},
    });
    let of_binary = json!({
        "descriptor": binary,
        "manifest": serde_json::from_slice::<Value>(&binary_manifest).unwrap(),
        "config": null,
    });
    for (reference, expected, why) in [
        (
            "hello:v1",
            &of_index,
            "of an index what is for this machine",
        ),
        (&pinned, &of_index, "pinned"),
        ("hello:plain", &of_plain, "a plain manifest"),
        ("hello:binary", &of_binary, "a config that is no JSON"),
    ] {
        let out = run(&settings(&registry), &["inspect", reference]).good();
        let found: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(&found, expected, "{why}");
    }
}

#[test]
fn inspect_shows_the_annotations_of_the_descriptor() {
    let mut hello = Repository::default();
    hello.oras_push("v1", "plain.raw", b"on disk");
    let mut children = ["amd64", "arm64"].map(|machine| {
        let layer = hello.file(OCI_TAR, "a.raw", machine.as_bytes());
        let mut child = hello.artifact(&[layer], json!({}));
        child["platform"] = json!({"os": "linux", "architecture": machine});
        child
    });
    children[0]["annotations"] = json!({"cname": "metal-amd64"});
    let index = hello.index_of(&children, json!({}));
    hello.point("v2", &index);
    let folder = Folder::with_layout(&hello);
    let settings = folder.settings() + "architectures = [\"x86-64\"]\n";
    for (tag, expected) in [
        ("v1", json!({"org.opencontainers.image.ref.name": "v1"})),
        ("v2", json!({"cname": "metal-amd64"})),
    ] {
        let out = run(&settings, &["inspect", &format!("hello:{tag}")]).good();
        let found: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(found["descriptor"]["annotations"], expected, "{tag}");
    }
}

/// Fetches with curl, and nothing but these headers. The status and the body.
fn curl(url: &str, headers: &Value) -> (String, Vec<u8>) {
    let folder = Folder::new();
    let body = folder.path().join("body");
    let mut command = Command::new("curl");
    command.args(["--silent", "--noproxy", "*", "--write-out", "%{http_code}"]);
    command.arg("--output").arg(&body).arg(url);
    for (name, values) in headers.as_object().unwrap() {
        for value in values.as_array().unwrap() {
            command.arg("--header");
            command.arg(format!("{name}: {}", value.as_str().unwrap()));
        }
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let status = String::from_utf8(output.stdout).unwrap();
    (status, fs::read(&body).unwrap_or_default())
}

#[test]
fn url_shows_what_curl_needs_to_fetch_the_bytes() {
    let (mut hello, descriptor, _) = of_ironcore();
    hello.oras_push("plain", "plain.raw", b"plain");
    let pinned = format!("hello@{}", descriptor["digest"].as_str().unwrap());
    let layers: [(&str, &[&str], &[u8]); 9] = [
        (
            "hello:v1",
            &["--layer", "cmdline"],
            br#"{"commandLine":"quiet"}"#,
        ),
        ("hello:plain", &["--layer", "raw"], b"plain"),
        ("hello:plain", &["--layer", "plain.raw"], b"plain"),
        ("hello:v1", &["--layer", "kernel"], b"kernel amd64"),
        ("hello:v1", &["--layer", "initramfs"], b"initramfs amd64"),
        ("hello:v1", &["--layer", "rootfs"], b"rootfs amd64"),
        ("hello:v1", &["--layer", "squashfs"], b"squashfs amd64"),
        ("hello:v1", &["--layer", "uki"], b"uki amd64"),
        (&pinned, &["--layer", "iso"], b"iso amd64"),
    ];
    let registry = Registry::with_hello(hello);
    let address = registry.address.to_string();
    let tokens = TokenServer::for_login("alice:s3cret");
    registry.guard(tokens.guard());
    let folder = Folder::new();
    let auth = json!({"auths": {&address: {"auth": BASE64_STANDARD.encode("alice:s3cret")}}});
    folder.file("auth.json", &auth.to_string());
    for (reference, options, bytes) in layers {
        let arguments = [&["url", reference], options].concat();
        let out = run_in(&folder, &settings(&registry), &arguments).good();
        assert!(out.starts_with("{\n  \""), "indented by two: {out}");
        let found: Value = serde_json::from_str(&out).unwrap();
        let url = format!("http://{address}/v2/hello/blobs/{}", digest(bytes));
        let authorization = found["headers"]["Authorization"][0].clone();
        assert_eq!(
            found,
            json!({"headers": {"Authorization": [authorization]}, "url": url}),
            "{arguments:?}"
        );
        assert!(authorization.as_str().unwrap().starts_with("Bearer "));
        let fetched = curl(&url, &found["headers"]);
        assert_eq!(fetched, ("200".to_owned(), bytes.to_vec()), "{arguments:?}");
        assert_eq!(curl(&url, &json!({})).0, "401", "{arguments:?}");
    }
    registry.behave();
    let arguments = ["url", "hello:plain", "--layer", "raw"];
    let open = run(&settings(&registry), &arguments).good();
    let url = format!("http://{address}/v2/hello/blobs/{}", digest(b"plain"));
    assert_eq!(
        serde_json::from_str::<Value>(&open).unwrap(),
        json!({ "url": url }),
        "where no login is needed"
    );
}

#[test]
fn url_without_a_layer_shows_what_curl_needs_to_fetch_the_manifest() {
    let (mut hello, descriptor, manifest) = of_ironcore();
    let layers = [hello.blob(GZIP, b"one"), hello.blob(GZIP, b"two")];
    let config = hello.blob("application/vnd.oci.image.config.v1+json", b"{}");
    let image = hello.artifact(&layers, json!({ "config": config }));
    hello.point("flattened", &image);
    let flattened = hello.manifests[image["digest"].as_str().unwrap()]
        .bytes
        .clone();
    let child = descriptor["digest"].as_str().unwrap().to_owned();
    let registry = Registry::with_hello(hello);
    let of_index = manifest;
    let of_image = serde_json::from_slice::<Value>(&flattened).unwrap();
    for (reference, end, expected) in [
        ("hello:v1".to_owned(), child.as_str(), &of_index),
        (format!("hello@{child}"), &child, &of_index),
        ("hello:flattened".to_owned(), "flattened", &of_image),
    ] {
        let out = run(&settings(&registry), &["url", &reference]).good();
        let found: Value = serde_json::from_str(&out).unwrap();
        let url = format!("http://{}/v2/hello/manifests/{end}", registry.address);
        assert_eq!(
            found,
            json!({"headers": {"Accept": [OCI_MANIFEST]}, "url": url})
        );
        let (status, body) = curl(&url, &found["headers"]);
        assert_eq!(status, "200", "{reference}");
        assert_eq!(&serde_json::from_slice::<Value>(&body).unwrap(), expected);
    }
    let arguments = ["url", "hello:flattened", "--layer", "tar.gz"];
    let failed = run(&settings(&registry), &arguments).failed(1);
    assert!(failed.contains("is made here"), "{failed}");
}

#[test]
fn url_of_a_layout_is_the_file_that_has_the_bytes() {
    let mut hello = Repository::default();
    hello.oras_push("v1", "plain.raw", b"on disk");
    let folder = Folder::with_layout(&hello);
    let arguments = ["url", "hello:v1", "--layer", "raw"];
    let out = run(&folder.settings(), &arguments).good();
    let found: Value = serde_json::from_str(&out).unwrap();
    let path = folder.path().display();
    let url = format!("file://{path}/blobs/sha256/{}", sha256(b"on disk"));
    assert_eq!(found, json!({ "url": url }));
    let bytes = fs::read(url.strip_prefix("file://").unwrap()).unwrap();
    assert_eq!(bytes, b"on disk");
}

#[test]
fn what_cannot_be_done_is_one_line_that_says_why() {
    let (mut hello, ..) = of_every_kind();
    let (ironcore, ..) = of_ironcore();
    hello.blobs.extend(ironcore.blobs);
    hello.manifests.extend(ironcore.manifests);
    hello.tags.extend(ironcore.tags);
    let registry = Registry::with_hello(hello);
    let address = registry.address;
    let both = format!(
        "registry = \"{address}\"\n[repository.both]\n\
         source = [\"{address}/hello\", \"{address}/nosuch\"]\n{X86}"
    );
    let only =
        "it has no disk, only .vmlinuz, .initramfs, .rootfs, .squashfs, .efi, .iso, .cmdline";
    let missing = |rest: &str| format!("registry has no http://{address}/v2/{rest}");
    let no_layer = |tag: &str, why: &str| format!("a layer of hello:{tag} is not offered: {why}");
    for (arguments, reason) in [
        ("list nosuch", missing("nosuch/tags/list")),
        ("list hello:nosuch", missing("hello/manifests/nosuch")),
        ("inspect nosuch:v1", missing("nosuch/manifests/v1")),
        ("inspect hello:nosuch", missing("hello/manifests/nosuch")),
        ("url hello:nosuch", missing("hello/manifests/nosuch")),
        (
            "list registry.example.com/hello",
            "registry registry.example.com is neither the default registry nor allowed; to allow \
             it add it to 'allow' in /etc/sysext-oci-proxy/config.toml"
                .to_owned(),
        ),
        (
            "inspect hello",
            "bad address \"hello\": one artifact is wanted, as in REPOSITORY:TAG or \
             REPOSITORY@sha256:…"
                .to_owned(),
        ),
        (
            "inspect hello:other-machine",
            "tag other-machine is not offered: its one platform is linux/arm64, offered is x86-64"
                .to_owned(),
        ),
        (
            "inspect hello:no-name",
            "hello:no-name is not offered: its index offers 2 artifacts here; name one of them by \
             digest"
                .to_owned(),
        ),
        (
            "inspect both:v1",
            "both:v1 is not offered: a merged directory has no artifacts of its own; name one of \
             its sources"
                .to_owned(),
        ),
        ("url hello:v1 --layer disk", no_layer("v1", only)),
        (
            "url hello:plain --layer kernel",
            no_layer("plain", "it has no kernel, only .raw"),
        ),
        (
            "url hello:encrypted --layer raw",
            no_layer("encrypted", "layer 1 (\"k8s.raw\"): it is encrypted"),
        ),
        (
            "url hello:no-layers --layer raw",
            no_layer("no-layers", "it has no layers"),
        ),
    ] {
        let arguments: Vec<_> = arguments.split(' ').collect();
        let status = match &reason {
            bad if bad.starts_with("bad address") => 2,
            unknown if unknown.contains("neither the default registry") => 69,
            _ => 1,
        };
        let said = run(&both, &arguments).failed(status);
        assert_eq!(said, format!("error: {reason}"), "{arguments:?}");
    }
}

#[test]
fn what_is_no_reference_is_refused_before_anything_is_asked() {
    let registry = Registry::with_hello(Repository::default());
    for (arguments, part) in [
        (&["list", "Hello"][..], "\"Hello\" is not a name component"),
        (&["list", "../hello"], "\"..\" is not a registry host"),
        (&["list", "hello:"], "hello:"),
        (&["list", "hello:-v1"], "-v1"),
        (
            &["inspect", "hello@sha256:abc"],
            "not sha256: and 64 lowercase hex digits",
        ),
        (&["url", "hello@sha512:abc"], "sha512"),
        (&["list"], "<REPOSITORY>"),
        (&["url", "hello:v1", "--layer"], "--layer <LAYER>"),
        (&["list", "a", "b"], "'b'"),
    ] {
        let ended = run(&settings(&registry), arguments);
        let first = ended.err.lines().next().unwrap_or_default();
        // The exit status of a wrong command line, as clap has it.
        assert_eq!(
            (ended.status, ended.out.as_str()),
            (Some(2), ""),
            "{ended:?}"
        );
        assert!(
            first.starts_with("error: ") && ended.err.contains(part),
            "{ended:?}"
        );
    }
    assert_eq!(registry.take_requests(), [""; 0]);
}

#[test]
fn only_the_service_listens() {
    for command in ["list", "inspect", "url"] {
        let arguments = ["--listen", "127.0.0.1:1", command, "hello:v1"];
        let ended = run("", &arguments);
        assert_eq!((ended.status, ended.out.as_str()), (Some(2), ""));
        assert!(
            ended.err.contains("--listen is for the service"),
            "{ended:?}"
        );
    }
}

#[test]
fn a_config_that_fits_into_no_memory_is_not_fetched() {
    for size in [1_u64 << 60, (4 << 20) + 1] {
        let mut hello = Repository::default();
        let mut config = hello.blob(CONFIG, b"{}");
        config["size"] = json!(size);
        let layers = [hello.file(GZIP, "hello.raw", b"an image")];
        let artifact = hello.artifact(&layers, json!({ "config": config }));
        hello.point("v1", &artifact);
        let registry = Registry::with_hello(hello);
        let length = Fault::Header("Content-Length", Some(size.to_string()));
        registry.fault("/blobs/", length);
        let failed = run(&settings(&registry), &["inspect", "hello:v1"]).failed(69);
        assert_eq!(
            failed,
            format!(
                "error: the config of hello:v1 cannot be understood: its manifest says it has {size} \
                 bytes, at most 4194304 are taken"
            )
        );
    }
}
