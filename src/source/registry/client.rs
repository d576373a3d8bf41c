//! HTTP requests to registries: certificates, proxies, redirects. The callers interpret the response.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use log::{debug, warn};
use ureq::Agent;
use ureq::http::{self, header};

use super::agent::{self, DOCUMENT_TIMEOUT, agent};
use super::ahead::{Ahead, Expected};
use super::error::{failure, is_silence, nonsense};
use super::proxy::Proxies;
use super::reply::Reply;
use super::request::{Authorization, Request};
use super::throttle::Throttle;
use super::tls::Tls;
use super::url::{self, Location};
use crate::error::{Error, Result, Way};
use crate::lock::lock;
use crate::name::{Host, without_userinfo};
use crate::source::config::certs_d::CertificateDirectories;
use crate::source::config::registries_conf::Registries;
use crate::source::recent::Recent;

/// Redirects followed for one request.
const MAX_REDIRECTS: usize = 5;
/// Most warnings of registries that are logged, and the most characters of each.
const MAX_WARNINGS: usize = 100;
const MAX_WARNING: usize = 500;
/// Most agents that are kept: one for each host that has its own certificates, and one for all others.
const MAX_AGENTS: usize = 64;

/// The HTTP client for all registries. Connections are kept alive and shared.
pub struct Client {
    certificates: CertificateDirectories,
    parallel: usize,
    /// By host, if it has a `certs.d` directory or its certificate is not checked (`true`).
    agents: Mutex<Recent<(Option<Host>, bool), Agent, MAX_AGENTS>>,
    ahead: Ahead,
    trusted_hosts: Vec<Host>,
    registries: Arc<Registries>,
    proxies: Proxies,
    pub throttle: Throttle,
    /// The warnings of registries so far.
    warnings: Mutex<HashSet<String>>,
}

impl Client {
    pub fn new(
        root: &Path,
        parallel: usize,
        trusted_hosts: Vec<Host>,
        registries: Arc<Registries>,
    ) -> Self {
        Self {
            certificates: CertificateDirectories::usual(root),
            parallel,
            agents: Mutex::default(),
            ahead: Ahead::default(),
            trusted_hosts,
            registries,
            proxies: Proxies::from_environment(),
            throttle: Throttle::default(),
            warnings: Mutex::default(),
        }
    }

    /// Whether there is a `certs.d` directory for this host. If so it is reached by TLS, even on loopback.
    pub fn has_certificates(&self, host: &Host) -> Result<bool> {
        Ok(self.certificates.find(host)?.is_some())
    }

    /// Whether this host speaks TLS, with any certificate and any response. An error if it cannot be reached.
    pub fn speaks_tls(&self, host: &Host) -> Result<bool> {
        let url = format!("https://{host}/v2/");
        let error = match self.send(Request::get(&url).unchecked(true)) {
            Ok(_) => return Ok(true),
            Err(error) => error,
        };
        // The environment may name a proxy for plain HTTP only.
        let is_plain = match error {
            Error::NotTls { .. } => true,
            Error::Unreachable { .. } => self.proxies.differ(host),
            _ => false,
        };
        if !is_plain {
            return Err(error);
        }
        debug!("{}", error.line());
        Ok(false)
    }

    fn agent_for(&self, host: &Host, unchecked: bool) -> Result<Agent> {
        let mut agents = lock(&self.agents);
        let own = (Some(host.clone()), unchecked);
        if let Some(agent) = agents.get(&own) {
            return Ok(agent.clone());
        }
        let certificates = self.certificates.find(host)?;
        let key = match (&certificates, unchecked) {
            (None, false) => (None, false),
            _ => own,
        };
        if let Some(agent) = agents.get(&key) {
            return Ok(agent.clone());
        }
        let agent = agent(
            self.parallel,
            Tls::new(certificates, unchecked)?,
            self.ahead.clone(),
        );
        agents.insert(key, agent.clone());
        Ok(agent)
    }

    /// Has connections to an origin (`https://host:port`) opened ahead, as many as that many requests need.
    pub fn expect(&self, origin: &str, requests: usize) -> Expected {
        self.ahead.expect(origin, requests.min(self.parallel))
    }

