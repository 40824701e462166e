//! What the blocks of a namespace hold, as Python says it.

use hwledger_omlx_core::quant::{Codec, Element};
use hwledger_omlx_core::store::types;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// What the blocks of a namespace hold: an array `[1, rows, tokens, width]` a part, of `row_bytes` bytes a width. A part
/// with a codec is kept encoded.
#[pyclass(frozen, eq, module = "hwledger_omlx._native")]
#[derive(Debug, PartialEq, Eq)]
pub struct Layout(types::Layout);

/// A codec: scheme, type of the numbers, numbers of a width.
type CodecName = (String, String, u32);

/// A part as it is given.
#[derive(FromPyObject)]
enum Part {
    Plain(u32, u32),
    Coded(u32, u32, Option<CodecName>),
}

#[pymethods]
impl Layout {
    #[new]
    #[pyo3(
        signature = (parts, needs_snapshot=false, description=Vec::new()),
        text_signature = "(parts, needs_snapshot=False, description=b'')"
    )]
    fn new(parts: Vec<Part>, needs_snapshot: bool, description: Vec<u8>) -> PyResult<Self> {
        let parts = parts.into_iter().enumerate().map(|(index, part)| part.layout(index)).collect::<PyResult<_>>()?;
        Ok(Self(types::Layout { parts, needs_snapshot, description }))
    }

    /// `(rows, row_bytes)` of each part.
    #[getter]
    fn parts(&self) -> Vec<(u32, u32)> {
        part_pairs(&self.0)
    }

    /// `(scheme, element, width)` of each part that is kept encoded, `None` of the others.
    #[getter]
    fn codecs(&self) -> Vec<Option<(String, &'static str, u32)>> {
        codec_names(&self.0)
    }

    /// Whether a prefix can be restored only where a snapshot was taken.
    #[getter]
    fn needs_snapshot(&self) -> bool {
        self.0.needs_snapshot
    }

    /// The caller's own description, kept and given back as it is.
    #[getter]
    fn description<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.description)
    }

    /// Bytes of one token in all parts, in the arrays.
    #[getter]
    fn token_bytes(&self) -> u64 {
        self.0.token_bytes()
    }

    fn __repr__(&self) -> String {
        let encoded = match self.0.parts.iter().filter(|part| part.codec.is_some()).count() {
            0 => String::new(),
            count => format!(", {count} encoded"),
        };
        let snapshots = if self.0.needs_snapshot { ", needs_snapshot" } else { "" };
        format!("Layout({} parts{encoded}, {} bytes a token{snapshots})", self.0.parts.len(), self.0.token_bytes())
    }
}

impl Layout {
    pub(crate) fn core(&self) -> &types::Layout {
        &self.0
    }
}

impl Part {
    fn layout(self, index: usize) -> PyResult<types::PartLayout> {
        let (rows, row_bytes, name) = match self {
            Self::Plain(rows, row_bytes) => (rows, row_bytes, None),
            Self::Coded(rows, row_bytes, name) => (rows, row_bytes, name),
        };
        if rows == 0 || row_bytes == 0 {
            return Err(PyValueError::new_err("every part needs at least one row of at least one byte"));
        }
        let wrong = |why: String| PyValueError::new_err(format!("part {index}: {why}"));
        let Some((scheme, element, width)) = name else { return Ok(types::PartLayout::plain(rows, row_bytes)) };
        let element = element_named(&element).map_err(wrong)?;
        let codec = Codec::parse(&scheme, element, width).map_err(|error| wrong(error.to_string()))?;
        let part = types::PartLayout { rows, row_bytes, codec: Some(codec) };
        if !part.is_coherent() {
            let bytes = codec.vector_bytes();
            return Err(wrong(format!("{width} numbers of its codec are {bytes} bytes, its rows have {row_bytes}")));
        }
        Ok(part)
    }
}

const ELEMENTS: [(Element, &str); 3] =
    [(Element::Float16, "float16"), (Element::Bfloat16, "bfloat16"), (Element::Float32, "float32")];

pub(crate) fn element_named(name: &str) -> Result<Element, String> {
    let found = ELEMENTS.into_iter().find(|(_, own)| *own == name).map(|(element, _)| element);
    found.ok_or_else(|| format!("{name:?} is no type of numbers: float16, bfloat16 or float32 are"))
}

pub(crate) fn part_pairs(layout: &types::Layout) -> Vec<(u32, u32)> {
    layout.parts.iter().map(|part| (part.rows, part.row_bytes)).collect()
}

pub(crate) fn codec_names(layout: &types::Layout) -> Vec<Option<(String, &'static str, u32)>> {
    let name = |codec: Codec| {
        let element =
            ELEMENTS.into_iter().find(|(element, _)| *element == codec.element()).map_or("", |(_, name)| name);
        (codec.scheme().to_string(), element, codec.width())
    };
    layout.parts.iter().map(|part| part.codec.map(name)).collect()
}
