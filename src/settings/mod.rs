//! Settings: files → merged → checked.
//!
//! `/etc/sysext-oci-proxy/config.toml`, then the drop-ins `sysext-oci-proxy/config.d/*.toml` below
//! `/usr/lib`, `/run` and `/etc`. With no file at all every key has its default.

#[cfg(any(test, fuzzing))]
#[path = "../../tests/fuzz/properties/settings.rs"]
pub mod fuzz;

mod files;
mod keys;
mod policy;
mod signer;
mod signers;
mod value;

pub use files::{
    BY_GROUP, TomlMistake, all as files, files_in, parse_toml, read_text, why_unreadable,
};

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::name::{Checked, Grammar, Host, Registry, RepositoryAddress, Tag};
use crate::platform::Architecture;
use crate::rollout::RolloutSetting;
use crate::template::Template;
use crate::trust::{Policy, Rule};
use crate::wanted::Wanted;

pub use signer::{SignedBy, SignerSetting};

/// The settings, whole and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The registry of repositories whose names have no host.
    pub registry: Registry,
    /// More registries that a URL may name.
    pub allow: Vec<Registry>,
    /// The time without a client after which the service exits.
    pub idle_timeout: Duration,
    /// The age up to which a listing is reused without a request to the registry.
    pub listing_ttl: Duration,
    /// Connections to a registry at once, for one listing.
    pub parallel: NonZeroUsize,
    /// Most bytes of flattened images that are kept.
    pub cache_size: u64,
    /// Hosts to which a registry may send requests, as token servers and by redirects.
    pub trusted_hosts: Vec<Host>,
    /// Mirrors that get the name of the registry that they mirror (`?ns=`), besides those on this machine.
    pub mirrors_with_ns: Vec<Host>,
    /// Mirrors that do not get it, even on this machine.
    pub mirrors_without_ns: Vec<Host>,
    /// Whether only extensions that this machine's systemd would merge are listed, unless a repository sets it.
    pub compatible_only: bool,
    /// Whether lists of verified files are signed with the key of this machine, unless a repository sets it.
    pub sign: bool,
    /// Names and addresses of this service in requests, besides those of loopback.
    pub hosts: Vec<Host>,
    /// The policy of container tools, if there is one that asks for anything.
    pub policy: Option<Arc<Policy>>,
    /// The settings for single repositories, by the name a URL has for them.
    pub repositories: BTreeMap<RepositoryAddress, RepositorySettings>,
}

/// The file with sigstore's trusted root, if the settings name no other one.
pub const TRUSTED_ROOT: &str = "/etc/sysext-oci-proxy/trusted_root.json";

/// The settings for one repository.
#[derive(Clone, Debug, PartialEq)]
pub struct RepositorySettings {
    /// The place of its artifacts, if it is not the one that its name leads to.
    pub source: Option<Sources>,
    /// The suffix of all its files, instead of the one by media type or title: `.raw`.
    pub suffix: Option<Suffix>,
    /// The template of its file names, if not the default.
    pub names: Option<Template>,
    /// The architectures an index offers; `None`: this machine's.
    pub architectures: Option<Vec<Architecture>>,
    /// Whether a tag keeps the digest that it had when it was first seen.
    pub immutable_tags: bool,
    /// The versions that are offered.
    pub versions: Wanted,
    /// When versions are offered that have the schedule of a rollout.
    pub rollout: RolloutSetting,
    /// The days for which a listing is fresh after the registry's last answer; 0: without a limit.
    pub best_before_days: u16,
    /// The tag with the publisher's list.
    pub signed_list: SignedListTag,
    /// Whether only extensions that this machine's systemd would merge are listed; `None`: as set for all.
    pub compatible_only: Option<bool>,
    /// Whether its list is signed with the key of this machine, if all its files are verified; `None`: as set for all.
    pub sign: Option<bool>,
    /// How many of the newest versions are flattened when a listing is made, if they must be.
    pub flatten: usize,
    /// Who sends a file's bytes.
    pub blobs: Blobs,
    /// Most connections over which one file is fetched.
    pub download_connections: usize,
    /// Directories with older versions, besides those that systemd-sysupdate installs to. An empty list: no older version
    /// is read, wherever it is.
    pub seeds: Option<Vec<SeedDirectory>>,
    /// Who may sign its manifests; nobody: no signature is asked for.
    pub verify: Vec<SignerSetting>,
    /// The number of different signers that must have signed one.
    pub threshold: usize,
    /// Whether a manifest that must be signed must name its version, too.
    pub require_version: bool,
    /// The absolute path of sigstore's trusted root, by which those are known who sign without a key.
    pub trusted_root: PathBuf,
    /// Whether the policy of container tools applies, too.
    pub policy: PolicyUse,
    /// The rule that `verify` and `threshold` make, with the bytes of the keys.
    pub signed_by: Option<Arc<Rule>>,
}

