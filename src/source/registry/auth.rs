//! Logging in to registries.
//!
//! A request is made without a login first. When the registry answers with a challenge, that is met:
//! Bearer by a token from the server it names, Basic by the password. What worked is used from then on,
//! for one repository of one registry.
//!
//! <https://distribution.github.io/distribution/spec/auth/token/> and `.../oauth/`.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use log::debug;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;

use super::agent::MAX_TOKEN;
use super::challenge::{self, Challenge};
use super::client::{Authorization, Client, Method, Reply, Request, host_of};
use super::status::status_error;
use super::url;
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::name::{Host, Repository};
use crate::places::{Place, Places};
use crate::source::config::auth_json::{Found, Keyring, Login};
use crate::source::recent::Recent;
use crate::task;

/// How long a token is good if nobody says (the spec's default), and at least: registries name one
/// second and mean it of another clock.
const MIN_LIFE: Duration = Duration::from_secs(60);
/// And at most, so that the sum of two times always exists.
const MAX_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// Repositories whose login is remembered.
const MAX_SESSIONS: usize = 256;
/// Tokens that are remembered, with what they are for. A token may have 16 kB: more of them than sessions need are
/// of no use, and whoever reaches the socket can think up names of repositories.
const MAX_TOKENS: usize = 256;
const MAX_TOKEN_BYTES: usize = 4 << 20;
/// What is percent-encoded in a query parameter: all but the unreserved characters (RFC 3986 §2.3), as Go does.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
/// Largest answer of a token server, which may say its token twice and more besides.
const MAX_ANSWER: u64 = 64 << 10;

/// Who we are to each repository, and the tokens got so far.
pub struct Auth {
    keyring: Keyring,
    trusted_hosts: Vec<Host>,
    sessions: Mutex<Recent<SessionKey, Arc<Session>>>,
    tokens: Mutex<Recent<TokenKey, Token>>,
}

/// A repository as it is spoken to.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionKey {
    /// `HOST/REPOSITORY`, and the namespace that a mirror of several registries is asked in: what it wants there it may
    /// not want in another.
    pub place: String,
    /// Whatever certificate it has will do, so what it says may be somebody else's word.
    pub unchecked: bool,
    /// As a stranger, for a redirect led there.
    pub is_stranger: bool,
}

/// What a token is good for. Registries that share a token server have their own tokens, for each is shown only what
/// was got for it. Tokens for several scopes are never asked for together: some servers read only the first.
#[derive(Clone, PartialEq, Eq, Hash)]
struct TokenKey {
    registry: Host,
    unchecked: bool,
    realm: String,
    service: Option<String>,
    scope: String,
    login: Option<Login>,
}

impl TokenKey {
    /// In bytes, about.
    fn size(&self) -> usize {
        let login = self.login.as_ref().map_or(0, Login::size);
        let service = self.service.as_ref().map_or(0, String::len);
        let registry = self.registry.as_str().len();
        size_of::<Self>() + registry + self.realm.len() + service + self.scope.len() + login
    }
}

#[derive(Clone)]
struct Token {
    authorization: Authorization,
    renew_at: Instant,
}

/// Who we are to one repository. One at a time logs in, and what came of it is for all who waited.
pub struct Session {
    turn: Places,
    state: Mutex<State>,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            turn: Places::new(1),
            state: Mutex::default(),
        }
    }
}

impl Session {
    /// The value of the `Authorization` header in use, for somebody who is entitled to it.
    pub fn header(&self) -> Option<String> {
        lock(&self.state)
            .authorization
            .as_ref()
            .map(|authorization| authorization.reveal().to_owned())
    }

    /// Does anything have to be sent with requests?
    pub fn is_logged_in(&self) -> bool {
        lock(&self.state).authorization.is_some()
    }

