//! The command `check`, where it looks at systemd-sysupdate on the machine: each fault is planted, and found with its
//! remedy.

use std::fs;
use std::os::unix::fs::symlink;

use crate::check::{Found, Machine, ROOT_MOUNT, TIMER, TIMER_IS_ACTIVE, TRANSFER, transfer};
use crate::content::{line, sign, versions};
use crate::images::layer;
use crate::registry::{Registry, nowhere};
use crate::service::{Service, Setup};

/// A machine that installs `hello` of a service, and on which nothing is wrong.
struct Updated {
    machine: Machine,
    service: Service,
    _registry: Registry,
}

impl Updated {
    fn new() -> Self {
        Self::of(Registry::with_versions(2).0)
    }

    /// The list is signed, in a repository with two versions. `signature`: its bytes.
    fn signed(signature: &[u8]) -> Self {
        let mut hello = versions(2).0;
        let list = line(b"image 0", "hello-v0.raw") + &line(b"image 1", "hello-v1.raw");
        sign(
            &mut hello,
            list.as_bytes(),
            &[("SHA256SUMS.gpg", signature)],
            &[],
        );
        Self::of(Registry::with_hello(hello))
    }

    fn of(registry: Registry) -> Self {
        let (machine, service) = Machine::with(Setup::of(&registry));
        let succeeded = r#"{"MESSAGE_ID":"7ad2d189f7e94e70a38c781354912448"}"#;
        machine.write("journal", &format!("{succeeded}\n"));
        Self {
            machine,
            service,
            _registry: registry,
        }
    }

    fn transfer(&self) -> String {
        transfer(self.service.address)
    }

    /// The transfer file with one text in place of another.
    fn with(&self, text: &str, other: &str) {
        let transfer = self.transfer();
        assert!(transfer.contains(text), "{text}: {transfer}");
        self.machine.write(TRANSFER, &transfer.replace(text, other));
    }

    fn check(&self) -> Found {
        self.machine.check(&["hello"])
    }

    #[track_caller]
    fn failed(&self, step: &str, texts: &[&str]) {
        let found = self.check();
        found.has("failed", step, texts);
        assert_eq!(found.status, Some(1), "{}", found.text);
    }

    #[track_caller]
    fn warned(&self, step: &str, texts: &[&str]) {
        let found = self.check();
        found.has("warning", step, texts);
        assert_eq!(found.status, Some(0), "{}", found.text);
    }
}

#[test]
fn a_machine_without_a_fault_is_good_at_each_step() {
    let updated = Updated::new();
    symlink(
        "../extensions.d/hello-v1.raw",
        updated.machine.path("var/lib/extensions/hello.raw"),
    )
    .unwrap();
    let release = "usr/lib/extension-release.d/extension-release.hello";
    let image = layer(&[(release, b"ID=_any\n")]);
    fs::write(
        updated.machine.path("var/lib/extensions.d/hello-v1.raw"),
        image,
    )
    .unwrap();
    for arguments in [&["hello"][..], &[]] {
        let found = updated.machine.check(arguments);
        for (step, text) in [
            ("sysupdate", "systemd 262"),
            ("transfer", "hello.transfer:4: it updates from hello"),
            ("pattern", "matches 2 of 2; the newest is v1"),
            ("installed", "v1 is installed"),
            ("keyring", "Verify=no"),
            ("target", "/var/lib/extensions.d is writable"),
            ("link", "has the name of the extension in it"),
            ("timer", "the next update is on Mon 2026-11-30"),
            ("last-run", "the last run succeeded"),
        ] {
            found.has("ok", step, &[text]);
        }
        found.has("skipped", "space", &["v1 is installed"]);
        assert_eq!(found.status, Some(0), "{}", found.text);
    }
}

#[test]
fn a_machine_without_sysupdate_is_found() {
    let updated = Updated::new();
    fs::remove_file(updated.machine.path("usr/lib/systemd/systemd-sysupdate")).unwrap();
    updated.failed(
        "sysupdate",
        &["systemd-sysupdate is not installed", "systemd-container"],
    );
}

