//! Connections that are begun before they are needed.
//!
//! A listing sends one request for the list of tags, and then many at once. While the list is on its way, the connections
//! for those are opened: then none of them waits for a handshake of TCP.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use log::debug;
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use crate::lock::lock;

/// The connections that are begun, by origin (`https://host:port`).
#[derive(Clone, Debug, Default)]
pub struct Ahead(Arc<Mutex<HashMap<String, Begun>>>);

#[derive(Debug, Default)]
struct Begun {
    /// The number of connections to begin, beside the first one that is needed.
    wanted: usize,
    sockets: Vec<TcpStream>,
}

/// Until this is dropped, connections to one place are opened ahead.
pub struct Expected {
    ahead: Ahead,
    origin: String,
}

impl Ahead {
    /// Announces `requests` parallel requests to an origin. Their connections are opened together with the first one
    /// that is needed; none are opened if the first request finds an idle connection.
    pub fn expect(&self, origin: &str, requests: usize) -> Expected {
        let begun = Begun {
            wanted: requests.saturating_sub(1),
            sockets: Vec::new(),
        };
        lock(&self.0).insert(origin.to_owned(), begun);
        Expected {
            ahead: self.clone(),
            origin: origin.to_owned(),
        }
    }

    /// A connection to this origin that was opened ahead.
    pub fn take(&self, origin: &str) -> Option<TcpStream> {
        lock(&self.0).get_mut(origin)?.sockets.pop()
    }

    /// Begins the connections that are wanted at this place, for it has just accepted one at this address.
    pub fn begin(&self, origin: &str, address: io::Result<SocketAddr>) {
        let mut places = lock(&self.0);
        let (Some(begun), Ok(address)) = (places.get_mut(origin), address) else {
            return;
        };
        for _ in 0..std::mem::take(&mut begun.wanted) {
            match begin_connection(address) {
                Ok(socket) => begun.sockets.push(socket),
                // A connection that is not opened ahead is opened when it is needed.
                Err(error) => return debug!("{origin}: no connection ahead: {error}"),
            }
        }
    }
}

impl Expected {
    /// The first request is answered: from now on a connection is opened when it is needed.
    pub fn is_answered(&self) {
        if let Some(begun) = lock(&self.ahead.0).get_mut(&self.origin) {
            begun.wanted = 0;
        }
    }
}

impl Drop for Expected {
    /// Closes the connections that were not needed.
    fn drop(&mut self) {
        lock(&self.ahead.0).remove(&self.origin);
    }
}

/// Begins to connect, without waiting for the other side.
pub fn begin_connection(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Err(error) if Errno::from_io_error(&error) != Some(Errno::INPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn no_more_connections_are_begun_than_are_expected_and_none_later() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let ahead = Ahead::default();
        let begun = || std::iter::from_fn(|| ahead.take("r")).count();
        ahead.begin("r", Ok(address));
        assert_eq!(begun(), 0, "nothing is expected");
        let expected = ahead.expect("r", 4);
        ahead.begin("other", Ok(address));
        assert_eq!(begun(), 0, "not there");
        ahead.begin("r", Ok(address));
        assert_eq!(begun(), 3, "beside the first");
        ahead.begin("r", Ok(address));
        assert_eq!(begun(), 0, "once");
        drop(expected);
        let expected = ahead.expect("r", 4);
        expected.is_answered();
        ahead.begin("r", Ok(address));
        assert_eq!(begun(), 0, "the first request found an open connection");
        drop(ahead.expect("r", 4));
        assert!(lock(&ahead.0).is_empty());
    }
}
