//! OpenPGP, as far as keyrings and the signature of this machine need it: RFC 9580 (version 4 of keys and signatures, as in
//! RFC 4880). No I/O.
//!
//! ```text
//! packets      the packets of a file: which keys made a signature
//! keyring      the keys of a keyring: split, added, removed
//! machine_key  the key of this machine, and its signatures
//! ```

mod armor;
mod keyring;
mod machine_key;
mod packets;

pub use armor::armored;
pub use keyring::{Form, Keyring};
pub use machine_key::{Fingerprint, MachineKey, NAME, SEED};
pub use packets::{has_key, issuers};
