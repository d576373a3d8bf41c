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
pub fn of_empty() -> Date {
    best_before_of(today(), 1)
}

/// The date for a listing, if the settings limit its time: that of the source that answered longest ago.
pub fn best_before(
    state: &State,
    located: &Located,
    sources: &[Arc<dyn Source>],
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
        let date = match answered(state, &**source)? {
            Some(answered) => best_before_of(answered, settings.best_before_days),
            None => {
                warn!(
                    "{located}: a mirror answers in place of {}, and it is not known when the registry itself last \
                     answered; because of best-before-days, systemd 262 refuses the listing until the registry answers",
                    source.name()
                );
                // It has begun.
                today()
            }
        };
        oldest = Some(oldest.map_or(date, |oldest| oldest.min(date)));
    }
    Ok(oldest)
}

/// The day on which a source itself answered last: today, else a day in the state.
fn answered(state: &State, source: &dyn Source) -> Result<Option<Date>> {
    let (name, today) = (source.name(), today());
    let known = state.promises(&name)?.answered;
    if !source.tags_are_its_own() {
        // A day to come is of a clock that was wrong.
        return Ok(known.and_then(day_of).filter(|day| *day <= today));
    }
    let since_1970 = Timestamp::now().as_second();
    if known.and_then(day_of) != Some(today) {
        let promised = state.promise(&name, |Promises { answered, .. }| {
            *answered = Some(since_1970)
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

fn today() -> Date {
    date_of(Timestamp::now())
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
}
