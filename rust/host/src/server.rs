//! A server of one engine: the fork's HTTP application in this process, and the engine that it works with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use serde::{Deserialize, Serialize};

use crate::config::EngineConfig;
use crate::engine::Engine;
use crate::error::Error;
use crate::host::Host;
use crate::lane::aside;

/// What a server is started with. Fields as `hwledger_omlx.serve.settings.ServerSettings` has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServeConfig {
    /// The engine under it. Its `model` is `None`: [`Self::models`] says which are loaded.
    #[serde(default)]
    pub engine: EngineConfig,
    /// Folders or Hugging Face ids to load before anything is served; the first is the default of requests.
    #[serde(default)]
    pub models: Vec<String>,
    /// Folders of models that are loaded when a request names one of them.
    #[serde(default)]
    pub model_dirs: Vec<PathBuf>,
    /// Address to listen on. Beyond this machine it takes an [`Self::api_key`].
    #[serde(default = "loopback")]
    pub host: String,
    /// Port to listen on; 0 for any that is free.
    #[serde(default)]
    pub port: u16,
    /// What requests must carry.
    #[serde(default)]
    pub api_key: Option<String>,
    /// Seconds that answers under way may take to end once the server is told to stop.
    #[serde(default = "shutdown_s")]
    pub shutdown_s: f64,
    /// Seconds that requests may wait for a sign of life before the server calls itself stuck.
    #[serde(default = "stuck_after_s")]
    pub stuck_after_s: f64,
}

fn loopback() -> String {
    "127.0.0.1".to_owned()
}

fn shutdown_s() -> f64 {
    20.0
}

fn stuck_after_s() -> f64 {
    8.0
}

impl ServeConfig {
    /// The defaults, with `models` loaded: any free port of this machine.
    #[must_use]
    pub fn new(models: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            engine: EngineConfig::default(),
            models: models.into_iter().map(Into::into).collect(),
            model_dirs: Vec::new(),
            host: loopback(),
            port: 0,
            api_key: None,
            shutdown_s: shutdown_s(),
            stuck_after_s: stuck_after_s(),
        }
    }

    /// Settings of the engine.
    #[must_use]
    pub fn engine(mut self, engine: EngineConfig) -> Self {
        self.engine = engine;
        self
    }

    /// Listens on this port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Gives answers so long to end once the server is told to stop.
    #[must_use]
    pub fn shutdown(mut self, within: Duration) -> Self {
        self.shutdown_s = within.as_secs_f64();
        self
    }
}

/// A server that takes requests. Stopped by [`Server::stop`], or when the last handle to its engine is dropped.
#[derive(Debug, Clone)]
pub struct Server {
    engine: Engine,
    object: Arc<Py<PyAny>>,
    url: String,
}

impl Server {
    pub(crate) fn new(engine: Engine, object: Arc<Py<PyAny>>, url: String) -> Self {
        Self { engine, object, url }
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The engine that it works with: the same models, batch and cache. To close it is to stop the server.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Ids of every model that a request may name, loaded or not.
    ///
    /// # Errors
    /// [`Error::EngineClosed`] once it was stopped.
    pub async fn model_ids(&self) -> Result<Vec<String>, Error> {
        let object = Arc::clone(&self.object);
        self.host().calls().call(move |py| object.getattr(py, "model_ids")?.extract(py)).wait().await
    }

    /// What `/health` says: `status` is `ok`, `busy` or `stuck`, and the rest says why. Does not wait for the engine.
    ///
    /// # Errors
    /// [`Error::Python`] if it cannot be told.
    pub async fn health(&self) -> Result<serde_json::Value, Error> {
        let (host, object) = (self.host().clone(), Arc::clone(&self.object));
        let text = self
            .host()
            .calls()
            .call(move |py| host.module().bind(py).call_method1("health", (&*object,))?.extract::<String>())
            .wait()
            .await?;
        serde_json::from_str(&text).map_err(|error| Error::engine(error.to_string()))
    }

    /// Returns when the server has ended: told to by [`Self::stop`] elsewhere, or for a trouble of its own.
    ///
    /// # Errors
    /// What ended it before its time.
    pub async fn wait(&self) -> Result<(), Error> {
        let object = Arc::clone(&self.object);
        aside("hwledger-server", move |py| object.call_method0(py, "wait").map(drop)).wait().await
    }

    /// Takes no more requests, gives answers under way [`ServeConfig::shutdown_s`] to end, cancels the rest, flushes the
    /// cache and closes the engine.
    ///
    /// # Errors
    /// [`Error::Engine`] or [`Error::Python`] if something could not be released.
    pub async fn stop(&self) -> Result<(), Error> {
        self.engine.close().await
    }

    fn host(&self) -> &Host {
        self.engine.host()
    }
}
