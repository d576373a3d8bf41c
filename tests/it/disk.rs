//! A disk that is as small as a test wants it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::service::Folder;

/// A file system, mounted as long as the test runs.
pub struct Disk(Folder);

impl Disk {
    /// In memory, with so many KiB; none where nothing may be mounted.
    pub fn new(kib: usize) -> Option<Self> {
        let disk = Disk(Folder::new());
        let is_mounted = disk.mount(&["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"]);
        if !is_mounted {
            eprintln!("left out: needs the right to mount");
        }
        Some(disk).filter(|_| is_mounted)
    }

    /// In a file, with so many KiB, some of which the file system takes; none where nothing may be mounted.
    pub fn on_a_file(kib: usize) -> Option<Self> {
        let disk = Disk(Folder::new());
        let image = Folder::new();
        let file = image.file("disk.img", "");
        let set = fs::OpenOptions::new().write(true).open(&file);
        set.unwrap()
            .set_len(u64::try_from(kib).unwrap() << 10)
            .unwrap();
        let made = Command::new("mkfs.ext4").arg("-q").arg(&file).output();
        let is_mounted = made.is_ok_and(|output| output.status.success())
            && disk.mount(&["-o", "loop", file.to_str().unwrap()]);
        if !is_mounted {
            eprintln!("left out: needs mkfs.ext4, and the right to mount");
        }
        // The file stays as long as it is mounted.
        Some(disk).filter(|_| is_mounted)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Gives it so many KiB from now on.
    pub fn resize(&self, kib: usize) {
        assert!(self.mount(&["-o", &format!("remount,size={kib}k")]));
    }

    /// Lets nobody write there from now on.
    pub fn make_read_only(&self) {
        assert!(self.mount(&["-o", "remount,ro"]));
    }

    fn mount(&self, arguments: &[&str]) -> bool {
        let mut mount = Command::new("mount");
        let output = mount.args(arguments).arg(self.path()).output();
        output.is_ok_and(|output| output.status.success())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever has still a file open there closes it later.
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.path())
            .output();
    }
}
