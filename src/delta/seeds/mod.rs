//! Older versions of a file that are on this machine, and that all its users may read.
//!
//! They are in the directories that systemd-sysupdate installs to, by the transfer files that name the repository at this
//! service, and in those that `seeds` in the settings names. The transfer files are read for each download, since they
//! change without notice to this service. `places.rs` knows them; here the files in them are opened.
//!
//! A directory is opened by the path that root wrote, and links in that path are followed as systemd follows them. No
//! link in the directory is followed. The owner of a file does not matter, because a seed is not trusted: each chunk of
//! it is hashed before it is used, and its file may be cut, changed or removed while it is read.

mod places;

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use places::Spot;
pub use places::{Places, Wanted};

use crate::artifact::suffix;
use crate::dir::{Dir, Entry};
use crate::version;

/// Smallest file for which seeds are looked for, in bytes. Below it, the requests for an index and for single ranges
/// take longer than the file.
pub const LEAST_SIZE: u64 = 8 << 20;
/// Most seeds of one file. Older versions have less and less in common with it.
pub const MOST: usize = 4;

/// Most directories that are looked into for one file.
const MOST_DIRECTORIES: usize = 32;
/// Most names that are read of a directory.
const MOST_NAMES: usize = 10_000;
/// Most files that are opened to find the seeds of one file: the newest by their names.
const MOST_OPENED: usize = 64;
/// The bits of a mode by which all may enter a directory, enter it and read its names, and read a file.
const ENTER: u32 = 0o001;
const READ_NAMES: u32 = 0o005;
const READ: u32 = 0o004;

/// An older version, opened.
#[derive(Debug)]
pub struct Seed {
    /// Its path on the machine, for messages.
    pub path: PathBuf,
    pub version: String,
    /// Its size when it was opened, in bytes.
    pub size: u64,
    pub file: File,
    /// Its device and inode.
    inode: (u64, u64),
}

impl Seed {
    /// A file as a seed, for tests.
    #[cfg(test)]
    pub fn open(path: &Path, version: &str) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        Ok(Self {
            path: path.to_owned(),
            version: version.to_owned(),
            size: metadata.len(),
            file,
            inode: (metadata.dev(), metadata.ino()),
        })
    }
}

/// The seeds of a file, and what might have been one.
#[derive(Debug, Default)]
pub struct Found {
    /// The newest version comes first. No two are of one version.
    pub seeds: Vec<Seed>,
    pub unread: Vec<Unread>,
}

/// A file or directory that cannot be read as a seed.
#[derive(Debug, PartialEq, Eq)]
pub struct Unread {
    /// Its path on the machine.
    pub path: PathBuf,
    pub why: Why,
}

/// The reason why a seed cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub enum Why {
    /// Not all may enter this directory on the way to it, or read its names. Its mode.
    Hidden { directory: PathBuf, mode: u32 },
    /// Not all may read the file. Its mode.
    Private { mode: u32 },
    /// The directory does not exist, and the settings name it.
    Missing,
    /// The file is a symbolic link.
    Link,
    /// The kernel refuses it for this reason, or a transfer file cannot be read.
    Failed(String),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hidden { directory, mode } => write!(
                f,
                "only some users may look into {}: its mode is {mode:o}",
                directory.display()
            ),
            Self::Private { mode } => {
                write!(f, "only some users may read it: its mode is {mode:o}")
            }
            Self::Missing => f.write_str("it does not exist"),
            Self::Link => f.write_str("it is a symbolic link, and none is followed"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

/// A file that may be a seed.
struct Candidate<'a> {
    dir: &'a Dir,
    spot: &'a Spot,
    name: String,
    version: String,
}

