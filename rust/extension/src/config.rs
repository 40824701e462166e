//! The configuration as Python sees it: JSON, which Python types by itself.

use std::path::PathBuf;

use hwledger_omlx_core::config::{self as core, Entry, KvSetting, Loaded, Sources};
use pyo3::prelude::*;
use serde::Serialize;

use crate::entry::detached;
use crate::errors::Raised;
use crate::json;

#[derive(Serialize)]
struct Told<'l> {
    entries: &'l [Entry],
    warnings: &'l [String],
}

/// What a file, variables and flags say together, as JSON: each value with its origin.
#[pyfunction]
#[pyo3(signature = (file, variables, flags_json))]
#[allow(clippy::needless_pass_by_value, reason = "extracted from Python")]
pub(crate) fn load_config(
    py: Python<'_>,
    file: Option<PathBuf>,
    variables: Vec<(String, String)>,
    flags_json: &str,
) -> PyResult<String> {
    detached(py, || -> Result<String, Raised> {
        let flags: Vec<(String, serde_json::Value)> = serde_json::from_str(flags_json)?;
        let loaded = Loaded::load(&Sources { file: file.as_deref(), variables: &variables, flags: &flags })?;
        Ok(json::text(&Told { entries: &loaded.entries, warnings: &loaded.warnings })?)
    })
}

/// The configuration file: the one that is named, else the first that is there.
#[pyfunction]
#[allow(clippy::needless_pass_by_value, reason = "extracted from Python")]
pub(crate) fn find_config(named: Option<PathBuf>, variables: Vec<(String, String)>) -> Option<PathBuf> {
    core::find(named.as_deref(), &variables)
}

/// Whether a KV policy's text is the path of a file that has it.
#[pyfunction]
pub(crate) fn is_kv_policy_file(text: &str) -> bool {
    KvSetting::is_file(text)
}
