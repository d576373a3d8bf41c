//! Keyrings of an administrator, and signatures of a publisher: files that others wrote.

use crate::openpgp::{Form, Keyring, MachineKey, issuers};

/// A keyring, also read as a signature: neither panics. The key of this machine comes and goes, and all other bytes stay.
pub fn keyrings(data: &[u8]) {
    // A packet with an issuer has at least 10 bytes.
    assert!(issuers(data).len() <= data.len() / 10);
    let Some(keyring) = Keyring::read(data) else {
        assert_ne!(Form::of(data), Form::Packets);
        return;
    };
    let machines = keyring.machines().count();
    let others = keyring.without_machines();
    assert_eq!(others.len() == data.len(), machines == 0);
    let others_again = Keyring::read(&others).unwrap();
    assert_eq!(
        (
            others_again.machines().count(),
            others_again.without_machines()
        ),
        (0, others.clone())
    );
    let key = MachineKey::new(&[1; 32]);
    let with = keyring.with(&key.public());
    let read = Keyring::read(&with).unwrap();
    assert_eq!(Vec::from_iter(read.machines()), [key.fingerprint()]);
    assert_eq!(read.without_machines(), others);
    assert_eq!(read.with(&key.public()), with);
}
