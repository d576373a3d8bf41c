//! A disk that is as small as a test wants it.

use std::path::Path;
use std::process::Command;

use crate::service::Folder;

/// A file system in memory, mounted as long as the test runs.
pub struct Disk(Folder);

impl Disk {
    /// With so many KiB; none where nothing may be mounted.
    pub fn new(kib: usize) -> Option<Self> {
        let disk = Disk(Folder::new());
        let is_mounted = disk.mount(&["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"]);
        if !is_mounted {
            eprintln!("left out: needs the right to mount");
        }
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
