//! registries.conf: mirrors, other places for a name, what is blocked.

use std::collections::BTreeSet;
use std::io::Read;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use serde_json::json;

use crate::content::{OCI_TAR, Repository, digest, line, lines, noise, sign, versions};
use crate::images::layer;
use crate::registry::{
    Fault, Guard, IS_IT_SIGNED, Registry, TAGS, basic, count, logins_seen, nowhere, one_image,
    ranges, with_tls,
};
use crate::service::{ANEW, Folder, Setup, later, table};
use crate::tls::Authority;
use crate::tokens::TokenServer;

const KIB: usize = 1024;

fn place(registry: &Registry) -> String {
    registry.address.to_string()
}

/// `count` registries that all have the versions of `hello`.
fn copies<const N: usize>(count: usize) -> ([Registry; N], String) {
    let (hello, listing) = versions(count);
    (
        std::array::from_fn(|_| Registry::with_hello(hello.clone())),
        listing,
    )
}

#[test]
fn rows_x1_and_x3_a_digest_is_asked_for_at_mirrors_in_their_order_and_then_at_the_registry() {
    let ([registry, first, second], listing) = copies(1);
    let setup = Setup::with_mirrors(&registry, &[&first, &second]);
    let service = setup.own_cache().start();
    assert_eq!(service.listing(), listing);
    let blob = format!("/v2/hello/blobs/{}", digest(b"image 0"));
    let at_mirror = format!("GET {blob}?ns={}", registry.address);
    let at_registry = format!("GET {blob}");
    let asked = || {
        let blobs_of = |place: &Registry| {
            let mut requests = place.take_requests();
            requests.retain(|request| request.contains("/blobs/"));
            requests
        };
        [&first, &second, &registry].map(blobs_of)
    };
    let get = || assert_eq!(service.get("/hello/hello-v0.raw").body, b"image 0");
    get();
    assert_eq!(asked(), [vec![at_mirror.clone()], vec![], vec![]]);
    first.fault("/blobs/", Fault::Status(404));
    get();
    assert_eq!(
        asked(),
        [vec![at_mirror.clone()], vec![at_mirror.clone()], vec![]]
    );
    second.fault("/blobs/", Fault::Status(404));
    get();
    assert_eq!(
        asked(),
        [vec![at_mirror.clone()], vec![at_mirror], vec![at_registry]]
    );
    // To lack something is no fault.
    assert_eq!(service.log.with(&["warning"]), [""; 0]);
}

#[test]
fn row_x1_a_mirror_is_asked_only_for_what_it_may_be_asked_for() {
    for (key, has_digests, has_tags) in [
        ("pull-from-mirror = \"all\"", true, true),
        ("pull-from-mirror = \"digest-only\"", true, false),
        ("pull-from-mirror = \"tag-only\"", false, true),
    ] {
        let ([registry, mirror], listing) = copies(1);
        let conf = table(registry.address, &[(place(&mirror), key)]);
        let start = || Setup::of(&registry).registries(&conf).start();
        let service = start();
        assert_eq!(service.listing(), listing, "{key}");
        assert_eq!(service.get("/hello/hello-v0.raw").status, 200, "{key}");
        let requests = mirror.take_requests();
        assert_eq!(
            count(&requests, "/blobs/"),
            usize::from(has_digests),
            "{key}"
        );
        assert_eq!(
            count(&requests, "/tags/list"),
            0,
            "{key}: the registry is up"
        );
        registry.fault("/v2/", Fault::Raw(Vec::new()));
        let status = start().get("/hello/SHA256SUMS").status;
        assert_eq!(status, if has_tags { 200 } else { 502 }, "{key}");
        let lists = count(&mirror.take_requests(), "/tags/list");
        assert_eq!(lists, usize::from(has_tags), "{key}");
    }
}

#[test]
fn row_x1_mirror_by_digest_only_counts_for_all_mirrors() {
    let ([registry, mirror], _) = copies(1);
    let conf = table(registry.address, &[(place(&mirror), "")]).replace(
        "[[registry.mirror]]",
        "mirror-by-digest-only = true\n[[registry.mirror]]",
    );
    let service = Setup::of(&registry).registries(&conf).start();
    assert_eq!(service.get("/hello/hello-v0.raw").body, b"image 0");
    assert_eq!(count(&mirror.take_requests(), "/blobs/"), 1);
    registry.fault("/v2/", Fault::Raw(Vec::new()));
    let service = Setup::of(&registry).registries(&conf).start();
    service.no_listing(502);
    assert_eq!(mirror.take_requests(), [""; 0]);
}

