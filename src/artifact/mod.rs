//! Recognizes the files that a manifest offers. Each way of publishing, a dialect, has a file of its own. No I/O.
//!
//! Dialects are tried in the order of [`DIALECTS`]. To add one, add its file here, its line there, and a directory in
//! `tests/cases/`. All suffixes of file names are in `suffix.rs`.

mod container;
mod gardenlinux;
pub mod index;
mod ironcore;
pub mod kubesolo;
mod media_type;
mod oras;
pub mod suffix;
pub mod titles;

use std::collections::HashSet;
use std::sync::Arc;

pub use container::is_one as is_container;
pub use ironcore::has_config as needs_config;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::manifest::{Annotations, Descriptor, Image};
use crate::platform::Architecture;

/// The type of an index of casync or desync, and of an artifact that is one.
pub const CAIBX: &str = "application/vnd.casync.caibx";

/// The annotations that name a version.
const VERSIONS: [&str; 2] = ["org.opencontainers.image.version", "io.kubesolo.os.version"];

/// The files that one artifact offers, and its parts that are not offered.
#[derive(Debug, Default, PartialEq)]
pub struct Recognised {
    /// The files, in the order of the layers.
    pub offers: Vec<Offer>,
    /// Another file, which has to be flattened first. If it has one layer, and that is on offer as it is, reading the
    /// layer may show that it must be flattened instead.
    pub to_flatten: Option<Recipe>,
    /// The parts that are not offered.
    pub skipped: Vec<Skipped>,
    /// The architecture that its config or annotations name.
    pub only_for: Option<Architecture>,
    /// Set for a release of KubeSolo OS.
    pub kubesolo: Option<kubesolo::Release>,
}

/// A layer, an entry of an index or a whole artifact that is not offered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Skipped {
    /// The number of the layer, counted from 0.
    pub layer: Option<usize>,
    /// The reason, for the log. It names the layer.
    pub why: String,
    pub kind: LeftOutKind,
    /// When it is offered, if a schedule says that.
    pub until: Option<Timestamp>,
}

/// Whether something is left out by design, and whether it may be listed another time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeftOutKind {
    /// Skipped by design: for another machine, not a version, or without a file to offer.
    Skipped,
    /// The tag is gone, denied, broken or not verified.
    Refused,
    /// The tag is held back for now: its rollout has not reached this machine, it is not flattened yet, or `versions`,
    /// `exclude` or `hold` exclude it.
    Held,
    /// There was no answer for it: another time it may be listed.
    Unanswered,
}

/// A file on offer. The listing chooses its name, except for the suffix.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// `.raw`, `.tar.gz`, …: the format of the bytes.
    pub suffix: String,
    /// `.sysext.raw`: the suffix with the kind of extension, if the publisher named it.
    pub long_suffix: Option<String>,
    /// The file name that the publisher gave it (`org.opencontainers.image.title`).
    pub title: Option<String>,
    /// Digest of the bytes as they are sent.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// Where the bytes come from.
    pub content: Content,
}

/// Where the bytes of a file come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// The blob with the same digest.
    Blob,
    /// This text.
    Text(Arc<str>),
    /// The image has to be flattened, or is flattened already.
    Flattened {
        recipe: Recipe,
        /// In bytes.
        size: u64,
    },
}

/// How a container image is flattened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recipe {
    /// The digests and sizes in bytes of the layers, from the lowest.
    pub layers: Vec<(Digest, u64)>,
    /// The ending of the one file in the image that is offered; `None`: all files, as one `.tar.gz`.
    pub file: Option<Arc<str>>,
}

impl Recognised {
    /// An artifact without a file on offer.
    fn nothing(why: impl Into<String>) -> Self {
        Self {
            skipped: vec![Skipped::whole(why)],
            ..Self::default()
        }
    }

    /// An offer for each layer, or the reason why it is skipped.
    fn of_layers(
        image: &Image,
        mut offer: impl FnMut(&Descriptor) -> Result<Offer, String>,
    ) -> Self {
        let mut recognised = Self::default();
        for (n, layer) in image.layers.iter().enumerate() {
            match usable(layer).and_then(&mut offer) {
                Ok(offer) => recognised.offers.push(offer),
                Err(why) => recognised.skipped.push(Skipped::layer(n, layer, &why)),
            }
        }
        recognised
    }
}

impl Skipped {
    /// A whole artifact, or an entry of an index.
    pub fn whole(why: impl Into<String>) -> Self {
        Self {
            layer: None,
            why: why.into(),
            kind: LeftOutKind::Skipped,
            until: None,
        }
    }

