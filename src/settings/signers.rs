//! The keys that `verify` names: read when the settings are, so that a key that is missing is known at the start.

use std::path::Path;
use std::sync::Arc;

use super::files::read_text;
use super::{RepositorySettings, SignerSetting};
use crate::error::{Error, Result};
use crate::name::RepositoryAddress;
use crate::trust::{Identity, Key, Rule, Signer};

/// The bytes of a key's file, or why they cannot be had.
pub fn read_key(key: &Path, root: &Path) -> Result<Vec<u8>, String> {
    match read_text(&root.join(key.strip_prefix("/").unwrap_or(key))) {
        Ok(pem) => Ok(pem.into_bytes()),
        Err(Error::BadSettings { why, .. }) => Err(why),
        Err(error) => Err(error.line()),
    }
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
        "threshold counts the keys of 'verify'"
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
    let bad = |key: &SignerSetting, why: String| Error::BadSettings {
        path: key.key.clone(),
        line: None,
        why: format!("{why} (it is a key in 'verify' of [repository.\"{repository}\"])"),
    };
    let mut signers = Vec::new();
    for signer in &settings.verify {
        let SignerSetting { key, identity } = signer;
        let name = key.display().to_string();
        let parsed = read_key(key, root).and_then(|pem| Key::parse(&name, &pem));
        signers.push(Signer {
            key: parsed.map_err(|why| bad(signer, why))?,
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
            "threshold = {threshold} needs as many different keys, and 'verify' has {}; name more of them, or lower \
             the threshold",
            rule.keys()
        );
        return Err(bad(first, why));
    }
    Ok(Some(Arc::new(rule)))
}
