//! A repository of one registry, or of one mirror, over the distribution API.
//!
//! Spec: <https://github.com/opencontainers/distribution-spec/blob/main/spec.md>. Where registries
//! do otherwise, the comment says which.

pub mod agent;
pub mod auth;
pub mod challenge;
pub mod client;
pub mod error;
pub mod proxy;
mod status;
mod throttle;
mod tls;
mod transport;
pub mod url;

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use log::debug;
use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::config::registries_conf::Endpoint;
use super::upstream::Upstream;
use super::{Download, Part, Reference, Skipped, StoredManifest};
use crate::digest::Digest;
use crate::error::{Error, Finding, Result};
use crate::lock::lock;
use crate::manifest::{self, Descriptor, Manifest};
use crate::name::{DOCKER_HUB, Host, Repository, Tag};
use crate::pool;
use crate::task;
use auth::{Door, Session, SessionKey, asks_for_token};
use client::{Method, Reply, Request, Stranger, host_of, is_redirect};
use error::nonsense;
use status::status_error;
use throttle::{MAX_QUEUE, MAX_WAIT};
use url::{Target, is_broken_link, next_page, with_query_of};

/// How often a request is made before its error counts.
const ATTEMPTS: u32 = 3;
/// Before the second attempt; doubled before each one after it.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// No attempt begins later than this: systemd gives up on us after 60 s of silence, and one may take
/// most of that.
const LAST_ATTEMPT: Duration = Duration::from_secs(15);

/// Of a body whose beginning is known.
const SKIPPED_AT_ONCE: usize = 16 << 10;

/// What is wrong with an answer that has neither a length nor a range in it.
const NO_SIZE: &str = "it does not tell how long the blob is";

/// Tags asked for at once. ECR refuses more than 1000.
const PAGE: usize = 1000;
/// Pages followed. A registry whose links lead in a circle must not hold us.
const MAX_PAGES: usize = 1000;
/// Why a list of tags is none.
const LOST_PAGE: &str = "the list of tags goes on at a page that cannot be found";
/// Largest page of a list of tags; 1000 tags of the longest sort take 131 kB.
const MAX_PAGE_SIZE: u64 = 8 << 20;
/// All pages together: as many tags of the longest sort, several times.
const MAX_LIST_SIZE: usize = 64 << 20;
/// What a tag takes in a listing in the making besides its name, in bytes: its place in several tables.
const OF_TAG: usize = 192;
/// Tags of a repository. So many could not be looked up in the time for a listing.
const MAX_TAGS: usize = 100_000;
/// Pages, and all of them together, of what is attached to one manifest: few of it are read.
const MAX_REFERRER_PAGES: usize = 64;
const MAX_REFERRERS_SIZE: usize = 16 << 20;

/// A repository at one place.
pub struct Registry {
    upstream: Arc<Upstream>,
    /// As it is called in settings, files and messages.
    host: Host,
    repository: Repository,
    insecure: Option<bool>,
    /// What a mirror is told that it is asked for.
    namespace: Option<Host>,
    /// What is known against it is remembered by this: `HOST/REPOSITORY`, with the namespace behind it.
    place: String,
    session: Arc<Session>,
    /// What another registry gave, to which this one redirects.
    stranger: Mutex<Option<Stranger>>,
}

