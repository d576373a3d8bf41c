//! The login that goes with a request to a registry.
//!
//! A request is made without a login first. When the registry answers with a challenge, that is met:
//! Bearer by a token from the server it names, Basic by the password. What worked is used from then on,
//! for one repository of one registry.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::challenge::{self, BearerChallenge, Challenge};
use super::client::{Client, host_of};
use super::reply::Reply;
use super::request::{Authorization, Request};
use super::token::Tokens;
use super::url;
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::name::{Host, Repository};
use crate::places::{Place, Places};
use crate::source::config::auth_json::{Found, Keyring, Login};
use crate::source::recent::Recent;
use crate::task;

/// Repositories whose login is remembered.
const MAX_SESSIONS: usize = 256;

/// The logins of this machine, and the tokens got so far.
pub struct Auth {
    pub keyring: Keyring,
    sessions: Mutex<Recent<SessionKey, Arc<Session>>>,
    tokens: Tokens,
}

/// A repository, and the way of speaking to it that its login is for.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionKey {
    pub host: Host,
    pub repository: Repository,
    /// The registry that a mirror of several registries stands in for (`?ns=`): each may want its own login.
    pub namespace: Option<Host>,
    /// The host's certificate is not checked, so its answers may be somebody else's.
    pub unchecked: bool,
    /// A redirect led there, and no login goes along.
    pub is_anonymous: bool,
}

/// The login for one repository. One request at a time logs in, and the result is for all that waited.
pub struct Session {
    pub key: SessionKey,
    turn: Places,
    state: Mutex<State>,
}

impl Session {
    fn new(key: SessionKey) -> Self {
        Self {
            key,
            turn: Places::new(1),
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

    fn take_turn(&self) -> Result<Place<'_>> {
        self.turn.take(|| format!("the login for {}", self.name()))
    }

    /// Remembers the result of a login, for those who wait for it, too.
    fn conclude(&self, met: Result<State>) -> Result<Option<Authorization>> {
        let (state, result) = match met {
            Ok(state) => {
                let authorization = state.authorization.clone();
                (state, Ok(authorization))
            }
            // That a client left, or ran out of time, concerns no other client: the state stays.
            Err(error) if matches!(error, Error::ClientGone) || task::passed_limit().is_some() => {
                return Err(error);
            }
            Err(error) => {
                let place = match &error {
                    Error::LoginRefused { place, .. } => Some(place.clone()),
                    _ => None,
                };
                let state = State {
                    place,
                    failed: Some((Instant::now(), error.clone())),
                    ..State::default()
                };
                (state, Err(error))
            }
        };
        *lock(&self.state) = state;
        result
    }
}

#[derive(Default)]
struct State {
    authorization: Option<Authorization>,
    /// Where a token came from and when it is renewed, before it dies.
    bearer: Option<(BearerChallenge, Instant)>,
    /// Where the login was found that is used, or that was refused.
    place: Option<String>,
    /// When and why logging in failed.
    failed: Option<(Instant, Error)>,
}

impl State {
    /// The failure of another request's login since `asked`: trying the same again is no use.
    fn failure_since(&self, asked: Instant) -> Option<Error> {
        let failed = self.failed.as_ref().filter(|(when, _)| *when >= asked);
        failed.map(|(_, error)| error.clone())
    }

    /// The challenge that gives a new token, if this one is about to die.
    fn to_renew(&self) -> Option<BearerChallenge> {
        let (challenge, renew_at) = self.bearer.as_ref()?;
        (*renew_at <= Instant::now()).then(|| challenge.clone())
    }
}

/// A repository that may want a login, and how to speak to it.
pub struct Target<'a> {
    pub client: &'a Client,
    pub session: &'a Session,
    /// `https://host`
    pub origin: &'a str,
}

impl Auth {
    pub fn new(keyring: Keyring, trusted_hosts: Vec<Host>) -> Self {
        Self {
            keyring,
            sessions: Mutex::new(Recent::entries(MAX_SESSIONS)),
            tokens: Tokens::new(trusted_hosts),
        }
    }

    pub fn session(&self, key: SessionKey) -> Arc<Session> {
        let mut sessions = lock(&self.sessions);
        if let Some(session) = sessions.get(&key) {
            return session.clone();
        }
        let session = Arc::new(Session::new(key.clone()));
        sessions.insert(key, session.clone());
        session
    }

    /// The header to send with a request: none until the registry has asked for one.
    pub fn authorization(&self, target: &Target<'_>) -> Result<Option<Authorization>> {
        let (session, asked) = (target.session, Instant::now());
        if lock(&session.state).to_renew().is_none() {
            return Ok(session.authorization());
        }
        let _turn = session.take_turn()?;
        let challenge = {
            let state = lock(&session.state);
            match (state.failure_since(asked), state.to_renew()) {
                (Some(error), _) => return Err(error),
                (None, None) => return Ok(state.authorization.clone()),
                (None, Some(challenge)) => challenge,
            }
        };
        session.conclude(self.meet(target, &[Challenge::Bearer(challenge)]))
    }

