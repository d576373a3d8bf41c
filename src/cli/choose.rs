//! The file of a directory that is wanted. No I/O.

use std::cmp::Ordering;

use crate::address::Directory;
use crate::companions::companions;
use crate::error::{Error, Result};
use crate::name::FileName;
use crate::platform::Architecture;
use crate::server::json::{File, LeftOut, Overview};
use crate::version;

/// The file that is wanted.
#[derive(Clone, Copy, Debug)]
pub enum Choice<'a> {
    /// The newest one for this machine.
    Newest,
    /// The one of this version for this machine.
    Version(&'a str),
    /// The one of this name.
    Name(&'a FileName),
}

impl<'a> Choice<'a> {
    /// Chosen by the name of a file or by a version.
    pub fn new(file: Option<&'a FileName>, version: Option<&'a str>) -> Result<Self> {
        match (file, version) {
            (Some(file), Some(_)) => Err(Error::BadAddress {
                path: file.to_string(),
                why: "a file is named either by its name or by --version".into(),
            }),
            (Some(file), None) => Ok(Self::Name(file)),
            (None, Some(version)) => Ok(Self::Version(version)),
            (None, None) => Ok(Self::Newest),
        }
    }
}

/// Finds the file that is wanted, on a machine of this architecture.
pub fn choose<'a>(
    overview: &'a Overview,
    directory: &Directory,
    wanted: Choice<'_>,
    machine: Option<Architecture>,
) -> Result<&'a File> {
    let Overview {
        files,
        left_out,
        omitted,
        ..
    } = overview;
    let omitted = omitted.map_or(0, |omitted| omitted.files);
    let not_offered = |what: String, why: String| Error::NotOffered { what, why };
    let see = match omitted {
        0 => format!("`sysext-oci-proxy list --all {directory}` shows why"),
        n => format!("{n} older files are not looked at, curl fetches them"),
    };
    if let Choice::Name(name) = wanted {
        return files.iter().find(|file| file.name == *name).ok_or_else(|| {
            let is_it = |one: &&LeftOut| one.name.as_ref() == Some(name);
            let reason = left_out.iter().find(is_it).map(|one| one.reason.clone());
            let why = || format!("it is none of the {} files in the list; {see}", files.len());
            not_offered(format!("{directory}/{name}"), reason.unwrap_or_else(why))
        });
    }
    let is_for_machine = |file: &&File| file.architecture.is_none() || file.architecture == machine;
    let is_wanted = |file: &&File| match wanted {
        Choice::Version(version) => version::compare(version_of(file), version).is_eq(),
        Choice::Newest | Choice::Name(_) => true,
    };
    let possible = || files.iter().filter(is_for_machine).filter(is_wanted);
    let Some(newest) = possible().max_by(|one, other| compare(one, other)) else {
        let what = match wanted {
            Choice::Version(version) => format!("version {version} of {directory}"),
            Choice::Newest | Choice::Name(_) => format!("a file of {directory}"),
        };
        let is_it = |one: &&LeftOut| match wanted {
            Choice::Version(wanted) => {
                version::compare(version::of_tag(&one.tag).0, wanted).is_eq()
            }
            Choice::Newest | Choice::Name(_) => false,
        };
        let why = match (left_out.iter().find(is_it), files.len()) {
            (Some(left_out), _) => left_out.reason.clone(),
            (None, 0) => format!("no file is; {see}"),
            (None, n) => {
                format!("none of the {n} files in the list is that for this machine; {see}")
            }
        };
        return Err(not_offered(what, why));
    };
    let of_version: Vec<_> = possible()
        .filter(|file| compare(file, newest).is_eq())
        .collect();
    let is_companion = |file: &File| {
        of_version
            .iter()
            .any(|image| companions(&image.name).any(|name| name == file.name))
    };
    let mut images: Vec<_> = of_version
        .iter()
        .copied()
        .filter(|file| !is_companion(file))
        .collect();
    // A file that is listed by two names is one.
    images.dedup_by_key(|file| file.digest);
    match images[..] {
        [image] => Ok(image),
        _ => {
            let names: Vec<_> = of_version.iter().map(|file| file.name.as_str()).collect();
            let why = format!(
                "that version has {}; name one of them, as in {directory}/{}",
                names.join(", "),
                names[0]
            );
            Err(not_offered(
                format!("one file of {directory} {}", version_of(newest)),
                why,
            ))
        }
    }
}

/// The version of a file; where it is not known, its name has it.
fn version_of(file: &File) -> &str {
    file.version.as_deref().unwrap_or(file.name.as_str())
}

