//! Services of sigstore of a test's own, and what is signed by them without a key: a Fulcio, a Rekor and a CT log.
//!
//! The formats: RFC 6962 for certificates' promises (SCT) and the tree, C2SP's tlog-checkpoint for its head, Rekor's entries
//! `dsse` and `hashedrekord` of version 0.0.1.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, CustomExtension,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, PublicKeyData as _, SanType, SerialNumber,
    SigningKey as _,
};
use serde_json::{Value, json};

use crate::content::sha256;
use crate::cosign::{signed_of, statement};

/// A workflow, and who had it log in.
pub const SUBJECT: &str = "https://github.com/acme/k8s/.github/workflows/release.yml@refs/tags/v1";
pub const ISSUER: &str = "https://token.actions.githubusercontent.com";

/// The name of the log, and of the tree in it.
const LOG: &str = "rekor.example.com";
const ORIGIN: &str = "rekor.example.com - 1";

/// The services.
pub struct Sigstore {
    fulcio: CertifiedIssuer<'static, KeyPair>,
    rekor: KeyPair,
    ct: KeyPair,
}

/// How somebody signs.
#[derive(Clone, Copy)]
pub struct Signing {
    pub subject: &'static str,
    pub issuer: &'static str,
    /// Whether the certificate has the promise of the CT log.
    pub has_sct: bool,
    /// How long ago the certificate began, in minutes: it is good for ten.
    pub age: i64,
}

impl Default for Signing {
    fn default() -> Self {
        Self {
            subject: SUBJECT,
            issuer: ISSUER,
            has_sct: true,
            age: 1,
        }
    }
}

fn base64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_STANDARD.encode(bytes)
}

