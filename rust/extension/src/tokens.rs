//! Token ids as Python has them: a buffer of uint32, which is copied, or a sequence of ints, which is converted.

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

/// Token ids of ours: nobody else writes to them while the core reads.
pub(crate) struct TokenIds(pub(crate) Vec<u32>);

impl<'py> FromPyObject<'_, 'py> for TokenIds {
    type Error = PyErr;

    fn extract(given: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(list) = given.cast::<PyList>() {
            return listed(&list);
        }
        if let Ok(tuple) = given.cast::<PyTuple>() {
            return tuple.iter().map(|item| token(&item)).collect::<PyResult<_>>().map(Self);
        }
        let buffer = PyUntypedBuffer::get(&given).map_err(|_| refused(&given))?;
        if buffer.dimensions() != 1 {
            return Err(PyValueError::new_err(format!(
                "token ids must have one dimension, not {}",
                buffer.dimensions()
            )));
        }
        let typed = buffer.as_typed::<u32>().map_err(|_| refused(&given))?;
        let ids = typed.to_vec(given.py())?;
        buffer.release(given.py());
        Ok(Self(ids))
    }
}

/// Prompts mostly come as lists, and are long: so without a count of references for each item.
fn listed(list: &Bound<'_, PyList>) -> PyResult<TokenIds> {
    let mut ids = Vec::with_capacity(list.len());
    for index in 0..list.len() {
        match plain_token(list, index) {
            Some(id) => ids.push(id),
            None => ids.push(token(&list.get_item(index)?)?),
        }
    }
    Ok(TokenIds(ids))
}

/// The item, if it is an `int` and no subclass, from 0 to 2³²-1.
#[expect(unsafe_code, reason = "no safe face borrows an item of a list under the stable ABI")]
fn plain_token(list: &Bound<'_, PyList>, index: usize) -> Option<u32> {
    let index = ffi::Py_ssize_t::try_from(index).ok()?;
    // SAFETY: attached, as `list` proves. The item is borrowed from the list, which holds it: nothing here runs Python
    // code, for `PyLong_AsLongLong` of an exact int does not. A null item and a failed conversion leave an exception,
    // which is taken away again.
    unsafe {
        let item = ffi::PyList_GetItem(list.as_ptr(), index);
        if item.is_null() {
            drop(PyErr::take(list.py()));
            return None;
        }
        if ffi::PyLong_CheckExact(item) == 0 {
            return None;
        }
        let value = ffi::PyLong_AsLongLong(item);
        if value < 0 {
            drop(PyErr::take(list.py()));
        }
        u32::try_from(value).ok()
    }
}

fn token(item: &Bound<'_, PyAny>) -> PyResult<u32> {
    item.extract::<u32>().map_err(|_| {
        PyTypeError::new_err(format!("token ids must be ints from 0 to 2**32 - 1; this one is not: {item}"))
    })
}

fn refused(given: &Bound<'_, PyAny>) -> PyErr {
    let kind = given.get_type().name().map_or_else(|_| "this".to_owned(), |name| name.to_string());
    PyTypeError::new_err(format!(
        "token ids must be a list or tuple of ints or a buffer of uint32 (array.array('I'), numpy.uint32), not {kind}"
    ))
}