#[test]
fn row_x1_the_longest_prefix_decides_where_a_repository_is() {
    let ([registry, elsewhere, other], listing) = copies(1);
    elsewhere.put("moved/here/app", versions(1).0);
    registry.put("acmeother/app", versions(1).0);
    let host = registry.address;
    let conf = format!(
        "[[registry]]\nprefix = \"{host}\"\nlocation = \"{}\"\n\
         [[registry]]\nprefix = \"{host}/acme\"\nlocation = \"{}/moved/here\"\n\
         [[registry]]\nlocation = \"{host}/acmeother\"\n",
        other.address, elsewhere.address
    );
    let service = Setup::of(&registry).registries(&conf).start();
    for (name, place, list) in [
        ("hello", &other, TAGS),
        (
            "acme/app",
            &elsewhere,
            "GET /v2/moved/here/app/tags/list?n=1000",
        ),
        (
            "acmeother/app",
            &registry,
            "GET /v2/acmeother/app/tags/list?n=1000",
        ),
    ] {
        let response = service.get(&format!("/{name}/SHA256SUMS"));
        let base = name.rsplit('/').next().unwrap();
        let expected = listing.replace("hello-", &format!("{base}-"));
        assert_eq!(response.text(), expected, "{name}");
        assert_eq!(count(&place.take_requests(), list), 1, "{name}");
    }
}

#[test]
fn row_x1_a_blocked_registry_is_one_line_and_no_request() {
    let registry = Registry::with_hello(versions(1).0);
    let host = registry.address;
    let conf = format!("[[registry]]\nlocation = \"{host}\"\nblocked = true\n");
    let service = Setup::of(&registry).registries(&conf).start();
    assert_eq!(
        service.why_no_listing(403),
        format!("{host}/hello is blocked by registries.conf, in the [[registry]] for {host}")
    );
    assert_eq!(registry.take_requests(), [""; 0]);
}

#[test]
fn row_x1_what_is_not_followed_is_refused_at_the_start() {
    for (text, line, word) in [
        (
            "[[registry]]\nlocation = \"a.example\"\nmirror-by-digest-only = true\n\
             [[registry.mirror]]\nlocation = \"b.example\"\npull-from-mirror = \"tag-only\"\n",
            "",
            "only one may be set",
        ),
        (
            "[registries.search]\nregistries = [\"a\"]\n",
            ":1",
            "registries",
        ),
        (
            "[[registry]]\nblocked = true\n",
            "",
            "needs a prefix or a location",
        ),
        (
            "credential-helpers = [\"secretservice\"]\n",
            "",
            "secretservice",
        ),
    ] {
        let setup = Setup::new("").registries(text);
        let conf = setup.folder().join("registries.conf");
        let output = setup.output();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        let place = format!("settings {}{line}: ", conf.display());
        assert!(said.contains(&place) && said.contains(word), "{said}");
    }
}

#[test]
fn rows_x2_and_t11_tags_are_listed_at_the_registry_and_blobs_come_from_the_mirror() {
    let ([registry, mirror], listing) = copies(2);
    // A cache knows only what was pulled through it, if it lists anything.
    mirror.fault("/tags/list", Fault::Status(404));
    let service = Setup::with_mirrors(&registry, &[&mirror]).start();
    assert_eq!(service.listing(), listing);
    assert_eq!(count(&mirror.take_requests(), "/tags/list"), 0);
    assert_eq!(count(&registry.take_requests(), "/tags/list"), 1);
    assert_eq!(service.get("/hello/hello-v1.raw").body, b"image 1");
    assert_eq!(count(&registry.take_requests(), "/blobs/"), 0);
    assert_eq!(count(&mirror.take_requests(), "/blobs/"), 1);
}

#[test]
fn row_x2_tags_come_from_a_mirror_when_the_registry_cannot_be_reached() {
    let (hello, listing) = versions(3);
    let mirror = Registry::with_hello(hello);
    let gone = nowhere();
    let conf = table(&gone, &[(place(&mirror), "")]);
    let service = Setup::new(format!("registry = \"{gone}\"\n"))
        .registries(&conf)
        .start();
    assert_eq!(service.listing(), listing);
    assert_eq!(service.get("/hello/hello-v2.raw").body, b"image 2");
    let trouble = service.log.one_trouble();
    let start = format!(
        "warning: {gone}/hello: tags from mirror {} instead: cannot connect to \
         http://{gone}/v2/hello/manifests/SHA256SUMS",
        mirror.address
    );
    assert!(trouble.starts_with(&start), "{trouble:?}");
}

