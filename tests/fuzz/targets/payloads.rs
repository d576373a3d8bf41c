//! Payloads of cosign's simple signatures: see `properties/`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sysext_oci_proxy::fuzz::payloads(data));
