//! Whether systemd listens for the service, and nobody else on its port.

use std::net::SocketAddr;

use super::machine::{Machine, Properties};
use super::report::{Finding, Report, Step};
use crate::cli::port_owner;
use crate::cli::service::ServiceUrl;
use crate::dir;
use crate::sysupdate;

/// The unit that listens.
pub const SOCKET: &str = "sysext-oci-proxy.socket";
const PROPERTIES: [&str; 8] = [
    "LoadState",
    "UnitFileState",
    "ActiveState",
    "Result",
    "NeedDaemonReload",
    "WantedBy",
    "UpheldBy",
    "Listen",
];
/// The root user, who runs systemd.
const ROOT: u32 = 0;

/// Looks at the socket unit, and at the owner of its port. The result is where it listens.
pub fn check(report: &mut Report, machine: &Machine) -> ServiceUrl {
    let unit = machine.unit(SOCKET, &PROPERTIES);
    let url = unit.as_ref().ok().and_then(address).unwrap_or_default();
    report.push(match unit {
        Ok(unit) => judge_unit(&unit),
        Err(why) => Finding::unknown(
            Step::Socket,
            why,
            "run this command where systemd runs; --service URL checks a service that systemd does not start",
        ),
    });
    let is_ours = !report.has_failed(Step::Socket);
    let port = url.port();
    let owners = port_owner::owners(machine.root(), port);
    report.push(judge_owners(&owners, is_ours, port, dir::user()));
    url
}

/// Where it listens: `127.0.0.1:5001 (Stream)`. All addresses are asked at this machine's own.
fn address(unit: &Properties) -> Option<ServiceUrl> {
    let address = unit.get("Listen").split(' ').next()?;
    let address: SocketAddr = address.parse().ok()?;
    sysupdate::name_of(address).map(ServiceUrl::at)
}

fn judge_unit(unit: &Properties) -> Finding {
    let step = Step::Socket;
    let (load, file_state) = (unit.get("LoadState"), unit.get("UnitFileState"));
    match load {
        "loaded" => {}
        "not-found" => {
            let why = format!("{SOCKET} is not installed");
            let remedy = "install the units of sysext-oci-proxy, then systemctl daemon-reload";
            return Finding::failed(step, why, remedy);
        }
        "masked" => {
            let why = format!("{SOCKET} is masked");
            let remedy = format!("systemctl unmask {SOCKET}, then systemctl enable --now {SOCKET}");
            return Finding::failed(step, why, remedy);
        }
        other => {
            let why = format!("{SOCKET} cannot be loaded: its LoadState is {other:?}");
            return Finding::failed(step, why, format!("systemd-analyze verify {SOCKET}"));
        }
    }
    match unit.get("ActiveState") {
        "active" => {}
        "failed" => {
            let why = format!("{SOCKET} failed: its result is {:?}", unit.get("Result"));
            let remedy = format!(
                "journalctl -eu {SOCKET} has the reason; correct it, then systemctl restart {SOCKET}"
            );
            return Finding::failed(step, why, remedy);
        }
        state => {
            let why = format!("{SOCKET} does not listen: it is {state}, and {file_state}");
            return Finding::failed(step, why, format!("systemctl enable --now {SOCKET}"));
        }
    }
    let is_wanted = !(unit.get("WantedBy").is_empty() && unit.get("UpheldBy").is_empty());
    if !is_wanted && !file_state.starts_with("enabled") {
        let why =
            format!("{SOCKET} is active, but {file_state}: after the next boot it does not listen");
        return Finding::warning(step, why, format!("systemctl enable {SOCKET}"));
    }
    if unit.get("NeedDaemonReload") == "yes" {
        let why = format!("{SOCKET} is active, but its file on disk has changed since");
        let remedy = format!("systemctl daemon-reload, then systemctl restart {SOCKET}");
        return Finding::warning(step, why, remedy);
    }
    let address = unit.get("Listen");
    Finding::ok(
        step,
        format!("{SOCKET} is active and enabled, at {address}"),
    )
}

