//! The systemd of this machine.

use std::process::Command;

use crate::error::{Error, Result};
pub use crate::sysupdate::SystemdVersion;

impl SystemdVersion {
    /// That of this machine, by `systemctl --version`. `command`: what it is asked for.
    pub fn of_this_machine(command: &'static str) -> Result<Self> {
        let cannot = |why: String| Error::CannotDo {
            command,
            why: format!("systemctl --version: {why}"),
        };
        let output = Command::new("systemctl").arg("--version").output();
        let output = output.map_err(|error| cannot(error.to_string()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        Self::parse(&text).ok_or_else(|| {
            let first = text.lines().next().unwrap_or_default();
            cannot(format!("expected \"systemd VERSION\", found {first:?}"))
        })
    }

    /// `systemd 257 (257.13-1~deb13u1)` or `systemd 258~rc1 (…)`, and more lines.
    pub fn parse(text: &str) -> Option<Self> {
        let number = text.strip_prefix("systemd ")?;
        let end = number.find(|c: char| !c.is_ascii_digit())?;
        number[..end].parse().ok().map(Self)
    }
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
