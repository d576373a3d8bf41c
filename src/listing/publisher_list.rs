//! A list that a publisher wrote and signed.

use std::fmt;
use std::sync::Arc;

use super::File;
use crate::artifact::Content;
use crate::digest::Digest;
use crate::memory::Held;
use crate::name::{FileName, Tag};
use crate::trust::Accepted;

/// A list as its publisher wrote and signed it, byte for byte, with the places of its lines by name. It takes
/// little more memory than its bytes.
pub struct PublisherList {
    digest: Digest,
    bytes: Vec<u8>,
    /// The start of each name's line, in the order of the names. Of two lines with one name the first counts.
    lines: Box<[u32]>,
    /// The memory that it takes, if that is counted.
    _held: Option<Held>,
}

impl PublisherList {
    /// Finds the names. Lines that systemd refuses are ignored here.
    ///
    /// `held`: [`PublisherList::weight`] of so many bytes.
    pub fn new(digest: Digest, bytes: Vec<u8>, held: Option<Held>) -> Self {
        let mut lines = Vec::new();
        let mut start = 0;
        for line in bytes.split(|byte| *byte == b'\n') {
            if let (Ok(start), Some(_)) = (u32::try_from(start), parse_line(line)) {
                lines.push(start);
            }
            start += line.len() + 1;
        }
        let name = |start: &u32| name_in(line_at(&bytes, *start));
        lines.sort_unstable_by(|one, other| name(one).cmp(name(other)).then(one.cmp(other)));
        lines.dedup_by(|one, other| name(one) == name(other));
        Self {
            digest,
            lines: lines.into(),
            bytes,
            _held: held,
        }
    }

    /// The digest of its bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The list itself.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The number of names.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// The file of this name. Its size is not known.
    /// `accepted`: the signatures by which its artifact was accepted.
    pub fn get(&self, name: &FileName, accepted: Option<&Arc<Accepted>>) -> Option<File> {
        let of = |start: &u32| name_in(line_at(&self.bytes, *start));
        let found = self
            .lines
            .binary_search_by(|start| of(start).cmp(name.as_str().as_bytes()))
            .ok()?;
        let (_, file) = self.line(self.lines[found], accepted)?;
        Some(file)
    }

    /// All its files, sorted by name.
    pub fn files<'a>(
        &'a self,
        accepted: Option<&'a Arc<Accepted>>,
    ) -> impl Iterator<Item = (FileName, File)> + 'a {
        let lines = self.lines.iter();
        lines.filter_map(move |start| self.line(*start, accepted))
    }

    /// The memory that a list of so many bytes takes at most: for each line, which has 68 bytes or more, the place
    /// of its name.
    pub fn weight(bytes: u64) -> usize {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        bytes.saturating_add(bytes / 16)
    }

    fn line(&self, start: u32, accepted: Option<&Arc<Accepted>>) -> Option<(FileName, File)> {
        let (digest, name) = parse_line(line_at(&self.bytes, start))?;
        let file = File {
            digest,
            size: None,
            source: 0,
            tag: Tag::of_listing(),
            manifest: None,
            architecture: None,
            is_of_index: false,
            content: Content::Blob,
            accepted: accepted.cloned(),
        };
        Some((name, file))
    }
}

impl AsRef<[u8]> for PublisherList {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for PublisherList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublisherList({} names)", self.len())
    }
}

/// The line that begins there, without its end.
fn line_at(list: &[u8], start: u32) -> &[u8] {
    let rest = list.get(start as usize..).unwrap_or_default();
    let end = rest.iter().position(|byte| *byte == b'\n');
    &rest[..end.unwrap_or(rest.len())]
}

/// The name in a line that [`parse_line`] takes: behind 64 digits and two characters.
fn name_in(line: &[u8]) -> &[u8] {
    line.get(66..).unwrap_or_default()
}

/// `<64 hex>  <name>`, or ` *` before the name, as sha256sum writes it.
fn parse_line(line: &[u8]) -> Option<(Digest, FileName)> {
    let line = std::str::from_utf8(line).ok()?;
    let (hex, rest) = line.split_at_checked(64)?;
    let name = rest
        .strip_prefix("  ")
        .or_else(|| rest.strip_prefix(" *"))?;
    let digest = format!("sha256:{}", hex.to_ascii_lowercase())
        .parse()
        .ok()?;
    Some((digest, name.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publishers_list_is_read_as_sha256sum_writes_it() {
        let hex = Digest::of(b"a").hex();
        let list = format!(
            "{hex}  one.raw\n{} *two.raw\n{hex}  one.raw\n{hex} bad.raw\nnonsense\n{hex}  ../up\n\n{hex}  last.raw",
            hex.to_uppercase()
        );
        let list = PublisherList::new(Digest::of(b""), list.into_bytes(), None);
        let names: Vec<_> = list.files(None).map(|(name, _)| name.to_string()).collect();
        assert_eq!(names, ["last.raw", "one.raw", "two.raw"]);
        for (name, file) in list.files(None) {
            assert_eq!(file.digest, Digest::of(b"a"), "{name}");
            assert_eq!(list.get(&name, None), Some(file), "{name}");
        }
        for name in ["bad.raw", "one", "one.raw.xz", "z"] {
            assert_eq!(list.get(&name.parse().unwrap(), None), None, "{name}");
        }
    }

    #[test]
    fn of_two_lines_with_one_name_the_first_counts() {
        let (first, second) = (Digest::of(b"1"), Digest::of(b"2"));
        let list = format!(
            "{}  a\n{}  b\n{} *a\n",
            first.hex(),
            second.hex(),
            second.hex()
        );
        let list = PublisherList::new(Digest::of(b""), list.into_bytes(), None);
        let found: Vec<_> = list
            .files(None)
            .map(|(name, file)| (name.to_string(), file.digest))
            .collect();
        assert_eq!(found, [("a".to_owned(), first), ("b".to_owned(), second)]);
    }

    #[test]
    fn a_signed_list_takes_little_more_memory_than_its_bytes() {
        let lines = (0..10_000).map(|n| format!("{}  {n}\n", Digest::of(b"").hex()));
        let bytes = lines.collect::<String>().into_bytes();
        let size = bytes.len();
        let list = PublisherList::new(Digest::of(b""), bytes, None);
        assert_eq!(list.len(), 10_000);
        let taken = list.bytes.len() + size_of_val(&list.lines[..]);
        assert!(taken <= PublisherList::weight(size as u64), "{taken}");
    }
}
