//! Layers of flattened images are kept: an image that shares some with an earlier one costs only the others.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::content::{Repository, digest, noise, sha256};
use crate::disk::Disk;
use crate::flatten::{cached, settings};
use crate::images::{layer, names, push, sums};
use crate::registry::{Fault, Registry, count};
use crate::service::{ANEW, Folder, Service, Setup, later};

/// The layers of an image: five, of which the upper one is another in each version.
fn layers(version: usize) -> Vec<Vec<u8>> {
    let lower = (0..4).map(|n| layer(&[(&format!("lower-{n}"), &noise(100_000 + n))]));
    let text = format!("version {version}");
    lower
        .chain([layer(&[("version", text.as_bytes())])])
        .collect()
}

fn push_version(hello: &mut Repository, version: usize) {
    let layers = layers(version);
    let layers: Vec<_> = layers.iter().map(Vec::as_slice).collect();
    push(hello, &format!("v{version}"), &layers);
}

fn with_version(version: usize) -> Registry {
    let mut hello = Repository::default();
    push_version(&mut hello, version);
    Registry::with_hello(hello)
}

fn start(registry: &Registry, cache: &Folder) -> Service {
    let settings = settings(registry, ANEW) + "flatten = 9\n";
    Setup::new(settings).cache(cache).start()
}

/// The number of `HEAD` and of `GET` requests for blobs of a repository since the last call.
fn blobs_of(registry: &Registry, repository: &str) -> (usize, usize) {
    let requests = registry.take_requests();
    let of = |method| count(&requests, &format!("{method} /v2/{repository}/blobs/"));
    (of("HEAD"), of("GET"))
}

fn blobs(registry: &Registry) -> (usize, usize) {
    blobs_of(registry, "hello")
}

/// Each file has the digest that is its name.
fn check_kept(cache: &Path) {
    for entry in fs::read_dir(cache.join("layers")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(sha256(&fs::read(&path).unwrap()), name);
    }
}

#[test]
fn of_an_image_whose_top_layer_of_five_changed_only_that_layer_is_fetched() {
    let (registry, cache) = (with_version(1), Folder::new());
    let service = start(&registry, &cache);
    assert_eq!(names(&service.listing()), ["hello-v1.tar.gz"]);
    assert_eq!(blobs(&registry), (0, 5));
    registry.change(|hello| push_version(hello, 2));
    later();
    assert_eq!(names(&service.listing()).len(), 2);
    assert_eq!(
        blobs(&registry),
        (4, 1),
        "the others prove that they are there"
    );
    drop(service);
    // The same in the next process.
    registry.change(|hello| push_version(hello, 3));
    let service = start(&registry, &cache);
    let listing = service.listing();
    assert_eq!(names(&listing).len(), 3);
    assert_eq!(blobs(&registry), (4, 1));
    // The bytes are those of a machine that has fetched all.
    let elsewhere = start(&registry, &Folder::new()).listing();
    assert_eq!(sums(&listing), sums(&elsewhere));
    for (name, sum) in sums(&listing) {
        assert_eq!(sha256(&service.whole(&format!("/hello/{name}"))), sum);
    }
    check_kept(cache.path());
    assert_eq!(cached(&cache, "tmp"), [""; 0]);
}

#[test]
fn an_image_whose_file_was_removed_is_flattened_again_without_the_network() {
    let (registry, cache) = (with_version(1), Folder::new());
    let listing = start(&registry, &cache).listing();
    fs::remove_dir_all(cache.path().join("made")).unwrap();
    let service = start(&registry, &cache);
    assert_eq!(service.listing(), listing);
    registry.take_requests();
    let (name, sum) = sums(&listing).pop_first().unwrap();
    assert_eq!(sha256(&service.whole(&format!("/hello/{name}"))), sum);
    assert_eq!(blobs(&registry), (5, 0));
}

#[test]
fn a_kept_layer_that_is_damaged_is_fetched_again() {
    let (registry, cache) = (with_version(1), Folder::new());
    start(&registry, &cache).listing();
    let lower = layers(0).remove(0);
    let path = cache.path().join("layers").join(sha256(&lower));
    let mut other = lower.clone();
    other[5000] ^= 1;
    let cut = &lower[..lower.len() - 1];
    let long = [lower.as_slice(), b"x"].concat();
    for (version, damage) in [&b""[..], cut, &long, &other].into_iter().enumerate() {
        fs::write(&path, damage).unwrap();
        registry.change(|hello| push_version(hello, version + 2));
        registry.take_requests();
        let expected = start(&registry, &Folder::new()).listing();
        registry.take_requests();
        let service = start(&registry, &cache);
        assert_eq!(sums(&service.listing()), sums(&expected), "{version}");
        let (_, fetched) = blobs(&registry);
        assert_eq!(
            fetched, 2,
            "{version}: the damaged layer and the one that changed"
        );
        check_kept(cache.path());
    }
}

#[test]
fn a_layer_from_the_cache_has_to_be_held_by_each_repository() {
    let registry = with_version(1);
    let cache = Folder::new();
    let service = start(&registry, &cache);
    service.listing();
    let mut other = Repository::default();
    push_version(&mut other, 1);
    registry.put("other", other.clone());
    registry.take_requests();
    let listed = service.get("/other/SHA256SUMS");
    assert!(
        listed.text().ends_with("  other-v1.tar.gz\n"),
        "{}",
        listed.text()
    );
    assert_eq!(blobs_of(&registry, "other"), (5, 0));

    // One that a repository lacks is not taken from another's.
    let lower = layers(0).remove(0);
    other.blobs.remove(&digest(&lower));
    registry.put("without", other);
    let listed = service.get("/without/SHA256SUMS");
    assert_eq!(names(listed.text()), [""; 0], "{}", listed.text());
    let skipped = service.log.with(&["v1 skipped", &digest(&lower)]);
    assert_eq!(skipped.len(), 1, "{:?}", service.log.lines());

    // A registry that does not know HEAD there sends one byte of each.
    let mut third = Repository::default();
    push_version(&mut third, 1);
    registry.put("third", third);
    registry.fault("HEAD /v2/third/blobs/", Fault::Status(405));
    registry.take_requests();
    assert_eq!(service.get("/third/SHA256SUMS").status, 200);
    let asked = crate::registry::ranges(&registry);
    let one_byte = asked.iter().filter(|range| *range == "0-0").count();
    assert_eq!(one_byte, 5, "{asked:?}");
    assert_eq!(service.get("/third/third-v1.tar.gz").status, 200);
}

