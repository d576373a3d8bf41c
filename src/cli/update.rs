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
/// `RuntimeDirectory=` of the unit.
const RUNTIME_DIRECTORY: &str = "/run/sysext-oci-proxy-update";
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

/// Notes that extensions may have changed since they were last merged, so that the next run merges them if this one is
/// interrupted. Each kind has a note for each component: updates of several run at the same time.
struct Notes {
    directory: Dir,
    component: String,
    /// The units of those kinds that an earlier run has left unmerged.
    earlier: Vec<&'static str>,
}

impl Notes {
    /// Writes the notes of a component.
    fn write(directory: Dir, component: &Component) -> Result<Self> {
        let mut notes = Self {
            directory,
            component: component.to_string(),
            earlier: Vec::new(),
        };
        for kind in &KINDS {
            let name = notes.name(kind);
            if notes.directory.entry(&name).is_some() {
                notes.earlier.push(kind.unit);
            }
            let written = notes.directory.lock_file(&name);
            written.map_err(Error::file(&notes.directory.path_of(&name)))?;
        }
        Ok(notes)
    }

    fn name(&self, kind: &Kind) -> String {
        format!("{}.{}", self.component, kind.unit)
    }

    /// Removes the note of a kind. Another run for the same component may have removed it.
    fn remove(&self, kind: &Kind) -> Result<()> {
        let name = self.name(kind);
        match self.directory.remove(&name) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(Error::file(&self.directory.path_of(&name))),
        }
    }
}

/// Updates a component by systemd-sysupdate, and has changed extensions merged.
pub fn update(root: &Path, component: &Component) -> Result<()> {
    let program = sysupdate(root, env::var_os("PATH").as_deref())?;
    let before = images_of_all(root)?;
    let named = env::var_os("RUNTIME_DIRECTORY").filter(|named| !named.is_empty());
    let path = named.map_or_else(|| RUNTIME_DIRECTORY.into(), PathBuf::from);
    let directory = Dir::create(&path).map_err(Error::file(&path))?;
    let notes = Notes::write(directory, component)?;
    let updated = update_by(&program, &component.to_string());
    // A failed update may have installed something, too. It is not reported to the socket.
    let merge_rest = || {
        let is_reported = updated.is_ok() && systemd::is_active(COMMAND, systemd::NOTIFIED)?;
        let after = images_of_all(root)?;
        let before = if is_reported { &after } else { &before };
        merge_changed(before, &after, &notes, merge)
    };
    let merged = merge_rest();
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

/// Has those kinds of extensions merged that are others than before, and those that an earlier run has left unmerged.
/// A note stays until its kind is merged.
fn merge_changed(
    before: &[Images],
    after: &[Images],
    notes: &Notes,
    merge: impl Fn(&Kind) -> Result<()>,
) -> Result<()> {
    let mut result = Ok(());
    for (kind, (before, after)) in KINDS.iter().zip(before.iter().zip(after)) {
        let is_due = before != after || notes.earlier.contains(&kind.unit);
        let merged = if is_due { merge(kind) } else { Ok(()) };
        result = result.and(merged.and_then(|()| notes.remove(kind)));
    }
    result
}

/// Has extensions merged.
fn merge(kind: &Kind) -> Result<()> {
    print(&format!(
        "Extensions have changed, reloading {}.\n",
        kind.unit
    ))?;
    systemd::systemctl(COMMAND, &["reload-or-restart", kind.unit])?;
    Ok(())
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
    let fixed = systemd::SYSUPDATE.iter().map(|place| root.join(place));
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
            let Some(file) = leads_to(&image)? else {
                continue;
            };
            if image.extension().is_some_and(|ending| ending == "v") {
                let versions = entries(&image)?;
                found.extend(versions.into_iter().map(|version| (image.clone(), version)));
            }
            found.insert((image, file));
        }
    }
    Ok(found)
}

/// The entries of a directory; none if there is no such directory. systemd-sysupdate and others give a file that is not
/// complete, and a link that is not in place, a name with a leading dot.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> io::Result<Vec<_>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if !entry.file_name().as_encoded_bytes().starts_with(b".") {
                found.push(entry.path());
            }
        }
        Ok(found)
    };
    match read() {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        read => read.map_err(Error::file(directory)),
    }
}

