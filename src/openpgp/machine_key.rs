//! The key of this machine, and the signatures that it makes.
//!
//! The key is made of a seed alone: its time of creation, its user ID and its signature of itself are the same each time, so
//! nothing but the seed has to be kept.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use ring::signature::{Ed25519KeyPair, KeyPair};

use super::packets::{ISSUER, ISSUER_FINGERPRINT, PUBLIC_KEY, SIGNATURE, USER_ID};

/// Length of a seed, in bytes.
pub const SEED: usize = 32;
/// The user ID of every key of this kind, by which keyrings are searched for it.
pub const NAME: &str = "sysext-oci-proxy (the key of this machine)";
/// When the key was made, in seconds since 1970. GnuPG refuses signatures that are older than their key, and keys from the
/// future: so it is a time that a clock without a battery has passed, too. Not 0, which some readers take for none.
const CREATED: u32 = 1;

/// `EdDSALegacy` (RFC 9580, section 9.1): what GnuPG and RFC 4880 have for Ed25519.
const EDDSA: u8 = 22;
const SHA256_ID: u8 = 8;
/// The curve: 1.3.6.1.4.1.11591.15.1.
const ED25519: [u8; 9] = [0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x0f, 0x01];
/// The form of a point: as RFC 8032 has it.
const NATIVE_POINT: u8 = 0x40;

/// Types of signatures: over a file, and over a user ID by its own key.
const OVER_FILE: u8 = 0x00;
const OVER_USER_ID: u8 = 0x13;
/// Subpackets.
const CREATION_TIME: u8 = 2;
const KEY_FLAGS: u8 = 27;
/// The key certifies its user ID, and signs data.
const CERTIFIES_AND_SIGNS: u8 = 0x03;

/// The SHA-1 of a key of version 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 20]);

/// As GnuPG prints it: groups of four digits.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, pair) in self.0.chunks(2).enumerate() {
            let space = if n == 0 { "" } else { " " };
            write!(f, "{space}{:02X}{:02X}", pair[0], pair[1])?;
        }
        Ok(())
    }
}

impl Fingerprint {
    /// The fingerprint of a public key, by the body of its packet.
    pub fn of(key: &[u8]) -> Self {
        let mut hash = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
        hash.update(&key_prefix(key));
        hash.update(key);
        let mut bytes = [0; 20];
        bytes.copy_from_slice(hash.finish().as_ref());
        Self(bytes)
    }

    /// The ID of the key: the end of its fingerprint.
    pub fn id(&self) -> [u8; 8] {
        let mut id = [0; 8];
        id.copy_from_slice(&self.0[12..]);
        id
    }
}

/// A key that signs.
pub struct MachineKey {
    pair: Ed25519KeyPair,
    /// The body of the packet of its public half.
    public: Vec<u8>,
    fingerprint: Fingerprint,
}

/// Without the secret half.
impl fmt::Debug for MachineKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MachineKey({})", self.fingerprint)
    }
}

impl MachineKey {
    /// The key of a seed.
    pub fn new(seed: &[u8; SEED]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed)
            .expect("every seed of this length is one of Ed25519");
        let mut public = vec![4];
        public.extend(CREATED.to_be_bytes());
        public.extend([EDDSA, ED25519.len() as u8]);
        public.extend(ED25519);
        public.extend(mpi(&[&[NATIVE_POINT], pair.public_key().as_ref()].concat()));
        Self {
            fingerprint: Fingerprint::of(&public),
            pair,
            public,
        }
    }

    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The public key as keyrings have it: the key, its user ID, and the signature by which it says that this is its own.
    pub fn public(&self) -> Vec<u8> {
        let name = NAME.as_bytes();
        let signed = [
            &key_prefix(&self.public),
            &*self.public,
            &[0xb4],
            &(name.len() as u32).to_be_bytes(),
            name,
        ]
        .concat();
        let flags = subpacket(KEY_FLAGS, &[CERTIFIES_AND_SIGNS]);
        let own = self.signature(OVER_USER_ID, &signed, CREATED, &flags);
        [
            packet(PUBLIC_KEY, &self.public),
            packet(USER_ID, name),
            packet(SIGNATURE, &own),
        ]
        .concat()
    }

    /// A detached signature over a file, in binary form. Where the clock is before the key's creation, that is its time.
    pub fn sign(&self, file: &[u8], now: SystemTime) -> Vec<u8> {
        let seconds = now
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let time = u32::try_from(seconds).unwrap_or(u32::MAX).max(CREATED);
        packet(SIGNATURE, &self.signature(OVER_FILE, file, time, &[]))
    }

    /// The body of a signature (RFC 9580, section 5.2.3).
    fn signature(&self, kind: u8, signed: &[u8], time: u32, more: &[u8]) -> Vec<u8> {
        let issuer = [&[4], &self.fingerprint.0[..]].concat();
        let subpackets = [
            &*subpacket(CREATION_TIME, &time.to_be_bytes()),
            more,
            &subpacket(ISSUER_FINGERPRINT, &issuer),
        ]
        .concat();
        let mut body = vec![4, kind, EDDSA, SHA256_ID];
        body.extend((subpackets.len() as u16).to_be_bytes());
        body.extend(subpackets);
        let mut hash = Context::new(&SHA256);
        hash.update(signed);
        hash.update(&body);
        hash.update(&[4, 0xff]);
        hash.update(&(body.len() as u32).to_be_bytes());
        let hash = hash.finish();
        let signature = self.pair.sign(hash.as_ref());
        let (r, s) = signature.as_ref().split_at(32);
        // GnuPG takes the key from here, not from its fingerprint (measured with 2.2.40: "missing key").
        let id = subpacket(ISSUER, &self.fingerprint.id());
        body.extend((id.len() as u16).to_be_bytes());
        body.extend(id);
        body.extend(&hash.as_ref()[..2]);
        body.extend(mpi(r));
        body.extend(mpi(s));
        body
    }
}

