//! Reads the extension-release(5) file of a system image. Some hundred kilobytes of an image are fetched, by ranges,
//! even if it has gigabytes.
//!
//! ```text
//! source ─▶ range_reader ─▶ gpt ─▶ squashfs, erofs
//!                └─▶ tar
//! ```
//!
//! The bytes are not verified: the digest of the image covers all of it. The program that installs the image verifies
//! it.

mod erofs;
mod range_reader;
mod squashfs;
mod tar;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use erofs::Erofs;
pub use range_reader::Origin;
use range_reader::{Failure, RangeReader, Region, bad};
use squashfs::Squashfs;

use crate::cache::{Cache, Release};
use crate::compression::Compression;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::extension_release::Metadata;
use crate::flatten::FlattenedFile;
use crate::gpt::{self, Purpose};
use crate::name::FileName;
use crate::semaphore::Semaphore;
use crate::source::{Origins, Part, Source};

/// The prefix of the name of a release. The name of the extension follows.
const RELEASE: &str = "extension-release.";
/// The folder of releases in a configuration extension.
const FOLDER_OF_CONFEXT: &str = "etc/extension-release.d";
/// Folders of releases: in a whole system or a system extension, and in a configuration extension.
const FOLDERS: [&str; 2] = ["usr/lib/extension-release.d", FOLDER_OF_CONFEXT];
/// The folder of releases in a file system that is mounted at `/usr`.
const FOLDERS_OF_USR: [&str; 1] = ["lib/extension-release.d"];
/// Largest release that is read, in bytes. Most have some hundred.
const MAX_FILE: usize = 64 << 10;
/// Longest name of a file. An archive can have longer ones, which would go into messages.
const MAX_NAME: usize = 255;
/// Most partitions that are searched.
const MAX_PARTITIONS: usize = 4;

/// Images dissected at once. Each may take 6 MiB: for the bytes kept of it, and the block being read.
static DISSECTIONS: Semaphore = Semaphore::new(3);

/// A blob of a source.
pub struct Blob<'a> {
    pub source: &'a dyn Source,
    pub digest: Digest,
    pub size: u64,
}

impl Origin for Blob<'_> {
    fn name(&self) -> String {
        format!("image {} of {}", self.digest, self.source.name())
    }

    fn source(&self) -> String {
        self.source.name()
    }

    fn part(&self, range: Range<u64>) -> Result<Part> {
        self.source.blob_range(self.digest, self.size, range)
    }

    fn whole(&self) -> Result<Box<dyn Read + Send>> {
        let origins = Origins::default();
        Ok(self
            .source
            .blob(self.digest, self.size, 0..self.size, &origins)?
            .reader)
    }
}

/// A flattened image. `open` gives its file, perhaps after it was flattened again.
pub struct Flattened<F> {
    pub name: String,
    /// The source of its layers.
    pub source: String,
    pub open: F,
}

impl<F: Fn() -> Result<FlattenedFile>> Origin for Flattened<F> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn source(&self) -> String {
        self.source.clone()
    }

    fn part(&self, range: Range<u64>) -> Result<Part> {
        let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or(usize::MAX)];
        let read = (self.open)()?.read_exact_at(&mut bytes, range.start);
        read.map_err(|cause| Error::File {
            path: PathBuf::from(&self.name),
            cause: Arc::new(cause),
        })?;
        Ok(Part::Range(bytes))
    }

    fn whole(&self) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new((self.open)()?))
    }
}

/// An image on this machine.
struct LocalFile {
    path: PathBuf,
    file: File,
}

impl Origin for LocalFile {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn source(&self) -> String {
        self.name()
    }

    fn part(&self, range: Range<u64>) -> Result<Part> {
        let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or(usize::MAX)];
        let read = self.file.read_exact_at(&mut bytes, range.start);
        read.map_err(|cause| self.unreadable(cause))?;
        Ok(Part::Range(bytes))
    }

    fn whole(&self) -> Result<Box<dyn Read + Send>> {
        let file = self.file.try_clone();
        Ok(Box::new(file.map_err(|cause| self.unreadable(cause))?))
    }
}

