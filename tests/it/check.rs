//! The command `check`: a fault is planted, and found with its remedy.
//!
//! The machine is a folder: its files, and what `systemctl` and `journalctl` say of it, by programs of that name that come
//! first in `$PATH`.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use jiff::Zoned;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::content::{OCI_TAR, Repository, versions};
use crate::cosign::Key;
use crate::registry::{Guard, Registry, guarded, nowhere, with_tls};
use crate::service::{Folder, NO_LOGINS, Service, Setup, command, output};
use crate::sigstore::Sigstore;
use crate::tls::Authority;

/// Prints the file of the unit that is named last, below the folder `units` beside it.
const SYSTEMCTL: &str = r#"#!/bin/sh
for unit; do :; done
cat "${0%/*}/../units/$unit" 2>/dev/null || echo LoadState=not-found
"#;
/// Prints one file, whatever it is asked for.
const JOURNALCTL: &str = r#"#!/bin/sh
cat "${0%/*}/../journal"
"#;

/// The socket unit at this address, as `systemctl show` prints it.
fn socket(address: SocketAddr) -> String {
    format!(
        "LoadState=loaded\nUnitFileState=enabled\nActiveState=active\nResult=success\nNeedDaemonReload=no\n\
         WantedBy=sockets.target\nUpheldBy=\nListen={address} (Stream)\n"
    )
}

pub const TRANSFER: &str = "etc/sysupdate.hello.d/hello.transfer";
pub const TIMER: &str = "sysext-oci-proxy-update@hello.timer";
pub const TIMER_IS_ACTIVE: &str = "LoadState=loaded\nUnitFileState=enabled\nActiveState=active\nConditionResult=yes\n\
                                   NextElapseUSecRealtime=Mon 2026-11-30 02:14:07 UTC\n";
pub const ROOT_MOUNT: &str = "22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n";

/// The transfer file. `Path=` is its fourth line, and `Verify=` the sixth.
pub fn transfer(service: SocketAddr) -> String {
    format!(
        "[Source]\nType=url-file\nMatchPattern=hello-@v.raw\nPath=http://{service}/hello\n[Transfer]\nVerify=no\n\
         [Target]\nType=regular-file\nPath=/var/lib/extensions.d\nCurrentSymlink=/var/lib/extensions/hello.raw\n"
    )
}

/// A machine on which nothing is wrong, as far as its files and units go.
pub struct Machine(Folder);

impl Machine {
    /// One on which nobody answers for the service.
    pub fn new() -> Self {
        Self::at(nowhere().parse().unwrap())
    }

