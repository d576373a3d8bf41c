//! The policy of container tools: containers-policy.json(5).

use std::env;
use std::ffi::OsString;
use std::io::{
    self,
    ErrorKind::{NotADirectory, NotFound},
};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::read_text;
use super::signers::read_key;
use crate::error::{Error, Result};
use crate::trust::Policy;

/// The paths of the policy, below the root directory, if the user has none.
const FILES: [&str; 2] = [
    "etc/containers/policy.json",
    "usr/share/containers/policy.json",
];

/// Reads the first of its files that there is. `None`: there is none, or it accepts everything.
pub fn load(root: &Path) -> Result<Option<Arc<Policy>>> {
    let [named, xdg, home] = ["CONTAINERS_POLICY_JSON", "XDG_CONFIG_HOME", "HOME"].map(env::var_os);
    find(root, named, xdg, home).map_or(Ok(None), |path| read(root, path))
}

/// The same without the policy of a user.
pub fn load_of_system(root: &Path) -> Result<Option<Arc<Policy>>> {
    find(root, None, None, None).map_or(Ok(None), |path| read(root, path))
}

fn read(root: &Path, path: PathBuf) -> Result<Option<Arc<Policy>>> {
    let json = read_text(&path)?;
    let policy = Policy::parse(&path, json.as_bytes(), |key| read_key(key, root));
    let policy = policy.map_err(|why| Error::BadSettings {
        path,
        line: None,
        why,
    })?;
    Ok(Some(Arc::new(policy)).filter(|policy| !policy.accepts_anything()))
}

/// The file that applies. A file that is named must exist.
fn find(
    root: &Path,
    named: Option<OsString>,
    xdg: Option<OsString>,
    home: Option<OsString>,
) -> Option<PathBuf> {
    let is_given = |name: &OsString| !name.is_empty();
    if let Some(named) = named.filter(is_given) {
        return Some(named.into());
    }
    let xdg = xdg.filter(is_given).map(PathBuf::from);
    let home = home
        .filter(is_given)
        .map(|home| Path::new(&home).join(".config"));
    let own = xdg
        .or(home)
        .map(|config| config.join("containers/policy.json"));
    let all = own.into_iter().chain(FILES.map(|file| root.join(file)));
    // One that may be there and cannot be looked at is the error of its reader, not another policy.
    let is_absent = |error: io::Error| matches!(error.kind(), NotFound | NotADirectory);
    all.into_iter()
        .find(|path| !path.symlink_metadata().is_err_and(is_absent))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_that_cannot_be_looked_at_counts_and_one_that_is_not_there_does_not() {
        let root = env::temp_dir().join(format!("sysext-oci-proxy-policy-{}", std::process::id()));
        fs::create_dir_all(root.join("etc/containers")).unwrap();
        let of_system = root.join(FILES[0]);
        fs::write(&of_system, "{}").unwrap();
        fs::write(root.join("file"), "").unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let unseen = root.join("loop/containers/policy.json");
        for (config, expected) in [
            ("none", &of_system),
            ("file", &of_system),
            ("loop", &unseen),
        ] {
            let found = find(&root, None, Some(root.join(config).into()), None);
            assert_eq!(found.as_ref(), Some(expected), "{config}");
        }
        assert!(read(&root, unseen).is_err());
        fs::remove_dir_all(&root).unwrap();
    }
}
