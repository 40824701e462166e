//! The Python exception tree, and the way of every Rust error into it.

use std::io;

use hwledger_omlx_core::config::ConfigError as CoreConfigError;
use hwledger_omlx_core::memory::ingest::IngestError;
use hwledger_omlx_core::memory::ledger::LedgerError as CoreLedgerError;
use hwledger_omlx_core::quant::policy::PolicyError;
use hwledger_omlx_core::series::SeriesError as CoreSeriesError;
use hwledger_omlx_core::store::StoreError as CoreStoreError;
use hwledger_omlx_core::store::identity::IdentityError;
use hwledger_omlx_core::supervise::SuperviseError;
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyFileNotFoundError, PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{IntoPyDict, PyType};

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
create_exception!(hwledger_omlx, StoreError, Error, "The KV store could not do what was asked.");
create_exception!(hwledger_omlx, StoreInUseError, StoreError, "Another process has the store's folder.");
create_exception!(
    hwledger_omlx,
    ForeignFolderError,
    StoreError,
    "The folder holds something that is no store of ours. It was left alone."
);
create_exception!(
    hwledger_omlx,
    StoreFormatError,
    StoreError,
    "The store is of a format that this version cannot read."
);
create_exception!(hwledger_omlx, StoreWriteError, StoreError, "Something that was accepted could not be written.");
create_exception!(hwledger_omlx, StoreClosedError, StoreError, "The store is closed.");
create_exception!(hwledger_omlx, LedgerError, Error, "The ledger of requests could not do what was asked.");
create_exception!(
    hwledger_omlx,
    LedgerFormatError,
    LedgerError,
    "The database is damaged, of a later version, or another program's. It was left alone."
);
create_exception!(hwledger_omlx, LedgerLockedError, LedgerError, "Another process kept the database locked.");
create_exception!(hwledger_omlx, LedgerClosedError, LedgerError, "The ledger is closed.");

/// An exception that is also one of Python's own, which `create_exception!` cannot make.
struct Twofold(PyOnceLock<Py<PyType>>);

impl Twofold {
    fn class<'py>(
        &self,
        name: &str,
        doc: &str,
        bases: (Bound<'py, PyType>, Bound<'py, PyType>),
    ) -> PyResult<Bound<'py, PyType>> {
        let py = bases.0.py();
        let class = self.0.get_or_try_init(py, || {
            let attributes = [("__module__", "hwledger_omlx"), ("__doc__", doc)].into_py_dict(py)?;
            let class = py.get_type::<PyType>().call1((name, bases, attributes))?;
            PyResult::Ok(class.cast_into::<PyType>()?.unbind())
        });
        class.map(|class| class.bind(py).clone())
    }
}

fn config_error(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    static CLASS: Twofold = Twofold(PyOnceLock::new());
    let bases = (py.get_type::<Error>(), py.get_type::<PyValueError>());
    CLASS.class("ConfigError", "The configuration says what cannot be, or cannot be read.", bases)
}

fn kv_policy_error(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    static CLASS: Twofold = Twofold(PyOnceLock::new());
    let bases = (py.get_type::<Error>(), py.get_type::<PyValueError>());
    CLASS.class("KvPolicyError", "A KV policy is malformed, or the model cannot take it.", bases)
}

fn store_config_error(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    static CLASS: Twofold = Twofold(PyOnceLock::new());
    let bases = (py.get_type::<StoreError>(), py.get_type::<PyValueError>());
    CLASS.class("StoreConfigError", "A setting of the store cannot be.", bases)
}

fn store_io_error(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    static CLASS: Twofold = Twofold(PyOnceLock::new());
    let bases = (py.get_type::<StoreError>(), py.get_type::<PyOSError>());
    CLASS.class("StoreIOError", "The operating system refused; `errno` says how.", bases)
}

fn store_not_found_error(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    static CLASS: Twofold = Twofold(PyOnceLock::new());
    let bases = (store_io_error(py)?, py.get_type::<PyFileNotFoundError>());
    CLASS.class("StoreNotFoundError", "There is no store in that folder.", bases)
}

fn ledger_not_found_error(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    static CLASS: Twofold = Twofold(PyOnceLock::new());
    let bases = (py.get_type::<LedgerError>(), py.get_type::<PyFileNotFoundError>());
    CLASS.class("LedgerNotFoundError", "There is no ledger at that path.", bases)
}

/// Adds what `#[pymodule_export]` cannot: the classes with two bases.
pub(crate) fn export_twofold(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    for class in [
        config_error(py)?,
        kv_policy_error(py)?,
        ledger_not_found_error(py)?,
        store_config_error(py)?,
        store_io_error(py)?,
        store_not_found_error(py)?,
    ] {
        module.add(class.name()?, class)?;
    }
    Ok(())
}

