//! Which repository a signature may name.
//!
//! A payload names the repository that it was pushed to (`docker-reference`). A bundle names none: it counts for the
//! repository that it was found in.

use super::Subject;
use crate::name::RepositoryAddress;

/// The rule for the names.
#[derive(Clone, Debug, PartialEq)]
pub enum Identity {
    /// This repository by any tag, or another one that the settings name: the signatures of a copy name the original.
    Own { or: Option<RepositoryAddress> },
}

impl Identity {
    /// Checks the reference that a signature names.
    pub fn check(&self, named: Option<&str>, subject: &Subject<'_>) -> Result<(), String> {
        let Self::Own { or } = self;
        let Some(named) = named else { return Ok(()) };
        let mut expected = subject.repository.into_iter().chain(or);
        let found = repository(named);
        if found.is_some() && expected.any(|one| found.as_ref() == Some(one)) {
            return Ok(());
        }
        let expected = match subject.repository {
            Some(own) => format!("expected {own}"),
            None => "and an OCI layout has no name of its own".to_owned(),
        };
        Err(format!(
            "it names the repository {named:?}, {expected}; 'identity' beside the key allows another one"
        ))
    }
}

/// The repository of a reference as docker and containers write it: `host/repository[:tag][@digest]`.
fn repository(reference: &str) -> Option<RepositoryAddress> {
    let (name, _) = reference.split_once('@').unwrap_or((reference, ""));
    let name = match name.rsplit_once(':') {
        // A colon before a slash is that of a port.
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    };
    let RepositoryAddress { host, repository } = name.parse().ok()?;
    Some(RepositoryAddress::of(&host?, &repository))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_names_a_repository_with_its_host() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (reference, expected) in [
            ("ghcr.io/acme/k8s", Some("ghcr.io/acme/k8s")),
            ("ghcr.io/acme/k8s:v1", Some("ghcr.io/acme/k8s")),
            (
                &format!("ghcr.io/acme/k8s@{digest}"),
                Some("ghcr.io/acme/k8s"),
            ),
            (
                &format!("ghcr.io/acme/k8s:v1@{digest}"),
                Some("ghcr.io/acme/k8s"),
            ),
            ("localhost:5000/k8s", Some("localhost:5000/k8s")),
            ("localhost:5000/k8s:v1", Some("localhost:5000/k8s")),
            ("index.docker.io/library/x", Some("docker.io/library/x")),
            ("docker.io/x", Some("docker.io/library/x")),
            ("acme/k8s", None),
            ("k8s", None),
            ("k8s:v1", None),
            ("", None),
            ("https://ghcr.io/acme/k8s", None),
        ] {
            let expected = expected.map(|name| name.parse().unwrap());
            assert_eq!(repository(reference), expected, "{reference:?}");
        }
    }
}
