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

use super::config::registries_conf::{Endpoint, Role};
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
    Ok(Arc::new(Mirrored::new(
        upstream, host, repository, endpoints,
    )))
}

/// A repository of a registry, at all the places that registries.conf knows.
struct Mirrored {
    name: String,
    upstream: Arc<Upstream>,
    mirrors: Vec<(Registry, Role)>,
    primary: Registry,
    /// Who answered for tags: 0 is the registry itself, then mirrors count from 1.
    lister: AtomicUsize,
    /// Why the registry itself could not be reached when mirrors were asked in its place, and when.
    down: Mutex<Option<(Instant, Error)>>,
    /// Who is to blame when a blob turns out to be wrong.
    origins: Arc<Origins>,
    shown: Shown,
}

/// What was shown to be held, since the source was opened for a snapshot.
#[derive(Default)]
struct Shown(Mutex<HashSet<Digest>>);

/// What is beyond that is asked for each time.
const MAX_SHOWN: usize = 1024;

impl Shown {
    fn note(&self, digest: Digest) {
        let mut shown = lock(&self.0);
        if shown.len() < MAX_SHOWN {
            shown.insert(digest);
        }
    }

    fn has(&self, digest: Digest) -> bool {
        lock(&self.0).contains(&digest)
    }

    fn forget(&self, digest: Digest) {
        lock(&self.0).remove(&digest);
    }
}

/// A mirror that had so much time to answer had enough.
const FAIR_SHARE: Duration = Duration::from_secs(5);
/// In the place of whoever answered first, before anybody has.
const NOBODY: usize = usize::MAX;

impl Mirrored {
    /// `endpoints`: as registries.conf orders them, the registry itself last.
    fn new(
        upstream: &Arc<Upstream>,
        host: &Host,
        repository: &Repository,
        mut endpoints: Vec<Endpoint>,
    ) -> Self {
        let own = endpoints.pop().unwrap_or_else(|| Endpoint {
            host: host.clone(),
            repository: repository.clone(),
            insecure: None,
            role: Role::Primary,
        });
        let mirror = |endpoint: Endpoint| {
            let namespace = upstream.wants_ns(&endpoint.host).then(|| host.clone());
            let role = endpoint.role;
            (Registry::new(upstream, endpoint, namespace), role)
        };
        Self {
            name: format!("{host}/{repository}"),
            upstream: upstream.clone(),
            mirrors: endpoints.into_iter().map(mirror).collect(),
            primary: Registry::new(upstream, own, None),
            lister: AtomicUsize::new(NOBODY),
            down: Mutex::default(),
            origins: Arc::default(),
            shown: Shown::default(),
        }
    }

