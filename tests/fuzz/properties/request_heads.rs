//! The head of a request, and the head of the answer to it.

#![allow(
    clippy::unwrap_used,
    reason = "a property that does not hold is a panic"
)]

use super::request::parse_head;
use super::response::head;
use super::{Request, Response};
use crate::address::Address;
use crate::server::access;

/// A head is the same wherever the network cuts it, and an answer to it cannot be led astray by it.
pub fn request_heads(data: &[u8]) {
    let whole = parse_head(data);
    let length = match &whole {
        Ok(Some((_, length))) => *length,
        _ => data.len(),
    };
    assert!(length <= data.len());
    // All places where it may be cut, or so many of a long one that time suffices.
    for end in (0..length).rev().step_by(1 + length / 256) {
        match (parse_head(&data[..end]), &whole) {
            (Ok(None), _) | (Err(_), Err(_)) => {}
            (part, _) => panic!("the first {end} bytes are {part:?}, all of them {whole:?}"),
        }
    }
    match whole {
        Ok(None) => {}
        Ok(Some((request, length))) => {
            assert_eq!(
                parse_head(&data[..length]).unwrap(),
                Some((request.clone(), length))
            );
            assert!(!request.target.is_empty());
            assert!(request.minor <= 1);
            if let (Some(host), Ok(())) = (&request.host, access::check(&request, &[])) {
                assert!(leads_nowhere_else(host), "{host} may be anybody's name");
            }
            let answer = match Address::parse(&request.target) {
                Ok(_) => Response::bytes("text/plain", "ok"),
                Err(error) => Response::error(&error, request.form),
            };
            assert_answer(&request, &answer);
        }
        Err(error) => assert!(matches!(error.status(), 400 | 431), "{error}"),
    }
}

/// Can no page in the world make a browser call us by that? Its last label is `localhost` or a number, which
/// makes all of it an address (<https://url.spec.whatwg.org/#ends-in-a-number-checker>).
fn leads_nowhere_else(host: &str) -> bool {
    if host.starts_with('[') {
        return true;
    }
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let last = name.rsplit('.').next().unwrap();
    let is_number = |digits: &str, radix| {
        !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix))
    };
    last == "localhost"
        || is_number(last, 10)
        || last
            .strip_prefix("0x")
            .is_some_and(|digits| digits.is_empty() || is_number(digits, 16))
}

/// It has the headers that it was given, each once and whole, and ends where it says.
fn assert_answer(request: &Request, answer: &Response) {
    let bytes = head(request, answer, request.keeps_alive);
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut parsed = httparse::Response::new(&mut headers);
    let length = parsed.parse(&bytes).unwrap();
    assert_eq!(length, httparse::Status::Complete(bytes.len()));
    assert_eq!(parsed.code, Some(answer.status));
    let values = |name: &str| -> Vec<&[u8]> {
        let named = parsed.headers.iter();
        let named = named.filter(|header| header.name.eq_ignore_ascii_case(name));
        named.map(|header| header.value).collect()
    };
    for (name, value) in &answer.headers {
        // Blanks at either end are no part of a header's value.
        assert_eq!(values(name), [value.trim().as_bytes()], "{name}");
    }
    assert_eq!(
        values("Content-Length"),
        [answer.size().to_string().as_bytes()]
    );
    assert_eq!(values("Transfer-Encoding"), [b""; 0]);
    assert_eq!(values("Connection").is_empty(), request.keeps_alive);
}
