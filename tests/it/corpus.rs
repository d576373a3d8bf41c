//! `corpus/`: what other projects test with is read as what it is, or left out with one reason.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::content::{Manifest, OCI_INDEX, OCI_MANIFEST, Repository, digest, empty_listing, line};
use crate::registry::{Fault, Registry};
use crate::service::Service;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/corpus");
const IMAGES: &str = "containers-image/manifest";
const LIBS: &str = "container-libs";

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

/// The result for a file of the corpus.
enum Made {
    /// A line for the tag `v1`, by its digest (the beginning) and suffix.
    Listed(&'static str, &'static str),
    /// The reason has this in it.
    LeftOut(&'static str),
}
use Made::{LeftOut, Listed};

#[test]
fn every_manifest_is_listed_or_left_out_with_one_reason() {
    // Folder, file, the type a registry names, the architecture on offer, what is made of it.
    // The children of indexes are nowhere: so the reason names the one that was chosen.
    let table = [
        (
            IMAGES,
            "non-json.manifest.json",
            OCI_MANIFEST,
            "x86-64",
            LeftOut("cannot be understood"),
        ),
        (
            IMAGES,
            "unknown-version.manifest.json",
            "application/json",
            "x86-64",
            LeftOut("neither 'manifests' nor 'layers'"),
        ),
        (
            IMAGES,
            "v2s1-invalid-signatures.manifest.json",
            SCHEMA_1,
            "x86-64",
            LeftOut("it is schema 1"),
        ),
        (
            IMAGES,
            "v2s1-unsigned.manifest.json",
            SCHEMA_1,
            "x86-64",
            LeftOut("it is schema 1"),
        ),
        (
            IMAGES,
            "v2s1.manifest.json",
            SCHEMA_1,
            "x86-64",
            LeftOut("it is schema 1"),
        ),
        (
            IMAGES,
            "oci1.index.everything.json",
            OCI_INDEX,
            "x86-64",
            LeftOut("its one platform is B/A/E"),
        ),
        (
            IMAGES,
            "v2list.everything.json",
            DOCKER_LIST,
            "x86-64",
            LeftOut("its one platform is b/a/e"),
        ),
        (
            IMAGES,
            "oci1.index.zstd-selection.json",
            OCI_INDEX,
            "x86-64",
            LeftOut("manifests/sha256:aaaa"),
        ),
        (
            IMAGES,
            "oci1.index.zstd-selection.json",
            OCI_INDEX,
            "arm64",
            LeftOut("manifests/sha256:cccc"),
        ),
        (
            IMAGES,
            "oci1.index.zstd-selection.json",
            OCI_INDEX,
            "s390x",
            LeftOut("manifests/sha256:eeee"),
        ),
        (
            IMAGES,
            "oci1.index.zstd-selection2.json",
            OCI_INDEX,
            "x86-64",
            LeftOut("manifests/sha256:aaaa"),
        ),
        (
            IMAGES,
            "oci1.index.zstd-selection2.json",
            OCI_INDEX,
            "arm64",
            LeftOut("manifests/sha256:1c98"),
        ),
        (
            IMAGES,
            "oci1index.json",
            OCI_INDEX,
            "x86-64",
            LeftOut("manifests/sha256:5b0b"),
        ),
        (
            IMAGES,
            "oci1index.json",
            OCI_INDEX,
            "riscv64",
            LeftOut(
                "its platforms are linux/ppc64le, linux/amd64, linux/arm64, offered is riscv64",
            ),
        ),
        (
            IMAGES,
            "ociv1.image.index.json",
            OCI_INDEX,
            "ppc64-le",
            LeftOut("manifests/sha256:e692"),
        ),
        (
            IMAGES,
            "ociv1nomime.image.index.json",
            OCI_INDEX,
            "x86-64",
            LeftOut("manifests/sha256:5b0b"),
        ),
        (
            IMAGES,
            "ociv1nomime.image.index.json",
            "application/octet-stream",
            "x86-64",
            LeftOut("manifests/sha256:5b0b"),
        ),
        (
            IMAGES,
            "ociv1nomime.image.index.json",
            OCI_MANIFEST,
            "x86-64",
            LeftOut("disagree"),
        ),
        (
            IMAGES,
            "ociv1.artifact.json",
            OCI_MANIFEST,
            "x86-64",
            LeftOut("config: \"\" is not a digest"),
        ),
        (
            IMAGES,
            "ociv1nomime.artifact.json",
            OCI_MANIFEST,
            "x86-64",
            LeftOut("config: \"\" is not a digest"),
        ),
        (
            IMAGES,
            "ociv1.manifest.json",
            OCI_MANIFEST,
            "x86-64",
            LeftOut("there is no cache directory to do it in"),
        ),
        (
            IMAGES,
            "ociv1nomime.manifest.json",
            OCI_MANIFEST,
            "x86-64",
            LeftOut("there is no cache directory to do it in"),
        ),
        (
            IMAGES,
            "v2s2.manifest.json",
            DOCKER_MANIFEST,
            "x86-64",
            LeftOut("there is no cache directory to do it in"),
        ),
        (
            IMAGES,
            "v2s2nomime.manifest.json",
            DOCKER_MANIFEST,
            "x86-64",
            LeftOut("container image without layers"),
        ),
        (
            IMAGES,
            "v2s2nomime.manifest.json",
            DOCKER_LIST,
            "x86-64",
            LeftOut("disagree"),
        ),
        (
            IMAGES,
            "ocilist-variants.json",
            OCI_INDEX,
            "x86-64",
            LeftOut("manifests/sha256:59ee"),
        ),
        (
            IMAGES,
            "ocilist-variants.json",
            OCI_INDEX,
            "arm",
            LeftOut("manifests/sha256:eeee"),
        ),
        (
            IMAGES,
            "schema2list-variants.json",
            DOCKER_LIST,
            "x86-64",
            LeftOut("manifests/sha256:59ee"),
        ),
        (
            IMAGES,
            "schema2list-variants.json",
            DOCKER_LIST,
            "arm",
            LeftOut("manifests/sha256:c84b"),
        ),
        (
            IMAGES,
            "schema2list.json",
            DOCKER_LIST,
            "x86-64",
            LeftOut("manifests/sha256:030f"),
        ),
        (
            IMAGES,
            "schema2list.json",
            DOCKER_LIST,
            "arm",
            LeftOut("manifests/sha256:b5db"),
        ),
        (
            IMAGES,
            "schema2list.json",
            DOCKER_LIST,
            "x86",
            LeftOut("manifests/sha256:9a33"),
        ),
        (
            IMAGES,
            "v2list.manifest.json",
            DOCKER_LIST,
            "x86-64",
            LeftOut("manifests/sha256:ae1b"),
        ),
        (
            LIBS,
            "fedora.index.json",
            OCI_INDEX,
            "x86-64",
            LeftOut("manifests/sha256:f81f"),
        ),
        (
            LIBS,
            "fedora.index.json",
            OCI_INDEX,
            "arm64",
            LeftOut("manifests/sha256:c829"),
        ),
        (
            LIBS,
            "fedora.list.json",
            DOCKER_LIST,
            "arm64",
            LeftOut("manifests/sha256:c829"),
        ),
        (
            LIBS,
            "fedora.schema2.json",
            DOCKER_MANIFEST,
            "x86-64",
            Listed("5a915a173fbc36dc", ".tar.gz"),
        ),
        (
            LIBS,
            "fedora-minimal.schema2.json",
            DOCKER_MANIFEST,
            "x86-64",
            Listed("8fad33c002fa130a", ".tar.gz"),
        ),
    ];
    let mentioned: BTreeSet<_> = table.iter().map(|row| (row.0, row.1.to_owned())).collect();
    let there: BTreeSet<_> = [IMAGES, LIBS]
        .iter()
        .flat_map(|folder| files(folder))
        .collect();
    assert_eq!(mentioned, there);

    let registry = Registry::start();
    let mut settings = format!("registry = \"{}\"\n", registry.address);
    for (n, (folder, file, media_type, architecture, _)) in table.iter().enumerate() {
        let bytes = fs::read(format!("{CORPUS}/{folder}/{file}")).unwrap();
        let mut repository = Repository::default();
        repository.tags.insert("v1".to_owned(), digest(&bytes));
        let manifest = Manifest {
            media_type: OCI_MANIFEST.to_owned(),
            bytes: bytes.into(),
        };
        repository
            .manifests
            .insert(repository.tags["v1"].clone(), manifest);
        // Where no manifest at all can be read, there is no listing.
        repository.oras_push("good", "good.raw", b"good");
        registry.put(&format!("file{n}"), repository);
        let pattern = format!("/v2/file{n}/manifests/v1$").leak();
        registry.fault(pattern, Fault::header("Content-Type", *media_type));
        settings += &format!("[repository.file{n}]\narchitectures = [\"{architecture}\"]\n");
    }
    let service = Service::start(settings);
    for (n, (_, file, media_type, architecture, made)) in table.iter().enumerate() {
        let row = format!("{file} as {media_type} for {architecture}");
        let response = service.get(&format!("/file{n}/SHA256SUMS"));
        let good = line(b"good", &format!("file{n}-good.raw"));
        let text = response.text();
        assert!(text.contains(&good), "{row}: {text}");
        let found = (response.status, text.replace(&good, ""));
        let mut reasons = service.log.with(&[&format!("file{n}: ")]);
        reasons.retain(|line| line.contains("skipped"));
        match made {
            Listed(begins, suffix) => {
                let expected = format!("  file{n}-v1{suffix}\n");
                assert!(
                    found.0 == 200 && found.1.starts_with(begins) && found.1.ends_with(&expected),
                    "{row}: {found:?}"
                );
                assert_eq!(
                    (found.1.len(), reasons),
                    (64 + expected.len(), vec![]),
                    "{row}"
                );
            }
            LeftOut(part) => {
                assert_eq!(found, (200, String::new()), "{row}: {reasons:?}");
                assert!(
                    reasons.len() == 1 && reasons[0].contains(part),
                    "{row}: {reasons:?}"
                );
            }
        }
    }
}

/// The manifests in a folder.
fn files<'a>(folder: &'a &str) -> Vec<(&'a str, String)> {
    let entries = fs::read_dir(Path::new(CORPUS).join(folder)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| name.ends_with(".json"))
        .map(|name| (*folder, name))
        .collect()
}

#[test]
fn every_layout_is_listed_or_left_out_with_one_reason() {
    let empty = "its type \"application/vnd.oci.empty.v1+json\" is not a tar's";
    for (name, reason) in [
        (
            "blobs-only",
            Some("its type \"application/vnd.example.data.v1.tar+gzip\" is not a tar's"),
        ),
        ("config-only", Some(empty)),
        ("no-blobs", Some(empty)),
        ("index", Some("gives it no name")),
    ] {
        let service = Service::start(format!(
            "[repository.hello]\nsource = \"oci:{CORPUS}/{LIBS}/artifacts/{name}\"\n"
        ));
        assert_eq!(service.listing(), empty_listing(), "{name}");
        let mut reasons = service.log.with(&["hello: "]);
        reasons.retain(|line| line.contains("skipped"));
        assert_eq!(
            reasons.len(),
            usize::from(reason.is_some()),
            "{name}: {reasons:?}"
        );
        if let Some(reason) = reason {
            assert!(reasons[0].contains(reason), "{name}: {reasons:?}");
        }
    }
}
