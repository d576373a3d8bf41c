//! Why a pattern matches none of the names on offer: the name that is nearest to it, and the difference. No I/O.

use super::SystemdVersion;
use super::pattern::{Part, Pattern};

/// Most names that are compared: one comparison takes time with the length of both.
const MAX_NAMES: usize = 200;
/// The cost of a character that only the name has, that only the pattern has, and of one in place of another.
const BESIDES: usize = 2;
const LACKING: usize = 3;
const REPLACED: usize = 4;
/// The cost of a difference, besides that of its characters.
const BEGUN: usize = 4;

/// A name that a pattern nearly matches.
#[derive(Clone, Debug, PartialEq)]
pub struct Nearest<'a> {
    pub name: &'a str,
    /// The difference; `None` if the name only has something in a field that cannot be there.
    pub difference: Option<Difference>,
}

/// The first place in which a name differs from a pattern.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The text of the pattern that the name lacks; perhaps empty.
    pub expected: String,
    /// The text that the name has in its place; perhaps empty.
    pub found: String,
}

/// The name that is nearest to one of these patterns. Of equals the first.
pub fn nearest<'a>(
    patterns: &[Pattern],
    names: impl Iterator<Item = &'a str>,
) -> Option<Nearest<'a>> {
    let compared = names.take(MAX_NAMES).flat_map(|name| {
        let alignments = patterns.iter().map(|pattern| align(&signs(pattern), name));
        alignments.map(move |(cost, difference)| (cost, Nearest { name, difference }))
    });
    compared
        .min_by_key(|(cost, _)| *cost)
        .map(|(_, nearest)| nearest)
}

/// Why the pattern does not match a name that has all its text.
pub fn why_no_field(systemd: SystemdVersion) -> String {
    format!(
        "which has a field that systemd {} does not take: a version has letters, digits and `{}`, and ends before the \
         first occurrence of what follows it",
        systemd.0,
        systemd.version_characters()
    )
}

/// A character of a pattern.
#[derive(Clone, Copy)]
enum Sign {
    Literal(char),
    /// A field: any text, but not none.
    Field,
}

fn signs(pattern: &Pattern) -> Vec<Sign> {
    let mut signs = Vec::new();
    for part in &pattern.parts {
        match part {
            Part::Literal(text) => signs.extend(text.chars().map(Sign::Literal)),
            Part::Slash => signs.push(Sign::Literal('/')),
            Part::Field(_) => signs.push(Sign::Field),
        }
    }
    signs
}

/// The edit distance between a pattern and a name, and the first difference on the shortest way. A difference has a cost
/// of its own, so that one is preferred to several.
fn align(signs: &[Sign], name: &str) -> (usize, Option<Difference>) {
    let letters: Vec<char> = name.chars().collect();
    // From each pair of places to the end.
    let mut costs = Costs::new(signs.len(), letters.len());
    for at in (0..=signs.len()).rev() {
        for place in (0..=letters.len()).rev() {
            let steps = steps(signs.get(at), letters.get(place));
            for is_in_difference in [false, true] {
                let ways = steps
                    .iter()
                    .map(|step| costs.of(at, place, is_in_difference, step));
                costs.set(at, place, is_in_difference, ways.min().unwrap_or(0));
            }
        }
    }
    let difference = first_difference(signs, &letters, &costs);
    (costs.get(0, 0, false), difference)
}

/// The costs of the ways from each pair of places to the end, in a difference and outside.
struct Costs {
    width: usize,
    costs: Vec<usize>,
}

impl Costs {
    fn new(signs: usize, letters: usize) -> Self {
        let width = letters + 1;
        let costs = vec![0; (signs + 1) * width * 2];
        Self { width, costs }
    }

    fn at(&self, at: usize, place: usize, is_in_difference: bool) -> usize {
        (at * self.width + place) * 2 + usize::from(is_in_difference)
    }

    fn get(&self, at: usize, place: usize, is_in_difference: bool) -> usize {
        self.costs[self.at(at, place, is_in_difference)]
    }

    fn set(&mut self, at: usize, place: usize, is_in_difference: bool, cost: usize) {
        let index = self.at(at, place, is_in_difference);
        self.costs[index] = cost;
    }

    /// The cost of the way that begins with this step.
    fn of(&self, at: usize, place: usize, is_in_difference: bool, step: &Step) -> usize {
        let differs = step.cost > 0;
        let begun = if differs && !is_in_difference {
            BEGUN
        } else {
            0
        };
        step.cost + begun + self.get(at + step.signs, place + step.letters, differs)
    }
}

