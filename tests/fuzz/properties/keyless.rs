//! Signatures without a key, trusted roots and certificates, as anybody may write them. Nobody has the keys of sigstore's services
//! or of the authorities in `tests/container-libs`, so what is accepted is what was signed by them.

#![allow(
    clippy::unwrap_used,
    reason = "a property that does not hold is a panic"
)]

use std::path::Path;
use std::sync::LazyLock;

use serde_json::Value;
use sigstore_verify::trust_root::SIGSTORE_PRODUCTION_TRUSTED_ROOT;

use super::super::bundle::{Bundle, Signed};
use super::super::{By, Place, Signature, Subject as Manifest};
use super::{Artifact, Authority, Keyless, Proof, Subject, TrustedRoot, certificate};
use crate::digest::Digest;
use crate::fuzz::parts;
use crate::manifest::Annotations;

/// The file that the bundles of the conformance suite are of, and who signed it.
const FILE: &[u8] =
    b"DO NOT MODIFY ME!\n\nthis is \"a.txt\", a sample input for sigstore-conformance's test suite.\n\nDO NOT MODIFY ME!\n";
const BUNDLE: &[u8] = include_bytes!("../corpus/keyless_bundles/v0_3");
const SIGNERS: [&str; 2] = [
    "https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon/.github/workflows/extremely-dangerous-oidc-beacon.yml@refs/heads/main",
    "https://github.com/sigstore/sigstore-conformance/.github/workflows/conformance.yml@refs/heads/main",
];

static PUBLIC: LazyLock<TrustedRoot> = LazyLock::new(|| {
    let json = SIGSTORE_PRODUCTION_TRUSTED_ROOT.as_bytes();
    TrustedRoot::parse(Path::new("/root.json"), json).unwrap()
});

/// A trusted root: what it accepts was signed by services in it.
pub fn trusted_roots(data: &[u8]) {
    let path = Path::new("/root.json");
    let Ok(root) = TrustedRoot::parse(path, data) else {
        return;
    };
    assert_eq!(TrustedRoot::parse(path, data).unwrap().ends(), root.ends());
    if root.signer(BUNDLE, Artifact::Bytes(FILE)).is_ok() {
        let json: Value = serde_json::from_slice(data).unwrap();
        let real: Value = serde_json::from_str(SIGSTORE_PRODUCTION_TRUSTED_ROOT).unwrap();
        let keys = |json: &Value, kind: &str| -> Vec<Value> {
            let logs = json[kind].as_array().unwrap().iter();
            logs.map(|log| log["publicKey"]["rawBytes"].clone())
                .collect()
        };
        for kind in ["tlogs", "ctlogs"] {
            let real = keys(&real, kind);
            assert!(keys(&json, kind).iter().any(|key| real.contains(key)));
        }
    }
}

/// A bundle, by the public services: accepted is what the suite signed, for its file.
pub fn keyless_bundles(data: &[u8]) {
    let Ok(bundle) = Bundle::parse(data) else {
        return;
    };
    let other = Digest::of(b"another file");
    let (found, of_other) = match &bundle.signed {
        Signed::Statement { payload, .. } => {
            let verify = |digest| PUBLIC.signer(data, Artifact::Statement(digest, payload));
            (verify(Digest::of(FILE)), verify(other))
        }
        Signed::Manifest { .. } => (
            PUBLIC.signer(data, Artifact::Bytes(FILE)),
            PUBLIC.signer(data, Artifact::Bytes(b"another file")),
        ),
    };
    assert!(of_other.is_err(), "{of_other:?}");
    if let Ok(who) = found {
        assert!(SIGNERS.contains(&who.subject.as_str()), "{who}");
        let expected = Keyless {
            root: TrustedRoot::of_log(&[]).unwrap().into(),
            issuer: "https://token.actions.githubusercontent.com".to_owned(),
            subject: Subject::Exact(who.subject.clone()),
        };
        assert_eq!(expected.check(&who), Ok(()));
    }
}

/// A certificate: its names are read in one way, and an authority takes it only if it made it.
pub fn certificates(data: &[u8]) {
    let who = certificate::who(data);
    assert_eq!(who, certificate::who(data));
    if let Ok(who) = &who {
        let is_email = who.emails.contains(&who.subject);
        assert!(is_email || !who.subject.contains('\0') || who.emails.is_empty());
    }
    let roots = include_bytes!("../../container-libs/pki_root_crts.pem");
    let between = include_bytes!("../../container-libs/pki_intermediate_crts.pem");
    let email = "qiwan@redhat.com";
    let authority = Authority::parse("/ca.pem", roots, between, Some(email), None).unwrap();
    let now = "2026-11-30T00:00:00Z".parse().unwrap();
    if authority.key_of(&[data.to_vec()], now).is_ok() {
        assert!(who.unwrap().emails.contains(&email.to_owned()));
        assert_eq!(data, include_bytes!("../corpus/certificates/authority"));
    }
}

/// A payload, its signature in base64, and its annotations in JSON, by Fulcio and Rekor.
pub fn proofs(data: &[u8]) {
    const REAL: &[u8] = include_bytes!("../corpus/proofs/fulcio");
    static FULCIO: LazyLock<Keyless> = LazyLock::new(|| {
        let certificate = include_bytes!("../../container-libs/fulcio_v1.crt.pem");
        let log = include_bytes!("../../container-libs/rekor.pub");
        let logs = [("/rekor.pub".to_owned(), log.to_vec())];
        Keyless {
            root: TrustedRoot::of_fulcio("/ca.pem", certificate, &logs)
                .unwrap()
                .into(),
            issuer: "https://github.com/login/oauth".to_owned(),
            subject: Subject::Email("mitr@redhat.com".to_owned()),
        }
    });
    let [payload, signature, annotations] = parts(data)[..] else {
        return;
    };
    let Ok(annotations) = serde_json::from_slice::<Annotations>(annotations) else {
        return;
    };
    let signature = String::from_utf8_lossy(signature);
    let proof = Proof::of(&annotations);
    if let Ok(bundle) = proof.bundle(payload, b"signature", false) {
        // It is a bundle of this payload.
        assert!(Bundle::parse(&bundle).is_ok() || proof.certificates().is_ok());
    }
    let found = Signature::simple(Place::SigTag, payload.to_vec(), &signature);
    let found = found.proved_by(&annotations);
    let manifest = Manifest::bare(Digest::of(b"manifest"));
    // The payload of cosign is of another manifest.
    let verified = found.verify(&By::Keyless(FULCIO.clone()), &manifest, None);
    let why = verified.unwrap_err();
    if why.contains("it is of another manifest") {
        assert_eq!(payload, parts(REAL)[0]);
    }
}
