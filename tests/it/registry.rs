//! A registry that can be told to misbehave.
//!
//! It serves what it holds as docker-registry does (a manifest is 404 unless `Accept` names its
//! exact type). Every way to misbehave is a [`Fault`], set for the requests that contain a text:
//!
//! ```ignore
//! registry.fault("GET /v2/hello/manifests/v2", Fault::Status(500));
//! ```
//!
//! Several can stand on one machine and play several: 127.0.0.2 is another host than 127.0.0.1.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::content::{OCI_INDEX, Repository, versions};
use crate::request::Request;
use crate::rounds::Rounds;
use crate::tls::Authority;

/// The first request for a listing of a repository that is not known yet, here `hello`.
pub const IS_IT_SIGNED: &str = "GET /v2/hello/manifests/SHA256SUMS";

/// The first request for its tags.
pub const TAGS: &str = "GET /v2/hello/tags/list?n=1000";

/// A login, as everybody who has one here writes it.
pub const LOGIN: &str = "alice:s3cret";

/// A way to misbehave. Several may hit one request: they work in the order they were set.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The answer comes late.
    Delay(Duration),
    /// The body comes in pieces of so many bytes, with a pause before each.
    Drip(usize, Duration),
    /// The body comes once the bodies of so many requests are waited for.
    Together(Arc<Barrier>),
    /// An error with an envelope as the specification has it.
    Status(u16),
    /// A header is replaced or left out.
    Header(&'static str, Option<String>),
    /// Another body, with the length that fits it.
    Body(Vec<u8>),
    /// The last byte of the body is another one.
    WrongByte,
    /// The connection ends after so many bytes of the body; the head promised them all.
    CutAfter(usize),
    /// The connection ends whenever so many more bytes were sent by all answers together.
    CutEvery(Arc<Cuts>),
    /// The body goes on with this text, for ever, and the head promises no length.
    Endless(&'static str),
    /// These bytes, and the end of the connection, instead of an answer.
    Raw(Vec<u8>),
    /// 307 to the same path at this origin (`http://host:port`, or nothing for the same one).
    Redirect(String),
    /// 307 to exactly this `Location`.
    Location(String),
    /// The tag list comes in pages of so many tags.
    Pages(usize, Link),
    /// `Range` is ignored.
    NoRange,
    /// A range is answered with the one that lies so many bytes before it.
    EarlierRange(usize),
    /// Nothing comes after so many bytes of the body, and the connection stays.
    StallAfter(usize),
    /// An error for a range, as [`Fault::Status`]; the whole is served as ever.
    StatusOfARange(u16),
    /// The head of an answer to a range, its length that of the whole, and then nothing.
    StallOfARange,
    /// The head names no length: the body ends with the connection.
    NoLength,
    /// 429 for whoever comes when the bucket is empty.
    Bucket(Arc<Mutex<Bucket>>),
    /// 429 until the next hour, for whoever comes when so many more were answered.
    Limit(Arc<AtomicUsize>),
    /// Who is not let in is refused, and no later fault works.
    Guard(Guard),
}

/// Counts the bytes that were sent, and the connections that were ended.
#[derive(Debug)]
pub struct Cuts {
    every: usize,
    sent: Mutex<usize>,
    count: AtomicUsize,
}

impl Cuts {
    pub fn every(bytes: usize) -> Arc<Self> {
        Arc::new(Cuts {
            every: bytes,
            sent: Mutex::default(),
            count: AtomicUsize::default(),
        })
    }

    /// How many connections were ended.
    pub fn count(&self) -> usize {
        self.count.load(SeqCst)
    }

    /// How many of the bytes of an answer are sent, if its connection is ended.
    fn cut(&self, length: usize) -> Option<usize> {
        let mut sent = lock(&self.sent);
        let left = self.every - *sent % self.every;
        *sent += left.min(length);
        let is_cut = left < length;
        self.count.fetch_add(is_cut.into(), SeqCst);
        is_cut.then_some(left)
    }
}

/// So many requests a second, and so many at once.
#[derive(Debug)]
pub struct Bucket {
    rate: f64,
    size: f64,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn take(&mut self) -> bool {
        let now = Instant::now();
        let more = now.duration_since(self.filled).as_secs_f64() * self.rate;
        self.filled = now;
        self.tokens = (self.tokens + more).min(self.size);
        let has_one = self.tokens >= 1.0;
        if has_one {
            self.tokens -= 1.0;
        }
        has_one
    }
}

impl Fault {
    /// A header is replaced with this value.
    pub fn header(name: &'static str, value: impl Into<String>) -> Self {
        Fault::Header(name, Some(value.into()))
    }

    pub fn bucket(rate: f64, size: f64) -> Self {
        Fault::Bucket(Arc::new(Mutex::new(Bucket {
            rate,
            size,
            tokens: size,
            filled: Instant::now(),
        })))
    }
}

/// Lets in some requests and refuses the rest with challenges.
#[derive(Clone)]
pub struct Guard {
    lets_in: Arc<dyn Fn(&Request) -> bool + Send + Sync>,
    status: u16,
    challenges: Vec<String>,
}

impl Guard {
    pub fn new(lets_in: impl Fn(&Request) -> bool + Send + Sync + 'static) -> Self {
        Guard {
            lets_in: Arc::new(lets_in),
            status: 401,
            challenges: Vec::new(),
        }
    }

    /// Lets in who sends one of these logins, `user:password`.
    pub fn basic(logins: &[&str]) -> Self {
        let good: Vec<_> = logins.iter().map(|login| basic(login)).collect();
        Guard::new(move |request| {
            let sent = request.header("authorization");
            good.iter().any(|good| sent == Some(good))
        })
        .challenge("Basic realm=\"the registry\"")
    }

    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// One more `WWW-Authenticate` of a refusal. `{name}` stands for the repository.
    pub fn challenge(mut self, challenge: impl Into<String>) -> Self {
        self.challenges.push(challenge.into());
        self
    }

    /// Several more.
    pub fn challenges(self, challenges: &[&str]) -> Self {
        challenges.iter().copied().fold(self, Guard::challenge)
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guard({}, {:?})", self.status, self.challenges)
    }
}

/// `user:password` as `Authorization` has it.
pub fn basic(login: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(login))
}

