//! The clock: certificates are judged by it, and systemd-sysupdate refuses lists that have ended.

use std::fs;

use jiff::Timestamp;
use jiff::civil::Date;

use super::machine::Machine;
use super::report::{Finding, Report, Step};

/// No clock was right before this: the program did not exist.
const WRITTEN: Date = jiff::civil::date(2026, 11, 1);
/// Nobody uses the program so many years later.
const YEARS: i16 = 20;
/// Its time of change is when the distribution was built; systemd sets an earlier clock to it when it boots
/// (systemd:docs/ENVIRONMENT.md, `/usr/lib/clock-epoch`).
const EPOCH: &str = "/usr/lib/clock-epoch";

/// Looks whether the clock is near the right time.
pub fn check(report: &mut Report, machine: &Machine) {
    let built = fs::metadata(machine.path(EPOCH)).and_then(|found| found.modified());
    let built = built.ok().and_then(|time| Timestamp::try_from(time).ok());
    report.push(judge(Timestamp::now(), built));
}

/// `built`: the earliest time that this system knows of.
fn judge(now: Timestamp, built: Option<Timestamp>) -> Finding {
    let at_midnight = |date: Date| {
        let zoned = date.to_zoned(jiff::tz::TimeZone::UTC);
        zoned.map_or(Timestamp::MIN, |zoned| zoned.timestamp())
    };
    let last = WRITTEN.with().year(WRITTEN.year() + YEARS).build();
    let earliest = at_midnight(WRITTEN).max(built.unwrap_or(Timestamp::MIN));
    let latest = last.map_or(Timestamp::MAX, at_midnight);
    let wrong = |than: &str, limit: Timestamp| {
        Finding::failed(
            Step::Clock,
            format!("it is {now:.0}, {than} than {limit:.0}, so certificates cannot be verified"),
            "set the clock: timedatectl set-ntp true, or timedatectl set-time",
        )
    };
    if now < earliest {
        return wrong("earlier", earliest);
    }
    if now > latest {
        return wrong("later", latest);
    }
    Finding::ok(Step::Clock, format!("it is {now:.0}"))
}

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::*;

    #[test]
    fn a_clock_that_must_be_wrong_is_told() {
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        let built = time("2027-06-01T00:00:00Z");
        for (now, built, status, why) in [
            (
                "1970-01-01T00:10:00Z",
                None,
                Status::Failed,
                "it has no battery",
            ),
            ("2027-01-01T00:00:00Z", None, Status::Ok, "now"),
            (
                "2027-01-01T00:00:00Z",
                Some(built),
                Status::Failed,
                "before the system was built",
            ),
            (
                "2027-06-01T00:00:00Z",
                Some(built),
                Status::Ok,
                "at that moment",
            ),
            ("2099-01-01T00:00:00Z", None, Status::Failed, "far ahead"),
        ] {
            let found = judge(time(now), built);
            assert_eq!(found.status, status, "{why}: {found}");
        }
    }
}
