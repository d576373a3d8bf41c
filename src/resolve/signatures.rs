//! Whether a manifest is signed as the settings ask: its signatures are found here, and judged in `trust/`.
//!
//! They are attached to the manifest (found by the referrers API, else by the fallback tag), or in the manifest with
//! the tag `sha256-<hex>.sig`. Only an answer of the registry shows that there are none: see [`no_answer`].

use std::sync::Arc;

use jiff::Timestamp;

use super::Resolver;
use super::manifests::{Resolved, Unlistable};
use crate::artifact::{self, index};
use crate::digest::Digest;
use crate::error::{Error, Finding, Result};
use crate::listing::File;
use crate::manifest::{Annotations, Descriptor, Image, Manifest};
use crate::name::Tag;
use crate::platform;
use crate::pool;
use crate::source::Reference;
use crate::trust::{
    self, Accepted, Part, Place, Requirement, Rule, Signature, Subject, Trial, Verdict,
};

/// Attached manifests in which signatures of one manifest are looked for. The list of referrers may be wrong about
/// their types (go-containerregistry writes those of their configs), so each is read.
const MAX_CANDIDATES: usize = 64;
/// Largest payload or bundle that is read, in bytes.
const MAX_SIGNATURE: u64 = 1 << 20;

/// The outcome for a manifest.
#[derive(Clone)]
pub enum Trust {
    /// The settings ask for no signature.
    NotAsked,
    /// It is signed as they ask.
    Accepted(Arc<Accepted>),
    /// Why it is not.
    Refused(String),
}

