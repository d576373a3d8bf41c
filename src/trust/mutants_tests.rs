//! Real signatures of cosign, changed in each byte and in each field: a mutant is refused, or it is the same statement
//! by the same key. What may differ in an accepted one is named here: the hint of the key, the version of the bundle's
//! type, what is not read, and the spelling of the JSON around it.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE};
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use super::bundle::{Bundle, Signed};
use super::*;

const KEYS: [&str; 3] = ["p256", "p384", "rsa"];

fn file(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/cosign/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path).unwrap()
}

fn text(name: &str) -> String {
    String::from_utf8(file(name)).unwrap()
}

fn key(name: &str) -> Key {
    Key::parse("/k.pub", &file(&format!("{name}.pub"))).unwrap()
}

/// Whether a signature is one of the manifest that cosign signed.
fn is_accepted(signature: &Signature, key: &Key) -> bool {
    let manifest = file("manifest.json");
    let bytes = signature.is_of_bytes().then_some(manifest.as_slice());
    let subject = Subject::bare(Digest::of(&manifest));
    signature
        .verify(&By::Key(key.clone()), &subject, bytes)
        .is_ok()
}

/// The statement of a bundle, without the bytes of its signature, of which there may be several.
fn meaning(json: &[u8]) -> Option<Vec<u8>> {
    match Bundle::parse(json).ok()?.signed {
        Signed::Statement { payload, .. } => Some(payload),
        Signed::Manifest { .. } => Some(Vec::new()),
    }
}

/// The mutants that were accepted and refused.
#[derive(Default)]
struct Count {
    harmless: usize,
    refused: usize,
}

impl Count {
    /// Takes a mutant of a bundle. Whether it was accepted, which it may be only with the same meaning.
    fn bundle(&mut self, key: &Key, real: &[u8], mutant: &[u8]) -> bool {
        let is_accepted = is_accepted(&Signature::bundle(Place::Attached, mutant), key);
        if is_accepted {
            let shown = String::from_utf8_lossy(mutant);
            assert_eq!(meaning(mutant), meaning(real), "another meaning: {shown}");
        }
        match is_accepted {
            true => self.harmless += 1,
            false => self.refused += 1,
        }
        is_accepted
    }

    /// Takes a mutant of a payload with its signature. None of them is accepted.
    fn simple(&mut self, key: &Key, payload: Vec<u8>, signature: &str) {
        let mutant = Signature::simple(Place::SigTag, payload, signature);
        assert!(!is_accepted(&mutant, key), "{mutant:?}");
        self.refused += 1;
    }
}

/// The parts of a bundle's text in which a byte decides nothing, each between two words.
const UNREAD: [(&str, &str); 3] = [
    ("application/vnd.dev.sigstore.bundle", "\""),
    ("\"publicKey\":{", "}"),
    ("\"messageSignature\":{", ",\"signature\""),
];

fn is_unread(json: &str, at: usize) -> bool {
    UNREAD.iter().any(|(begin, end)| {
        let Some(begin) = json.find(begin).map(|found| found + begin.len()) else {
            return false;
        };
        let end = begin + json[begin..].find(end).unwrap();
        (begin..end).contains(&at)
    })
}

#[test]
fn a_flipped_bit_is_refused_or_decides_nothing() {
    let mut count = Count::default();
    for name in KEYS {
        let key = key(name);
        for form in ["bundle", "blob"] {
            let real = file(&format!("{name}.{form}.json"));
            let shown = String::from_utf8(real.clone()).unwrap();
            for at in 0..real.len() {
                let mut mutant = real.clone();
                mutant[at] ^= 1 << (at % 8);
                let found = count.bundle(&key, &real, &mutant);
                assert!(!found || is_unread(&shown, at), "{name}.{form}, byte {at}");
            }
        }
        let payload = file(&format!("{name}.payload"));
        let signature = text(&format!("{name}.signature"));
        for at in 0..payload.len() {
            let mut mutant = payload.clone();
            mutant[at] ^= 1 << (at % 8);
            count.simple(&key, mutant, &signature);
        }
        for at in 0..signature.len() {
            let mut mutant = signature.clone().into_bytes();
            // Another letter, also in base64.
            mutant[at] = if mutant[at] == b'A' { b'B' } else { b'A' };
            let mutant = String::from_utf8(mutant).unwrap();
            count.simple(&key, payload.clone(), &mutant);
        }
    }
    let Count { harmless, refused } = count;
    assert!(refused > 4000, "{refused} were refused");
    // Most of the hints' bytes, and nothing else.
    assert!((100..800).contains(&harmless), "{harmless} were accepted");
}