/// The bytes that are hashed before a key.
fn key_prefix(key: &[u8]) -> [u8; 3] {
    let [high, low] = (key.len() as u16).to_be_bytes();
    [0x99, high, low]
}

/// A packet in the older form, which every reader knows. All of them here have fewer than 256 bytes.
fn packet(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[0x80 | tag << 2, body.len() as u8], body].concat()
}

fn subpacket(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[body.len() as u8 + 1, kind], body].concat()
}

/// A number with its length in bits before it, and without zeros at its beginning.
fn mpi(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let number = &number[zeros..];
    let unused = number.first().map_or(0, |byte| byte.leading_zeros());
    let bits = number.len() as u32 * 8 - unused;
    [&(bits as u16).to_be_bytes(), number].concat()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::packets::{issuers, packet as read};
    use super::*;

    /// RFC 8032, section 7.1, test 1.
    const SEED_1: [u8; 32] = [
        0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c,
        0xc4, 0x44, 0x49, 0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae,
        0x7f, 0x60,
    ];

    #[test]
    fn a_number_has_its_bits_and_no_zeros_before_them() {
        for (number, expected) in [
            (&[0x40, 0xff][..], &[0, 15, 0x40, 0xff][..]),
            (&[0, 0x01], &[0, 1, 0x01]),
            (&[0, 0, 0x80, 0], &[0, 16, 0x80, 0]),
            (&[0, 0], &[0, 0]),
        ] {
            assert_eq!(mpi(number), expected, "{number:?}");
        }
    }

    #[test]
    fn a_seed_makes_the_same_key_each_time() {
        let [one, again] = [MachineKey::new(&SEED_1), MachineKey::new(&SEED_1)];
        assert_eq!(one.public(), again.public());
        assert_ne!(one.public(), MachineKey::new(&[1; 32]).public());
        let (tag, body, rest) = read(&one.public()).map(own).unwrap();
        assert_eq!(
            (tag, Fingerprint::of(&body)),
            (PUBLIC_KEY, one.fingerprint())
        );
        // The public key of that test.
        assert!(body.ends_with(&[0x07, 0x51, 0x1a]));
        let (tag, body, rest) = read(&rest).map(own).unwrap();
        assert_eq!((tag, &*body), (USER_ID, NAME.as_bytes()));
        let (tag, _, rest) = read(&rest).map(own).unwrap();
        assert_eq!((tag, rest.len()), (SIGNATURE, 0));
    }

    fn own((tag, body, rest): (u8, &[u8], &[u8])) -> (u8, Vec<u8>, Vec<u8>) {
        (tag, body.to_vec(), rest.to_vec())
    }

    #[test]
    fn a_signature_names_its_key_and_is_no_older() {
        let key = MachineKey::new(&SEED_1);
        for (seconds, expected) in [
            (0, 1),
            (1, 1),
            (1_700_000_000, 1_700_000_000),
            (1 << 40, u32::MAX),
        ] {
            let signature = key.sign(b"list", UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(issuers(&signature), [key.fingerprint().id()]);
            let (_, body, _) = read(&signature).unwrap();
            let time = [&[5, CREATION_TIME], &u32::to_be_bytes(expected)[..]].concat();
            assert_eq!(body[6..12], time, "{seconds}");
        }
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(key.sign(b"list", before), key.sign(b"list", UNIX_EPOCH));
    }

    #[test]
    fn a_fingerprint_is_written_in_groups() {
        let text = MachineKey::new(&SEED_1).fingerprint().to_string();
        let groups: Vec<_> = text.split(' ').collect();
        assert_eq!(groups.len(), 10, "{text}");
        assert!(groups.iter().all(|group| group.len() == 4), "{text}");
    }

    #[test]
    fn the_secret_half_is_not_printed() {
        let text = format!("{:?}", MachineKey::new(&SEED_1));
        assert!(text.starts_with("MachineKey(") && text.len() < 70, "{text}");
    }
}
