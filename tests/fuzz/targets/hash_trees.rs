//! Hash trees of dm-verity, and tables of partitions: see `properties/`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sysext_oci_proxy::fuzz::hash_trees(data));
