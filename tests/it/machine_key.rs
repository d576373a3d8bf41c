//! The key of this machine: which lists it signs, and what `key` says of it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::content::{OCI_TAR, Repository, empty_listing, line, sign, versions};
use crate::cosign::{Form, Key};
use crate::registry::Registry;
use crate::service::{ANEW, Folder, Service, Setup, command, later, output};
use crate::trust::{name, verifying};

const SIGN: &str = "sign = true\n";
const SIGNATURE: &str = "/hello/SHA256SUMS.gpg";

/// A registry with `hello:v1`, signed by this key.
fn signed() -> (Registry, Key) {
    let (registry, key) = (Registry::start(), Key::new());
    let mut hello = Repository::default();
    push(&mut hello, &key, &name(&registry), "v1", b"image 1");
    registry.put("hello", hello);
    (registry, key)
}

fn push(hello: &mut Repository, key: &Key, name: &str, tag: &str, image: &[u8]) {
    let layer = hello.file(OCI_TAR, "hello.raw", image);
    let manifest = hello.artifact(&[layer], json!({}));
    hello.point(tag, &manifest);
    key.sign(hello, Form::Bundle, name, &manifest);
}

/// The service with this state, whose settings begin with these lines.
fn start(setup: Setup, first: &str, state: &Folder) -> Service {
    setup.general(ANEW).general(first).state(state).start()
}

fn seed(state: &Folder) -> Vec<u8> {
    fs::read(state.path().join("signing.key")).unwrap()
}

/// Whether a detached signature is by the key of this seed over this list (RFC 9580, section 5.2.4).
fn fits(seed: &[u8], list: &[u8], signature: &[u8]) -> bool {
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).unwrap();
    let body = &signature[2..];
    assert_eq!(
        (signature[0], usize::from(signature[1])),
        (0x88, body.len())
    );
    assert_eq!(
        body[..4],
        [4, 0, 22, 8],
        "version 4, a file, EdDSA, SHA-256"
    );
    let hashed = 6 + usize::from(u16::from_be_bytes([body[4], body[5]]));
    let mut hash = Sha256::new();
    hash.update(list);
    hash.update(&body[..hashed]);
    hash.update([4, 0xff]);
    hash.update(u32::try_from(hashed).unwrap().to_be_bytes());
    let hash = hash.finalize();
    let unhashed = usize::from(u16::from_be_bytes([body[hashed], body[hashed + 1]]));
    let mut rest = &body[hashed + 2 + unhashed..];
    if rest[..2] != hash[..2] {
        return false;
    }
    rest = &rest[2..];
    let mut numbers = Vec::new();
    for _ in 0..2 {
        let length = usize::from(u16::from_be_bytes([rest[0], rest[1]])).div_ceil(8);
        numbers.extend([vec![0; 32 - length], rest[2..2 + length].to_vec()].concat());
        rest = &rest[2 + length..];
    }
    let public = UnparsedPublicKey::new(&ED25519, pair.public_key());
    public.verify(&hash, &numbers).is_ok()
}

/// Who signed the list, by the JSON of its directory.
fn signer(service: &Service, directory: &str) -> Value {
    let path = format!("/{directory}/");
    let response = service.request("GET", &path, &["Accept: application/json"]);
    let json: Value = serde_json::from_str(response.text()).unwrap();
    json["signed"].clone()
}

/// The status of the signature of a directory.
fn status(service: &Service, directory: &str) -> u16 {
    service.get(&format!("/{directory}/SHA256SUMS.gpg")).status
}

