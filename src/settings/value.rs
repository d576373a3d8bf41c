//! The value of one key, read into a checked type. A wrong value is told with what was expected, what was found,
//! and, where that can be guessed, the line that would be right.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::iter::successors;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use jiff::SignedDuration;
use toml::de::{DeTable, DeValue};

use super::{SourceSetting, Sources};
use crate::name::{RepositoryAddress, without_userinfo};

/// A key of a settings file, and its value.
pub struct Value<'a> {
    pub key: &'a str,
    pub value: &'a DeValue<'a>,
    /// Its position in the file, in bytes.
    pub at: usize,
    /// Whether it is one entry of a list.
    is_entry: bool,
}

/// A mistake in a settings file.
#[derive(Debug)]
pub struct Mistake {
    /// Its position in the file, in bytes.
    pub at: usize,
    pub why: String,
}

impl<'a> Value<'a> {
    pub fn new(key: &'a str, value: &'a DeValue<'a>, at: usize) -> Self {
        let is_entry = false;
        Self {
            key,
            value,
            at,
            is_entry,
        }
    }

    pub fn mistake(&self, why: impl Display) -> Mistake {
        Mistake {
            at: self.at,
            why: format!("{}: {why}", self.key),
        }
    }

    /// A mistake with the value that would be right, if there is one.
    fn wrong(&self, why: impl Display, right: Option<String>) -> Mistake {
        match right {
            Some(right) if self.is_entry => self.mistake(format!("{why}; write {right}")),
            Some(right) => self.mistake(format!("{why}; write {} = {right}", self.key)),
            None => self.mistake(why),
        }
    }

    /// A mistake with what was expected instead of the value.
    pub fn unexpected(&self, expected: impl Display, right: Option<String>) -> Mistake {
        let found = match self.value {
            DeValue::Array(_) => "a list".to_owned(),
            DeValue::Table(_) => "a table".to_owned(),
            DeValue::Datetime(_) => "a date or time".to_owned(),
            _ => self.written().unwrap_or_default(),
        };
        self.wrong(format!("expected {expected}, found {found}"), right)
    }

    /// A single value as it is written: `"a"`, `5`, `0.5`, `true`.
    fn written(&self) -> Option<String> {
        match self.value {
            DeValue::String(text) => Some(format!("{text:?}")),
            DeValue::Integer(number) => Some(number.to_string()),
            DeValue::Float(number) => Some(number.to_string()),
            DeValue::Boolean(flag) => Some(flag.to_string()),
            DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
        }
    }

