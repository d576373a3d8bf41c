//! Which reference a signature may name.
//!
//! A payload names the repository that it was pushed to (`docker-reference`). A bundle names none: it counts for the
//! repository that it was found in.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use super::Subject;
use crate::digest::Digest;
use crate::name::{DOCKER_HUB, Host, Repository, RepositoryAddress, Tag};

/// The rule for the names. All but the first are those of containers-policy.json(5), `signedIdentity`
/// (containers/image, `signature/policy_reference_match.go`).
#[derive(Clone, Debug, PartialEq)]
pub enum Identity {
    /// This repository by any tag, or another one that the settings name: the signatures of a copy name the original.
    Own { or: Option<RepositoryAddress> },
    /// `matchExact`
    Exact,
    /// `matchRepoDigestOrExact`
    RepoDigestOrExact,
    /// `matchRepository`
    Repository,
    /// `exactReference`
    ExactReference(Exact),
    /// `exactRepository`
    ExactRepository(RepositoryAddress),
    /// `remapIdentity`
    Remap(Remap),
}

/// A reference as docker and containers write it: `[host/]repository[:tag][@digest]`, without a host on Docker Hub.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct Exact {
    pub repository: RepositoryAddress,
    pub tag: Option<Tag>,
    pub digest: Option<Digest>,
}

/// A prefix that signatures have another one for.
#[derive(Clone, Debug, PartialEq)]
pub struct Remap {
    prefix: String,
    signed: String,
}

impl Identity {
    /// Whether the tag by which a manifest was asked for decides anything.
    pub fn looks_at_tag(&self) -> bool {
        matches!(self, Self::Exact | Self::RepoDigestOrExact | Self::Remap(_))
    }

    /// Checks the reference that a signature names.
    pub fn check(&self, named: Option<&str>, subject: &Subject<'_>) -> Result<(), String> {
        let Some(named) = named else {
            return self.check_nameless(subject);
        };
        let found: Result<Exact, _> = named.parse();
        let is_right = match (&found, self) {
            (Err(_), _) => false,
            (Ok(found), Self::Own { or }) => {
                let mut expected = subject.repository.into_iter().chain(or);
                expected.any(|one| *one == found.repository)
            }
            (Ok(found), Self::Exact) => {
                let own = Exact::of(subject);
                !found.is_name_only() && own.as_ref() == Some(found)
            }
            (Ok(found), Self::RepoDigestOrExact) => {
                Exact::of(subject).is_some_and(|own| own.is_repo_digest_or(found))
            }
            (Ok(found), Self::Repository) => Some(&found.repository) == subject.repository,
            (Ok(found), Self::ExactReference(expected)) => found == expected,
            (Ok(found), Self::ExactRepository(expected)) => found.repository == *expected,
            (Ok(found), Self::Remap(remap)) => {
                let own = Exact::of(subject).and_then(|own| remap.apply(own));
                own.is_some_and(|own| own.is_repo_digest_or(found))
            }
        };
        if is_right {
            return Ok(());
        }
        let expected = match (self, subject.repository) {
            (Self::Own { .. }, Some(own)) => {
                format!("expected {own}; 'identity' beside the key allows another one")
            }
            (Self::Own { .. }, None) => {
                "and an OCI layout has no name of its own; 'identity' beside the key allows it"
                    .to_owned()
            }
            (rule, _) => format!(
                "which is not what signedIdentity asks for ({rule}); cosign writes no tag, matchRepository takes that"
            ),
        };
        Err(format!("it names the repository {named:?}, {expected}"))
    }

    /// Whether a signature counts that names no repository.
    fn check_nameless(&self, subject: &Subject<'_>) -> Result<(), String> {
        match self {
            Self::Own { .. } | Self::Repository => Ok(()),
            Self::ExactRepository(expected) if Some(expected) == subject.repository => Ok(()),
            rule => Err(format!(
                "it names no repository, and signedIdentity asks for one ({rule}); matchRepository takes it"
            )),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own { .. } => "identity",
            Self::Exact => "matchExact",
            Self::RepoDigestOrExact => "matchRepoDigestOrExact",
            Self::Repository => "matchRepository",
            Self::ExactReference(_) => "exactReference",
            Self::ExactRepository(_) => "exactRepository",
            Self::Remap(_) => "remapIdentity",
        })
    }
}

impl Exact {
    /// The reference that a manifest was asked for by: with its tag, else its digest.
    fn of(subject: &Subject<'_>) -> Option<Self> {
        Some(Self {
            repository: subject.repository?.clone(),
            tag: subject.tag.cloned(),
            digest: subject.tag.is_none().then_some(subject.manifest),
        })
    }

    /// Whether it has neither a tag nor a digest.
    pub fn is_name_only(&self) -> bool {
        self.tag.is_none() && self.digest.is_none()
    }

    /// Whether a signature's reference is the same; for a manifest by digest, whether it is of the same repository.
    /// One that has neither a tag nor a digest is never the same.
    fn is_repo_digest_or(&self, signed: &Self) -> bool {
        match self.tag {
            Some(_) => self == signed,
            None => !signed.is_name_only() && self.repository == signed.repository,
        }
    }
}

impl FromStr for Exact {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            // A colon before a slash is that of a port.
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag.parse()?)),
            _ => (rest, None),
        };
        let RepositoryAddress { host, repository } = name.parse()?;
        let host = host.map_or_else(|| DOCKER_HUB.parse(), Ok)?;
        Ok(Self {
            repository: RepositoryAddress::of(&host, &repository),
            tag,
            digest,
        })
    }
}

