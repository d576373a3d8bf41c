//! Which files a manifest offers. One file for each way of publishing; no I/O.
//!
//! The dialects are tried in the order of [`DIALECTS`]. To add one: its file here, its line there,
//! and a directory in `tests/cases/`.

mod container;
mod gardenlinux;
mod ironcore;
pub mod kubesolo;
mod media_type;
mod oras;
mod suffix;
pub mod titles;

pub mod index;

use std::collections::HashSet;
use std::sync::Arc;

use crate::digest::Digest;
use crate::manifest::{Annotations, Descriptor, Image};
use crate::platform::Architecture;

/// The annotations that name a version.
const VERSIONS: [&str; 2] = ["org.opencontainers.image.version", "io.kubesolo.os.version"];

/// What one artifact offers, and what of it is left out and why.
#[derive(Debug, Default, PartialEq)]
pub struct Recognised {
    /// The files, in the order of the layers.
    pub offers: Vec<Offer>,
    /// One more file, which has to be made first. Where it is one layer that is on offer already, that may have to
    /// be made into another file.
    pub to_make: Option<Recipe>,
    /// A reason for each layer that is no file on offer.
    pub left_out: Vec<String>,
    /// The one architecture it is good for, if its publisher noted that where clients look.
    pub only_for: Option<Architecture>,
    /// What KubeSolo OS says of its release.
    pub kubesolo: Option<kubesolo::Release>,
}

/// A file on offer. Its name is the listing's business, all but the suffix.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// `.raw`, `.tar.gz`, …: what the bytes are.
    pub suffix: String,
    /// `.sysext.raw`: what tells it from another with the same suffix, if the publisher said.
    pub long_suffix: Option<String>,
    /// The file name that the publisher noted.
    pub title: Option<String>,
    /// Of the bytes as they are sent.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// Where they come from.
    pub content: Content,
}

/// Where the bytes of a file come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// The blob of the same digest.
    Blob,
    /// They are known.
    Text(Arc<str>),
    /// They have to be made, or are made already.
    Made(Recipe),
}

/// What a file is made of: the layers of a container image.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recipe {
    /// The digests and sizes in bytes of the layers, from the lowest.
    pub layers: Vec<(Digest, u64)>,
    /// It is the one file in the image whose name ends so; `None`: all of them, as one `.tar.gz`.
    pub file: Option<Arc<str>>,
}

impl Recipe {
    /// What the result is known by. It changes with the rules by which the result is made.
    pub fn key(&self) -> Digest {
        let layers = self.layers.iter().map(|(digest, _)| format!("{digest}\n"));
        let form = match &self.file {
            None => "flattened, form 3\n".to_owned(),
            Some(suffix) => format!("file {suffix}, form 2\n"),
        };
        let text: String = std::iter::once(form).chain(layers).collect();
        Digest::of(text.as_bytes())
    }

    /// What the result is.
    pub fn suffix(&self) -> &str {
        self.file.as_deref().unwrap_or(container::SUFFIX)
    }

    /// What has to be fetched, in bytes.
    pub fn size(&self) -> u64 {
        self.layers
            .iter()
            .fold(0, |sum, (_, size)| sum.saturating_add(*size))
    }

    /// Is it one layer, with this digest? Then the layer may be the file as it is.
    pub fn is_layer(&self, digest: Digest) -> bool {
        self.file.is_none() && matches!(self.layers.as_slice(), [(layer, _)] if *layer == digest)
    }

    /// The file, once it is made.
    pub fn offer(self, digest: Digest, size: u64) -> Offer {
        Offer {
            suffix: self.suffix().to_owned(),
            long_suffix: None,
            title: None,
            digest,
            size,
            content: Content::Made(self),
        }
    }
}

impl Offer {
    /// A layer as it is.
    fn layer(layer: &Descriptor, suffix: &str) -> Self {
        Self {
            suffix: suffix.to_owned(),
            long_suffix: None,
            title: layer.title().map(str::to_owned),
            digest: layer.digest,
            size: layer.size,
            content: Content::Blob,
        }
    }

    /// A text that stands in a config.
    fn text(text: String, suffix: &str) -> Self {
        Self {
            suffix: suffix.to_owned(),
            long_suffix: None,
            title: None,
            digest: Digest::of(text.as_bytes()),
            size: text.len() as u64,
            content: Content::Text(text.into()),
        }
    }
}

/// A way of publishing: `None` when the manifest is not of this kind. The config is there for those
/// that [`needs_config`] names.
type Dialect = fn(&Image, Option<&[u8]>) -> Option<Recognised>;

/// The first one that knows the manifest has it. `files` comes last: it takes any layer.
const DIALECTS: [Dialect; 6] = [
    kubesolo::recognise,
    ironcore::recognise,
    gardenlinux::recognise,
    media_type::recognise,
    container::recognise,
    oras::recognise,
];

/// The files that this manifest offers.
pub fn recognise(image: &Image, config: Option<&[u8]>) -> Recognised {
    if let Some(config) = &image.config
        && config.media_type == container::BUILD_CACHE
    {
        return Recognised {
            left_out: vec![container::IS_BUILD_CACHE.to_owned()],
            ..Recognised::default()
        };
    }
    DIALECTS
        .iter()
        .find_map(|dialect| dialect(image, config))
        .unwrap_or_default()
}

