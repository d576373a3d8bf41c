//! The command `list`: a directory as a table, or as the JSON of the service.

use std::collections::BTreeSet;

use log::warn;

use super::asked::{self, Asked};
use super::output;
use crate::address::Directory;
use crate::error::Result;
use crate::printable::{human_size, in_json, printable};
use crate::server::json::{File, LeftOut, Overview, SignedBy};

/// The width that a table has at most on a terminal, in characters, if the names in it allow that.
const WIDTH: usize = 80;
/// Hex digits of a digest that are enough to tell versions apart.
const SHORT_DIGEST: usize = 12;
/// The gap between columns.
const GAP: &str = "  ";

/// How a directory is shown.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// With what is not offered, and why.
    pub all: bool,
    /// For a person: sizes in units, digests and lines cut to be read.
    pub is_terminal: bool,
}

/// Prints a directory. The result is whether it offers a file.
pub fn list(asked: &Asked, directory: &Directory, all: bool, is_json: bool) -> Result<bool> {
    let json = asked.json(directory)?;
    let overview = asked::parse(directory, &json)?;
    if is_json {
        output::print(&in_json(&String::from_utf8_lossy(&json)))?;
    } else {
        let is_terminal = output::is_terminal();
        output::print(&table(directory, &overview, Form { all, is_terminal }))?;
    }
    if let Some(incomplete) = overview.incomplete {
        let (unanswered, tags) = (incomplete.unanswered, incomplete.tags);
        warn!(
            "{directory}: {unanswered} of {tags} tags were not answered; versions of theirs may be missing"
        );
    }
    if let Some(omitted) = overview.omitted {
        let (files, left_out) = (omitted.files, omitted.left_out);
        warn!(
            "{directory}: {files} older files and {left_out} skipped tags are not shown; SHA256SUMS has all files"
        );
    }
    let is_empty = overview.files.is_empty();
    if is_empty {
        let left_out = overview.left_out.len();
        let how = if all || left_out == 0 {
            ""
        } else {
            "; --all shows why"
        };
        warn!("{directory}: no file is offered, {left_out} skipped{how}");
    }
    Ok(!is_empty)
}

/// A line about the directory, one for each file, and what is not offered.
pub fn table(directory: &Directory, overview: &Overview, form: Form) -> String {
    let mut text = format!("{}\n", heading(directory, overview));
    if !overview.files.is_empty() {
        text.push('\n');
        text += &files(overview, form);
    }
    if form.all && !overview.left_out.is_empty() {
        text.push('\n');
        text += &left_out(&overview.left_out, form);
    }
    text
}

/// `k8s: 2 files from ghcr.io/acme/k8s`, and a line that says who signed them.
fn heading(directory: &Directory, overview: &Overview) -> String {
    let files = match overview.files.len() {
        1 => "1 file".to_owned(),
        n => format!("{n} files"),
    };
    let verifiers: BTreeSet<_> = overview
        .files
        .iter()
        .filter_map(|file| file.verified_by.as_deref())
        .collect();
    let signed = match overview.signed {
        None if !verifiers.is_empty() => "list not signed",
        None => "not signed",
        Some(SignedBy::Publisher) => "signed by the publisher",
        Some(SignedBy::Machine) => "signed by this machine",
    };
    let verified = match verifiers
        .into_iter()
        .map(printable)
        .collect::<Vec<_>>()
        .join(", ")
    {
        none if none.is_empty() => none,
        all => format!(", versions verified by {all}"),
    };
    format!(
        "{directory}: {files} from {}\n{signed}{verified}",
        printable(&overview.source)
    )
}

fn files(overview: &Overview, form: Form) -> String {
    let rows = |digest: fn(&File) -> String| {
        let header = ["VERSION", "FILE", "SIZE", "ARCH", "SHA256"].map(str::to_owned);
        let row = |file: &File| {
            let size = |size| match form.is_terminal {
                true => human_size(size),
                false => size.to_string(),
            };
            [
                file.version
                    .as_deref()
                    .map_or_else(unknown, |version| printable(version).into_owned()),
                printable(file.name.as_str()).into_owned(),
                file.size.map_or_else(unknown, size),
                file.architecture
                    .map_or_else(unknown, |name| name.to_string()),
                digest(file),
            ]
        };
        let files = overview.files.iter();
        [header]
            .into_iter()
            .chain(files.map(row))
            .collect::<Vec<_>>()
    };
    if !form.is_terminal {
        return align(&rows(|file| file.digest.hex()));
    }
    let text = align(&rows(|file| file.digest.hex()[..SHORT_DIGEST].to_owned()));
    if text.lines().all(|line| line.chars().count() <= WIDTH) {
        return text;
    }
    let without_digest = rows(|_| String::new())
        .into_iter()
        .map(|[version, file, size, architecture, _]| [version, file, size, architecture]);
    align(&without_digest.collect::<Vec<_>>())
}

fn unknown() -> String {
    "-".to_owned()
}

