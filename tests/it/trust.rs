//! Signatures that the settings ask for: a version that is not signed so is offered nowhere.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::client::Connection;
use crate::content::{
    OCI_TAR, Repository, empty_listing, line, lines, sign as sign_list, versions,
};
use crate::cosign::{FORMS, Form, Key, SIGN, attach_bundle, attach_payload, payload};
use crate::images::{layer, push};
use crate::registry::{Fault, Guard, Registry, count, nowhere};
use crate::service::{ANEW, Folder, Service, Setup, X86, eventually, later};
use crate::signals::send;

/// A service that asks for this key's signatures of `hello`.
pub fn verifying(registry: &Registry, key: &Key) -> Setup {
    with_keys(Setup::of(registry), &[key])
}

/// The same for these keys. Keys of `hello` may follow.
fn with_keys(setup: Setup, keys: &[&Key]) -> Setup {
    let mut verify = Vec::new();
    for (n, key) in keys.iter().enumerate() {
        let file = setup.folder().join(format!("{n}.pub"));
        fs::write(&file, key.pem()).unwrap();
        verify.push(format!("{{ key = {file:?} }}"));
    }
    setup.settings(&format!(
        "[repository.hello]\nverify = [{}]\n",
        verify.join(", ")
    ))
}

/// The name that `hello` has in a payload.
pub fn name(registry: &Registry) -> String {
    format!("{}/hello", registry.address)
}

/// `v1`, without a version in its manifest.
pub fn image(hello: &mut Repository) -> Value {
    let layer = hello.file(OCI_TAR, "hello.raw", b"image");
    let manifest = hello.artifact(&[layer], json!({}));
    hello.point("v1", &manifest);
    manifest
}

pub fn digest(manifest: &Value) -> &str {
    manifest["digest"].as_str().unwrap()
}

/// Every address that could lead to the files of `hello:v1`.
fn addresses(registry: &Registry, manifest: &Value) -> [String; 4] {
    [
        "hello".to_owned(),
        "hello:v1".to_owned(),
        format!("hello@{}", digest(manifest)),
        name(registry),
    ]
}

/// Nothing of `hello:v1` is offered by any address, and each says why.
#[track_caller]
pub fn assert_refused(service: &Service, registry: &Registry, manifest: &Value, reason: &str) {
    for directory in addresses(registry, manifest) {
        assert_eq!(
            service.listing_of(&directory),
            empty_listing(),
            "{directory}"
        );
        for file in [
            "hello-v1.raw",
            "hello.raw",
            "hello-v1.raw.sha256",
            "hello-v1.manifest.gz",
        ] {
            let response = service.get(&format!("/{directory}/{file}"));
            assert_eq!(
                (response.status, response.text()),
                (404, ""),
                "{directory}/{file}"
            );
        }
        let page = service.get(&format!("/{directory}/"));
        let told = page.text().contains(reason);
        assert!(told, "{directory} does not say {reason:?}: {}", page.text());
    }
}

#[test]
fn a_signed_version_is_offered_in_each_form_and_however_its_registry_finds_it() {
    for has_referrers_api in [true, false] {
        for form in FORMS {
            let key = Key::new();
            let registry = Registry::start();
            let mut hello = Repository {
                has_referrers_api,
                ..Repository::default()
            };
            let manifest = image(&mut hello);
            key.sign(&mut hello, form, &name(&registry), &manifest);
            registry.put("hello", hello);
            let service = verifying(&registry, &key).start();
            let why = format!("{form:?}, API {has_referrers_api}");
            for directory in addresses(&registry, &manifest) {
                let is_of_all = !directory.contains("hello:") && !directory.contains('@');
                let file = if is_of_all {
                    "hello-v1.raw"
                } else {
                    "hello.raw"
                };
                let listing = service.listing_of(&directory);
                assert_eq!(listing, line(b"image", file), "{directory}: {why}");
                assert_eq!(
                    service.whole(&format!("/{directory}/{file}")),
                    b"image",
                    "{why}"
                );
            }
        }
    }
}

