//! containers-policy.json(5): what podman, skopeo and bootc ask of images, as strict as they read it.
//!
//! By containers/image, `signature/policy_config.go` (the file), `policy_eval.go` (which scope counts) and
//! `docker/policyconfiguration` (the scopes of a reference).

mod requirement;

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::Rule;
use crate::digest::Digest;
use crate::name::{RepositoryAddress, Tag};
use crate::printable::printable;
use requirement::{NonEmpty, Object, Requirement, given};

/// A policy, with the keys that it names. A scope without rules accepts anything.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Its file.
    pub path: PathBuf,
    default: Vec<Arc<Rule>>,
    /// The rules by transport (`docker`, `oci`) and scope.
    scopes: BTreeMap<String, BTreeMap<String, Vec<Arc<Rule>>>>,
}

/// A manifest as the policy knows it.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// `docker://`, by tag or by digest.
    Docker(&'a RepositoryAddress, Option<&'a Tag>, Digest),
    /// `oci:/path`
    Oci(&'a Path),
}

impl Policy {
    /// Reads a policy from its file. `read`: the bytes of a key file.
    pub fn parse(
        path: &Path,
        json: &[u8],
        read: impl Fn(&Path) -> Result<Vec<u8>, String>,
    ) -> Result<Self, String> {
        // Words of the file may have line ends.
        let policy = Self::parsed(path, json, read);
        policy.map_err(|why| printable(&why).into_owned())
    }

    fn parsed(
        path: &Path,
        json: &[u8],
        read: impl Fn(&Path) -> Result<Vec<u8>, String>,
    ) -> Result<Self, String> {
        let raw: Result<Object<Raw>, _> = serde_json::from_slice(json);
        let raw = raw.map_err(|error| error.to_string())?.0;
        let rules = |scope: String, requirements: NonEmpty<Object<Requirement>>| {
            let origin = format!("{} in {}", printable(&scope), path.display());
            let rules = requirements
                .0
                .into_iter()
                .map(|one| one.0.rule(&origin, &read));
            let rules: Result<Vec<_>, String> = rules.collect();
            let rules = rules.map_err(|why| format!("{scope}: {why}"))?;
            let rules = rules.into_iter().flatten().map(Arc::new);
            Ok::<_, String>(rules.collect::<Vec<_>>())
        };
        let mut scopes = BTreeMap::new();
        for (transport, of_transport) in raw.transports.unwrap_or_default().0 {
            let read_scope = |(scope, requirements): (String, _)| {
                let name = format!("{transport}:{scope}");
                check_scope(&transport, &scope).map_err(|why| format!("{name}: {why}"))?;
                Ok::<_, String>((scope, rules(name, requirements)?))
            };
            let of_transport: Result<_, String> =
                of_transport.0.into_iter().map(read_scope).collect();
            scopes.insert(transport, of_transport?);
        }
        Ok(Self {
            path: path.to_owned(),
            default: rules("default".to_owned(), raw.default)?,
            scopes,
        })
    }

    /// Whether it has no rules.
    pub fn accepts_anything(&self) -> bool {
        let mut scopes = self.scopes.values().flat_map(BTreeMap::values);
        self.default.is_empty() && scopes.all(Vec::is_empty)
    }

    /// The rules for a manifest: those of the first scope that there is, from the narrowest.
    pub fn rules(&self, scope: &Scope<'_>) -> &[Arc<Rule>] {
        let (transport, names) = match scope {
            Scope::Docker(repository, tag, digest) => (
                "docker",
                docker_scopes(&repository.to_string(), *tag, *digest),
            ),
            Scope::Oci(path) => ("oci", oci_scopes(path)),
        };
        let scopes = self.scopes.get(transport);
        let found = scopes.and_then(|scopes| {
            let mut names = names.iter().map(String::as_str).chain([""]);
            names.find_map(|name| scopes.get(name))
        });
        found.unwrap_or(&self.default)
    }
}

/// Checks a scope where it must be a path or cannot be: `ValidatePolicyConfigurationScope` of the transports.
fn check_scope(transport: &str, scope: &str) -> Result<(), String> {
    let is_right = match transport {
        _ if scope.is_empty() => true,
        "dir" | "oci" | "oci-archive" | "sif" => scope
            .strip_prefix('/')
            .is_some_and(|path| path.split('/').all(|part| !matches!(part, "" | "." | ".."))),
        "docker-archive" | "tarball" => false,
        _ => true,
    };
    is_right.then_some(()).ok_or_else(|| {
        "this is no scope of this transport, expected \"\" or, for dir, oci, oci-archive and sif, an absolute \
         path in its shortest form, without '/' alone"
            .to_owned()
    })
}

