//! Which of the files on offer a transfer file's patterns match, and which of them is installed.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;

use super::Update;
use crate::cli::check::machine::Machine;
use crate::cli::check::report::{Finding, Report, Step};
use crate::name::FileName;
use crate::platform::Architecture;
use crate::printable::printable;
use crate::server::json::{File, Overview};
use crate::sysupdate::nearest::{Difference, nearest, why_no_field};
use crate::sysupdate::pattern;
use crate::sysupdate::{Specifiers, SystemdVersion};
use crate::version;

/// The newest file that the patterns match.
pub struct Newest {
    pub name: FileName,
    pub version: String,
    /// In bytes, if it is known.
    pub size: Option<u64>,
}

/// The versions that each transfer file of a component matches: systemd-sysupdate takes no other (systemd:
/// `context_discover_update_sets_by_flag` in src/sysupdate/sysupdate.c).
pub struct Common(BTreeSet<String>);

impl Common {
    /// From those of each file. One that matches none is told of by itself.
    pub fn of(sets: impl Iterator<Item = BTreeSet<String>>) -> Self {
        let sets = sets.filter(|set| !set.is_empty());
        let common = sets.reduce(|common, set| &common & &set);
        Self(common.unwrap_or_default())
    }
}

/// The versions on offer that the patterns match.
pub fn versions(systemd: SystemdVersion, update: &Update, overview: &Overview) -> BTreeSet<String> {
    let files = overview.files.iter();
    let versions = files.filter_map(|file| version_of(systemd, update, file));
    versions.map(str::to_owned).collect()
}

/// Looks at the patterns of one transfer file. The result is what an update would install.
pub fn check(
    report: &mut Report,
    machine: &Machine,
    systemd: SystemdVersion,
    update: &Update,
    overview: &Overview,
    common: &Common,
) -> Option<Newest> {
    let newest = newest(systemd, update, overview, |_| true);
    let at = &update.transfer.source.patterns_at;
    let Some(newest) = newest else {
        report.push(unmatched(machine, systemd, update, overview).of(at));
        return None;
    };
    report.push(matched(systemd, update, overview, &newest).of(at));
    let installable = self::newest(systemd, update, overview, |version| {
        common.0.contains(version)
    });
    let installable = match installable {
        Some(found) if version::compare(&found.version, &newest.version).is_eq() => found,
        found => {
            let version = found.as_ref().map(|found| found.version.as_str());
            report.push(incomplete(&newest, version).of(update.file()));
            found?
        }
    };
    report.push(installed(machine, systemd, update, &installable).of(update.file()));
    Some(installable)
}

/// The newest version of one file is not that of the component.
fn incomplete(newest: &Newest, common: Option<&str>) -> Finding {
    let version = &newest.version;
    let remedy =
        "have the missing files published, or correct MatchPattern= in the other transfer files";
    match common {
        None => {
            let text = "no version is matched by all transfer files of its component, so none is installed";
            Finding::failed(Step::Pattern, text, remedy)
        }
        Some(common) => {
            let text = format!(
                "{version} is not matched by all transfer files of its component, so {common} is the newest that is installed"
            );
            Finding::warning(Step::Pattern, text, remedy)
        }
    }
}

/// The newest file whose version is wanted.
fn newest(
    systemd: SystemdVersion,
    update: &Update,
    overview: &Overview,
    is_wanted: impl Fn(&str) -> bool,
) -> Option<Newest> {
    let matched = overview
        .files
        .iter()
        .filter_map(|file| Some((version_of(systemd, update, file)?, file)))
        .filter(|(version, _)| is_wanted(version));
    let (version, file) = matched.max_by(|(one, _), (other, _)| version::compare(one, other))?;
    Some(Newest {
        name: file.name.clone(),
        version: version.to_owned(),
        size: file.size,
    })
}

fn version_of<'a>(systemd: SystemdVersion, update: &Update, file: &'a File) -> Option<&'a str> {
    pattern::version(
        &update.transfer.source.patterns,
        file.name.as_str(),
        systemd,
    )
}

fn matched(
    systemd: SystemdVersion,
    update: &Update,
    overview: &Overview,
    newest: &Newest,
) -> Finding {
    let source = &update.transfer.source;
    let count = overview
        .files
        .iter()
        .filter(|file| version_of(systemd, update, file).is_some())
        .count();
    let text = format!(
        "MatchPattern={} matches {count} of {}; the newest is {}",
        source.written,
        overview.files.len(),
        newest.version
    );
    if let Some(least) = &update.transfer.min_version
        && version::compare(&newest.version, least).is_lt()
    {
        let text = format!("{text}, and MinVersion= is {least}");
        let remedy = format!(
            "lower MinVersion= in {}, or ask the publisher for a newer version",
            update.file()
        );
        return Finding::failed(Step::Pattern, text, remedy);
    }
    // A file for this machine, that has a newer version.
    let is_newer = |file: &&File| {
        let version = file.version.as_deref();
        version.is_some_and(|version| version::compare(version, &newest.version).is_gt())
            && file
                .architecture
                .is_none_or(|its| Some(its) == Architecture::of_this_machine())
    };
    match overview.files.iter().find(is_newer) {
        None => Finding::ok(Step::Pattern, text),
        Some(file) => Finding::warning(
            Step::Pattern,
            format!("{text}; no pattern matches {}, which is newer", file.name),
            "add a pattern for it to MatchPattern=",
        ),
    }
}

