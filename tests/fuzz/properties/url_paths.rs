//! The target of a request line.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::grammar::{is_file_name, is_repository, is_tag};
use crate::address::{Address, Asked, Directory, View};

/// An address that is accepted has names by the grammars, and is the same when it is written and read
/// again; one that is refused is the client's fault.
pub fn url_paths(data: &[u8]) {
    let Ok(target) = std::str::from_utf8(data) else {
        return;
    };
    let address = match Address::parse(target) {
        Ok(address) => address,
        Err(error) => {
            assert!(matches!(error.status(), 400 | 404), "{error}");
            return;
        }
    };
    let Address::In(directory, file) = &address else {
        return;
    };
    let Directory { repository, view } = directory;
    assert!(
        is_repository(repository.repository.as_str()),
        "{repository}"
    );
    let file = match file {
        Asked::Page => String::new(),
        Asked::Listing => "SHA256SUMS".to_owned(),
        Asked::Signature(name) => {
            assert!(name.starts_with("SHA256SUMS.") && !name.contains('/'));
            name.clone()
        }
        Asked::File(name) => {
            assert!(is_file_name(name.as_str()), "{name}");
            assert!(!name.as_str().ends_with(".sha256"), "{name}");
            name.to_string()
        }
        Asked::ChecksumOf(name) => {
            assert!(is_file_name(name.as_str()), "{name}");
            format!("{name}.sha256")
        }
    };
    if let View::Tag(tag) = view {
        assert!(is_tag(tag.as_str()), "{tag}");
    }
    let file = utf8_percent_encode(&file, NON_ALPHANUMERIC);
    let again = Address::parse(&format!("/{directory}/{file}"));
    assert_eq!(again.ok().as_ref(), Some(&address), "{directory} {file}");
}