#[test]
fn a_verified_list_is_signed_in_one_form() {
    let (registry, key) = signed();
    let state = Folder::new();
    let service = start(verifying(&registry, &key), SIGN, &state);
    let list = service.listing();
    assert_eq!(list, line(b"image 1", "hello-v1.raw"));
    let signature = service.whole(SIGNATURE);
    let seed = seed(&state);
    assert!(fits(&seed, list.as_bytes(), &signature));
    assert!(!fits(&seed, b"another list", &signature));
    let mode = fs::metadata(state.path().join("signing.key")).unwrap();
    assert_eq!(mode.permissions().mode() & 0o7777, 0o600);
    for other in [
        "SHA256SUMS.asc",
        "SHA256SUMS.sha256.asc",
        "SHA256SUMS.sha256.gpg",
        "hello-v1.raw.sha256",
    ] {
        assert_eq!(
            service.get(&format!("/hello/{other}")).status,
            404,
            "{other}"
        );
    }
    for directory in ["hello", "hello:v1", "hello+all"] {
        let list = service.listing_of(directory);
        let signature = service.whole(&format!("/{directory}/SHA256SUMS.gpg"));
        assert!(fits(&seed, list.as_bytes(), &signature), "{directory}");
        assert_eq!(signer(&service, directory), "machine", "{directory}");
    }
    assert_eq!(service.request("HEAD", SIGNATURE, &[]).status, 200);
    let told = service
        .log
        .with(&["listed in", "signed with the key of this machine, "]);
    assert!(!told.is_empty(), "{:?}", service.log.lines());
    // The next process has the same key.
    drop(service);
    let service = start(verifying(&registry, &key), SIGN, &state);
    let signature = service.whole(SIGNATURE);
    assert!(fits(&seed, service.listing().as_bytes(), &signature));
}

#[test]
fn only_a_list_whose_every_file_is_verified_is_signed() {
    let (registry, key) = signed();
    registry.put("open", versions(1).0);
    let of_hello = |more: &str| verifying(&registry, &key).settings(more);
    let policy = |requirement: &str, setup: Setup| {
        let file = setup.folder().join("policy.json");
        let text = format!("{{\"default\": [{{\"type\": \"{requirement}\"}}]}}");
        fs::write(&file, text).unwrap();
        setup.env("CONTAINERS_POLICY_JSON", file)
    };
    let both = "[repository.both]\nsource = [\"hello\", \"open\"]\n";
    for (why, setup, first, directory, expected) in [
        ("it is verified", of_hello(""), SIGN, "hello", true),
        ("it is set for it alone", of_hello(SIGN), "", "hello", true),
        ("it is not set", of_hello(""), "", "hello", false),
        (
            "it is not set for it",
            of_hello("sign = false\n"),
            SIGN,
            "hello",
            false,
        ),
        ("nothing is required", of_hello(""), SIGN, "open", false),
        (
            "nothing is required of one source",
            of_hello(both),
            SIGN,
            "both",
            false,
        ),
        (
            "anything is accepted",
            policy("insecureAcceptAnything", Setup::of(&registry)),
            SIGN,
            "open",
            false,
        ),
        (
            "there is no file that could be wrong",
            policy("reject", Setup::of(&registry)),
            SIGN,
            "open",
            true,
        ),
    ] {
        let state = Folder::new();
        let service = start(setup, first, &state);
        let list = service.listing_of(directory);
        assert_eq!(status(&service, directory) == 200, expected, "{why}");
        let by = signer(&service, directory);
        assert_eq!(by == "machine", expected, "{why}: {by}");
        let response = service.get(&format!("/{directory}/SHA256SUMS.gpg"));
        let told = response.header("x-reason").unwrap_or_default();
        let is_set = why != "it is not set" && !why.starts_with("it is not set for");
        let is_told = told.contains("this machine signs only lists whose every file is verified");
        assert_eq!(is_told, is_set && !expected, "{why}: {told}");
        if expected {
            let signature = service.whole(&format!("/{directory}/SHA256SUMS.gpg"));
            assert!(fits(&seed(&state), list.as_bytes(), &signature), "{why}");
        }
        let has_seed = state.path().join("signing.key").exists();
        assert_eq!(has_seed, !first.is_empty() || expected, "{why}");
    }
}

#[test]
fn an_empty_list_is_signed_and_stays_the_same_for_its_signature() {
    let (registry, key) = (Registry::start(), Key::new());
    let mut hello = versions(1).0;
    hello.tags.retain(|tag, _| tag == "v0");
    registry.put("hello", hello);
    let state = Folder::new();
    let service = start(verifying(&registry, &key), SIGN, &state);
    let list = service.listing();
    assert_eq!(list, empty_listing());
    assert!(fits(
        &seed(&state),
        list.as_bytes(),
        &service.whole(SIGNATURE)
    ));
}

