//! Older versions on a machine whose files go when a test ends.

use std::fs::Permissions;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use super::*;
use crate::sysupdate::{self, SystemdVersion};

/// The directory that the transfer files of the tests install to.
const TARGET: &str = "/var/lib/extensions.d";

/// A machine whose files go when the test ends.
struct Machine(PathBuf);

impl Machine {
    fn new(name: &str) -> Self {
        let name = format!("sysext-oci-proxy-seeds-{name}-{}", std::process::id());
        let machine = Self(std::env::temp_dir().join(name));
        fs::create_dir(&machine.0).unwrap();
        machine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn mode(&self, path: &str, mode: u32) {
        fs::set_permissions(self.path(path), Permissions::from_mode(mode)).unwrap();
    }

    /// A transfer file for this URL and these patterns, that installs to [`TARGET`].
    fn transfer(&self, file: &str, url: &str, patterns: &str) {
        let text = format!(
            "[Source]\nType=url-file\nPath={url}\nMatchPattern={patterns}\n[Target]\nType=regular-file\nPath={TARGET}\n"
        );
        self.write(file, &text);
    }

    /// One for `k8s`.
    fn usual(name: &str) -> Self {
        let machine = Self::new(name);
        let url = "http://localhost:5001/k8s";
        machine.transfer("/etc/sysupdate.k8s.d/k8s.transfer", url, "k8s-@v.raw");
        machine
    }

    fn look_with(&self, name: &str, directories: Option<&[&str]>) -> Found {
        let service = sysupdate::usual_name();
        let directories = directories.map(|all| all.iter().map(|one| one.parse().unwrap()));
        let directories: Option<Vec<_>> = directories.map(Iterator::collect);
        Places::new(&self.0, SystemdVersion::NEWEST, &service, &[]).look(&Wanted {
            repository: &"k8s".parse().unwrap(),
            name: &name.parse().unwrap(),
            base: "k8s",
            directories: directories.as_deref(),
        })
    }

    fn look(&self) -> Found {
        self.look_with("k8s-9.raw", None)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn paths(found: &Found) -> Vec<&str> {
    let paths = found.seeds.iter().map(|seed| seed.path.to_str().unwrap());
    paths.collect()
}

fn unread(found: &Found) -> Vec<(&str, String)> {
    let unread = found.unread.iter();
    unread
        .map(|one| (one.path.to_str().unwrap(), one.why.to_string()))
        .collect()
}

#[test]
fn without_transfer_files_and_settings_there_is_none() {
    let machine = Machine::new("none");
    machine.write("/var/lib/extensions.d/k8s-1.raw", "1");
    let found = machine.look();
    assert_eq!((paths(&found), unread(&found)), (vec![], vec![]));
}

#[test]
fn the_newest_versions_come_first_and_no_more_than_a_few() {
    let machine = Machine::usual("newest");
    for version in ["1.9", "1.10", "0.2", "1.31", "1.9.1", "1.10~rc1"] {
        machine.write(&format!("{TARGET}/k8s-{version}.raw"), version);
    }
    let mut found = machine.look();
    let names = ["1.31", "1.10", "1.10~rc1", "1.9.1"];
    let expected: Vec<_> = names
        .map(|version| format!("{TARGET}/k8s-{version}.raw"))
        .into();
    assert_eq!(paths(&found), expected);
    let seed = &mut found.seeds[2];
    let mut text = String::new();
    seed.file.read_to_string(&mut text).unwrap();
    assert_eq!(
        (text.as_str(), seed.version.as_str(), seed.size),
        ("1.10~rc1", "1.10~rc1", 8)
    );
}

#[test]
fn transfer_files_are_those_of_this_repository_at_this_service_for_this_file() {
    for (n, (url, patterns, is_one)) in [
        ("http://localhost:5001/k8s", "k8s-@v.raw", true),
        ("http://127.0.0.1:5001/k8s/", "k8s-@v.raw", true),
        ("http://localhost:5001/k8s:v9", "k8s-@v.raw", true),
        ("http://localhost:5001/k8s+all", "k8s-@v.raw", true),
        ("http://localhost:5001/%%k8s", "k8s-@v.raw", false),
        ("http://localhost:5001/k8s", "k8s-@v.img k8s-@v.raw", true),
        ("http://localhost:5001/k8s", "k8s-conf-@v.raw", false),
        ("http://localhost:5001/other", "k8s-@v.raw", false),
        ("http://localhost:5001/k8s/conf", "k8s-@v.raw", false),
        ("http://localhost:5002/k8s", "k8s-@v.raw", false),
        ("http://example.org/k8s", "k8s-@v.raw", false),
    ]
    .into_iter()
    .enumerate()
    {
        let machine = Machine::new(&format!("which-{n}"));
        machine.transfer("/run/sysupdate.d/a.conf", url, patterns);
        // Its files have the same names as those of the wanted one.
        let drop_in = "[Target]\nMatchPattern=k8s-@v.raw\n";
        machine.write("/run/sysupdate.d/a.conf.d/target.conf", drop_in);
        machine.write(&format!("{TARGET}/k8s-1.raw"), "1");
        let found = machine.look();
        assert_eq!(found.seeds.len(), usize::from(is_one), "{url} {patterns}");
        assert_eq!(unread(&found), [], "{url} {patterns}");
    }
}

#[test]
fn a_target_of_another_kind_has_none_and_a_boot_partition_has_several_places() {
    let machine = Machine::new("targets");
    let write = |name: &str, target: &str| {
        let text = format!(
            "[Source]\nType=url-file\nPath=http://localhost:5001/k8s\nMatchPattern=k8s-@v.raw\n[Target]\n{target}"
        );
        machine.write(&format!("/usr/lib/sysupdate.d/{name}.transfer"), &text);
    };
    write(
        "a",
        "Type=partition\nPath=/dev/vda\nMatchPartitionType=usr\n",
    );
    write("b", "Type=partition\nPath=auto\n");
    write(
        "c",
        "Type=regular-file\nPath=/EFI/Linux\nPathRelativeTo=boot\nMatchPattern=@v+@l.efi\n",
    );
    machine.write("/boot/EFI/Linux/7+3.efi", "7");
    machine.write("/efi/EFI/Linux/8+3.efi", "8");
    machine.write("/EFI/Linux/9+3.efi", "9");
    let found = machine.look();
    assert_eq!(
        paths(&found),
        ["/efi/EFI/Linux/8+3.efi", "/boot/EFI/Linux/7+3.efi"]
    );
}

#[test]
fn two_targets_of_one_repository_have_the_seeds_of_both_and_each_version_once() {
    let machine = Machine::usual("pair");
    let text = "[Source]\nType=url-file\nPath=http://localhost:5001/k8s\nMatchPattern=k8s-@v.raw\n\
                [Target]\nType=regular-file\nPath=/var/lib/confexts\nMatchPattern=conf_@v.raw\n";
    machine.write("/etc/sysupdate.conf.d/k8s.transfer", text);
    machine.write("/var/lib/confexts/conf_2.raw", "2 of the second");
    machine.write("/var/lib/confexts/conf_1.raw", "1");
    machine.write(&format!("{TARGET}/k8s-2.raw"), "2 of the first");
    machine.write(&format!("{TARGET}/k8s-3.raw"), "3");
    let found = machine.look();
    assert_eq!(
        paths(&found),
        [
            "/var/lib/extensions.d/k8s-3.raw",
            "/var/lib/confexts/conf_2.raw",
            "/var/lib/confexts/conf_1.raw"
        ]
    );
}

#[test]
fn two_repositories_with_one_directory_have_their_own_files() {
    let machine = Machine::usual("shared");
    machine.transfer(
        "/etc/sysupdate.tools.d/tools.transfer",
        "http://localhost:5001/tools",
        "tools-@v.raw",
    );
    machine.write(&format!("{TARGET}/k8s-1.raw"), "1");
    machine.write(&format!("{TARGET}/tools-2.raw"), "2");
    assert_eq!(paths(&machine.look()), ["/var/lib/extensions.d/k8s-1.raw"]);
}

#[test]
fn files_that_are_being_written_and_other_kinds_of_files_are_none() {
    let machine = Machine::new("kinds");
    machine.transfer(
        "/etc/sysupdate.d/k8s.transfer",
        "http://localhost:5001/k8s",
        "k8s-@v.raw @v.raw",
    );
    for name in [
        ".#k8s-1.raw0123",
        ".sysupdate.partial.k8s-2.raw",
        ".sysupdate.pending.k8s-3.raw",
        ".4.raw",
    ] {
        machine.write(&format!("{TARGET}/{name}"), "text");
    }
    machine.write(&format!("{TARGET}/k8s-5.raw"), "");
    machine.write(&format!("{TARGET}/k8s-6.raw/file"), "text");
    machine.write("/elsewhere/k8s-7.raw", "text");
    symlink(
        "../../../elsewhere/k8s-7.raw",
        machine.path(TARGET).join("k8s-7.raw"),
    )
    .unwrap();
    symlink("k8s-5.raw", machine.path(TARGET).join("k8s-8.raw")).unwrap();
    let found = machine.look();
    assert_eq!((paths(&found), unread(&found)), (vec![], vec![]));
}

#[test]
fn a_file_is_opened_whoever_owns_it_and_by_whichever_name_and_keeps_its_bytes_when_it_is_replaced()
{
    let machine = Machine::usual("owners");
    let path = machine.path(TARGET);
    machine.write(&format!("{TARGET}/k8s-1.raw"), "old");
    if crate::dir::is_root() {
        chown(path.join("k8s-1.raw"), Some(12345), Some(12345)).unwrap();
    }
    fs::hard_link(path.join("k8s-1.raw"), path.join("k8s-2.raw")).unwrap();
    let mut found = machine.look();
    assert_eq!(
        paths(&found),
        ["/var/lib/extensions.d/k8s-2.raw"],
        "one file is one seed"
    );
    fs::write(path.join("new"), "new").unwrap();
    fs::rename(path.join("new"), path.join("k8s-2.raw")).unwrap();
    fs::remove_file(path.join("k8s-1.raw")).unwrap();
    let mut text = String::new();
    found.seeds[0].file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "old");
}

#[test]
fn what_only_some_may_read_is_named_with_its_mode_and_the_next_version_takes_its_place() {
    let machine = Machine::usual("modes");
    machine.write(&format!("{TARGET}/k8s-1.raw"), "1");
    machine.write(&format!("{TARGET}/k8s-2.raw"), "2");
    machine.mode(&format!("{TARGET}/k8s-2.raw"), 0o660);
    let found = machine.look();
    assert_eq!(paths(&found), ["/var/lib/extensions.d/k8s-1.raw"]);
    let why = "only some users may read it: its mode is 660".to_owned();
    assert_eq!(unread(&found), [("/var/lib/extensions.d/k8s-2.raw", why)]);
    for (directory, mode) in [(TARGET, 0o750), (TARGET, 0o711), ("/var/lib", 0o700)] {
        machine.mode(directory, mode);
        let found = machine.look();
        machine.mode(directory, 0o755);
        let why = format!("only some users may look into {directory}: its mode is {mode:o}");
        assert_eq!(
            (paths(&found), unread(&found)),
            (vec![], vec![(TARGET, why)])
        );
    }
}

#[test]
fn a_directory_that_is_a_link_is_followed_and_what_it_leads_to_must_be_readable() {
    let machine = Machine::usual("linked");
    machine.write("/data/private/images/k8s-1.raw", "1");
    fs::create_dir_all(machine.path("/var/lib")).unwrap();
    symlink("../../data/private/images", machine.path(TARGET)).unwrap();
    assert_eq!(paths(&machine.look()), ["/var/lib/extensions.d/k8s-1.raw"]);
    machine.mode("/data/private", 0o700);
    let found = machine.look();
    machine.mode("/data/private", 0o755);
    let why = "only some users may look into /data/private: its mode is 700".to_owned();
    assert_eq!(
        (paths(&found), unread(&found)),
        (vec![], vec![(TARGET, why)])
    );
}

#[test]
fn directories_of_the_settings_have_the_files_that_differ_in_the_version_alone() {
    let machine = Machine::new("named");
    for name in [
        "k8s-v1.2-x86-64.raw",
        "k8s-v1.3-x86-64.raw",
        "k8s-v1.4-arm64.raw",
        "k8s-v1.5.raw",
        "k8s-v1.6-x86-64.raw.zst",
        "k8s-conf-v1.7-x86-64.raw",
        "k8s-edge-x86-64.raw",
        "other-v1.8-x86-64.raw",
        ".k8s-v1.9-x86-64.raw",
    ] {
        machine.write(&format!("/srv/images/{name}"), name);
    }
    symlink(
        "/elsewhere",
        machine.path("/srv/images/k8s-v1.1-x86-64.raw"),
    )
    .unwrap();
    let look = |name: &str, directories: &[&str]| machine.look_with(name, Some(directories));
    let found = look("k8s-v2.0-x86-64.raw", &["/srv/images", "/srv/absent"]);
    assert_eq!(
        paths(&found),
        [
            "/srv/images/k8s-v1.3-x86-64.raw",
            "/srv/images/k8s-v1.2-x86-64.raw"
        ]
    );
    assert_eq!(
        unread(&found),
        [
            ("/srv/absent", "it does not exist".to_owned()),
            (
                "/srv/images/k8s-v1.1-x86-64.raw",
                "it is a symbolic link, and none is followed".to_owned()
            ),
        ]
    );
    assert_eq!(
        paths(&look("k8s-v2.0-riscv64.raw", &["/srv/images"])),
        [""; 0]
    );
    assert_eq!(
        paths(&look("k8s-v1.9-x86-64.raw.zst", &["/srv/images"])),
        [""; 0]
    );
    assert_eq!(paths(&look("k8s.raw", &["/srv/images"])), [""; 0]);
}

#[test]
fn names_of_files_that_cannot_be_read_hide_no_others_up_to_a_limit() {
    let machine = Machine::usual("many");
    machine.write(&format!("{TARGET}/k8s-1.raw"), "1");
    for version in 2..65 {
        let path = format!("{TARGET}/k8s-{version}.raw");
        machine.write(&path, "private");
        machine.mode(&path, 0o600);
    }
    let found = machine.look();
    assert_eq!(paths(&found), ["/var/lib/extensions.d/k8s-1.raw"]);
    assert_eq!(found.unread.len(), 63);
    machine.write(&format!("{TARGET}/k8s-65.raw"), "");
    assert_eq!(paths(&machine.look()), [""; 0]);
}

#[test]
fn an_empty_list_switches_all_of_them_off() {
    let machine = Machine::usual("off");
    machine.write(&format!("{TARGET}/k8s-1.raw"), "1");
    let look = |directories| machine.look_with("k8s-9.raw", directories).seeds.len();
    assert_eq!(
        (look(None), look(Some(&["/srv"])), look(Some(&[]))),
        (1, 1, 0)
    );
}