impl Resolver<'_> {
    /// Whether a manifest or index is signed as the settings ask. `tag`: the one that it was asked for by.
    ///
    /// That it is accepted is kept: nothing that could change it is missing in the key. An unsigned one is looked at
    /// again each time. An error if it cannot be found out now.
    pub fn trust(&self, manifest: Digest, tag: Option<&Tag>) -> Result<Trust> {
        let Requirement { repository, .. } = &self.requirement;
        let rules = self.requirement.rules(manifest, tag);
        if rules.is_empty() {
            return Ok(Trust::NotAsked);
        }
        let now = Timestamp::now();
        check_ends(&rules, now)?;
        let accepted = |by| {
            Trust::Accepted(Arc::new(Accepted {
                manifest,
                tag: tag.cloned(),
                by,
            }))
        };
        let by_tag = tag.filter(|_| rules.iter().any(|rule| rule.looks_at_tag()));
        let key = format!(
            "{}\n{manifest}\n{}\n{by_tag:?}",
            self.source.name(),
            trust::digest_of(&rules)
        );
        let key = Digest::of(key.as_bytes());
        // Certificates end, and with them what they have signed.
        let is_final = !rules.iter().any(|rule| rule.looks_at_clock());
        let cache = self.cache.filter(|_| is_final);
        if let Some(by) = cache.and_then(|cache| cache.accepted_by(key)) {
            return Ok(accepted(by));
        }
        let subject = Subject {
            manifest,
            repository: repository.as_ref(),
            tag,
            now,
        };
        let mut trial = Trial::new(&rules, subject);
        if trial.hopeless().is_none() {
            let heard = self.hear_all(manifest, &mut trial);
            heard.map_err(|error| no_answer(manifest, error))?;
        }
        match trial.verdict() {
            Verdict::Accepted(by) => {
                if let Some(cache) = cache {
                    cache.keep_accepted(key, &by);
                }
                Ok(accepted(by))
            }
            Verdict::Refused(why) => Ok(Trust::Refused(why)),
        }
    }

    /// Whether the manifest of a file of an older listing is signed as the settings ask now.
    pub fn still_accepts(&self, file: &File) -> Result<bool> {
        let (manifest, tag) = match (&file.accepted, file.manifest) {
            (Some(accepted), _) => (accepted.manifest, accepted.tag.as_ref()),
            (None, Some(manifest)) => (manifest, Some(&file.tag)),
            // Of a list of its publisher, whose manifest was not asked for.
            (None, None) => {
                let rules = self.requirement.rules(file.digest, Some(&file.tag));
                return Ok(rules.is_empty());
            }
        };
        let found = self.trust(manifest, tag)?;
        Ok(!matches!(found, Trust::Refused(_)))
    }

    /// Hears the signatures of a manifest until they are enough.
    fn hear_all(&self, manifest: Digest, trial: &mut Trial<'_>) -> Result<()> {
        let tag = Tag::of_signatures(&manifest);
        // A list of all tags spares the question.
        let places = match self.companions.get().map(|tags| tags.contains(&tag)) {
            Some(true) => &[Place::SigTag, Place::Attached][..],
            Some(false) => &[Place::Attached],
            None => &[Place::Attached, Place::SigTag],
        };
        let mut unknown = Ok(());
        for place in places {
            let heard = match place {
                Place::SigTag => self.hear_tagged(manifest, &tag, trial),
                Place::Attached => self.hear_attached(manifest, trial),
            };
            match heard {
                // It may have the signature in the other place.
                Err(error @ Error::NoneAttachedAtMirror { .. }) => unknown = Err(error),
                heard => heard?,
            }
            if trial.is_accepted() {
                return Ok(());
            }
        }
        unknown
    }

    fn hear_tagged(&self, manifest: Digest, tag: &Tag, trial: &mut Trial<'_>) -> Result<()> {
        let place = Place::SigTag;
        pool::for_a_moment(|| {
            let Some(stored) = self.source.companion(tag)? else {
                return Ok(());
            };
            let digest = Digest::of(&stored.bytes);
            match self.take(&format!("manifest of tag {tag}"), digest, stored) {
                Ok(Manifest::Image(image)) => self.hear(place, &image, manifest, trial),
                Ok(Manifest::Index(_)) => Ok(()),
                Err(error) => unread(place, error).map(|signature| trial.hear(&signature, None)),
            }
        })
    }

    fn hear_attached(&self, manifest: Digest, trial: &mut Trial<'_>) -> Result<()> {
        let place = Place::Attached;
        let attached: Vec<_> = pool::for_a_moment(|| -> Result<_> {
            let descriptors = self.source.referrers(manifest)?;
            Ok(descriptors.iter().map(|one| one.digest).collect())
        })?;
        for digest in attached.iter().take(MAX_CANDIDATES) {
            pool::for_a_moment(|| match self.named(*digest) {
                // Anybody could have written the list of referrers; the manifest's own word has its digest.
                Ok(Manifest::Image(image)) if image.subject == Some(manifest) => {
                    self.hear(place, &image, manifest, trial)
                }
                Ok(_) => Ok(()),
                Err(error) => unread(place, error).map(|signature| trial.hear(&signature, None)),
            })?;
            if trial.is_accepted() {
                return Ok(());
            }
        }
        if attached.len() > MAX_CANDIDATES {
            let why = format!(
                "of {} manifests that are attached only {MAX_CANDIDATES} were looked into",
                attached.len()
            );
            trial.hear(&Signature::unread(place, why), None);
        }
        Ok(())
    }

    /// Hears the signatures that an image manifest has in it.
    fn hear(
        &self,
        place: Place,
        image: &Image,
        manifest: Digest,
        trial: &mut Trial<'_>,
    ) -> Result<()> {
        let parts = trust::parts(image);
        let number = parts.len();
        for part in parts.into_iter().take(MAX_CANDIDATES) {
            if trial.is_accepted() {
                break;
            }
            pool::for_a_moment(|| {
                let signature = match part {
                    Part::Payload(layer, signature) => {
                        let payload = self.signature_blob(layer);
                        payload.map(|payload| {
                            let found = Signature::simple(place, payload, signature);
                            found.proved_by(&layer.annotations)
                        })
                    }
                    Part::Bundle(layer) => {
                        let json = self.signature_blob(layer);
                        json.map(|json| Signature::bundle(place, &json))
                    }
                    Part::Unread(why) => Ok(Signature::unread(place, why)),
                };
                let signature = signature.or_else(|error| unread(place, error))?;
                let bytes = match signature.is_of_bytes() {
                    true => Some(self.bytes_of(manifest)?),
                    false => None,
                };
                trial.hear(&signature, bytes.as_deref());
                Ok(())
            })?;
        }
        if number > MAX_CANDIDATES {
            let why = format!(
                "of {number} signatures in one manifest only {MAX_CANDIDATES} were looked into"
            );
            trial.hear(&Signature::unread(place, why), None);
        }
        Ok(())
    }

    fn signature_blob(&self, layer: &Descriptor) -> Result<Vec<u8>> {
        if layer.size > MAX_SIGNATURE {
            return Err(Error::BadManifest {
                what: format!("signature {}", layer.digest),
                why: format!(
                    "it has {} bytes, at most {MAX_SIGNATURE} are read",
                    layer.size
                ),
            });
        }
        self.small_blob("signature", layer)
    }

    fn bytes_of(&self, manifest: Digest) -> Result<Vec<u8>> {
        match self.kept_manifest(manifest) {
            Some(bytes) => Ok(bytes),
            None => Ok(self.source.manifest(Reference::Digest(manifest))?.bytes),
        }
    }

    /// The image that a reference leads to, if it is signed as the settings ask: it is, or the index that led to it,
    /// of which the outcome is `of_index`. What an unsigned index says of it does not count.
    pub fn accept(
        &self,
        of_index: Option<&Trust>,
        tag: Option<&Tag>,
        image: Resolved,
    ) -> Result<Resolved, Unlistable> {
        let accepted = match of_index {
            Some(Trust::NotAsked) => return Ok(image),
            Some(Trust::Accepted(accepted)) => Resolved {
                accepted: Some(accepted.clone()),
                ..image
            },
            None | Some(Trust::Refused(_)) => match (self.trust(image.digest, tag)?, of_index) {
                (Trust::NotAsked, _) => return Ok(image),
                (Trust::Accepted(accepted), _) => {
                    let accepted = Some(accepted);
                    self.on_its_own_word(Resolved { accepted, ..image })?
                }
                (Trust::Refused(why), Some(Trust::Refused(index))) if *index != why => {
                    let why = format!("its index: {index}; the manifest itself: {why}");
                    return Err(Unlistable::Refused(why));
                }
                (Trust::Refused(why), _) => return Err(Unlistable::Refused(why)),
            },
        };
        self.check_version(tag, &accepted)?;
        Ok(accepted)
    }

    /// An image without what the index said of it that led to it.
    fn on_its_own_word(&self, resolved: Resolved) -> Result<Resolved, Unlistable> {
        if resolved.is_direct {
            return Ok(resolved);
        }
        let refused = |why| Err(Unlistable::Refused(why));
        let (digest, image) = (resolved.digest, &resolved.image);
        let own = self.architecture_of(image)?;
        let offered = platform::join(self.architectures);
        match own {
            Some(own) if !self.architectures.contains(&own) => {
                return refused(format!(
                    "manifest {digest} says it is for {own}, offered is {offered}; its index, which says something \
                     else, is not signed"
                ));
            }
            None if resolved.is_of_index => {
                return refused(format!(
                    "manifest {digest} does not say what it is for, and its index, which does, is not signed; \
                     `cosign sign` the index"
                ));
            }
            _ => {}
        }
        let flavour = index::flavour(&image.annotations).map(str::to_owned);
        Ok(Resolved {
            architecture: own.filter(|_| resolved.is_of_index),
            flavour: flavour.filter(|_| resolved.is_of_index),
            version: None,
            schedule: None,
            annotations: Annotations::new(),
            ..resolved
        })
    }

    /// Checks that a signed manifest is the version that its tag says, in the directory of all tags.
    fn check_version(&self, tag: Option<&Tag>, resolved: &Resolved) -> Result<(), Unlistable> {
        let Resolved { image, version, .. } = resolved;
        let noted = artifact::version(&image.annotations).or(version.as_deref());
        match (noted, tag) {
            (None, _) if self.requirement.require_version => Err(
                "it notes no version, and require-version = true asks for one: the annotation \
                 org.opencontainers.image.version"
                    .to_owned(),
            ),
            (Some(noted), Some(tag)) if !self.naming.keeps_titles => {
                trust::version::check(tag, noted, image)
            }
            _ => Ok(()),
        }
        .map_err(Unlistable::Refused)
    }
}

