//! Bytes → [`Request`]; [`Answer`] → bytes.
//!
//! Requests are read under our own limits, and only the head of an answer is printed by tiny_http:
//! its server can be made to abort by one request, and its copying ends a broken body with a clean
//! end mark, so that a cut file looks whole (both measured with 0.12).

#[cfg(any(test, fuzzing))]
#[path = "../../tests/fuzz/properties/request_heads.rs"]
pub mod fuzz;

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tiny_http::{HTTPVersion, Header, Response};

use super::connections::{Further, Seat};
use crate::blob::Verified;
use crate::error::{Error, Result};
use crate::memory::Bytes;
use crate::task;

/// Largest head of a request.
const MAX_HEAD: usize = 16 << 10;
/// Most headers in it.
const MAX_HEADERS: usize = 64;
/// From the first byte we wait for to the end of the head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that takes nothing for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest that a client we refused is listened to, so that it reads why.
const LINGER: Duration = Duration::from_millis(500);
/// Most bytes that it may say meanwhile.
const MAX_UNHEARD: usize = 1 << 20;
/// Piece by which a blob is passed on.
const BUFFER: usize = 64 << 10;
/// What a page may do beyond being read: nothing. That it needs no more is to be seen in `html.rs`.
const PAGE_POLICY: &str =
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Longest `X-Reason`. What registries say is in it, and clients have limits too.
const MAX_REASON: usize = 1000;

/// What a client asks.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// `GET`, `HEAD`, or whatever it sent.
    pub method: String,
    /// The target of the request line: path and query.
    pub target: String,
    /// What the client calls us, as it wrote it: `localhost:5001`. `None` if it does not say.
    pub host: Option<String>,
    /// The address of ours that it is connected to.
    pub local: Option<IpAddr>,
    /// A browser asks, for a page from another site that its visitor has not left for ours.
    pub is_cross_site: bool,
    /// `Accept` names `text/html`: a person with a browser.
    pub wants_html: bool,
    /// The `x` of HTTP/1.x.
    minor: u8,
    /// Another request may follow on the connection.
    keeps_alive: bool,
    /// A body follows, which nobody reads.
    pub has_body: bool,
}

/// What it gets.
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Headers but for those about the body's length.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Body,
}

/// The body of an answer. Its length is always known.
pub enum Body {
    /// All of it.
    Bytes(Vec<u8>),
    /// All of it, which others get, too.
    Shared(Bytes),
    /// A blob to come.
    Blob(Box<Blob>),
    /// The size alone, for HEAD.
    SizeOnly(u64),
}

/// A blob of which the first piece is there: what fails until then has a status and a reason, and the client
/// has no part of a file that it would have to get rid of.
pub struct Blob {
    rest: Verified<Box<dyn Read + Send>>,
    size: u64,
    buffer: Vec<u8>,
    /// How much of the buffer is to be sent next.
    filled: usize,
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
        })
    }

    /// Sends all of it.
    fn send(mut self, stream: &mut impl Write) -> Result<(), Interrupted> {
        while self.filled > 0 {
            stream
                .write_all(&self.buffer[..self.filled])
                .map_err(Interrupted::Client)?;
            self.filled = self.rest.fill(&mut self.buffer).map_err(interrupted)?;
        }
        Ok(())
    }
}

/// Why an answer was not sent whole.
#[derive(Debug)]
pub enum Interrupted {
    /// The client went away, or took nothing for too long.
    Client(io::Error),
    /// The body could not be had.
    Body(Error),
}

impl Request {
    /// Is only the head of the answer wanted?
    pub fn is_head(&self) -> bool {
        self.method == "HEAD"
    }
}

impl Answer {
    /// A good answer.
    pub fn new(media_type: &'static str, body: Body) -> Self {
        Self {
            status: 200,
            headers: vec![("Content-Type", media_type.to_owned())],
            body,
        }
    }

    /// An answer that is at hand.
    pub fn bytes(media_type: &'static str, bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(media_type, Body::Bytes(bytes.into()))
    }

