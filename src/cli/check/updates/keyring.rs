//! `Verify=yes`: the list has to be signed, gpg has to be there, and the key has to be in a keyring that this systemd reads.

use std::fs;

use super::openpgp;
use crate::cli::asked::Asked;
use crate::cli::check::machine::Machine;
use crate::cli::check::report::{Finding, Report, Step};
use crate::server::json::Overview;
use crate::sysupdate::SystemdVersion;

use super::Update;

/// The administrator's keyring, as of systemd 258.
const OWN: &str = "/etc/systemd/import-pubring.pgp";
/// The administrator's keyring up to systemd 257. Later ones read it where the other is missing.
const OWN_BEFORE: &str = "/etc/systemd/import-pubring.gpg";
/// The distribution's keyring, as of systemd 258.
const VENDOR: &str = "/usr/lib/systemd/import-pubring.pgp";
/// The distribution's keyring up to systemd 257, which reads it where the administrator has none.
const VENDOR_BEFORE: &str = "/usr/lib/systemd/import-pubring.gpg";
/// The last version with the names before.
const LAST_BEFORE: SystemdVersion = SystemdVersion(257);
/// The first bytes of a keyring that gpg does not take as one.
const ARMOR: &[u8] = b"-----BEGIN PGP";
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
    if overview.signed.is_none() {
        let text = format!(
            "Verify=yes (the default) requires a signature, and the list of {} is not signed",
            update.directory
        );
        let remedy = format!(
            "ask its publisher to sign the list, or write Verify=no into [Transfer] of {}",
            update.file()
        );
        return push(report, Finding::failed(Step::Keyring, text, remedy));
    }
    if !GPG.iter().any(|gpg| machine.path(gpg).exists()) {
        let text = "Verify=yes, and gpg, which systemd verifies with, is not installed";
        return push(
            report,
            Finding::failed(Step::Keyring, text, "install the package gpg"),
        );
    }
    let signature = signature(asked, update);
    let finding = keyrings(machine, systemd, signature.as_deref());
    push(report, finding);
}

/// The signature of the list, if it is there.
fn signature(asked: &Asked, update: &Update) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    asked.signature(&update.directory, &mut bytes).ok()?;
    Some(bytes)
}

/// Whether the keyrings that this systemd reads have the key of the signature.
fn keyrings(machine: &Machine, systemd: SystemdVersion, signature: Option<&[u8]>) -> Finding {
    let exists = |path: &str| machine.path(path).exists();
    let read = read_by(systemd, exists);
    let own = own(systemd, exists);
    if read.is_empty() {
        let text = format!("Verify=yes, and systemd {} finds no keyring", systemd.0);
        let remedy = match unread(systemd, exists) {
            Some(path) => format!("this systemd does not read {path}; `mv {path} {own}`"),
            None => format!("put the publisher's key into {own}: `gpg --export KEY > {own}`"),
        };
        return Finding::failed(Step::Keyring, text, remedy);
    }
    let mut keys = Vec::new();
    for path in &read {
        match fs::read(machine.path(path)) {
            Ok(bytes) if bytes.starts_with(ARMOR) => {
                let text = format!("{path} is armored, and systemd reads only binary keyrings");
                let remedy = format!("`gpg --dearmor < {path} > key && mv key {path}`");
                return Finding::failed(Step::Keyring, text, remedy);
            }
            Ok(bytes) => keys.push(bytes),
            Err(error) => {
                let text = format!("{path} cannot be read: {error}");
                return Finding::unknown(Step::Keyring, text, "run this command as root");
            }
        }
    }
    let names = read.join(" and ");
    let issuers = signature.map(openpgp::issuers).unwrap_or_default();
    let is_known = |issuer: &[u8; 8]| keys.iter().any(|keyring| openpgp::has_key(keyring, issuer));
    if issuers.is_empty() || issuers.iter().any(is_known) {
        return Finding::ok(
            Step::Keyring,
            format!("Verify=yes, and systemd reads {names}"),
        );
    }
    let key: String = issuers[0]
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect();
    let text = format!("the list is signed by the key {key}, which is not in {names}");
    let add = match unread(systemd, exists) {
        Some(path) => format!("this systemd does not read {path}; `cat {path} >> {own}`"),
        None => format!("add the publisher's key: `gpg --export {key} >> {own}`"),
    };
    Finding::failed(Step::Keyring, text, add)
}

/// The keyrings that this systemd reads, of those that exist (systemd: src/import/pull-common.c).
fn read_by(systemd: SystemdVersion, exists: impl Fn(&str) -> bool) -> Vec<&'static str> {
    if systemd <= LAST_BEFORE {
        let mut all = [OWN_BEFORE, VENDOR_BEFORE].into_iter();
        return all.find(|path| exists(path)).into_iter().collect();
    }
    let own = [OWN, OWN_BEFORE].into_iter().find(|path| exists(path));
    own.into_iter()
        .chain(Some(VENDOR).filter(|path| exists(path)))
        .collect()
}

/// Where an administrator adds a key.
fn own(systemd: SystemdVersion, exists: impl Fn(&str) -> bool) -> &'static str {
    match systemd <= LAST_BEFORE || (!exists(OWN) && exists(OWN_BEFORE)) {
        true => OWN_BEFORE,
        false => OWN,
    }
}

/// A keyring of the administrator that exists, and that this systemd does not read.
fn unread(systemd: SystemdVersion, exists: impl Fn(&str) -> bool) -> Option<&'static str> {
    let read = read_by(systemd, &exists);
    let mut own = [OWN, OWN_BEFORE].into_iter();
    own.find(|path| exists(path) && !read.contains(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_systemd_reads_keyrings_of_its_own() {
        const ALL: [&str; 4] = [OWN, OWN_BEFORE, VENDOR, VENDOR_BEFORE];
        for (version, there, read, add_to, ignored) in [
            (257, &[][..], &[][..], OWN_BEFORE, None),
            (257, &ALL, &[OWN_BEFORE], OWN_BEFORE, Some(OWN)),
            (
                257,
                &[OWN, VENDOR_BEFORE],
                &[VENDOR_BEFORE],
                OWN_BEFORE,
                Some(OWN),
            ),
            (257, &[VENDOR], &[], OWN_BEFORE, None),
            (262, &[], &[], OWN, None),
            (262, &ALL, &[OWN, VENDOR], OWN, Some(OWN_BEFORE)),
            (
                262,
                &[OWN_BEFORE, VENDOR],
                &[OWN_BEFORE, VENDOR],
                OWN_BEFORE,
                None,
            ),
            (262, &[VENDOR], &[VENDOR], OWN, None),
            (262, &[VENDOR_BEFORE], &[], OWN, None),
        ] {
            let systemd = SystemdVersion(version);
            let exists = |path: &str| there.contains(&path);
            assert_eq!(read_by(systemd, exists), read, "{version} {there:?}");
            assert_eq!(own(systemd, exists), add_to, "{version} {there:?}");
            assert_eq!(unread(systemd, exists), ignored, "{version} {there:?}");
        }
    }
}
