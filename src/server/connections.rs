//! The table of open connections. It decides which idle one is closed when the table is full, or when the service stops.
//!
//! A connection that is closed so is only shut down for reading. Its own thread then reads the bytes that had arrived
//! before, answers if they are a whole request, and closes. So a request that arrives just as its connection
//! is chosen is not lost.

use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::transfer::Transfer;
use crate::lock::lock;
use crate::task;

/// Longest wait for the thread of a connection that was sent away. It only reads the bytes that are there, so it takes
/// longer only where the machine is too busy to serve another client anyway.
const SENDING_AWAY: Duration = Duration::from_secs(1);
/// Shortest time between two reports of how far transfers are.
const PROGRESS: Duration = Duration::from_secs(1);
/// Transfers that a report names.
const MAX_NAMED: usize = 3;

/// The state of a connection.
#[derive(Clone, Debug, PartialEq)]
enum State {
    /// The connection waits until its client has sent a whole request. A client that was answered may send no more.
    Waiting { since: Instant, was_answered: bool },
    /// The connection answers this request. `is_left`: its client has disconnected, and its thread works only for others.
    Answering { request: String, is_left: bool },
    /// The connection was shut down for reading, and its thread has not yet noticed.
    SentAway,
}

struct Entry {
    number: u64,
    stream: Arc<TcpStream>,
    state: State,
    /// The file that it is being sent.
    transfer: Option<Arc<Transfer>>,
}

#[derive(Default)]
struct Table {
    entries: Vec<Entry>,
    /// The number of the next connection.
    next: u64,
    /// The service stops: no connection waits for another request.
    is_stopping: bool,
    /// The service leaves once no client is connected: each response is the last one of its connection.
    is_leaving: bool,
}

impl Table {
    fn is_full(&self, limit: usize) -> bool {
        let abandoned = || self.entries.iter().filter(|entry| entry.is_abandoned());
        self.entries.len() >= limit && self.entries.len() - abandoned().count().min(limit) >= limit
    }

    fn entry(&mut self, number: u64) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.number == number)
    }

    /// The text of `STATUS=`.
    fn status(&self) -> String {
        let mut status = match (self.is_stopping, self.entries.len()) {
            (false, 0) => "waiting for clients".to_owned(),
            (false, n) => format!("{n} connections"),
            (true, n) => format!("stopping, {n} connections left"),
        };
        if self.is_leaving && !self.is_stopping {
            status.push_str(", leaving when there is none");
        }
        let mut transfers = self
            .entries
            .iter()
            .filter_map(|entry| entry.transfer.as_ref());
        for (n, transfer) in transfers.by_ref().take(MAX_NAMED).enumerate() {
            let separator = if n == 0 { ": " } else { ", " };
            status.push_str(&format!("{separator}{transfer}"));
        }
        match transfers.count() {
            0 => status,
            more => format!("{status} and {more} more files"),
        }
    }
}

impl Entry {
    /// Whether its client has disconnected before the answer: its thread finishes a listing for others.
    fn is_abandoned(&self) -> bool {
        matches!(self.state, State::Answering { is_left: true, .. })
            && task::has_hung_up(&self.stream)
    }

    fn send_away(&mut self) {
        self.state = State::SentAway;
        // It fails if the client is gone, which its thread will notice, too.
        let _ = self.stream.shutdown(Shutdown::Read);
    }
}

/// The open connections.
pub struct Connections {
    limit: usize,
    table: Mutex<Table>,
    /// A connection was closed, or has begun to answer.
    changed: Condvar,
    /// Called with the text of `STATUS=` when the number of connections changes, and when transfers have come further.
    report: fn(&str),
    /// When transfers were last reported.
    reported: Mutex<Option<Instant>>,
}

/// The entry of a connection. It is removed when this is dropped, however the thread ends.
pub struct Seat {
    connections: Arc<Connections>,
    number: u64,
}

impl Connections {
    /// An empty table for at most `limit` clients.
    pub fn new(limit: usize, report: fn(&str)) -> Self {
        Self {
            limit,
            table: Mutex::default(),
            changed: Condvar::new(),
            report,
            reported: Mutex::default(),
        }
    }

    /// Whether there is no connection.
    pub fn is_empty(&self) -> bool {
        lock(&self.table).entries.is_empty()
    }

