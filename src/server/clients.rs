//! The clients: a thread for each connection, which answers one request after the other.

use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use log::{debug, error, info, warn};
use sd_notify::NotifyState;

use super::connections::{Connections, Seat};
use super::handler::{self, Service};
use super::http::{Connection, Interrupted, Request, Response, WRITE_TIMEOUT, is_timeout};
use super::signals::Signals;
use super::{LOOK, notify};
use crate::advice::advice;
use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::journal;
use crate::printable::printable;

/// Connections served at once.
const MAX_CONNECTIONS: usize = 64;
/// How long responses may take after SIGTERM. `TimeoutStopSec=` of the unit is longer.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// Clients at once that were turned away and whose requests are still read.
const MAX_LEAVING: usize = 64;
/// After a log line about clients that were turned away, more of them are only counted for this time.
const QUIET: Duration = Duration::from_secs(10);

/// The clients that are served, and those that were turned away.
pub struct Clients {
    pub service: Arc<Service>,
    /// The caches of the services before a reload, which may still answer or flatten something.
    former: Vec<Arc<Cache>>,
    pub connections: Arc<Connections>,
    /// Each thread that reads the request of a client that was turned away has one more reference.
    leaving: Arc<()>,
    /// Clients turned away that no line in the log has counted yet.
    turned_away: usize,
    /// When the last such line was logged.
    logged: Option<Instant>,
}

impl Clients {
    /// No client yet.
    pub fn new(service: Service) -> Self {
        Self {
            service: Arc::new(service),
            former: Vec::new(),
            connections: Arc::new(Connections::new(MAX_CONNECTIONS, report)),
            leaving: Arc::default(),
            turned_away: 0,
            logged: None,
        }
    }

    /// Serves a client on a thread of its own, or turns it away if all connections are in use.
    pub fn welcome(&mut self, stream: TcpStream) {
        let connection = match Connection::new(stream) {
            Ok(connection) => connection,
            Err(error) => return debug!("a connection was gone at once: {error}"),
        };
        let (seat, gone) = self.connections.admit(connection.socket());
        self.turned_away += gone;
        let Some(seat) = seat else {
            return self.turn_away(connection);
        };
        let service = self.service.clone();
        let thread = thread::Builder::new().name("connection".into());
        serve_on(thread, connection, move |connection| {
            let _left = Left(&service);
            converse(connection, &seat, &service);
        });
    }

    fn turn_away(&mut self, mut connection: Connection) {
        connection.turn_away(&Error::Full {
            limit: MAX_CONNECTIONS,
        });
        self.turned_away += 1;
        // A client that is sending its request would not read the response after a reset.
        if Arc::strong_count(&self.leaving) <= MAX_LEAVING {
            let counted = self.leaving.clone();
            let thread = thread::Builder::new().name("leaving".into());
            let linger = move || {
                let _counted = counted;
                connection.linger();
            };
            if let Err(error) = thread.spawn(linger) {
                debug!("no thread for a client that was told to come again: {error}");
            }
        }
    }

    /// Logs the first client that is turned away, then one line for all of a while.
    pub fn log_turned_away(&mut self) {
        let is_quiet = self.logged.is_some_and(|logged| logged.elapsed() < QUIET);
        if self.turned_away > 0 && !is_quiet {
            let n = std::mem::take(&mut self.turned_away);
            warn!(
                MESSAGE_ID = journal::TURNED_AWAY;
                "clients turned away: {n}; at most {MAX_CONNECTIONS} are connected at once"
            );
            self.logged = Some(Instant::now());
        }
    }

    /// Serves clients that connect from now on by the settings as they are now. Others are served as before, and each
    /// connection ends with its next response. If the settings cannot be read, those from before are kept.
    pub fn reload(&mut self, load: impl Fn() -> Result<Service>) {
        self.connections.leave();
        match load() {
            Ok(service) => {
                // One that nothing else holds has no unfinished file.
                self.former.retain(|cache| Arc::strong_count(cache) > 1);
                self.former.push(self.service.snapshots.cache());
                self.service.snapshots.retire();
                self.service = Arc::new(service);
                info!(
                    MESSAGE_ID = journal::RELOADED;
                    "settings read again for new clients; leaving when no client is connected"
                );
            }
            Err(error) => {
                let reason = error.line();
                error!(
                    MESSAGE_ID = journal::NOT_RELOADED,
                    REASON = reason.as_str();
                    "the settings from before are kept until no client is connected: {reason}"
                );
            }
        }
    }

    /// Removes the unfinished files of this process from the cache: it ends.
    pub fn close(&self) {
        let now = self.service.snapshots.cache();
        self.former
            .iter()
            .chain([&now])
            .for_each(|cache| cache.close());
    }

