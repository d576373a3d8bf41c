//! The command line: arguments → exit code. One file for each command, except `serve`, which is `server/`.

mod arguments;
mod asked;
mod check;
mod choose;
mod fetch;
mod inspect;
mod key;
mod keyrings;
pub mod list;
mod machine_key;
mod new_file;
mod output;
mod port_owner;
mod reference;
mod reload;
mod service;
mod systemd;
mod transfer;
mod update;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::CommandFactory;
use log::{error, info, warn};

use crate::address::{Directory, View};
use crate::digest::Digest;
use crate::dir::Dir;
use crate::error::Result;
use crate::journal;
use crate::name::RepositoryAddress;
use crate::server::{self, handler::Service};
use crate::settings::{self, PolicyUse, Settings};
use crate::snapshot::Snapshots;
use crate::source::Upstream;
use crate::state::State;
use arguments::{Command, CommandLine, Serve};
use asked::Asked;
use choose::Choice;
use machine_key::Seed;
use output::print;
use reference::FileReference;

/// The exit status of a command whose answer is no.
const NO: u8 = 1;
/// The directory below which settings and the files of container tools are.
const ROOT: &str = "/";

/// Runs the program with these arguments, of which the first is its name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let command_line = CommandLine::parse(arguments).unwrap_or_else(|error| error.exit());
    let is_service = command_line.is_to_serve();
    journal::start(is_service);
    match execute(command_line) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(NO),
        Err(error) => {
            let reason = error.line();
            if is_service {
                error!(MESSAGE_ID = journal::FATAL, REASON = reason.as_str(); "{reason}");
                server::turn_away_waiting(&error);
            } else {
                error!("{reason}");
            }
            ExitCode::from(error.exit_status())
        }
    }
}

/// All commands and options, as manual pages and completions describe them.
pub fn command_line() -> clap::Command {
    <CommandLine as CommandFactory>::command()
}

/// The result is the answer: yes or no.
fn execute(command_line: CommandLine) -> Result<bool> {
    let config = command_line.config.clone();
    let config = config.as_deref();
    match command_line.command() {
        Command::Serve(Serve { listen }) => {
            let (cache, state) = (cache_directory(), state_directory());
            let (has_cache, has_state) = (cache.is_some(), state.is_some());
            let first = service_in(settings(config)?, cache, state, Seed::Make)?;
            let listener = server::open_listener(listen)?;
            let address = listener.local_addr().ok();
            let first = first.at(address);
            warn_of_missing(has_cache, has_state);
            tell_of_policy(&first.settings);
            let load = || {
                let (cache, state) = (cache_directory(), state_directory());
                let service = service_in(settings(config)?, cache, state, Seed::Make)?;
                tell_of_policy(&service.settings);
                Ok(service.at(address))
            };
            server::run(first, listener, listen.is_none(), load)?;
        }
        Command::Reload { process } => {
            // Settings that cannot be read are told here, and change nothing.
            settings(config)?;
            reload::reload(process)?;
        }
        Command::List {
            reference,
            all,
            json,
            whom,
        } => {
            let asked = Asked::new(whom, config, &reference)?;
            return list::list(&asked, &reference.directory, all, json);
        }
        Command::Fetch {
            reference: FileReference { reference, file },
            version,
            output,
            whom,
        } => {
            let wanted = Choice::new(file.as_ref(), version.as_deref())?;
            let asked = Asked::new(whom, config, &reference)?;
            fetch::fetch(&asked, &reference.directory, wanted, output)?;
        }
        Command::Transfer {
            reference,
            options,
            whom,
        } => {
            let asked = Asked::new(whom, config, &reference.reference)?;
            return transfer::transfer(&asked, &reference, &options);
        }
        Command::Check {
            reference,
            json,
            whom,
            root,
        } => return check::check(reference.as_ref(), json, whom, config, &root),
        Command::Inspect { reference } => {
            let service = service(reference.settings(settings(config)?))?;
            let located = reference.directory.locate(&service.settings)?;
            print(&inspect::inspect(&service.snapshots, &located)?)?;
        }
        Command::Url { reference, layer } => {
            let service = service(reference.settings(settings(config)?))?;
            let located = reference.directory.locate(&service.settings)?;
            print(&inspect::url(
                &service.snapshots,
                &located,
                layer.as_deref(),
            )?)?;
        }
        Command::Update { component } => update::update(Path::new(ROOT), &component)?,
        Command::Key(options) => print(&key::key(&options, || settings(config))?)?,
        Command::Version => print(concat!(
            "sysext-oci-proxy ",
            env!("CARGO_PKG_VERSION"),
            "\n"
        ))?,
    }
    Ok(true)
}

