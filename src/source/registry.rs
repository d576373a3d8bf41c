//! A repository of a registry, over the distribution API.
//!
//! Spec: <https://github.com/opencontainers/distribution-spec/blob/main/spec.md>. Where registries
//! do otherwise, the comment says which.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use log::debug;
use serde::Deserialize;
use ureq::http::{HeaderMap, Response, header};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body, Timeout};

use super::url::{next_page, resolve};
use super::{Reference, Source, StoredManifest};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest;
use crate::name::{Host, Repository, Tag};

/// To connect, TLS handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// From the request to the whole head of the answer. systemd gives up on us after 60 s of silence.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);
/// Between two pieces of a body.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a request is made before its error counts.
const ATTEMPTS: u32 = 3;
/// Before the second attempt; doubled before each one after it.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest `Retry-After` that is waited out. sysupdate does not ask again, so a short one is.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(10);
/// Assumed when a busy registry names no time.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(5);

const MAX_REDIRECTS: usize = 5;
/// Tags asked for at once. ECR refuses more than 1000.
const PAGE: usize = 1000;
/// Pages followed. A registry whose links lead in a circle must not hold us.
const MAX_PAGES: usize = 1000;
/// Largest page of a list of tags; 1000 tags of the longest sort take 131 kB.
const MAX_PAGE_SIZE: u64 = 8 << 20;
/// All pages together. sysupdate takes a listing of 64 MiB at most.
const MAX_LIST_SIZE: usize = 64 << 20;

/// What all registries share.
pub type Client = Agent;

/// Makes the client that all registries share, with its kept-alive connections.
pub fn agent(parallel: usize) -> Client {
    let tls = TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .root_certs(RootCerts::PlatformVerifier)
        .build();
    Agent::config_builder()
        .tls_config(tls)
        .user_agent(concat!("sysext-oci-proxy/", env!("CARGO_PKG_VERSION")))
        // Digests are of the bytes as stored: nobody may compress them on the way.
        .accept_encoding("identity")
        .http_status_as_error(false)
        // Redirects are followed by hand: ureq's rules look at the host and not at its port.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(HEAD_TIMEOUT))
        .timeout_per_read(Some(READ_TIMEOUT))
        .max_idle_connections(2 * parallel)
        .max_idle_connections_per_host(parallel)
        .build()
        .new_agent()
}

/// A repository of a registry.
pub struct Registry {
    agent: Agent,
    host: Host,
    repository: Repository,
}

enum Method {
    Get,
    Head,
}

impl Registry {
    /// The repository at this host. Nothing is asked yet.
    pub fn new(agent: Agent, host: Host, repository: Repository) -> Self {
        Self {
            agent,
            host,
            repository,
        }
    }

    fn url(&self, rest: &str) -> String {
        let scheme = if self.host.is_loopback() {
            "http"
        } else {
            "https"
        };
        format!("{scheme}://{}/v2/{}/{rest}", self.host, self.repository)
    }

    fn manifest_url(&self, reference: Reference<'_>) -> String {
        match reference {
            Reference::Tag(tag) => self.url(&format!("manifests/{tag}")),
            Reference::Digest(digest) => self.url(&format!("manifests/{digest}")),
        }
    }

    fn blob_address(&self, digest: Digest) -> String {
        self.url(&format!("blobs/{digest}"))
    }

    /// One request and its answer, whatever its status; redirects are not followed.
    fn ask(&self, method: &Method, url: &str, accept: &str) -> Result<Response<Body>> {
        let request = match method {
            Method::Get => self.agent.get(url),
            Method::Head => self.agent.head(url),
        };
        let answer = request
            .header(header::ACCEPT, accept)
            .call()
            .map_err(|error| failure(url, error))?;
        debug!(
            "{} {url}: {}",
            if matches!(method, Method::Get) {
                "GET"
            } else {
                "HEAD"
            },
            answer.status()
        );
        Ok(answer)
    }

    /// One request, redirects followed; only success is a result.
    fn fetch(&self, method: &Method, url: &str, accept: &str) -> Result<Response<Body>> {
        let mut at = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.ask(method, &at, accept)?;
            if !answer.status().is_redirection() {
                check_status(&at, &answer)?;
                return Ok(answer);
            }
            at = redirect_target(&at, &answer)?;
        }
        Err(Error::Nonsense {
            url: url.to_owned(),
            why: format!("more than {MAX_REDIRECTS} redirects"),
        })
    }

    /// A small body and the head it came with.
    fn fetch_all(&self, url: &str, accept: &str, limit: u64) -> Result<(HeaderMap, Vec<u8>)> {
        with_retries(|| {
            let (head, body) = self.fetch(&Method::Get, url, accept)?.into_parts();
            refuse_encoding(url, &head.headers)?;
            let mut bytes = Vec::new();
            body.into_with_config()
                .limit(u64::MAX)
                .reader()
                .take(limit + 1)
                .read_to_end(&mut bytes)
                .map_err(|error| read_failure(url, error))?;
            if bytes.len() as u64 > limit {
                return Err(Error::Nonsense {
                    url: url.to_owned(),
                    why: format!("more than {limit} bytes, which is the limit for this"),
                });
            }
            Ok((head.headers, bytes))
        })
    }
}

