//! A registry and its mirrors.
//!
//! What a digest names is the same everywhere, so it comes from the first mirror that has it. Tags
//! are the registry's own word: mirrors that may be asked for them are asked when it cannot be reached
//! (a pull-through cache knows only what was pulled through it).

use std::collections::HashSet;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use log::{Level, debug, log, warn};

use super::config::registries_conf::Endpoint;
use super::faults::{Origins, REST, Transfer};
use super::registry::Registry;
use super::upstream::Upstream;
use super::{Body, Download, Part, Reference, Source, StoredManifest};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::manifest::Descriptor;
use crate::name::{Host, Repository, Tag};
use crate::task;

/// A repository of a registry, by its mirrors too. Nothing is asked yet.
pub fn open(
    upstream: &Arc<Upstream>,
    host: &Host,
    repository: &Repository,
) -> Result<Arc<dyn Source>> {
    let endpoints = upstream.registries.endpoints(host, repository)?;
    let source = Mirrored::new(upstream, host, repository, endpoints);
    Ok(Arc::new(source))
}

/// A repository of a registry, at all the places that registries.conf knows.
struct Mirrored {
    name: String,
    upstream: Arc<Upstream>,
    mirrors: Vec<Registry>,
    primary: Registry,
    /// Who answered for tags: 0 is the registry itself, then mirrors count from 1.
    lister: AtomicUsize,
    /// Why the registry itself could not be reached when mirrors were asked in its place, and when.
    down: Mutex<Option<(Instant, Error)>>,
    /// Who is to blame when a blob turns out to be wrong.
    origins: Arc<Origins>,
    /// The digests that were shown to be held since the source was opened for a snapshot.
    shown: Mutex<HashSet<Digest>>,
}

/// Digests that are remembered as shown. Others are asked for each time.
const MAX_SHOWN: usize = 1024;
/// A mirror that had so much time to answer had enough.
const FAIR_SHARE: Duration = Duration::from_secs(5);
/// In the place of whoever answered first, before anybody has.
const NOBODY: usize = usize::MAX;

impl Mirrored {
    fn new(
        upstream: &Arc<Upstream>,
        host: &Host,
        repository: &Repository,
        (mirrors, itself): (Vec<Endpoint>, Endpoint),
    ) -> Self {
        let mirror = |endpoint: Endpoint| {
            let namespace = upstream.wants_ns(&endpoint.host).then(|| host.clone());
            Registry::new(upstream, endpoint, namespace)
        };
        Self {
            name: format!("{host}/{repository}"),
            upstream: upstream.clone(),
            mirrors: mirrors.into_iter().map(mirror).collect(),
            primary: Registry::new(upstream, itself, None),
            lister: AtomicUsize::new(NOBODY),
            down: Mutex::default(),
            origins: Arc::default(),
            shown: Mutex::default(),
        }
    }

    /// The first ones stay: whoever asks for more of them in the same order again finds those.
    fn note_shown(&self, digest: Digest) {
        let mut shown = lock(&self.shown);
        if shown.len() < MAX_SHOWN {
            shown.insert(digest);
        }
    }

