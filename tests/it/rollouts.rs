//! `rollout` and `best-before-days`: a version is offered when the schedule of its publisher has reached this machine,
//! and a listing says until when it is fresh.
//!
//! No schedule here depends on the ID of the machine that runs the tests: that is in the unit tests of `src/rollout.rs`.

use std::fs;
use std::thread;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::content::{
    OCI_TAR, Repository, best_before, empty_listing, line, sha256, sign, versions,
};
use crate::cosign::{FORMS, Key};
use crate::images::layer;
use crate::registry::{Fault, Registry, count};
use crate::service::{
    ANEW, Folder, Service, Setup, X86, command, eventually, later, output, table,
};
use crate::trust::{name, verifying};

const ANNOTATION: &str = "io.github.sysext-oci-proxy.rollout";
/// It takes 52 minutes until the first machine is reached.
const A_YEAR: &str = "8760h";

/// A moment so many seconds from now, in the form of RFC 3339.
fn moment(seconds: i64) -> String {
    let time = Timestamp::now() + SignedDuration::from_secs(seconds);
    format!("{time:.0}")
}

/// A schedule that has just begun and has reached nobody.
fn slow() -> String {
    format!("{} {A_YEAR}", moment(-60))
}

fn annotations(schedule: &str) -> Value {
    json!({"annotations": {ANNOTATION: schedule}})
}

/// Pushes `image N` with a schedule, as `oras push --annotation` does.
fn push(hello: &mut Repository, n: u32, schedule: &str) -> Value {
    let layer = hello.file(OCI_TAR, "hello.raw", format!("image {n}").as_bytes());
    let manifest = hello.artifact(&[layer], annotations(schedule));
    hello.point(&format!("v{n}"), &manifest);
    manifest
}

/// `v0` and `v1` without a schedule, and `v2` with this one.
fn with_schedule(schedule: &str) -> Repository {
    let (mut hello, _) = versions(2);
    push(&mut hello, 2, schedule);
    hello
}

fn named(base: &str, wanted: &[u32]) -> String {
    let lines = wanted.iter().map(|n| {
        let image = format!("image {n}");
        line(image.as_bytes(), &format!("{base}-v{n}.raw"))
    });
    lines.collect()
}

fn lines_of(wanted: &[u32]) -> String {
    named("hello", wanted)
}

fn setting(rollout: &str) -> String {
    format!("[repository.hello]\nrollout = \"{rollout}\"\n")
}

/// The entries of a directory's JSON that are left out.
fn left_out(service: &Service, directory: &str) -> Vec<Value> {
    let target = format!("/{directory}/");
    let json = service.request("GET", &target, &["Accept: application/json"]);
    let json: Value = serde_json::from_str(json.text()).unwrap();
    json["left_out"].as_array().unwrap().clone()
}

#[test]
fn a_version_is_offered_when_the_setting_and_the_schedule_say_so() {
    let (yesterday, tomorrow) = (moment(-86_400), moment(86_400));
    for (schedule, offered_to) in [
        (format!("{yesterday} 1h"), "follow first last ignore"),
        (format!("{yesterday} 0h"), "follow first last ignore"),
        (format!("{yesterday} 48h from 100%"), "follow first ignore"),
        (format!("{} {A_YEAR}", moment(-60)), "first ignore"),
        (format!("{tomorrow} 0h"), "ignore"),
        (format!("{tomorrow} 48h from 100%"), "ignore"),
        ("as soon as possible".to_owned(), "ignore"),
        (String::new(), "ignore"),
    ] {
        let registry = Registry::with_hello(with_schedule(&schedule));
        for rollout in ["follow", "first", "last", "ignore"] {
            let service = Service::start(registry.settings() + &setting(rollout));
            let is_offered = offered_to.split(' ').any(|one| one == rollout);
            let wanted: &[u32] = if is_offered { &[0, 1, 2] } else { &[0, 1] };
            assert_eq!(
                service.listing(),
                lines_of(wanted),
                "{schedule:?} {rollout}"
            );
            let status = if is_offered { 200 } else { 404 };
            assert_eq!(
                service.get("/hello/hello-v2.raw").status,
                status,
                "{schedule:?}"
            );
        }
    }
}