impl Source for Registry {
    fn name(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    fn tags(&self) -> Result<Vec<Tag>> {
        let first = self.url(&format!("tags/list?n={PAGE}"));
        let mut page = Some(first.clone());
        let mut seen = HashSet::new();
        let mut size = 0;
        let mut tags = Vec::new();
        while let Some(url) = page.take() {
            let (headers, bytes) = match self.fetch_all(&url, "application/json", MAX_PAGE_SIZE) {
                // Some refuse n altogether.
                Err(Error::Nonsense { .. }) if url == first => {
                    let without = self.url("tags/list");
                    self.fetch_all(&without, "application/json", MAX_PAGE_SIZE)?
                }
                other => other?,
            };
            tags.extend(parse_tags(&bytes).map_err(|why| Error::Nonsense {
                url: url.clone(),
                why,
            })?);
            size += bytes.len();
            let links = headers
                .get_all(header::LINK)
                .iter()
                .filter_map(|link| link.to_str().ok());
            let next = next_page(&url, links);
            seen.insert(url);
            page = next.filter(|next| !seen.contains(next));
            if page.is_some() && (seen.len() == MAX_PAGES || size > MAX_LIST_SIZE) {
                return Err(Error::Nonsense {
                    url: first,
                    why: format!(
                        "the list of tags does not end, {} pages were read",
                        seen.len()
                    ),
                });
            }
        }
        Ok(tags)
    }

    fn digest_of(&self, tag: &Tag) -> Result<Option<Digest>> {
        let url = self.manifest_url(Reference::Tag(tag));
        match with_retries(|| self.fetch(&Method::Head, &url, &manifest::ACCEPT.join(", "))) {
            // ECR, Red Hat's and Nexus send no such header; a sha512 is none we know by.
            Ok(answer) => Ok(text(answer.headers(), "docker-content-digest")
                .and_then(|digest| digest.parse().ok())),
            // Some don't know HEAD, or forbid it alone: GET will tell.
            Err(Error::Denied { .. } | Error::Nonsense { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn manifest(&self, reference: Reference<'_>) -> Result<StoredManifest> {
        let url = self.manifest_url(reference);
        let (headers, bytes) =
            self.fetch_all(&url, &manifest::ACCEPT.join(", "), manifest::MAX_SIZE)?;
        Ok(StoredManifest {
            bytes,
            media_type: text(&headers, "content-type").map(str::to_owned),
        })
    }

    fn blob(&self, digest: Digest, size: u64) -> Result<Box<dyn Read + Send>> {
        let url = self.blob_address(digest);
        let answer = with_retries(|| self.fetch(&Method::Get, &url, "*/*"))?;
        refuse_encoding(&url, answer.headers())?;
        let announced =
            text(answer.headers(), "content-length").and_then(|length| length.parse().ok());
        if let Some(found) = announced.filter(|found| *found != size) {
            return Err(Error::WrongSize {
                what: url,
                expected: size,
                found,
            });
        }
        Ok(Box::new(
            answer
                .into_body()
                .into_with_config()
                .limit(u64::MAX)
                .reader(),
        ))
    }

    fn blob_url(&self, digest: Digest) -> Result<Option<String>> {
        let url = self.blob_address(digest);
        // GET, for a signed URL may be good for GET alone. The body, if there is one, is not read.
        let answer = with_retries(|| {
            let answer = self.ask(&Method::Get, &url, "*/*")?;
            if !answer.status().is_redirection() {
                check_status(&url, &answer)?;
            }
            Ok(answer)
        })?;
        if answer.status().is_redirection() {
            redirect_target(&url, &answer).map(Some)
        } else {
            Ok(Some(url))
        }
    }
}

/// Tries again what may pass: a broken connection, a fault on the other side, a short wait.
fn with_retries<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let mut pause = FIRST_PAUSE;
    for _ in 1..ATTEMPTS {
        let error = match attempt() {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let wait = match &error {
            Error::Broken { .. } | Error::Failing { .. } => jitter(pause),
            Error::Busy { retry_after, .. } if *retry_after <= MAX_RETRY_AFTER => *retry_after,
            _ => return Err(error),
        };
        debug!("trying again in {wait:?}: {}", error.line());
        thread::sleep(wait);
        pause *= 2;
    }
    attempt()
}

/// Between half and the whole of it, so that clients that failed together don't return together.
fn jitter(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    pause.mul_f64(0.5 + (random % 1000) as f64 / 2000.0)
}

fn check_status(url: &str, answer: &Response<Body>) -> Result<()> {
    let url = url.to_owned();
    match answer.status().as_u16() {
        200 => Ok(()),
        status @ (401 | 403) => Err(Error::Denied { url, status }),
        404 => Err(Error::Missing { url }),
        status @ (429 | 503) => {
            let retry_after = text(answer.headers(), "retry-after")
                .and_then(|seconds| seconds.trim().parse().ok())
                .map_or(DEFAULT_RETRY_AFTER, Duration::from_secs);
            Err(Error::Busy {
                url,
                status,
                retry_after,
            })
        }
        status @ (408 | 500 | 502 | 504) => Err(Error::Failing { url, status }),
        status => Err(Error::Nonsense {
            url,
            why: format!("status {status}"),
        }),
    }
}

fn redirect_target(url: &str, answer: &Response<Body>) -> Result<String> {
    let bad = |why: String| Error::Nonsense {
        url: url.to_owned(),
        why,
    };
    let location = text(answer.headers(), "location").ok_or_else(|| {
        bad(format!(
            "status {} without a Location",
            answer.status().as_u16()
        ))
    })?;
    let target =
        resolve(url, location).ok_or_else(|| bad(format!("a redirect to {location:?}")))?;
    if url.starts_with("https:") && !target.starts_with("https:") {
        return Err(bad(format!(
            "a redirect from https to {target}, which would not be private any more"
        )));
    }
    Ok(target)
}

/// An encoded body has another digest. Some fronts compress though they were asked not to.
fn refuse_encoding(url: &str, headers: &HeaderMap) -> Result<()> {
    match text(headers, "content-encoding") {
        None | Some("identity" | "") => Ok(()),
        Some(encoding) => Err(Error::Nonsense {
            url: url.to_owned(),
            why: format!("Content-Encoding {encoding}, though identity was asked for"),
        }),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// A list of tags as registries send it: `null` for an empty one (docker-registry 2.8), null
/// entries (Nexus), digests among them (Artifactory).
#[derive(Deserialize)]
struct TagList {
    tags: Option<Vec<serde_json::Value>>,
}

fn parse_tags(json: &[u8]) -> Result<Vec<Tag>, String> {
    let list: TagList =
        serde_json::from_slice(json).map_err(|error| format!("not a list of tags: {error}"))?;
    let parse = |entry: serde_json::Value| match entry.as_str().map(str::parse) {
        Some(Ok(tag)) => Some(tag),
        _ => {
            debug!("{entry} in the list of tags is not a tag");
            None
        }
    };
    Ok(list
        .tags
        .unwrap_or_default()
        .into_iter()
        .filter_map(parse)
        .collect())
}

/// What a failed request means.
fn failure(url: &str, error: ureq::Error) -> Error {
    let url = url.to_owned();
    match error {
        ureq::Error::Timeout(Timeout::Connect | Timeout::Resolve)
        | ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::Tls(_)
        | ureq::Error::Rustls(_) => Error::Unreachable {
            url,
            cause: Arc::new(error),
        },
        ureq::Error::Timeout(Timeout::PerRead) => Error::TooSlow {
            url,
            limit: READ_TIMEOUT,
        },
        ureq::Error::Timeout(_) => Error::TooSlow {
            url,
            limit: HEAD_TIMEOUT,
        },
        ureq::Error::Io(error) => io_failure(url, error),
        error => Error::Broken {
            url,
            cause: Arc::new(error),
        },
    }
}

fn io_failure(url: String, error: io::Error) -> Error {
    match error.kind() {
        // A broken connection is one that there was.
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof
        | io::ErrorKind::NotConnected => Error::Broken {
            url,
            cause: Arc::new(error),
        },
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Error::TooSlow {
            url,
            limit: READ_TIMEOUT,
        },
        _ => Error::Unreachable {
            url,
            cause: Arc::new(error),
        },
    }
}

/// What a body that broke off means. ureq wraps its own errors in an io::Error there.
fn read_failure(url: &str, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Error::TooSlow {
            url: url.to_owned(),
            limit: READ_TIMEOUT,
        },
        _ => Error::Broken {
            url: url.to_owned(),
            cause: Arc::new(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_tags_keeps_its_tags() {
        let tags = |json: &str| -> Vec<String> {
            parse_tags(json.as_bytes())
                .unwrap()
                .iter()
                .map(Tag::to_string)
                .collect()
        };
        assert_eq!(tags(r#"{"name":"a","tags":["v1","v2"]}"#), ["v1", "v2"]);
        assert_eq!(tags(r#"{"tags":null,"child":[]}"#), [""; 0]);
        assert_eq!(tags("{}"), [""; 0]);
        assert_eq!(
            tags(r#"{"tags":["v1",null,"-ot-beta","sha512:00",7]}"#),
            ["v1"]
        );
        assert!(parse_tags(b"<html>").is_err());
    }

    #[test]
    fn pauses_are_jittered_within_bounds() {
        for _ in 0..1000 {
            let pause = jitter(FIRST_PAUSE);
            assert!(
                (FIRST_PAUSE / 2..=FIRST_PAUSE).contains(&pause),
                "{pause:?}"
            );
        }
    }
}
