//! A repository in memory: blobs, manifests and tags; and the expected listing of it. The fake
//! registry serves it, the layout writer puts it on disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
pub const OCI_TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// 64 lowercase hex digits.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// `sha256:` and 64 lowercase hex digits.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", sha256(bytes))
}

#[derive(Clone)]
pub struct Manifest {
    pub media_type: String,
    pub bytes: Arc<[u8]>,
}

/// Blobs and manifests by digest, digests by tag.
#[derive(Clone, Default)]
pub struct Repository {
    /// It answers with what is attached to a manifest; a registry without the referrers API says 404.
    pub has_referrers_api: bool,
    pub blobs: BTreeMap<String, Arc<[u8]>>,
    pub manifests: BTreeMap<String, Manifest>,
    pub tags: BTreeMap<String, String>,
}

impl Repository {
    /// Stores a blob and returns its descriptor.
    pub fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = digest(bytes);
        self.blobs.insert(digest.clone(), bytes.into());
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// Stores a manifest or index exactly as it stands and returns its descriptor.
    pub fn manifest(&mut self, bytes: &[u8]) -> Value {
        let media_type = serde_json::from_slice::<Value>(bytes)
            .ok()
            .and_then(|value| Some(value.get("mediaType")?.as_str()?.to_owned()))
            .unwrap_or_else(|| OCI_MANIFEST.to_owned());
        let digest = digest(bytes);
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
        self.manifests.insert(
            digest,
            Manifest {
                media_type,
                bytes: bytes.into(),
            },
        );
        descriptor
    }

    /// Stores a manifest or index under a tag.
    pub fn tag(&mut self, tag: &str, manifest: &[u8]) {
        let descriptor = self.manifest(manifest);
        self.point(tag, &descriptor);
    }

    /// The artifact that `oras push REPOSITORY:TAG TITLE` makes of a plain file.
    pub fn oras_push(&mut self, tag: &str, title: &str, bytes: &[u8]) {
        let artifact = self.oras_artifact(title, bytes);
        self.point(tag, &artifact);
    }

    fn oras_artifact(&mut self, title: &str, bytes: &[u8]) -> Value {
        let layer = self.file(OCI_TAR, title, bytes);
        let created = json!({"org.opencontainers.image.created": "2026-01-02T03:04:05Z"});
        self.artifact(&[layer], json!({"annotations": created}))
    }

    /// Stores a file and returns its layer, as `oras push TITLE:TYPE` writes it.
    pub fn file(&mut self, media_type: &str, title: &str, bytes: &[u8]) -> Value {
        let mut layer = self.blob(media_type, bytes);
        layer["annotations"] = json!({"org.opencontainers.image.title": title});
        layer
    }

