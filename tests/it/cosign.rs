//! A publisher who signs as cosign does.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::{KeyPair, SigningKey};
use serde_json::{Value, json};

use crate::content::{OCI_MANIFEST, Repository};

const SIMPLE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// Length in base64 of a signature by ECDSA with P-256, which has 70 to 72 bytes and sometimes fewer.
const LENGTH: usize = 96;
/// The predicate of a signature.
pub const SIGN: &str = "https://sigstore.dev/cosign/sign/v1";

/// How a signature lies in a registry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    /// As cosign 2 writes it.
    SigTag,
    /// The same, attached: `--registry-referrers-mode=oci-1-1`.
    Attached,
    /// As cosign 3 writes it.
    Bundle,
}

pub const FORMS: [Form; 3] = [Form::SigTag, Form::Attached, Form::Bundle];

/// A key pair (P-256).
pub struct Key(KeyPair);

impl Key {
    pub fn new() -> Self {
        Key(KeyPair::generate().unwrap())
    }

    /// The public key, as `cosign public-key` prints it.
    pub fn pem(&self) -> String {
        self.0.public_key_pem()
    }

    /// A signature in base64. All have one length: of those that are shorter, one of some sixty, another one is made.
    pub fn sign_bytes(&self, message: &[u8]) -> String {
        loop {
            let signature = BASE64_STANDARD.encode(self.0.sign(message).unwrap());
            if signature.len() == LENGTH {
                return signature;
            }
        }
    }

    /// Signs a manifest of a repository, which is called `name`.
    pub fn sign(&self, hello: &mut Repository, form: Form, name: &str, subject: &Value) {
        match form {
            Form::Bundle => {
                let bundle = self.bundle(subject["digest"].as_str().unwrap(), SIGN);
                attach_bundle(hello, subject, &bundle.to_string());
            }
            Form::SigTag | Form::Attached => {
                let payload = payload(name, subject["digest"].as_str().unwrap());
                attach_payload(
                    hello,
                    form,
                    subject,
                    &payload,
                    &self.sign_bytes(payload.as_bytes()),
                );
            }
        }
    }

    /// A bundle with a statement about a manifest.
    pub fn bundle(&self, manifest: &str, predicate: &str) -> Value {
        let statement = statement(manifest, predicate);
        json!({
            "mediaType": BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": ""}},
            "dsseEnvelope": {
                "payload": BASE64_STANDARD.encode(&statement),
                "payloadType": "application/vnd.in-toto+json",
                "signatures": [{"sig": self.sign_bytes(&signed_of(&statement))}],
            },
        })
    }
}

/// A statement about a manifest, as bundles have it.
pub fn statement(manifest: &str, predicate: &str) -> String {
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"digest": {"sha256": manifest.trim_start_matches("sha256:")}, "annotations": {}}],
        "predicateType": predicate,
        "predicate": {},
    })
    .to_string()
}

/// The bytes that a signature of a statement is over.
pub fn signed_of(statement: &str) -> Vec<u8> {
    let length = statement.len();
    format!("DSSEv1 28 application/vnd.in-toto+json {length} {statement}").into_bytes()
}

/// The payload of a simple signature of a manifest.
pub fn payload(name: &str, manifest: &str) -> String {
    json!({
        "critical": {
            "identity": {"docker-reference": name},
            "image": {"docker-manifest-digest": manifest},
            "type": "cosign container image signature",
        },
        "optional": null,
    })
    .to_string()
}

/// Attaches a bundle.
pub fn attach_bundle(hello: &mut Repository, subject: &Value, bundle: &str) {
    let layer = hello.blob(BUNDLE, bundle.as_bytes());
    hello.attach(
        subject,
        &[layer],
        json!({"artifactType": BUNDLE, "subject": subject}),
    );
}

/// Adds a payload with its signature, where the form wants it.
pub fn attach_payload(
    hello: &mut Repository,
    form: Form,
    subject: &Value,
    payload: &str,
    signature: &str,
) {
    attach_annotated(hello, form, subject, payload, json!({SIGNATURE: signature}));
}

/// The same with these annotations.
pub fn attach_annotated(
    hello: &mut Repository,
    form: Form,
    subject: &Value,
    payload: &str,
    annotations: Value,
) {
    let mut layer = hello.blob(SIMPLE, payload.as_bytes());
    layer["annotations"] = annotations;
    if form == Form::Attached {
        let artifact_type = "application/vnd.dev.cosign.artifact.sig.v1+json";
        hello.attach(
            subject,
            &[layer],
            json!({"artifactType": artifact_type, "subject": subject}),
        );
        return;
    }
    let tag = format!(
        "{}.sig",
        subject["digest"].as_str().unwrap().replace(':', "-")
    );
    let before = hello.tags.get(&tag).map(|digest| {
        let manifest: Value = serde_json::from_slice(&hello.manifests[digest].bytes).unwrap();
        manifest["layers"].as_array().unwrap().clone()
    });
    let mut layers = before.unwrap_or_default();
    layers.push(layer);
    let config = hello.blob("application/vnd.oci.image.config.v1+json", b"{\"os\":\"\"}");
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers,
    });
    hello.tag(&tag, manifest.to_string().as_bytes());
}
