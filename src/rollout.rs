//! Rollouts: a publisher's schedule by which machine after machine is offered a version. No I/O.
//!
//! ```text
//! io.github.sysext-oci-proxy.rollout = "2026-12-01T06:00:00Z 48h from 5%"
//! ```
//!
//! From the start on, the share of machines grows evenly, in steps of 0.01 %, from the first share to all. The order of
//! the machines is that of `ConditionFraction=` in systemd, with the tag `<host>/<repository>:<version>`, so other
//! machines are first for each version. The turn of a machine is one moment: no machine is ever taken out again.

use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};
use ring::hmac;
use serde_json::{Value, json};

use crate::artifact::Skipped;
use crate::machine_id::MachineId;
use crate::manifest::Annotations;
use crate::name::Tag;
use crate::version::comparable;

/// The annotation of a manifest or index that has a schedule.
const ANNOTATION: &str = "io.github.sysext-oci-proxy.rollout";
/// The form of a schedule, for messages.
const EXPECTED: &str =
    "expected a start and hours, \"2026-12-01T06:00:00Z 48h\", and optionally \" from 5%\"";
/// Longest text of a schedule, in bytes.
const MAX_TEXT: usize = 100;
/// Longest rollout, in hours: a year.
const MAX_HOURS: u32 = 366 * 24;

/// The schedule of a version.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    start: Timestamp,
    /// The time from the start until all machines have the version.
    length: SignedDuration,
    /// The share of machines that have it at the start.
    from: Share,
}

/// The annotation of a version, if it has one: a schedule, or the reason why it is none.
pub type Annotated = Option<Result<Schedule, String>>;

/// A share of machines, in steps of 0.01 %: from 0 to 10000.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
struct Share(u16);

/// How a repository takes part in rollouts: the setting `rollout`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum RolloutSetting {
    /// When the turn of this machine comes.
    #[default]
    Follow,
    /// When the rollout begins.
    First,
    /// When the rollout ends.
    Last,
    /// At once, whatever the schedule says.
    Ignore,
}

/// The part of a machine in the rollouts of a repository.
pub struct Rollout {
    pub setting: RolloutSetting,
    /// The repository with its host, or the path of a layout.
    pub source: String,
    /// The ID of the machine, or the reason why it has none. Without one it is among the last.
    pub machine: Result<MachineId, String>,
}

impl Schedule {
    /// The annotation in a manifest or index.
    pub fn annotated(annotations: &Annotations) -> Annotated {
        let text = annotations.get(ANNOTATION)?;
        Some(text.parse().map_err(|why| {
            format!(
                "its annotation {ANNOTATION} is no schedule: {why}; rollout = \"ignore\" in the settings of the \
                 repository offers it at once"
            )
        }))
    }

    /// When all machines have it.
    fn end(&self) -> Timestamp {
        self.start
            .saturating_add(self.length)
            .unwrap_or(Timestamp::MAX)
    }

    /// The share of machines that have it at this moment.
    fn share(&self, now: Timestamp) -> Share {
        let passed = now.duration_since(self.start).as_secs();
        if passed < 0 {
            return Share::NOBODY;
        }
        if passed >= self.length.as_secs() {
            return Share::ALL;
        }
        let (from, length) = (i64::from(self.from.0), self.length.as_secs());
        let grown = (i64::from(Share::ALL.0) - from) * passed / length;
        Share(u16::try_from(from + grown).unwrap_or(Share::ALL.0))
    }

    /// The first second at which at least this share of machines has it.
    fn reaches(&self, share: Share) -> Timestamp {
        if share <= self.from {
            return self.start;
        }
        let (from, all) = (i64::from(self.from.0), i64::from(Share::ALL.0));
        let part = (i64::from(share.0) - from) * self.length.as_secs();
        let passed = (part + all - from - 1) / (all - from); // rounded up
        let passed = SignedDuration::from_secs(passed);
        self.start.saturating_add(passed).unwrap_or(Timestamp::MAX)
    }
}

