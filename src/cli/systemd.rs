//! The systemd of this machine.

use std::process::Command;

use crate::error::{Error, Result};
pub use crate::sysupdate::SystemdVersion;

/// Where systemd-sysupdate is, below the root directory, in packages of different distributions and versions.
pub const SYSUPDATE: [&str; 4] = [
    "usr/lib/systemd/systemd-sysupdate",
    "usr/bin/systemd-sysupdate",
    "usr/libexec/systemd/systemd-sysupdate",
    "usr/libexec/systemd-sysupdate",
];

impl SystemdVersion {
    /// That of this machine, by `systemctl --version`. `command`: what it is asked for.
    pub fn of_this_machine(command: &'static str) -> Result<Self> {
        let text = systemctl(command, &["--version"])?;
        Self::parse(&text).ok_or_else(|| {
            let first = text.lines().next().unwrap_or_default();
            let why = format!("systemctl --version: expected \"systemd VERSION\", found {first:?}");
            Error::CannotDo { command, why }
        })
    }

    /// `systemd 257 (257.13-1~deb13u1)` or `systemd 258~rc1 (…)`, and more lines.
    pub fn parse(text: &str) -> Option<Self> {
        let number = text.strip_prefix("systemd ")?;
        let end = number.find(|c: char| !c.is_ascii_digit())?;
        number[..end].parse().ok().map(Self)
    }
}

/// The standard output of `systemctl` with these arguments. `command`: the command of this program that runs it.
pub fn systemctl(command: &'static str, arguments: &[&str]) -> Result<String> {
    let cannot = |why: &str| Error::CannotDo {
        command,
        why: format!("systemctl {}: {why}", arguments.join(" ")),
    };
    let output = Command::new("systemctl").args(arguments).output();
    let output = output.map_err(|error| cannot(&error.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().collect::<Vec<_>>().join("; ");
        return Err(match said.as_str() {
            "" => cannot(&output.status.to_string()),
            said => cannot(said),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A property of a unit, as `systemctl show` prints it; that of a unit that does not exist, too.
pub fn property(command: &'static str, unit: &str, name: &str) -> Result<String> {
    let property = format!("--property={name}");
    let text = systemctl(command, &["show", &property, "--value", unit])?;
    Ok(text.trim().to_owned())
}

/// Whether a unit is active. One that does not exist is not.
pub fn is_active(command: &'static str, unit: &str) -> Result<bool> {
    Ok(property(command, unit, "ActiveState")? == "active")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_number_in_the_first_line() {
        for (text, expected) in [
            ("systemd 257 (257.13-1~deb13u1)\n+PAM +AUDIT\n", Some(257)),
            ("systemd 262 (262-1)\n", Some(262)),
            ("systemd 258~rc1 (258~rc1-1)\n", Some(258)),
            ("systemd 257\n", Some(257)),
            ("systemd \n", None),
            ("elogind 255\n", None),
            ("", None),
        ] {
            assert_eq!(
                SystemdVersion::parse(text),
                expected.map(SystemdVersion),
                "{text:?}"
            );
        }
    }
}
