//! The Python exception tree, and the way of every Rust error into it.

use hwledger_omlx_core::series::SeriesError as CoreSeriesError;
use pyo3::PyErr;
use pyo3::create_exception;
use pyo3::exceptions::PyException;

create_exception!(hwledger_omlx, Error, PyException, "Base of every error that hwledger-omlx raises on purpose.");
create_exception!(
    hwledger_omlx,
    ForkError,
    Error,
    "No usable fork: none found, too old, or it cannot be loaded safely."
);
create_exception!(hwledger_omlx, SeriesError, Error, "A patch manifest is malformed or cannot be locked.");
create_exception!(hwledger_omlx, ModelError, Error, "A model is missing, is none, or cannot be loaded.");
create_exception!(hwledger_omlx, RequestError, Error, "A request asks for what cannot be; the engine goes on.");
create_exception!(hwledger_omlx, EngineError, Error, "The engine is closed, or failed while it worked on a request.");
create_exception!(hwledger_omlx, HarnessError, Error, "A measurement could not be made.");

/// Carrier of the core's errors to Python, for use with `?`.
pub(crate) struct Raised(PyErr);

impl From<CoreSeriesError> for Raised {
    fn from(error: CoreSeriesError) -> Self {
        Self(SeriesError::new_err(described(&error)))
    }
}

impl From<Raised> for PyErr {
    fn from(raised: Raised) -> Self {
        raised.0
    }
}

/// The error with its causes, joined as `outer: inner`, each said once.
fn described(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(cause_text.trim()) {
            text.push_str(": ");
            text.push_str(cause_text.trim());
        }
        source = cause.source();
    }
    text
}
