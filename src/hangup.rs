//! Clients that go away, so that nobody works on for them.
//!
//! A connection has a thread of its own, so who the client is belongs to the thread, and to those that
//! help it. What is done for one client alone is done under a [`watch`], and what others may be waiting
//! for, too, under a [`watch_unless`]; whatever waits meanwhile asks [`is_gone`] or sleeps by [`pause`].

use std::cell::RefCell;
use std::io;
use std::mem;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::deadline;

/// Longest wait before the next look at the client.
pub const LOOK: Duration = Duration::from_millis(250);

thread_local! {
    static TASK: RefCell<Task> = const { RefCell::new(Task::NOBODYS) };
}

/// Whom a thread works for.
#[derive(Clone)]
pub struct Task {
    client: Weak<TcpStream>,
    /// Is it of no use without that client?
    is_watched: bool,
    /// Others who wait for what comes of it: it is of use to them.
    others: Option<Others>,
}

#[derive(Clone)]
struct Others {
    number: Arc<AtomicUsize>,
    /// Some of it was left undone when nobody was there: who comes later has no use for the rest.
    is_given_up: Arc<AtomicBool>,
}

impl Task {
    const NOBODYS: Self = Self {
        client: Weak::new(),
        is_watched: false,
        others: None,
    };

    /// Is it of no use to anybody? Then it stays so.
    fn is_given_up(&self, has_left: impl FnOnce() -> bool) -> bool {
        let Some(Others {
            number,
            is_given_up,
        }) = &self.others
        else {
            return has_left();
        };
        if number.load(Ordering::SeqCst) == 0 && has_left() {
            is_given_up.store(true, Ordering::SeqCst);
        }
        is_given_up.load(Ordering::SeqCst)
    }
}

/// From now on this thread works for this client.
pub fn work_for(client: &Arc<TcpStream>) {
    TASK.set(Task {
        client: Arc::downgrade(client),
        ..Task::NOBODYS
    });
}

/// From now on this thread's client counts as present, whatever its connection looks like.
pub fn work_regardless() {
    TASK.set(Task::NOBODYS);
}

/// What this thread works for, so that others can help.
pub fn current() -> Task {
    TASK.with_borrow(Task::clone)
}

/// As long as it lives, what this thread does is of no use without its client.
pub struct Watch {
    before: Task,
}

/// Begins to help with this.
pub fn adopt(task: Task) -> Watch {
    Watch {
        before: TASK.replace(task),
    }
}

/// Begins to watch this thread's client, if it has one. Within a [`watch_unless`] that still holds.
pub fn watch() -> Watch {
    adopt(Task {
        is_watched: true,
        ..current()
    })
}

/// The same, but as long as others wait for what comes of it, so many of them, the client does not matter. Once
/// it was given up they come too late.
pub fn watch_unless(awaited: &Arc<AtomicUsize>) -> Watch {
    let others = Others {
        number: awaited.clone(),
        is_given_up: Arc::default(),
    };
    adopt(Task {
        is_watched: true,
        others: Some(others),
        ..current()
    })
}

impl Drop for Watch {
    fn drop(&mut self) {
        TASK.set(mem::replace(&mut self.before, Task::NOBODYS));
    }
}

/// Is there a client who may go away?
pub fn is_watched() -> bool {
    TASK.with_borrow(|task| task.is_watched)
}

/// Was anything left undone within this [`watch_unless`], for nobody was there?
pub fn has_given_up() -> bool {
    TASK.with_borrow(|task| task.is_given_up(|| false))
}

/// Is the client gone that is being watched, and nobody else there? Then whoever comes later finds it given up.
///
/// One that has only shut down its sending half counts, too: nothing tells it from one that has
/// closed. nginx does the same (`ngx_http_upstream_check_broken_connection`).
pub fn is_gone() -> bool {
    let task = current();
    let has_gone = || {
        task.client
            .upgrade()
            .is_some_and(|client| has_hung_up(&client))
    };
    task.is_watched && task.is_given_up(has_gone)
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
    let task = current();
    let client = task.client.upgrade().filter(|_| task.is_watched);
    let flags = match until {
        Until::Readable => PollFlags::IN,
        Until::Writable => PollFlags::OUT,
    };
    let mut there = client.as_ref();
    loop {
        let has_left = client.is_some() && there.is_none();
        if client.is_some() && task.is_given_up(|| has_left) {
            return Err(error());
        }
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        // Nothing wakes us when those leave who wait for the same: they are looked for.
        let look = has_left.then_some(LOOK);
        let wait = left.into_iter().chain(look).min();
        let wait = wait.map(Timespec::try_from).transpose();
        let mut sockets = vec![PollFd::new(socket, flags)];
        sockets.extend(there.map(|client| watched(client)));
        match poll(&mut sockets, wait.unwrap_or_default().as_ref()) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(0) if has_left && left.is_none_or(|left| left > LOOK) => {}
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) if sockets.get(1).is_some_and(has_ended) => there = None,
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
    fn a_client_that_is_gone_does_not_matter_while_others_wait() {
        let (client, ours) = connection();
        work_for(&ours);
        let others = Arc::new(AtomicUsize::new(1));
        let _watch = watch_unless(&others);
        drop(client);
        {
            let _inner = watch();
            assert!(!is_gone());
            let task = current();
            thread::scope(|scope| {
                scope.spawn(|| {
                    let _help = adopt(task);
                    assert!(!is_gone());
                    others.store(0, Ordering::SeqCst);
                    assert!(is_gone(), "nobody waits any more");
                });
            });
        }
        assert!(is_gone());
        others.store(1, Ordering::SeqCst);
        assert!(is_gone(), "who comes now has no use for half of it");
        assert!(has_given_up());
    }

    #[test]
    fn what_came_to_its_end_before_the_client_left_was_not_given_up() {
        let (client, ours) = connection();
        work_for(&ours);
        let watch = watch_unless(&Arc::default());
        assert!(!is_gone());
        drop(client);
        assert!(!has_given_up());
        drop(watch);
        assert!(!has_given_up());
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