#[test]
fn a_missing_transfer_file_is_found() {
    let updated = Updated::new();
    fs::remove_file(updated.machine.path(TRANSFER)).unwrap();
    updated.failed("transfer", &["no transfer file", "transfer hello --write"]);
    updated.machine.write(
        TRANSFER,
        &updated.transfer().replace("/hello\n", "/other\n"),
    );
    updated.failed("transfer", &["names", "transfer hello --write"]);
}

#[test]
fn a_transfer_file_that_systemd_refuses_is_found_with_its_line() {
    let updated = Updated::new();
    updated.with("hello-@v.raw", "hello-@x.raw");
    updated.failed(
        "transfer",
        &["hello.transfer:3: ", "`@x` is no field", "correct it"],
    );
    updated.with("[Target]", "[Target");
    updated.failed("transfer", &["hello.transfer:7: ", "no `]`", "correct it"]);
    updated.with("Type=regular-file", "Type=directory");
    updated.failed("transfer", &["regular-file", "correct it"]);
    updated.with("Verify=no", "Verfy=no");
    let found = updated.check();
    found.has(
        "warning",
        "transfer",
        &["hello.transfer:6: ", "did you mean Verify?"],
    );
}

#[test]
fn a_transfer_file_that_systemd_does_not_read_is_found() {
    let updated = Updated::new();
    let conf = "etc/sysupdate.hello.d/hello.conf";
    updated.machine.write(conf, &updated.transfer());
    updated.machine.write(TRANSFER, "[Transfer]\n");
    let remedy = "mv /etc/sysupdate.hello.d/hello.conf /etc/sysupdate.hello.d/hello.transfer";
    updated.failed("transfer", &["reads no .conf beside", remedy]);
    fs::remove_file(updated.machine.path(conf)).unwrap();
    updated.machine.write(TRANSFER, &updated.transfer());
    updated.machine.unit("--version", "systemd 256 (256.1)\n");
    updated.failed(
        "transfer",
        &["reads only files that end in .conf", "mv /etc"],
    );
}

#[test]
fn a_transfer_file_of_a_feature_is_skipped() {
    let updated = Updated::new();
    updated.with("Verify=no", "Verify=no\nFeatures=devel");
    let found = updated.check();
    found.has(
        "skipped",
        "transfer",
        &["hello.transfer:4: ", "are enabled", "devel"],
    );
    assert!(!found.text.contains("no transfer file"), "{}", found.text);
    assert_eq!(found.status, Some(0), "{}", found.text);
}

#[test]
fn a_path_with_a_wrong_port_or_scheme_is_found() {
    let updated = Updated::new();
    let address = updated.service.address.to_string();
    updated.with(&address, &nowhere());
    let remedy = format!("write Path=http://{address}/hello");
    updated.failed("transfer", &["hello.transfer:4: ", "leads to", &remedy]);
    updated.with("http://", "https://");
    updated.failed(
        "transfer",
        &["hello.transfer:4: ", "this is HTTPS", "write Path=http://"],
    );
    updated.with("/hello\n", "\n");
    updated.failed("transfer", &["names no repository", "/REPOSITORY"]);
}

#[test]
fn a_repository_that_is_not_offered_is_found() {
    let updated = Updated::new();
    updated.with("/hello\n", "/absent\n");
    let found = updated.machine.check(&[]);
    found.has("failed", "pattern", &["hello.transfer:4: ", "absent"]);
    assert_eq!(found.status, Some(1), "{}", found.text);
}

#[test]
fn a_pattern_that_matches_nothing_is_found_with_the_nearest_name() {
    let updated = Updated::new();
    updated.with("hello-@v.raw", "hello-@v-%w.raw");
    updated.failed(
        "pattern",
        &[
            "hello.transfer:3: MatchPattern=hello-@v-%w.raw matches 0 of 2",
            "nearest is `hello-v1.raw`, which lacks `-%w`",
            "transfer hello",
        ],
    );
    updated.with("hello-@v.raw", "hello-@v-x.raw");
    updated.failed("pattern", &["nearest is `hello-v1.raw`, which lacks `-x`"]);
}