/// That no mirror has a signed list is not the end of it, and the registry is not waited for again.
#[test]
fn row_x2_a_registry_that_is_down_is_waited_for_once() {
    let ([registry, first, second], listing) = copies(3);
    registry.fault("/v2/", Fault::Status(500));
    first.fault("/tags/list", Fault::Status(500));
    let service = Setup::with_mirrors(&registry, &[&first, &second]).start();
    assert_eq!(service.listing(), listing);
    assert_eq!(registry.take_requests(), [IS_IT_SIGNED; 3]);
    service.log.one_trouble();
}

#[test]
fn row_x2_a_registry_that_says_no_has_the_last_word() {
    for status in [403, 404] {
        let ([registry, mirror], _) = copies(1);
        registry.fault("/tags/list", Fault::Status(status));
        let service = Setup::with_mirrors(&registry, &[&mirror]).start();
        assert_eq!(service.get("/hello/SHA256SUMS").status, status);
        assert_eq!(mirror.take_requests(), [""; 0]);
    }
}

#[test]
fn row_x5_only_mirrors_are_told_what_they_are_asked_for() {
    let ([registry, mirror], _) = copies(1);
    let service = Setup::with_mirrors(&registry, &[&mirror]).start();
    service.listing();
    service.get("/hello/hello-v0.raw");
    let (at_registry, at_mirror) = (registry.take_requests(), mirror.take_requests());
    assert_eq!(count(&at_registry, "ns="), 0, "{at_registry:?}");
    let ns = format!("?ns={}$", registry.address);
    assert_eq!(count(&at_mirror, &ns), at_mirror.len(), "{at_mirror:?}");
    assert!(!at_mirror.is_empty());
}

#[test]
fn row_x5_each_place_gets_its_own_login_and_no_other() {
    let ([registry, open, closed], listing) = copies(1);
    let tokens = TokenServer::for_login("up:stream");
    registry.guard(tokens.guard());
    open.fault("/blobs/", Fault::Status(404));
    closed.guard(Guard::basic(&["mir:ror"]));
    let service = Setup::with_mirrors(&registry, &[&open, &closed])
        .logins(&[
            (&place(&registry), "up:stream"),
            (&place(&closed), "mir:ror"),
        ])
        .start();
    assert_eq!(service.listing(), listing);
    assert_eq!(service.get("/hello/hello-v0.raw").body, b"image 0");
    let blob = format!(
        "GET /v2/hello/blobs/{}?ns={}",
        digest(b"image 0"),
        registry.address
    );
    assert_eq!(logins_seen(&open), [format!("{blob} as nobody")]);
    assert_eq!(
        logins_seen(&closed),
        [
            format!("{blob} as nobody"),
            format!("{blob} as {}", basic("mir:ror"))
        ]
    );
    assert_eq!(tokens.take_asked().len(), 1);
}

#[test]
fn row_x5_a_mirror_that_asks_for_a_login_that_is_not_there_is_left() {
    let ([registry, mirror], _) = copies(1);
    mirror.guard(Guard::basic(&["mir:ror"]));
    let service = Setup::with_mirrors(&registry, &[&mirror])
        .login(registry.address, "up:stream")
        .start();
    assert_eq!(service.get("/hello/hello-v0.raw").body, b"image 0");
    assert_eq!(count(&logins_seen(&mirror), "as nobody$"), 1);
    let trouble = service.log.one_trouble();
    let words = format!(
        "mirror {} fails, going on without it: registry wants a login for {}/hello",
        mirror.address, mirror.address
    );
    assert!(trouble.contains(&words), "{trouble:?}");
}

#[test]
fn row_x6_a_mirror_may_be_below_a_path() {
    let (hello, listing) = versions(1);
    let registry = Registry::with_hello(hello.clone());
    let mirror = Registry::start();
    mirror.put("cache/upstream/hello", hello);
    let location = format!("{}/cache/upstream", mirror.address);
    let conf = table(registry.address, &[(location, "")]);
    let service = Setup::of(&registry).registries(&conf).start();
    assert_eq!(service.listing(), listing);
    assert_eq!(service.get("/hello/hello-v0.raw").body, b"image 0");
    assert_eq!(
        count(
            &mirror.take_requests(),
            "GET /v2/cache/upstream/hello/blobs/"
        ),
        1
    );
    assert_eq!(count(&registry.take_requests(), "/blobs/"), 0);
}

