//! Serves OCI registries to systemd-sysupdate: see README.md for what it does, and `server/handler.rs` for how.
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that fails says so by a panic")
)]

mod address;
mod artifact;
mod blob;
mod cache;
mod cli;
mod companions;
mod deadline;
mod digest;
mod dir;
mod dissect;
mod error;
mod extension_release;
mod flatten;
#[cfg(any(test, fuzzing))]
#[path = "../tests/fuzz/properties/mod.rs"]
pub mod fuzz;
mod hangup;
mod listing;
mod lock;
mod manifest;
mod memory;
mod name;
mod parallel;
mod places;
mod platform;
mod pool;
mod resolve;
mod server;
mod settings;
mod snapshot;
mod source;
mod state;
mod template;
mod transfers;

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use log::{Level, LevelFilter, error, warn};

use cli::{Command, CommandLine, Inspect, Key, List, Serve, Url};
use dir::Dir;
use error::{Error, Result};
use server::handler::Service;
use settings::Settings;
use snapshot::Snapshots;
use source::Upstream;
use state::State;

/// The program: reads the command line and does what it says.
pub fn main() -> ExitCode {
    let command_line = CommandLine::read();
    start_log(command_line.is_to_serve());
    match run(command_line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{}", error.line());
            server::turn_away_waiting(&error);
            ExitCode::from(error.exit_status())
        }
    }
}

fn run(command_line: CommandLine) -> Result<()> {
    let settings = Settings::load(command_line.config.as_deref(), Path::new(ROOT))?;
    match command_line.command() {
        Command::Serve(Serve { listen }) => {
            let idle = settings.idle_timeout;
            let Means {
                upstream,
                cache,
                state,
            } = Means::of(&settings)?;
            let has_cache = cache.is_some();
            let has_state = state.is_there();
            let service = Service::new(settings, upstream, cache, state);
            server::run(service, listen, idle, has_cache, has_state)
        }
        Command::List(List {
            directory,
            all,
            json,
        }) => {
            let snapshot = snapshots(settings)?.listing(&directory)?;
            let listing = &snapshot.whole_listing();
            let left_out = listing.left_out.len();
            if listing.files.is_empty() && left_out > 0 && !all {
                warn!("{directory}: no file is offered, {left_out} left out; --all shows why");
            }
            print(&if json {
                cli::list::json(listing, all)
            } else {
                cli::list::table(listing, all)
            })
        }
        Command::Inspect(Inspect { directory }) => {
            print(&cli::inspect::inspect(&snapshots(settings)?, &directory)?)
        }
        Command::Url(Url { directory, layer }) => {
            let snapshots = snapshots(settings)?;
            print(&cli::inspect::url(
                &snapshots,
                &directory,
                layer.as_deref(),
            )?)
        }
        Command::Key(Key { forget_signed }) => {
            print(&cli::key::forget_signed(&settings, &forget_signed)?)
        }
    }
}

/// Where settings and the files of container tools are.
const ROOT: &str = "/";

/// What an answer takes: the way to registries, and what is kept.
struct Means {
    upstream: Arc<Upstream>,
    cache: Option<PathBuf>,
    state: Arc<State>,
}

impl Means {
    fn of(settings: &Settings) -> Result<Self> {
        let state = Arc::new(State::new(open_state()));
        Ok(Self {
            upstream: Upstream::new(settings, Path::new(ROOT), state.clone())?,
            cache: cache_directory(),
            state,
        })
    }
}

fn snapshots(settings: Settings) -> Result<Snapshots> {
    let Means {
        upstream,
        cache,
        state,
    } = Means::of(&settings)?;
    Ok(Snapshots::new(settings, upstream, cache, state))
}

/// The cache's directory: one that systemd names, whatever it is, or one below the user's home, where that can be.
fn cache_directory() -> Option<PathBuf> {
    let path = settings::cache_directory()?;
    let is_named = std::env::var_os("CACHE_DIRECTORY").is_some_and(|named| *named == *path);
    (is_named || Dir::create(&path).is_ok()).then_some(path)
}

/// The state's directory, where there is one.
fn open_state() -> Option<Dir> {
    let path = settings::state_directory()?;
    Dir::create(&path)
        .inspect_err(|error| warn!("state directory {}: {error}", path.display()))
        .ok()
}

/// To standard output. A reader that has seen enough is no error.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Error::Service {
            what: "write to standard output",
            cause: Arc::new(error),
        }),
        _ => Ok(()),
    }
}

/// Messages go to standard error, each in one line. The journal reads their level from a prefix
/// (sd-daemon(3)); `RUST_LOG` says what is of interest, by default
/// everything from info, and for commands that print something from warning.
fn start_log(is_service: bool) {
    let is_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    env_logger::Builder::new()
        .filter_level(if is_service {
            LevelFilter::Info
        } else {
            LevelFilter::Warn
        })
        .parse_default_env()
        .format(move |out, record| {
            // ureq writes what goes over the wire, logins and signed URLs and all; the verifier says
            // what our own error says again.
            let target = record.target();
            if (target.starts_with("ureq") && record.level() > Level::Warn)
                || target.starts_with("rustls_platform_verifier")
            {
                return Ok(());
            }
            let (number, name) = match record.level() {
                Level::Error => (3, "error: "),
                Level::Warn => (4, "warning: "),
                Level::Info => (6, ""),
                Level::Debug | Level::Trace => (7, ""),
            };
            let line = cli::list::printable(&record.args().to_string());
            if is_journal {
                writeln!(out, "<{number}>{line}")
            } else {
                writeln!(out, "{name}{line}")
            }
        })
        .init();
}
