//! A file's name, taken apart: its version, its kind, and the pattern that matches it. No I/O.
//!
//! ```text
//! kubernetes-v1.27.8-x86-64.raw      kubernetes-v@v-%a.raw      an image
//! os-1.2.usr-x86-64-verity.<uuid>.raw  os-@v.usr-%a-verity.@u.raw  a partition
//! ```

use crate::artifact::suffix;
use crate::companions::is_companion;
use crate::platform::Architecture;
use crate::server::json::File;

/// Separators between the parts of a name.
const SEPARATORS: [char; 3] = ['-', '_', '.'];
/// Packings that all versions of systemd-sysupdate unpack, by their endings.
const PACKINGS: [&str; 3] = [".gz", ".xz", ".bz2"];
/// That of later ones.
const ZSTD: &str = ".zst";
/// Partitions in the names that systemd-repart and mkosi write, and their types in `MatchPartitionType=`.
const PARTITIONS: [&str; 6] = [
    "root",
    "root-verity",
    "root-verity-sig",
    "usr",
    "usr-verity",
    "usr-verity-sig",
];

/// A file on offer, as a pattern sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    pub name: String,
    /// The text before the version: `kubernetes`.
    pub base: String,
    /// The version as `@v` is to find it, without a `v` that the pattern has.
    pub version: String,
    /// `kubernetes-v@v-%a.raw`
    pub pattern: String,
    pub kind: Kind,
    /// The part that distinguishes it from other files of its version and kind: `-shim`.
    pub rest: String,
    /// systemd-sysupdate has to unpack zstd to install it.
    pub is_zstd: bool,
}

/// The kind of a file, by its name.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A disk image or a file system, whose title may tell of which kind.
    Image(Option<Extension>),
    /// An archive that becomes a directory.
    Tree,
    /// A partition, by the name that `MatchPartitionType=` has for it.
    Partition(&'static str),
    Uki,
    Kernel,
    Initrd,
    /// A file beside an image, by its suffix: `.roothash`.
    Companion(String),
    Other,
}

/// The kind of an image: system extension, configuration extension or portable service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    Sysext,
    Confext,
    Portable,
}

impl Named {
    /// Takes a name apart. `base`: what it begins with, if it does. `is_v_literal`: whether a `v` before a number is part of
    /// the pattern. `None` if no pattern can match the name.
    pub fn new(
        file: &File,
        base: &str,
        machine: Architecture,
        is_v_literal: impl Fn(&Kind) -> bool,
    ) -> Option<Self> {
        let name = file.name.as_str();
        let version = file.version.as_deref()?;
        let at = find(name, base, version)?;
        let (before, after) = (&name[..at], &name[at + version.len()..]);
        let after = contract(after, machine);
        let suffix = suffix::of_name(name).unwrap_or_default();
        let kind = kind(file, &after, &suffix);
        let number = version.strip_prefix('v').filter(|_| is_v_literal(&kind));
        let (v, version) = match number.filter(|rest| begins_with_digit(rest)) {
            Some(number) => ("v", number),
            None => ("", version),
        };
        let rest = rest(&after, &suffix, &kind);
        Some(Self {
            name: name.to_owned(),
            base: before.trim_end_matches(SEPARATORS).to_owned(),
            version: version.to_owned(),
            pattern: format!("{}{v}@v{after}", before.replace('@', "@@")),
            rest,
            is_zstd: suffix.ends_with(ZSTD),
            kind,
        })
    }
}

impl Kind {
    /// Whether systemd-sysupdate has to know which version of it runs.
    pub fn is_of_os(&self) -> bool {
        matches!(self, Self::Partition(_) | Self::Uki)
    }
}

/// Whether a `v` before a number can be part of the pattern: no version is a word that begins so.
pub fn is_v_literal<'a>(mut versions: impl Iterator<Item = &'a str>) -> bool {
    versions.all(|version| version.strip_prefix('v').is_none_or(begins_with_digit))
}

/// Whether it is a number, rather than a name such as `latest`.
pub fn begins_with_digit(version: &str) -> bool {
    version.starts_with(|c: char| c.is_ascii_digit())
}

