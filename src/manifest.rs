//! Manifests and indexes, as OCI and as Docker write them.
//!
//! Spec: <https://github.com/opencontainers/image-spec/blob/main/manifest.md> and `image-index.md`;
//! Docker's: <https://github.com/distribution/distribution/blob/main/docs/content/spec/manifest-v2-2.md>.
//! A manifest comes from strangers: nothing in it is believed until it is in one of these types.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::digest::Digest;

/// OCI's image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI's image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker's schema 2 manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// The types to ask for, always all four: docker-registry 2.8 and 3.1 answer 404 or convert to
/// schema 1 when the exact type is not among them (measured).
pub const ACCEPT: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];

/// Largest manifest that is read. The distribution-spec wants clients to take at least 4 MiB.
pub const MAX_SIZE: u64 = 8 << 20;

/// Entries of an index that are read, or layers. A layout of a repository may have an entry for each
/// version, its signature and its SBOM, a directory a layer for each file: ten thousand are no mistake. But
/// two bytes of JSON can be an entry, so the size alone is no limit.
const MAX_ITEMS: usize = 16 << 10;
/// Annotations that are read of one manifest and its descriptors together: eight for each possible layer. Nine bytes of JSON can be one, and in memory it takes ten times as much.
const MAX_ANNOTATIONS: usize = 8 * MAX_ITEMS;
/// Unusable entries without a name that are reported one by one. The others are only counted, in one more reason.
const MAX_TOLD: usize = 19;

/// Annotations: names and values as the publisher wrote them.
pub type Annotations = BTreeMap<String, String>;

/// The manifest that a tag or digest leads to.
#[derive(Clone, Debug, PartialEq)]
pub enum Manifest {
    /// One artifact.
    Image(Image),
    /// Several, mostly one for each platform.
    Index(Index),
}

/// One artifact: a config and layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// The type of the artifact. Container images have none.
    pub artifact_type: Option<String>,
    /// The config; `None` in manifests that have none.
    pub config: Option<Descriptor>,
    /// The content, in order.
    pub layers: Vec<Descriptor>,
    /// The manifest's own annotations.
    pub annotations: Annotations,
    /// The manifest that it is attached to.
    pub subject: Option<Digest>,
}

/// A list of artifacts.
#[derive(Clone, Debug, PartialEq)]
pub struct Index {
    /// Its entries, in order.
    pub entries: Vec<Entry>,
    /// The index's own annotations.
    pub annotations: Annotations,
    /// The entries that cannot be used: one by sha512, say. They do not spoil the others.
    pub unusable: Vec<Unusable>,
}

/// An entry of an index that cannot be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Unusable {
    /// The name that a layout's index gives it.
    pub name: Option<String>,
    /// Which one it is, and what is wrong with it.
    pub why: String,
}

/// The annotation that names an entry of a layout's `index.json`.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// An entry of an index.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The manifest or index it leads to.
    pub descriptor: Descriptor,
    /// The machine that it is for.
    pub platform: Option<Platform>,
}

/// The machine that an entry is for, in Go's spelling.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Platform {
    /// `linux`.
    #[serde(default, deserialize_with = "or_default")]
    pub os: String,
    /// `amd64`, `arm64`, …
    #[serde(default, deserialize_with = "or_default")]
    pub architecture: String,
    /// `v6`, `v7`, `v8`, …
    #[serde(default)]
    pub variant: Option<String>,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        (self.variant.iter()).try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl Platform {
    /// Whether it names no machine. Tools for artifacts write such a platform where they have none.
    fn is_empty(&self) -> bool {
        self.architecture.is_empty() && matches!(self.os.as_str(), "" | "linux")
    }
}

/// `null` is the zero value of Go.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A pointer to content: what it is, its digest and its size.
#[derive(Clone, Debug, PartialEq)]
pub struct Descriptor {
    /// The media type, without parameters.
    pub media_type: String,
    /// Of the bytes as they are stored.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// The descriptor's own annotations.
    pub annotations: Annotations,
    /// The content lies elsewhere (`urls`): a foreign layer.
    pub is_foreign: bool,
    /// The type of the artifact that a manifest is: lists of referrers have it.
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// Its name in a layout's index.
    pub fn ref_name(&self) -> Option<&str> {
        self.annotations.get(REF_NAME).map(String::as_str)
    }

