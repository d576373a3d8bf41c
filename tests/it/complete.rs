//! When a listing is complete: which failures are answers, what a listing may lack, and that a try that
//! came to nothing makes the next one shorter.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Connection, Response};
use crate::content::{OCI_MANIFEST, OCI_TAR, Repository, line, lines, sha256, versions};
use crate::registry::{Fault, Guard, Registry, count, nowhere};
use crate::service::{ANEW, Folder, Service, Setup, eventually, later};

/// The status of a listing, what it says it lacks, and how many files it has.
fn outcome(response: &Response) -> (u16, Option<&str>, usize) {
    let files = response.text().matches("hello-").count();
    (response.status, response.header("x-incomplete"), files)
}

fn reason(response: &Response) -> &str {
    response.header("x-reason").unwrap_or_default()
}

/// The faults that one manifest may have.
fn answers() -> Vec<Vec<Fault>> {
    let mut ways: Vec<_> = [401, 403, 404, 410, 412, 451]
        .map(|status| vec![Fault::Status(status)])
        .into();
    ways.extend([
        vec![Fault::Redirect(format!("http://{}", nowhere()))],
        vec![Fault::Redirect(String::new())],
        vec![Fault::Redirect("http://nobody.invalid".into())],
        vec![Fault::Body(b"\xff\xfe garbage".to_vec())],
        vec![Fault::Body(vec![b' '; 9 << 20])],
    ]);
    ways
}

fn no_answers() -> Vec<Vec<Fault>> {
    let mut ways: Vec<_> = [400, 405, 408, 418, 500, 501, 502]
        .map(|status| vec![Fault::Status(status)])
        .into();
    let busy = |status| vec![Fault::Status(status), Fault::header("Retry-After", "0")];
    ways.extend([busy(429), busy(503)]);
    ways.push(vec![Fault::CutAfter(20)]);
    ways.push(vec![Fault::Raw(Vec::new())]);
    ways
}

#[test]
fn a_tag_that_is_answered_is_left_out_whichever_it_is() {
    for faults in answers() {
        for tag in ["/manifests/v3", "/manifests/v1"] {
            let registry = Registry::with_hello(versions(4).0);
            for fault in &faults {
                registry.fault(tag, fault.clone());
            }
            let service = Service::of(&registry);
            let response = service.get("/hello/SHA256SUMS");
            assert_eq!(outcome(&response), (200, None, 3), "{tag}: {faults:?}");
        }
    }
}

#[test]
fn a_login_that_is_refused_for_one_tag_alone_keeps_no_other_tag_out() {
    let registry = Registry::with_hello(versions(4).0);
    // It comes before any manifest is had.
    registry.fault("/manifests/v3", Fault::Status(401));
    registry.fault("/manifests/v2", Fault::Delay(Duration::from_millis(500)));
    let service = Service::start(registry.settings() + "parallel = 2\n");
    let response = service.get("/hello/SHA256SUMS");
    assert_eq!(outcome(&response), (200, None, 3));
}

#[test]
fn a_tag_that_is_not_answered_is_left_out_if_it_is_old_and_told() {
    for faults in no_answers() {
        let registry = Registry::with_hello(versions(4).0);
        for fault in &faults {
            registry.fault("/manifests/v1", fault.clone());
        }
        let service = Service::of(&registry);
        let response = service.get("/hello/SHA256SUMS");
        let expected = Some("1 of 4 tags were not answered");
        assert_eq!(outcome(&response), (200, expected, 3), "{faults:?}");
        let page = service.get("/hello/");
        assert_eq!(page.header("x-incomplete"), expected);
        let text = page.text();
        assert!(
            text.contains("<strong>Incomplete:</strong> 1 of 4 tags were not answered."),
            "{text}"
        );
        let told = ["warning: hello: tag v1 skipped, it was not answered: "];
        assert_eq!(service.log.with(&told).len(), 1, "{faults:?}");
    }
}

