//! `verify`: who must have signed the versions of a repository.

use std::path::PathBuf;
use std::str::FromStr;

use super::value::{Absolute, Mistake, Value, WithHost};
use crate::name::RepositoryAddress;
use crate::printable::printable;
use crate::trust::Signatory;

/// Longest issuer, subject or address, in bytes.
const MAX_TEXT: usize = 4 << 10;

/// Who may sign a repository's manifests.
#[derive(Clone, Debug, PartialEq)]
pub struct SignerSetting {
    pub by: SignedBy,
    /// The repository that signatures may name besides this one.
    pub identity: Option<RepositoryAddress>,
}

/// How a signer is known: by a key, or by the names in a certificate.
#[derive(Clone, Debug, PartialEq)]
pub enum SignedBy {
    /// A public key in this file, in PEM form.
    Key(PathBuf),
    /// A certificate of a service in the trusted root, for somebody who logged in.
    Keyless { issuer: String, subject: Signatory },
    /// A certificate of the authority in this file, in PEM form, for this email address.
    Authority { ca: PathBuf, email: String },
}

/// A text of a certificate.
struct Name(String);

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > MAX_TEXT || printable(text) != text {
            return Err(format!(
                "expected at most {MAX_TEXT} bytes of text that can be shown"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Reads a list of tables.
pub fn read(value: &Value<'_>) -> Result<Vec<SignerSetting>, Mistake> {
    let expected = format!("a list such as [{EXAMPLE}]");
    if let Some(text) = value.value.as_str() {
        return Err(value.unexpected(expected, Some(format!("[{}]", key(text)))));
    }
    let entries = value.entries(&expected)?;
    if entries.is_empty() {
        let why = "the list is empty; name a key, or leave 'verify' out to ask for no signature";
        return Err(value.mistake(why));
    }
    entries.iter().map(read_one).collect()
}

const EXAMPLE: &str = r#"{ key = "/etc/pki/acme.pub" }"#;

fn key(path: &str) -> String {
    format!("{{ key = {path:?} }}")
}

fn read_one(entry: &Value<'_>) -> Result<SignerSetting, Mistake> {
    let expected = format!("a table such as {EXAMPLE}");
    if let Some(text) = entry.value.as_str() {
        return Err(entry.unexpected(expected, Some(key(text))));
    }
    let (mut kinds, mut email, mut identity) = (Vec::new(), None, None);
    for value in entry.table(&expected)? {
        match value.key {
            "key" => kinds.push(SignedBy::Key(path(&value)?)),
            "keyless" => kinds.push(keyless(&value)?),
            "ca" => kinds.push(SignedBy::Authority {
                ca: path(&value)?,
                email: String::new(),
            }),
            "email" => email = Some((name(&value, r#""releases@example.com""#)?, value)),
            "identity" => {
                identity = Some(value.text::<WithHost>(r#""ghcr.io/acme/k8s""#)?.0);
            }
            _ => {
                let why =
                    "a signer has no such property; those are key, keyless, ca, email and identity";
                return Err(value.mistake(why));
            }
        }
    }
    if kinds.len() > 1 {
        let why = "an entry has one of key, keyless and ca; make an entry of each";
        return Err(entry.mistake(why));
    }
    let by = match (kinds.pop(), email) {
        (None, None) => return Err(entry.unexpected(expected, None)),
        (Some(SignedBy::Authority { ca, .. }), Some((email, _))) => {
            SignedBy::Authority { ca, email }
        }
        (Some(SignedBy::Authority { .. }), None) => {
            let why = "ca needs the address of the signer beside it, as in \
                       { ca = \"/etc/pki/acme-ca.pem\", email = \"releases@example.com\" }";
            return Err(entry.mistake(why));
        }
        (_, Some((_, value))) => {
            return Err(value.mistake("it belongs to a ca, and there is none beside it"));
        }
        (Some(by), None) => by,
    };
    Ok(SignerSetting { by, identity })
}

/// `example`: where it is no text, what would be one.
fn name(value: &Value<'_>, example: &str) -> Result<String, Mistake> {
    let Name(name) = value.text(example)?;
    match name.is_empty() {
        true => Err(value.mistake("it is empty, and a certificate names somebody")),
        false => Ok(name),
    }
}

fn path(value: &Value<'_>) -> Result<PathBuf, Mistake> {
    Ok(value.text::<Absolute>(r#""/etc/pki/acme.pub""#)?.0)
}

fn keyless(value: &Value<'_>) -> Result<SignedBy, Mistake> {
    const EXPECTED: &str = r#"a table such as { issuer = "https://token.actions.githubusercontent.com", subject = "https://github.com/acme/k8s/.github/workflows/release.yml@refs/heads/main" }"#;
    let (mut issuer, mut subjects) = (None, Vec::new());
    for value in value.table(EXPECTED)? {
        match value.key {
            "issuer" => issuer = Some(name(&value, r#""https://accounts.google.com""#)?),
            "subject" => {
                let subject = name(&value, r#""releases@example.com""#)?;
                subjects.push(Signatory::Exact(subject));
            }
            "subject-regex" => {
                let pattern = name(&value, r#""https://github\\.com/acme/.*""#)?;
                let pattern = Signatory::pattern(&pattern);
                subjects.push(pattern.map_err(|why| value.mistake(why))?);
            }
            _ => {
                let why =
                    "keyless has no such property; those are issuer, subject and subject-regex";
                return Err(value.mistake(why));
            }
        }
    }
    let Some(issuer) = issuer else {
        let why = format!("who had the signer log in is missing: issuer; expected {EXPECTED}");
        return Err(value.mistake(why));
    };
    let count = subjects.len();
    match (subjects.pop(), count) {
        (Some(subject), 1) => Ok(SignedBy::Keyless { issuer, subject }),
        _ => Err(value.mistake(format!(
            "expected one of subject and subject-regex, found {count}; anybody can log in at an issuer"
        ))),
    }
}