#[test]
fn a_signature_that_was_cut_is_refused() {
    let mut count = Count::default();
    for name in KEYS {
        let key = key(name);
        for form in ["bundle", "blob"] {
            let real = file(&format!("{name}.{form}.json"));
            for length in 0..real.len() {
                assert!(
                    !count.bundle(&key, &real, &real[..length]),
                    "{length} bytes"
                );
            }
        }
        let payload = file(&format!("{name}.payload"));
        let signature = text(&format!("{name}.signature"));
        for length in 0..payload.len() {
            count.simple(&key, payload[..length].to_vec(), &signature);
        }
        for length in 0..signature.len() {
            count.simple(&key, payload.clone(), &signature[..length]);
        }
    }
    assert!(count.refused > 4000, "{} were refused", count.refused);
}

/// The value at a path of names, and of numbers for lists.
fn at<'a>(json: &'a mut Value, path: &[&str]) -> &'a mut Value {
    path.iter()
        .fold(json, |json, name| match name.parse::<usize>() {
            Ok(number) => &mut json[number],
            Err(_) => &mut json[*name],
        })
}

/// The paths of all values in it.
fn paths(json: &Value) -> Vec<Vec<String>> {
    let children: Vec<(String, &Value)> = match json {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, one)| (name.clone(), one))
            .collect(),
        Value::Array(list) => (0..).map(|n: usize| n.to_string()).zip(list).collect(),
        _ => Vec::new(),
    };
    let mut all = Vec::new();
    for (name, child) in children {
        all.push(vec![name.clone()]);
        all.extend(
            paths(child)
                .into_iter()
                .map(|below| [vec![name.clone()], below].concat()),
        );
    }
    all
}

#[test]
fn a_field_that_is_missing_or_another_one_is_refused_or_decides_nothing() {
    let mut count = Count::default();
    for name in KEYS {
        let key = key(name);
        for form in ["bundle", "blob"] {
            let real = file(&format!("{name}.{form}.json"));
            let json: Value = serde_json::from_slice(&real).unwrap();
            for path in paths(&json) {
                let path: Vec<_> = path.iter().map(String::as_str).collect();
                let (last, above) = path.split_last().unwrap();
                let may_differ = path.contains(&"hint") || path.contains(&"messageDigest");
                let mut mutants = Vec::new();
                for other in [
                    Value::Null,
                    json!(0),
                    json!(true),
                    json!(""),
                    json!("AAAA"),
                    json!([]),
                    json!({}),
                    json!({"hint": 1}),
                    json!(["x"]),
                ] {
                    let mut mutant = json.clone();
                    *at(&mut mutant, &path) = other;
                    mutants.push(mutant);
                }
                let mut without = json.clone();
                match at(&mut without, above) {
                    Value::Object(fields) => drop(fields.remove(*last)),
                    Value::Array(list) => drop(list.remove(last.parse().unwrap())),
                    other => panic!("{other}"),
                }
                mutants.push(without);
                for mutant in mutants.into_iter().filter(|mutant| *mutant != json) {
                    let bytes = mutant.to_string().into_bytes();
                    let found = count.bundle(&key, &real, &bytes);
                    // The key's object must be there, whatever is in it; a list has it by its place.
                    let may_differ = may_differ
                        || path == ["verificationMaterial"]
                            && mutant["verificationMaterial"].is_array()
                        || path == ["verificationMaterial", "publicKey"];
                    assert!(!found || may_differ, "{path:?}: {mutant}");
                }
            }
        }
    }
    assert!(count.refused > 300, "{} were refused", count.refused);
}

/// A bundle whose JSON is written anew by a function.
fn edited(name: &str, edit: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut json: Value = serde_json::from_slice(&file(name)).unwrap();
    edit(&mut json);
    json.to_string().into_bytes()
}

/// The bytes of a value in base64, as another base64 has them.
fn encoded_again(json: &mut Value, path: &[&str], encode: impl FnOnce(Vec<u8>) -> String) {
    let value = at(json, path);
    let bytes = BASE64_STANDARD.decode(value.as_str().unwrap()).unwrap();
    *value = encode(bytes).into();
}

