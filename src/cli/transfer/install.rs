//! Transfer files are written where systemd-sysupdate looks for them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::record::{self, Record};
use super::text::TransferFile;
use crate::cli::new_file::NewFile;
use crate::dir::Dir;
use crate::error::{Error, Result};

/// What became of a file.
#[derive(Debug, PartialEq)]
pub enum Installed {
    Written(PathBuf),
    /// It was there already, with these bytes.
    Same(PathBuf),
}

/// The files that say something else, if they are not to be replaced.
pub fn in_the_way(directory: &Path, files: &[TransferFile]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for file in files {
        let path = directory.join(&file.name);
        if !matches!(state(&path, file)?, State::Absent | State::Same) {
            found.push(path);
        }
    }
    Ok(found)
}

/// Writes those that are not there, each whole, then renamed. `linked`: another directory that is needed.
pub fn install(
    directory: &Path,
    linked: Option<&Path>,
    files: &[TransferFile],
) -> Result<Vec<Installed>> {
    let mut made = Vec::new();
    for directory in [directory].into_iter().chain(linked) {
        made.extend(missing(directory));
        Dir::create_public(directory).map_err(Error::file(directory))?;
    }
    let mut done = Vec::new();
    for file in files {
        let path = directory.join(&file.name);
        if let State::Same = state(&path, file)? {
            done.push(Installed::Same(path));
            continue;
        }
        let name = file.name.parse().map_err(|why| Error::BadAddress {
            path: file.name.clone(),
            why,
        })?;
        let mut new = NewFile::create(directory, &name)?;
        let error = new.error();
        // A file that was written here before says what was made then.
        let mut all_made = match fs::read_to_string(&path).as_deref().map(Record::of) {
            Ok(Record::Unchanged { made }) => made,
            _ => Vec::new(),
        };
        all_made.extend_from_slice(&made);
        let text = record::with_record(&file.text, &all_made);
        new.writer().write_all(text.as_bytes()).map_err(error)?;
        done.push(Installed::Written(new.finish()?));
    }
    Ok(done)
}

/// The directories of this path that are not there, parents first.
fn missing(directory: &Path) -> Vec<PathBuf> {
    let absent = |path: &&Path| path.symlink_metadata().is_err();
    let mut missing: Vec<_> = directory.ancestors().take_while(absent).collect();
    missing.reverse();
    missing.into_iter().map(Path::to_owned).collect()
}

/// What is at a path.
enum State {
    Absent,
    Same,
    Other,
}

fn state(path: &Path, file: &TransferFile) -> Result<State> {
    match fs::read(path) {
        Ok(bytes) if record::without_record(&bytes) == file.text.as_bytes() => Ok(State::Same),
        Ok(_) => Ok(State::Other),
        // A link to nowhere is there, too.
        Err(error) if error.kind() == ErrorKind::NotFound => match path.symlink_metadata() {
            Ok(_) => Ok(State::Other),
            Err(_) => Ok(State::Absent),
        },
        Err(cause) => Err(Error::file(path)(cause)),
    }
}
