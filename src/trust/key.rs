//! Public keys, and the signatures that they verify.
//!
//! The primitives are ring's. webpki reads the key (SubjectPublicKeyInfo, RFC 5280 §4.1.2.7) and refuses an algorithm that it is not for.

use std::fmt;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer};
use webpki::{Error as KeyError, RawPublicKeyEntity, ring};

use crate::digest::Digest;

/// The length in bytes of a SubjectPublicKeyInfo whose RSA modulus has less than 2048 bits, at most.
const SHORT_RSA: usize = 2048 / 8;

/// A public key.
#[derive(Clone, PartialEq)]
pub struct Key {
    /// Its file, for messages.
    name: String,
    spki: Vec<u8>,
    kind: Kind,
}

/// The algorithms that cosign signs with, by the type of the key.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    P256,
    P384,
    Rsa,
}

type Algorithm = &'static dyn SignatureVerificationAlgorithm;

impl Kind {
    /// cosign hashes with SHA-384 for P-384, containers/image with SHA-256 (`sigstoreHarcodedHashAlgorithm`).
    fn algorithms(self) -> &'static [Algorithm] {
        const P256: &[Algorithm] = &[ring::ECDSA_P256_SHA256];
        const P384: &[Algorithm] = &[ring::ECDSA_P384_SHA384, ring::ECDSA_P384_SHA256];
        const RSA: &[Algorithm] = &[ring::RSA_PKCS1_2048_8192_SHA256];
        match self {
            Self::P256 => P256,
            Self::P384 => P384,
            Self::Rsa => RSA,
        }
    }
}

impl Key {
    /// Reads a PEM file with one public key, which messages call `name`.
    pub fn parse(name: &str, pem: &[u8]) -> Result<Self, String> {
        let keys: Result<Vec<_>, _> = SubjectPublicKeyInfoDer::pem_slice_iter(pem).collect();
        let keys = keys.map_err(|error| format!("this is not PEM: {error}"))?;
        let spki = match keys.as_slice() {
            [one] => one,
            [] if pem.windows(11).any(|word| word == b"PRIVATE KEY") => {
                return Err(
                    "this is a private key, expected the public one, which `cosign public-key --key FILE` \
                     or `openssl pkey -pubout` prints"
                        .to_owned(),
                );
            }
            keys => {
                return Err(format!(
                    "{} public keys, expected one, between BEGIN PUBLIC KEY and END PUBLIC KEY",
                    keys.len()
                ));
            }
        };
        Self::from_spki(name, spki.to_vec())
    }

    /// A key by its SubjectPublicKeyInfo in DER form, as it is in a certificate.
    pub fn from_spki(name: &str, der: Vec<u8>) -> Result<Self, String> {
        let spki = SubjectPublicKeyInfoDer::from(der.as_slice());
        let is = |algorithm: Algorithm| match verify(&spki, algorithm, b"", b"") {
            Ok(()) | Err(KeyError::InvalidSignatureForPublicKey) => Ok(true),
            Err(KeyError::UnsupportedSignatureAlgorithmForPublicKeyContext(_)) => Ok(false),
            Err(error) => Err(format!("its public key cannot be read: {error}")),
        };
        let mut kind = None;
        for one in [Kind::P256, Kind::P384, Kind::Rsa] {
            if is(one.algorithms()[0])? {
                kind = Some(one);
            }
        }
        let advice = "ECDSA P-256, ECDSA P-384 and RSA keys are read; `cosign generate-key-pair` makes such a pair";
        match kind {
            Some(Kind::Rsa) if der.len() <= SHORT_RSA => Err(format!(
                "this is an RSA key of less than 2048 bits; {advice}"
            )),
            Some(kind) => Ok(Self {
                name: name.to_owned(),
                spki: der,
                kind,
            }),
            None if is(ring::ED25519)? => Err(format!(
                "this is an Ed25519 key, and cosign itself does not verify the signatures (Ed25519ph) that it \
                 makes by one; {advice}"
            )),
            None => Err(format!("this is a key of another type; {advice}")),
        }
    }

    /// Its SubjectPublicKeyInfo in DER form.
    #[cfg(feature = "keyless")]
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// Whether its algorithm is RSA.
    #[cfg(feature = "keyless")]
    pub fn is_rsa(&self) -> bool {
        self.kind == Kind::Rsa
    }

    /// Tells keys apart, whatever their files are called.
    pub fn id(&self) -> Digest {
        Digest::of(&self.spki)
    }

    /// Whether this key made the signature of a message.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let spki = SubjectPublicKeyInfoDer::from(self.spki.as_slice());
        let mut algorithms = self.kind.algorithms().iter();
        algorithms.any(|algorithm| verify(&spki, *algorithm, message, signature).is_ok())
    }
}

fn verify(
    spki: &SubjectPublicKeyInfoDer<'_>,
    algorithm: Algorithm,
    message: &[u8],
    signature: &[u8],
) -> Result<(), KeyError> {
    RawPublicKeyEntity::try_from(spki)?.verify_signature(algorithm, message, signature)
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {}", self.name)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, {})", self.name, self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_that_cosign_signs_with_or_the_reason_names_the_remedy() {
        let pem = |name: &str| {
            let path = format!("{}/tests/cosign/{name}.pub", env!("CARGO_MANIFEST_DIR"));
            std::fs::read_to_string(path).unwrap()
        };
        let short = "-----BEGIN PUBLIC KEY-----\n\
            MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDKGi4C2BEPhnZXKp8TzFaTMy9J\n\
            rW0pUAgDFnQ8v4gBW0kFDt2sXvYpJqAPrZsbLfBWp+mvE2x4vKFvnBIRpzZVdlUx\n\
            mTG9hwaQvFQcJJBuoYI3Z0XQmD9Uq9kKkCGGFZ0Av2LhC0yPNkwLmHuXbGZcWKk5\n\
            rYUPqg8V1Jr0sBwkVQIDAQAB\n-----END PUBLIC KEY-----\n";
        for (text, expected) in [
            (pem("p256"), Ok(Kind::P256)),
            (pem("p384"), Ok(Kind::P384)),
            (pem("rsa"), Ok(Kind::Rsa)),
            (format!("acme's key\n\n{}", pem("p256")), Ok(Kind::P256)),
            (pem("ed25519"), Err("this is an Ed25519 key")),
            (short.to_owned(), Err("less than 2048 bits")),
            (
                pem("p256") + &pem("p384"),
                Err("2 public keys, expected one"),
            ),
            (
                pem("p256").replace("PUBLIC", "PRIVATE"),
                Err("this is a private key"),
            ),
            (
                pem("p256").replace("PUBLIC KEY", "CERTIFICATE"),
                Err("0 public keys"),
            ),
            (String::new(), Err("0 public keys")),
            (pem("p256").replace("-----END", "---END"), Err("not PEM")),
            (pem("p256").replace("MFkw", "MFkx"), Err("cannot be read")),
        ] {
            let found = Key::parse("/k.pub", text.as_bytes()).map(|key| key.kind);
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(why), Err(expected)) => assert!(why.contains(expected), "{why}"),
                (found, expected) => panic!("{found:?}, expected {expected:?} of\n{text}"),
            }
        }
    }
}
