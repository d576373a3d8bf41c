//! How bytes come to be.

mod verified;

pub use verified::Verified;