#[test]
fn a_list_of_its_publisher_keeps_their_signature() {
    let (registry, key) = (Registry::start(), Key::new());
    let list = line(b"image 1", "hello-1.raw");
    for (signatures, expected) in [
        (
            &[("SHA256SUMS.gpg", &b"theirs"[..])][..],
            Some(&b"theirs"[..]),
        ),
        (&[("SHA256SUMS.asc", b"theirs")], None),
        (&[], Some(b"")),
    ] {
        let mut hello = Repository::default();
        sign(&mut hello, list.as_bytes(), signatures, &[b"image 1"]);
        let manifest = hello.tags["SHA256SUMS"].clone();
        let subject = json!({
            "mediaType": crate::content::OCI_MANIFEST,
            "digest": manifest,
            "size": hello.manifests[&manifest].bytes.len(),
        });
        key.sign(&mut hello, Form::Bundle, &name(&registry), &subject);
        registry.put("hello", hello);
        let state = Folder::new();
        let service = start(verifying(&registry, &key), SIGN, &state);
        assert_eq!(service.listing(), list);
        match expected {
            None => assert_eq!(status(&service, "hello"), 404),
            Some(b"") => {
                assert!(fits(
                    &seed(&state),
                    list.as_bytes(),
                    &service.whole(SIGNATURE)
                ));
                assert_eq!(signer(&service, "hello"), "machine");
            }
            Some(theirs) => {
                assert_eq!(service.whole(SIGNATURE), theirs);
                assert_eq!(signer(&service, "hello"), "publisher");
            }
        }
    }
}

#[test]
fn list_and_signature_are_of_one_snapshot_though_a_version_comes_in_between() {
    let (registry, key) = signed();
    let state = Folder::new();
    let service = start(verifying(&registry, &key), SIGN, &state);
    let name = name(&registry);
    let mut list = service.listing();
    for n in 2..6 {
        let image = format!("image {n}");
        registry.change(|hello| push(hello, &key, &name, &format!("v{n}"), image.as_bytes()));
        later();
        let signature = service.whole(SIGNATURE);
        assert!(
            fits(&seed(&state), list.as_bytes(), &signature),
            "version {n}"
        );
        later();
        let next = service.listing();
        assert_ne!(next, list);
        list = next;
    }
}

#[test]
fn without_a_seed_there_is_no_signature_and_the_reason_says_what_to_do() {
    let (registry, key) = signed();
    let (damaged, file) = (Folder::new(), Folder::new());
    damaged.file("signing.key", "short");
    let path = damaged.path().join("signing.key");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let missing = file.file("state", "").join("below");
    for (why, state, expected) in [
        (
            "damaged",
            damaged.path(),
            "expected 32 bytes, found 5; restore it, or remove it",
        ),
        ("missing", &missing, "needs a state directory"),
    ] {
        let setup = verifying(&registry, &key).env("STATE_DIRECTORY", state);
        let service = setup.general(SIGN).start();
        assert_eq!(service.listing(), line(b"image 1", "hello-v1.raw"), "{why}");
        let response = service.get(SIGNATURE);
        let reason = response.header("x-reason").unwrap_or_default();
        assert_eq!(
            (response.status, reason.contains(expected)),
            (500, true),
            "{why}: {reason}"
        );
        assert_eq!(signer(&service, "hello"), Value::Null, "{why}");
        let told = service
            .log
            .with(&["no list is signed with the key of this machine: ", expected]);
        assert_eq!(told.len(), 1, "{why}: {:?}", service.log.lines());
        service.log.trouble();
    }
    assert_eq!(fs::read(&path).unwrap(), b"short");
}

#[test]
fn two_services_at_once_have_one_key() {
    let (registry, key) = signed();
    let state = Folder::new();
    let [one, two] = [0, 1].map(|_| start(verifying(&registry, &key), SIGN, &state));
    for service in [one, two] {
        let list = service.listing();
        assert!(fits(
            &seed(&state),
            list.as_bytes(),
            &service.whole(SIGNATURE)
        ));
    }
}

