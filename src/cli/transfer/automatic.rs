//! Updates of a component every night, and how all is undone: `--automatic` and `--undo`.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::COMMAND;
use super::component::Component;
use super::others;
use super::record::Record;
use super::text;
use crate::cli::systemd;
use crate::dir::{self, Dir};
use crate::error::{Error, Result};

/// Has a component updated every night. Its transfer files are installed. The result says what was done, a line each.
pub fn enable(component: &Component) -> Result<String> {
    let timer = timer(component);
    if systemd::property(COMMAND, &timer, "LoadState")? == "not-found" {
        return Err(Error::CannotDo {
            command: COMMAND,
            why: format!(
                "{timer} is not installed; `make install` of sysext-oci-proxy installs it, \
                 `systemctl daemon-reload` has systemd read it"
            ),
        });
    }
    systemd::systemctl(COMMAND, &["enable", "--now", &timer])?;
    let next = systemd::property(COMMAND, &timer, "NextElapseUSecRealtime")?;
    Ok(format!(
        "enabled {timer}, which updates next on {next}\n\
         to update now: systemctl start sysext-oci-proxy-update@{component}.service\n"
    ))
}

/// The changes that were undone.
pub struct Undone {
    /// A line each.
    pub said: String,
    /// Whether the timer is disabled now.
    pub disabled: Result<()>,
}

/// Undoes what `--write` and `--automatic` did below `root`. Files are removed also if systemd does not answer.
pub fn undo(root: &Path, component: &Component) -> Result<Undone> {
    let timer = timer(component);
    let disabled = disable(&timer);
    let mut said = match disabled {
        Ok(true) => format!("disabled {timer}\n"),
        _ => String::new(),
    };
    let disabled = disabled.and_then(|was_on| {
        if was_on && stop_notified()? {
            said += &format!("stopped {}, which no other unit needs\n", systemd::NOTIFIED);
        }
        Ok(())
    });
    said += &remove_files(root, &root.join(text::directory(component)))?;
    if said.is_empty() && disabled.is_ok() {
        said = format!("there is nothing to undo for the component {component}\n");
    }
    Ok(Undone { said, disabled })
}

/// Disables a timer. The result is whether it was enabled or active.
fn disable(timer: &str) -> Result<bool> {
    let is_enabled = systemd::property(COMMAND, timer, "UnitFileState")? == "enabled";
    let is_on = is_enabled || systemd::is_active(COMMAND, timer)?;
    if is_on {
        systemd::systemctl(COMMAND, &["disable", "--now", timer])?;
        // `clean` refuses a unit that has failed.
        if systemd::property(COMMAND, timer, "ActiveState")? == "failed" {
            systemd::systemctl(COMMAND, &["reset-failed", timer])?;
        }
        // The time of its last elapse, which Persistent= keeps.
        systemd::systemctl(COMMAND, &["clean", "--what=state", timer])?;
    }
    Ok(is_on)
}

/// Stops the socket that the timer has started on systemd 262: else each later update merges extensions and makes their
/// hierarchies read-only. The result is whether it was stopped.
fn stop_notified() -> Result<bool> {
    let is_unneeded = systemd::is_unneeded(COMMAND, systemd::NOTIFIED)?;
    if is_unneeded {
        systemd::systemctl(COMMAND, &["stop", systemd::NOTIFIED])?;
    }
    Ok(is_unneeded)
}

/// Removes the files that are as they were written, and the directories that were made for them and that no other
/// transfer file below `root` names.
pub fn remove_files(root: &Path, folder: &Path) -> Result<String> {
    let definitions = others::definitions(root)?;
    let error = Error::file(folder);
    let dir = match Dir::open(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(String::new()),
        opened => opened.map_err(&error)?,
    };
    let (mut said, mut made) = (String::new(), BTreeSet::new());
    for entry in dir.entries().map_err(&error)? {
        let path = dir.path_of(&entry.name);
        let error = Error::file(&path);
        let record = match entry.is_file {
            true => Record::read(&dir, &entry.name).map_err(&error)?,
            false => Record::Foreign,
        };
        let path = path.display();
        match record {
            Record::Foreign => {
                said += &format!("kept {path}: it was not written by this command\n");
            }
            Record::Changed => {
                said += &format!("kept {path}: it was changed after it was written\n");
            }
            Record::Unchanged { made: directories } => {
                dir.remove(&entry.name).map_err(&error)?;
                said += &format!("removed {path}\n");
                made.extend(directories);
            }
        }
    }
    let needed = others::needed(root, &definitions);
    made.retain(|directory| !needed.iter().any(|path| path.starts_with(directory)));
    Ok(said + &remove_directories(&made)?)
}

