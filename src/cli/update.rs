//! The hidden command `update`, which `sysext-oci-proxy-update@.service` runs: one component is updated, and extensions
//! are merged again if they are others than before.
//!
//! Until systemd 258 `systemd-sysext refresh` mounts `/usr` anew even if nothing has changed, so it is asked for only
//! after a change. What has changed is seen where systemd-sysext itself looks, whatever the transfer files say.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, iter};

use super::output::print;
use super::systemd;
use super::transfer::Component;
use crate::dir::Dir;
use crate::error::{Error, Result};

/// The name of the command, for errors.
const COMMAND: &str = "update";
/// Where systemd 257 and 262, and other versions, have their program. After these `$PATH` is searched.
const SYSUPDATE: [&str; 2] = [
    "usr/lib/systemd/systemd-sysupdate",
    "usr/bin/systemd-sysupdate",
];
/// `RuntimeDirectory=` of the unit.
const RUNTIME_DIRECTORY: &str = "/run/sysext-oci-proxy-update";
/// From systemd 262 on systemd-sysupdate reports a completed update to this socket, and waits until systemd-sysext has
/// merged what there is.
const NOTIFIED: &str = "systemd-sysupdate-notify-sysext.socket";

/// A kind of extensions.
struct Kind {
    /// The unit that merges them: it does so when it is reloaded, as the administrator has set it up.
    unit: &'static str,
    /// Where they are, by systemd-sysext(8); without those below `/usr`, which cannot be written to while it is merged.
    directories: &'static [&'static str],
}

const KINDS: [Kind; 2] = [
    Kind {
        unit: "systemd-sysext.service",
        directories: &["etc/extensions", "run/extensions", "var/lib/extensions"],
    },
    Kind {
        unit: "systemd-confext.service",
        directories: &["run/confexts", "var/lib/confexts"],
    },
];

/// The images of a kind: paths, and the files that they lead to.
type Images = BTreeSet<(PathBuf, PathBuf)>;

/// Updates a component by systemd-sysupdate, and has changed extensions merged.
pub fn update(root: &Path, component: &Component) -> Result<()> {
    let program = sysupdate(root, env::var_os("PATH").as_deref())?;
    let before = images_of_all(root)?;
    let updated = update_by(&program, &component.to_string());
    // A failed update may have installed something, too.
    let merged = merge_changed(root, &before);
    updated.and(merged)
}

/// Runs systemd-sysupdate. Where it fails, it is run once more without what is left of an interrupted download: for
/// that systemd 262 refuses every later update.
fn update_by(program: &Path, component: &str) -> Result<()> {
    let sysupdate = |verb| run(Command::new(program).args(["-C", component, verb]));
    let Err(error) = sysupdate("update") else {
        return Ok(());
    };
    print(&format!("{}\nTrying once more.\n", error.line()))?;
    sysupdate("vacuum")?;
    sysupdate("update")
}

/// Has those kinds of extensions merged that are others than before, and those that could not be merged the last time.
fn merge_changed(root: &Path, before: &[Images]) -> Result<()> {
    if systemd::is_active(COMMAND, NOTIFIED)? {
        return Ok(());
    }
    let after = images_of_all(root)?;
    let named = env::var_os("RUNTIME_DIRECTORY").filter(|named| !named.is_empty());
    let path = named.map_or_else(|| RUNTIME_DIRECTORY.into(), PathBuf::from);
    let notes = Dir::create(&path).map_err(Error::file(&path))?;
    let mut result = Ok(());
    for (kind, (before, after)) in KINDS.iter().zip(before.iter().zip(&after)) {
        if before != after || notes.entry(kind.unit).is_some() {
            result = result.and(merge(kind, &notes));
        }
    }
    result
}

/// Has extensions merged, and keeps a note until that has worked.
fn merge(kind: &Kind, notes: &Dir) -> Result<()> {
    let error = Error::file(&notes.path_of(kind.unit));
    notes.lock_file(kind.unit).map_err(&error)?;
    print(&format!(
        "Extensions have changed, reloading {}.\n",
        kind.unit
    ))?;
    systemd::systemctl(COMMAND, &["reload-or-restart", kind.unit])?;
    notes.remove(kind.unit).map_err(&error)
}

/// Runs a program, whose own messages say why it fails.
fn run(command: &mut Command) -> Result<()> {
    let cannot = |line, why| Error::CannotDo {
        command: COMMAND,
        why: format!("{line}: {why}"),
    };
    let words = iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    let line = words.join(" ");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(cannot(line, format!("{status}, for the reason above"))),
        Err(error) => Err(cannot(line, error.to_string())),
    }
}

/// The program of systemd-sysupdate.
fn sysupdate(root: &Path, path: Option<&OsStr>) -> Result<PathBuf> {
    let fixed = SYSUPDATE.iter().map(|place| root.join(place));
    let in_path = path.into_iter().flat_map(env::split_paths);
    let mut places = fixed.chain(in_path.map(|directory| directory.join("systemd-sysupdate")));
    places.find(|place| place.is_file()).ok_or_else(|| Error::CannotDo {
        command: COMMAND,
        why: "systemd-sysupdate is neither in /usr/lib/systemd nor in $PATH; install it (Debian has it in the package \
              systemd-container)"
            .to_owned(),
    })
}

