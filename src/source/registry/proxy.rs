//! Proxies, as the environment names them.
//!
//! Variables are read as Go's tools read them (golang.org/x/net/http/httpproxy), and `ALL_PROXY` as curl does, for
//! what the others leave open. A proxy that cannot be used is an error for every request that would go through it:
//! a direct connection would leak the request to the network.

use std::net::IpAddr;

use crate::error::{Error, Result};
use crate::name::Host;

/// The variables for http and https URLs, in the order in which they count. Empty ones count as unset.
const HTTP: [&str; 4] = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
const HTTPS: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
const NONE: [&str; 2] = ["NO_PROXY", "no_proxy"];
/// Set in a CGI program, where `HTTP_PROXY` is a header of its client.
const IN_CGI: &str = "REQUEST_METHOD";

/// The proxies that the environment names.
#[derive(Debug, Default)]
pub struct Proxies {
    http: Option<Result<ProxyUrl>>,
    https: Option<Result<ProxyUrl>>,
    exceptions: Vec<Exception>,
}

/// A proxy that can be used, as a URL. There may be a password in it, so it has no `Display`.
#[derive(Clone, PartialEq)]
pub struct ProxyUrl(String);

impl ProxyUrl {
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// For messages: `http://HOST:PORT`.
    pub fn place(&self) -> String {
        without_login(&self.0)
    }
}

impl std::fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProxyUrl(…)")
    }
}

/// One entry of `NO_PROXY`: hosts that are asked directly, perhaps on one port alone.
#[derive(Clone, Debug, PartialEq)]
struct Exception {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq)]
enum Hosts {
    /// `*`
    All,
    /// `10.0.0.0/8`
    Network(IpAddr, u8),
    Address(IpAddr),
    /// `example.com`, or with a dot before it only the hosts below it.
    Domain {
        name: String,
        is_itself: bool,
    },
}

impl Proxies {
    pub fn from_environment() -> Self {
        Self::of(|name| {
            let value = std::env::var_os(name)?;
            Some(value.to_string_lossy().into_owned())
        })
    }

    fn of(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &'static str| {
            let value = variable(name)?;
            let value = value.trim();
            (!value.is_empty()).then(|| (name, value.to_owned()))
        };
        let is_cgi = set(IN_CGI).is_some();
        let proxy = |names: [&'static str; 4]| {
            let (name, value) = names.into_iter().find_map(set)?;
            let in_cgi =
                "REQUEST_METHOD is set, and in a CGI program the variable is a client's header";
            let url = match is_cgi && name == "HTTP_PROXY" {
                true => Err(in_cgi.to_owned()),
                false => parse_proxy(&value),
            };
            Some(url.map_err(|why| Error::BadProxy {
                variable: name,
                value: without_login(&value),
                why,
            }))
        };
        let exceptions = NONE.into_iter().find_map(set);
        Self {
            http: proxy(HTTP),
            https: proxy(HTTPS),
            exceptions: exceptions.map_or_else(Vec::new, |(_, list)| parse_exceptions(&list)),
        }
    }

    /// The proxy for a request to this host; `None` for a direct connection, as to this machine always.
    pub fn find(&self, host: &Host, is_https: bool) -> Result<Option<&ProxyUrl>> {
        let (proxy, port) = match is_https {
            true => (&self.https, 443),
            false => (&self.http, 80),
        };
        let Some(proxy) = proxy else {
            return Ok(None);
        };
        let port = host.port().unwrap_or(port);
        let is_direct = |exception: &Exception| exception.holds(host, port);
        if host.is_loopback() || self.exceptions.iter().any(is_direct) {
            return Ok(None);
        }
        proxy.as_ref().map(Some).map_err(Clone::clone)
    }

    /// Whether http and https requests to this host use different proxies.
    pub fn differ(&self, host: &Host) -> bool {
        let found = (self.find(host, false), self.find(host, true));
        matches!(found, (Ok(http), Ok(https)) if http != https)
    }
}

impl Exception {
    fn holds(&self, host: &Host, port: u16) -> bool {
        let has_host = match &self.hosts {
            Hosts::All => true,
            Hosts::Network(network, bits) => {
                (host.address()).is_some_and(|address| is_in_network(address, *network, *bits))
            }
            Hosts::Address(address) => host.address() == Some(*address),
            Hosts::Domain { name, is_itself } => match host.bare().strip_suffix(name.as_str()) {
                Some("") => *is_itself,
                Some(below) => below.ends_with('.'),
                None => false,
            },
        };
        has_host && self.port.is_none_or(|only| only == port)
    }
}