    /// The text of a single value, in quotes or not.
    fn bare(&self) -> Option<Cow<'a, str>> {
        match self.value {
            DeValue::String(text) => Some(Cow::Borrowed(text)),
            _ => self.written().map(Cow::Owned),
        }
    }

    /// The keys and values of a table, in the order of the file.
    pub fn table(&self, expected: impl Display) -> Result<Vec<Value<'a>>, Mistake> {
        match self.value {
            DeValue::Table(table) => Ok(values(table)),
            _ => Err(self.unexpected(expected, None)),
        }
    }

    /// A string. Where it is none, the message has an example; the type says why a string is wrong.
    pub fn text<T: FromStr<Err = String>>(&self, example: &str) -> Result<T, Mistake> {
        let expected = format!("a string such as {example}");
        let quoted = |text: String| format!("{text:?}");
        match self.value {
            DeValue::String(text) => {
                let why = match (text.parse(), text.split_once("://")) {
                    (Ok(value), _) => return Ok(value),
                    (Err(_), Some((scheme, _))) => {
                        format!("{text:?} must be written without {scheme}://")
                    }
                    (Err(why), None) => why,
                };
                Err(self.wrong(why, suggested::<T>(text).map(quoted)))
            }
            DeValue::Array(list) => {
                let only = list.first().filter(|_| list.len() == 1);
                let only = only.and_then(|only| only.get_ref().as_str());
                Err(self.unexpected(expected, only.and_then(suggested::<T>).map(quoted)))
            }
            DeValue::Integer(_) | DeValue::Float(_) => {
                let right = self
                    .bare()
                    .and_then(|text| suggested::<T>(&text))
                    .map(quoted);
                Err(self.unexpected(expected, right))
            }
            _ => Err(self.unexpected(expected, None)),
        }
    }

    /// A list of strings.
    pub fn list<T: FromStr<Err = String>>(&self, example: &str) -> Result<Vec<T>, Mistake> {
        let expected = format!("a list such as [{example}]");
        if let DeValue::String(text) = self.value {
            return Err(self.unexpected(expected, suggested_list::<T>(text)));
        }
        let entries = self.entries(&expected)?;
        entries.iter().map(|entry| entry.text(example)).collect()
    }

    /// The entries of a list.
    pub fn entries(&self, expected: &str) -> Result<Vec<Value<'a>>, Mistake> {
        let DeValue::Array(list) = self.value else {
            return Err(self.unexpected(expected, None));
        };
        let entry = |value: &'a toml::Spanned<DeValue<'a>>| Value {
            key: self.key,
            value: value.get_ref(),
            at: value.span().start,
            is_entry: true,
        };
        Ok(list.iter().map(entry).collect())
    }

    /// One source, or a list of them.
    pub fn sources(&self) -> Result<Sources, Mistake> {
        const EXAMPLES: &str = r#""ghcr.io/acme/k8s" or "oci:/srv/k8s""#;
        let DeValue::Array(list) = self.value else {
            return self.text(EXAMPLES).map(Sources::One);
        };
        if list.is_empty() {
            let why =
                "the list is empty; name a source, or leave the key out for the default registry";
            return Err(self.mistake(why));
        }
        let (mut sources, mut named) = (Vec::new(), BTreeMap::new());
        for entry in self.entries(EXAMPLES)? {
            let source: SourceSetting = entry.text(EXAMPLES)?;
            let base = source.base();
            if let Some(first) = named.insert(base.clone(), entry.bare()) {
                return Err(entry.mistake(format!(
                    "{:?} and {:?} cannot be merged: the names of all their files would begin with \
                     {base:?}; leave one of them out",
                    first.unwrap_or_default(),
                    entry.bare().unwrap_or_default(),
                )));
            }
            sources.push(source);
        }
        Ok(Sources::Merged(sources))
    }

    /// `true` or `false`.
    pub fn flag(&self) -> Result<bool, Mistake> {
        let meant = || match self.bare()?.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Some("true"),
            "false" | "no" | "off" | "0" => Some("false"),
            _ => None,
        };
        match self.value {
            DeValue::Boolean(flag) => Ok(*flag),
            _ => Err(self.unexpected("true or false", meant().map(str::to_owned))),
        }
    }

    /// A whole number.
    pub fn number(&self, allowed: RangeInclusive<u16>) -> Result<u16, Mistake> {
        let read = |text: &str| {
            let number = text.trim().trim_end_matches(".0").parse().ok();
            number.filter(|number| allowed.contains(number))
        };
        let meant = self.bare().and_then(|text| read(&text));
        match (self.value, meant) {
            (DeValue::Integer(_), Some(number)) => Ok(number),
            _ => {
                let (least, most) = (allowed.start(), allowed.end());
                let expected = format!("a number from {least} to {most}");
                Err(self.unexpected(expected, meant.map(|number| number.to_string())))
            }
        }
    }

    /// A span of time in seconds, decimals allowed, up to a day.
    pub fn seconds(&self, least: f64) -> Result<Duration, Mistake> {
        let read = |text: &str| {
            let seconds = match text.trim().parse() {
                Ok(seconds) => seconds,
                Err(_) => text.parse::<SignedDuration>().ok()?.as_secs_f64(),
            };
            Some(seconds).filter(|seconds| (least..=86400.0).contains(seconds))
        };
        let meant = self.bare().and_then(|text| read(&text));
        match (self.value, meant) {
            (DeValue::Integer(_) | DeValue::Float(_), Some(seconds)) => {
                Ok(Duration::from_secs_f64(seconds))
            }
            _ => {
                let expected = format!("a number of seconds from {least} to 86400");
                Err(self.unexpected(expected, meant.map(|seconds| seconds.to_string())))
            }
        }
    }

    /// A size in bytes, with K, M, G or T for powers of 1024, as systemd writes sizes.
    pub fn size(&self) -> Result<u64, Mistake> {
        let bytes = self.value.as_str().and_then(bytes);
        bytes.ok_or_else(|| {
            let right = self.bare().and_then(|text| suggested_size(&text));
            self.unexpected(
                r#"a size such as "500M" or "2G""#,
                right.map(|size| format!("{size:?}")),
            )
        })
    }
}

/// A path that no working directory changes.
pub struct Absolute(pub PathBuf);

impl FromStr for Absolute {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.starts_with('/') {
            true => Ok(Self(text.into())),
            false => Err(format!(
                "{text:?} is no absolute path, it does not begin with /"
            )),
        }
    }
}

/// A repository with its registry, by its one name.
pub struct WithHost(pub RepositoryAddress);

