//! A store as Python sees it.

#![expect(unsafe_code, reason = "the core follows the addresses of Python's buffers")]

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use hwledger_omlx_core::store as core;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::arrays;
use crate::entry::{detached, interruptible};
use crate::errors::Raised;
use crate::held::Held;
use crate::json;
use crate::layout::Layout;
use crate::matching::Match;
use crate::open_stores::{OpenStore, close_at_exit};
use crate::opening::open;
use crate::saving::{Saved, Snapshot};
use crate::tokens::TokenIds;

/// A folder of prompts with their KV. Usable from any thread; closed by `close`, a `with` statement, or when Python ends.
#[pyclass(frozen, module = "hwledger_omlx._native")]
pub struct Store {
    open: Arc<OpenStore>,
    folder: PathBuf,
}

#[pymethods]
impl Store {
    /// Opens the store in `folder`, and makes it where there is none.
    #[staticmethod]
    #[pyo3(signature = (folder, *, quota_bytes, hot_bytes, queue_bytes, min_free_bytes, backlog_bytes=None,
        daily_write_bytes=None, ttl_seconds=None, reader_threads=None, segment_bytes=None))]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn open(
        py: Python<'_>,
        folder: PathBuf,
        quota_bytes: u64,
        hot_bytes: u64,
        queue_bytes: u64,
        min_free_bytes: u64,
        backlog_bytes: Option<u64>,
        daily_write_bytes: Option<u64>,
        ttl_seconds: Option<f64>,
        reader_threads: Option<usize>,
        segment_bytes: Option<u64>,
    ) -> PyResult<Self> {
        let ttl = ttl(ttl_seconds)?;
        let mut config = core::StoreConfig::new(&folder);
        config.backlog_bytes = backlog_bytes.unwrap_or(config.backlog_bytes);
        let config = core::StoreConfig {
            quota_bytes,
            hot_bytes,
            queue_bytes,
            min_free_bytes,
            daily_write_bytes,
            ttl,
            segment_bytes,
            reader_threads,
            ..config
        };
        close_at_exit(py)?;
        Ok(Self { open: OpenStore::register(open(py, &config)?), folder })
    }

    /// Its folder.
    #[getter]
    fn folder<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        py.import("pathlib")?.getattr("Path")?.call1((OsString::from(&self.folder),))
    }

    /// Whether it was closed by this handle.
    #[getter]
    fn closed(&self) -> bool {
        self.open.is_closing()
    }

    /// The longest stored prefix of `tokens`, of at most `limit` tokens.
    #[pyo3(signature = (namespace, tokens, limit=None, *, label=""))]
    #[allow(clippy::needless_pass_by_value, reason = "extracted from Python")]
    fn lookup(
        &self,
        py: Python<'_>,
        namespace: Namespace,
        tokens: TokenIds,
        limit: Option<usize>,
        label: &str,
    ) -> PyResult<Match> {
        let store = self.of_this_process()?;
        if self.open.is_closing() {
            return Ok(Match::of_closed(Arc::clone(store)));
        }
        let namespace = core::Namespace::new(namespace.0, label);
        let limit = limit.unwrap_or(usize::MAX);
        let found = detached(py, || Ok::<_, Raised>(store.lookup(&namespace, &tokens.0, limit)))?;
        Ok(Match::new(Arc::clone(store), found))
    }

    /// Saves what is missing of `tokens`, whose KV the arrays hold.
    #[pyo3(signature = (namespace, layout, tokens, arrays, snapshot=None, *, first_tokens=None, label=""))]
    #[allow(clippy::needless_pass_by_value, reason = "extracted from Python")]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn save(
        &self,
        py: Python<'_>,
        namespace: Namespace,
        layout: &Layout,
        tokens: TokenIds,
        arrays: Vec<Bound<'_, PyAny>>,
        snapshot: Option<Bound<'_, Snapshot>>,
        first_tokens: Option<Vec<usize>>,
        label: &str,
    ) -> PyResult<Saved> {
        let store = self.of_this_process()?;
        let layout = layout.core();
        if arrays.len() != layout.parts.len() {
            let count = layout.parts.len();
            return Err(PyValueError::new_err(format!("{} arrays for a layout of {count} parts", arrays.len())));
        }
        let first_tokens = arrays::first_tokens(first_tokens, arrays.len())?;
        let buffers = arrays::buffers(&arrays)?;
        let sources = buffers
            .iter()
            .zip(&layout.parts)
            .zip(first_tokens)
            .enumerate()
            .map(|(index, ((buffer, part), first))| arrays::source(index, buffer, *part, first, tokens.0.len()))
            .collect::<PyResult<Vec<_>>>()?;
        if self.open.is_closing() {
            return Ok(Saved::refused(core::Refusal::Closed));
        }
        let state = snapshot.as_ref().map(|snapshot| snapshot.get().source());
        let keep = Held::new(buffers, snapshot.map(|snapshot| snapshot.into_any().unbind()));
        let namespace = core::Namespace::new(namespace.0, label);
        detached(py, move || {
            // SAFETY: `source` and `Snapshot` checked every array against its buffer, and `keep` holds them. That nobody
            // writes to them meanwhile is what the stub asks of the caller.
            let saved = unsafe { store.save(&namespace, layout, &tokens.0, &sources, state, Box::new(keep)) };
            Ok::<_, Raised>(saved.into())
        })
    }

    /// Puts other limits in force, and returns when what is stored fits them.
    #[pyo3(signature = (*, quota_bytes, hot_bytes, min_free_bytes, daily_write_bytes=None, ttl_seconds=None))]
    fn set_limits(
        &self,
        py: Python<'_>,
        quota_bytes: u64,
        hot_bytes: u64,
        min_free_bytes: u64,
        daily_write_bytes: Option<u64>,
        ttl_seconds: Option<f64>,
    ) -> PyResult<()> {
        let ttl = ttl(ttl_seconds)?;
        let limits = core::StoreLimits { quota_bytes, hot_bytes, min_free_bytes, daily_write_bytes, ttl };
        let store = self.working()?;
        interruptible(py, move || store.set_limits(limits))
    }

    /// Returns when everything accepted is on disk.
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        let store = self.working()?;
        interruptible(py, move || store.flush())
    }

    /// Flushes, writes the index and lets go of the folder.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if self.open.is_forked() {
            return Ok(());
        }
        let open = Arc::clone(&self.open);
        interruptible(py, move || open.close())
    }

    /// What it did and holds, as JSON.
    fn stats(&self, py: Python<'_>) -> PyResult<String> {
        let store = self.of_this_process()?;
        detached(py, || json::text(&store.stats()))
    }

    /// Its folder, usage and namespaces, as JSON.
    fn info(&self, py: Python<'_>) -> PyResult<String> {
        let store = self.working()?;
        detached(py, move || json::text(&store.info()))
    }

    /// Each namespace of that label with the description of its layout.
    fn layouts<'py>(&self, py: Python<'py>, label: &str) -> PyResult<Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)>> {
        let store = self.of_this_process()?;
        if self.open.is_closing() {
            return Ok(Vec::new());
        }
        let layouts = detached(py, || Ok::<_, Raised>(store.layouts(label)))?;
        let bytes = |bytes: &[u8]| PyBytes::new(py, bytes);
        Ok(layouts.iter().map(|(key, layout)| (bytes(&key.0), bytes(&layout.description))).collect())
    }

    /// Keeps the longest stored prefix of `tokens` from eviction. Returns its tokens.
    #[allow(clippy::needless_pass_by_value, reason = "extracted from Python")]
    fn pin(&self, py: Python<'_>, namespace: Namespace, tokens: TokenIds) -> PyResult<usize> {
        let store = self.working()?;
        detached(py, move || store.pin(&core::Namespace::new(namespace.0, ""), &tokens.0))
    }

    /// Takes back a `pin` of the same tokens. Returns the tokens of the prefix that was pinned.
    #[allow(clippy::needless_pass_by_value, reason = "extracted from Python")]
    fn unpin(&self, py: Python<'_>, namespace: Namespace, tokens: TokenIds) -> PyResult<usize> {
        let store = self.working()?;
        detached(py, move || store.unpin(&core::Namespace::new(namespace.0, ""), &tokens.0))
    }

    /// Removes one namespace, or all. JSON: blocks, snapshots, bytes.
    #[pyo3(signature = (namespace=None))]
    #[allow(clippy::needless_pass_by_value, reason = "extracted from Python")]
    fn purge(&self, py: Python<'_>, namespace: Option<Namespace>) -> PyResult<String> {
        let store = self.working()?;
        let purged = interruptible(py, move || store.purge(namespace.map(|namespace| namespace.0).as_ref()))?;
        Ok(json::text(&purged).map_err(Raised::from)?)
    }

    /// Rewrites segments that are mostly dead. JSON: segments, moved and freed bytes.
    fn compact(&self, py: Python<'_>) -> PyResult<String> {
        let store = self.working()?;
        let compacted = interruptible(py, move || store.compact())?;
        Ok(json::text(&compacted).map_err(Raised::from)?)
    }

    /// Reads every record; bad ones are quarantined. JSON: records, bytes, bad, stopped.
    fn verify(&self, py: Python<'_>) -> PyResult<String> {
        let store = self.working()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let report = interruptible(py, move || store.verify(&stopped)).inspect_err(|_| {
            stop.store(true, Ordering::Release);
        })?;
        Ok(json::text(&report).map_err(Raised::from)?)
    }

    fn __enter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __exit__(&self, py: Python<'_>, _kind: Py<PyAny>, _error: Py<PyAny>, _traceback: Py<PyAny>) -> PyResult<()> {
        self.close(py)
    }

    fn __repr__(&self) -> String {
        let closed = if self.closed() { ", closed" } else { "" };
        format!("Store({}{closed})", self.folder.display())
    }
}

