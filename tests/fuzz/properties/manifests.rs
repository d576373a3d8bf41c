//! Manifests and indexes, as far as the listing that comes of them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;

use flate2::read::GzDecoder;
use jiff::civil::date;
use serde_json::Value;

use super::grammar::{assert_listing, is_file_name};
use super::parts;
use super::signed_lists::listing_of;
use crate::artifact::index::{self, Chosen};
use crate::artifact::{self, Content, Offer, Recognised};
use crate::cli::list::{self, Form};
use crate::digest::Digest;
use crate::extension_release::Metadata;
use crate::listing::{Artifact, Listing, Naming};
use crate::manifest::{DOCKER_LIST, DOCKER_MANIFEST, Image, Manifest, OCI_INDEX, OCI_MANIFEST};
use crate::platform::Architecture;
use crate::server::html;
use crate::server::json::{Overview, Row};
use crate::template::Template;

/// Whatever manifests say, what comes of them is a listing that systemd-sysupdate reads.
///
/// The first part is what a tag leads to. Of an index the second part is the manifest that its entries
/// lead to; of a manifest it is the config, and a document about the image.
pub fn manifests(data: &[u8]) {
    let parts = parts(data);
    let second = parts.get(1).copied();
    let found = Manifest::parse(None, parts[0]);
    for (media_type, is_index) in [
        (OCI_MANIFEST, false),
        (DOCKER_MANIFEST, false),
        (OCI_INDEX, true),
        (DOCKER_LIST, true),
    ] {
        match (Manifest::parse(Some(media_type), parts[0]), &found) {
            (Ok(typed), Ok(found)) => assert_eq!(typed, *found, "{media_type}"),
            // Only what has neither layers nor entries may be taken for both.
            (Ok(Manifest::Image(image)), Err(_)) => assert!(!is_index && image.layers.is_empty()),
            (Ok(Manifest::Index(index)), Err(_)) => assert!(is_index && index.entries.is_empty()),
            (Err(_), _) => {}
        }
    }
    let digest = Digest::of(parts[0]);
    match found {
        Ok(Manifest::Image(image)) => {
            if let Some(document) = second {
                assert_metadata(document);
            }
            for recognised in recognise(&image, second) {
                let artifact = artifact(digest, &image, recognised, None);
                assert_listed(vec![artifact]);
            }
        }
        Ok(Manifest::Index(index)) => {
            let leaf = match second.map(|bytes| Manifest::parse(None, bytes)) {
                Some(Ok(Manifest::Image(image))) => image,
                _ => simple_image(),
            };
            let offered = ["x86-64", "arm64", "arm"].map(|name| name.parse().unwrap());
            if let Ok(choice) = index::choose(&index::sort(index).artifacts, &offered) {
                let chosen = &choice.chosen;
                assert!(!choice.is_single || chosen.len() == 1);
                assert_chosen(chosen, &offered);
                let artifacts = chosen.iter().map(|chosen| {
                    let [recognised, ..] = recognise(&leaf, None);
                    let digest = chosen.descriptor.digest;
                    artifact(digest, &leaf, recognised, Some(chosen))
                });
                assert_listed(artifacts.collect());
            }
        }
        Err(_) => {}
    }
}

fn simple_image() -> Image {
    let layer = br#"{"layers":[{"digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000",
        "size":1,"annotations":{"org.opencontainers.image.title":"a.raw"}}]}"#;
    match Manifest::parse(None, layer) {
        Ok(Manifest::Image(image)) => image,
        other => panic!("{other:?}"),
    }
}

fn assert_chosen(several: &[Chosen], offered: &[Architecture]) {
    for (n, one) in several.iter().enumerate() {
        assert!(
            one.architecture
                .is_none_or(|found| offered.contains(&found))
        );
        let rivals = several[..n].iter();
        let mut rivals = rivals.filter(|other| other.architecture == one.architecture);
        assert!(rivals.all(|other| other.flavour != one.flavour));
    }
}

/// The files that an image offers, in each view.
fn recognise(image: &Image, config: Option<&[u8]>) -> [Recognised; 4] {
    let found = || {
        let mut found = artifact::recognise(image, config);
        if let Some(recipe) = found.to_flatten.take() {
            assert!(!recipe.layers.is_empty());
            assert!(recipe.size() >= recipe.layers[0].1);
            found.offers.push(recipe.clone().offer(recipe.key(), 1));
        }
        found
    };
    let titled = Recognised {
        offers: artifact::titled(image),
        ..Recognised::default()
    };
    let all = [
        found(),
        artifact::recognise_as(image, ".raw"),
        artifact::as_directory(image, found()),
        titled,
    ];
    for offer in all.iter().flat_map(|one| &one.offers) {
        assert_offer(image, offer);
    }
    all
}

/// Its bytes are those of a layer, or their digest is right, or they are made of layers.
fn assert_offer(image: &Image, offer: &Offer) {
    let has_layer = |digest: Digest, size: u64| {
        (image.layers.iter()).any(|layer| layer.digest == digest && layer.size == size)
    };
    match &offer.content {
        Content::Blob => assert!(has_layer(offer.digest, offer.size)),
        Content::Text(text) => {
            assert_eq!(offer.digest, Digest::of(text.as_bytes()));
            assert_eq!(offer.size, text.len() as u64);
        }
        Content::Flattened { recipe, .. } => {
            assert!(
                recipe
                    .layers
                    .iter()
                    .all(|(digest, size)| has_layer(*digest, *size))
            );
        }
    }
}