    /// The header to send after a registry refused `used`. An error if there is none.
    pub fn log_in(
        &self,
        target: &Target<'_>,
        used: Option<&Authorization>,
        refusal: &Reply,
    ) -> Result<Option<Authorization>> {
        let (session, asked) = (target.session, Instant::now());
        let _turn = session.take_turn()?;
        {
            // Another request may have met the challenge while this one waited.
            let state = lock(&session.state);
            if let Some(error) = state.failure_since(asked) {
                return Err(error);
            }
            // A failed attempt that was not a refusal leaves no credential to retry with.
            let is_met = state.authorization.is_some() || state.place.is_some();
            if is_met && state.authorization.as_ref() != used {
                return Ok(state.authorization.clone());
            }
        }
        self.tokens.forget(used);
        session.conclude(self.answer(target, used, refusal))
    }

    /// Meets the challenge of a refusal.
    fn answer(
        &self,
        target: &Target<'_>,
        used: Option<&Authorization>,
        refusal: &Reply,
    ) -> Result<State> {
        let mut challenges = challenges(refusal);
        if used.is_some() && challenge::bearer(&challenges).is_none() {
            // Harbor answers a token that is too narrow with Basic; without a token it names the right scope.
            // ECR Public answers an old token with 400 and no challenge.
            challenges = target.challenges_at(&refusal.asked)?;
        }
        if challenges.is_empty() {
            // gcr.io has them only at the root.
            challenges = target.challenges_at(&format!("{}/v2/", target.origin))?;
        }
        self.meet(target, &challenges)
    }

    /// The error for a login that was sent and refused. It is not sent again unasked.
    pub fn refused(&self, target: &Target<'_>, status: u16, message: String) -> Error {
        let mut state = lock(&target.session.state);
        self.tokens.forget(state.authorization.as_ref());
        (state.authorization, state.bearer) = (None, None);
        match state.place.clone() {
            Some(place) => Error::LoginRefused {
                registry: target.session.name(),
                place,
                status,
                message,
            },
            None => target.no_login(&self.keyring, message),
        }
    }

    /// Meets the best of these challenges: Bearer before Basic.
    fn meet(&self, target: &Target<'_>, challenges: &[Challenge]) -> Result<State> {
        let SessionKey {
            host,
            repository,
            is_anonymous,
            ..
        } = &target.session.key;
        let found = match is_anonymous {
            true => None,
            false => self.keyring.find(host, repository)?,
        };
        let mut state = State {
            place: found.as_ref().map(|found| found.place.clone()),
            ..State::default()
        };
        let no_login = |message: &str| target.no_login(&self.keyring, message.to_owned());
        let authorization = match (found, challenge::bearer(challenges)) {
            (
                Some(Found {
                    login: Login::RegistryToken(token),
                    ..
                }),
                _,
            ) => {
                target.refuse_plain(target.origin, true)?;
                Authorization::bearer(&token)
            }
            (found, Some(challenge)) => {
                // A token that anybody gets is no secret.
                target.refuse_plain(target.origin, found.is_some())?;
                let token = (self.tokens).get(target, challenge, found.as_ref(), &self.keyring)?;
                state.bearer = Some((challenge.clone(), token.renew_at));
                token.authorization
            }
            (_, None) if !challenges.contains(&Challenge::Basic) => {
                return Err(no_login("it names no way to log in that we speak"));
            }
            (
                Some(Found {
                    login: Login::Password { user, password },
                    ..
                }),
                None,
            ) => {
                target.refuse_plain(target.origin, true)?;
                Authorization::basic(&user, &password)
            }
            (Some(Found { place, .. }), None) => {
                let why = "this is a token, and the registry wants a user name and password".into();
                return Err(Error::BadLogin { place, why });
            }
            (None, None) => return Err(no_login("")),
        };
        state.authorization = Some(authorization);
        Ok(state)
    }
}

impl Target<'_> {
    pub fn no_login(&self, keyring: &Keyring, message: String) -> Error {
        Error::NoLogin {
            registry: self.session.name(),
            looked: keyring.describe(),
            message,
        }
    }

    /// Passwords and tokens do not cross a network in the clear.
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

    /// The challenges of a registry when no login is sent.
    fn challenges_at(&self, url: &str) -> Result<Vec<Challenge>> {
        let request = Request::get(url).unchecked(self.session.key.unchecked);
        let mut reply = self.client.send(request)?;
        reply.drain();
        Ok(challenges(&reply))
    }
}

/// Whether a refusal asks for a token, as registries do.
pub fn asks_for_token(refusal: &Reply) -> bool {
    challenge::bearer(&challenges(refusal)).is_some()
}

fn challenges(reply: &Reply) -> Vec<Challenge> {
    challenge::parse(reply.all("www-authenticate"))
}