impl LocalFile {
    fn unreadable(&self, cause: io::Error) -> Error {
        Error::File {
            path: self.path.clone(),
            cause: Arc::new(cause),
        }
    }
}

/// The fields of an image's extension-release; none if it has no such file. The cache keeps the result for some days.
///
/// `file`: the image's name, which decides between several releases.
pub fn metadata(
    origin: &dyn Origin,
    digest: Digest,
    size: u64,
    cache: Option<&Cache>,
    file: &FileName,
) -> Result<Metadata> {
    let release = match cache.and_then(|cache| cache.release(&origin.source(), digest)) {
        Some(known) => known,
        None => {
            let _permit = DISSECTIONS.acquire(|| format!("a look into {}", origin.name()))?;
            let found = match release_in(origin, size, file.as_str()) {
                Ok(Some(release)) => Release::Text(with_default_scope(&release)),
                Ok(None) => Release::None,
                Err(Failure::Image(why)) => Release::Unreadable(why),
                Err(Failure::Fetch(error)) => return Err(error),
            };
            if let Some(cache) = cache {
                cache.keep_release(&origin.source(), digest, &found);
            }
            found
        }
    };
    match release {
        Release::Text(text) => Ok(Metadata::of_extension_release(&text)),
        Release::None => Ok(Metadata::default()),
        Release::Unreadable(why) => Err(Error::BadImage {
            what: origin.name(),
            why,
        }),
    }
}

/// The name of the extension in an image on this machine: that of its extension-release. `file` as above. The error is
/// the reason why it cannot be found out.
pub fn extension_in_file(path: &Path, file: &str) -> Result<Option<String>, String> {
    let told = |error: io::Error| format!("{} cannot be read: {error}", path.display());
    let handle = File::open(path).map_err(told)?;
    let size = handle.metadata().map_err(told)?.len();
    let origin = LocalFile {
        path: path.to_owned(),
        file: handle,
    };
    match release_in(&origin, size, file) {
        Ok(release) => Ok(release.map(|release| extension(&release.name).to_owned())),
        Err(Failure::Image(why)) => Err(why),
        Err(Failure::Fetch(error)) => Err(error.line()),
    }
}

/// The same for an extension that is a directory.
pub fn extension_in_directory(path: &Path, file: &str) -> Result<Option<String>, String> {
    for folder in FOLDERS.map(|folder| path.join(folder)) {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries.flatten(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(format!("{} cannot be read: {error}", folder.display())),
        };
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let names = names.filter(|name| name.starts_with(RELEASE)).collect();
        if let Some(name) = choose(names, |name| name, file) {
            return Ok(Some(extension(&name).to_owned()));
        }
    }
    Ok(None)
}

/// The text of a release. That of a configuration extension has a `CONFEXT_SCOPE`: only its folder shows what it is, and no
/// field has to. Of two assignments the last one counts.
fn with_default_scope(release: &NamedText) -> String {
    let text = String::from_utf8_lossy(&release.text);
    match release.is_confext {
        // The default by extension-release(5).
        true => format!("CONFEXT_SCOPE=\"system portable\"\n{text}"),
        false => text.into_owned(),
    }
}

fn extension(release: &str) -> &str {
    release.strip_prefix(RELEASE).unwrap_or_default()
}

fn release_in(origin: &dyn Origin, size: u64, file: &str) -> Result<Option<NamedText>, Failure> {
    let mut reader = RangeReader::new(origin, size);
    let mut head = Region::whole(&mut reader).head(gpt::TABLE)?;
    if let Some(compression) = Compression::of(&head) {
        reader.unpack(compression)?;
        head = Region::whole(&mut reader).head(gpt::TABLE)?;
    }
    let mut image = Region::whole(&mut reader);
    if let Some(sector) = gpt::sector_size(&head) {
        return in_partitions(&mut image, &head, sector, file);
    }
    if has_at(&head, tar::MAGIC_AT, tar::MAGIC) {
        let releases = tar::releases(&mut image, &FOLDERS)?;
        return Ok(choose(releases, |release| &release.name, file));
    }
    match file_system(image, &head)? {
        Some(mut files) => in_folders(&mut *files, &FOLDERS, file),
        None => bad("it is not squashfs, erofs, a disk with a GPT, or tar"),
    }
}

