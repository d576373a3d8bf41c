//! Signatures as anybody may attach them. Nobody has the keys of `tests/cosign`, so what is accepted is what cosign
//! signed with them.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use super::parts;
use crate::digest::Digest;
use crate::trust::fuzz::payload;
use crate::trust::{By, Key, Place, Signature, Subject};

/// The manifest that cosign signed, and with it what else it signed by these keys.
const MANIFEST: &[u8] = include_bytes!("../../cosign/manifest.json");
const KEYS: [(&[u8], &[u8], &[u8]); 3] = [
    (
        include_bytes!("../../cosign/p256.pub"),
        include_bytes!("../../cosign/p256.payload"),
        include_bytes!("../../cosign/p256.bundle.json"),
    ),
    (
        include_bytes!("../../cosign/p384.pub"),
        include_bytes!("../../cosign/p384.payload"),
        include_bytes!("../../cosign/p384.bundle.json"),
    ),
    (
        include_bytes!("../../cosign/rsa.pub"),
        include_bytes!("../../cosign/rsa.payload"),
        include_bytes!("../../cosign/rsa.bundle.json"),
    ),
];

/// The statement in a bundle, undecoded: base64 may be written in one way only.
fn statement(json: &[u8]) -> Option<Vec<u8>> {
    // Parts of it that are not read need not be UTF-8.
    let json: Value = serde_json::from_str(&String::from_utf8_lossy(json)).ok()?;
    let payload = json["dsseEnvelope"]["payload"].as_str()?;
    BASE64_STANDARD.decode(payload).ok()
}

/// A bundle, and behind a separator the manifest that it is attached to, if that is not the one that was signed.
pub fn bundles(data: &[u8]) {
    let parts = parts(data);
    let (json, manifest) = (parts[0], parts.get(1).copied().unwrap_or(MANIFEST));
    let signature = Signature::bundle(Place::Attached, json);
    for (key, _, signed) in KEYS {
        let key = By::Key(Key::parse("/k.pub", key).unwrap());
        let subject = Subject::bare(Digest::of(manifest));
        let bytes = signature.is_of_bytes().then_some(manifest);
        if signature.verify(&key, &subject, bytes).is_ok() {
            assert_eq!(manifest, MANIFEST, "another manifest was accepted");
            assert!(
                signature.is_of_bytes() || statement(json) == statement(signed),
                "a statement that cosign did not write was accepted"
            );
        }
    }
}

/// A payload, its signature in base64, and perhaps the manifest, as above.
pub fn payloads(data: &[u8]) {
    let parts = parts(data);
    let text = parts.get(1).copied().unwrap_or_default();
    let manifest = parts.get(2).copied().unwrap_or(MANIFEST);
    let text = String::from_utf8_lossy(text);
    payload(parts[0], Digest::of(manifest));
    let signature = Signature::simple(Place::SigTag, parts[0].to_vec(), text.trim_end());
    for (key, signed, _) in KEYS {
        let key = By::Key(Key::parse("/k.pub", key).unwrap());
        let subject = Subject::bare(Digest::of(manifest));
        if let Ok(verified) = signature.verify(&key, &subject, None) {
            assert_eq!(
                parts[0], signed,
                "a payload that cosign did not write was accepted"
            );
            assert_eq!(manifest, MANIFEST, "another manifest was accepted");
            assert_eq!(verified.reference.as_deref(), Some("localhost:5000/hello"));
        }
    }
}