#[test]
fn a_mirror_that_is_down_is_one_line_and_left_alone() {
    let (hello, listing) = versions(20);
    for dead in [true, false] {
        let registry = Registry::with_hello(hello.clone());
        let mirror = Registry::start();
        mirror.fault("/", Fault::Status(500));
        let location = if dead { nowhere() } else { place(&mirror) };
        let conf = table(registry.address, &[(location.clone(), "")]);
        let service = Setup::new(registry.settings() + ANEW)
            .registries(&conf)
            .start();
        let begin = Instant::now();
        for n in 0..20 {
            let image = service.get(&format!("/hello/hello-v{n}.raw"));
            assert_eq!(image.body, format!("image {n}").as_bytes());
        }
        later();
        assert_eq!(service.listing(), listing);
        assert!(begin.elapsed() < Duration::from_secs(5), "{dead}");
        let trouble = service.log.one_trouble();
        let start = format!(
            "warning: {}/hello: mirror {location} fails, going on without it: ",
            registry.address
        );
        assert!(trouble.starts_with(&start), "{trouble:?}");
        let tries = mirror.take_requests().len();
        assert_eq!(tries, if dead { 0 } else { 3 });
    }
}

#[test]
fn a_mirror_that_fails_for_many_at_once_is_one_line_and_few_tries() {
    let (hello, listing) = versions(40);
    let registry = Registry::with_hello(hello.clone());
    let mirror = Registry::with_hello(hello);
    let conf = table(registry.address, &[(place(&mirror), "")]);
    let start = || {
        Setup::new(registry.settings() + ANEW)
            .registries(&conf)
            .own_cache()
            .start()
    };
    let service = start();
    assert_eq!(service.listing(), listing);
    // All tags have moved: their manifests are asked for by digest, sixteen at a time.
    let mut moved = Repository::default();
    let mut expected = Vec::new();
    for n in 0..40 {
        let image = format!("moved {n}");
        moved.oras_push(&format!("v{n}"), "hello.raw", image.as_bytes());
        expected.push((format!("hello-v{n}.raw"), image));
    }
    expected.sort();
    let expected: String = expected
        .iter()
        .map(|(name, image)| line(image.as_bytes(), name))
        .collect();
    registry.put("hello", moved);
    mirror.fault("/", Fault::Status(500));
    mirror.take_requests();
    later();
    assert_eq!(service.listing(), expected);
    service.log.one_trouble();
    let tries = mirror.take_requests().len();
    assert!((1..=16 * 3).contains(&tries), "{tries} tries");
}

#[test]
fn when_everything_is_down_it_is_one_line() {
    let (gone, mirror) = (nowhere(), nowhere());
    let conf = table(&gone, &[(mirror.clone(), "")]);
    let service = Setup::new(format!("registry = \"{gone}\"\n"))
        .registries(&conf)
        .start();
    let why = service.why_no_listing(502);
    let start = format!(
        "cannot connect to http://{gone}/v2/hello/manifests/SHA256SUMS; is the registry up"
    );
    assert!(why.starts_with(&start), "{why}");
    assert!(why.contains(&mirror), "the mirrors are in it too: {why}");
}

#[test]
fn a_mirror_that_breaks_off_is_taken_over_from_by_range() {
    let image = noise(300 * KIB);
    let (registry, first, second) = (one_image(&image), one_image(&image), one_image(&image));
    first.fault("/blobs/", Fault::CutAfter(100 * KIB));
    second.fault("/blobs/", Fault::CutAfter(100 * KIB));
    let service = Setup::with_mirrors(&registry, &[&first, &second]).start();
    assert!(service.whole("/hello/hello-v1.raw") == image);
    assert_eq!(
        [&first, &second, &registry].map(ranges),
        [["all"], ["102400-307199"], ["204800-307199"]]
    );
    // Both rest now: the next download does not meet them.
    assert_eq!(service.get("/hello/hello-v1.raw").body.len(), image.len());
    assert_eq!(
        first.take_requests().len() + second.take_requests().len(),
        0
    );
}

#[test]
fn a_mirror_is_not_blamed_for_what_the_registry_gives_wrong() {
    let image = noise(1000);
    let (registry, mirror) = (one_image(&image), one_image(&image));
    registry.fault("/blobs/", Fault::WrongByte);
    let service = Setup::with_mirrors(&registry, &[&mirror]).start();
    service.listing();
    assert!(service.whole("/hello/hello-v1.raw") == image);
    mirror.fault("/blobs/", Fault::Status(404));
    assert_eq!(service.get("/hello/hello-v1.raw").status, 502);
    mirror.behave();
    assert!(service.whole("/hello/hello-v1.raw") == image);
    let lines = service.log.lines();
    let is_blamed = |line: &String| line.contains("gave wrong bytes");
    assert!(!lines.iter().any(is_blamed), "{lines:?}");
}

