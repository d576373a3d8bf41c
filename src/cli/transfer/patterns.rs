//! The patterns that match files of one kind, and no other file of the list. No I/O.
//!
//! They are tried as systemd-sysupdate does: the version ends at the first occurrence of the text behind it, the first
//! pattern that matches counts, and up to systemd 257 a pattern need not reach the end of a name.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::named::{Named, begins_with_digit};
use crate::name::FileName;
use crate::platform::Architecture;
use crate::sysupdate::SystemdVersion;
use crate::sysupdate::pattern::{self, Pattern};
use crate::version;

/// How names are matched on this machine.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub systemd: SystemdVersion,
    pub machine: Architecture,
}

/// A pattern as it is written, and as it matches.
#[derive(Clone, Debug)]
pub struct Written {
    pub text: String,
    pub pattern: Pattern,
}

impl Written {
    fn new(text: &str, rules: Rules) -> Option<Self> {
        // `MatchPattern=` has several, with spaces between them.
        let is_one = !text.contains([' ', '"', '\'', '\\']);
        let expanded = text.replace("%a", rules.machine.as_str());
        let pattern = Pattern::parse(&expanded, rules.systemd).ok()?;
        is_one.then(|| Self {
            text: text.to_owned(),
            pattern,
        })
    }
}

/// Whether one of them matches this name.
pub fn match_name(patterns: &[Written], name: &str, rules: Rules) -> bool {
    found(patterns, name, rules).is_some()
}

/// The patterns for `files`, which are of one kind, out of `all` names. The error is the reason why there are none.
pub fn choose(files: &[&Named], all: &[&FileName], rules: Rules) -> Result<Vec<Written>, String> {
    let mut groups: BTreeMap<&str, Vec<&Named>> = BTreeMap::new();
    for file in files {
        groups.entry(&file.pattern).or_default().push(file);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by(|(_, one), (_, other)| newer_first(newest(one), newest(other)));
    let has_numbers = files.iter().any(|file| begins_with_digit(&file.version));
    let newest = newest(files);
    let mut chosen: Vec<Written> = Vec::new();
    let (mut covered, mut borne) = (Vec::<&str>::new(), Vec::new());
    let mut why = None;
    for (text, group) in groups {
        let adds = |file: &&&Named| {
            let is_moving = has_numbers && !begins_with_digit(&file.version);
            let is_same = |known: &&str| version::compare(known, &file.version).is_eq();
            !is_moving && !covered.iter().any(is_same)
        };
        if !group.iter().any(|file| adds(&file)) {
            continue;
        }
        let Some(written) = Written::new(text, rules) else {
            let name = &group[0].name;
            why.get_or_insert_with(|| format!("{name} has characters that no pattern may have"));
            continue;
        };
        let mut trial = chosen.clone();
        trial.push(written);
        // The most specific one is tried first.
        trial.sort_by_key(|one| Reverse(one.text.len()));
        let mut wrong = mistakes(&trial, files, all, rules);
        if chosen.is_empty() {
            // Without it there is no pattern at all, and an older version is never installed by itself.
            let is_older = |one: &Mistake<'_>| version::compare(one.version, newest).is_lt();
            borne = wrong
                .iter()
                .filter(|one| is_older(one))
                .map(|one| one.name)
                .collect();
        }
        wrong.retain(|one| !borne.contains(&one.name));
        let wrong = wrong.first().map(|one| one.text(&trial, rules));
        match wrong.or_else(|| no_version(&trial, &group, rules)) {
            None => {
                chosen = trial;
                covered.extend(group.iter().map(|file| file.version.as_str()));
            }
            Some(mistake) => _ = why.get_or_insert(mistake),
        }
    }
    match (chosen.is_empty(), why) {
        (true, why) => Err(why.unwrap_or_else(|| "there is no file".to_owned())),
        (false, _) => Ok(chosen),
    }
}

/// The newest version of some files.
pub fn newest<'a>(files: &[&'a Named]) -> &'a str {
    newest_of(files.iter().map(|file| file.version.as_str()))
}

/// The newest of some versions.
pub fn newest_of<'a>(versions: impl Iterator<Item = &'a str>) -> &'a str {
    versions
        .max_by(|one, other| version::compare(one, other))
        .unwrap_or_default()
}

fn newer_first(one: &str, other: &str) -> std::cmp::Ordering {
    version::compare(other, one)
}

/// A name that patterns would take for a version that it is not.
struct Mistake<'a> {
    name: &'a str,
    version: &'a str,
}

impl Mistake<'_> {
    fn text(&self, patterns: &[Written], rules: Rules) -> String {
        let patterns: Vec<_> = patterns.iter().map(|one| one.text.as_str()).collect();
        format!(
            "systemd {} would take {} for version {} by MatchPattern={}",
            rules.systemd.0,
            self.name,
            self.version,
            patterns.join(" ")
        )
    }
}

/// The names in the list that the patterns would misread: as another file, or as another version.
fn mistakes<'a>(
    trial: &[Written],
    files: &[&Named],
    all: &[&'a FileName],
    rules: Rules,
) -> Vec<Mistake<'a>> {
    let expected: BTreeMap<_, _> = files
        .iter()
        .map(|file| (file.name.as_str(), file.version.as_str()))
        .collect();
    let wrong = |name: &&'a FileName| {
        let name = name.as_str();
        let version = found(trial, name, rules)?;
        let is_right = expected.get(name) == Some(&version);
        (!is_right).then_some(Mistake { name, version })
    };
    all.iter().filter_map(wrong).collect()
}