#[test]
fn what_is_not_signed_by_the_key_is_offered_nowhere() {
    type Change = fn(&mut Repository, &Key, &Key, &str, &Value);
    let cases: [(&str, &str, Change); 21] = [
        ("unsigned", "it is not signed; key /", |_, _, _, _, _| {}),
        (
            "another key, bundle",
            "another key made it",
            |hello, _, other, name, manifest| {
                other.sign(hello, Form::Bundle, name, manifest);
            },
        ),
        (
            "another key, .sig",
            "another key made it",
            |hello, _, other, name, manifest| {
                other.sign(hello, Form::SigTag, name, manifest);
            },
        ),
        (
            "another key, attached",
            "another key made it",
            |hello, _, other, name, manifest| {
                other.sign(hello, Form::Attached, name, manifest);
            },
        ),
        (
            "payload of another digest",
            "it is of another manifest, sha256:",
            |hello, key, _, name, manifest| {
                let payload = payload(name, &format!("sha256:{}", "1".repeat(64)));
                attach_payload(
                    hello,
                    Form::SigTag,
                    manifest,
                    &payload,
                    &key.sign_bytes(payload.as_bytes()),
                );
            },
        ),
        (
            "payload of another repository",
            "it names the repository \\\"ghcr.io/acme/hello\\\"",
            |hello, key, _, _, manifest| {
                key.sign(hello, Form::SigTag, "ghcr.io/acme/hello", manifest);
            },
        ),
        (
            "payload of a repository below",
            "it names the repository",
            |hello, key, _, name, manifest| {
                key.sign(hello, Form::Attached, &format!("{name}/x"), manifest);
            },
        ),
        (
            "flipped byte in the payload",
            "it was changed since",
            |hello, key, _, name, manifest| {
                let payload = payload(name, digest(manifest));
                let signature = key.sign_bytes(payload.as_bytes());
                attach_payload(
                    hello,
                    Form::SigTag,
                    manifest,
                    &payload.replace("null", "nulL"),
                    &signature,
                );
            },
        ),
        (
            "flipped byte in the signature",
            "it was changed since",
            |hello, key, _, name, manifest| {
                let payload = payload(name, digest(manifest));
                let signature = key.sign_bytes(b"another payload");
                attach_payload(hello, Form::SigTag, manifest, &payload, &signature);
            },
        ),
        (
            "empty signature",
            "the signature is empty",
            |hello, _, _, name, manifest| {
                attach_payload(
                    hello,
                    Form::SigTag,
                    manifest,
                    &payload(name, digest(manifest)),
                    "",
                );
            },
        ),
        ("no base64", "base64", |hello, _, _, name, manifest| {
            attach_payload(
                hello,
                Form::SigTag,
                manifest,
                &payload(name, digest(manifest)),
                "*",
            );
        }),
        (
            "empty payload",
            "it was changed since",
            |hello, key, _, _, manifest| {
                attach_payload(hello, Form::SigTag, manifest, "", &key.sign_bytes(b"x"));
            },
        ),
        (
            "signed nonsense",
            "cannot be understood",
            |hello, key, _, _, manifest| {
                attach_payload(hello, Form::SigTag, manifest, "{}", &key.sign_bytes(b"{}"));
            },
        ),
        (
            "statement of another digest",
            "it is of another manifest",
            |hello, key, _, _, manifest| {
                let bundle = key.bundle(&format!("sha256:{}", "1".repeat(64)), SIGN);
                attach_bundle(hello, manifest, &bundle.to_string());
            },
        ),
        (
            "attestation only",
            "it is an attestation",
            |hello, key, _, _, manifest| {
                let bundle = key.bundle(digest(manifest), "https://slsa.dev/provenance/v1");
                attach_bundle(hello, manifest, &bundle.to_string());
            },
        ),
        (
            "Ed25519",
            "an Ed25519 signature, which is not read",
            |hello, _, _, name, manifest| {
                let signature = "A".repeat(86) + "==";
                attach_payload(
                    hello,
                    Form::SigTag,
                    manifest,
                    &payload(name, digest(manifest)),
                    &signature,
                );
            },
        ),
        ("keyless", "keyless", |hello, key, _, _, manifest| {
            let mut bundle = key.bundle(digest(manifest), SIGN);
            bundle["verificationMaterial"] = json!({"certificate": {"rawBytes": ""}});
            attach_bundle(hello, manifest, &bundle.to_string());
        }),
        (
            "Notation",
            "a Notation signature, which is not read",
            |hello, _, _, _, manifest| {
                let layer = hello.blob("application/jose+json", b"{}");
                let artifact_type = "application/vnd.cncf.notary.signature";
                let more = json!({"artifactType": artifact_type, "subject": manifest});
                hello.attach(manifest, &[layer], more);
            },
        ),
        (
            "4 MiB",
            "at most 1048576 are read",
            |hello, _, _, _, manifest| {
                attach_bundle(hello, manifest, &" ".repeat(4 << 20));
            },
        ),
        (
            "a good bundle of another subject",
            "it is not signed; key /",
            |hello, key, _, _, manifest| {
                let layer = hello.file(OCI_TAR, "other.raw", b"other");
                let other = hello.artifact(&[layer], json!({}));
                let bundle = key.bundle(digest(manifest), SIGN).to_string();
                attach_bundle(hello, &other, &bundle);
                let tag = |of: &Value| digest(of).replace(':', "-");
                let index = hello.tags[&tag(&other)].clone();
                hello.tags.insert(tag(manifest), index);
            },
        ),
        (
            "a .sig tag of another manifest",
            "it is of another manifest",
            |hello, key, _, name, manifest| {
                let layer = hello.file(OCI_TAR, "other.raw", b"other");
                let other = hello.artifact(&[layer], json!({}));
                key.sign(hello, Form::SigTag, name, &other);
                let tag = |of: &Value| digest(of).replace(':', "-") + ".sig";
                let signatures = hello.tags[&tag(&other)].clone();
                hello.tags.insert(tag(manifest), signatures);
            },
        ),
    ];
    for (case, reason, change) in cases {
        let (key, other) = (Key::new(), Key::new());
        let registry = Registry::start();
        let mut hello = Repository::default();
        let manifest = image(&mut hello);
        change(&mut hello, &key, &other, &name(&registry), &manifest);
        registry.put("hello", hello);
        let service = verifying(&registry, &key).start();
        let reason = reason.replace("\\\"", "&quot;");
        println!("{case}");
        assert_refused(&service, &registry, &manifest, &reason);
    }
}

#[test]
fn one_changed_byte_of_a_signed_manifest_makes_it_another_one() {
    let key = Key::new();
    let registry = Registry::start();
    let mut hello = Repository::default();
    let manifest = image(&mut hello);
    key.sign(&mut hello, Form::Bundle, &name(&registry), &manifest);
    let bytes = &hello.manifests[digest(&manifest)].bytes;
    let changed = String::from_utf8(bytes.to_vec()).unwrap() + " ";
    hello.tag("v1", changed.as_bytes());
    let changed = hello.manifest(changed.as_bytes());
    registry.put("hello", hello);
    let service = verifying(&registry, &key).start();
    assert_refused(&service, &registry, &changed, "it is not signed; key /");
}

/// A failed lookup is not an answer: the version is not offered, and is not called unsigned, either.
#[test]
fn a_signature_that_cannot_be_looked_up_makes_no_version_an_unsigned_one() {
    let guard = || {
        Fault::Guard(
            Guard::new(|_| false)
                .status(401)
                .challenge("Basic realm=\"x\""),
        )
    };
    let places = [
        (Form::Bundle, true, "GET /v2/hello/referrers/"),
        (Form::Bundle, false, "GET /v2/hello/manifests/sha256-"),
        (Form::SigTag, false, ".sig$"),
    ];
    for (form, has_referrers_api, place) in places {
        for (fault, status) in [
            (Fault::Status(429), 503),
            (Fault::Status(500), 502),
            (Fault::Status(403), 403),
            (guard(), 403),
            (Fault::CutAfter(7), 502),
        ] {
            let key = Key::new();
            let registry = Registry::start();
            let mut hello = Repository {
                has_referrers_api,
                ..Repository::default()
            };
            let manifest = image(&mut hello);
            key.sign(&mut hello, form, &name(&registry), &manifest);
            registry.put("hello", hello);
            registry.fault(place, Fault::header("Retry-After", "1000"));
            registry.fault(place, fault.clone());
            let service = verifying(&registry, &key).settings("").start();
            let why = format!("{fault:?} at {place}");
            let response = service.get("/hello/SHA256SUMS");
            assert_eq!(response.status, 503, "{why}: {}", response.text());
            for directory in [
                "hello:v1".to_owned(),
                format!("hello@{}", digest(&manifest)),
            ] {
                let response = service.get(&format!("/{directory}/SHA256SUMS"));
                assert_eq!(response.status, status, "{why}: {directory}");
            }
            let unsigned = service
                .log
                .lines()
                .iter()
                .any(|line| line.contains("not signed"));
            assert!(!unsigned, "{why}: {:?}", service.log.lines());
        }
    }
}

/// A redirect to a host that is down says nothing of a signature, nor do the bytes of something else in its place.
#[test]
fn a_signature_in_whose_place_there_is_something_else_makes_no_version_an_unsigned_one() {
    for form in [Form::Bundle, Form::Attached] {
        for fault in [
            Fault::Redirect(format!("http://{}", nowhere())),
            Fault::WrongByte,
        ] {
            let key = Key::new();
            let registry = Registry::start();
            let mut hello = Repository {
                has_referrers_api: true,
                ..Repository::default()
            };
            let manifest = image(&mut hello);
            let before = hello.manifests.clone();
            key.sign(&mut hello, form, &name(&registry), &manifest);
            let mut all = hello.manifests.keys();
            let attached = all.find(|one| !before.contains_key(*one)).unwrap();
            let place: &'static str = format!("/manifests/{attached}").leak();
            registry.put("hello", hello);
            registry.fault(place, fault.clone());
            let service = verifying(&registry, &key).start();
            let why = format!("{form:?}: {fault:?}");
            for (directory, status) in [("hello", 503), ("hello:v1", 502)] {
                let response = service.get(&format!("/{directory}/SHA256SUMS"));
                assert_eq!(response.status, status, "{why}: {directory}");
                let told = response.header("x-reason").unwrap();
                assert!(told.contains("is signed could not be found out"), "{told}");
            }
        }
    }
}

