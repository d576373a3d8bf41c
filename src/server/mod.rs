//! The listener, signals, and the end of the process.
//!
//! The listener is waited for together with a pipe that signals write to. Only `accept` decides that nobody
//! came: the process exits when `accept` has given up without having taken a connection and none is open. A
//! connection that comes later waits in the backlog, and systemd starts the service again. So no request is
//! ever lost (measured in `tests/it/idle.rs`).
//!
//! The listener is systemd's, too: it is closed, but never shut down.

pub mod access;
mod connections;
pub mod handler;
pub mod html;
pub mod http;

use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use listenfd::ListenFd;
use log::{debug, error, info, warn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level};
use socket2::SockRef;

use crate::error::{Error, Result};
use connections::{Connections, Seat};
use handler::Service;
use http::{Answer, Connection, Interrupted, Request};

/// Connections served at once.
const MAX_CONNECTIONS: usize = 64;
/// How long `accept` itself waits, once the listener was waited for.
const ACCEPT_TIMEOUT: Duration = Duration::from_millis(1);
/// How long answers under way may take after SIGTERM. `TimeoutStopSec=` of the unit is longer.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// Before the next look whether the last client has left, or another signal come.
const LOOK: Duration = Duration::from_millis(100);
/// Clients at once that were told to come again and may go on speaking for a moment.
const MAX_LEAVING: usize = 64;
/// After a line about clients that were turned away, so long they are only counted.
const QUIET: Duration = Duration::from_secs(10);
/// Before accepting again when the system is short of descriptors or memory.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);

/// Serves until no client has come for the idle timeout, or a signal ends the process.
pub fn run(service: Service, listen: Option<SocketAddr>) -> Result<()> {
    let idle = service.idle_timeout();
    let listener = listener(listen)?;
    let cannot = |what| {
        move |cause| Error::Service {
            what,
            cause: Arc::new(cause),
        }
    };
    let signals = Signals::catch().map_err(cannot("handle signals"))?;
    // systemd's sockets may come non-blocking; the timeout needs a blocking accept.
    listener
        .set_nonblocking(false)
        .map_err(cannot("make the socket blocking"))?;
    SockRef::from(&listener)
        .set_read_timeout(Some(ACCEPT_TIMEOUT))
        .map_err(cannot("set the accept timeout"))?;

    let address = listener
        .local_addr()
        .map_or_else(|_| "its socket".to_owned(), |address| address.to_string());
    info!("serving on {address}");
    let mut clients = Clients::new(service);
    if let Err(error) = sd_notify::notify(&[
        NotifyState::Ready,
        NotifyState::Status("waiting for clients"),
    ]) {
        // After TimeoutStartSec= it ends us, and has only that to say.
        warn!("systemd cannot be told that the service is ready, and will stop it: {error}");
    }
    while !signals.is_to_stop() {
        let timeout = match signals.is_to_leave() {
            true if clients.connections.is_empty() => Duration::ZERO,
            true => LOOK,
            false => idle,
        };
        let has_come = wait(&listener, &signals, timeout).map_err(cannot("wait for clients"))?;
        if signals.is_to_stop() {
            break;
        }
        match listener.accept() {
            Ok((stream, _)) => clients.welcome(stream),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if !has_come && !clients.need_us(&signals) {
                    break;
                }
            }
            Err(error) => after_failed_accept(error)?,
        }
        clients.refused.tell();
    }
    notify(&[NotifyState::Stopping]);
    // Whoever comes now waits in the backlog of systemd's own, or is refused.
    drop(listener);
    if signals.is_to_stop() {
        clients.stop(&signals);
    } else if signals.is_to_leave() {
        info!("no client, leaving as SIGHUP asked for");
    } else {
        info!("no client for {} s, leaving", idle.as_secs_f64());
    }
    clients.service.close();
    Ok(())
}