    /// The file name that `oras push` noted.
    pub fn title(&self) -> Option<&str> {
        let title = self.annotations.get("org.opencontainers.image.title");
        title.map(String::as_str)
    }
}

impl Manifest {
    /// Reads a manifest or index.
    ///
    /// The `Content-Type` header tells which it is, else `mediaType`, else its shape; a
    /// header that names no manifest type (registries send JSON, octet-stream or nothing) counts as
    /// none. Where they disagree the manifest is refused, for someone else may read it differently
    /// (CVE-2021-41190).
    pub fn parse(content_type: Option<&str>, bytes: &[u8]) -> Result<Self, String> {
        let raw: Raw = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if raw.schema_version == Some(1) {
            return Err("it is schema 1, which no client should still use; push it again with a current tool".into());
        }
        let shape = match (&raw.manifests, &raw.layers) {
            (Some(_), Some(_)) => return Err("it has both 'manifests' and 'layers'".into()),
            (Some(_), None) => Some(Form::Index),
            (None, Some(_)) => Some(Form::Image),
            (None, None) => None,
        };
        let header = content_type.map(bare_type).and_then(Form::of);
        let body = match raw.media_type.as_deref().map(bare_type) {
            None | Some("") => None,
            Some(name) => Some(Form::of(name).ok_or_else(|| format!("its mediaType is {name:?}"))?),
        };
        let Some(kind) = header.or(body).or(shape) else {
            return Err("it has neither 'manifests' nor 'layers'".into());
        };
        if [header, body, shape]
            .iter()
            .flatten()
            .any(|other| *other != kind)
        {
            return Err(
                "its type, its mediaType and its content disagree whether it is an index".into(),
            );
        }
        let mut budget = AnnotationBudget(MAX_ANNOTATIONS);
        let annotations = budget.read(raw.annotations)?;
        if kind == Form::Index {
            let entries = raw.manifests.unwrap_or_default().0;
            return Ok(Self::Index(Index::of(&entries, annotations, &mut budget)));
        }
        let mut check = |what: String, descriptor| {
            Descriptor::check(descriptor, &mut budget).map_err(|why| format!("{what}: {why}"))
        };
        let config = raw.config.map(|config| check("config".into(), config));
        let config = config.transpose()?;
        let layers = raw.layers.unwrap_or_default().0.into_iter().enumerate();
        let layers = layers.map(|(n, layer)| check(format!("layer {}", n + 1), layer));
        Ok(Self::Image(Image {
            artifact_type: raw.artifact_type.filter(|name| !name.is_empty()),
            config,
            layers: layers.collect::<Result<_, _>>()?,
            annotations,
            // An attachment by sha512 is one to an artifact that is never offered.
            subject: raw.subject.and_then(|subject| subject.digest.parse().ok()),
        }))
    }
}

impl Index {
    fn of(list: &[&RawValue], annotations: Annotations, budget: &mut AnnotationBudget) -> Self {
        let (mut entries, mut unusable) = (Vec::new(), Vec::new());
        let (mut nameless, mut untold) = (0, 0);
        for (n, raw) in list.iter().enumerate() {
            let why = match Entry::parse(raw.get(), budget) {
                Ok(entry) => {
                    entries.push(entry);
                    continue;
                }
                Err(why) => why,
            };
            let name = named(raw.get());
            nameless += usize::from(name.is_none());
            if name.is_none() && nameless > MAX_TOLD {
                untold += 1;
                continue;
            }
            let why = format!("index entry {}: {why}", n + 1);
            unusable.push(Unusable { name, why });
        }
        if untold > 0 {
            let why = format!("{untold} more entries of the index cannot be used");
            unusable.push(Unusable { name: None, why });
        }
        Self {
            entries,
            annotations,
            unusable,
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Image,
    Index,
}

impl Form {
    fn of(media_type: &str) -> Option<Self> {
        match media_type {
            OCI_MANIFEST | DOCKER_MANIFEST => Some(Self::Image),
            OCI_INDEX | DOCKER_LIST => Some(Self::Index),
            _ => None,
        }
    }
}

/// A media type without its parameters, which the spec tells us to ignore.
fn bare_type(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or(media_type).trim()
}

/// Both forms as they stand in JSON. Unknown fields are ignored, as the spec demands; `null` and, of a type, the
/// empty string count as absent, for Go programs write and read them so.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw<'a> {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    #[serde(borrow)]
    config: Option<RawDescriptor<'a>>,
    #[serde(borrow)]
    layers: Option<Items<RawDescriptor<'a>>>,
    /// Read one by one, so that a bad one spoils no other.
    #[serde(borrow)]
    manifests: Option<Items<&'a RawValue>>,
    #[serde(borrow)]
    annotations: Option<&'a RawValue>,
    #[serde(borrow)]
    subject: Option<RawDescriptor<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor<'a> {
    media_type: Option<String>,
    digest: String,
    size: u64,
    /// Read later, with an eye on how many there are in all.
    #[serde(borrow)]
    annotations: Option<&'a RawValue>,
    /// Whether there are any is all that counts, and what is ignored takes no memory.
    urls: Option<Vec<IgnoredAny>>,
    artifact_type: Option<String>,
    platform: Option<Platform>,
}

/// A list of [`MAX_ITEMS`] at most. Of a longer one no more is read, so that it takes no more memory either.
struct Items<T>(Vec<T>);

impl<T> Default for Items<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Items<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Self::default())
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<T> {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Self, A::Error> {
        while let Some(item) = list.next_element()? {
            if self.0.len() == MAX_ITEMS {
                return Err(A::Error::custom(format!(
                    "more than {MAX_ITEMS} entries or layers, which is the limit"
                )));
            }
            self.0.push(item);
        }
        Ok(self)
    }
}

