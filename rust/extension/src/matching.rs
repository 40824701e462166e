//! What a lookup found, and its way into arrays.

#![expect(unsafe_code, reason = "the core follows the addresses of Python's buffers")]

use std::sync::{Arc, Mutex, PoisonError};

use hwledger_omlx_core::store as core;
use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::arrays;
use crate::entry::{self, detached};
use crate::errors::Raised;
use crate::held::Held;
use crate::json;
use crate::layout::{codec_names, part_pairs};

/// The longest stored prefix of some tokens, kept from eviction until it is released. Use it in a `with` statement.
#[pyclass(frozen, module = "hwledger_omlx._native")]
pub struct Match {
    store: Arc<core::Store>,
    /// `None` once released. Running restores hold it too.
    inner: Mutex<Option<Arc<core::Match>>>,
    found: Found,
    process: u32,
}

/// What stays readable after the release.
#[derive(Default)]
struct Found {
    tokens: usize,
    restorable: usize,
    bytes: u64,
    layout: core::types::Layout,
    snapshot: Option<core::SnapshotInfo>,
    miss: Option<core::MissReason>,
}

impl Match {
    pub(crate) fn new(store: Arc<core::Store>, inner: core::Match) -> Self {
        let found = Found {
            tokens: inner.tokens(),
            restorable: inner.restorable(),
            bytes: inner.bytes(),
            layout: inner.layout().cloned().unwrap_or_default(),
            snapshot: inner.snapshot().cloned(),
            miss: inner.miss(),
        };
        Self { store, inner: Mutex::new(Some(Arc::new(inner))), found, process: std::process::id() }
    }

    /// A match of a store that is closed: of nothing.
    pub(crate) fn of_closed(store: Arc<core::Store>) -> Self {
        let found = Found { miss: Some(core::MissReason::Disabled), ..Found::default() };
        Self { store, inner: Mutex::new(None), found, process: std::process::id() }
    }

    fn take(&self) -> Option<Arc<core::Match>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn held(&self) -> PyResult<Arc<core::Match>> {
        if self.process != std::process::id() {
            return Err(Raised::from(core::StoreError::Forked).into());
        }
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.clone().ok_or_else(|| PyValueError::new_err("the match was released, or is one of a closed store"))
    }
}

#[pymethods]
impl Match {
    /// Tokens that match, one by one from the first.
    #[getter]
    fn tokens(&self) -> usize {
        self.found.tokens
    }

    /// Tokens that `restore` gives now: all that match, or those up to the best snapshot where the layout needs one.
    #[getter]
    fn restorable(&self) -> usize {
        self.found.restorable
    }

    /// Bytes of the restorable tokens in the arrays, all parts.
    #[getter]
    fn nbytes(&self) -> u64 {
        self.found.bytes
    }

