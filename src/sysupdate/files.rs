//! The transfer files of a machine: where they are, which of them systemd-sysupdate reads, and their drop-ins.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::syntax::{self, Assignment, Fault};

/// The directories of `sysupdate.d` and `sysupdate.COMPONENT.d`. A file replaces its namesake in a later one.
const DIRECTORIES: [&str; 4] = ["/etc", "/run", "/usr/local/lib", "/usr/lib"];
/// Largest file that is read, in bytes.
const LARGEST: u64 = 64 << 10;
/// Most bytes that are read of all transfer files and drop-ins together: of some two thousand files.
const ALL: u64 = 1 << 20;

/// A transfer file with its drop-ins.
#[derive(Clone, Debug)]
pub struct Definition {
    /// Its path on the machine, without the root directory.
    pub path: PathBuf,
    /// `None` for the files of the OS itself, in `sysupdate.d`.
    pub component: Option<String>,
    /// Whether systemd-sysupdate reads it: as of 257, `.conf` counts only where a component has no `.transfer`.
    pub is_read: bool,
    /// The settings of the file and of its drop-ins, in the order in which they count, or why there are none.
    pub assignments: Result<Vec<Assignment>, Fault>,
    /// The lines that systemd ignores.
    pub ignored: Vec<Fault>,
}

impl Definition {
    /// A transfer file that is to be written, without drop-ins.
    pub fn new(path: &Path, component: &str, text: &str) -> Self {
        let mut ignored = Vec::new();
        Self {
            component: Some(component.to_owned()),
            is_read: true,
            assignments: syntax::parse(path, text, &mut ignored),
            ignored,
            path: path.to_owned(),
        }
    }
}

/// The transfer files of a machine whose root directory this is.
pub fn find(root: &Path) -> Result<Vec<Definition>, Fault> {
    let mut components = BTreeMap::new();
    for directory in DIRECTORIES {
        for name in entries(root, Path::new(directory))? {
            if let Some(component) = component(&name) {
                let folders: &mut Vec<_> = components.entry(component).or_default();
                folders.push(Path::new(directory).join(name));
            }
        }
    }
    let (mut found, left) = (Vec::new(), Cell::new(ALL));
    for (component, folders) in components {
        found.extend(of_component(root, component.as_deref(), &folders, &left)?);
    }
    Ok(found)
}

/// The transfer files of one component, by name. `folders`: the first has the highest priority. `left`: the bytes that
/// may still be read.
fn of_component(
    root: &Path,
    component: Option<&str>,
    folders: &[PathBuf],
    left: &Cell<u64>,
) -> Result<Vec<Definition>, Fault> {
    let files = files(root, folders, &["transfer", "conf"])?;
    let is_transfer = |path: &Path| path.extension().is_some_and(|ending| ending == "transfer");
    let has_transfer = files.iter().any(|path| is_transfer(path));
    let definition = |path: PathBuf| {
        let mut ignored = Vec::new();
        let assignments = assignments(root, &path, folders, left, &mut ignored);
        Definition {
            component: component.map(str::to_owned),
            is_read: is_transfer(&path) || !has_transfer,
            assignments,
            ignored,
            path,
        }
    };
    Ok(files.into_iter().map(definition).collect())
}

/// The settings of a file, and of the drop-ins `NAME.transfer.d/*.conf` in all folders behind them.
fn assignments(
    root: &Path,
    path: &Path,
    folders: &[PathBuf],
    left: &Cell<u64>,
    ignored: &mut Vec<Fault>,
) -> Result<Vec<Assignment>, Fault> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".d");
    let drop_ins: Vec<_> = folders.iter().map(|folder| folder.join(&name)).collect();
    let drop_ins = files(root, &drop_ins, &["conf"])?;
    let mut found = Vec::new();
    for path in [path.to_owned()].iter().chain(&drop_ins) {
        let text = text(&below(root, path), left).map_err(|error| unreadable(path, &error))?;
        found.extend(syntax::parse(path, &text, ignored)?);
    }
    Ok(found)
}

