//! When a component is updated: its timer, and how the last run ended.

use serde::Deserialize;
use serde_json::Value;

use crate::cli::check::machine::Machine;
use crate::cli::check::report::{Finding, Report, Step};
use crate::cli::systemd;
use crate::sysupdate::SystemdVersion;

/// The units of this project for one component.
const OURS: &str = "sysext-oci-proxy-update@";
/// The units of the distribution for the OS itself, and as of systemd 262 for all components.
const ALL: &str = "systemd-sysupdate-update";
/// Their name up to then.
const ALL_BEFORE: &str = "systemd-sysupdate";
/// The first version in which they are for all components.
const FIRST_FOR_ALL: SystemdVersion = SystemdVersion(262);
/// systemd's IDs of the entries "UNIT succeeded" and "UNIT failed" (systemd: src/systemd/sd-messages.h).
const SUCCEEDED: &str = "7ad2d189f7e94e70a38c781354912448";
const FAILED: &str = "d9b373ed55a64feb8242e02dbe79a49c";
/// Older entries are not searched: reading all of a large journal takes minutes.
const SINCE: &str = "--since=-30days";
/// The properties of a timer that are read.
const PROPERTIES: [&str; 5] = [
    "LoadState",
    "UnitFileState",
    "ActiveState",
    "ConditionResult",
    "NextElapseUSecRealtime",
];

/// Looks at the timer and the last run of one component; `None`: the OS itself.
pub fn check(
    report: &mut Report,
    machine: &Machine,
    systemd: SystemdVersion,
    component: Option<&str>,
) {
    let units = units(systemd, component);
    let mut timers = Vec::new();
    for unit in &units {
        match timer(machine, unit) {
            Ok(timer) => timers.push(timer),
            Err(why) => {
                let remedy = "`systemctl list-timers` has to work";
                report.push(Finding::unknown(Step::Timer, why, remedy).of(&units[0]));
                return;
            }
        }
    }
    let chosen = timers.iter().position(Timer::is_enabled).unwrap_or(0);
    let unit = &units[chosen];
    report.push(
        timers[chosen]
            .judge(unit, component)
            .of(format!("{unit}.timer")),
    );
    report.push(last_run(unit).of(format!("{unit}.service")));
}

/// The units that update a component, without `.timer` and `.service`.
fn units(systemd: SystemdVersion, component: Option<&str>) -> Vec<String> {
    let all = match systemd >= FIRST_FOR_ALL {
        true => ALL,
        false => ALL_BEFORE,
    };
    match component {
        None => vec![all.to_owned()],
        Some(name) if systemd >= FIRST_FOR_ALL => vec![format!("{OURS}{name}"), all.to_owned()],
        Some(name) => vec![format!("{OURS}{name}")],
    }
}

/// A timer, as systemd has it.
#[derive(Debug, Default, PartialEq)]
struct Timer {
    load_state: String,
    file_state: String,
    active_state: String,
    /// Whether what it asks of the machine was met, as far as it was asked.
    condition: String,
    next: String,
}

fn timer(machine: &Machine, unit: &str) -> Result<Timer, String> {
    let found = machine.unit(&format!("{unit}.timer"), &PROPERTIES)?;
    let [load_state, file_state, active_state, condition, next] =
        PROPERTIES.map(|name| found.get(name).to_owned());
    Ok(Timer {
        load_state,
        file_state,
        active_state,
        condition,
        next,
    })
}

impl Timer {
    fn is_enabled(&self) -> bool {
        self.file_state.starts_with("enabled") || self.active_state == "active"
    }

    fn judge(&self, unit: &str, component: Option<&str>) -> Finding {
        let start = format!("`systemctl enable --now {unit}.timer`");
        match (self.load_state.as_str(), self.active_state.as_str()) {
            ("masked", _) => Finding::warning(
                Step::Timer,
                "it is masked, so updates are started only by hand",
                format!("`systemctl unmask {unit}.timer`, and {start}"),
            ),
            ("not-found", _) => Finding::warning(
                Step::Timer,
                "there is no such timer, so updates are started only by hand",
                match component {
                    Some(_) => format!("install the units of sysext-oci-proxy, and {start}"),
                    None => "install the units of systemd-sysupdate".to_owned(),
                },
            ),
            (_, "active") if self.next.is_empty() || self.next == "n/a" => Finding::failed(
                Step::Timer,
                "it is active, but never elapses again",
                format!(
                    "`systemctl restart {unit}.timer`, and look at OnCalendar= in `systemctl cat {unit}.timer`"
                ),
            ),
            (_, "active") => {
                Finding::ok(Step::Timer, format!("the next update is on {}", self.next))
            }
            _ if self.is_enabled() && self.condition == "no" => Finding::failed(
                Step::Timer,
                "it is enabled, but one of its conditions is not met; in a container the timers of systemd never start",
                format!("`systemctl status {unit}.timer` shows which one"),
            ),
            _ if self.is_enabled() => Finding::failed(
                Step::Timer,
                "it is enabled, but not active",
                format!("`systemctl start {unit}.timer`"),
            ),
            _ => Finding::warning(
                Step::Timer,
                "it is not enabled, so updates are started only by hand",
                start,
            ),
        }
    }
}

