//! Hosts: their certificates by certs.d, TLS or none, addresses and names.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;

use crate::content::versions;
use crate::registry::{Guard, LOGIN, Registry, count, nowhere, with_tls};
use crate::service::{ANEW, Folder, Service, Setup, later};
use crate::tls::Authority;

#[test]
fn row_n1_a_private_authority_is_trusted_where_certs_d_has_it() {
    let authority = Authority::new();
    let registry = with_tls(&authority);
    let service = Setup::of(&registry)
        .certificate(registry.address, "ca.crt", &authority.pem())
        .start();
    assert_eq!(service.listing(), versions(1).1);
    assert_eq!(service.get("/hello/hello-v0.raw").body, b"image 0");
}

#[test]
fn row_n1_an_unknown_authority_is_one_line_that_says_what_to_do() {
    let (authority, other) = (Authority::new(), Authority::new());
    let registry = with_tls(&authority);
    let host = registry.address;
    let conf = format!("[[registry]]\nlocation = \"{host}\"\ninsecure = false\n");
    let setup = || Setup::of(&registry).registries(&conf);
    for setup in [
        setup(),
        setup().certificate(host, "other.crt", &other.pem()),
    ] {
        let service = setup.start();
        let why = service.why_no_listing(502);
        let start = format!(
            "certificate of {host} is not trusted; \
             put a private CA into /etc/containers/certs.d/{host}/ca.crt: "
        );
        assert!(why.starts_with(&start), "{why}");
    }
    assert_eq!(registry.take_requests(), [""; 0]);
}

#[test]
fn row_n1_a_certificate_for_another_name_is_not_trusted() {
    let authority = Authority::new();
    let registry = Registry::on("127.0.0.1:0", Some(authority.server(&["other.example"])));
    let service = Setup::of(&registry)
        .certificate(registry.address, "ca.crt", &authority.pem())
        .start();
    service.why_no_listing(502);
    assert_eq!(registry.take_requests(), [""; 0]);
}

#[test]
fn row_n1_a_client_certificate_is_shown() {
    let authority = Authority::new();
    let tls = authority.server_for_its_own(&["127.0.0.1"]);
    let registry = Registry::on("127.0.0.1:0", Some(tls));
    registry.put("hello", versions(1).0);
    let (certificate, key) = authority.client();
    let setup = || Setup::of(&registry).certificate(registry.address, "ca.crt", &authority.pem());
    let service = setup()
        .certificate(registry.address, "client.cert", &certificate)
        .certificate(registry.address, "client.key", &key)
        .start();
    assert_eq!(service.listing(), versions(1).1);
    registry.take_requests();
    let stranger = setup().start();
    stranger.no_listing(502);
    let trouble = stranger.log.one_trouble();
    assert!(
        trouble.contains(&registry.address.to_string()) && trouble.contains("ertificate"),
        "{trouble:?}"
    );
    assert_eq!(registry.take_requests(), [""; 0]);
}

#[test]
fn row_n1_a_file_that_cannot_be_used_is_named() {
    let authority = Authority::new();
    let registry = with_tls(&authority);
    let host = registry.address;
    let (certificate, key) = authority.client();
    for (files, named, why) in [
        (
            vec![("client.cert", &*certificate)],
            "client.cert",
            "its other half FOLDER/client.key is missing",
        ),
        (
            vec![("client.key", &*key)],
            "client.key",
            "its other half FOLDER/client.cert is missing",
        ),
        (
            vec![("ca.crt", "nonsense")],
            "ca.crt",
            "there is no certificate in it, expected PEM form",
        ),
        (
            vec![
                ("client.cert", &*certificate),
                ("client.key", &*certificate),
            ],
            "client.key",
            "there is no private key in it, expected one in PEM form",
        ),
    ] {
        let mut setup = Setup::of(&registry);
        let folder = format!("{}/containers/certs.d/{host}", setup.folder().display());
        for (name, text) in files {
            setup = setup.certificate(host, name, text);
        }
        let service = setup.start();
        let why = why.replace("FOLDER", &folder);
        assert_eq!(
            service.why_no_listing(500),
            format!("certificate {folder}/{named}: {why}")
        );
    }
    assert_eq!(registry.take_requests(), [""; 0]);
}

/// A directory in the place of a file is one that nobody can read, root neither.
#[test]
fn row_n1_a_file_that_cannot_be_read_is_named() {
    let authority = Authority::new();
    let registry = with_tls(&authority);
    let setup = Setup::of(&registry).certificate(registry.address, "ca.crt", &authority.pem());
    let unreadable = setup
        .folder()
        .join(format!("containers/certs.d/{}/more.crt", registry.address));
    std::fs::create_dir(&unreadable).unwrap();
    let service = setup.start();
    let why = service.why_no_listing(500);
    let start = format!("certificate {}: ", unreadable.display());
    assert!(why.starts_with(&start), "{why}");
}

