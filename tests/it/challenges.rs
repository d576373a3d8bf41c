//! Challenges: what is sent to whom after which.
//!
//! A row (`a5`) is one of the ways in which registries differ.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::Connection;
use crate::content::{digest, versions};
use crate::registry::{
    Fault, Guard, LOGIN, Registry, asked_once_then_as, basic, count, guarded, logins_seen,
    requests_of_a_listing,
};
use crate::service::{ANEW, NO_LOGINS, Service, Setup, eventually, later};
use crate::tokens::TokenServer;

/// The end of a message about a missing login, after the places that were searched.
const MAKE_ONE: &str = " (`skopeo login --authfile` makes such a file)";

#[test]
fn row_a1_a_challenge_that_is_only_at_the_root_is_found_there() {
    let tokens = TokenServer::start();
    let registry = Registry::with_hello(versions(1).0);
    registry.fault("/v2/hello/", Fault::Guard(tokens.quiet_guard()));
    let at_root = Guard::new(|_| false).challenge(format!("Bearer realm=\"{}\"", tokens.realm()));
    registry.fault("/v2/$", Fault::Guard(at_root));
    let service = Service::of(&registry);
    assert_eq!(service.listing(), versions(1).1);
    assert_eq!(
        count(&registry.take_requests(), "GET /v2/$"),
        1,
        "the root is asked once"
    );
    assert_eq!(tokens.take_asked(), ["GET scope=repository:hello:pull"]);
}

#[test]
fn row_a2_the_answer_to_the_request_itself_says_whether_a_login_is_wanted() {
    let registry = Registry::with_hello(versions(1).0);
    registry.put("closed", versions(1).0);
    registry.fault("/v2/closed/", Fault::Guard(Guard::basic(&[LOGIN])));
    let challenge = Fault::header("WWW-Authenticate", "Basic realm=\"x\"");
    registry.fault("/v2/hello/", challenge);
    let service = Service::with_login(&registry, LOGIN);
    assert_eq!(service.listing(), versions(1).1);
    let open: Vec<_> = requests_of_a_listing()
        .iter()
        .map(|line| format!("{line} as nobody"))
        .collect();
    assert_eq!(
        logins_seen(&registry),
        open,
        "the root was not asked, nothing was sent"
    );
    assert_eq!(service.get("/closed/SHA256SUMS").status, 200);
}

#[test]
fn row_a3_basic_with_the_right_password() {
    let registry = guarded(Guard::basic(&[LOGIN]));
    let service = Service::with_login(&registry, LOGIN);
    assert_eq!(service.listing(), versions(1).1);
    assert_eq!(logins_seen(&registry), asked_once_then_as(&basic(LOGIN)));
}

#[test]
fn row_a3_basic_with_the_wrong_password() {
    let registry = guarded(Guard::basic(&[LOGIN]));
    let service = Service::with_login(&registry, "alice:wrong");
    let address = registry.address;
    assert_eq!(
        service.why_no_listing(403),
        format!(
            "registry {address}/hello refuses the login from {}, key \"{address}\" \
             (status 401, UNAUTHORIZED, as the test wants it); \
             is the password right, has it expired, may it read this?",
            service.auth_file()
        )
    );
    let first = &requests_of_a_listing()[0];
    assert_eq!(
        logins_seen(&registry),
        [
            format!("{first} as nobody"),
            format!("{first} as {}", basic("alice:wrong"))
        ],
        "a wrong password is sent once: some lock an account after a few"
    );
}

/// The state of a session that was refused must not make it worse.
#[test]
fn row_a3_a_wrong_password_is_sent_once_for_each_listing() {
    let registry = guarded(Guard::basic(&[LOGIN]));
    let service = Service::with_login(&registry, "alice:wrong");
    for listing in 1..=3 {
        service.no_listing(403);
        let sent = count(&logins_seen(&registry), &basic("alice:wrong"));
        assert_eq!(sent, 1, "listing {listing}");
    }
}

#[test]
fn row_a3_basic_without_a_password() {
    let registry = guarded(Guard::basic(&[LOGIN]));
    let service = Service::of(&registry);
    assert_eq!(
        service.why_no_listing(403),
        format!(
            "registry wants a login for {}/hello; there is none for it in {NO_LOGINS}{MAKE_ONE}",
            registry.address
        )
    );
}

