//! The command `check`, where it looks at older versions that a download may reuse: each reason why one cannot be read is
//! planted, and found with its remedy.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::check::{Found, Machine, TRANSFER, transfer};
use crate::content::{Repository, noise};
use crate::registry::Registry;
use crate::service::{Service, Setup};

/// The smallest size of a file for which older versions are looked at.
const LARGE: usize = 8 << 20;

/// A machine that has version 1 of `hello`. Version 2 is large.
struct Updated {
    machine: Machine,
    service: Service,
    _registry: Registry,
}

impl Updated {
    /// `settings`: those of the repository `hello`; `title`: the name of the file that is pushed.
    fn new(settings: &str, title: &str) -> Self {
        let mut hello = Repository::default();
        hello.oras_push("v2", title, &noise(LARGE));
        let registry = Registry::with_hello(hello);
        let setup = Setup::of(&registry).settings(&format!("[repository.hello]\n{settings}\n"));
        let (machine, service) = Machine::with(setup);
        Self {
            machine,
            service,
            _registry: registry,
        }
    }

    fn usual() -> Self {
        Self::new("", "hello.raw")
    }

    /// The transfer file with one text in place of another.
    fn with(&self, text: &str, other: &str) {
        let transfer = transfer(self.service.address);
        assert!(transfer.contains(text), "{text}: {transfer}");
        self.machine.write(TRANSFER, &transfer.replace(text, other));
    }

    fn mode(&self, path: &str, mode: u32) {
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(self.machine.path(path), mode).unwrap();
    }

    fn check(&self) -> Found {
        self.machine.check(&["hello"])
    }

    /// A seed that is not read keeps no update from happening.
    #[track_caller]
    fn warned(&self, texts: &[&str]) {
        let found = self.check();
        found.has("warning", "seeds", texts);
        assert!(!found.text.contains("failed   seeds"), "{}", found.text);
    }
}

#[test]
fn an_older_version_that_can_be_read_is_named_and_a_first_update_is_whole() {
    let updated = Updated::usual();
    let old = "var/lib/extensions.d/hello-v1.raw";
    let found = updated.check();
    found.has(
        "ok",
        "seeds",
        &["hello: unchanged parts of /var/lib/extensions.d/hello-v1.raw are reused"],
    );
    assert_eq!(found.text.matches(" seeds ").count(), 1, "{}", found.text);
    fs::remove_file(updated.machine.path(old)).unwrap();
    updated
        .check()
        .has("ok", "seeds", &["no older version is on this machine"]);
}

#[test]
fn a_small_file_needs_no_older_version() {
    let mut hello = Repository::default();
    hello.oras_push("v2", "hello.raw", &noise(LARGE - 1));
    let registry = Registry::with_hello(hello);
    let (machine, _service) = Machine::with(Setup::of(&registry));
    let found = machine.check(&["hello"]);
    assert!(!found.text.contains(" seeds "), "{}", found.text);
}

#[test]
fn a_file_or_directory_that_not_all_may_read_is_named_with_its_remedy() {
    let updated = Updated::usual();
    updated.mode("var/lib/extensions.d/hello-v1.raw", 0o600);
    updated.warned(&[
        "/var/lib/extensions.d/hello-v1.raw: only some users may read it: its mode is 600",
        "`chmod o+r /var/lib/extensions.d/hello-v1.raw`, and write Mode=0644",
    ]);
    updated.mode("var/lib/extensions.d/hello-v1.raw", 0o644);
    updated.mode("var/lib/extensions.d", 0o750);
    updated.warned(&[
        "look into /var/lib/extensions.d: its mode is 750",
        "`chmod o+rx /var/lib/extensions.d`",
    ]);
    updated.with("Path=/var/lib/extensions.d", "Path=/var/lib/machines");
    updated
        .machine
        .write("var/lib/machines/hello-v1.raw", "image 1");
    updated.mode("var/lib/machines", 0o700);
    updated.warned(&[
        "look into /var/lib/machines: its mode is 700",
        "systemd sets this mode at each boot; install to another directory",
        "seeds = [] into [repository.\"hello\"]",
    ]);
}

#[test]
fn what_the_sandbox_hides_is_named_unless_the_unit_shows_it() {
    let updated = Updated::usual();
    updated.with("Path=/var/lib/extensions.d", "Path=/home/images");
    updated.machine.write("home/images/hello-v1.raw", "image 1");
    let text = "/home/images/hello-v1.raw: the service does not see it (ProtectHome= of sysext-oci-proxy.service)";
    updated.warned(&[text, "move it to another directory"]);
    // By another name, too.
    updated.with("Path=/var/lib/extensions.d", "Path=/srv/images");
    fs::create_dir_all(updated.machine.path("srv")).unwrap();
    symlink("../home/images", updated.machine.path("srv/images")).unwrap();
    updated.warned(&["/srv/images/hello-v1.raw: the service does not see it"]);
    let unit = "LoadState=loaded\nActiveState=inactive\nSubState=dead\nResult=success\nExecMainStatus=0\nProtectHome=read-only\n";
    updated.machine.unit("sysext-oci-proxy.service", unit);
    updated.check().has(
        "ok",
        "seeds",
        &["unchanged parts of /srv/images/hello-v1.raw"],
    );
}

