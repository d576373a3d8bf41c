//! The commands that ask the running service: `list` and `fetch` see what its clients see.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use serde_json::{Value, json};

use crate::content::{Repository, digest, noise, sha256, versions};
use crate::registry::{Fault, Guard, Registry, nowhere, one_image};
use crate::service::{ANEW, Folder, Service, command, eventually, output, serve_on};

/// The command with arguments, of which `URL` stands for where the service is.
fn asking(address: SocketAddr, arguments: &[&str]) -> Command {
    let mut command = command(arguments);
    command.args(["--service", &format!("http://{address}")]);
    // It is asked without a detour.
    command.env("http_proxy", format!("http://{}", nowhere()));
    command.env("HTTP_PROXY", format!("http://{}", nowhere()));
    command
}

fn ask(address: SocketAddr, arguments: &[&str]) -> Output {
    output(asking(address, arguments))
}

/// The service reads its settings when the first client comes.
#[test]
fn wrong_settings_of_the_service_have_the_same_exit_status_as_those_of_the_command() {
    let folder = Folder::new();
    let config = folder.file("config.toml", "registry = 5\n");
    for arguments in [&["list", "hello"][..], &["fetch", "hello", "-o", "-"]] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = listener.try_clone().unwrap();
        let asked = thread::scope(|scope| {
            let asked = scope.spawn(|| ask(address, arguments));
            // As systemd does, it is started when somebody has connected.
            let mut waits = [PollFd::new(&listener, PollFlags::IN)];
            poll(&mut waits, None).unwrap();
            // A client that has not sent its request yet gets no body.
            thread::sleep(Duration::from_millis(300));
            let served = output(serve_on(shared, &config));
            assert_eq!(served.status.code(), Some(78));
            asked.join().unwrap()
        });
        let (status, said) = ended(&asked);
        assert_eq!(status, Some(78), "{said}");
        assert!(said.contains("config.toml:1"), "{said}");
    }
}

/// The exit status, and what it said.
fn ended(output: &Output) -> (Option<i32>, String) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

#[track_caller]
fn good(output: Output) -> String {
    assert_eq!(ended(&output), (Some(0), String::new()));
    String::from_utf8(output.stdout).unwrap()
}

/// The names in a folder.
fn names(folder: &Folder) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).unwrap().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn list_shows_what_the_service_sees_with_its_login() {
    let registry = Registry::with_hello(versions(3).0);
    registry.guard(Guard::basic(&["alice:s3cret"]));
    let service = Service::with_login(&registry, "alice:s3cret");
    let asked = good(ask(service.address, &["list", "hello"]));
    assert!(
        asked.contains("hello-v2.raw") && asked.contains("hello: 3 files from "),
        "{asked}"
    );
    // The same by the address of the service, as a transfer file has it.
    let url = format!("http://{}/hello", service.address);
    assert_eq!(good(output(command(&["list", &url]))), asked);
    // And without the service, for whoever has the login; who has not cannot find out.
    let folder = Folder::new();
    let config = folder.file("config.toml", &registry.settings());
    let config = config.to_str().unwrap();
    let mut direct = command(&["list", "hello", "--config", config]);
    direct.env("REGISTRY_AUTH_FILE", service.auth_file());
    assert_eq!(good(output(direct)), asked);
    let denied = output(command(&["list", "hello", "--config", config]));
    let (status, said) = ended(&denied);
    assert!(
        status == Some(69) && said.contains("wants a login"),
        "{status:?} {said}"
    );
}

