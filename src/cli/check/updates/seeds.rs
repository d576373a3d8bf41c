//! Older versions that a download may take unchanged parts from: whether the service can read them, and whether the form
//! of the files allows it. An update happens without them, too.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::offered::Newest;
use super::{Update, Wanted};
use crate::artifact::suffix;
use crate::cli::check::machine::Machine;
use crate::cli::check::report::{Finding, Report, Step};
use crate::delta::seeds::{self, LEAST_SIZE, Places, Unread, Why};
use crate::name::RepositoryAddress;
use crate::settings::{SeedDirectory, Settings};
use crate::sysupdate::{self, SystemdVersion};

const SERVICE: &str = "sysext-oci-proxy.service";
/// Directories that the sandbox of the service hides, and the setting of the unit that does so.
const HIDDEN: [(&str, &str); 5] = [
    ("/home", "ProtectHome"),
    ("/root", "ProtectHome"),
    ("/run/user", "ProtectHome"),
    ("/tmp", "PrivateTmp"),
    ("/var/tmp", "PrivateTmp"),
];
/// Values of these settings that hide nothing from a reader.
const NOT_HIDING: [&str; 2] = ["no", "read-only"];
/// Directories whose mode systemd sets at each boot (systemd: tmpfiles.d/systemd-nspawn.conf, tmpfiles.d/portables.conf).
const OF_SYSTEMD: [&str; 2] = ["/var/lib/machines", "/var/lib/portables"];

/// The data that decide whether a seed can be read.
pub struct Seeds<'a> {
    machine: &'a Machine,
    settings: Option<&'a Settings>,
    places: Places,
    /// The settings of the unit that hide directories.
    hiding: Vec<(&'static str, &'static str)>,
    /// Files whose seeds have been told.
    told: BTreeSet<(RepositoryAddress, String)>,
}

impl<'a> Seeds<'a> {
    pub fn new(machine: &'a Machine, systemd: SystemdVersion, wanted: &Wanted<'a>) -> Self {
        let unit = machine.unit(SERVICE, &["ProtectHome", "PrivateTmp"]);
        let unit = unit.unwrap_or_default();
        let is_hiding = |(_, setting): &(&str, &str)| !NOT_HIDING.contains(&unit.get(setting));
        Self {
            machine,
            settings: wanted.settings,
            places: Places::new(machine.root(), systemd, wanted.service, wanted.hosts),
            hiding: HIDDEN.into_iter().filter(is_hiding).collect(),
            told: BTreeSet::new(),
        }
    }

    /// `seeds` in the settings of a repository.
    fn directories(&self, repository: &RepositoryAddress) -> Option<&'a [SeedDirectory]> {
        let of_repository = self.settings?.repositories.get(repository)?;
        of_repository.seeds.as_deref()
    }

    /// Looks at the directories that the settings name. `only`: those of one repository.
    pub fn check_settings(&self, report: &mut Report, only: Option<&RepositoryAddress>) {
        let repositories = self.settings.iter().flat_map(|one| one.repositories.keys());
        for name in repositories.filter(|name| only.is_none_or(|only| only == *name)) {
            for directory in self.directories(name).unwrap_or_default() {
                let path = Path::new(directory.as_str());
                if let Err(why) = self.places.open_readable(path) {
                    report.push(unread_directory(name, path, &why));
                } else if let Some(setting) = self.hidden(path) {
                    report.push(out_of_sight(path, setting));
                }
            }
        }
    }

    /// Looks at the seeds of what would be installed. A small file has none.
    pub fn check(&mut self, report: &mut Report, update: &Update, newest: &Newest) {
        let repository = &update.directory.repository;
        let key = (repository.clone(), newest.name.to_string());
        if newest.size.is_some_and(|size| size < LEAST_SIZE) || !self.told.insert(key) {
            return;
        }
        let directories = self.directories(repository);
        if directories.is_some_and(<[_]>::is_empty) {
            let text = "seeds = [] in the settings, so each update fetches a whole file";
            return report.push(Finding::skipped(Step::Seeds, text).of(repository));
        }
        let packing = suffix::packing(newest.name.as_str());
        if !packing.is_empty() {
            return report.push(packed(newest, packing).of(repository));
        }
        let located = self
            .settings
            .map(|one| update.directory.clone().locate(one));
        let located = located.and_then(Result::ok);
        let usual = repository.repository.base();
        let base = located.as_ref().map(|one| one.base_of(&newest.name));
        let found = self.places.look(&seeds::Wanted {
            repository,
            name: &newest.name,
            base: base.unwrap_or(usual),
            directories,
        });
        if self.has_boot_id(update) {
            report.push(unknown_to_the_service(repository).of(update.file()));
        }
        // Those of the settings are told by themselves.
        let is_named = |path: &Path| {
            let mut named = directories.unwrap_or_default().iter();
            named.any(|directory| Path::new(directory.as_str()) == path)
        };
        let unread = found.unread.iter().filter(|one| !is_named(&one.path));
        let unread: Vec<_> = unread.map(|one| unread_file(repository, one)).collect();
        let is_all_told = unread.is_empty();
        unread.into_iter().for_each(|finding| report.push(finding));
        let paths = found.seeds.iter().map(|seed| seed.path.as_path());
        let (hidden, seen): (Vec<&Path>, Vec<_>) =
            paths.partition(|path| self.hidden(path).is_some());
        for path in &hidden {
            let setting = self.hidden(path).unwrap_or_default();
            report.push(out_of_sight(path, setting));
        }
        let text = match seen.first() {
            Some(path) => format!(
                "unchanged parts of {} are reused, if the new version has an index",
                path.display()
            ),
            None if is_all_told && hidden.is_empty() => {
                "no older version is on this machine, so the next update fetches a whole file"
                    .into()
            }
            None => return,
        };
        report.push(Finding::ok(Step::Seeds, text).of(repository));
    }

    fn has_boot_id(&self, update: &Update) -> bool {
        let definitions = sysupdate::find(self.machine.root()).unwrap_or_default();
        let own = definitions
            .iter()
            .find(|one| one.path == update.transfer.file);
        own.is_some_and(sysupdate::has_boot_id)
    }

    /// The setting of the unit that hides a path from the service.
    fn hidden(&self, path: &Path) -> Option<&'static str> {
        let resolved = self.resolved(path);
        let hiding = self
            .hiding
            .iter()
            .find(|(directory, _)| path.starts_with(directory) || resolved.starts_with(directory));
        hiding.map(|(_, setting)| *setting)
    }

    /// A path on the machine, links followed.
    fn resolved(&self, path: &Path) -> PathBuf {
        let root = self.machine.root().canonicalize();
        let whole = self.machine.path(path).canonicalize();
        match (root, whole) {
            (Ok(root), Ok(whole)) => {
                Path::new("/").join(whole.strip_prefix(root).unwrap_or(&whole))
            }
            _ => path.to_owned(),
        }
    }
}

