//! The task of a thread: the client that it works for, and the deadline.
//!
//! Each connection has a thread, so the client belongs to the thread. When the client disconnects, work for it alone
//! ends. A listing is also needed by the next client: it is made [`for_all`]. A listing consists of many requests, each
//! with limits of its own; [`within`] limits their sum. Threads that help with a task [`adopt`] it.
//!
//! All waiting is done here, and ends when the client disconnects or at the deadline.

use std::cell::RefCell;
use std::io;
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::lock::lock;

/// Longest time between two checks of the client.
pub const LOOK: Duration = Duration::from_millis(250);

thread_local! {
    static TASK: RefCell<Task> = const { RefCell::new(Task::NONE) };
}

/// A task.
#[derive(Clone)]
pub struct Task {
    /// The connection of the client. It does not count once the service itself has closed it.
    client: Weak<TcpStream>,
    deadline: Option<Deadline>,
    /// The thread only helps with the work that holds this.
    helped: Option<Weak<()>>,
}

#[derive(Clone, Copy)]
struct Deadline {
    end: Instant,
    /// The time that the task was given.
    time: Duration,
}

impl Task {
    const NONE: Self = Self {
        client: Weak::new(),
        deadline: None,
        helped: None,
    };

    fn is_abandoned(&self) -> bool {
        let helped = self.helped.as_ref();
        helped.is_some_and(|work| work.strong_count() == 0)
    }
}

/// Restores the thread's task when it is dropped.
#[must_use]
pub struct Restore {
    before: Task,
}

impl Drop for Restore {
    fn drop(&mut self) {
        TASK.set(std::mem::replace(&mut self.before, Task::NONE));
    }
}

/// From now on this thread works for this client.
pub fn work_for(client: &Arc<TcpStream>) {
    TASK.set(Task {
        client: Arc::downgrade(client),
        deadline: None,
        helped: None,
    });
}

/// From now on this thread works for no client.
pub fn work_for_nobody() {
    TASK.set(Task::NONE);
}

/// This thread's task, for threads that help with it.
pub fn current() -> Task {
    TASK.with_borrow(Task::clone)
}

/// This thread's task, for threads that help with work as long as that is there. It has no deadline: the one of this
/// thread may be that of a part.
pub fn helping(work: &Arc<()>) -> Task {
    Task {
        deadline: None,
        helped: Some(Arc::downgrade(work)),
        ..current()
    }
}

/// Whether the work is gone that this thread helps with.
pub fn is_abandoned() -> bool {
    current().is_abandoned()
}

/// Makes this thread help with a task.
pub fn adopt(task: Task) -> Restore {
    Restore {
        before: TASK.replace(task),
    }
}

/// From now on the work of this thread goes on when the client disconnects: others need the result, too.
pub fn for_all() -> Restore {
    adopt(Task {
        client: Weak::new(),
        ..current()
    })
}

/// Limits the time of this thread's task. An earlier deadline stays.
pub fn within(time: Duration) -> Restore {
    let mut task = current();
    let end = Instant::now() + time;
    if task.deadline.is_none_or(|earlier| end <= earlier.end) {
        task.deadline = Some(Deadline { end, time });
    }
    adopt(task)
}

/// The time left until the deadline, if there is one.
pub fn time_left() -> Option<Duration> {
    let deadline = current().deadline?;
    Some(deadline.end.saturating_duration_since(Instant::now()))
}

/// The time that the task was given, if it is over.
pub fn passed_limit() -> Option<Duration> {
    let deadline = current().deadline?;
    (deadline.end <= Instant::now()).then_some(deadline.time)
}

/// Whether the client has disconnected, or the work is gone that this thread helps with.
///
/// A client that has only shut down its sending half counts as disconnected, too: nothing tells it from one that
/// has closed. nginx does the same (`ngx_http_upstream_check_broken_connection`).
pub fn is_client_gone() -> bool {
    let task = current();
    let client = task.client.upgrade();
    task.is_abandoned() || client.is_some_and(|client| has_hung_up(&client))
}

/// Whether the client has disconnected, or the time is over.
pub fn is_over() -> bool {
    is_client_gone() || passed_limit().is_some()
}

/// Fails if the client has disconnected, or the time is over. `what`: what takes too long, for the message.
pub fn check(what: impl FnOnce() -> String) -> Result<()> {
    if is_client_gone() {
        return Err(Error::ClientGone);
    }
    match passed_limit() {
        Some(limit) => Err(Error::TooSlow { url: what(), limit }),
        None => Ok(()),
    }
}

/// The error of [`check`] for a client that has disconnected, where an [`io::Error`] is wanted.
pub fn client_gone() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, Error::ClientGone)
}

/// Whether the other side of a connection has closed it, or half of it.
pub fn has_hung_up(client: &TcpStream) -> bool {
    let mut sockets = [hangup_of(client)];
    // If this fails, the next write will show it.
    poll(&mut sockets, Some(&Timespec::default())).is_ok() && has_ended(&sockets[0])
}

fn hangup_of(client: &TcpStream) -> PollFd<'_> {
    PollFd::new(client, PollFlags::RDHUP)
}

fn has_ended(client: &PollFd<'_>) -> bool {
    let ends = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    client.revents().intersects(ends)
}

/// The event that a socket is waited for.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// There are bytes to read, or the end.
    Readable,
    /// Bytes can be written, or connecting has ended.
    Writable,
}