    /// An answer that is at hand for more than one client.
    pub fn shared(media_type: &'static str, bytes: Bytes) -> Self {
        Self::new(media_type, Body::Shared(bytes))
    }

    /// A page for people.
    pub fn page(html: Bytes) -> Self {
        let mut answer = Self::shared("text/html; charset=utf-8", html);
        answer
            .headers
            .push(("Content-Security-Policy", PAGE_POLICY.to_owned()));
        answer
    }

    /// An answer without a body.
    pub fn empty(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Body::Bytes(Vec::new()),
        }
    }

    /// An error: no body, for systemd 262 keeps one as a partial download; the reason in a header.
    pub fn error(error: &Error) -> Self {
        let mut answer = Self::empty(error.status());
        answer
            .headers
            .push(("X-Reason", header_text(&error.line())));
        if let Some(wait) = error.retry_after() {
            answer
                .headers
                .push(("Retry-After", wait.as_secs().max(1).to_string()));
        }
        if matches!(error, Error::MethodNotAllowed { .. }) {
            answer.headers.push(("Allow", "GET, HEAD".to_owned()));
        }
        answer
    }

    fn size(&self) -> u64 {
        match &self.body {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::Shared(bytes) => (**bytes).as_ref().len() as u64,
            Body::Blob(blob) => blob.size,
            Body::SizeOnly(size) => *size,
        }
    }
}

/// A client's connection.
#[derive(Clone)]
pub struct Connection {
    stream: Arc<TcpStream>,
    /// What came and is not used yet; the beginning of the next request, when a client is in a hurry.
    received: Vec<u8>,
}

impl Connection {
    /// A connection just accepted.
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

    /// What the calling thread does from now on is for this client.
    pub fn take_over(&self) {
        task::work_for(&self.stream);
    }