#[test]
fn an_old_version_without_an_answer_is_left_out_and_the_listing_says_so() {
    let key = Key::new();
    let registry = Registry::start();
    let mut hello = versions(3).0;
    let mut digests = Vec::new();
    for tag in ["v0", "v1", "v2"] {
        let manifest = json!({"digest": hello.tags[tag], "mediaType": "", "size": 1});
        digests.push(hello.tags[tag].clone());
        key.sign(&mut hello, Form::SigTag, &name(&registry), &manifest);
    }
    registry.put("hello", hello);
    let place: &'static str = format!("{}.sig", digests[0].replace(':', "-")).leak();
    registry.fault(place, Fault::Status(403));
    let service = verifying(&registry, &key).start();
    let response = service.get("/hello/SHA256SUMS");
    let incomplete = response.header("x-incomplete");
    assert_eq!(incomplete, Some("1 of 3 tags were not answered"));
    let expected = lines(&[(b"image 1", "hello-v1.raw"), (b"image 2", "hello-v2.raw")]);
    assert_eq!(response.text(), expected);
    assert_eq!(service.get("/hello/hello-v0.raw").status, 404);
}

#[test]
fn a_mirror_without_the_signatures_is_no_answer_while_the_registry_is_down() {
    for form in FORMS {
        let key = Key::new();
        let (registry, mirror) = (Registry::start(), Registry::on("127.0.0.2:0", None));
        let mut hello = Repository::default();
        let manifest = image(&mut hello);
        mirror.put("hello", hello.clone());
        key.sign(&mut hello, form, &name(&registry), &manifest);
        let setup = Setup::with_mirrors(&registry, &[&mirror]).settings(ANEW);
        let service = with_keys(setup, &[&key]).start();
        registry.fault("/v2/", Fault::Status(502));
        for directory in addresses(&registry, &manifest) {
            let response = service.get(&format!("/{directory}/SHA256SUMS"));
            assert!(
                response.status >= 500,
                "{form:?} {directory}: {}",
                response.status
            );
        }
        // It has them now.
        mirror.put("hello", hello.clone());
        later();
        let listing = service.get("/hello/SHA256SUMS");
        assert_eq!(listing.text(), line(b"image", "hello-v1.raw"), "{form:?}");
        let unsigned = service
            .log
            .lines()
            .iter()
            .any(|line| line.contains("not signed"));
        assert!(!unsigned, "{:?}", service.log.lines());
    }
}

/// A registry that sends requests for what is attached to another host: that counts if it sends those for manifests
/// there, too, and is no answer while that host has none. Any other redirect is as good as 404.
#[test]
fn what_another_host_says_is_attached_counts_if_it_also_has_the_manifests() {
    for (sends_manifests, status, expected) in [
        (true, 200, (200, true)),
        (true, 404, (200, false)),
        (true, 429, (503, false)),
        (true, 500, (502, false)),
        (false, 200, (200, false)),
        (false, 500, (200, false)),
    ] {
        let key = Key::new();
        let (registry, other) = (Registry::start(), Registry::on("127.0.0.2:0", None));
        let mut hello = Repository {
            has_referrers_api: true,
            ..Repository::default()
        };
        let manifest = image(&mut hello);
        registry.put("hello", hello.clone());
        key.sign(&mut hello, Form::Bundle, &name(&registry), &manifest);
        other.put("hello", hello.clone());
        other.fault("/referrers/", Fault::header("Retry-After", "0"));
        if status != 200 {
            other.fault("/referrers/", Fault::Status(status));
        }
        registry.fault("/referrers/", Fault::Redirect(other.origin()));
        if sends_manifests {
            for place in ["/manifests/sha256:", "/blobs/sha256:"] {
                registry.fault(place, Fault::Redirect(other.origin()));
            }
        }
        let cache = Folder::new();
        let setup = || verifying(&registry, &key).cache(&cache);
        let why = format!("manifests {sends_manifests}, {status}");
        // With the manifest in the cache, as well.
        for _ in 0..2 {
            let service = setup().start();
            let response = service.get("/hello:v1/SHA256SUMS");
            let is_listed = response.text() == line(b"image", "hello.raw");
            assert_eq!((response.status, is_listed), expected, "{why}");
            let asked = count(&other.take_requests(), "/referrers/");
            assert_eq!(asked > 0, sends_manifests, "{why}: {asked}");
            let _ = fs::remove_dir_all(cache.path().join("verdicts"));
        }
        // The signature is where the registry itself has it.
        key.sign(&mut hello, Form::SigTag, &name(&registry), &manifest);
        registry.put("hello", hello);
        if !sends_manifests {
            assert_eq!(setup().start().listing(), line(b"image", "hello-v1.raw"));
        }
    }
}

/// Where one manifest comes from says nothing of another one.
#[test]
fn whether_another_host_counts_does_not_depend_on_what_was_asked_before() {
    let key = Key::new();
    let (registry, other) = (Registry::start(), Registry::on("127.0.0.2:0", None));
    let (mut hello, _) = versions(2);
    hello.has_referrers_api = true;
    registry.put("hello", hello.clone());
    let sent_there = hello.tags["v0"].clone();
    let v0 = json!({"digest": sent_there, "mediaType": "", "size": 1});
    key.sign(&mut hello, Form::Bundle, &name(&registry), &v0);
    let mut all = hello.manifests.keys();
    let attached = all.find(|one| !registry_has(&registry, one)).unwrap();
    for digest in [&sent_there, attached] {
        let place = format!("/manifests/{digest}").leak();
        registry.fault(place, Fault::Redirect(other.origin()));
    }
    registry.fault("/blobs/", Fault::Redirect(other.origin()));
    registry.fault("/referrers/", Fault::Redirect(other.origin()));
    other.put("hello", hello);
    // The newest tag is asked for first, and its manifest is at the registry itself.
    let setup = Setup::of(&registry).settings("parallel = 1\n");
    let service = with_keys(setup, &[&key]).start();
    assert_eq!(service.listing(), line(b"image 0", "hello-v0.raw"));
}

fn registry_has(registry: &Registry, manifest: &str) -> bool {
    let mut has_it = false;
    registry.change(|hello| has_it = hello.manifests.contains_key(manifest));
    has_it
}

