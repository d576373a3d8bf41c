//! A repository as a person writes it.
//!
//! ```text
//! k8s   k8s:v1   k8s@sha256:…   ghcr.io/acme/k8s          as in an address of the service
//! docker://ghcr.io/acme/k8s     oci://ghcr.io/acme/k8s    as skopeo, bootc and helm write it
//! http://localhost:5001/k8s     …/k8s/SHA256SUMS          an address of the service itself
//! oci:/srv/k8s   oci:k8s:v1                               an OCI layout directory, as skopeo writes it
//! ```

use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::address::{Address, Asked, Directory, LISTING, View};
use crate::artifact::suffix;
use crate::name::{FileName, Host, Repository, RepositoryAddress};
use crate::settings::{RepositorySettings, Settings, SourceSetting, Sources};

/// The base of the names of a layout whose own name is none.
const LAYOUT: &str = "layout";

/// A directory, and where it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    pub origin: Origin,
    pub directory: Directory,
}

/// A directory or one file of it.
#[derive(Clone, Debug, PartialEq)]
pub struct FileReference {
    pub reference: Reference,
    pub file: Option<FileName>,
}

/// Where a directory is looked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// Wherever the command asks.
    Usual,
    /// At the service at this host and port.
    Service(Host),
    /// In this layout directory.
    Layout(PathBuf),
}

impl Reference {
    /// These settings, with the source of a layout, for this process alone.
    pub fn settings(&self, mut settings: Settings) -> Settings {
        if let Origin::Layout(path) = &self.origin {
            let source = Some(Sources::One(SourceSetting::Layout(path.clone())));
            let own = RepositorySettings {
                source,
                ..RepositorySettings::default()
            };
            let name = &self.directory.repository;
            if let Some(mut replaced) = settings.repositories.insert(name.clone(), own) {
                // The signatures that it asks of its places stay asked for.
                let source = || Sources::One(SourceSetting::Registry(name.clone()));
                replaced.source.get_or_insert_with(source);
                let free = (0..).filter_map(|n| format!("replaced-{n}").parse().ok());
                let mut free = free.filter(|free| !settings.repositories.contains_key(free));
                if let Some(free) = free.next() {
                    settings.repositories.insert(free, replaced);
                }
            }
        }
        settings
    }
}

impl FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (origin, path) = Origin::split(text)?;
        match origin {
            Origin::Layout(_) => layout(path),
            Origin::Usual | Origin::Service(_) => {
                let path = path.strip_suffix(LISTING).unwrap_or(path);
                let directory = path.trim_end_matches('/').parse()?;
                Ok(Self { origin, directory })
            }
        }
    }
}

impl FromStr for FileReference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let file = match Origin::split(text)? {
            (Origin::Layout(_), _) => None,
            (_, path) => file_of(path)?,
        };
        let directory = match &file {
            Some(_) => text
                .rsplit_once('/')
                .map_or(text, |(directory, _)| directory),
            None => text,
        };
        Ok(Self {
            reference: directory.parse()?,
            file,
        })
    }
}

impl Origin {
    /// The origin, and the rest of the text. Of a layout the rest has its path.
    fn split(text: &str) -> Result<(Self, &str), String> {
        if let Some(rest) = text.strip_prefix("http://") {
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            return Ok((Self::Service(host.parse()?), path));
        }
        if text.starts_with("https://") {
            return Err(
                "the service speaks http://; a repository of a registry is written docker://HOST/REPOSITORY".into(),
            );
        }
        for scheme in ["docker://", "oci://"] {
            let Some(rest) = text.strip_prefix(scheme) else {
                continue;
            };
            if let Some(path) = rest.strip_prefix('/').filter(|_| scheme == "oci://") {
                return Err(format!(
                    "oci://HOST/REPOSITORY names a registry, and here the host is empty; an OCI layout directory is written \
                     oci:/{path}"
                ));
            }
            let directory: Directory = rest.parse()?;
            if directory.repository.host.is_none() {
                return Err(format!(
                    "{rest:?} names no host; a repository of the default registry is written without {scheme}"
                ));
            }
            return Ok((Self::Usual, rest));
        }
        match text.strip_prefix("oci:") {
            Some(path) => Ok((Self::Layout(PathBuf::new()), path)),
            None => Ok((Self::Usual, text)),
        }
    }
}

