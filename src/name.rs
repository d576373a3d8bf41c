//! Names as registries, systemd and URLs spell them, each checked once when it is read.
//!
//! Repository and tag: <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests>.
//! Files: what systemd-sysupdate takes as a name in `SHA256SUMS`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

use crate::digest::Digest;

/// Longest repository name. Clients count the host in; we allow a little more than they do.
const MAX_REPOSITORY: usize = 255;
/// Longest tag (distribution-spec).
const MAX_TAG: usize = 128;
/// Longest host name, and longest label in one (RFC 1035 §2.3.4).
const MAX_HOST_NAME: usize = 253;
const MAX_LABEL: usize = 63;
/// Longest file name: NAME_MAX, which systemd holds names in `SHA256SUMS` to.
const MAX_FILE_NAME: usize = 255;

/// Makes a checked string: parsed by `$check`, printed as it was.
macro_rules! checked_string {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(String);

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                $check(text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
    };
}

checked_string! {
    /// A repository inside a registry: `kubernetes`, `acme/sysexts/debug-tools`.
    Repository, check_repository
}

checked_string! {
    /// A tag: `v1.27.8-x86-64`.
    Tag, check_tag
}

checked_string! {
    /// The name of a file in a listing. Every one of them is a name that systemd accepts: one bad
    /// name makes systemd-sysupdate refuse the whole list.
    FileName, check_file_name
}

/// A registry host with its port, where it has one: `ghcr.io`, `localhost:5000`, `[::1]:5000`.
///
/// Names are in lower case and IPv6 addresses in their shortest form, so that one host has one spelling
/// wherever hosts are compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(try_from = "String")]
pub struct Host(String);

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_host(text).map(Self)
    }
}

