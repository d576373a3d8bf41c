//! A requirement of a policy: its JSON, and the rule that it is.
//!
//! By containers/image, `signature/policy_config.go` and `signature/policy_config_sigstore.go`. As in Go, a text that is
//! `null` or empty is one that is not given.

use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::super::identity::{Exact, Remap};
use super::super::{Authority, By, Identity, Key, Keyless, Rule, Signatory, Signer, TrustedRoot};

/// The types of keys that GPG's requirement may have.
const KEY_TYPES: [&str; 4] = [
    "GPGKeys",
    "signedByGPGKeys",
    "X509Certificates",
    "signedByX509CAs",
];

/// An object: serde takes a list for one, too, with its values in the order of the fields.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

/// A list with one entry at least.
#[derive(Deserialize)]
#[serde(try_from = "Vec<T>", bound = "T: Deserialize<'de>")]
pub struct NonEmpty<T>(pub Vec<T>);

impl<T> TryFrom<Vec<T>> for NonEmpty<T> {
    type Error = String;

    fn try_from(list: Vec<T>) -> Result<Self, String> {
        match list.is_empty() {
            true => Err("an empty list, expected one entry at least".to_owned()),
            false => Ok(Self(list)),
        }
    }
}

/// Bytes in base64, in which line ends do not count.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Data(Vec<u8>);

impl TryFrom<String> for Data {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let bytes = BASE64_STANDARD.decode(text.replace(['\r', '\n'], ""));
        let bytes = bytes.map_err(|error| format!("base64 is damaged: {error}"))?;
        Ok(Self(bytes))
    }
}

/// A value that may be absent, but not `null`.
pub fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    value: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(value).map(Some)
}

/// A text, if it is given.
fn text<'de, D: Deserializer<'de>>(value: D) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(value)?;
    Ok(text.filter(|text| !text.is_empty()))
}