/// The question where a manifest comes from may fail as that for what is attached does where there is no such API.
#[test]
fn where_a_manifest_comes_from_is_found_out_by_get_or_is_no_answer() {
    for (head, get, expected) in [
        (404, None, (200, true)),
        (501, None, (200, true)),
        (404, Some(404), (200, false)),
        (400, Some(400), (502, false)),
        (410, Some(410), (502, false)),
    ] {
        let key = Key::new();
        let (registry, other) = (Registry::start(), Registry::on("127.0.0.2:0", None));
        let mut hello = Repository {
            has_referrers_api: true,
            ..Repository::default()
        };
        let manifest = image(&mut hello);
        registry.put("hello", hello.clone());
        key.sign(&mut hello, Form::Bundle, &name(&registry), &manifest);
        other.put("hello", hello);
        let of_manifests = "GET /v2/hello/manifests/sha256:";
        registry.fault("HEAD /v2/hello/manifests/sha256:", Fault::Status(head));
        registry.fault(
            of_manifests,
            match get {
                None => Fault::Redirect(other.origin()),
                Some(status) => Fault::Status(status),
            },
        );
        for place in ["/referrers/", "/blobs/sha256:"] {
            registry.fault(place, Fault::Redirect(other.origin()));
        }
        let service = verifying(&registry, &key).start();
        let response = service.get("/hello:v1/SHA256SUMS");
        let is_listed = response.text() == line(b"image", "hello.raw");
        let why = response.header("x-reason");
        assert_eq!(
            (response.status, is_listed),
            expected,
            "{head} {get:?}: {why:?}"
        );
    }
}

#[test]
fn programs_are_told_by_which_key_and_form_a_file_was_accepted() {
    let key = Key::new();
    let registry = Registry::start();
    let mut hello = versions(2).0;
    let v1 = json!({"mediaType": "", "size": 1, "digest": hello.tags["v1"]});
    key.sign(&mut hello, Form::SigTag, &name(&registry), &v1);
    let unsigned = hello.tags["v0"].clone();
    registry.put("hello", hello);
    let setup = verifying(&registry, &key);
    let file = setup.folder().join("0.pub");
    let service = setup.start();
    let json = service.request("GET", "/hello/", &["Accept: application/json"]);
    let json: Value = serde_json::from_slice(&json.body).unwrap();
    let verified_by = format!("key {} (.sig tag)", file.display());
    assert_eq!(json["files"][0]["verified_by"], verified_by);
    let why = format!(
        "it is not signed; key {} must have signed it",
        file.display()
    );
    let left_out = json["left_out"].as_array().unwrap();
    let of_v0 = left_out.iter().find(|one| one["tag"] == "v0").unwrap();
    let told = [&of_v0["kind"], &of_v0["reason"], &of_v0["digest"]];
    assert_eq!(told, [&json!("refused"), &json!(why), &json!(unsigned)]);
}

/// A settled listing costs what an unsigned one costs, also in the next process; unsigned versions are looked at again.
#[test]
fn a_verdict_is_kept_and_a_refusal_is_not() {
    let key = Key::new();
    for has_referrers_api in [true, false] {
        let registry = Registry::start();
        let mut hello = versions(2).0;
        hello.has_referrers_api = has_referrers_api;
        let manifest = |hello: &Repository, tag: &str| json!({"mediaType": "", "size": 1, "digest": hello.tags[tag]});
        let (v0, v1) = (manifest(&hello, "v0"), manifest(&hello, "v1"));
        key.sign(&mut hello, Form::Bundle, &name(&registry), &v1);
        registry.put("hello", hello.clone());
        let (cache, keys) = (Folder::new(), Folder::new());
        let file = keys.file("acme.pub", &key.pem());
        let setup = || {
            let verify = format!("[repository.hello]\nverify = [{{ key = {file:?} }}]\n");
            Setup::of(&registry)
                .settings(ANEW)
                .cache(&cache)
                .settings(&verify)
        };
        let service = setup().start();
        assert_eq!(service.listing(), line(b"image 1", "hello-v1.raw"));
        registry.take_requests();
        later();
        assert_eq!(service.listing(), line(b"image 1", "hello-v1.raw"));
        let requests = registry.take_requests();
        assert!(
            count(&requests, "/referrers/") == 1,
            "v0 alone: {requests:?}"
        );
        assert_eq!(count(&requests, "/blobs/"), 0, "{requests:?}");
        key.sign(&mut hello, Form::SigTag, &name(&registry), &v0);
        registry.put("hello", hello);
        later();
        let both = lines(&[(b"image 0", "hello-v0.raw"), (b"image 1", "hello-v1.raw")]);
        assert_eq!(service.listing(), both);
        drop(service);
        registry.take_requests();
        assert_eq!(setup().start().listing(), both);
        let signed = registry.take_requests();
        let setup = Setup::of(&registry).settings(ANEW).cache(&cache);
        assert_eq!(setup.start().listing(), both);
        assert_eq!(signed, registry.take_requests());
    }
}

#[test]
fn a_verdict_is_that_of_the_bytes_of_a_key_and_of_one_repository() {
    let (key, other) = (Key::new(), Key::new());
    let registry = Registry::start();
    let mut hello = Repository::default();
    let manifest = image(&mut hello);
    registry.put("copy", hello.clone());
    key.sign(&mut hello, Form::Bundle, &name(&registry), &manifest);
    registry.put("hello", hello);
    let (cache, keys) = (Folder::new(), Folder::new());
    let file = keys.file("acme.pub", &key.pem());
    let setup = || {
        Setup::of(&registry).settings(ANEW).cache(&cache).settings(&format!(
            "[repository.hello]\nverify = [{{ key = {file:?} }}]\n[repository.copy]\nverify = [{{ key = {file:?} }}]\n"
        ))
    };
    let service = setup().start();
    assert_eq!(service.listing(), line(b"image", "hello-v1.raw"));
    assert_eq!(service.whole("/hello/hello-v1.raw"), b"image");
    // The same manifest, signed in the other repository alone.
    assert_eq!(service.listing_of("copy"), empty_listing());
    drop(service);
    // A promise of a listing does not outlive the key that made it.
    keys.file("acme.pub", &other.pem());
    let service = setup().start();
    assert_eq!(service.get("/hello/hello-v1.raw").status, 404);
    assert_refused(&service, &registry, &manifest, "another key made it");
}

#[test]
fn a_promised_file_is_judged_again_in_the_next_process() {
    let key = Key::new();
    let registry = Registry::start();
    let mut hello = Repository::default();
    let manifest = image(&mut hello);
    let tags = hello.tags.clone();
    key.sign(&mut hello, Form::SigTag, &name(&registry), &manifest);
    registry.put("hello", hello.clone());
    let cache = Folder::new();
    let keys = Folder::new();
    let file = keys.file("acme.pub", &key.pem());
    let setup = || {
        let verify = format!("[repository.hello]\nverify = [{{ key = {file:?} }}]\n");
        Setup::of(&registry)
            .settings(ANEW)
            .cache(&cache)
            .settings(&verify)
    };
    let service = setup().start();
    assert_eq!(service.listing(), line(b"image", "hello-v1.raw"));
    drop(service);
    // The tag is gone: the file is promised for an hour.
    hello.tags.clear();
    registry.put("hello", hello.clone());
    assert_eq!(setup().start().whole("/hello/hello-v1.raw"), b"image");
    // Without the verdict it has to be signed, and is no more.
    fs::remove_dir_all(cache.path().join("verdicts")).unwrap();
    assert_eq!(setup().start().get("/hello/hello-v1.raw").status, 404);
    hello.tags = tags;
}

