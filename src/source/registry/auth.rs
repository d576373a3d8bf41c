//! The login that goes with a request to a registry.
//!
//! The first request has no login. If the registry answers with a challenge, the next one has: for Bearer a token from
//! the server that the challenge names, for Basic the password. A login that worked is used from then on, for one
//! repository of one registry.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::challenge::{self, Challenge};
use super::reply::Reply;
use super::request::{Authorization, Request};
use super::session::{Session, SessionKey, State, Target};
use super::token::Tokens;
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::name::Host;
use crate::source::config::auth_json::Keyring;
use crate::source::config::login::Login;
use crate::source::recent::Recent;

/// Repositories whose login is remembered.
const MAX_SESSIONS: usize = 256;

/// The logins of this machine, and the tokens got so far.
pub struct Auth {
    pub keyring: Keyring,
    sessions: Mutex<Recent<SessionKey, Arc<Session>, MAX_SESSIONS>>,
    tokens: Tokens,
}

impl Auth {
    pub fn new(keyring: Keyring, trusted_hosts: Vec<Host>) -> Self {
        Self {
            keyring,
            sessions: Mutex::default(),
            tokens: Tokens::new(trusted_hosts),
        }
    }

    /// Forgets what nobody is using.
    pub fn forget(&self) {
        lock(&self.sessions).retain(|session| Arc::strong_count(session) > 1);
        self.tokens.forget_all();
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
            // Another request may have logged in while this one waited.
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

    /// Answers the challenge of a refusal.
    fn answer(
        &self,
        target: &Target<'_>,
        used: Option<&Authorization>,
        refusal: &Reply,
    ) -> Result<State> {
        let mut challenges = challenges(refusal);
        if used.is_some() && challenge::bearer(&challenges).is_none() {
            // Harbor answers Basic to a token with too narrow a scope, and names the right scope to a request without
            // a token. ECR Public answers an expired token with 400 and no challenge.
            challenges = challenges_at(target, &refusal.asked)?;
        }
        if challenges.is_empty() {
            // gcr.io sends challenges only at the root.
            challenges = challenges_at(target, &format!("{}/v2/", target.origin))?;
        }
        self.meet(target, &challenges)
    }

    /// The error for a login that was sent and refused. It is not sent again without a new challenge.
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

    /// Answers one of these challenges, Bearer before Basic.
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
        let login = found.as_ref().map(|found| &found.login);
        let authorization = match (login, challenge::bearer(challenges)) {
            (Some(Login::RegistryToken(token)), _) => {
                target.refuse_plain(target.origin, true)?;
                Authorization::bearer(token)
            }
            (login, Some(challenge)) => {
                // An anonymous token is no secret.
                target.refuse_plain(target.origin, login.is_some())?;
                let token = (self.tokens).get(target, challenge, found.as_ref(), &self.keyring)?;
                state.bearer = Some((challenge.clone(), token.renew_at));
                token.authorization
            }
            (_, None) if !challenges.contains(&Challenge::Basic) => {
                return Err(no_login(
                    "it offers no supported authentication scheme, expected Basic or Bearer",
                ));
            }
            (Some(Login::Password { user, password }), None) => {
                target.refuse_plain(target.origin, true)?;
                Authorization::basic(user, password)
            }
            (Some(Login::IdentityToken(_)), None) => {
                return Err(Error::BadLogin {
                    place: state.place.unwrap_or_default(),
                    why: "this is a token, and the registry wants a user name and password".into(),
                });
            }
            (None, None) => return Err(no_login("")),
        };
        state.authorization = Some(authorization);
        Ok(state)
    }
}

/// The challenges of a registry when no login is sent.
fn challenges_at(target: &Target<'_>, url: &str) -> Result<Vec<Challenge>> {
    let request = Request::get(url).unchecked(target.session.key.unchecked);
    let mut reply = target.client.send(request)?;
    reply.drain();
    Ok(challenges(&reply))
}

/// Whether a refusal asks for a token, as registries do.
pub fn asks_for_token(refusal: &Reply) -> bool {
    challenge::bearer(&challenges(refusal)).is_some()
}

fn challenges(reply: &Reply) -> Vec<Challenge> {
    challenge::parse(reply.all("www-authenticate"))
}
