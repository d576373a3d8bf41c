//! [`Response`] → bytes.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tiny_http::{HTTPVersion, Header};

use super::Interrupted;
use super::request::{Request, entity_tag};
use crate::advice::advice;
use crate::blob::{Provenance, Verified};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::memory::{Bytes, Held, LARGE_BUFFER, LARGE_BUFFERS};
use crate::printable::{in_ascii, in_json, printable};
use crate::server::form::Form;
use crate::server::html;
use crate::server::transfer::Transfer;
use crate::task;

/// Size of the pieces in which a blob is sent, and the largest body that is sent together with its head.
const BUFFER: usize = 64 << 10;
/// A blob of which such a piece arrives in less than this gets a large buffer.
const FAST: Duration = Duration::from_millis(10);
/// The status of a response whose bytes the client has.
const NOT_MODIFIED: u16 = 304;
/// Longest `X-Reason`. It quotes registries, and clients have limits for headers.
const MAX_REASON: usize = 1000;

/// The response to a request.
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// All headers except those about the body's length.
    pub headers: Vec<(&'static str, String)>,
    pub body: Body,
    /// The file that the body is, if it is one.
    pub transfer: Option<Arc<Transfer>>,
}

/// The body of a response. Its length is always known.
pub enum Body {
    /// The whole body, perhaps shared with other responses.
    Bytes(Bytes),
    /// A blob that arrives while it is sent.
    Blob(Box<Blob>),
    /// Only the size, for HEAD.
    SizeOnly(u64),
}

/// A blob of which the first piece has arrived: a failure until then has a status and a reason, and the client
/// has no partial file to remove.
pub struct Blob {
    rest: Verified<Box<dyn Read + Send>>,
    size: u64,
    buffer: Vec<u8>,
    /// How many bytes of the buffer are sent next.
    filled: usize,
    /// The last piece arrived fast, so a larger one may be worth its memory.
    is_fast: bool,
    /// The memory of the buffer, if it is a large one.
    large: Option<Held>,
}

impl Blob {
    /// Waits for the first piece of a blob of this size.
    pub fn begin(mut rest: Verified<Box<dyn Read + Send>>, size: u64) -> Result<Self> {
        let mut buffer = vec![0; BUFFER.min(usize::try_from(size).unwrap_or(BUFFER))];
        let filled = rest.fill(&mut buffer)?;
        Ok(Self {
            rest,
            size,
            buffer,
            filled,
            is_fast: false,
            large: None,
        })
    }

    /// Waits for the next piece.
    fn refill(&mut self) -> Result<()> {
        if self.is_fast && self.large.is_none() && self.size >= LARGE_BUFFER as u64 {
            self.large = LARGE_BUFFERS.take(LARGE_BUFFER);
            if self.large.is_some() {
                self.buffer = vec![0; LARGE_BUFFER];
            }
        }
        let begun = Instant::now();
        self.filled = self.rest.fill(&mut self.buffer)?;
        self.is_fast = self.filled == self.buffer.len() && begun.elapsed() < FAST;
        Ok(())
    }

    /// Sends all of it, and returns where its bytes came from. `progress` gets the size of each piece.
    fn send(
        mut self,
        stream: &mut (impl Write + ?Sized),
        mut progress: impl FnMut(u64),
    ) -> Result<Option<Provenance>, Interrupted> {
        while self.filled > 0 {
            stream
                .write_all(&self.buffer[..self.filled])
                .map_err(Interrupted::Client)?;
            progress(self.filled as u64);
            self.refill().map_err(interrupted)?;
        }
        Ok(self.rest.provenance())
    }
}

impl Response {
    /// A response with status 200.
    pub fn new(media_type: &'static str, body: Body) -> Self {
        Self {
            status: 200,
            headers: vec![("Content-Type", media_type.to_owned())],
            body,
            transfer: None,
        }
    }

    /// The same with a body that is in memory, perhaps shared with other responses.
    pub fn shared(media_type: &'static str, bytes: Bytes) -> Self {
        Self::new(media_type, Body::Bytes(bytes))
    }

    /// The same with a body of its own.
    pub fn bytes(media_type: &'static str, bytes: impl Into<Vec<u8>>) -> Self {
        Self::shared(media_type, Arc::new(bytes.into()))
    }

    /// A page for people.
    pub fn page(html: Bytes) -> Self {
        let mut response = Self::shared("text/html; charset=utf-8", html);
        let policy = ("Content-Security-Policy", html::POLICY.clone());
        response.headers.push(policy);
        response
    }

    /// The same with the digest of its body in `ETag`. A redirect leads to a body that has another one.
    pub fn tagged(mut self, digest: Digest) -> Self {
        if self.status == 200 {
            self.headers.push(("ETag", entity_tag(digest)));
        }
        self
    }

