//! A directory as programs see it: `GET /<repository>/` with `Accept: application/json`, and `list --json`. The pages
//! of `html/` show the same.

use std::borrow::Cow;
use std::cmp::Ordering;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::address::Located;
use crate::artifact::LeftOutKind;
use crate::digest::Digest;
use crate::listing::{self, Incomplete};
use crate::name::{FileName, Tag};
use crate::platform::Architecture;
use crate::printable::in_json;
use crate::snapshot::Snapshot;
use crate::version;

/// Rough size, in bytes, of the JSON of files, and of the JSON of skipped tags. `SHA256SUMS` has all files.
const MAX_FILES: usize = 2 << 20;
const MAX_LEFT_OUT: usize = 512 << 10;
/// Size of the JSON of one entry without its texts.
const OF_ONE: usize = 230;

/// A directory. Unknown values are null.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Overview {
    /// The directory as a URL names it: `kubernetes`, `ghcr.io/acme/k8s:v1`.
    pub repository: String,
    /// The repository or layout that it comes from. Of a merged directory all of them, with `, ` between.
    pub source: String,
    /// Who signed the list, if it is signed.
    pub signed: Option<SignedBy>,
    /// The part that is missing, if tags were not answered.
    pub incomplete: Option<Incomplete>,
    /// When it was listed, in the form of RFC 3339.
    pub listed: String,
    /// The newest first, by the order of the UAPI.
    pub files: Vec<File>,
    /// The tags, or parts of them, that are not listed; the newest first.
    pub left_out: Vec<LeftOut>,
    /// The numbers of older entries that do not fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub omitted: Option<Omitted>,
}

/// Whose key a list is signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SignedBy {
    /// The publisher's.
    Publisher,
    /// This service's.
    Machine,
}

/// A file on offer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct File {
    pub name: FileName,
    /// The text that `@v` in a transfer file matches.
    pub version: Option<String>,
    /// In systemd's spelling, which `%a` stands for.
    pub architecture: Option<Architecture>,
    /// In bytes.
    pub size: Option<u64>,
    /// The digest of its bytes.
    pub digest: Digest,
    /// The tag that offers it.
    pub tag: Option<Tag>,
    /// The keys or identities that its signatures were verified by.
    pub verified_by: Option<String>,
}

/// A tag or a part of one that is not listed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeftOut {
    pub tag: Tag,
    /// The name of the file, if it is one.
    pub name: Option<FileName>,
    /// The digest of the manifest that the tag leads to.
    pub digest: Option<Digest>,
    pub reason: String,
    pub kind: LeftOutKind,
    /// When it is listed, if that is known, in the form of RFC 3339.
    pub until: Option<String>,
}

/// The numbers of entries that do not fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Omitted {
    pub files: usize,
    pub left_out: usize,
}

impl Overview {
    /// The overview of a snapshot. `not_in_list`: the tags that a publisher's list lacks.
    pub fn new(located: &Located, snapshot: &Snapshot, not_in_list: &[listing::LeftOut]) -> Self {
        let sources = snapshot.sources.iter().map(|source| source.name());
        let signed = snapshot.signed.as_ref();
        let is_signed = signed.is_some_and(|signed| !signed.signatures.is_empty());
        // In a directory of all tags each file has the name of its tag. In the others it may have a title.
        let has_tags = signed.is_none() && located.directory.view.is_of_tags();
        let rows = snapshot.files().map(|(name, file)| {
            let base = (!has_tags).then(|| located.places[file.source].0.as_str());
            Row::new(name, file, base)
        });
        let left_out = snapshot.listing.left_out.iter().chain(not_in_list);
        let now = Timestamp::now();
        let listed = now.checked_sub(snapshot.age()).unwrap_or(now);
        Self {
            repository: located.to_string(),
            source: sources.collect::<Vec<_>>().join(", "),
            signed: match is_signed {
                true => Some(SignedBy::Publisher),
                false => snapshot.machine().map(|_| SignedBy::Machine),
            },
            incomplete: snapshot.listing.incomplete,
            listed: format!("{listed:.0}"),
            ..Self::of(rows, left_out)
        }
    }

    /// The overview of these files; nothing else is known.
    pub fn of<'a>(
        rows: impl Iterator<Item = Row<'a>>,
        left_out: impl Iterator<Item = &'a listing::LeftOut>,
    ) -> Self {
        let (files, omitted_files) = newest(rows, MAX_FILES);
        let (left_out, omitted_left_out) = newest(left_out, MAX_LEFT_OUT);
        let omitted = Omitted {
            files: omitted_files,
            left_out: omitted_left_out,
        };
        Self {
            files: files.into_iter().map(File::from).collect(),
            left_out: left_out.into_iter().map(LeftOut::from).collect(),
            omitted: Some(omitted).filter(|omitted| *omitted != Omitted::default()),
            ..Self::default()
        }
    }

    /// The text of it.
    pub fn text(&self) -> String {
        let mut json = serde_json::to_string(self).expect("its keys are texts");
        json.push('\n');
        match in_json(&json) {
            Cow::Borrowed(_) => json,
            Cow::Owned(escaped) => escaped,
        }
    }
}

