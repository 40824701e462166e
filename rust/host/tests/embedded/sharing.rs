//! What host and package hold in common.

use hwledger_omlx_host::{Error, Host, StartupError};
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::{host, support};

/// Runs on a plain thread: no test may attach on the runtime's.
pub(crate) fn with_python<R: Send + 'static>(job: impl FnOnce(Python<'_>) -> R + Send + 'static) -> R {
    std::thread::spawn(move || Python::attach(job)).join().expect("no panic")
}

pub(crate) async fn one_copy_of_the_native_module() {
    let _host = host();
    with_python(|py| {
        let native = py.import("hwledger_omlx._native").expect("imported");
        let origin: String =
            native.getattr("__spec__").and_then(|spec| spec.getattr("origin")?.extract()).expect("text");
        assert_eq!(origin, "built-in");
        assert!(!native.hasattr("__file__").expect("asked"));
        // A static of the extension crate: linked into this program, and the one that Python sees.
        let linked: Bound<'_, PyType> = py.get_type::<hwledger_omlx_extension::Error>();
        assert!(native.getattr("Error").expect("exported").is(&linked));
        let errors = py.import("hwledger_omlx.errors").expect("imported");
        assert!(errors.getattr("Error").expect("there").is(&linked));
    });
    if let Ok(maps) = std::fs::read_to_string("/proc/self/maps") {
        let loaded = maps.lines().find(|line| line.contains("hwledger_omlx/_native"));
        assert!(loaded.is_none(), "the wheel's shared object is loaded: {loaded:?}");
    }
}

pub(crate) async fn one_interpreter_a_process() {
    let again = host();
    assert_eq!(again.venv().path(), support::venv().path());
    let folder = tempfile::tempdir().expect("a folder");
    let other = folder.path().join("other");
    std::os::unix::fs::symlink(again.venv().path(), &other).expect("linked");
    let error = Host::builder().venv(&other).start().expect_err("another environment");
    assert!(matches!(error, Error::Startup(StartupError::AlreadyStarted { .. })), "{error}");
}

pub(crate) async fn every_exception_has_its_variant() {
    let host = host();
    // The engine's own code raises few of them on demand; its settings can be made to raise any.
    let script = c"
import hwledger_omlx.errors as errors
import hwledger_omlx.host as face
original = face.EngineConfig
def raising(*, model, **settings):
    if model == 'bug:':
        raise ZeroDivisionError('not ours')
    if (model or '').startswith('raise:'):
        class Refined(getattr(errors, model.removeprefix('raise:'))): pass
        raise Refined('what was wrong\\nand what to do')
    return original(model=model, **settings)
face.EngineConfig = raising
";
    let names: Vec<String> = with_python(|py| {
        py.run(script, None, None).expect("patched");
        py.import("hwledger_omlx.errors").and_then(|errors| errors.getattr("__all__")?.extract()).expect("names")
    });
    let raised = async |name: &str| {
        let config = hwledger_omlx_host::EngineConfig::new(name);
        host.engine(config).await.expect_err("it raises")
    };
    for name in names {
        let error = raised(&format!("raise:{name}")).await;
        let variant = match &error {
            Error::Fork(_) => "ForkError",
            Error::ForkNotFound(_) => "ForkNotFoundError",
            Error::Series(_) => "SeriesError",
            Error::Model(_) => "ModelError",
            Error::ModelNotFound(_) => "ModelNotFoundError",
            Error::Request(_) => "RequestError",
            Error::ModelTask(_) => "ModelTaskError",
            Error::Config(_) => "ConfigError",
            Error::Engine(_) => "EngineError",
            Error::EngineClosed(_) => "EngineClosedError",
            Error::Memory(_) => "MemoryReportError",
            Error::Harness(_) => "HarnessError",
            // One kind for policies and what calibration is about.
            Error::KvPolicy(_) if name.starts_with("Kv") => name.as_str(),
            // One kind for the ledger's tree too.
            Error::Ledger(_) if name.starts_with("Ledger") => name.as_str(),
            // One kind for the store's tree; the class is in `type_name`.
            Error::Store(_) if name.starts_with("Store") || name == "ForeignFolderError" => name.as_str(),
            // The base itself is of no kind.
            Error::Python(_) => "Error",
            other => panic!("{other:?}"),
        };
        assert_eq!(variant, name);
        let cause = error.raised().expect("a cause");
        assert_eq!(cause.message, "what was wrong\nand what to do");
        assert!(cause.type_name.ends_with("Refined") && cause.traceback.starts_with("Traceback"), "{cause:?}");
        let sent = serde_json::to_string(&error).expect("serializable");
        assert_eq!(serde_json::from_str::<Error>(&sent).expect("its own form"), error);
    }
    let error = raised("bug:").await;
    assert!(matches!(&error, Error::Python(raised) if raised.type_name == "ZeroDivisionError"), "{error:?}");
    assert_eq!(error.to_string(), "ZeroDivisionError: not ours");
}
