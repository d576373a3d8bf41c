//! Reads tar archives of any program: ustar, GNU and PAX.
//!
//! ```text
//! header ─▶ extended ─▶ members ─▶ entry
//! ```
//!
//! `dissect/` goes from member to member and skips the data between them. `flatten/` reads each member of a layer as an
//! entry: a file of an image.
//!
//! Formats: pax(1) in POSIX.1-2017 ("ustar Interchange Format", "pax Extended Header") and GNU tar's
//! manual ("Basic Tar Format", "Storing Sparse Files").
//!
//! No crate reads them: tar takes an extended header of any size into memory, ends the value of a record at a newline,
//! takes a time before 1970 for one in the far future, and does not know sparse files in PAX form.

mod attributes;
mod entry;
mod extended;
mod header;
mod members;
#[cfg(test)]
mod tests;

use std::io;

pub use attributes::{Attributes, Time, Xattrs};
pub use entry::{Entry, Kind, MAX_PATH};
pub use extended::Piece;
pub use header::{BLOCK, Header, show, split_once};
pub use members::Members;

/// Why an archive was not read to its end.
#[derive(Debug)]
pub enum Failure {
    /// The archive could not be read.
    Read(io::Error),
    /// The archive is damaged, or has something that is not accepted.
    Refused(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self::Refused(why)
    }
}

impl Failure {
    /// The same, with the path that it is about.
    fn of(self, path: &[u8]) -> Self {
        match self {
            Self::Refused(why) => Self::Refused(format!("{}: {why}", show(path))),
            read => read,
        }
    }
}

fn refused<T>(why: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Refused(why.into()))
}