impl TryFrom<String> for Exact {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl Remap {
    /// Both are a host, with a part of a path perhaps.
    pub fn new(prefix: String, signed: String) -> Result<Self, String> {
        for one in [&prefix, &signed] {
            let (host, path) = one.split_once('/').unzip();
            let host: Result<Host, _> = host.unwrap_or(one).parse();
            let path = path.map(str::parse::<Repository>).transpose();
            if host.is_err() || path.is_err() {
                return Err(format!(
                    "prefix {one:?} is not a host with or without a path"
                ));
            }
        }
        Ok(Self { prefix, signed })
    }

    /// The reference that a signature of this one has.
    fn apply(&self, mut own: Exact) -> Option<Exact> {
        let name = own.repository.to_string();
        let rest = name.strip_prefix(&self.prefix);
        if let Some(rest) = rest.filter(|rest| rest.is_empty() || rest.starts_with('/')) {
            let renamed: RepositoryAddress = format!("{}{rest}", self.signed).parse().ok()?;
            renamed.host.as_ref()?;
            own.repository = renamed;
        }
        Some(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_names_a_repository_and_without_a_host_one_of_docker_hub() {
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
            ("ghcr.io/acme/k8s@sha256:x", None),
            ("ghcr.io/acme/k8s:", None),
            ("acme/k8s", Some("docker.io/acme/k8s")),
            ("k8s", Some("docker.io/library/k8s")),
            ("k8s:v1", Some("docker.io/library/k8s")),
            ("", None),
            ("https://ghcr.io/acme/k8s", None),
        ] {
            let expected = expected.map(|name| name.parse().unwrap());
            let found = reference.parse().ok();
            let found = found.map(|found: Exact| found.repository);
            assert_eq!(found, expected, "{reference:?}");
        }
    }

    /// The rows of containers/image, `signature/policy_reference_match_test.go`, as far as names have their hosts.
    #[test]
    fn an_identity_matches_as_containers_image_has_it() {
        let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
        let by_digest = format!("ghcr.io/a/b@{digest}");
        let reference = |text: &str| text.parse::<Exact>().unwrap();
        let remap = |prefix: &str, signed: &str| {
            Identity::Remap(Remap::new(prefix.into(), signed.into()).unwrap())
        };
        let exact = Identity::ExactReference(reference("ghcr.io/x/y:v9"));
        let repository = Identity::ExactRepository("ghcr.io/x/y".parse().unwrap());
        let remapped = remap("ghcr.io/a", "quay.io/z");
        // Asked for, named by the signature (an empty one names nothing), and whether each of these rules takes it.
        for (own, named, expected) in [
            (
                "ghcr.io/a/b:v1",
                "ghcr.io/a/b:v1",
                [true, true, true, false, false, false],
            ),
            (
                "ghcr.io/a/b:v1",
                "ghcr.io/a/b:v2",
                [false, false, true, false, false, false],
            ),
            (
                "ghcr.io/a/b:v1",
                "ghcr.io/a/b",
                [false, false, true, false, false, false],
            ),
            (
                "ghcr.io/a/b:v1",
                &by_digest,
                [false, false, true, false, false, false],
            ),
            ("ghcr.io/a/b:v1", "ghcr.io/a/c:v1", [false; 6]),
            (
                &by_digest,
                &by_digest,
                [true, true, true, false, false, false],
            ),
            (
                &by_digest,
                "ghcr.io/a/b",
                [false, false, true, false, false, false],
            ),
            (
                &by_digest,
                "ghcr.io/a/b:v1",
                [false, true, true, false, false, false],
            ),
            (
                "ghcr.io/a/b:v1",
                "ghcr.io/x/y:v9",
                [false, false, false, true, true, false],
            ),
            (
                "ghcr.io/a/b:v1",
                "ghcr.io/x/y",
                [false, false, false, false, true, false],
            ),
            (
                "ghcr.io/a/b:v1",
                "quay.io/z/b:v1",
                [false, false, false, false, false, true],
            ),
            ("ghcr.io/a/b:v1", "quay.io/z/b:v2", [false; 6]),
            (
                "ghcr.io/ab/b:v1",
                "ghcr.io/ab/b:v1",
                [true, true, true, false, false, true],
            ),
            ("ghcr.io/a/b:v1", "nonsense", [false; 6]),
            (
                "ghcr.io/a/b:v1",
                "",
                [false, false, true, false, false, false],
            ),
            (
                "ghcr.io/x/y:v1",
                "",
                [false, false, true, false, true, false],
            ),
        ] {
            let own = reference(own);
            let subject = Subject {
                manifest: digest.parse().unwrap(),
                repository: Some(&own.repository),
                tag: own.tag.as_ref(),
                now: jiff::Timestamp::UNIX_EPOCH,
            };
            let rules = [
                &Identity::Exact,
                &Identity::RepoDigestOrExact,
                &Identity::Repository,
                &exact,
                &repository,
                &remapped,
            ];
            let named = Some(named).filter(|named| !named.is_empty());
            let found = rules.map(|rule| rule.check(named, &subject).is_ok());
            assert_eq!(found, expected, "{own:?} signed as {named:?}");
        }
        for (prefix, signed) in [
            ("", "a.b"),
            ("a.b/", "a.b"),
            ("a.b", "a.b/B"),
            ("a_b", "a.b"),
        ] {
            assert!(
                Remap::new(prefix.into(), signed.into()).is_err(),
                "{prefix:?}, {signed:?}"
            );
        }
    }
}
