//! Images that say of themselves what they are: see `properties/`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sysext_oci_proxy::fuzz::images(data));
