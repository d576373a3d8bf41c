//! One artifact, looked at: its manifest and config, and where its layers are.
//!
//! The JSON forms are those of onmetal-image, whose users have scripts for them.

use serde_json::{Value, json};

use crate::address::View;
use crate::artifact::{self, Offer, Recognised};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::{Image, OCI_MANIFEST};
use crate::resolve::Resolver;
use crate::snapshot::{Directory, Snapshots};
use crate::source::{Reference, StoredManifest};

/// Largest config that is shown, as of containers (containers/image `MaxConfigBodySize`).
const MAX_CONFIG: u64 = 4 << 20;
/// What `--layer` calls a part, and the suffixes that it may have.
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

/// `{"descriptor": {…}, "manifest": {…}, "config": {…}}`; the config is null where it is no JSON.
pub fn inspect(snapshots: &Snapshots, directory: &Directory) -> Result<String> {
    snapshots.with_resolver(directory, |resolver| {
        let (digest, image) = one_image(resolver, directory)?;
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
        let media_type = manifest
            .get("mediaType")
            .and_then(Value::as_str)
            .unwrap_or(OCI_MANIFEST);
        let descriptor =
            json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes.len() });
        Ok(format!(
            "{:#}\n",
            json!({ "descriptor": descriptor, "manifest": manifest, "config": config })
        ))
    })
}

/// `{"headers": {"Authorization": ["Bearer …"]}, "url": "https://…/v2/…/blobs/sha256:…"}`
pub fn url(snapshots: &Snapshots, directory: &Directory, layer: Option<&str>) -> Result<String> {
    snapshots.with_resolver(directory, |resolver| {
        let (_, image) = one_image(resolver, directory)?;
        let found = artifact::recognise(&image, None);
        let chosen = choose(&found, layer).map_err(|why| Error::NotOffered {
            what: format!("a layer of {directory}"),
            why,
        })?;
        let request = resolver.source.blob_request(chosen.digest)?;
        let headers = match request.authorization {
            Some(authorization) => json!({ "Authorization": [authorization] }),
            None => json!({}),
        };
        Ok(format!(
            "{}\n",
            json!({ "headers": headers, "url": request.url })
        ))
    })
}

/// The artifact that a reference means here: of an index the one for this machine.
fn one_image(resolver: &Resolver<'_>, directory: &Directory) -> Result<(Digest, Image)> {
    let reference = match &directory.view {
        View::Tag(tag) => Reference::Tag(tag),
        View::Digest(digest) => Reference::Digest(*digest),
        View::Tags => {
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

/// The file that is meant: the only one, or the one that `--layer` names.
fn choose<'a>(found: &'a Recognised, layer: Option<&str>) -> Result<&'a Offer, String> {
    let offers = found.offers.as_slice();
    if offers.is_empty() {
        return Err(found.left_out.join("; "));
    }
    let has = || {
        offers
            .iter()
            .map(|offer| offer.suffix.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let Some(layer) = layer else {
        return match offers {
            [only] => Ok(only),
            _ => Err(format!("--layer must say which: it has {}", has())),
        };
    };
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
    offers
        .iter()
        .find(is_meant)
        .ok_or_else(|| format!("it has no {layer}, only {}", has()))
}

#[cfg(test)]
mod tests {
    use super::*;
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
            (&several[..], Some("kernel"), Ok(".vmlinuz")),
            (&several, Some("initramfs"), Ok(".initramfs.gz")),
            (&several, Some("raw"), Ok(".raw")),
            (&several, Some(".raw"), Ok(".raw")),
            (&several, Some("a.raw"), Ok(".raw")),
            (
                &several,
                Some("rootfs"),
                Err("it has no rootfs, only .vmlinuz, .initramfs.gz, .raw"),
            ),
            (
                &several,
                None,
                Err("--layer must say which: it has .vmlinuz, .initramfs.gz, .raw"),
            ),
            (&several[..1], None, Ok(".vmlinuz")),
            (&[], Some("raw"), Err("layer 1: it is encrypted")),
        ] {
            let image = Recognised {
                offers: offers.to_vec(),
                left_out: vec!["layer 1: it is encrypted".to_owned()],
                ..Recognised::default()
            };
            let found = choose(&image, layer).map(|offer| offer.suffix.as_str());
            assert_eq!(found, expected.map_err(str::to_owned), "{layer:?}");
        }
    }
}