    /// The next request; `None` when the client closed the connection, said nothing for too long, or was sent
    /// away. The seat is told when it is there.
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
                // Nobody who asks us has anything to tell.
                if request.has_body && matches!(request.method.as_str(), "GET" | "HEAD") {
                    let why = "a request here has no body".to_owned();
                    return Err(Error::BadRequest { status: 413, why });
                }
                return Ok(Some(request));
            }
            if self.received.len() >= MAX_HEAD {
                let why = format!("the head is longer than {MAX_HEAD} bytes");
                return Err(Error::BadRequest { status: 431, why });
            }
            match self.receive(deadline) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if is_timeout(&error) && self.received.is_empty() => return Ok(None),
                Err(error) if is_timeout(&error) => {
                    let why = format!(
                        "the head did not arrive within {} s",
                        HEAD_TIMEOUT.as_secs()
                    );
                    return Err(Error::BadRequest { status: 408, why });
                }
                Err(_) => return Ok(None),
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

    /// Sends an answer. True when the client may ask again on this connection.
    pub fn answer(&mut self, request: &Request, answer: Answer) -> Result<bool, Interrupted> {
        let keeps_alive = request.keeps_alive && !request.has_body;
        write_answer(&mut &*self.stream, request, answer, keeps_alive)?;
        Ok(keeps_alive)
    }

    /// Tells a client why it is not served.
    pub fn refuse(&mut self, error: &Error) {
        self.tell(error);
    }

    /// The same without waiting for anything: for a client that there is no thread for.
    pub fn turn_away(&mut self, error: &Error) {
        if self.stream.set_nonblocking(true).is_ok() {
            let _ = (&*self.stream).read(&mut [0; MAX_HEAD]); // what there is of a request, most often all
            self.tell(error);
            let _ = self.stream.set_nonblocking(false);
        }
    }

    /// Ends the conversation, and listens for a moment more: closing with bytes unread resets the
    /// connection, and the reset can overtake the answer.
    pub fn linger(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
        let deadline = Instant::now() + LINGER;
        let mut unheard = 0;
        while unheard < MAX_UNHEARD {
            self.received.clear();
            match self.receive(deadline) {
                Ok(0) | Err(_) => return,
                Ok(n) => unheard += n,
            }
        }
    }

    fn tell(&mut self, error: &Error) {
        let request = Request {
            method: String::new(),
            target: String::new(),
            host: None,
            local: None,
            is_cross_site: false,
            wants_html: false,
            minor: 1,
            keeps_alive: false,
            has_body: false,
        };
        // A client that went away need not be told.
        let _ = write_answer(&mut &*self.stream, &request, Answer::error(error), false);
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// Reads a request's head, if it is there to its end, and says how many bytes it has.
fn parse_head(bytes: &[u8]) -> Result<Option<(Request, usize)>> {
    let bad = |status, why: &str| Error::BadRequest {
        status,
        why: why.to_owned(),
    };
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let length = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(bad(431, &format!("more than {MAX_HEADERS} headers")));
        }
        Err(httparse::Error::Version) => return Err(bad(400, "not HTTP/1.0 or HTTP/1.1")),
        Err(error) => return Err(bad(400, &error.to_string())),
    };
    let (Some(method), Some(target), Some(minor)) = (head.method, head.path, head.version) else {
        return Ok(None);
    };
    let named = |name: &'static str| {
        head.headers
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value)
    };
    let has_word = |name, word: &str| {
        named(name).any(|value| {
            let mut words = value
                .split(|b| matches!(b, b',' | b';'))
                .map(<[u8]>::trim_ascii);
            words.any(|found| found.eq_ignore_ascii_case(word.as_bytes()))
        })
    };
    let has_body = named("Transfer-Encoding").next().is_some()
        || named("Content-Length").any(|length| length.trim_ascii() != b"0");
    let mut hosts = named("Host").map(|host| String::from_utf8_lossy(host).trim().to_owned());
    let (host, another) = (hosts.next(), hosts.next());
    if another.is_some() {
        // RFC 9112 §3.2: who looks at the first and who at the last would not be of one mind.
        return Err(bad(400, "more than one Host"));
    }
    let (authority, target) = origin_form(target);
    if authority.is_some_and(str::is_empty) {
        return Err(bad(400, "the target has a scheme and no host"));
    }
    let host = authority.map(str::to_owned).or(host);
    let host = host.filter(|host| !host.is_empty());
    let request = Request {
        method: method.to_owned(),
        target: target.to_owned(),
        host,
        local: None,
        is_cross_site: has_word("Sec-Fetch-Site", "cross-site")
            && !(has_word("Sec-Fetch-Mode", "navigate") && has_word("Sec-Fetch-Dest", "document")),
        wants_html: has_word("Accept", "text/html"),
        minor,
        keeps_alive: minor == 1 && !has_word("Connection", "close"),
        has_body,
    };
    Ok(Some((request, length)))
}

/// The target apart from scheme and authority, which clients send when they take us for a proxy. The
/// authority counts instead of the Host then (RFC 9112 §3.2.2).
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

fn write_answer(
    stream: &mut impl Write,
    request: &Request,
    answer: Answer,
    keeps_alive: bool,
) -> Result<(), Interrupted> {
    let head = head(request, &answer, keeps_alive);
    match answer.body {
        Body::Bytes(body) if !request.is_head() => write_whole(stream, head, &body),
        Body::Shared(body) if !request.is_head() => write_whole(stream, head, (*body).as_ref()),
        Body::Bytes(_) | Body::Shared(_) | Body::SizeOnly(_) => write_whole(stream, head, &[]),
        Body::Blob(blob) => {
            write_whole(stream, head, &[])?;
            blob.send(stream)
        }
    }
}

/// A head and what is at hand of a body: one packet where that is enough, and no copy of a large one.
fn write_whole(stream: &mut impl Write, mut head: Vec<u8>, body: &[u8]) -> Result<(), Interrupted> {
    let written = if body.len() <= BUFFER {
        head.extend_from_slice(body);
        stream.write_all(&head)
    } else {
        stream
            .write_all(&head)
            .and_then(|()| stream.write_all(body))
    };
    written.map_err(Interrupted::Client)
}

