//! Container images: what docker, podman and buildah build and push.
//!
//! They are always offered as one `.tar.gz`, so that a transfer file outlives a change of the build.
//! One gzip layer is that file as it is, unless its bytes say otherwise; anything else has to be made into it first.

use serde::Deserialize;

use super::{Offer, Recipe, Recognised, call, refusal, suffix};
use crate::manifest::Image;
use crate::platform::Architecture;

/// The configs of container images, OCI's and Docker's.
const CONFIGS: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];

/// The type of a config, or of an entry of an index, by which BuildKit knows a cache that it pushed
/// (`cache-to: type=registry`).
pub const BUILD_CACHE: &str = "application/vnd.buildkit.cacheconfig.v0";
/// Why one is not offered.
pub const IS_BUILD_CACHE: &str = "it is a cache of BuildKit, no image";

/// What every container image is offered as.
pub const SUFFIX: &str = ".tar.gz";
/// Layers of one image. Docker makes no image of more than 127.
const MAX_LAYERS: usize = 128;

/// An image config says so, unless a layer has a title: then it was pushed as a file.
pub fn is_one(image: &Image) -> bool {
    let config = image.config.as_ref();
    config.is_some_and(|config| CONFIGS.contains(&config.media_type.as_str()))
        && image.layers.iter().all(|layer| layer.title().is_none())
}

pub fn recognise(image: &Image, config: Option<&[u8]>) -> Option<Recognised> {
    if !is_one(image) {
        return None;
    }
    let machine = config.map_or(Machine::Unknown, machine);
    if let Machine::Foreign(name) = &machine {
        return Some(Recognised {
            left_out: vec![format!("its config says it is for {name}")],
            ..Recognised::default()
        });
    }
    let only_for = match machine {
        Machine::Known(architecture) => Some(architecture),
        _ => None,
    };
    recognise_layers(image).map(|recognised| Recognised {
        only_for,
        ..recognised
    })
}

/// The architecture of an image, by its config.
enum Machine {
    Known(Architecture),
    /// One that no extension is for.
    Foreign(String),
    Unknown,
}

/// The little of an image config that is of interest.
#[derive(Deserialize)]
struct Config {
    os: Option<String>,
    architecture: Option<String>,
}

/// What a config says. One that cannot be understood says nothing.
fn machine(config: &[u8]) -> Machine {
    let Ok(Config { os, architecture }) = serde_json::from_slice(config) else {
        return Machine::Unknown;
    };
    let said = |text: Option<String>| text.filter(|text| !text.is_empty());
    match (said(os).as_deref(), said(architecture)) {
        (None | Some("linux"), None) => Machine::Unknown,
        (None | Some("linux"), Some(name)) => {
            Architecture::of_oci(&name).map_or(Machine::Foreign(name), Machine::Known)
        }
        (Some(os), None) => Machine::Foreign(os.to_owned()),
        (Some(os), Some(name)) => Machine::Foreign(format!("{os}/{name}")),
    }
}

fn recognise_layers(image: &Image) -> Option<Recognised> {
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
            to_make: Some(Recipe {
                layers: vec![(layer.digest, layer.size)],
                file: None,
            }),
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
            match found.left_out.first() {
                Some(reason) => assert_eq!((reason.as_str(), found.to_make), (expected, None)),
                None => assert_eq!(only_for, expected, "{config}"),
            }
        }
    }

    #[test]
    fn a_cache_of_buildkit_is_no_image() {
        let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
        for layers in [&[gzip][..], &[gzip, gzip]] {
            let found = crate::artifact::recognise(&image(BUILD_CACHE, layers), None);
            assert_eq!(found.left_out, [IS_BUILD_CACHE]);
            assert!(found.offers.is_empty() && found.to_make.is_none());
        }
    }
}