/// `is_ours`: the socket unit listens. `caller`: a user may start a service by hand.
fn judge_owners(owners: &[u32], is_ours: bool, port: u16, caller: u32) -> Finding {
    let step = Step::Port;
    let remedy = format!(
        "`ss -ltnp 'sport = :{port}'` as root shows the program; stop it, or let both listen elsewhere: ListenStream= in a \
         drop-in for {SOCKET}"
    );
    let mut strangers = (owners.iter()).filter(|owner| ![&ROOT, &caller].contains(owner));
    match (strangers.next(), owners.first()) {
        (Some(stranger), _) => {
            let why = format!(
                "a program of user {stranger} listens on port {port}, neither systemd nor you"
            );
            Finding::failed(step, why, remedy)
        }
        (None, None) if is_ours => {
            let why =
                format!("no program listens on port {port} of this machine's loopback addresses");
            Finding::failed(step, why, format!("systemctl restart {SOCKET}"))
        }
        (None, None) => Finding::skipped(step, format!("no program listens on port {port}")),
        (None, Some(_)) if !is_ours => {
            let why = format!("another program than systemd listens on port {port}");
            Finding::failed(step, why, remedy)
        }
        (None, Some(&ROOT)) => Finding::ok(step, format!("port {port} belongs to root")),
        (None, Some(_)) => Finding::ok(step, format!("port {port} belongs to you")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::*;

    #[test]
    fn a_socket_unit_is_right_if_it_listens_now_and_after_the_next_boot() {
        let good = "LoadState=loaded\nUnitFileState=enabled\nActiveState=active\nResult=success\nNeedDaemonReload=no\n\
                    WantedBy=sockets.target\nUpheldBy=\nListen=127.0.0.1:5001 (Stream)\n";
        for (from, to, status, part) in [
            ("", "", Status::Ok, "active and enabled"),
            (
                "LoadState=loaded",
                "LoadState=not-found",
                Status::Failed,
                "not installed",
            ),
            (
                "LoadState=loaded",
                "LoadState=masked",
                Status::Failed,
                "unmask",
            ),
            (
                "LoadState=loaded",
                "LoadState=bad-setting",
                Status::Failed,
                "systemd-analyze verify",
            ),
            (
                "ActiveState=active",
                "ActiveState=inactive",
                Status::Failed,
                "enable --now",
            ),
            (
                "ActiveState=active",
                "ActiveState=failed",
                Status::Failed,
                "journalctl",
            ),
            ("127.0.0.1:5001", "[::]:5001", Status::Ok, "active"),
            ("Listen=127.0.0.1:5001 (Stream)", "", Status::Ok, "active"),
            (
                "NeedDaemonReload=no",
                "NeedDaemonReload=yes",
                Status::Warning,
                "daemon-reload",
            ),
            (
                "WantedBy=sockets.target",
                "WantedBy=",
                Status::Ok,
                "enabled",
            ),
            (
                "UnitFileState=enabled",
                "UnitFileState=disabled",
                Status::Ok,
                "wanted by a link in /usr",
            ),
        ] {
            let found = judge_unit(&Properties::parse(&good.replace(from, to)));
            assert_eq!(found.status, status, "{to}: {found}");
            let says = found.to_string().contains(part) || found.status == Status::Ok;
            assert!(says, "{to}: {found}");
        }
        let disabled = good.replace("enabled", "disabled");
        let disabled = disabled.replace("WantedBy=sockets.target", "WantedBy=");
        let found = judge_unit(&Properties::parse(&disabled));
        assert_eq!(found.status, Status::Warning, "{found}");
    }

    #[test]
    fn the_service_is_asked_where_the_socket_unit_listens() {
        for (listen, expected) in [
            ("127.0.0.1:5001 (Stream)", Some("http://127.0.0.1:5001")),
            ("127.0.0.1:6001 (Stream)", Some("http://127.0.0.1:6001")),
            ("[::1]:5001 (Stream)", Some("http://[::1]:5001")),
            ("[::]:5001 (Stream)", Some("http://localhost:5001")),
            ("/run/p.sock (Stream)", None),
            ("", None),
        ] {
            let found = address(&Properties::parse(&format!("Listen={listen}\n")));
            let found = found.map(|url| url.to_string());
            assert_eq!(found.as_deref(), expected, "{listen}");
        }
    }

    #[test]
    fn a_port_is_systemds_or_the_callers() {
        for (owners, is_ours, caller, status, why) in [
            (&[0][..], true, 1000, Status::Ok, "systemd"),
            (&[1000], true, 1000, Status::Ok, "a service of one's own"),
            (&[1000], true, 0, Status::Failed, "a stranger, to root"),
            (
                &[0, 1001],
                true,
                1000,
                Status::Failed,
                "one on each address",
            ),
            (&[0], false, 1000, Status::Failed, "another program of root"),
            (
                &[1000],
                false,
                1000,
                Status::Failed,
                "in the way of the unit",
            ),
            (
                &[],
                true,
                1000,
                Status::Failed,
                "the unit listens elsewhere",
            ),
            (
                &[],
                false,
                1000,
                Status::Skipped,
                "what the step before says",
            ),
        ] {
            let found = judge_owners(owners, is_ours, 5001, caller);
            assert_eq!(found.status, status, "{why}: {found}");
        }
    }
}
