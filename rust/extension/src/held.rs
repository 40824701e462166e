//! Python's buffers in Rust's hands: shown to the core as addresses, held as long as it needs them, and given back on
//! whatever thread lets go of them.
//!
//! A thread of the store may attach to the interpreter only until that ends: later it would hang or crash. So the exit
//! hook closes every store and then shuts the gate here; what is still held behind it is leaked, for the process ends.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use pyo3::buffer::PyUntypedBuffer;
use pyo3::prelude::*;

use crate::entry;

/// Buffers, and a Python object that keeps more of them.
#[derive(Debug)]
pub(crate) struct Loan {
    buffers: Vec<PyUntypedBuffer>,
    object: Option<Py<PyAny>>,
}

impl Loan {
    /// Gives all back. Each buffer would do so by itself when dropped, but attach for it each time.
    pub(crate) fn release(self, py: Python<'_>) {
        for buffer in self.buffers {
            buffer.release(py);
        }
        drop(self.object);
    }
}

/// A loan that is given back when this is dropped, on whatever thread.
#[derive(Debug)]
pub(crate) struct Held(Option<Loan>);

impl Held {
    pub(crate) fn new(buffers: Vec<PyUntypedBuffer>, object: Option<Py<PyAny>>) -> Self {
        Self(Some(Loan { buffers, object }))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        entry::let_go(&mut self.0);
        if self.0.is_none() {
            return;
        }
        GATE.pass(|| {
            let _ = Python::try_attach(|py| self.0.take().map(|loan| loan.release(py)));
        });
        // Behind the shut gate there is no interpreter to give it back to.
        std::mem::forget(self.0.take());
    }
}

/// Shuts the way into the interpreter for threads of the store, and waits until those that are inside came out. To be
/// called detached.
pub(crate) fn shut_gate() {
    GATE.shut();
}

/// To be called, attached, before a process opens a store: one that was forked counts no threads of its parent inside.
pub(crate) fn open_gate() {
    GATE.reset_in_child();
}

static GATE: Gate = Gate { passing: AtomicUsize::new(0), process: AtomicU32::new(0) };

/// Set in `passing` when the gate is shut; the rest counts threads inside.
const SHUT: usize = 1 << (usize::BITS - 1);

/// Atomics and no lock: a lock that was held during a fork stays locked in the child.
struct Gate {
    passing: AtomicUsize,
    process: AtomicU32,
}

impl Gate {
    fn pass(&self, work: impl FnOnce()) {
        struct Leave<'a>(&'a AtomicUsize);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Release);
            }
        }
        let before = self.passing.fetch_add(1, Ordering::Acquire);
        let _leave = Leave(&self.passing);
        if before & SHUT == 0 {
            work();
        }
    }

    fn shut(&self) {
        let mut inside = self.passing.fetch_or(SHUT, Ordering::AcqRel) & !SHUT;
        while inside != 0 {
            std::thread::sleep(Duration::from_millis(1));
            inside = self.passing.load(Ordering::Acquire) & !SHUT;
        }
    }

    fn reset_in_child(&self) {
        let process = std::process::id();
        let before = self.process.swap(process, Ordering::AcqRel);
        if before != 0 && before != process {
            self.passing.store(0, Ordering::Release);
        }
    }
}
