//! Failed requests → errors, and the messages in the responses of registries.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use rustls::AlertDescription;
use ureq::Timeout;

use super::agent::{DOCUMENT_TIMEOUT, HEAD_TIMEOUT, READ_TIMEOUT};
use super::transport::Unresolved;
use super::url;
use crate::error::{Cause, Error, Way};
use crate::name::without_userinfo;
use crate::task;

/// The error for an invalid response. Its URL has no query: that may be a signature, which is as good as a password.
pub fn nonsense(url: &str, why: String) -> Error {
    Error::Nonsense {
        url: url::for_messages(url),
        why,
    }
}

/// The error for a failed request.
pub fn failure(url: &str, error: ureq::Error) -> Error {
    let url = url::for_messages(url);
    if let Err(over) = task::check(|| url.clone()) {
        return over;
    }
    match error {
        // IPAddressDeny= and most firewalls drop packets without an error, and TCP resends them until the timeout.
        ureq::Error::Timeout(Timeout::Connect) => Error::Unreachable {
            url,
            at: Way::Connection,
            cause: Arc::new(io::Error::new(io::ErrorKind::TimedOut, SILENCE)),
        },
        ureq::Error::Timeout(Timeout::Resolve) | ureq::Error::HostNotFound => {
            unreachable(url, Way::Resolution, error)
        }
        ureq::Error::Other(error) => match error.downcast::<Unresolved>() {
            Ok(unresolved) if is_forbidden(&unresolved.0) => Error::NotPermitted {
                url,
                cause: Arc::new(unresolved.0),
            },
            Ok(unresolved) => unreachable(url, Way::Resolution, unresolved.0),
            Err(error) => Error::Broken {
                url,
                cause: error.into(),
            },
        },
        ureq::Error::ConnectionFailed => unreachable(url, Way::Connection, error),
        ureq::Error::ConnectProxyFailed(_) => unreachable(url, Way::Proxy, error),
        ureq::Error::Tls(_) => unreachable(url, Way::Tls, error),
        ureq::Error::Rustls(error) => tls_failure(url, &error),
        ureq::Error::Timeout(timeout) => too_slow(url, timeout),
        ureq::Error::Io(error) => io_failure(url, error),
        error => Error::Broken {
            url,
            cause: Arc::new(error),
        },
    }
}

fn unreachable(url: String, at: Way, cause: impl StdError + Send + Sync + 'static) -> Error {
    let cause = Arc::new(cause);
    Error::Unreachable { url, at, cause }
}

fn too_slow(url: String, timeout: Timeout) -> Error {
    let limit = match timeout {
        Timeout::PerRead => READ_TIMEOUT,
        Timeout::RecvBody => DOCUMENT_TIMEOUT,
        _ => HEAD_TIMEOUT,
    };
    Error::TooSlow { url, limit }
}

fn io_failure(url: String, error: io::Error) -> Error {
    if let Some(error) = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        return tls_failure(url, error);
    }
    let cause = Arc::new(error);
    match cause.kind() {
        // Only an established connection can break.
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof
        | io::ErrorKind::NotConnected => Error::Broken { url, cause },
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => too_slow(url, Timeout::PerRead),
        _ if is_forbidden(&cause) => Error::NotPermitted { url, cause },
        _ => Error::Unreachable {
            url,
            at: Way::Connection,
            cause,
        },
    }
}

/// The cause of a connect timeout.
const SILENCE: &str = "no response from that address: the host is down, or packets to it are dropped, \
    as IPAddressDeny= of sysext-oci-proxy.service and firewalls do";

/// Whether the cause is a connect timeout.
pub fn is_silence(cause: &Cause) -> bool {
    let error: Option<&io::Error> = cause.downcast_ref();
    error.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}

/// Whether a sandbox or a security module denies it: EPERM, EACCES, or EAFNOSUPPORT for an address family that is not
/// allowed (systemd.exec(5), RestrictAddressFamilies=).
fn is_forbidden(error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.kind() == io::ErrorKind::PermissionDenied || error.raw_os_error() == Some(EAFNOSUPPORT)
}

