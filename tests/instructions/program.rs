//! `instructions` prints the names of the scenarios; `instructions NAME DIRECTORY` does the work of one, which may write
//! into the directory. `run` counts its instructions.

#![allow(
    clippy::unwrap_used,
    reason = "a tool for tests ends where something is wrong"
)]

use std::path::Path;

use sysext_oci_proxy::instructions::{SCENARIOS, counted};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [] => SCENARIOS.iter().for_each(|(name, _)| println!("{name}")),
        [name, directory] => {
            let (_, prepare) = SCENARIOS.iter().find(|one| one.0 == name).unwrap();
            counted(prepare(Path::new(directory)));
        }
        _ => panic!("usage: instructions [NAME DIRECTORY]"),
    }
}
