//! Which files this machine's systemd would merge.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use super::complete::{Unanswered, by_version};
use super::{Failures, Resolver};
use crate::artifact::Skipped;
use crate::error::{Error, Finding, Result};
use crate::extension_release::compatible::{Host, Kind, mismatch};
use crate::listing::Listing;
use crate::name::Tag;
use crate::parallel::in_parallel;
use crate::task;

impl Resolver<'_> {
    /// Leaves out the extensions that this machine's systemd would refuse, each with its reason, if that is wanted.
    ///
    /// Of some that may not be found out. Their tags are left out, too, with all their files.
    pub fn leave_out_incompatible(&self, listing: &mut Listing) -> Result<Vec<Unanswered>> {
        if !self.compatible_only {
            return Ok(Vec::new());
        }
        let host = Host::read(Path::new("/"))?;
        let kind_of = |name: &str| Kind::of_name(name);
        let mut judged: Vec<_> = listing
            .files
            .iter()
            .filter_map(|(name, file)| Some((name, file, kind_of(name.as_str())?)))
            .collect();
        judged.sort_by(|(_, one, _), (_, other, _)| by_version(&other.tag, &one.tag));
        let failures = Failures::default();
        let verdicts = in_parallel(&judged, self.parallel, |(name, file, _), stop| {
            let found = self.metadata(name, file);
            if failures.are_too_many(found.as_ref().err()) || task::passed_limit().is_some() {
                stop.store(true, Relaxed);
            }
            found
        });
        let (mut refused, mut unanswered) = (Vec::new(), BTreeMap::<Tag, Unanswered>::new());
        for ((name, file, kind), verdict) in judged.into_iter().zip(verdicts) {
            let one = match verdict {
                Some(Ok(metadata)) => {
                    let reason = mismatch(&host, &metadata, kind);
                    refused.extend(reason.map(|reason| (name.clone(), file.tag.clone(), reason)));
                    continue;
                }
                Some(Err(Error::ClientGone)) => return Err(Error::ClientGone),
                Some(Err(error)) if error.finding() == Finding::Answer => {
                    refused.push((name.clone(), file.tag.clone(), error.line()));
                    continue;
                }
                Some(Err(error)) => Unanswered::new(&file.tag, error),
                // What was found so far is kept, so the next listing comes further.
                None => Unanswered::not_asked(&file.tag),
            };
            let first = unanswered.entry(file.tag.clone()).or_insert(one.clone());
            if first.error.is_none() {
                *first = one;
            }
        }
        for (name, tag, reason) in refused {
            listing.files.remove(&name);
            listing.leave_out(&tag, Skipped::whole(format!("{name}: {reason}")));
        }
        listing
            .files
            .retain(|_, file| !unanswered.contains_key(&file.tag));
        Ok(unanswered.into_values().collect())
    }
}
