//! Names as registries, systemd and URLs spell them, each checked once when it is read.
//!
//! Repository and tag: <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests>.
//! Files: what systemd-sysupdate takes as a name in `SHA256SUMS`.
//!
//! Hosts and registries are in `host.rs`.

mod host;

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

use crate::digest::Digest;

pub use host::{
    DOCKER_HUB, Host, Registry, docker_hub, normalized, url_without_userinfo, without_userinfo,
};

/// Longest repository name. Clients count the host in; we allow a little more than they do.
const MAX_REPOSITORY: usize = 255;
/// Longest tag (distribution-spec).
const MAX_TAG: usize = 128;
/// Longest file name: NAME_MAX, which systemd holds names in `SHA256SUMS` to.
const MAX_FILE_NAME: usize = 255;

/// A string that was checked when it was read, by the grammar of what it names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String", bound = "G: Grammar")]
pub struct Checked<G>(String, PhantomData<G>);

/// The rules for a string.
pub trait Grammar {
    /// The one spelling of a text, or why it is refused.
    fn spell(text: &str) -> Result<String, String>;
}

impl<G> Checked<G> {
    /// A text that is known to be by the grammar.
    fn known(text: impl Into<String>) -> Self {
        Self(text.into(), PhantomData)
    }

    /// The text as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<G: Grammar> FromStr for Checked<G> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        G::spell(text).map(Self::known)
    }
}

impl<G: Grammar> TryFrom<String> for Checked<G> {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl<G> fmt::Display for Checked<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<G> fmt::Debug for Checked<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl<G> Serialize for Checked<G> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// A repository inside a registry: `kubernetes`, `acme/sysexts/debug-tools`.
pub type Repository = Checked<RepositoryGrammar>;
/// A tag: `v1.27.8-x86-64`.
pub type Tag = Checked<TagGrammar>;
/// The name of a file in a listing. Every one of them is a name that systemd accepts: one bad
/// name makes systemd-sysupdate refuse the whole list.
pub type FileName = Checked<FileNameGrammar>;
/// Components joined by slashes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryGrammar;
/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TagGrammar;
/// A name that systemd-sysupdate takes and gives no meaning of its own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileNameGrammar;
impl Grammar for RepositoryGrammar {
    fn spell(text: &str) -> Result<String, String> {
        if text.len() > MAX_REPOSITORY {
            return Err(format!(
                "repository name of {} bytes, at most {MAX_REPOSITORY} are allowed",
                text.len()
            ));
        }
        match text.split('/').find(|component| !is_component(component)) {
            None => Ok(text.to_owned()),
            Some(component) => Err(format!(
                "{component:?} in repository {text:?} is not a name component: \
                 lowercase letters and digits, joined by one '.', '_', '__' or dashes"
            )),
        }
    }
}

/// Whether this is one component: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_component(component: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_separator = |between: &str| {
        matches!(between, "" | "." | "_" | "__") || between.bytes().all(|b| b == b'-')
    };
    component.starts_with(is_plain)
        && component.ends_with(is_plain)
        && component.split(is_plain).all(is_separator)
}

impl Grammar for TagGrammar {
    fn spell(text: &str) -> Result<String, String> {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let is_good = text.len() <= MAX_TAG
            && text.starts_with(is_word)
            && text.chars().all(|c| is_word(c) || matches!(c, '.' | '-'));
        is_good.then(|| text.to_owned()).ok_or_else(|| {
            format!(
                "{text:?} is not a tag: at most {MAX_TAG} letters, digits, '_', '.', '-', no '.' or '-' first"
            )
        })
    }
}

impl Grammar for FileNameGrammar {
    fn spell(text: &str) -> Result<String, String> {
        let why = if text.is_empty() || text == "." || text == ".." {
            "it is empty or dots"
        } else if text.len() > MAX_FILE_NAME {
            "it is longer than 255 bytes"
        } else if text.contains(['/', '%']) {
            "it has a '/' or '%'"
        } else if text.starts_with('\\') {
            "it begins with '\\'"
        } else if text.chars().any(char::is_control) {
            "it has a control character"
        } else if text.starts_with("SHA256SUMS") || text.starts_with("BEST-BEFORE-") {
            "systemd gives this name a meaning of its own"
        } else {
            return Ok(text.to_owned());
        };
        Err(format!("{text:?} cannot be listed: {why}"))
    }
}