fn is_in_network(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let differing = match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            (address.to_bits() ^ network.to_bits()).leading_zeros()
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            (address.to_bits() ^ network.to_bits()).leading_zeros()
        }
        _ => return false,
    };
    differing >= bits.into()
}

/// The entries of `NO_PROXY`, between commas or blanks. Invalid entries are ignored.
fn parse_exceptions(list: &str) -> Vec<Exception> {
    list.split(|c: char| c == ',' || c.is_whitespace())
        .filter_map(|entry| parse_exception(&entry.to_ascii_lowercase()))
        .collect()
}

fn parse_exception(entry: &str) -> Option<Exception> {
    let on_all_ports = |hosts| Some(Exception { hosts, port: None });
    if entry == "*" {
        return on_all_ports(Hosts::All);
    }
    if let Some((network, bits)) = entry.split_once('/') {
        let (network, bits): (IpAddr, u8) = (network.parse().ok()?, bits.parse().ok()?);
        let most = if network.is_ipv4() { 32 } else { 128 };
        return on_all_ports(Hosts::Network(network, bits)).filter(|_| bits <= most);
    }
    let unbracketed = entry
        .strip_prefix('[')
        .and_then(|entry| entry.strip_suffix(']'));
    if let Ok(address) = unbracketed.unwrap_or(entry).parse::<IpAddr>() {
        return on_all_ports(Hosts::Address(address.to_canonical()));
    }
    // `*.example.com` is Go's `.example.com`.
    let dotted = entry.strip_prefix('*').unwrap_or(entry);
    let name = dotted.strip_prefix('.').unwrap_or(dotted);
    let host: Host = name.parse().ok()?;
    let hosts = match host.address() {
        Some(address) if name == dotted => Hosts::Address(address),
        _ => Hosts::Domain {
            name: host.bare().to_owned(),
            is_itself: name == dotted,
        },
    };
    let port = host.port();
    Some(Exception { hosts, port })
}

/// The URL of a proxy, as the variable has it: perhaps without `http://`.
fn parse_proxy(value: &str) -> Result<ProxyUrl, String> {
    let (scheme, rest) = match value.split_once("://") {
        Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
        None => ("http".to_owned(), value),
    };
    if scheme.starts_with("socks") {
        return Err("SOCKS proxies are not supported".to_owned());
    }
    if !matches!(scheme.as_str(), "http" | "https") {
        return Err(format!("{scheme} proxies are not supported"));
    }
    let rest = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (login, host) = match rest.rsplit_once('@') {
        Some((login, host)) => (Some(login), host),
        None => (None, rest),
    };
    let host: Host = host
        .parse()
        .map_err(|_| "it has no valid host and port".to_owned())?;
    let login = login.map(|login| format!("{login}@")).unwrap_or_default();
    Ok(ProxyUrl(format!("{scheme}://{login}{host}")))
}

