//! A registry and its mirrors.
//!
//! Content of a digest is the same everywhere, so it comes from the first mirror that has it. Tags are listed by the
//! registry itself: a pull-through cache knows only the tags that were pulled through it, so mirrors are asked for tags
//! only while the registry is down.

use std::collections::HashSet;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use log::{Level, debug, log, warn};

use super::config::registries_conf::Endpoint;
use super::faults::REST;
use super::registry::Registry;
use super::upstream::Upstream;
use super::{Body, Download, Expected, Origins, Part, Reference, Source, StoredManifest};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::journal;
use crate::lock::lock;
use crate::manifest::Descriptor;
use crate::name::{Host, Repository, Tag};
use crate::task;

/// Opens a repository of a registry, with its mirrors. No request is sent yet.
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
    /// The first place that answered a request for tags: `None` is the registry itself, else the number of a mirror.
    lister: OnceLock<Option<usize>>,
    /// When and why the registry itself could not be reached.
    down: Mutex<Option<(Instant, Error)>>,
    /// The digests that this repository has shown to hold since the source was opened for a snapshot.
    shown: Mutex<HashSet<Digest>>,
}

/// Most digests that are remembered as shown. Others are asked for each time.
const MAX_SHOWN: usize = 1024;
/// A mirror that did not answer within this time is too slow. One that had less time is not blamed.
const FAIR_SHARE: Duration = Duration::from_secs(5);