#[test]
fn row_a4_of_several_challenges_in_any_order_bearer_is_met() {
    let tokens = TokenServer::for_login(LOGIN);
    let bearer = tokens.challenge();
    let unquoted = bearer.replace('"', "").replace("Bearer", "bEARER");
    for challenges in [
        vec!["Negotiate", "Basic realm=\"x\"", &bearer],
        vec![&format!(
            "Digest realm=\"a, b\", nonce=\"c\", {bearer}, Basic"
        )],
        vec![&unquoted],
    ] {
        let registry = guarded(tokens.quiet_guard().challenges(&challenges));
        let service = Service::with_login(&registry, LOGIN);
        assert_eq!(service.listing(), versions(1).1, "{challenges:?}");
        let basics = logins_seen(&registry);
        assert!(
            !basics.iter().any(|line| line.contains("Basic")),
            "{challenges:?}: {basics:?}"
        );
    }
}

#[test]
fn row_a4_of_challenges_that_nobody_speaks_none_is_met() {
    let challenges = ["Negotiate", "Digest realm=\"x\"", "", "Bearer realm=\""];
    let registry = guarded(Guard::new(|_| false).challenges(&challenges));
    let service = Service::with_login(&registry, LOGIN);
    assert_eq!(
        service.why_no_listing(403),
        format!(
            "registry wants a login for {}/hello, it offers no supported authentication scheme, expected Basic or Bearer; \
             there is none for it in {}{MAKE_ONE}",
            registry.address,
            service.auth_file()
        )
    );
}

/// Harbor does this: who has a token, but one that is too narrow, is asked for a password.
#[test]
fn row_a5_a_token_too_narrow_is_dropped_when_basic_is_asked_for() {
    let tokens = TokenServer::for_login(LOGIN);
    let registry = Registry::with_hello(versions(1).0);
    let bare = Guard::new(|request| request.header("authorization").is_some())
        .challenge(tokens.challenge());
    registry.guard(bare);
    let narrow = tokens.quiet_guard().challenge("Basic realm=\"harbor\"");
    registry.guard(narrow);
    let service = Setup::new(registry.settings() + ANEW)
        .login(registry.address, LOGIN)
        .start();
    assert_eq!(service.listing(), versions(1).1);
    tokens.revoke();
    later();
    assert_eq!(service.listing(), versions(1).1);
    assert_eq!(tokens.take_asked().len(), 2);
    let seen = logins_seen(&registry);
    assert!(
        !seen.iter().any(|line| line.contains("Basic")),
        "the password stays with the token server: {seen:?}"
    );
}

#[test]
fn row_a6_the_scope_is_the_challenges_or_else_to_pull() {
    for (scope, asked) in [
        (",scope=\"*\"", "GET scope=* service=odd"),
        (",scope=\"aws\"", "GET scope=aws service=odd"),
        (
            ",scope=\"repository:hello:pull,push\"",
            "GET scope=repository:hello:pull,push service=odd",
        ),
        (",scope=\"\"", "GET scope=repository:hello:pull service=odd"),
        ("", "GET scope=repository:hello:pull service=odd"),
    ] {
        let tokens = TokenServer::start();
        let challenge = format!("Bearer realm=\"{}\",service=\"odd\"{scope}", tokens.realm());
        let registry = guarded(tokens.quiet_guard().challenge(challenge));
        let service = Service::of(&registry);
        assert_eq!(service.listing(), versions(1).1, "{scope}");
        assert_eq!(tokens.take_asked(), [asked], "{scope}");
    }
}

#[test]
fn row_a7_each_repository_has_a_token_of_its_own() {
    let tokens = TokenServer::start();
    let registry = guarded(tokens.guard());
    registry.put("own/other", versions(1).0);
    let service = Service::start(registry.settings() + ANEW);
    for _ in 0..2 {
        assert_eq!(service.get("/hello/SHA256SUMS").status, 200);
        assert_eq!(service.get("/own/other/SHA256SUMS").status, 200);
        later();
    }
    assert_eq!(
        tokens.take_asked(),
        [
            "GET scope=repository:hello:pull service=registry",
            "GET scope=repository:own/other:pull service=registry",
        ]
    );
}

