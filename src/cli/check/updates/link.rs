//! Whether systemd-sysext finds what is installed: the place and the name of the link to the newest version, which has to
//! be that of the extension-release(5) inside.

use std::fs;
use std::path::{Path, PathBuf};

use super::Update;
use super::mounts::Extensions;
use crate::cli::check::machine::Machine;
use crate::cli::check::report::{Finding, Report, Step};
use crate::dissect;
use crate::server::json::Overview;
use crate::sysupdate::{SystemdVersion, TargetKind, pattern};

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
    let finding = match &target.current_symlink {
        Some(link) => Some(linked(machine, update, &directory.join(link))),
        None if directory
            .extension()
            .is_some_and(|ending| ending == &VERSIONED[1..]) =>
        {
            Some(versioned(systemd, update, directory, overview))
        }
        None => place(directory).map(|_| unlinked(directory)),
    };
    if let Some(finding) = finding {
        report.push(finding.of(&target.path_at));
    }
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

/// systemd orders the files in `NAME.raw.v/` by itself.
fn versioned(
    systemd: SystemdVersion,
    update: &Update,
    directory: &Path,
    overview: &Overview,
) -> Finding {
    let patterns = &update.transfer.source.patterns;
    let versions = overview
        .files
        .iter()
        .filter_map(|file| pattern::version(patterns, file.name.as_str(), systemd));
    let ambiguous = versions.clone().find(|version| version.contains(AMBIGUOUS));
    match ambiguous {
        None => Finding::ok(
            Step::Link,
            format!("the newest version in {} is merged", directory.display()),
        ),
        Some(version) => Finding::warning(
            Step::Link,
            format!(
                "in a directory that ends in .v, versions such as {version} are not ordered by their numbers alone"
            ),
            "write Path=/var/lib/extensions.d and CurrentSymlink= into [Target] instead",
        ),
    }
}

fn linked(machine: &Machine, update: &Update, link: &Path) -> Finding {
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
    let found = fs::symlink_metadata(machine.path(link));
    if found.is_ok_and(|found| found.is_dir()) {
        let text = format!("{shown} is a directory, and the link cannot replace it");
        return Finding::failed(Step::Link, text, format!("`mv {shown} {shown}.old`"));
    }
    if place(parent).is_none() {
        return Finding::ok(Step::Link, format!("{shown} is the newest version"));
    }
    let name = name.to_string_lossy();
    let is_image = update.transfer.target.kind == TargetKind::RegularFile;
    let Some(extension) = extension(&name, is_image) else {
        let text = format!("{shown} does not end in .raw, so systemd ignores it");
        let remedy = format!("write CurrentSymlink={shown}.raw into [Target]");
        return Finding::failed(Step::Link, text, remedy);
    };
    let Some(path) = destination(machine, link) else {
        let text = format!("nothing is installed yet, so the name of {shown} is not checked");
        return Finding::skipped(Step::Link, text);
    };
    let inside = match is_image {
        true => dissect::extension_in_file(&path, &name),
        false => dissect::extension_in_directory(&path, &name),
    };
    match inside {
        Ok(inside) => compared(link, parent, extension, inside.as_deref(), is_image),
        Err(why) => {
            let text = format!("the target of {shown} cannot be read: {why}");
            Finding::skipped(Step::Link, text)
        }
    }
}

fn compared(
    link: &Path,
    parent: &Path,
    extension: &str,
    inside: Option<&str>,
    is_image: bool,
) -> Finding {
    let (shown, suffix) = (link.display(), if is_image { RAW } else { "" });
    match inside {
        Some(name) if name == extension => Finding::ok(
            Step::Link,
            format!("{shown} has the name of the extension in it"),
        ),
        Some(name) => Finding::failed(
            Step::Link,
            format!(
                "{shown} is refused: the extension in it has extension-release.{name}, not extension-release.{extension}"
            ),
            format!(
                "write CurrentSymlink={}/{name}{suffix} into [Target], and `rm {shown}`",
                parent.display()
            ),
        ),
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