#[test]
fn json_is_what_the_service_answers() {
    let (hello, _) = versions(3);
    let registry = Registry::with_hello(hello);
    let service = Service::of(&registry);
    let printed = good(ask(service.address, &["list", "--json", "hello"]));
    let response = service.request("GET", "/hello/", &["Accept: application/json"]);
    let (printed, mut served): (Value, Value) = (
        serde_json::from_str(&printed).unwrap(),
        serde_json::from_slice(&response.body).unwrap(),
    );
    assert_eq!(printed, served);
    let folder = Folder::new();
    let config = folder.file("config.toml", &registry.settings());
    let direct = good(output(command(&[
        "list",
        "--json",
        "hello",
        "--config",
        config.to_str().unwrap(),
    ])));
    let mut direct: Value = serde_json::from_str(&direct).unwrap();
    for json in [&mut direct, &mut served] {
        json["listed"] = Value::Null;
    }
    assert_eq!(direct, served, "by this process itself");
}

#[test]
fn the_exit_status_tells_yes_no_wrong_unknown_and_settings() {
    let mut nothing = Repository::default();
    nothing.tag("v1", b"{}");
    let registry = Registry::with_hello(versions(1).0);
    registry.put("nothing", nothing);
    let service = Service::of(&registry);
    let bad = Folder::new();
    let bad = bad.file("config.toml", "registry = 5\n");
    let bad = ["--config", bad.to_str().unwrap()];
    let absent = format!("http://{}", nowhere());
    let no_service = ["--service", &absent];
    let layout = Folder::with_layout(&versions(1).0);
    let layout = format!("oci:{}", layout.path().display());
    let to_stdout = ["fetch", "hello", "-o", "-"];
    let with = |one: &[&str], other: &[&str]| [one, other].concat().join(" ");
    for (arguments, status, part) in [
        ("list hello".to_owned(), 0, ""),
        ("fetch hello -o -".to_owned(), 0, ""),
        (format!("list {layout}"), 0, ""),
        (format!("fetch {layout} -o -"), 0, ""),
        ("version".to_owned(), 0, ""),
        (
            "list nothing".to_owned(),
            1,
            "no file is offered, 1 skipped; --all shows why",
        ),
        ("list --json nothing".to_owned(), 1, "no file is offered"),
        ("list other".to_owned(), 1, "registry has no "),
        ("fetch nothing".to_owned(), 1, "is not offered"),
        (
            "fetch hello/hello-v7.raw".to_owned(),
            1,
            "hello/hello-v7.raw is not offered",
        ),
        (
            "fetch hello --version 7".to_owned(),
            1,
            "version 7 of hello is not offered",
        ),
        (
            "list Hello".to_owned(),
            2,
            "\"Hello\" is not a name component",
        ),
        (
            "list oci:///srv/hello".to_owned(),
            2,
            "is written oci:/srv/hello",
        ),
        (
            "list hello --direct --service http://localhost:1".to_owned(),
            2,
            "cannot be used with",
        ),
        (
            "list http://localhost:1/hello --service http://localhost:2".to_owned(),
            2,
            "--service names another",
        ),
        (
            "list hello --service localhost:5001".to_owned(),
            2,
            "expected http://HOST:PORT",
        ),
        (
            "fetch hello/hello-v0.raw --version 1".to_owned(),
            2,
            "either",
        ),
        (
            with(&["list", "hello"], &no_service),
            69,
            "sysext-oci-proxy.socket",
        ),
        (with(&["list", "hello"], &no_service), 69, "--direct"),
        (with(&to_stdout, &no_service), 69, "sysext-oci-proxy.socket"),
        (with(&["list", "hello"], &bad), 78, "config.toml:1"),
        (with(&to_stdout, &bad), 78, "config.toml:1"),
    ] {
        let arguments: Vec<_> = arguments.split(' ').collect();
        let says_whom = ["--service", "--config", "version"]
            .iter()
            .any(|word| arguments.contains(word));
        let found = if says_whom || arguments[1].starts_with("oci:/") {
            output(command(&arguments))
        } else {
            ask(service.address, &arguments)
        };
        let (found, said) = ended(&found);
        assert_eq!(found, Some(status), "{arguments:?}: {said}");
        assert!(
            said.contains(part) && said.is_empty() == (status == 0),
            "{arguments:?}: {said}"
        );
    }
    registry.fault("", Fault::Status(500));
    let (found, said) = ended(&ask(service.address, &["list", "hello:v0"]));
    assert!(
        found == Some(69) && said.contains("registry error (status 500)"),
        "{found:?} {said}"
    );
}

