//! Older versions of a file that are on this machine, and that all its users may read.
//!
//! They are in the directories that systemd-sysupdate installs to, by the transfer files that name the repository at this
//! service, and in those that `seeds` in the settings names. The transfer files are read for each download, since they
//! change without notice to this service.
//!
//! A directory is opened by the path that root wrote, and links in that path are followed as systemd follows them. No
//! link in the directory is followed. The owner of a file does not matter, because a seed is not trusted: each chunk of
//! it is hashed before it is used, and its file may be cut, changed or removed while it is read.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::artifact::suffix;
use crate::dir::{Dir, Entry};
use crate::name::{FileName, Host, RepositoryAddress};
use crate::settings::SeedDirectory;
use crate::sysupdate::pattern::{self, Pattern};
use crate::sysupdate::{self, SystemdVersion, Target, TargetKind};
use crate::version;

/// Smallest file for which seeds are looked for, in bytes. Below it, the requests for an index and for single ranges
/// take longer than the file.
pub const LEAST_SIZE: u64 = 8 << 20;
/// Most seeds of one file. Older versions have less and less in common with it.
pub const MOST: usize = 4;

/// Most directories that are looked into for one file.
const MOST_DIRECTORIES: usize = 32;
/// Most names that are read of a directory.
const MOST_NAMES: usize = 10_000;
/// Most files that are opened to find the seeds of one file: the newest by their names.
const MOST_OPENED: usize = 64;
/// The directories of boot partitions, where systemd looks for them (systemd: src/shared/find-esp.c).
const BOOT: [&str; 3] = ["/efi", "/boot", "/boot/efi"];
/// The bits of a mode by which all may enter a directory, enter it and read its names, and read a file.
const ENTER: u32 = 0o001;
const READ_NAMES: u32 = 0o005;
const READ: u32 = 0o004;

/// Where seeds are looked for.
#[derive(Clone, Debug)]
pub struct Places {
    /// The directory that the files of the machine are below.
    root: PathBuf,
    systemd: SystemdVersion,
    /// The name by which clients on this machine reach the service.
    service: Host,
    /// Its other names, by the settings.
    hosts: Vec<Host>,
}

/// A file that is to be downloaded.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub repository: &'a RepositoryAddress,
    pub name: &'a FileName,
    /// The beginning of the names of its source.
    pub base: &'a str,
    /// `seeds` in the settings of the repository.
    pub directories: Option<&'a [SeedDirectory]>,
}

/// An older version, opened.
#[derive(Debug)]
pub struct Seed {
    /// Its path on the machine, for messages.
    pub path: PathBuf,
    pub version: String,
    /// Its size when it was opened, in bytes.
    pub size: u64,
    pub file: File,
    /// Its device and inode.
    inode: (u64, u64),
}

/// The seeds of a file, and what might have been one.
#[derive(Debug, Default)]
pub struct Found {
    /// The newest version comes first. No two are of one version.
    pub seeds: Vec<Seed>,
    pub unread: Vec<Unread>,
}

/// A file or directory that cannot be read as a seed.
#[derive(Debug, PartialEq, Eq)]
pub struct Unread {
    /// Its path on the machine.
    pub path: PathBuf,
    pub why: Why,
}

