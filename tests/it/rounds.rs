//! Round trips, counted instead of timed.
//!
//! A registry over a network answers after a while, so what is asked at once is answered at once. Here that while lasts
//! until the program has nothing left to do but wait: then everything that was asked is answered together. Each such
//! answer is one round, on a slow machine as on a fast one. A new connection takes a round to open.

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The program must have done nothing for so long.
const STILL: Duration = Duration::from_millis(6);

/// The rounds of one registry.
#[derive(Default)]
pub struct Rounds {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The process whose requests are answered in rounds.
    process: Option<u32>,
    round: usize,
    /// Connections and requests that wait for the end of the round.
    waiting: usize,
    /// Those whose round is over, and that have not noticed it.
    leaving: usize,
    /// Connections that are taken up, read from or written to now.
    busy: usize,
    /// Connections on which the next request is waited for.
    idle: BTreeMap<usize, TcpStream>,
    next: usize,
}

impl Rounds {
    /// From now on there are rounds, counted from 0, for this process. Others must not connect.
    /// Whether these are the first.
    pub fn begin(&self, process: u32) -> bool {
        let mut state = self.state.lock().unwrap();
        state.round = 0;
        state.process.replace(process).is_none()
    }

    /// How many there have been.
    pub fn count(&self) -> usize {
        self.state.lock().unwrap().round
    }

    /// A connection was taken up: it is busy.
    pub fn opened(&self) {
        self.state.lock().unwrap().busy += 1;
    }

    /// It is closed.
    pub fn closed(&self) {
        self.state.lock().unwrap().busy -= 1;
    }

    /// A busy connection waits for the end of this round.
    pub fn wait(&self) {
        let mut state = self.state.lock().unwrap();
        if state.process.is_none() {
            return;
        }
        let round = state.round;
        state.waiting += 1;
        state.busy -= 1;
        while state.round == round {
            state = self.changed.wait(state).unwrap();
        }
        state.leaving -= 1;
        state.busy += 1;
    }

    /// A busy connection waits for the next request, or for its end.
    pub fn wait_for_request(&self, socket: &TcpStream) {
        let number = {
            let mut state = self.state.lock().unwrap();
            if state.process.is_none() {
                return;
            }
            state.next += 1;
            let number = state.next;
            state.idle.insert(number, socket.try_clone().unwrap());
            state.busy -= 1;
            number
        };
        // Until it is read, what has come shows on the socket: nobody takes it for idle meanwhile.
        let _ = socket.peek(&mut [0]);
        let mut state = self.state.lock().unwrap();
        state.idle.remove(&number);
        state.busy += 1;
    }

    /// Ends each round of the connections to this listener when it is time, for ever.
    pub fn run(&self, listener: &TcpListener) {
        loop {
            thread::sleep(STILL / 2);
            let process = self.state.lock().unwrap().process;
            let Some(process) = process else { continue };
            if !self.is_over(listener) {
                continue;
            }
            let before = activity(process);
            thread::sleep(STILL);
            if before.is_none() || activity(process) != before || !self.is_over(listener) {
                continue;
            }
            let mut state = self.state.lock().unwrap();
            state.round += 1;
            state.leaving += std::mem::take(&mut state.waiting);
            self.changed.notify_all();
        }
    }

    /// Whether there is something to answer, and nothing else under way.
    fn is_over(&self, listener: &TcpListener) -> bool {
        let state = self.state.lock().unwrap();
        let sockets = state
            .idle
            .values()
            .map(|socket| PollFd::new(socket, PollFlags::IN));
        let mut sockets: Vec<_> = sockets.collect();
        sockets.push(PollFd::new(listener, PollFlags::IN));
        let nothing_came = poll(&mut sockets, Some(&Timespec::default())) == Ok(0);
        state.waiting > 0 && state.leaving == 0 && state.busy == 0 && nothing_came
    }
}

/// How often each thread of a process has waited so far, if all of them wait now.
fn activity(process: u32) -> Option<Vec<String>> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).ok()?;
    let mut found = Vec::new();
    for one in threads {
        let status = fs::read_to_string(one.ok()?.path().join("status")).ok()?;
        let is_told = |line: &&str| {
            ["Pid:", "State:"].iter().any(|name| line.starts_with(name)) || line.contains("ctxt")
        };
        let told: Vec<_> = status.lines().filter(is_told).collect();
        let told = told.join(" ");
        if !told.contains("S (sleeping)") {
            return None;
        }
        found.push(told);
    }
    found.sort();
    Some(found)
}
