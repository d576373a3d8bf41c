//! Pages for people with a browser. No I/O.

use std::borrow::Cow;

use crate::address::{self, LISTING};
use crate::error::Error;
use crate::listing::{File, Incomplete, LeftOut};
use crate::name::FileName;
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

/// `/<repository>/`: its files, of which there are `number`, and the tags and files that are skipped.
pub fn directory<'a>(
    name: &str,
    number: usize,
    files: impl Iterator<Item = (Cow<'a, FileName>, Cow<'a, File>)>,
    left_out: &[LeftOut],
    incomplete: Option<Incomplete>,
) -> String {
    let mut body = format!(
        "<p><a href=\"{LISTING}\">{LISTING}</a> · {number} files</p>\n\
         <table>\n<tr><th>file</th><th>bytes</th><th>tag</th><th>sha256</th></tr>\n"
    );
    for (n, (name, file)) in files.enumerate() {
        if body.len() > MAX_ROWS {
            let rest = number - n;
            body += &format!("<tr><td>… and {rest} more files</td></tr>\n");
            break;
        }
        // Without the dot a name with a colon would be a URL of its own, perhaps of a script.
        let link = escape(&format!("./{}", address::in_url(&name)));
        let name = escape(name.as_str());
        body += &format!(
            "<tr><td><a href=\"{link}\">{name}</a></td><td>{}</td><td>{}</td><td><code>{}</code></td></tr>\n",
            file.size.map_or_else(String::new, |size| size.to_string()),
            escape(file.tag.as_str()),
            file.digest.hex()
        );
    }
    body.push_str("</table>\n");
    if let Some(incomplete) = incomplete {
        body += &format!("<p>Incomplete: {incomplete}.</p>\n");
    }
    if !left_out.is_empty() {
        body.push_str("<p>Not on offer:</p>\n<ul>\n");
        for left_out in left_out {
            let (tag, reason) = (escape(left_out.tag.as_str()), escape(&left_out.reason));
            body += &format!("<li><code>{tag}</code>: {reason}</li>\n");
        }
        body.push_str("</ul>\n");
    }
    page(name, &body)
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