/// The reason why a seed cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub enum Why {
    /// Not all may enter this directory on the way to it, or read its names. Its mode.
    Hidden { directory: PathBuf, mode: u32 },
    /// Not all may read the file. Its mode.
    Private { mode: u32 },
    /// The directory does not exist, and the settings name it.
    Missing,
    /// The file is a symbolic link.
    Link,
    /// The kernel refuses it for this reason, or a transfer file cannot be read.
    Failed(String),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hidden { directory, mode } => write!(
                f,
                "only some users may look into {}: its mode is {mode:o}",
                directory.display()
            ),
            Self::Private { mode } => {
                write!(f, "only some users may read it: its mode is {mode:o}")
            }
            Self::Missing => f.write_str("it does not exist"),
            Self::Link => f.write_str("it is a symbolic link, and none is followed"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

/// A directory that may have seeds.
struct Spot {
    /// Its path on the machine.
    path: PathBuf,
    /// Whether the settings name it, rather than a transfer file.
    is_named: bool,
    names: Names,
}

/// Which names of files are versions of the wanted file.
enum Names {
    /// Those that the patterns of a transfer file match.
    Matching(Vec<Pattern>, SystemdVersion),
    /// Those that differ from the wanted name by the version alone.
    Like(Likeness),
}

/// The form of the wanted name.
struct Likeness {
    base: String,
    before: String,
    after: String,
    /// Whether its version begins with a number. `conf-1.2` is then no version, but another name and a version.
    is_numbered: bool,
}

impl Names {
    /// The version of a file with this name; `None` if it is another file. Names with a dot before them are of files that
    /// are being written: `.#k8s…`, `.sysupdate.partial.k8s…` (systemd 257 and 262).
    fn version(&self, name: &str) -> Option<String> {
        if name.starts_with('.') {
            return None;
        }
        match self {
            Self::Matching(patterns, systemd) => {
                pattern::version(patterns, name, *systemd).map(str::to_owned)
            }
            Self::Like(wanted) => {
                let name: FileName = name.parse().ok()?;
                let (before, version, after) = version::around(&name, &wanted.base)?;
                let is_alike = before == wanted.before
                    && after == wanted.after
                    && version::is_numbered(version) == wanted.is_numbered;
                is_alike.then(|| version.to_owned())
            }
        }
    }
}

/// A file that may be a seed.
struct Candidate<'a> {
    dir: &'a Dir,
    spot: &'a Spot,
    name: String,
    version: String,
}

impl Places {
    /// Those of this machine. The version of systemd makes no difference for names that systemd itself has written.
    pub fn of_service(service: &Host, hosts: &[Host]) -> Self {
        Self::new(Path::new("/"), SystemdVersion::NEWEST, service, hosts)
    }

    /// Those of the machine whose files are below `root`. `service`: the name by which clients on this
    /// machine reach the service; `hosts`: its other names, by the settings.
    pub fn new(root: &Path, systemd: SystemdVersion, service: &Host, hosts: &[Host]) -> Self {
        Self {
            root: root.to_owned(),
            systemd,
            service: service.clone(),
            hosts: hosts.to_owned(),
        }
    }

