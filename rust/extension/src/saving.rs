//! What a save takes and gives: snapshot, outcome.

use hwledger_omlx_core::store as core;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::arrays;
use crate::held::Held;

/// State of layers that cannot be cut at a token, valid at exactly the end of the tokens that it is saved with. Holds
/// the arrays' buffers as long as it lives.
#[pyclass(frozen, module = "hwledger_omlx._native")]
#[derive(Debug)]
pub struct Snapshot {
    meta: Vec<u8>,
    arrays: Vec<core::SnapshotArray>,
    _held: Held,
}

#[pymethods]
impl Snapshot {
    #[new]
    #[allow(clippy::needless_pass_by_value, reason = "extracted from Python")]
    fn new(meta: Vec<u8>, arrays: Vec<Bound<'_, PyAny>>) -> PyResult<Self> {
        let buffers = arrays::buffers(&arrays)?;
        let arrays = buffers.iter().enumerate().map(snapshot_array).collect::<PyResult<_>>()?;
        Ok(Self { meta, arrays, _held: Held::new(buffers, None) })
    }

    /// The caller's own description.
    #[getter]
    fn meta<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.meta)
    }

    /// Bytes of each array.
    #[getter]
    fn nbytes(&self) -> Vec<usize> {
        self.arrays.iter().map(|array| array.bytes).collect()
    }

    fn __repr__(&self) -> String {
        let bytes: usize = self.arrays.iter().map(|array| array.bytes).sum();
        format!("Snapshot({} arrays, {bytes} bytes)", self.arrays.len())
    }
}

impl Snapshot {
    /// Where its arrays are. Valid as long as the object lives.
    pub(crate) fn source(&self) -> core::SnapshotSource {
        core::SnapshotSource { meta: self.meta.clone(), arrays: self.arrays.clone() }
    }
}

fn snapshot_array((index, buffer): (usize, &PyUntypedBuffer)) -> PyResult<core::SnapshotArray> {
    let bytes = arrays::contiguous(index, buffer)?;
    Ok(core::SnapshotArray { ptr: buffer.buf_ptr().cast::<u8>().cast_const(), bytes })
}

/// What came of a save.
#[pyclass(frozen, get_all, eq, module = "hwledger_omlx._native")]
#[derive(Debug, PartialEq, Eq)]
pub struct Saved {
    /// Tokens that were not stored before and are now, or will be where `deferred`.
    new_tokens: usize,
    /// Bytes of these and of the snapshot, as they are in the arrays.
    nbytes: u64,
    /// Why not all was accepted.
    refused: Option<String>,
    /// Whether the copy is still to be made, once the queue has room.
    deferred: bool,
}

#[pymethods]
impl Saved {
    fn __repr__(&self) -> String {
        let refused = self.refused.as_ref().map(|why| format!(", refused: {why}")).unwrap_or_default();
        let deferred = if self.deferred { ", deferred" } else { "" };
        format!("Saved({} new tokens, {} bytes{refused}{deferred})", self.new_tokens, self.nbytes)
    }
}

impl Saved {
    pub(crate) fn refused(why: core::Refusal) -> Self {
        core::Saved { refused: Some(why), ..core::Saved::default() }.into()
    }
}

impl From<core::Saved> for Saved {
    fn from(saved: core::Saved) -> Self {
        let core::Saved { new_tokens, bytes, refused, deferred } = saved;
        Self { new_tokens, nbytes: bytes, refused: refused.map(|why| crate::json::word(&why)), deferred }
    }
}
