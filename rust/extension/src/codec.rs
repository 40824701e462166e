//! The codecs by themselves, as the store applies them: for measuring and for looking.

#![expect(unsafe_code, reason = "encodes from and decodes to Python's buffers")]

use hwledger_omlx_core::quant::{self, Strides};
use hwledger_omlx_core::store::types::PartLayout;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::prelude::*;

use crate::arrays;
use crate::entry::detached;
use crate::errors::Raised;
use crate::layout::element_named;

/// How keys or values of one type and width are kept: `affine:4:64`, `channel:4:64`, `rotated:3.5`, `lossless`.
#[pyclass(frozen, module = "hwledger_omlx._native")]
#[derive(Debug)]
pub struct Codec {
    core: quant::Codec,
    row_bytes: u32,
}

#[pymethods]
impl Codec {
    #[new]
    fn new(name: &str, element: &str, width: u32) -> PyResult<Self> {
        let element = element_named(element).map_err(PyValueError::new_err)?;
        let wrong = |error: quant::CodecError| PyValueError::new_err(error.to_string());
        let core = quant::Codec::parse(name, element, width).map_err(wrong)?;
        let row_bytes = u32::try_from(core.vector_bytes()).map_err(|_| PyValueError::new_err("too wide"))?;
        Ok(Self { core, row_bytes })
    }

    /// Bytes that so many tokens take; of `lossless` the most.
    fn encoded_nbytes(&self, rows: usize, tokens: usize) -> usize {
        self.core.encoded_bytes(rows, tokens)
    }

    /// Encodes `[1, rows, tokens, width]` into the front of a writable buffer. Returns the bytes written.
    fn encode(&self, py: Python<'_>, array: &Bound<'_, PyAny>, into: &Bound<'_, PyAny>) -> PyResult<usize> {
        let from = PyUntypedBuffer::get(array)?;
        let to = run_of_bytes(into, true)?;
        let (rows, tokens) = rows_and_tokens(&from)?;
        let source = arrays::source(0, &from, self.layout(rows), 0, tokens)?;
        if to.len_bytes() < self.core.encoded_bytes(rows as usize, tokens) {
            return Err(PyValueError::new_err(format!(
                "{} bytes of room, and up to {} are written",
                to.len_bytes(),
                self.core.encoded_bytes(rows as usize, tokens)
            )));
        }
        let strides =
            Strides { rows: rows as usize, row_bytes: source.row_stride_bytes, token_bytes: source.token_stride_bytes };
        let room = Address(to.buf_ptr().cast::<u8>(), to.len_bytes());
        detached(py, move || {
            let source = source; // all of it: an address alone may not cross threads
            // SAFETY: the buffer is writable and held by this call; that nobody else uses it is asked of the caller.
            let room = unsafe { room.slice() };
            // SAFETY: `source` was checked against the array's buffer, which this call holds.
            Ok::<_, Raised>(unsafe { self.core.encode(source.ptr, strides, tokens, room) })
        })
    }

    /// Decodes what `encode` wrote of so many tokens as `into` has, `[1, rows, tokens, width]`.
    fn decode(&self, py: Python<'_>, data: &Bound<'_, PyAny>, into: &Bound<'_, PyAny>) -> PyResult<()> {
        let from = run_of_bytes(data, false)?;
        let to = PyUntypedBuffer::get(into)?;
        let (rows, tokens) = rows_and_tokens(&to)?;
        let target = arrays::target(0, &to, self.layout(rows), 0, tokens)?;
        let strides =
            Strides { rows: rows as usize, row_bytes: target.row_stride_bytes, token_bytes: self.row_bytes as usize };
        let bytes = Address(from.buf_ptr().cast::<u8>(), from.len_bytes());
        detached(py, move || {
            let target = target;
            // SAFETY: the buffer is held by this call, and nobody writes to it meanwhile.
            let bytes = unsafe { bytes.slice() };
            // SAFETY: `target` was checked against the array's buffer, which is writable and held by this call.
            let decoded = unsafe { self.core.decode(bytes, tokens, 0..tokens, target.ptr, strides) };
            Ok::<_, Raised>(decoded.map_err(|error| PyValueError::new_err(error.to_string())))
        })?
    }

    fn __repr__(&self) -> String {
        format!("Codec({}, {:?}, width {})", self.core, self.core.element(), self.core.width())
    }
}

impl Codec {
    fn layout(&self, rows: u32) -> PartLayout {
        PartLayout::plain(rows, self.row_bytes)
    }
}

/// Bytes of a caller's buffer, on their way to a thread without the interpreter.
#[derive(Clone, Copy)]
struct Address(*mut u8, usize);

// SAFETY: an address. Who follows it answers for it.
unsafe impl Send for Address {}

impl Address {
    /// # Safety
    /// The buffer is alive, and nobody else uses it while the slice lives.
    unsafe fn slice<'a>(self) -> &'a mut [u8] {
        if self.1 == 0 {
            return &mut [];
        }
        // SAFETY: this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.0, self.1) }
    }
}

fn run_of_bytes(given: &Bound<'_, PyAny>, to_write: bool) -> PyResult<PyUntypedBuffer> {
    let buffer = PyUntypedBuffer::get(given)?;
    if to_write && buffer.readonly() {
        return Err(PyBufferError::new_err("the buffer to encode into is read-only"));
    }
    arrays::contiguous(0, &buffer)?;
    Ok(buffer)
}

fn rows_and_tokens(array: &PyUntypedBuffer) -> PyResult<(u32, usize)> {
    match array.shape() {
        &[1, rows, tokens, _] if rows > 0 && tokens > 0 => {
            let rows = u32::try_from(rows).map_err(|_| PyValueError::new_err("too many rows"))?;
            Ok((rows, tokens))
        }
        shape => Err(PyValueError::new_err(format!("an array [1, rows, tokens, width] is wanted, not {shape:?}"))),
    }
}
