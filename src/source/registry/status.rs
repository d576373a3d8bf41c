//! HTTP statuses other than success → errors.

use super::reply::Reply;
use super::url;
use crate::error::Error;

/// The error for a response without success.
pub fn status_error(mut reply: Reply) -> Error {
    let url = reply.url.clone();
    match reply.status {
        status @ (401 | 403) => Error::Denied {
            url,
            status,
            message: reply.take_message(),
        },
        404 => {
            reply.drain(); // else the connection cannot be used again
            Error::Missing { url }
        }
        // docker-registry 2.8 announces a body here and never sends it.
        status @ 416 => Error::UnexpectedStatus {
            url,
            status,
            message: String::new(),
        },
        status @ (429 | 503) => {
            reply.drain(); // the connection is used again soon
            Error::Busy {
                url,
                status,
                retry_after: reply.wait().unwrap_or_default(),
            }
        }
        // 499 is nginx's, 520 and above are Cloudflare's: the server behind them failed.
        status @ (408 | 499 | 500 | 502 | 504 | 520..=524 | 530) => {
            reply.drain();
            Error::Failing { url, status }
        }
        status => {
            let message = reply.take_message();
            if status == 400 && url.starts_with("http:") && is_about_tls(&message) {
                let host = url::authority(&url).unwrap_or_default().to_owned();
                return Error::NeedsTls { host };
            }
            Error::UnexpectedStatus {
                url,
                status,
                message,
            }
        }
    }
}

/// Whether it is the message of Go's server or nginx for plain HTTP on a TLS port.
fn is_about_tls(message: &str) -> bool {
    message.contains("HTTP request to an HTTPS server")
        || message.contains("plain HTTP request was sent to HTTPS")
}