/// The release in the first partition that has one.
fn in_partitions(
    image: &mut Region<'_, '_>,
    head: &[u8],
    sector: usize,
    file: &str,
) -> Result<Option<NamedText>, Failure> {
    let partitions = gpt::parse(head, sector)?;
    let mut is_readable = false;
    for partition in partitions.into_iter().take(MAX_PARTITIONS) {
        let mut part = image.part(partition.bytes);
        let head = part.head(gpt::TABLE)?;
        let Some(mut files) = file_system(part, &head)? else {
            continue;
        };
        is_readable = true;
        let folders: &[&str] = match partition.purpose {
            Purpose::Usr => &FOLDERS_OF_USR,
            Purpose::Root => &FOLDERS,
        };
        if let Some(release) = in_folders(&mut *files, folders, file)? {
            return Ok(Some(release));
        }
    }
    if is_readable {
        return Ok(None);
    }
    bad("it is a disk without a partition for / or /usr with squashfs or erofs in it")
}

/// The file system in an image; `None` if it is neither squashfs nor erofs.
fn file_system<'b>(
    image: Region<'b, '_>,
    head: &[u8],
) -> Result<Option<Box<dyn FileSystem + 'b>>, Failure> {
    Ok(if head.starts_with(squashfs::MAGIC) {
        Some(Box::new(Squashfs::open(image)?))
    } else if has_at(head, erofs::MAGIC_AT, &erofs::MAGIC) {
        Some(Box::new(Erofs::open(image)?))
    } else {
        None
    })
}

/// The release in the first folder that has one.
fn in_folders(
    files: &mut dyn FileSystem,
    folders: &[&str],
    file: &str,
) -> Result<Option<NamedText>, Failure> {
    for folder in folders {
        let releases = files.releases(folder)?;
        if let Some(entry) = choose(releases, |entry| &entry.name, file) {
            let text = files.read(&entry)?;
            return Ok(Some(NamedText {
                name: entry.name,
                text,
                is_confext: *folder == FOLDER_OF_CONFEXT,
            }));
        }
    }
    Ok(None)
}

fn has_at(head: &[u8], at: usize, magic: &[u8]) -> bool {
    head.get(at..).is_some_and(|rest| rest.starts_with(magic))
}

/// A file system in which releases are looked for.
trait FileSystem {
    /// The releases in a directory; none if there is no such directory. Symbolic links are not followed.
    fn releases(&mut self, directory: &str) -> Result<Vec<Entry>, Failure>;

    /// A file's bytes.
    fn read(&mut self, entry: &Entry) -> Result<Vec<u8>, Failure>;
}

/// A file in a directory.
struct Entry {
    name: String,
    /// Its number in the file system.
    inode: u64,
}

/// A file that was read.
#[derive(Debug)]
struct NamedText {
    name: String,
    text: Vec<u8>,
    /// Whether it was in the folder of a configuration extension.
    is_confext: bool,
}

/// The name, if it is the name of a release.
fn is_release(name: &[u8]) -> Option<&str> {
    let name = std::str::from_utf8(name).ok()?;
    let is_release = name.starts_with(RELEASE) && !name.contains('/') && name.len() <= MAX_NAME;
    is_release.then_some(name)
}

/// The release whose extension name is the longest prefix of the image's name, else the first one by name.
///
/// systemd expects the image's name without its version there, or a single file of any name
/// (extension-release(5), `user.extension-release.strict`).
fn choose<T>(releases: Vec<T>, name: impl Fn(&T) -> &String, file: &str) -> Option<T> {
    let fit = |one: &T| {
        let extension = extension(name(one));
        file.starts_with(extension).then_some(extension.len())
    };
    // If several have one name, the first in the image counts.
    releases
        .into_iter()
        .rev()
        .max_by(|a, b| fit(a).cmp(&fit(b)).then_with(|| name(b).cmp(name(a))))
}
