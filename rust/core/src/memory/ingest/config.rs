//! config.json with the text model's part of it, which multimodal models nest.

use std::path::Path;

use serde_json::{Map, Value as Json};

use super::error::IngestError;
use super::files::read_at_most;

/// Names under which the settings of the text model are nested.
const NESTED: [&str; 4] = ["text_config", "language_config", "llm_config", "text_model"];
/// Settings of a multimodal model as a whole that hold for the text model within it.
const SHARED: [&str; 4] = ["vocab_size", "tie_word_embeddings", "dtype", "torch_dtype"];
/// Far above any config.json.
const LARGEST_BYTES: u64 = 16 << 20;

/// config.json.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Config {
    root: Map<String, Json>,
    nested: Option<&'static str>,
}

impl Config {
    pub(super) fn read(path: &Path) -> Result<Self, IngestError> {
        let text = read_at_most(path, LARGEST_BYTES)?;
        let json = serde_json::from_slice(&text);
        Self::of_json(json.map_err(|source| IngestError::Json { path: path.to_owned(), source })?)
    }

    pub(super) fn of_json(json: Json) -> Result<Self, IngestError> {
        let Json::Object(root) = json else { return Err(IngestError::Config("holds no JSON object")) };
        let nested = NESTED.into_iter().find(|name| root.get(*name).is_some_and(Json::is_object));
        let config = Self { root, nested };
        if config.model_types().next().is_none() {
            return Err(IngestError::Config("names no `model_type`"));
        }
        Ok(config)
    }

    /// What it says the model is: the whole, then the text model within it.
    pub(super) fn model_types(&self) -> impl Iterator<Item = &str> {
        let parts = [Some(&self.root), self.text()].into_iter().flatten();
        parts.filter_map(|part| part.get("model_type")?.as_str())
    }

    /// A setting of the text model; dots lead into what is nested. The whole is asked for what is of both, and for
    /// everything where no text model is nested.
    pub(super) fn get(&self, path: &str) -> Option<&Json> {
        let whole = (self.nested.is_none() || SHARED.contains(&path)).then_some(&self.root);
        let parts = [self.text(), whole].into_iter().flatten();
        parts.filter_map(|part| at(part, path)).find(|value| !value.is_null())
    }

    fn text(&self) -> Option<&Map<String, Json>> {
        self.root.get(self.nested?)?.as_object()
    }
}

fn at<'c>(part: &'c Map<String, Json>, path: &str) -> Option<&'c Json> {
    match path.split_once('.') {
        None => part.get(path),
        Some((first, rest)) => at(part.get(first)?.as_object()?, rest),
    }
}
