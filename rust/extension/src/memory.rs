//! The live memory ledger as Python sees it. What is told often crosses as numbers, what is told seldom as JSON; a report's
//! arrays are Rust's own memory, which a buffer's reader looks at.

use std::ffi::c_int;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hwledger_omlx_core::memory::live as core;
use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::entry::detached;
use crate::errors::Raised;
use crate::json;
use crate::store::Store;

/// Numbers of a row: the request and how many cells it has.
const ROW_NUMBERS: usize = 2;
/// Numbers of a cell: shape, allocated bytes, used bytes, tokens; -1 for what is not known.
const CELL_NUMBERS: usize = 4;

/// The ledger of one loaded model.
#[pyclass(frozen, module = "hwledger_omlx._native")]
#[derive(Debug)]
pub struct LayerMemory {
    core: Arc<core::LayerMemory>,
    /// Room for a sample on its way to the core, so that none is allocated for each.
    scratch: Mutex<(Vec<core::Row>, Vec<core::Cell>)>,
}

impl LayerMemory {
    /// The core's ledger behind it, for the host.
    #[must_use]
    pub fn shared(&self) -> Arc<core::LayerMemory> {
        Arc::clone(&self.core)
    }
}

#[pymethods]
impl LayerMemory {
    #[new]
    #[pyo3(signature = (model_id, *, decode_steps, samples=None, cells=None))]
    fn new(model_id: &str, decode_steps: u32, samples: Option<usize>, cells: Option<usize>) -> Self {
        let usual = core::Limits::default();
        let limits = core::Limits { samples: samples.unwrap_or(usual.samples), cells: cells.unwrap_or(usual.cells) };
        Self { core: Arc::new(core::LayerMemory::new(model_id, decode_steps, limits)), scratch: Mutex::default() }
    }

    /// The model's id.
    #[getter]
    fn model_id(&self) -> String {
        self.core.model_id()
    }

    /// Names the model anew.
    fn set_model_id(&self, model_id: &str) {
        self.core.set_model_id(model_id);
    }

    /// Says what the weights take; None with the reason why that is not known.
    #[pyo3(signature = (nbytes, why_unknown=""))]
    fn set_weights_bytes(&self, nbytes: Option<u64>, why_unknown: &str) {
        self.core.set_weights_bytes(nbytes.ok_or_else(|| why_unknown.to_owned()));
    }

    /// Says at which policy new requests run.
    fn set_kv_policy(&self, policy: &str) {
        self.core.set_kv_policy(policy);
    }

    /// Says what is missing of the samples, and why; None for nothing.
    #[pyo3(signature = (why))]
    fn set_incomplete(&self, why: Option<String>) {
        self.core.set_incomplete(why);
    }

    /// Has samples tell of a store too, for as long as that is open.
    fn watch_store(&self, store: &Store) {
        self.core.watch_store(store.weak());
    }