#[test]
fn a_mirror_with_wrong_bytes_is_named_and_not_asked_for_them_again() {
    let (image, other) = (noise(300 * KIB), noise(1000));
    let (registry, mirror) = (one_image(&image), one_image(&image));
    for place in [&registry, &mirror] {
        place.change(|hello| hello.oras_push("v2", "hello.raw", &other));
    }
    let wrong: &str = digest(&image).leak();
    mirror.fault(wrong, Fault::WrongByte);
    let service = Setup::with_mirrors(&registry, &[&mirror])
        .settings(ANEW)
        .start();
    service.listing();
    let response = service.get("/hello/hello-v1.raw");
    assert_eq!((response.status, response.whole), (200, false));
    let start = format!(
        "warning: {}/hello: mirror {} gave wrong bytes of {wrong}, ",
        registry.address, mirror.address
    );
    let lines = service.log.with(&["download cut short"]);
    assert_eq!(lines.len(), 1);
    let trouble = service.log.trouble_so_far();
    assert!(
        trouble.len() == 2 && trouble[0].starts_with(&start),
        "{trouble:?}"
    );
    // Also after a new listing; what else it has still comes from there.
    later();
    service.listing();
    mirror.take_requests();
    assert!(service.whole("/hello/hello-v1.raw") == image);
    assert!(service.whole("/hello/hello-v2.raw") == other);
    assert_eq!(count(&mirror.take_requests(), wrong), 0);
    assert_eq!(count(&registry.take_requests(), &digest(&other)), 0);
}

#[test]
fn a_mirror_with_another_manifest_is_not_believed() {
    let (hello, listing) = versions(1);
    let registry = Registry::with_hello(hello.clone());
    let mirror = Registry::with_hello(hello);
    mirror.fault("/manifests/sha256:", Fault::WrongByte);
    let conf = table(registry.address, &[(place(&mirror), "")]);
    let service = Setup::new(registry.settings() + ANEW)
        .registries(&conf)
        .own_cache()
        .start();
    assert_eq!(service.listing(), listing);
    registry.change(|hello| hello.oras_push("v0", "hello.raw", b"moved"));
    mirror.change(|hello| hello.oras_push("v0", "hello.raw", b"moved"));
    later();
    assert_eq!(service.listing(), line(b"moved", "hello-v0.raw"));
    assert_eq!(count(&mirror.take_requests(), "/manifests/sha256:"), 1);
}

#[test]
fn row_n3_a_mirror_is_as_insecure_as_its_own_entry_says() {
    let authority = Authority::new();
    let registry = Registry::with_hello(versions(1).0);
    let mirror = with_tls(&authority);
    let conf = table(registry.address, &[(place(&mirror), "insecure = false")]);
    let service = Setup::of(&registry)
        .registries(&conf)
        .certificate(mirror.address, "ca.crt", &authority.pem())
        .start();
    assert_eq!(service.get("/hello/hello-v0.raw").body, b"image 0");
    assert_eq!(count(&mirror.take_requests(), "/blobs/"), 1);
}

/// A registry and a mirror of it with a signed list of one image.
fn signed_copies(image: &[u8]) -> [Registry; 2] {
    let mut hello = Repository::default();
    let list = line(image, "hello-v1.raw");
    sign(&mut hello, list.as_bytes(), &[], &[image]);
    std::array::from_fn(|_| Registry::with_hello(hello.clone()))
}

#[test]
fn what_a_mirror_says_of_a_size_keeps_no_file_from_anybody() {
    let image = noise(300 * KIB);
    let blob: &str = format!("/blobs/{}", digest(&image)).leak();
    let length = |value: &str| Fault::header("Content-Length", value);
    let heads: [(&str, Fault); 4] = [
        ("too short", length("5")),
        ("too long", length("1000000000000")),
        ("nothing", length("0")),
        ("not there", Fault::Status(404)),
    ];
    let bodies: [(&str, Fault); 5] = [
        ("not there", Fault::Status(404)),
        ("another", Fault::Body(b"other".to_vec())),
        ("empty", Fault::Body(Vec::new())),
        ("of no length", Fault::NoLength),
        ("right", Fault::Delay(Duration::ZERO)),
    ];
    for (said, head) in &heads {
        for (given, body) in &bodies {
            let [registry, mirror] = signed_copies(&image);
            mirror.fault(format!("HEAD /v2/hello{blob}").leak(), head.clone());
            mirror.fault(format!("GET /v2/hello{blob}").leak(), body.clone());
            let service = Setup::with_mirrors(&registry, &[&mirror]).start();
            let name = "/hello/hello-v1.raw";
            let (told, got) = (service.request("HEAD", name, &[]), service.get(name));
            let length = told.header("content-length");
            assert_eq!(length, Some("307200"), "HEAD: {said}, GET: {given}");
            assert!(got.whole && got.body == image, "HEAD: {said}, GET: {given}");
        }
    }
}