    /// One whose socket unit listens at this address.
    pub fn at(service: SocketAddr) -> Self {
        let machine = Self(Folder::new());
        for (program, script) in [("systemctl", SYSTEMCTL), ("journalctl", JOURNALCTL)] {
            machine.write(&format!("bin/{program}"), script);
            let path = machine.path(&format!("bin/{program}"));
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        machine.write("journal", "");
        machine.unit(
            "sysext-oci-proxy.service",
            "LoadState=loaded\nActiveState=inactive\nSubState=dead\nResult=success\nExecMainStatus=0\n",
        );
        machine.unit("sysext-oci-proxy.socket", &socket(service));
        machine.listens("0100007F", service.port(), 0);
        machine.updates(service);
        machine
    }

    /// It installs `hello` of the service every night.
    fn updates(&self, service: SocketAddr) {
        for (path, text) in [
            (TRANSFER, transfer(service).as_str()),
            ("usr/lib/systemd/systemd-sysupdate", ""),
            ("usr/lib/systemd/import-pubring.pgp", "\u{1}"),
            ("usr/bin/gpg", ""),
            ("usr/lib/os-release", "ID=debian\nVERSION_ID=13\n"),
            ("proc/self/mountinfo", ROOT_MOUNT),
            ("var/lib/extensions.d/hello-v1.raw", "image 1"),
        ] {
            self.write(path, text);
        }
        fs::create_dir_all(self.path("var/lib/extensions")).unwrap();
        self.unit("--version", "systemd 262 (262-1)\n+PAM\n");
        self.unit(TIMER, TIMER_IS_ACTIVE);
    }

    /// One whose service has the settings of this setup.
    pub fn with(setup: Setup) -> (Self, Service) {
        let settings = setup.text().to_owned();
        let service = setup.start();
        let machine = Self::at(service.address);
        machine.write("etc/sysext-oci-proxy/config.toml", &settings);
        (machine, service)
    }

    pub fn path(&self, name: &str) -> PathBuf {
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

/// The findings of `check`.
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

/// The same of a service with this setup, whose repository is `hello`.
#[track_caller]
fn is_found_at(setup: Setup, step: &str, texts: &[&str]) {
    let (machine, _service) = Machine::with(setup);
    let found = machine.check(&["hello"]);
    found.has("failed", step, texts);
    assert_eq!(found.status, Some(1), "{}", found.text);
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    let registry = Registry::with_hello(versions(3).0);
    let (machine, _service) = Machine::with(Setup::of(&registry));
    let found = machine.check(&["hello"]);
    assert_eq!(found.status, Some(0), "{}", found.text);
    let host = registry.address.to_string();
    for (step, texts) in [
        ("socket", &["active and enabled"][..]),
        ("port", &["belongs to root"]),
        ("settings", &["config.toml", &host]),
        ("cache", &["var/cache/sysext-oci-proxy", "is free"]),
        ("state", &["var/lib/sysext-oci-proxy", "is free"]),
        ("service", &["it answers at http://127.0.0.1:"]),
        ("clock", &[]),
        ("proxy", &[&host]),
        ("resolution", &[&host]),
        ("connection", &[&host]),
        ("tls", &[&host]),
        ("login", &["hello: "]),
        ("tags", &["3 tags"]),
        ("names", &["3 files on offer, the newest is hello-v2.raw"]),
        ("signatures", &["require none"]),
    ] {
        found.has("ok", step, texts);
    }
    let mut lines = found.text.lines();
    let updates = lines.position(|line| line.contains(" sysupdate "));
    assert_eq!(updates, Some(15), "{}", found.text);
}

#[test]
fn without_a_repository_those_of_transfer_files_and_settings_are_checked() {
    let registry = Registry::with_hello(versions(1).0);
    registry.put("other", versions(2).0);
    let more = "[repository.other]\nflatten = 1\n";
    let (machine, _service) = Machine::with(Setup::of(&registry).settings(more));
    let transfer =
        "[Source]\nType=url-file\nPath=http://localhost:5001/hello/\nMatchPattern=hello-@v.raw\n";
    machine.write("etc/sysupdate.hello.d/hello.transfer", transfer);
    let found = machine.check(&[]);
    found.has("ok", "tags", &["hello: ", "has 1 tag"]);
    found.has("ok", "tags", &["other: ", "2 tags"]);
    // A finding about the registry is printed once.
    let of_registry = found
        .text
        .lines()
        .filter(|line| line.contains(" connection "));
    assert_eq!(of_registry.count(), 1, "{}", found.text);
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
    let service: SocketAddr = nowhere().parse().unwrap();
    machine.unit("sysext-oci-proxy.socket", &socket(service));
    machine.listens("0100007F", service.port(), 4711);
    is_found(
        &machine,
        "port",
        &["a program of user 4711 listens", "ss -ltnp"],
    );
    machine.listens("00000000", service.port(), 0);
    let failed = socket(service).replace("ActiveState=active", "ActiveState=failed");
    machine.unit("sysext-oci-proxy.socket", &failed);
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
    let texts = [
        "10-mine.toml:2: ",
        "mean registry?",
        "correct the settings, then run `systemctl try-reload-or-restart",
    ];
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
fn a_policy_that_is_none_is_found() {
    let machine = Machine::new();
    machine.write("etc/containers/policy.json", "{\"default\": []}\n");
    is_found(
        &machine,
        "settings",
        &["etc/containers/policy.json: ", "correct the settings"],
    );
}

#[test]
fn directories_that_cannot_be_written_are_found() {
    let machine = Machine::new();
    machine.write("var/cache/sysext-oci-proxy", "");
    is_found(
        &machine,
        "cache",
        &["this is a file, expected a directory", "remove it"],
    );
    machine.write("var/lib/sysext-oci-proxy/x", "");
    let state = machine.path("var/lib/sysext-oci-proxy");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o555)).unwrap();
    is_found(&machine, "state", &["its owner may not write", "chmod u+w"]);
    fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_service_that_does_not_start_is_found_with_what_systemd_says() {
    let machine = Machine::new();
    machine.unit(
        "sysext-oci-proxy.service",
        "LoadState=loaded\nActiveState=activating\nSubState=auto-restart\nResult=exit-code\nExecMainStatus=203\n",
    );
    let texts = [
        "it does not answer",
        "auto-restart",
        "exit status 203",
        "ExecStart=",
    ];
    is_found(&machine, "service", &texts);
}

#[test]
fn a_wrong_clock_is_found() {
    let machine = Machine::new();
    machine.write("usr/lib/clock-epoch", "");
    let file = fs::File::open(machine.path("usr/lib/clock-epoch")).unwrap();
    let later = SystemTime::now() + Duration::from_secs(86_400 * 400);
    file.set_modified(later).unwrap();
    is_found(&machine, "clock", &["earlier than", "timedatectl"]);
}

#[test]
fn a_host_without_an_address_is_found() {
    let setup = Setup::new("registry = \"no-such-host.invalid\"\n");
    let texts = ["no-such-host.invalid: cannot connect", "getent hosts"];
    is_found_at(setup, "resolution", &texts);
}

#[test]
fn a_proxy_that_is_none_or_does_not_answer_is_found() {
    let settings = "registry = \"registry.example.com\"\n";
    let setup = Setup::new(settings).env("HTTPS_PROXY", "socks5://10.0.0.1");
    is_found_at(setup, "proxy", &["$HTTPS_PROXY", "socks5", "Environment="]);
    let setup = Setup::new(settings).env("HTTPS_PROXY", format!("http://{}", nowhere()));
    is_found_at(setup, "proxy", &["through the proxy", "NO_PROXY"]);
}

#[test]
fn a_registry_that_is_down_is_found() {
    let settings = format!("registry = \"{}\"\n", nowhere());
    is_found_at(
        Setup::new(settings),
        "connection",
        &["cannot connect", "curl -v"],
    );
}

#[test]
fn a_certificate_that_is_not_trusted_is_found() {
    let registry = with_tls(&Authority::new());
    let other = Authority::new();
    let setup = Setup::of(&registry).certificate(registry.address, "ca.crt", &other.pem());
    is_found_at(
        setup,
        "tls",
        &["is not trusted", "/etc/containers/certs.d/"],
    );
}

#[test]
fn a_login_that_is_missing_or_wrong_is_found() {
    let registry = guarded(Guard::basic(&["alice:s3cret"]));
    let texts = ["wants a login", NO_LOGINS, "skopeo login --authfile"];
    is_found_at(Setup::of(&registry), "login", &texts);
    let setup = Setup::of(&registry).login(registry.address, "alice:wrong");
    is_found_at(
        setup,
        "login",
        &["refuses the login from", "auth.json", "log in again"],
    );
}

#[test]
fn a_repository_that_is_not_there_or_empty_is_found() {
    let registry = Registry::start();
    is_found_at(
        Setup::of(&registry),
        "tags",
        &["registry has no ", "the name of the repository"],
    );
    registry.put("hello", Repository::default());
    is_found_at(
        Setup::of(&registry),
        "tags",
        &["hello has no tags", "oras push"],
    );
}

/// What is skipped or held back by design is information, and no fault.
#[test]
fn a_newer_version_that_is_not_offered_is_named_with_its_reason() {
    let mut hello = versions(3).0;
    let digest = hello.tags["v1"].clone();
    for name in ["latest", &digest.replace(':', "-")] {
        hello.tags.insert(name.to_owned(), digest.clone());
    }
    let registry = Registry::with_hello(hello);
    let names = |settings: &str, status: &str, texts: &[&str]| {
        let setup = Setup::of(&registry).settings(&format!("[repository.hello]\n{settings}"));
        let (machine, _service) = Machine::with(setup);
        let found = machine.check(&["hello"]);
        found.has(status, "names", texts);
        assert_eq!(found.status, Some(0), "{}", found.text);
        found.text
    };
    let text = names("", "ok", &["the newest is hello-"]);
    assert!(!text.contains("the newer tag"), "{text}");
    let hold = "hold = \"1\"\nexclude = [\"0\"]\n";
    let held = [
        "the newest is hello-v1.raw",
        "the newer tag v2 is not offered: ",
        "newer than hold = \"1\"",
    ];
    names(hold, "ok", &held);
    registry.change(|hello| {
        let entry = [("arm64", "hello.raw", &b"image"[..])];
        hello.index("v4", &entry);
    });
    let skipped = [
        "the newest is hello-v2.raw",
        "the newer tag v4 is not offered: ",
        "arm64",
    ];
    names("architectures = [\"x86-64\"]\n", "ok", &skipped);
    // One that should have been offered counts more.
    registry.change(|hello| hello.tag("v3", b"no JSON"));
    let refused = [
        "the newer tag v3 is not offered: manifest",
        "list REPOSITORY --all",
    ];
    names("architectures = [\"x86-64\"]\n", "warning", &refused);
}

#[test]
fn a_repository_of_which_nothing_is_offered_is_found() {
    let mut hello = Repository::default();
    hello.tag("v1", b"{}");
    let registry = Registry::with_hello(hello);
    is_found_at(
        Setup::of(&registry),
        "names",
        &["no file is offered", "v1: ", "list REPOSITORY --all"],
    );
}

#[test]
fn a_registry_that_the_settings_do_not_allow_is_found() {
    let registry = Registry::with_hello(versions(1).0);
    let (machine, _service) = Machine::with(Setup::of(&registry));
    let found = machine.check(&["ghcr.io/acme/hello"]);
    found.has(
        "failed",
        "settings",
        &["neither the default registry nor allowed", "'allow'"],
    );
    assert_eq!(found.status, Some(1), "{}", found.text);
}

#[test]
fn a_version_that_is_not_signed_is_found() {
    let registry = Registry::start();
    let mut hello = Repository::default();
    let layer = hello.file(OCI_TAR, "hello.raw", b"image");
    let manifest = hello.artifact(&[layer], json!({}));
    hello.point("v1", &manifest);
    registry.put("hello", hello);
    let keys = Folder::new();
    let (key, pem) = (keys.path().join("acme.pub"), Key::new().pem());
    keys.file("acme.pub", &pem);
    let settings = format!("[repository.hello]\nverify = [{{ key = {key:?} }}]\n");
    let (machine, _service) = Machine::with(Setup::of(&registry).settings(&settings));
    machine.write(key.to_str().unwrap().trim_start_matches('/'), &pem);
    let found = machine.check(&["hello"]);
    let texts = ["no version is accepted", "not signed", "cosign verify"];
    found.has("failed", "signatures", &texts);
    assert_eq!(found.status, Some(1), "{}", found.text);
}

#[test]
fn a_certificate_that_ends_soon_is_found() {
    let registry = Registry::with_hello(versions(1).0);
    let (machine, _service) = Machine::with(Setup::of(&registry));
    let file = format!("etc/containers/certs.d/{}/ca.crt", registry.address);
    for (days, status, text) in [
        (-2, "warning", "it expired"),
        (10, "warning", "expires soon"),
        (90, "ok", "it expires on"),
    ] {
        let date = Zoned::now().with_time_zone(TimeZone::UTC).date();
        let end = date.checked_add(jiff::Span::new().days(days)).unwrap();
        machine.write(&file, &Authority::ending(end).pem());
        let found = machine.check(&["hello"]);
        found.has(status, "expiry", &[&file, text]);
        assert_eq!(
            found.status,
            Some(0),
            "an update still happens: {}",
            found.text
        );
    }
}

#[test]
fn a_trusted_root_that_ends_soon_is_found() {
    let registry = Registry::with_hello(versions(1).0);
    let sigstore = Sigstore::new();
    for (days, status, text) in [
        (Some(-2), "warning", "this trusted root ended on"),
        (Some(10), "warning", "this trusted root ends soon, on"),
        (Some(90), "ok", "this trusted root ends on"),
        (None, "ok", "no service in this trusted root ends"),
    ] {
        let end =
            days.map(|days| jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * days));
        let root = sigstore.trusted_root(end).to_string();
        let folder = Folder::new();
        let file = folder.file("trusted_root.json", &root);
        let settings = format!(
            "[repository.hello]\ntrusted-root = {file:?}\n\
             verify = [{{ keyless = {{ issuer = \"https://a\", subject = \"b\" }} }}]\n"
        );
        let (machine, _service) = Machine::with(Setup::of(&registry).settings(&settings));
        machine.write(file.to_str().unwrap().trim_start_matches('/'), &root);
        let found = machine.check(&["hello"]);
        found.has(status, "expiry", &[file.to_str().unwrap(), text]);
    }
}

#[test]
fn what_cannot_be_found_out_is_neither_yes_nor_no() {
    let registry = Registry::with_hello(versions(1).0);
    let (machine, _service) = Machine::with(Setup::of(&registry));
    machine.write("var/lib/x", "");
    let state = machine.path("var/lib/sysext-oci-proxy");
    symlink(&state, &state).unwrap();
    let found = machine.check(&["hello"]);
    found.has("unknown", "state", &["cannot be opened"]);
    assert_eq!(found.status, Some(69), "{}", found.text);
}

#[test]
fn systemd_is_not_asked_about_another_service_or_none() {
    let registry = Registry::with_hello(versions(1).0);
    let service = Service::of(&registry);
    let machine = Machine::new();
    machine.write("etc/sysext-oci-proxy/config.toml", &registry.settings());
    machine.write("bin/systemctl", "#!/bin/sh\nexit 1\n");
    let url = format!("http://{}", service.address);
    let found = machine.check(&["hello", "--service", &url]);
    assert_eq!(found.status, Some(0), "{}", found.text);
    found.has(
        "skipped",
        "socket",
        &["not the service that systemd starts"],
    );
    let layout = Folder::with_layout(&versions(1).0);
    let layout = format!("oci:{}", layout.path().display());
    let found = machine.check(&[&layout]);
    assert_eq!(found.status, Some(0), "{}", found.text);
    found.has("skipped", "socket", &["without the service"]);
    found.has("ok", "names", &["1 file on offer"]);
}

#[test]
fn the_registry_is_looked_at_though_the_service_does_not_answer() {
    let registry = guarded(Guard::basic(&["alice:s3cret"]));
    let machine = Machine::new();
    machine.write("etc/sysext-oci-proxy/config.toml", &registry.settings());
    let found = machine.check(&["hello"]);
    found.has("failed", "service", &["it does not answer"]);
    found.has("ok", "connection", &[&registry.address.to_string()]);
    found.has(
        "unknown",
        "login",
        &["asked by this command", "correct the service first"],
    );
    assert_eq!(found.status, Some(1), "{}", found.text);
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
