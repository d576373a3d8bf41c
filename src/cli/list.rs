//! A listing for people, as a table, and for programs, as JSON. No I/O.

use serde_json::{Value, json};

use crate::listing::{File, Listing};
use crate::name::FileName;

/// A line for each file; with `all` one for each thing left out, too.
pub fn table(listing: &Listing, all: bool) -> String {
    let mut rows = vec![["VERSION", "FILE", "SIZE", "ARCHITECTURE", "SHA256"].map(str::to_owned)];
    for (name, file) in &listing.files {
        rows.push([
            file.tag.to_string(),
            name.to_string(),
            file.size
                .map_or_else(|| "-".to_owned(), |size| size.to_string()),
            file.architecture
                .map_or_else(|| "-".to_owned(), |architecture| architecture.to_string()),
            file.digest.hex(),
        ]);
    }
    let mut text = align(&rows);
    if all && !listing.left_out.is_empty() {
        let header = ["NOT OFFERED".to_owned(), "REASON".to_owned()];
        let reasons = listing
            .left_out
            .iter()
            .map(|one| [one.tag.to_string(), printable(&one.reason)]);
        text.push('\n');
        text.push_str(&align(
            &std::iter::once(header).chain(reasons).collect::<Vec<_>>(),
        ));
    }
    text
}

/// The same as JSON: `{"files": [{"version", "name", "size", "architecture", "sha256"}],
/// "leftOut": [{"tag", "reason"}]}`, with what is not known as null.
pub fn json(listing: &Listing, all: bool) -> String {
    let file = |name: &FileName, file: &File| {
        json!({
            "version": file.tag.as_str(),
            "name": name.as_str(),
            "size": file.size,
            "architecture": file.architecture.map(|architecture| architecture.as_str()),
            "sha256": file.digest.hex(),
        })
    };
    let mut found = json!({ "files": listing.files.iter().map(|(name, one)| file(name, one)).collect::<Vec<Value>>() });
    if all {
        let left_out = listing
            .left_out
            .iter()
            .map(|one| json!({ "tag": one.tag.as_str(), "reason": one.reason }));
        found["leftOut"] = left_out.collect();
    }
    format!("{found:#}\n")
}

/// Columns as wide as what is in them, the last one as it is.
fn align<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: Vec<usize> = (0..N)
        .map(|n| {
            rows.iter()
                .map(|row| row[n].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        for (n, cell) in row.iter().enumerate() {
            if n + 1 == N {
                text.push_str(cell);
            } else {
                text.push_str(&format!("{cell:width$}  ", width = widths[n]));
            }
        }
        text.push('\n');
    }
    text
}

/// What strangers wrote must not steer the terminal, nor begin a line of its own in the log.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn listing() -> Listing {
        let mut listing = Listing::default();
        let file = File {
            digest: Digest::of(b""),
            size: Some(10),
            source: 0,
            tag: "v1".parse().unwrap(),
            manifest: None,
            architecture: "arm64".parse().ok(),
            is_of_index: true,
            content: crate::artifact::Content::Blob,
        };
        listing
            .files
            .insert("k8s-v1-arm64.raw".parse().unwrap(), file.clone());
        listing.files.insert(
            "k8s-v10.raw".parse().unwrap(),
            File {
                size: None,
                architecture: None,
                ..file
            },
        );
        listing.leave_out(&"v2".parse().unwrap(), "it is\x1b[31m encrypted".into());
        listing
    }

    #[test]
    fn a_table_is_aligned_and_harmless() {
        let hex = Digest::of(b"").hex();
        let files = format!(
            "VERSION  FILE              SIZE  ARCHITECTURE  SHA256\n\
             v1       k8s-v1-arm64.raw  10    arm64         {hex}\n\
             v1       k8s-v10.raw       -     -             {hex}\n"
        );
        assert_eq!(table(&listing(), false), files);
        assert_eq!(
            table(&listing(), true),
            format!("{files}\nNOT OFFERED  REASON\nv2           it is?[31m encrypted\n")
        );
    }

    #[test]
    fn json_has_the_same() {
        let hex = Digest::of(b"").hex();
        let found: Value = serde_json::from_str(&json(&listing(), true)).unwrap();
        assert_eq!(
            found,
            json!({
                "files": [
                    {"version": "v1", "name": "k8s-v1-arm64.raw", "size": 10, "architecture": "arm64", "sha256": hex},
                    {"version": "v1", "name": "k8s-v10.raw", "size": null, "architecture": null, "sha256": hex},
                ],
                "leftOut": [{"tag": "v2", "reason": "it is\u{1b}[31m encrypted"}],
            })
        );
    }
}
