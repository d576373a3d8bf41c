//! `latest.json` of KubeSolo OS, made of a release's artifact.

use serde_json::{Value, json};

use crate::content::{Repository, sha256};
use crate::cosign::{Form, Key};
use crate::registry::Registry;
use crate::service::{ANEW, Service, X86, later};
use crate::trust::{name, verifying};

const KERNEL: &str = "application/vnd.kubesolo.os.kernel.v1+octet-stream";
const INITRAMFS: &str = "application/vnd.kubesolo.os.initramfs.v1+gzip";

/// A release of KubeSolo OS for one architecture, in Go's spelling.
fn release(hello: &mut Repository, version: &str, architecture: &str) -> Value {
    let layers = [
        hello.file(
            KERNEL,
            "vmlinuz",
            format!("kernel {architecture}").as_bytes(),
        ),
        hello.file(
            INITRAMFS,
            "kubesolo-os.gz",
            format!("initramfs {architecture}").as_bytes(),
        ),
    ];
    let annotations = json!({
        "io.kubesolo.os.version": version,
        "io.kubesolo.os.channel": "stable",
        "io.kubesolo.os.min_compatible_version": "v0.2.0",
        "io.kubesolo.os.architecture": architecture,
        "io.kubesolo.os.release_notes": "It \"works\"\nnow.",
        "io.kubesolo.os.release_date": "2026-03-01T09:00:00Z",
        "org.opencontainers.image.licenses": "MIT",
    });
    let mut found = hello.artifact(&layers, json!({"annotations": annotations}));
    found["platform"] = json!({"os": "linux", "architecture": architecture});
    found
}

/// `latest.json` as the older protocol has it, with the files at this place.
fn latest_json(place: &str) -> Value {
    json!({
        "version": "v0.3.0",
        "vmlinuz_url": format!("http://{place}/vmlinuz"),
        "vmlinuz_sha256": sha256(b"kernel amd64"),
        "initramfs_url": format!("http://{place}/kubesolo-os.gz"),
        "initramfs_sha256": sha256(b"initramfs amd64"),
        "release_notes": "It \"works\"\nnow.",
        "release_date": "2026-03-01T09:00:00Z",
        "channel": "stable",
        "min_compatible_version": "v0.2.0",
        "architecture": "amd64",
    })
}

#[test]
fn a_release_of_kubesolo_has_a_latest_json_that_leads_back_here() {
    let mut hello = Repository::default();
    let (amd64, arm64) = (
        release(&mut hello, "v0.3.0", "amd64"),
        release(&mut hello, "v0.3.0", "arm64"),
    );
    hello.point("v0.3.0-amd64", &amd64);
    hello.point("v0.3.0-arm64", &arm64);
    let index = hello.index_of(&[arm64, amd64.clone()], json!({}));
    hello.point("stable", &index);
    let digest = amd64["digest"].as_str().unwrap().to_owned();
    let registry = Registry::with_hello(hello.clone());
    registry.put("acme/os", hello);
    let more = format!("{X86}[repository.\"acme/os\"]\narchitectures = [\"x86-64\"]\n");
    let service = Service::start(registry.settings() + &more);
    for directory in [
        "hello:stable".to_owned(),
        "hello:v0.3.0-amd64".to_owned(),
        format!("hello@{digest}"),
        "acme/os:stable".to_owned(),
        format!("{}/acme/os:v0.3.0-amd64", registry.address),
    ] {
        let response = service.get(&format!("/{directory}/latest.json"));
        assert_eq!(response.status, 200, "{directory}: {response:?}");
        assert_eq!(response.header("content-type"), Some("application/json"));
        let found: Value = serde_json::from_slice(&response.body).unwrap();
        let (repository, _) = directory.rsplit_once([':', '@']).unwrap();
        let repository = repository.trim_end_matches("@sha256");
        let place = format!("{}/{repository}@{digest}", service.address);
        if !directory.contains("/acme/os") {
            assert_eq!(found, latest_json(&place), "{directory}");
        }
        for (key, bytes) in [
            ("vmlinuz_url", "kernel amd64"),
            ("initramfs_url", "initramfs amd64"),
        ] {
            let url = found[key].as_str().unwrap();
            let path = url
                .strip_prefix(&format!("http://{}", service.address))
                .unwrap();
            let response = service.get(path);
            assert_eq!((response.status, response.text()), (200, bytes), "{url}");
        }
    }
    assert_eq!(
        service.get("/hello:v0.3.0-arm64/latest.json").status,
        404,
        "another machine's"
    );
    assert_eq!(
        service.get("/hello/latest.json").status,
        404,
        "no release by itself"
    );
}

