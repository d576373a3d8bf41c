//! Blobs: redirects, ranges, broken bodies, waits.

use std::thread;
use std::time::{Duration, Instant};

use jiff::{Timestamp, ToSpan};
use serde_json::json;

use crate::client::Response;
use crate::content::{OCI_TAR, digest, line, noise, versions};
use crate::registry::{
    Fault, Guard, IS_IT_SIGNED, LOGIN, Registry, basic, count, logins_seen, one_image, ranges,
    requests_of_a_listing, with_tls,
};
use crate::request::Request;
use crate::service::{ANEW, Service, Setup, eventually, later};
use crate::tls::Authority;
use crate::tokens::TokenServer;

const KIB: usize = 1024;

fn download(service: &Service) -> Response {
    service.get("/hello/hello-v1.raw")
}

/// It came whole, with the bytes that it has to have.
fn assert_whole(response: &Response, image: &[u8], why: &str) {
    assert_eq!((response.status, response.whole), (200, true), "{why}");
    assert!(response.body == image, "{why}: other bytes");
}

#[test]
fn row_b1_a_login_stays_at_its_host_and_port() {
    let image = noise(100_000);
    // The same host at another port; another host at another port.
    for place in ["127.0.0.1:0", "127.0.0.2:0"] {
        for token in [false, true] {
            let registry = one_image(&image);
            let store = Registry::on(place, None);
            store.change(|hello| hello.oras_push("v1", "hello.raw", &image));
            let is_stranger = |request: &Request| request.header("authorization").is_none();
            store.guard(Guard::new(is_stranger).status(400));
            let tokens = TokenServer::for_login(LOGIN);
            let guard = if token {
                tokens.guard()
            } else {
                Guard::basic(&[LOGIN])
            };
            registry.guard(guard);
            registry.fault("/blobs/", Fault::Redirect(store.origin()));
            let service = Setup::of(&registry).login(registry.address, LOGIN).start();
            assert_whole(&download(&service), &image, place);
            assert_eq!(
                logins_seen(&store),
                [format!("GET /v2/hello/blobs/{} as nobody", digest(&image))]
            );
        }
    }
}

#[test]
fn row_b1_a_login_goes_along_on_the_same_host() {
    let image = noise(1000);
    let registry = one_image(&image);
    registry.guard(Guard::basic(&[LOGIN]));
    registry.fault_times(1, "/blobs/", Fault::Redirect(String::new()));
    let service = Setup::of(&registry).login(registry.address, LOGIN).start();
    assert_whole(&download(&service), &image, "");
    let blob = format!("GET /v2/hello/blobs/{} as {}", digest(&image), basic(LOGIN));
    assert_eq!(count(&logins_seen(&registry), &blob), 2);
}

#[test]
fn row_b1_a_login_that_left_home_does_not_come_back() {
    let image = noise(1000);
    let registry = one_image(&image);
    let store = one_image(&image);
    registry.guard(Guard::basic(&[LOGIN]));
    registry.fault_times(1, "/blobs/", Fault::Redirect(store.origin()));
    store.fault("/blobs/", Fault::Redirect(registry.origin()));
    let service = Setup::of(&registry).login(registry.address, LOGIN).start();
    // Back at the registry it is a stranger's request, and refused as one.
    assert_eq!(download(&service).status, 403);
    assert_eq!(count(&logins_seen(&store), "as nobody$"), 1);
    let last = logins_seen(&registry).pop().unwrap();
    assert!(last.ends_with("as nobody"), "{last}");
}

#[test]
fn row_b1_a_redirect_from_https_to_http_is_not_followed() {
    let image = noise(1000);
    let authority = Authority::new();
    let registry = with_tls(&authority);
    let store = one_image(&image);
    registry.change(|hello| hello.oras_push("v1", "hello.raw", &image));
    registry.fault("/blobs/", Fault::Redirect(store.origin()));
    let service = Setup::of(&registry)
        .certificate(registry.address, "ca.crt", &authority.pem())
        .start();
    let response = download(&service);
    assert_eq!((response.status, response.body.len()), (502, 0));
    let blob = format!("/v2/hello/blobs/{}", digest(&image));
    assert_eq!(
        response.header("x-reason").unwrap(),
        format!(
            "unexpected answer from https://{}{blob}: a redirect from https to \
             plain http, http://{}{blob}",
            registry.address, store.address
        )
    );
    assert_eq!(store.take_requests(), [""; 0]);
}