/// The files in these folders that have one of these endings, by name. One replaces its namesake in a later folder; one
/// that is a link to /dev/null, or empty, leaves no file of that name.
fn files(root: &Path, folders: &[PathBuf], endings: &[&str]) -> Result<Vec<PathBuf>, Fault> {
    let mut found = BTreeMap::new();
    for folder in folders {
        for name in entries(root, folder)? {
            let ending = Path::new(&name).extension().and_then(OsStr::to_str);
            if ending.is_some_and(|ending| endings.contains(&ending)) {
                let path = folder.join(&name);
                found.entry(name).or_insert(path);
            }
        }
    }
    let is_there = |path: &PathBuf| {
        let file = below(root, path).metadata();
        file.map_or(true, |file| file.is_file() && file.len() > 0)
    };
    Ok(found.into_values().filter(is_there).collect())
}

/// The names in a directory. None if it does not exist.
fn entries(root: &Path, directory: &Path) -> Result<Vec<OsString>, Fault> {
    let read = || {
        fs::read_dir(below(root, directory))?
            .map(|entry| Ok(entry?.file_name()))
            .collect()
    };
    let found: io::Result<Vec<_>> = read();
    match found {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        found => found.map_err(|error| unreadable(directory, &error)),
    }
}

/// `None` for a folder that is none of sysupdate.d(5), else the component, of which the OS has no name.
fn component(folder: &OsStr) -> Option<Option<String>> {
    let name = folder.to_str()?.strip_prefix("sysupdate.")?;
    match name {
        "d" => Some(None),
        _ => Some(Some(name.strip_suffix(".d")?.to_owned())),
    }
}

fn text(path: &Path, left: &Cell<u64>) -> io::Result<String> {
    let mut text = String::new();
    let most = LARGEST.min(left.get());
    let read = File::open(path)?.take(most + 1).read_to_string(&mut text)?;
    let read = u64::try_from(read).unwrap_or(u64::MAX);
    if read > most {
        let why = match most {
            LARGEST => format!("it has more than {LARGEST} bytes"),
            _ => format!("the transfer files up to it have more than {ALL} bytes together"),
        };
        return Err(io::Error::new(ErrorKind::FileTooLarge, why));
    }
    left.set(left.get() - read);
    Ok(text)
}

fn unreadable(path: &Path, error: &io::Error) -> Fault {
    Fault {
        file: path.to_owned(),
        line: None,
        why: format!("cannot be read: {error}"),
    }
}

