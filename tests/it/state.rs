//! The contents of `$STATE_DIRECTORY`: the digests of tags under `immutable-tags`, and that a list was signed.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use crate::client::get;
use crate::content::{Repository, line, sha256, sign, versions};
use crate::registry::{Fault, Registry, count};
use crate::service::{ANEW, Folder, Service, Setup, command, later, output};

const IMMUTABLE: &str = "[repository.hello]\nimmutable-tags = true\n";

/// A service with this state and an empty cache, that makes each listing anew.
fn start(registry: &Registry, more: &str, state: &Folder) -> Service {
    let setup = Setup::new(registry.settings() + ANEW + more);
    setup.own_cache().state(state).start()
}

/// The file that has the promises of the one source that has any.
fn promises(state: &Folder) -> PathBuf {
    let files = fs::read_dir(state.path().join("promises")).unwrap();
    let mut files: Vec<_> = files.flatten().map(|file| file.path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

/// Why there is no listing, as the client is told.
fn reason_for(service: &Service, status: u16) -> String {
    let response = service.no_listing(status);
    response.header("x-reason").unwrap_or_default().to_owned()
}

fn move_v1(registry: &Registry) {
    registry.change(|hello| hello.oras_push("v1", "hello.raw", b"moved"));
}

#[test]
fn an_immutable_tag_is_never_asked_for_again() {
    let registry = Registry::with_hello(versions(3).0);
    let (cache, state) = (Folder::new(), Folder::new());
    let listing = || {
        let setup = Setup::new(registry.settings() + ANEW + IMMUTABLE);
        setup.cache(&cache).state(&state).start().listing()
    };
    assert_eq!(listing(), versions(3).1);
    registry.take_requests();
    // One that is new is asked for.
    registry.change(|hello| hello.oras_push("v3", "hello.raw", b"image 3"));
    assert_eq!(listing(), versions(4).1);
    let requests = registry.take_requests();
    assert_eq!(
        count(&requests, "/manifests/"),
        count(&requests, "/manifests/v3"),
        "{requests:?}"
    );
    move_v1(&registry);
    assert_eq!(listing(), versions(4).1);
}

#[test]
fn an_immutable_tag_stays_what_it_was_whoever_asks_and_whatever_happens() {
    let registry = Registry::with_hello(versions(3).0);
    let address = format!("/{}/hello", registry.address);
    let more = format!(
        "{IMMUTABLE}[repository.other]\nsource = \"hello\"\n[repository.both]\nsource = [\"hello\"]\n"
    );
    let state = Folder::new();
    let service = start(&registry, &more, &state);
    assert_eq!(service.listing(), versions(3).1);
    move_v1(&registry);
    let expected = |service: &Service, why: &str| {
        later();
        assert_eq!(service.listing(), versions(3).1, "{why}");
        let file = service.get("/hello:v1/hello.raw");
        assert_eq!(file.text(), "image 1", "{why}: of one tag");
    };
    expected(&service, "it moved");

    // Under names without the setting it is what it is now, and that is all.
    for name in [address.as_str(), "/other", "/both"] {
        let listing = service.get(&format!("{name}/SHA256SUMS"));
        assert!(
            listing.text().contains(&sha256(b"moved")),
            "{name}: {}",
            listing.text()
        );
        expected(&service, name);
    }

    registry.fault("GET /v2/hello/tags/list", Fault::Status(500));
    later();
    service.no_listing(502);
    registry.behave();
    registry.fault("/v2/hello/manifests/v2", Fault::Status(500));
    later();
    service.get("/hello/SHA256SUMS");
    registry.behave();
    expected(&service, "a listing failed");

    registry.change(|hello| drop(hello.tags.remove("v1")));
    later();
    assert!(!service.listing().contains("hello-v1"));
    move_v1(&registry);
    expected(&service, "it was gone for a while");

    drop(service);
    let service = start(&registry, &more, &state);
    expected(
        &service,
        "the cache was cleaned, and the service started again",
    );
}

#[test]
fn what_an_immutable_tag_is_now_is_no_substitute_for_what_it_was() {
    let registry = Registry::with_hello(versions(2).0);
    let state = Folder::new();
    let start = || start(&registry, IMMUTABLE, &state);
    assert_eq!(start().listing(), versions(2).1);
    registry.change(|hello| {
        hello.manifests.clear();
        hello.tags.clear();
        hello.oras_push("v0", "hello.raw", b"image 0");
        hello.oras_push("v1", "hello.raw", b"moved");
    });
    assert_eq!(start().listing(), line(b"image 0", "hello-v0.raw"));
}

#[test]
fn tags_of_a_layout_are_immutable_too() {
    let folder = Folder::with_layout(&versions(2).0);
    let state = Folder::new();
    let settings = folder.settings() + "immutable-tags = true\n";
    let listing = || Setup::new(settings.clone()).state(&state).start().listing();
    assert_eq!(listing(), versions(2).1);
    let mut moved = versions(2).0;
    moved.oras_push("v1", "hello.raw", b"moved");
    moved.write_layout(folder.path());
    assert_eq!(listing(), versions(2).1);
}

#[test]
fn without_a_state_directory_only_immutable_tags_are_an_error() {
    let registry = Registry::with_hello(versions(2).0);
    registry.put("other", versions(1).0);
    let service = Setup::new(registry.settings() + IMMUTABLE)
        .env("STATE_DIRECTORY", "")
        .start();
    let why = reason_for(&service, 500);
    for text in ["immutable-tags", "StateDirectory="] {
        assert!(why.contains(text), "{why}");
    }
    assert_eq!(service.get("/other/SHA256SUMS").status, 200);
    assert_eq!(count(&registry.take_requests(), "/v2/hello/manifests/v"), 0);
    let warnings = service.log.with(&[
        "warning: there is no state directory",
        "nothing is remembered",
    ]);
    assert_eq!(warnings.len(), 1, "{:?}", service.log.lines());
}

#[test]
fn state_that_cannot_be_believed_is_an_error_for_its_repository_alone() {
    let registry = Registry::with_hello(versions(2).0);
    registry.put("other", versions(1).0);
    let state = Folder::new();
    let service = start(&registry, IMMUTABLE, &state);
    assert_eq!(service.listing(), versions(2).1);
    let path = promises(&state);
    let good = fs::read_to_string(&path).unwrap();
    let (head, json) = good.split_once('\n').unwrap();
    assert!(head.starts_with("sysext-oci-proxy promises 1 "), "{head}");
    let of_other = good.replace("/hello", "/other");
    let newer = format!("sysext-oci-proxy promises 2 something new\n{json}");
    let with_more = json.replacen('{', "{\"more\":1,", 1);
    let with_more = format!(
        "sysext-oci-proxy promises 1 {}\n{with_more}",
        sha256(with_more.as_bytes())
    );
    for (text, reason) in [
        ("", "is damaged"),
        (&good[..good.len() - 1], "is damaged"),
        (&of_other, "is damaged"),
        (&newer, "format 2, of a newer sysext-oci-proxy"),
        (&with_more, "cannot be understood"),
    ] {
        fs::write(&path, text).unwrap();
        registry.take_requests();
        later();
        let why = reason_for(&service, 500);
        let path = path.to_str().unwrap();
        for text in [
            reason,
            path,
            "systemctl clean --what=state sysext-oci-proxy.service",
        ] {
            assert!(why.contains(text), "{why}");
        }
        assert_eq!(count(&registry.take_requests(), "/v2/hello/"), 0);
        assert_eq!(service.get("/other/SHA256SUMS").status, 200);
        assert_eq!(
            fs::read_to_string(path).unwrap(),
            text,
            "it is left as it is"
        );
    }
    fs::write(&path, &good).unwrap();
    later();
    assert_eq!(service.listing(), versions(2).1);
}

#[test]
fn a_full_state_is_an_error_for_the_repository_that_needs_more() {
    let registry = Registry::with_hello(versions(2).0);
    let state = Folder::new();
    let service = start(&registry, IMMUTABLE, &state);
    assert_eq!(service.listing(), versions(2).1);
    let large = fs::File::create(state.path().join("promises/large")).unwrap();
    large.set_len(64 << 20).unwrap();
    later();
    assert_eq!(service.listing(), versions(2).1, "nothing is new");
    registry.change(|hello| hello.oras_push("v2", "hello.raw", b"image 2"));
    later();
    let why = service.why_no_listing(500);
    for text in ["is full", "64 MiB", "/hello"] {
        assert!(why.contains(text), "{why}");
    }
    large.set_len(1 << 20).unwrap();
    later();
    assert_eq!(service.listing(), versions(3).1);
}

/// A repository with a list in one of its tags.
fn with_list(tag: &str, signatures: &[(&str, &[u8])]) -> (Repository, String) {
    let mut hello = versions(2).0;
    let list = line(b"image 1", "hello-1.raw");
    sign(&mut hello, list.as_bytes(), signatures, &[]);
    let found = hello.tags.remove("SHA256SUMS").unwrap();
    hello.tags.insert(tag.to_owned(), found);
    (hello, list)
}

const SIGNATURE: &[(&str, &[u8])] = &[("SHA256SUMS.gpg", b"signature")];

#[test]
fn a_repository_that_had_a_list_is_never_listed_by_its_tags_instead() {
    for tag in ["SHA256SUMS", "index"] {
        let (hello, list) = with_list(tag, SIGNATURE);
        let registry = Registry::with_hello(hello);
        let state = Folder::new();
        let more = "[repository.tags]\nsource = \"hello\"\nsigned-list = \"\"\n";
        let start = || start(&registry, more, &state);
        assert_eq!(start().listing(), list);
        let manifest = "GET /v2/hello/manifests/";
        type Change = fn(&Registry);
        let changes: [(&str, &str, Change); 4] = [
            ("the tag is gone", "has none in tag", |registry| {
                registry.change(|hello| {
                    hello.tags.remove("SHA256SUMS");
                    hello.tags.remove("index");
                });
            }),
            ("there is no list in it", "has none in tag", |registry| {
                registry.change(|hello| {
                    hello.oras_push("SHA256SUMS", "notes.txt", b"none");
                    hello.oras_push("index", "notes.txt", b"none");
                });
            }),
            (
                "there is no signature in it",
                "has one without a signature in tag",
                |registry| {
                    registry.change(|hello| *hello = with_list("SHA256SUMS", &[]).0);
                },
            ),
            ("it is refused", "", |registry| {
                registry.fault("/v2/hello/manifests/SHA256SUMS", Fault::Status(403));
                registry.fault("/v2/hello/manifests/index", Fault::Status(403));
            }),
        ];
        for (why, now, change) in changes {
            change(&registry);
            registry.take_requests();
            let service = start();
            let reason = service.why_no_listing(403);
            if why != "it is refused" {
                let now = format!("/hello had a list by its publisher, but now {now}");
                for text in [now.as_str(), "signed-list = \"\"", "key --forget-signed"] {
                    assert!(reason.contains(text), "{tag}, {why}: {reason}");
                }
            }
            let requests = registry.take_requests();
            let versions = count(&requests, &format!("{manifest}v"));
            assert_eq!(versions, 0, "{tag}, {why}: {requests:?}");
            let by_tags = service.get("/tags/SHA256SUMS");
            assert_eq!(by_tags.status, 200, "{tag}, {why}");
            assert_eq!(
                service.get("/hello:v1/SHA256SUMS").status,
                200,
                "{tag}, {why}"
            );
        }
        registry.behave();
        registry.change(|hello| *hello = with_list("SHA256SUMS", SIGNATURE).0);
        assert_eq!(start().listing(), list, "it is there again");
    }
}

#[test]
fn the_setting_says_which_tag_has_the_list() {
    let (mut hello, list) = with_list("stable", SIGNATURE);
    hello.oras_push("index", "hello.raw", b"a version");
    let registry = Registry::with_hello(hello);
    let settings = |tag: &str| format!("[repository.hello]\nsigned-list = \"{tag}\"\n");
    let folders = [(); 4].map(|()| Folder::new());
    let mut states = folders.iter();
    let mut start = |more: &str| start(&registry, more, states.next().unwrap());
    let service = start(&settings("stable"));
    assert_eq!(service.listing(), list);
    assert_eq!(service.whole("/hello/SHA256SUMS.gpg"), b"signature");
    let why = start(&settings("testing")).why_no_listing(403);
    assert!(
        why.contains("signed-list") && why.contains("testing"),
        "{why}"
    );
    let by_tags = start(&settings("")).listing();
    assert!(by_tags.contains("hello-index.raw"), "{by_tags}");
    assert_eq!(start("").listing(), by_tags, "index is a version here");
}

#[test]
fn a_list_is_remembered_by_all_names_of_its_source() {
    let (hello, list) = with_list("SHA256SUMS", SIGNATURE);
    let registry = Registry::with_hello(hello);
    let state = Folder::new();
    let service = start(&registry, "", &state);
    assert_eq!(service.listing(), list);
    registry.change(|hello| drop(hello.tags.remove("SHA256SUMS")));
    let target = format!("/{}/hello/SHA256SUMS", registry.address);
    assert_eq!(get(service.address, &target).status, 403);
}

#[test]
fn a_list_that_one_name_of_a_source_asks_for_is_not_that_of_its_other_names() {
    let stable = line(b"image 0", "hello-0.raw");
    let with_stable = |hello: &mut Repository, signatures| {
        let usual = hello.tags.get("SHA256SUMS").cloned();
        sign(hello, stable.as_bytes(), signatures, &[]);
        let found = hello.tags.remove("SHA256SUMS").unwrap();
        hello.tags.insert("stable".to_owned(), found);
        hello
            .tags
            .extend(usual.map(|usual| ("SHA256SUMS".to_owned(), usual)));
    };
    let more = "[repository.slow]\nsource = \"hello\"\nsigned-list = \"stable\"\n";
    let (signed, list) = with_list("SHA256SUMS", SIGNATURE);
    let (unsigned, of_tags) = versions(2);
    for (hello, expected) in [(signed, list), (unsigned, of_tags)] {
        for signatures in [SIGNATURE, &[]] {
            let mut hello = hello.clone();
            with_stable(&mut hello, signatures);
            let (registry, state) = (Registry::with_hello(hello), Folder::new());
            for first in ["hello", "slow"] {
                let service = start(&registry, more, &state);
                service.get(&format!("/{first}/SHA256SUMS"));
                later();
                let listing = service.listing_of("slow");
                assert_eq!(listing, stable, "after {first}");
                let listing = service.listing_of("hello");
                let lines = listing.lines().filter(|line| !line.contains("stable"));
                let lines: String = lines.map(|line| format!("{line}\n")).collect();
                assert_eq!(lines, expected, "after {first}");
            }
            // It is a promise of that name.
            registry.change(|hello| drop(hello.tags.remove("stable")));
            let service = start(&registry, more, &state);
            assert_eq!(service.get("/slow/SHA256SUMS").status, 403);
            assert_eq!(service.listing_of("hello"), expected);
            let service = start(&registry, "[repository.slow]\nsource = \"hello\"\n", &state);
            let response = service.get("/slow/SHA256SUMS");
            let is_usual = response.status == 200 && response.text() == expected;
            assert!(
                response.status == 403 || is_usual && expected.contains("hello-1.raw"),
                "the setting is gone: {} {}",
                response.status,
                response.text()
            );
        }
    }
}

#[test]
fn the_newest_version_is_remembered_of_repositories_that_are_named() {
    let registry = Registry::with_hello(versions(11).0);
    registry.put("other", versions(3).0);
    let state = Folder::new();
    let service = start(&registry, "[repository.hello]\nflatten = 3\n", &state);
    assert_eq!(service.get("/other/SHA256SUMS").status, 200);
    assert_eq!(
        service
            .get(&format!("/{}/hello/SHA256SUMS", registry.address))
            .status,
        200
    );
    assert!(!state.path().join("promises").exists(), "nobody named them");
    assert_eq!(service.listing(), versions(11).1);
    let newest = "\"newest\":{\"hello\":\"v10\"}";
    let kept = || fs::read_to_string(promises(&state)).unwrap();
    assert!(kept().contains(newest), "{}", kept());
    registry.change(|hello| drop(hello.tags.remove("v10")));
    later();
    assert!(!service.listing().contains("v10"));
    assert!(kept().contains(newest), "{}", kept());
}

#[test]
fn root_can_forget_that_there_was_a_list() {
    let (hello, list) = with_list("SHA256SUMS", SIGNATURE);
    let registry = Registry::with_hello(hello);
    let (state, folder) = (Folder::new(), Folder::new());
    let more = format!("{IMMUTABLE}[repository.both]\nsource = [\"hello\", \"other\"]\n");
    let service = start(&registry, &more, &state);
    assert_eq!(service.listing(), list);
    assert_eq!(service.get("/hello:v1/SHA256SUMS").status, 200);
    registry.change(|hello| drop(hello.tags.remove("SHA256SUMS")));
    move_v1(&registry);
    let config = folder.file("config.toml", &(registry.settings() + &more));
    let key = |repository: &str, state: &Path| {
        let config = config.to_str().unwrap();
        let mut command = command(&["key", "--config", config, "--forget-signed", repository]);
        command.env("STATE_DIRECTORY", state);
        let ended = output(command);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (ended.status.code(), text(ended.stdout), text(ended.stderr))
    };
    if fs::metadata(state.path()).unwrap().uid() != 0 {
        let (status, _, said) = key("hello", state.path());
        assert_eq!(
            (status, said.contains("only root")),
            (Some(69), true),
            "{said}"
        );
        return;
    }
    let (status, _, said) = key("hello", &folder.path().join("missing"));
    assert_eq!(
        (status, said.contains("missing")),
        (Some(69), true),
        "{said}"
    );
    later();
    service.no_listing(403);

    // The state is that of the user of the service, and stays theirs.
    let user = 65_534;
    let all = || {
        let mut paths: Vec<_> = vec![state.path().to_owned(), state.path().join("promises")];
        paths.push(state.path().join("lock"));
        paths.push(promises(&state));
        paths
    };
    for path in all() {
        chown(path, Some(user), Some(user)).unwrap();
    }
    let source = format!("{}/hello", registry.address);
    let (status, out, said) = key("both", state.path());
    assert_eq!((status, said.as_str()), (Some(0), ""));
    let other = format!("{}/other", registry.address);
    assert_eq!(
        out,
        format!(
            "{source}: forgot the list in its tag SHA256SUMS\n{other}: no list was remembered\n"
        )
    );
    for path in all() {
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.uid(), found.gid()), (user, user), "{path:?}");
        chown(path, Some(0), Some(0)).unwrap();
    }
    later();
    let listing = service.listing();
    assert!(listing.contains("hello-v0.raw"), "{listing}");
    let still = line(b"image 1", "hello-v1.raw");
    assert!(
        listing.contains(&still),
        "its immutable tags are not forgotten: {listing}"
    );
}