    /// Whether a digest is held where its bytes would come from. `show` fails with [`Error::Missing`] if it is not.
    fn is_shown(&self, digest: Digest, show: impl Fn(&Registry) -> Result<()>) -> Result<bool> {
        if lock(&self.shown).contains(&digest) {
            return Ok(true);
        }
        match self.by_digest(digest, show) {
            Ok(()) => {
                self.note_shown(digest);
                Ok(true)
            }
            Err(Error::Missing { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Asks for something that tags decide: the place that answered the first time, so that all answers agree. That is
    /// a mirror only if the registry cannot be reached. A mirror's 404 counts only if `may_miss`, for a single
    /// manifest: its tag list may be incomplete.
    fn by_tag<T>(&self, may_miss: bool, ask: impl Fn(&Registry) -> Result<T>) -> Result<T> {
        match self.lister.load(Ordering::Relaxed) {
            NOBODY => {}
            0 => return ask(&self.primary),
            n => return self.in_its_place(&self.mirrors[n - 1], ask),
        }
        let error = match self.ask_primary(&ask) {
            Err(error) if error.is_registry_down() => error,
            answer => {
                self.lister.store(0, Ordering::Relaxed);
                return answer;
            }
        };
        let (found, failed) = self.ask_mirrors(&ask)?;
        let (missing, failed): (Vec<_>, Vec<_>) = (failed.into_iter())
            .partition(|(_, error)| may_miss && matches!(error, Error::Missing { .. }));
        if let Some((mirror, found)) = found {
            let others: String = failed
                .iter()
                .map(|one| format!("; {}", said(one)))
                .collect();
            let (host, error_line) = (mirror.host(), error.line());
            warn!(
                "{}: tags from mirror {host}, for {error_line}{others}",
                self.name
            );
            self.note_down(error);
            self.lister.store(self.number_of(mirror), Ordering::Relaxed);
            return Ok(found);
        }
        if let Some((_, missing)) = missing.into_iter().next_back() {
            self.note_down(error);
            return Err(missing);
        }
        Err(mirrors_too(error, &failed))
    }

    /// Asks the mirrors for something in the place of a registry that is down; those that have failed come last. The
    /// first that has it answers, and the others failed.
    #[expect(clippy::type_complexity, reason = "it is taken apart at once")]
    fn ask_mirrors<T>(
        &self,
        ask: impl Fn(&Registry) -> Result<T>,
    ) -> Result<(Option<(&Registry, T)>, Vec<(&Registry, Error)>)> {
        let mut mirrors: Vec<_> = self
            .mirrors
            .iter()
            .filter(|mirror| mirror.has_tags())
            .collect();
        mirrors.sort_by_key(|mirror| self.is_resting(mirror));
        let mut failed = Vec::new();
        for mirror in mirrors {
            match self.within_its_share(mirror, Level::Debug, &ask) {
                Ok(found) => return Ok((Some((mirror, found)), failed)),
                Err(Error::ClientGone) => return Err(Error::ClientGone),
                Err(error) => failed.push((mirror, error)),
            }
        }
        Ok((None, failed))
    }

    /// Asks the mirror that stands in for the registry. The registry may have what it lacks.
    fn in_its_place<T>(
        &self,
        mirror: &Registry,
        ask: impl Fn(&Registry) -> Result<T>,
    ) -> Result<T> {
        let answer = ask(mirror);
        match (answer, lock(&self.down).clone()) {
            (Err(missing @ Error::Missing { .. }), Some((_, error))) => {
                Err(mirrors_too(error, &[(mirror, missing)]))
            }
            (answer, _) => answer,
        }
    }

    /// Asks the registry itself. One that could not be reached a moment ago is not waited for again.
    fn ask_primary<T>(&self, ask: impl Fn(&Registry) -> Result<T>) -> Result<T> {
        let down = lock(&self.down).clone();
        match down.filter(|(since, _)| since.elapsed() < REST) {
            Some((_, error)) => Err(error),
            None => ask(&self.primary),
        }
    }

    fn note_down(&self, error: Error) {
        let mut down = lock(&self.down);
        let is_recent = |(since, _): &(Instant, Error)| since.elapsed() < REST;
        if !down.as_ref().is_some_and(is_recent) {
            *down = Some((Instant::now(), error));
        }
    }

    /// Asks for something that a digest names: mirrors in their order, then the registry itself.
    fn by_digest<T>(&self, digest: Digest, ask: impl Fn(&Registry) -> Result<T>) -> Result<T> {
        self.anywhere(digest, ask).map_err(|(error, _)| error)
    }

    /// The same. The error is the registry's own, with those of the mirrors.
    fn anywhere<T>(
        &self,
        digest: Digest,
        ask: impl Fn(&Registry) -> Result<T>,
    ) -> Result<T, (Error, Vec<Error>)> {
        let may_have = |mirror: &&Registry| mirror.has_digests() && !self.is_wrong(digest, mirror);
        // Judged one after the other: what one mirror fails at may concern the next one, at the same host.
        let (mut resting, mut failed) = (Vec::new(), Vec::new());
        for mirror in self.mirrors.iter().filter(may_have) {
            if self.is_resting(mirror) {
                resting.push(mirror);
                continue;
            }
            match self.within_its_share(mirror, Level::Warn, &ask) {
                Err(error) if !matches!(error, Error::ClientGone) => failed.push(error),
                // It is nobody's fault if the client is gone, and nobody waits for the next mirror.
                answer => return answer.map_err(|gone| (gone, Vec::new())),
            }
        }
        let error = match ask(&self.primary) {
            Err(error) if !matches!(error, Error::ClientGone) => error,
            answer => return answer.map_err(|gone| (gone, Vec::new())),
        };
        // If nobody else has it, a mirror that has failed before is better than none.
        for mirror in resting {
            match ask(mirror) {
                Err(other) if !matches!(other, Error::ClientGone) => {
                    debug!("mirror {} fails again: {}", mirror.host(), other.line());
                    failed.push(other);
                }
                answer => return answer.map_err(|gone| (gone, Vec::new())),
            }
        }
        Err((error, failed))
    }

    /// Asks a mirror. A silent one leaves time for those after it; one that fails rests, which is logged at this level.
    fn within_its_share<T>(
        &self,
        mirror: &Registry,
        level: Level,
        ask: impl Fn(&Registry) -> Result<T>,
    ) -> Result<T> {
        let share = task::time_left().map(|left| left / 2);
        let limit = share.map(task::within);
        let answer = ask(mirror);
        drop(limit);
        if let Err(error) = &answer
            && !matches!(error, Error::ClientGone)
        {
            let had_time = share.is_none_or(|share| share >= FAIR_SHARE);
            self.note_failure(mirror, error, had_time, level);
        }
        answer
    }

    /// The number of a place: 0 is the registry itself, then mirrors count from 1.
    fn number_of(&self, registry: &Registry) -> usize {
        let position = (self.mirrors.iter()).position(|mirror| std::ptr::eq(mirror, registry));
        position.map_or(0, |n| n + 1)
    }

    fn is_resting(&self, mirror: &Registry) -> bool {
        let resting = &self.upstream.resting;
        resting.has(mirror.host().as_str()) || resting.has(mirror.place())
    }

    fn is_wrong(&self, digest: Digest, mirror: &Registry) -> bool {
        let Upstream { wrong, state, .. } = &*self.upstream;
        wrong.has(state, &self.name, digest, mirror.place())
    }

    fn note_wrong(&self, digest: Digest, mirror: &Registry) {
        if self.is_wrong(digest, mirror) {
            return;
        }
        let Upstream { wrong, state, .. } = &*self.upstream;
        wrong.note(state, &self.name, digest, mirror.place());
        warn!(
            "{}: mirror {} gave wrong bytes of {digest}, going on without it for that",
            self.name,
            mirror.host()
        );
    }

    /// The last `left` bytes of a blob. `is_first`: no other body of the same download came before it.
    fn watch_blob(
        &self,
        registry: &Registry,
        digest: Digest,
        reader: Box<dyn Read + Send>,
        left: u64,
        is_first: bool,
    ) -> Box<dyn Read + Send> {
        let transfer = (self.origins).begin(digest, self.number_of(registry), is_first);
        self.note_shown(digest);
        self.watch(registry, reader, left, Some(transfer))
    }

    /// A body of `left` bytes: if it breaks off, the mirror it comes from rests.
    fn watch(
        &self,
        registry: &Registry,
        inner: Box<dyn Read + Send>,
        left: u64,
        transfer: Option<Transfer>,
    ) -> Box<dyn Read + Send> {
        let mirror = registry
            .is_mirror()
            .then(|| (self.upstream.clone(), registry.place().to_owned()));
        Box::new(Watched {
            inner,
            left,
            mirror,
            _transfer: transfer,
        })
    }

    /// Makes a mirror in trouble rest: for a while it is asked after the others. A mirror that only lacks something
    /// does not rest.
    fn note_failure(&self, mirror: &Registry, error: &Error, had_time: bool, level: Level) {
        if matches!(error, Error::Missing { .. } | Error::WrongBytes { .. }) {
            return debug!("mirror {} has it not: {}", mirror.host(), error.line());
        }
        let had_no_time = !had_time && matches!(error, Error::TooSlow { .. });
        if had_no_time || task::is_over() {
            return debug!("mirror {} had no time: {}", mirror.host(), error.line());
        }
        let name = match error.is_of_host() {
            true => mirror.host().as_str(),
            false => mirror.place(),
        };
        let is_news = self.upstream.resting.note(name);
        log!(
            if is_news { level } else { Level::Debug },
            "{}: mirror {} fails, going on without it: {}",
            self.name,
            mirror.host(),
            error.line()
        );
    }
}

impl Source for Mirrored {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn tags(&self) -> Result<Vec<Tag>> {
        self.by_tag(false, Registry::tags)
    }

    fn digest_of(&self, tag: &Tag) -> Result<Option<Digest>> {
        self.by_tag(true, |registry| registry.digest_of(tag))
    }

    fn manifest(&self, reference: Reference<'_>) -> Result<StoredManifest> {
        let ask = |registry: &Registry| registry.manifest(reference);
        match reference {
            Reference::Tag(_) => self.by_tag(true, ask),
            Reference::Digest(digest) => self.by_digest(digest, |registry| {
                let stored = registry.manifest(reference);
                if matches!(stored, Err(Error::WrongBytes { .. })) && registry.is_mirror() {
                    self.note_wrong(digest, registry);
                }
                stored
            }),
        }
    }

    fn blob(&self, digest: Digest, size: u64, from: u64) -> Result<Body> {
        let found = self.anywhere(digest, |registry| {
            let body = registry.blob(digest, size, from)?;
            Ok(Body {
                reader: self.watch_blob(
                    registry,
                    digest,
                    body.reader,
                    size - body.starts_at,
                    from == 0,
                ),
                ..body
            })
        });
        found.map_err(|(error, mirrors)| {
            if from == 0 || error.may_pass() {
                return error;
            }
            // A mirror that is being restarted may have been where the first bytes came from, whatever the registry
            // itself says of the blob.
            let may_pass = mirrors.into_iter().find(Error::may_pass);
            may_pass.unwrap_or(error)
        })
    }

    fn whole_blob(&self, digest: Digest) -> Result<(u64, Box<dyn Read + Send>)> {
        self.by_digest(digest, |registry| {
            let is_mirror = registry.is_mirror();
            let (size, body) = match registry.whole_blob(digest) {
                // The registry itself may tell the size in another way.
                Err(Error::Nonsense { .. }) if !is_mirror => {
                    let size = registry.blob_size(digest)?;
                    (size, registry.blob(digest, size, 0)?.reader)
                }
                found => found?,
            };
            let nothing = Digest::of(b"");
            if is_mirror && size == 0 && digest != nothing {
                self.note_wrong(digest, registry);
                return Err(Error::WrongBytes {
                    what: format!("blob {digest} at {}", registry.host()),
                    expected: digest,
                    found: nothing,
                });
            }
            Ok((size, self.watch_blob(registry, digest, body, size, true)))
        })
    }

    fn blob_range(&self, digest: Digest, size: u64, range: Range<u64>) -> Result<Part> {
        self.by_digest(digest, |registry| {
            match registry.blob_range(digest, size, range.clone())? {
                Part::Whole(body) => Ok(Part::Whole(self.watch(registry, body, size, None))),
                part => Ok(part),
            }
        })
    }

    /// The registry's own word. What a mirror says counts for what it delivers.
    fn blob_size(&self, digest: Digest) -> Result<u64> {
        match self.ask_primary(|registry| registry.blob_size(digest)) {
            Err(error) if !matches!(error, Error::ClientGone) && !self.mirrors.is_empty() => {
                let found = self.by_digest(digest, |registry| registry.whole_blob(digest));
                found.map(|(size, _)| size)
            }
            found => found,
        }
    }

    fn holds(&self, blob: Digest) -> Result<bool> {
        self.is_shown(blob, |registry| registry.show_blob(blob))
    }

    fn holds_manifest(&self, manifest: Digest) -> Result<bool> {
        self.is_shown(manifest, |registry| registry.show_manifest(manifest))
    }

    /// By the registry itself, too. A mirror that has some stands in for a registry that cannot be reached; that
    /// a mirror has none says nothing, for it knows only what was pulled through it.
    fn referrers(&self, subject: Digest) -> Result<Vec<Descriptor>> {
        let error = match self.ask_primary(|registry| registry.referrers(subject)) {
            Err(error) if error.is_registry_down() => error,
            answer => return answer,
        };
        // A mirror without any may lack them; the next one may have some.
        let without = Mutex::new(None);
        let (found, failed) = self.ask_mirrors(|registry| {
            let found = registry.referrers(subject)?;
            if found.is_empty() {
                lock(&without).get_or_insert_with(|| registry.host().to_string());
                return Err(Error::Missing {
                    url: format!("referrers of {subject}"),
                });
            }
            Ok(found)
        })?;
        if let Some((_, found)) = found {
            return Ok(found);
        }
        Err(match lock(&without).take() {
            Some(mirror) => Error::NoneAttachedAtMirror {
                error: Box::new(error),
                mirror,
            },
            None => mirrors_too(error, &failed),
        })
    }

    fn note_wrong_bytes(&self, digest: Digest) {
        lock(&self.shown).remove(&digest);
        for n in self.origins.suspects(digest) {
            self.note_wrong(digest, &self.mirrors[n - 1]);
        }
    }

    fn wrong_places(&self, digest: Digest) -> usize {
        if self.mirrors.is_empty() {
            return 0;
        }
        let Upstream { wrong, state, .. } = &*self.upstream;
        wrong.count(state, &self.name, digest)
    }

    fn tags_are_its_own(&self) -> bool {
        matches!(self.lister.load(Ordering::Relaxed), NOBODY | 0)
    }

    fn blob_url(&self, digest: Digest) -> Result<Option<String>> {
        self.primary.blob_url(digest)
    }

    fn blob_request(&self, digest: Digest) -> Result<Download> {
        self.primary.blob_request(digest)
    }

    fn manifest_request(&self, reference: Reference<'_>, media_type: &str) -> Result<Download> {
        self.primary.manifest_request(reference, media_type)
    }
}

/// The registry's own error, with those of its mirrors.
fn mirrors_too(error: Error, mirrors: &[(&Registry, Error)]) -> Error {
    if mirrors.is_empty() {
        return error;
    }
    let mirrors: Vec<_> = mirrors.iter().map(said).collect();
    Error::MirrorsToo {
        error: Box::new(error),
        mirrors: mirrors.join("; "),
    }
}

fn said((mirror, error): &(&Registry, Error)) -> String {
    format!("{}: {}", mirror.host(), error.line())
}

/// A body from a mirror. If it breaks off the mirror rests, so that the rest comes from elsewhere.
struct Watched<R> {
    inner: R,
    left: u64,
    /// Its place.
    mirror: Option<(Arc<Upstream>, String)>,
    _transfer: Option<Transfer>,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = self.inner.read(buffer);
        let has_broken = match &result {
            Ok(0) => self.left > 0 && !buffer.is_empty(),
            Ok(n) => {
                self.left = self.left.saturating_sub(*n as u64);
                false
            }
            Err(error) => error.kind() != io::ErrorKind::Interrupted,
        };
        if has_broken
            && !task::is_over()
            && let Some((upstream, place)) = &self.mirror
        {
            upstream.resting.note(place);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use super::*;
    use crate::settings::Settings;
    use crate::source::config::registries_conf::Role;
    use crate::state::State;

    #[test]
    fn a_mirror_is_not_blamed_for_what_we_had_no_time_for() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let host: Host = silent.local_addr().unwrap().to_string().parse().unwrap();
        let upstream = Upstream::new(
            &Settings::default(),
            "/nonexistent".as_ref(),
            Arc::new(State::new(None)),
        )
        .unwrap();
        let repository: Repository = "hello".parse().unwrap();
        let endpoint = |role| Endpoint {
            host: host.clone(),
            repository: repository.clone(),
            insecure: None,
            role,
        };
        let (digests, tags) = (true, true);
        let mirror = endpoint(Role::Mirror { digests, tags });
        let endpoints = (vec![mirror], endpoint(Role::Primary));
        let source = Mirrored::new(&upstream, &host, &repository, endpoints);
        let _limit = task::within(Duration::from_millis(50));
        let digest = Digest::of(b"blob");
        assert!(source.blob(digest, 4, 0).is_err());
        assert!(source.tags().is_err());
        let resting = &upstream.resting;
        assert!(!resting.has(host.as_str()) && !source.is_resting(&source.mirrors[0]));
    }
}
