//! Pages for people with a browser. No I/O.

use super::json::Overview;
use crate::address::{self, LISTING};
use crate::error::Error;
use crate::printable::printable;
use crate::settings::Settings;

/// Size of a page, roughly, at which its table ends: some ten thousand files. `SHA256SUMS` has all of them.
const MAX_ROWS: usize = 4 << 20;

/// `/`: the purpose of the service, and the repositories in the settings.
pub fn start(settings: &Settings) -> String {
    let mut body = format!(
        "<p>This serves OCI registries to systemd-sysupdate. The default registry is <code>{}</code>.</p>\n\
         <p>Add a repository to the address: <code>/&lt;repository&gt;/</code> shows its files, \
         <code>/&lt;repository&gt;/{LISTING}</code> is what systemd-sysupdate reads.</p>\n",
        escape(&settings.registry.to_string())
    );
    if !settings.repositories.is_empty() {
        body.push_str("<p>In the settings are:</p>\n<ul>\n");
        for repository in settings.repositories.keys() {
            let name = escape(&repository.to_string());
            body += &format!("<li><a href=\"/{name}/\">{name}</a></li>\n");
        }
        body.push_str("</ul>\n");
    }
    page("sysext-oci-proxy", &body)
}

/// `/<repository>/`: its files, and the tags and files that are left out.
pub fn directory(overview: &Overview) -> String {
    let omitted = overview.omitted.unwrap_or_default();
    let number = overview.files.len() + omitted.files;
    let mut body = format!(
        "<p><a href=\"{LISTING}\">{LISTING}</a> · {number} files</p>\n\
         <table>\n<tr><th>file</th><th>bytes</th><th>tag</th><th>sha256</th></tr>\n"
    );
    let mut shown = 0;
    for file in &overview.files {
        if body.len() > MAX_ROWS {
            break;
        }
        shown += 1;
        // Without the dot a name with a colon would be a URL of its own, perhaps of a script.
        let link = escape(&format!("./{}", address::in_url(&file.name)));
        let name = escape(file.name.as_str());
        body += &format!(
            "<tr><td><a href=\"{link}\">{name}</a></td><td>{}</td><td>{}</td><td><code>{}</code></td></tr>\n",
            file.size.map_or_else(String::new, |size| size.to_string()),
            file.tag.as_ref().map_or("", |tag| tag.as_str()),
            file.digest.hex()
        );
    }
    if shown < number {
        let rest = number - shown;
        body += &format!("<tr><td>… and {rest} more files</td></tr>\n");
    }
    body.push_str("</table>\n");
    if let Some(incomplete) = overview.incomplete {
        body += &format!("<p>Incomplete: {incomplete}.</p>\n");
    }
    if !overview.left_out.is_empty() {
        body.push_str("<p>Not on offer:</p>\n<ul>\n");
        for left_out in &overview.left_out {
            let (tag, reason) = (escape(left_out.tag.as_str()), escape(&left_out.reason));
            body += &format!("<li><code>{tag}</code>: {reason}</li>\n");
        }
        body.push_str("</ul>\n");
    }
    page(&overview.repository, &body)
}

/// An error, for a client whose `Accept` names HTML.
pub fn error(error: &Error) -> String {
    page(
        &format!("Error {}", error.status()),
        &format!("<p>{}</p>\n", escape(&error.line())),
    )
}

fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>{title}</title></head>\n\
         <body>\n<h1>{title}</h1>\n{body}</body>\n</html>\n"
    )
}

fn escape(text: &str) -> String {
    printable(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_wrote_stays_text() {
        let nasty = Error::BadAddress {
            path: "<script>\"&".into(),
            why: "x".into(),
        };
        let html = error(&nasty);
        assert!(
            html.contains("bad address &quot;&lt;script&gt;\\&quot;&amp;&quot;: x"),
            "{html}"
        );
        assert!(!html.contains("<script>"), "{html}");
    }
}