/// Something that has a version.
trait Versioned {
    /// The version, or nothing.
    fn version(&self) -> &str;
    /// Decides between two of one version.
    fn name(&self) -> &str;
    /// The size of its texts in JSON, roughly.
    fn size(&self) -> usize;

    /// The newest first, then by name.
    fn order(&self, other: &Self) -> Ordering {
        version::compare(other.version(), self.version())
            .then_with(|| self.name().cmp(other.name()))
    }
}

/// The newest of them that have room together, and the number of the others.
fn newest<T: Versioned>(all: impl Iterator<Item = T>, room: usize) -> (Vec<T>, usize) {
    let (mut found, mut size, mut omitted) = (Vec::new(), 0, 0);
    for one in all {
        size += OF_ONE + one.size();
        found.push(one);
        // Not each time, for they are sorted for it.
        if size > room + room / 2 {
            omitted += keep_newest(&mut found, room);
            size = room;
        }
    }
    omitted += keep_newest(&mut found, room);
    (found, omitted)
}

/// Sorts them, and keeps the first that have room together. Returns the number of the others.
fn keep_newest<T: Versioned>(found: &mut Vec<T>, mut room: usize) -> usize {
    found.sort_by(T::order);
    let without_room = |one: &T| match room.checked_sub(OF_ONE + one.size()) {
        Some(left) => {
            room = left;
            false
        }
        None => true,
    };
    let kept = found.iter().position(without_room).unwrap_or(found.len());
    let omitted = found.len() - kept;
    found.truncate(kept);
    omitted
}

/// The size of a text in JSON at most: a character that is escaped takes twelve bytes.
fn size_of_text(text: &str) -> usize {
    let size = |c: char| if c.is_ascii_graphic() { 1 } else { 12 };
    text.chars().map(size).sum()
}

/// A file, and what its tag or its name tells of it.
pub struct Row<'a> {
    name: Cow<'a, FileName>,
    file: Cow<'a, listing::File>,
    version: Option<String>,
    architecture: Option<Architecture>,
}

impl<'a> Row<'a> {
    /// `base`: the beginning of its name, if that tells its version rather than its tag.
    pub fn new(name: Cow<'a, FileName>, file: Cow<'a, listing::File>, base: Option<&str>) -> Self {
        let (version, architecture) = match base {
            None => {
                let (version, architecture) = version::of_tag(&file.tag);
                (Some(version.to_owned()), architecture)
            }
            Some(base) => {
                let (version, architecture) = version::of_name(&name, base);
                (version.map(str::to_owned), architecture)
            }
        };
        Self {
            architecture: file.architecture.or(architecture),
            version,
            name,
            file,
        }
    }
}

impl Versioned for Row<'_> {
    fn version(&self) -> &str {
        self.version.as_deref().unwrap_or_default()
    }

    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn size(&self) -> usize {
        let accepted = self.file.accepted.as_ref();
        let verified_by = accepted.map_or(0, |one| size_of_text(&one.by));
        let names = size_of_text(self.name()) + size_of_text(self.version());
        names + self.file.tag.as_str().len() + verified_by
    }
}

impl From<Row<'_>> for File {
    fn from(row: Row<'_>) -> Self {
        Self {
            size: row.file.size,
            verified_by: row.file.accepted.as_ref().map(|one| one.by.clone()),
            digest: row.file.digest,
            // A publisher's list names no manifests.
            tag: row.file.manifest.map(|_| row.file.tag.clone()),
            name: row.name.into_owned(),
            version: row.version,
            architecture: row.architecture,
        }
    }
}

impl Versioned for &listing::LeftOut {
    fn version(&self) -> &str {
        version::of_tag(&self.tag).0
    }

    fn name(&self) -> &str {
        self.tag.as_str()
    }

    fn size(&self) -> usize {
        let name = self
            .name
            .as_ref()
            .map_or(0, |name| size_of_text(name.as_str()));
        self.tag.as_str().len() + name + size_of_text(&self.reason)
    }
}

impl From<&listing::LeftOut> for LeftOut {
    fn from(one: &listing::LeftOut) -> Self {
        Self {
            tag: one.tag.clone(),
            name: one.name.clone(),
            digest: one.digest,
            reason: one.reason.clone(),
            kind: one.kind,
            until: one.until.map(|until| format!("{until:.0}")),
        }
    }
}
