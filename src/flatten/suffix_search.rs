//! Finds the one file in an image whose name ends in the setting `suffix`. No I/O.

use crate::tar::show;

/// Most files that the error names.
const MAX_SHOWN: usize = 3;

/// A search for the file.
pub struct SuffixSearch<'a, T> {
    suffix: &'a str,
    found: Option<T>,
    /// The first few paths, for the error.
    paths: Vec<String>,
    /// Number of files that were found.
    count: usize,
}

impl<'a, T> SuffixSearch<'a, T> {
    /// Upper and lower case are the same.
    pub fn new(suffix: &'a str) -> Self {
        Self {
            suffix,
            found: None,
            paths: Vec::new(),
            count: 0,
        }
    }

    /// Considers a regular file. `place`: what [`SuffixSearch::found`] returns for it.
    pub fn see(&mut self, path: &[u8], place: T) {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        let start = name.len().checked_sub(self.suffix.len());
        let ends_so = |start: usize| name[start..].eq_ignore_ascii_case(self.suffix.as_bytes());
        if !start.is_some_and(|start| start > 0 && ends_so(start)) {
            return;
        }
        self.found = self.found.take().or(Some(place));
        self.count += 1;
        if self.paths.len() < MAX_SHOWN {
            self.paths.push(show(path));
        }
    }

    /// The place of the file, or why not one file was found. The reason is put after the name of the uppermost layer.
    pub fn found(self) -> Result<T, String> {
        let suffix = self.suffix;
        match (self.found, self.count) {
            (Some(found), 1) => Ok(found),
            (_, 0) => Err(format!(
                "with it the image has no file whose name ends in {suffix}, which the setting 'suffix' asks for"
            )),
            (_, count) => {
                let more = if count > MAX_SHOWN { ", …" } else { "" };
                let paths = self.paths.join(", ");
                Err(format!(
                    "with it the image has {count} files whose names end in {suffix}, expected one: {paths}{more}"
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_ends_so_or_the_reason_says_which_do() {
        let none = "with it the image has no file whose name ends in .img, which the setting 'suffix' asks for";
        for (paths, expected) in [
            (&["usr/a", "disk/os.IMG"][..], Ok(1)),
            (&["a.img.gz", "img", ".img", "x/.img", "a.img/b"], Err(none)),
            (&[], Err(none)),
            (
                &["a.img", "b/b.img"],
                Err(
                    "with it the image has 2 files whose names end in .img, expected one: a.img, b/b.img",
                ),
            ),
            (
                &["1.img", "2.img", "3.img", "4.img"],
                Err(
                    "with it the image has 4 files whose names end in .img, expected one: 1.img, 2.img, 3.img, …",
                ),
            ),
        ] {
            let mut search = SuffixSearch::new(".img");
            for (n, path) in paths.iter().enumerate() {
                search.see(path.as_bytes(), n);
            }
            assert_eq!(search.found(), expected.map_err(str::to_owned), "{paths:?}");
        }
    }
}