impl TryFrom<String> for Host {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Repository {
    /// The repository as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last component, which file names begin with.
    pub fn base(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// `self`, one level or more below `prefix`.
    pub fn below(&self, prefix: Option<&Repository>) -> Result<Self, String> {
        match prefix {
            Some(prefix) => format!("{prefix}/{self}").parse(),
            None => Ok(self.clone()),
        }
    }

    /// Is it `prefix` itself or below it? Whole components count: `acme/k8s` is not below `acme/k`.
    pub fn is_within(&self, prefix: &Repository) -> bool {
        self.0
            .strip_prefix(&prefix.0)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl FileName {
    /// The name as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Tag {
    /// The tag as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tag of a publisher's own list of the repository's files.
    pub fn of_listing() -> Self {
        Self("SHA256SUMS".to_owned())
    }

    /// The tag of an artifact that lists others, where a publisher has it: `index`.
    pub fn of_index() -> Self {
        Self("index".to_owned())
    }

    /// What stands for the version of an artifact that is known by nothing but its digest.
    pub fn of_digest(digest: &Digest) -> Self {
        Self(digest.hex()[..12].to_owned())
    }

    /// The fallback tag of the referrers of a manifest (distribution-spec).
    pub fn of_referrers(subject: &Digest) -> Self {
        Self(format!("sha256-{}", subject.hex()))
    }

    /// Is it the tag of a signature or of a list of referrers? Such a tag is never a version.
    ///
    /// cosign and the referrers fallback of the distribution-spec:
    /// `^sha(256|512)-[0-9a-f]{32,}(\..+)?$`.
    pub fn is_of_a_referrer(&self) -> bool {
        let Some(rest) = self
            .0
            .strip_prefix("sha256-")
            .or_else(|| self.0.strip_prefix("sha512-"))
        else {
            return false;
        };
        let digits = rest
            .bytes()
            .take_while(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            .count();
        let after = &rest[digits..];
        digits >= 32 && (after.is_empty() || (after.starts_with('.') && after.len() > 1))
    }
}

/// A version without a `v` before its number.
pub fn without_v(version: &str) -> &str {
    let bare = version.strip_prefix('v');
    bare.filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        .unwrap_or(version)
}

impl Host {
    /// Does this first component of a path name a host rather than a repository?
    ///
    /// The rule of docker and of containers: it has a `.` or `:`, or is `localhost`.
    pub fn looks_like_one(component: &str) -> bool {
        component.contains(['.', ':']) || component == "localhost"
    }

    /// The seed of all settings: a registry on this machine, on its usual port.
    pub fn localhost() -> Self {
        Self("localhost:5000".to_owned())
    }

    /// The host as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host without port and brackets.
    pub fn bare(&self) -> &str {
        match self
            .0
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'))
        {
            Some((address, _)) => address,
            None => self.0.split(':').next().unwrap_or(&self.0),
        }
    }

    /// The port, where one is written.
    pub fn port(&self) -> Option<u16> {
        let (_, port) = self.0.rsplit_once(':')?;
        // In brackets the last colon may be one of the address.
        port.parse().ok()
    }

    /// Is it on this machine? Then plain HTTP is meant.
    ///
    /// `x.localhost` is not, for where it leads depends on the resolver.
    pub fn is_loopback(&self) -> bool {
        match self.address() {
            Some(address) => address.is_loopback(),
            None => self.bare().eq_ignore_ascii_case("localhost"),
        }
    }

    /// Is it a name of this machine, whatever a resolver says? So RFC 6761 §6.3 wants it.
    pub fn is_localhost(&self) -> bool {
        let name = self.bare().to_ascii_lowercase();
        name == "localhost" || name.ends_with(".localhost")
    }

    /// Is it an address rather than a name?
    pub fn is_address(&self) -> bool {
        self.address().is_some()
    }

    /// The address, if it is one, however it is written; one of IPv4 in IPv6 as that of IPv4.
    pub fn address(&self) -> Option<IpAddr> {
        let bare = self.bare();
        match bare.parse::<IpAddr>() {
            Ok(address) => Some(address.to_canonical()),
            Err(_) => Some(inet_aton(bare)?.into()),
        }
    }

    /// Is it something else from every machine: loopback, link-local? A name is not looked up for this.
    pub fn is_only_reached_from_here(&self) -> bool {
        match self.address() {
            Some(IpAddr::V4(address)) => {
                address.is_loopback() || address.is_link_local() || address.is_unspecified()
            }
            Some(IpAddr::V6(address)) => {
                address.is_loopback() || address.is_unicast_link_local() || address.is_unspecified()
            }
            None => self.is_localhost(),
        }
    }

    /// Are they one machine, whatever the ports?
    pub fn is_same_machine(&self, other: &Self) -> bool {
        self.bare().eq_ignore_ascii_case(other.bare())
            || (self.is_address() && self.address() == other.address())
            || (self.is_loopback() && other.is_loopback())
    }

    /// Have two names the same owner, as far as names can tell: the last two labels, or the last three
    /// where the second to last is as short as in `co.uk`?
    pub fn is_same_domain(&self, other: &Self) -> bool {
        let domain = |host: &Self| {
            let labels: Vec<_> = host
                .bare()
                .split('.')
                .map(str::to_ascii_lowercase)
                .collect();
            let n = labels.len();
            let count = if n >= 2 && labels[n - 1].len() == 2 && labels[n - 2].len() <= 3 {
                3
            } else {
                2
            };
            (n >= count && !host.is_address()).then(|| labels[n - count..].join("."))
        };
        self.is_same_machine(other) || (domain(self).is_some() && domain(self) == domain(other))
    }
}

/// `host[:port][/path]`: a registry, or the part of one below a path.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Registry {
    /// Where it is.
    pub host: Host,
    /// What comes before each repository's own name.
    pub path: Option<Repository>,
}

impl Registry {
    /// Is the repository at this host part of it?
    pub fn holds(&self, host: &Host, repository: &Repository) -> bool {
        let (host, repository) = normalized(host, repository);
        docker_hub(&self.host) == host
            && self
                .path
                .as_ref()
                .is_none_or(|path| repository.is_within(path))
    }
}

/// A repository by its one name: Docker Hub has three hosts, and a repository there whose name is a single
/// component is in `library/`. (containers/image, docker/reference, `splitDockerDomain`.)
pub fn normalized(host: &Host, repository: &Repository) -> (Host, Repository) {
    let host = docker_hub(host);
    let is_short = host.0 == DOCKER_HUB && !repository.0.contains('/');
    let full = is_short.then(|| format!("library/{repository}").parse().ok());
    let repository = full.flatten().unwrap_or_else(|| repository.clone());
    (host, repository)
}

/// The name of Docker Hub, whose API is elsewhere.
pub const DOCKER_HUB: &str = "docker.io";

/// `docker.io` for each of the hosts of Docker Hub; any other host as it is.
pub fn docker_hub(host: &Host) -> Host {
    match host.0.as_str() {
        "index.docker.io" | "registry-1.docker.io" => Host(DOCKER_HUB.to_owned()),
        _ => host.clone(),
    }
}

impl FromStr for Registry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((scheme, rest)) = text.split_once("://") {
            let (text, rest) = (
                without_userinfo(text),
                without_userinfo(&format!("//{rest}")),
            );
            return Err(format!(
                "registry {text:?} must be written without {scheme}://, as {:?}",
                rest.trim_matches('/')
            ));
        }
        let (host, path) = match text.split_once('/') {
            Some((host, path)) => (host, Some(path.parse()?)),
            None => (text, None),
        };
        if !Host::looks_like_one(host) {
            return Err(format!(
                "registry {text:?} must begin with a host that has a dot or a port, such as ghcr.io or {host}:443"
            ));
        }
        Ok(Self {
            host: host.parse()?,
            path,
        })
    }
}

impl TryFrom<String> for Registry {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{}/{path}", self.host),
            None => write!(f, "{}", self.host),
        }
    }
}

