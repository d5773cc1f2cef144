//! Threads of whoever runs an operator.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Threads that work together.
pub trait Pool {
    /// Calls `work` `times` times, several at once where it can, and returns when all are done. `work` does not panic.
    ///
    /// # Errors
    /// Why the threads could not be used.
    fn run(&self, times: usize, work: &(dyn Fn() + Sync)) -> Result<(), String>;
}

/// No threads but the one that calls.
pub struct ThisThread;

impl Pool for ThisThread {
    fn run(&self, times: usize, work: &(dyn Fn() + Sync)) -> Result<(), String> {
        (0..times).for_each(|_| work());
        Ok(())
    }
}

/// Does `work` with every item, on threads of the pool. Which thread meets which item, and when, is up to them.
pub(crate) fn each<T: Send>(
    pool: &dyn Pool,
    items: impl ExactSizeIterator<Item = T> + Send,
    work: impl Fn(T) + Sync,
) -> Result<(), String> {
    let (count, queue, failed) = (items.len(), Mutex::new(items), AtomicBool::new(false));
    pool.run(count, &|| {
        // Frames of ONNX Runtime lie between here and the operator's own guard, and must not be unwound.
        let all = AssertUnwindSafe(|| {
            // As many as are left: nobody waits for a thread that wakes up late.
            while let Some(item) = queue.lock().ok().and_then(|mut queue| queue.next()) {
                work(item);
            }
        });
        if catch_unwind(all).is_err() {
            failed.store(true, Ordering::Relaxed);
        }
    })?;
    if failed.into_inner() { Err("internal error in a thread".to_owned()) } else { Ok(()) }
}
