//! Transfer files are written where systemd-sysupdate looks for them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::record::{self, Record};
use super::text::TransferFile;
use crate::cli::new_file::NewFile;
use crate::dir::Dir;
use crate::error::{Error, Result};

/// The result for one file.
#[derive(Debug, PartialEq)]
pub enum Installed {
    Written(PathBuf),
    /// The file existed already, with these bytes.
    Same(PathBuf),
    /// The file was written for an earlier offer, and was removed.
    Removed(PathBuf),
}

/// An existing file in the target directory that prevents the installation.
#[derive(Debug, PartialEq)]
pub enum Obstacle {
    /// A file of the same name that says something else.
    Other(PathBuf),
    /// A file that was written here for something else, and is as it was written.
    Stale(PathBuf),
    /// Another file that systemd-sysupdate would read, too, or would not read any more.
    Foreign(PathBuf),
    /// The path is not a regular file.
    Irregular(PathBuf),
}

impl Obstacle {
    /// Whether `--force` clears it away.
    pub fn yields(&self) -> bool {
        matches!(self, Self::Other(_) | Self::Stale(_))
    }

    /// The message: the file, and the remedy.
    pub fn line(&self) -> String {
        match self {
            Self::Other(path) => format!(
                "{} exists with other content; --force replaces it",
                path.display()
            ),
            Self::Stale(path) => format!(
                "{} was written for an earlier offer; --force removes it",
                path.display()
            ),
            Self::Foreign(path) => format!(
                "{} belongs to the same component, and was changed or was not written by this command; \
                 move it away, or set another component with --component",
                path.display()
            ),
            Self::Irregular(path) => format!(
                "{} is a link or another special file, such as a mask; remove it to install a file there",
                path.display()
            ),
        }
    }
}

/// The obstacles in the directory of a component.
pub fn in_the_way(directory: &Path, files: &[TransferFile]) -> Result<Vec<Obstacle>> {
    let error = Error::file(directory);
    let dir = match Dir::open(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened.map_err(&error)?,
    };
    let mut found = Vec::new();
    for entry in dir.entries().map_err(&error)? {
        let path = dir.path_of(&entry.name);
        let file = files.iter().find(|file| entry.name == file.name.as_str());
        // One that is empty or a link to nowhere is not read.
        let is_read = path.metadata().is_ok_and(|file| file.len() > 0) && is_definition(&path);
        match file {
            Some(_) if !entry.is_file => found.push(Obstacle::Irregular(path)),
            Some(file) if !is_same(&path, file)? => found.push(Obstacle::Other(path)),
            None if is_read => {
                let record = match entry.is_file {
                    true => Record::read(&dir, &entry.name).map_err(Error::file(&path))?,
                    false => Record::Foreign,
                };
                found.push(match record {
                    Record::Unchanged { .. } => Obstacle::Stale(path),
                    Record::Changed | Record::Foreign => Obstacle::Foreign(path),
                });
            }
            _ => {}
        }
    }
    found.sort_by_key(Obstacle::line);
    Ok(found)
}

/// Whether systemd-sysupdate takes a file of this name for a transfer file.
fn is_definition(path: &Path) -> bool {
    path.extension()
        .is_some_and(|ending| ending == "transfer" || ending == "conf")
}

/// Writes those that are not there, each whole, then renamed, and removes those of `obstacles` that are stale. `linked`:
/// other directories that are needed.
pub fn install(
    directory: &Path,
    linked: &[PathBuf],
    files: &[TransferFile],
    obstacles: &[Obstacle],
) -> Result<Vec<Installed>> {
    let mut made = Vec::new();
    for directory in [directory]
        .into_iter()
        .chain(linked.iter().map(PathBuf::as_path))
    {
        made.extend(missing(directory));
        Dir::create_public(directory).map_err(Error::file(directory))?;
    }
    let dir = Dir::open(directory).map_err(Error::file(directory))?;
    let stale: Vec<_> = obstacles
        .iter()
        .filter_map(|one| match one {
            Obstacle::Stale(path) => Some(path),
            _ => None,
        })
        .collect();
    // Directories that were created for a removed file are needed by the new files.
    for path in &stale {
        add_made(&mut made, path);
    }
    let mut done = Vec::new();
    for file in files {
        let path = directory.join(&file.name);
        if is_same(&path, file)? {
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
        let mut all_made = Vec::new();
        add_made(&mut all_made, &path);
        all_made.extend(
            made.iter()
                .filter(|one| !all_made.contains(one))
                .cloned()
                .collect::<Vec<_>>(),
        );
        let text = record::with_record(&file.text, &all_made);
        new.writer().write_all(text.as_bytes()).map_err(error)?;
        done.push(Installed::Written(new.finish()?));
    }
    for path in stale {
        let name = path.file_name().unwrap_or_default();
        dir.remove(name).map_err(Error::file(path))?;
        done.push(Installed::Removed(path.clone()));
    }
    Ok(done)
}

/// Adds the directories that were made for a file that is as it was written.
fn add_made(made: &mut Vec<PathBuf>, path: &Path) {
    if let Ok(Record::Unchanged { made: before }) =
        fs::read_to_string(path).as_deref().map(Record::of)
    {
        let new: Vec<_> = before
            .into_iter()
            .filter(|one| !made.contains(one))
            .collect();
        made.extend(new);
    }
}

/// The directories of this path that are not there, parents first.
fn missing(directory: &Path) -> Vec<PathBuf> {
    let absent = |path: &&Path| path.symlink_metadata().is_err();
    let mut missing: Vec<_> = directory.ancestors().take_while(absent).collect();
    missing.reverse();
    missing.into_iter().map(Path::to_owned).collect()
}

/// Whether a file is there with this text, and nobody added anything.
fn is_same(path: &Path, file: &TransferFile) -> Result<bool> {
    match fs::read(path) {
        Ok(bytes) => {
            let is_changed = Record::of(&String::from_utf8_lossy(&bytes)) == Record::Changed;
            Ok(!is_changed && record::without_record(&bytes) == file.text.as_bytes())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(cause) => Err(Error::file(path)(cause)),
    }
}
