//! A token server, as registries name one in a Bearer challenge.
//!
//! Protocol: <https://distribution.github.io/distribution/spec/auth/token/>

use std::collections::BTreeMap;
use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use serde_json::json;

use crate::content::sha256;
use crate::registry::{Guard, basic};
use crate::request::Request;

/// How it behaves.
#[derive(Clone)]
pub struct Rules {
    /// Strangers get tokens.
    pub anonymous: bool,
    /// `user:password` that gets one by GET, and by POST as a grant.
    pub login: Option<&'static str>,
    /// A refresh token that gets one by POST.
    pub refresh: Option<&'static str>,
    /// The status for everybody who is refused.
    pub refusal: u16,
    /// GET and POST are answered with these, whoever asks.
    pub get: Option<u16>,
    pub post: Option<u16>,
    /// The fields that have the token.
    pub fields: &'static [&'static str],
    pub expires_in: Option<u64>,
    /// For how many requests a token is good.
    pub uses: usize,
    /// This instead of what would be answered.
    pub body: Option<String>,
    /// How long it takes to answer.
    pub delay: Duration,
}

struct Issued {
    scope: String,
    uses_left: usize,
}

struct State {
    rules: Mutex<Rules>,
    issued: Mutex<BTreeMap<String, Issued>>,
    /// How many there were ever: no two are alike.
    count: AtomicUsize,
    asked: Mutex<Vec<String>>,
}

#[derive(Clone)]
pub struct TokenServer {
    pub address: SocketAddr,
    state: Arc<State>,
}

impl TokenServer {
    /// One that gives everybody a token that lives as long as the test.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let rules = Rules {
            anonymous: true,
            login: None,
            refresh: None,
            refusal: 401,
            get: None,
            post: None,
            fields: &["token"],
            expires_in: Some(300),
            uses: usize::MAX,
            body: None,
            delay: Duration::ZERO,
        };
        let state = Arc::new(State {
            rules: Mutex::new(rules),
            issued: Mutex::default(),
            count: AtomicUsize::new(0),
            asked: Mutex::default(),
        });
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                // An error is the client's way to say that it has read enough.
                thread::spawn(move || serve(&state, &stream));
            }
        });
        TokenServer { address, state }
    }

    /// One that gives a token to this login alone.
    pub fn for_login(login: &'static str) -> Self {
        let server = TokenServer::start();
        server.set(|rules| (rules.anonymous, rules.login) = (false, Some(login)));
        server
    }

    pub fn set(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut self.state.rules.lock().unwrap());
    }

    pub fn realm(&self) -> String {
        format!("http://{}/token", self.address)
    }

    /// The `WWW-Authenticate` header of a registry that wants one of these tokens. `{name}` stands for the repository.
    pub fn challenge(&self) -> String {
        format!(
            "Bearer realm=\"{}\",service=\"registry\",scope=\"repository:{{name}}:pull\"",
            self.realm()
        )
    }

    /// Lets in who has a token for the repository, and sends everybody else here for one.
    pub fn guard(&self) -> Guard {
        self.quiet_guard().challenge(self.challenge())
    }

    /// The same without a challenge.
    pub fn quiet_guard(&self) -> Guard {
        let state = self.state.clone();
        Guard::new(move |request| {
            let Some(token) = request
                .header("authorization")
                .and_then(|value| value.strip_prefix("Bearer "))
            else {
                return false;
            };
            let mut issued = state.issued.lock().unwrap();
            let Some(issued) = issued.get_mut(token) else {
                return false;
            };
            let wanted = format!("repository:{}:", request.repository());
            let is_good = issued.uses_left > 0
                && (issued.scope.starts_with(&wanted) || !issued.scope.starts_with("repository:"));
            issued.uses_left -= usize::from(is_good);
            is_good
        })
    }

    /// The requests since the last call, a line each: the method, the fields sorted by name,
    /// and the login. `GET scope=repository:hello:pull service=registry Basic …`.
    pub fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.state.asked.lock().unwrap())
    }

    /// All tokens that it gave.
    pub fn tokens(&self) -> Vec<String> {
        self.state.issued.lock().unwrap().keys().cloned().collect()
    }

    /// Every token given so far is good for nothing any more.
    pub fn revoke(&self) {
        self.state.issued.lock().unwrap().clear();
    }
}

fn serve(state: &State, stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = (BufReader::new(stream), stream);
    while let Some(request) = Request::read(&mut reader)? {
        let (status, body) = answer(state, &request);
        let head = format!(
            "HTTP/1.1 {status} As Told\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        writer.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
    }
    Ok(())
}

fn answer(state: &State, request: &Request) -> (u16, String) {
    let query = request
        .target
        .split_once('?')
        .map_or("", |(_, query)| query);
    let form = String::from_utf8(request.body.clone()).unwrap();
    let fields: BTreeMap<_, _> = [query, &form]
        .iter()
        .flat_map(|pairs| pairs.split('&'))
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), decode(value)))
        .collect();
    let shown = fields.iter().map(|(name, value)| format!("{name}={value}"));
    let mut line = vec![request.method.clone()];
    line.extend(shown);
    line.extend(request.header("authorization").map(str::to_owned));
    state.asked.lock().unwrap().push(line.join(" "));

    let rules = state.rules.lock().unwrap().clone();
    thread::sleep(rules.delay);
    let is_post = request.method == "POST";
    let forced = if is_post { rules.post } else { rules.get };
    let field = |name: &str| fields.get(name).map(String::as_str);
    let is_login = |login: &str| match (is_post, field("grant_type")) {
        (false, _) => request.header("authorization") == Some(&basic(login)),
        (true, Some("password")) => {
            field("username").zip(field("password")) == login.split_once(':')
        }
        (true, _) => false,
    };
    let is_refresh = |token: &str| {
        is_post
            && field("grant_type") == Some("refresh_token")
            && field("refresh_token") == Some(token)
    };
    let is_stranger = !is_post && request.header("authorization").is_none();
    let is_known = (rules.anonymous && is_stranger)
        || rules.login.is_some_and(is_login)
        || rules.refresh.is_some_and(is_refresh);
    let status = forced.unwrap_or(if is_known { 200 } else { rules.refusal });
    if status != 200 {
        let error =
            json!({"errors": [{"code": "DENIED", "message": "requested access is denied"}]});
        return (status, error.to_string());
    }
    let mut issued = state.issued.lock().unwrap();
    // Long enough to be found in a log, and different from any other.
    let number = state.count.fetch_add(1, SeqCst);
    let token = format!("t0k3n-{number}-of-{:?}", thread::current().id());
    let token = format!("t0k3n-{number}-{}", sha256(token.as_bytes()));
    let mut answer = json!({"issued_at": "2999-01-01T00:00:00Z"});
    for name in rules.fields {
        answer[name] = token.clone().into();
    }
    if let Some(seconds) = rules.expires_in {
        answer["expires_in"] = seconds.into();
    }
    issued.insert(
        token,
        Issued {
            scope: field("scope").unwrap_or_default().to_owned(),
            uses_left: rules.uses,
        },
    );
    (200, rules.body.unwrap_or_else(|| answer.to_string()))
}

fn decode(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced)
        .decode_utf8()
        .unwrap()
        .into_owned()
}
