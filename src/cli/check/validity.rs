//! When a certificate ends. The crates that verify certificates here do not tell, and those that do bring ten more.
//!
//! ```text
//! Certificate ::= SEQUENCE { tbsCertificate SEQUENCE {
//!     [0] version OPTIONAL, serialNumber INTEGER, signature SEQUENCE, issuer SEQUENCE,
//!     validity SEQUENCE { notBefore Time, notAfter Time }, … }, … }
//! ```
//!
//! RFC 5280 §4.1; DER is X.690 §10.

use jiff::Timestamp;

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// The moment after which a certificate is not valid; `None` if this is none.
pub fn end(certificate: &[u8]) -> Option<Timestamp> {
    let mut outer = Reader(certificate);
    let mut certificate = Reader(outer.take(SEQUENCE)?);
    let mut fields = Reader(certificate.take(SEQUENCE)?);
    if fields.0.first() == Some(&VERSION) {
        fields.take(VERSION)?;
    }
    fields.take(INTEGER)?;
    fields.take(SEQUENCE)?;
    fields.take(SEQUENCE)?;
    let mut validity = Reader(fields.take(SEQUENCE)?);
    validity.time()?;
    validity.time()
}

/// The rest of a DER encoding.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The content of the next value, if it has this tag.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, rest) = self.0.split_first()?;
        let (first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(*first), rest),
            // The long form: so many bytes have the length. A certificate needs no more than three.
            0x81..=0x83 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
                let length = bytes
                    .iter()
                    .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
                (length, rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        (*found == tag).then_some(content)
    }

    /// `YYMMDDHHMMSSZ`, of the years 1950 to 2049, or `YYYYMMDDHHMMSSZ` (RFC 5280 §4.1.2.5).
    fn time(&mut self) -> Option<Timestamp> {
        let tag = *self.0.first()?;
        let text = str::from_utf8(self.take(tag)?).ok()?;
        let text = match tag {
            GENERALIZED_TIME => text.to_owned(),
            UTC_TIME if text < "50" => format!("20{text}"),
            UTC_TIME => format!("19{text}"),
            _ => return None,
        };
        let (date, time) = text.split_at_checked(8)?;
        format!("{date}T{time}").parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value with this tag.
    fn value(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).unwrap();
        let head = match length {
            0..=0x7f => vec![tag, length],
            _ => vec![tag, 0x81, length],
        };
        [&head, content].concat()
    }

    fn certificate(version: bool, from: &[u8], until: &[u8]) -> Vec<u8> {
        let version = match version {
            true => value(VERSION, &value(INTEGER, &[2])),
            false => Vec::new(),
        };
        let times = value(SEQUENCE, &[from, until].concat());
        let name = value(SEQUENCE, &[0x31; 130]);
        let fields = [
            version,
            value(INTEGER, &[1]),
            value(SEQUENCE, b"a"),
            name,
            times,
            vec![0],
        ];
        // More than 255 bytes have a length of two bytes, which `value` does not write.
        value(SEQUENCE, &value(SEQUENCE, &fields.concat()))
    }

    #[test]
    fn the_end_of_a_certificate_is_read() {
        let utc = |text: &str| value(UTC_TIME, text.as_bytes());
        let general = |text: &str| value(GENERALIZED_TIME, text.as_bytes());
        let from = utc("260101000000Z");
        for (until, expected) in [
            (utc("261224123456Z"), Some("2026-12-24T12:34:56Z")),
            (utc("490101000000Z"), Some("2049-01-01T00:00:00Z")),
            (utc("500101000000Z"), Some("1950-01-01T00:00:00Z")),
            (general("20500101000000Z"), Some("2050-01-01T00:00:00Z")),
            (general("99991231235959Z"), None), // No end, and later than jiff's last moment.
            (utc("ab0101000000Z"), None),
            (value(INTEGER, b"261224123456Z"), None),
            (Vec::new(), None),
        ] {
            for version in [true, false] {
                let found = end(&certificate(version, &from, &until));
                let found = found.map(|time| time.to_string());
                assert_eq!(found.as_deref(), expected);
            }
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_end() {
        let whole = certificate(
            true,
            &value(UTC_TIME, b"260101000000Z"),
            &value(UTC_TIME, b"270101000000Z"),
        );
        assert!(end(&whole).is_some());
        for length in 0..whole.len() {
            assert_eq!(end(&whole[..length]), None, "{length}");
        }
        assert_eq!(end(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]), None);
    }
}
