//! Serves OCI registries to systemd-sysupdate: see README.md for what it does, and `answer.rs` for how.
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that fails says so by a panic")
)]

mod address;
mod answer;
mod architecture;
mod artifact;
mod cache;
mod cli;
mod digest;
mod error;
mod http;
mod listing;
mod lock;
mod manifest;
mod name;
mod page;
mod payload;
mod resolve;
mod serve;
mod settings;
mod snapshot;
mod source;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use log::{Level, error};

use answer::Service;
use cli::{Command, CommandLine, Serve};
use error::Result;
use settings::Settings;
use source::Upstream;

fn main() -> ExitCode {
    let command_line = CommandLine::parse();
    start_log();
    match run(command_line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{}", error.line());
            serve::turn_away_waiting(&error);
            ExitCode::from(error.exit_status())
        }
    }
}

fn run(command_line: CommandLine) -> Result<()> {
    let root = Path::new("/");
    let settings = Settings::load(command_line.config.as_deref(), root)?;
    let upstream = Upstream::new(&settings, root)?;
    match command_line.command() {
        Command::Serve(Serve { listen }) => {
            let idle = settings.idle_timeout;
            let service = Service::new(settings, upstream, settings::cache_directory());
            serve::run(service, listen, idle)
        }
    }
}

/// Messages go to standard error, each in one line. The journal reads their level from a prefix
/// (sd-daemon(3)); `RUST_LOG` says what is of interest, by default everything from info.
fn start_log() {
    let is_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    env_logger::Builder::new()
        .filter_level(log::LevelFilter::Info)
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
            if is_journal {
                writeln!(out, "<{number}>{}", record.args())
            } else {
                writeln!(out, "{name}{}", record.args())
            }
        })
        .init();
}
