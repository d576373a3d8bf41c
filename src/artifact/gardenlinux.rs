//! Garden Linux, as its own tool (`gl-oci`) pushes it: each file of a build is a layer with a title and a media type of
//! its own.

use super::{Offer, Recognised};
use crate::manifest::{Descriptor, Image};

/// The prefix of its media types.
const PREFIX: &str = "application/io.gardenlinux.";

/// Media types without the prefix, and their suffixes.
const TYPES: [(&str, &str); 18] = [
    ("uki", ".efi"),
    ("efi", ".boot.efi"),
    ("kernel", ".vmlinuz"),
    ("initrd", ".initramfs"),
    ("cmdline", ".cmdline"),
    ("squashfs", ".squashfs"),
    ("image.archive.format.raw", ".raw"),
    ("image.archive.format.tar", ".tar"),
    ("image.archive.format.tar.gz", ".tar.gz"),
    ("image.archive.format.iso", ".iso"),
    ("image.archive.format.oci", ".oci.tar"),
    ("image.archive.format.pxe.tar.gz", ".pxe.tar.gz"),
    ("image.format.qcow2", ".qcow2"),
    ("image.format.vhd", ".vhd"),
    ("image.format.vmdk", ".vmdk"),
    ("image.format.ova", ".ova"),
    ("image.format.raw", ".raw"),
    ("image.format.gcpimage.tar.gz", ".gcpimage.tar.gz"),
];

/// An image with a layer of such a type.
pub fn recognise(image: &Image, _config: Option<&[u8]>) -> Option<Recognised> {
    let is_theirs = |layer: &Descriptor| layer.media_type.starts_with(PREFIX);
    image
        .layers
        .iter()
        .any(is_theirs)
        .then(|| Recognised::of_layers(image, |layer| Ok(Offer::layer(layer, suffix(layer)?))))
}

fn suffix(layer: &Descriptor) -> Result<&'static str, String> {
    let name = layer.media_type.strip_prefix(PREFIX);
    let found = TYPES.iter().find(|(known, _)| Some(*known) == name);
    // Others are about the image: release, manifest, cert.secureboot.…
    found
        .map(|(_, suffix)| *suffix)
        .ok_or_else(|| format!("type {:?} is no image of Garden Linux", layer.media_type))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn images_are_offered_and_what_is_about_them_is_not() {
        let layer = |name: &str| Descriptor {
            media_type: format!("{PREFIX}{name}"),
            digest: Digest::of(name.as_bytes()),
            size: 1,
            annotations: Default::default(),
            is_foreign: false,
            artifact_type: None,
        };
        for (name, expected) in [
            ("kernel", Some(".vmlinuz")),
            ("image.archive.format.pxe.tar.gz", Some(".pxe.tar.gz")),
            ("release", None),
            ("cert.secureboot.db", None),
        ] {
            assert_eq!(suffix(&layer(name)).ok(), expected, "{name}");
        }
        let image = Image {
            artifact_type: None,
            config: None,
            layers: vec![Descriptor {
                media_type: "text/plain".into(),
                ..layer("kernel")
            }],
            annotations: Default::default(),
            subject: None,
        };
        assert_eq!(recognise(&image, None), None);
    }
}