#[test]
fn the_version_is_a_line() {
    let line = concat!("sysext-oci-proxy ", env!("CARGO_PKG_VERSION"), "\n");
    for arguments in ["version", "--version"] {
        assert_eq!(good(output(command(&[arguments]))), line);
    }
}

#[test]
fn a_file_is_fetched_by_repository_version_or_name_to_where_it_is_wanted() {
    let registry = Registry::with_hello(versions(3).0);
    let service = Service::of(&registry);
    let folder = Folder::new();
    fs::create_dir(folder.path().join("into")).unwrap();
    let fetch = |arguments: &[&str]| {
        let mut command = asking(service.address, &[&["fetch"], arguments].concat());
        command.current_dir(folder.path());
        good(output(command))
    };
    for (arguments, path, content) in [
        (&["hello"][..], "hello-v2.raw", "image 2"),
        (&["hello", "--version", "v1"], "hello-v1.raw", "image 1"),
        (
            &["hello/hello-v0.raw", "-o", "into"],
            "into/hello-v0.raw",
            "image 0",
        ),
        (&["hello", "--output", "image"], "image", "image 2"),
        (&["hello/hello-v0.raw", "-o", "image"], "image", "image 0"),
        (&["hello:v1"], "hello.raw", "image 1"),
    ] {
        assert_eq!(fetch(arguments), format!("{path}\n"), "{arguments:?}");
        let found = fs::read(folder.path().join(path)).unwrap();
        assert_eq!(String::from_utf8(found).unwrap(), content, "{arguments:?}");
    }
    assert_eq!(fetch(&["hello", "-o", "-"]), "image 2");
    let found = ["hello-v1.raw", "hello-v2.raw", "hello.raw", "image", "into"];
    assert_eq!(names(&folder), found, "and nothing else is left");
}

#[test]
fn what_cannot_be_written_is_said_and_what_is_there_stays() {
    let registry = Registry::with_hello(versions(1).0);
    let service = Service::of(&registry);
    let folder = Folder::new();
    fs::create_dir(folder.path().join("hello-v0.raw")).unwrap();
    for (target, part) in [
        ("missing/file", "missing"),
        (".", "no regular file; -o - writes to standard output"),
        ("/dev/null", "no regular file"),
    ] {
        let mut command = asking(service.address, &["fetch", "hello", "-o", target]);
        command.current_dir(folder.path());
        let (status, said) = ended(&output(command));
        assert!(
            status == Some(69) && said.contains(part),
            "{target}: {status:?} {said}"
        );
    }
    assert_eq!(names(&folder), ["hello-v0.raw"]);
}

#[test]
fn a_file_that_the_registry_itself_sends_is_fetched_by_curl_or_directly() {
    let registry = Registry::with_hello(versions(1).0);
    let settings = registry.settings() + "[repository.hello]\nblobs = \"redirect\"\n";
    let service = Service::start(&settings);
    let (status, said) = ended(&ask(service.address, &["fetch", "hello", "-o", "-"]));
    let curl = format!(
        "`curl --location http://{}/hello/hello-v0.raw`",
        service.address
    );
    assert!(
        status == Some(69) && said.contains(&curl),
        "{status:?} {said}"
    );
    let folder = Folder::new();
    let config = folder.file("config.toml", &settings);
    let arguments = [
        "fetch",
        "hello",
        "-o",
        "-",
        "--config",
        config.to_str().unwrap(),
    ];
    assert_eq!(good(output(command(&arguments))), "image 0");
}

