//! The seam to the machine that is checked: its files, and what systemd says of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::cli::systemd;

/// The machine that is checked.
pub struct Machine {
    /// The directory that its files are below.
    root: PathBuf,
}

/// Properties of a unit, as `systemctl show` prints them.
#[derive(Debug, Default)]
pub struct Properties(BTreeMap<String, String>);

impl Machine {
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The place of a file that an administrator knows by this absolute path.
    pub fn path(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let path = absolute.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Properties of a unit. Every user may ask for them.
    pub fn unit(&self, unit: &str, properties: &[&str]) -> Result<Properties, String> {
        let properties = format!("--property={}", properties.join(","));
        let text = systemd::output("systemctl", &["show", &properties, "--", unit])?;
        Ok(Properties::parse(&text))
    }
}

impl Properties {
    /// A line for each: `ActiveState=active`.
    pub fn parse(text: &str) -> Self {
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Self(
            pairs
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        )
    }

    /// The value; empty if systemd has none.
    pub fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_is_what_follows_the_first_equals_sign() {
        let found = Properties::parse("ActiveState=active\nEnvironment=A=b C=d\nResult=\n");
        assert_eq!(found.get("ActiveState"), "active");
        assert_eq!(found.get("Environment"), "A=b C=d");
        assert_eq!((found.get("Result"), found.get("Listen")), ("", ""));
    }

    #[test]
    fn a_file_is_below_the_root() {
        let machine = Machine::new(Path::new("/m"));
        for path in ["/etc/hosts", "etc/hosts"] {
            assert_eq!(machine.path(path), Path::new("/m/etc/hosts"));
        }
    }
}
