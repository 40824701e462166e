//! `hwledger_omlx._native`: the core as a Python module. A table of contents; each exported thing has a file of its own.

mod errors;
mod logs;
mod series;

/// Base of the package's exceptions. The host, which links this crate, tells them from others by it.
pub use errors::Error;

use pyo3::prelude::*;

/// The Rust half of hwledger-omlx.
#[pymodule(name = "_native")]
pub mod native {
    #[pymodule_export]
    use super::errors::{EngineError, Error, ForkError, HarnessError, ModelError, RequestError, SeriesError};
    #[pymodule_export]
    use super::series::{Hook, lock_manifest, parse_series, series};

    use super::{Bound, PyModule, PyResult};

    /// The version of the package, wheel and host alike.
    #[pymodule_export]
    #[allow(non_upper_case_globals, reason = "Python's name for it")]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::logs::forward_to_python(module.py())
    }
}
