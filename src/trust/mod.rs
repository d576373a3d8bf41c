//! Whether a manifest is signed as its repository asks for. No I/O: `resolve/signatures.rs` finds the signatures.
//!
//! ```text
//! policy       containers-policy.json(5): the rules for a repository
//! signature    the forms of cosign's signatures: simple (a payload), bundle
//! by           who must have signed: a key, a person or build without one, a certificate's owner
//! key          a public key, and what it verifies
//! keyless      certificates, and the services of sigstore that prove them
//! identity     which repository a signature may name
//! version      whether a tag agrees with a signed version
//! ```

mod bundle;
mod by;
#[cfg(any(test, fuzzing))]
#[path = "../../tests/fuzz/properties/statements.rs"]
pub mod fuzz;
mod identity;
mod key;
mod keyless;
mod policy;
mod signature;
mod simple;
pub mod version;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::name::{RepositoryAddress, Tag};
use crate::printable::shortened;

pub use by::By;
pub use identity::Identity;
pub use key::Key;
#[cfg(all(any(test, fuzzing), feature = "keyless"))]
pub use keyless::fuzz as keyless_fuzz;
pub use keyless::{Authority, Keyless, Subject as Signatory, TrustedRoot};
pub use policy::{Policy, Scope};
use signature::Verified;
pub use signature::{Part, Place, Signature, parts};

/// Counts the changes of how signatures are judged: the verdicts of another one are not believed.
pub const CHECKER: u32 = 3;
/// Reasons that are told why signatures do not count.
const MAX_REASONS: usize = 4;

/// The manifest that is to be judged.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its digest.
    pub manifest: Digest,
    /// Its repository, with the host; `None` for an OCI layout.
    pub repository: Option<&'a RepositoryAddress>,
    /// The tag that it was asked for by, if it was.
    pub tag: Option<&'a Tag>,
    /// The time of this machine.
    pub now: Timestamp,
}

#[cfg(any(test, fuzzing))]
impl Subject<'_> {
    /// A manifest of a layout, at the beginning of time.
    pub fn bare(manifest: Digest) -> Self {
        Self {
            manifest,
            repository: None,
            tag: None,
            now: Timestamp::UNIX_EPOCH,
        }
    }
}

/// Something that must hold for a manifest.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    /// At least `threshold` different signers must have signed it.
    Signed {
        signers: Vec<Signer>,
        threshold: usize,
        /// The scope and the file of the policy that asks for it, if not the settings do.
        origin: Option<String>,
    },
    /// Nothing can satisfy it, for this reason.
    Never(String),
}

/// The requirements for all manifests of one source; none if there are no rules.
#[derive(Clone, Debug, PartialEq)]
pub struct Requirement {
    /// The keys of the settings.
    pub signed_by: Vec<Arc<Rule>>,
    /// The policy of container tools, if it counts here.
    pub policy: Option<Arc<Policy>>,
    /// They must note their version, too.
    pub require_version: bool,
    /// The name of the source, with the host; `None` for an OCI layout.
    pub repository: Option<RepositoryAddress>,
    /// The directory of an OCI layout.
    pub layout: Option<PathBuf>,
}

impl Requirement {
    /// The rules for a manifest, all of which must hold.
    pub fn rules(&self, manifest: Digest, tag: Option<&Tag>) -> Vec<Arc<Rule>> {
        let scope = match (&self.repository, &self.layout) {
            (Some(repository), _) => Some(Scope::Docker(repository, tag, manifest)),
            (None, layout) => layout.as_deref().map(Scope::Oci),
        };
        let policy = self.policy.as_ref().zip(scope);
        let policy = policy.map_or(&[][..], |(policy, scope)| policy.rules(&scope));
        self.signed_by.iter().chain(policy).cloned().collect()
    }
}

/// Who must have signed, and the repositories that their signatures may name.
#[derive(Clone, Debug, PartialEq)]
pub struct Signer {
    pub by: By,
    pub identity: Identity,
}

