//! The supervisor as Python begins it, and the heartbeat as Python sends it.

use std::path::PathBuf;
use std::time::Duration;

use hwledger_omlx_core::supervise::{self as core, Beat, Supervision};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::entry::detached;

/// Runs a program under supervision; see `hwledger_omlx_core::supervise`. Its exit code, or 128 and a signal's number.
#[pyfunction]
#[pyo3(signature = (program, arguments, *, restart_after_s))]
pub(crate) fn supervise(
    py: Python<'_>,
    program: PathBuf,
    arguments: Vec<String>,
    restart_after_s: f64,
) -> PyResult<i32> {
    let stuck = Duration::try_from_secs_f64(restart_after_s)
        .map_err(|error| PyValueError::new_err(format!("restart_after_s: {error}")))?;
    let wanted = Supervision::new(program, arguments).restart_after(stuck);
    detached(py, || core::supervise(&wanted))
}

/// What a supervised process writes to its pipe: `well`, `stuck` or `ending`.
#[pyfunction]
pub(crate) fn beat_byte(kind: &str) -> PyResult<[u8; 1]> {
    let beat = match kind {
        "well" => Beat::Well,
        "stuck" => Beat::Stuck,
        "ending" => Beat::Ending,
        other => return Err(PyValueError::new_err(format!("{other:?} is no beat: well, stuck, ending"))),
    };
    Ok([beat.byte()])
}