impl Store {
    fn of_this_process(&self) -> PyResult<&Arc<core::Store>> {
        if self.open.is_forked() {
            return Err(Raised::from(core::StoreError::Forked).into());
        }
        Ok(self.open.store())
    }

    /// The store, for who only wants to know what it holds and keeps it from nothing.
    pub(crate) fn weak(&self) -> Weak<core::Store> {
        Arc::downgrade(self.open.store())
    }

    fn working(&self) -> PyResult<Arc<core::Store>> {
        let store = self.of_this_process()?;
        if self.open.is_closing() {
            return Err(Raised::from(core::StoreError::Closed).into());
        }
        Ok(Arc::clone(store))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if self.open.is_forked() || !self.open.begin_closing() {
            return;
        }
        // Not here: this may be a thread of the store, which closing would wait for. The exit hook waits for it.
        let open = Arc::clone(&self.open);
        let close = move || {
            if let Err(error) = open.finish_closing() {
                tracing::warn!(%error, "a store that nobody closed did not close well");
            }
        };
        if std::thread::Builder::new().name("hwledger-close".to_owned()).spawn(close).is_err() {
            self.open.leave_to_exit();
        }
    }
}

fn ttl(seconds: Option<f64>) -> PyResult<Option<Duration>> {
    let ttl = seconds.map(Duration::try_from_secs_f64).transpose();
    ttl.map_err(|error| PyValueError::new_err(format!("ttl_seconds: {error}")))
}

/// The 32 bytes of a namespace.
pub(crate) struct Namespace(core::types::NamespaceKey);

impl<'py> FromPyObject<'_, 'py> for Namespace {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let bytes: &[u8] = given.extract().map_err(|_| PyTypeError::new_err("a namespace is 32 bytes"))?;
        let key = bytes
            .try_into()
            .map_err(|_| PyValueError::new_err(format!("a namespace is 32 bytes, not {}", bytes.len())))?;
        Ok(Self(core::types::NamespaceKey(key)))
    }
}