#[test]
fn row_b1_redirects_are_followed_only_so_often() {
    let registry = one_image(b"image");
    registry.fault("/blobs/", Fault::Redirect(String::new()));
    let service = Service::of(&registry);
    assert_eq!(download(&service).status, 502);
    assert_eq!(ranges(&registry).len(), 6);
}

#[test]
fn row_b2_a_head_may_be_redirected_and_have_no_digest() {
    let image = noise(1000);
    let (registry, store) = (one_image(&image), one_image(&image));
    store.fault("HEAD ", Fault::Header("Docker-Content-Digest", None));
    registry.fault("/manifests/", Fault::Redirect(store.origin()));
    let service = Setup::new(registry.settings() + ANEW).own_cache().start();
    for _ in 0..2 {
        assert_eq!(service.listing(), line(&image, "hello-v1.raw"));
        later();
    }
    assert_eq!(
        store.take_requests(),
        [
            IS_IT_SIGNED,
            "GET /v2/hello/manifests/v1",
            "GET /v2/hello/manifests/v1",
            "HEAD /v2/hello/manifests/v1"
        ]
    );
}

#[test]
fn row_b3_a_signed_url_is_asked_for_anew_each_time() {
    let image = noise(100 * KIB);
    let (registry, first, second) = (one_image(&image), one_image(&image), one_image(&image));
    registry.fault("/blobs/", Fault::Redirect(second.origin()));
    registry.fault_times(1, "/blobs/", Fault::Redirect(first.origin()));
    first.fault("/blobs/", Fault::CutAfter(40 * KIB));
    let service = Service::of(&registry);
    // The first place broke off: the rest is asked for at the registry, not there.
    assert_whole(&download(&service), &image, "resumed");
    assert_eq!(ranges(&registry), ["all", "40960-102399"]);
    assert_eq!(ranges(&first), ["all"]);
    assert_eq!(ranges(&second), ["40960-102399"]);
    assert_whole(&download(&service), &image, "again");
    assert_eq!((ranges(&first).len(), ranges(&second).len()), (0, 1));
}

#[test]
fn row_b4_the_challenge_of_another_server_is_met_without_a_login() {
    let image = noise(1000);
    let (registry, store) = (one_image(&image), one_image(&image));
    let tokens = TokenServer::for_login(LOGIN);
    registry.guard(Guard::basic(&[LOGIN]));
    registry.fault("/blobs/", Fault::Redirect(store.origin()));
    store.fault("/", Fault::Guard(tokens.guard().challenge("Basic")));
    let login = |host: &Registry| host.address.to_string();
    let service = Setup::of(&registry)
        .logins(&[(&login(&registry), LOGIN), (&login(&store), LOGIN)])
        .start();
    let response = download(&service);
    assert_eq!((response.status, response.body.len()), (403, 0));
    assert_eq!(
        tokens.take_asked(),
        ["GET scope=repository:hello:pull service=registry"]
    );
    assert_eq!(
        logins_seen(&store),
        [format!("GET /v2/hello/blobs/{} as nobody", digest(&image))]
    );
}

#[test]
fn row_b6_a_range_that_is_ignored_is_skipped_to() {
    let image = noise(300 * KIB);
    let registry = one_image(&image);
    registry.fault_times(1, "/blobs/", Fault::CutAfter(100 * KIB));
    registry.fault("/blobs/", Fault::NoRange);
    let service = Service::of(&registry);
    assert_whole(&download(&service), &image, "");
    assert_eq!(ranges(&registry), ["all", "102400-307199"]);
}

#[test]
fn rows_b7_and_b9_the_rest_is_asked_for_by_closed_ranges() {
    let image = noise(300 * KIB);
    let registry = one_image(&image);
    // Each connection brings another 100 KiB, and no answer says that it can do ranges.
    registry.fault("/blobs/", Fault::CutAfter(100 * KIB));
    let service = Service::of(&registry);
    assert_whole(&download(&service), &image, "");
    assert_eq!(ranges(&registry), ["all", "102400-307199", "204800-307199"]);
}

