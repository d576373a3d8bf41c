//! Logins: where they are found, which of them is for what, and when they change.
//!
//! A row (`c3`) is one of the ways in which the tools that keep logins differ.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use crate::content::{Repository, versions};
use crate::registry::{
    Guard, LOGIN, Registry, asked_once_then_as, basic, count, guarded, logins_seen,
    requests_of_a_listing,
};
use crate::service::{ANEW, Folder, Service, Setup, later};
use crate::tokens::TokenServer;

/// Every place where a login may be, the first of them first, each with a user of its own.
#[test]
fn rows_c1_and_c2_logins_are_looked_for_in_the_documented_order() {
    let places = [
        (
            "credentials/sysext-oci-proxy.auth",
            "CREDENTIALS_DIRECTORY",
            "credentials",
        ),
        ("explicit.json", "REGISTRY_AUTH_FILE", "explicit.json"),
        ("run/containers/auth.json", "XDG_RUNTIME_DIR", "run"),
        ("config/containers/auth.json", "XDG_CONFIG_HOME", "config"),
        ("docker/config.json", "DOCKER_CONFIG", "docker"),
    ];
    let users = ["credential", "explicit", "run", "config", "docker"];
    // Which of them are set, and who it is then.
    for (set, winner) in [
        (&[0, 1, 2, 3, 4][..], Some("credential")),
        (&[1, 2, 3, 4], Some("explicit")),
        (&[2, 3, 4], Some("run")),
        (&[3, 4], Some("config")),
        (&[4], Some("docker")),
        (&[], None),
    ] {
        let logins: Vec<_> = users.iter().map(|user| format!("{user}:pass")).collect();
        let logins: Vec<_> = logins.iter().map(String::as_str).collect();
        let registry = guarded(Guard::basic(&logins));
        let folder = Folder::new();
        let mut setup = Setup::of(&registry).env("REGISTRY_AUTH_FILE", "");
        for &n in set {
            let (file, variable, value) = places[n];
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let auth = BASE64_STANDARD.encode(logins[n]);
            let host = registry.address.to_string();
            folder.file(file, &json!({"auths": {host: {"auth": auth}}}).to_string());
            setup = setup.env(variable, folder.path().join(value));
        }
        let service = setup.start();
        let status = service.get("/hello/SHA256SUMS").status;
        assert_eq!(status, if winner.is_some() { 200 } else { 403 }, "{set:?}");
        let expected = match winner {
            Some(user) => asked_once_then_as(&basic(&format!("{user}:pass"))),
            None => vec![format!("{} as nobody", requests_of_a_listing()[0])],
        };
        assert_eq!(logins_seen(&registry), expected, "{set:?}");
    }
}

/// A file that is named stands alone: what it lacks is not looked for elsewhere.
#[test]
fn row_c1_a_file_that_is_named_stands_alone() {
    let registry = guarded(Guard::basic(&[LOGIN]));
    let folder = Folder::new();
    std::fs::create_dir_all(folder.path().join("containers")).unwrap();
    let auth = BASE64_STANDARD.encode(LOGIN);
    let host = registry.address.to_string();
    let json = json!({"auths": {host: {"auth": auth}}}).to_string();
    folder.file("containers/auth.json", &json);
    let service = Setup::of(&registry)
        .login("elsewhere.example", LOGIN)
        .env("XDG_RUNTIME_DIR", folder.path())
        .start();
    service.no_listing(403);
    assert_eq!(registry.take_requests().len(), 1);
}

#[test]
fn row_c3_a_password_for_one_path_is_not_sent_for_another() {
    let registry = Registry::start();
    for name in ["acme/app", "acmeother/app", "acme"] {
        registry.put(name, Repository::default());
    }
    let guard = Guard::basic(&["owner:own", "all:rest"]);
    registry.guard(guard);
    let host = registry.address;
    let service = Setup::of(&registry)
        .logins(&[
            (&host.to_string(), "all:rest"),
            (&format!("{host}/acme"), "owner:own"),
            (&format!("{host}/acmeot"), "nobody:evil"),
        ])
        .start();
    for (name, login) in [
        ("acme/app", "owner:own"),
        ("acme", "owner:own"),
        ("acmeother/app", "all:rest"),
    ] {
        assert_eq!(service.get(&format!("/{name}/SHA256SUMS")).status, 200);
        let first = format!("GET /v2/{name}/manifests/SHA256SUMS");
        assert_eq!(
            logins_seen(&registry),
            [
                format!("{first} as nobody"),
                format!("{first} as {}", basic(login)),
                format!("GET /v2/{name}/tags/list?n=1000 as {}", basic(login))
            ]
        );
    }
}

