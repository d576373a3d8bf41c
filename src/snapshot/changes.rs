//! The log of listings: what has changed since the one before, also if an earlier process made that.

use std::collections::HashSet;

use log::{debug, info, warn};

use super::Snapshot;
use crate::address::Directory;
use crate::artifact::LeftOutKind;
use crate::digest::{Digest, Hasher};
use crate::journal;
use crate::listing::{LeftOut, Listing};
use crate::state::State;

/// Logs a listing whose files have changed, and the tags that it newly leaves out. `before`: the last one of this
/// process.
pub fn log(state: &State, directory: &Directory, snapshot: &Snapshot, before: Option<&Snapshot>) {
    let Listing {
        left_out,
        incomplete,
        ..
    } = &snapshot.listing;
    let known: HashSet<_> = before
        .iter()
        .flat_map(|before| &before.listing.left_out)
        .collect();
    for one in left_out.iter().filter(|one| !known.contains(one)) {
        let LeftOut { tag, reason, .. } = one;
        if one.kind == LeftOutKind::Unanswered {
            warn!(
                MESSAGE_ID = journal::UNANSWERED,
                REPOSITORY:% = directory,
                TAG:% = tag,
                REASON = reason.as_str();
                "{directory}: tag {tag} left out, it was not answered: {reason}"
            );
        } else {
            info!("{directory}: tag {tag} left out: {reason}");
        }
    }
    let sources = snapshot.sources.iter().map(|source| source.name());
    let sources = sources.collect::<Vec<_>>().join(", ");
    let took = snapshot.begun.elapsed();
    let signed = snapshot.signed.as_ref();
    let signed = signed.map_or("", |_| ", as their publisher lists them");
    let missing = incomplete.map_or_else(String::new, |incomplete| format!("; {incomplete}"));
    let (n, milliseconds) = (snapshot.len(), took.as_millis());
    let line = format!(
        "{directory}: {n} files listed in {milliseconds} ms from {sources}{signed}{missing}"
    );
    if !has_changed(state, &sources, directory, snapshot, before) {
        return debug!("{line}");
    }
    info!(
        MESSAGE_ID = journal::LISTED,
        REPOSITORY:% = directory,
        FILES = n,
        USEC:% = took.as_micros(),
        SOURCE = sources.as_str();
        "{line}"
    );
}

/// Whether the files of a directory are others than in the last listing.
fn has_changed(
    state: &State,
    sources: &str,
    directory: &Directory,
    snapshot: &Snapshot,
    before: Option<&Snapshot>,
) -> bool {
    let files = digest(snapshot);
    // As notes of tags without an answer are kept.
    let place = format!("{sources} as {}", directory.repository);
    let name = directory.to_string();
    let is_known = match before {
        Some(before) => digest(before) == files,
        None => state.notes(&place).listed.get(&name) == Some(&files),
    };
    if !is_known {
        state.update_notes(&place, |notes| {
            notes.listed.insert(name, files);
        });
    }
    !is_known
}

/// The digest of the files: of the names and their digests.
fn digest(snapshot: &Snapshot) -> Digest {
    if let Some(signed) = &snapshot.signed {
        return signed.list.digest();
    }
    let mut hasher = Hasher::default();
    for (name, file) in &snapshot.listing.files {
        hasher.update(name.as_str().as_bytes());
        hasher.update(file.digest.hex().as_bytes());
    }
    hasher.finish()
}
