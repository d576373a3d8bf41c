//! Whether systemd-sysext finds what is installed: the place and the name of the link to the newest version, which has to
//! be that of the extension-release(5) inside.

use std::fs;
use std::path::{Component, Path, PathBuf};

use super::Update;
use super::mounts::Extensions;
use crate::cli::check::machine::Machine;
use crate::cli::check::report::{Finding, Report, Step};
use crate::dissect;
use crate::server::json::Overview;
use crate::sysupdate::{SystemdVersion, TargetKind, pattern};
use crate::version;

/// Where extensions are looked for (systemd: src/shared/discover-image.c).
const PLACES: [(&str, Extensions); 7] = [
    ("/etc/extensions", Extensions::System),
    ("/run/extensions", Extensions::System),
    ("/var/lib/extensions", Extensions::System),
    ("/run/confexts", Extensions::Configuration),
    ("/var/lib/confexts", Extensions::Configuration),
    ("/usr/local/lib/confexts", Extensions::Configuration),
    ("/usr/lib/confexts", Extensions::Configuration),
];
/// Places that old instructions name, and where nothing is looked for.
const NO_PLACES: [&str; 3] = [
    "/etc/systemd/extensions",
    "/usr/lib/extensions",
    "/opt/extensions",
];
/// The name of an image.
const RAW: &str = ".raw";
/// A directory of versions, of which the newest is merged.
const VERSIONED: &str = ".v";
/// Characters of versions that systemd 257 and 262 take differently in a directory of versions.
const AMBIGUOUS: [char; 2] = ['_', '+'];

/// The data that decide whether systemd-sysext finds an image.
struct Way<'a> {
    machine: &'a Machine,
    systemd: SystemdVersion,
    update: &'a Update,
}

/// Looks at the link of one transfer file, or at its directory if that is one of extensions.
pub fn check(
    report: &mut Report,
    machine: &Machine,
    systemd: SystemdVersion,
    update: &Update,
    overview: &Overview,
) {
    let target = &update.transfer.target;
    let Some(directory) = target.directory() else {
        return;
    };
    let way = Way {
        machine,
        systemd,
        update,
    };
    let finding = match &target.current_symlink {
        Some(link) => Some(way.linked(&normal(&directory.join(link)))),
        None if directory
            .extension()
            .is_some_and(|ending| ending == &VERSIONED[1..]) =>
        {
            Some(way.versioned(&normal(directory), overview))
        }
        None => place(directory).map(|_| unlinked(directory)),
    };
    if let Some(finding) = finding {
        report.push(finding.of(&target.path_at));
    }
}

/// An absolute path without `.` and `..`. Links are not followed.
fn normal(path: &Path) -> PathBuf {
    let mut found = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            // The root directory is its own parent.
            Component::ParentDir => {
                found.pop();
            }
            part => found.push(part),
        }
    }
    found
}

fn place(directory: &Path) -> Option<Extensions> {
    let place = PLACES
        .iter()
        .find(|(place, _)| directory == Path::new(place));
    place.map(|(_, extensions)| *extensions)
}

/// Each version in a directory of extensions is an extension of its own, by a name that is in no image.
fn unlinked(directory: &Path) -> Finding {
    let shown = directory.display();
    Finding::failed(
        Step::Link,
        format!("each file in {shown} is a separate extension, and its name has a version"),
        format!(
            "write Path=/var/lib/extensions.d and CurrentSymlink={shown}/NAME.raw into [Target], with the NAME that the \
             image has in its extension-release.NAME"
        ),
    )
}