/// The target of the `Link` header of a page.
#[derive(Clone, Debug)]
pub enum Link {
    /// The next page, by path and query.
    Relative,
    /// The next page, by a whole URL.
    Absolute,
    /// The next page at another origin.
    Foreign(String),
    /// The page that carries it: following it never ends.
    Itself,
    /// The next page, by a mark that means nothing to anybody else.
    Cursor,
}

struct Rule {
    pattern: &'static str,
    /// How many more requests it hits.
    left: usize,
    fault: Fault,
}

#[derive(Default)]
struct State {
    repositories: Mutex<BTreeMap<String, Repository>>,
    rules: Mutex<Vec<Rule>>,
    requests: Mutex<Vec<Request>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    in_flight: AtomicUsize,
    peak_in_flight: AtomicUsize,
    sent: AtomicUsize,
    rounds: Rounds,
    /// How long the first request of a connection is waited for; none: for ever.
    patience: Mutex<Option<Duration>>,
}

pub struct Registry {
    pub address: SocketAddr,
    state: Arc<State>,
    /// Where connections show that nobody has taken up yet.
    backlog: TcpListener,
}

impl Registry {
    pub fn start() -> Self {
        Registry::on("127.0.0.1:0", None)
    }

    /// At this address, perhaps with TLS.
    pub fn on(address: &str, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let shared = state.clone();
        let backlog = listener.try_clone().unwrap();
        thread::spawn(move || {
            loop {
                // It counts as busy while it still shows on the listener.
                let mut waits = [PollFd::new(&listener, PollFlags::IN)];
                let _ = poll(&mut waits, None);
                shared.rounds.opened();
                let Ok((stream, _)) = listener.accept() else {
                    shared.rounds.closed();
                    continue;
                };
                let (state, tls) = (shared.clone(), tls.clone());
                state.connections.fetch_add(1, SeqCst);
                state.open.fetch_add(1, SeqCst);
                thread::spawn(move || {
                    state.rounds.wait();
                    // One that was opened ahead may wait for its first request, too.
                    state.rounds.wait_for_request(&stream);
                    let patience = *lock(&state.patience);
                    if patience.is_none_or(|time| is_readable_within(&stream, time)) {
                        // An error is the client's way to say that it has read enough.
                        let _ = speak(&stream, tls)
                            .and_then(|secured| serve(&state, secured, &stream, address));
                    }
                    let _ = stream.shutdown(Shutdown::Both);
                    state.open.fetch_sub(1, SeqCst);
                    state.rounds.closed();
                });
            }
        });
        Registry {
            address,
            state,
            backlog,
        }
    }

