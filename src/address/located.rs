//! A directory and its sources, by the settings.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Directory, View};
use crate::error::{Error, Result};
use crate::name::{FileName, Host, Repository, RepositoryAddress, normalized};
use crate::settings::{PolicyUse, RepositorySettings, Settings, SourceSetting, Sources};
use crate::trust::Requirement;
use crate::version;

/// A directory that the settings allow.
#[derive(Clone, Debug, PartialEq)]
pub struct Located {
    pub directory: Directory,
    /// The places of its sources, and the base of each source's file names. Several are one merged directory.
    pub places: Vec<(String, Place)>,
    /// The settings of its repository.
    pub settings: RepositorySettings,
}

/// The place of a source.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// An OCI layout directory.
    Layout(PathBuf),
    /// A repository of a registry.
    Registry { host: Host, repository: Repository },
}

impl Directory {
    /// Finds the sources of this directory.
    ///
    /// A `[repository.NAME]` with a source is found there, whatever NAME looks like: an administrator wrote it. A
    /// name with a host needs that host to be allowed; any other is below the default registry.
    pub fn locate(self, settings: &Settings) -> Result<Located> {
        let of_repository = settings.repositories.get(&self.repository);
        let of_repository = of_repository.cloned().unwrap_or_default();
        Ok(Located {
            places: places(&self.repository, &of_repository, settings)?,
            directory: self,
            settings: of_repository,
        })
    }
}

/// The places of a repository with these settings, and the base of each one's file names.
fn places(
    address: &RepositoryAddress,
    of_repository: &RepositorySettings,
    settings: &Settings,
) -> Result<Vec<(String, Place)>> {
    let base = address.repository.base().to_owned();
    Ok(match &of_repository.source {
        Some(Sources::One(source)) => vec![(base, Place::set(source, settings)?)],
        Some(Sources::Merged(sources)) => {
            let place = |source: &SourceSetting| Ok((source.base(), Place::set(source, settings)?));
            sources.iter().map(place).collect::<Result<_>>()?
        }
        None => vec![(base, Place::named(address, settings)?)],
    })
}

impl Located {
    /// The signatures that the manifests of a place must have: those that its own settings ask for, else all that any
    /// other settings ask of the same place. So no other address of a repository leads around them.
    pub fn requirement(&self, place: &Place, settings: &Settings) -> Requirement {
        let asks = |of_repository: &&RepositorySettings| of_repository.signed_by.is_some();
        let own = Some(&self.settings).filter(asks);
        let others = settings.repositories.iter().filter(|(address, others)| {
            let is_asking = others.signed_by.is_some() || others.require_version;
            // Paths are compared on the disk, so this comes last.
            let leads_here = || {
                let mut places = Place::of(address, others, settings).into_iter();
                places.any(|other| other.is_same(place))
            };
            own.is_none() && is_asking && leads_here()
        });
        let asked: Vec<_> = (own.into_iter())
            .chain(others.map(|(_, others)| others))
            .collect();
        Requirement {
            signed_by: (asked.iter())
                .filter_map(|one| one.signed_by.clone())
                .collect(),
            policy: (settings.policy.clone())
                .filter(|_| self.settings.policy == PolicyUse::Containers),
            require_version: asked.iter().any(|one| one.require_version),
            repository: place.name(),
            layout: match place {
                Place::Layout(path) => Some(resolved(path)),
                Place::Registry { .. } => None,
            },
        }
    }

    /// The base of a file's name, which its version follows: that of its source. In a merged directory the longest base
    /// that the name begins with; `k8s-conf-1.0.raw` is of `k8s-conf` rather than of `k8s`.
    pub fn base_of(&self, name: &FileName) -> &str {
        let bases = self.places.iter().map(|(base, _)| base.as_str());
        let own = bases.clone().filter(|base| version::has_base(name, base));
        let own = own.max_by_key(|base| base.len());
        own.or_else(|| bases.clone().next()).unwrap_or_default()
    }

    /// Another directory of the same repository.
    pub fn with_view(&self, view: View) -> Self {
        let mut other = self.clone();
        other.directory.view = view;
        other
    }
}

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.directory.fmt(f)
    }
}

