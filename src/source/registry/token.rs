//! Bearer tokens: requests to token servers, and the tokens that are remembered until they expire.
//!
//! <https://distribution.github.io/distribution/spec/auth/token/> and `.../oauth/`.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use ::url::Url;
use ::url::form_urlencoded::Serializer;
use log::debug;
use serde::Deserialize;
use serde_json::Value;

use super::agent::MAX_TOKEN;
use super::challenge::BearerChallenge;
use super::client::host_of;
use super::error::nonsense;
use super::reply::Reply;
use super::request::{Authorization, Request};
use super::session::Target;
use super::status::status_error;
use super::url;
use crate::error::{Error, Result, Way};
use crate::lock::lock;
use crate::name::Host;
use crate::source::config::auth_json::{Found, Keyring};
use crate::source::config::login::Login;
use crate::source::recent::Recent;

/// Lifetime of a token without `expires_in` (the spec's default), and the shortest one that is believed: registries send
/// one second, by another clock.
const MIN_LIFE: Duration = Duration::from_secs(60);
/// The longest lifetime that is believed, so that the sum of two times always exists.
const MAX_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// Most tokens that are remembered, and their bytes. One may have 16 kB, and clients can invent names of repositories.
const MAX_TOKENS: usize = 256;
const MAX_TOKEN_BYTES: usize = 4 << 20;
/// Largest answer of a token server, in bytes. It may have the token twice, and more fields.
const MAX_ANSWER: u64 = 64 << 10;

/// The tokens of all registries.
pub struct Tokens {
    trusted_hosts: Vec<Host>,
    known: Mutex<Recent<TokenKey, Token, MAX_TOKENS>>,
}

/// The use of a token. A token is sent only to the registry that it was requested for, even if several share a token
/// server. It has one scope: some servers read only the first.
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

    /// Whether the token server's certificate is not checked either. On the registry's machine it most often has the
    /// registry's certificate.
    fn takes_any_certificate(&self) -> bool {
        self.unchecked
            && host_of(&self.realm).is_ok_and(|host| host.is_same_machine(&self.registry))
    }
}

#[derive(Clone)]
pub struct Token {
    pub authorization: Authorization,
    pub renew_at: Instant,
}

impl Tokens {
    pub fn new(trusted_hosts: Vec<Host>) -> Self {
        Self {
            trusted_hosts,
            known: Mutex::new(Recent::with_bytes(MAX_TOKEN_BYTES)),
        }
    }

    /// A token for a challenge, with the login that was found or anonymous.
    pub fn get(
        &self,
        target: &Target<'_>,
        challenge: &BearerChallenge,
        found: Option<&Found>,
        keyring: &Keyring,
    ) -> Result<Token> {
        let session = &target.session.key;
        let root = format!("{}/v2/", target.origin);
        // A login in the realm's URL is the registry's secret, and not sent.
        let realm = url::resolve(&root, challenge.realm.as_bytes()).ok_or_else(|| {
            let realm = url::for_messages(&challenge.realm);
            no_token(
                target.origin,
                format!("a token realm {realm:?}, expected a URL"),
                false,
            )
        })?;
        self.check_realm(target, &realm.url, found)?;
        let scope = challenge.scope.clone();
        let key = TokenKey {
            registry: session.host.clone(),
            unchecked: session.unchecked,
            realm: realm.url,
            service: challenge.service.clone(),
            scope: scope.unwrap_or_else(|| format!("repository:{}:pull", session.repository)),
            login: found.map(|found| found.login.clone()),
        };
        let is_alive = |token: &Token| token.renew_at > Instant::now();
        if let Some(token) = lock(&self.known).get(&key).filter(|token| is_alive(token)) {
            return Ok(token.clone());
        }
        let token = fetch(target, &key, found, keyring)?;
        let mut known = lock(&self.known);
        known.retain(is_alive);
        let bytes = key.size() + token.authorization.reveal().len();
        known.insert_sized(key, token.clone(), bytes);
        Ok(token)
    }

