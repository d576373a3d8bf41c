//! A file of the state as text: one line with its format and a checksum, then JSON.
//!
//! ```text
//! sysext-oci-proxy promises 1 <64 hex digits>
//! {"source":"ghcr.io/acme/app",…}
//! ```
//!
//! The checksum is of the JSON. The source in it shows a file that was moved to the name of another.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::digest::Digest;

/// The format that is written. Older formats are read. A change that an older version would misread gets a new number.
pub const FORMAT: u32 = 1;
/// The first word of every file.
const MAGIC: &str = "sysext-oci-proxy";

/// Writes a record. `kind` is `promises` or `notes`.
pub fn write(kind: &str, record: &impl Serialize) -> serde_json::Result<String> {
    let json = serde_json::to_string(record)?;
    let sum = Digest::of(json.as_bytes()).hex();
    Ok(format!("{MAGIC} {kind} {FORMAT} {sum}\n{json}"))
}

/// Reads a record, or says why it cannot be read.
pub fn read<T: DeserializeOwned>(kind: &str, bytes: &[u8]) -> Result<T, String> {
    let damaged = || "is damaged".to_owned();
    let text = std::str::from_utf8(bytes).map_err(|_| damaged())?;
    let (head, json) = text.split_once('\n').ok_or_else(damaged)?;
    let words: Vec<_> = head.split(' ').collect();
    // The first three words are the same in all formats, also in later ones.
    let format = match words[..] {
        [MAGIC, found, format, ..] if found == kind => format.parse::<u32>().ok(),
        _ => None,
    };
    match (format.ok_or_else(damaged)?, &words[3..]) {
        (format, _) if format > FORMAT => Err(format!(
            "has format {format}, of a newer sysext-oci-proxy; this one reads formats up to {FORMAT}"
        )),
        (1, [sum]) if *sum == Digest::of(json.as_bytes()).hex() => {
            serde_json::from_str(json).map_err(|error| format!("cannot be understood: {error}"))
        }
        _ => Err(damaged()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    type Record = BTreeMap<String, u32>;

    #[test]
    fn a_record_comes_back_as_it_was_or_not_at_all() {
        let record: Record = [("a".to_owned(), 1)].into();
        let text = write("promises", &record).unwrap();
        assert_eq!(read("promises", text.as_bytes()), Ok(record));
        for n in 0..text.len() {
            let mut bad = text.clone().into_bytes();
            bad[n] ^= 1;
            assert!(read::<Record>("promises", &bad).is_err(), "byte {n}");
            assert!(
                read::<Record>("promises", &text.as_bytes()[..n]).is_err(),
                "{n} bytes"
            );
        }
    }

    #[test]
    fn what_is_of_another_kind_or_format_is_an_error_that_says_so() {
        let json = "{}";
        let sum = Digest::of(json.as_bytes()).hex();
        for (head, reason) in [
            (format!("sysext-oci-proxy promises 1 {sum}"), None),
            (
                format!("sysext-oci-proxy notes 1 {sum}"),
                Some("is damaged"),
            ),
            (
                format!("sysext-oci-proxy promises 0 {sum}"),
                Some("is damaged"),
            ),
            (
                format!("sysext-oci-proxy promises x {sum}"),
                Some("is damaged"),
            ),
            (
                format!("sysext-oci-proxy promises 1 {sum} more"),
                Some("is damaged"),
            ),
            (format!("something promises 1 {sum}"), Some("is damaged")),
            ("sysext-oci-proxy promises 1".into(), Some("is damaged")),
            ("sysext-oci-proxy promises".into(), Some("is damaged")),
            (String::new(), Some("is damaged")),
            (
                "sysext-oci-proxy promises 2 in a form to come".into(),
                Some("has format 2, of a newer sysext-oci-proxy; this one reads formats up to 1"),
            ),
        ] {
            let found = read::<Record>("promises", format!("{head}\n{json}").as_bytes());
            assert_eq!(found.err().as_deref(), reason, "{head:?}");
        }
    }
}
