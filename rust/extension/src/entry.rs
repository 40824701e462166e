//! The one way from Python into the core: the interpreter is let go for the work, errors become exceptions, and what
//! waits for long answers Ctrl-C. No binding attaches or detaches by hand.

use std::cell::RefCell;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use pyo3::prelude::*;

use crate::errors::{Raised, StoreError};
use crate::held::Loan;

/// How often a long wait looks for Ctrl-C.
const INTERRUPT_POLL: Duration = Duration::from_millis(20);

thread_local! {
    /// What the work of this thread let go of while it was detached; `None` outside such work.
    static LET_GO: RefCell<Option<Vec<Loan>>> = const { RefCell::new(None) };
}

/// Runs work that is short, or that must not be left before its end, detached.
///
/// Python buffers that the work drops on this thread are released when it is attached again, all at once: each drop by
/// itself would wait for the interpreter.
pub(crate) fn detached<T: Send, E: Into<Raised> + Send>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<T, E> + Send,
) -> PyResult<T> {
    let collecting = Collecting::begin(py);
    let outcome = py.detach(work);
    drop(collecting);
    outcome.map_err(|error| error.into().into())
}

/// Runs work that may take long on a thread of its own, and gives up waiting for it on Ctrl-C. The work goes on then, so
/// it must own all that it uses and be safe to leave behind.
///
/// Must not be used for work that writes into the caller's memory.
pub(crate) fn interruptible<T: Send + 'static, E: Into<Raised> + Send + 'static>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> PyResult<T> {
    let (reply, outcome) = sync_channel(1);
    let spawned = std::thread::Builder::new().name("hwledger-wait".to_owned()).spawn(move || {
        // Nobody listens any more after Ctrl-C.
        let _ = reply.send(work());
    });
    spawned.map_err(|error| StoreError::new_err(format!("no thread could be started: {error}")))?;
    // Shared by exclusive reference, for a receiver may not be used from two threads.
    let mut outcome = outcome;
    loop {
        let waiting = &mut outcome;
        match py.detach(move || waiting.recv_timeout(INTERRUPT_POLL)) {
            Ok(result) => return result.map_err(|error| error.into().into()),
            Err(RecvTimeoutError::Timeout) => py.check_signals()?,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(StoreError::new_err("a thread of the store failed; the log says why"));
            }
        }
    }
}

/// Lets go of something of the core's, which may wait for a lock, detached.
pub(crate) fn dropped(py: Python<'_>, core: impl Send) {
    py.detach(|| drop(core));
}

/// Takes what this thread lets go of, if it works detached for Python.
pub(crate) fn let_go(loan: &mut Option<Loan>) {
    // A thread that ends has no list any more, and leaves the loan where it is.
    let _ = LET_GO.try_with(|list| {
        if let Some(list) = list.borrow_mut().as_mut() {
            list.extend(loan.take());
        }
    });
}

/// Begins and ends the collecting, the end also where the work panics. Both happen attached.
struct Collecting<'py>(Python<'py>);

impl<'py> Collecting<'py> {
    fn begin(py: Python<'py>) -> Self {
        LET_GO.with(|list| list.replace(Some(Vec::new())));
        Self(py)
    }
}

impl Drop for Collecting<'_> {
    fn drop(&mut self) {
        // Taken out first: a release may run Python code, and that may enter again.
        for loan in LET_GO.with(RefCell::take).into_iter().flatten() {
            loan.release(self.0);
        }
    }
}
