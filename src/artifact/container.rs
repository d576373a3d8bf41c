//! Container images, as docker, podman and buildah build and push them.
//!
//! They are always offered as one `.tar.gz`, so that a transfer file stays valid when the build changes. One gzip layer
//! is offered as it is, unless its bytes show that it must be flattened. All others are flattened.

use serde::Deserialize;

use super::{Offer, Recipe, Recognised, Skipped, suffix, usable};
use crate::manifest::{Descriptor, Image};
use crate::platform::Architecture;

/// Media types of the configs of container images, of OCI and Docker.
const CONFIGS: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];

/// The media type of the config, or of an entry of an index, of a cache of BuildKit (`cache-to: type=registry`).
pub const BUILD_CACHE: &str = "application/vnd.buildkit.cacheconfig.v0";
/// Why it is skipped.
pub const IS_BUILD_CACHE: &str = "it is a cache of BuildKit, no image";

/// The suffix of every container image.
pub const SUFFIX: &str = ".tar.gz";
/// Most layers of one image. Docker makes at most 127.
const MAX_LAYERS: usize = 128;

/// Whether this is a container image: it has the config of one, and no layer is a file with a title.
pub fn is_one(image: &Image) -> bool {
    let config = image.config.as_ref();
    config.is_some_and(|config| CONFIGS.contains(&config.media_type.as_str()))
        && image.layers.iter().all(|layer| layer.title().is_none())
}

pub fn recognise(image: &Image, config: Option<&[u8]>) -> Option<Recognised> {
    if !is_one(image) {
        return None;
    }
    Some(match config.map(architecture).transpose() {
        Ok(architecture) => Recognised {
            only_for: architecture.flatten(),
            ..recognise_layers(image)
        },
        Err(foreign) => Recognised::nothing(format!("its config says it is for {foreign}")),
    })
}

/// The fields of an image config that are read.
#[derive(Deserialize)]
struct Config {
    os: Option<String>,
    architecture: Option<String>,
}

/// The architecture that a config names, if it can be parsed. The error is a platform that is not supported.
fn architecture(config: &[u8]) -> Result<Option<Architecture>, String> {
    let Ok(Config { os, architecture }) = serde_json::from_slice(config) else {
        return Ok(None);
    };
    let os = os.filter(|os| !matches!(os.as_str(), "" | "linux"));
    match (os, architecture.filter(|name| !name.is_empty())) {
        (None, None) => Ok(None),
        (None, Some(name)) => Architecture::of_oci(&name).map(Some).ok_or(name),
        (Some(os), None) => Err(os),
        (Some(os), Some(name)) => Err(format!("{os}/{name}")),
    }
}

fn recognise_layers(image: &Image) -> Recognised {
    let layers = image.layers.as_slice();
    if let [layer] = layers
        && let Some(suffix) = suffix::of_file_system(&layer.media_type)
        && usable(layer).is_ok()
    {
        return Recognised {
            offers: vec![Offer::layer(layer, suffix)],
            ..Recognised::default()
        };
    }
    let unusable = |(n, layer): (usize, &Descriptor)| {
        let why = match usable(layer) {
            Ok(_) if suffix::of_tar(&layer.media_type).is_some() => return None,
            Ok(_) => format!("{} is no tar archive", layer.media_type),
            Err(why) => why,
        };
        Some(Skipped::layer(n, layer, &why))
    };
    if let Some(skipped) = layers.iter().enumerate().find_map(unusable) {
        return Recognised {
            skipped: vec![skipped],
            ..Recognised::default()
        };
    }
    let offers = match layers {
        [] => return Recognised::nothing("container image without layers"),
        [layer] if suffix::of_tar(&layer.media_type) == Some(SUFFIX) => {
            vec![Offer::layer(layer, SUFFIX)]
        }
        layers if layers.len() > MAX_LAYERS => {
            return Recognised::nothing(format!(
                "container image of {} layers, at most {MAX_LAYERS} are flattened",
                layers.len()
            ));
        }
        _ => Vec::new(),
    };
    Recognised {
        offers,
        to_flatten: Some(Recipe::new(image, None)),
        ..Recognised::default()
    }
}

/// An image with a suffix in the settings: offers the file in it whose name ends so. `None` if its layers are offered
/// as they are, because they are no tar archives, or because its one layer has this suffix already.
pub fn recognise_as(image: &Image, suffix: &str) -> Option<Recognised> {
    let tars = image
        .layers
        .iter()
        .map(|layer| suffix::of_tar(&layer.media_type));
    let tars = tars.collect::<Option<Vec<_>>>()?;
    if tars.is_empty() || tars == [suffix] {
        return None;
    }
    let mut recognised = recognise(image, None)?;
    if suffix != SUFFIX && recognised.skipped.is_empty() {
        recognised.offers.clear();
        recognised.to_flatten = Some(Recipe::new(image, Some(suffix.into())));
    }
    Some(recognised)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Manifest;

    fn image(config: &str, layers: &[&str]) -> Image {
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
        image
    }

    fn reason_or_suffix(config: &str, layers: &[&str]) -> String {
        match recognise(&image(config, layers), None) {
            None => "not a container image".into(),
            Some(Recognised {
                offers,
                to_flatten,
                skipped,
                ..
            }) => match (offers.first(), to_flatten) {
                (Some(offer), _) => offer.suffix.clone(),
                (None, Some(recipe)) => format!("made of {} layers", recipe.layers.len()),
                (None, None) => skipped[0].why.clone(),
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

    #[test]
    fn a_config_says_what_machine_an_image_is_for() {
        let one = image(CONFIGS[0], &["application/vnd.oci.image.layer.v1.tar+gzip"]);
        for (config, expected) in [
            (r#"{"os":"linux","architecture":"amd64"}"#, "x86-64"),
            (r#"{"architecture":"aarch64"}"#, "arm64"),
            (r#"{"os":"linux","architecture":""}"#, "any"),
            (r#"{"os":null,"architecture":null}"#, "any"),
            ("{}", "any"),
            ("no JSON", "any"),
            (
                r#"{"os":"linux","architecture":"sparc64"}"#,
                "its config says it is for sparc64",
            ),
            (
                r#"{"os":"windows","architecture":"amd64"}"#,
                "its config says it is for windows/amd64",
            ),
        ] {
            let found = recognise(&one, Some(config.as_bytes())).unwrap();
            let only_for = found.only_for.map_or("any", Architecture::as_str);
            match found.skipped.first() {
                Some(skipped) => {
                    assert_eq!((skipped.why.as_str(), found.to_flatten), (expected, None));
                }
                None => assert_eq!(only_for, expected, "{config}"),
            }
        }
    }

    #[test]
    fn a_cache_of_buildkit_is_no_image() {
        let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
        for layers in [&[gzip][..], &[gzip, gzip]] {
            let found = crate::artifact::recognise(&image(BUILD_CACHE, layers), None);
            assert_eq!(found.skipped, [Skipped::whole(IS_BUILD_CACHE)]);
            assert!(found.offers.is_empty() && found.to_flatten.is_none());
        }
    }
}
