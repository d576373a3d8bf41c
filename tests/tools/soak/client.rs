//! An HTTP client that hides nothing and waits for no longer than [`HANG`].

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use socket2::SockRef;

use crate::report::HANG;

/// Bodies up to this size are kept, others only hashed.
const MAX_KEPT: u64 = 64 << 20;
const MAX_HEAD: usize = 64 << 10;
/// Of a socket that is to hold little.
pub const SMALL_BUFFER: usize = 64 << 10;

#[derive(Clone, Copy)]
pub enum Method {
    Get,
    Post,
    Put,
}

#[derive(Default)]
pub struct Answer {
    pub status: u16,
    head: String,
    /// SHA-256 of the body.
    pub hex: String,
    pub size: u64,
    /// Empty unless it was asked for.
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.split("\r\n").skip(1);
        lines.find_map(|line| {
            let (header, value) = line.split_once(':')?;
            header.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// How a request ended.
pub enum End {
    /// With an answer, its body as long as it was announced.
    Whole(Answer),
    /// Too soon.
    Broken(String),
    /// Not at all.
    Hang,
    /// We had enough.
    Left,
}

pub struct Http {
    address: SocketAddr,
    /// Keep the body.
    pub keeps: bool,
    /// Go away after so many bytes of the body.
    pub leaves_after: Option<u64>,
    /// Take no more bytes than so many a second.
    pub pace: Option<u64>,
    /// Damage what was received, for who wants to see the soak test fail.
    pub flips_bytes: bool,
}

impl Http {
    pub fn new(address: SocketAddr) -> Self {
        Http {
            address,
            keeps: true,
            leaves_after: None,
            pace: None,
            flips_bytes: false,
        }
    }

    pub fn get(&self, path: &str) -> End {
        self.request(Method::Get, path, "", b"")
    }

    /// A request that must have an answer.
    pub fn send(&self, method: Method, path: &str, media_type: &str, body: &[u8]) -> Answer {
        match self.request(method, path, media_type, body) {
            End::Whole(answer) => answer,
            End::Broken(why) => panic!("{path}: {why}"),
            End::Hang | End::Left => panic!("{path}: no answer"),
        }
    }

    fn request(&self, method: Method, path: &str, media_type: &str, body: &[u8]) -> End {
        let until = Instant::now() + HANG;
        match self.try_request(method, path, media_type, body, until) {
            Ok(end) => end,
            Err(_) if Instant::now() >= until => End::Hang,
            Err(error) => End::Broken(error.to_string()),
        }
    }

    fn try_request(
        &self,
        method: Method,
        path: &str,
        media_type: &str,
        body: &[u8],
        until: Instant,
    ) -> io::Result<End> {
        let method = match method {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Put => "PUT",
        };
        let mut stream = TcpStream::connect_timeout(&self.address, HANG)?;
        if self.pace.is_some() {
            // Else the system takes it all for us.
            SockRef::from(&stream).set_recv_buffer_size(SMALL_BUFFER)?;
        }
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(HANG))?;
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {media_type}\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n",
            self.address
        );
        // The service takes no body, and a GET that announces none is what clients send.
        let head = match method {
            "GET" => format!(
                "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
                self.address
            ),
            _ => head,
        };
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;

        let mut buffer = vec![0; 128 << 10];
        let mut received = Vec::new();
        let end_of_head = loop {
            if let Some(at) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at;
            }
            let count = read(&mut stream, &mut buffer, until)?;
            if count == 0 || received.len() > MAX_HEAD {
                let received = received.len();
                return Ok(End::Broken(format!("{received} bytes, and no whole head")));
            }
            received.extend_from_slice(&buffer[..count]);
        };
        let mut answer = Answer {
            head: String::from_utf8_lossy(&received[..end_of_head]).into_owned(),
            ..Answer::default()
        };
        let status = answer.head.strip_prefix("HTTP/1.1 ");
        answer.status = status
            .and_then(|rest| rest.get(..3)?.parse().ok())
            .ok_or_else(|| io::Error::other(format!("not a status line: {:?}", answer.head)))?;
        let length = answer.header("content-length");
        let length: u64 = length
            .and_then(|length| length.parse().ok())
            .ok_or_else(|| io::Error::other("an answer without a length"))?;

        let begun = Instant::now();
        let mut hasher = Sha256::new();
        let mut bytes = &mut received[end_of_head + 4..];
        loop {
            if self.flips_bytes && answer.size == 0 && bytes.len() > 1000 {
                bytes[1000] ^= 1;
            }
            hasher.update(&*bytes);
            answer.size += bytes.len() as u64;
            if self.keeps && answer.size <= MAX_KEPT {
                answer.body.extend_from_slice(bytes);
            }
            if answer.size >= length {
                break;
            }
            if self.leaves_after.is_some_and(|limit| answer.size >= limit) {
                return Ok(End::Left);
            }
            if let Some(pace) = self.pace {
                let due = Duration::from_secs_f64(answer.size as f64 / pace as f64);
                thread::sleep(due.saturating_sub(begun.elapsed()));
            }
            let count = read(&mut stream, &mut buffer, until)?;
            if count == 0 {
                let (status, size) = (answer.status, answer.size);
                return Ok(End::Broken(format!("{status}, {size} of {length} bytes")));
            }
            bytes = &mut buffer[..count];
        }
        if answer.size > length {
            let size = answer.size;
            return Ok(End::Broken(format!(
                "{size} bytes where {length} were announced"
            )));
        }
        answer.hex = hasher
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Ok(End::Whole(answer))
    }
}

/// Some bytes, or an error when the time is over.
fn read(stream: &mut TcpStream, buffer: &mut [u8], until: Instant) -> io::Result<usize> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
    stream.read(buffer)
}