    /// Is it held, where its bytes would come from? `show`: fails with [`Error::Missing`] where it is not.
    fn is_shown(&self, digest: Digest, show: impl Fn(&Registry) -> Result<()>) -> Result<bool> {
        if self.shown.has(digest) {
            return Ok(true);
        }
        match self.by_digest(digest, show) {
            Ok(()) => {
                self.shown.note(digest);
                Ok(true)
            }
            Err(Error::Missing { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Asks for something that tags decide: whoever answered the first time, so that all answers are of
    /// one mind. That is a mirror only if the registry cannot be reached. That mirrors have it not is an
    /// answer only where it is one manifest: they may have been filled with others.
    fn by_tag<T>(&self, may_miss: bool, ask: impl Fn(&Registry) -> Result<T>) -> Result<T> {
        match self.lister.load(Ordering::Relaxed) {
            NOBODY => {}
            0 => return ask(&self.primary),
            n => return self.in_its_place(n - 1, ask),
        }
        let error = match self.ask_primary(&ask) {
            Err(error) if error.is_registry_down() => error,
            answer => {
                self.lister.store(0, Ordering::Relaxed);
                return answer;
            }
        };
        let (mut failed, mut missing) = (Vec::new(), None);
        for n in self.mirrors_for_tags() {
            let mirror = &self.mirrors[n].0;
            match self.within_its_share(mirror, Level::Debug, &ask) {
                Ok(found) => {
                    let others: String = failed.iter().map(|one| format!("; {one}")).collect();
                    warn!(
                        "{}: tags from mirror {}, for {}{others}",
                        self.name,
                        mirror.host(),
                        error.line()
                    );
                    self.note_down(error);
                    self.lister.store(n + 1, Ordering::Relaxed);
                    return Ok(found);
                }
                Err(Error::ClientGone) => return Err(Error::ClientGone),
                Err(error @ Error::Missing { .. }) if may_miss => missing = Some(error),
                Err(error) => failed.push(format!("{}: {}", mirror.host(), error.line())),
            }
        }
        if let Some(missing) = missing {
            self.note_down(error);
            return Err(missing);
        }
        Err(mirrors_too(error, &failed))
    }

    /// Asks the mirror that stands in for the registry. What it lacks the registry may have.
    fn in_its_place<T>(&self, n: usize, ask: impl Fn(&Registry) -> Result<T>) -> Result<T> {
        let mirror = &self.mirrors[n].0;
        let down = || lock(&self.down).clone();
        match (ask(mirror), down()) {
            (Err(missing @ Error::Missing { .. }), Some((_, error))) => {
                let said = format!("{}: {}", mirror.host(), missing.line());
                Err(mirrors_too(error, &[said]))
            }
            (answer, _) => answer,
        }
    }

    /// What the registry itself says. One that could not be reached a moment ago is not waited for again.
    fn ask_primary<T>(&self, ask: impl Fn(&Registry) -> Result<T>) -> Result<T> {
        let down = lock(&self.down).clone();
        match down.filter(|(since, _)| since.elapsed() < REST) {
            Some((_, error)) => Err(error),
            None => ask(&self.primary),
        }
    }

    fn note_down(&self, error: Error) {
        let mut down = lock(&self.down);
        if down
            .as_ref()
            .is_none_or(|(since, _)| since.elapsed() >= REST)
        {
            *down = Some((Instant::now(), error));
        }
    }

    /// Mirrors that may be asked for tags; those that have failed come last.
    fn mirrors_for_tags(&self) -> Vec<usize> {
        let may_be_asked =
            |n: &usize| matches!(self.mirrors[*n].1, Role::Mirror { tags: true, .. });
        let mut mirrors: Vec<_> = (0..self.mirrors.len()).filter(may_be_asked).collect();
        mirrors.sort_by_key(|n| self.is_resting(&self.mirrors[*n].0));
        mirrors
    }

    /// Asks for something that a digest names: mirrors in their order, then the registry itself.
    fn by_digest<T>(&self, digest: Digest, ask: impl Fn(&Registry) -> Result<T>) -> Result<T> {
        self.anywhere(digest, ask).map_err(|nowhere| nowhere.error)
    }

    fn anywhere<T>(
        &self,
        digest: Digest,
        ask: impl Fn(&Registry) -> Result<T>,
    ) -> Result<T, Nowhere> {
        let gone = || Nowhere::from(Error::ClientGone);
        let (mut resting, mut mirrors) = (Vec::new(), Vec::new());
        for (mirror, role) in &self.mirrors {
            if !matches!(role, Role::Mirror { digests: true, .. }) || self.is_wrong(digest, mirror)
            {
                continue;
            }
            if self.is_resting(mirror) {
                resting.push(mirror);
                continue;
            }
            match self.within_its_share(mirror, Level::Warn, &ask) {
                Ok(found) => return Ok(found),
                // Nobody's fault, and nobody waits for the next one.
                Err(Error::ClientGone) => return Err(gone()),
                Err(error) => mirrors.push(error),
            }
        }
        let error = match ask(&self.primary) {
            Ok(found) => return Ok(found),
            Err(Error::ClientGone) => return Err(gone()),
            Err(error) => error,
        };
        // Where nobody else has it, one that has failed is better than none.
        for mirror in resting {
            match ask(mirror) {
                Ok(found) => return Ok(found),
                Err(Error::ClientGone) => return Err(gone()),
                Err(other) => {
                    debug!("mirror {} fails again: {}", mirror.host(), other.line());
                    mirrors.push(other);
                }
            }
        }
        Err(Nowhere { error, mirrors })
    }

    /// Asks a mirror. One that is silent leaves time for those after it; one that fails rests, and that is `told`.
    fn within_its_share<T>(
        &self,
        mirror: &Registry,
        told: Level,
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
            self.note_failure(mirror, error, had_time, told);
        }
        answer
    }

    /// The number of a place: 0 is the registry itself, then mirrors count from 1.
    fn number_of(&self, registry: &Registry) -> usize {
        let is_it = |(mirror, _): &(Registry, Role)| std::ptr::eq(mirror, registry);
        self.mirrors.iter().position(is_it).map_or(0, |n| n + 1)
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
        self.shown.note(digest);
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
        let is_mirror = self.number_of(registry) > 0;
        let mirror = is_mirror.then(|| (self.upstream.clone(), registry.place().to_owned()));
        Box::new(Watched {
            inner,
            left,
            mirror,
            _transfer: transfer,
        })
    }

    /// A mirror without something is no news; one in trouble is, and is asked after the others for a while. `told`:
    /// how loud that is.
    fn note_failure(&self, mirror: &Registry, error: &Error, had_time: bool, told: Level) {
        if matches!(error, Error::Missing { .. } | Error::WrongBytes { .. }) {
            return debug!("mirror {} has it not: {}", mirror.host(), error.line());
        }
        let had_no_time = !had_time && matches!(error, Error::TooSlow { .. });
        if had_no_time || task::is_over() {
            return debug!("mirror {} had no time: {}", mirror.host(), error.line());
        }
        let host = mirror.host().as_str();
        let name = if error.is_of_host() {
            host
        } else {
            mirror.place()
        };
        let is_news = self.upstream.resting.note(name);
        log!(
            if is_news { told } else { Level::Debug },
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
                if matches!(stored, Err(Error::WrongBytes { .. })) && self.number_of(registry) > 0 {
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
        found.map_err(|nowhere| {
            if from > 0 {
                nowhere.while_waiting()
            } else {
                nowhere.error
            }
        })
    }

    fn whole_blob(&self, digest: Digest) -> Result<(u64, Box<dyn Read + Send>)> {
        self.by_digest(digest, |registry| {
            let is_mirror = self.number_of(registry) > 0;
            let (size, body) = match registry.whole_blob(digest) {
                // Of the registry itself the size can be had otherwise, too.
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

    /// The registry's own word, too. A mirror that has some stands in for a registry that cannot be reached; that
    /// one has none says nothing, for it knows only what was pulled through it.
    fn referrers(&self, subject: Digest) -> Result<Vec<Descriptor>> {
        let error = match self.ask_primary(|registry| registry.referrers(subject)) {
            Err(error) if error.is_registry_down() => error,
            answer => return answer,
        };
        let (mut failed, mut has_none) = (Vec::new(), None);
        for n in self.mirrors_for_tags() {
            let mirror = &self.mirrors[n].0;
            let host = mirror.host();
            let ask = |registry: &Registry| registry.referrers(subject);
            match self.within_its_share(mirror, Level::Debug, ask) {
                Ok(found) if found.is_empty() => has_none = has_none.or(Some(host)),
                Err(Error::ClientGone) => return Err(Error::ClientGone),
                Err(error) => failed.push(format!("{host}: {}", error.line())),
                found => return found,
            }
        }
        Err(match has_none {
            Some(mirror) => Error::NoneAttachedAtMirror {
                error: Box::new(error),
                mirror: mirror.to_string(),
            },
            None => mirrors_too(error, &failed),
        })
    }

    fn note_wrong_bytes(&self, digest: Digest) {
        self.shown.forget(digest);
        for n in self.origins.suspects(digest) {
            self.note_wrong(digest, &self.mirrors[n - 1].0);
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

/// Why something is nowhere to be had.
struct Nowhere {
    /// The registry's own word.
    error: Error,
    /// What the mirrors said.
    mirrors: Vec<Error>,
}

impl From<Error> for Nowhere {
    fn from(error: Error) -> Self {
        Self {
            error,
            mirrors: Vec::new(),
        }
    }
}

impl Nowhere {
    /// For somebody who has a part of it already: a mirror that is being restarted may have been where that
    /// came from, whatever the registry itself says of it.
    fn while_waiting(self) -> Error {
        if self.error.may_pass() {
            return self.error;
        }
        let may_pass = self.mirrors.into_iter().find(Error::may_pass);
        may_pass.unwrap_or(self.error)
    }
}

/// The registry's own error, and what its mirrors said.
fn mirrors_too(error: Error, mirrors: &[String]) -> Error {
    if mirrors.is_empty() {
        return error;
    }
    Error::MirrorsToo {
        error: Box::new(error),
        mirrors: mirrors.join("; "),
    }
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
        match &result {
            Ok(n) => self.left = self.left.saturating_sub(*n as u64),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return result,
            Err(_) => {}
        }
        let has_broken =
            result.is_err() || (matches!(result, Ok(0)) && self.left > 0 && !buffer.is_empty());
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
        let endpoints = vec![mirror, endpoint(Role::Primary)];
        let source = Mirrored::new(&upstream, &host, &repository, endpoints);
        let _limit = task::within(Duration::from_millis(50));
        let digest = Digest::of(b"blob");
        assert!(source.blob(digest, 4, 0).is_err());
        assert!(source.tags().is_err());
        let resting = &upstream.resting;
        assert!(!resting.has(host.as_str()) && !source.is_resting(&source.mirrors[0].0));
    }
}
