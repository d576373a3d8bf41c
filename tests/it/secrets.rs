//! No password and no token is ever in the log, however much is logged.

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use serde_json::json;

use crate::content::versions;
use crate::registry::{Fault, Guard, Registry, one_image};
use crate::service::{ANEW, Log, Service, Setup, eventually, later};
use crate::tls::Authority;
use crate::tokens::TokenServer;

const PASSWORD: &str = "pa55w0rd-0f-alice";
const LOGIN: &str = "alice:pa55w0rd-0f-alice";
const REFRESH: &str = "r3fresh-t0ken-0f-bob";
const RAW: &str = "r4w-registry-t0ken-0f-carol";
const SIGNATURE: &str = "s1gnature-0f-a-url";

/// As it may stand in a log: as it is, in base64 of any kind and offset, in hex, as a list of bytes.
fn spellings(secret: &str) -> Vec<String> {
    let bytes = secret.as_bytes();
    let hex = |separator: &str| {
        let digits: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        digits.join(separator)
    };
    let decimal: Vec<_> = bytes.iter().map(u8::to_string).collect();
    let length = bytes.len();
    let mut found = vec![
        secret.to_owned(),
        // A hex dump breaks its lines.
        secret[..length / 2].to_owned(),
        secret[length / 2..].to_owned(),
        hex(""),
        hex(" "),
        hex(":"),
        decimal.join(", "),
        BASE64_URL_SAFE_NO_PAD.encode(bytes),
    ];
    for before in 0..3 {
        let shifted = [&b"xx"[..before], bytes].concat();
        let encoded = BASE64_STANDARD_NO_PAD.encode(shifted);
        // The letters at both ends hold bits of the neighbours too.
        let start = if before == 0 { 0 } else { 4 };
        found.push(encoded[start..encoded.len() - 2].to_owned());
    }
    found
}

fn assert_silent(log: &Log, secrets: &[String]) {
    // The service writes lines as they come, so they may be late.
    eventually("something was logged that could hold a secret", || {
        !log.with(&["/v2/hello/manifests/"]).is_empty()
    });
    let lines: Vec<_> = log.lines().iter().map(|line| line.to_lowercase()).collect();
    for secret in secrets {
        for spelling in spellings(secret) {
            let spelling = spelling.to_lowercase();
            let found = lines.iter().find(|line| line.contains(&spelling));
            assert_eq!(found, None, "{spelling} of {secret} is in the log");
        }
    }
}

fn loud(setup: Setup) -> Service {
    setup
        .env("RUST_LOG", "trace")
        .env("RUST_BACKTRACE", "1")
        .start()
}

#[test]
fn a_secret_is_found_in_every_spelling() {
    let line = format!("Authorization: Basic {}", BASE64_STANDARD.encode(LOGIN));
    let found = |line: &str| spellings(PASSWORD).iter().any(|one| line.contains(one));
    assert!(found(&line) && found(LOGIN) && !found("nothing of it"));
    assert!(found(&BASE64_STANDARD.encode(format!("b:{PASSWORD}"))));
    assert!(found(&BASE64_STANDARD.encode(format!("{PASSWORD}\0"))));
}

