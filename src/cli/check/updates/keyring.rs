//! `Verify=yes`: the list has to be signed, gpg has to be there, and the key has to be in a keyring that this systemd reads.

use std::fs;

use crate::cli::asked::Asked;
use crate::cli::check::machine::Machine;
use crate::cli::check::report::{Finding, Report, Step};
use crate::cli::keyrings::{own, read_by, unread};
use crate::openpgp;
use crate::server::json::Overview;
use crate::sysupdate::SystemdVersion;

use super::Update;

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
