//! Logins in `auth.json` and `config.json`, the files of podman, docker and systemd credentials.
//!
//! The order is documented in docs/logins.md. Formats: containers-auth.json(5) and docker's
//! `config.json`. Where the tools differ, a comment names the one that is followed.

use std::fs;
use std::io::{self, Read};
use std::iter::successors;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value};

use super::credential_helper;
use super::login::Login;
use crate::error::{Error, Result};
use crate::name::{Host, Repository, docker_hub};
use crate::settings::{BY_GROUP, variable, why_unreadable};

/// The systemd credential with an auth.json in it, as `ImportCredential=` brings it.
const SYSTEMD_CREDENTIAL: &str = "sysext-oci-proxy.auth";
/// Largest file that is read, in bytes.
const MAX_SIZE: u64 = 1 << 20;
/// A login and where it was found, for messages: `/etc/…/auth.json, key "ghcr.io"`.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub login: Login,
    pub place: String,
}

/// The files that may hold logins.
#[derive(Clone, Debug, PartialEq)]
pub struct Keyring {
    /// The systemd credential, which comes first. It need not exist.
    credential: Option<PathBuf>,
    files: Vec<PathBuf>,
    /// Whether systemd started this process as a service.
    is_service: bool,
}

impl Keyring {
    /// The files that the environment names.
    pub fn from_environment() -> Self {
        Self::places(variable)
    }

    /// The files in the order in which they are searched. `REGISTRY_AUTH_FILE` replaces all others, as in podman.
    fn places(variable: impl Fn(&str) -> Option<PathBuf>) -> Self {
        let home = |path: &str| Some(variable("HOME")?.join(path));
        let files = match variable("REGISTRY_AUTH_FILE") {
            Some(file) => vec![file],
            None => {
                let config = variable("XDG_CONFIG_HOME").or_else(|| home(".config"));
                let docker = variable("DOCKER_CONFIG").or_else(|| home(".docker"));
                let containers = |directory: PathBuf| directory.join("containers/auth.json");
                let found = [
                    variable("XDG_RUNTIME_DIR").map(containers),
                    config.map(containers),
                    Some("/etc/containers/auth.json".into()),
                    docker.map(|directory| directory.join("config.json")),
                ];
                found.into_iter().flatten().collect()
            }
        };
        Self {
            credential: variable("CREDENTIALS_DIRECTORY")
                .map(|directory| directory.join(SYSTEMD_CREDENTIAL)),
            files,
            // systemd sets this for every service, the directory only if there are credentials (systemd.exec(5)).
            is_service: variable("INVOCATION_ID").is_some(),
        }
    }

    /// The login for a repository, from the first file that has one. Files are read each time, so that a renewed login
    /// is used at once.
    pub fn find(&self, host: &Host, repository: &Repository) -> Result<Option<Found>> {
        for path in self.credential.iter().chain(&self.files) {
            if let Some(file) = AuthFile::read(path)?
                && let Some(found) = file.find(host, repository)?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The files, for the message that there is no login.
    pub fn describe(&self) -> String {
        let credential = (self.credential.is_some() || self.is_service).then(|| {
            let none = match &self.credential {
                Some(path) if path.exists() => "",
                _ => " (the service was given none)",
            };
            format!("the systemd credential {SYSTEMD_CREDENTIAL}{none}")
        });
        let files = self.files.iter().map(|path| path.display().to_string());
        let all: Vec<_> = credential.into_iter().chain(files).collect();
        all.join(", ")
    }
}

/// One auth.json or config.json.
struct AuthFile<'a> {
    path: &'a Path,
    content: Map<String, Value>,
}

impl<'a> AuthFile<'a> {
    fn read(path: &'a Path) -> Result<Option<Self>> {
        let bad = |why: String| Error::BadLogin {
            place: path.display().to_string(),
            why,
        };
        let mut text = Vec::new();
        match fs::File::open(path).and_then(|file| file.take(MAX_SIZE).read_to_end(&mut text)) {
            Ok(_) => {}
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => return Ok(None),
                _ => return Err(bad(why_unreadable(&error, BY_GROUP))),
            },
        }
        if text.trim_ascii().is_empty() {
            return Ok(None);
        }
        match serde_json::from_slice(&text) {
            Ok(Value::Object(content)) => Ok(Some(Self { path, content })),
            Ok(_) => Err(bad("it is not a JSON object".into())),
            // The error's own text may quote the file.
            Err(error) => Err(bad(format!("it is not JSON, line {}", error.line()))),
        }
    }

