//! Layers of images, flattened: see `properties/`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sysext_oci_proxy::fuzz::tar_layers(data));
