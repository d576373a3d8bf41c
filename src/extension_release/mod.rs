//! The fields of an image's extension-release(5), and the forms that sysextmgr reads: `<image>.manifest.gz` and
//! `<image>.raw.json`. No I/O.
//!
//! Publishers put the fields into the image, annotations or documents beside it; the first place that has a field
//! counts. `ID` is never invented: systemd-sysext refuses an image without it, so these forms are not served without it
//! either.

pub mod compatible;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::iter::Peekable;
use std::str::Chars;

use flate2::GzBuilder;
use serde_json::{Value, json};

use crate::compression::{self, Compression};
use crate::manifest::{Annotations, Descriptor};
use crate::platform::Architecture;

/// The fields that are used; all others are ignored.
const FIELDS: [&str; 9] = [
    "ID",
    "VERSION_ID",
    "SYSEXT_LEVEL",
    "SYSEXT_ID",
    "SYSEXT_VERSION_ID",
    "SYSEXT_SCOPE",
    "CONFEXT_LEVEL",
    "CONFEXT_SCOPE",
    "ARCHITECTURE",
];
/// Largest document that is read, packed or unpacked.
pub const MAX_DOCUMENT: u64 = 1 << 20;

/// An image's fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata(BTreeMap<String, String>);

impl Metadata {
    /// From annotations with the names of the fields, with or without a prefix that ends in a dot.
    pub fn of_annotations(annotations: &Annotations) -> Self {
        let mut found = Self::default();
        for (key, value) in annotations {
            let name = key.rsplit('.').next().unwrap_or(key);
            found.add(name, value);
        }
        found
    }

    /// From a document of the publisher: an extension-release file or a manifest of mkosi, packed with gzip or not.
    /// Other documents have no fields.
    pub fn of_document(bytes: &[u8]) -> Self {
        if Compression::of(bytes) == Some(Compression::Gzip) {
            let mut unpacked = Vec::new();
            let mut packed = compression::gzip(bytes).take(MAX_DOCUMENT);
            return match packed.read_to_end(&mut unpacked) {
                Ok(_) => Self::of_plain(&unpacked),
                Err(_) => Self::default(),
            };
        }
        Self::of_plain(bytes)
    }

    fn of_plain(bytes: &[u8]) -> Self {
        match serde_json::from_slice(bytes) {
            Ok(json) => Self::of_manifest(&json),
            Err(_) => Self::of_extension_release(&String::from_utf8_lossy(bytes)),
        }
    }

    /// A manifest of mkosi has the fields in `extension`, the older form in `sysext`.
    fn of_manifest(json: &Value) -> Self {
        let mut found = Self::default();
        for section in ["extension", "sysext"] {
            let Some(Value::Object(fields)) = json.get(section) else {
                continue;
            };
            for (name, value) in fields {
                found.add(name, value.as_str().unwrap_or_default());
            }
        }
        found
    }

    /// From an extension-release(5) file.
    pub fn of_extension_release(text: &str) -> Self {
        let mut found = Self::default();
        // The last assignment counts, as in a shell.
        for (name, value) in assignments(text).into_iter().rev() {
            found.add(&name, &value);
        }
        found
    }

    /// Sets a field that is not set yet. Unknown names, empty values and control characters are ignored.
    pub fn add(&mut self, name: &str, value: &str) {
        if FIELDS.contains(&name) && !value.is_empty() && !value.chars().any(char::is_control) {
            let field = self.0.entry(name.to_owned());
            field.or_insert_with(|| value.to_owned());
        }
    }

    /// Takes the fields that are not set yet.
    pub fn merge(&mut self, other: Self) {
        for (name, value) in other.0 {
            self.0.entry(name).or_insert(value);
        }
    }

    /// A field, if it is set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Whether the OS that the image is for is known.
    pub fn has_id(&self) -> bool {
        self.0.contains_key("ID")
    }

    /// Whether the version of that OS is known. `_any` has none.
    pub fn has_version(&self) -> bool {
        self.get("ID") == Some("_any")
            || ["VERSION_ID", "SYSEXT_LEVEL", "CONFEXT_LEVEL"]
                .iter()
                .any(|name| self.0.contains_key(*name))
    }

    /// Whether the architecture is known.
    pub fn has_architecture(&self) -> bool {
        self.0.contains_key("ARCHITECTURE")
    }

    /// `<image>.manifest.gz`: the form of mkosi, packed. `stem`: the image's name without its suffix. The bytes are the
    /// same on every run.
    pub fn manifest_gz(&self, stem: &str) -> Vec<u8> {
        let version = self.get("SYSEXT_VERSION_ID");
        let json = json!({
            "manifest_version": 1,
            "config": {
                "name": name_alone(stem, version),
                "architecture": self.get("ARCHITECTURE"),
                "version": version,
            },
            "packages": [],
            "extension": self.0,
        });
        let mut packer = GzBuilder::new()
            .mtime(0)
            .operating_system(255)
            .write(Vec::new(), flate2::Compression::best());
        packer
            .write_all(json.to_string().as_bytes())
            .expect("a Vec takes what is written");
        packer.finish().expect("a Vec takes what is written")
    }

