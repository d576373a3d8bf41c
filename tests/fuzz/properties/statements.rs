//! Statements and payloads as whoever has a key may sign them. Nothing in a signature is read before a key has verified
//! it, so the targets that begin with a signature come this far with cosign's own alone.

#![allow(
    clippy::unwrap_used,
    reason = "a property that does not hold is a panic"
)]

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::bundle::{self, Bundle, Signed};
use super::{Identity, Subject, simple};
use crate::digest::Digest;
use crate::fuzz::parts;
use crate::name::{RepositoryAddress, Tag};

const IN_TOTO: &str = "application/vnd.in-toto+json";

/// A statement, and behind separators perhaps the type and the signature of its DSSE envelope, whose JSON and base64
/// are always right.
pub fn envelopes(data: &[u8]) {
    let parts = parts(data);
    let payload = parts[0];
    let payload_type = parts.get(1).copied().unwrap_or(IN_TOTO.as_bytes());
    let payload_type = String::from_utf8_lossy(payload_type);
    let signature = parts.get(2).copied().unwrap_or(b"signature");
    let json = json!({
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": ""}},
        "dsseEnvelope": {
            "payload": BASE64_STANDARD.encode(payload),
            "payloadType": payload_type,
            "signatures": [{"sig": BASE64_STANDARD.encode(signature)}],
        },
    });
    let found = Bundle::parse(json.to_string().as_bytes());
    let expected = Bundle {
        signed: Signed::Statement {
            payload: payload.to_vec(),
            signature: signature.to_vec(),
        },
        certificates: Vec::new(),
    };
    assert_eq!(found.ok(), (payload_type == IN_TOTO).then_some(expected));
    assert_is_encoded(payload);
    let manifest = Digest::of(b"manifest");
    if bundle::check_statement(payload, manifest).is_ok() {
        assert_is_of(payload, manifest);
    }
}

/// DSSE's pre-authentication encoding, read back: <https://github.com/secure-systems-lab/dsse/blob/master/protocol.md>
fn assert_is_encoded(payload: &[u8]) {
    let signed = bundle::signed_bytes(payload);
    let length = payload.len().to_string();
    let mut fields = signed.splitn(5, |byte| *byte == b' ');
    for expected in ["DSSEv1", "28", IN_TOTO, &length] {
        assert_eq!(fields.next(), Some(expected.as_bytes()));
    }
    assert_eq!(fields.next(), Some(payload));
}

/// The JSON of what was accepted, if it can be read as a whole. What is ignored in it need not be UTF-8, its numbers
/// may be of any size, and its lists of any depth.
fn whole(json: &[u8]) -> Option<Value> {
    serde_json::from_str(&String::from_utf8_lossy(json)).ok()
}

fn assert_is_of(statement: &[u8], manifest: Digest) {
    let Some(json) = whole(statement) else {
        return;
    };
    assert_eq!(json["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(json["predicateType"], "https://sigstore.dev/cosign/sign/v1");
    let subjects = json["subject"].as_array().unwrap();
    let mut digests = subjects.iter().map(|one| &one["digest"]["sha256"]);
    assert!(digests.any(|found| *found == manifest.hex()), "{json}");
}

/// A reference with the plain spelling of its host and port.
fn plain(reference: &str) -> String {
    let Some((host, rest)) = reference.split_once('/') else {
        return reference.to_owned();
    };
    let host = host.to_ascii_lowercase();
    match host.split_once(':') {
        Some((name, port)) => format!("{name}:{}/{rest}", port.trim_start_matches('0')),
        None => format!("{host}/{rest}"),
    }
}

/// A payload that a key has signed: the manifest and the repository for which it is accepted are those that it names.
pub fn payload(json: &[u8], manifest: Digest) {
    let Ok(named) = simple::reference(json, manifest) else {
        return;
    };
    if let Some(json) = whole(json) {
        let critical = &json["critical"];
        assert_eq!(critical["type"], "cosign container image signature");
        let digest = &critical["image"]["docker-manifest-digest"];
        assert_eq!(*digest, manifest.to_string());
        assert_eq!(critical["identity"]["docker-reference"], named);
    }
    let repository: RepositoryAddress = "localhost:5000/hello".parse().unwrap();
    let tag: Tag = "v1".parse().unwrap();
    for tag in [None, Some(&tag)] {
        let subject = Subject {
            manifest,
            repository: Some(&repository),
            tag,
            now: jiff::Timestamp::UNIX_EPOCH,
        };
        let accepts = |identity: Identity| identity.check(Some(&named), &subject).is_ok();
        let named = plain(&named);
        let rest = named.strip_prefix("localhost:5000/hello");
        let is_same = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '@']));
        for identity in [Identity::Own { or: None }, Identity::Repository] {
            assert!(!accepts(identity) || is_same, "{named:?}");
        }
        let is_exact = match tag {
            Some(tag) => named == format!("{repository}:{tag}"),
            None => named == format!("{repository}@{manifest}"),
        };
        assert_eq!(accepts(Identity::Exact), is_exact, "{named:?}");
        let accepted = accepts(Identity::RepoDigestOrExact);
        assert!(!accepted || is_same, "{named:?}");
        assert!(accepted || !is_exact, "{named:?}");
    }
}
