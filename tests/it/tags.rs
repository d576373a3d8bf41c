//! Lists of tags, as registries page, cut and fill them.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::content::{Repository, empty_listing, line, versions};
use crate::registry::{Fault, Guard, IS_IT_SIGNED, Link, Registry, TAGS, count};
use crate::service::{ANEW, Folder, Service, Setup, later};
use crate::tokens::TokenServer;

#[test]
fn row_t1_pages_are_followed_however_the_link_is_spelled() {
    for (link, second) in [
        (Link::Relative, "GET /v2/hello/tags/list?last=v1&n=2"),
        (Link::Absolute, "GET /v2/hello/tags/list?last=v1&n=2"),
        (Link::Cursor, "GET /v2/hello/tags/list?mark=2"),
    ] {
        let (registry, listing) = Registry::with_versions(7);
        registry.fault("/tags/list", Fault::Pages(2, link.clone()));
        let service = Service::of(&registry);
        assert_eq!(service.listing(), listing, "{link:?}");
        let requests = registry.take_requests();
        assert_eq!(count(&requests, TAGS), 1, "{link:?}");
        assert_eq!(count(&requests, second), 1, "{link:?}");
        assert_eq!(count(&requests, "/tags/list"), 4, "{link:?}");
    }
}

#[test]
fn row_t2_a_link_to_another_host_is_followed_at_the_same_one() {
    let stranger = Registry::on("127.0.0.2:0", None);
    stranger.put("hello", versions(7).0);
    let (registry, listing) = Registry::with_versions(7);
    let link = Link::Foreign(stranger.origin());
    registry.fault("/tags/list", Fault::Pages(2, link));
    let service = Service::of(&registry);
    assert_eq!(service.listing(), listing);
    assert_eq!(stranger.take_requests(), [""; 0]);
}

#[test]
fn row_t3_links_are_read_in_any_spelling() {
    let next = "/v2/hello/tags/list?last=v1&n=2";
    for header in [
        format!("<{next}>;rel=\"next\""),
        format!("<{next}>;\trel=next"),
        format!("<{next}>; title=\"a, b; c\"; REL=\"NEXT\""),
        format!("</elsewhere>; rel=\"prev\", <{next}>; rel=\"next\""),
        format!("<{next}>; rel=\"last next\""),
    ] {
        let (registry, listing) = Registry::with_versions(4);
        registry.fault("/tags/list", Fault::Pages(2, Link::Relative));
        registry.fault("n=1000$", Fault::header("Link", header.clone()));
        let service = Service::of(&registry);
        assert_eq!(service.listing(), listing, "{header}");
    }
}

#[test]
fn row_t3_what_is_no_link_to_a_next_page_ends_the_list() {
    let page = "</v2/hello/tags/list?last=v1&n=2>";
    for header in [
        "nonsense".to_owned(),
        page.to_owned(),
        format!("{page}; rel=\"prev\""),
    ] {
        let registry = Registry::with_hello(versions(4).0);
        registry.fault("/tags/list", Fault::Pages(2, Link::Relative));
        registry.fault("n=1000$", Fault::header("Link", header.clone()));
        let service = Service::of(&registry);
        assert_eq!(service.listing(), versions(2).1, "{header}");
    }
}

/// docker-registry 2.8 does this.
#[test]
fn row_t4_a_list_that_ignores_n_and_has_no_order_is_asked_for_once() {
    let (registry, listing) = Registry::with_versions(4);
    let body = json!({"name": "hello", "tags": ["v3", "v0", "v2", "v1", "v2"]}).to_string();
    registry.fault("/tags/list", Fault::Body(body.into_bytes()));
    let service = Service::of(&registry);
    assert_eq!(service.listing(), listing);
    assert_eq!(count(&registry.take_requests(), "/tags/list"), 1);
}

