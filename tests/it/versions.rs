//! `versions`, `exclude` and `hold`: the versions that a machine may see, and `/<repository>+all/`, which has them all.

use serde_json::Value;

use crate::client::Response;
use crate::content::{line, sign, versions};
use crate::registry::{Fault, Registry, count};
use crate::service::{ANEW, Folder, Service, Setup, later};

const HELD: &str = "[repository.hello]\nversions = [\"[0-4]\"]\nexclude = [\"v1\"]\nhold = \"3\"\n";

/// The lines of these versions out of all that [`versions`] makes.
fn lines_of(wanted: &[u32]) -> String {
    let lines = wanted.iter().map(|n| {
        let image = format!("image {n}");
        line(image.as_bytes(), &format!("hello-v{n}.raw"))
    });
    lines.collect()
}

fn reason(response: &Response) -> &str {
    response.header("x-reason").unwrap_or_default()
}

#[test]
fn only_versions_that_are_wanted_are_asked_for_and_offered() {
    let registry = Registry::with_hello(versions(7).0);
    let service = Service::start(registry.settings() + HELD);
    assert_eq!(service.listing(), lines_of(&[0, 2, 3]));
    let requests = registry.take_requests();
    for left_out in ["v1", "v4", "v5", "v6"] {
        let manifest = format!("/manifests/{left_out}$");
        assert_eq!(count(&requests, &manifest), 0, "{requests:?}");
    }
    for (file, status) in [("v3", 200), ("v1", 404), ("v4", 404)] {
        let path = format!("/hello/hello-{file}.raw");
        for path in [path.clone(), format!("{path}.sha256")] {
            assert_eq!(service.get(&path).status, status, "{path}");
        }
    }
    let json = service.request("GET", "/hello/", &["Accept: application/json"]);
    let json: Value = serde_json::from_str(json.text()).unwrap();
    let left_out = json["left_out"].as_array().unwrap();
    let left_out = left_out
        .iter()
        .map(|one| (one["tag"].as_str().unwrap(), one["kind"].as_str().unwrap()));
    let mut left_out: Vec<_> = left_out.collect();
    left_out.sort_unstable();
    assert_eq!(left_out, ["v1", "v4", "v5", "v6"].map(|tag| (tag, "held")));
    assert_eq!(service.log.trouble_so_far(), [""; 0]);
}

#[test]
fn a_directory_of_all_versions_stands_beside_it() {
    let registry = Registry::with_hello(versions(7).0);
    let service = Service::start(registry.settings() + HELD);
    for _ in 0..2 {
        assert_eq!(service.listing_of("hello+all"), versions(7).1);
        assert_eq!(service.listing(), lines_of(&[0, 2, 3]));
    }
    for (path, status) in [
        ("/hello+all/hello-v6.raw", 200),
        ("/hello%2Ball/hello-v6.raw.sha256", 200),
        ("/hello/hello-v6.raw", 404),
        ("/hello:v6/hello.raw", 200),
        ("/hello:v6+all/hello.raw", 400),
        ("/hello+all:v6/hello.raw", 400),
    ] {
        assert_eq!(service.get(path).status, status, "{path}");
    }
}

#[test]
fn each_source_of_a_merged_directory_is_held() {
    let registry = Registry::with_hello(versions(3).0);
    registry.put("other", versions(4).0);
    let merged = "[repository.both]\nsource = [\"hello\", \"other\"]\nhold = \"1\"\n";
    let service = Service::start(registry.settings() + merged);
    let listing = service.listing_of("both");
    let names: Vec<_> = listing.lines().map(|line| &line[66..]).collect();
    let expected = [
        "hello-v0.raw",
        "hello-v1.raw",
        "other-v0.raw",
        "other-v1.raw",
    ];
    assert_eq!(names, expected);
    assert_eq!(service.listing_of("both+all").lines().count(), 7);
}

