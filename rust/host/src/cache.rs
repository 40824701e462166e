//! What can be done with an engine's KV cache.

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::error::Error;
use crate::request::Prompt;

/// What a purge took away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purged {
    /// Blocks.
    pub blocks: u64,
    /// Snapshots of recurrent states.
    pub snapshots: u64,
    /// Their payload.
    pub bytes: u64,
}

impl Engine {
    /// Returns when everything that the cache accepted is on disk.
    ///
    /// # Errors
    /// [`Error::Store`] if something could not be written, or [`Error::EngineClosed`].
    pub async fn flush_cache(&self) -> Result<(), Error> {
        self.on_cache::<Option<bool>>("cache_flush", |_| Ok(Vec::new())).await.map(drop)
    }

    /// Forgets every prompt, or those of the model of this name. Running requests are not harmed.
    ///
    /// # Errors
    /// [`Error::Store`] unless the cache is [`crate::CacheKind::Paged`], or [`Error::EngineClosed`].
    pub async fn purge_cache(&self, model: Option<String>) -> Result<Purged, Error> {
        let text: String = self.on_cache("cache_purge", move |py| Ok(vec![model.into_py_any(py)?])).await?;
        serde_json::from_str(&text).map_err(|error| Error::engine(error.to_string()))
    }

    /// Keeps what is stored of a prompt from eviction, across restarts, until [`Self::unpin`]. Returns how many tokens.
    ///
    /// `model` is the id of a loaded model, `None` for the first; `tenant` is the request's.
    ///
    /// # Errors
    /// [`Error::Request`] if it is no prompt, [`Error::Store`] unless the cache is [`crate::CacheKind::Paged`], or
    /// [`Error::EngineClosed`].
    pub async fn pin(&self, prompt: &Prompt, model: Option<String>, tenant: &str) -> Result<u64, Error> {
        self.keep(prompt, true, model, tenant).await
    }

    /// Takes back a [`Self::pin`] of the same prompt. Returns how many tokens were pinned.
    ///
    /// # Errors
    /// As [`Self::pin`].
    pub async fn unpin(&self, prompt: &Prompt, model: Option<String>, tenant: &str) -> Result<u64, Error> {
        self.keep(prompt, false, model, tenant).await
    }

    async fn keep(&self, prompt: &Prompt, keep: bool, model: Option<String>, tenant: &str) -> Result<u64, Error> {
        let prompt = serde_json::to_string(prompt).map_err(|error| Error::request(error.to_string()))?;
        let tenant = tenant.to_owned();
        let arguments = move |py: Python<'_>| {
            Ok(vec![prompt.into_py_any(py)?, keep.into_py_any(py)?, model.into_py_any(py)?, tenant.into_py_any(py)?])
        };
        self.on_cache("cache_pin", arguments).await
    }

    /// Calls a function of `hwledger_omlx.host` with the session. Off the lane of calls, for the disk may be slow.
    async fn on_cache<R>(
        &self,
        function: &'static str,
        arguments: impl FnOnce(Python<'_>) -> PyResult<Vec<Py<PyAny>>> + Send + 'static,
    ) -> Result<R, Error>
    where
        R: for<'a, 'py> FromPyObject<'a, 'py> + Send + 'static,
        for<'a, 'py> <R as FromPyObject<'a, 'py>>::Error: Into<PyErr>,
    {
        let (session, host) = (self.open()?, self.host().clone());
        self.aside(move |py| {
            let mut all = vec![session.object().clone_ref(py)];
            all.extend(arguments(py)?);
            let called = host.module().bind(py).getattr(function)?.call1(pyo3::types::PyTuple::new(py, all)?)?;
            called.extract::<R>().map_err(Into::into)
        })
        .await
    }
}
