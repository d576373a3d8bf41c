//! GPT: finds the partitions of a disk image that may have an extension-release, and their hash trees. No I/O.
//!
//! Format: UEFI specification, chapter 5. Types of partitions: the Discoverable Partitions
//! Specification, <https://uapi-group.org/specifications/specs/discoverable_partitions_specification/>.
//! The crate gpt also reads the copy of the table at the end of the image, which costs another request.

use std::cmp::Reverse;
use std::ops::Range;

use crate::fields::{array_at, u32_at, u64_at};

/// The first bytes of the header.
const MAGIC: &[u8] = b"EFI PART";
/// Possible sizes of a sector. The header is in the second sector.
const SECTORS: [usize; 2] = [512, 4096];
/// Sizes of an entry, and most entries. sgdisk and systemd-repart make 128 entries of 128 bytes.
const ENTRY_SIZES: Range<usize> = 128..513;
const MAX_ENTRIES: usize = 1024;
/// Most pairs of a partition and its hash tree: `/usr` and `/`, each in two versions. To look at each costs a request.
const MAX_HASH_TREES: usize = 4;
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

/// A partition, and the one that has its hash tree.
#[derive(Clone, Debug, PartialEq)]
pub struct HashTree {
    pub data: Range<u64>,
    pub tree: Range<u64>,
}

