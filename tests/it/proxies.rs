//! Proxies by environment: who is asked through one and who is not.
//!
//! The proxy knows hosts that no name server knows, `registry.invalid` among them.

use std::io::{self, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::content::versions;
use crate::registry::{Fault, Guard, LOGIN, Registry, basic, count, logins_seen, nowhere};
use crate::request::Request;
use crate::service::{Service, Setup};
use crate::tls::Authority;
use crate::tokens::TokenServer;

/// A proxy that answers `CONNECT`, and leads everybody to one registry whatever they ask for.
struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn to(registry: &Registry) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy {
            address: listener.local_addr().unwrap(),
            asked: Arc::default(),
        };
        let (asked, target) = (proxy.asked.clone(), registry.address);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let asked = asked.clone();
                // An error is either side's way to say that it has enough.
                thread::spawn(move || lead(&stream, &asked, target));
            }
        });
        proxy
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The different requests that it got.
    fn take_asked(&self) -> Vec<String> {
        let mut asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.sort();
        asked.dedup();
        asked
    }
}

fn lead(client: &TcpStream, asked: &Mutex<Vec<String>>, target: SocketAddr) -> io::Result<()> {
    let mut reader = BufReader::new(client);
    let Some(request) = Request::read(&mut reader)? else {
        return Ok(());
    };
    asked.lock().unwrap().push(request.line());
    if request.method != "CONNECT" {
        let mut client = client;
        return client.write_all(b"HTTP/1.1 405 Only CONNECT\r\nContent-Length: 0\r\n\r\n");
    }
    let server = TcpStream::connect(target)?;
    let (mut to_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    to_client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
    let mut from_server = server.try_clone()?;
    thread::spawn(move || {
        let _ = io::copy(&mut from_server, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Both);
    });
    let _ = io::copy(&mut reader, &mut to_server);
    server.shutdown(Shutdown::Both)
}

const INSECURE: &str = "[[registry]]\nlocation = \"registry.invalid\"\ninsecure = true\n";

#[test]
fn a_registry_on_loopback_is_never_asked_through_a_proxy() {
    for place in ["127.0.0.1:0", "127.0.0.2:0", "[::1]:0"] {
        let registry = Registry::on(place, None);
        registry.put("hello", versions(1).0);
        let proxy = Proxy::to(&registry);
        let mut setup = Setup::of(&registry);
        for name in [
            "HTTP_PROXY",
            "http_proxy",
            "HTTPS_PROXY",
            "https_proxy",
            "ALL_PROXY",
        ] {
            setup = setup.env(name, proxy.url());
        }
        let service = setup.start();
        assert_eq!(service.listing(), versions(1).1, "{place}");
        assert_eq!(proxy.take_asked(), [""; 0], "{place}");
    }
}

#[test]
fn a_registry_elsewhere_is_asked_through_the_proxy() {
    let registry = Registry::with_hello(versions(1).0);
    let proxy = Proxy::to(&registry);
    let service = Setup::new("registry = \"registry.invalid\"\n")
        .registries(INSECURE)
        .env("HTTP_PROXY", proxy.url())
        .start();
    assert_eq!(service.listing(), versions(1).1);
    assert_eq!(service.get("/hello/hello-v0.raw").body, b"image 0");
    let asked = proxy.take_asked();
    assert!(
        asked.contains(&"CONNECT registry.invalid:80".to_owned()),
        "{asked:?}"
    );
    let heads = registry.take_heads();
    assert!(
        heads
            .iter()
            .all(|head| head.header("host") == Some("registry.invalid")),
        "{heads:?}"
    );
}

fn with_tls() -> (Registry, Proxy, Setup) {
    let authority = Authority::new();
    let tls = authority.server(&["registry.invalid"]);
    let registry = Registry::on("127.0.0.1:0", Some(tls));
    registry.put("hello", versions(1).0);
    let proxy = Proxy::to(&registry);
    let setup = Setup::new("registry = \"registry.invalid\"\n").certificate(
        "registry.invalid",
        "ca.crt",
        &authority.pem(),
    );
    (registry, proxy, setup)
}

#[test]
fn tls_goes_through_the_proxy_and_is_checked_by_the_registrys_name() {
    let (_registry, proxy, setup) = with_tls();
    let service = setup.env("HTTPS_PROXY", proxy.url()).start();
    assert_eq!(service.listing(), versions(1).1);
    assert_eq!(proxy.take_asked(), ["CONNECT registry.invalid:443"]);
}

#[test]
fn who_is_in_no_proxy_is_asked_directly() {
    for (no_proxy, is_asked) in [
        ("registry.invalid", false),
        (".invalid", false),
        ("*", false),
        ("elsewhere.invalid", true),
    ] {
        let (_registry, proxy, setup) = with_tls();
        let service = setup
            .env("HTTPS_PROXY", proxy.url())
            .env("NO_PROXY", no_proxy)
            .start();
        // Nobody knows that name but the proxy.
        let status = if is_asked { 200 } else { 502 };
        assert_eq!(
            service.get("/hello/SHA256SUMS").status,
            status,
            "{no_proxy}"
        );
        assert_eq!(!proxy.take_asked().is_empty(), is_asked, "{no_proxy}");
    }
}

#[test]
fn a_proxy_that_is_down_is_a_bad_gateway_and_one_line() {
    let place = nowhere();
    let service = Setup::new("registry = \"registry.invalid\"\n")
        .env("HTTPS_PROXY", format!("http://u:s3cret@{place}"))
        .start();
    let why = service.why_no_listing(502);
    let expected = format!(": through the proxy http://{place}: ");
    assert!(why.contains(&expected), "{why}");
}

#[test]
fn a_proxy_that_cannot_be_used_is_an_error_and_never_gone_around() {
    let (registry, proxy, _) = with_tls();
    let authority = Authority::new();
    let name = "registry.localhost";
    for (variable, value, shown) in [
        (
            "HTTPS_PROXY",
            "socks5://u:s3cret@127.0.0.1:9",
            "socks5://127.0.0.1:9",
        ),
        ("https_proxy", "http://:::", "http://:::"),
        ("ALL_PROXY", "127.0.0.1:port", "127.0.0.1:port"),
    ] {
        let service = Setup::new(format!(
            "registry = \"{name}:{}\"\n",
            registry.address.port()
        ))
        .certificate(name, "ca.crt", &authority.pem())
        .env(variable, value)
        .start();
        let reason = service.why_no_listing(500);
        let expected = format!("the proxy in ${variable} cannot be used, \"{shown}\": ");
        assert!(reason.starts_with(&expected), "{reason}");
        assert!(reason.contains("http://HOST:PORT"), "{reason}");
    }
    assert_eq!(proxy.take_asked(), [""; 0]);
    assert_eq!(registry.connections(), 0);
}

#[test]
fn each_scheme_has_a_variable_of_its_own() {
    let (_registry, proxy, setup) = with_tls();
    let service = setup.env("HTTP_PROXY", proxy.url()).start();
    // The proxy is for http alone, and no name server knows the registry.
    service.no_listing(502);
    assert_eq!(proxy.take_asked(), [""; 0]);
}

/// Elsewhere a password would cross a network in the clear.
#[test]
fn row_a3_a_login_is_not_sent_over_plain_http_to_a_registry_elsewhere() {
    let tokens = TokenServer::start();
    let token = tokens.guard();
    for guard in [Guard::basic(&[LOGIN]), token] {
        let registry = Registry::with_hello(versions(1).0);
        registry.guard(guard);
        let proxy = Proxy::to(&registry);
        let service = Setup::new("registry = \"registry.invalid\"\n")
            .registries(INSECURE)
            .login("registry.invalid", LOGIN)
            .env("HTTP_PROXY", proxy.url())
            .start();
        service.no_listing(403);
        let seen = logins_seen(&registry);
        assert_eq!(count(&seen, &basic(LOGIN)), 0, "{seen:?}");
        assert_eq!(tokens.take_asked(), [""; 0]);
        service.log.one_trouble();
    }
}

/// `insecure` means either: a certificate that nobody knows, or none at all.
#[test]
fn row_x1_an_insecure_registry_may_have_a_certificate_that_nobody_knows() {
    let authority = Authority::new();
    let tls = authority.server(&["another.name"]);
    let registry = Registry::on("127.0.0.1:0", Some(tls));
    registry.put("hello", versions(1).0);
    let proxy = Proxy::to(&registry);
    for (conf, status) in [(INSECURE, 200), ("", 502)] {
        let service = Setup::new("registry = \"registry.invalid\"\n")
            .registries(conf)
            .env("HTTP_PROXY", proxy.url())
            .env("HTTPS_PROXY", proxy.url())
            .start();
        let response = service.get("/hello/SHA256SUMS");
        assert_eq!(response.status, status, "{conf}");
        assert_eq!(proxy.take_asked(), ["CONNECT registry.invalid:443"]);
    }
}

#[test]
fn row_x5_a_mirror_elsewhere_is_told_what_it_mirrors_where_settings_say_so() {
    for (setting, has_ns) in [
        ("", false),
        (
            "mirrors-with-ns = [\"mirror.invalid\"]\nmirrors-without-ns = [\"mirror.invalid\"]\n",
            false,
        ),
        ("mirrors-with-ns = [\"mirror.invalid\"]\n", true),
    ] {
        let registry = Registry::with_hello(versions(1).0);
        let mirror = Registry::with_hello(versions(1).0);
        let proxy = Proxy::to(&mirror);
        let conf = format!(
            "[[registry]]\nlocation = \"{}\"\n\
             [[registry.mirror]]\nlocation = \"mirror.invalid\"\ninsecure = true\n",
            registry.address
        );
        let service = Setup::new(registry.settings() + setting)
            .registries(&conf)
            .env("HTTP_PROXY", proxy.url())
            .start();
        assert_eq!(service.get("/hello/hello-v0.raw").body, b"image 0");
        let requests = mirror.take_requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        assert_eq!(
            count(&requests, "?ns="),
            usize::from(has_ns),
            "{requests:?}"
        );
    }
}

/// Addresses of this machine alone are never sent to a proxy.
#[test]
fn row_b5_a_registry_elsewhere_cannot_send_us_to_an_address_of_this_machine() {
    let stranger = Registry::with_hello(versions(1).0);
    let here = stranger.address;
    for (target, trusted, is_followed) in [
        (format!("http://{here}"), String::new(), false),
        ("http://169.254.169.254".to_owned(), String::new(), false),
        ("http://localhost:1".to_owned(), String::new(), false),
        (format!("http://{here}"), here.to_string(), true),
    ] {
        let registry = Registry::with_hello(versions(1).0);
        registry.fault("/blobs/", Fault::Redirect(target.clone()));
        let proxy = Proxy::to(&registry);
        let service = Setup::new(format!(
            "registry = \"registry.invalid\"\ntrusted-hosts = [{}]\n",
            if is_followed {
                format!("\"{trusted}\"")
            } else {
                trusted
            }
        ))
        .registries(INSECURE)
        .env("HTTP_PROXY", proxy.url())
        .start();
        let response = service.get("/hello/hello-v0.raw");
        let status = if is_followed { 200 } else { 502 };
        assert_eq!(response.status, status, "{target}: {response:?}");
        let requests = stranger.take_requests();
        assert_eq!(requests.len(), usize::from(is_followed), "{requests:?}");
    }
}

/// The same for the token server that it names, with a login or without.
#[test]
fn row_a17_a_registry_elsewhere_cannot_name_a_token_server_on_this_machine() {
    let tokens = TokenServer::start();
    for is_trusted in [false, true] {
        let registry = Registry::with_hello(versions(1).0);
        registry.guard(tokens.guard());
        let proxy = Proxy::to(&registry);
        let trusted = if is_trusted {
            format!("\"{}\"", tokens.address)
        } else {
            String::new()
        };
        let service: Service = Setup::new(format!(
            "registry = \"registry.invalid\"\ntrusted-hosts = [{trusted}]\n"
        ))
        .registries(INSECURE)
        .env("HTTP_PROXY", proxy.url())
        .start();
        let status = service.get("/hello/SHA256SUMS").status;
        assert_eq!(status, if is_trusted { 200 } else { 403 });
        assert_eq!(tokens.take_asked().len(), usize::from(is_trusted));
    }
}
