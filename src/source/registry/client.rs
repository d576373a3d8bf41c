//! HTTP to registries: one request at a time, with the right certificates, and its redirects.
//!
//! What an answer means is for the callers to say.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use log::{debug, warn};
use ureq::http::{HeaderMap, header};
use ureq::{Agent, Body, Proxy};

use super::agent::{self, DOCUMENT_TIMEOUT, ParsedCertificates, agent};
use super::error::{error_message, failure, is_silence, nonsense, read_failure};
use super::proxy::Proxies;
use super::throttle::Pace;
use super::url::{self, Target, Userinfo};
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::name::{Host, without_userinfo};
use crate::pool::Document;
use crate::source::config::certs_d::CertificateDirectories;
use crate::source::config::registries_conf::Registries;
use crate::source::recent::Recent;

/// Assumed when a busy server names no time.
const DEFAULT_WAIT: Duration = Duration::from_secs(1);
/// The longest wait that is passed on: sums of two of them have to exist.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);
/// Redirects followed for one request.
const MAX_REDIRECTS: usize = 5;
/// Warnings of registries that are logged, and how much of each; more of them say hardly more.
const MAX_WARNINGS: usize = 100;
const MAX_WARNING: usize = 500;
/// Ways of speaking that are remembered: one for each host with certificates of its own, and one for all others.
const MAX_AGENTS: usize = 64;
/// How much of an error's body is read, to use the connection again.
const MAX_ERROR_BODY: u64 = 64 << 10;
/// How much of it is looked at for its message. Hundreds of requests may fail at once.
const MAX_MESSAGE: usize = 4 << 10;
/// Of a document, the memory that is taken before anything has come, in bytes. Most have no more.
const FIRST_PIECE: u64 = 4 << 10;

/// What a request is made with.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub method: Method,
    pub url: &'a str,
    pub accept: &'a str,
    pub authorization: Option<&'a Authorization>,
    /// The bytes from the first to the second, that one included.
    pub range: Option<(u64, u64)>,
    /// The body may be large, and take as long as its reader has patience.
    pub is_blob: bool,
    /// Take whatever certificate the host has: `insecure = true` says so.
    pub unchecked: bool,
    /// What another registry is sent, should a redirect lead there.
    pub stranger: Option<&'a Stranger>,
}

/// What a registry gives strangers, which is for this origin alone.
#[derive(Clone, Debug)]
pub struct Stranger {
    pub origin: String,
    pub authorization: Authorization,
}

impl Stranger {
    /// What is sent to this URL, if it is there.
    pub fn authorization_for(&self, url: &str) -> Option<Authorization> {
        url::is_same_origin(&self.origin, url).then(|| self.authorization.clone())
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    Get,
    Head,
}

/// The value of an `Authorization` header. It never shows in `Debug`.
#[derive(Clone, PartialEq)]
pub struct Authorization(Arc<str>);

impl Authorization {
    pub fn bearer(token: &str) -> Self {
        Self(format!("Bearer {token}").into())
    }

    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub fn basic(user: &str, password: &str) -> Self {
        let encoded = BASE64_STANDARD.encode(format!("{user}:{password}"));
        Self(format!("Basic {encoded}").into())
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorization(…)")
    }
}

/// An answer, of any status but a redirect that can be followed.
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    /// Where it came from in the end, for messages and to resolve what it refers to: without the query.
    pub url: String,
    /// The same with it.
    asked: String,
    /// It came from where the request was sent, not from elsewhere by a redirect.
    pub is_at_home: bool,
    /// `None` once it was read.
    body: Option<Body>,
}

impl Reply {
    /// What to ask for the same once more. There may be a signature in it, so it is for no message.
    pub fn asked(&self) -> &str {
        &self.asked
    }

