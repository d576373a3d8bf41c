//! The command `check`: walks the way that an update takes, and says at each step what is missing.
//!
//! A step is a function in a file of its own that pushes a [`report::Finding`], or several; [`check`] has their order. What
//! a step knows of the machine comes through [`machine::Machine`].

mod clock;
mod machine;
mod report;
mod settings;
mod socket;

use std::path::Path;

use super::asked::Whom;
use super::reference::{Origin, Reference};
use super::service::ServiceUrl;
use crate::error::{Error, Result};
use machine::Machine;
use report::{Finding, Report, Step, Verdict};

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
    check_listener(&mut report, &machine, &way);
    let is_direct = matches!(way, Way::Direct);
    settings::check(&mut report, &machine, config, is_direct);
    clock::check(&mut report, &machine);
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

fn check_listener(report: &mut Report, machine: &Machine, way: &Way) {
    match way {
        Way::Unit => socket::check(report, machine, ServiceUrl::default().port()),
        Way::Named(url) => {
            let why = format!("{url} is asked, not the service that systemd starts");
            report.push(Finding::skipped(Step::Socket, why));
        }
        Way::Direct => {
            let why = "this command works by itself, without the service";
            report.push(Finding::skipped(Step::Socket, why));
        }
    }
}

/// An error is no yes and no no.
fn answer(verdict: Verdict) -> Result<bool> {
    match verdict {
        Verdict::Yes => Ok(true),
        Verdict::No(_) => Ok(false),
        Verdict::Unknown(steps) => Err(Error::CannotDo {
            command: "check",
            why: format!("{steps} steps could not be found out, and none failed"),
        }),
    }
}
