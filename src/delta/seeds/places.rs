//! Where older versions may be: the directories that transfer files and settings name, and the names that versions have
//! there.

use std::path::{Path, PathBuf};

use crate::name::{FileName, Host, RepositoryAddress};
use crate::settings::SeedDirectory;
use crate::sysupdate::pattern::{self, Pattern};
use crate::sysupdate::{self, Fault, SystemdVersion, Target, TargetKind};
use crate::version;

/// The directories of boot partitions, where systemd looks for them (systemd: src/shared/find-esp.c).
const BOOT: [&str; 3] = ["/efi", "/boot", "/boot/efi"];
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

/// A directory that may have seeds.
pub struct Spot {
    /// Its path on the machine.
    pub path: PathBuf,
    /// Whether the settings name it, rather than a transfer file.
    pub is_named: bool,
    names: Names,
}

impl Spot {
    /// The version of a file with this name; `None` if it is another file.
    pub fn version(&self, name: &str) -> Option<String> {
        self.names.version(name)
    }
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

    /// The directories that may have seeds of this file, and why no transfer file could be read.
    pub fn spots(&self, wanted: &Wanted<'_>) -> (Vec<Spot>, Option<Fault>) {
        let (mut spots, mut fault) = (Vec::new(), None);
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
            Err(error) => fault = Some(error),
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
        (spots, fault)
    }

    /// The directory that the files of the machine are below.
    pub fn root(&self) -> &Path {
        &self.root
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