#[test]
fn a_size_that_only_mirrors_can_tell_is_that_of_what_they_deliver() {
    let image = noise(300 * KIB);
    let [registry, mirror] = signed_copies(&image);
    registry.fault("/blobs/", Fault::Raw(Vec::new()));
    mirror.fault(
        "HEAD /v2/hello/blobs/",
        Fault::header("Content-Length", "5"),
    );
    let service = Setup::with_mirrors(&registry, &[&mirror]).start();
    let told = service.request("HEAD", "/hello/hello-v1.raw", &[]);
    assert_eq!(told.header("content-length"), Some("307200"));
    assert!(service.whole("/hello/hello-v1.raw") == image);
}

#[test]
fn a_mirror_that_broke_off_after_a_wrong_size_is_not_asked_again() {
    let image = noise(300 * KIB);
    let blob = digest(&image);
    let [registry, mirror] = signed_copies(&image);
    let at_mirror: &str = format!("GET /v2/hello/blobs/{blob}").leak();
    mirror.fault(at_mirror, Fault::Body(noise(400 * KIB)));
    mirror.fault(at_mirror, Fault::CutAfter(200 * KIB));
    let service = Setup::with_mirrors(&registry, &[&mirror]).start();
    assert!(!service.get("/hello/hello-v1.raw").whole);
    assert!(service.whole("/hello/hello-v1.raw") == image);
}

#[test]
fn a_small_file_that_is_wrong_at_mirrors_comes_from_elsewhere_at_once() {
    let image = noise(1000);
    let copies: [_; 3] = std::array::from_fn(|_| one_image(&image));
    let [registry, first, second] = &copies;
    for mirror in [first, second] {
        mirror.fault("/blobs/", Fault::WrongByte);
    }
    let service = Setup::with_mirrors(registry, &[first, second]).start();
    assert!(service.whole("/hello/hello-v1.raw") == image);
    assert_eq!(service.log.with(&["gave wrong bytes"]).len(), 2);
    for mirror in [first, second] {
        assert_eq!(count(&mirror.take_requests(), "/blobs/"), 1);
    }
    assert!(service.whole("/hello/hello-v1.raw") == image);
    assert_eq!(count(&first.take_requests(), "/blobs/"), 0);
}

#[test]
fn a_signed_list_that_is_wrong_at_a_mirror_comes_from_elsewhere_at_once() {
    let [registry, mirror] = signed_copies(b"image");
    mirror.fault("/blobs/", Fault::WrongByte);
    let service = Setup::with_mirrors(&registry, &[&mirror]).start();
    assert_eq!(service.listing(), line(b"image", "hello-v1.raw"));
}

#[test]
fn wrong_bytes_of_a_mirror_are_remembered_in_the_next_run() {
    let image = noise(300 * KIB);
    let (registry, mirror) = (one_image(&image), one_image(&image));
    mirror.fault("/blobs/", Fault::WrongByte);
    let state = Folder::new();
    let start = || {
        let setup = Setup::with_mirrors(&registry, &[&mirror]);
        setup.env("STATE_DIRECTORY", state.path()).start()
    };
    assert!(!start().get("/hello/hello-v1.raw").whole);
    mirror.take_requests();
    assert!(start().whole("/hello/hello-v1.raw") == image);
    assert_eq!(count(&mirror.take_requests(), "/blobs/"), 0);
}

#[test]
fn what_one_repository_has_at_a_mirror_says_nothing_of_another_there() {
    let image = noise(300 * KIB);
    let mut other = Repository::default();
    other.oras_push("v1", "other.raw", &image);
    let (registry, mirror) = (one_image(&image), one_image(&image));
    for place in [&registry, &mirror] {
        place.put("other", other.clone());
    }
    for fault in [Fault::WrongByte, Fault::Status(500), Fault::Status(403)] {
        mirror.fault("/v2/hello/blobs/", fault);
        let service = Setup::with_mirrors(&registry, &[&mirror]).start();
        service.get("/hello/hello-v1.raw");
        mirror.take_requests();
        registry.take_requests();
        assert!(service.whole("/other/other-v1.raw") == image);
        assert_eq!(count(&registry.take_requests(), "/blobs/"), 0);
        assert_eq!(count(&mirror.take_requests(), "/v2/other/blobs/"), 1);
        mirror.behave();
    }
}

#[test]
fn a_mirror_that_failed_a_moment_ago_still_has_tags_where_nobody_else_does() {
    let (hello, listing) = versions(2);
    let registry = Registry::with_hello(hello.clone());
    let mirror = Registry::with_hello(hello.clone());
    for place in [&registry, &mirror] {
        place.put("other", hello.clone());
    }
    mirror.fault("/v2/other/blobs/", Fault::Raw(Vec::new()));
    mirror.fault("/v2/hello/blobs/", Fault::Status(500));
    let service = Setup::with_mirrors(&registry, &[&mirror])
        .settings(ANEW)
        .start();
    for name in ["/other/other-v1.raw", "/hello/hello-v1.raw"] {
        assert_eq!(service.get(name).body, b"image 1", "{name}");
    }
    registry.fault("/v2/", Fault::Raw(Vec::new()));
    later();
    assert_eq!(service.listing(), listing);
}

