//! The keys that `verify` names: read when the settings are, so that a key that is missing is known at the start.

use std::path::Path;
use std::sync::Arc;

use super::files::read_text;
use super::{RepositorySettings, SignerSetting};
use crate::error::{Error, Result};
use crate::name::RepositoryAddress;
use crate::trust::{Identity, Key, Rule, Signer};

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
        let pem = read_text(&root.join(key.strip_prefix("/").unwrap_or(key)));
        let pem = pem.map_err(|error| match error {
            Error::BadSettings { why, .. } => bad(signer, why),
            error => error,
        })?;
        let name = key.display().to_string();
        signers.push(Signer {
            key: Key::parse(&name, pem.as_bytes()).map_err(|why| bad(signer, why))?,
            identity: Identity::Own {
                or: identity.clone(),
            },
        });
    }
    let rule = Rule::Signed { signers, threshold };
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