    /// The response to a client that has the bytes with this digest.
    pub fn not_modified(digest: Digest) -> Self {
        Self::empty(NOT_MODIFIED, vec![("ETag", entity_tag(digest))])
    }

    /// A response without a body.
    pub fn empty(status: u16, headers: Vec<(&'static str, String)>) -> Self {
        Self {
            status,
            headers,
            body: Body::Bytes(Arc::new([])),
            transfer: None,
        }
    }

    /// An error: its reason is in a header. It has a body only for people, for systemd 262 keeps one as a partial
    /// download.
    pub fn error(error: &Error, form: Option<Form>) -> Self {
        let reason = error.line();
        let mut response = match form {
            None => Self::empty(error.status(), Vec::new()),
            Some(Form::Html) => Self::page(Arc::new(html::error(error))),
            Some(Form::Json) => Self::bytes("application/json", json(error, &reason)),
            Some(Form::Text) => {
                let line = format!("{}\n", printable(&reason));
                Self::bytes("text/plain; charset=utf-8", line)
            }
        };
        response.status = error.status();
        let headers = &mut response.headers;
        headers.push(("X-Reason", header_text(&reason)));
        headers.push(("Vary", "Accept, User-Agent".to_owned()));
        if let Some(wait) = error.retry_after() {
            headers.push(("Retry-After", wait.as_secs().max(1).to_string()));
        }
        if matches!(error, Error::MethodNotAllowed { .. }) {
            headers.push(("Allow", "GET, HEAD".to_owned()));
        }
        response
    }

    /// Writes the body.
    pub fn write_body(self, out: &mut (impl Write + ?Sized)) -> Result<(), Interrupted> {
        match self.body {
            Body::Blob(blob) => blob.send(out, |_| {}).map(drop),
            Body::Bytes(bytes) => out
                .write_all((*bytes).as_ref())
                .map_err(Interrupted::Client),
            Body::SizeOnly(_) => Ok(()),
        }
    }

    /// The size of its body, in bytes.
    pub fn size(&self) -> u64 {
        match &self.body {
            Body::Bytes(bytes) => (**bytes).as_ref().len() as u64,
            Body::Blob(blob) => blob.size,
            Body::SizeOnly(size) => *size,
        }
    }
}

pub fn write_response(
    stream: &mut impl Write,
    request: &Request,
    response: Response,
    keeps_alive: bool,
    progress: impl FnMut(u64),
) -> Result<Option<Provenance>, Interrupted> {
    let mut head = head(request, &response, keeps_alive);
    let body = match &response.body {
        Body::Bytes(body) if !request.is_head() => (**body).as_ref(),
        _ => &[],
    };
    // One packet where that is enough, and no copy of a large body.
    let (first, rest) = if body.len() <= BUFFER {
        head.extend_from_slice(body);
        (head, &[][..])
    } else {
        (head, body)
    };
    stream
        .write_all(&first)
        .and_then(|()| stream.write_all(rest))
        .map_err(Interrupted::Client)?;
    match response.body {
        Body::Blob(blob) => blob.send(stream, progress),
        Body::Bytes(_) | Body::SizeOnly(_) => Ok(None),
    }
}

/// The head of a response.
pub fn head(request: &Request, response: &Response, keeps_alive: bool) -> Vec<u8> {
    let server = concat!("sysext-oci-proxy/", env!("CARGO_PKG_VERSION")).to_owned();
    // No browser may take a publisher's file for a page or a script.
    let nosniff = ("X-Content-Type-Options", "nosniff".to_owned());
    let headers = [("Server", server), nosniff]
        .into_iter()
        .chain(response.headers.iter().cloned())
        // A header that cannot be written is left out.
        .filter_map(|(name, value)| Header::from_bytes(name, value).ok())
        .collect();
    // Only 32-bit machines cannot count a size, and no image is that large.
    let size = usize::try_from(response.size()).unwrap_or(usize::MAX);
    let mut head = Vec::with_capacity(512);
    tiny_http::Response::new(
        response.status.into(),
        headers,
        io::empty(),
        Some(size),
        None,
    )
    // Above its threshold tiny_http announces chunks instead of a length.
    .with_chunked_threshold(usize::MAX)
    // No request headers: a TE among them would make it drop the length.
    .raw_print(&mut head, HTTPVersion(1, request.minor), &[], true, None)
    .expect("a Vec takes what is written");
    if response.status == NOT_MODIFIED {
        // tiny_http writes the length last, and here it would be the length of the body that is not sent (RFC 9110 §8.6).
        let length = format!("Content-Length: {size}\r\n\r\n");
        head.truncate(head.len() - length.len());
        head.extend_from_slice(b"\r\n");
    }
    if !keeps_alive {
        // tiny_http drops a Connection header, and a connection is not closed unannounced.
        head.truncate(head.len() - b"\r\n".len());
        head.extend_from_slice(b"Connection: close\r\n\r\n");
    }
    head
}

/// Why a body ended early: a client that is gone makes the source fail, too.
fn interrupted(error: Error) -> Interrupted {
    if task::is_client_gone() {
        Interrupted::Client(task::client_gone())
    } else {
        Interrupted::Body(error)
    }
}

/// An error for a program: `step` says how far the request came, `remedy` what to do, if anything can be done.
fn json(error: &Error, reason: &str) -> String {
    let (step, remedy) = advice(error);
    let status = error.status();
    let json = json!({ "status": status, "step": step, "reason": reason, "remedy": remedy });
    format!("{}\n", in_json(&json.to_string()))
}

/// Text that is safe in a header: printable ASCII, and not too long.
fn header_text(text: &str) -> String {
    let mut safe = in_ascii(text).into_owned();
    safe.truncate(MAX_REASON);
    safe
}

#[cfg(test)]
mod tests {
    use super::super::request::parse_head;
    use super::*;