/// Fails if a trusted root has ended: whether anything newer is signed cannot be found out by it.
fn check_ends(rules: &[Arc<Rule>], now: Timestamp) -> Result<()> {
    for root in rules.iter().flat_map(|rule| rule.trusted_roots()) {
        let Some(end) = root.ends().filter(|end| *end < now) else {
            continue;
        };
        return Err(Error::BadSettings {
            path: root.path().into(),
            line: None,
            why: format!(
                "this trusted root ended on {end}; replace it by a new one, which \
                 `cosign trusted-root create --with-default-services` prints, and reload the service"
            ),
        });
    }
    Ok(())
}

/// A signature that cannot be read, if that is what the error says. Bytes of something else, as of the page of a front, say
/// nothing of the signature.
fn unread(place: Place, error: Error) -> Result<Signature> {
    match error {
        Error::WrongBytes { .. } => Err(error),
        error if error.is_answer_about_a_part() => Ok(Signature::unread(place, error.line())),
        error => Err(error),
    }
}

/// The error of a manifest whose signatures could not be looked up. It is never an answer: that a login may not see
/// them does not mean that there are none.
fn no_answer(manifest: Digest, error: Error) -> Error {
    match error.finding() {
        Finding::Passing | Finding::Lasting => error,
        Finding::Answer | Finding::Refusal => Error::SignaturesUnknown {
            manifest,
            error: Box::new(error),
        },
    }
}