#[test]
fn directories_of_the_settings_are_looked_at() {
    let updated = Updated::new(
        "seeds = [\"/srv/images\", \"/srv/absent\", \"/srv/private\", \"/tmp/images\"]",
        "hello.raw",
    );
    updated
        .machine
        .write("srv/images/hello-v1.1.raw", "image 1.1");
    updated
        .machine
        .write("srv/private/hello-v1.2.raw", "image 1.2");
    updated
        .machine
        .write("tmp/images/other-v1.3.raw", "of another");
    updated.mode("srv/private", 0o700);
    symlink(
        "hello-v1.1.raw",
        updated.machine.path("srv/images/hello-v1.0.raw"),
    )
    .unwrap();
    updated.check().has(
        "ok",
        "seeds",
        &["unchanged parts of /srv/images/hello-v1.1.raw"],
    );
    updated.warned(&[
        "/srv/absent: it does not exist",
        "correct seeds in [repository.\"hello\"]",
    ]);
    updated.warned(&[
        "/srv/private: only some users may look into",
        "`chmod o+rx /srv/private`",
    ]);
    updated.warned(&[
        "/srv/images/hello-v1.0.raw: it is a symbolic link",
        "name the directory of the file itself",
    ]);
    updated.warned(&["/tmp/images: the service does not see it (PrivateTmp="]);
    let found = updated.check().text;
    assert_eq!(
        found.matches("seeds        /srv/private: ").count(),
        1,
        "{found}"
    );
}

/// The names of files begin with those of their sources: `python-2` is no older version of `python-3`. The service finds
/// the same, by the same functions.
#[test]
fn a_merged_directory_has_the_older_versions_of_each_source() {
    let mut python = Repository::default();
    python.oras_push("v2", "python.raw", &noise(LARGE));
    let registry = Registry::start();
    registry.put("python-3", python);
    registry.put("strace", Repository::default());
    let settings =
        "[repository.hello]\nsource = [\"strace\", \"python-3\"]\nseeds = [\"/srv/images\"]\n";
    let (machine, service) = Machine::with(Setup::of(&registry).settings(settings));
    let transfer = transfer(service.address);
    machine.write(
        TRANSFER,
        &transfer.replace("hello-@v.raw", "python-3-@v.raw"),
    );
    machine.write("srv/images/python-2-v1.raw", "image 1");
    let none = ["no older version is on this machine"];
    machine.check(&["hello"]).has("ok", "seeds", &none);
    machine.write("srv/images/python-3-v1.raw", "image 1");
    machine.check(&["hello"]).has(
        "ok",
        "seeds",
        &["unchanged parts of /srv/images/python-3-v1.raw are reused"],
    );
}

#[test]
fn names_of_the_machine_are_known_to_the_service_and_the_boot_id_is_not() {
    let updated = Updated::usual();
    updated
        .machine
        .write("proc/sys/kernel/hostname", "host.lan\n");
    updated
        .machine
        .write("proc/sys/kernel/random/boot_id", "0a0b-0c0d\n");
    let old = "var/lib/host/hello-v1.raw";
    updated.machine.write(old, "image 1");
    updated.with("Path=/var/lib/extensions.d", "Path=/var/lib/%l");
    updated.check().has(
        "ok",
        "seeds",
        &["unchanged parts of /var/lib/host/hello-v1.raw are reused"],
    );
    updated
        .machine
        .write("var/lib/0a0b0c0d/hello-v1.raw", "image 1");
    updated.with("Path=/var/lib/extensions.d", "Path=/var/lib/%b");
    updated.warned(&[
        "hello.transfer: it has the boot ID (%b) in a path or pattern, which the service cannot see",
        "name the directory that it installs to in seeds, in [repository.\"hello\"]",
    ]);
}

#[test]
fn an_empty_list_of_the_settings_is_told() {
    let updated = Updated::new("seeds = []", "hello.raw");
    updated.mode("var/lib/extensions.d/hello-v1.raw", 0o600);
    let found = updated.check();
    found.has("skipped", "seeds", &["hello: seeds = [] in the settings"]);
    assert!(!found.text.contains("warning  seeds"), "{}", found.text);
}

#[test]
fn a_file_that_is_compressed_as_a_whole_is_told_with_the_lines_of_its_publisher() {
    let updated = Updated::new("", "hello.raw.zst");
    updated.with("hello-@v.raw", "hello-@v.raw.zst");
    updated.warned(&[
        "hello: hello-v2.raw.zst is compressed as a whole (.zst)",
        "`CompressOutput=no` for mkosi",
        "`mksquashfs DIRECTORY NAME.raw -comp zstd`",
        "`mkfs.erofs -zlz4hc NAME.raw DIRECTORY`",
    ]);
}
