//! The seam to the machine that is checked: its files, and what systemd says of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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
        let text = self.output("systemctl", &["show", &properties, "--", unit])?;
        Ok(Properties::parse(&text))
    }

    /// The standard output of a program. If it fails, the first line of its standard error.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(program)
            .args(arguments)
            .env("LC_ALL", "C.UTF-8")
            .env("SYSTEMD_COLORS", "0")
            .env("SYSTEMD_PAGER", "")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("{program} cannot be started: {error}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next().unwrap_or("it does not say why");
        Err(format!("{program} failed: {said}"))
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

    #[test]
    fn a_program_that_fails_says_why() {
        let machine = Machine::new(Path::new("/"));
        let shell = |script| machine.output("sh", &["-c", script]);
        assert_eq!(shell("echo 1"), Ok("1\n".to_owned()));
        let failed = shell("echo no bus >&2; echo more >&2; exit 1");
        assert_eq!(failed, Err("sh failed: no bus".to_owned()));
        let absent = machine.output("/nonexistent/systemctl", &[]);
        assert!(absent.is_err_and(|why| why.contains("cannot be started")));
    }
}
