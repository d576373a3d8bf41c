//! Bytes → [`Request`]; [`Response`] → bytes.
//!
//! Requests are read under limits of our own, and tiny_http writes only the head of a response: one request can
//! abort its server, and it ends a broken body with a clean end mark, so that a cut file looks whole (both measured
//! with 0.12).

#[cfg(any(test, fuzzing))]
#[path = "../../tests/fuzz/properties/request_heads.rs"]
pub mod fuzz;

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tiny_http::{HTTPVersion, Header};

use super::connections::{Further, Seat};
use super::form::Form;
use super::html;
use super::transfer::Transfer;
use crate::advice::advice;
use crate::blob::Verified;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::memory::{Bytes, Held, LARGE_BUFFER, LARGE_BUFFERS};
use crate::printable::{in_ascii, in_json, printable};
use crate::source::Origins;
use crate::task;

/// Largest head of a request, in bytes.
const MAX_HEAD: usize = 16 << 10;
/// Most headers in it.
const MAX_HEADERS: usize = 64;
/// Longest wait for the end of a head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that reads no byte for this time counts as disconnected.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time that the rest of a refused request is read and dropped.
const LINGER: Duration = Duration::from_millis(500);
/// Most bytes that are dropped meanwhile.
const MAX_DROPPED: usize = 1 << 20;
/// Size of the pieces in which a blob is sent, and the largest body that is sent together with its head.
const BUFFER: usize = 64 << 10;
/// The status of a response whose bytes the client has.
const NOT_MODIFIED: u16 = 304;
/// Longest `X-Reason`. It quotes registries, and clients have limits for headers.
const MAX_REASON: usize = 1000;

/// The head of a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// `GET`, `HEAD`, or whatever the client sent.
    pub method: String,
    /// The target of the request line: path and query.
    pub target: String,
    /// The host in the target, else in the `Host` header: `localhost:5001`.
    pub host: Option<String>,
    /// The local address of the connection.
    pub local: Option<IpAddr>,
    /// A browser asks for a page of another site, and its user did not follow a link to here.
    pub is_cross_site: bool,
    /// The form in which the client reads pages and errors, if it is for a person.
    pub form: Option<Form>,
    /// `If-None-Match`: the versions that the client has, as `ETag` named them.
    none_match: String,
    /// The `x` of HTTP/1.x.
    minor: u8,
    /// Another request may follow on the connection.
    keeps_alive: bool,
    /// A body follows, which nobody reads.
    pub has_body: bool,
}

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
    /// The memory of the buffer, if it is a large one.
    _held: Option<Held>,
}

impl Blob {
    /// Waits for the first piece of a blob of this size.
    pub fn begin(mut rest: Verified<Box<dyn Read + Send>>, size: u64) -> Result<Self> {
        let is_large = size >= LARGE_BUFFER as u64;
        let held = is_large.then(|| LARGE_BUFFERS.take(LARGE_BUFFER)).flatten();
        let piece = held.as_ref().map_or(BUFFER, |_| LARGE_BUFFER);
        let mut buffer = vec![0; piece.min(usize::try_from(size).unwrap_or(piece))];
        // The first piece is a small one: the client waits for it.
        let first = buffer.len().min(BUFFER);
        let filled = rest.fill(&mut buffer[..first])?;
        Ok(Self {
            rest,
            size,
            buffer,
            filled,
            _held: held,
        })
    }

    /// Sends all of it, and returns where its bytes came from. `progress` gets the size of each piece.
    fn send(
        mut self,
        stream: &mut (impl Write + ?Sized),
        mut progress: impl FnMut(u64),
    ) -> Result<Option<Origins>, Interrupted> {
        while self.filled > 0 {
            stream
                .write_all(&self.buffer[..self.filled])
                .map_err(Interrupted::Client)?;
            progress(self.filled as u64);
            self.filled = self.rest.fill(&mut self.buffer).map_err(interrupted)?;
        }
        Ok(self.rest.origins().cloned())
    }
}

/// A response that was sent whole.
pub struct Answered {
    /// The client may ask again on this connection.
    pub keeps_alive: bool,
    /// Where the bytes of a blob came from; `None`: they are kept here.
    pub origins: Option<Origins>,
}

/// Why a response was not sent whole.
#[derive(Debug)]
pub enum Interrupted {
    /// The client went away, or took nothing for too long.
    Client(io::Error),
    /// The rest of the body did not arrive.
    Body(Error),
}

impl Request {
    /// The GET of a command that asks in this process.
    pub fn of_command(target: String) -> Self {
        Self {
            method: "GET".to_owned(),
            target,
            form: Some(Form::Json),
            ..Self::default()
        }
    }

