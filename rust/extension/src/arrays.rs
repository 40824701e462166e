//! What the core must know of an array in Python's memory, read from its buffer and checked against a layout.
//!
//! A part is a buffer `[1, rows, tokens, width]`. Its format does not matter (MLX calls bfloat16 a format that no other
//! knows), only its bytes: `width` times the item size must be the layout's bytes of a row. Every wrong shape is the
//! caller's mistake and raises `ValueError`; so nothing here leaves a check to the core.

use hwledger_omlx_core::store::types::PartLayout;
use hwledger_omlx_core::store::{SnapshotTarget, Source, Target};
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::prelude::*;

/// The buffers of a sequence of Python objects.
pub(crate) fn buffers(arrays: &[Bound<'_, PyAny>]) -> PyResult<Vec<PyUntypedBuffer>> {
    arrays.iter().map(|array| PyUntypedBuffer::get(array)).collect()
}

/// The positions of the first tokens of `count` arrays: as given, or all 0.
pub(crate) fn first_tokens(given: Option<Vec<usize>>, count: usize) -> PyResult<Vec<usize>> {
    match given {
        None => Ok(vec![0; count]),
        Some(given) if given.len() == count => Ok(given),
        Some(given) => Err(PyValueError::new_err(format!("{} first_tokens for {count} arrays", given.len()))),
    }
}

/// Where a part is to be saved from. It must reach to the token before `end`, a position in the prompt.
pub(crate) fn source(
    index: usize,
    array: &PyUntypedBuffer,
    layout: PartLayout,
    first_token: usize,
    end: usize,
) -> PyResult<Source> {
    let shape = Shape::of(array, layout).map_err(|wrong| wrong.of(index))?;
    if shape.tokens < end.saturating_sub(first_token) {
        return Err(
            Wrong(format!("has {} tokens from {first_token} on, and {end} are to be saved", shape.tokens)).of(index)
        );
    }
    Ok(Source {
        ptr: array.buf_ptr().cast::<u8>().cast_const(),
        row_stride_bytes: shape.row_stride,
        token_stride_bytes: shape.token_stride,
        first_token,
    })
}

/// Where a part is to be restored to. It must have room up to the token before `end`, a position in the prompt.
pub(crate) fn target(
    index: usize,
    array: &PyUntypedBuffer,
    layout: PartLayout,
    first_token: usize,
    end: usize,
) -> PyResult<Target> {
    let shape = Shape::of(array, layout).map_err(|wrong| wrong.of(index))?;
    let row_bytes = layout.row_bytes as usize;
    if array.readonly() {
        return Err(PyBufferError::new_err(format!("array {index} is read-only")));
    }
    if shape.tokens < end.saturating_sub(first_token) {
        let room = shape.tokens;
        return Err(
            Wrong(format!("has room for {room} tokens from {first_token} on, and {end} are restored")).of(index)
        );
    }
    if shape.token_stride != row_bytes {
        return Err(Wrong("must have contiguous tokens: a row's stride of a token is its width".to_owned()).of(index));
    }
    if layout.rows > 1 && shape.row_stride < shape.tokens * row_bytes {
        return Err(Wrong("has rows that overlap".to_owned()).of(index));
    }
    Ok(Target {
        ptr: array.buf_ptr().cast::<u8>(),
        row_stride_bytes: shape.row_stride,
        token_capacity: shape.tokens,
        first_token,
    })
}

/// Refuses targets that share memory: two threads would write there.
pub(crate) fn refuse_overlap(targets: &[Target], layouts: &[PartLayout]) -> PyResult<()> {
    let mut spans: Vec<_> = targets
        .iter()
        .zip(layouts)
        .enumerate()
        .map(|(index, (target, layout))| {
            let (start, row) = (target.ptr.addr(), target.token_capacity * layout.row_bytes as usize);
            (start, start + (layout.rows as usize - 1) * target.row_stride_bytes + row, row, index)
        })
        .filter(|(start, end, ..)| end > start)
        .collect();
    spans.sort_unstable();
    for (position, &(start, end, row, index)) in spans.iter().enumerate() {
        for &(other_start, _, other_row, other) in
            spans[position + 1..].iter().take_while(|(other_start, ..)| *other_start < end)
        {
            // Rows of two arrays may lie between each other, as in slices of a fused K and V.
            let stride = targets[index].row_stride_bytes;
            let between = stride == targets[other].row_stride_bytes && {
                let offset = (other_start - start) % stride;
                offset >= row && offset + other_row <= stride
            };
            if !between {
                return Err(PyValueError::new_err(format!("arrays {index} and {other} share memory")));
            }
        }
    }
    Ok(())
}

/// The same for the arrays of a snapshot, which are runs of bytes.
pub(crate) fn refuse_shared(targets: &[SnapshotTarget]) -> PyResult<()> {
    let mut spans: Vec<_> =
        targets.iter().enumerate().map(|(index, target)| (target.ptr.addr(), target.bytes, index)).collect();
    spans.retain(|&(_, bytes, _)| bytes > 0);
    spans.sort_unstable();
    match spans.windows(2).find(|pair| pair[0].0 + pair[0].1 > pair[1].0) {
        Some(pair) => Err(PyValueError::new_err(format!("arrays {} and {} share memory", pair[0].2, pair[1].2))),
        None => Ok(()),
    }
}

/// Refuses what is not one run of bytes.
pub(crate) fn contiguous(index: usize, array: &PyUntypedBuffer) -> PyResult<usize> {
    if array.len_bytes() > 0 && !array.is_c_contiguous() {
        return Err(Wrong("of a snapshot must be C-contiguous".to_owned()).of(index));
    }
    Ok(array.len_bytes())
}

struct Wrong(String);

impl Wrong {
    fn of(self, index: usize) -> PyErr {
        PyValueError::new_err(format!("array {index} {}", self.0))
    }
}

/// Lengths in tokens, strides in bytes.
struct Shape {
    tokens: usize,
    row_stride: usize,
    token_stride: usize,
}

impl Shape {
    fn of(array: &PyUntypedBuffer, layout: PartLayout) -> Result<Self, Wrong> {
        let (rows, row_bytes) = (layout.rows as usize, layout.row_bytes as usize);
        let &[batch, heads, tokens, width] = array.shape() else {
            return Err(Wrong(format!("has {} dimensions; [1, rows, tokens, width] is wanted", array.dimensions())));
        };
        if batch != 1 || heads != rows || width * array.item_size() != row_bytes {
            return Err(Wrong(format!(
                "is {:?} of {} bytes an item; the layout wants [1, {rows}, tokens, width] with {row_bytes} bytes a width",
                array.shape(),
                array.item_size()
            )));
        }
        if array.suboffsets().is_some_and(|offsets| offsets.iter().any(|&offset| offset >= 0)) {
            return Err(Wrong("is an array of pointers".to_owned()));
        }
        let &[_, row_stride, token_stride, item_stride] = array.strides() else {
            return Err(Wrong("has no strides".to_owned()));
        };
        if width > 1 && item_stride.cast_unsigned() != array.item_size() {
            return Err(Wrong("must have a contiguous last axis".to_owned()));
        }
        let forward = || Wrong("has a negative stride".to_owned());
        // The stride of an axis of length 1 says nothing, and exporters put anything there.
        let token_stride = if tokens > 1 { usize::try_from(token_stride).map_err(|_| forward())? } else { row_bytes };
        let row_stride =
            if rows > 1 { usize::try_from(row_stride).map_err(|_| forward())? } else { tokens * row_bytes };
        Ok(Self { tokens, row_stride, token_stride })
    }
}
