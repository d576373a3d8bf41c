//! The way to a repository and what it offers, as the service sees it: one request tells how far it came.

use std::collections::BTreeSet;

use super::report::{Finding, Report, Step};
use crate::address::{Directory, Located};
use crate::advice::{self, advice};
use crate::artifact::LeftOutKind;
use crate::cli::asked::{self, Asked};
use crate::digest::Digest;
use crate::error::Error;
use crate::server::json::{LeftOut, Overview};
use crate::settings::Settings;
use crate::version;

/// The steps to a registry, in their order, and what it means that one went well.
const TO_THE_REGISTRY: [(Step, &str); 4] = [
    (Step::Proxy, "the proxy works, if one is set"),
    (Step::Resolution, "its name is resolved"),
    (Step::Connection, "it accepts connections"),
    (
        Step::Tls,
        "its certificate is trusted, or plain HTTP is allowed",
    ),
];
const IN_THE_REPOSITORY: [Step; 3] = [Step::Tags, Step::Names, Step::Signatures];

/// Asks for repositories, one after the other.
pub struct Walk<'a> {
    pub asked: &'a Asked,
    /// The settings that are in force, if they could be read.
    pub settings: Option<&'a Settings>,
    /// This command asks in the place of a service that does not answer, and has other logins.
    pub is_stand_in: bool,
    /// Registries that are known to answer, and those that do not.
    good: BTreeSet<String>,
    bad: BTreeSet<String>,
}

impl<'a> Walk<'a> {
    pub fn new(asked: &'a Asked, settings: Option<&'a Settings>, is_stand_in: bool) -> Self {
        Self {
            asked,
            settings,
            is_stand_in,
            good: BTreeSet::new(),
            bad: BTreeSet::new(),
        }
    }

    /// Walks to one directory.
    pub fn check(&mut self, report: &mut Report, directory: &Directory) {
        let located = self
            .settings
            .and_then(|settings| directory.clone().locate(settings).ok());
        let registry = located.as_ref().and_then(registry_of);
        if let Some(registry) = registry.as_ref().filter(|one| self.bad.contains(*one)) {
            let why = format!("it is in {registry}, which failed above");
            report.push(Finding::skipped(Step::Tags, why).of(directory));
            return;
        }
        let found = self.asked.json(directory);
        let found = found.and_then(|json| asked::parse(directory, &json));
        match found {
            Ok(overview) => {
                self.tell_way(report, registry.as_deref(), None);
                if registry.is_some() {
                    let text = "the registry allows access to this repository";
                    report.push(Finding::ok(Step::Login, text).of(directory));
                }
                let asks = located.as_ref().zip(self.settings).map(asks_for_signatures);
                report.push(judge_tags(&overview).of(directory));
                report.push(judge_names(&overview).of(directory));
                report.push(judge_signatures(&overview, asks).of(directory));
            }
            Err(error) => self.tell_failure(report, registry, directory, &error),
        }
    }

    /// The steps to the registry went well, or those before this one.
    fn tell_way(&mut self, report: &mut Report, registry: Option<&str>, until: Option<Step>) {
        let Some(registry) = registry.filter(|one| !self.good.contains(*one)) else {
            return;
        };
        for (step, text) in TO_THE_REGISTRY
            .iter()
            .take_while(|(step, _)| Some(*step) != until)
        {
            report.push(Finding::ok(*step, *text).of(registry));
        }
        self.good.insert(registry.to_owned());
    }

