//! Wakes whoever waits for the next sample, of any model of the process. Costs a sample one atomic load while nobody waits.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

static RUNG: AtomicU64 = AtomicU64::new(0);
static WAITING: AtomicUsize = AtomicUsize::new(0);
static LOCK: Mutex<()> = Mutex::new(());
static BELL: Condvar = Condvar::new();

pub(super) fn ring() {
    RUNG.fetch_add(1, Ordering::SeqCst);
    if WAITING.load(Ordering::SeqCst) > 0 {
        // Taken, so that nobody is between looking and waiting.
        drop(LOCK.lock().unwrap_or_else(PoisonError::into_inner));
        BELL.notify_all();
    }
}

/// Waits until a sample was taken after the one that `seen` stands for, or the time is up. Returns what stands for the
/// latest; begin with 0.
#[must_use]
pub fn wait_for_sample(seen: u64, at_most: Duration) -> u64 {
    let deadline = Instant::now() + at_most;
    WAITING.fetch_add(1, Ordering::SeqCst);
    let mut guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    while RUNG.load(Ordering::SeqCst) == seen {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        guard = BELL.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
    }
    drop(guard);
    WAITING.fetch_sub(1, Ordering::SeqCst);
    RUNG.load(Ordering::SeqCst)
}
