//! Starts the interpreter inside the process: the one place that speaks C with it. Knows nothing of engines.
//!
//! - `hwledger_omlx._native` is registered as a builtin under its dotted name. Otherwise the package would load its own
//!   shared object, and every Rust static would exist twice.
//! - `PyConfig` (PEP 587) is given the venv's executable and nothing else that finds modules: the executable alone leads
//!   Python to the venv. The configuration is the isolated one, so PYTHONHOME, PYTHONPATH, the user's site-packages and
//!   the working directory cannot lead elsewhere.
//! - Standard streams are unbuffered, for nothing flushes them at the end: the interpreter is never finalized.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;

use pyo3::ffi;
use pyo3::prelude::*;

use crate::error::{Raised, StartupError};
use crate::venv::Venv;

/// Starts Python for the whole process. The calling thread becomes Python's main thread, detached.
///
/// Must be called at most once a process.
#[expect(unsafe_code, reason = "PyConfig has no safe face")]
pub(crate) fn start_interpreter(venv: &Venv) -> Result<(), StartupError> {
    let executable = CString::new(venv.executable().as_os_str().as_bytes()).map_err(|_| StartupError::Interpreter {
        message: "the environment's path has a zero byte in it".to_owned(),
    })?;
    // SAFETY: no interpreter runs and none is being started, by the contract of this function and the check; this thread
    // alone uses the configuration, which is initialized before use and cleared once.
    unsafe {
        if ffi::Py_IsInitialized() != 0 {
            return Err(StartupError::AlreadyStarted { running: std::path::PathBuf::new() });
        }
        let name = c"hwledger_omlx._native";
        if ffi::PyImport_AppendInittab(name.as_ptr(), Some(hwledger_omlx_extension::native::__pyo3_init)) != 0 {
            return Err(StartupError::Interpreter { message: "no memory for the table of builtins".to_owned() });
        }

        let mut before = MaybeUninit::<ffi::PyPreConfig>::uninit();
        ffi::PyPreConfig_InitIsolatedConfig(before.as_mut_ptr());
        // With an empty environment the locale is C; paths and streams are UTF-8 all the same.
        (*before.as_mut_ptr()).utf8_mode = 1;
        succeeded(ffi::Py_PreInitialize(before.as_ptr()))?;

        let mut config = MaybeUninit::<ffi::PyConfig>::uninit();
        ffi::PyConfig_InitIsolatedConfig(config.as_mut_ptr());
        let fields = config.as_mut_ptr();
        (*fields).buffered_stdio = 0;
        // Signals are the program's.
        (*fields).install_signal_handlers = 0;
        let set = ffi::PyConfig_SetBytesString(fields, &raw mut (*fields).executable, executable.as_ptr());
        let started = succeeded(set).and_then(|()| succeeded(ffi::Py_InitializeFromConfig(fields)));
        ffi::PyConfig_Clear(fields);
        started?;
        // Initialization leaves this thread attached; PyO3 attaches anew for each piece of work.
        ffi::PyEval_SaveThread();
    }
    Ok(())
}

#[expect(unsafe_code, reason = "PyStatus has no safe face")]
fn succeeded(status: ffi::PyStatus) -> Result<(), StartupError> {
    // SAFETY: PyStatus is a plain value; its message is null or a string that lives as long as Python.
    unsafe {
        if ffi::PyStatus_Exception(status) == 0 {
            return Ok(());
        }
        let message = if status.err_msg.is_null() {
            format!("it asked to exit with code {}", status.exitcode)
        } else {
            CStr::from_ptr(status.err_msg).to_string_lossy().into_owned()
        };
        Err(StartupError::Interpreter { message })
    }
}

/// Imports the package's face to the host, having checked that it is there and of this host's version.
pub(crate) fn import_package(py: Python<'_>, venv: &Venv) -> Result<Py<PyModule>, StartupError> {
    let path = venv.path().to_owned();
    let broken = |error: PyErr| StartupError::Package { path: path.clone(), raised: Raised::read(py, &error) };
    // `threading` takes the thread that imports it for the main one.
    py.import("threading").map_err(broken)?;
    let found = py.import("importlib.util").and_then(|util| util.call_method1("find_spec", ("hwledger_omlx",)));
    if found.map_err(broken)?.is_none() {
        return Err(StartupError::PackageNotInstalled { path });
    }
    let version =
        py.import("importlib.metadata").and_then(|metadata| metadata.call_method1("version", ("hwledger-omlx",)));
    // A checkout that is merely on the path has no metadata, and nothing to compare.
    if let Ok(version) = version.and_then(|version| version.extract::<String>()) {
        let host = env!("CARGO_PKG_VERSION");
        if version != host {
            return Err(StartupError::PackageVersion { path, found: version, host: host.to_owned() });
        }
    }
    py.import("hwledger_omlx.host").map(Bound::unbind).map_err(broken)
}