    fn tell_failure(
        &mut self,
        report: &mut Report,
        registry: Option<String>,
        directory: &Directory,
        error: &Error,
    ) {
        let (at, reason, remedy) = diagnose(error);
        let step = step_of(at);
        let is_of_registry = TO_THE_REGISTRY.iter().any(|(one, _)| *one == step);
        if at >= advice::Step::Proxy {
            self.tell_way(report, registry.as_deref(), Some(step));
        }
        let is_knowable = !self.is_stand_in || is_of_registry;
        let finding = match is_knowable {
            true => Finding::failed(step, reason, remedy),
            false => Finding::unknown(
                step,
                format!("asked by this command, not by the service: {reason}"),
                "correct the service first: its login may differ; then check again",
            ),
        };
        let subject = registry.clone().filter(|_| is_of_registry);
        report.push(finding.of(subject.unwrap_or_else(|| directory.to_string())));
        if is_of_registry {
            self.bad.extend(registry);
        }
        let rest = IN_THE_REPOSITORY.iter().position(|one| *one == step);
        for skipped in &IN_THE_REPOSITORY[rest.map_or(0, |n| n + 1)..] {
            let why = format!("the step '{step}' failed");
            report.push(Finding::skipped(*skipped, why).of(directory));
        }
    }
}

/// The hosts of its registries; `None` if it is in layouts alone.
fn registry_of(located: &Located) -> Option<String> {
    let names = located.places.iter().filter_map(|(_, place)| place.name());
    let hosts: BTreeSet<_> = names
        .filter_map(|name| name.host)
        .map(|host| host.to_string())
        .collect();
    let hosts: Vec<_> = hosts.into_iter().collect();
    (!hosts.is_empty()).then(|| hosts.join(", "))
}

/// Whether the settings ask for signatures in this repository.
fn asks_for_signatures((located, settings): (&Located, &Settings)) -> bool {
    // Which manifest is looked at makes no difference to whether any rule holds for the repository.
    let any = Digest::of(b"");
    let mut places = located.places.iter();
    places.any(|(_, place)| {
        !located
            .requirement(place, settings)
            .rules(any, None)
            .is_empty()
    })
}

/// The step at which it failed, the reason, and the remedy: of the service's own words, if it was the service.
fn diagnose(error: &Error) -> (advice::Step, String, String) {
    const JOURNAL: &str = "journalctl -eu sysext-oci-proxy.service has more";
    match error {
        Error::Refused {
            reason,
            step,
            remedy,
            ..
        } => {
            let step = step
                .as_ref()
                .and_then(|step| serde_json::from_str(&format!("\"{step}\"")).ok());
            let remedy = remedy.as_deref().unwrap_or(JOURNAL);
            (
                step.unwrap_or(advice::Step::Service),
                reason.clone(),
                remedy.to_owned(),
            )
        }
        error => {
            let (step, remedy) = advice(error);
            (step, error.line(), remedy.unwrap_or(JOURNAL).to_owned())
        }
    }
}

fn step_of(step: advice::Step) -> Step {
    match step {
        advice::Step::Settings => Step::Settings,
        advice::Step::Service => Step::Service,
        advice::Step::Proxy => Step::Proxy,
        advice::Step::Resolution => Step::Resolution,
        advice::Step::Connection => Step::Connection,
        advice::Step::Tls => Step::Tls,
        advice::Step::Login => Step::Login,
        advice::Step::Request | advice::Step::Repository => Step::Tags,
        advice::Step::Signatures => Step::Signatures,
        advice::Step::Content => Step::Names,
    }
}

fn judge_tags(overview: &Overview) -> Finding {
    let step = Step::Tags;
    let in_files = overview.files.iter().filter_map(|file| file.tag.as_ref());
    let tags: BTreeSet<_> = in_files
        .chain(overview.left_out.iter().map(|one| &one.tag))
        .collect();
    match (overview.incomplete, tags.len()) {
        (Some(incomplete), _) => Finding::warning(
            step,
            format!(
                "the registry did not answer for {} of {} tags",
                incomplete.unanswered, incomplete.tags
            ),
            "check again later; the registry's log may have the reason",
        ),
        // A list of its publisher's needs no tags.
        (None, 0) if overview.files.is_empty() => Finding::failed(
            step,
            format!("{} has no tags", overview.source),
            "push a version: oras push REPOSITORY:VERSION FILE; or correct the repository's name",
        ),
        (None, count) => Finding::ok(
            step,
            format!("{} has {}", overview.source, counted(count, "tag")),
        ),
    }
}