#[test]
fn two_names_of_one_source_have_versions_of_their_own() {
    let registry = Registry::with_hello(versions(7).0);
    let alias = "[repository.alias]\nsource = \"hello\"\nhold = \"5\"\n";
    let service = Service::start(registry.settings() + HELD + alias);
    assert_eq!(service.listing(), lines_of(&[0, 2, 3]));
    assert_eq!(service.listing_of("alias").lines().count(), 6);
    assert_eq!(service.get("/alias/alias-v5.raw").status, 200);
    assert_eq!(service.get("/hello/hello-v5.raw").status, 404);
}

/// A tag that is left out by its version needs no answer.
#[test]
fn a_listing_lacks_nothing_without_a_version_that_is_held() {
    let registry = Registry::with_hello(versions(7).0);
    registry.fault("/manifests/v6", Fault::Status(500));
    let service = Service::start(registry.settings() + HELD);
    let response = service.get("/hello/SHA256SUMS");
    assert_eq!(response.text(), lines_of(&[0, 2, 3]));
    assert_eq!(response.header("x-incomplete"), None);
    assert_eq!(service.get("/hello+all/SHA256SUMS").status, 503);
}

#[test]
fn a_publishers_list_is_given_out_whole_or_not_at_all() {
    let (mut hello, listing) = versions(3);
    sign(
        &mut hello,
        listing.as_bytes(),
        &[("SHA256SUMS.gpg", b"s")],
        &[],
    );
    let registry = Registry::with_hello(hello);
    for setting in [
        "versions = [\"*\"]",
        "exclude = [\"9\"]",
        "hold = \"9\"",
        "compatible-only = true",
    ] {
        let of_hello = format!("[repository.hello]\n{setting}\n");
        let service = Service::start(registry.settings() + &of_hello);
        let key = setting.split(' ').next().unwrap();
        for path in [
            "SHA256SUMS",
            "SHA256SUMS.gpg",
            "hello-v1.raw",
            "hello-v1.raw.sha256",
        ] {
            let response = service.get(&format!("/hello/{path}"));
            assert_eq!(
                (response.status, response.text()),
                (403, ""),
                "{setting} {path}"
            );
            for part in [&format!("'{key}'"), "MatchPattern=", "signed-list = \"\""] {
                assert!(reason(&response).contains(part), "{}", reason(&response));
            }
        }
        assert_eq!(service.listing_of("hello+all"), listing, "{setting}");
        let signature = service.get("/hello+all/SHA256SUMS.gpg");
        assert_eq!(
            (signature.status, signature.text()),
            (200, "s"),
            "{setting}"
        );
        assert_eq!(
            service.get("/hello+all/hello-v1.raw").status,
            200,
            "{setting}"
        );
    }
    let from_tags = "[repository.hello]\nhold = \"1\"\nsigned-list = \"\"\n";
    let service = Service::start(registry.settings() + from_tags);
    assert_eq!(service.listing(), lines_of(&[0, 1]));
}

#[test]
fn an_older_newest_version_is_told_once() {
    let registry = Registry::with_hello(versions(5).0);
    let state = Folder::new();
    let named = "[repository.hello]\nflatten = 3\n";
    let start = |settings: &str| {
        let setup = Setup::new(registry.settings() + ANEW + settings);
        setup.own_cache().state(&state).start()
    };
    let told = |service: &Service| {
        service.listing();
        later();
        service.listing();
        let mut lines = service.log.trouble_so_far();
        lines.retain(|line| line.contains("was offered before"));
        lines
    };
    assert_eq!(told(&start(named)), [""; 0]);
    let held = "[repository.hello]\nhold = \"3\"\n";
    let lines = told(&start(held));
    assert_eq!(lines.len(), 1, "{lines:?}");
    for part in ["tag v3", "tag v4", "list --all hello"] {
        assert!(lines[0].contains(part), "{lines:?}");
    }
    assert_eq!(told(&start(held)), [""; 0], "another process knows it");
    let lower = told(&start("[repository.hello]\nhold = \"2\"\n"));
    assert_eq!(lower.len(), 1, "{lower:?}");
    assert_eq!(told(&start(named)), [""; 0]);
    assert_eq!(
        told(&start(held)).len(),
        1,
        "it was offered again in between"
    );
}
