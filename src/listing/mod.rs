//! Files → the text of `SHA256SUMS`. No I/O.

mod naming;
mod publisher_list;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::{self, Write};
use std::ops::Not;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::artifact::{Content, LeftOutKind, Skipped};
use crate::digest::Digest;
use crate::name::{FileName, Tag};
use crate::platform::Architecture;
use crate::printable::shortened;
use crate::trust::Accepted;
use naming::name_offers;

pub use naming::{Artifact, Naming};
pub use publisher_list::PublisherList;

/// The digest of no bytes, for the line of an empty listing.
const OF_NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Reasons given for the parts of one tag.
const MAX_REASONS: usize = 20;

/// A file in a listing.
#[derive(Clone, Debug, PartialEq)]
pub struct File {
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its size, in bytes; unknown for a file that only a publisher's list names.
    pub size: Option<u64>,
    /// Which of the repository's sources has it.
    pub source: usize,
    /// The tag it is offered by.
    pub tag: Tag,
    /// The digest of the manifest that offers it; unknown for a file that only a publisher's list names.
    pub manifest: Option<Digest>,
    /// The architecture in its manifest or index.
    pub architecture: Option<Architecture>,
    /// Whether the file comes from one of several entries of an index, rather than from a plain manifest.
    pub is_of_index: bool,
    /// The source of its bytes.
    pub content: Content,
    /// The signatures by which its manifest was accepted, if the settings ask for any.
    pub accepted: Option<Arc<Accepted>>,
}

impl File {
    /// The memory that it takes in a listing beside its name, in bytes and roughly.
    pub fn weight(&self) -> usize {
        size_of::<(FileName, Self)>() + self.tag.as_str().len() + self.content.weight()
    }
}

/// A tag or a part of one that is not listed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeftOut {
    /// The tag it belongs to.
    pub tag: Tag,
    /// The digest of the manifest that the tag leads to, if that is known.
    pub digest: Option<Digest>,
    /// The name of the file, if it is one.
    pub name: Option<FileName>,
    /// The number of the layer, if it is one.
    pub layer: Option<usize>,
    /// The line for the log.
    pub reason: String,
    pub kind: LeftOutKind,
    /// When it is listed, if a schedule says that.
    pub until: Option<Timestamp>,
}

impl LeftOut {
    /// A part of a tag, or all of it.
    pub fn new(tag: &Tag, skipped: Skipped) -> Self {
        let Skipped {
            layer,
            why,
            kind,
            until,
        } = skipped;
        Self {
            tag: tag.clone(),
            digest: None,
            name: None,
            layer,
            reason: shortened(why),
            kind,
            until,
        }
    }

    /// The same, with the digest of this manifest.
    pub fn of(self, manifest: impl Into<Option<Digest>>) -> Self {
        Self {
            digest: manifest.into(),
            ..self
        }
    }

    /// The same, for the file with this name.
    pub fn called(self, name: FileName) -> Self {
        Self {
            name: Some(name),
            ..self
        }
    }

    /// The memory that it takes in a listing, in bytes and roughly.
    fn weight(&self) -> usize {
        let name = self.name.as_ref().map_or(0, |name| name.as_str().len());
        size_of::<Self>() + self.tag.as_str().len() + self.reason.len() + name
    }
}

/// The part of a listing that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incomplete {
    /// Tags that were not answered.
    pub unanswered: usize,
    /// All tags that were to be asked for.
    pub tags: usize,
    /// The attached artifacts could not be asked for at the registry itself.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub lacks_attached: bool,
}

impl fmt::Display for Incomplete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            unanswered,
            tags,
            lacks_attached,
        } = self;
        if *lacks_attached {
            return f.write_str("attached artifacts may be missing");
        }
        write!(f, "{unanswered} of {tags} tags were not answered")
    }
}

/// All files of a repository at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listing {
    /// By name.
    pub files: BTreeMap<FileName, File>,
    /// In the order of tags, then those that were not answered.
    pub left_out: Vec<LeftOut>,
    /// The number of those, if there are any.
    pub incomplete: Option<Incomplete>,
}

/// Why parts of a tag are skipped: the first reasons, and the number of the others.
#[derive(Default)]
pub struct Reasons {
    told: Vec<Skipped>,
    untold: usize,
}

impl Extend<Skipped> for Reasons {
    fn extend<T: IntoIterator<Item = Skipped>>(&mut self, skipped: T) {
        for one in skipped {
            if self.told.len() < MAX_REASONS {
                let why = shortened(one.why);
                self.told.push(Skipped { why, ..one });
            } else {
                self.untold += 1;
            }
        }
    }
}

impl Reasons {
    /// The reasons that go into the log.
    pub fn told(mut self) -> Vec<Skipped> {
        if self.untold > 0 {
            let more = format!("and {} more of its parts", self.untold);
            self.told.push(Skipped::whole(more));
        }
        self.told
    }
}

