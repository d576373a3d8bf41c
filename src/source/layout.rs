//! An OCI layout directory: `oci-layout`, `index.json` and `blobs/sha256/`.
//!
//! Spec: <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use log::info;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Body, Download, Origins, Part, Reference, Source, StoredManifest};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::{
    Annotations, DOCKER_LIST, Descriptor, Image, Index, MAX_SIZE, Manifest, OCI_INDEX, REF_NAME,
    Unusable,
};
use crate::name::{RepositoryAddress, Tag};

/// Depth to which indexes without a name are read.
const MAX_DEPTH: usize = 4;
/// Most indexes without a name that are read.
const MAX_INDEXES: usize = 256;
/// Most manifests without a name that are read for their subjects, and most indexes with a name that are read for
/// their entries.
const MAX_NAMELESS: usize = 4096;
/// Most entries without a usable name that are reported one by one.
const MAX_UNTAGGED: usize = 20;

/// An OCI layout directory, as it was when its index was read.
pub struct Layout {
    root: PathBuf,
    tags: BTreeMap<Tag, Entry>,
    /// The indexes that have a tag.
    named_indexes: Vec<Digest>,
    /// Manifests in the index without a tag.
    nameless: Vec<Descriptor>,
    /// Those of them that are skipped unless they belong to another manifest, and why.
    untagged: Vec<(Digest, String)>,
    /// Those of them that are attached to another manifest, by its digest. Read when first asked for.
    attached: OnceLock<HashMap<Digest, Vec<Descriptor>>>,
}

/// The entry of a tag in the index.
struct Entry {
    /// Or why it cannot be used.
    digest: Result<Digest, String>,
    annotations: Annotations,
}

impl Layout {
    /// Reads the directory's index.
    pub fn open(root: &Path) -> Result<Self> {
        let bad = |why: String| bad(root, why);
        if root.is_file() {
            let why = "this is a file, expected a directory; an archive must be unpacked first";
            return Err(bad(why.into()));
        }
        let LayoutFile {
            image_layout_version: version,
        } = serde_json::from_slice(&read(&root.join("oci-layout"))?)
            .map_err(|error| bad(format!("its oci-layout file cannot be understood: {error}")))?;
        if !version.starts_with("1.") {
            return Err(bad(format!("its version is {version:?}, expected 1.0.0")));
        }
        let bytes = read(&root.join("index.json"))?;
        // zot writes no type, and null where there are no entries yet.
        let is_list = serde_json::from_slice::<List>(&bytes).is_ok();
        let index = Manifest::parse(is_list.then_some(OCI_INDEX), &bytes)
            .map_err(|why| bad(format!("its index.json cannot be understood: {why}")))?;
        let Manifest::Index(index) = index else {
            return Err(bad("its index.json is not an index".into()));
        };
        let mut layout = Self {
            root: root.to_owned(),
            tags: BTreeMap::new(),
            named_indexes: Vec::new(),
            nameless: Vec::new(),
            untagged: Vec::new(),
            attached: OnceLock::new(),
        };
        layout.take(index, 0, &mut HashSet::new());
        Ok(layout)
    }

    /// Notes the entries of an index, and the entries of nested indexes that have no name.
    fn take(&mut self, index: Index, depth: usize, seen: &mut HashSet<Digest>) {
        for Unusable { name, why } in index.unusable {
            match name.and_then(|name| tag_of(&name).ok()) {
                Some(tag) => self.note(tag, Err(why), Annotations::new()),
                None => info!("{}: {why}", self.name()),
            }
        }
        for entry in index.entries {
            let descriptor = entry.descriptor;
            let digest = descriptor.digest;
            let is_index = is_index(&descriptor);
            let tags_before = self.tags.len();
            let why = match descriptor.ref_name().map(tag_of) {
                Some(Ok(tag)) => {
                    if is_index {
                        self.named_indexes.push(digest);
                    }
                    self.note(tag, Ok(digest), descriptor.annotations);
                    continue;
                }
                Some(Err(why)) => Some(why),
                // An entry of a nested index belongs to that index.
                None if depth > 0 => None,
                None => Some(format!(
                    "the layout's index gives it no name; the annotation {REF_NAME} is missing"
                )),
            };
            if is_index && seen.len() <= MAX_INDEXES && seen.insert(digest) {
                match self.nested(digest, depth, seen.len()) {
                    Ok(nested) => self.take(nested, depth + 1, seen),
                    Err(error) => info!("{}: {}", self.name(), error.line()),
                }
            }
            if let Some(why) = why.filter(|_| self.tags.len() == tags_before) {
                self.untagged.push((digest, why));
            }
            self.nameless.push(descriptor);
        }
    }

