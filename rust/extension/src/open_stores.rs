//! The stores that this process has open, so that each is closed before the interpreter ends, and so that none is ever
//! closed by the drop of a reference: that would wait for threads which may be waiting for the interpreter.
//!
//! Every access is attached to the interpreter and short. So no other thread holds the lock at a fork, and the child
//! finds it free.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use hwledger_omlx_core::store as core;
use pyo3::prelude::*;

use crate::entry;
use crate::held;

static OPEN: Mutex<Vec<Arc<OpenStore>>> = Mutex::new(Vec::new());

/// One opening of a store, closed once.
pub(crate) struct OpenStore {
    store: Arc<core::Store>,
    process: u32,
    /// Set as soon as closing begins: the handle takes no more work.
    closing: AtomicBool,
    /// Set at its end.
    closed: Mutex<bool>,
    end: Condvar,
}

impl OpenStore {
    /// Keeps a store that was opened until it is closed.
    pub(crate) fn register(store: Arc<core::Store>) -> Arc<Self> {
        let open = Arc::new(Self {
            store,
            process: std::process::id(),
            closing: AtomicBool::new(false),
            closed: Mutex::new(false),
            end: Condvar::new(),
        });
        let mut all = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|each| each.is_forked() || !each.is_closed());
        all.push(Arc::clone(&open));
        open
    }

    pub(crate) fn store(&self) -> &Arc<core::Store> {
        &self.store
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Whether the process was forked since: threads and locks of the store belong to the parent.
    pub(crate) fn is_forked(&self) -> bool {
        self.process != std::process::id()
    }

    fn is_closed(&self) -> bool {
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes it, or waits until another thread has. To be called detached.
    pub(crate) fn close(&self) -> Result<(), core::StoreError> {
        if self.begin_closing() {
            self.finish_closing()
        } else {
            self.wait_closed();
            Ok(())
        }
    }

    /// Takes on to close it, with `finish_closing`; false if that was taken on before.
    pub(crate) fn begin_closing(&self) -> bool {
        !self.closing.swap(true, Ordering::AcqRel)
    }

    /// Takes back `begin_closing` where it could not be done: the exit hook closes it.
    pub(crate) fn leave_to_exit(&self) {
        self.closing.store(false, Ordering::Release);
    }

    pub(crate) fn finish_closing(&self) -> Result<(), core::StoreError> {
        let _ended = Ended(self);
        self.store.close()
    }

    pub(crate) fn wait_closed(&self) {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        while !*closed {
            closed = self.end.wait(closed).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// What is being closed in this folder: it is locked until the end of that. To be called attached.
pub(crate) fn closing_in(folder: &Path) -> Vec<Arc<OpenStore>> {
    let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let wanted = whole(folder);
    let all = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let closing = all.iter().filter(|each| !each.is_forked() && each.is_closing() && !each.is_closed());
    closing.filter(|each| whole(&each.store.config().folder) == wanted).cloned().collect()
}

/// Says that the closing is over, also where it panicked.
struct Ended<'a>(&'a OpenStore);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        *self.0.closed.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.end.notify_all();
    }
}

/// Has the interpreter close, at its end, what this process left open. To be called before a store is opened.
pub(crate) fn close_at_exit(py: Python<'_>) -> PyResult<()> {
    static HOOKED_IN: AtomicU32 = AtomicU32::new(0);
    held::open_gate();
    if HOOKED_IN.swap(std::process::id(), Ordering::AcqRel) == 0 {
        // A forked child inherits the hook with the interpreter.
        let hook = wrap_pyfunction!(end_well, py)?;
        py.import("atexit")?.call_method1("register", (hook,))?;
    }
    Ok(())
}

#[pyfunction]
fn end_well(py: Python<'_>) -> PyResult<()> {
    let mine: Vec<_> = {
        let all = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|each| !each.is_forked() && !each.is_closed()).cloned().collect()
    };
    let outcome = entry::interruptible(py, move || {
        let mut outcome = Ok(());
        for open in mine {
            outcome = outcome.and(open.close());
        }
        outcome
    });
    // Whatever became of that, even where Ctrl-C left it behind: from here on no thread may attach.
    py.detach(held::shut_gate);
    outcome
}
