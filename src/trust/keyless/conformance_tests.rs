//! The bundles of sigstore's own conformance suite: see `tests/sigstore-conformance/README.md`.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use sigstore_verify::trust_root::SIGSTORE_PRODUCTION_TRUSTED_ROOT;

use super::super::bundle::{Bundle, Signed};
use super::super::{By, Key, Place, Signature, Subject as Manifest};
use super::{Artifact, Keyless, Subject, TrustedRoot};
use crate::digest::Digest;

/// By `test/client.py` there.
const SUBJECT: &str = "https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon/.github/workflows/extremely-dangerous-oidc-beacon.yml@refs/heads/main";
const ISSUER: &str = "https://token.actions.githubusercontent.com";

/// The files of each directory; those above them have no name.
fn directories() -> BTreeMap<String, BTreeMap<String, Vec<u8>>> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/sigstore-conformance/bundle-verify.tar.zst"
    );
    let packed = std::fs::File::open(path).unwrap();
    let mut archive = tar::Archive::new(zstd::Decoder::new(packed).unwrap());
    let mut found: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let (directory, file) = name.split_once('/').unwrap_or(("", &name));
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let files = found.entry(directory.to_owned()).or_default();
        files.insert(file.to_owned(), bytes);
    }
    found
}

/// As the service verifies it: the digest decides for a statement, the bytes for everything else.
fn verify(files: &BTreeMap<String, Vec<u8>>, artifact: &[u8]) -> Result<(), String> {
    let text = |name: &str, default: &str| {
        let file = files
            .get(name)
            .map(|file| std::str::from_utf8(file).unwrap());
        file.unwrap_or(default).trim().to_owned()
    };
    let json = &files["bundle.sigstore.json"];
    if let Some(pem) = files.get("key.pub") {
        let key = Key::parse("key.pub", pem).unwrap();
        let subject = Manifest::bare(Digest::of(artifact));
        let signature = Signature::bundle(Place::Attached, json);
        let verified = signature.verify(&By::Key(key), &subject, Some(artifact));
        return verified.map(drop);
    }
    let root = text("trusted_root.json", SIGSTORE_PRODUCTION_TRUSTED_ROOT);
    let root = TrustedRoot::parse(Path::new("trusted_root.json"), root.as_bytes())?;
    let bundle = Bundle::parse(json)?;
    let who = match &bundle.signed {
        Signed::Statement { payload, .. } => {
            let artifact = Artifact::Statement(Digest::of(artifact), payload);
            root.signer(json, artifact)
        }
        Signed::Manifest { .. } => root.signer(json, Artifact::Bytes(artifact)),
    }?;
    let keyless = Keyless {
        root: root.into(),
        issuer: text("issuer", ISSUER),
        subject: Subject::Exact(text("identity", SUBJECT)),
    };
    keyless.check(&who)
}

#[test]
fn each_bundle_of_the_conformance_suite_is_accepted_or_refused_as_it_says() {
    let mut directories = directories();
    let shared = directories.remove("").unwrap();
    assert_eq!(directories.len(), 70);
    let mut wrong = Vec::new();
    for (name, files) in &directories {
        let artifact = files.get("artifact").unwrap_or(&shared["a.txt"]);
        let found = verify(files, artifact);
        println!("{name}: {found:?}");
        if found.is_ok() == name.ends_with("_fail") {
            wrong.push((name, found));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// No test of the suite changes what proves nothing.
#[test]
fn the_same_bundles_are_refused_for_another_artifact_signer_or_issuer() {
    let mut directories = directories();
    let shared = directories.remove("").unwrap();
    let mut tried = 0;
    for (name, files) in &directories {
        if name.ends_with("_fail") || files.contains_key("key.pub") {
            continue;
        }
        tried += 1;
        let artifact = files.get("artifact").unwrap_or(&shared["a.txt"]);
        let another = [&artifact[..], b" "].concat();
        assert!(verify(files, &another).is_err(), "{name}: another artifact");
        for file in ["identity", "issuer"] {
            let mut files = files.clone();
            files.insert(file.to_owned(), b"https://example.com".to_vec());
            let why = verify(&files, artifact).unwrap_err();
            assert!(
                why.contains("expected") && why.contains(SUBJECT),
                "{name}: {why}"
            );
        }
    }
    assert!(tried > 10, "{tried}");
}
