//! Whether a listing is complete: one rule for everything that is asked to list a source's tags.
//!
//! A tag is answered, or it is not ([`Error::finding`]). A listing may lack tags that were not answered, if they are
//! few and old: then it says so. Without the newest version it is an error, for nobody would see that it is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Resolver;
use crate::artifact::Skipped;
use crate::error::{Error, Result};
use crate::listing::{Incomplete, LeftOut, Listing};
use crate::name::Tag;
use crate::printable::shortened;
use crate::state::Unanswered as Tries;
use crate::version::by_version;

/// Tags without an answer that are noted: where there are more it is the registry that does not answer.
const MAX_NOTED: usize = 500;
/// Tags without an answer that are told one by one.
const MAX_UNANSWERED_TOLD: usize = 100;
/// When to try again where the registry does not say it: what was learnt makes the next try longer.
pub const RETRY_AFTER: Duration = Duration::from_secs(10);
/// Tries without an answer after which a tag counts as refused, and the time that they are spread over.
const MANY_TRIES: u32 = 5;
const LONG: Duration = Duration::from_secs(60 * 60);
/// A longer time between two tries does not count: nobody tried.
const LONGEST_PAUSE: Duration = Duration::from_secs(10 * 60);

/// A tag that was not answered.
#[derive(Clone, Debug)]
pub struct Unanswered {
    /// Its name.
    pub tag: Tag,
    /// Why; `None` if it was not asked for, because the time was over or the registry refused everything before it.
    pub error: Option<Error>,
    /// It has not been answered for so long that it counts as refused.
    pub counts_as_refused: bool,
}

/// Whether there was no time for a tag, or no request left that the registry allows. Another listing may get further.
pub fn has_run_out(error: Option<&Error>) -> bool {
    matches!(
        error,
        None | Some(Error::TooSlow { .. } | Error::Busy { .. })
    )
}

impl Unanswered {
    /// One that was asked for, or not.
    pub fn new(tag: &Tag, error: Option<Error>) -> Self {
        Self {
            tag: tag.clone(),
            error,
            counts_as_refused: false,
        }
    }

    /// Why, in one line.
    pub fn reason(&self) -> String {
        match &self.error {
            Some(error) if self.counts_as_refused => {
                format!(
                    "it counts as refused after an hour of tries: {}",
                    error.line()
                )
            }
            Some(error) => error.line(),
            None => "it was not asked for: the time was over, or too many before it had failed"
                .to_owned(),
        }
    }
}

impl Resolver<'_> {
    /// The listing of so many tags, if it may lack these.
    pub fn conclude(
        &self,
        tags: usize,
        mut listing: Listing,
        mut unanswered: Vec<Unanswered>,
    ) -> Result<Listing> {
        let source = self.source.name();
        // The newest count, where there are more than can be noted or told.
        unanswered.sort_by(|one, other| by_version(&other.tag, &one.tag));
        self.count_tries(&mut unanswered);
        if !(unanswered.iter()).any(|one| has_run_out(one.error.as_ref())) {
            self.unfinished.forget(&source);
        }
        // A version that a schedule holds back was answered, too. Without any file the listing would say that there
        // is nothing.
        let listed = listing.files.values().map(|file| &file.tag);
        let scheduled = listing.left_out.iter().filter(|one| one.until.is_some());
        let scheduled = scheduled.filter(|_| !listing.files.is_empty());
        let listed = newest(listed.chain(scheduled.map(|one| &one.tag)));
        listing.incomplete = match judge(tags, &unanswered, listed) {
            Verdict::Complete => return Ok(listing),
            Verdict::Incomplete(incomplete) => Some(incomplete),
            Verdict::Error { why, retry_after } => {
                return Err(Error::Incomplete {
                    source,
                    unanswered: unanswered.len(),
                    tags,
                    why: shortened(why),
                    retry_after,
                });
            }
        };
        let more = unanswered.len().saturating_sub(MAX_UNANSWERED_TOLD);
        for (n, one) in unanswered.iter().take(MAX_UNANSWERED_TOLD).enumerate() {
            let mut reason = one.reason();
            if more > 0 && n + 1 == MAX_UNANSWERED_TOLD {
                reason.push_str(&format!("; and {more} older tags were not answered"));
            }
            listing.leave_out(LeftOut::new(&one.tag, Skipped::unanswered(reason)));
        }
        Ok(listing)
    }

    /// Notes one more try without an answer for these tags, and which of them count as refused by now.
    ///
    /// Another name of the source may have other settings, by which other objects are asked for.
    fn count_tries(&self, unanswered: &mut [Unanswered]) {
        let source = &format!("{} as {}", self.source.name(), self.address);
        let before = self.state.notes(source).unanswered;
        if unanswered.is_empty() && before.is_empty() {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs());
        let mut noted = BTreeMap::new();
        self.state.update_notes(source, |notes| {
            let open: BTreeSet<_> = unanswered.iter().map(|one| &one.tag).collect();
            notes.unanswered.retain(|tag, _| open.contains(tag));
            let tried = unanswered.iter().filter(|one| one.error.is_some());
            for Unanswered { tag, .. } in tried.take(MAX_NOTED) {
                let tries = notes.unanswered.entry(tag.clone()).or_default();
                *tries = once_more(tries, now);
            }
            noted.clone_from(&notes.unanswered);
        });
        for one in unanswered {
            one.counts_as_refused = noted.get(&one.tag).is_some_and(is_long);
        }
    }
}

