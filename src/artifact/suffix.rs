//! Suffixes of files, by title and by media type. A suffix tells the format; the pattern of a transfer file ends in it.

use crate::platform::Architecture;

/// Disk images, archives, kernels and initial file systems. A compression may follow.
const PACKABLE: [&str; 15] = [
    ".raw",
    ".img",
    ".efi",
    ".erofs",
    ".squashfs",
    ".tar",
    ".iso",
    ".qcow2",
    ".vhd",
    ".vhdx",
    ".vmdk",
    ".ova",
    KERNEL,
    INITRAMFS,
    ".initrd",
];
/// The compressions that systemd-pull unpacks (257: gzip, xz, bzip2; 262 also zstd), and their names in media types.
const PACKINGS: [(&str, &[&str]); 4] = [
    (".gz", &["gzip", "x-gzip"]),
    (".xz", &["xz", "x-xz"]),
    (".zst", &["zstd"]),
    (".bz2", &["bzip2", "x-bzip2"]),
];
/// Files beside an image. A longer suffix comes before one that it ends in.
const OTHERS: [&str; 7] = [
    ".roothash.p7s",
    ".roothash",
    ".usrhash.p7s",
    ".usrhash",
    ".verity",
    ".cmdline",
    ".rootfs",
];
/// Kinds of extensions. They become part of the suffix if two files would have the same name otherwise.
const KINDS: [&str; 3] = [".sysext", ".confext", ".portable"];
/// Endings of texts about an image.
const TEXTS: [&str; 16] = [
    ".txt",
    ".md",
    ".json",
    ".jsonl",
    ".yaml",
    ".yml",
    ".toml",
    ".env",
    ".config",
    ".asc",
    ".sha1",
    ".sha256",
    ".sha256sum",
    ".sha384",
    ".sha512",
    ".md5",
];

const KERNEL: &str = ".vmlinuz";
const INITRAMFS: &str = ".initramfs";

/// Words in media types, and the suffixes for them.
const WORDS: [(&str, &str); 6] = [
    ("kernel", KERNEL),
    ("vmlinuz", KERNEL),
    ("initrd", INITRAMFS),
    ("initramfs", INITRAMFS),
    ("erofs", ".erofs"),
    ("squashfs", ".squashfs"),
];
/// Words that may follow one of those: `kernel.config` is not a kernel.
const FILLERS: [&str; 15] = [
    "binary", "bin", "blob", "octet", "stream", "file", "layer", "image", "img", "cpio", "gzip",
    "gz", "zstd", "xz", "bzip2",
];

/// The suffix of a file name, in lower case: `.raw` of `k8s-v1.sysext.raw`, `.tar.gz` of `K8S.TAR.GZ`,
/// `.initramfs.zst` of `initrd.img.zst`.
pub fn of_name(name: &str) -> Option<String> {
    split(name).map(|(_, suffix)| suffix)
}

/// A file name without its suffix.
pub fn stem(name: &str) -> &str {
    split(name).map_or_else(|| split_packing(name).0, |(stem, _)| stem)
}

/// The same without the kind of extension before the suffix: `k8s-v1` of `k8s-v1.sysext.raw`.
pub fn stem_without_kind(name: &str) -> &str {
    let stem = stem(name);
    KINDS
        .iter()
        .find_map(|kind| strip(stem, kind))
        .unwrap_or(stem)
}

/// The suffix with the kind of extension before it: `.sysext.raw` of `k8s-v1.sysext.raw`.
pub fn with_kind(name: &str) -> Option<String> {
    let (stem, suffix) = split(name)?;
    let kind = KINDS.iter().find(|kind| strip(stem, kind).is_some())?;
    Some(format!("{kind}{suffix}"))
}

/// The suffix for a media type of tar archives.
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

/// The suffix for a media type that names a kernel, an initramfs or a file system.
pub fn of_type(media_type: &str) -> Option<&'static str> {
    let begins_with_digit = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    let is_filler = |word: &str| {
        FILLERS.contains(&word)
            || word.bytes().all(|byte| byte.is_ascii_digit())
            || word.strip_prefix('v').is_some_and(begins_with_digit)
            || Architecture::of_oci(word).is_some()
    };
    let last = words(media_type).filter(|word| !is_filler(word)).last()?;
    let found = WORDS.iter().find(|(word, _)| *word == last);
    found.map(|(_, suffix)| *suffix)
}