#[test]
fn a_download_that_is_cut_leaves_no_file() {
    let registry = one_image(&noise(1 << 20));
    registry.fault("/blobs/", Fault::WrongByte);
    let service = Service::of(&registry);
    let folder = Folder::new();
    folder.file("hello-v1.raw", "the one before");
    let config = Folder::new();
    let config = config.file("config.toml", &registry.settings());
    let direct = ["--config", config.to_str().unwrap()];
    let by_service = ["--service", &format!("http://{}", service.address)];
    for (whom, expected) in [(by_service, 69), (direct, 1)] {
        let mut command = command(&[&["fetch", "hello"][..], &whom].concat());
        command.current_dir(folder.path());
        let (status, said) = ended(&output(command));
        assert_eq!(status, Some(expected), "{whom:?}: {said}");
        assert_eq!(names(&folder), ["hello-v1.raw"]);
        let kept = fs::read(folder.path().join("hello-v1.raw")).unwrap();
        assert_eq!(kept, b"the one before");
    }
}

#[test]
fn a_fetch_that_is_killed_leaves_nothing() {
    let registry = one_image(&noise(4 << 20));
    registry.fault("/blobs/", Fault::Drip(64 << 10, Duration::from_millis(50)));
    let service = Service::of(&registry);
    let folder = Folder::new();
    let mut command = asking(service.address, &["fetch", "hello"]);
    let mut child = command.current_dir(folder.path()).spawn().unwrap();
    eventually("it has begun", || !registry.take_requests().is_empty());
    thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "it is not done yet");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(names(&folder), [""; 0]);
}

/// Something that answers every request with what is found for its target: status line and headers, and the body.
fn impostor(answer: impl Fn(&str) -> (String, Vec<u8>) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0; 4096];
            let length = stream.read(&mut head).unwrap();
            let head = String::from_utf8_lossy(&head[..length]);
            let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let (head, body) = answer(&target);
            // The client may have heard enough.
            let _ = stream
                .write_all(format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes());
            let _ = stream.write_all(&body);
        }
    });
    address
}

/// The JSON of `hello` with one file.
fn overview(name: &str, bytes: &[u8], size: Option<usize>) -> Vec<u8> {
    let file = json!({
        "name": name, "version": "v1", "architecture": null, "size": size, "digest": digest(bytes), "tag": "v1",
        "verified_by": null,
    });
    json!({
        "repository": "hello", "source": "elsewhere", "signed": null, "incomplete": null, "listed": "2026-01-02T03:04:05Z",
        "files": [file], "left_out": [],
    })
    .to_string()
    .into_bytes()
}

#[test]
fn bytes_that_are_not_those_of_the_list_are_refused_whoever_sends_them() {
    const JSON: &str = "200 OK\r\nContent-Type: application/json";
    let folder = Folder::new();
    for (size, sent, part) in [
        (Some(7), "another", "has the wrong bytes"),
        (None, "another one", "has the wrong bytes"),
        (Some(7), "longer than the list says", "has the wrong size"),
        (Some(7), "short", "has the wrong size"),
    ] {
        let address = impostor(move |target| match target {
            "/hello/" => (JSON.into(), overview("hello-v1.raw", b"image 1", size)),
            _ => (
                format!("200 OK\r\nContent-Length: {}", sent.len()),
                sent.into(),
            ),
        });
        let mut command = asking(address, &["fetch", "hello"]);
        command.current_dir(folder.path());
        let (status, said) = ended(&output(command));
        assert!(
            status == Some(1) && said.contains(part),
            "{sent}: {status:?} {said}"
        );
        assert_eq!(names(&folder), [""; 0]);
        // Standard output has had what there was, and the exit status tells.
        let found = ask(address, &["fetch", "hello", "-o", "-"]);
        assert_eq!(ended(&found), (Some(1), said));
    }
}

