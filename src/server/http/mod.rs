//! A client's connection: bytes → [`Request`] (`request.rs`), [`Response`] → bytes (`response.rs`).
//!
//! Requests are read under limits of our own, and tiny_http writes only the head of a response: one request can
//! abort its server, and it ends a broken body with a clean end mark, so that a cut file looks whole (both measured
//! with 0.12).

#[cfg(any(test, fuzzing))]
#[path = "../../../tests/fuzz/properties/request_heads.rs"]
pub mod fuzz;
#[cfg(any(test, feature = "instructions"))]
#[path = "../../../tests/instructions/http.rs"]
pub mod instructions;
mod request;
mod response;

use std::io::{self, Read};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connections::{Further, Seat};
use crate::blob::Provenance;
use crate::error::{Error, Result};
use crate::task;
pub use request::Request;
use request::{bad, parse_head};
use response::write_response;
pub use response::{Blob, Body, Response};

/// Largest head of a request, in bytes.
const MAX_HEAD: usize = 16 << 10;
/// Longest wait for the end of a head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that reads no byte for this time counts as disconnected.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time that the rest of a refused request is read and dropped.
const LINGER: Duration = Duration::from_millis(500);
/// Most bytes that are dropped meanwhile.
const MAX_DROPPED: usize = 1 << 20;

/// A response that was sent whole.
pub struct Answered {
    /// The client may ask again on this connection.
    pub keeps_alive: bool,
    /// Where the bytes of a blob came from; `None`: they are kept here.
    pub provenance: Option<Provenance>,
}

/// Why a response was not sent whole.
#[derive(Debug)]
pub enum Interrupted {
    /// The client went away, or took nothing for too long.
    Client(io::Error),
    /// The rest of the body did not arrive.
    Body(Error),
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
        let provenance = write_response(stream, request, response, keeps_alive, progress)?;
        Ok(Answered {
            keeps_alive,
            provenance,
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

/// Whether something took too long.
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}