    /// Adds a connection, and returns how many were closed for it. `None` if all others are being answered. Those whose
    /// clients disconnected before their answer do not count, up to the same number.
    pub fn admit(self: &Arc<Self>, stream: &Arc<TcpStream>) -> (Option<Seat>, usize) {
        let mut gone = 0;
        let mut table = lock(&self.table);
        while table.is_full(self.limit) {
            let Some(chosen) = first_to_go(table.entries.iter().map(|entry| &entry.state)) else {
                return (None, gone);
            };
            let number = table.entries[chosen].number;
            table.entries[chosen].send_away();
            let is_undecided = |table: &mut Table| {
                let entry = table.entry(number);
                entry.is_some_and(|entry| entry.state == State::SentAway)
            };
            let waited = self
                .changed
                .wait_timeout_while(table, SENDING_AWAY, is_undecided);
            table = waited.unwrap_or_else(PoisonError::into_inner).0;
            gone += usize::from(table.entry(number).is_none());
        }
        let number = table.next;
        table.next += 1;
        table.entries.push(Entry {
            number,
            stream: stream.clone(),
            state: State::Waiting {
                since: Instant::now(),
                was_answered: false,
            },
            transfer: None,
        });
        let status = table.status();
        drop(table);
        (self.report)(&status);
        let seat = Seat {
            connections: self.clone(),
            number,
        };
        (Some(seat), gone)
    }

    /// Makes each response the last one of its connection, so that the clients that are connected become fewer.
    pub fn leave(&self) {
        lock(&self.table).is_leaving = true;
    }

    /// Closes the connections that wait for a request, now and from now on. Returns how many are being answered.
    pub fn stop(&self) -> usize {
        let mut table = lock(&self.table);
        table.is_stopping = true;
        let mut answering = 0;
        for entry in &mut table.entries {
            match entry.state {
                State::Waiting { .. } => entry.send_away(),
                State::Answering { .. } => answering += usize::from(!entry.is_abandoned()),
                State::SentAway => {}
            }
        }
        answering
    }

    /// Waits until no client is connected, but no longer than that. Whether none is.
    pub fn wait_until_empty(&self, time: Duration) -> bool {
        let table = lock(&self.table);
        let is_open = |table: &mut Table| !table.entries.iter().all(Entry::is_abandoned);
        let waited = self.changed.wait_timeout_while(table, time, is_open);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// The requests that are being answered, with the files that are being sent.
    pub fn being_answered(&self) -> Vec<(String, Option<Arc<Transfer>>)> {
        let table = lock(&self.table);
        let requests = table.entries.iter().filter_map(|entry| match &entry.state {
            State::Answering { request, .. } if !entry.is_abandoned() => {
                Some((request.clone(), entry.transfer.clone()))
            }
            _ => None,
        });
        requests.collect()
    }
}

impl Seat {
    /// The client was answered. It may send another request, unless the service stops.
    pub fn wait(&self) {
        let mut table = lock(&self.connections.table);
        let is_stopping = table.is_stopping;
        if let Some(entry) = table.entry(self.number)
            && let State::Answering { .. } = entry.state
        {
            entry.transfer = None;
            entry.state = State::Waiting {
                since: Instant::now(),
                was_answered: true,
            };
            if is_stopping {
                entry.send_away();
            }
        }
    }

    /// The response is being sent, perhaps with a file. A client that has shut down its sending half still gets it.
    pub fn respond(&self, file: Option<Arc<Transfer>>) {
        let mut table = lock(&self.connections.table);
        if let Some(Entry {
            state: State::Answering { is_left, .. },
            transfer,
            ..
        }) = table.entry(self.number)
        {
            *is_left = false;
            *transfer = file;
        }
    }

    /// A transfer has come further. This is reported, but not each time.
    pub fn report_progress(&self) {
        let Ok(mut reported) = self.connections.reported.try_lock() else {
            return;
        };
        if reported.is_none_or(|reported| reported.elapsed() >= PROGRESS) {
            *reported = Some(Instant::now());
            let status = lock(&self.connections.table).status();
            (self.connections.report)(&status);
        }
    }