#[test]
fn a_pattern_that_leaves_the_newest_out_is_found() {
    let updated = Updated::new();
    updated.with("hello-@v.raw", "hello-v@v.raw hello-@v1.raw");
    let found = updated.check();
    found.has("ok", "pattern", &["matches 2 of 2; the newest is 1"]);
    let updated = Updated::signed(b"\x88\x00");
    updated.with(
        "hello-@v.raw",
        "hello-@v.raw\n[Transfer]\nMinVersion=v3\n[Source]",
    );
    updated.failed("pattern", &["MinVersion= is v3", "lower MinVersion="]);
}

#[test]
fn a_version_that_not_all_transfer_files_of_a_component_match_is_found() {
    let updated = Updated::new();
    let other = "etc/sysupdate.hello.d/other.transfer";
    let with = |pattern: &str| {
        let text = updated.transfer().replace("hello-@v.raw", pattern);
        updated.machine.write(other, &text);
        updated.check()
    };
    // Another component has versions of its own.
    updated.machine.write(
        "etc/sysupdate.else.d/else.transfer",
        &updated.transfer().replace("hello-@v.raw", "hello-@v1.raw"),
    );
    let found = with("hello-@v.raw");
    assert!(
        !found.text.contains("by all transfer files"),
        "{}",
        found.text
    );
    // `v0` is what both match.
    let found = with("hello-@v.raw hello-v@v.raw");
    assert!(
        !found.text.contains("by all transfer files"),
        "{}",
        found.text
    );
    let found = with("hello-v@v.raw");
    found.has(
        "failed",
        "pattern",
        &[
            "hello.transfer: no version is matched by all",
            "MatchPattern=",
        ],
    );
    found.has("failed", "pattern", &["other.transfer: no version"]);
    assert_eq!(found.status, Some(1), "{}", found.text);
}

#[test]
fn a_version_of_which_a_file_is_missing_is_found() {
    let mut hello = versions(2).0;
    let list = line(b"image 0", "hello-v0.raw")
        + &line(b"image 1", "hello-v1.raw")
        + &line(b"image 0", "verity-v0.raw");
    sign(
        &mut hello,
        list.as_bytes(),
        &[("SHA256SUMS.gpg", b"\x88\x00")],
        &[],
    );
    let updated = Updated::of(Registry::with_hello(hello));
    let verity = updated.transfer().replace("hello-@v.raw", "verity-@v.raw");
    let path = "etc/sysupdate.hello.d/verity.transfer";
    updated.machine.write(path, &verity);
    let text = "v1 is not matched by all transfer files of its component, so v0 is the newest";
    updated.warned("pattern", &["hello.transfer: ", text, "published"]);
    // v0 is older than what is installed.
    updated
        .check()
        .has("ok", "installed", &["hello.transfer: v1 is installed"]);
}

#[test]
fn an_unsigned_list_is_found_where_it_has_to_be_signed() {
    let updated = Updated::new();
    for verify in ["Verify=yes", "", "Verify="] {
        updated.with("Verify=no", verify);
        updated.failed("keyring", &["is not signed", "Verify=no into [Transfer]"]);
    }
}

