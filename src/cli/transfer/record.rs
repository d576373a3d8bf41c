//! The record that `--write` appends to a file, and that `--undo` reads. It is at the end of the file, so that nothing
//! else has to be kept:
//!
//! ```text
//! # "transfer --undo" removes this file unless it was changed, and these directories if they are empty then:
//! # /etc/sysupdate.kubernetes.d
//! # sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
//! ```
//!
//! The last line is the digest of all lines before it.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::dir::Dir;

/// The first line of a record.
const HEAD: &str = "\n# \"transfer --undo\" removes this file unless it was changed, and these directories if they are empty then:\n";

/// Largest file that is read, in bytes: those that are written here are much smaller.
const LARGEST: u64 = 64 << 10;

/// The record of a file, and whether the file was changed.
#[derive(Debug, PartialEq)]
pub enum Record {
    /// Another program or a person wrote the file.
    Foreign,
    /// This program wrote the file, and it was changed since.
    Changed,
    /// This program wrote the file, and it is unchanged. The directories were created for it, parents first.
    Unchanged { made: Vec<PathBuf> },
}

impl Record {
    /// The record of a file in a directory.
    pub fn read(dir: &Dir, name: &OsStr) -> io::Result<Self> {
        let mut bytes = Vec::new();
        dir.file(name)?.take(LARGEST).read_to_end(&mut bytes)?;
        Ok(Self::of(&String::from_utf8_lossy(&bytes)))
    }

    /// Reads the record at the end of a file.
    pub fn of(text: &str) -> Self {
        let Some((_, record)) = text.split_once(HEAD) else {
            return Self::Foreign;
        };
        let paths = record.lines().filter_map(|line| line.strip_prefix("# /"));
        let made = paths.map(|path| Path::new("/").join(path)).collect();
        let lines = text
            .strip_suffix('\n')
            .and_then(|text| text.rsplit_once('\n'));
        let is_unchanged =
            lines.is_some_and(|(before, last)| last == digest(&format!("{before}\n")));
        match is_unchanged {
            true => Self::Unchanged { made },
            false => Self::Changed,
        }
    }
}

/// A text with its record.
pub fn with_record(text: &str, made: &[PathBuf]) -> String {
    let mut text = format!("{text}{HEAD}");
    for directory in made {
        text += &format!("# {}\n", directory.display());
    }
    let digest = digest(&text);
    text + &digest + "\n"
}

/// The bytes of a file without its record.
pub fn without_record(bytes: &[u8]) -> &[u8] {
    let head = HEAD.as_bytes();
    let at = bytes.windows(head.len()).position(|window| window == head);
    &bytes[..at.unwrap_or(bytes.len())]
}

/// The last line of a record.
fn digest(lines: &str) -> String {
    format!("# {}", Digest::of(lines.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[Transfer]\nVerify=no\n";

    #[test]
    fn a_record_says_whether_the_file_is_as_it_was_written() {
        let made = [PathBuf::from("/etc/sysupdate.a.d"), "/var/lib/a".into()];
        let written = with_record(TEXT, &made);
        assert!(
            written.starts_with(TEXT) && written.ends_with('\n'),
            "{written}"
        );
        assert_eq!(without_record(written.as_bytes()), TEXT.as_bytes());
        let made = made.to_vec();
        for (text, expected, why) in [
            (
                written.clone(),
                Record::Unchanged { made },
                "as it was written",
            ),
            (
                with_record(TEXT, &[]),
                Record::Unchanged { made: vec![] },
                "no directories",
            ),
            (TEXT.to_owned(), Record::Foreign, "no record"),
            (String::new(), Record::Foreign, "empty"),
            (
                written.replace("=no", "=yes"),
                Record::Changed,
                "another text",
            ),
            (
                written.replace("/var/lib/a", "/var/lib"),
                Record::Changed,
                "another directory",
            ),
            (
                format!("{written}InstancesMax=2\n"),
                Record::Changed,
                "a line more",
            ),
            (format!("\n{written}"), Record::Changed, "a line before"),
            (
                written.trim_end().to_owned(),
                Record::Changed,
                "no last newline",
            ),
            (HEAD.to_owned(), Record::Changed, "cut off"),
        ] {
            assert_eq!(Record::of(&text), expected, "{why}");
        }
        assert_eq!(without_record(TEXT.as_bytes()), TEXT.as_bytes());
    }
}
