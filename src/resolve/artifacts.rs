//! A manifest → the files that it offers, for the machines that files are offered for.

use std::mem;

use serde::Deserialize;

use super::Resolver;
use super::manifests::{Resolved, Unlistable};
use crate::artifact::{self, Recognised};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::listing::{Artifact, Reasons};
use crate::manifest::{Image, Manifest};
use crate::name::Tag;
use crate::platform::{self, Architecture};
use crate::rollout::Schedule;
use crate::source::Reference;

/// The type of an empty config.
const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// Size of a config of two braces.
const NO_CONFIG: u64 = 2;
/// Largest config that is read for its architecture.
const MAX_CONFIG: u64 = 1 << 20;
/// Memory that one tag may take in a listing, in bytes: some twenty thousand files.
const MAX_OF_TAG: usize = 8 << 20;

impl Resolver<'_> {
    /// The artifacts that a manifest or index leads to. The first one has the reasons of all that is left out. `tag`:
    /// the one that was asked for.
    pub fn artifacts(
        &self,
        digest: Digest,
        manifest: Manifest,
        tag: Option<&Tag>,
    ) -> Result<Vec<Artifact>, Unlistable> {
        let (mut room, mut reasons) = (MAX_OF_TAG, Reasons::default());
        let (mut artifacts, skipped) = self.visit_images(digest, manifest, tag, |resolved| {
            let mut artifact = self.artifact(resolved)?;
            reasons.extend(mem::take(&mut artifact.recognised.skipped));
            artifact.condense(&self.naming);
            room = room.checked_sub(artifact.weight()).ok_or_else(|| {
                let limit = MAX_OF_TAG >> 20;
                Unlistable::NotOffered(format!(
                    "it offers so many files that they take more than {limit} MiB of memory"
                ))
            })?;
            Ok(artifact)
        })?;
        reasons.extend(skipped);
        if let Some(first) = artifacts.first_mut() {
            first.recognised.skipped = reasons.told();
        }
        Ok(artifacts)
    }

    /// The image manifests that a reference leads to.
    pub fn images(&self, reference: Reference<'_>) -> Result<Vec<Resolved>> {
        let (digest, manifest) = self.promising(|| self.by_reference(reference))?;
        let tag = match reference {
            Reference::Tag(tag) => Some(tag),
            Reference::Digest(_) => None,
        };
        let found = self.visit_images(digest, manifest, tag, |mut resolved| {
            if let (Reference::Tag(tag), true) = (reference, resolved.is_direct) {
                resolved.annotations = self.source.annotations(tag);
            }
            Ok(resolved)
        });
        found
            .map(|(images, _)| images)
            .map_err(|why| not_offered(reference, why))
    }

    /// The files that one of them offers.
    pub fn offered(&self, reference: Reference<'_>, image: &Image) -> Result<Recognised> {
        let recognised = self.recognise(image, None);
        recognised.map_err(|why| not_offered(reference, why))
    }

    fn artifact(&self, resolved: Resolved) -> Result<Artifact, Unlistable> {
        let Resolved {
            image,
            architecture,
            ..
        } = &resolved;
        let recognised = self.recognise(image, *architecture)?;
        let template = self.naming.template;
        let known = match architecture {
            None if template.is_some_and(|template| template.wants_arch()) => {
                self.architecture_of(image)?
            }
            known => *known,
        };
        let version = artifact::version(&image.annotations).map(str::to_owned);
        let schedule = Schedule::annotated(&image.annotations);
        let schedule = schedule.or_else(|| resolved.schedule.clone());
        Ok(Artifact {
            manifest: resolved.digest,
            architecture: known.or(recognised.only_for),
            is_of_index: resolved.is_of_index,
            flavour: resolved.flavour,
            version: version.or(resolved.version),
            accepted: resolved.accepted,
            schedule,
            recognised,
        })
    }

    /// The files that an image manifest offers, if it is for a machine that files are offered for.
    ///
    /// `known`: its architecture, if its index says it.
    fn recognise(
        &self,
        image: &Image,
        known: Option<Architecture>,
    ) -> Result<Recognised, Unlistable> {
        let config = image.config.as_ref();
        let config = config.filter(|config| config.size <= MAX_CONFIG);
        let config = match config {
            Some(config) if artifact::needs_config(image) => {
                Some(self.small_blob("config", config)?)
            }
            // It names the architecture.
            Some(config)
                if artifact::is_container(image) && known.is_none() && config.size > NO_CONFIG =>
            {
                match self.small_blob("config", config) {
                    Err(Error::Missing { .. } | Error::BadLayout { .. }) => None,
                    config => Some(config?),
                }
            }
            _ => None,
        };
        let mut recognised = match self.suffix {
            Some(suffix) => artifact::recognise_as(image, suffix),
            None => artifact::recognise(image, config.as_deref()),
        };
        if self.naming.keeps_titles {
            recognised = artifact::as_directory(image, recognised);
        }
        match recognised.only_for {
            Some(found) if !self.architectures.contains(&found) => {
                let offered = platform::join(self.architectures);
                let why = format!("it says it is for {found}, offered is {offered}");
                Err(Unlistable::NotOffered(why))
            }
            _ => Ok(recognised),
        }
    }

    /// The architecture of a plain manifest: that of an annotation, else of its config.
    pub fn architecture_of(&self, image: &Image) -> Result<Option<Architecture>> {
        #[derive(Deserialize)]
        struct Config {
            architecture: Option<String>,
        }
        let noted = image
            .annotations
            .iter()
            .filter(|(key, _)| *key == "architecture" || key.ends_with(".architecture"))
            .find_map(|(_, value)| Architecture::of_oci(value).or_else(|| value.parse().ok()));
        let is_read = |size, media_type: &str| {
            // oras writes two braces where there is no config; they need not be fetched.
            media_type != OCI_EMPTY && media_type.ends_with("json") && size <= MAX_CONFIG
        };
        let config = image.config.as_ref().filter(|_| noted.is_none());
        let Some(config) = config.filter(|config| is_read(config.size, &config.media_type)) else {
            return Ok(noted);
        };
        let config = serde_json::from_slice(&self.small_blob("config", config)?).ok();
        Ok(config.and_then(|Config { architecture }| Architecture::of_oci(&architecture?)))
    }
}

fn not_offered(reference: Reference<'_>, why: Unlistable) -> Error {
    match why {
        Unlistable::NotOffered(why) | Unlistable::Refused(why) => Error::NotOffered {
            what: match reference {
                Reference::Tag(tag) => format!("tag {tag}"),
                Reference::Digest(digest) => format!("manifest {digest}"),
            },
            why,
        },
        Unlistable::Failed(error) => error,
    }
}
