//! The command `key`: the key by which the service signs lists, and what the state remembers of signed lists.
//!
//! ```text
//! forget    --forget-signed
//! install   --install and --remove: the keyrings and units of systemd
//! keyring   one keyring: read, changed, and put back as it was
//! gpg       keyboxes, which only gpg reads
//! state     the state directory of the service
//! ```

mod forget;
mod gpg;
mod install;
mod keyring;
mod state;

pub use install::stale;

use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};

use super::systemd::SystemdVersion;
use crate::dir::{self, Dir};
use crate::error::{Error, Result};
use crate::name::RepositoryAddress;
use crate::openpgp::{Fingerprint, Keyring, MachineKey, armored};
use crate::settings::Settings;
use crate::state::State;

const COMMAND: &str = "key";

/// The options of the command.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Have systemd accept lists that this key signed. From systemd 262 on only the units that update do, by a keyring of
    /// their own; up to systemd 261 every download with Verify=yes does
    #[arg(long, conflicts_with_all = ["remove", "forget_signed"])]
    install: bool,
    /// With --install: have every download with Verify=yes accept them, also on systemd 262
    #[arg(long, requires = "install")]
    global: bool,
    /// Undo --install. All other keys stay as they are, byte for byte
    #[arg(long, conflicts_with = "forget_signed")]
    remove: bool,
    /// Forget that this repository had a list by its publisher, so that its tags are listed again
    #[arg(long, value_name = "REPOSITORY", value_hint = ValueHint::Other)]
    forget_signed: Option<RepositoryAddress>,
    /// Change the machine whose files are below this directory
    #[arg(long, value_name = "DIRECTORY", default_value = "/", hide = true)]
    root: PathBuf,
}

/// A public key, as keyrings have it.
#[derive(Debug, PartialEq)]
struct PublicKey {
    bytes: Vec<u8>,
    fingerprint: Fingerprint,
}

/// Does it. The text says what was done.
pub fn key(options: &Options, settings: impl FnOnce() -> Result<Settings>) -> Result<String> {
    if let Some(repository) = &options.forget_signed {
        return forget::forget_signed(&settings()?, repository.clone());
    }
    let root = &*options.root;
    if options.remove {
        check_root(COMMAND)?;
        return install::remove(root);
    }
    let key = public_key(state::directory(COMMAND)?)?;
    if !options.install {
        return Ok(armored(&key.bytes, &key.fingerprint.to_string()));
    }
    let systemd = SystemdVersion::of_this_machine().map_err(cannot)?;
    install::install(root, systemd, options.global, &key)
}

/// The public key of the service. Nothing is written: the state may be another user's.
fn public_key(directory: Dir) -> Result<PublicKey> {
    let path = directory.path().display().to_string();
    let state = State::new(Some(directory));
    if let Some(bytes) = state.public_key()? {
        let keyring = Keyring::read(&bytes);
        let fingerprint = keyring.and_then(|keyring| keyring.only_machine());
        let Some(fingerprint) = fingerprint else {
            return Err(cannot(format!(
                "{path}/signing.pub is damaged; restart sysext-oci-proxy.service, which writes it again"
            )));
        };
        return Ok(PublicKey { bytes, fingerprint });
    }
    match state.seed()? {
        Some(seed) => {
            let key = MachineKey::new(&seed);
            Ok(PublicKey {
                bytes: key.public(),
                fingerprint: key.fingerprint(),
            })
        }
        None => Err(cannot(format!(
            "there is no key in {path} yet; the service makes it at its next start with the setting sign = true: \
             `systemctl restart sysext-oci-proxy.service`"
        ))),
    }
}

fn check_root(command: &'static str) -> Result<()> {
    match dir::is_root() {
        true => Ok(()),
        false => Err(Error::CannotDo {
            command,
            why: "only root may do this".to_owned(),
        }),
    }
}

fn cannot(why: String) -> Error {
    Error::CannotDo {
        command: COMMAND,
        why,
    }
}

/// The place of a file that an administrator knows by this absolute path.
fn below(root: &Path, absolute: &str) -> PathBuf {
    root.join(absolute.trim_start_matches('/'))
}