#[test]
fn row_c6_a_helper_that_is_missing_is_named() {
    let registry = guarded(Guard::basic(&[LOGIN]));
    let host = registry.address.to_string();
    let auth = json!({"credHelpers": {host: "no-such-helper"}}).to_string();
    let service = Setup::of(&registry).auth(&auth).start();
    assert_eq!(
        service.why_no_listing(403),
        format!(
            "login in {}, helper \"no-such-helper\": docker-credential-no-such-helper is in none \
             of /usr/local/bin, /usr/bin, /usr/local/sbin, /usr/sbin",
            service.auth_file()
        )
    );
}

#[test]
fn row_c7_an_entry_that_is_no_login_is_named_without_its_value() {
    let registry = guarded(Guard::basic(&[LOGIN]));
    let service = Service::with_login(&registry, "alice:s3cret\n");
    assert_eq!(
        service.why_no_listing(403),
        format!(
            "login in {}, key \"{}\": its user name or password has a control character, \
             perhaps a newline at its end",
            service.auth_file(),
            registry.address
        )
    );
}

#[test]
fn a_file_of_logins_that_is_no_json_is_named_without_its_value() {
    let registry = guarded(Guard::basic(&[LOGIN]));
    let service = Setup::of(&registry).auth("{\"auths\":\n s3cret").start();
    assert_eq!(
        service.why_no_listing(403),
        format!("login in {}: it is not JSON, line 2", service.auth_file())
    );
}

/// A registry whose password changes: what it accepts is the number that is shared. And a service
/// that knows the first one and has listed it.
fn with_changing_password() -> (Registry, Service, Arc<AtomicUsize>) {
    let current = Arc::new(AtomicUsize::new(1));
    let shared = current.clone();
    let guard = Guard::new(move |request| {
        let good = basic(&format!("alice:p{}", shared.load(SeqCst)));
        request.header("authorization") == Some(&good)
    });
    let registry = guarded(guard.challenge("Basic"));
    let service = Setup::new(registry.settings() + ANEW)
        .login(registry.address, "alice:p1")
        .start();
    assert_eq!(service.listing(), versions(1).1);
    (registry, service, current)
}

#[test]
fn row_c9_a_login_that_was_renewed_counts_at_once() {
    let (registry, service, password) = with_changing_password();
    let host = registry.address.to_string();
    password.store(2, SeqCst);
    service.write_logins(&[(&host, "alice:p2")]);
    later();
    assert_eq!(service.listing(), versions(1).1, "without a restart");
    let of = |login: &str, lines: &[String]| count(lines, &basic(login));
    let seen = logins_seen(&registry);
    let listing = requests_of_a_listing().len();
    assert_eq!(
        (of("alice:p1", &seen), of("alice:p2", &seen)),
        (listing + 1, listing)
    );
}

#[test]
fn row_c9_a_login_that_has_expired_is_one_line_until_it_is_renewed() {
    let (registry, service, password) = with_changing_password();
    let host = registry.address.to_string();
    password.store(2, SeqCst);
    later();
    assert_eq!(
        service.why_no_listing(403),
        format!(
            "registry {host}/hello refuses the login from {}, key \"{host}\" \
             (status 401, UNAUTHORIZED, as the test wants it); \
             is the password right, has it expired, may it read this?",
            service.auth_file()
        )
    );
    service.write_logins(&[(&host, "alice:p2")]);
    assert_eq!(service.listing(), versions(1).1);
}

#[test]
fn a_password_may_be_of_any_letters() {
    let long: &'static str = format!("AWS:{}", "x".repeat(2400)).leak();
    for login in [
        "user:pa:ss:",
        "user:%41+b&c=d",
        "robot$acme+puller:p@ss/word?#",
        "jörg:gehäim ß€",
        "user name: leading and trailing ",
        "a'b\"c:\\\"'`$(x)",
        long,
    ] {
        let tokens = TokenServer::for_login(login);
        for guard in [Guard::basic(&[login]), tokens.guard()] {
            let registry = guarded(guard);
            let service = Service::with_login(&registry, login);
            assert_eq!(service.listing(), versions(1).1, "{login}");
            let password = login.split_once(':').unwrap().1.trim();
            let lines = service.log.lines().join("\n");
            assert!(!lines.contains(password), "{lines}");
        }
    }
}