    /// Notes the entry of a tag. Of two the first counts.
    fn note(&mut self, tag: Tag, digest: Result<Digest, String>, annotations: Annotations) {
        match self.tags.get(&tag) {
            None => drop(self.tags.insert(
                tag,
                Entry {
                    digest,
                    annotations,
                },
            )),
            Some(first) if first.digest == digest => {}
            Some(_) => info!(
                "{}: tag {tag} is the name of several entries of its index, the first one counts",
                self.name()
            ),
        }
    }

    /// The manifests in the indexes of tags.
    fn children(&self) -> HashSet<Digest> {
        let mut found = HashSet::new();
        let mut indexes = self.named_indexes.clone();
        for _ in 0..MAX_NAMELESS {
            let Some(index) = indexes.pop() else { break };
            for descriptor in self.entries_of(index).unwrap_or_default() {
                if found.insert(descriptor.digest) && is_index(&descriptor) {
                    indexes.push(descriptor.digest);
                }
            }
        }
        found
    }

    /// The entries of an index; none if it is no index.
    fn entries_of(&self, index: Digest) -> Result<Vec<Descriptor>> {
        let bytes = read(&self.blob_path(index))?;
        Ok(match Manifest::parse(None, &bytes) {
            Ok(Manifest::Index(Index { entries, .. })) => {
                entries.into_iter().map(|entry| entry.descriptor).collect()
            }
            _ => Vec::new(),
        })
    }

    /// A nested index: the `count`th, at this depth.
    fn nested(&self, digest: Digest, depth: usize, count: usize) -> Result<Index> {
        let bad = |why: String| bad(&self.blob_path(digest), why);
        if depth >= MAX_DEPTH {
            let why = format!("it is nested in more than {MAX_DEPTH} indexes, the limit");
            return Err(bad(why));
        }
        if count > MAX_INDEXES {
            let why =
                format!("it is not read, as {MAX_INDEXES} indexes were read before it, the limit");
            return Err(bad(why));
        }
        match Manifest::parse(None, &self.stored(digest)?.bytes)
            .map_err(|why| bad(format!("this index cannot be understood: {why}")))?
        {
            Manifest::Index(index) => Ok(index),
            Manifest::Image(_) => Err(bad(
                "the index lists it as an index, but it is a manifest".into()
            )),
        }
    }

    /// The manifests without a tag that are attached to another manifest.
    fn read_attached(&self) -> HashMap<Digest, Vec<Descriptor>> {
        let mut attached: HashMap<_, Vec<_>> = HashMap::new();
        if self.nameless.len() > MAX_NAMELESS {
            info!(
                "{}: of {} manifests without a name only {MAX_NAMELESS} are read",
                self.name(),
                self.nameless.len()
            );
        }
        for descriptor in self.nameless.iter().take(MAX_NAMELESS) {
            let parsed = match read(&self.blob_path(descriptor.digest)) {
                Ok(bytes) => Manifest::parse(None, &bytes),
                // The failure was logged when the nested index was read.
                Err(_) if is_index(descriptor) => continue,
                Err(error) => {
                    info!("{}: {}", self.name(), error.line());
                    continue;
                }
            };
            // A manifest that cannot be understood is attached to nothing.
            if let Ok(Manifest::Image(Image {
                subject: Some(subject),
                ..
            })) = parsed
            {
                attached
                    .entry(subject)
                    .or_default()
                    .push(descriptor.clone());
            }
        }
        attached
    }

