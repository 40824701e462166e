//! What is asked of an engine. Fields as `hwledger_omlx.engine.request.GenerateRequest` has them; Python validates them.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value, json};

/// One request for text. A field left `None` has the default of Python's `GenerateRequest`: 256 tokens,
/// temperature 0.7, everything else off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// Ends the request so long after its submission, with what there is and [`crate::FinishReason::Deadline`].
    #[serde(rename = "deadline_s", skip_serializing_if = "Option::is_none", with = "seconds", default)]
    pub deadline: Option<Duration>,
    /// Whose prompt it is: cached KV is shared between requests of the same tenant only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Most events that wait for a slow reader. Further tokens join the last event that waits, so that nothing is lost.
    #[serde(skip, default = "default_buffer")]
    pub buffered_events: usize,
    /// Whether the stream has [`crate::Event::Memory`] between its other events, of the model that answers.
    #[serde(skip)]
    pub memory: bool,
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

impl Default for GenerateRequest {
    fn default() -> Self {
        Self {
            prompt: Prompt::default(),
            model: None,
            request_id: None,
            max_tokens: None,
            temperature: None,
            top_p: None,
            top_k: None,
            min_p: None,
            repetition_penalty: None,
            presence_penalty: None,
            frequency_penalty: None,
            stop: Vec::new(),
            seed: None,
            tools: Vec::new(),
            chat_template_kwargs: Map::new(),
            thinking_budget: None,
            deadline: None,
            tenant: None,
            buffered_events: default_buffer(),
            memory: false,
            extra: Map::new(),
        }
    }
}

fn default_buffer() -> usize {
    256
}

/// A duration as seconds.
mod seconds {
    use super::{Deserialize, Duration, Serializer};
    use serde::Deserializer;
    use serde::de::Error;

    #[expect(clippy::ref_option, reason = "serde hands the field over so")]
    pub(super) fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => serializer.serialize_some(&duration.as_secs_f64()),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Option::<f64>::deserialize(deserializer)?
            .map(|seconds| Duration::try_from_secs_f64(seconds).map_err(D::Error::custom))
            .transpose()
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

    /// Adds a message of `role` with images: encoded ones (PNG, JPEG, …), for a model that can see.
    #[must_use]
    pub fn message_with_images<'a>(
        mut self,
        role: &str,
        content: &str,
        images: impl IntoIterator<Item = &'a [u8]>,
    ) -> Self {
        self = self.message(role, content);
        let mut parts = vec![json!({"type": "text", "text": content})];
        parts.extend(
            images.into_iter().map(|image| json!({"type": "image_url", "image_url": {"url": data_url(image)}})),
        );
        if let Prompt::Messages(messages) = &mut self.prompt
            && let Some(message) = messages.last_mut()
        {
            message.insert("content".to_owned(), Value::Array(parts));
        }
        self
    }

    /// Offers a tool that the model may call: a function with its parameters as a JSON schema.
    #[must_use]
    pub fn tool(mut self, name: &str, description: &str, parameters: &Value) -> Self {
        let function = json!({"name": name, "description": description, "parameters": parameters});
        self.tools.push(json!({"type": "function", "function": function}));
        self
    }

    /// Has the model of this id answer.
    #[must_use]
    pub fn model(mut self, model_id: impl Into<String>) -> Self {
        self.model = Some(model_id.into());
        self
    }

    /// Ends the request so long after its submission.
    #[must_use]
    pub fn deadline(mut self, after: Duration) -> Self {
        self.deadline = Some(after);
        self
    }

    /// Keeps at most so many events for a slow reader.
    #[must_use]
    pub fn buffered_events(mut self, events: usize) -> Self {
        self.buffered_events = events;
        self
    }

    /// Tells of the model's memory between the tokens.
    #[must_use]
    pub fn with_memory(mut self) -> Self {
        self.memory = true;
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

/// An image inside a message, as `OpenAI`'s API has it.
fn data_url(image: &[u8]) -> String {
    let kind = match image {
        [0xff, 0xd8, ..] => "jpeg",
        [b'G', b'I', b'F', ..] => "gif",
        [b'R', b'I', b'F', b'F', ..] => "webp",
        _ => "png",
    };
    format!("data:image/{kind};base64,{}", BASE64.encode(image))
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
    fn images_tools_and_deadlines_are_said_as_openai_says_them() {
        let request = GenerateRequest::chat()
            .message_with_images("user", "What is it?", [&b"\xff\xd8\xff"[..], b"\x89PNG"])
            .tool("look", "Looks closer.", &json!({"type": "object"}))
            .deadline(Duration::from_millis(1500));
        let sent = serde_json::to_value(&request).expect("serializable");
        let parts = &sent["prompt"][0]["content"];
        assert_eq!(parts[0], json!({"type": "text", "text": "What is it?"}));
        assert_eq!(parts[1]["image_url"]["url"], "data:image/jpeg;base64,/9j/");
        assert_eq!(parts[2]["image_url"]["url"], "data:image/png;base64,iVBORw==");
        assert_eq!(sent["tools"][0]["function"]["name"], "look");
        assert_eq!(sent["deadline_s"], 1.5);
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
