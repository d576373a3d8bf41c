//! The sigstore bundle, which cosign attaches to a manifest since version 3.
//!
//! <https://github.com/sigstore/protobuf-specs/blob/main/protos/sigstore_bundle.proto>. The envelope is DSSE:
//! <https://github.com/secure-systems-lab/dsse/blob/master/protocol.md>; the statement in it is in-toto's:
//! <https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md>.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::digest::Digest;

/// The media type of a bundle without its version, which stands behind it in two ways.
pub const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle";
/// The type of a statement.
const IN_TOTO: &str = "application/vnd.in-toto+json";
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
/// The predicate of a signature. Any other makes the statement an attestation, which anybody in the publisher's
/// pipeline may write about anything; `cosign verify` takes those for signatures, too.
const SIGNATURE: &str = "https://sigstore.dev/cosign/sign/v1";

/// A bundle, unverified.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundle {
    pub signed: Signed,
    /// The certificate of a keyless signer in DER form, followed by those of its CAs; empty if it has none.
    pub certificates: Vec<Vec<u8>>,
}

/// The part of a bundle that is signed.
#[derive(Clone, Debug, PartialEq)]
pub enum Signed {
    /// A statement in an envelope, as `cosign sign` writes it.
    Statement {
        payload: Vec<u8>,
        signature: Vec<u8>,
    },
    /// The manifest itself, as `cosign sign-blob` writes it.
    Manifest { signature: Vec<u8> },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    media_type: String,
    verification_material: Material,
    dsse_envelope: Option<Envelope>,
    message_signature: Option<Message>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Material {
    /// A hint of the key. It decides nothing.
    public_key: Option<IgnoredAny>,
    certificate: Option<Certificate>,
    x509_certificate_chain: Option<Chain>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Certificate {
    raw_bytes: String,
}

#[derive(Deserialize)]
struct Chain {
    certificates: Vec<Certificate>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Deserialize)]
struct EnvelopeSignature {
    sig: String,
}

#[derive(Deserialize)]
struct Message {
    signature: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    #[serde(rename = "_type")]
    version: String,
    subject: Vec<Subject>,
    predicate_type: String,
}

#[derive(Deserialize)]
struct Subject {
    digest: BTreeMap<String, String>,
}

impl Bundle {
    /// Reads a bundle, or says why it is none that can be verified.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let raw: Raw = serde_json::from_slice(json)
            .map_err(|error| format!("it cannot be understood: {error}"))?;
        if !raw.media_type.starts_with(MEDIA_TYPE) {
            let found = raw.media_type;
            return Err(format!("its type is {found:?}, expected {MEDIA_TYPE}"));
        }
        let decode = |text: &str| {
            let bytes = BASE64_STANDARD.decode(text);
            bytes.map_err(|error| format!("its base64 is damaged: {error}"))
        };
        let material = raw.verification_material;
        let chain = material.x509_certificate_chain;
        let chain = chain.map_or_else(Vec::new, |chain| chain.certificates);
        let certificates = material.certificate.iter().chain(&chain);
        let certificates: Result<Vec<_>, String> =
            certificates.map(|one| decode(&one.raw_bytes)).collect();
        let certificates = certificates?;
        if material.public_key.is_some() != certificates.is_empty() {
            return Err("it has neither one public key nor a certificate".to_owned());
        }
        let signed = match (raw.dsse_envelope, raw.message_signature) {
            (Some(envelope), None) => {
                if envelope.payload_type != IN_TOTO {
                    let found = envelope.payload_type;
                    return Err(format!("its payload is {found:?}, expected {IN_TOTO}"));
                }
                // Exactly one, by the specification of bundles.
                let [EnvelopeSignature { sig }] = envelope.signatures.as_slice() else {
                    let found = envelope.signatures.len();
                    return Err(format!("its envelope has {found} signatures, expected one"));
                };
                Signed::Statement {
                    payload: decode(&envelope.payload)?,
                    signature: decode(sig)?,
                }
            }
            (None, Some(Message { signature })) => Signed::Manifest {
                signature: decode(&signature)?,
            },
            _ => return Err("it has neither one envelope nor one message signature".to_owned()),
        };
        Ok(Self {
            signed,
            certificates,
        })
    }
}

/// The bytes that the signature of a statement is of: its pre-authentication encoding.
pub fn signed_bytes(payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {IN_TOTO} {} ", IN_TOTO.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

/// Checks that a statement is a signature of this manifest. Its own signature is verified before.
pub fn check_statement(payload: &[u8], manifest: Digest) -> Result<(), String> {
    let statement: Statement = serde_json::from_slice(payload)
        .map_err(|error| format!("its statement cannot be understood: {error}"))?;
    if statement.predicate_type != SIGNATURE {
        let found = statement.predicate_type;
        return Err(format!(
            "it is an attestation ({found:?}) and no signature; `cosign sign` makes one"
        ));
    }
    if statement.version != STATEMENT {
        let found = statement.version;
        return Err(format!("its statement is {found:?}, expected {STATEMENT}"));
    }
    let is_it = |subject: &Subject| {
        let sha256 = subject.digest.get("sha256");
        sha256.is_some_and(|found| *found == manifest.hex())
    };
    if statement.subject.iter().any(is_it) {
        return Ok(());
    }
    let first = statement.subject.first();
    let found = first.and_then(|subject| subject.digest.get("sha256"));
    Err(match found {
        Some(found) => format!("it is of another manifest, sha256:{found}"),
        None => "it is of no manifest".to_owned(),
    })
}
