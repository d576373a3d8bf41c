//! Settings: files → merged → checked.
//!
//! `/etc/sysext-oci-proxy/config.toml`, then the drop-ins `sysext-oci-proxy/config.d/*.toml` below
//! `/usr/lib`, `/run` and `/etc`. With no file at all every key has its default.

#[cfg(any(test, fuzzing))]
#[path = "../tests/fuzz/properties/settings.rs"]
pub mod fuzz;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Error as _};

use crate::architecture::Architecture;
use crate::error::{Error, Result};
use crate::name::{Host, Registry, Repository, RepositoryAddress};

/// The file an administrator writes, below the root directory.
const CONFIG: &str = "etc/sysext-oci-proxy/config.toml";
/// Where drop-ins lie, below the root directory; a file in a later one replaces its namesake.
const DROP_INS: [&str; 3] = [
    "usr/lib/sysext-oci-proxy/config.d",
    "run/sysext-oci-proxy/config.d",
    "etc/sysext-oci-proxy/config.d",
];

/// Versions that are flattened before anybody asks for them, unless the settings say how many.
const FLATTEN: usize = 3;
/// Most connections to a registry at once that `parallel` may ask for.
const MAX_PARALLEL: usize = 64;

/// The settings, whole and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where a repository is looked up whose name has no host.
    pub registry: Registry,
    /// More registries that a URL may name.
    pub allow: Vec<Registry>,
    /// How long to stay without a client.
    pub idle_timeout: Duration,
    /// How long a listing is given out again without asking the registry.
    pub listing_ttl: Duration,
    /// Connections to a registry at once, for one listing.
    pub parallel: NonZeroUsize,
    /// How many bytes of files that had to be made are kept.
    pub cache_size: u64,
    /// Hosts that a registry elsewhere may send us to, for tokens and by redirects.
    pub trusted_hosts: Vec<Host>,
    /// Mirrors that are told what they mirror (`?ns=`). Those on this machine are, always.
    pub mirrors_with_ns: Vec<Host>,
    /// Lists only extensions that this machine's systemd would merge, where a repository says nothing else.
    pub compatible_only: bool,
    /// Names and addresses that clients may call us by, besides those of loopback.
    pub hosts: Vec<Host>,
    /// What is set for single repositories, by the name a URL has for them.
    pub repositories: BTreeMap<RepositoryAddress, RepositorySettings>,
}

/// What is set for one repository.
#[derive(Clone, Debug, PartialEq)]
pub struct RepositorySettings {
    /// Where its artifacts come from, when not from where its name says.
    pub source: Option<Sources>,
    /// What the files are, where nothing else says so or something says wrong: `.raw`.
    pub suffix: Option<Suffix>,
    /// The form of its file names, when not the usual one.
    pub names: Option<Template>,
    /// The architectures an index offers; `None`: this machine's.
    pub architectures: Option<Vec<Architecture>>,
    /// A tag that was seen once is never asked for again.
    pub immutable_tags: bool,
    /// Lists only extensions that this machine's systemd would merge; `None`: as is said for all.
    pub compatible_only: Option<bool>,
    /// Of images that have to be flattened, how many of the newest versions are so before anybody asks.
    pub flatten: usize,
    /// Whether a client gets a file's bytes from us or is sent to the registry for them.
    pub blobs: Blobs,
}

impl Default for RepositorySettings {
    fn default() -> Self {
        PartialRepository::default().complete()
    }
}

/// Whether a client gets a file's bytes from us or is sent to the registry for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Blobs {
    /// From us, checked on the way.
    #[default]
    Stream,
    /// By a 307 to the registry. The client checks them, as it does anyway.
    Redirect,
}

/// The value of `source`: one, or several that are merged into one directory.
#[derive(Clone, Debug, PartialEq)]
pub enum Sources {
    /// Its files are called by the name of the repository in the settings.
    One(SourceSetting),
    /// The files of each are called by its own name.
    Merged(Vec<SourceSetting>),
}

