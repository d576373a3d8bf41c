//! The parts of the integration tests that tools use, too: the fake registry, and what it serves.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "no tool uses all of it"
)]

#[path = "../it/client.rs"]
pub mod client;
#[path = "../it/content.rs"]
pub mod content;
#[path = "../it/cosign.rs"]
pub mod cosign;
#[path = "../it/registry.rs"]
pub mod registry;
#[path = "../it/request.rs"]
pub mod request;
#[path = "../it/rounds.rs"]
pub mod rounds;
#[path = "../it/tls.rs"]
pub mod tls;
