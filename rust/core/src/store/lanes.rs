//! Threads that stay, for work that is divided into many like pieces: the copies of a save, the reads of a restore.
//!
//! The caller works too, so a single lane needs no thread and a busy machine delays nothing but the help.
#![expect(unsafe_code, reason = "lends a closure to other threads for the time of a call")]

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// A call's closure, without its lifetime.
#[derive(Clone, Copy)]
struct Work(*const (dyn Fn(usize) + Sync));

// SAFETY: the closure is `Sync`, and `Lanes::run` keeps it alive until no thread uses it.
unsafe impl Send for Work {}
// SAFETY: as above.
unsafe impl Sync for Work {}

/// One call of [`Lanes::run`].
struct Call {
    work: Work,
    pieces: usize,
    next: AtomicUsize,
    left: AtomicUsize,
    panicked: AtomicBool,
    finished: Mutex<bool>,
    all_finished: Condvar,
}

impl Call {
    /// Does pieces until none is left to begin.
    fn take_part(&self) {
        loop {
            let piece = self.next.fetch_add(1, Ordering::Relaxed);
            if piece >= self.pieces {
                return;
            }
            // SAFETY: a piece that was begun and not finished keeps `run` waiting, so the closure is alive.
            let work = unsafe { &*self.work.0 };
            if catch_unwind(AssertUnwindSafe(|| work(piece))).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                *lock(&self.finished) = true;
                self.all_finished.notify_all();
            }
        }
    }
}

#[derive(Default)]
struct Waiting {
    calls: VecDeque<Arc<Call>>,
    stopped: bool,
}

#[derive(Default)]
struct Board {
    waiting: Mutex<Waiting>,
    something: Condvar,
}

/// The threads. They end with [`Lanes::stop`].
pub(crate) struct Lanes {
    board: Arc<Board>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    count: usize,
}

impl Lanes {
    /// So many lanes, one of which is each caller's own thread. Threads that the system refuses are done without.
    pub(crate) fn new(lanes: usize) -> Self {
        let board = Arc::new(Board::default());
        let threads = (1..lanes)
            .map_while(|lane| {
                let board = Arc::clone(&board);
                std::thread::Builder::new().name(format!("kv-store-lane-{lane}")).spawn(move || help(&board)).ok()
            })
            .collect();
        Self { board, threads: Mutex::new(threads), count: lanes }
    }

    /// Does `work(0)`, ... `work(pieces - 1)`, in about this order, on all lanes; returns when all are done.
    ///
    /// # Panics
    /// If one of them did.
    pub(crate) fn run(&self, pieces: usize, work: &(dyn Fn(usize) + Sync)) {
        if pieces <= 1 || self.count == 1 {
            (0..pieces).for_each(work);
            return;
        }
        let raw = std::ptr::from_ref(work);
        // Only the lifetime changes. No thread begins a piece after `left` is 0, and this function does not return (nor
        // unwind: `take_part` catches) before that.
        // SAFETY: both types are the same but for the lifetime, which `Call::take_part` keeps to.
        #[expect(clippy::transmute_ptr_to_ptr, reason = "a cast cannot change the lifetime of a trait object")]
        let work = Work(unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync)>(raw)
        });
        let call = Arc::new(Call {
            work,
            pieces,
            next: AtomicUsize::new(0),
            left: AtomicUsize::new(pieces),
            panicked: AtomicBool::new(false),
            finished: Mutex::new(false),
            all_finished: Condvar::new(),
        });
        lock(&self.board.waiting).calls.push_back(Arc::clone(&call));
        self.board.something.notify_all();
        call.take_part();
        lock(&self.board.waiting).calls.retain(|waiting| !Arc::ptr_eq(waiting, &call));
        let mut finished = lock(&call.finished);
        while !*finished {
            finished = call.all_finished.wait(finished).unwrap_or_else(PoisonError::into_inner);
        }
        drop(finished);
        assert!(!call.panicked.load(Ordering::Relaxed), "a lane of the store panicked");
    }

    /// Ends the threads; what is under way is finished first. Later calls run on their own thread.
    pub(crate) fn stop(&self) {
        lock(&self.board.waiting).stopped = true;
        self.board.something.notify_all();
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            let _ = thread.join();
        }
    }
}

fn help(board: &Board) {
    let mut waiting = lock(&board.waiting);
    loop {
        // A call whose pieces are all begun stands here until its caller takes it away; it needs no help.
        let open = waiting.calls.iter().find(|call| call.next.load(Ordering::Relaxed) < call.pieces).cloned();
        if let Some(call) = open {
            drop(waiting);
            call.take_part();
            drop(call);
            waiting = lock(&board.waiting);
        } else if waiting.stopped {
            return;
        } else {
            waiting = board.something.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_done_once_from_any_thread() {
        let lanes = Lanes::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for pieces in [0usize, 1, 2, 3, 100, 1000] {
                        let done: Vec<AtomicUsize> = (0..pieces).map(|_| AtomicUsize::new(0)).collect();
                        lanes.run(pieces, &|piece| {
                            done[piece].fetch_add(1, Ordering::Relaxed);
                        });
                        assert!(done.iter().all(|count| count.load(Ordering::Relaxed) == 1));
                    }
                });
            }
        });
        lanes.stop();
        let count = AtomicUsize::new(0);
        lanes.run(5, &|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 5);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_lanes_go_on() {
        let lanes = Lanes::new(3);
        let panicked = catch_unwind(AssertUnwindSafe(|| lanes.run(10, &|piece| assert!(piece != 5, "as asked"))));
        assert!(panicked.is_err());
        lanes.run(10, &|_| {});
        lanes.stop();
    }
}
