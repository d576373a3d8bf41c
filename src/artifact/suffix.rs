//! File suffixes: what the bytes are, and so what a transfer file's pattern ends in.

/// Disk images and archives, each also compressed.
const COMPRESSIBLE: [&str; 6] = [".raw", ".img", ".efi", ".erofs", ".squashfs", ".tar"];
/// What systemd-pull unpacks (257: gzip, xz, bzip2; 262 also zstd).
const COMPRESSED: [&str; 4] = [".gz", ".xz", ".zst", ".bz2"];
/// What stands beside an image or boots one. A longer one comes before a part of it.
const OTHERS: [&str; 15] = [
    ".roothash.p7s",
    ".roothash",
    ".usrhash.p7s",
    ".usrhash",
    ".verity",
    ".iso",
    ".vmlinuz",
    ".initramfs",
    ".initrd",
    ".cmdline",
    ".rootfs",
    ".qcow2",
    ".vhd",
    ".vmdk",
    ".ova",
];
/// What a raw image is for. Part of the suffix where two kinds would else share a name.
const KINDS: [&str; 3] = [".sysext", ".confext", ".portable"];

/// The suffix of a file name: `.raw` of `k8s-v1.sysext.raw`, `.tar.gz` of `k8s.tar.gz`.
pub fn of_name(name: &str) -> Option<&str> {
    let stem = COMPRESSED
        .iter()
        .find_map(|end| name.strip_suffix(end))
        .unwrap_or(name);
    let end = COMPRESSIBLE
        .iter()
        .find(|end| stem.ends_with(*end))
        .map(|end| stem.len() - end.len())
        .or_else(|| {
            OTHERS
                .iter()
                .find(|end| name.ends_with(*end))
                .map(|end| name.len() - end.len())
        })?;
    // A name that is nothing but a suffix names no file of a kind.
    (end > 0).then(|| &name[end..])
}

/// The suffix with the kind of extension before it: `.sysext.raw` of `k8s-v1.sysext.raw`.
pub fn with_kind(name: &str) -> Option<&str> {
    let stem = name.strip_suffix(of_name(name)?)?;
    let kind = KINDS.iter().find(|kind| stem.ends_with(*kind))?;
    Some(&name[stem.len() - kind.len()..])
}

/// The suffix for a media type that says tar.
pub fn of_tar(media_type: &str) -> Option<&'static str> {
    match media_type {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.docker.image.rootfs.diff.tar" => Some(".tar"),
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Some(".tar.gz"),
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Some(".tar.zst"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_says_what_the_bytes_are() {
        for (name, suffix, kind) in [
            ("kubernetes-v1.27.8-x86-64.raw", Some(".raw"), None),
            ("k8s.raw.zst", Some(".raw.zst"), None),
            ("k8s.sysext.raw", Some(".raw"), Some(".sysext.raw")),
            (
                "k8s.confext.raw.xz",
                Some(".raw.xz"),
                Some(".confext.raw.xz"),
            ),
            ("rootfs.tar.gz", Some(".tar.gz"), None),
            ("a.verity", Some(".verity"), None),
            ("a.roothash", Some(".roothash"), None),
            ("a.roothash.p7s", Some(".roothash.p7s"), None),
            ("linux.efi", Some(".efi"), None),
            ("boot.vmlinuz", Some(".vmlinuz"), None),
            ("a.roothash.gz", None, None),
            ("README.md", None, None),
            ("a.gz", None, None),
            ("raw", None, None),
            (".raw", None, None),
            ("", None, None),
        ] {
            assert_eq!(of_name(name), suffix, "{name}");
            assert_eq!(with_kind(name), kind, "{name}");
        }
    }
}
