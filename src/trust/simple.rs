//! The payload of a simple signature: the layer of a `.sig` tag, or of an attached manifest.
//!
//! <https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md>; what is refused is by containers/image,
//! `signature/internal/sigstore_payload.go`.

use serde::Deserialize;

use crate::digest::Digest;

/// The type that cosign writes.
const TYPE: &str = "cosign container image signature";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    critical: Critical,
    // `null` if there are no annotations, but there.
    #[serde(rename = "optional", deserialize_with = "Option::deserialize")]
    _optional: Option<Optional>,
}

/// Annotations: anything, but two of them have a type.
#[derive(Deserialize)]
struct Optional {
    #[serde(rename = "creator")]
    _creator: Option<String>,
    #[serde(rename = "timestamp")]
    _timestamp: Option<Seconds>,
}

/// A whole number, however it is written.
#[derive(Deserialize)]
#[serde(try_from = "f64")]
struct Seconds;

impl TryFrom<f64> for Seconds {
    type Error = String;

    fn try_from(number: f64) -> Result<Self, String> {
        match number.fract() == 0.0 {
            true => Ok(Self),
            false => Err(format!("{number} is not a whole number of seconds")),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Critical {
    identity: Identity,
    image: Image,
    r#type: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Identity {
    docker_reference: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Image {
    docker_manifest_digest: String,
}

/// The reference that a payload names, if it is of this manifest. Its signature is verified before.
pub fn reference(payload: &[u8], manifest: Digest) -> Result<String, String> {
    let Payload { critical, .. } = serde_json::from_slice(payload)
        .map_err(|error| format!("its payload cannot be understood: {error}"))?;
    if critical.r#type != TYPE {
        let found = critical.r#type;
        return Err(format!("its type is {found:?}, expected {TYPE:?}"));
    }
    let found = critical.image.docker_manifest_digest;
    if found != manifest.to_string() {
        return Err(format!("it is of another manifest, {found}"));
    }
    Ok(critical.identity.docker_reference)
}