/// Compares the versions of files.
fn compare(one: &File, other: &File) -> Ordering {
    version::compare(version_of(one), version_of(other))
}

#[cfg(test)]
pub mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::digest::Digest;

    /// A directory with the files `name version architecture bytes`, where `-` is not known.
    pub fn overview(files: &[&str], left_out: Value) -> Overview {
        let file = |text: &&str| {
            let known = |n| text.split(' ').nth(n).filter(|word| *word != "-");
            let size = known(3).map(|size| size.parse::<u64>().unwrap());
            json!({
                "name": known(0), "version": known(1), "architecture": known(2), "size": size,
                "digest": Digest::of(known(0).unwrap().as_bytes()), "tag": null, "verified_by": null,
            })
        };
        let overview = json!({
            "repository": "k8s", "source": "ghcr.io/acme/k8s", "signed": null, "incomplete": null,
            "listed": "2026-01-02T03:04:05Z", "files": files.iter().map(file).collect::<Vec<_>>(), "left_out": left_out,
        });
        serde_json::from_value(overview).unwrap()
    }

    #[test]
    fn the_newest_file_for_this_machine_is_found_or_there_is_a_reason() {
        let images = [
            "k8s-v1.9.raw v1.9 x86-64 -",
            "k8s-v1.10.raw v1.10 x86-64 -",
            "k8s-v1.11.raw v1.11 arm64 -",
        ];
        let companions = [
            "os-1.raw 1 - -",
            "os-2.raw 2 - -",
            "os-2.roothash 2 - -",
            "os-2.verity 2 - -",
        ];
        let parts = ["os-2.efi 2 - -", "os-2.usr.raw 2 - -"];
        let (version, k8s) = (Choice::Version, "k8s-v1.10.raw".parse().unwrap());
        for (files, wanted, expected) in [
            (&images[..], Choice::Newest, Ok("k8s-v1.10.raw")),
            (&images, version("v1.9"), Ok("k8s-v1.9.raw")),
            (&images, version("1.9"), Ok("k8s-v1.9.raw")),
            (&images, version("1.11"), Err("none of the 3 files")),
            (&images, version("7"), Err("version 7 of k8s")),
            (&images, Choice::Name(&k8s), Ok("k8s-v1.10.raw")),
            (&companions, Choice::Newest, Ok("os-2.raw")),
            (&companions, Choice::Name(&k8s), Err("list --all k8s")),
            (
                &parts,
                Choice::Newest,
                Err("os-2.efi, os-2.usr.raw; name one of them, as in k8s/os-2.efi"),
            ),
            (&["a.raw - - -", "b.raw - - -"], Choice::Newest, Ok("b.raw")),
            (&[], Choice::Newest, Err("no file is")),
        ] {
            let machine = Some("x86-64".parse().unwrap());
            let overview = overview(files, json!([]));
            let found = choose(&overview, &"k8s".parse().unwrap(), wanted, machine);
            match (found, expected) {
                (Ok(found), Ok(expected)) => {
                    assert_eq!(found.name.as_str(), expected, "{wanted:?}")
                }
                (Err(error), Err(part)) => {
                    assert_eq!(error.exit_status(), 1);
                    assert!(error.to_string().contains(part), "{error}");
                }
                (found, expected) => panic!("{found:?} instead of {expected:?}"),
            }
        }
    }

    #[test]
    fn one_file_by_two_names_is_found_and_one_that_is_left_out_has_its_reason() {
        let left_out = json!({
            "tag": "v3", "name": "k8s-3.raw", "digest": null, "reason": "it is encrypted", "kind": "skipped", "until": null,
        });
        let mut overview = overview(&["k8s-2.raw 2 - -", "title.raw 2 - -"], json!([left_out]));
        overview.files[1].digest = overview.files[0].digest;
        let directory: Directory = "k8s:v2".parse().unwrap();
        let found = choose(&overview, &directory, Choice::Newest, None);
        assert_eq!(found.unwrap().name.as_str(), "k8s-2.raw");
        let name = "k8s-3.raw".parse().unwrap();
        for (wanted, what) in [
            (Choice::Name(&name), "k8s:v2/k8s-3.raw"),
            (Choice::Version("3"), "version 3 of k8s:v2"),
        ] {
            let error = choose(&overview, &directory, wanted, None).unwrap_err();
            let expected = format!("{what} is not offered: it is encrypted");
            assert_eq!(error.to_string(), expected);
        }
    }
}
