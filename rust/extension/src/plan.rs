//! What a model folder says of a model, and what it will take, as Python sees them: JSON, which Python types by itself.

use std::path::PathBuf;

use hwledger_omlx_core::memory::ingest::{Model, known_types};
use hwledger_omlx_core::memory::plan::{self, History, Holder, Request};
use hwledger_omlx_core::quant::policy::{KvPolicy as Policy, Profile};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::entry::detached;
use crate::errors::Raised;
use crate::json;

/// A model as its files describe it.
#[pyclass(frozen, module = "hwledger_omlx._native")]
#[derive(Debug)]
pub struct ModelShape(Model);

#[pymethods]
impl ModelShape {
    /// Reads config.json and the headers of the weights.
    #[staticmethod]
    fn read(py: Python<'_>, folder: PathBuf) -> PyResult<Self> {
        detached(py, move || -> Result<Self, Raised> { Ok(Self(Model::read(&folder)?)) })
    }

    /// The same by config.json's text alone, without weights.
    #[staticmethod]
    fn of_config(py: Python<'_>, text: &str) -> PyResult<Self> {
        detached(py, || -> Result<Self, Raised> { Ok(Self(Model::of_config(text)?)) })
    }

    /// All that is known of it, as JSON.
    fn to_json(&self) -> Result<String, Raised> {
        Ok(json::text(&self.0)?)
    }

    /// The engine's list of layer caches as JSON, as policies take it.
    fn geometry_json(&self) -> Result<String, Raised> {
        Ok(json::text(&self.0.geometry)?)
    }

    /// The plan that a request in JSON asks for, as JSON.
    #[pyo3(signature = (policy, request_json, profile_json=None))]
    fn plan(&self, py: Python<'_>, policy: &str, request_json: &str, profile_json: Option<&str>) -> PyResult<String> {
        detached(py, || -> Result<String, Raised> {
            let request: Request = serde_json::from_str(request_json)?;
            let policy = Policy::parse(policy)?;
            let profile = profile_json.map(Profile::from_json).transpose()?;
            Ok(json::text(&plan::plan(&self.0, &policy, profile.as_ref(), &request)?)?)
        })
    }

    /// Bytes of each layer of one request, as JSON.
    #[pyo3(signature = (policy, holder, prefilled_tokens, *, chunk_tokens, decoded_tokens=0, reserve_tokens=0, profile_json=None))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn cache_bytes(
        &self,
        py: Python<'_>,
        policy: &str,
        holder: &str,
        prefilled_tokens: u64,
        chunk_tokens: u64,
        decoded_tokens: u64,
        reserve_tokens: u64,
        profile_json: Option<&str>,
    ) -> PyResult<String> {
        let holder = match holder {
            "engine" => Holder::Engine,
            "alone" => Holder::Alone,
            "mlx_lm" => Holder::MlxLm,
            other => return Err(PyValueError::new_err(format!("no holder {other}: engine, alone or mlx_lm"))),
        };
        let history = History { prefilled_tokens, chunk_tokens, decoded_tokens };
        detached(py, || -> Result<String, Raised> {
            let policy = Policy::parse(policy)?;
            let profile = profile_json.map(Profile::from_json).transpose()?;
            Ok(json::text(&plan::cache_bytes(&self.0, &policy, profile.as_ref(), holder, history, reserve_tokens)?)?)
        })
    }
}

/// Every `model_type` whose layers are known.
#[pyfunction]
pub(crate) fn known_model_types() -> Vec<&'static str> {
    known_types().collect()
}
