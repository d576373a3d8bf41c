//! The end of the way: systemd-sysupdate on this machine, its transfer files that name this service, where they install
//! to, and when.

mod keyring;
mod link;
mod mounts;
mod offered;
mod runs;
mod seeds;
mod target;
mod transfers;

use std::collections::BTreeSet;

use super::machine::Machine;
use super::report::{Finding, Report, Step};
use crate::address::Directory;
use crate::advice::advice;
use crate::cli::asked::{self, Asked};
use crate::cli::systemd::{SYSUPDATE, SystemdVersion};
use crate::error::{Error, Result};
use crate::name::Host;
use crate::server::json::Overview;
use crate::settings::Settings;
use crate::sysupdate::Transfer;
use seeds::Seeds;

/// The exit status of a command whose answer is no.
const NO: u8 = 1;
/// The steps to a list.
const BEFORE: [Step; 9] = [
    Step::Service,
    Step::Proxy,
    Step::Resolution,
    Step::Connection,
    Step::Tls,
    Step::Login,
    Step::Tags,
    Step::Names,
    Step::Signatures,
];

/// The repositories and components to check.
pub struct Wanted<'a> {
    /// The service, or this process in its place.
    pub asked: &'a Asked,
    /// Where the service listens, for clients on this machine.
    pub service: &'a Host,
    /// Its other names, by the settings.
    pub hosts: &'a [Host],
    /// The settings that are in force, if they could be read.
    pub settings: Option<&'a Settings>,
    /// The only repository whose transfer files are looked at; `None`: all.
    pub only: Option<&'a Directory>,
}

/// A transfer file that names a directory of this service.
struct Update {
    transfer: Transfer,
    directory: Directory,
}

impl Update {
    fn file(&self) -> String {
        self.transfer.file.display().to_string()
    }

    /// `None` for the OS itself.
    fn component(&self) -> Option<&str> {
        self.transfer.component.as_deref()
    }

    /// systemd-sysupdate for its component, with this verb. Up to 257 it is in none of the places of `$PATH`.
    fn command(&self, machine: &Machine, verb: &str) -> String {
        let option = self.component().map(|name| format!(" -C {name}"));
        let found = SYSUPDATE.iter().find(|place| machine.path(place).exists());
        let program = found.map_or_else(
            || "systemd-sysupdate".to_owned(),
            |place| format!("/{place}"),
        );
        format!("{program}{} {verb}", option.unwrap_or_default())
    }
}

/// Looks at all of it.
pub fn check(report: &mut Report, machine: &Machine, wanted: &Wanted) {
    let systemd = match SystemdVersion::of_this_machine() {
        Ok(systemd) => systemd,
        Err(why) => {
            let remedy = "`systemctl --version` has to print the version of systemd";
            return report.push(Finding::unknown(Step::Sysupdate, why, remedy));
        }
    };
    let mut places = SYSUPDATE.iter();
    let Some(program) = places.find(|place| machine.path(place).exists()) else {
        let text = "systemd-sysupdate is not installed";
        let remedy = "install its package: systemd-container on Debian, systemd-udev on Fedora";
        return report.push(Finding::failed(Step::Sysupdate, text, remedy));
    };
    let text = format!("/{program} of systemd {} is installed", systemd.0);
    report.push(Finding::ok(Step::Sysupdate, text));
    let updates = transfers::read(report, machine, wanted, systemd);
    let components: BTreeSet<_> = updates.iter().map(Update::component).collect();
    let mut seeds = Seeds::new(machine, systemd, wanted);
    for component in &components {
        let its = updates.iter().filter(|one| one.component() == *component);
        check_component(report, machine, wanted.asked, systemd, its, &mut seeds);
    }
    seeds.check_settings(report, wanted.only.map(|only| &only.repository));
    for component in components {
        runs::check(report, machine, systemd, component);
    }
}

/// The transfer files of one component, as far as their repositories have an answer.
fn check_component<'a>(
    report: &mut Report,
    machine: &Machine,
    asked: &Asked,
    systemd: SystemdVersion,
    updates: impl Iterator<Item = &'a Update>,
    seeds: &mut Seeds<'_>,
) {
    let mut offers = Vec::new();
    for update in updates {
        match overview(asked, &update.directory) {
            Ok(overview) => offers.push((update, overview)),
            Err(error) => report.push(no_answer(report, update, &error)),
        }
    }
    let sets = offers
        .iter()
        .map(|(update, overview)| offered::versions(systemd, update, overview));
    let common = offered::Common::of(sets);
    for (update, overview) in &offers {
        let newest = offered::check(report, machine, systemd, update, overview, &common);
        keyring::check(report, machine, systemd, asked, update, overview);
        target::check(report, machine, systemd, update, newest.as_ref());
        if let Some(newest) = &newest {
            seeds.check(report, update, newest);
        }
        link::check(report, machine, systemd, update, overview);
    }
}

/// The steps before said why, if they asked for the same.
fn no_answer(report: &Report, update: &Update, error: &Error) -> Finding {
    let directory = &update.directory;
    let is_told = BEFORE.iter().any(|step| report.has_failed(*step));
    let finding = match error.exit_status() {
        _ if is_told => Finding::skipped(
            Step::Pattern,
            format!("there is no list of {directory}; see above"),
        ),
        NO => Finding::failed(Step::Pattern, error.line(), remedy(error, directory)),
        _ => Finding::unknown(Step::Pattern, error.line(), remedy(error, directory)),
    };
    finding.of(&update.transfer.source.path_at)
}

fn remedy(error: &Error, directory: &Directory) -> String {
    let all = || format!("`sysext-oci-proxy list --all {directory}` shows what there is");
    advice(error).1.map_or_else(all, str::to_owned)
}

fn overview(asked: &Asked, directory: &Directory) -> Result<Overview> {
    asked::parse(directory, &asked.json(directory)?)
}
