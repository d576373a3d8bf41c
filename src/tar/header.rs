//! Headers of tar archives, and the records of extended headers. No I/O.

use std::iter;
use std::ops::Range;

/// The size of a header. Data are padded to a multiple of it.
pub const BLOCK: usize = 512;

/// A header as it stands in an archive.
pub struct Header([u8; BLOCK]);

impl Header {
    pub const NAME: Range<usize> = 0..100;
    pub const MODE: Range<usize> = 100..108;
    pub const UID: Range<usize> = 108..116;
    pub const GID: Range<usize> = 116..124;
    pub const SIZE: Range<usize> = 124..136;
    pub const MODIFIED: Range<usize> = 136..148;
    pub const CHECKSUM: Range<usize> = 148..156;
    pub const KIND: usize = 156;
    pub const LINK: Range<usize> = 157..257;
    pub const MAGIC: Range<usize> = 257..263;
    pub const MAJOR: Range<usize> = 329..337;
    pub const MINOR: Range<usize> = 337..345;
    /// In ustar's headers alone; GNU's have times there.
    pub const PREFIX: Range<usize> = 345..500;
    /// In the header of a GNU sparse file: the first four pieces of its map, whether more follow, and the file's size.
    pub const PIECES: Range<usize> = 386..482;
    pub const HAS_MORE_PIECES: usize = 482;
    pub const REAL_SIZE: Range<usize> = 483..495;
    /// In a block that follows such a header: more pieces, and whether another block follows.
    pub const MORE_PIECES: Range<usize> = 0..504;
    pub const HAS_EVEN_MORE_PIECES: usize = 504;

    /// Checks a header. `None`: a block of zeros, which ends an archive.
    pub fn parse(block: [u8; BLOCK]) -> Result<Option<Self>, String> {
        if block == [0; BLOCK] {
            return Ok(None);
        }
        // The checksum is the sum of all bytes, with blanks in its own place.
        let sum = |bytes: &[u8]| bytes.iter().map(|byte| i128::from(*byte)).sum::<i128>();
        let field = &block[Self::CHECKSUM];
        let expected = sum(&block) - sum(field) + sum(&[b' '; 8]);
        if number(field).is_ok_and(|found| found == expected) {
            return Ok(Some(Self(block)));
        }
        Err("it is not a tar archive, or a damaged one: the checksum of a header is wrong".into())
    }

    pub fn kind(&self) -> u8 {
        self.0[Self::KIND]
    }

    pub fn bytes(&self, field: Range<usize>) -> &[u8] {
        &self.0[field]
    }

    pub fn text(&self, field: Range<usize>) -> &[u8] {
        until_nul(&self.0[field])
    }

    /// The name, behind the prefix if there is one.
    pub fn path(&self) -> Vec<u8> {
        let name = self.text(Self::NAME);
        match self.text(Self::PREFIX) {
            prefix if self.0[Self::MAGIC] == *b"ustar\0" && !prefix.is_empty() => {
                [prefix, b"/", name].concat()
            }
            _ => name.to_vec(),
        }
    }

    /// A number, if it is one of this type.
    pub fn number<T: TryFrom<i128>>(&self, field: Range<usize>) -> Result<T, String> {
        let number = number(&self.0[field])?;
        T::try_from(number).map_err(|_| format!("{number} in a header is out of range"))
    }

    /// Whether a GNU sparse file's map goes on in the next block.
    pub fn has_more_pieces(&self) -> bool {
        self.0[Self::HAS_MORE_PIECES] != 0
    }
}

/// A number of a header: octal digits between blanks and NULs, no digits for zero. A number that needs more space is in
/// base 256 (GNU): the first bit is set, the second is the sign.
pub fn number(field: &[u8]) -> Result<i128, String> {
    if let [first @ 0x80..=0xff, rest @ ..] = field {
        let sign = i128::from(((first << 1) as i8) >> 1);
        let digits = rest.iter().map(|byte| i128::from(*byte));
        return Ok(digits.fold(sign, |sum, digit| sum << 8 | digit));
    }
    let is_blank = |byte: &u8| matches!(byte, b' ' | 0);
    let mut digits = field
        .iter()
        .skip_while(|byte| is_blank(byte))
        .take_while(|byte| !is_blank(byte));
    digits
        .try_fold(0, |sum, digit| match digit {
            b'0'..=b'7' => Some(sum << 3 | i128::from(digit - b'0')),
            _ => None,
        })
        .ok_or_else(|| format!("{:?} in a header is no number", show(field)))
}