/// An entry of the journal. A text that is no UTF-8 is a list of bytes there.
#[derive(Debug, Deserialize)]
struct Entry {
    #[serde(rename = "MESSAGE_ID")]
    id: Option<String>,
    #[serde(rename = "MESSAGE")]
    message: Option<Value>,
    #[serde(rename = "INVOCATION_ID")]
    invocation: Option<String>,
}

/// How the last run ended, by the journal: systemd forgets it at a reboot.
fn last_run(unit: &str) -> Finding {
    let of_unit = format!("UNIT={unit}.service");
    let [succeeded, failed] = [SUCCEEDED, FAILED].map(|id| format!("MESSAGE_ID={id}"));
    let entries = journal(&[&of_unit, &succeeded, &failed]);
    let last = match entries {
        Ok(last) => last,
        Err(why) => return Finding::skipped(Step::LastRun, why),
    };
    let Some(last) = last else {
        let text = "the journal has no completed run of the last 30 days, or this user may not read the journal";
        return Finding::skipped(Step::LastRun, text);
    };
    if last.id.as_deref() == Some(SUCCEEDED) {
        return Finding::ok(Step::LastRun, "the last run succeeded");
    }
    let why = last.invocation.as_deref().and_then(complaint);
    let text = match why {
        Some(why) => format!("the last run failed: {why}"),
        None => "the last run failed".to_owned(),
    };
    let remedy = format!(
        "`journalctl -u {unit}.service` shows all messages; `systemctl start {unit}.service` tries again"
    );
    Finding::warning(Step::LastRun, text, remedy)
}

/// The last error that a run logged.
fn complaint(invocation: &str) -> Option<String> {
    let of_run = format!("_SYSTEMD_INVOCATION_ID={invocation}");
    let errors = ["0", "1", "2", "3"].map(|priority| format!("PRIORITY={priority}"));
    let mut matches = vec![of_run.as_str()];
    matches.extend(errors.iter().map(String::as_str));
    let entry = journal(&matches).ok()??;
    entry.message?.as_str().map(str::to_owned)
}

/// The last entry of the journal with these fields.
fn journal(matches: &[&str]) -> Result<Option<Entry>, String> {
    let options = ["--output=json", "--lines=1", "--quiet", "--no-pager", SINCE];
    let text = systemd::output("journalctl", &[&options[..], matches].concat())?;
    let last = text.lines().rfind(|line| !line.is_empty());
    let parse = |line| serde_json::from_str(line);
    let entry = last.map(parse).transpose();
    entry.map_err(|error| format!("journalctl printed invalid JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::report::Status;

    #[test]
    fn the_units_of_a_component_are_those_of_its_systemd() {
        for (version, component, expected) in [
            (257, Some("k8s"), &["sysext-oci-proxy-update@k8s"][..]),
            (257, None, &["systemd-sysupdate"]),
            (
                262,
                Some("k8s"),
                &["sysext-oci-proxy-update@k8s", "systemd-sysupdate-update"],
            ),
            (262, None, &["systemd-sysupdate-update"]),
        ] {
            assert_eq!(
                units(SystemdVersion(version), component),
                expected,
                "{version} {component:?}"
            );
        }
    }

    #[test]
    fn a_timer_brings_updates_if_it_is_active_and_elapses() {
        let next = "Mon 2026-11-30 02:14:07 UTC";
        for (load_state, file_state, active_state, condition, next, expected, text) in [
            ("loaded", "enabled", "active", "yes", next, Status::Ok, next),
            (
                "loaded",
                "disabled",
                "active",
                "yes",
                next,
                Status::Ok,
                next,
            ),
            (
                "loaded",
                "enabled",
                "active",
                "yes",
                "",
                Status::Failed,
                "never elapses",
            ),
            (
                "loaded",
                "enabled",
                "active",
                "yes",
                "n/a",
                Status::Failed,
                "never elapses",
            ),
            (
                "loaded",
                "enabled",
                "inactive",
                "no",
                "",
                Status::Failed,
                "condition",
            ),
            (
                "loaded",
                "enabled",
                "inactive",
                "yes",
                "",
                Status::Failed,
                "not active",
            ),
            (
                "loaded",
                "disabled",
                "inactive",
                "no",
                "",
                Status::Warning,
                "not enabled",
            ),
            (
                "masked",
                "masked",
                "inactive",
                "no",
                "",
                Status::Warning,
                "masked",
            ),
            (
                "not-found",
                "",
                "inactive",
                "no",
                "",
                Status::Warning,
                "no such timer",
            ),
        ] {
            let timer = Timer {
                load_state: load_state.into(),
                file_state: file_state.into(),
                active_state: active_state.into(),
                condition: condition.into(),
                next: next.into(),
            };
            let finding = timer.judge("sysext-oci-proxy-update@k8s", Some("k8s"));
            assert_eq!(finding.status, expected, "{timer:?}");
            assert!(finding.text.contains(text), "{timer:?}: {finding:?}");
            assert_eq!(
                finding.remedy.is_none(),
                expected == Status::Ok,
                "{timer:?}"
            );
        }
    }
}