/// The head of an answer.
fn head(request: &Request, answer: &Answer, keeps_alive: bool) -> Vec<u8> {
    let server = concat!("sysext-oci-proxy/", env!("CARGO_PKG_VERSION")).to_owned();
    // Nobody shall take a publisher's file for a page or a script, whatever it looks like.
    let nosniff = ("X-Content-Type-Options", "nosniff".to_owned());
    let headers = [("Server", server), nosniff]
        .into_iter()
        .chain(answer.headers.iter().cloned())
        // What was made out of checked parts is a header; anything else has no place in an answer.
        .filter_map(|(name, value)| Header::from_bytes(name, value).ok())
        .collect();
    // systemd's images stay far below what 32-bit machines cannot count.
    let size = usize::try_from(answer.size()).unwrap_or(usize::MAX);
    let mut head = Vec::with_capacity(512);
    Response::new(answer.status.into(), headers, io::empty(), Some(size), None)
        // Above its threshold tiny_http announces chunks instead of a length.
        .with_chunked_threshold(usize::MAX)
        // No request headers: a TE among them would make it drop the length.
        .raw_print(&mut head, HTTPVersion(1, request.minor), &[], true, None)
        .expect("a Vec takes what is written");
    if !keeps_alive {
        // tiny_http drops a Connection header it is given, and nobody may be cut off unannounced.
        head.truncate(head.len() - b"\r\n".len());
        head.extend_from_slice(b"Connection: close\r\n\r\n");
    }
    head
}

/// Whose fault it is that there is no more of a body.
fn interrupted(error: Error) -> Interrupted {
    if task::is_client_gone() {
        Interrupted::Client(task::client_gone())
    } else {
        Interrupted::Body(error)
    }
}

/// Text that is safe in a header: printable ASCII, and not too long.
fn header_text(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c == ' ' || c.is_ascii_graphic() {
                c
            } else {
                '?'
            }
        })
        .take(MAX_REASON)
        .collect()
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
            wants_html: false,
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
        assert!(
            read("GET / HTTP/1.1\nAccept: text/plain, Text/HTML;q=0.9\n\n").wants_html,
            "LF alone"
        );
        assert!(!read("GET / HTTP/1.1\r\nAccept: */*\r\n\r\n").wants_html);
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

    /// What a client receives, without the headers that vary or that every answer has.
    fn sent(method: &str, answer: Answer, keeps_alive: bool) -> String {
        let (mut request, _) = parse("GET / HTTP/1.1\r\n\r\n").unwrap().unwrap();
        request.method = method.into();
        let mut bytes = Vec::new();
        write_answer(&mut bytes, &request, answer, keeps_alive).unwrap();
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
        let answer = || Answer::bytes("text/plain", long.clone());
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
            let answer = Answer::shared("text/plain", Arc::new(vec![b'x'; size]));
            write_answer(&mut sizes, &request, answer, true).unwrap();
            assert_eq!(sizes.0.len(), writes, "{size} bytes: {:?}", sizes.0);
        }
    }

    #[test]
    fn an_error_has_a_reason_and_no_body() {
        let error = Error::NotOffered {
            what: "a\r\nX-Evil: ä".into(),
            why: "x".repeat(5000),
        };
        let text = sent("GET", Answer::error(&error), true);
        assert!(
            text.starts_with(
                "HTTP/1.1 404 Not Found\r\nX-Reason: a??X-Evil: ? is not offered: xxx"
            ),
            "{text}"
        );
        assert!(text.ends_with("x\r\nContent-Length: 0\r\n\r\n"), "{text}");
        assert!(text.len() < 1200);

        let busy = Error::Busy {
            url: "u".into(),
            status: 429,
            retry_after: Duration::from_secs(90),
        };
        assert!(sent("GET", Answer::error(&busy), true).contains("\r\nRetry-After: 90\r\n"));
        let method = Error::MethodNotAllowed {
            method: "POST".into(),
        };
        assert!(sent("POST", Answer::error(&method), true).contains("\r\nAllow: GET, HEAD\r\n"));
    }
}
