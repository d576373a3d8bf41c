//! An HTTP client that hides nothing: what was sent, what came back, and whether it came whole.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// No answer of the service may take longer than this, slow heads and waits for a busy registry included.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Names in lower case, in the order they came.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The body had as many bytes as `Content-Length` promised.
    pub whole: bool,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(header, _)| header == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Self {
        Connection::open_for(address, PATIENCE)
    }

    /// The same with another limit for each wait.
    pub fn open_for(address: SocketAddr, patience: Duration) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(patience)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Connection {
            stream: BufReader::new(stream),
        }
    }

    /// The socket itself, for a second thread or for a rude end.
    pub fn socket(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Asks for this, and for nothing special.
    pub fn ask(&mut self, target: &str) {
        let head = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        self.send(head.as_bytes()).unwrap();
    }

    /// Reads one answer. `method` tells whether a body follows the head.
    pub fn receive(&mut self, method: &str) -> io::Result<Response> {
        let mut response = self.receive_head()?;
        if method == "HEAD" || response.status == 304 {
            return Ok(response);
        }
        let Some(length) = response
            .header("content-length")
            .map(|length| length.parse().unwrap())
        else {
            self.stream.read_to_end(&mut response.body)?;
            response.whole = false;
            return Ok(response);
        };
        let stream: &mut dyn Read = &mut self.stream;
        match stream.take(length).read_to_end(&mut response.body) {
            Ok(count) => response.whole = count as u64 == length,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => response.whole = false,
            Err(error) => return Err(error),
        }
        Ok(response)
    }

    /// Reads the head of an answer and leaves the body where it is.
    pub fn receive_head(&mut self) -> io::Result<Response> {
        let status_line = self.line()?;
        let status = status_line
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest.split(' ').nth(1)?.parse().ok())
            .unwrap_or_else(|| panic!("not a status line: {status_line:?}"));
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(Response {
                    status,
                    headers,
                    body: Vec::new(),
                    whole: true,
                });
            }
            let (name, value) = line
                .split_once(':')
                .unwrap_or_else(|| panic!("not a header: {line:?}"));
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// Some bytes of a body, as many as are there.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }
}

/// One request on a connection of its own; `headers` are whole lines without their ends.
pub fn request(address: SocketAddr, method: &str, target: &str, headers: &[&str]) -> Response {
    try_request(address, method, target, headers)
        .unwrap_or_else(|error| panic!("no answer to {method} {target}: {error}"))
}

/// The same, where no answer is one of the possible outcomes.
pub fn try_request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[&str],
) -> io::Result<Response> {
    let mut connection = Connection::open(address);
    let mut head = format!(
        "{method} {target} HTTP/1.1\r\nHost: {address}\r\nAccept: */*\r\nConnection: close\r\n"
    );
    for header in headers {
        if header.to_ascii_lowercase().starts_with("accept:") {
            head = head.replace("Accept: */*\r\n", "");
        }
        head += header;
        head += "\r\n";
    }
    head += "\r\n";
    connection.send(head.as_bytes())?;
    connection.receive(method)
}

pub fn get(address: SocketAddr, target: &str) -> Response {
    request(address, "GET", target, &[])
}