    /// Forgets all tokens.
    pub fn forget_all(&self) {
        lock(&self.known).retain(|_| false);
    }

    /// Forgets a token that was refused, however new it is.
    pub fn forget(&self, refused: Option<&Authorization>) {
        lock(&self.known).retain(|token| Some(&token.authorization) != refused);
    }

    /// A realm is not trusted. A password is sent only to the registry's own host or domain, and no request to an address
    /// of this machine or its network unless the registry is at that address.
    fn check_realm(&self, target: &Target<'_>, realm: &str, found: Option<&Found>) -> Result<()> {
        let (host, registry) = (host_of(realm)?, &target.session.key.host);
        target.client.refuse_blocked(target.origin, realm)?;
        let is_https = realm.starts_with("https:") || !target.origin.starts_with("https:");
        let why = if self.trusted_hosts.contains(&host) {
            None
        } else if !is_https {
            Some("it is not https, as the registry is")
        } else if registry.is_same_machine(&host) {
            None
        } else if host.is_address() || host.is_only_reached_from_here() {
            Some("it is an address other than the registry's")
        } else if found.is_some() && !registry.is_same_domain(&host) {
            Some("it is in another domain, and the password would be sent to it")
        } else {
            None
        };
        match why {
            Some(why) => Err(Error::UntrustedRealm {
                registry: registry.to_string(),
                realm: host.to_string(),
                why: why.to_owned(),
            }),
            None => target.refuse_plain(realm, found.is_some()),
        }
    }
}

fn no_token(url: &str, why: String, may_pass: bool) -> Error {
    Error::NoToken {
        url: url::for_messages(url),
        why,
        may_pass,
    }
}

/// Asks the token server: by GET, which all servers support; by POST for a refresh token, or if GET is not supported.
fn fetch(
    target: &Target<'_>,
    key: &TokenKey,
    found: Option<&Found>,
    keyring: &Keyring,
) -> Result<Token> {
    let place = url::for_messages(&key.realm);
    debug!("asking {place} for a token for {}", key.scope);
    let asked = Instant::now();
    let mut reply = match &key.login {
        Some(Login::IdentityToken(token)) => {
            let grant = [("grant_type", "refresh_token"), ("refresh_token", token)];
            post(target, key, &grant)?
        }
        Some(Login::Password { user, password }) => {
            let reply = get(target, key, Some(&Authorization::basic(user, password)))?;
            let (user, password) = (("username", user.as_str()), ("password", password.as_str()));
            match reply.status {
                404 | 405 => post(target, key, &[("grant_type", "password"), user, password])?,
                _ => reply,
            }
        }
        Some(Login::RegistryToken(_)) | None => get(target, key, None)?,
    };
    let status = reply.status;
    match (status, found) {
        (200, _) => {
            // Requests that wait for this login may hold memory.
            let bytes = reply.read_at_once(MAX_ANSWER)?;
            let (token, life) = parse(&bytes).map_err(|why| no_token(&key.realm, why, false))?;
            Ok(Token {
                authorization: Authorization::bearer(&token),
                // A little early, so that it is valid for the whole of a request.
                renew_at: asked + life.mul_f64(0.9),
            })
        }
        (400 | 401 | 403, Some(found)) => Err(Error::LoginRefused {
            registry: target.session.name(),
            place: found.place.clone(),
            status,
            message: reply.take_message(),
        }),
        (400 | 401 | 403 | 404, None) => {
            let message =
                format!("its token server gives no token without a login (status {status})");
            Err(target.no_login(keyring, message))
        }
        _ => Err(status_error(reply)),
    }
}

/// The parameters of every request for a token.
fn parameters(key: &TokenKey) -> impl Iterator<Item = (&str, &str)> {
    let service = key.service.as_deref().map(|service| ("service", service));
    service.into_iter().chain([("scope", key.scope.as_str())])
}

