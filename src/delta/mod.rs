//! Only what has changed: which bytes of a blob an older file on this machine has.
//!
//! ```text
//! caibx, verity ─▶ index of the blob ─┐
//!                                     ├─▶ planner ─▶ plan: each run is in a seed, or is fetched by a range
//!               └▶ indexes of seeds  ─┘
//! ```
//!
//! An *index* says which chunks a file is made of, with a hash for each. A *seed* is an older file on this machine. No
//! index is trusted, neither that of the blob nor that of a seed: whoever carries out a plan hashes each chunk that a
//! seed has, and the digest of the blob covers all of it. A wrong index costs time, never a wrong byte.
//!
//! `seeds.rs` finds the seeds. All else decides without I/O.

pub mod caibx;
pub mod index;
pub mod plan;
pub mod seeds;
#[cfg(test)]
mod tests;
pub mod verity;