/// Types of partitions for `/usr` and for their hash trees, for each architecture.
const USR: [[u128; 2]; 16] = [
    [
        // x86-64
        0x8484680c_9521_48c6_9c11_b0720656f69e,
        0x77ff5f63_e7b6_4633_acf4_1565b864c0e6,
    ],
    [
        // arm64
        0xb0e01050_ee5f_4390_949a_9101b17104e9,
        0x6e11a4e7_fbca_4ded_b9e9_e1a512bb664e,
    ],
    [
        // arm
        0x7d0359a3_02b3_4f0a_865c_654403e70625,
        0xc215d751_7bcd_4649_be90_6627490a4c05,
    ],
    [
        // x86
        0x75250d76_8cc6_458e_bd66_bd47cc81a812,
        0x8f461b0d_14ee_4e81_9aa9_049b6fb97abd,
    ],
    [
        // riscv64
        0xbeaec34b_8442_439b_a40b_984381ed097d,
        0x8f1056be_9b05_47c4_81d6_be53128e5b54,
    ],
    [
        // riscv32
        0xb933fb22_5c3f_4f91_af90_e2bb0fa50702,
        0xcb1ee4e3_8cd0_4136_a0a4_aa61a32e8730,
    ],
    [
        // ppc64-le
        0x15bb03af_77e7_4d4a_b12b_c0d084f7491c,
        0xee2b9983_21e8_4153_86d9_b6901a54d1ce,
    ],
    [
        // ppc64
        0x2c9739e2_f068_46b3_9fd0_01c5a9afbcca,
        0xbdb528a5_a259_475f_a87d_da53fa736a07,
    ],
    [
        // ppc
        0x7d14fec5_cc71_415d_9d6c_06bf0b3c3eaf,
        0xdf765d00_270e_49e5_bc75_f47bb2118b09,
    ],
    [
        // loongarch64
        0xe611c702_575c_4cbe_9a46_434fa0bf7e3f,
        0xf46b2c26_59ae_48f0_9106_c50ed47f673d,
    ],
    [
        // s390x
        0x8a4f5770_50aa_4ed3_874a_99b710db6fea,
        0x31741cc4_1a2a_4111_a581_e00b447d2d06,
    ],
    [
        // s390
        0xcd0f869b_d0fb_4ca0_b141_9ea87cc78d66,
        0xb663c618_e7bc_4d6d_90aa_11b756bb1797,
    ],
    [
        // mips-le
        0x0f4868e9_9952_4706_979f_3ed3a473e947,
        0x46b98d8d_b55c_4e8f_aab3_37fca7f80752,
    ],
    [
        // mips64-le
        0xc97c1f32_ba06_40b4_9f22_236061b08aa8,
        0x3c3d61fe_b5f3_414d_bb71_8739a694a4ef,
    ],
    [
        // alpha
        0xe18cf08c_33ec_4c0d_8246_c6c6fb3da024,
        0x8cce0d25_c0d0_4a44_bd87_46331bf1df67,
    ],
    [
        // ia64
        0x4301d2a6_4e3b_4b2a_bb94_9e0b2c4225ea,
        0x6a491e03_3be7_4545_8e38_83320e0ea880,
    ],
];
/// Types of partitions for `/` and for their hash trees.
const ROOT: [[u128; 2]; 16] = [
    [
        // x86-64
        0x4f68bce3_e8cd_4db1_96e7_fbcaf984b709,
        0x2c7357ed_ebd2_46d9_aec1_23d437ec2bf5,
    ],
    [
        // arm64
        0xb921b045_1df0_41c3_af44_4c6f280d3fae,
        0xdf3300ce_d69f_4c92_978c_9bfb0f38d820,
    ],
    [
        // arm
        0x69dad710_2ce4_4e3c_b16c_21a1d49abed3,
        0x7386cdf2_203c_47a9_a498_f2ecce45a2d6,
    ],
    [
        // x86
        0x44479540_f297_41b2_9af7_d131d5f0458a,
        0xd13c5d3b_b5d1_422a_b29f_9454fdc89d76,
    ],
    [
        // riscv64
        0x72ec70a6_cf74_40e6_bd49_4bda08e8f224,
        0xb6ed5582_440b_4209_b8da_5ff7c419ea3d,
    ],
    [
        // riscv32
        0x60d5a7fe_8e7d_435c_b714_3dd8162144e1,
        0xae0253be_1167_4007_ac68_43926c14c5de,
    ],
    [
        // ppc64-le
        0xc31c45e6_3f39_412e_80fb_4809c4980599,
        0x906bd944_4589_4aae_a4e4_dd983917446a,
    ],
    [
        // ppc64
        0x912ade1d_a839_4913_8964_a10eee08fbd2,
        0x9225a9a3_3c19_4d89_b4f6_eeff88f17631,
    ],
    [
        // ppc
        0x1de3f1ef_fa98_47b5_8dcd_4a860a654d78,
        0x98cfe649_1588_46dc_b2f0_add147424925,
    ],
    [
        // loongarch64
        0x77055800_792c_4f94_b39a_98c91b762bb6,
        0xf3393b22_e9af_4613_a948_9d3bfbd0c535,
    ],
    [
        // s390x
        0x5eead9a9_fe09_4a1e_a1d7_520d00531306,
        0xb325bfbe_c7be_4ab8_8357_139e652d2f6b,
    ],
    [
        // s390
        0x08a7acea_624c_4a20_91e8_6e0fa67d23f9,
        0x7ac63b47_b25c_463b_8df8_b4a94e6c90e1,
    ],
    [
        // mips-le
        0x37c58c8a_d913_4156_a25f_48b1b64e07f0,
        0xd7d150d2_2a04_4a33_8f12_16651205ff7b,
    ],
    [
        // mips64-le
        0x700bda43_7a34_4507_b179_eeb93d7a7ca3,
        0x16b417f8_3e06_4f57_8dd2_9b5232f41aa6,
    ],
    [
        // alpha
        0x6523f8ae_3eb1_4e2a_a05a_18b695ae656f,
        0xfc56d9e9_e6e5_4c06_be32_e74407ce09a5,
    ],
    [
        // ia64
        0x993d8d3d_f80e_4225_855a_9daf8ed7ea97,
        0x86ed10d5_b607_45bb_8957_d350f23d0571,
    ],
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
    let purpose_of = |(kind, bytes)| {
        let purpose = purpose(kind)?;
        Some(Partition { purpose, bytes })
    };
    let mut found: Vec<_> = entries(head, sector)?.filter_map(purpose_of).collect();
    found.sort_by_key(|partition| partition.purpose);
    Ok(found)
}

/// Partitions and the partitions that have their hash trees, in bytes of the image; the largest first. `head`: the
/// first [`TABLE`] bytes of the disk.
///
/// They belong together by their types; if there are several of one type, by their order.
pub fn hash_trees(head: &[u8], sector: usize) -> Result<Vec<HashTree>, String> {
    let entries: Vec<_> = entries(head, sector)?.collect();
    let of = |wanted: u128| {
        let found = entries.iter().filter(move |(kind, _)| *kind == wanted);
        found.map(|(_, bytes)| bytes.clone())
    };
    let pairs = USR.into_iter().chain(ROOT);
    let found = pairs.flat_map(|[data, tree]| of(data).zip(of(tree)));
    let mut found: Vec<_> = found.map(|(data, tree)| HashTree { data, tree }).collect();
    found.sort_by_key(|HashTree { data, .. }| Reverse(data.end - data.start));
    found.truncate(MAX_HASH_TREES);
    Ok(found)
}

