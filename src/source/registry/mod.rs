//! A repository of one registry, or of one mirror, over the distribution API.
//!
//! Spec: <https://github.com/opencontainers/distribution-spec/blob/main/spec.md>. Where a registry deviates from it, a
//! comment names the registry.
//!
//! ```text
//! tags manifests referrers blobs    the requests
//!   └─▶ retry ─▶ auth ─▶ token      retries, logins
//!         └─▶ client ─▶ throttle    one HTTP request, at the rate that its host allows
//! ```

pub mod agent;
pub mod ahead;
pub mod auth;
mod blobs;
mod buffers;
pub mod challenge;
pub mod client;
pub mod error;
mod manifests;
mod pages;
pub mod proxy;
mod referrers;
mod reply;
mod request;
mod retry;
mod session;
mod status;
pub mod tags;
mod throttle;
mod tls;
mod token;
mod transport;
pub mod url;

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use super::config::registries_conf::{Endpoint, Pull, Role};
use super::upstream::Upstream;
use super::{Download, Reference};
use crate::error::{Error, Finding, Result};
use crate::lock::lock;
use crate::name::{DOCKER_HUB, Host};
use ahead::Expected;
use auth::asks_for_token;
use client::host_of;
use error::nonsense;
use reply::Reply;
use request::{ForeignToken, Request};
use session::{Session, SessionKey, Target};
use status::status_error;

/// A repository at one place.
pub struct Registry {
    upstream: Arc<Upstream>,
    insecure: Option<bool>,
    role: Role,
    /// `HOST/REPOSITORY`, and `?ns=` with the namespace: the name by which its faults are remembered.
    place: String,
    session: Arc<Session>,
    /// The token for another registry, to which this one redirects.
    foreign_token: Mutex<Option<ForeignToken>>,
    /// The hosts that manifests of it came from: its own, or those to which it redirects.
    manifest_hosts: Mutex<BTreeSet<Host>>,
    /// It answers HEAD without a digest, so only GET shows what a tag is.
    hides_digests: AtomicBool,
}

impl Registry {
    pub fn new(upstream: &Arc<Upstream>, endpoint: Endpoint, namespace: Option<Host>) -> Self {
        let Endpoint {
            host,
            repository,
            insecure,
            role,
        } = endpoint;
        let mut place = format!("{host}/{repository}");
        if let Some(namespace) = &namespace {
            place += &format!("?ns={namespace}");
        }
        let session = upstream.auth.session(SessionKey {
            host,
            repository,
            namespace,
            unchecked: insecure == Some(true),
            is_anonymous: false,
        });
        Self {
            upstream: upstream.clone(),
            insecure,
            role,
            place,
            session,
            foreign_token: Mutex::default(),
            manifest_hosts: Mutex::default(),
            hides_digests: AtomicBool::new(false),
        }
    }

    /// The host in the spelling of settings, files and messages.
    pub fn host(&self) -> &Host {
        &self.session.key.host
    }

    pub fn place(&self) -> &str {
        &self.place
    }

    /// `HOST/REPOSITORY`, for the log.
    pub fn location(&self) -> &str {
        self.place.split('?').next().unwrap_or_default()
    }

    pub fn is_mirror(&self) -> bool {
        self.role != Role::Primary
    }

    /// Whether it is a mirror that may be asked for tags.
    pub fn has_tags(&self) -> bool {
        matches!(self.role, Role::Mirror(Pull::All | Pull::TagOnly))
    }

    /// Whether it is a mirror that may be asked for digests.
    pub fn has_digests(&self) -> bool {
        matches!(self.role, Role::Mirror(Pull::All | Pull::DigestOnly))
    }

    fn origin(&self) -> Result<String> {
        match self.origin_of_docker_hub() {
            Some(origin) => Ok(origin),
            None => self.upstream.origin(self.host(), self.insecure),
        }
    }

    /// The same, if the registry need not be asked for it: one that is down would be waited for here, and again by the
    /// first request.
    fn known_origin(&self) -> Option<String> {
        let of_docker_hub = self.origin_of_docker_hub();
        of_docker_hub.or_else(|| self.upstream.known_origin(self.host(), self.insecure))
    }

    /// The only registry whose API has another host name.
    fn origin_of_docker_hub(&self) -> Option<String> {
        let is_docker_hub = self.host().as_str() == DOCKER_HUB;
        is_docker_hub.then(|| "https://registry-1.docker.io".to_owned())
    }

    /// Has the connections for so many requests opened while the first one, for the tags, is under way.
    pub fn expect(&self, requests: usize) -> Option<Expected> {
        let origin = self.known_origin()?;
        Some(self.upstream.client.expect(&origin, requests))
    }

    fn url(&self, rest: &str) -> Result<String> {
        let SessionKey {
            repository,
            namespace,
            ..
        } = &self.session.key;
        let mut url = format!("{}/v2/{repository}/{rest}", self.origin()?);
        if let Some(namespace) = namespace {
            url.push_str(if url.contains('?') { "&ns=" } else { "?ns=" });
            url.push_str(namespace.as_str());
        }
        Ok(url)
    }

    fn manifest_url(&self, reference: Reference<'_>) -> Result<String> {
        match reference {
            Reference::Tag(tag) => self.url(&format!("manifests/{tag}")),
            Reference::Digest(digest) => self.url(&format!("manifests/{digest}")),
        }
    }

