//! The grammars of names once more, written another way than in `name/`: two must agree.

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, joined by slashes.
pub fn is_repository(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_component = |mut rest: &str| {
        loop {
            let after = rest.trim_start_matches(is_plain);
            if after.len() == rest.len() {
                return false; // empty, or no letter where one has to be
            }
            if after.is_empty() {
                return true;
            }
            rest = match after.trim_start_matches('-') {
                shorter if shorter.len() < after.len() => shorter,
                _ => match (after.strip_prefix("__"))
                    .or(after.strip_prefix('_'))
                    .or(after.strip_prefix('.'))
                {
                    Some(shorter) => shorter,
                    None => return false,
                },
            };
        }
    };
    text.len() <= 255 && text.split('/').all(is_component)
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`
pub fn is_tag(text: &str) -> bool {
    text.len() <= 128
        && !text.is_empty()
        && !text.starts_with(['.', '-'])
        && (text.chars()).all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// Whether systemd-sysupdate takes the text in `SHA256SUMS` for a name, without a meaning of its own.
pub fn is_file_name(text: &str) -> bool {
    is_listed_name(text)
        && !["SHA256SUMS", "BEST-BEFORE-"]
            .iter()
            .any(|start| text.starts_with(start))
}

fn is_listed_name(text: &str) -> bool {
    !matches!(text, "" | "." | "..")
        && text.len() <= 255
        && !text.starts_with('\\')
        && !text.contains(|c: char| c == '/' || c == '%' || c.is_control())
}

/// A whole `SHA256SUMS`, as systemd-sysupdate reads it: `<64 hex>  <name>\n`, in the order of names.
pub fn assert_listing(text: &str) {
    let lines = text.strip_suffix('\n').expect("the last line has an end");
    let mut names = Vec::new();
    for line in lines.split('\n') {
        let (hex, name) = line.split_once("  ").expect("two blanks");
        assert!(
            hex.len() == 64 && hex.bytes().all(|b| b"0123456789abcdef".contains(&b)),
            "{line:?}"
        );
        assert!(is_listed_name(name), "{line:?}");
        names.push(name);
    }
    assert!(names.is_sorted_by(|one, other| one < other), "{names:?}");
}