    fn blob_path(&self, digest: Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// A manifest or index, verified.
    fn stored(&self, digest: Digest) -> Result<StoredManifest> {
        let path = self.blob_path(digest);
        let stored = StoredManifest {
            bytes: read(&path)?,
            media_type: None,
        };
        stored.verified(digest, || format!("manifest {}", path.display()))
    }

    fn digest(&self, reference: Reference<'_>) -> Result<Digest> {
        match reference {
            Reference::Tag(tag) => self.find(tag),
            Reference::Digest(digest) => Ok(digest),
        }
    }

    /// A blob's file, at one of its bytes.
    fn open_blob(&self, digest: Digest, size: u64, from: u64) -> Result<File> {
        let path = self.blob_path(digest);
        let (mut file, found) = open(&path)?;
        if found != size {
            return Err(Error::WrongSize {
                what: path.display().to_string(),
                expected: size,
                found,
            });
        }
        file.seek(SeekFrom::Start(from))
            .map_err(|error| cannot_read(&path, error))?;
        Ok(file)
    }

    fn find(&self, tag: &Tag) -> Result<Digest> {
        match self.tags.get(tag).map(|entry| &entry.digest) {
            Some(Ok(digest)) => Ok(*digest),
            Some(Err(why)) => Err(bad(&self.root.join("index.json"), why.clone())),
            None => Err(Error::NotOffered {
                what: format!("{}:{tag}", self.name()),
                why: "its index has no such name".to_owned(),
            }),
        }
    }
}

impl Source for Layout {
    fn name(&self) -> String {
        format!("oci:{}", self.root.display())
    }

    fn is_local(&self) -> bool {
        true
    }

    fn tags(&self) -> Result<Vec<Tag>> {
        Ok(self.tags.keys().cloned().collect())
    }

    fn untagged(&self) -> Vec<(Digest, String)> {
        if self.untagged.is_empty() {
            return Vec::new();
        }
        // Manifests of tags by another entry, those in an index, and those attached to another.
        let mut seen = self.children();
        seen.extend(self.tags.values().flat_map(|entry| &entry.digest));
        let attached = self.attached.get_or_init(|| self.read_attached());
        seen.extend(attached.values().flatten().map(|one| one.digest));
        let (mut told, mut untold) = (Vec::new(), None);
        for (digest, why) in &self.untagged {
            if !seen.insert(*digest) {
                continue;
            }
            if told.len() < MAX_UNTAGGED {
                told.push((*digest, format!("manifest {digest}: {why}")));
            } else {
                untold.get_or_insert((*digest, 0)).1 += 1;
            }
        }
        told.extend(untold.map(|(digest, n)| {
            let why = format!("{n} more entries of the layout's index have no usable name");
            (digest, why)
        }));
        told
    }

    fn digest_of(&self, tag: &Tag) -> Result<Option<Digest>> {
        self.find(tag).map(Some)
    }

    fn manifest(&self, reference: Reference<'_>) -> Result<StoredManifest> {
        self.stored(self.digest(reference)?)
    }

    fn blob(&self, digest: Digest, size: u64, range: Range<u64>, _: &Origins) -> Result<Body> {
        let rest = self.open_blob(digest, size, range.start)?;
        Ok(Body {
            reader: Box::new(rest.take(range.end - range.start)),
            starts_at: range.start,
            ends_at: range.end,
        })
    }

    fn whole_blob(&self, digest: Digest, _: &Origins) -> Result<(u64, Box<dyn Read + Send>)> {
        let (file, size) = open(&self.blob_path(digest))?;
        Ok((size, Box::new(file)))
    }

    fn blob_range(&self, digest: Digest, size: u64, range: Range<u64>) -> Result<Part> {
        let mut bytes = Vec::new();
        let expected = range.end - range.start;
        self.open_blob(digest, size, range.start)?
            .take(expected)
            .read_to_end(&mut bytes)
            .map_err(|error| cannot_read(&self.blob_path(digest), error))?;
        match bytes.len() as u64 {
            found if found == expected => Ok(Part::Range(bytes)),
            found => Err(Error::WrongSize {
                what: self.blob_path(digest).display().to_string(),
                expected: size,
                found: range.start + found,
            }),
        }
    }

