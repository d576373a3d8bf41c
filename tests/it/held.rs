//! A repository serves only what it has shown to hold, whatever the cache has from another one or from before.

use serde_json::{Value, json};

use crate::content::{
    OCI_MANIFEST, OCI_TAR, Repository, digest, empty_listing, line, sign, versions,
};
use crate::images::{layer, push};
use crate::registry::{Fault, Registry, count, ranges};
use crate::service::{ANEW, Folder, Service, Setup, X86, later};

const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// The digest of the manifest that a tag of a repository leads to.
fn manifest_of(repository: &Repository, tag: &str) -> String {
    repository.tags[tag].clone()
}

/// An entry of an index that names a manifest by its digest.
fn entry(digest: &str, architecture: &str) -> Value {
    json!({
        "mediaType": OCI_MANIFEST,
        "digest": digest,
        "size": 500,
        "platform": {"os": "linux", "architecture": architecture},
    })
}

/// `private` with one version, and a service that has listed it.
struct Private {
    registry: Registry,
    /// Of its manifest.
    digest: String,
    cache: Folder,
}

impl Private {
    fn new() -> Self {
        let registry = Registry::start();
        let mut private = Repository::default();
        private.oras_push("v1", "hello.raw", b"a secret");
        let digest = manifest_of(&private, "v1");
        registry.put("private", private);
        let cache = Folder::new();
        let this = Self {
            registry,
            digest,
            cache,
        };
        let listing = this.start().get("/private/SHA256SUMS");
        assert_eq!(listing.text(), line(b"a secret", "private-v1.raw"));
        this
    }

    fn start(&self) -> Service {
        Setup::new(self.registry.settings() + ANEW + X86)
            .cache(&self.cache)
            .start()
    }
}

#[test]
fn a_manifest_of_another_repository_is_not_served_by_its_digest() {
    let private = Private::new();
    private.registry.put("hello", versions(1).0);
    let service = private.start();
    let view = format!("/hello@{}", private.digest);
    for name in [
        "SHA256SUMS",
        &format!("hello-{}.raw", &private.digest[7..19]),
    ] {
        let answer = service.get(&format!("{view}/{name}"));
        assert_eq!((answer.status, answer.body), (404, Vec::new()), "{name}");
    }
    // It is there where it belongs.
    let own = service.get(&format!("/private@{}/SHA256SUMS", private.digest));
    assert_eq!(own.status, 200);
}

#[test]
fn an_index_does_not_borrow_a_manifest_from_another_repository() {
    let private = Private::new();
    let mut hello = Repository::default();
    let index = hello.index_of(&[entry(&private.digest, "amd64")], json!({}));
    hello.point("v1", &index);
    hello.oras_push("v2", "hello.raw", b"own");
    private.registry.put("hello", hello);
    let listing = private.start().get("/hello/SHA256SUMS");
    assert_eq!(listing.text(), line(b"own", "hello-v2.raw"));
}

#[test]
fn a_tag_does_not_borrow_a_manifest_by_the_digest_that_its_registry_says() {
    let private = Private::new();
    private.registry.put("hello", versions(1).0);
    let service = private.start();
    assert_eq!(service.listing(), versions(1).1);
    let name = "docker-content-digest";
    let said = Fault::header(name, private.digest.as_str());
    private.registry.fault("HEAD /v2/hello/manifests/v0", said);
    later();
    assert_eq!(service.listing(), versions(1).1);
}

#[test]
fn a_config_of_another_repository_is_not_read() {
    let config = |architecture| json!({"architecture": architecture, "os": "linux"}).to_string();
    let image = |repository: &mut Repository, tag: &str, architecture| {
        let layer = repository.file(OCI_TAR, "hello.raw", b"image");
        let config = repository.blob(OCI_CONFIG, config(architecture).as_bytes());
        let artifact = repository.artifact(&[layer], json!({"config": config}));
        repository.point(tag, &artifact);
    };
    let registry = Registry::start();
    let mut hello = Repository::default();
    image(&mut hello, "v1", "riscv64");
    registry.put("private", hello.clone());
    hello.blobs.remove(&digest(config("riscv64").as_bytes()));
    image(&mut hello, "v2", "amd64");
    registry.put("hello", hello);
    let mut settings = registry.settings();
    for name in ["private", "hello"] {
        settings += &format!("[repository.{name}]\nnames = \"{{name}}-{{version}}-{{arch}}\"\n");
    }
    let service = Setup::new(settings).own_cache().start();
    let private = service.get("/private/SHA256SUMS");
    assert_eq!(private.text(), line(b"image", "private-v1-riscv64.raw"));
    assert_eq!(service.listing(), line(b"image", "hello-v2-x86-64.raw"));
}

#[test]
fn what_a_repository_has_no_more_is_not_served_from_the_cache() {
    for (status, expected) in [(404, 404), (403, 403), (500, 502), (401, 403)] {
        let private = Private::new();
        let target = format!("/private@{}/SHA256SUMS", private.digest);
        let service = private.start();
        assert_eq!(service.get(&target).status, 200);
        let pattern = "/v2/private/manifests/sha256:";
        private.registry.fault(pattern, Fault::Status(status));
        later();
        assert_eq!(service.get(&target).status, expected, "{status}");
        assert_eq!(private.start().get(&target).status, expected, "{status}");
    }
}

