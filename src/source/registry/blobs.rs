//! Blobs of a registry: their bytes, sizes and URLs.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use log::debug;

use super::client::is_redirect;
use super::error::nonsense;
use super::reply::Reply;
use super::request::Request;
use super::status::status_error;
use super::url::Location;
use super::{Registry, is_of_the_method, refuse_encoding};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::source::{Body, Download, Part};

/// The reason why a response without a length is refused.
const NO_SIZE: &str = "neither Content-Length nor Content-Range has the size of the blob";

/// The range of the first byte. Ranges are closed: some registries refuse open ones.
const FIRST_BYTE: Option<(u64, u64)> = Some((0, 0));

impl Registry {
    fn blob_address(&self, digest: Digest) -> Result<String> {
        self.url(&format!("blobs/{digest}"))
    }

    /// A response with a blob, or with status 206 a range of it. Its size is checked by its head.
    fn fetch_blob(&self, url: &str, size: u64, range: Option<(u64, u64)>) -> Result<Reply> {
        let reply = self.fetch_once(self.get(url).blob(range))?;
        match (range, reply.content_length()) {
            (Some(range), _) if reply.status == 206 => check_range(&reply, range, size)?,
            // Servers of static files send Content-Encoding for a blob that is gzip itself. A body that was encoded on the
            // way has another length.
            (_, Some(found)) if found == size => {}
            (_, found) => {
                refuse_encoding(&reply)?;
                if let Some(found) = found {
                    return Err(Error::WrongSize {
                        what: reply.url,
                        expected: size,
                        found,
                    });
                }
            }
        }
        Ok(reply)
    }

    /// The whole blob, if `error` means that ranges are not supported: some registries refuse a range instead of ignoring
    /// it, and some send another one.
    fn fetch_whole(&self, url: &str, size: u64, error: Error) -> Result<Reply> {
        match error {
            Error::Nonsense { .. } | Error::UnexpectedStatus { .. } => {
                debug!(
                    "asking for the whole blob, without a range: {}",
                    error.line()
                );
                self.with_retries(|| self.fetch_blob(url, size, None))
            }
            error => Err(error),
        }
    }

    /// A range of the blob, or all of it if the registry does not support ranges.
    pub fn blob(&self, digest: Digest, size: u64, range: Range<u64>) -> Result<Body> {
        let url = self.blob_address(digest)?;
        let part = (range != (0..size)).then(|| (range.start, range.end - 1));
        let reply = match self.with_retries(|| self.fetch_blob(&url, size, part)) {
            Err(error) if part.is_some() => self.fetch_whole(&url, size, error)?,
            reply => reply?,
        };
        let there = if reply.status == 206 { range } else { 0..size };
        Ok(Body {
            starts_at: there.start,
            ends_at: there.end,
            reader: reply.into_reader(),
        })
    }

    /// The whole blob, and its size by the head of the same response.
    pub fn whole_blob(&self, digest: Digest) -> Result<(u64, Box<dyn Read + Send>)> {
        let url = self.blob_address(digest)?;
        let reply = self.with_retries(|| {
            let reply = self.fetch_once(self.get(&url).blob(None))?;
            refuse_encoding(&reply)?;
            Ok(reply)
        })?;
        let size = reply.content_length();
        let size = size.ok_or_else(|| nonsense(&url, NO_SIZE.into()))?;
        Ok((size, reply.into_reader()))
    }

    /// A range of a blob. The body is read to its end, so that the connection can be used for the next range.
    pub fn blob_range(&self, digest: Digest, size: u64, range: Range<u64>) -> Result<Part> {
        let url = self.blob_address(digest)?;
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

    pub fn blob_request(&self, digest: Digest) -> Result<Download> {
        self.download(self.blob_address(digest)?, None)
    }

    /// The size of a blob, by a HEAD request, or by a GET of its first byte.
    pub fn blob_size(&self, digest: Digest) -> Result<u64> {
        let url = self.blob_address(digest)?;
        // Not every registry supports HEAD for blobs, and proxies may omit the length, or send zero.
        if let Ok(reply) = self.fetch(self.get(&url).head())
            && let Some(size) = reply.content_length()
            && (size > 0 || digest == Digest::of(b""))
        {
            return Ok(size);
        }
        let reply = self.fetch(Request {
            range: FIRST_BYTE,
            ..self.get(&url)
        })?;
        let total = match reply.status {
            206 => reply
                .header("content-range")
                .and_then(|range| range.rsplit_once('/')?.1.parse().ok()),
            _ => reply.content_length(),
        };
        total.ok_or_else(|| nonsense(&url, NO_SIZE.into()))
    }

    /// Shows that the registry has the blob; [`Error::Missing`] if it does not.
    ///
    /// Not every registry supports HEAD for blobs, and a signed URL that it redirects to may be valid for GET only: then
    /// one byte is requested.
    pub fn show_blob(&self, digest: Digest) -> Result<()> {
        let url = self.blob_address(digest)?;
        match self.fetch(self.get(&url).head()) {
            Err(error) if is_of_the_method(&error) => {}
            shown => return shown.map(drop),
        }
        self.with_retries(|| {
            let reply = self.fetch_once(self.get(&url).blob(FIRST_BYTE))?;
            // A registry that ignores ranges sends the whole blob, which is not read.
            if reply.status == 206 {
                reply.read_at_once(1)?;
            }
            Ok(())
        })
    }

    /// The URL at which a client finds the blob; `None` if it would have to log in. Requested by GET, for a signed URL may
    /// be valid for GET only; a body is not read.
    pub fn blob_url(&self, digest: Digest) -> Result<Option<String>> {
        let url = self.blob_address(digest)?;
        let request = self.get(&url).blob(None);
        let mut reply = self.with_retries(|| self.ask(request, false))?;
        if is_redirect(reply.status) {
            let location = self.upstream.client.redirect_target(&reply)?;
            reply.drain();
            return Ok(self.is_open(&location)?.then_some(location.url));
        }
        if reply.status != 200 {
            return Err(status_error(reply));
        }
        Ok(self.session.authorization().is_none().then_some(url))
    }

    /// Whether a URL serves a blob without a login and with a trusted certificate.
    fn is_open(&self, location: &Location) -> Result<bool> {
        // A login in the URL is the registry's secret.
        if location.login.is_some() {
            return Ok(false);
        }
        let request = Request::get(&location.url).blob(FIRST_BYTE);
        match self.upstream.client.send(request) {
            // 416: the blob is empty.
            Ok(reply) => Ok(matches!(reply.status, 200 | 206 | 416) || is_redirect(reply.status)),
            Err(Error::ClientGone) => Err(Error::ClientGone),
            Err(error) => {
                debug!(
                    "no redirect for clients, the blob's URL is not open: {}",
                    error.line()
                );
                Ok(false)
            }
        }
    }
}

/// Refuses a range other than the requested one. `*` stands for an unknown size.
fn check_range(reply: &Reply, (first, last): (u64, u64), size: u64) -> Result<()> {
    let found = reply.header("content-range").unwrap_or_default();
    let expected = format!("bytes {first}-{last}/{size}");
    if found == expected || found == format!("bytes {first}-{last}/*") {
        return Ok(());
    }
    let why = format!("range {found:?}, expected {expected:?}");
    Err(nonsense(&reply.url, why))
}