    /// A registry with one repository, `hello`.
    pub fn with_hello(hello: Repository) -> Self {
        let registry = Registry::start();
        registry.put("hello", hello);
        registry
    }

    /// A registry with so many [`versions`] of `hello`, and their listing.
    pub fn with_versions(count: usize) -> (Self, String) {
        let (hello, listing) = versions(count);
        (Registry::with_hello(hello), listing)
    }

    pub fn put(&self, name: &str, repository: Repository) {
        self.state
            .repositories
            .lock()
            .unwrap()
            .insert(name.to_owned(), repository);
    }

    /// Where it is, as a URL begins.
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The settings with which a service asks it.
    pub fn settings(&self) -> String {
        format!("registry = \"{}\"\n", self.address)
    }

    /// Changes the repository `hello`.
    pub fn change(&self, change: impl FnOnce(&mut Repository)) {
        change(
            self.state
                .repositories
                .lock()
                .unwrap()
                .entry("hello".to_owned())
                .or_default(),
        );
    }

    /// Misbehaves whenever a request (`GET /v2/…`) contains the pattern; a `$` at the pattern's
    /// end stands for the end of the request.
    pub fn fault(&self, pattern: &'static str, fault: Fault) {
        self.fault_times(usize::MAX, pattern, fault);
    }

    /// The same, for the first few such requests.
    pub fn fault_times(&self, times: usize, pattern: &'static str, fault: Fault) {
        self.state.rules.lock().unwrap().push(Rule {
            pattern,
            left: times,
            fault,
        });
    }

    /// Lets in nobody for anything but whom this guard lets in.
    pub fn guard(&self, guard: Guard) {
        self.fault("/v2/", Fault::Guard(guard));
    }

    pub fn behave(&self) {
        self.state.rules.lock().unwrap().clear();
    }

    /// All requests since the last call, sorted: they come over several connections.
    pub fn take_requests(&self) -> Vec<String> {
        let mut requests: Vec<_> = self.take_heads().iter().map(Request::line).collect();
        requests.sort();
        requests
    }

    /// The same with all that was sent, in the order of arrival.
    pub fn take_heads(&self) -> Vec<Request> {
        std::mem::take(&mut *lock(&self.state.requests))
    }

    /// From now on a connection is closed if no request has come so long after it was opened, as many servers do.
    pub fn wait_for_requests(&self, time: Duration) {
        *lock(&self.state.patience) = Some(time);
    }

    /// How many connections there have been.
    pub fn connections(&self) -> usize {
        self.state.connections.load(SeqCst)
    }

    /// How many bytes of bodies were sent.
    pub fn sent(&self) -> usize {
        self.state.sent.load(SeqCst)
    }

    /// From now on answers a process in rounds, counted anew: see [`Rounds`].
    pub fn answer_in_rounds(&self, process: u32) {
        if self.state.rounds.begin(process) {
            let (state, backlog) = (self.state.clone(), self.backlog.try_clone().unwrap());
            thread::spawn(move || state.rounds.run(&backlog));
        }
    }

    /// How many rounds there have been.
    pub fn rounds(&self) -> usize {
        self.state.rounds.count()
    }

    /// How many connections there are now.
    pub fn open_connections(&self) -> usize {
        self.state.open.load(SeqCst)
    }

    /// How many requests there were at once, at most.
    pub fn peak_in_flight(&self) -> usize {
        self.state.peak_in_flight.load(SeqCst)
    }
}

