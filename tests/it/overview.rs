//! A directory as programs see it: `GET /<repository>/` with `Accept: application/json`.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::Response;
use crate::content::{OCI_TAR, Repository, digest, lines, sign, versions};
use crate::registry::{Fault, Link, Registry, count};
use crate::service::{Folder, Service, X86, eventually};

const JSON: &str = "Accept: application/json";

fn ask(service: &Service, directory: &str) -> Response {
    service.request("GET", &format!("/{directory}/"), &[JSON])
}

/// The JSON of a directory, which has to be there.
#[track_caller]
fn overview(service: &Service, directory: &str) -> Value {
    let response = ask(service, directory);
    assert_eq!(
        (response.status, response.whole),
        (200, true),
        "{response:?}"
    );
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert_eq!(response.header("vary"), Some("Accept"));
    let mut json: Value = serde_json::from_slice(&response.body).unwrap();
    let listed = json.as_object_mut().unwrap().remove("listed").unwrap();
    let listed: jiff::Timestamp = listed.as_str().unwrap().parse().unwrap();
    let age = jiff::Timestamp::now().duration_since(listed);
    assert!(age.as_secs().abs() < 60, "{listed}");
    json
}

/// A field of each of them.
fn each<'a>(list: &'a Value, field: &str) -> Vec<&'a str> {
    let list = list.as_array().unwrap().iter();
    list.map(|one| one[field].as_str().unwrap_or("-")).collect()
}

#[test]
fn a_directory_has_all_that_is_known_of_its_files_and_of_what_is_not_listed() {
    let mut hello = Repository::default();
    for tag in ["v1.9", "v1.10", "v1.10-rc1", "v2-arm64", "edge"] {
        hello.oras_push(tag, "hello.raw", tag.as_bytes());
    }
    let both: [(&str, &str, &[u8]); 2] = [
        ("amd64", "hello.raw", b"for this one"),
        ("arm64", "hello.raw", b"for another one"),
    ];
    hello.index("v1.8", &both);
    hello.index("v1.7", &both[1..]);
    let gone = hello.tags["v1.9"].replace("sha256:0", "sha256:1");
    hello.tags.insert("v1.1".into(), gone.replace('a', "b"));
    let other_machine = hello.tags["v1.7"].clone();
    let registry = Registry::with_hello(hello);
    registry.fault("/manifests/v1.9", Fault::Status(500));
    registry.fault("/manifests/v1.10-rc1", Fault::Status(403));
    let service = Service::start(registry.settings() + X86);

    let found = overview(&service, "hello");
    let file = |name: &str, version: &str, architecture: Value, bytes: &[u8], tag: &str| {
        json!({
            "name": name, "version": version, "architecture": architecture, "size": bytes.len(),
            "digest": digest(bytes), "tag": tag, "verified_by": null,
        })
    };
    let files = json!([
        file(
            "hello-v2-arm64.raw",
            "v2",
            json!("arm64"),
            b"v2-arm64",
            "v2-arm64"
        ),
        file("hello-v1.10.raw", "v1.10", Value::Null, b"v1.10", "v1.10"),
        file(
            "hello-v1.8-x86-64.raw",
            "v1.8",
            json!("x86-64"),
            b"for this one",
            "v1.8"
        ),
        file("hello-edge.raw", "edge", Value::Null, b"edge", "edge"),
    ]);
    assert_eq!(found["files"], files);
    assert_eq!(found["repository"], "hello");
    assert_eq!(found["source"], format!("{}/hello", registry.address));
    assert_eq!(found["signed"], Value::Null);
    assert_eq!(found["incomplete"], json!({"unanswered": 1, "tags": 8}));
    let left_out = &found["left_out"];
    assert_eq!(each(left_out, "tag"), ["v1.10-rc1", "v1.9", "v1.7", "v1.1"]);
    assert_eq!(
        each(left_out, "kind"),
        ["refused", "unanswered", "skipped", "refused"]
    );
    assert_eq!(each(left_out, "digest"), ["-", "-", &other_machine, "-"]);
    let reasons = each(left_out, "reason");
    for (reason, expected) in reasons.iter().zip([
        "status 403",
        "status 500",
        "its one platform is linux/arm64, offered is x86-64",
        "/manifests/v1.1",
    ]) {
        assert!(reason.contains(expected), "{reason}");
    }
    for (field, value) in [("name", Value::Null), ("until", Value::Null)] {
        assert_eq!(left_out[0][field], value, "{field}");
    }
    let fields: Vec<_> = found.as_object().unwrap().keys().collect();
    assert_eq!(fields.len(), 6, "{fields:?}");
}

