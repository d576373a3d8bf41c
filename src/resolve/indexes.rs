//! A file → the index of its chunks.
//!
//! An index of casync or desync lies beside the file in its manifest (`<file>.caibx`, as KDE has it), or is attached to the
//! manifest (`oras attach --artifact-type application/vnd.casync.caibx`). A hash tree of dm-verity is in the image, or in a
//! layer beside it: `<stem>.verity`, or `<base>.usr-x86-64-verity.raw` for `<base>.usr-x86-64.raw`, as mkosi splits images.
//!
//! No signature is asked of an index: it is not trusted.

use std::ops::Range;
use std::sync::Arc;

use super::Resolver;
use crate::artifact::{CAIBX, suffix};
use crate::blob::WINDOWS;
use crate::delta::caibx;
use crate::delta::index::{ID, Index, MAX_CHUNK};
use crate::delta::plan;
use crate::delta::verity::{self, SUPERBLOCK, Superblock};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::gpt::{self, HashTree};
use crate::listing::File;
use crate::manifest::{Descriptor, Image, Manifest};
use crate::memory::Held;
use crate::pool;
use crate::source::Part;

/// The type of an empty config.
const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// Largest index, in bytes: 157,000 chunks, which are 10 GiB in chunks of desync's usual size, or 768 MiB in blocks of 4 KiB.
pub const MAX_INDEX: u64 = 6 << 20;
/// A plan takes at most this many times the bytes of its index while it is made: the index and all that is kept of its
/// chunks. With the index of an older version, of at most twice its bytes, there are no runs yet.
const OF_A_PLAN: usize = 5;
const _: () = assert!(OF_A_PLAN * ID >= ID + plan::OF_A_CHUNK);
/// Attached artifacts that are looked at for one file.
const MAX_ATTACHED: usize = 8;

/// Bytes of a file from this place on.
pub type Bytes = (u64, Arc<[u8]>);

/// The index of a file, with what a plan by it needs.
pub struct Found {
    pub index: Index,
    /// Bytes of the file that were fetched for the index.
    pub held: Vec<Bytes>,
    /// Bytes that were fetched in all.
    pub fetched: u64,
    /// The memory for a plan.
    pub memory: Held,
}

/// A hash tree with its superblock, all of its bytes, and the memory for a plan by it.
type Tree = (Superblock, Arc<[u8]>, Held);

