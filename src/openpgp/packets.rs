//! The packets of a file, and the keys that made a signature, as far as it takes to say which one is missing. Nothing is
//! verified here.
//!
//! Format: RFC 9580, sections 4.2 and 5.2.3.

/// The tags of packets.
pub const SIGNATURE: u8 = 2;
pub const PUBLIC_KEY: u8 = 6;
pub const USER_ID: u8 = 13;
/// Subpackets that name the key: its ID, and its fingerprint behind a version.
pub const ISSUER: u8 = 16;
pub const ISSUER_FINGERPRINT: u8 = 33;
/// Length of a key's ID, in bytes.
const ID: usize = 8;

/// The IDs of the keys that made the signatures in a file. None of an armored one.
pub fn issuers(file: &[u8]) -> Vec<[u8; ID]> {
    let mut found = Vec::new();
    let mut rest = file;
    while let Some((tag, body, behind)) = packet(rest) {
        if tag == SIGNATURE {
            found.extend(issuer(body));
        }
        rest = behind;
    }
    found
}

/// Whether a keyring has a key of this ID: its signature of itself names it.
pub fn has_key(keyring: &[u8], id: &[u8; ID]) -> bool {
    keyring.windows(ID).any(|part| part == id)
}

/// The tag and the body of the first packet, and what is behind it. `None` if it is cut off, or is none.
pub fn packet(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&head, rest) = bytes.split_first()?;
    if head & 0x80 == 0 {
        return None;
    }
    let (tag, length, rest) = if head & 0x40 != 0 {
        let (length, rest) = length(rest)?;
        (head & 0x3f, length, rest)
    } else {
        let width = match head & 3 {
            0 => 1,
            1 => 2,
            2 => 4,
            // Up to the end of the file, whatever comes there: neither keys nor signatures have it.
            _ => return None,
        };
        let (length, rest) = rest.split_at_checked(width)?;
        ((head >> 2) & 0xf, number(length), rest)
    };
    let (body, rest) = rest.split_at_checked(length)?;
    Some((tag, body, rest))
}

/// A length in the newer form, and what is behind it.
fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    match *bytes {
        [first @ 0..192, ref rest @ ..] => Some((usize::from(first), rest)),
        [first @ 192..224, second, ref rest @ ..] => {
            let length = (usize::from(first) - 192) * 256 + usize::from(second) + 192;
            Some((length, rest))
        }
        [255, a, b, c, d, ref rest @ ..] => Some((number(&[a, b, c, d]), rest)),
        _ => None,
    }
}

fn number(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte))
}

/// The key in the subpackets of a signature of version 4: the hashed ones, then the others.
fn issuer(signature: &[u8]) -> Option<[u8; ID]> {
    let rest = signature.strip_prefix(&[4])?.get(3..)?;
    let (hashed, rest) = area(rest)?;
    let (unhashed, _) = area(rest)?;
    named(hashed).or_else(|| named(unhashed))
}

fn area(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_at_checked(2)?;
    rest.split_at_checked(number(length))
}

fn named(mut subpackets: &[u8]) -> Option<[u8; ID]> {
    while let Some((size, rest)) = length(subpackets) {
        let (subpacket, rest) = rest.split_at_checked(size)?;
        let id = match subpacket.split_first() {
            // The ID is the end of a fingerprint of version 4.
            Some((kind, body)) if kind & 0x7f == ISSUER_FINGERPRINT && body.first() == Some(&4) => {
                body.last_chunk()
            }
            Some((kind, body)) if kind & 0x7f == ISSUER => body.last_chunk(),
            _ => None,
        };
        if let Some(id) = id {
            return Some(*id);
        }
        subpackets = rest;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A signature with these subpackets, hashed and not.
    fn signature(hashed: &[u8], unhashed: &[u8]) -> Vec<u8> {
        let area = |bytes: &[u8]| [&[0, bytes.len() as u8], bytes].concat();
        let body = [
            &[4, 0, 22, 8],
            &*area(hashed),
            &*area(unhashed),
            &[0xab, 0xcd],
        ]
        .concat();
        [&[0x88, body.len() as u8], &*body].concat()
    }

    #[test]
    fn a_signature_names_its_key() {
        let id = *b"01234567";
        let by_id = [&[9, ISSUER], &id[..]].concat();
        let by_fingerprint = [&[22, ISSUER_FINGERPRINT, 4], &[0xee; 12][..], &id].concat();
        let other = [5, 2, 0, 0, 0, 0];
        for (file, expected, why) in [
            (signature(&by_id, &[]), vec![id], "an ID"),
            (signature(&[], &by_id), vec![id], "an ID that is not hashed"),
            (signature(&by_fingerprint, &[]), vec![id], "a fingerprint"),
            (
                signature(&[&other[..], &by_id].concat(), &[]),
                vec![id],
                "behind a time",
            ),
            (signature(&other, &[]), vec![], "none"),
            (
                [signature(&by_id, &[]), signature(&by_id, &[])].concat(),
                vec![id, id],
                "two",
            ),
            (
                b"-----BEGIN PGP SIGNATURE-----\n".to_vec(),
                vec![],
                "armored",
            ),
            (vec![], vec![], "empty"),
        ] {
            assert_eq!(issuers(&file), expected, "{why}");
        }
        let mut cut = signature(&by_id, &[]);
        for length in (0..cut.len()).rev() {
            cut.truncate(length);
            assert_eq!(issuers(&cut), Vec::<[u8; ID]>::new(), "{length} bytes");
        }
    }

    #[test]
    fn a_keyring_has_the_keys_that_sign_themselves() {
        let keyring = signature(&[&[9, ISSUER], &b"01234567"[..]].concat(), &[]);
        assert!(has_key(&keyring, b"01234567"));
        assert!(!has_key(&keyring, b"76543210"));
    }
}
