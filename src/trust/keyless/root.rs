//! The services of sigstore that are trusted, and what they have signed. All is verified by `sigstore-verify`, offline.
//!
//! The file: <https://github.com/sigstore/protobuf-specs/blob/main/protos/sigstore_trustroot.proto>. A bundle counts by: a
//! certificate of a Fulcio in it, with the promise of a CT log (SCT); an entry in a Rekor, with the proof that it is included
//! and a signed checkpoint (a promise, SET, in bundles of version 0.1); a time by a promise or by a time stamp of RFC 3161, at
//! which the certificate and the services were valid.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use sigstore_verify::trust_root::TrustedRoot as Services;
use sigstore_verify::types::{
    Artifact as Verified, Bundle, DerPublicKey, Sha256Hash, SignatureContent, TimeRange,
};
use sigstore_verify::{
    Policy, PublicKeyVerificationPolicy, VerificationPolicy, VerificationResult, Verifier,
};

use super::super::Key;
use super::{Artifact, MAX_FILE, Who, certificate, provider};
use crate::digest::Digest;

/// The media type of the file without its version, which stands behind it in two ways.
const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.trustedroot";
/// Most entries of logs, time stamps and certificates in a bundle: each is verified. cosign writes one of each.
const MAX_PROOFS: usize = 8;

