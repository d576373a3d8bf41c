//! Files being written, in `tmp/`. Whoever writes one holds a lock on it, so what a killed process left
//! is known by nobody holding it.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use log::debug;
use rustix::fs::{Mode, OFlags};

use crate::error::{Error, Result};
use crate::lock::lock;

/// The files that this process is writing. They go when it ends, though threads may be at work on them.
#[derive(Clone, Default)]
pub(super) struct AtWork(Arc<Mutex<Paths>>);

#[derive(Default)]
struct Paths {
    unfinished: HashSet<PathBuf>,
    is_closed: bool,
}

impl AtWork {
    /// Creates a file; `None` if another process took it for abandoned before it was locked.
    pub(super) fn create(&self, path: PathBuf) -> io::Result<Option<Unfinished>> {
        path.parent().map_or(Ok(()), create_folder)?;
        let file = {
            let mut paths = lock(&self.0);
            if paths.is_closed {
                return Err(io::Error::other("the service is ending"));
            }
            let file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)?;
            paths.unfinished.insert(path.clone());
            file
        };
        let unfinished = Unfinished {
            file,
            path,
            at_work: self.clone(),
        };
        unfinished.file.lock()?;
        let is_there = unfinished.file.metadata()?.nlink() > 0;
        Ok(Some(unfinished).filter(|_| is_there))
    }

    /// Removes all of them. No other can be created from now on.
    pub(super) fn close(&self) {
        let mut paths = lock(&self.0);
        paths.is_closed = true;
        for path in paths.unfinished.drain() {
            let _ = fs::remove_file(path); // the next start sweeps
        }
    }
}

/// A file being written. What was not kept goes with it.
pub struct Unfinished {
    file: File,
    path: PathBuf,
    at_work: AtWork,
}

impl Unfinished {
    /// To write into.
    pub fn file(&self) -> Result<File> {
        self.file.try_clone().map_err(|cause| Error::File {
            path: self.path.clone(),
            cause: Arc::new(cause),
        })
    }

    /// In bytes, so far.
    pub fn size(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len())
    }

    /// Writes all of a small one.
    pub(super) fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        (&self.file).write_all(bytes)
    }

    /// Gives it its name. From then on it is whole, for whoever finds it.
    pub(super) fn keep_as(&self, path: &Path) -> io::Result<()> {
        path.parent().map_or(Ok(()), create_folder)?;
        fs::rename(&self.path, path)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path); // it may have been kept under another name
        lock(&self.at_work.0).unfinished.remove(&self.path);
    }
}

/// Creates a folder of the cache, where there is none. It belongs to whom the cache belongs: in one of root's, who
/// may have listed something, the service could never write.
fn create_folder(path: &Path) -> io::Result<()> {
    let root = path.parent().unwrap_or(path);
    let mut created = fs::create_dir(path);
    if matches!(&created, Err(error) if error.kind() == ErrorKind::NotFound) {
        fs::create_dir_all(root)?;
        created = fs::create_dir(path);
    }
    match created {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => {
            if let Err(error) = give_to_owner(path, root) {
                debug!("{} stays ours: {error}", path.display());
            }
            Ok(())
        }
    }
}

/// Gives a folder to whom the one around it belongs. They may have put something else in its place meanwhile,
/// which is given to nobody unless it is a folder, too.
fn give_to_owner(path: &Path, root: &Path) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let (ours, owner) = (folder.metadata()?, fs::metadata(root)?);
    if ours.uid() == owner.uid() {
        return Ok(());
    }
    fchown(&folder, Some(owner.uid()), Some(owner.gid()))
}

/// Removes what killed processes left.
pub(super) fn sweep(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_file())
            && let Some(_held) = take_over(&path)
        {
            let _ = fs::remove_file(&path); // the next sweep tries again
        }
    }
}

/// A file that nobody held, held from now on: whoever created it just now, and has still to lock it, waits
/// until it is gone and creates another.
fn take_over(path: &Path) -> Option<File> {
    let file = File::open(path).ok()?;
    file.try_lock().ok()?;
    Some(file)
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_creates_a_file_and_who_sweeps_it_away_wait_for_each_other() {
        let name = format!("sysext-oci-proxy-unfinished-{}", std::process::id());
        let path = std::env::temp_dir().join(name).join("1");
        let at_work = AtWork::default();
        let unfinished = at_work.create(path.clone()).unwrap().unwrap();
        assert!(take_over(&path).is_none(), "it is at work");
        drop(unfinished);

        fs::write(&path, "created, and not locked yet").unwrap();
        let swept = take_over(&path).unwrap();
        thread::scope(|scope| {
            let file = File::open(&path).unwrap();
            let locked =
                scope.spawn(move || file.lock().map(|()| file.metadata().unwrap().nlink()));
            thread::sleep(Duration::from_millis(50));
            assert!(!locked.is_finished(), "it is still to be removed");
            fs::remove_file(&path).unwrap();
            drop(swept);
            assert_eq!(locked.join().unwrap().unwrap(), 0, "it is seen to be gone");
        });
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
