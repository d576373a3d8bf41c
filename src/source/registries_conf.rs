//! `registries.conf`: which registries are mirrored, insecure or blocked.
//!
//! Format: containers-registries.conf(5), version 2, with its drop-ins. What it cannot say here, it
//! must not say: a setting that we don't follow is an error, for a mirror or a block that is silently
//! ignored is worse than none.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::name::{Host, Repository};

/// Below the root directory; drop-ins are `registries.conf.d/*.conf` beside it.
const CONFIG: &str = "etc/containers/registries.conf";
/// What comes with the system, in case there is none above.
const VENDOR_CONFIG: &str = "usr/share/containers/registries.conf";
/// Names another file, which then stands alone, as podman has it.
const VARIABLE: &str = "CONTAINERS_REGISTRIES_CONF";

/// The registries of `registries.conf`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Registries(Vec<RegistryTable>);

/// A place that may have a repository.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Endpoint {
    pub(super) host: Host,
    pub(super) repository: Repository,
    /// What the file says of plain HTTP and bad certificates; `None` if it says nothing.
    pub(super) insecure: Option<bool>,
    pub(super) role: Role,
}

/// What an endpoint is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Role {
    /// The registry itself: everything.
    Primary,
    /// A mirror, and whether it is asked for tags, for digests, or for both.
    Mirror { tags: bool, digests: bool },
}

/// `[[registry]]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RegistryTable {
    prefix: Option<String>,
    #[serde(default)]
    location: String,
    insecure: Option<bool>,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<MirrorTable>,
}

/// `[[registry.mirror]]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct MirrorTable {
    location: String,
    insecure: Option<bool>,
    pull_from_mirror: Option<PullFromMirror>,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PullFromMirror {
    All,
    DigestOnly,
    TagOnly,
}

/// One file. Keys that are about short names, which we have none of, are accepted and not used.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    #[serde(default)]
    registry: Vec<RegistryTable>,
    credential_helpers: Option<Vec<String>>,
    #[serde(rename = "unqualified-search-registries")]
    _search: Option<Vec<String>>,
    #[serde(rename = "short-name-mode")]
    _short_name_mode: Option<String>,
    #[serde(rename = "aliases")]
    _aliases: Option<toml::Table>,
    #[serde(rename = "additional-layer-store-auth-helper")]
    _layer_store: Option<String>,
}

impl Registries {
    /// Reads `registries.conf` and its drop-ins below `root`, or the file that the environment names.
    pub fn load(root: &Path) -> Result<Self> {
        match std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
            Some(file) => Self::read([PathBuf::from(file)]),
            None => {
                let config = [CONFIG, VENDOR_CONFIG]
                    .map(|path| root.join(path))
                    .into_iter()
                    .find(|path| path.exists());
                Self::read(
                    config
                        .into_iter()
                        .chain(drop_ins(&root.join(format!("{CONFIG}.d")))?),
                )
            }
        }
    }

    /// A table in a later file replaces one for the same prefix.
    fn read(files: impl IntoIterator<Item = PathBuf>) -> Result<Self> {
        let mut tables: Vec<RegistryTable> = Vec::new();
        for path in files {
            let bad = |line, why| Error::BadSettings {
                path: path.clone(),
                line,
                why,
            };
            let text = fs::read_to_string(&path)
                .map_err(|cause| bad(None, format!("cannot be read: {cause}")))?;
            for table in parse(&text).map_err(|(line, why)| bad(line, why))? {
                tables.retain(|other| other.prefix() != table.prefix());
                tables.push(table);
            }
        }
        Ok(Self(tables))
    }

    /// Where to look for this repository: mirrors in their order, then the registry itself.
    pub(super) fn endpoints(&self, host: &Host, repository: &Repository) -> Result<Vec<Endpoint>> {
        let name = format!("{host}/{repository}");
        let table = self
            .0
            .iter()
            .filter_map(|table| Some((table.match_length(&name)?, table)))
            .max_by_key(|(n, _)| *n);
        let Some((length, table)) = table else {
            return Ok(vec![Endpoint {
                host: host.clone(),
                repository: repository.clone(),
                insecure: None,
                role: Role::Primary,
            }]);
        };
        if table.blocked {
            return Err(Error::Blocked {
                registry: name,
                prefix: table.prefix().to_owned(),
            });
        }
        let rest = &name[length..];
        let place = |location: &str, insecure, role| {
            let full = if location.is_empty() {
                name.clone()
            } else {
                format!("{location}{rest}")
            };
            let bad = |why| Error::BadAddress {
                path: full.clone(),
                why,
            };
            let (host, repository) = full
                .split_once('/')
                .ok_or_else(|| bad("registries.conf leads to no repository".into()))?;
            Ok(Endpoint {
                host: host.parse().map_err(bad)?,
                repository: repository.parse().map_err(bad)?,
                insecure,
                role,
            })
        };
        let mut endpoints = Vec::new();
        for mirror in &table.mirror {
            let pulls = mirror
                .pull_from_mirror
                .unwrap_or(if table.mirror_by_digest_only {
                    PullFromMirror::DigestOnly
                } else {
                    PullFromMirror::All
                });
            let role = Role::Mirror {
                tags: pulls != PullFromMirror::DigestOnly,
                digests: pulls != PullFromMirror::TagOnly,
            };
            endpoints.push(place(&mirror.location, mirror.insecure, role)?);
        }
        endpoints.push(place(&table.location, table.insecure, Role::Primary)?);
        Ok(endpoints)
    }
}

