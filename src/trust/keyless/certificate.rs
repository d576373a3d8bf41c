//! The names in a certificate. Whether it counts is decided before: see `root.rs` and `authority.rs`.

use x509_cert::Certificate;
use x509_cert::der::{Decode, asn1::Utf8StringRef, oid::ObjectIdentifier};
use x509_cert::ext::pkix::{SubjectAltName, name::GeneralName};

use super::Who;

/// Fulcio's extensions with the issuer: <https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md>. The older one is
/// text, the newer one DER.
const ISSUER_V1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.57264.1.1");
const ISSUER_V2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.57264.1.8");

/// The signer that a certificate in DER form names.
pub fn who(der: &[u8]) -> Result<Who, String> {
    let bad = |error| format!("its certificate cannot be read: {error}");
    let certificate = Certificate::from_der(der).map_err(bad)?;
    let fields = &certificate.tbs_certificate;
    let names: Option<(bool, SubjectAltName)> = fields.get().map_err(bad)?;
    let names = names.map(|(_, names)| names.0).unwrap_or_default();
    let email = |name: &GeneralName| match name {
        GeneralName::Rfc822Name(email) => Some(email.to_string()),
        _ => None,
    };
    let first = names.iter().find_map(|name| match name {
        GeneralName::UniformResourceIdentifier(uri) => Some(uri.to_string()),
        other => email(other),
    });
    let mut issuers = Vec::new();
    for extension in fields.extensions.iter().flatten() {
        let value = extension.extn_value.as_bytes();
        let issuer = match extension.extn_id {
            ISSUER_V1 => String::from_utf8(value.to_vec()).map_err(|error| error.to_string()),
            ISSUER_V2 => Utf8StringRef::from_der(value)
                .map(|text| text.to_string())
                .map_err(|error| error.to_string()),
            _ => continue,
        };
        issuers.push(issuer.map_err(|error| format!("the issuer in its certificate: {error}"))?);
    }
    issuers.dedup();
    if issuers.len() > 1 {
        let found = issuers.join(" and ");
        return Err(format!("its certificate has two issuers, {found}"));
    }
    Ok(Who {
        subject: first.ok_or("its certificate names neither an email address nor a URI")?,
        emails: names.iter().filter_map(email).collect(),
        issuer: issuers.pop(),
    })
}