    /// `<image>.raw.json`: the older form.
    pub fn json(&self, image: &str) -> String {
        json!({ "image_name": image, "sysext": self.0 }).to_string()
    }
}

/// The name of an image without version and architecture: `strace` of `strace-30.3.x86-64`.
fn name_alone<'a>(stem: &'a str, version: Option<&str>) -> &'a str {
    let is_separator = |c: char| matches!(c, '-' | '_' | '.');
    let stem = Architecture::at_end_of(stem).map_or(stem, |(rest, _)| rest);
    let is_version = |rest: &str| {
        let rest = rest.strip_prefix('v').unwrap_or(rest);
        rest.starts_with(|c: char| c.is_ascii_digit())
    };
    let before = version.and_then(|version| {
        let before = stem.strip_suffix(version)?;
        let v = before.strip_suffix('v');
        v.and_then(|rest| rest.strip_suffix(is_separator))
            .or_else(|| before.strip_suffix(is_separator))
    });
    let first = || {
        let mut separators = stem.match_indices(is_separator).map(|(at, _)| at);
        let at = separators.find(|at| is_version(&stem[at + 1..]))?;
        Some(&stem[..at])
    };
    before
        .or_else(first)
        .filter(|name| !name.is_empty())
        .unwrap_or(stem)
}

/// The assignments in a file such as os-release(5), in order, with quotes and backslashes removed as a shell does
/// (systemd: parse_env_file_internal in src/basic/env-file.c).
pub fn assignments(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(first) = rest.peek() {
        if is_line_end(*first) {
            rest.next();
            continue;
        }
        let mut name = String::new();
        while let Some(c) = rest.next_if(|c| *c != '=' && !is_line_end(*c)) {
            name.push(c);
        }
        if rest.next_if_eq(&'=').is_none() {
            continue;
        }
        let value = value(&mut rest);
        let name = name.trim();
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !name.is_empty() && name.chars().all(is_name) {
            found.push((name.to_owned(), value));
        }
    }
    found
}

fn is_line_end(c: char) -> bool {
    matches!(c, '\n' | '\r')
}

/// A value, up to the end of the line. Quoted text may have several lines.
fn value(rest: &mut Peekable<Chars<'_>>) -> String {
    let (mut value, mut end) = (String::new(), 0);
    while let Some(c) = rest.next_if(|c| !is_line_end(*c)) {
        match c {
            '\'' => value.extend(rest.by_ref().take_while(|c| *c != '\'')),
            '"' => double_quoted(rest, &mut value),
            '\\' => value.extend(rest.next().filter(|c| *c != '\n')),
            c if c.is_whitespace() => {
                // It counts only inside the value.
                if !value.is_empty() {
                    value.push(c);
                }
                continue;
            }
            c => value.push(c),
        }
        end = value.len();
    }
    value.truncate(end);
    value
}

fn double_quoted(rest: &mut Peekable<Chars<'_>>, value: &mut String) {
    while let Some(c) = rest.next() {
        match c {
            '"' => return,
            '\\' => match rest.next() {
                Some(c @ ('"' | '\\' | '`' | '$')) => value.push(c),
                Some('\n') | None => {}
                Some(c) => value.extend(['\\', c]),
            },
            c => value.push(c),
        }
    }
}

/// Whether a layer is a document about an image, not an image.
pub fn is_document(layer: &Descriptor) -> bool {
    let title = layer.title().unwrap_or_default();
    let ends = [".extension-release", ".manifest", ".manifest.gz"];
    let is_titled = ends.iter().any(|end| title.ends_with(end));
    let has_type = layer.media_type.contains("extension-release");
    (is_titled || has_type) && layer.size <= MAX_DOCUMENT
}

#[cfg(test)]
mod tests {
    use flate2::read::MultiGzDecoder;

    use super::*;

    fn metadata(fields: &[(&str, &str)]) -> Metadata {
        Metadata(
            fields
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        )
    }

    fn pack(text: &str) -> Vec<u8> {
        let mut packer = GzBuilder::new().write(Vec::new(), flate2::Compression::fast());
        packer.write_all(text.as_bytes()).unwrap();
        packer.finish().unwrap()
    }