/// Mirrors that failed, each with its error.
type Failed<'a> = Vec<(&'a Registry, Error)>;

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
            lister: OnceLock::new(),
            down: Mutex::default(),
            shown: Mutex::default(),
        }
    }

    /// Remembers a digest as shown. When there is no room the first ones stay: a reader that asks for the same many
    /// digests again, in the same order, finds those.
    fn note_shown(&self, digest: Digest) {
        let mut shown = lock(&self.shown);
        if shown.len() < MAX_SHOWN {
            shown.insert(digest);
        }
    }

    /// Whether the place that would deliver a digest holds it. `show` fails with [`Error::Missing`] if it does not.
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

    /// Asks for something that tags decide. All requests go to the place that answered the first one, so that the
    /// answers agree. That place is a mirror only if the registry cannot be reached. A mirror's 404 counts only if
    /// `may_miss`, for a single manifest: its tag list may be incomplete.
    fn by_tag<T>(&self, may_miss: bool, ask: impl Fn(&Registry) -> Result<T>) -> Result<T> {
        match self.lister.get() {
            None => {}
            Some(None) => return ask(&self.primary),
            Some(Some(n)) => return self.by_tag_at_mirror(&self.mirrors[*n], ask),
        }
        let error = match self.ask_primary(&ask) {
            Err(error) if error.is_registry_down() => error,
            answer => {
                let _ = self.lister.set(None); // unless another thread was first
                return answer;
            }
        };
        let mut failed = Vec::new();
        let found = self.ask_instead(&mut failed, ask)?;
        let missing = failed.extract_if(.., |(_, error)| {
            may_miss && matches!(error, Error::Missing { .. })
        });
        let missing = missing.last();
        if let Some((mirror, found)) = found {
            let others: String = failed
                .iter()
                .map(|one| format!("; {}", told(one)))
                .collect();
            let (host, error_line) = (mirror.host(), error.line());
            warn!(
                MESSAGE_ID = journal::STAND_IN,
                SOURCE = self.name.as_str(),
                ORIGIN = mirror.location(),
                REASON = error_line.as_str();
                "{}: tags from mirror {host} instead: {error_line}{others}",
                self.name
            );
            self.note_down(error);
            let number = self
                .mirrors
                .iter()
                .position(|one| std::ptr::eq(one, mirror));
            let _ = self.lister.set(number);
            return Ok(found);
        }
        if let Some((_, missing)) = missing {
            self.note_down(error);
            return Err(missing);
        }
        Err(with_mirrors(error, &failed))
    }

    /// Asks the mirror that stands in for the registry. A 404 there is an error of the registry, which may have more.
    fn by_tag_at_mirror<T>(
        &self,
        mirror: &Registry,
        ask: impl Fn(&Registry) -> Result<T>,
    ) -> Result<T> {
        match (ask(mirror), lock(&self.down).clone()) {
            (Err(missing @ Error::Missing { .. }), Some((_, error))) => {
                Err(with_mirrors(error, &[(mirror, missing)]))
            }
            (answer, _) => answer,
        }
    }

    /// Asks the mirrors instead of a registry that is down, resting ones last.
    fn ask_instead<'a, T>(
        &'a self,
        failed: &mut Failed<'a>,
        ask: impl Fn(&Registry) -> Result<T>,
    ) -> Result<Option<(&'a Registry, T)>> {
        let mirrors = self.mirrors.iter().filter(|mirror| mirror.has_tags());
        let mut mirrors: Vec<_> = mirrors.collect();
        mirrors.sort_by_key(|mirror| self.is_resting(mirror));
        self.ask_each(mirrors.into_iter(), Level::Debug, failed, ask)
    }

    /// Asks mirrors one after the other, until one answers. Failures are logged at this level.
    fn ask_each<'a, T>(
        &self,
        mirrors: impl Iterator<Item = &'a Registry>,
        level: Level,
        failed: &mut Failed<'a>,
        ask: impl Fn(&Registry) -> Result<T>,
    ) -> Result<Option<(&'a Registry, T)>> {
        for mirror in mirrors {
            // A silent one leaves time for those after it.
            let share = task::time_left().map(|left| left / 2);
            let limit = share.map(task::within);
            let answer = ask(mirror);
            drop(limit);
            match answer {
                Ok(found) => return Ok(Some((mirror, found))),
                // No mirror is to blame, and nobody waits for the next one.
                Err(Error::ClientGone) => return Err(Error::ClientGone),
                Err(error) => {
                    let had_time = share.is_none_or(|share| share >= FAIR_SHARE);
                    self.note_failure(mirror, &error, had_time, level);
                    failed.push((mirror, error));
                }
            }
        }
        Ok(None)
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
        if down
            .as_ref()
            .is_none_or(|(since, _)| since.elapsed() >= REST)
        {
            *down = Some((Instant::now(), error));
        }
    }

    /// Asks for something that a digest names: mirrors in their order, then the registry itself. The error is the
    /// registry's own.
    fn by_digest<T>(&self, digest: Digest, ask: impl Fn(&Registry) -> Result<T>) -> Result<T> {
        self.by_digest_noting(digest, &mut Vec::new(), ask)
    }

    /// The same, with the mirrors that failed.
    fn by_digest_noting<'a, T>(
        &'a self,
        digest: Digest,
        failed: &mut Failed<'a>,
        ask: impl Fn(&Registry) -> Result<T>,
    ) -> Result<T> {
        let may_have = |mirror: &&Registry| mirror.has_digests() && !self.is_wrong(digest, mirror);
        // Judged one after the other: a failure of one mirror may make the next one, at the same host, rest.
        let awake = |mirror: &&Registry| may_have(mirror) && !self.is_resting(mirror);
        let mirrors = self.mirrors.iter().filter(awake);
        if let Some((_, found)) = self.ask_each(mirrors, Level::Warn, failed, &ask)? {
            return Ok(found);
        }
        let error = match ask(&self.primary) {
            Err(error) if !matches!(error, Error::ClientGone) => error,
            answer => return answer,
        };
        // A mirror that has failed before is better than none.
        let was_asked =
            |mirror: &Registry| failed.iter().any(|(one, _)| std::ptr::eq(*one, mirror));
        let mirrors = self.mirrors.iter().filter(may_have);
        let resting: Vec<_> = mirrors.filter(|mirror| !was_asked(mirror)).collect();
        let found = self.ask_each(resting.into_iter(), Level::Debug, failed, ask)?;
        found.map(|(_, found)| found).ok_or(error)
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
            MESSAGE_ID = journal::MIRROR_DAMAGED,
            SOURCE = self.name.as_str(),
            ORIGIN = mirror.location(),
            DIGEST:% = digest;
            "{}: mirror {} gave wrong bytes of {digest}, going on without it for that",
            self.name,
            mirror.host()
        );
    }

    /// A body of `left` bytes. If it breaks off, the mirror that it comes from rests.
    fn watch(
        &self,
        registry: &Registry,
        inner: Box<dyn Read + Send>,
        left: u64,
    ) -> Box<dyn Read + Send> {
        if !registry.is_mirror() {
            return inner;
        }
        Box::new(Watched {
            inner,
            left,
            upstream: self.upstream.clone(),
            place: registry.place().to_owned(),
        })
    }

    /// The same, of the last bytes of a blob.
    fn watch_blob(
        &self,
        registry: &Registry,
        digest: Digest,
        inner: Box<dyn Read + Send>,
        left: u64,
        origins: &Origins,
    ) -> Box<dyn Read + Send> {
        if registry.is_mirror() {
            origins.add(registry.place());
        }
        self.note_shown(digest);
        self.watch(registry, inner, left)
    }

    /// Makes a mirror in trouble rest: for a while it is asked after the others. A mirror that only lacks something
    /// does not rest.
    fn note_failure(&self, mirror: &Registry, error: &Error, had_time: bool, level: Level) {
        let (name, host, line) = (&self.name, mirror.host(), error.line());
        if matches!(error, Error::Missing { .. } | Error::WrongBytes { .. }) {
            return debug!("{name}: mirror {host} does not have it: {line}");
        }
        let had_no_time = !had_time && matches!(error, Error::TooSlow { .. });
        if had_no_time || task::is_over() {
            return debug!("{name}: mirror {host} had too little time: {line}");
        }
        let subject = match error.is_of_host() {
            true => host.as_str(),
            false => mirror.place(),
        };
        let is_news = self.upstream.resting.note(subject);
        let level = if is_news { level } else { Level::Debug };
        log!(
            level,
            MESSAGE_ID = journal::MIRROR_FAILS,
            SOURCE = name.as_str(),
            ORIGIN = mirror.location(),
            REASON = line.as_str();
            "{name}: mirror {host} fails, going on without it: {line}"
        );
    }

    /// Asks the registry for the signatures or referrers of a manifest. While it is down, the first mirror that has
    /// some answers: a mirror without any may only lack them.
    fn attached<T>(&self, ask: impl Fn(&Registry) -> Result<Option<T>>) -> Result<Option<T>> {
        let error = match self.ask_primary(&ask) {
            Err(error) if error.is_registry_down() => error,
            answer => return answer,
        };
        let mut failed = Vec::new();
        let found = self.ask_instead(&mut failed, |mirror| {
            ask(mirror)?.ok_or_else(|| Error::Missing {
                url: format!("attached artifact at {}", mirror.host()),
            })
        })?;
        let lacks_them = |(_, error): &&(_, Error)| matches!(error, Error::Missing { .. });
        match (found, failed.iter().find(lacks_them)) {
            (Some((_, found)), _) => Ok(Some(found)),
            (None, Some((mirror, _))) => Err(Error::NoneAttachedAtMirror {
                error: Box::new(error),
                mirror: mirror.host().to_string(),
            }),
            (None, None) => Err(with_mirrors(error, &failed)),
        }
    }
}

