//! Files on offer → the shape of an update: which files belong together, and the target of each. No I/O.

use clap::ValueEnum;

use super::named::{Extension, Kind, Named, begins_with_digit};
use super::patterns::{self, Rules, Written};
use crate::name::FileName;
use crate::sysupdate::SystemdVersion;
use crate::version;

/// The first version of systemd-sysupdate that unpacks zstd, as far as is known: 257 does not, 262 does.
const KNOWS_ZSTD: SystemdVersion = SystemdVersion(258);

/// The shape of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// A system extension: an image or a directory in /var/lib/extensions
    Sysext,
    /// A configuration extension: the same in /var/lib/confexts
    Confext,
    /// A portable service: an image or a directory in /var/lib/portables
    Portable,
    /// A kernel and its initrd, in the boot partition
    Kernel,
    /// A unified kernel image, in /EFI/Linux of the boot partition
    Uki,
    /// Partitions of an OS, and its unified kernel image
    Os,
}

/// The data of one transfer file.
#[derive(Clone, Debug)]
pub struct Part {
    pub becomes: Becomes,
    /// The common beginning of the names.
    pub base: String,
    pub patterns: Vec<Written>,
    /// The versions that the patterns match, in no order.
    pub versions: Vec<String>,
}

/// The role of a file on this machine.
#[derive(Clone, Debug, PartialEq)]
pub enum Becomes {
    Image(Extension),
    Tree(Extension),
    /// A file beside an image, by its suffix.
    Companion(Extension, String),
    Partition(&'static str),
    Uki,
    Kernel,
    Initrd,
}

/// The shape of an update, and its files.
#[derive(Clone, Debug)]
pub struct Plan {
    pub parts: Vec<Part>,
    /// Names of files for this machine that no pattern matches, and why.
    pub left_out: Vec<(String, String)>,
}

/// The facts about the files, and the options of the command.
pub struct Wish<'a> {
    pub rules: Rules,
    pub shape: Option<Shape>,
    /// Only files that are named like this one.
    pub like: Option<&'a str>,
    /// The kind by the extension-release of the newest image, if it was read.
    pub says: Option<Result<Extension, String>>,
}

impl Shape {
    /// As on the command line.
    pub fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn of(extension: Extension) -> Self {
        match extension {
            Extension::Sysext => Self::Sysext,
            Extension::Confext => Self::Confext,
            Extension::Portable => Self::Portable,
        }
    }

    fn extension(self) -> Option<Extension> {
        match self {
            Self::Sysext => Some(Extension::Sysext),
            Self::Confext => Some(Extension::Confext),
            Self::Portable => Some(Extension::Portable),
            Self::Kernel | Self::Uki | Self::Os => None,
        }
    }

    /// Whether a file may belong to it.
    fn takes(self, kind: &Kind) -> bool {
        match kind {
            Kind::Image(None) | Kind::Tree => self.extension().is_some(),
            Kind::Image(known) => self.extension() == *known,
            Kind::Partition(_) => self == Self::Os,
            Kind::Uki => matches!(self, Self::Uki | Self::Os),
            Kind::Kernel | Kind::Initrd => self == Self::Kernel,
            Kind::Companion(_) | Kind::Other => false,
        }
    }
}

/// The file that has to say which kind of extension it is, as its name does not.
pub fn undecided<'a>(offers: &'a [Named], wish: &Wish<'_>) -> Option<&'a Named> {
    let newest = newest(offers, wish);
    let is_open = |kind: &Kind| matches!(kind, Kind::Image(None) | Kind::Tree);
    let is_extension = newest.iter().all(|file| {
        matches!(
            file.kind,
            Kind::Image(_) | Kind::Tree | Kind::Companion(_) | Kind::Other
        )
    });
    let mut open = newest.into_iter().filter(|file| is_open(&file.kind));
    let first = open.next().filter(|_| wish.shape.is_none() && is_extension);
    first.filter(|_| open.next().is_none())
}

/// The plan for files on offer. `all`: every name in the list, also of other machines. The error says what was found.
pub fn plan(offers: &[Named], all: &[&FileName], wish: &Wish<'_>) -> Result<Plan, String> {
    let newest = newest(offers, wish);
    let shapes = match wish.shape {
        Some(shape) => vec![shape],
        None => shapes(&newest, wish)?,
    };
    let mut parts = Vec::new();
    for shape in &shapes {
        parts.extend(parts_of(*shape, &newest, offers, all, wish)?);
    }
    let is_matched = |file: &Named| {
        let mut parts = parts.iter();
        parts.any(|part| patterns::match_name(&part.patterns, &file.name, wish.rules))
    };
    let is_out = |file: &&Named| !is_matched(file) || !is_readable(file, wish.rules);
    let unmatched = offers.iter().filter(is_out);
    let has_numbers = newest.iter().any(|file| begins_with_digit(&file.version));
    let left_out = unmatched
        .map(|file| {
            (
                file.name.clone(),
                why_left_out(file, &shapes, has_numbers, wish),
            )
        })
        .collect();
    Ok(Plan { parts, left_out })
}

