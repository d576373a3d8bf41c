//! Bounds the memory of work in progress whose size others choose: documents of registries, listings being made,
//! entries of images being flattened.
//!
//! Each piece of work has limits of its own, but there may be hundreds at once. So all of them take memory from a pool,
//! and wait for each other. Most of a pool is a reserve, for one piece of work at a time: its holder always has enough
//! to finish, so there is no deadlock although work waits while it holds memory. The reserve is as large as the largest
//! piece of work may be.
//!
//! There are two pools. Work that holds [`DOCUMENTS`] must not wait for [`WORK`], because a listing waits for
//! documents. Memory that is kept after the work is counted in `memory.rs`: there it makes no sense to wait, so
//! something is forgotten instead.

use std::cell::RefCell;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::LocalKey;

use crate::error::{Error, Result};
use crate::lock::lock;
use crate::wait_queue::WaitQueue;

/// For documents being read, and the values parsed from them: manifests, indexes, configs, pages of tags.
pub static DOCUMENTS: Pool = Pool::new("documents", 4 << 20, 32 << 20);
/// For lists of tags, and the entries of images being flattened.
pub static WORK: Pool = Pool::new("listings and images", 12 << 20, 40 << 20);

/// Bytes of memory for each byte of a document: its text and the values parsed from it.
pub const OF_DOCUMENT: usize = 4;

/// A pool of bytes.
pub struct Pool {
    /// Its name in messages.
    name: &'static str,
    /// Bytes for all.
    general: usize,
    /// More bytes for one piece of work at a time.
    reserve: usize,
    taken: Mutex<Taken>,
    changed: Condvar,
    queue: WaitQueue,
}

/// The bytes taken of a pool.
#[derive(Debug, Default, PartialEq)]
struct Taken {
    general: usize,
    reserve: usize,
}

/// The bytes that a piece of work holds. They return to the pool when this is dropped.
pub struct Grant {
    pool: &'static Pool,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    general: usize,
    reserve: usize,
}

/// The outcome of taking more.
#[derive(Debug, PartialEq)]
enum Drawn {
    Yes,
    /// Other work has to give bytes back first.
    Wait,
    /// It needs more than the whole reserve.
    Never,
}

impl Pool {
    const fn new(name: &'static str, general: usize, reserve: usize) -> Self {
        Self {
            name,
            general,
            reserve,
            taken: Mutex::new(Taken {
                general: 0,
                reserve: 0,
            }),
            changed: Condvar::new(),
            queue: WaitQueue::new(),
        }
    }

    /// An empty grant.
    pub fn grant(&'static self) -> Grant {
        Grant {
            pool: self,
            held: Mutex::default(),
        }
    }

    /// Takes bytes, if they are free, for the holder of the reserve or the first that waits.
    fn draw(&self, taken: &mut Taken, held: &mut Held, bytes: usize, is_first: bool) -> Drawn {
        let is_of_general = taken.general.saturating_add(bytes) <= self.general;
        let has_reserve = held.reserve > 0;
        if is_of_general && (is_first || has_reserve) {
            taken.general += bytes;
            held.general += bytes;
            return Drawn::Yes;
        }
        if !has_reserve && (taken.reserve > 0 || !is_first) {
            return Drawn::Wait;
        }
        if taken.reserve.saturating_add(bytes) > self.reserve {
            return Drawn::Never;
        }
        taken.reserve += bytes;
        held.reserve += bytes;
        Drawn::Yes
    }
}

impl Taken {
    /// Takes back bytes, those of the reserve first.
    fn give_back(&mut self, held: &mut Held, bytes: usize) {
        let of_reserve = bytes.min(held.reserve);
        let of_general = (bytes - of_reserve).min(held.general);
        held.reserve -= of_reserve;
        held.general -= of_general;
        self.reserve -= of_reserve;
        self.general -= of_general;
    }
}

impl Grant {
    /// Takes more bytes, if they are free.
    pub fn try_grow(&self, bytes: usize) -> bool {
        let mut taken = lock(&self.pool.taken);
        let is_first = self.pool.queue.len() == 0;
        let mut held = lock(&self.held);
        self.pool.draw(&mut taken, &mut held, bytes, is_first) == Drawn::Yes
    }

