//! Indexes: which entries are for the machines that files are offered for.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Known;

use super::container::BUILD_CACHE;
pub use super::container::IS_BUILD_CACHE;
use crate::manifest::{DOCKER_LIST, Descriptor, Entry, Index, OCI_INDEX, Platform};
use crate::platform::Architecture;

/// What tells several entries of one architecture apart: Garden Linux's annotation, and that of podman's
/// machine images.
const FLAVOURS: [&str; 2] = ["cname", "disktype"];
/// What buildkit writes on an attestation's entry (its value differs).
const ATTESTATION: &str = "vnd.docker.reference.type";

/// An index sorted out.
#[derive(Debug, Default, PartialEq)]
pub struct Sorted {
    /// Artifacts, each with its platform where it has one.
    pub artifacts: Vec<Artifact>,
    /// Indexes inside this one.
    pub nested: Vec<Descriptor>,
    /// What else is in it, by which it is known to be no index of artifacts.
    pub is_build_cache: bool,
}

/// An artifact that an index leads to.
#[derive(Clone, Debug, PartialEq)]
pub struct Artifact {
    /// Its manifest.
    pub descriptor: Descriptor,
    /// What machine it is for, if the index says.
    pub platform: Option<Platform>,
}

/// What of an index is offered.
#[derive(Debug, PartialEq)]
pub enum Choice {
    /// There is but one platform, which the index may name: it counts as that manifest.
    Single(Descriptor, Option<Architecture>),
    /// One manifest for each architecture on offer, and for each flavour of it.
    Several(Vec<Chosen>),
}

/// One of several.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// What it runs on.
    pub architecture: Architecture,
    /// What tells it from others for that: `cname` or `disktype`.
    pub flavour: Option<String>,
    /// Its manifest.
    pub descriptor: Descriptor,
}

/// Tells artifacts from nested indexes; attestations are neither.
pub fn sort(index: Index) -> Sorted {
    let mut sorted = Sorted::default();
    for Entry {
        descriptor,
        platform,
    } in index.entries
    {
        if descriptor.media_type == BUILD_CACHE {
            sorted.is_build_cache = true;
        }
        if descriptor.annotations.contains_key(ATTESTATION)
            || platform.as_ref().is_some_and(is_unknown)
        {
            continue;
        }
        if matches!(descriptor.media_type.as_str(), OCI_INDEX | DOCKER_LIST) {
            sorted.nested.push(descriptor);
        } else {
            let platform = platform.or_else(|| noted_platform(&descriptor));
            sorted.artifacts.push(Artifact {
                descriptor,
                platform,
            });
        }
    }
    sorted
}

/// The architecture that an annotation names where the entry has no platform.
fn noted_platform(descriptor: &Descriptor) -> Option<Platform> {
    let architecture = descriptor.annotations.get("architecture")?.clone();
    Some(Platform {
        os: "linux".to_owned(),
        architecture,
        variant: None,
    })
}

fn is_unknown(platform: &Platform) -> bool {
    platform.os == "unknown" || platform.architecture == "unknown"
}