#[test]
fn row_a7_two_repositories_with_one_wide_scope_share_a_token() {
    let tokens = TokenServer::start();
    let wide = format!("Bearer realm=\"{}\",scope=\"*\"", tokens.realm());
    let registry = guarded(tokens.quiet_guard().challenge(wide));
    registry.put("other", versions(1).0);
    let service = Service::of(&registry);
    for name in ["hello", "other"] {
        assert_eq!(service.get(&format!("/{name}/SHA256SUMS")).status, 200);
    }
    assert_eq!(tokens.take_asked(), ["GET scope=*"]);
}

#[test]
fn row_a8_a_token_has_either_name_or_both() {
    for fields in [
        &["token"][..],
        &["access_token"],
        &["access_token", "token"],
    ] {
        let tokens = TokenServer::start();
        tokens.set(|rules| rules.fields = fields);
        let registry = guarded(tokens.guard());
        let service = Service::of(&registry);
        assert_eq!(service.listing(), versions(1).1, "{fields:?}");
    }
}

#[test]
fn row_a8_a_token_server_without_a_token_is_a_bad_gateway() {
    let endless = format!("{{\"token\":\"{}\"}}", "x".repeat(70_000));
    for body in ["{}", r#"{"token":""}"#, "<html>", "", &endless] {
        let tokens = TokenServer::start();
        tokens.set(|rules| rules.body = Some(body.to_owned()));
        let registry = guarded(tokens.guard());
        let service = Service::of(&registry);
        let response = service.get("/hello/SHA256SUMS");
        assert_eq!(
            (response.status, response.body.len()),
            (502, 0),
            "{body:.20}"
        );
        let reason = response.header("x-reason").unwrap();
        assert!(reason.contains(&tokens.realm()), "{body:.20}: {reason}");
        assert!(tokens.take_asked().len() <= 2, "{body:.20}");
    }
}

#[test]
fn row_a9_a_token_is_used_for_a_while_though_it_says_otherwise() {
    for expires_in in [None, Some(0), Some(1), Some(u64::MAX)] {
        let tokens = TokenServer::start();
        tokens.set(|rules| rules.expires_in = expires_in);
        let registry = guarded(tokens.guard());
        let service = Service::start(registry.settings() + ANEW);
        for _ in 0..2 {
            assert_eq!(service.listing(), versions(1).1, "{expires_in:?}");
            later();
        }
        assert_eq!(tokens.take_asked().len(), 1, "{expires_in:?}");
    }
}

#[test]
fn row_a10_a_token_that_dies_in_a_long_pull_is_renewed() {
    let (registry, listing) = Registry::with_versions(9);
    let tokens = TokenServer::start();
    tokens.set(|rules| rules.uses = 4);
    registry.guard(tokens.guard());
    let service = Service::start(format!("{}parallel = 1\n", registry.settings()));
    assert_eq!(service.listing(), listing);
    // Is it signed, a list and nine manifests: four for each token; and each token begins with a refusal.
    assert_eq!(tokens.take_asked().len(), 3);
    assert_eq!(registry.take_requests().len(), 11 + 3);
}

#[test]
fn row_a10_a_second_refusal_is_final() {
    let tokens = TokenServer::start();
    let registry = guarded(Guard::new(|_| false).challenge(tokens.challenge()));
    let service = Service::of(&registry);
    assert_eq!(
        service.why_no_listing(403),
        format!(
            "registry wants a login for {}/hello, UNAUTHORIZED, as the test wants it; \
             there is none for it in {NO_LOGINS}{MAKE_ONE}",
            registry.address
        )
    );
    assert_eq!(tokens.take_asked().len(), 1);
    assert_eq!(registry.take_requests().len(), 2);
}

#[test]
fn row_a11_a_token_server_that_knows_only_post_gets_a_post() {
    for status in [404, 405] {
        let tokens = TokenServer::for_login(LOGIN);
        tokens.set(|rules| rules.get = Some(status));
        let registry = guarded(tokens.guard());
        let service = Service::with_login(&registry, LOGIN);
        assert_eq!(service.listing(), versions(1).1, "{status}");
        let get = format!(
            "GET scope=repository:hello:pull service=registry {}",
            basic(LOGIN)
        );
        let post = "POST client_id=sysext-oci-proxy grant_type=password password=s3cret \
                    scope=repository:hello:pull service=registry username=alice";
        assert_eq!(tokens.take_asked(), [&get, post], "{status}");
    }
}