    /// Searches in this order: the helper of this host, the entry with the longest key, the helper for all hosts. An
    /// empty entry, as docker writes beside `credsStore`, does not count.
    fn find(&self, host: &Host, repository: &Repository) -> Result<Option<Found>> {
        let helpers = self.content.get("credHelpers");
        if let Some(helper) = helpers.and_then(|all| all.get(host.as_str()))
            && let Some(found) = self.ask_helper(helper.as_str().unwrap_or_default(), host)?
        {
            return Ok(Some(found));
        }
        if let Some(found) = self.find_entry(host, repository)? {
            return Ok(Some(found));
        }
        match self.content.get("credsStore").and_then(Value::as_str) {
            Some(helper) if !helper.is_empty() => self.ask_helper(helper, host),
            _ => Ok(None),
        }
    }

    fn find_entry(&self, host: &Host, repository: &Repository) -> Result<Option<Found>> {
        let Some(Value::Object(entries)) = self.content.get("auths") else {
            return Ok(None);
        };
        for wanted in keys(host, repository) {
            for (key, entry) in entries.iter().filter(|(key, _)| normalize(key) == wanted) {
                let place = format!("{}, key {key:?}", self.path.display());
                match parse_entry(entry) {
                    Ok(Some(login)) => return Ok(Some(Found { login, place })),
                    Ok(None) => {}
                    Err(why) => return Err(Error::BadLogin { place, why }),
                }
            }
        }
        Ok(None)
    }

    fn ask_helper(&self, name: &str, host: &Host) -> Result<Option<Found>> {
        let place = format!("{}, helper {name:?}", self.path.display());
        let found = credential_helper::ask(name, host);
        match found {
            Ok(login) => Ok(login.map(|login| Found { login, place })),
            Err(why) => Err(Error::BadLogin { place, why }),
        }
    }
}

/// The keys that match a repository, the longest first: its name cut at slashes, as containers/image does. (crane and
/// oras cut every key to its host, and so send one owner's password for another's repository.)
fn keys(host: &Host, repository: &Repository) -> Vec<String> {
    let longest = format!("{}/{repository}", docker_hub(host));
    let shorter = |key: &String| Some(key.rsplit_once('/')?.0.to_owned());
    successors(Some(longest), shorter).collect()
}

/// A key as [`keys`] spells it: without scheme, without the API version that docker writes.
fn normalize(key: &str) -> String {
    let key = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let key = key.trim_end_matches('/');
    let key = key
        .strip_suffix("/v1")
        .or_else(|| key.strip_suffix("/v2"))
        .unwrap_or(key);
    let one_spelling = |host: &str| match host.parse() {
        Ok(host) => docker_hub(&host).to_string(),
        Err(_) => host.to_owned(),
    };
    match key.split_once('/') {
        Some((host, path)) => format!("{}/{path}", one_spelling(host)),
        None => one_spelling(key),
    }
}

