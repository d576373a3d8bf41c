//! One artifact as a directory: `/<repository>:<tag>/` and `/<repository>@sha256:<hex>/`, what is
//! attached to it, and `latest.json` of KubeSolo OS.

use serde_json::{Value, json};

use crate::content::{OCI_INDEX, OCI_MANIFEST, OCI_TAR, Repository, line, sha256};
use crate::registry::{Fault, Registry, count};
use crate::service::{ANEW, Folder, Service, X86, later};

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A whole answer of a registry.
fn answer(status: &str, headers: &[&str], body: &str) -> Fault {
    let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    Fault::Raw(text.into_bytes())
}

/// The listing of one directory, whose answer has to be good.
fn listing(service: &Service, directory: &str) -> String {
    String::from_utf8(service.whole(&format!("/{directory}/SHA256SUMS"))).unwrap()
}

/// The lines of a listing, sorted by name.
fn lines(files: &[(&[u8], &str)]) -> String {
    let mut files = files.to_vec();
    files.sort_by_key(|(_, name)| *name);
    files
        .iter()
        .map(|(bytes, name)| line(bytes, name))
        .collect()
}

#[test]
fn an_artifact_is_a_directory_as_oras_pull_makes_it() {
    let mut hello = Repository::default();
    let layers = [
        hello.file(OCI_TAR, "kubernetes-v1.30.2-x86-64.raw", b"the image"),
        hello.file("text/plain", "NOTES with spaces.txt", b"about it"),
        hello.blob(GZIP, b"no title"),
    ];
    let artifact = hello.artifact(&layers, json!({}));
    hello.point("stable", &artifact);
    hello.oras_push("other", "other.raw", b"another tag");
    let digest = artifact["digest"].as_str().unwrap().to_owned();
    let by_digest = format!("hello-{}.tar.gz", &digest["sha256:".len()..][..12]);
    let folder = Folder::with_layout(&hello);
    let registry = Registry::with_hello(hello);
    for (kind, settings) in [
        ("registry", registry.settings()),
        ("layout", folder.settings()),
    ] {
        let service = Service::start(settings);
        for (directory, untitled) in [
            ("hello:stable".to_owned(), "hello-stable.tar.gz"),
            (format!("hello@{digest}"), &by_digest),
        ] {
            let files: [(&[u8], &str); 3] = [
                (b"the image", "kubernetes-v1.30.2-x86-64.raw"),
                (b"about it", "NOTES with spaces.txt"),
                (b"no title", untitled),
            ];
            assert_eq!(
                listing(&service, &directory),
                lines(&files),
                "{kind} {directory}"
            );
            for (bytes, name) in files {
                let path = format!("/{directory}/{}", name.replace(' ', "%20"));
                let response = service.get(&path);
                assert_eq!(
                    (response.status, response.body.as_slice()),
                    (200, bytes),
                    "{path}"
                );
                let sum = service.get(&format!("{path}.sha256"));
                assert_eq!((sum.status, sum.text()), (200, line(bytes, name).as_str()));
            }
        }
        let mut log = service.log.lines();
        log.retain(|line| line.contains("left out") && !line.contains("hello: tag"));
        assert_eq!(log, [""; 0], "{kind}: everything is on offer");
    }
}

#[test]
fn the_version_is_what_the_artifact_says_it_is() {
    let version = |value: &str| json!({"annotations": {"org.opencontainers.image.version": value}});
    let solo = json!({"annotations": {"io.kubesolo.os.version": "v0.3.0"}});
    let nothing = json!({});
    for (of_manifest, of_index, expected, why) in [
        (
            version("1.2.3"),
            None,
            "hello-1.2.3.tar.gz",
            "its own annotation",
        ),
        (
            solo,
            None,
            "hello-v0.3.0.tar.gz",
            "as KubeSolo OS spells it",
        ),
        (
            nothing.clone(),
            None,
            "hello-stable.tar.gz",
            "none: the tag",
        ),
        (
            version(""),
            None,
            "hello-stable.tar.gz",
            "an empty one is none",
        ),
        (
            nothing.clone(),
            Some(version("4.5")),
            "hello-4.5.tar.gz",
            "its index's",
        ),
        (
            version("1.2.3"),
            Some(version("4.5")),
            "hello-1.2.3.tar.gz",
            "its own before its index's",
        ),
    ] {
        let mut hello = Repository::default();
        let layer = hello.blob(GZIP, b"bytes");
        let mut found = hello.artifact(&[layer], of_manifest);
        if let Some(more) = of_index {
            found["platform"] = json!({"os": "linux", "architecture": "amd64"});
            found = hello.index_of(&[found], more);
        }
        hello.point("stable", &found);
        let registry = Registry::with_hello(hello);
        let service = Service::start(registry.settings() + X86);
        assert_eq!(
            listing(&service, "hello:stable"),
            line(b"bytes", expected),
            "{why}"
        );
        // Among its fellows a tag names its file.
        assert_eq!(
            listing(&service, "hello"),
            line(b"bytes", "hello-stable.tar.gz"),
            "{why}"
        );
    }
}

