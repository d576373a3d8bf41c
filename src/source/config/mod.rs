//! Settings of container tools, read from their own files.

pub mod auth_json;
pub mod certs_d;
pub mod registries_conf;
