//! Connections for ureq. They differ from ureq's own in one point: every wait for the server, or for the resolver, ends
//! when the client that the request is made for disconnects.
//!
//! ureq's interface for this is unversioned; `Cargo.lock` pins it.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::http::uri::Authority;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::time::Duration as Wait;
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, Either, NextTimeout, Transport,
};
use ureq::{Error, Timeout};

use super::ahead::{Ahead, begin_connection};
use super::buffers::GrowingBuffers;
use super::tls::Tls;
use crate::lock::lock;
use crate::task::{self, Until};

/// Connects as ureq's `DefaultConnector` does: through a proxy if there is one, with TLS for https.
pub fn connector(tls: Tls, ahead: Ahead) -> impl Connector {
    ().chain(ConnectProxyConnector::default())
        .chain(Tcp { ahead })
        .chain(tls)
}

/// Resolves names by the system's resolver.
#[derive(Debug)]
pub struct SystemResolver;

/// The failure of the system's resolver, to be told from those of connections.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unresolved(pub io::Error);

impl Resolver for SystemResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let at_once = NextTimeout {
            after: Wait::NotHappening,
            ..timeout
        };
        let host = uri.host().unwrap_or_default();
        if host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
            return DefaultResolver::default().resolve(uri, config, at_once);
        }
        let (uri, config) = (uri.clone(), config.clone());
        aside(timeout, move || {
            let found = DefaultResolver::default().resolve(&uri, &config, at_once);
            found.map_err(|error| match error {
                Error::Io(error) => Error::Other(Box::new(Unresolved(error))),
                error => error,
            })
        })
    }
}

/// The end of a wait: the earlier of ureq's timeout and the deadline of the thread's work.
fn limit(timeout: NextTimeout) -> Option<Instant> {
    let times = timeout.not_zero().map(|time| *time).into_iter();
    let time = times.chain(task::time_left()).min()?;
    Some(Instant::now() + time)
}

/// Runs a call that cannot be interrupted in a thread of its own. If the wait ends first, the thread is left alone.
fn aside<T: Send + 'static>(
    timeout: NextTimeout,
    ask: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let answer = Arc::new((Mutex::new(None), Condvar::new()));
    let answers = answer.clone();
    thread::Builder::new().spawn(move || {
        *lock(&answers.0) = Some(ask());
        answers.1.notify_all();
    })?;
    let _limit = timeout.not_zero().map(|time| task::within(*time));
    let found = task::wait_for(&answer.0, &answer.1, String::new, Option::take);
    found.unwrap_or_else(|over| {
        Err(match over {
            crate::error::Error::ClientGone => Error::Io(task::client_gone()),
            _ => Error::Timeout(timeout.reason),
        })
    })
}

/// Connects to the first of a host's addresses that answers, unless a connection was opened ahead.
#[derive(Debug)]
struct Tcp {
    ahead: Ahead,
}

impl<In: Transport> Connector<In> for Tcp {
    type Out = Either<In, TcpTransport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        if let Some(tunnel) = chained {
            return Ok(Some(Either::A(tunnel)));
        }
        let config = details.config;
        let buffers = GrowingBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        let transport = TcpTransport {
            stream: self.open(details)?,
            buffers,
            looked: Instant::now(),
        };
        transport.stream.set_nodelay(config.no_delay())?;
        Ok(Some(Either::B(transport)))
    }
}

impl Tcp {
    fn open(&self, details: &ConnectionDetails<'_>) -> Result<TcpStream, Error> {
        let uri = details.uri;
        let authority = uri.authority().map_or("", Authority::as_str);
        let origin = format!("{}://{authority}", uri.scheme_str().unwrap_or_default());
        while let Some(begun) = self.ahead.take(&origin) {
            match established(begun, limit(details.timeout).map(time_until)) {
                Ok(stream) if is_silent(&stream) => return Ok(stream),
                // The other side has not waited so long for a request.
                Ok(_) => {}
                Err(error) if task::is_client_gone() => return Err(Error::Io(error)),
                // Another attempt tells more: it tries all addresses.
                Err(_) => break,
            }
        }
        let stream = connect(&details.addrs, details.timeout)?;
        self.ahead.begin(&origin, stream.peer_addr());
        Ok(stream)
    }
}

fn connect(addresses: &[SocketAddr], timeout: NextTimeout) -> Result<TcpStream, Error> {
    let end = limit(timeout);
    let mut failure = Error::HostNotFound;
    for (index, address) in addresses.iter().enumerate() {
        let left = end.map(time_until);
        // An address without a response leaves time for the others.
        let is_last = index + 1 == addresses.len();
        let share = left.map(|left| if is_last { left } else { left / 2 });
        match connect_to(*address, share) {
            Ok(stream) => return Ok(stream),
            Err(error) if task::is_client_gone() => return Err(Error::Io(error)),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                failure = Error::Timeout(Timeout::Connect);
            }
            Err(error) => failure = Error::Io(error),
        }
    }
    Err(failure)
}