/// Where the version is in a name: behind the base, else between two separators.
fn find(name: &str, base: &str, version: &str) -> Option<usize> {
    let ends = |at: usize| {
        let rest = &name[at + version.len()..];
        rest.is_empty() || rest.starts_with(SEPARATORS)
    };
    let behind = name
        .strip_prefix(base)
        .filter(|rest| rest.starts_with(SEPARATORS) && rest[1..].starts_with(version))
        .map(|_| base.len() + 1);
    let anywhere = || {
        let mut found = name.match_indices(version).map(|(at, _)| at);
        found.find(|at| name[..*at].ends_with(SEPARATORS) && ends(*at))
    };
    behind.filter(|at| ends(*at)).or_else(anywhere)
}

/// The text after the version, with `%a` for this machine's architecture, and `@u` for the first UUID.
fn contract(after: &str, machine: Architecture) -> String {
    let (mut found, mut at) = (String::new(), 0);
    while let Some(c) = after[at..].chars().next() {
        let rest = &after[at..];
        let begins = at == 0 || after[..at].ends_with(SEPARATORS);
        let (text, length) = if begins && is_word(rest, machine.as_str().len(), machine.as_str()) {
            ("%a".to_owned(), machine.as_str().len())
        } else if let Some(length) = uuid(rest).filter(|_| begins && !found.contains("@u")) {
            ("@u".to_owned(), length)
        } else if c == '@' {
            ("@@".to_owned(), 1)
        } else {
            (c.to_string(), c.len_utf8())
        };
        found += &text;
        at += length;
    }
    found
}

fn is_word(text: &str, length: usize, word: &str) -> bool {
    text.starts_with(word) && (text.len() == length || text[length..].starts_with(SEPARATORS))
}

/// The length of the UUID that a text begins with, with dashes or without.
fn uuid(text: &str) -> Option<usize> {
    let is_uuid = |length: usize| {
        let Some(word) = text.get(..length) else {
            return false;
        };
        let is_dash = |n: usize| length == 36 && matches!(n, 8 | 13 | 18 | 23);
        let mut bytes = word.bytes().enumerate();
        bytes.all(|(n, byte)| match is_dash(n) {
            true => byte == b'-',
            false => byte.is_ascii_hexdigit(),
        }) && is_word(text, length, word)
    };
    [36, 32].into_iter().find(|length| is_uuid(*length))
}

fn kind(file: &File, after: &str, suffix: &str) -> Kind {
    let packed = PACKINGS.iter().chain([&ZSTD]);
    let plain = packed
        .into_iter()
        .find_map(|end| suffix.strip_suffix(end))
        .unwrap_or(suffix);
    let partition = after.split('.').find_map(|word| {
        let word = word.replace("-%a", "");
        PARTITIONS.into_iter().find(|known| *known == word)
    });
    match plain {
        ".raw" | ".img" | ".erofs" | ".squashfs" => match partition {
            Some(partition) => Kind::Partition(partition),
            None => Kind::Image(extension(file.name.as_str())),
        },
        ".tar" => Kind::Tree,
        ".efi" => Kind::Uki,
        ".vmlinuz" => Kind::Kernel,
        ".initramfs" | ".initrd" => Kind::Initrd,
        _ if is_companion(&file.name) => Kind::Companion(suffix.to_owned()),
        _ => Kind::Other,
    }
}

/// The kind of extension that stands before the suffix.
fn extension(name: &str) -> Option<Extension> {
    let kind = suffix::with_kind(name)?;
    match kind.split('.').nth(1)? {
        "sysext" => Some(Extension::Sysext),
        "confext" => Some(Extension::Confext),
        "portable" => Some(Extension::Portable),
        _ => None,
    }
}

/// The text after the version, without architecture, UUID, partition and suffix.
fn rest(after: &str, suffix: &str, kind: &Kind) -> String {
    if matches!(kind, Kind::Partition(_)) {
        return String::new();
    }
    let end = after.len().saturating_sub(suffix.len());
    let mut rest = after.get(..end).unwrap_or_default();
    if let Kind::Image(Some(_)) = kind {
        rest = rest.rsplit_once('.').map_or(rest, |(rest, _)| rest);
    }
    let fields = ["-%a", "_%a", ".%a", ".@u", "-@u", "_@u"];
    fields
        .iter()
        .fold(rest.to_owned(), |rest, field| rest.replace(field, ""))
}

