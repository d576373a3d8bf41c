//! Manifests, as registries name, wrap and lose them.

use serde_json::json;

use crate::content::{
    OCI_INDEX, OCI_MANIFEST, OCI_TAR, Repository, digest, empty_listing, line, versions,
};
use crate::registry::{Fault, IS_IT_SIGNED, Registry, TAGS, count};
use crate::service::{ANEW, Folder, Service, Setup, later};

/// A registry that offers `hello-v0.raw` beside the tag `v1`, which a test spoils.
fn with_two() -> (Registry, Service) {
    let registry = Registry::with_hello(versions(2).0);
    let service = Setup::new(registry.settings() + ANEW).own_cache().start();
    (registry, service)
}

/// The expected listing when `v1` is damaged.
fn without_v1() -> String {
    versions(1).1
}

/// The one warning of a tag that was left out.
fn left_out(service: &Service) -> String {
    let lines = service.log.with(&["skipped"]);
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines[0].strip_prefix("warning: ").unwrap().to_owned()
}

#[test]
fn rows_m1_and_m10_every_request_names_all_four_types_and_wants_the_bytes_as_they_are() {
    let (registry, service) = with_two();
    service.listing();
    later();
    service.listing();
    service.get("/hello/hello-v0.raw");
    let heads = registry.take_heads();
    let of_manifests: Vec<_> = heads
        .iter()
        .filter(|head| head.target.contains("/manifests/"))
        .collect();
    let methods = |method: &str| {
        let has = |head: &&&_| -> bool {
            let head: &crate::request::Request = head;
            head.method == method
        };
        of_manifests.iter().filter(has).count()
    };
    assert_eq!((methods("GET"), methods("HEAD")), (1 + 2, 2));
    let all = "application/vnd.oci.image.index.v1+json, \
               application/vnd.oci.image.manifest.v1+json, \
               application/vnd.docker.distribution.manifest.list.v2+json, \
               application/vnd.docker.distribution.manifest.v2+json";
    let sorted = |types: &str| {
        let mut types: Vec<_> = types.split(", ").map(str::to_owned).collect();
        types.sort();
        types
    };
    for head in of_manifests {
        assert_eq!(sorted(head.header("accept").unwrap()), sorted(all));
    }
    for head in heads {
        assert_eq!(head.header("accept-encoding"), Some("identity"), "{head:?}");
    }
}

#[test]
fn row_m2_schema_1_is_refused_by_name() {
    let (registry, service) = with_two();
    let schema1 = json!({"schemaVersion": 1, "name": "hello", "tag": "v1", "fsLayers": []});
    let schema1 = schema1.to_string().into_bytes();
    let media_type = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    for fault in [
        Fault::header("Content-Type", media_type),
        Fault::header("Docker-Content-Digest", digest(&schema1)),
        Fault::Body(schema1),
    ] {
        registry.fault("/manifests/v1", fault);
    }
    assert_eq!(service.listing(), without_v1());
    assert_eq!(
        left_out(&service),
        "hello: tag v1 skipped: manifest of tag v1 cannot be understood: it is schema 1, \
         which no client should still use; push it again with a current tool"
    );
}

/// docker-registry 2.8 gives a child in the place of its index to who does not know indexes.
#[test]
fn rows_m3_and_m7_what_is_not_what_its_digest_says_is_left_out() {
    let (registry, service) = with_two();
    let mut other = Repository::default();
    other.oras_push("v", "hello.raw", b"another image");
    let child = other.manifests.values().next().unwrap().bytes.to_vec();
    assert_eq!(service.listing(), versions(2).1);
    // From now on the tag is something else, and what that digest names something else again.
    let named = versions(3).0.tags["v2"].clone();
    registry.fault(
        "HEAD /v2/hello/manifests/v1",
        Fault::header("Docker-Content-Digest", named.clone()),
    );
    registry.change(|hello| {
        let substitute = crate::content::Manifest {
            media_type: OCI_MANIFEST.to_owned(),
            bytes: child.clone().into(),
        };
        hello.manifests.insert(named.clone(), substitute);
    });
    later();
    assert_eq!(service.listing(), without_v1());
    assert_eq!(
        left_out(&service),
        format!(
            "hello: tag v1 skipped: manifest {named} at {} has the wrong bytes: \
             expected {named}, found {}",
            registry.address,
            digest(&child)
        )
    );
}

#[test]
fn what_is_wrong_with_a_manifest_is_told_in_a_line_that_can_be_read() {
    let mut hello = versions(1).0;
    let version = "x".repeat(1 << 20);
    let manifest = json!({"mediaType": OCI_MANIFEST, "schemaVersion": version});
    hello.tag("v1", manifest.to_string().as_bytes());
    let registry = Registry::with_hello(hello);
    let service = Service::of(&registry);
    let response = service.get("/hello:v1/SHA256SUMS");
    assert_eq!(response.status, 502, "{:?}", response.header("x-reason"));
    let line = service.log.one_trouble();
    assert!(line.contains("xxx"), "{line}");
    assert!(line.len() < 1500, "{} characters", line.len());
}