/// An address where nobody listens. No other test gets it; the program may, where it is told to.
pub fn nowhere() -> String {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.set_reuse_address(true).unwrap();
    socket.bind(&any_port.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    // A port that is bound refuses connections until somebody listens, and stays bound.
    std::mem::forget(socket);
    address.to_string()
}

/// A registry with one version, `hello-v1.raw`.
pub fn one_image(image: &[u8]) -> Registry {
    let mut hello = Repository::default();
    hello.oras_push("v1", "hello.raw", image);
    Registry::with_hello(hello)
}

/// A registry with one version behind a guard.
pub fn guarded(guard: Guard) -> Registry {
    let registry = Registry::with_hello(versions(1).0);
    registry.guard(guard);
    registry
}

/// A registry with one version and TLS.
pub fn with_tls(authority: &Authority) -> Registry {
    let registry = Registry::on("127.0.0.1:0", Some(authority.server(&["127.0.0.1"])));
    registry.put("hello", versions(1).0);
    registry
}

/// The requests since the last call with their logins, in the order of arrival.
pub fn logins_seen(registry: &Registry) -> Vec<String> {
    let heads = registry.take_heads();
    heads.iter().map(Request::line_and_login).collect()
}

/// Every request that a listing of `versions(1)` takes from a registry that asks for no login.
pub fn requests_of_a_listing() -> Vec<String> {
    [IS_IT_SIGNED, TAGS, "GET /v2/hello/manifests/v0"]
        .map(str::to_owned)
        .into()
}

/// One refusal, and then everything by this login.
pub fn asked_once_then_as(login: &str) -> Vec<String> {
    let requests = requests_of_a_listing();
    let refused = format!("{} as nobody", requests[0]);
    let rest = requests.iter().map(|line| format!("{line} as {login}"));
    std::iter::once(refused).chain(rest).collect()
}

/// The requests for blobs since the last call, as `first-last` of their ranges, `all` where there is none.
pub fn ranges(registry: &Registry) -> Vec<String> {
    let of_blobs = |head: &Request| {
        let range = head.header("range").unwrap_or("bytes=all");
        head.target
            .contains("/blobs/")
            .then(|| range.replace("bytes=", ""))
    };
    registry.take_heads().iter().filter_map(of_blobs).collect()
}

/// How many requests contain the pattern.
pub fn count(requests: &[String], pattern: &str) -> usize {
    requests
        .iter()
        .filter(|request| matches(request, pattern))
        .count()
}

fn matches(request: &str, pattern: &str) -> bool {
    match pattern.strip_suffix('$') {
        Some(end) => request.ends_with(end),
        None => request.contains(pattern),
    }
}

/// The answer without faults; faults change it.
struct Draft {
    status: u16,
    headers: Vec<(String, String)>,
    body: Arc<[u8]>,
    /// The part of the body that a `Range` asked for.
    part: Option<(usize, usize)>,
    delay: Duration,
    drip: Option<(usize, Duration)>,
    together: Option<Arc<Barrier>>,
    cut_after: Option<usize>,
    endless: Option<&'static str>,
    raw: Option<Vec<u8>>,
    stall_after: Option<usize>,
    has_length: bool,
}

impl Draft {
    fn new(status: u16, media_type: &str, body: impl Into<Arc<[u8]>>) -> Self {
        Draft {
            status,
            headers: vec![("Content-Type".to_owned(), media_type.to_owned())],
            body: body.into(),
            part: None,
            delay: Duration::ZERO,
            drip: None,
            together: None,
            cut_after: None,
            endless: None,
            raw: None,
            stall_after: None,
            has_length: true,
        }
    }

    fn error(status: u16) -> Self {
        let code = match status {
            401 => "UNAUTHORIZED",
            403 => "DENIED",
            404 => "NAME_UNKNOWN",
            429 => "TOOMANYREQUESTS",
            _ => "UNKNOWN",
        };
        let envelope = json!({"errors": [{"code": code, "message": "as the test wants it"}]});
        Draft::new(
            status,
            "application/json",
            envelope.to_string().into_bytes(),
        )
    }

    fn set(&mut self, name: &str, value: Option<String>) {
        self.headers
            .retain(|(header, _)| !header.eq_ignore_ascii_case(name));
        self.headers
            .extend(value.map(|value| (name.to_owned(), value)));
    }
}

/// A connection, in the clear or not.
pub trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

/// The answer of Go's server to plain HTTP on a TLS port, and to TLS on a plain port.
const NOT_TLS: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\n\
    Client sent an HTTP request to an HTTPS server.\n";

const NOT_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n400 Bad Request";

fn speak(stream: &TcpStream, tls: Option<Arc<ServerConfig>>) -> io::Result<Box<dyn Stream>> {
    stream.set_nodelay(true)?;
    let mut stream = stream.try_clone()?;
    let mut first = [0];
    let is_tls = stream.peek(&mut first)? == 1 && first == [0x16];
    let (Some(config), true) = (&tls, is_tls) else {
        if is_tls || tls.is_some() {
            stream.write_all(if is_tls { NOT_HTTP } else { NOT_TLS })?;
            return Err(io::ErrorKind::InvalidData.into());
        }
        return Ok(Box::new(stream));
    };
    let connection = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
    Ok(Box::new(StreamOwned::new(connection, stream)))
}

fn serve(
    state: &State,
    stream: Box<dyn Stream>,
    socket: &TcpStream,
    address: SocketAddr,
) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        if reader.buffer().is_empty() {
            state.rounds.wait_for_request(socket);
        }
        let Some(request) = Request::read(&mut reader)? else {
            break;
        };
        state.rounds.wait();
        let now = state.in_flight.fetch_add(1, SeqCst) + 1;
        state.peak_in_flight.fetch_max(now, SeqCst);
        let line = request.line();
        let mut draft = find(&lock(&state.repositories), &request);
        lock(&state.requests).push(request.clone());
        for fault in due(state, &line) {
            if let Fault::Guard(guard) = fault {
                if (guard.lets_in)(&request) {
                    continue;
                }
                draft = refusal(&guard, &request);
                break;
            }
            apply(&mut draft, fault, &request, address);
        }
        // Nobody may count this request as under way once its last byte has left.
        let result = write(&draft, &request, reader.get_mut(), socket, || {
            if request.method != "HEAD" {
                let whole = draft
                    .part
                    .map_or(draft.body.len(), |(first, end)| end - first);
                let sent = whole.min(draft.cut_after.unwrap_or(whole));
                state.sent.fetch_add(sent, SeqCst);
            }
            state.in_flight.fetch_sub(1, SeqCst);
        });
        if !result? {
            break;
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

fn due(state: &State, line: &str) -> Vec<Fault> {
    let mut rules = lock(&state.rules);
    let hits = rules
        .iter_mut()
        .filter(|rule| rule.left > 0 && matches(line, rule.pattern));
    hits.map(|rule| {
        rule.left -= 1;
        rule.fault.clone()
    })
    .collect()
}

/// The answer of a registry in good health.
fn find(repositories: &BTreeMap<String, Repository>, request: &Request) -> Draft {
    let path = request.target.split('?').next().unwrap();
    let Some(path) = path.strip_prefix("/v2/") else {
        return Draft::error(404);
    };
    if path.is_empty() {
        return Draft::new(200, "application/json", *b"{}");
    }
    if let Some(name) = path.strip_suffix("/tags/list") {
        let Some(repository) = repositories.get(name) else {
            return Draft::error(404);
        };
        let tags: Vec<_> = repository.tags.keys().collect();
        let list = json!({"name": name, "tags": tags});
        return Draft::new(200, "application/json", list.to_string().into_bytes());
    }
    if let Some((name, reference)) = path.split_once("/manifests/") {
        let Some(repository) = repositories.get(name) else {
            return Draft::error(404);
        };
        let digest = repository
            .tags
            .get(reference)
            .map_or(reference, String::as_str);
        let Some(manifest) = repository.manifests.get(digest) else {
            return Draft::error(404);
        };
        if !request.accepts(&manifest.media_type) {
            return Draft::error(404);
        }
        let mut draft = Draft::new(200, &manifest.media_type, manifest.bytes.clone());
        draft.set("Docker-Content-Digest", Some(digest.to_owned()));
        return draft;
    }
    if let Some((name, digest)) = path.split_once("/blobs/") {
        let blob = repositories
            .get(name)
            .and_then(|repository| repository.blobs.get(digest));
        let Some(blob) = blob else {
            return Draft::error(404);
        };
        let mut draft = Draft::new(200, "application/octet-stream", blob.clone());
        draft.set("Docker-Content-Digest", Some(digest.to_owned()));
        draft.part = request.header("range").and_then(|range| {
            let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
            let first = first.parse().ok()?;
            let last = last.parse().unwrap_or(usize::MAX).min(blob.len() - 1);
            (first <= last).then_some((first, last + 1))
        });
        return draft;
    }
    if let Some((name, digest)) = path.split_once("/referrers/")
        && let Some(repository) = repositories.get(name)
        && repository.has_referrers_api
    {
        let index = repository.referrers(digest).to_string();
        return Draft::new(200, OCI_INDEX, index.into_bytes());
    }
    Draft::error(404)
}

fn refusal(guard: &Guard, request: &Request) -> Draft {
    let mut draft = Draft::error(guard.status);
    for challenge in &guard.challenges {
        let challenge = challenge.replace("{name}", request.repository());
        draft
            .headers
            .push(("WWW-Authenticate".to_owned(), challenge));
    }
    draft
}

fn apply(draft: &mut Draft, fault: Fault, request: &Request, address: SocketAddr) {
    match fault {
        Fault::Delay(delay) => draft.delay += delay,
        Fault::Drip(bytes, pause) => draft.drip = Some((bytes, pause)),
        Fault::Together(barrier) => draft.together = Some(barrier),
        Fault::Status(status) => {
            *draft = Draft {
                delay: draft.delay,
                ..Draft::error(status)
            }
        }
        Fault::Header(name, value) => draft.set(name, value),
        Fault::Body(body) => draft.body = body.into(),
        Fault::WrongByte => {
            let mut body = draft.body.to_vec();
            if let Some(last) = body.last_mut() {
                *last ^= 1;
            }
            draft.body = body.into();
        }
        Fault::CutAfter(bytes) => draft.cut_after = Some(bytes),
        Fault::CutEvery(cuts) => {
            let part = draft.part.map(|(first, end)| end - first);
            draft.cut_after = cuts.cut(part.unwrap_or(draft.body.len()));
        }
        Fault::Endless(text) => draft.endless = Some(text),
        Fault::Raw(bytes) => draft.raw = Some(bytes),
        Fault::Redirect(origin) => {
            let location = format!("{origin}{}", request.target);
            apply(draft, Fault::Location(location), request, address);
        }
        Fault::Location(location) => {
            draft.status = 307;
            draft.body = Arc::new([]);
            draft.set("Docker-Content-Digest", None);
            draft.set("Location", Some(location));
        }
        Fault::Pages(size, link) => page(draft, size, link, request, address),
        Fault::NoRange => draft.part = None,
        Fault::EarlierRange(bytes) => {
            draft.part = draft.part.map(|(first, end)| (first - bytes, end - bytes));
        }
        Fault::StallAfter(bytes) => draft.stall_after = Some(bytes),
        Fault::StatusOfARange(status) => {
            if request.header("range").is_some() {
                apply(draft, Fault::Status(status), request, address);
            }
        }
        Fault::StallOfARange => {
            if request.header("range").is_some() {
                draft.stall_after = Some(0);
            }
        }
        Fault::NoLength => draft.has_length = false,
        Fault::Bucket(bucket) => {
            if !lock(&bucket).take() {
                apply(draft, Fault::Status(429), request, address);
            }
        }
        Fault::Limit(left) => {
            let take = |left: usize| left.checked_sub(1);
            if left.fetch_update(SeqCst, SeqCst, take).is_err() {
                apply(draft, Fault::Status(429), request, address);
                draft.set("Retry-After", Some("3600".to_owned()));
            }
        }
        Fault::Guard(_) => unreachable!("guards stand before the faults"),
    }
}

/// Keeps of the whole tag list the page that the request is for.
fn page(draft: &mut Draft, size: usize, link: Link, request: &Request, address: SocketAddr) {
    let mut list: Value = serde_json::from_slice(&draft.body).unwrap();
    let tags = list["tags"].as_array().unwrap();
    let start = match (request.query("last"), request.query("mark")) {
        (Some(last), _) => 1 + tags.iter().position(|tag| tag == last).unwrap(),
        (None, Some(mark)) => mark.parse().unwrap(),
        (None, None) => 0,
    };
    let end = tags.len().min(start + size);
    let page = tags[start..end].to_vec();
    if end < tags.len() {
        let path = request.target.split('?').next().unwrap();
        let next = format!(
            "{path}?last={}&n={size}",
            page.last().unwrap().as_str().unwrap()
        );
        let next = match link {
            Link::Relative => next,
            Link::Absolute => format!("http://{address}{next}"),
            Link::Foreign(origin) => format!("{origin}{next}"),
            Link::Itself => request.target.clone(),
            Link::Cursor => format!("{path}?mark={end}"),
        };
        draft.set("Link", Some(format!("<{next}>; rel=\"next\"")));
    }
    list["tags"] = page.into();
    draft.body = list.to_string().into_bytes().into();
}

/// Writes the answer; false if the connection is to end with it.
fn write(
    draft: &Draft,
    request: &Request,
    stream: &mut dyn Stream,
    socket: &TcpStream,
    done: impl FnOnce(),
) -> io::Result<bool> {
    if !draft.delay.is_zero() && is_closed_within(socket, draft.delay) {
        done();
        return Ok(false);
    }
    if let Some(raw) = &draft.raw {
        done();
        stream.write_all(raw)?;
        return Ok(false);
    }
    let (status, body) = match draft.part {
        Some((first, end)) if draft.status == 200 => (206, &draft.body[first..end]),
        _ => (draft.status, &draft.body[..]),
    };
    let mut head = format!("HTTP/1.1 {status} As Told\r\n");
    let has = |name| draft.headers.iter().any(|(header, _)| header == name);
    if draft.endless.is_none() && draft.has_length && !has("Content-Length") {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    if let (206, Some((first, end))) = (status, draft.part) {
        head += &format!(
            "Content-Range: bytes {first}-{}/{}\r\n",
            end - 1,
            draft.body.len()
        );
    }
    for (name, value) in &draft.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    if request.method == "HEAD" {
        done();
        stream.write_all(head.as_bytes())?;
        return Ok(true);
    }
    if let Some(text) = draft.endless {
        done();
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let chunk = text.repeat(1 + 65_536 / text.len());
        loop {
            stream.write_all(chunk.as_bytes())?;
        }
    }
    if let Some(bytes) = draft.stall_after {
        done();
        stream.write_all(&[head.as_bytes(), &body[..bytes]].concat())?;
        stream.flush()?;
        is_closed_within(socket, Duration::from_secs(120));
        return Ok(false);
    }
    let sent = &body[..draft.cut_after.unwrap_or(body.len()).min(body.len())];
    if let Some((bytes, pause)) = draft.drip {
        stream.write_all(head.as_bytes())?;
        for piece in sent.chunks(bytes) {
            thread::sleep(pause);
            stream.write_all(piece)?;
        }
        done();
    } else if let Some(barrier) = &draft.together {
        stream.write_all(head.as_bytes())?;
        barrier.wait();
        done();
        stream.write_all(sent)?;
    } else {
        done();
        stream.write_all(&[head.as_bytes(), sent].concat())?;
    }
    Ok(draft.cut_after.is_none() && draft.has_length && !has("Content-Length"))
}

/// Waits so long, or until the other side closes the connection.
fn is_closed_within(socket: &TcpStream, time: Duration) -> bool {
    happens_within(socket, PollFlags::RDHUP, time)
}

fn is_readable_within(socket: &TcpStream, time: Duration) -> bool {
    happens_within(socket, PollFlags::IN, time)
}

fn happens_within(socket: &TcpStream, event: PollFlags, time: Duration) -> bool {
    let mut ends = [PollFd::new(socket, event)];
    let time = Timespec::try_from(time).unwrap();
    poll(&mut ends, Some(&time)).is_ok_and(|count| count > 0)
}