impl Way<'_> {
    fn is_image(&self) -> bool {
        self.update.transfer.target.kind == TargetKind::RegularFile
    }

    /// systemd orders the files in `NAME.raw.v/` by itself.
    fn versioned(&self, directory: &Path, overview: &Overview) -> Finding {
        let patterns = &self.update.transfer.source.patterns;
        let mut versions = overview
            .files
            .iter()
            .filter_map(|file| pattern::version(patterns, file.name.as_str(), self.systemd));
        if let Some(version) = versions.find(|version| version.contains(AMBIGUOUS)) {
            let text = format!(
                "in a directory that ends in .v, versions such as {version} are not ordered by their numbers alone"
            );
            let remedy =
                "write Path=/var/lib/extensions.d and CurrentSymlink= into [Target] instead";
            return Finding::warning(Step::Link, text, remedy);
        }
        let (Some(parent), Some(stem)) = (directory.parent(), directory.file_stem()) else {
            return Finding::failed(
                Step::Link,
                "Path= is not the name of a directory",
                "name a directory",
            );
        };
        if place(parent).is_none() {
            let (text, parent) = (directory.display(), parent.display());
            return Finding::warning(
                Step::Link,
                format!(
                    "the newest version in {text} is not merged: systemd looks for no extension in {parent}"
                ),
                format!(
                    "if it is one, write Path=/var/lib/extensions/{}{VERSIONED} into [Target]",
                    stem.display()
                ),
            );
        }
        let newest = self.newest_in(directory);
        self.named(Shape::Versions, directory, &stem.to_string_lossy(), newest)
    }

    /// The newest version that is installed in a directory.
    fn newest_in(&self, directory: &Path) -> Option<PathBuf> {
        let directory = self.machine.path(directory);
        let entries = fs::read_dir(&directory).ok()?.flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let patterns = &self.update.transfer.target.patterns;
        let versions = names.filter_map(|name| {
            let version = pattern::version(patterns, &name, self.systemd)?.to_owned();
            Some((version, name))
        });
        let newest = versions.max_by(|(one, _), (other, _)| version::compare(one, other));
        newest.map(|(_, name)| directory.join(name))
    }

    fn linked(&self, link: &Path) -> Finding {
        let shown = link.display();
        let (Some(parent), Some(name)) = (link.parent(), link.file_name()) else {
            return Finding::failed(
                Step::Link,
                format!("CurrentSymlink={shown} is not the name of a file"),
                "name a file",
            );
        };
        if NO_PLACES.iter().any(|place| parent == Path::new(place)) {
            let text = format!("systemd looks for no extension in {}", parent.display());
            let remedy = format!(
                "write CurrentSymlink=/var/lib/extensions/{} into [Target]",
                name.display()
            );
            return Finding::failed(Step::Link, text, remedy);
        }
        if !self.systemd.makes_the_directory_of_a_link() && !self.machine.path(parent).exists() {
            let parent = parent.display();
            let text = format!(
                "{parent} does not exist, and systemd {} does not create it for the link",
                self.systemd.0
            );
            return Finding::failed(Step::Link, text, format!("`mkdir -p {parent}`"));
        }
        let found = fs::symlink_metadata(self.machine.path(link));
        if found.is_ok_and(|found| found.is_dir()) {
            let text = format!("{shown} is a directory, and the link cannot replace it");
            return Finding::failed(Step::Link, text, format!("`mv {shown} {shown}.old`"));
        }
        if place(parent).is_none() {
            return Finding::ok(Step::Link, format!("{shown} is the newest version"));
        }
        let installed = destination(self.machine, link);
        self.named(Shape::Link, link, &name.to_string_lossy(), installed)
    }

    /// Whether what is installed is called as the extension in it. `name`: that of the image or directory.
    fn named(&self, shape: Shape, at: &Path, name: &str, installed: Option<PathBuf>) -> Finding {
        let (shown, is_image) = (at.display(), self.is_image());
        let Some(extension) = extension(name, is_image) else {
            let text = format!(
                "{shown} does not end in .raw{}, so systemd ignores it",
                shape.ending()
            );
            let right = at.with_file_name(format!("{name}{RAW}{}", shape.ending()));
            let remedy = format!("write {}={} into [Target]", shape.key(), right.display());
            return Finding::failed(Step::Link, text, remedy);
        };
        let Some(path) = installed else {
            let text = format!("nothing is installed yet, so the name of {shown} is not checked");
            return Finding::skipped(Step::Link, text);
        };
        let inside = match is_image {
            true => dissect::extension_in_file(&path, name),
            false => dissect::extension_in_directory(&path, name),
        };
        let suffix = if is_image { RAW } else { "" };
        match inside {
            Ok(inside) => compared(shape, at, extension, inside.as_deref(), suffix),
            Err(why) => {
                let text = format!("the newest version of {shown} cannot be read: {why}");
                Finding::skipped(Step::Link, text)
            }
        }
    }
}

