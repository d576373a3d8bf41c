//! Signatures without a key: who logged in to sign, by the services in a trusted root, and certificates of an authority.

use std::fs;

use jiff::Timestamp;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType, SigningKey as _,
};
use serde_json::{Value, json};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::content::{Repository, empty_listing, line};
use crate::cosign::{Form, Key, SIGN, attach_annotated, attach_bundle, payload};
use crate::registry::Registry;
use crate::service::{ANEW, Folder, Setup};
use crate::sigstore::{ISSUER, SUBJECT, Signing, Sigstore};
use crate::trust::{assert_refused, digest, image, name, with_policy};

/// A service that wants signatures of `hello` by these entries of `verify`, and trusts these services.
fn trusting(registry: &Registry, sigstore: &Sigstore, entries: &str) -> Setup {
    let setup = Setup::of(registry).settings(ANEW);
    let file = setup.folder().join("trusted_root.json");
    fs::write(&file, sigstore.trusted_root(None).to_string()).unwrap();
    setup.settings(&format!(
        "[repository.hello]\ntrusted-root = {file:?}\nverify = [{entries}]\n"
    ))
}

fn keyless(subject: &str) -> String {
    format!("{{ keyless = {{ issuer = {ISSUER:?}, {subject} }} }}")
}

fn exact() -> String {
    keyless(&format!("subject = {SUBJECT:?}"))
}

/// Puts `hello:v1` into the registry, with what this attaches to it. Its manifest.
fn publish(registry: &Registry, attach: impl FnOnce(&mut Repository, &Value)) -> Value {
    let mut hello = Repository::default();
    let manifest = image(&mut hello);
    attach(&mut hello, &manifest);
    registry.put("hello", hello);
    manifest
}