    /// The same, because it is gone, denied, broken or not verified.
    pub fn refused(why: impl Into<String>) -> Self {
        Self {
            kind: LeftOutKind::Refused,
            ..Self::whole(why)
        }
    }

    /// The same, because it is held back for now.
    pub fn held(why: impl Into<String>) -> Self {
        Self {
            kind: LeftOutKind::Held,
            ..Self::whole(why)
        }
    }

    /// The same, because a schedule holds it back until then.
    pub fn held_until(why: impl Into<String>, until: Timestamp) -> Self {
        Self {
            until: Some(until),
            ..Self::held(why)
        }
    }

    /// The same, because there was no answer for it.
    pub fn unanswered(why: impl Into<String>) -> Self {
        Self {
            kind: LeftOutKind::Unanswered,
            ..Self::whole(why)
        }
    }

    /// A layer, which the reason names by its number and its title.
    fn layer(n: usize, layer: &Descriptor, why: &str) -> Self {
        let title = layer.title().map(|title| format!(" ({title:?})"));
        Self {
            layer: Some(n),
            ..Self::whole(format!(
                "layer {}{}: {why}",
                n + 1,
                title.unwrap_or_default()
            ))
        }
    }
}

impl Recipe {
    fn new(image: &Image, file: Option<Arc<str>>) -> Self {
        let layers = image.layers.iter().map(|layer| (layer.digest, layer.size));
        Self {
            layers: layers.collect(),
            file,
        }
    }

    /// The key of the result in the cache. It must change with the bytes of the result.
    pub fn key(&self) -> Digest {
        let layers = self.layers.iter().map(|(digest, _)| format!("{digest}\n"));
        let form = match &self.file {
            None => "flattened, form 3\n".to_owned(),
            Some(suffix) => format!("file {suffix}, form 2\n"),
        };
        let text: String = std::iter::once(form).chain(layers).collect();
        Digest::of(text.as_bytes())
    }

    /// The suffix of the flattened image.
    pub fn suffix(&self) -> &str {
        self.file.as_deref().unwrap_or(container::SUFFIX)
    }

    /// Bytes to fetch.
    pub fn size(&self) -> u64 {
        self.layers
            .iter()
            .fold(0, |sum, (_, size)| sum.saturating_add(*size))
    }

    /// Whether it has one layer, and that has this digest. Then the layer may be on offer as it is.
    pub fn is_layer(&self, digest: Digest) -> bool {
        self.file.is_none() && matches!(self.layers.as_slice(), [(layer, _)] if *layer == digest)
    }

    /// The offer of the flattened image.
    pub fn offer(self, digest: Digest, size: u64) -> Offer {
        let suffix = self.suffix().to_owned();
        let content = Content::Flattened { recipe: self, size };
        Offer::new(&suffix, digest, size, content)
    }
}

impl Offer {
    fn new(suffix: &str, digest: Digest, size: u64, content: Content) -> Self {
        Self {
            suffix: suffix.to_owned(),
            long_suffix: None,
            title: None,
            digest,
            size,
            content,
        }
    }

    /// A layer as it is.
    fn layer(layer: &Descriptor, suffix: &str) -> Self {
        Self {
            title: layer.title().map(str::to_owned),
            ..Self::new(suffix, layer.digest, layer.size, Content::Blob)
        }
    }

    /// A text from a config.
    fn text(text: String, suffix: &str) -> Self {
        let (digest, size) = (Digest::of(text.as_bytes()), text.len() as u64);
        Self::new(suffix, digest, size, Content::Text(text.into()))
    }
}

impl Content {
    /// Memory that it takes beside its own size, in bytes, roughly.
    pub fn weight(&self) -> usize {
        match self {
            Self::Blob => 0,
            Self::Text(text) => text.len(),
            Self::Flattened { recipe, .. } => size_of_val(&recipe.layers[..]),
        }
    }
}

/// Recognizes the manifests of one dialect; `None` for others. The config is given for manifests that [`needs_config`].
type Dialect = fn(&Image, Option<&[u8]>) -> Option<Recognised>;

/// The first one that recognizes a manifest counts. `oras` comes last: it recognizes all.
const DIALECTS: [Dialect; 6] = [
    kubesolo::recognise,
    ironcore::recognise,
    gardenlinux::recognise,
    media_type::recognise,
    container::recognise,
    oras::recognise,
];