#[test]
fn no_secret_is_in_the_log_of_a_whole_run() {
    let image = crate::content::noise(200_000);
    // Basic for one, tokens by GET, POST and refresh for others, a raw one, and a signed URL.
    let authority = Authority::new();
    let tokens = TokenServer::for_login(LOGIN);
    let posted = TokenServer::for_login(LOGIN);
    posted.set(|rules| rules.get = Some(405));
    let refreshed = TokenServer::start();
    refreshed.set(|rules| (rules.anonymous, rules.refresh) = (false, Some(REFRESH)));
    let store = one_image(&image);
    let guards = [
        Guard::basic(&[LOGIN]),
        tokens.guard(),
        posted.guard(),
        refreshed.guard(),
        Guard::new(|request| request.header("authorization") == Some(&format!("Bearer {RAW}")))
            .challenge("Basic"),
    ];
    let basic = json!({"auth": BASE64_STANDARD.encode(LOGIN)});
    let entries = [
        basic.clone(),
        basic.clone(),
        json!({"username": "alice", "password": PASSWORD}),
        json!({"identitytoken": REFRESH}),
        json!({"registrytoken": RAW}),
    ];
    let mut logs = Vec::new();
    for (guard, entry) in guards.into_iter().zip(entries) {
        for with_tls in [false, true] {
            let tls = with_tls.then(|| authority.server(&["127.0.0.1"]));
            let registry = Registry::on("127.0.0.1:0", tls);
            registry.change(|hello| hello.oras_push("v1", "hello.raw", &image));
            registry.guard(guard.clone());
            if !with_tls {
                let url = format!("http://{}/blobs/?sig={SIGNATURE}&path=", store.address);
                registry.fault("/blobs/", Fault::Redirect(url));
                store.fault("/blobs/?sig", Fault::Status(200));
                store.fault("/blobs/?sig", Fault::Body(image.clone()));
                store.fault_times(1, "/blobs/?sig", Fault::CutAfter(100_000));
            }
            let host = registry.address.to_string();
            let auth = json!({"auths": {&*host: &entry}}).to_string();
            let mut setup = Setup::new(registry.settings() + ANEW).auth(&auth);
            if with_tls {
                setup = setup.certificate(&host, "ca.crt", &authority.pem());
            }
            // A token server in the clear gets no password of a registry that is not.
            let trusted = [&tokens, &posted, &refreshed]
                .map(|server| format!("\"{}\"", server.address))
                .join(", ");
            setup = setup.settings(&format!("trusted-hosts = [{trusted}]\n"));
            let service = loud(setup);
            service.listing();
            let _ = service.get("/hello/hello-v1.raw");
            for server in [&tokens, &posted, &refreshed] {
                server.revoke();
            }
            later();
            service.listing();
            registry.guard(Guard::new(|_| false).challenge("Basic"));
            later();
            service.no_listing(403);
            logs.push(service.log.clone());
        }
    }
    let mut secrets: Vec<_> = [PASSWORD, LOGIN, REFRESH, RAW, SIGNATURE]
        .map(str::to_owned)
        .into();
    for server in [&tokens, &posted, &refreshed] {
        assert!(!server.take_asked().is_empty());
        secrets.extend(server.tokens());
    }
    for log in logs {
        assert_silent(&log, &secrets);
    }
}

#[test]
fn no_secret_is_in_the_log_of_a_run_that_fails() {
    let tokens = TokenServer::for_login("alice:another");
    for body in [
        None,
        Some(format!("{{\"token\":\"{RAW}\nx\"}}")),
        Some(RAW.to_owned()),
    ] {
        let registry = Registry::with_hello(versions(1).0);
        registry.guard(tokens.guard());
        tokens.set(|rules| rules.anonymous = body.is_some());
        tokens.set(|rules| rules.login = Some(if body.is_some() { LOGIN } else { "a:b" }));
        tokens.set(|rules| rules.body = body.clone());
        let service = loud(Setup::of(&registry).login(registry.address, LOGIN));
        assert_ne!(service.get("/hello/SHA256SUMS").status, 200);
        assert_silent(&service.log, &[PASSWORD.to_owned(), RAW.to_owned()]);
    }
}

#[test]
fn no_signature_of_a_url_is_in_the_log_or_the_answer_of_a_run_that_fails() {
    let header = |name, value: &str| Fault::Header(name, Some(value.to_owned()));
    let elsewhere = format!("http://elsewhere:99999/?sig={SIGNATURE}");
    let nowhere = format!("https://:1/?sig={SIGNATURE}");
    for (fault, why) in [
        (Fault::Endless("x"), "a body without an end"),
        (Fault::CutAfter(1), "a body that breaks off"),
        (header("Content-Encoding", "gzip"), "an encoded body"),
        (Fault::Body(b"<html>".to_vec()), "no JSON"),
        (Fault::Raw(b"nonsense".to_vec()), "no HTTP"),
        (Fault::Status(400), "a refusal"),
        (Fault::Status(404), "nothing there"),
        (Fault::Status(429), "a busy server"),
        (Fault::Status(500), "a failing server"),
        (
            Fault::Redirect(format!("?sig={SIGNATURE}&again=")),
            "redirects without an end",
        ),
        (
            Fault::Redirect(format!("ftp://h/?sig={SIGNATURE}&")),
            "no HTTP URL",
        ),
        (Fault::Redirect(elsewhere), "no port"),
        (Fault::Redirect(nowhere), "no host"),
    ] {
        let store = one_image(b"image");
        let registry = one_image(b"image");
        let url = format!("http://{}/store?sig={SIGNATURE}&path=", store.address);
        registry.fault("/tags/list", Fault::Redirect(url));
        store.fault("/store", Fault::Status(200));
        store.fault("/store", fault);
        let service = loud(Setup::of(&registry));
        let response = service.get("/hello/SHA256SUMS");
        let reason = response.header("x-reason").unwrap();
        assert_ne!(response.status, 200, "{why}");
        assert!(!reason.contains(SIGNATURE), "{why}: {reason}");
        service.log.with(&["error: GET /hello/SHA256SUMS"]);
        let lines = service.log.lines();
        let found = lines.iter().find(|line| line.contains(SIGNATURE));
        assert_eq!(found, None, "{why}");
    }
}