    /// The client has sent a whole request, which is now being answered.
    pub fn answer(&self, request: String) -> Further {
        let mut table = lock(&self.connections.table);
        let is_last = table.is_stopping || table.is_leaving;
        let Some(entry) = table.entry(self.number) else {
            return Further::None;
        };
        let is_deaf = entry.state == State::SentAway;
        // One that is deaf looks as if its client had disconnected.
        let is_left = !is_deaf;
        entry.state = State::Answering { request, is_left };
        if is_deaf {
            self.connections.changed.notify_all();
            return Further::Deaf;
        }
        if is_last {
            Further::None
        } else {
            Further::Possible
        }
    }
}

/// Whether another request may come on a connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Further {
    /// Yes.
    Possible,
    /// The service stops, or leaves once no client is connected.
    None,
    /// It was shut down for reading, so it looks as if its client had disconnected.
    Deaf,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = lock(&self.connections.table);
        table.entries.retain(|entry| entry.number != self.number);
        let status = table.status();
        self.connections.changed.notify_all();
        drop(table);
        (self.connections.report)(&status);
    }
}

/// The connection to close first: of those whose client was answered the one that has waited longest, then of the
/// others. `None` if all are being answered.
fn first_to_go<'a>(states: impl Iterator<Item = &'a State>) -> Option<usize> {
    let waiting = states.enumerate().filter_map(|(n, state)| match state {
        State::Waiting {
            since,
            was_answered,
        } => Some((!was_answered, *since, n)),
        State::Answering { .. } | State::SentAway => None,
    });
    waiting.min().map(|(_, _, n)| n)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn who_had_an_answer_goes_first_then_who_is_silent_for_longest() {
        let now = Instant::now();
        let silent = |age| State::Waiting {
            since: now - Duration::from_secs(age),
            was_answered: false,
        };
        let answered = |age| State::Waiting {
            since: now - Duration::from_secs(age),
            was_answered: true,
        };
        let busy = || State::Answering {
            request: String::new(),
            is_left: true,
        };
        for (states, first, why) in [
            (vec![], None, "nobody"),
            (vec![busy(), State::SentAway], None, "nobody waits"),
            (vec![busy(), silent(1)], Some(1), "the only one that waits"),
            (vec![silent(1), silent(3), silent(2)], Some(1), "the oldest"),
            (
                vec![silent(9), answered(1), answered(2)],
                Some(2),
                "had an answer",
            ),
        ] {
            assert_eq!(first_to_go(states.iter()), first, "{why}");
        }
    }

    fn connection(listener: &TcpListener) -> (TcpStream, Arc<TcpStream>) {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, Arc::new(listener.accept().unwrap().0))
    }

    #[test]
    fn a_request_that_is_there_when_its_connection_is_chosen_is_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connections = Arc::new(Connections::new(1, |_| {}));
        let (mut client, ours) = connection(&listener);
        let seat = connections.admit(&ours).0.unwrap();
        client.write_all(b"a request").unwrap();
        let thread = thread::spawn(move || {
            // Its thread has not come to read it before the next client is there.
            thread::sleep(Duration::from_millis(100));
            let mut bytes = [0; 99];
            let n = (&*ours).read(&mut bytes).unwrap();
            assert_eq!(&bytes[..n], b"a request");
            assert_eq!(seat.answer("it".into()), Further::Deaf);
            seat
        });
        let (_next, next) = connection(&listener);
        let (admitted, gone) = connections.admit(&next);
        assert!(admitted.is_none(), "the only place is taken");
        assert_eq!(gone, 0);
        let answered = connections.being_answered();
        assert_eq!(answered.len(), 1);
        assert_eq!(answered[0].0, "it");
        drop(thread.join().unwrap());
        assert!(connections.admit(&next).0.is_some());
        assert!(connections.is_empty(), "its seat is gone at once");
    }

    #[test]
    fn when_it_stops_nobody_waits_any_more() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connections = Arc::new(Connections::new(2, |_| {}));
        let (_silent, silent) = connection(&listener);
        let silent_seat = connections.admit(&silent).0.unwrap();
        let (_busy, busy) = connection(&listener);
        let busy_seat = connections.admit(&busy).0.unwrap();
        assert_eq!(busy_seat.answer("it".into()), Further::Possible);
        assert_eq!(connections.stop(), 1);
        assert_eq!((&*silent).read(&mut [0]).unwrap(), 0, "it is woken");
        drop(silent_seat);
        assert!(!connections.wait_until_empty(Duration::from_millis(20)));
        busy_seat.wait();
        assert_eq!((&*busy).read(&mut [0]).unwrap(), 0, "after its answer");
        drop(busy_seat);
        assert!(connections.wait_until_empty(Duration::from_secs(5)));
    }
}