#[test]
fn a_version_that_makes_no_name_is_left_out() {
    for version in ["../../etc/passwd", "1\n2", "1%2f2"] {
        let mut hello = Repository::default();
        let layers = [
            hello.blob(GZIP, b"bytes"),
            hello.file(OCI_TAR, "good.raw", b"good"),
        ];
        let annotations = json!({"annotations": {"org.opencontainers.image.version": version}});
        let artifact = hello.artifact(&layers, annotations);
        hello.point("v1", &artifact);
        let registry = Registry::with_hello(hello);
        let service = Service::of(&registry);
        assert_eq!(
            listing(&service, "hello:v1"),
            line(b"good", "good.raw"),
            "{version:?}"
        );
        let reasons = service.log.with(&["tag v1 left out: "]);
        assert_eq!(reasons.len(), 1, "{version:?}: {reasons:?}");
    }
}

#[test]
fn titles_that_lead_out_of_the_directory_are_left_out_each_with_its_reason() {
    let mut hello = Repository::default();
    let bad = [
        "../up.raw",
        "a/b.raw",
        "/etc/passwd",
        "..",
        ".",
        "",
        "nul\0.raw",
        "two\nlines",
        "per%2fcent",
        "\\back",
    ];
    let mut layers: Vec<Value> = bad
        .iter()
        .map(|title| hello.file(OCI_TAR, title, title.as_bytes()))
        .collect();
    layers.push(hello.file(OCI_TAR, "good.raw", b"good"));
    let artifact = hello.artifact(&layers, json!({}));
    hello.point("v1", &artifact);
    let registry = Registry::with_hello(hello);
    let service = Service::of(&registry);
    assert_eq!(listing(&service, "hello:v1"), line(b"good", "good.raw"));
    for title in bad {
        let reasons = service
            .log
            .with(&["tag v1 left out: ", &format!("{title:?}")]);
        assert_eq!(reasons.len(), 1, "{title:?}: {reasons:?}");
    }
}

#[test]
fn every_line_of_a_directory_is_what_its_name_delivers() {
    let mut hello = Repository::default();
    let titles = [
        "hello.raw",
        "hello.raw.sha256",
        "hello.raw.json",
        "hello.manifest.gz",
        "latest.json",
        "SHA256SUMS",
        "SHA256SUMS.gpg",
        "SHA256SUMS.raw",
    ];
    let layers: Vec<Value> = titles
        .iter()
        .map(|title| hello.file("text/plain", title, format!("bytes of {title}").as_bytes()))
        .collect();
    let artifact = hello.artifact(&layers, json!({}));
    hello.point("v1", &artifact);
    let registry = Registry::with_hello(hello);
    let service = Service::of(&registry);
    let listing = listing(&service, "hello:v1");
    assert!(listing.lines().count() >= 5, "{listing}");
    for line in listing.lines() {
        let (sum, name) = line.split_once("  ").unwrap();
        let response = service.get(&format!("/hello:v1/{name}"));
        assert_eq!(
            (response.status, sha256(&response.body).as_str()),
            (200, sum),
            "{name}"
        );
    }
}

#[test]
fn two_layers_of_one_title_are_an_error_of_that_artifact_alone() {
    let mut hello = Repository::default();
    let layers = [
        hello.file(OCI_TAR, "same.raw", b"one"),
        hello.file(OCI_TAR, "same.raw", b"other"),
    ];
    let artifact = hello.artifact(&layers, json!({}));
    hello.point("v1", &artifact);
    hello.oras_push("v2", "same.raw", b"one");
    let registry = Registry::with_hello(hello);
    let service = Service::of(&registry);
    assert_eq!(listing(&service, "hello:v2"), line(b"one", "same.raw"));
    assert_eq!(service.get("/hello:v1/same.raw").status, 404);
    assert_eq!(
        service.log.with(&["tag v1 left out: ", "same.raw"]).len(),
        1
    );
}

