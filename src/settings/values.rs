//! Values as they are written in a settings file, and what each may be.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use serde::Deserialize;
use serde::de::Error as _;

use super::{SourceSetting, Sources};
use crate::platform::Architecture;

/// Most connections to a registry at once that `parallel` may ask for.
const MAX_PARALLEL: usize = 64;

/// A span of time: seconds, decimals allowed, up to a day.
#[derive(Deserialize)]
#[serde(try_from = "f64")]
pub struct Seconds(pub(super) Duration);

impl TryFrom<f64> for Seconds {
    type Error = String;

    fn try_from(seconds: f64) -> Result<Self, String> {
        if (0.0..=86400.0).contains(&seconds) {
            Ok(Self(Duration::from_secs_f64(seconds)))
        } else {
            Err(format!(
                "{seconds} is not a number of seconds from 0 to 86400"
            ))
        }
    }
}

/// How long to wait for a client. The kernel counts in milliseconds, and takes none for ever.
#[derive(Deserialize)]
#[serde(try_from = "f64")]
pub struct IdleSeconds(pub(super) Duration);

impl TryFrom<f64> for IdleSeconds {
    type Error = String;

    fn try_from(seconds: f64) -> Result<Self, String> {
        let Seconds(time) = seconds.try_into()?;
        if time < Duration::from_millis(10) {
            return Err(format!(
                "{seconds} is too short a time, at least 0.01 is needed"
            ));
        }
        Ok(Self(time))
    }
}

/// A number of connections.
#[derive(Deserialize)]
#[serde(try_from = "usize")]
pub struct Parallel(pub(super) NonZeroUsize);

impl TryFrom<usize> for Parallel {
    type Error = String;

    fn try_from(number: usize) -> Result<Self, String> {
        NonZeroUsize::new(number)
            .filter(|number| number.get() <= MAX_PARALLEL)
            .map(Self)
            .ok_or_else(|| format!("parallel must be from 1 to {MAX_PARALLEL}, it is {number}"))
    }
}

/// A size in bytes, with K, M, G or T for powers of 1024, as systemd writes sizes.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub struct Size(pub(super) u64);

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.trim_end_matches(['K', 'M', 'G', 'T']);
        let unit = match &text[digits.len()..] {
            "" => Some(0),
            "K" => Some(10),
            "M" => Some(20),
            "G" => Some(30),
            "T" => Some(40),
            _ => None,
        };
        match (digits.parse::<u64>(), unit) {
            (Ok(number), Some(unit)) => {
                let size = number.checked_mul(1 << unit);
                size.map(Self).ok_or_else(|| {
                    format!("{text:?} is larger than any size can be; \"2G\" is the default")
                })
            }
            _ => Err(format!("{text:?} is not a size such as \"500M\" or \"2G\"")),
        }
    }
}

/// A source or a list of them. Read by hand, for the message of a wrong one.
pub struct OneOrMore(pub(super) Sources);

impl<'de> Deserialize<'de> for OneOrMore {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let parse = |text: &str| text.parse().map_err(D::Error::custom);
        match toml::Value::deserialize(deserializer)? {
            toml::Value::String(text) => Ok(Self(Sources::One(parse(&text)?))),
            toml::Value::Array(list) if !list.is_empty() => {
                let one = |value: &toml::Value| match value.as_str() {
                    Some(text) => parse(text),
                    None => Err(D::Error::custom(format!(
                        "source has a {} in its list, expected strings",
                        value.type_str()
                    ))),
                };
                let sources = list
                    .iter()
                    .map(one)
                    .collect::<Result<Vec<SourceSetting>, _>>()?;
                let mut named = BTreeMap::new();
                for (source, value) in sources.iter().zip(&list) {
                    let value = value.as_str().unwrap_or_default();
                    if let Some(first) = named.insert(source.base(), value) {
                        return Err(D::Error::custom(format!(
                            "sources {first:?} and {value:?} cannot be merged: the names of all their files \
                             would begin with {:?}; leave one of them out",
                            source.base()
                        )));
                    }
                }
                Ok(Self(Sources::Merged(sources)))
            }
            other => Err(D::Error::custom(format!(
                "source is a {}, expected a string or a list of them",
                other.type_str()
            ))),
        }
    }
}

#[derive(Deserialize)]
#[serde(try_from = "Vec<Architecture>")]
pub struct Architectures(pub(super) Vec<Architecture>);

impl TryFrom<Vec<Architecture>> for Architectures {
    type Error = String;

    fn try_from(list: Vec<Architecture>) -> Result<Self, String> {
        if list.is_empty() {
            return Err(
                "architectures must name at least one; without the key it is this machine's".into(),
            );
        }
        Ok(Self(list))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_what_it_says_or_refused() {
        for (text, expected) in [
            ("0", Ok(0)),
            ("5000000000", Ok(5_000_000_000)),
            ("2K", Ok(2 << 10)),
            ("500M", Ok(500 << 20)),
            ("2G", Ok(2 << 30)),
            ("16777215T", Ok(16_777_215 << 40)),
            ("16777216T", Err("is larger than any size can be")),
            ("18446744073709551616", Err("is not a size")),
            ("2GB", Err("is not a size")),
            ("-1", Err("is not a size")),
            ("G", Err("is not a size")),
            ("2GG", Err("is not a size")),
            ("", Err("is not a size")),
        ] {
            let found = Size::try_from(text.to_owned()).map(|size| size.0);
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
                (Err(why), Err(expected)) => assert!(why.contains(expected), "{why}"),
                (found, expected) => panic!("{text}: {found:?}, expected {expected:?}"),
            }
        }
    }
}
