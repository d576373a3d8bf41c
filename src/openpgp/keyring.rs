//! The keys of a keyring. A keyring is a row of keys, each with the packets that belong to it (RFC 9580, section 10.1), so one
//! is added at the end, and one that is removed leaves the bytes of the others as they are.

use super::machine_key::{Fingerprint, NAME};
use super::packets::{PUBLIC_KEY, USER_ID, packet};

/// The beginning of an armored file.
const ARMOR: &[u8] = b"-----BEGIN PGP";
/// The magic number of a keybox, behind the length and the type of its first blob (gnupg: kbx/keybox-blob.c).
const KEYBOX: (&[u8], usize) = (b"KBXf", 8);

/// The form of a file with keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A row of packets; perhaps no packet at all.
    Packets,
    /// Text, which gpg does not take as a keyring.
    Armored,
    /// The database of GnuPG, which only gpg reads.
    Keybox,
    /// None of these.
    Unknown,
}

impl Form {
    pub fn of(file: &[u8]) -> Self {
        let (magic, at) = KEYBOX;
        if file.starts_with(ARMOR) {
            return Self::Armored;
        }
        if file.get(at..).is_some_and(|rest| rest.starts_with(magic)) {
            return Self::Keybox;
        }
        match Keyring::read(file) {
            Some(_) => Self::Packets,
            None => Self::Unknown,
        }
    }
}

/// The keys of a file, in their order.
#[derive(Debug, PartialEq)]
pub struct Keyring<'a>(Vec<Key<'a>>);

/// One key with all that belongs to it.
#[derive(Debug, PartialEq)]
struct Key<'a> {
    bytes: &'a [u8],
    /// The fingerprint, if this is the key of a machine.
    machine: Option<Fingerprint>,
}

impl<'a> Keyring<'a> {
    /// Reads a row of packets that begins with a key. `None` if the file is something else, or is cut off.
    pub fn read(file: &'a [u8]) -> Option<Self> {
        let (mut keys, mut rest) = (Vec::new(), file);
        while !rest.is_empty() {
            let (key, behind) = Key::read(rest)?;
            keys.push(key);
            rest = behind;
        }
        Some(Self(keys))
    }

    /// The keys of machines in it.
    pub fn machines(&self) -> impl Iterator<Item = Fingerprint> {
        self.0.iter().filter_map(|key| key.machine)
    }

    /// The key of a machine, if this is the only key.
    pub fn only_machine(&self) -> Option<Fingerprint> {
        match &self.0[..] {
            [only] => only.machine,
            _ => None,
        }
    }

    /// The bytes of the other keys.
    pub fn without_machines(&self) -> Vec<u8> {
        let others = self.0.iter().filter(|key| key.machine.is_none());
        others.flat_map(|key| key.bytes).copied().collect()
    }

    /// The bytes of the other keys, and of this one behind them.
    pub fn with(&self, key: &[u8]) -> Vec<u8> {
        [&*self.without_machines(), key].concat()
    }
}

impl<'a> Key<'a> {
    /// The first key, up to the next one or to the end.
    fn read(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (tag, body, mut rest) = packet(bytes)?;
        if tag != PUBLIC_KEY {
            return None;
        }
        let mut is_machine = false;
        while !rest.is_empty() {
            let (tag, name, behind) = packet(rest)?;
            if tag == PUBLIC_KEY {
                break;
            }
            is_machine |= tag == USER_ID && name == NAME.as_bytes();
            rest = behind;
        }
        let key = Self {
            bytes: &bytes[..bytes.len() - rest.len()],
            machine: is_machine.then(|| Fingerprint::of(body)),
        };
        Some((key, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::super::machine_key::MachineKey;
    use super::*;

    /// A key of somebody else: a packet of a key, a user ID in the newer form, and a packet that GnuPG adds in keyrings.
    const OTHER: &[u8] = &[0x98, 2, 4, 0, 0xcd, 3, b'a', b'b', b'c', 0xb0, 2, 0, 3];

    #[test]
    fn the_key_of_a_machine_comes_and_goes_and_nothing_else_changes() {
        let (one, two) = (MachineKey::new(&[1; 32]), MachineKey::new(&[2; 32]));
        for before in [vec![], OTHER.to_vec(), [OTHER, OTHER].concat()] {
            let keyring = Keyring::read(&before).unwrap();
            assert_eq!(keyring.machines().count(), 0);
            let with = keyring.with(&one.public());
            assert_eq!(with, [&*before, &one.public()].concat());
            let keyring = Keyring::read(&with).unwrap();
            assert_eq!(Vec::from_iter(keyring.machines()), [one.fingerprint()]);
            assert_eq!(keyring.with(&one.public()), with, "it is there");
            assert_eq!(keyring.without_machines(), before);
            // Another seed, and a key that somebody added behind it.
            assert_eq!(
                keyring.with(&two.public()),
                [&*before, &two.public()].concat()
            );
            let more = [&with, OTHER].concat();
            let keyring = Keyring::read(&more).unwrap();
            assert_eq!(keyring.without_machines(), [&before, OTHER].concat());
        }
    }

    #[test]
    fn the_form_is_known_by_the_first_bytes() {
        let key = MachineKey::new(&[1; 32]).public();
        let keybox = [&[0, 0, 0, 0x20, 1, 1, 0, 2], &b"KBXf"[..]].concat();
        for (file, expected, why) in [
            (vec![], Form::Packets, "empty"),
            (key.clone(), Form::Packets, "one key"),
            (key[..key.len() - 1].to_vec(), Form::Unknown, "cut off"),
            (key[2..].to_vec(), Form::Unknown, "within a key"),
            (keybox, Form::Keybox, "a keybox"),
            (b"-----BEGIN PGP PUBLIC".to_vec(), Form::Armored, "armored"),
            (b"key\n".to_vec(), Form::Unknown, "text"),
            (vec![0x9b, 4], Form::Unknown, "a packet without a length"),
            (
                OTHER[4..].to_vec(),
                Form::Unknown,
                "a user ID without a key",
            ),
        ] {
            assert_eq!(Form::of(&file), expected, "{why}");
        }
    }
}