#[test]
fn row_b8_another_range_is_not_believed_and_the_whole_is_skipped_to() {
    let image = noise(300 * KIB);
    let registry = one_image(&image);
    registry.fault_times(1, "/blobs/", Fault::CutAfter(100 * KIB));
    registry.fault("/blobs/", Fault::EarlierRange(KIB));
    let service = Setup::of(&registry).env("RUST_LOG", "debug").start();
    assert_whole(&download(&service), &image, "");
    assert_eq!(ranges(&registry), ["all", "102400-307199", "all"]);
    let line = &service.log.with(&["asking for the whole blob"])[0];
    assert!(
        line.contains(
            "range \"bytes 101376-306175/307200\", expected \"bytes 102400-307199/307200\""
        ),
        "{line}"
    );
}

/// docker-registry 2.8 announces the blob's length with its 416 and sends nothing.
#[test]
fn row_b10_where_a_range_is_refused_the_whole_is_skipped_to() {
    let image = noise(300 * KIB);
    for (status, with_body) in [(400, true), (416, true), (416, false), (501, true)] {
        let registry = one_image(&image);
        registry.fault_times(1, "/blobs/", Fault::CutAfter(100 * KIB));
        let service = Service::of(&registry);
        service.listing();
        let begin = Instant::now();
        registry.fault("/blobs/", Fault::StatusOfARange(status));
        if !with_body {
            registry.fault("/blobs/", Fault::StallOfARange);
        }
        let why = format!("{status}, with a body: {with_body}");
        assert_whole(&download(&service), &image, &why);
        assert_eq!(ranges(&registry), ["all", "102400-307199", "all"], "{why}");
        assert!(
            begin.elapsed() < Duration::from_secs(5),
            "{:?}, {why}",
            begin.elapsed()
        );
    }
}

#[test]
fn row_b10_nothing_is_asked_for_past_the_end() {
    let image = noise(10 * KIB);
    for held in [10 * KIB, 10 * KIB - 1] {
        let registry = one_image(&image);
        registry.fault_times(1, "/blobs/", Fault::CutAfter(held));
        let service = Service::of(&registry);
        assert_whole(&download(&service), &image, "");
        let expected: &[&str] = if held == image.len() {
            &["all"]
        } else {
            &["all", "10239-10239"]
        };
        assert_eq!(ranges(&registry), expected);
    }
}

#[test]
fn row_b11_the_length_is_the_manifests_and_not_the_servers() {
    let image = noise(10 * KIB);
    let length = |n: usize| Fault::header("Content-Length", n.to_string());
    for (fault, is_whole, why) in [
        (Fault::NoLength, true, "none"),
        (length(10 * KIB - 1), false, "too short"),
        (length(10 * KIB + 1), false, "too long"),
    ] {
        let registry = one_image(&image);
        registry.fault("/blobs/", fault);
        let service = Service::of(&registry);
        let response = download(&service);
        if is_whole {
            assert_whole(&response, &image, why);
        } else {
            assert_eq!((response.status, response.body.len()), (502, 0), "{why}");
        }
    }
}

#[test]
fn row_b11_a_body_without_a_length_that_does_not_end_is_read_to_its_size() {
    let image = noise(10 * KIB);
    let registry = one_image(&image);
    registry.fault("/blobs/", Fault::Endless("more"));
    let service = Service::of(&registry);
    assert_whole(&download(&service), &image, "");
}

#[test]
fn row_b12_a_blob_may_be_empty() {
    let registry = one_image(b"");
    let service = Service::of(&registry);
    assert_eq!(service.listing(), line(b"", "hello-v1.raw"));
    assert_whole(&download(&service), b"", "");
}

#[test]
fn row_b13_a_layer_that_lies_elsewhere_is_refused_and_not_fetched() {
    let stranger = Registry::start();
    let (mut hello, listing) = versions(1);
    let mut layer = hello.file(OCI_TAR, "hello.raw", b"elsewhere");
    layer["urls"] = json!([stranger.origin() + "/blob"]);
    let artifact = hello.artifact(&[layer], json!({}));
    hello.point("v1", &artifact);
    let registry = Registry::with_hello(hello);
    let service = Service::of(&registry);
    assert_eq!(service.listing(), listing);
    assert_eq!(download(&service).status, 404);
    assert_eq!(stranger.take_requests(), [""; 0]);
    assert_eq!(ranges(&registry), [""; 0]);
}