/// How systemd-sysext finds the newest version.
#[derive(Clone, Copy, PartialEq)]
enum Shape {
    /// By a link.
    Link,
    /// In a directory of versions.
    Versions,
}

impl Shape {
    /// The setting that has the name.
    fn key(self) -> &'static str {
        match self {
            Self::Link => "CurrentSymlink",
            Self::Versions => "Path",
        }
    }

    /// The rest of the file name, after the name of the image.
    fn ending(self) -> &'static str {
        match self {
            Self::Link => "",
            Self::Versions => VERSIONED,
        }
    }
}

/// `suffix`: of an image.
fn compared(
    shape: Shape,
    at: &Path,
    extension: &str,
    inside: Option<&str>,
    suffix: &str,
) -> Finding {
    let shown = at.display();
    match inside {
        Some(name) if name == extension => Finding::ok(
            Step::Link,
            format!("{shown} has the name of the extension in it"),
        ),
        // The rule of extension-release(5). The attribute is not read out of images.
        Some(name) => {
            let text = format!(
                "{shown} is refused, unless extension-release.{name} in it has the extended attribute \
                 user.extension-release.strict=0: expected extension-release.{extension}"
            );
            let right = at.with_file_name(format!("{name}{suffix}{}", shape.ending()));
            let write = format!("write {}={} into [Target]", shape.key(), right.display());
            let remedy = match shape {
                Shape::Link => format!("{write}, and `rm {shown}`"),
                Shape::Versions => format!("{write}, and `mv {shown} {}`", right.display()),
            };
            Finding::warning(Step::Link, text, remedy)
        }
        None => Finding::failed(
            Step::Link,
            format!("{shown} is refused: there is no extension-release.{extension} in it"),
            "ask its publisher to add it; if the image is not an extension, install it elsewhere",
        ),
    }
}

/// The name of the extension by the name of its image or directory.
fn extension(name: &str, is_image: bool) -> Option<&str> {
    match is_image {
        true => name.strip_suffix(RAW),
        false => Some(name),
    }
}

/// The file that a link leads to, below the root of the machine.
fn destination(machine: &Machine, link: &Path) -> Option<PathBuf> {
    let to = fs::read_link(machine.path(link)).ok()?;
    let to = machine.path(link.parent()?.join(to));
    to.exists().then_some(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_compared_without_its_dots() {
        for (path, expected) in [
            ("/var/lib/extensions/k.raw", "/var/lib/extensions/k.raw"),
            (
                "/var/lib/extensions.d/../extensions/k.raw",
                "/var/lib/extensions/k.raw",
            ),
            ("/var/lib/a/./b//../../k.raw", "/var/lib/k.raw"),
            ("/../../k.raw", "/k.raw"),
        ] {
            assert_eq!(normal(Path::new(path)), Path::new(expected), "{path}");
        }
    }

    #[test]
    fn an_image_is_called_by_its_name_without_raw() {
        for (name, is_image, expected) in [
            ("k8s.raw", true, Some("k8s")),
            ("k8s-1.2.raw", true, Some("k8s-1.2")),
            ("k8s", true, None),
            ("k8s.img", true, None),
            ("k8s", false, Some("k8s")),
        ] {
            assert_eq!(extension(name, is_image), expected, "{name}");
        }
    }
}