/// Pages are an error only where the list without them is none either.
#[test]
fn row_t4_a_list_whose_pages_lead_nowhere_is_asked_for_without_them() {
    let itself = Fault::Pages(2, Link::Itself);
    let broken = Fault::header("Link", "</v2/hello/tags/list?last=v1; rel=\"next\"");
    let dead = Fault::header("Link", "</v2/gone?last=nobody>; rel=\"next\"");
    let short = Fault::Body(br#"{"tags":["v0","v1"]}"#.to_vec());
    for (faults, why) in [
        (vec![itself], "a page that names itself"),
        (vec![short.clone(), broken], "a link that cannot be read"),
        (vec![short, dead], "a link to a page that is not there"),
    ] {
        let (registry, listing) = Registry::with_versions(4);
        for fault in &faults {
            registry.fault("/tags/list?n=1000", fault.clone());
        }
        registry.fault("last=nobody", Fault::Status(404));
        let service = Service::of(&registry);
        assert_eq!(service.listing(), listing, "{why}");
        let requests = registry.take_requests();
        assert_eq!(count(&requests, "/tags/list$"), 1, "{why}: {requests:?}");

        registry.behave();
        for fault in faults {
            registry.fault("/tags/list", fault);
        }
        registry.fault("last=nobody", Fault::Status(404));
        let begin = Instant::now();
        let service = Service::of(&registry);
        let reason = service.why_no_listing(502);
        let expected = "the list of tags goes on at a page that cannot be found";
        assert!(reason.contains(expected), "{why}: {reason}");
        assert!(begin.elapsed() < Duration::from_secs(5));
    }
}

/// Nexus and Artifactory link by the path that they have behind a gateway.
#[test]
fn row_t2_a_link_by_another_path_is_followed_by_the_one_that_was_asked() {
    let html = Fault::Body(b"<html>Log in</html>".to_vec());
    let empty = Fault::Body(b"{}".to_vec());
    for faults in [
        vec![Fault::Status(404)],
        vec![Fault::Status(401)],
        vec![Fault::Status(502)],
        vec![Fault::Status(200), html],
        vec![Fault::Status(200), empty],
        vec![Fault::Location("ftp://h/".to_owned())],
    ] {
        let (registry, listing) = Registry::with_versions(7);
        let link = Link::Foreign("http://inside.invalid/repository/docker".to_owned());
        registry.fault("GET /v2/hello/tags/list", Fault::Pages(3, link));
        for fault in &faults {
            registry.fault("GET /repository", fault.clone());
        }
        let service = Service::of(&registry);
        assert_eq!(service.listing(), listing, "{faults:?}");
        let requests = registry.take_requests();
        let by_own = count(&requests, "GET /v2/hello/tags/list?last=");
        assert_eq!(by_own, 2, "{faults:?}: {requests:?}");
    }
}

#[test]
fn row_t5_who_refuses_n_is_asked_without() {
    let (registry, listing) = Registry::with_versions(3);
    registry.fault("/tags/list?", Fault::Status(400));
    let service = Service::of(&registry);
    assert_eq!(service.listing(), listing);
    let requests = registry.take_requests();
    assert_eq!(count(&requests, TAGS), 1);
    assert_eq!(count(&requests, "GET /v2/hello/tags/list$"), 1);
    assert_eq!(count(&requests, "/tags/list"), 2);
}

/// A 400 is no sign of an old token where a new one gets the same.
#[test]
fn row_t5_who_refuses_n_and_wants_a_login_is_asked_without() {
    let (registry, listing) = Registry::with_versions(3);
    let tokens = TokenServer::start();
    registry.guard(tokens.guard());
    registry.fault("/tags/list?", Fault::Status(400));
    let service = Service::of(&registry);
    assert_eq!(service.listing(), listing);
    let asked = tokens.take_asked().len();
    assert!((1..=2).contains(&asked), "{asked} tokens");
}

/// crane's registry does this. That a list is full is told by its entries, usable or not.
#[test]
fn row_t6_a_full_page_without_a_link_is_asked_for_again_without_n() {
    let (hello, listing) = versions(3);
    for (entries, lists) in [(999, 1), (1000, 2), (1001, 1)] {
        let registry = Registry::with_hello(hello.clone());
        let mut tags = vec![json!(null); entries];
        tags[0] = json!("v1");
        let page = json!({"name": "hello", "tags": tags}).to_string();
        registry.fault(TAGS, Fault::Body(page.into_bytes()));
        let service = Service::of(&registry);
        let expected = match lists {
            1 => line(b"image 1", "hello-v1.raw"),
            _ => listing.clone(),
        };
        assert_eq!(service.listing(), expected, "{entries}");
        let requests = registry.take_requests();
        assert_eq!(count(&requests, "/tags/list"), lists, "{entries}");
    }
}

#[test]
fn rows_t7_t8_and_t10_a_list_keeps_its_tags_and_drops_the_rest() {
    let long = format!("\"{}\"", "x".repeat(129));
    let sha512 = format!("\"sha512:{}\"", "0f".repeat(64));
    for (list, kept, why) in [
        (r#"{"tags":null}"#.to_owned(), 0, "null for an empty list"),
        ("{}".to_owned(), 0, "nothing for an empty list"),
        (r#"{"tags":[]}"#.to_owned(), 0, "empty"),
        (
            r#"{"tags":["v0",null,"v1",7,{},[]],"child":[],"manifest":{"x":{}}}"#.to_owned(),
            2,
            "entries that are no text, keys that nobody knows",
        ),
        (
            format!(r#"{{"tags":[{sha512},"-ot-beta",".v","a/b","ü","",{long},"v0","v1"]}}"#),
            2,
            "entries that are no tags",
        ),
    ] {
        let registry = Registry::with_hello(versions(2).0);
        registry.fault("/tags/list", Fault::Body(list.into_bytes()));
        let text = Fault::header("Content-Type", "text/plain; charset=utf-8");
        registry.fault("/tags/list", text);
        let service = Service::of(&registry);
        let expected = match kept {
            0 => empty_listing(),
            n => versions(n).1,
        };
        assert_eq!(service.listing(), expected, "{why}");
        let requests = registry.take_requests();
        assert_eq!(requests.len(), 2 + kept, "{why}: {requests:?}");
    }
}

#[test]
fn row_t9_only_an_emptied_repository_is_an_empty_listing() {
    let registry = Registry::with_hello(versions(1).0);
    registry.put("emptied", Repository::default());
    let service = Service::start(registry.settings() + ANEW);
    let status = |name: &str| service.get(&format!("/{name}/SHA256SUMS")).status;
    assert_eq!((status("emptied"), status("missing")), (200, 404));
    registry.fault("/tags/list", Fault::Status(403));
    later();
    assert_eq!((status("emptied"), status("missing")), (403, 403));
    registry.behave();
    registry.fault("/tags/list", Fault::Guard(Guard::basic(&["a:b"])));
    later();
    assert_eq!((status("emptied"), status("missing")), (403, 403));
}

#[test]
fn row_t12_tags_of_signatures_and_referrers_are_not_asked_for() {
    let (mut hello, listing) = versions(1);
    let hex = "0f".repeat(32);
    for end in ["", ".sig", ".att", ".sbom", ".0a1b2c.meta"] {
        hello.oras_push(&format!("sha256-{hex}{end}"), "x.raw", b"no version");
        hello.oras_push(&format!("sha512-{hex}{end}"), "x.raw", b"no version");
    }
    let registry = Registry::with_hello(hello);
    let service = Service::of(&registry);
    assert_eq!(service.listing(), listing);
    let requests = registry.take_requests();
    let expected = [IS_IT_SIGNED, "GET /v2/hello/manifests/v0", TAGS];
    assert_eq!(requests, expected);
}

#[test]
fn a_page_of_two_million_tags_that_are_one_takes_little_memory() {
    let (hello, listing) = versions(1);
    let registry = Registry::with_hello(hello);
    let page = format!("{{\"tags\":[{}\"v0\"]}}", "\"v0\",".repeat(1_600_000));
    assert!(page.len() > 8_000_000);
    let page = page.replace("[\"v0\",", "[\"v0\",null,");
    registry.fault("/tags/list", Fault::Body(page[..].into()));
    let service = Service::of(&registry);
    assert_eq!(service.listing(), listing);
    let peak = service.peak_memory();
    assert!(peak < 64, "{peak} MiB");
}

#[test]
fn more_tags_than_a_listing_can_have_lines_are_refused() {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz012345";
    let letter = |n: usize, place: u32| char::from(LETTERS[(n >> (5 * place)) & 31]);
    let tag = |n: usize| (0..4).map(|place| letter(n, place)).collect::<String>();
    let tags: Vec<_> = (0..1 << 20).map(tag).collect();
    let (hello, _) = versions(1);
    let registry = Registry::with_hello(hello);
    let page = json!({"tags": tags}).to_string();
    registry.fault("/tags/list", Fault::Body(page.into()));
    let service = Service::of(&registry);
    let response = service.get("/hello/SHA256SUMS");
    let reason = response.header("x-reason").unwrap();
    assert_eq!(response.status, 502, "{reason}");
    assert!(reason.contains("more than 100000 tags"), "{reason}");
    assert_eq!(count(&registry.take_requests(), "/manifests/"), 1);
}

#[test]
fn connections_that_were_opened_ahead_and_closed_meanwhile_are_not_used() {
    let (registry, _) = Registry::with_versions(16);
    let (cache, state) = (Folder::new(), Folder::new());
    let start = || Setup::of(&registry).cache(&cache).state(&state).start();
    drop(start().listing());
    // All but two are gone, and the answers for these are slow: the second finds only closed connections at each try.
    let mut left = 2;
    registry.change(|hello| {
        hello
            .tags
            .retain(|_, _| (left > 0).then(|| left -= 1).is_some())
    });
    registry.wait_for_requests(Duration::from_millis(200));
    registry.fault(TAGS, Fault::Delay(Duration::from_millis(600)));
    registry.fault("/manifests/", Fault::Delay(Duration::from_millis(1500)));
    let before = registry.connections();
    let service = start();
    assert_eq!(service.listing().matches("hello-").count(), 2);
    assert!(
        registry.connections() > before + 10,
        "they were opened ahead"
    );
    assert_eq!(service.log.trouble_so_far(), [""; 0]);
}
