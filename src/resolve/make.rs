//! Container images that have to be read or flattened before they are listed.

use log::debug;

use super::Resolver;
use crate::artifact::{Content, Recipe, Recognised, Skipped};
use crate::cache::Flattened;
use crate::error::Error;
use crate::flatten::Product;
use crate::listing::Artifact;
use crate::name::Tag;
use crate::platform::Architecture;
use crate::version::by_version;

impl Resolver<'_> {
    /// Turns images that have to be made into files on offer, or into the reasons why they are not.
    ///
    /// Earlier results stay known. Of the rest the newest versions are made now, as long as there is time;
    /// those that are not ready by then are made all the same, for the next listing. An image of one gzip layer is made
    /// by reading it: a clean one is on offer as it is. Older ones are on offer until somebody has read them.
    ///
    /// `newest`: the number of versions that are made now; `None` for all of them.
    pub fn make(&self, found: Vec<(&Tag, &mut Vec<Artifact>)>, newest: Option<usize>) {
        let images: Vec<_> = (found.iter())
            .map(|(tag, artifacts)| Candidate::new(tag, artifacts))
            .collect();
        let own = Architecture::of_this_machine();
        let turns = turns(&images, self.architectures, own, newest);
        drop(images);
        let mut found: Vec<_> = found.into_iter().zip(turns).collect();
        found.sort_by_key(|(_, turn)| turn.place);
        let mut begun = Vec::new();
        for ((tag, artifacts), turn) in found {
            let what = format!("{}:{tag}", self.source.name());
            for recognised in artifacts.iter_mut().map(|one| &mut one.recognised) {
                let Some(recipe) = recognised.to_flatten.take() else {
                    continue;
                };
                let mut offers = recognised.offers.iter();
                let as_it_is = offers.any(|offer| recipe.is_layer(offer.digest));
                if as_it_is && self.flattener.too_large(&recipe).is_some() {
                    offer_unread(recognised, &recipe);
                    continue;
                }
                let known = self.flattener.known(self.source, &recipe);
                let is_begun = || self.flattener.is_begun(self.source, &recipe);
                match known {
                    Some(result) => {
                        let result = result.map_err(|error| Skipped::refused(error.line()));
                        settle(recognised, recipe, result);
                    }
                    None if turn.is_new || as_it_is && is_begun() => {
                        let job = self.flattener.begin(&what, self.source, &recipe);
                        begun.push((recognised, recipe, as_it_is, job));
                    }
                    None if as_it_is => offer_unread(recognised, &recipe),
                    None => settle(recognised, recipe, Err(Skipped::whole(turn.why_not()))),
                }
            }
        }
        for (recognised, recipe, as_it_is, job) in begun {
            let result = match job.wait() {
                Some(Ok(Product { made, .. })) => Ok(made),
                // There is no place to read it beforehand.
                Some(Err(error @ Error::NoCache)) if as_it_is => {
                    debug!("{}: {}", self.source.name(), error.line());
                    offer_unread(recognised, &recipe);
                    continue;
                }
                Some(Err(error)) => Err(Skipped::refused(error.line())),
                None => Err(Skipped::held(
                    "it is still being flattened; it is listed once that is done",
                )),
            };
            settle(recognised, recipe, result);
        }
    }
}

/// Offers a layer as it is. It is read while it is sent, and may have to be made yet.
fn offer_unread(recognised: &mut Recognised, recipe: &Recipe) {
    let offers = recognised.offers.iter_mut();
    for offer in offers.filter(|offer| recipe.is_layer(offer.digest)) {
        offer.content = Content::Flattened {
            recipe: recipe.clone(),
            size: offer.size,
        };
    }
}

/// Replaces the offer of an image's layer by the made file, or by the reason why there is none.
fn settle(recognised: &mut Recognised, recipe: Recipe, result: Result<Flattened, Skipped>) {
    let offers = &mut recognised.offers;
    offers.retain(|offer| !recipe.is_layer(offer.digest));
    match result {
        Ok(made) => offers.push(recipe.offer(made.digest, made.size)),
        Err(skipped) => recognised.skipped.push(skipped),
    }
}

/// An image before it is read.
struct Candidate<'a> {
    tag: &'a Tag,
    /// The architectures that an index, a config or an annotation names.
    machines: Vec<Architecture>,
    has_to_be_made: bool,
}

impl<'a> Candidate<'a> {
    fn new(tag: &'a Tag, artifacts: &[Artifact]) -> Self {
        Self {
            tag,
            machines: artifacts
                .iter()
                .filter_map(|one| one.architecture)
                .collect(),
            has_to_be_made: artifacts
                .iter()
                .any(|one| one.recognised.to_flatten.is_some()),
        }
    }

    /// The architecture that its tag ends in.
    fn by_tag(&self) -> Option<Architecture> {
        Architecture::at_end_of(self.tag.as_str()).map(|(_, architecture)| architecture)
    }

    /// Whether it is for such a machine, if anything says so: the tag only where nothing else does.
    fn is_for(&self, is_meant: impl Fn(&Architecture) -> bool) -> Option<bool> {
        match self.machines.as_slice() {
            [] => self.by_tag().map(|by_tag| is_meant(&by_tag)),
            machines => Some(machines.iter().any(is_meant)),
        }
    }
}

/// The turn of an image to be made.
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

/// The turn of each image: the newest version first, and of one version the image for this machine. An image for a
/// machine that files are not offered for comes last, and takes no place of others.
fn turns(
    images: &[Candidate<'_>],
    offered: &[Architecture],
    own: Option<Architecture>,
    newest: Option<usize>,
) -> Vec<Turn> {
    let is_foreign =
        |image: &Candidate<'_>| image.is_for(|machine| offered.contains(machine)) == Some(false);
    let is_own =
        |image: &Candidate<'_>| image.is_for(|machine| Some(*machine) == own) != Some(false);
    let mut order: Vec<_> = (0..images.len()).collect();
    order.sort_by(|one, other| {
        let (one, other) = (&images[*one], &images[*other]);
        is_foreign(one)
            .cmp(&is_foreign(other))
            .then_with(|| by_version(other.tag, one.tag))
            .then_with(|| is_own(other).cmp(&is_own(one)))
            .then_with(|| one.tag.cmp(other.tag))
    });
    let (mut turns, mut versions) = (Vec::new(), 0);
    for (place, n) in order.into_iter().enumerate() {
        let image = &images[n];
        let foreign = image.by_tag().filter(|_| is_foreign(image));
        let is_new = newest.is_none_or(|newest| foreign.is_none() && versions < newest);
        versions += usize::from(image.has_to_be_made);
        let turn = Turn {
            place,
            is_new,
            foreign,
            newest,
        };
        turns.push((n, turn));
    }
    turns.sort_by_key(|(n, _)| *n);
    turns.into_iter().map(|(_, turn)| turn).collect()
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
            .map(|(tag, machines)| Candidate {
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
