//! One artifact as a directory: `/<repository>:<tag>/` and `/<repository>@sha256:<hex>/`.

use serde_json::{Value, json};

use crate::content::{OCI_TAR, Repository, line, lines, sha256};
use crate::registry::{Fault, Registry, count};
use crate::service::{ANEW, Folder, Service, X86, later};

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

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
                service.listing_of(&directory),
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
        log.retain(|line| line.contains("skipped") && !line.contains("hello: tag"));
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
            service.listing_of("hello:stable"),
            line(b"bytes", expected),
            "{why}"
        );
        // Among its fellows a tag names its file.
        assert_eq!(
            service.listing_of("hello"),
            line(b"bytes", "hello-stable.tar.gz"),
            "{why}"
        );
    }
}

#[test]
fn a_channel_whose_titles_lack_the_version_can_be_followed() {
    let mut hello = Repository::default();
    let layers = [
        hello.file("application/octet-stream", "os.img.xz", b"an image"),
        hello.file("text/plain", "os.img.xz.sha256", b"a sum"),
        hello.file("application/octet-stream", "os-1.2.0.efi", b"a kernel"),
    ];
    let annotations = json!({"annotations": {"org.opencontainers.image.version": "v1.2.0"}});
    let artifact = hello.artifact(&layers, annotations);
    hello.point("stable", &artifact);
    let registry = Registry::with_hello(hello);
    let service = Service::of(&registry);
    let files: [(&[u8], &str); 4] = [
        (b"an image", "os.img.xz"),
        (b"a sum", "os.img.xz.sha256"),
        (b"a kernel", "os-1.2.0.efi"),
        (b"an image", "hello-v1.2.0.img.xz"),
    ];
    assert_eq!(service.listing_of("hello:stable"), lines(&files));
    let response = service.get("/hello:stable/hello-v1.2.0.img.xz");
    assert_eq!((response.status, response.text()), (200, "an image"));
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
            service.listing_of("hello:v1"),
            line(b"good", "good.raw"),
            "{version:?}"
        );
        let reasons = service.log.with(&["tag v1 skipped: "]);
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
    assert_eq!(service.listing_of("hello:v1"), line(b"good", "good.raw"));
    for title in bad {
        let reasons = service
            .log
            .with(&["tag v1 skipped: ", &format!("{title:?}")]);
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
    let listing = service.listing_of("hello:v1");
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
    assert_eq!(service.listing_of("hello:v2"), line(b"one", "same.raw"));
    assert_eq!(service.get("/hello:v1/same.raw").status, 404);
    assert_eq!(service.log.with(&["tag v1 skipped: ", "same.raw"]).len(), 1);
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
        assert_eq!(service.listing_of("hello:v1"), expected);
    }
}

#[test]
fn a_channel_that_moves_still_delivers_what_it_listed() {
    let mut hello = Repository::default();
    hello.oras_push("stable", "hello-1.raw", b"one");
    let registry = Registry::with_hello(hello);
    let service = Service::start(registry.settings() + ANEW);
    let first = registry_digest(&registry, "stable");
    assert_eq!(
        service.listing_of("hello:stable"),
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
        service.listing_of("hello:stable"),
        line(b"two", "hello-2.raw")
    );
    assert_eq!(service.get("/hello:stable/hello-2.raw").body, b"two");
    assert_eq!(
        service.get("/hello:stable/hello-1.raw").body,
        b"one",
        "the older listing binds, too"
    );
    later();
    assert_eq!(
        service.listing_of(&format!("hello@{first}")),
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
    assert_eq!(service.listing_of("hello:v7"), line(b"7", "hello.raw"));
    assert_eq!(
        registry.take_requests(),
        [
            format!("GET /v2/hello/manifests/{}", digest.replace(':', "-")),
            "GET /v2/hello/manifests/v7".to_owned(),
            format!("GET /v2/hello/referrers/{digest}"),
        ]
    );
}

/// The links of a page, with what escaping hides shown again.
fn links(page: &str) -> Vec<String> {
    let (_, links) = page.split_once("<table>").unwrap();
    let links = links.split("href=\"").skip(1);
    links
        .map(|link| link.split('"').next().unwrap().replace("&amp;", "&"))
        .collect()
}

/// The path that a browser requests for a link of a page.
fn followed(page: &str, link: &str) -> String {
    let name = link.strip_prefix("./").unwrap_or_else(|| {
        assert!(!link.contains(':'), "{link} leads out of {page}");
        link
    });
    // The query and the fragment are not part of a path. A backslash is a slash.
    let path = name.split(['?', '#']).next().unwrap();
    format!("{page}{}", path.replace('\\', "/"))
}

#[test]
fn a_page_links_to_its_files_whatever_they_are_called_and_runs_nothing() {
    let mut names = [
        "javascript:alert(1)",
        "https:evil.example",
        "a#b?c=d&e.raw",
        "a \"quoted\" <b>ä.raw",
        "back\\slash.raw",
    ];
    let mut hello = Repository::default();
    let layers: Vec<_> = names
        .iter()
        .map(|name| hello.file(OCI_TAR, name, name.as_bytes()))
        .collect();
    let artifact = hello.artifact(&layers, json!({}));
    hello.point("v1", &artifact);
    let registry = Registry::with_hello(hello);
    let service = Service::of(&registry);
    let page = service.get("/hello:v1/");
    let mut found: Vec<_> = links(page.text())
        .iter()
        .map(|link| {
            let response = service.get(&followed("/hello:v1/", link));
            assert_eq!(response.status, 200, "{link}: {response:?}");
            response.text().to_owned()
        })
        .collect();
    found.sort();
    names.sort_unstable();
    assert_eq!(found, names);
    for path in ["/", "/hello/", "/hello:v1/", "/hello/nothing"] {
        let page = service.request("GET", path, &["Accept: text/html"]);
        let policy = page.header("content-security-policy").unwrap_or_default();
        assert!(policy.contains("default-src 'none'"), "{path}: {page:?}");
    }
    for path in ["/", "/hello/nothing", "/hello/SHA256SUMS", "/hello:v1/a%20"] {
        let options = service.get(path);
        let options = options.header("x-content-type-options");
        assert_eq!(options, Some("nosniff"), "{path}");
    }
}
