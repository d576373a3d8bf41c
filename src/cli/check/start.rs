//! Whether the service starts and answers.

use std::thread;
use std::time::{Duration, Instant};

use super::machine::{Machine, Properties};
use super::report::{Finding, Report, Step};
use crate::cli::service::Service;
use crate::error::Error;

/// The unit that is started by a connection.
const SERVICE: &str = "sysext-oci-proxy.service";
const PROPERTIES: [&str; 5] = [
    "LoadState",
    "ActiveState",
    "SubState",
    "Result",
    "ExecMainStatus",
];
/// Longest wait for a start that fails, and the pause between two looks. `RestartSec=` of the unit is longer.
const START: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);
/// Exit statuses of systemd itself, before the program runs (systemd.exec(5)), and what to look at.
const OF_SYSTEMD: [(&str, &str); 7] = [
    (
        "203",
        "check that the program in ExecStart= exists and is executable: systemctl cat sysext-oci-proxy.service",
    ),
    (
        "217",
        "look at User= in a drop-in: systemctl cat sysext-oci-proxy.service",
    ),
    (
        "226",
        "look for a path in a drop-in that does not exist: systemctl cat sysext-oci-proxy.service",
    ),
    (
        "228",
        "look at SystemCallFilter= in a drop-in: systemctl cat sysext-oci-proxy.service",
    ),
    (
        "238",
        "look at /var/lib/sysext-oci-proxy: something else has that name, or its disk is read-only",
    ),
    (
        "239",
        "look at /var/cache/sysext-oci-proxy: something else has that name, or its disk is read-only",
    ),
    (
        "243",
        "look at the files in /etc/credstore and /etc/credstore.encrypted: systemd-creds decrypt FILE",
    ),
];

/// Asks the service for its start page, by which systemd starts it. True if it answers. `is_unit`: systemd starts it.
pub fn check(report: &mut Report, machine: &Machine, service: &Service, is_unit: bool) -> bool {
    if let Some(failed) = [Step::Socket, Step::Port]
        .into_iter()
        .find(|step| report.has_failed(*step))
    {
        let why = format!("it is not asked, because the step '{failed}' failed");
        report.push(Finding::skipped(Step::Service, why));
        return false;
    }
    let error = match service.start() {
        Ok(()) => {
            report.push(Finding::ok(
                Step::Service,
                format!("it answers at {}", service.url()),
            ));
            return true;
        }
        Err(error) => error,
    };
    let unit = match is_unit {
        true => settled(machine),
        false => Properties::default(),
    };
    report.push(judge(&error, &unit));
    false
}

/// The state of the unit between two starts: while one is under way systemd does not tell how the last one ended.
fn settled(machine: &Machine) -> Properties {
    let ask = || machine.unit(SERVICE, &PROPERTIES).unwrap_or_default();
    let end = Instant::now() + START;
    let mut unit = ask();
    while unit.get("SubState").starts_with("start") && Instant::now() < end {
        thread::sleep(PAUSE);
        unit = ask();
    }
    unit
}

fn judge(error: &Error, unit: &Properties) -> Finding {
    let step = Step::Service;
    let journal = format!("journalctl -eu {SERVICE} has the reason");
    if let Error::Refused { reason, remedy, .. } = error {
        let remedy = remedy.clone().unwrap_or(journal);
        return Finding::failed(step, format!("it answers with an error: {reason}"), remedy);
    }
    match unit.get("LoadState") {
        "not-found" | "masked" | "bad-setting" => {
            let why = format!(
                "{SERVICE} cannot be started: it is {}",
                unit.get("LoadState")
            );
            let remedy = format!(
                "systemctl status {SERVICE}; install its unit, or systemctl unmask {SERVICE}"
            );
            return Finding::failed(step, why, remedy);
        }
        _ => {}
    }
    let status = unit.get("ExecMainStatus");
    let of_systemd = OF_SYSTEMD.iter().find(|(number, _)| *number == status);
    let state = match unit.get("ActiveState") {
        "" => String::new(),
        active => format!(
            "; {SERVICE} is {active} ({}), with the result {:?} and the exit status {status}",
            unit.get("SubState"),
            unit.get("Result")
        ),
    };
    let remedy = of_systemd.map_or(journal, |(_, remedy)| (*remedy).to_owned());
    Finding::failed(
        step,
        format!("it does not answer: {}{state}", error.line()),
        remedy,
    )
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn why_a_service_does_not_start_is_told_by_systemds_own_exit_status() {
        let silent = Error::Broken {
            url: "http://localhost:5001/".into(),
            cause: Arc::new(io::Error::from(io::ErrorKind::TimedOut)),
        };
        let failing = |status| {
            format!(
                "LoadState=loaded\nActiveState=activating\nSubState=auto-restart\nResult=exit-code\nExecMainStatus={status}\n"
            )
        };
        for (properties, expected) in [
            (failing("203"), "ExecStart="),
            (failing("243"), "credstore"),
            (failing("1"), "journalctl"),
            (failing("203"), "activating (auto-restart)"),
            ("LoadState=masked\n".to_owned(), "unmask"),
            (String::new(), "journalctl"),
        ] {
            let found = judge(&silent, &Properties::parse(&properties)).to_string();
            assert!(found.contains(expected), "{expected}: {found}");
        }
        let refused = Error::Refused {
            status: 500,
            reason: "settings /etc/x:7: no".into(),
            step: Some("settings".into()),
            remedy: Some("correct the settings".into()),
        };
        let found = judge(&refused, &Properties::default()).to_string();
        assert!(
            found.contains("/etc/x:7") && found.contains("→ correct"),
            "{found}"
        );
    }
}
