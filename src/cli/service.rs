//! The running service, asked over HTTP as systemd-sysupdate asks it.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use log::warn;
use serde::Deserialize;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::TcpConnector;
use ureq::{Agent, Body, http};

use super::port_owner;
use crate::address::Directory;
use crate::dir;
use crate::error::{Cause, Error, Result};
use crate::name::Host;
use crate::server::http::Interrupted;
use crate::sysupdate::{self, PORT};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The service itself gives up on a listing or a file after 40 s.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// For the start page. systemd tries again each second to start a service that fails.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// Between two pieces of a body.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest JSON of a directory, in bytes: the service holds no more in memory.
const MAX_JSON: u64 = 64 << 20;
/// Largest body of an error, in bytes.
const MAX_ERROR: u64 = 64 << 10;
/// Size of the pieces in which a file is received.
const BUFFER: usize = 64 << 10;
/// Directories and errors are wanted as JSON. Files have their own types.
const ACCEPT: &str = "application/json, */*;q=0.1";

/// Where a service listens: `http://localhost:5001`.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceUrl(Host);

impl ServiceUrl {
    /// The service at a host and port.
    pub fn at(host: Host) -> Self {
        Self(host)
    }

    /// Its host and port.
    pub fn host(&self) -> &Host {
        &self.0
    }

    pub fn port(&self) -> u16 {
        self.0.port().unwrap_or(80)
    }

    /// Warns of a stranger who listens at that port of this machine.
    pub fn warn_of_stranger(&self) {
        let port = self.port();
        if self.0.is_loopback()
            && let Some(owner) = port_owner::stranger(port, dir::user())
        {
            warn!(
                "what listens on port {port} belongs to user {owner}, neither to root nor to you; it may be another program than \
                 sysext-oci-proxy (`ss -ltnp` as root shows it)"
            );
        }
    }
}

impl FromStr for ServiceUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let host = text
            .strip_prefix("http://")
            .map(|rest| rest.strip_suffix('/').unwrap_or(rest));
        match host {
            Some(host) => Ok(Self(host.parse()?)),
            None => Err(format!(
                "expected http://HOST:PORT, as in http://localhost:{PORT}"
            )),
        }
    }
}

impl fmt::Display for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.0)
    }
}

impl Default for ServiceUrl {
    fn default() -> Self {
        Self(sysupdate::usual_name())
    }
}

/// A service that is asked.
pub struct Service {
    url: ServiceUrl,
    agent: Agent,
}

/// The body of an error, as far as a person is told.
#[derive(Deserialize)]
struct Refusal {
    reason: String,
    step: Option<String>,
    remedy: Option<String>,
}

impl Service {
    /// Nothing is asked yet.
    pub fn new(url: ServiceUrl) -> Self {
        let config = Agent::config_builder()
            .user_agent(concat!("sysext-oci-proxy/", env!("CARGO_PKG_VERSION")))
            .accept(ACCEPT)
            .accept_encoding("identity")
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_read(Some(READ_TIMEOUT))
            // The service is on this machine, whatever proxy the environment names.
            .proxy(None)
            .build();
        let agent = Agent::with_parts(config, TcpConnector::default(), DefaultResolver::default());
        Self { url, agent }
    }

    /// Its address.
    pub fn url(&self) -> &ServiceUrl {
        &self.url
    }

    /// Asks for the start page, by which systemd starts the service. It needs no registry.
    pub fn start(&self) -> Result<()> {
        self.get(&format!("{}/", self.url), START_TIMEOUT).map(drop)
    }

    /// The JSON of a directory.
    pub fn json(&self, directory: &Directory) -> Result<Vec<u8>> {
        let url = format!("{}/{directory}/", self.url);
        let response = self.get(&url, HEAD_TIMEOUT)?;
        let type_of = response.headers().get(http::header::CONTENT_TYPE);
        if !type_of.is_some_and(|media_type| media_type.as_bytes().starts_with(b"application/json"))
        {
            let why =
                "it is no JSON; is this sysext-oci-proxy, and as new as this command?".to_owned();
            return Err(Error::Nonsense { url, why });
        }
        let body = response.into_body().into_reader();
        read(body, MAX_JSON).map_err(broken(&url))
    }

    /// Writes the file at a path to `out`. It is not verified here.
    pub fn file(&self, path: &str, out: &mut dyn Write) -> Result<(), Interrupted> {
        let url = format!("{}{path}", self.url);
        let response = self.get(&url, HEAD_TIMEOUT).map_err(Interrupted::Body)?;
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; BUFFER];
        loop {
            match body.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => out.write_all(&buffer[..n]).map_err(Interrupted::Client)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Interrupted::Body(broken(&url)(error))),
            }
        }
    }

    /// The response to a request, if it is 200 and its head arrives in time.
    fn get(&self, url: &str, limit: Duration) -> Result<http::Response<Body>> {
        let request = self.agent.get(url).config();
        let response = request
            .timeout_recv_response(Some(limit))
            .build()
            .call()
            .map_err(|error| self.failure(url, error))?;
        let status = response.status().as_u16();
        if status == 200 {
            return Ok(response);
        }
        let header = |name| {
            response
                .headers()
                .get(name)?
                .to_str()
                .ok()
                .map(str::to_owned)
        };
        if let Some(location) = header("Location") {
            let reason = format!(
                "the registry itself sends this file, as blobs = \"redirect\" in the settings wants it; `curl --location {url}` \
                 fetches it from {location}"
            );
            return Err(Error::Refused {
                status,
                reason,
                step: None,
                remedy: None,
            });
        }
        let in_header = header("X-Reason");
        let body = read(response.into_body().into_reader(), MAX_ERROR).unwrap_or_default();
        let Refusal {
            reason,
            step,
            remedy,
        } = serde_json::from_slice(&body).unwrap_or_else(|_| Refusal {
            reason: in_header.unwrap_or_else(|| format!("{url} answers with status {status}")),
            step: None,
            remedy: None,
        });
        Err(Error::Refused {
            status,
            reason,
            step,
            remedy,
        })
    }

    fn failure(&self, url: &str, error: ureq::Error) -> Error {
        let is_absent = match &error {
            ureq::Error::Io(error) => error.kind() == io::ErrorKind::ConnectionRefused,
            ureq::Error::ConnectionFailed | ureq::Error::HostNotFound => true,
            ureq::Error::Timeout(timeout) => *timeout == ureq::Timeout::Connect,
            _ => false,
        };
        let cause: Cause = match error {
            ureq::Error::Io(error) => Arc::new(error),
            error => Arc::new(error),
        };
        match is_absent {
            true => Error::NoService {
                url: self.url.to_string(),
                cause,
            },
            false => Error::Broken {
                url: url.to_owned(),
                cause,
            },
        }
    }
}

/// All of a body, if it is not too long.
fn read(body: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    body.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("more than {limit} bytes"),
        ));
    }
    Ok(bytes)
}

fn broken(url: &str) -> impl Fn(io::Error) -> Error {
    move |error| Error::Broken {
        url: url.to_owned(),
        cause: Arc::new(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_named_by_its_url() {
        for (text, expected) in [
            ("http://localhost:5001", Some("http://localhost:5001")),
            ("http://localhost:5001/", Some("http://localhost:5001")),
            ("http://[::1]:80", Some("http://[::1]:80")),
            ("localhost:5001", None),
            ("https://localhost:5001", None),
            ("http://localhost:5001/k8s", None),
            ("http://user@localhost", None),
            ("http://", None),
        ] {
            let found = text.parse::<ServiceUrl>().ok().map(|url| url.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }
}
