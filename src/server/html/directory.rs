//! The page of a directory: its files, and what is not offered and why.

use super::{count, escape, page, time, way_back};
use crate::address::{self, LISTING};
use crate::artifact::LeftOutKind;
use crate::printable::human_size;
use crate::server::json::{File, LeftOut, Overview, SignedBy};

/// Size of a page, roughly, at which its table of files ends. `SHA256SUMS` has all of them.
const MAX_FILES: usize = 3 << 20;
/// Digits of a digest that are shown until it is opened.
const DIGITS: usize = 12;
/// Most skipped tags that need no action and are not folded.
const A_FEW: usize = 5;

/// `/<repository>/`: its files, and the tags and files that are left out.
pub fn directory(overview: &Overview) -> String {
    let mut body = facts(overview);
    if let Some(incomplete) = overview.incomplete {
        body += &format!(
            "<p class=\"notice\"><strong>Incomplete:</strong> {incomplete}. The reasons are below.</p>\n"
        );
    }
    files(&mut body, overview);
    left_out(&mut body, overview);
    page(&overview.repository, &way(&overview.repository), &body)
}

/// The links to the start and, of one artifact, to its repository.
fn way(directory: &str) -> String {
    let (path, last) = match directory.rsplit_once('/') {
        Some((path, last)) => (format!("{path}/"), last),
        None => (String::new(), directory),
    };
    match last.split_once(['@', ':']) {
        Some((name, _)) => {
            let repository = escape(format!("{path}{name}"));
            let view = escape(&last[name.len() + 1..]);
            format!(
                "{} <a href=\"/{repository}/\">{repository}</a> / {view}",
                way_back()
            )
        }
        None => format!("{} {}", way_back(), escape(directory)),
    }
}

fn facts(overview: &Overview) -> String {
    let signature = match overview.signed {
        None => "none, so a transfer file needs <code>Verify=no</code>",
        Some(SignedBy::Publisher) => {
            "<span class=\"good\">signed by its publisher</span>, for <code>Verify=yes</code>"
        }
        Some(SignedBy::Machine) => {
            "<span class=\"good\">signed by this machine</span>, for <code>Verify=yes</code>"
        }
    };
    let number = overview.files.len() + overview.omitted.unwrap_or_default().files;
    let verified_by = in_common(&overview.files).and_then(Option::as_ref);
    let verified_by = verified_by.map_or_else(String::new, |by| {
        format!(
            "<dt>Verified by</dt><dd class=\"good\">{}</dd>\n",
            escape(by)
        )
    });
    format!(
        "<dl class=\"facts\">\n\
         <dt>Source</dt><dd><code>{}</code></dd>\n\
         <dt>Signature</dt><dd>{signature}</dd>\n{verified_by}\
         <dt>Listed</dt><dd>{}</dd>\n\
         <dt>Files</dt><dd>{}, in <a href=\"{LISTING}\">{LISTING}</a> as systemd-sysupdate reads them</dd>\n\
         </dl>\n",
        escape(&overview.source),
        time(&overview.listed),
        count(number, "file"),
    )
}

/// The columns that a table of files has beside their names and digests.
struct Columns {
    version: bool,
    architecture: bool,
    size: bool,
    verified_by: bool,
}

impl Columns {
    /// The columns in which at least one file has a value.
    fn of(files: &[File]) -> Self {
        Self {
            version: files.iter().any(|file| file.version.is_some()),
            architecture: files.iter().any(|file| file.architecture.is_some()),
            size: files.iter().any(|file| file.size.is_some()),
            verified_by: in_common(files).is_none(),
        }
    }

    /// A row of cells `<th>` or `<td>`.
    fn row(&self, tag: &str, cells: [&str; 6]) -> String {
        let [name, version, architecture, size, digest, verified_by] = cells;
        let mut row = "<tr>".to_owned();
        for (class, cell, is_shown) in [
            ("name", name, true),
            ("version", version, self.version),
            ("architecture", architecture, self.architecture),
            ("size", size, self.size),
            ("verified", verified_by, self.verified_by),
            ("digest", digest, true),
        ] {
            if is_shown {
                row += &format!("<{tag} class=\"{class}\">{cell}</{tag}>");
            }
        }
        row + "</tr>\n"
    }
}

/// How all files were verified, if all were in the same way.
fn in_common(files: &[File]) -> Option<&Option<String>> {
    let first = &files.first()?.verified_by;
    let is_same = |file: &File| file.verified_by == *first;
    files.iter().all(is_same).then_some(first)
}

fn files(body: &mut String, overview: &Overview) {
    let files = &overview.files;
    let number = files.len() + overview.omitted.unwrap_or_default().files;
    if files.is_empty() {
        *body += "<h2>Files</h2>\n<p>No file is offered.</p>\n";
        return;
    }
    *body += "<h2>Files <small>newest first</small></h2>\n";
    let columns = Columns::of(files);
    let heads = [
        "File",
        "Version",
        "Architecture",
        "Size",
        "SHA-256",
        "Verified by",
    ];
    *body += &format!(
        "<table>\n<thead>\n{}</thead>\n<tbody>\n",
        columns.row("th", heads)
    );
    let mut shown = 0;
    for file in files {
        if body.len() > MAX_FILES {
            break;
        }
        shown += 1;
        // Without the dot a name with a colon would be a URL of its own, perhaps of a script.
        let link = escape(format!("./{}", address::in_url(&file.name)));
        let name = format!("<a href=\"{link}\">{}</a>", escape(&file.name));
        let text = |text: &Option<String>| text.as_ref().map_or_else(String::new, escape);
        let architecture = file.architecture.map_or("", |one| one.as_str());
        let size = file.size.map_or_else(String::new, human_size);
        let cells = [
            &name,
            &text(&file.version),
            architecture,
            &size,
            &digest(&file.digest.hex()),
            &text(&file.verified_by),
        ];
        *body += &columns.row("td", cells);
    }
    *body += "</tbody>\n</table>\n";
    if shown < number {
        let rest = number - shown;
        *body += &format!("<p class=\"note\">… and {rest} more files, which are older.</p>\n");
    }
}