fn unmatched(
    machine: &Machine,
    systemd: SystemdVersion,
    update: &Update,
    overview: &Overview,
) -> Finding {
    let source = &update.transfer.source;
    let all = overview.files.len();
    if all == 0 {
        let text = format!("{} offers no file", update.directory);
        let remedy = format!(
            "`sysext-oci-proxy list --all {}` shows why",
            update.directory
        );
        return Finding::failed(Step::Pattern, text, remedy);
    }
    let names = overview.files.iter().map(|file| file.name.as_str());
    let why = match nearest(&source.patterns, names) {
        None => String::new(),
        Some(found) => {
            let why = match &found.difference {
                None => why_no_field(systemd),
                Some(difference) => {
                    let specifiers = Specifiers::read(machine.root());
                    in_words(difference, |text| {
                        specifiers.contract(text, &source.written)
                    })
                }
            };
            format!("; nearest is `{}`, {why}", printable(found.name))
        }
    };
    Finding::failed(
        Step::Pattern,
        format!("MatchPattern={} matches 0 of {all}{why}", source.written),
        format!(
            "`sysext-oci-proxy transfer {}` prints a file that matches",
            update.directory
        ),
    )
}

/// `written`: how the transfer file writes a text, with specifiers.
fn in_words(difference: &Difference, written: impl Fn(&str) -> String) -> String {
    let Difference { expected, found } = difference;
    match (expected.as_str(), found.as_str()) {
        (lacks, "") => format!("which lacks `{}`", written(lacks)),
        ("", has) => format!("which also has `{}`", printable(has)),
        (lacks, has) => format!(
            "which has `{}` in place of `{}`",
            printable(has),
            written(lacks)
        ),
    }
}

/// Whether the newest version is in the target.
fn installed(
    machine: &Machine,
    systemd: SystemdVersion,
    update: &Update,
    newest: &Newest,
) -> Finding {
    let target = &update.transfer.target;
    let Some(path) = target.directory() else {
        let text = "installed versions are looked up only in directories";
        return Finding::skipped(Step::Installed, text);
    };
    let entries = match fs::read_dir(machine.path(path)) {
        Ok(entries) => entries.flatten().collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            let text = format!("{} cannot be read: {error}", path.display());
            return Finding::unknown(Step::Installed, text, "run this command as root");
        }
    };
    let names = entries
        .iter()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let versions = names.filter_map(|name| {
        let version = pattern::version(&target.patterns, &name, systemd);
        version.map(str::to_owned)
    });
    let latest = versions.max_by(|one, other| version::compare(one, other));
    let command = update.command(machine, "update");
    match latest {
        Some(latest) if version::compare(&latest, &newest.version).is_ge() => Finding::ok(
            Step::Installed,
            format!("{latest} is installed, and no newer one is on offer"),
        ),
        latest => {
            let latest = latest.unwrap_or_else(|| "none".into());
            let text = format!(
                "{} is on offer; the newest installed version is {latest}",
                newest.version
            );
            Finding::warning(
                Step::Installed,
                text,
                format!("`{command}` installs it now"),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_counts_if_each_transfer_file_of_a_component_has_it() {
        for (sets, expected) in [
            (&[][..], &[][..]),
            (&[&["1", "2"][..]], &["1", "2"]),
            (&[&["1", "2"], &["1"]], &["1"]),
            (&[&["1"], &["1", "2"]], &["1"]),
            (&[&["1", "2"], &["3"]], &[]),
            (&[&["2"], &["1"], &["1", "2"]], &[]),
            (&[&["9", "10"], &["9", "10", "11"], &["10"]], &["10"]),
            // A file that matches none is told of by itself.
            (&[&["1"], &[]], &["1"]),
        ] {
            let owned = |set: &&[&str]| set.iter().map(|one| (*one).to_owned()).collect();
            let found = Common::of(sets.iter().map(owned));
            assert_eq!(found.0, owned(&expected), "{sets:?}");
        }
    }

    #[test]
    fn a_difference_is_told_as_the_file_writes_it() {
        let written = |text: &str| text.replace("x86-64", "%a");
        for (expected, found, text) in [
            ("-x86-64", "", "which lacks `-%a`"),
            ("", ".xz", "which also has `.xz`"),
            ("-", "_", "which has `_` in place of `-`"),
        ] {
            let difference = Difference {
                expected: expected.into(),
                found: found.into(),
            };
            assert_eq!(in_words(&difference, written), text);
        }
    }
}
