//! The command `check`: a fault is planted, and found with its remedy.
//!
//! The machine is a folder: its files, and what `systemctl` and `journalctl` say of it, by programs of that name that come
//! first in `$PATH`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::service::{Folder, command, output};

/// Prints the file of the unit that is named last, below the folder `units` beside it.
const SYSTEMCTL: &str = r#"#!/bin/sh
for unit; do :; done
cat "${0%/*}/../units/$unit" 2>/dev/null || echo LoadState=not-found
"#;
/// Prints one file, whatever it is asked for.
const JOURNALCTL: &str = r#"#!/bin/sh
cat "${0%/*}/../journal"
"#;

/// A machine on which nothing is wrong, as far as its files and units go.
pub struct Machine(Folder);

impl Machine {
    pub fn new() -> Self {
        let machine = Self(Folder::new());
        for (program, script) in [("systemctl", SYSTEMCTL), ("journalctl", JOURNALCTL)] {
            machine.write(&format!("bin/{program}"), script);
            let path = machine.path(&format!("bin/{program}"));
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        machine.write("journal", "");
        machine.unit(
            "sysext-oci-proxy.socket",
            "LoadState=loaded\nUnitFileState=enabled\nActiveState=active\nResult=success\nNeedDaemonReload=no\n\
             WantedBy=sockets.target\nUpheldBy=\nListen=127.0.0.1:5001 (Stream)\n",
        );
        machine.listens("0100007F", 5001, 0);
        machine
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file of it.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// The properties that `systemctl show` prints of a unit.
    pub fn unit(&self, name: &str, properties: &str) {
        self.write(&format!("units/{name}"), properties);
    }

    /// A listener of this user on an address of IPv4, as the kernel prints it.
    pub fn listens(&self, address: &str, port: u16, user: u32) {
        let line = format!(
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
             0: {address}:{port:04X} 00000000:0000 0A 00000000:00000000 00:00000000 00000000 {user:>5}        0 7 1\n"
        );
        self.write("proc/net/tcp", &line);
    }

    /// `check` of this machine.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let root = ["--root", self.0.path().to_str().unwrap()];
        let mut command = command(&[&["check"], arguments, &root].concat());
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", self.path("bin").display()));
        command
    }

    pub fn check(&self, arguments: &[&str]) -> Found {
        Found::of(&output(self.command(arguments)))
    }
}

/// What `check` found.
pub struct Found {
    pub status: Option<i32>,
    pub text: String,
}

impl Found {
    pub fn of(output: &Output) -> Self {
        let said = [&output.stdout[..], &output.stderr].concat();
        Self {
            status: output.status.code(),
            text: String::from_utf8(said).unwrap(),
        }
    }

    /// One step has this status, and its lines contain all of these texts.
    #[track_caller]
    pub fn has(&self, status: &str, step: &str, texts: &[&str]) {
        let start = format!("{status:8} {step:12} ");
        let lines: Vec<_> = self.text.lines().collect();
        let of_one = lines.iter().enumerate().find_map(|(n, line)| {
            let remedy = lines.get(n + 1).filter(|next| next.starts_with("  "));
            let both = format!("{line}\n{}", remedy.unwrap_or(&""));
            let is_it = line.starts_with(&start) && texts.iter().all(|text| both.contains(text));
            is_it.then_some(both)
        });
        assert!(
            of_one.is_some(),
            "no {status} {step} {texts:?} in\n{}",
            self.text
        );
    }
}

/// The fault is found: the step failed for this reason, and this is what to do.
#[track_caller]
pub fn is_found(machine: &Machine, step: &str, texts: &[&str]) {
    let found = machine.check(&[]);
    found.has("failed", step, texts);
    assert_eq!(found.status, Some(1), "{}", found.text);
}

#[test]
fn a_socket_that_is_not_installed_masked_or_started_is_found() {
    let machine = Machine::new();
    machine.unit("sysext-oci-proxy.socket", "LoadState=not-found\n");
    is_found(&machine, "socket", &["is not installed", "daemon-reload"]);
    machine.unit("sysext-oci-proxy.socket", "LoadState=masked\n");
    is_found(&machine, "socket", &["is masked", "systemctl unmask"]);
    machine.unit(
        "sysext-oci-proxy.socket",
        "LoadState=loaded\nUnitFileState=disabled\nActiveState=inactive\n",
    );
    let remedy = "systemctl enable --now sysext-oci-proxy.socket";
    is_found(&machine, "socket", &["does not listen", remedy]);
}

#[test]
fn another_program_on_the_port_is_found() {
    let machine = Machine::new();
    machine.listens("0100007F", 5001, 4711);
    let texts = ["user 4711 listens on port 5001", "ss -ltnp"];
    is_found(&machine, "port", &texts);
    machine.listens("00000000", 5001, 0);
    let failed = "LoadState=loaded\nUnitFileState=enabled\nActiveState=failed\nResult=resources\n";
    machine.unit("sysext-oci-proxy.socket", failed);
    is_found(
        &machine,
        "port",
        &["another program than systemd", "ListenStream="],
    );
}

#[test]
fn a_mistake_in_the_settings_is_found_with_its_line() {
    let machine = Machine::new();
    let file = "etc/sysext-oci-proxy/config.d/10-mine.toml";
    machine.write(file, "parallel = 4\nregistri = \"ghcr.io\"\n");
    let texts = ["10-mine.toml:2: ", "mean registry?", "correct the settings"];
    is_found(&machine, "settings", &texts);
}

#[test]
fn settings_that_the_service_cannot_read_are_found() {
    let machine = Machine::new();
    let file = "etc/sysext-oci-proxy/config.toml";
    machine.write(file, "parallel = 4\n");
    fs::set_permissions(machine.path(file), fs::Permissions::from_mode(0o600)).unwrap();
    is_found(&machine, "settings", &["config.toml", "chmod a+rX"]);
}

#[test]
fn a_wrong_clock_is_found() {
    let machine = Machine::new();
    machine.write("usr/lib/clock-epoch", "");
    let file = fs::File::open(machine.path("usr/lib/clock-epoch")).unwrap();
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(86_400 * 400);
    file.set_modified(later).unwrap();
    is_found(&machine, "clock", &["earlier than", "timedatectl"]);
}

#[test]
fn json_has_the_findings_in_their_order() {
    let machine = Machine::new();
    machine.unit("sysext-oci-proxy.socket", "LoadState=masked\n");
    let found = machine.check(&["--json"]);
    let json: Value = serde_json::from_str(&found.text).unwrap();
    assert_eq!(json[0]["step"], "socket");
    assert_eq!(json[0]["status"], "failed");
    assert!(
        json[0]["remedy"].as_str().unwrap().contains("unmask"),
        "{json}"
    );
    assert!(Path::new(json[0]["subject"].as_str().unwrap_or("/")).is_absolute());
}