/// The files of the newest version that can be installed.
fn newest<'a>(offers: &'a [Named], wish: &Wish<'_>) -> Vec<&'a Named> {
    let like = wish
        .like
        .and_then(|name| offers.iter().find(|one| one.name == name));
    let is_like = |file: &&Named| match like {
        None => true,
        Some(like) => {
            let is_companion = matches!(file.kind, Kind::Companion(_));
            file.base == like.base
                && file.rest == like.rest
                && (is_companion || file.kind == like.kind)
        }
    };
    let usable = || {
        let usable = offers.iter().filter(|file| is_readable(file, wish.rules));
        usable.filter(is_like)
    };
    let images = || usable().filter(|file| !matches!(file.kind, Kind::Companion(_) | Kind::Other));
    let newest = images().max_by(|one, other| version::compare(&one.version, &other.version));
    let Some(newest) = newest else {
        return Vec::new();
    };
    usable()
        .filter(|file| version::compare(&file.version, &newest.version).is_eq())
        .collect()
}

fn is_readable(file: &Named, rules: Rules) -> bool {
    !file.is_zstd || rules.systemd >= KNOWS_ZSTD
}

/// The shapes that the newest version has: one, or those of extensions that come together.
fn shapes(newest: &[&Named], wish: &Wish<'_>) -> Result<Vec<Shape>, String> {
    let has = |is: fn(&Kind) -> bool| newest.iter().any(|file| is(&file.kind));
    let has_image = has(|kind| matches!(kind, Kind::Image(_) | Kind::Tree));
    let has_uki = has(|kind| *kind == Kind::Uki);
    let has_kernel = has(|kind| *kind == Kind::Kernel);
    let has_initrd = has(|kind| *kind == Kind::Initrd);
    let has_boot = has_uki || has_kernel || has_initrd;
    if has(|kind| matches!(kind, Kind::Partition(_))) {
        return Ok(vec![Shape::Os]);
    }
    if has_kernel && has_initrd && !has_uki && !has_image {
        return Ok(vec![Shape::Kernel]);
    }
    if has_uki && !has_kernel && !has_initrd && !has_image {
        return Ok(vec![Shape::Uki]);
    }
    if !has_image || has_boot {
        return Err(ambiguous(newest, None));
    }
    let mut found = Vec::new();
    for file in newest {
        let extension = match (&file.kind, &wish.says) {
            (Kind::Image(Some(extension)), _) => *extension,
            (Kind::Image(None) | Kind::Tree, Some(Ok(extension))) => *extension,
            (Kind::Image(None) | Kind::Tree, Some(Err(why))) => {
                return Err(ambiguous(newest, Some(why)));
            }
            (Kind::Image(None) | Kind::Tree, None) => return Err(ambiguous(newest, None)),
            _ => continue,
        };
        let shape = Shape::of(extension);
        if !found.contains(&shape) {
            found.push(shape);
        }
    }
    Ok(found)
}

/// The files of the newest version, the reason why they are of no shape, and the shapes that they may have.
fn ambiguous(newest: &[&Named], why: Option<&str>) -> String {
    let names: Vec<_> = newest.iter().map(|file| file.name.as_str()).collect();
    let can_be = |shape: &Shape| match shape {
        Shape::Kernel => [Kind::Kernel, Kind::Initrd]
            .iter()
            .all(|kind| newest.iter().any(|file| file.kind == *kind)),
        Shape::Os => newest
            .iter()
            .any(|file| matches!(file.kind, Kind::Partition(_))),
        _ => newest.iter().any(|file| shape.takes(&file.kind)),
    };
    let possible: Vec<_> = Shape::value_variants()
        .iter()
        .filter(|shape| can_be(shape))
        .map(|shape| shape.name())
        .collect();
    let what = match names.as_slice() {
        [] => "no file that systemd-sysupdate could install is on offer".to_owned(),
        names => format!("the newest version has {}", names.join(", ")),
    };
    let why = why.map_or_else(String::new, |why| format!(": {why}"));
    match possible.as_slice() {
        [] => format!("{what}{why}; no shape has such files"),
        possible => format!(
            "{what}{why}; --shape selects what to install: {}",
            possible.join(", ")
        ),
    }
}

