//! The key of this machine, for `serve` and for commands that answer in its place: from a credential, else from the state.

use std::fs::File;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use log::warn;

use crate::error::{Error, Result};
use crate::openpgp::{MachineKey, SEED};
use crate::settings::{self, Settings};
use crate::state::{State, read_seed};

/// The name of the credential: a file with the seed.
const CREDENTIAL: &str = "sysext-oci-proxy.signing-key";
/// The remedy for one that cannot be used.
const REMEDY: &str = "the credential sysext-oci-proxy.signing-key has to be 32 random bytes";

/// Whether a seed is made if there is none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Seed {
    Make,
    Read,
}

/// The key of this machine, if a setting asks for its signature; or the reason why it cannot sign.
pub fn load(settings: &Settings, state: &State, seed: Seed) -> Option<Result<Arc<MachineKey>>> {
    if !settings.has_sign() {
        return None;
    }
    let key = match read(state, seed) {
        Ok(key) => Ok(Arc::new(key?)),
        Err(error) => Err(error),
    };
    if let (Err(error), Seed::Make) = (&key, seed) {
        warn!(
            "no list is signed with the key of this machine: {}",
            error.line()
        );
    }
    Some(key)
}

/// The key; `None` if there is no seed, and none is to be made.
fn read(state: &State, seed: Seed) -> Result<Option<MachineKey>> {
    let given = credential()?;
    let key = match (given, seed) {
        (Some(given), _) => Some(given),
        (None, Seed::Make) => Some(state.make_seed()?),
        (None, Seed::Read) => state.seed()?,
    };
    let key = key.map(|seed| MachineKey::new(&seed));
    if seed == Seed::Make {
        let public = key.as_ref().filter(|_| given.is_some());
        state.keep_public_key(public.map(MachineKey::public).as_deref())?;
    }
    Ok(key)
}

/// The seed that systemd passes as a credential, if it does.
fn credential() -> Result<Option<[u8; SEED]>> {
    let Some(directory) = settings::variable("CREDENTIALS_DIRECTORY") else {
        return Ok(None);
    };
    let path: PathBuf = directory.join(CREDENTIAL);
    match File::open(&path) {
        // systemd has it readable for the service alone.
        Ok(file) => read_seed(&file, &path, REMEDY).map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::BadSeed {
            path,
            why: error.to_string(),
            remedy: REMEDY,
        }),
    }
}
