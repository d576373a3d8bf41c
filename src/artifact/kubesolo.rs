//! KubeSolo OS: a kernel, an initramfs, and annotations.
//!
//! Older clients read `latest.json` from an HTTP server; [`Release::latest_json`] writes it.

use std::collections::BTreeMap;

use super::{Offer, Recognised, Skipped};
use crate::digest::Digest;
use crate::manifest::Image;
use crate::platform::Architecture;

const KERNEL: &str = "application/vnd.kubesolo.os.kernel.v1+octet-stream";
const INITRAMFS: &str = "application/vnd.kubesolo.os.initramfs.v1+gzip";
/// The prefix of the annotations.
const ANNOTATION: &str = "io.kubesolo.os.";

/// The annotations that are copied to `latest.json`.
const NOTES: [&str; 5] = [
    "release_notes",
    "release_date",
    "channel",
    "min_compatible_version",
    "architecture",
];

/// One release.
#[derive(Clone, Debug, PartialEq)]
pub struct Release {
    kernel: Digest,
    initramfs: Digest,
    /// The annotations, by their keys without the prefix: `version`, `channel`, …
    notes: BTreeMap<String, String>,
}

impl Release {
    /// Memory that it takes, in bytes, roughly.
    pub fn weight(&self) -> usize {
        let note = |(key, value): (&String, &String)| key.len() + value.len();
        size_of::<Self>() + self.notes.iter().map(note).sum::<usize>()
    }

    /// Its kernel and its initramfs.
    pub fn files(&self) -> [Digest; 2] {
        [self.kernel, self.initramfs]
    }

    /// `latest.json`. `url_of` returns the URLs of the two files; without one of them it is `None`. `label`: the
    /// version if the annotations name none.
    pub fn latest_json(
        &self,
        label: &str,
        url_of: impl Fn(Digest) -> Option<String>,
    ) -> Option<String> {
        let mut json = serde_json::Map::new();
        let version = self.notes.get("version").map_or(label, String::as_str);
        json.insert("version".into(), version.into());
        for (name, digest) in [("vmlinuz", self.kernel), ("initramfs", self.initramfs)] {
            json.insert(format!("{name}_url"), url_of(digest)?.into());
            json.insert(format!("{name}_sha256"), digest.hex().into());
        }
        for name in NOTES {
            if let Some(note) = self.notes.get(name) {
                json.insert(name.into(), note.as_str().into());
            }
        }
        Some(format!("{}\n", serde_json::Value::Object(json)))
    }
}

/// An image with a layer of either type. Both must be there.
pub fn recognise(image: &Image, _config: Option<&[u8]>) -> Option<Recognised> {
    let find = |media_type: &str| {
        let mut layers = image.layers.iter();
        layers.find(|layer| layer.media_type == media_type)
    };
    let (kernel, initramfs) = match (find(KERNEL), find(INITRAMFS)) {
        (Some(kernel), Some(initramfs)) => (kernel, initramfs),
        (None, None) => return None,
        (None, _) => return Some(Recognised::nothing("KubeSolo OS image without kernel")),
        (_, None) => return Some(Recognised::nothing("KubeSolo OS image without initramfs")),
    };
    let notes: BTreeMap<_, _> = image
        .annotations
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(ANNOTATION)?, value)))
        .filter(|(key, _)| *key == "version" || NOTES.contains(key))
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .collect();
    let only_for = match notes.get("architecture").filter(|name| !name.is_empty()) {
        None => None,
        Some(name) => match Architecture::of_oci(name) {
            Some(known) => Some(known),
            None => {
                return Some(Recognised::nothing(format!(
                    "it says it is for {name:?}, which is the name of no architecture"
                )));
            }
        },
    };
    let layers = image.layers.iter().enumerate();
    let others = layers.filter(|(_, layer)| ![KERNEL, INITRAMFS].contains(&&*layer.media_type));
    let why = "neither kernel nor initramfs of KubeSolo OS";
    Some(Recognised {
        to_flatten: None,
        offers: vec![
            Offer::layer(kernel, ".vmlinuz"),
            Offer::layer(initramfs, ".initramfs.gz"),
        ],
        skipped: others
            .map(|(n, layer)| Skipped::layer(n, layer, why))
            .collect(),
        only_for,
        kubesolo: Some(Release {
            kernel: kernel.digest,
            initramfs: initramfs.digest,
            notes,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Descriptor;

    fn offered(types: &[&str], architecture: &str) -> String {
        let layer = |media_type: &&str| Descriptor {
            media_type: (*media_type).to_owned(),
            digest: Digest::of(media_type.as_bytes()),
            size: 1,
            annotations: Default::default(),
            is_foreign: false,
            artifact_type: None,
        };
        let image = Image {
            artifact_type: None,
            config: None,
            layers: types.iter().map(layer).collect(),
            annotations: [(
                "io.kubesolo.os.architecture".to_owned(),
                architecture.to_owned(),
            )]
            .into(),
            subject: None,
        };
        match recognise(&image, None) {
            None => "not theirs".to_owned(),
            Some(found) => {
                let mut words: Vec<_> =
                    found.offers.into_iter().map(|offer| offer.suffix).collect();
                words.extend(found.skipped.into_iter().map(|one| one.why));
                words.extend(found.only_for.map(|architecture| architecture.to_string()));
                words.join(", ")
            }
        }
    }

    #[test]
    fn kernel_and_initramfs_are_offered_together_or_not_at_all() {
        for (types, architecture, expected) in [
            (
                &[KERNEL, INITRAMFS][..],
                "amd64",
                ".vmlinuz, .initramfs.gz, x86-64",
            ),
            (
                &[INITRAMFS, "text/plain", KERNEL],
                "",
                ".vmlinuz, .initramfs.gz, layer 2: neither kernel nor initramfs of KubeSolo OS",
            ),
            (&[KERNEL], "amd64", "KubeSolo OS image without initramfs"),
            (&[INITRAMFS], "amd64", "KubeSolo OS image without kernel"),
            (&["text/plain"], "amd64", "not theirs"),
        ] {
            assert_eq!(offered(types, architecture), expected, "{types:?}");
        }
    }

    #[test]
    fn latest_json_has_the_form_of_the_older_protocol() {
        let notes = [
            ("version", "v0.3.0"),
            ("channel", "stable"),
            ("unknown", "x"),
        ];
        let release = Release {
            kernel: Digest::of(b"k"),
            initramfs: Digest::of(b"i"),
            notes: notes
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        };
        let url = |digest: Digest| Some(format!("http://h/{}", &digest.hex()[..2]));
        let json = release.latest_json("tag", url).unwrap();
        let found: serde_json::Value = serde_json::from_str(&json).unwrap();
        let (kernel, initramfs) = (Digest::of(b"k").hex(), Digest::of(b"i").hex());
        assert_eq!(
            found,
            serde_json::json!({
                "version": "v0.3.0",
                "vmlinuz_url": format!("http://h/{}", &kernel[..2]),
                "vmlinuz_sha256": kernel,
                "initramfs_url": format!("http://h/{}", &initramfs[..2]),
                "initramfs_sha256": initramfs,
                "channel": "stable"
            })
        );
        assert_eq!(release.latest_json("tag", |_| None), None);
    }
}