    fn holds(&self, blob: Digest) -> Result<bool> {
        match open(&self.blob_path(blob)) {
            Ok(_) => Ok(true),
            Err(Error::BadLayout { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn referrers(&self, subject: Digest) -> Result<Vec<Descriptor>> {
        // Referrers are entries of the index without a tag, or listed under the fallback tag.
        let attached = self.attached.get_or_init(|| self.read_attached());
        let mut found = attached.get(&subject).cloned().unwrap_or_default();
        if let Ok(index) = self.find(&Tag::of_referrers(&subject)) {
            found.extend(self.entries_of(index)?);
        }
        Ok(found)
    }

    fn companion(&self, tag: &Tag) -> Result<Option<StoredManifest>> {
        match self.find(tag) {
            Ok(digest) => self.stored(digest).map(Some),
            Err(_) => Ok(None),
        }
    }

    fn blob_url(&self, _: Digest) -> Result<Option<String>> {
        Ok(None)
    }

    fn blob_request(&self, digest: Digest) -> Result<Download> {
        let url = format!("file://{}", self.blob_path(digest).display());
        Ok(Download {
            url,
            accept: None,
            authorization: None,
        })
    }

    fn manifest_request(&self, reference: Reference<'_>, _: &str) -> Result<Download> {
        self.blob_request(self.digest(reference)?)
    }

    fn annotations(&self, tag: &Tag) -> Annotations {
        let entry = self.tags.get(tag);
        entry
            .map(|entry| entry.annotations.clone())
            .unwrap_or_default()
    }
}

fn is_index(descriptor: &Descriptor) -> bool {
    matches!(descriptor.media_type.as_str(), OCI_INDEX | DOCKER_LIST)
}

/// The tag that an entry's name gives it. It may be a whole reference, as podman, skopeo and crane write:
/// `ghcr.io/acme/tools:v1`.
fn tag_of(name: &str) -> Result<Tag, String> {
    let wrong = match name.parse() {
        Ok(tag) => return Ok(tag),
        Err(wrong) => wrong,
    };
    let name = match name.split_once('@') {
        Some((name, digest)) if digest.parse::<Digest>().is_ok() => name,
        _ => name,
    };
    match name.rsplit_once(':') {
        Some((repository, tag)) if repository.parse::<RepositoryAddress>().is_ok() => tag.parse(),
        _ => Err(wrong),
    }
}

/// `index.json`, as far as it tells that it is one.
#[derive(Deserialize)]
struct List {
    #[serde(rename = "manifests")]
    _manifests: IgnoredAny,
}

/// `oci-layout`
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayoutFile {
    image_layout_version: String,
}

/// A regular file and its size. Of a named pipe even the opening would wait.
fn open(path: &Path) -> Result<(File, u64)> {
    let metadata = path.metadata().map_err(|error| cannot_read(path, error))?;
    if !metadata.is_file() {
        return Err(bad(path, "this is not a regular file".into()));
    }
    let file = File::open(path).map_err(|error| cannot_read(path, error))?;
    Ok((file, metadata.len()))
}

/// A file that is no larger than a manifest may be.
fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?
        .0
        .take(MAX_SIZE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| cannot_read(path, error))?;
    if bytes.len() as u64 > MAX_SIZE {
        let limit = "which is the limit for an index or manifest";
        return Err(bad(
            path,
            format!("it has more than {MAX_SIZE} bytes, {limit}"),
        ));
    }
    Ok(bytes)
}

fn bad(path: &Path, why: String) -> Error {
    Error::BadLayout {
        path: path.to_owned(),
        why,
    }
}

fn cannot_read(path: &Path, cause: io::Error) -> Error {
    match cause.kind() {
        io::ErrorKind::NotFound => bad(path, "there is no such file in it".into()),
        _ => Error::File {
            path: path.to_owned(),
            cause: Arc::new(cause),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_manifest_by_digest_has_that_digest() {
        let name = format!("sysext-oci-proxy-layout-{}", std::process::id());
        let root = std::env::temp_dir().join(name);
        fs::create_dir_all(root.join("blobs/sha256")).unwrap();
        fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let (right, wrong) = (Digest::of(b"right"), Digest::of(b"wrong"));
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"m","size":5,"digest":"{wrong}","annotations":{{"{REF_NAME}":"v1"}}}}]}}"#
        );
        fs::write(root.join("index.json"), index).unwrap();
        let layout = Layout::open(&root).unwrap();
        for digest in [right, wrong] {
            fs::write(layout.blob_path(digest), b"right").unwrap();
        }
        let manifest = |reference| layout.manifest(reference);
        let by_digest = [right, wrong].map(|digest| manifest(Reference::Digest(digest)));
        let by_tag = manifest(Reference::Tag(&"v1".parse().unwrap()));
        fs::remove_dir_all(&root).unwrap();
        let [right, wrong] = by_digest;
        assert_eq!(right.unwrap().bytes, b"right");
        for wrong in [wrong, by_tag] {
            assert!(matches!(wrong, Err(Error::WrongBytes { .. })), "{wrong:?}");
        }
    }
}
