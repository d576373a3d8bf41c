//! containers-policy.json(5): what podman, skopeo and bootc ask of images, as strict as they read it.
//!
//! By containers/image, `signature/policy_config.go` (the file), `policy_eval.go` (which scope counts) and
//! `docker/policyconfiguration` (the scopes of a reference).

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::identity::{Exact, Remap};
use super::{Identity, Key, Rule, Signer};
use crate::digest::Digest;
use crate::name::{RepositoryAddress, Tag};

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
        let raw: Raw = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let rules = |scope: String, requirements: NonEmpty<Requirement>| {
            let origin = format!("{scope} in {}", path.display());
            let rules = requirements
                .0
                .into_iter()
                .map(|one| one.rule(&origin, &read));
            let rules: Result<Vec<_>, String> = rules.collect();
            let rules = rules.map_err(|why| format!("{scope}: {why}"))?;
            let rules = rules.into_iter().flatten().map(Arc::new);
            Ok::<_, String>(rules.collect::<Vec<_>>())
        };
        let mut scopes = BTreeMap::new();
        for (transport, of_transport) in raw.transports.unwrap_or_default().0 {
            let read_scope = |(scope, requirements): (String, _)| {
                let name = format!("{transport}:{scope}");
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
    default: NonEmpty<Requirement>,
    transports: Option<Unique<Unique<NonEmpty<Requirement>>>>,
}

/// A list with one entry at least.
#[derive(Deserialize)]
#[serde(try_from = "Vec<T>", bound = "T: Deserialize<'de>")]
struct NonEmpty<T>(Vec<T>);

impl<T> TryFrom<Vec<T>> for NonEmpty<T> {
    type Error = String;

    fn try_from(list: Vec<T>) -> Result<Self, String> {
        match list.is_empty() {
            true => Err("an empty list, expected a requirement at least".to_owned()),
            false => Ok(Self(list)),
        }
    }
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

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", deny_unknown_fields)]
enum Requirement {
    InsecureAcceptAnything {},
    Reject {},
    #[serde(rename_all = "camelCase")]
    SignedBy {
        #[serde(rename = "keyType")]
        _key_type: IgnoredAny,
        #[serde(rename = "keyPath")]
        _key_path: Option<IgnoredAny>,
        #[serde(rename = "keyPaths")]
        _key_paths: Option<IgnoredAny>,
        #[serde(rename = "keyData")]
        _key_data: Option<IgnoredAny>,
        #[serde(rename = "signedIdentity")]
        _signed_identity: Option<RawIdentity>,
    },
    #[serde(rename_all = "camelCase")]
    SignedBaseLayer {
        #[serde(rename = "baseLayerIdentity")]
        _base_layer_identity: RawIdentity,
    },
    SigstoreSigned(Box<Sigstore>),
}

/// Whether a key is there, also if its value is null: containers/image counts keys
/// (`signature/policy_config_sigstore.go`).
fn given<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Sigstore {
    key_path: Option<PathBuf>,
    key_paths: Option<NonEmpty<PathBuf>>,
    key_data: Option<String>,
    key_datas: Option<NonEmpty<String>>,
    fulcio: Option<Unique<IgnoredAny>>,
    pki: Option<Unique<IgnoredAny>>,
    #[serde(default, deserialize_with = "given")]
    rekor_public_key_path: bool,
    #[serde(default, deserialize_with = "given")]
    rekor_public_key_paths: bool,
    #[serde(default, deserialize_with = "given")]
    rekor_public_key_data: bool,
    #[serde(default, deserialize_with = "given")]
    rekor_public_key_datas: bool,
    signed_identity: Option<RawIdentity>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", deny_unknown_fields)]
enum RawIdentity {
    MatchExact {},
    MatchRepoDigestOrExact {},
    MatchRepository {},
    #[serde(rename_all = "camelCase")]
    ExactReference {
        docker_reference: Exact,
    },
    #[serde(rename_all = "camelCase")]
    ExactRepository {
        docker_repository: Exact,
    },
    #[serde(rename_all = "camelCase")]
    RemapIdentity {
        prefix: String,
        signed_prefix: String,
    },
}

impl Requirement {
    /// The rule that it is; `None` if it accepts anything. `origin`: its scope and file.
    fn rule(
        self,
        origin: &str,
        read: impl Fn(&Path) -> Result<Vec<u8>, String>,
    ) -> Result<Option<Rule>, String> {
        let never = |why: &str| Ok(Some(Rule::Never(format!("{origin}: {why}"))));
        match self {
            Self::InsecureAcceptAnything {} => Ok(None),
            Self::Reject {} => never("it is rejected"),
            Self::SignedBy { .. } => {
                never("a GPG signature is asked for (signedBy), which is not read")
            }
            Self::SignedBaseLayer { .. } => never(
                "a signature of the base layer is asked for (signedBaseLayer), which is not read",
            ),
            Self::SigstoreSigned(sigstore) => sigstore.rule(origin, read).map(Some),
        }
    }
}

impl Sigstore {
    fn rule(
        self,
        origin: &str,
        read: impl Fn(&Path) -> Result<Vec<u8>, String>,
    ) -> Result<Rule, String> {
        let never = |why: &str| Ok(Rule::Never(format!("{origin}: {why}")));
        let identity = match self.signed_identity {
            Some(identity) => identity.check()?,
            None => Identity::RepoDigestOrExact,
        };
        let rekor = [
            self.rekor_public_key_path,
            self.rekor_public_key_paths,
            self.rekor_public_key_data,
            self.rekor_public_key_datas,
        ];
        let rekor = rekor.iter().filter(|given| **given).count();
        if rekor > 1 {
            return Err("sigstoreSigned has several keys of Rekor, at most one is allowed".into());
        }
        let from_file = |path: &Path| (path.display().to_string(), read(path));
        let from_data = |text: &String| {
            let bytes = BASE64_STANDARD.decode(text);
            let bytes = bytes.map_err(|error| format!("its base64 is damaged: {error}"));
            (format!("of {origin}"), bytes)
        };
        let Self {
            key_path,
            key_paths,
            key_data,
            key_datas,
            fulcio,
            pki,
            ..
        } = self;
        let keys = match (key_path, key_paths, key_data, key_datas, fulcio, pki) {
            (Some(path), None, None, None, None, None) => vec![from_file(&path)],
            (None, Some(paths), None, None, None, None) => {
                paths.0.iter().map(|path| from_file(path)).collect()
            }
            (None, None, Some(data), None, None, None) => vec![from_data(&data)],
            (None, None, None, Some(datas), None, None) => datas.0.iter().map(from_data).collect(),
            (None, None, None, None, Some(_), None) if rekor == 0 => {
                return Err("fulcio needs a key of Rekor beside it".into());
            }
            (None, None, None, None, Some(_), None) => {
                return never("a certificate of Fulcio is asked for (keyless), which is not read");
            }
            (None, None, None, None, None, Some(_)) if rekor > 0 => {
                return Err("pki and a key of Rekor exclude each other".into());
            }
            (None, None, None, None, None, Some(_)) => {
                return never("a certificate is asked for (pki), which is not read");
            }
            _ => {
                return Err(
                    "sigstoreSigned needs exactly one of keyPath, keyPaths, keyData, keyDatas, fulcio and pki"
                        .into(),
                );
            }
        };
        if rekor > 0 {
            return never("an entry in a transparency log is asked for (Rekor), which is not read");
        }
        let mut signers = Vec::new();
        for (name, pem) in keys {
            // One key that cannot be read fails the requirement, whatever the others are.
            match pem.and_then(|pem| Key::parse(&name, &pem)) {
                Ok(key) => signers.push(Signer {
                    key,
                    identity: identity.clone(),
                }),
                Err(why) => return never(&format!("key {name}: {why}")),
            }
        }
        Ok(Rule::Signed {
            signers,
            threshold: 1,
            origin: Some(origin.to_owned()),
        })
    }
}

impl RawIdentity {
    fn check(self) -> Result<Identity, String> {
        Ok(match self {
            Self::MatchExact {} => Identity::Exact,
            Self::MatchRepoDigestOrExact {} => Identity::RepoDigestOrExact,
            Self::MatchRepository {} => Identity::Repository,
            Self::ExactReference { docker_reference } if docker_reference.is_name_only() => {
                return Err("dockerReference needs a tag or a digest".into());
            }
            Self::ExactReference { docker_reference } => Identity::ExactReference(docker_reference),
            Self::ExactRepository { docker_repository } if docker_repository.is_name_only() => {
                Identity::ExactRepository(docker_repository)
            }
            Self::ExactRepository { .. } => {
                return Err("dockerRepository must have no tag or digest".into());
            }
            Self::RemapIdentity {
                prefix,
                signed_prefix,
            } => Identity::Remap(Remap::new(prefix, signed_prefix)?),
        })
    }
}

#[cfg(test)]
mod tests {
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

    /// What is not exactly by the format refuses the whole file, as containers/image does
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
            signed(r#""keyPath":"/p256.pub","rekorPublicKeyPath":null"#),
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
            (signed(r#""fulcio":{}"#), "needs a key of Rekor"),
            (
                signed(r#""pki":{},"rekorPublicKeyPath":"/r""#),
                "exclude each other",
            ),
            (
                signed(r#""keyPath":"/a","rekorPublicKeyPath":"/r","rekorPublicKeyData":"x""#),
                "several keys of Rekor",
            ),
            (identity(r#""type":"matchOther""#), "unknown variant"),
            (identity(r#""type":"matchExact","x":1"#), "unknown field"),
            (
                identity(r#""type":"exactReference""#),
                "missing field `dockerReference`",
            ),
            (
                identity(r#""type":"exactReference","dockerReference":"ghcr.io/a/b""#),
                "needs a tag or a digest",
            ),
            (
                identity(r#""type":"exactRepository","dockerRepository":"ghcr.io/a/b:v1""#),
                "must have no tag",
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
            (format!(r#""keyData":"*"{any}"#), Err("base64")),
            (
                format!(r#""keyPath":"/p256.pub","rekorPublicKeyPath":"/r"{any}"#),
                Err("Rekor"),
            ),
            (
                format!(r#""keyPath":"/p256.pub","rekorPublicKeyPath":null{any}"#),
                Err("Rekor"),
            ),
            (
                r#""fulcio":{"caPath":"/ca"},"rekorPublicKeyPath":"/r""#.to_owned(),
                Err("keyless"),
            ),
            (r#""pki":{"caRootsPath":"/ca"}"#.to_owned(), Err("pki")),
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