#[test]
fn row_b14_a_short_wait_is_waited_out_in_seconds_and_as_a_date() {
    fn date(seconds: i64) -> Option<String> {
        let then = Timestamp::now() + seconds.seconds();
        Some(then.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string())
    }
    // Made when its time has come: a date is soon over.
    type RetryAfter = fn() -> Option<String>;
    let rows: [(RetryAfter, u128, u128); 6] = [
        (|| Some("1".to_owned()), 1000, 1900),
        (|| Some("0".to_owned()), 0, 900),
        // A date has whole seconds: up to one of them may have passed.
        (|| date(2), 900, 2900),
        (|| date(-100), 0, 900),
        (|| None, 900, 1900),
        (|| Some("soon".to_owned()), 900, 1900),
    ];
    for status in [429, 503] {
        for (retry_after, least, most) in rows {
            let (registry, listing) = Registry::with_versions(1);
            let text = retry_after();
            registry.fault_times(1, "/tags/list", Fault::Status(status));
            registry.fault_times(1, "/tags/list", Fault::Header("Retry-After", text.clone()));
            let service = Service::of(&registry);
            // How long it takes to start is no matter here.
            service.whole("/");
            let begin = Instant::now();
            assert_eq!(service.listing(), listing);
            let waited = begin.elapsed().as_millis();
            assert!((least..most).contains(&waited), "{waited} ms for {text:?}");
            let requests = registry.take_requests();
            let lists = count(&requests, "/tags/list");
            assert_eq!((lists, requests.len()), (2, 4), "{requests:?}");
        }
    }
}

#[test]
fn row_b14_waits_of_several_requests_are_waited_out() {
    let (registry, listing) = Registry::with_versions(2);
    registry.fault_times(1, "/tags/list", Fault::Status(429));
    registry.fault_times(1, "/tags/list", Fault::header("Retry-After", "1"));
    registry.fault_times(1, "/manifests/v1", Fault::Status(503));
    registry.fault_times(1, "/manifests/v1", Fault::header("Retry-After", "1"));
    let service = Service::of(&registry);
    let begin = Instant::now();
    assert_eq!(service.listing(), listing);
    assert!(
        begin.elapsed() >= Duration::from_secs(1),
        "it did not wait: {:?}",
        begin.elapsed()
    );
}

#[test]
fn row_b14_a_registry_that_stays_busy_is_passed_on_with_its_retry_after() {
    let registry = Registry::with_hello(versions(1).0);
    registry.fault("/tags/list", Fault::Status(429));
    registry.fault("/tags/list", Fault::header("Retry-After", "3600"));
    let service = Service::of(&registry);
    let begin = Instant::now();
    let response = service.no_listing(503);
    let seconds: u64 = response
        .header("retry-after")
        .expect("no Retry-After")
        .parse()
        .unwrap();
    assert!(seconds > 0, "Retry-After: {seconds}");
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );
}

#[test]
fn row_b14_a_registry_that_allows_few_requests_a_second_is_listed_at_its_pace() {
    for retry_after in [None, Some("1".to_owned())] {
        let (registry, listing) = Registry::with_versions(80);
        registry.fault("/v2/", Fault::Header("Retry-After", retry_after));
        registry.fault("/v2/", Fault::bucket(20.0, 4.0));
        let service = Service::of(&registry);
        let begin = Instant::now();
        assert_eq!(service.listing(), listing);
        let requests = registry.take_requests().len();
        assert!(requests < 130, "{requests} requests");
        assert!(
            begin.elapsed() < Duration::from_secs(15),
            "{:?}",
            begin.elapsed()
        );
    }
}

#[test]
fn row_b15_what_may_pass_is_tried_three_times_and_the_rest_once() {
    for (status, tries) in [
        (408, 3),
        (429, 3),
        (499, 3),
        (500, 3),
        (502, 3),
        (503, 3),
        (504, 3),
        (520, 3),
        (522, 3),
        (524, 3),
        (530, 3),
        (400, 1),
        (403, 1),
        (404, 1),
        (410, 1),
        (501, 1),
        (525, 1),
    ] {
        let registry = one_image(b"image");
        registry.fault("/blobs/", Fault::Status(status));
        registry.fault("/blobs/", Fault::header("Retry-After", "0"));
        let service = Service::of(&registry);
        let response = download(&service);
        assert_ne!(response.status, 200, "{status}");
        assert_eq!(response.body, b"", "{status}");
        assert_eq!(ranges(&registry).len(), tries, "{status}");
        // And a third try that succeeds is a success.
        if tries == 3 {
            registry.behave();
            registry.fault_times(2, "/blobs/", Fault::Status(status));
            registry.fault_times(2, "/blobs/", Fault::header("Retry-After", "0"));
            assert_whole(&download(&service), b"image", "");
        }
    }
}

