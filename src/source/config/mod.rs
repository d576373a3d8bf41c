//! Settings of container tools, read from their own files.

pub mod auth_json;
pub mod certs_d;
mod credential_helper;
pub mod login;
pub mod registries_conf;
