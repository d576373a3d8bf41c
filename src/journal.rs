//! The log: entries with fields in the journal where systemd connects standard error to it, else lines on standard
//! error.
//!
//! Each kind of entry that an administrator or a monitoring program may look for has an ID of its own, its
//! `MESSAGE_ID=`, and fields beside its text. `docs/journal.md` is their catalogue, and `journalctl -x` shows
//! `units/sysext-oci-proxy.catalog`; `tests/it/journal.rs` compares both with the code.

use std::io::Write;

use env_logger::Logger;
use log::kv::{Error, Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};
use systemd_journal_logger::{JournalLog, connected_to_journal};

use crate::printable::printable;

/// The service accepts clients.
pub const STARTED: &str = "00d130e222ba4b228a89e04f0a105240";
/// The service ends: it is idle, or a signal asked for it.
pub const STOPPED: &str = "6ed414ef561341efa805253a007e152d";
/// The settings were read again.
pub const RELOADED: &str = "b5f147a3a9f141fabd8b550dcac8bdc0";
/// The settings could not be read again, and those from before are kept.
pub const NOT_RELOADED: &str = "faf289f4929a4656bb777d958020dd1e";
/// The program ends with an error.
pub const FATAL: &str = "fee2ca142c4d43fab95a743829e7b35f";
/// A client has received a whole file.
pub const DOWNLOADED: &str = "e3ed8546536644ab9e52f158fd09b969";
/// A download was cut: the rest of the file could not be had.
pub const CUT: &str = "e4c84da9b729494fb5eee41ad76b0c6c";
/// A response was cut, for the service had to stop.
pub const CUT_BY_STOP: &str = "01ee48d9a5de4a42be445c8a03fe19e3";
/// The rest of a file is fetched over another connection.
pub const RESUMED: &str = "78bc027bb2fe409aab0c41599f01fe2f";
/// The files of a directory are others than in the listing before.
pub const LISTED: &str = "8823001abac54c9a8a146b182b5f25b4";
/// A tag is not listed, for it is refused or broken.
pub const REFUSED: &str = "eeaca8f3b5d7424c9a2611f8b2326bc5";
/// A tag is not listed, for the registry did not answer.
pub const UNANSWERED: &str = "cf5c4fd629374b049b9d412ac595ddb9";
/// The newest version of a directory is older than one that was offered before.
pub const OLDER: &str = "20351c67dea44df7a75f425cd9f65de6";
/// A version is listed that the schedule of its rollout held back before.
pub const TURN: &str = "3672ccab197d42a693c8b063cf4253c4";
/// A request failed, and its client was told so.
pub const FAILED: &str = "6eb4d664ed0245c69932f6f6455573cd";
/// A client asked for a file that is not offered.
pub const NOT_FOUND: &str = "97ef1f17a66d49aab3da95b27622b8d7";
/// Clients were told to come again.
pub const TURNED_AWAY: &str = "1cf925d989334f49a73cfbfa93d71d6d";
/// A mirror fails, and others are asked in its place.
pub const MIRROR_FAILS: &str = "49f954c6d1da421785793f3fc68eb91f";
/// A mirror gave wrong bytes, and is not asked for them any more.
pub const MIRROR_DAMAGED: &str = "2e5b142e53d04577bd41b9b9bbe929d8";
/// A registry cannot be reached, and a mirror says which tags there are.
pub const STAND_IN: &str = "ad6a7fd6539a47d180aad2bd7ec9e7a5";

/// Starts the log. `RUST_LOG` sets which levels are logged; the default is info for the service and warning for the
/// other commands.
pub fn start(is_service: bool) {
    let is_connected = connected_to_journal();
    let default = if is_service {
        LevelFilter::Info
    } else {
        LevelFilter::Warn
    };
    let stderr = env_logger::Builder::new()
        .filter_level(default)
        .parse_default_env()
        .format(move |out, record| {
            let (number, name) = match record.level() {
                Level::Error => (3, "error: "),
                Level::Warn => (4, "warning: "),
                Level::Info => (6, ""),
                Level::Debug | Level::Trace => (7, ""),
            };
            // The journal takes the level from such a prefix (sd-daemon(3)).
            match is_connected {
                true => writeln!(out, "<{number}>{}", record.args()),
                false => writeln!(out, "{name}{}", record.args()),
            }
        })
        .build();
    // A sandbox may forbid its socket; its stream on standard error is open already.
    let journal = is_connected.then(JournalLog::new).and_then(Result::ok);
    log::set_max_level(stderr.filter());
    // Only a second logger fails.
    let _ = log::set_boxed_logger(Box::new(Journal { stderr, journal }));
}

struct Journal {
    /// Standard error, and the levels that are logged.
    stderr: Logger,
    /// The journal's own socket, if it is to be used.
    journal: Option<JournalLog>,
}

impl Log for Journal {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // ureq logs logins and signed URLs.
        let is_secret = metadata.target().starts_with("ureq") && metadata.level() > Level::Warn;
        !is_secret && self.stderr.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) || !self.stderr.matches(record) {
            return;
        }
        let text = record.args().to_string();
        let line = printable(&text);
        if let Some(journal) = &self.journal {
            let mut fields = Fields(Vec::new());
            // Only a visitor fails, and this one does not.
            let _ = record.key_values().visit(&mut fields);
            let entry = journal.journal_send(
                &record
                    .to_builder()
                    .level(as_priority(record.level()))
                    .key_values(&fields.0)
                    .args(format_args!("{line}"))
                    .build(),
            );
            if entry.is_ok() {
                return;
            }
        }
        let mut plain = record.to_builder();
        self.stderr.log(&plain.args(format_args!("{line}")).build());
    }

    fn flush(&self) {
        self.stderr.flush();
    }
}

/// The level that `systemd_journal_logger` turns into the priority of sd-daemon(3): it makes notices of [`Level::Info`]
/// and entries at info of [`Level::Debug`].
fn as_priority(level: Level) -> Level {
    match level {
        Level::Error => Level::Error,
        Level::Warn => Level::Warn,
        Level::Info => Level::Debug,
        Level::Debug | Level::Trace => Level::Trace,
    }
}

/// The fields of an entry, printable as its text is.
struct Fields(Vec<(String, String)>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let value = printable(&value.to_string()).into_owned();
        self.0.push((key.to_string(), value));
        Ok(())
    }
}
