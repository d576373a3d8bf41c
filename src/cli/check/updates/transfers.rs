//! The transfer files that name this service, or that were perhaps meant to.

use std::fs;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::{Update, Wanted};
use crate::address::Directory;
use crate::cli::check::machine::Machine;
use crate::cli::check::report::{Finding, Report, Step};
use crate::name::Host;
use crate::sysupdate::{self, Aim, Definition, Fault, Specifiers, SystemdVersion, Transfer};

/// The first version that reads files that end in `.transfer`.
const FIRST_WITH_TRANSFER: SystemdVersion = SystemdVersion(257);
/// How long a program on this machine may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);

/// The transfer files that name this service. Those that are wrong are told.
pub fn read(
    report: &mut Report,
    machine: &Machine,
    wanted: &Wanted,
    systemd: SystemdVersion,
) -> Vec<Update> {
    let definitions = match sysupdate::find(machine.root()) {
        Ok(definitions) => definitions,
        Err(fault) => {
            let finding = Finding::unknown(Step::Transfer, &*fault.why, "run this command as root");
            report.push(finding.of(fault.place()));
            return Vec::new();
        }
    };
    let specifiers = Specifiers::read(machine.root());
    let mut updates = Vec::new();
    let mut has_features = false;
    for definition in &definitions {
        if let Err(fault) = &definition.assignments {
            if mentions(machine, definition, wanted.service) {
                report.push(refused(fault));
            }
            continue;
        }
        let Some(aim) = aim(definition, &specifiers, wanted) else {
            continue;
        };
        let parsed = Transfer::parse(definition, &specifiers, systemd);
        let finding = match (aim, parsed) {
            _ if !is_read(definition, systemd) => unread(definition, systemd),
            (_, Err(fault)) => refused(&fault),
            (Err((text, remedy)), Ok(transfer)) => {
                Finding::failed(Step::Transfer, text, remedy).of(&transfer.source.path_at)
            }
            (Ok(_), Ok(transfer)) if !transfer.features.is_empty() => {
                has_features = true;
                optional(&transfer)
            }
            (Ok(directory), Ok(transfer)) => {
                transfer
                    .ignored
                    .iter()
                    .for_each(|fault| report.push(ignored(fault)));
                let text = format!("it updates from {directory}");
                let finding = Finding::ok(Step::Transfer, text).of(&transfer.source.path_at);
                updates.push(Update {
                    transfer,
                    directory,
                });
                finding
            }
        };
        report.push(finding);
    }
    if updates.is_empty() && !has_features && !report.has_failed(Step::Transfer) {
        report.push(none(wanted));
    }
    updates
}

/// The directory that a transfer file names, or why it fails to name one and what to do. `None`: it is for others.
fn aim(
    definition: &Definition,
    specifiers: &Specifiers,
    wanted: &Wanted,
) -> Option<Result<Directory, (String, String)>> {
    let path = sysupdate::source_path(definition)?;
    let path = specifiers.expand(path).unwrap_or_else(|_| path.to_owned());
    let is_wanted = |directory: &Directory| {
        wanted
            .only
            .is_none_or(|only| only.repository == directory.repository)
    };
    match sysupdate::aim(&path, wanted.service, wanted.hosts) {
        Aim::Here(directory) => is_wanted(&directory).then_some(Ok(directory)),
        Aim::Unclear(why) => Some(Err((
            format!("Path={path} names no repository: {why}"),
            format!("write Path=http://{}/REPOSITORY", wanted.service),
        ))),
        // Another server of this machine may listen there.
        Aim::Beside { host, directory } if !is_wanted(&directory) || is_open(&host) => None,
        Aim::Beside { host, directory } => Some(Err((
            format!(
                "Path={path} leads to {host}, and the service is at http://{}",
                wanted.service
            ),
            format!("write Path=http://{}/{directory}", wanted.service),
        ))),
        Aim::Elsewhere => None,
    }
}

/// Whether somebody listens at a host and port of this machine.
fn is_open(host: &Host) -> bool {
    let name = host.bare().trim_matches(['[', ']']);
    let addresses = (name, host.port().unwrap_or(80)).to_socket_addrs();
    let mut addresses = addresses.into_iter().flatten();
    addresses.any(|address| TcpStream::connect_timeout(&address, CONNECT).is_ok())
}

/// Whether a file that has no settings for systemd has the address of the service in its text.
fn mentions(machine: &Machine, definition: &Definition, service: &Host) -> bool {
    let text = fs::read(machine.path(&definition.path)).unwrap_or_default();
    String::from_utf8_lossy(&text).contains(&service.to_string())
}

fn refused(fault: &Fault) -> Finding {
    let remedy = "correct it: systemd-sysupdate refuses the whole component";
    Finding::failed(Step::Transfer, &*fault.why, remedy).of(fault.place())
}

/// systemd before 257 reads `.conf` alone.
fn is_read(definition: &Definition, systemd: SystemdVersion) -> bool {
    let is_conf = definition
        .path
        .extension()
        .is_some_and(|ending| ending == "conf");
    match systemd < FIRST_WITH_TRANSFER {
        true => is_conf,
        false => definition.is_read,
    }
}

fn unread(definition: &Definition, systemd: SystemdVersion) -> Finding {
    let path = definition.path.display();
    let (text, ending) = match systemd < FIRST_WITH_TRANSFER {
        true => (
            format!("systemd {} reads only files that end in .conf", systemd.0),
            "conf",
        ),
        false => (
            format!(
                "systemd {} reads no .conf beside a .transfer of the same component",
                systemd.0
            ),
            "transfer",
        ),
    };
    let renamed = definition.path.with_extension(ending);
    Finding::failed(
        Step::Transfer,
        text,
        format!("`mv {path} {}`", renamed.display()),
    )
    .of(path)
}

fn ignored(fault: &Fault) -> Finding {
    let remedy = "correct it, or remove the line";
    Finding::warning(Step::Transfer, &*fault.why, remedy).of(fault.place())
}

/// Whether a feature is enabled is in files of its own (sysupdate.features(5)).
fn optional(transfer: &Transfer) -> Finding {
    let features = transfer.features.join(", ");
    let text = format!(
        "systemd uses it only if these features are enabled, which is not looked at: {features}"
    );
    Finding::skipped(Step::Transfer, text).of(&transfer.source.path_at)
}

fn none(wanted: &Wanted) -> Finding {
    let named = match wanted.only {
        Some(directory) => directory.to_string(),
        None => "REPOSITORY".to_owned(),
    };
    Finding::failed(
        Step::Transfer,
        format!(
            "no transfer file of this machine names http://{}/{named}",
            wanted.service
        ),
        format!("`sysext-oci-proxy transfer {named} --write` writes one"),
    )
}