/// The scopes of a reference, the narrowest first: itself, its repository, what that is below, its host, and wildcards
/// for the domains of that.
fn docker_scopes(name: &str, tag: Option<&Tag>, digest: Digest) -> Vec<String> {
    let mut scopes = vec![match tag {
        Some(tag) => format!("{name}:{tag}"),
        None => format!("{name}@{digest}"),
    }];
    let mut rest = name;
    loop {
        scopes.push(rest.to_owned());
        match rest.rsplit_once('/') {
            Some((above, _)) => rest = above,
            None => break,
        }
    }
    let mut domain = rest.split(':').next().unwrap_or_default();
    while let Some((_, above)) = domain.split_once('.') {
        scopes.push(format!("*.{above}"));
        domain = above;
    }
    scopes
}

/// A directory and those above it, without the root.
fn oci_scopes(path: &Path) -> Vec<String> {
    let above = path.ancestors().filter(|one| one.parent().is_some());
    above.map(|one| one.display().to_string()).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    default: NonEmpty<Object<Requirement>>,
    #[serde(default, deserialize_with = "given")]
    transports: Option<Unique<Unique<NonEmpty<Object<Requirement>>>>>,
}

/// An object that has no name twice.
struct Unique<T>(BTreeMap<String, T>);

impl<T> Default for Unique<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Unique<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UniqueVisitor(PhantomData))
    }
}

