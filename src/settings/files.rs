//! Settings files: where they are, the keys of each, and which of them wins.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::values;
use super::{Blobs, RepositorySettings, Settings, SignedListTag, Sources, Suffix};
use crate::error::{Error, Result};
use crate::name::{Host, Registry, RepositoryAddress, without_userinfo};
use crate::platform::Architecture;
use crate::template::Template;

/// The file an administrator writes, below the root directory.
const CONFIG: &str = "etc/sysext-oci-proxy/config.toml";
/// The directories of drop-ins, below the root directory; a file in a later one replaces its namesake.
const DROP_INS: [&str; 3] = [
    "usr/lib/sysext-oci-proxy/config.d",
    "run/sysext-oci-proxy/config.d",
    "etc/sysext-oci-proxy/config.d",
];

/// The keys of one file. A key that is not in it stays as the files before it set it.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Keys {
    registry: Option<Registry>,
    allow: Option<Vec<Registry>>,
    #[serde(default, deserialize_with = "values::idle_seconds")]
    idle_timeout_sec: Option<Duration>,
    #[serde(default, deserialize_with = "values::seconds")]
    listing_ttl_sec: Option<Duration>,
    #[serde(default, deserialize_with = "values::parallel")]
    parallel: Option<NonZeroUsize>,
    #[serde(default, deserialize_with = "values::size")]
    cache_size: Option<u64>,
    trusted_hosts: Option<Vec<Host>>,
    mirrors_with_ns: Option<Vec<Host>>,
    mirrors_without_ns: Option<Vec<Host>>,
    compatible_only: Option<bool>,
    hosts: Option<Vec<Host>>,
    #[serde(default)]
    repository: BTreeMap<RepositoryAddress, RepositoryKeys>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RepositoryKeys {
    source: Option<Sources>,
    suffix: Option<Suffix>,
    names: Option<Template>,
    #[serde(default, deserialize_with = "values::architectures")]
    architectures: Option<Vec<Architecture>>,
    immutable_tags: Option<bool>,
    signed_list: Option<SignedListTag>,
    compatible_only: Option<bool>,
    flatten: Option<u16>,
    blobs: Option<Blobs>,
}

impl Keys {
    /// Sets them.
    pub fn apply(self, settings: &mut Settings) {
        set(&mut settings.registry, self.registry);
        set(&mut settings.allow, self.allow);
        set(&mut settings.idle_timeout, self.idle_timeout_sec);
        set(&mut settings.listing_ttl, self.listing_ttl_sec);
        set(&mut settings.parallel, self.parallel);
        set(&mut settings.cache_size, self.cache_size);
        set(&mut settings.trusted_hosts, self.trusted_hosts);
        set(&mut settings.mirrors_with_ns, self.mirrors_with_ns);
        set(&mut settings.mirrors_without_ns, self.mirrors_without_ns);
        set(&mut settings.compatible_only, self.compatible_only);
        set(&mut settings.hosts, self.hosts);
        for (name, keys) in self.repository {
            keys.apply(settings.repositories.entry(name).or_default());
        }
    }
}

impl RepositoryKeys {
    fn apply(self, settings: &mut RepositorySettings) {
        set(&mut settings.source, self.source.map(Some));
        set(&mut settings.suffix, self.suffix.map(Some));
        set(&mut settings.names, self.names.map(Some));
        set(&mut settings.architectures, self.architectures.map(Some));
        set(&mut settings.immutable_tags, self.immutable_tags);
        set(&mut settings.signed_list, self.signed_list);
        set(
            &mut settings.compatible_only,
            self.compatible_only.map(Some),
        );
        set(&mut settings.flatten, self.flatten.map(usize::from));
        set(&mut settings.blobs, self.blobs);
    }
}

fn set<T>(value: &mut T, new: Option<T>) {
    if let Some(new) = new {
        *value = new;
    }
}

