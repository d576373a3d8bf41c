//! Decides which image is flattened next. No I/O.
//!
//! Images of one registry, which may be slow or have very many, never take all places.

/// Most images in work at once. Each spends most of the time waiting for its registry.
const MAX_ACTIVE: usize = 8;
/// Most images of one registry in work at once.
const MAX_ACTIVE_OF_ONE: usize = 2;
/// Most images of one registry, in work or waiting.
pub const MAX_OF_ONE: usize = 16;
/// Most images in work or waiting.
pub const MAX: usize = 64;

/// The place that an image takes in the queue.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// The registry or layout of its layers.
    pub from: String,
    /// The size of its layers on disk, in bytes.
    pub size: u64,
}

/// Whether another image of this registry may wait.
pub fn has_room<'a>(from: &str, all: impl Iterator<Item = &'a Claim> + Clone) -> bool {
    let own = all.clone().filter(|claim| claim.from == from);
    all.count() < MAX && own.count() < MAX_OF_ONE
}

/// The index of the image to begin next: the first one of the registry with the fewest images in work. `None` if another
/// has to be done first.
///
/// `disk`: most bytes for the layers of one registry's images; a single larger image is begun all the same. All
/// registries together may take twice as many.
pub fn next<'a>(
    waiting: impl Iterator<Item = &'a Claim>,
    active: &[Claim],
    disk: u64,
) -> Option<usize> {
    if active.len() >= MAX_ACTIVE {
        return None;
    }
    let taken = |is_counted: &dyn Fn(&Claim) -> bool| {
        let sizes = active.iter().filter(|claim| is_counted(claim));
        sizes.fold(0, |sum: u64, claim| {
            sum.saturating_add(claim.size.min(disk))
        })
    };
    let all = taken(&|_| true);
    let candidates = waiting.enumerate().filter_map(|(n, claim)| {
        let is_own = |other: &Claim| other.from == claim.from;
        let size = claim.size.min(disk);
        let count = active.iter().filter(|other| is_own(other)).count();
        let fits = all.saturating_add(size) <= disk.saturating_mul(2)
            && (count == 0 || taken(&is_own).saturating_add(size) <= disk);
        (fits && count < MAX_ACTIVE_OF_ONE).then_some((count, n))
    });
    candidates.min().map(|(_, n)| n)
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
