//! Certificates of registries on this machine that end soon, and trusted roots.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::machine::Machine;
use super::report::{Finding, Report, Step};
use super::validity;
use crate::address::Directory;
use crate::name::Host;
use crate::settings::{Settings, files_in};
use crate::source::CertificateDirectories;

/// How long before its end somebody should look after a certificate: those of Let's Encrypt are renewed then.
const SOON: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Looks at the CAs and client certificates in certs.d for the registries of these directories.
pub fn check(
    report: &mut Report,
    machine: &Machine,
    settings: &Settings,
    directories: &[Directory],
    is_direct: bool,
) {
    let located = directories
        .iter()
        .filter_map(|one| one.clone().locate(settings).ok());
    let located: Vec<_> = located.collect();
    let rules = located
        .iter()
        .filter_map(|one| one.settings.signed_by.as_ref());
    let roots = rules.flat_map(|rule| rule.trusted_roots());
    let roots: BTreeMap<_, _> = roots.map(|root| (root.path(), root.ends())).collect();
    for (file, end) in roots {
        let finding = judge_root(end, Timestamp::now());
        report.push(finding.of(file.display()));
    }
    let places = located.into_iter().flat_map(|one| one.places);
    let hosts: BTreeSet<Host> = places.filter_map(|(_, place)| place.name()?.host).collect();
    let all = match is_direct {
        true => CertificateDirectories::usual(machine.root()),
        false => CertificateDirectories::of_system(machine.root()),
    };
    for host in hosts {
        let Some(directory) = all.of(&host) else {
            continue;
        };
        for ending in ["crt", "cert"] {
            for file in files_in(&directory, ending).unwrap_or_default() {
                report.push(look(&file, Timestamp::now()).of(file.display()));
            }
        }
    }
}

fn look(file: &Path, now: Timestamp) -> Finding {
    let step = Step::Expiry;
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) => return Finding::skipped(step, format!("it cannot be read: {error}")),
    };
    let certificates = CertificateDer::pem_slice_iter(&text).filter_map(Result::ok);
    let ends = certificates.filter_map(|certificate| validity::end(&certificate));
    match ends.min() {
        Some(end) => judge(end, now),
        None => Finding::ok(step, "no certificate in it has an expiry date"),
    }
}

/// `end`: of the first certificate in a file that ends.
fn judge(end: Timestamp, now: Timestamp) -> Finding {
    let remedy = "put its replacement into this file, or into another file in the same directory";
    if end < now {
        Finding::warning(Step::Expiry, format!("it expired on {end}"), remedy)
    } else if end < now + SOON {
        Finding::warning(Step::Expiry, format!("it expires soon, on {end}"), remedy)
    } else {
        Finding::ok(Step::Expiry, format!("it expires on {end}"))
    }
}

/// `end`: of the services in a trusted root, if they end.
fn judge_root(end: Option<Timestamp>, now: Timestamp) -> Finding {
    let remedy = "replace it by what `cosign trusted-root create --with-default-services` prints, or by that of your own \
                  services, and reload the service";
    let Some(end) = end else {
        return Finding::ok(Step::Expiry, "no service in this trusted root ends");
    };
    if end < now {
        let text = format!("this trusted root ended on {end}: nothing newer can be verified by it");
        Finding::warning(Step::Expiry, text, remedy)
    } else if end < now + SOON {
        let text = format!("this trusted root ends soon, on {end}");
        Finding::warning(Step::Expiry, text, remedy)
    } else {
        let text = format!("this trusted root ends on {end}");
        Finding::ok(Step::Expiry, text)
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::*;

    #[test]
    fn a_month_before_its_end_a_certificate_is_told() {
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        let now = time("2026-12-01T00:00:00Z");
        for (end, status) in [
            ("2026-11-30T23:59:59Z", Status::Warning),
            ("2026-12-01T00:00:01Z", Status::Warning),
            ("2026-12-30T00:00:00Z", Status::Warning),
            ("2027-01-01T00:00:00Z", Status::Ok),
        ] {
            assert_eq!(judge(time(end), now).status, status, "{end}");
        }
    }
}