#[test]
fn a_signed_list_counts_if_its_artifact_is_signed_and_no_tag_stands_in_for_it() {
    let key = Key::new();
    let registry = Registry::start();
    let (mut hello, _) = versions(2);
    let v1 = json!({"mediaType": "", "size": 1, "digest": hello.tags["v1"]});
    key.sign(&mut hello, Form::Bundle, &name(&registry), &v1);
    let list = line(b"image 9", "hello-9.raw");
    let garbage: [(&str, &[u8]); 1] = [("SHA256SUMS.gpg", b"garbage")];
    sign_list(&mut hello, list.as_bytes(), &garbage, &[b"image 9"]);
    let artifact = json!({"mediaType": "", "size": 1, "digest": hello.tags["SHA256SUMS"]});
    registry.put("hello", hello.clone());
    let service = verifying(&registry, &key).settings("flatten = 3\n").start();
    for file in [
        "SHA256SUMS",
        "SHA256SUMS.gpg",
        "hello-9.raw",
        "hello-v1.raw",
    ] {
        let response = service.get(&format!("/hello/{file}"));
        assert_eq!((response.status, response.text()), (403, ""), "{file}");
        let reason = response.header("x-reason").unwrap();
        assert!(
            reason.contains("the list in tag SHA256SUMS") && reason.contains("it is not signed"),
            "{reason}"
        );
    }
    drop(service);
    key.sign(&mut hello, Form::SigTag, &name(&registry), &artifact);
    registry.put("hello", hello);
    let service = verifying(&registry, &key).start();
    assert_eq!(service.listing(), list);
    assert_eq!(service.whole("/hello/SHA256SUMS.gpg"), b"garbage");
    assert_eq!(service.whole("/hello/hello-9.raw"), b"image 9");
}

/// An entry of an index, of which its own config says another architecture.
fn entry(hello: &mut Repository, bytes: &[u8], of_index: &str, own: Option<&str>) -> Value {
    let layer = hello.file(OCI_TAR, "hello.raw", bytes);
    let annotations = own.map_or(json!({}), |own| json!({"architecture": own}));
    let mut entry = hello.artifact(&[layer], json!({"annotations": annotations}));
    entry["platform"] = json!({"os": "linux", "architecture": of_index});
    entry
}

#[test]
fn of_an_unsigned_index_nothing_counts_and_a_signed_one_covers_its_entries() {
    let both = lines(&[(b"x", "hello-v1-x86-64.raw"), (b"a", "hello-v1-arm64.raw")]);
    let x86 = line(b"x", "hello-v1-x86-64.raw");
    let none = empty_listing();
    // The architectures in the entries, the signed manifest, the expected listing.
    for (own, signed, expected, why) in [
        ([None, None], "index", &both, "the index alone"),
        ([None, None], "all", &both, "everything, cosign sign -r"),
        (
            [Some("amd64"), Some("arm64")],
            "entries",
            &both,
            "the entries, which say what they are",
        ),
        ([Some("amd64"), Some("arm64")], "first", &x86, "one entry"),
        (
            [None, None],
            "entries",
            &none,
            "entries that do not say what they are",
        ),
        (
            [Some("riscv64"), Some("s390x")],
            "entries",
            &none,
            "entries that say something else",
        ),
        (
            [Some("riscv64"), Some("s390x")],
            "index",
            &both,
            "a signed index decides",
        ),
        ([Some("amd64"), Some("arm64")], "nothing", &none, "nothing"),
    ] {
        let key = Key::new();
        let registry = Registry::start();
        let mut hello = Repository::default();
        let entries = [
            entry(&mut hello, b"x", "amd64", own[0]),
            entry(&mut hello, b"a", "arm64", own[1]),
        ];
        let index = hello.index_of(&entries, json!({}));
        hello.point("v1", &index);
        let signed: Vec<_> = match signed {
            "index" => vec![&index],
            "entries" => entries.iter().collect(),
            "first" => vec![&entries[0]],
            "all" => vec![&index, &entries[0], &entries[1]],
            _ => vec![],
        };
        for one in signed {
            key.sign(&mut hello, Form::Bundle, &name(&registry), one);
        }
        registry.put("hello", hello);
        let more = "architectures = [\"x86-64\", \"arm64\"]\n";
        let service = verifying(&registry, &key).settings(more).start();
        assert_eq!(&service.listing(), expected, "{why}");
    }
}

#[test]
fn the_one_entry_of_an_unsigned_index_is_for_the_machine_that_it_says_itself() {
    for (own, is_listed) in [(Some("arm64"), false), (Some("amd64"), true), (None, true)] {
        let key = Key::new();
        let registry = Registry::start();
        let mut hello = Repository::default();
        let entry = entry(&mut hello, b"x", "amd64", own);
        let index = hello.index_of(std::slice::from_ref(&entry), json!({}));
        hello.point("v1", &index);
        key.sign(&mut hello, Form::Bundle, &name(&registry), &entry);
        registry.put("hello", hello);
        let service = verifying(&registry, &key)
            .settings("architectures = [\"x86-64\"]\n")
            .start();
        let expected = if is_listed {
            line(b"x", "hello-v1.raw")
        } else {
            empty_listing()
        };
        assert_eq!(service.listing(), expected, "{own:?}");
    }
}

#[test]
fn what_is_attached_counts_by_its_own_signature() {
    let key = Key::new();
    let registry = Registry::start();
    let mut hello = Repository::default();
    let manifest = image(&mut hello);
    let mut attached = Vec::new();
    for title in ["good.confext.raw", "bad.confext.raw"] {
        let layer = hello.file(OCI_TAR, title, title.as_bytes());
        attached.push(hello.attach(&manifest, &[layer], json!({"subject": manifest})));
    }
    for one in [&manifest, &attached[0]] {
        key.sign(&mut hello, Form::Bundle, &name(&registry), one);
    }
    registry.put("hello", hello);
    let service = verifying(&registry, &key).start();
    let expected = lines(&[
        (b"image", "hello.raw"),
        (b"good.confext.raw", "good.confext.raw"),
    ]);
    assert_eq!(service.listing_of("hello:v1"), expected);
    assert_eq!(service.get("/hello:v1/bad.confext.raw").status, 404);
    let page = service.get("/hello:v1/");
    let reason = format!("attached {}: it is not signed", digest(&attached[1]));
    assert!(page.text().contains(&reason), "{}", page.text());
}

/// A signature binds bytes and no tag.
#[test]
fn old_signed_bytes_do_not_become_new_by_their_tag() {
    for (noted, tag, require, is_listed) in [
        (Some("1.2.3"), "1.2.3", false, true),
        (Some("1.2.3"), "v1.2.3-x86-64", true, true),
        (Some("1.2.3"), "v99", false, false),
        (Some("1.2.3"), "latest", false, false),
        (None, "v99", false, true),
        (None, "v99", true, false),
    ] {
        let key = Key::new();
        let registry = Registry::start();
        let mut hello = Repository::default();
        let layer = hello.file(OCI_TAR, "hello.raw", b"image");
        let annotations = noted.map(|noted| json!({"org.opencontainers.image.version": noted}));
        let manifest = hello.artifact(&[layer], json!({"annotations": annotations}));
        hello.point(tag, &manifest);
        key.sign(&mut hello, Form::Bundle, &name(&registry), &manifest);
        registry.put("hello", hello);
        let require = format!("require-version = {require}\n");
        let service = verifying(&registry, &key).settings(&require).start();
        let listing = service.listing();
        let expected = match is_listed {
            true => line(b"image", &format!("hello-{tag}.raw")),
            false => empty_listing(),
        };
        assert_eq!(listing, expected, "{noted:?} as {tag}, {require}");
        // There the signed version names the file.
        let of_tag = service.listing_of(&format!("hello:{tag}"));
        assert_eq!(
            of_tag.contains("hello-1.2.3.raw"),
            noted.is_some(),
            "{of_tag}"
        );
    }
}