#[test]
fn one_that_is_held_back_says_why_and_until_when() {
    let start = moment(-86_400);
    let mut hello = with_schedule(&format!("{start} 48h"));
    push(&mut hello, 3, "soon");
    let registry = Registry::with_hello(hello);
    let service = Setup::new(registry.settings() + &setting("last"))
        .own_cache()
        .start();
    assert_eq!(service.listing(), lines_of(&[0, 1]));
    let end = format!(
        "{:.0}",
        start.parse::<Timestamp>().unwrap() + SignedDuration::from_hours(48)
    );
    let [broken, held] = &left_out(&service, "hello")[..] else {
        panic!("{:?}", left_out(&service, "hello"));
    };
    assert_eq!(
        (&held["tag"], &held["kind"]),
        (&json!("v2"), &json!("held"))
    );
    assert_eq!(held["until"], json!(end));
    let reason =
        "its rollout has reached 50 % of the machines, and rollout = \"last\" waits for all others";
    assert_eq!(held["reason"], reason);
    assert_eq!(
        (&broken["tag"], &broken["kind"]),
        (&json!("v3"), &json!("refused"))
    );
    assert_eq!(broken["until"], Value::Null);
    let reason = broken["reason"].as_str().unwrap();
    assert!(reason.contains("is no schedule: expected") && reason.contains("found \"soon\""));
    let page = service.get("/hello/");
    assert!(page.text().contains("held back until"), "{}", page.text());
    // By design it is no trouble; a mistake of its publisher is, once.
    let trouble = service.log.one_trouble();
    assert!(
        trouble.contains("tag v3 skipped: its annotation"),
        "{trouble}"
    );
    let url = format!("http://{}", service.address);
    let list = output(command(&["list", "hello", "--all", "--service", &url]));
    let list = String::from_utf8(list.stdout).unwrap();
    let row = format!("waits for all others; until {end}");
    assert!(
        list.lines()
            .any(|line| line.starts_with("v2 ") && line.ends_with(&row)),
        "{list}"
    );
}

#[test]
fn check_names_a_newer_version_that_is_held_back() {
    let registry = Registry::with_hello(with_schedule(&slow()));
    for (wanted, settings) in [
        ("the newest is hello-v1.raw; tag v2 is held back until", ""),
        (
            "no file is offered yet; tag v2 is held back until",
            "versions = [\"2\"]\n",
        ),
    ] {
        let setup = Setup::new(registry.settings() + &setting("follow") + settings);
        let config = setup.folder().join("config.toml");
        fs::write(&config, setup.text()).unwrap();
        let mut check = command(&["check", "hello", "--config", config.to_str().unwrap()]);
        check.env("CACHE_DIRECTORY", setup.folder());
        let text = String::from_utf8(output(check).stdout).unwrap();
        assert!(text.contains(wanted), "{text}");
    }
}

#[test]
fn a_listing_does_not_outlive_the_moment_at_which_a_turn_comes() {
    // All machines have it in three seconds.
    let schedule = format!("{} 1h", moment(3 - 3600));
    let registry = Registry::with_hello(with_schedule(&schedule));
    let state = Folder::new();
    let settings = registry.settings() + "listing-ttl-sec = 3600\n" + &setting("last");
    let service = Setup::new(settings).own_cache().state(&state).start();
    assert_eq!(service.listing(), lines_of(&[0, 1]));
    assert_eq!(service.get("/hello/hello-v2.raw").status, 404);
    thread::sleep(Duration::from_millis(3500));
    // Also for somebody who knows the name.
    assert_eq!(service.get("/hello/hello-v2.raw").status, 200);
    registry.take_requests();
    for _ in 0..3 {
        assert_eq!(service.listing(), lines_of(&[0, 1, 2]));
    }
    assert_eq!(
        registry.take_requests(),
        [""; 0],
        "it is reused from then on"
    );
    let told = service.log.with(&["hello: tag v2 is listed from now on"]);
    assert_eq!(told.len(), 1, "{told:?}");
}