#[test]
fn images_that_are_flattened_at_once_fetch_a_shared_layer_once() {
    let registry = with_version(1);
    registry.change(|hello| push_version(hello, 2));
    registry.fault("/blobs/", Fault::Delay(Duration::from_millis(200)));
    let cache = Folder::new();
    let service = start(&registry, &cache);
    assert_eq!(names(&service.listing()).len(), 2);
    let (_, fetched) = blobs(&registry);
    assert_eq!(fetched, 6, "four for both, and one more of each");
}

#[test]
fn a_layer_that_fails_for_one_image_is_tried_for_the_other() {
    let registry = with_version(1);
    registry.change(|hello| push_version(hello, 2));
    let lower: &'static str = digest(&layers(0)[0]).leak();
    registry.fault_times(1, lower, Fault::Status(404));
    registry.fault(lower, Fault::Delay(Duration::from_millis(300)));
    let service = start(&registry, &Folder::new());
    assert_eq!(names(&service.listing()).len(), 1);
    later();
    assert_eq!(names(&service.listing()).len(), 2);
}

#[test]
fn an_image_that_failed_continues_with_the_layers_that_it_lacks() {
    let (registry, cache) = (with_version(1), Folder::new());
    let upper: &'static str = digest(&layers(1)[4]).leak();
    registry.fault(upper, Fault::Delay(Duration::from_millis(300)));
    registry.fault(upper, Fault::Status(404));
    let service = start(&registry, &cache);
    assert_eq!(names(&service.listing()), [""; 0]);
    drop(service);
    assert_eq!(cached(&cache, "layers").len(), 4);
    registry.behave();
    registry.take_requests();
    let service = start(&registry, &cache);
    assert_eq!(names(&service.listing()), ["hello-v1.tar.gz"]);
    assert_eq!(blobs(&registry), (4, 1));
}

#[test]
fn processes_that_share_a_cache_share_its_layers() {
    let (registry, cache) = (with_version(1), Folder::new());
    registry.fault("/blobs/", Fault::Drip(20_000, Duration::from_millis(5)));
    let expected = start(&registry, &Folder::new()).listing();
    for round in 0..3 {
        let services = [0, 1].map(|_| start(&registry, &cache));
        thread::scope(|scope| {
            for service in &services {
                scope.spawn(|| assert_eq!(service.listing(), expected, "round {round}"));
            }
        });
        check_kept(cache.path());
        assert_eq!(cached(&cache, "layers").len(), 5);
        assert_eq!(cached(&cache, "tmp"), [""; 0], "round {round}");
        for service in services {
            assert_eq!(service.log.trouble_so_far(), [""; 0], "round {round}");
        }
        fs::remove_dir_all(cache.path().join("sums")).unwrap();
    }
    // What one has kept, the other one uses.
    let services = [0, 1].map(|_| start(&registry, &cache));
    services[0].listing();
    registry.change(|hello| push_version(hello, 2));
    later();
    services[0].listing();
    registry.change(|hello| push_version(hello, 3));
    registry.take_requests();
    later();
    assert_eq!(names(&services[1].listing()).len(), 3);
    let (_, fetched) = blobs(&registry);
    assert_eq!(fetched, 1);
}

/// The layers of the first version leave too little room on the disk for the second one.
#[test]
fn no_image_fails_for_the_layers_of_others() {
    let Some(disk) = Disk::on_a_file(8 << 10) else {
        return;
    };
    let image = |seed: usize| [seed, seed + 1].map(|n| layer(&[("a", &noise((1 << 20) + n))]));
    let mut hello = Repository::default();
    let tag = |hello: &mut Repository, version: usize| {
        let [lower, upper] = image(version * 10);
        push(hello, &format!("v{version}"), &[&lower, &upper]);
    };
    tag(&mut hello, 1);
    let registry = Registry::with_hello(hello);
    let setup = || Setup::new(settings(&registry, ANEW)).cache_in(disk.path());
    let service = setup().start();
    assert_eq!(names(&service.listing()).len(), 1);
    let kept = || fs::read_dir(disk.path().join("layers")).unwrap().count();
    assert_eq!(kept(), 2);
    registry.change(|hello| tag(hello, 2));
    later();
    assert_eq!(
        names(&service.listing()).len(),
        2,
        "{:?}",
        service.log.lines()
    );
    let again = service
        .log
        .with(&["v2: trying again without the layers of other images"]);
    assert_eq!(again.len(), 1, "{:?}", service.log.lines());
    assert_eq!(kept(), 2, "those of the second image");
    check_kept(disk.path());
}

#[test]
fn a_cache_in_memory_keeps_no_layers() {
    let Some(disk) = Disk::new(64 << 10) else {
        return;
    };
    let registry = with_version(1);
    let service = Setup::new(settings(&registry, ANEW))
        .cache_in(disk.path())
        .start();
    assert_eq!(names(&service.listing()), ["hello-v1.tar.gz"]);
    assert!(!disk.path().join("layers").exists());
}
