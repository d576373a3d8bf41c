//! Clients that go away, so that nobody works on for them.
//!
//! A connection has a thread of its own, so who the client is belongs to the thread. What is done for
//! one client alone (a blob, but not a listing, which others may be waiting for, too) is done under a
//! [`watch`]; whatever waits meanwhile asks [`is_gone`] or sleeps by [`pause`].

use std::cell::{Cell, RefCell};
use std::io;
use std::net::TcpStream;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::deadline;

/// Longest wait before the next look at the client.
pub const LOOK: Duration = Duration::from_millis(500);

thread_local! {
    static CLIENT: RefCell<Weak<TcpStream>> = const { RefCell::new(Weak::new()) };
    static WATCHES: Cell<u32> = const { Cell::new(0) };
}

/// From now on this thread works for this client.
pub fn work_for(client: &Arc<TcpStream>) {
    CLIENT.set(Arc::downgrade(client));
}

/// As long as it lives, what this thread does is of no use without its client.
pub struct Watch(());

/// Begins to watch this thread's client, if it has one.
pub fn watch() -> Watch {
    WATCHES.set(WATCHES.get() + 1);
    Watch(())
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHES.set(WATCHES.get() - 1);
    }
}

/// Is there a client who may go away?
pub fn is_watched() -> bool {
    WATCHES.get() > 0
}

/// Is the client gone that is being watched?
///
/// One that has only shut down its sending half counts, too: nothing tells it from one that has
/// closed. nginx does the same (`ngx_http_upstream_check_broken_connection`).
pub fn is_gone() -> bool {
    is_watched()
        && CLIENT
            .with_borrow(Weak::upgrade)
            .is_some_and(|client| has_hung_up(&client))
}

fn has_hung_up(client: &TcpStream) -> bool {
    let mut waited_for = [watched(client)];
    // If the kernel cannot say it, the next write will.
    poll(&mut waited_for, Some(&Timespec::default())).is_ok() && has_ended(&waited_for[0])
}

fn watched(client: &TcpStream) -> PollFd<'_> {
    PollFd::new(client, PollFlags::RDHUP)
}

fn has_ended(client: &PollFd<'_>) -> bool {
    let ends = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    client.revents().intersects(ends)
}

/// What a socket is waited for to be.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// There is something to read, or the end.
    Readable,
    /// Something can be written. So can to a socket that was connecting, when that is over.
    Writable,
}

/// Waits for a socket, or until it fails. Errors: `TimedOut` when it takes longer than that, and
/// [`error`] when the client goes that is being watched.
pub fn wait(socket: &TcpStream, until: Until, time: Option<Duration>) -> io::Result<()> {
    let end = time.map(|time| Instant::now() + time);
    let client = is_watched().then(|| CLIENT.with_borrow(Weak::upgrade));
    let client = client.flatten();
    let flags = match until {
        Until::Readable => PollFlags::IN,
        Until::Writable => PollFlags::OUT,
    };
    let mut sockets = vec![PollFd::new(socket, flags)];
    sockets.extend(client.iter().map(|client| watched(client)));
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let left = left.map(Timespec::try_from).transpose();
        match poll(&mut sockets, left.unwrap_or_default().as_ref()) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) if sockets.get(1).is_some_and(has_ended) => return Err(error()),
            Ok(_) => return Ok(()),
        }
    }
}

/// Sleeps, but no longer than the client stays, nor than there is time. Is it still there?
pub fn pause(time: Duration) -> bool {
    let end = Instant::now() + deadline::left().map_or(time, |left| left.min(time));
    loop {
        if is_gone() {
            return false;
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        thread::sleep(if is_watched() { left.min(LOOK) } else { left });
    }
}

/// What a wait ends with when the client is gone.
pub fn error() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the client went away")
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn connection() -> (TcpStream, Arc<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, Arc::new(listener.accept().unwrap().0))
    }

    #[test]
    fn a_client_is_gone_when_it_has_closed_and_is_watched() {
        let (client, ours) = connection();
        work_for(&ours);
        let watch = watch();
        assert!(!is_gone());
        assert!(pause(Duration::from_millis(1)));
        drop(client);
        let started = Instant::now();
        assert!(!pause(Duration::from_secs(20)));
        assert!(started.elapsed() < Duration::from_secs(1));
        drop(watch);
        assert!(!is_gone(), "nobody watches any more");
    }

    #[test]
    fn a_thread_without_a_client_has_none_that_goes() {
        let _watch = watch();
        assert!(!is_gone());
        let (client, ours) = connection();
        work_for(&ours);
        drop((client, ours));
        assert!(!is_gone(), "a connection that we closed ourselves");
    }
}