/// The table of skipped tags: a row each, on a terminal a paragraph each.
fn left_out(left_out: &[LeftOut], form: Form) -> String {
    let what = |one: &LeftOut| printable(one.tag.as_str()).into_owned();
    let why = |one: &LeftOut| {
        let until = one.until.as_ref().map(|until| format!("; until {until}"));
        printable(&(one.reason.clone() + &until.unwrap_or_default())).into_owned()
    };
    if form.is_terminal {
        let paragraph = |one: &LeftOut| format!("{}\n{}", what(one), wrapped(&why(one)));
        return format!(
            "NOT OFFERED\n{}",
            left_out.iter().map(paragraph).collect::<String>()
        );
    }
    let header = ["NOT OFFERED", "REASON"].map(str::to_owned);
    let rows = left_out.iter().map(|one| [what(one), why(one)]);
    align(&[header].into_iter().chain(rows).collect::<Vec<_>>())
}

/// A text in lines of at most [`WIDTH`], indented. A longer word has a line of its own.
fn wrapped(text: &str) -> String {
    const INDENT: &str = "    ";
    let mut lines = vec![INDENT.to_owned()];
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let line = lines.last_mut().expect("there is one at least");
        let is_empty = *line == INDENT;
        let gap = if is_empty { "" } else { " " };
        if is_empty || line.chars().count() + gap.len() + word.chars().count() <= WIDTH {
            *line += &format!("{gap}{word}");
        } else {
            lines.push(format!("{INDENT}{word}"));
        }
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

/// Pads each column to its longest cell, except the last column. Sizes stand to the right.
fn align<const N: usize>(rows: &[[String; N]]) -> String {
    let is_size = |n: usize| rows[0][n] == "SIZE";
    let width = |n: usize| rows.iter().map(|row| row[n].chars().count()).max();
    let widths: Vec<_> = (0..N).map(|n| width(n).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(n, (cell, width))| match n {
                n if is_size(n) => format!("{cell:>width$}"),
                n if n + 1 == N => cell.clone(),
                _ => format!("{cell:width$}"),
            });
        text += &cells.collect::<Vec<_>>().join(GAP);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    use crate::cli::choose::tests::overview;

    const FILES: [&str; 2] = ["k8s-v10-arm64.raw v10 arm64 25690112", "k8s-v9.raw v9 - -"];

    fn with_left_out() -> Overview {
        let reason = format!("it is\u{1b}[31m encrypted, {}", ["word"; 20].join(" "));
        let left_out = json!({
            "tag": "v3", "name": null, "digest": null, "reason": reason, "kind": "skipped", "until": null,
        });
        overview(&FILES, json!([left_out]))
    }

    fn digests(overview: &Overview) -> [String; 2] {
        [0, 1].map(|n| overview.files[n].digest.hex())
    }

    fn shown(overview: &Overview, all: bool, is_terminal: bool) -> String {
        table(&"k8s".parse().unwrap(), overview, Form { all, is_terminal })
    }

    #[test]
    fn programs_get_whole_values_in_rows() {
        let overview = with_left_out();
        let [new, old] = digests(&overview);
        let files = format!(
            "k8s: 2 files from ghcr.io/acme/k8s\nnot signed\n\n\
             VERSION  FILE                   SIZE  ARCH   SHA256\n\
             v10      k8s-v10-arm64.raw  25690112  arm64  {new}\n\
             v9       k8s-v9.raw                -  -      {old}\n"
        );
        assert_eq!(shown(&overview, false, false), files);
        let words = ["word"; 20].join(" ");
        assert_eq!(
            shown(&overview, true, false),
            format!(
                "{files}\nNOT OFFERED  REASON\nv3           it is\\u{{1b}}[31m encrypted, {words}\n"
            )
        );
    }

    #[test]
    fn people_get_what_they_can_read_in_80_columns() {
        let mut overview = with_left_out();
        overview.signed = Some(SignedBy::Publisher);
        for file in &mut overview.files {
            file.verified_by = Some("key acme.pub".into());
        }
        let [new, old] = digests(&overview).map(|digest| digest[..12].to_owned());
        let words = |n| ["word"; 20][..n].join(" ");
        let expected = format!(
            "k8s: 2 files from ghcr.io/acme/k8s\nsigned by the publisher, versions verified by key acme.pub\n\n\
             VERSION  FILE                   SIZE  ARCH   SHA256\n\
             v10      k8s-v10-arm64.raw  24.5 MiB  arm64  {new}\n\
             v9       k8s-v9.raw                -  -      {old}\n\n\
             NOT OFFERED\n\
             v3\n    it is\\u{{1b}}[31m encrypted, {}\n    {}\n",
            words(10),
            words(10),
        );
        let text = shown(&overview, true, true);
        assert_eq!(text, expected);
        assert!(
            text.lines().all(|line| line.chars().count() <= WIDTH),
            "{text}"
        );

        let long = format!("k8s-v11-{}.raw v11 arm64 -", "x".repeat(40));
        let long = self::overview(&[&long], json!([]));
        overview.files.extend(long.files);
        let text = shown(&overview, true, true);
        assert!(!text.contains("SHA256"), "{text}");
        assert!(
            text.lines().all(|line| line.chars().count() <= WIDTH),
            "{text}"
        );
    }
}
