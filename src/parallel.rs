//! Does work on many items at once.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use log::warn;

use crate::pool;
use crate::task;

/// Does the work for each item, on several threads. After a result for which `is_last` is true, no other item is begun;
/// the results of items that were not begun are `None`.
///
/// With fewer threads than asked for it takes longer. Without any the calling thread does the work.
pub fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    work: impl Fn(&T) -> R + Sync,
    is_last: impl Fn(&R) -> bool + Sync,
) -> Vec<Option<R>> {
    in_parallel_on(thread::Builder::new, items, threads, work, is_last)
}

/// The same, on threads that `thread` builds.
fn in_parallel_on<T: Sync, R: Send>(
    thread: impl Fn() -> thread::Builder,
    items: &[T],
    threads: usize,
    work: impl Fn(&T) -> R + Sync,
    is_last: impl Fn(&R) -> bool + Sync,
) -> Vec<Option<R>> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (task, listing) = (task::current(), pool::listing());
    let worker = || {
        let _task = task::adopt(task.clone());
        let _making = pool::adopt(listing.clone());
        let mut done = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(n) else { break };
            let result = work(item);
            stop.fetch_or(is_last(&result), Ordering::Relaxed);
            done.push((n, result));
        }
        done
    };
    let mut results: Vec<Option<R>> = items.iter().map(|_| None).collect();
    let mut keep = |done: Vec<(usize, R)>| {
        for (n, result) in done {
            results[n] = Some(result);
        }
    };
    thread::scope(|scope| {
        let mut workers = Vec::new();
        for _ in 0..threads.min(items.len()) {
            match thread().spawn_scoped(scope, worker) {
                Ok(handle) => workers.push(handle),
                Err(error) => {
                    let started = workers.len();
                    warn!(
                        "{started} of {threads} threads could be started, so this takes longer; \
                         TasksMax= of the service may be too low: {error}"
                    );
                    break;
                }
            }
        }
        if workers.is_empty() {
            keep(worker());
        }
        for worker in workers {
            match worker.join() {
                Ok(done) => keep(done),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    results
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_work_is_done_once_and_in_order() {
        let items: Vec<usize> = (0..1000).collect();
        for threads in [1, 2, 16] {
            let results = in_parallel(&items, threads, |n| n * 2, |_| false);
            let expected: Vec<_> = items.iter().map(|n| Some(n * 2)).collect();
            assert_eq!(results, expected, "{threads} threads");
        }
        assert_eq!(in_parallel(&[] as &[usize], 16, |n| *n, |_| false), []);
    }

    #[test]
    fn work_is_done_where_the_system_gives_no_threads() {
        let items: Vec<usize> = (0..10).collect();
        // No machine has memory for such a stack.
        let too_large = || thread::Builder::new().stack_size(1 << 60);
        let caller = thread::current().id();
        let results = in_parallel_on(
            too_large,
            &items,
            4,
            |n| (*n, thread::current().id()),
            |_| false,
        );
        let expected: Vec<_> = items.iter().map(|n| Some((*n, caller))).collect();
        assert_eq!(results, expected);
    }

    #[test]
    fn stopped_work_is_told_from_work_done() {
        let items: Vec<usize> = (0..10).collect();
        let results = in_parallel(&items, 1, |n| *n, |n| *n == 3);
        let done: Vec<_> = results.into_iter().flatten().collect();
        assert_eq!(done, [0, 1, 2, 3]);
    }
}
