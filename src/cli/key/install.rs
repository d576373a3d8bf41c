//! Has systemd accept the signatures of this machine, and undoes that.

use std::io::ErrorKind;
use std::path::Path;

use super::keyring::{self, Removed};
use super::{COMMAND, PublicKey, below, cannot};
use crate::cli::keyrings::{
    self, OF_UPDATES, OWN, OWN_BEFORE, READS_VARIABLE, VARIABLE, VENDOR, VENDOR_BEFORE,
};
use crate::cli::systemd::{self, SystemdVersion};
use crate::dir;
use crate::error::{Error, Result};
use crate::openpgp::{Fingerprint, Keyring};

/// The units that update: systemd's own of versions 257 to 262, and that of this program.
const UNITS: [&str; 5] = [
    "systemd-sysupdate.service",
    "systemd-sysupdate@.service",
    "systemd-sysupdate-update.service",
    "systemd-sysupdated.service",
    "sysext-oci-proxy-update@.service",
];
const DROP_IN: &str = "50-sysext-oci-proxy-key.conf";
/// The price of it, in one sentence.
const PRICE: &str = "From now on this service can sign for every source on this machine";

/// Adds the key of this machine to a keyring. Each file is written whole, then renamed.
pub fn install(
    root: &Path,
    systemd: SystemdVersion,
    is_global: bool,
    key: &PublicKey,
) -> Result<String> {
    let mut said = format!("key {}\n", key.fingerprint);
    match systemd >= READS_VARIABLE && !is_global {
        true => said += &install_for_updates(root, systemd, key)?,
        false => said += &install_for_all(root, systemd, key)?,
    }
    Ok(said + PRICE + "\n")
}

/// A keyring of its own, which the units that update read in place of the others.
fn install_for_updates(root: &Path, systemd: SystemdVersion, key: &PublicKey) -> Result<String> {
    let keys = [keys_of_others(root, systemd)?, key.bytes.clone()].concat();
    let mut said = written(root, OF_UPDATES, &keys)?;
    for unit in UNITS {
        said += &written(root, &drop_in(unit), text().as_bytes())?;
    }
    if !said.is_empty() {
        reload(root)?;
    }
    Ok(said
        + &format!(
            "only the units that update read this keyring; for a command: {VARIABLE}={OF_UPDATES} systemd-sysupdate …\n"
        ))
}

/// The keys of others in the keyrings that systemd reads where no variable names one.
fn keys_of_others(root: &Path, systemd: SystemdVersion) -> Result<Vec<u8>> {
    let mut keys = Vec::new();
    for path in keyrings::read_by(systemd, |path| below(root, path).exists()) {
        keys.extend(keyring::packets(&below(root, path))?.unwrap_or_default());
    }
    let all = Keyring::read(&keys).ok_or_else(|| cannot("the keyrings are damaged".to_owned()))?;
    Ok(all.without_machines())
}

/// The keyring that the administrator has for all downloads.
fn install_for_all(root: &Path, systemd: SystemdVersion, key: &PublicKey) -> Result<String> {
    let exists = |path: &str| below(root, path).exists();
    let path = keyrings::own(systemd, exists);
    let base = || base(root, systemd);
    Ok(match keyring::add(&below(root, path), base, key)? {
        true => format!("added it to {path}\n"),
        false => format!("{path} has it already\n"),
    })
}

/// The keys that the administrator's keyring begins with: up to systemd 261 it replaces the distribution's.
fn base(root: &Path, systemd: SystemdVersion) -> Result<Vec<u8>> {
    let vendor = [VENDOR_BEFORE, VENDOR].map(|path| below(root, path));
    let vendor = vendor.iter().find(|path| path.exists());
    let vendor = vendor.filter(|_| systemd < READS_VARIABLE);
    let keys = vendor.map(|path| keyring::packets(path)).transpose()?;
    Ok(keys.flatten().unwrap_or_default())
}

