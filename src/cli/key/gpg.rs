//! A keybox as a row of packets, by gpg: its format is gpg's own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, process};

use super::cannot;
use crate::dir::Dir;
use crate::error::{Error, Result};

/// The keys of a keybox, as gpg exports them.
pub fn export(keybox: &Path) -> Result<Vec<u8>> {
    let home = Home::create()?;
    let failed = |why: &str| {
        cannot(format!(
            "{} is a keybox, which only gpg reads, and gpg --export failed: {why}",
            keybox.display()
        ))
    };
    let output = Command::new("gpg")
        .arg("--homedir")
        .arg(&home.0)
        .args(["--batch", "--no-options", "--no-default-keyring"])
        .args([
            "--trust-model=always",
            "--no-auto-check-trustdb",
            "--keyring",
        ])
        .arg(keybox)
        .arg("--export")
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(&error.to_string()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().collect::<Vec<_>>().join("; ");
    if !output.status.success() {
        return Err(failed(&format!("{}: {said}", output.status)));
    }
    if output.stdout.is_empty() && !said.contains("nothing exported") {
        return Err(failed(&said));
    }
    Ok(output.stdout)
}

/// A home for gpg that goes when it is dropped.
struct Home(PathBuf);

impl Home {
    fn create() -> Result<Self> {
        let temp = env::temp_dir();
        let name = format!(".sysext-oci-proxy-gpg.{}", process::id());
        let path = temp.join(&name);
        let create = || Dir::open_to_write(&temp)?.create_new_sub(&name);
        create().map_err(Error::file(&path))?;
        Ok(Self(path))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let (Some(temp), Some(name)) = (self.0.parent(), self.0.file_name()) else {
            return;
        };
        if let Ok(temp) = Dir::open_to_write(temp) {
            let _ = temp.remove_all(name); // there is nothing more to do
        }
    }
}
