//! Pages for people who open our address in a browser. No I/O.

use std::borrow::Cow;
use std::fmt::Write;

use crate::address::{self, LISTING};
use crate::error::Error;
use crate::listing::{File, Incomplete, LeftOut};
use crate::name::FileName;
use crate::settings::Settings;

/// Bytes of a page's table, roughly: some ten thousand files. The list has all of them.
const MAX_ROWS: usize = 4 << 20;

/// `/`: what this is and how to go on.
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
            let _ = writeln!(body, "<li><a href=\"/{name}/\">{name}</a></li>"); // a String takes it all
        }
        body.push_str("</ul>\n");
    }
    page("sysext-oci-proxy", &body)
}

/// `/<repository>/`: its files, and what of it is not on offer.
pub fn directory<'a>(
    name: &str,
    number: usize,
    files: impl Iterator<Item = (Cow<'a, FileName>, Cow<'a, File>)>,
    left_out: &[LeftOut],
    incomplete: Option<Incomplete>,
) -> String {
    let mut body = format!(
        "<p><a href=\"{LISTING}\">{LISTING}</a> · {} files</p>\n\
         <table>\n<tr><th>file</th><th>bytes</th><th>tag</th><th>sha256</th></tr>\n",
        number
    );
    for (n, (name, file)) in files.enumerate() {
        if body.len() > MAX_ROWS {
            let rest = number - n;
            let _ = writeln!(body, "<tr><td>… and {rest} more files</td></tr>");
            break;
        }
        // Without the dot a name with a colon would be a URL of its own, perhaps of a script.
        let link = escape(&format!("./{}", address::in_url(&name)));
        let name = escape(name.as_str());
        let _ = writeln!(
            body,
            "<tr><td><a href=\"{link}\">{name}</a></td><td>{}</td><td>{}</td><td><code>{}</code></td></tr>",
            file.size.map_or_else(String::new, |size| size.to_string()),
            escape(file.tag.as_str()),
            file.digest.hex()
        );
    }
    body.push_str("</table>\n");
    if let Some(incomplete) = incomplete {
        let _ = writeln!(body, "<p>Incomplete: {incomplete}.</p>"); // a String takes it all
    }
    if !left_out.is_empty() {
        body.push_str("<p>Not on offer:</p>\n<ul>\n");
        for left_out in left_out {
            let (tag, reason) = (escape(left_out.tag.as_str()), escape(&left_out.reason));
            let _ = writeln!(body, "<li><code>{tag}</code>: {reason}</li>");
        }
        body.push_str("</ul>\n");
    }
    page(name, &body)
}

/// An error, for an `Accept` that names HTML.
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
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
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