/// The outcome for a manifest.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// All rules hold, by these signatures: `key /etc/pki/acme.pub (bundle)`.
    Accepted(String),
    /// Why not.
    Refused(String),
}

/// A manifest that was accepted, as it is noted with each file that it offers.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Accepted {
    /// The manifest or index that is signed.
    pub manifest: Digest,
    /// The tag that it was judged with.
    pub tag: Option<Tag>,
    /// By which signatures.
    pub by: String,
}

/// Tells requirements apart, with the bytes of their keys.
pub fn digest_of(rules: &[Arc<Rule>]) -> Digest {
    Digest::of(format!("{CHECKER} {rules:?}").as_bytes())
}

/// A manifest that is being judged: its signatures are heard one by one, for together they may be large.
pub struct Trial<'a> {
    subject: Subject<'a>,
    /// Each rule with the outcome of its signers.
    rules: Vec<(&'a Rule, Vec<Outcome>)>,
    has_heard: bool,
}

/// The outcome of a signer.
#[derive(Clone, Default)]
struct Outcome {
    /// Its signer, and the signature for people: `key /etc/pki/acme.pub (bundle)`.
    found: Option<(Digest, String)>,
    /// Why other signatures do not count.
    reasons: BTreeSet<String>,
}

impl Rule {
    fn signers(&self) -> &[Signer] {
        match self {
            Self::Signed { signers, .. } => signers,
            Self::Never(_) => &[],
        }
    }

    /// The requirement of a policy, with its scope and file.
    pub fn told(&self) -> Option<String> {
        match self {
            Self::Signed { origin, .. } => {
                let origin = origin.as_ref()?;
                Some(format!("signatures are asked for by {origin}"))
            }
            Self::Never(why) => Some(format!("nothing can be offered, by {why}")),
        }
    }

    /// Whether the tag by which a manifest was asked for decides anything.
    pub fn looks_at_tag(&self) -> bool {
        let mut signers = self.signers().iter();
        signers.any(|signer| signer.identity.looks_at_tag())
    }

    /// The number of different signers that it has.
    pub fn keys(&self) -> usize {
        let ids = self.signers().iter().map(|signer| signer.by.id());
        ids.collect::<BTreeSet<_>>().len()
    }

    /// Whether a signature that counts now may not count later.
    pub fn looks_at_clock(&self) -> bool {
        let mut signers = self.signers().iter();
        signers.any(|signer| signer.by.looks_at_clock())
    }

    /// The trusted roots by which its signers are known who have no key.
    pub fn trusted_roots(&self) -> impl Iterator<Item = &Arc<TrustedRoot>> {
        let signers = self.signers().iter();
        signers.filter_map(|signer| signer.by.trusted_root())
    }

    /// The signatures by which it holds, or why it does not.
    fn judge(&self, outcomes: &[Outcome], has_heard: bool) -> Result<Vec<String>, String> {
        let (signers, threshold, origin) = match self {
            Self::Never(why) => return Err(why.clone()),
            Self::Signed {
                signers,
                threshold,
                origin,
            } => (signers, *threshold, origin),
        };
        let (mut by, mut keys) = (Vec::new(), BTreeSet::new());
        for (signer, told) in outcomes.iter().flat_map(|one| &one.found) {
            // A signer counts once, however often it is named.
            if keys.insert(*signer) {
                by.push(told.clone());
            }
        }
        if keys.len() >= threshold {
            return Ok(by);
        }
        let names: Vec<_> = signers.iter().map(|one| one.by.to_string()).collect();
        let mut wanted = match threshold {
            1 => names.join(" or "),
            n => format!("{n} of {}", names.join(", ")),
        };
        if let Some(origin) = origin {
            wanted += &format!(" (asked for by {origin})");
        }
        if !has_heard {
            return Err(format!("it is not signed; {wanted} must have signed it"));
        }
        let reasons: BTreeSet<_> = outcomes.iter().flat_map(|one| &one.reasons).collect();
        let reasons: Vec<_> = reasons.into_iter().take(MAX_REASONS).cloned().collect();
        let had = match by.as_slice() {
            [] => String::new(),
            by => format!(", only by {}", by.join(", ")),
        };
        let reasons = reasons.join("; ");
        Err(format!("it is not signed by {wanted}{had}: {reasons}"))
    }
}