/// `<RFC 3339> <hours>h[ from <percent>%]`
impl FromStr for Schedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > MAX_TEXT {
            return Err(format!("it has {} bytes, {EXPECTED}", text.len()));
        }
        let bad = || format!("{EXPECTED}, found {text:?}");
        let words: Vec<_> = text.split(' ').collect();
        let (start, hours, from) = match words[..] {
            [start, hours] => (start, hours, "0%"),
            [start, hours, "from", share] => (start, hours, share),
            _ => return Err(bad()),
        };
        // Also a `+` is read as a number.
        let hours = hours.strip_suffix('h').filter(|hours| is_number(hours));
        let hours: u32 = hours.and_then(|hours| hours.parse().ok()).ok_or_else(bad)?;
        if hours > MAX_HOURS {
            return Err(format!("{hours}h is too long, the limit is {MAX_HOURS}h"));
        }
        let schedule = Self {
            start: start.parse().map_err(|_| bad())?,
            length: SignedDuration::from_hours(hours.into()),
            from: from.parse().map_err(|()| bad())?,
        };
        match schedule.start.checked_add(schedule.length) {
            Ok(_) => Ok(schedule),
            Err(_) => Err(bad()),
        }
    }
}

impl Share {
    const NOBODY: Self = Self(0);
    const ALL: Self = Self(10_000);

    /// The smallest share of machines that this one belongs to.
    ///
    /// It is the smallest percentage with which `ConditionFraction=` holds (systemd:src/shared/condition.c,
    /// `condition_test_fraction()`; `tests/e2e/fractions.txt` has results of it).
    fn of(machine: &MachineId, tag: &str) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, machine.as_bytes());
        let hash = hmac::sign(&key, format!("systemd-fraction-{tag}").as_bytes());
        let first = hash.as_ref().first_chunk().copied().unwrap_or_default();
        let value = u64::from(u32::from_le_bytes(first));
        // UINT32_SCALE_FROM_PERMYRIAD() (systemd:src/basic/percent-util.h)
        let limit = |share: u64| (share * u64::from(u32::MAX) + 5_000) / 10_000;
        let estimate = value * 10_000 / u64::from(u32::MAX); // at most one too small
        let share = (estimate.max(1)..10_000).find(|share| value < limit(*share));
        // All machines belong to all, whatever their value is.
        share.map_or(Self::ALL, |share| Self(share as u16))
    }
}

/// `5%`, `0.25%`: at most two decimals, as systemd reads it.
impl FromStr for Share {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let number = text.strip_suffix('%').ok_or(())?;
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        if !is_number(whole) || !is_number(decimals) || decimals.len() > 2 {
            return Err(());
        }
        let whole: u16 = whole.parse().map_err(|_| ())?;
        let hundredths: u16 = format!("{decimals:0<2}").parse().map_err(|_| ())?;
        let share = whole
            .checked_mul(100)
            .and_then(|share| share.checked_add(hundredths));
        share
            .map(Self)
            .filter(|share| *share <= Self::ALL)
            .ok_or(())
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 100, self.0 % 100) {
            (0, hundredths @ 1..) => write!(f, "0.{hundredths:02} %"),
            (percent, _) => write!(f, "{percent} %"),
        }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

impl FromStr for RolloutSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "follow" => Ok(Self::Follow),
            "first" => Ok(Self::First),
            "last" => Ok(Self::Last),
            "ignore" => Ok(Self::Ignore),
            _ => Err(format!(
                "expected \"follow\", \"first\", \"last\" or \"ignore\", found {text:?}"
            )),
        }
    }
}

impl Rollout {
    /// Why a version is not offered at this moment, if it is not.
    ///
    /// One whose schedule cannot be read is refused: its publisher wanted something else than "at once".
    pub fn why_not(&self, annotated: &Annotated, tag: &Tag, now: Timestamp) -> Option<Skipped> {
        let schedule = match annotated {
            Some(_) if self.setting == RolloutSetting::Ignore => return None,
            Some(Ok(schedule)) => schedule,
            Some(Err(why)) => return Some(Skipped::refused(why)),
            None => return None,
        };
        let turn = self.turn(schedule, tag);
        if turn <= now {
            return None;
        }
        let why = if now < schedule.start {
            let start = schedule.start;
            format!("its rollout begins at {start:.0}, and this machine's clock says {now:.0}")
        } else {
            let share = schedule.share(now);
            let who = match (self.setting, &self.machine) {
                (RolloutSetting::Last, _) => {
                    "and rollout = \"last\" waits for all others".to_owned()
                }
                (_, Ok(_)) => "and this one comes later".to_owned(),
                (_, Err(why)) => format!("and this one is among the last, because {why}"),
            };
            format!("its rollout has reached {share} of the machines, {who}")
        };
        Some(Skipped::held_until(why, turn))
    }