#[test]
fn keyrings_that_this_systemd_does_not_read_are_found() {
    // A signature by the key 3031323334353637, which is not in the vendor's keyring.
    let signature = b"\x88\x12\x04\x00\x16\x08\x00\x0a\x09\x1001234567\x00\x00";
    let updated = Updated::signed(signature);
    let machine = &updated.machine;
    updated.with("Verify=no", "Verify=yes");
    let key = "signed by the key 3031323334353637";
    let add = "gpg --export 3031323334353637 >> /etc/systemd/import-pubring.pgp";
    updated.failed("keyring", &[key, add]);

    // systemd 262 reads the first where there are both.
    machine.write("etc/systemd/import-pubring.pgp", "\u{1}");
    machine.write("etc/systemd/import-pubring.gpg", "01234567");
    updated.failed(
        "keyring",
        &[key, "does not read /etc/systemd/import-pubring.gpg"],
    );
    machine.unit("--version", "systemd 257 (257.13)\n");
    updated
        .check()
        .has("ok", "keyring", &["/etc/systemd/import-pubring.gpg"]);

    machine.write(
        "etc/systemd/import-pubring.gpg",
        "-----BEGIN PGP PUBLIC KEY BLOCK-----\n",
    );
    updated.failed("keyring", &["is armored", "gpg --dearmor"]);
    fs::remove_file(machine.path("etc/systemd/import-pubring.gpg")).unwrap();
    updated.failed(
        "keyring",
        &[
            "systemd 257 finds no keyring",
            "mv /etc/systemd/import-pubring.pgp",
        ],
    );
    fs::remove_file(machine.path("etc/systemd/import-pubring.pgp")).unwrap();
    updated.failed("keyring", &["finds no keyring", "gpg --export KEY"]);

    fs::remove_file(machine.path("usr/bin/gpg")).unwrap();
    updated.failed("keyring", &["gpg, which", "install the package gpg"]);
}

#[test]
fn a_target_that_cannot_be_written_is_found() {
    let updated = Updated::new();
    let covered = "40 22 0:50 / /opt ro,nodev - overlay sysext ro,lowerdir=/a:/b\n";
    updated.with("Path=/var/lib/extensions.d", "Path=/opt/extensions");
    updated.warned(
        "target",
        &[
            "hello.transfer:9: ",
            "files in /opt",
            "Path=/var/lib/extensions.d",
        ],
    );
    updated
        .machine
        .write("proc/self/mountinfo", &format!("{ROOT_MOUNT}{covered}"));
    updated.failed(
        "target",
        &["merged extensions cover /opt", "Path=/var/lib/extensions.d"],
    );
    let read_only = "41 22 0:51 / /var ro,nodev - ext4 /dev/vdb ro\n";
    updated
        .machine
        .write("proc/self/mountinfo", &format!("{ROOT_MOUNT}{read_only}"));
    updated.with("Path=/var/lib/extensions.d", "Path=/var/lib/none/yet");
    updated.failed(
        "target",
        &[
            "/var/lib/none/yet is read-only, because /var is mounted",
            "name a directory",
        ],
    );
    updated.machine.write("proc/self/mountinfo", ROOT_MOUNT);
    updated
        .check()
        .has("ok", "target", &["is created by the first update"]);
    updated.machine.write("var/lib/none", "");
    updated.failed(
        "target",
        &["/var/lib/none is not a directory", "move that file away"],
    );
}

#[test]
fn the_rest_of_a_broken_update_is_found() {
    let updated = Updated::new();
    let folder = "var/lib/extensions.d";
    updated
        .machine
        .write(&format!("{folder}/.sysupdate.partial.hello-v0.raw"), "404");
    let remedy = "/usr/lib/systemd/systemd-sysupdate -C hello vacuum";
    updated.warned("partial", &["hello-v0.raw", "takes up space", remedy]);
    updated
        .machine
        .write(&format!("{folder}/.sysupdate.partial.hello-v1.raw"), "404");
    updated.failed("partial", &["hello-v1.raw", "fails because of it", remedy]);
}

