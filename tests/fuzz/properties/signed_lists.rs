//! `SHA256SUMS` as a publisher wrote it.

use jiff::civil::date;

use super::grammar::{assert_listing, is_file_name};
use crate::listing::Listing;

/// Its names are names of files, all good lines of it count, and what is read of it is a listing that
/// reads the same.
pub fn signed_lists(data: &[u8]) {
    let listing = Listing::of_signed(data);
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
    let text = listing.text(date(2030, 2, 3));
    assert_listing(&text);
    assert_eq!(Listing::of_signed(text.as_bytes()), listing);
}