#[test]
fn of_an_index_the_directory_has_what_is_on_offer() {
    let mut hello = Repository::default();
    let files: [(&str, &str, &[u8]); 2] = [
        ("amd64", "hello-x86-64.raw", b"for a PC"),
        ("arm64", "hello-arm64.raw", b"for a phone"),
    ];
    hello.index("v1", &files);
    let registry = Registry::with_hello(hello);
    for (architectures, expected) in [
        ("\"x86-64\"", line(b"for a PC", "hello-x86-64.raw")),
        (
            "\"x86-64\", \"arm64\"",
            line(b"for a phone", "hello-arm64.raw") + &line(b"for a PC", "hello-x86-64.raw"),
        ),
    ] {
        let more = format!("[repository.hello]\narchitectures = [{architectures}]\n");
        let service = Service::start(registry.settings() + &more);
        assert_eq!(listing(&service, "hello:v1"), expected);
    }
}

/// A repository with the tag `v1`, and the digest of its manifest.
fn with_something_attached() -> (Repository, String, Value) {
    let mut hello = Repository::default();
    let layer = hello.file(OCI_TAR, "hello.raw", b"image");
    let subject = hello.artifact(&[layer], json!({}));
    hello.point("v1", &subject);
    let log = hello.file("text/plain", "build.log", b"it was built");
    let attached = hello.artifact(
        &[log],
        json!({"artifactType": "build/log", "subject": subject}),
    );
    let stranger = hello.file("text/plain", "stranger.txt", b"about something else");
    let other = json!({"mediaType": OCI_MANIFEST, "digest": format!("sha256:{}", "e".repeat(64)), "size": 7});
    let stranger = hello.artifact(&[stranger], json!({"subject": other}));
    let untold = hello.file("text/plain", "untold.txt", b"about nothing");
    let untold = hello.artifact(&[untold], json!({}));
    let index = json!({
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [attached, stranger, untold],
    });
    let digest = subject["digest"].as_str().unwrap().to_owned();
    (hello, digest, index)
}

#[test]
fn what_is_attached_lies_beside_however_the_registry_tells_of_it() {
    let index_type = format!("Content-Type: {OCI_INDEX}");
    let (_, _, index) = with_something_attached();
    let index = index.to_string();
    let page = "<html>what is it that you want?</html>";
    let html = "Content-Type: text/html";
    let both = lines(&[(b"image", "hello.raw"), (b"it was built", "build.log")]);
    let alone = line(b"image", "hello.raw");
    let none = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":null}"#;
    // What the referrers API answers, whether the tag that stands in for it is there, what is found.
    for (api, has_tag, expected, why) in [
        (
            answer("200 OK", &[&index_type], &index),
            false,
            &both,
            "the API",
        ),
        (
            answer("200 OK", &[&index_type], none),
            false,
            &alone,
            "null for none, as Go writes it",
        ),
        (
            answer("404 Not Found", &[], ""),
            true,
            &both,
            "no API, but the tag",
        ),
        (answer("404 Not Found", &[], ""), false, &alone, "neither"),
        (answer("200 OK", &[html], page), true, &both, "a page"),
        (
            answer("303 See Other", &["Location: /v2/page"], ""),
            true,
            &both,
            "a redirect to a page, as ghcr",
        ),
        (
            answer("405 Method Not Allowed", &[], ""),
            true,
            &both,
            "405",
        ),
        (answer("400 Bad Request", &[], ""), false, &alone, "400"),
        (
            answer("200 OK", &[&index_type], "{"),
            true,
            &both,
            "half an index",
        ),
    ] {
        let (mut hello, subject, index) = with_something_attached();
        if has_tag {
            hello.tag(&subject.replace(':', "-"), index.to_string().as_bytes());
        }
        let registry = Registry::with_hello(hello);
        registry.fault("/referrers/", api);
        registry.fault("/v2/page", answer("200 OK", &[html], page));
        let service = Service::of(&registry);
        for directory in ["hello:v1".to_owned(), format!("hello@{subject}")] {
            assert_eq!(&listing(&service, &directory), expected, "{why}");
        }
        if *expected == both {
            assert_eq!(
                service.get("/hello:v1/build.log").body,
                b"it was built",
                "{why}"
            );
        }
        // It is no version.
        assert_eq!(
            listing(&service, "hello"),
            line(b"image", "hello-v1.raw"),
            "{why}"
        );
    }
}