impl Places {
    /// The seeds of a file, and what cannot be read. A file that is compressed as a whole has none: all its bytes change
    /// with the first one, and what is installed is not compressed.
    pub fn look(&self, wanted: &Wanted<'_>) -> Found {
        let mut found = Found::default();
        let is_switched_off = wanted.directories.is_some_and(<[_]>::is_empty);
        if is_switched_off || !suffix::packing(wanted.name.as_str()).is_empty() {
            return found;
        }
        let (mut spots, fault) = self.spots(wanted);
        if let Some(fault) = fault {
            found.note(fault.file, Why::Failed(fault.why));
        }
        spots.truncate(MOST_DIRECTORIES);
        let mut opened = Vec::new();
        for spot in &spots {
            match self.open(spot) {
                Ok(dir) => opened.extend(dir.map(|dir| (spot, dir))),
                Err(why) => found.note(spot.path.clone(), why),
            }
        }
        let mut candidates = Vec::new();
        for (spot, dir) in &opened {
            match candidates_in(spot, dir) {
                Ok(more) => candidates.extend(more),
                Err(error) => found.note(spot.path.clone(), Why::Failed(error.to_string())),
            }
            candidates.sort_by(|one: &Candidate<'_>, other| {
                version::compare(&other.version, &one.version)
            });
            candidates.truncate(MOST_OPENED);
        }
        for candidate in &candidates {
            if found.seeds.len() == MOST {
                break;
            }
            found.add(candidate);
        }
        found
    }

    /// Opens a directory. `None`: nothing has been installed to it yet.
    fn open(&self, spot: &Spot) -> Result<Option<Dir>, Why> {
        match self.open_readable(&spot.path) {
            Err(Why::Missing) if !spot.is_named => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// Opens a directory that all may read.
    pub fn open_readable(&self, directory: &Path) -> Result<Dir, Why> {
        let path = self
            .root()
            .join(directory.strip_prefix("/").unwrap_or(directory));
        if let Some(hidden) = self.hidden(&path) {
            return Err(hidden);
        }
        Dir::open(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Why::Missing,
            _ => Why::Failed(error.to_string()),
        })
    }

    /// The first directory on the way to this one that not all may enter, or the directory itself if not all may read it.
    /// This process may be root's: then the kernel does not say so.
    fn hidden(&self, path: &Path) -> Option<Why> {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let root = self.root().canonicalize().ok()?;
        let mut way: Vec<_> = path
            .ancestors()
            .filter(|part| part.starts_with(&root) && *part != root)
            .collect();
        way.reverse();
        for part in way {
            let mode = fs::metadata(part).ok()?.mode() & 0o7777;
            let needed = if part == path { READ_NAMES } else { ENTER };
            if mode & needed != needed {
                let part = part.strip_prefix(&root).unwrap_or(part);
                let directory = Path::new("/").join(part);
                return Some(Why::Hidden { directory, mode });
            }
        }
        None
    }
}

impl Found {
    /// Opens a file, and adds it to the seeds or to what cannot be read. A file of a version that there is already, and
    /// one that is a seed by another name, add nothing.
    fn add(&mut self, candidate: &Candidate<'_>) {
        let Candidate {
            dir,
            spot,
            name,
            version,
        } = candidate;
        let is_there = |seed: &Seed| version::compare(&seed.version, version).is_eq();
        if self.seeds.iter().any(is_there) {
            return;
        }
        let path = spot.path.join(name);
        let opened = match dir.entry(name) {
            Some(entry) if entry.is_file => open_readable(dir, &entry),
            // The link that CurrentSymlink= names is one, too.
            Some(entry) if entry.is_link && spot.is_named => Err(Why::Link),
            _ => return,
        };
        match opened {
            Err(why) => self.note(path, why),
            Ok(None) => {}
            Ok(Some((file, metadata))) => {
                let inode = (metadata.dev(), metadata.ino());
                if !self.seeds.iter().any(|seed| seed.inode == inode) {
                    self.seeds.push(Seed {
                        path,
                        version: version.clone(),
                        size: metadata.len(),
                        file,
                        inode,
                    });
                }
            }
        }
    }

    fn note(&mut self, path: PathBuf, why: Why) {
        let unread = Unread { path, why };
        if !self.unread.contains(&unread) {
            self.unread.push(unread);
        }
    }
}

/// The files in a directory that are versions of the wanted one, by their names.
fn candidates_in<'a>(spot: &'a Spot, dir: &'a Dir) -> io::Result<Vec<Candidate<'a>>> {
    let names = dir.names(MOST_NAMES)?.into_iter();
    let candidate = |name: OsString| {
        let name = name.into_string().ok()?;
        let version = spot.version(&name)?;
        Some(Candidate {
            dir,
            spot,
            name,
            version,
        })
    };
    Ok(names.filter_map(candidate).collect())
}

/// Opens a file that all may read. `None`: it is empty, or has been removed since its name was read.
fn open_readable(dir: &Dir, entry: &Entry) -> Result<Option<(File, Metadata)>, Why> {
    may_read(entry.mode)?;
    let opened = dir.file(&entry.name).and_then(|file| {
        let metadata = file.metadata()?;
        Ok((file, metadata))
    });
    match opened {
        Ok((file, metadata)) => {
            // Another file may have the name by now.
            may_read(metadata.mode() & 0o7777)?;
            Ok((metadata.len() > 0).then_some((file, metadata)))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Why::Failed(error.to_string())),
    }
}

fn may_read(mode: u32) -> Result<(), Why> {
    match mode & READ {
        0 => Err(Why::Private { mode }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
