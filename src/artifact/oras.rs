//! Files pushed as they are, each as a layer, as by `oras push FILE…`.
//!
//! `oras push FILE` gives every file the type `application/vnd.oci.image.layer.v1.tar`, whatever its format. So the
//! title decides, and a tar type counts only if no title contradicts it.

use super::{Offer, Recognised, Skipped, not_an_index, suffix};
use crate::manifest::{Descriptor, Image};

/// The type that oras gives a file by default.
const ORAS_DEFAULT: &str = "application/vnd.oci.image.layer.v1.tar";

/// Every manifest.
pub fn recognise(image: &Image, _config: Option<&[u8]>) -> Option<Recognised> {
    let mut recognised = Recognised::of_layers(image, |layer| {
        Ok(Offer {
            long_suffix: layer.title().and_then(suffix::with_kind),
            ..Offer::layer(layer, &suffix_of(layer)?)
        })
    });
    if image.layers.is_empty() {
        recognised.skipped.push(Skipped::whole("it has no layers"));
    }
    Some(recognised)
}

/// The suffix by the title, else by the type.
pub fn suffix_of(layer: &Descriptor) -> Result<String, String> {
    not_an_index(layer)?;
    let media_type = &layer.media_type;
    let packed = |suffix: String| suffix::packed(suffix, media_type);
    let tar = || suffix::of_tar(media_type).map(str::to_owned);
    let typed = suffix::of_type(media_type);
    let Some(title) = layer.title() else {
        return (typed.map(|typed| packed(typed.into())))
            .or_else(tar)
            .ok_or_else(|| format!("it has no title and its type {media_type:?} is not a tar's"));
    };
    let titled = suffix::of_name(title);
    // `initrd.img` is an initramfs, and so is any `.img` whose type says so.
    let typed = typed
        .filter(|_| !suffix::is_text(media_type, Some(title)))
        .filter(|_| titled.as_deref().is_none_or(suffix::is_vague))
        .map(|typed| format!("{typed}{}", suffix::packing(title)));
    (typed.or(titled).map(packed))
        .or_else(|| tar().filter(|_| media_type != ORAS_DEFAULT))
        .ok_or_else(|| {
            format!(
                "neither its title nor its type {media_type:?} says what image or archive it is"
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::CAIBX;

    fn layer(media_type: &str, title: Option<&str>) -> Descriptor {
        let title = title.map(|title| {
            (
                "org.opencontainers.image.title".to_owned(),
                title.to_owned(),
            )
        });
        Descriptor {
            media_type: media_type.into(),
            digest: crate::digest::Digest::of(b""),
            size: 0,
            annotations: title.into_iter().collect(),
            is_foreign: false,
            artifact_type: None,
        }
    }

    #[test]
    fn the_title_decides_then_a_tar_type() {
        let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
        for (media_type, title, expected, why) in [
            (
                ORAS_DEFAULT,
                Some("k8s.raw"),
                Some(".raw"),
                "a plain oras push",
            ),
            (
                ORAS_DEFAULT,
                Some("k8s.tar"),
                Some(".tar"),
                "a plain oras push of a tar",
            ),
            (
                ORAS_DEFAULT,
                Some("README.md"),
                None,
                "oras types that as a tar too",
            ),
            (
                ORAS_DEFAULT,
                None,
                Some(".tar"),
                "no title: the type is all there is",
            ),
            (gzip, Some("layer.3.tar.gz"), Some(".tar.gz"), "both agree"),
            (
                gzip,
                Some("usr"),
                Some(".tar.gz"),
                "a directory that oras packed",
            ),
            (gzip, Some("k8s.raw"), Some(".raw"), "title before type"),
            (gzip, None, Some(".tar.gz"), "type alone"),
            (
                "application/octet-stream",
                Some("k8s.raw.xz"),
                Some(".raw.xz"),
                "title alone",
            ),
            ("application/octet-stream", None, None, "nothing to go by"),
            (
                "application/spdx+json",
                Some("sbom.json"),
                None,
                "not an image",
            ),
            (
                "application/vnd.acme.kernel",
                None,
                Some(".vmlinuz"),
                "the type alone",
            ),
            (
                "application/vnd.acme.initramfs.binary",
                Some("rootfs.cpio.gz"),
                Some(".initramfs.gz"),
                "the type, and the title's packing",
            ),
            (
                "application/vnd.acme.initrd",
                Some("boot.img"),
                Some(".initramfs"),
                "the type says more than .img",
            ),
            (
                "application/vnd.acme.initrd",
                Some("os.initrd"),
                Some(".initrd"),
                "the title says as much",
            ),
            (
                "application/vnd.acme.kernel",
                Some("kernel.config"),
                None,
                "a text about one",
            ),
            (
                "application/vnd.acme.image+erofs",
                Some("root.cfs"),
                Some(".erofs"),
                "a file system",
            ),
            (
                "application/x-netboot-file+zstd",
                Some("initrd.img"),
                Some(".initramfs.zst"),
                "packed, as its type says",
            ),
        ] {
            let found = suffix_of(&layer(media_type, title)).ok();
            assert_eq!(found.as_deref(), expected, "{why}");
        }
    }

    #[test]
    fn every_layer_is_a_file_or_has_a_reason() {
        let image = Image {
            artifact_type: None,
            config: None,
            layers: vec![
                layer(ORAS_DEFAULT, Some("a.sysext.raw")),
                layer(ORAS_DEFAULT, Some("notes.txt")),
                layer(ORAS_DEFAULT, Some("a.sysext.raw.caibx")),
                layer(CAIBX, None),
            ],
            annotations: Default::default(),
            subject: None,
        };
        let found = recognise(&image, None).unwrap();
        assert_eq!((found.offers.len(), found.skipped.len()), (1, 3));
        assert_eq!(found.offers[0].long_suffix.as_deref(), Some(".sysext.raw"));
        assert_eq!(
            found.skipped[0].why,
            r#"layer 2 ("notes.txt"): neither its title nor its type "application/vnd.oci.image.layer.v1.tar" says what image or archive it is"#
        );
        let index = "it lists the chunks of a file, for machines with an older version of that";
        assert_eq!(
            found.skipped[1].why,
            format!("layer 3 (\"a.sysext.raw.caibx\"): {index}")
        );
        assert_eq!(found.skipped[2].why, format!("layer 4: {index}"));
    }
}