impl<'a> Trial<'a> {
    /// One in which nothing was heard yet.
    pub fn new(rules: &'a [Arc<Rule>], subject: Subject<'a>) -> Self {
        let nothing = |rule: &'a Arc<Rule>| {
            let outcomes = vec![Outcome::default(); rule.signers().len()];
            (&**rule, outcomes)
        };
        Self {
            subject,
            rules: rules.iter().map(nothing).collect(),
            has_heard: false,
        }
    }

    /// Verifies a signature. `bytes`: the manifest, if the signature needs it.
    pub fn hear(&mut self, signature: &Signature, bytes: Option<&[u8]>) {
        self.has_heard = true;
        let subject = &self.subject;
        for (rule, outcomes) in &mut self.rules {
            for (Signer { by, identity }, outcome) in rule.signers().iter().zip(outcomes) {
                let verified = signature.verify(by, subject, bytes);
                let checked = verified.and_then(|verified| {
                    identity.check(verified.reference.as_deref(), subject)?;
                    Ok(verified)
                });
                match checked {
                    Ok(Verified { signer, told, .. }) => {
                        let told = || (signer, format!("{told} ({signature})"));
                        outcome.found.get_or_insert_with(told);
                    }
                    Err(why) if outcome.reasons.len() < MAX_REASONS => {
                        outcome
                            .reasons
                            .insert(shortened(format!("{signature}: {why}")));
                    }
                    Err(_) => {}
                }
            }
        }
    }

    /// Why no signature can be enough, if none can.
    pub fn hopeless(&self) -> Option<&str> {
        self.rules.iter().find_map(|(rule, _)| match rule {
            Rule::Never(why) => Some(why.as_str()),
            Rule::Signed { .. } => None,
        })
    }

    /// Whether what was heard is enough.
    pub fn is_accepted(&self) -> bool {
        matches!(self.verdict(), Verdict::Accepted(_))
    }

    /// The outcome by all that was heard.
    pub fn verdict(&self) -> Verdict {
        if let Some(why) = self.hopeless() {
            return Verdict::Refused(why.to_owned());
        }
        let mut by = BTreeSet::new();
        for (rule, outcomes) in &self.rules {
            match rule.judge(outcomes, self.has_heard) {
                Ok(found) => by.extend(found),
                Err(why) => return Verdict::Refused(why),
            }
        }
        Verdict::Accepted(Vec::from_iter(by).join(", "))
    }
}