/// Whether a listing may be given out.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// Every tag was answered.
    Complete,
    /// It may, and says what is missing.
    Incomplete(Incomplete),
    /// It may not, for this reason.
    Error { why: String, retry_after: Duration },
}

/// Judges a listing of a source with so many tags. `newest`: the newest version that is listed, or that is known and
/// held back by a schedule.
fn judge(tags: usize, unanswered: &[Unanswered], newest: Option<&Tag>) -> Verdict {
    if unanswered.is_empty() {
        return Verdict::Complete;
    }
    let open = || unanswered.iter().filter(|one| !one.counts_as_refused);
    let newest_open = open().max_by(|one, other| by_version(&one.tag, &other.tag));
    let why = match (newest_open, newest) {
        (Some(one), None) => format!(
            "nothing can be listed without tag {}: {}",
            one.tag,
            one.reason()
        ),
        (Some(one), Some(newest)) if by_version(&one.tag, newest).is_gt() => format!(
            "tag {} is newer than {newest}, the newest that can be listed: {}",
            one.tag,
            one.reason()
        ),
        (Some(one), _) if open().count() * 2 > tags => format!(
            "that is more than half of them, as tag {}: {}",
            one.tag,
            one.reason()
        ),
        _ => {
            return Verdict::Incomplete(Incomplete {
                unanswered: unanswered.len(),
                tags,
                lacks_attached: false,
            });
        }
    };
    let asked = open().filter_map(|one| one.error.as_ref()?.retry_after());
    let retry_after = asked.max().unwrap_or(RETRY_AFTER);
    Verdict::Error {
        why,
        retry_after: retry_after.max(Duration::from_secs(1)),
    }
}

/// The newest of some tags.
pub fn newest<'a>(tags: impl Iterator<Item = &'a Tag>) -> Option<&'a Tag> {
    tags.max_by(|one, other| by_version(one, other))
}

/// All of them, the newest first.
pub fn newest_first(tags: &[Tag]) -> Vec<&Tag> {
    let mut tags: Vec<_> = tags.iter().collect();
    tags.sort_by(|one, other| by_version(other, one).then_with(|| one.cmp(other)));
    tags
}

/// One more try without an answer, at this time in seconds since 1970.
fn once_more(before: &Tries, now: u64) -> Tries {
    // A clock that was set back or forth counts as a pause.
    let pause = now.checked_sub(before.last);
    let counted = pause.filter(|pause| before.tries > 0 && *pause <= LONGEST_PAUSE.as_secs());
    Tries {
        tries: before.tries.saturating_add(1),
        last: now,
        spread: before.spread.saturating_add(counted.unwrap_or(0)),
    }
}