#[test]
fn row_b15_a_token_server_that_fails_is_asked_three_times() {
    let tokens = TokenServer::start();
    tokens.set(|rules| rules.get = Some(500));
    let registry = one_image(b"image");
    registry.guard(tokens.guard());
    let service = Service::of(&registry);
    service.no_listing(502);
    assert_eq!(tokens.take_asked().len(), 3);
}

#[test]
fn row_b15_a_form_is_posted_once() {
    let tokens = TokenServer::start();
    tokens.set(|rules| rules.post = Some(500));
    let registry = one_image(b"image");
    registry.guard(tokens.guard());
    let host = registry.address.to_string();
    let auth = json!({"auths": {host: {"identitytoken": "r3fresh"}}}).to_string();
    let service = Setup::of(&registry).auth(&auth).start();
    service.no_listing(502);
    assert_eq!(tokens.take_asked().len(), 1);
}

#[test]
fn row_b16_a_warning_is_logged_once_and_changes_nothing() {
    let (registry, listing) = Registry::with_versions(6);
    let warning = "299 - \"this registry closes in May\"";
    registry.fault("/v2/", Fault::header("Warning", warning));
    let service = Service::start(registry.settings() + ANEW);
    for _ in 0..2 {
        assert_eq!(service.listing(), listing);
        later();
    }
    let trouble = service.log.one_trouble();
    assert!(
        trouble.contains("this registry closes in May")
            && trouble.contains(&registry.address.to_string()),
        "{trouble:?}"
    );
}