/// The files that a manifest offers.
pub fn recognise(image: &Image, config: Option<&[u8]>) -> Recognised {
    if let Some(config) = &image.config
        && config.media_type == container::BUILD_CACHE
    {
        return Recognised::nothing(container::IS_BUILD_CACHE);
    }
    DIALECTS
        .iter()
        .find_map(|dialect| dialect(image, config))
        .unwrap_or_default()
}

/// The files that a manifest offers under the suffix of the settings: all layers. Texts beside other layers are
/// skipped. Of a container image it is the file in it whose name ends in the suffix.
pub fn recognise_as(image: &Image, suffix: &str) -> Recognised {
    if let Some(recognised) = container::recognise_as(image, suffix) {
        return recognised;
    }
    let is_alone = image.layers.len() == 1;
    Recognised::of_layers(image, |layer| {
        not_an_index(layer)?;
        if !is_alone && suffix::is_text(&layer.media_type, layer.title()) {
            return Err("it is text or JSON, and there are other layers beside it".into());
        }
        Ok(Offer::layer(layer, suffix))
    })
}

/// All layers with a title: the files that `oras pull` would write.
pub fn titled(image: &Image) -> Vec<Offer> {
    let files = image.layers.iter().filter(|layer| is_file(layer));
    files.map(|layer| Offer::layer(layer, "")).collect()
}

/// The files of the directory of one artifact: a layer with a title keeps it as its name. A layer that is not an image
/// has no suffix.
pub fn as_directory(image: &Image, mut recognised: Recognised) -> Recognised {
    let has_file = |skipped: &Skipped| skipped.layer.is_some_and(|n| is_file(&image.layers[n]));
    recognised.skipped.retain(|one| !has_file(one));
    let key = |offer: &Offer| (offer.title.clone(), offer.digest);
    let known: HashSet<_> = recognised.offers.iter().map(key).collect();
    let others = titled(image).into_iter();
    let others = others.filter(|offer| !known.contains(&key(offer)));
    recognised.offers.extend(others);
    recognised
}

/// Whether `oras pull` would write this layer as a file.
fn is_file(layer: &Descriptor) -> bool {
    layer.title().is_some() && usable(layer).is_ok()
}

/// The version that the annotations of an artifact name.
pub fn version(annotations: &Annotations) -> Option<&str> {
    let find = |key: &&str| annotations.get(*key).filter(|value| !value.is_empty());
    VERSIONS.iter().find_map(find).map(String::as_str)
}

/// Fails for a layer with the index of casync or desync of another layer (`resolve/indexes.rs`).
fn not_an_index(layer: &Descriptor) -> Result<(), String> {
    let is_titled = layer.title().is_some_and(|title| title.ends_with(".caibx"));
    match is_titled || layer.media_type == CAIBX {
        true => {
            Err("it lists the chunks of a file, for machines with an older version of that".into())
        }
        false => Ok(()),
    }
}

/// The layer, or why no dialect can offer it.
fn usable(layer: &Descriptor) -> Result<&Descriptor, String> {
    if layer.media_type.ends_with("+encrypted") {
        return Err("it is encrypted".into());
    }
    if layer.is_foreign
        || layer.media_type.contains("nondistributable")
        || layer.media_type.contains(".foreign.")
    {
        return Err("it is a foreign layer, whose bytes are not in the registry".into());
    }
    Ok(layer)
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
            artifact_type: None,
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
        assert_eq!(recognised.skipped.len(), image.layers.len());
        let begun = Instant::now();
        let directory = as_directory(&image, recognised);
        let took = begun.elapsed();
        assert_eq!(directory.offers.len(), image.layers.len() - 1);
        let [reason] = &directory.skipped[..] else {
            panic!("one reason, not {:?}", directory.skipped);
        };
        assert_eq!(reason.layer, Some(9));
        let why = &reason.why;
        assert!(why.starts_with("layer 10: it has no title"), "{why}");
        // To compare each with each takes many times as long.
        assert!(took < Duration::from_secs(1), "{took:?}");
    }

    #[test]
    fn a_reason_names_its_layer() {
        for (title, expected) in [
            (None, "layer 42: it is encrypted"),
            (Some("b: (c) "), "layer 42 (\"b: (c) \"): it is encrypted"),
        ] {
            let layer = layer(title.map(str::to_owned));
            let skipped = Skipped::layer(41, &layer, "it is encrypted");
            assert_eq!(skipped.why, expected);
        }
    }
}
