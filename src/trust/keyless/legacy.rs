//! Keyless signatures as cosign 2 writes them, made into bundles.
//!
//! The proof lies in annotations beside the signature: <https://github.com/sigstore/cosign/blob/main/pkg/oci/static/options.go>
//! and `internal/signature/sigstore.go` of containers/image. The log has only promised to take the signature up (SET): that is
//! enough for a bundle of version 0.1, and for no newer one.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::json;

use crate::digest::Digest;
use crate::manifest::Annotations;

const CERTIFICATE: &str = "dev.sigstore.cosign/certificate";
const CHAIN: &str = "dev.sigstore.cosign/chain";
const PROMISE: &str = "dev.sigstore.cosign/bundle";
const TIMESTAMP: &str = "dev.sigstore.cosign/rfc3161timestamp";

/// The annotations that prove whose a signature is, unverified.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Proof {
    /// In PEM form.
    certificate: Option<String>,
    /// The CAs of the certificate in PEM form, from the one that signed it to the root.
    chain: Option<String>,
    /// The promise of the log, and what it is about, in JSON.
    promise: Option<String>,
    /// A time stamp of RFC 3161, in JSON.
    timestamp: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Promise {
    #[serde(rename = "SignedEntryTimestamp")]
    signed_entry_timestamp: String,
    #[serde(rename = "Payload")]
    payload: Entry,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Entry {
    body: String,
    integrated_time: u64,
    log_index: u64,
    #[serde(rename = "logID")]
    log_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    kind: String,
    api_version: String,
}

#[derive(Deserialize)]
struct Timestamp {
    #[serde(rename = "SignedRFC3161Timestamp")]
    signed: String,
}

impl Proof {
    /// Reads the proof from the annotations of a layer.
    pub fn of(annotations: &Annotations) -> Self {
        let get = |name| annotations.get(name).map(|text| text.to_owned());
        Self {
            certificate: get(CERTIFICATE),
            chain: get(CHAIN),
            promise: get(PROMISE),
            timestamp: get(TIMESTAMP),
        }
    }

    /// The certificate of the signer, followed by those of CAs in between. The last one of the chain is the root: whoever
    /// trusts it has it.
    pub fn certificates(&self) -> Result<Vec<Vec<u8>>, String> {
        let read = |text: &str| {
            let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
            all.map_err(|error| format!("its certificate is not PEM: {error}"))
        };
        let Some(certificate) = &self.certificate else {
            return Err("it has no certificate (keyless)".to_owned());
        };
        let mut all = read(certificate)?;
        if all.len() != 1 {
            let found = all.len();
            return Err(format!("it has {found} certificates, expected one"));
        }
        if let Some(chain) = &self.chain {
            let mut chain = read(chain)?;
            chain.pop();
            all.append(&mut chain);
        }
        Ok(all.iter().map(|one| one.to_vec()).collect())
    }

    /// The bundle that says the same: of this payload, with this signature. `has_key`: a key made it, and the bundle has no
    /// certificate.
    pub fn bundle(
        &self,
        payload: &[u8],
        signature: &[u8],
        has_key: bool,
    ) -> Result<Vec<u8>, String> {
        let Some(promise) = &self.promise else {
            return Err(format!(
                "no log has promised to take it up: it has no annotation {PROMISE}"
            ));
        };
        let promise: Promise = serde_json::from_str(promise)
            .map_err(|error| format!("the promise of the log cannot be understood: {error}"))?;
        let entry = promise.payload;
        let damaged = |error| format!("the promise of the log has damaged base64: {error}");
        let body = BASE64_STANDARD.decode(&entry.body).map_err(damaged)?;
        let body: Body = serde_json::from_slice(&body)
            .map_err(|error| format!("the entry of the log cannot be understood: {error}"))?;
        let id = unhex(&entry.log_id).ok_or("the ID of the log is not hexadecimal")?;
        let mut material = json!({
            "tlogEntries": [{
                "logIndex": entry.log_index.to_string(),
                "logId": {"keyId": BASE64_STANDARD.encode(id)},
                "kindVersion": {"kind": body.kind, "version": body.api_version},
                "integratedTime": entry.integrated_time.to_string(),
                "inclusionPromise": {"signedEntryTimestamp": promise.signed_entry_timestamp},
                "canonicalizedBody": entry.body,
            }],
        });
        if has_key {
            material["publicKey"] = json!({"hint": ""});
        } else {
            let certificates = self.certificates()?;
            let certificates = certificates
                .iter()
                .map(|one| json!({"rawBytes": BASE64_STANDARD.encode(one)}));
            let certificates: Vec<_> = certificates.collect();
            material["x509CertificateChain"] = json!({"certificates": certificates});
        }
        if let Some(timestamp) = &self.timestamp {
            let timestamp: Timestamp = serde_json::from_str(timestamp)
                .map_err(|error| format!("its time stamp cannot be understood: {error}"))?;
            let timestamp = json!({"signedTimestamp": timestamp.signed});
            material["timestampVerificationData"] = json!({"rfc3161Timestamps": [timestamp]});
        }
        let digest = BASE64_STANDARD.encode(Digest::of(payload).bytes());
        let bundle = json!({
            "mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.1",
            "verificationMaterial": material,
            "messageSignature": {
                "messageDigest": {"algorithm": "SHA2_256", "digest": digest},
                "signature": BASE64_STANDARD.encode(signature),
            },
        });
        Ok(bundle.to_string().into_bytes())
    }
}

/// The bytes that hexadecimal digits stand for.
fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) || !text.len().is_multiple_of(2) {
        return None;
    }
    let pairs = (0..text.len()).step_by(2);
    pairs
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}
