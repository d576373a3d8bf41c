//! The versions that an administrator wants: the settings `versions`, `exclude` and `hold`. No I/O.

use std::fmt;
use std::str::FromStr;

use glob::Pattern;

use crate::name::Tag;
use crate::version::{comparable, compare, split_architecture};

/// The versions of a repository that an administrator wants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// `versions`: only these. `None`: all.
    pub versions: Option<Vec<VersionPattern>>,
    /// `exclude`: not these.
    pub exclude: Vec<VersionPattern>,
    /// `hold`: nothing newer than this.
    pub hold: Option<Hold>,
}

impl Wanted {
    /// The first of the settings that leaves out some versions, by its key.
    pub fn setting(&self) -> Option<&'static str> {
        match self {
            Self {
                versions: Some(_), ..
            } => Some("versions"),
            Self { hold: Some(_), .. } => Some("hold"),
            Self { exclude, .. } if !exclude.is_empty() => Some("exclude"),
            _ => None,
        }
    }

    /// Why a tag is left out.
    pub fn why_not(&self, tag: &Tag) -> Option<String> {
        let version = comparable(tag.as_str());
        let matches =
            |patterns: &[VersionPattern]| patterns.iter().any(|one| one.matches(&version));
        if let Some(versions) = &self.versions
            && !matches(versions)
        {
            return Some(format!(
                "version {version} is none of versions = {versions:?}"
            ));
        }
        if matches(&self.exclude) {
            let exclude = &self.exclude;
            return Some(format!("version {version} is one of exclude = {exclude:?}"));
        }
        let hold = self.hold.as_ref()?;
        let is_newer = compare(&version, &comparable(&hold.0)).is_gt();
        is_newer.then(|| format!("version {version} is newer than hold = {hold:?}"))
    }
}

/// A version of which `*` is any part, `?` any character, and `[…]` one of these: `1.31.*`.
#[derive(Clone, PartialEq)]
pub struct VersionPattern {
    written: String,
    pattern: Pattern,
}

impl VersionPattern {
    fn matches(&self, version: &str) -> bool {
        self.pattern.matches(version)
    }
}

impl FromStr for VersionPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let (version, Some(architecture)) = split_architecture(text) {
            return Err(format!(
                "{text:?} ends in an architecture, which is no part of a version; write {version:?}, and \
                 architectures = [\"{architecture}\"] for those on offer"
            ));
        }
        // A tag has no `v` any more where it is compared.
        let bare = text
            .strip_prefix('v')
            .filter(|rest| rest.starts_with(['*', '?', '[']));
        let pattern = Pattern::new(&comparable(bare.unwrap_or(text)));
        let pattern = pattern.map_err(|error| format!("{text:?} is no pattern: {}", error.msg))?;
        if text.is_empty() {
            return Err("\"\" is no version".to_owned());
        }
        let written = text.to_owned();
        Ok(Self { written, pattern })
    }
}

impl fmt::Debug for VersionPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.written.fmt(f)
    }
}

/// A version, nothing newer than which is wanted.
#[derive(Clone, PartialEq)]
pub struct Hold(String);

impl FromStr for Hold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains(['*', '?', '[']) {
            return Err(format!(
                "{text:?} is a pattern, expected one version; versions = [{text:?}] takes patterns"
            ));
        }
        if !text.contains(|c: char| c.is_ascii_alphanumeric()) {
            return Err(format!("{text:?} is no version"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(list: &[&str]) -> Vec<VersionPattern> {
        list.iter().map(|one| one.parse().unwrap()).collect()
    }

    #[test]
    fn a_tag_is_left_out_by_its_version() {
        let wanted = Wanted {
            versions: Some(patterns(&["1.31.*", "v1.32.[0-4]", "1.33.1+*"])),
            exclude: patterns(&["1.31.4", "v1.31.5_2"]),
            hold: Some("v1.32.3".parse().unwrap()),
        };
        for (tag, why) in [
            ("1.31.3", None),
            ("v1.31.3-x86-64", None),
            ("1.31.3-arm64", None),
            ("1.31.10", None),
            ("1.31.5", None),
            ("1.32.3", None),
            (
                "1.30.9",
                Some(
                    r#"version 1.30.9 is none of versions = ["1.31.*", "v1.32.[0-4]", "1.33.1+*"]"#,
                ),
            ),
            (
                "latest",
                Some(
                    r#"version latest is none of versions = ["1.31.*", "v1.32.[0-4]", "1.33.1+*"]"#,
                ),
            ),
            (
                "v1.31.4-x86-64",
                Some(r#"version 1.31.4 is one of exclude = ["1.31.4", "v1.31.5_2"]"#),
            ),
            (
                "1.31.5_2",
                Some(r#"version 1.31.5+2 is one of exclude = ["1.31.4", "v1.31.5_2"]"#),
            ),
            (
                "v1.32.4",
                Some(r#"version 1.32.4 is newer than hold = "v1.32.3""#),
            ),
            (
                "1.33.1_2",
                Some(r#"version 1.33.1+2 is newer than hold = "v1.32.3""#),
            ),
        ] {
            let found = wanted.why_not(&tag.parse().unwrap());
            assert_eq!(found.as_deref(), why, "{tag}");
        }
    }

    #[test]
    fn a_pattern_is_of_versions_without_their_v() {
        for (pattern, tag, is_out) in [
            ("v*", "v1.2.3", true),
            ("v[12].*", "v1.2", true),
            ("v?.4", "1.4-x86-64", true),
            ("v?.4", "v1.5", false),
            ("vx*", "vx1", true),
            ("vx*", "v1", false),
        ] {
            let exclude = patterns(&[pattern]);
            let wanted = Wanted {
                exclude,
                ..Wanted::default()
            };
            let found = wanted.why_not(&tag.parse().unwrap()).is_some();
            assert_eq!(found, is_out, "{pattern} {tag}");
        }
    }

    #[test]
    fn versions_are_compared_by_number() {
        let hold = |hold: &str| Wanted {
            hold: Some(hold.parse().unwrap()),
            ..Wanted::default()
        };
        for (version, tag, is_wanted) in [
            ("1.9", "1.10", false),
            ("1.10", "v1.9-arm64", true),
            ("1.31.3", "1.31.3_1", false),
            ("1.31.3+1", "1.31.3_1", true),
            ("1.31.3", "1.31.3-rc1", false),
            ("1.31.3-x86-64", "1.31.3-arm64", true),
            ("1", "latest", true),
        ] {
            let why = hold(version).why_not(&tag.parse().unwrap());
            assert_eq!(why.is_none(), is_wanted, "{tag} with hold = {version:?}");
        }
        assert_eq!(Wanted::default().why_not(&"v1".parse().unwrap()), None);
    }

    #[test]
    fn a_pattern_or_version_that_is_none_is_told() {
        for (bad, why) in [
            ("***", "\"***\" is no pattern"),
            ("a[", "\"a[\" is no pattern"),
            ("", "\"\" is no version"),
            ("*-arm64", "\"*-arm64\" ends in an architecture"),
            ("1.31.*-x86-64", "\"1.31.*-x86-64\" ends in an architecture"),
        ] {
            let found = bad.parse::<VersionPattern>().unwrap_err();
            assert!(found.starts_with(why), "{found}");
        }
        for (bad, why) in [
            ("1.31.*", "\"1.31.*\" is a pattern"),
            ("", "\"\" is no version"),
            ("-", "\"-\" is no version"),
        ] {
            let found = bad.parse::<Hold>().unwrap_err();
            assert!(found.starts_with(why), "{found}");
        }
    }
}