/// Reads this one file, or without one all the usual places below `root`.
pub fn read(file: Option<&Path>, root: &Path) -> Result<Settings> {
    let files = match file {
        Some(file) => vec![file.to_owned()],
        None => {
            let config = Some(root.join(CONFIG)).filter(|path| path.symlink_metadata().is_ok());
            config.into_iter().chain(drop_ins(root)?).collect()
        }
    };
    let mut settings = Settings::default();
    for file in files {
        read_one(&file)?.apply(&mut settings);
    }
    Ok(settings)
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
            if entry.path().extension().is_some_and(|end| end == "toml") {
                by_name.insert(entry.file_name(), entry.path());
            }
        }
    }
    Ok(by_name.into_values().collect())
}

fn read_one(path: &Path) -> Result<Keys> {
    let bad = |(line, why)| Error::BadSettings {
        path: path.into(),
        line,
        why,
    };
    let text = fs::read_to_string(path).map_err(|cause| {
        let why = match cause.kind() {
            io::ErrorKind::IsADirectory => "this is a directory, expected a TOML file".into(),
            io::ErrorKind::NotFound => "there is no such file".into(),
            io::ErrorKind::PermissionDenied => {
                "not readable by the service, which runs as a user of its own; chmod 644 mends it"
                    .into()
            }
            io::ErrorKind::InvalidData => "this is not UTF-8 text".into(),
            _ => cause.to_string(),
        };
        bad((None, why))
    })?;
    parse_toml(&text).map_err(bad)
}

/// Reads one TOML file's text. An error has its line, counted from 1.
pub fn parse_toml<T: DeserializeOwned>(text: &str) -> Result<T, (Option<usize>, String)> {
    toml::from_str(text).map_err(|error| {
        let line = error
            .span()
            .map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        // The parser's messages may run over several lines; a journal entry is one. They quote values.
        let message: Vec<_> = error.message().split_whitespace().collect();
        (line, without_userinfo(&message.join(" ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::SourceSetting;

    fn settings(text: &str) -> Settings {
        let mut settings = Settings::default();
        let keys: Keys = parse_toml(text).unwrap_or_else(|why| panic!("{why:?}"));
        keys.apply(&mut settings);
        settings
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
            mirrors-without-ns = ["localhost:5001"]
            compatible-only = true
            hosts = ["updates.lan"]
            [repository.kubernetes]
            source = "ghcr.io/acme/k8s"
            suffix = ".raw"
            names = "{name}-{version}-{arch}"
            architectures = ["x86-64"]
            immutable-tags = true
            signed-list = "list"
            compatible-only = false
            flatten = 5
            blobs = "redirect"
            [repository."acme/local"]
            source = "oci:/srv/updates"
            signed-list = ""
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
                mirrors_without_ns: vec!["localhost:5001".parse().unwrap()],
                compatible_only: true,
                hosts: vec!["updates.lan".parse().unwrap()],
                repositories: [
                    (
                        "kubernetes".parse().unwrap(),
                        RepositorySettings {
                            source: Some(Sources::One("ghcr.io/acme/k8s".parse().unwrap())),
                            suffix: Some(Suffix::try_from(".raw".to_owned()).unwrap()),
                            names: Some("{name}-{version}-{arch}".parse().unwrap()),
                            architectures: Some(vec!["x86-64".parse().unwrap()]),
                            immutable_tags: true,
                            signed_list: SignedListTag::Tag("list".parse().unwrap()),
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
                            signed_list: SignedListTag::Nowhere,
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
                "[repository.a]\nsource = [\"one/k8s\", \"oci:/srv/k8s\"]",
                2,
                "sources \"one/k8s\" and \"oci:/srv/k8s\" cannot be merged",
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
            ("[repository.a]\nsigned-list = \"a/b\"", 2, "signed-list: "),
            (
                "[repository.a]\nblobs = \"proxy\"",
                2,
                "unknown variant `proxy`",
            ),
        ] {
            let Err((found, why)) = parse_toml::<Keys>(text) else {
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
}