    #[test]
    fn a_response_without_new_bytes_has_neither_body_nor_length() {
        let digest = Digest::of(b"");
        for (keeps_alive, close) in [(true, ""), (false, "Connection: close\r\n")] {
            let expected =
                format!("HTTP/1.1 304 Not Modified\r\nETag: \"{digest}\"\r\n{close}\r\n");
            assert_eq!(
                sent("GET", Response::not_modified(digest), keeps_alive),
                expected
            );
        }
    }

    /// The bytes that a client receives, without the headers that vary or that every answer has.
    fn sent(method: &str, response: Response, keeps_alive: bool) -> String {
        let (mut request, _) = parse_head(b"GET / HTTP/1.1\r\n\r\n").unwrap().unwrap();
        request.method = method.into();
        let mut bytes = Vec::new();
        write_response(&mut bytes, &request, response, keeps_alive, |_| {}).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let varies = |line: &&str| {
            let of_all = ["Date: ", "Server: ", "X-Content-Type-Options: nosniff\r\n"];
            !of_all.iter().any(|start| line.starts_with(start))
        };
        text.split_inclusive("\r\n").filter(varies).collect()
    }

    #[test]
    fn an_answer_has_its_length_however_long() {
        let long = "x".repeat(100_000);
        let expected = |body: &str, close: &str| {
            format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100000\r\n{close}\r\n{body}"
            )
        };
        let answer = || Response::bytes("text/plain", long.clone());
        assert_eq!(sent("GET", answer(), true), expected(&long, ""));
        assert_eq!(
            sent("GET", answer(), false),
            expected(&long, "Connection: close\r\n")
        );
        assert_eq!(sent("HEAD", answer(), true), expected("", ""));
    }

    #[test]
    fn an_answer_is_one_packet_where_that_is_enough_and_never_copied_where_not() {
        struct Sizes(Vec<usize>);
        impl Write for Sizes {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.push(bytes.len());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (request, _) = parse_head(b"GET / HTTP/1.1\r\n\r\n").unwrap().unwrap();
        for (size, writes) in [(0, 1), (100, 1), (BUFFER, 1), (BUFFER + 1, 2)] {
            let mut sizes = Sizes(Vec::new());
            let response = Response::shared("text/plain", Arc::new(vec![b'x'; size]));
            write_response(&mut sizes, &request, response, true, |_| {}).unwrap();
            assert_eq!(sizes.0.len(), writes, "{size} bytes: {:?}", sizes.0);
        }
    }

    #[test]
    fn an_error_has_a_reason_and_no_body() {
        let error = Error::NotOffered {
            what: "a\r\nX-Evil: ä".into(),
            why: "x".repeat(5000),
        };
        let text = sent("GET", Response::error(&error, None), true);
        assert!(
            text.starts_with(
                "HTTP/1.1 404 Not Found\r\nX-Reason: a\\r\\nX-Evil: \\u{e4} is not offered: xxx"
            ),
            "{text}"
        );
        let end = "x\r\nVary: Accept, User-Agent\r\nContent-Length: 0\r\n\r\n";
        assert!(text.ends_with(end), "{text}");
        assert!(text.len() < 1200);

        let busy = Error::Busy {
            url: "u".into(),
            status: 429,
            retry_after: Duration::from_secs(90),
        };
        assert!(
            sent("GET", Response::error(&busy, None), true).contains("\r\nRetry-After: 90\r\n")
        );
        let method = Error::MethodNotAllowed {
            method: "POST".into(),
        };
        assert!(
            sent("POST", Response::error(&method, None), true).contains("\r\nAllow: GET, HEAD\r\n")
        );
    }
}