#[test]
fn a_listing_that_may_lack_the_newest_version_is_none() {
    for faults in no_answers() {
        let registry = Registry::with_hello(versions(4).0);
        for fault in &faults {
            registry.fault("/manifests/v3", fault.clone());
        }
        let service = Service::of(&registry);
        let response = service.no_listing(503);
        let told = reason(&response);
        assert!(
            told.starts_with("1 of 4 tags of ") && told.contains("tag v3 is newer than v2"),
            "{faults:?}: {told}"
        );
        assert!(response.header("retry-after").is_some(), "{faults:?}");
    }
}

#[test]
fn a_listing_that_lacks_more_than_half_is_none() {
    for (missing, expected) in [(2, 200), (3, 503)] {
        let registry = Registry::with_hello(versions(4).0);
        for tag in ["/manifests/v0", "/manifests/v1", "/manifests/v2"]
            .iter()
            .take(missing)
        {
            registry.fault(tag, Fault::Status(500));
        }
        let service = Service::of(&registry);
        let response = service.get("/hello/SHA256SUMS");
        assert_eq!(response.status, expected, "{}", reason(&response));
    }
}

#[test]
fn where_no_manifest_is_had_that_is_the_error() {
    for (status, expected) in [
        (401, 403),
        (403, 403),
        (404, 502),
        (410, 502),
        (400, 502),
        (500, 502),
        (429, 503),
    ] {
        let registry = Registry::with_hello(versions(3).0);
        registry.fault("/manifests/v", Fault::Status(status));
        registry.fault("/manifests/v", Fault::header("Retry-After", "0"));
        let service = Service::of(&registry);
        let response = service.get("/hello/SHA256SUMS");
        let found = (response.status, response.text());
        assert_eq!(found, (expected, ""), "{status}: {}", reason(&response));
    }
}

/// As fronts do that count requests.
#[test]
fn a_refusal_that_passes_is_no_answer() {
    let registry = Registry::with_hello(versions(4).0);
    registry.fault_times(1, "/manifests/v3", Fault::Status(403));
    let service = Service::of(&registry);
    let response = service.get("/hello/SHA256SUMS");
    assert_eq!(outcome(&response), (200, None, 4));
}

#[test]
fn where_everything_is_refused_from_some_moment_on_that_is_no_answer() {
    for (given, expected) in [
        (1, (503, None, 0)),
        (2, (200, Some("2 of 4 tags were not answered"), 2)),
    ] {
        let registry = Registry::with_hello(versions(4).0);
        let asked = AtomicUsize::new(0);
        registry.guard(
            Guard::new(move |request| {
                !request.target.contains("/manifests/v") || asked.fetch_add(1, SeqCst) < given
            })
            .status(403),
        );
        let service = Service::start(registry.settings() + "parallel = 1\n");
        let response = service.get("/hello/SHA256SUMS");
        assert_eq!(outcome(&response), expected, "{}", reason(&response));
    }
}

/// Docker Hub counts GETs by the hour, and HEADs not at all.
#[test]
fn a_limit_of_requests_costs_only_time() {
    let registry = Registry::with_hello(versions(10).0);
    let cache = Folder::new();
    let left = Arc::new(AtomicUsize::new(0));
    registry.fault("GET /v2/hello/manifests/v", Fault::Limit(left.clone()));
    for (n, expected) in [
        (503, None, 0),
        (200, Some("2 of 10 tags were not answered"), 8),
        (200, None, 10),
    ]
    .into_iter()
    .enumerate()
    {
        left.store(4, SeqCst);
        registry.take_requests();
        let settings = registry.settings() + "parallel = 1\n";
        let service = Setup::new(settings).cache(&cache).start();
        let response = service.get("/hello/SHA256SUMS");
        assert_eq!(outcome(&response), expected, "{n}: {}", reason(&response));
        if response.status == 503 {
            assert_eq!(response.header("retry-after"), Some("3600"));
            let told = reason(&response);
            assert!(told.starts_with("6 of 10 tags of "), "{told}");
        }
        let requests = registry.take_requests();
        assert_eq!(count(&requests, "HEAD "), n * 4, "{n}");
    }
}

