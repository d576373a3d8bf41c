//! Connections that are begun before they are needed.
//!
//! A listing sends one request for the list of tags, and then many at once. While the list is on its way, the connections
//! for those are opened: then none of them waits for a handshake of TCP.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use log::debug;
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use crate::lock::lock;

/// The connections that are begun.
#[derive(Clone, Debug, Default)]
pub struct Ahead(Arc<Mutex<Listings>>);

/// The listings under way, each with its connections. Several may be of one origin.
#[derive(Debug, Default)]
struct Listings {
    begun: Vec<Begun>,
    last_number: u64,
}

#[derive(Debug)]
struct Begun {
    /// The number of the listing.
    number: u64,
    /// `https://host:port`
    origin: String,
    /// The number of connections to begin, beside the first one that is needed.
    wanted: usize,
    sockets: Vec<TcpStream>,
}

/// Until this is dropped, connections for one listing are opened ahead.
pub struct Expected {
    ahead: Ahead,
    number: u64,
}

impl Ahead {
    /// Announces `requests` parallel requests to an origin. Their connections are opened together with the first one
    /// that is needed; none are opened if the first request finds an idle connection.
    pub fn expect(&self, origin: &str, requests: usize) -> Expected {
        let mut listings = lock(&self.0);
        listings.last_number += 1;
        let number = listings.last_number;
        listings.begun.push(Begun {
            number,
            origin: origin.to_owned(),
            wanted: requests.saturating_sub(1),
            sockets: Vec::new(),
        });
        Expected {
            ahead: self.clone(),
            number,
        }
    }

    /// A connection to this origin that was opened ahead, for whichever listing.
    pub fn take(&self, origin: &str) -> Option<TcpStream> {
        let mut listings = lock(&self.0);
        let mut of_origin = listings.begun.iter_mut().filter(|one| one.origin == origin);
        of_origin.find_map(|one| one.sockets.pop())
    }

    /// Begins the connections that one listing wants at this place, for it has just accepted one at this address.
    pub fn begin(&self, origin: &str, address: io::Result<SocketAddr>) {
        let mut listings = lock(&self.0);
        let mut waiting = listings.begun.iter_mut();
        let begun = waiting.find(|one| one.origin == origin && one.wanted > 0);
        let (Some(begun), Ok(address)) = (begun, address) else {
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
        let mut listings = lock(&self.ahead.0);
        let mut begun = listings.begun.iter_mut();
        if let Some(begun) = begun.find(|one| one.number == self.number) {
            begun.wanted = 0;
        }
    }
}

impl Drop for Expected {
    /// Closes the connections that were not needed.
    fn drop(&mut self) {
        let mut listings = lock(&self.ahead.0);
        listings.begun.retain(|one| one.number != self.number);
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
        drop(expected);
        assert!(lock(&ahead.0).begun.is_empty());
    }

    #[test]
    fn two_listings_of_one_registry_have_their_own_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let ahead = Ahead::default();
        let (first, second) = (ahead.expect("r", 3), ahead.expect("r", 5));
        ahead.begin("r", Ok(address));
        assert_eq!(lock(&ahead.0).begun[0].sockets.len(), 2);
        second.is_answered();
        ahead.begin("r", Ok(address));
        assert_eq!(
            lock(&ahead.0).begun[1].sockets.len(),
            0,
            "it found an idle one"
        );
        drop(second);
        assert_eq!(lock(&ahead.0).begun[0].sockets.len(), 2, "the other's stay");
        assert!(ahead.take("r").is_some());
        drop(first);
        assert!(ahead.take("r").is_none());
    }
}
