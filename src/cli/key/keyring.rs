//! One keyring of the administrator: the key of this machine is added and removed, and all else is put back as it was.
//!
//! Where removing the key does not restore the file, because there was none or because it was a keybox, the file beside it
//! has what there was before:
//!
//! ```text
//! import-pubring.gpg.before-key-install    sha256:<hex of the keyring without the key> none|keybox
//!                                          <the keybox>
//! ```

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{PublicKey, cannot, gpg};
use crate::cli::new_file::NewFile;
use crate::digest::Digest;
use crate::dir::Dir;
use crate::error::{Error, Result};
use crate::openpgp::{Fingerprint, Form, Keyring, NAME};

const BEFORE: &str = ".before-key-install";
const NONE: &[u8] = b" none\n";
const KEYBOX: &[u8] = b" keybox\n";

/// The keys of a keyring as packets; `None` if the file does not exist.
pub fn packets(path: &Path) -> Result<Option<Vec<u8>>> {
    let Some(bytes) = read(path)? else {
        return Ok(None);
    };
    match Form::of(&bytes) {
        Form::Packets => Ok(Some(bytes)),
        Form::Keybox => gpg::export(path).map(Some),
        Form::Armored => Err(cannot(format!(
            "{0} is armored, and systemd reads only binary keyrings; `gpg --dearmor < {0} > key && mv key {0}`",
            path.display()
        ))),
        Form::Unknown => Err(cannot(format!(
            "{} is damaged: expected OpenPGP packets or a keybox",
            path.display()
        ))),
    }
}

/// Adds a key, in place of an older one of this machine. `base`: the keys to begin with if there is no such file, or only
/// one that this function made of them before. The result is whether anything has changed.
pub fn add(path: &Path, base: impl FnOnce() -> Result<Vec<u8>>, key: &PublicKey) -> Result<bool> {
    let path = &real(path);
    let original = read(path)?;
    let is_copy = copied(path)?.is_some();
    let keys = match packets(path)? {
        Some(keys) if !is_copy => keys,
        _ => base()?,
    };
    let keyring = parse(path, &keys)?;
    if !is_copy && original.as_ref() == Some(&keys) && keyring.machines().next().is_some() {
        // The file beside the keyring, if there is one, has its earlier form already.
    } else {
        let rest = Digest::of(&keyring.without_machines());
        let before = match &original {
            _ if is_copy => Some([rest.to_string().as_bytes(), NONE].concat()),
            None => Some([rest.to_string().as_bytes(), NONE].concat()),
            Some(original) if *original != keys => {
                Some([rest.to_string().as_bytes(), KEYBOX, original].concat())
            }
            Some(_) => None,
        };
        match before {
            Some(before) => write(&beside(path), &before)?,
            None => remove_if_there(&beside(path))?,
        }
    }
    let keys = keyring.with(&key.bytes);
    if original.as_ref() == Some(&keys) {
        return Ok(false);
    }
    write(path, &keys)?;
    Ok(true)
}

/// The keys of others in a keyring that did not exist before the key of this machine was added, and that nobody changed
/// since: they are a copy of other keys.
pub fn copied(path: &Path) -> Result<Option<Vec<u8>>> {
    let (Some(bytes), Some(before)) = (read(path)?, read(&beside(path))?) else {
        return Ok(None);
    };
    let Some(keyring) = Keyring::read(&bytes) else {
        return Ok(None);
    };
    let rest = keyring.without_machines();
    let is_copy = matches!(Before::of(&before, &rest), Some(Before::None));
    Ok(is_copy.then_some(rest))
}

/// The result of removing the key of this machine from a keyring.
#[derive(Debug, PartialEq)]
pub enum Removed {
    /// The file has no such key, or does not exist.
    Nothing,
    /// The file is as it was before the key was added, or is gone as it was.
    Restored(Vec<Fingerprint>),
    /// The other keys are as they are now.
    Others(Vec<Fingerprint>),
    /// The key is in a file that is no row of packets.
    Unreadable,
}

/// Removes the keys of this machine.
pub fn remove(path: &Path) -> Result<Removed> {
    let path = &real(path);
    let beside = beside(path);
    let Some(bytes) = read(path)? else {
        remove_if_there(&beside)?;
        return Ok(Removed::Nothing);
    };
    let Some(keyring) = Keyring::read(&bytes) else {
        let name = NAME.as_bytes();
        let has_key = bytes.windows(name.len()).any(|part| part == name);
        return Ok(match has_key {
            true => Removed::Unreadable,
            false => Removed::Nothing,
        });
    };
    let removed: Vec<_> = keyring.machines().collect();
    if removed.is_empty() {
        remove_if_there(&beside)?;
        return Ok(Removed::Nothing);
    }
    let rest = keyring.without_machines();
    let before = read(&beside)?.and_then(|before| Before::of(&before, &rest));
    let is_restored = before.is_some() || read(&beside)?.is_none();
    match before {
        Some(Before::None) => remove_if_there(path)?,
        Some(Before::Keybox(keybox)) => write(path, &keybox)?,
        None => write(path, &rest)?,
    }
    remove_if_there(&beside)?;
    Ok(match is_restored {
        true => Removed::Restored(removed),
        false => Removed::Others(removed),
    })
}

/// The form of a keyring before the key was added, where removing the key does not restore it.
enum Before {
    None,
    Keybox(Vec<u8>),
}

impl Before {
    /// Reads it. `None` if the other keys are not those of that time, or if it is damaged.
    fn of(file: &[u8], rest: &[u8]) -> Option<Self> {
        let digest = Digest::of(rest).to_string();
        let file = file.strip_prefix(digest.as_bytes())?;
        match file.strip_prefix(KEYBOX) {
            Some(keybox) => Some(Self::Keybox(keybox.to_owned())),
            None => (file == NONE).then_some(Self::None),
        }
    }
}

/// Reads a keyring. [`packets`] has checked its form.
fn parse<'a>(path: &Path, keys: &'a [u8]) -> Result<Keyring<'a>> {
    let damaged = || cannot(format!("{}: its keys cannot be told apart", path.display()));
    Keyring::read(keys).ok_or_else(damaged)
}

/// The file itself, if a link leads to it: it is replaced, and the link stays.
fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(BEFORE);
    name.into()
}

/// The bytes of a file; `None` if it does not exist.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file(path)(error)),
    }
}

/// Writes a file whole or not at all, with the permissions of the one that it replaces.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    Dir::create_public(folder).map_err(Error::file(folder))?;
    // It is used only if the path is that of a directory.
    let name = "keyring".parse().map_err(cannot)?;
    let mut new = NewFile::create(path, &name)?;
    let error = new.error();
    if let Ok(before) = fs::metadata(path) {
        new.set_permissions(before.permissions())?;
    }
    new.writer().write_all(bytes).map_err(error)?;
    new.finish().map(drop)
}

pub fn remove_if_there(path: &Path) -> Result<()> {
    let error = Error::file(path);
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    match Dir::open_to_write(folder).and_then(|folder| folder.remove(name)) {
        Err(missing) if missing.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(error),
    }
}