impl Listing {
    /// Adds what a tag leads to, under its names. Tags come in sorted order.
    pub fn add(&mut self, naming: &Naming<'_>, tag: &Tag, artifacts: Vec<Artifact>) {
        for artifact in artifacts {
            let (named, reasons) = name_offers(naming, tag, &artifact);
            for skipped in artifact.recognised.skipped.iter().cloned().chain(reasons) {
                self.leave_out(LeftOut::new(tag, skipped).of(artifact.manifest));
            }
            for (name, offer) in named {
                let file = File {
                    digest: offer.digest,
                    size: Some(offer.size),
                    source: naming.source,
                    tag: tag.clone(),
                    manifest: Some(artifact.manifest),
                    architecture: artifact.architecture,
                    is_of_index: artifact.is_of_index,
                    content: offer.content.clone(),
                    accepted: artifact.accepted.clone(),
                };
                match name.parse() {
                    Ok(name) => self.insert(name, file),
                    Err(why) => {
                        let skipped = LeftOut::new(tag, Skipped::whole(why));
                        self.leave_out(skipped.of(artifact.manifest));
                    }
                }
            }
        }
    }

    /// Adds another source's files to a merged directory.
    pub fn merge(&mut self, other: Self) {
        self.left_out.extend(other.left_out);
        self.incomplete = match (self.incomplete, other.incomplete) {
            (Some(one), Some(other)) => Some(Incomplete {
                unanswered: one.unanswered + other.unanswered,
                tags: one.tags + other.tags,
                lacks_attached: one.lacks_attached || other.lacks_attached,
            }),
            (one, other) => one.or(other),
        };
        for (name, file) in other.files {
            self.insert(name, file);
        }
    }

    /// The memory that its files and reasons take, in bytes and roughly.
    pub fn weight(&self) -> usize {
        let files = self.files.iter();
        let files = files.map(|(name, file)| name.as_str().len() + file.weight());
        files.chain(self.left_out.iter().map(LeftOut::weight)).sum()
    }

    /// Notes that a tag or a part of it is not listed.
    pub fn leave_out(&mut self, left_out: LeftOut) {
        self.left_out.push(left_out);
    }

    /// Two tags at one name: one line if they have one digest, else the plain manifest wins over an
    /// index's entry, else the first tag by name.
    pub fn insert(&mut self, name: FileName, file: File) {
        match self.files.entry(name) {
            Entry::Vacant(place) => drop(place.insert(file)),
            Entry::Occupied(first) if first.get().digest == file.digest => {}
            Entry::Occupied(mut first) => {
                let loser = if first.get().is_of_index && !file.is_of_index {
                    first.insert(file)
                } else {
                    file
                };
                let why = format!(
                    "{} is already the name of another file, which tag {} offers",
                    first.key(),
                    first.get().tag
                );
                let name = first.key().clone();
                let skipped = LeftOut::new(&loser.tag, Skipped::whole(why));
                self.left_out.push(skipped.of(loser.manifest).called(name));
            }
        }
    }

