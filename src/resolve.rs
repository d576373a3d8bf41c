//! A repository's tags → their manifests → the files on offer, many at once.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::architecture::Architecture;
use crate::artifact::index::{self, Choice};
use crate::artifact::recognise;
use crate::cache::Cache;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::listing::{Artifact, Listing, Naming};
use crate::manifest::{Descriptor, Image, Index, Manifest};
use crate::name::Tag;
use crate::payload::Verified;
use crate::source::{Reference, Source};

/// Longest time a listing may take. systemd-pull gives up after 60 s without a byte.
const TIME_LIMIT: Duration = Duration::from_secs(40);
/// Indexes read for one tag. Publishers nest them once, if at all.
const MAX_INDEXES: usize = 16;
/// Largest config that is read for its architecture.
const MAX_CONFIG: u64 = 1 << 20;

/// One repository to be listed.
pub struct Resolver<'a> {
    /// Where its artifacts come from.
    pub source: &'a dyn Source,
    /// Where documents are kept; `None` for a source that is on disk itself.
    pub cache: Option<&'a Cache>,
    /// How its files are called.
    pub naming: Naming<'a>,
    /// The architectures that an index offers.
    pub architectures: &'a [Architecture],
    /// A tag that is known is not asked for again.
    pub immutable_tags: bool,
    /// Requests at once.
    pub parallel: usize,
}

/// What one tag led to: artifacts, or the reason why none is on offer.
struct Resolved {
    digest: Digest,
    outcome: Result<Vec<Artifact>, String>,
}

/// Why there are no artifacts.
enum Setback {
    /// They are not for this machine, or not in a form that can be offered.
    NotOffered(String),
    /// They could not be read.
    Failed(Error),
}

impl From<Error> for Setback {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Resolver<'_> {
    /// Lists the repository as it is now.
    ///
    /// A tag that fails is left out with its reason. But when the registry as a whole is in trouble,
    /// or not one tag could be read for a reason that may pass, the listing fails: an empty one would
    /// say that there are no versions.
    pub fn list(&self) -> Result<Listing> {
        let started = Instant::now();
        let mut tags = self.source.tags()?;
        tags.sort();
        tags.dedup();
        let mut listing = Listing::default();
        tags.retain(|tag| {
            let is_version = !tag.is_of_a_referrer();
            if !is_version {
                listing.leave_out(
                    tag,
                    "this is the tag of a signature or of referrers, not of a version".into(),
                );
            }
            is_version
        });

        let name = self.source.name();
        let before = self
            .cache
            .map(|cache| cache.tags(&name))
            .unwrap_or_default();
        let results = in_parallel(&tags, self.parallel, |tag, stop| {
            if started.elapsed() > TIME_LIMIT {
                stop.store(true, Ordering::Relaxed);
                return Err(Error::TooSlow {
                    url: format!("{name} for all its tags"),
                    limit: TIME_LIMIT,
                });
            }
            let result = self.resolve(tag, before.get(tag).copied());
            if result.as_ref().is_err_and(Error::is_of_the_whole_registry) {
                stop.store(true, Ordering::Relaxed);
            }
            result
        });

        let mut now = BTreeMap::new();
        let mut may_pass = None;
        for (tag, result) in tags.iter().zip(results) {
            match result {
                // Work was stopped before this tag's turn: another tag has the error.
                None => {}
                Some(Ok(Resolved { digest, outcome })) => {
                    now.insert(tag.clone(), digest);
                    match outcome {
                        Ok(artifacts) => listing.add(&self.naming, tag, artifacts),
                        Err(reason) => listing.leave_out(tag, reason),
                    }
                }
                Some(Err(error)) if error.is_of_the_whole_registry() => return Err(error),
                Some(Err(Error::TooSlow { url, limit })) if limit == TIME_LIMIT => {
                    return Err(Error::TooSlow { url, limit });
                }
                Some(Err(error)) => {
                    listing.leave_out(tag, error.line());
                    if !is_of_the_content(&error) {
                        may_pass = Some(error);
                    }
                }
            }
        }
        if let (true, Some(error)) = (now.is_empty(), may_pass) {
            return Err(error);
        }
        if let Some(cache) = self.cache.filter(|_| now != before) {
            cache.keep_tags(&name, &now);
        }
        Ok(listing)
    }