fn connect_to(address: SocketAddr, time: Option<Duration>) -> io::Result<TcpStream> {
    established(begin_connection(address)?, time)
}

/// Waits for a connection that was begun.
fn established(stream: TcpStream, time: Option<Duration>) -> io::Result<TcpStream> {
    task::wait_for_socket(&stream, Until::Writable, time)?;
    stream.take_error()?.map_or(Ok(stream), Err)
}

fn time_until(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now())
}

/// A non-blocking connection, so that one poll waits for it and for the client's connection.
#[derive(Debug)]
struct TcpTransport {
    stream: TcpStream,
    buffers: GrowingBuffers,
    /// When the client's connection was last checked. A fast download never waits, and does not check at each read.
    looked: Instant,
}

impl Transport for TcpTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let mut left = &self.buffers.output()[..amount];
        while !left.is_empty() {
            let write = |mut stream: &TcpStream| stream.write(left);
            let written =
                without_waiting(&self.stream, Until::Writable, timeout.for_write(), write)?;
            if written == 0 {
                return Err(Error::Io(io::ErrorKind::WriteZero.into()));
            }
            left = &left[written..];
        }
        self.buffers.sent();
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        if self.looked.elapsed() >= task::LOOK {
            if task::is_client_gone() {
                return Err(Error::Io(task::client_gone()));
            }
            self.looked = Instant::now();
        }
        let free = self.buffers.input_append_buf();
        let read = |mut stream: &TcpStream| stream.read(free);
        let amount = without_waiting(&self.stream, Until::Readable, timeout.for_read(), read)?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    /// Asked between two requests.
    fn is_open(&mut self) -> bool {
        self.buffers.release();
        is_silent(&self.stream)
    }
}

/// Whether there is nothing to read, not even the end of the stream.
fn is_silent(stream: &TcpStream) -> bool {
    let peeked = stream.peek(&mut [0]);
    peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Reads or writes once, after waiting until the stream allows it.
fn without_waiting(
    stream: &TcpStream,
    until: Until,
    timeout: NextTimeout,
    mut attempt: impl FnMut(&TcpStream) -> io::Result<usize>,
) -> Result<usize, Error> {
    if timeout.after.is_zero() {
        return Err(Error::Timeout(timeout.reason));
    }
    let end = limit(timeout);
    loop {
        match attempt(stream) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let left = end.map(time_until);
                task::wait_for_socket(stream, until, left).map_err(|error| match error.kind() {
                    io::ErrorKind::TimedOut => Error::Timeout(timeout.reason),
                    _ => Error::Io(error),
                })?;
            }
            done => return done.map_err(Error::Io),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Socket, Type};
    use std::net::TcpListener;

    /// Nothing that is waited for here takes less than this, or more.
    const LIMIT: Duration = Duration::from_secs(1);

    fn within(time: Duration) -> NextTimeout {
        NextTimeout {
            after: time.into(),
            reason: Timeout::Resolve,
            ..NextTimeout::default()
        }
    }

    /// An address where nobody takes up the connection, as behind a filter that drops it.
    fn silent() -> (SocketAddr, TcpStream, Socket) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        listener.bind(&any.into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let waiting = TcpStream::connect(address).unwrap();
        (address, waiting, listener)
    }

    #[test]
    fn nothing_is_waited_for_when_the_client_goes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let ours = Arc::new(listener.accept().unwrap().0);
        let (address, ..) = &silent();
        task::work_for(&ours);
        let leaves = thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            drop(client);
        });
        let begin = Instant::now();
        let connected = connect(&[*address], within(Duration::from_secs(20)));
        assert!(matches!(&connected, Err(Error::Io(_))), "{connected:?}");
        leaves.join().unwrap();
        let found = aside(within(Duration::from_secs(20)), || {
            thread::sleep(Duration::from_secs(20));
            Ok(())
        });
        assert!(matches!(&found, Err(Error::Io(_))), "{found:?}");
        assert!(begin.elapsed() < LIMIT, "{:?}", begin.elapsed());
    }

    #[test]
    fn an_address_that_is_silent_leaves_time_for_the_next() {
        let (address, ..) = &silent();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = other.local_addr().unwrap();
        let begin = Instant::now();
        let connected = connect(&[*address, other], within(LIMIT));
        assert!(connected.is_ok(), "{connected:?}");
        let connected = connect(&[*address], within(LIMIT / 10));
        assert!(matches!(connected, Err(Error::Timeout(Timeout::Connect))));
        assert!(begin.elapsed() < LIMIT, "{:?}", begin.elapsed());
    }

    #[test]
    fn a_name_that_takes_too_long_is_given_up() {
        let found = aside(within(Duration::from_millis(10)), || {
            thread::sleep(LIMIT);
            Ok(())
        });
        assert!(matches!(found, Err(Error::Timeout(Timeout::Resolve))));
        let found = aside(within(LIMIT), || Ok(7));
        assert_eq!(found.unwrap(), 7);
    }
}