    /// Whether the response is only a head.
    pub fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// Whether the client has the bytes with this digest (RFC 9110 §13.1.2). A proxy on the way may have made the tag weak.
    pub fn has_already(&self, digest: Digest) -> bool {
        let own = entity_tag(digest);
        let mut tags = self.none_match.split(',').map(str::trim);
        tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == own)
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

/// A client's connection.
#[derive(Clone)]
pub struct Connection {
    stream: Arc<TcpStream>,
    /// Bytes received and not used yet; they may begin the next request.
    received: Vec<u8>,
}

impl Connection {
    /// A connection that was just accepted.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        Ok(Self {
            stream: Arc::new(stream),
            received: Vec::new(),
        })
    }

    /// Its socket.
    pub fn socket(&self) -> &Arc<TcpStream> {
        &self.stream
    }

    /// Makes this the client that the calling thread works for.
    pub fn take_over(&self) {
        task::work_for(&self.stream);
    }

    /// The next request; `None` when the client closed the connection, sent nothing for too long, or was sent
    /// away. The seat is told when the request is there.
    pub fn request(&mut self, seat: &Seat) -> Result<Option<Request>> {
        let deadline = Instant::now() + HEAD_TIMEOUT;
        loop {
            if let Some((mut request, length)) = parse_head(&self.received)? {
                match seat.answer(format!("{} {}", request.method, request.target)) {
                    Further::Possible => {}
                    Further::None => request.keeps_alive = false,
                    Further::Deaf => {
                        request.keeps_alive = false;
                        task::work_for_nobody();
                    }
                }
                request.local = self.stream.local_addr().ok().map(|address| address.ip());
                self.received.drain(..length);
                if request.has_body && matches!(request.method.as_str(), "GET" | "HEAD") {
                    return Err(bad(413, "a request here has no body"));
                }
                return Ok(Some(request));
            }
            if self.received.len() >= MAX_HEAD {
                return Err(bad(
                    431,
                    format!("the head is longer than {MAX_HEAD} bytes"),
                ));
            }
            match self.receive(deadline) {
                Ok(1..) => {}
                Err(error) if is_timeout(&error) && !self.received.is_empty() => {
                    let limit = HEAD_TIMEOUT.as_secs();
                    return Err(bad(
                        408,
                        format!("the head did not arrive within {limit} s"),
                    ));
                }
                Ok(0) | Err(_) => return Ok(None),
            }
        }
    }

    fn receive(&mut self, deadline: Instant) -> io::Result<usize> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let filled = self.received.len();
        self.received.resize(MAX_HEAD, 0);
        let result = (&*self.stream).read(&mut self.received[filled..]);
        self.received
            .truncate(filled + result.as_ref().map_or(0, |n| *n));
        match result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.receive(deadline),
            result => result,
        }
    }

    /// Sends a response. `progress` gets the size of each piece of a blob.
    pub fn answer(
        &mut self,
        request: &Request,
        response: Response,
        progress: impl FnMut(u64),
    ) -> Result<Answered, Interrupted> {
        let keeps_alive = request.keeps_alive && !request.has_body;
        let stream = &mut &*self.stream;
        let origins = write_response(stream, request, response, keeps_alive, progress)?;
        Ok(Answered {
            keeps_alive,
            origins,
        })
    }

    /// Sends an error to a client that is not served.
    pub fn refuse(&mut self, error: &Error) {
        let request = Request {
            minor: 1,
            ..Request::default()
        };
        self.send_error(&request, error);
    }

    fn send_error(&mut self, request: &Request, error: &Error) {
        let response = Response::error(error, request.form);
        // If the client is gone, nobody reads it.
        let _ = write_response(&mut &*self.stream, request, response, false, |_| {});
    }

    /// The same without waiting for the client, which has no thread.
    pub fn turn_away(&mut self, error: &Error) {
        if self.stream.set_nonblocking(true).is_ok() {
            let mut received = [0; MAX_HEAD];
            let n = (&*self.stream).read(&mut received).unwrap_or_default();
            // Most often it is the whole request.
            match parse_head(&received[..n]) {
                Ok(Some((request, _))) => self.send_error(&request, error),
                _ => self.refuse(error),
            }
            let _ = self.stream.set_nonblocking(false);
        }
    }

    /// Ends the sending half and reads for a moment more: closing with bytes unread resets the connection, and
    /// the reset can overtake the response.
    pub fn linger(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
        let deadline = Instant::now() + LINGER;
        let mut dropped = 0;
        while dropped < MAX_DROPPED {
            self.received.clear();
            match self.receive(deadline) {
                Ok(0) | Err(_) => return,
                Ok(n) => dropped += n,
            }
        }
    }
}

/// A digest as a strong entity tag: the same digest, the same bytes.
fn entity_tag(digest: Digest) -> String {
    format!("\"{digest}\"")
}