/// Services that are trusted.
pub struct TrustedRoot {
    path: PathBuf,
    /// The digest of the file.
    id: Digest,
    ends: Option<Timestamp>,
    /// Whether a certificate needs the promise of a CT log.
    needs_sct: bool,
    verifier: Verifier,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Counted {
    verification_material: Material,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Material {
    x509_certificate_chain: Option<Chain>,
    tlog_entries: Option<Vec<IgnoredAny>>,
    timestamp_verification_data: Option<Timestamps>,
}

#[derive(Deserialize)]
struct Chain {
    certificates: Option<Vec<IgnoredAny>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Timestamps {
    rfc3161_timestamps: Option<Vec<IgnoredAny>>,
}

impl TrustedRoot {
    /// Reads trusted_root.json, as `cosign trusted-root create` writes it.
    pub fn parse(path: &Path, json: &[u8]) -> Result<Self, String> {
        if json.len() > MAX_FILE {
            let found = json.len();
            return Err(format!(
                "this file has {found} bytes, at most {MAX_FILE} are read"
            ));
        }
        let services: Services = serde_json::from_slice(json)
            .map_err(|error| format!("this is no trusted root of sigstore: {error}"))?;
        if !services.media_type.starts_with(MEDIA_TYPE) {
            let found = &services.media_type;
            return Err(format!(
                "this is no trusted root of sigstore: its type is {found:?}, expected {MEDIA_TYPE}"
            ));
        }
        let authorities = services.certificate_authorities.iter();
        let logs = services.tlogs.iter();
        let promises = services.ctlogs.iter();
        let kinds = [
            (
                "certificate authority (Fulcio)",
                newest_end(authorities.map(|one| one.valid_for)),
            ),
            (
                "transparency log (Rekor)",
                newest_end(logs.map(|one| one.public_key.valid_for)),
            ),
            (
                "log of certificates (CT)",
                newest_end(promises.map(|one| one.public_key.valid_for)),
            ),
        ];
        let mut ends = None;
        for (kind, end) in kinds {
            let end = end.ok_or_else(|| format!("there is no {kind} in it"))?;
            ends = ends.into_iter().chain(end).min();
        }
        Self::of(path, json, &services, ends, true)
    }

    /// The services that a policy of containers names: certificates of Fulcio, and public keys of Rekor. As there, no CT log has
    /// to have promised anything.
    pub fn of_fulcio(
        name: &str,
        certificates: &[u8],
        logs: &[(String, Vec<u8>)],
    ) -> Result<Self, String> {
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificates).collect();
        let read = read.map_err(|error| format!("{name}: this is not PEM: {error}"))?;
        if read.is_empty() {
            return Err(format!("{name}: there is no certificate in it"));
        }
        let authorities = read.iter().map(|one| {
            let chain = json!({"certificates": [{"rawBytes": BASE64_STANDARD.encode(one)}]});
            json!({"uri": "", "certChain": chain})
        });
        Self::made(name, authorities.collect(), logs)
    }

    /// The logs that a policy of containers names for signatures by keys.
    pub fn of_log(logs: &[(String, Vec<u8>)]) -> Result<Self, String> {
        Self::made("", Vec::new(), logs)
    }

    fn made(
        name: &str,
        authorities: Vec<Value>,
        logs: &[(String, Vec<u8>)],
    ) -> Result<Self, String> {
        let mut all = Vec::new();
        for (name, pem) in logs {
            let key = Key::parse(name, pem).map_err(|why| format!("{name}: {why}"))?;
            if key.is_rsa() {
                return Err(format!("{name}: this is an RSA key, expected one of ECDSA"));
            }
            let log = json!({
                "baseUrl": "",
                "hashAlgorithm": "SHA2_256",
                "publicKey": {"rawBytes": BASE64_STANDARD.encode(key.spki()), "keyDetails": ""},
                "logId": {"keyId": BASE64_STANDARD.encode(key.id().bytes())},
            });
            // One key named twice is one log.
            if !all.contains(&log) {
                all.push(log);
            }
        }
        let json = json!({
            "mediaType": MEDIA_TYPE, "tlogs": all, "certificateAuthorities": authorities,
        });
        let json = json.to_string();
        let services: Services =
            serde_json::from_str(&json).map_err(|error| format!("{name}: {error}"))?;
        Self::of(Path::new(name), json.as_bytes(), &services, None, false)
    }

    fn of(
        path: &Path,
        json: &[u8],
        services: &Services,
        ends: Option<Timestamp>,
        needs_sct: bool,
    ) -> Result<Self, String> {
        provider::install();
        let verifier = Verifier::new(services)
            .map_err(|error| format!("its services cannot be trusted: {error}"))?;
        Ok(Self {
            path: path.to_owned(),
            id: Digest::of(json),
            ends,
            needs_sct,
            verifier,
        })
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// When the last certificate authority, the last log or the last CT log in it ends, whichever ends first: what is signed
    /// after that cannot be verified. `None`: never.
    pub fn ends(&self) -> Option<Timestamp> {
        self.ends
    }

    /// The signer of a bundle, if all that proves it holds.
    pub fn signer(&self, bundle: &[u8], artifact: Artifact<'_>) -> Result<Who, String> {
        let bundle = parse(bundle)?;
        let mut policy = VerificationPolicy::any_identity();
        if !self.needs_sct {
            policy = policy.skip_sct();
        }
        let result = self.verify(&bundle, artifact, &policy)?;
        if !result.certificate_verified() || !result.tlog_verified() {
            return Err("its certificate or its entry in the log was not verified".to_owned());
        }
        match bundle.signing_certificate() {
            Some(der) => certificate::who(der.as_bytes()),
            None => Err("it has no certificate".to_owned()),
        }
    }

    /// Checks that a log has taken up this signature of a key.
    pub fn has_logged(
        &self,
        bundle: &[u8],
        artifact: Artifact<'_>,
        key: &Key,
    ) -> Result<(), String> {
        let bundle = parse(bundle)?;
        let key = DerPublicKey::new(key.spki().to_vec());
        let policy = PublicKeyVerificationPolicy::new(key);
        let result = self.verify(&bundle, artifact, &policy)?;
        result
            .tlog_verified()
            .then_some(())
            .ok_or_else(|| "its entry in the log was not verified".to_owned())
    }

    fn verify(
        &self,
        bundle: &Bundle,
        artifact: Artifact<'_>,
        policy: &impl Policy,
    ) -> Result<VerificationResult, String> {
        let (message, artifact) = match artifact {
            Artifact::Bytes(bytes) => (bytes, Verified::from_blob(bytes)),
            Artifact::Statement(digest, statement) => match &bundle.content {
                SignatureContent::DsseEnvelope(one) if one.payload.as_bytes() == statement => {
                    let digest = Sha256Hash::new(digest.bytes());
                    (&[][..], Verified::from_digest(digest))
                }
                _ => return Err("it has another statement".to_owned()),
            },
        };
        let verify = || self.verifier.verify(artifact, bundle, policy);
        provider::with_message(message, verify).map_err(|error| error.to_string())
    }
}

/// Reads a bundle that has not more to verify than is reasonable.
fn parse(json: &[u8]) -> Result<Bundle, String> {
    let bad = |error| format!("it cannot be understood: {error}");
    let counted: Counted = serde_json::from_slice(json).map_err(bad)?;
    let Material {
        x509_certificate_chain: chain,
        tlog_entries,
        timestamp_verification_data: times,
    } = counted.verification_material;
    let chain = chain.and_then(|chain| chain.certificates);
    let times = times.and_then(|times| times.rfc3161_timestamps);
    for (list, kind) in [
        (chain, "certificates"),
        (tlog_entries, "entries of logs"),
        (times, "time stamps"),
    ] {
        let found = list.map_or(0, |list| list.len());
        if found > MAX_PROOFS {
            return Err(format!(
                "it has {found} {kind}, at most {MAX_PROOFS} are verified"
            ));
        }
    }
    serde_json::from_slice(json).map_err(bad)
}

/// When the last of these windows ends: `None` if there is none of them, `Some(None)` if one has no end.
fn newest_end(windows: impl Iterator<Item = Option<TimeRange>>) -> Option<Option<Timestamp>> {
    let ends: Vec<_> = windows.map(|one| one.and_then(|one| one.end)).collect();
    let has_open_end = ends.contains(&None);
    let last = ends.iter().flatten().max().copied();
    (!ends.is_empty()).then_some(last.filter(|_| !has_open_end))
}

/// By the bytes of the file: what it says is what counts.
impl PartialEq for TrustedRoot {
    fn eq(&self, other: &Self) -> bool {
        (&self.path, self.id, self.needs_sct) == (&other.path, other.id, other.needs_sct)
    }
}

impl fmt::Debug for TrustedRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        write!(f, "TrustedRoot({path}, {}, {})", self.id, self.needs_sct)
    }
}