#[test]
fn no_mark_of_a_page_is_in_the_log_or_the_answer() {
    let registry = one_image(b"image");
    let link = format!("</v2/hello/tags/list?mark={SIGNATURE}>; rel=\"next\"");
    registry.fault("/tags/list", Fault::Header("Link", Some(link)));
    registry.fault("mark=", Fault::Body(b"<html>".to_vec()));
    let service = loud(Setup::of(&registry));
    let response = service.get("/hello/SHA256SUMS");
    let reason = response.header("x-reason").unwrap();
    assert!(!reason.contains(SIGNATURE), "{reason}");
    service.log.with(&["error: GET /hello/SHA256SUMS"]);
    let lines = service.log.lines();
    let found = lines.iter().find(|line| line.contains(SIGNATURE));
    assert_eq!(found, None);
}

/// As `user:password@` before a host, right or wrong.
#[test]
fn no_login_before_a_host_is_in_the_log_or_the_answer() {
    let tokens = TokenServer::start();
    let registry = one_image(b"image");
    let host = registry.address;
    let nobody = format!("http://alice:{PASSWORD}@{host}/elsewhere?sig={SIGNATURE}");
    let wrong = format!("ftp://alice:{PASSWORD}@{host}/x");
    let port = format!("http://alice:{PASSWORD}@{host}9/x");
    let realm = format!(
        "Bearer realm=\"http://alice:{PASSWORD}@{}/t\"",
        tokens.address
    );
    let odd_realm = format!("Bearer realm=\"ftp://alice:{PASSWORD}@h/t\"");
    let link = format!("<http://alice:{PASSWORD}@h/v2/x?last=1>; rel=\"next\"");
    for (pattern, fault) in [
        ("/blobs/", Fault::Location(nobody.clone())),
        ("/blobs/", Fault::Location(wrong)),
        ("/blobs/", Fault::Location(port)),
        (
            "/blobs/",
            Fault::Location(format!("//alice:{PASSWORD}@[::x]/")),
        ),
        ("/tags/list", Fault::Location(nobody)),
        ("/v2/", Fault::Guard(Guard::new(|_| false).challenge(realm))),
        (
            "/v2/",
            Fault::Guard(Guard::new(|_| false).challenge(odd_realm)),
        ),
        ("/tags/list", Fault::Header("Link", Some(link))),
    ] {
        registry.behave();
        registry.fault(pattern, fault.clone());
        let service = loud(Setup::of(&registry));
        for target in ["/hello/SHA256SUMS", "/hello/hello-v1.raw"] {
            let response = service.get(target);
            let reason = response.header("x-reason").unwrap_or_default();
            assert!(!reason.contains(PASSWORD), "{fault:?}: {reason}");
        }
        let lines = service.log.lines().join("\n");
        assert!(
            !lines.contains(PASSWORD) && !lines.contains(SIGNATURE),
            "{lines}"
        );
    }
    // The message quotes the wrong setting without its password.
    let url = format!("https://alice:{PASSWORD}@registry.example/a");
    let host = format!("alice:{PASSWORD}@registry.example");
    for settings in [
        format!("registry = \"{url}\"\n"),
        format!("registry = \"{host}\"\n"),
        format!("allow = [\"{host}/a\"]\n"),
        format!("trusted-hosts = [\"{url}\"]\n"),
        format!("parallel = \"{url}\"\n"),
        format!("[repository.a]\nsource = \"{url}\"\n"),
        format!("[repository.a]\nsource = [\"{host}/a\"]\n"),
        format!("[repository.a]\nsource = \"{host}\"\n"),
        format!("[repository.\"{host}/a\"]\n"),
        format!("\"{url}\" = 1\n"),
    ] {
        let said = Setup::new(settings.clone()).output().stderr;
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(
            said.contains("settings ") && !said.contains(PASSWORD),
            "{settings}: {said}"
        );
    }
    for conf in [
        format!("[[registry]]\nlocation = \"{host}\"\n"),
        format!("[[registry]]\nprefix = \"{host}\"\nlocation = \"a.example\"\n"),
        format!(
            "[[registry]]\nlocation = \"a.example\"\n[[registry.mirror]]\nlocation = \"{host}\"\n"
        ),
        format!(
            "[[registry]]\nlocation = \"a.example\"\n[[registry.mirror]]\nlocation = \"{url}\"\n"
        ),
        format!("credential-helpers = [\"{url}\"]\n"),
    ] {
        let said = Setup::new("").registries(&conf).output().stderr;
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(
            said.contains("settings ") && !said.contains(PASSWORD),
            "{conf}: {said}"
        );
    }
}
