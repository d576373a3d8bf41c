//! Which files a manifest offers. One file for each way of publishing; no I/O.
//!
//! The dialects are tried in the order of [`DIALECTS`]. To add one: its file here, its line there,
//! and a directory in `tests/cases/`.

mod container;
mod files;
mod suffix;

pub mod index;

use crate::digest::Digest;
use crate::manifest::{Descriptor, Image};

/// What one artifact offers, and what of it is left out and why.
#[derive(Debug, Default, PartialEq)]
pub struct Recognised {
    /// The files, in the order of the layers.
    pub offers: Vec<Offer>,
    /// A reason for each layer that is no file on offer.
    pub left_out: Vec<String>,
}

/// A file on offer. Its name is the listing's business, all but the suffix.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// `.raw`, `.tar.gz`, …: what the bytes are.
    pub suffix: String,
    /// `.sysext.raw`: what tells it from another with the same suffix, if the publisher said.
    pub long_suffix: Option<String>,
    /// Of the bytes as they are sent.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
}

/// A way of publishing: `None` when the manifest is not of this kind.
type Dialect = fn(&Image) -> Option<Recognised>;

/// The first one that knows the manifest has it. `files` comes last: it takes any layer.
const DIALECTS: [Dialect; 2] = [container::recognise, files::recognise];

/// The files that this manifest offers.
pub fn recognise(image: &Image) -> Recognised {
    DIALECTS
        .iter()
        .find_map(|dialect| dialect(image))
        .unwrap_or_default()
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

/// How a layer is called in a reason: by its place, and its title where it has one.
fn call(n: usize, layer: &Descriptor) -> String {
    match layer.title() {
        Some(title) => format!("layer {} ({title:?})", n + 1),
        None => format!("layer {}", n + 1),
    }
}
