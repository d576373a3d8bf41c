//! The version in a tag or in a file's name, as `@v` in a transfer file matches it, and the order of versions. No I/O.

use std::cmp::Ordering;

use uapi_version::strverscmp;

use crate::artifact::suffix;
use crate::name::{FileName, Tag, without_v};
use crate::platform::Architecture;

/// Characters that separate the parts of a file's name.
const SEPARATORS: [char; 3] = ['-', '_', '.'];
/// Partitions of a disk, as `systemd-repart` and mkosi name their images behind the version:
/// `os_1.2.usr-x86-64.raw`, `os_1.2.root-x86-64-verity.<uuid>.raw`.
const PARTITIONS: [&str; 4] = [".usr-", ".usr.", ".root-", ".root."];

/// The version in a tag, and the architecture that the tag ends in.
pub fn of_tag(tag: &Tag) -> (&str, Option<Architecture>) {
    split_architecture(tag.as_str())
}

/// A version without the architecture that it ends in, and that architecture.
pub fn split_architecture(version: &str) -> (&str, Option<Architecture>) {
    match Architecture::at_end_of(version) {
        Some((rest, found)) if !rest.is_empty() => (rest, Some(found)),
        _ => (version, None),
    }
}

/// The version and the architecture in the name of a file, where no tag tells them.
///
/// The version is what follows `base`, else the first part that begins with a digit, or with `v` and a digit.
pub fn of_name<'a>(name: &'a FileName, base: &str) -> (Option<&'a str>, Option<Architecture>) {
    let found = parts(name, base);
    (found.version, found.architecture)
}

/// The text of a file's name before its version, the version, and the text behind it.
pub fn around<'a>(name: &'a FileName, base: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let Parts { stem, version, .. } = parts(name, base);
    let before = stem.strip_suffix(version?)?;
    Some((before, version?, &name.as_str()[stem.len()..]))
}

/// Whether a name begins with this base, and something follows.
pub fn has_base(name: &FileName, base: &str) -> bool {
    let rest = name.as_str().strip_prefix(base);
    rest.is_some_and(|rest| rest.starts_with(SEPARATORS))
}

/// Whether a version begins with a number: `1.31`, `v1.31`.
pub fn is_numbered(version: &str) -> bool {
    let number = version.strip_prefix('v').unwrap_or(version);
    number.starts_with(|c: char| c.is_ascii_digit())
}

/// The parts of a file's name.
struct Parts<'a> {
    /// Its beginning, up to the end of its version.
    stem: &'a str,
    version: Option<&'a str>,
    architecture: Option<Architecture>,
}

fn parts<'a>(name: &'a FileName, base: &str) -> Parts<'a> {
    let stem = suffix::stem_without_kind(name.as_str());
    let end = PARTITIONS.iter().filter_map(|begin| stem.find(begin)).min();
    let (stem, partition) = stem.split_at(end.unwrap_or(stem.len()));
    let (stem, architecture) = split_architecture(stem);
    let own = stem.strip_prefix(base);
    let own = own.and_then(|rest| rest.strip_prefix(SEPARATORS));
    let first = || {
        let mut parts = stem.match_indices(SEPARATORS);
        parts.find_map(|(at, _)| Some(&stem[at + 1..]).filter(|rest| is_numbered(rest)))
    };
    let version = own.filter(|own| !own.is_empty()).or_else(first);
    let of_partition = || {
        let words = partition.strip_suffix("-verity").unwrap_or(partition);
        Architecture::at_end_of(words.split('.').nth(1).unwrap_or_default()).map(|(_, found)| found)
    };
    Parts {
        stem,
        version,
        architecture: architecture.or_else(of_partition),
    }
}

/// The one spelling of a version: `1.31.3+2` for `v1.31.3_2-x86-64`. A tag has `_` for `+`, which no tag can have.
pub fn comparable(version: &str) -> String {
    let (version, _) = split_architecture(version);
    without_v(version).replace('_', "+")
}

/// The order of two tags by their versions. The architecture is no part of a version.
pub fn by_version(one: &Tag, other: &Tag) -> Ordering {
    compare(of_tag(one).0, of_tag(other).0)
}

/// Older versions first, by the order of the UAPI. A `v` before a number is no part of a version.
pub fn compare(one: &str, other: &str) -> Ordering {
    strverscmp(without_v(one), without_v(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_version_that_a_pattern_finds() {
        for (name, version, architecture) in [
            ("k8s-v1.30.2-x86-64.raw", Some("v1.30.2"), Some("x86-64")),
            ("k8s-stable.tar.gz", Some("stable"), None),
            ("k8s_1.2.sysext.raw.zst", Some("1.2"), None),
            ("strace-30.3.x86-64.raw", Some("30.3"), Some("x86-64")),
            ("debug-tools-v6.8-arm64.raw", Some("v6.8"), Some("arm64")),
            ("os_1.2.usr-x86-64.0a0b.raw", Some("1.2"), Some("x86-64")),
            ("os_1.2.usr-x86-64-verity.raw", Some("1.2"), Some("x86-64")),
            ("os_1.2.root-arm64.raw.xz", Some("1.2"), Some("arm64")),
            ("k8s.raw", None, None),
            ("k8s-.raw", None, None),
            ("NOTES with spaces.txt", None, None),
            ("SHA256", None, None),
        ] {
            let (found, found_architecture) = (&name.parse().unwrap(), architecture);
            let found_architecture = found_architecture.map(|name: &str| name.parse().unwrap());
            assert_eq!(
                of_name(found, "k8s"),
                (version, found_architecture),
                "{name}"
            );
        }
    }

    #[test]
    fn a_name_is_the_same_around_each_of_its_versions() {
        for (name, expected) in [
            (
                "k8s-v1.30.2-x86-64.raw",
                Some(("k8s-", "v1.30.2", "-x86-64.raw")),
            ),
            (
                "k8s_1.2.sysext.raw.zst",
                Some(("k8s_", "1.2", ".sysext.raw.zst")),
            ),
            ("tools-6-x86-64.raw", Some(("tools-", "6", "-x86-64.raw"))),
            (
                "os_1.2.usr-x86-64-verity.raw",
                Some(("os_", "1.2", ".usr-x86-64-verity.raw")),
            ),
            ("k8s.raw", None),
        ] {
            assert_eq!(around(&name.parse().unwrap(), "k8s"), expected, "{name}");
        }
        for (version, expected) in [("1", true), ("v1.2", true), ("vi", false), ("edge", false)] {
            assert_eq!(is_numbered(version), expected, "{version}");
        }
    }

    #[test]
    fn versions_are_in_the_order_of_the_uapi() {
        let mut versions = ["v1.10", "1.9", "1.10~rc1", "v1.10.1", "1.10^git"];
        versions.sort_by(|one, other| compare(other, one));
        assert_eq!(
            versions,
            ["v1.10.1", "1.10^git", "v1.10", "1.10~rc1", "1.9"]
        );
    }
}
