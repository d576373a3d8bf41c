//! Leaves out the extensions that this machine's systemd would not merge.

use std::collections::BTreeMap;
use std::path::Path;

use super::Resolver;
use super::complete::Unanswered;
use super::tags::Failures;
use crate::artifact::Skipped;
use crate::error::Result;
use crate::extension_release::compatible::{Host, Kind, mismatch};
use crate::listing::{LeftOut, Listing};
use crate::name::Tag;
use crate::parallel::in_parallel;
use crate::task;
use crate::version::by_version;

impl Resolver<'_> {
    /// Leaves out the extensions that this machine's systemd would refuse, each with its reason, if that is wanted.
    ///
    /// If that cannot be found out for a file, its tag is left out with all its files, and returned.
    pub fn leave_out_incompatible(&self, listing: &mut Listing) -> Result<Vec<Unanswered>> {
        if !self.compatible_only {
            return Ok(Vec::new());
        }
        let host = Host::read(Path::new("/"))?;
        let files = listing.files.iter();
        let mut extensions: Vec<_> = files
            .filter_map(|(name, file)| Some((name, file, Kind::of_name(name.as_str())?)))
            .collect();
        extensions.sort_by(|(_, one, _), (_, other, _)| by_version(&other.tag, &one.tag));
        let failures = Failures::default();
        let found = in_parallel(
            &extensions,
            self.parallel,
            |(name, file, _)| self.metadata(name, file, false),
            |found| failures.are_too_many(found.as_ref().err()) || task::passed_limit().is_some(),
        );
        let (mut refused, mut unanswered) = (Vec::new(), BTreeMap::<Tag, Unanswered>::new());
        for ((name, file, kind), found) in extensions.into_iter().zip(found) {
            let tag = &file.tag;
            let why = match found {
                Some(Ok(metadata)) => mismatch(&host, &metadata, kind),
                Some(Err(error)) if error.is_answer_about_a_part() => Some(error.line()),
                // The metadata found so far is kept, so the next listing gets further.
                unknown => {
                    let error = unknown.and_then(Result::err);
                    let one = unanswered.entry(tag.clone());
                    let one = one.or_insert_with(|| Unanswered::new(tag, None));
                    one.error = one.error.take().or(error);
                    continue;
                }
            };
            refused.extend(why.map(|why| {
                let skipped = LeftOut::new(tag, Skipped::whole(format!("{name}: {why}")));
                (name.clone(), skipped.of(file.manifest))
            }));
        }
        for (name, skipped) in refused {
            listing.files.remove(&name);
            listing.leave_out(skipped.called(name));
        }
        let is_known = |tag: &Tag| !unanswered.contains_key(tag);
        listing.files.retain(|_, file| is_known(&file.tag));
        Ok(unanswered.into_values().collect())
    }
}
