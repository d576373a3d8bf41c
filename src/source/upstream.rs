//! What all registries share: connections, logins, mirrors, and what was learnt of each host.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::auth::Auth;
use super::client::Client;
use super::credentials::Keyring;
use super::recent::Recent;
use super::registries_conf::Registries;
use crate::digest::Digest;
use crate::error::Result;
use crate::lock::lock;
use crate::name::Host;
use crate::settings::Settings;
use crate::state::State;

/// How long a mirror that failed is left alone.
const REST: Duration = Duration::from_secs(30);

/// Hosts of which it is remembered whether they speak TLS, and mirrors of which it is remembered that they failed.
const MAX_HOSTS: usize = 256;

/// Blobs of which it is remembered where they came from.
const MAX_ORIGINS: usize = 256;

/// Which mirrors blobs came from, the last ones.
#[derive(Default)]
pub(super) struct Origins(Mutex<VecDeque<(Digest, Host)>>);

impl Origins {
    pub(super) fn note(&self, blob: Digest, mirror: &Host) {
        if self.has(blob, mirror) {
            return;
        }
        let mut known = lock(&self.0);
        if known.len() >= MAX_ORIGINS {
            known.pop_front();
        }
        known.push_back((blob, mirror.clone()));
    }

    pub(super) fn has(&self, blob: Digest, mirror: &Host) -> bool {
        let known = lock(&self.0);
        known.iter().any(|one| (one.0, &one.1) == (blob, mirror))
    }

    /// The mirrors that one blob came from, which are forgotten.
    pub(super) fn take(&self, blob: Digest) -> Vec<Host> {
        let mut known = lock(&self.0);
        let mirrors = known.iter().filter(|one| one.0 == blob);
        let mirrors = mirrors.map(|one| one.1.clone()).collect();
        known.retain(|one| one.0 != blob);
        mirrors
    }
}

/// The way to all registries.
pub struct Upstream {
    pub(super) client: Client,
    pub(super) auth: Auth,
    pub(super) registries: Arc<Registries>,
    /// What is remembered of each source.
    #[allow(dead_code, reason = "for what is to be noted")]
    pub(super) state: Arc<State>,
    mirrors_with_ns: Vec<Host>,
    /// Whether a host speaks TLS, as `insecure` said and perhaps a try showed.
    speaks_tls: Mutex<Recent<(Host, Option<bool>), bool>>,
    /// Mirrors that failed, and when.
    resting: Mutex<Recent<Host, Instant>>,
    /// Mirrors with wrong bytes. They keep them, for all that is known, as long as this process lives.
    pub(super) wrong: Origins,
}

impl Upstream {
    /// By these settings and those of container tools below `root`.
    pub fn new(settings: &Settings, root: &Path, state: Arc<State>) -> Result<Arc<Self>> {
        let registries = Arc::new(Registries::load(root)?);
        Ok(Arc::new(Self {
            client: Client::new(
                root,
                settings.parallel.get(),
                settings.trusted_hosts.clone(),
                registries.clone(),
            ),
            auth: Auth::new(Keyring::from_environment(), settings.trusted_hosts.clone()),
            registries,
            state,
            mirrors_with_ns: settings.mirrors_with_ns.clone(),
            speaks_tls: Mutex::new(Recent::entries(MAX_HOSTS)),
            resting: Mutex::new(Recent::entries(MAX_HOSTS)),
            wrong: Origins::default(),
        }))
    }

    /// `https://host` or `http://host`.
    ///
    /// A registry on loopback is plain HTTP, unless registries.conf says `insecure = false` or there
    /// is a certs.d directory for it. Any other is HTTPS, unless registries.conf says `insecure =
    /// true` and it does not speak TLS.
    pub(super) fn origin(&self, host: &Host, insecure: Option<bool>) -> Result<String> {
        let key = (host.clone(), insecure);
        let known = lock(&self.speaks_tls).get(&key).copied();
        let speaks_tls = match known {
            Some(known) => known,
            None => {
                let found = match (host.is_loopback(), insecure) {
                    (_, Some(false)) | (false, None) => true,
                    (true, None) => self.client.has_certificates(host)?,
                    (true, Some(true)) => false,
                    (false, Some(true)) => self.client.speaks_tls(host)?,
                };
                lock(&self.speaks_tls).insert(key, found);
                found
            }
        };
        Ok(format!(
            "{}://{host}",
            if speaks_tls { "https" } else { "http" }
        ))
    }

    /// Does this mirror want to know what it mirrors (`?ns=`)? On this machine they do: Spegel and
    /// Dragonfly serve many registries at one address.
    pub(super) fn wants_ns(&self, mirror: &Host) -> bool {
        mirror.is_loopback() || self.mirrors_with_ns.contains(mirror)
    }

    /// Leaves a mirror alone for a while. Is that news?
    pub(super) fn rest(&self, mirror: &Host) -> bool {
        let before = lock(&self.resting).insert(mirror.clone(), Instant::now());
        before.is_none_or(|since| since.elapsed() >= REST)
    }

    pub(super) fn is_resting(&self, mirror: &Host) -> bool {
        lock(&self.resting)
            .get(mirror)
            .is_some_and(|since| since.elapsed() < REST)
    }
}