impl Resolver<'_> {
    /// The index of casync or desync of a file of this size.
    pub fn chunks(&self, file: &File, size: u64) -> Result<Option<Found>> {
        let Some(found) = self.caibx(file)? else {
            return Ok(None);
        };
        let memory = self.memory(found.digest, found.size)?;
        let (bytes, fetched) = self.caibx_bytes(&found)?;
        let index = caibx::parse(&bytes[..], bytes.len() as u64, size);
        Ok(Some(Found {
            index: index.map_err(|why| self.bad(found.digest, why))?,
            held: Vec::new(),
            fetched,
            memory,
        }))
    }

    /// The descriptor of that index.
    pub fn caibx(&self, file: &File) -> Result<Option<Descriptor>> {
        let _place = self.place(|| format!("the index of {}", file.digest))?;
        let _documents = pool::documents();
        let Some((manifest, image)) = self.image_of(file)? else {
            return Ok(None);
        };
        self.find_caibx(file.digest, manifest, &image)
    }

    /// Its bytes, and how many of them were fetched.
    pub fn caibx_bytes(&self, caibx: &Descriptor) -> Result<(Vec<u8>, u64)> {
        let _place = self.place(|| format!("the index {}", caibx.digest))?;
        let _documents = pool::documents();
        let is_kept = self.is_kept(caibx.digest);
        let bytes = self.small_blob("index", caibx)?;
        let fetched = if is_kept { 0 } else { caibx.size };
        Ok((bytes, fetched))
    }

    /// The hash tree of a file of this size, by ranges.
    pub fn tree(&self, file: &File, size: u64) -> Result<Option<(Superblock, Found)>> {
        let head = 0..size.min(gpt::TABLE as u64);
        let Some(head) = self.range(file.digest, size, head)? else {
            return Ok(None);
        };
        let bad = |why| self.bad(file.digest, why);
        for HashTree { data, tree } in verity::hash_trees(&head).map_err(bad)? {
            // The partition may have no tree, and another one has.
            if let Some((superblock, bytes, memory)) =
                self.tree_at(file.digest, size, tree.start)?
            {
                let found = Found {
                    index: superblock.index(size, &data, bytes.clone()).map_err(bad)?,
                    fetched: (head.len() + bytes.len()) as u64,
                    held: vec![(0, head.into()), (tree.start, bytes)],
                    memory,
                };
                return Ok(Some((superblock, found)));
            }
        }
        let beside = {
            let _place = self.place(|| format!("the hash tree of {}", file.digest))?;
            let _documents = pool::documents();
            let image = self.image_of(file)?;
            image.and_then(|(_, image)| tree_beside(file.digest, &image).cloned())
        };
        let Some(beside) = beside else {
            return Ok(None);
        };
        let found = self.tree_at(beside.digest, beside.size, 0)?;
        let Some((superblock, bytes, memory)) = found else {
            return Ok(None);
        };
        let fetched = (head.len() + bytes.len()) as u64;
        let found = Found {
            index: superblock.index(size, &(0..size), bytes).map_err(bad)?,
            fetched,
            held: vec![(0, head.into())],
            memory,
        };
        Ok(Some((superblock, found)))
    }

    /// Superblock and hash tree, which begin at this byte of a blob.
    fn tree_at(&self, blob: Digest, size: u64, at: u64) -> Result<Option<Tree>> {
        let Some(mut bytes) = self.range(blob, size, at..at.saturating_add(SUPERBLOCK as u64))?
        else {
            return Ok(None);
        };
        let Ok(superblock) = Superblock::parse(&bytes) else {
            return Ok(None);
        };
        let length = superblock.len();
        let memory = self.memory(blob, length as u64)?;
        if length > bytes.len() {
            let rest = at + SUPERBLOCK as u64..at.saturating_add(length as u64);
            let Some(rest) = self.range(blob, size, rest)? else {
                return Ok(None);
            };
            bytes.extend_from_slice(&rest);
        }
        Ok(Some((superblock, bytes.into(), memory)))
    }

    /// A range of a blob; `None` if the blob is shorter, or if its source has no ranges.
    fn range(&self, blob: Digest, size: u64, range: Range<u64>) -> Result<Option<Vec<u8>>> {
        if range.end > size || range.is_empty() {
            return Ok(None);
        }
        match self.source.blob_range(blob, size, range)? {
            Part::Range(bytes) => Ok(Some(bytes)),
            Part::Whole(_) => Ok(None),
        }
    }

    /// The manifest that offers a file, and its digest.
    fn image_of(&self, file: &File) -> Result<Option<(Digest, Image)>> {
        let Some(manifest) = file.manifest else {
            return Ok(None);
        };
        match self.named(manifest)? {
            Manifest::Image(image) => Ok(Some((manifest, image))),
            Manifest::Index(_) => Ok(None),
        }
    }

    fn find_caibx(
        &self,
        file: Digest,
        manifest: Digest,
        image: &Image,
    ) -> Result<Option<Descriptor>> {
        let title = title_of(file, image).map(|title| format!("{title}.caibx"));
        let has_title = |layer: &&Descriptor| title.is_some() && layer.title() == title.as_deref();
        if let Some(beside) = image.layers.iter().find(has_title) {
            return Ok(Some(beside.clone()));
        }
        let mut attached = self.source.referrers(manifest)?;
        attached.retain(|one| may_be_caibx(one.artifact_type.as_deref()));
        for descriptor in attached.iter().take(MAX_ATTACHED) {
            let Manifest::Image(attached) = self.named(descriptor.digest)? else {
                continue;
            };
            // Anybody could have written the list of referrers.
            let is_caibx = attached.artifact_type.as_deref() == Some(CAIBX);
            if attached.subject != Some(manifest) || !is_caibx {
                continue;
            }
            let found = attached.layers.iter().find(has_title);
            let only = || match &attached.layers[..] {
                [only] => Some(only),
                _ => None,
            };
            if let Some(found) = found.or_else(only) {
                return Ok(Some(found.clone()));
            }
        }
        Ok(None)
    }

    /// The memory for a plan by an index of this size, and for the bytes of an older version and of the file that are hashed.
    fn memory(&self, index: Digest, bytes: u64) -> Result<Held> {
        if bytes > MAX_INDEX {
            let why = format!("it has {bytes} bytes, expected at most {MAX_INDEX}");
            return Err(self.bad(index, why));
        }
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let bytes = OF_A_PLAN * bytes + 2 * MAX_CHUNK as usize;
        let bytes = bytes.min(plan::MAX_MEMORY);
        WINDOWS.take(bytes).ok_or_else(|| Error::NoMemory {
            what: format!("a plan of {bytes} bytes"),
            limit: WINDOWS.limit(),
        })
    }

    fn bad(&self, digest: Digest, why: String) -> Error {
        Error::BadImage {
            what: format!("the index of {digest} in {}", self.source.name()),
            why,
        }
    }
}

