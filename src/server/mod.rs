//! The accept loop, the idle exit, and the end of the process.
//!
//! The service waits for its listener and for signals together. Only `accept` decides that no client came: the
//! process exits when `accept` has given up without having taken a connection and none is open. A connection that
//! comes later waits in the backlog, and systemd starts the service again. So no request is ever lost (measured in
//! `tests/it/idle.rs`).

pub mod access;
mod clients;
mod connections;
mod download;
mod form;
pub mod handler;
pub mod html;
pub mod http;
pub mod json;
mod latest_json;
mod listener;
mod signals;
mod transfer;

use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sd_notify::NotifyState;

use crate::error::{Error, Result};
use crate::journal;
use clients::Clients;
use handler::Service;
use signals::Signals;

pub use listener::{open as open_listener, turn_away_waiting};

/// Longest wait before the next look whether the last client has left, or another signal come.
const LOOK: Duration = Duration::from_millis(100);

/// Shortest time from SIGHUP to the exit. systemd's job for `ExecReload=` fails ("canceled") if the process ends before
/// systemd has seen that command end (measured: systemd 257 and 262).
const RELOAD_JOB: Duration = Duration::from_secs(1);

/// Why the service ends.
enum End {
    /// No client came for the idle timeout.
    Idle,
    /// SIGHUP came, and no client is connected.
    Leave,
    /// SIGTERM or SIGINT came.
    Stop,
}

/// Serves until no client has come for the idle timeout, or a signal ends the process. `is_activated`: the listener is
/// systemd's, which starts the service again; otherwise nobody would, and it stays. `load` makes the service from the
/// settings as they are now.
pub fn run(
    service: Service,
    listener: TcpListener,
    is_activated: bool,
    load: impl Fn() -> Result<Service>,
) -> Result<()> {
    let idle = is_activated.then_some(service.settings.idle_timeout);
    let signals = Signals::catch().map_err(Error::service("handle signals"))?;
    let address = listener
        .local_addr()
        .map_or_else(|_| "its socket".to_owned(), |address| address.to_string());
    info!(MESSAGE_ID = journal::STARTED; "serving on {address}");
    let mut clients = Clients::new(service);
    let ready = NotifyState::Status("waiting for clients");
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready, ready]) {
        // After TimeoutStartSec= systemd stops the service, and says only that.
        warn!("systemd cannot be told that the service is ready, and will stop it: {error}");
    }
    let end = accept_until_end(&listener, &signals, &mut clients, idle, load)?;
    notify(&[NotifyState::Stopping]);
    // From here on clients wait in the backlog of systemd's socket, or are refused.
    drop(listener);
    let reason = match end {
        End::Idle => "no client came any more",
        End::Leave => "no client is connected, and SIGHUP asked for it",
        End::Stop => {
            clients.stop(&signals);
            "it was told to stop"
        }
    };
    info!(MESSAGE_ID = journal::STOPPED, REASON = reason; "leaving: {reason}");
    clients.close();
    Ok(())
}

/// Accepts connections until the service is to end. The idle exit is decided here.
fn accept_until_end(
    listener: &TcpListener,
    signals: &Signals,
    clients: &mut Clients,
    idle: Option<Duration>,
    load: impl Fn() -> Result<Service>,
) -> Result<End> {
    // After SIGHUP: the first moment to leave.
    let mut leave_at: Option<Instant> = None;
    loop {
        let is_to_leave = leave_at.is_some();
        let timeout = match is_to_leave {
            false => idle,
            true if clients.connections.is_empty() => Some(Duration::ZERO),
            true => Some(LOOK),
        };
        let is_idle =
            !wait(listener, signals, timeout).map_err(Error::service("wait for clients"))?;
        if signals.is_to_stop() {
            return Ok(End::Stop);
        }
        // Before the next client is accepted, who is to be served by the new settings.
        if signals.take_hangup() {
            leave_at = Some(Instant::now() + RELOAD_JOB);
            if !clients.connections.is_empty() {
                clients.reload(&load);
            }
        }
        // Clients that wait in the backlog of systemd's socket are served by the next process, which has new
        // credentials, too.
        if let Some(leave_at) = leave_at
            && idle.is_some()
            && clients.connections.is_empty()
        {
            thread::sleep(leave_at.saturating_duration_since(Instant::now()));
            return Ok(End::Leave);
        }
        match listener.accept() {
            Ok((stream, _)) => clients.welcome(stream),
            // `accept` has given up without having taken a connection: the process may exit if none is open.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if is_idle
                    && clients.connections.is_empty()
                    && (is_to_leave || !clients.service.snapshots.is_busy())
                {
                    return Ok(if is_to_leave { End::Leave } else { End::Idle });
                }
            }
            Err(error) => listener::after_failed_accept(error)?,
        }
        clients.log_turned_away();
    }
}

/// Waits for a connection or a signal. False if neither came in that time.
fn wait(listener: &TcpListener, signals: &Signals, time: Option<Duration>) -> io::Result<bool> {
    let time = time.map(Timespec::try_from).transpose();
    let time = time.map_err(|_| ErrorKind::InvalidInput)?;
    let mut sources = [
        PollFd::new(listener, PollFlags::IN),
        PollFd::new(&signals.pipe, PollFlags::IN),
    ];
    match poll(&mut sources, time.as_ref()) {
        Ok(ready) => {
            signals.drain();
            Ok(ready > 0)
        }
        Err(rustix::io::Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Tells systemd the state of the service. Without systemd there is nobody to tell.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!("systemd cannot be told {state:?}: {error}");
    }
}
