//! The `prefix` of a `[[registry]]`: which names the table is for.

use crate::name::{Host, docker_hub};

/// The port of a registry that is written without one.
const HTTPS: u16 = 443;

/// The names that a table is for.
#[derive(Clone, Debug, PartialEq)]
pub struct Prefix {
    /// As it is written, without slashes at the end. Its length decides between several.
    pub written: String,
    hosts: Hosts,
    /// Of the repository, whole components; empty for all of a host.
    path: String,
}

#[derive(Clone, Debug, PartialEq)]
enum Hosts {
    /// This host. Without a port it stands for every port, as in containers/image.
    One(Host),
    /// `*.example.com`: every host below, on every port. Kept with the dot.
    Below(String),
}

impl Prefix {
    pub fn parse(text: &str) -> Result<Self, String> {
        let (host, path) = text.split_once('/').unwrap_or((text, ""));
        let hosts = match text.strip_prefix("*.") {
            Some(_) if text.contains(['/', '@', ':']) => {
                return Err(format!("prefix {text:?} must have the form *.example.com"));
            }
            Some(domain) => Hosts::Below(format!(".{}", domain.to_ascii_lowercase())),
            None => Hosts::One(docker_hub(&host.parse().map_err(|_| {
                format!("prefix {text:?} must be host[:port][/path] or *.example.com")
            })?)),
        };
        Ok(Self {
            written: text.to_owned(),
            hosts,
            path: path.to_owned(),
        })
    }

    /// Whether it is for all hosts below a domain.
    pub fn is_wildcard(&self) -> bool {
        matches!(self.hosts, Hosts::Below(_))
    }

    /// Whether they are for the same names, however they are written.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.hosts, &self.path) == (&other.hosts, &other.path)
    }

    /// The rest of a name behind this prefix, if it matches: empty, or beginning with ':' or '/'.
    pub fn rest_of(&self, host: &Host, repository: &str) -> Option<String> {
        let rest = repository.strip_prefix(&self.path)?;
        let is_whole = self.path.is_empty() || rest.is_empty() || rest.starts_with('/');
        let (has_host, own_port) = match &self.hosts {
            Hosts::One(own) => {
                let is_same_address = own.is_address() && own.address() == host.address();
                (own.bare() == host.bare() || is_same_address, own.port())
            }
            Hosts::Below(domain) => {
                let below = host.bare().strip_suffix(domain.as_str());
                (below.is_some_and(|below| !below.is_empty()), None)
            }
        };
        if !is_whole || !has_host {
            return None;
        }
        // A registry without a port is at the port of https.
        let is_port = |port| host.port().unwrap_or(HTTPS) == port;
        let port = match own_port {
            None if self.path.is_empty() => host.port(),
            own_port if is_port(own_port.unwrap_or(HTTPS)) => None,
            _ => return None,
        };
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let slash = if self.path.is_empty() && !rest.is_empty() {
            "/"
        } else {
            ""
        };
        Some(format!("{port}{slash}{rest}"))
    }
}