/// The suffix for a media type that names a file system.
pub fn of_file_system(media_type: &str) -> Option<&'static str> {
    of_type(media_type).filter(|suffix| matches!(*suffix, ".erofs" | ".squashfs"))
}

/// Adds the compression that a media type names to a suffix from a title: `.raw.zst` for `.raw` and `…+zstd`.
///
/// In the type of a tar archive, squashfs or erofs the compression is the one inside the file, so it is not added.
pub fn packed(mut suffix: String, media_type: &str) -> String {
    let is_inside = words(media_type).any(|word| matches!(word, "tar" | "squashfs" | "erofs"));
    if !is_inside && split_packing(&suffix).1.is_empty() {
        let last = subtype(media_type).rsplit('+').next().unwrap_or_default();
        let packing = PACKINGS.iter().find(|(_, names)| names.contains(&last));
        suffix.push_str(packing.map_or("", |(end, _)| end));
    }
    suffix
}

/// The ending for the compression of a file: `.gz`, or nothing.
pub fn packing(name: &str) -> &'static str {
    split_packing(name).1
}

/// Whether a suffix does not tell the format: any image can be `.img`.
pub fn is_vague(suffix: &str) -> bool {
    suffix.starts_with(".img")
}

/// Whether this is a text about an image, not an image.
pub fn is_text(media_type: &str, title: Option<&str>) -> bool {
    let is_typed = media_type.starts_with("text/")
        || words(media_type).any(|word| matches!(word, "json" | "yaml"));
    let is_titled = |title: &str| TEXTS.iter().any(|end| strip(title, end).is_some());
    is_typed || title.is_some_and(is_titled)
}

/// The name before the suffix, and the suffix.
fn split(name: &str) -> Option<(&str, String)> {
    let (unpacked, packing) = split_packing(name);
    let packable = |end: &&str| Some((strip(unpacked, end)?, format!("{end}{packing}")));
    let other = |end: &&str| Some((strip(name, end)?, (*end).to_owned()));
    let found = PACKABLE.iter().find_map(packable);
    let found = found.or_else(|| OTHERS.iter().find_map(other));
    if found.as_ref().is_none_or(|(_, suffix)| is_vague(suffix))
        && let Some((stem, suffix)) = boot_file(unpacked)
    {
        return Some((stem, format!("{suffix}{packing}")));
    }
    // A name that is only a suffix does not count.
    found.filter(|(stem, _)| !stem.is_empty())
}

/// A kernel or an initramfs, by the names that distributions give them: `vmlinuz-6.12.0-amd64`,
/// `initrd.img-6.12.0-amd64`, `initramfs-linux.img`.
fn boot_file(name: &str) -> Option<(&str, &'static str)> {
    let after = |path: &'_ str, word: &str| {
        let base = path.rsplit('/').next().unwrap_or(path);
        let (begin, _) = base.split_at_checked(word.len())?;
        let rest = path.len() - base.len() + word.len();
        begin.eq_ignore_ascii_case(word).then_some(rest)
    };
    if name == "Image" || name.ends_with("/Image") {
        return Some((name, KERNEL));
    }
    if let Some(rest) = after(name, "vmlinuz").or_else(|| after(name, "bzImage")) {
        return is_release(&name[rest..]).then_some((name, KERNEL));
    }
    let stem = [".img", ".cpio"].iter().find_map(|end| strip(name, end));
    let stem = stem.unwrap_or(name);
    let rest = after(stem, "initramfs").or_else(|| after(stem, "initrd"))?;
    let rest = &stem[rest..];
    let release = [".img", ".cpio"].iter().find_map(|begin| {
        let release = rest.strip_prefix(begin)?;
        release.starts_with('-').then_some(release)
    });
    is_release(release.unwrap_or(rest)).then_some((stem, INITRAMFS))
}