/// Carrier of the core's errors to Python, for use with `?`.
pub(crate) enum Raised {
    Config(CoreConfigError),
    Series(CoreSeriesError),
    Store(CoreStoreError),
    Identity(IdentityError),
    Policy(PolicyError),
    Ledger(CoreLedgerError),
    Ingest(IngestError),
    Supervise(SuperviseError),
    Json(serde_json::Error),
}

impl From<CoreConfigError> for Raised {
    fn from(error: CoreConfigError) -> Self {
        Self::Config(error)
    }
}

impl From<CoreSeriesError> for Raised {
    fn from(error: CoreSeriesError) -> Self {
        Self::Series(error)
    }
}

impl From<CoreStoreError> for Raised {
    fn from(error: CoreStoreError) -> Self {
        Self::Store(error)
    }
}

impl From<IdentityError> for Raised {
    fn from(error: IdentityError) -> Self {
        Self::Identity(error)
    }
}

impl From<PolicyError> for Raised {
    fn from(error: PolicyError) -> Self {
        Self::Policy(error)
    }
}

impl From<CoreLedgerError> for Raised {
    fn from(error: CoreLedgerError) -> Self {
        Self::Ledger(error)
    }
}

impl From<IngestError> for Raised {
    fn from(error: IngestError) -> Self {
        Self::Ingest(error)
    }
}

impl From<SuperviseError> for Raised {
    fn from(error: SuperviseError) -> Self {
        Self::Supervise(error)
    }
}

impl From<serde_json::Error> for Raised {
    fn from(error: serde_json::Error) -> Self {
        Self::Json(error)
    }
}

impl From<Raised> for PyErr {
    fn from(raised: Raised) -> Self {
        match raised {
            Raised::Config(error) => twofold(config_error, described(&error), None),
            Raised::Series(error) => SeriesError::new_err(described(&error)),
            Raised::Store(error) => store_error(&error),
            Raised::Ingest(error) => ModelError::new_err(described(&error)),
            Raised::Identity(error) => ModelError::new_err(described(&error)),
            Raised::Policy(error) => twofold(kv_policy_error, described(&error), None),
            Raised::Ledger(error) => ledger_error(&error),
            Raised::Supervise(error) => EngineError::new_err(described(&error)),
            Raised::Json(error) => StoreError::new_err(format!("a report cannot be told: {error}")),
        }
    }
}

fn store_error(error: &CoreStoreError) -> PyErr {
    let text = described(error);
    match error {
        CoreStoreError::Config(_) => twofold(store_config_error, text, None),
        CoreStoreError::InUse { .. } => StoreInUseError::new_err(text),
        CoreStoreError::Foreign { .. } => ForeignFolderError::new_err(text),
        CoreStoreError::Format { .. } => StoreFormatError::new_err(text),
        CoreStoreError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            twofold(store_not_found_error, text, source.raw_os_error())
        }
        CoreStoreError::Io { source, .. } => twofold(store_io_error, text, source.raw_os_error()),
        CoreStoreError::Lost { .. } => StoreWriteError::new_err(text),
        CoreStoreError::Target(_) => PyValueError::new_err(text),
        CoreStoreError::Closed => StoreClosedError::new_err(text),
        CoreStoreError::Forked => StoreError::new_err(text),
    }
}

fn ledger_error(error: &CoreLedgerError) -> PyErr {
    let text = described(error);
    match error {
        CoreLedgerError::NotFound { .. } => twofold(ledger_not_found_error, text, None),
        CoreLedgerError::Newer { .. } | CoreLedgerError::Foreign { .. } | CoreLedgerError::Damaged { .. } => {
            LedgerFormatError::new_err(text)
        }
        CoreLedgerError::Locked { .. } => LedgerLockedError::new_err(text),
        CoreLedgerError::Closed => LedgerClosedError::new_err(text),
        _ => LedgerError::new_err(text),
    }
}

/// An instance of a class with two bases, with the number of the system's error where there is one.
fn twofold(class: fn(Python<'_>) -> PyResult<Bound<'_, PyType>>, text: String, errno: Option<i32>) -> PyErr {
    Python::attach(|py| {
        let raised = class(py).and_then(|class| {
            let instance = class.call1((text,))?;
            if let Some(number) = errno {
                // Not as an argument: the text would then begin with it.
                instance.setattr("errno", number)?;
            }
            Ok(PyErr::from_value(instance))
        });
        raised.unwrap_or_else(|error| error)
    })
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