/// A repository with the tag `v1`, to which so many files are attached, and the lists of the
/// referrers API that tell of them, one for each.
fn with_pages(count: usize) -> (Repository, Vec<String>) {
    let mut hello = Repository::default();
    let layer = hello.file(OCI_TAR, "hello.raw", b"image");
    let subject = hello.artifact(&[layer], json!({}));
    hello.point("v1", &subject);
    let pages = (1..=count).map(|n| {
        let file = hello.file("text/plain", &format!("{n}.txt"), format!("{n}").as_bytes());
        let attached = hello.artifact(&[file], json!({"subject": subject}));
        json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [attached]}).to_string()
    });
    let pages = pages.collect();
    (hello, pages)
}

/// A page of the referrers API with this link to the next one.
fn page_with(link: &str, body: &str) -> Fault {
    let index_type = format!("Content-Type: {OCI_INDEX}");
    let link = format!("Link: {link}");
    answer("200 OK", &[&index_type, &link], body)
}

/// Distribution specification, "Listing Referrers".
#[test]
fn what_is_attached_may_come_in_pages_that_are_all_of_one_origin() {
    let stranger = Registry::on("127.0.0.2:0", None);
    let elsewhere = stranger.origin();
    for (origin, why) in [("", "relative"), (elsewhere.as_str(), "another origin")] {
        let (hello, pages) = with_pages(3);
        let path = format!("/v2/hello/referrers/{}", hello.tags["v1"]);
        let next = |n: usize| format!("<{origin}{path}?page={n}>; rel=\"next\"");
        let registry = Registry::with_hello(hello);
        // The last page names itself: that is the end, too.
        registry.fault("/referrers/", page_with(&next(2), &pages[0]));
        registry.fault("page=2", page_with(&next(3), &pages[1]));
        registry.fault("page=3", page_with(&next(3), &pages[2]));
        let service = Service::of(&registry);
        let files: [(&[u8], &str); 4] = [
            (b"image", "hello.raw"),
            (b"1", "1.txt"),
            (b"2", "2.txt"),
            (b"3", "3.txt"),
        ];
        assert_eq!(listing(&service, "hello:v1"), lines(&files), "{why}");
        assert_eq!(count(&registry.take_requests(), "/referrers/"), 3, "{why}");
        assert_eq!(stranger.take_requests(), [""; 0], "{why}");
    }
}

#[test]
fn a_list_of_what_is_attached_that_does_not_end_or_breaks_off_is_no_half_directory() {
    // Each page names one that lies a directory deeper.
    let (hello, pages) = with_pages(1);
    let registry = Registry::with_hello(hello);
    let deeper = page_with("<more/list>; rel=\"next\"", &pages[0]);
    registry.fault("/referrers/", deeper);
    let service = Service::of(&registry);
    let response = service.get("/hello:v1/SHA256SUMS");
    let why = response.header("x-reason").unwrap_or_default();
    assert!(
        response.status == 502
            && why.ends_with("the list of what is attached does not end, 64 pages were read"),
        "{response:?}"
    );
    assert_eq!(count(&registry.take_requests(), "/referrers/"), 64);
    assert_eq!(listing(&service, "hello"), line(b"image", "hello-v1.raw"));

    let (hello, pages) = with_pages(2);
    let path = format!("/v2/hello/referrers/{}", hello.tags["v1"]);
    let registry = Registry::with_hello(hello);
    let next = format!("<{path}?page=2>; rel=\"next\"");
    registry.fault("/referrers/", page_with(&next, &pages[0]));
    registry.fault("page=2", answer("200 OK", &[], "<html>"));
    let service = Service::of(&registry);
    let response = service.get("/hello:v1/SHA256SUMS");
    let why = response.header("x-reason").unwrap_or_default();
    assert!(
        response.status == 502 && why.contains("page=2"),
        "{response:?}"
    );
}