impl FromStr for WithHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let RepositoryAddress { host, repository } = text.parse()?;
        let host = host.ok_or_else(|| {
            format!("{text:?} lacks the registry's host, as in \"ghcr.io/{repository}\"")
        })?;
        Ok(Self(RepositoryAddress::of(&host, &repository)))
    }
}

/// The keys and values of a table, in the order of the file.
pub fn values<'a>(table: &'a DeTable<'a>) -> Vec<Value<'a>> {
    let value = |(key, value): (&'a toml::Spanned<_>, &'a toml::Spanned<_>)| {
        let text: &Cow<'a, str> = key.get_ref();
        Value::new(text, value.get_ref(), key.span().start)
    };
    let mut values: Vec<_> = table.iter().map(value).collect();
    values.sort_by_key(|value| value.at);
    values
}

/// The text that was perhaps meant: the first that is right of these repairs, each on top of those before it.
pub fn suggested<T: FromStr>(text: &str) -> Option<String> {
    let repairs: [fn(&str) -> String; 7] = [
        |text| without_userinfo(text.trim()),
        |text| match text.strip_prefix('/') {
            Some(path) => format!("oci:/{}", path.trim_start_matches('/')),
            None => text.replacen("oci:///", "oci:/", 1),
        },
        |text| match text.split_once("://") {
            Some((_, rest)) => rest.to_owned(),
            None => text.to_owned(),
        },
        |text| text.trim_end_matches('/').to_owned(),
        str::to_ascii_lowercase,
        // A digest, or a tag.
        |text| text.split('@').next().unwrap_or_default().to_owned(),
        |text| match text.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => name.to_owned(),
            _ => text.to_owned(),
        },
    ];
    let mut repairs = repairs.iter();
    let tries = successors(Some(text.to_owned()), |text| Some(repairs.next()?(text)));
    let host_of_url = text.split_once("://").map(|(_, rest)| {
        let rest = without_userinfo(rest);
        rest.split('/').next().unwrap_or_default().to_owned()
    });
    let mut tries = tries.chain(host_of_url).chain([format!(".{text}")]);
    tries.find(|text| text.parse::<T>().is_ok())
}

/// The list that was perhaps meant by a string with its entries.
fn suggested_list<T: FromStr>(text: &str) -> Option<String> {
    let is_between = |c: char| c.is_whitespace() || matches!(c, ',' | ';' | '[' | ']' | '"' | '\'');
    let words = text.split(is_between).filter(|word| !word.is_empty());
    let words: Option<Vec<_>> = words.map(suggested::<T>).collect();
    words.map(|words| format!("{words:?}"))
}

fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(['K', 'M', 'G', 'T']);
    let unit = match &text[digits.len()..] {
        "" => 1_u64,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        "T" => 1 << 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// `2G` for `2 GiB`, `2gb` and the like, `1536M` for `1.5G`.
fn suggested_size(text: &str) -> Option<String> {
    let text = text.replace([' ', '_', ','], "").to_ascii_uppercase();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let unit = unit.trim_end_matches("IB").trim_end_matches('B');
    let smaller = match unit {
        "T" => "G",
        "G" => "M",
        "M" => "K",
        _ => "",
    };
    let size = match number.parse::<u64>() {
        Ok(number) => format!("{number}{unit}"),
        Err(_) => format!("{}{smaller}", (number.parse::<f64>().ok()? * 1024.0) as u64),
    };
    bytes(&size).map(|_| size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_what_it_says_or_refused() {
        for (text, expected) in [
            ("0", Some(0)),
            ("5000000000", Some(5_000_000_000)),
            ("2K", Some(2 << 10)),
            ("500M", Some(500 << 20)),
            ("2G", Some(2 << 30)),
            ("16777215T", Some(16_777_215 << 40)),
            ("16777216T", None),
            ("18446744073709551616", None),
            ("2GB", None),
            ("-1", None),
            ("G", None),
            ("2GG", None),
            ("", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn a_suggested_size_is_one() {
        for (text, expected) in [
            ("2GB", Some("2G")),
            ("2 GiB", Some("2G")),
            ("500 mb", Some("500M")),
            ("1.5G", Some("1536M")),
            ("0.5 K", Some("512")),
            ("2_000", Some("2000")),
            ("7 bananas", None),
            ("50%", None),
            ("16777216 TiB", None),
            ("-2G", None),
            ("", None),
        ] {
            assert_eq!(suggested_size(text).as_deref(), expected, "{text}");
        }
    }
}