#[test]
fn programs_get_json_and_everybody_else_the_page() {
    let (registry, listing) = Registry::with_versions(2);
    let service = Service::of(&registry);
    for (accept, media_type) in [
        ("Accept: */*", "text/html; charset=utf-8"),
        ("Accept: application/*", "text/html; charset=utf-8"),
        (
            "Accept: text/html, application/json;q=0.9",
            "text/html; charset=utf-8",
        ),
        ("Accept: application/json", "application/json"),
        (
            "Accept: text/html;q=0.5, application/json",
            "application/json",
        ),
    ] {
        // Both are kept: the second request has the same as the first.
        for _ in 0..2 {
            let response = service.request("GET", "/hello/", &[accept]);
            assert_eq!(
                response.header("content-type"),
                Some(media_type),
                "{accept}"
            );
            assert_eq!(response.header("vary"), Some("Accept"), "{accept}");
            let is_json = serde_json::from_slice::<Value>(&response.body).is_ok();
            assert_eq!(is_json, media_type == "application/json", "{accept}");
            let head = service.request("HEAD", "/hello/", &[accept]);
            let length = response.body.len().to_string();
            assert_eq!(head.header("content-length"), Some(&*length), "{accept}");
        }
    }
    // The files that systemd reads are the same for all clients.
    let response = service.request("GET", "/hello/SHA256SUMS", &[JSON]);
    assert_eq!(response.text(), listing);
}

#[test]
fn of_a_signed_list_the_tags_that_it_lacks_are_left_out() {
    let mut hello = Repository::default();
    for tag in ["1.0", "1.1", "1.2_3", "v1.1", "latest", "2.0-arm64"] {
        hello.oras_push(tag, "hello.raw", tag.as_bytes());
    }
    let files: [(&[u8], &str); 3] = [
        (b"one", "hello-1.0-x86-64.raw"),
        (b"two", "hello_1.2+3_x86-64.raw"),
        (b"about it", "NOTES.txt"),
    ];
    let list = lines(&files);
    sign(
        &mut hello,
        list.as_bytes(),
        &[("SHA256SUMS.gpg", b"a signature")],
        &[],
    );
    let referrers = format!("sha256-{}", "0f".repeat(32));
    hello.oras_push(&referrers, "x", b"x");
    let registry = Registry::with_hello(hello);
    let service = Service::of(&registry);
    assert_eq!(service.listing(), list);
    assert_eq!(count(&registry.take_requests(), "/tags/list"), 0);

    let found = overview(&service, "hello");
    assert_eq!(found["signed"], "publisher");
    let all = &found["files"];
    assert_eq!(
        each(all, "name"),
        [
            "hello_1.2+3_x86-64.raw",
            "hello-1.0-x86-64.raw",
            "NOTES.txt"
        ]
    );
    assert_eq!(each(all, "version"), ["1.2+3", "1.0", "-"]);
    assert_eq!(each(all, "architecture"), ["x86-64", "x86-64", "-"]);
    assert_eq!(
        (&all[0]["size"], &all[0]["tag"]),
        (&Value::Null, &Value::Null)
    );
    let left_out = &found["left_out"];
    assert_eq!(
        each(left_out, "tag"),
        ["2.0-arm64", "1.1", "v1.1", &referrers, "latest"]
    );
    let why = "the list that its publisher signed has no file of this version";
    assert_eq!(left_out[0]["reason"], why);
    assert_eq!(left_out[0]["kind"], "skipped");
    overview(&service, "hello");
    let requests = registry.take_requests();
    assert_eq!(count(&requests, "/tags/list"), 1, "once: {requests:?}");

    // Whoever comes while the tags are asked for waits for the same answer.
    registry.fault("/tags/list", Fault::Delay(Duration::from_millis(300)));
    let service = Service::of(&registry);
    service.listing();
    registry.take_requests();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| overview(&service, "hello"));
        }
    });
    assert_eq!(count(&registry.take_requests(), "/tags/list"), 1);
    registry.behave();

    // A registry that tells no tags takes nothing away.
    registry.fault("/tags/list", Fault::Status(500));
    let service = Service::of(&registry);
    let found = overview(&service, "hello");
    assert_eq!(found["files"].as_array().unwrap().len(), 3);
    assert_eq!(each(&found["left_out"], "kind"), ["unanswered"]);
}

