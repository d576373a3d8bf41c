//! Text of registries, settings and clients as it may be shown: a terminal, a log and a page take some characters for
//! commands, and people do not see others.
//!
//! Such a character is shown as Rust writes it in a string: `\n`, `\u{202e}`.

use std::borrow::Cow;
use std::fmt::Write;

/// Longest reason, in characters: it quotes texts of strangers.
const MAX_REASON: usize = 1000;

/// The text with everything escaped that is not seen as a character of its own: controls, characters that change the
/// direction of text, invisible ones, spaces other than the usual one, line separators, combining and unassigned ones.
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, is_hidden, |shown, c| match c.is_control() {
        true => shown.extend(c.escape_debug()),
        false => shown.extend(c.escape_unicode()),
    })
}

/// The same in ASCII, for headers.
pub fn in_ascii(text: &str) -> Cow<'_, str> {
    let is_other = |c: char| c != ' ' && !c.is_ascii_graphic();
    escaped(text, is_other, |shown, c| shown.extend(c.escape_default()))
}

/// JSON that means the same, with these characters escaped as JSON does it: `\u202e`.
///
/// The text of `serde_json` has escapes already for all that is below U+0020 in a string.
pub fn in_json(json: &str) -> Cow<'_, str> {
    let is_in_string = |c: char| c >= ' ' && is_hidden(c);
    escaped(json, is_in_string, |shown, c| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(shown, "\\u{unit:04x}"); // a String takes it all
        }
    })
}

/// A size in bytes as people read it: `24.5 MiB`.
pub fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // The unit in which it is at least 1, and less than 1024 when rounded.
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Whether a character is not seen as one of its own.
fn is_hidden(c: char) -> bool {
    match c {
        // Rust escapes these for its own syntax.
        '\'' | '"' | '\\' => false,
        // Letters and a symbol to Unicode, and blank.
        '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' | '\u{2800}' => true,
        // Rust's table: categories C and Z without the space, and the property Grapheme_Extend.
        c => c.escape_debug().len() > 1,
    }
}

fn escaped(
    text: &str,
    is_escaped: impl Fn(char) -> bool,
    escape: impl Fn(&mut String, char),
) -> Cow<'_, str> {
    if !text.contains(&is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match is_escaped(c) {
            true => escape(&mut shown, c),
            false => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// A reason, cut off where it is too long.
pub fn shortened(mut reason: String) -> String {
    if let Some((end, _)) = reason.char_indices().nth(MAX_REASON) {
        reason.truncate(end);
        reason.push('…');
        reason.shrink_to_fit();
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_seen_is_escaped() {
        for (text, shown, why) in [
            ("k8s-v1.raw", "k8s-v1.raw", "plain"),
            (
                "it's \"a\\b\" – größer 日本",
                "it's \"a\\b\" – größer 日本",
                "seen",
            ),
            ("a\0\t\r\nb", r"a\0\t\r\nb", "lines"),
            (
                "\x1b[31m\x7f\u{9b}2J",
                r"\u{1b}[31m\u{7f}\u{9b}2J",
                "a terminal's commands",
            ),
            (
                "gpj\u{202e}war.k8s",
                r"gpj\u{202e}war.k8s",
                "the other direction",
            ),
            (
                "\u{202a}\u{202b}\u{202c}\u{202d}\u{2066}\u{2067}\u{2068}\u{2069}",
                r"\u{202a}\u{202b}\u{202c}\u{202d}\u{2066}\u{2067}\u{2068}\u{2069}",
                "embedding and isolates",
            ),
            (
                "\u{200e}\u{200f}\u{61c}",
                r"\u{200e}\u{200f}\u{61c}",
                "marks of direction",
            ),
            (
                "\u{200b}\u{200c}\u{200d}\u{2060}\u{feff}\u{ad}\u{180e}",
                r"\u{200b}\u{200c}\u{200d}\u{2060}\u{feff}\u{ad}\u{180e}",
                "no width",
            ),
            (
                "\u{2028}\u{2029}\u{85}",
                r"\u{2028}\u{2029}\u{85}",
                "separators of lines",
            ),
            (
                "\u{a0}\u{2003}\u{3000}",
                r"\u{a0}\u{2003}\u{3000}",
                "other spaces",
            ),
            (
                "\u{3164}\u{2800}\u{ffa0}",
                r"\u{3164}\u{2800}\u{ffa0}",
                "blank letters",
            ),
            (
                "\u{fe0f}\u{e0100}\u{e0041}",
                r"\u{fe0f}\u{e0100}\u{e0041}",
                "selectors and labels",
            ),
            ("e\u{301}", r"e\u{301}", "what changes the letter before it"),
            (
                "\u{e000}\u{378}\u{10ffff}",
                r"\u{e000}\u{378}\u{10ffff}",
                "no characters",
            ),
        ] {
            assert_eq!(printable(text), shown, "{why}");
        }
        assert!(matches!(printable("größer"), Cow::Borrowed(_)), "no copy");
    }

    #[test]
    fn a_size_has_the_unit_that_people_read() {
        for (bytes, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (25_690_112, "24.5 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(human_size(bytes), expected, "{bytes}");
        }
    }

    #[test]
    fn a_header_is_ascii() {
        assert_eq!(
            in_ascii("\"größer\"\r\nX: \u{202e}"),
            r#""gr\u{f6}\u{df}er"\r\nX: \u{202e}"#
        );
    }

    #[test]
    fn json_keeps_its_meaning() {
        let value = serde_json::json!({"a\u{202e}": "\u{9b}\x7f\n\"\\ \u{e0041} größer"});
        let json = serde_json::to_string_pretty(&value).unwrap();
        let shown = in_json(&json);
        assert_eq!(
            shown,
            "{\n  \"a\\u202e\": \"\\u009b\\u007f\\n\\\"\\\\ \\udb40\\udc41 größer\"\n}"
        );
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
            value
        );
    }
}