/// The value of a variable for messages: without what stands before the host.
fn without_login(value: &str) -> String {
    let (scheme, rest) = match value.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), value),
    };
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    format!("{scheme}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::of(|name| {
            let found = variables.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    /// The proxy for a URL, `-` for none, or the error.
    fn find(proxies: &Proxies, url: &str) -> String {
        let (scheme, host) = url.split_once("://").unwrap();
        match proxies.find(&host.parse().unwrap(), scheme == "https") {
            Ok(found) => found.map_or("-", ProxyUrl::reveal).to_owned(),
            Err(error) => error.line(),
        }
    }

    #[test]
    fn each_scheme_has_its_variables() {
        let http = ("HTTP_PROXY", "http://one:1");
        for (variables, of_http, of_https, why) in [
            (&[][..], "-", "-", "none"),
            (&[http], "http://one:1", "-", "http alone"),
            (
                &[("https_proxy", "two:2")],
                "-",
                "http://two:2",
                "https alone, without a scheme",
            ),
            (
                &[("ALL_PROXY", "http://all")],
                "http://all",
                "http://all",
                "curl's",
            ),
            (
                &[http, ("all_proxy", "http://all")],
                "http://one:1",
                "http://all",
                "where no other is set",
            ),
            (
                &[http, ("http_proxy", "http://two")],
                "http://one:1",
                "-",
                "Go's order",
            ),
            (
                &[("HTTP_PROXY", " "), ("http_proxy", "http://two")],
                "http://two",
                "-",
                "empty is unset",
            ),
            (
                &[("HTTPS_PROXY", " HTTPS://u:p%40@p.example:8443/x ")],
                "-",
                "https://u:p%40@p.example:8443",
                "a login, TLS",
            ),
            (
                &[("HTTPS_PROXY", "http://[::1]:3128")],
                "-",
                "http://[::1]:3128",
                "IPv6",
            ),
            (
                &[("http_proxy", "http://one:1"), ("REQUEST_METHOD", "GET")],
                "http://one:1",
                "-",
                "CGI, lower case",
            ),
        ] {
            let found = proxies(variables);
            assert_eq!(find(&found, "http://r.example"), of_http, "{why}");
            assert_eq!(find(&found, "https://r.example"), of_https, "{why}");
        }
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_an_error_and_shows_no_password() {
        for (value, shown, why) in [
            (
                "socks5://u:s3cret@h:9",
                "socks5://h:9",
                "SOCKS proxies are not supported",
            ),
            (
                "socks5h://h:9",
                "socks5h://h:9",
                "SOCKS proxies are not supported",
            ),
            ("SOCKS://h", "SOCKS://h", "SOCKS proxies are not supported"),
            (
                "ftp://u:s3cret@h",
                "ftp://h",
                "ftp proxies are not supported",
            ),
            ("http://:::", "http://:::", "it has no valid host and port"),
            (
                "http://u:s3cret@h:99999",
                "http://h:99999",
                "it has no valid host and port",
            ),
            ("u:s3cret@h:port", "h:port", "it has no valid host and port"),
            (
                "http://u:s3c/ret@h",
                "http://h",
                "it has no valid host and port",
            ),
            ("http://", "http://", "it has no valid host and port"),
            ("http://h h", "http://h h", "it has no valid host and port"),
        ] {
            let found = proxies(&[("HTTPS_PROXY", value), ("NO_PROXY", "direct.example")]);
            let line = find(&found, "https://r.example");
            let expected = format!(
                "the proxy in $HTTPS_PROXY cannot be used, {shown:?}: {why}; expected http://HOST:PORT"
            );
            assert!(line.starts_with(&expected), "{line}");
            assert!(!format!("{found:?}").contains("s3c"), "{found:?}");
            for direct in [
                "https://direct.example",
                "https://127.0.0.1:5000",
                "http://r.example",
            ] {
                assert_eq!(find(&found, direct), "-", "{direct}");
            }
        }
        let cgi = proxies(&[("HTTP_PROXY", "http://h"), ("REQUEST_METHOD", "GET")]);
        assert!(find(&cgi, "http://r.example").contains("a client's header"));
    }

    #[test]
    fn who_is_in_no_proxy_is_asked_directly() {
        for (list, url, is_direct) in [
            ("*", "https://r.example", true),
            ("r.example", "https://r.example", true),
            ("r.example", "https://R.Example:5000", true),
            ("r.example", "https://a.r.example", true),
            ("r.example", "https://ar.example", false),
            ("r.example", "https://r.example.org", false),
            (".r.example", "https://a.r.example", true),
            (".r.example", "https://r.example", false),
            ("*.r.example", "https://a.r.example", true),
            ("*.r.example", "https://r.example", false),
            ("R.EXAMPLE", "https://r.example", true),
            ("r.example:5000", "https://r.example:5000", true),
            ("r.example:5000", "https://r.example", false),
            ("r.example:443", "https://r.example", true),
            ("r.example:443", "http://r.example", false),
            ("r.example:80", "http://r.example", true),
            ("a, r.example ,b", "https://r.example", true),
            ("a r.example", "https://r.example", true),
            (",,", "https://r.example", false),
            ("10.0.0.0/8", "https://10.1.2.3:5000", true),
            ("10.0.0.0/8", "https://11.1.2.3", false),
            ("0.0.0.0/0", "https://11.1.2.3", true),
            ("0.0.0.0/0", "https://r.example", false),
            ("10.0.0.0/33", "https://10.0.0.0", false),
            ("2001:db8::/32", "https://[2001:db8::1]:5000", true),
            ("2001:db8::/32", "https://[2001:db9::1]", false),
            ("192.0.2.7", "https://192.0.2.7:5000", true),
            ("192.0.2.7:5000", "https://192.0.2.7:5000", true),
            ("192.0.2.7:5000", "https://192.0.2.7", false),
            ("192.0.2.7", "https://192.0.2.70", false),
            ("2001:db8::1", "https://[2001:db8::1]", true),
            ("[2001:db8::1]:5000", "https://[2001:db8::1]:5000", true),
            ("[2001:db8::1]", "https://[2001:db8::1]:5000", true),
            ("r.example/", "https://r.example", false),
        ] {
            let found = proxies(&[("ALL_PROXY", "http://p"), ("no_proxy", list)]);
            let expected = if is_direct { "-" } else { "http://p" };
            assert_eq!(find(&found, url), expected, "{list:?} {url}");
        }
    }
}