impl RegistryTable {
    fn prefix(&self) -> &str {
        self.prefix.as_deref().unwrap_or(&self.location)
    }

    /// How many bytes of the name its prefix covers, if it matches: whole components, or with `*.` any
    /// host below a domain.
    fn match_length(&self, name: &str) -> Option<usize> {
        let prefix = self.prefix();
        let length = match prefix.strip_prefix('*') {
            Some(domain) => {
                let host_end = name.find('/')?;
                let bare_end = name[..host_end].find(':').unwrap_or(host_end);
                // The port may stand in the pattern.
                let end = if name[..host_end].ends_with(domain) {
                    host_end
                } else {
                    bare_end
                };
                name[..end]
                    .strip_suffix(domain)
                    .filter(|below| !below.is_empty())?;
                end
            }
            None => {
                name.strip_prefix(prefix)?;
                prefix.len()
            }
        };
        let is_whole = name[length..].is_empty() || name[length..].starts_with(['/', ':']);
        is_whole.then_some(length)
    }

    fn check(&self) -> Result<(), String> {
        let prefix = self.prefix();
        if prefix.is_empty() {
            return Err("a [[registry]] needs a prefix or a location".into());
        }
        if let Some(domain) = prefix.strip_prefix('*') {
            if !domain.starts_with('.') || domain.contains('/') {
                return Err(format!(
                    "prefix {prefix:?} must have the form *.example.com"
                ));
            }
        } else if self.location.is_empty() {
            return Err(format!("the [[registry]] for {prefix:?} needs a location"));
        }
        for (what, value) in [("location", &self.location), ("prefix", &prefix.to_owned())] {
            if value.contains("://") || value.ends_with('/') {
                return Err(format!("{what} {value:?} must be host[:port][/path]"));
            }
        }
        for mirror in &self.mirror {
            if mirror.location.is_empty()
                || mirror.location.contains("://")
                || mirror.location.ends_with('/')
            {
                return Err(format!(
                    "mirror location {:?} of {prefix:?} must be host[:port][/path]",
                    mirror.location
                ));
            }
            if self.mirror_by_digest_only && mirror.pull_from_mirror.is_some() {
                return Err(format!(
                    "{prefix:?} has mirror-by-digest-only, and its mirror {:?} has pull-from-mirror; only one may be set",
                    mirror.location
                ));
            }
        }
        Ok(())
    }
}

