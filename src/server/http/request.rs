//! The head of a request → [`Request`].

use std::net::IpAddr;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::server::form::Form;

/// Most headers in it.
const MAX_HEADERS: usize = 64;

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
    pub none_match: String,
    /// The `x` of HTTP/1.x.
    pub minor: u8,
    /// Another request may follow on the connection.
    pub keeps_alive: bool,
    /// A body follows, which nobody reads.
    pub has_body: bool,
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

/// A digest as a strong entity tag: the same digest, the same bytes.
pub fn entity_tag(digest: Digest) -> String {
    format!("\"{digest}\"")
}

pub fn bad(status: u16, why: impl Into<String>) -> Error {
    let why = why.into();
    Error::BadRequest { status, why }
}

/// Parses the head of a request, if it has arrived whole, and says how many bytes it has.
pub fn parse_head(bytes: &[u8]) -> Result<Option<(Request, usize)>> {
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
}
