//! The state that all registries share: connections, logins, mirrors, and the properties of hosts.

use std::path::Path;
use std::sync::{Arc, Mutex};

use super::config::auth_json::Keyring;
use super::config::registries_conf::Registries;
use super::faults::{Resting, Wrong};
use super::recent::Recent;
use super::registry::auth::Auth;
use super::registry::client::Client;
use crate::error::Result;
use crate::lock::lock;
use crate::name::Host;
use crate::settings::Settings;
use crate::state::State;

/// Hosts whose TLS is remembered.
const MAX_HOSTS: usize = 256;

/// Connections, logins and mirrors of all registries.
pub struct Upstream {
    pub client: Client,
    pub auth: Auth,
    pub registries: Arc<Registries>,
    /// The notes on each source.
    pub state: Arc<State>,
    mirrors_with_ns: Vec<Host>,
    mirrors_without_ns: Vec<Host>,
    /// Whether a host speaks TLS, as `insecure` said and perhaps a try showed.
    speaks_tls: Mutex<Recent<(Host, Option<bool>), bool, MAX_HOSTS>>,
    pub resting: Resting,
    pub wrong: Wrong,
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
            mirrors_without_ns: settings.mirrors_without_ns.clone(),
            speaks_tls: Mutex::default(),
            resting: Resting::default(),
            wrong: Wrong::default(),
        }))
    }

    /// `https://host` or `http://host`.
    ///
    /// A registry on loopback is plain HTTP, unless registries.conf says `insecure = false` or there
    /// is a certs.d directory for it. Any other is HTTPS, unless registries.conf says `insecure =
    /// true` and it does not speak TLS.
    pub fn origin(&self, host: &Host, insecure: Option<bool>) -> Result<String> {
        let speaks_tls = match self.known_to_speak_tls(host, insecure)? {
            Some(known) => known,
            None => {
                let found = self.client.speaks_tls(host)?;
                lock(&self.speaks_tls).insert((host.clone(), insecure), found);
                found
            }
        };
        Ok(origin(host, speaks_tls))
    }

    /// The same, if the registry need not be asked for it.
    pub fn known_origin(&self, host: &Host, insecure: Option<bool>) -> Option<String> {
        let known = self.known_to_speak_tls(host, insecure).ok()?;
        known.map(|speaks_tls| origin(host, speaks_tls))
    }

    /// Whether a host speaks TLS; `None`: only a try can show it.
    fn known_to_speak_tls(&self, host: &Host, insecure: Option<bool>) -> Result<Option<bool>> {
        let key = (host.clone(), insecure);
        if let Some(known) = lock(&self.speaks_tls).get(&key) {
            return Ok(Some(*known));
        }
        let found = match (host.is_loopback(), insecure) {
            (false, Some(true)) => return Ok(None),
            (_, Some(false)) | (false, None) => true,
            (true, None) => self.client.has_certificates(host)?,
            (true, Some(true)) => false,
        };
        lock(&self.speaks_tls).insert(key, found);
        Ok(Some(found))
    }

    /// Whether requests to a mirror name the registry that it mirrors (`?ns=`). Those to this machine do: Spegel and
    /// Dragonfly serve many registries at one address.
    pub fn wants_ns(&self, mirror: &Host) -> bool {
        let is_told = mirror.is_loopback() || self.mirrors_with_ns.contains(mirror);
        is_told && !self.mirrors_without_ns.contains(mirror)
    }
}

fn origin(host: &Host, speaks_tls: bool) -> String {
    let scheme = if speaks_tls { "https" } else { "http" };
    format!("{scheme}://{host}")
}
