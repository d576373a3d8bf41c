//! `Verify=yes`: the list has to be signed, gpg has to be there, and the key has to be in a keyring that this systemd reads.

use std::fs;

use crate::cli::asked::Asked;
use crate::cli::check::machine::Machine;
use crate::cli::check::report::{Finding, Report, Step};
use crate::cli::key;
use crate::cli::keyrings::{own, read_by_updates, unread};
use crate::openpgp::{self, Fingerprint, Form, Keyring};
use crate::server::json::{Overview, SignedBy};
use crate::sysupdate::SystemdVersion;

use super::Update;

/// The remedy if systemd does not have the key of this machine.
const INSTALL: &str = "`sysext-oci-proxy key --install` as root; SECURITY.md says what that costs";
/// The program that systemd verifies by, and where it can be.
const GPG: [&str; 4] = [
    "/usr/bin/gpg",
    "/usr/local/bin/gpg",
    "/bin/gpg",
    "/usr/sbin/gpg",
];

/// Looks at what `Verify=yes` of a transfer file needs. `overview`: what its repository offers.
pub fn check(
    report: &mut Report,
    machine: &Machine,
    systemd: SystemdVersion,
    asked: &Asked,
    update: &Update,
    overview: &Overview,
) {
    let push = |report: &mut Report, finding: Finding| report.push(finding.of(update.file()));
    if !update.transfer.verify {
        let text = "Verify=no, so systemd-sysupdate requires no signature";
        return push(report, Finding::ok(Step::Keyring, text));
    }
    let Some(by) = overview.signed else {
        return push(report, unsigned(update, overview));
    };
    if !GPG.iter().any(|gpg| machine.path(gpg).exists()) {
        let text = "Verify=yes, and gpg, which systemd verifies with, is not installed";
        return push(
            report,
            Finding::failed(Step::Keyring, text, "install the package gpg"),
        );
    }
    let signature = signature(asked, update);
    let list = List {
        by,
        directory: update.directory.to_string(),
        issuers: signature
            .as_deref()
            .map(openpgp::issuers)
            .unwrap_or_default(),
    };
    for finding in keyrings(machine, systemd, &list) {
        push(report, finding);
    }
}

/// The finding for a list without a signature.
fn unsigned(update: &Update, overview: &Overview) -> Finding {
    let text = format!(
        "Verify=yes (the default) requires a signature, and the list of {} is not signed",
        update.directory
    );
    let files = &overview.files;
    let is_verified = !files.is_empty() && files.iter().all(|file| file.verified_by.is_some());
    let or_sign = match is_verified {
        true => ", or have this service sign it by sign = true in its settings (docs/trust.md)",
        false => "",
    };
    let remedy = format!(
        "ask its publisher to sign the list{or_sign}, or write Verify=no into [Transfer] of {}",
        update.file()
    );
    Finding::failed(Step::Keyring, text, remedy)
}

/// A signed list.
struct List {
    by: SignedBy,
    directory: String,
    /// The IDs of the keys that signed it, if that could be found out.
    issuers: Vec<[u8; 8]>,
}

/// The signature of the list, if it is there.
fn signature(asked: &Asked, update: &Update) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    asked.signature(&update.directory, &mut bytes).ok()?;
    Some(bytes)
}