/// Where HEADs count, too, or time runs out, asking for everything again would never come to an end.
#[test]
fn a_listing_goes_on_where_the_one_before_had_to_stop() {
    let registry = Registry::with_hello(versions(10).0);
    let left = Arc::new(AtomicUsize::new(0));
    registry.fault("/v2/hello/manifests/v", Fault::Limit(left.clone()));
    let settings = registry.settings() + ANEW + "parallel = 1\n";
    let service = Setup::new(settings).own_cache().start();
    for (expected, asked) in [
        ((503, None, 0), "GET v9 to v6"),
        (
            (200, Some("2 of 10 tags were not answered"), 8),
            "GET v5 to v2",
        ),
        ((200, None, 10), "GET v1 and v0, HEAD v9 and v8"),
    ] {
        left.store(4, SeqCst);
        later();
        let response = service.get("/hello/SHA256SUMS");
        assert_eq!(
            outcome(&response),
            expected,
            "{asked}: {}",
            reason(&response)
        );
    }
    // Nothing counts for ever: a registry that answers nothing is not listed from memory.
    left.store(0, SeqCst);
    later();
    service.no_listing(503);
}

#[test]
fn what_was_learnt_is_kept_though_the_client_leaves() {
    let (registry, listing) = Registry::with_versions(5);
    let cache = Folder::new();
    registry.fault("/manifests/v0", Fault::StallAfter(5));
    {
        let service = Setup::of(&registry).cache(&cache).start();
        let mut client = Connection::open(service.address);
        client.ask("/hello/SHA256SUMS");
        eventually("all are asked for", || registry.peak_in_flight() > 0);
        later();
        eventually("one is left", || registry.open_connections() > 0);
        std::thread::sleep(Duration::from_millis(500));
        drop(client);
        // A listing that was begun is finished, for whoever asks next.
        let begun = Instant::now();
        while service.log.with(&["4 files listed in"]).is_empty() {
            assert!(
                begun.elapsed() < Duration::from_secs(45),
                "it is not finished"
            );
        }
    }
    registry.behave();
    registry.take_requests();
    let service = Setup::of(&registry).cache(&cache).start();
    assert_eq!(service.listing(), listing);
    let requests = registry.take_requests();
    let found = (
        count(&requests, "HEAD /v2/hello/manifests/v"),
        count(&requests, "GET /v2/hello/manifests/v"),
    );
    assert_eq!(found, (4, 1), "{requests:?}");
}

#[test]
fn what_is_known_of_a_tag_outlives_a_listing_that_lacks_it() {
    let (registry, listing) = Registry::with_versions(4);
    let service = Setup::of(&registry).settings(ANEW).own_cache().start();
    assert_eq!(service.listing(), listing);
    registry.fault("/manifests/v1", Fault::Status(500));
    later();
    assert_eq!(service.listing().lines().count(), 3);
    registry.behave();
    registry.take_requests();
    later();
    assert_eq!(service.listing(), listing);
    let requests = registry.take_requests();
    assert_eq!(count(&requests, "HEAD "), 4, "{requests:?}");
    assert_eq!(count(&requests, "GET /v2/hello/manifests/v"), 0);
}

/// A repository with an index for two architectures as its newest tag, and the manifest of the second.
fn with_index() -> (Repository, &'static str) {
    let mut hello = versions(2).0;
    let files: [(&str, &str, &[u8]); 2] = [
        ("amd64", "hello.raw", b"for a PC"),
        ("arm64", "hello.raw", b"for a phone"),
    ];
    hello.index("v2", &files);
    let index: Value = serde_json::from_slice(&hello.manifests[&hello.tags["v2"]].bytes).unwrap();
    let second = index["manifests"][1]["digest"].as_str().unwrap().to_owned();
    (hello, second.leak())
}

