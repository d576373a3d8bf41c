//! Bounds the memory of what is kept: listings, signed lists, pages.
//!
//! There is one bound for the process: after a reload, clients of the old settings may still be served by them. The
//! memory of work in progress is bounded in `pool.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that may be sent to several clients at once.
pub type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Memory of all listings, signed lists, pages and promises together: those that are remembered and those that a client
/// is still getting.
pub static KEPT: Memory = Memory::new(64 << 20);

/// Size of a large buffer for the bytes of a blob, in bytes. Reading and writing pieces of this size takes fewer system
/// calls, and fewer wake-ups at both ends, than the small buffers that everything else has.
pub const LARGE_BUFFER: usize = 512 << 10;
/// Memory of all large buffers together. A download takes one to read from the registry, and one to send to its client;
/// where there is none left, it goes on with small ones.
pub static LARGE_BUFFERS: Memory = Memory::new(8 * LARGE_BUFFER);

/// A number of bytes for all that is kept.
#[derive(Debug)]
pub struct Memory {
    limit: usize,
    taken: AtomicUsize,
}

/// A part of a [`Memory`]. It is free again when this is dropped.
#[derive(Debug)]
pub struct Held {
    memory: &'static Memory,
    bytes: usize,
}

/// Gives memory to what is to be kept.
pub trait Room: Sync {
    /// Takes bytes for `what`. This may take a moment, because something else is forgotten.
    fn hold(&self, what: &str, bytes: usize) -> crate::error::Result<Held>;
}

impl Memory {
    /// A memory of `limit` bytes.
    pub const fn new(limit: usize) -> Self {
        Self {
            limit,
            taken: AtomicUsize::new(0),
        }
    }

    /// The number of all bytes.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Takes bytes, if they are free.
    pub fn take(&'static self, bytes: usize) -> Option<Held> {
        let take = |taken: usize| {
            let taken = taken.checked_add(bytes)?;
            (taken <= self.limit).then_some(taken)
        };
        let taken = self
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.is_ok().then(|| Held {
            memory: self,
            bytes,
        })
    }
}

impl Held {
    /// Gives back the bytes above this number.
    pub fn shrink_to(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        self.memory.taken.fetch_sub(less, Ordering::Relaxed);
        self.bytes -= less;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes with the memory that they take.
pub struct Kept {
    bytes: Vec<u8>,
    _held: Held,
}

impl Kept {
    /// `held`: at least as many bytes.
    pub fn new(bytes: Vec<u8>, held: Held) -> Self {
        Self { bytes, _held: held }
    }
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_taken_than_there_is() {
        static MEMORY: Memory = Memory::new(100);
        let memory = &MEMORY;
        let first = memory.take(60);
        assert!(first.is_some());
        for too_much in [41, 100, usize::MAX] {
            assert!(memory.take(too_much).is_none(), "{too_much}");
        }
        let second = memory.take(40);
        assert!(second.is_some() && memory.take(1).is_none());
        drop(first);
        let mut third = memory.take(60).unwrap();
        third.shrink_to(100);
        assert!(memory.take(1).is_none(), "it does not grow");
        third.shrink_to(10);
        assert!(memory.take(51).is_none() && memory.take(50).is_some());
        drop(third);
        let kept = Kept::new(vec![0; 60], memory.take(60).unwrap());
        assert!(memory.take(1).is_none());
        drop((second, kept));
        assert!(memory.take(100).is_some());
    }
}