/// Whether the keyrings that this systemd reads have the key of a list, and which other lists the keys in them can sign.
fn keyrings(machine: &Machine, systemd: SystemdVersion, list: &List) -> Vec<Finding> {
    let exists = |path: &str| machine.path(path).exists();
    let read = read_by_updates(systemd, exists);
    let own = own(systemd, exists);
    if read.is_empty() {
        let text = format!("Verify=yes, and systemd {} finds no keyring", systemd.0);
        let remedy = match unread(systemd, exists) {
            _ if list.by == SignedBy::Machine => INSTALL.to_owned(),
            Some(path) => format!("this systemd does not read {path}; `mv {path} {own}`"),
            None => format!("put the publisher's key into {own}: `gpg --export KEY > {own}`"),
        };
        return vec![Finding::failed(Step::Keyring, text, remedy)];
    }
    let mut keys = Vec::new();
    for path in &read {
        match fs::read(machine.path(path)) {
            Ok(bytes) if Form::of(&bytes) == Form::Armored => {
                let text = format!("{path} is armored, and systemd reads only binary keyrings");
                let remedy = format!("`gpg --dearmor < {path} > key && mv key {path}`");
                return vec![Finding::failed(Step::Keyring, text, remedy)];
            }
            Ok(bytes) => keys.push(bytes),
            Err(error) => {
                let text = format!("{path} cannot be read: {error}");
                return vec![Finding::unknown(
                    Step::Keyring,
                    text,
                    "run this command as root",
                )];
            }
        }
    }
    let names = read.join(" and ");
    let keyrings = keys.iter().filter_map(|keyring| Keyring::read(keyring));
    let machines: Vec<_> = keyrings
        .flat_map(|one| Vec::from_iter(one.machines()))
        .collect();
    let is_known = |issuer: &[u8; 8]| keys.iter().any(|keyring| openpgp::has_key(keyring, issuer));
    if list.issuers.is_empty() || list.issuers.iter().any(is_known) {
        let signed = match list.by {
            SignedBy::Publisher => "",
            SignedBy::Machine => ", with the key of this machine",
        };
        let text = format!("Verify=yes, and systemd reads {names}{signed}");
        let good = Finding::ok(Step::Keyring, text);
        let stale = stale(machine, systemd);
        let doubt = can_forge(list, &names, &machines);
        return [good].into_iter().chain(stale).chain(doubt).collect();
    }
    let key: String = list.issuers[0]
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect();
    if list.by == SignedBy::Machine {
        let text = match machines.first() {
            None => format!(
                "the list is signed by the key {key} of this machine, which is not in {names}"
            ),
            Some(other) => format!(
                "the list is signed by the key {key} of this machine, and {names} has another key of it, {other}"
            ),
        };
        return vec![Finding::failed(Step::Keyring, text, INSTALL)];
    }
    let text = format!("the list is signed by the key {key}, which is not in {names}");
    let add = match unread(systemd, exists) {
        Some(path) => format!("this systemd does not read {path}; `cat {path} >> {own}`"),
        None => format!("add the publisher's key: `gpg --export {key} >> {own}`"),
    };
    vec![Finding::failed(Step::Keyring, text, add)]
}

/// A warning if the key of this machine can sign a list that its publisher signs.
fn can_forge(list: &List, names: &str, machines: &[Fingerprint]) -> Option<Finding> {
    let key = machines
        .first()
        .filter(|_| list.by == SignedBy::Publisher)?;
    let text = format!(
        "{names} also has the key of this machine, {key}: whoever takes over this service could forge the list of {}, \
         which its publisher signs",
        list.directory
    );
    let remedy = "`sysext-oci-proxy key --remove` as root, if no other repository needs that key (SECURITY.md)";
    Some(Finding::warning(Step::Keyring, text, remedy))
}