/// The beginning of a digest, which opens to the whole.
fn digest(hex: &str) -> String {
    format!(
        "<details><summary><code>{}…</code></summary><code class=\"whole\">{hex}</code></details>",
        &hex[..DIGITS]
    )
}

/// The files that are not offered. Those that need no action are folded into a summary if there are more than a few.
fn left_out(body: &mut String, overview: &Overview) {
    let all = &overview.left_out;
    let omitted = overview.omitted.unwrap_or_default().left_out;
    if all.is_empty() {
        return;
    }
    let number = all.len() + omitted;
    *body += &format!("<h2>Not offered <small>{number}</small></h2>\n");
    let of = |kinds: &[LeftOutKind]| -> Vec<_> {
        let found = all.iter().filter(|one| kinds.contains(&one.kind));
        found.collect()
    };
    list(body, &of(&[LeftOutKind::Refused, LeftOutKind::Unanswered]));
    for (kind, name) in [
        (LeftOutKind::Held, "held back"),
        (LeftOutKind::Skipped, "skipped"),
    ] {
        let found = of(&[kind]);
        if found.len() <= A_FEW {
            list(body, &found);
        } else {
            *body += &format!("<details>\n<summary>{} {name}</summary>\n", found.len());
            list(body, &found);
            *body += "</details>\n";
        }
    }
    if omitted > 0 {
        *body += &format!("<p class=\"note\">… and {omitted} more, which are older.</p>\n");
    }
}

fn list(body: &mut String, left_out: &[&LeftOut]) {
    if left_out.is_empty() {
        return;
    }
    *body += "<ul class=\"left-out\">\n";
    for one in left_out {
        let (class, kind) = match one.kind {
            LeftOutKind::Skipped => ("skipped", "skipped"),
            LeftOutKind::Refused => ("refused", "refused"),
            LeftOutKind::Held => ("held", "held back"),
            LeftOutKind::Unanswered => ("unanswered", "not answered"),
        };
        let until = one.until.as_ref();
        let until = until.map_or_else(String::new, |until| format!(" until {}", time(until)));
        *body += &format!(
            "<li><code>{}</code> <span class=\"kind {class}\">{kind}{until}</span><p>{}</p></li>\n",
            escape(&one.tag),
            escape(&one.reason)
        );
    }
    *body += "</ul>\n";
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn file(n: usize, verified_by: Option<&str>) -> File {
        let digest = "0f".repeat(32);
        let json = json!({
            "name": format!("k8s-v{n}.raw"), "version": format!("v{n}"), "architecture": null, "size": null,
            "digest": format!("sha256:{digest}"), "tag": null, "verified_by": verified_by,
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_column_is_there_if_it_tells_something() {
        let heads = |files: Vec<File>| {
            let page = directory(&Overview {
                files,
                ..Overview::default()
            });
            let cells = page.split("<th class=\"").skip(1);
            let heads: Vec<_> = cells.filter_map(|cell| cell.split('"').next()).collect();
            (heads.join(" "), page.contains("<dt>Verified by</dt>"))
        };
        let none = vec![file(2, None), file(1, None)];
        assert_eq!(heads(none), ("name version digest".to_owned(), false));
        let all = vec![file(2, Some("key a")), file(1, Some("key a"))];
        assert_eq!(heads(all), ("name version digest".to_owned(), true));
        let one = vec![file(2, Some("key a")), file(1, None)];
        assert_eq!(
            heads(one),
            ("name version verified digest".to_owned(), false)
        );
    }

    #[test]
    fn many_tags_that_are_left_out_on_purpose_are_behind_a_summary() {
        let left_out = |kind: &str, number: usize| -> Vec<LeftOut> {
            let one = |n| {
                let json = json!({
                    "tag": format!("{kind}-{n}"), "name": null, "digest": null, "reason": "why", "kind": kind,
                    "until": null,
                });
                serde_json::from_value(json).unwrap()
            };
            (0..number).map(one).collect()
        };
        for (kind, number, summary) in [
            ("skipped", 5, None),
            ("skipped", 6, Some("6 skipped")),
            ("held", 6, Some("6 held back")),
            ("refused", 50, None),
            ("unanswered", 50, None),
        ] {
            let page = directory(&Overview {
                left_out: left_out(kind, number),
                ..Overview::default()
            });
            assert_eq!(page.matches("<p>why</p>").count(), number, "{kind}");
            let found = page.split_once("<summary>").map(|(_, rest)| rest);
            let found = found.and_then(|rest| rest.split_once("</summary>"));
            assert_eq!(found.map(|(text, _)| text), summary, "{kind}");
        }
    }

    #[test]
    fn the_way_back_leads_to_the_repository() {
        let start = "<a href=\"/\">sysext-oci-proxy</a> /";
        for (directory, expected) in [
            ("k8s", "k8s"),
            ("localhost:5000/acme/k8s", "localhost:5000/acme/k8s"),
            ("k8s:v1", "<a href=\"/k8s/\">k8s</a> / v1"),
            (
                "localhost:5000/acme/k8s@sha256:0f",
                "<a href=\"/localhost:5000/acme/k8s/\">localhost:5000/acme/k8s</a> / sha256:0f",
            ),
        ] {
            assert_eq!(way(directory), format!("{start} {expected}"));
        }
    }
}
