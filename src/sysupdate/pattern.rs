//! `MatchPattern=` of sysupdate.d(5): which names of files it matches, and the version in each. No I/O.
//!
//! As systemd does it (systemd: src/sysupdate/sysupdate-pattern.c, and `version_is_valid` in src/basic/string-util.c).

use std::fmt;

use super::SystemdVersion;

/// Characters that no pattern may have.
const RESERVED: [char; 9] = ['$', '*', '?', '[', ']', '!', '\\', '|', '\x7f'];
/// Before a pattern: what follows matches the name alone, whatever directory it is in.
const ANY_DIRECTORY: &str = "**/";
/// Longest name of a file, in bytes, and so of a version.
const MAX_NAME: usize = 255;

/// A pattern, with its specifiers expanded.
#[derive(Clone, Debug, PartialEq)]
pub struct Pattern {
    text: String,
    is_in_any_directory: bool,
    pub(super) parts: Vec<Part>,
}

/// A part of a pattern.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Part {
    /// This text. It has no `/` in it.
    Literal(String),
    /// `/`
    Slash,
    Field(Field),
}

/// The field that a letter after `@` stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `@v`
    Version,
    /// `@u`
    PartitionUuid,
    /// `@f`
    PartitionFlags,
    /// `@t`
    ModificationTime,
    /// `@m`
    Mode,
    /// `@s`
    Size,
    /// `@d`
    TriesDone,
    /// `@l`
    TriesLeft,
    /// `@a`
    NoAuto,
    /// `@r`
    ReadOnly,
    /// `@g`
    GrowFileSystem,
    /// `@h`
    Sha256,
}

impl Pattern {
    /// Reads a pattern whose specifiers are expanded. The error is the reason.
    pub fn parse(text: &str, systemd: SystemdVersion) -> Result<Self, String> {
        let body = text.strip_prefix(ANY_DIRECTORY);
        let body = body.filter(|_| systemd.knows_any_directory());
        let pattern = Self {
            text: text.to_owned(),
            is_in_any_directory: body.is_some(),
            parts: parts(body.unwrap_or(text))?,
        };
        if pattern.is_in_any_directory && pattern.parts.contains(&Part::Slash) {
            return Err(format!("behind `{ANY_DIRECTORY}` there is another `/`"));
        }
        match pattern.has(Field::Version) {
            true => Ok(pattern),
            false => Err("it has no `@v`, so no file has a version".into()),
        }
    }

    /// Whether it has this field.
    pub fn has(&self, field: Field) -> bool {
        self.parts.contains(&Part::Field(field))
    }

    /// The version of a file with this name; `None` if the pattern does not match.
    pub fn version<'a>(&self, name: &'a str, systemd: SystemdVersion) -> Option<&'a str> {
        let mut rest = match self.is_in_any_directory {
            true => name.rsplit('/').next().unwrap_or(name),
            false => name,
        };
        let mut version = None;
        for (at, part) in self.parts.iter().enumerate() {
            rest = match part {
                Part::Literal(text) => rest.strip_prefix(text.as_str())?,
                Part::Slash => rest.strip_prefix('/')?,
                Part::Field(field) => {
                    // To the first occurrence of what follows, also if a later one would match.
                    let end = match self.parts.get(at + 1) {
                        Some(Part::Literal(text)) => rest.find(text.as_str())?,
                        Some(_) => rest.find('/')?,
                        None => rest.len(),
                    };
                    let (value, rest) = rest.split_at(end);
                    if !field.takes(value, systemd) {
                        return None;
                    }
                    if *field == Field::Version {
                        version = Some(value);
                    }
                    rest
                }
            };
        }
        version.filter(|_| rest.is_empty() || !systemd.anchors_the_end())
    }
}

/// The version of a file by the first of several patterns that matches its name.
pub fn version<'a>(
    patterns: &[Pattern],
    name: &'a str,
    systemd: SystemdVersion,
) -> Option<&'a str> {
    let mut versions = patterns.iter().map(|one| one.version(name, systemd));
    versions.find_map(|version| version)
}

/// Whether systemd takes this text for a version.
pub fn is_version(text: &str, systemd: SystemdVersion) -> bool {
    let others = systemd.version_characters();
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || others.contains(c);
    !text.is_empty() && text.len() <= MAX_NAME && text.chars().all(is_allowed)
}

fn parts(text: &str) -> Result<Vec<Part>, String> {
    let mut found: Vec<Part> = Vec::new();
    let mut letters = text.chars();
    while let Some(mut c) = letters.next() {
        if c == '@' {
            match letters.next() {
                Some('@') => {}
                Some(letter) => {
                    add_field(&mut found, letter)?;
                    continue;
                }
                None => return Err("it ends in a single `@`".into()),
            }
            c = '@';
        }
        if c == '/' {
            found.push(Part::Slash);
            continue;
        }
        if !(' '..='~').contains(&c) || RESERVED.contains(&c) {
            return Err(format!("it has a {c:?}, which no pattern may have"));
        }
        match found.last_mut() {
            Some(Part::Literal(text)) => text.push(c),
            _ => found.push(Part::Literal(c.into())),
        }
    }
    Ok(found)
}

