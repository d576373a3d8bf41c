//! Which image is flattened next. No I/O.
//!
//! A registry that is slow, or has images without end, takes a share of the places and never all of them.

/// Images in work at once. Most of the time each only waits for its registry.
const MAX_ACTIVE: usize = 8;
/// Images of one registry in work at once.
const MAX_ACTIVE_OF_ONE: usize = 2;
/// Images of one registry, in work or waiting.
pub const MAX_OF_ONE: usize = 16;
/// Images in work or waiting.
pub const MAX: usize = 64;

/// What an image takes of the places.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// The registry that it is fetched from, or a layout.
    pub from: String,
    /// What its layers take on disk, in bytes.
    pub size: u64,
}

/// Is there room for one image more?
pub fn has_room<'a>(from: &str, all: impl Iterator<Item = &'a Claim>) -> bool {
    let (mut sum, mut own) = (0, 0);
    for claim in all {
        sum += 1;
        own += usize::from(claim.from == from);
    }
    sum < MAX && own < MAX_OF_ONE
}

/// The next one of those that wait to be begun, counted from the first that came: one whose registry has the
/// fewest in work. `None`: nothing can be begun before something is done.
///
/// `disk`: the layers of one registry's images take so many bytes at most, unless it is one image. All take twice
/// as many at most.
pub fn next<'a>(
    waiting: impl Iterator<Item = &'a Claim>,
    active: &[Claim],
    disk: u64,
) -> Option<usize> {
    if active.len() >= MAX_ACTIVE {
        return None;
    }
    let taken = |claims: &mut dyn Iterator<Item = &Claim>| {
        claims.fold(0, |sum: u64, claim| {
            sum.saturating_add(claim.size.min(disk))
        })
    };
    let all = taken(&mut active.iter());
    let mut best: Option<(usize, usize)> = None;
    for (n, claim) in waiting.enumerate() {
        let own = || active.iter().filter(|other| other.from == claim.from);
        let (count, size) = (own().count(), claim.size.min(disk));
        let has_disk = all.saturating_add(size) <= disk.saturating_mul(2)
            && (count == 0 || taken(&mut own()).saturating_add(size) <= disk);
        let is_better = best.is_none_or(|(_, fewest)| count < fewest);
        if count < MAX_ACTIVE_OF_ONE && has_disk && is_better {
            best = Some((n, count));
        }
    }
    best.map(|(n, _)| n)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a=5 b=7`: claims of these registries, of so many bytes.
    fn claims(text: &str) -> Vec<Claim> {
        let claim = |text: &str| {
            let (from, size) = text.split_once('=').unwrap();
            Claim {
                from: from.to_owned(),
                size: size.parse().unwrap(),
            }
        };
        text.split_whitespace().map(claim).collect()
    }

    #[test]
    fn no_registry_takes_all_places() {
        for (active, waiting, expected, why) in [
            ("", "", None, "nothing waits"),
            ("", "a=1 b=1", Some(0), "the first that came"),
            ("a=1", "a=1", Some(0), "a second of one registry"),
            (
                "a=1",
                "a=1 b=1",
                Some(1),
                "one that has none before one that has",
            ),
            ("a=1 a=1", "a=1", None, "no third of one registry"),
            ("a=1 a=1", "a=1 a=1 b=1 a=1", Some(2), "others pass it"),
            (
                "a=1 a=1 b=1 b=1 c=1 c=1 d=1 d=1",
                "e=1",
                None,
                "all are taken",
            ),
            (
                "a=60",
                "a=50 a=40",
                Some(1),
                "one registry's take no more than the disk",
            ),
            ("a=60", "a=50", None, "the same, and nothing else waits"),
            ("", "a=900", Some(0), "but a single one may"),
            ("a=900", "b=900", Some(0), "two of two, too"),
            ("a=900 b=900", "c=1", None, "no more than twice the disk"),
            ("a=900 b=99", "c=2 d=1", Some(1), "what still fits"),
        ] {
            let found = next(claims(waiting).iter(), &claims(active), 100);
            assert_eq!(found, expected, "{why}");
        }
    }

    #[test]
    fn so_many_wait_and_no_more() {
        let of = |from: &str, count: usize| {
            vec![
                Claim {
                    from: from.to_owned(),
                    size: 1
                };
                count
            ]
        };
        let full: Vec<_> = ["a", "b", "c", "d"]
            .into_iter()
            .flat_map(|from| of(from, MAX_OF_ONE))
            .collect();
        for (all, from, expected) in [
            (&[][..], "a", true),
            (&full[..MAX_OF_ONE - 1], "a", true),
            (&full[..MAX_OF_ONE], "a", false),
            (&full[..MAX_OF_ONE], "b", true),
            (&full[..MAX - 1], "e", true),
            (&full[..], "e", false),
        ] {
            assert_eq!(
                has_room(from, all.iter()),
                expected,
                "{} of {from}",
                all.len()
            );
        }
    }
}
