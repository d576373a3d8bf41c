//! The text of transfer files, in the format of sysupdate.d(5). No I/O.

use std::collections::BTreeSet;

use super::component::Component;
use super::named::{Extension, begins_with_digit};
use super::patterns;
use super::shapes::{Becomes, Part};
use crate::server::json::SignedBy;
use crate::sysupdate::SystemdVersion;
use crate::sysupdate::pattern::is_version;
use crate::version;

/// The first version of systemd that reads `.transfer`; those before read `.conf`.
const READS_TRANSFER: SystemdVersion = SystemdVersion(257);
/// The first version whose keyring is `import-pubring.pgp`.
const READS_PGP: SystemdVersion = SystemdVersion(258);
/// Longest label of a partition in a GPT, in characters.
const MAX_LABEL: usize = 36;
/// Characters of versions that systemd.v(7) has another use for: `_` comes before an architecture, `+` before boot counters.
const NOT_IN_V: [char; 2] = ['_', '+'];

/// All that the files say besides patterns.
pub struct Frame<'a> {
    pub component: &'a Component,
    /// The directory of the service: `http://localhost:5001/kubernetes`.
    pub url: &'a str,
    pub signed: Option<SignedBy>,
    pub systemd: SystemdVersion,
    /// The version of the OS that runs, `IMAGE_VERSION=` of os-release(5). Empty if it does not say one.
    pub running: &'a str,
    /// The name in the extension-release of the image.
    pub name: &'a Component,
    /// How systemd-sysupdate is called here.
    pub sysupdate: &'a str,
    /// The command that writes these files.
    pub command: &'a str,
}

/// A transfer file.
#[derive(Debug, PartialEq)]
pub struct TransferFile {
    /// `kubernetes.transfer`
    pub name: String,
    pub text: String,
}

/// The target of a file.
struct Target {
    lines: Vec<String>,
    /// Why it goes there, if that is not plain.
    why: Option<String>,
}

/// The directory of a component's transfer files, below the root.
pub fn directory(component: &Component) -> String {
    format!("etc/sysupdate.{component}.d")
}

/// The files for these parts. The error says what systemd would refuse or destroy.
pub fn files(parts: &[Part], frame: &Frame<'_>) -> Result<Vec<TransferFile>, String> {
    for part in parts.iter().filter(|part| part.becomes.is_of_os()) {
        check_running(part, frame)?;
    }
    let is_one = parts.len() == 1;
    let numbered = parts.iter().enumerate();
    numbered
        .map(|(n, part)| {
            let ending = match frame.systemd >= READS_TRANSFER {
                true => "transfer",
                false => "conf",
            };
            let name = match is_one {
                true => format!("{}.{ending}", frame.component),
                false => format!("{}0-{}.{ending}", n + 1, word(&part.becomes)),
            };
            let text = text(part, parts, &name, frame)?;
            Ok(TransferFile { name, text })
        })
        .collect()
}

/// The directories of the links to current versions, below the root. systemd-sysupdate does not make them.
pub fn link_directories(parts: &[Part]) -> BTreeSet<String> {
    let directory = |part: &Part| match &part.becomes {
        Becomes::Image(extension) | Becomes::Tree(extension) => {
            let (_, is_linked) = why_linked(part, *extension);
            is_linked.then(|| format!("var/lib/{}", folder(*extension)))
        }
        _ => None,
    };
    parts.iter().filter_map(directory).collect()
}

/// The commands that follow `systemd-sysupdate -C NAME list`, once the files are there.
pub fn next(parts: &[Part], frame: &Frame<'_>) -> Vec<String> {
    let mut commands = Vec::new();
    let extension = parts.iter().find_map(|part| match &part.becomes {
        Becomes::Image(extension) | Becomes::Tree(extension) => Some((*extension, part)),
        _ => None,
    });
    let update = format!("{} -C {} update", frame.sysupdate, frame.component);
    commands.push(format!("{} -C {} list", frame.sysupdate, frame.component));
    commands.push(update);
    commands.push(match extension {
        Some((Extension::Sysext, _)) => "systemd-sysext refresh".to_owned(),
        Some((Extension::Confext, _)) => "systemd-confext refresh".to_owned(),
        Some((Extension::Portable, _)) => format!("portablectl attach {}", frame.name),
        None => "systemctl reboot".to_owned(),
    });
    commands
}