    /// The layout's description; empty where nothing matched.
    #[getter]
    fn description<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.found.layout.description)
    }

    /// `(rows, row_bytes)` of each part; empty where nothing matched.
    #[getter]
    fn parts(&self) -> Vec<(u32, u32)> {
        part_pairs(&self.found.layout)
    }

    /// `(scheme, element, width)` of each part that is kept encoded, `None` of the others.
    #[getter]
    fn codecs(&self) -> Vec<Option<(String, &'static str, u32)>> {
        codec_names(&self.found.layout)
    }

    /// Tokens of the prefix at which the best snapshot is valid.
    #[getter]
    fn snapshot_position(&self) -> Option<usize> {
        self.found.snapshot.as_ref().map(|snapshot| snapshot.position)
    }

    /// The description that the best snapshot was saved with.
    #[getter]
    fn snapshot_meta<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.found.snapshot.as_ref().map(|snapshot| PyBytes::new(py, &snapshot.meta))
    }

    /// Bytes of each array of the best snapshot.
    #[getter]
    fn snapshot_nbytes(&self) -> Vec<u64> {
        self.found.snapshot.as_ref().map(|snapshot| snapshot.array_bytes.clone()).unwrap_or_default()
    }

    /// Why nothing can be restored.
    #[getter]
    fn miss_reason(&self) -> Option<String> {
        self.found.miss.as_ref().map(json::word)
    }

    /// Copies parts `first_part..` of the restorable tokens into arrays `[1, rows, capacity, width]`.
    #[pyo3(signature = (arrays, first_part=0, *, first_tokens=None))]
    #[allow(clippy::needless_pass_by_value, reason = "extracted from Python")]
    fn restore(
        &self,
        py: Python<'_>,
        arrays: Vec<Bound<'_, PyAny>>,
        first_part: usize,
        first_tokens: Option<Vec<usize>>,
    ) -> PyResult<Restored> {
        let held = self.held()?;
        let parts = first_part..first_part.saturating_add(arrays.len());
        let layouts = self.found.layout.parts.get(parts.clone()).ok_or_else(|| {
            let count = self.found.layout.parts.len();
            PyValueError::new_err(format!("parts {} to {} of {count} were asked for", parts.start, parts.end))
        })?;
        let first_tokens = arrays::first_tokens(first_tokens, arrays.len())?;
        let buffers = arrays::buffers(&arrays)?;
        let targets = buffers
            .iter()
            .zip(layouts)
            .zip(first_tokens)
            .enumerate()
            .map(|(index, ((buffer, layout), first))| {
                arrays::target(index, buffer, *layout, first, self.found.restorable)
            })
            .collect::<PyResult<Vec<_>>>()?;
        arrays::refuse_overlap(&targets, layouts)?;
        let keep = Held::new(buffers, None);
        let store = &self.store;
        detached(py, move || {
            // SAFETY: `target` checked each against its layout and the buffers, which stay held; none overlap. That no
            // other thread uses the arrays meanwhile is what the stub asks of the caller.
            let restored = unsafe { store.restore(&held, parts, &targets) };
            drop((held, keep));
            restored.map(Restored::from)
        })
    }

    /// Fills one array for each of the best snapshot's. False if it turned out bad; it is gone then.
    #[allow(clippy::needless_pass_by_value, reason = "extracted from Python")]
    fn restore_snapshot(&self, py: Python<'_>, arrays: Vec<Bound<'_, PyAny>>) -> PyResult<bool> {
        let held = self.held()?;
        let Some(snapshot) = &self.found.snapshot else {
            return Err(PyValueError::new_err("the match has no snapshot"));
        };
        if arrays.len() != snapshot.array_bytes.len() {
            let count = snapshot.array_bytes.len();
            return Err(PyValueError::new_err(format!("{} arrays for a snapshot of {count}", arrays.len())));
        }
        let buffers = arrays::buffers(&arrays)?;
        let mut targets = Vec::with_capacity(buffers.len());
        for (index, (buffer, &wanted)) in buffers.iter().zip(&snapshot.array_bytes).enumerate() {
            let bytes = arrays::contiguous(index, buffer)?;
            if buffer.readonly() {
                return Err(PyBufferError::new_err(format!("array {index} is read-only")));
            }
            if bytes as u64 != wanted {
                return Err(PyValueError::new_err(format!("array {index} has {bytes} bytes, the snapshot's {wanted}")));
            }
            targets.push(core::SnapshotTarget { ptr: buffer.buf_ptr().cast::<u8>(), bytes });
        }
        arrays::refuse_shared(&targets)?;
        let keep = Held::new(buffers, None);
        let store = &self.store;
        detached(py, move || {
            // SAFETY: writable, contiguous, of the wanted length, apart from each other, and held until here.
            let whole = unsafe { store.restore_snapshot(&held, &targets) };
            drop((held, keep));
            whole
        })
    }

    /// Lets go of the prefix. What it says of itself stays readable.
    fn release(&self, py: Python<'_>) {
        let inner = self.take();
        if self.process == std::process::id() {
            entry::dropped(py, inner);
        } else {
            // Its locks and threads belong to the parent of this process.
            std::mem::forget(inner);
        }
    }

    fn __enter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __exit__(&self, py: Python<'_>, _kind: Py<PyAny>, _error: Py<PyAny>, _traceback: Py<PyAny>) {
        self.release(py);
    }

    fn __repr__(&self) -> String {
        let miss = self.miss_reason().map(|why| format!(", miss: {why}")).unwrap_or_default();
        format!("Match({} tokens, {} restorable{miss})", self.found.tokens, self.found.restorable)
    }
}

impl Drop for Match {
    fn drop(&mut self) {
        Python::try_attach(|py| self.release(py));
    }
}

/// What came of a restore.
#[pyclass(frozen, get_all, eq, module = "hwledger_omlx._native")]
#[derive(Debug, PartialEq, Eq)]
pub struct Restored {
    /// Leading tokens that are right in every array. Fewer than restorable if a record turned out bad.
    tokens: usize,
    /// Bytes that came from RAM, as they are in the arrays.
    bytes_hot: u64,
    /// Bytes that came from disk, as they are in the arrays.
    bytes_cold: u64,
}

#[pymethods]
impl Restored {
    fn __repr__(&self) -> String {
        format!("Restored({} tokens, {} bytes hot, {} bytes cold)", self.tokens, self.bytes_hot, self.bytes_cold)
    }
}

impl From<core::Restored> for Restored {
    fn from(restored: core::Restored) -> Self {
        let core::Restored { tokens, bytes_hot, bytes_cold } = restored;
        Self { tokens, bytes_hot, bytes_cold }
    }
}