/// Type and bytes of the partitions that are not empty.
fn entries(head: &[u8], sector: usize) -> Result<impl Iterator<Item = (u128, Range<u64>)>, String> {
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
            "the entries of its GPT begin in sector {first}, expected sector 2, right behind the header"
        ));
    };
    let entries = table.chunks_exact(size).take(count);
    Ok(entries.filter_map(move |entry| {
        // A UUID is stored with its first three numbers in little-endian.
        let kind: [u8; 16] = array_at(entry, 0);
        let kind = u128::from_be_bytes(ORDER.map(|at| kind[at]));
        let sector = sector as u64;
        // The last sector belongs to the partition.
        let start = u64_at(entry, 32).checked_mul(sector)?;
        let end = u64_at(entry, 40).checked_add(1)?.checked_mul(sector)?;
        let bytes = start..end;
        (!bytes.is_empty()).then_some((kind, bytes))
    }))
}

fn purpose(kind: u128) -> Option<Purpose> {
    let has = |[data, _]: &[u128; 2]| *data == kind;
    if USR.iter().any(has) {
        Some(Purpose::Usr)
    } else {
        ROOT.iter().any(has).then_some(Purpose::Root)
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

    /// A disk with partitions of these types and sectors.
    fn disk(partitions: &[(u128, Range<u64>)]) -> Vec<u8> {
        let mut head = vec![0; TABLE];
        head[512..520].copy_from_slice(MAGIC);
        for (at, value) in [(72, 2), (80, 128), (84, 128)] {
            head[512 + at] = value;
        }
        for (number, (kind, sectors)) in partitions.iter().enumerate() {
            let entry = &mut head[1024 + 128 * number..][..128];
            entry[..16].copy_from_slice(&bytes_of(&format!("{kind:032x}")));
            entry[32..40].copy_from_slice(&sectors.start.to_le_bytes());
            entry[40..48].copy_from_slice(&(sectors.end - 1).to_le_bytes());
        }
        head
    }

    #[test]
    fn types_are_stored_in_their_own_order() {
        for (types, purpose) in [(USR, Purpose::Usr), (ROOT, Purpose::Root)] {
            for [kind, tree] in types {
                let head = disk(&[(tree, 8..9), (0, 3..4), (kind, 1..3)]);
                let bytes = 512..3 * 512;
                let expected = Partition { purpose, bytes };
                assert_eq!(parse(&head, 512), Ok(vec![expected]), "{kind:032x}");
                let expected = HashTree {
                    data: 512..3 * 512,
                    tree: 8 * 512..9 * 512,
                };
                assert_eq!(hash_trees(&head, 512), Ok(vec![expected]), "{tree:032x}");
            }
        }
    }

    #[test]
    fn hash_trees_belong_to_partitions_of_their_type_in_order() {
        let ([usr, usr_tree], [root, root_tree], [arm, _]) = (USR[0], ROOT[0], ROOT[2]);
        let head = disk(&[
            (usr, 10..20),
            (usr_tree, 20..21),
            (root, 30..60),
            (arm, 100..900),
            (usr_tree, 90..91),
            (usr, 60..90),
            (root_tree, 92..93),
            (usr, 1000..9000),
        ]);
        let found = hash_trees(&head, 512).unwrap();
        let sectors = found.iter().map(|HashTree { data, tree }| {
            [data, tree].map(|bytes| bytes.start / 512..bytes.end / 512)
        });
        // Those of one size are in the order of their types.
        let expected = [[60..90, 90..91], [30..60, 92..93], [10..20, 20..21]];
        assert_eq!(sectors.collect::<Vec<_>>(), expected);
        let many: Vec<_> = (1..100)
            .flat_map(|n| [(usr, 0..n), (usr_tree, 0..1)])
            .collect();
        let mut head = disk(&many);
        head[512 + 80] = 198;
        let found = hash_trees(&head, 512).unwrap();
        let sizes: Vec<_> = found.iter().map(|one| one.data.end / 512).collect();
        assert_eq!(sizes, [99, 98, 97, 96]);
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