/// The records of an extended header: keywords and values: `<length> <keyword>=<value>\n`. A value may have newlines in
/// it.
pub fn records(mut bytes: &[u8]) -> impl Iterator<Item = Result<(&[u8], &[u8]), String>> {
    iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let Some((record, rest)) = split_record(bytes) else {
            bytes = &[];
            return Some(Err("an extended header has a malformed record".into()));
        };
        bytes = rest;
        Some(Ok(record))
    })
}

type Record<'a> = (&'a [u8], &'a [u8]);

/// The first record, and the rest.
fn split_record(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let (length, _) = split_once(bytes, b' ')?;
    let start = length.len() + 1;
    let end = usize::try_from(decimal(length).ok()?).ok()?;
    let record = bytes.get(start..end)?.strip_suffix(b"\n")?;
    Some((split_once(record, b'=')?, &bytes[end..]))
}

/// A number of an extended header.
pub fn decimal(digits: &[u8]) -> Result<u64, String> {
    let add = |sum: u64, digit: &u8| {
        let digit = char::from(*digit).to_digit(10)?;
        sum.checked_mul(10)?.checked_add(digit.into())
    };
    let number = digits.iter().try_fold(0, add);
    number
        .filter(|_| !digits.is_empty())
        .ok_or_else(|| format!("{:?} in an extended header is no number", show(digits)))
}

/// The bytes before the first `separator`, and those after it.
pub fn split_once(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == separator)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

pub fn until_nul(bytes: &[u8]) -> &[u8] {
    split_once(bytes, 0).map_or(bytes, |(text, _)| text)
}

/// A path for messages, cut where it is long.
pub fn show(path: &[u8]) -> String {
    let mut text = String::new();
    for chunk in path.utf8_chunks() {
        text.extend(chunk.valid().escape_debug());
        text.extend(chunk.invalid().escape_ascii().map(char::from));
    }
    if let Some((end, _)) = text.char_indices().nth(200) {
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_in_base_256_and_fit() {
        let number_of = |field: &[u8]| {
            let mut block = [0; BLOCK];
            block[Header::SIZE][..field.len()].copy_from_slice(field);
            Header(block).number::<i64>(Header::SIZE.start..Header::SIZE.start + field.len())
        };
        for (field, expected) in [
            (&b"0000644\0"[..], 0o644),
            (b"   644 \0", 0o644),
            (b"644\0junk", 0o644),
            (b"1 7\0", 1),
            (b"77777777", 0o77_777_777),
            (b"", 0),
            (b"\0\0\0\0", 0),
            (b"       \0", 0),
            (b"\x80\0\x01\0", 256),
            (b"\x80\0\0\0\0\0\x01\0", 256),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfb", -5),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", i64::MAX),
            (b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", i64::MIN),
        ] {
            assert_eq!(number_of(field).unwrap(), expected, "{field:x?}");
        }
        for field in [
            &b"0000648\0"[..],
            b"8\0",
            b"-1\0",
            b"-7\0",
            b"+1\0",
            b"1x",
            b"\x80\0\0\0\x80\0\0\0\0\0\0\0",
            b"\x80\x01\0\0\0\0\0\0\0\0\0\0",
            b"\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert!(number_of(field).is_err(), "{field:x?}");
        }
        // Sizes up to the largest of a file system.
        let largest = *b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff";
        assert_eq!(number(&largest), Ok(i128::from(u64::MAX)));
    }

    #[test]
    fn a_record_that_makes_no_sense_is_an_error() {
        for (bytes, why) in [
            (&b"x"[..], "no length"),
            (b"8 path=a", "no newline at its end"),
            (b"9 path=a\n9", "bytes after the last one"),
            (b"11 path=a\n", "too long"),
            (b"8 path=a\n", "too short"),
            (b"0 path=a\n", "a length of nothing"),
            (b"2 path=a\n", "shorter than itself"),
            (b" path=a\n", "no digits"),
            (b"-9 path=a\n", "a sign"),
            (b"+9 path=a\n", "a sign"),
            (b"7 patha\n", "no ="),
            (b"99999999999999999999 path=a\n", "more than any number"),
        ] {
            assert!(records(bytes).any(|record| record.is_err()), "{why}");
        }
        let found: Result<Vec<_>, _> = records(b"9 path=a\n9 b=c\nd=\n").collect();
        let expected: [Record<'_>; 2] = [(b"path", b"a"), (b"b", b"c\nd=")];
        assert_eq!(found.unwrap(), expected);
        assert_eq!(records(b"").count(), 0);
    }

    #[test]
    fn what_is_shown_is_short_and_plain() {
        assert_eq!(show(b"caf\xe9\n\x1b[31m"), "caf\\xe9\\n\\u{1b}[31m");
        let long = show(&b"n".repeat(4096));
        assert_eq!(long.chars().count(), 201);
    }
}
