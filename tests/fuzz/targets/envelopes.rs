//! Statements in their DSSE envelopes, behind the signature: see `properties/`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sysext_oci_proxy::fuzz::envelopes(data));
