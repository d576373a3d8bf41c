//! Disk images with a telling media type: it has the words `raw` and `sysext`, `confext` or `portable`, such as those
//! of Kairos hadron-layers, Cellebyte's sysexts and BOOTy, KatlOS and Wrasse; or it is the one of kubeswift.

use super::{Offer, Recognised, oras, suffix};
use crate::manifest::{Descriptor, Image};

/// A raw image that is not an extension.
const KUBESWIFT_DISK: &str = "application/vnd.kubeswift.vmdisk.raw.v1";
/// Words in media types, and the suffixes of these kinds of extensions.
const KINDS: [(&str, &str); 3] = [
    ("sysext", ".sysext.raw"),
    ("confext", ".confext.raw"),
    ("portable", ".portable.raw"),
];

/// An image with a layer of such a type. Its other layers are offered as `oras` would.
pub fn recognise(image: &Image, _config: Option<&[u8]>) -> Option<Recognised> {
    // The type of an artifact counts for its layer if there is only one.
    let of_artifact = image.artifact_type.as_deref().and_then(kind);
    let of_artifact = of_artifact.filter(|_| image.layers.len() == 1);
    let kind_of = |layer: &Descriptor| {
        kind(&layer.media_type).or(of_artifact.filter(|_| {
            let titled = layer.title().and_then(suffix::of_name);
            titled.is_none_or(|suffix| suffix.starts_with(".raw"))
        }))
    };
    if !image.layers.iter().any(|layer| kind_of(layer).is_some()) {
        return None;
    }
    Some(Recognised::of_layers(image, |layer| match kind_of(layer) {
        Some(kind) => Ok(Offer {
            long_suffix: kind.map(str::to_owned),
            ..Offer::layer(layer, &raw(layer))
        }),
        None => Ok(Offer::layer(layer, &oras::suffix_of(layer)?)),
    }))
}

/// `Some` for a type of a raw image, with the kind of extension in it.
fn kind(media_type: &str) -> Option<Option<&'static str>> {
    if media_type == KUBESWIFT_DISK {
        return Some(None);
    }
    let has = |word| {
        let mut words = media_type.split(|c: char| !c.is_ascii_alphanumeric());
        words.any(|found| found == word)
    };
    let (_, suffix) = KINDS.iter().find(|(word, _)| has("raw") && has(word))?;
    Some(Some(suffix))
}

/// `.raw`, with the compression that the title or the type names: `.raw.zst`.
fn raw(layer: &Descriptor) -> String {
    let titled = layer.title().and_then(suffix::of_name);
    let titled = titled.filter(|suffix| suffix.starts_with(".raw"));
    suffix::packed(titled.unwrap_or(".raw".to_owned()), &layer.media_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_that_name_an_extension_and_raw_are_raw_images() {
        for (media_type, expected) in [
            (
                "application/vnd.kairos.sysext.raw",
                Some(Some(".sysext.raw")),
            ),
            (
                "application/vnd.acme.confext.v2+raw",
                Some(Some(".confext.raw")),
            ),
            (
                "application/vnd.acme.portable.raw",
                Some(Some(".portable.raw")),
            ),
            ("application/vnd.kubeswift.vmdisk.raw.v1", Some(None)),
            ("application/vnd.acme.sysext.squashfs", None),
            ("application/vnd.acme.rawsysext", None),
            ("application/vnd.wrasse.dx.sysext.v1", None),
            ("", None),
        ] {
            assert_eq!(kind(media_type), expected, "{media_type}");
        }
    }
}
