//! Settings files: where they are, how they are read, and which of them wins.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::{Settings, keys};
use crate::error::{Error, Result};
use crate::name::without_userinfo;

/// The file an administrator writes, below the root directory.
const CONFIG: &str = "etc/sysext-oci-proxy/config.toml";
/// The directories of drop-ins, below the root directory; a file in a later one replaces its namesake.
const DROP_INS: [&str; 3] = [
    "usr/lib/sysext-oci-proxy/config.d",
    "run/sysext-oci-proxy/config.d",
    "etc/sysext-oci-proxy/config.d",
];

/// This one file, or without one those in all the usual places below `root`. Later ones win, key by key.
pub fn all(file: Option<&Path>, root: &Path) -> Result<Vec<PathBuf>> {
    if let Some(file) = file {
        return Ok(vec![file.to_owned()]);
    }
    let mut by_name = BTreeMap::new();
    for directory in DROP_INS {
        let files = files_in(&root.join(directory), "toml")?;
        by_name.extend(
            files
                .into_iter()
                .map(|path| (path.file_name().map(ToOwned::to_owned), path)),
        );
    }
    let config = Some(root.join(CONFIG)).filter(|path| path.symlink_metadata().is_ok());
    Ok(config.into_iter().chain(by_name.into_values()).collect())
}

/// Reads them.
pub fn load(file: Option<&Path>, root: &Path) -> Result<Settings> {
    let mut settings = Settings::default();
    for path in all(file, root)? {
        let text = read_text(&path)?;
        keys::read(&text, &mut settings).map_err(|mistake| Error::BadSettings {
            path,
            line: Some(line_of(text.as_bytes(), mistake.at)),
            why: without_userinfo(&mistake.why),
        })?;
    }
    Ok(settings)
}

/// The files in a directory whose names have this ending, by name. None if it does not exist.
pub fn files_in(directory: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let paths = match fs::read_dir(directory) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect()),
    };
    let mut paths: Vec<PathBuf> = paths.map_err(|cause| unreadable(directory, &cause))?;
    paths.retain(|path| path.extension().is_some_and(|found| found == ending));
    paths.sort();
    Ok(paths)
}

/// The text of a file.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(|cause| unreadable(path, &cause))?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::BadSettings {
            path: path.into(),
            line: Some(line_of(error.as_bytes(), at)),
            why: "this is not text in UTF-8; save the file in that encoding".into(),
        }
    })
}

fn unreadable(path: &Path, cause: &io::Error) -> Error {
    let why = match cause.kind() {
        io::ErrorKind::NotFound if path.is_symlink() => {
            "this is a link to a file that does not exist".into()
        }
        _ => why_unreadable(cause, "`chmod a+rX` it"),
    };
    Error::BadSettings {
        path: path.into(),
        line: None,
        why,
    }
}

/// How the service gets the right to read a file that not all may read.
pub const BY_GROUP: &str =
    "let a group read it, and name that group in SupplementaryGroups= of the service";

/// The reason why a file of the administrator cannot be read. `remedy`: how the service gets the right to read it.
pub fn why_unreadable(cause: &io::Error, remedy: &str) -> String {
    match cause.kind() {
        io::ErrorKind::IsADirectory => "this is a directory, expected a file".into(),
        io::ErrorKind::NotADirectory => "this is a file, expected a directory".into(),
        io::ErrorKind::NotFound => "there is no such file".into(),
        io::ErrorKind::PermissionDenied => {
            format!("not readable by the service, which runs as a user of its own; {remedy}")
        }
        _ => format!("cannot be read: {cause}"),
    }
}

/// The line of a position, counted from 1.
fn line_of(text: &[u8], at: usize) -> usize {
    1 + text.iter().take(at).filter(|b| **b == b'\n').count()
}

/// The line of a mistake, counted from 1, and the message.
pub type TomlMistake = (Option<usize>, String);

