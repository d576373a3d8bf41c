//! Which lists the key of this machine signs: those whose every file is verified, and whose sources all have a requirement.
//!
//! A list that its publisher signed keeps that signature. The list and the signature of one snapshot are made once
//! (`forms.rs`), and belong together as a publisher's do (`pairs.rs`).

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::{Snapshot, Snapshots, freshness};
use crate::address::{Located, View};
use crate::digest::Digest;
use crate::error::Result;
use crate::listing::Listing;
use crate::memory::Kept;
use crate::openpgp::{Fingerprint, MachineKey};
use crate::resolve::Signed;

/// The one form of the machine's signature: systemd 257 asks for no other, and later ones ask for it, too.
pub const SIGNATURE: &str = "SHA256SUMS.gpg";
/// How long an empty list is kept with its date. It is fresh for at least so long.
const EMPTY: SignedDuration = SignedDuration::from_hours(24);

impl Snapshot {
    /// Whether its list has a signature of this name, or ought to have it.
    pub fn has_signature(&self, name: &str) -> bool {
        self.publishers_signature(name).is_some() || self.is_for_machine() && name == SIGNATURE
    }

    /// Whether its list has any signature, or ought to have one.
    pub fn is_signed(&self) -> bool {
        let signed = self.signed.as_ref();
        signed.is_some_and(|signed| !signed.signatures.is_empty()) || self.is_for_machine()
    }

    /// The key of this machine, if it signs the list.
    pub fn machine(&self) -> Option<Fingerprint> {
        let key = self.machine_key.as_ref()?.as_ref().ok()?;
        Some(key.fingerprint())
    }

    fn is_for_machine(&self) -> bool {
        self.machine_key.is_some()
    }

    /// Whether a client may ask for two halves that have to be of one snapshot.
    pub(super) fn has_pair(&self) -> bool {
        self.signed.is_some() || self.is_for_machine()
    }

    pub(super) fn publishers_signature(&self, name: &str) -> Option<&Arc<Kept>> {
        self.signed.as_ref()?.signatures.get(name)
    }

    /// Gives an empty list that is signed its date, and has it made anew in time.
    pub(super) fn date_if_empty(&mut self) {
        if !self.is_for_machine() || self.signed.is_some() || !self.listing.files.is_empty() {
            return;
        }
        let now = Timestamp::now();
        let of_empty = || Some(freshness::of_empty(now));
        self.best_before = self.best_before.or_else(of_empty);
        let soon = now.checked_add(EMPTY).ok();
        self.next_turn = self.next_turn.into_iter().chain(soon).min();
    }
}

impl Snapshots {
    /// Whether the settings ask for the signature of this machine, wherever it can be made.
    pub fn is_to_sign(&self, located: &Located) -> bool {
        located.settings.sign.unwrap_or(self.settings.sign)
    }

    /// The key of this machine, if it is to sign this list.
    pub(super) fn key_for(
        &self,
        located: &Located,
        listing: &Listing,
        signed: Option<&Signed>,
    ) -> Option<Result<Arc<MachineKey>>> {
        let key = self.machine_key.as_ref()?;
        if !self.is_to_sign(located) {
            return None;
        }
        let is_verified = match signed {
            Some(signed) => signed.signatures.is_empty() && signed.accepted.is_some(),
            None => listing.files.values().all(|file| file.accepted.is_some()),
        };
        // Without files these are all there is to go by.
        let (digest, tag) = match &located.directory.view {
            View::Tags | View::All => (Digest::of(b""), None),
            View::Tag(tag) => (Digest::of(b""), Some(tag)),
            View::Digest(digest) => (*digest, None),
        };
        let is_required = located.places.iter().all(|(_, place)| {
            let requirement = located.requirement(place, &self.settings);
            !requirement.rules(digest, tag).is_empty()
        });
        (is_verified && is_required).then(|| key.clone())
    }
}
