//! One engine: requests, models, end.

use std::path::PathBuf;
use std::sync::Arc;

use hwledger_omlx_core::memory::live::MemoryReport;
use hwledger_omlx_core::store::StoreStats as CacheStats;
use pyo3::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::host::Host;
use crate::lane::aside;
use crate::request::GenerateRequest;
use crate::session::Session;
use crate::stream::EventStream;

/// A running engine. Cheap to clone; it is closed by [`Engine::close`], or when the last clone and stream are dropped.
///
/// Concurrent requests are decoded in one batch.
#[derive(Debug, Clone)]
pub struct Engine {
    host: Host,
    session: Arc<Session>,
    fork: Arc<ForkReport>,
}

/// The fork that an engine runs, and the state of each hook in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkReport {
    /// Name of the distribution that brought the package `omlx`; `None` for a bare checkout.
    pub distribution: Option<String>,
    /// Its version.
    pub version: String,
    /// Where it was loaded from.
    pub path: PathBuf,
    /// The hooks of the patch series, in order.
    pub hooks: Vec<HookReport>,
}

/// What became of one hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookReport {
    /// Id of the hook in the series.
    pub id: String,
    /// `applied`, `drifted`, `refused`, …
    pub status: String,
    /// Why, where there is something to say.
    pub reason: String,
}

impl Engine {
    pub(crate) fn new(host: Host, session: Arc<Session>, fork: ForkReport) -> Self {
        Self { host, session, fork: Arc::new(fork) }
    }

    /// The fork in use.
    #[must_use]
    pub fn fork(&self) -> &ForkReport {
        &self.fork
    }

    /// Submits a request at once; its events arrive in the stream. A request that is refused is a stream of one error.
    #[must_use = "dropping the stream cancels the request"]
    pub fn generate(&self, request: GenerateRequest) -> EventStream {
        EventStream::submit(&self.host, &self.session, request)
    }

    /// Loads a further model, a folder or a Hugging Face id, and returns its id for [`GenerateRequest::model`].
    ///
    /// # Errors
    /// [`Error::Model`], [`Error::ModelNotFound`] or [`Error::EngineClosed`]; the engine goes on.
    pub async fn load(&self, model: impl Into<String>) -> Result<String, Error> {
        let (session, model) = (self.open()?, model.into());
        self.host
            .loading()
            .call(move |py| session.object().call_method1(py, "load", (model,))?.extract::<String>(py))
            .wait()
            .await
    }

    /// Cancels the requests of a model and releases its memory.
    ///
    /// # Errors
    /// [`Error::Model`] if no model of that id is loaded, or [`Error::EngineClosed`].
    pub async fn unload(&self, model_id: impl Into<String>) -> Result<(), Error> {
        let (session, model_id) = (self.open()?, model_id.into());
        self.host
            .loading()
            .call(move |py| session.object().call_method1(py, "unload", (model_id,)).map(drop))
            .wait()
            .await
    }

    /// Has requests that begin from now on run at a KV policy; those that run go on as they are.
    ///
    /// `model` is the id of a loaded model; `None` is all, and those loaded later.
    ///
    /// # Errors
    /// [`Error::KvPolicy`] if it is no policy or a model cannot take it: the message names the layer, and nothing has
    /// changed. [`Error::Model`] if no model of that id is loaded, or [`Error::EngineClosed`].
    pub async fn set_kv_policy(&self, policy: impl Into<String>, model: Option<String>) -> Result<(), Error> {
        let (session, policy) = (self.open()?, policy.into());
        self.host
            .loading()
            .call(move |py| session.object().call_method1(py, "set_kv_policy", (policy, model)).map(drop))
            .wait()
            .await
    }

    /// The KV policy of new requests to a model, `None` for the one that the engine was opened with; layer by layer where
    /// it was solved for.
    ///
    /// # Errors
    /// [`Error::Model`] if no model of that id is loaded, or [`Error::EngineClosed`].
    pub async fn kv_policy(&self, model: Option<String>) -> Result<String, Error> {
        let session = self.open()?;
        self.host
            .calls()
            .call(move |py| session.object().call_method1(py, "kv_policy_of", (model,))?.extract::<String>(py))
            .wait()
            .await
    }

    /// What the KV cache did since it was opened, and what it holds; `None` unless it is [`crate::CacheKind::Paged`].
    ///
    /// # Errors
    /// [`Error::EngineClosed`].
    pub async fn cache_stats(&self) -> Result<Option<CacheStats>, Error> {
        let (session, host) = (self.open()?, self.host.clone());
        let text = self
            .host
            .calls()
            .call(move |py| {
                let told = host.module().bind(py).call_method1("cache_stats", (session.object(),))?;
                told.extract::<Option<String>>()
            })
            .wait()
            .await?;
        let parse = |text: String| serde_json::from_str(&text).map_err(|error| Error::engine(error.to_string()));
        text.map(parse).transpose()
    }

    /// Where the engine's memory goes now, layer by layer, and the highest it went.
    ///
    /// # Errors
    /// [`Error::EngineClosed`].
    pub async fn memory(&self) -> Result<MemoryReport, Error> {
        let (session, host) = (self.open()?, self.host.clone());
        let text = self
            .host
            .calls()
            .call(move |py| host.module().bind(py).call_method1("memory", (session.object(),))?.extract::<String>())
            .wait()
            .await?;
        serde_json::from_str(&text).map_err(|error| Error::engine(error.to_string()))
    }

    /// Cancels what runs, flushes the cache, unloads the models and joins the engine's threads. Later requests fail with
    /// [`Error::EngineClosed`]; closing again is no error.
    ///
    /// # Errors
    /// [`Error::Engine`] or [`Error::Python`] if something could not be released.
    pub async fn close(&self) -> Result<(), Error> {
        self.session.close().wait().await
    }

    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// Runs work that may take long on a thread of its own.
    pub(crate) async fn aside<R: Send + 'static>(
        &self,
        work: impl FnOnce(Python<'_>) -> PyResult<R> + Send + 'static,
    ) -> Result<R, Error> {
        aside("hwledger-work", work).wait().await
    }

    pub(crate) fn open(&self) -> Result<Arc<Session>, Error> {
        if self.session.is_closed() { Err(Error::closed()) } else { Ok(Arc::clone(&self.session)) }
    }
}