fn text(part: &Part, parts: &[Part], name: &str, frame: &Frame<'_>) -> Result<String, String> {
    let target = target(part, parts, frame)?;
    let mut lines = vec![
        format!("# /{}/{name}", directory(frame.component)),
        format!("# Written by `{}`.", frame.command),
    ];
    let linked = link_directories(parts);
    let linked: Vec<_> = linked.iter().map(|path| format!("/{path}")).collect();
    let first = match linked.is_empty() {
        false => Some(format!("mkdir -p {}", linked.join(" "))),
        true => next(parts, frame).into_iter().next(),
    };
    lines.extend(first.map(|first| format!("# Next: {first}")));
    lines.extend(target.why.map(|why| format!("#\n# {why}")));
    lines.extend(moving(part).map(|why| format!("#\n# {why}")));
    lines.push("\n[Transfer]".to_owned());
    if part.becomes.is_of_os() {
        lines.push(
            "# The running version (IMAGE_VERSION= of os-release(5)) is never removed.".to_owned(),
        );
        lines.push("ProtectVersion=%A".to_owned());
    }
    lines.extend(verify(frame));
    lines.push("\n[Source]".to_owned());
    let kind = match part.becomes {
        Becomes::Tree(_) => "url-tar",
        _ => "url-file",
    };
    lines.push(format!("Type={kind}"));
    lines.push(format!("Path={}", frame.url));
    let patterns: Vec<_> = part.patterns.iter().map(|one| one.text.clone()).collect();
    lines.push(match_pattern(&patterns));
    lines.push("\n[Target]".to_owned());
    lines.extend(target.lines);
    Ok(lines.join("\n") + "\n")
}

/// Refuses a part of an OS if `ProtectVersion=%A` would not protect the version that runs. systemd-sysupdate compares
/// versions there as texts (systemd: `transfer_vacuum`), and writes a new one over a partition that is not protected.
fn check_running(part: &Part, frame: &Frame<'_>) -> Result<(), String> {
    let running = frame.running;
    let versions = || part.versions.iter().map(String::as_str);
    if let Some(version) = versions().chain([running]).find(|one| one.contains('+')) {
        return Err(format!(
            "the version {version} of an OS has a '+', which in /EFI/Linux is the beginning of boot counters; \
             its publisher has to name it without one"
        ));
    }
    let newest = patterns::newest_of(versions());
    let remedy = format!(
        "an update would remove the version that runs; set IMAGE_VERSION= in /etc/os-release to that, \
         written as the versions on offer are: {newest}"
    );
    if running.is_empty() {
        return Err(format!("os-release(5) has no IMAGE_VERSION=, so {remedy}"));
    }
    let is_same_otherwise =
        |version: &str| version != running && version::compare(version, running).is_eq();
    if !is_version(running, frame.systemd)
        || begins_with_digit(running) != begins_with_digit(newest)
        || versions().any(is_same_otherwise)
    {
        return Err(format!(
            "IMAGE_VERSION={running} of os-release(5) is not written as the versions on offer are, so {remedy}"
        ));
    }
    Ok(())
}

/// Several patterns are one value, a line each.
fn match_pattern(patterns: &[String]) -> String {
    format!("MatchPattern={}", patterns.join(" \\\n             "))
}

