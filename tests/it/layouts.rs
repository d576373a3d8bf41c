//! OCI layout directories as sources: what names their entries, and what is damaged in them. Each
//! fault is told with the path it is at, and the rest is served.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::content::{
    OCI_INDEX, OCI_MANIFEST, OCI_TAR, Repository, digest, empty_listing, line, sha256,
};
use crate::service::{ANEW, Folder, Service, command, eventually, later, output};

/// A layout on disk whose `index.json` a test writes.
struct Layout {
    folder: Folder,
    content: Repository,
    /// The entries of `index.json`.
    entries: Vec<Value>,
}

impl Layout {
    fn new() -> Self {
        Layout {
            folder: Folder::new(),
            content: Repository::default(),
            entries: Vec::new(),
        }
    }

    /// Stores an artifact with one file, and returns its descriptor.
    fn file(&mut self, bytes: &[u8]) -> Value {
        let layer = self.content.file(OCI_TAR, "title.raw", bytes);
        self.content.artifact(&[layer], json!({}))
    }

    /// Stores one and names it in the index.
    fn version(&mut self, name: &str, bytes: &[u8]) {
        let descriptor = self.file(bytes);
        self.entries.push(named(name, &descriptor));
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn blob_path(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        self.path().join("blobs/sha256").join(hex)
    }

    fn write(&self) {
        self.content.write_layout(self.path());
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": self.entries});
        fs::write(self.path().join("index.json"), index.to_string()).unwrap();
    }

    fn settings(&self) -> String {
        self.folder.settings() + "architectures = [\"x86-64\"]\n"
    }

    /// Writes it, and serves it as `hello`, each listing made anew.
    fn serve(&self) -> Service {
        self.write();
        Service::start(ANEW.to_owned() + &self.settings())
    }
}

/// An entry of `index.json`.
fn named(name: &str, descriptor: &Value) -> Value {
    let mut entry = descriptor.clone();
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    entry
}

/// Puts a named pipe in the place of a file. Whoever opens one waits.
fn make_pipe(path: &Path) {
    fs::remove_file(path).unwrap();
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// The lines of the log with all of these texts, after so many listings.
fn told_in(listings: usize, service: &Service, texts: &[&str]) -> Vec<String> {
    let has = |line: &str, texts: &[&str]| texts.iter().all(|text| line.contains(text));
    eventually("they are told of", || {
        let lines = service.log.lines().into_iter();
        lines.filter(|line| has(line, &[" listed in "])).count() >= listings
    });
    let mut lines = service.log.lines();
    lines.retain(|line| has(line, texts));
    lines
}

/// The same after the first one.
fn told(service: &Service, texts: &[&str]) -> Vec<String> {
    told_in(1, service, texts)
}

#[test]
fn names_in_nested_indexes_count_as_those_of_the_index() {
    let mut layout = Layout::new();
    layout.version("v1", b"first");
    let second = named("v2", &layout.file(b"second"));
    let third = named("v3", &layout.file(b"third"));
    let inner = layout.content.index_of(&[third], json!({}));
    let outer = layout.content.index_of(&[second, inner], json!({}));
    // The named entry is an index of its own; its entries are for machines.
    let mut of_machine = layout.file(b"fourth");
    of_machine["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let own = layout.content.index_of(&[of_machine], json!({}));
    layout.entries.extend([outer, named("v4", &own)]);
    let service = layout.serve();
    let expected: [(&str, &[u8]); 4] = [
        ("v1", b"first"),
        ("v2", b"second"),
        ("v3", b"third"),
        ("v4", b"fourth"),
    ];
    let lines = expected.map(|(tag, bytes)| line(bytes, &format!("hello-{tag}.raw")));
    assert_eq!(service.listing(), lines.concat());
    for (tag, bytes) in expected {
        let response = service.get(&format!("/hello/hello-{tag}.raw"));
        assert_eq!((response.status, response.body.as_slice()), (200, bytes));
    }
}

#[test]
fn nested_indexes_are_followed_to_a_depth_and_a_number() {
    let mut layout = Layout::new();
    layout.version("good", b"good");
    for (name, depth) in [("near", 4), ("far", 5)] {
        let mut found = named(name, &layout.file(name.as_bytes()));
        for _ in 0..depth {
            found = layout.content.index_of(&[found], json!({}));
        }
        layout.entries.push(found);
    }
    let service = layout.serve();
    let expected = line(b"good", "hello-good.raw") + &line(b"near", "hello-near.raw");
    assert_eq!(service.listing(), expected);
    let reasons = told(&service, &["nested in more than 4 indexes"]);
    assert_eq!(reasons.len(), 1, "{:?}", service.log.lines());

    let mut layout = Layout::new();
    let many: Vec<_> = (0..10_000)
        .map(|n| {
            layout
                .content
                .index_of(&[], json!({"annotations": {"n": n.to_string()}}))
        })
        .collect();
    layout.entries.extend(many);
    layout.version("good", b"good");
    let service = layout.serve();
    assert_eq!(service.listing(), line(b"good", "hello-good.raw"));
    let reasons = told(&service, &["256 indexes were read before it"]);
    assert_eq!(reasons.len(), 1, "{} lines", service.log.lines().len());
}

#[test]
fn indexes_that_go_round_in_a_circle_are_read_once() {
    // No honest layout can have them, but nothing keeps a file from being what its name denies.
    let mut layout = Layout::new();
    layout.version("good", b"good");
    let lie = json!({"mediaType": OCI_INDEX, "digest": digest(b"a lie"), "size": 1});
    let circle = layout.content.index_of(&vec![lie.clone(); 1000], json!({}));
    layout.entries.extend([circle.clone(), lie]);
    layout.write();
    let path = layout.blob_path(&digest(b"a lie"));
    let circle = layout.blob_path(circle["digest"].as_str().unwrap());
    fs::copy(circle, &path).unwrap();
    let service = Service::start(layout.settings());
    assert_eq!(service.listing(), line(b"good", "hello-good.raw"));
    let reasons = told(&service, &[path.to_str().unwrap(), "has the wrong bytes"]);
    assert_eq!(reasons.len(), 1, "{:?}", service.log.lines());
}

#[test]
fn nested_indexes_that_cannot_be_read_are_told_by_their_path() {
    let mut layout = Layout::new();
    layout.version("good", b"good");
    let lost = json!({"mediaType": OCI_INDEX, "digest": digest(b"lost"), "size": 1});
    let broken = layout.content.manifest(b"{\"manifests\": [");
    let mut image = layout.file(b"no index");
    for index in [&lost, &broken, &image] {
        let mut entry = index.clone();
        entry["mediaType"] = json!(OCI_INDEX);
        layout.entries.push(entry);
    }
    image["mediaType"] = json!(OCI_INDEX);
    let service = layout.serve();
    assert_eq!(service.listing(), line(b"good", "hello-good.raw"));
    for (descriptor, reason) in [
        (lost, "there is no such file in it"),
        (broken, "this index cannot be understood: EOF"),
        (
            image,
            "the index lists it as an index, but it is a manifest",
        ),
    ] {
        let path = layout.blob_path(descriptor["digest"].as_str().unwrap());
        let reasons = told(&service, &[path.to_str().unwrap(), reason]);
        assert_eq!(reasons.len(), 1, "{reason}: {:?}", service.log.lines());
    }
}

#[test]
fn a_name_by_sha512_is_left_out_with_its_reason_once() {
    let mut layout = Layout::new();
    layout.version("good", b"good");
    let sha512 = format!("sha512:{}", "0f".repeat(64));
    let descriptor = json!({"mediaType": OCI_MANIFEST, "digest": sha512, "size": 1});
    layout.entries.push(named("long", &descriptor));
    let service = layout.serve();
    for _ in 0..2 {
        assert_eq!(service.listing(), line(b"good", "hello-good.raw"));
        later();
    }
    let reason = format!(
        "OCI layout {}/index.json: index entry 2: digest algorithm \"sha512\" cannot be listed in \
         SHA256SUMS, only sha256 can",
        layout.path().display()
    );
    assert_eq!(
        told_in(2, &service, &["long"]),
        [format!("warning: hello: tag long skipped: {reason}")]
    );
    let response = service.get("/hello:long/SHA256SUMS");
    assert_eq!(
        (response.status, response.header("x-reason")),
        (502, Some(reason.as_str()))
    );
}

#[test]
fn an_entry_of_the_wrong_form_is_left_out_with_its_reason_and_the_rest_is_served() {
    let mut layout = Layout::new();
    layout.version("good", b"good");
    let descriptor = json!({"mediaType": OCI_MANIFEST, "digest": digest(b"x"), "size": 1});
    let mut annotated = named("annotated", &descriptor);
    annotated["annotations"]["number"] = json!(7);
    let mut sized = named("sized", &descriptor);
    sized["size"] = json!("one");
    layout.entries.extend([annotated, sized, json!("no entry")]);
    let service = layout.serve();
    assert_eq!(service.listing(), line(b"good", "hello-good.raw"));
    for (tag, reason) in [
        (
            "annotated",
            "index entry 2: invalid type: integer `7`, expected a string",
        ),
        (
            "sized",
            "index entry 3: invalid type: string \"one\", expected u64",
        ),
    ] {
        let told = told(&service, &[&format!("tag {tag} skipped"), reason]);
        assert_eq!(told.len(), 1, "{tag}: {:?}", service.log.lines());
    }
    assert_eq!(told(&service, &["index entry 4: invalid type"]).len(), 1);
}

#[test]
fn a_name_that_is_no_tag_is_told_and_the_rest_is_served() {
    let mut layout = Layout::new();
    layout.version("good", b"good");
    let bad = [
        "../up",
        "ghcr.io/acme/hello",
        "Hello:v1",
        "1.31.5+k3s1",
        "",
        "two\nlines",
    ];
    for name in bad {
        layout.version(name, name.as_bytes());
    }
    let service = layout.serve();
    assert_eq!(service.listing(), line(b"good", "hello-good.raw"));
    for name in bad {
        let quoted = format!("{name:?}");
        let reasons = told(&service, &["skipped", &quoted]);
        assert_eq!(reasons.len(), 1, "{quoted}: {:?}", service.log.lines());
    }
}

#[test]
fn a_name_that_is_a_whole_reference_gives_its_tag() {
    // As podman save, skopeo and crane pull --annotate-ref write them.
    let digest = "a".repeat(64);
    let names = [
        ("localhost/tools:v1.0", "v1.0"),
        ("tools:v1.1", "v1.1"),
        ("registry.example.com:5000/acme/tools:v1.2", "v1.2"),
        (&format!("ghcr.io/acme/tools:v1.3@sha256:{digest}"), "v1.3"),
    ];
    let mut layout = Layout::new();
    for (name, tag) in names {
        layout.version(name, tag.as_bytes());
    }
    let service = layout.serve();
    let expected = names.map(|(_, tag)| line(tag.as_bytes(), &format!("hello-{tag}.raw")));
    assert_eq!(service.listing(), expected.concat());
    let channel = service.get("/hello:v1.0/SHA256SUMS");
    assert_eq!(channel.status, 200, "{channel:?}");
    assert!(told(&service, &["skipped"]).is_empty());
}

#[test]
fn entries_without_a_name_are_reported_unless_they_belong_to_another() {
    let mut layout = Layout::new();
    layout.version("v1", b"first");
    let subject = layout.entries[0].clone();
    // The form that zot writes: each child of an index has an entry of its own, without a name.
    let mut child = layout.file(b"a child");
    child["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let index = layout.content.index_of(&[child.clone()], json!({}));
    layout.entries.extend([named("v2", &index), child]);
    let note = layout.content.file("text/plain", "note", b"a note");
    let attached = json!({"subject": {"mediaType": subject["mediaType"], "digest": subject["digest"], "size": subject["size"]}});
    let attached = layout.content.artifact(&[note], attached);
    let alone = layout.file(b"alone");
    layout.entries.extend([attached, alone.clone()]);
    let service = layout.serve();
    let expected = line(b"first", "hello-v1.raw") + &line(b"a child", "hello-v2.raw");
    assert_eq!(service.listing(), expected);
    let reasons = told(&service, &["skipped"]);
    let [reason] = &reasons[..] else {
        panic!("{reasons:?}")
    };
    let digest = alone["digest"].as_str().unwrap();
    for part in [digest, "gives it no name"] {
        assert!(reason.contains(part), "{reason}");
    }
    assert_eq!(service.log.trouble_so_far().len(), 1, "it is a warning");
}

#[test]
fn of_two_entries_of_one_name_the_first_counts() {
    let mut layout = Layout::new();
    layout.version("same", b"one");
    layout.version("same", b"one");
    layout.version("twice", b"the first");
    layout.version("twice", b"the second");
    let service = layout.serve();
    let expected = line(b"one", "hello-same.raw") + &line(b"the first", "hello-twice.raw");
    assert_eq!(service.listing(), expected);
    assert_eq!(
        told(&service, &["several entries"]),
        [format!(
            "oci:{}: tag twice is the name of several entries of its index, the first one counts",
            layout.path().display()
        )]
    );
}

#[test]
fn manifests_that_are_missing_or_damaged_are_told_by_name_and_the_rest_is_served() {
    let mut layout = Layout::new();
    for name in [
        "good", "missing", "cut", "changed", "folder", "large", "pipe",
    ] {
        layout.version(name, name.as_bytes());
    }
    layout.write();
    let path = |n: usize| layout.blob_path(layout.entries[n]["digest"].as_str().unwrap());
    fs::remove_file(path(1)).unwrap();
    let cut = fs::read(path(2)).unwrap();
    fs::write(path(2), &cut[..cut.len() / 2]).unwrap();
    let changed = fs::read_to_string(path(3)).unwrap();
    let changed = changed.replace(&sha256(b"changed"), &sha256(b"another"));
    fs::write(path(3), changed).unwrap();
    fs::remove_file(path(4)).unwrap();
    fs::create_dir(path(4)).unwrap();
    fs::write(path(5), " ".repeat(9 << 20)).unwrap();
    make_pipe(&path(6));
    let service = Service::start(ANEW.to_owned() + &layout.settings());
    let hex = |n: usize| path(n).file_name().unwrap().to_str().unwrap().to_owned();
    for _ in 0..2 {
        assert_eq!(service.listing(), line(b"good", "hello-good.raw"));
        later();
    }
    for (n, tag, reason) in [
        (1, "missing", "there is no such file in it"),
        (2, "cut", "has the wrong bytes"),
        (3, "changed", "has the wrong bytes"),
        (4, "folder", "this is not a regular file"),
        (5, "large", "it has more than 8388608 bytes"),
        (6, "pipe", "this is not a regular file"),
    ] {
        let about = format!("hello: tag {tag} skipped: ");
        let reasons = told_in(2, &service, &[&about, &hex(n), reason]);
        assert_eq!(reasons.len(), 1, "{tag}: {:?}", service.log.lines());
        let response = service.get(&format!("/hello:{tag}/SHA256SUMS"));
        let why = response.header("x-reason").unwrap_or_default();
        assert!(
            response.status >= 500 && why.contains(&hex(n)) && why.contains(reason),
            "{tag}: {response:?}"
        );
    }
}

#[test]
fn blobs_that_are_missing_or_damaged_are_told_by_path_and_the_rest_is_served() {
    let mut layout = Layout::new();
    for name in ["good", "missing", "short", "long", "changed", "pipe"] {
        layout.version(name, format!("the bytes of {name}").as_bytes());
    }
    layout.write();
    let path = |name: &str| layout.blob_path(&digest(format!("the bytes of {name}").as_bytes()));
    fs::remove_file(path("missing")).unwrap();
    fs::write(path("short"), "the by").unwrap();
    fs::write(path("long"), "the bytes of long, and more").unwrap();
    fs::write(path("changed"), "the bytes of Changed").unwrap();
    make_pipe(&path("pipe"));
    let service = Service::start(layout.settings());
    assert_eq!(service.listing().lines().count(), 6);
    for (name, reason) in [
        ("missing", "there is no such file in it"),
        ("short", "has the wrong size: expected 18 bytes, found 6"),
        ("long", "has the wrong size: expected 17 bytes, found 27"),
        ("pipe", "this is not a regular file"),
    ] {
        let response = service.get(&format!("/hello/hello-{name}.raw"));
        let why = response.header("x-reason").unwrap_or_default().to_owned();
        assert_eq!((response.status, response.body.len()), (502, 0), "{name}");
        let path = path(name);
        assert!(
            why.contains(path.to_str().unwrap()) && why.contains(reason),
            "{name}: {why}"
        );
        let lines = service.log.with(&[&why]);
        assert_eq!(lines.len(), 1, "{name}: {:?}", service.log.lines());
    }
    // Its length is right: what is wrong shows at its last byte, which comes with its first piece.
    let changed = service.get("/hello/hello-changed.raw");
    assert_eq!(
        (changed.status, changed.body.len()),
        (502, 0),
        "{changed:?}"
    );
    let path = path("changed");
    let hex = path.file_name().unwrap().to_str().unwrap();
    let lines = service.log.with(&[hex, "has the wrong bytes"]);
    assert_eq!(lines.len(), 1, "{:?}", service.log.lines());
    let good = service.get("/hello/hello-good.raw");
    assert_eq!(
        (good.status, good.body.as_slice()),
        (200, &b"the bytes of good"[..])
    );
}

#[test]
fn an_archive_as_a_source_is_refused_with_what_to_do() {
    let folder = Folder::new();
    let archive = folder.file("hello.oci.tar", "index.json and the rest");
    let config = format!(
        "[repository.hello]\nsource = \"oci:{}\"\n",
        archive.display()
    );
    let reason = format!(
        "OCI layout {}: this is a file, expected a directory; an archive must be unpacked first",
        archive.display()
    );
    let service = Service::start(&*config);
    let response = service.get("/hello/SHA256SUMS");
    assert_eq!(
        (response.status, response.header("x-reason")),
        (502, Some(reason.as_str()))
    );
    let file = folder.file("config.toml", &config);
    let output = output(command(&[
        "list",
        "hello",
        "--config",
        file.to_str().unwrap(),
    ]));
    assert_eq!(
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).as_ref()
        ),
        (Some(69), format!("error: {reason}\n").as_str())
    );
}

#[test]
fn what_was_listed_is_delivered_though_the_index_has_changed() {
    let mut layout = Layout::new();
    layout.version("v1", b"as it was");
    let service = layout.serve();
    assert_eq!(service.listing(), line(b"as it was", "hello-v1.raw"));

    layout.entries.clear();
    layout.version("v1", b"as it is now");
    layout.version("v2", b"new");
    layout.write();
    later();
    let file = |name: &str| service.get(&format!("/hello/{name}")).body;
    assert_eq!(file("hello-v1.raw"), b"as it was", "promised");
    assert_eq!(
        file("hello-v2.raw"),
        b"new",
        "what was not promised is looked for"
    );
    assert_eq!(file("hello-v1.raw"), b"as it was", "still promised");
    let now = line(b"as it is now", "hello-v1.raw") + &line(b"new", "hello-v2.raw");
    assert_eq!(service.listing(), now);
    assert_eq!(file("hello-v1.raw"), b"as it is now", "the new promise");

    // A publisher who writes the index in place is seen half way.
    fs::write(layout.path().join("index.json"), "{\"manifests\":[").unwrap();
    later();
    let response = service.get("/hello/SHA256SUMS");
    let why = response.header("x-reason").unwrap_or_default();
    assert!(
        response.status == 502 && why.contains("its index.json cannot be understood"),
        "{response:?}"
    );
    assert_eq!(file("hello-v2.raw"), b"new", "what was promised before");
    layout.write();
    later();
    assert_eq!(service.listing(), now, "it has recovered");
}

#[test]
fn links_are_followed_and_what_they_lead_to_is_checked() {
    let mut layout = Layout::new();
    layout.version("elsewhere", b"in another place");
    layout.version("lie", b"in another file!");
    layout.write();
    let other = Folder::new();
    for (bytes, target) in [
        (&b"in another place"[..], "in another place"),
        (b"in another file!", "not what it says"),
    ] {
        let blob = layout.blob_path(&digest(bytes));
        let target = other.file(target, target);
        fs::remove_file(&blob).unwrap();
        symlink(target, blob).unwrap();
    }
    let current = other.path().join("current");
    symlink(layout.path(), &current).unwrap();
    let settings = format!(
        "{ANEW}[repository.hello]\nsource = \"oci:{}\"\n",
        current.display()
    );
    let service = Service::start(settings);
    assert_eq!(service.listing().lines().count(), 2);
    let good = service.get("/hello/hello-elsewhere.raw");
    assert_eq!(
        (good.status, good.body.as_slice()),
        (200, &b"in another place"[..])
    );
    let bad = service.get("/hello/hello-lie.raw");
    assert_eq!((bad.status, bad.body.len()), (502, 0), "{bad:?}");

    // A publisher may put the next state beside this one and move the link.
    let mut next = Layout::new();
    next.version("v2", b"the next");
    next.write();
    fs::remove_file(&current).unwrap();
    symlink(next.path(), &current).unwrap();
    later();
    assert_eq!(service.listing(), line(b"the next", "hello-v2.raw"));
}

#[test]
fn an_index_without_entries_is_an_empty_listing() {
    for index in [
        json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}),
        json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": null}),
        // As zot writes it.
        json!({"schemaVersion": 2, "manifests": null}),
    ] {
        let layout = Layout::new();
        layout.write();
        fs::write(layout.path().join("index.json"), index.to_string()).unwrap();
        let service = Service::start(layout.settings());
        assert_eq!(service.listing(), empty_listing(), "{index}");
    }
}

#[test]
fn what_is_attached_is_found_behind_any_number_of_things_attached_to_others() {
    let mut layout = Layout::new();
    let subject = layout.file(b"image");
    let other = layout.file(b"another image");
    layout.entries.push(named("v1", &subject));
    for n in 0..100_u8 {
        let layer = layout.content.file("text/plain", "note", &[n]);
        let more = json!({"subject": other});
        layout.entries.push(layout.content.artifact(&[layer], more));
    }
    let layer = layout.content.file(
        "application/json",
        "title.manifest",
        br#"{"manifest_version":1,"extension":{"ID":"_any","SYSEXT_SCOPE":"system"}}"#,
    );
    let attached = json!({"subject": subject});
    layout
        .entries
        .push(layout.content.artifact(&[layer], attached));
    let service = layout.serve();
    let response = service.get("/hello/hello-v1.manifest.gz");
    assert_eq!(response.status, 200, "{:?}", response.headers);
}