#[test]
fn row_m4_a_manifest_that_is_two_things_at_once_is_left_out() {
    let both = json!({"schemaVersion": 2, "manifests": [], "layers": []}).to_string();
    for (fault, reason) in [
        (
            Fault::Body(both.into_bytes()),
            "it has both 'manifests' and 'layers'",
        ),
        (
            Fault::header("Content-Type", OCI_INDEX),
            "its type, its mediaType and its content disagree whether it is an index",
        ),
    ] {
        let (registry, service) = with_two();
        registry.fault("/manifests/v1", fault);
        assert_eq!(service.listing(), without_v1());
        assert_eq!(
            left_out(&service),
            format!("hello: tag v1 skipped: manifest of tag v1 cannot be understood: {reason}")
        );
    }
}

#[test]
fn row_m5_a_media_type_is_optional() {
    let mut hello = Repository::default();
    let layer = hello.file(OCI_TAR, "hello.raw", b"image");
    let config = hello.blob("application/vnd.oci.empty.v1+json", b"{}");
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
    hello.tag("v1", manifest.to_string().as_bytes());
    let registry = Registry::with_hello(hello);
    for kept in [true, false] {
        if !kept {
            registry.fault("/manifests/", Fault::Header("Content-Type", None));
        }
        let service = Service::of(&registry);
        assert_eq!(service.listing(), line(b"image", "hello-v1.raw"), "{kept}");
    }
}

#[test]
fn rows_m4_m6_m7_and_m8_a_manifest_is_read_whatever_its_headers_say() {
    let without = |name| Fault::Header(name, None);
    let with_digest = |digest: &str| Fault::header("Docker-Content-Digest", digest);
    let with_type = |media_type: &str| Fault::header("Content-Type", media_type);
    for (why, pattern, fault) in [
        ("no HEAD", "HEAD ", Fault::Status(405)),
        ("no digest", "/manifests/", without("Docker-Content-Digest")),
        (
            "a digest of another kind",
            "/manifests/v",
            with_digest(&format!("sha512:{}", "0f".repeat(64))),
        ),
        (
            "a wrong digest with the body",
            "GET /v2/hello/manifests/",
            with_digest(&digest(b"something else")),
        ),
        ("no type", "/manifests/", without("Content-Type")),
        (
            "a type with parameters",
            "/manifests/",
            with_type(&format!("{OCI_MANIFEST}; charset=utf-8")),
        ),
        (
            "a type of no meaning",
            "/manifests/",
            with_type("text/plain"),
        ),
        ("another type", "/", with_type("application/octet-stream")),
    ] {
        let (registry, listing) = Registry::with_versions(2);
        registry.fault(pattern, fault);
        // Without a cache, then with one that is cold, then with one that is warm.
        let cache = Folder::new();
        let setup = || Setup::of(&registry);
        for setup in [setup(), setup().cache(&cache), setup().cache(&cache)] {
            let service = setup.start();
            assert_eq!(service.listing(), listing, "{why}");
            assert_eq!(service.get("/hello/hello-v1.raw").body, b"image 1", "{why}");
        }
    }
}

#[test]
fn row_m7_a_wrong_digest_in_a_head_never_makes_a_wrong_line() {
    let (hello, listing) = versions(3);
    let of_another = hello.tags["v0"].clone();
    let registry = Registry::with_hello(hello);
    let cache = Folder::new();
    let start = || Setup::of(&registry).cache(&cache).start();
    assert_eq!(start().listing(), listing);
    let without = listing.replace(&line(b"image 1", "hello-v1.raw"), "");
    let is_said_to_be = |digest: String| {
        let lie = Fault::header("Docker-Content-Digest", digest);
        registry.fault("HEAD /v2/hello/manifests/v1", lie);
    };
    is_said_to_be(digest(b"nothing that is there"));
    let found = start().listing();
    assert!([&listing, &without].contains(&&found), "{found}");
    // Who lies consistently is believed: the digest is all that tells a tag's manifest.
    registry.behave();
    is_said_to_be(of_another);
    assert_eq!(
        start().listing(),
        listing.replace(
            &line(b"image 1", "hello-v1.raw"),
            &line(b"image 0", "hello-v1.raw")
        )
    );
}

#[test]
fn row_m8_a_head_that_is_refused_or_has_no_length_costs_a_get() {
    for (fault, gets) in [
        (Fault::Status(405), 2),
        (Fault::Status(403), 2),
        (Fault::Status(400), 2),
        // Some proxies have only what was fetched by GET lately.
        (Fault::Status(404), 2),
        (Fault::NoLength, 0),
    ] {
        let (registry, service) = with_two();
        assert_eq!(service.listing(), versions(2).1);
        registry.take_requests();
        registry.fault("HEAD ", fault.clone());
        later();
        assert_eq!(service.listing(), versions(2).1, "{fault:?}");
        let requests = registry.take_requests();
        assert_eq!(
            count(&requests, "GET /v2/hello/manifests/v"),
            gets,
            "{fault:?}"
        );
        assert_eq!(count(&requests, "HEAD "), 2, "{fault:?}");
    }
}

