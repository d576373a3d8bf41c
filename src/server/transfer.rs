//! A file on its way to a client: how far it is, and the entries in the log when it ends.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use log::{error, info, warn};

use crate::address::Directory;
use crate::artifact::Content;
use crate::blob::{Provenance, Reused};
use crate::digest::Digest;
use crate::journal;
use crate::listing::File;
use crate::name::FileName;
use crate::printable::human_size;
use crate::snapshot::Snapshot;

/// A file that is being sent.
#[derive(Debug)]
pub struct Transfer {
    /// The directory by its address: `kubernetes`, `kubernetes:v1`.
    directory: String,
    file: FileName,
    /// In bytes.
    size: u64,
    digest: Digest,
    /// The tag that offers it, and the name of its source: `ghcr.io/acme/kubernetes`.
    tag: String,
    source: String,
    /// The place of its bytes, if no source is asked for them.
    kept_in: &'static str,
    /// How its bytes are verified, for `VERIFIED_BY=`: `digest`, and the requirement that its manifest meets, if there is one.
    verified_by: String,
    begun: Instant,
    /// Bytes sent so far.
    sent: AtomicU64,
}

impl Transfer {
    /// A file of a snapshot, of which nothing was sent yet.
    pub fn new(
        directory: &Directory,
        snapshot: &Snapshot,
        name: &FileName,
        file: &File,
        size: u64,
    ) -> Self {
        Self {
            directory: directory.to_string(),
            file: name.clone(),
            size,
            digest: file.digest,
            tag: file.tag.to_string(),
            source: snapshot.source_of(file).name(),
            kept_in: match file.content {
                Content::Text(_) => "manifest",
                Content::Blob | Content::Flattened { .. } => "cache",
            },
            verified_by: match &file.accepted {
                None => "digest".to_owned(),
                Some(accepted) => format!("digest, {}", accepted.by),
            },
            begun: Instant::now(),
            sent: AtomicU64::new(0),
        }
    }

    /// Some more bytes were sent.
    pub fn advance(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Relaxed);
    }

    /// The client has all of it. `provenance`: where its bytes came from; `None`: they are kept here.
    pub fn log_end(&self, provenance: Option<&Provenance>) {
        let took = self.begun.elapsed();
        let reused = provenance.and_then(|from| from.reused.as_deref());
        let (fetched, seed) = match (reused, provenance) {
            (Some(reused), _) => (reused.fetched(), reused.seeds()),
            (None, Some(_)) => (self.size, ""),
            (None, None) => (0, ""),
        };
        let saved = reused.map_or_else(String::new, saved);
        let (origin, from) = match provenance.map(|from| from.origins.mirrors()) {
            None => (
                self.kept_in.to_owned(),
                format!(" from the {}", self.kept_in),
            ),
            Some(None) => (self.source.clone(), String::new()),
            Some(Some(mirrors)) => (mirrors.clone(), format!(" from {mirrors}")),
        };
        let Self {
            directory,
            file,
            tag,
            source,
            digest,
            size,
            verified_by,
            ..
        } = self;
        info!(
            MESSAGE_ID = journal::DOWNLOADED,
            REPOSITORY = directory.as_str(),
            FILE:% = file,
            BYTES = *size,
            BYTES_FETCHED = fetched,
            SEED = seed,
            USEC:% = took.as_micros(),
            SOURCE = source.as_str(),
            TAG = tag.as_str(),
            ORIGIN = origin.as_str(),
            DIGEST:% = digest,
            VERIFIED_BY = verified_by.as_str();
            "{directory}/{file}: {} in {:.1} s{saved}, tag {tag} of {source}{from}, {digest}, verified by {verified_by}",
            human_size(*size),
            took.as_secs_f64()
        );
    }

    /// The rest of it did not arrive.
    pub fn log_cut(&self, request: &str, reason: &str) {
        let sent = self.sent.load(Relaxed);
        error!(
            MESSAGE_ID = journal::CUT,
            REPOSITORY = self.directory.as_str(),
            FILE:% = self.file,
            BYTES = sent,
            SOURCE = self.source.as_str(),
            TAG = self.tag.as_str(),
            DIGEST:% = self.digest,
            REASON = reason;
            "{request}: download cut short after {sent} of {} bytes: {reason}",
            self.size
        );
    }

    /// The service ends before all of it was sent.
    pub fn log_stop(&self, request: &str) {
        warn!(
            MESSAGE_ID = journal::CUT_BY_STOP,
            REPOSITORY = self.directory.as_str(),
            FILE:% = self.file,
            BYTES = self.sent.load(Relaxed),
            SOURCE = self.source.as_str(),
            TAG = self.tag.as_str(),
            DIGEST:% = self.digest;
            "{request}: answer cut short at {} of {} ({} %), for the service was told to stop",
            human_size(self.sent.load(Relaxed)),
            human_size(self.size),
            self.percent()
        );
    }

    fn percent(&self) -> u64 {
        let sent = u128::from(self.sent.load(Relaxed)) * 100;
        u64::try_from(sent / u128::from(self.size.max(1))).unwrap_or(100)
    }
}

/// `, 41.0 MiB of it fetched, the rest from kubernetes-v1.29.0.raw`
fn saved(reused: &Reused) -> String {
    let (fetched, seeds) = (human_size(reused.fetched()), reused.seeds());
    match reused.dropped() {
        None => format!(", {fetched} of it fetched, the rest from {seeds}"),
        Some(why) => format!(", {fetched} fetched, because reusing {seeds} was given up: {why}"),
    }
}

/// For `STATUS=`: `kubernetes-v1.raw 42 %`.
impl fmt::Display for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} %", self.file, self.percent())
    }
}
