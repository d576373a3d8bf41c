//! How the program is called, and what it says when that cannot work.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::client::try_request;
use crate::content::versions;
use crate::registry::{Registry, nowhere};
use crate::service::{Folder, command, command_on, eventually, output, serve_on, wait};

/// `EX_CONFIG` of sysexits.h, which systemd shows as "configuration".
const CONFIG: i32 = 78;

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn start_with(config: &Path) -> Output {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    output(serve_on(listener, config))
}

#[test]
fn settings_that_are_wrong_are_named_with_file_and_line() {
    let folder = Folder::new();
    let mut complaints = Vec::new();
    for (text, line, word, why) in [
        (
            "parallel = 4\ncolour = \"red\"\n",
            2,
            "colour",
            "an unknown key",
        ),
        (
            "\n[repository.hello]\nsauce = \"x\"\n",
            3,
            "sauce",
            "an unknown key of a repository",
        ),
        (
            "parallel = 4\nregistry = \"localhost\n",
            2,
            "",
            "a string without an end",
        ),
        ("[repository.hello\n", 1, "", "a table without an end"),
        ("parallel = \"many\"\n", 1, "", "a word for a number"),
        ("\nparallel = 0\n", 2, "parallel", "no connection at all"),
        ("parallel = -1\n", 1, "-1", "less than none"),
        (
            "idle-timeout-sec = -5\n",
            1,
            "-5",
            "time that runs backwards",
        ),
        ("idle-timeout-sec = nan\n", 1, "nan", "not a number"),
        ("listing-ttl-sec = inf\n", 1, "inf", "for ever"),
        (
            "registry = \"Not A Registry\"\n",
            1,
            "Not A Registry",
            "no registry",
        ),
        (
            "\n\ncache-size = \"2 bananas\"\n",
            3,
            "2 bananas",
            "no size",
        ),
        (
            "allow = [\"ghcr.io\", \"not a host\"]\n",
            1,
            "not a host",
            "no registry among others",
        ),
        (
            "parallel = 1\nparallel = 2\n",
            2,
            "duplicate",
            "the same key twice",
        ),
        (
            "[repository.hello]\nblobs = \"teleport\"\n",
            2,
            "teleport",
            "a choice that is none",
        ),
        (
            "[repository.hello]\narchitectures = [\"pdp-11\"]\n",
            2,
            "pdp-11",
            "no architecture of systemd",
        ),
        (
            "[repository.hello]\nnames = \"{nam}-{version}\"\n",
            2,
            "nam",
            "an unknown field",
        ),
        (
            "[repository.hello]\nsource = \"oci:\"\n",
            2,
            "source",
            "a layout nowhere",
        ),
        (
            "[repository.\"Hello World\"]\n",
            1,
            "Hello World",
            "no repository's name",
        ),
    ] {
        let config = folder.file("config.toml", text);
        let output = start_with(&config);
        let message = said(&output);
        let path = config.to_str().unwrap();
        let place = format!("{path}:{line}");
        let is_told = [path, &place, word]
            .iter()
            .all(|part| message.contains(part));
        if output.status.code() != Some(CONFIG) || !is_told || message.contains("panicked") {
            complaints.push(format!(
                "{why}: wanted {CONFIG}, {place}, {word:?}: {message}"
            ));
        }
    }
    assert!(complaints.is_empty(), "\n{}", complaints.concat());
}

#[test]
fn a_settings_file_that_cannot_be_read_is_named() {
    let folder = Folder::new();
    let not_text = folder.path().join("binary.toml");
    std::fs::write(&not_text, b"registry = \"\xff\xfe\"\n").unwrap();
    for config in [
        folder.path().to_owned(),
        folder.path().join("missing.toml"),
        not_text,
    ] {
        let output = start_with(&config);
        assert_eq!(output.status.code(), Some(CONFIG), "{}", said(&output));
        assert!(
            said(&output).contains(config.to_str().unwrap()),
            "{}",
            said(&output)
        );
    }
}

#[test]
fn without_a_socket_and_without_listen_it_says_what_to_do() {
    let folder = Folder::new();
    let config = folder.file("config.toml", "");
    let config = config.to_str().unwrap();
    for arguments in [&["--config", config][..], &["--config", config, "serve"]] {
        let output = output(command(arguments));
        assert!(!output.status.success());
        let message = said(&output);
        assert!(
            message.contains("--listen") && message.contains(".socket"),
            "{message}"
        );
    }
}