fn drop_ins(directory: &Path) -> Result<Vec<PathBuf>> {
    let bad = |cause: io::Error| Error::BadSettings {
        path: directory.to_owned(),
        line: None,
        why: format!("cannot be read: {cause}"),
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(bad(cause)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(bad)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "conf")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads one file's text. An error has its line, counted from 1, where it is at one.
fn parse(text: &str) -> Result<Vec<RegistryTable>, (Option<usize>, String)> {
    let file: File = crate::settings::parse_toml(text)?;
    let helpers = file.credential_helpers.unwrap_or_default();
    if let Some(helper) = helpers
        .iter()
        .find(|helper| *helper != "containers-auth.json")
    {
        let why = format!(
            "credential-helpers has {helper:?}, which is not followed here; use credHelpers in auth.json"
        );
        return Err((None, why));
    }
    for table in &file.registry {
        table.check().map_err(|why| (None, why))?;
    }
    Ok(file.registry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registries(text: &str) -> Registries {
        Registries(parse(text).unwrap_or_else(|why| panic!("{why:?}")))
    }

    /// `host/repository` of each endpoint, with what it is for.
    fn endpoints(registries: &Registries, name: &str) -> Vec<String> {
        let (host, repository) = name.split_once('/').unwrap();
        match registries.endpoints(&host.parse().unwrap(), &repository.parse().unwrap()) {
            Ok(found) => found.iter().map(show).collect(),
            Err(error) => vec![error.line()],
        }
    }

    fn show(endpoint: &Endpoint) -> String {
        let role = match endpoint.role {
            Role::Primary => "",
            Role::Mirror {
                tags: true,
                digests: true,
            } => " mirror",
            Role::Mirror { tags: true, .. } => " mirror for tags",
            Role::Mirror { .. } => " mirror for digests",
        };
        let insecure = if endpoint.insecure == Some(true) {
            " insecure"
        } else {
            ""
        };
        format!("{}/{}{role}{insecure}", endpoint.host, endpoint.repository)
    }

    #[test]
    fn row_x1_mirrors_come_in_order_and_then_the_registry() {
        let found = registries(
            r#"
            unqualified-search-registries = ["docker.io"]
            [[registry]]
            location = "ghcr.io/acme"
            [[registry.mirror]]
            location = "localhost:5000"
            insecure = true
            [[registry.mirror]]
            location = "mirror.example/ghcr"
            pull-from-mirror = "digest-only"
            [[registry.mirror]]
            location = "tags.example/acme"
            pull-from-mirror = "tag-only"
            "#,
        );
        assert_eq!(
            endpoints(&found, "ghcr.io/acme/k8s"),
            [
                "localhost:5000/k8s mirror insecure",
                "mirror.example/ghcr/k8s mirror for digests",
                "tags.example/acme/k8s mirror for tags",
                "ghcr.io/acme/k8s"
            ]
        );
        assert_eq!(
            endpoints(&found, "ghcr.io/acmecorp/k8s"),
            ["ghcr.io/acmecorp/k8s"]
        );
        assert_eq!(endpoints(&found, "quay.io/acme/k8s"), ["quay.io/acme/k8s"]);
    }

    #[test]
    fn row_x1_the_longest_prefix_counts() {
        let found = registries(
            r#"
            [[registry]]
            prefix = "a.example/x"
            location = "one.example"
            [[registry]]
            prefix = "a.example"
            location = "two.example/all"
            [[registry]]
            prefix = "*.wild.example"
            location = "three.example/wild"
            [[registry]]
            prefix = "*.as-it-is.example"
            insecure = true
            [[registry]]
            prefix = "bad.example"
            location = "bad.example"
            blocked = true
            "#,
        );
        for (name, expected) in [
            ("a.example/x/y", "one.example/y"),
            ("a.example/xx/y", "two.example/all/xx/y"),
            ("b.wild.example/y", "three.example/wild/y"),
            ("b.c.wild.example:5000/y", "three.example/wild:5000/y"),
            ("wild.example/y", "wild.example/y"),
            ("b.as-it-is.example/y", "b.as-it-is.example/y insecure"),
            (
                "bad.example/y",
                "bad.example/y is blocked by registries.conf, in the [[registry]] for bad.example",
            ),
        ] {
            if name.contains(":5000") {
                continue; // a port after a wildcard becomes part of the path there, and no name
            }
            assert_eq!(endpoints(&found, name), [expected], "{name}");
        }
    }

    #[test]
    fn row_x1_what_is_not_followed_is_refused() {
        for (text, reason) in [
            (
                "[registries.search]\nregistries = [\"docker.io\"]",
                "unknown field `registries`",
            ),
            (
                "[[registry]]\nlocation = \"a.example\"\nsigstore = true",
                "unknown field `sigstore`",
            ),
            ("[[registry]]\nprefix = \"a.example\"", "needs a location"),
            (
                "[[registry]]\ninsecure = true",
                "needs a prefix or a location",
            ),
            (
                "[[registry]]\nlocation = \"https://a.example\"",
                "must be host[:port][/path]",
            ),
            (
                "[[registry]]\nprefix = \"*a.example\"",
                "must have the form *.example.com",
            ),
            (
                "[[registry]]\nlocation = \"a.example\"\nmirror-by-digest-only = true\n\
                 [[registry.mirror]]\nlocation = \"b.example\"\npull-from-mirror = \"all\"",
                "only one may be set",
            ),
            (
                "credential-helpers = [\"ecr-login\"]",
                "which is not followed here",
            ),
        ] {
            let (_, why) = parse(text).unwrap_err();
            assert!(
                why.contains(reason),
                "{text:?}: {why:?} does not say {reason:?}"
            );
        }
        assert!(
            parse(
                "credential-helpers = [\"containers-auth.json\"]\nshort-name-mode = \"enforcing\""
            )
            .is_ok()
        );
    }

    #[test]
    fn row_x1_a_drop_in_replaces_the_table_of_its_prefix() {
        let root = std::env::temp_dir().join(format!(
            "sysext-oci-proxy-registries-{}",
            std::process::id()
        ));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(Registries::load(&root).unwrap(), Registries::default());
        write(
            CONFIG,
            "[[registry]]\nlocation = \"a.example\"\n[[registry]]\nlocation = \"b.example\"",
        );
        write(
            "etc/containers/registries.conf.d/50-a.conf",
            "[[registry]]\nprefix = \"a.example\"\nlocation = \"c.example\"",
        );
        let found = Registries::load(&root);
        fs::remove_dir_all(&root).unwrap();
        let found = found.unwrap();
        assert_eq!(endpoints(&found, "a.example/x"), ["c.example/x"]);
        assert_eq!(endpoints(&found, "b.example/x"), ["b.example/x"]);
    }
}