#[test]
fn a_file_is_one_body_over_any_number_of_cut_connections() {
    // The same number of cuts as 256 MiB have where each connection brings 3 MiB.
    let (piece, cuts) = (48 * KIB, 85);
    let image = noise(piece * cuts + 1000);
    let registry = one_image(&image);
    registry.fault("/blobs/", Fault::CutAfter(piece));
    let service = Service::of(&registry);
    let begin = Instant::now();
    assert_whole(&download(&service), &image, "");
    assert_eq!(ranges(&registry).len(), cuts + 1);
    assert!(begin.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_file_is_waited_for_while_connections_bring_heads_and_nothing_more() {
    let image = noise(300 * KIB);
    let registry = one_image(&image);
    let service = Service::of(&registry);
    service.listing();
    registry.take_requests();
    registry.fault_times(6, "/blobs/", Fault::CutAfter(0));
    assert_whole(&download(&service), &image, "");
    assert_eq!(count(&registry.take_requests(), "/blobs/"), 7);
}

#[test]
fn a_mirror_that_breaks_off_goes_on_where_there_is_nobody_else() {
    let image = noise(600 * KIB);
    let (registry, mirror) = (one_image(&image), one_image(&image));
    mirror.fault("/blobs/", Fault::CutAfter(100 * KIB));
    let service = Setup::with_mirrors(&registry, &[&mirror]).start();
    service.listing();
    registry.fault("/blobs/", Fault::Raw(Vec::new()));
    let begin = Instant::now();
    assert_whole(&download(&service), &image, "");
    assert_eq!(ranges(&mirror).len(), 6);
    assert!(begin.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_registry_that_is_restarted_in_the_middle_is_waited_for() {
    let image = noise(300 * KIB);
    let registry = one_image(&image);
    registry.fault_times(1, "/blobs/", Fault::CutAfter(100 * KIB));
    let service = Service::of(&registry);
    service.listing();
    registry.take_requests();
    registry.fault("/blobs/", Fault::NoRange);
    // The answers of the front meanwhile, each more often than a request is tried: four times, the last one first.
    for (times, status) in [(13, 502), (9, 503), (5, 504)] {
        registry.fault_times(times, "/blobs/", Fault::StatusOfARange(status));
    }
    assert_whole(&download(&service), &image, "");
    assert_eq!(ranges(&registry).len(), 1 + 12 + 1);
}

/// A response without a length ends where it is cut as if it were whole.
#[test]
fn a_registry_that_ignores_ranges_may_be_cut_anywhere() {
    let image = noise(300 * KIB);
    let registry = one_image(&image);
    let service = Service::of(&registry);
    service.listing();
    registry.take_requests();
    registry.fault("/blobs/", Fault::NoLength);
    registry.fault("/blobs/", Fault::NoRange);
    // The last of those that are left counts, so each of them once.
    for (times, cut) in [(6, 90), (5, 70), (4, 10), (3, 50), (2, 30), (1, 100)] {
        registry.fault_times(times, "/blobs/", Fault::CutAfter(cut * KIB));
    }
    assert_whole(&download(&service), &image, "");
    assert_eq!(ranges(&registry).len(), 7);
}

#[test]
fn a_front_without_a_registry_behind_it_is_waited_for() {
    let image = noise(300 * KIB);
    let registry = one_image(&image);
    registry.fault_times(1, "/blobs/", Fault::CutAfter(100 * KIB));
    registry.fault_times(4, "/blobs/", Fault::StatusOfARange(404));
    let service = Service::of(&registry);
    assert_whole(&download(&service), &image, "");
    // The first one was for all.
    assert_eq!(ranges(&registry).len(), 1 + 3 + 1);
}

#[test]
fn a_token_server_that_is_restarted_with_its_registry_is_waited_for() {
    let image = noise(300 * KIB);
    let tokens = TokenServer::start();
    tokens.set(|rules| (rules.anonymous, rules.refresh) = (false, Some("r3fresh")));
    // For a listing and the first part.
    tokens.set(|rules| rules.uses = 1 + requests_of_a_listing().len());
    let registry = one_image(&image);
    let host = registry.address.to_string();
    let auth = json!({"auths": {host: {"identitytoken": "r3fresh"}}}).to_string();
    for status in [408, 429, 503] {
        registry.behave();
        registry.fault_times(1, "/blobs/", Fault::CutAfter(100 * KIB));
        registry.guard(tokens.guard());
        let service = Setup::of(&registry).auth(&auth).start();
        service.listing();
        tokens.set(|rules| rules.post = Some(status));
        tokens.take_asked();
        thread::scope(|scope| {
            scope.spawn(|| assert_whole(&download(&service), &image, &status.to_string()));
            let mut asked = 0;
            eventually("the token server is asked again", || {
                asked += tokens.take_asked().len();
                asked > 2
            });
            tokens.set(|rules| rules.post = None);
        });
    }
}

#[test]
fn row_b14_a_store_that_stays_busy_is_left_though_its_registry_is_not() {
    let image = noise(1000);
    let (registry, store) = (one_image(&image), one_image(&image));
    registry.fault("/blobs/", Fault::Redirect(store.origin()));
    store.fault("/blobs/", Fault::Status(429));
    store.fault("/blobs/", Fault::header("Retry-After", "0"));
    let service = Service::of(&registry);
    service.listing();
    assert_eq!(download(&service).status, 503);
    assert_eq!(ranges(&store).len(), 3);
}

#[test]
fn row_b14_a_wait_of_ages_is_passed_on_as_a_day() {
    let registry = Registry::with_hello(versions(1).0);
    registry.fault("/tags/list", Fault::Status(503));
    let ages = Some(u64::MAX.to_string());
    registry.fault("/tags/list", Fault::Header("Retry-After", ages));
    let service = Service::of(&registry);
    let response = service.get("/hello/SHA256SUMS");
    assert_eq!(response.status, 503);
    assert_eq!(response.header("retry-after"), Some("86400"));
}

#[test]
fn a_mirror_that_breaks_off_goes_on_where_the_registry_answers_no() {
    let image = noise(300 * KIB);
    for status in [403, 404, 429] {
        let (registry, mirror) = (one_image(&image), one_image(&image));
        mirror.fault_times(1, "/blobs/", Fault::CutAfter(100 * KIB));
        let conf = format!(
            "[[registry]]\nlocation = \"{}\"\n[[registry.mirror]]\nlocation = \"{}\"\n",
            registry.address, mirror.address
        );
        let service = Setup::of(&registry).registries(&conf).start();
        service.listing();
        let hour = Some("3600".to_owned());
        registry.fault("/blobs/", Fault::Status(status));
        registry.fault("/blobs/", Fault::Header("Retry-After", hour));
        assert_whole(&download(&service), &image, &status.to_string());
        assert_eq!(ranges(&mirror), ["all", "102400-307199"]);
    }
}

#[test]
fn a_mirror_that_is_restarted_is_waited_for_where_the_registry_answers_no() {
    let image = noise(300 * KIB);
    let (registry, mirror) = (one_image(&image), one_image(&image));
    mirror.fault_times(1, "/blobs/", Fault::CutAfter(100 * KIB));
    let service = Setup::with_mirrors(&registry, &[&mirror]).start();
    service.listing();
    registry.fault("/blobs/", Fault::Status(403));
    mirror.fault_times(13, "/blobs/", Fault::StatusOfARange(502));
    assert_whole(&download(&service), &image, "");
    assert_eq!(ranges(&mirror).len(), 1 + 12 + 1);
    // Where nothing came yet the registry has the last word.
    mirror.fault("/blobs/", Fault::Status(502));
    let response = download(&service);
    assert_eq!((response.status, response.body.len()), (403, 0));
}

#[test]
fn row_b10_a_blob_that_is_shorter_elsewhere_ends_the_download_at_once() {
    let image = noise(300 * KIB);
    let (registry, first, second) = (one_image(&image), one_image(&image), one_image(&image));
    let to = |store: &Registry| Fault::Redirect(format!("http://{}", store.address));
    registry.fault("/blobs/", to(&second));
    registry.fault_times(1, "/blobs/", to(&first));
    first.fault("/blobs/", Fault::CutAfter(100 * KIB));
    second.fault("/blobs/", Fault::Body(image[..50 * KIB].to_vec()));
    second.fault("/blobs/", Fault::StatusOfARange(416));
    let service = Service::of(&registry);
    let begin = Instant::now();
    let response = download(&service);
    assert_eq!((response.status, response.whole), (200, false));
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(ranges(&second), ["102400-307199", "all"]);
    let line = &service.log.with(&["download cut short"])[0];
    let expected = "has the wrong size: expected 307200 bytes, found 51200";
    assert!(line.contains(expected), "{line}");
}

#[test]
fn a_connection_is_used_again_after_a_blob_and_after_a_complaint() {
    let image = noise(300 * KIB);
    let authority = Authority::new();
    for with_tls in [false, true] {
        let tls = with_tls.then(|| authority.server(&["127.0.0.1"]));
        let registry = Registry::on("127.0.0.1:0", tls);
        registry.change(|hello| hello.oras_push("v1", "hello.raw", &image));
        let mut setup = Setup::of(&registry);
        if with_tls {
            setup = setup.certificate(registry.address, "ca.crt", &authority.pem());
        }
        let service = setup.start();
        service.listing();
        let before = registry.connections();
        for status in [429, 500, 503] {
            let none = Some("0".to_owned());
            registry.fault_times(2, "/blobs/", Fault::Status(status));
            registry.fault_times(2, "/blobs/", Fault::Header("Retry-After", none));
            assert_whole(&download(&service), &image, "");
        }
        assert_eq!(registry.connections(), before, "TLS: {with_tls}");
    }
}

/// Static stores and Apache's mod_mime say so of a file that is gzip itself.
#[test]
fn row_m10_a_blob_of_the_right_size_is_taken_whatever_its_encoding_is_called() {
    let image = noise(200 * KIB);
    let registry = one_image(&image);
    registry.fault("/blobs/", Fault::header("Content-Encoding", "gzip"));
    let service = Service::of(&registry);
    assert_whole(&download(&service), &image, "whole");
    registry.fault_times(1, "/blobs/", Fault::CutAfter(100 * KIB));
    assert_whole(&download(&service), &image, "by ranges");
    // Of another size, or of none, it is refused before it begins.
    for fault in [Fault::NoLength, Fault::Body(noise(1000))] {
        registry.behave();
        registry.fault("/blobs/", Fault::header("Content-Encoding", "gzip"));
        registry.fault("/blobs/", fault.clone());
        let service = Service::of(&registry);
        let response = download(&service);
        assert_eq!(
            (response.status, response.body.len()),
            (502, 0),
            "{fault:?}"
        );
        let reason = response.header("x-reason").unwrap();
        assert!(
            reason.contains("Content-Encoding gzip"),
            "{fault:?}: {reason}"
        );
    }
}
