//! The proof of a keyless signature in cosign's old form: see `properties/`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sysext_oci_proxy::fuzz::proofs(data));