/// A keyring that was made of others, which have other keys now.
pub fn stale(root: &Path, systemd: SystemdVersion) -> Result<Option<&'static str>> {
    let exists = |path: &str| below(root, path).exists();
    if keyrings::read_by_updates(systemd, exists) == [OF_UPDATES] {
        let bytes = keyring::packets(&below(root, OF_UPDATES))?.unwrap_or_default();
        let here = Keyring::read(&bytes).map(|keyring| keyring.without_machines());
        let is_stale = here != Some(keys_of_others(root, systemd)?);
        return Ok(is_stale.then_some(OF_UPDATES));
    }
    let path = keyrings::own(systemd, exists);
    let copied = keyring::copied(&below(root, path))?;
    Ok(match copied {
        Some(copied) if copied != base(root, systemd)? => Some(path),
        _ => None,
    })
}

/// Undoes both.
pub fn remove(root: &Path) -> Result<String> {
    let mut said = String::new();
    for path in [OWN, OWN_BEFORE] {
        let removed = keyring::remove(&below(root, path))?;
        said += &match removed {
            Removed::Nothing => String::new(),
            Removed::Restored(keys) => {
                format!("removed {} from {path}, which is as it was\n", names(&keys))
            }
            Removed::Others(keys) => format!(
                "removed {} from {path}; its other keys were changed since, and stay as they are now\n",
                names(&keys)
            ),
            Removed::Unreadable => {
                format!(
                    "kept {path}: it has the key, but is no row of OpenPGP packets; remove the key with gpg\n"
                )
            }
        };
    }
    let mut is_changed = false;
    for unit in UNITS {
        let name = drop_in(unit);
        let path = below(root, &name);
        match keyring::read(&path)? {
            None => {}
            Some(found) if found == text().as_bytes() => {
                keyring::remove_if_there(&path)?;
                said += &format!("removed {name}\n");
                is_changed = true;
                remove_empty(path.parent().unwrap_or(root))?;
            }
            Some(_) => said += &format!("kept {name}: it was changed after it was written\n"),
        }
    }
    if below(root, OF_UPDATES).exists() {
        keyring::remove_if_there(&below(root, OF_UPDATES))?;
        said += &format!("removed {OF_UPDATES}\n");
    }
    if is_changed {
        reload(root)?;
    }
    if said.is_empty() {
        said = "there is no key of this machine in any keyring\n".to_owned();
    }
    Ok(said)
}

/// Writes a file unless it is there. The result is a line if it was written.
fn written(root: &Path, path: &str, bytes: &[u8]) -> Result<String> {
    let real = below(root, path);
    if keyring::read(&real)?.as_deref() == Some(bytes) {
        return Ok(String::new());
    }
    keyring::write(&real, bytes)?;
    Ok(format!("wrote {path}\n"))
}

/// The path of a drop-in.
fn drop_in(unit: &str) -> String {
    format!("/etc/systemd/system/{unit}.d/{DROP_IN}")
}

fn text() -> String {
    format!(
        "# Written by \"sysext-oci-proxy key --install\"; \"key --remove\" removes it.\n\
         [Service]\nEnvironment={VARIABLE}={OF_UPDATES}\n"
    )
}

fn names(keys: &[Fingerprint]) -> String {
    let keys: Vec<_> = keys.iter().map(|key| format!("key {key}")).collect();
    keys.join(" and ")
}

fn remove_empty(folder: &Path) -> Result<()> {
    match dir::remove_empty(folder) {
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
        removed => removed.map_err(Error::file(folder)),
    }
}