fn images_of_all(root: &Path) -> Result<Vec<Images>> {
    KINDS.iter().map(|kind| images(root, kind)).collect()
}

/// The images of a kind. In a directory `NAME.v` systemd takes the newest, so what is in it counts (systemd.v(7)).
fn images(root: &Path, kind: &Kind) -> Result<Images> {
    let mut found = Images::new();
    for directory in kind.directories {
        for image in entries(&root.join(directory))? {
            let file = leads_to(&image)?;
            if image.extension().is_some_and(|ending| ending == "v") {
                let versions = entries(&image)?;
                found.extend(versions.into_iter().map(|version| (image.clone(), version)));
            }
            found.insert((image, file));
        }
    }
    Ok(found)
}

/// The entries of a directory; none if there is no such directory.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> io::Result<Vec<_>> {
        let read = fs::read_dir(directory)?;
        read.map(|entry| Ok(entry?.path())).collect()
    };
    match read() {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        read => read.map_err(Error::file(directory)),
    }
}

/// The file that a path leads to; what a link says if it leads nowhere.
fn leads_to(path: &Path) -> Result<PathBuf> {
    let file = path.canonicalize().or_else(|_| path.read_link());
    file.map_err(Error::file(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process;

    use super::*;

    /// The root of a machine, which goes when the test ends.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> Self {
            let name = format!("sysext-oci-proxy-update-{name}-{}", process::id());
            let path = env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            Self(path.canonicalize().unwrap())
        }

        /// A file with this path, whose directories are made.
        fn file(&self, path: &str) -> PathBuf {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            path
        }

        /// A link that leads to another place now.
        fn link(&self, path: &str, to: &Path) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let _ = fs::remove_file(&path);
            symlink(to, path).unwrap();
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_change_is_what_systemd_would_merge_otherwise() {
        let root = Root::new("images");
        let first = root.file("var/lib/extensions.d/a/a_1.raw");
        let second = root.file("var/lib/extensions.d/a/a_2.raw");
        let mut before = images_of_all(&root.0).unwrap();
        let mut changed = |why: &str, expected: [bool; 2]| {
            let after = images_of_all(&root.0).unwrap();
            let found: Vec<_> = before.iter().zip(&after).map(|(b, a)| b != a).collect();
            assert_eq!(found, expected, "{why}");
            before = after;
        };
        changed("nothing", [false, false]);
        root.link("var/lib/extensions/a.raw", &first);
        changed("a first link", [true, false]);
        root.link("var/lib/extensions/a.raw", &second);
        changed("the link leads to another file", [true, false]);
        root.file("var/lib/extensions.d/a/a_3.raw");
        changed("a file that no link leads to", [false, false]);
        root.link("var/lib/extensions/gone.raw", Path::new("gone_1.raw"));
        changed("a link that leads nowhere", [true, false]);
        root.file("var/lib/extensions/b.raw.v/b_1.raw");
        changed("a first file in a directory of versions", [true, false]);
        root.file("var/lib/extensions/b.raw.v/b_2.raw");
        changed("a second one", [true, false]);
        root.file("var/lib/extensions/c/usr/share/c");
        changed("a directory", [true, false]);
        root.file("var/lib/extensions/c/usr/share/d");
        changed("what is in a directory", [false, false]);
        root.file("var/lib/confexts/e.raw");
        changed("a confext", [false, true]);
        fs::remove_file(root.0.join("var/lib/confexts/e.raw")).unwrap();
        root.file("run/extensions/f.raw");
        changed("both", [true, true]);
    }

    #[test]
    fn the_program_of_systemd_is_found_where_its_versions_have_it() {
        let root = Root::new("program");
        let path = env::join_paths([root.0.join("empty"), root.0.join("opt")]).unwrap();
        let found = |path| sysupdate(&root.0, path);
        let error = found(Some(&path)).unwrap_err().to_string();
        assert!(error.contains("systemd-container"), "{error}");
        for place in [
            "opt/systemd-sysupdate",
            "usr/bin/systemd-sysupdate",
            "usr/lib/systemd/systemd-sysupdate",
        ] {
            let program = root.file(place);
            assert_eq!(found(Some(&path)).unwrap(), program);
        }
    }

    #[test]
    fn a_failure_names_the_command_that_was_run() {
        run(&mut Command::new("true")).unwrap();
        let error = run(Command::new("false").args(["-C", "a"])).unwrap_err();
        let error = error.to_string();
        assert!(
            error.starts_with("update: false -C a: exit status: 1,"),
            "{error}"
        );
        let error = run(&mut Command::new("/nowhere")).unwrap_err().to_string();
        assert!(error.contains("/nowhere: No such file"), "{error}");
    }
}