fn settings(config: Option<&Path>) -> Result<Settings> {
    Settings::load(config, Path::new(ROOT))
}

/// The service for a command that runs without the daemon (`--direct`): it answers requests in this process.
fn service(settings: Settings) -> Result<Service> {
    service_in(settings, cache_directory(), state_directory(), Seed::Read)
}

fn service_in(
    settings: Settings,
    cache: Option<PathBuf>,
    state: Option<Dir>,
    seed: Seed,
) -> Result<Service> {
    let snapshots = snapshots(&settings, cache, state, seed)?;
    Ok(Service {
        settings,
        snapshots,
    })
}

/// Everything that a listing is made from.
fn snapshots(
    settings: &Settings,
    cache: Option<PathBuf>,
    state: Option<Dir>,
    seed: Seed,
) -> Result<Snapshots> {
    let state = Arc::new(State::new(state));
    let machine_key = machine_key::load(settings, &state, seed);
    let upstream = Upstream::new(settings, Path::new(ROOT), state.clone())?;
    let snapshots = Snapshots::new(settings.clone(), upstream, cache, state);
    Ok(snapshots.signing(machine_key))
}

/// The directory that systemd names, or one below the user's home if it can be created.
fn cache_directory() -> Option<PathBuf> {
    let path = settings::cache_directory()?;
    let is_named = std::env::var_os("CACHE_DIRECTORY").is_some_and(|named| *named == *path);
    (is_named || Dir::create(&path).is_ok()).then_some(path)
}

/// The state directory, if there is one or it can be created.
fn state_directory() -> Option<Dir> {
    let path = settings::state_directory()?;
    Dir::create(&path)
        .inspect_err(|error| warn!("state directory {}: {error}", path.display()))
        .ok()
}

/// Says which policy of container tools counts, and for whom it does not.
fn tell_of_policy(settings: &Settings) {
    let Some(policy) = &settings.policy else {
        return;
    };
    let path = policy.path.display();
    info!("{path} says which signatures are asked for");
    for (name, of_repository) in &settings.repositories {
        if of_repository.policy == PolicyUse::None {
            info!("{path} does not count for [repository.\"{name}\"], which has policy = \"none\"");
        }
        for rule in rules_of(name, settings) {
            info!("[repository.\"{name}\"]: {rule}");
        }
    }
}

/// The rules of the policy for a repository. There may be others for single tags and digests.
fn rules_of(name: &RepositoryAddress, settings: &Settings) -> BTreeSet<String> {
    let directory = Directory {
        repository: name.clone(),
        view: View::Tags,
    };
    // A repository that cannot be located is reported when it is asked for.
    let Ok(located) = directory.locate(settings) else {
        return BTreeSet::new();
    };
    let rules = located.places.iter().flat_map(|(_, place)| {
        let requirement = located.requirement(place, settings);
        requirement.rules(Digest::of(b""), None)
    });
    rules.filter_map(|rule| rule.told()).collect()
}

fn warn_of_missing(has_cache: bool, has_state: bool) {
    if !has_cache {
        warn!(
            "there is no cache directory, so nothing is kept on disk, and images that have to be flattened are \
             not offered; CacheDirectory= of the service, or $CACHE_DIRECTORY, names one"
        );
    }
    if !has_state {
        warn!(
            "there is no state directory, so nothing is remembered but what the cache has, and repositories \
             with 'immutable-tags' are not listed; StateDirectory= of the service, or $STATE_DIRECTORY, names one"
        );
    }
}