#[test]
fn of_one_artifact_the_titles_tell_the_versions() {
    let mut hello = Repository::default();
    let layers = [
        hello.file(OCI_TAR, "kubernetes-v1.30.2-x86-64.raw", b"the image"),
        hello.file("text/plain", "NOTES.txt", b"about it"),
        hello.file("application/vnd.example+encrypted", "secret.raw", b"secret"),
    ];
    let artifact = hello.artifact(&layers, json!({}));
    let manifest = artifact["digest"].as_str().unwrap().to_owned();
    hello.point("stable", &artifact);
    let registry = Registry::with_hello(hello);
    let service = Service::of(&registry);
    let found = overview(&service, "hello:stable");
    assert_eq!(found["repository"], "hello:stable");
    let files = &found["files"];
    assert_eq!(each(files, "version"), ["v1.30.2", "-"]);
    assert_eq!(each(files, "architecture"), ["x86-64", "-"]);
    assert_eq!(each(files, "tag"), ["stable", "stable"]);
    let left_out = &found["left_out"];
    assert_eq!(each(left_out, "digest"), [&manifest]);
    assert_eq!(
        each(left_out, "reason"),
        ["layer 3 (\"secret.raw\"): it is encrypted"]
    );
}

#[test]
fn a_merged_directory_names_all_its_sources() {
    let one = Folder::with_layout(&versions(1).0);
    let other = Folder::with_layout(&versions(2).0);
    for (folder, name) in [(&one, "one"), (&other, "other")] {
        std::fs::rename(folder.path(), folder.path().with_extension(name)).unwrap();
    }
    let path = |folder: &Folder, name| folder.path().with_extension(name).display().to_string();
    let (one_path, other_path) = (path(&one, "one"), path(&other, "other"));
    let settings =
        format!("[repository.both]\nsource = [\"oci:{one_path}\", \"oci:{other_path}\"]\n");
    let service = Service::start(settings);
    let found = overview(&service, "both");
    assert_eq!(found["source"], format!("oci:{one_path}, oci:{other_path}"));
    assert_eq!(each(&found["files"], "version"), ["v1", "v0", "v0"]);
    drop(service);
    for path in [one_path, other_path] {
        std::fs::remove_dir_all(path).unwrap();
    }
}

#[test]
fn the_newest_of_very_many_are_told_and_the_number_of_the_others() {
    let mut hello = versions(1).0;
    let version = hello.tags.remove("v0").unwrap();
    for n in 0..12_000 {
        hello.tags.insert(format!("v0.{n}"), version.clone());
    }
    for n in 0..4_000 {
        let referrers = format!("sha256-{n:064}");
        hello.tags.insert(referrers, version.clone());
    }
    let registry = Registry::with_hello(hello);
    registry.fault("/tags/list", Fault::Pages(1000, Link::Relative));
    let service = Service::of(&registry);
    eventually("all tags are listed", || {
        service.get("/hello/SHA256SUMS").status == 200
    });
    let response = ask(&service, "hello");
    assert!(response.body.len() < 4 << 20, "{}", response.body.len());
    let found: Value = serde_json::from_slice(&response.body).unwrap();
    let versions = each(&found["files"], "version");
    let left_out = found["left_out"].as_array().unwrap().len();
    let omitted = &found["omitted"];
    assert_eq!(versions[0], "v0.11999");
    assert_eq!(
        *versions.last().unwrap(),
        format!("v0.{}", 12_000 - versions.len())
    );
    assert!(versions.len() > 5_000, "{}", versions.len());
    assert_eq!(omitted["files"], 12_000 - versions.len());
    assert_eq!(omitted["left_out"], 4_000 - left_out);
    let page = service.get("/hello/");
    assert!(page.body.len() < 5 << 20, "{}", page.body.len());
    let rest = format!("{} more files", 12_000 - versions.len());
    assert!(page.text().contains(&rest), "{rest}");
}

#[test]
fn of_a_very_long_list_page_and_json_take_little_memory() {
    let long = "\u{202e}".repeat(70);
    let names =
        (0..80_000).map(|n| crate::content::line(b"image", &format!("hello-{n}-{long}.raw")));
    let mut hello = Repository::default();
    sign(&mut hello, names.collect::<String>().as_bytes(), &[], &[]);
    let registry = Registry::with_hello(hello);
    let service = Service::start(registry.settings() + "listing-ttl-sec = 60\n");
    service.listing();
    let before = service.peak_memory();
    let json = ask(&service, "hello").body.len() >> 10;
    let page = service.get("/hello/").body.len() >> 10;
    let more = service.peak_memory() - before;
    assert!(
        more <= 12,
        "JSON of {json} KiB and a page of {page} KiB take {more} MiB"
    );
}