/// A repository as a URL or a settings key names it: `kubernetes`, `acme/k8s`, `ghcr.io/acme/k8s`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct RepositoryAddress {
    /// The registry, when the name begins with one.
    pub host: Option<Host>,
    /// The repository there.
    pub repository: Repository,
}

impl FromStr for RepositoryAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((host, rest)) if Host::looks_like_one(host) => Ok(Self {
                host: Some(host.parse()?),
                repository: rest.parse()?,
            }),
            _ => Ok(Self {
                host: None,
                repository: text.parse()?,
            }),
        }
    }
}

impl TryFrom<String> for RepositoryAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl Serialize for RepositoryAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for RepositoryAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Some(host) => write!(f, "{host}/{}", self.repository),
            None => write!(f, "{}", self.repository),
        }
    }
}

/// One component: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_component(component: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let separators_are_good = component
        .split(|c: char| c.is_ascii() && is_plain(c as u8))
        .filter(|between| !between.is_empty())
        .all(|between| matches!(between, "." | "_" | "__") || between.bytes().all(|b| b == b'-'));
    let bytes = component.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(&first), Some(&last)) if is_plain(first) && is_plain(last))
        && separators_are_good
}

fn check_repository(text: &str) -> Result<(), String> {
    if text.len() > MAX_REPOSITORY {
        return Err(format!(
            "repository name of {} bytes, at most {MAX_REPOSITORY} are allowed",
            text.len()
        ));
    }
    match text.split('/').find(|component| !is_component(component)) {
        None => Ok(()),
        Some(component) => Err(format!(
            "{component:?} in repository {text:?} is not a name component: \
             lowercase letters and digits, joined by one '.', '_', '__' or dashes"
        )),
    }
}

fn check_tag(text: &str) -> Result<(), String> {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let good = (1..=MAX_TAG).contains(&text.len())
        && is_word(text.as_bytes()[0])
        && text.bytes().all(|b| is_word(b) || b == b'.' || b == b'-');
    if good {
        return Ok(());
    }
    Err(format!(
        "{text:?} is not a tag: at most {MAX_TAG} letters, digits, '_', '.', '-', no '.' or '-' first"
    ))
}

