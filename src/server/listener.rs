//! The listening socket: the one from systemd, or one of our own.
//!
//! The listener is systemd's, too: it is closed, but never shut down.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use listenfd::ListenFd;
use log::warn;
use socket2::SockRef;

use super::http::Connection;
use crate::error::{Error, Result};

/// How long `accept` waits before it gives up without having taken a connection.
const ACCEPT_TIMEOUT: Duration = Duration::from_millis(1);
/// Pause before accepting again when the system is short of descriptors or memory.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);

/// Opens the listener.
pub fn open(listen: Option<SocketAddr>) -> Result<TcpListener> {
    let handed_over = ListenFd::from_env();
    let listener = match (handed_over.len(), listen) {
        (0, Some(address)) => bind(address)?,
        (1, None) => take(handed_over)?,
        (n, _) => return Err(no_socket(wrong_number(n), None)),
    };
    set_accept_timeout(&listener).map_err(Error::service("set up the listening socket"))?;
    Ok(listener)
}

fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).map_err(|cause| {
        let why = match cause.kind() {
            ErrorKind::AddrInUse => format!(
                "{address} is taken; stop what holds it (`ss -ltnp` shows it, perhaps it is \
                 sysext-oci-proxy.socket) or choose another port"
            ),
            _ => format!("cannot listen on {address}"),
        };
        no_socket(why, Some(cause))
    })
}

fn take(mut handed_over: ListenFd) -> Result<TcpListener> {
    match handed_over.take_tcp_listener(0) {
        Ok(Some(listener)) => Ok(listener),
        Ok(None) => Err(no_socket(
            "the one handed over was taken already".into(),
            None,
        )),
        Err(cause) => Err(no_socket(
            "the one handed over is not a TCP listener; ListenStream= must name a port".into(),
            Some(cause),
        )),
    }
}

/// Why there is no listener, where systemd handed over `n`.
fn wrong_number(n: usize) -> String {
    match n {
        0 => "systemd handed over none; start sysext-oci-proxy.socket instead of this, \
              or give --listen 127.0.0.1:5001"
            .into(),
        1 => "systemd handed over one, so --listen must not be given".into(),
        n => format!(
            "systemd handed over {n}, expected one; the socket unit may have one ListenStream="
        ),
    }
}

fn no_socket(why: String, cause: Option<io::Error>) -> Error {
    Error::NoSocket {
        why,
        cause: cause.map(Arc::new),
    }
}

/// A socket from systemd may be non-blocking; `SO_RCVTIMEO` needs a blocking one.
fn set_accept_timeout(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(false)?;
    SockRef::from(listener).set_read_timeout(Some(ACCEPT_TIMEOUT))
}

/// Waits until a shortage is over. A socket that is no listener is an error.
pub fn after_failed_accept(error: io::Error) -> Result<()> {
    match error.kind() {
        ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
        ErrorKind::InvalidInput | ErrorKind::Unsupported => {
            let what = "accept connections; the socket unit must not have Accept=yes";
            return Err(Error::service(what)(error));
        }
        _ => {
            warn!("cannot accept a connection, trying again: {error}");
            thread::sleep(SHORTAGE_PAUSE);
        }
    }
    Ok(())
}

/// Answers the clients that wait on the socket from systemd with the error that keeps the service from starting.
///
/// Otherwise they would wait until their own timeouts, and systemd would start the service for them again and
/// again.
pub fn turn_away_waiting(error: &Error) {
    let Ok(listener) = take(ListenFd::from_env()) else {
        return;
    };
    if set_accept_timeout(&listener).is_err() {
        return;
    }
    while let Ok((stream, _)) = listener.accept() {
        if let Ok(mut connection) = Connection::new(stream) {
            connection.turn_away(error);
        }
    }
}