#[test]
fn row_m9_what_is_known_is_asked_for_by_head_and_what_is_new_by_its_digest() {
    let (registry, service) = with_two();
    service.listing();
    assert_eq!(
        registry.take_requests(),
        [
            IS_IT_SIGNED,
            "GET /v2/hello/manifests/v0",
            "GET /v2/hello/manifests/v1",
            TAGS,
        ],
        "one for each that is new"
    );
    registry.change(|hello| hello.oras_push("v1", "hello.raw", b"moved"));
    let mut now = versions(2).0;
    now.oras_push("v1", "hello.raw", b"moved");
    later();
    service.listing();
    assert_eq!(
        registry.take_requests(),
        [
            format!("GET /v2/hello/manifests/{}", now.tags["v1"]),
            TAGS.to_owned(),
            "HEAD /v2/hello/manifests/v0".to_owned(),
            "HEAD /v2/hello/manifests/v1".to_owned(),
        ]
    );
}

#[test]
fn row_m10_what_was_compressed_on_the_way_is_refused_and_not_hashed() {
    let (registry, service) = with_two();
    for encoding in ["gzip", "zstd"] {
        registry.behave();
        registry.fault(
            "GET /v2/hello/manifests/v1",
            Fault::header("Content-Encoding", encoding),
        );
        let fresh = Service::of(&registry);
        assert_eq!(fresh.listing(), without_v1(), "{encoding}");
        assert_eq!(
            left_out(&fresh),
            format!(
                "hello: tag v1 skipped: unexpected answer from \
                 http://{}/v2/hello/manifests/v1: Content-Encoding {encoding}, \
                 expected identity",
                registry.address
            )
        );
    }
    registry.behave();
    registry.fault("GET ", Fault::header("Content-Encoding", "identity"));
    assert_eq!(service.listing(), versions(2).1);
}

#[test]
fn row_m10_a_listing_that_was_compressed_is_a_bad_gateway_and_a_blob_counts_by_its_bytes() {
    let (registry, service) = with_two();
    service.listing();
    let gzip = || Fault::header("Content-Encoding", "gzip");
    registry.fault("/blobs/", gzip());
    assert_eq!(service.get("/hello/hello-v0.raw").body, b"image 0");
    registry.fault("/tags/list", gzip());
    later();
    service.no_listing(502);
}

#[test]
fn row_m12_a_manifest_may_have_megabytes_but_not_any_number() {
    for (megabytes, is_listed) in [(4, true), (9, false)] {
        let (mut hello, listing) = versions(1);
        let mut layer = hello.file(OCI_TAR, "hello.raw", b"big");
        layer["annotations"]["padding"] = json!("x".repeat(megabytes << 20));
        let artifact = hello.artifact(&[layer], json!({}));
        hello.point("v1", &artifact);
        let registry = Registry::with_hello(hello);
        let service = Service::of(&registry);
        let expected = if is_listed {
            listing + &line(b"big", "hello-v1.raw")
        } else {
            listing
        };
        assert_eq!(service.listing(), expected, "{megabytes} MiB");
    }
}

#[test]
fn row_m13_what_a_registry_says_of_an_error_stays_one_line_and_its_status_decides() {
    let html = b"<html><head><title>404</title></head></html>".to_vec();
    for (status, body, expected, reason) in [
        (
            404,
            b"{\"errors\":[{\"code\":\"BLOB_UNKNOWN\"}]}".to_vec(),
            404,
            "",
        ),
        (404, html.clone(), 404, ""),
        (403, html, 403, "(status 403)"),
        (
            403,
            b"{\"details\":\"no\"}".to_vec(),
            403,
            "(status 403, no)",
        ),
        (
            403,
            b"{\"errors\":[{\"co".to_vec(),
            403,
            "(status 403, {\"errors\":[{\"co)",
        ),
        (
            403,
            b"a\r\nerror: forged\x1b[2J".to_vec(),
            403,
            "(status 403, a  error: forged [2J)",
        ),
        (403, Vec::new(), 403, "(status 403)"),
    ] {
        let registry = Registry::with_hello(versions(1).0);
        registry.fault("/tags/list", Fault::Status(status));
        registry.fault("/tags/list", Fault::Body(body));
        let service = Setup::of(&registry).own_cache().start();
        assert_eq!(service.get("/hello/SHA256SUMS").status, expected);
        let lines = service.log.with(&["GET /hello/SHA256SUMS"]);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains(reason), "{lines:?}");
        assert_eq!(service.log.lines().len(), 2, "what it says forged a line");
    }
}

#[test]
fn a_repository_of_nothing_usable_is_an_empty_listing() {
    let (registry, service) = with_two();
    registry.fault("/manifests/", Fault::Body(b"{}".to_vec()));
    assert_eq!(service.listing(), empty_listing());
}