/// The reason why a file is not seen, or not with its version.
fn no_version(trial: &[Written], group: &[&Named], rules: Rules) -> Option<String> {
    let is_seen = |file: &&Named| found(trial, &file.name, rules) == Some(file.version.as_str());
    let unseen = group.iter().find(|file| !is_seen(file))?;
    let systemd = rules.systemd.0;
    Some(format!(
        "systemd {systemd} takes {} for no version",
        unseen.version
    ))
}

fn found<'a>(patterns: &[Written], name: &'a str, rules: Rules) -> Option<&'a str> {
    let patterns: Vec<_> = patterns.iter().map(|one| one.pattern.clone()).collect();
    pattern::version(&patterns, name, rules.systemd)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::cli::transfer::named::tests::{file, machine};

    pub const OLD: SystemdVersion = SystemdVersion(257);
    pub const NEW: SystemdVersion = SystemdVersion(262);

    fn chosen(texts: &[&str], systemd: SystemdVersion) -> Result<Vec<String>, String> {
        let rules = Rules {
            systemd,
            machine: machine(),
        };
        let files: Vec<_> = texts.iter().map(|text| file(text)).collect();
        let is_for_machine = |arch: Option<Architecture>| arch.is_none_or(|one| one == machine());
        let named: Vec<_> = files
            .iter()
            .filter(|file| is_for_machine(file.architecture))
            .filter_map(|file| Named::new(file, "k", machine(), |_| true))
            .collect();
        let first = named[0].kind.clone();
        let is_one = |one: &&Named| one.kind == first && !(one.is_zstd && systemd == OLD);
        let of_kind: Vec<_> = named.iter().filter(is_one).collect();
        let all: Vec<_> = files.iter().map(|file| &file.name).collect();
        let chosen = choose(&of_kind, &all, rules)?;
        Ok(chosen.into_iter().map(|one| one.text).collect())
    }

    #[test]
    fn as_few_patterns_as_match_all_versions_rightly() {
        for (files, expected, why) in [
            (
                &["k-v1-x86-64.raw v1 x86-64", "k-v2-x86-64.raw v2 x86-64"][..],
                &["k-v@v-%a.raw"][..],
                "one form",
            ),
            (
                &["k-v1.10.raw v1.10 -", "k-1.9.raw 1.9 -"],
                &["k-v@v.raw", "k-@v.raw"],
                "1.10 is newer than 1.9",
            ),
            (
                &["k-v1.raw v1 -", "k-1.raw 1 -"],
                &["k-v@v.raw"],
                "one version twice",
            ),
            (
                &["k-latest.raw latest -", "k-1.raw 1 -"],
                &["k-@v.raw"],
                "a name beside a number",
            ),
            (
                &["k-latest.raw latest -", "k-v1.raw v1 -"],
                &["k-v@v.raw"],
                "a name needs no pattern",
            ),
            (
                &["k-latest.raw latest -", "k-edge.raw edge -"],
                &["k-@v.raw"],
                "names alone",
            ),
            (
                &["k-v2-x86-64.raw v2 x86-64", "k-v1.raw v1 -"],
                &["k-v@v-%a.raw", "k-v@v.raw"],
                "the longer one first",
            ),
            (
                &[
                    "k-v2-x86-64.raw v2 x86-64",
                    "k-v1.raw v1 -",
                    "k-v2-arm64.raw v2 arm64",
                ],
                &["k-v@v-%a.raw"],
                "the shorter one would match another machine's, too",
            ),
            (
                &["k-1.0.raw 1.0 -", "k-1.1-shim.raw 1.1 -"],
                &["k-@v-shim.raw", "k-@v.raw"],
                "another ending",
            ),
        ] {
            for systemd in [OLD, NEW] {
                let expected = expected.iter().map(|&text| text.to_owned()).collect();
                assert_eq!(chosen(files, systemd), Ok(expected), "{why}");
            }
        }
    }

    #[test]
    fn a_pattern_that_would_be_wrong_is_none() {
        let packed = ["k-1.roothash 1 -", "k-1.roothash.p7s 1 -"];
        assert_eq!(chosen(&packed, NEW), Ok(vec!["k-@v.roothash".to_owned()]));
        let why = chosen(&packed, OLD).unwrap_err();
        assert_eq!(
            why,
            "systemd 257 would take k-1.roothash.p7s for version 1 by MatchPattern=k-@v.roothash"
        );
        let packed = ["k-2.raw 2 -", "k-1.raw.zst 1 -"];
        let expected = vec!["k-@v.raw".to_owned()];
        assert_eq!(chosen(&packed, OLD).as_ref(), Ok(&expected), "an older one");
        let why = chosen(&["k-1.raw 1 -", "k-2-arm64.raw 2 arm64"], NEW).unwrap_err();
        assert!(why.contains("version 2-arm64"), "{why}");
        let why = chosen(&["k-1~rc1.raw 1~rc1 -"], OLD).unwrap_err();
        assert_eq!(why, "systemd 257 takes 1~rc1 for no version");
        let why = chosen(&["k$x-1.raw 1 -"], NEW).unwrap_err();
        assert_eq!(why, "k$x-1.raw has characters that no pattern may have");
    }
}
