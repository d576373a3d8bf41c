//! Several repositories as one directory, as sysextmgr needs it.

use std::io::Read;

use flate2::read::GzDecoder;
use serde_json::{Value, json};

use crate::content::{OCI_MANIFEST, OCI_TAR, Repository, empty_listing, line, sha256, versions};
use crate::registry::{Fault, Registry, count};
use crate::service::{ANEW, Folder, Service, X86, later};

/// A push of an image that says what it is in annotations.
fn push(repository: &mut Repository, version: &str, bytes: &[u8], annotations: &Value) {
    let layer = repository.file(OCI_TAR, "image.raw", bytes);
    let mut artifact = repository.artifact(&[layer], json!({"annotations": annotations}));
    artifact["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let other = repository.file(OCI_TAR, "image.raw", &[bytes, b" elsewhere"].concat());
    let mut other = repository.artifact(&[other], json!({"annotations": annotations}));
    other["platform"] = json!({"os": "linux", "architecture": "arm64"});
    let index = repository.index_of(&[artifact, other], json!({}));
    repository.point(version, &index);
}

fn unpack(bytes: &[u8]) -> Value {
    let mut json = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut json).unwrap();
    serde_json::from_slice(&json).unwrap()
}

#[test]
fn sysextmgr_finds_its_images_in_one_directory_of_two_repositories() {
    let (mut tools, mut strace) = (Repository::default(), Repository::default());
    let any = json!({"ID": "_any", "com.suse.SYSEXT_SCOPE": "system", "unknown": "x"});
    let level = json!({"ID": "opensuse-microos", "SYSEXT_LEVEL": "1.0", "VERSION_ID": "20260301"});
    push(&mut tools, "23.7", b"tools 23.7", &any);
    push(&mut tools, "24.0", b"tools 24.0", &any);
    push(&mut strace, "29.1", b"strace", &level);
    let registry = Registry::start();
    registry.put("suse/debug-tools", tools);
    registry.put("suse/extra/strace", strace);
    let service = Service::start(format!(
        "registry = \"{}/suse\"\n[repository.sysexts]\nsource = [\"debug-tools\", \"extra/strace\"]\n\
         names = \"{{name}}-{{version}}.{{arch}}\"\narchitectures = [\"x86-64\"]\n",
        registry.address
    ));
    let images: [(&str, &[u8], Value); 3] = [
        (
            "debug-tools-23.7.x86-64",
            b"tools 23.7",
            json!({"ID": "_any", "SYSEXT_SCOPE": "system", "SYSEXT_VERSION_ID": "23.7", "ARCHITECTURE": "x86-64"}),
        ),
        (
            "debug-tools-24.0.x86-64",
            b"tools 24.0",
            json!({"ID": "_any", "SYSEXT_SCOPE": "system", "SYSEXT_VERSION_ID": "24.0", "ARCHITECTURE": "x86-64"}),
        ),
        (
            "strace-29.1.x86-64",
            b"strace",
            json!({"ID": "opensuse-microos", "SYSEXT_LEVEL": "1.0", "VERSION_ID": "20260301", "SYSEXT_VERSION_ID": "29.1", "ARCHITECTURE": "x86-64"}),
        ),
    ];
    let listing: String = images
        .iter()
        .map(|(stem, bytes, _)| line(bytes, &format!("{stem}.raw")))
        .collect();
    let found = service.get("/sysexts/SHA256SUMS");
    assert_eq!((found.status, found.text()), (200, listing.as_str()));
    for (stem, bytes, extension) in &images {
        let sidecar = service.get(&format!("/sysexts/{stem}.manifest.gz"));
        assert_eq!(sidecar.status, 200, "{stem}: {:?}", sidecar.headers);
        let manifest = unpack(&sidecar.body);
        assert_eq!(&manifest["extension"], extension, "{stem}");
        assert_eq!(manifest["manifest_version"], 1);
        let again = service.get(&format!("/sysexts/{stem}.manifest.gz"));
        assert_eq!(again.body, sidecar.body, "the same bytes every time");
        let older = service.get(&format!("/sysexts/{stem}.raw.json"));
        let older: Value = serde_json::from_slice(&older.body).unwrap();
        assert_eq!(
            older,
            json!({"image_name": format!("{stem}.raw"), "sysext": extension})
        );
        let image = service.get(&format!("/sysexts/{stem}.raw"));
        assert_eq!((image.status, image.body.as_slice()), (200, *bytes));
        let sum = service.get(&format!("/sysexts/{stem}.raw.sha256"));
        assert_eq!(sum.text(), line(bytes, &format!("{stem}.raw")));
    }
    // A missing file that sysextmgr asks for must be 404 with an empty body: it installs error bodies.
    for name in [
        "strace-29.1.arm64.raw",
        "strace-29.1.arm64.manifest.gz",
        "strace-29.1.x86-64.raw.manifest.gz",
        "strace-30.0.x86-64.manifest.gz",
        "strace-30.0.x86-64.raw.json",
        "SHA256SUMS.gpg",
        "SHA256SUMS.manifest.gz",
        "latest.json",
    ] {
        let response = service.get(&format!("/sysexts/{name}"));
        assert_eq!(
            (response.status, response.body),
            (404, Vec::new()),
            "{name}"
        );
    }
}