/// A suffix: `.raw`, `.tar.gz`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct Suffix(String);

/// One source.
#[derive(Clone, Debug, PartialEq)]
pub enum SourceSetting {
    /// `oci:/srv/updates/k8s`
    Layout(PathBuf),
    /// `ghcr.io/acme/k8s`, or without a host for one below the default registry.
    Registry(RepositoryAddress),
}

/// Where the artifacts of a repository come from.
#[derive(Clone, Debug, PartialEq)]
pub struct Located {
    /// What the names of their files begin with, and where they are. Several are one merged directory.
    pub places: Vec<(String, Place)>,
    /// What is set for it.
    pub settings: RepositorySettings,
}

/// Where a repository really is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// An OCI layout directory.
    Layout(PathBuf),
    /// A repository of a registry.
    Registry { host: Host, repository: Repository },
}

/// The form of file names: `{name}-{version}.{arch}`, without the suffix.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct Template(String);

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
            compatible_only: false,
            hosts: Vec::new(),
            repositories: BTreeMap::new(),
        }
    }
}

impl Settings {
    /// Reads this one file, or without one all the usual places below `root`.
    pub fn load(file: Option<&Path>, root: &Path) -> Result<Self> {
        let mut merged = Partial::default();
        match file {
            Some(file) => merged.merge(read(file)?),
            None => {
                let config = root.join(CONFIG);
                if config.symlink_metadata().is_ok() {
                    merged.merge(read(&config)?);
                }
                for file in drop_ins(root)? {
                    merged.merge(read(&file)?);
                }
            }
        }
        Ok(merged.complete())
    }

    /// Where this repository is and what is set for it.
    ///
    /// A `[repository.NAME]` with a source is found there, whatever its name looks like: an
    /// administrator wrote it. A name with a host needs that host's permission; any other is below
    /// the default registry.
    pub fn locate(&self, address: &RepositoryAddress) -> Result<Located> {
        let settings = self.repositories.get(address).cloned().unwrap_or_default();
        let base = address.repository.base().to_owned();
        let places = match &settings.source {
            Some(Sources::One(source)) => vec![(base, self.place(source)?)],
            Some(Sources::Merged(sources)) => {
                let located = |source: &SourceSetting| Ok((source.base(), self.place(source)?));
                sources.iter().map(located).collect::<Result<_>>()?
            }
            None => vec![(base, self.named(address)?)],
        };
        Ok(Located { places, settings })
    }

    fn place(&self, source: &SourceSetting) -> Result<Place> {
        match source {
            SourceSetting::Layout(path) => Ok(Place::Layout(path.clone())),
            SourceSetting::Registry(RepositoryAddress {
                host: None,
                repository,
            }) => self.below_default(repository),
            SourceSetting::Registry(RepositoryAddress {
                host: Some(host),
                repository,
            }) => Ok(Place::Registry {
                host: host.clone(),
                repository: repository.clone(),
            }),
        }
    }

    /// Where a URL's own name leads.
    fn named(&self, address: &RepositoryAddress) -> Result<Place> {
        let Some(host) = &address.host else {
            return self.below_default(&address.repository);
        };
        let registries = std::iter::once(&self.registry).chain(&self.allow);
        if !registries
            .into_iter()
            .any(|registry| registry.holds(host, &address.repository))
        {
            return Err(Error::RegistryNotAllowed {
                host: host.to_string(),
            });
        }
        Ok(Place::Registry {
            host: host.clone(),
            repository: address.repository.clone(),
        })
    }

    fn below_default(&self, repository: &Repository) -> Result<Place> {
        let repository = repository
            .below(self.registry.path.as_ref())
            .map_err(|why| Error::BadAddress {
                path: repository.to_string(),
                why,
            })?;
        Ok(Place::Registry {
            host: self.registry.host.clone(),
            repository,
        })
    }
}

