//! The cache from outside: what lies in it, and how it comes to harm.

use std::fs::{self, File, FileTimes};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::dice::Dice;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Takes all the room there is.
const FILLER: &str = "filler";
/// The folders of the cache, one for each kind of file.
const KEPT: [&str; 6] = ["made", "layers", "sums", "documents", "releases", "tags"];
/// Files being written.
const TEMPORARY: &str = "tmp";

pub struct CacheDirectory {
    pub path: PathBuf,
    /// How it can be made to take nothing more.
    pub full: Full,
}

/// The ways to make the disk full.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Full {
    /// It is a small file system of its own, which is filled.
    Filled,
    /// Its directories forbid writing; that stops everybody but root.
    Forbidden,
}

impl CacheDirectory {
    fn files(&self, below: &[&str]) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for name in below {
            // There may be none yet, and files come and go.
            let Ok(entries) = fs::read_dir(self.path.join(name)) else {
                continue;
            };
            files.extend(entries.flatten().map(|entry| entry.path()));
        }
        files.sort();
        files
    }

    /// As an administrator may do at any time.
    pub fn wipe(&self) {
        for name in KEPT.iter().chain([&TEMPORARY]) {
            let _ = fs::remove_dir_all(self.path.join(name));
        }
    }

    /// Changes a byte, or the length, of some files; how many.
    pub fn damage(&self, dice: &mut Dice) -> u64 {
        let files = self.files(&KEPT);
        let mut damaged = 0;
        for path in files {
            if dice.percent(30) {
                damage(&path, dice).unwrap();
                damaged += 1;
            }
        }
        damaged
    }

    /// As if a file had been written or used at another time; how many.
    pub fn move_times(&self, dice: &mut Dice) -> u64 {
        let mut moved = 0;
        for path in self.files(&[&KEPT[..], &[TEMPORARY]].concat()) {
            let Ok(file) = File::open(path) else {
                continue; // gone meanwhile
            };
            let days = u32::try_from(dice.from(1..4000)).unwrap();
            let time = match dice.percent(50) {
                true => SystemTime::now() + DAY * days,
                false => SystemTime::now() - DAY * days,
            };
            file.set_times(FileTimes::new().set_modified(time)).unwrap();
            moved += 1;
        }
        moved
    }

    /// Lets it take no more, but for a little.
    pub fn fill(&self, dice: &mut Dice) {
        match self.full {
            Full::Filled => {
                let mut filler = File::create(self.path.join(FILLER)).unwrap();
                let block = vec![0; 64 << 10];
                while filler.write_all(&block).is_ok() {}
                let size = filler.metadata().unwrap().len();
                // Sometimes a small file still has room, and a large one begins to.
                let room = dice.from(0..1 << 20) >> dice.from(0..16);
                filler.set_len(size.saturating_sub(room)).unwrap();
            }
            Full::Forbidden => self.set_mode(0o500),
        }
    }

    pub fn empty(&self) {
        match self.full {
            Full::Filled => fs::remove_file(self.path.join(FILLER)).unwrap(),
            Full::Forbidden => self.set_mode(0o700),
        }
    }

    fn set_mode(&self, mode: u32) {
        for name in KEPT.iter().chain(&["", TEMPORARY]) {
            // Some may not be there yet.
            let _ = fs::set_permissions(self.path.join(name), fs::Permissions::from_mode(mode));
        }
    }

    /// Bytes on disk of what was made.
    pub fn made(&self) -> u64 {
        self.size(&["made"])
    }

    /// Bytes on disk of what was made, and of the layers.
    pub fn images(&self) -> u64 {
        self.size(&["made", "layers"])
    }

    fn size(&self, folders: &[&str]) -> u64 {
        let files = self.files(folders);
        let sizes = files.iter().filter_map(|path| fs::metadata(path).ok());
        sizes.map(|metadata| metadata.blocks() * 512).sum()
    }

    pub fn temporary(&self) -> Vec<String> {
        let files = self.files(&[TEMPORARY]);
        let names = files.iter().filter_map(|path| path.file_name());
        names.map(|name| name.to_string_lossy().into()).collect()
    }

    /// As a process does that is killed while it writes.
    pub fn leave_temporary(&self) {
        let path = self.path.join("tmp/1-0123456789abcdef-0");
        fs::write(path, "half of a fi").unwrap();
    }
}

fn damage(path: &Path, dice: &mut Dice) -> std::io::Result<()> {
    let mut file = File::options().read(true).write(true).open(path)?;
    let size = file.metadata()?.len();
    if size == 0 || dice.percent(20) {
        return file.set_len(dice.from(0..size + 10));
    }
    let at = SeekFrom::Start(dice.from(0..size));
    let mut byte = [0];
    file.seek(at)?;
    file.read_exact(&mut byte)?;
    byte[0] ^= 1 << dice.from(0..8);
    file.seek(at)?;
    file.write_all(&byte)
}
