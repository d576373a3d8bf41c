//! One file of `registries.conf`, version 2 of the format, and the checks of containers/image.

use std::collections::BTreeMap;

use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer};

use super::prefix::Prefix;
use crate::settings::{TomlMistake, parse_toml};

/// Keys that say nothing of where a repository is: short names are not used here.
const IGNORED: [&str; 4] = [
    "unqualified-search-registries",
    "short-name-mode",
    "aliases",
    "additional-layer-store-auth-helper",
];

/// A `[[registry]]` that was checked: locations have no slash at the end, and `pull_from_mirror` has the meaning of
/// `mirror_by_digest_only` too.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    pub prefix: Prefix,
    pub registry: Registry,
}

/// `[[registry]]` as TOML has it. Unknown keys are warned of and ignored, as by podman: a file for a newer podman
/// serves an older one.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Registry {
    prefix: String,
    /// Empty if the prefix is a wildcard and names stay as they are.
    pub location: String,
    /// Whether plain HTTP and any certificate are accepted.
    pub insecure: Option<bool>,
    pub blocked: bool,
    mirror_by_digest_only: bool,
    /// Only a mirror may have it.
    pull_from_mirror: Option<Pull>,
    pub mirror: Vec<Mirror>,
    #[serde(flatten)]
    unknown: BTreeMap<String, IgnoredAny>,
}

/// `[[registry.mirror]]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Mirror {
    pub location: String,
    pub insecure: Option<bool>,
    pub pull_from_mirror: Option<Pull>,
    #[serde(flatten)]
    unknown: BTreeMap<String, IgnoredAny>,
}

/// The requests that a mirror gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pull {
    /// For tags and for digests.
    #[default]
    All,
    DigestOnly,
    TagOnly,
}

/// One file.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct File {
    registry: Vec<Registry>,
    credential_helpers: Vec<String>,
    #[serde(rename = "registries", deserialize_with = "version_1")]
    _version_1: (),
    #[serde(flatten)]
    unknown: BTreeMap<String, IgnoredAny>,
}

/// Refuses `[registries.search]` and the like.
fn version_1<'de, D: Deserializer<'de>>(_: D) -> Result<(), D::Error> {
    Err(D::Error::custom(
        "[registries] is version 1 of the format, which is not supported; write [[registry]] tables",
    ))
}

impl Registry {
    /// Checks it as `postProcessRegistries` of containers/image does.
    fn check(mut self) -> Result<Table, String> {
        self.location = parse_location("location", &self.location)?;
        let written = match parse_location("prefix", &self.prefix)? {
            prefix if prefix.is_empty() => self.location.clone(),
            prefix => prefix,
        };
        if written.is_empty() {
            return Err("a [[registry]] needs a prefix or a location".into());
        }
        let prefix = Prefix::parse(&written)?;
        if self.location.is_empty() && !prefix.is_wildcard() {
            return Err(format!("the [[registry]] for {written:?} needs a location"));
        }
        if self.pull_from_mirror.is_some() {
            return Err(format!(
                "the [[registry]] for {written:?} has pull-from-mirror, which only a [[registry.mirror]] may have"
            ));
        }
        for mirror in &mut self.mirror {
            mirror.location = parse_location("mirror location", &mirror.location)?;
            if mirror.location.is_empty() {
                return Err(format!("a mirror of {written:?} needs a location"));
            }
            if !self.mirror_by_digest_only {
                continue;
            }
            if mirror.pull_from_mirror.is_some() {
                return Err(format!(
                    "{written:?} has mirror-by-digest-only, and its mirror {:?} has pull-from-mirror; only one may be set",
                    mirror.location
                ));
            }
            mirror.pull_from_mirror = Some(Pull::DigestOnly);
        }
        Ok(Table {
            prefix,
            registry: self,
        })
    }

    /// The unknown keys of it and its mirrors.
    fn unknown(&self) -> impl Iterator<Item = String> {
        let own = self.unknown.keys().map(|key| format!("registry.{key}"));
        let of_mirrors = self.mirror.iter().flat_map(|mirror| mirror.unknown.keys());
        own.chain(of_mirrors.map(|key| format!("registry.mirror.{key}")))
    }
}

/// `host[:port][/path]` without slashes at its end (`parseLocation` of containers/image).
fn parse_location(what: &str, text: &str) -> Result<String, String> {
    if text.contains("://") || text.contains('@') {
        return Err(format!("{what} {text:?} must be host[:port][/path]"));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// The tables of a file, and the keys in it that are not known.
pub fn parse(text: &str) -> Result<(Vec<Table>, Vec<String>), TomlMistake> {
    let file: File = parse_toml(text)?;
    let mut helpers = file.credential_helpers.iter();
    if let Some(helper) = helpers.find(|helper| *helper != "containers-auth.json") {
        let why = format!(
            "credential-helpers has {helper:?}, expected only containers-auth.json; put the helper into credHelpers of an auth.json"
        );
        return Err((None, why));
    }
    let mut unknown: Vec<_> = file.unknown.into_keys().collect();
    unknown.retain(|key| !IGNORED.contains(&key.as_str()));
    let mut tables = Vec::new();
    for registry in file.registry {
        unknown.extend(registry.unknown());
        let table = registry.check().map_err(|why| (None, why))?;
        check_conflict(&tables, &table).map_err(|why| (None, why))?;
        tables.push(table);
    }
    Ok((tables, unknown))
}

/// Refuses two tables of one location that disagree whether it is blocked, or whether it is insecure.
fn check_conflict(before: &[Table], table: &Table) -> Result<(), String> {
    // The name that containers/image groups tables by.
    let place = |table: &Table| match table.registry.location.as_str() {
        "" => table.prefix.written.clone(),
        location => location.to_owned(),
    };
    let is_insecure = |table: &Table| table.registry.insecure == Some(true);
    for other in before.iter().filter(|other| place(other) == place(table)) {
        let key = if other.registry.blocked != table.registry.blocked {
            "blocked"
        } else if is_insecure(other) != is_insecure(table) {
            "insecure"
        } else {
            continue;
        };
        return Err(format!(
            "{:?} is the location of two [[registry]] tables that disagree whether it is {key}",
            place(table)
        ));
    }
    Ok(())
}
