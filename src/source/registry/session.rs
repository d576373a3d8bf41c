//! The login for one repository of one registry, as long as it is remembered.

use std::sync::Mutex;
use std::time::Instant;

use super::challenge::BearerChallenge;
use super::client::{Client, host_of};
use super::request::Authorization;
use super::url;
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::name::{Host, Repository};
use crate::semaphore::{Permit, Semaphore};
use crate::source::config::auth_json::Keyring;
use crate::task;

/// A repository, and how it is reached.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionKey {
    pub host: Host,
    pub repository: Repository,
    /// The registry that is mirrored (`?ns=`), at a mirror of several registries: each may require its own login.
    pub namespace: Option<Host>,
    /// The host's certificate is not checked, so its answers are not trusted elsewhere.
    pub unchecked: bool,
    /// A redirect led there, so no login is sent.
    pub is_anonymous: bool,
}

/// The login for one repository. One request at a time logs in; all requests that waited use the result.
pub struct Session {
    pub key: SessionKey,
    turn: Semaphore,
    pub state: Mutex<State>,
}

impl Session {
    pub fn new(key: SessionKey) -> Self {
        Self {
            key,
            turn: Semaphore::new(1),
            state: Mutex::default(),
        }
    }

    /// `HOST/REPOSITORY`, for messages.
    pub fn name(&self) -> String {
        format!("{}/{}", self.key.host, self.key.repository)
    }

    /// The `Authorization` header in use.
    pub fn authorization(&self) -> Option<Authorization> {
        lock(&self.state).authorization.clone()
    }

    pub fn take_turn(&self) -> Result<Permit<'_>> {
        self.turn
            .acquire(|| format!("the login for {}", self.name()))
    }

    /// Remembers the result of a login, also for the requests that wait for it.
    pub fn conclude(&self, met: Result<State>) -> Result<Option<Authorization>> {
        let state = met.or_else(|error| {
            // A client that disconnected or ran out of time does not affect others: the state stays.
            if matches!(error, Error::ClientGone) || task::passed_limit().is_some() {
                return Err(error);
            }
            let place = match &error {
                Error::LoginRefused { place, .. } => Some(place.clone()),
                _ => None,
            };
            Ok(State {
                place,
                failed: Some((Instant::now(), error)),
                ..State::default()
            })
        })?;
        let result = match &state.failed {
            Some((_, error)) => Err(error.clone()),
            None => Ok(state.authorization.clone()),
        };
        *lock(&self.state) = state;
        result
    }
}

/// The result of the last login.
#[derive(Default)]
pub struct State {
    pub authorization: Option<Authorization>,
    /// The challenge that a token answers, and when the token is renewed, before it expires.
    pub bearer: Option<(BearerChallenge, Instant)>,
    /// The place of the login that is used, or that was refused.
    pub place: Option<String>,
    /// When and why logging in failed.
    pub failed: Option<(Instant, Error)>,
}

impl State {
    /// The failure of another request's login since `asked`: the same login would fail again.
    pub fn failure_since(&self, asked: Instant) -> Option<Error> {
        let failed = self.failed.as_ref().filter(|(when, _)| *when >= asked);
        failed.map(|(_, error)| error.clone())
    }

    /// The challenge for a new token, if this one is about to expire.
    pub fn to_renew(&self) -> Option<BearerChallenge> {
        let (challenge, renew_at) = self.bearer.as_ref()?;
        (*renew_at <= Instant::now()).then(|| challenge.clone())
    }
}

/// A repository that may require a login, and the client for it.
pub struct Target<'a> {
    pub client: &'a Client,
    pub session: &'a Session,
    /// `https://host`
    pub origin: &'a str,
}

impl Target<'_> {
    pub fn no_login(&self, keyring: &Keyring, message: String) -> Error {
        Error::NoLogin {
            registry: self.session.name(),
            looked: keyring.describe(),
            message,
        }
    }

    /// Refuses to send passwords and tokens over plain HTTP, except to this machine.
    pub fn refuse_plain(&self, url: &str, has_secret: bool) -> Result<()> {
        if has_secret && url.starts_with("http:") && !host_of(url)?.is_loopback() {
            return Err(Error::UntrustedRealm {
                registry: self.session.key.host.to_string(),
                realm: url::for_messages(url),
                why: "a login is not sent over plain HTTP".into(),
            });
        }
        Ok(())
    }
}
