//! GPT: where the file systems of a disk image are. No I/O.
//!
//! Format: UEFI specification, chapter 5. What partitions are for: the Discoverable Partitions
//! Specification, <https://uapi-group.org/specifications/specs/discoverable_partitions_specification/>.
//! The crate gpt reads the copy at the end of the image as well, which is another round trip.

use std::ops::Range;

use super::fields::{array_at, u32_at, u64_at};

/// The first bytes of a header.
const MAGIC: &[u8] = b"EFI PART";
/// Sizes of sectors. The header is in the second sector.
const SECTORS: [usize; 2] = [512, 4096];
/// Sizes of an entry, and the most entries: sgdisk and systemd-repart make 128 of 128 bytes.
const ENTRY_SIZES: Range<usize> = 128..513;
const MAX_ENTRIES: usize = 1024;
/// Bytes that have to be read for the usual table.
pub const TABLE: usize = 32 << 10;

/// The directory that a partition is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// `/usr`, which is the root directory of its file system.
    Usr,
    /// `/`
    Root,
}

/// A partition that may have an extension-release.
#[derive(Debug, PartialEq)]
pub struct Partition {
    pub purpose: Purpose,
    /// Its bytes in the image.
    pub bytes: Range<u64>,
}

/// Types of partitions for `/usr`, one for each architecture.
const USR: [&str; 16] = [
    "8484680c-9521-48c6-9c11-b0720656f69e", // x86-64
    "b0e01050-ee5f-4390-949a-9101b17104e9", // arm64
    "7d0359a3-02b3-4f0a-865c-654403e70625", // arm
    "75250d76-8cc6-458e-bd66-bd47cc81a812", // x86
    "beaec34b-8442-439b-a40b-984381ed097d", // riscv64
    "b933fb22-5c3f-4f91-af90-e2bb0fa50702", // riscv32
    "15bb03af-77e7-4d4a-b12b-c0d084f7491c", // ppc64-le
    "2c9739e2-f068-46b3-9fd0-01c5a9afbcca", // ppc64
    "7d14fec5-cc71-415d-9d6c-06bf0b3c3eaf", // ppc
    "e611c702-575c-4cbe-9a46-434fa0bf7e3f", // loongarch64
    "8a4f5770-50aa-4ed3-874a-99b710db6fea", // s390x
    "cd0f869b-d0fb-4ca0-b141-9ea87cc78d66", // s390
    "0f4868e9-9952-4706-979f-3ed3a473e947", // mips-le
    "c97c1f32-ba06-40b4-9f22-236061b08aa8", // mips64-le
    "e18cf08c-33ec-4c0d-8246-c6c6fb3da024", // alpha
    "4301d2a6-4e3b-4b2a-bb94-9e0b2c4225ea", // ia64
];
/// Types of partitions for `/`.
const ROOT: [&str; 16] = [
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709", // x86-64
    "b921b045-1df0-41c3-af44-4c6f280d3fae", // arm64
    "69dad710-2ce4-4e3c-b16c-21a1d49abed3", // arm
    "44479540-f297-41b2-9af7-d131d5f0458a", // x86
    "72ec70a6-cf74-40e6-bd49-4bda08e8f224", // riscv64
    "60d5a7fe-8e7d-435c-b714-3dd8162144e1", // riscv32
    "c31c45e6-3f39-412e-80fb-4809c4980599", // ppc64-le
    "912ade1d-a839-4913-8964-a10eee08fbd2", // ppc64
    "1de3f1ef-fa98-47b5-8dcd-4a860a654d78", // ppc
    "77055800-792c-4f94-b39a-98c91b762bb6", // loongarch64
    "5eead9a9-fe09-4a1e-a1d7-520d00531306", // s390x
    "08a7acea-624c-4a20-91e8-6e0fa67d23f9", // s390
    "37c58c8a-d913-4156-a25f-48b1b64e07f0", // mips-le
    "700bda43-7a34-4507-b179-eeb93d7a7ca3", // mips64-le
    "6523f8ae-3eb1-4e2a-a05a-18b695ae656f", // alpha
    "993d8d3d-f80e-4225-855a-9daf8ed7ea97", // ia64
];

