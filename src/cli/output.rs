//! Standard output.

use std::io::{self, ErrorKind, IsTerminal, Write};

use crate::error::{Error, Result};

/// Writes to standard output. A reader that closed the pipe is no error.
pub fn print(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::service("write to standard output")(error))
        }
        _ => Ok(()),
    }
}

/// Whether standard output is a terminal: a person reads it.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}
