//! The log of listings: what has changed since the one before, also if an earlier process made that.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use log::{debug, info, warn};

use super::Snapshot;
use crate::address::{Directory, View};
use crate::artifact::LeftOutKind;
use crate::digest::{Digest, Hasher};
use crate::journal;
use crate::listing::LeftOut;
use crate::state::State;
use crate::version::by_version;

/// Most tags of one directory that are noted as held back by a schedule: the newest.
const MAX_SCHEDULED: usize = 100;

/// Logs a listing whose files have changed, and the tags that it newly leaves out. `before`: the last one of this
/// process.
pub fn log(state: &State, directory: &Directory, snapshot: &Snapshot, before: Option<&Snapshot>) {
    let sources = snapshot.sources.iter().map(|source| source.name());
    let sources = sources.collect::<Vec<_>>().join(", ");
    // As notes of tags without an answer are kept.
    let place = format!("{sources} as {}", directory.repository);
    log_left_out(state, &place, directory, snapshot, before);
    if directory.view == View::Tags {
        log_turns(state, &place, directory, snapshot, &sources);
    }
    let took = snapshot.begun.elapsed();
    let signed = snapshot.signed.as_ref();
    let mut signed = signed
        .map_or("", |_| ", as their publisher lists them")
        .to_owned();
    if let Some(key) = snapshot.machine() {
        signed += &format!(", signed with the key of this machine, {key}");
    }
    let incomplete = snapshot.listing.incomplete;
    let missing = incomplete.map_or_else(String::new, |incomplete| format!("; {incomplete}"));
    let (n, milliseconds) = (snapshot.len(), took.as_millis());
    let files = if n == 1 { "file" } else { "files" };
    let line = format!(
        "{directory}: {n} {files} listed in {milliseconds} ms from {sources}{signed}{missing}"
    );
    if !has_changed(state, &place, directory, snapshot, before) {
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

/// Logs the tags that are newly left out. One that is refused is a warning once for each manifest that it leads to.
fn log_left_out(
    state: &State,
    place: &str,
    directory: &Directory,
    snapshot: &Snapshot,
    before: Option<&Snapshot>,
) {
    let before = before.iter();
    let known = before.flat_map(|before| &before.listing.left_out);
    let known: HashSet<_> = known.map(without_share).collect();
    let is_new = |one: &&LeftOut| !known.contains(&without_share(one));
    let new: Vec<_> = snapshot.listing.left_out.iter().filter(is_new).collect();
    let mut refused = BTreeMap::new();
    for one in new.iter().filter(|one| one.kind == LeftOutKind::Refused) {
        // If the manifest is not known, the reason is used in its place.
        let mark = || Digest::of(one.reason.as_bytes());
        refused
            .entry(one.tag.clone())
            .or_insert_with(|| one.digest.unwrap_or_else(mark));
    }
    if !refused.is_empty() {
        let warned = state.notes(place).warned;
        refused.retain(|tag, mark| warned.get(tag) != Some(mark));
    }
    for one in new {
        let LeftOut { tag, reason, .. } = one;
        match one.kind {
            LeftOutKind::Unanswered => warn!(
                MESSAGE_ID = journal::UNANSWERED,
                REPOSITORY:% = directory,
                TAG:% = tag,
                REASON = reason.as_str();
                "{directory}: tag {tag} skipped, it was not answered: {reason}"
            ),
            LeftOutKind::Refused if refused.contains_key(tag) => warn!(
                MESSAGE_ID = journal::REFUSED,
                REPOSITORY:% = directory,
                TAG:% = tag,
                DIGEST = one.digest.map_or_else(String::new, |digest| digest.to_string()).as_str(),
                REASON = reason.as_str();
                "{directory}: tag {tag} skipped: {reason}"
            ),
            // By design, or told before.
            LeftOutKind::Refused | LeftOutKind::Skipped | LeftOutKind::Held => {
                debug!("{directory}: tag {tag} skipped: {reason}");
            }
        }
    }
    if !refused.is_empty() {
        state.update_notes(place, |notes| notes.warned.extend(refused));
    }
}

/// One that is left out, without the share of machines or the clock in the reason of a schedule.
fn without_share(one: &LeftOut) -> Cow<'_, LeftOut> {
    match one.until {
        None => Cow::Borrowed(one),
        Some(_) => Cow::Owned(LeftOut {
            reason: String::new(),
            ..one.clone()
        }),
    }
}

/// Logs the versions that are listed now, and that a schedule held back in the listing before.
fn log_turns(state: &State, place: &str, directory: &Directory, snapshot: &Snapshot, source: &str) {
    let left_out = snapshot.listing.left_out.iter();
    let held = left_out.filter(|one| one.until.is_some());
    let mut held: Vec<_> = held.map(|one| &one.tag).collect();
    held.sort_by(|one, other| by_version(other, one));
    held.truncate(MAX_SCHEDULED);
    let held: BTreeSet<_> = held.into_iter().cloned().collect();
    let before = state.notes(place).scheduled;
    if before == held {
        return;
    }
    let listed: BTreeSet<_> = snapshot.files().map(|(_, file)| file.tag.clone()).collect();
    for tag in before
        .intersection(&listed)
        .filter(|tag| !held.contains(tag))
    {
        info!(
            MESSAGE_ID = journal::TURN,
            REPOSITORY:% = directory,
            TAG:% = tag,
            SOURCE = source;
            "{directory}: tag {tag} is listed from now on; the schedule of its rollout held it back before"
        );
    }
    state.update_notes(place, |notes| notes.scheduled = held);
}

/// Whether the files of a directory are others than in the last listing.
fn has_changed(
    state: &State,
    place: &str,
    directory: &Directory,
    snapshot: &Snapshot,
    before: Option<&Snapshot>,
) -> bool {
    let files = digest(snapshot);
    let name = directory.to_string();
    let is_known = match before {
        Some(before) => digest(before) == files,
        None => state.notes(place).listed.get(&name) == Some(&files),
    };
    if !is_known {
        state.update_notes(place, |notes| {
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