#[test]
fn another_program_at_the_port_does_no_harm() {
    let folder = Folder::new();
    let json = |body: &[u8]| {
        (
            "200 OK\r\nContent-Type: application/json".to_owned(),
            body.to_vec(),
        )
    };
    let page = (
        "200 OK\r\nContent-Type: text/html".to_owned(),
        b"<p>hello</p>".to_vec(),
    );
    let redirect = (
        "302 Found\r\nLocation: http://elsewhere/".to_owned(),
        Vec::new(),
    );
    for (answer, part) in [
        (page, "is this sysext-oci-proxy"),
        (json(b"{}"), "its JSON is not that of a directory"),
        (
            json(&overview("../evil", b"x", None)),
            "its JSON is not that of a directory",
        ),
        (
            json(&overview("/etc/evil", b"x", None)),
            "its JSON is not that of a directory",
        ),
        (json(&vec![b' '; (64 << 20) + 2]), "more than"),
        (redirect, "http://elsewhere/"),
        (
            ("404 Not Found".to_owned(), Vec::new()),
            "answers with status 404",
        ),
        (("nonsense".to_owned(), Vec::new()), "connection lost"),
    ] {
        let is_absent = answer.0.starts_with("404");
        let address = impostor(move |_| answer.clone());
        for arguments in [&["fetch", "hello"][..], &["list", "hello"]] {
            let mut command = asking(address, arguments);
            command.current_dir(folder.path());
            let (status, said) = ended(&output(command));
            let expected = if is_absent { 1 } else { 69 };
            assert!(
                status == Some(expected) && said.contains(part),
                "{part}: {status:?} {said}"
            );
        }
    }
    assert_eq!(names(&folder), [""; 0]);
}

#[test]
fn two_may_fetch_one_file_into_one_directory_at_once() {
    let image = noise(3 << 20);
    let registry = one_image(&image);
    registry.fault("/blobs/", Fault::Drip(256 << 10, Duration::from_millis(20)));
    let service = Service::of(&registry);
    let folder = Folder::new();
    let start = |_| {
        let mut command = asking(service.address, &["fetch", "hello"]);
        command
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let both: Vec<_> = [(), ()].map(start).into();
    for child in both {
        assert_eq!(good(child.wait_with_output().unwrap()), "hello-v1.raw\n");
    }
    assert_eq!(names(&folder), ["hello-v1.raw"]);
    assert!(fs::read(folder.path().join("hello-v1.raw")).unwrap() == image);
}

#[test]
fn while_the_repository_changes_each_answer_is_one_of_its_states() {
    let registry = Registry::with_hello(versions(1).0);
    let service = Service::start(registry.settings() + ANEW);
    let folder = Folder::new();
    let (is_done, registry) = (AtomicBool::new(false), &registry);
    let state = |n: usize| format!("state {n}");
    registry.change(|hello| hello.oras_push("v0", "hello.raw", state(0).as_bytes()));
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in (1..).take_while(|_| !is_done.load(Ordering::Relaxed)) {
                registry.change(|hello| hello.oras_push("v0", "hello.raw", state(n).as_bytes()));
                thread::sleep(Duration::from_millis(5));
            }
        });
        for _ in 0..10 {
            let json = good(ask(service.address, &["list", "--json", "hello"]));
            let json: Value = serde_json::from_str(&json).unwrap();
            assert_eq!(json["files"].as_array().unwrap().len(), 1, "{json}");
            let mut command = asking(service.address, &["fetch", "hello"]);
            command.current_dir(folder.path());
            let (status, said) = ended(&output(command));
            // The tag may have moved between the list and the file: then that is said, and the next try does.
            assert!(
                status == Some(0) || status == Some(1) && said.contains("wrong "),
                "{status:?} {said}"
            );
        }
        is_done.store(true, Ordering::Relaxed);
    });
    assert_state(folder.path(), &names(&folder));
}

/// At most the file, which is one of the states.
fn assert_state(folder: &Path, names: &[String]) {
    assert!(names.is_empty() || names == ["hello-v0.raw"], "{names:?}");
    for name in names {
        let found = fs::read_to_string(folder.join(name)).unwrap();
        assert!(
            found.starts_with("state "),
            "{found}: {}",
            sha256(found.as_bytes())
        );
    }
}