/// The number of annotations that may still be read of a manifest.
struct AnnotationBudget(usize);

impl AnnotationBudget {
    fn read(&mut self, raw: Option<&RawValue>) -> Result<Annotations, String> {
        let Some(raw) = raw else {
            return Ok(Annotations::new());
        };
        let mut json = serde_json::Deserializer::from_str(raw.get());
        json.deserialize_map(self).map_err(|why| why.to_string())
    }
}

impl<'de> Visitor<'de> for &mut AnnotationBudget {
    type Value = Annotations;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("annotations")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Annotations, A::Error> {
        let mut annotations = Annotations::new();
        while let Some((name, value)) = map.next_entry::<_, Option<String>>()? {
            self.0 = self.0.checked_sub(1).ok_or_else(|| {
                A::Error::custom(format!(
                    "more than {MAX_ANNOTATIONS} annotations, which is the limit"
                ))
            })?;
            annotations.extend(value.map(|value| (name, value)));
        }
        Ok(annotations)
    }
}

impl Descriptor {
    fn check(raw: RawDescriptor<'_>, budget: &mut AnnotationBudget) -> Result<Self, String> {
        Ok(Self {
            media_type: bare_type(raw.media_type.as_deref().unwrap_or_default()).to_owned(),
            digest: raw.digest.parse()?,
            size: raw.size,
            annotations: budget.read(raw.annotations)?,
            is_foreign: raw.urls.is_some_and(|urls| !urls.is_empty()),
            artifact_type: raw.artifact_type.filter(|name| !name.is_empty()),
        })
    }
}

impl Entry {
    fn parse(json: &str, budget: &mut AnnotationBudget) -> Result<Self, String> {
        let mut raw: RawDescriptor<'_> =
            serde_json::from_str(json).map_err(|why| why.to_string())?;
        Ok(Self {
            platform: raw.platform.take_if(|one| !one.is_empty()),
            descriptor: Descriptor::check(raw, budget)?,
        })
    }
}