    /// The seeds of a file, and what cannot be read. A file that is compressed as a whole has none: all its bytes change
    /// with the first one, and what is installed is not compressed.
    pub fn look(&self, wanted: &Wanted<'_>) -> Found {
        let mut found = Found::default();
        let is_switched_off = wanted.directories.is_some_and(<[_]>::is_empty);
        if is_switched_off || !suffix::packing(wanted.name.as_str()).is_empty() {
            return found;
        }
        let mut spots = self.spots(wanted, &mut found.unread);
        spots.truncate(MOST_DIRECTORIES);
        let mut opened = Vec::new();
        for spot in &spots {
            match self.open(spot) {
                Ok(dir) => opened.extend(dir.map(|dir| (spot, dir))),
                Err(why) => found.note(spot.path.clone(), why),
            }
        }
        let mut candidates = Vec::new();
        for (spot, dir) in &opened {
            match candidates_in(spot, dir) {
                Ok(more) => candidates.extend(more),
                Err(error) => found.note(spot.path.clone(), Why::Failed(error.to_string())),
            }
            candidates.sort_by(|one: &Candidate<'_>, other| {
                version::compare(&other.version, &one.version)
            });
            candidates.truncate(MOST_OPENED);
        }
        for candidate in &candidates {
            if found.seeds.len() == MOST {
                break;
            }
            found.add(candidate);
        }
        found
    }

    /// The directories that may have seeds of this file.
    fn spots(&self, wanted: &Wanted<'_>, unread: &mut Vec<Unread>) -> Vec<Spot> {
        let mut spots = Vec::new();
        let transfers = sysupdate::transfers_of(
            &self.root,
            self.systemd,
            &self.service,
            &self.hosts,
            wanted.repository,
        );
        match transfers {
            Ok(transfers) => {
                for transfer in transfers {
                    let of_source = &transfer.source.patterns;
                    let name = wanted.name.as_str();
                    if pattern::version(of_source, name, self.systemd).is_none() {
                        continue;
                    }
                    for path in installed_to(&transfer.target) {
                        spots.push(Spot {
                            path,
                            is_named: false,
                            names: Names::Matching(transfer.target.patterns.clone(), self.systemd),
                        });
                    }
                }
            }
            Err(fault) => unread.push(Unread {
                path: fault.file.clone(),
                why: Why::Failed(fault.why.clone()),
            }),
        }
        for directory in wanted.directories.unwrap_or_default() {
            let Some((before, version, after)) = version::around(wanted.name, wanted.base) else {
                break;
            };
            spots.push(Spot {
                path: directory.as_str().into(),
                is_named: true,
                names: Names::Like(Likeness {
                    base: wanted.base.to_owned(),
                    before: before.to_owned(),
                    after: after.to_owned(),
                    is_numbered: version::is_numbered(version),
                }),
            });
        }
        spots
    }

    /// Opens a directory. `None`: nothing has been installed to it yet.
    fn open(&self, spot: &Spot) -> Result<Option<Dir>, Why> {
        match self.open_readable(&spot.path) {
            Err(Why::Missing) if !spot.is_named => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// Opens a directory that all may read.
    pub fn open_readable(&self, directory: &Path) -> Result<Dir, Why> {
        let path = self
            .root
            .join(directory.strip_prefix("/").unwrap_or(directory));
        if let Some(hidden) = self.hidden(&path) {
            return Err(hidden);
        }
        Dir::open(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Why::Missing,
            _ => Why::Failed(error.to_string()),
        })
    }

    /// The first directory on the way to this one that not all may enter, or the directory itself if not all may read it.
    /// This process may be root's: then the kernel does not say so.
    fn hidden(&self, path: &Path) -> Option<Why> {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let root = self.root.canonicalize().ok()?;
        let mut way: Vec<_> = path
            .ancestors()
            .filter(|part| part.starts_with(&root) && *part != root)
            .collect();
        way.reverse();
        for part in way {
            let mode = fs::metadata(part).ok()?.mode() & 0o7777;
            let needed = if part == path { READ_NAMES } else { ENTER };
            if mode & needed != needed {
                let part = part.strip_prefix(&root).unwrap_or(part);
                let directory = Path::new("/").join(part);
                return Some(Why::Hidden { directory, mode });
            }
        }
        None
    }
}

impl Found {
    /// Opens a file, and adds it to the seeds or to what cannot be read. A file of a version that there is already, and
    /// one that is a seed by another name, add nothing.
    fn add(&mut self, candidate: &Candidate<'_>) {
        let Candidate {
            dir,
            spot,
            name,
            version,
        } = candidate;
        let is_there = |seed: &Seed| version::compare(&seed.version, version).is_eq();
        if self.seeds.iter().any(is_there) {
            return;
        }
        let path = spot.path.join(name);
        let opened = match dir.entry(name) {
            Some(entry) if entry.is_file => open_readable(dir, &entry),
            // The link that CurrentSymlink= names is one, too.
            Some(entry) if entry.is_link && spot.is_named => Err(Why::Link),
            _ => return,
        };
        match opened {
            Err(why) => self.note(path, why),
            Ok(None) => {}
            Ok(Some((file, metadata))) => {
                let inode = (metadata.dev(), metadata.ino());
                if !self.seeds.iter().any(|seed| seed.inode == inode) {
                    self.seeds.push(Seed {
                        path,
                        version: version.clone(),
                        size: metadata.len(),
                        file,
                        inode,
                    });
                }
            }
        }
    }

    fn note(&mut self, path: PathBuf, why: Why) {
        let unread = Unread { path, why };
        if !self.unread.contains(&unread) {
            self.unread.push(unread);
        }
    }
}

/// The files in a directory that are versions of the wanted one, by their names.
fn candidates_in<'a>(spot: &'a Spot, dir: &'a Dir) -> io::Result<Vec<Candidate<'a>>> {
    let names = dir.names(MOST_NAMES)?.into_iter();
    let candidate = |name: OsString| {
        let name = name.into_string().ok()?;
        let version = spot.names.version(&name)?;
        Some(Candidate {
            dir,
            spot,
            name,
            version,
        })
    };
    Ok(names.filter_map(candidate).collect())
}

