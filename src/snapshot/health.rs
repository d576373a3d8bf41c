//! The last listing of each directory that was asked for, for the start page.

use jiff::Timestamp;

use super::Snapshots;
use crate::listing::Incomplete;
use crate::lock::lock;
use crate::printable::shortened;

/// The state of a directory.
pub struct Health {
    /// As a URL names it.
    pub directory: String,
    /// When it was listed last, in the form of RFC 3339.
    pub when: String,
    /// The number of its files and the part that is missing, or why there is no listing.
    pub listed: Result<(usize, Option<Incomplete>), String>,
}

impl Snapshots {
    /// Of all directories that were listed since the process began, sorted by name.
    pub fn health(&self) -> Vec<Health> {
        let slots: Vec<_> = {
            let directories = lock(&self.directories);
            let slots = directories.iter();
            slots
                .map(|(directory, slot)| (directory.to_string(), slot.clone()))
                .collect()
        };
        let now = Timestamp::now();
        let health = slots.into_iter().filter_map(|(directory, slot)| {
            let newest = lock(&slot.newest);
            let taken = newest.taken.as_ref()?;
            let when = now.checked_sub(taken.done.elapsed()).unwrap_or(now);
            let listed = taken.result.as_ref();
            let listed = listed.map(|snapshot| (snapshot.len(), snapshot.listing.incomplete));
            Some(Health {
                directory,
                when: format!("{when:.0}"),
                listed: listed.map_err(|error| shortened(error.line())),
            })
        });
        let mut health: Vec<_> = health.collect();
        health.sort_by(|one, other| one.directory.cmp(&other.directory));
        health
    }
}
