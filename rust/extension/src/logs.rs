//! Rust's tracing events arrive in Python's `logging` under `hwledger_omlx_core…`, so one configuration rules both.
//!
//! The route is `tracing` → its `log` records → `pyo3-log`. In the host a tracing subscriber is set before Python starts;
//! `tracing` then emits no `log` records, and nothing is printed twice.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3_log::{Caching, Logger};

/// Installs the route once a process; later calls (a second interpreter start, a reload) leave it as it is.
pub(crate) fn forward_to_python(py: Python<'_>) -> PyResult<()> {
    static INSTALLED: std::sync::Once = std::sync::Once::new();
    let mut outcome = Ok(());
    INSTALLED.call_once(|| {
        outcome = Logger::new(py, Caching::LoggersAndLevels).and_then(|logger| {
            // Python's level decides what is shown; this filter only bounds what crosses over.
            let logger = logger.filter(log_ceiling());
            logger.install().map(drop).map_err(|error| PyRuntimeError::new_err(error.to_string()))
        });
    });
    outcome
}

/// The finest level that `HWLEDGER_OMLX_LOG` may let through; INFO where it is unset or not a level.
fn log_ceiling() -> log::LevelFilter {
    std::env::var("HWLEDGER_OMLX_LOG")
        .ok()
        .and_then(|level| match level.trim().to_ascii_lowercase().as_str() {
            "warning" => Some(log::LevelFilter::Warn),
            "critical" => Some(log::LevelFilter::Error),
            other => other.parse().ok(),
        })
        .unwrap_or(log::LevelFilter::Info)
}