#[test]
fn a_threshold_needs_so_many_different_keys() {
    let keys = [Key::new(), Key::new(), Key::new()];
    for (signers, is_listed) in [
        (vec![0], false),
        (vec![0, 0], false),
        (vec![0, 2], true),
        (vec![2, 1, 0], true),
    ] {
        let registry = Registry::start();
        let mut hello = Repository::default();
        let manifest = image(&mut hello);
        for (n, signer) in signers.iter().enumerate() {
            let form = if n == 0 { Form::SigTag } else { Form::Bundle };
            keys[*signer].sign(&mut hello, form, &name(&registry), &manifest);
        }
        registry.put("hello", hello);
        let all: Vec<_> = keys.iter().collect();
        let service = with_keys(Setup::of(&registry), &all)
            .settings("threshold = 2\n")
            .start();
        match is_listed {
            true => assert_eq!(
                service.listing(),
                line(b"image", "hello-v1.raw"),
                "{signers:?}"
            ),
            false => assert_refused(
                &service,
                &registry,
                &manifest,
                "it is not signed by 2 of key /",
            ),
        }
    }
}

#[test]
fn a_layout_and_a_copy_are_signed_by_the_name_of_the_original() {
    let key = Key::new();
    for (identity, form, is_listed) in [
        (None, Form::Bundle, true),
        (None, Form::SigTag, false),
        (Some("ghcr.io/acme/hello"), Form::SigTag, true),
        (Some("ghcr.io/acme/other"), Form::SigTag, false),
    ] {
        let mut hello = Repository::default();
        let manifest = image(&mut hello);
        key.sign(&mut hello, form, "ghcr.io/acme/hello", &manifest);
        let folder = Folder::with_layout(&hello);
        let registry = Registry::with_hello(hello);
        let file = folder.file("acme.pub", &key.pem());
        let identity = identity.map_or(String::new(), |name| format!(", identity = \"{name}\""));
        let verify = format!("verify = [{{ key = {file:?}{identity} }}]\n");
        let of_registry = registry.settings() + "[repository.hello]\n";
        for settings in [folder.settings(), of_registry] {
            let service = Service::start(settings + &verify);
            let expected = if is_listed {
                line(b"image", "hello-v1.raw")
            } else {
                empty_listing()
            };
            assert_eq!(service.listing(), expected, "{form:?}{identity}");
        }
    }
}

#[test]
fn ten_thousand_attached_manifests_are_not_all_read() {
    let key = Key::new();
    let registry = Registry::start();
    let mut hello = Repository {
        has_referrers_api: true,
        ..Repository::default()
    };
    let manifest = image(&mut hello);
    for n in 0..10_000 {
        let bytes = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "layers": [], "subject": manifest, "annotations": {"n": format!("{n}")},
        });
        hello.manifest(bytes.to_string().as_bytes());
    }
    registry.put("hello", hello);
    let service = verifying(&registry, &key).start();
    assert_eq!(service.listing(), empty_listing());
    let requests = registry.take_requests();
    assert!(
        count(&requests, "/manifests/sha256:") <= 64,
        "{}",
        requests.len()
    );
    let page = service.get("/hello/");
    let reason = "of 10000 manifests that are attached only 64 were looked into";
    assert!(page.text().contains(reason), "{}", page.text());
}

#[test]
fn nothing_unsigned_is_redirected_to_or_made() {
    let key = Key::new();
    let registry = Registry::start();
    let mut hello = Repository::default();
    let manifest = image(&mut hello);
    registry.put("hello", hello.clone());
    let more = "blobs = \"redirect\"\n";
    let service = verifying(&registry, &key).settings(more).start();
    assert_refused(&service, &registry, &manifest, "it is not signed");
    drop(service);
    key.sign(&mut hello, Form::Bundle, &name(&registry), &manifest);
    registry.put("hello", hello);
    let service = verifying(&registry, &key).settings(more).start();
    assert_eq!(service.get("/hello/hello-v1.raw").status, 307);
}

#[test]
fn a_key_that_cannot_be_used_is_told_at_the_start() {
    let registry = Registry::start();
    let key = Key::new();
    let private = key.pem().replace("PUBLIC", "PRIVATE");
    for (pem, settings, reason) in [
        (
            None,
            "",
            "there is no such file (it is named by 'verify' of [repository.\"hello\"])",
        ),
        (
            Some(private),
            "",
            "this is a private key, expected the public one",
        ),
        (Some(String::new()), "", "0 public keys, expected one"),
        (
            Some(key.pem()),
            "threshold = 2\n",
            "threshold = 2 needs as many different signers, and 'verify' has 1",
        ),
    ] {
        let folder = Folder::new();
        let file = folder.path().join("acme.pub");
        if let Some(pem) = pem {
            fs::write(&file, pem).unwrap();
        }
        let verify = format!("[repository.hello]\nverify = [{{ key = {file:?} }}]\n");
        let output = Setup::of(&registry).settings(&(verify + settings)).output();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{text}");
        let named = text.contains(file.to_str().unwrap());
        assert!(
            named && text.contains(reason),
            "{text:?} does not say {reason:?}"
        );
    }
}

#[test]
fn side_files_are_made_of_signed_metadata_alone() {
    for (annotations, status) in [(json!({}), 404), (json!({"ID": "debian"}), 200)] {
        let key = Key::new();
        let registry = Registry::start();
        let mut hello = Repository::default();
        let layer = hello.file(OCI_TAR, "hello.raw", b"image");
        let manifest = hello.artifact(&[layer], json!({"annotations": annotations}));
        hello.point("v1", &manifest);
        key.sign(&mut hello, Form::Bundle, &name(&registry), &manifest);
        registry.put("hello", hello);
        let service = verifying(&registry, &key).start();
        assert_eq!(service.listing(), line(b"image", "hello-v1.raw"));
        registry.take_requests();
        assert_eq!(service.get("/hello/hello-v1.manifest.gz").status, status);
        assert_eq!(
            count(&registry.take_requests(), "/blobs/"),
            0,
            "{annotations}"
        );
        let sums = service.get("/hello/hello-v1.raw.sha256");
        assert_eq!(sums.text(), line(b"image", "hello-v1.raw"));
    }
}

#[test]
fn a_setting_about_signatures_is_told_where_nothing_asks_for_any() {
    let registry = Registry::with_hello(Repository::default());
    for (settings, reason) in [
        (
            "threshold = 2\n",
            "threshold counts the signers of 'verify'",
        ),
        (
            "require-version = true\n",
            "require-version is about signed versions",
        ),
    ] {
        let settings = format!("[repository.hello]\n{settings}");
        let output = Setup::of(&registry).settings(&settings).output();
        assert_eq!(output.status.code(), Some(78), "{settings}");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(
            told.contains(reason) && told.contains("verify = [{ key ="),
            "{told}"
        );
    }
}