/// A DER signature (r, s) with n − s for s, which by the mathematics of ECDSA is one of the same message by the same key.
fn other_s(der: &[u8]) -> Vec<u8> {
    // n of P-256, FIPS 186-5 / SP 800-186 §3.2.1.3.
    const N: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc,
        0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let r = &der[4..4 + usize::from(der[3])];
    let s = &der[6 + r.len()..];
    let s = s.strip_prefix(&[0]).unwrap_or(s);
    let padded = [vec![0; 32 - s.len()], s.to_vec()].concat();
    let (mut result, mut borrow) = (vec![0; 32], 0);
    for i in (0..32).rev() {
        let digit = i16::from(N[i]) - i16::from(padded[i]) - borrow;
        borrow = i16::from(digit < 0);
        result[i] = u8::try_from(digit.rem_euclid(256)).unwrap();
    }
    if result[0] >= 0x80 {
        result.insert(0, 0);
    }
    let integer = |bytes: &[u8]| [&[2, u8::try_from(bytes.len()).unwrap()], bytes].concat();
    let both = [integer(r), integer(&result)].concat();
    [&[0x30, u8::try_from(both.len()).unwrap()], both.as_slice()].concat()
}

const PAYLOAD: [&str; 2] = ["dsseEnvelope", "payload"];
const SIG: [&str; 4] = ["dsseEnvelope", "signatures", "0", "sig"];

