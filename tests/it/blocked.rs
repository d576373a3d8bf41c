//! Hosts that `registries.conf` blocks or `allow` does not name: no spelling, redirect or token server leads there.

use crate::content::{digest, versions};
use crate::registry::{Fault, Registry};
use crate::service::{Service, Setup};
use crate::tokens::TokenServer;

/// A `[[registry]]` that is blocked.
fn blocked(prefix: &str) -> String {
    format!("[[registry]]\nprefix = \"{prefix}\"\nlocation = \"{prefix}\"\nblocked = true\n")
}

#[test]
fn no_spelling_of_an_address_leads_into_what_is_blocked() {
    let registry = Registry::with_hello(versions(1).0);
    let port = registry.address.port();
    for spelling in [
        format!("127.0.0.1:{port}"),
        format!("127.1:{port}"),
        format!("0x7f.0.0.1:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
    ] {
        for settings in [
            format!("allow = [\"{spelling}\"]\n"),
            format!("[repository.\"{spelling}/hello\"]\nsource = \"{spelling}/hello\"\n"),
        ] {
            let service = Setup::new(settings)
                .registries(&blocked("127.0.0.1"))
                .start();
            let response = service.get(&format!("/{spelling}/hello/SHA256SUMS"));
            assert_eq!(response.status, 403, "{spelling}: {:?}", response.headers);
        }
    }
    assert_eq!(registry.take_requests(), [""; 0]);
}

#[test]
fn a_path_in_allow_lets_in_what_is_below_it_and_nothing_else() {
    let registry = Registry::start();
    for name in ["flatcar/hello", "flatcar-evil/hello", "evil/hello"] {
        registry.put(name, versions(1).0);
    }
    let host = registry.address;
    let service = Service::start(format!("allow = [\"{host}/flatcar\"]\n"));
    for (path, status) in [
        ("flatcar/hello", 200),
        ("flatcar%2Fhello", 200),
        ("flatcar-evil/hello", 403),
        ("evil/hello", 403),
        ("flatcar/../evil/hello", 400),
        ("flatcar/%2e%2e/evil/hello", 400),
        ("flatcar/%252e%252e/evil/hello", 400),
        ("flatcar%2F..%2Fevil/hello", 400),
        ("flatcar//hello", 400),
    ] {
        let response = service.get(&format!("/{host}/{path}/SHA256SUMS"));
        assert_eq!(response.status, status, "{path}: {:?}", response.headers);
    }
    let requests = registry.take_requests();
    let others = requests.iter().filter(|line| line.contains("evil"));
    assert_eq!(others.count(), 0, "{requests:?}");
}

#[test]
fn a_redirect_into_what_is_blocked_is_not_followed() {
    let store = Registry::on("127.0.0.2:0", None);
    for name in ["secret", "open"] {
        store.put(name, versions(1).0);
    }
    let (host, digest) = (store.address, digest(b"image 0"));
    for (target, prefix, status) in [
        ("secret", "127.0.0.2".to_owned(), 403),
        ("secret", host.to_string(), 403),
        ("secret", format!("{host}/secret"), 403),
        ("open", format!("{host}/secret"), 200),
        ("secret", format!("{host}/sec"), 200),
        ("secret", "127.0.0.3".to_owned(), 200),
    ] {
        for is_redirecting in [false, true] {
            let front = Registry::with_hello(versions(1).0);
            let location = format!("http://{host}/v2/{target}/blobs/{digest}");
            front.fault("/blobs/", Fault::Location(location));
            let more = match is_redirecting {
                true => "[repository.hello]\nblobs = \"redirect\"\n",
                false => "",
            };
            let service = Setup::of(&front)
                .settings(more)
                .registries(&blocked(&prefix))
                .start();
            let response = service.get("/hello/hello-v0.raw");
            let expected = match (status, is_redirecting) {
                (200, true) => 307,
                (status, _) => status,
            };
            assert_eq!(response.status, expected, "{target} {prefix}: {response:?}");
            let requests = store.take_requests();
            assert!(status == 200 || requests.is_empty(), "{requests:?}");
        }
    }
}

/// As in containers/image, the name that is asked for decides, not the place where it leads.
#[test]
fn a_redirect_within_the_place_of_another_name_is_followed() {
    let registry = Registry::with_hello(versions(1).0);
    registry.put("other", versions(1).0);
    let location = format!("/v2/other/blobs/{}", digest(b"image 0"));
    registry.fault("/v2/hello/blobs/", Fault::Location(location));
    let host = registry.address;
    let conf = format!(
        "[[registry]]\nprefix = \"name.invalid\"\nlocation = \"{host}\"\n\
         [[registry]]\nprefix = \"{host}\"\nlocation = \"elsewhere.invalid\"\nblocked = true\n"
    );
    let service = Setup::new(format!(
        "registry = \"name.invalid\"\nallow = [\"{host}\"]\n"
    ))
    .registries(&conf)
    .start();
    assert_eq!(service.whole("/hello/hello-v0.raw"), b"image 0");
    let direct = service.get(&format!("/{host}/hello/SHA256SUMS"));
    assert_eq!(direct.status, 403);
}

#[test]
fn a_token_server_that_is_blocked_is_not_asked() {
    let tokens = TokenServer::start();
    for (prefix, status) in [
        (tokens.address.to_string(), 403),
        ("127.0.0.2".to_owned(), 200),
    ] {
        let registry = Registry::with_hello(versions(1).0);
        registry.guard(tokens.guard());
        let service = Setup::of(&registry).registries(&blocked(&prefix)).start();
        assert_eq!(service.get("/hello/SHA256SUMS").status, status, "{prefix}");
        assert_eq!(tokens.take_asked().is_empty(), status == 403, "{prefix}");
    }
}