/// One entry of `auths`; `None` if there is nothing in it.
fn parse_entry(entry: &Value) -> Result<Option<Login>, String> {
    let text = |name: &str| {
        let text = entry.get(name).and_then(Value::as_str);
        text.filter(|text| !text.is_empty())
    };
    if let Some(token) = text("registrytoken") {
        return Ok(Some(Login::RegistryToken(token.to_owned())));
    }
    if let Some(token) = text("identitytoken") {
        return Ok(Some(Login::IdentityToken(token.to_owned())));
    }
    if let Some(auth) = text("auth") {
        // Never quote the value, not even in part.
        let decoded = BASE64_STANDARD
            .decode(auth)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or("its auth is not base64 of user:password")?;
        let (user, password) = decoded
            .split_once(':')
            .ok_or("its auth has no ':' between user and password")?;
        // docker pads with NUL; containers and crane take that off.
        return Login::password(user, password.trim_end_matches('\0')).map(Some);
    }
    match (text("username"), text("password")) {
        (Some(user), Some(password)) => Login::password(user, password).map(Some),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(user: &str, password: &str) -> Login {
        Login::password(user, password).unwrap()
    }

    /// `user:password` in base64.
    fn auth(text: &str) -> String {
        BASE64_STANDARD.encode(text)
    }

    fn find(content: &str, host: &str, repository: &str) -> Result<Option<Login>> {
        let content = serde_json::from_str(content).unwrap();
        let file = AuthFile {
            path: Path::new("auth.json"),
            content,
        };
        let found = file.find(&host.parse().unwrap(), &repository.parse().unwrap())?;
        Ok(found.map(|found| found.login))
    }

    #[test]
    fn row_c3_the_longest_key_wins_and_whole_components_count() {
        let (good, other) = (auth("alice:good"), auth("bob:other"));
        for (key, finds) in [
            ("r.example:5000", true),
            ("http://r.example:5000", true),
            ("https://r.example:5000", true),
            ("https://r.example:5000/v1/", true),
            ("r.example:5000/v2/", true),
            ("r.example:5000/", true),
            ("r.example", false),
            ("r.example:5000/own", true),
            ("r.example:5000/own/demo", true),
            ("r.example:5000/ow", false),
            ("r.example:5000/own/demo/more", false),
        ] {
            let content = format!(r#"{{"auths":{{"{key}":{{"auth":"{good}"}}}}}}"#);
            let found = find(&content, "r.example:5000", "own/demo").unwrap();
            assert_eq!(found, finds.then(|| password("alice", "good")), "{key}");
        }
        let both = format!(
            r#"{{"auths":{{"h.example":{{"auth":"{other}"}},"h.example/own":{{"auth":"{good}"}}}}}}"#
        );
        assert_eq!(
            find(&both, "h.example", "own/demo").unwrap(),
            Some(password("alice", "good"))
        );
        assert_eq!(
            find(&both, "h.example", "else/demo").unwrap(),
            Some(password("bob", "other"))
        );
    }

    #[test]
    fn row_c4_docker_hub_has_one_login_under_all_its_names() {
        for key in [
            "docker.io",
            "index.docker.io",
            "registry-1.docker.io",
            "https://index.docker.io/v1/",
        ] {
            for host in ["docker.io", "registry-1.docker.io"] {
                let content = format!(r#"{{"auths":{{"{key}":{{"auth":"{}"}}}}}}"#, auth("a:b"));
                assert_eq!(
                    find(&content, host, "library/x").unwrap(),
                    Some(password("a", "b")),
                    "{key} {host}"
                );
            }
        }
    }

    #[test]
    fn rows_c7_and_c8_entries_are_read_or_refused_without_their_value() {
        for (entry, expected, why) in [
            (
                format!(r#"{{"auth":"{}"}}"#, auth("alice:s3:cret")),
                Some(password("alice", "s3:cret")),
                "a colon in it",
            ),
            (
                format!(r#"{{"auth":"{}"}}"#, auth("alice:s3cret\0\0")),
                Some(password("alice", "s3cret")),
                "a NUL tail",
            ),
            (
                r#"{"username":"alice","password":"s3cret"}"#.into(),
                Some(password("alice", "s3cret")),
                "two fields",
            ),
            (
                r#"{"auth":"","identitytoken":"t"}"#.into(),
                Some(Login::IdentityToken("t".into())),
                "identity token",
            ),
            (
                r#"{"registrytoken":"t"}"#.into(),
                Some(Login::RegistryToken("t".into())),
                "registry token",
            ),
            ("{}".into(), None, "docker's empty entry"),
            ("null".into(), None, "null"),
            (
                format!(r#"{{"auth":"{}","detachKeys":1}}"#, auth("a:b")),
                Some(password("a", "b")),
                "odd fields",
            ),
        ] {
            let content = format!(r#"{{"auths":{{"h.example":{entry}}},"detachKeys":1}}"#);
            assert_eq!(find(&content, "h.example", "a").unwrap(), expected, "{why}");
        }
        for (value, why) in [
            (auth("alice:s3cret\n"), "a newline"),
            (
                auth("alice:s3cret").trim_end_matches('=').to_owned() + "x",
                "no base64",
            ),
            (auth("alices3cret"), "no colon"),
        ] {
            let error = find(
                &format!(r#"{{"auths":{{"h.example":{{"auth":"{value}"}}}}}}"#),
                "h.example",
                "a",
            )
            .unwrap_err();
            let line = error.line();
            assert!(
                line.contains(r#"auth.json, key "h.example""#),
                "{why}: {line}"
            );
            assert!(
                !line.contains("s3cret") && !line.contains(&value),
                "{why}: {line}"
            );
        }
    }

    #[test]
    fn row_c1_places_come_in_the_documented_order() {
        let places = |variables: &[(&str, &str)]| {
            let variable = |name: &str| {
                variables
                    .iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| PathBuf::from(value))
            };
            Keyring::places(variable).describe()
        };
        assert_eq!(places(&[]), "/etc/containers/auth.json");
        assert_eq!(
            places(&[
                ("CREDENTIALS_DIRECTORY", "/c"),
                ("XDG_RUNTIME_DIR", "/run/user/0"),
                ("HOME", "/root")
            ]),
            "the systemd credential sysext-oci-proxy.auth (the service was given none), /run/user/0/containers/auth.json, \
             /root/.config/containers/auth.json, /etc/containers/auth.json, /root/.docker/config.json"
        );
        assert_eq!(
            places(&[
                ("CREDENTIALS_DIRECTORY", "/c"),
                ("REGISTRY_AUTH_FILE", "/a.json"),
                ("HOME", "/root")
            ]),
            "the systemd credential sysext-oci-proxy.auth (the service was given none), /a.json"
        );
        assert_eq!(
            places(&[("INVOCATION_ID", "0f"), ("REGISTRY_AUTH_FILE", "/a.json")]),
            "the systemd credential sysext-oci-proxy.auth (the service was given none), /a.json"
        );
        assert_eq!(
            places(&[
                ("DOCKER_CONFIG", "/d"),
                ("XDG_CONFIG_HOME", "/x"),
                ("HOME", "/root")
            ]),
            "/x/containers/auth.json, /etc/containers/auth.json, /d/config.json"
        );
    }

    #[test]
    fn row_c5_helpers_come_before_entries_and_the_store_after_them() {
        let entry = format!(r#""auths":{{"h.example":{{"auth":"{}"}}}}"#, auth("a:b"));
        for (content, expected) in [
            (
                format!(r#"{{{entry},"credsStore":"no-such"}}"#),
                Ok(Some(password("a", "b"))),
            ),
            (
                format!(r#"{{{entry},"credHelpers":{{"h.example:443":"no-such"}}}}"#),
                Ok(Some(password("a", "b"))),
            ),
            (
                format!(r#"{{{entry},"credHelpers":{{"h.example":"no-such"}}}}"#),
                Err("docker-credential-no-such is in none of"),
            ),
            (
                r#"{"credsStore":"no-such"}"#.into(),
                Err("docker-credential-no-such is in none of"),
            ),
            (
                r#"{"credsStore":"../evil"}"#.into(),
                Err("this is not the name of a credential helper"),
            ),
        ] {
            match (find(&content, "h.example", "x"), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{content}"),
                (Err(error), Err(expected)) => assert!(
                    error.line().contains(expected),
                    "{content}: {}",
                    error.line()
                ),
                (found, _) => panic!("{content}: {found:?}"),
            }
        }
    }
}
