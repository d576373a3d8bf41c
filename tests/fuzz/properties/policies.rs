//! `policy.json` as an administrator wrote it.

use std::path::Path;

use serde_json::Value;

use crate::digest::Digest;
use crate::name::RepositoryAddress;
use crate::trust::{Policy, Scope};

const KEY: &[u8] = include_bytes!("../../cosign/p256.pub");

/// A policy is read the same twice, or refused with one line. What is accepted has a default, and without
/// `insecureAcceptAnything` in it nothing is accepted unasked.
pub fn policies(data: &[u8]) {
    let path = Path::new("/etc/containers/policy.json");
    let read = |path: &Path| match path.ends_with("missing.pub") {
        true => Err("it is not there".to_owned()),
        false => Ok(KEY.to_vec()),
    };
    let policy = match Policy::parse(path, data, read) {
        Ok(policy) => policy,
        Err(why) => return assert!(!why.contains('\n'), "{why:?}"),
    };
    assert_eq!(Policy::parse(path, data, read).as_ref(), Ok(&policy));

    let json: Value = serde_json::from_slice(data).unwrap();
    assert!(json["default"].is_array(), "a policy without a default");
    let text = String::from_utf8_lossy(data);
    // JSON may escape any character of the word.
    let may_accept_anything = text.contains("insecureAcceptAnything") || text.contains('\\');
    let repository: RepositoryAddress = "ghcr.io/acme/k8s".parse().unwrap();
    let (tag, digest) = ("v1".parse().unwrap(), Digest::of(b""));
    for scope in [
        Scope::Docker(&repository, Some(&tag), digest),
        Scope::Docker(&repository, None, digest),
        Scope::Oci(Path::new("/srv/updates/k8s")),
    ] {
        let rules = policy.rules(&scope);
        assert!(!rules.is_empty() || may_accept_anything, "{scope:?}");
        assert!(rules.is_empty() || !policy.accepts_anything(), "{scope:?}");
    }
}