/// Has systemd read the drop-ins, unless they are another machine's.
fn reload(root: &Path) -> Result<()> {
    if root == "/" {
        systemd::systemctl(COMMAND, &["daemon-reload"])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;
    use std::{env, fs, process};

    use super::*;
    use crate::openpgp::MachineKey;

    const OLD: SystemdVersion = SystemdVersion(257);
    const NEW: SystemdVersion = SystemdVersion(262);

    /// A machine whose files go when the test ends.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, files: &[(&str, &[u8])]) -> Self {
            let name = format!("sysext-oci-proxy-install-{name}-{}", process::id());
            let root = Self(env::temp_dir().join(name));
            for (path, bytes) in files {
                root.write(path, bytes);
            }
            root
        }

        fn write(&self, path: &str, bytes: &[u8]) {
            let path = below(&self.0, path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }

        fn read(&self, path: &str) -> Option<Vec<u8>> {
            fs::read(below(&self.0, path)).ok()
        }

        /// All files with their contents.
        fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
            let (mut found, mut folders) = (BTreeMap::new(), vec![self.0.clone()]);
            while let Some(folder) = folders.pop() {
                for entry in fs::read_dir(folder).unwrap().flatten() {
                    match entry.path() {
                        path if path.is_dir() => folders.push(path),
                        path => {
                            let bytes = fs::read(&path).unwrap();
                            found.insert(path, bytes);
                        }
                    }
                }
            }
            found
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn key(seed: u8) -> PublicKey {
        let key = MachineKey::new(&[seed; 32]);
        PublicKey {
            bytes: key.public(),
            fingerprint: key.fingerprint(),
        }
    }

    /// The keys of somebody else: only the key's packet counts, and each is another.
    fn other(n: u8) -> Vec<u8> {
        vec![0x98, 3, 4, 0, n, 0xb4, 3, b'a', b'b', b'c']
    }

    #[test]
    fn on_257_the_key_is_added_to_the_keyring_of_all_and_removed_without_a_trace() {
        let (own, vendor) = ([other(1), other(2)].concat(), other(3));
        for (name, files, expected, goes_to) in [
            (
                "own",
                vec![(OWN_BEFORE, &*own), (VENDOR_BEFORE, &*vendor)],
                &*own,
                OWN_BEFORE,
            ),
            (
                "vendor",
                vec![(VENDOR_BEFORE, &*vendor)],
                &*vendor,
                OWN_BEFORE,
            ),
            (
                "none",
                vec![("/etc/hosts", &b"x"[..])],
                &b""[..],
                OWN_BEFORE,
            ),
            (
                "empty",
                vec![(OWN_BEFORE, &b""[..]), (VENDOR_BEFORE, &*vendor)],
                b"",
                OWN_BEFORE,
            ),
            (
                "both",
                vec![(OWN, &*vendor), (OWN_BEFORE, &*own)],
                &*own,
                OWN_BEFORE,
            ),
        ] {
            let root = Root::new(name, &files);
            let before = root.files();
            for seed in [1, 1, 2] {
                let key = key(seed);
                let said = install(&root.0, OLD, false, &key).unwrap();
                let fingerprint = key.fingerprint.to_string();
                assert!(
                    said.contains(&fingerprint) && said.contains(PRICE),
                    "{said}"
                );
                let with = [expected, &key.bytes].concat();
                assert_eq!(root.read(goes_to).unwrap(), with, "{name}, key {seed}");
            }
            let said = remove(&root.0).unwrap();
            assert!(said.contains("which is as it was"), "{name}: {said}");
            assert_eq!(root.files(), before, "{name}");
            assert!(remove(&root.0).unwrap().starts_with("there is no key"));
        }
    }

    #[test]
    fn a_copy_of_the_distributions_keyring_follows_it_when_the_key_is_installed_again() {
        for (systemd, vendor, goes_to) in [
            (OLD, VENDOR_BEFORE, OWN_BEFORE),
            (SystemdVersion(258), VENDOR, OWN),
            (NEW, VENDOR, OF_UPDATES),
        ] {
            let root = Root::new(&format!("follows-{}", systemd.0), &[(vendor, &other(3))]);
            install(&root.0, systemd, false, &key(1)).unwrap();
            assert_eq!(stale(&root.0, systemd).unwrap(), None);
            root.write(vendor, &other(5));
            assert_eq!(stale(&root.0, systemd).unwrap(), Some(goes_to));
            install(&root.0, systemd, false, &key(1)).unwrap();
            assert_eq!(stale(&root.0, systemd).unwrap(), None);
            let with = [other(5), key(1).bytes].concat();
            assert_eq!(root.read(goes_to).unwrap(), with);
            remove(&root.0).unwrap();
            assert_eq!(root.files().len(), 1);
        }
    }

    #[test]
    fn keys_that_came_meanwhile_stay() {
        let root = Root::new("meanwhile", &[(VENDOR_BEFORE, &other(3))]);
        install(&root.0, OLD, false, &key(1)).unwrap();
        let with = [root.read(OWN_BEFORE).unwrap(), other(4)].concat();
        root.write(OWN_BEFORE, &with);
        let said = remove(&root.0).unwrap();
        assert!(said.contains("stay as they are now"), "{said}");
        assert_eq!(
            root.read(OWN_BEFORE).unwrap(),
            [other(3), other(4)].concat()
        );
        assert_eq!(root.files().len(), 2);
    }

    #[test]
    fn from_262_on_only_the_units_that_update_read_the_key() {
        let (own, vendor) = (other(1), other(3));
        for (name, own_path, is_read) in [
            ("pgp", OWN, true),
            ("gpg", OWN_BEFORE, true),
            ("side-by-side", OWN, true),
            ("no-own", "/etc/hosts", false),
        ] {
            let root = Root::new(name, &[(own_path, &own), (VENDOR, &vendor)]);
            if name == "side-by-side" {
                root.write(OWN_BEFORE, b"not read");
            }
            let before = root.files();
            for seed in [1, 1, 2] {
                let said = install(&root.0, NEW, false, &key(seed)).unwrap();
                assert!(said.contains(PRICE) && said.contains(VARIABLE), "{said}");
                let own = if is_read { &*own } else { b"" };
                let expected = [own, &vendor, &key(seed).bytes].concat();
                assert_eq!(root.read(OF_UPDATES).unwrap(), expected, "{name}");
                for unit in UNITS {
                    let text = root.read(&drop_in(unit)).unwrap();
                    let text = String::from_utf8(text).unwrap();
                    let line = format!("\nEnvironment={VARIABLE}={OF_UPDATES}\n");
                    assert!(
                        text.contains("[Service]\n") && text.contains(&line),
                        "{text}"
                    );
                }
            }
            let mut changed = root.files();
            changed.retain(|path, bytes| before.get(path) != Some(bytes));
            assert_eq!(changed.len(), 1 + UNITS.len(), "{changed:?}");
            remove(&root.0).unwrap();
            assert_eq!(root.files(), before, "{name}");
            assert!(
                !below(&root.0, "/etc/systemd/system")
                    .join(UNITS[0])
                    .exists()
            );
        }
    }

    #[test]
    fn by_name_all_downloads_accept_the_key_on_262_too() {
        for (name, files, goes_to) in [
            ("global-pgp", &[OWN, OWN_BEFORE, VENDOR][..], OWN),
            ("global-gpg", &[OWN_BEFORE, VENDOR], OWN_BEFORE),
            ("global-none", &[VENDOR], OWN),
        ] {
            let bytes = other(1);
            let files: Vec<_> = files.iter().map(|path| (*path, &*bytes)).collect();
            let root = Root::new(name, &files);
            let before = root.files();
            install(&root.0, NEW, true, &key(1)).unwrap();
            // The distribution's keyring is read, too.
            let own = if name == "global-none" {
                &b""[..]
            } else {
                &bytes
            };
            let expected = [own, &key(1).bytes].concat();
            assert_eq!(root.read(goes_to).unwrap(), expected, "{name}");
            assert_eq!(root.read(OF_UPDATES), None);
            remove(&root.0).unwrap();
            assert_eq!(root.files(), before, "{name}");
        }
    }

    #[test]
    fn a_file_that_is_no_keyring_stays_and_is_an_error() {
        for (name, bytes, expected) in [
            (
                "armored",
                &b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n"[..],
                "is armored",
            ),
            ("damaged", &key(1).bytes[1..], "is damaged"),
        ] {
            let root = Root::new(name, &[(OWN_BEFORE, bytes)]);
            let before = root.files();
            for systemd in [OLD, NEW] {
                let line = install(&root.0, systemd, false, &key(1))
                    .unwrap_err()
                    .line();
                assert!(line.contains(expected), "{line}");
            }
            let said = remove(&root.0).unwrap();
            assert_eq!(said.contains("kept"), name == "damaged", "{said}");
            assert_eq!(root.files(), before);
        }
    }

    #[test]
    fn a_changed_drop_in_and_the_permissions_of_a_keyring_stay() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let root = Root::new("permissions", &[("/etc/keys/all.gpg", &other(1))]);
        let real = below(&root.0, "/etc/keys/all.gpg");
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
        root.write("/etc/systemd/system/a", b"");
        symlink(&real, below(&root.0, OWN_BEFORE)).unwrap();
        install(&root.0, OLD, false, &key(1)).unwrap();
        let link = below(&root.0, OWN_BEFORE).symlink_metadata().unwrap();
        assert!(link.is_symlink());
        let mode = fs::metadata(&real).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode, fs::read(&real).unwrap()),
            (0o640, [other(1), key(1).bytes].concat())
        );
        remove(&root.0).unwrap();
        assert_eq!(fs::read(&real).unwrap(), other(1));

        install(&root.0, NEW, false, &key(1)).unwrap();
        root.write(&drop_in(UNITS[0]), b"[Service]\n");
        let said = remove(&root.0).unwrap();
        assert!(
            said.contains("it was changed after it was written"),
            "{said}"
        );
        assert_eq!(root.read(&drop_in(UNITS[0])).unwrap(), b"[Service]\n");
    }

    /// The key of somebody else in a keybox, made by gpg.
    fn keybox(home: &Path) -> Option<Vec<u8>> {
        let gpg = |arguments: &[&str]| {
            let mut command = process::Command::new("gpg");
            command
                .args(["--batch", "--quiet", "--passphrase", ""])
                .args(arguments);
            command
                .env("GNUPGHOME", home)
                .output()
                .ok()
                .filter(|done| done.status.success())
        };
        gpg(&["--quick-gen-key", "somebody", "ed25519", "sign", "never"])?;
        let _ = gpg(&["--kill"]);
        let mut agent = process::Command::new("gpgconf");
        let _ = agent
            .args(["--kill", "all"])
            .env("GNUPGHOME", home)
            .output();
        fs::read(home.join("pubring.kbx")).ok()
    }

    #[test]
    fn a_keybox_is_exported_and_put_back() {
        use std::os::unix::fs::DirBuilderExt;
        let home = env::temp_dir().join(format!("sysext-oci-proxy-gpg-{}", process::id()));
        fs::DirBuilder::new().mode(0o700).create(&home).unwrap();
        let keybox = keybox(&home);
        fs::remove_dir_all(&home).unwrap();
        // Where there is no gpg nothing can be tested: systemd verifies nothing there, either.
        let Some(keybox) = keybox else { return };
        for (name, systemd, path, goes_to) in [
            ("keybox-own", OLD, OWN_BEFORE, OWN_BEFORE),
            ("keybox-vendor", OLD, VENDOR_BEFORE, OWN_BEFORE),
            ("keybox-new", NEW, OWN, OF_UPDATES),
        ] {
            let root = Root::new(name, &[(path, &keybox)]);
            let before = root.files();
            for seed in [1, 2] {
                install(&root.0, systemd, false, &key(seed)).unwrap();
                let bytes = root.read(goes_to).unwrap();
                let keyring = Keyring::read(&bytes).unwrap();
                let machines: Vec<_> = keyring.machines().collect();
                assert_eq!(machines, [key(seed).fingerprint], "{name}");
                let rest = keyring.without_machines();
                assert!(rest.windows(8).any(|part| part == b"somebody"), "{name}");
            }
            remove(&root.0).unwrap();
            assert_eq!(root.files(), before, "{name}");
        }
    }
}