fn verify(frame: &Frame<'_>) -> Vec<String> {
    let keyring = match frame.systemd >= READS_PGP {
        true => "/etc/systemd/import-pubring.pgp",
        false => "/etc/systemd/import-pubring.gpg",
    };
    match frame.signed {
        None => vec![
            "# The list has no signature. Each file is checked against the list.".to_owned(),
            "Verify=no".to_owned(),
        ],
        Some(SignedBy::Publisher) => vec![
            format!("# The list is signed; its publisher's key must be in {keyring}."),
            "Verify=yes".to_owned(),
        ],
        Some(SignedBy::Machine) => vec![
            "# The list is signed by this machine; \"sysext-oci-proxy key --install\" has systemd accept its key.".to_owned(),
            "Verify=yes".to_owned(),
        ],
    }
}

/// A remark if no version is a number.
fn moving(part: &Part) -> Option<String> {
    let is_moving = !part
        .versions
        .iter()
        .any(|version| begins_with_digit(version));
    let version = part.versions.first().filter(|_| is_moving)?;
    Some(format!(
        "No version is a number. The name {version} stays the same when its artifact changes, so it is installed only once. \
         In the directory REPOSITORY:{version}, a file has the version that its artifact notes."
    ))
}

fn target(part: &Part, parts: &[Part], frame: &Frame<'_>) -> Result<Target, String> {
    let name = frame.name;
    let plain = |lines: Vec<String>| Target { lines, why: None };
    Ok(match &part.becomes {
        Becomes::Image(extension) => versioned(part, *extension, ".raw", Files::Regular, frame),
        Becomes::Tree(extension) => versioned(part, *extension, "", Files::Directory, frame),
        Becomes::Companion(extension, suffix) => beside(part, parts, *extension, suffix, frame),
        Becomes::Partition(kind) => {
            let mark = match kind.split_once('-') {
                Some((_, mark)) => format!("_{}", mark.replace('-', "_")),
                None => String::new(),
            };
            let longest = part.versions.iter().map(|version| version.len()).max();
            let length = name.to_string().len() + longest.unwrap_or_default() + mark.len() + 1;
            if length > MAX_LABEL {
                return Err(format!(
                    "the partition label {name}_VERSION{mark} has {length} characters, expected at most {MAX_LABEL}; \
                     --name sets a shorter name"
                ));
            }
            plain(vec![
                "Type=partition".to_owned(),
                "Path=auto".to_owned(),
                format!("MatchPattern={name}_@v{mark}"),
                format!("MatchPartitionType={kind}"),
                "PartitionFlags=0".to_owned(),
                "ReadOnly=1".to_owned(),
            ])
        }
        Becomes::Uki => {
            let counted = [
                format!("{name}_@v+@l-@d.efi"),
                format!("{name}_@v+@l.efi"),
                format!("{name}_@v.efi"),
            ];
            let mut lines = boot("/EFI/Linux");
            lines.push(match_pattern(&counted));
            lines.extend(
                ["Mode=0444", "TriesLeft=3", "TriesDone=0", "InstancesMax=2"].map(str::to_owned),
            );
            let why = "The boot loader tries a new version three times, until systemd-bless-boot.service marks it as good.";
            Target {
                lines,
                why: Some(why.to_owned()),
            }
        }
        Becomes::Kernel => boot_file(name, "vmlinuz"),
        Becomes::Initrd => boot_file(name, "initrd"),
    })
}

fn boot(path: &str) -> Vec<String> {
    vec![
        "Type=regular-file".to_owned(),
        format!("Path={path}"),
        "PathRelativeTo=boot".to_owned(),
    ]
}

fn boot_file(name: &Component, suffix: &str) -> Target {
    let mut lines = boot(&format!("/{name}"));
    lines.push(format!("MatchPattern={name}_@v.{suffix}"));
    lines.extend(["Mode=0444", "InstancesMax=2"].map(str::to_owned));
    let why =
        "The boot loader needs an entry that names this file. The administrator writes that entry.";
    Target {
        lines,
        why: Some(why.to_owned()),
    }
}

/// The form in which versions are installed.
#[derive(Clone, Copy)]
enum Files {
    Regular,
    Directory,
}