/// The file that a path leads to; what a link says if it leads nowhere; nothing if the path was removed meanwhile.
fn leads_to(path: &Path) -> Result<Option<PathBuf>> {
    match path.canonicalize().or_else(|_| path.read_link()) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        file => file.map(Some).map_err(Error::file(path)),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
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
        root.file("var/lib/extensions/b.raw.v/.sysupdate.partial.b_3.raw");
        root.link("var/lib/extensions/.#a.raw1234", &second);
        changed("files that are not complete", [false, false]);
        fs::remove_file(root.0.join("var/lib/confexts/e.raw")).unwrap();
        root.file("run/extensions/f.raw");
        changed("both", [true, true]);
    }

    #[test]
    fn an_image_that_is_removed_meanwhile_is_none() {
        let root = Root::new("removed");
        assert_eq!(leads_to(&root.0.join("a.raw")).unwrap(), None);
        root.link("b.raw", Path::new("b_1.raw"));
        let found = leads_to(&root.0.join("b.raw")).unwrap();
        assert_eq!(found, Some("b_1.raw".into()));
    }

    /// An update of a component in the middle: its notes are written.
    fn running(root: &Root, component: &str) -> Notes {
        let directory = Dir::create(&root.0.join("notes")).unwrap();
        Notes::write(directory, &component.parse().unwrap()).unwrap()
    }

    /// The units that are reloaded at the end of an update.
    fn ended(notes: &Notes, before: &[Images], after: &[Images]) -> Vec<&'static str> {
        let reloaded = RefCell::new(Vec::new());
        let merge = |kind: &Kind| {
            reloaded.borrow_mut().push(kind.unit);
            Ok(())
        };
        merge_changed(before, after, notes, merge).unwrap();
        reloaded.into_inner()
    }

    #[test]
    fn what_an_interrupted_update_has_left_is_merged_by_the_next() {
        let root = Root::new("interrupted");
        let before = images_of_all(&root.0).unwrap();
        root.file("var/lib/extensions/a.raw");
        let after = images_of_all(&root.0).unwrap();
        let both = [KINDS[0].unit, KINDS[1].unit];

        assert_eq!(ended(&running(&root, "a"), &after, &after), [""; 0]);
        assert_eq!(ended(&running(&root, "a"), &before, &after), [both[0]]);
        assert_eq!(ended(&running(&root, "a"), &after, &after), [""; 0]);
        // Interrupted before it has seen a change.
        drop(running(&root, "a"));
        assert_eq!(ended(&running(&root, "b"), &after, &after), [""; 0]);
        assert_eq!(ended(&running(&root, "a"), &after, &after), both);
        assert_eq!(ended(&running(&root, "a"), &after, &after), [""; 0]);
        // One kind cannot be merged.
        let fails = |kind: &Kind| match kind.unit == both[0] {
            true => run(&mut Command::new("false")),
            false => Ok(()),
        };
        merge_changed(&before, &after, &running(&root, "a"), fails).unwrap_err();
        assert_eq!(ended(&running(&root, "a"), &after, &after), [both[0]]);
    }

    #[test]
    fn two_updates_at_once_keep_each_others_notes() {
        let root = Root::new("at-once");
        let before = images_of_all(&root.0).unwrap();
        root.file("var/lib/extensions/a.raw");
        let after = images_of_all(&root.0).unwrap();
        let names = || {
            let entries = Dir::open(&root.0.join("notes")).unwrap().entries().unwrap();
            entries.len()
        };
        let (a, b) = (running(&root, "a"), running(&root, "b"));
        assert_eq!(names(), 4);
        // The other has seen no change, and ends before this one has merged.
        assert_eq!(ended(&b, &after, &after), [""; 0]);
        assert_eq!(names(), 2);
        assert_eq!(ended(&a, &before, &after), [KINDS[0].unit]);
        assert_eq!(names(), 0);
        // The same component twice: the first removes the notes.
        let (one, other) = (running(&root, "a"), running(&root, "a"));
        ended(&one, &before, &after);
        ended(&other, &before, &after);
        assert_eq!(names(), 0);
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
            "usr/libexec/systemd-sysupdate",
            "usr/libexec/systemd/systemd-sysupdate",
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