impl Source for Mirrored {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn tags(&self) -> Result<Vec<Tag>> {
        self.by_tag(false, Registry::tags)
    }

    fn expect(&self, requests: usize) -> Option<Expected> {
        self.primary.expect(requests)
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

    fn blob(
        &self,
        digest: Digest,
        size: u64,
        range: Range<u64>,
        origins: &Origins,
    ) -> Result<Body> {
        let mut failed = Vec::new();
        let found = self.by_digest_noting(digest, &mut failed, |registry| {
            let body = registry.blob(digest, size, range.clone())?;
            let left = body.ends_at - body.starts_at;
            let reader = self.watch_blob(registry, digest, body.reader, left, origins);
            Ok(Body { reader, ..body })
        });
        found.map_err(|error| {
            if range.start == 0 || error.may_pass() || matches!(error, Error::ClientGone) {
                return error;
            }
            // The first bytes may have come from a mirror that is being restarted, even if the registry lacks the blob.
            let mut failed = failed.into_iter().map(|(_, error)| error);
            failed.find(Error::may_pass).unwrap_or(error)
        })
    }

    fn whole_blob(&self, digest: Digest, origins: &Origins) -> Result<(u64, Box<dyn Read + Send>)> {
        self.by_digest(digest, |registry| {
            let is_mirror = registry.is_mirror();
            let (size, body) = match registry.whole_blob(digest) {
                // The registry itself may tell the size in another way.
                Err(Error::Nonsense { .. }) if !is_mirror => {
                    let size = registry.blob_size(digest)?;
                    (size, registry.blob(digest, size, 0..size)?.reader)
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
            Ok((size, self.watch_blob(registry, digest, body, size, origins)))
        })
    }

    fn blob_range(&self, digest: Digest, size: u64, range: Range<u64>) -> Result<Part> {
        self.by_digest(digest, |registry| {
            match registry.blob_range(digest, size, range.clone())? {
                Part::Whole(body) => Ok(Part::Whole(self.watch(registry, body, size))),
                part => Ok(part),
            }
        })
    }

    /// The registry's own word. The size that a mirror tells is used only for the bytes that it delivers.
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

    fn referrers(&self, subject: Digest) -> Result<Vec<Descriptor>> {
        let found = self.attached(|registry| {
            let found = registry.referrers(subject)?;
            Ok(Some(found).filter(|found| !found.is_empty()))
        })?;
        Ok(found.unwrap_or_default())
    }

    fn companion(&self, tag: &Tag) -> Result<Option<StoredManifest>> {
        self.attached(|registry| match registry.manifest(Reference::Tag(tag)) {
            Err(Error::Missing { .. }) => Ok(None),
            found => found.map(Some),
        })
    }

    fn note_wrong_bytes(&self, digest: Digest, origins: &Origins) {
        lock(&self.shown).remove(&digest);
        for mirror in self.mirrors.iter().filter(|one| origins.has(one.place())) {
            self.note_wrong(digest, mirror);
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
        !matches!(self.lister.get(), Some(Some(_)))
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
fn with_mirrors(error: Error, failed: &[(&Registry, Error)]) -> Error {
    if failed.is_empty() {
        return error;
    }
    let mirrors: Vec<_> = failed.iter().map(told).collect();
    Error::MirrorsToo {
        error: Box::new(error),
        mirrors: mirrors.join("; "),
    }
}

fn told((mirror, error): &(&Registry, Error)) -> String {
    format!("{}: {}", mirror.host(), error.line())
}

/// A body from a mirror. If it breaks off, the mirror rests, so that the remaining bytes come from elsewhere.
struct Watched {
    inner: Box<dyn Read + Send>,
    left: u64,
    upstream: Arc<Upstream>,
    place: String,
}

impl Read for Watched {
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
        if has_broken && !task::is_over() {
            self.upstream.resting.note(&self.place);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::settings::Settings;
    use crate::source::config::registries_conf::{Pull, Role};
    use crate::state::State;

    /// A repository at these hosts: its mirrors, and at the last the registry itself.
    fn mirrored(hosts: &[Host]) -> Mirrored {
        let state = Arc::new(State::new(None));
        let upstream = Upstream::new(&Settings::default(), "/nonexistent".as_ref(), state);
        let repository: Repository = "hello".parse().unwrap();
        let endpoint = |host: &Host, role| Endpoint {
            host: host.clone(),
            repository: repository.clone(),
            insecure: None,
            role,
        };
        let (host, mirrors) = hosts.split_last().unwrap();
        let mirrors = mirrors
            .iter()
            .map(|host| endpoint(host, Role::Mirror(Pull::All)));
        let endpoints = (mirrors.collect(), endpoint(host, Role::Primary));
        Mirrored::new(&upstream.unwrap(), host, &repository, endpoints)
    }

    #[test]
    fn a_mirror_is_not_blamed_for_what_we_had_no_time_for() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let host: Host = silent.local_addr().unwrap().to_string().parse().unwrap();
        let source = mirrored(&[host.clone(), host.clone()]);
        let _limit = task::within(Duration::from_millis(50));
        let digest = Digest::of(b"blob");
        assert!(source.blob(digest, 4, 0..4, &Origins::default()).is_err());
        assert!(source.tags().is_err());
        let resting = &source.upstream.resting;
        assert!(!resting.has(host.as_str()) && !source.is_resting(&source.mirrors[0]));
    }

    #[test]
    fn only_the_mirrors_of_a_download_are_blamed_for_its_bytes() {
        let source = mirrored(
            &["one.example", "two.example", "r.example"].map(|host| host.parse().unwrap()),
        );
        let digest = Digest::of(b"blob");
        let blamed = || {
            let mirrors = source.mirrors.iter();
            Vec::from_iter(mirrors.map(|mirror| source.is_wrong(digest, mirror)))
        };
        let (own, others) = (Origins::default(), Origins::default());
        others.add(source.mirrors[1].place());
        source.note_wrong_bytes(digest, &own);
        assert_eq!(blamed(), [false, false], "it came from the registry itself");
        own.add(source.mirrors[0].place());
        source.note_wrong_bytes(digest, &own);
        assert_eq!(blamed(), [true, false]);
        source.note_wrong_bytes(digest, &others);
        assert_eq!(blamed(), [true, true]);
    }
}
