//! Transfer files are written where systemd-sysupdate looks for them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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

/// Writes those that are not there, each whole, then renamed.
pub fn install(directory: &Path, files: &[TransferFile]) -> Result<Vec<Installed>> {
    Dir::create_public(directory).map_err(|cause| file_error(directory, cause))?;
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
        new.writer()
            .write_all(file.text.as_bytes())
            .map_err(error)?;
        done.push(Installed::Written(new.finish()?));
    }
    Ok(done)
}

/// What is at a path.
enum State {
    Absent,
    Same,
    Other,
}

fn state(path: &Path, file: &TransferFile) -> Result<State> {
    match fs::read(path) {
        Ok(bytes) if bytes == file.text.as_bytes() => Ok(State::Same),
        Ok(_) => Ok(State::Other),
        // A link to nowhere is there, too.
        Err(error) if error.kind() == ErrorKind::NotFound => match path.symlink_metadata() {
            Ok(_) => Ok(State::Other),
            Err(_) => Ok(State::Absent),
        },
        Err(cause) => Err(file_error(path, cause)),
    }
}

fn file_error(path: &Path, cause: std::io::Error) -> Error {
    Error::File {
        path: path.to_owned(),
        cause: Arc::new(cause),
    }
}