fn check_file_name(text: &str) -> Result<(), String> {
    let why = if text.is_empty() || text == "." || text == ".." {
        "it is empty or dots"
    } else if text.len() > MAX_FILE_NAME {
        "it is longer than 255 bytes"
    } else if text.contains(['/', '%']) {
        "it has a '/' or '%'"
    } else if text.starts_with('\\') {
        "it begins with '\\'"
    } else if text.chars().any(char::is_control) {
        "it has a control character"
    } else if text.starts_with("SHA256SUMS") || text.starts_with("BEST-BEFORE-") {
        "systemd gives this name a meaning of its own"
    } else {
        return Ok(());
    };
    Err(format!("{text:?} cannot be listed: {why}"))
}

fn parse_host(text: &str) -> Result<String, String> {
    spell_host(text).ok_or_else(|| {
        let text = without_userinfo(text);
        format!("{text:?} is not a registry host, expected name or address and perhaps :port")
    })
}

/// The one spelling of a host; `None` if it is none.
fn spell_host(text: &str) -> Option<String> {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']')?;
            let address: Ipv6Addr = address.parse().ok()?;
            let port = match after {
                "" => None,
                after => Some(after.strip_prefix(':')?),
            };
            (format!("[{address}]"), port)
        }
        None => {
            let (name, port) = match text.split_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (text, None),
            };
            let is_label = |label: &str| {
                (1..=MAX_LABEL).contains(&label.len())
                    && !label.starts_with('-')
                    && !label.ends_with('-')
                    && label
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            };
            if name.len() > MAX_HOST_NAME || !name.split('.').all(is_label) {
                return None;
            }
            (name.to_ascii_lowercase(), port)
        }
    };
    let Some(port) = port else {
        return Some(name);
    };
    let is_number = port.bytes().all(|b| b.is_ascii_digit());
    let number: u16 = port.parse().ok()?;
    (is_number && number > 0).then(|| format!("{name}:{number}"))
}

/// A text for messages: without what stands before the `@` of a URL or of `user:password@host`.
///
/// Settings, redirects and the like may have a password there, also where the rest of them is wrong. The `@` of a
/// digest and one in a path stay.
pub fn without_userinfo(text: &str) -> String {
    let is_boundary = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '<' | '>');
    text.split_inclusive(is_boundary)
        .map(url_without_userinfo)
        .collect()
}

/// The same of a text that is a URL as a whole, perhaps a wrong one.
pub fn url_without_userinfo(url: &str) -> String {
    let (before, rest) = url.split_at(url.find("//").map_or(0, |at| at + 2));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let at = match authority.rfind('@') {
        Some(at) if before.is_empty() && !authority[..at].contains(':') => None,
        // A password may have a slash in it: then what stands before that is no host.
        None if authority.contains(':') && spell_host(authority).is_none() => rest.rfind('@'),
        at => at,
    };
    match at {
        Some(at) => format!("{before}{}", &rest[at + 1..]),
        None => url.to_owned(),
    }
}