/// Rows: what was changed, the mutant of `p256.bundle.json`, and whether it is the same signature still.
fn edits() -> Vec<(&'static str, Vec<u8>, bool)> {
    const REAL: &str = "p256.bundle.json";
    let edit = |edit: fn(&mut Value)| edited(REAL, edit);
    let replaced = |from: &str, to: &str| {
        let text = text(REAL);
        assert!(text.contains(from), "{from} in {text}");
        text.replacen(from, to, 1).into_bytes()
    };
    let other = |name: &str, path: &[&str]| {
        let mut other: Value = serde_json::from_slice(&file(name)).unwrap();
        let value = at(&mut other, path).take();
        edited(REAL, |json| *at(json, path) = value)
    };
    // The statement with other bytes: the signature is of the real ones.
    let statement = |edit: fn(&mut Value)| {
        edited(REAL, |json| {
            encoded_again(json, &PAYLOAD, |bytes| {
                let mut statement = serde_json::from_slice(&bytes).unwrap();
                edit(&mut statement);
                BASE64_STANDARD.encode(statement.to_string())
            });
        })
    };
    let pretty = |name: &str| {
        let json: Value = serde_json::from_slice(&file(name)).unwrap();
        serde_json::to_vec_pretty(&json).unwrap()
    };
    vec![
        ("spaces and the order of fields", pretty(REAL), true),
        (
            "a space before it",
            [b" \n", file(REAL).as_slice()].concat(),
            true,
        ),
        (
            "a word behind it",
            [file(REAL).as_slice(), b" x"].concat(),
            false,
        ),
        ("it stands there twice", file(REAL).repeat(2), false),
        (
            "escaped letters",
            replaced("application", "\\u0061pplication"),
            true,
        ),
        (
            "another hint",
            edit(|json| json["verificationMaterial"]["publicKey"]["hint"] = "x".into()),
            true,
        ),
        (
            "the hint of another key",
            other("p384.bundle.json", &["verificationMaterial"]),
            true,
        ),
        (
            "no hint",
            edit(|json| json["verificationMaterial"]["publicKey"] = json!({})),
            true,
        ),
        (
            "an older version",
            replaced("bundle.v0.3+json", "bundle+json;version=0.2"),
            true,
        ),
        (
            "a key's id",
            edit(|json| json["dsseEnvelope"]["signatures"][0]["keyid"] = "x".into()),
            true,
        ),
        (
            "an entry of a log",
            edit(|json| json["verificationMaterial"]["tlogEntries"] = json!([{"logIndex": "1"}])),
            true,
        ),
        (
            "an unknown field",
            edit(|json| json["x"] = json!({"dsseEnvelope": 1})),
            true,
        ),
        (
            "a field twice",
            replaced("\"payloadType\":", "\"payloadType\":\"x\",\"payloadType\":"),
            false,
        ),
        (
            "two envelopes",
            replaced("\"dsseEnvelope\":", "\"dsseEnvelope\":{},\"dsseEnvelope\":"),
            false,
        ),
        (
            "a certificate",
            edit(|json| {
                json["verificationMaterial"] = json!({"certificate": {"rawBytes": "AAAA"}})
            }),
            false,
        ),
        (
            "another type",
            replaced("sigstore.bundle", "sigstore.bindle"),
            false,
        ),
        (
            "another type of payload",
            replaced("application/vnd.in-toto+json", "application/vnd.in-toto"),
            false,
        ),
        (
            "a type of payload with blanks",
            replaced("vnd.in-toto+json", "vnd.in-toto+json 0 "),
            false,
        ),
        (
            "no signature",
            edit(|json| json["dsseEnvelope"]["signatures"] = json!([])),
            false,
        ),
        (
            "two signatures",
            edit(|json| {
                let one = json["dsseEnvelope"]["signatures"][0].clone();
                json["dsseEnvelope"]["signatures"] = json!([one, one]);
            }),
            false,
        ),
        (
            "the signature of another key",
            other("p384.bundle.json", &SIG),
            false,
        ),
        (
            "the signature of another statement",
            other("attestation.json", &SIG),
            false,
        ),
        (
            "another statement of the same key",
            other("attestation.json", &PAYLOAD),
            false,
        ),
        (
            "a whole other statement of the same key",
            file("attestation.json"),
            false,
        ),
        (
            "of another key, with this hint",
            other("rsa.bundle.json", &["dsseEnvelope"]),
            false,
        ),
        (
            "a blob's signature beside it",
            other("p256.blob.json", &["messageSignature"]),
            false,
        ),
        (
            "the signature of the manifest for that of the statement",
            edit(|json| {
                let mut blob: Value = serde_json::from_slice(&file("p256.blob.json")).unwrap();
                let signature = blob["messageSignature"]["signature"].take();
                *at(json, &SIG) = signature;
            }),
            false,
        ),
        (
            "the signature of the statement for that of the manifest",
            edited("p256.blob.json", |json| {
                let mut bundle: Value = serde_json::from_slice(&file(REAL)).unwrap();
                json["messageSignature"]["signature"] = at(&mut bundle, &SIG).take();
            }),
            false,
        ),
        (
            "the payload's base64 for URLs",
            edit(|json| {
                encoded_again(json, &PAYLOAD, |bytes| {
                    URL_SAFE.encode([&bytes[..], b"\xff"].concat())
                })
            }),
            false,
        ),
        (
            "the payload's base64 without padding",
            edit(|json| encoded_again(json, &PAYLOAD, |bytes| STANDARD_NO_PAD.encode(bytes))),
            false,
        ),
        (
            "the signature's base64 for URLs",
            edit(|json| encoded_again(json, &SIG, |bytes| URL_SAFE.encode(bytes))),
            false,
        ),
        (
            "the signature's base64 without padding",
            edit(|json| encoded_again(json, &SIG, |bytes| STANDARD_NO_PAD.encode(bytes))),
            false,
        ),
        (
            "the signature's base64 in lines",
            edit(|json| encoded_again(json, &SIG, |bytes| BASE64_STANDARD.encode(bytes) + "\n")),
            false,
        ),
        (
            "the signature with a byte behind it",
            edit(|json| {
                encoded_again(json, &SIG, |bytes| {
                    BASE64_STANDARD.encode([&bytes[..], b"\0"].concat())
                })
            }),
            false,
        ),
        (
            "the other s of the signature",
            edit(|json| encoded_again(json, &SIG, |bytes| BASE64_STANDARD.encode(other_s(&bytes)))),
            true,
        ),
        ("spaces in the statement", statement(|_| ()), false),
        (
            "another subject",
            statement(|json| json["subject"][0]["digest"]["sha256"] = "0".repeat(64).into()),
            false,
        ),
        (
            "a second subject",
            statement(|json| {
                json["subject"]
                    .as_array_mut()
                    .unwrap()
                    .push(json!({"digest": {}}))
            }),
            false,
        ),
        (
            "another algorithm of the subject",
            statement(|json| json["subject"][0]["digest"] = Value::Object(Map::new())),
            false,
        ),
        (
            "another predicate",
            statement(|json| json["predicateType"] = "https://example.org/built".into()),
            false,
        ),
        (
            "another version of the statement",
            statement(|json| json["_type"] = "https://in-toto.io/Statement/v0.1".into()),
            false,
        ),
        (
            "an annotation",
            statement(|json| json["subject"][0]["annotations"]["version"] = "99".into()),
            false,
        ),
    ]
}

#[test]
fn an_edited_bundle_is_refused_or_the_same_signature() {
    let real = file("p256.bundle.json");
    let key = key("p256");
    let mut count = Count::default();
    for (what, mutant, is_same) in edits() {
        let shown = String::from_utf8_lossy(&mutant);
        assert_ne!(mutant, real, "{what}");
        assert_eq!(
            count.bundle(&key, &real, &mutant),
            is_same,
            "{what}: {shown}"
        );
    }
}
