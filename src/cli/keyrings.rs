//! The keyrings by which systemd verifies lists, and which of them a version reads (systemd: src/import/pull-common.c).

use super::systemd::SystemdVersion;

/// The administrator's keyring, as of systemd 258.
pub const OWN: &str = "/etc/systemd/import-pubring.pgp";
/// The administrator's keyring up to systemd 257. Later ones read it where the other is missing.
pub const OWN_BEFORE: &str = "/etc/systemd/import-pubring.gpg";
/// The distribution's keyring, as of systemd 258.
pub const VENDOR: &str = "/usr/lib/systemd/import-pubring.pgp";
/// The distribution's keyring up to systemd 257, which reads it where the administrator has none.
pub const VENDOR_BEFORE: &str = "/usr/lib/systemd/import-pubring.gpg";
/// The last version with the names before.
pub const LAST_BEFORE: SystemdVersion = SystemdVersion(257);
/// A keyring for the units that update, which the command `key` writes: the keys of the keyrings that systemd reads
/// otherwise, and that of this machine.
pub const OF_UPDATES: &str = "/etc/sysext-oci-proxy/import-pubring.pgp";
/// Names one keyring in place of all others, by its absolute path.
pub const VARIABLE: &str = "SYSTEMD_OPENPGP_KEYRING";
/// The first version that reads [`VARIABLE`].
pub const READS_VARIABLE: SystemdVersion = SystemdVersion(262);

/// The keyrings that this systemd reads, of those that exist.
pub fn read_by(systemd: SystemdVersion, exists: impl Fn(&str) -> bool) -> Vec<&'static str> {
    if systemd <= LAST_BEFORE {
        let mut all = [OWN_BEFORE, VENDOR_BEFORE].into_iter();
        return all.find(|path| exists(path)).into_iter().collect();
    }
    let own = [OWN, OWN_BEFORE].into_iter().find(|path| exists(path));
    own.into_iter()
        .chain(Some(VENDOR).filter(|path| exists(path)))
        .collect()
}

/// The keyrings that the units that update read: theirs, if there is one, in place of the others.
pub fn read_by_updates(
    systemd: SystemdVersion,
    exists: impl Fn(&str) -> bool,
) -> Vec<&'static str> {
    match systemd >= READS_VARIABLE && exists(OF_UPDATES) {
        true => vec![OF_UPDATES],
        false => read_by(systemd, exists),
    }
}

/// Where an administrator adds a key.
pub fn own(systemd: SystemdVersion, exists: impl Fn(&str) -> bool) -> &'static str {
    match systemd <= LAST_BEFORE || (!exists(OWN) && exists(OWN_BEFORE)) {
        true => OWN_BEFORE,
        false => OWN,
    }
}

/// A keyring of the administrator that exists, and that this systemd does not read.
pub fn unread(systemd: SystemdVersion, exists: impl Fn(&str) -> bool) -> Option<&'static str> {
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