struct UniqueVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for UniqueVisitor<T> {
    type Value = Unique<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique<T>, A::Error> {
        let mut found = BTreeMap::new();
        while let Some((name, value)) = map.next_entry::<String, T>()? {
            if found.insert(name.clone(), value).is_some() {
                return Err(A::Error::custom(format!("{name:?} is in it twice")));
            }
        }
        Ok(Unique(found))
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;

    use super::*;
    use crate::trust::{Place, Signature, Subject, Trial, Verdict};

    fn read(path: &Path) -> Result<Vec<u8>, String> {
        let name = path.file_name().unwrap().to_str().unwrap();
        let path = format!("{}/tests/cosign/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(path).map_err(|_| "there is no such file".to_owned())
    }

    fn policy(json: &str) -> Result<Policy, String> {
        Policy::parse(Path::new("/policy.json"), json.as_bytes(), read)
    }

    /// Anything outside the format refuses the whole file, as in containers/image
    /// (`signature/policy_config_test.go`).
    #[test]
    fn a_policy_is_read_strictly() {
        let accept = r#"[{"type":"insecureAcceptAnything"}]"#;
        let of_docker = |requirement: &str| {
            format!(r#"{{"default":{accept},"transports":{{"docker":{{"":[{requirement}]}}}}}}"#)
        };
        let signed = |more: &str| of_docker(&format!(r#"{{"type":"sigstoreSigned",{more}}}"#));
        let identity = |identity: &str| {
            signed(&format!(
                r#""keyPath":"/p256.pub","signedIdentity":{{{identity}}}"#
            ))
        };
        let good = [
            format!(r#"{{"default":{accept}}}"#),
            format!(r#"{{"default":{accept},"transports":{{}}}}"#),
            format!(r#"{{"default":{accept},"transports":{{"docker-daemon":{{"":{accept}}}}}}}"#),
            of_docker(r#"{"type":"reject"}"#),
            of_docker(r#"{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k.gpg"}"#),
            of_docker(r#"{"type":"signedBaseLayer","baseLayerIdentity":{"type":"matchExact"}}"#),
            signed(r#""keyPath":"/p256.pub""#),
            signed(r#""keyPaths":["/p256.pub","/p384.pub"]"#),
            signed(r#""keyData":"AAAA""#),
            signed(
                r#""fulcio":{"caPath":"/ca","oidcIssuer":"i","subjectEmail":"e"},"rekorPublicKeyPath":"/r""#,
            ),
            signed(r#""pki":{"caRootsPath":"/ca","subjectEmail":"e"}"#),
            signed(r#""keyPath":"/p256.pub","rekorPublicKeyData":"AAAA""#),
            identity(r#""type":"matchExact""#),
            identity(r#""type":"matchRepoDigestOrExact""#),
            identity(r#""type":"matchRepository""#),
            identity(r#""type":"exactReference","dockerReference":"ghcr.io/a/b:v1""#),
            identity(r#""type":"exactRepository","dockerRepository":"ghcr.io/a/b""#),
            identity(r#""type":"remapIdentity","prefix":"ghcr.io/a","signedPrefix":"quay.io""#),
        ];
        for json in &good {
            assert!(policy(json).is_ok(), "{json}: {:?}", policy(json));
        }
        for (json, reason) in [
            (String::new(), "EOF"),
            ("{}".to_owned(), "missing field `default`"),
            (r#"{"default":[]}"#.to_owned(), "an empty list"),
            (
                format!(r#"{{"default":{accept},"x":1}}"#),
                "unknown field `x`",
            ),
            (
                format!(r#"{{"default":{accept},"default":{accept}}}"#),
                "duplicate field",
            ),
            (format!(r#"{{"default":{accept}}} x"#), "trailing"),
            (
                format!(
                    r#"{{"default":{accept},"transports":{{"docker":{{"":{accept},"":{accept}}}}}}}"#
                ),
                "\"\" is in it twice",
            ),
            (
                format!(r#"{{"default":{accept},"transports":{{"docker":{{"":[]}}}}}}"#),
                "an empty list",
            ),
            (of_docker(r#"{"type":"other"}"#), "unknown variant `other`"),
            (of_docker(r#"{}"#), "missing field `type`"),
            (of_docker(r#"{"type":"reject","x":1}"#), "unknown field `x`"),
            (
                of_docker(r#"{"type":"reject","type":"reject"}"#),
                "duplicate field",
            ),
            (
                of_docker(r#"{"type":"signedBy","keyPath":"/k"}"#),
                "missing field",
            ),
            (signed(r#""x":1"#), "unknown field `x`"),
            (
                signed(r#""signedIdentity":{"type":"matchExact"}"#),
                "exactly one of keyPath",
            ),
            (
                signed(r#""keyPath":"/a","keyPaths":["/b"]"#),
                "exactly one of keyPath",
            ),
            (
                signed(r#""keyPath":"/a","keyPath":"/b""#),
                "duplicate field",
            ),
            (signed(r#""keyPaths":[]"#), "an empty list"),
            (
                signed(r#""fulcio":{"caPath":"/ca","oidcIssuer":"i","subjectEmail":"e"}"#),
                "needs a key of Rekor",
            ),
            (
                signed(
                    r#""pki":{"caRootsPath":"/ca","subjectEmail":"e"},"rekorPublicKeyPath":"/r""#,
                ),
                "exclude each other",
            ),
            (signed(r#""keyData":"*""#), "base64"),
            (
                signed(r#""keyPath":"/a","rekorPublicKeyPath":"/r","rekorPublicKeyData":"AAAA""#),
                "several keys of Rekor",
            ),
            (identity(r#""type":"matchOther""#), "is unknown"),
            (identity(r#""type":"matchExact","x":1"#), "unknown field"),
            (identity(r#""type":"exactReference""#), "exactly the fields"),
            (
                identity(r#""type":"exactReference","dockerReference":"ghcr.io/a/b""#),
                "needs a tag or a digest",
            ),
            (
                identity(r#""type":"exactRepository","dockerRepository":"ghcr.io/A""#),
                "is not a name component",
            ),
            (
                identity(r#""type":"remapIdentity","prefix":"","signedPrefix":"quay.io""#),
                "is not a host",
            ),
        ] {
            match policy(&json) {
                Ok(found) => panic!("{json} was read: {found:?}"),
                Err(why) => assert!(
                    why.contains(reason),
                    "{json}: {why:?} does not say {reason:?}"
                ),
            }
        }
    }

    /// The rows of `docker/policyconfiguration/naming_test.go`, and one for each step of the lookup.
    #[test]
    fn the_narrowest_scope_counts_alone() {
        let reject = |name: &str| format!(r#""{name}":[{{"type":"reject"}}]"#);
        let digest = Digest::of(b"x");
        let scopes = [
            "ghcr.io/acme/k8s:v1".to_owned(),
            format!("ghcr.io/acme/k8s@{digest}"),
            "ghcr.io/acme/k8s".to_owned(),
            "ghcr.io/acme".to_owned(),
            "quay.io".to_owned(),
            "registry.example.com:5000".to_owned(),
            "*.example.com".to_owned(),
            "*.org".to_owned(),
            "docker.io/library/x".to_owned(),
            String::new(),
        ];
        let docker: Vec<_> = scopes.iter().map(|scope| reject(scope)).collect();
        let policy = policy(&format!(
            r#"{{"default":[{{"type":"reject"}}],"transports":{{"docker":{{{}}},"oci":{{{},{}}}}}}}"#,
            docker.join(","),
            reject("/srv/updates"),
            r#""/srv/open":[{"type":"insecureAcceptAnything"}]"#
        ))
        .unwrap();
        let reason = |scope: &Scope<'_>| match policy.rules(scope) {
            [] => "anything".to_owned(),
            [rule] => match &**rule {
                Rule::Never(why) => why.replace(" in /policy.json: it is rejected", ""),
                rule => panic!("{rule:?}"),
            },
            rules => panic!("{rules:?}"),
        };
        for (name, tag, expected) in [
            ("ghcr.io/acme/k8s", Some("v1"), "docker:ghcr.io/acme/k8s:v1"),
            ("ghcr.io/acme/k8s", Some("v2"), "docker:ghcr.io/acme/k8s"),
            ("ghcr.io/acme/other/deep", Some("v1"), "docker:ghcr.io/acme"),
            ("ghcr.io/acmes/k8s", Some("v1"), "docker:"),
            ("quay.io/a/b", None, "docker:quay.io"),
            (
                "registry.example.com:5000/a",
                None,
                "docker:registry.example.com:5000",
            ),
            ("registry.example.com:8443/a", None, "docker:*.example.com"),
            ("a.b.example.com/a", None, "docker:*.example.com"),
            ("example.com/a", None, "docker:"),
            ("a.example.org/a", None, "docker:*.org"),
            ("docker.io/library/x", None, "docker:docker.io/library/x"),
            ("localhost:5000/a", None, "docker:"),
        ] {
            let name = name.parse().unwrap();
            let tag = tag.map(|tag| tag.parse().unwrap());
            let scope = Scope::Docker(&name, tag.as_ref(), Digest::of(b"other"));
            assert_eq!(reason(&scope), expected, "{name}");
        }
        let k8s = "ghcr.io/acme/k8s".parse().unwrap();
        let by_digest = reason(&Scope::Docker(&k8s, None, digest));
        assert_eq!(by_digest, format!("docker:ghcr.io/acme/k8s@{digest}"));
        for (path, expected) in [
            ("/srv/updates", "oci:/srv/updates"),
            ("/srv/updates/k8s", "oci:/srv/updates"),
            ("/srv/updates-not", "default"),
            ("/srv/open/a", "anything"),
        ] {
            assert_eq!(reason(&Scope::Oci(Path::new(path))), expected, "{path}");
        }
    }

    #[test]
    fn a_requirement_holds_by_a_signature_of_one_of_its_keys() {
        let pem = BASE64_STANDARD.encode(read(Path::new("p256.pub")).unwrap());
        let any = r#","signedIdentity":{"type":"matchRepository"}"#;
        let by = "key /p256.pub (.sig tag)";
        for (more, expected) in [
            (format!(r#""keyPath":"/p256.pub"{any}"#), Ok(by)),
            (
                format!(r#""keyPaths":["/rsa.pub","/p256.pub"]{any}"#),
                Ok(by),
            ),
            (
                format!(r#""keyData":"{pem}"{any}"#),
                Ok("key of default in /policy.json (.sig tag)"),
            ),
            (
                format!(r#""keyPath":"/rsa.pub"{any}"#),
                Err("another key made it"),
            ),
            // cosign writes no tag.
            (
                r#""keyPath":"/p256.pub""#.to_owned(),
                Err("asks for (matchRepoDigestOrExact)"),
            ),
            // One key that cannot be loaded spoils the others.
            (
                format!(r#""keyPaths":["/p256.pub","/gone.pub"]{any}"#),
                Err("key /gone.pub: there is no such file"),
            ),
            (
                format!(r#""keyData":"AAAA"{any}"#),
                Err("key of default in /policy.json"),
            ),
            (
                format!(r#""keyPath":"/p256.pub","rekorPublicKeyPath":"/r"{any}"#),
                Err("key of Rekor /r: there is no such file"),
            ),
            (
                r#""fulcio":{"caPath":"/ca","oidcIssuer":"i","subjectEmail":"e"},"rekorPublicKeyPath":"/r""#
                    .to_owned(),
                Err("key of Rekor /r: there is no such file"),
            ),
            (
                r#""pki":{"caRootsPath":"/ca","subjectEmail":"e"}"#.to_owned(),
                Err("certificate /ca: there is no such file"),
            ),
        ] {
            let json = format!(r#"{{"default":[{{"type":"sigstoreSigned",{more}}}]}}"#);
            let policy = policy(&json).unwrap();
            let repository = "localhost:5000/hello".parse().unwrap();
            let tag = "v1".parse().unwrap();
            let manifest = Digest::of(&read(Path::new("manifest.json")).unwrap());
            let rules = policy.rules(&Scope::Docker(&repository, Some(&tag), manifest));
            let subject = Subject {
                manifest,
                repository: Some(&repository),
                tag: Some(&tag),
                now: jiff::Timestamp::UNIX_EPOCH,
            };
            let mut trial = Trial::new(rules, subject);
            let text = |name: &str| String::from_utf8(read(Path::new(name)).unwrap()).unwrap();
            let payload = text("p256.payload").into_bytes();
            let signature = Signature::simple(Place::SigTag, payload, &text("p256.signature"));
            trial.hear(&signature, None);
            match (trial.verdict(), expected) {
                (Verdict::Accepted(found), Ok(expected)) => assert_eq!(found, expected),
                (Verdict::Refused(why), Err(reason)) => assert!(why.contains(reason), "{why}"),
                (found, expected) => panic!("{more}: {found:?}, expected {expected:?}"),
            }
        }
    }
}