/// All that a publisher does is `oras push FILE`: what sysextmgr asks for to list, check, install and
/// update is in the names and in the images.
#[test]
fn sysextmgr_needs_nothing_that_a_publisher_prepares() {
    const IMAGE: &[u8] = include_bytes!("../images/gzip.squashfs");
    let (mut tools, mut strace) = (Repository::default(), Repository::default());
    for tag in ["23.7.x86-64", "24.0.x86-64"] {
        tools.oras_push(tag, "debug-tools.raw", IMAGE);
    }
    strace.oras_push("29.1.x86-64", "strace.raw", IMAGE);
    let registry = Registry::start();
    registry.put("suse/debug-tools", tools);
    registry.put("suse/strace", strace);
    let service = Service::start(format!(
        "registry = \"{}/suse\"\n[repository.sysexts]\nsource = [\"debug-tools\", \"strace\"]\n",
        registry.address
    ));
    let images = [
        ("debug-tools-23.7.x86-64", "23.7"),
        ("debug-tools-24.0.x86-64", "24.0"),
        ("strace-29.1.x86-64", "29.1"),
    ];
    let listing: String = images
        .iter()
        .map(|(stem, _)| line(IMAGE, &format!("{stem}.raw")))
        .collect();
    assert_eq!(service.get("/sysexts/SHA256SUMS").text(), listing);
    for (stem, version) in images {
        let sidecar = service.get(&format!("/sysexts/{stem}.manifest.gz"));
        assert_eq!(
            unpack(&sidecar.body)["extension"],
            json!({
                "ID": "fedora", "VERSION_ID": "42", "SYSEXT_LEVEL": "2.0",
                "SYSEXT_VERSION_ID": version, "ARCHITECTURE": "x86-64",
            }),
            "{stem}"
        );
        let image = service.get(&format!("/sysexts/{stem}.raw"));
        assert_eq!((image.status, image.body.as_slice()), (200, IMAGE));
    }
}

#[test]
fn an_image_that_says_nowhere_what_it_is_for_has_no_sidecar() {
    let mut hello = Repository::default();
    push(&mut hello, "1.0", b"image", &json!({"SYSEXT_LEVEL": "1.0"}));
    let registry = Registry::with_hello(hello);
    let service = Service::start(registry.settings() + X86);
    assert_eq!(service.listing(), line(b"image", "hello-1.0-x86-64.raw"));
    for name in ["hello-1.0-x86-64.manifest.gz", "hello-1.0-x86-64.raw.json"] {
        let response = service.get(&format!("/hello/{name}"));
        assert_eq!(
            (response.status, response.body),
            (404, Vec::new()),
            "{name}"
        );
    }
}

/// The manifest of an image in a repository that is made by this function.
fn said(make: impl FnOnce(&mut Repository)) -> Value {
    let mut hello = Repository::default();
    make(&mut hello);
    let registry = Registry::with_hello(hello);
    let service = Service::of(&registry);
    let response = service.get("/hello/hello-1.0.manifest.gz");
    match response.status {
        200 => unpack(&response.body)["extension"].clone(),
        status => json!(status),
    }
}