#[test]
fn a_layout_has_what_is_attached_by_the_tag_that_stands_in_for_a_list() {
    let (mut hello, subject, index) = with_something_attached();
    hello.tag(&subject.replace(':', "-"), index.to_string().as_bytes());
    let folder = Folder::with_layout(&hello);
    let service = Service::start(folder.settings());
    assert_eq!(
        listing(&service, "hello:v1"),
        lines(&[(b"image", "hello.raw"), (b"it was built", "build.log")])
    );
}

#[test]
fn a_registry_that_gives_the_subject_for_the_stand_in_tag_has_nothing_attached() {
    // GitLab resolves sha256-<hex> to the manifest itself; here the subject is an index.
    let mut hello = Repository::default();
    hello.index(
        "v1",
        &[
            ("amd64", "hello.raw", b"image"),
            ("arm64", "hello.raw", b"other"),
        ],
    );
    let subject = hello.tags["v1"].clone();
    hello.tags.insert(subject.replace(':', "-"), subject);
    let registry = Registry::with_hello(hello);
    let service = Service::start(registry.settings() + X86);
    assert_eq!(listing(&service, "hello:v1"), line(b"image", "hello.raw"));
}

#[test]
fn what_is_attached_never_takes_the_name_of_a_file() {
    let mut hello = Repository::default();
    let layer = hello.file(OCI_TAR, "hello.raw", b"image");
    let subject = hello.artifact(&[layer], json!({}));
    hello.point("v1", &subject);
    let layers = [
        hello.file("text/plain", "hello.raw", b"an impostor"),
        hello.file("text/plain", "good.txt", b"good"),
    ];
    let attached = hello.artifact(&layers, json!({"subject": subject}));
    let index = hello.index_of(&[attached], json!({}));
    let digest = subject["digest"].as_str().unwrap();
    hello.point(&digest.replace(':', "-"), &index);
    let registry = Registry::with_hello(hello);
    let service = Service::of(&registry);
    assert_eq!(
        listing(&service, "hello:v1"),
        lines(&[(b"image", "hello.raw"), (b"good", "good.txt")])
    );
}

#[test]
fn a_channel_that_moves_still_delivers_what_it_listed() {
    let mut hello = Repository::default();
    hello.oras_push("stable", "hello-1.raw", b"one");
    let registry = Registry::with_hello(hello);
    let service = Service::start(registry.settings() + ANEW);
    let first = registry_digest(&registry, "stable");
    assert_eq!(
        listing(&service, "hello:stable"),
        line(b"one", "hello-1.raw")
    );
    registry.change(|hello| hello.oras_push("stable", "hello-2.raw", b"two"));
    later();
    assert_eq!(
        service.get("/hello:stable/hello-1.raw").body,
        b"one",
        "as promised"
    );
    assert_eq!(
        listing(&service, "hello:stable"),
        line(b"two", "hello-2.raw")
    );
    assert_eq!(service.get("/hello:stable/hello-2.raw").body, b"two");
    assert_eq!(
        service.get("/hello:stable/hello-1.raw").status,
        404,
        "a new promise"
    );
    later();
    assert_eq!(
        listing(&service, &format!("hello@{first}")),
        line(b"one", "hello-1.raw"),
        "pinned"
    );
}

fn registry_digest(registry: &Registry, tag: &str) -> String {
    let mut found = String::new();
    registry.change(|hello| found = hello.tags[tag].clone());
    found
}

#[test]
fn a_pinned_directory_is_never_another_artifacts() {
    let mut hello = Repository::default();
    hello.oras_push("v1", "hello.raw", b"one");
    hello.oras_push("v2", "hello.raw", b"two");
    let (asked, other) = (
        hello.tags["v1"].clone(),
        hello.manifests[&hello.tags["v2"]].bytes.to_vec(),
    );
    let registry = Registry::with_hello(hello);
    registry.fault("/manifests/sha256:", Fault::Body(other));
    let service = Service::of(&registry);
    let response = service.get(&format!("/hello@{asked}/SHA256SUMS"));
    assert_eq!((response.status, response.body), (502, Vec::new()));
}

