//! Chooses the entries of an index that are for the architectures on offer.

use std::collections::BTreeMap;

use super::container::BUILD_CACHE;
pub use super::container::IS_BUILD_CACHE;
use crate::manifest::{Annotations, DOCKER_LIST, Descriptor, Entry, Index, OCI_INDEX, Platform};
use crate::platform::{self, Architecture};

/// Annotations that distinguish entries for one architecture: of Garden Linux, and of the machine images of podman.
const FLAVOURS: [&str; 2] = ["cname", "disktype"];
/// BuildKit's annotation of the entry of an attestation, with any value.
const ATTESTATION: &str = "vnd.docker.reference.type";

/// The entries of an index by kind. Attestations are in neither list.
#[derive(Debug, Default, PartialEq)]
pub struct Sorted {
    /// Artifacts.
    pub artifacts: Vec<Entry>,
    /// Nested indexes.
    pub nested: Vec<Descriptor>,
    /// The index has an entry of a cache of BuildKit.
    pub is_build_cache: bool,
}

/// The artifacts of an index that are offered.
#[derive(Debug, Default, PartialEq)]
pub struct Choice {
    /// One entry for each architecture on offer and each flavour of it.
    pub chosen: Vec<Chosen>,
    /// The index has one platform, so it counts as the one manifest that is chosen.
    pub is_single: bool,
    /// A reason for each artifact that is for an architecture on offer and is not chosen, though none is better.
    pub twins: Vec<String>,
}

/// An artifact that is offered.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// Its architecture, if the index gives one.
    pub architecture: Option<Architecture>,
    /// The value of the annotation that distinguishes it from others for the same architecture.
    pub flavour: Option<String>,
    /// Its manifest.
    pub descriptor: Descriptor,
}

/// Sorts the entries of an index.
pub fn sort(index: Index) -> Sorted {
    let mut sorted = Sorted::default();
    for mut entry in index.entries {
        let Descriptor {
            media_type,
            annotations,
            ..
        } = &entry.descriptor;
        sorted.is_build_cache |= media_type == BUILD_CACHE;
        if annotations.contains_key(ATTESTATION) || entry.platform.as_ref().is_some_and(is_unknown)
        {
            continue;
        }
        if matches!(media_type.as_str(), OCI_INDEX | DOCKER_LIST) {
            sorted.nested.push(entry.descriptor);
            continue;
        }
        if entry.platform.is_none()
            && let Some(architecture) = annotations.get("architecture")
        {
            entry.platform = Some(Platform {
                os: "linux".to_owned(),
                architecture: architecture.clone(),
                variant: None,
            });
        }
        sorted.artifacts.push(entry);
    }
    sorted
}

fn is_unknown(platform: &Platform) -> bool {
    platform.os == "unknown" || platform.architecture == "unknown"
}

/// Chooses one artifact for each architecture on offer, or returns the reason why there is none.
///
/// Of two entries for one architecture, takes the variant with the better [`rank`], else the first.
pub fn choose(entries: &[Entry], offered: &[Architecture]) -> Result<Choice, String> {
    let Some(first) = entries.first() else {
        return Err("index without a single artifact".into());
    };
    let is_single = entries.iter().all(|other| kind(other) == kind(first));
    if is_single && first.platform.is_none() {
        return choose_without_platform(entries);
    }

    let mut best: Vec<(u8, Chosen)> = Vec::new();
    let mut twins = Vec::new();
    // Indexes in `best`. An index can have very many entries, so they are not compared with each other.
    let mut places = BTreeMap::new();
    for entry in entries {
        let Some(platform) = &entry.platform else {
            continue;
        };
        let Some(architecture) = architecture(platform).filter(|found| offered.contains(found))
        else {
            continue;
        };
        let rank = rank(platform);
        let flavour = flavour(&entry.descriptor.annotations);
        let candidate = Chosen {
            architecture: Some(architecture),
            flavour: flavour.filter(|_| !is_single).map(str::to_owned),
            descriptor: entry.descriptor.clone(),
        };
        let place = *(places.entry((architecture, flavour))).or_insert(best.len());
        match best.get_mut(place) {
            None => best.push((rank, candidate)),
            Some(rival) if rank < rival.0 => *rival = (rank, candidate),
            Some((best, rival)) => {
                let digest = candidate.descriptor.digest;
                if rank == *best && rival.descriptor.digest != digest {
                    twins.push(format!(
                        "manifest {digest}: another entry of its index is for {architecture} too, and no annotation \
                         that is known ({}) tells them apart",
                        FLAVOURS.join(", ")
                    ));
                }
            }
        }
    }
    if best.is_empty() {
        return Err(not_offered(entries, is_single, offered));
    }
    Ok(Choice {
        chosen: best.into_iter().map(|(_, chosen)| chosen).collect(),
        is_single,
        twins,
    })
}

