//! The mount that a path is on: extensions that are merged cover `/usr`, `/opt` or `/etc`. No I/O.
//!
//! Format: proc_pid_mountinfo(5).

use std::path::{Path, PathBuf};

/// A mounted file system.
#[derive(Clone, Debug, PartialEq)]
pub struct Mount {
    pub at: PathBuf,
    pub is_read_only: bool,
    /// systemd-sysext and systemd-confext mount an overlay that is called after them.
    pub extensions: Option<Extensions>,
}

/// Merged extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extensions {
    System,
    Configuration,
}

impl Extensions {
    /// The program that merged them.
    pub fn program(self) -> &'static str {
        match self {
            Self::System => "systemd-sysext",
            Self::Configuration => "systemd-confext",
        }
    }
}

/// The mount that covers an absolute path without links; `None` if the table has none.
pub fn covering(table: &str, path: &Path) -> Option<Mount> {
    // In the order of the table: a later one covers all that is below its place.
    let mut mounts = table.lines().filter_map(mount);
    mounts.rfind(|mount| path.starts_with(&mount.at))
}

/// `36 35 98:0 /root /at options [optional fields] - type source super-options`
fn mount(line: &str) -> Option<Mount> {
    let (before, behind) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(4);
    let (at, options) = (before.next()?, before.next()?);
    let mut behind = behind.split(' ');
    let (kind, source) = (behind.next()?, behind.next()?);
    let options = options.split(',').chain(behind.next()?.split(','));
    Some(Mount {
        at: PathBuf::from(unescaped(at)),
        is_read_only: options.into_iter().any(|option| option == "ro"),
        extensions: match (kind, source) {
            ("overlay", "sysext") => Some(Extensions::System),
            ("overlay", "confext") => Some(Extensions::Configuration),
            _ => None,
        },
    })
}

/// A path with `\040` for a space, and so for the other characters that would end a column.
fn unescaped(path: &str) -> String {
    const ESCAPES: [(&str, &str); 4] = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    let unescape = |path: String, (escape, text): (&str, &str)| path.replace(escape, text);
    ESCAPES.into_iter().fold(path.to_owned(), unescape)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
        22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n\
        30 22 254:2 / /var rw shared:2 - btrfs /dev/vda2 rw,space_cache\n\
        31 30 254:2 / /var/lib/read\\040only rw - ext4 /dev/vda3 ro\n\
        40 22 0:50 / /usr ro,nodev,relatime shared:3 - overlay sysext ro,lowerdir=/a:/b\n\
        41 22 0:51 / /opt ro,nodev,relatime - overlay sysext ro\n\
        42 22 0:52 / /etc rw,nodev,relatime - overlay confext rw\n\
        43 22 0:53 / /mnt rw - tmpfs tmpfs rw\n\
        44 43 0:54 / /mnt ro - tmpfs tmpfs rw\n\
        45 43 0:55 / /srv/a rw - tmpfs tmpfs rw\n\
        46 43 0:56 / /srv ro - tmpfs tmpfs rw\n\
        garbage\n";

    #[test]
    fn a_path_is_on_the_topmost_mount_around_it() {
        for (path, at, is_read_only, extensions) in [
            ("/home", "/", false, None),
            ("/", "/", false, None),
            ("/var/lib/extensions.d", "/var", false, None),
            ("/variable", "/", false, None),
            ("/var/lib/read only/a", "/var/lib/read only", true, None),
            ("/usr/lib", "/usr", true, Some(Extensions::System)),
            ("/opt/extensions", "/opt", true, Some(Extensions::System)),
            ("/etc/a", "/etc", false, Some(Extensions::Configuration)),
            ("/mnt/a", "/mnt", true, None),
            ("/srv/a/b", "/srv", true, None),
        ] {
            let expected = Mount {
                at: at.into(),
                is_read_only,
                extensions,
            };
            assert_eq!(covering(TABLE, Path::new(path)), Some(expected), "{path}");
        }
        assert_eq!(covering("", Path::new("/")), None);
    }
}
