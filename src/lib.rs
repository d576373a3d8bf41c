//! Serves OCI registries to systemd-sysupdate. README.md says what it does, docs/architecture.md how, and
//! `server/handler.rs` answers a request.
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that fails says so by a panic")
)]

mod address;
mod advice;
mod artifact;
mod blob;
mod cache;
mod cli;
mod companions;
mod compression;
mod delta;
mod digest;
mod dir;
mod dissect;
mod error;
mod extension_release;
mod fields;
mod flatten;
/// The functions that fuzz targets call.
#[cfg(any(test, fuzzing))]
#[path = "../tests/fuzz/properties/mod.rs"]
pub mod fuzz;
mod gpt;
/// The work that `tests/instructions` counts.
#[cfg(any(test, feature = "instructions"))]
#[path = "../tests/instructions/work.rs"]
pub mod instructions;
mod journal;
mod listing;
mod lock;
mod machine_id;
mod manifest;
mod memory;
mod name;
mod openpgp;
mod parallel;
mod platform;
mod pool;
mod printable;
mod resolve;
mod rollout;
mod semaphore;
mod server;
mod settings;
mod snapshot;
mod source;
mod state;
mod sysupdate;
mod tar;
mod task;
mod template;
mod trust;
mod version;
mod wait_queue;
mod wanted;

pub use cli::{command_line, run};