    /// The number by which cells name a cache that looks so.
    #[pyo3(signature = (layer, place, kind, cache_class, *, k_format="", v_format="", k_bits=None, v_bits=None,
        shared=false, why_unknown=""))]
    #[allow(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn shape(
        &self,
        layer: u32,
        place: u32,
        kind: &str,
        cache_class: &str,
        k_format: &str,
        v_format: &str,
        k_bits: Option<f64>,
        v_bits: Option<f64>,
        shared: bool,
        why_unknown: &str,
    ) -> PyResult<u32> {
        let kind = core::CacheKind::from_name(kind)
            .ok_or_else(|| PyValueError::new_err(format!("{kind:?} is no kind of cache")))?;
        Ok(self.core.shape(core::Shape {
            layer,
            place,
            kind,
            cache_class: cache_class.to_owned(),
            k_format: k_format.to_owned(),
            v_format: v_format.to_owned(),
            k_bits,
            v_bits,
            shared,
            why_unknown: why_unknown.to_owned(),
        }))
    }

    /// Takes a request on, and returns its number, which is above 0.
    fn begin(&self, request_id: &str, prompt_tokens: u64, kv_policy: &str) -> u32 {
        self.core.begin(request_id, prompt_tokens, kv_policy)
    }

    /// Says how far a request is: 0 waiting, 1 prefill, 2 decode.
    fn advance(&self, request: u32, stage: u8, cached_tokens: u64) -> PyResult<()> {
        let stage =
            core::Stage::from_number(stage).ok_or_else(|| PyValueError::new_err(format!("{stage} is no stage")))?;
        self.core.advance(request, stage, cached_tokens);
        Ok(())
    }

    /// Lets a request go. Returns the highest peak of MLX's memory while it was at work.
    fn end(&self, request: u32) -> Option<u64> {
        self.core.end(request)
    }

    /// Takes a sample. `rows` is `[request, cells, ...]`; `cells` is `[shape, allocated, used, tokens, ...]`, -1 for what
    /// is not known. Phases: 0 idle, 1 restore, 2 prefill, 3 join, 4 decode.
    #[allow(clippy::too_many_arguments, reason = "of Python, where an object would cost more than it says")]
    fn record(
        &self,
        phase: u8,
        request: u32,
        chunk: u32,
        active_bytes: Option<u64>,
        cache_bytes: Option<u64>,
        peak_bytes: Option<u64>,
        rows: &Bound<'_, PyList>,
        cells: &Bound<'_, PyList>,
    ) -> PyResult<bool> {
        let phase =
            core::Phase::from_number(phase).ok_or_else(|| PyValueError::new_err(format!("{phase} is no phase")))?;
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let (held_rows, held_cells) = &mut *scratch;
        read_rows(rows, held_rows)?;
        read_cells(cells, held_cells)?;
        if held_rows.iter().map(|row| row.cells).sum::<usize>() != held_cells.len() {
            return Err(PyValueError::new_err("the rows do not have as many cells as there are"));
        }
        let counters = core::Counters { active_bytes, cache_bytes, peak_bytes, ..core::Counters::default() };
        Ok(self.core.record(phase, request, chunk, counters, held_rows, held_cells.iter().copied()))
    }

    /// Counts a sample that could not be taken.
    fn failed(&self, why: &str) {
        self.core.failed(why);
    }

    /// Samples ever taken; the next one has this number.
    #[getter]
    fn samples(&self) -> u64 {
        self.core.samples()
    }

    /// The first sample from that number on that is still there, as JSON.
    fn event(&self, py: Python<'_>, number: u64) -> PyResult<Option<String>> {
        detached(py, || self.core.event(number).as_ref().map(json::text).transpose())
    }

    fn __repr__(&self) -> String {
        format!("LayerMemory({:?}, {} samples)", self.core.model_id(), self.core.samples())
    }
}

fn read_rows(given: &Bound<'_, PyList>, rows: &mut Vec<core::Row>) -> PyResult<()> {
    rows.clear();
    let mut numbers = Numbers::of(given, ROW_NUMBERS)?;
    while let Some(request) = numbers.next()? {
        let cells = numbers.next()?.and_then(|cells| usize::try_from(cells).ok()).ok_or_else(no_number)?;
        rows.push(core::Row { request: u32::try_from(request).map_err(|_| no_number())?, cells });
    }
    Ok(())
}

fn read_cells(given: &Bound<'_, PyList>, cells: &mut Vec<core::Cell>) -> PyResult<()> {
    cells.clear();
    let mut numbers = Numbers::of(given, CELL_NUMBERS)?;
    while let Some(shape) = numbers.next()? {
        let mut number =
            || Ok::<_, PyErr>(numbers.next()?.map_or(u64::MAX, |number| u64::try_from(number).unwrap_or(u64::MAX)));
        let (allocated_bytes, used_bytes, tokens) = (number()?, number()?, number()?);
        let shape = u32::try_from(shape).map_err(|_| no_number())?;
        cells.push(core::Cell { shape, request: 0, allocated_bytes, used_bytes, tokens });
    }
    Ok(())
}

fn no_number() -> PyErr {
    PyValueError::new_err("a request, a shape or a count of cells is below 0 or too large")
}

/// The items of a list, one after the other.
struct Numbers<'a, 'py> {
    list: &'a Bound<'py, PyList>,
    next: usize,
}

impl<'a, 'py> Numbers<'a, 'py> {
    fn of(list: &'a Bound<'py, PyList>, a_group: usize) -> PyResult<Self> {
        if list.len().is_multiple_of(a_group) {
            return Ok(Self { list, next: 0 });
        }
        Err(PyValueError::new_err(format!("{} numbers are no groups of {a_group}", list.len())))
    }

