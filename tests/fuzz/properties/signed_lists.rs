//! `SHA256SUMS` as a publisher wrote it.

use jiff::civil::date;

use super::grammar::{assert_listing, is_file_name};
use crate::digest::Digest;
use crate::listing::{Listing, PublisherList};

/// The entries that are read from a list.
pub(super) fn listing_of(data: &[u8]) -> Listing {
    let list = PublisherList::new(Digest::of(data), data.into(), None);
    let listing = Listing {
        files: list.files(None).collect(),
        ..Listing::default()
    };
    assert_eq!(listing.files.len(), list.len());
    for (name, file) in &listing.files {
        assert_eq!(list.get(name, None).as_ref(), Some(file), "{name}");
    }
    listing
}

/// Its names are names of files, all good lines of it count, and what is read of it is a listing that
/// reads the same.
pub fn signed_lists(data: &[u8]) {
    let listing = listing_of(data);
    for name in listing.files.keys() {
        assert!(is_file_name(name.as_str()), "{name}");
    }
    let good_lines = (data.split(|byte| *byte == b'\n'))
        .filter_map(|line| std::str::from_utf8(line).ok()?.split_once("  "))
        .filter(|(hex, name)| {
            hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) && is_file_name(name)
        });
    for (_, name) in good_lines {
        assert!(listing.files.contains_key(&name.parse().unwrap()), "{name}");
    }
    let text = listing.text(Some(date(2030, 2, 3)));
    assert_listing(&text);
    assert_eq!(listing_of(text.as_bytes()), listing);
}
