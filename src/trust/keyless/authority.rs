//! A certificate authority by itself, without logs and time stamps: `pki` of containers-policy.json(5).
//!
//! As in containers/image, `signature/pki_cert.go`: a certificate must be valid now, for a signature does not prove when it
//! was made.

use std::fmt;

use jiff::Timestamp;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::super::Key;
use super::{MAX_FILE, certificate};
use crate::digest::Digest;

/// The extended key usage codeSigning, 1.3.6.1.5.5.7.3.3. A certificate without any usages may sign, too.
const CODE_SIGNING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 3];

/// A certificate authority, and the names that a signer must have.
#[derive(Clone)]
pub struct Authority {
    /// Its file, for messages.
    name: String,
    /// The digest of the files with its certificates.
    id: Digest,
    roots: Vec<TrustAnchor<'static>>,
    intermediates: Vec<CertificateDer<'static>>,
    email: Option<String>,
    hostname: Option<ServerName<'static>>,
}

impl Authority {
    /// Reads root certificates in PEM form, and those between them and the signers' if there are any.
    pub fn parse(
        name: &str,
        roots: &[u8],
        intermediates: &[u8],
        email: Option<&str>,
        hostname: Option<&str>,
    ) -> Result<Self, String> {
        let read = |pem: &[u8]| {
            if pem.len() > MAX_FILE {
                let found = pem.len();
                return Err(format!(
                    "this file has {found} bytes, at most {MAX_FILE} are read"
                ));
            }
            let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
            all.map_err(|error| format!("this is not PEM: {error}"))
        };
        let certificates = read(roots)?;
        if certificates.is_empty() {
            return Err(
                "there is no certificate in it, expected that of the authority, between BEGIN CERTIFICATE and END \
                 CERTIFICATE"
                    .to_owned(),
            );
        }
        let anchors = certificates.iter().map(|one| {
            let anchor = anchor_from_trusted_cert(one);
            anchor.map(|anchor| anchor.to_owned())
        });
        let anchors: Result<Vec<_>, _> = anchors.collect();
        let hostname = hostname.map(|name| ServerName::try_from(name.to_owned()));
        Ok(Self {
            name: name.to_owned(),
            id: Digest::of(&[roots, b"\0", intermediates].concat()),
            roots: anchors
                .map_err(|error| format!("a certificate in it cannot be read: {error}"))?,
            intermediates: read(intermediates)?,
            email: email.map(str::to_owned),
            hostname: hostname
                .transpose()
                .map_err(|error| format!("subjectHostname: {error}"))?,
        })
    }

    /// The key of a signer, whose certificate comes first, if it is one of this authority with the right names.
    pub fn key_of(&self, certificates: &[Vec<u8>], now: Timestamp) -> Result<Key, String> {
        let (first, between) = certificates.split_first().ok_or("it has no certificate")?;
        let first = CertificateDer::from(first.as_slice());
        let mut intermediates = self.intermediates.clone();
        intermediates.extend(
            between
                .iter()
                .map(|one| CertificateDer::from(one.as_slice()).into_owned()),
        );
        let signer = EndEntityCert::try_from(&first)
            .map_err(|error| format!("its certificate cannot be read: {error}"))?;
        let seconds = now.as_second().try_into().unwrap_or(0);
        let verified = signer.verify_for_usage(
            ALL_VERIFICATION_ALGS,
            &self.roots,
            &intermediates,
            UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)),
            KeyUsage::required_if_present(CODE_SIGNING),
            None,
            None,
        );
        verified.map_err(|error| {
            format!(
                "its certificate is not one of {}, or not valid now: {error}",
                self.name
            )
        })?;
        if let Some(email) = &self.email {
            let found = certificate::who(&first)?.emails;
            if !found.contains(email) {
                return Err(format!(
                    "it is signed by {}, expected {email}",
                    found.join(", ")
                ));
            }
        }
        if let Some(hostname) = &self.hostname {
            let is_it = signer.verify_is_valid_for_subject_name(hostname);
            is_it.map_err(|error| {
                format!(
                    "its certificate is not that of {}: {error}",
                    hostname.to_str()
                )
            })?;
        }
        Key::from_spki(&self.to_string(), signer.subject_public_key_info().to_vec())
    }

    /// The names that a signer must have.
    fn wanted(&self) -> String {
        let hostname = self.hostname.as_ref().map(|name| name.to_str());
        let names = [self.email.as_deref(), hostname.as_deref()];
        Vec::from_iter(names.into_iter().flatten()).join(", ")
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (certificate of {})", self.wanted(), self.name)
    }
}

/// By the bytes of its certificates.
impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({}, {})", self, self.id)
    }
}

impl PartialEq for Authority {
    fn eq(&self, other: &Self) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}
