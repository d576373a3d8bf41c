//! The name of a component of systemd-sysupdate: `NAME` of `/etc/sysupdate.NAME.d/` and of `systemd-sysupdate -C NAME`.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::name::RepositoryAddress;

/// Longest name, in bytes: that of the directory has 255 at most, and units are called after it.
const MAX: usize = 128;

/// The name of a component. It can be in the name of a directory and of a unit, without being escaped there.
#[derive(Clone, Debug, PartialEq)]
pub struct Component(String);

impl Component {
    /// The default component of a repository: the last part of the repository's name.
    pub fn of(repository: &RepositoryAddress) -> Result<Self> {
        let name = repository.to_string();
        let last = name.rsplit('/').next().unwrap_or_default();
        last.parse().map_err(|why| Error::CannotDo {
            command: super::COMMAND,
            why: format!("{why}; --component gives the component another name"),
        })
    }
}

impl FromStr for Component {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let is_name = text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(is_plain)
            && text.len() <= MAX;
        if !is_name {
            return Err(format!(
                "{text:?} is no name of a component, expected letters, digits, '_', '-' and '.', at most {MAX}"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_named_as_directories_and_units_may_be() {
        for (text, is_name) in [
            ("kubernetes", true),
            ("acme_tools-1.2", true),
            ("", false),
            (".hidden", false),
            ("-C", false),
            ("a/b", false),
            ("a@b", false),
            ("a%n", false),
            ("a\\x2d", false),
            ("größe", false),
            (&"a".repeat(MAX), true),
            (&"a".repeat(MAX + 1), false),
        ] {
            assert_eq!(text.parse::<Component>().is_ok(), is_name, "{text:?}");
        }
        let of = |repository: &str| Component::of(&repository.parse().unwrap()).unwrap();
        assert_eq!(of("ghcr.io/acme/k8s").to_string(), "k8s");
        assert_eq!(of("k8s").to_string(), "k8s");
    }
}
