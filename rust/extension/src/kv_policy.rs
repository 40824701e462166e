//! The KV policy as Python sees it. Models, profiles and what comes of them are JSON, which Python types by itself.

use hwledger_omlx_core::quant::policy::{Format, Geometry, KvPolicy as Policy, PolicyError, Profile};
use pyo3::prelude::*;

use crate::entry::detached;
use crate::errors::Raised;
use crate::json;

/// How each layer's keys and values are to be held.
#[pyclass(frozen, eq, hash, module = "hwledger_omlx._native")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KvPolicy(Policy);

#[pymethods]
impl KvPolicy {
    /// The policy that the text says.
    #[staticmethod]
    fn parse(text: &str) -> Result<Self, Raised> {
        Ok(Self(Policy::parse(text)?))
    }

    /// The policy that JSON says: its fields, or a string with its text.
    #[staticmethod]
    fn from_json(text: &str) -> Result<Self, Raised> {
        Ok(Self(Policy::from_json(text)?))
    }

    /// The policy that a TOML document says.
    #[staticmethod]
    fn from_toml(text: &str) -> Result<Self, Raised> {
        Ok(Self(Policy::from_toml(text)?))
    }

    /// Whether it must be solved for, with what calibration measured.
    #[getter]
    fn needs_profile(&self) -> bool {
        self.0.needs_profile()
    }

    fn __str__(&self) -> String {
        self.0.to_string()
    }

    fn __repr__(&self) -> String {
        format!("KvPolicy({})", self.0)
    }

    /// Its fields as JSON.
    fn to_json(&self) -> Result<String, Raised> {
        Ok(json::text(&self.0)?)
    }

    /// The formats of each cache of a model, as JSON.
    #[pyo3(signature = (geometry_json, profile_json=None))]
    fn resolve(&self, py: Python<'_>, geometry_json: &str, profile_json: Option<&str>) -> PyResult<String> {
        detached(py, || -> Result<String, Raised> {
            let (geometry, profile) = read(geometry_json, profile_json)?;
            Ok(json::text(&self.0.resolve(&geometry, profile.as_ref())?)?)
        })
    }

    /// The bytes of a model's caches at so many tokens, live, at rest and plain, as JSON.
    #[pyo3(signature = (geometry_json, tokens, profile_json=None))]
    fn plan(&self, py: Python<'_>, geometry_json: &str, tokens: u64, profile_json: Option<&str>) -> PyResult<String> {
        detached(py, || -> Result<String, Raised> {
            let (geometry, profile) = read(geometry_json, profile_json)?;
            let resolved = self.0.resolve(&geometry, profile.as_ref())?;
            Ok(json::text(&resolved.plan(&geometry, tokens, profile.as_ref()))?)
        })
    }
}

fn read(geometry_json: &str, profile_json: Option<&str>) -> Result<(Geometry, Option<Profile>), PolicyError> {
    Ok((Geometry::from_json(geometry_json)?, profile_json.map(Profile::from_json).transpose()?))
}

/// Whether numbers that were held in one format lose nothing more that matters by being held in another.
#[pyfunction]
pub(crate) fn kv_format_serves(held: &str, wanted: &str) -> Result<bool, Raised> {
    Ok(held.parse::<Format>()?.is_at_least_as_precise_as(wanted.parse()?))
}
