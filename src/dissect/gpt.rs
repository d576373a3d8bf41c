//! GPT: finds the partitions of a disk image that may have an extension-release. No I/O.
//!
//! Format: UEFI specification, chapter 5. Types of partitions: the Discoverable Partitions
//! Specification, <https://uapi-group.org/specifications/specs/discoverable_partitions_specification/>.
//! The crate gpt also reads the copy of the table at the end of the image, which costs another request.

use std::ops::Range;

use super::fields::{array_at, u32_at, u64_at};

/// The first bytes of the header.
const MAGIC: &[u8] = b"EFI PART";
/// Possible sizes of a sector. The header is in the second sector.
const SECTORS: [usize; 2] = [512, 4096];
/// Sizes of an entry, and most entries. sgdisk and systemd-repart make 128 entries of 128 bytes.
const ENTRY_SIZES: Range<usize> = 128..513;
const MAX_ENTRIES: usize = 1024;
/// Bytes to read for the usual table.
pub const TABLE: usize = 32 << 10;

/// The order in which the bytes of a UUID are stored.
const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];

/// Where a partition is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// At `/usr`: the root of its file system is that directory.
    Usr,
    /// At `/`.
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
const USR: [u128; 16] = [
    0x8484680c_9521_48c6_9c11_b0720656f69e, // x86-64
    0xb0e01050_ee5f_4390_949a_9101b17104e9, // arm64
    0x7d0359a3_02b3_4f0a_865c_654403e70625, // arm
    0x75250d76_8cc6_458e_bd66_bd47cc81a812, // x86
    0xbeaec34b_8442_439b_a40b_984381ed097d, // riscv64
    0xb933fb22_5c3f_4f91_af90_e2bb0fa50702, // riscv32
    0x15bb03af_77e7_4d4a_b12b_c0d084f7491c, // ppc64-le
    0x2c9739e2_f068_46b3_9fd0_01c5a9afbcca, // ppc64
    0x7d14fec5_cc71_415d_9d6c_06bf0b3c3eaf, // ppc
    0xe611c702_575c_4cbe_9a46_434fa0bf7e3f, // loongarch64
    0x8a4f5770_50aa_4ed3_874a_99b710db6fea, // s390x
    0xcd0f869b_d0fb_4ca0_b141_9ea87cc78d66, // s390
    0x0f4868e9_9952_4706_979f_3ed3a473e947, // mips-le
    0xc97c1f32_ba06_40b4_9f22_236061b08aa8, // mips64-le
    0xe18cf08c_33ec_4c0d_8246_c6c6fb3da024, // alpha
    0x4301d2a6_4e3b_4b2a_bb94_9e0b2c4225ea, // ia64
];
/// Types of partitions for `/`.
const ROOT: [u128; 16] = [
    0x4f68bce3_e8cd_4db1_96e7_fbcaf984b709, // x86-64
    0xb921b045_1df0_41c3_af44_4c6f280d3fae, // arm64
    0x69dad710_2ce4_4e3c_b16c_21a1d49abed3, // arm
    0x44479540_f297_41b2_9af7_d131d5f0458a, // x86
    0x72ec70a6_cf74_40e6_bd49_4bda08e8f224, // riscv64
    0x60d5a7fe_8e7d_435c_b714_3dd8162144e1, // riscv32
    0xc31c45e6_3f39_412e_80fb_4809c4980599, // ppc64-le
    0x912ade1d_a839_4913_8964_a10eee08fbd2, // ppc64
    0x1de3f1ef_fa98_47b5_8dcd_4a860a654d78, // ppc
    0x77055800_792c_4f94_b39a_98c91b762bb6, // loongarch64
    0x5eead9a9_fe09_4a1e_a1d7_520d00531306, // s390x
    0x08a7acea_624c_4a20_91e8_6e0fa67d23f9, // s390
    0x37c58c8a_d913_4156_a25f_48b1b64e07f0, // mips-le
    0x700bda43_7a34_4507_b179_eeb93d7a7ca3, // mips64-le
    0x6523f8ae_3eb1_4e2a_a05a_18b695ae656f, // alpha
    0x993d8d3d_f80e_4225_855a_9daf8ed7ea97, // ia64
];

/// The size of a sector, if these are the first bytes of a disk with a GPT.
pub fn sector_size(head: &[u8]) -> Option<usize> {
    let has_header = |sector: &usize| {
        head.get(*sector..)
            .is_some_and(|rest| rest.starts_with(MAGIC))
    };
    SECTORS.into_iter().find(has_header)
}

/// The partitions to search, those for `/usr` first. `head`: the first [`TABLE`] bytes of the disk.
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
    // A UUID is stored with its first three numbers in little-endian.
    let kind = u128::from_be_bytes(ORDER.map(|at| kind[at]));
    if USR.contains(&kind) {
        Some(Purpose::Usr)
    } else {
        ROOT.contains(&kind).then_some(Purpose::Root)
    }
}

/// The bytes that a UUID is stored as.
#[cfg(test)]
pub fn bytes_of(text: &str) -> [u8; 16] {
    let digits: Vec<_> = text.bytes().filter(|byte| *byte != b'-').collect();
    let mut bytes = [0; 16];
    for (digits, at) in digits.chunks(2).zip(ORDER) {
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
            for kind in types {
                let text = format!("{kind:032x}");
                assert_eq!(purpose(bytes_of(&text)), Some(expected), "{text}");
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