#[test]
fn who_logged_in_to_sign_is_accepted_and_told() {
    let sigstore = Sigstore::new();
    let person = Signing {
        subject: "releases@example.com",
        ..Signing::default()
    };
    for (signing, rule, is_legacy) in [
        (Signing::default(), exact(), false),
        (Signing::default(), exact(), true),
        (
            person,
            keyless(r#"subject = "releases@example.com""#),
            false,
        ),
        (
            Signing::default(),
            keyless(r"subject-regex = 'https://github\.com/acme/.*@refs/tags/v[0-9]+'"),
            false,
        ),
    ] {
        let registry = Registry::start();
        publish(&registry, |hello, manifest| {
            if is_legacy {
                let payload = payload(&name(&registry), digest(manifest));
                let annotations = sigstore.legacy(&signing, &payload);
                attach_annotated(hello, Form::SigTag, manifest, &payload, annotations);
            } else {
                let bundle = sigstore.bundle(&signing, digest(manifest), SIGN);
                attach_bundle(hello, manifest, &bundle.to_string());
            }
        });
        let service = trusting(&registry, &sigstore, &rule).start();
        assert_eq!(service.listing(), line(b"image", "hello-v1.raw"), "{rule}");
        let json = service.request("GET", "/hello/", &["Accept: application/json"]);
        let json: Value = serde_json::from_slice(&json.body).unwrap();
        let form = if is_legacy { ".sig tag" } else { "bundle" };
        let told = format!("{} (keyless, issuer {ISSUER}) ({form})", signing.subject);
        assert_eq!(json["files"][0]["verified_by"], told);
        assert_eq!(service.whole("/hello/hello-v1.raw"), b"image");
        let logged = service.log.with(&[&format!("verified by digest, {told}")]);
        assert_eq!(logged.len(), 1, "{:?}", service.log.lines());
    }
}

#[test]
fn what_does_not_prove_the_signer_is_offered_nowhere() {
    type Change = fn(&mut Value);
    let as_it_is: Change = |_| {};
    let usual = Signing::default();
    let other_subject = Signing {
        subject: "https://github.com/evil/k8s/.github/workflows/release.yml@refs/tags/v1",
        ..usual
    };
    let other_issuer = Signing {
        issuer: "https://accounts.example.com",
        ..usual
    };
    let rows: [(&str, Signing, String, Change, &str); 17] = [
        (
            "another identity",
            other_subject,
            exact(),
            as_it_is,
            "it is signed by https://github.com/evil/k8s/",
        ),
        (
            "another issuer",
            other_issuer,
            exact(),
            as_it_is,
            "(issuer https://accounts.example.com), expected https://github.com/acme/",
        ),
        (
            "a pattern of the beginning",
            usual,
            keyless(r"subject-regex = 'https://github\.com/acme/'"),
            as_it_is,
            "expected /https://github",
        ),
        (
            "a pattern of the end",
            usual,
            keyless("subject-regex = 'refs/tags/v1'"),
            as_it_is,
            "expected /refs/tags/v1/",
        ),
        (
            "a pattern whose first choice is the beginning",
            usual,
            keyless("subject-regex = 'https://|nobody'"),
            as_it_is,
            "expected /https://|nobody/",
        ),
        (
            "no promise of the log, and no other time",
            usual,
            exact(),
            |bundle| drop(entry(bundle).remove("inclusionPromise")),
            "no verified timestamp",
        ),
        (
            "a promise of another time",
            usual,
            exact(),
            |bundle| {
                let time: i64 = entry(bundle)["integratedTime"]
                    .as_str()
                    .unwrap()
                    .parse()
                    .unwrap();
                entry(bundle)["integratedTime"] = json!((time - 1).to_string());
            },
            "invalid inclusion promise",
        ),
        (
            "no proof that the log has it",
            usual,
            exact(),
            |bundle| drop(entry(bundle).remove("inclusionProof")),
            "inclusion proof",
        ),
        (
            "a checkpoint of nobody",
            usual,
            exact(),
            |bundle| {
                let checkpoint = &mut entry(bundle)["inclusionProof"]["checkpoint"]["envelope"];
                let text = checkpoint
                    .as_str()
                    .unwrap()
                    .replace("rekor.example.com - 1", "rekor.example.com - 2");
                *checkpoint = json!(text);
            },
            "checkpoint",
        ),
        (
            "no entry in a log",
            usual,
            exact(),
            |bundle| bundle["verificationMaterial"]["tlogEntries"] = json!([]),
            "inclusion proof",
        ),
        (
            "many entries in logs",
            usual,
            exact(),
            |bundle| {
                let one = bundle["verificationMaterial"]["tlogEntries"][0].clone();
                bundle["verificationMaterial"]["tlogEntries"] = json!(vec![one; 9]);
            },
            "it has 9 entries of logs, at most 8 are verified",
        ),
        (
            "a certificate that was changed",
            usual,
            exact(),
            |bundle| {
                let bytes = &mut bundle["verificationMaterial"]["certificate"]["rawBytes"];
                let mut der = BASE64_STANDARD.decode(bytes.as_str().unwrap()).unwrap();
                let at = der.windows(4).position(|word| word == b"acme").unwrap();
                der[at] = b'e';
                *bytes = json!(BASE64_STANDARD.encode(der));
            },
            "certificate chain",
        ),
        (
            "a certificate without the promise of the CT log",
            Signing {
                has_sct: false,
                ..usual
            },
            exact(),
            as_it_is,
            "SCT",
        ),
        (
            "a certificate that had ended",
            Signing { age: 30, ..usual },
            exact(),
            as_it_is,
            "certificate",
        ),
        (
            "a signature of something else",
            usual,
            exact(),
            |bundle| {
                let envelope = &mut bundle["dsseEnvelope"];
                let payload = BASE64_STANDARD
                    .decode(envelope["payload"].as_str().unwrap())
                    .unwrap();
                let payload = String::from_utf8(payload)
                    .unwrap()
                    .replace("\"predicate\":{}", "\"predicate\":1");
                envelope["payload"] = json!(BASE64_STANDARD.encode(payload));
            },
            "invalid",
        ),
        (
            "a key instead",
            usual,
            exact(),
            |bundle| {
                let material = bundle["verificationMaterial"].as_object_mut().unwrap();
                material.remove("certificate");
                material.insert("publicKey".into(), json!({"hint": ""}));
            },
            "it is signed with a key, expected a certificate (keyless)",
        ),
        (
            "a version of bundles that is to come",
            usual,
            exact(),
            |bundle| bundle["mediaType"] = json!("application/vnd.dev.sigstore.bundle.v0.9+json"),
            "it cannot be understood",
        ),
    ];
    for (why, signing, rule, change, reason) in rows {
        println!("{why}");
        let sigstore = Sigstore::new();
        let registry = Registry::start();
        let manifest = publish(&registry, |hello, manifest| {
            let mut bundle = sigstore.bundle(&signing, digest(manifest), SIGN);
            change(&mut bundle);
            attach_bundle(hello, manifest, &bundle.to_string());
        });
        let service = trusting(&registry, &sigstore, &rule).start();
        assert_refused(&service, &registry, &manifest, reason);
    }
}

fn entry(bundle: &mut Value) -> &mut serde_json::Map<String, Value> {
    let entry = &mut bundle["verificationMaterial"]["tlogEntries"][0];
    entry.as_object_mut().unwrap()
}

#[test]
fn a_bundle_is_a_signature_of_this_manifest_by_services_that_are_trusted() {
    let [sigstore, other] = [Sigstore::new(), Sigstore::new()];
    let same_logs = sigstore.with_another_fulcio();
    let another = format!("sha256:{}", "e".repeat(64));
    for (signer, of, predicate, reason) in [
        (&other, None, SIGN, "No log key valid"),
        (&same_logs, None, SIGN, "certificate chain is invalid"),
        (
            &sigstore,
            Some(&*another),
            SIGN,
            "does not match any subject",
        ),
        (
            &sigstore,
            None,
            "https://slsa.dev/provenance/v1",
            "it is an attestation (\"https://slsa.dev/provenance/v1\") and no signature",
        ),
    ] {
        let registry = Registry::start();
        let manifest = publish(&registry, |hello, manifest| {
            let of = of.unwrap_or_else(|| digest(manifest));
            let bundle = signer.bundle(&Signing::default(), of, predicate);
            attach_bundle(hello, manifest, &bundle.to_string());
        });
        let service = trusting(&registry, &sigstore, &exact()).start();
        // The page escapes it.
        assert_refused(
            &service,
            &registry,
            &manifest,
            &reason.replace('"', "&quot;"),
        );
    }
}

#[test]
fn the_old_form_needs_the_promise_of_the_log_and_the_name_of_the_repository() {
    let sigstore = Sigstore::new();
    for (without, repository, reason) in [
        ("bundle", "hello", "no log has promised to take it up"),
        ("certificate", "hello", "it has no certificate (keyless)"),
        ("", "other", "it names the repository"),
    ] {
        let registry = Registry::start();
        let manifest = publish(&registry, |hello, manifest| {
            let named = format!("{}/{repository}", registry.address);
            let payload = payload(&named, digest(manifest));
            let mut annotations = sigstore.legacy(&Signing::default(), &payload);
            let all = annotations.as_object_mut().unwrap();
            all.remove(&format!("dev.sigstore.cosign/{without}"));
            attach_annotated(hello, Form::SigTag, manifest, &payload, annotations);
        });
        let service = trusting(&registry, &sigstore, &exact()).start();
        assert_refused(&service, &registry, &manifest, reason);
    }
    // The promise is of this payload.
    let registry = Registry::start();
    let manifest = publish(&registry, |hello, manifest| {
        let right = payload(&name(&registry), digest(manifest));
        let wrong = payload(&name(&registry), &format!("sha256:{}", "e".repeat(64)));
        let mut annotations = sigstore.legacy(&Signing::default(), &right);
        let other = sigstore.legacy(&Signing::default(), &wrong);
        annotations["dev.sigstore.cosign/bundle"] = other["dev.sigstore.cosign/bundle"].clone();
        attach_annotated(hello, Form::SigTag, manifest, &right, annotations);
    });
    let service = trusting(&registry, &sigstore, &exact()).start();
    assert_refused(&service, &registry, &manifest, "artifact hash mismatch");
}

#[test]
fn a_threshold_counts_a_key_and_who_logged_in() {
    let sigstore = Sigstore::new();
    for (has_key, has_bundle, is_listed) in [
        (true, true, true),
        (true, false, false),
        (false, true, false),
    ] {
        let key = Key::new();
        let registry = Registry::start();
        let manifest = publish(&registry, |hello, manifest| {
            if has_key {
                key.sign(hello, Form::Bundle, &name(&registry), manifest);
            }
            if has_bundle {
                let bundle = sigstore.bundle(&Signing::default(), digest(manifest), SIGN);
                attach_bundle(hello, manifest, &bundle.to_string());
            }
        });
        let keys = Folder::new();
        let file = keys.file("acme.pub", &key.pem());
        // The same signer by two entries counts once.
        let entries = format!(
            "{{ key = {file:?} }}, {}, {}",
            exact(),
            keyless("subject-regex = '.*'")
        );
        let setup = trusting(&registry, &sigstore, &entries);
        let service = setup.settings("threshold = 2\n").start();
        match is_listed {
            true => assert_eq!(service.listing(), line(b"image", "hello-v1.raw")),
            false => assert_refused(
                &service,
                &registry,
                &manifest,
                "it is not signed by 2 of key /",
            ),
        }
    }
}

#[test]
fn a_trusted_root_that_ended_is_an_error_that_says_what_to_do() {
    let sigstore = Sigstore::new();
    let registry = Registry::start();
    publish(&registry, |hello, manifest| {
        let bundle = sigstore.bundle(&Signing::default(), digest(manifest), SIGN);
        attach_bundle(hello, manifest, &bundle.to_string());
    });
    let (cache, roots) = (Folder::new(), Folder::new());
    let start = |root: Value| {
        let file = roots.file("trusted_root.json", &root.to_string());
        let settings = format!(
            "[repository.hello]\ntrusted-root = {file:?}\nverify = [{}]\n",
            exact()
        );
        let setup = Setup::of(&registry).settings(ANEW).cache(&cache);
        setup.settings(&settings).start()
    };
    let after = |minutes: i64| {
        let duration = jiff::SignedDuration::from_mins(minutes);
        Some(Timestamp::now().checked_add(duration).unwrap())
    };
    let signed = line(b"image", "hello-v1.raw");
    assert_eq!(start(sigstore.trusted_root(None)).listing(), signed);
    // Also where the verdict was kept.
    let service = start(sigstore.trusted_root(after(-1)));
    for url in [
        "/hello/SHA256SUMS",
        "/hello/hello-v1.raw",
        "/hello:v1/hello.raw",
    ] {
        let response = service.get(url);
        // The version has no answer, so there is no listing (503), or none of the file (500).
        let is_error = [500, 503].contains(&response.status);
        assert!(is_error, "{url}: {}", response.status);
    }
    let told = ["this trusted root ended on", "cosign trusted-root create"];
    let told = service.log.with(&told);
    assert!(!told.is_empty(), "{:?}", service.log.lines());
    // One that will end counts until then.
    assert_eq!(start(sigstore.trusted_root(after(60))).listing(), signed);
    // The bytes of the trusted root are part of a verdict.
    let other = Sigstore::new().trusted_root(None);
    assert_eq!(start(other).listing(), empty_listing());
    assert_eq!(start(sigstore.trusted_root(None)).listing(), signed);
}

#[test]
fn a_trusted_root_or_an_authority_that_cannot_be_used_is_told_at_the_start() {
    let registry = Registry::start();
    let sigstore = Sigstore::new();
    let whole = sigstore.trusted_root(None);
    let without = |kind: &str| {
        let mut root = whole.clone();
        root[kind] = json!([]);
        Some(root.to_string())
    };
    let mut other_type = whole.clone();
    other_type["mediaType"] = json!("application/json");
    let mut damaged = whole.clone();
    damaged["tlogs"][0]["publicKey"]["rawBytes"] = json!("AAAA");
    for (text, reason) in [
        (None, "there is no such file"),
        (Some("{".to_owned()), "this is no trusted root of sigstore"),
        (
            Some(other_type.to_string()),
            "its type is \"application/json\"",
        ),
        (
            without("certificateAuthorities"),
            "there is no certificate authority (Fulcio) in it",
        ),
        (
            without("tlogs"),
            "there is no transparency log (Rekor) in it",
        ),
        (
            without("ctlogs"),
            "there is no log of certificates (CT) in it",
        ),
        (Some(damaged.to_string()), "its services cannot be trusted"),
        (Some(" ".repeat((1 << 20) + 1)), "at most 1048576 are read"),
    ] {
        let setup = trusting(&registry, &sigstore, &exact());
        let file = setup.folder().join("trusted_root.json");
        match text {
            Some(text) => fs::write(&file, text).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        let output = setup.output();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{told}");
        for part in [file.to_str().unwrap(), reason, "cosign trusted-root create"] {
            assert!(told.contains(part), "{told:?} does not say {part:?}");
        }
    }
    let setup = Setup::of(&registry);
    let file = setup.folder().join("ca.pem");
    fs::write(&file, Key::new().pem()).unwrap();
    let verify =
        format!("[repository.hello]\nverify = [{{ ca = {file:?}, email = \"a@example.com\" }}]\n");
    let output = setup.settings(&verify).output();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{told}");
    assert!(told.contains("there is no certificate in it"), "{told}");
}

/// A certificate authority without services, and a signer's certificate.
struct Company(CertifiedIssuer<'static, KeyPair>);

impl Company {
    fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap())
    }

    /// Signs a manifest in the old form, or as a bundle.
    fn sign(
        &self,
        hello: &mut Repository,
        name: &str,
        manifest: &Value,
        email: &str,
        end: i32,
        is_bundle: bool,
    ) {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.subject_alt_names =
            vec![SanType::Rfc822Name(Ia5String::try_from(email).unwrap())];
        parameters.not_after = rcgen::date_time_ymd(end, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.0).unwrap();
        let sign = |message: &[u8]| BASE64_STANDARD.encode(key.sign(message).unwrap());
        if is_bundle {
            let mut bundle = Key::new().bundle(digest(manifest), SIGN);
            let payload = bundle["dsseEnvelope"]["payload"].as_str().unwrap();
            let payload = BASE64_STANDARD.decode(payload).unwrap();
            let head = format!("DSSEv1 28 application/vnd.in-toto+json {} ", payload.len());
            bundle["dsseEnvelope"]["signatures"][0]["sig"] =
                json!(sign(&[head.as_bytes(), &payload].concat()));
            bundle["verificationMaterial"] =
                json!({"certificate": {"rawBytes": BASE64_STANDARD.encode(certificate.der())}});
            attach_bundle(hello, manifest, &bundle.to_string());
        } else {
            let payload = payload(name, digest(manifest));
            let annotations = json!({
                "dev.cosignproject.cosign/signature": sign(payload.as_bytes()),
                "dev.sigstore.cosign/certificate": certificate.pem(),
            });
            attach_annotated(hello, Form::SigTag, manifest, &payload, annotations);
        }
    }
}

#[test]
fn an_authority_without_services_counts_by_the_address_of_the_signer() {
    let [company, other] = [Company::new(), Company::new()];
    for (signer, email, end, is_bundle, reason) in [
        (&company, "releases@example.com", 4000, false, None),
        (&company, "releases@example.com", 4000, true, None),
        (
            &company,
            "somebody@example.com",
            4000,
            true,
            Some("it is signed by somebody@example.com, expected releases@example.com"),
        ),
        (
            &other,
            "releases@example.com",
            4000,
            true,
            Some("its certificate is not one of"),
        ),
        (
            &company,
            "releases@example.com",
            2001,
            false,
            Some("not valid now"),
        ),
    ] {
        let registry = Registry::start();
        let manifest = publish(&registry, |hello, manifest| {
            signer.sign(hello, &name(&registry), manifest, email, end, is_bundle);
        });
        let setup = Setup::of(&registry).settings(ANEW);
        let file = setup.folder().join("ca.pem");
        fs::write(&file, company.0.pem()).unwrap();
        let verify = format!(
            "[repository.hello]\nverify = [{{ ca = {file:?}, email = \"releases@example.com\" }}]\n"
        );
        let service = setup.settings(&verify).start();
        match reason {
            Some(reason) => assert_refused(&service, &registry, &manifest, reason),
            None => assert_eq!(service.listing(), line(b"image", "hello-v1.raw")),
        }
    }
}

#[test]
fn a_policy_that_asks_for_fulcio_is_satisfied_by_its_certificates() {
    let sigstore = Sigstore::new();
    let person = Signing {
        subject: "releases@example.com",
        has_sct: false,
        ..Signing::default()
    };
    let (ca, log) = sigstore.pem();
    let [ca, log] = [ca, log].map(|pem| BASE64_STANDARD.encode(pem));
    for (email, is_legacy, reason) in [
        ("releases@example.com", false, None),
        ("releases@example.com", true, None),
        (
            "a@example.com",
            true,
            Some("it is signed by releases@example.com (issuer"),
        ),
    ] {
        let registry = Registry::start();
        let manifest = publish(&registry, |hello, manifest| {
            if is_legacy {
                let payload = payload(&name(&registry), digest(manifest));
                let annotations = sigstore.legacy(&person, &payload);
                attach_annotated(hello, Form::SigTag, manifest, &payload, annotations);
            } else {
                let bundle = sigstore.bundle(&person, digest(manifest), SIGN);
                attach_bundle(hello, manifest, &bundle.to_string());
            }
        });
        let requirement = format!(
            r#"{{"type": "sigstoreSigned", "fulcio": {{"caData": "{ca}", "oidcIssuer": "{ISSUER}", "subjectEmail": "{email}"}}, "rekorPublicKeyData": "{log}", "signedIdentity": {{"type": "matchRepository"}}}}"#
        );
        let service = with_policy(&registry, &Key::new(), &requirement).start();
        match reason {
            Some(reason) => assert_refused(&service, &registry, &manifest, reason),
            None => assert_eq!(service.listing(), line(b"image", "hello-v1.raw")),
        }
    }
}
