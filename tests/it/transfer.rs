//! `transfer`: the transfer file for what the service really offers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use crate::content::{Repository, versions};
use crate::registry::{Registry, nowhere};
use crate::service::{Folder, Service, command, output};

/// An extension for fedora.
const SQUASHFS: &[u8] = include_bytes!("../images/gzip.squashfs");

/// A configuration extension for any OS.
const CONFEXT: &[u8] = include_bytes!("../images/confext.squashfs");

/// The command on a machine with this version of systemd.
fn transfer(systemd: &str, arguments: &[&str]) -> Output {
    transfer_with(&format!("echo 'systemd {systemd} (…)'"), arguments)
}

/// The command on a machine with this systemctl, in shell.
fn transfer_with(systemctl: &str, arguments: &[&str]) -> Output {
    let folder = Folder::new();
    let systemctl = folder.file("systemctl", &format!("#!/bin/sh\n{systemctl}\n"));
    fs::set_permissions(systemctl, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = command(&[&["transfer"], arguments].concat());
    let path = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{}:{path}", folder.path().display()));
    output(command)
}

/// The exit status, what it printed, and what it said.
fn ended(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

fn serving(hello: Repository) -> (Registry, Service, String) {
    let registry = Registry::with_hello(hello);
    let service = Service::of(&registry);
    let url = format!("http://{}", service.address);
    (registry, service, url)
}

#[test]
fn an_image_that_says_what_it_is_needs_no_more_than_its_repository() {
    let mut hello = Repository::default();
    for tag in ["v1.9", "v1.10", "latest"] {
        hello.oras_push(tag, "hello.raw", SQUASHFS);
    }
    let (_registry, _service, url) = serving(hello);
    for (systemd, ending) in [("254", "conf"), ("257", "transfer"), ("262", "transfer")] {
        let printed = transfer(systemd, &["hello", "--service", &url]);
        let (status, text, said) = ended(&printed);
        assert_eq!(
            (status, said.as_str()),
            (
                Some(0),
                "warning: hello-latest.raw is skipped: latest is a name, and cannot be compared with versions\n"
            ),
            "{text}"
        );
        assert_eq!(
            text,
            format!(
                "# /etc/sysupdate.hello.d/hello.{ending}\n\
                 # Written by `sysext-oci-proxy transfer hello --service {url}`.\n\
                 # Next: {} -C hello list\n\
                 \n\
                 [Transfer]\n\
                 # The list has no signature. Each file is checked against the list.\n\
                 Verify=no\n\
                 \n\
                 [Source]\n\
                 Type=url-file\n\
                 Path={url}/hello\n\
                 MatchPattern=hello-v@v.raw\n\
                 \n\
                 [Target]\n\
                 Type=regular-file\n\
                 Path=/var/lib/extensions/hello.raw.v\n\
                 MatchPattern=hello_@v.raw\n\
                 Mode=0444\n\
                 InstancesMax=3\n",
                sysupdate(),
            )
        );
    }
}

/// Where the command finds systemd-sysupdate on this machine.
fn sysupdate() -> &'static str {
    let in_path = [
        "/usr/bin/systemd-sysupdate",
        "/usr/local/bin/systemd-sysupdate",
    ];
    match in_path.iter().any(|path| fs::exists(path).unwrap()) {
        true => "systemd-sysupdate",
        false => "/usr/lib/systemd/systemd-sysupdate",
    }
}

/// Its extension-release has neither CONFEXT_SCOPE nor CONFEXT_LEVEL: only the folder shows what it is.
#[test]
fn a_confext_is_known_by_the_folder_of_its_release() {
    let release = "etc/extension-release.d/extension-release.hello";
    let tar = crate::images::layer(&[(release, b"ID=_any\n")]);
    for image in [CONFEXT, &tar] {
        let mut hello = Repository::default();
        hello.oras_push("v1", "hello.raw", image);
        let (_registry, _service, url) = serving(hello);
        let (status, text, said) = ended(&transfer("257", &["hello", "--service", &url]));
        assert_eq!((status, said.as_str()), (Some(0), ""));
        let path = "Path=/var/lib/confexts/hello.raw.v";
        assert!(text.lines().any(|line| line == path), "{text}");
    }
}

#[test]
fn an_image_that_does_not_say_what_it_is_has_to_be_told() {
    let (_registry, _service, url) = serving(versions(2).0);
    let (status, text, said) = ended(&transfer("257", &["hello", "--service", &url]));
    assert!(
        status == Some(1)
            && text.is_empty()
            && said.contains("selects what to install: sysext, confext, portable"),
        "{status:?} {said}"
    );
    let told = [
        "hello",
        "--service",
        &url,
        "--shape",
        "portable",
        "--name",
        "greeter",
        "--component",
        "g",
    ];
    let (status, text, said) = ended(&transfer("257", &told));
    assert_eq!((status, said.as_str()), (Some(0), ""));
    for line in [
        "# /etc/sysupdate.g.d/g.transfer",
        "Path=/var/lib/portables.d/greeter",
        "CurrentSymlink=/var/lib/portables/greeter.raw",
    ] {
        assert!(text.lines().any(|one| one == line), "{line}: {text}");
    }
}

#[test]
fn a_channel_and_a_list_of_which_nothing_can_be_transferred() {
    let mut hello = Repository::default();
    hello.oras_push("v1", "hello-v1.qcow2", b"disk");
    hello.oras_push("stable", "hello-v1.sysext.raw", b"image");
    hello.oras_push("plain", "hello.efi", b"uki");
    let (_registry, _service, url) = serving(hello);
    let (status, text, said) = ended(&transfer("257", &["hello:stable", "--service", &url]));
    assert!(
        status == Some(0) && text.contains("Path=") && text.contains("/hello:stable\n"),
        "{said}"
    );
    let (status, text, said) = ended(&transfer("257", &["hello:v1", "--service", &url]));
    assert!(
        status == Some(1)
            && text.is_empty()
            && said.contains("no file that systemd-sysupdate could install"),
        "{status:?} {said}"
    );
    let (status, _, said) = ended(&transfer("257", &["hello:plain", "--service", &url]));
    assert!(
        status == Some(1) && said.contains("has a version in its name"),
        "{said}"
    );
    let (_registry, _service, url) = serving(Repository::default());
    let (status, _, said) = ended(&transfer("257", &["hello", "--service", &url]));
    assert_eq!(status, Some(1), "{said}");
}

#[test]
fn files_are_removed_also_if_systemd_does_not_answer() {
    let arguments = ["hello", "--undo", "--component", "not-there-at-all"];
    let (status, text, said) = ended(&transfer_with("echo >&2 no bus; exit 1", &arguments));
    assert!(
        status == Some(1) && text.is_empty() && said.contains("no bus"),
        "{status:?} {text} {said}"
    );
    let (status, text, _) = ended(&transfer_with("exit 0", &arguments));
    assert!(
        status == Some(0) && text.contains("nothing to undo"),
        "{text}"
    );
}

/// On systemd 262 the timer has started it.
#[test]
fn the_socket_that_merges_extensions_is_stopped_with_the_last_timer() {
    const SOCKET: &str = "systemd-sysupdate-notify-sysext.socket";
    let arguments = ["hello", "--undo", "--component", "not-there-at-all"];
    for (timer, socket, wanted_by, is_stopped) in [
        ("enabled", "active", "", true),
        ("enabled", "active", "a@b.timer", true),
        ("enabled", "active", "a@b.timer sockets.target", false),
        ("enabled", "inactive", "", false),
        ("disabled", "active", "", false),
    ] {
        let log = Folder::new();
        let log = log.file("log", "");
        let script = format!(
            "echo \"$*\" >>{}\n\
             case \"$*\" in\n\
             show*UnitFileState*not-there-at-all.timer) echo {timer} ;;\n\
             show*ActiveState*sockets.target) echo active ;;\n\
             show*ActiveState*{SOCKET}) echo {socket} ;;\n\
             show*WantedBy*{SOCKET}) echo '{wanted_by}' ;;\n\
             show*) echo inactive ;;\n\
             esac",
            log.display()
        );
        let (status, text, said) = ended(&transfer_with(&script, &arguments));
        assert_eq!((status, said.as_str()), (Some(0), ""), "{text}");
        let asked = fs::read_to_string(&log).unwrap();
        let stop = format!("stop {SOCKET}");
        assert_eq!(
            asked.lines().any(|line| line == stop),
            is_stopped,
            "{timer} {socket} {wanted_by}: {asked}"
        );
        assert_eq!(
            text.contains(&format!("stopped {SOCKET}")),
            is_stopped,
            "{text}"
        );
    }
}

#[test]
fn what_cannot_be_found_out_and_what_makes_no_sense_have_their_status() {
    let url = format!("http://{}", nowhere());
    let (status, text, said) = ended(&transfer("257", &["hello", "--service", &url]));
    assert!(
        status == Some(69) && text.is_empty() && said.contains(&url),
        "{said}"
    );
    let layout = Folder::with_layout(&versions(1).0);
    let layout = format!("oci:{}", layout.path().display());
    let digest = format!("hello@sha256:{}", "0".repeat(64));
    for (arguments, part) in [
        (&[layout.as_str()][..], "name it in the settings"),
        (&[digest.as_str()], "never has a newer version"),
        (&["hello", "--component", "a/b"], "no name of a component"),
        (&["hello", "--force"], "--write"),
    ] {
        let (status, _, said) = ended(&transfer("257", arguments));
        assert!(
            status == Some(2) && said.contains(part),
            "{arguments:?}: {status:?} {said}"
        );
    }
    let (status, _, said) = ended(&transfer("", &["hello", "--service", &url]));
    assert!(
        status == Some(69) && said.contains("systemctl --version"),
        "{said}"
    );
}
