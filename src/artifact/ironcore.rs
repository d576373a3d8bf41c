//! onmetal-image and ironcore-image: the parts of a bootable image, each with a media type of its own, in three
//! generations. The kernel's command line is in the config.

use serde::Deserialize;

use super::{Offer, Recognised, Skipped};
use crate::manifest::Image;

/// Media types of the config, `{"commandLine": "…"}`.
const CONFIGS: [&str; 3] = [
    "application/vnd.ironcore.image.config.v1+json",
    "application/vnd.ironcore.image.config.v1alpha1+json",
    "application/vnd.onmetal.image.config.v1alpha1+json",
];

/// The suffix of each role, and the media types of its layers. The newest type is first; it wins over older ones.
const ROLES: [(&str, &[&str]); 7] = [
    (
        ".rootfs",
        &[
            "application/vnd.ironcore.image.rootfs",
            "application/vnd.ironcore.image.rootfs.v1alpha1.rootfs",
            "application/vnd.onmetal.image.rootfs.v1alpha1.rootfs",
        ],
    ),
    (
        ".initramfs",
        &[
            "application/vnd.ironcore.image.initramfs",
            "application/vnd.ironcore.image.initramfs.v1alpha1.initramfs",
            "application/vnd.onmetal.image.initramfs.v1alpha1.initramfs",
        ],
    ),
    (
        ".vmlinuz",
        &[
            "application/vnd.ironcore.image.kernel",
            "application/vnd.ironcore.image.vmlinuz.v1alpha1.vmlinuz",
            "application/vnd.onmetal.image.vmlinuz.v1alpha1.vmlinuz",
        ],
    ),
    (
        ".squashfs",
        &[
            "application/vnd.ironcore.image.squashfs",
            "application/vnd.ironcore.image.squashfs.v1alpha1.squashfs",
        ],
    ),
    (".efi", &["application/vnd.ironcore.image.uki"]),
    (".iso", &["application/vnd.ironcore.image.iso"]),
    (".img", &["application/vnd.ironcore.image.disk.img"]),
];

/// Whether the image has such a config.
pub fn has_config(image: &Image) -> bool {
    let config = image.config.as_ref();
    config.is_some_and(|config| CONFIGS.contains(&config.media_type.as_str()))
}

/// An image with such a config or layer.
pub fn recognise(image: &Image, config: Option<&[u8]>) -> Option<Recognised> {
    let layers = image.layers.iter();
    let roles: Vec<_> = layers.filter_map(|layer| role(&layer.media_type)).collect();
    if roles.is_empty() && !has_config(image) {
        return None;
    }
    let mut recognised = Recognised::of_layers(image, |layer| {
        let media_type = &layer.media_type;
        let Some((suffix, age)) = role(media_type) else {
            return Err(format!(
                "type {media_type:?} is no part of an ironcore image"
            ));
        };
        let is_newer = |(other, newer): &(&str, usize)| *other == suffix && *newer < age;
        if roles.iter().any(is_newer) {
            return Err(format!("there is a newer {suffix} beside it"));
        }
        Ok(Offer::layer(layer, suffix))
    });
    match config.filter(|_| has_config(image)).map(command_line) {
        Some(Ok(Some(text))) => recognised.offers.push(Offer::text(text, ".cmdline")),
        Some(Err(why)) => recognised.skipped.push(Skipped::whole(why)),
        Some(Ok(None)) | None => {}
    }
    Some(recognised)
}

/// The suffix of a layer, and the generation of its type: 0 is the newest.
fn role(media_type: &str) -> Option<(&'static str, usize)> {
    ROLES.iter().find_map(|(suffix, types)| {
        let generation = types.iter().position(|name| *name == media_type)?;
        Some((*suffix, generation))
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    command_line: Option<String>,
}

/// The command line, without a newline at its end.
fn command_line(config: &[u8]) -> Result<Option<String>, String> {
    let config: Config = serde_json::from_slice(config)
        .map_err(|error| format!("its config cannot be understood: {error}"))?;
    Ok(config.command_line.filter(|text| !text.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::Content;
    use crate::digest::Digest;
    use crate::manifest::Descriptor;

    fn descriptor(media_type: &str) -> Descriptor {
        Descriptor {
            media_type: media_type.to_owned(),
            digest: Digest::of(media_type.as_bytes()),
            size: 1,
            annotations: Default::default(),
            is_foreign: false,
            artifact_type: None,
        }
    }

    /// `suffix=n` for each layer on offer, and the texts and reasons.
    fn offered(config: &str, content: &str, types: &[&str]) -> String {
        let image = Image {
            artifact_type: None,
            config: Some(descriptor(config)),
            layers: types
                .iter()
                .map(|media_type| descriptor(media_type))
                .collect(),
            annotations: Default::default(),
            subject: None,
        };
        let Some(found) = recognise(&image, Some(content.as_bytes())) else {
            return "not theirs".to_owned();
        };
        let show = |offer: &Offer| match &offer.content {
            Content::Text(text) => format!("{}={text:?}", offer.suffix),
            _ => {
                let n = image
                    .layers
                    .iter()
                    .position(|layer| layer.digest == offer.digest)
                    .unwrap();
                format!("{}={}", offer.suffix, n + 1)
            }
        };
        found
            .offers
            .iter()
            .map(show)
            .chain(found.skipped.iter().map(|one| one.why.clone()))
            .collect::<Vec<_>>()
            .join(", ")
    }

    #[test]
    fn every_generation_has_its_roles_and_the_newest_wins() {
        let [new, old, onmetal] = CONFIGS;
        let rootfs = ROLES[0].1;
        let kernel = ROLES[2].1;
        for (config, content, types, expected) in [
            (
                onmetal,
                r#"{"commandLine":"quiet"}"#,
                &[rootfs[2], kernel[2]][..],
                ".rootfs=1, .vmlinuz=2, .cmdline=\"quiet\"",
            ),
            (old, "{}", &[kernel[1]], ".vmlinuz=1"),
            (
                new,
                r#"{"commandLine":""}"#,
                &["application/vnd.ironcore.image.uki"],
                ".efi=1",
            ),
            (
                new,
                "{}",
                &[kernel[1], kernel[0]],
                ".vmlinuz=2, layer 1: there is a newer .vmlinuz beside it",
            ),
            (
                new,
                "{}",
                &["text/plain"],
                "layer 1: type \"text/plain\" is no part of an ironcore image",
            ),
            (
                new,
                "[",
                &[kernel[0]],
                ".vmlinuz=1, its config cannot be understood: EOF while parsing a list at line 1 column 1",
            ),
            ("application/json", "{}", &[kernel[0]], ".vmlinuz=1"),
            ("application/json", "{}", &["text/plain"], "not theirs"),
        ] {
            assert_eq!(
                offered(config, content, types),
                expected,
                "{config} {types:?}"
            );
        }
    }
}
