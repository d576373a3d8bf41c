//! The ID of this machine: `/etc/machine-id`, machine-id(5).

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::str::FromStr;

/// The file, from the root of the system.
const FILE: &str = "etc/machine-id";
/// Most bytes of the file that a reason quotes.
const QUOTED: usize = 40;

/// The 16 bytes that 32 hex digits in `/etc/machine-id` spell.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MachineId([u8; 16]);

impl MachineId {
    /// Reads the ID of the system below `root`, or says why it has none.
    pub fn read(root: &Path) -> Result<Self, String> {
        match fs::read(root.join(FILE)) {
            Ok(bytes) => String::from_utf8_lossy(&bytes)
                .parse()
                .map_err(|why| format!("/{FILE} {why}")),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(format!("/{FILE} is missing")),
            Err(error) => Err(format!("/{FILE} cannot be read: {error}")),
        }
    }

    /// The key of a hash that is to differ between machines.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// As `id128_read_fd()` reads the file (systemd:src/libsystemd/sd-id128/id128-util.c): one line end may follow, and an ID
/// of zeros is none. `uninitialized` is in the file until the first boot is complete.
impl FromStr for MachineId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        if text.is_empty() {
            return Err("is empty".to_owned());
        }
        let mut bytes = [0; 16];
        let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_hex {
            for (n, byte) in bytes.iter_mut().enumerate() {
                *byte = u8::from_str_radix(&text[2 * n..2 * n + 2], 16).unwrap_or_default();
            }
        }
        if bytes == [0; 16] {
            let start: String = text.chars().take(QUOTED).collect();
            return Err(format!("has no ID, but {start:?}"));
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_32_hex_digits_that_are_not_all_zero() {
        let id = "0123456789abcdef0123456789ABCDEF";
        let bytes = *b"\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef";
        for good in [id.to_owned(), format!("{id}\n")] {
            assert_eq!(good.parse::<MachineId>().unwrap().as_bytes(), &bytes);
        }
        for (bad, why) in [
            ("", "is empty"),
            ("\n", "is empty"),
            ("uninitialized\n", "has no ID, but \"uninitialized\""),
            (
                &id[1..],
                "has no ID, but \"123456789abcdef0123456789ABCDEF\"",
            ),
            (
                &"g".repeat(32),
                &format!("has no ID, but {:?}", "g".repeat(32)),
            ),
            (
                &"0".repeat(32),
                &format!("has no ID, but {:?}", "0".repeat(32)),
            ),
            (
                &"x".repeat(99),
                &format!("has no ID, but {:?}", "x".repeat(40)),
            ),
            (
                &"ä".repeat(16),
                &format!("has no ID, but {:?}", "ä".repeat(16)),
            ),
        ] {
            assert_eq!(bad.parse::<MachineId>().err().as_deref(), Some(why));
        }
        let missing = MachineId::read(Path::new("/nonexistent")).err();
        assert_eq!(missing.as_deref(), Some("/etc/machine-id is missing"));
    }
}