/// Whether this may follow the name of a kernel: a release and an architecture, not another ending.
fn is_release(rest: &str) -> bool {
    let is_separate = |c: char| c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    let last = rest.rsplit_once('.').map(|(_, last)| last);
    let is_no_ending = |last: &str| {
        let machine = last.split('+').next().unwrap_or(last);
        // As in `6.1.75-1.ph5`.
        let is_of_distribution =
            last.ends_with(|c: char| c.is_ascii_digit()) && !is_text("", Some(rest));
        last.starts_with(|c: char| c.is_ascii_digit())
            || is_of_distribution
            || Architecture::of_oci(machine).is_some()
    };
    rest.is_empty() || rest.starts_with(is_separate) && last.is_none_or(is_no_ending)
}

fn split_packing(name: &str) -> (&str, &'static str) {
    let mut packings = PACKINGS.iter();
    let found = packings.find_map(|(end, _)| Some((strip(name, end)?, *end)));
    found.unwrap_or((name, ""))
}

/// The text before an ending. Upper and lower case are the same.
fn strip<'a>(name: &'a str, end: &str) -> Option<&'a str> {
    let start = name.len().checked_sub(end.len())?;
    let (rest, found) = name.split_at_checked(start)?;
    found.eq_ignore_ascii_case(end).then_some(rest)
}

/// The part of a media type after the `/`.
fn subtype(media_type: &str) -> &str {
    media_type
        .split_once('/')
        .map_or("", |(_, subtype)| subtype)
}

