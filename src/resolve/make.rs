//! Images that have to be read, or made into another file, before they are listed.

use log::debug;

use super::Resolver;
use super::complete::by_version;
use crate::artifact::{Content, Offer, Recipe, Recognised, Skipped};
use crate::error::Error;
use crate::flatten::Product;
use crate::listing::Artifact;
use crate::name::Tag;
use crate::platform::Architecture;

impl Resolver<'_> {
    /// Turns what has to be made into files on offer, or into the reasons why they are not.
    ///
    /// What came out before stays known. Of the rest the newest versions are made now, as long as there is time;
    /// what is not ready by then is made all the same, for the next listing. An image of one gzip layer is made by
    /// reading it: if it is clean it is on offer as it is. Older ones are on offer until somebody has read them.
    ///
    /// `newest`: so many versions are made now; `None` for all of them.
    pub fn make(&self, found: Vec<(&Tag, &mut Vec<Artifact>)>, newest: Option<usize>) {
        let images: Vec<_> = (found.iter())
            .map(|(tag, artifacts)| Image::new(tag, artifacts))
            .collect();
        let turns = turns(
            &images,
            self.architectures,
            Architecture::of_this_machine(),
            newest,
        );
        drop(images);
        let mut found: Vec<_> = found.into_iter().zip(turns).collect();
        found.sort_by_key(|(_, turn)| turn.place);
        let mut begun = Vec::new();
        for ((tag, artifacts), turn) in found {
            let what = format!("{}:{tag}", self.source.name());
            for Recognised {
                offers,
                to_make,
                skipped,
                ..
            } in artifacts.iter_mut().map(|one| &mut one.recognised)
            {
                let Some(recipe) = to_make.take() else {
                    continue;
                };
                let as_it_is = offers.iter().any(|offer| recipe.is_layer(offer.digest));
                if as_it_is && self.workshop.too_large(&recipe).is_some() {
                    unread(offers, &recipe);
                    continue;
                }
                let known = self.workshop.known(self.source, &recipe);
                let is_begun = || self.workshop.is_begun(self.source, &recipe);
                if known.is_none() && (turn.is_new || as_it_is && is_begun()) {
                    let job = self.workshop.begin(&what, self.source, &recipe);
                    begun.push((offers, skipped, recipe, job));
                    continue;
                }
                let result = match known {
                    Some(Ok(made)) => Ok(recipe.clone().offer(made.digest, made.size)),
                    Some(Err(error)) => Err(error.line()),
                    None if as_it_is => {
                        unread(offers, &recipe);
                        continue;
                    }
                    None => Err(turn.why_not()),
                };
                settle(offers, skipped, &recipe, result);
            }
        }
        for (offers, skipped, recipe, job) in begun {
            let result = match job.wait() {
                Some(Ok(Product { made, .. })) => Ok(recipe.clone().offer(made.digest, made.size)),
                // There is no place to read it beforehand.
                Some(Err(error @ Error::NoCache))
                    if offers.iter().any(|offer| recipe.is_layer(offer.digest)) =>
                {
                    debug!("{}: {}", self.source.name(), error.line());
                    unread(offers, &recipe);
                    continue;
                }
                Some(Err(error)) => Err(error.line()),
                None => {
                    Err("it is still being flattened; it is listed once that is done".to_owned())
                }
            };
            settle(offers, skipped, &recipe, result);
        }
    }
}

/// Offers a layer as it is. It is read while it is sent, and may have to be made yet.
fn unread(offers: &mut [Offer], recipe: &Recipe) {
    for offer in offers
        .iter_mut()
        .filter(|offer| recipe.is_layer(offer.digest))
    {
        offer.content = Content::Made(recipe.clone());
    }
}

/// Puts what came of an image in the place of what is offered of it so far.
fn settle(
    offers: &mut Vec<Offer>,
    skipped: &mut Vec<Skipped>,
    recipe: &Recipe,
    result: Result<Offer, String>,
) {
    offers.retain(|offer| !recipe.is_layer(offer.digest));
    match result {
        Ok(offer) => offers.push(offer),
        Err(why) => skipped.push(Skipped::whole(why)),
    }
}

/// What is known of a tag's images before any of them is read.
struct Image<'a> {
    tag: &'a Tag,
    /// The machines that they say they are for, in an index, a config or an annotation.
    machines: Vec<Architecture>,
    has_to_be_made: bool,
}

impl<'a> Image<'a> {
    fn new(tag: &'a Tag, artifacts: &[Artifact]) -> Self {
        Self {
            tag,
            machines: artifacts
                .iter()
                .filter_map(|one| one.architecture)
                .collect(),
            has_to_be_made: artifacts.iter().any(|one| one.recognised.to_make.is_some()),
        }
    }

    /// The machine that its tag ends in.
    fn by_tag(&self) -> Option<Architecture> {
        Architecture::at_end_of(self.tag.as_str()).map(|(_, architecture)| architecture)
    }