impl Files {
    fn lines(self, path: &str, pattern: &str) -> Vec<String> {
        let kind = match self {
            Self::Regular => "regular-file",
            Self::Directory => "directory",
        };
        let mut lines = vec![
            format!("Type={kind}"),
            format!("Path={path}"),
            format!("MatchPattern={pattern}"),
        ];
        if let Self::Regular = self {
            lines.push("Mode=0444".to_owned());
        }
        lines
    }
}

/// An extension in a directory of its versions, of which systemd takes the newest, or with a link to the current one.
fn versioned(
    part: &Part,
    extension: Extension,
    suffix: &str,
    files: Files,
    frame: &Frame<'_>,
) -> Target {
    let (name, folder) = (frame.name, folder(extension));
    let pattern = format!("{name}_@v{suffix}");
    let (why, is_linked) = why_linked(part, extension);
    let mut lines = match is_linked {
        false => files.lines(&format!("/var/lib/{folder}/{name}{suffix}.v"), &pattern),
        true => {
            let mut lines = files.lines(&format!("/var/lib/{folder}.d/{name}"), &pattern);
            lines.push(format!("CurrentSymlink=/var/lib/{folder}/{name}{suffix}"));
            lines
        }
    };
    lines.push("InstancesMax=3".to_owned());
    Target { lines, why }
}

/// A file beside the image, where systemd looks for it.
fn beside(
    part: &Part,
    parts: &[Part],
    extension: Extension,
    suffix: &str,
    frame: &Frame<'_>,
) -> Target {
    let (name, folder) = (frame.name, folder(extension));
    let image = parts
        .iter()
        .find(|part| matches!(part.becomes, Becomes::Image(_)));
    let (_, is_linked) = why_linked(image.unwrap_or(part), extension);
    let pattern = format!("{name}_@v{suffix}");
    let mut lines = match is_linked {
        false => Files::Regular.lines(&format!("/var/lib/{folder}/{name}.raw.v"), &pattern),
        true => {
            let path = format!("/var/lib/{folder}.d/{name}");
            let mut lines = Files::Regular.lines(&path, &pattern);
            lines.push(format!("CurrentSymlink=/var/lib/{folder}/{name}{suffix}"));
            lines
        }
    };
    lines.push("InstancesMax=3".to_owned());
    Target { lines, why: None }
}

/// Whether the current version is found by a link, and why, if that is not always so.
fn why_linked(part: &Part, extension: Extension) -> (Option<String>, bool) {
    let is_odd = |version: &&String| version.contains(NOT_IN_V);
    match part.versions.iter().find(is_odd) {
        _ if extension == Extension::Portable => {
            let why = "A link names the current version: portablectl remembers the path that it was given.";
            (Some(why.to_owned()), true)
        }
        Some(version) => {
            let why = format!(
                "A link names the current version, because {version} contains '_' or '+'. In a directory NAME.v, systemd reads \
                 these characters as the beginning of an architecture or of boot counters (systemd.v(7))."
            );
            (Some(why), true)
        }
        None => (None, false),
    }
}

/// Below /var/lib. /opt would be read-only as soon as a merged extension has something in it.
fn folder(extension: Extension) -> &'static str {
    match extension {
        Extension::Sysext => "extensions",
        Extension::Confext => "confexts",
        Extension::Portable => "portables",
    }
}

/// The part of the name that distinguishes one of several transfer files.
fn word(becomes: &Becomes) -> String {
    match becomes {
        Becomes::Image(extension) | Becomes::Tree(extension) => match extension {
            Extension::Sysext => "sysext".to_owned(),
            Extension::Confext => "confext".to_owned(),
            Extension::Portable => "portable".to_owned(),
        },
        Becomes::Companion(_, suffix) => suffix.trim_start_matches('.').replace('.', "-"),
        Becomes::Partition(kind) => (*kind).to_owned(),
        Becomes::Uki => "uki".to_owned(),
        Becomes::Kernel => "kernel".to_owned(),
        Becomes::Initrd => "initrd".to_owned(),
    }
}
