//! The command `list`: a listing as a table or as JSON.

use log::warn;
use serde_json::{Value, json};

use crate::address::Located;
use crate::error::Result;
use crate::listing::{File, Listing};
use crate::name::FileName;
use crate::printable::{in_json, printable};
use crate::snapshot::Snapshots;

/// Lists a directory. With `all` it has what is skipped, too.
pub fn list(snapshots: &Snapshots, located: &Located, all: bool, is_json: bool) -> Result<String> {
    let snapshot = snapshots.listing(located)?;
    let listing = &snapshot.whole_listing();
    let left_out = listing.left_out.len();
    if listing.files.is_empty() && left_out > 0 && !all {
        warn!("{located}: no file is offered, {left_out} left out; --all shows why");
    }
    let write = if is_json { json } else { table };
    Ok(write(listing, all))
}

/// One line for each file and, with `all`, for each skipped tag or file.
pub fn table(listing: &Listing, all: bool) -> String {
    fn known(value: Option<impl ToString>) -> String {
        value.map_or_else(|| "-".to_owned(), |value| value.to_string())
    }
    let mut rows = vec![["VERSION", "FILE", "SIZE", "ARCHITECTURE", "SHA256"].map(str::to_owned)];
    for (name, file) in &listing.files {
        rows.push([
            file.tag.to_string(),
            printable(name.as_str()).into_owned(),
            known(file.size),
            known(file.architecture),
            file.digest.hex(),
        ]);
    }
    let mut text = align(&rows);
    if all && !listing.left_out.is_empty() {
        let header = ["NOT OFFERED".to_owned(), "REASON".to_owned()];
        let reasons = listing
            .left_out
            .iter()
            .map(|one| [one.tag.to_string(), printable(&one.reason).into_owned()]);
        text.push('\n');
        text.push_str(&align(
            &[header].into_iter().chain(reasons).collect::<Vec<_>>(),
        ));
    }
    text
}

/// The same as JSON: `{"files": [{"version", "name", "size", "architecture", "sha256"}],
/// "leftOut": [{"tag", "reason"}]}`. Unknown values are null.
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
    in_json(&format!("{found:#}\n")).into_owned()
}

/// Pads each column to its longest cell, except the last column.
fn align<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |n: usize| rows.iter().map(|row| row[n].chars().count()).max();
    let widths: Vec<_> = (0..N - 1).map(|n| width(n).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        for (cell, width) in row.iter().zip(&widths) {
            text += &format!("{cell:width$}  ");
        }
        text += &format!("{}\n", row[N - 1]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::Skipped;
    use crate::digest::Digest;
    use crate::listing::LeftOut;

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
        let skipped = Skipped::whole("it is\x1b[31m encrypted");
        listing.leave_out(LeftOut::new(&"v2".parse().unwrap(), skipped));
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
            format!("{files}\nNOT OFFERED  REASON\nv2           it is\\u{{1b}}[31m encrypted\n")
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
