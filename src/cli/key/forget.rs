//! `key --forget-signed`: a change by root to what the state remembers.

use std::collections::BTreeSet;
use std::mem;

use crate::address::{Directory, View};
use crate::error::{Error, Result};
use crate::name::RepositoryAddress;
use crate::settings::Settings;
use crate::state::State;

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
    let opened = super::state::directory(FORGET)?;
    let path = opened.path().to_owned();
    let opened = opened.become_owner();
    Ok(State::new(Some(opened.map_err(Error::file(&path))?)))
}
