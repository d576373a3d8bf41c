//! The command `key`: changes by root to what the state remembers.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::{env, mem};

use crate::address::{Directory, View};
use crate::dir::{self, Dir};
use crate::error::{Error, Result};
use crate::name::RepositoryAddress;
use crate::settings::Settings;
use crate::state::State;

/// `StateDirectory=` of the service.
const STATE_DIRECTORY: &str = "/var/lib/sysext-oci-proxy";
const FORGET: &str = "key --forget-signed";

/// Forgets that a repository had a signed list. The text has a line for each of its sources.
pub fn forget_signed(settings: &Settings, repository: RepositoryAddress) -> Result<String> {
    let view = View::Tags;
    let places = Directory { repository, view }.locate(settings)?.places;
    let state = open()?;
    let mut text = String::new();
    for (_, place) in places {
        let source = place.to_string();
        let forgotten = state.promise(&source, |promises| {
            let named = mem::take(&mut promises.signed_as).into_values();
            let lists = promises.signed.take().into_iter().chain(named);
            lists.map(|list| list.tag).collect::<BTreeSet<_>>()
        })?;
        if forgotten.is_empty() {
            text += &format!("{source}: no list was remembered\n");
        }
        for tag in forgotten {
            text += &format!("{source}: forgot the list in its tag {tag}\n");
        }
    }
    Ok(text)
}

/// Opens the state of the service, and changes to the user that owns it.
fn open() -> Result<State> {
    let cannot = |why| Error::CannotDo {
        command: FORGET,
        why,
    };
    if !dir::is_root() {
        return Err(cannot("only root may do this".to_owned()));
    }
    let named = env::var_os("STATE_DIRECTORY").filter(|named| !named.is_empty());
    let path = named.map_or_else(|| STATE_DIRECTORY.into(), PathBuf::from);
    let opened = Dir::open(&path).and_then(Dir::become_owner);
    let opened = opened.map_err(|error| {
        cannot(format!(
            "state directory {}: {error}; the service creates it when it starts, $STATE_DIRECTORY names another",
            path.display()
        ))
    })?;
    Ok(State::new(Some(opened)))
}