    /// Takes more bytes for `what`. Waits for them until the client disconnects or the deadline.
    pub fn grow(&self, bytes: usize, what: impl Fn() -> String) -> Result<()> {
        let pool = self.pool;
        let waits = || format!("{}, which waits for memory for {}", what(), pool.name);
        let drawn =
            pool.queue.wait_for(
                &pool.taken,
                &pool.changed,
                waits,
                |taken, is_first| match pool.draw(taken, &mut lock(&self.held), bytes, is_first) {
                    Drawn::Yes => Some(Ok(())),
                    Drawn::Wait => None,
                    Drawn::Never => Some(Err(Error::Nonsense {
                        url: what(),
                        why: format!(
                            "it takes more than {} MiB of memory, the limit",
                            pool.reserve >> 20
                        ),
                    })),
                },
            );
        drawn.flatten()
    }

    /// Gives bytes back.
    pub fn shrink(&self, bytes: usize) {
        let mut taken = lock(&self.pool.taken);
        taken.give_back(&mut lock(&self.held), bytes);
        drop(taken);
        // A thread that waits was in the queue before it looked at what is taken.
        if self.pool.queue.len() > 0 {
            self.pool.changed.notify_all();
        }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.shrink(usize::MAX);
    }
}

type Current = LocalKey<RefCell<Option<Arc<Grant>>>>;

thread_local! {
    /// For the documents that this thread reads.
    static DOCUMENT: RefCell<Option<Arc<Grant>>> = const { RefCell::new(None) };
    /// For the listing that this thread makes.
    static LISTING: RefCell<Option<Arc<Grant>>> = const { RefCell::new(None) };
}

/// Restores a grant of this thread when it is dropped.
#[must_use]
pub struct Restore {
    current: &'static Current,
    before: Option<Arc<Grant>>,
}

fn replace(current: &'static Current, grant: Option<Arc<Grant>>) -> Restore {
    let before = current.replace(grant);
    Restore { current, before }
}

impl Drop for Restore {
    fn drop(&mut self) {
        self.current.set(self.before.take());
    }
}

/// From now on the memory of the documents that this thread reads is held until the guard is dropped, because the
/// values parsed from them live as long. Inside another guard this changes nothing.
pub fn documents() -> Restore {
    let current = DOCUMENT.with_borrow(Option::clone);
    let grant = current.unwrap_or_else(|| Arc::new(DOCUMENTS.grant()));
    replace(&DOCUMENT, Some(grant))
}

/// Does work with documents of which nothing is left when it ends: their memory is given back then, also within
/// the work that [`documents`] are held for.
pub fn for_a_moment<T>(work: impl FnOnce() -> T) -> T {
    let _documents = documents();
    let grant = DOCUMENT.with_borrow(Option::clone);
    let held = |grant: &Grant| {
        let held = lock(&grant.held);
        held.general + held.reserve
    };
    let before = grant.as_deref().map_or(0, held);
    let done = work();
    if let Some(grant) = grant {
        grant.shrink(held(&grant).saturating_sub(before));
    }
    done
}

/// A document that is being read.
pub struct Document {
    grant: Arc<Grant>,
    held: usize,
}

impl Document {
    /// Nothing of it was read yet.
    pub fn new() -> Self {
        let current = DOCUMENT.with_borrow(Option::clone);
        Self {
            grant: current.unwrap_or_else(|| Arc::new(DOCUMENTS.grant())),
            held: 0,
        }
    }

    /// Takes the memory for a document of `size` bytes. `what`: its name in errors.
    pub fn reserve(&mut self, size: u64, what: impl Fn() -> String) -> Result<()> {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let needed = size.saturating_mul(OF_DOCUMENT);
        if let Some(more) = needed.checked_sub(self.held).filter(|more| *more > 0) {
            self.grant.grow(more, what)?;
            self.held = needed;
        }
        Ok(())
    }

    /// It was read, and has `size` bytes: it counts until the guard of [`documents`] is dropped.
    pub fn keep(mut self, size: usize) {
        let needed = size.saturating_mul(OF_DOCUMENT);
        self.held = self.held.saturating_sub(needed);
    }
}

impl Drop for Document {
    fn drop(&mut self) {
        self.grant.shrink(self.held);
    }
}

/// Until the guard is dropped, this thread helps to make a listing.
pub fn adopt(listing: Option<Arc<Grant>>) -> Restore {
    replace(&LISTING, listing)
}

