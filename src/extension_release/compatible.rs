//! Decides whether systemd would merge an extension on this host, by systemd's own rules: extension_release_validate()
//! in src/shared/extension-util.c, as systemd-sysext and systemd-confext call it.
//!
//! The rules are those of systemd 262. systemd 257 differs in one: it refuses an extension for an OS that is only in
//! the host's `ID_LIKE`. Such an extension counts as compatible, because the version of systemd is not known here.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{Metadata, assignments};
use crate::error::{Error, Result};
use crate::platform::Architecture;

/// The files of os-release(5) below the root directory; the first one that exists counts.
const OS_RELEASE: [&str; 2] = ["etc/os-release", "usr/lib/os-release"];
/// Suffixes of extensions: images and archives. A compression may follow.
const IMAGES: [&str; 3] = [".raw", ".img", ".tar"];
const PACKED: [&str; 4] = [".gz", ".xz", ".zst", ".bz2"];
/// Matches every host.
const ANY: &str = "_any";
/// The scope of a merged extension, and the default scopes of an extension.
const SCOPE: &str = "system";
const DEFAULT_SCOPES: &str = "system portable";

/// The host, as its os-release(5) describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    /// The fields of its os-release(5).
    fields: BTreeMap<String, String>,
    architecture: Option<Architecture>,
}

/// The directories that an extension extends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// `/usr` and `/opt`
    System,
    /// `/etc`
    Configuration,
}

impl Kind {
    /// By the name of a file; `None` if it is not an extension. Both kinds have the same suffixes; a configuration
    /// extension has `.confext` before it.
    pub fn of_name(name: &str) -> Option<Self> {
        let name = PACKED
            .iter()
            .find_map(|end| name.strip_suffix(end))
            .unwrap_or(name);
        let stem = IMAGES.iter().find_map(|end| name.strip_suffix(end))?;
        if stem.ends_with(".confext") {
            Some(Self::Configuration)
        } else {
            Some(Self::System)
        }
    }
}

impl Host {
    /// From the text of its os-release(5).
    pub fn parse(text: &str, architecture: Option<Architecture>) -> Self {
        Self {
            fields: assignments(text).into_iter().collect(),
            architecture,
        }
    }

