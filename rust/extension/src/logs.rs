//! Rust's tracing events arrive in Python's `logging` under `hwledger_omlx_core…`, so one configuration rules both.
//!
//! The route is `tracing` → its `log` records → `pyo3-log`. In the host a tracing subscriber is set before Python starts;
//! `tracing` then emits no `log` records, and nothing is printed twice.

use std::sync::OnceLock;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3_log::{Caching, Logger, ResetHandle};

/// Has the route ask Python's levels anew.
static LEVELS: OnceLock<ResetHandle> = OnceLock::new();

/// Installs the route once a process; later calls (a second interpreter start, a reload) leave it as it is.
pub(crate) fn forward_to_python(py: Python<'_>) -> PyResult<()> {
    static INSTALLED: std::sync::Once = std::sync::Once::new();
    let mut outcome = Ok(());
    INSTALLED.call_once(|| {
        outcome = Logger::new(py, Caching::LoggersAndLevels).and_then(|logger| {
            let installed = logger.filter(log::LevelFilter::Trace).install();
            let levels = installed.map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
            let _ = LEVELS.set(levels);
            // Python's level decides what is shown; this only bounds what crosses over.
            log::set_max_level(ceiling(&std::env::var("HWLEDGER_OMLX_LOG").unwrap_or_default()));
            Ok(())
        });
    });
    outcome
}

/// Lets what Rust has to say through from another level on, whose Python loggers were set to it before.
#[pyfunction]
pub(crate) fn log_level_changed(level: &str) {
    log::set_max_level(ceiling(level));
    if let Some(levels) = LEVELS.get() {
        levels.reset();
    }
}

/// The finest level that crosses over at a level by Python's name; INFO where it is none.
fn ceiling(level: &str) -> log::LevelFilter {
    match level.trim().to_ascii_lowercase().as_str() {
        "warning" => log::LevelFilter::Warn,
        "critical" => log::LevelFilter::Error,
        other => other.parse().unwrap_or(log::LevelFilter::Info),
    }
}
