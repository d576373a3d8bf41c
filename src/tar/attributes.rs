//! The attributes of a file: mode, owner, time, xattrs.

use std::collections::BTreeMap;

use super::header::{decimal, show, split_once};

const NANOSECONDS: i128 = 1_000_000_000;

/// The attributes of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attributes {
    /// The lower twelve bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub modified: Time,
    pub xattrs: Xattrs,
}

/// Extended attributes by name.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(
    clippy::box_collection,
    reason = "most files have none, and there are many files"
)]
pub struct Xattrs(Option<Box<BTreeMap<Vec<u8>, Vec<u8>>>>);

impl Xattrs {
    pub fn insert(&mut self, name: Vec<u8>, value: Vec<u8>) {
        self.0.get_or_insert_default().insert(name, value);
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let all = self.0.iter().flat_map(|all| all.iter());
        all.map(|(name, value)| (name.as_slice(), value.as_slice()))
    }

    /// Keeps only those for which `keeps` is true.
    pub fn retain(&mut self, mut keeps: impl FnMut(&[u8], &[u8]) -> bool) {
        if let Some(all) = &mut self.0 {
            all.retain(|name, value| keeps(name, value));
            if all.is_empty() {
                self.0 = None;
            }
        }
    }
}

/// Seconds since 1970, rounded down, and nanoseconds after that.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Time {
    pub seconds: i64,
    pub nanoseconds: u32,
}

impl Time {
    /// From seconds as pax(1) writes them: `-12.5` is twelve and a half seconds before 1970.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let wrong = || format!("{:?} in an extended header is no time", show(text));
        let digits = text.strip_prefix(b"-").unwrap_or(text);
        let (whole, fraction) = split_once(digits, b'.').unwrap_or((digits, b""));
        if !fraction.iter().all(u8::is_ascii_digit) {
            return Err(wrong());
        }
        let fraction = decimal(&[fraction, b"000000000"].concat()[..9])?;
        let mut sum = i128::from(decimal(whole)?) * NANOSECONDS + i128::from(fraction);
        if digits.len() < text.len() {
            sum = -sum;
        }
        Ok(Self {
            seconds: i64::try_from(sum.div_euclid(NANOSECONDS)).map_err(|_| wrong())?,
            nanoseconds: sum.rem_euclid(NANOSECONDS) as u32,
        })
    }

    /// The same form, with no more digits than needed.
    pub fn decimal(self) -> String {
        let sum = i128::from(self.seconds) * NANOSECONDS + i128::from(self.nanoseconds);
        let sign = if sum < 0 { "-" } else { "" };
        let (seconds, nanoseconds) = (sum.abs() / NANOSECONDS, sum.abs() % NANOSECONDS);
        let text = format!("{sign}{seconds}.{nanoseconds:09}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_nanoseconds_and_may_be_before_1970() {
        for (text, seconds, nanoseconds) in [
            ("0", 0, 0),
            ("12", 12, 0),
            ("12.", 12, 0),
            ("12.5", 12, 500_000_000),
            ("12.000000001", 12, 1),
            ("12.0000000019", 12, 1),
            ("-1", -1, 0),
            ("-1.25", -2, 750_000_000),
            ("-0.5", -1, 500_000_000),
            ("-0", 0, 0),
            ("9223372036854775807.999999999", i64::MAX, 999_999_999),
            ("-9223372036854775807.5", i64::MIN, 500_000_000),
        ] {
            let found = Time::parse(text.as_bytes()).unwrap();
            let expected = Time {
                seconds,
                nanoseconds,
            };
            assert_eq!(found, expected, "{text}");
            assert_eq!(Time::parse(found.decimal().as_bytes()), Ok(found), "{text}");
        }
        for text in [
            "-",
            ".",
            ".5",
            "1.5.5",
            "1.x",
            "--1",
            "+1",
            "1 ",
            "9223372036854775808",
        ] {
            assert!(Time::parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
