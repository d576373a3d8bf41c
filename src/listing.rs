//! Files → the text of `SHA256SUMS`. No I/O.

use std::collections::BTreeMap;
use std::fmt::Write;

use jiff::civil::Date;

use crate::architecture::Architecture;
use crate::artifact::{Offer, Recognised};
use crate::digest::Digest;
use crate::name::{FileName, Tag};
use crate::settings::Template;

/// The digest of nothing, which stands beside names that are no files.
const OF_NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A file in a listing.
#[derive(Clone, Debug, PartialEq)]
pub struct File {
    /// Of its bytes.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// The tag it is offered by.
    pub tag: Tag,
    /// It comes from an entry of an index, rather than from a plain manifest.
    pub is_of_index: bool,
}

/// Something that is not listed, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeftOut {
    /// The tag it belongs to.
    pub tag: Tag,
    /// For the log.
    pub reason: String,
}

/// All files of a repository at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// By name.
    pub files: BTreeMap<FileName, File>,
    /// In the order of tags.
    pub left_out: Vec<LeftOut>,
}

/// How a repository's files are called.
#[derive(Clone, Debug)]
pub struct Naming<'a> {
    /// The last component of the repository as the URL has it.
    pub base: &'a str,
    /// The form, when the settings give one.
    pub template: Option<&'a Template>,
}

/// One manifest that a tag led to.
#[derive(Debug)]
pub struct Artifact {
    /// The architecture that its entry in an index is offered for.
    pub entry: Option<Architecture>,
    /// The architecture that a plain manifest says it is for, if one was asked for.
    pub plain: Option<Architecture>,
    /// What it offers.
    pub recognised: Recognised,
}

impl Listing {
    /// Adds what a tag leads to, under its names. Tags come in sorted order.
    pub fn add(&mut self, naming: &Naming<'_>, tag: &Tag, artifacts: Vec<Artifact>) {
        for artifact in artifacts {
            for reason in &artifact.recognised.left_out {
                self.leave_out(tag, reason.clone());
            }
            match name_offers(naming, tag, &artifact) {
                Ok(named) => {
                    for (name, offer) in named {
                        let file = File {
                            digest: offer.digest,
                            size: offer.size,
                            tag: tag.clone(),
                            is_of_index: artifact.entry.is_some(),
                        };
                        self.insert(name, file);
                    }
                }
                Err(reason) => self.leave_out(tag, reason),
            }
        }
    }

    /// Notes that a tag or a part of it is not listed.
    pub fn leave_out(&mut self, tag: &Tag, reason: String) {
        self.left_out.push(LeftOut {
            tag: tag.clone(),
            reason,
        });
    }

    /// Two tags at one name: one line if they have one digest, else the plain manifest wins over an
    /// index's entry, else the first tag by name.
    fn insert(&mut self, name: FileName, file: File) {
        let Some(first) = self.files.get(&name) else {
            self.files.insert(name, file);
            return;
        };
        if first.digest == file.digest {
            return;
        }
        let (winner, loser) = if first.is_of_index && !file.is_of_index {
            (file, first.clone())
        } else {
            (first.clone(), file)
        };
        let reason = format!(
            "{name} is already the name of another file, which tag {} offers",
            winner.tag
        );
        self.leave_out(&loser.tag, reason);
        self.files.insert(name, winner);
    }

    /// The listing as systemd reads it, sorted by name.
    ///
    /// An empty one is a single line that names no file: systemd 257 takes an empty body for a broken
    /// connection. 262 heeds the date, so it is the next day's.
    pub fn text(&self, tomorrow: Date) -> String {
        if self.files.is_empty() {
            return format!("{OF_NOTHING}  BEST-BEFORE-{tomorrow}\n");
        }
        let mut text = String::new();
        for (name, file) in &self.files {
            let _ = writeln!(text, "{}  {name}", file.digest.hex()); // a String takes it all
        }
        text
    }
}