    fn take_turn(&self, door: &Door<'_>) -> Result<Place<'_>> {
        self.turn.take(|| format!("the login for {}", door.name()))
    }

    /// Remembers what came of logging in, for those who wait for it, too.
    fn conclude(&self, met: Result<State>) -> Result<Option<Authorization>> {
        let (state, result) = match met {
            Ok(state) => {
                let authorization = state.authorization.clone();
                (state, Ok(authorization))
            }
            Err(error) => {
                // That a client left, or had no more time, is its own affair, and all is as it was before.
                if matches!(error, Error::ClientGone) || task::passed_limit().is_some() {
                    return Err(error);
                }
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
    /// Where a token came from, so that the next one can be got before this one has died.
    bearer: Option<(Challenge, Instant)>,
    /// Where the login was found that is used, or that was refused.
    place: Option<String>,
    /// Why and when there came none of it.
    failed: Option<(Instant, Error)>,
}

impl State {
    /// What came of logging in meanwhile: who asked before it failed need not try the same.
    fn failure_since(&self, asked: Instant) -> Option<Error> {
        let failed = self.failed.as_ref().filter(|(when, _)| *when >= asked);
        failed.map(|(_, error)| error.clone())
    }
}

/// A repository that wants a login, and how to speak to it.
pub struct Door<'a> {
    pub client: &'a Client,
    pub host: &'a Host,
    pub repository: &'a Repository,
    /// `https://host`
    pub origin: &'a str,
    /// Whatever certificate it has will do.
    pub unchecked: bool,
    /// It is another registry than the one that was meant: a redirect led there, and no login goes along.
    pub is_stranger: bool,
}

impl Auth {
    pub fn new(keyring: Keyring, trusted_hosts: Vec<Host>) -> Self {
        Self {
            keyring,
            trusted_hosts,
            sessions: Mutex::new(Recent::entries(MAX_SESSIONS)),
            tokens: Mutex::new(Recent::entries_and_bytes(MAX_TOKENS, MAX_TOKEN_BYTES)),
        }
    }

    pub fn session(&self, key: SessionKey) -> Arc<Session> {
        let mut sessions = lock(&self.sessions);
        if let Some(session) = sessions.get(&key) {
            return session.clone();
        }
        let session = Arc::<Session>::default();
        sessions.insert(key, session.clone());
        session
    }

    /// What to send with a request: nothing until the registry has asked.
    pub fn authorization(
        &self,
        door: &Door<'_>,
        session: &Session,
    ) -> Result<Option<Authorization>> {
        let (asked, to_renew) = (Instant::now(), |state: &State| {
            let (challenge, renew_at) = state.bearer.as_ref()?;
            (*renew_at <= Instant::now()).then(|| challenge.clone())
        });
        {
            let state = lock(&session.state);
            if to_renew(&state).is_none() {
                return Ok(state.authorization.clone());
            }
        }
        let _turn = session.take_turn(door)?;
        let challenge = {
            let state = lock(&session.state);
            match (state.failure_since(asked), to_renew(&state)) {
                (Some(error), _) => return Err(error),
                (None, None) => return Ok(state.authorization.clone()),
                (None, Some(challenge)) => challenge,
            }
        };
        session.conclude(self.meet(door, &[challenge]))
    }

    /// After a registry refused `used`: what to send instead. An error if there is nothing.
    pub fn log_in(
        &self,
        door: &Door<'_>,
        session: &Session,
        used: Option<&Authorization>,
        refusal: &Reply,
    ) -> Result<Option<Authorization>> {
        let asked = Instant::now();
        let _turn = session.take_turn(door)?;
        {
            // Another request may have met the challenge while this one waited.
            let state = lock(&session.state);
            if let Some(error) = state.failure_since(asked) {
                return Err(error);
            }
            // Of one that failed and was not refused nothing is left that could be sent.
            let is_met = state.authorization.is_some() || state.place.is_some();
            if is_met && state.authorization.as_ref() != used {
                return Ok(state.authorization.clone());
            }
        }
        self.forget(used);
        session.conclude(self.answer(door, used, refusal))
    }

    /// Meets what a refusal asks for.
    fn answer(
        &self,
        door: &Door<'_>,
        used: Option<&Authorization>,
        refusal: &Reply,
    ) -> Result<State> {
        let mut challenges = challenges(refusal);
        let is_bearer = |challenge: &Challenge| matches!(challenge, Challenge::Bearer { .. });
        if used.is_some() && !challenges.iter().any(is_bearer) {
            // Harbor answers a token that is too narrow with Basic; without one it says what it wants.
            // ECR Public answers an old token with 400 and no challenge.
            challenges = challenges_at(door, refusal.asked())?;
        }
        if challenges.is_empty() {
            // gcr.io has them only at the root.
            challenges = challenges_at(door, &format!("{}/v2/", door.origin))?;
        }
        self.meet(door, &challenges)
    }

    /// A token that was refused is good for nothing, however new it is.
    fn forget(&self, used: Option<&Authorization>) {
        lock(&self.tokens).retain(|token| Some(&token.authorization) != used);
    }

    /// The error for a login that was sent and refused. It is not sent again unasked.
    pub fn refused(
        &self,
        door: &Door<'_>,
        session: &Session,
        status: u16,
        message: String,
    ) -> Error {
        let registry = door.name();
        let mut state = lock(&session.state);
        self.forget(state.authorization.as_ref());
        (state.authorization, state.bearer) = (None, None);
        match state.place.clone() {
            Some(place) => Error::LoginRefused {
                registry,
                place,
                status,
                message,
            },
            None => Error::NoLogin {
                registry,
                looked: self.keyring.describe(),
                message,
            },
        }
    }

    /// Meets the best of these challenges: Bearer before Basic.
    fn meet(&self, door: &Door<'_>, challenges: &[Challenge]) -> Result<State> {
        let found = match door.is_stranger {
            true => None,
            false => self.keyring.find(door.host, door.repository)?,
        };
        let mut state = State {
            place: found.as_ref().map(|found| found.place.clone()),
            ..State::default()
        };
        let no_login = |message: &str| Error::NoLogin {
            registry: door.name(),
            looked: self.keyring.describe(),
            message: message.to_owned(),
        };
        if let Some(Found {
            login: Login::RegistryToken(token),
            ..
        }) = &found
        {
            door.refuse_plain_http()?;
            state.authorization = Some(Authorization::bearer(token));
            return Ok(state);
        }
        if let Some(challenge @ Challenge::Bearer { .. }) = challenges
            .iter()
            .find(|challenge| matches!(challenge, Challenge::Bearer { .. }))
        {
            // What strangers get too is no secret.
            door.refuse_plain(door.origin, found.is_some())?;
            let token = self.token(door, challenge, found.as_ref())?;
            state.authorization = Some(token.authorization);
            state.bearer = Some((challenge.clone(), token.renew_at));
            return Ok(state);
        }
        if !challenges.contains(&Challenge::Basic) {
            return Err(no_login("it names no way to log in that we speak"));
        }
        match found {
            Some(Found {
                login: Login::Password { user, password },
                ..
            }) => {
                door.refuse_plain_http()?;
                state.authorization = Some(Authorization::basic(&user, &password));
                Ok(state)
            }
            Some(Found { place, .. }) => Err(Error::BadLogin {
                place,
                why: "this is a token, and the registry wants a user name and password".into(),
            }),
            None => Err(no_login("")),
        }
    }

    fn token(
        &self,
        door: &Door<'_>,
        challenge: &Challenge,
        found: Option<&Found>,
    ) -> Result<Token> {
        let Challenge::Bearer {
            realm,
            service,
            scope,
        } = challenge
        else {
            unreachable!("only called with a Bearer challenge")
        };
        let no_token = |why: String| Error::NoToken {
            url: door.origin.to_owned(),
            why,
            may_pass: false,
        };
        let root = format!("{}/v2/", door.origin);
        let target = url::resolve(&root, realm.as_bytes()).ok_or_else(|| {
            let realm = url::for_messages(realm);
            no_token(format!("a token realm {realm:?}, expected a URL"))
        })?;
        // A login that the registry wrote into it is for nobody here.
        let realm = target.url;
        self.check_realm(door, &realm, found)?;
        let scope = scope
            .clone()
            .unwrap_or_else(|| format!("repository:{}:pull", door.repository));
        let login = found.map(|found| found.login.clone());
        let key = TokenKey {
            registry: door.host.clone(),
            unchecked: door.unchecked,
            realm,
            service: service.clone(),
            scope,
            login,
        };
        if let Some(token) = lock(&self.tokens).get(&key)
            && token.renew_at > Instant::now()
        {
            return Ok(token.clone());
        }
        let token = fetch_token(door, &key, found, &self.keyring)?;
        let mut tokens = lock(&self.tokens);
        tokens.retain(|other| other.renew_at > Instant::now());
        let bytes = key.size() + token.authorization.reveal().len();
        tokens.insert_sized(key, token.clone(), bytes);
        Ok(token)
    }

    /// A realm is a stranger's word. A password goes only to the registry's own host or domain, and
    /// nothing at all to an address of this machine or its network that the registry is not at.
    fn check_realm(&self, door: &Door<'_>, realm: &str, found: Option<&Found>) -> Result<()> {
        let host = host_of(realm)?;
        door.client
            .refuse_blocked((door.host, door.origin), (&host, realm))?;
        if self.trusted_hosts.contains(&host) {
            return door.refuse_plain(realm, found.is_some());
        }
        let refuse = |why: &str| {
            Err(Error::UntrustedRealm {
                registry: door.host.to_string(),
                realm: host.to_string(),
                why: why.to_owned(),
            })
        };
        if door.origin.starts_with("https:") && !realm.starts_with("https:") {
            return refuse("it is not https, as the registry is");
        }
        if !door.host.is_same_machine(&host) {
            if host.is_address() || host.is_only_reached_from_here() {
                return refuse("it is an address, and not the registry's");
            }
            if found.is_some() && !door.host.is_same_domain(&host) {
                return refuse("it is in another domain, and would get the password");
            }
        }
        door.refuse_plain(realm, found.is_some())
    }
}

impl Door<'_> {
    fn name(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    /// A token server on the registry's machine has most often its certificate.
    fn takes_any_certificate_at(&self, url: &str) -> bool {
        self.unchecked && host_of(url).is_ok_and(|host| host.is_same_machine(self.host))
    }

    fn refuse_plain_http(&self) -> Result<()> {
        self.refuse_plain(self.origin, true)
    }

    /// Passwords and tokens do not cross a network in the clear.
    fn refuse_plain(&self, url: &str, has_secret: bool) -> Result<()> {
        if has_secret && url.starts_with("http:") && !host_of(url)?.is_loopback() {
            return Err(Error::UntrustedRealm {
                registry: self.host.to_string(),
                realm: url::for_messages(url),
                why: "a login is not sent over plain HTTP".into(),
            });
        }
        Ok(())
    }
}

/// Does a refusal ask for a token, as registries do?
pub fn asks_for_token(refusal: &Reply) -> bool {
    let is_bearer = |challenge: &Challenge| matches!(challenge, Challenge::Bearer { .. });
    challenges(refusal).iter().any(is_bearer)
}

fn challenges(reply: &Reply) -> Vec<Challenge> {
    challenge::parse(reply.all("www-authenticate"))
}

/// What a registry asks for when nothing is sent.
fn challenges_at(door: &Door<'_>, url: &str) -> Result<Vec<Challenge>> {
    let request = Request {
        method: Method::Get,
        url,
        accept: "*/*",
        authorization: None,
        range: None,
        is_blob: false,
        unchecked: door.unchecked,
        stranger: None,
    };
    let mut reply = door.client.send(request)?;
    let found = challenges(&reply);
    drop(reply.take_message()); // so that the connection is of use
    Ok(found)
}

/// Asks the token server: by GET, which all know; by POST for a refresh token, or where GET is not
/// known.
fn fetch_token(
    door: &Door<'_>,
    key: &TokenKey,
    found: Option<&Found>,
    keyring: &Keyring,
) -> Result<Token> {
    debug!(
        "asking {} for a token for {}",
        url::for_messages(&key.realm),
        key.scope
    );
    let asked = Instant::now();
    let mut reply = match &key.login {
        Some(Login::IdentityToken(token)) => post(
            door,
            key,
            &[("grant_type", "refresh_token"), ("refresh_token", token)],
        )?,
        Some(Login::Password { user, password }) => {
            let reply = get(door, key, Some(&Authorization::basic(user, password)))?;
            if matches!(reply.status, 404 | 405) {
                post(
                    door,
                    key,
                    &[
                        ("grant_type", "password"),
                        ("username", user),
                        ("password", password),
                    ],
                )?
            } else {
                reply
            }
        }
        Some(Login::RegistryToken(_)) | None => get(door, key, None)?,
    };
    let (status, url) = (reply.status, url::for_messages(&key.realm));
    match (status, found) {
        (200, _) => {
            // Who waits for this login may hold memory.
            let bytes = reply.read_at_once(MAX_ANSWER)?;
            let (token, life) = parse_token(&bytes).map_err(|why| Error::NoToken {
                url,
                why,
                may_pass: false,
            })?;
            // Renewed a little early: it has to live for a request yet.
            Ok(Token {
                authorization: Authorization::bearer(&token),
                renew_at: asked + life.mul_f64(0.9),
            })
        }
        (400 | 401 | 403, Some(found)) => Err(Error::LoginRefused {
            registry: door.name(),
            place: found.place.clone(),
            status,
            message: reply.take_message(),
        }),
        (400 | 401 | 403 | 404, None) => Err(Error::NoLogin {
            registry: door.name(),
            looked: keyring.describe(),
            message: format!("its token server gives strangers none (status {status})"),
        }),
        _ => Err(status_error(reply)),
    }
}

fn get(door: &Door<'_>, key: &TokenKey, authorization: Option<&Authorization>) -> Result<Reply> {
    let mut url = key.realm.clone();
    let fields = [
        ("service", key.service.as_deref()),
        ("scope", Some(key.scope.as_str())),
    ];
    for (name, value) in fields {
        let Some(value) = value else { continue };
        let separator = if url.contains('?') { '&' } else { '?' };
        url.push_str(&format!(
            "{separator}{name}={}",
            utf8_percent_encode(value, RESERVED)
        ));
    }
    door.client.follow(Request {
        method: Method::Get,
        url: &url,
        accept: "application/json",
        authorization,
        range: None,
        is_blob: false,
        unchecked: door.takes_any_certificate_at(&url),
        stranger: None,
    })
}

fn post(door: &Door<'_>, key: &TokenKey, grant: &[(&str, &str)]) -> Result<Reply> {
    let mut fields = vec![
        ("client_id", "sysext-oci-proxy"),
        ("scope", key.scope.as_str()),
    ];
    fields.extend(key.service.as_deref().map(|service| ("service", service)));
    fields.extend(grant);
    let any_certificate = door.takes_any_certificate_at(&key.realm);
    let posted = door.client.post(&key.realm, &fields, any_certificate);
    // Whatever becomes of it, a form is posted once for a request: none of these errors is tried again there.
    let reply = posted.map_err(|error| match error {
        Error::Broken { url, cause } => Error::Unreachable { url, cause },
        error => error,
    })?;
    if matches!(reply.status, 200 | 400 | 401 | 403 | 404) {
        return Ok(reply);
    }
    Err(Error::NoToken {
        url: url::for_messages(&key.realm),
        why: format!("status {} for a login", reply.status),
        may_pass: matches!(reply.status, 408 | 429 | 500..=599),
    })
}

/// What a token server answers. Its `issued_at` is of its own clock and not looked at.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    /// A number of seconds, or what else somebody wrote there.
    expires_in: Option<Value>,
}

impl TokenAnswer {
    /// How long the token is good. What cannot be understood counts as absent: a token that dies early is renewed.
    fn life(&self) -> Duration {
        let seconds = match &self.expires_in {
            Some(Value::Number(number)) => number.as_f64(),
            Some(Value::String(text)) => text.trim().parse().ok(),
            _ => None,
        };
        let life = seconds.filter(|seconds: &f64| seconds.is_finite() && *seconds > 0.0);
        let least = MIN_LIFE.as_secs_f64();
        let life = life.map_or(least, |life| life.clamp(least, MAX_LIFE.as_secs_f64()));
        Duration::from_secs_f64(life)
    }
}

fn parse_token(json: &[u8]) -> Result<(String, Duration), String> {
    let answer: TokenAnswer = serde_json::from_slice(json)
        .map_err(|_| "a token server's answer, but not in its form".to_owned())?;
    let life = answer.life();
    let usable = |token: &String| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
    let token = answer
        .token
        .filter(usable)
        .or(answer.access_token.filter(usable));
    let token = token.ok_or("a token server's answer without a token")?;
    if token.len() > MAX_TOKEN {
        let length = token.len();
        return Err(format!(
            "a token of {length} bytes, expected {MAX_TOKEN} at most"
        ));
    }
    Ok((token, life))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_a8_and_a9_tokens_have_two_names_and_a_life() {
        let seconds = Duration::from_secs;
        for (json, expected) in [
            (r#"{"token":"t"}"#, Some(("t", MIN_LIFE))),
            (
                r#"{"access_token":"a","expires_in":300}"#,
                Some(("a", seconds(300))),
            ),
            (
                r#"{"token":"t","access_token":"a","expires_in":0}"#,
                Some(("t", MIN_LIFE)),
            ),
            (
                r#"{"token":"","access_token":"a","expires_in":1,"issued_at":"2999-01-01T00:00:00Z"}"#,
                Some(("a", MIN_LIFE)),
            ),
            (
                r#"{"token":"t","expires_in":18446744073709551615}"#,
                Some(("t", MAX_LIFE)),
            ),
            (
                r#"{"token":"t","expires_in":"300"}"#,
                Some(("t", seconds(300))),
            ),
            (
                r#"{"token":"t","expires_in":300.0}"#,
                Some(("t", seconds(300))),
            ),
            (r#"{"token":"t","expires_in":-1}"#, Some(("t", MIN_LIFE))),
            (r#"{"token":"t","expires_in":1e300}"#, Some(("t", MAX_LIFE))),
            (
                r#"{"token":"t","expires_in":"soon"}"#,
                Some(("t", MIN_LIFE)),
            ),
            (r#"{"token":"t","expires_in":"NaN"}"#, Some(("t", MIN_LIFE))),
            (r#"{"token":"t","expires_in":null}"#, Some(("t", MIN_LIFE))),
            (r#"{"token":"t","expires_in":{}}"#, Some(("t", MIN_LIFE))),
            (
                r#"{"token":"t","expires_in":1893456000,"refresh_token":null,"scope":["pull"]}"#,
                Some(("t", MAX_LIFE)),
            ),
            (r#"{"token":null,"access_token":null}"#, None),
            (
                &format!(r#"{{"token":"{}"}}"#, "t".repeat(MAX_TOKEN + 1)),
                None,
            ),
            (r#"{"token":"a\r\nX: y"}"#, None),
            ("{}", None),
            ("<html>", None),
        ] {
            let found = parse_token(json.as_bytes()).ok();
            assert_eq!(
                found,
                expected.map(|(token, life)| (token.to_owned(), life)),
                "{json}"
            );
        }
    }

    #[test]
    fn row_a17_only_the_registrys_own_get_a_password() {
        let auth = Auth::new(
            Keyring::from_environment(),
            vec!["auth.elsewhere.example".parse().unwrap()],
        );
        let client = Client::new("/nonexistent".as_ref(), 1, Vec::new(), Arc::default());
        let found = Found {
            login: Login::IdentityToken("t".into()),
            place: "here".into(),
        };
        let repository = "a".parse().unwrap();
        for (registry, realm, with_password, without) in [
            ("https://ghcr.io", "https://ghcr.io/token", true, true),
            (
                "https://registry-1.docker.io",
                "https://auth.docker.io/token",
                true,
                true,
            ),
            (
                "https://registry.gitlab.com",
                "https://gitlab.com/jwt/auth",
                true,
                true,
            ),
            (
                "https://r.example.org",
                "https://evil.example.com/t",
                false,
                true,
            ),
            (
                "https://r.example.co.uk",
                "https://evil.co.uk/t",
                false,
                true,
            ),
            (
                "https://r.example.org",
                "https://auth.elsewhere.example/t",
                true,
                true,
            ),
            (
                "https://r.example.org",
                "http://r.example.org/t",
                false,
                false,
            ),
            (
                "https://r.example.org",
                "http://auth.example.org/t",
                false,
                false,
            ),
            (
                "https://r.example.org",
                "http://169.254.169.254/t",
                false,
                false,
            ),
            (
                "https://r.example.org",
                "https://127.0.0.1:1/t",
                false,
                false,
            ),
            ("https://r.example.org", "https://localhost/t", false, false),
            (
                "http://127.0.0.1:5103",
                "http://127.0.0.1:5104/token",
                true,
                true,
            ),
            (
                "http://localhost:5103",
                "http://127.0.0.1:5104/token",
                true,
                true,
            ),
        ] {
            let host = host_of(registry).unwrap();
            let door = Door {
                client: &client,
                host: &host,
                repository: &repository,
                origin: registry,
                unchecked: false,
                is_stranger: false,
            };
            assert_eq!(
                auth.check_realm(&door, realm, Some(&found)).is_ok(),
                with_password,
                "{registry} {realm}"
            );
            assert_eq!(
                auth.check_realm(&door, realm, None).is_ok(),
                without,
                "{registry} {realm}, anonymous"
            );
        }
    }
}