impl Default for RepositorySettings {
    fn default() -> Self {
        Self {
            source: None,
            suffix: None,
            names: None,
            architectures: None,
            immutable_tags: false,
            versions: Wanted::default(),
            rollout: RolloutSetting::Follow,
            best_before_days: 0,
            signed_list: SignedListTag::Usual,
            compatible_only: None,
            sign: None,
            flatten: 3,
            blobs: Blobs::Stream,
            download_connections: 1,
            seeds: None,
            verify: Vec::new(),
            threshold: 1,
            require_version: false,
            trusted_root: TRUSTED_ROOT.into(),
            policy: PolicyUse::Containers,
            signed_by: None,
        }
    }
}

/// Who sends a file's bytes to a client.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Blobs {
    /// This service, which checks them on the way.
    #[default]
    Stream,
    /// The registry, by a redirect (307). The client checks them, as it always does.
    Redirect,
}

impl FromStr for Blobs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stream" => Ok(Self::Stream),
            "redirect" => Ok(Self::Redirect),
            _ => Err(format!(
                "expected \"stream\" or \"redirect\", found {text:?}"
            )),
        }
    }
}

/// Whether the policy of container tools applies to a repository.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PolicyUse {
    /// The policy applies, as for podman.
    Containers,
    /// The policy is ignored.
    None,
}

impl FromStr for PolicyUse {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "containers" => Ok(Self::Containers),
            "none" => Ok(Self::None),
            _ => Err(format!(
                "expected \"containers\" or \"none\", found {text:?}"
            )),
        }
    }
}

/// The absolute path of a directory with older versions, without `.` and `..`.
pub type SeedDirectory = Checked<PathGrammar>;

/// A path that begins with `/`, without `.` and `..`.
#[derive(Clone, PartialEq)]
pub struct PathGrammar;

impl Grammar for PathGrammar {
    fn spell(text: &str) -> Result<String, String> {
        let is_name = |part: &str| !matches!(part, "." | "..");
        if text.len() > 1 && text.starts_with('/') && text.split('/').all(is_name) {
            return Ok(text.to_owned());
        }
        Err(format!(
            "expected the absolute path of a directory, such as \"/srv/images\", found {text:?}"
        ))
    }
}

/// The tag of a publisher's own list.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum SignedListTag {
    /// In the tag `SHA256SUMS`, else in the tag `index`, if there is one.
    #[default]
    Usual,
    /// In this tag.
    Tag(Tag),
    /// No tag: the list is made from the tags.
    Nowhere,
}

impl FromStr for SignedListTag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(Self::Nowhere),
            text => text.parse().map(Self::Tag),
        }
    }
}

/// The value of `source`: one, or several that are merged into one directory.
#[derive(Clone, Debug, PartialEq)]
pub enum Sources {
    /// Its files begin with the name of the repository in the settings.
    One(SourceSetting),
    /// The files of each begin with its own name.
    Merged(Vec<SourceSetting>),
}

/// A suffix: `.raw`, `.tar.gz`.
pub type Suffix = Checked<SuffixGrammar>;

/// A dot, and after it letters, digits, dots, dashes or underscores.
#[derive(Clone, PartialEq)]
pub struct SuffixGrammar;

impl Grammar for SuffixGrammar {
    fn spell(text: &str) -> Result<String, String> {
        let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if text.len() > 1 && text.starts_with('.') && text.chars().all(is_good) {
            return Ok(text.to_owned());
        }
        Err(format!(
            "expected a suffix with a dot, such as \".raw\" or \".tar.gz\", found {text:?}"
        ))
    }
}

/// One source.
#[derive(Clone, Debug, PartialEq)]
pub enum SourceSetting {
    /// `oci:/srv/updates/k8s`
    Layout(PathBuf),
    /// `ghcr.io/acme/k8s`, or without a host for one below the default registry.
    Registry(RepositoryAddress),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            registry: Registry {
                host: Host::localhost(),
                path: None,
            },
            allow: Vec::new(),
            idle_timeout: Duration::from_secs(30),
            listing_ttl: Duration::from_secs(10),
            parallel: NonZeroUsize::new(16).expect("16 is not zero"),
            cache_size: 2 << 30,
            trusted_hosts: Vec::new(),
            mirrors_with_ns: Vec::new(),
            mirrors_without_ns: Vec::new(),
            compatible_only: false,
            sign: false,
            hosts: Vec::new(),
            policy: None,
            repositories: BTreeMap::new(),
        }
    }
}

