//! The commands `inspect` and `url`: the manifest, config and layers of one artifact.
//!
//! The JSON is that of onmetal-image, whose users have scripts for it.

use serde_json::{Map, Value, json};

use crate::address::{Directory, Located, View};
use crate::artifact::{Content, Offer, Recognised};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::{Image, OCI_MANIFEST};
use crate::printable::in_json;
use crate::resolve::{Resolved, Resolver};
use crate::rollout::Schedule;
use crate::snapshot::Snapshots;
use crate::source::{Reference, StoredManifest};

/// Largest config that is shown, in bytes (containers/image `MaxConfigBodySize`).
const MAX_CONFIG: u64 = 4 << 20;
/// The names that `--layer` takes, and the suffixes of the files that they mean.
const LAYERS: [(&str, &[&str]); 8] = [
    ("kernel", &[".vmlinuz"]),
    ("initramfs", &[".initramfs", ".initramfs.gz", ".initrd"]),
    ("rootfs", &[".rootfs"]),
    ("squashfs", &[".squashfs"]),
    ("uki", &[".efi"]),
    ("iso", &[".iso"]),
    ("disk", &[".img"]),
    ("cmdline", &[".cmdline"]),
];

/// `{"descriptor": {…}, "manifest": {…}, "config": {…}}`; a config that is no JSON is null. With `"rollout": {…}` where the
/// version has a schedule.
pub fn inspect(snapshots: &Snapshots, located: &Located) -> Result<String> {
    let directory = &located.directory;
    snapshots.with_resolver(located, |resolver| {
        let Resolved {
            digest,
            image,
            annotations,
            schedule,
            ..
        } = one_image(resolver, directory)?;
        let StoredManifest { bytes, .. } = resolver.source.manifest(Reference::Digest(digest))?;
        let manifest: Value =
            serde_json::from_slice(&bytes).map_err(|error| Error::BadManifest {
                what: directory.to_string(),
                why: error.to_string(),
            })?;
        let config = match &image.config {
            Some(config) if config.media_type.ends_with("json") => {
                if config.size > MAX_CONFIG {
                    return Err(Error::BadManifest {
                        what: format!("the config of {directory}"),
                        why: format!(
                            "its manifest says it has {} bytes, at most {MAX_CONFIG} are taken",
                            config.size
                        ),
                    });
                }
                serde_json::from_slice(&resolver.small_blob("config", config)?)
                    .unwrap_or(Value::Null)
            }
            _ => Value::Null,
        };
        let mut descriptor = json!({
            "mediaType": media_type(&manifest),
            "digest": digest.to_string(),
            "size": bytes.len(),
        });
        if !annotations.is_empty() {
            descriptor["annotations"] = json!(annotations);
        }
        let mut found = json!({ "descriptor": descriptor, "manifest": manifest, "config": config });
        let schedule = Schedule::annotated(&image.annotations).or(schedule);
        if let (Some(schedule), View::Tag(tag)) = (schedule, &directory.view) {
            let rollout = resolver.part_in_rollouts(located.settings.rollout);
            found["rollout"] = rollout.to_json(&schedule, tag);
        }
        Ok(in_json(&format!("{found:#}\n")).into_owned())
    })
}

/// `{"headers": {"Accept": ["…"], "Authorization": ["Bearer …"]}, "url": "https://…/v2/…/manifests/…"}` of the manifest, or of
/// the blob of a layer. `headers` is absent if none are needed.
pub fn url(snapshots: &Snapshots, located: &Located, layer: Option<&str>) -> Result<String> {
    let directory = &located.directory;
    snapshots.with_resolver(located, |resolver| {
        let Resolved {
            digest,
            image,
            is_direct,
            accepted,
            ..
        } = one_image(resolver, directory)?;
        let download = match layer {
            Some(layer) => {
                let found = resolver.offered(Reference::Digest(digest), &image)?;
                let blob = blob(&image, &found, layer).map_err(|why| Error::NotOffered {
                    what: format!("a layer of {directory}"),
                    why,
                })?;
                resolver.source.blob_request(blob)?
            }
            None => {
                let reference = Reference::Digest(digest);
                let StoredManifest { bytes, .. } = resolver.source.manifest(reference)?;
                let manifest = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
                // The tag of an index would lead to the index, so its child has its digest.
                // A tag may move; what was verified, or is promised, has its digest.
                let is_pinned = accepted.is_some() || located.settings.immutable_tags;
                let reference = match &directory.view {
                    View::Tag(tag) if is_direct && !is_pinned => Reference::Tag(tag),
                    _ => reference,
                };
                let source = resolver.source;
                source.manifest_request(reference, media_type(&manifest))?
            }
        };
        let header = |name: &str, value: Option<String>| Some((name.to_owned(), json!([value?])));
        let headers: Map<_, _> = [
            header("Accept", download.accept),
            header("Authorization", download.authorization),
        ]
        .into_iter()
        .flatten()
        .collect();
        let mut found = json!({ "url": download.url });
        if !headers.is_empty() {
            found["headers"] = headers.into();
        }
        Ok(in_json(&format!("{found:#}\n")).into_owned())
    })
}

