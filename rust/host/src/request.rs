//! What is asked of an engine. Fields as `hwledger_omlx.engine.request.GenerateRequest` has them; Python validates them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// One request for text. A field left `None` has the default of Python's `GenerateRequest`: 256 tokens,
/// temperature 0.7, everything else off.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GenerateRequest {
    /// What to continue or to answer.
    pub prompt: Prompt,
    /// Id of the loaded model that answers; `None` is the engine's first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Id that events carry; the engine makes one where it is `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Most tokens to generate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Sampling temperature; 0.0 is greedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Nucleus sampling: the share of probability kept, 0.0-1.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// How many of the likeliest tokens are kept; 0 keeps all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Least probability kept, as a share of the likeliest token's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,
    /// Penalty on tokens seen already; 1.0 is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f64>,
    /// `OpenAI`'s presence penalty; 0.0 is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f64>,
    /// `OpenAI`'s frequency penalty; 0.0 is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f64>,
    /// Texts that end the answer; they are not part of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// Seed of the sampling; the same seed gives the same text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Tools that the model may call, as in `OpenAI`'s API.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Value>,
    /// Extra variables of the chat template.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub chat_template_kwargs: Map<String, Value>,
    /// Most tokens of reasoning; `None` is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking_budget: Option<u32>,
    /// Fields this type has no name for. The engine refuses those that it does not know with [`crate::Error::Request`].
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A prompt: text as it is, or chat messages that go through the model's template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Prompt {
    /// Raw text to continue.
    Text(String),
    /// Messages as in `OpenAI`'s API: `role`, `content`, and what the role adds.
    Messages(Vec<Map<String, Value>>),
}

impl Default for Prompt {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

impl GenerateRequest {
    /// A request to continue raw `text`.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self { prompt: Prompt::Text(text.into()), ..Self::default() }
    }

    /// A chat request without messages; [`Self::message`] adds them.
    #[must_use]
    pub fn chat() -> Self {
        Self { prompt: Prompt::Messages(Vec::new()), ..Self::default() }
    }

    /// Adds a message of `role` (`system`, `user`, `assistant`). A text prompt becomes the first user message.
    #[must_use]
    pub fn message(mut self, role: &str, content: &str) -> Self {
        let mut messages = match std::mem::take(&mut self.prompt) {
            Prompt::Messages(messages) => messages,
            Prompt::Text(text) if text.is_empty() => Vec::new(),
            Prompt::Text(text) => vec![chat_message("user", &text)],
        };
        messages.push(chat_message(role, content));
        self.prompt = Prompt::Messages(messages);
        self
    }

    /// Generates at most this many tokens.
    #[must_use]
    pub fn max_tokens(mut self, tokens: u32) -> Self {
        self.max_tokens = Some(tokens);
        self
    }

    /// Samples at this temperature; 0.0 is greedy.
    #[must_use]
    pub fn temperature(mut self, temperature: f64) -> Self {
        self.temperature = Some(temperature);
        self
    }

    /// Samples with this seed.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
}

fn chat_message(role: &str, content: &str) -> Map<String, Value> {
    Map::from_iter([("role".to_owned(), json!(role)), ("content".to_owned(), json!(content))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_said_crosses() {
        let request = GenerateRequest::text("a").max_tokens(3).seed(7);
        let sent = serde_json::to_value(&request).expect("serializable");
        assert_eq!(sent, json!({"prompt": "a", "max_tokens": 3, "seed": 7}));
        assert_eq!(serde_json::from_value::<GenerateRequest>(sent).expect("its own form"), request);
    }

    #[test]
    fn unnamed_fields_are_kept_for_the_engine_to_judge() {
        let request: GenerateRequest =
            serde_json::from_value(json!({"prompt": [{"role": "user", "content": "b"}], "temprature": 1}))
                .expect("parsed");
        assert_eq!(request.extra["temprature"], json!(1));
        assert!(matches!(&request.prompt, Prompt::Messages(messages) if messages[0]["content"] == "b"));
    }
}