/// A step on the way through a pattern and a name: so many signs and letters further.
struct Step {
    signs: usize,
    letters: usize,
    cost: usize,
}

/// The possible steps; of equally cheap ones the first is taken.
fn steps(sign: Option<&Sign>, letter: Option<&char>) -> Vec<Step> {
    let step = |signs, letters, cost| Step {
        signs,
        letters,
        cost,
    };
    match (sign, letter) {
        (None, None) => vec![],
        (None, Some(_)) => vec![step(0, 1, BESIDES)],
        (Some(_), None) => vec![step(1, 0, LACKING)],
        // A letter of the field, of several or the last one.
        (Some(Sign::Field), Some(_)) => vec![step(0, 1, 0), step(1, 1, 0), step(1, 0, LACKING)],
        (Some(Sign::Literal(sign)), Some(letter)) => {
            let cost = if sign == letter { 0 } else { REPLACED };
            vec![step(1, 1, cost), step(1, 0, LACKING), step(0, 1, BESIDES)]
        }
    }
}

fn first_difference(signs: &[Sign], letters: &[char], costs: &Costs) -> Option<Difference> {
    let (mut at, mut place) = (0, 0);
    let mut difference: Option<Difference> = None;
    loop {
        let is_in_difference = difference.is_some();
        let here = costs.get(at, place, is_in_difference);
        let steps = steps(signs.get(at), letters.get(place));
        let is_shortest = |step: &Step| costs.of(at, place, is_in_difference, step) == here;
        let Some(step) = steps.into_iter().find(is_shortest) else {
            return difference;
        };
        if step.cost > 0 {
            let found = difference.get_or_insert(Difference {
                expected: String::new(),
                found: String::new(),
            });
            if step.signs > 0 {
                match signs[at] {
                    Sign::Literal(sign) => found.expected.push(sign),
                    Sign::Field => found.expected.push_str("@v"),
                }
            }
            found.found.extend(&letters[place..place + step.letters]);
        } else if difference.is_some() {
            return difference;
        }
        at += step.signs;
        place += step.letters;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_told_with_what_it_lacks() {
        for (patterns, names, expected) in [
            (
                "tools-@v-x86-64.raw",
                "tools-v1.raw",
                Some(("tools-v1.raw", "-x86-64", "")),
            ),
            (
                "tools-@v-13.raw",
                "tools-v1.raw",
                Some(("tools-v1.raw", "-13", "")),
            ),
            (
                "tools-@v.raw",
                "tools-v1-x86-64.raw.zst",
                Some(("tools-v1-x86-64.raw.zst", "", ".zst")),
            ),
            (
                "tools_@v.raw",
                "tools-v1.raw",
                Some(("tools-v1.raw", "_", "")),
            ),
            (
                "tool-@v.raw",
                "tools-v1.raw",
                Some(("tools-v1.raw", "", "s")),
            ),
            (
                "tools-@v.efi",
                "tools-v1.raw",
                Some(("tools-v1.raw", ".efi", "")),
            ),
            (
                "tools-@v.raw",
                "tools-v1.tar.gz tools.raw",
                Some(("tools.raw", "-@v", "")),
            ),
            (
                "tools-@v.raw",
                "k8s-v1.efi tools-v1-arm64.img",
                Some(("tools-v1-arm64.img", ".raw", "")),
            ),
            (
                "a-@v.raw k8s-@v.efi",
                "k8s-v1.ef",
                Some(("k8s-v1.ef", "i", "")),
            ),
            ("tools-@v.raw", "", None),
        ] {
            let systemd = SystemdVersion(262);
            let parse = |text| Pattern::parse(text, systemd).unwrap();
            let patterns: Vec<_> = patterns.split(' ').map(parse).collect();
            let found = nearest(&patterns, names.split_whitespace());
            let found = found.map(|found| {
                let Difference {
                    expected,
                    found: instead,
                } = found.difference.unwrap();
                (found.name, expected, instead)
            });
            let expected =
                expected.map(|(name, lacks, has)| (name, lacks.to_owned(), has.to_owned()));
            assert_eq!(found, expected, "{names}");
        }
    }

    #[test]
    fn a_name_with_all_the_text_has_no_difference() {
        let systemd = SystemdVersion(257);
        let pattern = Pattern::parse("tools-@v.raw", systemd).unwrap();
        let found = nearest(&[pattern], ["tools-1~rc1.raw"].into_iter());
        assert_eq!(
            found,
            Some(Nearest {
                name: "tools-1~rc1.raw",
                difference: None
            })
        );
        assert!(why_no_field(systemd).contains("systemd 257"));
    }
}
