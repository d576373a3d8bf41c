//! Files that are attached to an artifact are in its directory, by whichever API the registry lists them.

use serde_json::{Value, json};

use crate::content::{OCI_INDEX, OCI_MANIFEST, OCI_TAR, Repository, line, lines};
use crate::registry::{Fault, Registry, count};
use crate::service::{Folder, Service, X86};

/// A whole answer of a registry.
fn answer(status: &str, headers: &[&str], body: &str) -> Fault {
    let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    Fault::Raw(text.into_bytes())
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
    // The answer of the referrers API, whether the fallback tag exists, and the files that are found.
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
            assert_eq!(&service.listing_of(&directory), expected, "{why}");
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
            service.listing_of("hello"),
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
        assert_eq!(service.listing_of("hello:v1"), lines(&files), "{why}");
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
    assert_eq!(service.listing_of("hello"), line(b"image", "hello-v1.raw"));

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
        response.status == 502 && why.ends_with("no index"),
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
        service.listing_of("hello:v1"),
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
    assert_eq!(service.listing_of("hello:v1"), line(b"image", "hello.raw"));
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
        service.listing_of("hello:v1"),
        lines(&[(b"image", "hello.raw"), (b"good", "good.txt")])
    );
}

#[test]
fn of_very_many_attached_artifacts_some_are_read_and_the_log_says_so() {
    let (mut hello, pages) = with_pages(65);
    let attached = pages.iter().map(|page| {
        let page: Value = serde_json::from_str(page).unwrap();
        page["manifests"][0].clone()
    });
    let attached: Vec<_> = attached.collect();
    let index = hello.index_of(&attached, json!({}));
    let stand_in = hello.tags["v1"].replace(':', "-");
    hello.point(&stand_in, &index);
    let registry = Registry::with_hello(hello);
    let service = Service::of(&registry);
    assert_eq!(service.listing_of("hello:v1").lines().count(), 1 + 64);
    let said = [
        "65 artifacts are attached to sha256:",
        "at most 64 are read",
    ];
    assert_eq!(service.log.with(&said).len(), 1);
}