/// Attaches a file to the manifest of a tag.
fn attach(hello: &mut Repository, tag: &str, media_type: &str, title: &str, bytes: &[u8]) {
    let digest = hello.tags[tag].clone();
    let size = hello.manifests[&digest].bytes.len();
    let layer = hello.file(media_type, title, bytes);
    let subject = json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": size});
    let attached = hello.artifact(&[layer], json!({"subject": subject}));
    let index = hello.index_of(&[attached], json!({}));
    hello.point(&digest.replace(':', "-"), &index);
}

#[test]
fn what_an_image_is_for_is_read_where_its_publisher_put_it() {
    const RELEASE: &[u8] = b"ID=\"wrasse\"\nVERSION_ID=43\nNAME=not a field\n";
    const MKOSI: &[u8] =
        br#"{"manifest_version":1,"extension":{"ID":"_any","SYSEXT_SCOPE":"system"}}"#;
    let image = Repository::default().file(OCI_TAR, "image.raw", b"image");
    let wrasse = json!({"ID": "wrasse", "VERSION_ID": "43", "SYSEXT_VERSION_ID": "1.0"});

    let beside = said(|hello| {
        let release = hello.file("text/plain", "hello.extension-release", RELEASE);
        let artifact = hello.artifact(&[image.clone(), release], json!({}));
        hello.point("1.0", &artifact);
    });
    assert_eq!(beside, wrasse, "in a layer");

    let attached = said(|hello| {
        let artifact = hello.artifact(std::slice::from_ref(&image), json!({}));
        hello.point("1.0", &artifact);
        attach(hello, "1.0", "application/json", "hello.manifest", MKOSI);
    });
    let expected = json!({"ID": "_any", "SYSEXT_SCOPE": "system", "SYSEXT_VERSION_ID": "1.0"});
    assert_eq!(attached, expected, "in an attached artifact");

    let annotated = said(|hello| {
        let annotations =
            json!({"org.example.ID": "_any", "org.opencontainers.image.version": "7"});
        let artifact = hello.artifact(
            std::slice::from_ref(&image),
            json!({"annotations": annotations}),
        );
        hello.point("1.0", &artifact);
    });
    assert_eq!(
        annotated,
        json!({"ID": "_any", "SYSEXT_VERSION_ID": "7"}),
        "in annotations"
    );

    let mixed = said(|hello| {
        let release = hello.file("text/plain", "hello.extension-release", RELEASE);
        let annotations = json!({"ID": "other", "SYSEXT_LEVEL": "1.0"});
        let more = json!({"annotations": annotations});
        let artifact = hello.artifact(&[image.clone(), release], more);
        hello.point("1.0", &artifact);
    });
    let mut expected = wrasse.clone();
    expected["SYSEXT_LEVEL"] = json!("1.0");
    assert_eq!(mixed, expected, "field by field, the document first");

    let logged = said(|hello| {
        let release = hello.file("text/plain", "hello.extension-release", RELEASE);
        let artifact = hello.artifact(&[image.clone(), release], json!({}));
        hello.point("1.0", &artifact);
        attach(
            hello,
            "1.0",
            "text/plain",
            "build.log",
            b"+ cat /etc/os-release\nID=debian\nSYSEXT_LEVEL=9\n",
        );
    });
    assert_eq!(
        logged, wrasse,
        "what a build printed is no word about the image"
    );

    let nothing = said(|hello| {
        let artifact = hello.artifact(std::slice::from_ref(&image), json!({}));
        hello.point("1.0", &artifact);
    });
    assert_eq!(nothing, json!(404), "nowhere");
}