impl FromStr for SourceSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("oci:") {
            Some(path) if path.starts_with('/') => Ok(Self::Layout(path.into())),
            Some(path) => Err(format!(
                "source \"oci:{path}\" needs an absolute path, as in \"oci:/srv/updates\""
            )),
            None => text
                .parse()
                .map(Self::Registry)
                .map_err(|why: String| format!("source: {why}")),
        }
    }
}

impl SourceSetting {
    /// The last component, which the names of its files begin with in a merged directory.
    fn base(&self) -> String {
        match self {
            Self::Layout(path) => path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            Self::Registry(address) => address.repository.base().to_owned(),
        }
    }
}

impl Suffix {
    /// The suffix as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Suffix {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_good = text.len() > 1
            && text.starts_with('.')
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        if is_good {
            Ok(Self(text))
        } else {
            Err(format!(
                "suffix {text:?} must be one such as \".raw\" or \".tar.gz\""
            ))
        }
    }
}

impl Template {
    /// The name by this template; `None` when it asks for an architecture and there is none.
    pub fn fill(&self, name: &str, version: &str, arch: Option<&str>) -> Option<String> {
        let arch = match arch {
            Some(arch) => arch,
            None if self.wants_arch() => return None,
            None => "",
        };
        // One pass, so that a value with braces in it stays as it is.
        let mut filled = String::new();
        let mut rest = self.0.as_str();
        while let Some((before, after)) = rest.split_once('{') {
            let (field, after) = after.split_once('}').unwrap_or((after, ""));
            filled.push_str(before);
            filled.push_str(match field {
                "name" => name,
                "version" => version,
                _ => arch,
            });
            rest = after;
        }
        filled.push_str(rest);
        Some(filled)
    }

