//! The names of the files that an artifact offers: `<base>-<tag>[-<arch>]<suffix>`, a template of the settings, or
//! titles.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::{File, Reasons};
use crate::artifact::kubesolo::Release;
use crate::artifact::{Offer, Recognised, Skipped, titles};
use crate::digest::Digest;
use crate::name::{FileName, Tag};
use crate::platform::Architecture;
use crate::printable::shortened;
use crate::rollout::Annotated;
use crate::template::Template;
use crate::trust::Accepted;
use crate::version::{self, split_architecture};

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

/// A manifest that a tag led to.
#[derive(Debug)]
pub struct Artifact {
    /// The digest of the manifest.
    pub manifest: Digest,
    /// The architecture in its index, or in the manifest itself if that was asked for.
    pub architecture: Option<Architecture>,
    /// Whether it is one of several entries of an index.
    pub is_of_index: bool,
    /// The annotation that tells it from other entries for its architecture.
    pub flavour: Option<String>,
    /// The version that it or its index notes. It names the files in the directory of one artifact.
    pub version: Option<String>,
    /// The signatures by which it was accepted, if the settings ask for any.
    pub accepted: Option<Arc<Accepted>>,
    /// The schedule of its rollout, in the manifest or its index.
    pub schedule: Annotated,
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
            // If files have the same suffix, their titles and the version in them are used.
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
            to_flatten,
            skipped,
            kubesolo,
            ..
        } = &self.recognised;
        let to_flatten = to_flatten
            .as_ref()
            .map_or(0, |recipe| FILE + size_of_val(&recipe.layers[..]));
        let bad_schedule = self.schedule.as_ref().and_then(|one| one.as_ref().err());
        size_of::<Self>()
            + length(&self.version)
            + length(&self.flavour)
            + bad_schedule.map_or(0, String::len)
            + offers.iter().map(of_offer).sum::<usize>()
            + to_flatten
            + skipped.iter().map(|one| one.why.len()).sum::<usize>()
            + kubesolo.as_ref().map_or(0, Release::weight)
    }
}

/// Gives the offers of an artifact their names, unchecked, and a reason for each that gets none.
pub fn name_offers<'a>(
    naming: &Naming<'_>,
    tag: &Tag,
    artifact: &'a Artifact,
) -> (Vec<(String, &'a Offer)>, Vec<Skipped>) {
    let offers = &artifact.recognised.offers;
    let noted = artifact.version.as_deref();
    let (in_tag, _) = version::of_tag(tag);
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
    // Most artifacts have one file, and with it one name.
    if !second.is_empty() {
        keep_unique(&mut second);
        let taken: HashSet<_> = named.iter().map(|(name, _)| name.clone()).collect();
        second.retain(|(name, _)| !taken.contains(name) && name.parse::<FileName>().is_ok());
        named.extend(second);
    }
    (named, reasons.told())
}

/// Keeps the names that stand for one content each, once. Returns those that stand for several.
fn keep_unique(named: &mut Vec<(String, &Offer)>) -> HashSet<String> {
    if named.len() < 2 {
        return HashSet::new();
    }
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
pub fn stem(naming: &Naming<'_>, tag: &Tag, artifact: &Artifact) -> Result<String, String> {
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
    let arch = arch.or_else(|| version::of_tag(tag).1);
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
