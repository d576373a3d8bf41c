//! The pages for people. Their looks are checked in a browser: `tests/e2e/pages`.

use crate::content::versions;
use crate::registry::{Fault, Registry};
use crate::service::{Service, eventually};

#[test]
fn the_start_shows_the_repositories_their_state_and_the_first_command() {
    let (registry, _) = Registry::with_versions(12);
    let settings = "[repository.hello]\n[repository.\"acme/never-asked\"]\n";
    let service = Service::start(registry.settings() + settings);
    let start = || service.get("/").text().to_owned();
    assert_eq!(start().matches("not asked for since").count(), 2);
    assert!(start().contains("<code>sysext-oci-proxy list acme/never-asked</code>"));

    registry.fault("/hello/manifests/v3", Fault::Status(500));
    service.get("/hello/SHA256SUMS");
    service.get("/gone/");
    service.get("/hello:v1/");
    let page = start();
    for (link, state) in [
        (
            "<a href=\"/hello/\">hello</a>",
            "incomplete</span><p>11 files",
        ),
        (
            "<a href=\"/hello:v1/\">hello:v1</a>",
            "listed</span><p>1 file ·",
        ),
        ("<a href=\"/gone/\">gone</a>", "failed</span><p>"),
        (
            "<a href=\"/acme/never-asked/\">acme/never-asked</a>",
            "<p>not asked",
        ),
    ] {
        let (_, after) = page.split_once(link).expect(link);
        let (found, _) = after.split_once("</li>").unwrap();
        assert!(found.contains(state), "{link}: {found}");
    }
    // A failure is over with the next listing.
    registry.put("gone", versions(3).0);
    eventually("gone is there", || service.get("/gone/").status == 200);
    assert!(!start().contains("failed</span>"), "{}", start());
}

#[test]
fn a_page_has_the_newest_first_and_says_what_is_not_offered() {
    let mut hello = versions(12).0;
    hello
        .tags
        .insert(format!("sha256-{:064}", 1), hello.tags["v1"].clone());
    let registry = Registry::with_hello(hello);
    let service = Service::of(&registry);
    let response = service.get("/hello/");
    let policy = response.header("content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'none'; style-src 'sha256-"),
        "{policy}"
    );
    let page = response.text();
    assert!(page.contains("<meta name=\"viewport\" content=\"width=device-width"));
    let names: Vec<_> = page
        .match_indices(".raw</a>")
        .map(|(at, _)| &page[at - 4..at])
        .collect();
    let versions: Vec<_> = (0..12).rev().map(|n| format!("-v{n}")).collect();
    for (name, version) in names.iter().zip(&versions) {
        assert!(name.ends_with(version.as_str()), "{names:?}");
    }
    assert_eq!(names.len(), 12);
    assert!(
        page.contains("skipped</span><p>this is the tag of a signature"),
        "{page}"
    );
    // One of all tags, one of one artifact: both lead back.
    let one = service.get("/hello:v1/");
    for (page, link) in [
        (page, "<a href=\"/\">"),
        (one.text(), "<a href=\"/hello/\">hello</a>"),
    ] {
        assert!(page.contains(link), "{page}");
    }
}

#[test]
fn a_page_of_an_error_says_what_to_do_next() {
    let (registry, _) = Registry::with_versions(1);
    let service = Service::of(&registry);
    for (target, status, step) in [
        ("/hello/nothing.raw", 404, "compare the name with"),
        ("/Hello/", 400, "repositories are lowercase"),
        ("/ghcr.io/acme/k8s/", 403, "add the registry to 'allow'"),
    ] {
        let page = service.request("GET", target, &["Accept: text/html"]);
        assert_eq!(page.status, status, "{target}");
        let text = page.text();
        assert!(
            text.contains(&format!("<strong>Next step:</strong> {step}")),
            "{text}"
        );
        assert!(text.contains("<a href=\"/\">"), "{text}");
    }
}