    /// Stores a manifest of layers, with these fields besides, and returns its descriptor.
    pub fn artifact(&mut self, layers: &[Value], more: Value) -> Value {
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": "application/vnd.unknown.artifact.v1",
            "config": self.blob(OCI_EMPTY, b"{}"),
            "layers": layers,
        });
        self.manifest_with(manifest, more)
    }

    /// Stores an index of these entries, with these fields besides, and returns its descriptor.
    pub fn index_of(&mut self, entries: &[Value], more: Value) -> Value {
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
        self.manifest_with(index, more)
    }

    /// Attaches a manifest to another one: in a registry without the referrers API by the fallback tag, whose index
    /// says what go-containerregistry writes there.
    pub fn attach(&mut self, subject: &Value, layers: &[Value], more: Value) -> Value {
        let mut attached = self.artifact(layers, more);
        if !self.has_referrers_api {
            attached["artifactType"] = OCI_EMPTY.into();
            let tag = subject["digest"].as_str().unwrap().replace(':', "-");
            let entries = self.tags.get(&tag).map(|digest| {
                let index: Value = serde_json::from_slice(&self.manifests[digest].bytes).unwrap();
                index["manifests"].as_array().unwrap().clone()
            });
            let mut entries = entries.unwrap_or_default();
            entries.push(attached.clone());
            let index = self.index_of(&entries, json!({}));
            self.point(&tag, &index);
        }
        attached
    }

    /// The index of the manifests that are attached to one.
    pub fn referrers(&self, subject: &str) -> Value {
        let attached = self.manifests.iter().filter_map(|(digest, manifest)| {
            let read: Value = serde_json::from_slice(&manifest.bytes).ok()?;
            (read["subject"]["digest"] == subject).then(|| {
                json!({
                    "mediaType": manifest.media_type,
                    "digest": digest,
                    "size": manifest.bytes.len(),
                    "artifactType": read["artifactType"],
                })
            })
        });
        let attached: Vec<_> = attached.collect();
        json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": attached})
    }

    /// Stores a manifest or index, with these fields besides.
    fn manifest_with(&mut self, mut manifest: Value, more: Value) -> Value {
        let Value::Object(more) = more else {
            panic!("{more} is no set of fields")
        };
        manifest.as_object_mut().unwrap().extend(more);
        self.manifest(manifest.to_string().as_bytes())
    }

    /// Makes a tag lead to what a descriptor names.
    pub fn point(&mut self, tag: &str, descriptor: &Value) {
        let digest = descriptor["digest"].as_str().unwrap().to_owned();
        self.tags.insert(tag.to_owned(), digest);
    }

    /// An index whose entries are `oras push` files, one for each architecture (OCI's spelling).
    pub fn index(&mut self, tag: &str, files: &[(&str, &str, &[u8])]) {
        let entries: Vec<Value> = files
            .iter()
            .map(|(architecture, title, bytes)| {
                let mut entry = self.oras_artifact(title, bytes);
                entry["platform"] = json!({"os": "linux", "architecture": architecture});
                entry
            })
            .collect();
        let index = self.index_of(&entries, json!({}));
        self.point(tag, &index);
    }

    /// Writes everything as an OCI image layout.
    ///
    /// Format: <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>
    pub fn write_layout(&self, folder: &Path) {
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let manifests = self
            .manifests
            .iter()
            .map(|(digest, manifest)| (digest, &manifest.bytes));
        for (digest, bytes) in self.blobs.iter().chain(manifests) {
            fs::write(blobs.join(digest.strip_prefix("sha256:").unwrap()), bytes).unwrap();
        }
        let entries: Vec<Value> = self
            .tags
            .iter()
            .map(|(tag, digest)| {
                let manifest = &self.manifests[digest];
                json!({
                    "mediaType": manifest.media_type,
                    "digest": digest,
                    "size": manifest.bytes.len(),
                    "annotations": {"org.opencontainers.image.ref.name": tag},
                })
            })
            .collect();
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
        fs::write(folder.join("index.json"), index.to_string()).unwrap();
        fs::write(
            folder.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )
        .unwrap();
    }
}

/// A repository with the tags `v0`, `v1`, …, each a file of its own, and its listing.
pub fn versions(count: usize) -> (Repository, String) {
    let mut hello = Repository::default();
    let mut lines: Vec<_> = (0..count)
        .map(|version| {
            let bytes = format!("image {version}");
            hello.oras_push(&format!("v{version}"), "hello.raw", bytes.as_bytes());
            (format!("hello-v{version}.raw"), sha256(bytes.as_bytes()))
        })
        .collect();
    lines.sort();
    (
        hello,
        lines
            .iter()
            .map(|(name, sum)| format!("{sum}  {name}\n"))
            .collect(),
    )
}

pub fn line(bytes: &[u8], name: &str) -> String {
    format!("{}  {name}\n", sha256(bytes))
}

/// The lines of a listing, sorted by name.
pub fn lines(files: &[(&[u8], &str)]) -> String {
    let mut files = files.to_vec();
    files.sort_by_key(|(_, name)| *name);
    files
        .iter()
        .map(|(bytes, name)| line(bytes, name))
        .collect()
}

/// The only line of an empty listing. It changes every day.
pub fn empty_listing() -> String {
    best_before(2)
}

/// The line of a listing that is fresh until the day so many days from today begins, in UTC.
pub fn best_before(days: i64) -> String {
    let hours = jiff::SignedDuration::from_hours(24 * days);
    let date = jiff::Timestamp::now().checked_add(hours).unwrap();
    let date = date.to_zoned(jiff::tz::TimeZone::UTC).date();
    format!("{}  BEST-BEFORE-{date}\n", sha256(b""))
}

/// Bytes that do not repeat within any buffer.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Pushes a list and what signs it under the tag `SHA256SUMS`, and the files as blobs.
pub fn sign(hello: &mut Repository, list: &[u8], signatures: &[(&str, &[u8])], files: &[&[u8]]) {
    let mut layers = vec![hello.file(OCI_TAR, "SHA256SUMS", list)];
    for (name, bytes) in signatures {
        layers.push(hello.file(OCI_TAR, name, bytes));
    }
    for bytes in files {
        hello.blob("", bytes);
    }
    let artifact = hello.artifact(&layers, json!({}));
    hello.point("SHA256SUMS", &artifact);
}
