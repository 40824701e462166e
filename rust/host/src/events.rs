//! What an engine tells its caller: mirrors of `hwledger_omlx.engine.events`, read straight off the Python objects.
//!
//! Their JSON is that of the dataclasses. Times are seconds, rates are per second, lengths are tokens.

use hwledger_omlx_core::memory::live::MemoryEvent;
use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use serde::{Deserialize, Serialize};

/// One event of a stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Event {
    /// One or more tokens.
    Token(TokenEvent),
    /// How far the prefill has come.
    Progress(ProgressEvent),
    /// What memory is held, where [`crate::GenerateRequest::memory`] asks for it.
    Memory(Box<MemoryEvent>),
    /// The end of the stream.
    Done(DoneEvent),
}

/// One or more tokens, as soon as they are there. The texts of a stream join to the raw output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, FromPyObject)]
pub struct TokenEvent {
    /// The request they answer.
    pub request_id: String,
    /// May be empty while a character is incomplete.
    pub text: String,
    /// Ids of the tokens.
    pub token_ids: Vec<u32>,
}

/// How far the prefill of the prompt has come, once a chunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, FromPyObject)]
pub struct ProgressEvent {
    /// The request whose prompt it is.
    pub request_id: String,
    /// Prompt tokens whose KV is there, restored ones included.
    pub done_tokens: u64,
    /// Tokens of the prompt.
    pub total_tokens: u64,
}

/// The last event of a stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, FromPyObject)]
pub struct DoneEvent {
    /// The request that is finished.
    pub request_id: String,
    /// All of it.
    pub result: Generation,
}

/// A finished request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, FromPyObject)]
pub struct Generation {
    /// Id of the request.
    pub request_id: String,
    /// Id of the model that answered.
    pub model: String,
    /// The answer, without special tokens, reasoning and tool calls.
    pub text: String,
    /// Every token generated, in order.
    pub token_ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Tokens used.
    pub usage: Usage,
    /// Times taken.
    pub timings: Timings,
    /// What a reasoning model thought before it answered.
    pub reasoning: String,
    /// Calls of tools that the answer asks for.
    pub tool_calls: Vec<ToolCall>,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FinishReason {
    /// The model ended it, or a stop text was met.
    Stop,
    /// `max_tokens` or the context was reached.
    Length,
    /// The model asks for tools to be called.
    ToolCalls,
    /// The caller cancelled it.
    Cancelled,
    /// Its deadline passed.
    Deadline,
}

/// Tokens of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, FromPyObject)]
pub struct Usage {
    /// Tokens of the prompt, the chat template's included.
    pub prompt_tokens: u64,
    /// Tokens generated, without the end-of-turn token that ended the answer.
    pub completion_tokens: u64,
    /// Prompt tokens whose KV was restored and not computed.
    pub cached_tokens: u64,
}

/// Times of one request, measured from its submission.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, FromPyObject)]
pub struct Timings {
    /// Seconds to the first token; to the end where there was none.
    pub ttft_s: f64,
    /// Seconds to the end.
    pub total_s: f64,
    /// Tokens after the first, per second after the first; 0.0 where there was none.
    pub decode_tokens_per_s: f64,
}

/// A call of a tool, as the fork's parser read it out of the text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, FromPyObject)]
pub struct ToolCall {
    /// Id of the call.
    pub id: String,
    /// Name of the tool.
    pub name: String,
    /// JSON text of the arguments, as `OpenAI`'s API has it.
    pub arguments: String,
}

impl Event {
    /// Reads a Python event. `None` for a kind that this release does not know: a newer engine may tell more.
    pub(crate) fn read(event: &Bound<'_, PyAny>) -> PyResult<Option<Self>> {
        let kind = event.getattr(intern!(event.py(), "kind"))?;
        Ok(match kind.extract::<&str>()? {
            "token" => Some(Self::Token(event.extract()?)),
            "progress" => Some(Self::Progress(event.extract()?)),
            "done" => Some(Self::Done(event.extract()?)),
            _ => None,
        })
    }
}

impl<'py> FromPyObject<'_, 'py> for FinishReason {
    type Error = PyErr;

    fn extract(reason: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match reason.extract::<&str>()? {
            "stop" => Ok(Self::Stop),
            "length" => Ok(Self::Length),
            "tool_calls" => Ok(Self::ToolCalls),
            "cancelled" => Ok(Self::Cancelled),
            "deadline" => Ok(Self::Deadline),
            other => Err(PyValueError::new_err(format!("unknown finish reason {other:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_that_of_the_dataclasses() {
        let event = Event::Progress(ProgressEvent { request_id: "r".into(), done_tokens: 2, total_tokens: 3 });
        let text = serde_json::to_string(&event).expect("serializable");
        assert_eq!(text, r#"{"kind":"progress","request_id":"r","done_tokens":2,"total_tokens":3}"#);
        assert_eq!(serde_json::from_str::<Event>(&text).expect("its own form"), event);
    }
}