#[cfg(test)]
pub mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::choose::tests::overview;

    /// A file `name version architecture`.
    pub fn file(text: &str) -> File {
        overview(&[&format!("{text} -")], json!([])).files.remove(0)
    }

    pub fn machine() -> Architecture {
        "x86-64".parse().unwrap()
    }

    #[test]
    fn a_name_is_a_pattern_with_its_version() {
        const UUID: &str = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709";
        let verity = format!("os-v1.usr-x86-64-verity.{UUID}.raw v1 x86-64");
        let short = format!(
            "os_1.2.root-x86-64.{}.raw.xz 1.2 x86-64",
            UUID.replace('-', "")
        );
        let image = Kind::Image(None);
        let companion = |suffix: &str| Kind::Companion(suffix.to_owned());
        for (text, pattern, version, kind, rest) in [
            (
                "k8s-v1.27.8-x86-64.raw v1.27.8 x86-64",
                "k8s-v@v-%a.raw",
                "1.27.8",
                image.clone(),
                "",
            ),
            (
                "k8s-1.27.raw 1.27 -",
                "k8s-@v.raw",
                "1.27",
                image.clone(),
                "",
            ),
            (
                "k8s-1.27.x86-64.raw 1.27 x86-64",
                "k8s-@v.%a.raw",
                "1.27",
                image.clone(),
                "",
            ),
            (
                "k8s-1.0-amd64.raw 1.0 x86-64",
                "k8s-@v-amd64.raw",
                "1.0",
                image.clone(),
                "-amd64",
            ),
            (
                "k8s-latest.raw latest -",
                "k8s-@v.raw",
                "latest",
                image.clone(),
                "",
            ),
            ("k8s-8-8.raw 8 -", "k8s-@v-8.raw", "8", image.clone(), "-8"),
            (
                "docker-29.1_P1.raw.zst 29.1_P1 -",
                "docker-@v.raw.zst",
                "29.1_P1",
                image.clone(),
                "",
            ),
            (
                "e-v2.confext.raw v2 -",
                "e-v@v.confext.raw",
                "2",
                Kind::Image(Some(Extension::Confext)),
                "",
            ),
            (
                "e-v2-x86-64.sysext.raw v2 -",
                "e-v@v-%a.sysext.raw",
                "2",
                Kind::Image(Some(Extension::Sysext)),
                "",
            ),
            (
                "tools-v1.0.tar.gz v1.0 -",
                "tools-v@v.tar.gz",
                "1.0",
                Kind::Tree,
                "",
            ),
            (
                "os-v2-shim.efi v2 -",
                "os-v@v-shim.efi",
                "2",
                Kind::Uki,
                "-shim",
            ),
            (
                "os-v2.vmlinuz v2 -",
                "os-v@v.vmlinuz",
                "2",
                Kind::Kernel,
                "",
            ),
            (
                "os-v2.initramfs.zst v2 -",
                "os-v@v.initramfs.zst",
                "2",
                Kind::Initrd,
                "",
            ),
            (
                "os-v1.roothash.p7s v1 -",
                "os-v@v.roothash.p7s",
                "1",
                companion(".roothash.p7s"),
                "",
            ),
            ("os-v1.qcow2 v1 -", "os-v@v.qcow2", "1", Kind::Other, ""),
            (
                &verity,
                "os-v@v.usr-%a-verity.@u.raw",
                "1",
                Kind::Partition("usr-verity"),
                "",
            ),
            (
                &short,
                "os_@v.root-%a.@u.raw.xz",
                "1.2",
                Kind::Partition("root"),
                "",
            ),
            ("a@b-1.raw 1 -", "a@@b-@v.raw", "1", image.clone(), ""),
        ] {
            let named = Named::new(&file(text), "k8s", machine(), |_| true).unwrap();
            let found = (
                named.pattern.as_str(),
                named.version.as_str(),
                named.kind,
                named.rest.as_str(),
            );
            assert_eq!(found, (pattern, version, kind, rest), "{text}");
        }
        for (text, why) in [
            ("k8s.raw - -", "no version"),
            ("k8s-12.raw 1 -", "another version"),
        ] {
            assert_eq!(
                Named::new(&file(text), "k8s", machine(), |_| true),
                None,
                "{why}"
            );
        }
        let named = Named::new(&file("k8s-v1.raw v1 -"), "k8s", machine(), |_| false).unwrap();
        assert_eq!(named.pattern, "k8s-@v.raw");
    }

    #[test]
    fn a_v_is_part_of_the_pattern_unless_a_word_begins_with_it() {
        for (versions, expected) in [
            (&["v1.2", "1.3", "latest"][..], true),
            (&["v1.2", "vanilla"], false),
            (&[], true),
        ] {
            assert_eq!(
                is_v_literal(versions.iter().copied()),
                expected,
                "{versions:?}"
            );
        }
    }
}