/// Takes more bytes for the listing that this thread makes, if they are free.
fn try_for_listing(bytes: usize) -> bool {
    listing().is_none_or(|grant| grant.try_grow(bytes))
}

/// Takes more bytes for the listing that this thread makes, and waits for them. The thread must not hold documents.
pub fn for_listing(bytes: usize, what: impl Fn() -> String) -> Result<()> {
    match listing() {
        Some(grant) => grant.grow(bytes, what),
        None => Ok(()),
    }
}

/// Does work with documents. It returns how many bytes its result takes in the listing that this thread makes. If these
/// are not free, the documents are given up, the bytes are waited for, and the work is done again.
pub fn with_documents<T>(
    what: impl Fn() -> String,
    mut work: impl FnMut() -> (T, usize),
) -> Result<T> {
    let mut paid = 0;
    loop {
        let documents = documents();
        let (found, needed) = work();
        let more = needed.saturating_sub(paid);
        if more == 0 || try_for_listing(more) {
            return Ok(found);
        }
        drop((found, documents));
        for_listing(more, &what)?;
        paid = needed;
    }
}

/// The listing that this thread makes, if it makes one.
pub fn listing() -> Option<Arc<Grant>> {
    LISTING.with_borrow(Option::clone)
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::task;

    fn pool(general: usize, reserve: usize) -> &'static Pool {
        Box::leak(Box::new(Pool::new("tests", general, reserve)))
    }

    fn what() -> String {
        "the work".into()
    }

    #[test]
    fn one_at_a_time_may_use_the_reserve() {
        let pool = pool(10, 100);
        let (small, large, late) = (pool.grant(), pool.grant(), pool.grant());
        assert!(small.try_grow(10));
        assert!(large.try_grow(60), "it holds the reserve");
        assert!(!late.try_grow(1) && !small.try_grow(1));
        assert!(large.try_grow(40));
        assert!(!large.try_grow(1), "there is no more");
        small.shrink(4);
        assert!(late.try_grow(4), "the general part is for all");
        drop(large);
        assert!(small.try_grow(100));
        drop((small, late));
        assert_eq!(*lock(&pool.taken), Taken::default());
    }

    #[test]
    fn who_needs_more_than_there_is_for_one_is_told_so() {
        let grant = pool(1 << 20, 2 << 20).grant();
        let Err(Error::Nonsense { url, why }) = grant.grow(3 << 20, what) else {
            panic!("it was given");
        };
        assert_eq!(url, "the work");
        assert_eq!(why, "it takes more than 2 MiB of memory, the limit");
    }

    #[test]
    fn all_come_to_their_end_though_each_holds_what_it_has() {
        let pool = pool(30, 100);
        let begun = Instant::now();
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let _limit = task::within(Duration::from_secs(30));
                    let grant = pool.grant();
                    for _ in 0..10 {
                        grant.grow(10, what).unwrap();
                        thread::yield_now();
                    }
                });
            }
        });
        assert!(begun.elapsed() < Duration::from_secs(20));
        assert_eq!(lock(&pool.taken).general, 0);
    }

    #[test]
    fn memory_is_waited_for_until_the_deadline() {
        let pool = pool(10, 10);
        let holder = pool.grant();
        assert!(holder.try_grow(10) && holder.try_grow(10));
        let _limit = task::within(Duration::from_millis(20));
        let late = pool.grant().grow(1, what);
        let Err(Error::TooSlow { url, .. }) = late else {
            panic!("{late:?}");
        };
        assert_eq!(url, "the work, which waits for memory for tests");
    }

    #[test]
    fn documents_count_until_their_work_is_done() {
        let size = 1000;
        let held = || {
            let grant = DOCUMENT.with_borrow(Option::clone).unwrap();
            let held = lock(&grant.held);
            (held.general + held.reserve) / OF_DOCUMENT
        };
        let read = |is_whole: bool| {
            let mut document = Document::new();
            document.reserve(size as u64, what).unwrap();
            document.reserve(2 * size as u64, what).unwrap();
            if is_whole {
                document.keep(size);
            }
        };
        let work = documents();
        read(true);
        assert_eq!(held(), size, "only what there is of it");
        {
            let _inner = documents();
            read(true);
        }
        assert_eq!(held(), 2 * size);
        read(false);
        assert_eq!(held(), 2 * size, "one that failed is gone");
        drop(work);
        assert!(DOCUMENT.with_borrow(Option::is_none));
        read(true);
    }
}