    /// What they are for, as far as anything says: the tag only where nothing else does.
    fn is_for(&self, is_meant: impl Fn(&Architecture) -> bool) -> Option<bool> {
        match (self.machines.as_slice(), self.by_tag()) {
            ([], None) => None,
            ([], Some(by_tag)) => Some(is_meant(&by_tag)),
            (machines, _) => Some(machines.iter().any(is_meant)),
        }
    }
}

/// When it is an image's turn to be made.
#[derive(Clone, Debug, PartialEq)]
struct Turn {
    /// Counted from the one that is first.
    place: usize,
    /// It is made now.
    is_new: bool,
    /// It is for another machine than those that files are offered for, by its tag.
    foreign: Option<Architecture>,
    newest: Option<usize>,
}

impl Turn {
    fn why_not(&self) -> String {
        match self.foreign {
            Some(architecture) => format!(
                "it has to be flattened, and its tag says it is for {architecture}; only images for the \
                 architectures on offer are"
            ),
            None => format!(
                "it has to be flattened, and only the newest {} versions that do are; \
                 'flatten' in the settings says how many",
                self.newest.unwrap_or_default()
            ),
        }
    }
}

/// The turn of each image: the newest release first, of one release what is for this machine. What is for a
/// machine that files are not offered for comes last, and takes no place of others.
fn turns(
    images: &[Image<'_>],
    offered: &[Architecture],
    own: Option<Architecture>,
    newest: Option<usize>,
) -> Vec<Turn> {
    let is_foreign =
        |image: &Image<'_>| image.is_for(|machine| offered.contains(machine)) == Some(false);
    let is_own = |image: &Image<'_>| {
        image
            .is_for(|machine| Some(*machine) == own)
            .unwrap_or(true)
    };
    let mut order: Vec<_> = (0..images.len()).collect();
    order.sort_by(|one, other| {
        let (one, other) = (&images[*one], &images[*other]);
        is_foreign(one)
            .cmp(&is_foreign(other))
            .then_with(|| by_version(other.tag, one.tag))
            .then_with(|| is_own(other).cmp(&is_own(one)))
            .then_with(|| one.tag.cmp(other.tag))
    });
    let mut turns = vec![None; images.len()];
    let mut versions = 0;
    for (place, n) in order.into_iter().enumerate() {
        let image = &images[n];
        let foreign = image.by_tag().filter(|_| is_foreign(image));
        let is_new = newest.is_none_or(|newest| foreign.is_none() && versions < newest);
        versions += usize::from(image.has_to_be_made);
        turns[n] = Some(Turn {
            place,
            is_new,
            foreign,
            newest,
        });
    }
    turns.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tags in the order in which it is their turn; those that are not made now in brackets. A tag may have
    /// what its image says it is for behind a `:`.
    fn order(tags: &str, offered: &[&str], newest: usize) -> String {
        let parse = |name: &str| name.parse::<Architecture>().unwrap();
        let tags: Vec<(Tag, Vec<_>)> = tags
            .split_whitespace()
            .map(|text| {
                let (tag, machine) = text.split_once(':').unwrap_or((text, ""));
                let machine = Some(machine).filter(|machine| !machine.is_empty());
                (
                    tag.parse().unwrap(),
                    machine.map(parse).into_iter().collect(),
                )
            })
            .collect();
        let images: Vec<_> = tags
            .iter()
            .map(|(tag, machines)| Image {
                tag,
                machines: machines.clone(),
                has_to_be_made: true,
            })
            .collect();
        let offered: Vec<_> = offered.iter().map(|name| parse(name)).collect();
        let turns = turns(&images, &offered, Some(parse("x86-64")), Some(newest));
        let mut found: Vec<_> = turns.iter().zip(&tags).collect();
        found.sort_by_key(|(turn, _)| turn.place);
        let text = found.iter().map(|(turn, (tag, _))| match turn.is_new {
            true => tag.to_string(),
            false => format!("[{tag}]"),
        });
        text.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn images_for_other_machines_take_no_place() {
        for (tags, offered, newest, expected, why) in [
            ("v9 v10 v8", &["x86-64"][..], 2, "v10 v9 [v8]", "by version"),
            (
                "v1-amd64 v1-arm64 v2-amd64 v2-arm64",
                &["x86-64"],
                2,
                "v2-amd64 v1-amd64 [v2-arm64] [v1-arm64]",
                "the tags say what they are for",
            ),
            (
                "v1-x86_64 v2.aarch64 v3_riscv64",
                &["x86-64"],
                3,
                "v1-x86_64 [v3_riscv64] [v2.aarch64]",
                "in any spelling",
            ),
            (
                "v1-amd64 v1-arm64 v2-amd64 v2-arm64",
                &["arm64", "x86-64"],
                3,
                "v2-amd64 v2-arm64 v1-amd64 [v1-arm64]",
                "all are on offer, this machine's first",
            ),
            (
                "v1 v2-arm64:x86-64",
                &["x86-64"],
                1,
                "v2-arm64 [v1]",
                "what an image says counts more than its tag",
            ),
            ("v1-arm64", &["x86-64"], 3, "[v1-arm64]", "nothing else"),
        ] {
            assert_eq!(order(tags, offered, newest), expected, "{why}");
        }
    }
}