impl Registry {
    pub fn new(upstream: &Arc<Upstream>, endpoint: Endpoint, namespace: Option<Host>) -> Self {
        let Endpoint {
            host,
            repository,
            insecure,
            ..
        } = endpoint;
        let mut place = format!("{host}/{repository}");
        if let Some(namespace) = &namespace {
            place += &format!("?ns={namespace}");
        }
        let session = upstream.auth.session(SessionKey {
            place: place.clone(),
            unchecked: insecure == Some(true),
            is_stranger: false,
        });
        Self {
            upstream: upstream.clone(),
            place,
            host,
            repository,
            insecure,
            namespace,
            session,
            stranger: Mutex::default(),
        }
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    pub fn place(&self) -> &str {
        &self.place
    }

    fn origin(&self) -> Result<String> {
        // The one registry whose API is not where its name says.
        if self.host.as_str() == DOCKER_HUB {
            return Ok("https://registry-1.docker.io".to_owned());
        }
        self.upstream.origin(&self.host, self.insecure)
    }

    /// `insecure` means plain HTTP or any certificate.
    fn is_unchecked(&self) -> bool {
        self.insecure == Some(true)
    }

    fn url(&self, rest: &str) -> Result<String> {
        let mut url = format!("{}/v2/{}/{rest}", self.origin()?, self.repository);
        if let Some(namespace) = &self.namespace {
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

    /// One request, logged in if need be. `follow`: to where it is redirected, which may be another registry.
    fn ask(&self, request: Request<'_>, follow: bool) -> Result<Reply> {
        let stranger = lock(&self.stranger).clone();
        let request = Request {
            stranger: stranger.as_ref(),
            ..request
        };
        let reply = self.ask_at_home(request, follow)?;
        if reply.status == 401 && !reply.is_at_home && asks_for_token(&reply) {
            return self.ask_as_stranger(request, reply);
        }
        Ok(reply)
    }

    /// Meets the challenge of another registry, to which a redirect led: as a stranger, for no login goes along.
    fn ask_as_stranger(&self, request: Request<'_>, mut refusal: Reply) -> Result<Reply> {
        let Upstream { client, auth, .. } = &*self.upstream;
        let url = refusal.asked().to_owned();
        let (host, repository) = (host_of(&url)?, url::repository(&url));
        let door = Door {
            client,
            host: &host,
            repository: repository.as_ref().unwrap_or(&self.repository),
            origin: url::origin(&url).unwrap_or_default(),
            unchecked: false,
            is_stranger: true,
        };
        let session = auth.session(SessionKey {
            place: format!("{host}/{}", door.repository),
            unchecked: false,
            is_stranger: true,
        });
        let mut used = request
            .stranger
            .and_then(|stranger| stranger.authorization_for(&url));
        // What is known of another request may have died: then it is asked for anew.
        for _ in 0..2 {
            let message = refusal.take_message();
            let fresh = match auth.log_in(&door, &session, used.as_ref(), &refusal) {
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
                stranger: None,
                ..request
            })?;
            if reply.status != 401 || !reply.is_at_home {
                *lock(&self.stranger) = Some(Stranger {
                    origin: door.origin.to_owned(),
                    authorization: fresh,
                });
                reply.is_at_home = false;
                return Ok(reply);
            }
            (refusal, used) = (reply, Some(fresh));
        }
        Err(status_error(refusal))
    }

    fn ask_at_home(&self, request: Request<'_>, follow: bool) -> Result<Reply> {
        let Upstream { client, auth, .. } = &*self.upstream;
        let origin = self.origin()?;
        let door = Door {
            client,
            host: &self.host,
            repository: &self.repository,
            origin: &origin,
            unchecked: self.is_unchecked(),
            is_stranger: false,
        };
        let send = |request| {
            if follow {
                client.follow(request)
            } else {
                client.send(request)
            }
        };

        let used = auth
            .authorization(&door, &self.session)
            .map_err(|error| self.no_token(error))?;
        let mut reply = send(Request {
            authorization: used.as_ref(),
            ..request
        })?;
        // ECR Public says 400 for a token that has died.
        let is_refused =
            reply.is_at_home && (reply.status == 401 || (reply.status == 400 && used.is_some()));
        if !is_refused {
            return Ok(reply);
        }
        // Read first: the token server may be at the other end of the same connection.
        let (status, message) = (reply.status, reply.take_message());
        let fresh = auth
            .log_in(&door, &self.session, used.as_ref(), &reply)
            .map_err(|error| self.no_token(error))?;
        // Sent a second time, a wrong password counts a second time: some lock an account for that.
        if status == 401 && used.is_some() && fresh == used {
            return Err(auth.refused(&door, &self.session, status, message));
        }
        let mut reply = send(Request {
            authorization: fresh.as_ref(),
            ..request
        })?;
        if reply.is_at_home && matches!(reply.status, 401 | 403) {
            let status = reply.status;
            return Err(auth.refused(&door, &self.session, status, reply.take_message()));
        }
        Ok(reply)
    }

    /// The error of a login that failed. What a token server answers is no answer about what was asked for.
    fn no_token(&self, error: Error) -> Error {
        if error.finding() != Finding::Answer {
            return error;
        }
        Error::NoToken {
            url: format!("{}/{}", self.host, self.repository),
            why: format!("no token for it: {}", error.line()),
            may_pass: false,
        }
    }

    /// A request without a login, for the whole of a small document.
    fn request<'a>(&self, method: Method, url: &'a str, accept: &'a str) -> Request<'a> {
        Request {
            method,
            url,
            accept,
            authorization: None,
            range: None,
            is_blob: false,
            unchecked: self.is_unchecked(),
            stranger: None,
        }
    }

    /// One request; only success is a result.
    fn fetch(&self, request: Request<'_>) -> Result<Reply> {
        let reply = self.ask(request, true)?;
        match reply.status {
            200 => Ok(reply),
            206 if request.range.is_some() => Ok(reply),
            _ => Err(status_error(reply)),
        }
    }

    /// A blob, or with status 206 a range of it, as far as the head of the answer tells.
    fn fetch_blob(&self, url: &str, size: u64, range: Option<(u64, u64)>) -> Result<Reply> {
        let reply = self.fetch(Request {
            range,
            is_blob: true,
            ..self.request(Method::Get, url, "*/*")
        })?;
        match range {
            Some((first, last)) if reply.status == 206 => check_range(&reply, first, last, size)?,
            // Servers of static files call what is gzip itself encoded. Encoded bytes have another length.
            _ if content_length(&reply) == Some(size) => {}
            _ => {
                refuse_encoding(&reply)?;
                check_length(&reply, size)?;
            }
        }
        Ok(reply)
    }

    /// The whole of a blob, of which a range could not be had: some refuse a range instead of ignoring
    /// it, and some give another one.
    fn fetch_whole(&self, url: &str, size: u64, error: Error) -> Result<Reply> {
        let is_of_the_range = matches!(
            error,
            Error::Nonsense { .. } | Error::UnexpectedStatus { .. }
        );
        if !is_of_the_range {
            return Err(error);
        }
        debug!("no range of the blob: {}", error.line());
        self.with_retries(|| self.fetch_blob(url, size, None))
    }

    /// Tries again what may pass: a broken connection, a fault on the other side, a short wait. Only
    /// for GET and HEAD, which change nothing.
    fn with_retries<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let pace = &self.upstream.client.pace;
        let (begun, mut pause, mut failed) = (Instant::now(), FIRST_PAUSE, 0);
        let (mut waited, mut answers_before) = (Duration::ZERO, None);
        loop {
            let error = match attempt() {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let (wait, is_late) = match &error {
                Error::Broken { .. } | Error::Failing { .. } => {
                    failed += 1;
                    (jitter(pause), begun.elapsed() >= LAST_ATTEMPT)
                }
                // The wait itself is part of the next attempt, as of all other requests to the host.
                Error::Busy {
                    url, retry_after, ..
                } => {
                    waited = waited.saturating_add(*retry_after);
                    // Who complains may be another one, where a redirect leads.
                    let host = host_of(url)?;
                    let answers = pace.answers(&host);
                    let now = Some((host, answers));
                    // Others got through since the last time, so it is only us who ask too fast.
                    failed += u32::from(answers_before.is_none() || answers_before == now);
                    answers_before = now;
                    let is_late = waited > MAX_WAIT || begun.elapsed() >= MAX_QUEUE;
                    (Duration::ZERO, is_late)
                }
                _ => return Err(error),
            };
            if failed >= ATTEMPTS || is_late {
                return Err(error);
            }
            debug!("trying again in {wait:?}: {}", error.line());
            task::sleep(wait)?;
            pause *= 2;
        }
    }

    /// A small body and the head it came with.
    fn fetch_all(&self, url: &str, accept: &str, limit: u64) -> Result<Fetched> {
        let request = self.request(Method::Get, url, accept);
        self.with_retries(|| Fetched::read(self.fetch(request)?, limit))
    }

    /// Its tags, all of them or an error: by pages, and where those lead nowhere by the list without pages.
    pub fn tags(&self) -> Result<Vec<Tag>> {
        let first = self.url(&format!("tags/list?n={PAGE}"))?;
        let whole = self.url("tags/list")?;
        let mut pages = Pages::new("of tags", &first, MAX_PAGES, MAX_LIST_SIZE);
        // What pages had counts too, should they be given up.
        let (mut tags, mut before, mut is_whole) = (BTreeSet::new(), BTreeSet::new(), false);
        while let Some(url) = pages.next.take() {
            let page = pool::with_documents(
                || format!("the tags of {}/{}", self.host, self.repository),
                || {
                    let page = self.page_of_tags(&url, &first);
                    let new = page.iter().flat_map(|(_, page)| &page.tags);
                    let new = new.filter(|tag| !tags.contains(*tag) && !before.contains(*tag));
                    let (number, bytes) = new.fold((0, 0), |(number, bytes), tag| {
                        (number + 1, bytes + tag.as_str().len() + OF_TAG)
                    });
                    // So many are refused below.
                    let is_too_many = tags.len() + number > MAX_TAGS;
                    (page, if is_too_many { 0 } else { bytes })
                },
            );
            let (fetched, page) = match page.and_then(|page| page) {
                Ok(page) => page,
                // Some refuse n, or so large a one, and some lead on to a page that is not there.
                Err(error) if !is_whole && is_of_the_page(&error, url == first) => {
                    debug!(
                        "the list of tags is asked for without pages: {}",
                        error.line()
                    );
                    is_whole = true;
                    before.append(&mut tags);
                    pages.start(&whole);
                    continue;
                }
                Err(error) if is_whole && url != whole && is_of_the_page(&error, false) => {
                    let why = format!("{LOST_PAGE}: {}", error.line());
                    return Err(nonsense(&whole, why));
                }
                Err(error) => return Err(error),
            };
            let known = tags.len();
            tags.extend(page.tags);
            if tags.len() > MAX_TAGS {
                let why = format!("more than {MAX_TAGS} tags, the limit for a listing");
                return Err(nonsense(&url, why));
            }
            // Some cut at n and say nothing of a next page: a list so exactly full may go on. And so may one whose
            // link cannot be read.
            let is_full = url == first && fetched.links.is_empty() && page.entries == PAGE;
            let may_be_cut = is_full || fetched.links.iter().any(|link| is_broken_link(link));
            // A page without news that leads back is how others end a list.
            let leads_back = pages.turn(url, &fetched)? && tags.len() > known;
            match may_be_cut || leads_back {
                false => {}
                true if !is_whole => {
                    is_whole = true;
                    before.append(&mut tags);
                    pages.start(&whole);
                }
                true => return Err(nonsense(&whole, LOST_PAGE.into())),
            }
        }
        tags.append(&mut before);
        Ok(tags.into_iter().collect())
    }

    /// One page. Gateways rewrite paths, and the links of what is behind them lead by the other one: then it is
    /// the path that the list was asked by, with what the link has to say.
    fn page_of_tags(&self, url: &str, first: &str) -> Result<(Fetched, Tags)> {
        let fetch = |url: &str| {
            let fetched = self.fetch_all(url, "application/json", MAX_PAGE_SIZE)?;
            let page = parse_tags(&fetched.bytes).map_err(|why| nonsense(url, why))?;
            Ok((fetched, page))
        };
        let found = fetch(url);
        let by_own_path = with_query_of(first, url);
        if by_own_path == url {
            return found;
        }
        match found {
            Ok(page) if page.1.entries > 0 => Ok(page),
            Err(error) if !is_of_the_page(&error, false) => Err(error),
            _ => fetch(&by_own_path),
        }
    }

    pub fn digest_of(&self, tag: &Tag) -> Result<Option<Digest>> {
        let url = self.manifest_url(Reference::Tag(tag))?;
        let accept = manifest::ACCEPT.join(", ");
        match self.with_retries(|| self.fetch(self.request(Method::Head, &url, &accept))) {
            // ECR, Red Hat's and Nexus send no such header; a sha512 is none we know by.
            Ok(reply) => Ok(reply
                .header("docker-content-digest")
                .and_then(|digest| digest.parse().ok())),
            // Some don't know HEAD, or forbid it alone: GET will tell, and say why.
            Err(Error::Denied { .. } | Error::UnexpectedStatus { .. } | Error::Nonsense { .. }) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    pub fn manifest(&self, reference: Reference<'_>) -> Result<StoredManifest> {
        let url = self.manifest_url(reference)?;
        let fetched = self.fetch_all(&url, &manifest::ACCEPT.join(", "), manifest::MAX_SIZE)?;
        Ok(StoredManifest {
            bytes: fetched.bytes,
            media_type: fetched.media_type,
        })
    }

    /// The blob from one of its bytes on. Ranges are closed, for some refuse open ones; those who know
    /// none are read from the start and skipped forward, while the body is read.
    pub fn blob(&self, digest: Digest, size: u64, from: u64) -> Result<Box<dyn Read + Send>> {
        let url = self.url(&format!("blobs/{digest}"))?;
        let range = (from > 0).then(|| (from, size - 1));
        let reply = match self.with_retries(|| self.fetch_blob(&url, size, range)) {
            Err(error) if range.is_some() => self.fetch_whole(&url, size, error)?,
            reply => reply?,
        };
        let left = if reply.status == 206 { 0 } else { from };
        let inner = reply.into_reader();
        Ok(Box::new(Skipping { inner, left }))
    }

    /// The whole of a blob, and how long it is by the head of the same answer.
    pub fn whole_blob(&self, digest: Digest) -> Result<(u64, Box<dyn Read + Send>)> {
        let url = self.url(&format!("blobs/{digest}"))?;
        let reply = self.with_retries(|| {
            let request = Request {
                is_blob: true,
                ..self.request(Method::Get, &url, "*/*")
            };
            let reply = self.fetch(request)?;
            refuse_encoding(&reply)?;
            Ok(reply)
        })?;
        let length = reply.header("content-length");
        let size = length.and_then(|length| length.parse().ok());
        let size = size.ok_or_else(|| nonsense(&url, NO_SIZE.into()))?;
        Ok((size, reply.into_reader()))
    }

    /// Some of a blob. The body is read to its end, so that its connection serves the next range too.
    pub fn blob_range(&self, digest: Digest, size: u64, range: Range<u64>) -> Result<Part> {
        let url = self.url(&format!("blobs/{digest}"))?;
        let (first, last) = (range.start, range.end - 1);
        let part = self.with_retries(|| {
            let reply = self.fetch_blob(&url, size, Some((first, last)))?;
            if reply.status != 206 {
                return Ok(Part::Whole(reply.into_reader()));
            }
            let expected = range.end - range.start;
            let bytes = reply.read_at_once(expected)?;
            match bytes.len() as u64 {
                found if found == expected => Ok(Part::Range(bytes)),
                // The connection ended with it.
                found => Err(Error::Broken {
                    url: format!("{url} after {found} of the bytes {first} to {last}"),
                    cause: Arc::new(io::Error::from(io::ErrorKind::UnexpectedEof)),
                }),
            }
        });
        part.or_else(|error| {
            let reply = self.fetch_whole(&url, size, error)?;
            Ok(Part::Whole(reply.into_reader()))
        })
    }

    /// The request for a blob as we would make it, logged in if need be.
    pub fn blob_request(&self, digest: Digest) -> Result<Download> {
        self.download(self.url(&format!("blobs/{digest}"))?, None)
    }

    pub fn manifest_request(&self, reference: Reference<'_>, media_type: &str) -> Result<Download> {
        self.download(self.manifest_url(reference)?, Some(media_type))
    }

    fn download(&self, url: String, accept: Option<&str>) -> Result<Download> {
        // Asked once, so that a login is made; the body is not read.
        let ask = || self.fetch(self.request(Method::Get, &url, accept.unwrap_or("*/*")));
        drop(self.with_retries(ask)?);
        Ok(Download {
            url,
            accept: accept.map(str::to_owned),
            authorization: self.session.header(),
        })
    }

    /// The size of a blob, by the head of its answer, or by that of one byte of it.
    pub fn blob_size(&self, digest: Digest) -> Result<u64> {
        let url = self.url(&format!("blobs/{digest}"))?;
        let length = |reply: &Reply| reply.header("content-length")?.parse().ok();
        // Not every registry knows HEAD for blobs, and fronts may leave the length out, or say zero.
        if let Ok(reply) = self.with_retries(|| self.fetch(self.request(Method::Head, &url, "*/*")))
            && let Some(size) = length(&reply)
            && (size > 0 || digest == Digest::of(b""))
        {
            return Ok(size);
        }
        let first = Request {
            range: Some((0, 0)),
            ..self.request(Method::Get, &url, "*/*")
        };
        let reply = self.with_retries(|| self.fetch(first))?;
        let total = match reply.status {
            206 => reply
                .header("content-range")
                .and_then(|range| range.rsplit_once('/')?.1.parse().ok()),
            _ => length(&reply),
        };
        total.ok_or_else(|| nonsense(&url, NO_SIZE.into()))
    }

    /// Shows that the blob is here; [`Error::Missing`] if it is not.
    ///
    /// Not every registry knows HEAD for blobs, and a signed URL that it redirects to may be good for GET
    /// alone: then one byte is asked for.
    pub fn show_blob(&self, digest: Digest) -> Result<()> {
        let url = self.url(&format!("blobs/{digest}"))?;
        let head = self.request(Method::Head, &url, "*/*");
        match self.with_retries(|| self.fetch(head)) {
            Err(error) if is_of_the_method(&error) => {}
            shown => return shown.map(drop),
        }
        let first = Request {
            range: Some((0, 0)),
            is_blob: true,
            ..self.request(Method::Get, &url, "*/*")
        };
        self.with_retries(|| {
            let reply = self.fetch(first)?;
            // One that ignores ranges sends all of it, which is not waited for.
            if reply.status == 206 {
                reply.read_at_once(1)?;
            }
            Ok(())
        })
    }

    /// Shows that the manifest is here; [`Error::Missing`] if it is not.
    pub fn show_manifest(&self, digest: Digest) -> Result<()> {
        let url = self.manifest_url(Reference::Digest(digest))?;
        let accept = manifest::ACCEPT.join(", ");
        let head = self.request(Method::Head, &url, &accept);
        match self.with_retries(|| self.fetch(head)) {
            Err(error) if is_of_the_method(&error) => {}
            shown => return shown.map(drop),
        }
        let stored = self.manifest(Reference::Digest(digest))?;
        match Digest::of(&stored.bytes) {
            found if found == digest => Ok(()),
            found => Err(Error::WrongBytes {
                what: format!("manifest {digest} at {}", self.host),
                expected: digest,
                found,
            }),
        }
    }

    /// What is attached to a manifest: by the referrers API, else by the tag that stands in for it.
    pub fn referrers(&self, subject: Digest) -> Result<Vec<Descriptor>> {
        let first = self.url(&format!("referrers/{subject}"))?;
        let what = "of what is attached";
        let mut pages = Pages::new(what, &first, MAX_REFERRER_PAGES, MAX_REFERRERS_SIZE);
        let mut found = Vec::new();
        while let Some(url) = pages.next.take() {
            match self.referrers_at(&url, subject, true) {
                Ok((fetched, attached)) => {
                    found.extend(attached);
                    pages.turn(url, &fetched)?;
                }
                Err(error) if url == first && is_of_no_referrers_api(&error) => {
                    return self.referrers_by_tag(subject);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    fn referrers_by_tag(&self, subject: Digest) -> Result<Vec<Descriptor>> {
        let url = self.url(&format!("manifests/sha256-{}", subject.hex()))?;
        match self.referrers_at(&url, subject, false) {
            Err(Error::Missing { .. }) => Ok(Vec::new()),
            found => found.map(|(_, attached)| attached),
        }
    }

    /// One page of what is attached. A manifest in the place of a list means that there is none: GitLab resolves
    /// the stand-in tag to the subject itself.
    fn referrers_at(
        &self,
        url: &str,
        subject: Digest,
        is_api: bool,
    ) -> Result<(Fetched, Vec<Descriptor>)> {
        let request = self.request(Method::Get, url, manifest::OCI_INDEX);
        let fetched = self.with_retries(|| {
            let reply = self.ask(request, true)?;
            // ghcr redirects to a page at another host. What that answers says nothing of what is attached.
            if is_api && !reply.is_at_home && reply.status != 200 {
                return Err(Error::Missing { url: reply.url });
            }
            match reply.status {
                200 => Fetched::read(reply, manifest::MAX_SIZE),
                _ => Err(status_error(reply)),
            }
        })?;
        let url = &super::registry::url::for_messages(url);
        if Digest::of(&fetched.bytes) == subject {
            return Err(Error::Missing {
                url: format!("{url}, it is the manifest itself"),
            });
        }
        match Manifest::parse(fetched.media_type.as_deref(), &fetched.bytes) {
            Ok(Manifest::Index(index)) => {
                let entries = index.entries.into_iter();
                Ok((fetched, entries.map(|entry| entry.descriptor).collect()))
            }
            Ok(Manifest::Image(_)) => Err(Error::Missing {
                url: format!("{url}, it is a manifest and no list"),
            }),
            Err(_) => Err(nonsense(url, "no index".into())),
        }
    }

    /// Where a client finds the blob. GET, for a signed URL may be good for GET alone; the body, if
    /// there is one, is not read. `None` where a client would have to log in.
    pub fn blob_url(&self, digest: Digest) -> Result<Option<String>> {
        let url = self.url(&format!("blobs/{digest}"))?;
        let request = Request {
            is_blob: true,
            ..self.request(Method::Get, &url, "*/*")
        };
        let mut reply = self.with_retries(|| self.ask(request, false))?;
        if is_redirect(reply.status) {
            let target = self.upstream.client.redirect_target(&reply)?;
            drop(reply.take_message()); // else its connection is of no more use
            return self.is_open(&target).map(|it| it.then_some(target.url));
        }
        if reply.status != 200 {
            return Err(status_error(reply));
        }
        Ok((!self.session.is_logged_in()).then_some(url))
    }

    /// Does this place give a blob to whoever asks, without a login and with a certificate that can be checked?
    fn is_open(&self, target: &Target) -> Result<bool> {
        // A login in the URL is the registry's secret.
        if target.login.is_some() {
            return Ok(false);
        }
        let first_byte = Request {
            range: Some((0, 0)),
            is_blob: true,
            unchecked: false,
            ..self.request(Method::Get, &target.url, "*/*")
        };
        match self.upstream.client.send(first_byte) {
            // 416: the blob is empty.
            Ok(reply) => Ok(matches!(reply.status, 200 | 206 | 416) || is_redirect(reply.status)),
            Err(Error::ClientGone) => Err(Error::ClientGone),
            Err(error) => {
                debug!("no client is sent to where the blob is: {}", error.line());
                Ok(false)
            }
        }
    }
}

/// Is it this page that is not to be had, rather than the list or the registry? Of the first page only what it
/// was asked for can be wrong.
fn is_of_the_page(error: &Error, is_first: bool) -> bool {
    match error {
        Error::Nonsense { .. } | Error::UnexpectedStatus { .. } => true,
        Error::Missing { .. }
        | Error::Denied { .. }
        | Error::NoLogin { .. }
        | Error::LoginRefused { .. }
        | Error::Failing { .. } => !is_first,
        _ => false,
    }
}

/// May GET go better where HEAD failed so? Not where the answer is that there is nothing, and not where
/// there was none.
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

/// Is this how registries answer that do not know the referrers API? 2.8, 3.1 and crane say 404, others 400, 405 or
/// 501, or give a page. Any other failure says nothing of what is attached.
fn is_of_no_referrers_api(error: &Error) -> bool {
    match error {
        Error::Missing { .. } | Error::Nonsense { .. } | Error::LostRedirect { .. } => true,
        Error::UnexpectedStatus { status, .. } => matches!(status, 400 | 405 | 406 | 410 | 501),
        _ => false,
    }
}

/// Is this the range that was asked for? `*` stands for a size that is not told.
fn check_range(reply: &Reply, first: u64, last: u64, size: u64) -> Result<()> {
    let found = reply.header("content-range").unwrap_or_default();
    let expected = format!("bytes {first}-{last}/{size}");
    if found == expected || found == format!("bytes {first}-{last}/*") {
        return Ok(());
    }
    let why = format!("range {found:?}, expected {expected:?}");
    Err(nonsense(&reply.url, why))
}

fn content_length(reply: &Reply) -> Option<u64> {
    reply.header("content-length")?.parse().ok()
}

/// Is this a whole of the right size, as far as its head tells?
fn check_length(reply: &Reply, expected: u64) -> Result<()> {
    match content_length(reply).filter(|found| *found != expected) {
        None => Ok(()),
        Some(found) => Err(Error::WrongSize {
            what: reply.url.clone(),
            expected,
            found,
        }),
    }
}

/// A body whose beginning is known already.
///
/// After each piece of that it says `Interrupted`, with [`Skipped`]: readers who have a limit to their
/// patience can look at their clock, and those who have none try again as they always do.
struct Skipping<R> {
    inner: R,
    /// How much is still known.
    left: u64,
}

impl<R: Read> Read for Skipping<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return self.inner.read(buffer);
        }
        // A reader's own may have room for a few bytes, each time.
        let mut skipped = [0; SKIPPED_AT_ONCE];
        let want =
            usize::try_from(self.left).map_or(SKIPPED_AT_ONCE, |left| left.min(SKIPPED_AT_ONCE));
        match self.inner.read(&mut skipped[..want])? {
            0 => Ok(0),
            n => {
                self.left -= n as u64;
                Err(io::Error::new(
                    io::ErrorKind::Interrupted,
                    Skipped(n as u64),
                ))
            }
        }
    }
}

/// A small answer.
struct Fetched {
    links: Vec<String>,
    media_type: Option<String>,
    bytes: Vec<u8>,
}

impl Fetched {
    /// Reads an answer of at most so many bytes.
    fn read(reply: Reply, limit: u64) -> Result<Self> {
        refuse_encoding(&reply)?;
        let links = reply.all("link").map(str::to_owned).collect();
        let media_type = reply.header("content-type").map(str::to_owned);
        Ok(Self {
            links,
            media_type,
            bytes: reply.read(limit)?,
        })
    }
}

/// The way through the pages of a list. It ends, whatever a registry's links say.
struct Pages<'a> {
    /// What the list is of.
    what: &'static str,
    first: &'a str,
    max_pages: usize,
    max_size: usize,
    /// The page to read now.
    next: Option<String>,
    /// Their digests, for they may be long.
    seen: HashSet<Digest>,
    /// How many pages there were so far.
    count: usize,
    /// Of all of them.
    size: usize,
}

impl<'a> Pages<'a> {
    fn new(what: &'static str, first: &'a str, max_pages: usize, max_size: usize) -> Self {
        Self {
            what,
            first,
            max_pages,
            max_size,
            next: Some(first.to_owned()),
            seen: HashSet::new(),
            count: 0,
            size: 0,
        }
    }

    /// Begins anew, by another way to ask for the list.
    fn start(&mut self, url: &str) {
        self.seen.clear();
        self.next = Some(url.to_owned());
    }

    /// Goes on from a page that was read. Does it lead back to one of them?
    fn turn(&mut self, url: String, page: &Fetched) -> Result<bool> {
        self.size += page.bytes.len();
        self.count += 1;
        let next = next_page(&url, page.links.iter().map(String::as_str));
        self.seen.insert(Digest::of(url.as_bytes()));
        let leads_back = next
            .as_ref()
            .is_some_and(|next| self.seen.contains(&Digest::of(next.as_bytes())));
        self.next = next.filter(|_| !leads_back);
        let count = self.count;
        if self.next.is_some() && (count == self.max_pages || self.size > self.max_size) {
            let why = format!(
                "the list {} does not end, {count} pages were read",
                self.what
            );
            return Err(nonsense(self.first, why));
        }
        Ok(leads_back)
    }
}

/// Between half and the whole of it, so that clients that failed together don't return together.
fn jitter(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    pause.mul_f64(0.5 + (random % 1000) as f64 / 2000.0)
}

/// An encoded body has another digest. Some fronts compress though they were asked not to.
fn refuse_encoding(reply: &Reply) -> Result<()> {
    match reply.header("content-encoding") {
        None | Some("identity" | "") => Ok(()),
        Some(encoding) => {
            let why = format!("Content-Encoding {encoding}, though identity was asked for");
            Err(nonsense(&reply.url, why))
        }
    }
}

/// A list of tags as registries send it: `null` for an empty one (docker-registry 2.8).
#[derive(Deserialize)]
struct TagList {
    tags: Option<Tags>,
}

/// The tags of a page, each once: whatever else it is full of takes no memory.
#[derive(Default)]
struct Tags {
    tags: BTreeSet<Tag>,
    /// How many there were, the unusable ones too: null (Nexus), digests (Artifactory).
    entries: usize,
}

impl<'de> Deserialize<'de> for Tags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(TagsVisitor)
    }
}

struct TagsVisitor;

impl<'de> Visitor<'de> for TagsVisitor {
    type Value = Tags;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Tags, A::Error> {
        let mut found = Tags::default();
        while let Some(entry) = entries.next_element::<&RawValue>()? {
            found.entries += 1;
            let text: Option<String> = serde_json::from_str(entry.get()).ok();
            match text.map(|text| text.parse()) {
                Some(Ok(tag)) => drop(found.tags.insert(tag)),
                _ => debug!("{entry} in the list of tags is not a tag"),
            }
        }
        Ok(found)
    }
}

fn parse_tags(json: &[u8]) -> Result<Tags, String> {
    let list: TagList =
        serde_json::from_slice(json).map_err(|error| format!("not a list of tags: {error}"))?;
    Ok(list.tags.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_skipped_is_interrupted_after_each_piece() {
        let mut body = Skipping {
            inner: b"0123".chain(&b"456789"[..]),
            left: 7,
        };
        // The pieces are those that come, whatever room there is for them.
        let mut buffer = [0; 2];
        for expected in [4, 3] {
            let error = body.read(&mut buffer).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::Interrupted);
            let skipped = error.get_ref().unwrap().downcast_ref::<Skipped>();
            assert_eq!(skipped.unwrap().0, expected);
        }
        let mut rest = Vec::new();
        body.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"789");

        let mut short = Skipping {
            inner: &b"0123"[..],
            left: 7,
        };
        let mut rest = Vec::new();
        assert_eq!(short.read_to_end(&mut rest).unwrap(), 0);
    }

    #[test]
    fn rows_t7_t8_and_t10_a_list_of_tags_keeps_its_tags() {
        let tags = |json: &str| -> Vec<String> {
            let found = parse_tags(json.as_bytes()).unwrap();
            found.tags.iter().map(Tag::to_string).collect()
        };
        assert_eq!(tags(r#"{"name":"a","tags":["v1","v2"]}"#), ["v1", "v2"]);
        assert_eq!(tags(r#"{"tags":null,"child":[],"manifest":{}}"#), [""; 0]);
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
