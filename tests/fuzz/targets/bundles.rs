//! Sigstore bundles, with the statements in them: see `properties/`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sysext_oci_proxy::fuzz::bundles(data));