/// Whether a tag was not answered for so long that it will not be.
fn is_long(tries: &Tries) -> bool {
    tries.tries >= MANY_TRIES && tries.spread >= LONG.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(name: &str) -> Tag {
        name.parse().unwrap()
    }

    fn silent(name: &str) -> Unanswered {
        let error = Error::Failing {
            url: "u".into(),
            status: 500,
        };
        Unanswered::new(&tag(name), Some(error))
    }

    fn judged(tags: usize, unanswered: &[Unanswered], newest: Option<&str>) -> String {
        match judge(tags, unanswered, newest.map(tag).as_ref()) {
            Verdict::Complete => "complete".to_owned(),
            Verdict::Incomplete(incomplete) => incomplete.to_string(),
            Verdict::Error { why, .. } => why.split(':').next().unwrap().to_owned(),
        }
    }

    #[test]
    fn a_listing_may_lack_old_tags_that_are_few() {
        for (tags, unanswered, newest, expected, why) in [
            (3, vec![], Some("v3"), "complete", ""),
            (0, vec![], None, "complete", "there is nothing to list"),
            (3, vec![], None, "complete", "nothing of it is offered"),
            (
                40,
                vec!["v1", "v2", "v3"],
                Some("v40"),
                "3 of 40 tags were not answered",
                "",
            ),
            (
                4,
                vec!["v1", "v2"],
                Some("v4"),
                "2 of 4 tags were not answered",
                "half",
            ),
            (
                5,
                vec!["v1", "v3", "v2"],
                Some("v5"),
                "that is more than half of them, as tag v3",
                "the newest stands for all",
            ),
            (
                40,
                vec!["v1", "v10", "v9"],
                Some("v8"),
                "tag v10 is newer than v8, the newest that can be listed",
                "by number, not by letter",
            ),
            (
                40,
                vec!["v8-arm64"],
                Some("v8-x86-64"),
                "1 of 40 tags were not answered",
                "the same version for another machine",
            ),
            (
                40,
                vec!["1.10"],
                Some("v1.9"),
                "tag 1.10 is newer than v1.9, the newest that can be listed",
                "with v and without",
            ),
            (
                40,
                vec!["v1.10"],
                Some("1.11"),
                "1 of 40 tags were not answered",
                "the other way round",
            ),
            (
                40,
                vec!["latest"],
                Some("1.0"),
                "1 of 40 tags were not answered",
                "a word is older than a number",
            ),
            (
                40,
                vec!["v1"],
                None,
                "nothing can be listed without tag v1",
                "",
            ),
        ] {
            let unanswered: Vec<_> = unanswered.into_iter().map(silent).collect();
            assert_eq!(judged(tags, &unanswered, newest), expected, "{why}");
        }
    }

    #[test]
    fn what_counts_as_refused_is_told_and_no_more() {
        let refused = |name| Unanswered {
            counts_as_refused: true,
            ..silent(name)
        };
        for (unanswered, newest, expected) in [
            (
                vec![refused("v9"), refused("v8"), refused("v7")],
                Some("v1"),
                "3 of 4 tags were not answered",
            ),
            (
                vec![refused("v9"), silent("v8")],
                Some("v1"),
                "tag v8 is newer than v1, the newest that can be listed",
            ),
            (vec![refused("v9")], None, "1 of 4 tags were not answered"),
        ] {
            assert_eq!(judged(4, &unanswered, newest), expected, "{unanswered:?}");
        }
    }

    #[test]
    fn a_registry_that_names_a_time_is_asked_again_then() {
        let busy = |seconds| {
            let error = Error::Busy {
                url: "u".into(),
                status: 429,
                retry_after: Duration::from_secs(seconds),
            };
            Unanswered::new(&tag("v1"), Some(error))
        };
        for (unanswered, expected) in [
            (vec![silent("v1")], 10),
            (vec![Unanswered::new(&tag("v1"), None)], 10),
            (vec![busy(7), busy(3600), silent("v1")], 3600),
            (vec![busy(0)], 1),
        ] {
            let Verdict::Error { retry_after, .. } = judge(9, &unanswered, None) else {
                panic!("it was listed");
            };
            assert_eq!(retry_after.as_secs(), expected, "{unanswered:?}");
        }
    }

    #[test]
    fn a_tag_is_silent_for_long_after_five_tries_over_an_hour_of_tries() {
        for (times, expected, why) in [
            (vec![0, 900, 1800, 2700, 3600], false, "the pauses are long"),
            (
                (0..=6).map(|n| n * 600).collect(),
                true,
                "an hour of pauses that count",
            ),
            ((0..6).map(|n| n * 600).collect(), false, "50 minutes"),
            (vec![0, 3600], false, "two tries"),
            (
                (0..360).map(|n| n * 10).collect(),
                false,
                "ten seconds are missing",
            ),
            ((0..361).map(|n| n * 10).collect(), true, "an hour"),
            (vec![9000, 0, 1, 2, 3, 4], false, "the clock was set back"),
        ] {
            let start = 1_800_000_000;
            let tries = times.iter().fold(Tries::default(), |tries, time| {
                once_more(&tries, start + time)
            });
            assert_eq!(is_long(&tries), expected, "{why}");
        }
    }
}