#[test]
fn row_a11_a_token_server_that_knows_no_post_gets_none_for_a_password() {
    for status in [404, 401, 400, 405] {
        let tokens = TokenServer::for_login(LOGIN);
        tokens.set(|rules| rules.post = Some(status));
        let registry = guarded(tokens.guard());
        let service = Service::with_login(&registry, LOGIN);
        assert_eq!(service.listing(), versions(1).1, "{status}");
        assert_eq!(tokens.take_asked().len(), 1, "{status}");
    }
}

#[test]
fn row_a12_an_identity_token_is_exchanged_and_not_sent_to_the_registry() {
    let tokens = TokenServer::start();
    tokens.set(|rules| (rules.anonymous, rules.refresh) = (false, Some("r3fresh")));
    let registry = guarded(tokens.guard());
    let host = registry.address.to_string();
    let auth = json!({"auths": {host: {"identitytoken": "r3fresh"}}}).to_string();
    let service = Setup::of(&registry).auth(&auth).start();
    assert_eq!(service.listing(), versions(1).1);
    assert_eq!(
        tokens.take_asked(),
        [
            "POST client_id=sysext-oci-proxy grant_type=refresh_token refresh_token=r3fresh \
             scope=repository:hello:pull service=registry"
        ]
    );
    let token = &tokens.tokens()[0];
    assert_eq!(
        logins_seen(&registry),
        asked_once_then_as(&format!("Bearer {token}"))
    );
}

#[test]
fn row_a13_a_personal_access_token_is_exchanged() {
    let tokens = TokenServer::for_login(LOGIN);
    let registry = guarded(tokens.guard());
    let service = Service::with_login(&registry, LOGIN);
    assert_eq!(service.listing(), versions(1).1);
    let asked = format!(
        "GET scope=repository:hello:pull service=registry {}",
        basic(LOGIN)
    );
    assert_eq!(tokens.take_asked(), [asked]);
    let token = &tokens.tokens()[0];
    assert_eq!(
        logins_seen(&registry),
        asked_once_then_as(&format!("Bearer {token}"))
    );
}

#[test]
fn row_a13_a_registry_token_is_sent_as_it_is() {
    let tokens = TokenServer::start();
    let guard = Guard::new(|request| request.header("authorization") == Some("Bearer r4w"));
    let registry = guarded(guard.challenge(tokens.challenge()));
    let host = registry.address.to_string();
    let auth = json!({"auths": {host: {"registrytoken": "r4w"}}}).to_string();
    let service = Setup::of(&registry).auth(&auth).start();
    assert_eq!(service.listing(), versions(1).1);
    assert_eq!(logins_seen(&registry), asked_once_then_as("Bearer r4w"));
    assert_eq!(tokens.take_asked(), [""; 0]);
}

#[test]
fn row_a14_a_token_server_that_gives_strangers_none_is_named_and_left() {
    for status in [401, 403] {
        let tokens = TokenServer::for_login(LOGIN);
        tokens.set(|rules| rules.refusal = status);
        let registry = guarded(tokens.guard());
        let service = Service::of(&registry);
        assert_eq!(
            service.why_no_listing(403),
            format!(
                "registry wants a login for {}/hello, its token server gives no token without a login \
                 (status {status}); there is none for it in {NO_LOGINS}{MAKE_ONE}",
                registry.address
            )
        );
        assert_eq!(tokens.take_asked().len(), 1, "it was asked again");
    }
}

#[test]
fn row_a14_a_token_server_that_refuses_a_password_is_named_and_left() {
    for status in [400, 401, 403] {
        let tokens = TokenServer::for_login(LOGIN);
        tokens.set(|rules| rules.refusal = status);
        let registry = guarded(tokens.guard());
        let service = Service::with_login(&registry, "alice:wrong");
        let address = registry.address;
        assert_eq!(
            service.why_no_listing(403),
            format!(
                "registry {address}/hello refuses the login from {}, key \"{address}\" \
                 (status {status}, DENIED, requested access is denied); \
                 is the password right, has it expired, may it read this?",
                service.auth_file()
            )
        );
        assert_eq!(tokens.take_asked().len(), 1, "it was asked again");
    }
}