#[test]
fn two_mirrors_that_disagree_are_not_mixed() {
    let [registry, first, second] = std::array::from_fn(|n| {
        let mut hello = Repository::default();
        for version in 0..20 {
            let image = format!("image {version} at {n}");
            hello.oras_push(&format!("v{version}"), "hello.raw", image.as_bytes());
        }
        Registry::with_hello(hello)
    });
    let listing = |n: usize| {
        let mut lines: Vec<_> = (0..20)
            .map(|version| {
                let name = format!("hello-v{version}.raw");
                (
                    line(format!("image {version} at {n}").as_bytes(), &name),
                    name,
                )
            })
            .collect();
        lines.sort_by(|one, other| one.1.cmp(&other.1));
        lines.into_iter().map(|(line, _)| line).collect::<String>()
    };
    let service = Setup::with_mirrors(&registry, &[&first, &second])
        .settings(ANEW)
        .own_cache()
        .start();
    assert_eq!(service.listing(), listing(0));
    registry.fault("/v2/", Fault::Raw(Vec::new()));
    later();
    assert_eq!(service.listing(), listing(1));
    registry.behave();
    later();
    assert_eq!(
        service.listing(),
        listing(0),
        "the next one asks the registry again"
    );
}

#[test]
fn a_mirror_without_attached_files_is_no_whole_answer_for_a_registry_that_is_down() {
    let image = noise(1000);
    let (registry, mirror) = (one_image(&image), one_image(&image));
    let service = Setup::with_mirrors(&registry, &[&mirror])
        .settings(ANEW)
        .start();
    assert_eq!(service.get("/hello:v1/SHA256SUMS").status, 200);
    registry.fault("/v2/", Fault::Raw(Vec::new()));
    later();
    let listing = service.get("/hello:v1/SHA256SUMS");
    assert_eq!(
        (listing.status, listing.header("x-incomplete")),
        (200, Some("attached artifacts may be missing")),
        "{}",
        listing.text()
    );
    assert!(listing.text().contains("hello.raw"), "{}", listing.text());
    mirror.fault("/referrers/", Fault::Status(500));
    later();
    assert_eq!(service.get("/hello:v1/SHA256SUMS").status, 502);
    mirror.behave();
    // The mirror answers for the registry.
    mirror.change(|hello| {
        let subject = hello.tags["v1"].clone();
        let manifest = hello.manifests[&subject].clone();
        let size = manifest.bytes.len();
        let media_type = manifest.media_type;
        let layer = hello.file(OCI_TAR, "hello.roothash", b"hash");
        let subject_of = json!({"mediaType": media_type, "digest": subject, "size": size});
        let attached = hello.artifact(&[layer], json!({"subject": subject_of}));
        let index = hello.index_of(&[attached], json!({}));
        hello.point(&subject.replace(':', "-"), &index);
    });
    later();
    let listing = service.get("/hello:v1/SHA256SUMS");
    assert!(
        listing.text().contains("hello.roothash"),
        "{}",
        listing.text()
    );
}

#[test]
fn what_a_mirror_says_of_tags_is_not_remembered_of_the_registry() {
    let (hello, listing) = versions(2);
    let registry = Registry::with_hello(hello);
    let mirror = Registry::start();
    mirror.change(|hello| {
        for n in 0..2 {
            hello.oras_push(&format!("v{n}"), "hello.raw", b"of the mirror");
        }
    });
    let of_mirror = lines(&[
        (b"of the mirror", "hello-v0.raw"),
        (b"of the mirror", "hello-v1.raw"),
    ]);
    let immutable = "[repository.hello]\nimmutable-tags = true\n";
    let service = Setup::with_mirrors(&registry, &[&mirror])
        .settings(&format!("{ANEW}{immutable}"))
        .own_cache()
        .start();
    registry.fault("/v2/", Fault::Raw(Vec::new()));
    assert_eq!(service.listing(), of_mirror);
    registry.behave();
    later();
    assert_eq!(service.listing(), listing);
    registry.fault("/v2/", Fault::Raw(Vec::new()));
    later();
    assert_eq!(service.listing(), listing, "that was promised");
}

