//! Every way in which the host can fail, as one enum: the package's exception tree, and what Rust adds to it.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::{PyString, PyType};
use serde::{Deserialize, Serialize};

/// Anything that can go wrong between a Rust caller and the engine.
///
/// All but the last two are the classes of `hwledger_omlx.errors`; a refinement that this release does not know is the nearest
/// class that it does know. Displayed, an error is its message: what was wrong and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "error", content = "detail", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Error {
    /// No usable fork: too old, or it cannot be loaded safely.
    #[error("{0}")]
    Fork(Raised),
    /// No importable `omlx` where it was looked for.
    #[error("{0}")]
    ForkNotFound(Raised),
    /// A patch manifest is malformed or cannot be locked.
    #[error("{0}")]
    Series(Raised),
    /// A model is none, or cannot be loaded.
    #[error("{0}")]
    Model(Raised),
    /// No model at that place, and none to be had from the hub.
    #[error("{0}")]
    ModelNotFound(Raised),
    /// A request asks for what cannot be; the engine goes on.
    #[error("{0}")]
    Request(Raised),
    /// The model is not of the kind that does what was asked for.
    #[error("{0}")]
    ModelTask(Raised),
    /// A setting cannot be; the message has where it was said.
    #[error("{0}")]
    Config(Raised),
    /// The engine failed while it worked on a request.
    #[error("{0}")]
    Engine(Raised),
    /// The engine was closed before or while it worked on the request.
    #[error("{0}")]
    EngineClosed(Raised),
    /// The KV store could not be opened, or could not do what was asked.
    #[error("{0}")]
    Store(Raised),
    /// It is no KV policy, one that the model cannot take, or one that asks for a calibration which is not there.
    #[error("{0}")]
    KvPolicy(Raised),
    /// What should tell of memory does not, or cannot be read.
    #[error("{0}")]
    Memory(Raised),
    /// The ledger of requests cannot be read or written.
    #[error("{0}")]
    Ledger(Raised),
    /// A measurement could not be made.
    #[error("{0}")]
    Harness(Raised),
    /// An exception outside the package's tree: a defect of the engine, the fork or the host.
    #[error("{}: {}", .0.type_name, .0.message)]
    Python(Raised),
    /// The interpreter, or the package in it, could not be started.
    #[error(transparent)]
    Startup(#[from] StartupError),
}

/// A Python exception, taken over into Rust.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Raised {
    /// Qualified name of its class; empty where the host itself is the origin.
    pub type_name: String,
    /// Its text.
    pub message: String,
    /// The formatted traceback with causes, many lines; empty where the host itself is the origin.
    pub traceback: String,
}

/// Why no Python, or no package in it, could be started. Nothing of it is mended by asking again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
#[non_exhaustive]
pub enum StartupError {
    /// No venv was named and none found.
    #[error(
        "no virtual environment found: name one with --venv, HWLEDGER_OMLX_VENV or VIRTUAL_ENV, or make .venv in the \
         working directory or above it"
    )]
    VenvNotFound,
    /// The folder is no venv.
    #[error("{} is not a virtual environment ({problem}); make one with `uv venv` or `python -m venv`", path.display())]
    NotAVenv {
        /// The folder.
        path: PathBuf,
        /// What it lacks.
        problem: String,
    },
    /// The venv's interpreter is of another `major.minor` than the libpython linked in.
    #[error(
        "{} has Python {found}, but this host is linked with Python {linked}; rebuild the host with PYO3_PYTHON set to \
         that environment's bin/python, or name an environment of Python {linked}", path.display()
    )]
    PythonVersion {
        /// The venv.
        path: PathBuf,
        /// `major.minor` of the venv.
        found: String,
        /// `major.minor` of the libpython linked in.
        linked: String,
    },
    /// `CPython` refused to start.
    #[error("Python did not start: {message}")]
    Interpreter {
        /// What it said.
        message: String,
    },
    /// A process holds one interpreter, and it runs already in another environment.
    #[error("Python runs already in this process, in {}; a process hosts one environment", running.display())]
    AlreadyStarted {
        /// The running one's venv; empty where something else started it.
        running: PathBuf,
    },
    /// The venv has no importable package `hwledger_omlx`.
    #[error("hwledger-omlx is not installed in {}; install it there with `uv pip install hwledger-omlx`", path.display())]
    PackageNotInstalled {
        /// The venv.
        path: PathBuf,
    },
    /// The venv's package is of another version than the host, which carries the package's Rust half.
    #[error(
        "{} has hwledger-omlx {found}, but this host is {host}; install the same version in both places", path.display()
    )]
    PackageVersion {
        /// The venv.
        path: PathBuf,
        /// Version of the installed package.
        found: String,
        /// Version of this host.
        host: String,
    },
    /// The package is there but cannot be imported.
    #[error("hwledger-omlx cannot be imported from {}: {}: {}", path.display(), raised.type_name, raised.message)]
    Package {
        /// The venv.
        path: PathBuf,
        /// What the import raised.
        raised: Raised,
    },
}