impl Repository {
    /// The last component, which file names begin with.
    pub fn base(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// `self`, one level or more below `prefix`.
    pub fn below(&self, prefix: Option<&Repository>) -> Result<Self, String> {
        match prefix {
            Some(prefix) => format!("{prefix}/{self}").parse(),
            None => Ok(self.clone()),
        }
    }

    /// Whether it is `prefix` or below it. Whole components count: `acme/k8s` is not below `acme/k`.
    pub fn is_within(&self, prefix: &Repository) -> bool {
        let rest = self.0.strip_prefix(&prefix.0);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl Tag {
    /// The tag of a publisher's own list of the repository's files.
    pub fn of_listing() -> Self {
        Self::known("SHA256SUMS")
    }

    /// The tag of an artifact that lists others, where a publisher has it: `index`.
    pub fn of_index() -> Self {
        Self::known("index")
    }

    /// A label for an artifact that only a digest names, in the place of its version.
    pub fn of_digest(digest: &Digest) -> Self {
        Self::known(&digest.hex()[..12])
    }

    /// The fallback tag of the referrers of a manifest (distribution-spec).
    pub fn of_referrers(subject: &Digest) -> Self {
        Self::known(format!("sha256-{}", subject.hex()))
    }

    /// The tag that cosign gives the signatures of a manifest, where they are not attached to it.
    pub fn of_signatures(subject: &Digest) -> Self {
        Self::known(format!("sha256-{}.sig", subject.hex()))
    }

    /// Whether it is the tag of a signature or of a list of referrers. Such a tag is never a version.
    ///
    /// cosign and the referrers fallback of the distribution-spec:
    /// `^sha(256|512)-[0-9a-f]{32,}(\..+)?$`.
    pub fn is_of_a_referrer(&self) -> bool {
        let rest = self.0.strip_prefix("sha256-");
        let Some(rest) = rest.or_else(|| self.0.strip_prefix("sha512-")) else {
            return false;
        };
        let (hex, suffix) = rest.split_once('.').unwrap_or((rest, "none"));
        let is_digit = |b| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        hex.len() >= 32 && hex.bytes().all(is_digit) && !suffix.is_empty()
    }
}

/// A version without a `v` before its number.
pub fn without_v(version: &str) -> &str {
    let bare = version.strip_prefix('v');
    bare.filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        .unwrap_or(version)
}

/// A repository as a URL or a settings key names it: `kubernetes`, `acme/k8s`, `ghcr.io/acme/k8s`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct RepositoryAddress {
    /// The registry, when the name begins with one.
    pub host: Option<Host>,
    /// The repository there.
    pub repository: Repository,
}

impl RepositoryAddress {
    /// A repository of a registry, by its one name.
    pub fn of(host: &Host, repository: &Repository) -> Self {
        let (host, repository) = normalized(host, repository);
        Self {
            host: Some(host),
            repository,
        }
    }
}

impl FromStr for RepositoryAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((host, rest)) if Host::looks_like_one(host) => Ok(Self {
                host: Some(host.parse()?),
                repository: rest.parse()?,
            }),
            _ => Ok(Self {
                host: None,
                repository: text.parse()?,
            }),
        }
    }
}

impl TryFrom<String> for RepositoryAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl Serialize for RepositoryAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for RepositoryAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Some(host) => write!(f, "{host}/{}", self.repository),
            None => write!(f, "{}", self.repository),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_lowercase_components() {
        let long = "a/".repeat(127) + "b";
        for good in [
            "a",
            "kubernetes",
            "acme/sysexts/debug-tools",
            "a.b_c__d---e",
            "0/1",
            &long,
        ] {
            assert!(good.parse::<Repository>().is_ok(), "{good:?} was refused");
        }
        let too_long = "a/".repeat(128) + "b";
        for (bad, why) in [
            ("", "empty"),
            ("/a", "empty component"),
            ("a//b", "empty component"),
            ("A", "upper case"),
            ("a..b", "two dots"),
            ("a___b", "three underscores"),
            ("a._b", "mixed separators"),
            ("-a", "separator first"),
            ("a.", "separator last"),
            ("..", "a way out"),
            ("a b", "space"),
            ("a%b", "percent"),
            ("ä", "not ASCII"),
            ("a\0", "NUL"),
            (&too_long, "too long"),
        ] {
            assert!(
                bad.parse::<Repository>().is_err(),
                "{why}: {bad:?} was accepted"
            );
        }
    }

    #[test]
    fn tags_follow_the_distribution_spec() {
        let longest = "t".repeat(128);
        for good in ["v1.27.8-x86-64", "latest", "_x", "1", "A-B_c.D", &longest] {
            assert!(good.parse::<Tag>().is_ok(), "{good:?} was refused");
        }
        let too_long = "t".repeat(129);
        for (bad, why) in [
            ("", "empty"),
            ("-ot-beta", "dash first (seen on ECR Public)"),
            (".x", "dot first"),
            ("sha512:00", "a digest (seen on Artifactory)"),
            ("a/b", "slash"),
            ("a+b", "plus"),
            ("ä", "not ASCII"),
            (&too_long, "too long"),
        ] {
            assert!(bad.parse::<Tag>().is_err(), "{why}: {bad:?} was accepted");
        }
    }

    #[test]
    fn tags_of_signatures_and_referrers_are_known() {
        let hex = "0123456789abcdef".repeat(4);
        for (tag, is_one) in [
            (format!("sha256-{hex}"), true),
            (format!("sha256-{hex}.sig"), true),
            (format!("sha512-{hex}.att"), true),
            (format!("sha256-{hex}."), false),
            (format!("sha256-{hex}-x86-64"), false),
            ("sha256-abc".into(), false),
            ("v1".into(), false),
        ] {
            assert_eq!(
                tag.parse::<Tag>().unwrap().is_of_a_referrer(),
                is_one,
                "{tag}"
            );
        }
    }

    #[test]
    fn file_names_are_what_systemd_accepts() {
        let longest = "n".repeat(255);
        for good in [
            "kubernetes-v1.27.8-x86-64.raw",
            "a b",
            "ä",
            "a\\b",
            &longest,
        ] {
            assert!(good.parse::<FileName>().is_ok(), "{good:?} was refused");
        }
        let too_long = "n".repeat(256);
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a%b",
            "\\a",
            "a\nb",
            "a\0b",
            "SHA256SUMS",
            "BEST-BEFORE-2030-01-01",
            &too_long,
        ] {
            assert!(bad.parse::<FileName>().is_err(), "{bad:?} was accepted");
        }
    }
}