    /// The schedule of a version for people and scripts, with the turn of this machine: `{"begins": "2026-12-01T06:00:00Z",
    /// "ends": "2026-12-03T06:00:00Z", "from": "5 %", "turn": "2026-12-02T14:10:31Z"}`, or `{"error": "…"}` for one that cannot
    /// be read. No turn: the setting is to ignore schedules.
    pub fn to_json(&self, schedule: &Result<Schedule, String>, tag: &Tag) -> Value {
        let schedule = match schedule {
            Ok(schedule) => schedule,
            Err(why) => return json!({ "error": why }),
        };
        let time = |time: Timestamp| format!("{time:.0}");
        let turn = self.turn(schedule, tag);
        json!({
            "begins": time(schedule.start),
            "ends": time(schedule.end()),
            "from": schedule.from.to_string(),
            "turn": (self.setting != RolloutSetting::Ignore).then(|| time(turn)),
        })
    }

    /// The moment from which on this machine is offered a version.
    fn turn(&self, schedule: &Schedule, tag: &Tag) -> Timestamp {
        match (self.setting, &self.machine) {
            (RolloutSetting::Ignore, _) => Timestamp::MIN,
            (RolloutSetting::First, _) => schedule.start,
            (RolloutSetting::Last, _) | (RolloutSetting::Follow, Err(_)) => schedule.end(),
            (RolloutSetting::Follow, Ok(machine)) => {
                let version = comparable(tag.as_str());
                let tag = format!("{}:{version}", self.source);
                schedule.reaches(Share::of(machine, &tag))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    const TAG: &str = "ghcr.io/acme/k8s:1.31.3";

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn machine(n: usize) -> MachineId {
        let hash = Digest::of(format!("machine {n}").as_bytes()).hex();
        hash[..32].parse().unwrap()
    }

    fn rollout(setting: RolloutSetting, machine: Result<MachineId, String>) -> Rollout {
        Rollout {
            setting,
            source: "ghcr.io/acme/k8s".to_owned(),
            machine,
        }
    }

    /// The first lines of the file say how systemd was asked.
    #[test]
    fn a_machine_is_where_systemd_has_it() {
        let table = include_str!("../tests/e2e/fractions.txt");
        let rows: Vec<_> = table
            .lines()
            .filter(|line| !line.starts_with('#'))
            .collect();
        assert_eq!(rows.len(), 200);
        for row in rows {
            let mut words = row.split(' ');
            let mut word = || words.next().unwrap();
            let (id, tag, share) = (word(), word(), word());
            assert_eq!(
                Share::of(&id.parse().unwrap(), tag).0.to_string(),
                share,
                "{row}"
            );
        }
    }

    #[test]
    fn of_many_machines_each_share_has_its_part() {
        let shares: Vec<_> = (0..10_000).map(|n| Share::of(&machine(n), TAG)).collect();
        for percent in [5, 25, 50, 100] {
            let taken = shares
                .iter()
                .filter(|share| share.0 <= percent * 100)
                .count();
            let off = taken as f64 / 100.0 - f64::from(percent);
            assert!(off.abs() < 1.5, "{taken} of 10000 at {percent} %");
        }
        assert!(shares.iter().all(|share| (1..=10_000).contains(&share.0)));
    }

    #[test]
    fn other_machines_are_first_for_another_version() {
        let first = |tag: &str| -> Vec<_> {
            let is_first = |n: &usize| Share::of(&machine(*n), tag).0 <= 1000;
            (0..1000).filter(is_first).collect()
        };
        let (one, other) = (first(TAG), first("ghcr.io/acme/k8s:1.31.4"));
        let both = one.iter().filter(|n| other.contains(n)).count();
        assert!(
            both < one.len() / 3,
            "{both} of {} are first again",
            one.len()
        );
    }

    #[test]
    fn a_schedule_is_a_start_a_number_of_hours_and_perhaps_a_share() {
        for (text, hours, from) in [
            ("2026-12-01T06:00:00Z 48h", 48, 0),
            ("2026-12-01T07:00:00+01:00 48h", 48, 0),
            ("2026-12-01T06:00:00Z 48h from 5%", 48, 500),
            ("2026-12-01T06:00:00Z 0h", 0, 0),
            ("2026-12-01T06:00:00Z 8784h from 0.5%", 8784, 50),
            ("2026-12-01T06:00:00Z 1h from 12.34%", 1, 1234),
            ("2026-12-01T06:00:00Z 1h from 100%", 1, 10_000),
        ] {
            let expected = Schedule {
                start: at("2026-12-01T06:00:00Z"),
                length: SignedDuration::from_hours(hours),
                from: Share(from),
            };
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for bad in [
            "",
            "48h",
            "2026-12-01T06:00:00Z",
            "2026-12-01T06:00:00 48h",
            "2026-12-01 48h",
            "tomorrow 48h",
            "2026-12-01T06:00:00Z 48",
            "2026-12-01T06:00:00Z -48h",
            "2026-12-01T06:00:00Z +48h",
            "2026-12-01T06:00:00Z 1.5h",
            "2026-12-01T06:00:00Z 2d",
            "2026-12-01T06:00:00Z h",
            "2026-12-01T06:00:00Z 8785h",
            "2026-12-01T06:00:00Z 99999999999h",
            "9999-12-30T00:00:00Z 48h",
            "2026-12-01T06:00:00Z  48h",
            "2026-12-01T06:00:00Z 48h ",
            "2026-12-01T06:00:00Z 48h from",
            "2026-12-01T06:00:00Z 48h from 5",
            "2026-12-01T06:00:00Z 48h from 101%",
            "2026-12-01T06:00:00Z 48h from 100.01%",
            "2026-12-01T06:00:00Z 48h from 5.001%",
            "2026-12-01T06:00:00Z 48h from 5.%",
            "2026-12-01T06:00:00Z 48h from -5%",
            "2026-12-01T06:00:00Z 48h from 70000%",
            "2026-12-01T06:00:00Z 48h to 5%",
            "2026-12-01T06:00:00Z 48h from 5% to 50%",
            &format!("2026-12-01T06:00:00Z {}48h", "0".repeat(100)),
        ] {
            assert!(bad.parse::<Schedule>().is_err(), "{bad:?} was accepted");
        }
    }

    /// The turn is the first second at which `ConditionFraction=` with the share of that moment holds.
    #[test]
    fn a_turn_comes_when_the_share_reaches_the_machine_and_nobody_is_in_and_out_again() {
        for text in [
            "2026-12-01T06:00:00Z 1h",
            "2026-12-01T06:00:00Z 3h from 5%",
            "2026-12-01T06:00:00Z 48h from 33.33%",
            "2026-12-01T06:00:00Z 8784h from 99.99%",
            "2026-12-01T06:00:00Z 7h from 100%",
            "2026-12-01T06:00:00Z 0h",
        ] {
            let schedule: Schedule = text.parse().unwrap();
            let second = SignedDuration::from_secs(1);
            assert_eq!(
                schedule.share(schedule.start - second),
                Share::NOBODY,
                "{text}"
            );
            for share in (0..=10_000).map(Share) {
                let turn = schedule.reaches(share);
                assert!(schedule.share(turn) >= share, "{text}: {share:?} at {turn}");
                assert!((schedule.start..=schedule.end()).contains(&turn), "{text}");
                let before = schedule.share(turn - second);
                assert!(
                    before < share || before == Share::NOBODY,
                    "{text}: {share:?}"
                );
            }
            assert_eq!(schedule.share(schedule.end()), Share::ALL, "{text}");
            let minutes = (-12..48).map(|n| schedule.start + SignedDuration::from_mins(n * 10));
            let offered = |now| {
                let annotated = Some(Ok(schedule));
                let tag = "1.31.3".parse().unwrap();
                let is_offered = |n: &usize| {
                    let rollout = rollout(RolloutSetting::Follow, Ok(machine(*n)));
                    rollout.why_not(&annotated, &tag, now).is_none()
                };
                (0..20).filter(is_offered).collect::<Vec<_>>()
            };
            let mut before = Vec::new();
            for now in minutes {
                let machines = offered(now);
                assert!(
                    before.iter().all(|n| machines.contains(n)),
                    "{text} at {now}"
                );
                before = machines;
            }
        }
    }

    #[test]
    fn a_version_is_held_back_with_its_reason_until_its_turn() {
        use RolloutSetting::{First, Follow, Ignore, Last};
        let schedule = "2026-12-01T06:00:00Z 48h from 5%";
        // 44.55 % by systemd, in tests/e2e/fractions.txt for this tag.
        let known = || "0d53b8c34749f9b28be69d288054d380".parse::<MachineId>();
        let unknown = || "uninitialized".parse::<MachineId>();
        let (end, turn) = ("2026-12-03T06:00:00Z", "2026-12-02T01:59:00Z");
        let begins = |clock: &str| {
            format!(
                "its rollout begins at 2026-12-01T06:00:00Z, and this machine's clock says {clock}"
            )
        };
        let (in_1970, day) = ("1970-01-01T00:01:00Z", "2026-12-02T00:00:00Z");
        let reached = |share: &str, who: &str| {
            format!("its rollout has reached {share} of the machines, and {who}")
        };
        let later = "this one comes later";
        let last = "this one is among the last, because has no ID, but \"uninitialized\"";
        for (setting, machine, now, expected) in [
            (Follow, known(), in_1970, Some((begins(in_1970), turn))),
            (Follow, unknown(), in_1970, Some((begins(in_1970), end))),
            (
                First,
                known(),
                in_1970,
                Some((begins(in_1970), "2026-12-01T06:00:00Z")),
            ),
            (Last, known(), in_1970, Some((begins(in_1970), end))),
            (Ignore, known(), in_1970, None),
            (First, unknown(), "2026-12-01T06:00:00Z", None),
            (
                Follow,
                known(),
                "2026-12-01T06:00:00Z",
                Some((reached("5 %", later), turn)),
            ),
            (
                Follow,
                known(),
                "2026-12-02T01:58:59Z",
                Some((reached("44 %", later), turn)),
            ),
            (Follow, known(), turn, None),
            (Follow, unknown(), day, Some((reached("40 %", last), end))),
            (
                Last,
                known(),
                day,
                Some((
                    reached("40 %", "rollout = \"last\" waits for all others"),
                    end,
                )),
            ),
            (Follow, unknown(), end, None),
            (Last, known(), end, None),
        ] {
            let annotated = Some(schedule.parse());
            let rollout = Rollout {
                source: "ghcr.io/acme/kubernetes".to_owned(),
                ..rollout(setting, machine)
            };
            for tag in ["1.31.3", "v1.31.3-x86-64", "1.31.3-arm64"] {
                let found = rollout.why_not(&annotated, &tag.parse().unwrap(), at(now));
                let found = found.map(|one| (one.why, one.until));
                let expected = expected.clone().map(|(why, until)| (why, Some(at(until))));
                assert_eq!(found, expected, "{setting:?} at {now}");
            }
        }
    }

    #[test]
    fn a_schedule_that_cannot_be_read_is_never_at_once() {
        let annotations =
            |text: &str| Annotations::from([(ANNOTATION.to_owned(), text.to_owned())]);
        assert_eq!(Schedule::annotated(&Annotations::new()), None);
        let annotated = Schedule::annotated(&annotations("soon"));
        for (setting, is_offered) in [
            (RolloutSetting::Follow, false),
            (RolloutSetting::First, false),
            (RolloutSetting::Last, false),
            (RolloutSetting::Ignore, true),
        ] {
            let rollout = rollout(setting, Ok(machine(0)));
            let found = rollout.why_not(&annotated, &"1".parse().unwrap(), Timestamp::MAX);
            let expected = Skipped::refused(
                "its annotation io.github.sysext-oci-proxy.rollout is no schedule: expected a start and hours, \
                 \"2026-12-01T06:00:00Z 48h\", and optionally \" from 5%\", found \"soon\"; rollout = \"ignore\" in the settings of \
                 the repository offers it at once",
            );
            assert_eq!(found, Some(expected).filter(|_| !is_offered), "{setting:?}");
        }
    }
}