fn artifact(
    manifest: Digest,
    image: &Image,
    recognised: Recognised,
    chosen: Option<&Chosen>,
) -> Artifact {
    if let Some(release) = &recognised.kubesolo {
        let latest = release.latest_json("v1", |digest| Some(format!("http://h/{}", digest.hex())));
        let latest: Value = serde_json::from_str(&latest.unwrap()).unwrap();
        assert!(latest["version"].is_string(), "{latest}");
    }
    Artifact {
        manifest,
        architecture: chosen.map_or(recognised.only_for, |chosen| chosen.architecture),
        is_of_index: chosen.is_some_and(|chosen| chosen.architecture.is_some()),
        flavour: chosen.and_then(|chosen| chosen.flavour.clone()),
        version: artifact::version(&image.annotations).map(str::to_owned),
        accepted: None,
        schedule: None,
        recognised,
    }
}

/// Each artifact is on offer or has a reason why not, and the listing is one.
fn assert_listed(artifacts: Vec<Artifact>) {
    let template: Template = "{name}_{version}_{arch}".parse().unwrap();
    let tag = "v1".parse().unwrap();
    for artifact in artifacts {
        let copy = || Artifact {
            manifest: artifact.manifest,
            architecture: artifact.architecture,
            is_of_index: artifact.is_of_index,
            flavour: artifact.flavour.clone(),
            version: artifact.version.clone(),
            accepted: None,
            schedule: None,
            recognised: Recognised {
                offers: artifact.recognised.offers.clone(),
                skipped: artifact.recognised.skipped.clone(),
                ..Recognised::default()
            },
        };
        for (template, keeps_titles) in [(None, false), (Some(&template), false), (None, true)] {
            let naming = Naming {
                base: "k8s",
                template,
                source: 0,
                keeps_titles,
            };
            let (mut listing, mut again) = (Listing::default(), Listing::default());
            listing.add(&naming, &tag, vec![copy()]);
            again.add(&naming, &tag, vec![copy(), copy()]);
            assert_eq!(
                listing.files, again.files,
                "what is there twice changes nothing"
            );
            let said = listing.files.len() + listing.left_out.len();
            assert!(said > 0 || artifact.recognised.offers.is_empty());
            assert_written(&listing);
        }
    }
}

/// All forms in which a listing is told.
fn assert_written(listing: &Listing) {
    for (name, file) in &listing.files {
        assert!(is_file_name(name.as_str()), "{name}");
        assert_eq!(file.tag.as_str(), "v1");
    }
    let text = listing.text(Some(date(2030, 2, 3)));
    assert_listing(&text);
    let again = listing_of(text.as_bytes());
    let digests = |listing: &Listing| -> BTreeMap<_, _> {
        let files = listing.files.iter();
        files
            .map(|(name, file)| (name.clone(), file.digest))
            .collect()
    };
    assert_eq!(digests(&again), digests(listing));

    let files = listing.files.iter();
    let rows =
        files.map(|(name, file)| Row::new(Cow::Borrowed(name), Cow::Borrowed(file), Some("k8s")));
    let overview = Overview::of(rows, listing.left_out.iter());
    let again: Overview = serde_json::from_str(&overview.text()).unwrap();
    assert_eq!(again, overview, "what is told to programs is read back");
    let directory = "k8s".parse().unwrap();
    for is_terminal in [false, true] {
        let form = Form {
            all: true,
            is_terminal,
        };
        let table = list::table(&directory, &overview, form);
        let is_control = |c: char| c.is_control() && c != '\n';
        assert!(!table.contains(is_control), "{table:?}");
    }
    let omitted = overview.omitted.unwrap_or_default();
    let files = overview.files.len() + omitted.files;
    assert_eq!(files, listing.files.len());
    let page = html::directory(&overview);
    let rows = page.matches("<tr>").count();
    assert_eq!(
        rows,
        listing.files.len() + usize::from(!listing.files.is_empty()),
        "what is in a name is no HTML"
    );
}

/// A made manifest of an image can be read by others.
fn assert_metadata(document: &[u8]) {
    let metadata = Metadata::of_document(document);
    let json: Value = serde_json::from_str(&metadata.json("k8s.raw")).unwrap();
    let fields = json["sysext"].as_object().unwrap();
    assert_eq!(fields.contains_key("ID"), metadata.has_id());
    for value in fields.values() {
        assert!(
            !value.as_str().unwrap().contains(char::is_control),
            "{json}"
        );
    }
    let mut unpacked = Vec::new();
    let packed = metadata.manifest_gz("k8s");
    GzDecoder::new(packed.as_slice())
        .read_to_end(&mut unpacked)
        .unwrap();
    let manifest: Value = serde_json::from_slice(&unpacked).unwrap();
    assert_eq!(manifest["extension"], json["sysext"]);
}