fn hash(bytes: &[u8]) -> Vec<u8> {
    let hex = sha256(bytes);
    let pairs = (0..hex.len()).step_by(2);
    pairs
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

/// Length of the DER element that begins here, head included.
fn length(der: &[u8]) -> usize {
    match usize::from(der[1]) {
        short if short < 128 => 2 + short,
        long => {
            let bytes = &der[2..2 + (long & 127)];
            let of_content = bytes
                .iter()
                .fold(0, |all, byte| all << 8 | usize::from(*byte));
            2 + bytes.len() + of_content
        }
    }
}

/// The part of a certificate that its CA signs (TBSCertificate).
fn to_be_signed(der: &[u8]) -> &[u8] {
    let inner = &der[der.len() - (length(der) - head(der))..];
    &inner[..length(inner)]
}

fn head(der: &[u8]) -> usize {
    if der[1] < 128 {
        2
    } else {
        2 + usize::from(der[1] & 127)
    }
}

impl Sigstore {
    pub fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
        let key = KeyPair::generate().unwrap();
        Self {
            fulcio: CertifiedIssuer::self_signed(parameters, key).unwrap(),
            rekor: KeyPair::generate().unwrap(),
            ct: KeyPair::generate().unwrap(),
        }
    }

    /// The same logs, and another authority.
    pub fn with_another_fulcio(&self) -> Self {
        let same = |key: &KeyPair| KeyPair::try_from(key.serialize_der()).unwrap();
        Self {
            rekor: same(&self.rekor),
            ct: same(&self.ct),
            ..Self::new()
        }
    }

    /// The certificate of Fulcio, and the key of Rekor, in PEM form.
    pub fn pem(&self) -> (String, String) {
        (self.fulcio.pem(), self.rekor.public_key_pem())
    }

    /// trusted_root.json. `end`: of each service.
    pub fn trusted_root(&self, end: Option<Timestamp>) -> Value {
        let mut window = json!({"start": "2020-01-01T00:00:00Z"});
        if let Some(end) = end {
            window["end"] = json!(end.to_string());
        }
        let log = |key: &KeyPair| {
            let spki = key.subject_public_key_info();
            json!({
                "baseUrl": "https://log.example.com",
                "hashAlgorithm": "SHA2_256",
                "publicKey": {
                    "rawBytes": base64(&spki),
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                    "validFor": window,
                },
                "logId": {"keyId": base64(hash(&spki))},
            })
        };
        json!({
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log(&self.rekor)],
            "certificateAuthorities": [{
                "subject": {"organization": "example", "commonName": "fulcio"},
                "uri": "https://fulcio.example.com",
                "certChain": {"certificates": [{"rawBytes": base64(self.fulcio.der())}]},
                "validFor": window,
            }],
            "ctlogs": [log(&self.ct)],
        })
    }

    /// A certificate for ten minutes, as Fulcio issues it.
    fn certificate(&self, key: &KeyPair, signing: &Signing) -> Certificate {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        let name = Ia5String::try_from(signing.subject).unwrap();
        parameters.subject_alt_names = vec![match signing.subject.contains("://") {
            true => SanType::URI(name),
            false => SanType::Rfc822Name(name),
        }];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        parameters.serial_number = Some(SerialNumber::from(vec![1, 2, 3]));
        let begin = Timestamp::now().as_second() - signing.age * 60;
        let at = |seconds: i64| {
            rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds.unsigned_abs())
        };
        parameters.not_before = at(begin);
        parameters.not_after = at(begin + 600);
        let text = [&[12, signing.issuer.len() as u8], signing.issuer.as_bytes()].concat();
        let issuer = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 57264, 1, 8], text);
        parameters.custom_extensions = vec![issuer];
        let without = parameters.clone().signed_by(key, &self.fulcio).unwrap();
        if !signing.has_sct {
            return without;
        }
        let list = self.promise(to_be_signed(without.der()));
        let list = [&[4, list.len() as u8], list.as_slice()].concat();
        let list = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 11129, 2, 4, 2], list);
        parameters.custom_extensions.push(list);
        parameters.signed_by(key, &self.fulcio).unwrap()
    }

    /// The CT log's promise for a certificate without it: a list of one.
    fn promise(&self, certificate: &[u8]) -> Vec<u8> {
        let time = (Timestamp::now().as_millisecond() as u64).to_be_bytes();
        let of_issuer = hash(&self.fulcio.key().subject_public_key_info());
        let size = (certificate.len() as u32).to_be_bytes();
        let message = [
            &[0, 0],
            &time[..],
            &[0, 1],
            &of_issuer,
            &size[1..],
            certificate,
            &[0, 0],
        ];
        let signature = self.ct.sign(&message.concat()).unwrap();
        let id = hash(&self.ct.subject_public_key_info());
        let of_signature = (signature.len() as u16).to_be_bytes();
        let one = [
            &[0],
            &id[..],
            &time,
            &[0, 0],
            &[4, 3],
            &of_signature,
            &signature,
        ]
        .concat();
        let of_one = (one.len() as u16).to_be_bytes();
        let of_list = (one.len() as u16 + 2).to_be_bytes();
        [&of_list[..], &of_one, &one].concat()
    }

    /// A transparency log entry of Rekor, as bundles have it.
    fn entry(&self, kind: &str, body: &Value) -> Value {
        let body = body.to_string();
        let time = Timestamp::now().as_second();
        let id = hash(&self.rekor.subject_public_key_info());
        let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let promise = format!(
            r#"{{"body":"{}","integratedTime":{time},"logID":"{hex}","logIndex":0}}"#,
            base64(&body)
        );
        // A tree of one leaf is that leaf.
        let root = base64(hash(&[&[0], body.as_bytes()].concat()));
        let head = format!("{ORIGIN}\n1\n{root}\n");
        let signature = self.rekor.sign(head.as_bytes()).unwrap();
        let signature = base64([&id[..4], &signature].concat());
        json!({
            "logIndex": "0",
            "logId": {"keyId": base64(&id)},
            "kindVersion": {"kind": kind, "version": "0.0.1"},
            "integratedTime": time.to_string(),
            "inclusionPromise": {
                "signedEntryTimestamp": base64(self.rekor.sign(promise.as_bytes()).unwrap()),
            },
            "inclusionProof": {
                "logIndex": "0",
                "rootHash": root,
                "treeSize": "1",
                "hashes": [],
                "checkpoint": {"envelope": format!("{head}\n\u{2014} {LOG} {signature}\n")},
            },
            "canonicalizedBody": base64(&body),
        })
    }

    /// A bundle with a statement about a manifest, as cosign 3 signs it.
    pub fn bundle(&self, signing: &Signing, manifest: &str, predicate: &str) -> Value {
        let key = KeyPair::generate().unwrap();
        let certificate = self.certificate(&key, signing);
        let statement = statement(manifest, predicate);
        let signature = base64(key.sign(&signed_of(&statement)).unwrap());
        let body = json!({
            "apiVersion": "0.0.1",
            "kind": "dsse",
            "spec": {
                "envelopeHash": {"algorithm": "sha256", "value": sha256(b"")},
                "payloadHash": {"algorithm": "sha256", "value": sha256(statement.as_bytes())},
                "signatures": [{"signature": signature, "verifier": base64(certificate.pem())}],
            },
        });
        json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {
                "certificate": {"rawBytes": base64(certificate.der())},
                "tlogEntries": [self.entry("dsse", &body)],
            },
            "dsseEnvelope": {
                "payload": base64(&statement),
                "payloadType": "application/vnd.in-toto+json",
                "signatures": [{"sig": signature}],
            },
        })
    }

    /// The annotations beside a payload, as cosign 2 signs it.
    pub fn legacy(&self, signing: &Signing, payload: &str) -> Value {
        let key = KeyPair::generate().unwrap();
        let certificate = self.certificate(&key, signing);
        let signature = base64(key.sign(payload.as_bytes()).unwrap());
        let body = json!({
            "apiVersion": "0.0.1",
            "kind": "hashedrekord",
            "spec": {
                "data": {"hash": {"algorithm": "sha256", "value": sha256(payload.as_bytes())}},
                "signature": {
                    "content": signature,
                    "publicKey": {"content": base64(certificate.pem())},
                },
            },
        });
        let entry = self.entry("hashedrekord", &body);
        let id = hash(&self.rekor.subject_public_key_info());
        let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let time: u64 = entry["integratedTime"].as_str().unwrap().parse().unwrap();
        let promise = json!({
            "SignedEntryTimestamp": entry["inclusionPromise"]["signedEntryTimestamp"],
            "Payload": {
                "body": entry["canonicalizedBody"], "integratedTime": time, "logIndex": 0, "logID": hex,
            },
        });
        json!({
            "dev.cosignproject.cosign/signature": signature,
            "dev.sigstore.cosign/certificate": certificate.pem(),
            "dev.sigstore.cosign/chain": self.fulcio.pem(),
            "dev.sigstore.cosign/bundle": promise.to_string(),
        })
    }
}
