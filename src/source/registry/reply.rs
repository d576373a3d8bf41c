//! The response of a registry: its status, its headers, and its body, which is read once.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use ureq::Body;
use ureq::http::HeaderMap;

use super::agent::DOCUMENT_TIMEOUT;
use super::error::{error_message, nonsense, read_failure};
use crate::error::Result;
use crate::pool::Document;

/// Wait for a busy server that sends no `Retry-After`.
const DEFAULT_WAIT: Duration = Duration::from_secs(1);
/// Longest wait that is believed, so that the sum of two waits always exists.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);
/// Most bytes of an error's body that are read so that the connection can be used again.
const MAX_ERROR_BODY: u64 = 64 << 10;
/// Most bytes of it that are kept for its message. Hundreds of requests may fail at once.
const MAX_MESSAGE: usize = 4 << 10;
/// Memory reserved for a document before any of it has arrived, in bytes. Most documents are no larger.
const FIRST_PIECE: u64 = 4 << 10;

/// A response.
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    /// The URL of the last redirect without its query: for messages, and to resolve references.
    pub url: String,
    /// The same with its query. That may be a signature, so this is not for messages.
    pub asked: String,
    /// It came from the origin that the request was sent to, not from another one by a redirect.
    pub is_at_home: bool,
    /// `None` after it was read.
    pub body: Option<Body>,
}

impl Reply {
    /// A header's value, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// All values of a header.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let values = self.headers.get_all(name).iter();
        values.filter_map(|value| value.to_str().ok())
    }

    pub fn content_length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    /// How long a busy server asks to wait (429, 503); `None` if it is not busy.
    pub fn wait(&self) -> Option<Duration> {
        let asked = || retry_after(self.header("retry-after")?, Timestamp::now());
        matches!(self.status, 429 | 503).then(|| asked().unwrap_or(DEFAULT_WAIT))
    }

    /// The body.
    pub fn into_reader(self) -> Box<dyn Read + Send> {
        let Some(body) = self.body else {
            return Box::new(io::empty());
        };
        match body.content_length() {
            Some(left) => Box::new(DrainAtEnd {
                inner: body.into_reader(),
                left,
            }),
            None => Box::new(body.into_reader()),
        }
    }

    /// The body of a small document of at most `limit` bytes. Waits for memory.
    pub fn read(self, limit: u64) -> Result<Vec<u8>> {
        let url = self.url.clone();
        let (mut body, mut bytes) = (self.into_reader(), Vec::new());
        let mut document = Document::new();
        // Reserves memory for what has arrived, whatever Content-Length says.
        let mut room = FIRST_PIECE.min(limit);
        loop {
            document.reserve(room, || url.clone())?;
            // One byte more, to notice a body that is too large.
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

    /// The body, of at most `limit` bytes, without waiting for memory: few such bodies are read at once,
    /// or they are small.
    pub fn read_at_once(self, limit: u64) -> Result<Vec<u8>> {
        let (url, mut bytes) = (self.url.clone(), Vec::new());
        let read = self.into_reader().take(limit + 1).read_to_end(&mut bytes);
        read.map_err(|error| read_failure(&url, error))?;
        check_limit(&url, &bytes, limit)?;
        Ok(bytes)
    }

    /// The message of an error in one short line; empty if there is none. Once it is read, the connection
    /// can be used again.
    pub fn take_message(&mut self) -> String {
        let Some(body) = self.body.take() else {
            return String::new();
        };
        let mut reader = body.into_reader().take(MAX_ERROR_BODY);
        let (begun, mut bytes, mut piece) = (Instant::now(), Vec::new(), [0; 4096]);
        // It is only a message: the part that arrived in time is enough.
        while begun.elapsed() < DOCUMENT_TIMEOUT {
            match reader.read(&mut piece) {
                Ok(0) | Err(_) => break,
                Ok(n) => bytes.extend_from_slice(&piece[..n.min(MAX_MESSAGE - bytes.len())]),
            }
        }
        error_message(&bytes)
    }

    /// Reads a body that nobody needs, so that the connection can be used again.
    pub fn drain(&mut self) {
        drop(self.take_message());
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
/// request only after it has seen the end, and a reader that knows the length does not ask for it.
struct DrainAtEnd<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for DrainAtEnd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        if n > 0 {
            self.left = self.left.saturating_sub(n as u64);
            if self.left == 0 {
                // The body is complete, whatever this returns.
                let _ = self.inner.read(&mut [0]);
            }
        }
        Ok(n)
    }
}

/// `Retry-After`: seconds or a date (RFC 9110 §10.2.3). Never more than [`LONGEST_WAIT`].
fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = rfc2822::parse(text).ok()?.timestamp();
            // A date that has passed means now.
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
}