fn media_type(manifest: &Value) -> &str {
    let named = manifest.get("mediaType").and_then(Value::as_str);
    named.unwrap_or(OCI_MANIFEST)
}

/// The artifact of a reference; of an index, the one for this machine.
fn one_image(resolver: &Resolver<'_>, directory: &Directory) -> Result<Resolved> {
    let reference = match &directory.view {
        View::Tag(tag) => Reference::Tag(tag),
        View::Digest(digest) => Reference::Digest(*digest),
        View::Tags | View::All => {
            let why =
                "one artifact is wanted, as in REPOSITORY:TAG or REPOSITORY@sha256:…".to_owned();
            return Err(Error::BadAddress {
                path: directory.to_string(),
                why,
            });
        }
    };
    let mut images = resolver.images(reference)?;
    match images.len() {
        1 => Ok(images.remove(0)),
        n => Err(Error::NotOffered {
            what: directory.to_string(),
            why: format!("its index offers {n} artifacts here; name one of them by digest"),
        }),
    }
}

/// The blob of the file that `--layer` names. A command line is in the config.
fn blob(image: &Image, found: &Recognised, layer: &str) -> Result<Digest, String> {
    let offer = choose(found, layer)?;
    match &offer.content {
        Content::Blob => Ok(offer.digest),
        Content::Text(_) => image
            .config
            .as_ref()
            .map(|config| config.digest)
            .ok_or_else(|| "it has no config".to_owned()),
        Content::Flattened { .. } => Err("it is flattened here, so no registry has it".to_owned()),
    }
}

/// The file that `--layer` names.
fn choose<'a>(found: &'a Recognised, layer: &str) -> Result<&'a Offer, String> {
    let named = LAYERS
        .iter()
        .find(|(name, _)| *name == layer)
        .map(|(_, suffixes)| *suffixes);
    let is_meant = |offer: &&Offer| match named {
        Some(suffixes) => suffixes.contains(&offer.suffix.as_str()),
        None => {
            offer.suffix.trim_start_matches('.') == layer.trim_start_matches('.')
                || offer.title.as_deref() == Some(layer)
        }
    };
    if let Some(offer) = found.offers.iter().find(is_meant) {
        return Ok(offer);
    }
    let mut parts: Vec<_> = found
        .offers
        .iter()
        .map(|offer| match (offer.suffix.as_str(), &offer.title) {
            ("", Some(title)) => title.as_str(),
            (suffix, _) => suffix,
        })
        .collect();
    parts.dedup();
    let reasons = found.skipped.iter().map(|one| one.why.as_str());
    let reasons = reasons.collect::<Vec<_>>().join("; ");
    Err(
        match (&found.to_flatten, parts.as_slice(), reasons.as_str()) {
            (Some(recipe), ..) => format!(
                "the file of a container image of {} layers is made here, so no registry has it",
                recipe.layers.len()
            ),
            (None, [], "") => format!("it has no {layer}, and no other file"),
            (None, [], reasons) => reasons.to_owned(),
            (None, parts, _) => format!("it has no {layer}, only {}", parts.join(", ")),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::Skipped;
    use crate::digest::Digest;

    fn offer(suffix: &str, title: Option<&str>) -> Offer {
        Offer {
            suffix: suffix.into(),
            long_suffix: None,
            title: title.map(str::to_owned),
            digest: Digest::of(suffix.as_bytes()),
            size: 1,
            content: crate::artifact::Content::Blob,
        }
    }

    #[test]
    fn a_layer_is_named_by_its_role_its_suffix_or_its_title() {
        let several = [
            offer(".vmlinuz", None),
            offer(".initramfs.gz", None),
            offer(".raw", Some("a.raw")),
        ];
        for (offers, layer, expected) in [
            (&several[..], "kernel", Ok(".vmlinuz")),
            (&several, "initramfs", Ok(".initramfs.gz")),
            (&several, "raw", Ok(".raw")),
            (&several, ".raw", Ok(".raw")),
            (&several, "a.raw", Ok(".raw")),
            (
                &several,
                "rootfs",
                Err("it has no rootfs, only .vmlinuz, .initramfs.gz, .raw"),
            ),
            (&[], "raw", Err("layer 1: it is encrypted")),
        ] {
            let image = Recognised {
                offers: offers.to_vec(),
                skipped: vec![Skipped::whole("layer 1: it is encrypted")],
                ..Recognised::default()
            };
            let found = choose(&image, layer).map(|offer| offer.suffix.as_str());
            assert_eq!(found, expected.map_err(str::to_owned), "{layer:?}");
        }
    }
}
