//! What a namespace is made of.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hwledger_omlx_core::store::identity;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::entry::interruptible;

/// The 32-byte digest of a model folder's files, weights and all, and of an adapter's.
///
/// With a memo file only files that changed since are read again.
#[pyfunction]
#[pyo3(signature = (folder, memo_file=None, *, adapter=None))]
pub(crate) fn fingerprint_folder(
    py: Python<'_>,
    folder: PathBuf,
    memo_file: Option<PathBuf>,
    adapter: Option<PathBuf>,
) -> PyResult<Bound<'_, PyBytes>> {
    let found = interruptible(py, move || identity::fingerprint(&folder, adapter.as_deref(), memo_file.as_deref()))?;
    Ok(PyBytes::new(py, &found.digest))
}

/// The 32-byte digest of named fields, whatever their order. Text counts as its UTF-8.
#[pyfunction]
#[allow(clippy::needless_pass_by_value, reason = "extracted from Python")]
pub(crate) fn namespace_digest(py: Python<'_>, fields: BTreeMap<String, Field>) -> Bound<'_, PyBytes> {
    let key = identity::namespace_key(fields.iter().map(|(name, field)| (name.as_str(), field.0.as_slice())));
    PyBytes::new(py, &key.0)
}

/// The value of a field, text or bytes.
pub(crate) struct Field(Vec<u8>);

impl<'py> FromPyObject<'_, 'py> for Field {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(text) = given.extract::<String>() {
            return Ok(Self(text.into_bytes()));
        }
        let bytes = given.cast::<PyBytes>().map_err(|_| PyTypeError::new_err("a field is str or bytes"))?;
        Ok(Self(bytes.as_bytes().to_vec()))
    }
}