/// Reads one TOML file's text.
pub fn parse_toml<T: DeserializeOwned>(text: &str) -> Result<T, TomlMistake> {
    toml::from_str(text).map_err(|error| {
        let line = error
            .span()
            .map(|span| line_of(text.as_bytes(), span.start));
        // The parser's messages may run over several lines; a journal entry is one. They quote values.
        let message: Vec<_> = error.message().split_whitespace().collect();
        (line, without_userinfo(&message.join(" ")))
    })
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use super::*;
    use crate::settings::{RepositorySettings, SourceSetting, Sources};

    /// A directory that goes when the test ends.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let name = format!("sysext-oci-proxy-settings-{name}-{}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn write(&self, path: &str, text: impl AsRef<[u8]>) -> PathBuf {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn with_no_file_the_registry_is_on_localhost() {
        let root = Path::new("/nonexistent");
        let found = Settings::load(None, root).unwrap();
        assert_eq!(found, Settings::default());
        assert_eq!(found.registry.to_string(), "localhost:5000");
    }

    #[test]
    fn later_files_win_key_by_key_and_namesakes_replace_each_other() {
        let scratch = Scratch::new("later");
        let write = |path: &str, text: &str| scratch.write(path, text);
        write(
            CONFIG,
            "registry = \"a.example\"\nparallel = 2\n[repository.r]\nimmutable-tags = true",
        );
        write(
            "usr/lib/sysext-oci-proxy/config.d/10-vendor.toml",
            "registry = \"replaced.example\"",
        );
        write(
            "etc/sysext-oci-proxy/config.d/10-vendor.toml",
            "listing-ttl-sec = 5",
        );
        write(
            "run/sysext-oci-proxy/config.d/20-run.toml",
            "parallel = 3\n[repository.r]\nsource = \"oci:/r\"",
        );
        write("etc/sysext-oci-proxy/config.d/README", "not a setting");
        assert_eq!(
            Settings::load(None, &scratch.0).unwrap(),
            Settings {
                registry: "a.example".parse().unwrap(),
                parallel: NonZeroUsize::new(3).unwrap(),
                listing_ttl: Duration::from_secs(5),
                repositories: [(
                    "r".parse().unwrap(),
                    RepositorySettings {
                        source: Some(Sources::One(SourceSetting::Layout("/r".into()))),
                        immutable_tags: true,
                        ..RepositorySettings::default()
                    }
                )]
                .into(),
                ..Settings::default()
            }
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_is_told_with_its_path() {
        let scratch = Scratch::new("unreadable");
        let told = |path: &Path| {
            let error = Settings::load(Some(path), Path::new("/nonexistent")).unwrap_err();
            let line = error.line();
            let rest = line.strip_prefix(&format!("settings {}", path.display()));
            rest.unwrap_or_else(|| panic!("{line}")).to_owned()
        };
        let file = |text: &[u8]| scratch.write("config.toml", text);
        assert_eq!(
            told(&file(b"parallel = 4\nregistry = \"\xff\"\n")),
            ":2: this is not text in UTF-8; save the file in that encoding"
        );
        // UTF-16, as an editor of Windows saves it.
        assert_eq!(
            told(&file(b"\xff\xfep\0")),
            ":1: this is not text in UTF-8; save the file in that encoding"
        );
        assert_eq!(
            told(&file(b"\nregistry = \"https://user:secret@ghcr.io\"")),
            ":2: registry: \"https://ghcr.io\" must be written without https://; write registry = \"ghcr.io\""
        );
        assert_eq!(told(&scratch.0), ": this is a directory, expected a file");
        assert_eq!(
            told(&scratch.0.join("none.toml")),
            ": there is no such file"
        );
        let link = scratch.0.join("link.toml");
        symlink("nowhere", &link).unwrap();
        assert_eq!(
            told(&link),
            ": this is a link to a file that does not exist"
        );
        scratch.write("etc/sysext-oci-proxy/config.d", "a file");
        assert_eq!(
            Settings::load(None, &scratch.0).unwrap_err().line(),
            format!(
                "settings {}: this is a file, expected a directory",
                scratch.0.join(DROP_INS[2]).display()
            )
        );
    }

    #[test]
    fn a_file_that_may_not_be_read_is_told_with_its_remedy() {
        for (number, expected) in [
            (
                13, // EACCES
                "not readable by the service, which runs as a user of its own; `chmod a+rX` it",
            ),
            (21, "this is a directory, expected a file"), // EISDIR
            (5, "cannot be read: Input/output error (os error 5)"),
        ] {
            let cause = io::Error::from_raw_os_error(number);
            assert_eq!(why_unreadable(&cause, "`chmod a+rX` it"), expected);
        }
    }
}