    /// A header's value, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// All values of a header.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
    }

    /// How long a busy server wants to be left alone; `None` if it is not busy.
    pub fn wait(&self) -> Option<Duration> {
        let asked = || retry_after(self.header("retry-after")?, Timestamp::now());
        matches!(self.status, 429 | 503).then(|| asked().unwrap_or(DEFAULT_WAIT))
    }

    /// The body as it comes.
    pub fn into_reader(self) -> Box<dyn Read + Send> {
        let Some(body) = self.body else {
            return Box::new(io::empty());
        };
        match body.content_length() {
            Some(left) => Box::new(ToItsEnd {
                inner: body.into_reader(),
                left,
            }),
            None => Box::new(body.into_reader()),
        }
    }

    /// The body of a small document, if it has at most `limit` bytes. Memory for it is waited for.
    pub fn read(self, limit: u64) -> Result<Vec<u8>> {
        let url = self.url.clone();
        let (mut body, mut bytes) = (self.into_reader(), Vec::new());
        let mut document = Document::new();
        // No more is taken than has come, whatever is announced.
        let mut room = FIRST_PIECE.min(limit);
        loop {
            document.reserve(room, || url.clone())?;
            // One more, to see that there are too many.
            let piece = (&mut body).take(room + 1 - bytes.len() as u64);
            let read = { piece }.read_to_end(&mut bytes);
            read.map_err(|error| read_failure(&url, error))?;
            if bytes.len() as u64 <= room || room == limit {
                break;
            }
            room = (2 * room).min(limit);
        }
        check_limit(&url, &bytes, limit)?;
        document.keep(bytes.len());
        Ok(bytes)
    }

    /// The body, if it has at most `limit` bytes, for whom no memory has to be waited for: few such bodies are read
    /// at once, or they are small.
    pub fn read_at_once(self, limit: u64) -> Result<Vec<u8>> {
        let (url, mut bytes) = (self.url.clone(), Vec::new());
        let read = self.into_reader().take(limit + 1).read_to_end(&mut bytes);
        read.map_err(|error| read_failure(&url, error))?;
        check_limit(&url, &bytes, limit)?;
        Ok(bytes)
    }

    /// What the other side says of an error, in one short line; empty if it says nothing. Once that is
    /// read the connection can be used again.
    pub fn take_message(&mut self) -> String {
        let Some(body) = self.body.take() else {
            return String::new();
        };
        let mut reader = body.into_reader().take(MAX_ERROR_BODY);
        let (begun, mut bytes, mut piece) = (Instant::now(), Vec::new(), [0; 4096]);
        // It is but a message: what came of it in time will do.
        while begun.elapsed() < DOCUMENT_TIMEOUT {
            match reader.read(&mut piece) {
                Ok(0) | Err(_) => break,
                Ok(n) => bytes.extend_from_slice(&piece[..n.min(MAX_MESSAGE - bytes.len())]),
            }
        }
        error_message(&bytes)
    }
}

fn check_limit(url: &str, bytes: &[u8], limit: u64) -> Result<()> {
    if bytes.len() as u64 > limit {
        let why = format!("more than {limit} bytes, the limit for this");
        return Err(nonsense(url, why));
    }
    Ok(())
}

/// A body of known length. Its end is read with its last byte: ureq keeps a connection for the next
/// request only when it was told of the end, and who knows how much there is does not ask for it.
struct ToItsEnd<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for ToItsEnd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        if n > 0 {
            self.left = self.left.saturating_sub(n as u64);
            if self.left == 0 {
                // Nothing is waited for, and the body is whole whatever comes of it.
                let _ = self.inner.read(&mut [0]);
            }
        }
        Ok(n)
    }
}

