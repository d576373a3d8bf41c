//! An open directory, for the cache and for the state. Files in it are opened relative to it, and no symbolic link in it
//! is followed.
//!
//! The directory itself may be a link: with `DynamicUser=` it is one, made by root. Root neither writes nor deletes in a
//! directory that another user owns: that user's files must not direct what root does, and root's files would be in the
//! way of the user's service.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File, FileTimes};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use log::debug;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatVfsMountFlags};
use rustix::process::{Gid, Uid, geteuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// Last use is noted once a day, so that reading a file often does not write to it as often.
const NOTED: Duration = Duration::from_secs(24 * 60 * 60);
/// Most levels of a directory that are removed.
const MAX_DEPTH: usize = 32;
/// Whom a file is for that a command writes: all whom the umask lets in.
const PUBLIC: Mode = Mode::from_raw_mode(0o666);
/// `TMPFS_MAGIC` of statfs(2).
const TMPFS: i128 = 0x0102_1994;
/// `RAMFS_MAGIC` of statfs(2).
const RAMFS: i128 = 0x8584_58f6;

/// An open directory.
#[derive(Debug)]
pub struct Dir {
    handle: OwnedFd,
    /// Its path, for messages only.
    path: PathBuf,
    /// Its owner, if this process is root and the owner is not.
    stranger: Option<u32>,
}

/// Where a directory is, and whose it is.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
    owner: u32,
}

impl Identity {
    /// The identity of the directory at a path, links followed; `None` if there is none.
    pub fn of(path: &Path) -> Option<Self> {
        let found = rustix::fs::stat(path).ok()?;
        Some(Self {
            device: found.st_dev,
            inode: found.st_ino,
            owner: found.st_uid,
        })
    }
}

/// An entry of a directory.
#[derive(Debug)]
pub struct Entry {
    pub name: OsString,
    /// Whether it is a regular file.
    pub is_file: bool,
    /// Whether it is a symbolic link.
    pub is_link: bool,
    /// Its permissions, as chmod(1) takes them.
    pub mode: u32,
    /// Its length in bytes.
    pub len: u64,
    /// Its size on disk, in bytes.
    pub on_disk: u64,
    pub modified: SystemTime,
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// The number of the user whose process this is.
pub fn user() -> u32 {
    geteuid().as_raw()
}

/// Removes a directory that is empty.
pub fn remove_empty(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR)?)
}

