//! The rows of containers/image's own tests, with their verdicts: what podman accepts and refuses under a policy.
//!
//! `tests/container-libs/README.md` says where the fixtures come from. A row that ends in `Same` has the verdict of the
//! Go test, `But` says why ours is another one.

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use super::identity::{Exact, Remap};
use super::*;
use crate::manifest::{Annotations, Descriptor, Image};

/// How our verdict relates to that of the Go test.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ours {
    Same,
    /// It is the opposite, for this reason.
    #[expect(dead_code, reason = "no verdict is another one today")]
    But(&'static str),
}
use Ours::{But, Same};

impl Ours {
    /// The verdict that is expected here for this verdict of the Go test.
    fn verdict(self, theirs: bool) -> bool {
        match self {
            Same => theirs,
            But(_) => !theirs,
        }
    }
}

const DIGEST: &str = "@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const OTHER: &str = "@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn fixture(name: &str) -> std::io::Result<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/container-libs");
    std::fs::read(folder.join(name))
}

/// Reads a policy. Keys are fixtures; what is below `/` is not there.
fn policy(json: &str) -> Result<Policy, String> {
    let read = |path: &Path| match path.strip_prefix("fixtures") {
        Ok(path) => fixture(path.to_str().unwrap()).map_err(|error| error.to_string()),
        Err(_) => Err("there is no such file".to_owned()),
    };
    Policy::parse(Path::new("/policy.json"), json.as_bytes(), read)
}