fn bad(status: u16, why: impl Into<String>) -> Error {
    let why = why.into();
    Error::BadRequest { status, why }
}

/// Whether something took too long.
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// Parses the head of a request, if it has arrived whole, and says how many bytes it has.
fn parse_head(bytes: &[u8]) -> Result<Option<(Request, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let length = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(bad(431, format!("more than {MAX_HEADERS} headers")));
        }
        Err(httparse::Error::Version) => return Err(bad(400, "not HTTP/1.0 or HTTP/1.1")),
        Err(error) => return Err(bad(400, error.to_string())),
    };
    let (Some(method), Some(target), Some(minor)) = (head.method, head.path, head.version) else {
        return Ok(None);
    };
    let (authority, target) = origin_form(target);
    let named = |name| values(head.headers, name);
    let has_word = |name, word: &str| {
        let mut words = named(name).flat_map(|value| value.split(|b| matches!(b, b',' | b';')));
        words.any(|found| found.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
    };
    let request = Request {
        method: method.to_owned(),
        target: target.to_owned(),
        host: host(authority, named("Host"))?,
        local: None,
        is_cross_site: has_word("Sec-Fetch-Site", "cross-site")
            && !(has_word("Sec-Fetch-Mode", "navigate") && has_word("Sec-Fetch-Dest", "document")),
        form: Form::wanted(named("Accept"), named("User-Agent").next()),
        none_match: String::from_utf8_lossy(
            &named("If-None-Match").collect::<Vec<_>>().join(&b','),
        )
        .into_owned(),
        minor,
        keeps_alive: minor == 1 && !has_word("Connection", "close"),
        has_body: named("Transfer-Encoding").next().is_some()
            || named("Content-Length").any(|length| length.trim_ascii() != b"0"),
    };
    Ok(Some((request, length)))
}

/// The values of the headers of this name.
fn values<'a>(
    headers: &'a [httparse::Header<'_>],
    name: &'static str,
) -> impl Iterator<Item = &'a [u8]> {
    let named = headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name));
    named.map(|header| header.value)
}

/// The host that the client asks, from the target if that has one, else from the `Host` header.
fn host<'a>(
    authority: Option<&str>,
    mut hosts: impl Iterator<Item = &'a [u8]>,
) -> Result<Option<String>> {
    let host = hosts.next().map(String::from_utf8_lossy);
    if hosts.next().is_some() {
        // RFC 9112 §3.2: some would read the first and some the last.
        return Err(bad(400, "more than one Host"));
    }
    if authority == Some("") {
        return Err(bad(400, "the target has a scheme and no host"));
    }
    let host = authority
        .or(host.as_deref())
        .map(|host| host.trim().to_owned());
    Ok(host.filter(|host| !host.is_empty()))
}

/// Splits the authority from a target that has one, as clients send to a proxy. It counts instead of the Host
/// (RFC 9112 §3.2.2).
fn origin_form(target: &str) -> (Option<&str>, &str) {
    let Some(rest) = target.strip_prefix("http://") else {
        return (None, target);
    };
    let (authority, target) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    (
        Some(authority),
        if target.is_empty() { "/" } else { target },
    )
}

