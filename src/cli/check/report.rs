//! The report of `check`: findings, their statuses, and the output as text and JSON.

use std::fmt;

use serde::Serialize;

use crate::cli::output::print;
use crate::error::Result;
use crate::printable::{in_json, printable};

/// Width of the column of the status, in characters.
const STATUS: usize = 8;
/// Width of the column of the step.
const STEP: usize = 12;

/// A step on the way of an update, in the order of that way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// systemd listens for the service.
    Socket,
    /// No other program listens on its port.
    Port,
    /// The settings can be read, and mean something.
    Settings,
    /// Downloads can be kept on disk.
    Cache,
    /// Promises can be kept on disk.
    State,
    /// The service starts and answers.
    Service,
    /// The clock is near the right time.
    Clock,
    /// The proxy on the way to the registry can be used.
    Proxy,
    /// The registry's host has an address.
    Resolution,
    /// The registry accepts connections.
    Connection,
    /// Its certificate is trusted.
    Tls,
    /// It accepts the login.
    Login,
    /// The repository has tags.
    Tags,
    /// Their files can be offered.
    Names,
    /// They are signed as the settings ask.
    Signatures,
    /// systemd-sysupdate is on this machine.
    Sysupdate,
    /// A transfer file names a repository, and systemd takes it.
    Transfer,
    /// Its patterns match what is offered.
    Pattern,
    /// The newest version is installed already.
    Installed,
    /// The list is signed, and systemd has the key.
    Keyring,
    /// The directory to install to can be written.
    Target,
    /// The target has enough free space.
    Space,
    /// The target has no partial download.
    Partial,
    /// Older versions can be read, so that a download may reuse them.
    Seeds,
    /// systemd-sysext finds what is installed.
    Link,
    /// A timer updates the component.
    Timer,
    /// The last run succeeded.
    LastRun,
    /// No certificate or credential on this machine is about to end.
    Expiry,
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Ok,
    /// An update happens, but somebody should look at this.
    Warning,
    /// An update does not happen.
    Failed,
    /// The result of the step could not be found out.
    Unknown,
    /// The step was skipped, because an earlier step failed, or because this update does not need it.
    Skipped,
}

/// The result of one step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    pub step: Step,
    pub status: Status,
    /// The repository, registry or file that it is about; `None`: this machine.
    pub subject: Option<String>,
    pub text: String,
    /// The remedy; `None` if nothing has to be done.
    pub remedy: Option<String>,
}

impl Finding {
    pub fn ok(step: Step, text: impl Into<String>) -> Self {
        Self::new(step, Status::Ok, text.into(), None)
    }

    pub fn warning(step: Step, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(step, Status::Warning, text.into(), Some(remedy.into()))
    }

    pub fn failed(step: Step, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(step, Status::Failed, text.into(), Some(remedy.into()))
    }

    pub fn unknown(step: Step, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(step, Status::Unknown, why.into(), Some(remedy.into()))
    }

    pub fn skipped(step: Step, why: impl Into<String>) -> Self {
        Self::new(step, Status::Skipped, why.into(), None)
    }

    /// The same, about this repository, registry or file.
    pub fn of(self, subject: impl ToString) -> Self {
        let subject = Some(subject.to_string());
        Self { subject, ..self }
    }

    fn new(step: Step, status: Status, text: String, remedy: Option<String>) -> Self {
        Self {
            step,
            status,
            subject: None,
            text,
            remedy,
        }
    }
}

/// A line, and an indented one with the remedy.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (status, step) = (self.status.to_string(), self.step.to_string());
        write!(f, "{status:STATUS$} {step:STEP$} ")?;
        if let Some(subject) = &self.subject {
            write!(f, "{}: ", printable(subject))?;
        }
        writeln!(f, "{}", printable(&self.text))?;
        if let Some(remedy) = &self.remedy {
            writeln!(f, "{:1$}→ {2}", "", STATUS + STEP + 2, printable(remedy))?;
        }
        Ok(())
    }
}

/// As in JSON.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// As in JSON.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// All findings so far, in the order of the steps. For people each is printed at once: a registry that does not answer
/// takes its time.
pub struct Report {
    findings: Vec<Finding>,
    is_json: bool,
    /// The state of standard output.
    printed: Result<()>,
}

/// Whether an update would happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Yes,
    /// A step failed.
    No,
    /// The number of steps with the status `unknown`, if no step failed.
    Unknown(usize),
}

impl Report {
    pub fn new(is_json: bool) -> Self {
        Self {
            findings: Vec::new(),
            is_json,
            printed: Ok(()),
        }
    }

    pub fn push(&mut self, finding: Finding) {
        if !self.is_json && self.printed.is_ok() {
            self.printed = print(&finding.to_string());
        }
        self.findings.push(finding);
    }

    /// Whether a step failed, so that what follows from it need not be looked at.
    pub fn has_failed(&self, step: Step) -> bool {
        let is_it = |one: &Finding| one.step == step && one.status == Status::Failed;
        self.findings.iter().any(is_it)
    }

    /// Prints what is not printed yet.
    pub fn finish(self) -> Result<Verdict> {
        self.printed?;
        let verdict = verdict(&self.findings);
        if self.is_json {
            let json = serde_json::to_string(&self.findings).expect("its keys are texts");
            print(&format!("{}\n", in_json(&json)))?;
        }
        Ok(verdict)
    }
}

fn verdict(findings: &[Finding]) -> Verdict {
    let count = |status| findings.iter().filter(|one| one.status == status).count();
    match (count(Status::Failed), count(Status::Unknown)) {
        (0, 0) => Verdict::Yes,
        (0, unknown) => Verdict::Unknown(unknown),
        _ => Verdict::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_and_its_remedy_another() {
        let ok = Finding::ok(Step::Socket, "it is active");
        assert_eq!(ok.to_string(), "ok       socket       it is active\n");
        let failed = Finding::failed(Step::Login, "it is \u{202e}refused", "log in").of("k8s");
        assert_eq!(
            failed.to_string(),
            "failed   login        k8s: it is \\u{202e}refused\n                      → log in\n"
        );
        assert_eq!(
            serde_json::to_string(&failed.of("k8s:v1")).unwrap(),
            "{\"step\":\"login\",\"status\":\"failed\",\"subject\":\"k8s:v1\",\
             \"text\":\"it is \u{202e}refused\",\"remedy\":\"log in\"}"
        );
    }

    #[test]
    fn one_failure_is_a_no_and_one_unknown_step_no_yes() {
        let ok = Finding::ok(Step::Socket, "");
        let warning = Finding::warning(Step::Expiry, "", "");
        let skipped = Finding::skipped(Step::Tags, "");
        let unknown = Finding::unknown(Step::Tls, "", "");
        let failed = Finding::failed(Step::Login, "", "");
        for (findings, expected) in [
            (vec![], Verdict::Yes),
            (vec![&ok, &warning, &skipped], Verdict::Yes),
            (vec![&ok, &unknown, &skipped], Verdict::Unknown(1)),
            (vec![&failed, &unknown, &failed], Verdict::No),
        ] {
            let findings: Vec<_> = findings.into_iter().cloned().collect();
            assert_eq!(verdict(&findings), expected, "{findings:?}");
        }
    }
}
