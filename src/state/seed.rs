//! The seed of this machine's key, and the public key where the seed is elsewhere.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ring::rand::{SecureRandom, SystemRandom};

use super::{NEW, State, lock, read_all, replace};
use crate::dir::Dir;
use crate::error::{Error, Result};
use crate::openpgp::SEED;

/// The seed: as many bytes as [`SEED`] says.
const KEY: &str = "signing.key";
/// The public key, if the seed is not in [`KEY`] but a credential: root can read it while the service does not run.
const PUBLIC: &str = "signing.pub";
/// Largest public key, in bytes. It has some 220.
const MAX_PUBLIC: u64 = 4 << 10;

/// The remedy for a seed in the state directory. A new one is another key.
const ANEW: &str = "restore it, or remove it: then the service makes a new one at its next start, and \
                    `sysext-oci-proxy key --install` has to be run again";

impl State {
    /// The seed; `None` if there is none, or no state directory. One that cannot be used is an error.
    pub fn seed(&self) -> Result<Option<[u8; SEED]>> {
        let Some(root) = &self.root else {
            return Ok(None);
        };
        let path = root.path_of(KEY);
        match root.file(KEY) {
            Ok(file) => {
                check_mode(&file, &path)?;
                read_seed(&file, &path, ANEW).map(Some)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(bad(&path, &error, ANEW)),
        }
    }

    /// The seed. If there is none, it is made, from the randomness of the kernel. One that is there is never replaced.
    pub fn make_seed(&self) -> Result<[u8; SEED]> {
        let Some(root) = &self.root else {
            return Err(Error::NoState { setting: "sign" });
        };
        if let Some(seed) = self.seed()? {
            return Ok(seed);
        }
        make(root).map_err(Error::file(&root.path_of(KEY)))?;
        // Another process may have been first.
        let seed = self.seed()?;
        seed.ok_or_else(|| bad(&root.path_of(KEY), &ErrorKind::NotFound.into(), ANEW))
    }

    /// The public key that was kept.
    pub fn public_key(&self) -> Result<Option<Vec<u8>>> {
        let Some(root) = &self.root else {
            return Ok(None);
        };
        let read = || read_all(&root.file(PUBLIC)?, MAX_PUBLIC);
        match read() {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::file(&root.path_of(PUBLIC))(error)),
        }
    }

    /// Keeps the public key of a seed that is not in the state directory. `None`: it is there.
    pub fn keep_public_key(&self, key: Option<&[u8]>) -> Result<()> {
        let Some(root) = &self.root else {
            return Ok(());
        };
        if self.public_key()?.as_deref() == key {
            return Ok(());
        }
        let change = || {
            let _lock = lock(root)?;
            match key {
                Some(key) => replace(root, PUBLIC, key, true),
                None => root.remove(PUBLIC),
            }
        };
        change().map_err(Error::file(&root.path_of(PUBLIC)))
    }
}

/// Makes the seed. It has its name only when it is whole and on disk.
fn make(root: &Dir) -> io::Result<()> {
    let mut seed = [0; SEED];
    let made = SystemRandom::new().fill(&mut seed);
    made.map_err(|_| io::Error::other("the kernel gives no random bytes"))?;
    let _lock = lock(root)?;
    // Its writer failed or was killed, for the lock is ours.
    if root.entry(NEW).is_some() {
        root.remove_all(NEW)?;
    }
    let mut file = root.create_file(NEW)?;
    file.write_all(&seed)?;
    file.sync_all()?;
    let named = match root.link(NEW, KEY) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        named => named,
    };
    root.remove(NEW)?;
    named?;
    root.sync()
}

/// Reads a seed. `remedy`: what helps if it cannot be used.
pub fn read_seed(file: &File, path: &Path, remedy: &'static str) -> Result<[u8; SEED]> {
    let bytes = read_all(file, SEED as u64).map_err(|error| bad(path, &error, remedy))?;
    let found = bytes.len();
    let seed = bytes.try_into();
    seed.map_err(|_| Error::BadSeed {
        path: path.to_owned(),
        why: format!("expected {SEED} bytes, found {found}"),
        remedy,
    })
}

/// A seed that others may read is no secret.
fn check_mode(file: &File, path: &Path) -> Result<()> {
    let metadata = file.metadata().map_err(|error| bad(path, &error, ANEW))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(Error::BadSeed {
        path: path.to_owned(),
        why: format!("other users may have read it: expected mode 0600, found {mode:04o}"),
        remedy: ANEW,
    })
}

fn bad(path: &Path, error: &io::Error, remedy: &'static str) -> Error {
    Error::BadSeed {
        path: path.to_owned(),
        why: error.to_string(),
        remedy,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::path::PathBuf;
    use std::{env, process, thread};

    use super::*;

    /// A directory that goes when the test ends.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let name = format!("sysext-oci-proxy-seed-{name}-{}", process::id());
            let path = env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn state(&self) -> State {
            State::new(Some(Dir::open(&self.0).unwrap()))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn all_that_start_at_once_have_one_seed() {
        let scratch = Scratch::new("race");
        assert_eq!(scratch.state().seed().unwrap(), None);
        let make = || scratch.state().make_seed().unwrap();
        let seeds: Vec<_> = thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(seeds.iter().all(|seed| *seed == seeds[0]), "{seeds:?}");
        assert_ne!(seeds[0], [0; SEED]);
        let path = scratch.0.join(KEY);
        assert_eq!(fs::read(&path).unwrap(), seeds[0]);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert!(!scratch.0.join(NEW).exists());
        // One that another process made is not replaced, though this one saw none.
        make_again(&scratch);
        assert_eq!(fs::read(&path).unwrap(), seeds[0]);
    }

    fn make_again(scratch: &Scratch) {
        super::make(&Dir::open(&scratch.0).unwrap()).unwrap();
    }

    #[test]
    fn a_seed_that_is_damaged_is_an_error_and_stays() {
        let scratch = Scratch::new("damaged");
        let path = scratch.0.join(KEY);
        for (content, mode, expected) in [
            (&[1; 31][..], 0o600, "expected 32 bytes, found 31"),
            (&[1; 33], 0o600, "it has more than 32 bytes"),
            (&[], 0o600, "expected 32 bytes, found 0"),
            (&[1; 32], 0o640, "expected mode 0600, found 0640"),
        ] {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            for found in [
                scratch.state().make_seed(),
                scratch.state().seed().map(|_| [0; SEED]),
            ] {
                let line = found.unwrap_err().line();
                assert!(
                    line.contains(expected) && line.contains("key --install"),
                    "{line}"
                );
            }
            assert_eq!(fs::read(&path).unwrap(), content);
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(scratch.state().make_seed().is_err(), "a directory");
        fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(scratch.state().make_seed().is_err(), "a link");
    }

    #[test]
    fn without_a_state_directory_there_is_no_seed() {
        let state = State::new(None);
        assert_eq!(state.seed().unwrap(), None);
        let line = state.make_seed().unwrap_err().line();
        assert!(
            line.contains("setting sign needs a state directory"),
            "{line}"
        );
    }

    #[test]
    fn the_public_key_is_kept_while_the_seed_is_elsewhere() {
        let scratch = Scratch::new("public");
        let state = scratch.state();
        for key in [
            None,
            Some(&b"one"[..]),
            Some(b"two"),
            Some(b"two"),
            None,
            None,
        ] {
            state.keep_public_key(key).unwrap();
            assert_eq!(state.public_key().unwrap().as_deref(), key);
        }
    }
}