#[test]
fn two_names_of_one_source_take_part_each_in_its_own_way() {
    let registry = Registry::with_hello(with_schedule(&slow()));
    let alias = "[repository.alias]\nsource = \"hello\"\nrollout = \"first\"\n";
    let both = "[repository.both]\nsource = [\"hello\", \"other\"]\nrollout = \"last\"\n";
    registry.put("other", with_schedule(&format!("{} 1h", moment(-7200))));
    let settings = registry.settings() + ANEW + &setting("follow") + alias + both;
    let service = Setup::new(settings).own_cache().start();
    for _ in 0..2 {
        assert_eq!(service.listing(), lines_of(&[0, 1]));
        assert_eq!(service.listing_of("alias"), named("alias", &[0, 1, 2]));
        let merged = lines_of(&[0, 1]) + &named("other", &[0, 1, 2]);
        assert_eq!(service.listing_of("both"), merged);
        later();
    }
    assert_eq!(service.get("/alias/alias-v2.raw").status, 200);
    assert_eq!(service.get("/hello/hello-v2.raw").status, 404);
}

#[test]
fn all_versions_and_single_ones_are_there_at_the_same_time() {
    let manifest = |hello: &Repository| hello.tags["v2"].clone();
    let hello = with_schedule(&slow());
    let pinned = format!("/hello@{}/hello.raw", manifest(&hello));
    let registry = Registry::with_hello(hello);
    let service = Service::start(registry.settings() + ANEW);
    for _ in 0..2 {
        // The bytes are promised there, and the name here is the same.
        assert_eq!(service.listing_of("hello+all"), lines_of(&[0, 1, 2]));
        assert_eq!(service.get("/hello+all/hello-v2.raw").body, b"image 2");
        assert_eq!(service.listing(), lines_of(&[0, 1]));
        for name in [
            "hello-v2.raw",
            "hello-v2.raw.sha256",
            "hello-v2.manifest.gz",
        ] {
            assert_eq!(service.get(&format!("/hello/{name}")).status, 404, "{name}");
        }
        assert_eq!(service.get("/hello:v2/hello.raw").body, b"image 2");
        assert_eq!(service.get(&pinned).body, b"image 2");
        later();
    }
}

#[test]
fn a_version_that_was_listed_is_delivered_though_its_tag_gets_a_schedule() {
    let registry = Registry::with_hello(with_schedule(&format!("{} 0h", moment(-60))));
    let service = Service::start(registry.settings() + ANEW);
    assert_eq!(service.listing(), lines_of(&[0, 1, 2]));
    registry.change(|hello| {
        push(hello, 2, &slow());
    });
    later();
    assert_eq!(service.listing(), lines_of(&[0, 1]));
    // A client may have read the older listing a moment ago.
    assert_eq!(service.get("/hello/hello-v2.raw").body, b"image 2");
}

#[test]
fn what_the_settings_hold_stays_held_when_its_turn_has_come() {
    let mut hello = with_schedule(&format!("{} 0h", moment(-60)));
    push(&mut hello, 3, &slow());
    let registry = Registry::with_hello(hello);
    let settings = "[repository.hello]\nhold = \"1\"\n";
    let service = Service::start(registry.settings() + settings);
    assert_eq!(service.listing(), lines_of(&[0, 1]));
    for one in left_out(&service, "hello") {
        assert_eq!(
            (&one["kind"], &one["until"]),
            (&json!("held"), &Value::Null)
        );
        assert!(
            one["reason"]
                .as_str()
                .unwrap()
                .ends_with("is newer than hold = \"1\"")
        );
    }
    let settings = "[repository.hello]\nhold = \"2\"\nrollout = \"ignore\"\n";
    let service = Service::start(registry.settings() + settings);
    assert_eq!(service.listing(), lines_of(&[0, 1, 2]));
}