/// A transfer file with the boot ID in it.
fn unknown_to_the_service(name: &RepositoryAddress) -> Finding {
    let text = "it has the boot ID (%b) in a path or pattern, which the service cannot see, so nothing that it installs \
                is reused";
    let remedy =
        format!("name the directory that it installs to in seeds, in [repository.\"{name}\"]");
    Finding::warning(Step::Seeds, text, remedy)
}

/// A file that is compressed as a whole.
fn packed(newest: &Newest, packing: &str) -> Finding {
    let text = format!(
        "{} is compressed as a whole ({packing}), so nothing of an installed version can be reused, and each update fetches \
         all of it",
        newest.name
    );
    let remedy = "ask its publisher to compress inside the image: `CompressOutput=no` for mkosi, `mksquashfs DIRECTORY \
                  NAME.raw -comp zstd`, or `mkfs.erofs -zlz4hc NAME.raw DIRECTORY`; docs/deltas.md has more";
    Finding::warning(Step::Seeds, text, remedy)
}

/// A directory of the settings.
fn unread_directory(name: &RepositoryAddress, directory: &Path, why: &Why) -> Finding {
    let text = format!("{why}, so nothing in it is reused");
    let remedy = match why {
        Why::Missing => format!("create it, or correct seeds in [repository.\"{name}\"]"),
        why => remedy(name, directory, why),
    };
    Finding::warning(Step::Seeds, text, remedy).of(directory.display())
}

/// A file, or the directory of a transfer file.
fn unread_file(name: &RepositoryAddress, Unread { path, why }: &Unread) -> Finding {
    let text = format!("{why}, so nothing of it is reused");
    Finding::warning(Step::Seeds, text, remedy(name, path, why)).of(path.display())
}

fn remedy(name: &RepositoryAddress, path: &Path, why: &Why) -> String {
    let path = path.display();
    match why {
        Why::Hidden { directory, .. }
            if OF_SYSTEMD.iter().any(|own| directory == Path::new(own)) =>
        {
            format!(
                "systemd sets this mode at each boot; install to another directory (Path= in [Target]), or write seeds = [] \
                 into [repository.\"{name}\"] for whole downloads"
            )
        }
        Why::Hidden { directory, .. } => format!("`chmod o+rx {}`", directory.display()),
        Why::Private { .. } => {
            format!("`chmod o+r {path}`, and write Mode=0644 into [Target] of its transfer file")
        }
        Why::Link => "name the directory of the file itself in seeds".into(),
        Why::Missing | Why::Failed(_) => {
            format!("correct that; `namei -l {path}` shows the mode of each directory on the way")
        }
    }
}

fn out_of_sight(path: &Path, setting: &str) -> Finding {
    let text = format!(
        "the service does not see it ({setting}= of {SERVICE}), so nothing of it is reused"
    );
    let remedy = "move it to another directory, such as one below /srv or /var/lib";
    Finding::warning(Step::Seeds, text, remedy).of(path.display())
}