#[test]
fn a_pinned_view_costs_one_head_and_where_that_is_not_known_one_get() {
    let private = Private::new();
    let target = format!("/private@{}/SHA256SUMS", private.digest);
    let service = private.start();
    private.registry.take_requests();
    assert_eq!(service.get(&target).status, 200);
    let requests = private.registry.take_requests();
    let asked = format!("/v2/private/manifests/{}", private.digest);
    assert_eq!(
        count(&requests, &format!("HEAD {asked}")),
        1,
        "{requests:?}"
    );
    assert_eq!(count(&requests, &format!("GET {asked}")), 0, "{requests:?}");
    private
        .registry
        .fault("HEAD /v2/private/", Fault::Status(405));
    later();
    assert_eq!(service.get(&target).status, 200);
    let requests = private.registry.take_requests();
    assert_eq!(count(&requests, &format!("GET {asked}")), 1, "{requests:?}");
}

#[test]
fn a_name_in_a_signed_list_is_no_blob_of_another_repository() {
    let private = Private::new();
    let mut hello = Repository::default();
    let list = line(b"a secret", "hello-v1.raw");
    sign(&mut hello, list.as_bytes(), &[], &[]);
    private.registry.put("hello", hello);
    let service = private.start();
    assert_eq!(service.listing(), list);
    assert_eq!(service.get("/private/private-v1.raw").body, b"a secret");
    assert_eq!(service.get("/hello/hello-v1.raw").status, 404);
}

/// The layers of an image that has to be flattened.
fn two_layers() -> [Vec<u8>; 2] {
    [layer(&[("one", b"1")]), layer(&[("two", b"2")])]
}

#[test]
fn a_file_is_not_made_of_layers_that_only_another_repository_has() {
    let registry = Registry::start();
    let ([lower, upper], cache) = (two_layers(), Folder::new());
    let mut hello = Repository::default();
    push(&mut hello, "v1", &[&lower, &upper]);
    registry.put("private", hello.clone());
    hello.blobs.remove(&digest(&lower));
    registry.put("hello", hello);
    let service = Setup::of(&registry).cache(&cache).start();
    let private = service.get("/private/SHA256SUMS");
    assert!(private.text().ends_with("  private-v1.tar.gz\n"));
    assert_eq!(service.get("/private/private-v1.tar.gz").status, 200);
    assert_eq!(service.listing(), empty_listing());
    assert_eq!(service.get("/hello/hello-v1.tar.gz").status, 404);
}

#[test]
fn a_file_that_was_made_is_served_while_its_layers_are_held() {
    let registry = Registry::start();
    let ([lower, upper], cache) = (two_layers(), Folder::new());
    let mut hello = Repository::default();
    push(&mut hello, "v1", &[&lower, &upper]);
    registry.put("hello", hello);
    let start = || Setup::new(registry.settings() + ANEW).cache(&cache).start();
    let name = "/hello/hello-v1.tar.gz";
    let made = {
        let service = start();
        service.listing();
        service.whole(name)
    };
    registry.take_requests();
    let service = start();
    service.listing();
    for _ in 0..3 {
        assert!(service.whole(name) == made);
    }
    let requests = registry.take_requests();
    let blobs = |method: &str| count(&requests, &format!("{method} /v2/hello/blobs/"));
    assert_eq!((blobs("HEAD"), blobs("GET")), (2, 0), "{requests:?}");

    // A registry that does not know HEAD there sends one byte.
    registry.fault("HEAD /v2/hello/blobs/", Fault::Status(405));
    later();
    service.listing();
    assert!(service.whole(name) == made);
    let asked = ranges(&registry);
    assert_eq!(
        asked.iter().filter(|range| *range == "0-0").count(),
        2,
        "{asked:?}"
    );

    registry.behave();
    registry.change(|hello| drop(hello.blobs.remove(&digest(&upper))));
    later();
    service.listing();
    assert_eq!(service.get(name).status, 404);
    registry.fault("/v2/hello/blobs/", Fault::Status(403));
    later();
    service.listing();
    assert_eq!(service.get(name).status, 403);
}

#[test]
fn an_older_listing_says_of_an_image_only_what_the_repository_still_holds() {
    let registry = Registry::start();
    let cache = Folder::new();
    let mut hello = Repository::default();
    let image = hello.file(OCI_TAR, "hello.raw", b"image");
    let annotations = json!({"annotations": {"ID": "_any", "VERSION_ID": "1"}});
    let artifact = hello.artifact(&[image], annotations);
    hello.point("v1", &artifact);
    hello.oras_push("v2", "hello.raw", b"newer");
    registry.put("hello", hello);
    let start = || Setup::new(registry.settings() + ANEW).cache(&cache).start();
    start().listing();
    registry.change(|hello| drop(hello.tags.remove("v1")));
    let service = start();
    assert_eq!(service.listing(), line(b"newer", "hello-v2.raw"));
    let side_file = "/hello/hello-v1.manifest.gz";
    assert_eq!(service.get(side_file).status, 200);
    let manifest = artifact["digest"].as_str().unwrap();
    registry.change(|hello| drop(hello.manifests.remove(manifest)));
    assert_eq!(service.get(side_file).status, 404);
    // The image itself comes from there.
    assert_eq!(service.get("/hello/hello-v1.raw").body, b"image");
}
