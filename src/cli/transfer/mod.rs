//! The command `transfer`: writes the transfer files of systemd-sysupdate for what a repository offers.
//!
//! ```text
//! JSON of a directory ─▶ named ─▶ patterns ─▶ shapes ─▶ text ─▶ standard output or install
//! ```

mod automatic;
mod component;
mod install;
mod named;
mod others;
mod patterns;
mod record;
mod shapes;
#[cfg(test)]
mod tests;
mod text;

use std::path::Path;

use clap::ValueHint;
use log::{error, warn};

use super::asked::{self, Asked};
use super::output;
use super::reference::{FileReference, Origin};
use super::systemd::SystemdVersion;
use crate::address::View;
use crate::artifact::suffix;
use crate::dir;
use crate::error::{Error, Result};
use crate::extension_release::Metadata;
use crate::platform::Architecture;
use crate::printable::printable;
use crate::server::http::Interrupted;
use crate::server::json::{File, Overview};
use crate::sysupdate::Specifiers;
pub use component::Component;
use install::{Installed, Obstacle};
use named::{Extension, Kind, Named};
use patterns::Rules;
use shapes::{Plan, Shape, Wish};
use text::{Frame, TransferFile};

/// The name of the command, for errors.
const COMMAND: &str = "transfer";
/// The directory below which transfer files are.
const ROOT: &str = "/";
/// Where systemd-sysupdate is, if it is not in the path.
const SYSUPDATE: &str = "/usr/lib/systemd/systemd-sysupdate";
/// Most skipped files that are reported with a reason.
const MAX_LEFT_OUT: usize = 20;
/// Largest answer of an image to the question what it is, in bytes.
const MAX_METADATA: usize = 64 << 10;

/// The options of `transfer`.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Install the files in /etc/sysupdate.NAME.d/ (as root). An existing file with other content is an error
    #[arg(long)]
    pub write: bool,
    /// Replace existing files, and remove those that were written for an earlier offer
    #[arg(long, requires = "write")]
    pub force: bool,
    /// Enable the timer that updates the component every night
    #[arg(long, requires = "write", conflicts_with = "undo")]
    pub automatic: bool,
    /// Disable the timer, and remove the files that --write installed, unless they were changed
    #[arg(long, conflicts_with_all = ["write", "force"])]
    pub undo: bool,
    /// The name of the component [default: the last part of the repository's name]
    #[arg(long, value_name = "NAME", value_hint = ValueHint::Other)]
    pub component: Option<Component>,
    /// The shape of the files, if neither their names nor their contents show it
    #[arg(long)]
    pub shape: Option<Shape>,
    /// The name in the image's extension-release.NAME, or the beginning of the partitions' labels [default: the beginning of the
    /// file names]
    #[arg(long, value_hint = ValueHint::Other)]
    pub name: Option<Component>,
}

/// Prints or installs the files. The result is whether there is something to transfer.
pub fn transfer(asked: &Asked, reference: &FileReference, options: &Options) -> Result<bool> {
    let directory = &reference.reference.directory;
    let component = match &options.component {
        Some(component) => component.clone(),
        None => Component::of(&directory.repository)?,
    };
    if options.undo {
        let undone = automatic::undo(Path::new(ROOT), &component)?;
        output::print(&undone.said)?;
        let disabled = undone.disabled.map_err(|why| error!("{}", why.line()));
        return Ok(disabled.is_ok());
    }
    check(reference)?;
    if options.write && !dir::is_root() {
        return Err(cannot(
            "--write requires root; without it the files are printed".to_owned(),
        ));
    }
    let machine = Architecture::of_this_machine();
    let machine = machine
        .ok_or_else(|| cannot("systemd has no name for this machine's architecture".to_owned()))?;
    let systemd = SystemdVersion::of_this_machine().map_err(cannot)?;
    let overview = asked::parse(directory, &asked.json(directory)?)?;
    let rules = Rules { systemd, machine };
    let specifiers = Specifiers::read(Path::new(ROOT));
    // Without an os-release(5) there is no such version either.
    let running = specifiers.expand("%A").unwrap_or_default();
    let plan = match plan(asked, reference, options, &overview, rules, &running)? {
        Ok(plan) => plan,
        Err(why) => {
            error!("{directory}: {why}");
            return Ok(false);
        }
    };
    let name = match (&options.name, plan.parts.first()) {
        (Some(name), _) => name.clone(),
        (None, first) => first
            .map_or("", |part| part.base.as_str())
            .parse()
            .map_err(|why| cannot(format!("{why}; --name sets another one")))?,
    };
    let frame = Frame {
        component: &component,
        url: &format!("{}/{directory}", asked.url()),
        signed: overview.signed,
        systemd,
        running: &running,
        name: &name,
        sysupdate: sysupdate(),
        command: &command(asked, reference, options),
    };
    let files = match text::files(&plan.parts, &frame) {
        Ok(files) => files,
        Err(why) => {
            error!("{directory}: {why}");
            return Ok(false);
        }
    };
    warn_of_left_out(&plan);
    if !options.write {
        let texts: Vec<_> = files.iter().map(|file| file.text.as_str()).collect();
        output::print(&texts.join("\n"))?;
        return Ok(true);
    }
    if !install(&component, &files, &plan, options.force, systemd)? {
        return Ok(false);
    }
    output::print(&match options.automatic {
        true => automatic::enable(&component)?,
        false => format!(
            "next: {}\n",
            text::next(&plan.parts, &frame).join("\n      ")
        ),
    })?;
    Ok(true)
}

