//! The cryptography of `sigstore-verify`, by ring.
//!
//! ring verifies messages and no digests. Every message of a message signature is at hand here (a manifest, or the payload
//! of a signature in cosign's old form), so a digest is verified by the message that it is of: see [`with_message`].

use std::cell::RefCell;

use ring::digest::{self, Context, SHA256, SHA384, SHA512};
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1,
    ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    UnparsedPublicKey, VerificationAlgorithm,
};
use sigstore_verify::crypto::{
    CryptoProvider, Error, HashContext, Result, SigningScheme, install_default_provider,
};
use sigstore_verify::types::HashAlgorithm;

#[derive(Debug)]
struct Ring;

thread_local! {
    /// The message that this thread verifies a signature of.
    static MESSAGE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Makes ring the provider of this process. Called again it does nothing.
pub fn install() {
    install_default_provider(&Ring).ok();
}

/// Calls `verify`, which may verify signatures by the digest of this message.
pub fn with_message<T>(message: &[u8], verify: impl FnOnce() -> T) -> T {
    MESSAGE.set(message.to_vec());
    let result = verify();
    MESSAGE.take();
    result
}

struct Hash(Context);

impl HashContext for Hash {
    fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn finalize(self: Box<Self>) -> Vec<u8> {
        self.0.finish().as_ref().to_vec()
    }
}

fn hash(algorithm: HashAlgorithm) -> Result<&'static digest::Algorithm> {
    match algorithm {
        HashAlgorithm::Sha2256 => Ok(&SHA256),
        HashAlgorithm::Sha2384 => Ok(&SHA384),
        HashAlgorithm::Sha2512 => Ok(&SHA512),
        other => Err(Error::UnsupportedAlgorithm(format!(
            "{other} digests are not computed"
        ))),
    }
}

fn verification(scheme: SigningScheme) -> Result<&'static dyn VerificationAlgorithm> {
    Ok(match scheme {
        SigningScheme::EcdsaP256Sha256 => &ECDSA_P256_SHA256_ASN1,
        SigningScheme::EcdsaP256Sha384 => &ECDSA_P256_SHA384_ASN1,
        SigningScheme::EcdsaP384Sha256 => &ECDSA_P384_SHA256_ASN1,
        SigningScheme::EcdsaP384Sha384 => &ECDSA_P384_SHA384_ASN1,
        SigningScheme::Ed25519 => &ED25519,
        SigningScheme::RsaPssSha256 => &RSA_PSS_2048_8192_SHA256,
        SigningScheme::RsaPssSha384 => &RSA_PSS_2048_8192_SHA384,
        SigningScheme::RsaPssSha512 => &RSA_PSS_2048_8192_SHA512,
        SigningScheme::RsaPkcs1Sha256 => &RSA_PKCS1_2048_8192_SHA256,
        SigningScheme::RsaPkcs1Sha384 => &RSA_PKCS1_2048_8192_SHA384,
        SigningScheme::RsaPkcs1Sha512 => &RSA_PKCS1_2048_8192_SHA512,
        // Those of ML-DSA, which ring does not have, and those that are yet to come.
        _ => {
            return Err(Error::UnsupportedAlgorithm(format!(
                "{} signatures are not verified",
                scheme.name()
            )));
        }
    })
}

impl CryptoProvider for Ring {
    fn hash(&self, algorithm: HashAlgorithm) -> Result<Box<dyn HashContext>> {
        Ok(Box::new(Hash(Context::new(hash(algorithm)?))))
    }

    fn verify_raw(
        &self,
        scheme: SigningScheme,
        spki_pubkey_bytes: &[u8],
        data: &[u8],
        signature: &[u8],
    ) -> Result<()> {
        let key = UnparsedPublicKey::new(verification(scheme)?, spki_pubkey_bytes);
        key.verify(data, signature)
            .map_err(|_| Error::Verification(format!("{} signature invalid", scheme.name())))
    }

    fn verify_prehashed(
        &self,
        scheme: SigningScheme,
        spki_pubkey_bytes: &[u8],
        digest: &[u8],
        signature: &[u8],
    ) -> Result<()> {
        let Some(algorithm) = scheme.hash_algorithm() else {
            return Err(Error::UnsupportedAlgorithm(format!(
                "{} signs no digests",
                scheme.name()
            )));
        };
        let algorithm = hash(algorithm)?;
        MESSAGE.with_borrow(|message| {
            if digest::digest(algorithm, message).as_ref() != digest {
                return Err(Error::Verification(
                    "the message of this digest is not at hand".to_owned(),
                ));
            }
            self.verify_raw(scheme, spki_pubkey_bytes, message, signature)
        })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, SigningKey};

    use super::*;

    #[test]
    fn a_digest_is_verified_by_its_message_and_by_no_other() {
        let key = KeyPair::generate().unwrap();
        let signature = key.sign(b"message").unwrap();
        let raw = rcgen::PublicKeyData::der_bytes(&key);
        let digest = digest::digest(&SHA256, b"message");
        let verify = |message: &[u8], digest: &[u8], signature: &[u8]| {
            with_message(message, || {
                Ring.verify_prehashed(SigningScheme::EcdsaP256Sha256, raw, digest, signature)
            })
        };
        assert!(verify(b"message", digest.as_ref(), &signature).is_ok());
        assert!(verify(b"message", digest.as_ref(), &signature[1..]).is_err());
        assert!(verify(b"other", digest.as_ref(), &signature).is_err());
        let other = digest::digest(&SHA256, b"other");
        assert!(verify(b"other", other.as_ref(), &signature).is_err());
        assert!(verify(b"message", &digest.as_ref()[1..], &signature).is_err());
        // Nothing is left of the message.
        let scheme = SigningScheme::EcdsaP256Sha256;
        let after = Ring.verify_prehashed(scheme, raw, digest.as_ref(), &signature);
        assert!(after.is_err());
    }
}