#[test]
fn row_n1_the_first_directory_for_a_host_counts() {
    let authority = Authority::new();
    let registry = with_tls(&authority);
    let folder = Folder::new();
    let host = registry.address;
    std::fs::create_dir_all(
        folder
            .path()
            .join(format!(".config/containers/certs.d/{host}")),
    )
    .unwrap();
    folder.file(
        &format!(".config/containers/certs.d/{host}/ca.crt"),
        &authority.pem(),
    );
    let by_home = || Setup::of(&registry).env("HOME", folder.path());
    assert_eq!(by_home().start().listing(), versions(1).1);
    let other = Authority::new();
    let service = by_home().certificate(host, "ca.crt", &other.pem()).start();
    service.no_listing(502);
}

#[test]
fn row_n2_plain_http_to_a_tls_port_is_explained() {
    let registry = with_tls(&Authority::new());
    let service = Service::of(&registry);
    let host = registry.address;
    assert_eq!(
        service.why_no_listing(502),
        format!(
            "{host} requires TLS, but got plain HTTP; \
             put its CA into /etc/containers/certs.d/{host}/ca.crt, \
             or set insecure = false in registries.conf"
        )
    );
}

#[test]
fn row_n3_tls_to_a_plain_port_is_explained_and_never_given_up_for_plain_http() {
    let registry = Registry::with_hello(versions(1).0);
    let host = registry.address;
    let conf = format!("[[registry]]\nlocation = \"{host}\"\ninsecure = false\n");
    let service = Setup::of(&registry).registries(&conf).start();
    let why = service.why_no_listing(502);
    let start = format!(
        "{host} does not speak TLS; \
         for plain HTTP set insecure = true in registries.conf"
    );
    assert!(why.starts_with(&start), "{why}");
    let plain = registry.take_requests();
    assert_eq!(count(&plain, "/v2/"), 0, "{plain:?}");
}

#[test]
fn row_n4_a_registry_may_be_at_an_ipv6_address() {
    let registry = Registry::on("[::1]:0", None);
    registry.put("hello", versions(1).0);
    registry.guard(Guard::basic(&[LOGIN]));
    let service = Setup::of(&registry).login(registry.address, LOGIN).start();
    assert!(registry.address.to_string().starts_with("[::1]:"));
    assert_eq!(service.listing(), versions(1).1);
    let heads = registry.take_heads();
    assert_eq!(
        heads[0].header("host"),
        Some(&*registry.address.to_string())
    );
}

#[test]
fn row_n4_a_registry_at_an_ipv6_address_may_have_tls() {
    let authority = Authority::new();
    let registry = Registry::on("[::1]:0", Some(authority.server(&["::1"])));
    registry.put("hello", versions(1).0);
    let service = Setup::of(&registry)
        .certificate(registry.address, "ca.crt", &authority.pem())
        .start();
    assert_eq!(service.listing(), versions(1).1);
}

#[test]
fn row_g1_a_name_that_is_none_never_reaches_a_registry() {
    let registry = Registry::with_hello(versions(1).0);
    let service = Service::of(&registry);
    let long = format!("/{}/SHA256SUMS", "a".repeat(256));
    for target in [
        "/Hello/SHA256SUMS",
        "/hello..x/SHA256SUMS",
        "/-hello/SHA256SUMS",
        "/hello%2f..%2fother/SHA256SUMS",
        &long,
    ] {
        assert_eq!(service.get(target).status, 400, "{target}");
    }
    assert_eq!(registry.take_requests(), [""; 0]);
}

#[test]
fn row_g2_a_first_component_that_is_a_host_is_one() {
    let (hello, listing) = versions(1);
    let registry = Registry::start();
    let other = Registry::with_hello(hello);
    let allow = format!("allow = [\"{}\"]\n", other.address);
    let service = Service::start(registry.settings() + &allow);
    let response = service.get(&format!("/{}/hello/SHA256SUMS", other.address));
    assert_eq!((response.status, response.text()), (200, &*listing));
    assert_eq!(registry.take_requests(), [""; 0]);
}

#[test]
fn row_n1_a_client_certificate_and_the_key_of_another_are_refused_in_words() {
    let authority = Authority::new();
    let registry = with_tls(&authority);
    let host = registry.address;
    let (certificate, other) = (authority.client().0, authority.client().1);
    let broken = |key: &str| key.replacen("MIG", "MIH", 1);
    for (key, why) in [
        (other.clone(), "it does not belong to "),
        (broken(&other), "it cannot be used with its certificate: "),
    ] {
        let setup = Setup::of(&registry)
            .certificate(host, "ca.crt", &authority.pem())
            .certificate(host, "client.cert", &certificate)
            .certificate(host, "client.key", &key);
        let folder = setup.folder().join(format!("containers/certs.d/{host}"));
        let service = setup.start();
        let response = service.get("/hello/SHA256SUMS");
        let reason = response.header("x-reason").unwrap_or_default();
        assert_eq!(response.status, 500, "{reason}");
        let start = format!("certificate {}/client.key: {why}", folder.display());
        assert!(reason.starts_with(&start), "{reason}");
    }
}

