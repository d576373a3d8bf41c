//! Decides whether the one layer of an image can be offered as it is, or has to be flattened.

use std::io::{self, Read};

use super::union_fs::is_of_layers;
use crate::compression::{self, Compression};
use crate::tar::{Failure, Members};

/// Most bytes that are unpacked of one layer: a small layer can unpack to any number.
const MAX_UNPACKED: u64 = 64 << 30;

/// The verdict on the one layer of an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// It is packed with gzip and has files alone, no whiteouts: it is offered as it is.
    Clean,
    /// The image has to be flattened.
    MustFlatten,
}

/// Reads a layer until the verdict is known; a clean one is read to its end. Memory does not grow with its entries.
pub fn scan(layer: impl Read) -> Result<Verdict, Failure> {
    let (Some(Compression::Gzip), packed) = Compression::detect(layer)? else {
        return Ok(Verdict::MustFlatten);
    };
    let mut archive = Members::new(compression::gzip(packed).take(MAX_UNPACKED));
    while let Some(member) = archive.next()? {
        let has_odd_paths = member.has_odd_paths();
        if is_of_layers(&archive.entry(member)?) || has_odd_paths {
            return Ok(Verdict::MustFlatten);
        }
    }
    archive.drain()?;
    if archive.into_inner().limit() == 0 {
        let why = format!("it unpacks to more than {MAX_UNPACKED} bytes");
        return Err(Failure::Read(io::Error::other(why)));
    }
    Ok(Verdict::Clean)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use tar::{Builder, EntryType, Header};

    use super::*;

    fn gzip_of(bytes: &[u8]) -> Vec<u8> {
        let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
        packer.write_all(bytes).unwrap();
        packer.finish().unwrap()
    }

    /// An archive with a directory, a file and what `add` adds.
    fn archive(add: impl FnOnce(&mut Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (kind, path) in [
            (EntryType::Directory, "usr/"),
            (EntryType::Regular, "usr/file"),
        ] {
            builder.append(&header(kind, path), io::empty()).unwrap();
        }
        add(&mut builder);
        builder
            .append(&header(EntryType::Regular, "usr/last"), io::empty())
            .unwrap();
        builder.into_inner().unwrap()
    }

    /// A header whose path is what it is.
    fn header(kind: EntryType, path: &str) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_size(0);
        header.set_mode(0o755);
        header.set_mtime(1);
        header.set_uid(0);
        header.set_gid(0);
        if kind == EntryType::Char {
            header.set_device_major(0).unwrap();
            header.set_device_minor(0).unwrap();
        }
        header.set_cksum();
        header
    }

    #[test]
    fn only_a_gzip_archive_of_files_is_clean() {
        let clean = archive(|_| {});
        assert_eq!(scan(&*gzip_of(&clean)).unwrap(), Verdict::Clean);
        let halves = clean.split_at(700);
        let members = [gzip_of(halves.0), gzip_of(halves.1)].concat();
        assert_eq!(scan(&*members).unwrap(), Verdict::Clean, "two members");
        for (bytes, why) in [
            (clean.clone(), "not packed"),
            (zstd::encode_all(&*clean, 1).unwrap(), "packed otherwise"),
            (Vec::new(), "nothing"),
        ] {
            assert_eq!(scan(&*bytes).unwrap(), Verdict::MustFlatten, "{why}");
        }
        for (kind, path) in [
            (EntryType::Regular, "usr/.wh.old"),
            (EntryType::Regular, "usr/.wh..wh..opq"),
            (EntryType::Directory, ".wh..wh.plnk/"),
            (EntryType::Regular, "usr/.wh..wh.orph/file"),
            (EntryType::Char, "usr/gone"),
            (EntryType::Regular, "/usr/absolute"),
            (EntryType::Regular, "usr/../dots"),
        ] {
            let bytes = archive(|builder| {
                builder.append(&header(kind, path), io::empty()).unwrap();
            });
            assert_eq!(
                scan(&*gzip_of(&bytes)).unwrap(),
                Verdict::MustFlatten,
                "{path}"
            );
        }
        for (name, expected) in [
            ("trusted.overlay.opaque", Verdict::MustFlatten),
            ("user.overlay.origin", Verdict::MustFlatten),
            ("user.other", Verdict::Clean),
        ] {
            let bytes = archive(|builder| {
                let key = format!("SCHILY.xattr.{name}");
                builder
                    .append_pax_extensions([(key.as_str(), &b"y"[..])])
                    .unwrap();
                builder
                    .append(&header(EntryType::Directory, "d/"), io::empty())
                    .unwrap();
            });
            assert_eq!(scan(&*gzip_of(&bytes)).unwrap(), expected, "{name}");
        }
    }

    #[test]
    fn what_is_no_whole_archive_has_no_verdict() {
        let clean = gzip_of(&archive(|_| {}));
        for bytes in [&clean[..clean.len() - 9], &gzip_of(b"no archive")[..]] {
            assert!(scan(bytes).is_err());
        }
        let outside = archive(|builder| {
            let header = header(EntryType::Regular, "../outside");
            builder.append(&header, io::empty()).unwrap();
        });
        assert!(scan(&*gzip_of(&outside)).is_err());
    }
}
