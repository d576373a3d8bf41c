//! A public key as text (RFC 9580, section 6.2).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Characters in a line, as GnuPG has them.
const LINE: usize = 64;

/// A public key as text, with a comment of one line.
///
/// With the checksum that RFC 9580 no longer asks for: GnuPG 2.2 finds the end of a key without `=` in its last line only by
/// it (measured with 2.2.40).
pub fn armored(key: &[u8], comment: &str) -> String {
    let mut text = format!("-----BEGIN PGP PUBLIC KEY BLOCK-----\nComment: {comment}\n\n");
    let mut rest = &*STANDARD.encode(key);
    while !rest.is_empty() {
        let (line, behind) = rest.split_at(LINE.min(rest.len()));
        text += line;
        text.push('\n');
        rest = behind;
    }
    text += &format!("={}\n", STANDARD.encode(&crc24(key).to_be_bytes()[1..]));
    text + "-----END PGP PUBLIC KEY BLOCK-----\n"
}

/// The checksum of RFC 9580, section 6.1.1.
fn crc24(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x00b7_04ce, |crc, byte| {
        let begun = crc ^ u32::from(*byte) << 16;
        (0..8).fold(begun, |crc, _| match crc & 0x0080_0000 {
            0 => crc << 1,
            _ => (crc << 1 ^ 0x0086_4cfb) & 0x00ff_ffff,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_openpgp() {
        // The catalogue of parametrised CRC algorithms, CRC-24/OPENPGP.
        assert_eq!(crc24(b"123456789"), 0x0021_cf02);
    }

    #[test]
    fn lines_are_short() {
        let text = armored(&[0; 49], "1234");
        let expected = format!(
            "-----BEGIN PGP PUBLIC KEY BLOCK-----\nComment: 1234\n\n{}\nAA==\n={}\n-----END PGP PUBLIC KEY BLOCK-----\n",
            "A".repeat(64),
            STANDARD.encode(&crc24(&[0; 49]).to_be_bytes()[1..])
        );
        assert_eq!(text, expected);
    }
}