/// A warning if a keyring that `key --install` made of others has not the keys that these have now.
fn stale(machine: &Machine, systemd: SystemdVersion) -> Option<Finding> {
    // Whether they can be read is a question of other transfer files.
    let path = key::stale(machine.root(), systemd).ok()??;
    let text = format!("{path} has not the keys that the other keyrings have now");
    Some(Finding::warning(Step::Keyring, text, INSTALL))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::{env, process};

    use super::*;
    use crate::cli::check::report::Status;
    use crate::cli::keyrings::OF_UPDATES;
    use crate::openpgp::MachineKey;

    const OLD: &str = "etc/systemd/import-pubring.gpg";
    const VENDOR: &str = "usr/lib/systemd/import-pubring.pgp";

    /// A machine with these files, which go when the test ends.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, files: &[(&str, &[u8])]) -> Self {
            let name = format!("sysext-oci-proxy-keyring-{name}-{}", process::id());
            let root = env::temp_dir().join(name);
            fs::create_dir(&root).unwrap();
            for (path, bytes) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn the_key_of_this_machine_is_found_where_it_is_and_where_it_should_not_be() {
        use SignedBy::{Machine as ByMachine, Publisher};
        let [one, two] = [1, 2].map(|seed| MachineKey::new(&[seed; 32]));
        let other = vec![
            0x98, 10, 4, 0, b'0', b'1', b'2', b'3', b'4', b'5', b'6', b'7',
        ];
        let with = |key: &MachineKey| [other.clone(), key.public()].concat();
        let id = |key: &MachineKey| key.fingerprint().id();
        let theirs = *b"01234567";
        let of_updates = OF_UPDATES.trim_start_matches('/');
        let ok = |text| (Status::Ok, text, None);
        let failed = |text| (Status::Failed, text, Some("key --install"));
        let forge = (
            Status::Warning,
            "could forge the list of k8s",
            Some("key --remove"),
        );
        type Expected = (Status, &'static str, Option<&'static str>);
        type Files<'a> = Vec<(&'a str, Vec<u8>)>;
        type Case<'a> = (&'a str, u32, Files<'a>, SignedBy, [u8; 8], Vec<Expected>);
        let cases: [Case<'_>; 8] = [
            (
                "installed",
                257,
                vec![(OLD, with(&one))],
                ByMachine,
                id(&one),
                vec![ok("with the key of this machine")],
            ),
            (
                "another",
                257,
                vec![(OLD, with(&two))],
                ByMachine,
                id(&one),
                vec![failed("has another key of it")],
            ),
            (
                "absent",
                257,
                vec![(OLD, other.clone())],
                ByMachine,
                id(&one),
                vec![failed("of this machine, which is not in")],
            ),
            (
                "no-keyring",
                257,
                vec![],
                ByMachine,
                id(&one),
                vec![failed("finds no keyring")],
            ),
            (
                "meets",
                257,
                vec![(OLD, with(&one))],
                Publisher,
                theirs,
                vec![ok("reads /etc/systemd/import-pubring.gpg"), forge],
            ),
            (
                "theirs",
                257,
                vec![(OLD, other.clone())],
                Publisher,
                theirs,
                vec![ok("reads /etc/systemd/import-pubring.gpg")],
            ),
            (
                "of-updates",
                262,
                vec![(of_updates, with(&one)), (VENDOR, other.clone())],
                Publisher,
                theirs,
                vec![ok("reads /etc/sysext-oci-proxy/import-pubring.pgp"), forge],
            ),
            (
                "stale",
                262,
                vec![
                    (of_updates, with(&one)),
                    (VENDOR, [other.clone(), other.clone()].concat()),
                ],
                ByMachine,
                id(&one),
                vec![
                    ok("with the key of this machine"),
                    (
                        Status::Warning,
                        "has not the keys that the other keyrings have now",
                        Some("key --install"),
                    ),
                ],
            ),
        ];
        for (name, systemd, files, by, issuer, expected) in cases {
            let files: Vec<_> = files
                .iter()
                .map(|(path, bytes)| (*path, &**bytes))
                .collect();
            let root = Root::new(name, &files);
            let list = List {
                by,
                directory: "k8s".to_owned(),
                issuers: vec![issuer],
            };
            let found = keyrings(&Machine::new(&root.0), SystemdVersion(systemd), &list);
            assert_eq!(found.len(), expected.len(), "{name}: {found:?}");
            for (found, (status, text, remedy)) in found.iter().zip(expected) {
                let told = found.remedy.as_deref().unwrap_or_default();
                let is_told = remedy.is_none_or(|remedy| told.contains(remedy));
                assert_eq!(
                    (found.status, found.text.contains(text), is_told),
                    (status, true, true),
                    "{name}: {found:?}"
                );
            }
        }
    }
}