/// A policy with this requirement alone.
fn of(requirement: &str) -> Result<Policy, String> {
    policy(&format!(r#"{{"default":[{requirement}]}}"#))
}

/// Checks whether a policy with each of these requirements is read.
fn assert_read(rows: &[(bool, &str, Ours)]) {
    for (is_read, requirement, ours) in rows {
        let found = of(requirement);
        let expected = ours.verdict(*is_read);
        assert_eq!(
            found.is_ok(),
            expected,
            "{requirement}: {found:?}, {ours:?}"
        );
    }
}

/// The same object with a field once more, as `duplicateFields` of the Go tests has it.
fn assert_no_field_twice(object: &str, around: impl Fn(&str) -> String) {
    let inner = object.strip_prefix('{').unwrap().strip_suffix('}').unwrap();
    let whole = around(object);
    assert!(policy(&whole).is_ok(), "{whole}: {:?}", policy(&whole));
    let fields: serde_json::Map<_, _> = serde_json::from_str(object).unwrap();
    for (name, value) in fields {
        let twice = around(&format!(r#"{{{inner},"{name}":{value}}}"#));
        assert!(policy(&twice).is_err(), "{twice}");
    }
}

/// `TestNewPolicyFromFile`, `TestPolicyUnmarshalJSON`, `TestPolicyTransportScopesWithTransportUnmarshalJSON`,
/// `TestPolicyRequirementsUnmarshalJSON` of `policy_config_test.go`, and
/// `TestTransportValidatePolicyConfigurationScope` of `oci/layout/oci_transport_test.go`.
#[test]
fn a_policy_is_read_as_containers_image_reads_it() {
    let text = String::from_utf8(fixture("policy.json").unwrap()).unwrap();
    assert!(policy(&text).is_ok(), "{:?}", policy(&text));
    let gpg = r#"[{"type":"signedBy","keyType":"GPGKeys","keyData":"YWJj","signedIdentity":{"type":"matchRepoDigestOrExact"}}]"#;
    let whole = |default: &str, transports: &str| {
        format!(r#"{{"default":{default},"transports":{transports}}}"#)
    };
    let transports = format!(
        r#"{{"docker":{{"docker.io/library/busybox":{gpg},"registry.access.redhat.com":{gpg},"":{gpg}}},
            "atomic":{{"registry.access.redhat.com/rhel7":{gpg}}},"unknown":{{"registry.access.redhat.com/rhel7":{gpg}}}}}"#
    );
    let scope = |transport: &str, scope: &str, requirements: &str| {
        whole(
            gpg,
            &format!(r#"{{"{transport}":{{"{scope}":{requirements}}}}}"#),
        )
    };
    let good = whole(gpg, &transports);
    for (is_read, json) in [
        (true, good.clone()),
        (true, format!(r#"{{"default":{gpg}}}"#)),
        (true, whole(gpg, "{}")),
        (true, whole(gpg, r#"{"docker":{}}"#)),
        (false, String::new()),
        (false, "&".into()),
        (false, "1".into()),
        (false, format!("[{gpg}]")),
        (false, whole(r#"[["reject"]]"#, "{}")),
        (false, format!(r#"{{"transports":{transports}}}"#)),
        (false, good.replacen('{', r#"{"unexpected":1,"#, 1)),
        (false, whole("1", &transports)),
        (false, whole("{}", &transports)),
        (false, whole("[]", &transports)),
        (false, whole("[1]", &transports)),
        (false, whole("null", &transports)),
        (false, whole(gpg, "1")),
        (false, whole(gpg, "[]")),
        (false, whole(gpg, "null")),
        (false, scope("docker", "docker.io/library/busybox", "1")),
        (false, scope("docker", "docker.io/library/busybox", "{}")),
        (false, scope("docker", "docker.io/library/busybox", "[]")),
        (false, scope("docker", "", "1")),
        (false, scope("docker", "", "{}")),
        (false, scope("docker", "", "[]")),
        // A scope is one of its transport.
        (false, scope("dir", "docker.io/library/busybox", gpg)),
        (true, scope("dir", "", gpg)),
        (true, scope("oci", "/etc", gpg)),
        (true, scope("oci", "/this/does/not/exist", gpg)),
        (false, scope("oci", "relative/path", gpg)),
        (false, scope("oci", "/", gpg)),
        (false, scope("oci", "/double//slashes", gpg)),
        (false, scope("oci", "/has/./dot", gpg)),
        (false, scope("oci", "/has/dot/../dot", gpg)),
        (false, scope("oci", "/trailing/slash/", gpg)),
    ] {
        assert_eq!(
            policy(&json).is_ok(),
            is_read,
            "{json}: {:?}",
            policy(&json)
        );
    }
    assert_no_field_twice(&good, str::to_owned);
    let of_docker = format!(r#"{{"docker.io/library/busybox":{gpg},"":{gpg}}}"#);
    assert_no_field_twice(&of_docker, |scopes| {
        whole(gpg, &format!(r#"{{"docker":{scopes}}}"#))
    });
}

/// `policy_config_test.go`: what is no object, lacks its type, has another or an unknown field.
#[test]
fn a_requirement_without_keys_is_read_as_containers_image_reads_it() {
    assert_read(&[
        (true, r#"{"type":"insecureAcceptAnything"}"#, Same),
        (true, r#"{"type":"reject"}"#, Same),
        (false, "1", Same),
        (false, "{}", Same),
        (false, r#"{"type":""}"#, Same),
        (false, r#"{"type":1}"#, Same),
        (false, r#"{"type":"this is invalid"}"#, Same),
        (
            false,
            r#"{"type":"insecureAcceptAnything","unknown":"foo"}"#,
            Same,
        ),
        (false, r#"{"type":"reject","unknown":"foo"}"#, Same),
        // signedBaseLayer
        (
            true,
            r#"{"type":"signedBaseLayer","baseLayerIdentity":{"type":"exactReference","dockerReference":"registry.access.redhat.com/rhel7/rhel:7.2.3"}}"#,
            Same,
        ),
        (
            false,
            r#"{"baseLayerIdentity":{"type":"matchExact"}}"#,
            Same,
        ),
        (
            false,
            r#"{"type":1,"baseLayerIdentity":{"type":"matchExact"}}"#,
            Same,
        ),
        (
            false,
            r#"{"type":"this is invalid","baseLayerIdentity":{"type":"matchExact"}}"#,
            Same,
        ),
        (
            false,
            r#"{"type":"signedBaseLayer","unexpected":1,"baseLayerIdentity":{"type":"matchExact"}}"#,
            Same,
        ),
        (false, r#"{"type":"signedBaseLayer"}"#, Same),
        (
            false,
            r#"{"type":"signedBaseLayer","baseLayerIdentity":"this is invalid"}"#,
            Same,
        ),
        (
            false,
            r#"{"type":"signedBaseLayer","baseLayerIdentity":null}"#,
            Same,
        ),
    ]);
    let default = |requirement: &str| format!(r#"{{"default":[{requirement}]}}"#);
    for object in [
        r#"{"type":"insecureAcceptAnything"}"#,
        r#"{"type":"reject"}"#,
        r#"{"type":"signedBaseLayer","baseLayerIdentity":{"type":"matchExact"}}"#,
    ] {
        assert_no_field_twice(object, default);
    }
}

/// `TestPRSignedByUnmarshalJSON`, `TestNewPRSignedBy` and `TestSBKeyTypeUnmarshalJSON`.
#[test]
fn signed_by_is_read_as_containers_image_reads_it() {
    let with = |fields: &str| format!(r#"{{"type":"signedBy",{fields}}}"#);
    let gpg = |fields: &str| with(&format!(r#""keyType":"GPGKeys",{fields}"#));
    for (is_read, requirement) in [
        (true, gpg(r#""keyData":"YWJj""#)),
        (
            true,
            gpg(r#""keyData":"YWJj","signedIdentity":{"type":"matchRepoDigestOrExact"}"#),
        ),
        (true, gpg(r#""keyPath":"/foo/bar""#)),
        (true, gpg(r#""keyPaths":["/1","/2"]"#)),
        (true, with(r#""keyType":"signedByGPGKeys","keyPath":"/k""#)),
        (true, with(r#""keyType":"X509Certificates","keyPath":"/k""#)),
        (true, with(r#""keyType":"signedByX509CAs","keyPath":"/k""#)),
        (false, with(r#""keyType":"","keyPath":"/k""#)),
        (
            false,
            with(r#""keyType":"this is invalid","keyData":"YWJj""#),
        ),
        (false, with(r#""keyData":"YWJj""#)),
        (false, r#"{"keyType":"GPGKeys","keyData":"YWJj"}"#.into()),
        (
            false,
            r#"{"type":1,"keyType":"GPGKeys","keyData":"YWJj"}"#.into(),
        ),
        (false, gpg(r#""keyData":"YWJj","unexpected":1"#)),
        (false, gpg(r#""signedIdentity":{"type":"matchExact"}"#)),
        (
            false,
            gpg(r#""keyData":"YWJj","keyPath":"/foo/bar","keyPaths":["/1","/2"]"#),
        ),
        (false, gpg(r#""keyPath":"/foo/bar","keyPaths":["/1","/2"]"#)),
        (false, gpg(r#""keyData":"YWJj","keyPath":"/foo/bar""#)),
        (false, gpg(r#""keyData":"YWJj","keyPaths":["/1","/2"]"#)),
        (false, gpg(r#""keyPath":1"#)),
        (false, gpg(r#""keyPaths":1"#)),
        (false, gpg(r#""keyPaths":[1]"#)),
        (false, gpg(r#""keyData":1"#)),
        (false, gpg(r#""keyData":"this is invalid base64""#)),
        (
            false,
            gpg(r#""keyData":"YWJj","signedIdentity":"this is invalid""#),
        ),
        (false, gpg(r#""keyData":"YWJj","signedIdentity":null"#)),
    ] {
        assert_read(&[(is_read, &requirement, Same)]);
    }
    for key in [
        r#""keyData":"YWJj""#,
        r#""keyPath":"/foo/bar""#,
        r#""keyPaths":["/1","/2"]"#,
    ] {
        let object = gpg(&format!(
            r#"{key},"signedIdentity":{{"type":"matchExact"}}"#
        ));
        assert_no_field_twice(&object, |object| format!(r#"{{"default":[{object}]}}"#));
    }
}

const FULCIO: &str = r#""fulcio":{"caPath":"/foo/baz","oidcIssuer":"https://example.com","subjectEmail":"test@example.com"}"#;
const PKI: &str = r#""pki":{"caRootsPath":"/foo/bar","caIntermediatesPath":"/foo/baz","subjectHostname":"example.com"}"#;
/// Exactly one of these.
const SOURCES: [&str; 4] = [
    r#""keyPath":"/foo/bar""#,
    r#""keyPaths":["/foo/bar","/baz/bar"]"#,
    r#""keyData":"YWJj""#,
    r#""keyDatas":["YWJj","ZGVm"]"#,
];
/// At most one of these.
const REKOR: [&str; 4] = [
    r#""rekorPublicKeyPath":"/foo/baz""#,
    r#""rekorPublicKeyPaths":["/foo/baz","/foo/bar"]"#,
    r#""rekorPublicKeyData":"ZGVm""#,
    r#""rekorPublicKeyDatas":["ZGVm","YWJj"]"#,
];

/// `TestNewPRSigstoreSigned` and `TestPRSigstoreSignedUnmarshalJSON` of `policy_config_sigstore_test.go`.
#[test]
fn sigstore_signed_is_read_as_containers_image_reads_it() {
    let with = |fields: &[&str]| format!(r#"{{"type":"sigstoreSigned",{}}}"#, fields.join(","));
    let mut rows = Vec::new();
    for rekor in REKOR {
        rows.extend(SOURCES.map(|source| (true, with(&[source, rekor]))));
        rows.push((true, with(&[FULCIO, rekor])));
        rows.push((false, with(&[PKI, rekor])));
        let others = REKOR.into_iter().filter(|other| *other != rekor);
        rows.extend(others.map(|other| (false, with(&[SOURCES[0], rekor, other]))));
    }
    rows.extend(SOURCES.map(|source| (true, with(&[source]))));
    rows.push((true, with(&[PKI])));
    rows.push((false, with(&[FULCIO])));
    let all = [SOURCES.as_slice(), &[FULCIO, PKI]].concat();
    for one in &all {
        let others = all.iter().filter(|other| *other != one);
        rows.extend(others.map(|other| (false, with(&[one, other, REKOR[0]]))));
    }
    let data = SOURCES[2];
    let single = |is_read: bool, fields: &[&str]| (is_read, with(fields));
    rows.extend([
        single(
            true,
            &[
                data,
                r#""signedIdentity":{"type":"matchRepoDigestOrExact"}"#,
            ],
        ),
        single(false, &[r#""signedIdentity":{"type":"matchExact"}"#]),
        single(false, &[data, r#""unexpected":1"#]),
        single(false, &[data, r#""signedIdentity":"this is invalid""#]),
        single(false, &[data, r#""signedIdentity":null"#]),
        // Go counts a text that is null or empty as absent.
        single(true, &[SOURCES[0], r#""rekorPublicKeyPath":null"#]),
        single(true, &[SOURCES[0], r#""rekorPublicKeyPath":"""#, REKOR[2]]),
        single(true, &[SOURCES[0], r#""keyData":null"#]),
        single(
            false,
            &[
                data,
                r#""rekorPublicKeyPath":"/foo/baz","rekorPublicKeyData":"""#,
            ],
        ),
        (false, r#"{"keyData":"YWJj"}"#.into()),
        (false, r#"{"type":1,"keyData":"YWJj"}"#.into()),
    ]);
    for field in [
        "keyPath", "keyPaths", "keyData", "keyDatas", "fulcio", "pki",
    ] {
        for value in ["1", "{}", "[]", "null"] {
            rows.push(single(false, &[&format!(r#""{field}":{value}"#)]));
        }
    }
    for field in ["Path", "Paths", "Data", "Datas"] {
        for value in ["1", "{}", "[]"] {
            rows.push(single(
                false,
                &[data, &format!(r#""rekorPublicKey{field}":{value}"#)],
            ));
        }
    }
    for field in ["keyData", "rekorPublicKeyData"] {
        let key = Some(SOURCES[0]).filter(|_| field != "keyData");
        let damaged = format!(r#""{field}":"this is invalid base64""#);
        rows.push(single(
            false,
            &[key.unwrap_or(r#""keyPath":null"#), &damaged],
        ));
    }
    for (is_read, requirement) in &rows {
        assert_read(&[(*is_read, requirement, Same)]);
    }
    let identity = r#""signedIdentity":{"type":"matchExact"}"#;
    for source in SOURCES {
        for rekor in REKOR {
            let object = with(&[source, rekor, identity]);
            assert_no_field_twice(&object, |object| format!(r#"{{"default":[{object}]}}"#));
        }
    }
    for object in [with(&[FULCIO, REKOR[0], identity]), with(&[PKI, identity])] {
        assert_no_field_twice(&object, |object| format!(r#"{{"default":[{object}]}}"#));
    }
}

/// `TestNewPRSigstoreSignedFulcio`, `TestPRSigstoreSignedFulcioUnmarshalJSON`, `TestNewPRSigstoreSignedPKI` and
/// `TestPRSigstoreSignedPKIUnmarshalJSON`. That neither can be satisfied here is decided only when they are asked for.
#[test]
fn fulcio_and_pki_are_read_as_containers_image_reads_them() {
    let path = r#""caPath":"/foo/bar""#;
    let data = r#""caData":"YWJj""#;
    let issuer = r#""oidcIssuer":"https://example.com""#;
    let email = r#""subjectEmail":"test@example.com""#;
    let roots = r#""caRootsPath":"/foo/bar""#;
    let roots_data = r#""caRootsData":"YWJj""#;
    let more = r#""caIntermediatesPath":"/foo/baz""#;
    let more_data = r#""caIntermediatesData":"ZGVm""#;
    let host = r#""subjectHostname":"https://example.com""#;
    let fulcio = |object: &str| {
        format!(
            r#"{{"default":[{{"type":"sigstoreSigned","rekorPublicKeyPath":"/r","fulcio":{object}}}]}}"#
        )
    };
    let pki =
        |object: &str| format!(r#"{{"default":[{{"type":"sigstoreSigned","pki":{object}}}]}}"#);
    let object = |fields: &[&str]| format!("{{{}}}", fields.join(","));
    for (is_read, fields) in [
        (true, vec![path, issuer, email]),
        (true, vec![data, issuer, email]),
        (false, vec![issuer, email]),
        (false, vec![path, data, issuer, email]),
        (false, vec![path, r#""caData":"""#, issuer, email]),
        (false, vec![path, email]),
        (false, vec![path, issuer]),
        (false, vec![path, issuer, email, r#""unexpected":1"#]),
        (false, vec![r#""caPath":1"#, issuer, email]),
        (false, vec![r#""caData":1"#, issuer, email]),
        (
            false,
            vec![r#""caData":"this is invalid base64""#, issuer, email],
        ),
        (false, vec![path, r#""oidcIssuer":1"#, email]),
        (false, vec![path, issuer, r#""subjectEmail":1"#]),
    ] {
        let json = fulcio(&object(&fields));
        assert_eq!(
            policy(&json).is_ok(),
            is_read,
            "{json}: {:?}",
            policy(&json)
        );
    }
    for (is_read, fields) in [
        (true, vec![roots, host]),
        (true, vec![roots, email]),
        (true, vec![roots, host, email]),
        (true, vec![roots_data, host]),
        (true, vec![roots_data, email]),
        (true, vec![roots_data, more_data, host]),
        (true, vec![roots_data, more_data, host, email]),
        (true, vec![roots_data, more, email]),
        (false, vec![host]),
        (false, vec![roots, roots_data, host]),
        (false, vec![roots, r#""caRootsData":"""#, host]),
        (false, vec![roots, more, more_data, host]),
        (
            false,
            vec![roots, more, r#""caIntermediatesData":"""#, host],
        ),
        (false, vec![roots]),
        (false, vec![roots, more]),
        (false, vec![roots, host, r#""unexpected":1"#]),
        (false, vec![r#""caRootsPath":1"#, host]),
        (false, vec![roots, r#""caIntermediatesPath":1"#, host]),
        (false, vec![roots, r#""subjectHostname":1"#, email]),
        (false, vec![roots, r#""subjectEmail":1"#, host]),
        (false, vec![r#""caRootsData":1"#, host]),
        (
            false,
            vec![r#""caRootsData":"this is invalid base64""#, host],
        ),
        (false, vec![roots, r#""caIntermediatesData":1"#, host]),
        (
            false,
            vec![
                roots,
                r#""caIntermediatesData":"this is invalid base64""#,
                host,
            ],
        ),
    ] {
        let json = pki(&object(&fields));
        assert_eq!(
            policy(&json).is_ok(),
            is_read,
            "{json}: {:?}",
            policy(&json)
        );
    }
    assert_no_field_twice(&object(&[path, issuer, email]), fulcio);
    assert_no_field_twice(&object(&[data, issuer, email]), fulcio);
    assert_no_field_twice(&object(&[roots, more, host, email]), pki);
    assert_no_field_twice(&object(&[roots_data, more_data, host, email]), pki);
}

/// The `UnmarshalJSON` tests of each `signedIdentity`, and `TestValidateIdentityRemappingPrefix`.
#[test]
fn an_identity_is_read_as_containers_image_reads_it() {
    let around = |identity: &str| {
        format!(
            r#"{{"default":[{{"type":"sigstoreSigned","keyPath":"/k","signedIdentity":{identity}}}]}}"#
        )
    };
    let with = |kind: &str, fields: &str| format!(r#"{{"type":"{kind}"{fields}}}"#);
    let remap = |prefix: &str, signed: &str| {
        with(
            "remapIdentity",
            &format!(r#","prefix":{prefix},"signedPrefix":{signed}"#),
        )
    };
    let mut rows = vec![
        (false, "1".to_owned()),
        (false, "{}".into()),
        (false, r#"{"type":1}"#.into()),
        (false, r#"["matchRepository"]"#.into()),
        (false, with("this is invalid", "")),
    ];
    for kind in ["matchExact", "matchRepoDigestOrExact", "matchRepository"] {
        rows.push((true, with(kind, "")));
        rows.push((false, with(kind, r#","unknown":"foo""#)));
        assert_no_field_twice(&with(kind, ""), around);
    }
    for (kind, field, without_tag) in [
        ("exactReference", "dockerReference", false),
        ("exactRepository", "dockerRepository", true),
    ] {
        let of = |value: &str| with(kind, &format!(r#","{field}":{value}"#));
        rows.extend([
            (true, of(r#""library/busybox:latest""#)),
            (without_tag, of(r#""library/busybox""#)),
            (false, with(kind, "")),
            (false, of("1")),
            (false, of(r#""""#)),
            (false, of(r#""INVALIDUPPERCASE:latest""#)),
            (false, of(r#""library/busybox:latest","unexpected":1"#)),
        ]);
        assert_no_field_twice(&of(r#""library/busybox:latest""#), around);
    }
    let good = r#""example.com/docker-library""#;
    rows.extend([
        (true, remap(good, r#""docker.io/library""#)),
        (false, with("remapIdentity", r#","prefix":"a.b""#)),
        (false, with("remapIdentity", r#","signedPrefix":"a.b""#)),
        (false, remap("1", good)),
        (false, remap(good, "1")),
        (false, remap(good, r#""a.b","unexpected":1"#)),
    ]);
    for (is_read, prefix) in [
        (true, "localhost"),
        (true, "example.com"),
        (true, "example.com:80"),
        (true, "example.com/repo"),
        (
            true,
            "example.com/ns1/ns2/ns3/repo.with.dots-dashes_underscores",
        ),
        (
            true,
            "example.com:80/ns1/ns2/ns3/repo.with.dots-dashes_underscores",
        ),
        (true, "shortname"),
        (true, "ns/shortname"),
        (false, ""),
        (false, "this is invalid"),
        (false, "repo_with_underscores"),
        (false, "example.com/"),
        (false, "example.com/UPPERCASEISINVALID"),
        (false, "example.com/repo/"),
        (false, "example.com/repo:tag"),
        (false, &format!("example.com/repo{DIGEST}")),
        (false, &format!("example.com/repo:tag{DIGEST}")),
    ] {
        rows.push((is_read, remap(&format!("{prefix:?}"), good)));
        rows.push((is_read, remap(good, &format!("{prefix:?}"))));
    }
    assert_no_field_twice(&remap(good, good), around);
    for (is_read, identity) in rows {
        let json = around(&identity);
        assert_eq!(
            policy(&json).is_ok(),
            is_read,
            "{json}: {:?}",
            policy(&json)
        );
    }
}

/// The scope whose requirements count, of a policy in which each scope has those that name it.
fn scope(scopes: &[(&str, &str)], reference: &Exact) -> String {
    let mut transports = std::collections::BTreeMap::<_, Vec<String>>::new();
    for (transport, scope) in scopes {
        let of_transport = transports.entry(transport).or_default();
        of_transport.push(format!(r#""{scope}":[{{"type":"reject"}}]"#));
    }
    let transports: Vec<_> = transports
        .iter()
        .map(|(transport, scopes)| format!(r#""{transport}":{{{}}}"#, scopes.join(",")))
        .collect();
    let transports = transports.join(",");
    let policy = policy(&format!(
        r#"{{"default":[{{"type":"reject"}}],"transports":{{{transports}}}}}"#
    ));
    let digest = reference.digest.unwrap_or(Digest::of(b"any"));
    let policy = policy.unwrap();
    let rules = policy.rules(&Scope::Docker(
        &reference.repository,
        reference.tag.as_ref(),
        digest,
    ));
    let [rule] = rules else {
        panic!("{rules:?}");
    };
    match &**rule {
        Rule::Never(why) => why.split(" in /policy.json").next().unwrap().to_owned(),
        rule => panic!("{rule:?}"),
    }
}

/// `TestPolicyContextRequirementsForImageRef` of `policy_eval_test.go`.
#[test]
fn the_same_scope_counts_as_for_containers_image() {
    let scopes = [
        ("docker", ""),
        ("docker", "unmatched"),
        ("docker", "deep.com"),
        ("docker", "*.very.deep.com"),
        ("docker", "*.deep.com"),
        ("docker", "deep.com/n1"),
        ("docker", "deep.com/n1/n2"),
        ("docker", "deep.com/n1/n2/n3"),
        ("docker", "deep.com/n1/n2/n3/repo"),
        ("docker", "deep.com/n1/n2/n3/repo:tag2"),
        ("atomic", "unmatched"),
    ];
    for (reference, expected) in [
        (
            "deep.com/n1/n2/n3/repo:tag2",
            "docker:deep.com/n1/n2/n3/repo:tag2",
        ),
        (
            "deep.com/n1/n2/n3/repo:nottag2",
            "docker:deep.com/n1/n2/n3/repo",
        ),
        ("deep.com/n1/n2/n3/notrepo:tag2", "docker:deep.com/n1/n2/n3"),
        ("deep.com/n1/n2/notn3/repo:tag2", "docker:deep.com/n1/n2"),
        ("deep.com/n1/notn2/n3/repo:tag2", "docker:deep.com/n1"),
        ("deep.com/notn1/n2/n3/repo:tag2", "docker:deep.com"),
        ("very.deep.com/n1/n2/n3/repo:tag2", "docker:*.deep.com"),
        (
            "not.very.deep.com/n1/n2/n3/repo:tag2",
            "docker:*.very.deep.com",
        ),
        ("this.does-not/match:anything", "docker:"),
    ] {
        assert_eq!(
            scope(&scopes, &reference.parse().unwrap()),
            expected,
            "{reference}"
        );
    }
    // No "" in the transport; no such transport.
    let reference = "this.does-not/match:anything".parse().unwrap();
    assert_eq!(scope(&[("docker", "unmatched")], &reference), "default");
    assert_eq!(scope(&[("atomic", "unmatched")], &reference), "default");
}

/// `TestDockerReference` of `docker/policyconfiguration/naming_test.go`.
#[test]
fn a_reference_has_the_scopes_that_containers_image_gives_it() {
    for (name, expected) in [
        (
            "example.com/ns/repo",
            &[
                "example.com/ns/repo",
                "example.com/ns",
                "example.com",
                "*.com",
            ][..],
        ),
        (
            "example.com/repo",
            &["example.com/repo", "example.com", "*.com"],
        ),
        (
            "localhost/ns/repo",
            &["localhost/ns/repo", "localhost/ns", "localhost"],
        ),
        ("localhost/repo", &["localhost/repo", "localhost"]),
        (
            "notlocalhost/repo",
            &[
                "docker.io/notlocalhost/repo",
                "docker.io/notlocalhost",
                "docker.io",
                "*.io",
            ],
        ),
        (
            "docker.io/ns/repo",
            &["docker.io/ns/repo", "docker.io/ns", "docker.io", "*.io"],
        ),
        (
            "docker.io/library/repo",
            &[
                "docker.io/library/repo",
                "docker.io/library",
                "docker.io",
                "*.io",
            ],
        ),
        (
            "docker.io/repo",
            &[
                "docker.io/library/repo",
                "docker.io/library",
                "docker.io",
                "*.io",
            ],
        ),
        (
            "ns/repo",
            &["docker.io/ns/repo", "docker.io/ns", "docker.io", "*.io"],
        ),
        (
            "library/repo",
            &[
                "docker.io/library/repo",
                "docker.io/library",
                "docker.io",
                "*.io",
            ],
        ),
        (
            "repo",
            &[
                "docker.io/library/repo",
                "docker.io/library",
                "docker.io",
                "*.io",
            ],
        ),
        (
            "yet.another.example.com:8443/ns/repo",
            &[
                "yet.another.example.com:8443/ns/repo",
                "yet.another.example.com:8443/ns",
                "yet.another.example.com:8443",
                "*.another.example.com",
                "*.example.com",
                "*.com",
            ],
        ),
    ] {
        for suffix in [":tag", DIGEST] {
            let reference = format!("{name}{suffix}").parse().unwrap();
            let own = format!("{}{suffix}", expected[0]);
            let mut scopes: Vec<_> = [own.as_str()]
                .iter()
                .chain(expected)
                .map(|one| ("docker", *one))
                .collect();
            // The narrowest counts, and without it the next one.
            while let [(_, narrowest), ..] = scopes.as_slice() {
                assert_eq!(scope(&scopes, &reference), format!("docker:{narrowest}"));
                scopes.remove(0);
            }
            assert_eq!(
                scope(&[("docker", "unmatched"), ("docker", "")], &reference),
                "docker:"
            );
        }
    }
}

/// Whether an identity takes what a signature names, for a manifest that was asked for by a reference. `None`: nothing
/// is asked for by that, neither by a name alone nor by a tag and a digest at once.
fn matches(identity: &Identity, asked: &str, named: &str) -> Option<bool> {
    let asked: Exact = asked.parse().ok()?;
    if asked.tag.is_some() == asked.digest.is_some() {
        return None;
    }
    let subject = Subject {
        manifest: asked.digest.unwrap_or(Digest::of(b"any")),
        repository: Some(&asked.repository),
        tag: asked.tag.as_ref(),
        now: jiff::Timestamp::UNIX_EPOCH,
    };
    Some(identity.check(Some(named), &subject).is_ok())
}

const RHEL: &str = "registry.access.redhat.com/rhel7/rhel:7.2.3";

/// `prmExactMatchTestTable` and `prmRepositoryMatchTestTable` of `policy_reference_match_test.go`: both references, and
/// whether they are exactly the same, and of the same repository. Both are symmetric.
fn symmetric() -> Vec<(String, String, bool, bool)> {
    let at = |name: &str| format!("{name}{DIGEST}");
    let other = |name: &str| format!("{name}{OTHER}");
    let row = |one: &str, two: &str, exact, repository| {
        (one.to_owned(), two.to_owned(), exact, repository)
    };
    vec![
        row("busybox:latest", "busybox:latest", true, true),
        row(RHEL, RHEL, true, true),
        row(&at("busybox"), &at("busybox"), true, true),
        row("library/busybox:latest", "busybox:latest", true, true),
        row(
            "docker.io/library/busybox:latest",
            "busybox:latest",
            true,
            true,
        ),
        row(&at("library/busybox"), &at("busybox"), true, true),
        row("busybox:latest", "busybox:notlatest", false, true),
        row(&format!("{RHEL}tagsuffix"), RHEL, false, true),
        row("library/busybox:latest", "busybox:notlatest", false, true),
        row("busybox:latest", "library/busybox:notlatest", false, true),
        row(
            "docker.io/library/busybox:notlatest",
            "busybox:latest",
            false,
            true,
        ),
        row("busybox:latest", &at("busybox"), false, true),
        row(&at("busybox"), &other("busybox"), false, true),
        row("busybox", "busybox:latest", false, true),
        row(RHEL, "registry.access.redhat.com/rhel7/rhel", false, true),
        row("busybox", &at("busybox"), false, true),
        row("busybox", "busybox", false, true),
        row("library/busybox", "busybox", false, true),
        row("docker.io/library/busybox", "busybox", false, true),
        row("busybox:latest", "notbusybox:latest", false, false),
        row(
            "busybox:latest",
            "hostname/library/busybox:notlatest",
            false,
            false,
        ),
        row("busybox:latest", RHEL, false, false),
        row(&at("busybox"), &at("notbusybox"), false, false),
        row(&at("busybox:latest"), &at("busybox:latest"), true, true),
        row(&at("busybox:latest"), &other("busybox:latest"), false, true),
        row(&at("busybox:latest"), &at("busybox:notlatest"), false, true),
        row(&at("busybox:latest"), &at("busybox"), false, true),
        row(&at("busybox:latest"), "busybox:latest", false, true),
        row(
            "UPPERCASE_IS_INVALID_IN_DOCKER_REFERENCES",
            "busybox:latest",
            false,
            false,
        ),
        row(
            "",
            "UPPERCASE_IS_INVALID_IN_DOCKER_REFERENCES",
            false,
            false,
        ),
        row("INVALID", "INVALID", false, false),
    ]
}

/// `TestPRMMatchExactMatchesDockerReference`, `TestPRMMatchRepositoryMatchesDockerReference`,
/// `TestPRMExactReferenceMatchesDockerReference` and `TestPRMExactRepositoryMatchesDockerReference`.
#[test]
fn references_match_as_for_containers_image() {
    let mut asked = 0;
    for (one, two, exact, repository) in symmetric() {
        for (one, two) in [(&one, &two), (&two, &one)] {
            if let Some(found) = matches(&Identity::Exact, one, two) {
                assert_eq!(found, exact, "matchExact, {one} signed as {two}");
                asked += 1;
            }
            if let Some(found) = matches(&Identity::Repository, one, two) {
                assert_eq!(found, repository, "matchRepository, {one} signed as {two}");
            }
            let of = |kind: &str, field: &str| {
                let identity = format!(r#"{{"type":"{kind}","{field}":"{one}"}}"#);
                let policy = of(&format!(
                    r#"{{"type":"sigstoreSigned","keyPath":"fixtures/cosign.pub","signedIdentity":{identity}}}"#
                ));
                // One that cannot be read matches nothing.
                policy.is_ok_and(|policy| takes(&policy, two))
            };
            assert_eq!(
                of("exactReference", "dockerReference"),
                exact,
                "{one}, {two}"
            );
            assert_eq!(
                of("exactRepository", "dockerRepository"),
                repository,
                "{one}, {two}"
            );
        }
    }
    assert!(asked > 25, "{asked} rows can be asked for");
}

/// Whether the identity of a policy's one key takes what a signature names.
fn takes(policy: &Policy, named: &str) -> bool {
    let repository = "example.com/any".parse().unwrap();
    let tag = "any".parse().unwrap();
    let manifest = Digest::of(b"any");
    let subject = Subject {
        manifest,
        repository: Some(&repository),
        tag: Some(&tag),
        now: jiff::Timestamp::UNIX_EPOCH,
    };
    let rules = policy.rules(&Scope::Docker(&repository, Some(&tag), manifest));
    let signers: Vec<_> = rules.iter().flat_map(|rule| rule.signers()).collect();
    let [Signer { identity, .. }] = signers.as_slice() else {
        panic!("{rules:?}");
    };
    identity.check(Some(named), &subject).is_ok()
}

/// `matchRepoDigestOrExactTestTable`.
fn repo_digest_or_exact() -> Vec<(String, String, bool)> {
    let at = |name: &str| format!("{name}{DIGEST}");
    let other = |name: &str| format!("{name}{OTHER}");
    let row = |one: &str, two: &str, expected| (one.to_owned(), two.to_owned(), expected);
    vec![
        row("busybox:latest", "busybox:notlatest", false),
        row(&format!("{RHEL}tagsuffix"), RHEL, false),
        row("library/busybox:latest", "busybox:notlatest", false),
        row("busybox:latest", "library/busybox:notlatest", false),
        row(
            "docker.io/library/busybox:notlatest",
            "busybox:latest",
            false,
        ),
        row(
            "busybox:notlatest",
            "docker.io/library/busybox:latest",
            false,
        ),
        row("busybox:latest", "busybox", false),
        row(&at("busybox"), "busybox", false),
        row(RHEL, "registry.access.redhat.com/rhel7/rhel", false),
        row("busybox:latest", &at("busybox"), false),
        row(&at("busybox"), "busybox:latest", true),
        row(&at("busybox"), &other("busybox"), true),
        row("busybox:latest", &at("busybox:latest"), false),
    ]
}

/// `TestPRMMatchRepoDigestOrExactMatchesDockerReference`, and the end of `TestPRMRemapIdentityMatchesDockerReference`,
/// by which `remapIdentity` is the same after the rewriting.
#[test]
fn a_digest_matches_its_repository_as_for_containers_image() {
    let never = Remap::new(
        "never-causes-a-rewrite.example".into(),
        "never-causes-a-rewrite.example".into(),
    );
    let never = Identity::Remap(never.unwrap());
    let mut rows = repo_digest_or_exact();
    for (one, two, exact, repository) in symmetric() {
        // It takes what matchExact takes, and nothing that matchRepository does not take.
        if exact || !repository {
            rows.extend([(one.clone(), two.clone(), exact), (two, one, exact)]);
        }
    }
    for (one, two, expected) in rows {
        for identity in [&Identity::RepoDigestOrExact, &never] {
            if let Some(found) = matches(identity, &one, &two) {
                assert_eq!(found, expected, "{identity}, {one} signed as {two}");
            }
        }
    }
}

/// `TestPRMRemapIdentityRefMatchesPrefix`: a reference below the prefix is rewritten, so its own name does not match.
#[test]
fn a_prefix_matches_as_for_containers_image() {
    for (reference, prefix, expected) in [
        ("docker.io/image", "docker.io", true),
        ("docker.io/image", "example.com", false),
        ("example.com:5000/image", "example.com:5000", true),
        ("example.com:50000/image", "example.com:5000", false),
        ("example.com:5000/image", "example.com", false),
        ("example.com/foo", "example.com", true),
        ("example.com/foo/bar", "example.com", true),
        ("docker.io/ns/image", "docker.io/library", false),
        ("example.com/library", "docker.io/library", false),
        ("docker.io/libraryy/image", "docker.io/library", false),
        ("docker.io/library/busybox", "docker.io/library", true),
        ("example.com/ns/image", "example.com/ns", true),
        ("example.com/ns2/image", "example.com/ns", false),
        ("example.com/n2/image", "example.com/ns", false),
        ("example.com", "example.com/library/busybox", false),
        ("example.com:5000/ns/image", "example.com/ns", false),
        ("example.com/ns/image", "example.com:5000/ns", false),
        (
            "docker.io/library/busybox",
            "docker.io/library/busybox",
            true,
        ),
        (
            "example.com/library/busybox",
            "docker.io/library/busybox",
            false,
        ),
        (
            "docker.io/library/busybox2",
            "docker.io/library/busybox",
            false,
        ),
        ("example.com/ns/image", "example.com/ns/image", true),
        ("example.com/ns/imag2", "example.com/ns/image", false),
        ("example.com/ns/imagee", "example.com/ns/image", false),
    ] {
        let remap = Remap::new(prefix.into(), "docker.io/library/signed-prefix".into());
        let identity = Identity::Remap(remap.unwrap());
        for suffix in [":tag", DIGEST] {
            let reference = format!("{reference}{suffix}");
            let found = matches(&identity, &reference, &reference);
            assert_eq!(found, Some(!expected), "{reference} below {prefix}");
        }
    }
}

/// `TestPRMRemapIdentityRemapReferencePrefix` and the beginning of `TestPRMRemapIdentityMatchesDockerReference`. An empty
/// name: nothing that a signature names is taken.
#[test]
fn an_identity_is_remapped_as_for_containers_image() {
    for (prefix, signed, asked, named, expected) in [
        (
            "mirror.example",
            "vendor.example",
            "mirror.example/ns/image:tag",
            "vendor.example/ns/image:tag",
            true,
        ),
        (
            "mirror.example",
            "vendor.example",
            "different.com/ns/image:tag",
            "different.com/ns/image:tag",
            true,
        ),
        (
            "mirror.example/ns",
            "vendor.example/vendor-ns",
            "mirror.example/different-ns/image:tag",
            "mirror.example/different-ns/image:tag",
            true,
        ),
        (
            "docker.io",
            "not-docker-signed.example/ns",
            "busybox:tag",
            "not-docker-signed.example/ns/library/busybox:tag",
            true,
        ),
        (
            "example.com/mirror",
            "example.com/vendor",
            "example.com/mirror/image:tag",
            "example.com/vendor/image:tag",
            true,
        ),
        (
            "example.com/ns/mirror",
            "example.com/ns/vendor",
            "example.com/ns/mirror:tag",
            "example.com/ns/vendor:tag",
            true,
        ),
        (
            "mirror.example",
            "vendor.example",
            "prefixmirror.example/ns/image:tag",
            "prefixmirror.example/ns/image:tag",
            true,
        ),
        (
            "docker.io",
            "not-docker-signed.example",
            "busybox:tag",
            "not-docker-signed.example/library/busybox:tag",
            true,
        ),
        (
            "docker.io/library",
            "not-docker-signed.example/ns",
            "busybox:tag",
            "not-docker-signed.example/ns/busybox:tag",
            true,
        ),
        (
            "docker.io/library/busybox",
            "not-docker-signed.example/ns/notbusybox",
            "busybox:tag",
            "not-docker-signed.example/ns/notbusybox:tag",
            true,
        ),
        (
            "mirror.example",
            "vendor.example",
            &format!("mirror.example/image{DIGEST}"),
            &format!("vendor.example/image{DIGEST}"),
            true,
        ),
        // The rewriting makes no reference.
        (
            "mirror.example/ns/image",
            "vendor.example:5000",
            "mirror.example/ns/image:tag",
            "vendor.example:5000:tag",
            false,
        ),
        (
            "mirror.example/ns/image",
            "vendor.example:5000",
            &format!("mirror.example/ns/image{DIGEST}"),
            &format!("vendor.example:5000{DIGEST}"),
            false,
        ),
        (
            "mirror.example/ns/image",
            "notlocalhost",
            "mirror.example/ns/image:tag",
            "notlocalhost:tag",
            false,
        ),
        // TestPRMRemapIdentityMatchesDockerReference
        (
            "does-not-match.com",
            "does-not-match.rewritten",
            "busybox:latest",
            "busybox:latest",
            true,
        ),
        (
            "does-not-match.com",
            "does-not-match.rewritten",
            "busybox:latest",
            "notbusybox:latest",
            false,
        ),
        (
            "mirror.example",
            "public.com",
            "mirror.example/busybox:1",
            "public.com/busybox:1",
            true,
        ),
        (
            "mirror.example",
            "public.com",
            "mirror.example/busybox:1",
            "public.com/busybox:not1",
            false,
        ),
        (
            "mirror.example",
            "docker.io/library",
            "mirror.example/busybox:latest",
            "busybox:latest",
            true,
        ),
        (
            "mirror.example",
            "docker.io/library",
            "mirror.example/alpine:latest",
            "busybox:latest",
            false,
        ),
        (
            "docker.io/library",
            "original.com",
            "copied:latest",
            "original.com/copied:latest",
            true,
        ),
        (
            "docker.io/library",
            "original.com",
            "copied:latest",
            "original.com/ns/copied:latest",
            false,
        ),
        (
            "busybox",
            "example.com/busybox",
            "busybox:latest",
            "example.com/busybox:latest",
            false,
        ),
        (
            "docker.io/library/busybox",
            "busybox",
            "docker.io/library/busybox:latest",
            "busybox:latest",
            false,
        ),
        (
            "UPPERCASE",
            "example.com",
            "example.com/foo:latest",
            "example.com/foo:latest",
            true,
        ),
        (
            "example.com",
            "UPPERCASE",
            "example.com/foo:latest",
            "UPPERCASE/foo:latest",
            false,
        ),
    ] {
        let identity = Identity::Remap(Remap::new(prefix.into(), signed.into()).unwrap());
        let found = matches(&identity, asked, named);
        assert_eq!(
            found,
            Some(expected),
            "{prefix} → {signed}: {asked} signed as {named}"
        );
    }
    // An image without a name is never one that was signed.
    let nameless = Subject {
        manifest: Digest::of(b"any"),
        repository: None,
        tag: None,
        now: jiff::Timestamp::UNIX_EPOCH,
    };
    let remap = Remap::new("docker.io".into(), "docker.io".into()).unwrap();
    for identity in [
        Identity::Exact,
        Identity::RepoDigestOrExact,
        Identity::Repository,
        Identity::Remap(remap),
    ] {
        assert!(identity.check(Some(""), &nameless).is_err(), "{identity}");
    }
}

/// A file of signatures as the `dir:` transport writes it, for an attachment of cosign.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    mime_type: String,
    payload: String,
    annotations: Annotations,
}

/// The signatures in a fixture, as they would be found in a `.sig` tag: those of GPG lie elsewhere.
/// `change`: an annotation that has another value, or is missing.
fn signatures(file: &[u8], change: Option<(&str, Option<&str>)>) -> Vec<Signature> {
    let Some(json) = file.strip_prefix(b"\0sigstore-json\n") else {
        return Vec::new();
    };
    let mut stored: Stored = serde_json::from_slice(json).unwrap();
    if let Some((annotation, value)) = change {
        let before = stored.annotations.remove(annotation);
        assert!(before.is_some(), "{annotation}");
        let value = value.map(|value| (annotation.to_owned(), value.to_owned()));
        stored.annotations.extend(value);
    }
    let payload = BASE64_STANDARD.decode(stored.payload).unwrap();
    let image = Image {
        artifact_type: None,
        config: None,
        layers: vec![Descriptor {
            media_type: stored.mime_type,
            digest: Digest::of(&payload),
            size: payload.len() as u64,
            annotations: stored.annotations,
            is_foreign: false,
            artifact_type: None,
        }],
        annotations: Annotations::new(),
        subject: None,
    };
    let found = parts(&image).into_iter().map(|part| match part {
        Part::Payload(layer, signature) => {
            Signature::simple(Place::SigTag, payload.clone(), signature)
                .proved_by(&layer.annotations)
        }
        Part::Bundle(_) => panic!("a bundle"),
        Part::Unread(why) => Signature::unread(Place::SigTag, why),
    });
    found.collect()
}

/// Whether the image of a fixture, asked for by a reference, is accepted under a requirement.
fn verdict(folder: &str, reference: &str, requirement: &str) -> Verdict {
    let Ok(manifest) = fixture(&format!("{folder}/manifest.json")) else {
        return Verdict::Refused("there is no manifest".into());
    };
    let files = (1..).map_while(|n| fixture(&format!("{folder}/signature-{n}")).ok());
    let heard: Vec<_> = files.flat_map(|file| signatures(&file, None)).collect();
    judged(&manifest, reference, requirement, &heard)
}

fn judged(manifest: &[u8], reference: &str, requirement: &str, heard: &[Signature]) -> Verdict {
    let asked: Exact = reference.parse().unwrap();
    let subject = Subject {
        manifest: Digest::of(manifest),
        repository: Some(&asked.repository),
        tag: asked.tag.as_ref(),
        now: "2026-11-30T00:00:00Z".parse().unwrap(),
    };
    let policy = match of(requirement) {
        Ok(policy) => policy,
        Err(why) => return Verdict::Refused(why),
    };
    let rules = policy.rules(&Scope::Docker(
        &asked.repository,
        subject.tag,
        subject.manifest,
    ));
    let mut trial = Trial::new(rules, subject);
    for signature in heard {
        trial.hear(signature, None);
    }
    trial.verdict()
}

const SAMPLE: &str = "192.168.64.2:5000/cosign-signed-single-sample";

fn requirement(keys: &str, identity: &str) -> String {
    format!(r#"{{"type":"sigstoreSigned",{keys},"signedIdentity":{{{identity}}}}}"#)
}

const REPOSITORY: &str = r#""type":"matchRepository""#;
const EXACT: &str = r#""type":"matchExact""#;

/// `TestPRSigstoreSignedIsRunningImageAllowed` and `TestPRrSigstoreSignedIsSignatureAccepted` of
/// `policy_eval_sigstore_test.go`, as far as images in files decide.
#[test]
fn the_images_of_containers_image_are_accepted_and_refused_as_there() {
    let pub1 = r#""keyPath":"fixtures/cosign.pub""#;
    let both =
        |one: &str, two: &str| format!(r#""keyPaths":["fixtures/{one}.pub","fixtures/{two}.pub"]"#);
    let data = |key: &str| BASE64_STANDARD.encode(fixture(&format!("{key}.pub")).unwrap());
    let (one, two) = (data("cosign"), data("cosign2"));
    let rekor = r#""rekorPublicKeyPath":"fixtures/rekor.pub""#;
    let fulcio = r#""fulcio":{"caPath":"fixtures/fulcio_v1.crt.pem","oidcIssuer":"https://github.com/login/oauth","subjectEmail":"mitr@redhat.com"}"#;
    let pki = r#""pki":{"caRootsPath":"fixtures/pki_root_crts.pem","caIntermediatesPath":"fixtures/pki_intermediate_crts.pem","subjectEmail":"qiwan@redhat.com","subjectHostname":"myhost.example.com"}"#;
    let of_rekor = "192.168.64.2:5000/cosign-signed/key-1";
    let skopeo = "192.168.64.2:5000/skopeo-signed";
    for (folder, reference, keys, identity, expected, ours) in [
        ("dir-img-cosign-valid", SAMPLE, pub1, REPOSITORY, true, Same),
        (
            "dir-img-cosign-valid",
            SAMPLE,
            &*both("cosign", "cosign2"),
            REPOSITORY,
            true,
            Same,
        ),
        (
            "dir-img-cosign-valid",
            SAMPLE,
            &*both("cosign2", "cosign"),
            REPOSITORY,
            true,
            Same,
        ),
        (
            "dir-img-cosign-valid",
            SAMPLE,
            &*format!(r#""keyData":"{one}""#),
            REPOSITORY,
            true,
            Same,
        ),
        (
            "dir-img-cosign-valid",
            SAMPLE,
            &*format!(r#""keyDatas":["{one}","{two}"]"#),
            REPOSITORY,
            true,
            Same,
        ),
        (
            "dir-img-cosign-valid",
            SAMPLE,
            &*format!(r#""keyDatas":["{two}","{one}"]"#),
            REPOSITORY,
            true,
            Same,
        ),
        (
            "dir-img-cosign-valid",
            SAMPLE,
            r#""keyPath":"fixtures/cosign2.pub""#,
            REPOSITORY,
            false,
            Same,
        ),
        // No signature, none of cosign, none at all that is one.
        (
            "dir-img-unsigned",
            "testing/manifest:latest",
            pub1,
            REPOSITORY,
            false,
            Same,
        ),
        (
            "dir-img-valid",
            "testing/manifest:latest",
            pub1,
            REPOSITORY,
            false,
            Same,
        ),
        (
            "dir-img-cosign-other-attachment",
            "testing/manifest:latest",
            pub1,
            REPOSITORY,
            false,
            Same,
        ),
        (
            "dir-img-cosign-other-attachment",
            SAMPLE,
            pub1,
            REPOSITORY,
            false,
            Same,
        ),
        (
            "dir-img-cosign-valid",
            "testing/manifest:notlatest",
            pub1,
            REPOSITORY,
            false,
            Same,
        ),
        // Two that are valid, an invalid one before a valid one, two of another name.
        (
            "dir-img-cosign-valid-2",
            SAMPLE,
            pub1,
            REPOSITORY,
            true,
            Same,
        ),
        ("dir-img-cosign-mixed", SAMPLE, pub1, REPOSITORY, true, Same),
        (
            "dir-img-cosign-valid-2",
            "this/does-not:match",
            pub1,
            REPOSITORY,
            false,
            Same,
        ),
        (
            "dir-img-cosign-valid",
            SAMPLE,
            pub1,
            r#""type":"exactReference","dockerReference":"this/does-not:match""#,
            false,
            Same,
        ),
        (
            "dir-img-cosign-no-manifest",
            SAMPLE,
            pub1,
            REPOSITORY,
            false,
            Same,
        ),
        (
            "dir-img-cosign-manifest-digest-error",
            SAMPLE,
            pub1,
            REPOSITORY,
            false,
            Same,
        ),
        (
            "dir-img-cosign-modified-manifest",
            SAMPLE,
            pub1,
            REPOSITORY,
            false,
            Same,
        ),
        // skopeo signs a tag, cosign none.
        (
            "dir-img-cosign-valid-with-tag",
            &*format!("{skopeo}:tag"),
            pub1,
            EXACT,
            true,
            Same,
        ),
        (
            "dir-img-cosign-valid-with-tag",
            &*format!("{skopeo}:othertag"),
            pub1,
            EXACT,
            false,
            Same,
        ),
        ("dir-img-cosign-valid", SAMPLE, pub1, EXACT, false, Same),
        // TestPRSigstoreSignedPrepareTrustRoot: a key that cannot be loaded spoils the others.
        (
            "dir-img-cosign-valid",
            SAMPLE,
            r#""keyPath":"fixtures/image.signature""#,
            REPOSITORY,
            false,
            Same,
        ),
        (
            "dir-img-cosign-valid",
            SAMPLE,
            r#""keyPath":"fixtures/this/does/not/exist""#,
            REPOSITORY,
            false,
            Same,
        ),
        (
            "dir-img-cosign-valid",
            SAMPLE,
            r#""keyPaths":["fixtures/image.signature","fixtures/cosign.pub"]"#,
            REPOSITORY,
            false,
            Same,
        ),
        (
            "dir-img-cosign-valid",
            SAMPLE,
            r#""keyPaths":["fixtures/cosign.pub","fixtures/image.signature"]"#,
            REPOSITORY,
            false,
            Same,
        ),
        (
            "dir-img-cosign-valid",
            SAMPLE,
            r#""keyPaths":["fixtures/this/does/not/exist","fixtures/cosign.pub"]"#,
            REPOSITORY,
            false,
            Same,
        ),
        (
            "dir-img-cosign-valid",
            SAMPLE,
            r#""keyPaths":["fixtures/cosign.pub","fixtures/this/does/not/exist"]"#,
            REPOSITORY,
            false,
            Same,
        ),
        (
            "dir-img-cosign-valid",
            SAMPLE,
            r#""keyData":"dGhpcyBpcyBpbnZhbGlk""#,
            REPOSITORY,
            false,
            Same,
        ),
        (
            "dir-img-cosign-valid",
            SAMPLE,
            &*format!(r#""keyDatas":["dGhpcyBpcyBpbnZhbGlk","{one}"]"#),
            REPOSITORY,
            false,
            Same,
        ),
        (
            "dir-img-cosign-valid",
            SAMPLE,
            &*format!(r#""keyDatas":["{one}","dGhpcyBpcyBpbnZhbGlk"]"#),
            REPOSITORY,
            false,
            Same,
        ),
        // The log, and certificates.
        (
            "dir-img-cosign-key-rekor-valid",
            of_rekor,
            &*format!(r#""keyPath":"fixtures/cosign2.pub",{rekor}"#),
            REPOSITORY,
            true,
            Same,
        ),
        (
            "dir-img-cosign-key-rekor-valid",
            of_rekor,
            &*format!("{},{rekor}", both("cosign2", "cosign")),
            REPOSITORY,
            true,
            Same,
        ),
        (
            "dir-img-cosign-key-rekor-valid",
            of_rekor,
            r#""keyPath":"fixtures/cosign2.pub","rekorPublicKeyPath":"fixtures/cosign.pub""#,
            REPOSITORY,
            false,
            Same,
        ),
        (
            "dir-img-cosign-fulcio-rekor-valid",
            "192.168.64.2:5000/cosign-signed/fulcio-rekor-1",
            &*format!("{fulcio},{rekor}"),
            REPOSITORY,
            true,
            Same,
        ),
        (
            "dir-img-cosign-pki-valid",
            "localhost:5000/test",
            pki,
            REPOSITORY,
            true,
            Same,
        ),
    ] {
        let reference = match reference.rsplit_once(':') {
            Some((_, tag)) if !tag.contains('/') => reference.to_owned(),
            _ => format!("{reference}:latest"),
        };
        let found = verdict(folder, &reference, &requirement(keys, identity));
        let is_accepted = matches!(found, Verdict::Accepted(_));
        assert_eq!(
            is_accepted,
            ours.verdict(expected),
            "{folder} as {reference} by {keys}: {found:?}, {ours:?}"
        );
    }
    // Without the log the same image is accepted by its key: what is refused above is the log alone.
    let found = verdict(
        "dir-img-cosign-key-rekor-valid",
        of_rekor,
        &requirement(r#""keyPath":"fixtures/cosign2.pub""#, REPOSITORY),
    );
    assert!(matches!(found, Verdict::Accepted(_)), "{found:?}");
}

/// The rows of `TestPRrSigstoreSignedIsSignatureAccepted` in which what proves a signature is another one, and some of
/// `TestPKIVerify` of `pki_cert_test.go`.
#[test]
fn what_proves_a_signature_counts_as_for_containers_image() {
    const SET: &str = "dev.sigstore.cosign/bundle";
    const CERTIFICATE: &str = "dev.sigstore.cosign/certificate";
    const CHAIN: &str = "dev.sigstore.cosign/chain";
    const EMAIL: &str = "mitr@redhat.com";
    const ISSUER: &str = "https://github.com/login/oauth";
    let [key, fulcio, pki] = [
        (
            "dir-img-cosign-key-rekor-valid",
            "192.168.64.2:5000/cosign-signed/key-1:latest",
        ),
        (
            "dir-img-cosign-fulcio-rekor-valid",
            "192.168.64.2:5000/cosign-signed/fulcio-rekor-1:latest",
        ),
        ("dir-img-cosign-pki-valid", "localhost:5000/test:latest"),
    ];
    let stored = |(folder, _): (&str, &str)| {
        let file = fixture(&format!("{folder}/signature-1")).unwrap();
        let json = file.strip_prefix(b"\0sigstore-json\n").unwrap().to_vec();
        serde_json::from_slice::<Stored>(&json).unwrap()
    };
    let logs = |names: &str| {
        let paths = names
            .split(' ')
            .map(|name| format!(r#""fixtures/{name}.pub""#));
        let paths: Vec<_> = paths.collect();
        format!(r#""rekorPublicKeyPaths":[{}]"#, paths.join(","))
    };
    let logged = |keys: &str, names: &str| {
        let paths = keys
            .split(' ')
            .map(|name| format!(r#""fixtures/{name}.pub""#));
        let paths: Vec<_> = paths.collect();
        format!(r#""keyPaths":[{}],{}"#, paths.join(","), logs(names))
    };
    let of_fulcio = |ca: &str, issuer: &str, email: &str, names: &str| {
        let logs = logs(names);
        format!(r#""fulcio":{{{ca},"oidcIssuer":"{issuer}","subjectEmail":"{email}"}},{logs}"#)
    };
    let ca = r#""caPath":"fixtures/fulcio_v1.crt.pem""#;
    let chain = &stored(fulcio).annotations[CHAIN];
    let chain = format!(r#""caData":"{}""#, BASE64_STANDARD.encode(chain));
    let of_pki =
        |roots: &str, more: &str| format!(r#""pki":{{"caRootsPath":"fixtures/{roots}",{more}}}"#);
    let between = r#""caIntermediatesPath":"fixtures/pki_intermediate_crts.pem""#;
    let email = r#""subjectEmail":"qiwan@redhat.com""#;
    let of_key = stored(key).annotations[SET].clone();
    let rows = [
        (key, logged("cosign2", "rekor"), None, true),
        (key, logged("cosign cosign2", "rekor"), None, true),
        (key, logged("cosign2", "cosign rekor"), None, true),
        (key, logged("cosign2", "rekor rekor"), None, true),
        (key, logged("cosign2", "rekor"), Some((SET, None)), false),
        (
            key,
            logged("cosign2", "rekor"),
            Some((SET, Some("this is not a valid SET"))),
            false,
        ),
        (key, logged("cosign2", "cosign"), None, false),
        (key, logged("cosign2 cosign", "cosign"), None, false),
        (key, logged("cosign", "rekor"), None, false),
        (key, logged("cosign2", "some-rsa-key"), None, false),
        (key, of_fulcio(ca, ISSUER, EMAIL, "rekor"), None, false),
        (fulcio, of_fulcio(ca, ISSUER, EMAIL, "rekor"), None, true),
        (
            fulcio,
            of_fulcio(ca, ISSUER, EMAIL, "cosign rekor"),
            None,
            true,
        ),
        (fulcio, of_fulcio(ca, ISSUER, EMAIL, "cosign"), None, false),
        (
            fulcio,
            of_fulcio(ca, ISSUER, EMAIL, "rekor"),
            Some((SET, None)),
            false,
        ),
        (
            fulcio,
            of_fulcio(ca, ISSUER, EMAIL, "rekor"),
            Some((SET, Some(&*of_key))),
            false,
        ),
        (
            fulcio,
            of_fulcio(ca, ISSUER, EMAIL, "rekor"),
            Some((CERTIFICATE, None)),
            false,
        ),
        (
            fulcio,
            of_fulcio(ca, ISSUER, EMAIL, "rekor"),
            Some((CERTIFICATE, Some("none"))),
            false,
        ),
        (
            fulcio,
            of_fulcio(ca, ISSUER, EMAIL, "rekor"),
            Some((CHAIN, None)),
            false,
        ),
        (
            fulcio,
            of_fulcio(&chain, ISSUER, EMAIL, "rekor"),
            Some((CHAIN, None)),
            true,
        ),
        (
            fulcio,
            of_fulcio(ca, ISSUER, "this-does-not-match@example.com", "rekor"),
            None,
            false,
        ),
        (
            fulcio,
            of_fulcio(ca, "https://example.com", EMAIL, "rekor"),
            None,
            false,
        ),
        (
            fulcio,
            of_fulcio(
                r#""caPath":"fixtures/pki_root_crts.pem""#,
                ISSUER,
                EMAIL,
                "rekor",
            ),
            None,
            false,
        ),
        (
            fulcio,
            of_fulcio(r#""caPath":"fixtures/cosign.pub""#, ISSUER, EMAIL, "rekor"),
            None,
            false,
        ),
        (
            pki,
            of_pki("pki_root_crts.pem", &format!("{between},{email}")),
            None,
            true,
        ),
        (pki, of_pki("pki_root_crts.pem", email), None, true),
        (
            pki,
            of_pki("pki_root_crts.pem", email),
            Some((CHAIN, None)),
            false,
        ),
        (
            pki,
            of_pki("pki_root_crts.pem", &format!("{between},{email}")),
            Some((CHAIN, None)),
            true,
        ),
        (
            pki,
            of_pki("pki_root_crts.pem", email),
            Some((CERTIFICATE, None)),
            false,
        ),
        (
            pki,
            of_pki("pki_root_crts.pem", email),
            Some((CERTIFICATE, Some("none"))),
            false,
        ),
        (
            pki,
            of_pki("fulcio_v1.crt.pem", &format!("{between},{email}")),
            None,
            false,
        ),
        (
            pki,
            of_pki(
                "pki_root_crts.pem",
                r#""subjectEmail":"this-does-not-match@example.com""#,
            ),
            None,
            false,
        ),
        (
            pki,
            of_pki(
                "pki_root_crts.pem",
                r#""subjectHostname":"myhost.example.com""#,
            ),
            None,
            true,
        ),
        (
            pki,
            of_pki("pki_root_crts.pem", r#""subjectHostname":"a.example.com""#),
            None,
            false,
        ),
    ];
    for ((folder, reference), keys, change, expected) in rows {
        let manifest = fixture(&format!("{folder}/manifest.json")).unwrap();
        let file = fixture(&format!("{folder}/signature-1")).unwrap();
        let heard = signatures(&file, change);
        let found = judged(
            &manifest,
            reference,
            &requirement(&keys, REPOSITORY),
            &heard,
        );
        let is_accepted = matches!(found, Verdict::Accepted(_));
        assert_eq!(
            is_accepted, expected,
            "{folder} by {keys} with {change:?}: {found:?}"
        );
    }
}

/// The rows of the same two tests, and of `TestVerifySigstorePayload` of `internal/sigstore_payload_test.go`, in which
/// the signature itself is another one. The key is `cosign.pub`.
#[test]
fn the_signatures_of_containers_image_are_accepted_and_refused_as_there() {
    let manifest = fixture("dir-img-cosign-valid/manifest.json").unwrap();
    let file = fixture("dir-img-cosign-valid/signature-1").unwrap();
    let stored: Stored =
        serde_json::from_slice(file.strip_prefix(b"\0sigstore-json\n").unwrap()).unwrap();
    let payload = BASE64_STANDARD.decode(stored.payload).unwrap();
    let annotation = "dev.cosignproject.cosign/signature";
    let text = stored.annotations[annotation].clone();
    let bytes = BASE64_STANDARD.decode(&text).unwrap();
    let encoded = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
    let simple =
        |payload: &[u8], text: &str| vec![Signature::simple(Place::SigTag, payload.to_vec(), text)];
    let unknown = fixture("unknown-cosign-key.signature").unwrap();
    for (what, heard, expected) in [
        ("as it is", simple(&payload, &text), true),
        (
            "no annotation",
            signatures(&file, Some((annotation, None))),
            false,
        ),
        ("an unknown key", signatures(&unknown, None), false),
        ("not base64", simple(&payload, "&"), false),
        ("more padding", simple(&payload, &format!("{text}=")), false),
        (
            "cut base64",
            simple(&payload, &text[..text.len() - 1]),
            false,
        ),
        ("empty", simple(&payload, ""), false),
        (
            "no signature",
            simple(&payload, &encoded(b"invalid signature")),
            false,
        ),
        ("twice", simple(&payload, &encoded(&bytes.repeat(2))), false),
        // Both of these the key has signed.
        (
            "not JSON",
            simple(
                b"&",
                "MEUCIARnnxZQPALBfqkB4aNAYXad79Qs6VehcrgIeZ8p7I2FAiEAzq2HXwXlz1iJeh+ucUR3L0zpjynQk6Rk0+/gXYp49RU=",
            ),
            false,
        ),
        (
            "an empty object",
            simple(
                b"{}",
                "MEUCIQDkySOBGxastVP0+koTA33NH5hXjwosFau4rxTPN6g48QIgb7eWKkGqfEpHMM3aT4xiqyP/170jEkdFuciuwN4mux4=",
            ),
            false,
        ),
    ] {
        let requirement = requirement(r#""keyPath":"fixtures/cosign.pub""#, REPOSITORY);
        let found = judged(&manifest, &format!("{SAMPLE}:latest"), &requirement, &heard);
        assert_eq!(
            matches!(found, Verdict::Accepted(_)),
            expected,
            "{what}: {found:?}"
        );
        let Verdict::Refused(why) = found else {
            continue;
        };
        // It was verified, and read then.
        let is_read = why.contains("its payload cannot be understood");
        assert_eq!(
            is_read,
            ["not JSON", "an empty object"].contains(&what),
            "{what}: {why}"
        );
    }
}

/// `TestUntrustedSigstorePayloadUnmarshalJSON` of `internal/sigstore_payload_test.go`.
#[test]
fn a_payload_is_read_as_containers_image_reads_it() {
    let digest = Digest::of(b"manifest");
    let identity = r#"{"docker-reference":"reference#@!"}"#;
    let image = format!(r#"{{"docker-manifest-digest":"{digest}"}}"#);
    let kind = r#""cosign container image signature""#;
    let critical = |identity: &str, image: &str, kind: &str, more: &str| {
        format!(r#"{{"identity":{identity},"image":{image},"type":{kind}{more}}}"#)
    };
    let good = critical(identity, &image, kind, "");
    let optional = r#"{"creator":"CREATOR","timestamp":1484683104}"#;
    let payload = |critical: &str, optional: &str| {
        format!(r#"{{"critical":{critical},"optional":{optional}}}"#)
    };
    let of = |identity: &str, image: &str, kind: &str, more: &str| {
        payload(&critical(identity, image, kind, more), optional)
    };
    for (is_read, json) in [
        (true, payload(&good, optional)),
        (true, payload(&good, "{}")),
        (true, payload(&good, "null")),
        (true, payload(&good, r#"{"unexpected":1}"#)),
        (false, "&".into()),
        (false, "1".into()),
        (false, format!(r#"{{"optional":{optional}}}"#)),
        (false, format!(r#"{{"critical":{good}}}"#)),
        (
            false,
            format!(r#"{{"critical":{good},"optional":{{}},"unexpected":1}}"#),
        ),
        (false, payload("1", optional)),
        (false, payload(&good, "1")),
        (
            false,
            payload(
                &format!(r#"{{"identity":{identity},"image":{image}}}"#),
                optional,
            ),
        ),
        (
            false,
            payload(
                &format!(r#"{{"identity":{identity},"type":{kind}}}"#),
                optional,
            ),
        ),
        (
            false,
            payload(&format!(r#"{{"image":{image},"type":{kind}}}"#), optional),
        ),
        (false, of(identity, &image, kind, r#","unexpected":1"#)),
        (false, of(identity, &image, "1", "")),
        (false, of(identity, &image, r#""unexpected""#, "")),
        (false, of(identity, "1", kind, "")),
        (false, of(identity, "{}", kind, "")),
        (
            false,
            of(
                identity,
                &image.replace('}', r#","unexpected":1}"#),
                kind,
                "",
            ),
        ),
        (
            false,
            of(identity, r#"{"docker-manifest-digest":1}"#, kind, ""),
        ),
        (
            false,
            of(
                identity,
                r#"{"docker-manifest-digest":"sha256:../.."}"#,
                kind,
                "",
            ),
        ),
        (false, of("1", &image, kind, "")),
        (false, of("{}", &image, kind, "")),
        (
            false,
            of(
                r#"{"docker-reference":"r","unexpected":1}"#,
                &image,
                kind,
                "",
            ),
        ),
        (false, of(r#"{"docker-reference":1}"#, &image, kind, "")),
        (false, payload(&good, r#"{"creator":1}"#)),
        (false, payload(&good, r#"{"timestamp":"unexpected"}"#)),
        (false, payload(&good, r#"{"timestamp":0.5}"#)),
    ] {
        let found = simple::reference(json.as_bytes(), digest);
        assert_eq!(found.is_ok(), is_read, "{json}: {found:?}");
    }
}