#[cfg(test)]
mod containers_tests;
#[cfg(test)]
mod mutants_tests;

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 3] = ["p256", "p384", "rsa"];

    /// A file that real cosign wrote: see `tests/cosign/make`.
    fn file(name: &str) -> Vec<u8> {
        let path = format!("{}/tests/cosign/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(path).unwrap()
    }

    fn text(name: &str) -> String {
        String::from_utf8(file(name)).unwrap()
    }

    fn signer(key: &str) -> Signer {
        let name = format!("/{key}.pub");
        Signer {
            by: By::Key(Key::parse(&name, &file(&format!("{key}.pub"))).unwrap()),
            identity: Identity::Own { or: None },
        }
    }

    fn signed(keys: &[&str], threshold: usize) -> Rule {
        Rule::Signed {
            signers: keys.iter().copied().map(signer).collect(),
            threshold,
            origin: None,
        }
    }

    fn simple(place: Place, key: &str) -> Signature {
        let payload = file(&format!("{key}.payload"));
        Signature::simple(place, payload, &text(&format!("{key}.signature")))
    }

    fn bundle(key: &str) -> Signature {
        Signature::bundle(Place::Attached, &file(&format!("{key}.bundle.json")))
    }

    /// Judges `manifest` of `localhost:5000/hello`.
    fn judged(rule: &Rule, manifest: &[u8], signatures: &[Signature]) -> Verdict {
        let repository: RepositoryAddress = "localhost:5000/hello".parse().unwrap();
        let subject = Subject {
            manifest: Digest::of(manifest),
            repository: Some(&repository),

            tag: None,
            now: Timestamp::UNIX_EPOCH,
        };
        judge(&[Arc::new(rule.clone())], subject, signatures, manifest)
    }

    fn judge(
        rules: &[Arc<Rule>],
        subject: Subject<'_>,
        signatures: &[Signature],
        manifest: &[u8],
    ) -> Verdict {
        let mut trial = Trial::new(rules, subject);
        for signature in signatures {
            let bytes = signature.is_of_bytes().then_some(manifest);
            trial.hear(signature, bytes);
        }
        trial.verdict()
    }

    #[test]
    fn each_form_by_each_kind_of_key_is_accepted_and_by_no_other_key() {
        let manifest = file("manifest.json");
        for key in KEYS {
            for (signature, form) in [
                (simple(Place::SigTag, key), ".sig tag"),
                (simple(Place::Attached, key), "attached payload"),
                (bundle(key), "bundle"),
                (
                    Signature::bundle(Place::Attached, &file(&format!("{key}.blob.json"))),
                    "bundle",
                ),
            ] {
                for other in KEYS {
                    let found = judged(
                        &signed(&[other], 1),
                        &manifest,
                        std::slice::from_ref(&signature),
                    );
                    let expected = match key == other {
                        true => Verdict::Accepted(format!("key /{key}.pub ({form})")),
                        false => Verdict::Refused(format!(
                            "it is not signed by key /{other}.pub: {form}: another key made it, or it was changed since"
                        )),
                    };
                    assert_eq!(found, expected, "{form} of {key} by {other}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_signature_of_the_manifest_is_refused_with_the_reason() {
        let manifest = file("manifest.json");
        let another = [&manifest[..], b" "].concat();
        let changed = |text: String, from: &str, to: &str| {
            assert!(text.contains(from), "{from} in {text}");
            text.replacen(from, to, 1)
        };
        let bundle_with = |from: &str, to: &str| {
            let json = changed(text("p256.bundle.json"), from, to);
            Signature::bundle(Place::Attached, json.as_bytes())
        };
        let simple_of = |payload: &[u8], signature: &str| {
            Signature::simple(Place::SigTag, payload.to_vec(), signature)
        };
        let payload = changed(text("p256.payload"), "hello", "hallo");
        let signature = text("p256.signature");
        let blob = Signature::bundle(Place::Attached, &file("p256.blob.json"));
        let attestation = Signature::bundle(Place::Attached, &file("attestation.json"));
        let notation =
            Signature::unread(Place::Attached, "a Notation signature, which is not read");
        for (manifest, signatures, reason) in [
            (
                &manifest,
                vec![],
                "it is not signed; key /p256.pub must have signed it",
            ),
            (
                &manifest,
                vec![simple_of(payload.as_bytes(), &signature)],
                "changed since",
            ),
            (&manifest, vec![simple_of(b"", &signature)], "changed since"),
            (
                &manifest,
                vec![simple_of(
                    &file("p256.payload"),
                    &changed(signature.clone(), "MEU", "MEV"),
                )],
                "changed since",
            ),
            (
                &manifest,
                vec![simple_of(&file("p256.payload"), "")],
                "the signature is empty",
            ),
            (
                &manifest,
                vec![simple_of(&file("p256.payload"), "*")],
                "base64",
            ),
            // The whole signature of one form is none in the other.
            (
                &manifest,
                vec![simple_of(&manifest, &text("p256.signature"))],
                "changed since",
            ),
            (&manifest, vec![bundle_with("eyJ", "eyK")], "changed since"),
            (
                &manifest,
                vec![bundle_with("\"sig\":\"MEQ", "\"sig\":\"MER")],
                "changed since",
            ),
            (
                &manifest,
                vec![bundle_with("\"sig\":\"", "\"sig\":\"*")],
                "base64",
            ),
            (
                &manifest,
                vec![bundle_with(
                    "\"signatures\":[",
                    "\"signatures\":[{\"sig\":\"\"},",
                )],
                "its envelope has 2 signatures, expected one",
            ),
            (
                &manifest,
                vec![bundle_with("in-toto", "other")],
                "its payload is",
            ),
            (
                &manifest,
                vec![bundle_with("bundle.v0.3", "bindle")],
                "its type is",
            ),
            (
                &manifest,
                vec![bundle_with(
                    "\"publicKey\":{",
                    "\"certificate\":{\"rawBytes\":\"MA==\",",
                )],
                "keyless",
            ),
            (
                &manifest,
                vec![bundle_with("{\"mediaType\"", "{{")],
                "cannot be understood",
            ),
            (
                &manifest,
                vec![bundle_with("dsseEnvelope", "other")],
                "neither one envelope",
            ),
            (
                &another,
                vec![simple(Place::SigTag, "p256")],
                "it is of another manifest, sha256:",
            ),
            (
                &another,
                vec![bundle("p256")],
                "it is of another manifest, sha256:",
            ),
            (&another, vec![blob], "changed since"),
            (
                &manifest,
                vec![attestation],
                "it is an attestation (\"https://example.org/built\")",
            ),
            (
                &manifest,
                vec![bundle("ed25519")],
                "an Ed25519 signature, which is not read",
            ),
            (
                &manifest,
                vec![simple(Place::SigTag, "ed25519")],
                "an Ed25519 signature, which is not read",
            ),
            (
                &manifest,
                vec![notation, bundle("rsa")],
                "a Notation signature, which is not read",
            ),
        ] {
            let found = judged(&signed(&["p256"], 1), manifest, &signatures);
            let Verdict::Refused(why) = found else {
                panic!("{signatures:?} were accepted, though {reason}");
            };
            assert!(why.contains(reason), "{why:?} does not say {reason:?}");
        }
    }

    #[test]
    fn one_good_signature_is_enough_whatever_lies_beside_it() {
        let mut signatures = vec![
            Signature::unread(Place::Attached, "x"),
            bundle("ed25519"),
            bundle("rsa"),
            simple(Place::SigTag, "p384"),
        ];
        let rule = signed(&["p256", "p384"], 1);
        let manifest = file("manifest.json");
        let found = judged(&rule, &manifest, &signatures);
        assert_eq!(found, Verdict::Accepted("key /p384.pub (.sig tag)".into()));
        signatures.reverse();
        assert_eq!(judged(&rule, &manifest, &signatures), found);
    }

    #[test]
    fn a_threshold_is_of_different_keys() {
        let manifest = file("manifest.json");
        let all = [bundle("p256"), simple(Place::SigTag, "p256"), bundle("rsa")];
        let rule = signed(&["p256", "p384", "rsa"], 2);
        assert_eq!(
            judged(&rule, &manifest, &all),
            Verdict::Accepted("key /p256.pub (bundle), key /rsa.pub (bundle)".into())
        );
        // The same key in two files.
        let mut twice = signer("p256");
        let copy = Key::parse("/copy.pub", text("p256.pub").trim_end().as_bytes());
        twice.by = By::Key(copy.unwrap());
        let twice = Rule::Signed {
            signers: vec![signer("p256"), twice],
            threshold: 2,
            origin: None,
        };
        assert_eq!(twice.keys(), 1);
        for rule in [&rule, &twice] {
            let Verdict::Refused(why) = judged(rule, &manifest, &all[..2]) else {
                panic!("one key counted twice by {rule:?}");
            };
            let told = why.contains("it is not signed by 2 of key /p256.pub, ")
                && why.contains(", only by key /p256.pub (bundle)");
            assert!(told, "{why}");
        }
    }

    /// Anybody may attach a bundle.
    #[test]
    fn a_reason_is_short_however_long_the_text_of_a_stranger_is() {
        let long = "\u{1}".repeat(1 << 18);
        let signatures: Vec<_> = (0..8)
            .map(|n| {
                let json = text("p256.bundle.json");
                let json = json.replace("application/vnd.dev.sigstore", &format!("{n}{long}"));
                Signature::bundle(Place::Attached, json.as_bytes())
            })
            .collect();
        let found = judged(&signed(&["p256"], 1), &file("manifest.json"), &signatures);
        let Verdict::Refused(why) = found else {
            panic!("{found:?}");
        };
        assert!(why.len() < 8 << 10, "{} bytes", why.len());
    }

    #[test]
    fn all_rules_must_hold() {
        let [rule, other] = ["p256", "rsa"].map(|key| Arc::new(signed(&[key], 1)));
        let never = Arc::new(Rule::Never("no".to_owned()));
        let subject = Subject {
            manifest: Digest::of(&file("manifest.json")),
            repository: None,

            tag: None,
            now: Timestamp::UNIX_EPOCH,
        };
        for (rules, is_accepted) in [
            (vec![rule.clone()], true),
            (vec![rule.clone(), rule.clone()], true),
            (vec![rule.clone(), other.clone()], false),
            (vec![other, rule.clone()], false),
            (vec![rule, never], false),
        ] {
            let found = judge(&rules, subject, &[bundle("p256")], b"");
            let expected = Verdict::Accepted("key /p256.pub (bundle)".into());
            assert_eq!(found == expected, is_accepted, "{found:?}");
        }
    }

    #[test]
    fn a_payload_names_this_repository_or_the_one_that_the_settings_allow() {
        let name = |name: &str| name.parse::<RepositoryAddress>().unwrap();
        let signatures = [simple(Place::SigTag, "p256")];
        for (own, or, is_accepted) in [
            (Some("localhost:5000/hello"), None, true),
            (Some("localhost:5000/other"), None, false),
            (Some("localhost/hello"), None, false),
            (Some("localhost:5000/hello/hello"), None, false),
            (
                Some("localhost:5000/other"),
                Some("localhost:5000/hello"),
                true,
            ),
            (
                Some("localhost:5000/hello"),
                Some("ghcr.io/acme/hello"),
                true,
            ),
            (None, None, false),
            (None, Some("localhost:5000/hello"), true),
            (None, Some("ghcr.io/acme/hello"), false),
        ] {
            let rule = Rule::Signed {
                signers: vec![Signer {
                    identity: Identity::Own { or: or.map(name) },
                    ..signer("p256")
                }],
                threshold: 1,
                origin: None,
            };
            let own = own.map(name);
            let subject = Subject {
                manifest: Digest::of(&file("manifest.json")),
                repository: own.as_ref(),
                tag: None,
                now: Timestamp::UNIX_EPOCH,
            };
            let found = judge(&[Arc::new(rule)], subject, &signatures, b"");
            let found_is_accepted = matches!(found, Verdict::Accepted(_));
            assert_eq!(found_is_accepted, is_accepted, "{own:?}, {or:?}: {found:?}");
        }
    }

    #[test]
    fn a_requirement_is_another_one_with_other_bytes_of_a_key() {
        let one = signed(&["p256"], 1);
        let mut other = signer("p384");
        other.by = By::Key(Key::parse("/p256.pub", &file("p384.pub")).unwrap());
        let other = Rule::Signed {
            signers: vec![other],
            threshold: 1,
            origin: None,
        };
        let digest = |rule: &Rule| digest_of(&[Arc::new(rule.clone())]);
        assert_ne!(digest(&one), digest(&other));
        assert_ne!(digest(&one), digest(&signed(&["p256", "p256"], 1)));
        assert_eq!(digest(&one), digest(&signed(&["p256"], 1)));
    }
}