/// The words of a subtype.
fn words(media_type: &str) -> impl Iterator<Item = &str> {
    let words = subtype(media_type).split(|c: char| !c.is_ascii_alphanumeric());
    words.filter(|word| !word.is_empty())
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
            ("K8S.SysExt.RAW.XZ", Some(".raw.xz"), Some(".sysext.raw.xz")),
            ("rootfs.tar.gz", Some(".tar.gz"), None),
            ("a.verity", Some(".verity"), None),
            ("a.roothash", Some(".roothash"), None),
            ("a.roothash.p7s", Some(".roothash.p7s"), None),
            ("linux.efi", Some(".efi"), None),
            ("BOOTX64.EFI", Some(".efi"), None),
            ("boot.vmlinuz", Some(".vmlinuz"), None),
            ("os.qcow2.zst", Some(".qcow2.zst"), None),
            ("os.iso.gz", Some(".iso.gz"), None),
            ("a.roothash.gz", None, None),
            ("README.md", None, None),
            ("a.gz", None, None),
            ("raw", None, None),
            (".raw", None, None),
            ("ä.raw", Some(".raw"), None),
            ("€", None, None),
            ("", None, None),
        ] {
            assert_eq!(of_name(name).as_deref(), suffix, "{name}");
            assert_eq!(with_kind(name).as_deref(), kind, "{name}");
        }
    }

    #[test]
    fn kernels_and_initramfs_are_known_by_the_names_that_distributions_give_them() {
        for (name, stem_expected, suffix) in [
            ("vmlinuz", "vmlinuz", Some(".vmlinuz")),
            ("boot/vmlinuz-linux", "boot/vmlinuz-linux", Some(".vmlinuz")),
            (
                "vmlinuz-6.12.0-amd64",
                "vmlinuz-6.12.0-amd64",
                Some(".vmlinuz"),
            ),
            (
                "vmlinuz-6.8.5-301.fc40.x86_64",
                "vmlinuz-6.8.5-301.fc40.x86_64",
                Some(".vmlinuz"),
            ),
            (
                "vmlinuz-6.1.75-1.ph5",
                "vmlinuz-6.1.75-1.ph5",
                Some(".vmlinuz"),
            ),
            ("vmlinuz.gz", "vmlinuz", Some(".vmlinuz.gz")),
            ("vmlinuz.efi", "vmlinuz", Some(".efi")),
            ("bzImage", "bzImage", Some(".vmlinuz")),
            ("Image", "Image", Some(".vmlinuz")),
            ("image", "image", None),
            ("initrd", "initrd", Some(".initramfs")),
            ("initrd.img", "initrd", Some(".initramfs")),
            ("initrd0.img", "initrd0", Some(".initramfs")),
            (
                "initrd.img-6.12.0-amd64",
                "initrd.img-6.12.0-amd64",
                Some(".initramfs"),
            ),
            ("initramfs-linux.img", "initramfs-linux", Some(".initramfs")),
            (
                "initramfs-6.8.5-301.fc40.x86_64.img.zst",
                "initramfs-6.8.5-301.fc40.x86_64",
                Some(".initramfs.zst"),
            ),
            ("initramfs.cpio.gz", "initramfs", Some(".initramfs.gz")),
            ("os.initrd", "os", Some(".initrd")),
            ("initrd.squashfs", "initrd", Some(".squashfs")),
            ("kernel.config", "kernel.config", None),
            ("vmlinuz.sha256", "vmlinuz.sha256", None),
            ("vmlinuz-6.1.75-1.ph5.md5", "vmlinuz-6.1.75-1.ph5.md5", None),
            ("vmlinuz-6.12.0-amd64.sig", "vmlinuz-6.12.0-amd64.sig", None),
            ("initramfs.json", "initramfs.json", None),
            ("initrds", "initrds", None),
            ("installer.img", "installer", Some(".img")),
        ] {
            assert_eq!(of_name(name).as_deref(), suffix, "{name}");
            assert_eq!(stem(name), stem_expected, "{name}");
        }
    }

    #[test]
    fn a_type_says_so_by_its_last_word() {
        for (media_type, expected) in [
            ("application/vnd.kubeswift.kernel.binary", Some(".vmlinuz")),
            ("application/vnd.lattice.node.v1+kernel", Some(".vmlinuz")),
            (
                "application/vnd.acme.initrd.amd64.v2+zstd",
                Some(".initramfs"),
            ),
            ("application/vnd.acme.composefs.image+erofs", Some(".erofs")),
            ("application/vnd.acme.squashfs.v1", Some(".squashfs")),
            ("application/vnd.acme.kernel.config", None),
            ("application/vnd.acme.kernel.modules.v1", None),
            ("application/vnd.acme.kernel.v1+json", None),
            ("application/vnd.acme.squashfs.verity", None),
            ("application/octet-stream", None),
            ("kernel", None),
            ("", None),
        ] {
            assert_eq!(of_type(media_type), expected, "{media_type}");
        }
    }

    #[test]
    fn a_type_that_says_how_a_file_is_packed_adds_that() {
        for (suffix, media_type, expected) in [
            (".raw", "application/vnd.acme.disk+gzip", ".raw.gz"),
            (".raw", "application/zstd", ".raw.zst"),
            (".raw.xz", "application/vnd.acme.disk+xz", ".raw.xz"),
            (".raw.xz", "application/vnd.acme.disk+zstd", ".raw.xz"),
            (
                ".initramfs",
                "application/x-netboot-file+zstd",
                ".initramfs.zst",
            ),
            (
                ".raw",
                "application/vnd.oci.image.layer.v1.tar+gzip",
                ".raw",
            ),
            (
                ".squashfs",
                "application/vnd.acme.squashfs+zstd",
                ".squashfs",
            ),
            (".erofs", "application/vnd.acme.erofs+zstd", ".erofs"),
            (".raw", "application/octet-stream", ".raw"),
        ] {
            assert_eq!(packed(suffix.into(), media_type), expected, "{media_type}");
        }
    }

    #[test]
    fn texts_are_told_by_type_or_title() {
        for (media_type, title, expected) in [
            ("text/plain", None, true),
            ("application/json", Some("a.raw"), true),
            ("application/vnd.in-toto+json", None, true),
            ("application/octet-stream", Some("README.MD"), true),
            ("application/octet-stream", Some("a.raw.sha256"), true),
            ("application/octet-stream", Some("a.raw"), false),
            ("application/octet-stream", None, false),
        ] {
            assert_eq!(
                is_text(media_type, title),
                expected,
                "{media_type} {title:?}"
            );
        }
    }
}