/// ECR Public does this.
#[test]
fn row_a15_an_old_token_that_earns_a_400_is_renewed_once() {
    let tokens = TokenServer::start();
    let registry = Registry::with_hello(versions(1).0);
    let bare = Guard::new(|request| request.header("authorization").is_some())
        .challenge(tokens.challenge());
    registry.guard(bare);
    registry.guard(tokens.quiet_guard().status(400));
    let service = Service::start(registry.settings() + ANEW);
    assert_eq!(service.listing(), versions(1).1);
    tokens.revoke();
    later();
    assert_eq!(service.listing(), versions(1).1);
    assert_eq!(tokens.take_asked().len(), 2);
    // One that is always refused does not go on for ever: it is renewed once for each of three requests,
    // whether it is signed, and for the tags with n and without.
    registry.take_requests();
    registry.fault("/v2/", Fault::Status(400));
    later();
    service.no_listing(502);
    assert_eq!(
        (tokens.take_asked().len(), registry.take_requests().len()),
        (3, 9)
    );
}

#[test]
fn row_a15_a_blob_is_never_asked_for_by_head() {
    let registry = Registry::with_hello(versions(1).0);
    registry.fault("HEAD /v2/hello/blobs/", Fault::Status(401));
    let service = Service::of(&registry);
    assert_eq!(service.get("/hello/hello-v0.raw").body, b"image 0");
    let head = service.request("HEAD", "/hello/hello-v0.raw", &[]);
    assert_eq!(head.status, 200);
    assert_eq!(count(&registry.take_requests(), "HEAD /v2/hello/blobs/"), 0);
}

#[test]
fn row_a16_missing_and_denied_are_told_apart() {
    for (upstream, status, reason) in [
        (
            403,
            403,
            "registry denies access (status 403, DENIED, as the test wants it) to",
        ),
        (404, 404, "registry has no"),
    ] {
        let registry = Registry::with_hello(versions(1).0);
        registry.fault("/tags/list", Fault::Status(upstream));
        let service = Service::of(&registry);
        let response = service.no_listing(status);
        let url = format!("http://{}/v2/hello/tags/list", registry.address);
        let found = response.header("x-reason").unwrap();
        assert_eq!(found.split('?').next().unwrap(), format!("{reason} {url}"));
    }
}

#[test]
fn row_a16_a_head_that_is_denied_is_asked_for_its_reason_once() {
    let registry = Registry::with_hello(versions(1).0);
    let service = Setup::new(registry.settings() + ANEW).own_cache().start();
    assert_eq!(service.listing(), versions(1).1);
    registry.take_requests();
    registry.fault("/manifests/", Fault::Status(403));
    later();
    let response = service.no_listing(403);
    assert_eq!(
        response.header("x-reason").unwrap(),
        format!(
            "registry denies access (status 403, DENIED, as the test wants it) \
             to http://{}/v2/hello/manifests/v0",
            registry.address
        )
    );
    let requests = registry.take_requests();
    assert_eq!(count(&requests, "HEAD /v2/hello/manifests/v0"), 1);
    assert_eq!(count(&requests, "GET /v2/hello/manifests/v0"), 1);
}

#[test]
fn row_a17_a_realm_at_an_address_that_is_not_the_registrys_is_not_asked() {
    for (realm, host, why) in [
        (
            "http://169.254.169.254/latest/",
            "169.254.169.254",
            "it is an address other than the registry's",
        ),
        (
            "http://192.0.2.1:1/token",
            "192.0.2.1:1",
            "it is an address other than the registry's",
        ),
        (
            "https://evil.example/token",
            "evil.example",
            "it is in another domain, and the password would be sent to it",
        ),
    ] {
        let challenge = format!("Bearer realm=\"{realm}\",service=\"registry\"");
        let registry = guarded(Guard::new(|_| false).challenge(challenge));
        let service = Service::with_login(&registry, LOGIN);
        assert_eq!(
            service.why_no_listing(403),
            format!(
                "registry {} names the token server {host}, to which no login is sent: {why}; \
                 to allow it, add it to 'trusted-hosts' in /etc/sysext-oci-proxy/config.toml",
                registry.address
            )
        );
    }
}