/// The name of an entry in a layout, however wrong the rest of it is.
fn named(json: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        annotations: Option<Name>,
    }
    #[derive(Deserialize)]
    struct Name {
        #[serde(rename = "org.opencontainers.image.ref.name")]
        name: Option<String>,
    }
    let named: Named = serde_json::from_str(json).ok()?;
    named.annotations?.name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(digit: char) -> String {
        format!("sha256:{}", digit.to_string().repeat(64))
    }

    fn layer(extra: &str) -> String {
        format!(
            r#"{{"mediaType":"a/b; x=y","digest":"{}","size":3{extra}}}"#,
            digest('a')
        )
    }

    #[test]
    fn a_manifest_is_known_by_header_then_body_then_shape() {
        let image = format!(r#"{{"schemaVersion":2,"layers":[{}]}}"#, layer(""));
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, layer(""));
        let typed =
            |json: &str, name: &str| json.replacen('{', &format!(r#"{{"mediaType":"{name}","#), 1);
        let both = format!(r#"{{"layers":[{0}],"manifests":[{0}]}}"#, layer(""));
        let kind = |header: Option<&str>, json: &str| match Manifest::parse(header, json.as_bytes())
        {
            Ok(Manifest::Image(_)) => "image",
            Ok(Manifest::Index(_)) => "index",
            Err(_) => "refused",
        };
        for (header, json, expected, why) in [
            (
                None,
                image.as_str(),
                "image",
                "shape alone: Docker and oras leave mediaType out",
            ),
            (None, &index, "index", "shape alone"),
            (
                Some("application/json"),
                &image,
                "image",
                "a header that says nothing",
            ),
            (
                Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8"),
                &image,
                "image",
                "parameters",
            ),
            (Some(OCI_INDEX), &image, "refused", "header against shape"),
            (
                None,
                &typed(&image, DOCKER_LIST),
                "refused",
                "body against shape",
            ),
            (
                Some(OCI_MANIFEST),
                &typed(&image, OCI_INDEX),
                "refused",
                "header against body",
            ),
            (
                None,
                &typed(&image, DOCKER_MANIFEST),
                "image",
                "Docker's type",
            ),
            (
                None,
                &typed(&image, "text/html"),
                "refused",
                "a type of something else",
            ),
            (None, &both, "refused", "both at once"),
            (None, "{}", "refused", "nothing"),
            (
                Some(OCI_MANIFEST),
                "{}",
                "image",
                "no layers at all, which an artifact may have",
            ),
            (
                None,
                r#"{"schemaVersion":1,"fsLayers":[]}"#,
                "refused",
                "schema 1",
            ),
            (None, "<html>", "refused", "not JSON"),
        ] {
            assert_eq!(kind(header, json), expected, "{why}: {json}");
        }
    }

    #[test]
    fn what_a_descriptor_says_is_kept() {
        let json = format!(
            r#"{{"artifactType":"","layers":[{}],"config":null,"annotations":{{"k":"v"}}}}"#,
            layer(
                r#","annotations":{"org.opencontainers.image.title":"a.raw"},"urls":["https://x"]"#
            )
        );
        let title = (
            "org.opencontainers.image.title".to_owned(),
            "a.raw".to_owned(),
        );
        assert_eq!(
            Manifest::parse(None, json.as_bytes()).unwrap(),
            Manifest::Image(Image {
                artifact_type: None,
                config: None,
                layers: vec![Descriptor {
                    media_type: "a/b".into(),
                    digest: digest('a').parse().unwrap(),
                    size: 3,
                    annotations: [title].into(),
                    is_foreign: true,
                    artifact_type: None,
                }],
                annotations: [("k".to_owned(), "v".to_owned())].into(),
                subject: None,
            })
        );
    }

    #[test]
    fn null_counts_as_absent_as_in_go() {
        let plain = format!(r#"{{"layers":[{}]}}"#, layer(""));
        let expected = Manifest::parse(None, plain.as_bytes());
        assert!(expected.is_ok());
        let with = |more: &str| plain.replacen('{', &format!("{{{more},"), 1);
        for json in [
            with(r#""annotations":{"x":null}"#),
            with(r#""annotations":null"#),
            with(r#""mediaType":"""#),
            with(r#""mediaType":null"#),
            with(r#""artifactType":null"#),
            with(r#""config":null,"subject":null,"manifests":null"#),
            plain.replace(
                r#""size":3"#,
                r#""size":3,"annotations":{"x":null},"urls":null"#,
            ),
        ] {
            assert_eq!(Manifest::parse(None, json.as_bytes()), expected, "{json}");
        }
        let untyped = plain.replace(r#""mediaType":"a/b; x=y""#, r#""mediaType":null"#);
        let Ok(Manifest::Image(image)) = Manifest::parse(None, untyped.as_bytes()) else {
            panic!("{untyped}");
        };
        assert_eq!(image.layers[0].media_type, "");
    }

    #[test]
    fn a_platform_without_a_machine_is_none() {
        let linux = |architecture: &str| {
            Some(Platform {
                os: "linux".into(),
                architecture: architecture.into(),
                variant: None,
            })
        };
        for (platform, expected) in [
            ("null", None),
            ("{}", None),
            (r#"{"os":"","architecture":""}"#, None),
            (r#"{"os":null,"architecture":null,"variant":null}"#, None),
            (r#"{"os":"linux","architecture":""}"#, None),
            (
                r#"{"os":"linux","architecture":"arm64","variant":null}"#,
                linux("arm64"),
            ),
        ] {
            let entry = layer(&format!(r#","platform":{platform}"#));
            let json = format!(r#"{{"manifests":[{entry}]}}"#);
            let Ok(Manifest::Index(index)) = Manifest::parse(None, json.as_bytes()) else {
                panic!("{json}");
            };
            assert_eq!(index.entries[0].platform, expected, "{platform}");
        }
    }

    #[test]
    fn lists_are_read_up_to_a_limit() {
        for (name, item) in [("manifests", "0"), ("layers", &layer(""))] {
            let json = |n: usize| format!(r#"{{"{name}":[{}]}}"#, vec![item; n].join(","));
            assert!(Manifest::parse(None, json(MAX_ITEMS).as_bytes()).is_ok());
            let why = Manifest::parse(None, json(MAX_ITEMS + 1).as_bytes()).unwrap_err();
            let expected = "more than 16384 entries or layers, which is the limit";
            assert!(why.starts_with(expected), "{why}");
        }
    }

    #[test]
    fn annotations_are_read_up_to_a_limit_wherever_they_are() {
        let annotations = |n: usize| {
            let all: Vec<_> = (0..n).map(|n| format!(r#""{n}":"""#)).collect();
            format!(r#""annotations":{{{}}}"#, all.join(","))
        };
        let image = |own: usize, of_layers: usize| {
            let layer = layer(&format!(",{}", annotations(of_layers)));
            let layers = vec![layer; 16].join(",");
            format!(r#"{{{},"layers":[{layers}]}}"#, annotations(own))
        };
        let each = MAX_ANNOTATIONS / 16;
        for (own, of_layers, expected) in [
            (MAX_ANNOTATIONS, 0, None),
            (MAX_ANNOTATIONS + 1, 0, Some("")),
            (0, each, None),
            (1, each, Some("layer 16: ")),
        ] {
            let found = Manifest::parse(None, image(own, of_layers).as_bytes());
            let limit = "more than 131072 annotations, which is the limit";
            let expected = expected.map(|place| format!("{place}{limit}"));
            let found = found.err();
            assert!(
                match (&found, &expected) {
                    (Some(found), Some(expected)) => found.starts_with(expected.as_str()),
                    (found, expected) => found == expected,
                },
                "{found:?}, expected {expected:?}"
            );
        }
    }

    #[test]
    fn of_many_unusable_entries_some_are_told_and_the_rest_counted() {
        let named = r#"{"annotations":{"org.opencontainers.image.ref.name":"v1"}}"#;
        let json = format!(r#"{{"manifests":[{}{named}]}}"#, "0,".repeat(10_000));
        let Ok(Manifest::Index(index)) = Manifest::parse(None, json.as_bytes()) else {
            panic!("it is an index");
        };
        assert_eq!(index.unusable.len(), MAX_TOLD + 2);
        let last: Vec<_> = index.unusable[MAX_TOLD..].iter().collect();
        assert_eq!(last[0].name.as_deref(), Some("v1"), "a name is never lost");
        assert_eq!(last[1].why, "9981 more entries of the index cannot be used");
    }

    #[test]
    fn nonsense_is_refused_with_its_place() {
        let sha512 = format!("sha512:{}", "0".repeat(128));
        for (layer, reason) in [
            (
                r#"{"digest":"","size":0}"#.to_owned(),
                "layer 1: \"\" is not a digest",
            ),
            (
                format!(r#"{{"digest":"{sha512}","size":0}}"#),
                "layer 1: digest algorithm \"sha512\"",
            ),
            (
                format!(r#"{{"digest":"{}","size":-1}}"#, digest('a')),
                "invalid value",
            ),
            (r#"{"size":1}"#.to_owned(), "missing field `digest`"),
            (
                format!(
                    r#"{{"digest":"{}","size":1,"annotations":{{"a":1}}}}"#,
                    digest('a')
                ),
                "layer 1: invalid type",
            ),
        ] {
            let json = format!(r#"{{"layers":[{layer}]}}"#);
            let why = Manifest::parse(None, json.as_bytes()).unwrap_err();
            assert!(
                why.starts_with(reason),
                "{why:?} does not begin with {reason:?}"
            );
        }
    }
}
