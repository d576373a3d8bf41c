//! Files → the text of `SHA256SUMS`. No I/O.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::{self, Write};

use jiff::civil::Date;

use crate::artifact::kubesolo::Release;
use crate::artifact::{Content, Offer, Recognised, Skipped, titles};
use crate::digest::Digest;
use crate::memory::Held;
use crate::name::{FileName, Tag};
use crate::platform::Architecture;
use crate::template::Template;

/// The digest of no bytes, for the line of an empty listing.
const OF_NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Reasons given for the parts of one tag.
const MAX_REASONS: usize = 20;
/// Longest reason, in characters: it quotes texts of strangers.
const MAX_REASON: usize = 1000;

/// A file in a listing.
#[derive(Clone, Debug, PartialEq)]
pub struct File {
    /// Of its bytes.
    pub digest: Digest,
    /// In bytes; not known of a file that only a publisher's list names.
    pub size: Option<u64>,
    /// Which of the repository's sources has it.
    pub source: usize,
    /// The tag it is offered by.
    pub tag: Tag,
    /// Of the manifest that offers it; not known of a file that only a publisher's list names.
    pub manifest: Option<Digest>,
    /// What it runs on, if its manifest or index says so.
    pub architecture: Option<Architecture>,
    /// It comes from one of several entries of an index, rather than from a plain manifest.
    pub is_of_index: bool,
    /// Where its bytes come from.
    pub content: Content,
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
    /// The number of the layer, if it is one.
    pub layer: Option<usize>,
    /// For the log.
    pub reason: String,
    /// There was no answer for it: another time it may be listed.
    pub is_unanswered: bool,
}

impl LeftOut {
    fn new(tag: &Tag, Skipped { layer, why }: Skipped) -> Self {
        Self {
            tag: tag.clone(),
            layer,
            reason: shortened(why),
            is_unanswered: false,
        }
    }
}

/// The part of a listing that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incomplete {
    /// Tags that were not answered.
    pub unanswered: usize,
    /// All tags that were to be asked for.
    pub tags: usize,
    /// The attached artifacts could not be asked for at the registry itself.
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

/// The names of a repository's files.
#[derive(Clone, Debug)]
pub struct Naming<'a> {
    /// The last component of the repository as the URL has it.
    pub base: &'a str,
    /// The form, when the settings give one.
    pub template: Option<&'a Template>,
    /// Which of the repository's sources the files are in.
    pub source: usize,
    /// A file that its publisher named keeps that name: in the directory of one artifact.
    pub keeps_titles: bool,
}

/// One manifest that a tag led to.
#[derive(Debug)]
pub struct Artifact {
    /// Its digest.
    pub manifest: Digest,
    /// What it runs on, if its index says so, or the manifest itself and that was asked for.
    pub architecture: Option<Architecture>,
    /// It is one of several entries of an index.
    pub is_of_index: bool,
    /// The annotation that tells it from other entries for its architecture.
    pub flavour: Option<String>,
    /// The version that it or its index notes. It names the files in the directory of one artifact.
    pub version: Option<String>,
    /// The files that it offers.
    pub recognised: Recognised,
}

impl Artifact {
    /// Drops what no listing needs: layers that make the same file, and what is only listed in the directory of
    /// one artifact.
    pub fn condense(&mut self, naming: &Naming<'_>) {
        let offers = &mut self.recognised.offers;
        if !naming.keeps_titles {
            self.recognised.kubesolo = None;
            let suffixes = offers.iter().map(|one| (one.suffix.clone(), one.digest));
            let shared = titles::shared(suffixes);
            // Where the suffix does not tell files apart, titles count, and the version in them.
            for offer in offers.iter_mut() {
                if !shared.contains(&offer.suffix) {
                    (offer.title, offer.long_suffix) = (None, None);
                }
            }
            if shared.is_empty() {
                self.version = None;
            }
        }
        let mut seen = HashSet::new();
        offers.retain(|offer| {
            let names = (&offer.title, &offer.suffix, &offer.long_suffix);
            seen.insert((
                names.0.clone(),
                names.1.clone(),
                names.2.clone(),
                offer.digest,
            ))
        });
        offers.shrink_to_fit();
        // Either is still too long for a name.
        self.version = self.version.take().map(shortened);
        self.flavour = self.flavour.take().map(shortened);
    }

