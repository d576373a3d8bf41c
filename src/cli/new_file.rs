//! A file that has its name only when it is whole.

use std::fs::{File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process;

use crate::dir::Dir;
use crate::error::{Error, Result};
use crate::name::FileName;

/// Most files that others may have left under the name that this process would use for a while.
const MAX_LEFT: usize = 100;

/// A file that is being written.
pub struct NewFile {
    dir: Dir,
    /// The name that it gets, in `dir`.
    name: PathBuf,
    file: File,
    /// The name that it has until then, if it has one.
    partial: Option<String>,
}

impl NewFile {
    /// Creates the file of this path; if that is a directory the file `name` in it.
    pub fn create(path: &Path, name: &FileName) -> Result<Self> {
        let is_directory = path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/");
        let (folder, name) = match (path.parent(), path.file_name()) {
            (Some(folder), Some(name)) if !is_directory => (folder, Path::new(name)),
            _ => (path, Path::new(name.as_str())),
        };
        let folder = if folder == "" { Path::new(".") } else { folder };
        let dir = Dir::open_to_write(folder).map_err(Error::file(folder))?;
        let error = Error::file(&dir.path_of(name));
        if dir.entry(name).is_some_and(|entry| !entry.is_file) {
            let why = "what has this name is no regular file; -o - writes to standard output";
            return Err(error(io::Error::new(ErrorKind::AlreadyExists, why)));
        }
        // Without a name nothing is left if this process is killed.
        let (file, partial) = match dir.create_nameless_file() {
            Ok(file) => (file, None),
            Err(_) => free_name(|partial| dir.create_public_file(partial))
                .map(|(file, partial)| (file, Some(partial)))
                .map_err(error)?,
        };
        let name = name.to_owned();
        Ok(Self {
            dir,
            name,
            file,
            partial,
        })
    }

    /// Gives it the permissions of the file that it replaces.
    pub fn set_permissions(&self, permissions: Permissions) -> Result<()> {
        self.file.set_permissions(permissions).map_err(self.error())
    }

    /// Writes its content.
    pub fn writer(&mut self) -> &mut dyn Write {
        &mut self.file
    }

    /// For `map_err`: the file could not be written.
    pub fn error(&self) -> impl Fn(io::Error) -> Error + use<> {
        Error::file(&self.path())
    }

    /// Gives it its name, in place of a file that has it. The result is its path.
    pub fn finish(mut self) -> Result<PathBuf> {
        let (error, path) = (self.error(), self.path());
        self.rename().map_err(error)?;
        Ok(path)
    }

    fn rename(&mut self) -> io::Result<()> {
        self.file.sync_all()?;
        if self.partial.is_none() {
            let ((), partial) = free_name(|partial| self.dir.name_file(&self.file, partial))?;
            self.partial = Some(partial);
        }
        if let Some(partial) = &self.partial {
            self.dir.rename(partial, &self.dir, &self.name)?;
            self.partial = None;
        }
        Ok(())
    }

    /// The path as the user would write it.
    fn path(&self) -> PathBuf {
        match self.dir.path() {
            here if here == "." => self.name.clone(),
            folder => folder.join(&self.name),
        }
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(partial) = &self.partial {
            let _ = self.dir.remove(partial); // there is nothing more to do
        }
    }
}

/// Does something with the first name that no file has.
fn free_name<T>(create: impl Fn(&str) -> io::Result<T>) -> io::Result<(T, String)> {
    let mut result = Err(ErrorKind::AlreadyExists.into());
    for n in 0..MAX_LEFT {
        let name = format!(".sysext-oci-proxy.{}.{n}.part", process::id());
        result = create(&name).map(|created| (created, name));
        if !matches!(&result, Err(error) if error.kind() == ErrorKind::AlreadyExists) {
            break;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A directory that goes when the test ends.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("sysext-oci-proxy-new-{name}-{}", process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap().flatten();
            entries
                .map(|entry| entry.file_name().into_string().unwrap())
                .collect()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_file_has_its_name_when_it_is_finished_and_none_otherwise() {
        for has_name in [false, true] {
            let folder = Folder::new(&format!("finished-{has_name}"));
            let name: FileName = "a.raw".parse().unwrap();
            let create = || {
                let mut new = NewFile::create(&folder.0, &name).unwrap();
                // As where files without a name cannot be created.
                if has_name && new.partial.is_none() {
                    let (file, partial) =
                        free_name(|name| new.dir.create_public_file(name)).unwrap();
                    (new.file, new.partial) = (file, Some(partial));
                }
                new
            };
            let mut new = create();
            new.writer().write_all(b"first").unwrap();
            assert_eq!(new.finish().unwrap(), folder.0.join("a.raw"));
            let mut other = create();
            other.writer().write_all(b"broken off").unwrap();
            drop(other);
            assert_eq!(folder.names(), ["a.raw"]);
            let [mut one, mut two] = [create(), create()];
            one.writer().write_all(b"one").unwrap();
            two.writer().write_all(b"two").unwrap();
            two.finish().unwrap();
            one.finish().unwrap();
            assert_eq!(folder.names(), ["a.raw"]);
            assert_eq!(fs::read(folder.0.join("a.raw")).unwrap(), b"one");
        }
    }
}