/// Opens a file that all may read. `None`: it is empty, or has been removed since its name was read.
fn open_readable(dir: &Dir, entry: &Entry) -> Result<Option<(File, Metadata)>, Why> {
    may_read(entry.mode)?;
    let opened = dir.file(&entry.name).and_then(|file| {
        let metadata = file.metadata()?;
        Ok((file, metadata))
    });
    match opened {
        Ok((file, metadata)) => {
            // Another file may have the name by now.
            may_read(metadata.mode() & 0o7777)?;
            Ok((metadata.len() > 0).then_some((file, metadata)))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Why::Failed(error.to_string())),
    }
}

fn may_read(mode: u32) -> Result<(), Why> {
    match mode & READ {
        0 => Err(Why::Private { mode }),
        _ => Ok(()),
    }
}

/// The directories that a transfer file installs files to. A boot partition is mounted at one of several.
fn installed_to(target: &Target) -> Vec<PathBuf> {
    match (&target.path, target.kind) {
        (Some(path), TargetKind::RegularFile) if target.is_in_boot => {
            let inside = path.strip_prefix("/").unwrap_or(path);
            BOOT.iter()
                .map(|boot| Path::new(boot).join(inside))
                .collect()
        }
        (Some(path), TargetKind::RegularFile) => vec![path.clone()],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::io::Read;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    /// The directory that the transfer files of the tests install to.
    const TARGET: &str = "/var/lib/extensions.d";

    /// A machine whose files go when the test ends.
    struct Machine(PathBuf);

    impl Machine {
        fn new(name: &str) -> Self {
            let name = format!("sysext-oci-proxy-seeds-{name}-{}", std::process::id());
            let machine = Self(std::env::temp_dir().join(name));
            fs::create_dir(&machine.0).unwrap();
            machine
        }

        fn path(&self, path: &str) -> PathBuf {
            self.0.join(path.trim_start_matches('/'))
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn mode(&self, path: &str, mode: u32) {
            fs::set_permissions(self.path(path), Permissions::from_mode(mode)).unwrap();
        }

        /// A transfer file for this URL and these patterns, that installs to [`TARGET`].
        fn transfer(&self, file: &str, url: &str, patterns: &str) {
            let text = format!(
                "[Source]\nType=url-file\nPath={url}\nMatchPattern={patterns}\n[Target]\nType=regular-file\nPath={TARGET}\n"
            );
            self.write(file, &text);
        }

        /// One for `k8s`.
        fn usual(name: &str) -> Self {
            let machine = Self::new(name);
            let url = "http://localhost:5001/k8s";
            machine.transfer("/etc/sysupdate.k8s.d/k8s.transfer", url, "k8s-@v.raw");
            machine
        }

        fn look_with(&self, name: &str, directories: Option<&[&str]>) -> Found {
            let service = sysupdate::usual_name();
            let directories = directories.map(|all| all.iter().map(|one| one.parse().unwrap()));
            let directories: Option<Vec<_>> = directories.map(Iterator::collect);
            Places::new(&self.0, SystemdVersion::NEWEST, &service, &[]).look(&Wanted {
                repository: &"k8s".parse().unwrap(),
                name: &name.parse().unwrap(),
                base: "k8s",
                directories: directories.as_deref(),
            })
        }

        fn look(&self) -> Found {
            self.look_with("k8s-9.raw", None)
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn paths(found: &Found) -> Vec<&str> {
        let paths = found.seeds.iter().map(|seed| seed.path.to_str().unwrap());
        paths.collect()
    }

    fn unread(found: &Found) -> Vec<(&str, String)> {
        let unread = found.unread.iter();
        unread
            .map(|one| (one.path.to_str().unwrap(), one.why.to_string()))
            .collect()
    }

    #[test]
    fn without_transfer_files_and_settings_there_is_none() {
        let machine = Machine::new("none");
        machine.write("/var/lib/extensions.d/k8s-1.raw", "1");
        let found = machine.look();
        assert_eq!((paths(&found), unread(&found)), (vec![], vec![]));
    }

    #[test]
    fn the_newest_versions_come_first_and_no_more_than_a_few() {
        let machine = Machine::usual("newest");
        for version in ["1.9", "1.10", "0.2", "1.31", "1.9.1", "1.10~rc1"] {
            machine.write(&format!("{TARGET}/k8s-{version}.raw"), version);
        }
        let mut found = machine.look();
        let names = ["1.31", "1.10", "1.10~rc1", "1.9.1"];
        let expected: Vec<_> = names
            .map(|version| format!("{TARGET}/k8s-{version}.raw"))
            .into();
        assert_eq!(paths(&found), expected);
        let seed = &mut found.seeds[2];
        let mut text = String::new();
        seed.file.read_to_string(&mut text).unwrap();
        assert_eq!(
            (text.as_str(), seed.version.as_str(), seed.size),
            ("1.10~rc1", "1.10~rc1", 8)
        );
    }

    #[test]
    fn transfer_files_are_those_of_this_repository_at_this_service_for_this_file() {
        for (n, (url, patterns, is_one)) in [
            ("http://localhost:5001/k8s", "k8s-@v.raw", true),
            ("http://127.0.0.1:5001/k8s/", "k8s-@v.raw", true),
            ("http://localhost:5001/k8s:v9", "k8s-@v.raw", true),
            ("http://localhost:5001/k8s+all", "k8s-@v.raw", true),
            ("http://localhost:5001/%%k8s", "k8s-@v.raw", false),
            ("http://localhost:5001/k8s", "k8s-@v.img k8s-@v.raw", true),
            ("http://localhost:5001/k8s", "k8s-conf-@v.raw", false),
            ("http://localhost:5001/other", "k8s-@v.raw", false),
            ("http://localhost:5001/k8s/conf", "k8s-@v.raw", false),
            ("http://localhost:5002/k8s", "k8s-@v.raw", false),
            ("http://example.org/k8s", "k8s-@v.raw", false),
        ]
        .into_iter()
        .enumerate()
        {
            let machine = Machine::new(&format!("which-{n}"));
            machine.transfer("/run/sysupdate.d/a.conf", url, patterns);
            // Its files have the same names as those of the wanted one.
            let drop_in = "[Target]\nMatchPattern=k8s-@v.raw\n";
            machine.write("/run/sysupdate.d/a.conf.d/target.conf", drop_in);
            machine.write(&format!("{TARGET}/k8s-1.raw"), "1");
            let found = machine.look();
            assert_eq!(found.seeds.len(), usize::from(is_one), "{url} {patterns}");
            assert_eq!(unread(&found), [], "{url} {patterns}");
        }
    }

    #[test]
    fn a_target_of_another_kind_has_none_and_a_boot_partition_has_several_places() {
        let machine = Machine::new("targets");
        let write = |name: &str, target: &str| {
            let text = format!(
                "[Source]\nType=url-file\nPath=http://localhost:5001/k8s\nMatchPattern=k8s-@v.raw\n[Target]\n{target}"
            );
            machine.write(&format!("/usr/lib/sysupdate.d/{name}.transfer"), &text);
        };
        write(
            "a",
            "Type=partition\nPath=/dev/vda\nMatchPartitionType=usr\n",
        );
        write("b", "Type=partition\nPath=auto\n");
        write(
            "c",
            "Type=regular-file\nPath=/EFI/Linux\nPathRelativeTo=boot\nMatchPattern=@v+@l.efi\n",
        );
        machine.write("/boot/EFI/Linux/7+3.efi", "7");
        machine.write("/efi/EFI/Linux/8+3.efi", "8");
        machine.write("/EFI/Linux/9+3.efi", "9");
        let found = machine.look();
        assert_eq!(
            paths(&found),
            ["/efi/EFI/Linux/8+3.efi", "/boot/EFI/Linux/7+3.efi"]
        );
    }

    #[test]
    fn two_targets_of_one_repository_have_the_seeds_of_both_and_each_version_once() {
        let machine = Machine::usual("pair");
        let text = "[Source]\nType=url-file\nPath=http://localhost:5001/k8s\nMatchPattern=k8s-@v.raw\n\
                    [Target]\nType=regular-file\nPath=/var/lib/confexts\nMatchPattern=conf_@v.raw\n";
        machine.write("/etc/sysupdate.conf.d/k8s.transfer", text);
        machine.write("/var/lib/confexts/conf_2.raw", "2 of the second");
        machine.write("/var/lib/confexts/conf_1.raw", "1");
        machine.write(&format!("{TARGET}/k8s-2.raw"), "2 of the first");
        machine.write(&format!("{TARGET}/k8s-3.raw"), "3");
        let found = machine.look();
        assert_eq!(
            paths(&found),
            [
                "/var/lib/extensions.d/k8s-3.raw",
                "/var/lib/confexts/conf_2.raw",
                "/var/lib/confexts/conf_1.raw"
            ]
        );
    }

    #[test]
    fn two_repositories_with_one_directory_have_their_own_files() {
        let machine = Machine::usual("shared");
        machine.transfer(
            "/etc/sysupdate.tools.d/tools.transfer",
            "http://localhost:5001/tools",
            "tools-@v.raw",
        );
        machine.write(&format!("{TARGET}/k8s-1.raw"), "1");
        machine.write(&format!("{TARGET}/tools-2.raw"), "2");
        assert_eq!(paths(&machine.look()), ["/var/lib/extensions.d/k8s-1.raw"]);
    }

    #[test]
    fn files_that_are_being_written_and_other_kinds_of_files_are_none() {
        let machine = Machine::new("kinds");
        machine.transfer(
            "/etc/sysupdate.d/k8s.transfer",
            "http://localhost:5001/k8s",
            "k8s-@v.raw @v.raw",
        );
        for name in [
            ".#k8s-1.raw0123",
            ".sysupdate.partial.k8s-2.raw",
            ".sysupdate.pending.k8s-3.raw",
            ".4.raw",
        ] {
            machine.write(&format!("{TARGET}/{name}"), "text");
        }
        machine.write(&format!("{TARGET}/k8s-5.raw"), "");
        machine.write(&format!("{TARGET}/k8s-6.raw/file"), "text");
        machine.write("/elsewhere/k8s-7.raw", "text");
        symlink(
            "../../../elsewhere/k8s-7.raw",
            machine.path(TARGET).join("k8s-7.raw"),
        )
        .unwrap();
        symlink("k8s-5.raw", machine.path(TARGET).join("k8s-8.raw")).unwrap();
        let found = machine.look();
        assert_eq!((paths(&found), unread(&found)), (vec![], vec![]));
    }

    #[test]
    fn a_file_is_opened_whoever_owns_it_and_by_whichever_name_and_keeps_its_bytes_when_it_is_replaced()
     {
        let machine = Machine::usual("owners");
        let path = machine.path(TARGET);
        machine.write(&format!("{TARGET}/k8s-1.raw"), "old");
        if crate::dir::is_root() {
            chown(path.join("k8s-1.raw"), Some(12345), Some(12345)).unwrap();
        }
        fs::hard_link(path.join("k8s-1.raw"), path.join("k8s-2.raw")).unwrap();
        let mut found = machine.look();
        assert_eq!(
            paths(&found),
            ["/var/lib/extensions.d/k8s-2.raw"],
            "one file is one seed"
        );
        fs::write(path.join("new"), "new").unwrap();
        fs::rename(path.join("new"), path.join("k8s-2.raw")).unwrap();
        fs::remove_file(path.join("k8s-1.raw")).unwrap();
        let mut text = String::new();
        found.seeds[0].file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "old");
    }

    #[test]
    fn what_only_some_may_read_is_named_with_its_mode_and_the_next_version_takes_its_place() {
        let machine = Machine::usual("modes");
        machine.write(&format!("{TARGET}/k8s-1.raw"), "1");
        machine.write(&format!("{TARGET}/k8s-2.raw"), "2");
        machine.mode(&format!("{TARGET}/k8s-2.raw"), 0o660);
        let found = machine.look();
        assert_eq!(paths(&found), ["/var/lib/extensions.d/k8s-1.raw"]);
        let why = "only some users may read it: its mode is 660".to_owned();
        assert_eq!(unread(&found), [("/var/lib/extensions.d/k8s-2.raw", why)]);
        for (directory, mode) in [(TARGET, 0o750), (TARGET, 0o711), ("/var/lib", 0o700)] {
            machine.mode(directory, mode);
            let found = machine.look();
            machine.mode(directory, 0o755);
            let why = format!("only some users may look into {directory}: its mode is {mode:o}");
            assert_eq!(
                (paths(&found), unread(&found)),
                (vec![], vec![(TARGET, why)])
            );
        }
    }

    #[test]
    fn a_directory_that_is_a_link_is_followed_and_what_it_leads_to_must_be_readable() {
        let machine = Machine::usual("linked");
        machine.write("/data/private/images/k8s-1.raw", "1");
        fs::create_dir_all(machine.path("/var/lib")).unwrap();
        symlink("../../data/private/images", machine.path(TARGET)).unwrap();
        assert_eq!(paths(&machine.look()), ["/var/lib/extensions.d/k8s-1.raw"]);
        machine.mode("/data/private", 0o700);
        let found = machine.look();
        machine.mode("/data/private", 0o755);
        let why = "only some users may look into /data/private: its mode is 700".to_owned();
        assert_eq!(
            (paths(&found), unread(&found)),
            (vec![], vec![(TARGET, why)])
        );
    }

    #[test]
    fn directories_of_the_settings_have_the_files_that_differ_in_the_version_alone() {
        let machine = Machine::new("named");
        for name in [
            "k8s-v1.2-x86-64.raw",
            "k8s-v1.3-x86-64.raw",
            "k8s-v1.4-arm64.raw",
            "k8s-v1.5.raw",
            "k8s-v1.6-x86-64.raw.zst",
            "k8s-conf-v1.7-x86-64.raw",
            "k8s-edge-x86-64.raw",
            "other-v1.8-x86-64.raw",
            ".k8s-v1.9-x86-64.raw",
        ] {
            machine.write(&format!("/srv/images/{name}"), name);
        }
        symlink(
            "/elsewhere",
            machine.path("/srv/images/k8s-v1.1-x86-64.raw"),
        )
        .unwrap();
        let look = |name: &str, directories: &[&str]| machine.look_with(name, Some(directories));
        let found = look("k8s-v2.0-x86-64.raw", &["/srv/images", "/srv/absent"]);
        assert_eq!(
            paths(&found),
            [
                "/srv/images/k8s-v1.3-x86-64.raw",
                "/srv/images/k8s-v1.2-x86-64.raw"
            ]
        );
        assert_eq!(
            unread(&found),
            [
                ("/srv/absent", "it does not exist".to_owned()),
                (
                    "/srv/images/k8s-v1.1-x86-64.raw",
                    "it is a symbolic link, and none is followed".to_owned()
                ),
            ]
        );
        assert_eq!(
            paths(&look("k8s-v2.0-riscv64.raw", &["/srv/images"])),
            [""; 0]
        );
        assert_eq!(
            paths(&look("k8s-v1.9-x86-64.raw.zst", &["/srv/images"])),
            [""; 0]
        );
        assert_eq!(paths(&look("k8s.raw", &["/srv/images"])), [""; 0]);
    }

    #[test]
    fn names_of_files_that_cannot_be_read_hide_no_others_up_to_a_limit() {
        let machine = Machine::usual("many");
        machine.write(&format!("{TARGET}/k8s-1.raw"), "1");
        for version in 2..65 {
            let path = format!("{TARGET}/k8s-{version}.raw");
            machine.write(&path, "private");
            machine.mode(&path, 0o600);
        }
        let found = machine.look();
        assert_eq!(paths(&found), ["/var/lib/extensions.d/k8s-1.raw"]);
        assert_eq!(found.unread.len(), 63);
        machine.write(&format!("{TARGET}/k8s-65.raw"), "");
        assert_eq!(paths(&machine.look()), [""; 0]);
    }

    #[test]
    fn an_empty_list_switches_all_of_them_off() {
        let machine = Machine::usual("off");
        machine.write(&format!("{TARGET}/k8s-1.raw"), "1");
        let look = |directories| machine.look_with("k8s-9.raw", directories).seeds.len();
        assert_eq!(
            (look(None), look(Some(&["/srv"])), look(Some(&[]))),
            (1, 1, 0)
        );
    }
}