fn add_field(found: &mut Vec<Part>, letter: char) -> Result<(), String> {
    let field = Field::of(letter).ok_or_else(|| format!("`@{letter}` is no field"))?;
    if found.contains(&Part::Field(field)) {
        return Err(format!("it has `@{letter}` twice"));
    }
    if matches!(found.last(), Some(Part::Field(_))) {
        return Err(format!(
            "there is no text between `@{letter}` and the field before it"
        ));
    }
    found.push(Part::Field(field));
    Ok(())
}

impl Field {
    const LETTERS: [(char, Self); 12] = [
        ('v', Self::Version),
        ('u', Self::PartitionUuid),
        ('f', Self::PartitionFlags),
        ('t', Self::ModificationTime),
        ('m', Self::Mode),
        ('s', Self::Size),
        ('d', Self::TriesDone),
        ('l', Self::TriesLeft),
        ('a', Self::NoAuto),
        ('r', Self::ReadOnly),
        ('g', Self::GrowFileSystem),
        ('h', Self::Sha256),
    ];

    fn of(letter: char) -> Option<Self> {
        let mut letters = Self::LETTERS.into_iter();
        letters.find_map(|(one, field)| (one == letter).then_some(field))
    }

    /// Whether this can be its value.
    pub(super) fn takes(self, value: &str, systemd: SystemdVersion) -> bool {
        match self {
            Self::Version => is_version(value, systemd),
            Self::PartitionUuid => is_uuid(value),
            Self::PartitionFlags => {
                let digits = value.strip_prefix("0x").unwrap_or(value);
                is_number(digits, 16)
            }
            Self::ModificationTime | Self::Size | Self::TriesDone | Self::TriesLeft => {
                is_number(value, 10)
            }
            Self::Mode => {
                is_number(value, 8)
                    && u32::from_str_radix(value, 8).is_ok_and(|mode| mode & !0o775 == 0)
            }
            Self::NoAuto | Self::ReadOnly | Self::GrowFileSystem => boolean(value).is_some(),
            Self::Sha256 => value.len() == 64 && value.bytes().all(|b| b.is_ascii_hexdigit()),
        }
    }
}

/// A number of 64 bits. `u64::from_str_radix` alone takes a sign, too.
fn is_number(text: &str, radix: u32) -> bool {
    text.chars().all(|c| c.is_digit(radix)) && u64::from_str_radix(text, radix).is_ok()
}

/// 32 hex digits, or with the hyphens of a UUID (systemd: sd_id128_from_string).
fn is_uuid(text: &str) -> bool {
    let is_hyphen = |at: usize| matches!(at, 8 | 13 | 18 | 23);
    let mut bytes = text.bytes().enumerate();
    match text.len() {
        32 => bytes.all(|(_, b)| b.is_ascii_hexdigit()),
        36 => bytes.all(|(at, b)| match is_hyphen(at) {
            true => b == b'-',
            false => b.is_ascii_hexdigit(),
        }),
        _ => false,
    }
}