/// The size of a sector, if these are the first bytes of a disk with a GPT.
pub fn sector_size(head: &[u8]) -> Option<usize> {
    let has_header = |sector: &usize| {
        head.get(*sector..)
            .is_some_and(|rest| rest.starts_with(MAGIC))
    };
    SECTORS.into_iter().find(has_header)
}

/// The partitions to look into, the likelier ones first. `head`: the first [`TABLE`] bytes.
pub fn parse(head: &[u8], sector: usize) -> Result<Vec<Partition>, String> {
    let header = head.get(sector..).unwrap_or_default();
    let (first, count, size) = (
        u64_at(header, 72),
        u32_at(header, 80) as usize,
        u32_at(header, 84) as usize,
    );
    if !ENTRY_SIZES.contains(&size) || count > MAX_ENTRIES {
        return Err(format!(
            "its GPT has {count} entries of {size} bytes, expected at most {MAX_ENTRIES} of {} to {}",
            ENTRY_SIZES.start,
            ENTRY_SIZES.end - 1
        ));
    }
    let start = usize::try_from(first).unwrap_or(usize::MAX);
    let Some(table) = head.get(start.saturating_mul(sector)..) else {
        return Err(format!(
            "the entries of its GPT are in sector {first}, expected them right behind it"
        ));
    };
    let entries = table.chunks_exact(size).take(count);
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let purpose = purpose(array_at(entry, 0))?;
            let sector = sector as u64;
            // The last sector belongs to the partition.
            let start = u64_at(entry, 32).checked_mul(sector)?;
            let end = u64_at(entry, 40).checked_add(1)?.checked_mul(sector)?;
            let bytes = start..end;
            (!bytes.is_empty()).then_some(Partition { purpose, bytes })
        })
        .collect();
    found.sort_by_key(|partition| partition.purpose);
    Ok(found)
}

fn purpose(kind: [u8; 16]) -> Option<Purpose> {
    let kind = uuid(kind);
    if USR.contains(&&*kind) {
        Some(Purpose::Usr)
    } else {
        ROOT.contains(&&*kind).then_some(Purpose::Root)
    }
}

/// A UUID as GPT stores it: its first three numbers are little-endian.
fn uuid(bytes: [u8; 16]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text = String::new();
    for (n, at) in order.into_iter().enumerate() {
        if matches!(n, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{:02x}", bytes[at]));
    }
    text
}

/// The bytes that a UUID is stored as.
#[cfg(test)]
pub fn bytes_of(text: &str) -> [u8; 16] {
    let digits: Vec<_> = text.bytes().filter(|byte| *byte != b'-').collect();
    let mut bytes = [0; 16];
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    for (digits, at) in digits.chunks(2).zip(order) {
        bytes[at] = u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_stored_in_their_own_order() {
        for (types, expected) in [(USR, Purpose::Usr), (ROOT, Purpose::Root)] {
            for text in types {
                assert_eq!(uuid(bytes_of(text)), text);
                assert_eq!(purpose(bytes_of(text)), Some(expected), "{text}");
            }
        }
        assert_eq!(purpose([0; 16]), None, "no partition");
    }

    #[test]
    fn a_table_that_lies_is_a_reason() {
        let table = |first: u64, count: u32, size: u32| {
            let mut head = vec![0; TABLE];
            head[512..520].copy_from_slice(MAGIC);
            head[512 + 72..512 + 80].copy_from_slice(&first.to_le_bytes());
            head[512 + 80..512 + 84].copy_from_slice(&count.to_le_bytes());
            head[512 + 84..512 + 88].copy_from_slice(&size.to_le_bytes());
            parse(&head, sector_size(&head).unwrap())
        };
        assert_eq!(table(2, 128, 128), Ok(Vec::new()));
        for (first, count, size, why) in [
            (2, u32::MAX, 128, "too many"),
            (2, 128, 0, "of no size"),
            (2, 128, u32::MAX, "too large"),
            (u64::MAX, 128, 128, "behind the end of the world"),
            (1 << 20, 128, 128, "far away"),
        ] {
            assert!(table(first, count, size).is_err(), "{why}");
        }
    }
}