    /// Closes the connections that wait for a request and finishes the responses under way, until
    /// [`STOP_TIMEOUT`] or a second signal.
    pub fn stop(&self, signals: &Signals) {
        let answering = self.connections.stop();
        info!(
            "told to stop; answers under way: {answering}, which may take {} s",
            STOP_TIMEOUT.as_secs()
        );
        signals.forget_stop();
        let end = Instant::now() + STOP_TIMEOUT;
        while !self.connections.wait_until_empty(LOOK) {
            if signals.is_to_stop() || Instant::now() > end {
                for (request, transfer) in self.connections.being_answered() {
                    match transfer {
                        Some(transfer) => transfer.log_stop(&request),
                        None => warn!("{request}: not answered, for the service was told to stop"),
                    }
                }
                return;
            }
        }
    }
}

/// Tells systemd how many clients are connected, and how far their files are.
fn report(status: &str) {
    notify(&[NotifyState::Status(&printable(status))]);
}

/// Serves a connection on this thread, or answers it with an error if the thread cannot be started.
fn serve_on(
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

/// Tells the service that its client has left, also by a panic.
struct Left<'a>(&'a Service);

impl Drop for Left<'_> {
    fn drop(&mut self) {
        self.0.snapshots.client_left();
    }
}

/// Answers one request after the other until either side closes the connection.
fn converse(mut connection: Connection, seat: &Seat, service: &Service) {
    connection.take_over();
    loop {
        seat.wait();
        let after = match connection.request(seat) {
            Ok(Some(request)) => answer(&mut connection, &request, service, seat),
            Ok(None) => return,
            Err(error) => {
                info!("{}", error.line());
                seat.answer("a bad request".into());
                connection.refuse(&error);
                After::Linger
            }
        };
        match after {
            After::Next => {}
            After::Close => return,
            After::Linger => {
                seat.wait();
                return connection.linger();
            }
        }
    }
}

/// The next step of a connection after a response.
enum After {
    /// The connection waits for the next request.
    Next,
    /// The connection is closed.
    Close,
    /// The connection is closed once the rest of the request was read: closing it with unread bytes would discard the response.
    Linger,
}

/// Answers one request and logs how that went.
fn answer(connection: &mut Connection, request: &Request, service: &Service, seat: &Seat) -> After {
    let started = Instant::now();
    let Request { method, target, .. } = request;
    let line = format!("{method} {target}");
    let response = match service.answer(request) {
        Ok(response) => response,
        Err(Error::ClientGone) => {
            info!("{line}: client went away before there was an answer");
            return After::Close;
        }
        Err(error) => refusal(request, &error),
    };
    // A listing that was made during a reload is forgotten now: the client may take its time for the body.
    service.snapshots.client_left();
    let (status, transfer) = (response.status, response.transfer.clone());
    seat.respond(transfer.clone());
    let progress = |bytes| {
        if let Some(transfer) = &transfer {
            transfer.advance(bytes);
        }
        seat.report_progress();
    };
    match connection.answer(request, response, progress) {
        Ok(answered) => {
            let time = started.elapsed().as_millis();
            debug!("{line}: {status} in {time} ms");
            if let Some(transfer) = &transfer {
                transfer.log_end(answered.provenance.as_ref());
            }
            match answered.keeps_alive {
                true => After::Next,
                false if request.has_body => After::Linger,
                false => After::Close,
            }
        }
        Err(Interrupted::Client(error)) if is_timeout(&error) => {
            let why = format!("its client took nothing for {} s", WRITE_TIMEOUT.as_secs());
            match &transfer {
                Some(transfer) => transfer.log_cut(&line, &why),
                None => warn!("{line}: answer cut short: {why}"),
            }
            After::Close
        }
        Err(Interrupted::Client(error)) => {
            info!("{line}: client went away before it had everything: {error}");
            After::Close
        }
        Err(Interrupted::Body(error)) => {
            match &transfer {
                Some(transfer) => transfer.log_cut(&line, &error.line()),
                None => error!("{line}: answer cut short: {}", error.line()),
            }
            After::Close
        }
    }
}

/// The response to a request that failed, which is logged here and nowhere else.
fn refusal(request: &Request, error: &Error) -> Response {
    let Request { method, target, .. } = request;
    let (status, reason, step) = (error.status(), error.line(), advice(error).0);
    let line = format!("{method} {target}: {status}: {reason}");
    let asked = handler::Asking::of(target);
    match status {
        404 if asked.is_routine => debug!("{line}"),
        404 => info!(
            MESSAGE_ID = journal::NOT_FOUND,
            REPOSITORY = asked.directory.as_str(),
            FILE = asked.file.as_str(),
            REASON = reason.as_str();
            "{line}"
        ),
        403 | 500.. => error!(
            MESSAGE_ID = journal::FAILED,
            REPOSITORY = asked.directory.as_str(),
            FILE = asked.file.as_str(),
            STATUS = status,
            STEP:% = step,
            REASON = reason.as_str();
            "{line}"
        ),
        // The client's own mistake.
        _ => info!("{line}"),
    }
    Response::error(error, request.form)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

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
        serve_on(too_large, connection, |_| panic!("there was a thread"));
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        for line in ["X-Reason: no thread could be started", "Retry-After: 1\r\n"] {
            assert!(answer.contains(line), "{answer}");
        }
        assert!(answer.ends_with("\r\n\r\n"), "no body: {answer}");
    }
}