/// A boolean as systemd reads it (systemd: parse_boolean).
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => Some(true),
        "0" | "no" | "n" | "false" | "f" | "off" => Some(false),
        _ => None,
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: SystemdVersion = SystemdVersion(257);
    const NEW: SystemdVersion = SystemdVersion(262);

    fn matched<'a>(pattern: &str, name: &'a str, systemd: SystemdVersion) -> Option<&'a str> {
        Pattern::parse(pattern, systemd)
            .unwrap()
            .version(name, systemd)
    }

    #[test]
    fn a_pattern_matches_as_in_every_systemd() {
        let uuid = "os_1.2_0a0b0c0d-0102-0304-0506-0708090a0b0c.raw";
        let digest = format!("a_1_{}.raw", "0f".repeat(32));
        for (pattern, name, expected, why) in [
            ("k_@v.raw", "k_1.2.raw", Some("1.2"), "plain"),
            ("k_@v.raw", "k_.raw", None, "no version is empty"),
            ("k_@v.raw", "j_1.2.raw", None, "another text before it"),
            ("k_@v.raw", "xk_1.2.raw", None, "not from the beginning"),
            ("k_@v.raw", "k_1.2.efi", None, "another text behind it"),
            ("@v", "1.2", Some("1.2"), "a version alone"),
            ("@v.raw", "1.2.raw", Some("1.2"), "at the beginning"),
            ("k-@v", "k-1.2-x86-64", Some("1.2-x86-64"), "to the end"),
            (
                "k-@v-x86",
                "k-1-x-x86",
                Some("1-x"),
                "to the whole text behind it",
            ),
            ("k_@v.raw", "k_1.2/3.raw", None, "a `/` is in no version"),
            ("k_@v.raw", "k_1 2.raw", None, "nor is a space"),
            ("k@@_@v.raw", "k@_1.raw", Some("1"), "two `@` are one"),
            ("os_@v_@u.raw", uuid, Some("1.2"), "a UUID"),
            ("os_@v_@u.raw", "os_1.2_0a0b.raw", None, "no UUID"),
            ("a_@v_@h.raw", &digest, Some("1"), "a digest"),
            ("a_@v_@h.raw", "a_1_0f.raw", None, "no digest"),
            ("a_@v_@f.raw", "a_1_0x1f.raw", Some("1"), "flags"),
            ("a_@v_@f.raw", "a_1_xyz.raw", None, "no flags"),
            ("a_@v+@l-@d.efi", "a_1+3-0.efi", Some("1"), "boot counting"),
            ("a_@v+@l-@d.efi", "a_1+x-0.efi", None, "no number of tries"),
            ("a_@v+@l.efi", "a_1++3.efi", None, "a number has no sign"),
            ("a_@v_@m.raw", "a_1_644.raw", Some("1"), "a mode"),
            (
                "a_@v_@m.raw",
                "a_1_4755.raw",
                None,
                "a mode that systemd refuses",
            ),
            (
                "a_@v_@t-@s.raw",
                "a_1_17-4096.raw",
                Some("1"),
                "time and size",
            ),
            (
                "a_@v_@a@@@r_@g.raw",
                "a_1_0@yes_off.raw",
                Some("1"),
                "booleans",
            ),
            ("a_@v_@r.raw", "a_1_2.raw", None, "no boolean"),
            ("d/a_@v.raw", "d/a_1.raw", Some("1"), "a directory"),
            (
                "@v/a.raw",
                "1.2/a.raw",
                Some("1.2"),
                "a directory with the version",
            ),
            ("@v/a.raw", "1.2", None, "the directory alone"),
        ] {
            for systemd in [OLD, NEW] {
                let found = matched(pattern, name, systemd);
                assert_eq!(found, expected, "{why}: {pattern} {name} {systemd:?}");
            }
        }
    }

    #[test]
    fn what_a_pattern_matches_has_changed() {
        for (pattern, name, old, new, why) in [
            ("k_@v.raw", "k_1.raw.xz", Some("1"), None, "the end"),
            ("k_@v.raw", "k_1.raw.sha256", Some("1"), None, "the end"),
            (
                "k_@v",
                "k_1.raw.xz",
                Some("1.raw.xz"),
                Some("1.raw.xz"),
                "a field takes the end",
            ),
            (
                "k_@v.raw",
                "k_1.raw.raw",
                Some("1"),
                None,
                "the first `.raw` ends the version",
            ),
            ("k_@v.raw", "k_1~rc1.raw", None, Some("1~rc1"), "`~`"),
            ("k_@v.raw", "k_1^g1.raw", None, Some("1^g1"), "`^`"),
            ("k_@v.raw", "k_1,2.raw", Some("1,2"), None, "`,`"),
            (
                "k_@v.raw",
                "k_1.0_1+b-2.raw",
                Some("1.0_1+b-2"),
                Some("1.0_1+b-2"),
                "all others",
            ),
        ] {
            assert_eq!(matched(pattern, name, OLD), old, "{why}: {pattern} {name}");
            assert_eq!(matched(pattern, name, NEW), new, "{why}: {pattern} {name}");
        }
        let anywhere = Pattern::parse("**/k_@v.raw", NEW).unwrap();
        for (name, expected) in [
            ("k_1.raw", Some("1")),
            ("a/b/k_1.raw", Some("1")),
            ("a/k", None),
        ] {
            assert_eq!(anywhere.version(name, NEW), expected, "{name}");
        }
    }

    #[test]
    fn the_first_pattern_that_matches_has_the_version() {
        let patterns = ["k_@v.raw", "k_@v", "j_@v.raw"];
        let patterns = patterns.map(|text| Pattern::parse(text, NEW).unwrap());
        for (name, expected) in [
            ("k_1.raw", Some("1")),
            ("k_1.efi", Some("1.efi")),
            ("j_2.raw", Some("2")),
            ("i_3.raw", None),
        ] {
            assert_eq!(version(&patterns, name, NEW), expected, "{name}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_the_reason() {
        for (text, expected) in [
            ("", "no `@v`"),
            ("k.raw", "no `@v`"),
            ("k_@@v.raw", "no `@v`"),
            ("k_@v_@v.raw", "`@v` twice"),
            ("k_@v@u.raw", "no text between `@u`"),
            ("k_@x.raw", "`@x` is no field"),
            ("k_@v@", "ends in a single `@`"),
            ("k_@v*", "it has a '*'"),
            ("k_@v\u{e9}", "it has a 'é'"),
            ("**/d/k_@v", "another `/`"),
        ] {
            let why = Pattern::parse(text, NEW).unwrap_err();
            assert!(why.contains(expected), "{text}: {why}");
        }
        let why = Pattern::parse("**/k_@v", OLD).unwrap_err();
        assert!(why.contains("it has a '*'"), "{why}");
    }
}
