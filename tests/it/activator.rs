//! The part of systemd in socket activation: it holds the listener, starts the program when
//! a connection waits and no process runs, and does so again after each exit.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::service::{serve_on, wait};

pub struct Activator {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<ExitStatus>>,
}

impl Activator {
    pub fn start(config: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let config = config.to_owned();
        let thread = thread::spawn(move || {
            let mut exits = Vec::new();
            while !stopped.load(SeqCst) {
                if connection_waits(&listener) {
                    exits.push(run(&listener, &config));
                }
            }
            exits
        });
        Activator {
            address,
            stop,
            thread,
        }
    }

    /// How the program ended, each time. Comes back when it has left for the last time.
    pub fn stop(self) -> Vec<ExitStatus> {
        self.stop.store(true, SeqCst);
        self.thread.join().unwrap()
    }
}

fn connection_waits(listener: &TcpListener) -> bool {
    let mut listeners = [PollFd::new(listener, PollFlags::IN)];
    let limit = Timespec {
        tv_sec: 0,
        tv_nsec: 50_000_000,
    };
    poll(&mut listeners, Some(&limit)).unwrap() > 0
}

fn run(listener: &TcpListener, config: &Path) -> ExitStatus {
    let mut child = serve_on(listener.try_clone().unwrap(), config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It ends with its clients; the limit is for a program that does not.
    wait(&mut child, Duration::from_secs(600)).unwrap_or_else(|| {
        child.kill().unwrap();
        child.wait().unwrap()
    })
}
