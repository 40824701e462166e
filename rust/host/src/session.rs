//! The Python side of one engine, `hwledger_omlx.engine.session.Session`, and its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::prelude::*;

use crate::lane::{Reply, aside};

/// Owns a started session: one that nobody closed is closed when the last handle goes.
#[derive(Debug)]
pub(crate) struct Session {
    // Shared by pointer, for counting a Python reference would need the interpreter.
    object: Arc<Py<PyAny>>,
    /// What is closed, which for a server's session is the server, and the method that does it.
    owner: (Arc<Py<PyAny>>, &'static str),
    closed: AtomicBool,
}

impl Session {
    pub(crate) fn new(object: Py<PyAny>) -> Self {
        let object = Arc::new(object);
        Self { owner: (Arc::clone(&object), "close"), object, closed: AtomicBool::new(false) }
    }

    /// The session of a server, which is stopped with it.
    pub(crate) fn of_server(object: Py<PyAny>, server: Arc<Py<PyAny>>) -> Self {
        Self { object: Arc::new(object), owner: (server, "stop"), closed: AtomicBool::new(false) }
    }

    pub(crate) fn object(&self) -> &Py<PyAny> {
        &self.object
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Begins to close at once, on a thread of its own; the reply comes at the end. Closing twice is no error, but only
    /// the first reply is sure to come after it.
    pub(crate) fn close(&self) -> Reply<()> {
        self.closed.store(true, Ordering::Release);
        let (owner, method) = (Arc::clone(&self.owner.0), self.owner.1);
        aside("hwledger-close", move |py| owner.call_method0(py, method).map(drop))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.is_closed() {
            drop(self.close());
        }
    }
}