#[test]
fn a_link_that_systemd_does_not_merge_is_found() {
    let updated = Updated::new();
    let machine = &updated.machine;
    let link = "var/lib/extensions/hello.raw";
    let release = "usr/lib/extension-release.d/extension-release.other";
    let image = layer(&[(release, b"ID=_any\n")]);
    fs::write(machine.path("var/lib/extensions.d/hello-v1.raw"), image).unwrap();
    symlink("../extensions.d/hello-v1.raw", machine.path(link)).unwrap();
    let remedy = "CurrentSymlink=/var/lib/extensions/other.raw";
    let strict = "user.extension-release.strict=0";
    updated.warned("link", &["extension-release.other", strict, remedy]);
    let image = layer(&[("usr/bin/hello", b"")]);
    fs::write(machine.path("var/lib/extensions.d/hello-v1.raw"), image).unwrap();
    updated.failed(
        "link",
        &[
            "no extension-release.hello in it",
            "ask its publisher to add it",
        ],
    );

    // The path from the directory is the same link.
    let whole = "CurrentSymlink=/var/lib/extensions/hello.raw";
    updated.with(whole, "CurrentSymlink=../extensions/hello.raw");
    updated.failed("link", &["/var/lib/extensions/hello.raw is refused"]);

    fs::remove_file(machine.path(link)).unwrap();
    fs::create_dir(machine.path(link)).unwrap();
    updated.failed(
        "link",
        &["is a directory", "mv /var/lib/extensions/hello.raw"],
    );
    updated.with(
        "/var/lib/extensions/hello.raw",
        "/etc/systemd/extensions/hello.raw",
    );
    updated.failed(
        "link",
        &[
            "no extension in /etc/systemd/extensions",
            "/var/lib/extensions/hello.raw",
        ],
    );
    updated.with("/extensions/hello.raw", "/extensions/hello");
    updated.failed(
        "link",
        &[
            "does not end in .raw",
            "CurrentSymlink=/var/lib/extensions/hello.raw",
        ],
    );
    let own = "Path=/var/lib/extensions.d\nCurrentSymlink=/var/lib/extensions/hello.raw";
    updated.with(own, "Path=/var/lib/extensions");
    updated.failed("link", &["a separate extension", "CurrentSymlink="]);
}

#[test]
fn a_directory_for_the_link_that_systemd_does_not_create_is_found() {
    let updated = Updated::new();
    fs::remove_dir(updated.machine.path("var/lib/extensions")).unwrap();
    updated
        .check()
        .has("skipped", "link", &["nothing is installed"]);
    updated.machine.unit("--version", "systemd 257 (257.13)\n");
    updated.failed(
        "link",
        &[
            "/var/lib/extensions does not exist",
            "mkdir -p /var/lib/extensions",
        ],
    );
}

#[test]
fn what_is_in_a_directory_of_versions_is_compared_with_its_name() {
    let updated = Updated::new();
    let own = "Path=/var/lib/extensions.d\nCurrentSymlink=/var/lib/extensions/hello.raw";
    updated.with(own, "Path=/var/lib/extensions/hello.raw.v");
    updated
        .check()
        .has("skipped", "link", &["nothing is installed"]);
    let install = |version: &str, name: &str| {
        let release = format!("usr/lib/extension-release.d/extension-release.{name}");
        let image = layer(&[(&release, b"ID=_any\n")]);
        let folder = updated.machine.path("var/lib/extensions/hello.raw.v");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("hello-{version}.raw")), image).unwrap();
    };
    install("v0", "hello");
    updated
        .check()
        .has("ok", "link", &["has the name of the extension in it"]);
    install("v1", "other");
    let right = "write Path=/var/lib/extensions/other.raw.v";
    updated.warned("link", &["extension-release.other", right]);

    updated.with(own, "Path=/srv/hello.raw.v");
    let right = "write Path=/var/lib/extensions/hello.raw.v";
    updated.warned("link", &["looks for no extension in /srv", right]);
    updated.with(own, "Path=/var/lib/extensions/hello.v");
    let right = "write Path=/var/lib/extensions/hello.raw.v";
    updated.failed("link", &["does not end in .raw.v", right]);
}

#[test]
fn versions_that_a_directory_of_versions_orders_otherwise_are_found() {
    let mut hello = versions(2).0;
    let list = line(b"image 0", "hello-1.0_1.raw") + &line(b"image 1", "hello-1.1.raw");
    sign(
        &mut hello,
        list.as_bytes(),
        &[("SHA256SUMS.gpg", b"\x88\x00")],
        &[],
    );
    let updated = Updated::of(Registry::with_hello(hello));
    let own = "Path=/var/lib/extensions.d\nCurrentSymlink=/var/lib/extensions/hello.raw";
    updated.with(own, "Path=/var/lib/extensions/hello.raw.v");
    updated.warned("link", &["such as 1.0_1", "CurrentSymlink="]);
}