/// Installs the files. The result is whether nothing was in the way.
fn install(
    component: &Component,
    files: &[TransferFile],
    plan: &Plan,
    is_forced: bool,
    systemd: SystemdVersion,
) -> Result<bool> {
    let root = Path::new(ROOT);
    let folder = root.join(text::directory(component));
    let obstacles = install::in_the_way(&folder, files)?;
    let stays = |one: &&Obstacle| !(is_forced && one.yields());
    let mut in_the_way: Vec<_> = obstacles.iter().filter(stays).map(Obstacle::line).collect();
    in_the_way.extend(others::of_component(root, component)?);
    if !is_forced {
        let found = others::in_the_way(root, component, files, systemd)?;
        in_the_way.extend(
            found
                .iter()
                .map(|what| format!("{what}; --force writes the file anyway")),
        );
    }
    for line in &in_the_way {
        error!("{line}");
    }
    if !in_the_way.is_empty() {
        return Ok(false);
    }
    let linked = text::link_directories(&plan.parts);
    let linked: Vec<_> = linked.iter().map(|linked| root.join(linked)).collect();
    let mut said = String::new();
    for installed in install::install(&folder, &linked, files, &obstacles)? {
        said += &match installed {
            Installed::Written(path) => format!("wrote {}\n", path.display()),
            Installed::Same(path) => format!("{} is there already\n", path.display()),
            Installed::Removed(path) => format!("removed {}\n", path.display()),
        };
    }
    output::print(&said)?;
    Ok(true)
}

fn cannot(why: String) -> Error {
    Error::CannotDo {
        command: COMMAND,
        why,
    }
}

/// Refuses what has no address at the service that would ever have a newer version.
fn check(reference: &FileReference) -> Result<()> {
    let reference = &reference.reference;
    let directory = &reference.directory;
    if let Origin::Layout(path) = &reference.origin {
        return Err(Error::BadAddress {
            path: format!("oci:{}", path.display()),
            why: format!(
                "the service does not know it; name it in the settings, as in [repository.{}] source = \"oci:{}\"",
                directory.repository,
                path.display()
            ),
        });
    }
    match directory.view {
        View::Digest(_) => Err(Error::BadAddress {
            path: directory.to_string(),
            why: "a digest never has a newer version; name the repository or a tag".to_owned(),
        }),
        View::Tags | View::All | View::Tag(_) => Ok(()),
    }
}

