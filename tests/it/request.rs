//! An HTTP request as a server of a test reads it.

use std::io::{self, BufRead, Read};

/// A request of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub target: String,
    /// Names in lower case, in the order they came.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn read(stream: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let line = line.trim_end().to_owned();
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        let mut words = lines[0].split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let headers: Vec<_> = lines[1..]
            .iter()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut request = Request {
            method,
            target,
            headers,
            body: Vec::new(),
        };
        let length = request.header("content-length").unwrap_or("0").parse();
        stream
            .take(length.unwrap())
            .read_to_end(&mut request.body)?;
        Ok(Some(request))
    }

    /// `GET /v2/…`
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }

    /// The same and what was sent to be let in: `GET /v2/… as Basic …`.
    pub fn line_and_login(&self) -> String {
        let login = self.header("authorization").unwrap_or("nobody");
        format!("{} as {login}", self.line())
    }

    /// The repository it is about, if it is about one.
    pub fn repository(&self) -> &str {
        let path = self.target.strip_prefix("/v2/").unwrap_or_default();
        let ends = ["/tags/list", "/manifests/", "/blobs/"];
        let end = ends.iter().find_map(|end| path.find(end));
        &path[..end.unwrap_or(0)]
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(header, _)| header == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn accepts(&self, media_type: &str) -> bool {
        self.headers
            .iter()
            .filter(|(name, _)| name == "accept")
            .flat_map(|(_, value)| value.split(','))
            .any(|accepted| accepted.split(';').next().unwrap().trim() == media_type)
    }

    pub fn query(&self, key: &str) -> Option<&str> {
        let query = self.target.split_once('?')?.1;
        query
            .split('&')
            .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
    }
}