    fn resolve(&self, tag: &Tag, before: Option<Digest>) -> Result<Resolved> {
        let (digest, manifest) = self.by_tag(tag, before)?;
        let artifacts = match manifest {
            Manifest::Image(image) => self.plain(&image, None).map(|artifact| vec![artifact])?,
            Manifest::Index(index) => match self.in_index(digest, index) {
                Ok(artifacts) => artifacts,
                Err(Setback::NotOffered(reason)) => {
                    return Ok(Resolved {
                        digest,
                        outcome: Err(reason),
                    });
                }
                Err(Setback::Failed(error)) => return Err(error),
            },
        };
        Ok(Resolved {
            digest,
            outcome: Ok(artifacts),
        })
    }

    /// What a tag is. A tag that is known costs a HEAD, for its manifest is at hand.
    fn by_tag(&self, tag: &Tag, before: Option<Digest>) -> Result<(Digest, Manifest)> {
        let now = match (before, self.cache) {
            // A source on disk tells digests for nothing.
            (_, None) => self.source.digest_of(tag)?,
            (Some(before), _) if self.immutable_tags => Some(before),
            (Some(before), Some(cache)) if cache.has_document(before) => {
                self.source.digest_of(tag)?
            }
            _ => None,
        };
        if let Some(digest) = now {
            match self.by_digest(digest) {
                // Some registries name a digest they then don't know (docker-registry 2.8 for sha512).
                Err(Error::Missing { .. }) => {}
                found => return Ok((digest, found?)),
            }
        }
        let stored = self.source.manifest(Reference::Tag(tag))?;
        let digest = Digest::of(&stored.bytes);
        let manifest = parse(
            &format!("manifest of tag {tag}"),
            stored.media_type.as_deref(),
            &stored.bytes,
        )?;
        if let Some(cache) = self.cache {
            cache.keep_document(digest, &stored.bytes);
        }
        Ok((digest, manifest))
    }

    fn by_digest(&self, digest: Digest) -> Result<Manifest> {
        let what = format!("manifest {digest}");
        if let Some(bytes) = self.cache.and_then(|cache| cache.document(digest)) {
            return parse(&what, None, &bytes);
        }
        let stored = self.source.manifest(Reference::Digest(digest))?;
        let found = Digest::of(&stored.bytes);
        if found != digest {
            return Err(Error::WrongBytes {
                what,
                expected: digest,
                found,
            });
        }
        let manifest = parse(&what, stored.media_type.as_deref(), &stored.bytes)?;
        if let Some(cache) = self.cache {
            cache.keep_document(digest, &stored.bytes);
        }
        Ok(manifest)
    }

    /// The artifacts that an index offers, those of indexes inside it too.
    fn in_index(&self, digest: Digest, index: Index) -> Result<Vec<Artifact>, Setback> {
        let mut seen = HashSet::from([digest]);
        let mut artifacts = Vec::new();
        let mut indexes = vec![index];
        while let Some(index) = indexes.pop() {
            let sorted = index::sort(index);
            artifacts.extend(sorted.artifacts);
            for nested in sorted.nested {
                if !seen.insert(nested.digest) {
                    continue;
                }
                if seen.len() > MAX_INDEXES {
                    let reason = format!("index with {MAX_INDEXES} indexes in it or more");
                    return Err(Setback::NotOffered(reason));
                }
                match self.by_digest(nested.digest)? {
                    Manifest::Index(index) => indexes.push(index),
                    Manifest::Image(_) => return Err(mislabelled(&nested)),
                }
            }
        }
        match index::choose(artifacts, self.architectures).map_err(Setback::NotOffered)? {
            Choice::Single(descriptor, architecture) => {
                Ok(vec![self.plain(&self.image(&descriptor)?, architecture)?])
            }
            Choice::Several(chosen) => {
                let entry = |(architecture, descriptor)| {
                    let recognised = recognise(&self.image(&descriptor)?);
                    Ok(Artifact {
                        entry: Some(architecture),
                        plain: None,
                        recognised,
                    })
                };
                chosen.into_iter().map(entry).collect()
            }
        }
    }

    fn image(&self, descriptor: &Descriptor) -> Result<Image, Setback> {
        match self.by_digest(descriptor.digest)? {
            Manifest::Image(image) => Ok(image),
            Manifest::Index(_) => Err(mislabelled(descriptor)),
        }
    }