/// `/srv/k8s`, `/srv/k8s:v1`, `k8s@sha256:…`. Its files are named after the directory.
fn layout(path: &str) -> Result<Reference, String> {
    let start = path.rfind('/').map_or(0, |slash| slash + 1);
    let end = path[start..]
        .find([':', '@'])
        .map_or(path.len(), |end| start + end);
    let (directory, view) = path.split_at(end);
    if directory.is_empty() {
        return Err("oci: is followed by the path of an OCI layout directory".into());
    }
    let absolute =
        std::path::absolute(directory).map_err(|error| format!("{directory:?}: {error}"))?;
    let name = Path::new(directory)
        .file_name()
        .and_then(|name| name.to_str());
    let repository: Option<Repository> = name.and_then(|name| name.parse().ok());
    let repository = RepositoryAddress {
        host: None,
        repository: repository.map_or_else(|| LAYOUT.parse(), Ok)?,
    };
    let Directory { view, .. } = format!("{LAYOUT}{view}").parse()?;
    Ok(Reference {
        origin: Origin::Layout(absolute),
        directory: Directory { repository, view },
    })
}

/// The file that a path names, if its last part is one: what follows a tag or digest, what cannot be the name of a
/// repository, and what has an ending that is known.
fn file_of(path: &str) -> Result<Option<FileName>, String> {
    let Some((directory, last)) = path.rsplit_once('/') else {
        return Ok(None);
    };
    if last.is_empty() || last == LISTING {
        return Ok(None);
    }
    let is_one_artifact = directory
        .parse()
        .is_ok_and(|found: Directory| found.view != View::Tags);
    let is_file =
        is_one_artifact || path.parse::<Directory>().is_err() || suffix::of_name(last).is_some();
    if !is_file {
        return Ok(None);
    }
    match Address::parse(&format!("/{path}")) {
        Ok(Address::In(_, Asked::File(name))) => Ok(Some(name)),
        Ok(_) => Err(format!(
            "{last:?} is made of the list, and has no line in it; `curl` fetches it"
        )),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(Origin, String), String> {
        let Reference { origin, directory } = text.parse()?;
        Ok((origin, directory.to_string()))
    }

    #[test]
    fn a_repository_may_be_written_as_other_tools_write_it() {
        let hex = "0f".repeat(32);
        let pinned = format!("docker://ghcr.io/acme/k8s@sha256:{hex}");
        let here = || Origin::Service("localhost:5001".parse().unwrap());
        let layout = |path: &str| Origin::Layout(path.into());
        let current = std::env::current_dir().unwrap();
        for (text, origin, directory) in [
            ("k8s", Origin::Usual, "k8s"),
            ("acme/k8s:v1", Origin::Usual, "acme/k8s:v1"),
            ("acme/k8s/", Origin::Usual, "acme/k8s"),
            ("ghcr.io/acme/k8s", Origin::Usual, "ghcr.io/acme/k8s"),
            (
                "docker://ghcr.io/acme/k8s",
                Origin::Usual,
                "ghcr.io/acme/k8s",
            ),
            (
                "docker://ghcr.io/acme/k8s:v1",
                Origin::Usual,
                "ghcr.io/acme/k8s:v1",
            ),
            (&pinned, Origin::Usual, &pinned["docker://".len()..]),
            (
                "oci://localhost:5000/k8s",
                Origin::Usual,
                "localhost:5000/k8s",
            ),
            ("http://localhost:5001/k8s", here(), "k8s"),
            ("http://localhost:5001/acme/k8s/", here(), "acme/k8s"),
            ("http://localhost:5001/k8s:v1/SHA256SUMS", here(), "k8s:v1"),
            ("oci:/srv/k8s", layout("/srv/k8s"), "k8s"),
            ("oci:/srv/k8s/", layout("/srv/k8s/"), "k8s"),
            ("oci:/srv/k8s:v1", layout("/srv/k8s"), "k8s:v1"),
            ("oci:/srv/K8S", layout("/srv/K8S"), "layout"),
            ("oci:/srv:1/k8s", layout("/srv:1/k8s"), "k8s"),
            ("oci:k8s", Origin::Layout(current.join("k8s")), "k8s"),
        ] {
            assert_eq!(parse(text), Ok((origin, directory.to_owned())), "{text}");
        }
    }

    #[test]
    fn what_is_no_repository_is_told_what_would_be() {
        for (text, part) in [
            ("", "name component"),
            ("oci:///srv/k8s", "is written oci:/srv/k8s"),
            ("docker:///k8s", "name component"),
            ("docker://k8s", "without docker://"),
            ("oci://k8s:v1", "without oci://"),
            ("oci:", "path of an OCI layout directory"),
            ("https://ghcr.io/acme/k8s", "docker://HOST/REPOSITORY"),
            ("http://localhost:5001", "name component"),
            ("http:///k8s", "host"),
        ] {
            let why = parse(text).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
    }

    #[test]
    fn a_file_is_told_from_a_repository_by_its_ending_or_by_what_is_before_it() {
        for (text, directory, file) in [
            ("k8s", "k8s", None),
            ("acme/k8s", "acme/k8s", None),
            ("acme/k8s-1.2", "acme/k8s-1.2", None),
            ("k8s/k8s-v1.raw", "k8s", Some("k8s-v1.raw")),
            ("acme/k8s/k8s-v1.tar.gz", "acme/k8s", Some("k8s-v1.tar.gz")),
            ("k8s/k8s-v1+2", "k8s", Some("k8s-v1+2")),
            ("k8s:v1/kernel", "k8s:v1", Some("kernel")),
            (
                "docker://ghcr.io/acme/k8s/k8s-v1.raw",
                "ghcr.io/acme/k8s",
                Some("k8s-v1.raw"),
            ),
            (
                "http://localhost:5001/k8s/k8s-v1.raw",
                "k8s",
                Some("k8s-v1.raw"),
            ),
            ("http://localhost:5001/k8s/SHA256SUMS", "k8s", None),
            ("http://localhost:5001/k8s/", "k8s", None),
        ] {
            let found: FileReference = text.parse().unwrap();
            let name = found.file.as_ref().map(FileName::as_str);
            assert_eq!(
                (&*found.reference.directory.to_string(), name),
                (directory, file),
                "{text}"
            );
        }
        for text in ["k8s/SHA256SUMS.gpg", "k8s:v1/..", "/k8s-v1.raw"] {
            assert!(text.parse::<FileReference>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_layout_is_asked_for_the_signatures_that_the_settings_ask_of_it() {
        let rule = crate::trust::Rule::Never("nobody signs".to_owned());
        let section = |source: &str| RepositorySettings {
            source: Some(Sources::One(source.parse().unwrap())),
            signed_by: Some(std::sync::Arc::new(rule.clone())),
            ..RepositorySettings::default()
        };
        for (name, source, is_asked) in [
            ("k8s", "oci:/srv/k8s", true),
            ("tools", "oci:/srv/k8s", true),
            ("k8s", "oci:/srv/other", false),
            ("k8s", "ghcr.io/acme/k8s", false),
        ] {
            let settings = Settings {
                repositories: [(name.parse().unwrap(), section(source))].into(),
                ..Settings::default()
            };
            let reference: Reference = "oci:/srv/k8s".parse().unwrap();
            let settings = reference.settings(settings);
            let located = reference.directory.locate(&settings).unwrap();
            let requirement = located.requirement(&located.places[0].1, &settings);
            assert_eq!(
                !requirement.signed_by.is_empty(),
                is_asked,
                "{name} {source}"
            );
            assert_eq!(settings.repositories.len(), 2, "no section is lost");
        }
    }
}
