//! URLs of this service: the directory and the file that each names.
//!
//! ```text
//! /<repository>/SHA256SUMS        /<repository>/<file>        /<repository>/<file>.sha256
//! /<repository>+all/…             /<repository>:<tag>/…         /<repository>@sha256:<hex>/…
//! /                               /<repository>/              pages for people
//! ```
//!
//! `located.rs` finds the sources of a directory in the settings.

mod located;

use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::name::{FileName, RepositoryAddress, Tag};

pub use located::{Located, Place};

/// The name of the listing.
pub const LISTING: &str = "SHA256SUMS";

/// Behind a repository: all its tags, also those that the settings leave out. No repository has a `+` in its name.
const ALL: &str = "+all";

/// The characters to encode in a name that goes into a URL, besides all that is not ASCII. To browsers a `\` is
/// a `/`.
const NOT_IN_PATHS: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'\\');

/// The target of a URL.
#[derive(Clone, Debug, PartialEq)]
pub enum Address {
    /// `/`
    Start,
    /// Something in a directory.
    In(Directory, Asked),
}

/// A directory: a repository, or one artifact of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Directory {
    /// The repository as a URL names it.
    pub repository: RepositoryAddress,
    /// All its tags, or one artifact.
    pub view: View,
}

/// A directory of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// Its tags, as far as `versions`, `exclude` and `hold` in the settings want them.
    Tags,
    /// All its tags: `/<repository>+all/`.
    All,
    /// One artifact, by its tag.
    Tag(Tag),
    /// One artifact, pinned.
    Digest(Digest),
}

/// The file in that directory.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    /// The page for people.
    Page,
    /// `SHA256SUMS`
    Listing,
    /// `SHA256SUMS.gpg` and the other names that systemd tries.
    Signature(String),
    /// One of the files in the listing.
    File(FileName),
    /// Its line: `<file>.sha256`
    ChecksumOf(FileName),
}

impl Address {
    /// Reads the target of a request line. A query is ignored, percent-encoding is decoded once.
    pub fn parse(target: &str) -> Result<Self> {
        let bad = |why: String| Error::BadAddress {
            path: target.to_owned(),
            why,
        };
        let path = target.split(['?', '#']).next().unwrap_or_default();
        let path = percent_decode_str(path)
            .decode_utf8()
            .map_err(|_| bad("it is not UTF-8 after percent-decoding".into()))?;
        let path = path
            .strip_prefix('/')
            .ok_or_else(|| bad("it does not begin with '/'".into()))?;
        if path.is_empty() {
            return Ok(Self::Start);
        }
        let Some((directory, file)) = path.rsplit_once('/') else {
            return Err(Error::NotOffered {
                what: format!("/{path}"),
                why: format!("files are below a repository: /<repository>/{LISTING}"),
            });
        };
        let directory = directory.parse().map_err(bad)?;
        Ok(Self::In(directory, parse_file(file).map_err(bad)?))
    }
}

impl View {
    /// Whether it is a directory of tags, rather than of one artifact.
    pub fn is_of_tags(&self) -> bool {
        matches!(self, Self::Tags | Self::All)
    }
}

/// `<repository>`, `<repository>+all`, `<repository>:<tag>` or `<repository>@sha256:<hex>`.
impl FromStr for Directory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A colon in the first of several components belongs to a host's port.
        let last = text.rfind('/').map_or(0, |slash| slash + 1);
        let (repository, view) = if let Some(repository) = text.strip_suffix(ALL) {
            if repository.contains('@') || repository[last..].contains(':') {
                return Err(format!(
                    "{ALL} is for all tags of a repository, and {repository} is one artifact; leave {ALL} out"
                ));
            }
            (repository, View::All)
        } else if let Some((repository, digest)) = text.split_once('@') {
            (repository, View::Digest(digest.parse()?))
        } else if let Some(colon) = text[last..].find(':') {
            let (repository, tag) = text.split_at(last + colon);
            (repository, View::Tag(tag[1..].parse()?))
        } else {
            (text, View::Tags)
        };
        Ok(Self {
            repository: repository.parse()?,
            view,
        })
    }
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.view {
            View::Tags => write!(f, "{}", self.repository),
            View::All => write!(f, "{}{ALL}", self.repository),
            View::Tag(tag) => write!(f, "{}:{tag}", self.repository),
            View::Digest(digest) => write!(f, "{}@{digest}", self.repository),
        }
    }
}

/// A file's name as the last part of a URL's path, which [`Address::parse`] reads back.
pub fn in_url(name: &FileName) -> impl fmt::Display {
    utf8_percent_encode(name.as_str(), NOT_IN_PATHS)
}