/// Picks one artifact for each architecture on offer, or says why there is none.
///
/// Of two for one architecture the one that more machines can run is taken: the plainest variant of
/// amd64, the newest of arm (v7 machines run v6 too). Between equals the first one wins.
///
/// What is for a machine on offer and is not taken, though nothing shows that another is the better one, has a
/// reason beside the choice.
pub fn choose(
    artifacts: Vec<Artifact>,
    offered: &[Architecture],
) -> Result<(Choice, Vec<String>), String> {
    let Some(first) = artifacts.first() else {
        return Err("index without a single artifact".into());
    };
    let is_single = artifacts.iter().all(|other| {
        platform_key(other) == platform_key(first) && flavour(other) == flavour(first)
    });
    if is_single {
        let Some(platform) = &first.platform else {
            return match artifacts.len() {
                1 => Ok((Choice::Single(first.descriptor.clone(), None), Vec::new())),
                n => Err(format!(
                    "index of {n} artifacts without a platform, so no name tells them apart"
                )),
            };
        };
        return match architecture(platform) {
            Some(found) if offered.contains(&found) => {
                let others = artifacts.iter().filter(|other| {
                    other.descriptor.digest != first.descriptor.digest
                        && other.platform.as_ref().map(rank) == Some(rank(platform))
                });
                let twins = others.map(|other| twin(other, found)).collect();
                Ok((Choice::Single(first.descriptor.clone(), Some(found)), twins))
            }
            _ => Err(format!(
                "its one platform is {}, offered is {}",
                spell(platform),
                join(offered)
            )),
        };
    }

    let mut chosen: Vec<(u8, Chosen)> = Vec::new();
    let mut twins = Vec::new();
    // Where each kind is in that list: some indexes have very many.
    let mut places = BTreeMap::<_, usize>::new();
    for artifact in &artifacts {
        let known = artifact.platform.as_ref();
        let Some((architecture, rank)) = known.and_then(|p| Some((architecture(p)?, rank(p))))
        else {
            continue;
        };
        if !offered.contains(&architecture) {
            continue;
        }
        let candidate = Chosen {
            architecture,
            flavour: flavour(artifact).map(str::to_owned),
            descriptor: artifact.descriptor.clone(),
        };
        match places.entry((architecture, flavour(artifact))) {
            Known::Occupied(place) => {
                let rival = &mut chosen[*place.get()];
                if rank < rival.0 {
                    *rival = (rank, candidate);
                } else if rank == rival.0
                    && rival.1.descriptor.digest != candidate.descriptor.digest
                {
                    twins.push(twin(artifact, architecture));
                }
            }
            Known::Vacant(place) => {
                place.insert(chosen.len());
                chosen.push((rank, candidate));
            }
        }
    }
    if chosen.is_empty() {
        let platforms: Vec<_> = artifacts
            .iter()
            .filter_map(|a| a.platform.as_ref())
            .map(spell)
            .collect();
        return Err(format!(
            "its platforms are {}, offered is {}",
            platforms.join(", "),
            join(offered)
        ));
    }
    let chosen = chosen.into_iter().map(|(_, chosen)| chosen).collect();
    Ok((Choice::Several(chosen), twins))
}

/// Why an artifact is not taken that is for the same machine as another.
fn twin(artifact: &Artifact, architecture: Architecture) -> String {
    let digest = artifact.descriptor.digest;
    format!(
        "manifest {digest}: another entry of its index is for {architecture} too, and no annotation that is known \
         ({}) tells them apart",
        FLAVOURS.join(", ")
    )
}

fn flavour(artifact: &Artifact) -> Option<&str> {
    let annotations = &artifact.descriptor.annotations;
    FLAVOURS
        .iter()
        .find_map(|name| annotations.get(*name))
        .map(String::as_str)
}

/// What makes a platform one of its own. Variants do not: they share an architecture's name.
fn platform_key(artifact: &Artifact) -> Option<(&str, &str)> {
    artifact
        .platform
        .as_ref()
        .map(|platform| (platform.os.as_str(), platform.architecture.as_str()))
}

/// The architecture of a platform; an extension is for Linux.
fn architecture(platform: &Platform) -> Option<Architecture> {
    matches!(platform.os.as_str(), "linux" | "")
        .then(|| Architecture::of_oci(&platform.architecture))
        .flatten()
}

/// Which of several variants is preferred: the lowest number.
fn rank(platform: &Platform) -> u8 {
    match (
        platform.architecture.as_str(),
        platform.variant.as_deref().unwrap_or_default(),
    ) {
        ("arm", "v7") => 0,
        ("arm", "") => 1,
        ("arm", "v6") => 2,
        ("arm64", "" | "v8") => 0,
        (_, "" | "v1") => 0,
        (_, "v2") => 3,
        _ => 4,
    }
}