#[test]
fn the_seed_may_be_a_credential() {
    let (registry, key) = signed();
    let (state, credentials) = (Folder::new(), Folder::new());
    let seed = "0123456789abcdef0123456789abcdef";
    credentials.file("sysext-oci-proxy.signing-key", seed);
    let setup = || verifying(&registry, &key).env("CREDENTIALS_DIRECTORY", credentials.path());
    let service = start(setup(), SIGN, &state);
    let list = service.listing();
    assert!(fits(
        seed.as_bytes(),
        list.as_bytes(),
        &service.whole(SIGNATURE)
    ));
    assert!(!state.path().join("signing.key").exists());
    let public = state.path().join("signing.pub");
    assert!(public.exists(), "for root");
    drop(service);
    credentials.file("sysext-oci-proxy.signing-key", "short");
    let service = start(setup(), SIGN, &state);
    assert_eq!(status(&service, "hello"), 500);
    service.log.trouble();
    drop(service);
    fs::remove_file(credentials.path().join("sysext-oci-proxy.signing-key")).unwrap();
    let service = start(setup(), SIGN, &state);
    assert_eq!(status(&service, "hello"), 200);
    assert!(state.path().join("signing.key").exists() && !public.exists());
}

/// The exit status, standard output and standard error of `key`.
fn key_command(state: &Path, more: &[&str]) -> (Option<i32>, Vec<u8>, String) {
    let mut command = command(&[&["key"], more].concat());
    command.env("STATE_DIRECTORY", state);
    let ended = output(command);
    let said = String::from_utf8(ended.stderr).unwrap();
    (ended.status.code(), ended.stdout, said)
}

#[test]
fn the_public_key_is_told_to_root_when_there_is_one() {
    let (registry, key) = signed();
    let state = Folder::new();
    let before = key_command(state.path(), &[]);
    if fs::metadata(state.path()).unwrap().uid() != 0 {
        assert_eq!((before.0, before.2.contains("only root")), (Some(69), true));
        return;
    }
    for more in [&[][..], &["--install"]] {
        let (status, out, said) = key_command(state.path(), more);
        assert_eq!((status, out.len()), (Some(69), 0), "{said}");
        assert!(
            said.contains("there is no key in") && said.contains("sign = true"),
            "{said}"
        );
    }
    let service = start(verifying(&registry, &key), SIGN, &state);
    let list = service.listing();
    let signature = service.whole(SIGNATURE);
    let (status, public, said) = key_command(state.path(), &[]);
    assert_eq!((status, said.as_str()), (Some(0), ""));
    assert!(public.starts_with(b"-----BEGIN PGP PUBLIC KEY BLOCK-----\nComment: "));
    gpgv_accepts(&public, list.as_bytes(), &signature);
}

/// gpgv's word, where it is installed, by the clock as it is.
fn gpgv_accepts(public: &[u8], list: &[u8], signature: &[u8]) {
    let folder = Folder::new();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("list"), list).unwrap();
    fs::write(path("signature"), signature).unwrap();
    let dearmor = Command::new("gpg")
        .args(["--batch", "--dearmor"])
        .env("GNUPGHOME", folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut dearmor) = dearmor else { return };
    dearmor.stdin.take().unwrap().write_all(public).unwrap();
    let keyring = dearmor.wait_with_output().unwrap();
    assert!(keyring.status.success());
    fs::write(path("keyring"), keyring.stdout).unwrap();
    let verify = |list: &str| {
        let mut gpgv = Command::new("gpgv");
        gpgv.arg("--keyring").arg(path("keyring"));
        gpgv.arg(path("signature")).arg(path(list));
        output(gpgv)
    };
    let found = verify("list");
    let said = String::from_utf8_lossy(&found.stderr);
    assert!(
        found.status.success() && said.contains("Good signature"),
        "{said}"
    );
    fs::write(path("other"), [list, b"x"].concat()).unwrap();
    assert!(!verify("other").status.success());
}
