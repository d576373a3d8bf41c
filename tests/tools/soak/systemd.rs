//! The part of systemd in socket activation: it holds the listener, starts the program when a connection waits
//! and no process runs, and does so again after each exit.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};

use crate::report::Counter;

/// The steps of systemd between fork and exec: the listener is descriptor 3, its number and the process
/// it is meant for are in the environment.
const HAND_OVER: &str = r#"exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@""#;

/// How the service is started.
#[derive(Clone)]
pub struct Start {
    pub program: PathBuf,
    pub config: PathBuf,
    pub cache: Option<PathBuf>,
    /// The program's standard error is appended to this file.
    pub log: PathBuf,
    /// More of its environment.
    pub environment: Vec<(String, String)>,
}

pub struct Systemd {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

struct Shared {
    stop: AtomicBool,
    /// The service, while it runs. Locked while it is reaped, so that its number is not another's yet.
    running: Mutex<Option<Pid>>,
    /// Whoever holds this keeps the service from being started.
    gate: Mutex<()>,
    killed: AtomicBool,
    starts: Counter,
    kills: Counter,
    /// Exits that were neither a success nor our doing.
    bad_exits: Mutex<Vec<String>>,
}

impl Systemd {
    pub fn new(start: Start) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            running: Mutex::default(),
            gate: Mutex::default(),
            killed: AtomicBool::new(false),
            starts: Counter::default(),
            kills: Counter::default(),
            bad_exits: Mutex::default(),
        });
        let own = shared.clone();
        let thread = thread::spawn(move || {
            while !own.stop.load(SeqCst) {
                if connection_waits(&listener) {
                    own.run(&listener, &start);
                }
            }
        });
        Systemd {
            address,
            shared,
            thread,
        }
    }

    pub fn pid(&self) -> Option<Pid> {
        *self.shared.running.lock().unwrap()
    }

    pub fn starts(&self) -> u64 {
        self.shared.starts.get()
    }

    pub fn kills(&self) -> u64 {
        self.shared.kills.get()
    }

    pub fn bad_exits(&self) -> Vec<String> {
        self.shared.bad_exits.lock().unwrap().clone()
    }

    /// SIGKILL, if it runs.
    pub fn kill(&self) {
        let running = self.shared.running.lock().unwrap();
        if let Some(pid) = *running {
            self.shared.killed.store(true, SeqCst);
            self.shared.kills.up();
            kill_process(pid, Signal::KILL).unwrap();
        }
    }

    /// Kills the service and does something before it may start again.
    pub fn kill_and<T>(&self, work: impl FnOnce() -> T) -> T {
        let _gate = self.shared.gate.lock().unwrap();
        self.kill();
        while self.pid().is_some() {
            thread::sleep(Duration::from_millis(1));
        }
        work()
    }

    /// Waits until the service has left by itself.
    pub fn stop(self) {
        self.shared.stop.store(true, SeqCst);
        self.thread.join().unwrap();
    }
}

impl Shared {
    fn run(&self, listener: &TcpListener, start: &Start) {
        let gate = self.gate.lock().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", HAND_OVER, "sh"]).arg(&start.program);
        command.arg("serve").arg("--config").arg(&start.config);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("CONTAINERS_REGISTRIES_CONF", "/dev/null")
            .env("REGISTRY_AUTH_FILE", "/nonexistent/auth.json")
            .envs(start.environment.iter().cloned());
        if let Some(cache) = &start.cache {
            command.env("CACHE_DIRECTORY", cache);
        }
        command
            .stdin(Stdio::from(OwnedFd::from(listener.try_clone().unwrap())))
            .stdout(Stdio::null())
            .stderr(Stdio::from(append(&start.log)));
        self.killed.store(false, SeqCst);
        let mut child = command.spawn().unwrap();
        let pid = Pid::from_child(&child);
        *self.running.lock().unwrap() = Some(pid);
        self.starts.up();
        drop(gate);
        wait_without_reaping(pid);
        let mut running = self.running.lock().unwrap();
        *running = None;
        let status = child.wait().unwrap();
        if !status.success() && !self.killed.load(SeqCst) {
            self.bad_exits.lock().unwrap().push(status.to_string());
        }
    }
}

pub fn append(path: &Path) -> File {
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .unwrap()
}

fn wait_without_reaping(pid: Pid) {
    use rustix::process::{PidfdFlags, pidfd_open};
    let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let mut ended = [PollFd::new(&process, PollFlags::IN)];
    while poll(&mut ended, None).is_err() {} // a signal came between
}

fn connection_waits(listener: &TcpListener) -> bool {
    let mut listeners = [PollFd::new(listener, PollFlags::IN)];
    let limit = Timespec {
        tv_sec: 0,
        tv_nsec: 50_000_000,
    };
    poll(&mut listeners, Some(&limit)).unwrap() > 0
}