/// The parts of a shape: each file of the newest version that belongs to it, with its older versions.
fn parts_of(
    shape: Shape,
    newest: &[&Named],
    offers: &[Named],
    all: &[&FileName],
    wish: &Wish<'_>,
) -> Result<Vec<Part>, String> {
    let taken: Vec<_> = newest
        .iter()
        .copied()
        .filter(|file| shape.takes(&file.kind))
        .collect();
    // An extension that says its kind leaves those that do not to others.
    let is_named = |file: &&Named| matches!(file.kind, Kind::Image(Some(_)));
    let has_named = taken.iter().any(is_named);
    let taken: Vec<_> = taken
        .into_iter()
        .filter(|file| !has_named || is_named(file))
        .collect();
    if taken.is_empty() || shape == Shape::Kernel && taken.len() < 2 {
        return Err(format!(
            "{}; no file is of the shape {}",
            ambiguous(newest, None),
            shape.name()
        ));
    }
    let mut parts = Vec::new();
    for file in &taken {
        let same = |other: &&&Named| other.kind.is_same(&file.kind);
        if let [first, second, ..] = taken.iter().filter(same).collect::<Vec<_>>()[..] {
            return Err(format!(
                "version {} has both {} and {}; select one of them by REPOSITORY/{}",
                file.version, first.name, second.name, first.name
            ));
        }
        parts.push(part(file, becomes(&file.kind, shape), offers, all, wish)?);
    }
    if let Some(extension) = shape.extension()
        && let [image] = taken[..]
    {
        parts.extend(companions(image, extension, newest, offers, all, wish));
    }
    parts.sort_by_key(|part| part.becomes.order());
    Ok(parts)
}

impl Kind {
    /// Whether two files would become the same.
    fn is_same(&self, other: &Self) -> bool {
        let is_extension = |kind: &Self| matches!(kind, Self::Image(_) | Self::Tree);
        self == other || is_extension(self) && is_extension(other)
    }
}

fn becomes(kind: &Kind, shape: Shape) -> Becomes {
    let extension = shape.extension().unwrap_or(Extension::Sysext);
    match kind {
        Kind::Image(_) | Kind::Other => Becomes::Image(extension),
        Kind::Tree => Becomes::Tree(extension),
        Kind::Partition(name) => Becomes::Partition(name),
        Kind::Uki => Becomes::Uki,
        Kind::Kernel => Becomes::Kernel,
        Kind::Initrd => Becomes::Initrd,
        Kind::Companion(suffix) => Becomes::Companion(extension, suffix.clone()),
    }
}

impl Becomes {
    /// Whether systemd-sysupdate has to know which version of it runs.
    pub fn is_of_os(&self) -> bool {
        matches!(self, Self::Partition(_) | Self::Uki)
    }

    /// Their order: the last one, without which a machine does not boot a version, comes when all others are there.
    fn order(&self) -> usize {
        match self {
            Self::Partition(name) if name.ends_with("-sig") => 0,
            Self::Partition(name) if name.ends_with("-verity") => 1,
            Self::Partition(_) => 2,
            Self::Initrd => 3,
            Self::Kernel | Self::Uki => 4,
            Self::Companion(..) => 5,
            Self::Image(_) | Self::Tree(_) => 6,
        }
    }
}

fn part(
    file: &Named,
    becomes: Becomes,
    offers: &[Named],
    all: &[&FileName],
    wish: &Wish<'_>,
) -> Result<Part, String> {
    let of_kind: Vec<_> = offers
        .iter()
        .filter(|other| is_readable(other, wish.rules))
        .filter(|other| {
            (&other.kind, &other.base, &other.rest) == (&file.kind, &file.base, &file.rest)
        })
        .collect();
    let patterns = patterns::choose(&of_kind, all, wish.rules)?;
    let is_matched = |file: &&&Named| patterns::match_name(&patterns, &file.name, wish.rules);
    let versions = of_kind.iter().filter(is_matched);
    let versions = versions.map(|file| file.version.clone()).collect();
    Ok(Part {
        becomes,
        base: file.base.clone(),
        versions,
        patterns,
    })
}

/// The files beside an image; none if not all of them can be matched, for they count together.
fn companions(
    image: &Named,
    extension: Extension,
    newest: &[&Named],
    offers: &[Named],
    all: &[&FileName],
    wish: &Wish<'_>,
) -> Vec<Part> {
    let beside = newest.iter().filter(|file| {
        matches!(file.kind, Kind::Companion(_))
            && file.base == image.base
            && file.rest == image.rest
    });
    let parts: Result<Vec<_>, String> = beside
        .map(|file| {
            let Kind::Companion(suffix) = &file.kind else {
                return Err(String::new());
            };
            part(
                file,
                Becomes::Companion(extension, suffix.clone()),
                offers,
                all,
                wish,
            )
        })
        .collect();
    parts.unwrap_or_default()
}

fn why_left_out(file: &Named, shapes: &[Shape], has_numbers: bool, wish: &Wish<'_>) -> String {
    let names: Vec<_> = shapes.iter().map(|shape| shape.name()).collect();
    if !is_readable(file, wish.rules) {
        format!("systemd {} does not unpack zstd", wish.rules.systemd.0)
    } else if has_numbers && !begins_with_digit(&file.version) {
        format!(
            "{} is a name, and cannot be compared with versions",
            file.version
        )
    } else if !shapes.iter().any(|shape| shape.takes(&file.kind))
        && !matches!(file.kind, Kind::Companion(_))
    {
        format!("it is not part of {}", names.join(" and "))
    } else {
        "no pattern matches it alone, or another file has its version".to_owned()
    }
}