    #[test]
    fn every_form_of_document_gives_its_fields() {
        let mkosi = r#"{"manifest_version":1,"extension":{"ID":"_any","ARCHITECTURE":"x86-64","UNKNOWN":"x","VERSION_ID":7}}"#;
        let expected = metadata(&[("ID", "_any"), ("ARCHITECTURE", "x86-64")]);
        assert_eq!(Metadata::of_document(mkosi.as_bytes()), expected);
        assert_eq!(Metadata::of_document(&pack(mkosi)), expected);
        assert_eq!(
            Metadata::of_document(b"# comment\nID=opensuse-microos\nVERSION_ID=\"2026\"\nNAME=x\n"),
            metadata(&[("ID", "opensuse-microos"), ("VERSION_ID", "2026")])
        );
        for nonsense in [
            &b"\x1f\x8b\x00"[..],
            b"",
            b"[]",
            b"\xff\xfe",
            br#"{"extension":[]}"#,
        ] {
            assert_eq!(
                Metadata::of_document(nonsense),
                Metadata::default(),
                "{nonsense:?}"
            );
        }
    }

    #[test]
    fn values_are_read_as_a_shell_would() {
        for (text, expected) in [
            ("ID=fedora", Some("fedora")),
            ("ID=\"fedora\"", Some("fedora")),
            ("ID='fedora'", Some("fedora")),
            ("  ID=fedora  \r\n", Some("fedora")),
            ("ID =fedora", Some("fedora")),
            ("ID=fed\"or\"'a'", Some("fedora")),
            (r#"ID="a\"b\\c\$d\`e""#, Some(r#"a"b\c$d`e"#)),
            (r#"ID="a\nb""#, Some(r"a\nb")),
            (r"ID=a\ b", Some("a b")),
            (r"ID='a\b'", Some(r"a\b")),
            ("ID=a b ", Some("a b")),
            ("ID=\"a b \"", Some("a b ")),
            ("ID=a\\\nb", Some("ab")),
            ("NAME=\"two\nlines\"\nID=c", Some("c")),
            ("NAME='ID=no\nID=no'\nID=d", Some("d")),
            ("ID=first\nID=last", Some("last")),
            ("#ID=no\n;ID=no\nID", None),
            ("ID=", None),
            ("ID=\"never closed", Some("never closed")),
            ("export ID=no", None),
            ("=no", None),
        ] {
            let found = Metadata::of_extension_release(text);
            let expected = expected.map(|id| ("ID", id));
            assert_eq!(found, metadata(expected.as_slice()), "{text:?}");
        }
    }

    #[test]
    fn annotations_may_have_a_prefix() {
        let annotations = [
            ("ID", "fedora"),
            ("io.systemd.sysext.SYSEXT_LEVEL", "1.0"),
            ("org.example.title", "x"),
        ];
        let annotations = annotations
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        assert_eq!(
            Metadata::of_annotations(&annotations),
            metadata(&[("ID", "fedora"), ("SYSEXT_LEVEL", "1.0")])
        );
    }

    #[test]
    fn the_first_source_of_a_field_counts() {
        let mut found = metadata(&[("ID", "first")]);
        found.merge(metadata(&[("ID", "second"), ("ARCHITECTURE", "arm64")]));
        found.add("ARCHITECTURE", "x86-64");
        found.add("SYSEXT_SCOPE", "a\nb");
        assert_eq!(
            found,
            metadata(&[("ID", "first"), ("ARCHITECTURE", "arm64")])
        );
        assert!(found.has_id() && !Metadata::default().has_id());
    }

    #[test]
    fn the_name_alone_has_no_version() {
        for (stem, version, expected) in [
            ("strace-30.3.x86-64", Some("30.3"), "strace"),
            ("strace-v30.3", Some("30.3"), "strace"),
            ("debug-tools-edge", Some("edge"), "debug-tools"),
            ("debug-tools_24.0_amd64", None, "debug-tools"),
            ("k3s-1.31-rc1", Some("other"), "k3s"),
            ("tools", None, "tools"),
        ] {
            assert_eq!(name_alone(stem, version), expected, "{stem} {version:?}");
        }
    }

    #[test]
    fn what_sysextmgr_reads_is_written_the_same_each_time() {
        let found = metadata(&[
            ("ID", "_any"),
            ("ARCHITECTURE", "x86-64"),
            ("SYSEXT_VERSION_ID", "30.3"),
        ]);
        let packed = found.manifest_gz("strace-30.3.x86-64");
        assert_eq!(packed, found.manifest_gz("strace-30.3.x86-64"));
        assert_eq!(packed[4..8], [0; 4], "no time");
        let mut text = String::new();
        MultiGzDecoder::new(&packed[..])
            .read_to_string(&mut text)
            .unwrap();
        let config = &serde_json::from_str::<Value>(&text).unwrap()["config"];
        assert_eq!(
            *config,
            json!({"name": "strace", "architecture": "x86-64", "version": "30.3"})
        );
        assert_eq!(Metadata::of_document(&packed), found);
        assert_eq!(
            found.json("strace-30.3.x86-64.raw"),
            r#"{"image_name":"strace-30.3.x86-64.raw","sysext":{"ARCHITECTURE":"x86-64","ID":"_any","SYSEXT_VERSION_ID":"30.3"}}"#
        );
    }
}
