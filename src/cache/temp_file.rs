//! Files being written, in `tmp/`. The process that writes a file holds a lock on it. A file without a lock was left by
//! a killed process.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::TMP;
use crate::dir::Dir;
use crate::error::{Error, Result};
use crate::lock::lock;

/// The files that this process is writing. They are removed when it ends, even if threads still write them.
#[derive(Clone, Default)]
pub struct TempFiles(Arc<Mutex<Files>>);

#[derive(Default)]
struct Files {
    /// `tmp/`, held open for all of them.
    tmp: Option<Arc<Dir>>,
    /// The names of the files, each with its directory.
    unfinished: HashMap<String, Arc<Dir>>,
    is_closed: bool,
}

impl Files {
    /// Creates a file in `tmp/`, which may have been removed since the last one.
    fn create(&mut self, name: &str, root: &Path) -> io::Result<(Arc<Dir>, File)> {
        if let Some(tmp) = &self.tmp {
            match tmp.create_file(name) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                created => return Ok((tmp.clone(), created?)),
            }
        }
        let tmp = Arc::new(Dir::create(root)?.create_sub(TMP)?);
        let file = tmp.create_file(name)?;
        self.tmp = Some(tmp.clone());
        Ok((tmp, file))
    }
}

impl TempFiles {
    /// Creates and locks a file; `None` if another process swept it away before it was locked.
    pub fn create(&self, name: String, root: &Path) -> io::Result<Option<Unfinished>> {
        let (tmp, file) = {
            let mut files = lock(&self.0);
            if files.is_closed {
                return Err(io::Error::other("the service is ending"));
            }
            let (tmp, file) = files.create(&name, root)?;
            files.unfinished.insert(name.clone(), tmp.clone());
            (tmp, file)
        };
        let unfinished = Unfinished {
            file,
            name,
            tmp,
            temp_files: self.clone(),
        };
        unfinished.file.lock()?;
        let is_there = unfinished.file.metadata()?.nlink() > 0;
        Ok(Some(unfinished).filter(|_| is_there))
    }

    /// Removes all files. None can be created from now on.
    pub fn close(&self) {
        let mut files = lock(&self.0);
        files.is_closed = true;
        for (name, tmp) in files.unfinished.drain() {
            let _ = tmp.remove(name); // the next start sweeps
        }
    }
}

/// A file being written. It is removed when this is dropped, unless it was kept.
pub struct Unfinished {
    file: File,
    name: String,
    tmp: Arc<Dir>,
    temp_files: TempFiles,
}

impl Unfinished {
    /// The file, to write into.
    pub fn file(&self) -> Result<File> {
        self.file.try_clone().map_err(|cause| Error::File {
            path: self.tmp.path_of(&self.name),
            cause: Arc::new(cause),
        })
    }

    /// Its size in bytes so far.
    pub fn size(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len())
    }

    /// Writes all of a small file.
    pub fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        (&self.file).write_all(bytes)
    }

    /// Renames it into another folder. Files there are whole.
    pub fn keep_as(&self, folder: &Dir, name: &str) -> io::Result<()> {
        self.tmp.rename(&self.name, folder, name)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = self.tmp.remove(&self.name); // it may have been kept under another name
        lock(&self.temp_files.0).unfinished.remove(&self.name);
    }
}

/// Removes the files of killed processes.
pub fn sweep(tmp: &Dir) {
    for entry in tmp.entries().unwrap_or_default() {
        if entry.is_file
            && let Some(_held) = take_over(tmp, &entry.name)
        {
            let _ = tmp.remove(&entry.name); // the next sweep tries again
        }
    }
}

/// Locks a file that no process has locked. A process that has created the file and not yet locked it waits until it is
/// removed, and then creates another.
fn take_over(tmp: &Dir, name: &OsStr) -> Option<File> {
    let file = tmp.file(name).ok()?;
    file.try_lock().ok()?;
    Some(file)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_creates_a_file_and_who_sweeps_it_away_wait_for_each_other() {
        let name = format!("sysext-oci-proxy-unfinished-{}", std::process::id());
        let root = std::env::temp_dir().join(name);
        let path = root.join(TMP).join("1");
        let temp_files = TempFiles::default();
        let create = || temp_files.create("1".into(), &root).unwrap().unwrap();
        let unfinished = create();
        let tmp = unfinished.tmp.clone();
        assert!(take_over(&tmp, "1".as_ref()).is_none(), "it is at work");
        drop(unfinished);

        fs::write(&path, "created, and not locked yet").unwrap();
        let swept = take_over(&tmp, "1".as_ref()).unwrap();
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

        fs::remove_dir_all(&root).unwrap();
        let (unfinished, another) = (create(), temp_files.create("2".into(), &root));
        assert!(path.exists(), "a cache that was removed is made again");
        temp_files.close();
        assert!(!path.exists() && tmp.file("2").is_err());
        assert!(temp_files.create("3".into(), &root).is_err());
        drop((unfinished, another));
        fs::remove_dir_all(&root).unwrap();
    }
}