#[test]
fn an_index_offers_what_is_left_of_it_and_nothing_while_that_is_not_known() {
    let both = "[repository.hello]\narchitectures = [\"x86-64\", \"arm64\"]\n";
    for (status, expected) in [
        (404, (200, None, 3)),
        (500, (503, None, 0)),
        (400, (503, None, 0)),
    ] {
        let (hello, second) = with_index();
        let registry = Registry::with_hello(hello);
        registry.fault(second, Fault::Status(status));
        let service = Service::start(registry.settings() + both);
        let response = service.get("/hello/SHA256SUMS");
        assert_eq!(outcome(&response), expected, "{status}");
        if status == 404 {
            let offered = line(b"for a PC", "hello-v2-x86-64.raw");
            assert!(response.text().contains(&offered));
            let told = ["tag v2 skipped: its index names ", second];
            assert_eq!(service.log.with(&told).len(), 1);
        }
    }
}

/// A registry with three extensions that say themselves what they are for.
fn extensions() -> Registry {
    let mut hello = Repository::default();
    for n in 0..3 {
        let image = format!("image {n}");
        let layer = hello.file(OCI_TAR, "hello.raw", image.as_bytes());
        let artifact = hello.artifact(&[layer], json!({"annotations": {"ID": "_any"}}));
        hello.point(&format!("v{n}"), &artifact);
    }
    Registry::with_hello(hello)
}

#[test]
fn what_decides_whether_a_file_is_compatible_is_answered_or_the_file_is_not_listed() {
    for status in [401, 403, 429, 500, 503] {
        for place in ["/referrers/", "/manifests/sha256-"] {
            let registry = extensions();
            registry.fault(place, Fault::Status(status));
            registry.fault(place, Fault::header("Retry-After", "0"));
            let service = Service::start(registry.settings() + "compatible-only = true\n");
            let response = service.no_listing(503);
            let told = reason(&response);
            assert!(told.starts_with("3 of 3 tags of "), "{status}: {told}");
        }
    }
    for status in [400, 404, 405, 501] {
        let registry = extensions();
        registry.fault("/referrers/", Fault::Status(status));
        let service = Service::start(registry.settings() + "compatible-only = true\n");
        let response = service.get("/hello/SHA256SUMS");
        assert_eq!(outcome(&response), (200, None, 3), "{status}");
    }
}

/// The token server's trouble is not the registry's word, though it is another host.
#[test]
fn a_token_that_is_not_given_is_no_answer_about_what_is_attached() {
    for status in [404, 410, 418, 500, 503] {
        let tokens = Registry::start();
        tokens.fault("/token", Fault::Status(status));
        tokens.fault("/token", Fault::header("Retry-After", "0"));
        let registry = extensions();
        let challenge = format!("Bearer realm=\"{}/token\",service=\"s\"", tokens.origin());
        let guard = Guard::new(|_| false).challenge(challenge);
        registry.fault("/referrers/", Fault::Guard(guard));
        let service = Service::start(registry.settings() + "compatible-only = true\n");
        let response = service.no_listing(503);
        let told = reason(&response);
        assert!(told.starts_with("3 of 3 tags of "), "{status}: {told}");
        assert_ne!(tokens.take_requests(), [""; 0]);
    }
}

#[test]
fn a_page_of_another_host_in_the_place_of_the_referrers_api_says_nothing() {
    for status in [200, 404, 429, 500] {
        let pages = Registry::on("127.0.0.2:0", None);
        pages.fault("/referrers/", Fault::Status(status));
        let registry = extensions();
        registry.fault("/referrers/", Fault::Redirect(pages.origin()));
        let service = Service::start(registry.settings() + "compatible-only = true\n");
        let response = service.get("/hello/SHA256SUMS");
        assert_eq!(outcome(&response), (200, None, 3), "{status}");
        assert_eq!(pages.take_requests(), [""; 0]);
    }
}