    /// A request for a small document at this registry, still without a login.
    fn get<'a>(&self, url: &'a str) -> Request<'a> {
        Request::get(url).unchecked(self.session.key.unchecked)
    }

    /// Sends a request, logged in if need be. `follow`: to where it is redirected, which may be another registry.
    fn ask(&self, request: Request<'_>, follow: bool) -> Result<Reply> {
        let foreign_token = lock(&self.foreign_token).clone();
        let request = Request {
            foreign_token: foreign_token.as_ref(),
            ..request
        };
        let reply = self.ask_at_home(request, follow)?;
        if reply.status == 401 && !reply.is_at_home && asks_for_token(&reply) {
            return self.ask_elsewhere(request, reply);
        }
        Ok(reply)
    }

    fn ask_at_home(&self, request: Request<'_>, follow: bool) -> Result<Reply> {
        let Upstream { client, auth, .. } = &*self.upstream;
        let target = Target {
            client,
            session: &self.session,
            origin: &self.origin()?,
        };
        let send = |authorization| {
            let request = request.authorization(authorization);
            match follow {
                true => client.follow(request),
                false => client.send(request),
            }
        };
        let used = auth.authorization(&target);
        let used = used.map_err(|error| self.no_token(error))?;
        let mut reply = send(used.as_ref())?;
        // ECR Public answers 400 to an expired token.
        let is_refused =
            reply.is_at_home && (reply.status == 401 || (reply.status == 400 && used.is_some()));
        if !is_refused {
            return Ok(reply);
        }
        // Read first: the token server may be at the other end of the same connection.
        let (status, message) = (reply.status, reply.take_message());
        let fresh = auth.log_in(&target, used.as_ref(), &reply);
        let fresh = fresh.map_err(|error| self.no_token(error))?;
        // A wrong password is not sent twice: some registries lock an account for that.
        if status == 401 && used.is_some() && fresh == used {
            return Err(auth.refused(&target, status, message));
        }
        let mut reply = send(fresh.as_ref())?;
        if reply.is_at_home && matches!(reply.status, 401 | 403) {
            return Err(auth.refused(&target, reply.status, reply.take_message()));
        }
        Ok(reply)
    }

    /// Answers the challenge of another registry, to which a redirect led. No login is sent there.
    fn ask_elsewhere(&self, request: Request<'_>, mut refusal: Reply) -> Result<Reply> {
        let Upstream { client, auth, .. } = &*self.upstream;
        let url = refusal.asked.clone();
        let session = auth.session(SessionKey {
            host: host_of(&url)?,
            repository: url::repository(&url)
                .unwrap_or_else(|| self.session.key.repository.clone()),
            namespace: None,
            unchecked: false,
            is_anonymous: true,
        });
        let target = Target {
            client,
            session: &session,
            origin: url::origin(&url).unwrap_or_default(),
        };
        let known = request.foreign_token;
        let mut used = known.and_then(|token| token.authorization_for(&url));
        // The token of an earlier request may have expired: then a new one is requested.
        for _ in 0..2 {
            let message = refusal.take_message();
            let fresh = match auth.log_in(&target, used.as_ref(), &refusal) {
                Ok(Some(fresh)) if Some(&fresh) != used.as_ref() => fresh,
                Ok(_) | Err(Error::NoLogin { .. }) => {
                    return Err(Error::Denied {
                        url: refusal.url,
                        status: refusal.status,
                        message,
                    });
                }
                Err(error) => return Err(error),
            };
            let mut reply = client.follow(Request {
                url: &url,
                authorization: Some(&fresh),
                unchecked: false,
                foreign_token: None,
                ..request
            })?;
            if reply.status != 401 || !reply.is_at_home {
                *lock(&self.foreign_token) = Some(ForeignToken {
                    origin: target.origin.to_owned(),
                    authorization: fresh,
                });
                reply.is_at_home = false;
                return Ok(reply);
            }
            (refusal, used) = (reply, Some(fresh));
        }
        Err(status_error(refusal))
    }

    /// The error of a login that failed. A 404 of a token server says nothing about the object that was requested.
    fn no_token(&self, error: Error) -> Error {
        if error.finding() != Finding::Answer {
            return error;
        }
        Error::NoToken {
            url: self.session.name(),
            why: format!("no token: {}", error.line()),
            may_pass: false,
        }
    }

    /// Sends a request once; only success is a result.
    fn fetch_once(&self, request: Request<'_>) -> Result<Reply> {
        let reply = self.ask(request, true)?;
        match reply.status {
            200 => Ok(reply),
            206 if request.range.is_some() => Ok(reply),
            _ => Err(status_error(reply)),
        }
    }

    /// Sends a request, with retries.
    fn fetch(&self, request: Request<'_>) -> Result<Reply> {
        self.with_retries(|| self.fetch_once(request))
    }

    /// The request for a URL, with its login if the registry requires one.
    fn download(&self, url: String, accept: Option<&str>) -> Result<Download> {
        // Sent once, to log in; the body is not read.
        self.fetch(self.get(&url).accept(accept.unwrap_or("*/*")))?;
        let authorization = self.session.authorization();
        Ok(Download {
            url,
            accept: accept.map(str::to_owned),
            authorization: authorization.map(|secret| secret.reveal().to_owned()),
        })
    }
}

/// Whether a GET may succeed after a HEAD with this error: not after 404, nor if there was no response.
fn is_of_the_method(error: &Error) -> bool {
    matches!(
        error,
        Error::Denied { .. }
            | Error::UnexpectedStatus { .. }
            | Error::Nonsense { .. }
            | Error::Failing { .. }
            | Error::Broken { .. }
    )
}

/// Refuses an encoded body, which has another digest. Some proxies compress although `identity` was requested.
fn refuse_encoding(reply: &Reply) -> Result<()> {
    match reply.header("content-encoding") {
        None | Some("identity" | "") => Ok(()),
        Some(encoding) => {
            let why = format!("Content-Encoding {encoding}, expected identity");
            Err(nonsense(&reply.url, why))
        }
    }
}