impl Settings {
    /// Reads this one file, or without one all the usual places below `root`.
    pub fn load(file: Option<&Path>, root: &Path) -> Result<Self> {
        Self::with_policy(file, root, policy::load(root)?)
    }

    /// Reads what the service reads: no file of the user who runs this command.
    pub fn of_service(root: &Path) -> Result<Self> {
        Self::with_policy(None, root, policy::load_of_system(root)?)
    }

    /// Whether any list may be signed with the key of this machine.
    pub fn has_sign(&self) -> bool {
        self.sign || self.repositories.values().any(|one| one.sign == Some(true))
    }

    fn with_policy(file: Option<&Path>, root: &Path, policy: Option<Arc<Policy>>) -> Result<Self> {
        let mut settings = files::load(file, root)?;
        for (name, repository) in &mut settings.repositories {
            repository.signed_by = signers::read(name, repository, root)?;
        }
        settings.policy = policy;
        for (name, repository) in &settings.repositories {
            signers::check(name, repository, settings.policy.is_some())?;
        }
        Ok(settings)
    }
}

impl FromStr for SourceSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("oci:") {
            Some(path) if path.starts_with('/') && !path.starts_with("//") => {
                Ok(Self::Layout(path.into()))
            }
            Some(_) => Err(format!(
                "{text:?} needs an absolute path, as in \"oci:/srv/updates\""
            )),
            None => text.parse().map(Self::Registry),
        }
    }
}

impl SourceSetting {
    /// The last component: the beginning of its files' names in a merged directory.
    pub fn base(&self) -> String {
        match self {
            Self::Layout(path) => {
                let name = path.file_name().unwrap_or_default();
                name.to_string_lossy().into_owned()
            }
            Self::Registry(address) => address.repository.base().to_owned(),
        }
    }
}

/// The value of an environment variable that is not empty, as a path.
pub fn variable(name: &str) -> Option<PathBuf> {
    let value = std::env::var_os(name).filter(|value| !value.is_empty());
    value.map(PathBuf::from)
}

/// The cache's directory: `$CACHE_DIRECTORY`, which systemd sets for `CacheDirectory=`, else below the user's home.
pub fn cache_directory() -> Option<PathBuf> {
    directory(variable, "CACHE_DIRECTORY", "XDG_CACHE_HOME", ".cache")
}

/// The state's directory: `$STATE_DIRECTORY`, which systemd sets for `StateDirectory=`, else below the user's home.
pub fn state_directory() -> Option<PathBuf> {
    directory(
        variable,
        "STATE_DIRECTORY",
        "XDG_STATE_HOME",
        ".local/state",
    )
}

/// The directory that systemd names (one: the unit asks for no second), else this program's in the user's. Relative
/// paths of the user are ignored (XDG Base Directory Specification).
fn directory(
    variable: impl Fn(&str) -> Option<PathBuf>,
    named: &str,
    xdg: &str,
    below_home: &str,
) -> Option<PathBuf> {
    if let Some(named) = variable(named) {
        return Some(named);
    }
    let absolute = |name: &str| variable(name).filter(|path| path.is_absolute());
    let home = || Some(absolute("HOME")?.join(below_home));
    Some(absolute(xdg).or_else(home)?.join("sysext-oci-proxy"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_the_one_systemd_names_else_one_below_home() {
        for (named, xdg, home, expected) in [
            ("/var/cache/p", "/x", "/home/u", "/var/cache/p"),
            ("", "/x", "/home/u", "/x/sysext-oci-proxy"),
            ("", "", "/home/u", "/home/u/.cache/sysext-oci-proxy"),
            ("", "x", "/home/u", "/home/u/.cache/sysext-oci-proxy"),
            ("", "/x", "", "/x/sysext-oci-proxy"),
            ("", "", "home", ""),
            ("", "", "", ""),
        ] {
            let variable = |name: &str| {
                let value = match name {
                    "NAMED" => named,
                    "XDG" => xdg,
                    _ => home,
                };
                Some(PathBuf::from(value)).filter(|value| !value.as_os_str().is_empty())
            };
            let found = directory(variable, "NAMED", "XDG", ".cache");
            let expected = Some(expected).filter(|path| !path.is_empty());
            assert_eq!(
                found,
                expected.map(PathBuf::from),
                "{named:?} {xdg:?} {home:?}"
            );
        }
    }
}