    /// An artifact that needs no architecture in its name; `known` is what its index says.
    fn plain(&self, image: &Image, known: Option<Architecture>) -> Result<Artifact> {
        let is_wanted = self
            .naming
            .template
            .is_some_and(|template| template.wants_arch());
        let plain = match known {
            None if is_wanted => self.architecture_of(image)?,
            known => known,
        };
        Ok(Artifact {
            entry: None,
            plain,
            recognised: recognise(image),
        })
    }

    /// What a plain manifest says it is for: an annotation, else its config.
    fn architecture_of(&self, image: &Image) -> Result<Option<Architecture>> {
        let noted = image
            .annotations
            .iter()
            .filter(|(key, _)| *key == "architecture" || key.ends_with(".architecture"))
            .find_map(|(_, value)| Architecture::of_oci(value).or_else(|| value.parse().ok()));
        if noted.is_some() {
            return Ok(noted);
        }
        match &image.config {
            Some(config) if config.media_type.ends_with("json") && config.size <= MAX_CONFIG => {
                let bytes = self.small_blob(config)?;
                Ok(serde_json::from_slice(&bytes)
                    .ok()
                    .and_then(|Config { architecture }| Architecture::of_oci(&architecture?)))
            }
            _ => Ok(None),
        }
    }

    fn small_blob(&self, blob: &Descriptor) -> Result<Vec<u8>> {
        if let Some(bytes) = self.cache.and_then(|cache| cache.document(blob.digest)) {
            return Ok(bytes);
        }
        let inner = self.source.blob(blob.digest, blob.size, 0)?;
        let mut bytes = vec![0; usize::try_from(blob.size).unwrap_or(usize::MAX)];
        Verified::new(
            inner,
            format!("config {}", blob.digest),
            blob.digest,
            blob.size,
        )
        .fill(&mut bytes)?;
        if let Some(cache) = self.cache {
            cache.keep_document(blob.digest, &bytes);
        }
        Ok(bytes)
    }
}

fn mislabelled(descriptor: &Descriptor) -> Setback {
    let Descriptor {
        digest, media_type, ..
    } = descriptor;
    Setback::NotOffered(format!(
        "{digest} is something else than its index calls it, {media_type}"
    ))
}

/// The little of an image config that is of interest.
#[derive(Deserialize)]
struct Config {
    architecture: Option<String>,
}

fn parse(what: &str, media_type: Option<&str>, bytes: &[u8]) -> Result<Manifest> {
    Manifest::parse(media_type, bytes).map_err(|why| Error::BadManifest {
        what: what.to_owned(),
        why,
    })
}

/// Is the artifact itself at fault, so that asking again would find the same?
fn is_of_the_content(error: &Error) -> bool {
    matches!(
        error,
        Error::Missing { .. }
            | Error::Nonsense { .. }
            | Error::WrongBytes { .. }
            | Error::WrongSize { .. }
            | Error::BadManifest { .. }
            | Error::BadLayout { .. }
    )
}

/// Does the work for each item, on several threads; `None` for those not begun when it was stopped.
fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    work: impl Fn(&T, &AtomicBool) -> R + Sync,
) -> Vec<Option<R>> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let worker = || {
        let mut done = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(n) else { break };
            done.push((n, work(item, &stop)));
        }
        done
    };
    let mut results: Vec<Option<R>> = items.iter().map(|_| None).collect();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(items.len()))
            .map(|_| scope.spawn(worker))
            .collect();
        for worker in workers {
            match worker.join() {
                Ok(done) => done
                    .into_iter()
                    .for_each(|(n, result)| results[n] = Some(result)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    results
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_work_is_done_once_and_in_order() {
        let items: Vec<usize> = (0..1000).collect();
        for threads in [1, 2, 16] {
            let results = in_parallel(&items, threads, |n, _| n * 2);
            let expected: Vec<_> = items.iter().map(|n| Some(n * 2)).collect();
            assert_eq!(results, expected, "{threads} threads");
        }
        assert_eq!(in_parallel(&[] as &[usize], 16, |n, _| *n), []);
    }

    #[test]
    fn stopped_work_is_told_from_work_done() {
        let items: Vec<usize> = (0..10).collect();
        let results = in_parallel(&items, 1, |n, stop| {
            stop.store(*n == 3, Ordering::Relaxed);
            *n
        });
        let done: Vec<_> = results.into_iter().flatten().collect();
        assert_eq!(done, [0, 1, 2, 3]);
    }
}
