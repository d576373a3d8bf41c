//! Values as they are written in a settings file, and their limits.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::{SourceSetting, Sources};
use crate::platform::Architecture;

/// Most connections to a registry at once that `parallel` may ask for.
const MAX_PARALLEL: usize = 64;

/// A value that has to pass a check. Its line is known to the parser if the check fails.
fn checked<'de, D: Deserializer<'de>, T: Deserialize<'de>, U>(
    value: D,
    check: impl FnOnce(T) -> Result<U, String>,
) -> Result<Option<U>, D::Error> {
    let checked = check(T::deserialize(value)?);
    checked.map(Some).map_err(D::Error::custom)
}

/// A span of time: seconds, decimals allowed, up to a day.
pub fn seconds<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Duration>, D::Error> {
    checked(value, duration)
}

/// The time to wait for a client. The kernel counts in milliseconds, and takes none for ever.
pub fn idle_seconds<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Duration>, D::Error> {
    checked(value, |seconds| match duration(seconds)? {
        time if time < Duration::from_millis(10) => Err(format!(
            "{seconds} is too short a time, at least 0.01 is needed"
        )),
        time => Ok(time),
    })
}

fn duration(seconds: f64) -> Result<Duration, String> {
    if (0.0..=86400.0).contains(&seconds) {
        return Ok(Duration::from_secs_f64(seconds));
    }
    Err(format!(
        "{seconds} is not a number of seconds from 0 to 86400"
    ))
}

/// A number of connections.
pub fn parallel<'de, D: Deserializer<'de>>(value: D) -> Result<Option<NonZeroUsize>, D::Error> {
    checked(value, |number| {
        NonZeroUsize::new(number)
            .filter(|number| number.get() <= MAX_PARALLEL)
            .ok_or_else(|| format!("parallel must be from 1 to {MAX_PARALLEL}, it is {number}"))
    })
}

/// A size in bytes, with K, M, G or T for powers of 1024, as systemd writes sizes.
pub fn size<'de, D: Deserializer<'de>>(value: D) -> Result<Option<u64>, D::Error> {
    checked(value, |text: String| bytes(&text))
}

fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(['K', 'M', 'G', 'T']);
    let unit = match &text[digits.len()..] {
        "" => Some(1_u64),
        "K" => Some(1 << 10),
        "M" => Some(1 << 20),
        "G" => Some(1 << 30),
        "T" => Some(1 << 40),
        _ => None,
    };
    let (Ok(number), Some(unit)) = (digits.parse::<u64>(), unit) else {
        return Err(format!("{text:?} is not a size such as \"500M\" or \"2G\""));
    };
    number
        .checked_mul(unit)
        .ok_or_else(|| format!("{text:?} is larger than any size can be; \"2G\" is the default"))
}

/// The architectures that an index offers.
pub fn architectures<'de, D: Deserializer<'de>>(
    value: D,
) -> Result<Option<Vec<Architecture>>, D::Error> {
    checked(value, |list: Vec<Architecture>| match list.as_slice() {
        [] => {
            Err("architectures must name at least one; without the key it is this machine's".into())
        }
        _ => Ok(list),
    })
}

/// Read by hand, for the message of a wrong one.
impl<'de> Deserialize<'de> for Sources {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        sources(toml::Value::deserialize(value)?).map_err(D::Error::custom)
    }
}

fn sources(value: toml::Value) -> Result<Sources, String> {
    let list = match value {
        toml::Value::String(text) => return Ok(Sources::One(text.parse()?)),
        toml::Value::Array(list) if !list.is_empty() => list,
        other => {
            return Err(format!(
                "source is a {}, expected a string or a list of them",
                other.type_str()
            ));
        }
    };
    let (mut sources, mut named) = (Vec::new(), BTreeMap::new());
    for value in &list {
        let Some(text) = value.as_str() else {
            return Err(format!(
                "source has a {} in its list, expected strings",
                value.type_str()
            ));
        };
        let source: SourceSetting = text.parse()?;
        if let Some(first) = named.insert(source.base(), text) {
            return Err(format!(
                "sources {first:?} and {text:?} cannot be merged: the names of all their files \
                 would begin with {:?}; leave one of them out",
                source.base()
            ));
        }
        sources.push(source);
    }
    Ok(Sources::Merged(sources))
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
            match (bytes(text), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
                (Err(why), Err(expected)) => assert!(why.contains(expected), "{why}"),
                (found, expected) => panic!("{text}: {found:?}, expected {expected:?}"),
            }
        }
    }
}