/// The plan, after the newest image was asked what it is, if that is open. `running`: the version of the OS that runs. The
/// inner error says what was found.
fn plan(
    asked: &Asked,
    reference: &FileReference,
    options: &Options,
    overview: &Overview,
    rules: Rules,
    running: &str,
) -> Result<Result<Plan, String>> {
    let is_for_machine = |file: &&File| {
        file.architecture
            .is_none_or(|architecture| architecture == rules.machine)
    };
    let files: Vec<_> = overview.files.iter().filter(is_for_machine).collect();
    if files.is_empty() {
        let why = match overview.files.len() {
            0 => "no file is on offer; `sysext-oci-proxy list --all` says why".to_owned(),
            n => format!(
                "none of the {n} files on offer is for this machine, {}",
                rules.machine
            ),
        };
        return Ok(Err(why));
    }
    let directory = &reference.reference.directory;
    let repository = directory.repository.to_string();
    let base = repository.rsplit('/').next().unwrap_or_default();
    let versions = files.iter().filter_map(|file| file.version.as_deref());
    let is_v_literal = named::is_v_literal(versions);
    // The version of an OS has to be written as the one that runs.
    let is_v_literal = |kind: &Kind| is_v_literal && !(kind.is_of_os() && running.starts_with('v'));
    let (mut offers, mut nameless) = (Vec::new(), Vec::new());
    for file in files {
        match Named::new(file, base, rules.machine, is_v_literal) {
            Some(named) => offers.push(named),
            None => nameless.push((file.name.to_string(), "its name has no version".to_owned())),
        }
    }
    if offers.is_empty() {
        let names: Vec<_> = nameless.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(", ");
        return Ok(Err(format!("none of {names} has a version in its name")));
    }
    let like = reference.file.as_ref().map(|file| file.as_str());
    if let Some(name) = like.filter(|name| !offers.iter().any(|file| file.name == *name)) {
        return Ok(Err(format!(
            "{name} is not on offer for this machine with a version in its name"
        )));
    }
    let all: Vec<_> = overview.files.iter().map(|file| &file.name).collect();
    let mut wish = Wish {
        rules,
        shape: options.shape,
        like,
        says: None,
    };
    if let Some(file) = shapes::undecided(&offers, &wish) {
        wish.says = Some(ask(asked, reference, file)?);
    }
    let mut plan = shapes::plan(&offers, &all, &wish);
    if let Ok(plan) = &mut plan {
        plan.left_out.extend(nameless);
    }
    Ok(plan)
}

/// Asks an image what it is. The inner error is the reason why it does not say.
fn ask(
    asked: &Asked,
    reference: &FileReference,
    file: &Named,
) -> Result<Result<Extension, String>> {
    let name = format!("{}.manifest.gz", suffix::stem(&file.name));
    let Ok(name) = name.parse() else {
        return Ok(Err(format!("{name} is no name of a file")));
    };
    let mut buffer = vec![0; MAX_METADATA];
    let mut rest = &mut buffer[..];
    let asked = asked.file(&reference.reference.directory, &name, &mut rest);
    let left = rest.len();
    match asked {
        Ok(()) => Ok({
            let metadata = Metadata::of_document(&buffer[..MAX_METADATA - left]);
            let is_confext = ["CONFEXT_LEVEL", "CONFEXT_SCOPE"]
                .iter()
                .any(|field| metadata.get(field).is_some());
            match (metadata.has_id(), is_confext) {
                (false, _) => Err("it has no extension-release with an ID".to_owned()),
                (true, true) => Ok(Extension::Confext),
                (true, false) => Ok(Extension::Sysext),
            }
        }),
        Err(Interrupted::Body(error)) if error.status() == 404 => Ok(Err(error.line())),
        Err(Interrupted::Body(error)) => Err(cannot(format!(
            "the kind of {} cannot be looked up: {}; --shape sets it",
            file.name,
            error.line()
        ))),
        Err(Interrupted::Client(error)) => {
            Err(Error::service("hold the metadata of an image")(error))
        }
    }
}

fn warn_of_left_out(plan: &Plan) {
    for (name, why) in plan.left_out.iter().take(MAX_LEFT_OUT) {
        warn!("{} is skipped: {}", printable(name), printable(why));
    }
    if plan.left_out.len() > MAX_LEFT_OUT {
        warn!(
            "{} more files are skipped",
            plan.left_out.len() - MAX_LEFT_OUT
        );
    }
}

/// How systemd-sysupdate is called.
fn sysupdate() -> &'static str {
    let in_path = [
        "/usr/bin/systemd-sysupdate",
        "/usr/local/bin/systemd-sysupdate",
    ];
    match in_path.iter().any(|path| Path::new(path).exists()) {
        true => "systemd-sysupdate",
        false => SYSUPDATE,
    }
}

/// The command that prints the same files again.
fn command(asked: &Asked, reference: &FileReference, options: &Options) -> String {
    let mut words = vec![format!(
        "sysext-oci-proxy {COMMAND} {}",
        reference.reference.directory
    )];
    if let Some(file) = &reference.file {
        words[0] += &format!("/{file}");
    }
    if let Some(shape) = options.shape {
        words.push(format!("--shape {}", shape.name()));
    }
    if let Some(name) = &options.name {
        words.push(format!("--name {name}"));
    }
    if let Some(component) = &options.component {
        words.push(format!("--component {component}"));
    }
    if let Some(url) = asked.unusual_url() {
        words.push(format!("--service {url}"));
    }
    words.join(" ")
}
