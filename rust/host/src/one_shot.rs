//! What models do that answer in one piece: embed, rerank, transcribe, speak. A request whose future is dropped is worked
//! off all the same.

use std::path::PathBuf;

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::engine::Engine;
use crate::error::Error;

/// Texts as vectors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Embeddings {
    /// Id of the model that made them.
    pub model: String,
    /// Each of length 1, in the order of the texts.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens of all texts, after those that were too long were cut off.
    pub prompt_tokens: u64,
}

/// Documents by how well they answer a query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ranking {
    /// Id of the model that ranked them.
    pub model: String,
    /// The best first.
    pub documents: Vec<RankedDocument>,
    /// Tokens of all pairs of query and document, as the fork counts them.
    pub prompt_tokens: u64,
}

/// One document's place.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RankedDocument {
    /// In the list that was given.
    pub index: usize,
    /// How well it answers the query, by the model; for most of them between 0 and 1.
    pub score: f64,
}

/// A sound file, or what is in one: WAV, FLAC and MP3 in any case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audio {
    /// A file on this machine.
    File(PathBuf),
    /// The bytes of one.
    Bytes(Vec<u8>),
}

/// Speech as text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transcription {
    /// Id of the model that listened.
    pub model: String,
    /// What was said.
    pub text: String,
    /// As the model or the request named it; `None` where nobody did.
    pub language: Option<String>,
    /// Parts of it in order, with the fields that the model gives, such as `start` and `end` in seconds; may be none.
    pub segments: Vec<Value>,
}

/// Text as speech.
#[derive(Debug, Clone, PartialEq)]
pub struct Speech {
    /// Id of the model that spoke.
    pub model: String,
    /// A WAV file: 16 bit, one channel.
    pub wav: Vec<u8>,
    /// Its samples a second.
    pub sample_rate_hz: u32,
    /// Its length in seconds.
    pub duration_s: f64,
}

impl Engine {
    /// Texts as vectors. A text that is too long for the model is cut off; `None` is the first model loaded that embeds.
    ///
    /// # Errors
    /// [`Error::Request`] where there is no text or no such model, [`Error::ModelTask`] for a model of another kind,
    /// [`Error::Engine`] if the fork failed, or [`Error::EngineClosed`].
    pub async fn embed(
        &self,
        texts: impl IntoIterator<Item = impl Into<String>>,
        model: Option<&str>,
    ) -> Result<Embeddings, Error> {
        let texts: Vec<String> = texts.into_iter().map(Into::into).collect();
        let (model, flat, dimensions, prompt_tokens): (String, Vec<u8>, usize, u64) =
            self.ask("embed", (texts, model.map(str::to_owned))).await?;
        let numbers: Vec<f32> = flat.as_chunks::<4>().0.iter().map(|bytes| f32::from_ne_bytes(*bytes)).collect();
        let vectors = numbers.chunks_exact(dimensions.max(1)).map(<[f32]>::to_vec).collect();
        Ok(Embeddings { model, vectors, prompt_tokens })
    }

    /// Documents by how well they answer a query, the `top_n` best or all. A pair that is too long for the model is cut
    /// off; `None` is the first model loaded that reranks.
    ///
    /// # Errors
    /// As [`Self::embed`].
    pub async fn rerank(
        &self,
        query: impl Into<String>,
        documents: impl IntoIterator<Item = impl Into<String>>,
        model: Option<&str>,
        top_n: Option<usize>,
    ) -> Result<Ranking, Error> {
        let documents: Vec<String> = documents.into_iter().map(Into::into).collect();
        self.ask_json("rerank", (query.into(), documents, model.map(str::to_owned), top_n)).await
    }

    /// Speech as text. `language` is such as `en`, `None` leaves it to the model; `None` is the first model loaded that
    /// transcribes.
    ///
    /// # Errors
    /// As [`Self::embed`]; what is no sound is an [`Error::Engine`].
    pub async fn transcribe(
        &self,
        audio: Audio,
        model: Option<&str>,
        language: Option<&str>,
    ) -> Result<Transcription, Error> {
        self.ask_json("transcribe", (audio, model.map(str::to_owned), language.map(str::to_owned))).await
    }

    /// Text as speech. `voice` is one of the model's, `None` its own choice; `None` is the first model loaded that speaks.
    ///
    /// # Errors
    /// As [`Self::embed`].
    pub async fn speak(
        &self,
        text: impl Into<String>,
        model: Option<&str>,
        voice: Option<&str>,
    ) -> Result<Speech, Error> {
        let (model, wav, sample_rate_hz, duration_s) =
            self.ask("speak", (text.into(), model.map(str::to_owned), voice.map(str::to_owned))).await?;
        Ok(Speech { model, wav, sample_rate_hz, duration_s })
    }

    async fn ask_json<R: for<'de> Deserialize<'de>>(
        &self,
        function: &'static str,
        arguments: impl for<'py> IntoPyObject<'py> + Send + 'static,
    ) -> Result<R, Error> {
        let text: String = self.ask(function, arguments).await?;
        serde_json::from_str(&text).map_err(|error| Error::engine(error.to_string()))
    }

    /// Calls a function of `hwledger_omlx.host` with the session and a tuple of arguments.
    async fn ask<R>(
        &self,
        function: &'static str,
        arguments: impl for<'py> IntoPyObject<'py> + Send + 'static,
    ) -> Result<R, Error>
    where
        R: for<'a, 'py> FromPyObject<'a, 'py> + Send + 'static,
        for<'a, 'py> <R as FromPyObject<'a, 'py>>::Error: Into<PyErr>,
    {
        let (session, host) = (self.open()?, self.host().clone());
        self.aside(move |py| {
            let arguments = arguments.into_bound_py_any(py)?;
            let answer = host.module().bind(py).call_method1(function, (session.object(), arguments))?;
            answer.extract::<R>().map_err(Into::into)
        })
        .await
    }
}

impl<'py> IntoPyObject<'py> for Audio {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::File(path) => path.into_bound_py_any(py),
            Self::Bytes(bytes) => Ok(PyBytes::new(py, &bytes).into_any()),
        }
    }
}
