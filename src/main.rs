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

use cli::{Command, CommandLine};
use error::Result;
use settings::Settings;

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
    let settings = Settings::load(command_line.config.as_deref(), Path::new("/"))?;
    match command_line.command() {
        Command::Serve(serve) => serve::run(settings, serve.listen, settings::cache_directory()),
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
