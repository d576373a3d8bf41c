//! Gives several files of one artifact that share a suffix different endings.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use super::{Offer, suffix};
use crate::digest::Digest;
use crate::name::without_v;

/// The endings of the names of the offers, in their order. `None` for one that would share its name with another and
/// has no title of its own.
///
/// The ending is the suffix. If several files share it, the kind of extension (`.sysext`, `.confext`) precedes it.
/// If they still share it, a part of the title is added: the text after one of the `versions`, else the stem.
pub fn endings(offers: &[Offer], versions: &[&str]) -> Vec<Option<String>> {
    let suffixes = offers.iter().map(|offer| Some(offer.suffix.clone()));
    let mut endings: Vec<_> = suffixes.collect();
    for step in [by_kind, by_version, by_stem, by_nothing] {
        let digests = offers.iter().map(|offer| offer.digest);
        let shared = shared(endings.clone().into_iter().zip(digests));
        // Each file has an ending of its own: later steps would change none.
        if shared.is_empty() {
            break;
        }
        for (ending, offer) in endings.iter_mut().zip(offers) {
            if ending.is_some() && shared.contains(ending) {
                *ending = step(offer, versions);
            }
        }
    }
    endings
}

/// The keys with several digests.
pub fn shared<K: Clone + Eq + Hash>(keys: impl Iterator<Item = (K, Digest)>) -> HashSet<K> {
    let mut first = HashMap::new();
    keys.filter(|(key, digest)| *first.entry(key.clone()).or_insert(*digest) != *digest)
        .map(|(key, _)| key)
        .collect()
}

fn by_kind(offer: &Offer, _: &[&str]) -> Option<String> {
    let ending = offer.long_suffix.as_ref().unwrap_or(&offer.suffix);
    Some(ending.clone())
}

fn by_version(offer: &Offer, versions: &[&str]) -> Option<String> {
    let stem = suffix::stem(offer.title.as_deref()?);
    match after_version(stem, versions) {
        Some(rest) => Some(format!("{rest}{}", offer.suffix)),
        None => by_stem(offer, versions),
    }
}

fn by_stem(offer: &Offer, _: &[&str]) -> Option<String> {
    let title = offer.title.as_deref()?.trim_start_matches("./");
    let stem = suffix::stem(title).replace('/', "-");
    Some(format!("-{stem}{}", offer.suffix))
}

fn by_nothing(_: &Offer, _: &[&str]) -> Option<String> {
    None
}

/// Whether a title contains a version, with or without a `v` before it.
pub fn has_version(title: &str, version: &str) -> bool {
    after_version(title, &[version]).is_some()
}

/// The part of a title after the version.
fn after_version<'a>(title: &'a str, versions: &[&str]) -> Option<&'a str> {
    let find = |version: &&str| {
        let is_digit = |c: char| c.is_ascii_digit();
        let version = without_v(version);
        let is_whole = |start: usize| {
            let (before, after) = (&title[..start], &title[start + version.len()..]);
            let mut last = before.chars().rev();
            let begins = match (last.next(), last.next()) {
                // `1.2` is not in `11.2`, nor in `0.1.2`.
                (Some('.'), Some(c)) => !c.is_ascii_digit(),
                (Some(c), _) if version.starts_with(is_digit) => !c.is_ascii_digit(),
                (Some(c), _) => !c.is_alphanumeric(),
                (None, _) => true,
            };
            begins && !after.starts_with(char::is_alphanumeric)
        };
        let mut found = title.match_indices(version).map(|(start, _)| start);
        let start = found.find(|start| !version.is_empty() && is_whole(*start))?;
        Some(&title[start + version.len()..])
    };
    versions.iter().find_map(find)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::Content;

    /// `TITLE` or `TITLE=CONTENT`, with the suffix that the title has, or `.raw`.
    fn offer(n: usize, text: &str) -> Offer {
        let (title, content) = match text.split_once('=') {
            Some((title, content)) => (title, content.to_owned()),
            None => (text, n.to_string()),
        };
        Offer {
            suffix: suffix::of_name(title).unwrap_or(".raw".into()),
            long_suffix: suffix::with_kind(title),
            title: (!title.is_empty()).then(|| title.to_owned()),
            digest: Digest::of(content.as_bytes()),
            size: 1,
            content: Content::Blob,
        }
    }

    #[test]
    fn files_of_one_suffix_are_told_apart_by_their_titles() {
        let uuid = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709";
        for (titles, expected, why) in [
            (
                &["a.raw", "a.efi"][..],
                &[".raw", ".efi"][..],
                "nothing shared",
            ),
            (&["a.raw=x", "b.raw=x"], &[".raw", ".raw"], "one content"),
            (
                &["a.sysext.raw", "b.confext.raw", "c.raw"],
                &[".sysext.raw", ".confext.raw", ".raw"],
                "kinds",
            ),
            (
                &["a.sysext.raw", "b.sysext.raw", "c.confext.raw"],
                &["-a.sysext.raw", "-b.sysext.raw", ".confext.raw"],
                "two of one kind",
            ),
            (
                &[
                    &format!("os_1.2.usr-x86-64.{uuid}.raw"),
                    &format!("os_1.2.usr-x86-64-verity.{uuid}.raw"),
                    "os_1.2.efi",
                ],
                &[
                    &format!(".usr-x86-64.{uuid}.raw"),
                    &format!(".usr-x86-64-verity.{uuid}.raw"),
                    ".efi",
                ],
                "mkosi's partitions",
            ),
            (
                &["os_v1.2.raw", "os_v1.2_debug.raw"],
                &[".raw", "_debug.raw"],
                "one is the image itself",
            ),
            (
                &["shim.efi", "boot/GRUBX64.EFI"],
                &["-shim.efi", "-boot-GRUBX64.efi"],
                "no version",
            ),
            (
                &["a-1.2.raw", "b-1.2.raw"],
                &["-a-1.2.raw", "-b-1.2.raw"],
                "the same after the version",
            ),
            (
                &["a.raw", "", "b.raw"],
                &["-a.raw", "left out", "-b.raw"],
                "one without a title",
            ),
            (&["", ""], &["left out", "left out"], "none has a title"),
            (
                &["a.raw", "a.raw", "b.raw", "c.efi"],
                &["left out", "left out", "-b.raw", ".efi"],
                "two of one title",
            ),
        ] {
            let offers: Vec<_> = titles
                .iter()
                .enumerate()
                .map(|(n, one)| offer(n, one))
                .collect();
            let found = endings(&offers, &["v1.2"]);
            let found: Vec<_> = found
                .iter()
                .map(|ending| ending.as_deref().unwrap_or("left out"))
                .collect();
            assert_eq!(found, expected, "{why}");
        }
    }

    #[test]
    fn a_version_is_in_a_title_as_a_whole() {
        for (title, version, expected) in [
            ("os_1.2.usr", "1.2", Some(".usr")),
            ("os_1.2.usr", "v1.2", Some(".usr")),
            ("os-v1.2", "1.2", Some("")),
            ("os1.2-usr", "1.2", Some("-usr")),
            ("os_1.22.usr", "1.2", None),
            ("os_11.2.usr", "1.2", None),
            ("os_0.1.2.usr", "1.2", None),
            ("os_1.2rc1.usr", "1.2", None),
            ("os_11.2_1.2.usr", "1.2", Some(".usr")),
            ("os-latest.usr", "latest", Some(".usr")),
            ("voslatest", "latest", None),
            ("os", "", None),
        ] {
            assert_eq!(
                after_version(title, &[version]),
                expected,
                "{title} {version}"
            );
        }
    }
}
