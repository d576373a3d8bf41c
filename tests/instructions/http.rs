//! A request and the response to it, without a socket.

#![allow(clippy::unwrap_used, reason = "work that fails is a panic")]

use std::io::Write;

use super::{Request, Response, parse_head, write_response};

/// Reads the head of a request, and writes the response to it.
pub fn answer(head: &[u8], out: &mut impl Write, respond: impl FnOnce(&Request) -> Response) {
    let (request, _) = parse_head(head).unwrap().unwrap();
    let response = respond(&request);
    write_response(out, &request, response, true, |_| {}).unwrap();
}
