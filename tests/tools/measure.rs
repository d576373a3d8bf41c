//! The parts of `tests/bench/run` that need more than curl.
//!
//! * `measure relay LISTEN TARGET MILLISECONDS [MEGABYTES]` puts a round trip between a client and a local
//!   server: a new connection waits one, every byte half of one in each direction. With MEGABYTES a connection passes
//!   no more in a second. Runs until it is killed.
//! * `measure seed REGISTRY REPOSITORY COUNT [FORM NAME KEY]` pushes so many small files, each under a tag. With FORM each
//!   is signed: `sig-tag`, or `bundle` for a registry with the referrers API. NAME is that of the repository in the
//!   signature; the public key is written to the file KEY.
//! * `measure seed-list REGISTRY REPOSITORY COUNT` pushes a list of so many files as its publisher would sign it. The files
//!   are not there, and the signature is none.
//! * `measure sha256 MEBIBYTES` takes the SHA-256 of so much memory, with the code that the program has, and prints it.
//! * `measure first-byte PROGRAM CONFIG TARGET` prints the milliseconds from the start of the
//!   program, on a socket with a waiting request, to the first byte of its answer.

#![allow(
    clippy::unwrap_used,
    reason = "a tool for benchmarks ends where something is wrong"
)]

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use sha2::{Digest as _, Sha256};

use shared::cosign::{Form, Key};
use shared::{client, content, request, rounds, tls};

#[path = "../bench/relay.rs"]
mod relay;
mod shared;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["relay", listen, target, milliseconds, ref megabytes @ ..] => {
            let rate = megabytes.first();
            relay::relay(
                &TcpListener::bind(listen).unwrap(),
                target,
                Duration::from_secs_f64(milliseconds.parse::<f64>().unwrap() / 1000.0),
                rate.map(|megabytes| megabytes.parse::<f64>().unwrap() * 1e6),
            );
        }
        ["seed", registry, repository, count] => {
            push(
                registry,
                repository,
                &files(repository, count.parse().unwrap()),
            );
        }
        ["seed", registry, repository, count, form, name, key] => {
            let mut content = files(repository, count.parse().unwrap());
            fs::write(key, sign(&mut content, form, name).pem()).unwrap();
            push(registry, repository, &content);
        }
        ["seed-list", registry, repository, count] => {
            push(
                registry,
                repository,
                &list(repository, count.parse().unwrap()),
            );
        }
        ["sha256", mebibytes] => sha256(mebibytes.parse().unwrap()),
        ["first-byte", program, config, target] => first_byte(program, config, target),
        _ => {
            eprintln!("usage: see the head of tests/tools/measure.rs");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// So many small files, each under a tag.
fn files(repository: &str, count: usize) -> content::Repository {
    let mut content = content::Repository::default();
    for number in 0..count {
        let tag = format!("v1.{}.{}-x86-64", number / 100, number % 100);
        content.oras_push(
            &tag,
            "hello.raw",
            format!("{repository} {tag}").repeat(200).as_bytes(),
        );
    }
    content
}

/// A list of so many files, under the tag that a publisher pushes it with.
fn list(repository: &str, count: usize) -> content::Repository {
    let mut content = content::Repository::default();
    let lines = (0..count).map(|number| {
        let name = format!(
            "{repository}-v1.{}.{}-x86-64.raw",
            number / 100,
            number % 100
        );
        format!("{}  {name}\n", content::sha256(name.as_bytes()))
    });
    let list = String::from_iter(lines);
    let layers = [
        content.file("text/plain", "SHA256SUMS", list.as_bytes()),
        content.file("application/pgp-signature", "SHA256SUMS.gpg", b"none"),
    ];
    let artifact = content.artifact(&layers, json!({}));
    content.point("SHA256SUMS", &artifact);
    content
}

fn sha256(mebibytes: usize) {
    let piece = vec![0x5a; 1 << 20];
    let mut hash = Sha256::new();
    for _ in 0..mebibytes {
        hash.update(&piece);
    }
    println!("{:x?}", hash.finalize());
}

/// Signs each of them by a new key.
fn sign(content: &mut content::Repository, form: &str, name: &str) -> Key {
    let form = match form {
        "sig-tag" => Form::SigTag,
        "bundle" => Form::Bundle,
        _ => panic!("{form:?} is no form, expected sig-tag or bundle"),
    };
    content.has_referrers_api = true;
    let key = Key::new();
    for (digest, manifest) in content.manifests.clone() {
        let (media_type, size) = (&manifest.media_type, manifest.bytes.len());
        let subject = json!({"mediaType": media_type, "digest": digest, "size": size});
        key.sign(content, form, name, &subject);
    }
    key
}

fn push(registry: &str, repository: &str, content: &content::Repository) {
    let mut connection = client::Connection::open(registry.parse().unwrap());
    let mut call = |method: &str, path: &str, media_type: &str, body: &[u8]| {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {registry}\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\n\r\n"
        );
        connection.send(&[head.as_bytes(), body].concat()).unwrap();
        let response = connection.receive(method).unwrap();
        assert!(
            [201, 202].contains(&response.status),
            "{method} {path}: {response:?}"
        );
        response
    };
    for (digest, bytes) in &content.blobs {
        let upload = call(
            "POST",
            &format!("/v2/{repository}/blobs/uploads/"),
            "text/plain",
            b"",
        );
        let location = upload.header("location").unwrap();
        let path = location
            .trim_start_matches("http://")
            .trim_start_matches(registry);
        let joint = if path.contains('?') { '&' } else { '?' };
        call(
            "PUT",
            &format!("{path}{joint}digest={digest}"),
            "application/octet-stream",
            bytes,
        );
    }
    let by_digest = content.manifests.keys().map(|digest| (digest, digest));
    for (reference, digest) in by_digest.chain(&content.tags) {
        let manifest = &content.manifests[digest];
        call(
            "PUT",
            &format!("/v2/{repository}/manifests/{reference}"),
            &manifest.media_type,
            &manifest.bytes,
        );
    }
}

fn first_byte(program: &str, config: &str, target: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    write!(
        client,
        "GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut service = Command::new("sh");
    // As systemd does it between fork and exec. The shell's own start counts against the program.
    service.args([
        "-c",
        "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"",
        "sh",
    ]);
    service.args([program, "serve", "--config", config]);
    service
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stderr(Stdio::null());
    let begin = Instant::now();
    let mut service = service.spawn().unwrap();
    let mut answer = [0; 12];
    let got = client.read(&mut answer);
    let elapsed = begin.elapsed();
    service.kill().unwrap();
    service.wait().unwrap();
    got.unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 200");
    println!("{:.1}", elapsed.as_secs_f64() * 1000.0);
}