fn judge_names(overview: &Overview) -> Finding {
    let step = Step::Names;
    let all = "sysext-oci-proxy list REPOSITORY --all shows the reason for each";
    let Some(newest) = overview.files.first() else {
        return match overview.left_out.first() {
            None => Finding::skipped(step, "there are no tags"),
            Some(one) if one.until.is_some() => Finding::warning(
                step,
                format!("no file is offered yet; {}", scheduled(one)),
                "wait; or set rollout = \"first\" or \"ignore\" in the settings of the repository",
            ),
            Some(one) => Finding::failed(
                step,
                format!(
                    "no file is offered, {} skipped; the newest, {}: {}",
                    counted(overview.left_out.len(), "tag"),
                    one.tag,
                    one.reason
                ),
                all,
            ),
        };
    };
    let text = format!(
        "{} on offer, the newest is {}",
        counted(overview.files.len(), "file"),
        newest.name
    );
    match newer_that_is_missing(overview, newest.version.as_deref()) {
        Some(one) if one.until.is_some() => {
            Finding::ok(step, format!("{text}; {}", scheduled(one)))
        }
        Some(one) => {
            let text = format!(
                "{text}; the newer tag {} is not offered: {}",
                one.tag, one.reason
            );
            match is_by_design(one) {
                true => Finding::ok(step, text),
                false => Finding::warning(step, text, all),
            }
        }
        None => Finding::ok(step, text),
    }
}

/// A tag that the schedule of a rollout holds back.
fn scheduled(one: &LeftOut) -> String {
    let until = one.until.as_deref().unwrap_or_default();
    format!("tag {} is held back until {until}: {}", one.tag, one.reason)
}

/// A version that is newer than all on offer; of several one that should have been offered.
fn newer_that_is_missing<'a>(overview: &'a Overview, newest: Option<&str>) -> Option<&'a LeftOut> {
    let is_newer = |one: &&LeftOut| {
        let version = version::of_tag(&one.tag).0;
        // Tags of signatures and names such as `latest` have no place in the order of versions.
        let is_version = newest.is_some() && version::is_numbered(version);
        let may_be_newer = is_version || !is_by_design(one);
        may_be_newer && version::compare(version, newest.unwrap_or_default()).is_gt()
    };
    let newer = overview.left_out.iter().filter(is_newer);
    newer.min_by_key(|one| is_by_design(one))
}

/// Whether nothing is wrong with a tag that is not offered: it is for another machine, or its turn has not come.
fn is_by_design(one: &LeftOut) -> bool {
    match one.kind {
        LeftOutKind::Skipped | LeftOutKind::Held => true,
        LeftOutKind::Refused | LeftOutKind::Unanswered => false,
    }
}

/// `asks`: whether the settings ask for signatures, if that is known.
fn judge_signatures(overview: &Overview, asks: Option<bool>) -> Finding {
    let step = Step::Signatures;
    let verified = overview
        .files
        .iter()
        .filter(|file| file.verified_by.is_some())
        .count();
    let mut refused = overview
        .left_out
        .iter()
        .filter(|one| one.kind == LeftOutKind::Refused);
    if asks == Some(false) || (asks.is_none() && verified == 0) {
        return Finding::ok(
            step,
            "the settings require none; each file is verified by its digest",
        );
    }
    match refused.next() {
        Some(one) if overview.files.is_empty() => Finding::failed(
            step,
            format!("no version is accepted; {}: {}", one.tag, one.reason),
            "run cosign verify with the same key or signer, as docs/trust.md shows; then ask the publisher to sign it",
        ),
        refused => {
            let rest = refused.map_or_else(String::new, |one| {
                format!("; {} is refused: {}", one.tag, one.reason)
            });
            Finding::ok(
                step,
                format!("{} verified{rest}", counted(verified, "file")),
            )
        }
    }
}

/// `1 tag`, `2 tags`
fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}
