//! The keys, authorities and trusted roots that `verify` names: read when the settings are, so that a key that is missing is known at the start.

use std::path::Path;
use std::sync::Arc;

use super::files::read_text;
use super::{RepositorySettings, SignedBy, SignerSetting};
use crate::error::{Error, Result};
use crate::name::RepositoryAddress;
use crate::trust::{Authority, By, Identity, Key, Keyless, Rule, Signer, TrustedRoot};

/// The bytes of a key's file, or why they cannot be had.
pub fn read_key(key: &Path, root: &Path) -> Result<Vec<u8>, String> {
    match read_text(&root.join(key.strip_prefix("/").unwrap_or(key))) {
        Ok(pem) => Ok(pem.into_bytes()),
        Err(Error::BadSettings { why, .. }) => Err(why),
        Err(error) => Err(error.line()),
    }
}

/// The trusted root of a repository.
fn trusted_root(
    repository: &RepositoryAddress,
    settings: &RepositorySettings,
    root: &Path,
) -> Result<TrustedRoot> {
    let path = &settings.trusted_root;
    let read = read_key(path, root).and_then(|json| TrustedRoot::parse(path, &json));
    read.map_err(|why| Error::BadSettings {
        path: path.clone(),
        line: None,
        why: format!(
            "{why} (keyless in 'verify' of [repository.\"{repository}\"] needs it; \
             `cosign trusted-root create --with-default-services` prints one)"
        ),
    })
}

/// Fails if a setting about signatures stands alone: nothing asks for any. `has_policy`: policy.json may.
pub fn check(
    repository: &RepositoryAddress,
    settings: &RepositorySettings,
    has_policy: bool,
) -> Result<()> {
    let alone = if !settings.verify.is_empty() {
        return Ok(());
    } else if settings.threshold > 1 {
        "threshold counts the signers of 'verify'"
    } else if settings.require_version && !has_policy {
        "require-version is about signed versions"
    } else {
        return Ok(());
    };
    Err(Error::BadSettings {
        path: "/etc/sysext-oci-proxy".into(),
        line: None,
        why: format!(
            "{alone}, and [repository.\"{repository}\"] has no 'verify'; name a key in it, as in \
             verify = [{{ key = \"/etc/pki/containers/acme.pub\" }}]"
        ),
    })
}

/// The rule by which the manifests of a repository must be signed, if its settings have one.
pub fn read(
    repository: &RepositoryAddress,
    settings: &RepositorySettings,
    root: &Path,
) -> Result<Option<Arc<Rule>>> {
    let threshold = settings.threshold;
    let Some(first) = settings.verify.first() else {
        return Ok(None);
    };
    let bad = |path: &Path, why: String| Error::BadSettings {
        path: path.into(),
        line: None,
        why: format!("{why} (it is named by 'verify' of [repository.\"{repository}\"])"),
    };
    let mut signers = Vec::new();
    // Read once for all of its signers.
    let mut trusted = None;
    for SignerSetting { by, identity } in &settings.verify {
        let by = match by {
            SignedBy::Key(path) => {
                let key = read_key(path, root);
                let key = key.and_then(|pem| Key::parse(&path.display().to_string(), &pem));
                By::Key(key.map_err(|why| bad(path, why))?)
            }
            SignedBy::Keyless { issuer, subject } => {
                if trusted.is_none() {
                    trusted = Some(Arc::new(trusted_root(repository, settings, root)?));
                }
                By::Keyless(Keyless {
                    root: trusted.clone().expect("it was read"),
                    issuer: issuer.clone(),
                    subject: subject.clone(),
                })
            }
            SignedBy::Authority { ca, email } => {
                let name = ca.display().to_string();
                let authority = read_key(ca, root);
                let authority =
                    authority.and_then(|pem| Authority::parse(&name, &pem, b"", Some(email), None));
                By::Authority(authority.map_err(|why| bad(ca, why))?)
            }
        };
        signers.push(Signer {
            by,
            identity: Identity::Own {
                or: identity.clone(),
            },
        });
    }
    let rule = Rule::Signed {
        signers,
        threshold,
        origin: None,
    };
    if rule.keys() < threshold {
        let why = format!(
            "threshold = {threshold} needs as many different signers, and 'verify' has {}; name more of them, or lower \
             the threshold",
            rule.keys()
        );
        let path = match &first.by {
            SignedBy::Key(path) | SignedBy::Authority { ca: path, .. } => path,
            SignedBy::Keyless { .. } => &settings.trusted_root,
        };
        return Err(bad(path, why));
    }
    Ok(Some(Arc::new(rule)))
}