fn spell(platform: &Platform) -> String {
    let variant = platform
        .variant
        .as_deref()
        .map(|variant| format!("/{variant}"))
        .unwrap_or_default();
    format!("{}/{}{variant}", platform.os, platform.architecture)
}

fn join(architectures: &[Architecture]) -> String {
    architectures
        .iter()
        .map(|architecture| architecture.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    /// An artifact for `os/architecture[/variant]`, or for `-`; its digest is that of its number.
    fn artifact(n: usize, platform: &str) -> Artifact {
        let mut parts = platform.split('/').map(str::to_owned);
        Artifact {
            descriptor: Descriptor {
                media_type: crate::manifest::OCI_MANIFEST.into(),
                digest: Digest::of(n.to_string().as_bytes()),
                size: 1,
                annotations: Default::default(),
                is_foreign: false,
            },
            platform: (platform != "-").then(|| Platform {
                os: parts.next().unwrap(),
                architecture: parts.next().unwrap(),
                variant: parts.next(),
            }),
        }
    }

    /// The choice in short: `0` for a single one, `x86-64=1 arm64=0` for several, or the reason.
    fn choice(platforms: &[&str], offered: &[&str]) -> String {
        let artifacts: Vec<_> = platforms
            .iter()
            .enumerate()
            .map(|(n, p)| artifact(n, p))
            .collect();
        let number = |d: &Descriptor| {
            artifacts
                .iter()
                .position(|a| a.descriptor == *d)
                .unwrap()
                .to_string()
        };
        let offered: Vec<_> = offered.iter().map(|name| name.parse().unwrap()).collect();
        match choose(artifacts.clone(), &offered) {
            Ok((Choice::Single(one, _), _)) => number(&one),
            Ok((Choice::Several(several), _)) => several
                .iter()
                .map(|one| {
                    let flavour = one.flavour.as_deref().unwrap_or_default();
                    format!("{flavour}{}={}", one.architecture, number(&one.descriptor))
                })
                .collect::<Vec<_>>()
                .join(" "),
            Err(why) => why,
        }
    }

    #[test]
    fn each_offered_architecture_gets_one_artifact() {
        for (platforms, offered, expected, why) in [
            (
                &["linux/arm64", "linux/amd64"][..],
                &["x86-64"][..],
                "x86-64=1",
                "this machine's",
            ),
            (
                &["linux/arm64", "linux/amd64"],
                &["x86-64", "arm64"],
                "arm64=0 x86-64=1",
                "both",
            ),
            (
                &["linux/amd64"],
                &["x86-64"],
                "0",
                "one platform counts as its manifest",
            ),
            (
                &["linux/amd64", "linux/amd64"],
                &["x86-64"],
                "0",
                "gzip and zstd of one platform: the first",
            ),
            (
                &["linux/arm64"],
                &["x86-64"],
                "its one platform is linux/arm64, offered is x86-64",
                "foreign",
            ),
            (&["-"], &["x86-64"], "0", "no platform, but no doubt either"),
            (
                &["-", "-"],
                &["x86-64"],
                "index of 2 artifacts without a platform, so no name tells them apart",
                "",
            ),
            (
                &["linux/amd64/v3", "linux/amd64", "linux/arm64"],
                &["x86-64"],
                "x86-64=1",
                "runs everywhere",
            ),
            (
                &["linux/arm/v6", "linux/arm/v7", "linux/amd64"],
                &["arm"],
                "arm=1",
                "v7 before v6",
            ),
            (
                &["linux/arm64/v8", "linux/arm64", "linux/amd64"],
                &["arm64"],
                "arm64=0",
                "v8 is arm64",
            ),
            (
                &["windows/amd64", "linux/arm64"],
                &["x86-64"],
                "its platforms are windows/amd64, linux/arm64, offered is x86-64",
                "",
            ),
            (
                &["windows/amd64", "linux/amd64"],
                &["x86-64"],
                "x86-64=1",
                "an extension is for Linux",
            ),
            (&[], &["x86-64"], "index without a single artifact", "empty"),
        ] {
            assert_eq!(choice(platforms, offered), expected, "{why}: {platforms:?}");
        }
    }

    #[test]
    fn what_is_not_taken_without_a_reason_to_see_is_named() {
        let offered = ["x86-64".parse().unwrap()];
        for (platforms, expected, why) in [
            (&["linux/amd64", "linux/arm64"][..], 0, "one for each"),
            (
                &["linux/amd64", "linux/amd64"],
                1,
                "two for one, and nothing else",
            ),
            (
                &["linux/amd64", "linux/arm64", "linux/amd64"],
                1,
                "two for one",
            ),
            (
                &["linux/amd64", "linux/arm64", "linux/arm64"],
                0,
                "for another",
            ),
            (
                &["linux/amd64", "linux/arm64", "linux/amd64/v3"],
                0,
                "another variant",
            ),
        ] {
            let artifacts = platforms.iter().enumerate();
            let artifacts = artifacts
                .map(|(n, platform)| artifact(n, platform))
                .collect();
            let (_, twins) = choose(artifacts, &offered).unwrap();
            assert_eq!(twins.len(), expected, "{why}: {twins:?}");
        }
        // The same manifest twice is one.
        let twice = vec![artifact(0, "linux/amd64"), artifact(0, "linux/amd64")];
        assert_eq!(choose(twice, &offered).unwrap().1, [""; 0]);
    }

    #[test]
    fn flavours_of_one_architecture_are_each_offered() {
        let flavoured = |n, platform: &str, name: &str| {
            let mut one = artifact(n, platform);
            one.descriptor
                .annotations
                .insert("cname".into(), name.into());
            one
        };
        let artifacts = vec![
            flavoured(0, "linux/amd64", "kvm"),
            flavoured(1, "linux/amd64", "metal"),
            flavoured(2, "linux/arm64", "kvm"),
            flavoured(3, "linux/amd64", "kvm"),
        ];
        let offered = ["x86-64".parse().unwrap()];
        let Ok((Choice::Several(chosen), twins)) = choose(artifacts, &offered) else {
            panic!("they are several");
        };
        let [twin] = &twins[..] else {
            panic!("one is left out: {twins:?}");
        };
        let start = format!("manifest {}: another entry", Digest::of(b"3"));
        assert!(twin.starts_with(&start), "{twin}");
        let found: Vec<_> = chosen.iter().map(|one| one.flavour.as_deref()).collect();
        assert_eq!(found, [Some("kvm"), Some("metal")]);
        assert_eq!(
            chosen[0].descriptor.digest,
            Digest::of(b"0"),
            "the first of equals"
        );
    }

    #[test]
    fn attestations_are_no_artifacts_on_either_mark() {
        let entry = |artifact: Artifact| Entry {
            descriptor: artifact.descriptor,
            platform: artifact.platform,
        };
        let unknown = entry(artifact(0, "unknown/unknown"));
        let mut marked = entry(artifact(1, "linux/amd64"));
        marked
            .descriptor
            .annotations
            .insert(ATTESTATION.into(), "builder".into());
        let real = entry(artifact(2, "linux/amd64"));
        let mut nested = entry(artifact(3, "-"));
        nested.descriptor.media_type = OCI_INDEX.into();
        let sorted = sort(Index {
            entries: vec![unknown, marked, real, nested.clone()],
            annotations: Default::default(),
            unusable: Vec::new(),
        });
        assert_eq!(
            sorted,
            Sorted {
                artifacts: vec![artifact(2, "linux/amd64")],
                nested: vec![nested.descriptor],
                is_build_cache: false,
            }
        );
    }
}