#[test]
fn what_is_not_there_is_404_with_nothing_in_it() {
    let mut hello = Repository::default();
    hello.oras_push("v1", "hello.raw", b"image");
    let digest = hello.tags["v1"].clone();
    let registry = Registry::with_hello(hello);
    let service = Service::of(&registry);
    let zeros = "0".repeat(64);
    for (target, status) in [
        ("/hello:v9/SHA256SUMS".to_owned(), 404),
        ("/hello:v9/hello.raw".to_owned(), 404),
        (format!("/hello@sha256:{zeros}/SHA256SUMS"), 404),
        ("/nobody:v1/SHA256SUMS".to_owned(), 404),
        ("/hello:v1/hello-v1.raw".to_owned(), 404),
        ("/hello:v1/hello.raw.sha256.sha256".to_owned(), 404),
        ("/hello:v1/latest.json".to_owned(), 404),
        ("/hello/latest.json".to_owned(), 404),
        (format!("/hello@{digest}/latest.json"), 404),
        ("/hello:v1/SHA256SUMS.gpg".to_owned(), 404),
        ("/hello:v1/SHA256SUMS.sha256.asc".to_owned(), 404),
        ("/hello@sha256:00/SHA256SUMS".to_owned(), 400),
        (format!("/hello@sha512:{zeros}/SHA256SUMS"), 400),
        (format!("/hello@{}/SHA256SUMS", digest.to_uppercase()), 400),
        ("/hello:/SHA256SUMS".to_owned(), 400),
        ("/hello:-v1/SHA256SUMS".to_owned(), 400),
        ("/hello:v1:v2/SHA256SUMS".to_owned(), 400),
        ("/hello:v1@sha256:00/SHA256SUMS".to_owned(), 400),
        ("/hello:v1/../SHA256SUMS".to_owned(), 400),
    ] {
        let response = service.get(&target);
        assert_eq!(
            (response.status, response.body),
            (status, Vec::new()),
            "{target}"
        );
    }
    let unsigned = registry.take_requests();
    assert_eq!(count(&unsigned, "/manifests/v2"), 0, "{unsigned:?}");
}

#[test]
fn a_view_asks_for_its_own_artifact_alone() {
    let mut hello = Repository::default();
    for version in 0..20 {
        hello.oras_push(
            &format!("v{version}"),
            "hello.raw",
            format!("{version}").as_bytes(),
        );
    }
    let digest = hello.tags["v7"].clone();
    let registry = Registry::with_hello(hello);
    let service = Service::of(&registry);
    assert_eq!(listing(&service, "hello:v7"), line(b"7", "hello.raw"));
    assert_eq!(
        registry.take_requests(),
        [
            format!("GET /v2/hello/manifests/{}", digest.replace(':', "-")),
            "GET /v2/hello/manifests/v7".to_owned(),
            format!("GET /v2/hello/referrers/{digest}"),
        ]
    );
}

const KERNEL: &str = "application/vnd.kubesolo.os.kernel.v1+octet-stream";
const INITRAMFS: &str = "application/vnd.kubesolo.os.initramfs.v1+gzip";

/// A release of KubeSolo OS for one architecture, in Go's spelling.
fn release(hello: &mut Repository, version: &str, architecture: &str) -> Value {
    let layers = [
        hello.file(
            KERNEL,
            "vmlinuz",
            format!("kernel {architecture}").as_bytes(),
        ),
        hello.file(
            INITRAMFS,
            "kubesolo-os.gz",
            format!("initramfs {architecture}").as_bytes(),
        ),
    ];
    let annotations = json!({
        "io.kubesolo.os.version": version,
        "io.kubesolo.os.channel": "stable",
        "io.kubesolo.os.min_compatible_version": "v0.2.0",
        "io.kubesolo.os.architecture": architecture,
        "io.kubesolo.os.release_notes": "It \"works\"\nnow.",
        "io.kubesolo.os.release_date": "2026-03-01T09:00:00Z",
        "org.opencontainers.image.licenses": "MIT",
    });
    let mut found = hello.artifact(&layers, json!({"annotations": annotations}));
    found["platform"] = json!({"os": "linux", "architecture": architecture});
    found
}

/// `latest.json` as the older protocol has it, with the files at this place.
fn latest_json(place: &str) -> Value {
    json!({
        "version": "v0.3.0",
        "vmlinuz_url": format!("http://{place}/vmlinuz"),
        "vmlinuz_sha256": sha256(b"kernel amd64"),
        "initramfs_url": format!("http://{place}/kubesolo-os.gz"),
        "initramfs_sha256": sha256(b"initramfs amd64"),
        "release_notes": "It \"works\"\nnow.",
        "release_date": "2026-03-01T09:00:00Z",
        "channel": "stable",
        "min_compatible_version": "v0.2.0",
        "architecture": "amd64",
    })
}

