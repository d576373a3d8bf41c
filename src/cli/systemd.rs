//! The systemd of this machine.

use std::process::{Command, Stdio};

use crate::error::{Error, Result};
pub use crate::sysupdate::SystemdVersion;

/// Where systemd-sysupdate is, below the root directory, in packages of different distributions and versions.
pub const SYSUPDATE: [&str; 4] = [
    "usr/lib/systemd/systemd-sysupdate",
    "usr/bin/systemd-sysupdate",
    "usr/libexec/systemd/systemd-sysupdate",
    "usr/libexec/systemd-sysupdate",
];

/// From systemd 262 on systemd-sysupdate reports a completed update to this socket, and waits until systemd-sysext has
/// merged what there is.
pub const NOTIFIED: &str = "systemd-sysupdate-notify-sysext.socket";
/// The properties of a unit that name those for which it runs.
const WANTED_BY: &str = "WantedBy,RequiredBy,BoundBy,UpheldBy,TriggeredBy";

impl SystemdVersion {
    /// The version of systemd on this machine, by `systemctl --version`; or why it could not be found out.
    pub fn of_this_machine() -> Result<Self, String> {
        let text = output("systemctl", &["--version"])?;
        Self::parse(&text).ok_or_else(|| {
            let first = text.lines().next().unwrap_or_default();
            format!("systemctl --version: expected \"systemd VERSION\", found {first:?}")
        })
    }

    /// `systemd 257 (257.13-1~deb13u1)` or `systemd 258~rc1 (…)`, and more lines.
    pub fn parse(text: &str) -> Option<Self> {
        let number = text.strip_prefix("systemd ")?;
        let end = number.find(|c: char| !c.is_ascii_digit())?;
        number[..end].parse().ok().map(Self)
    }
}

/// The standard output of a program with these arguments. If it fails, a message with the lines of its standard error.
pub fn output(program: &str, arguments: &[&str]) -> Result<String, String> {
    let failed = |why: &str| format!("{program} {}: {why}", arguments.join(" "));
    let output = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C.UTF-8")
        .env("SYSTEMD_COLORS", "0")
        .env("SYSTEMD_PAGER", "")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(&error.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().collect::<Vec<_>>().join("; ");
        return Err(match said.as_str() {
            "" => failed(&output.status.to_string()),
            said => failed(said),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The standard output of `systemctl` with these arguments. `command`: the command of this program that runs it.
pub fn systemctl(command: &'static str, arguments: &[&str]) -> Result<String> {
    output("systemctl", arguments).map_err(|why| Error::CannotDo { command, why })
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

/// Whether a unit is active, and no active unit wants it.
pub fn is_unneeded(command: &'static str, unit: &str) -> Result<bool> {
    if !is_active(command, unit)? {
        return Ok(false);
    }
    for other in property(command, unit, WANTED_BY)?.split_whitespace() {
        if is_active(command, other)? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_fails_says_why() {
        let shell = |script| output("sh", &["-c", script]);
        assert_eq!(shell("echo 1"), Ok("1\n".to_owned()));
        let failed = shell("echo no bus >&2; echo more >&2; exit 1").unwrap_err();
        assert!(failed.ends_with("exit 1: no bus; more"), "{failed}");
        let silent = shell("exit 3").unwrap_err();
        assert!(silent.ends_with("exit status: 3"), "{silent}");
        let absent = output("/nonexistent/systemctl", &["--version"]).unwrap_err();
        assert!(
            absent.starts_with("/nonexistent/systemctl --version: No such file"),
            "{absent}"
        );
    }

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