    /// Does it ask for the architecture?
    pub fn wants_arch(&self) -> bool {
        self.0.contains("{arch}")
    }
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut rest = text;
        while let Some((_, after)) = rest.split_once('{') {
            match after.split_once('}') {
                Some(("name" | "version" | "arch", after)) => rest = after,
                _ => {
                    return Err(format!(
                        "names {text:?} may have only {{name}}, {{version}} and {{arch}} in braces"
                    ));
                }
            }
        }
        if !text.contains("{version}") {
            return Err(format!(
                "names {text:?} needs {{version}}, or all versions would share one name"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Template {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// One file's keys. What a file does not set stays as the files before it left it.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Partial {
    registry: Option<Registry>,
    allow: Option<Vec<Registry>>,
    idle_timeout_sec: Option<IdleSeconds>,
    listing_ttl_sec: Option<Seconds>,
    parallel: Option<Parallel>,
    cache_size: Option<Size>,
    trusted_hosts: Option<Vec<Host>>,
    mirrors_with_ns: Option<Vec<Host>>,
    compatible_only: Option<bool>,
    hosts: Option<Vec<Host>>,
    #[serde(default)]
    repository: BTreeMap<RepositoryAddress, PartialRepository>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct PartialRepository {
    source: Option<OneOrMore>,
    suffix: Option<Suffix>,
    names: Option<Template>,
    architectures: Option<Architectures>,
    immutable_tags: Option<bool>,
    compatible_only: Option<bool>,
    flatten: Option<u16>,
    blobs: Option<Blobs>,
}

impl Partial {
    fn merge(&mut self, later: Self) {
        replace(&mut self.registry, later.registry);
        replace(&mut self.allow, later.allow);
        replace(&mut self.idle_timeout_sec, later.idle_timeout_sec);
        replace(&mut self.listing_ttl_sec, later.listing_ttl_sec);
        replace(&mut self.parallel, later.parallel);
        replace(&mut self.cache_size, later.cache_size);
        replace(&mut self.trusted_hosts, later.trusted_hosts);
        replace(&mut self.mirrors_with_ns, later.mirrors_with_ns);
        replace(&mut self.compatible_only, later.compatible_only);
        replace(&mut self.hosts, later.hosts);
        for (name, later) in later.repository {
            let repository = self.repository.entry(name).or_default();
            replace(&mut repository.source, later.source);
            replace(&mut repository.suffix, later.suffix);
            replace(&mut repository.names, later.names);
            replace(&mut repository.architectures, later.architectures);
            replace(&mut repository.immutable_tags, later.immutable_tags);
            replace(&mut repository.compatible_only, later.compatible_only);
            replace(&mut repository.flatten, later.flatten);
            replace(&mut repository.blobs, later.blobs);
        }
    }

    fn complete(self) -> Settings {
        let default = Settings::default();
        Settings {
            registry: self.registry.unwrap_or(default.registry),
            allow: self.allow.unwrap_or(default.allow),
            idle_timeout: self.idle_timeout_sec.map_or(default.idle_timeout, |s| s.0),
            listing_ttl: self.listing_ttl_sec.map_or(default.listing_ttl, |s| s.0),
            parallel: self.parallel.map_or(default.parallel, |p| p.0),
            cache_size: self.cache_size.map_or(default.cache_size, |s| s.0),
            trusted_hosts: self.trusted_hosts.unwrap_or_default(),
            mirrors_with_ns: self.mirrors_with_ns.unwrap_or_default(),
            compatible_only: self.compatible_only.unwrap_or_default(),
            hosts: self.hosts.unwrap_or_default(),
            repositories: self
                .repository
                .into_iter()
                .map(|(name, repository)| (name, repository.complete()))
                .collect(),
        }
    }
}

impl PartialRepository {
    fn complete(self) -> RepositorySettings {
        RepositorySettings {
            source: self.source.map(|source| source.0),
            suffix: self.suffix,
            names: self.names,
            architectures: self.architectures.map(|list| list.0),
            immutable_tags: self.immutable_tags.unwrap_or_default(),
            compatible_only: self.compatible_only,
            flatten: self.flatten.map_or(FLATTEN, usize::from),
            blobs: self.blobs.unwrap_or_default(),
        }
    }
}

fn replace<T>(value: &mut Option<T>, later: Option<T>) {
    if later.is_some() {
        *value = later;
    }
}

/// A span of time: seconds, decimals allowed, up to a day.
#[derive(Deserialize)]
#[serde(try_from = "f64")]
struct Seconds(Duration);

impl TryFrom<f64> for Seconds {
    type Error = String;

    fn try_from(seconds: f64) -> Result<Self, String> {
        if (0.0..=86400.0).contains(&seconds) {
            Ok(Self(Duration::from_secs_f64(seconds)))
        } else {
            Err(format!(
                "{seconds} is not a number of seconds from 0 to 86400"
            ))
        }
    }
}

/// How long to wait for a client. The kernel counts in milliseconds, and takes none for ever.
#[derive(Deserialize)]
#[serde(try_from = "f64")]
struct IdleSeconds(Duration);

impl TryFrom<f64> for IdleSeconds {
    type Error = String;

    fn try_from(seconds: f64) -> Result<Self, String> {
        let Seconds(time) = seconds.try_into()?;
        if time < Duration::from_millis(10) {
            return Err(format!(
                "{seconds} is too short a time, at least 0.01 is needed"
            ));
        }
        Ok(Self(time))
    }
}

/// A number of connections.
#[derive(Deserialize)]
#[serde(try_from = "usize")]
struct Parallel(NonZeroUsize);

impl TryFrom<usize> for Parallel {
    type Error = String;

    fn try_from(number: usize) -> Result<Self, String> {
        NonZeroUsize::new(number)
            .filter(|number| number.get() <= MAX_PARALLEL)
            .map(Self)
            .ok_or_else(|| format!("parallel must be from 1 to {MAX_PARALLEL}, it is {number}"))
    }
}

/// A size in bytes, with K, M, G or T for powers of 1024, as systemd writes sizes.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Size(u64);

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.trim_end_matches(['K', 'M', 'G', 'T']);
        let unit = match &text[digits.len()..] {
            "" => Some(0),
            "K" => Some(10),
            "M" => Some(20),
            "G" => Some(30),
            "T" => Some(40),
            _ => None,
        };
        let number = digits.parse::<u32>().ok().map(u64::from);
        match number.zip(unit) {
            Some((number, unit)) => Ok(Self(number << unit)),
            None => Err(format!("{text:?} is not a size such as \"500M\" or \"2G\"")),
        }
    }
}

/// A source or a list of them. Read by hand, for the message of a wrong one.
struct OneOrMore(Sources);

impl<'de> Deserialize<'de> for OneOrMore {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let parse = |text: &str| text.parse().map_err(D::Error::custom);
        match toml::Value::deserialize(deserializer)? {
            toml::Value::String(text) => Ok(Self(Sources::One(parse(&text)?))),
            toml::Value::Array(list) if !list.is_empty() => {
                let one = |value: &toml::Value| match value.as_str() {
                    Some(text) => parse(text),
                    None => Err(D::Error::custom(format!(
                        "source has a {} in its list, expected strings",
                        value.type_str()
                    ))),
                };
                Ok(Self(Sources::Merged(
                    list.iter().map(one).collect::<Result<_, _>>()?,
                )))
            }
            other => Err(D::Error::custom(format!(
                "source is a {}, expected a string or a list of them",
                other.type_str()
            ))),
        }
    }
}

#[derive(Deserialize)]
#[serde(try_from = "Vec<Architecture>")]
struct Architectures(Vec<Architecture>);

impl TryFrom<Vec<Architecture>> for Architectures {
    type Error = String;

    fn try_from(list: Vec<Architecture>) -> Result<Self, String> {
        if list.is_empty() {
            return Err(
                "architectures must name at least one; without the key it is this machine's".into(),
            );
        }
        Ok(Self(list))
    }
}

/// The drop-ins in the order they count.
fn drop_ins(root: &Path) -> Result<Vec<PathBuf>> {
    let mut by_name = BTreeMap::new();
    for directory in DROP_INS.map(|directory| root.join(directory)) {
        let bad = |cause: io::Error| Error::BadSettings {
            path: directory.clone(),
            line: None,
            why: format!("directory cannot be read: {cause}"),
        };
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => continue,
            Err(cause) => return Err(bad(cause)),
        };
        for entry in entries {
            let entry = entry.map_err(bad)?;
            let name = entry.file_name();
            if Path::new(&name)
                .extension()
                .is_some_and(|extension| extension == "toml")
            {
                by_name.insert(name, entry.path());
            }
        }
    }
    Ok(by_name.into_values().collect())
}

fn read(path: &Path) -> Result<Partial> {
    let text = fs::read_to_string(path).map_err(|cause| Error::BadSettings {
        path: path.into(),
        line: None,
        why: match cause.kind() {
            io::ErrorKind::IsADirectory => "this is a directory, expected a TOML file".into(),
            io::ErrorKind::NotFound => "there is no such file".into(),
            io::ErrorKind::PermissionDenied => {
                "not readable by the service, which runs as a user of its own; chmod 644 mends it"
                    .into()
            }
            io::ErrorKind::InvalidData => "this is not UTF-8 text".into(),
            _ => cause.to_string(),
        },
    })?;
    parse(&text).map_err(|(line, why)| Error::BadSettings {
        path: path.into(),
        line,
        why,
    })
}

fn parse(text: &str) -> Result<Partial, (Option<usize>, String)> {
    parse_toml(text)
}

/// Reads one TOML file's text. An error has its line, counted from 1.
pub fn parse_toml<T: DeserializeOwned>(text: &str) -> Result<T, (Option<usize>, String)> {
    toml::from_str(text).map_err(|error| {
        let line = error
            .span()
            .map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        // The parser's messages may run over several lines; a journal entry is one.
        (
            line,
            error
                .message()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" "),
        )
    })
}