/// How many of these are given.
fn count<const N: usize>(given: [bool; N]) -> usize {
    given.into_iter().filter(|one| *one).count()
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", deny_unknown_fields)]
pub enum Requirement {
    InsecureAcceptAnything {},
    Reject {},
    SignedBy(Box<Gpg>),
    #[serde(rename_all = "camelCase")]
    SignedBaseLayer {
        base_layer_identity: Object<Box<RawIdentity>>,
    },
    SigstoreSigned(Box<Sigstore>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gpg {
    key_type: String,
    #[serde(default, deserialize_with = "text")]
    key_path: Option<String>,
    #[serde(default, deserialize_with = "given")]
    key_paths: Option<Vec<String>>,
    key_data: Option<Data>,
    #[serde(default, deserialize_with = "given")]
    signed_identity: Option<Object<RawIdentity>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sigstore {
    #[serde(default, deserialize_with = "text")]
    key_path: Option<String>,
    #[serde(default, deserialize_with = "given")]
    key_paths: Option<NonEmpty<PathBuf>>,
    key_data: Option<Data>,
    #[serde(default, deserialize_with = "given")]
    key_datas: Option<NonEmpty<Data>>,
    #[serde(default, deserialize_with = "given")]
    fulcio: Option<Object<Fulcio>>,
    #[serde(default, deserialize_with = "given")]
    pki: Option<Object<Pki>>,
    #[serde(default, deserialize_with = "text")]
    rekor_public_key_path: Option<String>,
    #[serde(default, deserialize_with = "given")]
    rekor_public_key_paths: Option<NonEmpty<PathBuf>>,
    rekor_public_key_data: Option<Data>,
    #[serde(default, deserialize_with = "given")]
    rekor_public_key_datas: Option<NonEmpty<Data>>,
    #[serde(default, deserialize_with = "given")]
    signed_identity: Option<Object<RawIdentity>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Fulcio {
    #[serde(default, deserialize_with = "text")]
    ca_path: Option<String>,
    ca_data: Option<Data>,
    #[serde(default, deserialize_with = "text")]
    oidc_issuer: Option<String>,
    #[serde(default, deserialize_with = "text")]
    subject_email: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Pki {
    #[serde(default, deserialize_with = "text")]
    ca_roots_path: Option<String>,
    ca_roots_data: Option<Data>,
    #[serde(default, deserialize_with = "text")]
    ca_intermediates_path: Option<String>,
    ca_intermediates_data: Option<Data>,
    #[serde(default, deserialize_with = "text")]
    subject_email: Option<String>,
    #[serde(default, deserialize_with = "text")]
    subject_hostname: Option<String>,
}

/// One of a type has these fields, and no other.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RawIdentity {
    r#type: String,
    #[serde(default, deserialize_with = "given")]
    docker_reference: Option<Exact>,
    #[serde(default, deserialize_with = "given")]
    docker_repository: Option<Exact>,
    #[serde(default, deserialize_with = "given")]
    prefix: Option<String>,
    #[serde(default, deserialize_with = "given")]
    signed_prefix: Option<String>,
}

impl Requirement {
    /// The rule that it is; `None` if it accepts anything. `origin`: its scope and file. `read`: the bytes of a key
    /// file.
    pub fn rule(
        self,
        origin: &str,
        read: impl Fn(&Path) -> Result<Vec<u8>, String>,
    ) -> Result<Option<Rule>, String> {
        let never = |why: &str| Ok(Some(Rule::Never(format!("{origin}: {why}"))));
        match self {
            Self::InsecureAcceptAnything {} => Ok(None),
            Self::Reject {} => never("it is rejected"),
            Self::SignedBy(gpg) => {
                gpg.check()?;
                never("a GPG signature is asked for (signedBy), which is not read")
            }
            Self::SignedBaseLayer {
                base_layer_identity,
            } => {
                base_layer_identity.0.check()?;
                never(
                    "a signature of the base layer is asked for (signedBaseLayer), which is not read",
                )
            }
            Self::SigstoreSigned(sigstore) => sigstore.rule(origin, read).map(Some),
        }
    }
}

impl Gpg {
    fn check(self) -> Result<(), String> {
        if !KEY_TYPES.contains(&self.key_type.as_str()) {
            let (found, expected) = (self.key_type, KEY_TYPES.join(", "));
            return Err(format!("keyType is {found:?}, expected one of {expected}"));
        }
        let keys = [
            self.key_path.is_some(),
            self.key_paths.is_some(),
            self.key_data.is_some(),
        ];
        if count(keys) != 1 {
            return Err("signedBy needs exactly one of keyPath, keyPaths and keyData".into());
        }
        self.signed_identity.map(|one| one.0.check()).transpose()?;
        Ok(())
    }
}

impl Fulcio {
    fn check(&self) -> Result<(), String> {
        if count([self.ca_path.is_some(), self.ca_data.is_some()]) != 1 {
            return Err("fulcio needs exactly one of caPath and caData".into());
        }
        if self.oidc_issuer.is_none() || self.subject_email.is_none() {
            return Err("fulcio needs oidcIssuer and subjectEmail".into());
        }
        Ok(())
    }
}

impl Fulcio {
    /// Somebody who logged in, proved as in containers/image, `signature/fulcio_cert.go`.
    fn signer(
        self,
        origin: &str,
        logs: &[(String, Vec<u8>)],
        read: impl Fn(&Path) -> Result<Vec<u8>, String>,
    ) -> Result<By, String> {
        let files = Files {
            path: self.ca_path.map(PathBuf::from),
            data: self.ca_data,
            ..Files::default()
        };
        let files = files.read("certificate", origin, read)?;
        let (name, pem) = files.first().ok_or("fulcio needs a certificate")?;
        Ok(By::Keyless(Keyless {
            root: TrustedRoot::of_fulcio(name, pem, logs)?.into(),
            issuer: self.oidc_issuer.unwrap_or_default(),
            subject: Signatory::Email(self.subject_email.unwrap_or_default()),
        }))
    }
}

impl Pki {
    /// Somebody with a certificate, as in containers/image, `signature/pki_cert.go`.
    fn signer(
        self,
        origin: &str,
        read: impl Fn(&Path) -> Result<Vec<u8>, String>,
    ) -> Result<By, String> {
        let roots = Files {
            path: self.ca_roots_path.map(PathBuf::from),
            data: self.ca_roots_data,
            ..Files::default()
        };
        let between = Files {
            path: self.ca_intermediates_path.map(PathBuf::from),
            data: self.ca_intermediates_data,
            ..Files::default()
        };
        let roots = roots.read("certificate", origin, &read)?;
        let between = between.read("certificate", origin, read)?;
        let (name, pem) = roots.first().ok_or("pki needs a certificate")?;
        let between = between.first().map_or(&b""[..], |(_, pem)| pem);
        let (email, hostname) = (self.subject_email, self.subject_hostname);
        Authority::parse(name, pem, between, email.as_deref(), hostname.as_deref())
            .map(By::Authority)
            .map_err(|why| format!("certificate {name}: {why}"))
    }

    fn check(&self) -> Result<(), String> {
        if count([self.ca_roots_path.is_some(), self.ca_roots_data.is_some()]) != 1 {
            return Err("pki needs exactly one of caRootsPath and caRootsData".into());
        }
        if self.ca_intermediates_path.is_some() && self.ca_intermediates_data.is_some() {
            return Err(
                "pki has both caIntermediatesPath and caIntermediatesData, at most one is allowed"
                    .into(),
            );
        }
        if self.subject_email.is_none() && self.subject_hostname.is_none() {
            return Err("pki needs subjectEmail, subjectHostname or both".into());
        }
        Ok(())
    }
}

impl Sigstore {
    fn rule(
        mut self,
        origin: &str,
        read: impl Fn(&Path) -> Result<Vec<u8>, String>,
    ) -> Result<Rule, String> {
        self.check()?;
        let identity = match self.signed_identity.take() {
            Some(identity) => identity.0.check()?,
            None => Identity::RepoDigestOrExact,
        };
        // A key or file that cannot be read fails the requirement, even if another one would fit.
        let signers = match self.signers(origin, read) {
            Ok(signers) => signers,
            Err(why) => return Ok(Rule::Never(format!("{origin}: {why}"))),
        };
        let signer = |by| Signer {
            by,
            identity: identity.clone(),
        };
        Ok(Rule::Signed {
            signers: signers.into_iter().map(signer).collect(),
            threshold: 1,
            origin: Some(origin.to_owned()),
        })
    }

    /// Who may have signed.
    fn signers(
        self,
        origin: &str,
        read: impl Fn(&Path) -> Result<Vec<u8>, String>,
    ) -> Result<Vec<By>, String> {
        let logs = Files {
            path: self.rekor_public_key_path.map(PathBuf::from),
            paths: self.rekor_public_key_paths,
            data: self.rekor_public_key_data,
            datas: self.rekor_public_key_datas,
        };
        let logs = logs.read("key of Rekor", origin, &read)?;
        if let Some(Object(fulcio)) = self.fulcio {
            return fulcio.signer(origin, &logs, read).map(|one| vec![one]);
        }
        if let Some(Object(pki)) = self.pki {
            return pki.signer(origin, read).map(|one| vec![one]);
        }
        let keys = Files {
            path: self.key_path.map(PathBuf::from),
            paths: self.key_paths,
            data: self.key_data,
            datas: self.key_datas,
        };
        let mut all = Vec::new();
        for (name, pem) in keys.read("key", origin, read)? {
            let key = Key::parse(&name, &pem).map_err(|why| format!("key {name}: {why}"))?;
            all.push(key);
        }
        if logs.is_empty() {
            return Ok(all.into_iter().map(By::Key).collect());
        }
        let logs = Arc::new(TrustedRoot::of_log(&logs)?);
        let logged = |key| By::LoggedKey(key, logs.clone());
        Ok(all.into_iter().map(logged).collect())
    }

    fn check(&self) -> Result<(), String> {
        let keys = [
            self.key_path.is_some(),
            self.key_paths.is_some(),
            self.key_data.is_some(),
            self.key_datas.is_some(),
            self.fulcio.is_some(),
            self.pki.is_some(),
        ];
        if count(keys) != 1 {
            return Err(
                "sigstoreSigned needs exactly one of keyPath, keyPaths, keyData, keyDatas, fulcio and pki"
                    .into(),
            );
        }
        self.fulcio.as_ref().map_or(Ok(()), |one| one.0.check())?;
        self.pki.as_ref().map_or(Ok(()), |one| one.0.check())?;
        match self.rekor_keys() {
            0 if self.fulcio.is_some() => Err("fulcio needs a key of Rekor beside it".into()),
            1 if self.pki.is_some() => Err("pki and a key of Rekor exclude each other".into()),
            0 | 1 => Ok(()),
            _ => Err("sigstoreSigned has several keys of Rekor, at most one is allowed".into()),
        }
    }

    fn rekor_keys(&self) -> usize {
        count([
            self.rekor_public_key_path.is_some(),
            self.rekor_public_key_paths.is_some(),
            self.rekor_public_key_data.is_some(),
            self.rekor_public_key_datas.is_some(),
        ])
    }
}

/// A file, files, the content of one, or that of several: one of these at most.
#[derive(Default)]
struct Files {
    path: Option<PathBuf>,
    paths: Option<NonEmpty<PathBuf>>,
    data: Option<Data>,
    datas: Option<NonEmpty<Data>>,
}

impl Files {
    /// The bytes of each, with its name in messages. `kind`: what they have.
    fn read(
        self,
        kind: &str,
        origin: &str,
        read: impl Fn(&Path) -> Result<Vec<u8>, String>,
    ) -> Result<Vec<(String, Vec<u8>)>, String> {
        let paths = self.paths.map(|paths| paths.0).unwrap_or_default();
        let datas = self.datas.map(|datas| datas.0).unwrap_or_default();
        let mut all = Vec::new();
        for path in self.path.into_iter().chain(paths) {
            let name = path.display().to_string();
            let bytes = read(&path).map_err(|why| format!("{kind} {name}: {why}"))?;
            all.push((name, bytes));
        }
        let datas = self.data.into_iter().chain(datas);
        all.extend(datas.map(|data| (format!("of {origin}"), data.0)));
        Ok(all)
    }
}

impl RawIdentity {
    fn check(self) -> Result<Identity, String> {
        let Self {
            r#type,
            docker_reference,
            docker_repository,
            prefix,
            signed_prefix,
        } = self;
        let fields = (docker_reference, docker_repository, prefix, signed_prefix);
        Ok(match (r#type.as_str(), fields) {
            ("matchExact", (None, None, None, None)) => Identity::Exact,
            ("matchRepoDigestOrExact", (None, None, None, None)) => Identity::RepoDigestOrExact,
            ("matchRepository", (None, None, None, None)) => Identity::Repository,
            ("exactReference", (Some(one), None, None, None)) if one.is_name_only() => {
                return Err("dockerReference needs a tag or a digest".into());
            }
            ("exactReference", (Some(one), None, None, None)) => Identity::ExactReference(one),
            ("exactRepository", (None, Some(one), None, None)) => {
                Identity::ExactRepository(one.repository)
            }
            ("remapIdentity", (None, None, Some(prefix), Some(signed))) => {
                Identity::Remap(Remap::new(prefix, signed)?)
            }
            (other, _) => {
                return Err(format!(
                    "signedIdentity of type {other:?} is unknown or has not exactly the fields of that type: \
                     dockerReference of exactReference, dockerRepository of exactRepository, prefix and signedPrefix \
                     of remapIdentity"
                ));
            }
        })
    }
}
