//! Container images: what docker, podman and buildah build and push.
//!
//! They are always offered as one `.tar.gz`, so that a transfer file outlives a change of the build.
//! One gzip layer is that file as it is; anything else has to be made into it first.

use super::{Offer, Recipe, Recognised, call, refusal, suffix};
use crate::manifest::Image;

/// The configs of container images, OCI's and Docker's.
const CONFIGS: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];

/// What every container image is offered as.
pub(super) const SUFFIX: &str = ".tar.gz";
/// Layers of one image. Docker makes no image of more than 127.
const MAX_LAYERS: usize = 128;

/// An image config says so, unless a layer has a title: then it was pushed as a file.
pub(super) fn recognise(image: &Image, _config: Option<&[u8]>) -> Option<Recognised> {
    let config = image.config.as_ref()?;
    let is_container = CONFIGS.contains(&config.media_type.as_str())
        && image.layers.iter().all(|layer| layer.title().is_none());
    if !is_container {
        return None;
    }
    let left_out = |reason: String| {
        Some(Recognised {
            left_out: vec![reason],
            ..Recognised::default()
        })
    };
    if let [layer] = image.layers.as_slice()
        && let Some(suffix) = suffix::of_file_system(&layer.media_type)
        && refusal(layer).is_none()
    {
        return Some(Recognised {
            offers: vec![Offer::layer(layer, suffix)],
            ..Recognised::default()
        });
    }
    for (n, layer) in image.layers.iter().enumerate() {
        if let Some(why) = refusal(layer) {
            return left_out(format!("{}: {why}", call(n, layer)));
        }
        if suffix::of_tar(&layer.media_type).is_none() {
            let reason = format!("{}: {} is no tar archive", call(n, layer), layer.media_type);
            return left_out(reason);
        }
    }
    match image.layers.as_slice() {
        [] => left_out("container image without layers".into()),
        [layer] if suffix::of_tar(&layer.media_type) == Some(SUFFIX) => Some(Recognised {
            offers: vec![Offer::layer(layer, SUFFIX)],
            ..Recognised::default()
        }),
        layers if layers.len() > MAX_LAYERS => left_out(format!(
            "container image of {} layers, at most {MAX_LAYERS} are flattened",
            layers.len()
        )),
        layers => Some(Recognised {
            to_make: Some(Recipe {
                layers: layers
                    .iter()
                    .map(|layer| (layer.digest, layer.size))
                    .collect(),
                file: None,
            }),
            ..Recognised::default()
        }),
    }
}

/// An image of which the settings want the file that ends so. `None` where its layers are to be offered as they
/// are: it is no image of tar archives, or its one layer is what is wanted.
pub(super) fn recognise_as(image: &Image, suffix: &str) -> Option<Recognised> {
    let tars = image
        .layers
        .iter()
        .map(|layer| suffix::of_tar(&layer.media_type));
    let tars = tars.collect::<Option<Vec<_>>>()?;
    if tars.is_empty() || tars == [suffix] {
        return None;
    }
    let mut recognised = recognise(image, None)?;
    if suffix != SUFFIX && recognised.left_out.is_empty() {
        let layers = image.layers.iter().map(|layer| (layer.digest, layer.size));
        recognised.offers.clear();
        recognised.to_make = Some(Recipe {
            layers: layers.collect(),
            file: Some(suffix.into()),
        });
    }
    Some(recognised)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Manifest;

    fn reason_or_suffix(config: &str, layers: &[&str]) -> String {
        let digest = format!("sha256:{}", "a".repeat(64));
        let layers: Vec<_> = layers
            .iter()
            .map(|media_type| {
                format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":1}}"#)
            })
            .collect();
        let json = format!(
            r#"{{"config":{{"mediaType":"{config}","digest":"{digest}","size":1}},"layers":[{}]}}"#,
            layers.join(",")
        );
        let Ok(Manifest::Image(image)) = Manifest::parse(None, json.as_bytes()) else {
            panic!("{json}")
        };
        match recognise(&image, None) {
            None => "not a container image".into(),
            Some(Recognised {
                offers,
                to_make,
                left_out,
                ..
            }) => match (offers.first(), to_make) {
                (Some(offer), _) => offer.suffix.clone(),
                (None, Some(recipe)) => format!("made of {} layers", recipe.layers.len()),
                (None, None) => left_out.join("; "),
            },
        }
    }

    #[test]
    fn one_gzip_layer_is_the_file_as_it_is() {
        let [oci, docker] = CONFIGS;
        let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
        for (config, layers, expected) in [
            (oci, [gzip].as_slice(), ".tar.gz"),
            (
                docker,
                &["application/vnd.docker.image.rootfs.diff.tar.gzip"],
                ".tar.gz",
            ),
            (
                "application/vnd.oci.empty.v1+json",
                &[gzip],
                "not a container image",
            ),
            (oci, &["application/vnd.erofs.layer.v1"], ".erofs"),
            (oci, &[], "container image without layers"),
            (oci, &[gzip, gzip], "made of 2 layers"),
            (
                oci,
                &["application/vnd.oci.image.layer.v1.tar+zstd"],
                "made of 1 layers",
            ),
            (
                oci,
                &["application/vnd.oci.image.layer.v1.tar"],
                "made of 1 layers",
            ),
            (
                oci,
                &[gzip, "application/vnd.in-toto+json"],
                "layer 2: application/vnd.in-toto+json is no tar archive",
            ),
            (
                oci,
                &[gzip; 129],
                "container image of 129 layers, at most 128 are flattened",
            ),
            (
                oci,
                &["application/vnd.oci.image.layer.v1.tar+gzip+encrypted"],
                "layer 1: it is encrypted",
            ),
            (
                docker,
                &["application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"],
                "layer 1: it is a foreign layer, whose bytes are not in the registry",
            ),
        ] {
            assert_eq!(
                reason_or_suffix(config, layers),
                expected,
                "{config} {layers:?}"
            );
        }
    }
}