#[test]
fn no_settings_no_signatures() {
    let (registry, listing) = Registry::with_versions(2);
    let service = Setup::of(&registry).settings(ANEW).start();
    assert_eq!(service.listing(), listing);
    std::thread::sleep(Duration::from_millis(1));
    let requests = registry.take_requests();
    let asked = count(&requests, "sha256-") + count(&requests, "/referrers/");
    assert_eq!(asked, 0, "{requests:?}");
}

/// Writes a policy with these requirements of `hello`, in which `KEY` is the file of the key.
pub fn with_policy(registry: &Registry, key: &Key, requirements: &str) -> Setup {
    let setup = Setup::of(registry).settings(ANEW);
    let file = setup.folder().join("acme.pub");
    fs::write(&file, key.pem()).unwrap();
    let requirements = requirements.replace("KEY", file.to_str().unwrap());
    let policy = format!(
        r#"{{"default": [{{"type": "insecureAcceptAnything"}}], "transports": {{"docker": {{"{}": [{requirements}]}}}}}}"#,
        name(registry)
    );
    let file = setup.folder().join("policy.json");
    fs::write(&file, policy).unwrap();
    setup.env("CONTAINERS_POLICY_JSON", file)
}

#[test]
fn the_policy_of_container_tools_counts_too() {
    let signed = r#"{"type": "sigstoreSigned", "keyPath": "KEY", "signedIdentity": {"type": "matchRepository"}}"#;
    let by_default = r#"{"type": "sigstoreSigned", "keyPath": "KEY"}"#;
    let gpg = r#"{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k.gpg"}"#;
    let any = r#"{"type": "insecureAcceptAnything"}"#;
    for (requirements, is_signed, refused) in [
        (any.to_owned(), false, None),
        (signed.to_owned(), true, None),
        (signed.to_owned(), false, Some("it is not signed; key /")),
        (format!("{signed}, {any}"), true, None),
        (by_default.to_owned(), true, Some("signedIdentity asks for")),
        (
            r#"{"type": "reject"}"#.to_owned(),
            true,
            Some("it is rejected"),
        ),
        (gpg.to_owned(), true, Some("a GPG signature is asked for")),
        (
            format!("{signed}, {gpg}"),
            true,
            Some("a GPG signature is asked for"),
        ),
    ] {
        let key = Key::new();
        let registry = Registry::start();
        let mut hello = Repository::default();
        let manifest = image(&mut hello);
        registry.put("other", hello.clone());
        if is_signed {
            key.sign(&mut hello, Form::Bundle, &name(&registry), &manifest);
        }
        registry.put("hello", hello);
        let service = with_policy(&registry, &key, &requirements).start();
        match refused {
            Some(reason) => assert_refused(&service, &registry, &manifest, reason),
            None => {
                for directory in ["hello", &name(&registry)] {
                    let listing = service.listing_of(directory);
                    assert_eq!(listing, line(b"image", "hello-v1.raw"), "{requirements}");
                }
            }
        }
        // The policy says nothing of others.
        assert_eq!(service.listing_of("other"), line(b"image", "other-v1.raw"));
        drop(service);
        let opted_out = "[repository.hello]\npolicy = \"none\"\n";
        let service = with_policy(&registry, &key, &requirements)
            .settings(opted_out)
            .start();
        assert_eq!(
            service.listing(),
            line(b"image", "hello-v1.raw"),
            "{requirements}"
        );
        let lines = service.log.lines();
        let told = lines
            .iter()
            .any(|line| line.contains("does not count for [repository.\"hello\"]"));
        assert_eq!(told, requirements != any, "{lines:?}");
    }
}

#[test]
fn policy_and_settings_must_both_hold() {
    let [of_policy, of_settings] = [Key::new(), Key::new()];
    let signed = r#"{"type": "sigstoreSigned", "keyPath": "KEY", "signedIdentity": {"type": "matchRepository"}}"#;
    for (signers, is_listed) in [
        (vec![&of_policy], false),
        (vec![&of_settings], false),
        (vec![&of_settings, &of_policy], true),
    ] {
        let registry = Registry::start();
        let mut hello = Repository::default();
        let manifest = image(&mut hello);
        for signer in signers {
            signer.sign(&mut hello, Form::SigTag, &name(&registry), &manifest);
        }
        registry.put("hello", hello);
        let service =
            with_keys(with_policy(&registry, &of_policy, signed), &[&of_settings]).start();
        match is_listed {
            true => assert_eq!(service.listing(), line(b"image", "hello-v1.raw")),
            false => assert_refused(&service, &registry, &manifest, "another key made it"),
        }
    }
}

#[test]
fn a_policy_that_cannot_be_read_is_told_at_the_start() {
    let registry = Registry::start();
    let folder = Folder::new();
    let broken = folder.file(
        "policy.json",
        r#"{"default": [{"type": "reject", "x": 1}]}"#,
    );
    for (path, reason) in [
        (broken, "unknown field `x`"),
        (folder.path().join("none.json"), "there is no such file"),
    ] {
        let output = Setup::of(&registry)
            .env("CONTAINERS_POLICY_JSON", &path)
            .output();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{text}");
        let named = text.contains(path.to_str().unwrap());
        assert!(
            named && text.contains(reason),
            "{text:?} does not say {reason:?}"
        );
    }
}

/// Repositories with the same source have separate requirements, though they share the cache; an address without
/// `verify` must meet the requirements of all of them.
#[test]
fn two_names_of_one_source_ask_for_signatures_of_their_own() {
    let [one, two] = [Key::new(), Key::new()];
    for (signers, expected) in [
        (vec![&one], ["one"].as_slice()),
        (vec![&two], &["two"]),
        (vec![&one, &two], &["one", "two", "plain", "hello"]),
        (vec![], &[]),
    ] {
        let registry = Registry::start();
        let mut hello = Repository::default();
        let manifest = image(&mut hello);
        for signer in &signers {
            signer.sign(&mut hello, Form::Bundle, &name(&registry), &manifest);
        }
        registry.put("hello", hello);
        let (cache, keys) = (Folder::new(), Folder::new());
        let mut settings = ANEW.to_owned() + "[repository.plain]\nsource = \"hello\"\n";
        for (name, key) in [("one", &one), ("two", &two)] {
            let file = keys.file(&format!("{name}.pub"), &key.pem());
            settings += &format!(
                "[repository.{name}]\nsource = \"hello\"\nverify = [{{ key = {file:?} }}]\n"
            );
        }
        let start = || {
            Setup::of(&registry)
                .settings(&settings)
                .cache(&cache)
                .start()
        };
        let names = ["one", "two", "plain", "hello"];
        // In both orders, and with the verdicts of the other one.
        for order in [names, ["hello", "plain", "two", "one"]] {
            let service = start();
            for directory in order {
                let found = service.listing_of(directory);
                let line = line(b"image", &format!("{directory}-v1.raw"));
                let is_listed = expected.contains(&directory);
                let why = format!("{directory}, {} signers", signers.len());
                assert_eq!(found == line, is_listed, "{why}: {found:?}");
                let status = service
                    .get(&format!("/{directory}/{directory}-v1.raw"))
                    .status;
                assert_eq!(status == 200, is_listed, "{why}: {status}");
            }
        }
    }
}