#[test]
fn a_registry_and_a_layout_are_merged() {
    let (hello, listing) = versions(2);
    let mut tools = Repository::default();
    tools.oras_push("7", "tools.raw", b"tools");
    let folder = Folder::new();
    let path = folder.path().join("tools");
    tools.write_layout(&path);
    let registry = Registry::with_hello(hello);
    let more = format!(
        "[repository.all]\nsource = [\"hello\", \"oci:{}\"]\n",
        path.display()
    );
    let service = Service::start(registry.settings() + &more);
    let expected = listing + &line(b"tools", "tools-7.raw");
    assert_eq!(service.get("/all/SHA256SUMS").text(), expected);
    assert_eq!(service.get("/all/tools-7.raw").body, b"tools");
    assert_eq!(service.get("/all/hello-v1.raw").body, b"image 1");
}

#[test]
fn files_of_one_name_come_from_the_source_that_the_line_is_of() {
    let (mut first, mut second) = (Repository::default(), Repository::default());
    first.oras_push("x-v1", "a.raw", b"the first's");
    second.oras_push("v1", "a.raw", b"the second's");
    second.oras_push("v2", "a.raw", b"the second's alone");
    let registry = Registry::start();
    registry.put("one/hello", first);
    registry.put("two/hello-x", second);
    let service = Service::start(
        registry.settings() + "[repository.all]\nsource = [\"one/hello\", \"two/hello-x\"]\n",
    );
    let expected =
        line(b"the first's", "hello-x-v1.raw") + &line(b"the second's alone", "hello-x-v2.raw");
    assert_eq!(service.get("/all/SHA256SUMS").text(), expected);
    registry.take_requests();
    assert_eq!(service.get("/all/hello-x-v1.raw").body, b"the first's");
    assert_eq!(
        service.get("/all/hello-x-v2.raw").body,
        b"the second's alone"
    );
    assert_eq!(
        registry.take_requests(),
        [
            format!("GET /v2/one/hello/blobs/sha256:{}", sha256(b"the first's")),
            format!(
                "GET /v2/two/hello-x/blobs/sha256:{}",
                sha256(b"the second's alone")
            ),
        ]
    );
}

#[test]
fn a_source_that_fails_fails_the_whole_directory() {
    // Half a directory would say that the other half is gone.
    for (fault, status) in [
        (Fault::Status(403), 403),
        (Fault::Status(500), 502),
        (Fault::Status(404), 404),
    ] {
        let registry = Registry::with_hello(versions(2).0);
        registry.put("tools", versions(1).0);
        let service = Service::start(
            registry.settings()
                + &format!("{ANEW}[repository.all]\nsource = [\"hello\", \"tools\"]\n"),
        );
        let whole = service.get("/all/SHA256SUMS");
        assert_eq!((whole.status, whole.text().lines().count()), (200, 3));
        registry.fault("/v2/tools/", fault.clone());
        later();
        let response = service.get("/all/SHA256SUMS");
        assert_eq!(
            (response.status, response.body),
            (status, Vec::new()),
            "{fault:?}"
        );
        registry.behave();
        assert_eq!(service.get("/all/SHA256SUMS").text(), whole.text());
    }
}

#[test]
fn a_merged_directory_has_no_artifacts_of_its_own_and_no_signed_list() {
    let mut hello = versions(1).0;
    let list = hello.file(OCI_TAR, "SHA256SUMS", b"list");
    let list = hello.artifact(&[list], json!({}));
    hello.point("SHA256SUMS", &list);
    let registry = Registry::with_hello(hello);
    registry.put("empty", Repository::default());
    registry.put("nothing", Repository::default());
    let service = Service::start(
        registry.settings()
            + "[repository.all]\nsource = [\"hello\", \"empty\"]\n[repository.none]\nsource = [\"empty\", \"nothing\"]\n",
    );
    assert_eq!(
        service.get("/all/SHA256SUMS").text(),
        line(b"image 0", "hello-v0.raw")
    );
    assert_eq!(service.get("/none/SHA256SUMS").text(), empty_listing());
    for target in [
        "/all:v0/SHA256SUMS",
        "/all:v0/hello.raw",
        "/all:v0/latest.json",
        "/all/SHA256SUMS.gpg",
    ] {
        let response = service.get(target);
        assert_eq!(
            (response.status, response.body),
            (404, Vec::new()),
            "{target}"
        );
    }
    let requests = registry.take_requests();
    assert_eq!(count(&requests, "/manifests/v0"), 1, "{requests:?}");
}