#[test]
fn a_listing_of_the_registry_does_not_go_on_from_one_of_a_mirror() {
    let registry = Registry::with_hello(versions(4).0);
    let mirror = Registry::start();
    mirror.change(|hello| {
        for n in 0..4 {
            hello.oras_push(&format!("v{n}"), "hello.raw", b"of the mirror");
        }
    });
    let service = Setup::with_mirrors(&registry, &[&mirror])
        .settings(ANEW)
        .own_cache()
        .start();
    let has_no_time_for = |registry: &Registry, tag: &'static str| {
        registry.fault(tag, Fault::Status(429));
        registry.fault(tag, Fault::header("Retry-After", "3600"));
    };
    registry.fault("/v2/", Fault::Raw(Vec::new()));
    has_no_time_for(&mirror, "/manifests/v0");
    let response = service.get("/hello/SHA256SUMS");
    let said = response.header("x-incomplete");
    assert_eq!(said, Some("1 of 4 tags were not answered"));
    registry.behave();
    has_no_time_for(&registry, "/manifests/v3");
    later();
    service.no_listing(503);
}

#[test]
fn a_signed_list_of_a_mirror_says_nothing_of_the_registry() {
    let (hello, listing) = versions(2);
    let registry = Registry::with_hello(hello.clone());
    let mirror = Registry::with_hello(hello);
    let list = line(b"image", "hello-v7.raw");
    mirror.change(|hello| sign(hello, list.as_bytes(), &[("SHA256SUMS.gpg", b"it")], &[]));
    let service = Setup::with_mirrors(&registry, &[&mirror])
        .settings(ANEW)
        .own_cache()
        .start();
    registry.fault("/v2/", Fault::Raw(Vec::new()));
    assert_eq!(service.listing(), list);
    registry.behave();
    later();
    assert_eq!(service.listing(), listing);
}

#[test]
fn a_token_that_was_got_for_one_registry_is_not_shown_to_another() {
    let ([registry, mirror], listing) = copies(1);
    let tokens = TokenServer::start();
    for place in [&registry, &mirror] {
        place.guard(tokens.guard());
    }
    let service = Setup::with_mirrors(&registry, &[&mirror]).start();
    assert_eq!(service.listing(), listing);
    assert_eq!(service.get("/hello/hello-v0.raw").body, b"image 0");
    assert_eq!(tokens.take_asked().len(), 2);
    let shown = |place: &Registry| {
        let heads = place.take_heads();
        let tokens = heads.iter().filter_map(|head| head.header("authorization"));
        tokens.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let (at_registry, at_mirror) = (shown(&registry), shown(&mirror));
    assert_eq!((at_registry.len(), at_mirror.len()), (1, 1));
    assert_ne!(at_registry, at_mirror);
}

#[test]
fn what_was_read_at_a_mirror_goes_when_its_bytes_turn_out_to_be_wrong() {
    let image = |id: &str| {
        let path = "usr/lib/extension-release.d/extension-release.hello";
        let packed = layer(&[(path, format!("ID={id}\nVERSION_ID=1\n").as_bytes())]);
        let mut unpacked = Vec::new();
        GzDecoder::new(&packed[..])
            .read_to_end(&mut unpacked)
            .unwrap();
        unpacked
    };
    let (right, wrong) = (image("right"), image("wrong"));
    let (registry, mirror) = (one_image(&right), one_image(&right));
    mirror.fault("/blobs/", Fault::Body(wrong));
    let service = Setup::with_mirrors(&registry, &[&mirror])
        .own_cache()
        .start();
    let id = || {
        let mut text = String::new();
        let said = service.get("/hello/hello-v1.manifest.gz").body;
        GzDecoder::new(&said[..]).read_to_string(&mut text).unwrap();
        text.contains("right")
    };
    assert!(!id(), "nothing checks it");
    assert!(service.whole("/hello/hello-v1.raw") == right);
    assert!(id());
}

#[test]
fn what_a_mirror_lacks_is_no_answer_for_a_registry_that_is_down() {
    let (hello, listing) = versions(4);
    let registry = Registry::with_hello(hello.clone());
    registry.fault("/v2/", Fault::Raw(Vec::new()));
    for (lacking, status) in [("v0", 200), ("v3", 503)] {
        let mirror = Registry::with_hello(hello.clone());
        mirror.fault(format!("/manifests/{lacking}").leak(), Fault::Status(404));
        let service = Setup::with_mirrors(&registry, &[&mirror]).start();
        let answer = service.get("/hello/SHA256SUMS");
        assert_eq!(answer.status, status, "{lacking}");
        if status == 200 {
            let said = answer.header("x-incomplete");
            assert_eq!(said, Some("1 of 4 tags were not answered"), "{lacking}");
            let expected: String = listing.split_inclusive('\n').skip(1).collect();
            assert_eq!(answer.text(), expected);
        }
    }
}
