//! The least that a listing takes: 16 connections that are opened at once and kept alive, the list of tags, and then one
//! request for each tag. Only the names of the tags and the lengths of the bodies are read from the answers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Barrier, OnceLock};
use std::thread;

/// Connections at once, as many as the program opens.
pub const CONNECTIONS: usize = 16;

/// Asks a repository for its tags, and for each by this method (`GET` or `HEAD`). Returns the number of tags.
pub fn list(registry: &str, repository: &str, method: &str) -> usize {
    let (tags, next, known) = (
        OnceLock::new(),
        AtomicUsize::new(0),
        Barrier::new(CONNECTIONS),
    );
    thread::scope(|scope| {
        for number in 0..CONNECTIONS {
            let (tags, next, known) = (&tags, &next, &known);
            scope.spawn(move || {
                let mut connection = TcpStream::connect(registry).unwrap();
                connection.set_nodelay(true).unwrap();
                let mut call = |method: &str, path: &str| {
                    let head = format!(
                        "{method} /v2/{repository}/{path} HTTP/1.1\r\nHost: {registry}\r\n\
                         Accept: application/vnd.oci.image.manifest.v1+json\r\n\r\n"
                    );
                    connection.write_all(head.as_bytes()).unwrap();
                    receive(&mut connection, method == "HEAD")
                };
                if number == 0 {
                    let list = String::from_utf8(call("GET", "tags/list?n=10000")).unwrap();
                    let names = list.split("\"tags\":[").nth(1).unwrap();
                    let names = names.split(']').next().unwrap().split(',');
                    let names = names.map(|name| name.trim_matches('"').to_owned());
                    tags.set(names.collect::<Vec<_>>()).unwrap();
                }
                known.wait();
                while let Some(tag) = tags.get().unwrap().get(next.fetch_add(1, Relaxed)) {
                    call(method, &format!("manifests/{tag}"));
                }
            });
        }
    });
    tags.get().unwrap().len()
}

/// The body of an answer.
fn receive(connection: &mut TcpStream, is_head: bool) -> Vec<u8> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 16 << 10]);
    loop {
        let count = connection.read(&mut buffer).unwrap();
        assert!(count > 0, "the registry closed the connection");
        bytes.extend_from_slice(&buffer[..count]);
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        let length = head.split("content-length: ").nth(1).unwrap();
        let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
        if is_head || bytes.len() >= end + 4 + length {
            return bytes.split_off(end + 4);
        }
    }
}
