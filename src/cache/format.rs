//! The file `format` of a cache: a line with the number of the format, and a line with the folders.
//!
//! ```text
//! sysext-oci-proxy cache 2
//! documents releases listings verdicts tags sums made layers tmp
//! ```
//!
//! A program with another format empties the folders that the file names.

use std::io::{self, ErrorKind, Read};
use std::path::Path;

use super::{DOCUMENTS, LAYERS, LISTINGS, MADE, RELEASES, SUMS, TAGS, TMP, VERDICTS};
use crate::dir::Dir;

/// The name of the file.
pub const FORMAT: &str = "format";
/// The first line. The number changes with the layout and meaning of the files.
const HEAD: &str = "sysext-oci-proxy cache 2";
/// The beginning of that line in every format.
const MAGIC: &str = "sysext-oci-proxy cache ";
const FOLDERS: [&str; 9] = [
    DOCUMENTS, RELEASES, LISTINGS, VERDICTS, TAGS, SUMS, MADE, LAYERS, TMP,
];
/// Longest file that is read.
const LARGEST: u64 = 4 << 10;

/// Describes a cache of another format, for the log. `None` if it is of this one.
pub fn other(root: &Dir) -> Option<&'static str> {
    match read(root) {
        None => Some("of an older program"),
        Some(text) => (text.lines().next() != Some(HEAD)).then_some("of another format"),
    }
}

/// Empties a cache. Returns the number of folders that were removed.
pub fn empty(root: &Dir) -> io::Result<usize> {
    let found = read(root).unwrap_or_default();
    let mut removed = 0;
    for folder in folders(&found).chain(FOLDERS) {
        match root.remove_all(folder) {
            Ok(()) => removed += 1,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}

/// The text of the file.
pub fn text() -> String {
    format!("{HEAD}\n{}\n", FOLDERS.join(" "))
}

fn read(root: &Dir) -> Option<String> {
    let mut text = String::new();
    let file = root.file(FORMAT).ok()?;
    file.take(LARGEST).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The folders that the file names. Names that lead out of the cache are ignored.
fn folders(text: &str) -> impl Iterator<Item = &str> {
    let mut lines = text.lines();
    let is_ours = lines.next().is_some_and(|head| head.starts_with(MAGIC));
    let names = lines.next().filter(|_| is_ours).unwrap_or_default();
    let is_plain = |name: &&str| {
        let path = Path::new(name);
        path.file_name() == Some(path.as_os_str()) && *name != FORMAT
    };
    names.split_whitespace().filter(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::prune::QUOTAS;

    #[test]
    fn every_folder_with_a_limit_is_emptied() {
        let limited = QUOTAS.iter().flat_map(|quota| quota.folders);
        for folder in limited.chain(&[MADE, LAYERS, TMP]) {
            assert!(FOLDERS.contains(folder), "{folder}");
        }
    }

    #[test]
    fn folders_are_in_the_cache_whatever_a_file_says() {
        let of = |text: &str| Vec::from_iter(folders(text).map(str::to_owned));
        let head = "sysext-oci-proxy cache 7";
        assert_eq!(of(&format!("{head}\na b-c\nd")), ["a", "b-c"]);
        assert_eq!(
            of(&format!("{head}\n/etc ../x . .. a/b a/ format z")),
            ["z"]
        );
        assert_eq!(of("something else\na b"), [""; 0]);
        assert_eq!(of(head), [""; 0]);
        assert_eq!(of(""), [""; 0]);
    }
}