/// Files that were flattened before signatures were required are not sent any more.
#[test]
fn an_image_that_was_made_and_is_not_signed_is_not_sent() {
    let layers = [layer(&[("usr/a", b"a")]), layer(&[("usr/b", b"b")])];
    let registry = Registry::start();
    let mut hello = Repository::default();
    push(&mut hello, "v1", &[&layers[0], &layers[1]]);
    let manifest = json!({"mediaType": "", "size": 1, "digest": hello.tags["v1"]});
    registry.put("hello", hello.clone());
    let (cache, state, key) = (Folder::new(), Folder::new(), Key::new());
    let keep = |setup: Setup| setup.cache(&cache).state(&state).settings(X86);
    let service = keep(Setup::of(&registry)).start();
    let listing = service.listing();
    let made = service.whole("/hello/hello-v1.tar.gz");
    assert_eq!(listing, line(&made, "hello-v1.tar.gz"));
    drop(service);
    let asking = || {
        let verify = format!(
            "verify = [{{ key = {:?} }}]\n",
            state.file("acme.pub", &key.pem())
        );
        keep(Setup::of(&registry)).settings(&verify).start()
    };
    let service = asking();
    registry.take_requests();
    for directory in addresses(&registry, &manifest) {
        assert_eq!(
            service.listing_of(&directory),
            empty_listing(),
            "{directory}"
        );
        for file in ["hello-v1.tar.gz", "hello.tar.gz", "hello-v1.tar.gz.sha256"] {
            let status = service.get(&format!("/{directory}/{file}")).status;
            assert_eq!(status, 404, "{directory}/{file}");
        }
    }
    let requests = registry.take_requests();
    assert_eq!(count(&requests, "/blobs/"), 0, "{requests:?}");
    drop(service);
    key.sign(&mut hello, Form::Bundle, &name(&registry), &manifest);
    registry.put("hello", hello);
    let service = asking();
    assert_eq!(service.listing(), listing);
    assert_eq!(service.whole("/hello/hello-v1.tar.gz"), made);
}

/// A key counts by the bytes that its file had when the settings were read.
#[test]
fn a_key_that_is_replaced_counts_from_the_next_reload_on() {
    let [key, other] = [Key::new(), Key::new()];
    let registry = Registry::start();
    let mut hello = Repository::default();
    let manifest = image(&mut hello);
    let layer = hello.file(OCI_TAR, "large.raw", &[7; 4 << 20]);
    let large = hello.artifact(&[layer], json!({}));
    hello.point("large", &large);
    for one in [&manifest, &large] {
        key.sign(&mut hello, Form::Bundle, &name(&registry), one);
    }
    registry.put("hello", hello);
    let keys = Folder::new();
    let file = keys.file("acme.pub", &key.pem());
    let verify = format!("[repository.hello]\nverify = [{{ key = {file:?} }}]\n");
    let setup = Setup::of(&registry).settings(ANEW).own_cache();
    let service = setup.settings(&verify).start();
    let signed = line(b"image", "hello.raw");
    assert_eq!(service.listing_of("hello:v1"), signed);
    // The service stays as long as this client does.
    let slow = Fault::Drip(64 << 10, Duration::from_secs(1));
    registry.fault("/blobs/", slow);
    let mut client = Connection::open(service.address);
    client.ask("/hello:large/large.raw");
    keys.file("acme.pub", &other.pem());
    later();
    assert_eq!(service.listing_of("hello:v1"), signed, "not read again yet");
    send(&service, Signal::HUP);
    eventually("it reloads", || {
        !service.log.with(&["settings read again"]).is_empty()
    });
    assert_refused(&service, &registry, &manifest, "another key made it");
    keys.file("acme.pub", &key.pem());
    send(&service, Signal::HUP);
    eventually("it reloads", || {
        service.log.with(&["settings read again"]).len() == 2
    });
    assert_eq!(service.listing_of("hello:v1"), signed);
}

#[test]
fn the_log_says_by_which_key_a_file_was_accepted_and_why_a_version_was_not() {
    let key = Key::new();
    let registry = Registry::start();
    let mut hello = versions(2).0;
    let v1 = json!({"mediaType": "", "size": 1, "digest": hello.tags["v1"]});
    key.sign(&mut hello, Form::Bundle, &name(&registry), &v1);
    registry.put("hello", hello);
    let setup = verifying(&registry, &key);
    let file = setup.folder().join("0.pub").display().to_string();
    let service = setup.start();
    service.listing();
    assert_eq!(service.whole("/hello/hello-v1.raw"), b"image 1");
    let by = format!("verified by digest, key {file} (bundle)");
    let accepted = service.log.with(&["hello/hello-v1.raw", &by]);
    assert_eq!(accepted.len(), 1, "{:?}", service.log.lines());
    let why = format!("tag v0 skipped: it is not signed; key {file} must have signed it");
    assert_eq!(service.log.with(&[&why]).len(), 1);
}

#[test]
fn the_log_says_which_rule_of_which_file_asks_for_signatures() {
    let signed = r#"{"type": "sigstoreSigned", "keyPath": "KEY", "signedIdentity": {"type": "matchRepository"}}"#;
    let any = r#"{"type": "insecureAcceptAnything"}"#;
    for (requirements, is_told) in [(signed, true), (any, false)] {
        let registry = Registry::start();
        registry.put("hello", versions(1).0);
        let own = format!(
            "[repository.own]\nsource = \"hello\"\n[repository.other]\nsource = \"{}/other\"\n",
            registry.address
        );
        let setup = with_policy(&registry, &Key::new(), requirements).settings(&own);
        let policy = setup.folder().join("policy.json").display().to_string();
        let service = setup.start();
        service.listing();
        let rule = format!("docker:{} in {policy}", name(&registry));
        let told = service.log.lines().into_iter();
        let told = told.filter(|line| line.contains(&rule));
        let of = |text: &str| told.clone().any(|line| line.contains(text));
        let found = [
            of("[repository.\"own\"]"),
            of("tag v0 skipped"),
            of("other"),
        ];
        assert_eq!(
            found,
            [is_told, is_told, false],
            "{:?}",
            service.log.lines()
        );
    }
}

#[test]
fn more_signatures_in_a_manifest_than_are_read_are_told() {
    let [key, other] = [Key::new(), Key::new()];
    let registry = Registry::start();
    let mut hello = Repository::default();
    let manifest = image(&mut hello);
    for _ in 0..64 {
        other.sign(&mut hello, Form::SigTag, &name(&registry), &manifest);
    }
    key.sign(&mut hello, Form::SigTag, &name(&registry), &manifest);
    registry.put("hello", hello);
    let service = verifying(&registry, &key).start();
    let reason = "of 65 signatures in one manifest only 64 were looked into";
    assert_refused(&service, &registry, &manifest, reason);
}
