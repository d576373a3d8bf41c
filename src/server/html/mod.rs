//! Pages for people with a browser: plain HTML and one style, without scripts and without anything to load. No I/O.

mod directory;
mod start;

use std::fmt::Display;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest as _, Sha256};

use crate::advice::advice;
use crate::error::Error;
use crate::printable::printable;

pub use directory::directory;
pub use start::start;

/// The style of every page.
const STYLE: &str = include_str!("style.css");

/// Pages have no scripts, images or forms, and this style alone, which its hash names (Content Security Policy Level 3,
/// §6.7.3.3).
pub static POLICY: LazyLock<String> = LazyLock::new(|| {
    let style = BASE64_STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
});

/// The command that shows the log of the service.
const JOURNAL: &str = "journalctl -e -u sysext-oci-proxy";

/// An error, for a client whose `Accept` names HTML.
pub fn error(error: &Error) -> String {
    let status = error.status();
    let title = match status {
        400 | 405 | 408 | 413 | 431 => "The request cannot be answered",
        403 => "Not allowed",
        404 => "Not offered",
        502 => "The registry gave no usable answer",
        503 => "Not now",
        504 => "The registry is too slow",
        _ => "The service failed",
    };
    let (_, remedy) = advice(error);
    let remedy =
        remedy.map(|remedy| format!("<p><strong>Next step:</strong> {}</p>\n", escape(remedy)));
    let body = format!(
        "<p class=\"notice bad\">{}</p>\n{}<p>The log tells more:</p>\n<pre><code>{JOURNAL}</code></pre>\n",
        escape(error.line()),
        remedy.unwrap_or_default()
    );
    page(title, &format!("{} {status}", way_back()), &body)
}

/// A page. `way`: the links to the pages above it; the start has none.
fn page(title: &str, way: &str, body: &str) -> String {
    let title = escape(title);
    let of_program = match way {
        "" => "",
        _ => " · sysext-oci-proxy",
    };
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}{of_program}</title>\n<style>{STYLE}</style>\n</head>\n\
         <body>\n<main>\n<nav>{way}</nav>\n<h1>{title}</h1>\n{body}</main>\n</body>\n</html>\n"
    )
}

/// The link to the start, and what separates it from what follows.
fn way_back() -> &'static str {
    "<a href=\"/\">sysext-oci-proxy</a> /"
}

/// A number of things: `1 file`, `2 files`.
fn count(number: usize, thing: &str) -> String {
    let end = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{end}")
}

/// A time in UTC: `2026-03-01 12:30:05 UTC`, of RFC 3339.
fn time(rfc_3339: &str) -> String {
    let text = escape(rfc_3339);
    let shown = text.replace('T', " ").replace('Z', " UTC");
    format!("<time datetime=\"{text}\">{shown}</time>")
}

fn escape(text: impl Display) -> String {
    printable(&text.to_string())
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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

    /// The colours of a theme by name: `--text: #1a1f26;`.
    fn colours(block: &str) -> BTreeMap<&str, [u8; 3]> {
        let lines = block.lines().filter_map(|line| {
            let (name, value) = line.trim().strip_suffix(';')?.split_once(": #")?;
            let part = |n: usize| u8::from_str_radix(&value[2 * n..2 * n + 2], 16).unwrap();
            Some((name, [part(0), part(1), part(2)]))
        });
        lines.collect()
    }

    /// WCAG 2.2, "relative luminance" and "contrast ratio".
    fn contrast(one: [u8; 3], other: [u8; 3]) -> f64 {
        let luminance = |colour: [u8; 3]| {
            let linear = colour.map(|part| match f64::from(part) / 255.0 {
                part if part <= 0.04045 => part / 12.92,
                part => ((part + 0.055) / 1.055).powf(2.4),
            });
            0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        };
        let (one, other) = (luminance(one), luminance(other));
        (one.max(other) + 0.05) / (one.min(other) + 0.05)
    }

    #[test]
    fn every_text_is_readable_in_light_and_dark() {
        assert!((contrast([0; 3], [255; 3]) - 21.0).abs() < 0.01);
        assert!((contrast([0x77; 3], [255; 3]) - 4.48).abs() < 0.01);
        let (light, rest) = STYLE
            .split_once("@media (prefers-color-scheme: dark)")
            .unwrap();
        let (dark, rest) = rest.split_once("\n}\n").unwrap();
        for (theme, block) in [("light", light), ("dark", dark)] {
            let colours = colours(block);
            let backgrounds = ["--page", "--panel"];
            let texts = ["--text", "--muted", "--link", "--good", "--held", "--bad"];
            assert_eq!(
                colours.len(),
                texts.len() + backgrounds.len() + 1,
                "{theme}: one is no text"
            );
            for text in texts {
                for background in backgrounds {
                    let found = contrast(colours[text], colours[background]);
                    assert!(
                        found >= 4.5,
                        "{theme}: {text} on {background} is {found:.2}"
                    );
                }
            }
        }
        // No other colour is used than these, and each text has one of them.
        assert!(!rest.contains('#') && !rest.contains("rgb"), "{rest}");
        for (property, others) in [("color: var(", "--line"), ("background: var(", "--text")] {
            assert!(rest.contains(property));
            assert!(
                !rest.contains(&format!("{property}{others})")),
                "{property}{others}"
            );
        }
    }

    #[test]
    fn the_policy_lets_the_style_in_and_nothing_else() {
        let sources: Vec<_> = POLICY.split("; ").collect();
        assert_eq!(sources[0], "default-src 'none'");
        assert_eq!(
            sources[2..]
                .iter()
                .filter(|one| one.ends_with(" 'none'"))
                .count(),
            3
        );
        let html = error(&Error::CrossSite);
        let (_, style) = html.split_once("<style>").unwrap();
        let (style, rest) = style.split_once("</style>").unwrap();
        let hash = BASE64_STANDARD.encode(Sha256::digest(style));
        assert_eq!(sources[1], format!("style-src 'sha256-{hash}'"));
        assert!(!rest.contains("style="), "{rest}");
    }
}
