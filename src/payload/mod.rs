//! How bytes come to be: source → resumed → verified → socket.

mod resumed;
mod verified;

pub use resumed::{Origin, Resumed};
pub use verified::Verified;
