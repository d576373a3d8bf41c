//! Little-endian numbers in the headers of file systems and partition tables. Bytes behind the end of a header are
//! zero.

pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

pub fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    let found = bytes.get(at..).unwrap_or_default();
    let n = found.len().min(N);
    array[..n].copy_from_slice(&found[..n]);
    array
}