    /// The listing as systemd reads it, sorted by name.
    ///
    /// `best_before`: a date at whose begin, in UTC, systemd 262 refuses it. An empty one needs one: systemd 257 takes an
    /// empty body for a broken connection. To that version the line is a file that no pattern matches.
    pub fn text(&self, best_before: Option<Date>) -> String {
        let mut best_before = best_before.map(|date| format!("BEST-BEFORE-{date}"));
        let mut text = String::new();
        let mut add = |sum: &str, name: &str| {
            let _ = writeln!(text, "{sum}  {name}"); // a String takes it all
        };
        for (name, file) in &self.files {
            if let Some(date) = best_before.take_if(|date| date.as_str() < name.as_str()) {
                add(OF_NOTHING, &date);
            }
            add(&file.digest.hex(), name.as_str());
        }
        if let Some(date) = best_before {
            add(OF_NOTHING, &date);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::naming::stem;
    use super::*;
    use crate::artifact::Recipe;
    use crate::artifact::{Offer, Recognised};
    use crate::template::Template;

    const K8S: Naming<'_> = Naming {
        base: "k8s",
        template: None,
        source: 0,
        keeps_titles: false,
    };

    fn tag(name: &str) -> Tag {
        name.parse().unwrap()
    }

    fn offer(content: &str, suffix: &str, long_suffix: Option<&str>) -> Offer {
        Offer {
            suffix: suffix.into(),
            long_suffix: long_suffix.map(str::to_owned),
            title: None,
            digest: Digest::of(content.as_bytes()),
            size: content.len() as u64,
            content: Content::Blob,
        }
    }

    fn artifact(entry: Option<&str>, offers: &[Offer]) -> Artifact {
        Artifact {
            manifest: Digest::of(b"{}"),
            architecture: entry.map(|name| name.parse().unwrap()),
            accepted: None,
            schedule: None,
            is_of_index: entry.is_some(),
            flavour: None,
            version: None,
            recognised: Recognised {
                offers: offers.to_vec(),
                ..Recognised::default()
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
            ..K8S
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
                Err(
                    "the names set for this repository have {arch}, and neither its manifest nor its config nor \
                     its tag names an architecture",
                ),
            ),
        ] {
            let mut artifact = artifact(entry, &raw);
            let plain = plain.map(|name: &str| name.parse().unwrap());
            artifact.architecture = artifact.architecture.or(plain);
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
            listing.text(None),
            format!("{a}  k8s-v1.raw\n{b}  k8s-v10.raw\n{c}  k8s-v10.verity\n")
        );
        let image = [offer("d", ".raw", None)];
        let upper = Naming { base: "A", ..K8S };
        listing.add(&upper, &tag("v1"), vec![artifact(None, &image)]);
        let text = listing.text(Some(Date::constant(2026, 2, 28)));
        let names: Vec<_> = text.lines().map(|line| &line[66..]).collect();
        let date = "BEST-BEFORE-2026-02-28";
        assert_eq!(
            names,
            [
                "A-v1.raw",
                date,
                "k8s-v1.raw",
                "k8s-v10.raw",
                "k8s-v10.verity"
            ]
        );
    }

    #[test]
    fn the_reason_why_a_schedule_cannot_be_read_takes_memory() {
        let image = [offer("a", ".raw", None)];
        let (without, mut with) = (artifact(None, &image), artifact(None, &image));
        with.schedule = Some(Err("x".repeat(1000)));
        assert_eq!(with.weight(), without.weight() + 1000);
    }

    #[test]
    fn an_empty_listing_is_one_line_with_a_date() {
        assert_eq!(
            Listing::default().text(Some(Date::constant(2026, 2, 28))),
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
    fn in_its_own_directory_an_artifact_keeps_its_titles_and_has_its_version() {
        let naming = Naming {
            keeps_titles: true,
            ..K8S
        };
        let titled = Offer {
            title: Some("k8s-v1.28.raw".into()),
            ..offer("a", "", None)
        };
        let escaping = Offer {
            title: Some("../etc/passwd".into()),
            ..offer("b", "", None)
        };
        let untitled = offer("c", ".tar.gz", None);
        let artifact = Artifact {
            version: Some("v1.28".into()),
            ..artifact(None, &[titled, escaping, untitled])
        };
        let mut listing = Listing::default();
        listing.add(&naming, &tag("stable"), vec![artifact]);
        assert_eq!(names(&listing), ["k8s-v1.28.raw", "k8s-v1.28.tar.gz"]);
        assert_eq!(
            reasons(&listing),
            ["stable: \"../etc/passwd\" cannot be listed: it has a '/' or '%'"]
        );
    }

    #[test]
    fn layers_that_nothing_tells_apart_are_left_out_alone() {
        let mut listing = Listing::default();
        listing.add(
            &K8S,
            &tag("v1"),
            vec![artifact(
                None,
                &[
                    offer("a", ".raw", None),
                    offer("b", ".raw", None),
                    offer("c", ".efi", None),
                ],
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
        assert_eq!(names(&listing), ["k8s-v1.efi", "k8s-v2.raw"]);
        assert_eq!(
            reasons(&listing),
            [
                "v1: two of its layers would both be called k8s-v1.raw, and no title of its own tells one of them apart"
            ]
        );
    }

    #[test]
    fn an_image_that_has_to_be_made_weighs_what_its_layers_do() {
        let mut image = artifact(None, &[]);
        let empty = image.weight();
        let layers = vec![(Digest::of(b"layer"), 1); 128];
        image.recognised.to_flatten = Some(Recipe {
            layers: layers.clone(),
            file: None,
        });
        assert!(image.weight() > empty + size_of_val(&layers[..]));
    }

    #[test]
    fn a_version_takes_memory_only_where_a_name_needs_it() {
        let kept = |naming: &Naming<'_>, offers: &[Offer]| {
            let mut artifact = Artifact {
                version: Some("v".repeat(1000)),
                ..artifact(None, offers)
            };
            artifact.condense(naming);
            assert_eq!(artifact.version.is_some(), artifact.weight() > 1000);
            artifact.version.is_some()
        };
        let two = [offer("a", ".raw", None), offer("b", ".raw", None)];
        let own = Naming {
            keeps_titles: true,
            ..K8S
        };
        assert!(!kept(&K8S, &[]));
        assert!(kept(&own, &[]));
        assert!(kept(&K8S, &two));
    }

    #[test]
    fn very_many_layers_are_named_in_no_time() {
        let one = offer("a", ".raw", Some(".sysext.raw"));
        let alike = vec![one.clone(); 16_384];
        let titled = (0..16_384).map(|n| Offer {
            title: Some(format!("{n}.raw")),
            ..one.clone()
        });
        let naming = Naming {
            keeps_titles: true,
            ..K8S
        };
        for (naming, offers, files) in [(&K8S, alike, 1), (&naming, titled.collect(), 16_384)] {
            let artifact = artifact(None, &offers);
            let begun = Instant::now();
            let (named, _) = name_offers(naming, &tag("v1"), &artifact);
            let took = begun.elapsed();
            assert_eq!(named.len(), files);
            // To compare each with each takes many times as long.
            assert!(took < Duration::from_secs(1), "{took:?}");
        }
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
            ..K8S
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
            ..K8S
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