    /// A field; empty if it is not set.
    fn get(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    /// This machine, with its root directory at `root`.
    pub fn read(root: &Path) -> Result<Self> {
        let mut missing = io::Error::from(io::ErrorKind::NotFound);
        for path in OS_RELEASE.map(|path| root.join(path)) {
            match fs::read_to_string(&path) {
                Ok(text) => return Ok(Self::parse(&text, Architecture::of_this_machine())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => missing = error,
                Err(cause) => {
                    let cause = Arc::new(cause);
                    return Err(Error::File { path, cause });
                }
            }
        }
        Err(Error::File {
            path: root.join(OS_RELEASE[0]),
            cause: Arc::new(missing),
        })
    }
}

/// Why the host would refuse an extension with these fields; `None` if it would merge it.
pub fn mismatch(host: &Host, extension: &Metadata, kind: Kind) -> Option<String> {
    let (level, scope) = match kind {
        Kind::System => ("SYSEXT_LEVEL", "SYSEXT_SCOPE"),
        Kind::Configuration => ("CONFEXT_LEVEL", "CONFEXT_SCOPE"),
    };
    let (host_id, host_level, host_version) =
        (host.get("ID"), host.get(level), host.get("VERSION_ID"));
    let scopes = extension.get(scope).unwrap_or(DEFAULT_SCOPES);
    if !scopes.split_whitespace().any(|one| one == SCOPE) {
        return Some(format!("it is for the scope {scopes}, not for {SCOPE}"));
    }
    let architecture = extension.get("ARCHITECTURE").filter(|one| *one != ANY);
    if let (Some(found), Some(own)) = (architecture, host.architecture)
        && found != own.as_str()
    {
        return Some(format!("it is for {found}, and this machine is {own}"));
    }
    let Some(id) = extension.get("ID") else {
        return Some("it does not say for which ID it is".into());
    };
    if id == ANY {
        return None;
    }
    let mut like = host.get("ID_LIKE").split_whitespace();
    if id != host_id && !like.any(|like| like == id) {
        return Some(format!("it is for {id}, and this system is {host_id}"));
    }
    match extension.get(level) {
        Some(found) if !host_level.is_empty() => (found != host_level)
            .then(|| format!("it is for {level} {found}, and this system has {host_level}")),
        // Rolling releases have no version.
        _ if host_version.is_empty() => None,
        _ => match extension.get("VERSION_ID") {
            Some(found) if found == host_version => None,
            Some(found) => Some(format!(
                "it is for {id} {found}, and this system is {host_version}"
            )),
            None => Some(format!("it does not say for which version of {id} it is")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEDORA: &str = "ID=fedora\nVERSION_ID=42\nSYSEXT_LEVEL=2\nCONFEXT_LEVEL=7\n";
    const DEBIAN: &str = "ID=debian\nVERSION_ID=\"13\"\n";
    const UBUNTU: &str = "ID=ubuntu\nID_LIKE=\"something debian\"\nVERSION_ID=\"13\"\n";
    const ARCH: &str = "ID=arch\n";
    const LEVEL_ALONE: &str = "ID=flatcar\nSYSEXT_LEVEL=1.0\n";

    fn why(host: &str, extension: &str, kind: Kind) -> Option<String> {
        let host = Host::parse(host, "x86-64".parse().ok());
        mismatch(&host, &Metadata::of_extension_release(extension), kind)
    }

    /// Each row is a branch of extension_release_validate(), in its order.
    #[test]
    fn extensions_are_judged_as_systemd_does() {
        for (host, extension, expected) in [
            // "carries no release data", "does not contain ID in release file"
            (FEDORA, "", Some("it does not say for which ID it is")),
            (
                FEDORA,
                "VERSION_ID=42",
                Some("it does not say for which ID it is"),
            ),
            // "is not suitable for scope": system and portable by default
            (FEDORA, "ID=_any\nSYSEXT_SCOPE=\"system initrd\"", None),
            (
                FEDORA,
                "ID=_any\nSYSEXT_SCOPE=\"initrd portable\"",
                Some("it is for the scope initrd portable, not for system"),
            ),
            (FEDORA, "ID=_any\nCONFEXT_SCOPE=initrd", None),
            // "is for architecture …, but deployed on top of"
            (FEDORA, "ID=_any\nARCHITECTURE=x86-64", None),
            (FEDORA, "ID=_any\nARCHITECTURE=_any", None),
            (
                FEDORA,
                "ID=_any\nARCHITECTURE=arm64",
                Some("it is for arm64, and this machine is x86-64"),
            ),
            // "matches '_any' OS": VERSION_ID and SYSEXT_LEVEL don't matter
            (FEDORA, "ID=_any\nVERSION_ID=1\nSYSEXT_LEVEL=9", None),
            // "is for OS …, but deployed on top of": ID, or since 258 ID_LIKE
            (
                DEBIAN,
                "ID=fedora",
                Some("it is for fedora, and this system is debian"),
            ),
            (UBUNTU, "ID=ubuntu\nVERSION_ID=13", None),
            (UBUNTU, "ID=debian\nVERSION_ID=13", None),
            (
                UBUNTU,
                "ID=some",
                Some("it is for some, and this system is ubuntu"),
            ),
            // "No version info on the host (rolling release?)"
            (ARCH, "ID=arch", None),
            (ARCH, "ID=arch\nVERSION_ID=1\nSYSEXT_LEVEL=1", None),
            // "is for API level …, but running on API level": where both have one
            (FEDORA, "ID=fedora\nSYSEXT_LEVEL=2\nVERSION_ID=41", None),
            (
                FEDORA,
                "ID=fedora\nSYSEXT_LEVEL=3\nVERSION_ID=42",
                Some("it is for SYSEXT_LEVEL 3, and this system has 2"),
            ),
            (DEBIAN, "ID=debian\nSYSEXT_LEVEL=3\nVERSION_ID=13", None),
            // "does not contain VERSION_ID in release file", and another one
            (FEDORA, "ID=fedora\nVERSION_ID=42", None),
            (
                FEDORA,
                "ID=fedora\nVERSION_ID=41",
                Some("it is for fedora 41, and this system is 42"),
            ),
            (
                FEDORA,
                "ID=fedora",
                Some("it does not say for which version of fedora it is"),
            ),
            // A host with a level and no version takes what has no level.
            (LEVEL_ALONE, "ID=flatcar", None),
            (LEVEL_ALONE, "ID=flatcar\nSYSEXT_LEVEL=1.0", None),
            (
                LEVEL_ALONE,
                "ID=flatcar\nSYSEXT_LEVEL=2.0",
                Some("it is for SYSEXT_LEVEL 2.0, and this system has 1.0"),
            ),
        ] {
            let found = why(host, extension, Kind::System);
            assert_eq!(found.as_deref(), expected, "{extension:?} on {host:?}");
        }
    }

    #[test]
    fn configuration_has_its_own_level_and_scope() {
        let confext = Kind::Configuration;
        for (extension, expected) in [
            ("ID=fedora\nCONFEXT_LEVEL=7\nSYSEXT_LEVEL=9", None),
            (
                "ID=fedora\nCONFEXT_LEVEL=2\nSYSEXT_LEVEL=2",
                Some("it is for CONFEXT_LEVEL 2, and this system has 7"),
            ),
            ("ID=_any\nSYSEXT_SCOPE=initrd", None),
            (
                "ID=_any\nCONFEXT_SCOPE=portable",
                Some("it is for the scope portable, not for system"),
            ),
        ] {
            let found = why(FEDORA, extension, confext);
            assert_eq!(found.as_deref(), expected, "{extension:?}");
        }
    }

    #[test]
    fn a_name_tells_whether_it_is_an_extensions() {
        for (name, expected) in [
            ("a-1.raw", Some(Kind::System)),
            ("a-1.sysext.raw", Some(Kind::System)),
            ("a-1.confext.raw", Some(Kind::Configuration)),
            ("a-1.confext.raw.xz", Some(Kind::Configuration)),
            ("a-1.img.zst", Some(Kind::System)),
            ("a-1.tar.gz", Some(Kind::System)),
            ("a-1.efi", None),
            ("a-1.vmlinuz.gz", None),
            ("a-1.raw.roothash", None),
            ("latest.json", None),
        ] {
            assert_eq!(Kind::of_name(name), expected, "{name}");
        }
    }

    #[test]
    fn a_machine_that_systemd_has_no_name_for_takes_every_architecture() {
        let extension = Metadata::of_extension_release("ID=_any\nARCHITECTURE=arm64");
        let host = Host::parse(FEDORA, None);
        assert_eq!(mismatch(&host, &extension, Kind::System), None);
    }

    #[test]
    fn a_host_says_in_etc_or_in_usr_what_it_is() {
        let root =
            std::env::temp_dir().join(format!("sysext-oci-proxy-host-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        fs::create_dir_all(&root).unwrap();
        assert!(Host::read(&root).unwrap_err().line().contains("os-release"));
        write("usr/lib/os-release", DEBIAN);
        assert_eq!(Host::read(&root).unwrap().get("ID"), "debian");
        write("etc/os-release", FEDORA);
        assert_eq!(Host::read(&root).unwrap().get("ID"), "fedora");
        fs::remove_dir_all(&root).unwrap();
    }
}