/// A path without links and `..`, as containers/image has it in scopes (`oci/layout`, `ResolvePathToFullyExplicit`). One
/// that does not exist stays as it is: nothing can be read there.
fn resolved(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

impl Place {
    /// All places that these settings name, whether or not a URL may name their registries.
    fn of(address: &RepositoryAddress, own: &RepositorySettings, settings: &Settings) -> Vec<Self> {
        let named = || SourceSetting::Registry(address.clone());
        let sources = match &own.source {
            Some(Sources::One(source)) => vec![source.clone()],
            Some(Sources::Merged(sources)) => sources.clone(),
            None => vec![named()],
        };
        // A name that is too long below the default registry is nowhere.
        let places = sources
            .iter()
            .map(|source| Self::set(source, settings).ok());
        places.flatten().collect()
    }

    /// Whether they are one place, also if two paths lead to it, or its host is written with and without the port of
    /// HTTPS.
    pub fn is_same(&self, other: &Self) -> bool {
        /// A name, without the port that is meant where none is written.
        fn bare(host: &Host) -> &str {
            host.as_str().strip_suffix(":443").unwrap_or(host.as_str())
        }
        match (self, other) {
            (Self::Layout(one), Self::Layout(other)) => resolved(one) == resolved(other),
            (
                Self::Registry { host, repository },
                Self::Registry {
                    host: other_host,
                    repository: other,
                },
            ) => bare(host) == bare(other_host) && repository == other,
            _ => false,
        }
    }

    /// The place that a setting names.
    fn set(source: &SourceSetting, settings: &Settings) -> Result<Self> {
        match source {
            SourceSetting::Layout(path) => Ok(Self::Layout(path.clone())),
            SourceSetting::Registry(RepositoryAddress { host, repository }) => match host {
                Some(host) => Ok(Self::registry(host, repository)),
                None => Self::below_default(repository, settings),
            },
        }
    }

    /// The place of a repository that no setting names.
    fn named(address: &RepositoryAddress, settings: &Settings) -> Result<Self> {
        let Some(host) = &address.host else {
            return Self::below_default(&address.repository, settings);
        };
        let mut registries = std::iter::once(&settings.registry).chain(&settings.allow);
        if !registries.any(|registry| registry.holds(host, &address.repository)) {
            return Err(Error::RegistryNotAllowed {
                host: host.to_string(),
            });
        }
        Ok(Self::registry(host, &address.repository))
    }

    fn below_default(repository: &Repository, settings: &Settings) -> Result<Self> {
        let bad = |why| Error::BadAddress {
            path: repository.to_string(),
            why,
        };
        let repository = repository
            .below(settings.registry.path.as_ref())
            .map_err(bad)?;
        Ok(Self::registry(&settings.registry.host, &repository))
    }

    /// A repository of a registry, by its one name.
    fn registry(host: &Host, repository: &Repository) -> Self {
        let (host, repository) = normalized(host, repository);
        Self::Registry { host, repository }
    }
}

impl Place {
    /// The name of a repository of a registry; `None` for a layout.
    pub fn name(&self) -> Option<RepositoryAddress> {
        match self {
            Self::Layout(_) => None,
            Self::Registry { host, repository } => Some(RepositoryAddress::of(host, repository)),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layout(path) => write!(f, "oci:{}", path.display()),
            Self::Registry { host, repository } => write!(f, "{host}/{repository}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Registry;

    /// The settings of one `[repository.NAME]` with this source.
    fn repository(name: &str, source: &str) -> (RepositoryAddress, RepositorySettings) {
        let source = Some(Sources::One(source.parse().unwrap()));
        let settings = RepositorySettings {
            source,
            ..RepositorySettings::default()
        };
        (name.parse().unwrap(), settings)
    }

    #[test]
    fn a_name_leads_to_its_place() {
        let allowed: [Registry; 2] =
            ["quay.io/flatcar", "docker.io/library"].map(|one| one.parse().unwrap());
        let settings = Settings {
            registry: "ghcr.io/acme".parse().unwrap(),
            allow: allowed.into(),
            repositories: [
                repository("layout", "oci:/srv/a"),
                repository("elsewhere", "example.org/x/y"),
                repository("alias", "k8s"),
            ]
            .into(),
            ..Settings::default()
        };
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
            ("quay.io/flatcar-evil/k8s", None),
            ("Quay.IO/flatcar/k8s", registry("quay.io", "flatcar/k8s")),
            ("docker.io/alpine", registry("docker.io", "library/alpine")),
            (
                "index.docker.io/library/x",
                registry("docker.io", "library/x"),
            ),
            ("docker.io/acme/x", None),
            ("example.org/x/y", None),
        ] {
            let directory: Directory = name.parse().unwrap();
            let found = directory.locate(&settings).ok();
            let found = found.map(|mut located| located.places.remove(0).1);
            assert_eq!(found, place, "{name}");
        }
    }

    #[test]
    fn the_base_of_a_file_is_that_of_its_source() {
        let one = Located {
            directory: "tools".parse().unwrap(),
            places: vec![("tools".to_owned(), Place::Layout("/srv".into()))],
            settings: RepositorySettings::default(),
        };
        let bases = ["python-3", "k8s", "k8s-conf"];
        let merged = Located {
            places: bases
                .map(|base| (base.to_owned(), Place::Layout("/srv".into())))
                .into(),
            ..one.clone()
        };
        for (located, name, expected) in [
            (&one, "tools-1.raw", "tools"),
            (&one, "other-1.raw", "tools"),
            (&merged, "python-3-v1.0.raw", "python-3"),
            (&merged, "k8s-1.0.raw", "k8s"),
            (&merged, "k8s-conf-1.0.raw", "k8s-conf"),
            (&merged, "k8s-configuration-1.0.raw", "k8s"),
            (&merged, "other-1.0.raw", "python-3"),
        ] {
            assert_eq!(located.base_of(&name.parse().unwrap()), expected, "{name}");
        }
    }

    /// Settings that ask for signatures nobody has.
    fn asking(mut of_repository: RepositorySettings) -> RepositorySettings {
        let rule = crate::trust::Rule::Never("nobody signs".to_owned());
        of_repository.signed_by = Some(std::sync::Arc::new(rule));
        of_repository
    }

    #[test]
    fn no_other_address_of_a_place_leads_around_its_signatures() {
        let folder = std::env::temp_dir();
        let folder = folder.join(format!("sysext-oci-proxy-located-{}", std::process::id()));
        fs::create_dir_all(folder.join("real")).unwrap();
        let _ = fs::remove_file(folder.join("link"));
        std::os::unix::fs::symlink("real", folder.join("link")).unwrap();
        let layout = |name: &str| format!("oci:{}/{name}", folder.display());
        // Its host is not allowed in URLs, and none is needed to ask for signatures.
        let (named, _) = repository("ghcr.io/acme/k8s", "x");
        let (tools, of_tools) = repository("tools", &layout("real"));
        let merged = Sources::Merged(vec![
            "quay.io/a/b".parse().unwrap(),
            "quay.io/a/c".parse().unwrap(),
        ]);
        let merged = RepositorySettings {
            source: Some(merged),
            ..RepositorySettings::default()
        };
        let settings = Settings {
            repositories: [
                (named, asking(RepositorySettings::default())),
                (tools, asking(of_tools)),
                ("merged".parse().unwrap(), asking(merged)),
                repository("k8s", "ghcr.io/acme/k8s"),
                repository("link", &layout("link")),
                repository("dots", &layout("link/../real")),
                repository("port", "ghcr.io:443/acme/k8s"),
                repository("other-port", "ghcr.io:5000/acme/k8s"),
                repository("part", "quay.io/a/c"),
                repository("other", "quay.io/a/d"),
                repository("layout", &layout("other")),
            ]
            .into(),
            ..Settings::default()
        };
        for (name, is_asked) in [
            ("k8s", true),
            ("tools", true),
            ("link", true),
            ("dots", true),
            ("port", true),
            ("other-port", false),
            ("part", true),
            ("other", false),
            ("layout", false),
        ] {
            let directory: Directory = name.parse().unwrap();
            let located = directory.locate(&settings).unwrap();
            let requirement = located.requirement(&located.places[0].1, &settings);
            assert_eq!(!requirement.signed_by.is_empty(), is_asked, "{name}");
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