/// Gives each offer of an artifact its name.
fn name_offers<'a>(
    naming: &Naming<'_>,
    tag: &Tag,
    artifact: &'a Artifact,
) -> Result<Vec<(FileName, &'a Offer)>, String> {
    let stem = stem(naming, tag, artifact)?;
    let offers = &artifact.recognised.offers;
    let has_rival = |offer: &Offer| {
        offers
            .iter()
            .any(|other| other.suffix == offer.suffix && other.digest != offer.digest)
    };
    let mut named: Vec<(FileName, &Offer)> = Vec::new();
    for offer in offers {
        let suffix = match &offer.long_suffix {
            Some(long) if has_rival(offer) => long,
            _ => &offer.suffix,
        };
        let name: FileName = format!("{stem}{suffix}").parse()?;
        match named.iter().find(|(other, _)| *other == name) {
            Some((_, other)) if other.digest == offer.digest => {}
            Some(_) => return Err(format!("two of its layers would both be called {name}")),
            None => named.push((name, offer)),
        }
    }
    Ok(named)
}

/// The name without its suffix.
fn stem(naming: &Naming<'_>, tag: &Tag, artifact: &Artifact) -> Result<String, String> {
    let (base, version) = (naming.base, tag.as_str());
    match (naming.template, artifact.entry) {
        (Some(template), entry) => {
            let arch = entry.or(artifact.plain).map(Architecture::as_str);
            template.fill(base, version, arch).ok_or_else(|| {
                "the names set for this repository have {arch}, and it names no architecture".into()
            })
        }
        (None, Some(arch)) => Ok(format!("{base}-{version}-{arch}")),
        (None, None) => Ok(format!("{base}-{version}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const K8S: Naming<'_> = Naming {
        base: "k8s",
        template: None,
    };

    fn tag(name: &str) -> Tag {
        name.parse().unwrap()
    }

    fn offer(content: &str, suffix: &str, long_suffix: Option<&str>) -> Offer {
        Offer {
            suffix: suffix.into(),
            long_suffix: long_suffix.map(str::to_owned),
            digest: Digest::of(content.as_bytes()),
            size: content.len() as u64,
        }
    }

    fn artifact(entry: Option<&str>, offers: &[Offer]) -> Artifact {
        Artifact {
            entry: entry.map(|name| name.parse().unwrap()),
            plain: None,
            recognised: Recognised {
                offers: offers.to_vec(),
                left_out: Vec::new(),
            },
        }
    }

    fn names(listing: &Listing) -> Vec<&str> {
        listing.files.keys().map(FileName::as_str).collect()
    }

    fn reasons(listing: &Listing) -> Vec<String> {
        listing
            .left_out
            .iter()
            .map(|left_out| format!("{}: {}", left_out.tag, left_out.reason))
            .collect()
    }

    #[test]
    fn the_tag_names_the_file() {
        let raw = [offer("a", ".raw", None)];
        let suse: Template = "{name}-{version}.{arch}".parse().unwrap();
        let suse = Naming {
            base: "debug-tools",
            template: Some(&suse),
        };
        for (naming, entry, plain, expected) in [
            (&K8S, None, None, Ok("k8s-v1")),
            (&K8S, None, Some("arm64"), Ok("k8s-v1")),
            (&K8S, Some("x86-64"), None, Ok("k8s-v1-x86-64")),
            (&suse, Some("x86-64"), None, Ok("debug-tools-v1.x86-64")),
            (&suse, None, Some("arm64"), Ok("debug-tools-v1.arm64")),
            (
                &suse,
                None,
                None,
                Err("the names set for this repository have {arch}, and it names no architecture"),
            ),
        ] {
            let plain = plain.map(|name: &str| name.parse().unwrap());
            let artifact = Artifact {
                plain,
                ..artifact(entry, &raw)
            };
            let found = stem(naming, &tag("v1"), &artifact);
            assert_eq!(found.as_deref().map_err(String::as_str), expected);
        }
    }

    #[test]
    fn lines_are_sorted_and_as_systemd_reads_them() {
        let mut listing = Listing::default();
        listing.add(
            &K8S,
            &tag("v1"),
            vec![artifact(None, &[offer("a", ".raw", None)])],
        );
        listing.add(
            &K8S,
            &tag("v10"),
            vec![artifact(
                None,
                &[offer("b", ".raw", None), offer("c", ".verity", None)],
            )],
        );
        let a = Digest::of(b"a").hex();
        let b = Digest::of(b"b").hex();
        let c = Digest::of(b"c").hex();
        assert_eq!(
            listing.text(Date::constant(2026, 1, 1)),
            format!("{a}  k8s-v1.raw\n{b}  k8s-v10.raw\n{c}  k8s-v10.verity\n")
        );
    }

    #[test]
    fn an_empty_listing_is_one_line_that_lasts_until_tomorrow() {
        assert_eq!(
            Listing::default().text(Date::constant(2026, 2, 28)),
            format!("{}  BEST-BEFORE-2026-02-28\n", Digest::of(b"").hex())
        );
    }

    #[test]
    fn extensions_of_two_kinds_keep_their_kind() {
        let sysext = offer("s", ".raw", Some(".sysext.raw"));
        let confext = offer("c", ".raw", Some(".confext.raw"));
        let mut listing = Listing::default();
        listing.add(
            &K8S,
            &tag("v1"),
            vec![artifact(None, &[sysext.clone(), confext])],
        );
        listing.add(&K8S, &tag("v2"), vec![artifact(None, &[sysext])]);
        assert_eq!(
            names(&listing),
            ["k8s-v1.confext.raw", "k8s-v1.sysext.raw", "k8s-v2.raw"]
        );
    }

    #[test]
    fn layers_that_share_a_name_are_an_error_of_their_tag_alone() {
        let mut listing = Listing::default();
        listing.add(
            &K8S,
            &tag("v1"),
            vec![artifact(
                None,
                &[offer("a", ".raw", None), offer("b", ".raw", None)],
            )],
        );
        listing.add(
            &K8S,
            &tag("v2"),
            vec![artifact(
                None,
                &[offer("a", ".raw", None), offer("a", ".raw", None)],
            )],
        );
        assert_eq!(names(&listing), ["k8s-v2.raw"]);
        assert_eq!(
            reasons(&listing),
            ["v1: two of its layers would both be called k8s-v1.raw"]
        );
    }

    #[test]
    fn of_two_tags_at_one_name_the_plain_manifest_wins() {
        let index = |content| artifact(Some("arm64"), &[offer(content, ".raw", None)]);
        let plain = |content| artifact(None, &[offer(content, ".raw", None)]);
        for (first, second, winner, reasons_expected) in [
            // An index v1 and its child v1-arm64, as onmetal-image pushes them.
            (index("a"), plain("a"), "a", vec![]),
            (
                index("a"),
                plain("b"),
                "b",
                vec![
                    "v1: k8s-v1-arm64.raw is already the name of another file, which tag v1-arm64 offers",
                ],
            ),
        ] {
            let mut listing = Listing::default();
            listing.add(&K8S, &tag("v1"), vec![first]);
            listing.add(&K8S, &tag("v1-arm64"), vec![second]);
            assert_eq!(names(&listing), ["k8s-v1-arm64.raw"]);
            assert_eq!(
                listing.files.values().next().unwrap().digest,
                Digest::of(winner.as_bytes())
            );
            assert_eq!(reasons(&listing), reasons_expected);
        }
    }

    #[test]
    fn of_two_equals_at_one_name_the_first_tag_wins() {
        let same: Template = "{name}-{version}".parse().unwrap();
        let naming = Naming {
            base: "k8s",
            template: Some(&same),
        };
        let mut listing = Listing::default();
        let both = vec![
            artifact(Some("arm64"), &[offer("a", ".raw", None)]),
            artifact(Some("x86-64"), &[offer("b", ".raw", None)]),
        ];
        listing.add(&naming, &tag("v1"), both);
        assert_eq!(
            listing.files.values().next().unwrap().digest,
            Digest::of(b"a")
        );
        assert_eq!(
            reasons(&listing),
            ["v1: k8s-v1.raw is already the name of another file, which tag v1 offers"]
        );
    }

    #[test]
    fn a_name_that_systemd_refuses_is_left_out() {
        let long = Naming {
            base: &"n".repeat(250),
            template: None,
        };
        let mut listing = Listing::default();
        listing.add(
            &long,
            &tag("v1.2.3"),
            vec![artifact(None, &[offer("a", ".raw", None)])],
        );
        assert_eq!(names(&listing), [""; 0]);
        assert!(
            reasons(&listing)[0].ends_with("it is longer than 255 bytes"),
            "{:?}",
            reasons(&listing)
        );
    }
}