#[test]
fn an_attached_manifest_that_leads_nowhere_is_no_answer_about_what_is_attached() {
    let registry = extensions();
    let mut attached = String::new();
    registry.change(|hello| {
        hello.has_referrers_api = true;
        let subject = json!({"digest": hello.tags["v2"], "mediaType": OCI_MANIFEST, "size": 1});
        let log = hello.file("text/plain", "build.log", b"it was built");
        let found = hello.attach(&subject, &[log], json!({"subject": subject}));
        attached = format!("/manifests/{}", found["digest"].as_str().unwrap());
    });
    let redirect = Fault::Redirect(format!("http://{}", nowhere()));
    registry.fault(attached.leak(), redirect);
    let service = Service::start(registry.settings() + "compatible-only = true\n");
    service.no_listing(503);
    assert_eq!(service.get("/hello:v2/SHA256SUMS").status, 502);
}

#[test]
fn an_old_file_may_lack_because_it_is_not_known_whether_it_is_compatible() {
    for (tag, expected) in [
        ("v0", (200, Some("1 of 3 tags were not answered"), 2)),
        ("v2", (503, None, 0)),
    ] {
        let registry = extensions();
        let mut of_tag = String::new();
        registry.change(|hello| of_tag = format!("/referrers/{}", hello.tags[tag]));
        registry.fault(of_tag.leak(), Fault::Status(500));
        let service = Service::start(registry.settings() + "compatible-only = true\n");
        let response = service.get("/hello/SHA256SUMS");
        assert_eq!(outcome(&response), expected, "{}", reason(&response));
    }
}

#[test]
fn a_directory_of_one_artifact_has_all_that_is_attached_or_is_none() {
    for (status, expected) in [
        (401, 403),
        (403, 403),
        (500, 502),
        (503, 503),
        (429, 503),
        (404, 200),
    ] {
        let registry = extensions();
        registry.fault("/referrers/", Fault::Status(status));
        registry.fault("/referrers/", Fault::header("Retry-After", "0"));
        let service = Service::of(&registry);
        let response = service.get("/hello:v1/SHA256SUMS");
        assert_eq!(response.status, expected, "{status}: {}", reason(&response));
    }
}

#[test]
fn a_tag_without_an_answer_for_an_hour_of_tries_counts_as_refused() {
    let registry = Registry::with_hello(versions(4).0);
    registry.fault("/manifests/v3", Fault::Status(500));
    let state = Folder::new();
    let setup = || Setup::of(&registry).env("STATE_DIRECTORY", state.path());
    setup().start().no_listing(503);
    // As if there had been four tries over almost an hour.
    let notes = fs::read_dir(state.path().join("notes")).unwrap();
    let file = notes.flatten().next().unwrap().path();
    for (tries, spread, expected) in [
        (3, 3600, (503, None, 0)),
        (4, 3000, (503, None, 0)),
        (4, 3600, (200, Some("1 of 4 tags were not answered"), 3)),
    ] {
        let text = fs::read_to_string(&file).unwrap();
        let (head, json) = text.split_once('\n').unwrap();
        let mut kept: Value = serde_json::from_str(json).unwrap();
        let tag = &mut kept["kept"]["unanswered"]["v3"];
        (tag["tries"], tag["spread"]) = (json!(tries), json!(spread));
        let json = kept.to_string();
        let head = head.rsplit_once(' ').unwrap().0;
        let text = format!("{head} {}\n{json}", sha256(json.as_bytes()));
        fs::write(&file, text).unwrap();
        let service = setup().start();
        let response = service.get("/hello/SHA256SUMS");
        assert_eq!(outcome(&response), expected, "{tries}, {spread}");
    }
    // It has one again.
    registry.behave();
    assert_eq!(setup().start().listing(), versions(4).1);
    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.contains("v3"), "{text}");
}

