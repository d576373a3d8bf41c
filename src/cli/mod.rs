//! The command line: arguments → exit code. One file for each command, except `serve`, which is `server/`.

mod arguments;
mod inspect;
mod key;
pub mod list;
mod output;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use log::{error, warn};

use crate::dir::Dir;
use crate::error::Result;
use crate::server::{self, handler::Service};
use crate::settings::{self, Settings};
use crate::snapshot::Snapshots;
use crate::source::Upstream;
use crate::state::State;
use arguments::{Command, CommandLine, Serve};
use output::print;

/// The directory below which settings and the files of container tools are.
const ROOT: &str = "/";

/// Runs the program with these arguments, of which the first is its name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let command_line = CommandLine::parse(arguments).unwrap_or_else(|error| error.exit());
    output::start_log(command_line.is_to_serve());
    match execute(command_line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{}", error.line());
            server::turn_away_waiting(&error);
            ExitCode::from(error.exit_status())
        }
    }
}

fn execute(command_line: CommandLine) -> Result<()> {
    let settings = Settings::load(command_line.config.as_deref(), Path::new(ROOT))?;
    match command_line.command() {
        Command::Serve(Serve { listen }) => {
            let (cache, state) = (cache_directory(), state_directory());
            let (has_cache, has_state) = (cache.is_some(), state.is_some());
            let snapshots = snapshots(&settings, cache, state)?;
            let listener = server::open_listener(listen)?;
            warn_of_missing(has_cache, has_state);
            let service = Service {
                settings,
                snapshots,
            };
            server::run(service, listener)
        }
        Command::List {
            directory,
            all,
            json,
        } => {
            let located = directory.locate(&settings)?;
            print(&list::list(&open(&settings)?, &located, all, json)?)
        }
        Command::Inspect { directory } => {
            let located = directory.locate(&settings)?;
            print(&inspect::inspect(&open(&settings)?, &located)?)
        }
        Command::Url { directory, layer } => {
            let located = directory.locate(&settings)?;
            let layer = layer.as_deref();
            print(&inspect::url(&open(&settings)?, &located, layer)?)
        }
        Command::Key { forget_signed } => print(&key::forget_signed(&settings, forget_signed)?),
    }
}

/// Everything that a listing is made from.
fn open(settings: &Settings) -> Result<Snapshots> {
    snapshots(settings, cache_directory(), state_directory())
}

fn snapshots(settings: &Settings, cache: Option<PathBuf>, state: Option<Dir>) -> Result<Snapshots> {
    let state = Arc::new(State::new(state));
    let upstream = Upstream::new(settings, Path::new(ROOT), state.clone())?;
    Ok(Snapshots::new(settings.clone(), upstream, cache, state))
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
