//! Disk images whose media type says what they are: the types of Kairos hadron-layers, Cellebyte's
//! sysexts and BOOTy, KatlOS, Wrasse and kubeswift, and any other that names an extension and `raw`.

use super::{Offer, Recognised, call, oras, refusal, suffix};
use crate::manifest::{Descriptor, Image};

/// Layer types, and what the image is for where the type says so.
const TYPES: [(&str, Option<&str>); 7] = [
    ("application/vnd.kairos.sysext.raw", Some(".sysext.raw")),
    (
        "application/vnd.systemd.sysext.image.v1+raw",
        Some(".sysext.raw"),
    ),
    ("application/vnd.katl.sysext.raw.v1", Some(".sysext.raw")),
    ("application/vnd.katl.confext.raw.v1", Some(".confext.raw")),
    (
        "application/vnd.wrasse.dx.sysext.raw.v1",
        Some(".sysext.raw"),
    ),
    (
        "application/vnd.wrasse.dx.confext.raw.v1",
        Some(".confext.raw"),
    ),
    ("application/vnd.kubeswift.vmdisk.raw.v1", None),
];

/// A layer of such a type makes it one; the others are offered as plain files are.
pub fn recognise(image: &Image, _config: Option<&[u8]>) -> Option<Recognised> {
    // One layer without a telling type is what the whole artifact says it is.
    let of_artifact = image.artifact_type.as_deref().and_then(kind);
    let is_alone = image.layers.len() == 1;
    let kinds: Vec<_> = image
        .layers
        .iter()
        .map(|layer| {
            kind(&layer.media_type)
                .or(of_artifact.filter(|_| is_alone && has_no_other_suffix(layer)))
        })
        .collect();
    if kinds.iter().all(Option::is_none) {
        return None;
    }
    let mut recognised = Recognised::default();
    for (n, (layer, kind)) in image.layers.iter().zip(kinds).enumerate() {
        let offer = match (refusal(layer), kind) {
            (Some(why), _) => Err(why),
            (None, Some(kind)) => Ok(Offer {
                long_suffix: kind.map(str::to_owned),
                ..Offer::layer(layer, &raw(layer))
            }),
            (None, None) => oras::suffix_of(layer).map(|suffix| Offer::layer(layer, &suffix)),
        };
        match offer {
            Ok(offer) => recognised.offers.push(offer),
            Err(why) => recognised
                .left_out
                .push(format!("{}: {why}", call(n, layer))),
        }
    }
    Some(recognised)
}

/// `Some` for a type of a raw image, with the kind in it.
fn kind(media_type: &str) -> Option<Option<&'static str>> {
    if let Some((_, kind)) = TYPES.iter().find(|(name, _)| *name == media_type) {
        return Some(*kind);
    }
    let has = |word| {
        media_type
            .split(|c: char| !c.is_ascii_alphanumeric())
            .any(|found| found == word)
    };
    let kinds = [
        ("sysext", ".sysext.raw"),
        ("confext", ".confext.raw"),
        ("portable", ".portable.raw"),
    ];
    let (_, suffix) = kinds.iter().find(|(word, _)| has("raw") && has(word))?;
    Some(Some(suffix))
}

/// `.raw`, or what the title or the type adds to it: `.raw.zst`.
fn raw(layer: &Descriptor) -> String {
    let titled = layer
        .title()
        .and_then(suffix::of_name)
        .filter(|suffix| suffix.starts_with(".raw"));
    let suffix = titled.unwrap_or_else(|| ".raw".to_owned());
    suffix::packed(suffix, &layer.media_type)
}

fn has_no_other_suffix(layer: &Descriptor) -> bool {
    layer
        .title()
        .and_then(suffix::of_name)
        .is_none_or(|suffix| suffix.starts_with(".raw"))
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