#[test]
fn what_one_name_of_a_source_is_refused_says_nothing_of_its_other_names() {
    let registry = extensions();
    registry.fault("/referrers/", Fault::Status(500));
    let state = Folder::new();
    let more = "[repository.picky]\nsource = \"hello\"\ncompatible-only = true\n";
    let settings = format!("{}{ANEW}{more}", registry.settings());
    let setup = || Setup::new(settings.clone()).state(&state);
    let service = setup().start();
    assert_eq!(service.get("/picky/SHA256SUMS").status, 503);
    let tries = || -> Vec<(PathBuf, Value)> {
        let notes = fs::read_dir(state.path().join("notes")).unwrap().flatten();
        let files = notes.map(|file| (file.path(), fs::read_to_string(file.path()).unwrap()));
        let with_tag = files.filter(|(_, text)| text.contains("v2"));
        with_tag
            .map(|(path, text)| (path, serde_json::from_str(text.split_once('\n').unwrap().1)))
            .map(|(path, kept)| (path, kept.unwrap()))
            .collect()
    };
    assert_eq!(tries().len(), 1);
    // The other name has its answers.
    assert_eq!(service.get("/hello/SHA256SUMS").status, 200);
    assert_eq!(tries().len(), 1, "they are still counted");
    drop(service);
    let (file, mut kept) = tries().remove(0);
    let tag = &mut kept["kept"]["unanswered"]["v2"];
    (tag["tries"], tag["spread"]) = (json!(9), json!(3600));
    let (text, json) = (fs::read_to_string(&file).unwrap(), kept.to_string());
    let head = text.split_once('\n').unwrap().0.rsplit_once(' ').unwrap().0;
    let text = format!("{head} {}\n{json}", sha256(json.as_bytes()));
    fs::write(&file, text).unwrap();
    registry.fault("/manifests/v2", Fault::Status(500));
    let service = setup().start();
    service.no_listing(503);
}

#[test]
fn each_source_of_a_merged_directory_is_judged_by_itself() {
    let registry = Registry::start();
    registry.put("a", versions(4).0);
    registry.put("b", versions(3).0);
    let settings = format!(
        "{}{ANEW}[repository.hello]\nsource = [\"{1}/a\", \"{1}/b\"]\n",
        registry.settings(),
        registry.address
    );
    let service = Service::start(settings);
    registry.fault("/v2/a/manifests/v1", Fault::Status(500));
    registry.fault("/v2/b/manifests/v0", Fault::Status(500));
    let response = service.get("/hello/SHA256SUMS");
    let told = response.header("x-incomplete");
    assert_eq!(told, Some("2 of 7 tags were not answered"));
    assert_eq!(response.text().lines().count(), 5);
    for (pattern, expected) in [
        ("/v2/b/manifests/v2", 503),
        ("/v2/b/tags/list", 502),
        ("/v2/a/tags/list", 502),
    ] {
        registry.behave();
        registry.fault(pattern, Fault::Status(500));
        later();
        let response = service.get("/hello/SHA256SUMS");
        assert_eq!(response.status, expected, "{pattern}");
    }
    registry.behave();
    later();
    assert_eq!(service.whole("/hello/SHA256SUMS").len(), {
        let files: [(&[u8], &str); 7] = [
            (b"image 0", "a-v0.raw"),
            (b"image 1", "a-v1.raw"),
            (b"image 2", "a-v2.raw"),
            (b"image 3", "a-v3.raw"),
            (b"image 0", "b-v0.raw"),
            (b"image 1", "b-v1.raw"),
            (b"image 2", "b-v2.raw"),
        ];
        lines(&files).len()
    });
}

#[test]
fn once_a_login_is_refused_the_other_tags_are_not_asked_for() {
    let (registry, _) = Registry::with_versions(40);
    let service = Service::start(registry.settings() + "parallel = 1\n");
    registry.fault("/manifests/v", Fault::Status(401));
    assert_eq!(service.get("/hello/SHA256SUMS").status, 403);
    let asked = count(&registry.take_requests(), "/manifests/v");
    assert!(
        asked <= 2,
        "{asked} requests; an account may be locked by them"
    );
}
