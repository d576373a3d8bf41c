//! The files that systemd-pull fetches beside an image, and verifies by the image's checksum file.
//!
//! `systemd-pull raw …/X.raw` also fetches `X.roothash`, `X.verity` and the like. It looks for the checksums of all of
//! them in `X.raw.sha256` if that file is there, else in `SHA256SUMS` (systemd:src/import/pull-raw.c).

use crate::name::FileName;

/// The suffixes that systemd-pull appends to the stem of an image's name (systemd:src/import/pull-raw.c), and those of
/// root hashes of `/usr`.
const COMPANIONS: [&str; 6] = [
    ".nspawn",
    ".roothash",
    ".roothash.p7s",
    ".usrhash",
    ".usrhash.p7s",
    ".verity",
];

/// The suffixes that it strips from the name first (systemd:src/shared/import-util.c, `raw_strip_suffixes` and `tar_strip_suffixes`).
const STRIPPED: [&str; 11] = [
    ".xz",
    ".gz",
    ".bz2",
    ".zst",
    ".sysext.raw",
    ".confext.raw",
    ".raw",
    ".qcow2",
    ".img",
    ".bin",
    ".tar",
];

/// The names under which systemd-pull looks for the companions of an image.
pub fn companions(image: &FileName) -> impl Iterator<Item = FileName> {
    let mut stem = image.as_str();
    while let Some(shorter) = STRIPPED.iter().find_map(|end| stem.strip_suffix(end)) {
        stem = shorter;
    }
    let image = image.as_str();
    COMPANIONS
        .iter()
        .map(move |suffix| format!("{stem}{suffix}"))
        .filter(move |name| name != image)
        .filter_map(|name| name.parse().ok())
}

/// Whether this is the name of a companion of some image.
pub fn is_companion(name: &FileName) -> bool {
    COMPANIONS
        .iter()
        .any(|suffix| name.as_str().ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_companion_has_the_stem_of_its_image() {
        for (image, expected) in [
            ("k8s-v1.raw", "k8s-v1"),
            ("k8s-v1.sysext.raw", "k8s-v1"),
            ("k8s-v1.img.raw.xz", "k8s-v1"),
            ("k8s-v1.tar.gz", "k8s-v1"),
            ("k8s-v1", "k8s-v1"),
        ] {
            let found: Vec<_> = companions(&image.parse().unwrap())
                .map(|name| name.to_string())
                .collect();
            let expected: Vec<_> = COMPANIONS
                .iter()
                .map(|suffix| format!("{expected}{suffix}"))
                .collect();
            assert_eq!(found, expected, "{image}");
        }
        let verity: FileName = "k8s-v1.verity".parse().unwrap();
        assert!(is_companion(&verity) && !is_companion(&"k8s-v1.raw".parse().unwrap()));
        assert!(companions(&verity).all(|name| name != verity));
        assert_eq!(
            companions(&".raw".parse().unwrap()).count(),
            COMPANIONS.len()
        );
    }
}
