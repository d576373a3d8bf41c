//! The command `check`: walks the way that an update takes, and says at each step what is missing.
//!
//! A step is a function in a file of its own that pushes a [`report::Finding`], or several; [`check`] has their order. What
//! a step knows of the machine comes through [`machine::Machine`]; what the service knows is asked of the service.

mod clock;
mod directories;
mod expiry;
mod machine;
mod report;
mod repository;
mod settings;
mod socket;
mod start;
mod updates;
mod validity;

use std::collections::BTreeSet;
use std::path::Path;

use super::asked::{Asked, Whom};
use super::reference::{Origin, Reference};
use super::service::{Service, ServiceUrl};
use crate::address::{Directory, View};
use crate::error::{Error, Result};
use crate::settings::Settings;
use crate::sysupdate;
use machine::Machine;
use report::{Finding, Report, Step, Verdict};
use repository::Walk;

/// Who fetches the updates of this machine.
enum Way {
    /// The service that systemd starts.
    Unit,
    /// A service that somebody named.
    Named(ServiceUrl),
    /// This process, in the place of a service.
    Direct,
}

/// Prints a line for each step: of one repository, or of all that transfer files and settings name. The result is
/// whether an update would happen. `root`: the directory that the files of the machine are below.
pub fn check(
    reference: Option<&Reference>,
    is_json: bool,
    whom: Whom,
    config: Option<&Path>,
    root: &Path,
) -> Result<bool> {
    let machine = Machine::new(root);
    let mut report = Report::new(is_json);
    let way = Way::of(reference, whom, config);
    let url = check_listener(&mut report, &machine, &way);
    let is_direct = matches!(way, Way::Direct);
    let settings = settings::check(&mut report, &machine, config, is_direct);
    if !matches!(way, Way::Named(_)) {
        directories::check(&mut report, &machine, is_direct);
    }
    let is_unit = matches!(way, Way::Unit);
    let clients = url.clone().unwrap_or_default();
    let service = url.map(Service::new);
    let service = service.filter(|one| start::check(&mut report, &machine, one, is_unit));
    clock::check(&mut report, &machine);
    let is_stand_in = service.is_none() && !is_direct;
    if let Some(asked) = asked(service, reference, settings.as_ref()) {
        let directories = wanted(reference, &machine, settings.as_ref());
        let mut walk = Walk::new(&asked, settings.as_ref(), is_stand_in);
        for directory in &directories {
            walk.check(&mut report, directory);
        }
        match &way {
            Way::Unit => {
                let wanted = updates::Wanted {
                    asked: &asked,
                    service: clients.host(),
                    hosts: settings.as_ref().map_or(&[], |settings| &settings.hosts),
                    settings: settings.as_ref(),
                    only: reference.map(|reference| &reference.directory),
                };
                updates::check(&mut report, &machine, &wanted);
            }
            Way::Named(_) | Way::Direct => {
                let why = "only updates from the service that systemd starts are checked";
                report.push(Finding::skipped(Step::Sysupdate, why));
            }
        }
        if let Some(settings) = &settings {
            expiry::check(&mut report, &machine, settings, &directories, is_direct);
        }
    }
    answer(report.finish()?)
}

impl Way {
    fn of(reference: Option<&Reference>, whom: Whom, config: Option<&Path>) -> Self {
        let origin = reference.map(|reference| &reference.origin);
        match (origin, whom.service) {
            _ if whom.direct || config.is_some() => Self::Direct,
            (Some(Origin::Layout(_)), _) => Self::Direct,
            (Some(Origin::Service(host)), _) => Self::at(ServiceUrl::at(host.clone())),
            (_, Some(url)) => Self::at(url),
            (_, None) => Self::Unit,
        }
    }

    fn at(url: ServiceUrl) -> Self {
        match url == ServiceUrl::default() {
            true => Self::Unit,
            false => Self::Named(url),
        }
    }
}

/// Looks at what listens. The result is where the service is asked; `None`: it is not.
fn check_listener(report: &mut Report, machine: &Machine, way: &Way) -> Option<ServiceUrl> {
    match way {
        Way::Unit => Some(socket::check(report, machine)),
        Way::Named(url) => {
            let why = format!("{url} is asked, not the service that systemd starts");
            report.push(Finding::skipped(Step::Socket, why));
            url.warn_of_stranger();
            Some(url.clone())
        }
        Way::Direct => {
            let why = "this command works without the service";
            report.push(Finding::skipped(Step::Socket, why));
            None
        }
    }
}

/// The service, or in its place this process.
fn asked(
    service: Option<Service>,
    reference: Option<&Reference>,
    settings: Option<&Settings>,
) -> Option<Asked> {
    if let Some(service) = service {
        return Some(Asked::Service(service));
    }
    let settings = settings?.clone();
    let settings = match reference {
        Some(reference) => reference.settings(settings),
        None => settings,
    };
    Asked::itself(settings).ok()
}

/// The directory that was named; without one, those of transfer files and of the settings.
fn wanted(
    reference: Option<&Reference>,
    machine: &Machine,
    settings: Option<&Settings>,
) -> Vec<Directory> {
    if let Some(reference) = reference {
        return vec![reference.directory.clone()];
    }
    let hosts = settings.map_or(&[][..], |settings| &settings.hosts);
    let mut names: BTreeSet<_> = sysupdate::repositories(machine.root(), hosts)
        .into_iter()
        .collect();
    names.extend(
        settings
            .iter()
            .flat_map(|settings| settings.repositories.keys().cloned()),
    );
    let view = View::Tags;
    let directory = |repository| Directory {
        repository,
        view: view.clone(),
    };
    names.into_iter().map(directory).collect()
}

/// An error is no yes and no no.
fn answer(verdict: Verdict) -> Result<bool> {
    match verdict {
        Verdict::Yes => Ok(true),
        Verdict::No => Ok(false),
        Verdict::Unknown(steps) => Err(Error::CannotDo {
            command: "check",
            why: format!("{steps} of the steps could not be checked, and none failed"),
        }),
    }
}
