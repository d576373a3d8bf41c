//! Standard output and the log.

use std::io::{self, ErrorKind, Write};

use log::{Level, LevelFilter};

use crate::error::{Error, Result};
use crate::printable::printable;

/// Writes to standard output. A reader that closed the pipe is no error.
pub fn print(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::service("write to standard output")(error))
        }
        _ => Ok(()),
    }
}

/// Sends the log to standard error, one line for each message. In the journal a prefix has the level
/// (sd-daemon(3)). `RUST_LOG` sets which levels are logged; the default is info for the service and warning for
/// the other commands.
pub fn start_log(is_service: bool) {
    let is_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let default = if is_service {
        LevelFilter::Info
    } else {
        LevelFilter::Warn
    };
    env_logger::Builder::new()
        .filter_level(default)
        .parse_default_env()
        .format(move |out, record| {
            let (target, level) = (record.target(), record.level());
            // ureq logs logins and signed URLs.
            if target.starts_with("ureq") && level > Level::Warn {
                return Ok(());
            }
            let (number, name) = match level {
                Level::Error => (3, "error: "),
                Level::Warn => (4, "warning: "),
                Level::Info => (6, ""),
                Level::Debug | Level::Trace => (7, ""),
            };
            let text = record.args().to_string();
            let line = printable(&text);
            if is_journal {
                writeln!(out, "<{number}>{line}")
            } else {
                writeln!(out, "{name}{line}")
            }
        })
        .init();
}