/// What getaddrinfo(3) takes for an address besides the usual form, by the rules of inet_aton(3): one
/// to four numbers, also hexadecimal (`0x7f.1`) or octal (`0177.1`), of which the last fills the rest.
fn inet_aton(text: &str) -> Option<Ipv4Addr> {
    let number = |text: &str| {
        let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
        match (hexadecimal, text.strip_prefix('0')) {
            (Some(digits), _) => u32::from_str_radix(digits, 16).ok(),
            (None, Some(digits)) if !digits.is_empty() => u32::from_str_radix(digits, 8).ok(),
            _ => text.parse().ok(),
        }
    };
    let mut numbers: Vec<u32> = text.split('.').map(number).collect::<Option<_>>()?;
    let last = numbers.pop()?;
    let rest = 32 - 8 * u32::try_from(numbers.len()).ok().filter(|n| *n < 4)?;
    if u64::from(last) >> rest > 0 {
        return None;
    }
    let bytes = numbers.into_iter().zip([24, 16, 8]);
    bytes
        .map(|(byte, shift)| Some(u32::from(u8::try_from(byte).ok()?) << shift))
        .try_fold(last, |address, byte| Some(address | byte?))
        .map(Ipv4Addr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_lowercase_components() {
        let long = "a/".repeat(127) + "b";
        for good in [
            "a",
            "kubernetes",
            "acme/sysexts/debug-tools",
            "a.b_c__d---e",
            "0/1",
            &long,
        ] {
            assert!(good.parse::<Repository>().is_ok(), "{good:?} was refused");
        }
        let too_long = "a/".repeat(128) + "b";
        for (bad, why) in [
            ("", "empty"),
            ("/a", "empty component"),
            ("a//b", "empty component"),
            ("A", "upper case"),
            ("a..b", "two dots"),
            ("a___b", "three underscores"),
            ("a._b", "mixed separators"),
            ("-a", "separator first"),
            ("a.", "separator last"),
            ("..", "a way out"),
            ("a b", "space"),
            ("a%b", "percent"),
            ("ä", "not ASCII"),
            ("a\0", "NUL"),
            (&too_long, "too long"),
        ] {
            assert!(
                bad.parse::<Repository>().is_err(),
                "{why}: {bad:?} was accepted"
            );
        }
    }

    #[test]
    fn tags_follow_the_distribution_spec() {
        let longest = "t".repeat(128);
        for good in ["v1.27.8-x86-64", "latest", "_x", "1", "A-B_c.D", &longest] {
            assert!(good.parse::<Tag>().is_ok(), "{good:?} was refused");
        }
        let too_long = "t".repeat(129);
        for (bad, why) in [
            ("", "empty"),
            ("-ot-beta", "dash first (seen on ECR Public)"),
            (".x", "dot first"),
            ("sha512:00", "a digest (seen on Artifactory)"),
            ("a/b", "slash"),
            ("a+b", "plus"),
            ("ä", "not ASCII"),
            (&too_long, "too long"),
        ] {
            assert!(bad.parse::<Tag>().is_err(), "{why}: {bad:?} was accepted");
        }
    }

    #[test]
    fn tags_of_signatures_and_referrers_are_known() {
        let hex = "0123456789abcdef".repeat(4);
        for (tag, is_one) in [
            (format!("sha256-{hex}"), true),
            (format!("sha256-{hex}.sig"), true),
            (format!("sha512-{hex}.att"), true),
            (format!("sha256-{hex}."), false),
            (format!("sha256-{hex}-x86-64"), false),
            ("sha256-abc".into(), false),
            ("v1".into(), false),
        ] {
            assert_eq!(
                tag.parse::<Tag>().unwrap().is_of_a_referrer(),
                is_one,
                "{tag}"
            );
        }
    }

    #[test]
    fn file_names_are_what_systemd_accepts() {
        let longest = "n".repeat(255);
        for good in [
            "kubernetes-v1.27.8-x86-64.raw",
            "a b",
            "ä",
            "a\\b",
            &longest,
        ] {
            assert!(good.parse::<FileName>().is_ok(), "{good:?} was refused");
        }
        let too_long = "n".repeat(256);
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a%b",
            "\\a",
            "a\nb",
            "a\0b",
            "SHA256SUMS",
            "BEST-BEFORE-2030-01-01",
            &too_long,
        ] {
            assert!(bad.parse::<FileName>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn hosts_are_names_or_addresses_with_a_port() {
        for (good, loopback) in [
            ("ghcr.io", false),
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("127.1", true),
            ("Localhost", true),
            ("[::ffff:127.0.0.1]:5000", true),
            // Not every resolver keeps it on this machine, and logins may cross loopback in the clear.
            ("x.localhost", false),
            ("[::1]:5000", true),
            ("[2001:db8::1]", false),
            ("10.0.0.1:443", false),
            ("localhost.example.org", false),
        ] {
            let host = good.parse::<Host>().unwrap_or_else(|why| panic!("{why}"));
            assert_eq!(host.is_loopback(), loopback, "{good}");
        }
        for bad in [
            "", ":5000", "a:", "a:0", "a:65536", "a:+1", "a..b", "-a.b", "[::1", "[::1]x", "::1",
            "ä.de", "a_b.c", "u@h.de",
        ] {
            assert!(bad.parse::<Host>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn an_address_is_known_however_it_is_written() {
        for (host, expected, why) in [
            ("192.0.2.7:80", Some("192.0.2.7"), "as everybody writes it"),
            ("[2001:db8::1]", Some("2001:db8::1"), ""),
            ("[::ffff:192.0.2.7]", Some("192.0.2.7"), "IPv4 in IPv6"),
            ("127.1", Some("127.0.0.1"), "the last number fills the rest"),
            ("192.0.519", Some("192.0.2.7"), "two bytes in one"),
            ("2130706433", Some("127.0.0.1"), "all in one"),
            ("0x7f.1:5000", Some("127.0.0.1"), "hexadecimal"),
            ("0X7F000001", Some("127.0.0.1"), "hexadecimal in capitals"),
            ("0177.0.0.1", Some("127.0.0.1"), "octal"),
            ("0", Some("0.0.0.0"), ""),
            ("4294967295", Some("255.255.255.255"), "the last one"),
            ("4294967296", None, "one too many"),
            ("127.0.65536", None, "more than the rest holds"),
            ("256.1", None, "more than a byte"),
            ("1.2.3.4.5", None, "too many numbers"),
            ("08.1", None, "no octal digit"),
            ("0x.1", None, "no digit"),
            ("1.example", None, "a name"),
        ] {
            let host: Host = host.parse().unwrap();
            assert_eq!(
                host.address(),
                expected.map(|address| address.parse().unwrap()),
                "{host}: {why}"
            );
        }
    }

    #[test]
    fn this_machine_is_known_however_it_is_written() {
        for here in [
            "localhost",
            "LocalHost:80",
            "x.localhost",
            "X.LOCALHOST",
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f.1",
            "0177.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "0.0.0.0",
            "0",
            "[::]",
            "[::ffff:0.0.0.0]",
            "169.254.1.1",
            "[::ffff:169.254.1.1]",
            "[fe80::1]",
        ] {
            let host: Host = here.parse().unwrap();
            assert!(host.is_only_reached_from_here(), "{here}");
        }
        for elsewhere in [
            "ghcr.io",
            "10.0.0.1",
            "localhost.example.org",
            "xlocalhost",
            "[::ffff:192.0.2.7]",
            "[2001:db8::1]",
        ] {
            let host: Host = elsewhere.parse().unwrap();
            assert!(!host.is_only_reached_from_here(), "{elsewhere}");
        }
    }

    #[test]
    fn owners_of_hosts_are_told_by_their_names() {
        for (one, other, is_same) in [
            ("registry-1.docker.io", "auth.docker.io", true),
            ("registry.gitlab.com", "gitlab.com", true),
            ("ghcr.io", "ghcr.io:443", true),
            ("a.example.co.uk", "b.example.co.uk", true),
            ("a.example.co.uk", "evil.co.uk", false),
            ("example.org", "example.com", false),
            ("localhost:5000", "127.0.0.1:5001", true),
            ("192.0.2.7", "[::ffff:192.0.2.7]", true),
            ("10.0.0.1", "10.1.0.1", false),
            ("localhost", "example.org", false),
        ] {
            let host = |name: &str| name.parse::<Host>().unwrap();
            assert_eq!(
                host(one).is_same_domain(&host(other)),
                is_same,
                "{one} {other}"
            );
        }
    }

    #[test]
    fn registries_hold_what_is_below_their_path() {
        for (registry, name, holds) in [
            ("ghcr.io", "ghcr.io/acme/k8s", true),
            ("ghcr.io/acme", "ghcr.io/acme/k8s", true),
            ("ghcr.io/acme", "ghcr.io/acme", true),
            ("ghcr.io/acme", "GHCR.io/acme/k8s", true),
            ("GHCR.io/acme", "ghcr.io/acme/k8s", true),
            ("ghcr.io/acme", "ghcr.io/acmecorp/k8s", false),
            ("ghcr.io/acme", "ghcr.io/acme-evil/k8s", false),
            ("ghcr.io/acme", "ghcr.io:444/acme/k8s", false),
            ("ghcr.io/acme/k", "ghcr.io/acme/k8s", false),
            ("quay.io", "ghcr.io/acme/k8s", false),
            ("quay.io", "quay.io.evil.example/k8s", false),
            ("docker.io/library", "docker.io/alpine", true),
            ("docker.io/acme", "index.docker.io/acme/k8s", true),
            ("docker.io/acme", "docker.io/acme", false), // library/acme
        ] {
            let registry: Registry = registry.parse().unwrap();
            let RepositoryAddress { host, repository } = name.parse().unwrap();
            let found = registry.holds(&host.unwrap(), &repository);
            assert_eq!(found, holds, "{registry} {name}");
        }
        for bad in [
            "ghcr.io/acme/../evil/k8s",
            "ghcr.io/acme/./k8s",
            "ghcr.io/acme/%2e%2e/evil",
            "ghcr.io/acme//k8s",
            "ghcr.io/acme/..",
            "ghcr.io./acme/k8s",
        ] {
            assert!(bad.parse::<RepositoryAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn no_message_has_what_stands_before_a_host() {
        for (text, expected) in [
            ("http://u:s3cret@h:80/x?y", "http://h:80/x?y"),
            ("https://t0ken@h/x", "https://h/x"),
            ("//u:s3cret@h", "//h"),
            ("u:s3cret@h/x", "h/x"),
            ("http://u:s3c@ret@h/x", "http://h/x"),
            ("http://u:s3c/r@et@h/x", "http://h/x"),
            ("u:s3c/ret@h", "h"),
            (
                "bad \"https://u:s3cret@h/x\": no",
                "bad \"https://h/x\": no",
            ),
            ("http://h/x@y", "http://h/x@y"),
            ("http://h:80/x@y", "http://h:80/x@y"),
            ("hello@sha256:00", "hello@sha256:00"),
            ("h:80/a@sha256:00", "h:80/a@sha256:00"),
            ("alice@example.com", "alice@example.com"),
            ("https:", "https:"),
            ("nothing: of, it", "nothing: of, it"),
            ("", ""),
        ] {
            assert_eq!(without_userinfo(text), expected);
        }
        for wrong in ["u:s3cret@h", "https://u:s3cret@h", "u:s3cret@h/x"] {
            let host = wrong.parse::<Host>().unwrap_err();
            let registry = wrong.parse::<Registry>().unwrap_err();
            assert!(
                !format!("{host}{registry}").contains("s3cret"),
                "{host} {registry}"
            );
        }
    }

    #[test]
    fn a_host_has_one_spelling() {
        for (written, expected, port) in [
            ("GHCR.io", "ghcr.io", None),
            (
                "Registry.Example.COM:0443",
                "registry.example.com:443",
                Some(443),
            ),
            ("[0:0::1]:5000", "[::1]:5000", Some(5000)),
            ("[2001:DB8::5000]", "[2001:db8::5000]", None),
            ("127.1:80", "127.1:80", Some(80)),
        ] {
            let host: Host = written.parse().unwrap();
            assert_eq!((host.as_str(), host.port()), (expected, port), "{written}");
        }
        assert!("ghcr.io.".parse::<Host>().is_err(), "a dot at the end");
    }

    #[test]
    fn row_g2_a_repository_of_docker_hub_has_one_name() {
        for (host, repository, expected) in [
            ("docker.io", "alpine", "docker.io/library/alpine"),
            ("docker.io", "library/alpine", "docker.io/library/alpine"),
            ("index.docker.io", "alpine", "docker.io/library/alpine"),
            (
                "Registry-1.docker.io",
                "acme/alpine",
                "docker.io/acme/alpine",
            ),
            ("auth.docker.io", "alpine", "auth.docker.io/alpine"),
            ("ghcr.io", "alpine", "ghcr.io/alpine"),
        ] {
            let (host, repository) =
                normalized(&host.parse().unwrap(), &repository.parse().unwrap());
            assert_eq!(format!("{host}/{repository}"), expected);
        }
    }

    #[test]
    fn registries_are_written_without_a_scheme_and_with_a_host() {
        for bad in [
            "https://ghcr.io",
            "ghcr.io/",
            "acme/k8s",
            "acme",
            "ghcr.io/Acme",
            "/acme",
        ] {
            assert!(bad.parse::<Registry>().is_err(), "{bad:?} was accepted");
        }
    }
}
