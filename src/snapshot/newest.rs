//! The newest version that a directory ever offered: it is promised, and a warning is logged when an older one becomes
//! the newest.

use std::path::Path;

use log::{debug, warn};

use crate::address::{Directory, View};
use crate::error::{Error, Result};
use crate::journal;
use crate::listing::Listing;
use crate::name::Tag;
use crate::settings::Settings;
use crate::state::{Promises, State};
use crate::sysupdate;
use crate::version::by_version;

/// Promises the newest version of a listing, if the administrator named the repository. Warns once if a newer one was
/// offered before.
pub fn promise(
    state: &State,
    settings: &Settings,
    directory: &Directory,
    source: &str,
    listing: &Listing,
) -> Result<()> {
    let tags = listing.files.values().map(|file| &file.tag);
    let newest = tags.max_by(|one, other| by_version(one, other));
    let (Some(newest), View::Tags, true) = (newest, &directory.view, state.is_there()) else {
        return Ok(());
    };
    let repository = &directory.repository;
    if let Some(known) = state.promises(source)?.newest.get(repository)
        && by_version(known, newest).is_ge()
    {
        warn_of_older(state, directory, source, newest, known);
        return Ok(());
    }
    let is_named = settings.repositories.contains_key(repository)
        || sysupdate::name(Path::new("/"), &settings.hosts, repository);
    if !is_named {
        return Ok(());
    }
    let promised = state.promise(source, |Promises { newest: all, .. }| {
        let known = all
            .entry(repository.clone())
            .or_insert_with(|| newest.clone());
        // Another process may have promised a newer one.
        if by_version(known, newest).is_lt() {
            known.clone_from(newest);
        }
    });
    match promised {
        // A command that only reads must not write there.
        Err(error @ Error::File { .. }) => {
            let why = error.line();
            debug!("{directory}: its newest version is not remembered: {why}");
            Ok(())
        }
        promised => promised,
    }
}

/// Warns that an older version is the newest now, once for each such version.
fn warn_of_older(state: &State, directory: &Directory, source: &str, newest: &Tag, known: &Tag) {
    let repository = &directory.repository;
    let told = state.notes(source).fell.get(repository).cloned();
    let is_older = by_version(newest, known).is_lt();
    if told.as_ref() == is_older.then_some(newest) {
        return;
    }
    if is_older {
        warn!(
            MESSAGE_ID = journal::OLDER,
            REPOSITORY:% = directory,
            TAG:% = newest,
            SOURCE = source;
            "{directory}: the newest version offered is tag {newest}, and tag {known} was offered before; machines \
             that have it keep it. `sysext-oci-proxy list --all {directory}` shows why it is skipped"
        );
    }
    state.update_notes(source, |notes| {
        match is_older {
            true => notes.fell.insert(repository.clone(), newest.clone()),
            false => notes.fell.remove(repository),
        };
    });
}
