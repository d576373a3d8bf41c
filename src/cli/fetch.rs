//! The command `fetch`: one file of a directory, verified against the list that was just read.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::str::FromStr;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::asked::{self, Asked};
use super::choose::{Choice, choose};
use super::new_file::NewFile;
use super::output;
use crate::address::Directory;
use crate::digest::Hasher;
use crate::error::{Error, Result};
use crate::platform::Architecture;
use crate::printable::printable;
use crate::server::http::Interrupted;
use crate::server::json;

/// The bar on a terminal.
const PROGRESS: &str = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
/// The same, if the size is not known.
const PROGRESS_WITHOUT_SIZE: &str = "{spinner} {bytes} {bytes_per_sec}";

/// The target of a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// This file, or this directory, in which the file has its own name.
    Path(PathBuf),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("expected a file, a directory, or - for standard output".into()),
            "-" => Ok(Self::Stdout),
            path => Ok(Self::Path(path.into())),
        }
    }
}

/// Fetches a file, and prints its path unless it goes to standard output.
pub fn fetch(
    asked: &Asked,
    directory: &Directory,
    wanted: Choice<'_>,
    target: Target,
) -> Result<()> {
    let overview = asked::parse(directory, &asked.json(directory)?)?;
    let machine = Architecture::of_this_machine();
    let file = choose(&overview, directory, wanted, machine)?;
    let path = match target {
        Target::Stdout => return copy(asked, directory, file, &mut io::stdout(), &stdout_error),
        Target::Path(path) => path,
    };
    let mut new = NewFile::create(&path, &file.name)?;
    let error = new.error();
    copy(asked, directory, file, new.writer(), &error)?;
    let path = new.finish()?.display().to_string();
    match output::is_terminal() {
        true => output::print(&format!("{}\n", printable(&path))),
        false => output::print(&format!("{path}\n")),
    }
}

fn stdout_error(cause: io::Error) -> Error {
    Error::service("write to standard output")(cause)
}

/// Copies a file, which is wrong if it is not the one of the list.
fn copy(
    asked: &Asked,
    directory: &Directory,
    file: &json::File,
    out: &mut dyn Write,
    output_error: &dyn Fn(io::Error) -> Error,
) -> Result<()> {
    let what = || format!("{directory}/{}", file.name);
    let mut checked = Checked {
        out,
        hasher: Hasher::default(),
        received: 0,
        expected: file.size,
        progress: progress(file.size),
    };
    let copied = asked.file(directory, &file.name, &mut checked);
    let copied = copied.and_then(|()| checked.flush().map_err(Interrupted::Client));
    checked.progress.finish_and_clear();
    let is_too_long = checked.is_too_long();
    let Checked {
        hasher,
        received: found,
        ..
    } = checked;
    match copied {
        Err(Interrupted::Client(_)) if is_too_long => {}
        Err(Interrupted::Client(error)) => return Err(output_error(error)),
        Err(Interrupted::Body(error)) => return Err(error),
        Ok(()) => {}
    }
    if let Some(expected) = file.size.filter(|size| *size != found) {
        return Err(Error::WrongSize {
            what: what(),
            expected,
            found,
        });
    }
    let (expected, found) = (file.digest, hasher.finish());
    if found != expected {
        return Err(Error::WrongBytes {
            what: what(),
            expected,
            found,
        });
    }
    Ok(())
}

/// Writes, hashes and counts. More bytes than the list says are an error.
struct Checked<'a> {
    out: &'a mut dyn Write,
    hasher: Hasher,
    received: u64,
    expected: Option<u64>,
    progress: ProgressBar,
}

impl Checked<'_> {
    fn is_too_long(&self) -> bool {
        self.expected
            .is_some_and(|expected| self.received > expected)
    }
}

impl Write for Checked<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.received += bytes.len() as u64;
        if self.is_too_long() {
            return Err(ErrorKind::FileTooLarge.into());
        }
        self.out.write_all(bytes)?;
        self.hasher.update(bytes);
        self.progress.inc(bytes.len() as u64);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A bar on standard error, if that is a terminal.
fn progress(size: Option<u64>) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = if size.is_some() {
        PROGRESS
    } else {
        PROGRESS_WITHOUT_SIZE
    };
    let style = ProgressStyle::with_template(template).expect("the template is right");
    ProgressBar::with_draw_target(size, ProgressDrawTarget::stderr()).with_style(style)
}
