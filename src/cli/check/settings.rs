//! The settings, read without starting the service.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::machine::Machine;
use super::report::{Finding, Report, Step};
use crate::advice::advice;
use crate::error::{Error, Result};
use crate::settings::{self, Settings};

/// Reads them as the service does, or as this command does with `--config` or `--direct`. `None`: they have a mistake.
pub fn check(
    report: &mut Report,
    machine: &Machine,
    config: Option<&Path>,
    is_direct: bool,
) -> Option<Settings> {
    let loaded = match is_direct {
        true => Settings::load(config, machine.root()),
        false => Settings::of_service(machine.root()),
    };
    match loaded.and_then(|settings| Ok((settings, files(machine, config)?))) {
        Ok((settings, files)) => {
            let unreadable = files
                .iter()
                .find(|file| !is_direct && is_for_root_alone(file));
            report.push(match unreadable {
                Some(file) => Finding::failed(
                    Step::Settings,
                    "only root can read the file or its directory; the service runs as another user",
                    "run `chmod a+rX` on the file and its directory",
                )
                .of(file),
                None => Finding::ok(Step::Settings, summary(&settings, &files)),
            });
            Some(settings)
        }
        Err(error) => {
            report.push(mistake(&error));
            None
        }
    }
}

fn mistake(error: &Error) -> Finding {
    let remedy = advice(error).1.unwrap_or("correct it");
    match error {
        Error::BadSettings { path, line, why } => {
            let line = line.map_or_else(String::new, |line| format!(":{line}"));
            let place = format!("{}{line}", path.display());
            Finding::failed(Step::Settings, why, remedy).of(place)
        }
        error => Finding::failed(Step::Settings, error.line(), remedy),
    }
}

fn files(machine: &Machine, config: Option<&Path>) -> Result<Vec<String>> {
    let files = settings::files(config, machine.root())?;
    let paths = files.into_iter().map(|path| path.display().to_string());
    Ok(paths.collect())
}

/// Whether the service, which is neither root nor in its group, cannot read a file.
fn is_for_root_alone(file: &str) -> bool {
    let denies = |path: &Path, (group, others): (u32, u32)| {
        fs::metadata(path).is_ok_and(|found| {
            let may_group = found.mode() & group != 0 && found.gid() != 0;
            found.mode() & others == 0 && !may_group
        })
    };
    let path = Path::new(file);
    denies(path, (0o040, 0o004))
        || path
            .parent()
            .is_some_and(|folder| denies(folder, (0o010, 0o001)))
}

fn summary(settings: &Settings, files: &[String]) -> String {
    let registry = &settings.registry;
    match files {
        [] => format!("there is no settings file; the registry is {registry}"),
        [file] => format!("{file} is valid; the registry is {registry}"),
        [.., _] => format!(
            "{} files are valid: {}; the registry is {registry}",
            files.len(),
            files.join(", ")
        ),
    }
}