#[test]
fn latest_json_names_the_host_it_was_asked_for_by() {
    let mut hello = Repository::default();
    let amd64 = release(&mut hello, "v0.3.0", "amd64");
    hello.point("stable", &amd64);
    let digest = amd64["digest"].as_str().unwrap();
    let registry = Registry::with_hello(hello);
    let service =
        Service::start(registry.settings() + &format!("hosts = [\"updates.example\"]\n{X86}"));
    for host in ["updates.example:8080", "localhost:5001", "[::1]:5001"] {
        let mut connection = crate::client::Connection::open(service.address);
        let head = format!(
            "GET /hello:stable/latest.json HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        );
        connection.send(head.as_bytes()).unwrap();
        let response = connection.receive("GET").unwrap();
        let found: Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(
            found,
            latest_json(&format!("{host}/hello@{digest}")),
            "{host}"
        );
    }
}

#[test]
fn what_is_no_release_says_why() {
    let mut hello = Repository::default();
    let other = release(&mut hello, "v0.3.0", "riscv64");
    hello.point("other", &other);
    let half = [hello.file(KERNEL, "vmlinuz", b"kernel")];
    let half = hello.artifact(&half, json!({}));
    hello.point("half", &half);
    hello.oras_push("none", "a.raw", b"no release");
    let registry = Registry::with_hello(hello);
    let service = Service::start(registry.settings() + X86);
    for (tag, reason) in [
        ("other", "it says it is for riscv64"),
        ("half", "KubeSolo OS image without initramfs"),
        ("none", "only a KubeSolo OS release has it"),
    ] {
        let response = service.get(&format!("/hello:{tag}/latest.json"));
        let found = response.header("x-reason").unwrap_or_default();
        assert_eq!(response.status, 404, "{tag}");
        assert!(found.contains(reason), "{tag}: {found}");
    }
    let response = service.get("/hello/latest.json");
    let found = response.header("x-reason").unwrap_or_default();
    assert!(found.contains("only a KubeSolo OS release"), "{found}");
}

#[test]
fn latest_json_leads_to_the_files_it_describes_though_the_tag_moves() {
    let mut hello = Repository::default();
    let first = release(&mut hello, "v0.3.0", "amd64");
    hello.point("stable", &first);
    let registry = Registry::with_hello(hello);
    let service = Service::start(registry.settings() + ANEW);
    let latest = || -> Value {
        serde_json::from_slice(&service.whole("/hello:stable/latest.json")).unwrap()
    };
    let found = latest();
    registry.change(|hello| {
        // These have no titles: their names are made of the version, which is the tag or the digest.
        let layers = [
            hello.blob(KERNEL, b"newer kernel"),
            hello.blob(INITRAMFS, b"newer initramfs"),
        ];
        let newer = hello.artifact(&layers, json!({}));
        hello.point("stable", &newer);
    });
    later();
    let newer = latest();
    assert_eq!(
        (&newer["version"], &newer["vmlinuz_sha256"]),
        (&json!("stable"), &json!(sha256(b"newer kernel"))),
        "without annotations the tag is the version"
    );
    for latest in [found, newer] {
        for file in ["vmlinuz", "initramfs"] {
            let url = latest[format!("{file}_url")].as_str().unwrap();
            let (_, path) = url.rsplit_once(&service.address.to_string()).unwrap();
            let body = service.whole(path);
            assert_eq!(latest[format!("{file}_sha256")], sha256(&body), "{url}");
        }
    }
}

#[test]
fn a_release_has_a_latest_json_if_it_is_accepted_with_urls_below_what_is_signed() {
    // The signed manifest, and below which digest the files are offered to clients that ask by the tag, the index, the
    // manifest.
    for (signed, expected) in [
        ("index", [Some("index"), Some("index"), None]),
        ("manifest", [Some("manifest"); 3]),
        ("both", [Some("index"), Some("index"), Some("manifest")]),
        ("the other manifest", [None; 3]),
        ("nothing", [None; 3]),
    ] {
        let key = Key::new();
        let registry = Registry::start();
        let mut hello = Repository::default();
        let [amd64, arm64] = ["amd64", "arm64"].map(|one| release(&mut hello, "v0.3.0", one));
        let index = hello.index_of(&[arm64.clone(), amd64.clone()], json!({}));
        hello.point("stable", &index);
        let to_sign = match signed {
            "index" => vec![&index],
            "manifest" => vec![&amd64],
            "both" => vec![&index, &amd64],
            "the other manifest" => vec![&arm64],
            _ => vec![],
        };
        for one in to_sign {
            key.sign(&mut hello, Form::Bundle, &name(&registry), one);
        }
        registry.put("hello", hello);
        let service = verifying(&registry, &key)
            .settings("architectures = [\"x86-64\"]\n")
            .start();
        let digest = |of: &Value| of["digest"].as_str().unwrap().to_owned();
        let directories = [
            "hello:stable".to_owned(),
            format!("hello@{}", digest(&index)),
            format!("hello@{}", digest(&amd64)),
        ];
        for (directory, expected) in directories.iter().zip(expected) {
            let why = format!("{directory} with {signed} signed");
            let response = service.get(&format!("/{directory}/latest.json"));
            let Some(pinned) = expected else {
                assert_eq!((response.status, response.text()), (404, ""), "{why}");
                let reason = response.header("x-reason").unwrap();
                assert!(reason.contains("it is not signed"), "{why}: {reason}");
                continue;
            };
            let pinned = digest(if pinned == "index" { &index } else { &amd64 });
            let place = format!("{}/hello@{pinned}", service.address);
            let found: Value = serde_json::from_slice(&response.body).unwrap_or_default();
            assert_eq!(found, latest_json(&place), "{why}: {response:?}");
            for (file, bytes) in [
                ("vmlinuz", "kernel amd64"),
                ("kubesolo-os.gz", "initramfs amd64"),
            ] {
                let body = service.whole(&format!("/hello@{pinned}/{file}"));
                assert_eq!(body, bytes.as_bytes(), "{why}");
            }
        }
    }
}