fn parse_file(file: &str) -> Result<Asked, String> {
    match file.strip_prefix(LISTING) {
        Some("") => return Ok(Asked::Listing),
        Some(suffix) if suffix.starts_with('.') => return Ok(Asked::Signature(file.to_owned())),
        _ if file.is_empty() => return Ok(Asked::Page),
        _ => {}
    }
    match file.strip_suffix(".sha256") {
        Some(file) => Ok(Asked::ChecksumOf(file.parse()?)),
        None => Ok(Asked::File(file.parse()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(repository: &str, view: View, file: Asked) -> Address {
        let repository = repository.parse().unwrap();
        Address::In(Directory { repository, view }, file)
    }

    #[test]
    fn a_url_is_a_repository_a_view_and_a_file() {
        let hex = "0f".repeat(32);
        let file = |name: &str| Asked::File(name.parse().unwrap());
        let pinned = format!("/k8s@sha256:{hex}/SHA256SUMS");
        let digest = format!("sha256:{hex}").parse().unwrap();
        for (path, expected) in [
            ("/", Address::Start),
            ("/?x", Address::Start),
            ("/k8s/", address("k8s", View::Tags, Asked::Page)),
            (
                "/k8s/SHA256SUMS",
                address("k8s", View::Tags, Asked::Listing),
            ),
            ("/k8s+all/", address("k8s", View::All, Asked::Page)),
            (
                "/localhost:5000/a/k8s%2Ball/SHA256SUMS",
                address("localhost:5000/a/k8s", View::All, Asked::Listing),
            ),
            (
                "/a/b/c/SHA256SUMS?x=/y",
                address("a/b/c", View::Tags, Asked::Listing),
            ),
            (
                "/k8s/SHA256SUMS.gpg",
                address("k8s", View::Tags, Asked::Signature("SHA256SUMS.gpg".into())),
            ),
            (
                "/k8s/SHA256SUMS.sha256.asc",
                address(
                    "k8s",
                    View::Tags,
                    Asked::Signature("SHA256SUMS.sha256.asc".into()),
                ),
            ),
            (
                "/k8s/a%20b.raw",
                address("k8s", View::Tags, file("a b.raw")),
            ),
            (
                "/k8s%2Fx/a.raw",
                address("k8s/x", View::Tags, file("a.raw")),
            ),
            (
                "/k8s/a.raw.sha256",
                address(
                    "k8s",
                    View::Tags,
                    Asked::ChecksumOf("a.raw".parse().unwrap()),
                ),
            ),
            (
                "/k8s:edge/a.raw",
                address("k8s", View::Tag("edge".parse().unwrap()), file("a.raw")),
            ),
            (
                "/localhost:5000/k8s/a.raw",
                address("localhost:5000/k8s", View::Tags, file("a.raw")),
            ),
            (
                "/localhost:5000/k8s:v1/a.raw",
                address(
                    "localhost:5000/k8s",
                    View::Tag("v1".parse().unwrap()),
                    file("a.raw"),
                ),
            ),
            (
                &pinned,
                address("k8s", View::Digest(digest), Asked::Listing),
            ),
        ] {
            match Address::parse(path) {
                Ok(found) => assert_eq!(found, expected, "{path}"),
                Err(error) => panic!("{path}: {error}"),
            }
        }
    }

    #[test]
    fn a_name_in_a_url_is_read_back_as_it_was() {
        for (name, expected) in [
            ("a-1.2_3+4~5.raw", "a-1.2_3+4~5.raw"),
            ("a b", "a%20b"),
            ("a#b?c", "a%23b%3Fc"),
            ("a\\b", "a%5Cb"),
            ("javascript:alert(1)", "javascript:alert(1)"),
            ("\"<ä>\"", "%22%3C%C3%A4%3E%22"),
        ] {
            let name: FileName = name.parse().unwrap();
            let url = in_url(&name).to_string();
            assert_eq!(url, expected);
            assert_eq!(
                Address::parse(&format!("/k8s/{url}")).unwrap(),
                address("k8s", View::Tags, Asked::File(name))
            );
        }
    }

    #[test]
    fn what_the_grammars_refuse_is_a_bad_address() {
        for (path, status) in [
            ("", 400),
            ("k8s/SHA256SUMS", 400),
            ("//SHA256SUMS", 400),
            ("/k8s//SHA256SUMS", 400),
            ("/../SHA256SUMS", 400),
            ("/k8s/..", 400),
            ("/k8s/%2e%2e", 400),
            ("/K8S/SHA256SUMS", 400),
            ("/k8s/a%00", 400),
            ("/k8s/a%0a", 400),
            ("/k8s/a%2525", 400),
            ("/k8s/%ff", 400),
            ("/k8s:/SHA256SUMS", 400),
            ("/k8s@sha256:00/SHA256SUMS", 400),
            ("/k8s:v1+all/SHA256SUMS", 400),
            ("/k8s+all:v1/SHA256SUMS", 400),
            ("/k8s+al/SHA256SUMS", 400),
            ("/+all/SHA256SUMS", 400),
            ("/k8s/.sha256", 400),
            ("/k8s", 404),
        ] {
            match Address::parse(path) {
                Ok(found) => panic!("{path:?} was accepted as {found:?}"),
                Err(error) => assert_eq!(error.status(), status, "{path}: {error}"),
            }
        }
    }
}