#[test]
fn a_version_that_is_not_installed_is_found() {
    let updated = Updated::new();
    let folder = updated.machine.path("var/lib/extensions.d");
    fs::rename(folder.join("hello-v1.raw"), folder.join("hello-v0.raw")).unwrap();
    let remedy = "/usr/lib/systemd/systemd-sysupdate -C hello update";
    updated.warned(
        "installed",
        &["v1 is on offer", "installed version is v0", remedy],
    );
    updated.check().has("ok", "space", &["are free"]);
    fs::remove_file(folder.join("hello-v0.raw")).unwrap();
    updated.warned(
        "installed",
        &["v1 is on offer", "installed version is none", remedy],
    );
}

#[test]
fn a_timer_that_does_not_elapse_is_found() {
    let updated = Updated::new();
    let enable = format!("systemctl enable --now {TIMER}");
    for (properties, status, texts) in [
        (
            "LoadState=not-found\n",
            "warning",
            ["no such timer", &enable],
        ),
        (
            "LoadState=masked\n",
            "warning",
            ["is masked", "systemctl unmask"],
        ),
        (
            "LoadState=loaded\nUnitFileState=disabled\nActiveState=inactive\n",
            "warning",
            ["not enabled", &enable],
        ),
        (
            "LoadState=loaded\nUnitFileState=enabled\nActiveState=inactive\nConditionResult=yes\n",
            "failed",
            ["not active", "systemctl start"],
        ),
        (
            "LoadState=loaded\nUnitFileState=enabled\nActiveState=inactive\nConditionResult=no\n",
            "failed",
            ["container", "systemctl status"],
        ),
        (
            "LoadState=loaded\nUnitFileState=enabled\nActiveState=active\n",
            "failed",
            ["never elapses", "OnCalendar="],
        ),
    ] {
        updated.machine.unit(TIMER, properties);
        let found = updated.check();
        found.has(status, "timer", &texts);
        let expected = if status == "failed" { 1 } else { 0 };
        assert_eq!(found.status, Some(expected), "{}", found.text);
    }
    // As of systemd 262 the timer of the distribution is for all components.
    updated
        .machine
        .unit("systemd-sysupdate-update.timer", TIMER_IS_ACTIVE);
    updated.machine.unit(TIMER, "LoadState=not-found\n");
    updated
        .check()
        .has("ok", "timer", &["systemd-sysupdate-update.timer"]);
    updated.machine.unit("--version", "systemd 257 (257.13)\n");
    updated.check().has("warning", "timer", &["no such timer"]);
}

#[test]
fn a_last_run_that_failed_is_found_with_its_reason() {
    let updated = Updated::new();
    let failed = r#"{"MESSAGE_ID":"d9b373ed55a64feb8242e02dbe79a49c","INVOCATION_ID":"0a0b","MESSAGE":"Disk full"}"#;
    updated.machine.write("journal", &format!("{failed}\n"));
    let remedy = "journalctl -u sysext-oci-proxy-update@hello.service";
    updated.warned("last-run", &["the last run failed: Disk full", remedy]);
    updated.machine.write("journal", "");
    updated
        .check()
        .has("skipped", "last-run", &["no completed run"]);
}

#[test]
fn what_cannot_be_found_out_is_no_yes() {
    let updated = Updated::new();
    updated.machine.unit("--version", "elogind 255\n");
    let found = updated.check();
    found.has("unknown", "sysupdate", &["elogind 255"]);
    assert_eq!(found.status, Some(69), "{}", found.text);
    let updated = Updated::new();
    fs::remove_file(updated.machine.path("proc/self/mountinfo")).unwrap();
    let found = updated.check();
    found.has("unknown", "target", &["mountinfo", "mount /proc"]);
    assert_eq!(found.status, Some(69), "{}", found.text);
}