/// Speaks to registries. Connections are kept alive and shared.
pub struct Client {
    certificates: CertificateDirectories,
    parallel: usize,
    /// One for each way of speaking: most hosts share one, those with certificates have their own.
    agents: Mutex<Recent<AgentKey, Agent>>,
    trusted_hosts: Vec<Host>,
    registries: Arc<Registries>,
    proxies: Proxies,
    pub pace: Pace,
    /// What registries warned of so far.
    warnings: Mutex<HashSet<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum AgentKey {
    Usual,
    /// With the certificates that are kept for it, or without a look at the one it has.
    Own(Host, bool),
}

impl Client {
    pub fn new(
        root: &Path,
        parallel: usize,
        trusted_hosts: Vec<Host>,
        registries: Arc<Registries>,
    ) -> Self {
        let certificates = CertificateDirectories::usual(root);
        Self {
            certificates,
            parallel,
            agents: Mutex::new(Recent::entries(MAX_AGENTS)),
            trusted_hosts,
            registries,
            proxies: Proxies::from_environment(),
            pace: Pace::default(),
            warnings: Mutex::default(),
        }
    }

    /// Is there a `certs.d` directory for this host? Then it speaks TLS, even on loopback.
    pub fn has_certificates(&self, host: &Host) -> Result<bool> {
        Ok(self.certificates.find(host)?.is_some())
    }