/// Waits for a connection, a signal, or that time. Is it less than that time?
fn wait(listener: &TcpListener, signals: &Signals, time: Duration) -> io::Result<bool> {
    let time = Timespec::try_from(time).map_err(|_| ErrorKind::InvalidInput)?;
    let mut sources = [
        PollFd::new(listener, PollFlags::IN),
        PollFd::new(&signals.pipe, PollFlags::IN),
    ];
    match poll(&mut sources, Some(&time)) {
        Ok(ready) => {
            signals.drain();
            Ok(ready > 0)
        }
        Err(rustix::io::Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Signals that have come.
struct Signals {
    /// SIGTERM or SIGINT.
    stop: Arc<AtomicBool>,
    /// SIGHUP.
    leave: Arc<AtomicBool>,
    /// Has something to read after a signal, so that none is missed between a look and a wait.
    pipe: UnixStream,
}

impl Signals {
    fn catch() -> io::Result<Self> {
        let (pipe, writer) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        let signals = Self {
            stop: Arc::default(),
            leave: Arc::default(),
            pipe,
        };
        for (signal, told) in [
            (SIGTERM, &signals.stop),
            (SIGINT, &signals.stop),
            (SIGHUP, &signals.leave),
        ] {
            // In this order: who finds something in the pipe finds out what it is.
            flag::register(signal, told.clone())?;
            low_level::pipe::register(signal, writer.try_clone()?)?;
        }
        Ok(signals)
    }

    /// Is the process to end, whoever is being served?
    fn is_to_stop(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Is it to end as soon as nobody is served?
    fn is_to_leave(&self) -> bool {
        self.leave.load(Ordering::SeqCst)
    }

    fn drain(&self) {
        while let Ok(1..) = (&self.pipe).read(&mut [0; 64]) {}
    }
}

/// Answers whoever waits on the socket from systemd with the error that keeps us from serving.
///
/// Without that they would wait for an answer as long as their patience lasts, and systemd would start
/// us for their connections again and again.
pub fn turn_away_waiting(error: &Error) {
    let Ok(Some(listener)) = ListenFd::from_env().take_tcp_listener(0) else {
        return;
    };
    let is_ready = listener.set_nonblocking(false).is_ok()
        && SockRef::from(&listener)
            .set_read_timeout(Some(Duration::from_millis(1)))
            .is_ok();
    while is_ready && let Ok((stream, _)) = listener.accept() {
        if let Ok(mut connection) = Connection::new(stream) {
            connection.turn_away(error);
        }
    }
}

/// The socket that systemd handed over, or else one of our own.
fn listener(listen: Option<SocketAddr>) -> Result<TcpListener> {
    let no_socket = |why: String| Error::NoSocket { why, cause: None };
    let mut handed_over = ListenFd::from_env();
    match (handed_over.len(), listen) {
        (0, Some(address)) => TcpListener::bind(address).map_err(|cause| Error::NoSocket {
            why: match cause.kind() {
                ErrorKind::AddrInUse => format!(
                    "{address} is taken; stop what holds it (`ss -ltnp` shows it, perhaps it is \
                     sysext-oci-proxy.socket) or choose another port"
                ),
                _ => format!("cannot listen on {address}"),
            },
            cause: Some(Arc::new(cause)),
        }),
        (0, None) => Err(no_socket(
            "systemd handed over none; start sysext-oci-proxy.socket instead of this, \
             or give --listen 127.0.0.1:5001"
                .into(),
        )),
        (1, None) => match handed_over.take_tcp_listener(0) {
            Ok(Some(listener)) => Ok(listener),
            Ok(None) => Err(no_socket("the one handed over was taken already".into())),
            Err(cause) => Err(Error::NoSocket {
                why: "the one handed over is not a TCP listener; ListenStream= must name a port"
                    .into(),
                cause: Some(Arc::new(cause)),
            }),
        },
        (1, Some(_)) => Err(no_socket(
            "systemd handed over one, so --listen must not be given".into(),
        )),
        (n, _) => Err(no_socket(format!(
            "systemd handed over {n}, expected one; the socket unit may have one ListenStream="
        ))),
    }
}

/// A shortage passes; a socket that is no listener never will be one.
fn after_failed_accept(error: io::Error) -> Result<()> {
    match error.kind() {
        ErrorKind::Interrupted | ErrorKind::ConnectionAborted => Ok(()),
        ErrorKind::InvalidInput | ErrorKind::Unsupported => Err(Error::Service {
            what: "accept connections; the socket unit must not have Accept=yes",
            cause: Arc::new(error),
        }),
        _ => {
            warn!("cannot accept a connection, trying again: {error}");
            thread::sleep(SHORTAGE_PAUSE);
            Ok(())
        }
    }
}

fn report(connections: usize) {
    let status = match connections {
        0 => "waiting for clients".to_owned(),
        n => format!("serving {n} of at most {MAX_CONNECTIONS} connections"),
    };
    notify(&[NotifyState::Status(&status)]);
}

/// Without systemd there is nobody to tell.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!("systemd cannot be told {state:?}: {error}");
    }
}

/// Those who come, those who are served, and those who find no place.
struct Clients {
    service: Arc<Service>,
    connections: Arc<Connections>,
    /// Each of those who were told to come again and are listened to has one more reference.
    leaving: Arc<()>,
    refused: Refused,
}

impl Clients {
    fn new(service: Service) -> Self {
        Self {
            service: Arc::new(service),
            connections: Arc::new(Connections::new(MAX_CONNECTIONS, report)),
            leaving: Arc::default(),
            refused: Refused::default(),
        }
    }

    /// Is somebody being served, or something done that somebody will ask for? The latter does not matter
    /// after SIGHUP.
    fn need_us(&self, signals: &Signals) -> bool {
        !self.connections.is_empty() || (!signals.is_to_leave() && self.service.is_busy())
    }

    fn welcome(&mut self, stream: TcpStream) {
        let connection = match Connection::new(stream) {
            Ok(connection) => connection,
            Err(error) => return debug!("a connection was gone at once: {error}"),
        };
        let (seat, gone) = self.connections.admit(connection.socket());
        self.refused.untold += gone;
        let Some(seat) = seat else {
            return self.turn_away(connection);
        };
        let service = self.service.clone();
        let thread = thread::Builder::new().name("connection".into());
        aside(thread, connection, move |connection| {
            converse(connection, &seat, &service);
        });
    }

    fn turn_away(&mut self, mut connection: Connection) {
        connection.turn_away(&Error::Full {
            limit: MAX_CONNECTIONS,
        });
        self.refused.untold += 1;
        // Whoever is in the middle of a request would not read the answer after a reset.
        if Arc::strong_count(&self.leaving) <= MAX_LEAVING {
            let counted = self.leaving.clone();
            let thread = thread::Builder::new().name("leaving".into());
            let listen = move || {
                let _counted = counted;
                connection.linger();
            };
            if let Err(error) = thread.spawn(listen) {
                debug!("no thread for a client that was told to come again: {error}");
            }
        }
    }

    /// Closes the connections that wait for a request, and finishes the answers under way, as long as there is
    /// time and no second signal comes.
    fn stop(&self, signals: &Signals) {
        let answering = self.connections.stop();
        info!(
            "told to stop; answers under way: {answering}, which may take {} s",
            STOP_TIMEOUT.as_secs()
        );
        signals.stop.store(false, Ordering::SeqCst);
        let end = Instant::now() + STOP_TIMEOUT;
        while !self.connections.wait_until_empty(LOOK) {
            if signals.is_to_stop() || Instant::now() > end {
                for request in self.connections.being_answered() {
                    warn!("{request}: answer cut short, for the service was told to stop");
                }
                return;
            }
        }
    }
}

/// Clients that were turned away: a line for the first, then one for all those of a while.
#[derive(Default)]
struct Refused {
    untold: usize,
    told: Option<Instant>,
}

impl Refused {
    fn tell(&mut self) {
        let is_quiet = self.told.is_some_and(|told| told.elapsed() < QUIET);
        if self.untold > 0 && !is_quiet {
            let n = self.untold;
            warn!("clients turned away: {n}; at most {MAX_CONNECTIONS} are connected at once");
            self.untold = 0;
            self.told = Some(Instant::now());
        }
    }
}

/// Serves a client on a thread of its own, or tells it that there is none.
fn aside(
    thread: thread::Builder,
    connection: Connection,
    serve: impl FnOnce(Connection) + Send + 'static,
) {
    let mut unserved = connection.clone();
    if let Err(cause) = thread.spawn(move || serve(connection)) {
        let error = Error::NoThread {
            cause: Arc::new(cause),
        };
        warn!("{}", error.line());
        unserved.turn_away(&error);
    }
}

/// Answers one request after the other, until either side has enough.
fn converse(mut connection: Connection, seat: &Seat, service: &Service) {
    connection.take_over();
    // Closing with bytes unread would take back the answer.
    let finish = |mut connection: Connection| {
        seat.wait();
        connection.linger();
    };
    loop {
        seat.wait();
        let request = match connection.request(seat) {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(error) => {
                info!("{}", error.line());
                seat.answer("a bad request".into());
                connection.refuse(&error);
                return finish(connection);
            }
        };
        let started = Instant::now();
        let Request { method, target, .. } = &request;
        let answer = match service.answer(&request) {
            Ok(answer) => answer,
            Err(Error::ClientGone) => {
                return info!("{method} {target}: client went away before there was an answer");
            }
            Err(error) => refusal(&request, &error),
        };
        let status = answer.status;
        match connection.answer(&request, answer) {
            Ok(keeps_alive) => {
                debug!(
                    "{method} {target}: {status} in {} ms",
                    started.elapsed().as_millis()
                );
                if !keeps_alive && request.has_body {
                    return finish(connection);
                }
                if !keeps_alive {
                    return;
                }
            }
            Err(Interrupted::Client(error)) => {
                return info!(
                    "{method} {target}: client went away before it had everything: {error}"
                );
            }
            Err(Interrupted::Body(error)) => {
                return error!("{method} {target}: download cut short: {}", error.line());
            }
        }
    }
}

/// The answer to a request that failed, which is logged here and nowhere else.
fn refusal(request: &Request, error: &Error) -> Answer {
    let line = format!(
        "{} {}: {}: {}",
        request.method,
        request.target,
        error.status(),
        error.line()
    );
    match error {
        // Questions that have no better answer, asked by clients as a matter of course.
        Error::BadAddress { .. }
        | Error::NotOffered { .. }
        | Error::Missing { .. }
        | Error::MethodNotAllowed { .. } => info!("{line}"),
        _ => error!("{line}"),
    }
    let mut answer = Answer::error(error);
    if request.wants_html {
        let status = answer.status;
        let mut page = Answer::page(Arc::new(html::error(error).into_bytes()));
        page.headers.append(&mut answer.headers);
        answer = Answer { status, ..page };
    }
    answer
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_client_that_there_is_no_thread_for_is_told_to_come_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client
            .write_all(b"GET /k8s/SHA256SUMS HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .unwrap();
        let connection = Connection::new(listener.accept().unwrap().0).unwrap();
        // No machine has memory for such a stack.
        let too_large = thread::Builder::new().stack_size(1 << 60);
        aside(too_large, connection, |_| panic!("there was a thread"));
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        for line in ["X-Reason: no thread could be started", "Retry-After: 1\r\n"] {
            assert!(answer.contains(line), "{answer}");
        }
        assert!(answer.ends_with("\r\n\r\n"), "no body: {answer}");
    }
}
