//! Signals: SIGTERM and SIGINT stop the service. SIGHUP makes it read its settings again, and exit once no client is
//! connected.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

/// The signals that have come.
pub struct Signals {
    /// SIGTERM or SIGINT.
    stop: Arc<AtomicBool>,
    /// SIGHUP.
    hangup: Arc<AtomicBool>,
    /// Has something to read after a signal, so that none is missed between a look and a wait.
    pub pipe: UnixStream,
}

impl Signals {
    /// Handles the signals from now on.
    pub fn catch() -> io::Result<Self> {
        let (pipe, writer) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        let signals = Self {
            stop: Arc::default(),
            hangup: Arc::default(),
            pipe,
        };
        for (signal, told) in [
            (SIGTERM, &signals.stop),
            (SIGINT, &signals.stop),
            (SIGHUP, &signals.hangup),
        ] {
            // The flag first: who finds something in the pipe also finds the flag.
            flag::register(signal, told.clone())?;
            low_level::pipe::register(signal, writer.try_clone()?)?;
        }
        Ok(signals)
    }

    /// Whether the service is to stop, whoever is being served.
    pub fn is_to_stop(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Waits for another SIGTERM: [`is_to_stop`](Self::is_to_stop) is false until then.
    pub fn forget_stop(&self) {
        self.stop.store(false, Ordering::SeqCst);
    }

    /// Whether SIGHUP has come since the last call.
    pub fn take_hangup(&self) -> bool {
        self.hangup.swap(false, Ordering::SeqCst)
    }

    /// Empties the pipe.
    pub fn drain(&self) {
        while let Ok(1..) = (&self.pipe).read(&mut [0; 64]) {}
    }
}