/// The turn of this machine depends on the settings alone, but for `follow`.
#[test]
fn inspect_shows_the_schedule_of_a_version_and_the_turn_of_this_machine() {
    let mut hello = with_schedule("2026-12-01T06:00:00Z 48h from 5%");
    let layer = hello.file(OCI_TAR, "hello.raw", b"of an index");
    let mut child = hello.artifact(&[layer], json!({}));
    child["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let index = hello.index_of(&[child], annotations("2026-12-01T08:00:00+02:00 0h"));
    hello.point("v3", &index);
    push(&mut hello, 4, "soon");
    let registry = Registry::with_hello(hello);
    let (begins, ends) = ("2026-12-01T06:00:00Z", "2026-12-03T06:00:00Z");
    for (tag, rollout, expected) in [
        ("v1", "last", Value::Null),
        (
            "v2",
            "last",
            json!({"begins": begins, "ends": ends, "from": "5 %", "turn": ends}),
        ),
        (
            "v2",
            "first",
            json!({"begins": begins, "ends": ends, "from": "5 %", "turn": begins}),
        ),
        (
            "v2",
            "ignore",
            json!({"begins": begins, "ends": ends, "from": "5 %", "turn": null}),
        ),
        (
            "v3",
            "follow",
            json!({"begins": begins, "ends": begins, "from": "0 %", "turn": begins}),
        ),
    ] {
        let found = inspect(&registry, rollout, tag);
        assert_eq!(found["rollout"], expected, "{tag} {rollout}");
    }
    let error = inspect(&registry, "follow", "v4")["rollout"]["error"].clone();
    assert!(
        error
            .as_str()
            .unwrap()
            .contains("is no schedule: expected a start"),
        "{error}"
    );
}

/// The JSON of `inspect`.
fn inspect(registry: &Registry, rollout: &str, tag: &str) -> Value {
    let folder = Folder::new();
    let config = folder.path().join("config.toml");
    let settings = setting(rollout) + "architectures = [\"x86-64\"]\n";
    fs::write(&config, registry.settings() + &settings).unwrap();
    let reference = format!("hello:{tag}");
    let inspect = command(&["inspect", &reference, "--config", config.to_str().unwrap()]);
    let out = output(inspect);
    serde_json::from_slice(&out.stdout).unwrap()
}

#[test]
fn of_an_index_the_manifest_counts_first() {
    let soon = || format!("{} 0h", moment(-60));
    for (of_child, of_index, is_offered, why) in [
        (None, Some(slow()), false, "the index alone has one"),
        (Some(soon()), Some(slow()), true, "the manifest counts"),
        (Some(slow()), Some(soon()), false, "the manifest counts"),
        (
            Some("?".to_owned()),
            Some(soon()),
            false,
            "a broken one counts, too",
        ),
        (None, None, true, "there is none"),
    ] {
        let mut hello = Repository::default();
        let mut entry = |architecture: &str, schedule: Option<String>| {
            let layer = hello.file(OCI_TAR, "hello.raw", architecture.as_bytes());
            let more = schedule.map_or(json!({}), |schedule| annotations(&schedule));
            let mut entry = hello.artifact(&[layer], more);
            entry["platform"] = json!({"os": "linux", "architecture": architecture});
            entry
        };
        // The other one is held back alone.
        let entries = [entry("amd64", of_child), entry("arm64", Some(slow()))];
        let more = of_index.map_or(json!({}), |schedule| annotations(&schedule));
        let index = hello.index_of(&entries, more);
        hello.point("v1", &index);
        let registry = Registry::with_hello(hello);
        let both = "[repository.hello]\narchitectures = [\"x86-64\", \"arm64\"]\n";
        let service = Service::start(registry.settings() + both);
        let expected = match is_offered {
            true => line(b"amd64", "hello-v1-x86-64.raw"),
            false => empty_listing(),
        };
        assert_eq!(service.listing(), expected, "{why}");
    }
}

#[test]
fn a_schedule_that_no_signature_covers_does_not_count() {
    for (of_child, of_index, signs_index, is_offered, why) in [
        (None, Some(slow()), false, true, "the index is not signed"),
        (None, Some(slow()), true, false, "the index is signed"),
        (Some(slow()), None, false, false, "the manifest is signed"),
    ] {
        let (key, registry) = (Key::new(), Registry::start());
        let mut hello = Repository::default();
        let layer = hello.file(OCI_TAR, "hello.raw", b"image");
        let mut noted = json!({"annotations": {"architecture": "amd64"}});
        if let Some(schedule) = of_child {
            noted["annotations"][ANNOTATION] = json!(schedule);
        }
        let mut child = hello.artifact(&[layer], noted);
        child["platform"] = json!({"os": "linux", "architecture": "amd64"});
        let more = of_index.map_or(json!({}), |schedule| annotations(&schedule));
        let index = hello.index_of(&[child.clone()], more);
        hello.point("v1", &index);
        let subject = if signs_index { &index } else { &child };
        key.sign(&mut hello, FORMS[0], &name(&registry), subject);
        registry.put("hello", hello);
        let x86 = X86.lines().last().unwrap();
        let service = verifying(&registry, &key)
            .settings(&format!("{x86}\n"))
            .start();
        let expected = match is_offered {
            true => line(b"image", "hello-v1.raw"),
            false => empty_listing(),
        };
        assert_eq!(service.listing(), expected, "{why}");
    }
}

#[test]
fn a_publishers_list_is_given_out_whatever_schedules_there_are() {
    let mut hello = with_schedule(&slow());
    let list = lines_of(&[0, 1, 2]);
    sign(
        &mut hello,
        list.as_bytes(),
        &[("SHA256SUMS.gpg", b"s")],
        &[],
    );
    let registry = Registry::with_hello(hello);
    let settings = setting("last") + "best-before-days = 3\n";
    let service = Service::start(registry.settings() + &settings);
    assert_eq!(service.listing(), list);
    assert_eq!(service.get("/hello/hello-v2.raw").status, 200);
}

#[test]
fn nothing_of_a_version_is_fetched_before_its_turn() {
    let mut hello = Repository::default();
    let mut image = |tag: &str, texts: [&[u8]; 2], more: Value| {
        let layers = texts.map(|text| {
            let bytes = layer(&[("file", text)]);
            hello.blob(&format!("{OCI_TAR}+gzip"), &bytes)
        });
        let config = hello.blob("application/vnd.oci.image.config.v1+json", b"{}");
        let mut fields = more;
        fields["config"] = config;
        let manifest = hello.artifact(&layers, fields);
        hello.point(tag, &manifest);
        layers.map(|layer| layer["digest"].as_str().unwrap().to_owned())
    };
    image("v1", [b"1", b"2"], json!({}));
    let held = image("v2", [b"3", b"4"], annotations(&slow()));
    let registry = Registry::with_hello(hello);
    let one = "[repository.hello]\nflatten = 1\n";
    let service = Setup::new(registry.settings() + one).own_cache().start();
    // The one place goes to the version that is offered.
    assert!(service.listing().ends_with("  hello-v1.tar.gz\n"));
    let requests = registry.take_requests();
    for digest in held {
        assert_eq!(count(&requests, &digest), 0, "{requests:?}");
    }
}

#[test]
fn an_older_tag_without_an_answer_is_missing_beside_one_that_is_held_back() {
    let (mut hello, _) = versions(4);
    push(&mut hello, 4, &slow());
    let registry = Registry::with_hello(hello);
    registry.fault("/manifests/v3", Fault::Status(500));
    let service = Service::start(registry.settings() + ANEW);
    let response = service.get("/hello/SHA256SUMS");
    assert_eq!(response.text(), lines_of(&[0, 1, 2]));
    let incomplete = response.header("x-incomplete");
    assert_eq!(incomplete, Some("1 of 5 tags were not answered"));
    // Where nothing is listed, an empty listing would be wrong.
    registry.change(|hello| {
        hello
            .tags
            .retain(|tag, _| ["v3", "v4"].contains(&tag.as_str()))
    });
    later();
    assert_eq!(service.get("/hello/SHA256SUMS").status, 503);
}

#[test]
fn a_version_counts_as_offered_from_its_turn_on() {
    let registry = Registry::with_hello(with_schedule(&slow()));
    let state = Folder::new();
    let told = |rollout: &str| {
        let setup = Setup::new(registry.settings() + ANEW + &setting(rollout));
        let service = setup.own_cache().state(&state).start();
        service.listing();
        let mut lines = service.log.trouble_so_far();
        lines.retain(|line| line.contains("was offered before"));
        lines.len()
    };
    assert_eq!(told("follow"), 0);
    let tag = registry_tag(&registry);
    // The rollout is stopped before it has reached this machine.
    registry.change(|hello| drop(hello.tags.remove("v2")));
    assert_eq!(told("follow"), 0);
    registry.change(|hello| drop(hello.tags.insert("v2".to_owned(), tag)));
    assert_eq!(told("first"), 0);
    assert_eq!(told("follow"), 1, "it was offered, and is not now");
}

fn registry_tag(registry: &Registry) -> String {
    let mut tag = String::new();
    registry.change(|hello| tag.clone_from(&hello.tags["v2"]));
    tag
}

#[test]
fn a_layout_has_schedules_too() {
    let layout = Folder::with_layout(&with_schedule(&slow()));
    let service = Service::start(layout.settings());
    assert_eq!(service.listing(), lines_of(&[0, 1]));
    let service = Service::start(layout.settings() + "rollout = \"first\"\nbest-before-days = 1\n");
    assert_eq!(service.listing(), best_before(2) + &lines_of(&[0, 1, 2]));
}

/// Settings with which listings are fresh for these days.
fn fresh_for(days: u32) -> String {
    format!("{ANEW}[repository.hello]\nbest-before-days = {days}\n")
}

#[test]
fn a_listing_is_fresh_for_so_many_days_after_the_registrys_answer() {
    let (registry, listing) = Registry::with_versions(2);
    for (days, expected) in [
        (0, listing.clone()),
        (1, best_before(2) + &listing),
        (30, best_before(31) + &listing),
    ] {
        let service = Service::start(registry.settings() + &fresh_for(days));
        assert_eq!(service.listing(), expected);
        assert_eq!(service.listing_of("hello+all"), expected);
    }
    let service = Service::start(registry.settings() + &fresh_for(7));
    let image = line(b"image 1", "hello.raw");
    assert_eq!(service.listing_of("hello:v1"), best_before(8) + &image);
    let digest = registry_digest(&registry, "v1");
    assert_eq!(
        service.listing_of(&format!("hello@{digest}")),
        image,
        "it never changes"
    );
    registry.change(|hello| hello.tags.clear());
    later();
    assert_eq!(service.listing(), best_before(8), "an empty one");
}

fn registry_digest(registry: &Registry, tag: &str) -> String {
    let mut digest = String::new();
    registry.change(|hello| digest.clone_from(&hello.tags[tag]));
    digest
}

/// The file with the promises of the only source.
fn promises(state: &Folder) -> std::path::PathBuf {
    let folder = fs::read_dir(state.path().join("promises")).unwrap();
    let files: Vec<_> = folder.flatten().map(|entry| entry.path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

/// Changes the moment of the registry's last answer by so many days.
fn shift(state: &Folder, days: i64) {
    let file = promises(state);
    let text = fs::read_to_string(&file).unwrap();
    let (head, json) = text.split_once('\n').unwrap();
    let mut json: Value = serde_json::from_str(json).unwrap();
    let answered = json["kept"]["answered"].as_i64().unwrap();
    json["kept"]["answered"] = json!(answered + days * 86_400);
    let json = json.to_string();
    let (head, _) = head.rsplit_once(' ').unwrap();
    fs::write(&file, format!("{head} {}\n{json}", sha256(json.as_bytes()))).unwrap();
}

#[test]
fn while_a_mirror_stands_in_the_date_is_that_of_the_registrys_last_answer() {
    let (hello, listing) = versions(2);
    let (registry, mirror) = (
        Registry::with_hello(hello.clone()),
        Registry::with_hello(hello),
    );
    let state = Folder::new();
    let mirrors = table(registry.address, &[(mirror.address.to_string(), "")]);
    let start = || {
        let setup = Setup::new(registry.settings() + &fresh_for(1)).registries(&mirrors);
        setup.own_cache().state(&state).start()
    };
    let unknown = |service: &Service| {
        let lines = service.log.trouble_so_far();
        lines
            .iter()
            .any(|line| line.contains("it is not known when the registry itself last answered"))
    };
    // It never answered: nothing shows that the mirror follows it.
    registry.fault("/v2/", Fault::Status(500));
    let service = start();
    assert_eq!(service.listing(), best_before(0) + &listing);
    eventually("a warning", || unknown(&service));
    registry.behave();
    assert_eq!(start().listing(), best_before(2) + &listing);
    registry.fault("/v2/", Fault::Status(500));
    let service = start();
    assert_eq!(service.listing(), best_before(2) + &listing);
    assert!(!unknown(&service));
    for (days, expected) in [(-1, 1), (-4, -3)] {
        shift(&state, days);
        assert_eq!(start().listing(), best_before(expected) + &listing);
    }
    // By a clock that was wrong at that time: it must not be fresh for years.
    shift(&state, 400);
    assert_eq!(start().listing(), best_before(0) + &listing);
    registry.behave();
    assert_eq!(start().listing(), best_before(2) + &listing);
    registry.fault("/v2/", Fault::Status(500));
    assert_eq!(
        start().listing(),
        best_before(2) + &listing,
        "it was set right"
    );
}