fn write_response(
    stream: &mut impl Write,
    request: &Request,
    response: Response,
    keeps_alive: bool,
    progress: impl FnMut(u64),
) -> Result<Option<Origins>, Interrupted> {
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
fn head(request: &Request, response: &Response, keeps_alive: bool) -> Vec<u8> {
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
    use super::*;

    fn parse(head: &str) -> Result<Option<(Request, usize)>> {
        parse_head(head.as_bytes())
    }

    #[test]
    fn a_head_is_read_when_it_is_whole() {
        let head = "GET /k8s/SHA256SUMS HTTP/1.1\r\nHost: localhost:5001\r\nAccept: */*\r\n\r\n";
        for end in 0..head.len() {
            assert_eq!(parse(&head[..end]).unwrap(), None, "{:?}", &head[..end]);
        }
        let expected = Request {
            method: "GET".into(),
            target: "/k8s/SHA256SUMS".into(),
            host: Some("localhost:5001".into()),
            local: None,
            is_cross_site: false,
            form: None,
            none_match: String::new(),
            minor: 1,
            keeps_alive: true,
            has_body: false,
        };
        assert_eq!(
            parse(&format!("{head}GET /next")).unwrap(),
            Some((expected, head.len()))
        );
    }

    #[test]
    fn what_the_headers_say_counts() {
        let read = |head: &str| parse(head).unwrap().unwrap().0;
        let form = |head: &str| read(head).form;
        let browser = "GET / HTTP/1.1\nAccept: image/png\nAccept: */*, Text/HTML;q=0.9\n\n";
        assert_eq!(form(browser), Some(Form::Html), "LF alone");
        let curl = "GET / HTTP/1.1\r\nAccept: */*\r\nUser-Agent: curl/8\r\n\r\n";
        assert_eq!(form(curl), Some(Form::Text));
        assert!(!read("GET / HTTP/1.1\r\nConnection: Close\r\n\r\n").keeps_alive);
        assert!(!read("GET / HTTP/1.0\r\n\r\n").keeps_alive);
        assert!(read("GET / HTTP/1.1\r\nContent-Length: 1000000000000000\r\n\r\n").has_body);
        assert!(read("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n").has_body);
        assert!(!read("GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n").has_body);
        assert_eq!(
            read("GET http://localhost:5001/a/b HTTP/1.1\r\n\r\n").target,
            "/a/b"
        );
        assert_eq!(
            read("GET http://localhost:5001 HTTP/1.1\r\n\r\n").target,
            "/"
        );
    }

    #[test]
    fn a_client_names_the_bytes_that_it_has() {
        let digest = Digest::of(b"");
        let own = format!("\"{digest}\"");
        let other = format!("\"{}\"", Digest::of(b"x"));
        for (values, expected, why) in [
            (vec![own.clone()], true, "ours"),
            (vec![format!("{other}, {own}")], true, "one of several"),
            (
                vec![other.clone(), own.clone()],
                true,
                "headers of the same name are one list",
            ),
            (vec![format!("W/{own}")], true, "the comparison is weak"),
            (vec!["*".into()], true, "any"),
            (vec![], false, "no such header"),
            (vec![String::new()], false, "empty"),
            (vec![other], false, "another"),
            (vec![digest.to_string()], false, "a tag is quoted"),
            (
                vec![format!("\"{}\"", digest.hex())],
                false,
                "a part of ours",
            ),
        ] {
            let header = |value| format!("If-None-Match: {value}\n");
            let headers: String = values.into_iter().map(header).collect();
            let (request, _) = parse(&format!("GET / HTTP/1.1\n{headers}\n"))
                .unwrap()
                .unwrap();
            assert_eq!(request.has_already(digest), expected, "{why}");
        }
    }

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

    #[test]
    fn a_name_of_ours_is_in_the_target_or_in_the_host() {
        let host = |head: &str| parse(head).unwrap().unwrap().0.host;
        let both = "GET http://evil:80/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
        assert_eq!(host(both).as_deref(), Some("evil:80"));
        assert_eq!(
            host("GET http://evil HTTP/1.1\n\n").as_deref(),
            Some("evil")
        );
        assert_eq!(
            host("GET / HTTP/1.1\nHost:  a b \n\n").as_deref(),
            Some("a b")
        );
        assert_eq!(host("GET / HTTP/1.1\nHost:\n\n"), None);
        assert_eq!(host("GET / HTTP/1.0\n\n"), None);
        let two = "GET / HTTP/1.1\nHost: localhost\nHost: localhost\n\n";
        assert_eq!(parse(two).unwrap_err().status(), 400);
    }

    #[test]
    fn a_page_elsewhere_may_link_here_and_no_more() {
        for (headers, is_cross_site, why) in [
            ("", false, "no browser"),
            ("Sec-Fetch-Site: none\n", false, "typed by its user"),
            ("Sec-Fetch-Site: same-origin\n", false, "our own page"),
            ("Sec-Fetch-Site: cross-site\n", true, "a script"),
            (
                "Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: no-cors\nSec-Fetch-Dest: image\n",
                true,
                "an image",
            ),
            (
                "Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: iframe\n",
                true,
                "a frame",
            ),
            (
                "Sec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: document\n",
                false,
                "a link that was followed",
            ),
        ] {
            let head = format!("GET / HTTP/1.1\n{headers}\n");
            assert_eq!(
                parse(&head).unwrap().unwrap().0.is_cross_site,
                is_cross_site,
                "{why}"
            );
        }
    }

    #[test]
    fn what_is_no_request_has_its_status() {
        let many = "X: y\r\n".repeat(MAX_HEADERS + 1);
        for (head, status) in [
            ("GET / HTTP/2.0\r\n\r\n", 400),
            ("\x16\x03\x01\x02\x00", 400),
            ("GET\r\n\r\n", 400),
            ("GET http:///a HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
            ("GET http:// HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
            (&format!("GET / HTTP/1.1\r\n{many}\r\n"), 431),
        ] {
            assert_eq!(parse(head).unwrap_err().status(), status, "{head:?}");
        }
    }

    /// The bytes that a client receives, without the headers that vary or that every answer has.
    fn sent(method: &str, response: Response, keeps_alive: bool) -> String {
        let (mut request, _) = parse("GET / HTTP/1.1\r\n\r\n").unwrap().unwrap();
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
        let (request, _) = parse("GET / HTTP/1.1\r\n\r\n").unwrap().unwrap();
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