impl Error {
    /// The Python exception behind it, if it came from Python.
    #[must_use]
    pub fn raised(&self) -> Option<&Raised> {
        match self {
            Self::Fork(raised)
            | Self::ForkNotFound(raised)
            | Self::Series(raised)
            | Self::Model(raised)
            | Self::ModelNotFound(raised)
            | Self::Request(raised)
            | Self::ModelTask(raised)
            | Self::Config(raised)
            | Self::Engine(raised)
            | Self::EngineClosed(raised)
            | Self::Store(raised)
            | Self::KvPolicy(raised)
            | Self::Memory(raised)
            | Self::Ledger(raised)
            | Self::Harness(raised)
            | Self::Python(raised)
            | Self::Startup(StartupError::Package { raised, .. }) => Some(raised),
            Self::Startup(_) => None,
        }
    }

    /// An engine failure that the host itself found.
    pub(crate) fn engine(message: impl Into<String>) -> Self {
        Self::Engine(Raised { message: message.into(), ..Raised::default() })
    }

    /// A request that the host itself refuses.
    pub(crate) fn request(message: impl Into<String>) -> Self {
        Self::Request(Raised { message: message.into(), ..Raised::default() })
    }

    /// An engine that the caller closed.
    pub(crate) fn closed() -> Self {
        let message = "this engine was closed; open a new one".to_owned();
        Self::EngineClosed(Raised { message, ..Raised::default() })
    }

    /// The variant of a Python exception.
    pub(crate) fn from_python(py: Python<'_>, error: &PyErr) -> Self {
        let raised = Raised::read(py, error);
        // The class is a static of the extension: this holds only because host and package share it.
        if !error.is_instance_of::<hwledger_omlx_extension::Error>(py) {
            return Self::Python(raised);
        }
        for class in error.get_type(py).mro() {
            let name =
                class.cast::<PyType>().ok().and_then(|class| Some(class.name().ok()?.to_string())).unwrap_or_default();
            return match name.as_str() {
                "ForkNotFoundError" => Self::ForkNotFound(raised),
                "ForkError" => Self::Fork(raised),
                "SeriesError" => Self::Series(raised),
                "ModelTaskError" => Self::ModelTask(raised),
                "ConfigError" => Self::Config(raised),
                "ModelNotFoundError" => Self::ModelNotFound(raised),
                "ModelError" => Self::Model(raised),
                "RequestError" => Self::Request(raised),
                "EngineClosedError" => Self::EngineClosed(raised),
                "EngineError" => Self::Engine(raised),
                "StoreError" => Self::Store(raised),
                "KvPolicyError" | "KvProfileError" | "KvTextError" => Self::KvPolicy(raised),
                "MemoryReportError" => Self::Memory(raised),
                "LedgerError" => Self::Ledger(raised),
                "HarnessError" => Self::Harness(raised),
                _ => continue,
            };
        }
        Self::Python(raised)
    }
}

impl Raised {
    pub(crate) fn read(py: Python<'_>, error: &PyErr) -> Self {
        let value = error.value(py);
        let class = error.get_type(py);
        let name = class.fully_qualified_name().map_or_else(|_| "Exception".to_owned(), |name| name.to_string());
        Self {
            type_name: name,
            message: value.str().map_or_else(|_| "(its text cannot be made)".to_owned(), |text| text.to_string()),
            traceback: traceback(value).unwrap_or_default(),
        }
    }
}

/// As Python itself would print it, with the exceptions that led to it.
fn traceback(value: &Bound<'_, PyAny>) -> PyResult<String> {
    let py = value.py();
    let lines = py.import("traceback")?.call_method1("format_exception", (value,))?;
    PyString::new(py, "").call_method1("join", (lines,))?.extract()
}