#[test]
fn a_release_of_kubesolo_has_a_latest_json_that_leads_back_here() {
    let mut hello = Repository::default();
    let (amd64, arm64) = (
        release(&mut hello, "v0.3.0", "amd64"),
        release(&mut hello, "v0.3.0", "arm64"),
    );
    hello.point("v0.3.0-amd64", &amd64);
    hello.point("v0.3.0-arm64", &arm64);
    let index = hello.index_of(&[arm64, amd64.clone()], json!({}));
    hello.point("stable", &index);
    let digest = amd64["digest"].as_str().unwrap().to_owned();
    let registry = Registry::with_hello(hello.clone());
    registry.put("acme/os", hello);
    let more = format!("{X86}[repository.\"acme/os\"]\narchitectures = [\"x86-64\"]\n");
    let service = Service::start(registry.settings() + &more);
    for directory in [
        "hello:stable".to_owned(),
        "hello:v0.3.0-amd64".to_owned(),
        format!("hello@{digest}"),
        "acme/os:stable".to_owned(),
        format!("{}/acme/os:v0.3.0-amd64", registry.address),
    ] {
        let response = service.get(&format!("/{directory}/latest.json"));
        assert_eq!(response.status, 200, "{directory}: {response:?}");
        assert_eq!(response.header("content-type"), Some("application/json"));
        let found: Value = serde_json::from_slice(&response.body).unwrap();
        if !directory.contains("/acme/os") {
            let place = format!("{}/{directory}", service.address);
            assert_eq!(found, latest_json(&place));
        }
        for (key, bytes) in [
            ("vmlinuz_url", "kernel amd64"),
            ("initramfs_url", "initramfs amd64"),
        ] {
            let url = found[key].as_str().unwrap();
            let path = url
                .strip_prefix(&format!("http://{}", service.address))
                .unwrap();
            let response = service.get(path);
            assert_eq!((response.status, response.text()), (200, bytes), "{url}");
        }
    }
    assert_eq!(
        service.get("/hello:v0.3.0-arm64/latest.json").status,
        404,
        "another machine's"
    );
    assert_eq!(
        service.get("/hello/latest.json").status,
        404,
        "no release by itself"
    );
}

#[test]
fn latest_json_names_the_host_it_was_asked_for_by() {
    let mut hello = Repository::default();
    let amd64 = release(&mut hello, "v0.3.0", "amd64");
    hello.point("stable", &amd64);
    let registry = Registry::with_hello(hello);
    let service =
        Service::start(registry.settings() + &format!("hosts = [\"updates.example\"]\n{X86}"));
    for host in ["updates.example:8080", "localhost:5001", "[::1]:5001"] {
        let mut connection = crate::client::Connection::open(service.address);
        let head = format!(
            "GET /hello:stable/latest.json HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        );
        connection.send(head.as_bytes()).unwrap();
        let response = connection.receive("GET").unwrap();
        let found: Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(
            found,
            latest_json(&format!("{host}/hello:stable")),
            "{host}"
        );
    }
}

#[test]
fn latest_json_of_a_channel_that_moves_names_files_of_one_release() {
    let mut hello = Repository::default();
    let first = release(&mut hello, "v0.3.0", "amd64");
    hello.point("stable", &first);
    let registry = Registry::with_hello(hello);
    let service = Service::start(registry.settings() + ANEW);
    let found: Value =
        serde_json::from_slice(&service.get("/hello:stable/latest.json").body).unwrap();
    registry.change(|hello| {
        let layers = [
            hello.file(KERNEL, "vmlinuz", b"newer kernel"),
            hello.file(INITRAMFS, "kubesolo-os.gz", b"newer initramfs"),
        ];
        let newer = hello.artifact(&layers, json!({}));
        hello.point("stable", &newer);
    });
    later();
    for (name, key) in [
        ("vmlinuz", "vmlinuz_sha256"),
        ("kubesolo-os.gz", "initramfs_sha256"),
    ] {
        let body = service.get(&format!("/hello:stable/{name}")).body;
        assert_eq!(found[key], sha256(&body), "{name}");
    }
    let found: Value =
        serde_json::from_slice(&service.get("/hello:stable/latest.json").body).unwrap();
    assert_eq!(
        (&found["version"], &found["vmlinuz_sha256"]),
        (&json!("stable"), &json!(sha256(b"newer kernel"))),
        "without annotations the tag is the version"
    );
}