/// Where the cache is kept, as systemd tells a service with `CacheDirectory=`.
pub fn cache_directory() -> Option<PathBuf> {
    // Several directories are joined by colons; ours is the only one the unit asks for.
    let value = std::env::var_os("CACHE_DIRECTORY")?;
    (!value.is_empty()).then(|| value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        parse(text)
            .unwrap_or_else(|why| panic!("{why:?}"))
            .complete()
    }

    #[test]
    fn with_no_file_the_registry_is_on_localhost() {
        let root = Path::new("/nonexistent");
        let found = Settings::load(None, root).unwrap();
        assert_eq!(found, Settings::default());
        assert_eq!(found.registry.to_string(), "localhost:5000");
    }

    #[test]
    fn every_key_is_read() {
        let read = settings(
            r#"
            registry = "ghcr.io/acme/sysexts"
            allow = ["ghcr.io/flatcar"]
            idle-timeout-sec = 0.05
            listing-ttl-sec = 1
            parallel = 4
            cache-size = "500M"
            trusted-hosts = ["auth.example.com"]
            mirrors-with-ns = ["spegel.example:5000"]
            compatible-only = true
            hosts = ["updates.lan"]
            [repository.kubernetes]
            source = "ghcr.io/acme/k8s"
            suffix = ".raw"
            names = "{name}-{version}-{arch}"
            architectures = ["x86-64"]
            immutable-tags = true
            compatible-only = false
            flatten = 5
            blobs = "redirect"
            [repository."acme/local"]
            source = "oci:/srv/updates"
            "#,
        );
        assert_eq!(
            read,
            Settings {
                registry: "ghcr.io/acme/sysexts".parse().unwrap(),
                allow: vec!["ghcr.io/flatcar".parse().unwrap()],
                idle_timeout: Duration::from_millis(50),
                listing_ttl: Duration::from_secs(1),
                parallel: NonZeroUsize::new(4).unwrap(),
                cache_size: 500 << 20,
                trusted_hosts: vec!["auth.example.com".parse().unwrap()],
                mirrors_with_ns: vec!["spegel.example:5000".parse().unwrap()],
                compatible_only: true,
                hosts: vec!["updates.lan".parse().unwrap()],
                repositories: [
                    (
                        "kubernetes".parse().unwrap(),
                        RepositorySettings {
                            source: Some(Sources::One("ghcr.io/acme/k8s".parse().unwrap())),
                            suffix: Some(Suffix(".raw".into())),
                            names: Some("{name}-{version}-{arch}".parse().unwrap()),
                            architectures: Some(vec!["x86-64".parse().unwrap()]),
                            immutable_tags: true,
                            compatible_only: Some(false),
                            flatten: 5,
                            blobs: Blobs::Redirect,
                        }
                    ),
                    (
                        "acme/local".parse().unwrap(),
                        RepositorySettings {
                            source: Some(Sources::One(SourceSetting::Layout(
                                "/srv/updates".into()
                            ))),
                            ..RepositorySettings::default()
                        }
                    ),
                ]
                .into(),
            }
        );
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (text, line, reason) in [
            ("\nregistri = \"a.b\"", 2, "unknown field `registri`"),
            (
                "[repository.a]\nsorce = \"oci:/a\"",
                2,
                "unknown field `sorce`",
            ),
            ("registry = ", 1, ""),
            (
                "\n\nregistry = \"https://ghcr.io\"",
                3,
                "registry \"https://ghcr.io\" must be written without https://",
            ),
            ("registry = 5", 1, "invalid type"),
            ("idle-timeout-sec = 0", 1, "0 is too short a time"),
            ("idle-timeout-sec = -1", 1, "-1 is not"),
            ("idle-timeout-sec = nan", 1, "NaN is not"),
            ("parallel = 0", 1, "parallel must be from 1 to 64"),
            ("cache-size = \"2GB\"", 1, "\"2GB\" is not a size"),
            (
                "[repository.a]\nsource = \"oci:a\"",
                2,
                "source \"oci:a\" needs an absolute path",
            ),
            (
                "[repository.a]\nnames = \"{nam}-{version}\"",
                2,
                "names \"{nam}-{version}\" may have only",
            ),
            (
                "[repository.a]\nnames = \"x\"",
                2,
                "names \"x\" needs {version}",
            ),
            (
                "[repository.a]\narchitectures = [\"amd64\"]",
                2,
                "architecture \"amd64\" is spelled \"x86-64\"",
            ),
            (
                "[repository.a]\narchitectures = []",
                2,
                "architectures must name at least one",
            ),
            ("[repository.A]\n", 1, "\"A\" in repository \"A\""),
            (
                "[repository.a]\nblobs = \"proxy\"",
                2,
                "unknown variant `proxy`",
            ),
        ] {
            let Err((found, why)) = parse(text) else {
                panic!("{text:?} was accepted")
            };
            assert_eq!(found, Some(line), "line of {text:?}: {why}");
            assert!(
                why.contains(reason),
                "{text:?}: {why:?} does not say {reason:?}"
            );
        }
    }

    #[test]
    fn later_files_win_key_by_key_and_namesakes_replace_each_other() {
        let root =
            std::env::temp_dir().join(format!("sysext-oci-proxy-settings-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(
            CONFIG,
            "registry = \"a.example\"\nparallel = 2\n[repository.r]\nimmutable-tags = true",
        );
        write(
            "usr/lib/sysext-oci-proxy/config.d/10-vendor.toml",
            "registry = \"replaced.example\"",
        );
        write(
            "etc/sysext-oci-proxy/config.d/10-vendor.toml",
            "listing-ttl-sec = 5",
        );
        write(
            "run/sysext-oci-proxy/config.d/20-run.toml",
            "parallel = 3\n[repository.r]\nsource = \"oci:/r\"",
        );
        write("etc/sysext-oci-proxy/config.d/README", "not a setting");
        let found = Settings::load(None, &root);
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(
            found.unwrap(),
            Settings {
                registry: "a.example".parse().unwrap(),
                parallel: NonZeroUsize::new(3).unwrap(),
                listing_ttl: Duration::from_secs(5),
                repositories: [(
                    "r".parse().unwrap(),
                    RepositorySettings {
                        source: Some(Sources::One(SourceSetting::Layout("/r".into()))),
                        immutable_tags: true,
                        ..RepositorySettings::default()
                    }
                )]
                .into(),
                ..Settings::default()
            }
        );
    }

    #[test]
    fn a_name_leads_to_its_place() {
        let settings = settings(
            r#"
            registry = "ghcr.io/acme"
            allow = ["quay.io/flatcar"]
            [repository.layout]
            source = "oci:/srv/a"
            [repository.elsewhere]
            source = "example.org/x/y"
            [repository.alias]
            source = "k8s"
            "#,
        );
        let registry = |host: &str, repository: &str| {
            Some(Place::Registry {
                host: host.parse().unwrap(),
                repository: repository.parse().unwrap(),
            })
        };
        for (name, place) in [
            ("k8s", registry("ghcr.io", "acme/k8s")),
            ("team/k8s", registry("ghcr.io", "acme/team/k8s")),
            ("alias", registry("ghcr.io", "acme/k8s")),
            ("layout", Some(Place::Layout("/srv/a".into()))),
            ("elsewhere", registry("example.org", "x/y")),
            ("quay.io/flatcar/k8s", registry("quay.io", "flatcar/k8s")),
            ("ghcr.io/acme/k8s", registry("ghcr.io", "acme/k8s")),
            ("ghcr.io/other/k8s", None),
            ("quay.io/flat/k8s", None),
            ("example.org/x/y", None),
        ] {
            let found = settings.locate(&name.parse().unwrap()).ok();
            let found = found.map(|mut located| located.places.remove(0).1);
            assert_eq!(found, place, "{name}");
        }
    }

    #[test]
    fn templates_fill_what_they_name() {
        let template: Template = "{name}-{version}.{arch}".parse().unwrap();
        assert_eq!(
            template.fill("a", "{arch}", Some("arm64")).unwrap(),
            "a-{arch}.arm64"
        );
        assert_eq!(template.fill("a", "1", None), None);
        let without: Template = "{name}_{version}".parse().unwrap();
        assert_eq!(without.fill("a", "1", None).unwrap(), "a_1");
    }
}
