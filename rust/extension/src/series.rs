//! The patch series as Python sees it.

use std::collections::BTreeMap;

use hwledger_omlx_core::series as core;
use pyo3::prelude::*;

use crate::errors::Raised;

/// One place of the fork that is hooked; fields as in the manifest.
#[pyclass(frozen, get_all, eq, module = "hwledger_omlx._native")]
#[derive(Debug, Clone, PartialEq)]
pub struct Hook {
    id: String,
    patch: String,
    title: String,
    target: String,
    kind: &'static str,
    shim: String,
    self_test: String,
    form: Option<&'static str>,
    rebind: Vec<String>,
    parameters: Vec<String>,
    feature: String,
    required: bool,
    releases: Option<String>,
    protocol_objects: Vec<String>,
    protocol_calls: Vec<String>,
    digests: BTreeMap<String, String>,
}

#[pymethods]
impl Hook {
    fn __repr__(&self) -> String {
        format!("Hook({} {} {})", self.id, self.kind, self.target)
    }
}

fn hooks(manifests: Vec<core::Manifest>) -> Vec<Hook> {
    let mut all = Vec::new();
    for manifest in manifests {
        for hook in manifest.hooks {
            let (protocol_objects, protocol_calls) =
                hook.protocol.map_or_else(Default::default, |protocol| (protocol.objects, protocol.calls));
            all.push(Hook {
                id: hook.id,
                patch: manifest.name.clone(),
                title: manifest.title.clone(),
                target: hook.target,
                kind: hook.kind.as_str(),
                shim: hook.shim,
                self_test: hook.self_test,
                form: hook.form.map(core::Form::as_str),
                rebind: hook.rebind,
                parameters: hook.parameters,
                feature: hook.feature,
                required: hook.required,
                releases: hook.releases,
                protocol_objects,
                protocol_calls,
                digests: hook.digests,
            });
        }
    }
    all
}

/// The hooks of the series that this build carries, in order.
#[pyfunction]
pub(crate) fn series() -> Result<Vec<Hook>, Raised> {
    Ok(hooks(core::shipped()?))
}

/// The hooks of manifests given as `[(file name, text), ...]`.
#[pyfunction]
#[allow(clippy::needless_pass_by_value, reason = "extracted from Python")]
pub(crate) fn parse_series(manifests: Vec<(String, String)>) -> Result<Vec<Hook>, Raised> {
    Ok(hooks(core::parse_all(manifests.iter().map(|(file, text)| (file.as_str(), text.as_str())))?))
}

/// The manifest `text` with `digests` (hook id → digest) recorded for the fork `release`.
#[pyfunction]
#[allow(clippy::needless_pass_by_value, reason = "extracted from Python")]
pub(crate) fn lock_manifest(
    file: &str,
    text: &str,
    release: &str,
    digests: BTreeMap<String, String>,
) -> Result<String, Raised> {
    Ok(core::lock(file, text, release, &digests)?)
}