    /// Does this host speak TLS, whatever its certificate? What it answers does not matter. An error
    /// where nobody can tell: it may be down.
    pub fn speaks_tls(&self, host: &Host) -> Result<bool> {
        let url = format!("https://{host}/v2/");
        let answer = self.send(Request {
            method: Method::Get,
            url: &url,
            accept: "*/*",
            authorization: None,
            range: None,
            is_blob: false,
            unchecked: true,
            stranger: None,
        });
        match answer {
            Ok(_) => Ok(true),
            Err(error @ Error::NotTls { .. }) => {
                debug!("{}", error.line());
                Ok(false)
            }
            // Only one of the two ways leads there: the proxy that the environment names for http, say.
            Err(error @ Error::Unreachable { .. }) if self.proxies.differ(host) => {
                debug!("{}", error.line());
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn agent_for(&self, host: &Host, unchecked: bool) -> Result<Agent> {
        let mut agents = lock(&self.agents);
        let certificates = match agents.get(&AgentKey::Own(host.clone(), unchecked)) {
            Some(agent) => return Ok(agent.clone()),
            None => self.certificates.find(host)?,
        };
        let key = match (&certificates, unchecked) {
            (None, false) => AgentKey::Usual,
            _ => AgentKey::Own(host.clone(), unchecked),
        };
        if let Some(agent) = agents.get(&key) {
            return Ok(agent.clone());
        }
        let parsed = certificates.map(ParsedCertificates::new).transpose()?;
        let agent = agent(self.parallel, parsed, unchecked);
        agents.insert(key, agent.clone());
        Ok(agent)
    }

    /// The proxy for a request, where there is one.
    fn proxy_for(&self, host: &Host, url: &str) -> Result<Option<Proxy>> {
        let found = self.proxies.find(host, url.starts_with("https:"))?;
        let proxy = found.map(agent::proxy).transpose();
        proxy.map_err(|error| failure(url, error))
    }

    /// What a failed request means. Where nobody can be reached by way of a proxy, that is named.
    fn failure(&self, host: &Host, url: &str, error: ureq::Error) -> Error {
        let proxy = self.proxies.find(host, url.starts_with("https:"));
        match (failure(url, error), proxy) {
            (Error::Unreachable { url, cause }, Ok(Some(proxy))) => {
                let cause = format!("by way of the proxy {}: {cause}", proxy.place());
                let cause = Arc::new(io::Error::other(cause));
                Error::Unreachable { url, cause }
            }
            (error, _) => error,
        }
    }

    /// One request and its answer; redirects are not followed.
    pub fn send(&self, request: Request<'_>) -> Result<Reply> {
        let url = request.url;
        let host = host_of(url)?;
        let agent = self.agent_for(&host, request.unchecked)?;
        let mut builder = match request.method {
            Method::Get => agent.get(url),
            Method::Head => agent.head(url),
        };
        builder = builder.header(header::ACCEPT, request.accept);
        if let Some(Authorization(value)) = request.authorization {
            builder = builder.header(header::AUTHORIZATION, &**value);
        }
        if let Some((first, last)) = request.range {
            builder = builder.header(header::RANGE, format!("bytes={first}-{last}"));
        }
        if !request.is_blob {
            let config = builder.config();
            builder = config.timeout_recv_body(Some(DOCUMENT_TIMEOUT)).build();
        }
        if let Some(proxy) = self.proxy_for(&host, url)? {
            builder = builder.config().proxy(Some(proxy)).build();
        }
        self.paced(&host, || {
            let answer = builder
                .call()
                .map_err(|error| self.failure(&host, url, error))?;
            Ok(self.reply(&format!("{:?}", request.method), url, answer))
        })
    }

    /// Registries repeat their warnings with every answer.
    fn warn_once(&self, warning: &str) {
        let warning: String = without_userinfo(warning)
            .chars()
            .take(MAX_WARNING)
            .collect();
        let mut warnings = lock(&self.warnings);
        if warnings.len() < MAX_WARNINGS && !warnings.contains(&warning) {
            warn!("{warning}");
            warnings.insert(warning);
        }
    }

    /// A form, posted. What it says is never logged.
    pub fn post(&self, url: &str, fields: &[(&str, &str)], unchecked: bool) -> Result<Reply> {
        let host = host_of(url)?;
        let agent = self.agent_for(&host, unchecked)?;
        let form = fields.iter().copied();
        let proxy = self.proxy_for(&host, url)?;
        self.paced(&host, || {
            let answer = agent
                .post(url)
                .header(header::ACCEPT, "application/json")
                .config()
                .timeout_recv_body(Some(DOCUMENT_TIMEOUT))
                .proxy(proxy)
                .build()
                .send_form(form)
                .map_err(|error| self.failure(&host, url, error))?;
            Ok(self.reply("Post", url, answer))
        })
    }

    /// Sends when the host may be asked, and notes how it took it.
    fn paced(&self, host: &Host, send: impl FnOnce() -> Result<Reply>) -> Result<Reply> {
        self.pace.wait(host)?;
        let sent = Instant::now();
        let reply = send()?;
        self.pace.note(host, sent, reply.wait());
        Ok(reply)
    }

    fn reply(&self, method: &str, url: &str, answer: ureq::http::Response<Body>) -> Reply {
        let (head, body) = answer.into_parts();
        let place = url::for_messages(url);
        debug!("{method} {place}: {}", head.status);
        for warning in head.headers.get_all(header::WARNING) {
            let host = url::authority(url).unwrap_or(url);
            self.warn_once(&format!("{host} warns: {warning:?}"));
        }
        Reply {
            status: head.status.as_u16(),
            headers: head.headers,
            url: place,
            asked: url.to_owned(),
            is_at_home: true,
            body: Some(body),
        }
    }

    /// One request and its answer, redirects followed. The authorization stays at home: it is never
    /// sent to another host, port or scheme. A login that a redirect has before its host is sent there.
    pub fn follow(&self, request: Request<'_>) -> Result<Reply> {
        let mut at = request.url.to_owned();
        let mut is_at_home = true;
        let mut given = None;
        for _ in 0..=MAX_REDIRECTS {
            let own = request.authorization.filter(|_| is_at_home);
            let sent = self.send(Request {
                url: &at,
                authorization: own.or(given.as_ref()),
                unchecked: request.unchecked && is_at_home,
                ..request
            });
            let mut reply = match sent {
                // The registry did answer. A blob may come by another way meanwhile, so its reader tries again.
                Err(Error::Unreachable { cause, .. })
                    if at != request.url && !request.is_blob && !is_silence(&cause) =>
                {
                    let url = url::for_messages(request.url);
                    return Err(Error::LostRedirect { url, cause });
                }
                sent => sent?,
            };
            if !is_redirect(reply.status) {
                return Ok(Reply {
                    is_at_home,
                    ..reply
                });
            }
            let next = self.redirect_target(&reply)?;
            drop(reply.take_message()); // else the connection is of no more use
            is_at_home &= url::is_same_origin(&at, &next.url);
            let basic = |login: Userinfo| Authorization::basic(&login.user, &login.password);
            given = next.login.map(basic).or_else(|| {
                let stranger = request.stranger.filter(|_| !is_at_home)?;
                stranger.authorization_for(&next.url)
            });
            at = next.url;
        }
        let why = format!("more than {MAX_REDIRECTS} redirects");
        Err(nonsense(request.url, why))
    }

    /// Where a redirect leads, if we may go there.
    pub fn redirect_target(&self, reply: &Reply) -> Result<Target> {
        let bad = |why| nonsense(&reply.url, why);
        let location = reply
            .headers
            .get(header::LOCATION)
            .ok_or_else(|| bad(format!("status {} without a Location", reply.status)))?
            .as_bytes();
        let found = url::resolve(&reply.url, location).ok_or_else(|| {
            let place = url::for_messages(&String::from_utf8_lossy(location));
            bad(format!("a redirect to {place:?}"))
        })?;
        let target = &found.url;
        if reply.url.starts_with("https:") && !target.starts_with("https:") {
            let place = url::for_messages(target);
            return Err(bad(format!(
                "a redirect from https to {place}, which would not be private any more"
            )));
        }
        let (from, to) = (host_of(&reply.url)?, host_of(target)?);
        if to.is_only_reached_from_here()
            && !from.is_only_reached_from_here()
            && !self.trusted_hosts.contains(&to)
        {
            return Err(bad(format!(
                "a redirect to {to}, an address of this machine; trusted-hosts may allow it"
            )));
        }
        self.refuse_blocked((&from, &reply.url), (&to, target))?;
        Ok(found)
    }

    /// Refuses what leads into a part of a registry that registries.conf blocks, from outside of that part. A place
    /// that registries.conf itself gives for another name may be blocked by its own.
    pub fn refuse_blocked(
        &self,
        (from, from_url): (&Host, &str),
        (to, to_url): (&Host, &str),
    ) -> Result<()> {
        let blocked = |host, url| {
            let repository = url::repository(url);
            let prefix = self.registries.blocked(host, repository.as_ref())?;
            Some((prefix, repository))
        };
        let Some((prefix, repository)) = blocked(to, to_url) else {
            return Ok(());
        };
        if blocked(from, from_url).is_some_and(|(own, _)| own == prefix) {
            return Ok(());
        }
        Err(Error::Blocked {
            registry: match repository {
                Some(repository) => format!("{to}/{repository}"),
                None => to.to_string(),
            },
            prefix: prefix.to_owned(),
        })
    }
}

/// Is this status a redirect?
pub fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// The host of a URL that we made or checked.
pub fn host_of(url: &str) -> Result<Host> {
    let bad = |why| nonsense(url, why);
    url::authority(url)
        .ok_or_else(|| bad("this is not a URL".into()))?
        .parse()
        .map_err(bad)
}

/// `Retry-After`: seconds or a date (RFC 9110 §10.2.3). Never more than [`LONGEST_WAIT`].
fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = rfc2822::parse(text).ok()?.timestamp();
            // One that has passed means now.
            Duration::try_from(date.duration_since(now)).unwrap_or_default()
        }
    };
    Some(wait.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_b14_retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "1994-11-06T08:49:00Z".parse().unwrap();
        for (text, seconds) in [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(37)),
            ("Sun, 06 Nov 1994 08:48:37 GMT", Some(0)),
            ("18446744073709551615", Some(24 * 60 * 60)),
            ("Sat, 06 Nov 2094 08:48:37 GMT", Some(24 * 60 * 60)),
            ("soon", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(
                retry_after(text, now),
                seconds.map(Duration::from_secs),
                "{text:?}"
            );
        }
    }

    #[test]
    fn authorizations_do_not_show() {
        let request = Request {
            method: Method::Get,
            url: "http://h/",
            accept: "*/*",
            authorization: Some(&Authorization::bearer("s3cret")),
            range: None,
            is_blob: false,
            unchecked: false,
            stranger: None,
        };
        assert!(!format!("{request:?}").contains("s3cret"));
    }
}
