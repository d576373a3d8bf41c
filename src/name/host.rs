//! Hosts and registries, in one spelling each.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::{Checked, Grammar, Repository};

/// Longest host name, and longest label in one (RFC 1035 §2.3.4).
const MAX_HOST_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// A registry host with its port, where it has one: `ghcr.io`, `localhost:5000`, `[::1]:5000`.
///
/// Names are in lower case and IPv6 addresses in their shortest form, so that one host has one spelling
/// wherever hosts are compared.
pub type Host = Checked<HostGrammar>;

/// `name[:port]`, `address[:port]`
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostGrammar;

impl Grammar for HostGrammar {
    fn spell(text: &str) -> Result<String, String> {
        spell_host(text).ok_or_else(|| {
            let text = without_userinfo(text);
            format!("{text:?} is not a registry host, expected name or address and perhaps :port")
        })
    }
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
                    && (label.bytes()).all(|b| b.is_ascii_alphanumeric() || b == b'-')
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

impl Host {
    /// Whether this first component of a path names a host rather than a repository.
    ///
    /// The rule of docker and of containers: it has a `.` or `:`, or is `localhost`.
    pub fn looks_like_one(component: &str) -> bool {
        component.contains(['.', ':']) || component == "localhost"
    }

    /// The default registry: on this machine, on its usual port.
    pub fn localhost() -> Self {
        Self::known("localhost:5000")
    }

    /// The host without port and brackets.
    pub fn bare(&self) -> &str {
        let in_brackets = self
            .0
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'));
        in_brackets
            .or_else(|| self.0.split_once(':'))
            .map_or(&self.0, |(bare, _)| bare)
    }

    /// The port, where one is written.
    pub fn port(&self) -> Option<u16> {
        let (_, port) = self.0.rsplit_once(':')?;
        // In brackets the last colon may be one of the address.
        port.parse().ok()
    }

    /// Whether it is on this machine. Then plain HTTP is meant.
    ///
    /// `x.localhost` is not, for where it leads depends on the resolver.
    pub fn is_loopback(&self) -> bool {
        match self.address() {
            Some(address) => address.is_loopback(),
            None => self.bare().eq_ignore_ascii_case("localhost"),
        }
    }

    /// Whether it is a name of this machine, whatever a resolver says (RFC 6761 §6.3).
    pub fn is_localhost(&self) -> bool {
        let name = self.bare().to_ascii_lowercase();
        name == "localhost" || name.ends_with(".localhost")
    }

    /// Whether it is an address rather than a name.
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

    /// Whether it means another host on each machine: loopback, link-local. A name is not looked up for this.
    pub fn is_only_reached_from_here(&self) -> bool {
        match self.address() {
            Some(address) if address.is_loopback() || address.is_unspecified() => true,
            Some(IpAddr::V4(address)) => address.is_link_local(),
            Some(IpAddr::V6(address)) => address.is_unicast_link_local(),
            None => self.is_localhost(),
        }
    }

    /// Whether they are one machine, whatever the ports.
    pub fn is_same_machine(&self, other: &Self) -> bool {
        self.bare().eq_ignore_ascii_case(other.bare())
            || (self.is_address() && self.address() == other.address())
            || (self.is_loopback() && other.is_loopback())
    }

    /// Whether two names have the same owner, as far as names can tell: the last two labels are the same, or the last
    /// three where the second to last is as short as in `co.uk`.
    pub fn is_same_domain(&self, other: &Self) -> bool {
        let domain = |host: &Self| {
            let name = host.bare().to_ascii_lowercase();
            let labels: Vec<_> = name.split('.').collect();
            let count = match labels.as_slice() {
                [.., second, top] if top.len() == 2 && second.len() <= 3 => 3,
                _ => 2,
            };
            let start = labels.len().checked_sub(count)?;
            (!host.is_address()).then(|| labels[start..].join("."))
        };
        self.is_same_machine(other) || (domain(self).is_some() && domain(self) == domain(other))
    }
}

/// `host[:port][/path]`: a registry, or the part of one below a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    /// Its host.
    pub host: Host,
    /// The path before each repository's own name.
    pub path: Option<Repository>,
}

impl Registry {
    /// Whether the repository at this host is part of it.
    pub fn holds(&self, host: &Host, repository: &Repository) -> bool {
        let (host, repository) = normalized(host, repository);
        let is_within = |path| repository.is_within(path);
        docker_hub(&self.host) == host && self.path.as_ref().is_none_or(is_within)
    }
}

/// A repository by its one name: Docker Hub has three hosts, and a repository there whose name is a single
/// component is in `library/`. (containers/image, docker/reference, `splitDockerDomain`.)
pub fn normalized(host: &Host, repository: &Repository) -> (Host, Repository) {
    let host = docker_hub(host);
    let is_short = host.0 == DOCKER_HUB && !repository.0.contains('/');
    let full = is_short.then(|| format!("library/{repository}").parse());
    let repository = full.and_then(Result::ok).unwrap_or(repository.clone());
    (host, repository)
}

/// The name of Docker Hub, whose API is elsewhere.
pub const DOCKER_HUB: &str = "docker.io";

/// `docker.io` for each of the hosts of Docker Hub; any other host as it is.
pub fn docker_hub(host: &Host) -> Host {
    match host.0.as_str() {
        "index.docker.io" | "registry-1.docker.io" => Host::known(DOCKER_HUB),
        _ => host.clone(),
    }
}

impl FromStr for Registry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, path) = text.split_once('/').unzip();
        let host = host.unwrap_or(text);
        if !Host::looks_like_one(host) {
            return Err(format!(
                "{text:?} does not begin with a registry host, expected one with a dot or a port, \
                 such as ghcr.io or registry:5000"
            ));
        }
        Ok(Self {
            host: host.parse()?,
            path: path.map(str::parse).transpose()?,
        })
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

/// An address in the other forms that getaddrinfo(3) takes, by the rules of inet_aton(3): one
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
    use crate::name::RepositoryAddress;

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
}
