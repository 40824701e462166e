//! `hwledger_omlx._native`: the core as a Python module. A table of contents; each exported thing has a file of its own.

mod arrays;
mod codec;
mod config;
mod entry;
mod errors;
mod held;
mod identity;
mod json;
mod kv_policy;
mod layout;
mod ledger;
mod logs;
mod matching;
mod memory;
mod open_stores;
mod opening;
mod plan;
mod rpc;
mod saving;
mod series;
mod store;
mod supervise;
mod tokens;

/// Base of the package's exceptions. The host, which links this crate, tells them from others by it.
pub use errors::Error;
/// The ledger of a model's memory as Python has it, which the host reads without Python.
pub use memory::LayerMemory;

use pyo3::prelude::*;

/// The Rust half of hwledger-omlx.
#[pymodule(name = "_native")]
pub mod native {
    #[pymodule_export]
    use super::codec::Codec;
    #[pymodule_export]
    use super::config::{find_config, is_kv_policy_file, load_config};
    #[pymodule_export]
    use super::errors::{
        EngineError, Error, ForeignFolderError, ForkError, HarnessError, LedgerClosedError, LedgerError,
        LedgerFormatError, LedgerLockedError, ModelError, RequestError, SeriesError, StoreClosedError, StoreError,
        StoreFormatError, StoreInUseError, StoreWriteError,
    };
    #[pymodule_export]
    use super::identity::{fingerprint_folder, namespace_digest};
    #[pymodule_export]
    use super::kv_policy::{KvPolicy, kv_format_serves};
    #[pymodule_export]
    use super::layout::Layout;
    #[pymodule_export]
    use super::ledger::Ledger;
    #[pymodule_export]
    use super::logs::log_level_changed;
    #[pymodule_export]
    use super::matching::{Match, Restored};
    #[pymodule_export]
    use super::memory::{LayerMemory, MemoryTables, Words, memory_report, wait_for_memory_sample};
    #[pymodule_export]
    use super::plan::{ModelShape, known_model_types};
    #[pymodule_export]
    use super::rpc::{RpcConnection, RpcRequest, RpcTextStream};
    #[pymodule_export]
    use super::saving::{Saved, Snapshot};
    #[pymodule_export]
    use super::series::{Hook, lock_manifest, parse_series, series};
    #[pymodule_export]
    use super::store::Store;
    #[pymodule_export]
    use super::supervise::{beat_byte, supervise};

    use super::{Bound, PyModule, PyResult};

    /// The version of the package, wheel and host alike.
    #[pymodule_export]
    #[allow(non_upper_case_globals, reason = "Python's name for it")]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    /// The environment variable with the file descriptor of a supervised process's heartbeat.
    #[pymodule_export]
    const HEARTBEAT_VARIABLE: &str = hwledger_omlx_core::supervise::HEARTBEAT_VARIABLE;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::errors::export_twofold(module)?;
        super::logs::forward_to_python(module.py())
    }
}