fn get(
    target: &Target<'_>,
    key: &TokenKey,
    authorization: Option<&Authorization>,
) -> Result<Reply> {
    let mut url =
        Url::parse(&key.realm).map_err(|error| nonsense(&key.realm, error.to_string()))?;
    url.query_pairs_mut().extend_pairs(parameters(key));
    let request = Request::get(url.as_str())
        .accept("application/json")
        .authorization(authorization)
        .unchecked(key.takes_any_certificate());
    target.client.follow(request)
}

fn post(target: &Target<'_>, key: &TokenKey, grant: &[(&str, &str)]) -> Result<Reply> {
    let form = Serializer::new(String::new())
        .append_pair("client_id", "sysext-oci-proxy")
        .extend_pairs(parameters(key))
        .extend_pairs(grant)
        .finish();
    let request = Request::post(&key.realm, &form).unchecked(key.takes_any_certificate());
    // A form is posted once, so its error must not be one that is retried.
    let reply = target.client.send(request).map_err(|error| match error {
        Error::Broken { url, cause } => Error::Unreachable {
            url,
            at: Way::Connection,
            cause,
        },
        error => error,
    })?;
    match reply.status {
        200 | 400 | 401 | 403 | 404 => Ok(reply),
        status => {
            let may_pass = matches!(status, 408 | 429 | 500..=599);
            Err(no_token(
                &key.realm,
                format!("status {status} for a login"),
                may_pass,
            ))
        }
    }
}

/// The answer of a token server. `issued_at` is not read: it is by the server's clock.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    /// Should be a number of seconds.
    expires_in: Option<Value>,
}

impl TokenAnswer {
    /// The lifetime of the token. An invalid value counts as absent: a token that expires early is renewed.
    fn life(&self) -> Duration {
        let seconds = match &self.expires_in {
            Some(Value::Number(number)) => number.as_f64(),
            Some(Value::String(text)) => text.trim().parse().ok(),
            _ => None,
        };
        let seconds = seconds.filter(|seconds: &f64| seconds.is_finite() && *seconds > 0.0);
        let (least, most) = (MIN_LIFE.as_secs_f64(), MAX_LIFE.as_secs_f64());
        Duration::from_secs_f64(seconds.unwrap_or(least).clamp(least, most))
    }
}

fn parse(json: &[u8]) -> Result<(String, Duration), String> {
    let answer: TokenAnswer = serde_json::from_slice(json)
        .map_err(|_| "the answer is not that of a token server".to_owned())?;
    let life = answer.life();
    let usable = |token: &String| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
    let token = answer.token.filter(usable);
    let token = token
        .or(answer.access_token.filter(usable))
        .ok_or("the token server's answer has no token")?;
    match token.len() {
        ..=MAX_TOKEN => Ok((token, life)),
        length => Err(format!(
            "a token of {length} bytes, expected {MAX_TOKEN} at most"
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::source::registry::auth::Auth;
    use crate::source::registry::client::Client;
    use crate::source::registry::session::SessionKey;

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
            let found = parse(json.as_bytes()).ok();
            assert_eq!(
                found,
                expected.map(|(token, life)| (token.to_owned(), life)),
                "{json}"
            );
        }
    }

    #[test]
    fn row_a17_only_the_registrys_own_get_a_password() {
        let tokens = Tokens::new(vec!["auth.elsewhere.example".parse().unwrap()]);
        let auth = Auth::new(Keyring::from_environment(), Vec::new());
        let client = Client::new("/nonexistent".as_ref(), 1, Vec::new(), Arc::default());
        let found = Found {
            login: Login::IdentityToken("t".into()),
            place: "here".into(),
        };
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
            let session = auth.session(SessionKey {
                host: host_of(registry).unwrap(),
                repository: "a".parse().unwrap(),
                namespace: None,
                unchecked: false,
                is_anonymous: false,
            });
            let target = Target {
                client: &client,
                session: &session,
                origin: registry,
            };
            assert_eq!(
                tokens.check_realm(&target, realm, Some(&found)).is_ok(),
                with_password,
                "{registry} {realm}"
            );
            assert_eq!(
                tokens.check_realm(&target, realm, None).is_ok(),
                without,
                "{registry} {realm}, anonymous"
            );
        }
    }
}