    fn next(&mut self) -> PyResult<Option<i64>> {
        if self.next == self.list.len() {
            return Ok(None);
        }
        self.next += 1;
        self.list.get_item(self.next - 1)?.extract().map(Some)
    }
}

/// Waits until a sample was taken, of any model, after what `seen` stands for, or until the time is up. Returns what stands
/// for the latest.
#[pyfunction]
pub(crate) fn wait_for_memory_sample(py: Python<'_>, seen: u64, at_most_s: f64) -> PyResult<u64> {
    let at_most =
        Duration::try_from_secs_f64(at_most_s).map_err(|error| PyValueError::new_err(format!("at_most_s: {error}")))?;
    Ok(py.detach(|| core::wait_for_sample(seen, at_most)))
}

/// A report of these models, with what `around` says, JSON.
#[pyfunction]
#[allow(clippy::needless_pass_by_value, reason = "extracted from Python")]
pub(crate) fn memory_report(
    py: Python<'_>,
    models: Vec<Bound<'_, LayerMemory>>,
    around: &str,
) -> PyResult<MemoryTables> {
    let models: Vec<Arc<core::LayerMemory>> = models.iter().map(|model| Arc::clone(&model.get().core)).collect();
    detached(py, || {
        let around = serde_json::from_str(around)?;
        let models: Vec<&core::LayerMemory> = models.iter().map(AsRef::as_ref).collect();
        let report = core::report(&models, around);
        let table = core::LayerTable::of(&report);
        Ok::<_, Raised>(MemoryTables { json: json::text(&report)?, table })
    })
}

/// A report: its JSON, and its numbers as arrays.
#[pyclass(frozen, module = "hwledger_omlx._native")]
#[derive(Debug)]
pub struct MemoryTables {
    json: String,
    table: core::LayerTable,
}

#[pymethods]
impl MemoryTables {
    /// The report that JSON says.
    #[staticmethod]
    fn parse(text: &str) -> PyResult<Self> {
        let read = serde_json::from_str::<core::MemoryReport>(text);
        let report = read.map_err(|error| PyValueError::new_err(format!("no report of {}: {error}", core::SCHEMA)))?;
        Ok(Self { json: text.to_owned(), table: core::LayerTable::of(&report) })
    }

    /// The report as JSON, by the schema `hwledger.v1`.
    #[getter]
    fn json(&self) -> &str {
        &self.json
    }

    /// What the rows' words for kinds, classes and formats stand for.
    #[getter]
    fn names(&self) -> Vec<String> {
        self.table.names.clone()
    }

    /// Rows of 13 words, one for each cache of each request.
    #[getter]
    fn layers(slf: &Bound<'_, Self>) -> Words {
        Words { tables: slf.clone().unbind(), history: None }
    }

    /// Rows of 4 words and one for each layer: the past of a model, by its place in the report.
    fn history(slf: &Bound<'_, Self>, model: usize) -> PyResult<Words> {
        if model < slf.get().table.histories.len() {
            return Ok(Words { tables: slf.clone().unbind(), history: Some(model) });
        }
        Err(PyValueError::new_err(format!("the report has no model {model}")))
    }
}

/// Words of 8 bytes of a report, as a read-only buffer.
#[pyclass(frozen, module = "hwledger_omlx._native")]
#[derive(Debug)]
pub struct Words {
    tables: Py<MemoryTables>,
    history: Option<usize>,
}

#[pymethods]
impl Words {
    fn __len__(&self) -> usize {
        self.words().len()
    }

    #[expect(unsafe_code, reason = "the buffer protocol")]
    unsafe fn __getbuffer__(slf: &Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("no view to fill"));
        }
        let words = slf.get().words();
        let length = ffi::Py_ssize_t::try_from(size_of_val(words)).map_err(|_| PyBufferError::new_err("too long"))?;
        // SAFETY: the view is the caller's to fill. The words belong to a frozen object that `slf`, to which the view gets
        // a reference, holds, so they neither move nor change before the view is released; read-only is said.
        let filled =
            unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), words.as_ptr().cast_mut().cast(), length, 1, flags) };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}

impl Words {
    fn words(&self) -> &[i64] {
        let table = &self.tables.get().table;
        match self.history {
            None => &table.layers,
            Some(model) => table.histories.get(model).map_or(&[], Vec::as_slice),
        }
    }
}