/// A path of the machine, below its root directory.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> Self {
            let name = format!("sysext-oci-proxy-sysupdate-{name}-{}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn write(&self, path: &str, text: &str) {
            let path = below(&self.0, Path::new(path));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn mask(&self, path: &str) {
            symlink("/dev/null", below(&self.0, Path::new(path))).unwrap();
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn shown(definition: &Definition) -> String {
        let Definition {
            path,
            component,
            is_read,
            assignments,
            ..
        } = definition;
        let component = component.as_deref().unwrap_or("-");
        let read = if *is_read { "" } else { " unread" };
        let assignments = assignments.as_ref().unwrap();
        let values: Vec<_> = assignments.iter().map(|one| one.value.as_str()).collect();
        format!("{component} {}{read} {}", path.display(), values.join(","))
    }

    fn all(root: &Root) -> Vec<String> {
        find(&root.0).unwrap().iter().map(shown).collect()
    }

    #[test]
    fn files_of_all_components_are_found_and_replace_their_namesakes() {
        let root = Root::new("found");
        assert_eq!(all(&root), [""; 0]);
        let text = |value: &str| format!("[Source]\nPath={value}\n");
        root.write("/usr/lib/sysupdate.d/10-a.transfer", &text("usr"));
        root.write("/etc/sysupdate.d/10-a.transfer", &text("etc"));
        root.write("/run/sysupdate.d/20-b.transfer", &text("run"));
        root.write("/etc/sysupdate.d/30-c.conf", &text("conf"));
        root.write("/etc/sysupdate.d/40-d.feature", &text("feature"));
        root.write("/usr/local/lib/sysupdate.k8s.d/a.conf", &text("k8s"));
        root.write("/usr/lib/sysupdate.k8s.d/a.conf", &text("replaced"));
        root.write("/usr/lib/sysupdate.k8s.d/masked.conf", &text("masked"));
        root.write("/etc/sysupdate.k8s.d/empty.conf", "");
        root.write("/usr/lib/sysupdate.k8s.d/empty.conf", &text("empty"));
        root.mask("/etc/sysupdate.k8s.d/masked.conf");
        root.write("/etc/sysupdate.k8s/b.transfer", &text("no folder of it"));
        assert_eq!(
            all(&root),
            [
                "- /etc/sysupdate.d/10-a.transfer etc",
                "- /run/sysupdate.d/20-b.transfer run",
                "- /etc/sysupdate.d/30-c.conf unread conf",
                "k8s /usr/local/lib/sysupdate.k8s.d/a.conf k8s",
            ]
        );
    }

    #[test]
    fn drop_ins_of_all_directories_count_by_name() {
        let root = Root::new("drop-ins");
        let text = |value: &str| format!("[Source]\nPath={value}\n");
        root.write("/usr/lib/sysupdate.d/a.transfer", &text("file"));
        root.write("/usr/lib/sysupdate.d/a.transfer.d/20.conf", &text("20"));
        root.write("/etc/sysupdate.d/a.transfer.d/10.conf", &text("10"));
        root.write("/run/sysupdate.d/a.transfer.d/20.conf", &text("20 of run"));
        root.write("/usr/lib/sysupdate.d/a.transfer.d/30.conf", &text("masked"));
        root.mask("/etc/sysupdate.d/a.transfer.d/30.conf");
        root.write("/etc/sysupdate.d/a.transfer.d/40.txt", &text("no drop-in"));
        root.write("/etc/sysupdate.d/b.transfer.d/10.conf", &text("of another"));
        root.write(
            "/etc/sysupdate.other.d/a.transfer.d/10.conf",
            &text("of another"),
        );
        assert_eq!(
            all(&root),
            ["- /usr/lib/sysupdate.d/a.transfer file,10,20 of run"]
        );
    }

    #[test]
    fn large_files_are_not_read_and_many_only_up_to_a_limit() {
        let root = Root::new("large");
        let text = |bytes: u64| {
            format!(
                "[Source]\n#{}\n",
                "x".repeat(usize::try_from(bytes).unwrap() - 11)
            )
        };
        root.write("/etc/sysupdate.d/00.transfer", &text(LARGEST));
        root.write("/etc/sysupdate.d/01.transfer", &text(LARGEST + 1));
        for n in 10..10 + ALL / LARGEST {
            root.write(&format!("/etc/sysupdate.d/{n}.transfer"), &text(LARGEST));
        }
        let found = find(&root.0).unwrap();
        let why = |n: usize| found[n].assignments.as_ref().err().map(ToString::to_string);
        assert_eq!(why(0), None);
        assert!(
            why(1).unwrap().contains("more than 65536 bytes"),
            "{:?}",
            why(1)
        );
        let last = found.len() - 1;
        assert_eq!(why(last - 1), None);
        assert!(
            why(last).unwrap().contains("1048576 bytes together"),
            "{:?}",
            why(last)
        );
    }

    #[test]
    fn what_cannot_be_read_is_no_empty_file() {
        let root = Root::new("unreadable");
        root.write("/etc/sysupdate.d/a.transfer/b", "");
        root.write("/etc/sysupdate.d/b.transfer", "[Source]\nPath=\u{0}\n");
        fs::write(root.0.join("etc/sysupdate.d/c.transfer"), b"\xff\n").unwrap();
        symlink("absent", root.0.join("etc/sysupdate.d/d.transfer")).unwrap();
        let found = find(&root.0).unwrap();
        let found = found.iter().map(|one| match &one.assignments {
            Ok(found) => format!("{} settings", found.len()),
            Err(fault) => fault.to_string(),
        });
        let found: Vec<_> = found.collect();
        assert_eq!(found[0], "1 settings");
        assert!(
            found[1].starts_with("/etc/sysupdate.d/c.transfer: cannot be read: "),
            "{found:?}"
        );
        assert!(
            found[2].starts_with("/etc/sysupdate.d/d.transfer: cannot be read: "),
            "{found:?}"
        );
    }
}