fn choose_without_platform(entries: &[Entry]) -> Result<Choice, String> {
    let [only] = entries else {
        return Err(format!(
            "index of {} artifacts without a platform, so no name tells them apart",
            entries.len()
        ));
    };
    Ok(Choice {
        chosen: vec![Chosen {
            architecture: None,
            flavour: None,
            descriptor: only.descriptor.clone(),
        }],
        is_single: true,
        twins: Vec::new(),
    })
}

fn not_offered(entries: &[Entry], is_single: bool, offered: &[Architecture]) -> String {
    let platforms = entries.iter().filter_map(|entry| entry.platform.as_ref());
    let platforms: Vec<_> = platforms.map(Platform::to_string).collect();
    let offered = platform::join(offered);
    match platforms.first() {
        Some(platform) if is_single => {
            format!("its one platform is {platform}, offered is {offered}")
        }
        _ => {
            let platforms = platforms.join(", ");
            format!("its platforms are {platforms}, offered is {offered}")
        }
    }
}

/// The platform without its variant, and the flavour.
fn kind(entry: &Entry) -> (Option<(&str, &str)>, Option<&str>) {
    let platform = entry.platform.as_ref();
    let platform = platform.map(|one| (one.os.as_str(), one.architecture.as_str()));
    (platform, flavour(&entry.descriptor.annotations))
}

/// The annotation that tells an artifact from others for its architecture.
pub fn flavour(annotations: &Annotations) -> Option<&str> {
    let found = FLAVOURS.iter().find_map(|name| annotations.get(*name));
    found.map(String::as_str)
}

/// The architecture of a platform of Linux.
fn architecture(platform: &Platform) -> Option<Architecture> {
    let is_linux = matches!(platform.os.as_str(), "linux" | "");
    Architecture::of_oci(&platform.architecture).filter(|_| is_linux)
}

/// The order of variants; the lowest is preferred. Of amd64 the plainest runs on most machines; of arm the newest is
/// preferred.
fn rank(platform: &Platform) -> u8 {
    let variant = platform.variant.as_deref().unwrap_or_default();
    match (platform.architecture.as_str(), variant) {
        ("arm", "v7") | ("arm64", "v8") => 0,
        ("arm", "") => 1,
        ("arm", "v6") => 2,
        (_, "" | "v1") => 0,
        (_, "v2") => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    /// An artifact for `os/architecture[/variant]`, or for `-`; its digest is that of its number.
    fn artifact(n: usize, platform: &str) -> Entry {
        let mut parts = platform.split('/').map(str::to_owned);
        Entry {
            descriptor: Descriptor {
                media_type: crate::manifest::OCI_MANIFEST.into(),
                digest: Digest::of(n.to_string().as_bytes()),
                size: 1,
                annotations: Default::default(),
                is_foreign: false,
                artifact_type: None,
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
        match choose(&artifacts, &offered) {
            Ok(Choice {
                chosen, is_single, ..
            }) => {
                let name = |one: &Chosen| {
                    let number = number(&one.descriptor);
                    let flavour = one.flavour.as_deref().unwrap_or_default();
                    match one.architecture {
                        Some(architecture) if !is_single => {
                            format!("{flavour}{architecture}={number}")
                        }
                        _ => number,
                    }
                };
                chosen.iter().map(name).collect::<Vec<_>>().join(" ")
            }
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
                &["linux/amd64/v3", "linux/amd64"],
                &["x86-64"],
                "1",
                "of one platform, too, what more machines can run",
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
            let artifacts: Vec<_> = artifacts
                .map(|(n, platform)| artifact(n, platform))
                .collect();
            let Choice { twins, .. } = choose(&artifacts, &offered).unwrap();
            assert_eq!(twins.len(), expected, "{why}: {twins:?}");
        }
        // The same manifest twice counts once.
        let twice = vec![artifact(0, "linux/amd64"), artifact(0, "linux/amd64")];
        assert_eq!(choose(&twice, &offered).unwrap().twins, [""; 0]);
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
        let Choice { chosen, twins, .. } = choose(&artifacts, &offered).unwrap();
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
        let unknown = artifact(0, "unknown/unknown");
        let mut marked = artifact(1, "linux/amd64");
        marked
            .descriptor
            .annotations
            .insert(ATTESTATION.into(), "builder".into());
        let real = artifact(2, "linux/amd64");
        let mut nested = artifact(3, "-");
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