    /// Sends one request, as soon as its host allows. Redirects are not followed.
    pub fn send(&self, request: Request<'_>) -> Result<Reply> {
        let Request { method, url, .. } = request;
        let host = host_of(url)?;
        let agent = self.agent_for(&host, request.unchecked)?;
        let proxy = self.proxies.find(&host, url.starts_with("https:"))?;
        let failure = |error| match (failure(url, error), proxy) {
            (Error::Unreachable { url, at, cause }, Some(proxy)) => {
                let cause = format!("through the proxy {}: {cause}", proxy.place());
                let cause = Arc::new(io::Error::other(cause));
                // The proxy is resolved and connected to; TLS is the registry's.
                let at = if at == Way::Tls { at } else { Way::Proxy };
                Error::Unreachable { url, at, cause }
            }
            (error, _) => error,
        };
        let mut builder = http::Request::builder()
            .method(method)
            .uri(url)
            .header(header::ACCEPT, request.accept);
        if let Some(authorization) = request.authorization {
            builder = builder.header(header::AUTHORIZATION, authorization.reveal());
        }
        if let Some((first, last)) = request.range {
            builder = builder.header(header::RANGE, format!("bytes={first}-{last}"));
        }
        if request.form.is_some() {
            builder = builder.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        let head = builder.body(()).map_err(|error| failure(error.into()))?;
        let head = agent
            .configure_request(head)
            .timeout_recv_body((!request.is_blob).then_some(DOCUMENT_TIMEOUT))
            .proxy(proxy.map(agent::proxy).transpose().map_err(failure)?)
            .build();
        self.throttle.wait(&host)?;
        let sent = Instant::now();
        let answer = match request.form {
            Some(form) => agent.run(head.map(|()| form)),
            None => agent.run(head),
        };
        let (head, body) = answer.map_err(failure)?.into_parts();
        let place = url::for_messages(url);
        debug!("{method} {place}: {}", head.status);
        for warning in head.headers.get_all(header::WARNING) {
            self.warn_once(&format!("{host} warns: {warning:?}"));
        }
        let reply = Reply {
            status: head.status.as_u16(),
            headers: head.headers,
            url: place,
            asked: url.to_owned(),
            is_at_home: true,
            body: Some(body),
        };
        self.throttle.note(&host, sent, reply.wait());
        Ok(reply)
    }

    /// Logs a warning once: registries repeat it in every response.
    fn warn_once(&self, warning: &str) {
        let warning = without_userinfo(warning);
        let warning: String = warning.chars().take(MAX_WARNING).collect();
        let mut warnings = lock(&self.warnings);
        if warnings.len() < MAX_WARNINGS && !warnings.contains(&warning) {
            warn!("{warning}");
            warnings.insert(warning);
        }
    }

    /// Sends one request and follows redirects, as far as it allows. The authorization is never sent to another host, port or scheme. A login
    /// in the URL of a redirect is sent to the host of that URL.
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
                // The registry itself answered. (A blob may be redirected elsewhere later, so its reader tries again.)
                Err(Error::Unreachable { cause, .. })
                    if at != request.url && !request.is_blob && !is_silence(&cause) =>
                {
                    let url = url::for_messages(request.url);
                    return Err(Error::LostRedirect { url, cause });
                }
                sent => sent?,
            };
            reply.is_at_home = is_at_home;
            if !is_redirect(reply.status) {
                return Ok(reply);
            }
            let next = self.redirect_target(&reply)?;
            reply.drain();
            let is_same_origin = url::is_same_origin(&at, &next.url);
            if let Some(hosts) = request.only_to.filter(|_| !is_same_origin)
                && !hosts.contains(&host_of(&next.url)?)
            {
                return Ok(reply);
            }
            is_at_home &= is_same_origin;
            given = match (next.login, request.foreign_token) {
                (Some(login), _) => Some(Authorization::basic(&login.user, &login.password)),
                (None, Some(token)) if !is_at_home => token.authorization_for(&next.url),
                _ => None,
            };
            at = next.url;
        }
        let why = format!("more than {MAX_REDIRECTS} redirects");
        Err(nonsense(request.url, why))
    }

    /// The target of a redirect, if it may be followed.
    pub fn redirect_target(&self, reply: &Reply) -> Result<Location> {
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
            return Err(bad(format!("a redirect from https to plain http, {place}")));
        }
        let (from, to) = (host_of(&reply.url)?, host_of(target)?);
        if to.is_only_reached_from_here()
            && !from.is_only_reached_from_here()
            && !self.trusted_hosts.contains(&to)
        {
            return Err(bad(format!(
                "a redirect to {to}, an address of this machine; to allow it, add it to 'trusted-hosts' in the settings"
            )));
        }
        self.refuse_blocked(&reply.url, target)?;
        Ok(found)
    }

    /// Refuses to follow a URL from outside into a part of a registry that registries.conf blocks. A location that
    /// registries.conf itself gives for another name may be blocked by its own name.
    pub fn refuse_blocked(&self, from: &str, to: &str) -> Result<()> {
        let (host, repository) = (host_of(to)?, url::repository(to));
        let Some(prefix) = self.registries.blocked(&host, repository.as_ref()) else {
            return Ok(());
        };
        let own = (self.registries).blocked(&host_of(from)?, url::repository(from).as_ref());
        if own == Some(prefix) {
            return Ok(());
        }
        Err(Error::Blocked {
            registry: match repository {
                Some(repository) => format!("{host}/{repository}"),
                None => host.to_string(),
            },
            prefix: prefix.to_owned(),
        })
    }
}

pub fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// The host of a URL that was made or checked here.
pub fn host_of(url: &str) -> Result<Host> {
    let bad = |why| nonsense(url, why);
    url::authority(url)
        .ok_or_else(|| bad("this is not a URL".into()))?
        .parse()
        .map_err(bad)
}