/// Whether an entry in a list of referrers may be an index. Lists that go-containerregistry writes have the type of the
/// config in place of that of the artifact.
fn may_be_caibx(artifact_type: Option<&str>) -> bool {
    matches!(artifact_type, None | Some(CAIBX | OCI_EMPTY))
}

fn title_of(file: Digest, image: &Image) -> Option<&str> {
    let own = image.layers.iter().find(|layer| layer.digest == file);
    own?.title()
}

/// The layer with the hash tree of a file.
fn tree_beside(file: Digest, image: &Image) -> Option<&Descriptor> {
    let title = title_of(file, image)?;
    let companion = format!("{}.verity", suffix::stem_without_kind(title));
    let is_tree = |other: &str| other == companion || is_split_tree(title, other);
    let mut layers = image.layers.iter();
    layers.find(|layer| layer.title().is_some_and(is_tree))
}

/// Whether `other` is the partition with the hash tree of `title`, of an image that mkosi has split: `os.usr-x86-64.raw` and
/// `os.usr-x86-64-verity.raw`. Each name may have the UUID of its partition.
fn is_split_tree(title: &str, other: &str) -> bool {
    let is_uuid = |part: &str| {
        let digits = part.bytes().filter(|byte| *byte != b'-');
        digits.clone().count() == 32 && digits.clone().all(|byte| byte.is_ascii_hexdigit())
    };
    let parts = |name: &str| -> Vec<String> {
        let parts = name.split('.').filter(|part| !is_uuid(part));
        parts.map(str::to_owned).collect()
    };
    let (data, tree) = (parts(title), parts(other));
    let mut differing = data.iter().zip(&tree).filter(|(one, other)| one != other);
    let is_partition = |one: &str| one.starts_with("usr-") || one.starts_with("root-");
    data.len() == tree.len()
        && matches!(
            (differing.next(), differing.next()),
            (Some((one, other)), None) if is_partition(one) && *other == format!("{one}-verity")
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_tree_of_a_split_image_is_known_by_its_name() {
        let uuid = "6d1e5a0e-8b9e-4c9b-9b0c-000000000001";
        let other_uuid = "6d1e5a0e8b9e4c9b9b0c000000000002";
        for (title, other, expected) in [
            ("os_1.usr-x86-64.raw", "os_1.usr-x86-64-verity.raw", true),
            ("os_1.root-arm64.raw", "os_1.root-arm64-verity.raw", true),
            (
                &format!("os_1.usr-x86-64.{uuid}.raw"),
                &format!("os_1.usr-x86-64-verity.{other_uuid}.raw"),
                true,
            ),
            ("os_1.usr-x86-64.raw", "os_1.usr-arm64-verity.raw", false),
            (
                "os_1.usr-x86-64.raw",
                "os_1.usr-x86-64-verity-sig.raw",
                false,
            ),
            ("os_1.usr-x86-64.raw", "os_2.usr-x86-64-verity.raw", false),
            ("os_1.usr-x86-64.raw", "os_1.usr-x86-64.raw", false),
            ("os_1.esp.raw", "os_1.esp-verity.raw", false),
        ] {
            assert_eq!(is_split_tree(title, other), expected, "{title} {other}");
        }
    }
}
