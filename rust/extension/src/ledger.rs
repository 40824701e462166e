//! The ledger as Python sees it. Rows, questions and answers are JSON, which Python types by itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hwledger_omlx_core::memory::ledger as core;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::entry::{detached, dropped, interruptible};
use crate::errors::Raised;
use crate::json;

/// One row a request, in a database. Usable from any thread.
#[pyclass(frozen, module = "hwledger_omlx._native")]
pub struct Ledger(Arc<core::Ledger>);

#[pymethods]
impl Ledger {
    /// Opens the database at `path`, and makes it where there is none, unless `create` is false.
    #[staticmethod]
    #[pyo3(signature = (path, *, create=true, max_rows=100_000, max_age_s=Some(15_552_000.0), queue_rows=4096,
        patience_s=5.0))]
    fn open(
        py: Python<'_>,
        path: PathBuf,
        create: bool,
        max_rows: u64,
        max_age_s: Option<f64>,
        queue_rows: usize,
        patience_s: f64,
    ) -> PyResult<Self> {
        let duration = |name: &str, seconds: f64| {
            Duration::try_from_secs_f64(seconds).map_err(|error| PyValueError::new_err(format!("{name}: {error}")))
        };
        let settings = core::LedgerSettings {
            create,
            max_rows,
            max_age: max_age_s.map(|seconds| duration("max_age_s", seconds)).transpose()?,
            queue_rows,
            patience: duration("patience_s", patience_s)?,
        };
        interruptible(py, move || core::Ledger::open(path, &settings)).map(|ledger| Self(Arc::new(ledger)))
    }

    /// Hands a row, as JSON, to the thread that writes; false where it had to be dropped.
    fn record(&self, py: Python<'_>, row_json: &str) -> PyResult<bool> {
        detached(py, || -> Result<bool, Raised> {
            let row = serde_json::from_str(row_json).map_err(|error| core::LedgerError::Row(error.to_string()))?;
            Ok(self.0.record(row)?)
        })
    }

    /// The last `limit` rows, as a JSON list; or, with `after_id`, the first `limit` ones after that.
    #[pyo3(signature = (*, limit, model=None, since_unix_s=None, after_id=None))]
    fn rows(
        &self,
        py: Python<'_>,
        limit: u64,
        model: Option<String>,
        since_unix_s: Option<f64>,
        after_id: Option<i64>,
    ) -> PyResult<String> {
        let (ledger, filter) = (Arc::clone(&self.0), core::Filter { model, since_unix_s });
        interruptible(py, move || -> Result<String, Raised> {
            let rows = match after_id {
                Some(after) => ledger.page(&filter, after, limit),
                None => ledger.latest(&filter, limit),
            };
            Ok(json::text(&rows?)?)
        })
    }

    /// What was predicted against what was measured, by model and device, as JSON. Keeps what the runtime takes.
    #[pyo3(signature = (*, model=None, since_unix_s=None))]
    fn reconcile(&self, py: Python<'_>, model: Option<String>, since_unix_s: Option<f64>) -> PyResult<String> {
        let (ledger, filter) = (Arc::clone(&self.0), core::Filter { model, since_unix_s });
        interruptible(py, move || -> Result<String, Raised> { Ok(json::text(&ledger.reconcile(&filter)?)?) })
    }

    /// What the runtime takes for a model on a device, as JSON; null where no reconciliation could tell.
    fn fitted_runtime(&self, py: Python<'_>, model: &str, device: &str) -> PyResult<String> {
        detached(py, || -> Result<String, Raised> { Ok(json::text(&self.0.fitted_runtime(model, device)?)?) })
    }

    /// What became of the rows, as JSON.
    fn stats(&self) -> Result<String, Raised> {
        Ok(json::text(&self.0.stats())?)
    }

    /// Returns when every row that was taken is written, or dropped and counted.
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        let ledger = Arc::clone(&self.0);
        interruptible(py, move || ledger.flush())
    }

    /// Writes what was taken, and takes no more.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let ledger = Arc::clone(&self.0);
        interruptible(py, move || -> Result<(), core::LedgerError> {
            ledger.close();
            Ok(())
        })
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // Its thread may wait for the interpreter, to log.
        Python::try_attach(|py| dropped(py, ClosedOnDrop(Arc::clone(&self.0))));
    }
}

/// Closes the ledger, whoever else still holds it.
struct ClosedOnDrop(Arc<core::Ledger>);

impl Drop for ClosedOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}