#[test]
fn row_n3_a_registry_that_was_down_is_asked_anew_whether_it_speaks_tls() {
    let address = nowhere();
    // A registry on loopback uses plain HTTP, so it needs another name here.
    let host = address.replace("127.0.0.1", "0.0.0.0");
    let conf = format!("[[registry]]\nlocation = \"{host}\"\ninsecure = true\n");
    let service = Setup::new(format!("registry = \"{host}\"\n{ANEW}"))
        .registries(&conf)
        .start();
    let response = service.get("/hello/SHA256SUMS");
    let reason = response.header("x-reason").unwrap();
    assert_eq!(response.status, 502, "{reason}");
    let expected = format!("cannot connect to https://{host}/v2/");
    assert!(reason.starts_with(&expected), "{reason}");

    let (hello, listing) = versions(1);
    let registry = Registry::on(&address, Some(Authority::new().server(&["localhost"])));
    registry.put("hello", hello.clone());
    later();
    assert_eq!(service.listing(), listing, "with TLS");

    let registry = Registry::with_hello(hello);
    let host = format!("0.0.0.0:{}", registry.address.port());
    let conf = format!("[[registry]]\nlocation = \"{host}\"\ninsecure = true\n");
    let service = Setup::new(format!("registry = \"{host}\"\n{ANEW}"))
        .registries(&conf)
        .start();
    for _ in 0..2 {
        assert_eq!(service.listing(), listing, "in the clear");
        later();
    }
}

/// The connections for a listing are opened ahead, but not at the price of another try.
#[test]
fn a_registry_that_is_down_is_tried_for_tls_once() {
    let (hello, listing) = versions(3);
    let registry = Registry::with_hello(hello);
    let (is_up, tries) = (
        Arc::new(AtomicBool::new(true)),
        Arc::new(AtomicUsize::new(0)),
    );
    let relay = TcpListener::bind("127.0.0.1:0").unwrap();
    // On loopback it would be plain HTTP without a try.
    let host = format!("0.0.0.0:{}", relay.local_addr().unwrap().port());
    let (target, up, tried) = (registry.address, is_up.clone(), tries.clone());
    thread::spawn(move || {
        for client in relay.incoming().flatten() {
            if !up.load(SeqCst) {
                tried.fetch_add(1, SeqCst);
                continue;
            }
            let server = TcpStream::connect(target).unwrap();
            for (from, to) in [(&client, &server), (&server, &client)] {
                let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                thread::spawn(move || {
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        }
    });
    let conf = format!("[[registry]]\nlocation = \"{host}\"\ninsecure = true\n");
    let cache = Folder::new();
    let start = || {
        let setup = Setup::new(format!("registry = \"{host}\"\n{ANEW}"));
        setup.registries(&conf).cache(&cache).start()
    };
    assert_eq!(start().listing(), listing);
    is_up.store(false, SeqCst);
    let tries_of = |target: &str| {
        let service = start();
        tries.store(0, SeqCst);
        assert_eq!(service.get(target).status, 502, "{target}");
        tries.load(SeqCst)
    };
    // That of one tag has nothing to open ahead.
    let expected = tries_of("/hello:v1/SHA256SUMS");
    assert_eq!(tries_of("/hello/SHA256SUMS"), expected);
}

/// `openssl req -x509` makes a certificate that is a CA and a server's; curl and skopeo trust it.
#[test]
fn row_n1_a_server_may_show_the_ca_itself() {
    let here = &["127.0.0.1"][..];
    for (shown, kept, status, why) in [
        (Authority::named(here), None, 200, "the same one"),
        (
            Authority::named(here),
            Some(Authority::named(here)),
            502,
            "another one of that name",
        ),
        (
            Authority::named(&["127.0.0.2"]),
            None,
            502,
            "of another name",
        ),
        (Authority::valid(here, 2000, 2001), None, 502, "too old"),
        (Authority::valid(here, 3000, 3001), None, 502, "too new"),
    ] {
        let registry = Registry::on("127.0.0.1:0", Some(shown.itself()));
        registry.put("hello", versions(1).0);
        let kept = kept.as_ref().unwrap_or(&shown);
        let service = Setup::of(&registry)
            .certificate(registry.address, "ca.crt", &kept.pem())
            .start();
        let response = service.get("/hello/SHA256SUMS");
        assert_eq!(response.status, status, "{why}: {:?}", response.headers);
    }
}
