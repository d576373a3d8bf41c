//! The meaning of statuses other than success.

use super::reply::Reply;
use super::url;
use crate::error::Error;

/// The error for an answer that is not success.
pub fn status_error(mut reply: Reply) -> Error {
    let url = reply.url.clone();
    match reply.status {
        status @ (401 | 403) => Error::Denied {
            url,
            status,
            message: reply.take_message(),
        },
        404 => {
            reply.drain(); // else its connection is of no more use
            Error::Missing { url }
        }
        // docker-registry 2.8 announces a body here and never sends it.
        status @ 416 => Error::UnexpectedStatus {
            url,
            status,
            message: String::new(),
        },
        status @ (429 | 503) => {
            reply.drain(); // for it is asked again soon
            Error::Busy {
                url,
                status,
                retry_after: reply.wait().unwrap_or_default(),
            }
        }
        // Some are nginx's and Cloudflare's own: something broke behind them.
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

/// Whether Go's server or nginx complains of plain HTTP on a TLS port.
fn is_about_tls(message: &str) -> bool {
    message.contains("HTTP request to an HTTPS server")
        || message.contains("plain HTTP request was sent to HTTPS")
}
