//! Processor architectures: Go's names in registries, systemd's in file names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

/// OCI's name (Go's GOARCH), systemd's (`systemd-analyze architectures`), Rust's (`std::env::consts`), and what
/// else publishers write: the names of uname(2) and of Debian.
const NAMES: [(&str, &str, &str, &[&str]); 10] = [
    ("amd64", "x86-64", "x86_64", &["x86_64"]),
    ("arm64", "arm64", "aarch64", &["aarch64"]),
    (
        "arm",
        "arm",
        "arm",
        &["armv7l", "armv7hl", "armv6l", "armhf", "armel"],
    ),
    ("386", "x86", "x86", &["i386", "i486", "i586", "i686"]),
    ("ppc64le", "ppc64-le", "powerpc64", &["ppc64el"]),
    ("ppc64", "ppc64", "powerpc64", &[]),
    ("riscv64", "riscv64", "riscv64", &[]),
    ("loong64", "loongarch64", "loongarch64", &[]),
    ("mips64le", "mips64-le", "mips64", &["mips64el"]),
    ("s390x", "s390x", "s390x", &[]),
];

/// An architecture in systemd's spelling, which `%a` in a transfer file stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Architecture(Row);

/// Its row in [`NAMES`].
type Row = usize;

impl Architecture {
    /// This machine's; `None` on one that systemd or OCI has no name for.
    pub fn of_this_machine() -> Option<Self> {
        let big = cfg!(target_endian = "big");
        let rust = std::env::consts::ARCH;
        NAMES
            .iter()
            .position(|(oci, _, name, _)| *name == rust && !(big && oci.ends_with("le")))
            .map(Self)
    }

    /// The one that a registry means by this name: Go's, as the specification asks for, or that of uname, of
    /// Debian or of systemd, as some publishers write.
    pub fn of_oci(name: &str) -> Option<Self> {
        (0..NAMES.len())
            .map(Self)
            .find(|one| one.names().any(|known| known == name))
    }

    /// The one whose name a file's name or a tag ends in, in any spelling, and what is before it:
    /// `strace-30.3` and x86-64 of `strace-30.3.x86-64`.
    pub fn at_end_of(text: &str) -> Option<(&str, Self)> {
        (0..NAMES.len()).map(Self).find_map(|one| {
            one.names().find_map(|name| {
                let rest = text.strip_suffix(name)?;
                // `1.386` is a version.
                let separators: &[char] = match name.parse::<u32>() {
                    Ok(_) => &['-', '_'],
                    Err(_) => &['-', '.', '_'],
                };
                Some((rest.strip_suffix(separators)?, one))
            })
        })
    }

    /// Every name of it.
    fn names(self) -> impl Iterator<Item = &'static str> {
        let (oci, systemd, _, others) = NAMES[self.0];
        [oci, systemd].into_iter().chain(others.iter().copied())
    }

    /// systemd's name.
    pub fn as_str(self) -> &'static str {
        NAMES[self.0].1
    }
}

/// Their names in a sentence.
pub fn join(architectures: &[Architecture]) -> String {
    let names = architectures.iter().map(|one| one.as_str());
    names.collect::<Vec<_>>().join(", ")
}

impl FromStr for Architecture {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(row) = NAMES.iter().position(|row| row.1 == text) {
            return Ok(Self(row));
        }
        let known: Vec<_> = NAMES.iter().map(|row| row.1).collect();
        Err(match Self::of_oci(text) {
            Some(known) => format!(
                "architecture {text:?} is spelled {:?} by systemd",
                known.as_str()
            ),
            None => format!(
                "architecture {text:?} is unknown, expected one of {}",
                known.join(", ")
            ),
        })
    }
}

impl TryFrom<String> for Architecture {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl Serialize for Architecture {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_speak_systemds_names() {
        assert_eq!("x86-64".parse::<Architecture>().unwrap().as_str(), "x86-64");
        assert_eq!(
            "amd64".parse::<Architecture>().unwrap_err(),
            r#"architecture "amd64" is spelled "x86-64" by systemd"#
        );
        assert!(
            "z80"
                .parse::<Architecture>()
                .unwrap_err()
                .contains("expected one of x86-64, arm64")
        );
    }

    #[test]
    fn registries_speak_gos_names_and_others() {
        for (name, expected) in [
            ("amd64", Some("x86-64")),
            ("ppc64le", Some("ppc64-le")),
            ("x86_64", Some("x86-64")),
            ("aarch64", Some("arm64")),
            ("armhf", Some("arm")),
            ("i686", Some("x86")),
            ("x86-64", Some("x86-64")),
            ("AMD64", None),
            ("", None),
        ] {
            let found = Architecture::of_oci(name).map(Architecture::as_str);
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn names_of_files_end_in_them() {
        for (stem, expected) in [
            ("strace-30.3.x86-64", Some(("strace-30.3", "x86-64"))),
            ("k8s-v1-arm64", Some(("k8s-v1", "arm64"))),
            ("k8s-v1-ppc64-le", Some(("k8s-v1", "ppc64-le"))),
            ("fedora-45-x86_64", Some(("fedora-45", "x86-64"))),
            ("1.0.0-amd64", Some(("1.0.0", "x86-64"))),
            ("v5_aarch64", Some(("v5", "arm64"))),
            ("v1-386", Some(("v1", "x86"))),
            ("1.386", None),
            ("charm", None),
            ("arm64", None),
        ] {
            assert_eq!(
                Architecture::at_end_of(stem).map(|(rest, found)| (rest, found.as_str())),
                expected,
                "{stem}"
            );
        }
    }

    #[test]
    fn this_machine_has_a_name() {
        assert!(Architecture::of_this_machine().is_some());
    }
}