impl Dir {
    /// Opens a directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::open(path, flags, Mode::empty())?;
        Self::of(handle, path.to_owned())
    }

    /// Opens a directory that the user of a command names to write in, as root perhaps in one of another user.
    pub fn open_to_write(path: &Path) -> io::Result<Self> {
        let opened = Self::open(path)?;
        Ok(Self {
            stranger: None,
            ..opened
        })
    }

    /// Opens a directory. If it does not exist, it and its parents are created.
    pub fn create(path: &Path) -> io::Result<Self> {
        match Self::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o700).create(path)?;
                Self::open(path)
            }
            opened => opened,
        }
    }

    /// The same, for all whom the umask lets in.
    pub fn create_public(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).create(path)?;
        Self::open(path)
    }

    fn of(handle: OwnedFd, path: PathBuf) -> io::Result<Self> {
        let owner = rustix::fs::fstat(&handle)?.st_uid;
        Ok(Self {
            handle,
            path,
            stranger: (is_root() && owner != 0).then_some(owner),
        })
    }

    /// Changes the user and group of this process to those of the directory, if it runs as root and another user owns
    /// the directory. The process must have no other thread.
    pub fn become_owner(mut self) -> io::Result<Self> {
        if let Some(owner) = self.stranger.take() {
            let group = rustix::fs::fstat(&self.handle)?.st_gid;
            let (owner, group) = (Uid::from_raw(owner), Gid::from_raw(group));
            set_thread_groups(&[])?;
            set_thread_res_gid(group, group, group)?;
            set_thread_res_uid(owner, owner, owner)?;
        }
        Ok(self)
    }

    /// Whether it still has a name: it was not removed.
    pub fn is_linked(&self) -> bool {
        rustix::fs::fstat(&self.handle).is_ok_and(|found| found.st_nlink > 0)
    }

    /// Its path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of an entry, for messages.
    pub fn path_of(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// An error if this process must not write here. Whether it can is known only after a try.
    pub fn check_writable(&self) -> io::Result<()> {
        match self.stranger {
            None => Ok(()),
            Some(owner) => Err(io::Error::new(
                ErrorKind::PermissionDenied,
                format!("it belongs to user {owner}, and root does not write there"),
            )),
        }
    }

    /// Opens a directory in it.
    pub fn sub(&self, name: impl AsRef<Path>) -> io::Result<Self> {
        let name = name.as_ref();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(&self.handle, name, flags, Mode::empty())?;
        let mut found = Self::of(handle, self.path_of(name))?;
        // The owner of the outer directory can replace it.
        found.stranger = self.stranger.or(found.stranger);
        Ok(found)
    }

    /// Creates a directory in it, which must not exist, for this user alone.
    pub fn create_new_sub(&self, name: impl AsRef<Path>) -> io::Result<()> {
        self.check_writable()?;
        rustix::fs::mkdirat(&self.handle, name.as_ref(), Mode::RWXU)?;
        Ok(())
    }

    /// Opens a directory in it. If it does not exist, it is created.
    pub fn create_sub(&self, name: impl AsRef<Path>) -> io::Result<Self> {
        let name = name.as_ref();
        match self.sub(name) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            opened => return opened,
        }
        self.check_writable()?;
        match rustix::fs::mkdirat(&self.handle, name, Mode::RWXU) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
        self.sub(name)
    }

    /// Opens a file for reading. It is an error if it is not a regular file: opening a named pipe would block.
    pub fn file(&self, name: impl AsRef<Path>) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let flags = flags | OFlags::NOCTTY;
        let file = rustix::fs::openat(&self.handle, name.as_ref(), flags, Mode::empty())?;
        let file = File::from(file);
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(io::Error::new(
                ErrorKind::InvalidData,
                "this is not a regular file",
            ))
        }
    }

    /// Creates a file, which must not exist.
    pub fn create_file(&self, name: impl AsRef<Path>) -> io::Result<File> {
        self.file_to_write(name.as_ref(), OFlags::EXCL, Mode::RUSR | Mode::WUSR)
    }

    /// Creates a file for all whom the umask lets in, which must not be there.
    pub fn create_public_file(&self, name: impl AsRef<Path>) -> io::Result<File> {
        self.file_to_write(name.as_ref(), OFlags::EXCL, PUBLIC)
    }

    /// Creates such a file in it that has no name. Not all file systems can.
    pub fn create_nameless_file(&self) -> io::Result<File> {
        self.check_writable()?;
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.handle, ".", flags, PUBLIC)?.into())
    }

    /// Gives a name to a file that has none. A file that has that name is an error.
    pub fn name_file(&self, file: &File, name: impl AsRef<Path>) -> io::Result<()> {
        let open = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = AtFlags::SYMLINK_FOLLOW;
        rustix::fs::linkat(CWD, open, &self.handle, name.as_ref(), flags)?;
        Ok(())
    }

    /// Gives a file a second name. A file that has that name is an error.
    pub fn link(&self, name: impl AsRef<Path>, new: impl AsRef<Path>) -> io::Result<()> {
        self.check_writable()?;
        let (name, new) = (name.as_ref(), new.as_ref());
        rustix::fs::linkat(&self.handle, name, &self.handle, new, AtFlags::empty())?;
        Ok(())
    }

    /// Opens a file to lock it. If it does not exist, it is created.
    pub fn lock_file(&self, name: impl AsRef<Path>) -> io::Result<File> {
        self.file_to_write(name.as_ref(), OFlags::empty(), Mode::RUSR | Mode::WUSR)
    }

    fn file_to_write(&self, name: &Path, more: OFlags, mode: Mode) -> io::Result<File> {
        self.check_writable()?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.handle, name, flags | OFlags::NONBLOCK | more, mode)?;
        Ok(file.into())
    }

    /// Renames a file, possibly into another directory. A file of the new name is replaced.
    pub fn rename(
        &self,
        name: impl AsRef<Path>,
        to: &Self,
        new: impl AsRef<Path>,
    ) -> io::Result<()> {
        self.check_writable()?;
        to.check_writable()?;
        let new = new.as_ref();
        rustix::fs::renameat(&self.handle, name.as_ref(), &to.handle, new)?;
        Ok(())
    }

    /// Removes a file, or a link itself. A directory is an error.
    pub fn remove(&self, name: impl AsRef<Path>) -> io::Result<()> {
        self.check_writable()?;
        rustix::fs::unlinkat(&self.handle, name.as_ref(), AtFlags::empty())?;
        Ok(())
    }

    /// Removes an entry of any kind, a directory with its contents.
    pub fn remove_all(&self, name: impl AsRef<Path>) -> io::Result<()> {
        self.remove_below(name.as_ref(), MAX_DEPTH)
    }

    fn remove_below(&self, name: &Path, depth: usize) -> io::Result<()> {
        self.check_writable()?;
        let removed = self.remove(name);
        if removed.is_ok() || depth == 0 {
            return removed;
        }
        // Only opening it shows whether it is a directory, without a race.
        let Ok(inside) = self.sub(name) else {
            return removed;
        };
        for entry in inside.entries()? {
            inside.remove_below(Path::new(&entry.name), depth - 1)?;
        }
        rustix::fs::unlinkat(&self.handle, name, AtFlags::REMOVEDIR)?;
        Ok(())
    }

    /// Its entries, in no order. One that is deleted meanwhile is left out.
    pub fn entries(&self) -> io::Result<Vec<Entry>> {
        let names = self.names(usize::MAX)?;
        Ok(names.iter().filter_map(|name| self.entry(name)).collect())
    }

    /// The names in it, in no order. `most`: the number at which reading stops.
    pub fn names(&self, most: usize) -> io::Result<Vec<OsString>> {
        let mut found = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.handle)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            if found.len() == most {
                break;
            }
            found.push(name.to_owned());
        }
        Ok(found)
    }

    /// The entry of this name in it.
    pub fn entry(&self, name: impl AsRef<Path>) -> Option<Entry> {
        let name = name.as_ref();
        let found = rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let since = u64::try_from(found.st_mtime).unwrap_or_default();
        let kind = FileType::from_raw_mode(found.st_mode);
        Some(Entry {
            name: name.as_os_str().to_owned(),
            is_file: kind == FileType::RegularFile,
            is_link: kind == FileType::Symlink,
            mode: found.st_mode & 0o7777,
            len: u64::try_from(found.st_size).unwrap_or_default(),
            on_disk: u64::try_from(found.st_blocks).unwrap_or_default() * 512,
            modified: SystemTime::UNIX_EPOCH
                + Duration::new(
                    since,
                    u32::try_from(found.st_mtime_nsec).unwrap_or_default(),
                ),
        })
    }

    /// Notes that a file is used now, once a day. A time in the future is replaced: a clock was wrong.
    pub fn note_use(&self, file: &File) {
        let now = SystemTime::now();
        let used = file.metadata().and_then(|metadata| metadata.modified());
        let is_noted = used.is_ok_and(|used| now.duration_since(used).is_ok_and(|ago| ago < NOTED));
        if !is_noted {
            self.set_used(file, now);
        }
    }

    /// Notes when a file was last used.
    pub fn set_used(&self, file: &File, when: SystemTime) {
        let set = || {
            self.check_writable()?;
            file.set_times(FileTimes::new().set_modified(when))
        };
        if let Err(error) = set() {
            debug!("{}: last use cannot be noted: {error}", self.path.display());
        }
    }

    /// Writes the directory itself to disk (fsync).
    pub fn sync(&self) -> io::Result<()> {
        rustix::fs::fsync(&self.handle)?;
        Ok(())
    }

    /// Free bytes of its file system.
    pub fn free(&self) -> Option<u64> {
        let found = rustix::fs::fstatvfs(&self.handle).ok()?;
        Some(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// Whether its file system is mounted read-only.
    pub fn is_read_only(&self) -> bool {
        let found = rustix::fs::fstatvfs(&self.handle);
        found.is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY))
    }

    /// Whether its file system is in memory.
    pub fn is_in_memory(&self) -> bool {
        let kind = rustix::fs::fstatfs(self.handle.as_fd()).map(|found| i128::from(found.f_type));
        kind.is_ok_and(|kind| kind == TMPFS || kind == RAMFS)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    /// A directory that goes when the test ends.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let name = format!("sysext-oci-proxy-dir-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_directory_is_opened_as_it_is_named_and_no_link_in_it_is_followed() {
        let scratch = Scratch::new("links");
        let elsewhere = scratch.0.join("elsewhere");
        fs::create_dir_all(elsewhere.join("sub")).unwrap();
        fs::write(elsewhere.join("file"), "precious").unwrap();
        let inside = scratch.0.join("private");
        fs::create_dir(&inside).unwrap();
        symlink(&inside, scratch.0.join("public")).unwrap();
        let dir = Dir::open(&scratch.0.join("public")).unwrap();
        for (name, target) in [
            ("sub", elsewhere.join("sub")),
            ("file", elsewhere.join("file")),
            ("nothing", elsewhere.join("nothing")),
        ] {
            symlink(target, inside.join(name)).unwrap();
            assert!(
                dir.sub(name).is_err() && dir.create_sub(name).is_err(),
                "{name}"
            );
            assert!(
                dir.file(name).is_err() && dir.lock_file(name).is_err(),
                "{name}"
            );
            assert!(dir.create_file(name).is_err(), "{name}");
            let entry = dir.entry(name).unwrap();
            assert!(entry.is_link && !entry.is_file, "{name}");
        }
        symlink(&elsewhere, inside.join("all")).unwrap();
        assert_eq!(dir.entries().unwrap().len(), 4);
        for entry in dir.entries().unwrap() {
            dir.remove_all(&entry.name).unwrap();
        }
        assert_eq!(dir.entries().unwrap().len(), 0);
        assert!(elsewhere.join("sub").is_dir() && !elsewhere.join("nothing").exists());
        assert_eq!(fs::read(elsewhere.join("file")).unwrap(), b"precious");
    }

    #[test]
    fn a_directory_with_all_that_is_in_it_is_removed_but_not_what_it_links_to() {
        let scratch = Scratch::new("removed");
        let dir = Dir::create(&scratch.0.join("a/b")).unwrap();
        let deep = scratch.0.join("a/b/c/d/e");
        fs::create_dir_all(&deep).unwrap();
        fs::write(scratch.0.join("precious"), "").unwrap();
        symlink(&scratch.0, deep.join("link")).unwrap();
        fs::write(deep.join("file"), "").unwrap();
        dir.remove_all("c").unwrap();
        assert!(scratch.0.join("precious").exists() && !scratch.0.join("a/b/c").exists());
        assert_eq!(dir.remove_all("c").unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn root_writes_in_no_directory_of_another_user() {
        if !is_root() {
            return;
        }
        let scratch = Scratch::new("owned");
        fs::write(scratch.0.join("file"), "kept").unwrap();
        fs::create_dir(scratch.0.join("of root")).unwrap();
        chown(&scratch.0, Some(1), Some(1)).unwrap();
        let dir = Dir::open(&scratch.0).unwrap();
        let denied = |result: io::Result<()>| {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            assert!(error.to_string().contains("belongs to user 1"), "{error}");
        };
        denied(dir.create_file("new").map(drop));
        denied(dir.lock_file("new").map(drop));
        denied(dir.create_sub("new").map(drop));
        denied(dir.rename("file", &dir, "new"));
        denied(dir.remove("file"));
        denied(dir.remove_all("file"));
        denied(dir.remove_all("of root"));
        denied(dir.sub("of root").unwrap().create_file("new").map(drop));
        assert_eq!(
            io::read_to_string(dir.file("file").unwrap()).unwrap(),
            "kept"
        );
        let before = fs::metadata(scratch.0.join("file"))
            .unwrap()
            .modified()
            .unwrap();
        dir.set_used(&dir.file("file").unwrap(), SystemTime::UNIX_EPOCH);
        let now = fs::metadata(scratch.0.join("file"))
            .unwrap()
            .modified()
            .unwrap();
        assert_eq!(before, now);
    }
}
