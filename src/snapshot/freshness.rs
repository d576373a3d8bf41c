//! How long a listing is fresh: the date in its line `BEST-BEFORE-<date>`, after which systemd 262 refuses it.
//!
//! It counts from the registry's own last answer. While a mirror stands in for the registry, that is a day in the state:
//! so a mirror that no longer follows its registry is noticed.

use std::sync::Arc;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use log::{debug, warn};

use crate::address::{Located, View};
use crate::error::{Error, Result};
use crate::source::Source;
use crate::state::{Promises, State};

/// The date for an empty listing where the settings do not limit its time. It may be read a while after it was sent.
pub fn of_empty(now: Timestamp) -> Date {
    best_before_of(date_of(now), 1)
}

/// The date for a listing, if the settings limit its time: that of the source that answered longest ago.
pub fn best_before(
    state: &State,
    located: &Located,
    sources: &[Arc<dyn Source>],
    now: Timestamp,
) -> Result<Option<Date>> {
    let settings = &located.settings;
    let can_change = match located.directory.view {
        View::Tags | View::All => true,
        View::Tag(_) => !settings.immutable_tags,
        View::Digest(_) => false,
    };
    if settings.best_before_days == 0 || !can_change {
        return Ok(None);
    }
    let mut oldest: Option<Date> = None;
    for source in sources {
        let answered = answered(state, &source.name(), source.tags_are_its_own(), now)?;
        let date = match answered {
            Some(answered) => best_before_of(answered, settings.best_before_days),
            None => {
                warn!(
                    "{located}: a mirror answers in place of {}, and it is not known when the registry itself last \
                     answered; because of best-before-days, systemd 262 refuses the listing until the registry answers",
                    source.name()
                );
                // It has begun.
                date_of(now)
            }
        };
        oldest = Some(oldest.map_or(date, |oldest| oldest.min(date)));
    }
    Ok(oldest)
}

/// The day on which a source itself answered last: today if `is_its_own`, else a day in the state.
fn answered(state: &State, name: &str, is_its_own: bool, now: Timestamp) -> Result<Option<Date>> {
    let today = date_of(now);
    let known = state.promises(name)?.answered;
    if !is_its_own {
        // A day to come is of a clock that was wrong.
        return Ok(known.and_then(day_of).filter(|day| *day <= today));
    }
    if known.and_then(day_of) != Some(today) {
        let promised = state.promise(name, |Promises { answered, .. }| {
            *answered = Some(now.as_second())
        });
        match promised {
            // A command that only reads must not write there.
            Err(error @ Error::File { .. }) => {
                debug!("{name}: its answer is not remembered: {}", error.line());
            }
            promised => promised?,
        }
    }
    Ok(Some(today))
}

/// The date for a listing that is fresh for so many whole days after a day: systemd takes the begin of the date (262:
/// `process_magic_file()` in src/sysupdate/sysupdate-resource.c).
fn best_before_of(day: Date, days: u16) -> Date {
    let span = SignedDuration::from_hours(24 * (i64::from(days) + 1));
    day.saturating_add(span)
}

fn day_of(since_1970: i64) -> Option<Date> {
    Timestamp::from_second(since_1970).ok().map(date_of)
}

fn date_of(time: Timestamp) -> Date {
    time.to_zoned(TimeZone::UTC).date()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dir::Dir;

    #[test]
    fn a_listing_is_fresh_for_whole_days_also_if_it_was_made_just_before_midnight() {
        let day = day_of(1_798_761_599).unwrap();
        assert_eq!(day, Date::constant(2026, 12, 31));
        // The second after that is in the next day: one day from then on it is still fresh.
        assert_eq!(best_before_of(day, 1), Date::constant(2027, 1, 2));
        assert_eq!(best_before_of(day, 30), Date::constant(2027, 1, 31));
        assert_eq!(day_of(1_798_761_600), Some(Date::constant(2027, 1, 1)));
        assert_eq!(best_before_of(Date::MAX, 3650), Date::MAX);
    }

    /// Days are those of UTC. What the registry answered counts until it answers again.
    #[test]
    fn a_mirror_that_stands_in_has_the_day_of_the_registrys_last_answer() {
        let root = std::env::temp_dir();
        let root = root.join(format!("sysext-oci-proxy-freshness-{}", std::process::id()));
        let state = State::new(Some(Dir::create(&root).unwrap()));
        for (is_its_own, now, expected, why) in [
            (false, "2026-12-31T23:00:00Z", None, "it never answered"),
            (
                true,
                "2026-12-31T00:00:00Z",
                Some("2026-12-31"),
                "the first second of a day",
            ),
            (
                true,
                "2026-12-31T23:59:59Z",
                Some("2026-12-31"),
                "the last one",
            ),
            (
                false,
                "2027-01-01T00:00:00Z",
                Some("2026-12-31"),
                "the next one",
            ),
            (
                false,
                "2027-03-01T00:00:00Z",
                Some("2026-12-31"),
                "long after that",
            ),
            (
                true,
                "2027-01-01T00:00:00Z",
                Some("2027-01-01"),
                "it answers again",
            ),
            (
                true,
                "1970-01-01T00:01:00Z",
                Some("1970-01-01"),
                "the clock is not set yet",
            ),
            (
                false,
                "2027-01-02T00:00:00Z",
                Some("1970-01-01"),
                "and then it is: no longer than that",
            ),
            (
                true,
                "2030-01-01T00:00:00Z",
                Some("2030-01-01"),
                "the clock is fast",
            ),
            (
                false,
                "2027-01-02T00:00:00Z",
                None,
                "and then it is right: that day is to come",
            ),
            (
                true,
                "2027-01-02T00:00:00Z",
                Some("2027-01-02"),
                "it answers once more",
            ),
        ] {
            let found = answered(&state, "r.example/hello", is_its_own, now.parse().unwrap());
            let expected = expected.map(|day| day.parse().unwrap());
            assert_eq!(found.unwrap(), expected, "{now}: {why}");
            let of_another = answered(&state, "r.example/other", false, Timestamp::MAX);
            assert_eq!(of_another.unwrap(), None);
        }
        std::fs::remove_dir_all(root).unwrap();
    }
}