#[test]
fn row_a17_a_relative_realm_is_at_the_registry() {
    let registry = guarded(
        Guard::new(|request| request.header("authorization") == Some("Bearer here"))
            .challenge("Bearer realm=\"/token\",service=\"registry\""),
    );
    registry.fault("GET /token", Fault::Status(200));
    registry.fault("GET /token", Fault::Body(br#"{"token":"here"}"#.to_vec()));
    let service = Service::with_login(&registry, LOGIN);
    assert_eq!(service.listing(), versions(1).1);
    let mut expected = asked_once_then_as("Bearer here");
    expected.insert(
        1,
        format!(
            "GET /token?service=registry&scope=repository%3Ahello%3Apull as {}",
            basic(LOGIN)
        ),
    );
    assert_eq!(logins_seen(&registry), expected);
}

#[test]
fn a_realm_that_is_nowhere_is_a_bad_gateway() {
    for realm in [
        "ftp://127.0.0.1/token",
        "http://",
        "http://127.0.0.1:1/token",
    ] {
        let challenge = format!("Bearer realm=\"{realm}\"");
        let registry = guarded(Guard::new(|_| false).challenge(challenge));
        let service = Service::of(&registry);
        let response = service.get("/hello/SHA256SUMS");
        assert_eq!((response.status, response.body.len()), (502, 0), "{realm}");
    }
}

#[test]
fn a_login_costs_a_listing_two_requests_and_no_connection() {
    const TAGS: usize = 60;
    let cost = |tokens: Option<&TokenServer>| {
        let (registry, listing) = Registry::with_versions(TAGS);
        if let Some(tokens) = tokens {
            registry.guard(tokens.guard());
        }
        let service = Setup::new(registry.settings() + "parallel = 6\n")
            .login(registry.address, LOGIN)
            .start();
        assert_eq!(service.listing(), listing);
        let connections = registry.connections();
        assert!(connections <= 7, "{connections} connections");
        registry.take_requests().len()
    };
    let tokens = TokenServer::for_login(LOGIN);
    let (without, with) = (cost(None), cost(Some(&tokens)));
    let asked = tokens.take_asked().len();
    assert_eq!((without, with, asked), (2 + TAGS, 3 + TAGS, 1));
}

#[test]
fn a_token_that_was_refused_when_it_was_new_is_not_used_again() {
    let tokens = TokenServer::start();
    let registry = guarded(tokens.guard());
    let service = Service::start(registry.settings() + ANEW);
    // Given before the registry has heard of the right to it.
    tokens.set(|rules| rules.uses = 0);
    assert_eq!(service.get("/hello/SHA256SUMS").status, 403);
    tokens.set(|rules| rules.uses = usize::MAX);
    later();
    assert_eq!(service.listing(), versions(1).1);
}

#[test]
fn a_token_got_for_a_password_does_not_cross_a_network_in_the_clear() {
    let tokens = TokenServer::for_login(LOGIN);
    let registry = guarded(tokens.guard());
    // Nothing but an address of loopback counts as this machine.
    let host = format!("0.0.0.0:{}", registry.address.port());
    let more = format!(
        "registry = \"{host}\"\ntrusted-hosts = [\"{}\"]\n",
        tokens.address
    );
    let conf = format!("[[registry]]\nlocation = \"{host}\"\ninsecure = true\n");
    let setup = || Setup::new(more.clone()).registries(&conf);
    let service = setup().logins(&[(&host, LOGIN)]).start();
    let response = service.get("/hello/SHA256SUMS");
    let reason = response.header("x-reason").unwrap();
    assert_eq!(response.status, 403, "{reason}");
    assert!(
        reason.contains("a login is not sent over plain HTTP"),
        "{reason}"
    );
    assert_eq!(tokens.take_asked(), [""; 0]);
    // A repository that anyone may read is not secret.
    tokens.set(|rules| rules.anonymous = true);
    assert_eq!(setup().start().listing(), versions(1).1);
}

#[test]
fn a_token_that_is_too_long_for_a_request_is_refused_in_words() {
    let tokens = TokenServer::start();
    let registry = guarded(tokens.guard());
    let token = "t".repeat(20 << 10);
    tokens.set(|rules| rules.body = Some(json!({"token": token}).to_string()));
    let service = Service::of(&registry);
    let response = service.get("/hello/SHA256SUMS");
    assert_eq!(
        (response.status, response.header("x-reason")),
        (
            502,
            Some(&*format!(
                "unexpected answer from {}: a token of 20480 bytes, expected 16000 at most",
                tokens.realm()
            ))
        )
    );
    assert_eq!(tokens.take_asked().len(), 1);
    // The longest one that is accepted does fit.
    let registry = guarded(
        Guard::new(|request| request.header("authorization").is_some())
            .challenge(tokens.challenge()),
    );
    let token = "t".repeat(16_000);
    tokens.set(|rules| rules.body = Some(json!({"token": token}).to_string()));
    let service = Service::of(&registry);
    assert_eq!(service.listing(), versions(1).1);
}

#[test]
fn who_waits_for_a_login_that_fails_need_not_try_it_too() {
    let tokens = TokenServer::for_login(LOGIN);
    let registry = guarded(tokens.guard());
    tokens.set(|rules| rules.delay = Duration::from_millis(500));
    let service = Service::with_login(&registry, "alice:wrong");
    // Directories of their own, so it is not one listing that they share.
    let begin = Instant::now();
    thread::scope(|scope| {
        for n in 0..8 {
            let ask = format!("/hello:v{n}/SHA256SUMS");
            let service = &service;
            scope.spawn(move || assert_eq!(service.get(&ask).status, 403));
        }
    });
    let asked = tokens.take_asked().len();
    assert!((1..=3).contains(&asked), "{asked} times");
    assert!(begin.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_login_that_a_client_did_not_wait_for_is_made_for_the_next_one() {
    let tokens = TokenServer::for_login(LOGIN);
    let (registry, _) = Registry::with_versions(2);
    registry.guard(tokens.guard());
    let service = Service::with_login(&registry, LOGIN);
    service.listing();
    tokens.revoke();
    tokens.take_asked();
    tokens.set(|rules| rules.delay = Duration::from_secs(1));
    let [mut first, mut second] = [(); 2].map(|()| Connection::open(service.address));
    first.ask("/hello/hello-v0.raw");
    eventually("the token server is asked", || {
        !tokens.take_asked().is_empty()
    });
    second.ask("/hello/hello-v1.raw");
    // It is refused, and waits for the login of the first one.
    thread::sleep(Duration::from_millis(300));
    drop(first);
    let response = second.receive("GET").unwrap();
    assert_eq!((response.status, response.text()), (200, "image 1"));
    assert_eq!(service.log.trouble_so_far(), [""; 0]);
}

#[test]
fn a_login_that_failed_is_tried_by_who_is_refused_after_that() {
    let tokens = TokenServer::for_login(LOGIN);
    let (registry, _) = Registry::with_versions(2);
    let (knows, late) = (tokens.clone(), digest(b"image 1"));
    let guard = Guard::new(move |request| {
        let sent = request.header("authorization").unwrap_or_default();
        let is_good = knows.tokens().iter().any(|token| sent.ends_with(token));
        if !is_good && request.target.contains(&late) {
            thread::sleep(Duration::from_secs(2));
        }
        is_good
    });
    registry.guard(guard.challenge(tokens.challenge()));
    let service = Service::with_login(&registry, LOGIN);
    service.listing();
    registry.take_requests();
    tokens.revoke();
    tokens.set(|rules| rules.get = Some(500));
    let mut second = Connection::open(service.address);
    second.ask("/hello/hello-v1.raw");
    eventually("it is on its way", || {
        count(&registry.take_requests(), "/blobs/") > 0
    });
    assert_eq!(service.get("/hello/hello-v0.raw").status, 502);
    tokens.set(|rules| rules.get = None);
    let response = second.receive("GET").unwrap();
    assert_eq!((response.status, response.text()), (200, "image 1"));
}

#[test]
fn tokens_for_any_number_of_repositories_take_little_memory() {
    let tokens = TokenServer::start();
    let body = json!({"token": "t".repeat(15_000), "expires_in": 86_400}).to_string();
    tokens.set(|rules| rules.body = Some(body));
    let registry = Registry::start();
    let guard = Guard::new(|request| request.header("authorization").is_some());
    registry.guard(guard.challenge(tokens.challenge()));
    let service = Service::of(&registry);
    let ask = |names: std::ops::Range<usize>| {
        for n in names {
            let response = service.get(&format!("/made-up-{n}/SHA256SUMS"));
            assert_eq!(response.status, 404, "{:?}", response.headers);
        }
        service.own_memory()
    };
    let before = ask(0..300);
    let after = ask(300..1300);
    // A thousand tokens are 15 MB.
    assert!(after < before + (6 << 10), "{before} KiB, then {after} KiB");
}

/// A vanity name whose whole API redirects to another registry, which gives strangers a token.
#[test]
fn row_b4_the_challenge_of_another_registry_is_met_as_a_stranger() {
    let tokens = TokenServer::start();
    let front = Registry::start();
    for has_login in [false, true] {
        let behind = Registry::on("127.0.0.2:0", None);
        behind.put("hello", versions(3).0);
        behind.guard(
            Guard::new(|request| request.header("authorization").is_some()).challenge(format!(
                "Bearer realm=\"{}\",service=\"x\",scope=\"repository:hello:pull\"",
                tokens.realm()
            )),
        );
        front.behave();
        if has_login {
            front.guard(Guard::basic(&[LOGIN]));
        }
        front.fault("/v2/", Fault::Redirect(behind.origin()));
        let trusted = format!("trusted-hosts = [\"{}\"]\n", tokens.address);
        let logins = [
            (front.address.to_string(), LOGIN),
            (behind.address.to_string(), "bob:other"),
        ];
        let logins: Vec<_> = logins
            .iter()
            .map(|(host, login)| (host.as_str(), *login))
            .collect();
        let service = Setup::of(&front).settings(&trusted).logins(&logins).start();
        assert_eq!(service.listing(), versions(3).1);
        assert_eq!(service.whole("/hello/hello-v0.raw"), b"image 0");
        let asked = tokens.take_asked();
        assert_eq!(asked, ["GET scope=repository:hello:pull service=x"]);
        let seen = logins_seen(&behind);
        assert!(
            seen.iter().all(|line| !line.contains(" as Basic")),
            "{seen:?}"
        );
        // Once known, the token goes along at once.
        let refused = count(&seen, "as nobody$");
        assert!(refused < seen.len() - refused, "{seen:?}");
    }
}

#[test]
fn row_b4_another_registry_that_gives_strangers_nothing_denies_access() {
    let tokens = TokenServer::for_login(LOGIN);
    let (front, behind) = (Registry::start(), Registry::with_hello(versions(1).0));
    behind.guard(tokens.guard());
    front.fault("/v2/", Fault::Redirect(behind.origin()));
    let service = Setup::of(&front)
        .logins(&[
            (&front.address.to_string(), LOGIN),
            (&behind.address.to_string(), LOGIN),
        ])
        .start();
    let reason = service.why_no_listing(403);
    let expected = format!(
        "registry denies access (status 401, UNAUTHORIZED, as the test wants it) to {}/",
        behind.origin()
    );
    assert!(reason.starts_with(&expected), "{reason}");
}

/// Servers written by hand write it so.
#[test]
fn row_a9_the_life_of_a_token_may_be_written_in_any_way() {
    for life in ["300", "\"300\"", "300.0", "-1", "null", "{}", "1893456000"] {
        let tokens = TokenServer::start();
        let body = format!("{{\"token\":\"t\",\"expires_in\":{life}}}");
        tokens.set(|rules| rules.body = Some(body));
        let registry = Registry::with_hello(versions(1).0);
        let guard = Guard::new(|request| request.header("authorization") == Some("Bearer t"));
        registry.guard(guard.challenge(tokens.challenge()));
        let service = Service::of(&registry);
        assert_eq!(service.listing(), versions(1).1, "{life}");
        assert_eq!(tokens.take_asked().len(), 1, "{life}");
    }
}
