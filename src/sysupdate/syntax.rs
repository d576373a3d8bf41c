//! The syntax of systemd.syntax(7): sections, and in them settings with a value. No I/O.

use std::fmt;
use std::path::{Path, PathBuf};

/// A place in a file of the administrator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: PathBuf,
    /// The number of the line, from 1.
    pub line: usize,
}

/// A mistake in a file, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub file: PathBuf,
    /// The number of the line, from 1; `None` if the mistake is not in a single line.
    pub line: Option<usize>,
    pub why: String,
}

/// A setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub place: Place,
    pub section: String,
    pub key: String,
    pub value: String,
}

impl Place {
    /// A mistake in this line.
    pub fn fault(&self, why: impl Into<String>) -> Fault {
        Fault {
            file: self.file.clone(),
            line: Some(self.line),
            why: why.into(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

impl Fault {
    /// The file, and the line if it is one.
    pub fn place(&self) -> String {
        match self.line {
            Some(line) => format!("{}:{line}", self.file.display()),
            None => self.file.display().to_string(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place(), self.why)
    }
}

/// The settings in a file, in order. systemd ignores a line that is none, and refuses a file with a bad section header
/// (systemd: config_parse in src/shared/conf-parser.c): the first are added to `ignored`, the second is the error.
pub fn parse(file: &Path, text: &str, ignored: &mut Vec<Fault>) -> Result<Vec<Assignment>, Fault> {
    let mut found = Vec::new();
    let mut section = None;
    for (line, text) in joined_lines(text) {
        let file = file.to_owned();
        let place = Place { file, line };
        if let Some(rest) = text.strip_prefix('[') {
            let name = rest.strip_suffix(']');
            let name =
                name.ok_or_else(|| place.fault(format!("`{text}` has no `]` at its end")))?;
            section = Some(name.to_owned());
            continue;
        }
        let Some((key, value)) = text.split_once('=') else {
            ignored.push(place.fault(format!("`{text}` has no `=`, so it is ignored")));
            continue;
        };
        let Some(section) = &section else {
            ignored.push(place.fault(format!("`{text}` is before any section, so it is ignored")));
            continue;
        };
        found.push(Assignment {
            place,
            section: section.clone(),
            key: key.trim_end().to_owned(),
            value: value.trim_start().to_owned(),
        });
    }
    Ok(found)
}

/// The lines without comments and blank ones, with the number of each. A backslash at the end continues a line; the
/// comments in between are no part of it (systemd: `config_parse` in src/shared/conf-parser.c).
fn joined_lines(text: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut is_continued = false;
    for (at, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        if line.trim_start().starts_with(['#', ';']) || (line.trim().is_empty() && !is_continued) {
            continue;
        }
        // Two backslashes are one that continues nothing, and so is one before a space.
        let backslashes = line.len() - line.trim_end_matches('\\').len();
        let (line, continues) = match line.strip_suffix('\\') {
            Some(line) if backslashes % 2 == 1 => (line.trim_start(), true),
            _ => (line.trim_start(), false),
        };
        match found.last_mut().filter(|_| is_continued) {
            Some((_, before)) => {
                before.push(' ');
                before.push_str(line);
            }
            None => found.push((at + 1, line.to_owned())),
        }
        is_continued = continues;
    }
    for (_, line) in &mut found {
        line.truncate(line.trim_end().len());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Vec<String>, Vec<String>), String> {
        let mut ignored = Vec::new();
        let found =
            parse(Path::new("/f"), text, &mut ignored).map_err(|fault| fault.to_string())?;
        let shown = |one: &Assignment| {
            let Assignment {
                place,
                section,
                key,
                value,
            } = one;
            format!("{place} {section} {key}={value}")
        };
        let ignored = ignored.iter().map(Fault::to_string).collect();
        Ok((found.iter().map(shown).collect(), ignored))
    }

    #[test]
    fn settings_have_a_section_and_a_line() {
        for (text, expected) in [
            ("", &[] as &[&str]),
            ("[A]\nb=c", &["/f:2 A b=c"]),
            ("\u{feff}[A]\r\n  b = c d \r\n", &["/f:2 A b=c d"]),
            ("# x\n; y\n\n[A]\n#b=c\nb=", &["/f:6 A b="]),
            ("[A]\nb=c\\\nd\n[B]\ne=f", &["/f:2 A b=c d", "/f:5 B e=f"]),
            (
                "[A]\nb=c \\\n# no\nd\ne=f",
                &["/f:2 A b=c  d", "/f:5 A e=f"],
            ),
            ("[A]\nb=c\\\n\ne=f", &["/f:2 A b=c", "/f:4 A e=f"]),
            ("[A]\nb=c\nb=d=e", &["/f:2 A b=c", "/f:3 A b=d=e"]),
            ("[A]\nb=c\\", &["/f:2 A b=c"]),
            ("[A]\nb=c\\\\\ne=f", &["/f:2 A b=c\\\\", "/f:3 A e=f"]),
            ("[A]\nb=c\\ \ne=f", &["/f:2 A b=c\\", "/f:3 A e=f"]),
        ] {
            let expected = expected.iter().map(|one| (*one).to_owned()).collect();
            assert_eq!(read(text), Ok((expected, Vec::new())), "{text:?}");
        }
    }

    #[test]
    fn other_lines_are_told_with_their_numbers() {
        let (found, ignored) = read("a=b\n[A]\nc\nd=e").unwrap();
        assert_eq!(found, ["/f:4 A d=e"]);
        assert_eq!(
            ignored,
            [
                "/f:1: `a=b` is before any section, so it is ignored",
                "/f:3: `c` has no `=`, so it is ignored"
            ]
        );
        assert_eq!(
            read("[A]\n[B"),
            Err("/f:2: `[B` has no `]` at its end".into())
        );
    }
}