fn tls_failure(url: String, error: &rustls::Error) -> Error {
    let host = url::authority(&url).unwrap_or(&url).to_owned();
    let cause = Arc::new(error.clone());
    match error {
        rustls::Error::InvalidCertificate(_) => Error::Untrusted { host, cause },
        rustls::Error::AlertReceived(alert) if is_about_our_certificate(*alert) => {
            Error::WantsCertificate { host, cause }
        }
        // The response of a plain HTTP server to a TLS hello.
        rustls::Error::InvalidMessage(_) => Error::NotTls { host, cause },
        _ => Error::Unreachable {
            url,
            at: Way::Tls,
            cause,
        },
    }
}

/// Whether a server requires a client certificate, or rejects the one it got (RFC 8446 §6.2).
fn is_about_our_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
    )
}

/// The error for a body that broke off. ureq wraps its own errors in an io::Error there.
pub fn read_failure(url: &str, error: io::Error) -> Error {
    let url = url::for_messages(url);
    if let Err(over) = task::check(|| url.clone()) {
        return over;
    }
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(ureq::Error::Timeout(timeout)) => too_slow(url, *timeout),
        _ => Error::Broken {
            url,
            cause: Arc::new(error),
        },
    }
}

/// The message in an error's body: the distribution-spec's JSON, or the text itself if it is short
/// and no page. It is untrusted text for the log. A cache may quote the URL that it requested, including a login.
pub fn error_message(body: &[u8]) -> String {
    let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let text = match &json {
        Some(json) => {
            let first = json.pointer("/errors/0");
            let text = |name: &str| {
                let found = first
                    .and_then(|error| error.get(name))
                    .or_else(|| json.get(name));
                found.and_then(|value| value.as_str()).unwrap_or_default()
            };
            match (text("code"), text("message")) {
                ("", "") => text("details").to_owned(),
                ("", message) => message.to_owned(),
                (code, "") => code.to_owned(),
                (code, message) => format!("{code}, {message}"),
            }
        }
        None => String::from_utf8_lossy(body).into_owned(),
    };
    let text = text.trim();
    if text.starts_with('<') {
        return String::new();
    }
    let text = without_userinfo(text);
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(200)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_m13_error_bodies_become_one_short_line() {
        let long = "x".repeat(1000);
        for (body, expected) in [
            (
                r#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known"}]}"#,
                "NAME_UNKNOWN, repository name not known",
            ),
            (r#"{"errors":[{"code":"DENIED"}]}"#, "DENIED"),
            (r#"{"message":"not found"}"#, "not found"),
            (
                r#"{"details":"incorrect username or password"}"#,
                "incorrect username or password",
            ),
            (r#"{"errors":[{"cod"#, r#"{"errors":[{"cod"#),
            ("<html><body>404</body></html>", ""),
            (
                "Client sent an\r\nHTTP request",
                "Client sent an  HTTP request",
            ),
            (
                r#"{"errors":[{"code":"UNKNOWN","message":"Get \"https://u:s3cret@h/v2/\": EOF"}]}"#,
                "UNKNOWN, Get \"https://h/v2/\": EOF",
            ),
            ("", ""),
            ("[]", ""),
            (&long, &long[..200]),
        ] {
            assert_eq!(error_message(body.as_bytes()), expected, "{body}");
        }
    }

    #[test]
    fn what_the_sandbox_forbids_is_told_from_a_registry_that_is_down() {
        let line = |number| {
            let error = ureq::Error::Io(io::Error::from_raw_os_error(number));
            failure("https://registry.example.com/v2/?secret", error).line()
        };
        for (number, why) in [(1, "EPERM"), (13, "EACCES"), (97, "EAFNOSUPPORT")] {
            let line = line(number);
            let expected = "this machine does not permit a connection to https://registry.example.com/v2/; \
                            check RestrictAddressFamilies= and SystemCallFilter= ";
            assert!(line.starts_with(expected), "{why}: {line}");
            assert!(line.ends_with(&format!("(os error {number})")), "{line}");
        }
        for (number, why) in [(111, "ECONNREFUSED"), (113, "EHOSTUNREACH")] {
            assert!(line(number).starts_with("cannot connect"), "{why}");
        }
        let dropped = failure("http://h/v2/", ureq::Error::Timeout(Timeout::Connect)).line();
        assert!(
            dropped.starts_with("cannot connect to http://h/v2/; "),
            "{dropped}"
        );
        assert!(dropped.contains("IPAddressDeny="), "{dropped}");
    }
}