    /// The memory that it takes in a listing, in bytes and roughly.
    pub fn weight(&self) -> usize {
        const FILE: usize = size_of::<Offer>() + size_of::<(FileName, File)>();
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let of_offer = |offer: &Offer| {
            let names = offer.suffix.len() + length(&offer.long_suffix) + length(&offer.title);
            FILE + names + offer.content.weight()
        };
        let Recognised {
            offers,
            to_make,
            skipped,
            kubesolo,
            ..
        } = &self.recognised;
        let to_make = to_make
            .as_ref()
            .map_or(0, |recipe| FILE + size_of_val(&recipe.layers[..]));
        size_of::<Self>()
            + length(&self.version)
            + length(&self.flavour)
            + offers.iter().map(of_offer).sum::<usize>()
            + to_make
            + skipped.iter().map(|one| one.why.len()).sum::<usize>()
            + kubesolo.as_ref().map_or(0, Release::weight)
    }
}

/// Why parts of a tag are left out: the first reasons, and the number of the others.
#[derive(Default)]
pub struct Reasons {
    told: Vec<Skipped>,
    untold: usize,
}

impl Extend<Skipped> for Reasons {
    fn extend<T: IntoIterator<Item = Skipped>>(&mut self, skipped: T) {
        for Skipped { layer, why } in skipped {
            if self.told.len() < MAX_REASONS {
                let why = shortened(why);
                self.told.push(Skipped { layer, why });
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

/// A reason, cut off where it is too long.
pub fn shortened(mut reason: String) -> String {
    if let Some((end, _)) = reason.char_indices().nth(MAX_REASON) {
        reason.truncate(end);
        reason.push('…');
        reason.shrink_to_fit();
    }
    reason
}

impl Listing {
    /// Adds what a tag leads to, under its names. Tags come in sorted order.
    pub fn add(&mut self, naming: &Naming<'_>, tag: &Tag, artifacts: Vec<Artifact>) {
        for artifact in artifacts {
            let (named, reasons) = name_offers(naming, tag, &artifact);
            for skipped in artifact.recognised.skipped.iter().cloned().chain(reasons) {
                self.leave_out(tag, skipped);
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
                };
                match name.parse() {
                    Ok(name) => self.insert(name, file),
                    Err(why) => self.leave_out(tag, Skipped::whole(why)),
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
        let left_out = self.left_out.iter();
        let left_out =
            left_out.map(|one| size_of::<LeftOut>() + one.tag.as_str().len() + one.reason.len());
        files.chain(left_out).sum()
    }

    /// Notes that a tag or a part of it is not listed.
    pub fn leave_out(&mut self, tag: &Tag, skipped: Skipped) {
        self.left_out.push(LeftOut::new(tag, skipped));
    }

    /// Notes that a tag is not listed because it was not answered.
    pub fn leave_unanswered(&mut self, tag: &Tag, reason: String) {
        self.left_out.push(LeftOut {
            is_unanswered: true,
            ..LeftOut::new(tag, Skipped::whole(reason))
        });
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
                let left_out = LeftOut::new(&loser.tag, Skipped::whole(why));
                self.left_out.push(left_out);
            }
        }
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

/// A list as its publisher wrote and signed it, byte for byte, with the places of its lines by name. It takes
/// little more memory than its bytes.
pub struct PublisherList {
    digest: Digest,
    bytes: Vec<u8>,
    /// The start of each name's line, in the order of the names. Of two lines with one name the first counts.
    lines: Box<[u32]>,
    /// The memory that it takes, if that is counted.
    _held: Option<Held>,
}

impl PublisherList {
    /// Finds the names. Lines that systemd would not take are left to it to refuse.
    ///
    /// `held`: [`PublisherList::weight`] of so many bytes.
    pub fn new(digest: Digest, bytes: Vec<u8>, held: Option<Held>) -> Self {
        let mut lines = Vec::new();
        let mut start = 0;
        for line in bytes.split(|byte| *byte == b'\n') {
            if let (Ok(start), Some(_)) = (u32::try_from(start), parse_line(line)) {
                lines.push(start);
            }
            start += line.len() + 1;
        }
        let name = |start: &u32| name_in(line_at(&bytes, *start));
        lines.sort_unstable_by(|one, other| name(one).cmp(name(other)).then(one.cmp(other)));
        lines.dedup_by(|one, other| name(one) == name(other));
        Self {
            digest,
            lines: lines.into(),
            bytes,
            _held: held,
        }
    }

    /// Of its bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The list itself.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The number of names.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// The file of this name. Its size is not known.
    pub fn get(&self, name: &FileName) -> Option<File> {
        let of = |start: &u32| name_in(line_at(&self.bytes, *start));
        let found = self
            .lines
            .binary_search_by(|start| of(start).cmp(name.as_str().as_bytes()))
            .ok()?;
        self.line(self.lines[found]).map(|(_, file)| file)
    }

    /// All its files, sorted by name.
    pub fn files(&self) -> impl Iterator<Item = (FileName, File)> + '_ {
        self.lines.iter().filter_map(|start| self.line(*start))
    }

    /// The memory that a list of so many bytes takes at most: for each line, which has 68 bytes or more, the place
    /// of its name.
    pub fn weight(bytes: u64) -> usize {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        bytes.saturating_add(bytes / 16)
    }

    fn line(&self, start: u32) -> Option<(FileName, File)> {
        let (digest, name) = parse_line(line_at(&self.bytes, start))?;
        let file = File {
            digest,
            size: None,
            source: 0,
            tag: Tag::of_listing(),
            manifest: None,
            architecture: None,
            is_of_index: false,
            content: Content::Blob,
        };
        Some((name, file))
    }
}

impl AsRef<[u8]> for PublisherList {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for PublisherList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublisherList({} names)", self.len())
    }
}

/// The line that begins there, without its end.
fn line_at(list: &[u8], start: u32) -> &[u8] {
    let rest = list.get(start as usize..).unwrap_or_default();
    let end = rest.iter().position(|byte| *byte == b'\n');
    &rest[..end.unwrap_or(rest.len())]
}

/// The name in a line that [`parse_line`] takes: behind 64 digits and two characters.
fn name_in(line: &[u8]) -> &[u8] {
    line.get(66..).unwrap_or_default()
}

/// `<64 hex>  <name>`, or ` *` before the name, as sha256sum writes it.
fn parse_line(line: &[u8]) -> Option<(Digest, FileName)> {
    let line = std::str::from_utf8(line).ok()?;
    let (hex, rest) = line.split_at_checked(64)?;
    let name = rest
        .strip_prefix("  ")
        .or_else(|| rest.strip_prefix(" *"))?;
    let digest = format!("sha256:{}", hex.to_ascii_lowercase())
        .parse()
        .ok()?;
    Some((digest, name.parse().ok()?))
}

/// Gives the offers of an artifact their names, unchecked, and a reason for each that gets none.
fn name_offers<'a>(
    naming: &Naming<'_>,
    tag: &Tag,
    artifact: &'a Artifact,
) -> (Vec<(String, &'a Offer)>, Vec<Skipped>) {
    let offers = &artifact.recognised.offers;
    let noted = artifact.version.as_deref();
    let (in_tag, _) = split_architecture(tag.as_str());
    let versions: Vec<_> = noted.into_iter().chain([in_tag]).collect();
    let stem = stem(naming, tag, artifact);
    let (mut named, mut second, mut clashes) = (Vec::new(), Vec::new(), BTreeSet::new());
    let mut needs_stem = false;
    for (offer, ending) in offers.iter().zip(titles::endings(offers, &versions)) {
        let name = stem.as_ref().ok().zip(ending.as_ref());
        let name = name.map(|(stem, ending)| format!("{stem}{ending}"));
        if let Some(title) = offer.title.as_ref().filter(|_| naming.keeps_titles) {
            named.push((title.clone(), offer));
            // A pattern needs a version, and this one is not in the title.
            let lacks = |noted: &str| !titles::has_version(title, noted);
            if !offer.suffix.is_empty() && noted.is_some_and(lacks) {
                second.extend(name.map(|name| (name, offer)));
            }
            continue;
        }
        match (name, &stem) {
            (Some(name), _) => named.push((name, offer)),
            (None, Ok(stem)) => drop(clashes.insert(format!("{stem}{}", offer.suffix))),
            (None, Err(_)) => needs_stem = true,
        }
    }
    let mut reasons = Reasons::default();
    reasons.extend(stem.err().filter(|_| needs_stem).map(Skipped::whole));
    // Titles may be equal, too.
    clashes.extend(keep_unique(&mut named));
    reasons.extend(clashes.into_iter().map(|name| {
        Skipped::whole(format!(
            "two of its layers would both be called {name}, and no title of its own tells one of them apart"
        ))
    }));
    keep_unique(&mut second);
    let taken: HashSet<_> = named.iter().map(|(name, _)| name.clone()).collect();
    second.retain(|(name, _)| !taken.contains(name) && name.parse::<FileName>().is_ok());
    named.extend(second);
    (named, reasons.told())
}

/// Keeps the names that stand for one content each, once. Returns those that stand for several.
fn keep_unique(named: &mut Vec<(String, &Offer)>) -> HashSet<String> {
    let shared = titles::shared(
        named
            .iter()
            .map(|(name, offer)| (name.clone(), offer.digest)),
    );
    let mut seen = shared.clone();
    named.retain(|(name, _)| seen.insert(name.clone()));
    shared
}

/// The name without its suffix.
fn stem(naming: &Naming<'_>, tag: &Tag, artifact: &Artifact) -> Result<String, String> {
    let noted = artifact.version.as_deref().filter(|_| naming.keeps_titles);
    let version = noted.unwrap_or(tag.as_str());
    let with_flavour = |version: &str| match &artifact.flavour {
        Some(flavour) => format!("{version}-{flavour}"),
        None => version.to_owned(),
    };
    let base = naming.base;
    let Some(template) = naming.template else {
        let version = with_flavour(version);
        return Ok(match artifact.architecture {
            Some(arch) if artifact.is_of_index => format!("{base}-{version}-{arch}"),
            _ => format!("{base}-{version}"),
        });
    };
    let arch = artifact.architecture;
    let arch = arch.or_else(|| split_architecture(tag.as_str()).1);
    // An architecture that the name has in its place is no part of the version.
    let version = match split_architecture(version) {
        (rest, found) if template.wants_arch() && found.is_some() && found == arch => rest,
        _ => version,
    };
    let arch = arch.map(Architecture::as_str);
    template
        .fill(base, &with_flavour(version), arch)
        .ok_or_else(|| {
            "the names set for this repository have {arch}, and neither its manifest nor its config nor its tag \
             names an architecture"
                .into()
        })
}

/// A version without the architecture that it ends in, and that architecture.
fn split_architecture(version: &str) -> (&str, Option<Architecture>) {
    match Architecture::at_end_of(version) {
        Some((rest, found)) if !rest.is_empty() => (rest, Some(found)),
        _ => (version, None),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::artifact::Recipe;

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
            listing.text(Date::constant(2026, 1, 1)),
            format!("{a}  k8s-v1.raw\n{b}  k8s-v10.raw\n{c}  k8s-v10.verity\n")
        );
    }

    #[test]
    fn a_publishers_list_is_read_as_sha256sum_writes_it() {
        let hex = Digest::of(b"a").hex();
        let list = format!(
            "{hex}  one.raw\n{} *two.raw\n{hex}  one.raw\n{hex} bad.raw\nnonsense\n{hex}  ../up\n\n{hex}  last.raw",
            hex.to_uppercase()
        );
        let list = PublisherList::new(Digest::of(b""), list.into_bytes(), None);
        let names: Vec<_> = list.files().map(|(name, _)| name.to_string()).collect();
        assert_eq!(names, ["last.raw", "one.raw", "two.raw"]);
        for (name, file) in list.files() {
            assert_eq!(file.digest, Digest::of(b"a"), "{name}");
            assert_eq!(list.get(&name), Some(file), "{name}");
        }
        for name in ["bad.raw", "one", "one.raw.xz", "z"] {
            assert_eq!(list.get(&name.parse().unwrap()), None, "{name}");
        }
    }

    #[test]
    fn of_two_lines_with_one_name_the_first_counts() {
        let (first, second) = (Digest::of(b"1"), Digest::of(b"2"));
        let list = format!(
            "{}  a\n{}  b\n{} *a\n",
            first.hex(),
            second.hex(),
            second.hex()
        );
        let list = PublisherList::new(Digest::of(b""), list.into_bytes(), None);
        let found: Vec<_> = list
            .files()
            .map(|(name, file)| (name.to_string(), file.digest))
            .collect();
        assert_eq!(found, [("a".to_owned(), first), ("b".to_owned(), second)]);
    }

    #[test]
    fn a_signed_list_takes_little_more_memory_than_its_bytes() {
        let lines = (0..10_000).map(|n| format!("{}  {n}\n", Digest::of(b"").hex()));
        let bytes = lines.collect::<String>().into_bytes();
        let size = bytes.len();
        let list = PublisherList::new(Digest::of(b""), bytes, None);
        assert_eq!(list.len(), 10_000);
        let taken = list.bytes.len() + size_of_val(&list.lines[..]);
        assert!(taken <= PublisherList::weight(size as u64), "{taken}");
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
        image.recognised.to_make = Some(Recipe {
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