/// Removes those of these directories that are empty.
fn remove_directories(made: &BTreeSet<PathBuf>) -> Result<String> {
    let mut said = String::new();
    // The contents of a directory come after it.
    for path in made.iter().rev() {
        match dir::remove_empty(path) {
            Ok(()) => said += &format!("removed {}\n", path.display()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {
                said += &format!("kept {}: it is not empty\n", path.display());
            }
            Err(error) => return Err(Error::file(path)(error)),
        }
    }
    Ok(said)
}

fn timer(component: &Component) -> String {
    format!("sysext-oci-proxy-update@{component}.timer")
}

#[cfg(test)]
mod tests {
    use std::{env, fs, process};

    use super::super::record::with_record;
    use super::*;

    #[test]
    fn what_was_written_is_removed_and_nothing_else() {
        let name = format!("sysext-oci-proxy-undo-{}", process::id());
        let root = env::temp_dir().join(name);
        let (folder, target) = (root.join("etc/sysupdate.a.d"), root.join("var/lib/a"));
        let target_in = target.join("in");
        let write = |name: &str, text: &str| {
            fs::create_dir_all(&folder).unwrap();
            fs::create_dir_all(&target_in).unwrap();
            fs::write(folder.join(name), text).unwrap();
        };
        let made = [folder.clone(), target.clone(), target_in.clone()];
        let written = with_record("[Transfer]\n", &made);
        let removed = |path: &Path| format!("removed {}\n", path.display());
        let file = folder.join("a.transfer");
        assert_eq!(remove_files(&root, &folder).unwrap(), "");

        write("a.transfer", &written);
        let expected = [&file, &target_in, &target, &folder].map(|path| removed(path));
        assert_eq!(remove_files(&root, &folder).unwrap(), expected.concat());
        assert!(!folder.exists() && !target.exists() && root.join("var/lib").exists());

        // Another transfer file needs the outer directory.
        write("a.transfer", &written);
        let of_other = root.join("usr/lib/sysupdate.b.d/b.transfer");
        fs::create_dir_all(of_other.parent().unwrap()).unwrap();
        fs::write(&of_other, "[Target]\nCurrentSymlink=/var/lib/a/b\n").unwrap();
        let expected = [&file, &target_in, &folder].map(|path| removed(path));
        assert_eq!(remove_files(&root, &folder).unwrap(), expected.concat());
        assert!(target.exists());
        fs::remove_file(&of_other).unwrap();

        // Of three files one was changed, and one is another's; an image is installed.
        write("a.transfer", &written);
        write("b.transfer", &(written.clone() + "\n"));
        write("c.transfer", "[Transfer]\n");
        fs::create_dir(folder.join("a.transfer.d")).unwrap();
        fs::write(target.join("a_1.raw"), "").unwrap();
        let said = remove_files(&root, &folder).unwrap();
        let mut said: Vec<_> = said.lines().collect();
        said.sort_unstable();
        let kept = |path: PathBuf, why: &str| format!("kept {}: {why}", path.display());
        let foreign = "it was not written by this command";
        let mut expected = [
            kept(folder.join("a.transfer.d"), foreign),
            kept(
                folder.join("b.transfer"),
                "it was changed after it was written",
            ),
            kept(folder.join("c.transfer"), foreign),
            kept(folder.clone(), "it is not empty"),
            kept(target.clone(), "it is not empty"),
            removed(&file).trim_end().to_owned(),
            removed(&target_in).trim_end().to_owned(),
        ];
        expected.sort_unstable();
        assert_eq!(said, expected);
        assert!(!file.exists() && folder.join("b.transfer").exists());
        fs::remove_dir_all(&root).unwrap();
    }
}