#[test]
fn a_busy_port_is_named() {
    let folder = Folder::new();
    let config = folder.file("config.toml", "");
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    let output = output(command(&[
        "--config",
        config.to_str().unwrap(),
        "serve",
        "--listen",
        &address,
    ]));
    assert!(!output.status.success());
    let message = said(&output);
    assert!(
        message.contains(&address) && message.to_lowercase().contains("in use"),
        "{message}"
    );
}

#[test]
fn arguments_that_are_none_are_refused() {
    for arguments in [
        &["serve", "--listen", "nowhere"][..],
        &["serve", "--listen", "127.0.0.1:99999"],
        &["serve", "--colour", "red"],
        &["dance"],
        &["--config"],
    ] {
        let output = output(command(arguments));
        assert!(
            !output.status.success() && output.stderr.len() > 10,
            "{arguments:?}: {}",
            said(&output)
        );
    }
    let help = output(command(&["--help"]));
    assert!(help.status.success());
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(
        help.contains("serve") && help.contains("--config"),
        "{help}"
    );
    let version = output(command(&["--version"]));
    assert_eq!(
        String::from_utf8(version.stdout).unwrap(),
        concat!("sysext-oci-proxy ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn listen_with_a_handed_over_socket_is_an_error() {
    let folder = Folder::new();
    let config = folder.file("config.toml", "");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let arguments = [
        "--config",
        config.to_str().unwrap(),
        "serve",
        "--listen",
        "127.0.0.1:0",
    ];
    let output = output(command_on(listener, 1, &arguments));
    assert!(!output.status.success());
    assert!(said(&output).contains("--listen"), "{}", said(&output));
}

#[test]
fn two_handed_over_sockets_are_an_error() {
    let folder = Folder::new();
    let config = folder.file("config.toml", "");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let output = output(command_on(
        listener,
        2,
        &["--config", config.to_str().unwrap()],
    ));
    assert!(!output.status.success());
    assert_eq!(
        said(&output),
        "error: no socket to listen on: systemd handed over 2, expected one; \
         the socket unit may have one ListenStream=\n"
    );
}

#[test]
fn a_handed_over_descriptor_that_does_not_listen_is_an_error() {
    let folder = Folder::new();
    let config = folder.file("config.toml", "");
    let mut command = std::process::Command::new("sh");
    let script = "exec 3<\"$1\"; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" serve --config \"$1\"";
    command.args([
        "-c",
        script,
        crate::service::PROGRAM,
        config.to_str().unwrap(),
    ]);
    let output = output(command);
    assert!(!output.status.success());
    assert!(
        !said(&output).contains("panicked") && said(&output).len() > 10,
        "{}",
        said(&output)
    );
}

#[test]
fn config_stands_before_or_after_serve_and_serve_is_the_default() {
    let registry = Registry::with_hello(versions(1).0);
    let folder = Folder::new();
    let config = folder.file("config.toml", &registry.settings());
    let config = config.to_str().unwrap();
    for arguments in [
        &["--config", config][..],
        &["--config", config, "serve"],
        &["serve", "--config", config],
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut child = command_on(listener, 1, arguments)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let response = try_request(address, "GET", "/hello/SHA256SUMS", &[]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(response.unwrap().text(), versions(1).1, "{arguments:?}");
    }
}

#[test]
fn it_listens_by_itself_where_it_is_told_to_until_it_is_stopped() {
    let registry = Registry::with_hello(versions(1).0);
    let folder = Folder::new();
    let config = folder.file(
        "config.toml",
        &(registry.settings() + "idle-timeout-sec = 0.05\n"),
    );
    let address: SocketAddr = nowhere().parse().unwrap();
    let mut child = command(&[
        "--config",
        config.to_str().unwrap(),
        "serve",
        "--listen",
        &address.to_string(),
    ])
    .stderr(Stdio::null())
    .spawn()
    .unwrap();
    eventually("it listens", || {
        std::net::TcpStream::connect(address).is_ok()
    });
    assert_eq!(
        try_request(address, "GET", "/hello/SHA256SUMS", &[])
            .unwrap()
            .text(),
        versions(1).1
    );
    // Nobody would start it again.
    let status = wait(&mut child, Duration::from_millis(500));
    assert_eq!(status, None, "it leaves when it is idle");
    let pid = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let status = wait(&mut child, Duration::from_secs(5));
    child.kill().ok();
    child.wait().unwrap();
    assert_eq!(status.expect("it stays").code(), Some(0));
}