/// Every layer, as what the settings say it is. Of several those that are texts about the others stay out. Of a
/// container image it is the file in it whose name ends so.
pub fn recognise_as(image: &Image, suffix: &str) -> Recognised {
    if let Some(recognised) = container::recognise_as(image, suffix) {
        return recognised;
    }
    let mut recognised = Recognised::default();
    let is_alone = image.layers.len() == 1;
    for (n, layer) in image.layers.iter().enumerate() {
        let why = refusal(layer).or_else(|| {
            let is_text = !is_alone && suffix::is_text(&layer.media_type, layer.title());
            is_text.then(|| "it is text or JSON, and there are other layers beside it".into())
        });
        match why {
            None => recognised.offers.push(Offer::layer(layer, suffix)),
            Some(why) => recognised
                .left_out
                .push(format!("{}: {why}", call(n, layer))),
        }
    }
    recognised
}

/// Every layer that its publisher gave a file name, whatever it is: a directory as `oras pull` makes it.
pub fn titled(image: &Image) -> Vec<Offer> {
    let is_file = |layer: &&Descriptor| layer.title().is_some() && refusal(layer).is_none();
    image
        .layers
        .iter()
        .filter(is_file)
        .map(|layer| Offer::layer(layer, ""))
        .collect()
}

/// The files of an artifact's own directory: what has a title keeps it, whatever it is. What is no image has no
/// suffix.
pub fn as_directory(image: &Image, mut recognised: Recognised) -> Recognised {
    let is_file = |layer: &Descriptor| layer.title().is_some() && refusal(layer).is_none();
    recognised.left_out.retain(|why| {
        let layer = called(why).and_then(|n| image.layers.get(n));
        !layer.is_some_and(is_file)
    });
    let known: HashSet<_> = recognised
        .offers
        .iter()
        .map(|offer| (offer.title.clone(), offer.digest))
        .collect();
    let is_other = |offer: &Offer| !known.contains(&(offer.title.clone(), offer.digest));
    let others = titled(image).into_iter().filter(is_other);
    recognised.offers.extend(others);
    recognised
}

/// The version that an artifact says it is.
pub fn version(annotations: &Annotations) -> Option<&str> {
    let find = |key: &&str| annotations.get(*key).filter(|value| !value.is_empty());
    VERSIONS.iter().find_map(find).map(String::as_str)
}

/// Is there something in the config blob that is on offer?
pub fn needs_config(image: &Image) -> bool {
    ironcore::has_config(image)
}

/// Does its config say what machine it is for?
pub fn is_container(image: &Image) -> bool {
    container::is_one(image)
}

/// Why no layer of this kind can be offered, whatever the dialect.
fn refusal(layer: &Descriptor) -> Option<String> {
    if layer.media_type.ends_with("+encrypted") {
        return Some("it is encrypted".into());
    }
    if layer.is_foreign
        || layer.media_type.contains("nondistributable")
        || layer.media_type.contains(".foreign.")
    {
        return Some("it is a foreign layer, whose bytes are not in the registry".into());
    }
    None
}

/// Which layer a reason is about, as [`call`] calls it.
fn called(reason: &str) -> Option<usize> {
    let rest = reason.strip_prefix("layer ")?;
    let end = rest.find([' ', ':'])?;
    rest[..end].parse::<usize>().ok()?.checked_sub(1)
}

/// Is this reason about one layer, rather than about all of an artifact?
pub fn is_of_a_layer(reason: &str) -> bool {
    called(reason).is_some()
}

/// How a layer is called in a reason: by its place, and its title where it has one.
fn call(n: usize, layer: &Descriptor) -> String {
    match layer.title() {
        Some(title) => format!("layer {} ({title:?})", n + 1),
        None => format!("layer {}", n + 1),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn layer(title: Option<String>) -> Descriptor {
        let title = title.map(|title| ("org.opencontainers.image.title".to_owned(), title));
        Descriptor {
            media_type: "text/plain".into(),
            digest: Digest::of(b""),
            size: 0,
            annotations: title.into_iter().collect(),
            is_foreign: false,
        }
    }

    #[test]
    fn a_directory_has_every_layer_with_a_title_and_a_reason_for_the_others_in_no_time() {
        let layers = (0..16_384).map(|n| layer((n != 9).then(|| format!("{n}: a note"))));
        let image = Image {
            artifact_type: None,
            config: None,
            layers: layers.collect(),
            annotations: Annotations::default(),
            subject: None,
        };
        let recognised = recognise(&image, None);
        assert_eq!(recognised.left_out.len(), image.layers.len());
        let begun = Instant::now();
        let directory = as_directory(&image, recognised);
        let took = begun.elapsed();
        assert_eq!(directory.offers.len(), image.layers.len() - 1);
        let [reason] = &directory.left_out[..] else {
            panic!("one reason, not {:?}", directory.left_out);
        };
        assert!(reason.starts_with("layer 10: it has no title"), "{reason}");
        // To compare each with each takes many times as long.
        assert!(took < Duration::from_secs(1), "{took:?}");
    }

    #[test]
    fn a_reason_tells_which_layer_it_is_about() {
        for title in [None, Some("a.raw".into()), Some("b: (c) ".into())] {
            let reason = format!("{}: it is encrypted", call(41, &layer(title)));
            assert_eq!(called(&reason), Some(41), "{reason}");
        }
        for reason in ["it has no layers", "layer ", "layer 0: x", "layer x: y"] {
            assert_eq!(called(reason), None, "{reason}");
        }
    }
}