/// Waits for a socket. Errors: `TimedOut` at the end of the time or at the deadline, and [`client_gone`].
pub fn wait_for_socket(socket: &TcpStream, until: Until, time: Option<Duration>) -> io::Result<()> {
    let time = time.into_iter().chain(time_left()).min();
    let end = time.map(|time| Instant::now() + time);
    let task = current();
    let client = task.client.upgrade();
    let flags = match until {
        Until::Readable => PollFlags::IN,
        Until::Writable => PollFlags::OUT,
    };
    loop {
        if task.is_abandoned() {
            return Err(client_gone());
        }
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        // Nothing wakes a thread whose work is gone.
        let look = task.helped.as_ref().map(|_| LOOK);
        let wait = left.into_iter().chain(look).min();
        let wait = wait.map(Timespec::try_from).transpose().unwrap_or_default();
        let mut sockets = vec![PollFd::new(socket, flags)];
        sockets.extend(client.as_deref().map(hangup_of));
        match poll(&mut sockets, wait.as_ref()) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(0) if left.is_none_or(|left| left > LOOK) => {}
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) if sockets.get(1).is_some_and(has_ended) => return Err(client_gone()),
            Ok(_) => return Ok(()),
        }
    }
}

/// Sleeps, but no longer than until the deadline. Fails if the client has disconnected.
pub fn sleep(time: Duration) -> Result<()> {
    let end = Instant::now() + time_left().map_or(time, |left| left.min(time));
    loop {
        if is_client_gone() {
            return Err(Error::ClientGone);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(LOOK));
    }
}

/// Waits until `ready` finds a result in what the mutex guards, and asks it again after each notification. Fails as
/// [`check`] does.
pub fn wait_for<T, R>(
    mutex: &Mutex<T>,
    changed: &Condvar,
    what: impl Fn() -> String,
    mut ready: impl FnMut(&mut T) -> Option<R>,
) -> Result<R> {
    let mut guard = lock(mutex);
    loop {
        if let Some(result) = ready(&mut guard) {
            return Ok(result);
        }
        check(&what)?;
        guard = wait_a_moment(changed, guard, LOOK);
    }
}

/// Waits for a notification, but not longer than `time`, [`LOOK`] or the deadline.
pub fn wait_a_moment<'a, T>(
    changed: &Condvar,
    guard: MutexGuard<'a, T>,
    time: Duration,
) -> MutexGuard<'a, T> {
    let time = time_left().map_or(time, |left| left.min(time));
    let waited = changed.wait_timeout(guard, time.min(LOOK));
    waited.unwrap_or_else(PoisonError::into_inner).0
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

    fn what() -> String {
        "the work".into()
    }

    #[test]
    fn a_deadline_is_its_threads_until_it_is_dropped() {
        assert!(time_left().is_none() && check(what).is_ok());
        let long = within(Duration::from_secs(1000));
        assert!(time_left() > Some(Duration::from_secs(900)));
        {
            let _short = within(Duration::ZERO);
            assert_eq!(time_left(), Some(Duration::ZERO));
            assert_eq!(passed_limit(), Some(Duration::ZERO));
            let error = check(what).unwrap_err();
            assert!(
                matches!(error, Error::TooSlow { url, limit } if url == what() && limit.is_zero())
            );
        }
        assert_eq!(passed_limit(), None);
        {
            let _longer = within(Duration::from_secs(5000));
            assert!(time_left() <= Some(Duration::from_secs(1000)));
        }
        let task = current();
        thread::scope(|scope| {
            scope.spawn(|| {
                assert!(time_left().is_none(), "another thread has its own");
                let _same = adopt(task);
                assert!(time_left() > Some(Duration::from_secs(900)));
            });
        });
        drop(long);
        assert!(time_left().is_none());
    }

    #[test]
    fn whatever_waits_ends_when_the_client_disconnects() {
        let (client, ours) = connection();
        work_for(&ours);
        assert!(!is_client_gone());
        sleep(Duration::from_millis(1)).unwrap();
        let (_silent, socket) = connection();
        let waits: [&dyn Fn() -> bool; 3] = [
            &|| sleep(Duration::from_secs(20)).is_err(),
            &|| {
                let never = |_: &mut ()| None::<()>;
                let waited = wait_for(&Mutex::new(()), &Condvar::new(), what, never);
                matches!(waited, Err(Error::ClientGone))
            },
            &|| wait_for_socket(&socket, Until::Readable, None).is_err(),
        ];
        drop(client);
        let started = Instant::now();
        for wait in waits {
            assert!(wait());
        }
        assert!(started.elapsed() < Duration::from_secs(1));
        assert!(matches!(check(what), Err(Error::ClientGone)));
        {
            let _listing = for_all();
            assert!(!is_client_gone(), "others need the result");
        }
        assert!(is_client_gone());
        work_for_nobody();
        assert!(!is_client_gone());
    }

    #[test]
    fn whatever_waits_ends_at_the_deadline() {
        let _limit = within(Duration::from_millis(20));
        let (_silent, socket) = connection();
        let error = wait_for_socket(&socket, Until::Readable, None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let waited = wait_for(&Mutex::new(()), &Condvar::new(), what, |()| None::<()>);
        assert!(matches!(waited, Err(Error::TooSlow { .. })), "{waited:?}");
        sleep(Duration::from_secs(20)).unwrap();
    }

    #[test]
    fn a_notification_ends_a_wait() {
        let (number, changed) = (Mutex::new(0), Condvar::new());
        let _limit = within(Duration::from_secs(20));
        thread::scope(|scope| {
            scope.spawn(|| {
                *lock(&number) = 7;
                changed.notify_all();
            });
            let found = wait_for(&number, &changed, what, |n| (*n > 0).then_some(*n));
            assert_eq!(found.unwrap(), 7);
        });
    }

    #[test]
    fn a_connection_that_we_closed_ourselves_is_no_client_that_left() {
        let (client, ours) = connection();
        work_for(&ours);
        drop((client, ours));
        assert!(!is_client_gone());
    }
}
