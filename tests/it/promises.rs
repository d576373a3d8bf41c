//! The files of an earlier listing stay available, though newer listings lack them, and after a restart.

use std::fs;

use crate::content::{Repository, line, sign, versions};
use crate::registry::{Registry, TAGS, count};
use crate::service::{ANEW, Folder, Service, Setup, later};

/// A listing is made, after what was done to the repository.
fn list_after(registry: &Registry, service: &Service, change: impl FnOnce(&mut Repository)) {
    registry.change(change);
    later();
    service.listing();
}

#[test]
fn a_file_that_newer_listings_lack_is_still_delivered() {
    let registry = Registry::with_hello(versions(3).0);
    let service = Service::start(registry.settings() + ANEW);
    service.listing();
    list_after(&registry, &service, |hello| {
        hello.tags.remove("v0");
    });
    list_after(&registry, &service, |hello| {
        hello.tags.remove("v1");
    });
    registry.take_requests();
    for n in [0, 1, 2] {
        let body = service.whole(&format!("/hello/hello-v{n}.raw"));
        assert_eq!(body, format!("image {n}").as_bytes());
    }
    assert_eq!(
        service.whole("/hello/hello-v0.raw.sha256"),
        line(b"image 0", "hello-v0.raw").as_bytes()
    );
    let requests = registry.take_requests();
    assert_eq!(count(&requests, TAGS), 0, "{requests:?}");
    assert_eq!(service.get("/hello/hello-v3.raw").status, 404);
}

#[test]
fn companions_in_an_older_listing_do_not_hide_a_file_that_is_new() {
    let registry = Registry::with_hello(versions(1).0);
    registry.change(|hello| hello.oras_push("v1", "hello.roothash", b"root hash"));
    let service = Service::start(registry.settings() + ANEW);
    assert!(service.listing().contains("hello-v1.roothash"));
    list_after(&registry, &service, |hello| {
        hello.tags.remove("v1");
    });
    registry.change(|hello| hello.oras_push("v1", "hello.raw", b"image 1"));
    let sums = service.get("/hello/hello-v1.raw.sha256");
    assert_eq!(
        (sums.status, sums.text()),
        (200, &*line(b"image 1", "hello-v1.raw"))
    );
}

#[test]
fn under_a_name_of_several_older_listings_the_newer_one_counts() {
    let registry = Registry::with_hello(versions(2).0);
    let service = Service::start(registry.settings() + ANEW);
    service.listing();
    list_after(&registry, &service, |hello| {
        hello.oras_push("v0", "hello.raw", b"newer");
    });
    list_after(&registry, &service, |hello| {
        hello.tags.remove("v0");
    });
    assert_eq!(service.whole("/hello/hello-v0.raw"), b"newer");
    // Pushed once more, but not listed yet.
    registry.change(|hello| hello.oras_push("v0", "hello.raw", b"newest"));
    later();
    assert_eq!(service.whole("/hello/hello-v0.raw"), b"newer");
    service.listing();
    assert_eq!(service.whole("/hello/hello-v0.raw"), b"newest");
}

#[test]
fn a_listing_binds_the_next_process_by_the_same_settings() {
    let registry = Registry::with_hello(versions(3).0);
    let cache = Folder::new();
    let start = |more: &str| {
        let settings = registry.settings() + ANEW + more;
        Setup::new(settings).cache(&cache).start()
    };
    start("").listing();
    registry.change(|hello| {
        hello.tags.remove("v0");
        hello.oras_push("v1", "hello.raw", b"newer");
    });
    // Whoever had the list comes back when the service has left and is started again.
    registry.take_requests();
    let service = start("");
    assert_eq!(service.whole("/hello/hello-v1.raw"), b"image 1");
    assert_eq!(count(&registry.take_requests(), TAGS), 0);
    let lines = [
        line(b"newer", "hello-v1.raw"),
        line(b"image 2", "hello-v2.raw"),
    ];
    assert_eq!(service.listing(), lines.concat());
    for service in [service, start("")] {
        assert_eq!(service.whole("/hello/hello-v0.raw"), b"image 0");
        assert_eq!(service.whole("/hello/hello-v1.raw"), b"newer");
    }
    let other = start("parallel = 3\n");
    assert_eq!(other.get("/hello/hello-v0.raw").status, 404);
}

#[test]
fn a_listing_binds_the_next_process_though_the_cache_was_emptied_before() {
    let registry = Registry::with_hello(versions(2).0);
    let cache = Folder::new();
    let start = || {
        let setup = Setup::new(registry.settings() + ANEW);
        setup.cache(&cache).start()
    };
    let service = start();
    service.listing();
    for entry in fs::read_dir(cache.path()).unwrap().flatten() {
        let path = entry.path();
        let removed = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
        removed.unwrap();
    }
    list_after(&registry, &service, |hello| {
        hello.oras_push("v2", "hello.raw", b"image 2");
    });
    drop(service);
    registry.change(|hello| drop(hello.tags.remove("v2")));
    let service = start();
    assert_eq!(service.whole("/hello/hello-v2.raw"), b"image 2");
}

#[test]
fn a_promise_is_no_reason_to_believe_that_the_repository_still_has_the_bytes() {
    let registry = Registry::with_hello(versions(1).0);
    let cache = Folder::new();
    let start = || Setup::new(registry.settings() + ANEW).cache(&cache).start();
    start().listing();
    registry.put("hello", Repository::default());
    assert_eq!(start().get("/hello/hello-v0.raw").status, 404);
}

/// A list with these names, all of one image.
fn publish(registry: &Registry, names: impl Iterator<Item = String>) {
    let list: String = names.map(|name| line(b"image", &name)).collect();
    registry.change(|hello| {
        let signature = [("SHA256SUMS.gpg", list.as_bytes())];
        sign(hello, list.as_bytes(), &signature, &[b"image"]);
    });
}

#[test]
fn names_that_a_publisher_took_off_the_signed_list_are_still_delivered() {
    for number in [3, 2000] {
        let registry = Registry::start();
        let cache = Folder::new();
        let start = || Setup::new(registry.settings() + ANEW).cache(&cache).start();
        let names = |prefix: &'static str| (0..number).map(move |n| format!("{prefix}-{n}.raw"));
        publish(&registry, names("first"));
        let service = start();
        let first = service.listing();
        service.whole("/hello/SHA256SUMS.gpg");
        publish(&registry, names("second"));
        later();
        assert_ne!(service.listing(), first);
        service.whole("/hello/SHA256SUMS.gpg");
        publish(&registry, names("third"));
        for service in [service, start()] {
            for name in ["first-2.raw", "second-2.raw"] {
                let response = service.get(&format!("/hello/{name}"));
                assert_eq!(
                    (response.status, response.text()),
                    (200, "image"),
                    "{name} of {number}"
                );
            }
            assert_eq!(service.get("/hello/fourth-2.raw").status, 404);
        }
    }
}
